"""What a recording takes in, and what it refuses: it must never be wrong in silence."""

import copy
import math
from contextvars import copy_context

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value, nn
from tinygrad_bp.recording import ROOT, current_state
from tinygrad_bp.replay.recorder import Recorder, recording_by

ONES = np.ones(2)


def refused(f, *args, match=None, error=(TypeError, ValueError, RuntimeError)):
    """f cannot be recorded; nothing of the attempt stays."""
    step = tb.compile(f)
    with pytest.raises(error, match=match):
        step(*args)
    assert current_state() is ROOT
    assert step.recordings == 0
    return step


# --- numbers that are read out ------------------------------------------------------------------

READERS = {
    "float": float,
    "int": int,
    "data": lambda x: x.data,
    "item": lambda x: x.item(),
    "asarray": np.asarray,
    "array": lambda x: np.array([x, x]),
    "format": lambda x: float(f"{x:.2f}"),
    "math": math.exp,
    "round": round,
    "index": lambda x: [1.0, 2.0, 3.0, 4.0][x],
    "range": lambda x: float(len(range(x))),
    "Tensor": Tensor,
    "isnan": lambda x: float(np.isnan(x)),
    "isfinite": lambda x: float(math.isfinite(x)),
    "allclose": lambda x: float(np.allclose(x, 1.0)),
    "complex": complex,
}
every_reader = pytest.mark.parametrize("read", READERS.values(), ids=list(READERS))


@every_reader
@pytest.mark.parametrize("x", [2.0, np.array([2.0])], ids=["number", "array"])
def test_a_number_is_not_read_out(read, x):
    refused(lambda x: x * read(x), x)


@pytest.mark.parametrize("read", [lambda x: x.tolist(), np.sort, np.argmax, np.median, np.unique])
def test_what_numpy_has_no_rule_for_is_refused(read):
    refused(lambda x: x * np.asarray(read(x)).sum(), ONES, error=(TypeError, AttributeError))


def test_the_text_of_a_recorded_quantity_has_no_number_in_it():
    seen = []
    tb.compile(lambda x: seen.append((str(x), repr(x), f"{x}")) or x)(3.125)
    assert not any("3.1" in text for text in seen[0])


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("x", [2.0, np.full(2, 2.0)], ids=["number", "array"])
def test_a_copy_is_refused_or_recorded(copied, x):
    step = tb.compile(lambda x: tb.square(copied(x)))
    try:
        step(x)
    except (TypeError, ValueError, RuntimeError):
        return
    assert np.array_equal(step(x + 1.0), np.square(x + 1.0))


def test_shapes_can_be_asked_for():
    def f(x):
        assert (x.shape, x.ndim, x.size, x.dtype, len(x)) == ((3, 2), 2, 6, np.float64, 3)
        assert np.shape(x) == (3, 2)
        return x.sum() / float(np.size(x)) + sum(row.sum() for row in x) * 0.0

    assert tb.compile(f)(np.full((3, 2), 4.0)) == 4.0


def test_numpys_functions_that_are_rules_are_recorded():
    def f(x):
        moved = np.concatenate([np.tanh(x), np.exp(-x)])
        return np.sum(moved, axis=0) + np.maximum(x, 0.5).sum() + np.where(x > 0, x, 0.0).sum()

    step = tb.compile(f)
    for x in (np.array([0.5, -1.0]), np.array([3.0, 0.25])):
        assert step(x) == f(Tensor(x)).item()
    assert step.recordings == 1


def test_data_and_grad_cannot_be_set():
    def set_data(x):
        x.data = x
        return x

    def set_grad(x):
        x.grad = x
        return x

    refused(set_data, 1.0, match="data")
    refused(set_grad, 1.0, match="grad")
    refused(lambda x: x.register_hook(print) or x, 1.0, match="hook")


def test_in_place_operators_make_new_nodes():
    def f(x):
        y = x
        y += 1.0
        y *= x
        y -= x
        y /= 2.0
        return y * x

    step = tb.compile(f)
    for x in (3.0, np.array([1.0, 5.0])):
        assert np.array_equal(step(x), ((x + 1) * x - x) / 2 * x)


# --- leaves that the function reaches by itself -------------------------------------------------


