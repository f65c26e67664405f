"""Every use of a shared parameter, against copies of it and against the formulas."""

import numpy as np
import pytest
from hypothesis import assume, given
from oracles import run as run_program
from test_curriculum import (
    HandRNN,
    accumulate,
    attention,
    close,
    columns,
    logistic,
    recurrence,
    recurrent,
    run,
    total,
    two_steps,
)
from test_graph import apply, leaves, programs

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.explain import contributions

equal = np.testing.assert_array_equal


def swept(loss):
    loss.backward()
    return loss


@given(programs(most=12))
def test_the_sum_is_the_gradient_bit_for_bit_on_random_graphs(case):
    numbers, program = case
    nodes = leaves(*numbers)
    root = run_program(program, nodes, apply)[-1]
    assume(root.requires_grad)
    root.backward()
    for leaf in nodes:
        table = contributions(root, leaf)
        equal(table.total, 0.0 if leaf.grad is None else leaf.grad)
        assert (len(table) == 0) == (leaf.grad is None)
        for use in table:
            assert use.node.operands[use.operand] is leaf
            equal(use.local * use.upstream, use.contribution)


@pytest.mark.parametrize("size", [(2, 1), (7, 3)], ids=str)
@pytest.mark.parametrize("penalty", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_sum_is_the_gradient_bit_for_bit_through_time(size, penalty, dtype):
    tau, batch = size
    model = nn.CharRNN(4, 5, rng=3, dtype=dtype)
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(tau, batch, 4)).astype(dtype)
    logits, last = model(xs, model.cell.initial_state(batch))
    loss = total([nn.cross_entropy(o, rng.integers(4, size=batch)) for o in logits])
    if penalty:
        loss = loss + nn.weight_decay(model.parameters(), 0.1)
    loss.backward()
    for node in [*model.parameters(), logits[0], last]:
        table = contributions(loss, node)
        assert table.total.dtype == dtype
        equal(table.total, node.grad)
        uses = tau + (penalty and node.ndim == 2) if node.is_leaf else 1
        assert len(table) == uses


def test_the_sum_is_the_gradient_bit_for_bit_weight_by_weight():
    model, hand = recurrent(tau=4, batch=2, symbols=3, hidden=3)
    view = model.scalar_view()
    loss = swept(total(run(view, hand)))
    for parameter in view.parameters():
        table = contributions(loss, parameter)
        equal(table.total, parameter.grad)
        for use in table:
            assert use.node.operands[use.operand] is parameter[use.element]
    element = view.cell.W[1, 2]
    equal(contributions(loss, element).total, element.grad)


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("penalty", [0.0, 0.7])
def test_e12_shares_of_the_samples(samples, penalty):
    model, hand, x, y = logistic(samples, 3)
    Theta, _, shares = accumulate(hand, x, y)
    J = nn.binary_cross_entropy(model(x.T), y.T)
    if penalty:
        J = J + nn.weight_decay(model.parameters(), penalty)
    J.backward()
    for n, layer in enumerate(model.layers):
        weights, bias = (contributions(J, p, batch=0) for p in (layer.W, layer.b))
        for i in range(samples):
            close(columns(weights.by_sample()[i]), shares[i][n][:, 1:] / samples)
            close(bias.by_sample()[i], shares[i][n][:, 0] / samples)
        close(columns(weights.unshared), penalty * Theta[n][:, 1:])
        equal(bias.unshared, np.zeros(bias.total.shape))
        close(weights.by_sample().sum(0) + weights.unshared, layer.W.grad)
        assert bool(penalty) == any("square" in note for note in weights.notes)
        assert not bias.notes


def test_e17_product_rule():
    x = tb.Value(1.7, "x")
    table = contributions(x * x * x, x)
    operations = ["multiply(·, x)", "multiply(x, x)", "multiply(x, x)"]
    assert [use.operation for use in table] == operations
    assert [use.operand for use in table] == [1, 0, 1]
    close(table.arrays, [1.7**2] * 3)


@pytest.mark.parametrize(
    ("function", "uses", "shape"), [(recurrence, 6, (6, 2, 4)), (attention, 3, (5, 4))]
)
def test_e17_each_use_is_the_derivative_of_a_copy(function, uses, shape):
    random = np.random.default_rng(7)
    W, xs = random.normal(size=(4, 4)), random.normal(size=shape)
    copies = [tb.Tensor(W, str(i)) for i in range(uses)]
    xs = tb.Tensor(xs, requires_grad=False)
    function(copies, xs).backward()
    shared = tb.Tensor(W, "W")
    found = contributions(function([shared] * uses, xs), shared).arrays
    # The sweep meets the uses in an order of its own.
    for copy in copies:
        assert sum(np.allclose(copy.grad, array, rtol=1e-13, atol=0.0) for array in found) == 1
    assert len(found) == uses


