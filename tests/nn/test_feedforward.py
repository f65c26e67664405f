"""Linear and MLP against numpy's formula and PyTorch, and what they refuse."""

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.nn.feedforward import ACTIVATIONS

RNG = np.random.default_rng


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is the oracle")


def randomized(model, seed=5):
    """The model with random biases as well."""
    for p in model.parameters():
        if p.ndim == 1:
            p.data = RNG(seed).normal(size=p.shape)
    return model


# --- Linear --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (1, 3), (4, 3), (2, 4, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape, bias):
    layer = randomized(nn.Linear(3, 2, rng=0, bias=bias))
    x, g = tb.Tensor(RNG(1).normal(size=shape)), RNG(2).normal(size=(*shape[:-1], 2))
    z = layer(x)
    z.backward(g)
    W, rows, g_rows = layer.W.data, x.data.reshape(-1, 3), g.reshape(-1, 2)
    b = layer.b.data if bias else np.zeros(2)
    np.testing.assert_allclose(z.data, x.data @ W + b, rtol=1e-14)
    # A sum over the rows may be taken in another order.
    np.testing.assert_allclose(layer.W.grad, rows.T @ g_rows, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(x.grad, g @ W.T, rtol=1e-13, atol=1e-15)
    if bias:
        np.testing.assert_allclose(layer.b.grad, g_rows.sum(0), rtol=1e-13, atol=1e-15)
    else:
        assert layer.b is None
        assert layer.parameters() == [layer.W]


def test_linear_takes_plain_data():
    layer = nn.Linear(3, 2, rng=0)
    x = RNG(1).normal(size=(4, 3))
    np.testing.assert_array_equal(layer(x).data, layer(tb.Tensor(x)).data)


@pytest.mark.parametrize("sizes", [(0, 2), (2, 0), (-1, 2), (2.0, 2), ("2", 2), (None, 2)])
def test_linear_refuses_sizes(sizes):
    with pytest.raises(
        (TypeError, ValueError), match=r"(inputs|outputs): expected a positive integer, got"
    ):
        nn.Linear(*sizes, rng=0)


@pytest.mark.parametrize("shape", [(), (2,), (4,), (3, 1), (1, 4), (3, 2)])
def test_linear_refuses_other_numbers_of_features(shape):
    with pytest.raises(ValueError, match=r"Linear: expected \(\.\.\., 3\) features, got shape"):
        nn.Linear(3, 2, rng=0)(np.ones(shape))


@pytest.mark.parametrize("x", [[[1.0, 2.0]], 1.0, None, "x", tb.Value(1.0)])
def test_linear_refuses_what_is_no_array(x):
    with pytest.raises(TypeError, match="Linear: expected a Tensor, Values or a numpy array"):
        nn.Linear(2, 1, rng=0)(x)


@pytest.mark.parametrize("dtype", [np.float16, np.int64, complex])
def test_dtype_is_float64_or_float32(dtype):
    with pytest.raises(TypeError, match="dtype: expected float32 or float64"):
        nn.Linear(2, 1, rng=0, dtype=dtype)


# --- MLP -----------------------------------------------------------------------------------------


def in_torch(torch, name):
    """PyTorch's function for one of our names."""
    functions = torch.nn.functional
    return {
        "identity": lambda x: x,
        "softmax": lambda x: functions.softmax(x, -1),
        "log_softmax": lambda x: functions.log_softmax(x, -1),
    }.get(name) or getattr(functions, name)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("batch", [(1,), (7,), (2, 3)])
def test_mlp_equals_torch(torch, name, batch):
    names = [name, "tanh", name]
    model = randomized(nn.MLP([3, 5, 4, 2], names, rng=0))
    x, g = RNG(1).normal(size=(*batch, 3)), RNG(2).normal(size=(*batch, 2))
    ours = model(x)
    ours.backward(g)

    parameters = [torch.tensor(p.data, requires_grad=True) for p in model.parameters()]
    a = torch.tensor(x)
    for i, phi in enumerate(names):
        W, b = parameters[2 * i : 2 * i + 2]
        a = in_torch(torch, phi)(torch.nn.functional.linear(a, W.T, b))
    a.backward(torch.tensor(g))
    np.testing.assert_allclose(ours.data, a.detach().numpy(), rtol=1e-10, atol=1e-14)
    for p, q in zip(model.parameters(), parameters, strict=True):
        np.testing.assert_allclose(p.grad, q.grad.numpy(), rtol=1e-10, atol=1e-14)


def test_one_activation_is_for_all_layers_but_the_last():
    x = RNG(1).normal(size=(2, 3))
    for phi in ("sigmoid", tb.sigmoid):
        short = nn.MLP([3, 4, 4, 2], phi, rng=0)
        long = nn.MLP([3, 4, 4, 2], ["sigmoid", tb.sigmoid, "identity"], rng=0)
        np.testing.assert_array_equal(short(x).data, long(x).data)


def test_tanh_is_the_activation_if_none_is_given():
    x = RNG(1).normal(size=(2, 3))
    first, second = nn.MLP([3, 4, 2], rng=0), nn.MLP([3, 4, 2], ["tanh", "identity"], rng=0)
    np.testing.assert_array_equal(first(x).data, second(x).data)


def test_an_activation_may_be_any_function():
    model = nn.MLP([2, 2], [lambda z: z * z], rng=0)
    x = np.array([[1.0, 2.0]])
    np.testing.assert_allclose(model(x).data, (x @ model.layers[0].W.data) ** 2, rtol=1e-14)


def test_labels():
    model = nn.MLP([2, 3, 4, 1], ["tanh", "identity", "sigmoid"], rng=0)
    assert [p.label for p in model.parameters()] == ["W1", "b1", "W2", "b2", "W3", "b3"]
    output = model(np.ones((1, 2)))
    labels = [node.label for node in tb.topological_order(output) if not node.is_leaf]
    assert [label for label in labels if label] == ["z1", "a1", "z2", "z3", "a3"]


@pytest.mark.parametrize("sizes", [[], [3]])
def test_mlp_refuses_too_few_sizes(sizes):
    with pytest.raises(ValueError, match="sizes: expected the widths"):
        nn.MLP(sizes, rng=0)


@pytest.mark.parametrize("sizes", [[3, 0, 1], [0, 1], [3, 2.5], [3, -1]])
def test_mlp_refuses_sizes(sizes):
    with pytest.raises(ValueError, match="expected a positive integer"):
        nn.MLP(sizes, rng=0)


@pytest.mark.parametrize("names", [[], ["tanh"], ["tanh"] * 3])
def test_mlp_refuses_another_number_of_activations(names):
    with pytest.raises(ValueError, match="activations: expected 2, one per layer, got"):
        nn.MLP([2, 3, 1], names, rng=0)


@pytest.mark.parametrize(
    "make", [lambda a: nn.MLP([2, 3, 1], a, rng=0), lambda a: nn.RNNCell(2, 3, rng=0, activation=a)]
)
def test_unknown_activations_are_refused_with_a_list(make):
    with pytest.raises(ValueError, match=r"activation: expected one of .*sigmoid.* got 'tahn'"):
        make("tahn")


def test_mlp_refuses_other_numbers_of_features():
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 3\) features, got shape \(1, 2\)"):
        nn.MLP([3, 2], rng=0)(np.ones((1, 2)))
