"""Jacobians of a state by an earlier one: E27, and cells of any kind against differences."""

import numpy as np
import pytest
from test_curriculum import close, columns, recurrent, sigmoid

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.explain import jacobians


def unrolled(tau=5, batch=2, scalars=False):
    model, hand = recurrent(tau, batch, symbols=3, hidden=3)
    model = model.scalar_view() if scalars else model
    xs = np.array([x.T for x in hand.x[1:]])
    return nn.unroll(model.cell, xs, hand.h[0].T), hand


def product(hand, t, k, sample):
    """E27: factors from i = t on the left down to k + 1."""
    J = np.eye(hand.W.shape[0])
    for i in range(t, k, -1):
        J = J @ np.diag(hand.slope(i)[:, sample]) @ hand.W
    return J


@pytest.mark.parametrize("scalars", [False, True])
def test_e27_the_product_of_the_steps(scalars):
    states, hand = unrolled(scalars=scalars)
    found = jacobians(states, batch=0)
    assert found.is_chained
    assert found.steps == (1, 2, 3, 4, 5)
    fro, spectral = found.norms(), found.norms(2)
    for t in range(1, 6):
        for k in range(1, 6):
            for b in range(2):
                expected = product(hand, t, k, b) if k <= t else np.zeros((3, 3))
                close(found[t, k][b], expected)
                values = np.linalg.svd(expected, compute_uv=False)
                close(found.singular_values(t, k)[b], values)
                close(spectral[t - 1, k - 1, b], values[0])
                close(fro[t - 1, k - 1, b], np.sqrt(np.sum(expected**2)))


def test_without_a_batch_axis_all_elements_are_units():
    states, hand = unrolled()
    found = jacobians(states)
    expected = np.zeros((6, 6))
    for b in range(2):
        expected[3 * b : 3 * b + 3, 3 * b : 3 * b + 3] = product(hand, 4, 2, b)
    close(found[4, 2], expected)
    assert found.norms().shape == (5, 5)


@pytest.mark.parametrize("radius", [0.5, 1.5])
def test_e27_vanishing_and_exploding(radius):
    """A linear cell of an orthogonal matrix times a number: the norm is its power, exactly."""
    W = radius * nn.init.orthogonal(np.random.default_rng(0), (4, 4))
    cell = nn.RNNCell(2, 4, rng=0, activation="identity")
    cell.W.data = W
    found = jacobians(nn.unroll(cell, np.ones((20, 1, 2)), cell.initial_state(1)), batch=0)
    for row in found.table():
        close(row["largest singular value"], [radius ** row["lag"]])
        close(row["per step"], [radius])
        close(row["smallest"], [radius ** row["lag"]])
    close(found[20, 3][0], np.linalg.matrix_power(W.T, 17))


# --- cells of any kind, against central differences ----------------------------------------------


