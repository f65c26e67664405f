"""`Tensor`: construction, operators, the sweep, and that no write can make a gradient wrong."""

import copy
import itertools
import math
import operator
import pickle
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value
from tinygrad_bp.rules import RULES, elementwise

EPS = np.finfo(np.float64).eps
A = np.array([[1.5, -2.0, 0.5], [3.0, 0.25, -1.0]])
BASIC = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def gradient_of(f, *arrays):
    """The gradients of sum(f(...)) by Tensors of the given arrays."""
    leaves = [Tensor(x) for x in arrays]
    f(*leaves).sum().backward()
    return [leaf.grad for leaf in leaves]


@pytest.fixture
def spoilt_rule():
    """An operation whose derivative raises in the sweep."""

    @elementwise(lambda m, x, y: 1 / 0)
    def spoilt(m, x):
        return x + 0.0

    yield spoilt
    del RULES["spoilt"]


# --- construction -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "dtype", "shape"),
    [
        (1, np.float64, ()),
        (1.5, np.float64, ()),
        ([1, 2], np.float64, (2,)),
        ([[1.0, 2], [3, 4]], np.float64, (2, 2)),
        ((1, (2)), np.float64, (2,)),
        ([np.float32(1)], np.float32, (1,)),
        (range(3), np.float64, (3,)),
        ([], np.float64, (0,)),
        (np.float32(1), np.float32, ()),
        (np.float64(1), np.float64, ()),
        (np.int8(1), np.float64, ()),
        (np.arange(3), np.float64, (3,)),
        (np.arange(3, dtype=np.uint8), np.float64, (3,)),
        (np.ones(3, np.float32), np.float32, (3,)),
        (np.ones((0, 3)), np.float64, (0, 3)),
        (np.ones(3, ">f8"), np.float64, (3,)),
        (np.ones(3, ">f4"), np.float32, (3,)),
        (np.asfortranarray(A), np.float64, (2, 3)),
        (A[:, ::-2], np.float64, (2, 2)),
    ],
)
def test_kinds_that_are_kept_or_promoted(data, dtype, shape):
    x = Tensor(data)
    assert x.dtype == dtype
    assert x.dtype.isnative
    assert x.shape == shape
    assert type(x.data) is np.ndarray
    np.testing.assert_array_equal(x.data, np.asarray(data))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (True, "bool"),
        (np.True_, "bool"),
        ([True, False], "bool"),
        ("1.0", "str"),
        (["1.0"], "<U3"),
        (None, "NoneType"),
        ([1.0, None], "object"),
        (1j, "complex"),
        (np.ones(2, complex), "complex128"),
        (object(), "object"),
        (np.ones(2, object), "object"),
        (np.ones(2, np.float16), "float16"),
        (np.longdouble(1), "longdouble"),
        (np.datetime64("2020-01-01"), "datetime64"),
        (b"1", "bytes"),
        ({1: 2}, "dict"),
        ({1.0}, "set"),
        (np.ma.array([1.0, 2.0], mask=[0, 1]), "masked array"),
        (Value(1.0), "Value"),
        (Tensor(1.0), "Tensor"),
        ([Value(1.0)], r"tb\.values"),
        (tb.values([1.0]), r"object.*tb\.values"),
    ],
    ids=repr,
)
def test_kinds_that_are_refused_by_name(data, name):
    with pytest.raises(TypeError, match=name):
        Tensor(data)


@pytest.mark.parametrize(
    "use",
    [
        lambda x: Tensor([x, x]),
        lambda x: Tensor([[x], [x]]),
        lambda x: Tensor([1.0, 2.0]) * [x, x],
        lambda x: Tensor([1.0, 2.0]) @ [x, x],
        lambda x: tb.stack([Tensor([1.0]), [x]]),
        lambda x: tb.values([x, x]),
    ],
)
def test_a_list_of_tensors_is_refused_not_detached(use):
    """numpy would read the numbers and lose the history: a silently wrong gradient."""
    with pytest.raises(TypeError, match="Tensor"):
        use(Tensor(1.0))


def test_ragged_lists_are_refused():
    with pytest.raises(ValueError, match="in lists of one shape"):
        Tensor([[1.0, 2.0], [3.0]])


@pytest.mark.parametrize("dtype", [np.float32, "float32", np.dtype(np.float32)])
def test_dtype_converts(dtype):
    assert Tensor(A, dtype=dtype).dtype == np.float32
    assert Tensor([1, 2], dtype=dtype).dtype == np.float32


@pytest.mark.parametrize("dtype", [int, bool, complex, np.float16, object, "str"])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(TypeError, match="dtype: expected float32 or float64"):
        Tensor(A, dtype=dtype)


def test_data_is_copied_on_entry():
    array = A.copy()
    x = Tensor(array)
    assert not np.shares_memory(x.data, array)
    array[:] = 7.0
    np.testing.assert_array_equal(x.data, A)


def test_a_new_leaf():
    x = Tensor(A, "x")
    assert (x.label, x.is_leaf, x.requires_grad, x.grad) == ("x", True, True, None)
    assert (x.shape, x.ndim, x.size, x.dtype) == ((2, 3), 2, 6, np.dtype(np.float64))
    assert Tensor(A).label == ""
    with pytest.raises(TypeError, match="label: expected a str"):
        Tensor(A, 3)


# --- operators ----------------------------------------------------------------------------------

OTHERS = [
    2,
    2.5,
    np.float64(2.5),
    np.float32(2.5),
    np.int64(2),
    np.array(2.5),
    np.array([1.0, 2.0, 4.0]),
    np.array([[1], [2]]),
    [1.0, 2.0, 4.0],
    Tensor([[2.0], [4.0]], requires_grad=False),
]