@pytest.fixture(params=["Value", "Tensor"])
def w(request):
    return Value(2.0, "w") if request.param == "Value" else Tensor([2.0], "w")


def like(w, x):
    return x if isinstance(w, Value) else np.array([x])


def write(w, x):
    w.data = like(w, x)


CLOSURES = {
    "leaf": lambda x, w: x * w,
    "leaf on the left": lambda x, w: w - x,
    "leaves alone": lambda x, w: x * (w * w),
    "twice": lambda x, w: (x + w * 2.0) * (w * 3.0) + w * 5.0,
    "chain": lambda x, w: x * tb.exp(tb.sin(w * w) + w),
    "alone": lambda x, w: w * w,
    "itself": lambda x, w: w,
    "detached": lambda x, w: x * w.detach(),
    "of detached": lambda x, w: x * (w.detach() * 2.0),
    "maximum": lambda x, w: x * tb.maximum(w, 0.0),
    "where": lambda x, w: tb.where(w > 0.0, x, -x),
    "equal": lambda x, w: tb.where(w == 2.0, x, -x),
    "computed and compared": lambda x, w: tb.where(w * w > x, x, -x),
    "computed and equal": lambda x, w: tb.where(w * 1.0 == x, x, -x),
    "if": lambda x, w: x if w > 0.0 else -x,
    "truth": lambda x, w: x if w else -x,
    "float": lambda x, w: x * float(w),
    "data": lambda x, w: x * w.data,
    "item": lambda x, w: x * w.item(),
    "array": lambda x, w: x * np.asarray(w),
    "copy": lambda x, w: x * copy.deepcopy(w),
    "gradient": lambda x, w: (
        x * tb.grad(lambda y: tb.sum(y * y) if y.shape else y * y)(w)
        if isinstance(w, Tensor)
        else x * tb.grad(lambda y: y * y)(w)
    ),
}


def in_no_grad(x, w):
    with tb.no_grad():
        factor = w * 2.0
    return x * factor


CLOSURES["no_grad"] = in_no_grad


@pytest.mark.parametrize("f", CLOSURES.values(), ids=list(CLOSURES))
def test_a_leaf_that_is_reached_is_read_at_each_call_or_refused(f, w):
    if f is CLOSURES["array"] and isinstance(w, Value):
        return  # numpy makes an array of objects of it, which holds the leaf itself
    step = tb.compile(lambda x: f(x, w))
    for x, number in [(1.0, 2.0), (3.0, 2.0), (1.0, -5.0), (2.0, 0.0)]:
        write(w, number)
        expected = f((Value if isinstance(w, Value) else Tensor)(like(w, x)), w)
        try:
            got = step(like(w, x))
        except (TypeError, ValueError, RuntimeError):
            return
        assert np.array_equal(got, expected.data)


@pytest.mark.parametrize("name", ["leaf", "leaves alone", "alone", "itself", "chain", "maximum"])
def test_a_leaf_that_is_reached_gets_its_gradient(name, w):
    f = CLOSURES[name]
    step = tb.compile(lambda x: f(x, w))
    for number in (2.0, 0.5):
        write(w, number)
        w.zero_grad()
        step.backward(like(w, 3.0))
        got = w.grad
        w.zero_grad()
        f((Value if isinstance(w, Value) else Tensor)(like(w, 3.0)), w).backward()
        assert np.array_equal(got, w.grad)


def test_a_function_without_arguments_of_leaves_that_it_reaches():
    w = Tensor([1.0, 2.0])
    step = tb.compile(lambda: (w * w).sum())
    assert step() == 5.0
    w.data[...] = 3.0
    assert step.backward() == 18.0
    assert w.grad.tolist() == [6.0, 6.0]


def test_a_constant_that_is_reached_is_read_at_each_call_or_refused():
    c = Tensor([2.0], requires_grad=False)
    step = tb.compile(lambda x: x * c)
    assert step(np.array([3.0])) == 6.0
    c.data[...] = 5.0
    assert step(np.array([3.0])) == 15.0
    refused(lambda x: x * (c * 2.0), np.array([3.0]), match="pass it as an argument")


