"""A museum of wrong gradients: your own graph under a known-wrong rule, beside the right one.

Each function here runs one mistake on the recorded graph of a loss and shows what comes of it;
`museum(loss)` runs all that can be made there. The rules are in `wrong`, and never in the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinygrad_bp.arguments import count, finite, integer, several
from tinygrad_bp.explain import shares, wrong
from tinygrad_bp.explain.museum import Mistake, Museum, Parameters, Prose, Rule, made
from tinygrad_bp.explain.resweep import Flight, Graph
from tinygrad_bp.explain.sizes import Sizes
from tinygrad_bp.explain.targets import Target
from tinygrad_bp.explain.wrong import DoesNotApplyError
from tinygrad_bp.graph import Node
from tinygrad_bp.scalars import Values


def _swept(sweep: Callable[[Graph], Flight]) -> Rule:
    """A rule that is made in the sweep."""

    def rule(graph: Graph) -> Callable[[Target], Any]:
        flight = sweep(graph)
        return lambda target: target.of(flight)

    return rule


# --- the exhibits -------------------------------------------------------------------------------


def overwriting(loss: Any, parameters: Parameters = None) -> Mistake:
    """Every use of a node overwrites its gradient, instead of adding to it.

    Args:
        loss: the node that is differentiated, a single number.
        parameters: nodes, arrays of Values or names; all leaves, if not given. It is so for all
            functions here.

    Raises:
        ValueError: the mistake cannot be made on this graph.
    """
    prose = Prose(
        "Each use of a node overwrites its gradient: grad = local * g for grad += local * g.",
        "Nearly everybody's first engine; d(x·x)/dx then is 3 at x = 3.",
        "Whatever is used once is right. Shared weights and residual connections are not.",
    )
    return made(loss, parameters, "overwriting", _swept(wrong.overwritten), prose)


def no_topological_order(loss: Any, parameters: Parameters = None) -> Mistake:
    """Every node hands on once, when it is first met, before its own gradient is complete."""
    prose = Prose(
        "Nodes are visited as they are met, breadth first, and hand on what they have by then.",
        "Who walks the graph with a queue and a set of visited nodes, and leaves out the sort.",
        "Chains and trees are right; where two ways of different length meet again, the longer "
        "one is lost below.",
    )
    return made(loss, parameters, "no_topological_order", _swept(wrong.first_come), prose)


def every_arrival(loss: Any, parameters: Parameters = None) -> Mistake:
    """Every node hands on all it has so far whenever something arrives, and so several times."""
    prose = Prose(
        "A recursive backward adds to a parent's gradient and at once calls the parent, which "
        "hands on what it has handed on before.",
        "Who writes the recursion of the chain rule down as it stands.",
        "b = a + a; c = b + b gives 6 for dc/da, not 4; and the time is exponential in the depth.",
    )
    return made(loss, parameters, "every_arrival", _swept(wrong.every_arrival), prose)


def first_month(loss: Any, parameters: Parameters = None) -> Mistake:
    """Gradients are overwritten, and handed on at every arrival: no sum and no order."""

    def rule(graph: Graph) -> Flight:
        return wrong.every_arrival(graph, overwrite=True)

    prose = Prose(
        "A recursive backward overwrites a parent's gradient and at once calls the parent.",
        "The first month of tinygrad, before its topological sort.",
        "d(x·x)/dx = 3 at x = 3: of all paths to a node only the last one counts.",
    )
    return made(loss, parameters, "first_month", _swept(rule), prose)


def not_zeroed(loss: Any, parameters: Parameters = None, *, passes: int = 2) -> Mistake:
    """The gradients of several passes over the same data pile up.

    Args:
        loss, parameters: as everywhere here.
        passes: how many times `backward()` ran since the last `zero_grad()`.
    """
    count(passes, "passes")
    prose = Prose(
        f"`backward()` has run {passes} times since the last `zero_grad()`.",
        "Every user of an engine that accumulates, once.",
        "All gradients are too large by the same factor; training seems to work, at a rate of "
        "learning that grows, and then diverges.",
    )

    def rule(graph: Graph) -> Callable[[Target], Any]:
        return lambda target: sum([target.of(graph.right)] * passes)

    return made(loss, parameters, "not_zeroed", rule, prose)


def updated_weights(
    loss: Any, parameters: Parameters = None, *, learning_rate: float = 0.5
) -> Mistake:
    """Deltas are handed down through weights that were updated already.

    Args:
        loss, parameters: as everywhere here.
        learning_rate: of the update `W - learning_rate * ∂C/∂W`.
    """
    rate = finite(learning_rate, "learning_rate")

    def rule(graph: Graph) -> Flight:
        return wrong.after_update(graph, rate)

    prose = Prose(
        "Each layer is updated as soon as its gradient is there, and the delta of the layer below "
        "goes through the new weights.",
        "Loops that update on the way down. A famous worked example of a 2-2-2 network prints a "
        "total error of 0.291027924 after one step; it is 0.291027774.",
        "The last layer is right, all below are off by a little, in proportion to the learning "
        "rate: the loss still falls, and nobody notices.",
    )
    return made(loss, parameters, "updated_weights", _swept(rule), prose)


def _at_activations(way: wrong.Way) -> Rule:
    def sweep(graph: Graph) -> Flight:
        if not graph.activations:
            raise DoesNotApplyError("there is no activation")
        return wrong.at_activations(graph, graph.activations, way)

    return _swept(sweep)


def missing_derivative(loss: Any, parameters: Parameters = None) -> Mistake:
    """The factor σ'(z) is forgotten at every activation."""
    prose = Prose(
        "δ = Wᵀ δ where δ = (Wᵀ δ) ⊙ σ'(z) is right (E3).",
        "Derivations that go straight from layer to layer.",
        "Gradients are too large, by 4 or more per layer of sigmoids; signs are often right.",
    )
    rule = _at_activations(wrong.without_derivative)
    return made(loss, parameters, "missing_derivative", rule, prose)


