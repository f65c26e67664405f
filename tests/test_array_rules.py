"""Every structural rule: values by plain numpy, gradients by a complex step through that numpy.

The complex step, Im f(x + ih) / h, takes no difference, so it is right to rounding; it runs through
formulas written here, never through the rules.
"""

import math
import pickle
import string
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_bp as tb
from tinygrad_bp import Tensor, arrays
from tinygrad_bp.array_rules import ARRAY_RULES, explicit, getitem, scaled_sum, scatter

nan, inf = math.nan, math.inf
STEP = 1e-100
# Sums of up to 100 terms of size 1 to 10, in another order than the formula's: 100 * 10 * 2.2e-16,
# of which the errors, being of either sign, use a small part.
ROUNDINGS = 1e-13


class Case(NamedTuple):
    """An operation of the library, the same in numpy, and what to apply them to."""

    call: Callable[..., Any]
    formula: Callable[..., Any]
    operands: tuple[Any, ...]
    name: str


def numbers(*shape, seed=0):
    """Distinct numbers of both signs, none near 0."""
    random = np.random.default_rng([seed, *shape])
    x = random.uniform(0.3, 2.0, shape)
    return x * random.choice([-1.0, 1.0], shape)


def shown(x):
    return f"array{list(np.shape(x))}" if isinstance(x, np.ndarray) else repr(x)


def case(call, formula, *operands, args=(), **options):
    name = ",".join(shown(np.asarray(x)) for x in operands)
    name += "".join(f",{shown(a)}" for a in args) + "".join(f",{k}={v}" for k, v in options.items())
    return Case(
        lambda *x: call(*x, *args, **options),
        lambda *x: formula(*x, *args, **options),
        operands,
        name,
    )


def sequence(call, formula, *operands, **options):
    name = ",".join(shown(x) for x in operands) + "".join(f",{k}={v}" for k, v in options.items())
    return Case(
        lambda *x: call(list(x), **options), lambda *x: formula(list(x), **options), operands, name
    )


def to_its_own_dtype(x):
    return tb.astype(x, x.dtype if isinstance(x, Tensor) else np.float64)


def contraction(subscripts, *operands):
    return Case(
        lambda *x: tb.einsum(subscripts, *x),
        lambda *x: np.einsum(subscripts, *x),
        operands,
        subscripts + " " + ",".join(shown(x) for x in operands),
    )


def derivatives(formula, operands, g):
    """The gradients of sum(formula(...) * g), by one complex step per element."""
    gradients = []
    for which, x in enumerate(operands):
        gradient = np.empty(x.shape)
        for place in np.ndindex(x.shape):
            moved = [np.array(y, complex) for y in operands]
            moved[which][place] += 1j * STEP
            gradient[place] = np.sum(np.imag(formula(*moved)) * g) / STEP
        gradients.append(gradient)
    return gradients


def swept(call, operands, g):
    leaves = [Tensor(x) for x in operands]
    result = call(*leaves)
    result.backward(g)
    return [leaf.grad for leaf in leaves]


def seed_for(result, seed=1):
    return np.random.default_rng(seed).normal(size=result.shape)


def agrees(call, formula, operands):
    operands = [np.asarray(x, float) for x in operands]
    expected = np.asarray(formula(*operands))
    result = call(*[Tensor(x) for x in operands])
    assert result.shape == expected.shape
    np.testing.assert_allclose(result.data, expected, rtol=ROUNDINGS, atol=ROUNDINGS)
    g = seed_for(expected)
    got = swept(call, operands, g)
    for one, other, x in zip(got, derivatives(formula, operands, g), operands, strict=True):
        assert one.shape == x.shape
        np.testing.assert_allclose(one, other, rtol=ROUNDINGS, atol=ROUNDINGS)


# --- numpy's reductions, for complex numbers ----------------------------------------------------


def extreme(choose):
    """max or min where there are no ties: a sum over the one that is chosen."""

    def reduction(x, axis=None, keepdims=False):
        chosen = np.real(x) == choose(np.real(x), axis=axis, keepdims=True)
        return np.sum(np.where(chosen, x, 0.0), axis=axis, keepdims=keepdims)

    return reduction


def variance(x, axis=None, ddof=0, keepdims=False):
    deviation = x - np.mean(x, axis=axis, keepdims=True)
    count = x.size / deviation.mean(axis=axis, keepdims=True).size
    return np.sum(deviation**2, axis=axis, keepdims=keepdims) / (count - ddof)


def length(x, axis=None, keepdims=False):
    return np.sqrt(np.sum(x**2, axis=axis, keepdims=keepdims))


def log_sum_exp(x, axis=None, keepdims=False):
    return np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims))


def soft_max(x, axis=-1):
    return np.exp(x) / np.sum(np.exp(x), axis=axis, keepdims=True)


def scattered(x, index, shape):
    result = np.zeros(shape, x.dtype)
    np.add.at(result, index, x)
    return result


# --- the table ----------------------------------------------------------------------------------

V, M, B = numbers(5), numbers(3, 4), numbers(2, 3, 4)
Z = np.array(1.3)

REDUCED = [
    (V, {}),
    (M, {}),
    (Z, {}),
    (M, {"axis": 0}),
    (M, {"axis": -1}),
    (B, {"axis": 1}),
    (B, {"axis": (0, 2)}),
    (B, {"axis": (-1, 0)}),
    (B, {"axis": (2, 1), "keepdims": True}),
    (B, {"axis": -2, "keepdims": True}),
    (B, {"keepdims": True}),
    (B, {"axis": (0, 1, 2)}),
    (numbers(1, 3, 1), {"axis": 0}),
    (numbers(1, 1), {}),
]


def reductions(call, formula):
    return [case(call, formula, x, **options) for x, options in REDUCED]


MATMUL_SHAPES = [
    ((3,), (3,)),
    ((3,), (3, 4)),
    ((2, 3), (3,)),
    ((2, 3), (3, 4)),
    ((1, 3), (3, 1)),
    ((1,), (1,)),
    ((5, 2, 3), (5, 3, 4)),
    ((5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)),
    ((1, 2, 3), (5, 3, 4)),
    ((5, 1, 2, 3), (2, 3, 4)),
    ((3,), (5, 3, 4)),
    ((3,), (2, 5, 3, 4)),
    ((5, 2, 3), (3,)),
    ((2, 5, 2, 3), (3,)),
]

