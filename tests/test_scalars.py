"""Arrays of Values: what runs on Tensors runs element by element, to the same numbers."""

import copy
import itertools
import math
import operator
import pickle
import re

import numpy as np
import pytest
from test_array_rules import ALL, ROUNDINGS, derivatives, seed_for

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value, Values, values
from tinygrad_bp.array_rules import ARRAY_RULES
from tinygrad_bp.rules import RULES

nan, inf = math.nan, math.inf
EPS = np.finfo(np.float64).eps
A = np.array([[1.5, -2.0, 0.5], [3.0, 0.25, -1.0]])
BASIC = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))


def is_sound(x):
    """A Value, or an array of Values made of nothing else: never an accidental array of objects."""
    if isinstance(x, Value):
        return True
    return type(x) is Values and x.dtype == object and all(isinstance(v, Value) for v in x.flat)


def swept(result, g):
    """Back-propagate the gradient g of an array of Values (or of one Value)."""
    total = Value(0.0)
    for value, number in zip(np.ravel(np.asarray(result, object)), np.ravel(g), strict=True):
        total = total + value * float(number)
    total.backward()


def grads(x):
    return np.zeros(x.shape) if x.grad is None else x.grad


# --- making them --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [[1, 2], [[1.0, 2.0]], A, A.astype(np.float32), np.arange(3), [], np.ones((0, 2))],
)
def test_values_of_numbers(data):
    v = values(data)
    assert is_sound(v)
    assert v.shape == np.shape(data)
    np.testing.assert_array_equal(v.data, np.asarray(data, float))
    assert v.data.dtype == np.float64
    assert v.is_leaf
    assert v.requires_grad == (v.size > 0)
    assert v.grad is None


def test_every_element_is_a_leaf_of_its_own():
    v = values(np.zeros((2, 3)))
    assert len(set(map(id, v.flat))) == 6
    assert all(x.is_leaf and x.requires_grad for x in v.flat)
    assert not any(x.requires_grad for x in values(A, requires_grad=False).flat)


def test_labels():
    assert [x.label for x in values([1.0, 2.0], "w").flat] == ["w[0]", "w[1]"]
    assert values(A, "W")[1, 2].label == "W[1, 2]"
    assert values(3.0, "b").label == "b"
    assert values([1.0])[0].label == ""


@pytest.mark.parametrize(
    "bad", [True, [True], "a", ["a"], None, [None], 1j, np.ones(2, bool), {1: 2}, Tensor([1.0])]
)
def test_what_is_no_number_is_refused(bad):
    with pytest.raises(TypeError, match=r"values|Tensor"):
        values(bad)


def test_lists_of_values_keep_their_elements():
    a, b = Value(1.0), Value(2.0)
    v = values([[a, b], [b, a]])
    assert is_sound(v)
    assert v[0, 0] is v[1, 1] is a
    w = values([v[0], v[1]])
    assert is_sound(w)
    assert w.shape == (2, 2)
    assert w[0, 1] is b


def test_lists_of_values_and_numbers():
    """The numbers become constants, or the list is refused; they never stay bare in the array."""
    try:
        v = values([Value(1.0), 2.0])
    except TypeError:
        return
    assert is_sound(v)
    np.testing.assert_array_equal(v.data, [1.0, 2.0])


def test_ragged_lists_are_refused():
    for bad in ([[1.0, 2.0], [3.0]], [[Value(1.0), Value(2.0)], [Value(3.0)]]):
        with pytest.raises(ValueError, match=r"inhomogeneous|shape"):
            values(bad)


# --- the elementwise rules ----------------------------------------------------------------------


@every_rule
def test_every_rule_is_the_scalar_rule_on_each_element(rule):
    random = np.random.default_rng(0)
    arrays = [random.uniform(*d, (2, 3)) for d in rule.domain]
    operands = [values(x) for x in arrays]
    g = random.normal(size=(2, 3))
    result = rule(*operands)
    assert is_sound(result)
    swept(result, g)
    for place in np.ndindex(2, 3):
        leaves = [Value(float(x[place])) for x in arrays]
        z = rule(*leaves)
        z.backward(float(g[place]))
        assert result[place].data == z.data
        for operand, leaf in zip(operands, leaves, strict=True):
            assert operand[place].grad == leaf.grad


