"""Wrong ways to sum up a gradient: with shares left out, or formed with the wrong factors.

The deltas themselves are right here, unlike in `wrong`; what is spoilt is a parameter's own
gradient, the sum of `delta * input` over its uses, samples and time steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_bp.explain.recurrence import Recurrence, recurrence_of
from tinygrad_bp.explain.resweep import (
    Flight,
    Graph,
    Use,
    edges,
    local_at,
    operands_of,
    unreduced,
)
from tinygrad_bp.explain.targets import Target
from tinygrad_bp.explain.wrong import DoesNotApplyError, is_penalty, next_activation
from tinygrad_bp.graph import Node
from tinygrad_bp.tensor import Tensor


def delta_of_activation(graph: Graph, target: Target) -> Any:
    """The parameter's gradient with ∂C/∂a in the place of ∂C/∂z; the deltas themselves are right.

    The activation is the next one on the way from each use towards the loss.
    """
    flight: Flight = {}
    found = False
    for node, uses in zip(target.nodes, target.uses(graph), strict=True):
        for use in uses:
            activation = next_activation(graph, use.node)
            g = graph.right[use.node]
            if activation is not None and np.shape(graph.right[activation]) == np.shape(g):
                g, found = graph.right[activation], True
            flight[node] = use.share(g) + flight.get(node, 0.0)
    if not found:
        raise DoesNotApplyError("no activation follows the parameter")
    return target.of(flight)


def unsummed(graph: Graph, target: Target) -> Any:
    """The gradient of a bias before its samples are summed; of a sequence, summed over time."""
    if not target.is_array or len(target.shape) != 1:
        raise DoesNotApplyError("it is no vector of biases")
    total = None
    for use in graph.uses(target.nodes[0]):
        whole = None if use.views else unreduced(use, graph.right[use.node])
        if (
            whole is None
            or np.ndim(whole) < 2
            or (total is not None and whole.shape != total.shape)
        ):
            raise DoesNotApplyError("it is not added to a batch")
        total = whole if total is None else total + whole
    return total


def samples_of(graph: Graph, target: Target) -> list[Callable[[], Any]]:
    """What each sample of the batch adds to the gradient, one function per sample."""
    if target.is_array:
        return _rows_of(graph, target)
    counts = {len({use.node for use in uses}) for uses in target.uses(graph)}
    counts |= {len(uses) for uses in target.uses(graph)}
    if len(counts) != 1 or recurrence_of(graph):
        return []

    def share(i: int) -> Any:
        pairs = zip(target.nodes, target.uses(graph), strict=True)
        return target.of({n: uses[i].share(graph.right[uses[i].node]) for n, uses in pairs})

    return [lambda i=i: share(i) for i in range(counts.pop())]  # type: ignore[misc]


def _rows_of(graph: Graph, target: Target) -> list[Callable[[], Any]]:
    uses = graph.uses(target.nodes[0])
    gradients = [graph.right[use.node] for use in uses if not is_penalty(use)]
    uses = [use for use in uses if not is_penalty(use)]
    lengths = {len(g) if np.ndim(g) >= 2 else 0 for g in gradients}
    if len(lengths) != 1 or not (m := lengths.pop()):
        return []

    def share(i: int) -> Any:
        total = np.zeros(target.shape, target.dtype)
        for use, g in zip(uses, gradients, strict=True):
            masked = np.zeros_like(g)
            masked[i] = g[i]
            total = total + use.share(masked)
        return total

    return [lambda i=i: share(i) for i in range(m)]  # type: ignore[misc]


def with_other_input(graph: Graph, target: Target, other: Callable[[Graph, Use], Any]) -> Any:
    """The gradient of a matrix of weights with something else in the place of its input."""
    total: Any = 0.0
    changed = False
    for use in graph.uses(target.nodes[0]) if target.is_array else []:
        share = use.share(graph.right[use.node])
        x = other(graph, use) if use.is_matrix else None
        operands = operands_of(use.node)
        if x is not None and np.shape(x) == np.shape(operands[0]):
            operands[0], changed = x, True
            local = local_at(use.node, 1, operands, use.local.result)
            share = use.back(local * graph.right[use.node])
        total = total + share
    if not changed:
        raise DoesNotApplyError("no other input has the shape of the right one")
    return total


def own_output(graph: Graph, use: Use) -> Any:
    """The layer's own output aˡ, to stand in the place of its input aˡ⁻¹."""
    activation = next_activation(graph, use.node)
    return None if activation is None else activation.data  # type: ignore[attr-defined]


def weighted_input(graph: Graph, use: Use) -> Any:
    """The z of the layer below, in the place of its a."""
    x = use.node.x
    return operands_of(x)[0] if isinstance(x, Tensor) and graph.is_activation(x) else None


def later_state(graph: Graph, target: Target, recurrence: Recurrence) -> Any:
    """h(t) in the place of h(t-1) at every use of a recurrent matrix."""
    uses = [use for use in graph.uses(target.nodes[0]) if target.is_array and use.is_matrix]
    if len(uses) < 2 or any(recurrence.step(use.node) is None for use in uses):
        raise DoesNotApplyError("it is no matrix that is used at several time steps")
    uses.sort(key=lambda use: recurrence.step(use.node) or 0)
    path = _path(uses[0].node, uses[1].node.x)
    if path is None:
        raise DoesNotApplyError("what it multiplies does not depend on it")
    last: Any = uses[-1].node
    for kind in path:
        steps = [child for child, which in graph.children[last] if _kind(child, which) == kind]
        if not steps:
            raise DoesNotApplyError("the last state is not in the graph")
        last = steps[0]
    states = [operands_of(use.node)[0] for use in uses[1:]] + [last.data]
    later = {use.node: state for use, state in zip(uses, states, strict=True)}
    return with_other_input(graph, target, lambda _, use: later[use.node])


def _kind(node: Node, which: int) -> tuple[Any, ...]:
    """What is done to an operand: the operation, as which operand, and such as the index."""
    local = node.locals[which]
    settings = (getattr(local, "parameters", ()), getattr(local, "options", {}))
    return node.rule, which, repr(settings)


def _path(start: Node, end: Any) -> list[tuple[Any, ...]] | None:
    """The operations on a way from one node up to a later one; None if there is no way."""
    if not isinstance(end, Node):
        return None
    came: dict[Node, tuple[Node, int] | None] = {end: None}
    queue = deque([end])
    while queue and start not in came:
        node = queue.popleft()
        for which, x, _ in edges(node):
            if x not in came:
                came[x] = (node, which)
                queue.append(x)
    if start not in came:
        return None
    path, step = [], came[start]
    while step is not None:
        path.append(_kind(*step))
        step = came[step[0]]
    return path
