"""Truncated BPTT against the double sum of its definition, term by term."""

import tracemalloc
import weakref

import numpy as np
import pytest
from hypothesis import given, strategies as st

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.training import truncated_bptt

D, H, K = 2, 3, 2  # features, hidden, outputs


def numbers(seed, steps):
    rng = np.random.default_rng(seed)
    shapes = {"U": (D, H), "W": (H, H), "b": (H,), "V": (H, K)}
    theta = {name: rng.normal(size=shape) * 0.7 for name, shape in shapes.items()}
    return theta, rng.normal(size=(steps, D)), rng.normal(size=(steps, K)), rng.normal(size=H)


def explicit(theta, xs, ys, h0, k1, k2, lr, learn_start=False):
    """Plain numpy: every term (t, s) is a product of Jacobians; states are not computed again.

    h(s) = tanh(x(s) U + h(s-1) W + b), E(t) = ½ ‖h(t) V - y(t)‖². Returns all parameters after each
    update, all losses, and the gradient by the first state at each update.
    """
    theta = {name: p.copy() for name, p in theta.items()}
    h, past, losses, history, starts = h0, [], [], [], []
    last = 0
    for t in range(1, len(xs) + 1):
        x = xs[t - 1]
        new = np.tanh(x @ theta["U"] + h @ theta["W"] + theta["b"])
        error = new @ theta["V"] - ys[t - 1]
        losses.append(0.5 * error @ error)
        slope = np.diag(1.0 - new**2)
        # ∂h(s)/∂h(s-1), with the W of its time; rows are those of the new state.
        past.append((x, h, new, slope, slope @ theta["W"].T, theta["V"] @ error, error))
        h = new
        if t % k1 and t < len(xs):
            continue
        gradient = {name: np.zeros_like(p) for name, p in theta.items()}
        by_start = np.zeros_like(h0)
        for u in range(last + 1, t + 1):
            for s in range(max(1, t - k2 + 1), u + 1):
                x_s, h_s, _, slope_s, *_ = past[s - 1]
                chain = np.eye(H)
                for j in range(u, s, -1):
                    chain = chain @ past[j - 1][4]
                delta = past[u - 1][5] @ chain @ slope_s
                gradient["U"] += np.outer(x_s, delta)
                gradient["W"] += np.outer(h_s, delta)
                gradient["b"] += delta
                if s == 1:
                    by_start += past[u - 1][5] @ chain @ past[0][4]
                if s == u:
                    gradient["V"] += np.outer(past[u - 1][2], past[u - 1][6])
        theta = {name: p - lr * gradient[name] for name, p in theta.items()}
        history.append(theta)
        starts.append(by_start)
        last = t
    return history, losses, starts


def network(theta):
    cell = nn.RNN(D, H, rng=0) if hasattr(nn.RNN, "initial_state") else nn.RNNCell(D, H, rng=0)
    V = tb.Tensor(theta["V"], "V")
    cell.U.data, cell.W.data, cell.b.data = theta["U"], theta["W"], theta["b"]
    return cell, V


@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(1, 12),
    k1=st.integers(1, 12),
    k2=st.integers(1, 12),
)
def test_it_is_the_double_sum(seed, steps, k1, k2):
    k1, k2 = min(k1, steps), min(k2, steps)
    theta, xs, ys, h0 = numbers(seed, steps)
    expected, losses, starts = explicit(theta, xs, ys, h0, k1, k2, lr=0.1)
    cell, V = network(theta)
    start = tb.Tensor(h0)
    leaves = {"U": cell.U, "W": cell.W, "b": cell.b, "V": V}
    sgd = tb.optim.SGD(leaves.values(), lr=0.1)
    got = []
    for update, after, by_start in zip(
        truncated_bptt(
            cell, xs, k1, k2, targets=ys, state=start,
            loss=lambda h, y: nn.squared_error(h @ V, y),
        ),
        expected, starts, strict=True,
    ):  # fmt: skip
        sgd.step()
        sgd.zero_grad()
        for name, p in leaves.items():
            np.testing.assert_allclose(p.data, after[name], rtol=1e-10, atol=1e-12)
        reached = np.zeros(H) if start.grad is None else start.grad
        np.testing.assert_allclose(reached, by_start, rtol=1e-9, atol=1e-12)
        start.zero_grad()
        assert not update.state.requires_grad
        assert update.loss == pytest.approx(np.mean(update.losses), rel=1e-15)
        got.extend(update.losses)
    np.testing.assert_allclose(got, losses, rtol=1e-10)