@every_rule
def test_every_rule_is_the_tensors(rule):
    random = np.random.default_rng(1)
    arrays = [
        random.uniform(*d, s) for d, s in zip(rule.domain, [(2, 1), (1, 3), (3,)], strict=False)
    ]
    operands, tensors = [values(x) for x in arrays], [Tensor(x) for x in arrays]
    result, expected = rule(*operands), rule(*tensors)
    g = seed_for(expected)
    assert is_sound(result)
    # 16 roundings, as in test_rules_on_arrays, and the sum over a broadcast axis of length 3
    np.testing.assert_allclose(result.data, expected.data, rtol=16 * EPS, atol=16 * EPS)
    swept(result, g)
    expected.backward(g)
    for operand, tensor, partial in zip(operands, tensors, rule.partials, strict=True):
        if partial is not None:
            np.testing.assert_allclose(operand.grad, tensor.grad, rtol=48 * EPS, atol=48 * EPS)


@pytest.mark.parametrize("kind", [float, Value, np.array, np.float64, lambda x: [x, x]])
@pytest.mark.parametrize("rule", [r for r in RULES.values() if r.arity > 1], ids=lambda r: r.name)
def test_rules_of_mixed_operands(rule, kind):
    point = [low + 0.6 * (high - low) for low, high in rule.domain]
    for i, j in itertools.permutations(range(rule.arity), 2):
        operands = list(point)
        operands[i] = values([point[i]] * 2)
        operands[j] = kind(point[j])
        result = rule(*operands)
        assert is_sound(result)
        np.testing.assert_allclose(result.data, [rule(*point)] * 2, rtol=1e-15)


@pytest.mark.parametrize(
    "condition",
    [
        np.array([True, False, True]),
        [True, False, True],
        [1, 0, 1],
        np.array([1.0, 0.0, 2.0]),
        values([1.0, 0.0, 2.0]),
        values([1.0, 0.0, 2.0]) > 0.5,
    ],
    ids=["array", "list", "integers", "floats", "Values", "comparison"],
)
@pytest.mark.parametrize("kind", [values, Tensor])
def test_conditions_of_where(condition, kind):
    """The same conditions for Values as for Tensors."""
    if kind is Tensor and isinstance(condition, Values):
        condition = condition.data if condition.dtype == object else np.asarray(condition)
    x = kind([1.0, 2.0, 3.0])
    y = tb.where(condition, x, 0.0)
    np.testing.assert_array_equal(y.data, [1.0, 0.0, 3.0])
    y.sum().backward()
    np.testing.assert_array_equal(np.array([0.0 if g is None else g for g in x.grad]), [1, 0, 1])


@pytest.mark.parametrize("number", [True, False, np.True_, 1.0])
def test_conditions_of_one_number(number):
    result = tb.where(number, values([1.0, 2.0]), 0.0)
    np.testing.assert_array_equal(result.data, np.where(number, [1.0, 2.0], 0.0))


# --- the structural rules -----------------------------------------------------------------------

# What arrays of Values have no namespace function for, and so must refuse by name; none at present.
UNSUPPORTED: set[str] = set()


def test_unsupported_names_exist():
    assert set(ARRAY_RULES) >= UNSUPPORTED


@pytest.mark.parametrize("case", ALL)
def test_every_structural_rule(case):
    if any(np.ndim(operand) == 0 for operand in case.operands):
        with pytest.raises(TypeError, match="works on arrays"):
            case.call(*(values(x) for x in case.operands if np.ndim(x) == 0))
        return
    arrays = [np.asarray(x, float) for x in case.operands]
    operands = [values(x) for x in arrays]
    expected = np.asarray(case.formula(*arrays))
    result = case.call(*operands)
    assert is_sound(result)
    assert np.shape(result.data) == expected.shape
    np.testing.assert_allclose(result.data, expected, rtol=ROUNDINGS, atol=ROUNDINGS)
    if not expected.size:
        return
    g = seed_for(expected)
    swept(result, g)
    for operand, gradient in zip(operands, derivatives(case.formula, arrays, g), strict=True):
        np.testing.assert_allclose(grads(operand), gradient, rtol=ROUNDINGS, atol=ROUNDINGS)


