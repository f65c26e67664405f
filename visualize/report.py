"""One page that explains one loss: its graph, its derivation, its deltas, every use of a parameter.

The page is a single file without scripts: it opens offline, anywhere, and whatever labels say is
shown as text. A part that would be unreadable (a graph of thousands of nodes) says so in its place.
"""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygrad_bp import explain
from tinygrad_bp.explain.naming import names_of
from tinygrad_bp.graph import Node, topological_order
from tinygrad_bp.text import clean, number

from . import draw
from .files import write_text
from .policy import policy
from .themes import THEMES

MOST_PARAMETERS = 24  # whose uses are listed
CELL = 22.0  # of a heat map, in pixels


def report(
    loss: Node,
    path: str | os.PathLike[str] = "report.html",
    *,
    losses: Sequence[Node] | None = None,
    title: str = "",
    theme: str = "light",
) -> Path:
    """Write a page about the gradient of a loss.

    Args:
        loss: a Value, or a Tensor of one number.
        path: where to; a name that ends in `.html`.
        losses: the losses of the single time steps, `[L(1), ..., L(τ)]`, for the table over time;
            `loss` is their sum.
        title: the heading of the page.
        theme: `"light"` or `"dark"`.

    Returns:
        The path written.

    Raises:
        TypeError: loss is not a node.
        ValueError: it requires no gradient, has several elements, or the name ends otherwise.
        OSError: the file cannot be written.
    """
    if not isinstance(loss, Node):
        raise TypeError(f"report: loss must be a Value or a Tensor, got {type(loss).__name__}")
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"report: the name must end in .html, got {Path(path).name!r}")
    if theme not in THEMES:
        raise ValueError(f"report: theme must be one of {', '.join(THEMES)}, got {theme!r}")
    explain.deltas(loss)  # raises for what is no loss, before anything is drawn
    return write_text(
        path, page(title or "Where the gradient comes from", _parts(loss, losses, theme), theme)
    )


class Part(NamedTuple):
    """A section of the page."""

    title: str
    html: str


def _parts(loss: Node, losses: Sequence[Node] | None, theme: str) -> Iterator[Part]:
    leaves = _named_leaves(loss)
    yield _summary(loss, leaves)
    yield _part("The graph", lambda: _picture(loss, theme))
    yield _part("The derivation", lambda: explain.derive(loss).html())
    yield _part("Deltas", lambda: explain.deltas(loss).html())
    if losses is not None:
        yield _part("Through time", lambda: _through_time(losses, leaves, theme))
    yield _part("Every use of every parameter", lambda: _uses(loss, leaves))


def _part(title: str, content: Callable[[], str]) -> Part:
    """A section; where it would be unreadable, the reason stands in its place."""
    try:
        return Part(title, content())
    except ValueError as error:
        return Part(title, f'<p class="refused">{html.escape(clean(str(error)))}</p>')


def _named_leaves(loss: Node) -> dict[str, Node]:
    order = topological_order(loss)
    names = names_of(order)
    return {names[node]: node for node in order if node.is_leaf and node.label}


def _summary(loss: Any, leaves: dict[str, Node]) -> Part:
    nodes = topological_order(loss)
    number_of = sum(getattr(leaf, "size", 1) for leaf in leaves.values())
    names = ", ".join(list(leaves)[:12]) + (" …" if len(leaves) > 12 else "")
    text = (
        f"The loss is {number(float(loss.item()))}. It was computed in "
        f"{sum(not node.is_leaf for node in nodes)} operations from {len(leaves)} named leaves "
        f"({names}) with {number_of} numbers."
    )
    return Part("", f"<p>{html.escape(clean(text))}</p>")


def _picture(loss: Node, theme: str) -> str:
    picture = draw(loss, theme=theme, show=("data", "local"))
    svg = base64.b64encode(picture.svg.encode()).decode()
    return f'<img alt="The computation graph" src="data:image/svg+xml;base64,{svg}">'


def _uses(loss: Node, leaves: dict[str, Node]) -> str:
    parts = [
        explain.contributions(loss, leaf).html() for leaf in list(leaves.values())[:MOST_PARAMETERS]
    ]
    more = len(leaves) - MOST_PARAMETERS
    return "\n".join(parts) + (f"<p>… and {more} more</p>" if more > 0 else "")


