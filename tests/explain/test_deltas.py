"""The delta table, against the formulas of the derivations."""

import numpy as np
import pytest
from hypothesis import assume, given
from oracles import run as run_program
from test_curriculum import (
    NETWORKS,
    close,
    columns,
    logistic,
    make,
    recurrent,
    run,
    softmax_jacobian,
    total,
    two_steps,
)
from test_graph import apply, leaves, programs

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.explain import contributions, deltas

VIEWS = {"arrays": lambda model: model, "scalars": lambda model: model.scalar_view()}
either_view = pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
@either_view
def test_e02_e03_deltas_of_a_deep_network(name, samples, view):
    model, hand, x, y = make(*NETWORKS[name], samples)
    table = deltas(nn.squared_error(view(model)(x.T), y.T, "sum"))
    expected = hand.squared_error_deltas(y)
    for n in range(1, hand.L + 1):
        close(columns(table[f"z{n}"].delta), expected[n])
        close(columns(table[f"z{n}"].value), hand.z[n])
        if f"a{n}" in table:
            close(columns(table[f"a{n}"].value), hand.a[n])
            # The other meaning of delta: that by the activation.
            close(expected[n], columns(table[f"a{n}"].delta) * hand.dphi[n](hand.z[n]))
    assert f"a{hand.L}" in table or NETWORKS[name][1][-1] == "identity"


def test_e02_a_softmax_output_through_its_jacobian():
    model, hand, x, y = make([3, 4, 3], ["tanh", "softmax"])
    table = deltas(nn.squared_error(model(x.T), y.T))
    expected = softmax_jacobian(hand.a[2][:, 0]).T @ (hand.a[2] - y)
    close(columns(table["z2"].delta), expected)
    close(columns(table["a2"].delta), hand.a[2] - y)


@either_view
@pytest.mark.parametrize("outputs", [1, 3])
def test_e10_e11_deltas_of_a_logistic_network(outputs, view):
    model, hand, x, y = logistic(4, outputs)
    table = deltas(nn.binary_cross_entropy(view(model)(x.T), y.T, "sum"))
    delta3 = hand.a[2] - y
    close(columns(table["z2"].delta), delta3)
    close(columns(table["z1"].delta), (hand.W[2].T @ delta3) * hand.a[1] * (1 - hand.a[1]))


def test_e18_two_steps_by_hand():
    u, w, k, v = (tb.Value(x) for x in (0.5, -1.1, 0.3, 1.7))
    q = two_steps(u, u, w, w, k, v, tb.tanh)
    table = deltas(nn.binary_cross_entropy_with_logits(q, 0.8))
    dq = 1 / (1 + np.exp(-q.data)) - 0.8
    s0, s1 = table["s0"].value, table["s1"].value
    close(table["q"].delta, dq)
    close(table["s1"].delta, dq * 1.7)
    close(table["z1"].delta, dq * 1.7 * (1 - s1**2))
    close(table["s0"].delta, dq * 1.7 * (1 - s1**2) * -1.1)
    close(table["z0"].delta, dq * 1.7 * (1 - s1**2) * -1.1 * (1 - s0**2))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (6, 2)], ids=str)
@either_view
def test_e22_e24_e25_deltas_through_time(size, view):
    model, hand = recurrent(*size)
    table = deltas(total(run(view(model), hand)))
    delta = hand.deltas()
    for t in range(1, hand.tau + 1):
        close(columns(table["o", t].delta), hand.yhat[t] - hand.y[t])
        close(columns(table["h", t].delta), delta[t])
        close(columns(table["z", t].delta), hand.slope(t) * delta[t])
        close(columns(table[f"h({t})"].value), hand.h[t])
    assert [d.step for d in table.over_time("h")] == list(range(1, hand.tau + 1))


def test_e22_the_softmax_of_the_loss_is_shown_beside_its_logits():
    model, hand = recurrent(3, 2)
    table = deltas(total(run(model, hand)))
    names = [d.name for d in table]
    assert names[:2] == ["log ŷ(3)", "ŷ(3)"]
    assert [name for name in names if "3" in name][2:] == ["o(3)", "h(3)", "z(3)"]
    for t in range(1, 4):
        yhat = table["ŷ", t]
        close(columns(yhat.value), hand.yhat[t])
        close(table["o", t].delta, yhat.value - hand.y[t].T)
        assert yhat.delta is None
        close(columns(table["log ŷ", t].delta), -hand.y[t])
        assert table["log ŷ", t].layer == ""
    assert "exp(log ŷ)" in table.notes[-1]