def test_e18_e20_two_steps_by_hand():
    u, w, k, v = (tb.Value(x, n) for x, n in zip((0.5, -1.1, 0.3, 1.7), "uwkv", strict=True))
    q = two_steps(u, u, w, w, k, v, tb.tanh)
    E = nn.binary_cross_entropy_with_logits(q, 0.8)
    x0, x1, s = 0.7, -1.3, 0.4
    s0 = np.tanh(0.5 * x0 - 1.1 * s + 0.3)
    s1 = np.tanh(0.5 * x1 - 1.1 * s0 + 0.3)
    dq = 1 / (1 + np.exp(-1.7 * s1)) - 0.8
    late = dq * 1.7 * (1 - s1**2)
    early = late * -1.1 * (1 - s0**2)
    for parameter, expected in [
        (u, [late * x1, early * x0]),
        (w, [late * s0, early * s]),
        (k, [late, early]),
    ]:
        close(sorted(contributions(E, parameter).arrays), sorted(expected))
    (use,) = contributions(E, v)
    assert (use.upstream, use.local) == (pytest.approx(dq), pytest.approx(s1))


def terms(hand, k):
    """E26, each step's term: by W, b, U, and E23's by V and c."""
    delta = hand.slope(k) * hand.deltas()[k]
    return {
        "W": delta @ hand.h[k - 1].T,
        "b": delta.sum(1, keepdims=True),
        "U": delta @ hand.x[k].T,
        "V": hand.error[k] @ hand.h[k].T,
        "c": hand.error[k].sum(1, keepdims=True),
    }


def parameters(model):
    return {name.rpartition(".")[2]: p for name, p in model.named_parameters()}


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (6, 2)], ids=str)
@pytest.mark.parametrize("scalars", [False, True])
def test_e23_e26_the_term_of_each_step(size, scalars):
    model, hand = recurrent(*size, symbols=3, hidden=3)
    model = model.scalar_view() if scalars else model
    loss = total(run(model, hand))
    for name, parameter in parameters(model).items():
        by_step = contributions(loss, parameter).by_step()
        assert list(by_step) == list(range(1, hand.tau + 1))
        for k, term in by_step.items():
            close(columns(term).reshape(terms(hand, k)[name].shape), terms(hand, k)[name])


def test_e26_each_sample_at_each_step():
    model, hand = recurrent(tau=3, batch=4)
    loss = total(run(model, hand))
    table = contributions(loss, model.cell.W, batch=0)
    for use in table:
        delta = hand.slope(use.step) * hand.deltas()[use.step]
        for i in range(4):
            expected = np.outer(delta[:, i], hand.h[use.step - 1][:, i])
            close(columns(use.shares[i]), expected)
        close(use.shares.sum(0), use.contribution)
    for row, use in zip(table.table(), table, strict=True):
        norms = [np.linalg.norm(share) for share in use.shares]
        close(row["‖share‖ by sample"], norms)
    data = np.array(hand.x[1:]), np.array(hand.y[1:]), hand.h[0]
    alone = [HandRNN(model, *(array[..., i : i + 1] for array in data)) for i in range(4)]
    for share, one in zip(table.by_sample(), alone, strict=True):
        close(columns(share), sum(terms(one, k)["W"] for k in (1, 2, 3)))


def gradient_of_each_sample(function, W, x):
    """By running the function on one sample at a time."""
    return np.array([tb.grad(lambda W, i=i: function(W, x[i : i + 1]))(W) for i in range(len(x))])


def sliced(W, x):
    """A gate for each half of the columns."""
    return tb.sum(tb.tanh(x @ W[:, :2]) * tb.sigmoid(x @ W[:, 2:]))


def transposed(W, x):
    return tb.sum(tb.tanh(tb.tanh(x @ W) @ W.T))


def scaled(W, x):
    return tb.sum(tb.tanh(x @ (2.0 * W / tb.norm(W))) ** 2)


def masked(W, x):
    return tb.sum(tb.tanh(x @ (W * np.arange(16.0).reshape(4, 4))))


def joined(W, x):
    return tb.sum(tb.tanh(np.concatenate([x, x], 1) @ tb.concatenate([W, tb.Tensor(np.eye(4))])))


@pytest.mark.parametrize("function", [sliced, transposed, scaled, masked, joined])
@pytest.mark.parametrize("samples", [3, 4])  # 4 is also the length of each axis of W
def test_shares_behind_what_is_made_of_the_parameter(function, samples):
    random = np.random.default_rng(2)
    W, x = tb.Tensor(random.normal(size=(4, 4)), "W"), random.normal(size=(samples, 4))
    loss = function(W, x)
    table = contributions(loss, W, batch=0)
    close(table.by_sample(), gradient_of_each_sample(function, W.data, x))
    equal(table.unshared, np.zeros((4, 4)))
    close(table.total, tb.grad(lambda W: function(W, x))(W.data))