@pytest.mark.parametrize("other", OTHERS, ids=repr)
@pytest.mark.parametrize("name", BASIC)
def test_operators_with_constants_on_either_side(name, other):
    apply = BASIC[name]
    plain = other.data if isinstance(other, Tensor) else np.asarray(other, float)
    slopes = {
        "+": (1.0, 1.0),
        "-": (1.0, -1.0),
        "*": (plain, plain),
        "/": (1.0 / plain, -plain / A**2),
    }[name]
    for f, expected, slope in [
        (lambda x: apply(x, other), apply(A, plain), slopes[0]),
        (lambda x: apply(other, x), apply(plain, A), slopes[1]),
    ]:
        x = Tensor(A)
        y = f(x)
        assert type(y) is Tensor
        np.testing.assert_array_equal(y.data, expected)
        y.sum().backward()
        np.testing.assert_allclose(x.grad, np.broadcast_to(slope, A.shape), rtol=4 * EPS)


@pytest.mark.parametrize("exponent", [2, 3.0, -1, 0.5, 0, np.float64(2), np.array([1.0, 2.0, 3.0])])
def test_powers(exponent):
    x = np.abs(A)
    np.testing.assert_allclose((Tensor(x) ** exponent).data, x**exponent, rtol=4 * EPS)
    expected = np.asarray(exponent) * x ** (np.asarray(exponent) - 1.0)
    np.testing.assert_allclose(gradient_of(lambda t: t**exponent, x)[0], expected, rtol=8 * EPS)
    base = np.asarray(exponent) + 2.0
    np.testing.assert_allclose((base ** Tensor(A)).data, base**A, rtol=4 * EPS)
    got = gradient_of(lambda t: base**t, A)[0]
    np.testing.assert_allclose(got, base**A * np.log(base), rtol=8 * EPS)


def test_power_of_tensors():
    x, y = np.abs(A), A[::-1].copy()
    dx, dy = gradient_of(lambda s, t: s**t, x, y)
    np.testing.assert_allclose(dx, y * x ** (y - 1.0), rtol=16 * EPS)
    np.testing.assert_allclose(dy, x**y * np.log(x), rtol=16 * EPS)


@pytest.mark.parametrize("other", [np.ones((3, 2)), np.ones(3), np.ones((2, 3, 1)), [1, 2, 3]])
def test_matmul_with_arrays_on_either_side(other):
    plain = np.asarray(other)
    x, z = Tensor(A), Tensor(np.ones((3, 2)))
    y = x @ other
    assert type(y) is Tensor
    np.testing.assert_array_equal(y.data, A @ plain)
    left = np.ones((4, 3))
    back = left @ z
    assert type(back) is Tensor
    back.sum().backward()
    np.testing.assert_array_equal(z.grad, np.full((3, 2), 4.0))
    y.sum().backward()
    assert x.grad.shape == A.shape


def test_unary_operators():
    x = Tensor(A)
    np.testing.assert_array_equal((-x).data, -A)
    np.testing.assert_array_equal(abs(x).data, np.abs(A))
    assert +x is x
    np.testing.assert_array_equal(gradient_of(operator.neg, A)[0], np.full(A.shape, -1.0))
    np.testing.assert_array_equal(gradient_of(abs, A)[0], np.sign(A))


def test_in_place_operators_make_a_new_node():
    x = y = Tensor(A)
    y += 1.0
    y *= x
    assert y is not x
    np.testing.assert_array_equal(x.data, A)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, 2.0 * A + 1.0)


@pytest.mark.parametrize("apply", [operator.floordiv, operator.mod, operator.and_, operator.lshift])
def test_other_operators_are_refused(apply):
    for pair in [(Tensor(A), 2), (2, Tensor(A)), (A, Tensor(A)), (np.float64(2), Tensor(A))]:
        with pytest.raises(TypeError):
            apply(*pair)


@pytest.mark.parametrize("bad", [None, "a", True, 1j, [None], np.ones(3, bool), object()], ids=repr)
@pytest.mark.parametrize("apply", [*BASIC.values(), operator.pow, operator.matmul])
def test_other_operands_are_refused(apply, bad):
    for pair in [(Tensor(A), bad), (bad, Tensor(A))]:
        with pytest.raises(TypeError):
            apply(*pair)


def test_shapes_that_do_not_broadcast():
    with pytest.raises(ValueError, match="broadcast"):
        Tensor(A) + np.ones(2)


METHODS = ["exp", "log", "sqrt", "tanh", "sigmoid", "relu"]
REDUCTIONS = ["sum", "mean", "var", "max", "min", "prod"]


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_the_functions(name):
    x = Tensor(np.abs(A))
    np.testing.assert_array_equal(getattr(x, name)().data, getattr(tb, name)(x).data)


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("options", [{}, {"axis": 1}, {"axis": (0,), "keepdims": True}], ids=str)
def test_reductions_are_numpys(name, options):
    got = getattr(Tensor(A), name)(**options)
    np.testing.assert_allclose(got.data, getattr(np, name)(A, **options), rtol=4 * EPS)
    if name == "var":
        np.testing.assert_allclose(Tensor(A).var(1, ddof=1).data, A.var(1, ddof=1), rtol=4 * EPS)


def test_shape_methods():
    x = Tensor(np.arange(24.0).reshape(2, 3, 4))
    assert x.T.shape == (4, 3, 2)
    assert x.reshape(6, 4).shape == x.reshape((6, -1)).shape == (6, 4)
    assert x.reshape(-1).shape == (24,)
    assert x.transpose().shape == (4, 3, 2)
    assert x.transpose(2, 0, 1).shape == x.transpose((2, 0, 1)).shape == (4, 2, 3)
    np.testing.assert_array_equal(x.transpose(2, 0, 1).data, x.data.transpose(2, 0, 1))
    assert Tensor(2.0).reshape().shape == ()


# --- numpy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("f", [np.isnan, np.floor, np.fmax, np.logical_and])
def test_numpys_ufuncs_without_a_rule_refuse_a_tensor(f):
    name = rf"numpy\.{f.__name__} does not take a Tensor"
    with pytest.raises(TypeError, match=name):
        f(*[Tensor(A)] * f.nin)
    if f.nin == 2:
        with pytest.raises(TypeError, match=name):
            f(A, Tensor(A))


@pytest.mark.parametrize("f", [np.std, np.linalg.norm, np.dot, np.sort])
def test_numpys_functions_without_a_rule_refuse_a_tensor_by_name(f):
    arguments = (Tensor(A), A[0]) if f is np.dot else (Tensor(A),)
    with pytest.raises(TypeError, match=rf"numpy\.(linalg\.)?{f.__name__} does not take a Tensor"):
        f(*arguments)


