"""Quantities: what a derivation calls by one name.

For arrays that is a node. In the scalar view it is an array of nodes: the elements `z1[0, 0]`,
`z1[0, 1]`, ... of an array of Values are gathered into `z1`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.arguments import out_of_range, wrong_kind
from tinygrad_bp.derivatives import read_only
from tinygrad_bp.explain.naming import Place, place_of
from tinygrad_bp.explain.steps import steps_before
from tinygrad_bp.graph import Node
from tinygrad_bp.scalars import Values
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.value import Value

Array = NDArray[Any]
Index = tuple[int, ...]


class Quantity(NamedTuple):
    """A named node, or the nodes of an array of Values.

    Attributes:
        name: `h(3)`; numbered, as `z1#2`, where several in one layer have the same.
        place: where it stands in the program.
        nodes: one, or the elements that are in the graph.
        shape: the lengths of the axes.
        elements: where each node stands in the array; None for a node that is the whole quantity.
    """

    name: str
    place: Place
    nodes: tuple[Node, ...]
    shape: tuple[int, ...]
    elements: tuple[Index, ...] | None = None

    def array(self, numbers: Mapping[Node, Any], missing: float = math.nan) -> Array:
        """The numbers of its nodes as one array of its shape, read-only.

        Args:
            numbers: a number, or an array, for each node.
            missing: for elements that are not in the graph.
        """
        if self.elements is None:
            return read_only(np.asarray(numbers[self.nodes[0]]))  # type: ignore[no-any-return]
        gathered = np.full(self.shape, missing)
        for node, element in zip(self.nodes, self.elements, strict=True):
            gathered[element] = numbers[node]
        return read_only(gathered)  # type: ignore[no-any-return]


def quantities_of(nodes: Iterable[Node], order: Sequence[Node] = ()) -> list[Quantity]:
    """The named quantities that some nodes are, or are elements of.

    Args:
        nodes: in the order in which quantities of the same name are to be numbered. A quantity
            stands in the result where the last of its nodes does.
        order: all nodes of the graph, in topological order. Given, quantities of the same name
            are told apart by their time steps, where these can be known, before numbers.
    """
    steps = _Steps(order)
    groups: dict[Any, list[tuple[int, Node, Place]]] = defaultdict(list)
    for i, node in enumerate(nodes):
        if not node.label:
            continue
        place = place_of(node)
        if not place.name:  # nothing of the label can be shown
            continue
        if place.element is None or not isinstance(node, Value):
            groups[i].append((i, node, _as_whole(place)))
        else:
            groups[place.name, place.layer].append((i, node, place))
    parts = [part for group in groups.values() for part in _separated(group, steps)]
    parts.sort(key=lambda part: part[-1][0])
    return _numbered([_quantity(part) for part in parts], steps)


def _as_whole(place: Place) -> Place:
    """The place of an array that is called like an element."""
    if place.element is None:
        return place
    index = f"[{', '.join(map(str, place.element))}]"
    return place._replace(name=place.name + index, symbol=place.symbol + index, element=None)


_Member = tuple[int, Node, Place]


class _Steps:
    """The steps of nodes that do not say theirs; looked for when the first is asked for."""

    def __init__(self, order: Sequence[Node]) -> None:
        self.order = order
        self.found: dict[Node, int] | None = None

    def __call__(self, node: Node) -> int | None:
        if self.found is None:
            self.found = steps_before(self.order)
        return self.found.get(node)


def _separated(group: Sequence[_Member], steps: _Steps) -> list[list[_Member]]:
    """Elements of one name, as the arrays that they can be elements of."""
    parts = [list(group)]
    if group[0][2].element is None:
        return parts
    # A scope is entered once, so elements of one array share it.
    for key in (steps, lambda node: id(node.scope)):
        if all(map(_are_distinct, parts)):
            break
        parts = [part for several in parts for part in _split(several, key)]
    parts = [p for part in parts for p in ([part] if _are_distinct(part) else _in_turn(part))]
    return [p for part in parts for p in ([part] if _fill_an_array(part) else _one_by_one(part))]


def _split(group: Sequence[_Member], key: Callable[[Node], Any]) -> list[list[_Member]]:
    parts: dict[Any, list[_Member]] = defaultdict(list)
    for member in group:
        parts[key(member[1])].append(member)
    return list(parts.values())


def _are_distinct(group: Sequence[_Member]) -> bool:
    return len({place.element for *_, place in group}) == len(group)


def _in_turn(group: Sequence[_Member]) -> list[list[_Member]]:
    """The first of each element, the second of each, and so on."""
    seen: Counter[Any] = Counter()
    turns: dict[int, list[_Member]] = defaultdict(list)
    for member in group:
        element = member[2].element
        turns[seen[element]].append(member)
        seen[element] += 1
    return list(turns.values())


def _fill_an_array(group: Sequence[_Member]) -> bool:
    """Whether an array of these elements would be mostly theirs, as an array of Values is."""
    elements: list[Any] = [place.element for *_, place in group]
    if len({len(element) for element in elements}) > 1:
        return False
    size: int = math.prod(1 + max(axis) for axis in zip(*elements, strict=True))
    return size <= 64 + 4 * len(group)


def _one_by_one(group: Sequence[_Member]) -> list[list[_Member]]:
    return [[(i, node, _as_whole(place))] for i, node, place in group]


def _quantity(part: Sequence[_Member]) -> Quantity:
    _, node, place = part[0]
    nodes = tuple(node for _, node, _ in part)
    if place.element is None:
        return Quantity(place.name, place, nodes, getattr(node, "shape", ()))
    elements: Any = tuple(place.element for *_, place in part)
    shape = tuple(1 + max(axis) for axis in zip(*elements, strict=True))
    return Quantity(place.name, place._replace(element=None), nodes, shape, elements)


def _numbered(quantities: Sequence[Quantity], steps: _Steps) -> list[Quantity]:
    by_name: dict[tuple[str, str], list[Quantity]] = defaultdict(list)
    for q in quantities:
        by_name[q.name, q.place.layer].append(q)
    stepped = {}
    for same in by_name.values():
        if len(same) > 1 and same[0].place.step is None:
            found = [steps(q.nodes[0]) for q in same]
            if None not in found and len(set(found)) == len(found):
                stepped.update({q.nodes[0]: step for q, step in zip(same, found, strict=True)})
    quantities = [_at(q, stepped[q.nodes[0]]) if q.nodes[0] in stepped else q for q in quantities]
    count = Counter((q.name, q.place.layer) for q in quantities)
    given: Counter[tuple[str, str]] = Counter()
    result = []
    for q in quantities:
        key = q.name, q.place.layer
        given[key] += 1
        result.append(q if count[key] == 1 else q._replace(name=f"{q.name}#{given[key]}"))
    return result


def _at(q: Quantity, step: int | None) -> Quantity:
    name = f"{q.place.symbol}({step})"
    return q._replace(name=name, place=q.place._replace(name=name, step=step))


def quantity_of(x: Any, what: str) -> Quantity:
    """Something that a user points at, as a quantity: a Tensor, a Value, or an array of Values.

    Raises:
        TypeError: it is something else.
        ValueError: no gradient flows to it.
    """
    if not isinstance(x, (Tensor, Value, Values)):
        raise TypeError(f"{what}: expected a Tensor, a Value or Values, got {type(x).__name__}")
    if not x.requires_grad:
        raise ValueError(
            f"{what}: this {type(x).__name__} requires no gradient: it is a constant, was "
            "detached, or was computed under no_grad()"
        )
    if isinstance(x, Values):
        pairs: list[tuple[Index, Any]] = [(i, x[i]) for i in np.ndindex(x.shape)]
        kept = [(i, node) for i, node in pairs if node.requires_grad]
        place = place_of(kept[0][1])._replace(element=None)
        nodes, elements = tuple(node for _, node in kept), tuple(i for i, _ in kept)
        return Quantity(place.name, place, nodes, x.shape, elements)
    place = _as_whole(place_of(x))
    return Quantity(place.name, place, (x,), getattr(x, "shape", ()))


def check_root(loss: Any, what: str = "loss", gradient: Any = None) -> Node:
    """A node that a sweep can start from; of several numbers, if their gradient is given.

    Raises:
        TypeError: it is no node.
        ValueError: it requires no gradient, or has several numbers.
    """
    if isinstance(loss, Values):
        if loss.size != 1:
            raise ValueError(
                f"{what}: expected a single number, got Values of shape {loss.shape}; sum them"
            )
        loss = loss.flat[0]
    if not isinstance(loss, Node):
        raise wrong_kind(what, "a Value or a Tensor", loss)
    if not loss.requires_grad:
        raise ValueError(
            f"{what}: this {type(loss).__name__} requires no gradient: it is a constant, was "
            "detached, or was computed from constants or under no_grad()"
        )
    if gradient is None and getattr(loss, "size", 1) != 1:
        raise out_of_range(what, "a single number (of several, sum them first)", loss)
    return loss
