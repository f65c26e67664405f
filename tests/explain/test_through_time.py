"""The table of losses and steps, and what truncations keep of it: E21, E24, E28."""

import numpy as np
import pytest
from test_curriculum import close, columns, recurrent, run, total

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.explain import through_time

TAU = 6


def term(hand, t, k):
    """E21, in columns: ∂E_t/∂W by way of its use at step k, summed over the samples."""
    delta = hand.V.T @ hand.error[t]
    for i in range(t, k, -1):
        delta = hand.W.T @ (hand.slope(i) * delta)
    return (hand.slope(k) * delta) @ hand.h[k - 1].T


@pytest.fixture(params=["arrays", "scalars"])
def network(request):
    """A network, its losses, and the cells of E21 by hand."""
    model, hand = recurrent(tau=TAU, batch=2, symbols=3, hidden=3)
    model = model.scalar_view() if request.param == "scalars" else model
    cells = {
        (t, k): term(hand, t, k).T for t in range(1, TAU + 1) for k in range(1, t + 1)
    }  # rows, as in the code
    return model, hand, run(model, hand), cells


def added(cells, chosen):
    return sum((x for cell, x in cells.items() if chosen(*cell)), np.zeros((3, 3)))


def test_e21_the_table(network):
    model, _, losses, cells = network
    table = through_time(losses, model.cell.W)
    assert table.times == table.steps == tuple(range(1, TAU + 1))
    for t in table.times:
        for k in table.steps:
            close(table[t, k], cells.get((t, k), np.zeros((3, 3))))
            close(table.norms[t - 1, k - 1], np.linalg.norm(table[t, k]))
            assert table.mask[t - 1, k - 1] == (k <= t)
            assert table.lags[t - 1, k - 1] == t - k


def test_e21_sums_of_the_table(network):
    model, _, losses, cells = network
    table = through_time(losses, model.cell.W)
    assert model.cell.W.grad is None
    close(table.total, added(cells, lambda t, k: True))
    chosen = [[t == k == 2 for k in range(1, TAU + 1)] for t in range(1, TAU + 1)]
    close(table.sum(chosen), added(cells, lambda t, k: t == k == 2))  # a list will do
    total(losses).backward()
    close(table.total, model.cell.W.grad)
    for i in range(1, TAU + 1):
        close(table.by_loss()[i], added(cells, lambda t, k, i=i: t == i))
        close(table.by_use()[i], added(cells, lambda t, k, i=i: k == i))
        close(table.by_lag()[i - 1], added(cells, lambda t, k, i=i: t - k == i - 1))
        model.cell.W.zero_grad()
        losses[i - 1].backward()
        close(table.by_loss()[i], model.cell.W.grad)


def test_an_output_weight_is_used_once_by_each_loss(network):
    model, hand, losses, _ = network
    table = through_time(losses, model.V)
    np.testing.assert_array_equal(table.mask, np.eye(TAU, dtype=bool))
    for t in range(1, TAU + 1):
        close(columns(table[t, t]), hand.error[t] @ hand.h[t].T)


def test_e24_derivatives_by_the_states(network):
    model, hand, _, _ = network
    states = nn.unroll(model.cell, np.array([x.T for x in hand.x[1:]]), hand.h[0].T)
    losses = [
        nn.cross_entropy(h @ model.V + model.c, y.T, "sum")
        for h, y in zip(states, hand.y[1:], strict=True)
    ]
    table = through_time(losses, states)
    for t in range(1, TAU + 1):
        delta = hand.V.T @ hand.error[t]
        for k in range(TAU, 0, -1):
            close(columns(table[t, k]), delta if k <= t else np.zeros_like(delta))
            if k <= t:
                delta = hand.W.T @ (hand.slope(k) * delta)
    for k, delta in table.by_state().items():
        close(columns(delta), hand.deltas()[k])
    assert "‖∂L(t)/∂h(k)‖" in str(table)


