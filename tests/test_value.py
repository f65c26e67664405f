"""`Value`: its operators, what it refuses, its data and gradient, copies, and its size."""

import copy
import gc
import math
import operator
import pickle
import tracemalloc
import weakref
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tinygrad_bp import no_grad, rules, scope, where
from tinygrad_bp.value import Value

OPERATORS = {
    "+": (operator.add, lambda x, y: (1.0, 1.0)),
    "-": (operator.sub, lambda x, y: (1.0, -1.0)),
    "*": (operator.mul, lambda x, y: (y, x)),
    "/": (operator.truediv, lambda x, y: (1.0 / y, -x / (y * y))),
    "**": (operator.pow, lambda x, y: (y * x ** (y - 1.0), x**y * math.log(x))),
}
NAMES = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide", "**": "power"}
every_operator = pytest.mark.parametrize("symbol", OPERATORS)
COMPARISONS = [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]
NUMBERS = [
    3, 3.0, Fraction(3), np.float64(3), np.float32(3), np.float16(3), np.longdouble(3),
    np.int64(3), np.int8(3), np.uint8(3),
]  # fmt: skip
BAD = [
    True, "1", None, 1j, [1.0], (1.0,), {1.0}, {}, object(), Decimal(1), b"1", math.sin,
    np.bool_(True), np.complex128(1), np.array(1.0), np.array([1.0]), np.array([1.0, 2.0]),
    np.array([1, 2]), np.str_("1"), np.datetime64(1, "s"),
]  # fmt: skip
kind = lambda x: f"{type(x).__name__}{getattr(x, 'shape', '')}"  # noqa: E731
near = lambda *expected: pytest.approx(list(expected), rel=1e-14)  # noqa: E731


# --- operators ----------------------------------------------------------------------------------


@every_operator
@given(x=st.floats(0.1, 4.0), y=st.floats(0.1, 4.0))
def test_operator(symbol, x, y):
    operate, derivatives = OPERATORS[symbol]
    dx, dy = derivatives(x, y)
    a, b = Value(x), Value(y)
    c = operate(a, b)
    c.backward()
    # a few roundings, and of x**(y - 1) those of y - 1, times log(x)
    assert [c.data, a.grad, b.grad] == near(operate(x, y), dx, dy)
    a, b = Value(x), Value(y)
    (left := operate(a, y)).backward()
    (right := operate(x, b)).backward()
    assert [left.data, a.grad, right.data, b.grad] == near(operate(x, y), dx, operate(x, y), dy)


@every_operator
@pytest.mark.parametrize("number", NUMBERS, ids=kind)
def test_operator_with_a_number(symbol, number):
    operate, derivatives = OPERATORS[symbol]
    a = Value(2.0)
    left, right = operate(a, number), operate(number, a)
    for result, expected in [(left, operate(2.0, 3.0)), (right, operate(3.0, 2.0))]:
        assert isinstance(result, Value)
        assert type(result.data) is float
        assert result.data == expected
    left.backward()
    assert a.grad == pytest.approx(derivatives(2.0, 3.0)[0], rel=1e-15)
    a.zero_grad()
    right.backward()
    assert a.grad == pytest.approx(derivatives(3.0, 2.0)[1], rel=1e-15)


@every_operator
@pytest.mark.parametrize("bad", BAD, ids=kind)
def test_operator_refuses(symbol, bad):
    operate = OPERATORS[symbol][0]
    with pytest.raises(TypeError, match=f"{NAMES[symbol]}: expected a real number, got"):
        operate(Value(2.0), bad)
    with pytest.raises(TypeError):
        operate(bad, Value(2.0))


def test_durations_are_not_numbers():
    """numpy counts its durations among the integers."""
    with pytest.raises(TypeError, match="expected a real number, got timedelta64"):
        Value(np.timedelta64(1, "s"))
    with pytest.raises(TypeError, match="expected a real number, got timedelta64"):
        Value(1.0) + np.timedelta64(1, "s")


