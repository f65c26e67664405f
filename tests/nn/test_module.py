"""Modules: finding, saving and loading parameters, the scalar view, names and scopes."""

import copy
import pickle

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn


class Tied(nn.Module):
    """An autoencoder whose second layer is the transpose of the first."""

    def __init__(self):
        self.encoder = nn.Linear(3, 2, rng=0)
        self.tied = self.encoder.W
        self.c = tb.Tensor([0.1, 0.2, 0.3], "c")

    def forward(self, x):
        return tb.tanh(self.encoder(x)) @ self.tied.T + self.c


class Zoo(nn.Module):
    """Parameters of every kind in every container, and things that are none."""

    def __init__(self):
        self.z = tb.Tensor([1.0], "z")
        self.layers = [nn.Linear(1, 2, rng=0), nn.Linear(2, 1, rng=1, bias=False)]
        self.heads = {"mean": nn.Linear(1, 1, rng=2), 7: (tb.Value(2.0), tb.values([3.0, 4.0]))}
        self.a = tb.Value(1.0, "a")
        self.frozen = tb.Tensor([9.0], requires_grad=False)
        self.text, self.nothing, self.number, self.array = "text", None, 3.0, np.ones(2)
        self.computed = self.a * 2.0


def test_named_parameters_come_in_the_order_of_assignment():
    assert [name for name, _ in Zoo().named_parameters()] == [
        "z",
        "layers.0.W",
        "layers.0.b",
        "layers.1.W",
        "heads.mean.W",
        "heads.mean.b",
        "heads.7.0",
        "heads.7.1",
        "a",
    ]


def test_parameters_are_the_leaves_themselves():
    zoo = Zoo()
    assert [id(p) for p in zoo.parameters()] == [id(p) for _, p in zoo.named_parameters()]
    assert zoo.parameters()[0] is zoo.z
    assert zoo.parameters()[-1] is zoo.a


def test_a_shared_parameter_counts_once_under_its_first_name():
    tied = Tied()
    assert [name for name, _ in tied.named_parameters()] == ["encoder.W", "encoder.b", "c"]
    assert list(tied.state_dict()) == ["encoder.W", "encoder.b", "c"]


def test_leaves_of_equal_numbers_are_two_parameters():
    module = nn.Module()
    module.u, module.w = tb.Value(1.0), tb.Value(1.0)
    assert len(module.parameters()) == 2


def test_a_shared_module_counts_once():
    module = nn.Module()
    module.first = nn.Linear(2, 2, rng=0)
    module.second = module.first
    assert [name for name, _ in module.named_parameters()] == ["first.W", "first.b"]


def test_a_module_may_know_its_parent():
    parent, child = nn.Module(), nn.Linear(2, 2, rng=0)
    parent.child, child.parent = child, parent
    assert [name for name, _ in parent.named_parameters()] == ["child.W", "child.b"]


def test_zero_grad():
    model = nn.MLP([2, 2], rng=0)
    model(np.ones((1, 2))).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_forward_must_be_written():
    with pytest.raises(NotImplementedError, match=r"Module has no forward"):
        nn.Module()(1.0)


# --- saving and loading --------------------------------------------------------------------------


def test_state_dict_copies():
    model = nn.Linear(2, 2, rng=0)
    state = model.state_dict()
    before = model.W.data.copy()
    state["W"][:] = 7.0
    np.testing.assert_array_equal(model.W.data, before)
    saved = model.state_dict()
    model.W.data[:] = 8.0
    np.testing.assert_array_equal(saved["W"], before)


def test_load_state_dict_copies():
    model, state = nn.Linear(2, 2, rng=0), {"W": np.ones((2, 2)), "b": np.zeros(2)}
    model.load_state_dict(state)
    state["W"][:] = 7.0
    np.testing.assert_array_equal(model.W.data, np.ones((2, 2)))


def test_state_goes_round():
    first, second = Zoo(), Zoo()
    for p in first.parameters():
        p.data = p.data + 1.0
    second.load_state_dict(first.state_dict())
    assert second.a.data == 2.0
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        np.testing.assert_array_equal(p.data, q.data)


