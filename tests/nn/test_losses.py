"""The losses against PyTorch and closed forms, at the edges, and on all three kinds of number.

PyTorch's means divide by all m·K elements, ours by the m samples: with "sum" and "none" the two
agree as they are, and a mean of ours is PyTorch's times K.
"""

import math

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn

RNG = np.random.default_rng
SHAPES = [(3,), (1, 3), (5, 1), (5, 3), (2, 4, 3)]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is the oracle")


def numbers(loss, shape):
    """Outputs and targets in the domain of a loss."""
    rng = RNG(0)
    if loss is nn.cross_entropy:
        return rng.normal(size=shape), rng.dirichlet(np.ones(shape[-1]), size=shape[:-1])
    if loss is nn.binary_cross_entropy:
        return rng.uniform(0.01, 0.99, size=shape), rng.uniform(size=shape)
    return rng.normal(size=shape), rng.uniform(size=shape)


def in_torch(torch, loss, a, y):
    """The loss of every single output, by PyTorch; for cross-entropy, of every sample."""
    f = torch.nn.functional
    if loss is nn.absolute_error:
        return f.l1_loss(a, y, reduction="none")
    if loss is nn.huber:
        return f.huber_loss(a, y, reduction="none")
    if loss is nn.squared_error:
        return 0.5 * f.mse_loss(a, y, reduction="none")
    if loss is nn.binary_cross_entropy:
        return f.binary_cross_entropy(a, y, reduction="none")
    if loss is nn.binary_cross_entropy_with_logits:
        return f.binary_cross_entropy_with_logits(a, y, reduction="none")
    return f.cross_entropy(
        a.movedim(-1, min(1, a.ndim - 1)), y.movedim(-1, min(1, y.ndim - 1)), reduction="none"
    )


ELEMENTWISE = [
    nn.squared_error,
    nn.absolute_error,
    nn.huber,
    nn.binary_cross_entropy,
    nn.binary_cross_entropy_with_logits,
]
LOSSES = [*ELEMENTWISE, nn.cross_entropy]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_equals_torch(torch, loss, shape, reduction):
    a, y = numbers(loss, shape)
    samples = math.prod(shape[:-1])
    ours = tb.Tensor(a)
    got = loss(ours, y, reduction)
    theirs = torch.tensor(a, requires_grad=True)
    each = in_torch(torch, loss, theirs, torch.tensor(y))
    per_sample = each if loss is nn.cross_entropy else each.sum(-1)
    expected = {"none": per_sample, "sum": per_sample.sum(), "mean": per_sample.sum() / samples}
    assert got.shape == (shape[:-1] if reduction == "none" else ())
    np.testing.assert_allclose(got.data, expected[reduction].detach().numpy(), rtol=1e-13)
    g = RNG(1).normal(size=got.shape)
    got.backward(g)
    expected[reduction].backward(torch.tensor(g))
    np.testing.assert_allclose(ours.grad, theirs.grad.numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("loss", ELEMENTWISE, ids=lambda f: f.__name__)
def test_mean_is_over_samples_and_torchs_over_elements(torch, loss):
    a, y = numbers(loss, (5, 3))
    mean = in_torch(torch, loss, torch.tensor(a), torch.tensor(y)).mean().item()
    assert loss(tb.Tensor(a), y).item() == pytest.approx(mean * 3, rel=1e-13)


@pytest.mark.parametrize("batch", [(), (1,), (6,), (2, 3)])
def test_integer_targets_are_one_hot_distributions(torch, batch):
    o = RNG(0).normal(size=(*batch, 4))
    classes = RNG(1).integers(0, 4, size=batch)
    first, second = tb.Tensor(o), tb.Tensor(o)
    by_class, by_row = (
        nn.cross_entropy(first, classes),
        nn.cross_entropy(second, np.eye(4)[classes]),
    )
    by_class.backward()
    by_row.backward()
    rows = torch.tensor(o).reshape(-1, 4)
    expected = torch.nn.functional.cross_entropy(rows, torch.tensor(classes).reshape(-1))
    assert by_class.item() == pytest.approx(expected.item(), rel=1e-13)
    assert by_row.item() == by_class.item()
    np.testing.assert_array_equal(first.grad, second.grad)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_classes_may_be_of_any_integer_type(dtype):
    o = tb.Tensor([[0.0, math.log(3.0)]] * 2)
    classes = np.array([0, 1], dtype)
    assert nn.cross_entropy(o, classes).item() == pytest.approx(
        -(math.log(1 / 4) + math.log(3 / 4)) / 2
    )
    assert nn.cross_entropy(o, classes.tolist()).item() == nn.cross_entropy(o, classes).item()


def test_integer_one_hot_rows_are_distributions():
    o = tb.Tensor([[0.0, math.log(3.0)]])
    assert nn.cross_entropy(o, [[0, 1]]).item() == pytest.approx(-math.log(3 / 4), rel=1e-14)


# --- edges ---------------------------------------------------------------------------------------


def test_cross_entropy_at_large_logits():
    o = tb.Tensor([[1000.0, -1000.0], [-1000.0, 1000.0], [1000.0, 1000.0]])
    losses = nn.cross_entropy(o, [1, 1, 0], "none")
    np.testing.assert_array_equal(losses.data, [2000.0, 0.0, math.log(2.0)])
    losses.backward(np.ones(3))
    np.testing.assert_array_equal(o.grad, [[1.0, -1.0], [0.0, 0.0], [-0.5, 0.5]])


def test_cross_entropy_of_soft_targets_at_large_logits():
    o = tb.Tensor([[1000.0, -1000.0]])
    loss = nn.cross_entropy(o, [[0.75, 0.25]])
    loss.backward()
    assert loss.item() == 500.0
    np.testing.assert_array_equal(o.grad, [[0.25, -0.25]])


def test_a_forbidden_class_costs_nothing_where_it_is_not_the_target():
    o = tb.Tensor([[-math.inf, 0.0, math.log(3.0)]])
    loss = nn.cross_entropy(o, [2])
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(3 / 4), rel=1e-14)
    np.testing.assert_allclose(o.grad, [[0.0, 0.25, -0.25]], rtol=1e-14)