EINSUMS = [
    contraction("ij,jk->ik", numbers(2, 3), numbers(3, 4)),
    contraction("ij,jk", numbers(2, 3), numbers(3, 4)),
    contraction("ba,ac", numbers(2, 3), numbers(3, 4)),
    contraction("ji", M),
    contraction("ij->ji", M),
    contraction("ij->i", M),
    contraction("ij->j", M),
    contraction("ij->", M),
    contraction("i->", V),
    contraction("->", Z),
    contraction(",->", Z, np.array(0.4)),
    contraction(",ij->ij", Z, M),
    contraction("ii->i", numbers(3, 3)),
    contraction("ii->", numbers(3, 3)),
    contraction("ii", numbers(3, 3)),
    contraction("iij->ij", numbers(2, 2, 3)),
    contraction("iji->j", numbers(2, 3, 2)),
    contraction("iji->ij", numbers(2, 3, 2)),
    contraction("iii->i", numbers(2, 2, 2)),
    contraction("iijj->ij", numbers(2, 2, 3, 3)),
    contraction("iij->j", numbers(2, 2, 3)),
    contraction("ii,ij->j", numbers(2, 2), numbers(2, 3)),
    contraction("i,i->", V, V[::-1]),
    contraction("i,i", V, V[::-1]),
    contraction("i,j->ij", V, numbers(3)),
    contraction("i,j", V, numbers(3)),
    contraction("i,j->", V, numbers(3)),
    contraction("ij,ij->ij", M, M[::-1]),
    contraction("ij,k->i", M, V),
    contraction("bij,bjk->bik", numbers(2, 3, 4), numbers(2, 4, 2)),
    contraction("...ij,...jk->...ik", numbers(2, 3, 4), numbers(4, 2)),
    contraction("...ij,jk->...ik", numbers(2, 2, 3), numbers(3, 2)),
    contraction("...i,...i", numbers(2, 1, 3), numbers(4, 3)),
    contraction("...i,...i->...", numbers(1, 3), numbers(4, 3)),
    contraction("i...,i...->...", numbers(3, 2), numbers(3, 1)),
    contraction("i...->...", numbers(3, 2)),
    contraction("...->...", M),
    contraction("...", M),
    contraction("...ii->...i", numbers(2, 3, 3)),
    contraction("i...i", numbers(3, 2, 3)),
    contraction("ij,jk,kl->il", numbers(2, 3), numbers(3, 4), numbers(4, 2)),
    contraction("i,ij,j->", numbers(3), M, numbers(4)),
    contraction("i,i,i->i", V, V[::-1], V + 1.0),
    contraction("bhqd,bhkd->bhqk", numbers(2, 2, 3, 2), numbers(2, 2, 4, 2)),
    contraction("ij,ij->ij", numbers(1, 3), numbers(4, 3)),
    contraction("ij,jk->ik", numbers(2, 1), numbers(3, 4)),
    contraction("i,ij->j", numbers(1), numbers(3, 2)),
    contraction("ii,i->i", numbers(1, 1), numbers(3)),
    contraction(" i j , j k -> i k ", numbers(2, 3), numbers(3, 4)),
    contraction("AB,Bc->Ac", numbers(2, 3), numbers(3, 4)),
]

INDICES = [
    0,
    -1,
    np.int64(1),
    slice(1, None),
    slice(None, None, -1),
    slice(None, None, 2),
    slice(0, 0),
    ...,
    None,
    (),
    (slice(None), -1),
    (..., 0),
    (0, ..., slice(None, None, -2)),
    (None, 1, None),
    (slice(None), None, slice(1, 3)),
    [0, 0, 1],
    [],
    [[0, 1], [1, 1]],
    np.array([1, 0, 1, 1]),
    np.array([-1, 1]),
    np.array([[0, 1], [1, 1]]),
    np.array(1),
    (np.array([0, 1, 0]), np.array([2, 2, 2])),
    (np.array([[0], [1]]), np.array([0, 2])),
    (slice(None), np.array([0, 0]), slice(1, 3)),
    (np.array([0, 0]), slice(None), np.array([1, 1])),
    (0, slice(None), np.array([3, 3, 0])),
    (slice(None), [0, 0]),
    (None, np.array([0, 0]), ..., 1),
    np.array([True, False]),
    [True, False],
    True,
    (np.array([True, True]), 0),
    (slice(None), np.array([True, False, True])),
    (np.array([True, True]), np.array([2, 2])),
    B > 0,
    np.zeros(B.shape, bool),
    (B[..., 0] > 0, slice(None, None, -1)),
]

