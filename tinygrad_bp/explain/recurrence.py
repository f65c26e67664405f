"""Time in a graph: where it is recurrent, and to which step each node belongs.

A graph is recurrent if a parameter is used again by what was computed from its first use. The
steps are those of the numbered scopes that the nodes were made in (`nn.unroll` makes them); where
there are none, they are counted by the uses of the recurrent parameter.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tinygrad_bp.explain.naming import step_of, time_step_of
from tinygrad_bp.explain.resweep import Flight, Graph
from tinygrad_bp.explain.targets import Target, parameters_of
from tinygrad_bp.graph import Node

_CANDIDATES = 12  # parameters that are looked at, those of most uses first
_LONG = 3  # uses on one path that are taken for time where no node has a step: x * x has two


class Recurrence:
    """The steps of a recurrent graph.

    Attributes:
        steps: the numbers of the steps, in order; empty if the graph is not recurrent.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._time: dict[Node, int] = {}
        self._carried: set[Node] = set()  # what leads to a use at a later step
        self.steps: list[int] = []
        uses = _recurrent_uses(graph)
        if not uses:
            return
        if all(step_of(node) is not None for node in uses):
            times = {n: step_of(n) for n in graph.order if not n.is_leaf}
            self._time = {n: t for n, t in times.items() if t is not None}
        else:
            self._time = _counted(graph, uses)
        self.steps = sorted({self._time[node] for node in uses})
        if len(self.steps) < 2:
            self.steps = []
        for node in reversed(graph.order):
            if any(child in uses or child in self._carried for child, _ in graph.children[node]):
                self._carried.add(node)

    def __bool__(self) -> bool:
        return bool(self.steps)

    def step(self, node: Node) -> int | None:
        """The time step of a node; None if it belongs to none."""
        return self._time.get(node)

    def is_carried(self, node: Node) -> bool:
        """Whether a node leads to a use of the recurrent parameter: a state, not a read-out."""
        return node in self._carried

    def crosses(self, node: Node, operand: Node) -> bool:
        """Whether an edge carries the state from an earlier step to a later one."""
        if operand.is_leaf or operand not in self._carried:
            return False
        early, late = self.step(operand), self.step(node)
        return early is not None and late is not None and early < late

    def shares(self, target: Target) -> dict[int, Any]:
        """What the uses at each time step add to the gradient; empty if some have no step."""
        shares: dict[int, Flight] = {}
        for node, uses in zip(target.nodes, target.uses(self.graph), strict=True):
            for use in uses:
                t = self.step(use.node)
                if t is None:
                    return {}
                share = use.share(self.graph.right[use.node])
                at = shares.setdefault(t, {})
                at[node] = at[node] + share if node in at else share
        return {t: target.of(shares[t]) for t in sorted(shares)}


def recurrence_of(graph: Graph) -> Recurrence:
    """The recurrence of a graph, found once."""
    if "recurrence" not in graph.kept:
        graph.kept["recurrence"] = Recurrence(graph)
    return graph.kept["recurrence"]  # type: ignore[no-any-return]


def _recurrent_uses(graph: Graph) -> set[Node]:
    """The uses of the parameter that meets itself most often on one path to the loss."""
    candidates = []
    for target in parameters_of(graph):
        uses = {use.node for use in graph.uses(target.nodes[0])}
        if len(uses) > 1:
            candidates.append(uses)
    has_steps = any(time_step_of(node) is not None for node in graph.order)
    candidates.sort(key=len, reverse=True)  # stable: the first of equals stays first
    best, most = set(), 1
    for uses in candidates[:_CANDIDATES]:
        longest = max(_levels(graph, uses).values())
        if longest > most and (longest >= _LONG or has_steps):
            best, most = uses, longest
    return best


def _levels(graph: Graph, uses: Iterable[Node]) -> dict[Node, int]:
    """How many of the uses lie on a path below each node, itself included, at most."""
    uses = set(uses)
    levels: dict[Node, int] = {}
    for node in graph.order:
        below = max([levels[x] for _, x, _ in graph.edges[node]], default=0)
        levels[node] = below + (node in uses)
    return levels


def _counted(graph: Graph, uses: set[Node]) -> dict[Node, int]:
    """The step of every computed node; what is computed of the input alone has that of its use."""
    levels = _levels(graph, uses)
    for node in reversed(graph.order):
        if not levels[node]:
            levels[node] = min((levels[child] for child, _ in graph.children[node]), default=0)
    return {node: t for node, t in levels.items() if t and not node.is_leaf}
