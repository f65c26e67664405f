"""Hooks on the gradients of nodes, against torch's, and against what they promise."""

import gc
import math
import weakref

import numpy as np
import pytest
from oracles import torch

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value, no_grad
from tinygrad_bp.graph import Node


def doubled(g):
    return g * 2.0


def recorder(calls, name=None):
    """A hook that changes nothing and writes down what it is shown."""

    def hook(g):
        calls.append(g if name is None else (name, g))

    return hook


# --- when, and with what ------------------------------------------------------------------------


def test_hook_sees_the_complete_gradient_once():
    a = Value(2.0)
    b = a * a
    seen = []
    b.register_hook(recorder(seen))
    (b * 3.0 + b * b + tb.sin(b)).backward()  # 3 + 2b + cos b at b = 4
    assert seen == [pytest.approx(3.0 + 8.0 + math.cos(4.0), rel=1e-15)]


def test_hook_on_an_array_sees_the_complete_gradient_once():
    x = Tensor([[1.0, 2.0], [3.0, 4.0]])
    y = x * 2.0
    seen = []
    y.register_hook(recorder(seen))
    (y.sum() + (y * y).sum() + (y @ y).sum()).backward()
    t = torch.tensor([[2.0, 4.0], [6.0, 8.0]], dtype=torch.float64, requires_grad=True)
    (t.sum() + (t * t).sum() + (t @ t).sum()).backward()
    assert len(seen) == 1
    np.testing.assert_allclose(seen[0], t.grad.numpy(), rtol=1e-15)
    np.testing.assert_allclose(x.grad, 2.0 * t.grad.numpy(), rtol=1e-15)


@pytest.mark.parametrize("number", [math.nan, math.inf, 0.0])
def test_hook_on_a_node_of_any_number(number):
    x = Value(number)
    y = x * 2.0
    seen = []
    x.register_hook(recorder(seen))
    y.register_hook(recorder(seen))
    y.backward()
    assert seen == [1.0, 2.0]


@pytest.mark.parametrize("data", [[1.0, 2.0], [math.nan], [], 5.0])
def test_hook_on_a_tensor_of_any_content(data):
    x = Tensor(data)
    seen = []
    x.register_hook(recorder(seen))
    (x * 3.0).sum().backward()
    assert len(seen) == 1
    np.testing.assert_array_equal(seen[0], np.full(np.shape(data), 3.0))


def test_nodes_of_equal_numbers_are_not_confused():
    x, y = Value(1.0), Value(1.0)
    seen = []
    x.register_hook(recorder(seen))
    (x * 2.0 + y * 3.0).backward()
    assert seen == [2.0]
    assert y.grad == 3.0


def test_hooks_of_a_chain_run_from_the_root_to_the_leaves():
    x = Value(0.5)
    y = tb.sin(x)
    z = tb.exp(y)
    calls = []
    for name, node in [("x", x), ("y", y), ("z", z)]:
        node.register_hook(recorder(calls, name))
    z.backward()
    e = math.exp(math.sin(0.5))
    assert [name for name, _ in calls] == ["z", "y", "x"]
    assert [g for _, g in calls] == pytest.approx([1.0, e, e * math.cos(0.5)], rel=1e-15)


def test_hook_of_the_root_sees_the_seed():
    x = Value(3.0)
    seen = []
    x.register_hook(recorder(seen))
    x.backward()
    x.backward(5.0)
    assert seen == [1.0, 5.0]
    assert x.grad == 6.0


def test_hook_is_called_once_per_sweep():
    x = Tensor([1.0, 2.0])
    y = x * x
    root = y.sum()
    seen = []
    y.register_hook(recorder(seen))
    root.backward()
    root.backward()
    assert [g.tolist() for g in seen] == [[1.0, 1.0], [1.0, 1.0]]
    assert x.grad.tolist() == [4.0, 8.0]


def test_hook_of_a_leaf_sees_this_sweep_alone_and_not_what_was_accumulated():
    x = Value(3.0)
    seen = []
    x.register_hook(recorder(seen))
    for _ in range(2):
        (x * x).backward()
    assert seen == [6.0, 6.0]
    assert x.grad == 12.0


def test_hook_of_a_node_that_the_sweep_does_not_reach_is_not_called():
    x = Value(3.0)
    aside = x * 2.0
    seen = []
    aside.register_hook(recorder(seen))
    (x * x).backward()
    assert seen == []