CASES = {
    "matmul": [
        case(tb.matmul, np.matmul, numbers(*a), numbers(*b, seed=1)) for a, b in MATMUL_SHAPES
    ],
    "linear": [
        case(
            tb.linear,
            lambda x, W, b: x @ W + b,
            numbers(*x),
            numbers(3, 4, seed=1),
            numbers(*b, seed=2),
        )
        for x, b in [
            ((3,), (4,)),
            ((2, 3), (4,)),
            ((5, 2, 3), (4,)),
            ((0, 3), (4,)),
        ]
    ],
    "contract": EINSUMS,
    "sum": [*reductions(tb.sum, np.sum), case(tb.sum, np.sum, B, axis=())],
    "scaled_sum": [
        case(scaled_sum, lambda x, factor: factor * np.sum(x), x, args=(-0.5,)) for x in (V, B, Z)
    ],
    "mean": reductions(tb.mean, np.mean),
    "var": [
        *reductions(tb.var, variance),
        case(tb.var, variance, M, ddof=1),
        case(tb.var, variance, B, axis=(0, 2), ddof=1, keepdims=True),
        case(tb.var, variance, B, axis=-1, ddof=0.5),
    ],
    "max": reductions(tb.max, extreme(np.max)),
    "min": reductions(tb.min, extreme(np.min)),
    "prod": reductions(tb.prod, np.prod)
    + [
        case(tb.prod, np.prod, np.where(zeros, 0.0, B), **options)
        for zeros in (
            np.arange(24).reshape(B.shape) == 5,
            np.isin(np.arange(24).reshape(B.shape), (5, 6)),
            np.isin(np.arange(24).reshape(B.shape), (5, 9, 13, 20)),
            np.ones(B.shape, bool),
        )
        for options in ({}, {"axis": 1}, {"axis": -1, "keepdims": True}, {"axis": (2, 0)})
    ]
    + [case(tb.prod, np.prod, np.array(x)) for x in (0.0, [0.0], [0.0, 3.0], [-0.0, 0.0])],
    "cumsum": [
        case(tb.cumsum, np.cumsum, x, **options)
        for x, options in [
            (V, {}),
            (B, {}),
            (B, {"axis": 0}),
            (B, {"axis": 1}),
            (B, {"axis": -1}),
            (Z, {}),
            (numbers(1, 3), {"axis": 0}),
        ]
    ],
    "norm": reductions(tb.norm, length),
    "logsumexp": reductions(tb.logsumexp, log_sum_exp),
    "softmax": [case(tb.softmax, soft_max, V)]
    + [case(tb.softmax, soft_max, B, axis=a) for a in (0, 1, -1, (1, 2), None)],
    "log_softmax": [case(tb.log_softmax, lambda x: np.log(soft_max(x)), V)]
    + [
        case(tb.log_softmax, lambda x, axis: np.log(soft_max(x, axis)), B, axis=a)
        for a in (0, 1, -1, (1, 2), None)
    ],
    "reshape": [
        case(tb.reshape, np.reshape, x, args=(shape,))
        for x, shape in [
            (B, (6, 4)),
            (B, (4, -1)),
            (B, -1),
            (B, 24),
            (B, [3, 8]),
            (numbers(1, 1), ()),
            (Z, (1, 1)),
        ]
    ],
    # To the same width, so that the tables of cases hold for it; other widths: test_astype.
    "astype": [case(to_its_own_dtype, lambda x: x + 0.0, x) for x in (Z, V, M)],
    "transpose": [case(tb.transpose, np.transpose, x) for x in (Z, V, M, B)]
    + [
        case(tb.transpose, np.transpose, B, args=(axes,))
        for axes in [(2, 0, 1), (1, 2, 0), (0, -1, 1), (-1, -3, -2), [1, 0, 2]]
    ],
    "expand_dims": [
        case(tb.expand_dims, np.expand_dims, M, args=(axis,))
        for axis in (0, 1, -1, (0, 2), (-1, 1))
    ]
    + [case(tb.expand_dims, np.expand_dims, Z, args=(0,))],
    "squeeze": [
        case(tb.squeeze, np.squeeze, numbers(1, 3, 1)),
        case(tb.squeeze, np.squeeze, numbers(1, 3, 1), axis=0),
        case(tb.squeeze, np.squeeze, numbers(1, 3, 1), axis=(0, -1)),
        case(tb.squeeze, np.squeeze, numbers(1, 1)),
        case(tb.squeeze, np.squeeze, M),
    ],
    "broadcast_to": [
        case(tb.broadcast_to, np.broadcast_to, x, args=(shape,))
        for x, shape in [
            (numbers(4), (3, 4)),
            (numbers(3, 1), (3, 4)),
            (numbers(1, 3, 1), (2, 4, 3, 2)),
            (Z, (2, 3)),
            (M, (3, 4)),
            (numbers(1), [2, 3]),
            (numbers(2, 1), (2, 0)),
        ]
    ],
    "flip": [case(tb.flip, np.flip, B, axis=a) for a in (None, 0, -1, (0, 2))]
    + [case(tb.flip, np.flip, Z)],
    "pad": [
        case(tb.pad, lambda x, w, **o: np.pad(x, w, **o), x, args=(width,), **options)
        for x, width, options in [
            (V, 2, {}),
            (V, (1, 3), {}),
            (V, 0, {}),
            (M, 1, {}),
            (M, (0, 2), {}),
            (M, ((1, 2),), {}),
            (M, ((1, 2), (0, 3)), {}),
            (M, [[1, 2], [0, 3]], {}),
            (M, np.array([[1, 2], [0, 3]]), {}),
            (M, ((1,), (2,)), {}),
            (M, 1, {"constant_values": -7.5}),
        ]
    ],
    "tril": [case(tb.tril, np.tril, x, k=k) for x in (M, B) for k in (0, 1, -2, 9)]
    + [case(tb.tril, np.tril, V)],
    "triu": [case(tb.triu, np.triu, x, k=k) for x in (M, B) for k in (0, 1, -2, -9)]
    + [case(tb.triu, np.triu, V)],
    "getitem": [case(lambda x, i: x[i], lambda x, i: x[i], B, args=(i,)) for i in INDICES],
    "scatter": [
        case(scatter, scattered, x, args=(index, shape))
        for x, index, shape in [
            (numbers(3), np.array([0, 2, 0]), (4,)),
            (numbers(2, 3), np.array([1, 1]), (3, 3)),
            (numbers(3), (1, slice(None)), (2, 3)),
            (Z, (1, 1), (2, 3)),
            (numbers(2), np.array([True, False, True]), (3,)),
        ]
    ],
    "take": [
        case(tb.take, np.take, x, args=(indices,), **options)
        for x, indices, options in [
            (V, 2, {}),
            (V, [1, 1, -1], {}),
            (B, [5, 5, 23], {}),
            (B, np.array([[0, 1], [1, 1]]), {}),
            (B, [[0, 1], [1, 1]], {"axis": 1}),
            (B, [1, 1, 0], {"axis": 0}),
            (B, 2, {"axis": -1}),
            (B, np.array([3, 3]), {"axis": -1}),
            (B, np.array([], int), {"axis": 1}),
        ]
    ],
    "take_along_axis": [
        case(tb.take_along_axis, np.take_along_axis, x, args=(np.array(indices), axis))
        for x, indices, axis in [
            (V, [0, 0, 4], 0),
            (M, [[0, 0, 1], [3, 3, 3], [-1, 0, 2]], 1),
            (M, [[0, 2, 2, 1]], 0),
            (M, [[0], [3], [1]], -1),
            (B, np.argsort(B, axis=1), 1),
            (B, np.argsort(B, axis=0)[[0, 0, 0]], -3),
            (M, [[0, 0]], 1),  # one row of positions for all rows, as numpy allows
        ]
    ],
    "concatenate": [
        sequence(tb.concatenate, np.concatenate, numbers(2), numbers(3)),
        sequence(tb.concatenate, np.concatenate, numbers(2, 3), numbers(1, 3), numbers(4, 3)),
        sequence(tb.concatenate, np.concatenate, numbers(2, 3), numbers(2, 1), axis=1),
        sequence(tb.concatenate, np.concatenate, numbers(2, 3), numbers(2, 0), axis=-1),
        sequence(tb.concatenate, np.concatenate, B, B + 1.0, axis=-2),
        sequence(tb.concatenate, np.concatenate, V),
    ],
    "stack": [
        sequence(tb.stack, np.stack, *(numbers(2, 3, seed=i) for i in range(3)), axis=axis)
        for axis in (0, 1, 2, -1, -3)
    ]
    + [sequence(tb.stack, np.stack, Z, Z + 1.0), sequence(tb.stack, np.stack, V)],
}

