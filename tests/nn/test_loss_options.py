"""Weights, label smoothing, ignored samples, Huber's delta and the divergence, against PyTorch.

A weighted mean of PyTorch's cross-entropy divides by the sum of the weights that its targets have;
ours by the number of samples that count.
"""

import math

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn

RNG = np.random.default_rng
REDUCTIONS = ["mean", "sum", "none"]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is the oracle")


def reduced(per_sample, reduction, samples):
    if reduction == "none":
        return per_sample
    return per_sample.sum() / (samples if reduction == "mean" else 1)


def same(torch, got, expected, ours, theirs):
    """Equal values, and gradients under random cotangents."""
    np.testing.assert_allclose(got.data, expected.detach().numpy(), rtol=1e-12, atol=1e-14)
    g = RNG(1).normal(size=got.shape)
    got.backward(g)
    expected.backward(torch.tensor(g))
    np.testing.assert_allclose(ours.grad, theirs.grad.numpy(), rtol=1e-10, atol=1e-13)


WEIGHTED = {
    nn.squared_error: lambda f, a, y: 0.5 * f.mse_loss(a, y, reduction="none"),
    nn.absolute_error: lambda f, a, y: f.l1_loss(a, y, reduction="none"),
    nn.huber: lambda f, a, y: f.huber_loss(a, y, reduction="none"),
    nn.binary_cross_entropy: lambda f, a, y: f.binary_cross_entropy(a, y, reduction="none"),
    nn.binary_cross_entropy_with_logits: lambda f, a, y: f.binary_cross_entropy_with_logits(
        a, y, reduction="none"
    ),
    nn.kl_divergence: lambda f, a, y: f.kl_div(a, y, reduction="none"),
}


def numbers(loss, shape):
    rng = RNG(0)
    if loss is nn.kl_divergence:
        p, q = rng.dirichlet(np.ones(shape[-1]), size=(2, *shape[:-1]))
        return np.log(q), p
    return rng.uniform(0.01, 0.99, size=shape), rng.uniform(size=shape)


@pytest.mark.parametrize("loss", WEIGHTED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(4, 3), (1, 3), (4, 1), (), None])
def test_weighted_losses_equal_torch(torch, loss, reduction, shape):
    a, y = numbers(loss, (4, 3))
    weight = None if shape is None else RNG(2).uniform(size=shape)
    ours, theirs = tb.Tensor(a), torch.tensor(a, requires_grad=True)
    each = WEIGHTED[loss](torch.nn.functional, theirs, torch.tensor(y))
    each = each if weight is None else each * torch.tensor(weight)
    got = loss(ours, y, reduction, weight=weight)
    same(torch, got, reduced(each.sum(-1), reduction, 4), ours, theirs)


@pytest.mark.parametrize("delta", [0.1, 1.0, 7.0])
def test_huber_equals_torch(torch, delta):
    a, y = RNG(0).normal(0.0, 3.0, size=(2, 50, 3))
    ours, theirs = tb.Tensor(a), torch.tensor(a, requires_grad=True)
    there = torch.nn.functional.huber_loss(theirs, torch.tensor(y), "sum", delta)
    same(torch, nn.huber(ours, y, "sum", delta=delta), there, ours, theirs)


def test_huber_is_smooth_where_it_changes():
    for e in (1.0, math.nextafter(1.0, 2.0), math.nextafter(1.0, 0.0)):
        a = tb.Value(e)
        loss = nn.huber(a, 0.0)
        loss.backward()
        assert loss.data == pytest.approx(0.5, rel=1e-15)
        assert a.grad == pytest.approx(1.0, rel=1e-15)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("ignore_index", [None, 2, -100, 99])