def test_uses_of_different_rank():
    random = np.random.default_rng(2)
    W = tb.Tensor(random.normal(size=(3, 3)), "W")
    x, xs = random.normal(size=(5, 3)), random.normal(size=(2, 5, 3))

    def function(W, x, xs):
        return tb.sum(tb.tanh(x @ W)) + tb.sum(tb.tanh(xs @ W))

    loss = function(W, x, xs)
    expected = [
        tb.grad(lambda W, i=i: function(W, x[i : i + 1], xs[:, i : i + 1]))(W.data)
        for i in range(5)
    ]
    close(contributions(loss, W, batch=-2).by_sample(), expected)
    by_rank = contributions(loss, W, batch=lambda use: use.upstream.ndim - 2)
    close(by_rank.by_sample(), expected)
    with pytest.raises(ValueError, match="has 2 samples along its axis, matmul 5"):
        contributions(loss, W, batch=0)


def test_an_inner_node_has_samples_of_its_own():
    model, hand = recurrent(tau=2, batch=3)
    losses = run(model, hand)
    h1 = next(n for n in tb.topological_order(total(losses)) if n.label == "h(1)")
    shares = contributions(total(losses), h1, batch=0).by_sample()
    for i in range(3):
        close(columns(shares[i])[:, i], hand.deltas()[1][:, i])
        assert not np.delete(shares[i], i, 0).any()


def test_shares_of_an_output():
    o = nn.named(tb.Tensor(np.arange(6.0).reshape(3, 2)) * 1.0, "o")
    shares = contributions(nn.squared_error(o, np.ones((3, 2)), "sum"), o, batch=0).by_sample()
    for i in range(3):
        expected = np.zeros((3, 2))
        expected[i] = o.data[i] - 1.0
        close(shares[i], expected)


def test_a_function_can_name_what_is_of_no_sample():
    W = tb.Tensor(np.eye(2), "W")
    loss = tb.sum(np.ones((2, 2)) @ W) + tb.sum(W @ W)
    table = contributions(
        loss, W, batch=lambda use: 0 if use.node.operands[0] is not W else None
    )  # else: both axes of W W have the length 2
    close(table.by_sample().sum(0), np.full((2, 2), 2.0))
    close(table.unshared, np.full((2, 2), 2.0))
    with pytest.raises(ValueError, match="does not belong to single samples"):
        next(use for use in table if use.node.operands[0] is W).shares  # noqa: B018


def test_the_step_of_a_use_in_a_loop_of_ones_own():
    rng = np.random.default_rng(0)
    W, V = tb.Tensor(rng.normal(size=(3, 3)), "W"), tb.Tensor(rng.normal(size=(3, 1)), "V")
    h, loss = tb.Tensor(rng.normal(size=(1, 3)), requires_grad=False), 0.0
    for t in range(1, 5):
        h = nn.named(tb.tanh(h @ W + 0.1), f"h({t})")
        loss = loss + tb.sum((h @ V) ** 2)
    assert [use.step for use in contributions(loss, W)] == [4, 3, 2, 1]
    assert sorted(use.step for use in contributions(loss, V)) == [1, 2, 3, 4]


@pytest.mark.parametrize("times", [[1, 2, 3, 4], [4, 3, 2, 1]])
def test_the_step_of_a_use_where_a_part_of_the_state_has_no_name(times):
    """A cell with a second state, of which only h is labelled."""
    rng = np.random.default_rng(0)
    W = tb.Tensor(rng.normal(size=(3, 9)), "W")
    h = c = np.ones((1, 3))
    for t in times:
        gates = h @ W
        c = tb.sigmoid(gates[:, :3]) * c + tb.tanh(gates[:, 3:6])
        h = nn.named(tb.sigmoid(gates[:, 6:]) * tb.tanh(c), f"h({t})")
    assert [use.step for use in contributions(tb.sum(h), W)] == times[::-1]


@pytest.mark.parametrize("steps", [2, 5])
def test_a_product_for_all_steps_at_once_has_no_step(steps):
    rng = np.random.default_rng(0)
    U, W = tb.Tensor(rng.normal(size=(2, 3)), "U"), tb.Tensor(rng.normal(size=(3, 3)), "W")
    z = rng.normal(size=(steps, 1, 2)) @ U
    h = np.zeros((1, 3))
    for t in range(steps):
        h = nn.named(tb.tanh(z[t] + h @ W), f"h({t})")
    table = contributions(tb.sum(h), U)
    assert list(table.by_step()) == [None]
    equal(table.by_step()[None], table.total)
    assert list(contributions(tb.sum(h), W).by_step()) == list(range(steps))