def test_no_numpy_expression_gives_an_array_of_objects():
    x = Tensor(A)
    for left in (A, A[0], np.float64(2.0), np.float32(2.0), np.array(2.0), np.int64(2)):
        for apply in (*BASIC.values(), operator.pow):
            with np.errstate(all="ignore"):
                assert type(apply(left, x)) is Tensor
                assert type(apply(x, left)) is Tensor


def test_adding_into_an_array_raises():
    array = A.copy()
    with pytest.raises(TypeError, match="Tensor"):
        array += Tensor(A)


def test_asarray_is_a_copy():
    x = Tensor(A)
    for array in (np.asarray(x), np.array(x), x.__array__(), np.asarray(x, np.float32)):
        assert not np.shares_memory(array, x.data)
        np.testing.assert_array_equal(array, A)
    assert np.asarray(x, np.float32).dtype == np.float32


# --- Values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [Value(1.0), tb.values([1.0, 2.0, 3.0])], ids=["Value", "Values"])
def test_values_and_tensors_do_not_mix(other):
    x = Tensor(A)
    calls = [
        *(lambda f=f, p=p: f(*p) for f in BASIC.values() for p in ((x, other), (other, x))),
        lambda: x**other,
        lambda: other**x,
        lambda: x @ other,
        lambda: tb.maximum(x, other),
        lambda: tb.maximum(other, x),
        lambda: tb.where(x, other, x),
        lambda: tb.where(other, x, x),
        lambda: tb.where(True, other, x),
        lambda: tb.clip(other, x, 1.0),
        lambda: tb.matmul(x, other),
        lambda: tb.concatenate([x, other]),
        lambda: tb.einsum("ij,j", x, other),
    ]
    for call in calls:
        with pytest.raises(TypeError) as error:
            call()
        assert "convert" in str(error.value) or "use its .data" in str(error.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, v: v @ x,
        lambda x, v: tb.matmul(v, x),
        lambda x, v: tb.stack([v, x]),
        lambda x, v: tb.where(v, x, x),
        lambda x, v: tb.maximum(v, x),
    ],
)
@pytest.mark.parametrize("v", [Value(1.0), tb.values([1.0, 2.0])], ids=["Value", "Values"])
def test_values_first_do_not_mix_either(call, v):
    with pytest.raises(TypeError):
        call(Tensor(np.ones((2, 2))), v)


@pytest.mark.parametrize("apply", BASIC.values(), ids=list(BASIC))
def test_mixing_says_how_to_convert(apply):
    for pair in [(Tensor(1.0), Value(1.0)), (Value(1.0), Tensor(1.0))]:
        with pytest.raises(TypeError, match=r"convert with tb\.Tensor\(value\.data\)"):
            apply(*pair)
    for pair in [(Tensor([1.0]), tb.values([1.0])), (tb.values([1.0]), Tensor([1.0]))]:
        with pytest.raises(TypeError, match=r"convert with tb\.Tensor\(values\.data\)"):
            apply(*pair)


# --- safety of data -----------------------------------------------------------------------------


def test_a_training_loop_with_data():
    """Least squares by gradient descent, next to the same in plain numpy."""
    random = np.random.default_rng(0)
    X, y = random.normal(size=(20, 3)), random.normal(size=20)
    p, w = Tensor(np.zeros(3)), np.zeros(3)
    for _ in range(50):
        p.zero_grad()
        ((X @ p - y) ** 2).mean().backward()
        p.data -= 0.1 * p.grad
        w = w - 0.1 * 2.0 / 20 * X.T @ (X @ w - y)
    np.testing.assert_allclose(p.data, w, rtol=1e-12)


WRITES = {
    "data in place": lambda p: p.data.fill(9.0),
    "data item": lambda p: p.data.__setitem__((0, 0), 9.0),
    "data view": lambda p: p.data.T.fill(9.0),
    "data operator": lambda p: setattr(p, "data", operator.imul(p.data, 9.0)),
    "data set": lambda p: setattr(p, "data", np.full(A.shape, 9.0)),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=list(WRITES))
@pytest.mark.parametrize(
    "f",
    [
        lambda p: p * p,
        lambda p: tb.tanh(p) * p,
        lambda p: p @ p.T,
        lambda p: tb.prod(p, axis=1),
        lambda p: p.reshape(-1)[::-1] ** 2,
        lambda p: tb.softmax(p.T) * np.array([1.0, 3.0]),
        lambda p: tb.maximum(p, p.detach() - 1.0) * p.detach(),
    ],
)
def test_writes_to_a_leaf_never_change_a_pending_sweep(f, write):
    expected = gradient_of(f, A)[0]
    p = Tensor(A)
    y = f(p).sum()
    value = y.item()
    write(p)
    y.backward()
    np.testing.assert_array_equal(p.grad, expected)
    assert y.item() == value
    assert f(p).sum().item() != value  # and a later computation does see the write


def test_an_array_held_from_before_cannot_be_written_to_unnoticed():
    p = Tensor(A)
    held = p.data
    held[0, 0] = 7.0
    y = (p * p).sum()
    with pytest.raises(ValueError, match="read-only"):
        held[0, 0] = 8.0
    y.backward()
    assert p.grad[0, 0] == 14.0
    assert p.data[0, 0] == 7.0


def test_a_view_held_from_before_does_not_reach_the_graph():
    p = Tensor(A)
    view = p.data[0]
    y = (p * p).sum()
    view[:] = 100.0
    y.backward()
    np.testing.assert_array_equal(p.grad, 2.0 * A)