ALL = [
    pytest.param(c, id=f"{name}:{c.name}".replace(" ", ""))
    for name, cs in CASES.items()
    for c in cs
]
every_case = pytest.mark.parametrize("case", ALL)


def test_every_rule_has_cases():
    assert set(CASES) == set(ARRAY_RULES)
    assert all(CASES.values())


@pytest.mark.parametrize("rule", ARRAY_RULES.values(), ids=list(ARRAY_RULES))
def test_table_entry_is_complete(rule):
    assert rule.__doc__
    assert repr(rule) == f"<rule {rule.name}>"
    assert pickle.loads(pickle.dumps(rule)) is rule
    assert all(pullback.__name__ != "<lambda>" for pullback in rule.pullbacks)
    # Used through einsum, x[...] and the losses.
    if rule.name not in ("contract", "getitem", "scaled_sum", "scatter"):
        assert getattr(tb, rule.name) is rule


# --- values and gradients -----------------------------------------------------------------------


@every_case
def test_value_and_gradient(case):
    agrees(case.call, case.formula, case.operands)


def test_astype():
    x, w = Tensor([1.0, 1 / 3]), Tensor([3.0, 4.0])
    narrow = tb.astype(x, np.float32)
    assert narrow.dtype == np.float32
    assert narrow.data.tolist() == [1.0, float(np.float32(1 / 3))]
    (narrow.astype(np.float64) * w).sum().backward()
    assert x.grad.dtype == np.float64
    assert x.grad.tolist() == [3.0, 4.0]
    for dtype in (np.int64, bool, complex, np.float16):
        with pytest.raises(TypeError, match="float32 or float64"):
            x.astype(dtype)


def test_the_gradient_of_a_narrow_array_is_narrow_before_the_sweep_sees_to_it():
    narrow = np.ones(2, np.float32)
    g = ARRAY_RULES["astype"].pull(arrays, 0, np.ones(2), None, [narrow], (np.float64,), {})
    assert g.dtype == np.float32


