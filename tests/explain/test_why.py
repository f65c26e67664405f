"""Why a gradient is what it is: each cause planted in random networks, and healthy ones left alone.

Every network is judged twice, with arrays and weight by weight.
"""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.explain import why

seeds = st.integers(0, 2**32 - 1)
in_both_views = pytest.mark.parametrize("scalar", [False, True], ids=["arrays", "weights"])


class Plant:
    """A random network and its data; `scalar` for its view weight by weight."""

    def __init__(self, seed, scalar, activations="tanh", depth=2):
        random = np.random.default_rng(seed)
        self.scalar = scalar
        sizes = [int(n) for n in random.integers(2, 6, size=depth + 1)]
        self.samples = int(random.integers(1, 6))
        self.model = nn.MLP(sizes, activations, rng=random)
        self.x = random.normal(size=(self.samples, sizes[0]))
        self.y = random.normal(size=(self.samples, sizes[-1]))
        self.random = random

    def viewed(self):
        return self.model.scalar_view() if self.scalar else self.model

    def node(self, array, label=""):
        return (tb.values if self.scalar else tb.Tensor)(array, label)

    def why_first(self, loss=nn.squared_error):
        """Of the first layer's weights."""
        model = self.viewed()
        return why(loss(model(self.x), self.y), model.layers[0].W)


def judged(found, status, cause, *words):
    assert (found.status, found.cause) == (status, cause), found.verdict
    for word in words:
        assert word in found.verdict
    assert found.verdict in found.text()
    assert found.verdict.split(":")[0] in found.html().replace("&#x27;", "'")


# --- what is ordinary ---------------------------------------------------------------------------


ACTIVATIONS = ["tanh", "sigmoid", "softplus", "gelu", "silu", "elu", "leaky_relu"]


@in_both_views
@pytest.mark.parametrize("activation", ACTIVATIONS)
@given(seed=seeds)
def test_a_healthy_network_is_ordinary(scalar, activation, seed):
    plant = Plant(seed, scalar, activation, depth=3)
    model = plant.viewed()
    loss = nn.squared_error(model(plant.x), plant.y)
    found = why(loss)
    assert set(found.column("gradient")) == {"ordinary"}, found
    assert found.column("cause") == [None] * 6
    assert "none of 6 not ordinary" in found.title


@in_both_views
@given(seed=seeds)
def test_a_healthy_recurrent_network_is_ordinary(scalar, seed):
    model = nn.CharRNN(3, 4, rng=seed)
    model = model.scalar_view() if scalar else model
    symbols = np.random.default_rng(seed).integers(0, 3, size=6)
    logits, _ = model(np.eye(3)[symbols][:, None], model.cell.initial_state(1))
    losses = [nn.cross_entropy(o, np.array([1])) for o in logits]
    found = why(sum(losses[1:], losses[0]))
    assert set(found.column("gradient")) == {"ordinary"}, found


@in_both_views
@given(seed=seeds)
def test_the_factors_make_the_gradient(scalar, seed):
    plant = Plant(seed, scalar)
    found = plant.why_first()
    assert found.sizes[0] == 1.0
    assert found.size == np.abs(found.gradient).max()
    made = math.prod(link.factor * link.added for link in found.links)
    assert made == pytest.approx(found.size, rel=1e-12)
    np.testing.assert_allclose(found.factors, [link.factor for link in found.links])


@in_both_views
def test_gradients_are_those_of_backward_and_none_is_written(scalar):
    plant = Plant(1, scalar)
    model = plant.viewed()
    loss = nn.squared_error(model(plant.x), plant.y)
    found = why(loss, model.layers[0].W)
    assert model.layers[0].W.grad is None
    loss.backward()
    np.testing.assert_array_equal(found.gradient, model.layers[0].W.grad)


def test_the_loss_itself():
    x = tb.Value(2.0, "x")
    y = x * x
    found = why(y, y)
    assert (found.status, found.size, found.links) == ("ordinary", 1.0, ())
    assert found.text() == "∂L/∂L is ordinary, 1"
    assert why(y, y, tiny=2.0).cause == "the loss"