def _through_time(losses: Sequence[Node], leaves: dict[str, Node], theme: str) -> str:
    parts = []
    for name, leaf in leaves.items():
        try:
            table = explain.through_time(losses, leaf)
        except ValueError:  # a parameter that is used outside of the steps
            continue
        if len(table.steps) > 1:
            picture = heat_map(table.norms, table.mask, table.times, table.steps, theme)
            parts.append(
                f'<h3>{html.escape(name)}</h3>\n<div class="wide">{picture}</div>\n{table.html()}'
            )
    if not parts:
        raise ValueError("no parameter is used at more than one time step")
    return "\n".join(parts)


def heat_map(
    norms: Any, mask: Any, times: Sequence[int], steps: Sequence[int], theme: str = "light"
) -> str:
    """A table of norms as squares, as SVG: the darker, the larger, on a logarithmic scale.

    Args:
        norms: shape (times, steps).
        mask: which of them there are, in the same shape.
        times, steps: what the rows and the columns are called.
        theme: `"light"` or `"dark"`.
    """
    colours, left, top = THEMES[theme], 56.0, 34.0
    shown = norms[mask & (norms > 0.0)]
    low, high = (np.log10(shown.min()), np.log10(shown.max())) if shown.size else (0.0, 0.0)
    width, height = left + CELL * len(steps) + 12.0, top + CELL * len(times) + 12.0
    text = f'font-family="monospace" font-size="11" fill="{colours["text"]}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img">',
        f"<title>norms by time of the loss and step of the use, from {low:.1f} to {high:.1f} in "
        "powers of ten</title>",
        f'<text x="{left:g}" y="12" {text}>step k of the use</text>',
        f'<text x="2" y="{top - 6:g}" {text}>time t</text>',
    ]
    for j, k in enumerate(steps):
        if j % _every(len(steps)) == 0:
            x = left + CELL * (j + 0.5)
            lines.append(f'<text x="{x:g}" y="{top - 6:g}" text-anchor="middle" {text}>{k}</text>')
    for i, t in enumerate(times):
        y = top + CELL * i
        if i % _every(len(times)) == 0:
            lines.append(
                f'<text x="{left - 8:g}" y="{y + 15:g}" text-anchor="end" {text}>{t}</text>'
            )
        for j, k in enumerate(steps):
            if mask[i, j]:
                share = _share(norms[i, j], low, high)
                lines.append(
                    f'<rect x="{left + CELL * j:g}" y="{y:g}" width="{CELL - 1:g}" '
                    f'height="{CELL - 1:g}" fill="{colours["inner border"]}" '
                    f'fill-opacity="{share:.2f}" stroke="{colours["constant edge"]}" '
                    f'stroke-width="0.5"><title>t = {t}, k = {k}: {norms[i, j]:.4g}</title></rect>'
                )
    return "\n".join([*lines, "</svg>"])


def _every(count: int) -> int:
    return -(-count // 24)


def _share(norm: float, low: float, high: float) -> float:
    """How dark a square is: 0 for nothing, else from a tenth to all."""
    if not norm > 0.0:
        return 0.0
    return 0.1 + 0.9 * (np.log10(norm) - low) / (high - low) if high > low else 1.0


# --- the page -----------------------------------------------------------------------------------

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
       background: BACKGROUND; color: TEXT; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; margin: 1rem 0; font: 14px/1.4 ui-monospace, monospace; }
caption { text-align: left; padding: .3rem 0; font-weight: bold; }
th, td { border-bottom: 1px solid LINE; padding: .2rem .7rem; text-align: left; }
img { max-width: 100%; height: auto; } .wide { overflow-x: auto; }
section { overflow-x: auto; } pre { overflow-x: auto; } .refused { color: QUIET; }
math { font-size: 1.1rem; white-space: nowrap; }
"""


def _section(part: Part) -> str:
    heading = f"<h2>{html.escape(part.title)}</h2>\n" if part.title else ""
    return f"<section>\n{heading}{part.html}\n</section>"


def page(title: str, parts: Iterator[Part], theme: str) -> str:
    """The sections as one HTML file, which loads nothing and runs nothing."""
    colours = THEMES[theme]
    style = STYLE
    for name, key in {"BACKGROUND": "background", "TEXT": "text", "LINE": "constant edge",
                      "QUIET": "quiet"}.items():  # fmt: skip
        style = style.replace(name, colours[key])
    heading = html.escape(clean(title))
    body = "\n".join(map(_section, parts))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy(style, images="data:")}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{heading}</title>
<style>{style}</style>
</head>
<body>
<h1>{heading}</h1>
{body}
</body>
</html>
"""