# --- E28 -----------------------------------------------------------------------------------------


def kept_by(rule, *numbers):
    """Which terms a truncation keeps, as the curriculum defines it."""
    if rule == "sliding":
        (k,) = numbers
        return lambda t, s: t - s < k
    if rule == "blocks":
        (k,) = numbers
        return lambda t, s: (t - 1) // k == (s - 1) // k
    k1, k2 = numbers
    updates = [*range(k1, TAU, k1), TAU]

    def is_kept(t, s):
        (T,) = [T for T, before in zip(updates, [0, *updates], strict=False) if before < t <= T]
        return T - k2 < s <= t

    return is_kept


TRUNCATIONS = [
    *(("sliding", k) for k in (1, 2, 5, 9)),
    *(("blocks", k) for k in (1, 2, 4, 6)),
    *(("k1k2", k1, k2) for k1, k2 in [(1, 1), (1, 3), (2, 2), (2, 4), (4, 3), (4, 5), (9, 9)]),
]


@pytest.mark.parametrize("truncation", TRUNCATIONS, ids=str)
def test_e28_what_is_kept_and_what_is_dropped(network, truncation):
    model, _, losses, cells = network
    rule, *numbers = truncation
    cut = getattr(through_time(losses, model.cell.W), rule)(*numbers)
    keeps = kept_by(rule, *numbers)
    close(cut.kept, added(cells, keeps))
    close(cut.dropped, added(cells, lambda t, s: not keeps(t, s)))
    whole = added(cells, lambda t, s: True)
    close(cut.kept + cut.dropped, whole)
    for t, s in np.ndindex(TAU, TAU):
        assert cut.mask[t, s] == (s <= t and keeps(t + 1, s + 1))
    angle = np.sum(cut.kept * whole) / np.linalg.norm(cut.kept) / np.linalg.norm(whole)
    close(cut.cosine, angle)


def with_detach(model, hand, first, last, counted):
    """The gradient of W from a run whose state is a constant before step `first`."""
    W = tb.Tensor(model.cell.W.data)
    h, loss = hand.h[first - 1].T, 0.0
    for t in range(first, last + 1):
        h = tb.tanh(hand.x[t].T @ model.cell.U.data + h @ W + model.cell.b.data)
        if t in counted:
            loss = loss + nn.cross_entropy(h @ model.V + model.c, hand.y[t].T, "sum")
    loss.backward()
    return W.grad


def test_e28_truncations_are_what_detach_does():
    model, hand = recurrent(tau=TAU, batch=2)
    table = through_time(run(model, hand), model.cell.W)
    windows = [with_detach(model, hand, max(1, t - 2), t, {t}) for t in range(1, TAU + 1)]
    close(table.sliding(3).kept, sum(windows))
    blocks = [with_detach(model, hand, s, min(s + 3, TAU), range(s, s + 4)) for s in (1, 5)]
    close(table.blocks(4).kept, sum(blocks))
    updates = [with_detach(model, hand, max(1, T - 2), T, range(T - 1, T + 1)) for T in (2, 4, 6)]
    close(table.k1k2(2, 3).kept, sum(updates))


def test_a_truncation_says_what_it_does():
    model, hand = recurrent(tau=3, batch=1)
    table = through_time(run(model, hand), model.cell.W)
    text = str(table.sliding(2))
    assert "a sliding window: lags below 2" in text
    assert f"({table.norms[2, 0]:.4g})" in text
    assert "kept 5 of 6 terms: ‖kept‖ = " in text
    assert "in blocks of 2: t and k in the same" in str(table.blocks(2))
    assert "an update every 1 steps that reaches back 2 from there" in str(table.k1k2(1, 2))
    assert table.blocks(2).html().count("<tr>") == 4


