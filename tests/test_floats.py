"""The elementary functions of floats: what numpy says, at every edge of IEEE 754."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tinygrad_bp import floats

EDGES = [
    0.0, 5e-324, 2.2e-308, 1e-16, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 7.0, 20.0, 709.7, 709.8, 710.4,
    745.2, 1000.0, 2.0**53 + 2.0, 1e154, 1e155, 1e308, 1.7976931348623157e308, math.inf,
]  # fmt: skip
EDGES = [*EDGES, *(-x for x in EDGES), math.nan]

ERROR_FUNCTIONS = {"erf": math.erf, "erfc": math.erfc}  # numpy has none
CHOICES = {"azmul", "where"}
named = {name: getattr(floats, name) for name in floats.__all__ if name not in CHOICES}
UNARY = {name for name in named if name in ERROR_FUNCTIONS or getattr(np, name).nin == 1}
unary = pytest.mark.parametrize("name", sorted(UNARY))
binary = pytest.mark.parametrize("name", sorted(set(named) - UNARY))


def agrees(name, operands):
    """Equal to numpy's result, but for two units in the last place; infinities with their sign."""
    got = named[name](*operands)
    with np.errstate(all="ignore"):
        if name in ERROR_FUNCTIONS:
            expected = ERROR_FUNCTIONS[name](*operands)
        else:  # of arrays: of a scalar exponent 0.5, numpy takes the square root, against IEEE
            expected = float(getattr(np, name)(*([x, x] for x in operands))[0])
    assert type(got) is float
    if got == expected:
        # the sign of a zero is IEEE's too; that of the larger of two zeros is left open
        return name in ("maximum", "minimum") or math.copysign(1, got) == math.copysign(1, expected)
    if math.isnan(expected) or math.isinf(expected):
        return math.isnan(got) and math.isnan(expected)
    return abs(got - expected) <= 2 * math.ulp(expected)


def test_all_names_the_module_s_functions():
    assert floats.__all__ == sorted(floats.__all__)
    assert all(callable(getattr(floats, name)) for name in floats.__all__)


@unary
def test_unary_edges(name):
    assert [x for x in EDGES if not agrees(name, (x,))] == []


@binary
def test_binary_edges(name):
    pairs = itertools.product(EDGES, repeat=2)
    assert [pair for pair in pairs if not agrees(name, pair)] == []


@unary
@given(x=st.floats())
def test_unary(name, x):
    assert agrees(name, (x,))


@binary
@given(x=st.floats(), y=st.floats())
def test_binary(name, x, y):
    assert agrees(name, (x, y))


@binary
@given(x=st.floats(-40, 40), y=st.integers(-40, 40).map(float))
def test_binary_of_moderate_and_whole_numbers(name, x, y):
    assert agrees(name, (x, y))


@pytest.mark.parametrize("x", EDGES)
def test_where_takes_one_side(x):
    assert floats.where(True, 1.0, x) == 1.0
    assert floats.where(False, x, 1.0) == 1.0


@pytest.mark.parametrize("x", EDGES)
def test_azmul(x):
    assert floats.azmul(0.0, x) == floats.azmul(-0.0, x) == 0.0
    product = floats.azmul(2.0, x)
    assert product == 2.0 * x or math.isnan(x)
    assert math.isnan(floats.azmul(math.inf, 0.0))
    assert math.isnan(floats.azmul(math.nan, x))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (floats.divide(1.0, 0.0), math.inf),
        (floats.divide(1.0, -0.0), -math.inf),
        (floats.divide(-math.inf, -0.0), math.inf),
        (floats.log(0.0), -math.inf),
        (floats.log1p(-1.0), -math.inf),
        (floats.exp(1000.0), math.inf),
        (floats.expm1(-math.inf), -1.0),
        (floats.sinh(-1000.0), -math.inf),
        (floats.cosh(-1000.0), math.inf),
        (floats.power(-0.0, -3.0), -math.inf),
        (floats.power(-10.0, 309.0), -math.inf),
        (floats.power(-10.0, 310.0), math.inf),
        (floats.power(math.nan, 0.0), 1.0),
        (floats.hypot(math.inf, math.nan), math.inf),
        (floats.hypot(1e308, 1e308), math.sqrt(2.0) * 1e308),
        (floats.logaddexp(-math.inf, -math.inf), -math.inf),
        (floats.logaddexp(math.inf, -math.inf), math.inf),
        (floats.logaddexp(1000.0, 1000.0), 1000.0 + math.log(2.0)),
    ],
)
def test_by_hand(value, expected):
    assert value == expected


@pytest.mark.parametrize(
    "value",
    [
        floats.divide(0.0, 0.0),
        floats.divide(math.nan, 0.0),
        floats.log(-1.0),
        floats.log1p(-1.5),
        floats.sqrt(-1.0),
        floats.sin(math.inf),
        floats.tan(-math.inf),
        floats.arcsin(1.1),
        floats.arccos(-1.1),
        floats.power(-8.0, 1.0 / 3.0),
        floats.maximum(1.0, math.nan),
        floats.maximum(math.nan, 1.0),
        floats.minimum(1.0, math.nan),
        floats.minimum(math.nan, 1.0),
        floats.logaddexp(math.nan, 1.0),
    ],
)
def test_nan_by_hand(value):
    assert math.isnan(value)
