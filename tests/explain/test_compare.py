"""Gradients by hand: mistakes planted in random networks are named, right ones never accused."""

import os

import by_hand
import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.explain.compare import compare
from tinygrad_bp.recording import scope

ROUNDS = int(
    os.environ.get("TINYGRAD_BP_ROUNDS", "6")
)  # networks per diagnosis; 200 for the report


# --- the same networks, recorded ----------------------------------------------------------------


def recorded_mlp(net):
    model = nn.MLP(net.sizes, net.activations, rng=0)
    for layer, W, b in zip(model.layers, net.W, net.b, strict=True):
        layer.W.data, layer.b.data = W, b
    reduction = "mean" if net.mean else "sum"
    out = model(net.x)
    if net.loss == "softmax":
        loss = nn.cross_entropy(out, net.y, reduction)
    elif net.loss == "logistic":
        loss = nn.binary_cross_entropy_with_logits(out, net.y, reduction)
    elif net.loss == "probabilities":
        loss = nn.binary_cross_entropy(out, net.y, reduction)
    elif net.loss == "softmax_squared":
        loss = nn.squared_error(tb.softmax(out), net.y, reduction)
    else:
        loss = nn.squared_error(out, net.y, reduction)
    return loss + nn.weight_decay(model.parameters(), net.decay) if net.decay else loss


def recorded_rnn(net, scoped=True):
    U, W, V = tb.Tensor(net.U, "U"), tb.Tensor(net.W, "W"), tb.Tensor(net.V, "V")
    b, c = tb.Tensor(net.b, "b"), tb.Tensor(net.c, "c")
    h, total = np.zeros((net.x.shape[1], net.W.shape[0])), 0.0
    for t in range(len(net.x)):
        with scope("step", t + 1 if scoped else None):
            z = net.x[t] @ U + h @ W + b
            h = tb.tanh(z)
            if scoped:
                z.label, h.label = "z", "h"
            total = total + nn.cross_entropy(h @ V + c, net.y[t])
    return total


def recorded_lstm(net):
    U, W, b = tb.Tensor(net.U, "U"), tb.Tensor(net.W, "W"), tb.Tensor(net.b, "b")
    H = net.W.shape[0]
    h = c = np.zeros((net.x.shape[1], H))
    total = 0.0
    for t in range(len(net.x)):
        with scope("step", t + 1):
            z = net.x[t] @ U + h @ W + b
            i, f, g, o = (z[:, j * H : (j + 1) * H] for j in range(4))
            i, f, g, o = tb.sigmoid(i), tb.sigmoid(f), tb.tanh(g), tb.sigmoid(o)
            c = f * c + i * g
            h = o * tb.tanh(c)
            total = total + nn.squared_error(h, net.y[t], "sum")
    return total


# --- planting -----------------------------------------------------------------------------------


def differs(got, right):
    return got.shape != right.shape or np.abs(got - right).max() > 1e-3 * np.abs(right).max()


def outcomes(seed, make, by_hand_, record, expected, rounds=ROUNDS, **how):
    """For every network whether each array that the mistake changes is told by that name."""
    named, total, misses = 0, 0, []
    for i in range(rounds):
        rng = np.random.default_rng([seed, i])
        net = make(rng)
        loss = record(net)
        right, _ = by_hand_(net)
        assert compare(loss, right), f"accused a right gradient: {compare(loss, right)}"
        options = {key: value(net, rng) if callable(value) else value for key, value in how.items()}
        wrong, _ = by_hand_(net, **options)
        changed = [name for name in wrong if differs(wrong[name], right[name])]
        if not changed:
            continue
        found = compare(loss, wrong)
        total += 1
        told = {name: found[name].mistake for name in changed}
        if all(mistake in expected for mistake in told.values()):
            named += 1
        else:
            misses.append((i, told, str(found)))
    return named, total, misses


def check(*args, **how):
    named, total, misses = outcomes(*args, **how)
    if ROUNDS > 10:
        print(f"\n{how.get('mistake')}: {named} of {total}", misses[:2])
    assert total >= ROUNDS // 2
    assert named >= 0.95 * total or (total - named) <= total // 20, misses[:2]