CONSTANTS = {
    "factor": (lambda x, c: x * c, lambda c: c),
    "reflected": (lambda x, c: c * x, lambda c: c),
    "divisor": (lambda x, c: x / c, lambda c: 1.0 / c),
    "exponent": (lambda x, c: x**c, lambda c: c * 2.0 ** (c - 1.0)),
    "maximum": (lambda x, c: tb.maximum(x, c), lambda c: (c < 2.0) + 0.5 * (c == 2.0)),
    "matmul": (lambda x, c: x @ c, lambda c: c),
    "rmatmul": (lambda x, c: c @ x, lambda c: c),
    "einsum": (lambda x, c: tb.einsum("i,i->", x, c), lambda c: c),
    "condition": (lambda x, c: tb.where(c == 1.0, x, 3.0 * x), lambda c: 3.0 - 2.0 * (c == 1.0)),
    "constant tensor": (
        lambda x, c: x * Tensor(c, requires_grad=False),
        lambda c: c,
    ),
    "concatenated": (lambda x, c: tb.stack([x, c]).prod(0), lambda c: c),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_writes_to_constants_never_change_a_pending_sweep(name):
    f, slope = CONSTANTS[name]
    constant = np.array([1.0, 2.0, 3.0])
    x = Tensor([2.0, 2.0, 2.0])
    y = f(x, constant).sum()
    expected = slope(constant.copy())
    constant[:] = [5.0, 1.0, 9.0]
    y.backward()
    np.testing.assert_allclose(x.grad, expected, rtol=8 * EPS)


def test_a_condition_may_be_written_to():
    mask = np.array([True, False, True])
    x = Tensor([1.0, 2.0, 3.0])
    y = tb.where(mask, x, 0.0).sum()
    mask[:] = False
    y.backward()
    np.testing.assert_array_equal(x.grad, [1.0, 0.0, 1.0])


@pytest.mark.parametrize(
    ("index", "write"),
    [
        (np.array([0, 1]), lambda i: i.fill(2)),
        ([0, 1], lambda i: i.reverse() or i.__setitem__(0, 2)),
        ([[0, 1], [1, 1]], lambda i: (i[0].__setitem__(0, 2), i[1].__setitem__(0, 2))),
        (np.array([True, True, False]), lambda i: i.fill(False)),
        ((np.array([0, 1]),), lambda i: i[0].fill(2)),
        (([0, 1],), lambda i: i[0].__setitem__(0, 2)),
    ],
    ids=["array", "list", "nested list", "mask", "tuple of array", "tuple of list"],
)
def test_writes_to_an_index_never_change_a_pending_sweep(index, write):
    expected = gradient_of(lambda x: x[copy.deepcopy(index)], np.arange(3.0))[0]
    x = Tensor(np.arange(3.0))
    y = x[index].sum()
    write(index)
    y.backward()
    np.testing.assert_array_equal(x.grad, expected)


@pytest.mark.parametrize(
    ("f", "argument", "write"),
    [
        (lambda x, a: tb.take(x, a), [[0, 1], [1, 1]], lambda a: a[0].__setitem__(0, 2)),
        (lambda x, a: tb.take(x, indices=a), np.array([0, 1]), lambda a: a.fill(2)),
        (lambda x, a: tb.gather(x, a, 0), np.array([0, 1]), lambda a: a.fill(2)),
        (lambda x, a: tb.pad(x, a) * np.arange(6.0), [[1, 2]], lambda a: a[0].reverse()),
        (lambda x, a: tb.pad(x, a) * np.arange(6.0), np.array([1, 2]), lambda a: a.sort()),
        (lambda x, a: tb.reshape(x, a), [3, 1], lambda a: a.reverse()),
    ],
    ids=["take", "take keyword", "gather", "pad", "pad array", "reshape"],
)
def test_writes_to_an_argument_never_change_a_pending_sweep(f, argument, write):
    expected = gradient_of(lambda x: f(x, copy.deepcopy(argument)), np.arange(3.0))[0]
    x = Tensor(np.arange(3.0))
    y = f(x, argument).sum()
    write(argument)
    y.backward()
    np.testing.assert_array_equal(x.grad, expected)


def test_the_recorded_operands_are_those_that_were_computed_with():
    """Who reads the graph later (a picture, a check) must not see what was written since."""
    constant = np.array([1.0, 2.0])
    y = Tensor([3.0, 4.0]) * constant
    constant[:] = 9.0
    np.testing.assert_array_equal(np.asarray(y.operands[1]), [1.0, 2.0])


def test_a_computed_array_is_read_only():
    x = Tensor(A)
    for y in (x * 2.0, x.reshape(6), x[0], x.T, tb.broadcast_to(x, (2, 2, 3))):
        with pytest.raises(ValueError, match="read-only"):
            y.data[...] = 0.0
        with pytest.raises(ValueError, match="only a leaf's can be set"):
            y.data = np.zeros(y.shape)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.detach(),
        lambda x: tb.no_grad()(lambda: x.reshape(2, 3))(),
        lambda x: tb.no_grad()(lambda: x[:])(),
        lambda x: tb.no_grad()(lambda: tb.broadcast_to(x, (2, 2, 3)))(),
    ],
    ids=["detach", "reshape", "slice", "broadcast"],
)
def test_a_constant_may_be_written_to_without_reaching_its_origin(make):
    x = Tensor(A)
    y = (x * x).sum()
    c = make(x)
    c.data[...] = 100.0
    assert np.all(c.data == 100.0)
    np.testing.assert_array_equal(x.data, A)
    y.backward()
    np.testing.assert_array_equal(x.grad, 2.0 * A)


def test_setting_data():
    x = Tensor(A.astype(np.float32))
    x.data = np.ones((2, 3))
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x.data, 1.0)
    given = np.full((2, 3), 2.0, np.float32)
    x.data = given
    given[:] = 5.0
    np.testing.assert_array_equal(x.data, 2.0)
    for bad in (np.ones(3), 1.0, np.ones((2, 3, 1))):
        with pytest.raises(ValueError, match="expected shape"):
            x.data = bad
    for bad in (None, "a", np.ones((2, 3), bool), Tensor(A)):
        with pytest.raises(TypeError, match="data"):
            x.data = bad
    np.testing.assert_array_equal(x.data, 2.0)


# d/dx and d/dy, as the books have them, of float64 numbers
MIXED = {
    "divide": (lambda x, y: 1.0 / y, lambda x, y: -x / y**2),
    "power": (lambda x, y: y * x ** (y - 1.0), lambda x, y: x**y * np.log(x)),
    "elu": (
        lambda x, y: np.where(x > 0.0, 1.0, y * np.exp(x)),
        lambda x, y: np.where(x > 0.0, 0.0, np.exp(x) - 1.0),
    ),
    "hypot": (lambda x, y: x / np.hypot(x, y), lambda x, y: y / np.hypot(x, y)),
}