def test_nodes_of_three_operands_have_hooks():
    x, low, high = Value(5.0), Value(-1.0), Value(1.0)
    y = tb.clip(x * 1.0, low, high)
    seen = []
    for node in (y, low, high):
        node.register_hook(recorder(seen))
    y.backward()
    assert sorted(seen) == [0.0, 1.0, 1.0]


def test_elements_of_arrays_of_values_have_hooks():
    x = tb.values([1.0, 2.0])
    x[1].register_hook(lambda g: g * 10.0)
    (x * x).sum().backward()
    assert x.grad.tolist() == [2.0, 40.0]


# --- replacement --------------------------------------------------------------------------------


def test_replacement_is_the_nodes_own_gradient_and_reaches_its_ancestors():
    x = Value(3.0)
    y = x * x
    z = y * 5.0
    y.register_hook(lambda g: g + 1.0)
    z.backward()
    assert (z.grad, y.grad, x.grad) == (1.0, 6.0, 36.0)


def test_replacement_for_arrays_as_torch_has_it():
    data = np.array([[0.5, -1.0, 2.0]])

    def halved_and_clipped(g):
        return 0.5 * g.clip(-0.3, 0.3)

    x = Tensor(data)
    y = tb.tanh(x)
    y.register_hook(halved_and_clipped)
    x.register_hook(doubled)
    z = (y * y).sum()
    z.backward()
    t = torch.tensor(data, requires_grad=True)
    u = torch.tanh(t)
    u.retain_grad()
    u.register_hook(halved_and_clipped)
    t.register_hook(doubled)
    (u * u).sum().backward()
    np.testing.assert_allclose(x.grad, t.grad.numpy(), rtol=1e-14)
    np.testing.assert_allclose(y.grad, u.grad.numpy(), rtol=1e-14)


def test_hooks_of_one_node_run_in_order_each_on_what_the_last_one_gave():
    x = Value(1.0)
    x.register_hook(lambda g: g + 1.0)
    x.register_hook(lambda g: g * 10.0)
    x.register_hook(lambda g: None)
    x.register_hook(lambda g: g - 0.5)
    (x * 3.0).backward()
    assert x.grad == (3.0 + 1.0) * 10.0 - 0.5


def test_replacement_by_zero_is_a_replacement():
    x = Value(1.0)
    y = x * 3.0
    y.register_hook(lambda g: 0)
    (y * 2.0).backward()
    assert (y.grad, x.grad) == (0.0, 0.0)


def test_replacement_is_copied():
    mine = np.array([1.0, 2.0])
    x = Tensor([5.0, 6.0])
    x.register_hook(lambda g: mine)
    x.sum().backward()
    mine[:] = 9.0
    assert x.grad.tolist() == [1.0, 2.0]


def test_replacement_takes_the_dtype_of_the_node():
    x = Tensor(np.ones(3, np.float32))
    y = x * 2.0
    y.register_hook(lambda g: np.array([1, 2, 3]))
    y.sum().backward()
    assert x.grad.dtype == y.grad.dtype == np.float32
    assert x.grad.tolist() == [2.0, 4.0, 6.0]


def test_a_shared_hooked_leaf_is_replaced_once_after_the_sum():
    x = Value(1.0)
    x.register_hook(lambda g: min(g, 4.0))
    (x * 3.0 + x * 3.0).backward()
    assert x.grad == 4.0


# --- read-only ----------------------------------------------------------------------------------


def test_shown_arrays_are_read_only():
    x = Tensor([1.0, 2.0])
    y = x * x

    def writes(g):
        g[0] = 7.0

    y.register_hook(writes)
    with pytest.raises(ValueError, match="read-only"):
        y.sum().backward()
    assert x.grad is None
    assert y.grad is None


def test_shown_arrays_do_not_change_later():
    x = Tensor([1.0, 2.0])
    seen = []
    x.register_hook(recorder(seen))
    (x * x).sum().backward()
    x.grad[:] = 0.0
    (x * x).sum().backward()
    assert [g.tolist() for g in seen] == [[2.0, 4.0], [2.0, 4.0]]


# --- taking back --------------------------------------------------------------------------------