def hidden(net, rng):
    return int(rng.integers(1, len(net.W)))


MLPS = {
    "missing_derivative": {},
    "derivative_at_output": {},
    "formula_at_input": {"kinds": ("sigmoid", "tanh")},
    "derivative_twice": {},
    "derivative_at_logits": {"loss": ("softmax", "logistic")},
    "binary_cross_entropy_on_softmax": {"loss": ("softmax",), "least": 3},
    "softmax_elementwise": {"loss": ("softmax_squared",), "least": 3},  # of two: a factor ½
    "missing_jacobian": {"loss": ("softmax_squared",)},
    "missing_sample": {},
    "only_sample": {},
    "updated_weights": {},
    "not_transposed": {"square": True},
    "penalty_forgotten": {"decay": 0.1},
    "penalty_on_bias": {"decay": 0.1},
    "sum_for_mean": {},
}


@pytest.mark.parametrize("mistake", MLPS)
def test_a_mistake_in_a_feed_forward_network_is_named(mistake):
    options = dict(MLPS[mistake])
    losses = options.pop("loss", (None,))

    def make(rng):
        net = by_hand.random_mlp(rng, loss=losses[rng.integers(len(losses))], **options)
        net.mean = net.mean or mistake == "sum_for_mean"
        return net

    expected = {
        "sum_for_mean": {"factor"},
        "missing_jacobian": {"missing_derivative"},
    }.get(mistake, {mistake})
    how = {"mistake": mistake, "sample": lambda net, rng: int(rng.integers(len(net.x)))}
    how["rate"] = lambda net, rng: float(rng.choice([0.01, 0.1, 0.5]))
    check(list(MLPS).index(mistake), make, by_hand.mlp, recorded_mlp, expected, **how)


@pytest.mark.parametrize(
    ("mistake", "least"),
    [("missing_derivative", 1), ("derivative_at_output", 1), ("derivative_twice", 1),
     ("delta_of_activation", 2), ("own_output", 2), ("weighted_input", 2)],
)  # fmt: skip
def test_a_mistake_at_one_layer_is_named(mistake, least):
    def make(rng):
        return by_hand.random_mlp(
            rng, square=mistake == "own_output", depth=int(rng.integers(3, 5))
        )

    def layer(net, rng):
        return int(rng.integers(least, len(net.W)))

    expected = {mistake}
    check(40 + least, make, by_hand.mlp, recorded_mlp, expected, mistake=mistake, layer=layer)


RNNS = {
    "missing_derivative": {"missing_derivative"},
    "derivative_at_output": {"derivative_at_output"},
    "derivative_missing_in_recursion": {"derivative_missing_in_recursion"},
    "delta_of_activation": {"delta_of_activation"},
    "not_transposed": {"not_transposed"},
    "later_state": {"later_state", "own_output"},
    "last_loss_only": {"last_loss_only"},
    "no_recursion": {"no_recursion"},
    "truncated": {"truncated"},
    "blocks": {"truncated_blocks"},
    "only_last": {"only_step"},
    "only_first": {"only_step"},
    "missing_last": {"missing_step"},
    "missing_first": {"missing_step"},
}


@pytest.mark.parametrize("scoped", [True, False], ids=["steps", "plain loop"])
@pytest.mark.parametrize("mistake", RNNS)
def test_a_mistake_in_a_recurrent_network_is_named(mistake, scoped):
    def record(net):
        return recorded_rnn(net, scoped)

    def make(rng):
        return by_hand.random_rnn(rng)

    how = {"mistake": mistake, "k": lambda net, rng: int(rng.integers(2, len(net.x)))}
    seed = 100 + 2 * list(RNNS).index(mistake) + scoped
    check(seed, make, by_hand.rnn, record, RNNS[mistake], **how)


