"""What one sweep handed over, edge by edge, in size: the ground on which gradients are judged.

The size of a gradient is its largest element, so that the size at a node is that at the loss, which
is 1, times the factors along any way to it: what each edge hands on in proportion to what it was
handed, and what the sum over all uses of a node makes of one of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from tinygrad_bp.graph import Node, sweep, topological_order
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.value import Value


def size_of(x: Any) -> float:
    """The largest absolute element: nan if any is, 0 of an empty array."""
    if isinstance(x, float):
        return abs(x)
    array = np.asarray(x)
    return float(np.abs(array).max()) if array.size else 0.0


def ratio(x: float, y: float) -> float:
    """x / y after IEEE 754."""
    if y != 0.0:
        return x / y
    return math.nan if x == 0.0 or x != x else math.inf


def numbers_in(x: Any) -> Any:
    """The numbers of a node or a constant, as they are now; arrays read-only."""
    if isinstance(x, Tensor):
        return np.asarray(x, copy=False)
    return x.data if isinstance(x, Value) else x


class Use(NamedTuple):
    """One use of a node: by which, as which operand, and the size of what it contributes."""

    consumer: Any
    operand: int
    size: float


class Link(NamedTuple):
    """One edge of a chain: from a node, down to one that it was computed from.

    Attributes:
        consumer, node: the ends.
        operand: which of the consumer's operands the node is.
        upstream: the size of the consumer's gradient.
        contribution: the size of what the edge contributes.
        gradient: the size of the node's gradient, which is the sum over all uses.
    """

    consumer: Any
    node: Any
    operand: int
    upstream: float
    contribution: float
    gradient: float

    @property
    def factor(self) -> float:
        """What the edge makes of what it is handed."""
        return ratio(self.contribution, self.upstream)

    @property
    def added(self) -> float:
        """What the sum over all uses makes of this contribution."""
        return ratio(self.gradient, self.contribution)

    @property
    def rule(self) -> str:
        """The operation."""
        return str(self.consumer.rule.name)

    @property
    def local(self) -> Any:
        """The local derivative."""
        return self.consumer.locals[self.operand]

    @property
    def numbers(self) -> list[Any]:
        """The numbers of all operands: arrays as they were recorded."""
        local = self.local
        recorded = getattr(local, "operands", None)
        return recorded if recorded is not None else [numbers_in(x) for x in self.consumer.operands]

    @property
    def result(self) -> Any:
        """The numbers of the consumer."""
        return numbers_in(self.consumer)

    @property
    def partial(self) -> Any:
        """The local derivative as numbers, or None where it is a pullback."""
        if isinstance(self.local, float):
            return float(self.local)
        partial = getattr(self.local, "partial", None)
        return partial() if partial else None

    @property
    def others(self) -> list[tuple[Any, Any]]:
        """The other operands with their numbers."""
        pairs = zip(self.consumer.operands, self.numbers, strict=True)
        return [pair for i, pair in enumerate(pairs) if i != self.operand]


class Survey:
    """All gradients of one sweep from a root, and who contributed what.

    Attributes:
        root: where the sweep started.
        order: the topological order.
        gradients: of each node; what they are computed from is left alone.
        sizes: of the gradients.
        uses: of each node, in the order of the sweep.
    """

    def __init__(self, root: Node) -> None:
        self.root = root
        self.order = topological_order(root)
        self.gradients: dict[Node, Any] = {}
        self.sizes: dict[Node, float] = {}
        self.uses: dict[Node, list[Use]] = {node: [] for node in self.order}
        self._chains: dict[Node, tuple[list[Link], int]] = {}
        for node, gradient, edges in sweep(root):
            self.gradients[node] = gradient
            self.sizes[node] = size_of(gradient)
            if edges:
                places = [i for i, local in enumerate(node.locals) if local is not None]
                for i, (parent, _, contribution) in zip(places, edges, strict=True):
                    self.uses[parent].append(Use(node, i, size_of(contribution)))

    def link(self, node: Node, use: Use) -> Link:
        """The edge of one use."""
        consumer, operand, size = use
        return Link(consumer, node, operand, self.sizes[consumer], size, self.sizes[node])

    def contribution(self, link: Link) -> Any:
        """What an edge contributes, computed again."""
        with np.errstate(all="ignore"):
            return link.local * self.gradients[link.consumer]

    def chain(self, node: Node) -> list[Link]:
        """The links from the root down to a node: at each, the use that contributes most."""
        links: list[Link] = []
        above: list[Link] = []
        start = node
        while self.uses[node]:
            if node in self._chains:
                whole, end = self._chains[node]
                above = whole[:end]
                break
            use = strongest(self.uses[node])
            links.append(self.link(node, use))
            node = use.consumer
        chain = above + links[::-1]
        if start not in self._chains:  # the way to each node on it is known from now on
            for i, link in enumerate(chain[len(above) :], len(above) + 1):
                self._chains[link.node] = chain, i
        return chain


def strongest(uses: Iterable[Use]) -> Use:
    """The use that contributes most: nan before infinity before numbers; the first of equals."""
    return max(uses, key=lambda use: larger(use.size))


def larger(size: float) -> tuple[bool, float]:
    """A key by which nan is larger than infinity."""
    return (True, 0.0) if size != size else (False, size)
