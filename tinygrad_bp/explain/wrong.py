"""Rules that are known to be wrong, as functions of a graph.

Each gives the gradients that somebody who makes the mistake would get. They live here and not in
the engine: `mistakes` shows them, and `compare` tests a given gradient against them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np

from tinygrad_bp import array_rules, arrays
from tinygrad_bp.explain.recurrence import Recurrence, recurrence_of
from tinygrad_bp.explain.resweep import (
    Flight,
    Graph,
    Use,
    edges,
    local_at,
    namespace_of,
    operands_of,
    value_of,
)
from tinygrad_bp.explain.targets import Target
from tinygrad_bp.graph import Node
from tinygrad_bp.tensor import Tensor

_MOST_VISITS = 100_000
_MOST_SWEEPS = 50
_MOST_SHARED = 5_000


class DoesNotApplyError(ValueError):
    """There is nothing in this graph that the mistake could be made at."""


# --- the order, and the sum over uses -----------------------------------------------------------


def overwritten(graph: Graph) -> Flight:
    """Every use puts its contribution in the place of the last one, instead of adding it."""
    flight: Flight = {graph.root: graph.seed}
    with graph.root._arithmetic():
        for node in reversed(graph.order):
            for _, x, local in graph.edges[node]:
                flight[x] = local * flight[node]
    return flight


def first_come(graph: Graph) -> Flight:
    """Every node hands on once, in the order in which the walk first meets it: too early."""
    flight: Flight = {graph.root: graph.seed}
    queue, met = deque([graph.root]), {graph.root}
    with graph.root._arithmetic():
        while queue:
            node = queue.popleft()
            for _, x, local in graph.edges[node]:
                c = local * flight[node]
                flight[x] = flight[x] + c if x in flight else c
                if x not in met:
                    met.add(x)
                    queue.append(x)
    return flight


def every_arrival(graph: Graph, overwrite: bool = False) -> Flight:
    """Every node hands on all it has whenever something arrives: several times.

    Args:
        graph: the graph.
        overwrite: whether what arrives takes the place of what is there, as well.
    """
    flight: Flight = {graph.root: graph.seed}
    todo = [(graph.root, iter(graph.edges[graph.root]))]
    visits = 0
    with graph.root._arithmetic():
        while todo:
            node, rest = todo[-1]
            edge = next(rest, None)
            if edge is None:
                todo.pop()
                continue
            visits += 1
            if visits > _MOST_VISITS:
                raise DoesNotApplyError(
                    f"it would take more than {_MOST_VISITS} visits: one per path"
                )
            _, x, local = edge
            c = local * flight[node]
            flight[x] = flight[x] + c if x in flight and not overwrite else c
            todo.append((x, iter(graph.edges[x])))
    return flight


# --- derivatives of activations -----------------------------------------------------------------

Way = Callable[[Node, int, Any, Any], Any]


def without_derivative(node: Node, which: int, local: Any, g: Any) -> Any:
    """g, where g ⊙ σ'(z) is right."""
    return g


def derivative_at_output(node: Node, which: int, local: Any, g: Any) -> Any:
    """g ⊙ σ'(a), where g ⊙ σ'(z) is right."""
    operands = operands_of(node)
    operands[which] = node.data  # type: ignore[attr-defined]
    return local_at(node, which, operands, value_of(node, operands)) * g


def formula_at_input(node: Node, which: int, local: Any, g: Any) -> Any:
    """The formula in terms of the output, `a (1 - a)` or `1 - a²`, computed of z."""
    textbook = node.rule.textbook
    if len(textbook) <= which:
        return local * g
    operands = operands_of(node)
    return textbook[which](namespace_of(node), *operands, operands[which]) * g


def derivative_twice(node: Node, which: int, local: Any, g: Any) -> Any:
    """g ⊙ σ'(z) ⊙ σ'(z)."""
    return local * (local * g)