@pytest.mark.parametrize(
    ("f", "x"),
    [
        (tb.max, [1.0, 1.0, 1.0]),
        (tb.max, [2.0, 1.0, 2.0, 2.0, 2.0]),
        (tb.min, [0.0, 0.0, 0.0, 1.0]),
        (tb.max, [[3.0, 3.0], [3.0, 1.0]]),
        (tb.norm, [0.0, 0.0]),
        (tb.norm, [0.0]),
        (tb.prod, [0.0, 2.0, 3.0]),
        (tb.prod, [0.0, 0.0, 3.0]),
        (tb.logsumexp, [1000.0, -1000.0, 0.0]),
        (tb.logsumexp, [-inf, 0.0, 0.0]),
        (lambda x: tb.softmax(x)[0], [1000.0, -1000.0, 0.0]),
        (lambda x: tb.softmax(x)[1], [-inf, 0.0, 0.0]),
        (lambda x: tb.log_softmax(x)[1], [1000.0, -1000.0, 0.0]),
        (lambda x: tb.log_softmax(x)[1], [-inf, 0.0, 0.0]),
    ],
)
def test_the_choice_at_a_kink_is_the_tensors(f, x):
    """One choice per rule, the same in all interpreters."""
    v, t = values(x), Tensor(x)
    one, other = f(v), f(t)
    one.backward()
    other.backward()
    assert one.item() == pytest.approx(other.item(), rel=1e-15, abs=0.0)
    np.testing.assert_allclose(v.grad, t.grad, rtol=1e-15)


@pytest.mark.parametrize("shape", [(0,), (0, 3)])
@pytest.mark.parametrize("f", [tb.sum, tb.prod])
def test_empty_reductions(f, shape):
    result = f(values(np.zeros(shape)))
    assert is_sound(result)
    assert result.data == f(Tensor(np.zeros(shape))).data
    columns = f(values(np.zeros((0, 3))), axis=0)
    assert is_sound(columns)
    np.testing.assert_array_equal(columns.data, f(Tensor(np.zeros((0, 3))), axis=0).data)


def test_empty_products():
    left, right = values(np.zeros((2, 0))), values(np.zeros((0, 3)))
    for result in (left @ right, tb.matmul(left, right), tb.einsum("ij,jk", left, right)):
        assert is_sound(result)
        np.testing.assert_array_equal(result.data, np.zeros((2, 3)))


def test_split():
    v = values(A)
    parts = tb.split(v, 3, axis=1)
    assert all(is_sound(part) for part in parts)
    assert parts[1][0, 0] is v[0, 1]


# --- operators ----------------------------------------------------------------------------------

OTHERS = [
    2,
    2.5,
    np.float64(2.5),
    np.int64(2),
    np.array(2.5),
    np.array([1.0, 2.0, 4.0]),
    np.array([[1], [2]]),
    [1.0, 2.0, 4.0],
    Value(2.5),
    values(2.5),
    values([1.0, 2.0, 4.0]),
]


@pytest.mark.parametrize("other", OTHERS, ids=repr)
@pytest.mark.parametrize("apply", [*BASIC.values(), operator.pow])
def test_operators_with_others_on_either_side(apply, other):
    array = np.abs(A)
    plain = np.asarray(
        getattr(other, "data", other) if isinstance(other, (Value, Values)) else other
    )
    for f, formula in [
        (lambda v: apply(v, other), lambda x: apply(x, plain)),
        (lambda v: apply(other, v), lambda x: apply(plain, x)),
    ]:
        v = values(array)
        result = f(v)
        assert is_sound(result)
        np.testing.assert_allclose(result.data, formula(array), rtol=4 * EPS)
        g = seed_for(result)
        swept(result, g)
        expected = derivatives(formula, [array], g)[0]
        np.testing.assert_allclose(v.grad, expected, rtol=16 * EPS)


