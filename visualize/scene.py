"""The scene: what is drawn of a graph, as boxes and edges of text. No geometry, no colours.

A node becomes a box, and every use of a node an edge: `a + a` has two. Where scopes are collapsed
one box stands for many nodes. A scene is a snapshot: it holds texts and not nodes, so a later sweep
changes no picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .summaries import Row

# What can be shown of a graph: in boxes and, from `local` on, at edges.
SHOWN = ("data", "grad", "local", "contribution")


class Heat(NamedTuple):
    """Numbers of an array as a small map of colours.

    Attributes:
        heading: what they are, `data` or `grad`.
        cells: rows of numbers from -1 to 1, relative to the largest; None where one is nan.
        largest: the largest absolute value, as text.
    """

    heading: str
    cells: tuple[tuple[float | None, ...], ...]
    largest: str


class Box(NamedTuple):
    """One node or constant, or several as one, as texts.

    Attributes:
        kind: `"leaf"`, `"inner"`, `"constant"`, or `"group"` for several nodes.
        label: the name its user gave it, on one line; empty if none.
        symbol: the operation; empty for leaves and constants.
        rows: pairs of a heading and what stands behind it, such as `("data", "4")`.
        is_compact: whether `label = data` on a single line says it all.
        is_root: whether this is the node that was asked for.
        is_ordered: whether exchanging its operands would change its value.
        scope: the path of the region of the program in which the node was made.
        name: what the listing calls it: the label, or a number.
        formula: how it is computed, in terms of these names; empty for leaves and constants.
        details: lines that tell everything in full.
        heat: maps of its numbers.
        emphasis: `"high"` or `"dim"` where something is highlighted, else empty.
        step: the time step, or None.
        quantity: which quantity it is, the same at every step.
        layer: the path of the modules it was made in, without the time step.
        was_step: of a constant, the time step in its name: a state that was detached.
    """

    kind: str
    label: str
    symbol: str
    rows: tuple[Row, ...]
    is_compact: bool
    is_root: bool
    is_ordered: bool
    scope: str
    name: str
    formula: str
    details: tuple[str, ...]
    heat: tuple[Heat, ...] = ()
    emphasis: str = ""
    step: int | None = None
    quantity: str = ""
    layer: str = ""
    was_step: int | None = None


class Edge(NamedTuple):
    """One use of a box by another.

    Attributes:
        source, target: their places in the scene: the operand and its user.
        text: the local derivative, or the name of the pullback; empty where there is none to show.
        details: lines that tell the same in full.
        flows: whether a gradient flows here.
        emphasis: as a box's.
    """

    source: int
    target: int
    text: str
    details: str
    flows: bool = True
    emphasis: str = ""


class Scene(NamedTuple):
    """Boxes, each after those it was computed from, and edges, by target and then by operand.

    Attributes:
        note: what was left out of the picture, for its reader; empty if nothing was.
        strip: under the time steps, a name and the norm of a gradient for each of them.
    """

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    note: str = ""
    strip: tuple[str, dict[int, float]] | None = None


def listing(scene: Scene) -> str:
    """The scene as a table of text: a line per node, with its formula, numbers and derivatives."""
    shown = [i for i, box in enumerate(scene.boxes) if not (box.is_compact and not box.label)]
    shown = shown or [len(scene.boxes) - 1]
    locals_of: dict[int, list[str]] = {}
    for edge in scene.edges:
        if edge.text:
            name = scene.boxes[edge.source].name
            locals_of.setdefault(edge.target, []).append(f"{name}: {edge.text}")
    table = [("node", "=", "data", "grad", "local derivatives")]
    for i in shown:
        box = scene.boxes[i]
        table.append(
            (
                box.name,
                box.formula or box.kind,
                _cell(box, "data"),
                _cell(box, "grad"),
                ", ".join(locals_of.get(i, [])),
            )
        )
    text = aligned(table)
    return f"{text}\n{scene.note}" if scene.note else text


def aligned(table: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text in columns."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in table
    )


def _cell(box: Box, heading: str) -> str:
    """All rows under a heading in one: rows without a heading continue the one above."""
    cells: list[str] = []
    current = ""
    for name, value in box.rows:
        current = name or current
        if current == heading or (current == "shape" and heading == "data"):
            cells.append(value)
    return " ".join(cells)
