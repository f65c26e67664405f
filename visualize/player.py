"""The player: a page that steps through a computation and its backward sweep.

The page is one file: the drawing, every step and every sum as plain HTML, which is all there to be
read with scripts off, and a small script that shows one step at a time. It needs no network and no
library, and its policy allows nothing but this script and this style sheet, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Container
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_bp.graph import Node

from .consumers import section
from .equations import figure, html, text
from .files import write_text
from .scene import UNASKED, Box, Scene, _summary as summary
from .story import Moment, Story, story_of
from .svg import THEMES, render
from .text import clean

# The colours of what is pointed at: at least 3 to 1 against the background (WCAG 1.4.11).
POINTERS = {
    "light": {"visited": "#c2006b", "asked": "#00695c", "raised": "#eef2f7", "line": "#ccd3dc"},
    "dark": {"visited": "#ff7ab8", "asked": "#4fd8c4", "raised": "#222a35", "line": "#3c4654"},
}


class Player:
    """A page that plays a computation. A notebook shows it; elsewhere `save` it and open the file.

    Attributes:
        html: the page, complete in itself.
        text: the steps as text.
    """

    __slots__ = ("_title", "html", "text")

    def __init__(self, html: str, text: str, title: str) -> None:
        self.html = html
        self.text = text
        self._title = title

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to a file, all of it or nothing.

        Args:
            path: where to; a name that ends in `.html`.

        Returns:
            The path written.

        Raises:
            TypeError: the path is not a str or a path.
            ValueError: the name has another ending.
            OSError: the file cannot be written.
        """
        return write_text(_checked_path(path), self.html)

    def _repr_mimebundle_(
        self, include: Container[str] | None = None, exclude: Container[str] | None = None
    ) -> dict[str, str]:
        """The page in a frame of its own, which can run its script and reach nothing else."""
        frame = (
            f'<iframe sandbox="allow-scripts" title="{escape(self._title)}" width="100%" '
            f'height="760" frameborder="0" srcdoc="{escape(self.html)}"></iframe>'
        )
        bundle = {"text/html": frame, "text/plain": self.text}
        return {
            kind: content
            for kind, content in bundle.items()
            if (not include or kind in include) and not (exclude and kind in exclude)
        }

    def __repr__(self) -> str:
        return self.text


def play(
    node: Node,
    path: str | os.PathLike[str] | None = None,
    *,
    title: str = "Forward pass and backward sweep",
    max_nodes: int = 300,
    theme: str = "light",
) -> Player:
    """A page that steps through a computation: the forward pass, then the backward sweep.

    At each step it shows the equation with its numbers, the node that is visited, and what every
    gradient has become so far. A click on a node shows the sum over its consumers, each with its
    contribution. All numbers are the engine's; no `.grad` is read or written.

    Args:
        node: the result of the computation, a single number.
        path: where to write the page, if anywhere; a name that ends in `.html`.
        title: the heading of the page.
        max_nodes: refuse graphs of more nodes and constants; they would be no page to read.
        theme: `"light"` or `"dark"`.

    Returns:
        The page: shown by a notebook, or written by `save()`.

    Raises:
        TypeError: an argument is of another type.
        ValueError: the graph is too large; node requires no gradient, is several numbers, or was
            computed through `checkpoint()`; or there is no such theme.
        RuntimeError: a leaf has been written to since the computation.
        OSError: the file cannot be written.

    Example:
        >>> from tinygrad_bp import Value
        >>> a = Value(3.0, "a")
        >>> print(play(a * a))
        forward   L = a · a = 3 · 3 = 9
        backward  δ = ∂L/∂L = 1: the sweep begins here
                  a.grad += a · δ = 3 · 1 = 3
                  a.grad += a · δ = 3 · 1 = 3, together 6
                  ∂L/∂a = 6: complete, 2 contributions; a leaf, nothing to hand on
    """
    if not isinstance(node, Node):
        hint = "; play one element, or their sum" if hasattr(node, "flat") else ""
        raise TypeError(f"play: node must be a Value or a Tensor, got {type(node).__name__}{hint}")
    if isinstance(max_nodes, bool) or not isinstance(max_nodes, int):
        raise TypeError(f"play: max_nodes must be an int, got {type(max_nodes).__name__}")
    for name, given in (("title", title), ("theme", theme)):
        if not isinstance(given, str):
            raise TypeError(f"play: {name} must be a str, got {type(given).__name__}")
    if theme not in THEMES:
        raise ValueError(f"play: theme must be one of {', '.join(THEMES)}, got {theme!r}")
    if path is not None:
        _checked_path(path)
    story = story_of(node, max_nodes)
    player = Player(_page(story, clean(title), theme), _listing(story), clean(title))
    if path is not None:
        player.save(path)
    return player


def _checked_path(path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"play: path must be a str or a path, got {type(path).__name__}")
    given = Path(path)
    if given.suffix.lower() != ".html":
        raise ValueError(f"play: the name must end in .html, got {given.name!r}")
    return given