@pytest.mark.parametrize("leaf", [Value(2.0, "w"), Tensor([2.0], "w")], ids=["Value", "Tensor"])
def test_what_was_computed_outside_is_refused(leaf):
    computed = leaf * 3.0
    x = like(leaf, 1.0)
    refused(lambda x: x * computed, x, match="computed outside")
    refused(lambda x: x * (computed * 2.0), x, match="computed outside")
    assert tb.compile(lambda x: x * computed.detach())(x) == 6.0  # its data cannot change


def test_leaves_made_inside_are_constants():
    def f(x):
        return x * Tensor([2.0]) + Tensor([1.0], requires_grad=False) * 3.0

    step = tb.compile(f)
    assert [step(np.array([x])).item() for x in (1.0, 2.0)] == [5.0, 7.0]


def test_no_gradient_flows_through_detach_and_no_grad():
    def detached(x):
        return tb.sum(x * x.detach()) if x.shape else None

    def without(x):
        with tb.no_grad():
            y = x * 1.0
        return (x * y).sum()

    x = np.array([3.0, -2.0])
    for f in (detached, without):
        value, gradient = tb.compile(f).value_and_grad(x)
        assert value == 13.0
        assert gradient.tolist() == [3.0, -2.0]
    assert tb.compile(lambda x: x * x.detach()).value_and_grad(3.0) == (9.0, 3.0)

    def number(x):
        with tb.no_grad():
            y = x * 1.0
        return x * y

    assert tb.compile(number).value_and_grad(3.0) == (9.0, 3.0)


def test_recording_works_under_no_grad():
    step = tb.compile(lambda x: (x * x).sum())
    with tb.no_grad():
        value, gradient = step.value_and_grad(np.array([3.0]))
        assert not tb.is_grad_enabled()
    assert (value, gradient.tolist()) == (9.0, [6.0])


def test_scopes_and_labels_inside_are_allowed():
    def f(x):
        with tb.scope("here", 3):
            y = nn.named(x * 2.0, "y")
        return y.sum()

    assert tb.compile(f)(ONES) == 4.0


# --- indices ------------------------------------------------------------------------------------

LOOKUPS = {
    "getitem": lambda x, i: x[i],
    "rows": lambda x, i: x[:, i],
    "pair": lambda x, i: x[i, i],
    "take": lambda x, i: tb.take(x, i, 0),
    "take flat": lambda x, i: tb.take(x, i),
    "numpy take": lambda x, i: np.take(x, i, axis=1),
    "along": lambda x, i: tb.take_along_axis(x, i[:, None], 1),
    "by name": lambda x, i: tb.take(x, indices=i, axis=1),
    "numpy along": lambda x, i: np.take_along_axis(x, i[None], 0),
    "along a short axis": lambda x, i: tb.take_along_axis(x[:1], i[:, None], 1),
    "one_hot": lambda x, i: tb.one_hot(i, 3) @ x,
    "part": lambda x, i: x[i[1:]],
    "each": lambda x, i: sum((x[k] for k in i), x[0]),
    "cross_entropy": lambda x, i: nn.cross_entropy(x, i),
}
every_lookup = pytest.mark.parametrize("look", LOOKUPS.values(), ids=list(LOOKUPS))
INDICES = [np.array(i) for i in ([0, 2, 1], [1, 1, 1], [2, 0, 0])]


@every_lookup
def test_an_index_is_given_at_each_call(look):
    def f(x, i):
        return (look(x, i) * 1.5).sum()

    step = tb.compile(f, optimize=False)
    x = np.random.default_rng(0).normal(size=(3, 3))
    for i in INDICES:
        value, gradient = step.value_and_grad(x, i)
        expected, exact = tb.value_and_grad(f)(x, i)
        assert value == expected
        assert np.array_equal(gradient, exact)
        assert step(x, i) == expected
    assert step.recordings == 2


@every_lookup
def test_a_leaf_that_is_reached_can_be_looked_up(look):
    w = Tensor(np.random.default_rng(0).normal(size=(3, 3)))
    step = tb.compile(lambda i: (look(w, i) * 1.5).sum(), optimize=False)
    for i in INDICES:
        try:
            value = step.backward(i)
        except TypeError:
            return  # or refused
        got, w.grad = w.grad, None
        expected = (look(w, i) * 1.5).sum()
        expected.backward()
        assert value == expected.item()
        assert np.array_equal(got, w.grad)
        w.grad = None


