"""`enable_grad`, blocks as decorators, and observers: who looks on, in what order, and where."""

import asyncio
import threading
from contextlib import ExitStack

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value, enable_grad, no_grad, scope
from tinygrad_bp.recording import (
    ROOT,
    Observer,
    _Mode,
    current_state,
    is_grad_enabled,
    observers_of,
)


def made_here():
    return Value(2.0) * 3.0


# --- enable_grad --------------------------------------------------------------------------------


@pytest.mark.parametrize("leaf", [Value(2.0), Tensor([2.0, 3.0]), tb.values([2.0, 3.0])])
def test_operations_are_recorded_again(leaf):
    with no_grad():
        assert not (leaf * 2.0).requires_grad
        with enable_grad():
            assert is_grad_enabled()
            y = leaf * 2.0
        assert not is_grad_enabled()
        assert not (leaf * 2.0).requires_grad
    assert y.requires_grad
    y.backward(np.ones(2)) if y.data is not None and np.ndim(y.data) else y.backward()
    np.testing.assert_array_equal(leaf.grad, np.full(np.shape(leaf.data), 2.0))


def test_blocks_nest():
    with no_grad(), enable_grad(), no_grad():
        assert not is_grad_enabled()
        with enable_grad(), enable_grad():
            assert is_grad_enabled()
        assert not is_grad_enabled()
    assert is_grad_enabled()
    assert current_state() is ROOT


def test_without_no_grad_it_does_nothing():
    with scope("layer"), enable_grad():
        assert made_here().scope.path == "layer"
        with scope("inner"):
            assert made_here().scope.path == "layer/inner"
    assert current_state() is ROOT


def test_scopes_are_the_same_after_it_and_nest_within_it():
    with scope("layer"):
        with no_grad():
            with enable_grad(), scope("inner"):
                assert made_here().scope.path == "inner"
            assert not is_grad_enabled()
        assert made_here().scope.path == "layer"
    assert current_state() is ROOT


def test_constants_stay_constants():
    with enable_grad():
        assert not (Value(2.0, requires_grad=False) * 3.0).requires_grad


def test_state_is_put_back_after_an_error():
    with no_grad():
        with pytest.raises(KeyError), enable_grad():
            raise KeyError
        assert not is_grad_enabled()


def test_a_block_cannot_be_entered_twice_at_once():
    block = enable_grad()
    with block, pytest.raises(RuntimeError, match=r"enable_grad\(\) block is entered already"):
        block.__enter__()
    with block:
        pass
    assert current_state() is ROOT


def test_blocks_closed_out_of_order_are_an_error():
    with ExitStack() as stack:
        outer, inner = no_grad(), enable_grad()
        stack.enter_context(outer)
        inner.__enter__()
        with pytest.raises(RuntimeError, match="out of order"):
            outer.__exit__(None, None, None)
        inner.__exit__(None, None, None)
        assert current_state() is ROOT
        stack.pop_all()


def test_gradients_are_made_under_no_grad():
    with no_grad():
        assert tb.grad(lambda x: x * x)(3.0) == 6.0
        assert tb.grad(tb.grad(lambda x: x * x * x))(3.0) == 18.0
        assert not is_grad_enabled()


# --- decorators ---------------------------------------------------------------------------------


def test_decorated_function_records():
    @enable_grad()
    def f(x, *, by):
        """Doc."""
        return x * by

    assert (f.__name__, f.__doc__) == ("f", "Doc.")
    with no_grad():
        assert f(Value(2.0), by=3.0).requires_grad
        assert not is_grad_enabled()


def test_decorators_compose():
    @no_grad()
    @enable_grad()
    def inside():
        return is_grad_enabled()

    @enable_grad()
    @no_grad()
    def outside():
        return is_grad_enabled()

    assert (inside(), outside()) == (True, False)


@pytest.mark.parametrize("kind", [no_grad, enable_grad])
def test_decorated_function_may_call_itself_and_fail(kind):
    @kind()
    def f(depth):
        if depth:
            return f(depth - 1)
        raise KeyError

    with pytest.raises(KeyError):
        f(3)
    assert current_state() is ROOT


@pytest.mark.parametrize("kind", [no_grad, enable_grad])
def test_a_block_that_decorates_can_be_entered_as_well(kind):
    block = kind()

    @block
    def f():
        return is_grad_enabled()

    with block:
        assert f() == (kind is enable_grad)

        @block
        def g():
            return is_grad_enabled()

        assert g() == (kind is enable_grad)
    assert f() == g() == (kind is enable_grad)
    assert current_state() is ROOT


def test_decorated_methods_and_coroutines():
    class Model:
        @enable_grad()
        def run(self, x):
            return x * 2.0

        @enable_grad()
        async def wait(self, x):
            await asyncio.sleep(0)
            return x * 2.0

    with no_grad():
        assert Model().run(Value(1.0)).requires_grad
        assert asyncio.run(Model().wait(Value(1.0))).requires_grad
        assert not is_grad_enabled()


@pytest.mark.parametrize("kind", [no_grad, enable_grad, tb.detect_anomaly])
def test_generator_functions_are_refused(kind):
    def steps():
        yield

    async def async_steps():
        yield

    for function in (steps, async_steps):
        with pytest.raises(TypeError, match=f"{kind.__name__}.. cannot decorate a generator"):
            kind()(function)


# --- generators ---------------------------------------------------------------------------------