LSTMS = {
    "missing_sigmoids": {"missing_derivative"},
    "missing_tanh_of_gate": {"missing_derivative"},
    "missing_tanh_of_cell": {"missing_derivative"},
    "only_last": {"only_step"},
    "missing_first": {"missing_step"},
    "later_state": {"later_state"},
    "no_recursion": {"no_recursion"},
    "blocks": {"truncated_blocks"},
}


@pytest.mark.parametrize("mistake", LSTMS)
def test_a_mistake_in_an_lstm_is_named(mistake):
    how = {"mistake": mistake, "k": lambda net, rng: 2}
    seed = 200 + list(LSTMS).index(mistake)
    check(seed, by_hand.random_lstm, by_hand.lstm, recorded_lstm, LSTMS[mistake], **how)


# --- what happens to a single array -------------------------------------------------------------


def other_of_same_shape(net, right, name, rng):
    others = [n for n in right if n != name and right[n].shape == right[name].shape]
    return right[others[0]] if others else right[name]


SINGLE = {
    "transposed": (lambda net, r, n, rng: r[n].T, {"transposed"}),
    "sign": (lambda net, r, n, rng: -r[n], {"sign"}),
    "twice": (lambda net, r, n, rng: 2 * r[n], {"factor"}),
    "half": (lambda net, r, n, rng: r[n] / 2, {"factor"}),
    "times m": (lambda net, r, n, rng: len(net.x) * r[n], {"factor"}),
    "by m": (lambda net, r, n, rng: r[n] / len(net.x), {"factor"}),
    "by K": (lambda net, r, n, rng: r[n] / net.sizes[-1], {"factor"}),
    "by m K": (lambda net, r, n, rng: r[n] / len(net.x) / net.sizes[-1], {"factor"}),
    "some factor": (lambda net, r, n, rng: 1.37 * r[n], {"factor"}),
    "minus, transposed": (lambda net, r, n, rng: -r[n].T, {"transposed and sign"}),
    "by m, transposed": (lambda net, r, n, rng: r[n].T / len(net.x), {"transposed and factor"}),
    "zero": (lambda net, r, n, rng: 0 * r[n], {"zero"}),
    "other parameter": (other_of_same_shape, {"other_parameter"}),
}


@pytest.mark.parametrize("what", SINGLE)
def test_what_happens_to_one_array_is_named(what):
    change, expected = SINGLE[what]
    named = total = 0
    misses = []
    for i in range(ROUNDS):
        rng = np.random.default_rng([300 + list(SINGLE).index(what), i])
        net = by_hand.random_mlp(rng, square=what == "other parameter", depth=3)
        loss, (right, _) = recorded_mlp(net), by_hand.mlp(net)
        name = str(rng.choice(["W1", "W2", "W3"]))
        wrong = change(net, right, name, rng)
        if not differs(wrong, right[name]):
            continue
        found = compare(loss, {**right, name: wrong})
        total += 1
        named += found[name].mistake in expected and sum(map(bool, found)) == len(right) - 1
        if found[name].mistake not in expected:
            misses.append(str(found))
    if ROUNDS > 10:
        print(f"\n{what}: {named} of {total}", misses[:2])
    assert total >= ROUNDS // 2
    assert named >= 0.95 * total, misses[:2]


@pytest.mark.parametrize("mistake", ["unsummed", "wrong_axis"])
@pytest.mark.parametrize("fits", [True, False], ids=["the shapes agree", "the shapes differ"])
def test_a_bias_that_is_not_summed_over_the_samples_is_named(mistake, fits):
    for i in range(ROUNDS):
        rng = np.random.default_rng([400, i])
        net = by_hand.random_mlp(rng, depth=2)
        if fits:
            net = by_hand.random_mlp(rng, depth=2, batch=net.sizes[1] if net.sizes[1] > 2 else 3)
        right, deltas = by_hand.mlp(net)
        layer = int(rng.integers(1, 3))
        delta = deltas[f"z{layer}"]
        wrong = delta if mistake == "unsummed" else delta.sum(1)
        found = compare(recorded_mlp(net), {**right, f"b{layer}": wrong})
        assert found[f"b{layer}"].mistake == mistake, found