@given(seed=seeds)
def test_single_precision(seed):
    model = nn.MLP([3, 4, 2], ["sigmoid", "identity"], rng=seed, dtype=np.float32)
    x = np.ones((5, 3), np.float32)
    loss = nn.squared_error(model(x), np.full((5, 2), 3.0))
    assert set(why(loss).column("gradient")) == {"ordinary"}
    model.layers[0].b.data[:] = 60.0
    loss = nn.squared_error(model(x), np.full((5, 2), 3.0))
    judged(why(loss, model.layers[0].W), "tiny", "saturated", "sigmoid a1")


@pytest.mark.parametrize("size", [1.01e-6, 0.99e6])
def test_the_bounds_of_what_is_ordinary(size):
    x = tb.Value(1.0, "x")
    assert why(x * size, x).status == "ordinary"
    assert why(x * size, x, tiny=size * 1.1).status == "tiny"
    assert why(x * size, x, huge=size * 0.9).status == "huge"


def test_dead_units_are_mentioned_where_the_others_live():
    model = nn.MLP([3, 6, 1], ["relu", "identity"], rng=0)
    model.layers[0].b.data[[2, 4]] = -50.0
    loss = nn.squared_error(model(np.ones((7, 3))), np.zeros((7, 1)))
    found = why(loss, model.layers[0].W)
    assert found.status == "ordinary"
    dead = np.flatnonzero((found.gradient == 0.0).all(axis=0))
    assert {2, 4} <= set(dead)
    assert (
        f"{len(dead)} of 6 units are off for all 7 samples: {', '.join(map(str, dead))}"
        in (found.notes[0])
    )


# --- zero ---------------------------------------------------------------------------------------


@in_both_views
@given(seed=seeds)
def test_a_dead_relu(scalar, seed):
    plant = Plant(seed, scalar, ["relu", "identity"])
    plant.model.layers[0].b.data[:] = -100.0
    judged(plant.why_first(), "zero", "dead relu", "relu a1", "is off", "z1")


@in_both_views
@pytest.mark.parametrize(("activation", "far"), [("sigmoid", -1000.0), ("tanh", 1000.0)])
@given(seed=seeds)
def test_saturated_beyond_any_float(scalar, activation, far, seed):
    plant = Plant(seed, scalar, [activation, "identity"])
    plant.model.layers[0].b.data[:] = far
    judged(plant.why_first(), "zero", "saturated", f"{activation} a1", "at most 0")


@in_both_views
@given(seed=seeds)
def test_the_softmax_of_one_logit(scalar, seed):
    plant = Plant(seed, scalar)

    def loss(o, y):
        return nn.cross_entropy(o[:, :1], np.zeros(plant.samples, int))

    found = plant.why_first(loss)
    if found.status == "zero":
        judged(found, "zero", "softmax of one logit", "constant")
    else:  # weight by weight, g·(1/e)·e may differ from g by a rounding
        assert scalar
        judged(found, "tiny", "softmax of one logit", "constant")


@in_both_views
@given(seed=seeds)
def test_a_softmax_of_one_logit_as_a_probability(scalar, seed):
    plant = Plant(seed, scalar)

    def loss(o, y):
        return tb.sum(tb.square(tb.softmax(o[:, :1], -1) - 3.0))

    found = plant.why_first(loss)
    assert found.cause == "softmax of one logit", found


@in_both_views
@given(seed=seeds)
def test_the_minimum(scalar, seed):
    plant = Plant(seed, scalar)
    found = plant.why_first(lambda o, y: nn.squared_error(o, o.data))
    judged(found, "zero", "at minimum", "square has its minimum", "z2")


@in_both_views
@given(seed=seeds)
def test_zero_weights(scalar, seed):
    plant = Plant(seed, scalar)
    plant.model.layers[1].W.data[:] = 0.0
    judged(plant.why_first(), "zero", "zero weights", "W2")


@in_both_views
@given(seed=seeds)
def test_a_zero_input(scalar, seed):
    plant = Plant(seed, scalar)
    plant.x[:] = 0.0
    judged(plant.why_first(), "zero", "zero operand", "an input, a mask or an initial state")