@pytest.mark.parametrize("exponent", [2, 2.0, 0.5, 1, 0, -1, -0.5, 3, np.float64(2), np.int64(2)])
def test_powers_that_numpy_has_shortcuts_for(exponent):
    v = values([1.0, 4.0])
    result = v**exponent
    assert is_sound(result)
    np.testing.assert_array_equal(result.data, np.array([1.0, 4.0]) ** exponent)
    assert all(x.rule is tb.power for x in result.flat)


@pytest.mark.parametrize("shape", [(3,), (3, 2)])
def test_matmul_on_either_side(shape):
    B = np.random.default_rng(0).normal(size=shape)
    for left, right in [
        (values(A), values(B)),
        (values(A), B),
        (A, values(B)),
        (values(A), B.tolist()),
    ]:
        result = left @ right
        assert is_sound(result)
        np.testing.assert_allclose(result.data, A @ B, rtol=1e-14)
    assert isinstance(values([1.0, 2.0]) @ values([3.0, 4.0]), Value)
    assert isinstance([1.0, 2.0] @ values([3.0, 4.0]), Value)


def test_a_network_has_the_tensors_gradients():
    random = np.random.default_rng(2)
    X, W, b = random.normal(size=(4, 3)), random.normal(size=(3, 2)), random.normal(size=2)

    def loss(X, W, b):
        return -(tb.log_softmax(tb.tanh(X @ W + b) * 2.0) * np.eye(2)[[0, 1, 1, 0]]).sum() / 4

    leaves = [(values(x), Tensor(x)) for x in (X, W, b)]
    one, other = (loss(*side) for side in zip(*leaves, strict=True))
    assert isinstance(one, Value)
    assert one.data == pytest.approx(other.item(), rel=1e-14)
    one.backward()
    other.backward()
    for v, t in leaves:
        np.testing.assert_allclose(v.grad, t.grad, rtol=1e-12, atol=1e-15)


def test_unary_operators():
    v = values(A)
    for result, expected in [(-v, -A), (abs(v), np.abs(A)), (+v, A)]:
        assert is_sound(result)
        np.testing.assert_array_equal(result.data, expected)


@pytest.mark.parametrize("apply", [operator.iadd, operator.isub, operator.imul, operator.itruediv])
def test_in_place_operators_make_a_new_array(apply):
    v = values(A) + 0.0
    w = apply(v, 2.0)
    assert w is not v
    assert is_sound(w)
    np.testing.assert_array_equal(v.data, A)
    np.testing.assert_array_equal(w.data, apply(A.copy(), 2.0))


def test_a_step_that_would_move_nothing_is_refused():
    for leaf in (values(A), Tensor(A), Value(2.0)):
        with pytest.raises(TypeError, match=r"p\.data -="):
            leaf -= 0.1
        computed = leaf * 3.0
        computed -= 1.0
        np.testing.assert_array_equal(computed.data, np.asarray(leaf.data) * 3.0 - 1.0)
        data = leaf.data.copy() if isinstance(leaf, Tensor) else leaf.data
        leaf.data -= 0.5
        np.testing.assert_array_equal(leaf.data, data - 0.5)


def test_backward_of_an_array():
    v = values(A)
    (v * v).backward(np.ones_like(A))
    np.testing.assert_array_equal(v.grad, 2.0 * A)
    one = values([3.0])
    (one * one).backward()
    assert one.grad[0] == 6.0
    with pytest.raises(ValueError, match="needs the gradient to start from"):
        v.backward()
    with pytest.raises(ValueError, match="expected shape"):
        v.backward([1.0])


def test_an_array_on_the_left_of_an_in_place_operator():
    array = A.copy()
    try:
        array += values(A)
    except TypeError:
        return
    assert is_sound(array)