def test_a_recurrent_bias_that_is_not_summed_over_the_samples():
    net = by_hand.random_rnn(np.random.default_rng(5))
    right, deltas = by_hand.rnn(net)
    unsummed = sum(delta for name, delta in deltas.items() if name.startswith("z"))
    found = compare(recorded_rnn(net), {**right, "b": unsummed})
    assert found["b"].mistake == "unsummed"


# --- right gradients are never accused ----------------------------------------------------------


def torch_gradients(net, dtype):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    function = {
        "sigmoid": torch.sigmoid, "tanh": torch.tanh, "identity": lambda z: z,
        "softplus": torch.nn.functional.softplus,
    }  # fmt: skip
    W = [torch.tensor(w, dtype=dtype, requires_grad=True) for w in net.W]
    b = [torch.tensor(v, dtype=dtype, requires_grad=True) for v in net.b]
    a, y = torch.tensor(net.x, dtype=dtype), torch.tensor(net.y, dtype=dtype)
    for weights, bias, kind in zip(W, b, net.activations, strict=True):
        a = function[kind](a @ weights + bias)
    if net.loss == "softmax":
        losses = -(y * torch.log_softmax(a, 1)).sum(1)
    elif net.loss == "logistic":
        losses = torch.nn.functional.binary_cross_entropy_with_logits(a, y, reduction="none").sum(1)
    elif net.loss == "probabilities":
        losses = torch.nn.functional.binary_cross_entropy(a, y, reduction="none").sum(1)
    else:
        losses = 0.5 * ((a - y) ** 2).sum(1)
    (losses.mean() if net.mean else losses.sum()).backward()
    gradients = {f"W{i}": w.grad for i, w in enumerate(W, 1)}
    return gradients | {f"b{i}": v.grad for i, v in enumerate(b, 1)}


def never_accused(seed, compute, status):
    seen = []
    for i in range(3 * ROUNDS):
        rng = np.random.default_rng([500 + seed, i])
        net = by_hand.random_mlp(rng)
        found = compare(recorded_mlp(net), compute(net, rng))
        assert found, found
        assert not any(verdict.findings for verdict in found), found
        assert {verdict.status for verdict in found} <= status, found
        seen += [verdict.status for verdict in found]
    return seen


def test_gradients_by_pytorch_are_right():
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    # "close" where units are saturated: PyTorch's 1 - a² then has lost digits.
    found = never_accused(
        0, lambda net, rng: torch_gradients(net, torch.float64), {"equal", "close"}
    )
    assert found.count("equal") >= 0.95 * len(found)


def test_gradients_by_pytorch_in_float32_are_right():
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    found = never_accused(
        1, lambda net, rng: torch_gradients(net, torch.float32), {"equal", "close"}
    )
    assert found.count("equal") >= 0.95 * len(found)

    def widened(net, rng):
        return {n: g.numpy().astype(float) for n, g in torch_gradients(net, torch.float32).items()}

    never_accused(2, widened, {"equal", "close"})


def test_gradients_by_finite_differences_are_right_but_imprecise():
    def noisy(net, rng):
        right, _ = by_hand.mlp(net)
        return {n: g + 1e-6 * np.abs(g).max() * rng.normal(size=g.shape) for n, g in right.items()}

    never_accused(3, noisy, {"close"})
    net = by_hand.random_mlp(np.random.default_rng(0))
    text = str(compare(recorded_mlp(net), noisy(net, np.random.default_rng(1))))
    assert "right but imprecise" in text


def test_gradients_summed_in_another_order_are_right():
    def one_by_one(net, rng):
        total = {}
        for i in rng.permutation(len(net.x)):
            single = by_hand.SimpleNamespace(**{**vars(net), "mean": False})
            single.x, single.y = net.x[i : i + 1], net.y[i : i + 1]
            for name, share in by_hand.mlp(single)[0].items():
                total[name] = total.get(name, 0.0) + share / (len(net.x) if net.mean else 1)
        return total

    never_accused(4, one_by_one, {"equal"})