def at_activations(graph: Graph, nodes: Collection[Node], way: Way) -> Flight:
    """The sweep with another derivative at some activations."""
    chosen = set(nodes)

    def hand_on(node: Node, which: int, local: Any, g: Any) -> Any:
        return way(node, which, local, g) if node in chosen else local * g

    return graph.swept(hand_on)


def without_derivative_in_recursion(graph: Graph) -> Flight:
    """Derivatives stand in the gradients of parameters, and are forgotten on the way down.

    Two gradients travel: what is handed to parameters, and what is handed further down.
    """
    if not graph.activations:
        raise DoesNotApplyError("there is no activation")
    flight: dict[Node, tuple[Any, Any]] = {graph.root: (graph.seed, graph.seed)}
    with graph.root._arithmetic():
        for node in reversed(graph.order):
            if node not in flight:
                continue
            own, down = flight[node]
            for _, x, local in graph.edges[node]:
                pair = (local * own, local * down)
                if graph.is_activation(node):
                    pair = local * down, down
                if x in flight:
                    pair = (flight[x][0] + pair[0], flight[x][1] + pair[1])
                flight[x] = pair
    return {node: own for node, (own, _) in flight.items()}


def next_activation(graph: Graph, node: Node) -> Node | None:
    """The activation that a weighted input goes to, past the sums that make it up."""
    while not graph.is_activation(node):
        children = graph.children[node]
        if not children:
            return None
        following = children[0][0]
        sums = len(children) == 1 and following.rule.name in ("add", "positive")
        if not sums and not graph.is_activation(following):
            return None
        node = following
    return node


# --- softmax and the loss -----------------------------------------------------------------------


def softmaxes(graph: Graph) -> list[Node]:
    """The nodes that are a softmax, or its logarithm."""
    return [n for n in graph.order if n.rule and getattr(n.rule, "name", "") in _SOFTMAXES]


_SOFTMAXES = ("softmax", "log_softmax")


def softmax_elementwise(graph: Graph) -> Flight:
    """The softmax taken for an elementwise function: g ⊙ a (1 - a), the diagonal of its Jacobian.

    E2 for an output layer whose activation is not elementwise.
    """
    chosen = {n for n in softmaxes(graph) if n.rule.name == "softmax"}
    if not chosen:
        raise DoesNotApplyError("there is no softmax")

    def hand_on(node: Node, which: int, local: Any, g: Any) -> Any:
        if node not in chosen:
            return local * g
        a = node.data  # type: ignore[attr-defined]
        return g * a * (1.0 - a)

    return graph.swept(hand_on)


def binary_cross_entropy_on_softmax(graph: Graph) -> Flight:
    """Binary cross-entropy, `-Σ y log ŷ + (1-y) log(1-ŷ)`, differentiated beside a softmax.

    The recorded loss must be the softmax cross-entropy, `-Σ y log ŷ`: from the gradient that
    arrives, -y (of log ŷ) or -y/ŷ (of ŷ), y is read, times the factor of the reduction.
    """
    chosen = set(softmaxes(graph))
    if not chosen:
        raise DoesNotApplyError("there is no softmax")

    def hand_on(node: Node, which: int, local: Any, g: Any) -> Any:
        if node not in chosen:
            return local * g
        parameters = (*local.parameters, *local.options.values())
        axis = parameters[0] if parameters else -1
        is_log = node.rule.name == "log_softmax"
        a = np.exp(node.data) if is_log else node.data  # type: ignore[attr-defined]
        y = -g if is_log else -g * a
        total = y.sum(axis=axis, keepdims=True)  # the factor, since the y of a sample sum to 1
        wrong = (total - y) / (1.0 - a) - y / a
        return array_rules.softmax_dx(arrays, wrong, a, None, axis)

    return graph.swept(hand_on)