def test_cross_entropy_of_classes_equals_torch(torch, reduction, weighted, smoothing, ignore_index):
    o, y = RNG(0).normal(size=(7, 4)), np.array([0, 1, 2, 3, 2, 1, 0])
    if ignore_index is not None:
        y[[2, 4]] = ignore_index
    weight = np.array([0.5, 2.0, 0.0, 1.5]) if weighted else None
    ours, theirs = tb.Tensor(o), torch.tensor(o, requires_grad=True)
    got = nn.cross_entropy(
        ours, y, reduction, weight=weight, label_smoothing=smoothing, ignore_index=ignore_index
    )
    there = torch.nn.functional.cross_entropy(
        theirs,
        torch.tensor(y),
        weight=torch.tensor(weight) if weighted else None,
        label_smoothing=smoothing,
        ignore_index=-1 if ignore_index is None else ignore_index,
        reduction="none",
    )
    samples = 7 if ignore_index is None else 5
    same(torch, got, reduced(there, reduction, samples), ours, theirs)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_of_distributions_equals_torch(torch, reduction, weighted, smoothing):
    o, y = RNG(0).normal(size=(5, 4)), RNG(1).dirichlet(np.ones(4), size=5)
    weight = np.array([0.5, 2.0, 0.0, 1.5]) if weighted else None
    ours, theirs = tb.Tensor(o), torch.tensor(o, requires_grad=True)
    got = nn.cross_entropy(ours, y, reduction, weight=weight, label_smoothing=smoothing)
    there = torch.nn.functional.cross_entropy(
        theirs,
        torch.tensor(y),
        weight=torch.tensor(weight) if weighted else None,
        label_smoothing=smoothing,
        reduction="none",
    )
    same(torch, got, reduced(there, reduction, 5), ours, theirs)


def test_torchs_mean_over_what_is_not_ignored_is_ours(torch):
    o, y = RNG(0).normal(size=(2, 3, 4)), np.array([[0, 1, -100], [-100, -100, 3]])
    there = torch.nn.functional.cross_entropy(torch.tensor(o).movedim(-1, 1), torch.tensor(y))
    ours = nn.cross_entropy(tb.Tensor(o), y, ignore_index=-100)
    assert ours.item() == pytest.approx(there.item(), rel=1e-14)


@pytest.mark.parametrize("ignore_index", [-100, 1])
def test_an_ignored_sample_contributes_nothing_not_even_nan(ignore_index):
    o = tb.Tensor([[1.0, 2.0], [math.nan, math.inf], [0.0, 0.5]])
    loss = nn.cross_entropy(o, [0, ignore_index, 0], label_smoothing=0.1, ignore_index=ignore_index)
    loss.backward()
    rest = tb.Tensor([[1.0, 2.0], [0.0, 0.5]])
    expected = nn.cross_entropy(rest, [0, 0], label_smoothing=0.1)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-15)
    np.testing.assert_array_equal(o.grad[1], 0.0)
    np.testing.assert_allclose(o.grad[[0, 2]], rest.grad, rtol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_options_on_values_are_those_on_tensors(reduction):
    o, y = RNG(0).normal(size=(3, 4)), [1, 3, 0]
    options = {"weight": [0.5, 1.0, 2.0, 3.0], "label_smoothing": 0.2, "ignore_index": 3}
    tensor, scalars = tb.Tensor(o), tb.values(o)
    first, second = (nn.cross_entropy(x, y, reduction, **options) for x in (tensor, scalars))
    np.testing.assert_allclose(np.array(second.data), first.data, rtol=1e-14)
    tb.sum(first).backward()
    (second if isinstance(second, tb.Value) else second.sum()).backward()
    np.testing.assert_allclose(scalars.grad, tensor.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("ignore_index", [None, 1])
def test_options_in_compiled_functions(ignore_index):
    def loss(o, y):
        return nn.cross_entropy(
            o, y, weight=[0.5, 1.0, 2.0], label_smoothing=0.1, ignore_index=ignore_index
        )

    compiled = tb.compile(loss)
    for seed in range(3):  # another number of samples counts each time
        o, y = RNG(seed).normal(size=(6, 3)), RNG(seed).integers(0, 3, size=6)
        value, gradient = compiled.value_and_grad(o, y)
        leaf = tb.Tensor(o)
        expected = loss(leaf, y)
        expected.backward()
        np.testing.assert_allclose(value, expected.data, rtol=1e-13)
        np.testing.assert_allclose(gradient, leaf.grad, rtol=1e-12, atol=1e-15)


def test_float32_stays_float32():
    o = tb.Tensor(np.ones((2, 3)), dtype=np.float32)
    loss = nn.cross_entropy(o, [0, 1], weight=[1, 2, 3], label_smoothing=0.1, ignore_index=1)
    loss = loss + nn.huber(o, np.zeros((2, 3)), weight=0.5)
    loss = loss + nn.kl_divergence(tb.log_softmax(o), np.full((2, 3), 1 / 3), weight=np.ones(3))
    loss.backward()
    assert {loss.dtype, o.grad.dtype} == {np.dtype(np.float32)}


# --- the divergence ------------------------------------------------------------------------------


def test_the_divergence_is_zero_at_p_and_cross_entropy_less_entropy_elsewhere():
    o, p = RNG(0).normal(size=(5, 4)), RNG(1).dirichlet(np.ones(4), size=5)
    assert nn.kl_divergence(tb.Tensor(np.log(p)), p).item() == 0.0
    entropy = -(p * np.log(p)).sum(-1).mean()
    got = nn.kl_divergence(tb.log_softmax(tb.Tensor(o)), p).item()
    assert got == pytest.approx(nn.cross_entropy(tb.Tensor(o), p).item() - entropy, rel=1e-12)


def test_the_divergence_where_p_excludes():
    log_q = tb.Tensor([[math.log(0.5), math.log(0.5), -math.inf]])
    loss = nn.kl_divergence(log_q, [[1.0, 0.0, 0.0]])
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2.0), rel=1e-15)
    np.testing.assert_array_equal(log_q.grad, [[-1.0, 0.0, 0.0]])