@pytest.mark.parametrize("bad", BAD, ids=kind)
def test_other_ways_in_refuse(bad):
    a = Value(2.0)
    attempts = [
        lambda: Value(bad),
        lambda: setattr(a, "data", bad),
        lambda: a.backward(bad) if bad is not None else Value(bad),
        lambda: rules.maximum(a, bad),
        lambda: rules.maximum(bad, a),
        lambda: rules.clip(a, bad, 1.0),
        lambda: rules.where(True, a, bad),
        lambda: setattr(a, "grad", bad) if bad is not None else Value(bad),
    ]
    for attempt in attempts:
        with pytest.raises(TypeError, match="expected a real number, got"):
            attempt()
    assert (a.data, a.grad) == (2.0, None)


@pytest.mark.parametrize("compare", COMPARISONS[:4])
@pytest.mark.parametrize("bad", [x for x in BAD if x is not True], ids=kind)
def test_order_refuses(compare, bad):
    with pytest.raises(TypeError, match="expected a real number, got"):
        compare(Value(2.0), bad)


def test_order_is_refused_in_its_own_name():
    with pytest.raises(TypeError) as error:
        assert Value(2.0) < "3"
    assert "subtract" not in str(error.value)


def test_errors_say_what_to_do():
    with pytest.raises(TypeError, match=r"got ndarray; for arrays use tb\.Tensor"):
        Value(2.0) + np.array([1.0])
    with pytest.raises(TypeError, match=r"got list; for arrays use tb\.Tensor"):
        Value([1.0])


@pytest.mark.parametrize("array", [np.array(3.0), np.array([1.0, 2.0]), np.ones((2, 2))], ids=kind)
def test_arrays_are_never_taken_apart(array):
    a = Value(2.0)
    for operate in [f for f, _ in OPERATORS.values()] + [operator.matmul]:
        for operands in [(a, array), (array, a)]:
            with pytest.raises(TypeError):
                operate(*operands)
    with pytest.raises(TypeError):
        array += a
    for function in (np.add, np.maximum, np.matmul):
        with pytest.raises(TypeError):
            function(array, a)
        with pytest.raises(TypeError):
            function(a, array)


def test_unary_operators():
    a = Value(-2.0)
    (-a).backward()
    abs(a).backward()
    assert +a is a
    assert ((-a).data, abs(a).data, a.grad) == (2.0, 2.0, -2.0)


def test_sum_and_repeated_assignment():
    values = [Value(1.0), Value(2.0)]
    total = sum(values)
    total += values[0]
    total *= 3
    total.backward()
    assert (total.data, [v.grad for v in values]) == (12.0, [6.0, 3.0])


def test_methods_are_the_rules():
    for name in ("exp", "log", "sqrt", "tanh", "sigmoid", "relu"):
        a, b = Value(0.7), Value(0.7)
        x, y = getattr(a, name)(), getattr(rules, name)(b)
        x.backward()
        y.backward()
        assert (x.data, a.grad) == (y.data, b.grad)
        assert x.rule is y.rule


@pytest.mark.parametrize("operation", [operator.floordiv, operator.mod, divmod, operator.and_])
def test_operations_without_a_rule_raise(operation):
    for operands in [(Value(7.0), 2.0), (7.0, Value(2.0)), (Value(7.0), Value(2.0))]:
        with pytest.raises(TypeError):
            operation(*operands)


def test_edges_do_not_raise():
    zero = Value(0.0)
    assert (1.0 / zero).data == math.inf
    assert math.isnan((zero / 0).data)
    assert (zero**-1).data == math.inf
    assert math.isnan((Value(-8.0) ** (1 / 3)).data)
    assert (2.0 ** Value(5000.0)).data == math.inf


# --- comparison and identity --------------------------------------------------------------------


@pytest.mark.parametrize("compare", COMPARISONS)
@pytest.mark.parametrize(("x", "y"), [(1.0, 2.0), (2.0, 2.0), (2.0, 1.0), (math.nan, 1.0)])
def test_comparisons_are_by_data(compare, x, y):
    expected = compare(x, y)
    for operands in [(Value(x), Value(y)), (Value(x), y), (x, Value(y)), (np.float64(x), Value(y))]:
        assert compare(*operands) == expected