def _listing(story: Story) -> str:
    """The steps as text."""
    lines, before = [], ""
    for moment in story.moments:
        if moment.phase in ("forward", "backward"):
            for line in moment.lines:
                lines.append(f"{moment.phase if moment.phase != before else '':10}{text(line)}")
                before = moment.phase
    return "\n".join(lines)


# --- the page -----------------------------------------------------------------------------------


def _page(story: Story, title: str, theme: str) -> str:
    script = files(__package__).joinpath("player.js").read_text(encoding="utf-8")
    style = _colours(theme) + files(__package__).joinpath("player.css").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "title": escape(title),
        "policy": policy,
        "theme": theme,
        "style": style,
        "picture": render(_with_gradients(story), "LR", theme),
        "steps": "\n".join(_step(k, moment, story) for k, moment in enumerate(story.moments)),
        "sums": "\n".join(
            section(story, i) for i in range(len(story.terms)) if _is_named(story, i)
        ),
        "data": _json(_data(story, theme)),
        "script": script,
    }
    page = files(__package__).joinpath("player.html").read_text(encoding="utf-8")
    before, *pieces = page.split("{{")  # one pass: no text is searched for marks
    return before + "".join(
        parts[name] + rest for name, _, rest in (piece.partition("}}") for piece in pieces)
    )


def _colours(theme: str) -> str:
    colours = {**THEMES[theme], **POINTERS[theme]}
    names = ("background", "text", "quiet", "gradient", "visited", "asked", "raised", "line")
    declared = "".join(f"--{name}:{colours[name]};" for name in names)
    return f":root{{color-scheme:{theme};{declared}}}\n"


def _hash(source: str) -> str:
    digest = hashlib.sha256(source.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _json(data: Any) -> str:
    """JSON that ends no script element and no line of one."""
    encoded = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        encoded = encoded.replace(character, f"\\u{ord(character):04x}")
    return encoded


def _is_named(story: Story, i: int) -> bool:
    """Whether it is more than a number that stands in an equation."""
    box = story.scene.boxes[i]
    return not box.is_compact or bool(box.label)


# --- the drawing --------------------------------------------------------------------------------


def _with_gradients(story: Story) -> Scene:
    """The scene with a name and a gradient in every box, and room for what leads up to it."""
    room = _room(story)
    boxes = [_with_gradient(story, i, box, room) for i, box in enumerate(story.scene.boxes)]
    return story.scene._replace(boxes=tuple(boxes))


def _with_gradient(story: Story, i: int, box: Box, room: dict[int, list[int]]) -> Box:
    if box.label or not box.is_compact:
        box = box._replace(label=story.terms[i].name)
    if i not in story.gradients:
        return box
    headings = [heading for heading, _ in box.rows]
    rows = box.rows[: headings.index("grad")] if "grad" in headings else box.rows
    lines = _lines(story.gradients[i])
    padded = [line.rjust(n, "\xa0") for line, n in zip(lines, room[i], strict=True)]
    heads = ["grad", *[""] * (len(lines) - 1)]
    return box._replace(rows=(*rows, *zip(heads, padded, strict=True)))


def _room(story: Story) -> dict[int, list[int]]:
    """For each line of each gradient, the longest text that it is going to show."""
    room: dict[int, list[int]] = {}
    for moment in story.moments:
        for total in moment.sums:
            lengths = [len(line) for line in _lines(total.sofar)]
            room[total.box] = list(map(max, lengths, room.get(total.box, lengths)))
    return room


def _lines(x: Any) -> list[str]:
    """A gradient as the box shows it."""
    return [line for _, line in summary("grad", np.asarray(x))]


# --- what is there to be read -------------------------------------------------------------------


def _step(k: int, moment: Moment, story: Story) -> str:
    name = "" if moment.visited is None else story.terms[moment.visited].name
    lines = "".join(f"<p>{html(line)}</p>" for line in moment.lines)
    return (
        f'<tr id="s{k}"><th scope="row">{k}</th><td>{moment.phase}</td>'
        f"<td><bdi>{escape(name)}</bdi></td><td>{lines}</td></tr>"
    )


# --- what the script needs ----------------------------------------------------------------------


def _data(story: Story, theme: str) -> dict[str, Any]:
    return {
        "colour": THEMES[theme]["gradient"],  # of the texts in the drawing that are gradients
        "unasked": UNASKED,
        "boxes": [_box(story, i) for i in range(len(story.terms))],
        "edges": [[edge.source, edge.target] for edge in story.scene.edges],
        "steps": [_moment(moment) for moment in story.moments],
    }


def _box(story: Story, i: int) -> dict[str, Any]:
    term = story.terms[i]
    shown = figure(term.data)
    return {
        "name": term.name,
        "named": _is_named(story, i),
        "what": story.kinds[i],
        "data": [shown.text, shown.full],
        "swept": i in story.gradients,
        "uses": len(story.contributions.get(i, [])),
    }


def _moment(moment: Moment) -> dict[str, Any]:
    sums = []
    for total in moment.sums:
        shown = figure(total.sofar)
        sums.append([total.box, total.arrived, shown.text, shown.full, _lines(total.sofar)])
    return {
        "phase": moment.phase,
        "visited": moment.visited,
        "edges": moment.edges,
        "sums": sums,
    }