def test_the_divergence_by_both_distributions():
    q, p = RNG(0).dirichlet(np.ones(4), size=(2, 3))
    leaves = [tb.Tensor(np.log(q)), tb.Tensor(p)]
    assert tb.check_gradients(nn.kl_divergence, leaves, method="complex step")
    expected = nn.kl_divergence(leaves[0], p).item()
    assert nn.kl_divergence(*leaves).item() == pytest.approx(expected, rel=1e-14)


# --- edges and refusals --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (nn.squared_error, [[0.0, 0.0]]),
        (nn.absolute_error, [[0.0, 0.0]]),
        (nn.huber, [[0.0, 0.0]]),
        (nn.binary_cross_entropy_with_logits, [[0.0, 0.5]]),
        (nn.cross_entropy, [1]),
        (lambda o, y: nn.cross_entropy(o, y, label_smoothing=0.1, weight=[1.0, 2.0]), [1]),
        (lambda o, y: nn.kl_divergence(tb.log_softmax(o), y), [[0.0, 1.0]]),
        (lambda o, y: nn.binary_cross_entropy(tb.sigmoid(o), y), [[0.0, 1.0]]),
    ],
)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_losses_and_gradients_are_finite_far_out(loss, y, sign):
    for kind in (tb.Tensor, tb.values):
        a = kind([[1000.0 * sign, -1000.0 * sign]])
        got = loss(a, y)
        got.backward()
        assert np.isfinite(got.data)
        assert np.isfinite(a.grad).all()


@pytest.mark.parametrize("loss", WEIGHTED, ids=lambda f: f.__name__)
def test_nan_labels_are_refused(loss):
    name = "p" if loss is nn.kl_divergence else "y"
    with pytest.raises(ValueError, match=f"{name}: expected numbers, got nan among them"):
        loss(tb.Tensor([[0.5, 0.5]]), [[math.nan, 0.5]])


@pytest.mark.parametrize("weight", [np.ones(4), np.ones((3, 1)), np.ones((1, 2, 3))])
def test_weights_that_do_not_fit_are_refused(weight):
    with pytest.raises(ValueError, match=r"weight: expected a shape that broadcasts to \(2, 3\)"):
        nn.squared_error(tb.Tensor(np.ones((2, 3))), np.ones((2, 3)), weight=weight)