@in_both_views
@given(seed=seeds)
def test_a_zero_initial_state(scalar, seed):
    cell = nn.RNNCell(2, 3, rng=seed)
    cell = cell.scalar_view() if scalar else cell
    x = np.random.default_rng(seed).normal(size=(1, 2, 2))
    (h,) = nn.unroll(cell, x, cell.initial_state(2))
    judged(why(tb.sum(h), cell.W), "zero", "zero operand", "initial state")


@in_both_views
@given(seed=seeds)
def test_a_masked_time_step(scalar, seed):
    """Padding: the loss of a step is multiplied by 0, and the step itself gets nothing."""
    plant = Plant(seed, scalar)
    xs = [plant.node(plant.x + t, f"x({t})") for t in range(3)]
    model = plant.viewed()
    losses = [nn.squared_error(model(x), plant.y) * m for x, m in zip(xs, [1, 1, 0], strict=True)]
    loss = losses[0] + losses[1] + losses[2]
    judged(why(loss, xs[2]), "zero", "zero operand", "the constant 0", "a mask")
    assert why(loss, xs[1]).status == "ordinary"


CHOICES = {
    "where": lambda o: tb.where(o > o.data - 1.0, 2.0, o),
    "maximum": lambda o: tb.maximum(o, 1e3),
    "minimum": lambda o: tb.minimum(-1e3, o),
    "clip": lambda o: tb.clip(o, 500.0, 600.0),
}


@in_both_views
@pytest.mark.parametrize("name", CHOICES)
@given(seed=seeds)
def test_masked(scalar, name, seed):
    plant = Plant(seed, scalar)
    found = plant.why_first(lambda o, y: tb.sum(CHOICES[name](o)))
    judged(found, "zero", "masked", name)


@in_both_views
def test_contributions_that_cancel(scalar):
    x = (tb.values if scalar else tb.Tensor)([3.0, 4.0], "x")
    y = nn.named(x * 2.0, "y")
    found = why(tb.sum(y * 5.0 - y * 5.0), x)
    judged(found, "zero", "cancellation", "the contributions to y", "cancel")


def test_contributions_of_single_numbers_are_shown():
    x = tb.Value(3.0, "x")
    found = why(x * 5.0 - x * 5.0, x)
    judged(found, "zero", "cancellation", "the contributions to x cancel: -5 and 5")


def test_a_sum_over_a_broadcast_that_cancels():
    b = tb.Tensor([1.0], "b")
    found = why(tb.sum((b + np.zeros(2)) * np.array([1.0, -1.0])), b)
    judged(found, "zero", "cancellation", "the sum over the elements")
    W, b = tb.Tensor(np.ones((1, 1)), "W"), tb.Tensor([1.0], "b")
    z = tb.linear(np.ones((2, 1)), W, b)
    found = why(tb.sum(z * np.array([[1.0], [-1.0]])), b)
    judged(found, "zero", "cancellation", "the gradients of the samples cancel in b")


@in_both_views
def test_underflow(scalar):
    x = (tb.values if scalar else tb.Tensor)([1.0, 2.0], "x")
    found = why(tb.sum((x * 1e-200) * 1e-200), x)
    judged(found, "zero", "underflow", "the product underflows")


def test_a_mask_that_meets_the_gradient_nowhere():
    x = tb.Tensor([1.0, 2.0, 3.0], "x")
    found = why(tb.sum((x * np.array([0.0, 1.0, 1.0]))[:1]), x)
    judged(found, "zero", "zero operand", "is 0 wherever a gradient arrives")


@pytest.mark.parametrize(
    ("function", "cause"),
    [
        (lambda x: tb.power(x, 3.0), "stationary point"),
        (lambda x: tb.power(x - 0.0, 2.0), "at minimum"),
        (tb.absolute, "stationary point"),
        (tb.cos, "zero derivative"),
        (lambda x: tb.exp(x - 1000.0), "saturated"),
    ],
)
def test_other_places_without_a_slope(function, cause):
    x = tb.Value(0.0, "x")
    judged(why(function(x), x), "zero", cause)
    x = tb.Tensor([0.0, 0.0], "x")
    judged(why(tb.sum(function(x)), x), "zero", cause)


