"""The array functions that numpy does not have: the error function, azmul, scatter."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, strategies as st

from tinygrad_bp import arrays
from tinygrad_bp.replay import array_calls

nan, inf = math.nan, math.inf
EPS, TINY = np.finfo(np.float64).eps, np.finfo(np.float64).tiny
ERRORS = {"erf": (arrays.erf, mpmath.erf), "erfc": (arrays.erfc, mpmath.erfc)}
both = pytest.mark.parametrize("name", ERRORS)

# The middle, the seams of the approximations (0.5, 1), and the tails until erfc leaves the floats.
SEAMS = [s * np.nextafter(c, c + d) for s in (1, -1) for c in (0.5, 1.0) for d in (-1, 0, 1)]
GRID = np.concatenate([np.linspace(-6, 6, 400), np.linspace(-30, 30, 200), SEAMS, [1e-300, -1e-9]])


def roundings(got, x, exact, eps):
    """The largest relative error, in units of eps; results below the normal range are left out."""
    worst = 0.0
    for g, a in zip(got, x, strict=True):
        with mpmath.workdps(40):
            e = exact(mpmath.mpf(float(a)))
            if abs(e) > TINY:
                worst = max(worst, float(abs(mpmath.mpf(float(g)) - e) / abs(e)) / eps)
    return worst


@both
def test_error_function_to_a_few_roundings(name):
    function, exact = ERRORS[name]
    # 5.2e-16 (2.3 eps) is stated for the approximation; the factors beside it round a few times
    assert roundings(function(GRID), GRID, exact, EPS) < 6


@both
def test_error_function_agrees_with_pythons(name):
    function, reference = ERRORS[name][0], getattr(math, name)
    # 6 roundings of ours and 2 of the C library's; erfc is subnormal, and so coarser, past 26.5
    expected = [reference(x) for x in GRID]
    np.testing.assert_allclose(function(GRID), expected, rtol=8 * EPS, atol=1e-320)


@both
def test_error_function_in_float32(name):
    function, exact = ERRORS[name]
    x = GRID.astype(np.float32)
    got = function(x)
    assert got.dtype == np.float32
    kept = np.abs(got) > np.finfo(np.float32).tiny
    # computed in float64 and rounded once: half a unit in the last place, which is eps
    assert roundings(got[kept], x[kept], exact, np.finfo(np.float32).eps) <= 0.51


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (2, 3, 4)])
def test_error_function_keeps_shape_and_dtype(name, shape, dtype):
    x = np.full(shape, 0.7, dtype)
    got = ERRORS[name][0](x)
    assert got.shape == shape
    assert got.dtype == dtype
    assert np.all(np.abs(got - getattr(math, name)(0.7)) < 1e-6)


@both
def test_error_function_at_the_edges(name):
    x = np.array([0.0, -0.0, inf, -inf, nan, 30.0, -30.0, 1e308, -1e308, 5e-324])
    expected = {
        "erf": [0.0, -0.0, 1.0, -1.0, nan, 1.0, -1.0, 1.0, -1.0, 5e-324],
        "erfc": [1.0, 1.0, 0.0, 2.0, nan, 0.0, 2.0, 0.0, 2.0, 1.0],
    }[name]
    got = ERRORS[name][0](x)
    np.testing.assert_array_equal(got, expected)
    assert np.array_equal(np.signbit(got), np.signbit(expected))


@both
def test_error_function_of_other_layouts(name):
    x = np.linspace(-3, 3, 24).reshape(4, 6)
    function = ERRORS[name][0]
    np.testing.assert_array_equal(function(x.T), function(x).T)
    np.testing.assert_array_equal(function(x[::2, ::-1]), function(x)[::2, ::-1])


def test_erfc_does_not_lose_the_tail():
    assert arrays.erfc(np.array(5.0)) == pytest.approx(1.5374597944280349e-12, rel=1e-15)
    assert arrays.erfc(np.array(26.0)) == pytest.approx(5.663192408856143e-296, rel=1e-14)


# --- azmul --------------------------------------------------------------------------------------


def into_an_array(g, d):
    return array_calls._azmul_into(g, d, np.full(g.shape, nan))


CASES = [
    ([0.0, -0.0, 2.0], [inf, nan, 3.0], [0.0, 0.0, 6.0]),
    ([1.0, 0.0], [nan, nan], [nan, 0.0]),  # a nan that is real stays
    ([inf, nan], [0.0, 0.0], [nan, nan]),  # the converse is not done: it is seen
    ([2.0, 3.0], [inf, -inf], [inf, -inf]),
    ([1e200, 0.0], [1e200, inf], [inf, 0.0]),
    ([], [], []),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("g", "d", "expected"), CASES)
def test_azmul(g, d, expected, dtype):
    with np.errstate(all="ignore"):
        got = arrays.azmul(np.array(g, dtype), np.array(d, dtype))
        np.testing.assert_array_equal(got, np.array(expected, dtype))
    assert got.dtype == dtype


@pytest.mark.parametrize(
    ("g", "d", "expected"), [(0.0, inf, 0.0), (2.0, 3.0, 6.0), (1.0, nan, nan)]
)
def test_azmul_of_single_numbers(g, d, expected):
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(arrays.azmul(np.array(g), d), expected)
        np.testing.assert_array_equal(arrays.azmul(np.float64(g), np.array(d)), expected)


@pytest.mark.parametrize("product", [arrays.azmul, into_an_array])
def test_azmul_of_an_element_does_not_depend_on_its_neighbours(product):
    g, d = np.array([-0.0, 0.0, 0.0, -0.0]), np.array([2.0, -3.0, nan, inf])
    with np.errstate(invalid="ignore"):
        together = product(g, d)
        alone = np.concatenate([product(g[k : k + 1], d[k : k + 1]) for k in range(4)])
    assert together.tobytes() == alone.tobytes() == np.array([-0.0, -0.0, 0.0, 0.0]).tobytes()


def test_azmul_broadcasts():
    with np.errstate(all="ignore"):
        got = arrays.azmul(np.array([[0.0], [1.0]]), np.array([inf, nan, 2.0]))
    np.testing.assert_array_equal(got, [[0.0, 0.0, 0.0], [inf, nan, 2.0]])


# --- scatter ------------------------------------------------------------------------------------

INDICES = {
    "integer": 2,
    "negative": -1,
    "numpy integer": np.int64(1),
    "slice": slice(None, None, -2),
    "nothing": slice(0, 0),
    "ellipsis": (..., 1),
    "new axis": (None, 1, slice(1, 3)),
    "repeated": np.array([0, 2, 0, 0]),
    "list": [1, 1],
    "boolean": np.array([True, False, True]),
    "full boolean": np.eye(3, 4, dtype=bool),
    "pairs": (np.array([0, 0, 2]), np.array([1, 1, 3])),
    "mixed": (slice(None), np.array([3, 3])),
    "grid": (np.array([[0], [0]]), np.array([1, 1])),
}


@pytest.mark.parametrize("index", INDICES.values(), ids=list(INDICES))
def test_scatter_is_the_transpose_of_indexing(index):
    """<scatter(g), x> = <g, x[index]>, for x one basis vector after another."""
    shape = (3, 4)
    g = np.random.default_rng(0).normal(size=np.zeros(shape)[index].shape)
    got = arrays.scatter(g, index, shape)
    expected = np.zeros(shape)
    for place in np.ndindex(shape):
        basis = np.zeros(shape)
        basis[place] = 1.0
        expected[place] = np.sum(basis[index] * g)
    np.testing.assert_allclose(got, expected, rtol=1e-14)


@given(st.lists(st.integers(-5, 4), max_size=12))
def test_scatter_counts_repeats(positions):
    got = arrays.scatter(np.ones(len(positions)), np.array(positions, int), (5,))
    np.testing.assert_array_equal(got, [sum(p % 5 == i for p in positions) for i in range(5)])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("index", [1, np.array([1, 1])])
def test_scatter_keeps_the_dtype(index, dtype):
    assert arrays.scatter(np.ones(np.shape(index), dtype), index, (3,)).dtype == dtype


def test_scatter_result_is_new():
    g = np.ones(3)
    got = arrays.scatter(g, slice(None), (3,))
    assert not np.shares_memory(got, g)


def test_names_are_complete():
    assert all(hasattr(arrays, name) for name in arrays.__all__)
    assert arrays.detached(3.0) == 3.0
