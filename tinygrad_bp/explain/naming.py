"""What a reader calls the nodes of a graph: by their labels, time steps and layers.

A label is what `named` or the user gave (`z1`, `h(3)`, `W`). Where a cell calls a quantity `z` at
every time step, the step is that of the scope it was made in: `z(3)`. An element of an array of
Values is labelled `z1[0, 2]`, and belongs to the quantity `z1`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from tinygrad_bp.graph import Node
from tinygrad_bp.text import clean

_ELEMENT = re.compile(r"^(.*?)\[(\d+(?:, ?\d+)*)?\]$", re.DOTALL)
_STEP = re.compile(r"\((-?\d+)\)$")


class Place(NamedTuple):
    """Where a node stands in the program.

    Attributes:
        name: its label with the time step and without the index of an element: `z1`, `h(3)`; empty
            where it has none.
        symbol: the name without the time step: `z1`, `h`.
        step: the time step, or None.
        layer: the path of the modules it was made in, without time steps: `mlp/layer1`.
        element: which element of an array of Values it is, or None.
    """

    name: str
    symbol: str
    step: int | None
    layer: str
    element: tuple[int, ...] | None


def place_of(node: Node) -> Place:
    """Where a node stands: a leaf belongs to no step, whatever scope it was made in."""
    symbol, element = clean(node.label), None
    of_array = _ELEMENT.match(symbol)
    if of_array:
        symbol = of_array[1]
        element = tuple(int(i) for i in (of_array[2] or "").split(",") if i)
    step = None if node.is_leaf else step_of(node)
    written = _STEP.search(symbol)
    if written:
        symbol, step = symbol[: written.start()], int(written[1])
    name = symbol if step is None or not symbol else f"{symbol}({step})"
    return Place(name, symbol, step, layer_of(node), element)


def step_of(node: Node) -> int | None:
    """The index of the innermost numbered scope that the node was made in: its time step."""
    scope = node.scope
    while scope is not None:
        if scope.index is not None:
            return scope.index
        scope = scope.outer  # type: ignore[assignment]
    return None


def layer_of(node: Node) -> str:
    """The path of the scopes that the node was made in, without the numbered ones."""
    names = []
    scope = node.scope
    while scope is not None and scope.outer is not None:
        if scope.index is None:
            names.append(clean(scope.name))
        scope = scope.outer
    return "/".join(reversed(names))


def names_of(nodes: Iterable[Node]) -> dict[Node, str]:
    """A different name for each node: its own, numbered if others have the same, or `v1`, `v2`...

    Args:
        nodes: in the order in which they are to be numbered.
    """
    nodes = list(nodes)
    own = [_own_name(node) for node in nodes]
    count = Counter(own)
    given: Counter[str] = Counter()
    names = {}
    for node, name in zip(nodes, own, strict=True):
        given[name] += 1
        if name:
            names[node] = name if count[name] == 1 else f"{name}#{given[name]}"
            continue
        while f"v{given['']}" in count:  # somebody's label
            given[""] += 1
        names[node] = f"v{given['']}"
    return names


def _own_name(node: Node) -> str:
    if not node.label:  # most nodes of a large graph: where they stand does not matter here
        return ""
    place = place_of(node)
    if place.element is None or not place.name:
        return place.name
    return f"{place.name}[{', '.join(map(str, place.element))}]"