@given(seeds, st.integers(1, 5), st.integers(1, 5))
def test_several_causes_are_counted(seed, dead, masked):
    x = tb.Value(1.0, "x")
    parts = [tb.relu(x - 5.0 - i) for i in range(dead)] + [x * 0.0 for _ in range(masked)]
    np.random.default_rng(seed).shuffle(parts)
    found = why(sum(parts[1:], parts[0]), x)
    assert found.status == "zero"
    assert found.cause in ("dead relu", "zero operand")
    kinds = {"dead relu": dead, "zero operand": masked}
    most = max(kinds.values())
    assert kinds[found.cause] == most
    assert (f"{most - 1} more of the kind" in found.verdict) == (most > 1)
    assert "elsewhere" in found.verdict


def test_a_hook_that_takes_the_gradient():
    x = tb.Value(2.0, "x")
    y = nn.named(x * 3.0, "y")
    y.register_hook(lambda g: 0.0)
    judged(why(y * 5.0, x), "zero", "hook", "a hook of y")
    z = x * 3.0
    z.register_hook(lambda g: 0.0)
    judged(why(z, x), "zero", "hook", "a hook")


# --- not reached --------------------------------------------------------------------------------


@in_both_views
@given(seed=seeds)
def test_detached(scalar, seed):
    plant = Plant(seed, scalar)
    model = plant.viewed()
    h = nn.named(model.layers[0](plant.x), "z1")
    loss = nn.squared_error(model.layers[1](h.detach()), plant.y)
    judged(why(loss, h), "not reached", "detached", "detached, or read from .data")
    judged(why(loss, model.layers[0].W), "not reached", "not reached", "where tracking ends")
    assert not np.any(why(loss, h).gradient)
    assert why(loss, h).gradient.shape == h.shape


def test_a_state_that_is_detached_between_blocks():
    cell = nn.RNNCell(2, 3, rng=0)
    x = np.random.default_rng(0).normal(size=(4, 1, 2))
    start = tb.Tensor(np.ones((1, 3)), "h(0)")
    first = nn.unroll(cell, x[:2], start)
    second = nn.unroll(cell, x[2:], first[-1].detach(), start=3)
    found = why(tb.sum(second[-1]), start)
    judged(found, "not reached", "not reached", "the constant h(2) of shape 1×3 in v")


def test_constants():
    x, c = tb.Tensor([1.0], "x"), tb.Tensor([2.0], "c", requires_grad=False)
    with tb.no_grad():
        d = x * 3.0
    loss = tb.sum(x * c * d)
    for constant in (c, d):
        judged(why(loss, constant), "not reached", "not tracked", "requires no gradient")
    stranger = tb.Value(1.0, "s")
    judged(why(tb.Value(2.0) * 3.0, stranger), "not reached", "not reached", "does not depend")


# --- tiny ---------------------------------------------------------------------------------------


@in_both_views
@pytest.mark.parametrize(("activation", "far"), [("sigmoid", 40.0), ("tanh", -40.0)])
@given(seed=seeds)
def test_saturated(scalar, activation, far, seed):
    plant = Plant(seed, scalar, [activation, "identity"])
    plant.model.layers[0].b.data[:] = far
    found = plant.why_first()
    judged(found, "tiny", "saturated", f"{activation} a1", "z1")
    assert found.blamed.rule == activation
    assert found.blamed.factor == found.factors.min()


@in_both_views
@given(seed=seeds)
def test_near_the_minimum(scalar, seed):
    plant = Plant(seed, scalar)
    found = plant.why_first(lambda o, y: nn.squared_error(o, o.data + 1e-10))
    judged(found, "tiny", "at minimum", "z2")


@in_both_views
@given(seed=seeds)
def test_small_weights(scalar, seed):
    plant = Plant(seed, scalar)
    plant.model.layers[1].W.data[:] *= 1e-12
    judged(plant.why_first(), "tiny", "small weights", "W2")