@pytest.mark.parametrize("far", [1e-3, 1e-6, 1e-9, 1e-12, 0.0])
def test_gradients_of_a_network_that_has_learned_its_data_are_right(far):
    # Outputs minus targets then are differences of nearly equal numbers: mostly rounding.
    for i in range(ROUNDS):
        rng = np.random.default_rng([600, i])
        net = by_hand.random_mlp(rng, loss="squared", depth=2)
        net.y = np.array(net.x)
        for W, b, kind in zip(net.W, net.b, net.activations, strict=True):
            net.y = by_hand.ACTIVATIONS[kind][0](net.y @ W + b)
        net.y = net.y + far * rng.normal(size=net.y.shape)
        single = by_hand.mlp(net)[0]
        # by hand, with the products in another order
        net.W[0], x = net.W[0][::-1], net.x
        net.x = net.x[:, ::-1]
        other, _ = by_hand.mlp(net)
        other["W1"] = other["W1"][::-1]
        net.W[0], net.x = net.W[0][::-1], x
        for gradients in (single, other):
            found = compare(recorded_mlp(net), gradients)
            assert found, found


def test_what_is_left_of_large_terms_is_not_taken_for_noise():
    large, rest = np.array([3e4, -2e4, 1e4]), np.array([0.5, 0.25, -0.75])
    w = tb.Tensor([1.0, 2.0, 3.0], "w")
    loss = (w * (large + rest)).sum() - (w * large).sum()
    assert compare(loss, {"w": rest})
    found = compare(loss, {"w": rest + np.array([0.1, -0.1, 0.2])})
    assert found["w"].status == "different"


def test_gradients_of_recurrent_networks_are_right():
    for i in range(3 * ROUNDS):
        net = by_hand.random_rnn(np.random.default_rng([700, i]))
        right, deltas = by_hand.rnn(net)
        found = compare(recorded_rnn(net), right, deltas)
        assert found, found
        assert found.departs is None


# --- deltas -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_the_first_layer_that_departs_is_found(layer):
    for i in range(ROUNDS):
        rng = np.random.default_rng([800, i])
        net = by_hand.random_mlp(rng, depth=4, loss="squared")
        wrong, deltas = by_hand.mlp(net, "missing_derivative", layer=layer)
        found = compare(recorded_mlp(net), wrong, deltas)
        assert found.departs == f"z{layer}"
        assert [verdict.name for verdict in found.deltas] == ["z4", "z3", "z2", "z1"]
        assert f"z{layer} is the first that departs" in str(found)
        assert found[f"z{layer}"].mistake == "missing_derivative"


def test_the_first_time_step_that_departs_is_found():
    for i in range(ROUNDS):
        rng = np.random.default_rng([900, i])
        net = by_hand.random_rnn(rng, steps=5)
        wrong, deltas = by_hand.rnn(net, "blocks", k=3)  # detached between steps 3 and 4
        found = compare(recorded_rnn(net), wrong, deltas)
        assert found.departs == "h(3)"


def test_deltas_of_single_samples_are_a_convention():
    net = by_hand.random_mlp(np.random.default_rng(1), batch=5, loss="squared")
    net.mean = True
    right, deltas = by_hand.mlp(net)
    per_sample = {name: 5 * delta for name, delta in deltas.items()}
    found = compare(recorded_mlp(net), right, per_sample)
    assert found
    assert "the mean's 1/m is left out" in str(found)
    per_sample["z1"] = deltas["z1"]
    assert not compare(recorded_mlp(net), right, per_sample)


# --- what is given, and how ---------------------------------------------------------------------


@pytest.fixture
def small():
    net = by_hand.random_mlp(np.random.default_rng(2), depth=2, batch=4, loss="squared", least=3)
    return net, by_hand.mlp(net)[0]