def test_removed_hook_is_not_called():
    x = Value(1.0)
    seen = []
    first = x.register_hook(recorder(seen, 1))
    x.register_hook(recorder(seen, 2))
    third = x.register_hook(recorder(seen, 3))
    first.remove()
    x.backward()
    first.remove()
    third.remove()
    x.backward()
    assert seen == [(2, 1.0), (3, 1.0), (2, 1.0)]


def test_removing_the_last_hook_twice_leaves_none():
    x = Tensor([1.0, 2.0])
    handle = x.register_hook(doubled)
    handle.remove()
    handle.remove()
    x.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


def test_one_function_registered_twice_runs_twice_and_is_removed_singly():
    x = Value(1.0)
    handle = x.register_hook(doubled)
    x.register_hook(doubled)
    x.backward()
    handle.remove()
    x.zero_grad()
    x.backward()
    assert x.grad == 2.0


def test_remove_after_the_node_is_gone():
    x = Value(1.0)
    handle = x.register_hook(doubled)
    del x
    handle.remove()


def test_hook_that_removes_itself_runs_once():
    x = Value(1.0)

    def once(g):
        handle.remove()
        return g * 5.0

    handle = x.register_hook(once)
    x.register_hook(lambda g: g + 1.0)
    x.backward()
    assert x.grad == 6.0
    x.zero_grad()
    x.backward()
    assert x.grad == 2.0


def test_hook_registered_on_the_same_node_in_a_hook_waits_for_the_next_sweep():
    x = Value(1.0)
    handles = []

    def another(g):
        if not handles:
            handles.append(x.register_hook(doubled))

    x.register_hook(another)
    x.backward()
    assert x.grad == 1.0
    x.zero_grad()
    x.backward()
    assert x.grad == 2.0


def test_hook_removed_in_a_hook_of_a_later_node_is_not_called():
    x = Value(2.0)
    y = x * x
    handle = x.register_hook(doubled)
    y.register_hook(lambda g: handle.remove())
    y.backward()
    assert x.grad == 4.0


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [None, 1.0, "hook", [doubled]])
def test_what_cannot_be_called_is_refused(bad):
    with pytest.raises(TypeError, match=f"hook: expected a function, got {type(bad).__name__}"):
        Value(1.0).register_hook(bad)


def constants():
    yield Value(1.0, requires_grad=False)
    yield Tensor([1.0, 2.0], requires_grad=False)
    yield (Value(1.0) * 2.0).detach()
    with no_grad():
        yield Tensor([1.0]) * 2.0


def test_constants_are_refused():
    for constant in [*constants()]:
        with pytest.raises(ValueError, match="requires no gradient"):
            constant.register_hook(doubled)


def test_quantities_of_forward_mode_are_refused():
    def f(x):
        (x * x).register_hook(doubled)
        return x

    with pytest.raises(ValueError, match="forward mode"):
        tb.jvp(f, 1.0, 1.0)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ([1.0], ValueError),
        (np.ones((2, 1)), ValueError),
        (np.ones(3), ValueError),
        (1.0, ValueError),
        ("g", TypeError),
        (True, TypeError),
        (np.array([1j, 0.0]), TypeError),
    ],
)
def test_replacement_that_does_not_fit_changes_no_gradient(bad, error):
    x = Tensor([1.0, 2.0])
    x.grad = [10.0, 20.0]
    y = x * x
    z = y * 3.0
    y.register_hook(lambda g: bad)
    with pytest.raises(error, match="gradient"):
        z.sum().backward()
    assert x.grad.tolist() == [10.0, 20.0]
    assert y.grad is None
    assert z.grad is None


@pytest.mark.parametrize("bad", ["g", None.__class__, [1.0], np.ones(2), True])
def test_replacement_of_a_value_must_be_a_number(bad):
    x = Value(1.0)
    y = x * x
    x.grad = 10.0
    y.register_hook(lambda g: bad)
    with pytest.raises(TypeError, match="gradient: expected a real number"):
        y.backward()
    assert (x.grad, y.grad) == (10.0, None)


def test_replacement_by_a_node_where_numbers_flow_is_refused():
    x = Tensor([1.0, 2.0])
    x.register_hook(lambda g: Tensor(g))
    with pytest.raises(TypeError, match="expected numbers, got a Tensor"):
        x.sum().backward()
    assert x.grad is None


