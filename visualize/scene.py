"""The scene: what is drawn of a graph, as boxes and edges of text. No geometry, no colours.

Every node becomes one box, and every use of a node one edge: `a + a` has two. A scene is a
snapshot: it holds texts and not nodes, so a later sweep changes no picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tinygrad_bp.graph import Node, Segment, topological_order

from .text import clean, number, shorten

# How an operation is drawn, where its name is not what a reader would write.
SYMBOLS = {
    "add": "+",
    "subtract": "−",
    "multiply": "×",
    "divide": "÷",
    "negative": "−x",
    "power": "xʸ",
    "square": "x²",
    "sqrt": "√x",
    "absolute": "|x|",
    "matmul": "@",
    "sum": "Σ",
    "scaled_sum": "c·Σ",
    "transpose": "xᵀ",
    "getitem": "x[i]",
}
# How it is written between its operands, in the listing.
INFIX = {"add": "+", "subtract": "−", "multiply": "×", "divide": "÷", "matmul": "@", "power": "**"}
# Exchanging the operands of these does not matter, so the layout may.
COMMUTATIVE = {"add", "multiply", "maximum", "minimum", "hypot", "logaddexp"}

SMALL_ARRAY = 6  # elements; larger arrays are summarised
PER_LINE = 3  # of them
UNASKED = "–"  # for a gradient before any sweep: it is not zero, nobody has asked yet


class Box(NamedTuple):
    """One node or constant, as texts.

    Attributes:
        kind: `"leaf"`, `"inner"` or `"constant"`.
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
    """

    kind: str
    label: str
    symbol: str
    rows: tuple[tuple[str, str], ...]
    is_compact: bool
    is_root: bool
    is_ordered: bool
    scope: str
    name: str
    formula: str
    details: tuple[str, ...]


class Edge(NamedTuple):
    """One use of a box by another: their places in the scene, and the local derivative.

    Attributes:
        source, target: the operand and its user.
        text: the local derivative, or the name of the pullback; empty where no gradient flows.
        details: a line that tells the same in full.
    """

    source: int
    target: int
    text: str
    details: str


class Scene(NamedTuple):
    """Boxes, each after those it was computed from, and edges, by target and then by operand."""

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]


class _Thing(NamedTuple):
    """What becomes a box: a node or a constant operand, and the places of its operands."""

    content: Any
    operands: tuple[int, ...]


def scene_of(root: Node, max_nodes: int) -> Scene:
    """The scene of all that a node was computed from.

    Args:
        root: a Value or a Tensor.
        max_nodes: the most boxes there may be.

    Raises:
        ValueError: the graph has more nodes and constants.
    """
    things = _things(root)
    if len(things) > max_nodes:
        raise ValueError(
            f"draw: the graph has {len(things)} nodes and constants, more than max_nodes="
            f"{max_nodes}; draw a node closer to the leaves, a smaller network or fewer time "
            "steps, or pass a larger max_nodes"
        )
    names = _names(things)
    boxes = tuple(_box(thing, thing.content is root, names, i) for i, thing in enumerate(things))
    return Scene(boxes, tuple(_edges(things, names)))


def _things(root: Node) -> list[_Thing]:
    things: list[_Thing] = []
    place: dict[int, int] = {}  # of a node by its identity, since `==` of nodes compares data

    def add(content: Any, operands: tuple[int, ...]) -> int:
        things.append(_Thing(content, operands))
        return len(things) - 1

    for node in topological_order(root):
        if isinstance(node, Segment):
            continue  # its results stand for it
        operands = []
        for i, operand in enumerate(_source(node).operands):
            if not isinstance(operand, Node):
                # A box at every use: two 2.0 are no shared quantity, even where Python keeps one
                # object for both.
                operands.append(add(_recorded(node, i), ()))
            elif id(operand) in place:
                operands.append(place[id(operand)])
            else:
                operands.append(add(operand, ()))
                place[id(operand)] = operands[-1]
        place[id(node)] = add(node, tuple(operands))
    return things


def _source(node: Node) -> Node:
    """The node that knows what this one was computed from: for the result of a segment, that."""
    return node.x if isinstance(node.x, Segment) else node


def _recorded(node: Node, i: int) -> Any:
    """The i-th operand as it was when it was used: its owner may have written to it since."""
    for local in node.locals:
        if hasattr(local, "operands"):
            return local.operands[i]
    return node.operands[i]


def _names(things: list[_Thing]) -> list[str]:
    """For each thing its label, numbered if others have the same, or `v1`, `v2`, ...

    A constant without a label is called by its number.
    """
    labels = [shorten(_label(thing.content), 12.0) for thing in things]
    count = Counter(labels)
    given: Counter[str] = Counter()
    names = []
    for thing, label in zip(things, labels, strict=True):
        if not label and _kind(thing.content) == "constant" and _is_number(thing.content):
            names.append(number(_numbers(thing.content).item()))
            continue
        given[label] += 1
        if not label:
            while f"v{given['']}" in count:  # somebody's label
                given[""] += 1
            names.append(f"v{given['']}")
        else:
            names.append(label if count[label] == 1 else f"{label}#{given[label]}")
    return names


# --- boxes --------------------------------------------------------------------------------------


def _box(thing: _Thing, is_root: bool, names: list[str], place: int) -> Box:
    content = thing.content
    kind = _kind(content)
    rule = content.rule.name if kind == "inner" else ""
    operands = [names[i] for i in thing.operands]
    return Box(
        kind=kind,
        label=_label(content),
        symbol=SYMBOLS.get(rule, clean(rule)),
        rows=tuple(_rows(content, kind)),
        is_compact=kind == "constant" and _is_number(content),
        is_root=is_root,
        is_ordered=len(operands) > 1 and rule not in COMMUTATIVE,
        scope=_scope(content),
        name=names[place],
        formula=_formula(rule, operands),
        details=tuple(_details(content, kind, rule)),
    )


def _kind(content: Any) -> str:
    if not isinstance(content, Node) or not content.requires_grad:
        return "constant"
    return "leaf" if content.is_leaf else "inner"


def _label(content: Any) -> str:
    return clean(content.label) if isinstance(content, Node) else ""


def _scope(content: Any) -> str:
    return clean(content.scope.path) if isinstance(content, Node) else ""


def _is_number(content: Any) -> bool:
    return getattr(content, "shape", ()) == ()


def _numbers(content: Any) -> Any:
    """The data of a node or constant, as an array. A Tensor's `.data` would count as a write."""
    if isinstance(content, Node) and not hasattr(content, "shape"):
        content = content.data  # type: ignore[attr-defined]
    return np.asarray(content)