def test_logits_keep_their_accuracy_in_the_tails():
    z = tb.Tensor([[40.0, -40.0]])
    loss = nn.binary_cross_entropy_with_logits(z, [[1.0, 0.0]])
    loss.backward()
    tail = math.exp(-40.0)  # log(1 + e) and e/(1 + e) are e, to the last digit
    assert loss.item() == pytest.approx(2 * tail, rel=1e-15)
    assert z.grad[0, 1] == pytest.approx(tail, rel=1e-15)


def test_binary_cross_entropy_at_large_logits():
    for kind in (tb.Tensor, tb.values):
        z = kind([1000.0, -1000.0, 1000.0, -1000.0])
        loss = nn.binary_cross_entropy_with_logits(z, np.array([1.0, 0.0, 0.25, 0.25]))
        loss.backward()
        assert float(loss) == 1000.0
        np.testing.assert_array_equal(z.grad, [0.0, 0.0, 0.75, -0.25])


@pytest.mark.parametrize(
    ("h", "y", "expected"),
    [(0.0, 0.0, 0.0), (1.0, 1.0, 0.0), (0.0, 1.0, 100.0), (1.0, 0.0, 100.0), (1.0, 0.25, 75.0)],
)
def test_saturated_probabilities_equal_torchs(torch, h, y, expected):
    """A loss held at 100, as in PyTorch; where it is held there is no gradient."""
    there = torch.nn.functional.binary_cross_entropy(torch.tensor(h), torch.tensor(y))
    assert there.item() == expected
    p = tb.Value(h)
    loss = nn.binary_cross_entropy(p, y)
    loss.backward()
    assert loss.data == expected
    # Of the two terms' slopes, (1 - y)/(1 - h) and -y/h, the infinite one is held.
    assert p.grad == {0.0: 1.0 - y, 1.0: -y}[h]


