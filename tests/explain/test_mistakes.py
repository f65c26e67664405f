"""The museum: each wrong rule gives what somebody who makes the mistake gets, in plain numpy."""

import by_hand
import numpy as np
import pytest
from test_compare import recorded_mlp, recorded_rnn

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.explain import mistakes


def same(mistake, expected):
    assert set(mistake.wrong) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(mistake.wrong[name], array, rtol=1e-9, atol=1e-12, err_msg=name)


# --- the order, and the sum over uses -----------------------------------------------------------


def test_overwriting_keeps_the_last_use_only():
    x = tb.Value(3.0, "x")
    shown = mistakes.overwriting(x * x)
    assert shown.wrong["x"] == 3.0
    assert shown.right["x"] == 6.0
    assert shown.changed == ["x"]
    assert x.grad is None


def test_the_first_month_of_tinygrad():
    x = tb.Value(3.0, "x")
    assert mistakes.first_month(x * x).wrong["x"] == 3.0


def test_handing_on_at_every_arrival():
    a = tb.Value(1.0, "a")
    b = a + a
    shown = mistakes.every_arrival(b + b)
    assert shown.right["a"] == 4.0
    assert shown.wrong["a"] == 6.0  # b hands on 1, twice, and then 2, twice


def test_without_an_order_the_longer_way_is_lost_below():
    # y = b·b² with b = 3a: the walk meets b first as a factor, before b² has handed on its share.
    a = tb.Value(2.0, "a")
    b = a * 3.0
    shown = mistakes.no_topological_order(b * (b * b))
    assert shown.right["a"] == 3.0 * 3.0 * 36.0
    assert shown.wrong["a"] == 3.0 * 36.0  # b's gradient is 36 when it hands on, 108 at the end


def test_a_chain_needs_no_order():
    x = tb.Value(0.5, "x")
    y = tb.tanh(tb.exp(x) * 2.0)
    for mistake in (mistakes.no_topological_order, mistakes.every_arrival, mistakes.overwriting):
        assert mistake(y).changed == []


def test_every_arrival_refuses_what_would_take_for_ever():
    x = tb.Value(1.0, "x")
    y = x
    for _ in range(40):
        y = y + y
    with pytest.raises(ValueError, match="more than 100000 visits"):
        mistakes.every_arrival(y)
    assert "every_arrival" in mistakes.museum(y).skipped


@pytest.mark.parametrize("passes", [1, 2, 5])
def test_gradients_that_are_not_zeroed_pile_up(passes):
    x = tb.Tensor([1.0, 2.0], "x")
    loss = (x * x).sum()
    shown = mistakes.not_zeroed(loss, passes=passes)
    for _ in range(passes):
        loss.backward()
    np.testing.assert_array_equal(shown.wrong["x"], x.grad)
    assert shown.changed == (["x"] if passes > 1 else [])
    with pytest.raises(ValueError, match="passes: expected a positive integer, got 0"):
        mistakes.not_zeroed(loss, passes=0)


# --- the famous example -------------------------------------------------------------------------


MAZUR = {
    "W1": np.array([[0.15, 0.25], [0.20, 0.30]]),
    "W2": np.array([[0.40, 0.50], [0.45, 0.55]]),
}


def two_two_two(W1, W2):
    h = tb.sigmoid(np.array([[0.05, 0.10]]) @ W1 + 0.35)
    o = tb.sigmoid(h @ W2 + 0.60)
    return nn.squared_error(o, np.array([[0.01, 0.99]]), "sum")


def scalar_two_two_two(w):
    i1, i2, b1, b2 = 0.05, 0.10, 0.35, 0.60
    h1 = tb.sigmoid(w[0] * i1 + w[1] * i2 + b1)
    h2 = tb.sigmoid(w[2] * i1 + w[3] * i2 + b1)
    o1 = tb.sigmoid(w[4] * h1 + w[5] * h2 + b2)
    o2 = tb.sigmoid(w[6] * h1 + w[7] * h2 + b2)
    return 0.5 * (0.01 - o1) ** 2 + 0.5 * (0.99 - o2) ** 2


def test_the_famous_error_of_the_2_2_2_network():
    W = {name: tb.Tensor(data, name) for name, data in MAZUR.items()}
    shown = mistakes.updated_weights(two_two_two(**W), learning_rate=0.5)
    errors = []
    for gradients in (shown.right, shown.wrong):
        moved = {name: tb.Tensor(data - 0.5 * gradients[name]) for name, data in MAZUR.items()}
        errors.append(f"{two_two_two(**moved).item():.9f}")
    assert errors == ["0.291027774", "0.291027924"]
    assert shown.changed == ["W1"]


def test_the_famous_error_weight_by_weight():
    start = [0.15, 0.20, 0.25, 0.30, 0.40, 0.45, 0.50, 0.55]
    w = [tb.Value(x, f"w{i}") for i, x in enumerate(start, 1)]
    shown = mistakes.updated_weights(scalar_two_two_two(w), learning_rate=0.5)
    errors = []
    for gradients in (shown.right, shown.wrong):
        moved = [x - 0.5 * float(gradients[f"w{i}"]) for i, x in enumerate(start, 1)]
        errors.append(f"{scalar_two_two_two([tb.Value(x) for x in moved]).data:.9f}")
    assert errors == ["0.291027774", "0.291027924"]
    assert shown.changed == ["w1", "w2", "w3", "w4"]