def test_over_the_whole_sequence_it_is_bptt():
    theta, xs, ys, h0 = numbers(0, 9)
    cell, V = network(theta)
    total = sum(
        nn.squared_error(h @ V, y) for h, y in zip(nn.unroll(cell, xs, h0), ys, strict=True)
    )
    expected = tb.grad(lambda model: sum(
        nn.squared_error(h @ V, y) for h, y in zip(nn.unroll(model, xs, h0), ys, strict=True)
    ))(cell)  # fmt: skip
    (update,) = truncated_bptt(
        cell, xs, 9, 9, targets=ys, state=h0, loss=lambda h, y: nn.squared_error(h @ V, y)
    )
    for name, p in cell.named_parameters():
        np.testing.assert_allclose(p.grad, expected[name], rtol=1e-12, atol=1e-14)
    assert sum(update.losses) == pytest.approx(total.item(), rel=1e-14)


@pytest.mark.parametrize("kind", ["tensors", "values", "single"])
def test_states_of_several_parts(kind):
    """A product of rates: c(t) = a c(t-1) + x(t), h(t) = c(t) b, whose sums are written out."""
    make = {"tensors": tb.Tensor, "values": tb.values, "single": None}[kind]
    a, b = (tb.Value(0.8), tb.Value(0.3)) if make is None else (make([0.8]), make([0.3]))
    xs, k1, k2 = [1.0, -2.0, 0.5, 3.0, 1.5, -1.0], 2, 4

    def cell(x, state):
        _, c = state
        c = a * c + x
        return c * b, c

    zero = 0.0 if make is None else np.zeros(1)
    updates = truncated_bptt(
        cell, xs, k1, k2, targets=xs, state=(zero, zero),
        loss=lambda state, y: tb.sum(state[0] * y) if make else state[0] * y,
    )  # fmt: skip
    c = [0.0]
    for x in xs:
        c.append(0.8 * c[-1] + x)
    for update in updates:
        T = update.step
        by_a = sum(
            0.3 * xs[t - 1] * 0.8 ** (t - s) * c[s - 1]
            for t in range(T - k1 + 1, T + 1)
            for s in range(max(1, T - k2 + 1), t + 1)
        )
        by_b = sum(xs[t - 1] * c[t] for t in range(T - k1 + 1, T + 1))
        assert np.ravel(a.grad)[0] == pytest.approx(by_a, rel=1e-13)
        assert np.ravel(b.grad)[0] == pytest.approx(by_b, rel=1e-13)
        h, carried = update.state
        if kind == "tensors":
            assert (h.label, carried.label, h.scope.path) == (f"h({T})", f"c({T})", f"step({T})")
        assert np.ravel(carried.data)[0] == pytest.approx(c[T], rel=1e-14)
        assert np.ravel(h.data)[0] == pytest.approx(0.3 * c[T], rel=1e-14)
        a.zero_grad()
        b.zero_grad()


def test_batches_of_streams_and_an_iterator():
    """Any iterable will do; the states are those of the plain loop."""
    rng = np.random.default_rng(0)
    cell, V = network(numbers(0, 1)[0])
    xs, ys = rng.normal(size=(7, 5, D)), rng.normal(size=(7, 5, K))
    updates = list(
        truncated_bptt(
            cell, iter(xs), 3, 2, targets=(y for y in ys), state=np.zeros((5, H)),
            loss=lambda h, y: nn.squared_error(h @ V, y),
        )
    )  # fmt: skip
    assert [update.step for update in updates] == [3, 6, 7]
    assert [len(update.losses) for update in updates] == [3, 3, 1]
    states = nn.unroll(cell, xs, np.zeros((5, H)))
    for update in updates:
        np.testing.assert_array_equal(update.state.data, states[update.step - 1].data)


