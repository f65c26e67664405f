"""The strongest paths of a graph of Values, best first, without enumerating the others.

The number of paths grows exponentially with depth, yet the best k can be had: the k-th best path to
a node is a path to one of its consumers, extended by one edge. So each node asks its consumers for
their next best only when it is asked itself (Jiménez & Marzal 1999, "Computing the K shortest
paths", whose recursion is here a loop). The first path costs one visit per edge, each further one
about its own length.

A path is as strong as the absolute product of its local derivatives, multiplied from the root
downwards as the sweep does, but with the exponent apart, so that no product over- or underflows.
The order is total: nan before infinity, before other numbers by size, before zero. What is
multiplied keeps it: zero stays zero, also times infinity or nan (the sweep's `azmul`), infinity
times zero is nan. Equally strong paths come in the order of the sweep.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from tinygrad_bp.graph import Node, topological_order

Strength = tuple[int, int, float]  # kind, and of a number: exponent and fraction in [0.5, 1)

ZERO: Strength = (0, 0, 0.0)
NUMBER = 1
INFINITE: Strength = (2, 0, 0.0)
NAN: Strength = (3, 0, 0.0)
ONE: Strength = (NUMBER, 1, 0.5)


def extended(strength: Strength, local: float) -> Strength:
    """The strength of a path with one more edge, of the given local derivative."""
    kind, exponent, fraction = strength
    if strength in (ZERO, NAN):
        return strength
    if local - local != 0.0:  # infinite or nan
        return NAN if local != local else INFINITE
    if local == 0.0:
        return ZERO if kind == NUMBER else NAN
    if kind != NUMBER:
        return strength
    size, scale = math.frexp(local)
    fraction, shift = math.frexp(fraction * abs(size))
    return NUMBER, exponent + scale + shift, fraction


def product_of(locals_: Iterable[float]) -> tuple[Strength, float]:
    """The strength of a path, from the root downwards, and its product as a float."""
    strength, sign = ONE, 1.0
    for local in locals_:
        strength = extended(strength, local)
        sign *= math.copysign(1.0, local)
    kind, exponent, fraction = strength
    if kind != NUMBER:
        return strength, {ZERO: 0.0, INFINITE: sign * math.inf, NAN: math.nan}[strength]
    try:
        return strength, sign * math.ldexp(fraction, exponent)
    except OverflowError:
        return strength, sign * math.inf


def log10_of(strength: Strength) -> float:
    """The decimal logarithm of a path's absolute product, also where no float holds it."""
    kind, exponent, fraction = strength
    if kind != NUMBER:
        return {ZERO: -math.inf, INFINITE: math.inf, NAN: math.nan}[strength]
    return math.log10(fraction) + exponent * math.log10(2.0)


class Edge(NamedTuple):
    """One use of a node: the node that used it, as which operand, and the local derivative."""

    consumer: Any
    operand: int
    local: float


class _Found(NamedTuple):
    """A path to a node: how strong it is, its last edge, and which of the consumer's it extends."""

    strength: Strength
    edge: int
    rank: int


_END: Any = object()  # where the paths to all targets meet


class StrongestPaths:
    """The paths from a root to some nodes, the strongest first.

    Args:
        root: where the paths start, a Value.
        targets: where they end; each counts once.

    Attributes:
        order: the topological order of the graph.
        counts: for each target, the exact number of paths to it.
    """

    def __init__(self, root: Node, targets: Sequence[Node]) -> None:
        self.order = topological_order(root)
        self.counts = dict.fromkeys(targets, 0)
        self._into: dict[Any, list[Edge]] = {}
        self._found: dict[Any, list[_Found]] = {}
        self._heaps: dict[Any, list[tuple[Any, ...]]] = {}
        self._exhausted: set[Any] = {root}
        self._survey(root)

    def _survey(self, root: Node) -> None:
        """Count the paths to every node and find the best, each node after all its consumers."""
        useful = self._useful()
        if root not in useful:
            self._exhausted.add(_END)
            return
        counts: dict[Node, int] = {root: 1}
        self._into[root] = []
        self._found[root] = [_Found(ONE, -1, 0)]
        for node in reversed(self.order):
            if node not in useful:
                continue
            if node is not root:
                self._found[node] = [self._best(self._into[node])]
            count = counts.pop(node)  # long integers: only those that are needed are kept
            if node in self.counts:
                self.counts[node] = count
            pairs = zip(node.operands, node.locals, strict=True)
            for i, (operand, local) in enumerate(pairs):
                if local is not None and operand in useful:
                    self._into.setdefault(operand, []).append(Edge(node, i, float(local)))
                    counts[operand] = counts.get(operand, 0) + count
        ends = [Edge(target, 0, 1.0) for target in self.counts if target in useful]
        self._into[_END], self._found[_END] = ends, [self._best(ends)]

    def _useful(self) -> set[Node]:
        """The nodes from which a path leads on to a target."""
        useful: set[Node] = set()
        for node in self.order:
            if node in self.counts or not useful.isdisjoint(node.parents):
                useful.add(node)
        return useful

    def _best(self, into: Sequence[Edge]) -> _Found:
        strengths = [extended(self._found[e.consumer][0].strength, e.local) for e in into]
        edge = max(range(len(into)), key=strengths.__getitem__)  # the first of equals
        return _Found(strengths[edge], edge, 0)

    def __iter__(self) -> Iterator[list[Edge]]:
        """The edges of each path from the root downwards, and the target as a last consumer."""
        rank = 0
        while True:
            found = self._found.get(_END, ())
            if rank >= len(found):
                if _END in self._exhausted:
                    return
                self._find_next(_END)
                continue
            yield self._path(rank)
            rank += 1

    def _path(self, rank: int) -> list[Edge]:
        edges: list[Edge] = []
        node = _END
        while True:
            _, place, rank = self._found[node][rank]
            if place < 0:
                return edges[::-1]
            edges.append(self._into[node][place])
            node = edges[-1].consumer

    def _find_next(self, node: Any) -> None:
        """One more path to `node`, or the knowledge that there is none."""
        waiting = []
        while True:
            waiting.append(node)
            _, edge, rank = self._found[node][-1]
            node = self._into[node][edge].consumer
            if len(self._found[node]) > rank + 1 or node in self._exhausted:
                break
        for node in reversed(waiting):  # each after the consumer it has to ask
            self._take_next(node)

    def _take_next(self, node: Any) -> None:
        """The best candidate: another path to the consumer of the last one, or another edge."""
        found, into = self._found[node], self._into[node]
        heap = self._heaps.get(node)
        if heap is None:
            others = (i for i in range(len(into)) if i != found[0].edge)
            heap = self._heaps[node] = [self._candidate(into, i, 0) for i in others]
            heapq.heapify(heap)
        _, edge, rank = found[-1]
        if len(self._found[into[edge].consumer]) > rank + 1:
            heapq.heappush(heap, self._candidate(into, edge, rank + 1))
        if not heap:
            self._exhausted.add(node)
            return
        *weakness, edge, rank = heapq.heappop(heap)
        kind, exponent, fraction = (-x for x in weakness)
        found.append(_Found((kind, exponent, fraction), edge, rank))

    def _candidate(self, into: Sequence[Edge], edge: int, rank: int) -> tuple[Any, ...]:
        consumer, _, local = into[edge]
        kind, exponent, fraction = extended(self._found[consumer][rank].strength, local)
        return -kind, -exponent, -fraction, edge, rank