def test_error_in_a_hook_changes_no_gradient():
    x = Value(1.0)
    y = x * x
    z = y * y
    z.backward()
    before = (x.grad, y.grad, z.grad)

    def fails(g):
        raise KeyError("mine")

    handle = x.register_hook(fails)
    with pytest.raises(KeyError, match="mine"):
        z.backward(2.0)
    assert (x.grad, y.grad, z.grad) == before
    handle.remove()
    z.backward()
    assert x.grad == 2.0 * before[0]


# --- every kind of sweep ------------------------------------------------------------------------


def test_sweep_shows_what_the_hook_gave():
    x = Tensor([1.0, 2.0])
    y = x * x
    seen = []
    y.register_hook(doubled)
    x.register_hook(recorder(seen))
    steps = {step.node: step for step in tb.sweep(y.sum())}
    assert steps[y].gradient.tolist() == [2.0, 2.0]
    assert [e.contribution.tolist() for e in steps[y].edges] == [[2.0, 4.0], [2.0, 4.0]]
    assert [g.tolist() for g in seen] == [[4.0, 8.0]]
    assert x.grad is None


def test_sweep_that_is_paused_meets_hooks_registered_meanwhile():
    # whether or not there were others when it began
    for others in ([], [Value(1.0)]):
        handles = [other.register_hook(doubled) for other in others]
        x = Value(2.0)
        y = x * 3.0
        steps = tb.sweep(y)
        next(steps)
        x.register_hook(doubled)
        assert next(steps).gradient == 6.0
        for handle in handles:
            handle.remove()


def test_leaves_only_calls_the_hooks():
    x = Tensor([1.0, 2.0])
    y = x * x
    y.register_hook(doubled)
    y.sum().backward(leaves_only=True)
    assert x.grad.tolist() == [4.0, 8.0]
    assert y.grad is None


def cubed_and_hooked(x):
    """x**3, the gradient of which is doubled on its way."""
    y = x * x * x
    y.register_hook(doubled)
    return y.sum() if isinstance(y, Tensor) else y


def test_grad_and_value_and_grad_call_hooks_made_in_the_function():
    assert tb.grad(cubed_and_hooked)(3.0) == 54.0
    value, gradient = tb.value_and_grad(cubed_and_hooked)(np.array([1.0, 2.0]))
    assert value == 9.0
    assert gradient.tolist() == [6.0, 24.0]


def test_vjp_and_jacobian_call_the_hooks():
    def f(x):
        y = x * x
        y.register_hook(doubled)
        return y * 1.0

    x = np.array([1.0, 3.0])
    _, pull = tb.vjp(f, x)
    assert pull(np.array([1.0, 10.0]))[0].tolist() == [4.0, 120.0]
    assert tb.jacobian(f, mode="reverse")(x).tolist() == [[4.0, 0.0], [0.0, 12.0]]


def test_second_derivatives_of_a_doubled_gradient_are_doubled():
    assert tb.grad(tb.grad(cubed_and_hooked))(3.0) == 2.0 * 6.0 * 3.0
    hessian = tb.hessian(cubed_and_hooked)(np.array([1.0, 2.0]))
    assert hessian.tolist() == [[12.0, 0.0], [0.0, 24.0]]


def test_second_derivatives_of_a_hooked_graph_are_torchs():
    def squashed(g):
        return g * g * g + g

    def f(x, m, total):
        y = m.tanh(x) * x
        y.register_hook(squashed)
        return total(y * y)

    data = np.array([0.3, -0.8, 1.4])
    got = tb.grad(lambda x: tb.grad(lambda x: f(x, tb, tb.sum))(x).sum())(data)
    t = torch.tensor(data, requires_grad=True)
    (first,) = torch.autograd.grad(f(t, torch, torch.sum), t, create_graph=True)
    (expected,) = torch.autograd.grad(first.sum(), t)
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-13)


@pytest.mark.parametrize("point", [3.0, np.array([3.0, -1.0])])
def test_hook_is_shown_nodes_where_a_graph_of_the_gradient_is_made(point):
    kinds = []

    def f(x):
        y = x * x
        y.register_hook(lambda g: kinds.append(type(g)))
        return y.sum() if isinstance(y, Tensor) else y

    gradient = tb.grad(f, create_graph=True)(point)
    assert isinstance(gradient, Node)
    assert issubclass(kinds[0], (Value, Tensor))
    kinds.clear()
    tb.grad(f)(point)
    assert kinds in ([float], [np.ndarray])