@pytest.mark.parametrize("labelled", [False, True])
def test_the_softmaxes_of_several_losses(labelled):
    random = np.random.default_rng(0)
    W, losses, yhat = tb.Tensor(random.normal(size=(2, 3))), [], []
    for t in (1, 2):
        h = tb.tanh(random.normal(size=(1, 2)) @ W)
        h = nn.named(h, f"h({t})") if labelled else h
        losses.append(nn.cross_entropy(h * 2.0, np.array([t])))
        yhat.append(np.exp(2 * h.data) / np.exp(2 * h.data).sum())
    table = deltas(losses[0] + losses[1])
    assert (table.rows[0].symbol, table.rows[1].symbol) == ("log ŷ", "ŷ")
    for t in (1, 2):
        name = f"ŷ({t})" if labelled else f"ŷ#{t}"
        close(table[name].value, yhat[t - 1])
        close(table[f"log {name}"].delta, -np.eye(3)[[t]])


def test_e29_gates_have_deltas():
    cell = nn.LSTMCell(2, 3, rng=0)
    rng = np.random.default_rng(1)
    states = nn.unroll(cell, rng.normal(size=(4, 2, 2)), cell.initial_state(2))
    table = deltas(sum((tb.sum(h * h) for h, _ in states), tb.Tensor(0.0)))
    gates = {"i", "f", "g", "o"}
    assert {d.symbol for d in table} == {"z", "c", "h"} | gates | {f"z_{gate}" for gate in gates}
    value = {(d.symbol, d.step): d.value for d in table}
    delta = {(d.symbol, d.step): d.delta for d in table}
    for t in range(1, 5):
        dh, tanh_c = delta["h", t], np.tanh(value["c", t])
        dc = dh * value["o", t] * (1 - tanh_c**2)
        if t < 4:
            dc = dc + delta["c", t + 1] * value["f", t + 1]
        close(delta["c", t], dc)
        close(delta["o", t], dh * tanh_c)
        close(delta["i", t], dc * value["g", t])
        close(delta["g", t], dc * value["i", t])
        close(delta["f", t], dc * (value["c", t - 1] if t > 1 else 0.0))
        gates = [
            delta[gate, t] * (1 - value[gate, t] ** 2)
            if gate == "g"
            else delta[gate, t] * value[gate, t] * (1 - value[gate, t])
            for gate in "ifgo"
        ]
        close(delta["z", t], np.concatenate(gates, -1))


def test_rows_stand_in_backward_order():
    model, _, x, y = make([3, 4, 2], ["tanh", "sigmoid"])
    for view in VIEWS.values():
        table = deltas(nn.squared_error(view(model)(x.T), y.T))
        assert [d.name for d in table] == ["a2", "z2", "a1", "z1"]
        assert [d.name for d in reversed(table)] == ["z1", "a1", "z2", "a2"]
        assert len(table) == 4


def test_it_writes_no_gradient():
    model, hand = recurrent(2, 1)
    loss = total(run(model, hand))
    deltas(loss)
    assert all(node.grad is None for node in tb.topological_order(loss))


@given(programs(most=12))
def test_every_named_node_of_a_random_graph_is_there_with_its_gradient(case):
    numbers, program = case
    results = run_program(program, leaves(*numbers), apply)
    root = results[-1]
    assume(root.requires_grad)
    for i, node in enumerate(results):
        node.label = f"n{i}"
    root.backward()
    table = deltas(root)
    inner = [node for node in tb.topological_order(root) if not node.is_leaf]
    assert [d.name for d in reversed(table)] == [node.label for node in inner]
    for node in inner:
        np.testing.assert_array_equal(table[node.label].delta, node.grad)
        np.testing.assert_array_equal(table[node.label].value, node.data)


def test_a_very_deep_graph():
    w, s = tb.Value(1.0, "w"), tb.Value(1.0)
    for t in range(1, 10_001):
        s = nn.named(w * s, f"s({t})")
    table = deltas(s)
    assert len(table) == 10_000
    assert (table["s", 7].delta, table.rows[-1].name) == (1.0, "s(1)")
    assert float(contributions(s, w).total) == 10_000.0
    assert len(contributions(s, w).by_step()) == 10_000


def test_a_gradient_to_start_from():
    x = tb.Tensor([1.0, 2.0], "x")
    z = nn.named(x * x, "z")
    close(deltas(3.0 * z, [1.0, -1.0])["z"].delta, [3.0, -3.0])
    with pytest.raises(ValueError, match="loss: expected a single number"):
        deltas(z)


def own_loop(make, label_z):
    """A cell and a loop of the user's own, with no scope of a step."""
    rng = np.random.default_rng(0)
    U, W = make(rng.normal(size=(2, 3)), "U"), make(rng.normal(size=(3, 3)), "W")
    h, loss, zs = np.zeros((1, 3)), 0.0, []
    for t in range(1, 4):
        zs.append(rng.normal(size=(1, 2)) @ U + h @ W)
        z = nn.named(zs[-1], label_z(t))
        h = nn.named(tb.tanh(z), f"h({t})")
        loss = loss + tb.sum(h * h)
    return loss, zs


