"""LayerNorm, Embedding, positions, Dropout, Sequential: against PyTorch and their definitions."""

import math

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn

RNG = np.random.default_rng


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is the oracle")


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-13)


# --- LayerNorm -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_layer_norm_equals_torch(torch, shape):
    norm = nn.LayerNorm(4, eps=1e-3)
    norm.g.data, norm.b.data = RNG(0).normal(size=(2, 4))
    other = torch.nn.LayerNorm(4, eps=1e-3, dtype=torch.float64)
    other.load_state_dict({k: torch.tensor(v) for k, v in nn.torch_state_dict(norm).items()})
    x, g = RNG(1).normal(size=(2, *shape))
    leaf, there = tb.Tensor(x), torch.tensor(x, requires_grad=True)
    y, y_there = norm(leaf), other(there)
    close(y.data, y_there.detach().numpy())
    y.backward(g)
    y_there.backward(torch.tensor(g))
    close(leaf.grad, there.grad.numpy())
    close(norm.g.grad, other.weight.grad.numpy())
    close(norm.b.grad, other.bias.grad.numpy())


def test_layer_norm_has_mean_zero_and_variance_one():
    y = nn.LayerNorm(50, eps=0.0)(RNG(0).normal(3.0, 7.0, size=(2, 50))).data
    np.testing.assert_allclose(y.mean(-1), 0.0, atol=1e-14)
    np.testing.assert_allclose(y.var(-1), 1.0, rtol=1e-13)


def test_layer_norm_of_a_constant_sample_is_finite():
    norm, x = nn.LayerNorm(3), tb.Tensor([[7.0, 7.0, 7.0]])
    y = norm(x)
    (y * np.array([1.0, 2.0, 4.0])).sum().backward()
    np.testing.assert_array_equal(y.data, 0.0)
    np.testing.assert_allclose(x.grad, np.array([[-4.0, -1.0, 5.0]]) / 3.0 / math.sqrt(1e-5))


def test_layer_norm_names_its_parts_and_views_are_equal():
    norm = nn.LayerNorm(3)
    x = RNG(0).normal(size=(2, 3))
    y = norm(x)
    assert {"mu", "var", "x_hat"} <= {n.label for n in tb.topological_order(norm(tb.Tensor(x)))}
    np.testing.assert_allclose(norm.scalar_view()(tb.values(x)).data, y.data, rtol=1e-13)
    f = lambda x: tb.sum(norm(x) * np.arange(6.0).reshape(2, 3))  # noqa: E731
    assert tb.check_gradients(f, [tb.Tensor(x)], method="complex step")


def test_layer_norm_of_float32_and_bad_input():
    norm = nn.LayerNorm(3, dtype=np.float32)
    assert norm(tb.Tensor(np.ones((1, 3)), dtype=np.float32)).dtype == np.float32
    with pytest.raises(ValueError, match=r"LayerNorm: expected \(\.\.\., 3\) features"):
        norm(np.ones((3, 2)))
    with pytest.raises(ValueError, match="features: expected a positive integer"):
        nn.LayerNorm(0)
    with pytest.raises(ValueError, match="eps: expected"):
        nn.LayerNorm(3, eps=math.nan)


# --- Embedding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (4,), (3, 5)])
def test_embedding_equals_torch(torch, shape):
    layer = nn.Embedding(6, 4, rng=0)
    other = torch.nn.Embedding(6, 4, dtype=torch.float64)
    other.load_state_dict({k: torch.tensor(v) for k, v in nn.torch_state_dict(layer).items()})
    symbols = RNG(1).integers(0, 6, size=shape)
    y, there = layer(symbols), other(torch.tensor(symbols))
    np.testing.assert_array_equal(y.data, there.detach().numpy())
    g = RNG(2).normal(size=y.shape)
    y.backward(g)
    there.backward(torch.tensor(g))
    close(layer.E.grad, other.weight.grad.numpy())