@pytest.mark.parametrize("other", [None, "1", [1.0], object()])
def test_values_are_not_equal_to_other_things(other):
    assert Value(1.0) != other
    assert (Value(1.0) == other) is False


def test_equal_leaves_are_two_leaves():
    a, b = Value(1.0), Value(1.0)
    assert a == b
    assert hash(a) != hash(b)
    assert len({a, b}) == 2
    assert {a: "a", b: "b"}[a] == "a"
    (a * b + b).backward()
    assert (a.grad, b.grad) == (1.0, 2.0)


def test_truth_is_of_the_data():
    assert Value(0.1)
    assert Value(math.nan)
    assert not Value(0.0)
    assert not Value(-0.0)


def test_conversions():
    a = Value(2.5)
    assert float(a) == a.item() == 2.5
    assert [type(x) for x in (float(a), a.item(), a.data)] == [float] * 3


@given(st.one_of(st.floats(), st.integers(-(2**53), 2**53)))
def test_data_is_a_float(x):
    a = Value(x)
    assert type(a.data) is float
    assert a.data == x or x != x


# --- data and grad ------------------------------------------------------------------------------


def test_data_of_a_leaf_can_be_set():
    a = Value(2.0)
    a.data = np.float32(3)
    assert (a.data, type(a.data), (a * a).data) == (3.0, float, 9.0)
    c = Value(2.0, requires_grad=False)
    c.data = 5
    assert c.data == 5.0


def test_data_of_a_result_cannot_be_set():
    for result in (Value(2.0) * 3.0, Value(2.0).tanh(), rules.clip(Value(2.0), 0.0, 1.0)):
        before = result.data
        with pytest.raises(ValueError, match=rf"computed by '{result.rule.name}'"):
            result.data = 1.0
        assert result.data == before


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: a * b,
        lambda a, b: a / b,
        lambda a, b: a**b,
        lambda a, b: rules.exp(a) * rules.tanh(b),
        lambda a, b: rules.maximum(a, b),
        lambda a, b: rules.clip(a, 0.0, b),
        lambda a, b: rules.where(a < b, a * a, b),
    ],
)
def test_writing_a_leaf_after_the_forward_pass_changes_no_gradient(function):
    a, b = Value(2.0), Value(3.0)
    function(a, b).backward()
    expected = a.grad, b.grad
    a.zero_grad()
    b.zero_grad()
    c = function(a, b)
    a.data, b.data = 50.0, -70.0
    c.backward()
    assert (a.grad, b.grad) == expected


def test_gradient_descent_in_place():
    a = Value(4.0)
    for _ in range(3):
        a.zero_grad()
        ((a - 1.0) ** 2).backward()
        a.data -= 0.25 * a.grad
    assert a.data == 1.0 + 3.0 / 8.0


def test_grad_is_none_until_it_is_asked_for():
    a = Value(2.0)
    b = a * 3.0
    assert (a.grad, b.grad) == (None, None)
    b.backward()
    assert (a.grad, b.grad) == (3.0, 1.0)
    for x in (a, b):
        x.zero_grad()
    assert (a.grad, b.grad) == (None, None)


def test_a_leaf_that_is_not_reached_has_no_grad():
    a, b = Value(2.0), Value(3.0)
    (a * 3.0 + b.detach()).backward()
    assert b.grad is None


def test_seed_of_a_sweep():
    a = Value(2.0)
    (a * 3.0).backward(np.float32(2))
    assert (a.grad, type(a.grad)) == (6.0, float)
    (a * 3.0).backward(gradient=0)
    assert a.grad == 6.0


def test_requires_grad():
    a, c = Value(2.0), Value(3.0, requires_grad=False)
    assert (a.requires_grad, c.requires_grad, a.is_leaf, c.is_leaf) == (True, False, True, True)
    d = c * c + 1.0
    assert (d.requires_grad, d.is_leaf, d.operands) == (False, True, ())
    e = a * c
    assert (e.requires_grad, e.is_leaf) == (True, False)
    e.backward()
    assert (a.grad, c.grad) == (3.0, None)


def test_detach():
    a = Value(2.0, "a")
    b = a * a
    c = b.detach()
    assert (c.data, c.requires_grad, c.grad, c.operands) == (4.0, False, None, ())
    assert a.detach().label == "a"
    (b * c).backward()
    assert a.grad == 16.0


