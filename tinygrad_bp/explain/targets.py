"""What a reader points at in a graph: a Tensor, a Value, an array of Values, or a name of these."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.arguments import shown, wrong_kind
from tinygrad_bp.explain.naming import Place, place_of
from tinygrad_bp.explain.resweep import Flight, Graph, Use, operands_of
from tinygrad_bp.graph import Node
from tinygrad_bp.scalars import Values
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.text import clean
from tinygrad_bp.value import Value

Array = NDArray[Any]


class Target:
    """One quantity of a graph: a Tensor, or one Value or several that make an array.

    Attributes:
        name: what it is called.
        nodes: its nodes; a Tensor is one.
        shape: of its gradient.
    """

    __slots__ = ("_uses", "name", "nodes", "shape")

    def __init__(self, name: str, nodes: Sequence[Node], shape: tuple[int, ...]) -> None:
        self.name = name
        self.nodes = list(nodes)
        self.shape = shape
        self._uses: list[list[Use]] | None = None

    @property
    def is_array(self) -> bool:
        """Whether it is a Tensor, whose gradient is one array."""
        return isinstance(self.nodes[0], Tensor)

    def is_same(self, other: Target) -> bool:
        """Whether it is made of the same nodes."""
        return len(self.nodes) == len(other.nodes) and all(
            a is b for a, b in zip(self.nodes, other.nodes, strict=True)
        )

    def of(self, flight: Flight) -> Array:
        """Its gradient in a sweep, as an array of its own: zeros where none came."""
        if self.is_array:
            g = flight.get(self.nodes[0])
            return np.zeros(self.shape, self.dtype) if g is None else np.array(g)
        return np.array([flight.get(node, 0.0) for node in self.nodes]).reshape(self.shape)

    @property
    def dtype(self) -> Any:
        """That of its numbers."""
        return getattr(self.nodes[0], "dtype", np.dtype(np.float64))

    def uses(self, graph: Graph) -> list[list[Use]]:
        """Where each of its nodes is used; a target belongs to one graph."""
        if self._uses is None:
            self._uses = [graph.uses(node) for node in self.nodes]
        return self._uses

    def numbers(self, graph: Graph) -> Array | None:
        """What it held when it was used; None if it is not used as it is."""
        data = []
        for uses in self.uses(graph):
            if not uses or uses[0].views:
                return None
            data.append(operands_of(uses[0].node)[uses[0].which])
        return np.array(data).reshape(self.shape)


def parameters_of(graph: Graph) -> list[Target]:
    """The tracked leaves; the elements of an array of Values together."""
    single: list[Target] = []
    arrays: dict[str, dict[tuple[int, ...], Node]] = defaultdict(dict)
    for leaf in graph.leaves:
        place = place_of(leaf)
        if isinstance(leaf, Value) and place.element is not None:
            if not arrays[place.name]:
                single.append(Target(place.name, [leaf], ()))  # its place in the order
            arrays[place.name][place.element] = leaf
        else:
            single.append(Target(graph.names[leaf], [leaf], np.shape(graph.right[leaf])))
    return [_assembled(t.name, arrays[t.name]) if t.name in arrays else t for t in single]


def _assembled(name: str, elements: dict[tuple[int, ...], Node]) -> Target:
    """Elements of an array by their places; a list where some are not in the graph."""
    places = sorted(elements)
    shape = tuple(max(column) + 1 for column in zip(*places, strict=True))
    if len(places) != math.prod(shape):  # which does not overflow
        shape = (len(places),)
    return Target(name, [elements[place] for place in places], shape)


def target_of(key: Any, graph: Graph, model: Any = None, what: str = "parameters") -> Target:
    """What a key of the reader's points at.

    Args:
        key: a Tensor, a Value, an array of Values, or a name.
        graph: in which it is to be found.
        model: a Module, by whose names of parameters (`layers.0.W`) a key is looked up first.

    Raises:
        TypeError: the key is nothing of these.
        ValueError: the loss does not depend on it, or several quantities have this name.
    """
    if isinstance(key, str):
        parameters = dict(model.named_parameters()) if model is not None else {}
        if key not in parameters:
            return _by_name(key, graph, what)
        found = target_of(parameters[key], graph)
        return Target(clean(key), found.nodes, found.shape)
    if isinstance(key, Values):
        nodes = list(key.flat)
        name = place_of(nodes[0]).name if nodes else ""
    elif isinstance(key, (Tensor, Value)):
        nodes, name = [key], graph.names.get(key, "")
    else:
        raise wrong_kind(what, "a Tensor, a Value, Values or a name", key)
    if not any(node in graph.right for node in nodes):
        raise ValueError(
            f"{what}: the loss does not depend on {name or 'this node'}: it has no gradient; got "
            f"{shown(key)}"
        )
    return Target(name or "these Values", nodes, tuple(getattr(key, "shape", ())))


def _by_name(name: str, graph: Graph, what: str) -> Target:
    given, name = name, clean(name)  # as those in the graph are
    whole: list[Node] = []
    elements: dict[tuple[int, ...], Node] = {}
    for node, place in _places(graph).items():
        if name not in (place.name, graph.names[node]):
            continue
        if isinstance(node, Value) and place.element is not None and place.name == name:
            elements[place.element] = node
        else:
            whole.append(node)
    if elements and not whole:
        return _assembled(name, elements)
    whole = whole or [node for node in graph.leaves if graph.names[node] == name]
    if len(whole) == 1 and not elements:
        return Target(name, whole, np.shape(graph.right[whole[0]]))
    if not whole:
        known = ", ".join(dict.fromkeys(place.name for place in _places(graph).values()))
        told = (
            f"{what}: there is no {given!r:.40} in the graph of this loss, a "
            f"{type(graph.root).__name__}; there are {known or 'no names'}"
        )
        raise ValueError(told if len(told) <= 200 else f"{told[:198]} …")
    raise ValueError(
        f"{len(whole)} nodes are called {name[:80]!r}: give the node itself, or a model"
    )


def _places(graph: Graph) -> dict[Node, Place]:
    """Where the nodes that have a label stand; found once."""
    if "places" not in graph.kept:
        graph.kept["places"] = {node: place_of(node) for node in graph.order if node.label}
    return graph.kept["places"]  # type: ignore[no-any-return]