@every_case
def test_float32_in_float32_out(case):
    operands = [np.asarray(x, np.float32) for x in case.operands]
    leaves = [Tensor(x) for x in operands]
    result = case.call(*leaves)
    assert result.dtype == np.float32
    g = seed_for(result).astype(np.float32)
    result.backward(g)
    wide = swept(case.call, [x.astype(np.float64) for x in operands], g.astype(np.float64))
    for leaf, expected in zip(leaves, wide, strict=True):
        assert leaf.grad.dtype == np.float32
        # products and sums of a few dozen numbers up to 10, in float32
        np.testing.assert_allclose(leaf.grad, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", [c for c in ALL if len(c.values[0].operands) > 1])
def test_with_all_operands_but_one_constant(case):
    expected = case.formula(*case.operands)
    g = seed_for(expected)
    whole = swept(case.call, case.operands, g)
    for i, x in enumerate(case.operands):
        leaf = Tensor(x)
        result = case.call(*(leaf if j == i else y for j, y in enumerate(case.operands)))
        result.backward(g)
        np.testing.assert_allclose(leaf.grad, whole[i], rtol=1e-15)


@every_case
def test_constants_and_no_grad_give_the_same_value(case):
    leaves = [Tensor(x) for x in case.operands]
    expected = case.call(*leaves).data
    constant = case.call(*[Tensor(x, requires_grad=False) for x in case.operands])
    with tb.no_grad():
        unrecorded = case.call(*leaves)
    for result in (constant, unrecorded):
        np.testing.assert_array_equal(result.data, expected)
        assert not result.requires_grad
        assert result.is_leaf


@every_case
def test_second_contribution_adds(case):
    """Two uses of the same operands: it doubles, whatever views the pullbacks hand out."""
    leaves = [Tensor(x) for x in case.operands]
    result = case.call(*leaves) + case.call(*leaves)
    g = seed_for(result)
    result.backward(g)
    for leaf, once in zip(leaves, swept(case.call, case.operands, g), strict=True):
        np.testing.assert_allclose(leaf.grad, 2.0 * once, rtol=1e-15)


# --- any shape ----------------------------------------------------------------------------------

shapes = hnp.array_shapes(min_dims=1, max_dims=4, max_side=3)


@given(st.data())
def test_reductions_of_any_shape(data):
    shape = data.draw(shapes)
    n = len(shape)
    axis = data.draw(
        st.none()
        | st.integers(-n, n - 1)
        | st.lists(st.integers(0, n - 1), unique=True, min_size=1).map(tuple)
    )
    keepdims = data.draw(st.booleans())
    pairs = [
        (tb.sum, np.sum),
        (tb.mean, np.mean),
        (tb.var, variance),
        (tb.prod, np.prod),
        (tb.max, extreme(np.max)),
        (tb.logsumexp, log_sum_exp),
        (tb.norm, length),
    ]
    call, formula = data.draw(st.sampled_from(pairs))
    options = {"axis": axis, "keepdims": keepdims}
    agrees(lambda x: call(x, **options), lambda x: formula(x, **options), [numbers(*shape)])


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("f", [tb.sum, tb.mean, tb.prod, tb.max])
def test_a_single_number_may_be_reduced_as_if_it_had_an_axis(f, axis):
    """numpy allows it for sums, products and choices."""
    x = Tensor(3.0)
    y = f(x, axis=axis)
    y.backward()
    assert (y.shape, y.item(), x.grad.item()) == ((), 3.0, 1.0)


@given(hnp.mutually_broadcastable_shapes(signature=np.matmul.signature, max_dims=2, max_side=3))
def test_matmul_of_any_shapes(shapes):
    x, y = (numbers(*s, seed=i) for i, s in enumerate(shapes.input_shapes))
    agrees(tb.matmul, np.matmul, [x, y])
    agrees(lambda x, y: x @ y, np.matmul, [x, y])


@given(st.data())
def test_basic_indexing_of_any_shape(data):
    shape = data.draw(shapes)
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    agrees(lambda x: x[index], lambda x: x[index], [numbers(*shape)])


@given(st.data())
def test_integer_indexing_of_any_shape(data):
    shape = data.draw(shapes)
    result = hnp.array_shapes(max_dims=2, max_side=4)
    index = data.draw(hnp.integer_array_indices(shape, result_shape=result))
    agrees(lambda x: x[index], lambda x: x[index], [numbers(*shape)])


@given(st.data())
def test_boolean_indexing_of_any_shape(data):
    shape = data.draw(shapes)
    index = data.draw(hnp.arrays(bool, shape[: data.draw(st.integers(1, len(shape)))]))
    agrees(lambda x: x[index], lambda x: x[index], [numbers(*shape)])


@given(st.data())
def test_transpose_and_reshape_of_any_shape(data):
    shape = data.draw(shapes)
    axes = data.draw(st.permutations(range(len(shape))))
    agrees(
        lambda x: x.transpose(*axes).reshape(-1),
        lambda x: x.transpose(axes).reshape(-1),
        [numbers(*shape)],
    )


@given(st.data())
def test_einsum_of_any_subscripts(data):
    """Two operands over the letters ijk, repeated or not, any output."""
    sizes = {"i": 2, "j": 3, "k": 2}
    words = st.text("ijk", max_size=3)
    x, y = data.draw(words), data.draw(words)
    letters = "".join(sorted(set(x + y)))
    output = data.draw(st.lists(st.sampled_from(letters), unique=True)) if letters else []
    subscripts = f"{x},{y}->{''.join(output)}"
    operands = [numbers(*(sizes[c] for c in word), seed=i) for i, word in enumerate((x, y))]
    agrees(lambda *o: tb.einsum(subscripts, *o), lambda *o: np.einsum(subscripts, *o), operands)


# --- ties, zeros, extremes ----------------------------------------------------------------------


@pytest.mark.parametrize("reduce", [tb.max, tb.min], ids=["max", "min"])
def test_ties_share_equally(reduce):
    sign = 1.0 if reduce is tb.max else -1.0
    x = Tensor(sign * np.array([[3.0, 1.0, 3.0], [2.0, 2.0, 2.0], [0.0, -0.0, -1.0]]))
    reduce(x, axis=1).backward(np.array([1.0, 3.0, 4.0]))
    np.testing.assert_allclose(x.grad, [[0.5, 0, 0.5], [1, 1, 1], [2, 2, 0]], rtol=1e-15)
    x.zero_grad()
    reduce(x).backward()
    np.testing.assert_array_equal(x.grad, [[0.5, 0, 0.5], [0, 0, 0], [0, 0, 0]])


def test_infinities_may_tie():
    x = Tensor([inf, 1.0, inf])
    tb.max(x).backward()
    np.testing.assert_array_equal(x.grad, [0.5, 0.0, 0.5])


@pytest.mark.parametrize("reduce", [tb.max, tb.min], ids=["max", "min"])
def test_maximum_with_nan_is_nan_without_warning(reduce):
    x = Tensor([nan, 1.0])
    y = reduce(x)
    assert math.isnan(y.item())
    y.backward()
    assert np.isnan(x.grad).any()


def test_norm_at_zero():
    x = Tensor([[0.0, 0.0], [3.0, 4.0]])
    tb.norm(x, axis=1).sum().backward()
    np.testing.assert_allclose(x.grad, [[0.0, 0.0], [0.6, 0.8]], rtol=1e-15)
    y = Tensor(0.0)
    tb.norm(y).backward()
    assert y.grad == 0.0


def test_norm_at_zero_is_flat_in_every_order_and_mode():
    """As it is chosen there; along any line |x| has no second derivative at 0, which is inf."""
    zero, v = np.zeros(2), np.array([3.0, 4.0])

    def slope(x):
        return tb.jvp(tb.norm, (x,), (v,))[1]

    assert tb.jvp(slope, (zero,), (v,)) == (0.0, 0.0)
    assert tb.grad(slope)(zero).tolist() == [0.0, 0.0]
    assert tb.hessian(tb.norm)(zero).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_norm_of_unit_vectors():
    x = Tensor([[1.0, 0.0], [0.0, -1.0]])
    y = tb.norm(x, axis=1)
    y.sum().backward()
    assert y.data.tolist() == [1.0, 1.0]
    assert x.grad.tolist() == [[1.0, 0.0], [0.0, -1.0]]


@pytest.mark.parametrize(
    ("x", "gradient"),
    [
        ([0.0, 2.0, 3.0], [6.0, 0.0, 0.0]),
        ([0.0, 0.0, 3.0], [0.0, 0.0, 0.0]),
        ([2.0, 3.0, 4.0], [12.0, 8.0, 6.0]),
        ([1e-200, 1e-200], [1e-200, 1e-200]),  # the product underflows; its derivative does not
        ([1e-160, 1e-155], [1e-155, 1e-160]),  # or has lost digits
        ([1e200, 1e200], [1e200, 1e200]),
        ([inf, 2.0], [2.0, inf]),
        ([inf, 0.0], [0.0, inf]),
    ],
    ids=str,
)
def test_prod_by_hand(x, gradient):
    leaf = Tensor(x)
    tb.prod(leaf).backward()
    np.testing.assert_allclose(leaf.grad, gradient, rtol=1e-15)


BIG = np.array([1000.0, -1000.0, 0.0])


def test_softmax_family_at_large_numbers():
    x = Tensor(BIG)
    for f, value, gradient in [
        (tb.softmax, [1, 0, 0], [[0, 0, 0], [0, 0, 0], [0, 0, 0]]),
        (tb.log_softmax, [0, -2000, -1000], [[0, 0, 0], [-1, 1, 0], [-1, 0, 1]]),
    ]:
        np.testing.assert_array_equal(f(x).data, value)
        for i in range(3):
            x.zero_grad()
            f(x)[i].backward()
            np.testing.assert_array_equal(x.grad, gradient[i])
    x.zero_grad()
    y = tb.logsumexp(x)
    y.backward()
    assert y.item() == 1000.0
    np.testing.assert_array_equal(x.grad, [1, 0, 0])


@pytest.mark.parametrize("shift", [0.0, 1000.0, -1000.0, 1e6])
def test_softmax_family_does_not_see_a_shift(shift):
    x = np.array([0.5, -0.25, 2.0])  # exact sums with the shifts
    g = np.array([1.0, -2.0, 0.5])
    for f in (tb.softmax, tb.log_softmax):
        np.testing.assert_allclose(f(Tensor(x + shift)).data, f(Tensor(x)).data, rtol=1e-14)
        np.testing.assert_allclose(
            swept(f, [x + shift], g)[0], swept(f, [x], g)[0], rtol=1e-13, atol=1e-15
        )


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_each_row_is_shifted_by_its_own_maximum(axis):
    """Next to a row at 0, one at -2000 keeps its digits, where exp(-2000) has none."""
    rows = np.array([[0.0, math.log(3.0)], [-2000.0, -2000.0 + math.log(3.0)]])
    log_sums = np.array([math.log(4.0), -2000.0 + math.log(4.0)])
    x = rows.T if axis == 0 else rows
    for f, expected in [
        (tb.logsumexp, log_sums),
        (tb.softmax, [[0.25, 0.75]] * 2),
        (tb.log_softmax, rows - log_sums[:, None]),
    ]:
        got = f(Tensor(x), axis).data
        # log 3 has lost 4 digits to the 2000 that it was added to
        np.testing.assert_allclose(got.T if axis == 0 else got, expected, rtol=1e-12)


def test_minus_infinity_has_probability_zero():
    x = Tensor([-inf, 0.0, 0.0])
    np.testing.assert_array_equal(tb.softmax(x).data, [0.0, 0.5, 0.5])
    assert tb.logsumexp(x).item() == math.log(2.0)
    np.testing.assert_array_equal(tb.log_softmax(x).data, [-inf, -math.log(2.0), -math.log(2.0)])
    for f, i, gradient in [
        (tb.softmax, 1, [0.0, 0.25, -0.25]),
        (tb.log_softmax, 1, [0.0, 0.5, -0.5]),
        (lambda x: tb.logsumexp(x, keepdims=True), 0, [0.0, 0.5, 0.5]),
    ]:
        x.zero_grad()
        f(x)[i].backward()
        np.testing.assert_allclose(x.grad, gradient, rtol=1e-15)


@pytest.mark.parametrize("fill", [-inf, inf, nan])
@pytest.mark.parametrize("f", [tb.softmax, tb.log_softmax, tb.logsumexp])
def test_nothing_to_normalise_gives_no_warning(f, fill):
    """Rows of -inf (a fully masked row of attention), inf, nan: IEEE's answer, in silence."""
    x = Tensor([[fill, fill], [0.0, 1.0]])
    y = f(x, axis=-1)
    y.backward(np.ones(y.shape))
    assert np.all(np.isfinite(x.grad[1]))
    if f is tb.logsumexp:
        np.testing.assert_array_equal(y.data[0], fill)


@pytest.mark.parametrize("f", [tb.softmax, tb.log_softmax, tb.logsumexp, tb.norm, tb.max, tb.prod])
@pytest.mark.parametrize("fill", [-inf, inf, nan, 0.0])
def test_a_masked_branch_contributes_zero(f, fill):
    """As for elementwise rules: zero upstream is zero, also where the local derivative is nan."""
    x = Tensor([[fill, fill], [0.5, 1.0]])
    y = f(x, axis=-1)
    keep = np.array([False, True]).reshape((2,) + (1,) * (y.ndim - 1))
    tb.where(keep, y, 0.0).sum().backward()
    np.testing.assert_array_equal(x.grad[0], [0.0, 0.0])
    assert np.all(np.isfinite(x.grad[1]))


@pytest.mark.parametrize(
    "f",
    [
        lambda x: tb.norm(x),
        lambda x: tb.var(x),
        lambda x: tb.mean(x),
        lambda x: tb.var(x, ddof=3),
        lambda x: tb.prod(x),
        lambda x: tb.cumsum(x).sum(),
        lambda x: x @ x,
        lambda x: tb.einsum("i,i->", x, x),
        lambda x: tb.max(x),
        lambda x: tb.min(x),
    ],
    ids=["norm", "var", "mean", "ddof", "prod", "cumsum", "matmul", "einsum", "max", "min"],
)
@pytest.mark.parametrize("x", [[inf, 1.0, 2.0], [inf, -inf, 0.0], [nan, 0.0, 1.0], [1e308] * 3])
def test_no_warning_escapes(f, x):
    x = Tensor(x)
    f(x).backward()
    assert x.grad.shape == (3,)


@pytest.mark.parametrize("f", [tb.sum, tb.mean, tb.var, tb.prod, tb.norm])
def test_empty(f):
    x = Tensor(np.zeros((0, 3)))
    f(x).backward()
    assert x.grad.shape == (0, 3)
    f(x, axis=1).backward(np.zeros(0))
    y = f(x, axis=0)
    y.backward(np.ones(3))
    assert x.grad.shape == (0, 3)


@pytest.mark.parametrize("f", [tb.max, tb.min])
def test_no_largest_of_nothing(f):
    with pytest.raises(ValueError, match="zero-size"):
        f(Tensor([]))


# --- the rest -----------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
@pytest.mark.parametrize("sections", [1, 2, [1], [1, 3], (0, 2), [2, 2], np.array([1, 2])], ids=str)
def test_split(sections, axis):
    x = numbers(4, 6)
    expected = np.split(x, sections, axis)
    leaf = Tensor(x)
    parts = tb.split(leaf, sections, axis)
    assert len(parts) == len(expected)
    for part, array in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(part.data, array)
    sum((i + 1.0) * part.sum() for i, part in enumerate(parts)).backward()
    gradient = [np.full(a.shape, i + 1.0) for i, a in enumerate(expected)]
    np.testing.assert_array_equal(leaf.grad, np.concatenate(gradient, axis))


@pytest.mark.parametrize(("shape", "sections"), [((4, 2), 4), ((0, 3), 1), ((0, 3), 2)])
def test_split_into_the_smallest_parts(shape, sections):
    x = numbers(*shape)
    parts = tb.split(Tensor(x), sections)
    assert [part.data.tolist() for part in parts] == [y.tolist() for y in np.split(x, sections)]


@pytest.mark.parametrize("sections", [0, -1, 4])
def test_split_into_unequal_parts_is_refused(sections):
    with pytest.raises(ValueError, match="equal parts"):
        tb.split(Tensor(np.ones(6)), sections)


def test_split_and_concatenate_give_back_the_array():
    x = Tensor(numbers(4, 6))
    y = tb.concatenate(tb.split(x, 3, axis=1), axis=1)
    np.testing.assert_array_equal(y.data, x.data)
    g = seed_for(y)
    y.backward(g)
    np.testing.assert_array_equal(x.grad, g)


def test_gather_is_take_along_axis():
    assert tb.gather is tb.take_along_axis


def test_one_hot():
    np.testing.assert_array_equal(tb.one_hot([2, 0], 3), [[0, 0, 1], [1, 0, 0]])
    assert tb.one_hot(np.array([[1]]), 2).shape == (1, 1, 2)
    assert tb.one_hot(1, 2).tolist() == [0.0, 1.0]
    assert tb.one_hot(np.zeros(0, int), 2).shape == (0, 2)
    assert tb.one_hot([0], 2, np.float32).dtype == np.float32
    for bad in ([2], [-1]):
        with pytest.raises(ValueError, match=r"0 \.\.\. 1"):
            tb.one_hot(bad, 2)
    for bad in ([0.0], [True], ["a"]):
        with pytest.raises(TypeError, match="integers"):
            tb.one_hot(bad, 2)


@pytest.mark.parametrize("classes", [63, 64, 65, 200])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_hot_of_many_classes(classes, dtype):
    indices = np.array([[0, classes - 1, 5], [62, 1, 5]])
    rows = tb.one_hot(indices, classes, dtype)
    assert rows.dtype == dtype
    np.testing.assert_array_equal(rows, indices[..., None] == np.arange(classes))


def test_getitem_and_scatter_are_transposes():
    x, index = Tensor(numbers(5)), np.array([0, 0, 3])
    back = scatter(getitem(x, index), index, (5,))
    np.testing.assert_allclose(back.data, x.data * [2, 0, 0, 1, 0], rtol=1e-15)


UPPER = string.ascii_uppercase


@pytest.mark.parametrize(
    ("subscripts", "ranks", "expected"),
    [
        ("ij,jk", [2, 2], (["ij", "jk"], "ik")),
        ("ba", [2], (["ba"], "ab")),
        ("ii", [2], (["ii"], "")),
        ("...i", [3], (["ABi"], "ABi")),
        ("...A,...A", [3, 2], (["BCA", "CA"], "BC")),
        ("i...->...", [1], (["i"], "")),
        (UPPER + "...->...", [27], ([UPPER + "a"], "a")),
        ("b...,a...", [2, 1], (["bA", "a"], "Aab")),
    ],
)
def test_explicit_subscripts(subscripts, ranks, expected):
    assert explicit(subscripts, ranks) == expected


@pytest.mark.parametrize(
    ("subscripts", "error", "match"),
    [
        ("ij", ValueError, "name 1 operands, got 2"),
        ("i,ij", ValueError, "do not fit"),
        ("ijk...,ij", ValueError, "do not fit"),
        ("ij,jk->iz", ValueError, "z"),
        ("ij,jk->", None, ""),
        (3, TypeError, "subscripts: expected a str"),
    ],
)
def test_einsum_refuses_what_does_not_fit(subscripts, error, match):
    x = Tensor(np.ones((2, 2)))
    if error is None:
        tb.einsum(subscripts, x, x)
    else:
        with pytest.raises(error, match=match):
            tb.einsum(subscripts, x, x)


@pytest.mark.parametrize("rule", ARRAY_RULES.values(), ids=list(ARRAY_RULES))
def test_plain_arrays_are_refused_by_name(rule):
    x = np.ones((2, 2))
    arguments = ([x, x],) if rule.takes_sequence else [x] * len(rule.pullbacks)
    with pytest.raises(TypeError, match=f"{rule.name}: expected a Tensor"):
        rule(*arguments)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda x: tb.sum(x, axis=2), ValueError),
        (lambda x: tb.sum(x, axis=(0, 0)), ValueError),
        (lambda x: tb.sum(x, 0, False, 1), TypeError),
        (lambda x: tb.sum(x, axes=0), TypeError),
        (lambda x: tb.matmul(x), TypeError),
        (lambda x: tb.matmul(x, np.ones(4)), ValueError),
        (lambda x: x @ 2.0, ValueError),
        (lambda x: x.reshape(5), ValueError),
        (lambda x: tb.concatenate([]), ValueError),
        (lambda x: tb.concatenate(x), TypeError),
        (lambda x: tb.stack([x, x[0]]), ValueError),
        (lambda x: x[3], IndexError),
        (lambda x: x[0.5], IndexError),
        (lambda x: x["a"], IndexError),
        (lambda x: x[x], TypeError),
        (lambda x: x[:, x], TypeError),
        (lambda x: tb.take(x, 9), IndexError),
        (lambda x: tb.squeeze(x, 0), ValueError),
        (lambda x: tb.matmul(x, "a"), TypeError),
        (lambda x: tb.matmul(x, None), TypeError),
        (lambda x: tb.concatenate([x, np.array([[1j, 1j, 1j]])]), TypeError),
        (lambda x: tb.stack([x, np.ones((2, 3), bool)]), TypeError),
    ],
)
def test_what_does_not_fit_raises_in_the_forward_pass(call, error):
    with pytest.raises(error):
        call(Tensor(np.ones((2, 3))))