@pytest.mark.parametrize("apply", [operator.eq, operator.ne, operator.lt, operator.le, operator.ge])
@pytest.mark.parametrize("other", [0.5, A, values(A[::-1]), Value(0.5)], ids=repr)
def test_comparisons_are_plain_arrays_of_bool(apply, other):
    plain = other.data if isinstance(other, (Value, Values)) else other
    for got, expected in [
        (apply(values(A), other), apply(A, plain)),
        (apply(other, values(A)), apply(plain, A)),
    ]:
        assert type(got) is np.ndarray
        assert got.dtype == bool
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "bad", [None, "a", True, 1j, [None], np.ones(3, bool), Tensor(A)], ids=repr
)
@pytest.mark.parametrize("apply", [*BASIC.values(), operator.matmul], ids=lambda f: f.__name__)
def test_other_operands_are_refused(apply, bad):
    for pair in [(values(A), bad), (bad, values(A))]:
        with pytest.raises(TypeError):
            apply(*pair)


@pytest.mark.parametrize("apply", [operator.floordiv, operator.mod, operator.and_])
def test_other_operators_are_refused(apply):
    with pytest.raises(TypeError):
        apply(values(A), 2)
    with pytest.raises(TypeError):
        apply(2, values(A))


# --- numpy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("f", [np.sign, np.isnan, np.floor, np.fmax, np.logical_and])
def test_numpys_ufuncs_without_a_rule_are_refused_by_name(f):
    with pytest.raises(TypeError, match=rf"numpy\.{f.__name__} does not take an array of Values"):
        f(*[values(A)] * f.nin)


@pytest.mark.parametrize("f", [np.dot, np.linalg.norm, np.std, np.sort])
def test_numpys_functions_without_a_rule_are_refused_by_name(f):
    arguments = (values(A), A.T) if f is np.dot else (values(A),)
    name = rf"numpy\.(linalg\.)?{f.__name__}"
    with pytest.raises(TypeError, match=rf"{name} does not take an array of Values"):
        f(*arguments)


NDARRAY_METHODS = {
    "sum": (),
    "mean": (),
    "var": (),
    "max": (),
    "min": (),
    "prod": (),
    "cumsum": (),
    "cumprod": (),
    "std": (),
    "dot": (A[0],),
    "trace": (),
    "clip": (-1.0, 1.0),
    "round": (),
    "conj": (),
    "copy": (),
    "ravel": (),
    "flatten": (),
    "transpose": (),
    "reshape": (6,),
    "squeeze": (),
    "swapaxes": (0, 1),
    "diagonal": (),
    "take": ([0, 0],),
    "repeat": (2,),
    "astype": (float,),
}


@pytest.mark.parametrize("name", NDARRAY_METHODS)
def test_methods_give_what_numpy_would_or_raise(name):
    """ndarray's own methods see objects: they must be right, or refuse."""
    v = values(A)
    try:
        result = getattr(v, name)(*NDARRAY_METHODS[name])
    except (TypeError, AttributeError, NotImplementedError):
        return
    expected = getattr(A, name)(*NDARRAY_METHODS[name])
    if name != "astype" or type(result) is not np.ndarray:  # numbers, if plainly an array of them
        assert is_sound(result)
    np.testing.assert_allclose(getattr(result, "data", result), expected, rtol=1e-14)


def test_numbers_leave_by_data():
    v = values(A)
    data = v.data
    data[:] = 0.0
    np.testing.assert_array_equal(v.data, A)
    assert type(data) is np.ndarray


# --- indexing and shape -------------------------------------------------------------------------


def test_indexing():
    v = values(A)
    assert v[0, 1] is v[0][1]
    assert isinstance(v[0, 1], Value)
    for index in [0, slice(None, None, -1), (..., 1), None, [0, 0], A > 0, (slice(None), [2, 2])]:
        assert is_sound(v[index])
        np.testing.assert_array_equal(v[index].data, A[index])
    np.testing.assert_array_equal(v[v > 0].data, A[A > 0])
    assert v.T[2, 0] is v[0, 2]
    assert v.reshape(-1)[4] is v[1, 1]
    assert [type(row) for row in v] == [Values, Values]