@pytest.mark.parametrize("view", [False, True])
def test_one_hot_rows_are_the_same_as_symbols(view):
    layer = nn.Embedding(4, 2, rng=0)
    layer = layer.scalar_view() if view else layer
    symbols, weights = np.array([1, 3, 1]), RNG(1).normal(size=(3, 2))
    (layer(symbols) * weights).sum().backward()
    by_symbol, rows = layer.E.grad, layer(symbols).data
    layer.zero_grad()
    (layer(np.eye(4)[symbols]) * weights).sum().backward()
    np.testing.assert_array_equal(layer(np.eye(4)[symbols]).data, rows)
    np.testing.assert_array_equal(layer.E.grad, by_symbol)
    assert not by_symbol[[0, 2]].any()
    np.testing.assert_array_equal(by_symbol[1], weights[0] + weights[2])


def test_embedding_of_a_list_of_symbols():
    layer = nn.Embedding(4, 2, rng=0)
    np.testing.assert_array_equal(layer([1, 3]).data, layer.E.data[[1, 3]])


def test_compiled_embedding_takes_other_symbols():
    layer = nn.Embedding(5, 3, rng=0)
    compiled = tb.compile(lambda layer, symbols: tb.sum(tb.square(layer(symbols))))
    for symbols in (np.array([0, 1, 1]), np.array([4, 4, 2])):
        value, gradient = compiled.value_and_grad(layer, symbols)
        close(value, np.square(layer.E.data[symbols]).sum())
        expected = 2.0 * layer.E.data * np.bincount(symbols, minlength=5)[:, None]
        close(gradient["E"], expected)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([0, 4], r"symbols must lie in 0 \.\.\. 3, got 0 \.\.\. 4"),
        ([-1], r"symbols must lie in 0 \.\.\. 3, got -1"),
        (np.ones((2, 3)), r"Embedding: expected \(\.\.\., 4\) features"),
    ],
)
def test_embedding_refuses_unknown_symbols(x, message):
    with pytest.raises(ValueError, match=message):
        nn.Embedding(4, 2, rng=0)(x)


# --- positions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [1, 2, 5, 8])
def test_positional_encoding_is_the_papers(features):
    P = nn.positional_encoding(7, features)
    for t in range(7):
        for j in range(features):
            angle = t / 10000 ** (2 * (j // 2) / features)
            assert P[t, j] == pytest.approx((math.cos if j % 2 else math.sin)(angle), abs=1e-14)


@pytest.mark.parametrize("learned", [False, True])
def test_positions_are_added(learned):
    layer = nn.PositionalEncoding(5, 4, learned=learned, rng=0)
    x = RNG(0).normal(size=(3, 2, 4))
    y = layer(tb.Tensor(x))
    P = layer.P.data if learned else layer.P
    np.testing.assert_array_equal(y.data, x + P[:3, None])
    step = tb.compile(lambda m, x: tb.sum(m(x) ** 2))
    assert step(layer, x) == pytest.approx(float((y.data**2).sum()), rel=1e-14)
    np.testing.assert_array_equal(layer(tb.Tensor(x[:, 0])).data, y.data[:, 0])
    assert len(layer.parameters()) == learned
    y.backward(np.ones(y.shape))
    if learned:
        expected = np.repeat([[2.0], [0.0]], [3, 2], 0) * np.ones(4)
        np.testing.assert_array_equal(layer.P.grad, expected)


def test_positions_have_an_end():
    layer = nn.PositionalEncoding(5, 4)
    with pytest.raises(ValueError, match="of at most 5 steps"):
        layer(np.ones((6, 2, 4)))
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 4\) features"):
        layer(np.ones((3, 2, 5)))
    with pytest.raises(TypeError, match="rng"):
        nn.PositionalEncoding(5, 4, learned=True)


# --- Dropout, and the two modes ------------------------------------------------------------------


def test_dropout_leaves_out_a_share_and_scales_the_rest():
    x = np.ones(100_000)
    y = nn.Dropout(0.3, rng=0)(tb.Tensor(x)).data
    assert set(np.unique(y)) == {0.0, 1.0 / 0.7}
    error = math.sqrt(0.3 * 0.7 / x.size)
    assert abs((y == 0.0).mean() - 0.3) < 5 * error


def test_dropouts_gradient_is_its_mask():
    x = tb.Tensor(np.ones((20, 3)))
    y = nn.Dropout(0.5, rng=0)(x)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, y.data)