def test_long_sequences_are_shown_by_lag():
    model, hand = recurrent(tau=20, batch=1)
    table = through_time(run(model, hand), model.cell.W)
    rows = {row["lag t - k"]: row for row in table.table()}
    assert len(rows) == 20
    norms = np.diag(table.norms, -3)
    assert (rows[3]["cells"], rows[3]["smallest"], rows[3]["largest"]) == (
        17, norms.min(), norms.max(),
    )  # fmt: skip
    kept = {row["lag t - k"]: row["kept"] for row in table.sliding(2).table()}
    assert (kept[0], kept[1], kept[2]) == (20, 19, 0)


# --- cells of any kind ---------------------------------------------------------------------------


def own_lstm(p, x, state):
    h, c = state
    gate = [x @ p["U"][g] + h @ p["W"][g] for g in range(4)]
    c = tb.sigmoid(gate[0]) * c + tb.sigmoid(gate[1]) * tb.tanh(gate[2])
    return tb.sigmoid(gate[3]) * tb.tanh(c), c


def own_gru(p, x, state):
    (h,) = state
    r = tb.sigmoid(x @ p["U"][0] + h @ p["W"][0])
    z = tb.sigmoid(x @ p["U"][1] + h @ p["W"][1])
    n = tb.tanh(x @ p["U"][2] + r * (h @ p["W"][2]))
    return ((1.0 - z) * n + z * h,)


def own_skip(p, x, state):
    """Reaches back two steps."""
    h, before = state
    return tb.tanh(x @ p["U"][0] + h @ p["W"][0] + before @ p["W"][1]), h


OWN = {"LSTM": (own_lstm, 2), "GRU": (own_gru, 1), "skip": (own_skip, 2)}


def own_run(cell, parts, parameters_of, label):
    """The losses of a loop of the user's own; `parameters_of(t)` are those of step t."""
    rng = np.random.default_rng(4)
    xs, state = rng.normal(size=(4, 2, 2)), (rng.normal(size=(2, 3)),) * parts
    losses = []
    for t in range(1, 5):
        state = label(t, lambda t=t, state=state: cell(parameters_of(t), xs[t - 1], state))
        losses.append(tb.sum(state[0] ** 2))
    return losses


def by_scope(t, step):
    with tb.scope("step", t):
        return step()


def by_label(t, step):
    state = step()
    nn.named(state[0], f"h({t})")
    return state


def weights(copy=lambda W: tb.Tensor(W)):
    rng = np.random.default_rng(5)
    return {"U": copy(rng.normal(size=(4, 2, 3))), "W": copy(rng.normal(size=(4, 3, 3)))}


@pytest.mark.parametrize("label", [by_scope, by_label])
@pytest.mark.parametrize("name", OWN)
def test_a_cell_of_ones_own(name, label):
    cell, parts = OWN[name]
    shared = weights()
    losses = own_run(cell, parts, lambda t: shared, label)
    copies = [weights() for _ in range(4)]
    alone = own_run(cell, parts, lambda t: copies[t - 1], by_scope)
    for which in ("U", "W"):
        table = through_time(losses, shared[which])
        for t in range(1, 5):
            for copy in copies:
                copy[which].zero_grad()
            alone[t - 1].backward()
            for k in range(1, 5):
                grad = copies[k - 1][which].grad
                close(table[t, k], np.zeros(table[t, k].shape) if grad is None else grad)


@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("scalars", [False, True])
def test_the_cells_of_nn(kind, scalars):
    cell = getattr(nn, kind)(2, 2, rng=0)
    cell = cell.scalar_view() if scalars else cell
    xs, ys = np.random.default_rng(1).normal(size=(2, 4, 3, 2))
    states = nn.unroll(cell, xs, cell.initial_state(3))
    h = [s[0] if isinstance(s, tuple) else s for s in states]
    losses = [nn.squared_error(a, y, "sum") for a, y in zip(h, ys, strict=True)]
    for parameter in cell.parameters():
        table = through_time(losses, parameter)
        np.testing.assert_array_equal(table.mask, np.tri(4, dtype=bool))
        for t, of_loss in table.by_loss().items():
            parameter.zero_grad()
            losses[t - 1].backward()
            close(of_loss, parameter.grad)
    by_state = through_time(losses, h).by_state()
    cell.zero_grad()
    total(losses).backward()
    for t, state in enumerate(h, 1):
        close(by_state[t], state.grad)