def _rows(content: Any, kind: str) -> Iterator[tuple[str, str]]:
    data = _numbers(content)
    if data.ndim > 0:
        yield "shape", str(data.shape)
    yield from _summary("data", data)
    if kind != "constant":
        if content.grad is None:
            yield "grad", UNASKED
        else:
            yield from _summary("grad", np.asarray(content.grad))


def _summary(heading: str, data: Any) -> Iterator[tuple[str, str]]:
    """The numbers of an array if they are few, else their mean and range."""
    if data.size == 0:
        lines = ["empty"]
    elif data.size <= SMALL_ARRAY and data.ndim <= 2:
        lines = _lines(data)
    else:
        with np.errstate(all="ignore"):  # nan and inf are what a reader looks for
            mean, low, high = (number(float(f(data))) for f in (np.mean, np.min, np.max))
        lines = [f"mean {mean}", f"{low} … {high}"]
    yield heading, lines[0]
    for line in lines[1:]:
        yield "", line


def _lines(data: Any) -> list[str]:
    """A few numbers as `[1, 2]`: a line for each row, or more if it has many."""
    if data.ndim == 0:
        return [number(data.item())]
    if data.ndim == 2:
        return [line for row in data for line in _lines(row)]
    texts = [number(x) for x in data.ravel().tolist()]
    parts = [", ".join(texts[i : i + PER_LINE]) for i in range(0, len(texts), PER_LINE)]
    return f"[{',|'.join(parts)}]".split("|")


def _formula(rule: str, operands: list[str]) -> str:
    if rule in INFIX and len(operands) == 2:
        return f"{operands[0]} {INFIX[rule]} {operands[1]}"
    return f"{rule}({', '.join(operands)})" if rule else ""


def _details(content: Any, kind: str, rule: str) -> Iterator[str]:
    if _label(content):
        yield _label(content)
    yield f"{kind}: {clean(rule)}" if rule else kind
    if _scope(content):
        yield f"in {_scope(content)}"
    data = _numbers(content)
    if data.ndim == 0:
        yield f"data = {data.item()!r}"
        if kind != "constant" and content.grad is not None:
            yield f"grad = {np.asarray(content.grad).item()!r}"
    else:
        yield f"shape {data.shape}, {data.dtype}"


# --- edges --------------------------------------------------------------------------------------


def _edges(things: list[_Thing], names: list[str]) -> Iterator[Edge]:
    for target, thing in enumerate(things):
        for i, source in enumerate(thing.operands):
            local = _source(thing.content).locals[i]
            of = f"{names[source]} → {names[target]}, operand {i + 1} of {thing.content.rule.name}"
            yield Edge(source, target, *_derivative(local, clean(of)))


def _derivative(local: Any, of: str) -> tuple[str, str]:
    if local is None:
        return "", f"{of}: no gradient flows here"
    if isinstance(local, (int, float)):
        return number(local), f"{of}: local derivative {float(local)!r}"
    name = clean(str(getattr(local, "name", type(local).__name__)))
    return name, f"{of}: pullback {name}"


# --- the scene as text --------------------------------------------------------------------------


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