def derivative_at_logits(graph: Graph) -> Flight:
    """Another a (1 - a) at the output, where the cross-entropy has cancelled it already."""
    chosen = graph.fused
    if not chosen:
        raise DoesNotApplyError("there is no cross-entropy of logits")

    def arriving(node: Node, g: Any) -> Any:
        if node not in chosen:
            return g
        loss = chosen[node]
        data: Any = loss.data  # type: ignore[attr-defined]
        a = np.exp(data) if loss.rule.name == "log_softmax" else -np.expm1(-data)
        return g * (a * (1.0 - a) if isinstance(loss, Tensor) else float(a * (1.0 - a)))

    return graph.swept(arriving=arriving)


# --- weights ------------------------------------------------------------------------------------


def not_transposed(graph: Graph, nodes: Collection[Node] | None = None) -> Flight:
    """δ handed down through W where Wᵀ is right, at square matrices."""
    squares = square_products(graph) if nodes is None else nodes
    if not squares:
        raise DoesNotApplyError("there is no square weight matrix below the first layer")
    chosen = set(squares)

    def hand_on(node: Node, which: int, local: Any, g: Any) -> Any:
        if which or node not in chosen:
            return local * g
        operands = operands_of(node)
        operands[1] = operands[1].T
        return local_at(node, which, operands, local.result) * g

    return graph.swept(hand_on)


def square_products(graph: Graph) -> list[Node]:
    """The products of a tracked left operand and a square matrix."""
    return [
        node
        for node in graph.order
        if getattr(node.rule, "name", "") in ("matmul", "linear")
        and node.dx is not None
        and not node.x.is_leaf
        and len(shape := np.shape(operands_of(node)[1])) == 2
        and shape[0] == shape[1] > 1
    ]


def after_update(graph: Graph, learning_rate: float) -> Flight:
    """Every weight is moved by its gradient before the delta is handed through it.

    Which gradient is that of this very mistake, so the sweep is repeated until it stays as it is:
    after as many sweeps as there are layers. Recurrent weights are not moved: their gradient is
    complete only after the last step that they hand a delta through.
    """
    moved = set(graph.leaves) - _recurrent(graph)
    weights = {
        child: [i for i, x, _ in graph.edges[child] if x in moved]
        for leaf in moved
        for child, _ in graph.children[leaf]
    }
    gradients: Flight = graph.right
    for _ in range(_MOST_SWEEPS):
        flight = graph.swept(_through_moved(gradients, weights, learning_rate))
        if all(np.array_equal(flight[x], gradients[x], equal_nan=True) for x in graph.leaves):
            return flight
        gradients = flight
    raise DoesNotApplyError(f"there are more than {_MOST_SWEEPS} layers, or numbers are not finite")


def _recurrent(graph: Graph) -> set[Node]:
    """The leaves that are used again by what was computed from them."""
    several = [leaf for leaf in graph.leaves if len(graph.children[leaf]) > 1]
    if len(several) > _MOST_SHARED:
        raise DoesNotApplyError(f"more than {_MOST_SHARED} parameters are used several times")
    bits = {leaf: 1 << i for i, leaf in enumerate(several)}
    below: dict[Node, int] = {}  # the leaves that a node was computed from, one bit for each
    again = 0
    for node in graph.order:
        inner = own = 0
        for _, x, _ in graph.edges[node]:
            if x.is_leaf:
                own |= bits.get(x, 0)
            else:
                inner |= below[x]
        again |= own & inner
        below[node] = own | inner
    return {leaf for leaf in several if bits[leaf] & again}


def _through_moved(
    gradients: Flight, weights: dict[Node, list[int]], learning_rate: float
) -> Callable[..., Any]:
    def hand_on(node: Node, which: int, local: Any, g: Any) -> Any:
        if node not in weights or node.operands[which].is_leaf:
            return local * g
        operands = operands_of(node)
        for i in weights[node]:
            operands[i] = operands[i] - learning_rate * gradients[node.operands[i]]
        result = local.result if isinstance(node, Tensor) else node.data  # type: ignore[attr-defined]
        return local_at(node, which, operands, result) * g

    return hand_on