def test_the_parts_of_a_state_stand_side_by_side():
    cell = nn.LSTMCell(2, 3, rng=0)
    states = nn.unroll(cell, np.ones((3, 1, 2)), cell.initial_state(1))
    losses = [tb.sum(h * c) for h, c in states]
    joint = through_time(losses, states)
    assert "‖∂L(t)/∂(h, c)(k)‖" in str(joint)
    parts = [through_time(losses, [s[i] for s in states]) for i in range(2)]
    for t, k in np.ndindex(3, 3):
        cell_ = t + 1, k + 1
        close(joint[cell_], np.concatenate([part[cell_] for part in parts], -1))


def test_a_single_number():
    w, s, losses = tb.Value(0.9, "w"), 1.0, []
    for t in range(1, 4):
        s = nn.named(w * s, f"s({t})")
        losses.append(s * 1.0)
    table = through_time(losses, w)
    for t in range(1, 4):
        for k in range(1, t + 1):
            close(table[t, k], 0.9 ** (t - 1))
    close(table.total, 1 + 2 * 0.9 + 3 * 0.9**2)


def test_a_parameter_used_twice_by_one_operation():
    A = np.random.default_rng(0).normal(size=(2, 2))
    W = tb.Tensor(A, "W")
    h, losses = W, []
    for t in range(1, 3):
        h = nn.named(h @ W, f"h({t})")
        losses.append(tb.sum(h))
    table, ones = through_time(losses, W), np.ones((2, 2))
    close(table[1, 1], ones @ A.T + A.T @ ones)
    close(table[2, 2], (A @ A).T @ ones)
    close(table[2, 1], (ones @ A.T) @ A.T + A.T @ (ones @ A.T))


def test_float32():
    W = tb.Tensor(np.eye(2), "W", dtype=np.float32)
    h, losses = np.ones((1, 2), np.float32), []
    for t in range(1, 4):
        h = nn.named(h @ W, f"h({t})")
        losses.append(tb.sum(h))
    table = through_time(losses, W)
    assert table.total.dtype == table[2, 1].dtype == np.float32
    np.testing.assert_array_equal(table.total, np.full((2, 2), 6.0))


def test_losses_that_share_nothing_and_a_parameter_of_none():
    a, b, c = (tb.Value(x, name) for x, name in [(2.0, "a"), (3.0, "b"), (5.0, "c")])
    losses = [nn.named(a * a, "L(1)"), nn.named(b * b, "L(2)")]
    table = through_time(losses, b)
    assert (table.times, table.steps) == ((1, 2), (2,))
    assert [float(table[t, 2]) for t in (1, 2)] == [0.0, 6.0]
    assert table.mask.tolist() == [[False], [True]]
    empty = through_time(losses, c)
    assert empty.norms.shape == (2, 0)
    assert float(empty.total) == 0.0
    assert empty.by_loss() == {1: 0.0, 2: 0.0}
    assert float(empty.sliding(1).kept) == 0.0
    assert "L(t)" in str(empty)


def test_times_can_be_said():
    w = tb.Value(2.0, "w")
    s = nn.named(w * 3.0, "s(5)")
    with pytest.raises(ValueError, match=r"losses\[1\]: the graph does not say its time step"):
        through_time([s * 1.0, w * w + s * nn.named(s * w, "s(6)")], w)
    table = through_time([s * 1.0, s * s], w, times=[5, 7])
    assert (table.times, table.steps) == ((5, 7), (5,))