@pytest.mark.parametrize("point", [3.0, np.array([3.0, 5.0])])
def test_plain_numbers_in_the_place_of_nodes_are_constants(point):
    def f(x):
        y = x * x
        y.register_hook(lambda g: np.full(np.shape(point), 7.0) if np.ndim(point) else 7.0)
        return y.sum() if isinstance(y, Tensor) else y

    second = tb.grad(lambda x: tb.sum(tb.grad(f)(x)) if np.ndim(point) else tb.grad(f)(x))(point)
    np.testing.assert_array_equal(second, np.full(np.shape(point), 14.0))  # of 7 * 2x


@pytest.mark.parametrize("bad", [Value(2.0), Tensor([1.0, 2.0, 3.0])])
def test_node_of_another_shape_is_refused(bad):
    def f(x):
        y = x * x
        y.register_hook(lambda g: bad)
        return y.sum()

    with pytest.raises(ValueError, match="gradient: expected"):
        tb.grad(tb.grad(f, create_graph=True))(np.array([1.0, 2.0]))


def test_vjp_passes_the_hooks_of_tensors_that_are_closed_over():
    w = Tensor([2.0, 3.0])
    v = w * 5.0
    seen = []
    w.register_hook(recorder(seen))
    v.register_hook(recorder(seen))

    def f(x):
        y = x * v
        y.register_hook(doubled)
        return y.sum()

    _, pull = tb.vjp(f, np.array([1.0, 1.0]))
    assert pull(1.0)[0].tolist() == [20.0, 30.0]
    assert seen == []  # nobody asked for their gradient
    assert w.grad is None


def test_hook_on_an_argument_within_the_function():
    def f(x):
        x.register_hook(lambda g: g.clip(-1.0, 1.0))
        return (x * x).sum()

    assert tb.grad(f)(np.array([0.1, 5.0])).tolist() == [0.2, 1.0]


def test_hooks_under_the_eyes_of_observers():
    x = Tensor([1.0, 2.0])
    y = x * x
    y.register_hook(doubled)
    with tb.count_operations(), tb.detect_anomaly():
        y.sum().backward()
    assert x.grad.tolist() == [4.0, 8.0]


def test_nan_from_a_hook_is_found():
    x = Value(2.0)
    y = x * x
    y.register_hook(lambda g: math.nan)
    with tb.detect_anomaly(), pytest.raises(FloatingPointError, match="nan"):
        y.backward()
    assert x.grad is None


def test_hook_may_sweep_another_graph():
    x, other = Value(2.0), Value(5.0)
    other.register_hook(lambda g: g + 1.0)

    def sweeps(g):
        (other * other).backward(g)

    y = x * x
    y.register_hook(sweeps)
    (y * 3.0).backward()
    assert (other.grad, x.grad) == (31.0, 12.0)


# --- memory -------------------------------------------------------------------------------------


@pytest.fixture
def without_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("leaf", [lambda: Value(2.0), lambda: Tensor([1.0, 2.0])])
def test_nodes_with_hooks_are_freed_at_once(leaf):
    x = leaf()
    y = x * x
    hook = lambda g: g * 2.0  # noqa: E731
    handle = y.register_hook(hook)
    x.register_hook(doubled)
    (y if isinstance(x, Value) else y.sum()).backward()
    gone = [weakref.ref(x), weakref.ref(y), weakref.ref(hook)]
    del x, y, hook
    assert [r() for r in gone] == [None, None, None]
    handle.remove()


def test_hook_that_refers_to_its_own_node_is_collected_with_it():
    y = Value(2.0) * 3.0
    y.register_hook(lambda g, node=y: g / node.data)
    gone = weakref.ref(y)
    del y
    gc.collect()
    assert gone() is None


def test_relabelling_keeps_the_hooks():
    x = Value(2.0)
    x.register_hook(doubled)
    x.label = "x"
    x.backward()
    assert (x.grad, x.label) == (2.0, "x")
    x.label = ""
    x.backward()
    assert (x.grad, x.label) == (4.0, "")


def test_copies_have_no_hooks():
    import copy

    x = Value(2.0)
    x.register_hook(doubled)
    twin = copy.deepcopy(x)
    twin.backward()
    assert twin.grad == 1.0
    detached = (x * 1.0).detach()
    assert not detached.requires_grad