def test_parameters_by_node_by_label_and_by_the_model(small):
    net, right = small
    model = nn.MLP(net.sizes, net.activations, rng=0)
    for layer, W, b in zip(model.layers, net.W, net.b, strict=True):
        layer.W.data, layer.b.data = W, b
    loss = nn.squared_error(model(net.x), net.y, "mean" if net.mean else "sum")
    first = model.layers[0]
    assert compare(loss, {first.W: right["W1"], "b1": right["b1"]})
    named = compare(loss, {"layers.0.W": -right["W1"]}, model=model)
    assert named["layers.0.W"].mistake == "sign"
    assert compare(loss, [(first.W, right["W1"])])["W1"].status == "equal"
    assert first.W.grad is None
    with pytest.raises(KeyError, match="nothing was given for 'W2'"):
        named["W2"]


def test_arrays_of_values(small):
    net, right = small
    model = nn.MLP(net.sizes, net.activations, rng=0)
    for layer, W, b in zip(model.layers, net.W, net.b, strict=True):
        layer.W.data, layer.b.data = W, b
    scalar = model.scalar_view()
    loss = nn.squared_error(scalar(net.x), net.y, "mean" if net.mean else "sum")
    assert compare(loss, right)
    assert compare(loss, [(scalar.layers[0].W, right["W1"])])
    for mistake in ("missing_derivative", "missing_sample"):
        wrong, _ = by_hand.mlp(net, mistake, layer=1)
        found = compare(loss, wrong)
        assert {v.mistake for v in found if not v} == {mistake}, found
    assert compare(loss, {"W1": -right["W1"].T})["W1"].mistake == "transposed and sign"
    assert "4 = m, the number of samples" in str(compare(loss, {"W1": 4 * right["W1"]}))


def test_nan_is_told(small):
    net, right = small
    bad = right["W1"].copy()
    bad[1, 0] = np.nan
    found = compare(recorded_mlp(net), {"W1": bad, "b1": right["b1"]})
    assert found["W1"].status == "not finite"
    assert f"holds nan (1 of {bad.size} numbers, the first at [1, 0])" in str(found)
    assert not found
    assert found["b1"]


def test_shapes_that_say_something(small):
    net, right = small
    loss = recorded_mlp(net)
    assert compare(loss, {"b1": right["b1"][None]})["b1"].mistake == "shape"
    assert compare(loss, {"W1": right["W1"].T})["W1"].mistake == "transposed"
    found = compare(loss, {"W1": np.random.default_rng(0).normal(size=right["W1"].T.shape)})
    assert found["W1"].findings == []
    assert not found


@pytest.mark.parametrize(
    ("key", "array", "error", "message"),
    [
        (
            "W1",
            np.zeros((9, 9)),
            ValueError,
            r"W1: expected an array of shape .*, got \(9, 9\)",
        ),
        (
            "W9",
            np.zeros(2),
            ValueError,
            "there is no 'W9' in the graph of this loss, a T",
        ),
        ("W1", [["a"]], TypeError, r"gradients\['W1'\]: expected an array of real numbers"),
        ("W1", np.zeros((2, 2), complex), TypeError, "expected an array of real numbers"),
        (3, np.zeros(2), TypeError, "expected a Tensor, a Value, Values or a name, got int"),
        (tb.Tensor([1.0]), np.zeros(1), ValueError, "the loss does not depend on this node"),
    ],
)
def test_what_cannot_be_compared_is_refused(small, key, array, error, message):
    with pytest.raises(error, match=message) as caught:
        compare(recorded_mlp(small[0]), {key: array})
    assert len(str(caught.value)) <= 200


def test_the_other_arguments_are_checked(small):
    net, right = small
    loss = recorded_mlp(net)
    with pytest.raises(TypeError, match="gradients: expected a dict, or pairs"):
        compare(loss, [right["W1"]])
    with pytest.raises(ValueError, match="gradients: expected at least one array"):
        compare(loss, {})
    with pytest.raises(TypeError, match="model: expected a Module, got int"):
        compare(loss, right, model=3)
    with pytest.raises(ValueError, match="learning_rate: expected a positive number, got -1"):
        compare(loss, right, learning_rate=-1)
    with pytest.raises(ValueError, match="loss: expected a single number"):
        compare(tb.Tensor([1.0, 2.0], "x") * 2.0, {"x": [2.0, 2.0]})