@pytest.mark.parametrize("narrow", [0, 1])
@pytest.mark.parametrize("name", MIXED)
def test_a_float32_operand_costs_the_other_no_digits(name, narrow):
    operands = [np.array([0.3, 1.7, 2.9]), np.array([[1.1], [0.7]])]
    if name == "elu":
        operands[0] = -operands[0]
    operands[narrow] = operands[narrow].astype(np.float32)
    wide = 1 - narrow
    exact = np.broadcast_to(MIXED[name][wide](*(x.astype(float) for x in operands)), (2, 3))
    expected = exact.sum(wide, keepdims=wide == 1)
    f = getattr(tb, name, None) or RULES[name]

    def loss(x, y):
        return f(x, y).sum()

    gradients = gradient_of(f, *operands)
    # a few roundings of each of the at most three terms
    assert gradients[wide] == pytest.approx(expected, rel=32 * EPS)
    assert [g.dtype for g in gradients] == [x.dtype for x in operands]
    x, y = leaves = [Tensor(x) for x in operands]
    again = tb.grad(loss, (0, 1), create_graph=True)(*leaves)
    assert [g.data.tolist() for g in again] == [g.tolist() for g in gradients]
    v = [np.zeros(a.shape, a.dtype) for a in operands]
    v[wide] = np.ones(operands[wide].shape)
    _, tangent = tb.jvp(f, tuple(operands), tuple(v))
    assert np.asarray(tangent) == pytest.approx(exact, rel=32 * EPS)
    z = f(x, y)
    local = z.dy if wide else z.dx
    assert np.broadcast_to(local.partial(), (2, 3)) == pytest.approx(exact, rel=32 * EPS)


# --- gradients share memory with nothing --------------------------------------------------------

GRAPHS = {
    "a + b": lambda a, b: a + b,
    "a + b twice": lambda a, b: (a + b) + (a + b),
    "a + a": lambda a, b: a + a + b,
    "a - b": lambda a, b: a - b,
    "views": lambda a, b: a.reshape(6).reshape(2, 3).T.T + b[:, :],
    "sum": lambda a, b: a.sum() + b.sum(axis=0).sum(),
    "product": lambda a, b: a * b,
    "join": lambda a, b: tb.concatenate([a, b]) + tb.stack([a, b]).reshape(4, 3),
    "where": lambda a, b: tb.where(A > 0, a, b),
    "linear": lambda a, b: a @ b.T,
}


def nodes_of(root):
    return tb.topological_order(root)


@pytest.mark.parametrize("name", GRAPHS)
def test_gradients_share_memory_with_nothing(name):
    a, b = Tensor(A), Tensor(A + 1.0)
    y = GRAPHS[name](a, b)
    z = y + 0.0
    seed = np.ones(z.shape)
    z.backward(seed)
    z.backward(seed)
    nodes = nodes_of(z)
    arrays = [node.grad for node in nodes]
    everything = [*arrays, *(node.data for node in nodes), seed]
    for i, grad in enumerate(arrays):
        for j, other in enumerate(everything):
            assert i == j or not np.shares_memory(grad, other)
        assert grad.flags.writeable


def test_writing_to_a_gradient_changes_no_other():
    a, b = Tensor(A), Tensor(A)
    y = a + b
    y.sum().backward()
    a.grad[...] = 7.0
    np.testing.assert_array_equal(b.grad, 1.0)
    np.testing.assert_array_equal(y.grad, 1.0)
    np.testing.assert_array_equal(a.grad, 7.0)
    y.sum().backward()
    np.testing.assert_array_equal(a.grad, 8.0)
    np.testing.assert_array_equal(b.grad, 2.0)


def test_a_gradient_that_was_read_does_not_change_later():
    x = Tensor(A)
    (x * x).sum().backward()
    first = x.grad
    (x * x).sum().backward()
    np.testing.assert_array_equal(first, 2.0 * A)
    np.testing.assert_array_equal(x.grad, 4.0 * A)


def test_grad_is_the_same_array_each_time():
    x = Tensor(A)
    x.sum().backward()
    assert x.grad is x.grad
    x.grad *= 3.0
    np.testing.assert_array_equal(x.grad, 3.0)


def test_setting_grad():
    x = Tensor(A.astype(np.float32))
    given = np.ones((2, 3))
    x.grad = given
    given[:] = 9.0
    np.testing.assert_array_equal(x.grad, 1.0)
    assert x.grad.dtype == np.float32
    x.sum().backward()
    np.testing.assert_array_equal(x.grad, 2.0)
    x.grad = None
    assert x.grad is None
    with pytest.raises(ValueError, match="expected shape"):
        x.grad = np.ones(3)
    with pytest.raises(TypeError, match="grad"):
        x.grad = "a"
    x.grad = other = np.zeros((2, 3), np.float32)
    y = Tensor(A)
    y.grad = other
    assert not np.shares_memory(x.grad, y.grad)


def test_zero_grad():
    x = Tensor(A)
    x.sum().backward()
    x.zero_grad()
    assert x.grad is None
    x.sum().backward()
    np.testing.assert_array_equal(x.grad, 1.0)


# --- the sweep ----------------------------------------------------------------------------------


def test_a_non_scalar_needs_a_seed():
    y = Tensor(A) * 2.0
    with pytest.raises(ValueError, match=r"shape \(2, 3\) needs the gradient"):
        y.backward()


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_a_single_number_needs_none(shape):
    x = Tensor(np.full(shape, 3.0))
    (x * x).backward()
    np.testing.assert_array_equal(x.grad, np.full(shape, 6.0))


@pytest.mark.parametrize("seed", [np.ones(3), 1.0, np.ones((3, 2)), np.ones((2, 3, 1)), [1.0]])
def test_a_seed_of_another_shape_is_refused(seed):
    x = Tensor(A)
    with pytest.raises(ValueError, match=r"gradient: expected shape \(2, 3\)"):
        (x * 2.0).backward(seed)
    assert x.grad is None