def test_concatenate_along_no_axis_raises_or_works():
    """numpy's axis=None flattens; it must not go forward and then fail in the sweep."""
    x, y = Tensor(numbers(2)), Tensor(numbers(2, 2))
    try:
        z = tb.concatenate([x, y], axis=None)
    except (TypeError, ValueError):
        return
    z.backward(np.arange(6.0))
    np.testing.assert_array_equal(y.grad, [[2.0, 3.0], [4.0, 5.0]])


# --- against PyTorch and JAX --------------------------------------------------------------------

TORCH = {
    "matmul": (lambda x: x @ x.transpose(0, 2, 1), lambda t, x: x @ x.transpose(1, 2)),
    "einsum": (
        lambda x: tb.einsum("bij,bkj->ik", x, x),
        lambda t, x: t.einsum("bij,bkj->ik", x, x),
    ),
    "var": (lambda x: tb.var(x, (0, 1), ddof=1), lambda t, x: x.var((0, 1), correction=1)),
    "prod": (lambda x: tb.prod(x, 1), lambda t, x: x.prod(1)),
    "max": (lambda x: tb.max(x, (0, 2)), lambda t, x: t.amax(x, (0, 2))),
    "min": (lambda x: tb.min(x, 1), lambda t, x: t.amin(x, 1)),
    "cumsum": (lambda x: tb.cumsum(x, 1), lambda t, x: x.cumsum(1)),
    "norm": (lambda x: tb.norm(x, -1), lambda t, x: x.norm(dim=-1)),
    "logsumexp": (lambda x: tb.logsumexp(x, 1), lambda t, x: x.logsumexp(1)),
    "softmax": (lambda x: tb.softmax(x, 1), lambda t, x: x.softmax(1)),
    "log_softmax": (lambda x: tb.log_softmax(x), lambda t, x: x.log_softmax(-1)),
    "pad": (
        lambda x: tb.pad(x, ((0, 0), (0, 0), (1, 2))),
        lambda t, x: t.nn.functional.pad(x, (1, 2)),
    ),
    "tril": (lambda x: tb.tril(x, -1), lambda t, x: x.tril(-1)),
    "triu": (lambda x: tb.triu(x, 1), lambda t, x: x.triu(1)),
    "getitem": (lambda x: x[[0, 0, 1], :, [1, 1, 2]], lambda t, x: x[[0, 0, 1], :, [1, 1, 2]]),
    "take": (
        lambda x: tb.take(x, [1, 1, 0], 2),
        lambda t, x: x.index_select(2, t.tensor([1, 1, 0])),
    ),
    "gather": (
        lambda x: tb.gather(x, np.zeros((2, 3, 5), int), 2),
        lambda t, x: x.gather(2, t.zeros((2, 3, 5), dtype=t.int64)),
    ),
    "flip": (lambda x: tb.flip(x, (0, 2)), lambda t, x: x.flip(0, 2)),
}
POINTS = {
    "plain": B,
    "ties": np.round(B),
    "zeros": np.where(np.abs(B) < 1.0, 0.0, B),
    "all zero": np.zeros(B.shape),
    "large": 1000.0 * np.sign(B) + B,
}


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("name", TORCH)
def test_torch_agrees(name, point):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle of this test")
    ours, theirs = TORCH[name]
    leaf, other = Tensor(POINTS[point]), torch.tensor(POINTS[point], requires_grad=True)
    result, expected = ours(leaf), theirs(torch, other)
    g = seed_for(result)
    result.backward(g)
    expected.backward(torch.tensor(g))
    scale = np.max(np.abs(POINTS[point])) ** 3 + 1.0  # sums of products of up to three elements
    np.testing.assert_allclose(result.data, expected.detach(), rtol=ROUNDINGS, atol=1e-15 * scale)
    np.testing.assert_allclose(leaf.grad, other.grad, rtol=1e-12, atol=1e-15 * scale)


