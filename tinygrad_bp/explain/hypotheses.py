"""What may have gone wrong in a gradient derived by hand: mistakes, each with where it was made.

A hypothesis predicts the array that its mistake would give, by running the wrong rule on the graph.
None is a template: what cannot be computed from this graph is not proposed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from tinygrad_bp.explain import shares, wrong
from tinygrad_bp.explain.naming import place_of
from tinygrad_bp.explain.recurrence import Recurrence, recurrence_of
from tinygrad_bp.explain.resweep import Flight, Graph, edges
from tinygrad_bp.explain.targets import Array, Target, parameters_of
from tinygrad_bp.explain.wrong import DoesNotApplyError
from tinygrad_bp.graph import Node

MOST_SAMPLES = 128  # that are left out one by one
MOST_STEPS = 64
MOST_GROUPS = 12  # of activations that are looked at one by one


class Hypothesis:
    """A mistake that may have been made.

    Attributes:
        mistake: its short name: `missing_derivative`.
        text: what the array would then be, and where this happens; it follows "It is ".
        rank: how far-fetched it is; of two that fit equally well the lower is told first.
        everywhere: whether it is made in the sweep and so touches other quantities as well.
    """

    __slots__ = ("_predict", "everywhere", "mistake", "rank", "text")

    def __init__(
        self,
        mistake: str,
        text: str,
        rank: float,
        predict: Callable[[Target], Any],
        everywhere: bool = False,
    ) -> None:
        self.mistake = mistake
        self.text = text
        self.rank = rank
        self.everywhere = everywhere
        self._predict = predict

    def predict(self, target: Target) -> Array | None:
        """What the mistake would give; None where it cannot be made."""
        try:
            with np.errstate(all="ignore"):
                predicted = self._predict(target)
        except DoesNotApplyError:
            return None
        return None if predicted is None else np.asarray(predicted)

    def __repr__(self) -> str:
        return f"<hypothesis {self.mistake}: {self.text}>"


def in_sweep(mistake: str, text: str, rank: float, sweep: Callable[[], Flight]) -> Hypothesis:
    """A mistake that is made in the sweep, which is run once, when it is first asked for."""
    kept: list[Any] = []

    def predict(target: Target) -> Any:
        if not kept:
            try:
                kept.append(sweep())
            except DoesNotApplyError as reason:
                kept.append(reason)
        if isinstance(kept[0], DoesNotApplyError):
            raise kept[0]
        return target.of(kept[0])

    return Hypothesis(mistake, text, rank, predict, everywhere=True)


# --- all of them --------------------------------------------------------------------------------


def hypotheses(graph: Graph, targets: Sequence[Target]) -> Iterator[Hypothesis]:
    """What may have gone wrong in this graph, the likely before the far-fetched.

    Args:
        graph: the recorded one.
        targets: the quantities whose gradients were given.
    """
    recurrence = recurrence_of(graph)
    yield Hypothesis(
        "zero",
        "zero everywhere: never assigned perhaps, or the parameter is cut off on the way",
        3.5,
        lambda target: np.zeros(target.shape),
    )
    yield from _of_activations(graph, recurrence)
    yield from _of_the_output(graph)
    yield from _of_biases(graph)
    yield from _of_time(graph, recurrence)
    yield from _of_samples(graph, targets)
    yield from _of_products(graph, recurrence)
    yield from _of_penalties(graph)
    yield from _of_other_parameters(graph)
    yield from _of_order(graph)


def _of_activations(graph: Graph, recurrence: Recurrence) -> Iterator[Hypothesis]:
    yield Hypothesis(
        "delta_of_activation",
        "what comes of the delta ∂C/∂a after the activation, where ∂C/∂z before it belongs: "
        "δ_z = σ'(z) ⊙ δ_a",
        2.5,
        lambda target: shares.delta_of_activation(graph, target),
    )
    for where, nodes, extra in groups(graph, recurrence):
        for mistake, text, way in _WAYS:
            yield in_sweep(
                mistake,
                text.format(where=where),
                2.0 + extra,
                lambda nodes=nodes, way=way: wrong.at_activations(graph, nodes, way),  # type: ignore[misc]
            )
    if graph.activations:
        yield in_sweep(
            "derivative_missing_in_recursion",
            "the gradient with σ'(z) in the parameters' own gradients, but forgotten where the "
            "delta is handed further down",
            2.6,
            lambda: wrong.without_derivative_in_recursion(graph),
        )


_WAYS = [
    (
        "missing_derivative",
        "the gradient without the factor σ'(z) {where}: δ = (Wᵀ δ) ⊙ σ'(z)",
        wrong.without_derivative,
    ),
    (
        "derivative_at_output",
        "the gradient with σ'(a) {where}, where σ'(z) belongs: σ' is taken at the input of σ",
        wrong.derivative_at_output,
    ),
    (
        "formula_at_input",
        "the gradient with the formula of σ' in terms of the output, a(1 − a) or 1 − a², computed "
        "of z {where}",
        wrong.formula_at_input,
    ),
    (
        "derivative_twice",
        "the gradient with the factor σ'(z) twice {where}",
        wrong.derivative_twice,
    ),
]


def groups(graph: Graph, recurrence: Recurrence) -> list[tuple[str, list[Node], float]]:
    """Activations that a mistake may touch: all, those of one layer, all but the last layer's.

    Returns:
        For each where it is, the nodes, and how far-fetched it is.
    """
    layers: dict[Any, list[Node]] = {}
    for node in graph.activations:
        layers.setdefault(_layer(graph, node, recurrence), []).append(node)
    if not layers:
        return []
    found = [("at every activation", graph.activations, 0.0)]
    if 1 < len(layers) <= MOST_GROUPS:
        found += [(f"at {_called(nodes[-1])}", nodes, 0.3) for nodes in layers.values()]
    if len(layers) > 2:
        last = list(layers.values())[-1]
        outer = set(last)
        hidden = [node for node in graph.activations if node not in outer]
        found.append((f"at every activation but {_called(last[-1])}", hidden, 0.2))
    by_rule: dict[str, list[Node]] = {}
    for node in graph.activations:
        by_rule.setdefault(node.rule.name, []).append(node)
    if 1 < len(by_rule) < len(layers):
        found += [(f"at every {name}", nodes, 0.4) for name, nodes in by_rule.items()]
    return found


def _layer(graph: Graph, node: Node, recurrence: Recurrence) -> Any:
    """What the activations of one layer share: name and module, at all time steps."""
    place, operand = place_of(node), place_of(next(x for _, x, _ in edges(node)))
    symbol = place.symbol or operand.symbol
    if symbol:
        return place.layer, symbol
    step = recurrence.step(node)
    if step is None:
        return node
    same = [n for n in graph.activations if recurrence.step(n) == step and n.rule is node.rule]
    return place.layer, node.rule.name, [n is node for n in same].index(True)


def _called(node: Node) -> str:
    operand = place_of(next(x for _, x, _ in edges(node)))
    name = place_of(node).symbol or (operand.symbol and f"{node.rule.name}({operand.symbol})")
    return name or f"the {node.rule.name}"


def _of_the_output(graph: Graph) -> Iterator[Hypothesis]:
    softmaxes = [n for n in wrong.softmaxes(graph) if n.rule.name == "softmax"]
    if softmaxes:
        yield in_sweep(
            "softmax_elementwise",
            "the gradient with the softmax taken for an elementwise function, a(1 − a), where its "
            "whole Jacobian belongs",
            2.1,
            lambda: wrong.softmax_elementwise(graph),
        )
        yield in_sweep(
            "missing_derivative",
            "the gradient without the softmax's Jacobian",
            2.1,
            lambda: wrong.at_activations(graph, softmaxes, wrong.without_derivative),
        )
    if wrong.softmaxes(graph):
        yield in_sweep(
            "binary_cross_entropy_on_softmax",
            "the gradient of the binary cross-entropy, −y log ŷ − (1 − y) log(1 − ŷ), beside a "
            "softmax, where the loss is −Σ y log ŷ",
            2.2,
            lambda: wrong.binary_cross_entropy_on_softmax(graph),
        )
    if graph.fused:
        yield in_sweep(
            "derivative_at_logits",
            "the gradient with another factor ŷ(1 − ŷ) at the output, where the cross-entropy has "
            "cancelled it already: δ = ŷ − y",
            2.1,
            lambda: wrong.derivative_at_logits(graph),
        )


def _of_biases(graph: Graph) -> Iterator[Hypothesis]:
    yield Hypothesis(
        "unsummed",
        "not summed over the samples: the same bias serves all of them, so their deltas add up",
        1.2,
        lambda target: shares.unsummed(graph, target),
    )
    yield Hypothesis(
        "wrong_axis",
        "summed over the features, where the samples are to be summed: axis 1 for axis 0",
        1.3,
        lambda target: shares.unsummed(graph, target).sum(axis=-1),
    )


def _of_time(graph: Graph, recurrence: Recurrence) -> Iterator[Hypothesis]:
    steps = recurrence.steps
    if not steps or len(steps) > MOST_STEPS:
        return
    per_step = cache(recurrence.shares)
    for i, t in enumerate(steps):
        yield Hypothesis(
            "only_step",
            f"the share of {_nth(i, steps)} alone, t = {t}; the uses at all steps add up",
            3.0 + 0.2 * (0 < i < len(steps) - 1),
            lambda target, t=t: per_step(target).get(t),  # type: ignore[misc]
        )
        yield Hypothesis(
            "missing_step",
            f"the gradient without the share of {_nth(i, steps)}, t = {t}",
            3.1 + 0.2 * (0 < i < len(steps) - 1),
            lambda target, t=t: _without(per_step(target), t),  # type: ignore[misc]
        )
    last = steps[-1]
    yield in_sweep(
        "last_loss_only",
        f"the gradient of the last step's loss alone, t = {last}; the loss is a sum over t",
        3.0,
        lambda: wrong.loss_of_step(graph, recurrence, last),
    )
    yield in_sweep(
        "no_recursion",
        "the gradient with h(t−1) taken for a constant: nothing is handed back in time",
        3.0,
        lambda: wrong.sliding(graph, recurrence, 1),
    )
    for k in range(2, len(steps)):
        yield in_sweep(
            "truncated",
            f"the gradient truncated to {k} steps: only terms of lag less than {k}",
            3.3,
            lambda k=k: wrong.sliding(graph, recurrence, k),  # type: ignore[misc]
        )
        yield in_sweep(
            "truncated_blocks",
            f"the gradient truncated in blocks of {k} steps: the state is detached between them",
            3.4,
            lambda k=k: wrong.blocks(graph, recurrence, k),  # type: ignore[misc]
        )


def _nth(i: int, steps: Sequence[int]) -> str:
    if i in (0, len(steps) - 1):
        return "the first time step" if not i else "the last time step"
    return "one time step"


def _without(shares: dict[int, Any], t: int) -> Any:
    rest = [share for step, share in shares.items() if step != t]
    return sum(rest) if rest and t in shares else None


def _of_samples(graph: Graph, targets: Sequence[Target]) -> Iterator[Hypothesis]:
    samples = cache(lambda target: shares.samples_of(graph, target))
    most = max((len(samples(target)) for target in targets), default=0)
    if not 1 < most <= MOST_SAMPLES:
        return

    def share(target: Target, i: int) -> Any:
        if len(samples(target)) != most:
            raise DoesNotApplyError("it is not used once per sample")
        return samples(target)[i]()

    for i in range(most):
        where = {0: "the first sample, 0", most - 1: f"the last sample, {i}"}.get(i, f"sample {i}")
        yield Hypothesis(
            "missing_sample",
            f"the gradient without the share of {where}",
            3.2,
            lambda target, i=i: target.of(graph.right) - share(target, i),  # type: ignore[misc]
        )
        yield Hypothesis(
            "only_sample",
            f"the share of {where}, alone",
            3.2,
            lambda target, i=i: share(target, i),  # type: ignore[misc]
        )


def _of_products(graph: Graph, recurrence: Recurrence) -> Iterator[Hypothesis]:
    squares = wrong.square_products(graph)
    if squares:
        yield in_sweep(
            "not_transposed",
            "the gradient with δ handed down through W, where Wᵀ belongs",
            3.5,
            lambda: wrong.not_transposed(graph),
        )
    weights = {node.operands[1] for node in squares}
    for weight in weights if 1 < len(weights) <= MOST_GROUPS else ():
        nodes = [node for node in squares if node.operands[1] is weight]
        yield in_sweep(
            "not_transposed",
            f"the gradient with δ handed down through {graph.names.get(weight, 'W')}, where its "
            "transpose belongs",
            3.6,
            lambda nodes=nodes: wrong.not_transposed(graph, nodes),  # type: ignore[misc]
        )
    if recurrence:
        yield Hypothesis(
            "later_state",
            "the gradient formed with h(t), where the recurrent weights multiply h(t−1)",
            3.4,
            lambda target: shares.later_state(graph, target, recurrence),
        )
    yield Hypothesis(
        "own_output",
        "the gradient formed with the layer's own output, where its input belongs: δˡ aˡ⁻¹ᵀ",
        3.6,
        lambda target: shares.with_other_input(graph, target, shares.own_output),
    )
    yield Hypothesis(
        "weighted_input",
        "the gradient formed with z of the layer below, where its activation a belongs",
        3.6,
        lambda target: shares.with_other_input(graph, target, shares.weighted_input),
    )


def _of_penalties(graph: Graph) -> Iterator[Hypothesis]:
    def times(factor: float) -> Callable[[Target], Any]:
        def predict(target: Target) -> Any:
            added = wrong.penalty(graph, target)
            return None if added is None else target.of(graph.right) + (factor - 1.0) * added

        return predict

    parameters = parameters_of(graph)
    if all(wrong.penalty(graph, target) is None for target in parameters):
        return
    for factor, how in ((0.0, "without"), (2.0, "with twice"), (0.5, "with half"), (-1.0, "minus")):
        name = "penalty_forgotten" if not factor else "penalty_factor"
        text = f"the gradient {how} the regularisation's share"
        yield Hypothesis(name, text, 2.8, times(factor))
    found = wrong.strength(graph, parameters)

    def of_bias(target: Target) -> Any:
        if found is None or wrong.penalty(graph, target) is not None:
            return None
        numbers = target.numbers(graph)
        return None if numbers is None else target.of(graph.right) + found * numbers

    text = "the gradient with a share λ b of the regularisation, which the loss leaves free"
    yield Hypothesis("penalty_on_bias", text, 2.8, of_bias)


def _of_other_parameters(graph: Graph) -> Iterator[Hypothesis]:
    parameters = parameters_of(graph)
    for other in parameters if len(parameters) <= 50 else ():
        yield Hypothesis(
            "other_parameter",
            f"the gradient of {other.name}",
            1.5,
            lambda target, other=other: (  # type: ignore[misc]
                None if target.is_same(other) else other.of(graph.right)
            ),
        )


def _of_order(graph: Graph) -> Iterator[Hypothesis]:
    yield in_sweep(
        "overwriting",
        "what is left when every use overwrites the gradient, where contributions add up",
        3.7,
        lambda: wrong.overwritten(graph),
    )
    yield in_sweep(
        "no_topological_order",
        "what comes of handing on gradients before they are complete: without topological order",
        3.8,
        lambda: wrong.first_come(graph),
    )
    yield in_sweep(
        "every_arrival",
        "what comes of handing on a gradient at every arrival, and so several times",
        3.9,
        lambda: wrong.every_arrival(graph),
    )


# --- weights that were updated already ----------------------------------------------------------


def after_update(
    graph: Graph, given: Sequence[tuple[Target, Array]], learning_rate: float | None
) -> Hypothesis | None:
    """Deltas handed through weights that were updated already, at the learning rate that fits best.

    Args:
        graph: the recorded one.
        given: arrays that are not right, with what they are given for.
        learning_rate: if it is known.
    """
    try:
        rate = _fitted_rate(graph, given) if learning_rate is None else learning_rate
        if rate is None:
            return None
        text = (
            "the gradient with deltas handed through weights that were updated already, at a "
            f"learning rate of {rate:.4g}: update after the whole sweep"
        )
        flight = wrong.after_update(graph, rate)
    except DoesNotApplyError:
        return None
    return in_sweep("updated_weights", text, 3.5, lambda: flight)


def _fitted_rate(graph: Graph, given: Sequence[tuple[Target, Array]]) -> float | None:
    """The learning rate that explains what is nearest to the loss.

    There the weights above have the right gradient, so the wrong one is linear in the rate.
    """
    place = {node: i for i, node in enumerate(graph.order)}
    trial = 0.01
    flight = wrong.after_update(graph, trial)

    def height(target: Target) -> int:
        return max((place[use.node] for uses in target.uses(graph) for use in uses), default=0)

    for target, array in sorted(given, key=lambda pair: height(pair[0]), reverse=True):
        right = target.of(graph.right)
        change = target.of(flight) - right
        if array.shape != right.shape or not change.any():
            continue
        rate = trial * float(np.vdot(array - right, change) / np.vdot(change, change))
        if not 1e-8 < rate < 100.0:
            return None
        short = float(f"{rate:.3g}")  # as people choose it
        return short if abs(rate - short) < 1e-6 * short else rate
    return None