def derivative_at_output(loss: Any, parameters: Parameters = None) -> Mistake:
    """σ' is taken at the activation a, where it belongs at the weighted input z."""
    prose = Prose(
        "σ'(a) where σ'(z) is right: the derivative's function is called with the layer's output.",
        "Code with sigmoid_prime(z) that has only kept a.",
        "Of the right sign and size: a sigmoid's derivative then is always about 0.2. relu hides "
        "it: its derivative is the same at z and at a.",
    )
    rule = _at_activations(wrong.derivative_at_output)
    return made(loss, parameters, "derivative_at_output", rule, prose)


def formula_at_input(loss: Any, parameters: Parameters = None) -> Mistake:
    """The formula of σ' in terms of the output, a(1 - a) or 1 - a², is computed of z."""
    prose = Prose(
        "z(1 − z) for a sigmoid and 1 − z² for a tanh, where a(1 − a) and 1 − a² are right.",
        "Code with x * (1 - x) that is called with z; the other half of the pair above.",
        "Gradients explode, or change sign, where |z| > 1.",
    )
    rule = _at_activations(wrong.formula_at_input)
    return made(loss, parameters, "formula_at_input", rule, prose)


def delta_of_activation(loss: Any, parameters: Parameters = None) -> Mistake:
    """Parameters' gradients are formed with δ_a = ∂C/∂a, where δ_z = ∂C/∂z belongs."""

    def rule(graph: Graph) -> Callable[[Target], Any]:
        return lambda target: shares.delta_of_activation(graph, target)

    prose = Prose(
        "∂C/∂W = δ_a xᵀ where δ_z xᵀ is right, with δ_z = σ'(z) ⊙ δ_a.",
        "Texts that change the meaning of δ between a feed-forward and a recurrent network.",
        "The deltas themselves are right; every gradient below an activation lacks one σ'.",
    )
    return made(loss, parameters, "delta_of_activation", rule, prose)


def derivative_missing_in_recursion(loss: Any, parameters: Parameters = None) -> Mistake:
    """σ'(z) stands in the parameters' gradients and is forgotten on the way down."""
    prose = Prose(
        "δ(t) = Vᵀ(ŷ − y) + Wᵀ δ(t+1), where Wᵀ diag(1 − h(t+1)²) δ(t+1) is right (E24).",
        "The same two meanings of δ, mixed the other way round.",
        "The last layer, or time step, is right; the further down, the more is missing.",
    )
    sweep = wrong.without_derivative_in_recursion
    return made(loss, parameters, "derivative_missing_in_recursion", _swept(sweep), prose)


def not_transposed(loss: Any, parameters: Parameters = None) -> Mistake:
    """The delta is handed down through W where its transpose belongs."""
    prose = Prose(
        "W δ where Wᵀ δ is right; with square matrices no shape complains.",
        "Who mixes the conventions of rows and columns; recurrent matrices are always square.",
        "Layers of different widths fail at once; square ones train badly.",
    )
    return made(loss, parameters, "not_transposed", _swept(wrong.not_transposed), prose)