@in_both_views
@given(seed=seeds)
def test_a_vanishing_recurrence(scalar, seed):
    random = np.random.default_rng(seed)
    cell = nn.RNNCell(2, 4, rng=random, recurrent=nn.init.orthogonal)
    cell.W.data *= 0.3
    h = (tb.values if scalar else tb.Tensor)(random.normal(size=(1, 4)), "h(0)")
    cell = cell.scalar_view() if scalar else cell
    states = nn.unroll(cell, random.normal(size=(20, 1, 2)), h)
    found = why(tb.sum(states[-1]), h)
    judged(found, "tiny", "recurrence", "shrinks 20 times", "passes W")
    if not scalar:
        assert "spectral radius 0.3" in found.verdict
    # The norm falls by 0.3 times tanh' < 1 a step; that of single elements may differ a little.
    rate = float(found.verdict.split("×")[1].split(" ")[0])
    assert 0.0 < rate < 0.4


@given(seed=seeds)
def test_a_recurrence_of_the_users_own(seed):
    """No cell, no scopes and no names: the weight that comes again is found by itself."""
    w = tb.Value(float(np.random.default_rng(seed).uniform(0.2, 0.5)), "w")
    s = start = tb.Value(0.3, "s")
    for _ in range(30):
        s = tb.sin(w * s + 0.1)
    found = why(s, start)
    judged(found, "tiny", "recurrence", "shrinks 30 times", "passes w = 0.")


def test_a_state_without_weights_vanishes_by_its_gate():
    c = start = tb.Tensor([1.0, 2.0], "c(0)")
    for t in range(1, 31):
        with tb.scope("step", t):
            c = nn.named(c * np.array([0.5, 0.4]) + 0.1, f"c({t})")
    judged(why(tb.sum(c), start), "tiny", "recurrence", "shrinks 30 times, by ×0.5 a time")


@in_both_views
@given(seed=seeds)
def test_a_deep_network_of_sigmoids(scalar, seed):
    plant = Plant(seed, scalar, ["sigmoid"] * 14, depth=14)
    found = plant.why_first()
    judged(found, "tiny", "depth", "sigmoid at 14 places")
    assert found.blamed.rule == "sigmoid"


def test_an_average_over_very_many():
    x = tb.Tensor(np.ones(10_000_000), "x", dtype=np.float32)
    judged(why(tb.mean(x), x), "tiny", "average", "averages over 10,000,000 elements")


@pytest.mark.parametrize(
    ("function", "x", "cause"),
    [
        (lambda x: tb.power(x, 3.0), 1e-6, "stationary point"),
        (lambda x: tb.power(x - 1.0, 2.0), 1.0 + 1e-9, "at minimum"),
        (lambda x: tb.power(x, -1.0), 1e6, "small factor"),
        (lambda x: tb.power(x, 0.5), 1e16, "small factor"),
        (lambda x: tb.power(1.0 + 1e-9, x), 0.5, "small factor"),
        (tb.square, 1e-9, "stationary point"),
        (lambda x: tb.sin(x), math.pi / 2, "small factor"),
    ],
)
def test_little_slope_elsewhere(function, x, cause):
    x = tb.Value(x, "x")
    assert why(function(x), x).cause == cause


def test_a_division_by_a_large_number():
    x = tb.Tensor([1.0, 2.0], "x")
    judged(why(tb.sum(x / 1e12), x), "tiny", "small factor", "divides by 1e+12")


# --- huge ---------------------------------------------------------------------------------------


@in_both_views
@given(seed=seeds)
def test_an_exploding_recurrence(scalar, seed):
    random = np.random.default_rng(seed)
    cell = nn.RNNCell(2, 4, rng=random, recurrent=nn.init.orthogonal, activation="identity")
    cell.W.data *= 3.0
    h = (tb.values if scalar else tb.Tensor)(random.normal(size=(1, 4)), "h(0)")
    cell = cell.scalar_view() if scalar else cell
    states = nn.unroll(cell, random.normal(size=(20, 1, 2)), h)
    found = why(tb.sum(states[-1]), h)
    judged(found, "huge", "recurrence", "grows 20 times", "passes W")
    if not scalar:
        assert "spectral radius 3" in found.verdict


@in_both_views
@given(seed=seeds)
def test_large_weights(scalar, seed):
    plant = Plant(seed, scalar)
    plant.model.layers[1].W.data[:] = 1e12
    found = plant.why_first(lambda o, y: tb.sum(o))
    judged(found, "huge", "large weights", "W2")