# --- text, copies -------------------------------------------------------------------------------


def test_repr():
    a = Value(1.0 / 3.0, "w")
    b = a * 3.0
    assert repr(a) == "Value(0.333333, label='w')"
    assert repr(b) == "Value(1)"
    b.backward()
    assert repr(a) == "Value(0.333333, label='w', grad=3)"
    deep = a
    for _ in range(10_000):
        deep = deep + 1.0
    assert len(repr(deep)) < 40


COPIES = [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]


@pytest.mark.parametrize("duplicate", COPIES)
@pytest.mark.parametrize("requires_grad", [True, False])
def test_leaves_can_be_copied(duplicate, requires_grad):
    a = Value(2.0, "w", requires_grad=requires_grad)
    b = duplicate(a)
    assert b is not a
    assert (b.data, b.label, b.requires_grad, type(b)) == (2.0, "w", requires_grad, Value)
    b.data = 3.0
    assert a.data == 2.0


@pytest.mark.parametrize("duplicate", COPIES)
def test_a_leaf_s_copy_is_a_leaf_of_its_own(duplicate):
    a = Value(2.0)
    (a * a).backward()
    b = duplicate(a)
    (b * 3.0).backward()
    assert (a.grad, b.grad) == (4.0, 3.0)


@pytest.mark.parametrize("duplicate", COPIES)
def test_results_cannot_be_copied(duplicate):
    a = Value(2.0)
    for result in (a * a, a.tanh(), rules.clip(a, 0.0, 1.0), [a, a + 1.0]):
        if isinstance(result, list) and duplicate is copy.copy:
            continue
        with pytest.raises(TypeError, match=r"history .* \.detach\(\)"):
            duplicate(result)


@pytest.mark.parametrize("duplicate", COPIES)
def test_unrecorded_results_can_be_copied(duplicate):
    with no_grad():
        a = Value(2.0) * 3.0
    assert (duplicate(a).data, duplicate(a).requires_grad) == (6.0, False)


@pytest.mark.parametrize("duplicate", COPIES[1:])
def test_a_shared_leaf_stays_shared_in_a_copy(duplicate):
    a = Value(2.0)
    b, c = duplicate([a, a])
    assert b is c is not a


def test_copies_within_no_grad_and_scope():
    a = Value(2.0)
    with no_grad():
        b = copy.copy(a)
    with scope("layer"):
        c = copy.copy(a)
    assert b.requires_grad
    assert (b.scope.path, c.scope.path) == ("", "layer")


def test_no_dict():
    with pytest.raises(AttributeError):
        Value(1.0).grda = 2.0


# --- memory -------------------------------------------------------------------------------------


def neuron_sums(count):
    """A graph of about `count` nodes, as a layer of neurons makes them: products, sums, tanh."""
    weights = [Value(0.01 * i) for i in range(20)]
    inputs = [Value(0.3)] * 20
    total = inputs[0]
    for _ in range(count // 41):
        z = total
        for w, x in zip(weights, inputs, strict=True):
            z = z + w * x
        total = rules.tanh(z)
    return total


def test_memory_of_a_node():
    neuron_sums(100)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        root = neuron_sums(41_000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / 41_000 <= 300
    assert root.requires_grad


def test_a_graph_is_freed_at_once():
    gc.collect()
    gc.disable()
    try:
        a = Value(0.5)
        b = rules.clip(a * a, -1.0, 1.0)
        c = rules.where(b > 0.0, b + a, a)
        nodes = [weakref.ref(node) for node in (b, c)]
        c.backward()
        del b, c
        assert [node() for node in nodes] == [None, None]
        assert a.grad == 2.0
        leaf = weakref.ref(a)
        del a
        assert leaf() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("condition", [-1, -2])
def test_a_comparison_turned_by_a_tilde_is_refused(condition):
    """Python's ~True is -2, and ~False is -1: both count as true."""
    with pytest.raises(ValueError, match=r"condition: got -[12], which is ~ of"):
        where(condition, Value(1.0), Value(2.0))
