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
from tinygrad_bp.recording import Scope
from tinygrad_bp.text import clean

# A number of more digits counts nothing that could be recorded.
_ELEMENT = re.compile(r"^(.*?)\[([0-9]{1,18}(?:, ?[0-9]{1,18})*)?\]$", re.DOTALL)
_STEP = re.compile(r"\((-?[0-9]{1,18})\)$")


class Place(NamedTuple):
    """Where a node stands in the program.

    Attributes:
        name: its label with the time step and without the index of an element: `z1`, `h(3)`; empty
            where it has none.
        symbol: the name without the time step: `z1`, `h`.
        step: the time step, or None.
        layer: the path of the modules it was made in, without the time step: `mlp/layer1`.
        element: which element of an array of Values it is, or None.
    """

    name: str
    symbol: str
    step: int | None
    layer: str
    element: tuple[int, ...] | None


def place_of(node: Node) -> Place:
    """Where a node stands: a leaf belongs to no step, whatever scope it was made in."""
    symbol, step, element = _parsed(node.label)
    if step is None and not node.is_leaf:
        step = step_of(node)
    name = symbol if step is None or not symbol else f"{symbol}({step})"
    return Place(name, symbol, step, layer_of(node), element)


def time_step_of(node: Node) -> int | None:
    """The step of `place_of(node)`, at a third of the price."""
    step = _parsed(node.label)[1] if node.label else None
    return step_of(node) if step is None and not node.is_leaf else step


def _parsed(label: str) -> tuple[str, int | None, tuple[int, ...] | None]:
    """What a label says: the symbol, the time step, the element of an array."""
    if not label:
        return "", None, None
    symbol, step, element = clean(label), None, None
    of_array = _ELEMENT.match(symbol)
    if of_array:
        symbol = of_array[1]
        element = tuple(int(i) for i in (of_array[2] or "").split(",") if i)
    written = _STEP.search(symbol)
    if written:
        symbol, step = symbol[: written.start()], int(written[1])
    return symbol, step, element


def step_of(node: Node) -> int | None:
    """The time step that the node was made in, by its scopes."""
    scope = _step_scope(node)
    return None if scope is None else scope.index


def layer_of(node: Node) -> str:
    """The path of the scopes that the node was made in, without the time step."""
    step = _step_scope(node)
    names = []
    scope = node.scope
    while scope is not None and scope.outer is not None:
        if scope is not step:
            names.append(clean(str(scope)))
        scope = scope.outer
    return "/".join(reversed(names))


def _step_scope(node: Node) -> Scope | None:
    """The innermost scope called `step`; where there is none, the innermost with a number."""
    numbered = None
    scope = node.scope
    while scope is not None:
        if scope.index is not None:
            if scope.name == "step":
                return scope
            numbered = numbered or scope
        scope = scope.outer  # type: ignore[assignment]
    return numbered


def names_of(nodes: Iterable[Node]) -> dict[Node, str]:
    """A different name for each node: its own, numbered if others have the same, or `v1`, `v2`...

    Args:
        nodes: in the order in which they are to be numbered.
    """
    nodes = list(nodes)
    own = [own_name(node) for node in nodes]
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


def own_name(node: Node) -> str:
    """What a node is called, with the index of an element; empty if it has no label."""
    if not node.label:
        return ""
    place = place_of(node)
    if place.element is None or not place.name:
        return place.name
    return f"{place.name}[{', '.join(map(str, place.element))}]"