@pytest.mark.parametrize("seed", ["a", np.ones((2, 3), bool), [[None] * 3] * 2, Tensor(A)])
def test_a_seed_that_is_no_array_of_numbers_is_refused(seed):
    with pytest.raises(TypeError, match="gradient"):
        (Tensor(A) * 2.0).backward(seed)


def test_seeds():
    x = Tensor(A.astype(np.float32))
    y = x * 2.0
    y.backward([[1, 0, 0], [0, 0, 3]])
    np.testing.assert_array_equal(x.grad, [[2, 0, 0], [0, 0, 6]])
    assert x.grad.dtype == y.grad.dtype == np.float32
    seed = np.ones((2, 3))
    y.backward(seed)
    seed[:] = 9.0
    np.testing.assert_array_equal(y.grad, 1.0)
    x.backward(np.ones((2, 3)))  # a leaf's own derivative
    np.testing.assert_array_equal(x.grad, [[5, 3, 3], [3, 3, 9]])


def test_leaves_accumulate_and_inner_nodes_do_not():
    x = Tensor(A)
    y = x * x
    z = y.sum()
    for k in (1, 2, 3):
        z.backward()
        np.testing.assert_array_equal(x.grad, k * 2.0 * A)
        np.testing.assert_array_equal(y.grad, 1.0)
        assert z.grad == 1.0


def test_leaves_only():
    x = Tensor(A)
    y = x * x
    z = y.sum()
    z.backward(leaves_only=True)
    np.testing.assert_array_equal(x.grad, 2.0 * A)
    assert y.grad is None
    assert z.grad is None
    z.backward()
    z.backward(leaves_only=True)
    np.testing.assert_array_equal(y.grad, 1.0)
    np.testing.assert_array_equal(x.grad, 6.0 * A)


def test_constants_get_no_gradient():
    x, c = Tensor(A), Tensor(A, requires_grad=False)
    y = x * c
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, A)
    assert c.grad is None
    assert not c.requires_grad
    assert not (c * c).requires_grad
    for constant in (c, c * 2.0, x.detach() + 1.0):
        with pytest.raises(ValueError, match="requires no gradient"):
            constant.sum().backward()


def test_detach():
    x = Tensor(A, "x")
    y = x * x.detach()
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, A)
    d = (x * 2.0).detach()
    assert d.is_leaf
    assert d.operands == ()
    np.testing.assert_array_equal(d.data, 2.0 * A)
    assert x.detach().label == "x"


def test_no_grad():
    x = Tensor(A)
    with tb.no_grad():
        y = tb.tanh(x * 2.0).sum()
        leaf = Tensor(A)
    assert not y.requires_grad
    assert y.is_leaf
    assert leaf.requires_grad
    (x * x).sum().backward()
    np.testing.assert_array_equal(x.grad, 2.0 * A)


def test_shared_expressions():
    """b = a + a; c = b + b: every node once, after all of its consumers."""
    a = Tensor(A)
    b = a + a
    c = b + b
    d = c * b
    d.sum().backward()
    np.testing.assert_array_equal(a.grad, 16.0 * A)  # d = 8 a²
    np.testing.assert_array_equal(b.grad, 8.0 * A)
    np.testing.assert_array_equal(c.grad, 2.0 * A)


def test_a_deep_graph():
    x = Tensor([1.0])
    y = x
    for _ in range(20_000):
        y = y + 1.0
    y.backward()
    assert x.grad == 1.0
    del y


def test_an_expression_with_everything():
    """Against derivatives worked out by hand: softmax regression, gradient p - t."""
    random = np.random.default_rng(3)
    X, t = random.normal(size=(5, 3)), np.eye(2)[[0, 1, 1, 0, 1]]
    W, b = Tensor(random.normal(size=(3, 2)), "W"), Tensor(np.zeros(2), "b")
    logits = X @ W + b
    loss = -(tb.log_softmax(logits) * t).sum() / 5
    loss.backward()
    p = np.exp(logits.data) / np.exp(logits.data).sum(1, keepdims=True)
    np.testing.assert_allclose(logits.grad, (p - t) / 5, rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(W.grad, X.T @ (p - t) / 5, rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(b.grad, (p - t).sum(0) / 5, rtol=1e-12, atol=1e-16)


@given(hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, max_side=3))
def test_broadcasting_is_undone(shapes):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    random = np.random.default_rng(0)
    arrays = [random.normal(size=s) for s in shapes.input_shapes]
    g = random.normal(size=shapes.result_shape)
    ours = [Tensor(x) for x in arrays]
    theirs = [torch.tensor(x, requires_grad=True) for x in arrays]
    for leaves, seed in ((ours, g), (theirs, torch.tensor(g))):
        a, b, c = leaves
        (a * b - c * a + b).backward(seed)
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad.shape == one.shape
        # sums of up to 27 products of normal numbers, in another order
        np.testing.assert_allclose(one.grad, other.grad.numpy(), rtol=1e-12, atol=1e-13)


@given(st.data())
def test_where_broadcasts_all_three(data):
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, max_side=3))
    random = np.random.default_rng(0)
    c, x, y = (random.normal(size=s) for s in shapes.input_shapes)
    g = random.normal(size=shapes.result_shape)
    a, b = Tensor(x), Tensor(y)
    tb.where(c > 0, a, b).backward(g)
    chosen = np.broadcast_to(c > 0, g.shape)
    for leaf, part in ((a, np.where(chosen, g, 0.0)), (b, np.where(chosen, 0.0, g))):
        extra = part.ndim - leaf.ndim
        part = part.sum(axis=tuple(range(extra)))
        ones = tuple(i for i, n in enumerate(leaf.shape) if n == 1)
        np.testing.assert_allclose(leaf.grad, part.sum(axis=ones, keepdims=True), atol=1e-13)