def test_the_result_can_be_written_to():
    w = tb.Tensor(np.ones(2), "w")
    table = through_time([nn.named(tb.sum(w * 2.0), "L(1)")], w)
    for array in (table.total, table[1, 1], table.by_use()[1]):
        array[:] = 7.0
    np.testing.assert_array_equal(table.total, [2.0, 2.0])
    assert w.grad is None


# --- bad input -----------------------------------------------------------------------------------

X = tb.Value(1.0, "x")
L = [nn.named(X * X, "L(1)")]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((L[0], X), TypeError, "losses: expected a list, the loss of each step, got Value"),
        (([], X), ValueError, "losses: expected at least one loss"),
        (([L[0], 2.0], X), TypeError, r"losses\[1\]: expected a Value or a Tensor, got float"),
        ((L, "x"), TypeError, "parameter: expected a Tensor, a Value or Values, got str"),
        ((L, []), ValueError, "parameter: expected at least one state, got an empty list"),
        ((L, [X]), ValueError, r"parameter\[0\]: its time step is not known; make the steps by"),
        ((L * 2, X), ValueError, r"losses\[0\] and losses\[1\] both have the time step 1"),
        ((L, X, [1, 2]), ValueError, "times: expected 1, one per loss, got 2"),
        ((L, tb.Value(1.0, requires_grad=False)), ValueError, "parameter: this Value requires no"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        through_time(*arguments)


def test_a_use_of_no_step():
    w = tb.Value(2.0, "w")
    h = [nn.named(w * 1.0, "h(1)")]
    h.append(nn.named(h[0] * w, "h(2)"))
    everywhere = w * 3.0
    losses = [x * everywhere for x in h]
    with pytest.raises(ValueError, match="the time step of a use of w in multiply is not known"):
        through_time(losses, w, times=[1, 2])


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (lambda h: h[::-1], "expected rising time steps, got 2 and then 1"),
        (lambda h: [h[0], nn.named(h[1][:1], "h(2)")], "expected states of one shape"),
        (lambda h: [(h[0], h[0][0])], "expected parts that differ in the last axis alone"),
        (lambda h: [()], r"parameter\[0\]: expected a state, got an empty tuple"),
        (lambda h: [h[0], np.ones(2)], r"parameter\[1\]: expected a Tensor"),
    ],
)
def test_bad_states(states, message):
    W = tb.Tensor(np.eye(2), "W")
    h = [nn.named(np.ones((2, 2)) @ W, "h(1)")]
    h.append(nn.named(h[0] @ W, "h(2)"))
    losses = [tb.sum(x) for x in h]
    with pytest.raises((ValueError, TypeError), match=message):
        through_time(losses, states(h))


def test_bad_questions():
    model, hand = recurrent(tau=3, batch=1)
    table = through_time(run(model, hand), model.cell.W)
    with pytest.raises(KeyError, match=r"expected a time in 1 ... 3 and a step in 1 ... 3, got 4"):
        table[4, 1]
    with pytest.raises(KeyError, match=r"expected a time and a step, table\[t, k\]"):
        table[2]
    for truncate in (table.sliding, table.blocks, lambda k: table.k1k2(k, 2)):
        with pytest.raises(ValueError, match="expected at least one step, got 0"):
            truncate(0)
        with pytest.raises(TypeError, match="expected a number of steps, got float"):
            truncate(1.5)
    with pytest.raises(ValueError, match=r"mask: expected truth values of shape \(3, 3\)"):
        table.sum(np.ones((3, 3)))


def test_a_table_that_would_be_too_large(monkeypatch):
    monkeypatch.setattr("tinygrad_bp.explain.limits.MOST_NUMBERS", 100)
    model, hand = recurrent(tau=8, batch=1)
    losses = run(model, hand)
    with pytest.raises(ValueError, match="the table would hold more than 100 numbers"):
        through_time(losses, model.cell.W)