def softmax_elementwise(loss: Any, parameters: Parameters = None) -> Mistake:
    """The softmax is treated as if it were elementwise: only its Jacobian's diagonal counts."""
    prose = Prose(
        "δ = (∂C/∂a) ⊙ a(1 − a) where δ = Jᵀ ∂C/∂a is right (E2).",
        "Texts that claim δ = (∂C/∂a) ⊙ σ'(z) for every output layer.",
        "The deltas of a sample no longer sum to zero.",
    )
    sweep = wrong.softmax_elementwise
    return made(loss, parameters, "softmax_elementwise", _swept(sweep), prose)


def binary_cross_entropy_on_softmax(loss: Any, parameters: Parameters = None) -> Mistake:
    """Binary cross-entropy is differentiated beside a softmax output."""
    prose = Prose(
        "The terms (1 − y) log(1 − ŷ) are counted as well, though the outputs are one "
        "distribution and not several.",
        "Texts that write the binary form of the loss beside a softmax.",
        "∂C/∂o is no longer ŷ − y (E22); the network still learns.",
    )
    sweep = wrong.binary_cross_entropy_on_softmax
    return made(loss, parameters, "binary_cross_entropy_on_softmax", _swept(sweep), prose)


def sum_for_mean(loss: Any, parameters: Parameters = None) -> Mistake:
    """The sum over the samples is differentiated, where the loss takes their mean."""

    def rule(graph: Graph) -> Callable[[Target], Any]:
        m = Sizes(graph).samples
        if m == 1:
            raise DoesNotApplyError("there is one sample, or no batch to be seen")
        return lambda target: target.of(graph.right) * m

    prose = Prose(
        "Δ accumulates over the samples and is never divided by m (E12).",
        "Derivations of a single sample that are then looped over a batch.",
        "All gradients are m times too large; the learning rate has to shrink with the batch.",
    )
    return made(loss, parameters, "sum_for_mean", rule, prose)


def missing_sample(loss: Any, parameters: Parameters = None, *, sample: int = -1) -> Mistake:
    """One sample of the batch is forgotten.

    Args:
        loss, parameters: as everywhere here.
        sample: which; the last, if not given.

    Raises:
        ValueError: the batch has no such sample.
    """
    integer(sample, "sample")

    def rule(graph: Graph) -> Callable[[Target], Any]:
        def predict(target: Target) -> Any:
            samples = shares.samples_of(graph, target)
            if not -len(samples) <= sample < len(samples) or len(samples) < 2:
                raise DoesNotApplyError(f"there is no sample {sample} among {len(samples)}")
            return target.of(graph.right) - samples[sample]()

        return predict

    prose = Prose(
        "A loop over the samples ends one too early, or begins at 1.",
        "Who translates a sum from 1 to m into indices from 0.",
        "Nothing shows in training; a check of the gradient fails on small batches.",
    )
    return made(loss, parameters, "missing_sample", rule, prose)


def later_state(loss: Any, parameters: Parameters = None) -> Mistake:
    """The recurrent weights' gradient is formed with h(t), where they multiply h(t-1)."""

    def rule(graph: Graph) -> Callable[[Target], Any]:
        recurrence = wrong.needs_time(graph)
        return lambda target: shares.later_state(graph, target, recurrence)

    prose = Prose(
        "Σ δ(t) h(t)ᵀ where Σ δ(t) h(t−1)ᵀ is right (E26).",
        "Lists of states whose first entry is h(1), indexed as if it were h(0).",
        "Only the recurrent matrix is spoilt; all other gradients are right.",
    )
    return made(loss, parameters, "later_state", rule, prose)


def only_last_step(loss: Any, parameters: Parameters = None) -> Mistake:
    """Only the last time step's use of each parameter is counted."""
    prose = Prose(
        "∂C/∂W is taken from the last step alone; the earlier uses of W are forgotten (E18).",
        "Who derives one step, and reads W as W(τ).",
        "Short memories are learned, long ones are not.",
    )
    return made(loss, parameters, "only_last_step", _of_shares(lambda s: s[-1:]), prose)


def truncation_off_by_one(loss: Any, parameters: Parameters = None) -> Mistake:
    """The loop back through time ends one step early: the first step's uses are not counted."""
    prose = Prose(
        "The loop runs from τ down to 2, and the first step's share is lost.",
        "range(T - 1, 0, -1) where range(T - 1, -1, -1) is meant.",
        "The recurrent matrix is right if h(0) is zero, so a test on it alone passes.",
    )
    return made(loss, parameters, "truncation_off_by_one", _of_shares(lambda s: s[1:]), prose)