def lstm(p, x, h, c):
    z = x @ p.U + h @ p.W + p.b
    i, f, g, o = np.split(z, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru(p, x, h):
    a, q = x @ p.U + p.b, h @ p.W
    (ar, az, an), (qr, qz, qn) = np.split(a, 3, -1), np.split(q, 3, -1)
    r, z = sigmoid(ar + qr), sigmoid(az + qz)
    n = np.tanh(an + r * (qn + p.d))
    return ((1 - z) * n + z * h,)


def rnn(p, x, h):
    return (np.tanh(x @ p.U + h @ p.W + p.b),)


class Numbers:
    def __init__(self, cell):
        vars(self).update(cell.state_dict())


CELLS = {"RNNCell": (rnn, 1), "GRUCell": (gru, 1), "LSTMCell": (lstm, 2)}


def differences(function, x):
    """Central differences; the functions are smooth, so they are right to 1e-9."""
    step = 1e-5
    rows = [(function(x + step * e) - function(x - step * e)) / (2 * step) for e in np.eye(x.size)]
    return np.array(rows).T


def by_differences(kind, cell, xs, states, t, k, sample):
    """The Jacobian of the state t by the state k of one sample, run from k on."""
    function, parts = CELLS[kind]

    def later(flat):
        state = np.split(flat[None], parts, -1)
        for i in range(k, t):
            state = function(Numbers(cell), xs[i][sample : sample + 1], *state)
        return np.concatenate(state, -1)[0]

    return differences(later, np.concatenate([s.data[sample] for s in states[k - 1]]))


@pytest.fixture(params=CELLS)
def any_cell(request):
    cell = getattr(nn, request.param)(2, 3, rng=0)
    xs = np.random.default_rng(1).normal(size=(5, 2, 2))
    states = nn.unroll(cell, xs, cell.initial_state(2))
    return request.param, cell, xs, states


def test_the_cells_of_nn(any_cell):
    kind, cell, xs, states = any_cell
    found = jacobians(states, batch=0)
    assert found.is_chained
    of = [s if isinstance(s, tuple) else (s,) for s in states]
    for t, k in [(2, 1), (5, 4), (4, 2), (5, 1)]:
        for sample in range(2):
            expected = by_differences(kind, cell, xs, of, t, k, sample)
            close(found[t, k][sample], expected, rtol=0, atol=1e-9)


def test_the_parts_of_an_lstm_each_alone():
    cell = nn.LSTMCell(2, 3, rng=0)
    xs = np.random.default_rng(1).normal(size=(5, 2, 2))
    states = nn.unroll(cell, xs, cell.initial_state(2))
    joint = jacobians(states, batch=0)
    hidden = jacobians([h for h, _ in states], batch=0)
    assert not hidden.is_chained
    for t, k in [(2, 1), (5, 4), (5, 2)]:
        for i, of in enumerate("hc"):
            for j, by in enumerate("hc"):
                part = joint[t, k][:, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3]
                np.testing.assert_array_equal(joint.block(t, k, of, by), part)
        # h(k) alone can be moved: nothing of step k is computed from it.
        close(hidden[t, k], joint.block(t, k, "h", "h"))
    # c(k) alone moves h(k) = o tanh(c(k)) as well: the sum of both ways.
    cells = jacobians([c for _, c in states], batch=0)
    nodes = tb.topological_order(tb.sum(states[-1][0]))
    o = {node.scope.outer.index: node for node in nodes if node.label == "o"}
    slope = o[2].data * (1 - np.tanh(states[1][1].data) ** 2)
    both = joint.block(5, 2, "c", "c") + joint.block(5, 2, "c", "h") * slope[:, None, :]
    close(cells[5, 2], both)
    close(cells.norms()[4, 1], np.sqrt((both**2).sum((1, 2))))
    assert "more than this state passes from step to step" in str(cells)


def own_skip(tau, W, R, h0):
    """A cell of the user's own that reaches back two steps."""
    states = [h0, h0]
    for t in range(1, tau + 1):
        states.append(nn.named(tb.tanh(states[-1] @ W + states[-2] @ R), f"h({t})"))
    return states[2:]


@pytest.mark.parametrize("make", [tb.Tensor, tb.values])
def test_a_state_that_is_not_all_that_passes_by(make):
    rng = np.random.default_rng(0)
    W, R = rng.normal(size=(2, 3, 3))
    states = own_skip(5, make(W), make(R), rng.normal(size=(1, 3)))
    found = jacobians(states)
    assert not found.is_chained
    J = {(t, t): np.eye(3) for t in range(1, 6)}
    for t in range(1, 6):
        slope = np.diag(1 - states[t - 1].data[0] ** 2)
        for k in range(t - 1, 0, -1):
            J[t, k] = slope @ (W.T @ J[t - 1, k] + R.T @ J.get((t - 2, k), np.zeros((3, 3))))
    for t, k in J:
        close(found[t, k], J[t, k])
        close(found.norms()[t - 1, k - 1], np.linalg.norm(J[t, k]))


def test_a_tuple_that_is_not_all_that_passes_by():
    rng = np.random.default_rng(0)
    W, R = map(tb.Tensor, rng.normal(size=(2, 3, 3)))
    states = own_skip(4, W, R, rng.normal(size=(1, 3)))
    pairs = [(h, nn.named(h * 2.0, f"g({t})")) for t, h in enumerate(states, 1)]
    with pytest.raises(ValueError, match=r"the state of step 3 depends on that of step 1 past"):
        jacobians(pairs)


def test_samples_that_are_not_independent():
    W = tb.Tensor(np.random.default_rng(0).normal(size=(3, 3)))
    h, states = np.arange(6.0).reshape(2, 3) / 10, []
    for t in range(1, 4):
        z = h @ W
        h = nn.named(tb.tanh(z - tb.mean(z, 0)), f"h({t})")  # as batch normalisation does
        states.append(h)
    with pytest.raises(ValueError, match=r"axis 0 h\(2\) of one sample depends on another sample"):
        jacobians(states, batch=0)
    found = jacobians(states)[2, 1]
    slope = np.diag(1 - states[1].data.ravel() ** 2)
    mixed = np.kron(np.eye(2) - 0.5, W.data.T)
    close(found, slope @ mixed)


def test_single_numbers():
    w, s, states = tb.Value(0.9, "w"), 0.5, []
    for t in range(1, 5):
        s = nn.named(tb.tanh(w * s), f"s({t})")
        states.append(s)
    found = jacobians(states)
    slopes = [0.9 * (1 - s.data**2) for s in states]
    close(found[4, 1], [[slopes[1] * slopes[2] * slopes[3]]])
    assert found[1, 4] == [[0.0]]
    assert found[2, 2] == [[1.0]]


def test_a_part_that_is_computed_from_another_part_of_its_step():
    a, states = tb.Value(0.9), []
    x, y = tb.Value(1.0), tb.Value(2.0)
    for t in range(1, 4):
        x = nn.named(a * x + y, f"x({t})")
        y = nn.named(x * y, f"y({t})")
        states.append((x, y))
    found = jacobians(states)
    assert found.name == "(x, y)"
    (_, y), (x, _) = ((v.data for v in states[i]) for i in (1, 2))
    close(found[3, 2], [[0.9, 1.0], [0.9 * y, x + y]])


def test_it_writes_no_gradient_and_takes_float32():
    cell = nn.RNNCell(2, 3, rng=0, dtype=np.float32)
    states = nn.unroll(cell, np.ones((3, 1, 2), np.float32), cell.initial_state(1))
    found = jacobians(states)
    assert found[3, 1].dtype == np.float64
    assert cell.W.grad is None
    slope = [1 - s.data.astype(float)[0] ** 2 for s in states]
    W = columns(cell.W.data).astype(float)
    expected = np.diag(slope[2]) @ W @ np.diag(slope[1]) @ W
    close(found[3, 1], expected, rtol=1e-5, atol=1e-6)  # the factors are float32
    with pytest.raises(ValueError, match="read-only"):
        found[3, 1][0, 0] = 1.0


def test_it_prints():
    states, hand = unrolled()
    found = jacobians(states, batch=0)
    text = str(found)
    assert text.startswith("∂h(5)/∂h(k)\nlag  k  largest singular value  per step")
    assert "the state is all that passes between them" in text
    (row,) = [row for row in found.table(4) if row["k"] == 2]
    close(row["smallest"], [np.linalg.svd(product(hand, 4, 2, b))[1][-1] for b in range(2)])
    assert found._repr_html_().count("<tr>") == 5


@pytest.mark.parametrize(
    ("states", "batch", "error", "message"),
    [
        ([], None, ValueError, "states: expected at least one state"),
        (tb.Tensor(1.0), None, TypeError, "states: expected a list of states, got Tensor"),
        ([np.ones(3)], None, TypeError, r"states\[0\]: expected a Tensor, a Value or Values"),
        ([tb.Tensor(1.0)], None, ValueError, r"states\[0\]: its time step is not known"),
        (unrolled()[0], 2, ValueError, r"batch: states of shape \(2, 3\) have no axis 2"),
        (unrolled()[0], "0", TypeError, "batch: expected the number of an axis, got str"),
    ],
)
def test_bad_input(states, batch, error, message):
    with pytest.raises(error, match=message):
        jacobians(states, batch)


def test_bad_questions():
    states, _ = unrolled()
    found = jacobians(states)
    with pytest.raises(KeyError, match=r"expected two of the steps 1 ... 5"):
        found[6, 1]
    with pytest.raises(KeyError, match="expected two time steps"):
        found[3]
    with pytest.raises(KeyError, match=r"expected one of the parts \['h'\], got 'c'"):
        found.block(2, 1, "h", "c")
    pairs = [(h, nn.named(h * 1.0, f"g({t})")) for t, h in enumerate(states, 1)]
    with pytest.raises(ValueError, match="the parts of a state stand side by side on its last"):
        jacobians(pairs, batch=1)


def test_what_would_be_too_large_is_refused(monkeypatch):
    states, _ = unrolled()
    monkeypatch.setattr("tinygrad_bp.explain.limits.MOST_NUMBERS", 100)
    with pytest.raises(ValueError, match=r"more than 100 numbers; .* which axis the samples"):
        jacobians(states)
    jacobians(states, batch=0)
    monkeypatch.setattr("tinygrad_bp.explain.limits.MOST_VISITS", 50)
    with pytest.raises(ValueError, match="more than 50 visits"):
        jacobians(states, batch=0)