def test_what_is_made_outside_of_the_steps_for_all_of_them_has_no_step():
    E = tb.Tensor(np.eye(3), "E")
    context = np.ones((1, 3)) @ E
    states = nn.unroll(lambda x, h: tb.tanh(h + context * x), np.ones((2, 1)), np.zeros((1, 3)))
    assert [use.step for use in contributions(tb.sum(states[-1]), E)] == [None]


def test_a_label_of_a_parameter_is_no_time_step():
    """Superscripts of layers are written like steps: Θ(2)."""
    x, Theta = np.ones((1, 2)), [tb.Tensor(np.eye(2), f"Theta({n})") for n in (1, 2)]
    loss = tb.sum(tb.tanh(tb.tanh(x @ Theta[0]) @ Theta[1]))
    assert [use.step for p in Theta for use in contributions(loss, p)] == [None, None]


def test_steps_that_run_backwards():
    rng = np.random.default_rng(0)
    W = tb.Tensor(rng.normal(size=(3, 3)), "W")
    h = np.ones((1, 3))
    for t in (3, 2, 1):
        h = nn.named(tb.tanh(h @ W), f"h({t})")
    assert [use.step for use in contributions(tb.sum(h), W)] == [1, 2, 3]


def test_a_parameter_that_the_loss_does_not_depend_on():
    x, W = tb.Value(2.0, "x"), tb.Tensor(np.ones((2, 2)), "W")
    table = contributions(x * x, W)
    assert len(table) == 0
    equal(table.total, np.zeros((2, 2)))
    assert table.by_step() == {}
    assert "the loss is not computed from W: the gradient is zero" in str(table)
    assert contributions(x * x, W, batch=0).by_sample().shape == (0, 2, 2)


def test_it_writes_no_gradient_and_gives_no_array_of_the_graph():
    W = tb.Tensor(np.eye(2), "W")
    loss = tb.sum(W @ W)
    table = contributions(loss, W, batch=lambda use: 0)
    assert W.grad is None
    table.arrays[0][:] = 7.0
    table.total[:] = 7.0
    with pytest.raises(ValueError, match="read-only"):
        table[0].contribution[:] = 7.0
    close(table.total, tb.grad(lambda W: tb.sum(W @ W))(np.eye(2)))


def test_it_prints():
    model, hand = recurrent(tau=2, batch=1)
    table = contributions(total(run(model, hand)), model.cell.W)
    text = str(table)
    assert text.startswith("contributions to the gradient of W: 2 uses\nstep  operation")
    assert "matmul(h(1), W)" in text
    assert "matmul_dy" in text
    assert "sum: [[" in text
    assert table._repr_html_().count("<tr>") == 3
    assert str(table[0]).startswith("contribution by matmul(h(1), W), step 2\nupstream")
    assert len(list(table)) == len(table) == 2
    assert f"matmul_dy, which holds\n{hand.h[1].T}\ncontribution\n" in str(table[0])
    z = tb.Tensor([0.5, -1.0], "z")
    (use,) = contributions(tb.sum(tb.tanh(z)), z, batch=lambda use: 0)
    assert f"tanh_dx, elementwise\n{1 - np.tanh(z.data) ** 2}" in str(use)
    W = tb.values(np.eye(2), "<b>W")
    shown = contributions((np.ones((1, 2)) @ W).sum(), W).html()
    assert "<b>" not in shown
    assert "<td>[0, 0]</td>" in shown


X = tb.Value(1.0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1.0, X), TypeError, "loss: expected a Value or a Tensor, got float"),
        ((X * X, "x"), TypeError, "parameter: expected a Tensor, a Value or Values, got str"),
        ((X * X, tb.Value(1.0, requires_grad=False)), ValueError, "parameter: this Value requires"),
        ((X * X, X, 0), ValueError, "batch: a use of a Value is that of one sample already"),
        ((X * X, X, "0"), TypeError, "batch: expected an axis or a function, got str"),
        ((X * X, X, True), TypeError, "batch: expected an axis or a function, got bool"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        contributions(*arguments)


def test_bad_axes():
    W = tb.Tensor(np.eye(2), "W")
    loss = tb.sum(np.ones((3, 2)) @ W)
    with pytest.raises(ValueError, match="no use has samples along 2"):
        contributions(loss, W, batch=2)
    with pytest.raises(ValueError, match=r"expected an axis of 2 or None for matmul.*, got 5"):
        contributions(loss, W, batch=lambda use: 5)
    with pytest.raises(ValueError, match="no use has samples"):
        contributions(tb.sum(W * W), W, batch=0)
    table = contributions(loss, W)
    with pytest.raises(ValueError, match="name the axis of the samples"):
        table.by_sample()
    with pytest.raises(ValueError, match="name the axis of the samples"):
        table[0].shares  # noqa: B018