def _of_shares(chosen: Callable[[list[Any]], list[Any]]) -> Rule:
    """A rule that counts some of the time steps' shares."""

    def rule(graph: Graph) -> Callable[[Target], Any]:
        recurrence = wrong.needs_time(graph)

        def predict(target: Target) -> Any:
            steps = recurrence.shares(target)
            if len(steps) < 2:
                raise DoesNotApplyError(f"{target.name} is not used at every time step")
            return sum(chosen(list(steps.values())))

        return predict

    return rule


def _in_time(sweep: Callable[[Graph, Any], Flight]) -> Rule:
    return _swept(lambda graph: sweep(graph, wrong.needs_time(graph)))


def last_loss_only(loss: Any, parameters: Parameters = None) -> Mistake:
    """Only the last step's loss is differentiated, though the loss is a sum over the steps."""
    prose = Prose(
        "∂E_τ/∂W where Σ_t ∂E_t/∂W is right (E21).",
        "Texts that write E = Σ E_t and then derive the last term.",
        "The output matrix sees the last step alone; earlier outputs are never trained.",
    )
    rule = _in_time(lambda graph, time: wrong.loss_of_step(graph, time, time.steps[-1]))
    return made(loss, parameters, "last_loss_only", rule, prose)


def no_recursion(loss: Any, parameters: Parameters = None) -> Mistake:
    """The state h(t-1) is taken for a constant: nothing is handed back in time."""
    prose = Prose(
        "∂h(t)/∂W = σ' h(t−1)ᵀ, forgetting that h(t−1) depends on W as well.",
        "The product rule with its second term left out; a stray detach().",
        "What needs memory is not learned; everything else is.",
    )
    rule = _in_time(lambda graph, time: wrong.sliding(graph, time, 1))
    return made(loss, parameters, "no_recursion", rule, prose)


def penalty_forgotten(loss: Any, parameters: Parameters = None) -> Mistake:
    """The regularisation is in the loss and not in the gradient."""

    def rule(graph: Graph) -> Callable[[Target], Any]:
        def predict(target: Target) -> Any:
            added = wrong.penalty(graph, target)
            if added is None:
                raise DoesNotApplyError("there is no penalty on it")
            return target.of(graph.right) - added

        return predict

    prose = Prose(
        "∂C/∂W without λ W (E12).",
        "Who adds the penalty to the cost, and leaves the backward pass as it was.",
        "Weights grow as without the penalty; the difference of two runs is exactly λ W.",
    )
    return made(loss, parameters, "penalty_forgotten", rule, prose)


EXHIBITS: tuple[Callable[..., Mistake], ...] = (
    overwriting, no_topological_order, every_arrival, first_month, not_zeroed, updated_weights,
    missing_derivative, derivative_at_output, formula_at_input, delta_of_activation,
    derivative_missing_in_recursion, not_transposed, softmax_elementwise,
    binary_cross_entropy_on_softmax, sum_for_mean, missing_sample, penalty_forgotten, later_state,
    only_last_step, truncation_off_by_one, last_loss_only, no_recursion,
)  # fmt: skip


def museum(loss: Any, parameters: Parameters = None, *, learning_rate: float = 0.5) -> Museum:
    """Run every mistake that can be made on the graph of a loss.

    Args:
        loss: the node that is differentiated, a single number.
        parameters: nodes, arrays of Values or names; all leaves, if not given.
        learning_rate: for the mistakes that need one.

    Example:
        >>> x = Value(3.0, "x")
        >>> museum(x * x)["overwriting"].wrong["x"]
        array(3.)
    """
    graph = Graph(loss)
    one = isinstance(parameters, (str, Node, Values))
    asked: Any = parameters
    if parameters is not None and not one:
        asked = several(parameters, "parameters", "nodes or names")
    learning_rate = finite(learning_rate, "learning_rate")
    on_show, skipped = {}, {}
    for exhibit in EXHIBITS:
        options = {"learning_rate": learning_rate} if exhibit is updated_weights else {}
        try:
            mistake = exhibit(graph, asked, **options)
        except DoesNotApplyError as reason:
            skipped[exhibit.__name__] = str(reason).removeprefix(f"{exhibit.__name__}: ")
        else:
            on_show[mistake.name] = mistake
    return Museum(on_show, skipped)