def test_dropout_draws_anew_from_its_generator():
    first, second = nn.Dropout(0.5, rng=7), nn.Dropout(0.5, rng=np.random.default_rng(7))
    x = tb.Tensor(np.ones(50))
    one, two = first(x).data, first(x).data
    np.testing.assert_array_equal(second(x).data, one)
    assert (one != two).any()


def test_dropout_does_nothing_in_evaluation():
    dropout, x = nn.Dropout(0.5, rng=0), tb.Tensor(np.ones(50))
    assert dropout.eval()(x) is x
    assert dropout.train()(x) is not x
    assert nn.Dropout(0.0, rng=0)(x) is x


@pytest.mark.parametrize("kind", ["float32", "Values", "array"])
def test_dropout_of_other_kinds(kind):
    x = np.ones((2, 3))
    given = {
        "float32": tb.Tensor(x, dtype=np.float32),
        "Values": tb.values(x),
        "array": x,
    }[kind]
    y = nn.Dropout(0.5, rng=3)(given)
    expected = (np.random.default_rng(3).random((2, 3)) >= 0.5) * 2.0
    np.testing.assert_array_equal(y if kind == "array" else y.data, expected)
    assert kind != "float32" or y.dtype == np.float32


@pytest.mark.parametrize("p", [-0.1, 1.0, math.nan, "0.5"])
def test_dropout_refuses_what_is_not_a_probability(p):
    with pytest.raises((TypeError, ValueError), match="p: expected a"):
        nn.Dropout(p, rng=0)


def test_train_and_eval_reach_every_module():
    class Outer(nn.Module):
        def __init__(self):
            self.inner = {"a": [nn.Dropout(rng=0)], "b": nn.Sequential(nn.Dropout(rng=0), "tanh")}
            self.loop = self

    outer = Outer()
    assert [type(m).__name__ for m in outer.modules()] == [
        "Outer",
        "Dropout",
        "Sequential",
        "Dropout",
    ]
    assert all(m.training for m in outer.modules())
    assert outer.eval() is outer
    assert not any(m.training for m in outer.modules())
    assert not any(m.training for m in outer.scalar_view().modules())
    outer.train(True)
    assert all(m.training for m in outer.modules())


# --- Sequential ----------------------------------------------------------------------------------


def test_sequential_equals_torch(torch):
    network = nn.Sequential(nn.Linear(3, 4, rng=0), "tanh", nn.LayerNorm(4), nn.Linear(4, 2, rng=1))
    other = torch.nn.Sequential(
        torch.nn.Linear(3, 4, dtype=torch.float64),
        torch.nn.Tanh(),
        torch.nn.LayerNorm(4, dtype=torch.float64),
        torch.nn.Linear(4, 2, dtype=torch.float64),
    )
    other.load_state_dict({k: torch.tensor(v) for k, v in nn.torch_state_dict(network).items()})
    x = RNG(0).normal(size=(5, 3))
    close(network(x).data, other(torch.tensor(x)).detach().numpy())


def test_sequential_runs_each_layer_in_its_scope():
    network = nn.Sequential(nn.Linear(3, 4, rng=0), tb.tanh)
    y = network(np.ones((1, 3)))
    assert y.scope.path == "sequential/layer(2)"
    assert y.x.scope.path == "sequential/layer(1)/linear"
    assert [name for name, _ in network.named_parameters()] == ["layers.0.W", "layers.0.b"]
    assert len(network) == 2
    assert network[1] is tb.tanh


def test_sequential_refuses_what_is_no_layer():
    with pytest.raises(ValueError, match="at least one layer"):
        nn.Sequential()
    with pytest.raises(TypeError, match="expected Modules or functions, got float"):
        nn.Sequential(1.0)
    with pytest.raises(ValueError, match="activation: expected one of"):
        nn.Sequential("tahn")