# --- against the same mistakes by hand ----------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("mistake", "how"),
    [
        ("missing_derivative", {}),
        ("derivative_at_output", {}),
        ("formula_at_input", {"kinds": ("sigmoid", "tanh")}),
        ("not_transposed", {"square": True, "depth": 3}),
        ("softmax_elementwise", {"loss": "softmax_squared"}),
        ("binary_cross_entropy_on_softmax", {"loss": "softmax"}),
        ("sum_for_mean", {}),
        ("penalty_forgotten", {"decay": 0.2}),
        ("missing_sample", {}),
    ],
)
def test_a_network_under_a_wrong_rule(mistake, how, seed):
    net = by_hand.random_mlp(np.random.default_rng(seed), **how)
    net.mean = True
    shown = getattr(mistakes, mistake)(recorded_mlp(net))
    same(shown, by_hand.mlp(net, mistake, sample=len(net.x) - 1)[0])
    right = by_hand.mlp(net)[0]
    for name, array in shown.right.items():
        np.testing.assert_allclose(array, right[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("mistake", "planted"),
    [
        ("missing_derivative", "missing_derivative"),
        ("derivative_missing_in_recursion", "derivative_missing_in_recursion"),
        ("delta_of_activation", "delta_of_activation"),
        ("not_transposed", "not_transposed"),
        ("later_state", "later_state"),
        ("last_loss_only", "last_loss_only"),
        ("no_recursion", "no_recursion"),
    ],
)
def test_a_recurrent_network_under_a_wrong_rule(mistake, planted, seed):
    rng = np.random.default_rng(seed)
    net = by_hand.random_rnn(rng)
    while net.V.shape[0] == net.V.shape[1]:  # or V would be a matrix not to be transposed, too
        net = by_hand.random_rnn(rng)
    same(getattr(mistakes, mistake)(recorded_rnn(net)), by_hand.rnn(net, planted)[0])


@pytest.mark.parametrize(
    ("mistake", "planted"),
    [("only_last_step", "only_last"), ("truncation_off_by_one", "missing_first")],
)
def test_time_steps_that_are_left_out(mistake, planted):
    net = by_hand.random_rnn(np.random.default_rng(3))
    shown = getattr(mistakes, mistake)(recorded_rnn(net), ["U", "W", "b"])
    expected = by_hand.rnn(net, planted)[0]
    same(shown, {name: expected[name] for name in ("U", "W", "b")})


# --- the museum ---------------------------------------------------------------------------------


def test_the_museum_shows_what_applies_and_says_why_the_rest_does_not():
    net = by_hand.random_mlp(np.random.default_rng(0), depth=3, loss="squared")
    museum = mistakes.museum(recorded_mlp(net))
    shown = {mistake.name for mistake in museum}
    assert shown | set(museum.skipped) == {exhibit.__name__ for exhibit in mistakes.EXHIBITS}
    assert "missing_derivative" in shown
    assert "not recurrent" in museum.skipped["last_loss_only"]
    with pytest.raises(KeyError, match="last_loss_only does not apply here: the graph is not"):
        museum["last_loss_only"]
    assert museum.table.column("mistake") == [mistake.name for mistake in museum]
    assert "does not apply" in museum.text()
    assert "<table>" in museum._repr_html_()
    for mistake in museum:
        assert all(mistake.prose)
        assert "<table>" in mistake.html()
        for name in mistake.right:
            agrees = np.allclose(mistake.wrong[name], mistake.right[name], rtol=1e-9, atol=1e-12)
            assert agrees == (name not in mistake.changed), (mistake.name, name)


def test_no_gradient_and_no_node_is_written_to():
    net = by_hand.random_rnn(np.random.default_rng(1))
    loss = recorded_rnn(net)
    before = {node: node.data.copy() for node in tb.topological_order(loss)}
    mistakes.museum(loss)
    for node, data in before.items():
        assert node.grad is None
        np.testing.assert_array_equal(node.data, data)


def test_an_array_of_values_is_shown_as_an_array():
    model = nn.MLP([2, 3, 1], rng=0).scalar_view()
    loss = nn.squared_error(model(np.array([[0.3, -0.2]])), np.array([[1.0]]))
    shown = mistakes.missing_derivative(loss)
    assert shown.wrong["W1"].shape == (2, 3)
    assert shown.changed == ["W1", "b1"]


def test_a_mistake_that_cannot_be_made_is_refused():
    x = tb.Value(3.0, "x")
    with pytest.raises(ValueError, match="there is no softmax"):
        mistakes.softmax_elementwise(x * x)
    with pytest.raises(ValueError, match="requires no gradient"):
        mistakes.overwriting(tb.Value(1.0, requires_grad=False))
    with pytest.raises(ValueError, match="in the graph of this loss, a Value; there are x"):
        mistakes.overwriting(x * x, ["y"])


def test_hostile_labels_are_inert():
    x = tb.Value(3.0, "<script>alert(1)</script>")
    assert "<script" not in mistakes.museum(x * x).html()
    assert "<script" not in mistakes.overwriting(x * x).html()