COMPARED = {
    "==": lambda x, i: tb.where(i == 1, x, -x),
    "!=": lambda x, i: tb.where(i != 1, x, -x),
    "with a node": lambda x, i: tb.where(x == i, x, -x),
    "if": lambda x, i: x if i[0] == 1 else -x,
    "in": lambda x, i: x if 1 in i else -x,
    "truth": lambda x, i: x if i[0] else -x,
    "condition": lambda x, i: tb.where(i, x, -x),
    "arithmetic": lambda x, i: x[(i + 1) % 3],
    "product": lambda x, i: x * i,
    "less": lambda x, i: tb.where(i < 1, x, -x),
    "sum": lambda x, i: x * i.sum(),
}


@pytest.mark.parametrize("f", COMPARED.values(), ids=list(COMPARED))
def test_what_else_is_done_with_an_index_is_recorded_or_refused(f):
    step = tb.compile(f)
    x = np.array([1.0, 2.0, 3.0])
    for i in ([0, 2, 1], [1, 1, 1], [2, 0, 0]):
        try:
            got = step(x, np.array(i))
        except (TypeError, ValueError, RuntimeError, AttributeError):
            return
        expected = f(Tensor(x), np.array(i))
        assert np.array_equal(got, expected.data)


def test_an_index_is_checked_at_each_call():
    step = tb.compile(lambda x, i: (x[i].sum(), nn.cross_entropy(x, i)))
    x = np.zeros((2, 2))
    step(x, np.array([0, 1]))
    with pytest.raises((IndexError, ValueError)):
        step(x, np.array([0, 7]))
    assert step(x, np.array([1, 1]))[0] == 0.0


def test_there_is_no_derivative_by_integers():
    with pytest.raises(TypeError, match="integers"):
        tb.compile(lambda x, i: x[i].sum(), argnums=1).value_and_grad(ONES, np.array([0]))


def test_a_mask_that_is_recorded_is_no_index():
    refused(lambda x: x[x > 0.0].sum(), ONES, error=(TypeError, IndexError))


# --- derivatives inside -------------------------------------------------------------------------


@pytest.mark.parametrize("x", [2.0, ONES], ids=["number", "array"])
@pytest.mark.parametrize(
    "inner",
    [
        lambda x: tb.grad(lambda y: tb.sum(y * y) if y.shape else None)(x),
        lambda x: tb.grad(lambda y: y * y)(x),
        lambda x: tb.hvp(lambda y: y * y, x, 1.0),
        lambda x: tb.jvp(lambda y: y * y, x, x)[1],
        lambda x: (x * x).sum().backward() if hasattr(x, "sum") else (x * x).backward(),
    ],
)
def test_derivatives_inside_are_refused(inner, x):
    refused(lambda x: inner(x) * x, x, error=(TypeError, ValueError, RuntimeError, AttributeError))


def test_backward_inside_of_leaves_that_are_reached_is_refused():
    w = Tensor([1.0, 2.0])

    def f(x):
        (w * w).sum().backward()
        return x.sum()

    refused(f, ONES, match="backward")
    assert w.grad is None


# --- other recordings, and afterwards -----------------------------------------------------------


def leaked(x=2.0, f=lambda x: x):
    kept = []
    tb.compile(lambda x: kept.append(f(x)) or x)(x)
    return kept[0]


def test_a_quantity_is_of_no_use_after_its_recording():
    for use in (lambda x: x * 2.0, lambda x: x > 0.0, tb.exp, lambda x: x.detach()):
        with pytest.raises(RuntimeError, match="ended"):
            use(leaked())
    with pytest.raises(RuntimeError, match="ended"):
        leaked(ONES)[0]


def test_a_condition_has_no_truth_after_its_recording():
    with pytest.raises(RuntimeError, match="ended"):
        bool(leaked(f=lambda x: x > 0.0))


@pytest.mark.parametrize("x", [2.0, ONES], ids=["number", "array"])
def test_a_quantity_is_no_argument_after_its_recording(x):
    with pytest.raises((RuntimeError, TypeError)):
        tb.compile(lambda x: x * x)(leaked(x))