def test_many_uses():
    w = tb.Value(1.0, "w")
    terms = [w * 1.0 for _ in range(3000)]
    found = why(sum(terms[1:], terms[0]), w, huge=100.0)
    judged(found, "huge", "many uses", "3,000 uses of w")
    w = tb.Tensor(np.ones((1, 1)), "w")
    judged(why(tb.sum(np.ones((3000, 1)) @ w), w, huge=100.0), "huge", "many uses")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: 1.0 / x, "division by 1e-09"),
        (tb.log, "log of 1e-09"),
        (lambda x: tb.power(x, -1.0), "1e-09 to the power -1"),
    ],
)
def test_near_a_pole(function, words):
    x = tb.Value(1e-9, "x")
    judged(why(function(x), x), "huge", "near a pole", words)
    x = tb.Tensor([1.0, 1e-9], "x")
    judged(why(tb.sum(function(x)), x), "huge", "near a pole", words)


# --- infinite, and not a number -----------------------------------------------------------------


@in_both_views
@pytest.mark.parametrize(
    ("function", "cause", "words"),
    [
        (tb.log, "pole", "log(0) is -inf"),
        (lambda x: 1.0 / x, "pole", "divide(1, 0) is inf"),
        (tb.sqrt, "pole", "square root of 0"),
        (lambda x: tb.power(x, 0.5), "pole", "0 to the power 0.5"),
        (lambda x: tb.arcsin(x + 1.0), "pole", "arcsin of 1"),
        (lambda x: x / x, "not defined", "divide(0, 0) is nan"),
        (lambda x: tb.sqrt(x - 1.0), "not defined", "sqrt(-1) is nan"),
        (lambda x: tb.exp(x + 1000.0), "overflow", "exp(1000) is inf"),
        (lambda x: (x * 1e200) * 1e200, "overflow", "the product overflows at multiply"),
    ],
)
def test_what_is_not_finite(scalar, function, cause, words):
    x = (tb.values if scalar else tb.Tensor)([0.0], "x")
    found = why(tb.sum(function(x)), x)
    assert found.status == ("nan" if cause == "not defined" else "infinite")
    judged(found, found.status, cause, words)


@in_both_views
@given(seed=seeds)
def test_the_log_of_zero_in_a_network(scalar, seed):
    plant = Plant(seed, scalar)
    plant.model.layers[1].b.data[:] = -100.0
    found = plant.why_first(lambda o, y: tb.sum(tb.log(tb.relu(o))))
    judged(found, "nan", "pole", "log(0) is -inf", "infinity times 0 is nan, at relu")
    assert found.blamed.rule == "log"


@in_both_views
@pytest.mark.parametrize(("bad", "status"), [(math.nan, "nan"), (math.inf, "infinite")])
def test_data_that_are_not_finite(scalar, bad, status):
    x = np.ones((3, 2))
    x[2, 1] = bad
    W = (tb.values if scalar else tb.Tensor)(np.full((2, 2), 0.5), "W")
    found = why(tb.sum(tb.exp(x[2] * W[0])), W)
    judged(found, status, "data not finite", f"is {bad} before any operation")


def test_a_parameter_that_is_not_finite():
    W = tb.Tensor([[1.0, math.nan]], "W")
    judged(why(tb.sum(W * W), W), "nan", "data not finite", "W[0, 1] is nan")


def test_an_overflow_of_the_gradient_alone():
    x = tb.Value(1e-200, "x")
    y = (x * 1e200) * (x * 0.0 + 1e200)
    judged(why(y, x), "infinite", "overflow", "the product overflows")


def test_a_sum_over_uses_that_overflows():
    x = tb.Value(0.0, "x")
    found = why(x * 1.5e308 + x * 1.5e308, x)
    judged(found, "infinite", "overflow", "the sum over the uses of x overflows")


def test_a_masked_pole_is_no_alarm():
    x = tb.Tensor([0.0, 2.0], "x")
    found = why(tb.sum(tb.where(x > 0.0, tb.log(x), 0.0)), x)
    assert found.status == "ordinary"
    np.testing.assert_array_equal(found.gradient, [0.0, 0.5])
    assert found.notes == ("1 of 2 elements are exactly 0",)