def test_block_in_a_generator_that_is_suspended_is_an_error():
    def steps():
        with enable_grad():
            yield is_grad_enabled()
            yield made_here().requires_grad

    with no_grad():
        generator = steps()
        assert next(generator)
        with pytest.raises(RuntimeError, match="the generator 'steps' is suspended"):
            made_here()
        with pytest.raises(RuntimeError, match="the generator 'steps' is suspended"):
            tb.sum(Tensor([1.0]))
        assert next(generator)
        generator.close()
        assert not is_grad_enabled()


def test_block_in_a_generator_that_closes_it_before_yielding():
    def steps():
        for _ in range(2):
            with enable_grad():
                y = made_here()
            yield y

    with no_grad():
        assert [y.requires_grad for y in steps()] == [True, True]
        assert not is_grad_enabled()


@pytest.mark.parametrize("kind", [tb.count_operations, tb.detect_anomaly])
def test_observers_in_a_generator_that_is_suspended_are_an_error(kind):
    def steps():
        with kind():
            yield

    generator = steps()
    next(generator)
    with pytest.raises(RuntimeError, match="suspended"):
        made_here()
    generator.close()
    assert made_here().requires_grad


# --- observers ----------------------------------------------------------------------------------


class Witness(_Mode, Observer):
    """An observer that writes down what it is told."""

    def __init__(self, log, name=""):
        self.log, self.name = log, name

    def _observers(self, outer):
        return (*outer, self)

    def operation(self, rule, operands, data, result, parameters, options):
        self.log.append((self.name, "operation", rule.name))

    def recorded(self, node):
        self.log.append((self.name, "recorded", node.rule.name))

    def swept(self, step, *more):
        self.log.append((self.name, "swept", step.node.rule and step.node.rule.name))


def test_an_observer_is_told_of_operations_nodes_and_visits_in_order():
    log = []
    x = Value(2.0)
    with Witness(log):
        y = tb.exp(x) * 2.0
        y.backward()
    assert [entry[1:] for entry in log] == [
        ("operation", "exp"),
        ("recorded", "exp"),
        ("operation", "multiply"),
        ("recorded", "multiply"),
        ("swept", "multiply"),
        ("swept", "exp"),
        ("swept", None),
    ]


@pytest.mark.parametrize(
    "operands",
    [
        lambda: (Value(0.5), Value(2.0)),
        lambda: (Value(0.5), 2.0),
        lambda: (0.5, Value(2.0)),
        lambda: (Value(0.5), Value(2.0, requires_grad=False)),
        lambda: (Tensor(0.5), Tensor([2.0, 3.0])),
        lambda: (Tensor(0.5), 2.0),
        lambda: (np.array([0.5]), Tensor([2.0, 3.0])),
    ],
)
@pytest.mark.parametrize(
    "name", ["add", "subtract", "multiply", "divide", "power", "maximum", "logaddexp"]
)
def test_an_observer_is_told_once_whatever_the_operands(name, operands):
    log = []
    with Witness(log):
        tb.RULES[name](*operands())
    assert [entry[1:] for entry in log] == [("operation", name), ("recorded", name)]


def test_what_is_not_recorded_is_observed_without_a_node():
    log = []
    with Witness(log), no_grad():
        tb.exp(Value(1.0))
        tb.sum(Tensor([1.0]))
    with no_grad(), Witness(log):
        tb.exp(Tensor(1.0))
    with Witness(log):
        tb.exp(Value(1.0, requires_grad=False))
        tb.sum(Tensor([1.0], requires_grad=False))
    assert [entry[1] for entry in log] == ["operation"] * 5


def test_observers_of_nested_blocks_are_told_from_the_outermost_inwards():
    log = []
    x = Value(2.0)
    with Witness(log, "a"):
        with no_grad(), Witness(log, "b"), enable_grad(), scope("s"):
            y = tb.exp(x)
            assert y.scope.path == "s"
        tb.sin(x)
    tb.cos(x)
    assert log == [
        ("a", "operation", "exp"),
        ("b", "operation", "exp"),
        ("a", "recorded", "exp"),
        ("b", "recorded", "exp"),
        ("a", "operation", "sin"),
        ("a", "recorded", "sin"),
    ]
    assert observers_of(current_state()) == ()


def test_every_element_of_an_array_of_values_is_observed():
    log = []
    with Witness(log):
        tb.exp(tb.values([1.0, 2.0])).sum()
    assert [entry[2] for entry in log if entry[1] == "recorded"] == ["exp", "exp", "add"]


def test_an_observer_of_this_thread_is_not_told_of_others():
    log = []
    with Witness(log):
        thread = threading.Thread(target=made_here)
        thread.start()
        thread.join()
    assert log == []


def test_an_observer_of_a_task_is_not_told_of_others():
    log = []

    async def watched():
        with Witness(log):
            await asyncio.sleep(0)
            tb.exp(Value(1.0))
            await asyncio.sleep(0)

    async def other():
        await asyncio.sleep(0)
        tb.sin(Value(1.0))
        await asyncio.sleep(0)

    async def both():
        await asyncio.gather(watched(), other())

    asyncio.run(both())
    assert {entry[2] for entry in log} == {"exp"}


def test_an_error_of_an_observer_leaves_no_gradients():
    class Objects(Witness):
        def swept(self, step, *more):
            super().swept(step)
            if step.node.rule is None:
                raise KeyError("mine")

    x = Value(2.0)
    y = tb.exp(x)
    with pytest.raises(KeyError, match="mine"), Objects([]):
        y.backward()
    assert x.grad is None
    assert y.grad is None
    assert current_state() is ROOT
