"""Weights to PyTorch and back."""

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn

RNG = np.random.default_rng


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is the oracle")


def x_of(shape):
    return RNG(1).normal(size=shape)


# Ours, PyTorch's, and the shape of an input.
PAIRS = {
    "Linear": (lambda: nn.Linear(3, 4, rng=0), lambda t: t.Linear(3, 4), (2, 3)),
    "Linear without bias": (
        lambda: nn.Linear(3, 4, rng=0, bias=False),
        lambda t: t.Linear(3, 4, bias=False),
        (2, 3),
    ),
    "LayerNorm": (lambda: nn.LayerNorm(3), lambda t: t.LayerNorm(3), (2, 3)),
    "RNN": (
        lambda: nn.RNN(3, 4, rng=0, layers=2, bidirectional=True),
        lambda t: t.RNN(3, 4, 2, bidirectional=True),
        (5, 2, 3),
    ),
    "LSTM": (
        lambda: nn.LSTM(3, 4, rng=0, layers=2, bidirectional=True),
        lambda t: t.LSTM(3, 4, 2, bidirectional=True),
        (5, 2, 3),
    ),
    "GRU": (
        lambda: nn.GRU(3, 4, rng=0, layers=2, bidirectional=True),
        lambda t: t.GRU(3, 4, 2, bidirectional=True),
        (5, 2, 3),
    ),
    "MLP": (
        lambda: nn.MLP([3, 4, 2], "tanh", rng=0),
        lambda t: t.Sequential(t.Linear(3, 4), t.Tanh(), t.Linear(4, 2)),
        (2, 3),
    ),
    "Sequential": (
        lambda: nn.Sequential(nn.Linear(3, 4, rng=0), "relu", nn.GRU(4, 2, rng=0)),
        lambda t: t.Sequential(t.Linear(3, 4), t.ReLU(), t.GRU(4, 2)),
        (5, 2, 3),
    ),
    "TransformerBlock": (
        lambda: nn.TransformerBlock(4, 2, 5, rng=0),
        lambda t: t.TransformerEncoderLayer(4, 2, 5, 0.0),
        (3, 2, 4),
    ),
}