def test_assigning_an_element_keeps_the_array_sound():
    v = values([1.0, 2.0])
    with pytest.raises(TypeError):
        v[0] = "a"
    try:
        v[0] = 3.0
    except TypeError:
        return
    assert is_sound(v)
    np.testing.assert_array_equal(v.data, [3.0, 2.0])


def test_one_number_is_a_value():
    for number in (2.0, 2, np.float32(2.0), np.array(2.0)):
        v = values(number)
        assert isinstance(v, Value)
        assert v.data == 2.0
        assert not values(number, requires_grad=False).requires_grad


# --- data and gradients -------------------------------------------------------------------------


def test_setting_data():
    v = values(A)
    elements = list(v.flat)
    v.data = A + 1.0
    np.testing.assert_array_equal(v.data, A + 1.0)
    assert all(a is b for a, b in zip(elements, v.flat, strict=True))
    with pytest.raises(ValueError, match="expected shape"):
        v.data = A[0]
    with pytest.raises(TypeError, match="data"):
        v.data = "a"
    with pytest.raises(ValueError, match="leaf"):
        (v * 2.0).data = A
    v.data -= 0.5
    np.testing.assert_array_equal(v.data, A + 0.5)


def test_a_failed_write_changes_nothing():
    leaf, inner = Value(1.0), Value(2.0) * 2.0
    v = values([leaf, inner])
    with pytest.raises(ValueError, match="leaf"):
        v.data = [7.0, 8.0]
    assert leaf.data == 1.0


def test_gradients():
    v = values([1.0, 2.0, 3.0])
    (v[:2] * v[:2]).sum().backward()
    np.testing.assert_array_equal(v.grad, [2.0, 4.0, 0.0])
    assert v[2].grad is None
    v.zero_grad()
    assert v.grad is None
    v.grad = [1, 2, 3]
    assert v[1].grad == 2.0
    with pytest.raises(ValueError, match="expected shape"):
        v.grad = 1.0
    v.grad = None
    assert v.grad is None


def test_detach_and_requires_grad():
    v = values(A)
    w = (v * 2.0).detach()
    assert is_sound(w)
    assert not w.requires_grad
    np.testing.assert_array_equal(w.data, 2.0 * A)
    assert (v + w).requires_grad
    assert not (v * 2.0).is_leaf
    with tb.no_grad():
        assert not tb.tanh(v).requires_grad
        assert not (v @ v.T).requires_grad


def test_training_by_data():
    v = values([1.0, -2.0])
    for _ in range(3):
        v.zero_grad()
        (v * v).sum().backward()
        v.data -= 0.25 * v.grad
    np.testing.assert_array_equal(v.data, [0.125, -0.25])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_leaves_copy(duplicate):
    v = values(A, "W")
    w = duplicate(v)
    assert is_sound(w)
    np.testing.assert_array_equal(w.data, A)
    assert w[0, 1].label == "W[0, 1]"
    assert not any(a is b for a, b in zip(v.flat, w.flat, strict=True))
    with pytest.raises(TypeError, match="detach"):
        duplicate(v * 2.0)


def test_repr():
    assert repr(values([1.0, 2.5])) == str(values([1.0, 2.5])) == "Values([1. , 2.5])"
    assert repr(values(np.zeros((4, 5)))) == "Values(shape=(4, 5))"


@pytest.mark.parametrize("rule", ARRAY_RULES.values(), ids=list(ARRAY_RULES))
def test_single_values_are_refused_by_name(rule):
    x = Value(1.0)
    arguments = ([x, x],) if rule.takes_sequence else [x] * len(rule.pullbacks)
    with pytest.raises(TypeError, match=rf"{rule.name} works on arrays"):
        rule(*arguments)


def test_tied_infinities():
    v = values([math.inf, math.inf, 1.0])
    peak = tb.max(v)
    assert peak.data == math.inf
    peak.backward()
    np.testing.assert_array_equal(v.grad, [0.5, 0.5, 0.0])