JAX = {
    "logsumexp": (
        lambda x: tb.logsumexp(x, (0, 2)),
        lambda jax, x: jax.scipy.special.logsumexp(x, (0, 2)),
    ),
    "prod": (lambda x: tb.prod(x, (0, 1)), lambda jax, x: jax.numpy.prod(x, (0, 1))),
    "var": (
        lambda x: tb.var(x, -1, 1, True),
        lambda jax, x: jax.numpy.var(x, -1, ddof=1, keepdims=True),
    ),
    "max": (lambda x: tb.max(x, 0), lambda jax, x: jax.numpy.max(x, 0)),
    "take": (
        lambda x: tb.take_along_axis(x, np.argsort(B, 1), 1),
        lambda jax, x: jax.numpy.take_along_axis(x, np.argsort(B, 1), 1),
    ),
    "einsum": (
        lambda x: tb.einsum("...ij,...kj->...ik", x, x[0]),
        lambda jax, x: jax.numpy.einsum("...ij,...kj->...ik", x, x[0]),
    ),
}


@pytest.mark.parametrize("point", ["plain", "ties", "zeros"])
@pytest.mark.parametrize("name", JAX)
def test_jax_agrees(name, point):
    jax = pytest.importorskip("jax", reason="JAX is the oracle of this test")
    jax.config.update("jax_enable_x64", True)
    ours, theirs = JAX[name]
    leaf = Tensor(POINTS[point])
    result = ours(leaf)
    expected, pull = jax.vjp(lambda x: theirs(jax, x), POINTS[point])
    g = seed_for(result)
    result.backward(g)
    np.testing.assert_allclose(result.data, expected, rtol=ROUNDINGS, atol=ROUNDINGS)
    np.testing.assert_allclose(leaf.grad, pull(g)[0], rtol=1e-12, atol=ROUNDINGS)