@pytest.mark.parametrize("make", [tb.Tensor, tb.values])
def test_quantities_of_one_name_are_told_apart_by_the_step_they_lead_to(make):
    loss, zs = own_loop(make, lambda t: "z")
    table = deltas(loss)
    assert [d.name for d in table] == ["h(3)", "z(3)", "h(2)", "z(2)", "h(1)", "z(1)"]
    loss.backward()
    for t, z in enumerate(zs, 1):
        np.testing.assert_array_equal(table["z", t].delta, z.grad)
        np.testing.assert_array_equal(table["z", t].value, z.data)


@pytest.mark.parametrize("told_by", ["steps", "scopes"])
def test_elements_that_the_graph_meets_in_a_mixed_order(told_by):
    """Two arrays of the same name: their elements alternate, so counting them is not enough."""
    arrays, states = [], []
    for t in (1, 2):
        with tb.scope("run"):
            arrays.append(nn.named(tb.values([1.0, 2.0]) * float(t), "z"))
        name = f"h({t})" if told_by == "steps" else f"h{t}"
        states.append(nn.named(tb.tanh(arrays[-1]), name))
    (a, b), (c, d) = states
    table = deltas((a + d) + (c + b))
    names = ["z(1)", "z(2)"] if told_by == "steps" else ["z#1", "z#2"]
    found = sorted((table[name].value for name in names), key=lambda z: z[0])
    np.testing.assert_array_equal(found, [array.data for array in arrays])


def test_elements_of_one_scope_are_told_apart_by_the_step_they_lead_to():
    arrays = [nn.named(tb.values([1.0, 2.0]) * t, "z") for t in (1.0, 2.0)]
    (a, b), (c, d) = (nn.named(tb.tanh(z), f"h({t})") for t, z in enumerate(arrays, 1))
    table = deltas((a + d) + (c + b))
    for t, array in enumerate(arrays, 1):
        np.testing.assert_array_equal(table["z", t].value, array.data)


def test_a_layer_is_known_by_a_part_of_its_path():
    net = nn.LSTM(2, 3, layers=2, bidirectional=True, rng=0)
    outputs, _ = net(np.random.default_rng(0).normal(size=(3, 2, 2)))
    loss = tb.sum(outputs * outputs)
    loss.backward()
    table = deltas(loss)
    assert "#" not in str(table)
    for layer in ("layer1", "reverse1", "layer2", "reverse2"):
        assert [d.step for d in table.over_time("c", layer)] == [1, 2, 3]
    state = next(n for n in tb.topological_order(loss) if n.label == "h(2)" and
                 "reverse2" in n.scope.path)  # fmt: skip
    np.testing.assert_array_equal(table["h", 2, "reverse2"].delta, state.grad)


def test_two_runs_of_one_network_are_numbered():
    model = nn.MLP([2, 3, 1], rng=0)
    x = np.array([[1.0, -2.0]])
    for view in VIEWS.values():
        net = view(model)
        table = deltas((net(x) + 2.0 * net(3.0 * x))[0, 0])
        close(table["z1#1"].value * 3.0, table["z1#2"].value)
        close([table["z2#1"].delta, table["z2#2"].delta], [[[1.0]], [[2.0]]])
        with pytest.raises(KeyError, match=r"'z1' are 2 quantities, .*: 'z1#2' in mlp/layer1"):
            table["z1"]


def test_layers_of_the_same_names_are_told_apart_by_layer():
    cells = [nn.RNNCell(2, 2, rng=i) for i in range(2)]
    cells[0].name, cells[1].name = "lower", "upper"
    below = nn.unroll(cells[0], np.ones((2, 1, 2)), np.zeros((1, 2)))
    above = nn.unroll(cells[1], below, np.zeros((1, 2)))
    loss = tb.sum(above[-1])
    loss.backward()
    table = deltas(loss)
    np.testing.assert_array_equal(table["h", 1, "lower"].delta, below[0].grad)
    np.testing.assert_array_equal(table["h", 2, "upper"].delta, above[1].grad)
    assert "#" not in str(table)
    with pytest.raises(KeyError, match=r"'h\(1\)' are 2 quantities, .*: 'h\(1\)' in upper, "):
        table["h(1)"]
    np.testing.assert_array_equal(table["h(1)", "upper"].delta, above[0].grad)
    assert [d.layer for d in table.over_time("h", "upper")] == ["upper", "upper"]
    with pytest.raises(KeyError, match="several a step, in \\['lower', 'upper'\\]"):
        table.over_time("h")