def test_loading_leaves_recorded_graphs_alone():
    model = nn.Linear(2, 1, rng=0)
    old, x = model.W.data.copy(), tb.Tensor([[1.0, 2.0]])
    z = model(x)
    model.load_state_dict({"W": [[5.0], [6.0]], "b": [0.0]})
    z.backward()
    np.testing.assert_array_equal(x.grad, old.T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c": np.zeros(1)}, r"missing nothing, unknown \['c'\]"),
        ({"b": None}, r"missing \['b'\], unknown nothing"),
        ({"b": np.zeros(3)}, r"state\['b'\]: expected shape \(2,\), got \(3,\)"),
        ({"b": 0.0}, r"state\['b'\]: expected shape \(2,\), got \(\)"),
        ({"b": np.zeros((1, 2))}, r"state\['b'\]: expected shape \(2,\), got \(1, 2\)"),
    ],
)
def test_load_state_dict_sets_all_or_nothing(change, message):
    model = nn.Linear(2, 2, rng=0)
    before = model.state_dict()
    state = {"W": np.ones((2, 2)), "b": np.ones(2), **change}
    state = {name: array for name, array in state.items() if array is not None}
    with pytest.raises(ValueError, match=message):
        model.load_state_dict(state)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("bad", [np.array(["1", "2"]), np.array([1j, 2j]), [True, False]])
def test_load_state_dict_refuses_what_is_no_number(bad):
    model = nn.Linear(2, 2, rng=0)
    before = model.state_dict()
    with pytest.raises((TypeError, ValueError), match=r"state\['b'\]"):
        model.load_state_dict({"W": np.ones((2, 2)), "b": bad})
    np.testing.assert_array_equal(model.W.data, before["W"])


def test_float32_stays_float32():
    model = nn.MLP([2, 3, 1], "tanh", rng=0, dtype=np.float32)
    model.load_state_dict({k: v.astype(np.float64) for k, v in model.state_dict().items()})
    assert {array.dtype for array in model.state_dict().values()} == {np.dtype(np.float32)}
    output = model(np.ones((1, 2), np.float32))
    output.sum().backward()
    assert output.dtype == np.float32
    assert {p.grad.dtype for p in model.parameters()} == {np.dtype(np.float32)}


def test_modules_copy_and_pickle():
    model = Tied()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.tied is twin.encoder.W
        assert twin.tied is not model.tied
        np.testing.assert_array_equal(twin.tied.data, model.tied.data)


@pytest.mark.parametrize(
    "model",
    [
        nn.MLP([2, 3, 1], rng=0),
        nn.RNNCell(2, 3, rng=0),
        nn.CharRNN(2, 3, rng=0),
        nn.LSTM(2, 3, rng=0, layers=2, bidirectional=True, dropout=0.5, learn_initial_state=True),
        nn.GRU(2, 3, rng=0),
        nn.Sequential(nn.Embedding(3, 4, rng=0), nn.TransformerBlock(4, 2, rng=0), "tanh"),
    ],
    ids=lambda model: type(model).__name__,
)
def test_networks_pickle(model):
    twin = pickle.loads(pickle.dumps(model))
    for name, array in twin.state_dict().items():
        np.testing.assert_array_equal(array, model.state_dict()[name])


# --- the scalar view -----------------------------------------------------------------------------

MODELS = {
    "mlp": (lambda: nn.MLP([3, 4, 2], ["tanh", "softmax"], rng=0), ()),
    "rectifiers": (lambda: nn.MLP([3, 4, 3, 2], ["relu", "gelu", "elu"], rng=0), ()),
    "tied": (Tied, ()),
    "rnn": (lambda: nn.RNNCell(3, 2, rng=0), (np.array([[0.1, -0.2], [0.3, 0.4]]),)),
}


@pytest.mark.parametrize("name", MODELS)
def test_scalar_view_has_the_same_outputs_and_gradients(name):
    make, more = MODELS[name]
    model = make()
    view = model.scalar_view()
    x = np.random.default_rng(1).normal(size=(2, 3))
    weights = np.arange(1.0, 7.0)  # to give every output a gradient of its own
    for network in (model, view):
        output = network(x, *more)
        count = output.shape[0] * output.shape[1]
        (output * weights[:count].reshape(output.shape)).sum().backward()
    # The two add up in different orders.
    np.testing.assert_allclose(view(x, *more).data, model(x, *more).data, rtol=1e-13)
    pairs = zip(model.named_parameters(), view.named_parameters(), strict=True)
    for (name, p), (same, q) in pairs:
        assert name == same
        assert isinstance(q, tb.Values)
        np.testing.assert_array_equal(q.data, p.data)
        np.testing.assert_allclose(q.grad, p.grad, rtol=1e-12, atol=1e-14)


def test_scalar_view_keeps_shared_parameters_shared():
    view = Tied().scalar_view()
    assert view.tied is view.encoder.W


def test_scalar_view_labels_every_weight():
    view = nn.MLP([2, 3, 1], rng=0).scalar_view()
    assert view.layers[0].W[1, 2].label == "W1[1, 2]"
    assert view.layers[1].b[0].label == "b2[0]"