def test_exp_minus_100_is_where_the_hold_begins():
    p = tb.Value(1e-40)
    loss = nn.binary_cross_entropy(p, 1.0)
    loss.backward()
    assert loss.data == pytest.approx(40 * math.log(10.0), rel=1e-15)
    assert p.grad == pytest.approx(-1e40, rel=1e-15)


def test_nan_is_not_hidden():
    for loss in ELEMENTWISE:
        assert math.isnan(loss(tb.Tensor([[math.nan, 0.5]]), [[0.5, 0.5]]).item())
    assert math.isnan(nn.cross_entropy(tb.Tensor([[math.nan, 0.5]]), [0]).item())


# --- the three kinds of number -------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 1)], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_tensor_and_values_agree(loss, shape, reduction):
    a, y = numbers(loss, shape)
    tensor, scalars = tb.Tensor(a), tb.values(a)
    first, second = loss(tensor, y, reduction), loss(scalars, y, reduction)
    np.testing.assert_allclose(np.array(second.data), first.data, rtol=1e-14)
    tb.sum(first).backward()
    (second if isinstance(second, tb.Value) else second.sum()).backward()
    np.testing.assert_allclose(scalars.grad, tensor.grad, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("loss", ELEMENTWISE, ids=lambda f: f.__name__)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", [tb.Value, tb.Tensor])
def test_a_single_number_is_one_sample(loss, reduction, kind):
    a, y = numbers(loss, (1, 1))
    row, single = tb.Tensor(a), kind(a.item())
    first, second = loss(row, y), loss(single, y.item(), reduction)
    first.backward()
    second.backward()
    assert isinstance(second, kind)
    assert second.data == pytest.approx(first.item(), rel=1e-15)
    assert single.grad == pytest.approx(row.grad.item(), rel=1e-15)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_a_target_may_lie_anyhow_in_memory(loss):
    a, y = numbers(loss, (4, 3))
    expected = loss(tb.Tensor(a), y).item()
    strided = np.zeros((8, 6))[::-2, ::2]
    strided[:] = y
    for target in (np.asfortranarray(y), strided, y.astype(">f8")):
        assert loss(tb.Tensor(a), target).item() == expected
        assert loss(tb.values(a), target).data == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(
    "y", [1, 1.0, np.float64(1), np.float32(1), np.int64(1), np.array(1.0), tb.Value(1.0)]
)
@pytest.mark.parametrize("loss", ELEMENTWISE, ids=lambda f: f.__name__)
def test_a_single_values_target_is_any_number(loss, y):
    assert loss(tb.Value(0.25), y).data == loss(tb.Value(0.25), 1.0).data


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_float32_outputs_give_a_float32_loss(loss):
    a, y = numbers(loss, (2, 3))
    for target in (y, y.astype(np.float32), y.tolist()):
        a32 = tb.Tensor(a, dtype=np.float32)
        got = loss(a32, target)
        got.backward()
        assert got.dtype == np.float32
        assert a32.grad.dtype == np.float32
        # A float32 carries about 1e-7.
        assert got.item() == pytest.approx(loss(tb.Tensor(a), y).item(), rel=1e-6)


@pytest.mark.parametrize("loss", ELEMENTWISE, ids=lambda f: f.__name__)
def test_a_tracked_target_gets_its_gradient(loss):
    a, y = numbers(loss, (2, 3))
    target = tb.Tensor(y)
    loss(tb.Tensor(a), target, "sum").backward()
    expected = {
        "squared_error": y - a,
        "absolute_error": np.sign(y - a),
        "huber": np.clip(y - a, -1.0, 1.0),
        "binary_cross_entropy": np.log((1 - a) / a) if loss is nn.binary_cross_entropy else None,
        "binary_cross_entropy_with_logits": -a,
    }[loss.__name__]
    np.testing.assert_allclose(target.grad, expected, rtol=1e-12, atol=1e-14)


def test_a_tracked_target_of_cross_entropy_gets_its_gradient_or_raises():
    """Its derivative is -log ŷ; leaving it out without a word would be a wrong gradient."""
    a, y = numbers(nn.cross_entropy, (2, 3))
    target = tb.Tensor(y)
    try:
        nn.cross_entropy(tb.Tensor(a), target, "sum").backward()
    except (TypeError, ValueError):
        return
    expected = np.log(np.exp(a).sum(-1, keepdims=True)) - a
    np.testing.assert_allclose(target.grad, expected, rtol=1e-12)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ELEMENTWISE, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", [tb.Tensor, tb.values])
@pytest.mark.parametrize("shape", [(), (3,), (1,), (1, 3), (2, 1), (3, 2), (1, 2, 3)], ids=str)
def test_a_target_that_would_be_broadcast_raises(loss, kind, shape):
    a = kind(np.full((2, 3), 0.5))
    for y in (np.zeros(shape), kind(np.zeros(shape)), np.zeros(shape).tolist()):
        with pytest.raises(ValueError, match=r"y: expected shape \(2, 3\), got"):
            loss(a, y)


@pytest.mark.parametrize("loss", ELEMENTWISE, ids=lambda f: f.__name__)
def test_outputs_that_would_be_broadcast_raise(loss):
    with pytest.raises(ValueError, match=r"y: expected shape \(2,\), got \(2, 1\)"):
        loss(tb.Tensor([0.5, 0.5]), [[1.0], [0.0]])
    with pytest.raises(ValueError, match=r"y: expected shape \(\), got \(1,\)"):
        loss(tb.Value(0.5), [1.0])


@pytest.mark.parametrize("kind", [tb.Tensor, tb.values])
@pytest.mark.parametrize(
    "y",
    [[0], [0, 1, 2], 0, [[0], [1]], [0.0, 1.0], [[1.0, 0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]],
    ids=str,
)
def test_cross_entropy_refuses_targets_of_other_shapes(kind, y):
    with pytest.raises(ValueError, match=r"y: expected integer classes of shape \(2,\) or"):
        nn.cross_entropy(kind(np.zeros((2, 3))), y)


@pytest.mark.parametrize("y", [[0, 3], [-1, 0]])
def test_cross_entropy_refuses_unknown_classes(y):
    with pytest.raises(ValueError, match=r"0 \.\.\. 2"):
        nn.cross_entropy(tb.Tensor(np.zeros((2, 3))), y)


@pytest.mark.parametrize(
    "y", [[[0.5, 0.4]], [[0.0, 0.0]], [[1.5, -0.5]], [[1.0, 1.0]], [[math.nan, 1.0]], [[2, 0]]]
)
def test_cross_entropy_refuses_what_is_no_distribution(y):
    with pytest.raises(ValueError, match="y: "):
        nn.cross_entropy(tb.Tensor([[1.0, 2.0]]), y)


@pytest.mark.parametrize("o", [tb.Value(1.0), tb.Tensor(1.0), np.zeros((1, 2)), [[0.0, 1.0]]])
def test_cross_entropy_refuses_other_logits(o):
    with pytest.raises(TypeError, match=r"o: expected a Tensor or Values of shape \(\.\.\., K\)"):
        nn.cross_entropy(o, [0])


@pytest.mark.parametrize("loss", [nn.binary_cross_entropy, nn.binary_cross_entropy_with_logits])
@pytest.mark.parametrize("y", [-1.0, 1.5, 2.0, math.inf])
def test_labels_lie_between_0_and_1(loss, y):
    for a, target in ((tb.Value(0.5), y), (tb.Tensor([[0.5]]), [[y]]), (tb.values([0.5]), [y])):
        with pytest.raises(ValueError, match=r"y: expected numbers in \[0, 1\]"):
            loss(a, target)


@pytest.mark.parametrize("h", [-0.1, 1.0000001, 2.0])
def test_probabilities_lie_between_0_and_1(h):
    for a, y in ((tb.Value(h), 1.0), (tb.Tensor([[h]]), [[1.0]]), (tb.values([h]), [1.0])):
        with pytest.raises(ValueError, match=r"h: expected numbers in \[0, 1\]"):
            nn.binary_cross_entropy(a, y)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("reduction", ["average", "", None, "MEAN"])
def test_reductions_are_named(loss, reduction):
    a, y = numbers(loss, (2, 3))
    with pytest.raises(ValueError, match="reduction: expected 'mean', 'sum' or 'none', got"):
        loss(tb.Tensor(a), y, reduction)
    if loss is not nn.cross_entropy:
        with pytest.raises(ValueError, match="reduction"):
            loss(tb.Value(0.5), 0.5, reduction)


@pytest.mark.parametrize("loss", ELEMENTWISE, ids=lambda f: f.__name__)
@pytest.mark.parametrize("a", [0.5, np.array([0.5]), [0.5], None])
def test_an_output_without_history_is_refused(loss, a):
    with pytest.raises(TypeError, match="expected a Value, a Tensor or Values first"):
        loss(a, a)


NO_NUMBERS = {
    "text": [["1", "0"]],
    "complex": [[1j, 0j]],
    "nothing": [[None, None]],
    "masked": np.ma.masked_array([[1.0, 0.0]], mask=[[False, True]]),
}


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", [tb.Tensor, tb.values])
@pytest.mark.parametrize("what", NO_NUMBERS)
def test_targets_that_are_no_numbers_are_refused(loss, kind, what):
    with pytest.raises((TypeError, ValueError)):
        loss(kind([[0.5, 0.5]]), NO_NUMBERS[what])


def outcome(loss, a, y):
    try:
        return float(loss(a, y))
    except TypeError:
        return "TypeError"


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_truth_values_as_targets_mean_the_same_to_every_kind(loss):
    y = [[True, False]]
    assert outcome(loss, tb.Tensor([[0.5, 0.5]]), y) == outcome(loss, tb.values([[0.5, 0.5]]), y)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_the_mean_over_no_samples_says_so(loss):
    y = np.zeros(0, int) if loss is nn.cross_entropy else np.zeros((0, 3))
    with pytest.raises(ValueError, match="sample"):
        loss(tb.Tensor(np.zeros((0, 3))), y)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_the_sum_over_no_samples_is_zero(loss):
    y = np.zeros(0, int) if loss is nn.cross_entropy else np.zeros((0, 3))
    assert loss(tb.Tensor(np.zeros((0, 3))), y, "sum").item() == 0.0


# --- weight decay --------------------------------------------------------------------------------


@pytest.mark.parametrize("scalar", [False, True])
def test_weight_decay_is_of_the_weights_and_never_of_biases(scalar):
    model = nn.MLP([2, 3, 1], rng=0)
    for layer in model.layers:
        layer.b.data = np.full(layer.b.shape, 5.0)
    view = model.scalar_view() if scalar else model
    penalty = nn.weight_decay(view.parameters(), 0.3)
    penalty.backward()
    weights = [layer.W.data for layer in model.layers]
    expected = 0.15 * sum(np.sum(W**2) for W in weights)
    assert float(penalty) == pytest.approx(expected, rel=1e-14)
    for layer, W in zip(view.layers, weights, strict=True):
        np.testing.assert_allclose(layer.W.grad, 0.3 * W, rtol=1e-14)
        assert layer.b.grad is None


@pytest.mark.parametrize("parameters", [[], [tb.Tensor([1.0])], [tb.Value(1.0)]])
def test_weight_decay_needs_a_matrix(parameters):
    with pytest.raises(ValueError, match="parameters: expected at least one weight matrix"):
        nn.weight_decay(parameters, 0.1)


def test_the_strength_of_weight_decay_may_be_a_node():
    """As a compiled function's argument is one; its derivative is the penalty of strength 1."""
    model = nn.MLP([2, 3, 1], rng=0)
    unit = 0.5 * sum(np.sum(layer.W.data**2) for layer in model.layers)
    step = tb.compile(lambda strength: nn.weight_decay(model.parameters(), strength))
    for strength in (0.3, 0.7):
        value, derivative = step.value_and_grad(np.array(strength))
        assert (float(value), float(derivative)) == pytest.approx((strength * unit, unit))
    scalar = tb.grad(lambda s: nn.weight_decay(model.scalar_view().parameters(), s))
    assert scalar(0.3) == pytest.approx(unit)
