"""Graphviz: its places for boxes and lines, which our writer draws, and graphs in its language.

Graphviz comes with the package pygraphviz (extra `dot`), or is the installed program `dot`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from .scene import Scene
from .shapes import Layout, Point, Rectangle, Route, Size

MARGIN = 16.0
POINTS = 72.0  # per inch


def by_graphviz(
    sizes: Sequence[Size], edges: Sequence[tuple[int, int, Size | None]], direction: str
) -> Layout:
    """The layout that Graphviz's `dot` finds.

    Raises:
        ImportError: neither pygraphviz nor the program `dot` is installed.
        RuntimeError: it failed.
    """
    return _read(json.loads(_run(_source(sizes, edges, direction))), edges)


def _source(
    sizes: Sequence[Size], edges: Sequence[tuple[int, int, Size | None]], direction: str
) -> str:
    """Boxes and labels as shapes of fixed size, known by numbers: no text of ours is in it."""
    lines = [f"digraph {{ rankdir={direction}; nodesep=0.25; ranksep=0.6;",
             'node [shape=box, fixedsize=true, label=""]; edge [arrowhead=none];']  # fmt: skip
    for i, (w, h) in enumerate(sizes):
        lines.append(f"n{i} [width={w / POINTS:.6f}, height={h / POINTS:.6f}];")
    for i, (source, target, size) in enumerate(edges):
        label = ""
        if size is not None:
            cell = f'FIXEDSIZE="TRUE" WIDTH="{size[0]:.0f}" HEIGHT="{size[1]:.0f}"'
            label = f', label=<<TABLE BORDER="0" {cell}><TR><TD></TD></TR></TABLE>>'
        lines.append(f'n{source} -> n{target} [id="{i}"{label}];')
    return "\n".join([*lines, "}"])


def _run(source: str) -> str:
    """What `dot` makes of a source, in JSON."""
    try:
        import pygraphviz
    except ImportError:
        program = shutil.which("dot")
        if program is None:
            raise ImportError(
                "draw: layout='dot' needs Graphviz, which the extra `dot` installs: pip install "
                "'tinygrad_bp[dot]', or an installed program `dot`"
            ) from None
        run = subprocess.run(
            [program, "-Tjson"], input=source, capture_output=True, text=True, check=False
        )
        if run.returncode:
            raise RuntimeError(f"draw: dot failed: {run.stderr[:150]}") from None
        return run.stdout
    drawn: bytes = pygraphviz.AGraph(string=source).draw(format="json", prog="dot")
    return drawn.decode()


def _read(drawn: dict[str, Any], edges: Sequence[tuple[int, int, Size | None]]) -> Layout:
    left, low, right, high = map(float, drawn["bb"].split(","))

    def point(text: str) -> Point:
        x, y = map(float, text.split(","))  # their y grows upwards
        return round(x - left + MARGIN, 2), round(high - y + MARGIN, 2)

    boxes: dict[int, Rectangle] = {}
    for node in drawn.get("objects", []):
        x, y = point(node["pos"])
        w, h = float(node["width"]) * POINTS, float(node["height"]) * POINTS
        boxes[int(node["name"][1:])] = Rectangle(
            round(x - w / 2, 2), round(y - h / 2, 2), round(w, 2), round(h, 2)
        )
    routes: dict[int, Route] = {}
    for edge in drawn.get("edges", []):
        i = int(edge["id"])
        size = edges[i][2]
        points = [point(text) for text in edge["pos"].split() if not text.startswith(("e,", "s,"))]
        place = None
        if size is not None:
            x, y = point(edge["lp"])
            place = Rectangle(x - size[0] / 2, y - size[1] / 2, *size)
        routes[i] = Route(tuple(points), place, False, "bezier")
    width, height = right - left + 2 * MARGIN, high - low + 2 * MARGIN
    return Layout(
        tuple(boxes[i] for i in range(len(boxes))),
        tuple(routes[i] for i in range(len(edges))),
        round(width, 2),
        round(height, 2),
    )


def digraph(scene: Scene, direction: str = "LR") -> Any:
    """A scene as a `graphviz.Digraph`, whose labels mean nothing but themselves.

    Raises:
        ImportError: the package graphviz is not installed.
    """
    import graphviz

    graph = graphviz.Digraph(graph_attr={"rankdir": direction}, node_attr={"shape": "box"})
    for i, box in enumerate(scene.boxes):
        title = " ".join(filter(None, (box.label, box.symbol)))
        lines = [title, *(" ".join(filter(None, row)) for row in box.rows)]
        style = {"constant": "dashed", "leaf": "rounded"}.get(box.kind, "solid")
        text = _literal("\n".join(filter(None, lines)))
        graph.node(f"n{i}", text, style=style, tooltip=_literal("\n".join(box.details)))
    for edge in scene.edges:
        graph.edge(f"n{edge.source}", f"n{edge.target}", _literal(edge.text))
    return graph


def _literal(text: str) -> str:
    r"""Text in which `\n` is no line break, `\N` no name, `&amp;` no `&` and `<b>` no markup."""
    text = text.replace("\\", "\\\\").replace("&", "&amp;")
    text = re.sub("^<", "&lt;", re.sub(">$", "&gt;", text))
    return text.replace("\n", "\\n")