@pytest.mark.parametrize("weight", [-1.0, math.nan, [1.0, -0.5, 1.0]])
def test_weights_are_not_negative(weight):
    with pytest.raises(ValueError, match="weight: expected numbers that are not negative"):
        nn.squared_error(tb.Tensor(np.ones((2, 3))), np.ones((2, 3)), weight=weight)


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        ([0, 1], {"label_smoothing": 1.0}, r"label_smoothing: expected \[0, 1\), got 1.0"),
        ([0, 1], {"label_smoothing": -0.1}, "label_smoothing: expected"),
        ([0, 1], {"label_smoothing": math.nan}, "label_smoothing: expected"),
        ([0, 1], {"weight": [1.0, 2.0]}, r"weight: expected a shape that broadcasts to \(3,\)"),
        (np.eye(3)[:2], {"ignore_index": 0}, "ignore_index: it needs classes"),
        ([-1, -1], {"ignore_index": -1}, "no mean over no samples"),
        ([2, 2], {"ignore_index": 2}, "no mean over no samples"),
        ([0, 3], {"ignore_index": -1}, r"0 \.\.\. 2"),
    ],
)
def test_bad_options_are_named(y, options, message):
    with pytest.raises(ValueError, match=message):
        nn.cross_entropy(tb.Tensor(np.zeros((2, 3))), y, **options)


@pytest.mark.parametrize("delta", [0.0, -1.0, math.nan])
def test_delta_is_positive(delta):
    with pytest.raises(ValueError, match="delta: expected a positive number"):
        nn.huber(tb.Value(0.5), 0.0, delta=delta)


def test_the_divergence_refuses_what_is_no_distribution():
    with pytest.raises(ValueError, match="p: expected distributions"):
        nn.kl_divergence(tb.Tensor([[0.0, 0.0]]), [[0.5, 0.4]])
    with pytest.raises(ValueError, match=r"p: expected numbers in \[0, 1\]"):
        nn.kl_divergence(tb.Tensor([[0.0, 0.0]]), [[1.5, -0.5]])


def test_targets_that_cannot_be():
    o = tb.Tensor(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="y: a target that requires a gradient gets none here"):
        nn.cross_entropy(o, tb.Tensor(np.full((2, 3), 1 / 3)))
    compiled = tb.compile(lambda o, y: nn.cross_entropy(o, y, ignore_index=-100))
    with pytest.raises(ValueError, match=r"a compiled function needs one in 0 ... 2, got -100"):
        compiled(o, np.array([0, 1]))


def test_a_weight_may_be_an_input_of_a_compiled_function():
    x, w = np.array([1.0, -2.0]), np.array([3.0, 0.5])
    compiled = tb.compile(lambda x, w: nn.squared_error(x, np.zeros(2), "sum", weight=w))
    for weights in (w, np.array([1.0, 0.0])):  # the second time it is replayed
        assert compiled(tb.Tensor(x), weights) == pytest.approx(0.5 * (x**2 @ weights))


def test_smoothing_may_be_an_argument_of_a_compiled_function():
    o, y = np.array([[1.0, -0.5, 2.0], [0.3, 0.2, 0.1]]), np.array([2, 0])
    step = tb.compile(lambda o, s: nn.cross_entropy(o, y, label_smoothing=s), argnums=(0, 1))
    log_p = o - np.log(np.exp(o).sum(-1, keepdims=True))
    sharp, even = -log_p[[0, 1], y].mean(), -log_p.mean()
    for s in (0.1, 0.0, 0.5):
        value, (_, slope) = step.value_and_grad(o, s)
        np.testing.assert_allclose(value, (1.0 - s) * sharp + s * even, rtol=1e-14)
        np.testing.assert_allclose(slope, even - sharp, rtol=1e-12)
    assert step.recordings == 1