def first(output):
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize("name", PAIRS)
def test_weights_come_from_torch(torch, name):
    """PyTorch's own random weights, whose two biases both differ from zero."""
    make, make_there, shape = PAIRS[name]
    torch.manual_seed(0)
    module, other = make(), make_there(torch.nn).double()
    nn.load_torch_state_dict(module, other.state_dict())
    x = x_of(shape)
    expected = first(other(torch.tensor(x))).detach().numpy()
    np.testing.assert_allclose(first(module(x)).data, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", PAIRS)
def test_weights_go_to_torch(torch, name):
    make, make_there, shape = PAIRS[name]
    module, other = make(), make_there(torch.nn).double()
    for p in module.parameters():
        p.data = RNG(p.size).normal(size=p.shape)
    state = nn.torch_state_dict(module)
    other.load_state_dict({k: torch.tensor(v) for k, v in state.items()})
    x = x_of(shape)
    expected = first(other(torch.tensor(x))).detach().numpy()
    np.testing.assert_allclose(first(module(x)).data, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_there_and_back_is_exact(name):
    module, twin = PAIRS[name][0](), PAIRS[name][0]()
    for p in module.parameters():
        p.data = RNG(p.size).normal(size=p.shape)
    nn.load_torch_state_dict(twin, nn.torch_state_dict(module))
    for p, q in zip(module.parameters(), twin.parameters(), strict=True):
        np.testing.assert_array_equal(q.data, p.data)


@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells(torch, kind):
    cell, other = getattr(nn, kind)(3, 4, rng=0), getattr(torch.nn, kind)(3, 4).double()
    nn.load_torch_state_dict(cell, other.state_dict())
    x, state = x_of((2, 3)), cell.initial_state(2)
    expected = first(other(torch.tensor(x))).detach().numpy()
    np.testing.assert_allclose(first(cell(x, state)).data, expected, rtol=1e-12)


def test_a_module_of_ones_own_has_the_names_of_its_attributes(torch):
    class Ours(nn.Module):
        def __init__(self):
            self.embedding = nn.Embedding(5, 3, rng=0)
            self.lstm = nn.LSTM(3, 4, rng=0)
            self.heads = [nn.Linear(4, 2, rng=0), nn.Linear(4, 1, rng=0)]
            self.more = {"a": nn.LayerNorm(4)}

    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(5, 3)
            self.lstm = torch.nn.LSTM(3, 4)
            self.heads = torch.nn.ModuleList([torch.nn.Linear(4, 2), torch.nn.Linear(4, 1)])
            self.more = torch.nn.ModuleDict({"a": torch.nn.LayerNorm(4)})

    ours = nn.torch_state_dict(Ours())
    theirs = Theirs().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: tuple(v.shape) for k, v in theirs.items()}


def test_the_arrays_are_copies():
    linear = nn.Linear(2, 2, rng=0)
    before = linear.W.data.copy()
    state = nn.torch_state_dict(linear)
    state["weight"][:] = 7.0
    np.testing.assert_array_equal(linear.W.data, before)
    nn.load_torch_state_dict(linear, state)
    state["weight"][:] = 8.0
    np.testing.assert_array_equal(linear.W.data, 7.0)


def test_dtypes_are_kept():
    module = nn.LSTM(2, 3, rng=0, dtype=np.float32)
    state = nn.torch_state_dict(module)
    assert {x.dtype for x in state.values()} == {np.dtype(np.float32)}
    nn.load_torch_state_dict(module, {k: v.astype(np.float64) for k, v in state.items()})
    assert {p.dtype for p in module.parameters()} == {np.dtype(np.float32)}


def test_the_scalar_view_takes_weights_too():
    module, view = nn.GRU(2, 3, rng=0), nn.GRU(2, 3, rng=1).scalar_view()
    nn.load_torch_state_dict(view, nn.torch_state_dict(module))
    for p, q in zip(module.parameters(), view.parameters(), strict=True):
        np.testing.assert_array_equal(q.data, p.data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("weight_hh_l0"), r"missing \['weight_hh_l0'\], unknown nothing"),
        (lambda s: s.update(extra=1), r"missing nothing, unknown \['extra'\]"),
        (lambda s: s.update(bias_ih_l0=np.ones(7)), r"'bias_ih_l0'.*expected shape \(8,\), got"),
    ],
)
def test_what_does_not_match_is_named_and_nothing_is_set(change, message):
    module = nn.LSTM(3, 2, rng=0)
    before = module.state_dict()
    state = nn.torch_state_dict(nn.LSTM(3, 2, rng=1))
    change(state)
    with pytest.raises(ValueError, match=message):
        nn.load_torch_state_dict(module, state)
    for name, x in module.state_dict().items():
        np.testing.assert_array_equal(x, before[name])


def test_what_torch_has_no_name_for_is_refused():
    class Scaled(nn.Linear):
        def __init__(self):
            super().__init__(2, 3, rng=0)
            self.scale = tb.Tensor(2.0)

    refused = {
        "'h0', 'c0'": nn.LSTM(2, 3, rng=0, learn_initial_state=True),
        "'V', 'c'": nn.CharRNN(2, 3, rng=0),
        "'scale'": Scaled(),
        "'layers.0.P'": nn.Sequential(nn.PositionalEncoding(2, 3, learned=True, rng=0)),
    }
    for names, module in refused.items():
        with pytest.raises(TypeError, match=rf"PyTorch has no names for \[{names}\]"):
            nn.torch_state_dict(module)
        with pytest.raises(TypeError, match="PyTorch has no names for"):
            nn.load_torch_state_dict(module, {})


def test_a_subclass_is_converted_as_its_class():
    class Mine(nn.Linear):
        pass

    assert set(nn.torch_state_dict(Mine(2, 3, rng=0))) == {"weight", "bias"}


def test_nothing_is_tracked():
    linear = nn.Linear(2, 2, rng=0)
    nn.load_torch_state_dict(linear, nn.torch_state_dict(linear))
    assert isinstance(linear.W, tb.Tensor)
    assert linear.W.is_leaf