def test_scalar_view_of_float32_has_the_same_numbers():
    model = nn.Linear(2, 3, rng=0, dtype=np.float32)
    view = model.scalar_view()
    assert view.W.data.dtype == np.float64
    np.testing.assert_array_equal(view.W.data, model.W.data)


LEAVES = {"Tensor": tb.Tensor, "Values": tb.values, "Value": lambda data: tb.Value(data[0])}


@pytest.mark.parametrize("kind", LEAVES)
def test_scalar_view_is_a_copy(kind):
    module = nn.Module()
    module.p = LEAVES[kind]([1.0, 2.0])
    view = module.scalar_view()
    (view.p * 3.0).sum().backward() if kind != "Value" else (view.p * 3.0).backward()
    view.p.data = view.p.data + 1.0
    np.testing.assert_array_equal(module.p.data, [1.0, 2.0] if kind != "Value" else 1.0)
    assert module.p.grad is None


def test_scalar_view_takes_constants_along():
    class Masked(nn.Module):
        def __init__(self):
            self.w = tb.Tensor([1.0, 2.0])
            self.mask = tb.Tensor([1.0, 0.0], requires_grad=False)

        def forward(self, x):
            return (self.w * self.mask * x).sum()

    view = Masked().scalar_view()
    view(np.array([3.0, 4.0])).backward()
    assert [name for name, _ in view.named_parameters()] == ["w"]
    np.testing.assert_array_equal(view.w.grad, [3.0, 0.0])


# --- names, scopes, and what is printed ----------------------------------------------------------


def test_named_labels_and_returns():
    v, t, a = tb.Value(1.0), tb.Tensor([1.0]), tb.values([[1.0, 2.0]])
    assert nn.named(v, "v") is v
    assert nn.named(t, "t") is t
    assert nn.named(a, "a") is a
    assert [v.label, t.label, a[0, 0].label, a[0, 1].label] == ["v", "t", "a[0, 0]", "a[0, 1]"]


@pytest.mark.parametrize("x", [1.0, np.ones(2), None])
def test_named_refuses_what_has_no_name(x):
    with pytest.raises(TypeError, match="named: expected a Value, a Tensor or Values"):
        nn.named(x, "x")


def test_named_refuses_a_name_that_is_no_text():
    with pytest.raises(TypeError, match="label: expected a str"):
        nn.named(tb.Value(1.0), 1)


def scopes(root):
    return {n.label: n.scope.path for n in tb.topological_order(root) if n.label}


@pytest.mark.parametrize("scalar", [False, True])
def test_scopes_of_a_network(scalar):
    model = nn.MLP([2, 3, 1], "tanh", rng=0)
    view, end = (model.scalar_view(), "[0, 0]") if scalar else (model, "")
    paths = scopes(view(np.ones((1, 2))).sum())
    assert paths["z1" + end] == "mlp/layer1"
    assert paths["a1" + end] == "mlp"
    assert paths["z2" + end] == "mlp/layer2"
    assert paths["W1" + end] == ""


def test_a_module_names_its_scope():
    model = nn.MLP([2, 1], rng=0)
    model.name = "critic"
    assert model(np.ones((1, 2))).scope.path == "critic/layer1"
    assert nn.Linear(2, 1, rng=0)(np.ones((1, 2))).scope.path == "linear"


def test_scope_is_left_after_an_error():
    with pytest.raises(ValueError, match="features"):
        nn.MLP([2, 1], rng=0)(np.ones((1, 3)))
    assert tb.Value(1.0).scope.path == ""


def test_no_grad_records_nothing():
    model = nn.MLP([2, 3, 1], "tanh", rng=0)
    with tb.no_grad():
        output = model(np.ones((1, 2)))
    assert not output.requires_grad
    assert output.parents == ()


def test_repr_lists_names_and_shapes():
    model = nn.MLP([2, 3], rng=0)
    text = "MLP(\n  layers.0.W: (2, 3)\n  layers.0.b: (3,)\n)"
    assert repr(model) == text
    assert repr(model.scalar_view()) == text
    assert repr(nn.Module()) == "Module(\n)"


def test_two_parameters_of_one_name_are_refused():
    class Twice(nn.Module):
        def __init__(self):
            self.d = {"a.b": tb.Tensor([1.0]), "a": {"b": tb.Tensor([2.0])}}

    with pytest.raises(ValueError, match=r"two parameters have the name 'd\.a\.b'"):
        Twice().state_dict()