@pytest.mark.parametrize(
    ("x", "W", "b"),
    [
        ((2,), (2,), (2,)),
        ((1, 2), (2, 3), (5, 3)),
        ((1, 2), (2, 3), (1,)),
        ((1, 2), (4, 2, 3), (3,)),
    ],
)
def test_a_bias_that_would_widen_the_product_is_refused(x, W, b):
    with pytest.raises(ValueError, match="linear: expected W of shape"):
        tb.linear(Tensor(np.ones(x)), Tensor(np.ones(W)), Tensor(np.ones(b)))


def test_products_of_small_float32_numbers():
    x = Tensor(np.array([1e-20, 1e-25, 2.0], np.float32))
    tb.prod(x).backward()
    np.testing.assert_allclose(x.grad, [2e-25, 2e-20, 1e-45], rtol=1e-5, atol=1e-45)


@pytest.mark.parametrize("axis", [np.int64(1), np.int32(-1)])
@pytest.mark.parametrize("f", [tb.sum, tb.mean, tb.var, tb.max, tb.prod, tb.norm, tb.logsumexp])
def test_an_axis_may_be_numpys_integer(f, axis):
    x, y = Tensor(M), Tensor(M)
    f(x, axis=axis).sum().backward()
    f(y, axis=int(axis)).sum().backward()
    np.testing.assert_array_equal(x.grad, y.grad)


def test_shapes_that_cannot_be_are_refused_at_once():
    with pytest.raises(ValueError, match="dimensions"):
        tb.broadcast_to(Tensor(np.ones((1, 3))), (3,))
    with pytest.raises(TypeError, match="axis: expected an int"):
        tb.take_along_axis(Tensor(np.ones((1, 3))), np.zeros((1, 1), int), None)
    with pytest.raises(ValueError, match="on the right"):
        tb.einsum("...i->i", Tensor(np.ones((2, 3))))


def test_take_along_axis_of_a_row_for_several():
    x = Tensor(np.array([[1.0, 2.0, 3.0]]))
    tb.take_along_axis(x, np.array([[0], [2], [2]]), 1).sum().backward()
    np.testing.assert_array_equal(x.grad, [[1.0, 0.0, 2.0]])


@pytest.mark.parametrize("axis", [None, 0, -1])
def test_the_elements_of_a_single_number_that_are_taken_give_their_gradients_back(axis):
    x = tb.Tensor(2.0)
    y = tb.take(x, [0, 0, 0], axis=axis)
    assert y.data.tolist() == [2.0, 2.0, 2.0]
    tb.sum(y * np.array([1.0, 10.0, 100.0])).backward()
    assert x.grad == 111.0