def test_a_quantity_of_one_recording_is_refused_in_another():
    outer = leaked()
    refused(lambda x: x * outer, 1.0, match="another")
    refused(lambda x: x[outer], ONES, error=(RuntimeError, TypeError, IndexError))


def test_a_quantity_is_of_no_use_after_its_function_raised():
    kept = []

    def f(x):
        kept.append(x)
        raise KeyError("user's")

    with pytest.raises(KeyError):
        tb.compile(f)(2.0)
    with pytest.raises(RuntimeError, match="ended"):
        kept[0] * 2.0


@pytest.mark.parametrize("x", [2.0, np.array([2.0])], ids=["number", "array"])
@pytest.mark.parametrize("first", [True, False], ids=["new", "known"])
def test_a_compiled_function_inside_of_another_is_recorded_or_refused(x, first):
    inner = tb.compile(lambda x: x * x)
    if not first:
        inner(x)
    outer = tb.compile(lambda x: inner(x) + x)
    for k in (0.0, 1.0, 5.0):
        try:
            got = outer(x + k)
        except (TypeError, ValueError, RuntimeError):
            return
        assert np.array_equal(got, (x + k) ** 2 + (x + k))


def test_a_compiled_function_inside_of_a_leaf_that_is_reached():
    w = Tensor([2.0])
    inner = tb.compile(lambda w: w * w)
    outer = tb.compile(lambda x: x * inner(w))
    try:
        outer(np.ones(1))
    except (TypeError, ValueError, RuntimeError):
        return
    w.data[...] = 3.0
    assert outer(np.ones(1)) == 9.0


# --- state --------------------------------------------------------------------------------------


class Counter(nn.Module):
    """A Module with state: it keeps what it computed."""

    def __init__(self):
        self.w = Tensor([2.0])
        self.h = np.zeros(1)

    def forward(self, x):
        self.h = self.w * x + self.h
        return self.h


def test_a_module_that_keeps_state_is_refused_as_an_argument():
    refused(lambda m, x: m(x), Counter(), np.ones(1), match="keeps a computed quantity")


def test_a_generator_function_is_refused():
    def f(x):
        yield x

    refused(f, 1.0, match="result of f")


def test_a_generator_inside_is_run_through():
    def parts(x):
        for k in range(3):
            yield x * float(k)

    assert tb.compile(lambda x: sum(parts(x), x))(2.0) == 8.0


@pytest.mark.parametrize("result", [1.0, None, "text", np.ones(2), [2.0]], ids=repr)
def test_a_result_without_a_history_is_refused(result):
    refused(lambda x: result, 1.0, match="result", error=TypeError)


def test_a_condition_is_no_result():
    refused(lambda x: x > 0.0, 1.0, error=TypeError)


MIXED = {
    "operator": lambda x, v: x * v,
    "reflected": lambda x, v: v * x,
    "function": lambda x, v: tb.multiply(x, v),
    "three": lambda x, v: tb.clip(x, v, 3.0),
    "condition": lambda x, v: tb.where(x > 1.5, v, x),
    "comparison": lambda x, v: tb.where(x < v, v * v, x),
}


@pytest.mark.parametrize("f", MIXED.values(), ids=list(MIXED))
@pytest.mark.parametrize("closed", [False, True], ids=["argument", "from outside"])
def test_a_number_meets_an_array_of_values_as_without_recording(f, closed):
    given = tb.values([1.0, 2.5])

    def g(x, v):
        return tb.sum(f(x, given if closed else v))

    step = tb.compile(g, argnums=(0, 1))
    for number in (2.0, 1.75):
        x, v = Value(number), tb.values([0.5, 4.0])
        (got, of), (expected, want) = (h(x, v) for h in (
            step.value_and_grad, tb.value_and_grad(g, (0, 1))
        ))  # fmt: skip
        assert got == expected
        np.testing.assert_array_equal(of[0], want[0])
        np.testing.assert_array_equal(of[1], want[1])


def test_an_interrupt_leaves_no_recording_behind():
    pytest.importorskip("ctypes", reason="raises signals through it")
    import signals

    def work():
        with recording_by(Recorder("scalar")):
            pass

    def interrupted(at):
        signals.run(work, at)
        return current_state()

    _, count = signals.run(work)
    for at in range(1, count + 1):
        assert copy_context().run(interrupted, at) is ROOT, at