def test_a_learning_rate_that_is_known(small):
    net, _ = small
    wrong, _ = by_hand.mlp(net, "updated_weights", rate=0.3)
    loss = recorded_mlp(net)
    for learning_rate in (None, 0.3):
        found = compare(loss, wrong, learning_rate=learning_rate)
        assert found["W1"].mistake == "updated_weights"
        assert "a learning rate of 0.3" in str(found)
    assert compare(loss, wrong, learning_rate=0.1)["W1"].mistake is None


def test_a_name_of_several_nodes_is_refused():
    loss = tb.Value(1.0, "w") * tb.Value(2.0, "w")
    with pytest.raises(ValueError, match="2 nodes are called 'w'"):
        compare(loss, {"w": 1.0})


def test_what_the_numbers_cannot_tell_apart_is_told_as_well():
    net = by_hand.random_rnn(np.random.default_rng(4))
    wrong, _ = by_hand.rnn(net, "last_loss_only")
    found = compare(recorded_rnn(net), {"V": wrong["V"]})["V"]
    assert {finding.mistake for finding in found.findings} >= {"last_loss_only", "only_step"}
    assert "Also fits: the gradient of the last step's loss alone" in str(found)
    # With the others it is clear: the weights of the last step alone are not what was given for U.
    assert [f.mistake for f in compare(recorded_rnn(net), wrong)["V"].findings] == [
        "last_loss_only"
    ]
    loss = recorded_rnn(net)
    twice = compare(loss, {"V": 2.0 * by_hand.rnn(net)[0]["V"]})
    assert "½ of the loss" in str(twice)
    assert "accumulated twice" in str(twice)


def test_a_mistake_that_was_told_is_referred_to(small):
    net, _ = small
    wrong, deltas = by_hand.mlp(net, "missing_sample", sample=1)
    lines = str(compare(recorded_mlp(net), wrong, deltas)).splitlines()
    assert lines[0].endswith("It is the gradient without the share of sample 1.")
    assert lines[1].endswith("The same mistake as in W2.")
    assert lines[4] == "Deltas, from the loss backwards: z2 is the first that departs."


def test_nothing_is_written_to(small):
    net, right = small
    loss = recorded_mlp(net)
    before = {node: node.data.copy() for node in tb.topological_order(loss)}
    given = {name: -g for name, g in right.items()}
    kept = {name: g.copy() for name, g in given.items()}
    compare(loss, given)
    for node, data in before.items():
        assert node.grad is None
        np.testing.assert_array_equal(node.data, data)
    for name, g in kept.items():
        np.testing.assert_array_equal(given[name], g)


def test_a_hopeless_array_is_told_as_such(small):
    net, right = small
    noise = np.random.default_rng(3).normal(size=right["W1"].shape)
    found = compare(recorded_mlp(net), {"W1": noise})
    assert found["W1"].findings == []
    assert "None of the mistakes known here gives these numbers" in str(found)


def test_a_verdict_reads_like_a_teacher():
    w = tb.Value(2.0, "w")
    assert str(compare((w * 3.0 - 1.0) ** 2, {"w": -30.0})) == (
        "w: not equal (largest difference 60). It is the gradient times −1: "
        "a sign is lost, often in ŷ − y."
    )


def test_it_shows_itself_in_a_notebook():
    w = tb.Value(2.0, "<b>w</b>")
    shown = compare(w * 3.0, [(w, 3.0)])
    assert "<table>" in shown._repr_html_()
    assert "<b>" not in shown._repr_html_()
    assert shown.table.column("status") == ["equal"]


def test_a_square_is_not_taken_for_time():
    w, x = tb.Value(0.5, "w"), tb.Value(2.0, "x")
    found = compare(w * x * x, {"x": 1.0})["x"]  # one of the two uses is forgotten
    assert found.status == "different"
    assert "step" not in str(found)
    u, v = tb.Value(2.0, "u"), tb.Value(3.0, "v")
    f = nn.named(u * v + u, "f")
    assert "t = 1" not in str(compare(f * f, {"u": 48.0, "v": 0.0}))