def test_what_a_mean_puts_into_the_deltas_is_said():
    o = nn.named(tb.Tensor(np.zeros((4, 3))) * 1.0, "o")
    y = np.array([0, 1, 2, 0])
    assert "1/4 of a sum over 4×3 numbers" in deltas(nn.cross_entropy(o, y)).notes[0]
    assert "1/12" in deltas(tb.mean(o)).notes[0]
    assert "sum over" not in str(deltas(nn.cross_entropy(o, y, "sum")))
    assert not deltas(tb.sum(o)).notes


def test_unnamed_nodes_on_request():
    x = tb.Value(2.0, "x")
    y = (x * x + 1.0).tanh()
    assert len(deltas(y)) == 0
    assert "no inner quantity has a name" in str(deltas(y))
    table = deltas(y, unnamed=True)
    slope = 1 - np.tanh(5.0) ** 2
    assert [(d.name, float(d.value)) for d in reversed(table)][:2] == [("v1", 4.0), ("v2", 5.0)]
    close([d.delta for d in table], [1.0, slope, slope], rtol=1e-10)  # 1 - y² of y near 1


def test_an_element_that_the_loss_does_not_depend_on():
    w = tb.values([1.0, 2.0, 3.0])
    a = nn.named(w * 2.0, "a")
    table = deltas(a[0] * a[2])
    np.testing.assert_array_equal(table["a"].value, [2.0, np.nan, 6.0])
    np.testing.assert_array_equal(table["a"].delta, [6.0, 0.0, 2.0])


@pytest.mark.parametrize("labels", [["a[0]", "a[1000000000]"], ["a[0]", "a[0, 1]"]])
def test_labels_that_only_look_like_elements(labels):
    x = tb.Value(3.0)
    nodes = [nn.named(x * c, label) for c, label in enumerate(labels, 2)]
    table = deltas(nodes[0] * nodes[1])
    assert [float(table[label].value) for label in labels] == [6.0, 9.0]


@pytest.mark.parametrize("label", ["\x00", "(3)"])
def test_a_label_without_a_name(label):
    x = nn.named(tb.Value(1.0) * 2.0, label)
    assert len(deltas(x * x)) == 0
    assert [d.name for d in deltas(x * x, unnamed=True)] == ["v2", "v1"]


def test_a_tensor_called_like_an_element():
    z = nn.named(tb.Tensor([1.0, 2.0]) * 2.0, "z[3]")
    assert deltas(tb.sum(z))["z[3]"].shape == (2,)


def test_float32_stays_and_results_are_read_only():
    z = nn.named(tb.Tensor([1.0], dtype=np.float32) * 2.0, "z")
    delta = deltas(tb.sum(z))["z"]
    assert delta.value.dtype == delta.delta.dtype == np.float32
    for array in (delta.value, delta.delta):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0


def test_it_prints_and_sums_up():
    model, _, x, y = make([3, 20, 2], ["relu", "identity"])
    loss = nn.squared_error(model(x.T), y.T)
    table = deltas(loss)
    assert "a1        mlp         1×20, " in str(table)
    assert table._repr_html_().count("<tr>") == 4
    (row,) = [row for row in table.summary() if row["quantity"] == "a1"]
    a = next(n for n in tb.topological_order(loss) if n.label == "a1")
    loss.backward()
    assert row["shape"] == "1×20"
    assert row["‖value‖"] == pytest.approx(np.sqrt((a.data**2).sum()))
    assert row["‖delta‖"] == pytest.approx(np.sqrt((a.grad**2).sum()))
    assert row["largest |delta|"] == np.abs(a.grad).max()
    z = table.summary().rows[-1]
    assert z[0] == "z1"
    assert z[-1] == np.mean(a.data == 0.0)  # relus that are off
    assert str(table["z2"]).startswith("z2 in mlp/layer2\nvalue\n[[")


def test_a_hostile_label_is_inert():
    z = nn.named(tb.Value(1.0) * 2.0, "<b>z\x00")
    shown = deltas(z * z).html()
    assert "<b>" not in shown
    assert "&lt;b&gt;z" in shown


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (3.0, TypeError, "loss: expected a Value or a Tensor, got float"),
        ("L", TypeError, "loss: expected a Value or a Tensor, got str"),
        (tb.values([1.0, 2.0]), ValueError, r"got Values of shape \(2,\); sum them"),
        (tb.Tensor(1.0, requires_grad=False), ValueError, "this Tensor requires no gradient"),
    ],
)
def test_bad_losses(loss, error, message):
    with pytest.raises(error, match=message):
        deltas(loss)


def test_bad_keys():
    table = deltas(nn.named(tb.Value(1.0) * 2.0, "z") * 1.0)
    with pytest.raises(KeyError, match="no quantity is called 'q'; there are z"):
        table["q"]
    with pytest.raises(KeyError, match="no quantity is called"):
        table["z", 3]
    with pytest.raises(TypeError, match=r"expected a name, \(name, step\) or"):
        table[3]
    with pytest.raises(KeyError, match="'z' has no time steps"):
        table.over_time("z")