def is_penalty(use: Use) -> bool:
    """Whether a parameter is used by itself, as in a penalty: W², |W|."""
    tracked = {x for _, x, _ in edges(use.node)}
    by_itself = ("square", "absolute", "multiply", "power")
    return len(tracked) == 1 and use.node.rule.name in by_itself and _is_whole(use)


def _is_whole(use: Use) -> bool:
    return all(isinstance(x, (Node, float, int)) for x in use.node.operands)


def penalty(graph: Graph, target: Target) -> Any:
    """What a penalty on the parameter adds to its gradient; None if there is none."""
    flight: Flight = {}
    for node, uses in zip(target.nodes, target.uses(graph), strict=True):
        if all(map(is_penalty, uses)):
            return None  # it is what the loss is about
        for use in filter(is_penalty, uses):
            flight[node] = use.share(graph.right[use.node]) + flight.get(node, 0.0)
    return target.of(flight) if flight else None


def strength(graph: Graph, targets: Iterable[Target]) -> float | None:
    """The λ of an L2 penalty λ/2 Σ W²: what it adds to a gradient is λ W."""
    for target in targets:
        added, numbers = penalty(graph, target), target.numbers(graph)
        if added is None or numbers is None or not numbers.any():
            continue
        found = float(np.vdot(added, numbers) / np.vdot(numbers, numbers))
        if np.allclose(added, found * numbers, rtol=1e-6, atol=0.0):
            return found
    return None


# --- time ---------------------------------------------------------------------------------------


def needs_time(graph: Graph) -> Recurrence:
    """The recurrence of a graph; DoesNotApplyError if there is none."""
    recurrence = recurrence_of(graph)
    if not recurrence:
        raise DoesNotApplyError("the graph is not recurrent: no parameter is used again in time")
    return recurrence


def sliding(graph: Graph, recurrence: Recurrence, k: int) -> Flight:
    """Truncated: only what has crossed fewer than k time steps, the terms of E21 of lag < k."""
    flight: dict[Node, dict[int, Any]] = {graph.root: {0: graph.seed}}
    with graph.root._arithmetic():
        for node in reversed(graph.order):
            for _, x, local in graph.edges[node]:
                crossed = int(recurrence.crosses(node, x))
                ages = flight.setdefault(x, {})
                for age, g in flight.get(node, {}).items():
                    if age + crossed < k:
                        c = local * g
                        before = ages.get(age + crossed)
                        ages[age + crossed] = c if before is None else before + c
    return {node: sum(ages.values()) for node, ages in flight.items() if ages}


def blocks(graph: Graph, recurrence: Recurrence, k: int) -> Flight:
    """Truncated: the state is detached before every k-th step."""
    first = recurrence.steps[0]

    def hand_on(node: Node, which: int, local: Any, g: Any) -> Any:
        starts = recurrence.crosses(node, node.operands[which])
        if starts and (recurrence.step(node) - first) % k == 0:  # type: ignore[operator]
            return None
        return local * g

    return graph.swept(hand_on)


def loss_of_step(graph: Graph, recurrence: Recurrence, t: int) -> Flight:
    """Only the loss of one time step is differentiated."""

    def hand_on(node: Node, which: int, local: Any, g: Any) -> Any:
        step = recurrence.step(node)
        read_out = step is not None and not recurrence.is_carried(node)
        if read_out and step != t and not _is_total_beyond(recurrence, node, t):
            return None
        return local * g

    return graph.swept(hand_on)


def _is_total_beyond(recurrence: Recurrence, node: Node, t: int) -> bool:
    """Whether a node is a running total of losses which has that of step t below it."""
    steps = {recurrence.step(x) for _, x, _ in edges(node)}
    return node.rule.name == "add" and len(steps) > 1 and (recurrence.step(node) or 0) > t