def test_steps_add_up_to_the_gradients():
    x, w = Tensor(A), Tensor(A.T)
    y = tb.tanh(x @ w) * tb.exp(x[:, :2]) + tb.clip(x[:, 1:], 0.0, w[:2])
    z = (y * y).mean()
    steps = list(tb.sweep(z))
    assert all(node.grad is None for node in tb.topological_order(z))
    assert [s.node for s in steps] == tb.topological_order(z)[::-1]
    total = {}
    for step in steps:
        for edge in step.edges:
            total[edge.parent] = total.get(edge.parent, 0.0) + edge.contribution
    z.backward()
    for step in steps:
        np.testing.assert_array_equal(step.gradient, step.node.grad)
        if step.node is not z:
            np.testing.assert_array_equal(total[step.node], step.node.grad)
    for step in steps:
        assert [e.parent for e in step.edges] == list(step.node.parents)
        for edge in step.edges:
            np.testing.assert_array_equal(edge.local * step.gradient, edge.contribution)


def test_local_derivatives_are_named():
    x, w = Tensor(A), Tensor(A.T)
    names = [local.name for node in (x @ w, tb.tanh(x), x * x) for local in node.locals]
    assert names == ["matmul_dx", "matmul_dy", "tanh_dx", "multiply_dx", "multiply_dy"]
    assert [d.name for d in tb.stack([x, x, x]).locals] == [f"stack_dx[{i}]" for i in range(3)]
    assert "matmul_dx" in repr((x @ w).locals[0])


def test_operands_and_parents():
    x, c = Tensor(A), Tensor(A, requires_grad=False)
    y = x * c
    assert y.operands == (x, c)
    assert y.parents == (x,)
    z = tb.concatenate([c, x, c, x])
    assert [o is p for o, p in zip(z.operands, (c, x, c, x), strict=True)] == [True] * 4
    assert len(z.parents) == 2
    z.sum().backward()
    np.testing.assert_array_equal(x.grad, 2.0)


# --- failures and threads -----------------------------------------------------------------------


def test_a_failed_sweep_changes_no_gradient(spoilt_rule):
    x, y = Tensor(A), Tensor(A)
    (x * y).sum().backward()
    inner = x * y
    z = (inner + spoilt_rule(x * x)).sum()
    with pytest.raises(ZeroDivisionError):
        z.backward()
    np.testing.assert_array_equal(x.grad, A)
    np.testing.assert_array_equal(y.grad, A)
    assert inner.grad is None
    assert z.grad is None


def test_an_abandoned_sweep_changes_no_gradient():
    x = Tensor(A)
    y = (x * x).sum()
    steps = tb.sweep(y)
    next(steps)
    next(steps)
    steps.close()
    assert x.grad is None