def memory_of(steps, k1, k2):
    """The most memory that is in use during the second half of a run, and how many graphs live."""
    cell, V = network(numbers(1, 1)[0])
    living = weakref.WeakSet()

    def watched(x, h):
        h = cell(x, h)
        living.add(h)
        return h

    x, y = np.ones(D), np.ones(K)
    sgd = tb.optim.SGD([*cell.parameters(), V], lr=0.01)
    most = 0
    tracemalloc.start()
    for update in truncated_bptt(
        watched, (x for _ in range(steps)), k1, k2, targets=(y for _ in range(steps)),
        state=np.zeros(H), loss=lambda h, y: nn.squared_error(h @ V, y),
    ):  # fmt: skip
        sgd.step()
        sgd.zero_grad()
        most = max(most, len(living))
        if update.step * 2 == steps:
            tracemalloc.reset_peak()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, most


@pytest.mark.parametrize(("k1", "k2"), [(5, 10), (10, 5), (1, 1)])
def test_a_long_run_does_not_grow_in_memory(k1, k2):
    memory_of(100, k1, k2)  # what is loaded once
    short, living = memory_of(100, k1, k2)
    long, still = memory_of(2000, k1, k2)
    assert living == still <= k2 + 1
    # The peak comes and goes by a factor of 2, at any length; 20 times the graphs would be more.
    assert long < 4 * short


ARGUMENTS = {
    "cell": lambda x, h: h * x,
    "sequence": [1.0, 2.0, 3.0],
    "k1": 1,
    "k2": 1,
    "targets": [0.0] * 3,
    "state": tb.Value(1.0),
    "loss": nn.squared_error,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k1": 0}, "k1: expected a positive integer, got 0"),
        ({"k2": 2.0}, "k2: expected a positive integer, got 2.0"),
        ({"k2": True}, "k2: expected a positive integer, got True"),
        ({"k2": 4}, "k2: expected at most the sequence's 3, got 4"),
        ({"k1": 4}, "k1: expected at most the sequence's 3, got 4"),
        ({"sequence": []}, "k1: expected at most the sequence's 0, got 1"),
        ({"state": (0.0,)}, "state: expected a tuple of two parts or more, got 1"),
        ({"targets": [0.0]}, "targets: expected one for each of 3 steps, got 1"),
    ],
)
def test_bad_arguments_are_refused_at_once(change, message):
    with pytest.raises(ValueError, match=message):
        truncated_bptt(**{**ARGUMENTS, **change})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"targets": iter([0.0])}, ValueError, "expected one for each of 2 steps, got 1"),
        ({"sequence": iter([1.0])}, ValueError, "expected one for each of 1 steps, got 2"),
        ({"cell": lambda x, h: (h, h)}, ValueError, "cell: expected a state of 1 parts, got 2"),
        (
            {"loss": lambda h, y: tb.Tensor([1.0, 2.0])},
            ValueError,
            "loss: expected a single number at step 1",
        ),
        (
            {"sequence": [1.0, float("nan"), 1.0]},
            FloatingPointError,
            "loss: it is nan at step 2",
        ),
        ({"sequence": [1e200, 1.0, 1.0]}, FloatingPointError, "loss: it is inf at step 1"),
    ],
)
def test_what_goes_wrong_on_the_way(change, error, message):
    with pytest.raises(error, match=message):
        list(truncated_bptt(**{**ARGUMENTS, **change}))


def test_where_nothing_is_recorded_it_says_so():
    with tb.no_grad(), pytest.raises(ValueError, match="under no_grad"):
        truncated_bptt(**ARGUMENTS)