# --- how it is asked, and shown -----------------------------------------------------------------


@in_both_views
def test_all_leaves_at_once(scalar):
    plant = Plant(3, scalar, ["relu", "identity"])
    plant.model.layers[0].b.data[:] = -100.0
    loss = nn.squared_error(plant.viewed()(plant.x), plant.y)
    found = why(loss)
    status = dict(zip(found.column("leaf"), found.column("gradient"), strict=True))
    # a1 is 0, and so is what W2 is multiplied by.
    assert status == {"W1": "zero", "b1": "zero", "W2": "zero", "b2": "ordinary"}
    cause = dict(zip(found.column("leaf"), found.column("cause"), strict=True))
    assert cause["W1"] == cause["b1"] == "dead relu"
    assert cause["W2"] == "zero operand"
    assert "a1" in found.column("why")[found.column("leaf").index("W2")]
    assert "3 of 4 not ordinary" in found.text()


def test_two_arrays_of_one_name_are_kept_apart():
    first, second = tb.values([1.0, 2.0], "W"), tb.values([3.0, 4.0], "W")
    found = why(tb.sum(first * 1e-9 + second))
    assert sorted(zip(found.column("leaf"), found.column("gradient"), strict=True)) == [
        ("W", "tiny"),
        ("W#2", "ordinary"),
    ]


def test_the_table_shows_the_chain():
    x = tb.Tensor([[1.0]], "x")
    z = nn.named(x * 30.0, "z")
    a = nn.named(tb.sigmoid(z), "a")
    loss = tb.sum(a)
    loss.label = "loss"
    found = why(loss, x, tiny=1e-9)
    assert [row[:3] for row in found.rows] == [
        ("loss", "sum", "a"),
        ("a", "sigmoid", "z"),
        ("z", "multiply", "x"),
    ]
    assert found.column("") == ["", "←", ""]
    slope = math.exp(-30.0) / (1.0 + math.exp(-30.0)) ** 2
    assert found.column("factor") == pytest.approx([1.0, slope, 30.0], rel=1e-13)
    assert found.verdict == (
        "∂loss/∂x is tiny, at most 2.807e-12: sigmoid a is saturated: z is 30, where the "
        "derivative is at most 9.358e-14"
    )


def test_hostile_labels_are_inert():
    x = tb.Tensor([0.0], "<script>{x}</script>")
    found = why(tb.sum(x * tb.Tensor([0.0], "{0}<b>")), x)
    assert found.cause == "zero weights"
    assert "<script" not in found.html()
    assert "{0}<b> is 0" in found.verdict


def test_a_hundred_thousand_nodes():
    x = tb.Value(0.3, "x")
    y = x
    for _ in range(33_000):
        y = tb.sin(y) * 0.999 + 0.01
    found = why(y, x)
    assert found.status in ("tiny", "zero")
    assert len(found.links) == 99_000


def test_many_leaves():
    xs = [tb.Value(0.0) for _ in range(2000)]
    found = why(sum((tb.relu(x - 1.0) for x in xs), tb.Value(1.0)))
    assert len(found) == 2001
    assert found.column("gradient").count("zero") == 2000
    assert found.column("cause").count("dead relu") == 20
    assert found.notes == ("the first 20 were looked into",)


@pytest.mark.parametrize(
    ("loss", "node", "kind", "message"),
    [
        (1.0, None, TypeError, "loss: expected a Value or a Tensor, got float"),
        (tb.Value(1.0), "W", TypeError, "node: expected a Value, a Tensor or Values, got str"),
        (tb.Tensor([1.0, 2.0]), None, ValueError, "expected a single number"),
        (tb.Value(1.0, requires_grad=False), None, ValueError, "requires no gradient"),
        (tb.Value(1.0), tb.values(np.zeros((0, 2))), ValueError, r"Values of shape \(0, 2\)"),
    ],
)
def test_what_is_refused(loss, node, kind, message):
    with pytest.raises(kind, match=message):
        why(loss, node)