def test_backward_of_an_array_when_nothing_is_recorded():
    v = values(A)
    w = v * v
    with tb.no_grad():
        w.backward(np.ones_like(A))
    np.testing.assert_array_equal(v.grad, 2.0 * A)


def test_nan_in_data_is_no_warning_but_a_result():
    x = np.ones((4, 4))
    x[3, 2] = np.nan
    y = tb.nn.MLP([4, 6, 2], rng=1).scalar_view()(x)
    assert np.isnan(y.data[3]).all()
    assert np.isfinite(y.data[:3]).all()


def test_values_as_a_condition_are_recorded():
    """Neither a number of one run, nor a branch: a choice that is made at each run."""
    step = tb.compile(lambda x: tb.sum(tb.where(x, x * x, 1.0)))
    for given, value, gradient in [([3.0, 0.0], 10.0, [6.0, 0.0]), ([0.0, 2.0], 5.0, [0.0, 4.0])]:
        got, by = step.value_and_grad(tb.values(given))
        assert got == value
        assert by.tolist() == gradient
    assert step.recordings == 1


def test_one_recorded_value_becomes_a_number():
    step = tb.compile(lambda x: tb.reshape(x * 2.0, ()))
    value, gradient = step.value_and_grad(tb.values([3.0]))
    assert (value, gradient.tolist()) == (6.0, [2.0])


def test_an_array_operation_on_a_number_says_so_also_while_recording():
    with pytest.raises(TypeError, match="norm works on arrays"):
        tb.norm(tb.Value(2.0))
    with pytest.raises(TypeError, match="norm works on arrays"):
        tb.compile(lambda x: tb.norm(x))(2.0)


@pytest.mark.parametrize(("choose", "sign"), [(tb.max, 1.0), (tb.min, -1.0)])
def test_the_largest_of_recorded_values_is_found_at_each_run(choose, sign):
    """Equal ones share the gradient; a graph of the first run would know of one place only."""
    step = tb.compile(lambda x: 2.0 * choose(x))
    for given, value, gradient in [
        ([1.0, 3.0, 3.0], 6.0, [0.0, 1.0, 1.0]),
        ([5.0, 3.0, 4.0], 10.0, [2.0, 0.0, 0.0]),
        ([1.5, 1.5, 1.5], 3.0, [2.0 / 3.0] * 3),
    ]:
        got, by = step.value_and_grad(values(sign * np.array(given)))
        assert got == sign * value
        np.testing.assert_allclose(by, gradient, rtol=1e-15)
    assert step.recordings == 1


@pytest.mark.parametrize("choose", [tb.max, tb.min])
def test_nan_is_the_largest_and_the_smallest(choose):
    """As numpy has it; and the gradient is that of the element which it is."""
    v = values([1.0, nan, 3.0])
    y = choose(v)
    y.backward()
    assert math.isnan(y.data)
    assert [x.grad for x in v] == [None, 1.0, None]


def test_a_condition_may_be_an_array_of_objects():
    v = values([1.0, 2.0])
    chosen = tb.where(np.array([True, False], object), v, 5.0)
    assert chosen.data.tolist() == [1.0, 5.0]


def nested(depth):
    x = [Value(1.0)]
    for _ in range(depth):
        x = [x]
    return x


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda v: values(nested(100)), ValueError, "values: expected lists at most 64 deep, got"),
        (lambda v: v + v[:2], ValueError, "add: of shape (3,) and (2,): they do not broadcast"),
        (lambda v: tb.where("a", v, v), TypeError, "where: expected a condition, got 'a'"),
        (lambda v: tb.max(v[:0]), ValueError, "max: of shape (0,): an empty array of Values has"),
        (
            lambda v: tb.astype(v, np.float32),
            TypeError,
            "astype: Values are float64, and cannot become float32",
        ),
    ],
)
def test_what_is_said_of_arrays_that_do_not_fit(call, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        call(values([1.0, 2.0, 3.0]))