@pytest.fixture
def hasty_threads():
    """Threads that take turns as often as they can, so that a race is lost if it can be."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty_threads")
def test_threads_share_leaves():
    """8 threads, 20 sweeps each, over the same leaves: every contribution arrives exactly once."""
    leaves = [Tensor([1.0, 2.0]) for _ in range(50)]
    start, errors = threading.Barrier(8), []

    def work(k):
        try:
            start.wait()
            for _ in range(20):
                with tb.no_grad():
                    assert not (leaves[0] * 2.0).requires_grad
                tb.stack([x * float(k) + x for x in leaves]).sum().backward()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    for x in leaves:
        np.testing.assert_array_equal(x.grad, 20.0 * (sum(range(8)) + 8))


# --- copies -------------------------------------------------------------------------------------

COPIES = [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]


@pytest.mark.parametrize("duplicate", COPIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tracked", [True, False])
def test_leaves_copy(duplicate, dtype, tracked):
    x = Tensor(A.astype(dtype), "x", requires_grad=tracked)
    y = duplicate(x)
    assert (y.label, y.requires_grad, y.dtype) == ("x", tracked, np.dtype(dtype))
    np.testing.assert_array_equal(y.data, x.data)
    assert not np.shares_memory(y.data, x.data)
    assert y is not x
    assert y.grad is None


@pytest.mark.parametrize("duplicate", COPIES)
def test_history_does_not_copy(duplicate):
    with pytest.raises(TypeError, match=r"use \.detach\(\)"):
        duplicate(Tensor(A) * 2.0)
    assert not duplicate((Tensor(A) * 2.0).detach()).requires_grad


# --- as a Python object -------------------------------------------------------------------------


def test_numbers():
    x = Tensor([[2.5]])
    assert float(x) == x.item() == 2.5
    assert isinstance(x.item(), float)
    assert bool(x)
    assert not Tensor(0.0)
    for f in (float, bool, Tensor.item):
        for bad in (Tensor(A), Tensor([])):
            with pytest.raises(ValueError, match="one element"):
                f(bad)


def test_length_and_iteration():
    x = Tensor(A)
    assert len(x) == 2
    rows = list(x)
    assert [r.shape for r in rows] == [(3,), (3,)]
    sum((i + 1.0) * row.sum() for i, row in enumerate(rows)).backward()
    np.testing.assert_array_equal(x.grad, [[1, 1, 1], [2, 2, 2]])
    a, b, c = x[0]
    assert (a.item(), b.item(), c.item()) == tuple(A[0])
    for f in (len, iter, list):
        with pytest.raises(TypeError):
            f(Tensor(1.0))


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (Tensor(1.5), "Tensor(1.5)"),
        (Tensor([1.0, 2.0], "x"), "Tensor([1., 2.], label='x')"),
        (Tensor([1.0], dtype=np.float32), "Tensor([1.], dtype=float32)"),
        (Tensor(np.zeros((4, 5))), "Tensor(shape=(4, 5))"),
        (Tensor([[1.0], [2.0]]), "Tensor([[1.],\n        [2.]])"),
    ],
)
def test_repr(x, text):
    assert repr(x) == text
    assert str(x) == text


COMPARISONS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]


@pytest.mark.parametrize(
    "other", [0.5, 1, np.float64(0.5), A, A[0], [1.5, -2, 0], Tensor(A.copy())]
)
@pytest.mark.parametrize("compare", COMPARISONS)
def test_comparisons_are_by_data(compare, other):
    plain = other.data if isinstance(other, Tensor) else np.asarray(other)
    for got, expected in [
        (compare(Tensor(A), other), compare(A, plain)),
        (compare(other, Tensor(A)), compare(plain, A)),
    ]:
        assert type(got) is np.ndarray
        assert got.dtype == bool
        np.testing.assert_array_equal(got, expected)


def test_comparison_with_what_is_no_number():
    x = Tensor(A)
    assert (x == None) is False  # noqa: E711
    assert (x != None) is True  # noqa: E711
    assert (x == "a") is False
    for bad in (None, "a", object()):
        with pytest.raises(TypeError):
            _ = x < bad


@pytest.mark.parametrize("compare", COMPARISONS)
def test_comparison_with_a_value_is_by_data_or_refused(compare):
    for f in (lambda x: compare(x, Value(0.5)), lambda x: compare(Value(0.5), x)):
        try:
            got = f(Tensor(A))
        except TypeError:
            continue
        expected = compare(A, 0.5) if f(Tensor(0.0)) == compare(0.0, 0.5) else compare(0.5, A)
        np.testing.assert_array_equal(got, expected)


def test_hash_is_identity():
    x, y = Tensor(1.0), Tensor(1.0)
    assert hash(x) != hash(y)
    assert len({x: 1, y: 2}) == 2
    assert {x: 1, y: 2}[x] == 1


@pytest.mark.parametrize(("i", "j"), list(itertools.combinations(range(3), 2)))
def test_different_dtypes_promote(i, j):
    arrays = [np.ones(2, np.float32), np.ones(2), np.ones(2, int)]
    x = Tensor(arrays[i])
    y = x * arrays[j]
    assert y.dtype == np.float64
    y.sum().backward()
    assert x.grad.dtype == x.dtype


def test_float32_stays_float32_through_a_network():
    x = Tensor(A.astype(np.float32))
    w = Tensor(np.full((3, 2), 0.5, np.float32))
    y = tb.log_softmax(tb.gelu(tb.tanh(x @ w) * 2 + 1) ** 2 / np.float64(3))
    y = -tb.where(y.data < -0.5, y, 0.0).mean() + 0.1 * tb.norm(w) + math.pi
    assert y.dtype == np.float32
    y.backward()
    assert all(node.grad.dtype == np.float32 for node in tb.topological_order(y))


def test_nothing_that_a_sweep_needs_can_be_written_through():
    x, y, c = Tensor([1.0, 2.0]), Tensor([3.0, 4.0]), np.array([5.0, 6.0])
    z = (x * y * c).sum()
    for step in tb.sweep(z):
        shown = [step.gradient, *step.node.operands]
        for edge in step.edges:
            shown += [edge.contribution, edge.local.result, *edge.local.operands]
            if hasattr(edge.local, "partial"):
                shown.append(edge.local.partial())
        for array in shown:
            if isinstance(array, np.ndarray) and array.ndim:
                with pytest.raises(ValueError, match="read-only"):
                    array[...] = -7.0
    z.backward()
    np.testing.assert_array_equal(x.grad, [15.0, 24.0])
    np.testing.assert_array_equal(y.grad, [5.0, 12.0])


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda x: x.sum(axis=5), "sum: axis: expected axes of 2 dimensions, got 5$"),
        (lambda x: tb.expand_dims(x, (0, 7)), "axis: expected axes of 4 dimensions, got 0, 7$"),
        (lambda x: tb.expand_dims(x, 3), "axis: expected axes of 3 dimensions, got 3$"),
        (lambda x: tb.stack([x, x], -4), "axis: expected axes of 3 dimensions, got -4$"),
    ],
)
def test_an_axis_that_is_not_there_is_told_with_how_many_there_are(operation, message):
    with pytest.raises(np.exceptions.AxisError, match=message):
        operation(Tensor(np.ones((2, 3))))


def test_what_does_not_become_an_array_says_why():
    class Foreign:  # such as a tensor of PyTorch that requires a gradient
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("use detach()")

    with pytest.raises(TypeError, match=r"^Tensor: expected numbers, got Foreign: use detach\(\)$"):
        Tensor(Foreign())


def test_logsumexp_keeps_dimensions_by_an_integer_as_a_sum_does():
    x = Tensor(np.zeros((2, 3)))
    assert [tb.logsumexp(x, axis=1, keepdims=k).shape for k in (0, 1)] == [(2,), (2, 1)]


# --- arrays of other libraries ------------------------------------------------------------------


class Foreign:
    """An array as PyTorch's are: converted by a method that knows no `copy`."""

    def __init__(self, numbers, requires_grad=False):
        self.numbers, self.requires_grad = np.asarray(numbers), requires_grad
        self.shape, self.dtype = self.numbers.shape, "foreign"

    def __array__(self, dtype=None):
        if self.requires_grad:
            raise RuntimeError("it has a gradient")
        return self.numbers if dtype is None else self.numbers.astype(dtype)


def test_an_array_of_another_library_is_taken_as_numbers():
    x, other = Tensor([1.0, 2.0, 3.0]), Foreign([1.0, 5.0, 3.0])
    assert np.array_equal((x * other).data, [1.0, 10.0, 9.0])
    assert np.array_equal(x == other, [True, False, True])
    assert np.array_equal(Tensor(other).data, other.numbers)
    layer = tb.nn.Linear(3, 2, rng=0)
    assert np.array_equal(layer(other).data, layer(other.numbers).data)


def test_one_with_a_gradient_of_its_own_is_refused():
    x, other = Tensor([1.0, 2.0, 3.0]), Foreign([1.0, 5.0, 3.0], requires_grad=True)
    for use in (Tensor, x.__mul__, x.__eq__, x.__matmul__, tb.nn.Linear(3, 2, rng=0), tb.values):
        with pytest.raises(TypeError, match=r"gradient of its own.*detach\(\)\.numpy\(\)"):
            use(other)


@pytest.mark.parametrize("of", [lambda x, i: x[i], tb.take, lambda x, i: x[i, None][:, 0]])
def test_an_index_of_another_library_is_fixed_when_it_is_recorded(of):
    x, index = Tensor([1.0, 2.0, 3.0]), Foreign([0, 1])
    y = of(x, index) * np.array([1.0, 10.0])
    index.numbers[0] = 2
    y.sum().backward()
    assert np.array_equal(x.grad, [1.0, 10.0, 0.0])
