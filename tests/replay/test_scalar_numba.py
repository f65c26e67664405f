"""The engine compiled by numba: all that is tested of the other one, and its functions."""

import itertools
import math
import sys

import numpy as np
import pytest

pytest.importorskip("numba", reason="the engine numba is optional: pip install tinygrad_bp[jit]")

from test_scalar_numpy import *  # noqa: F403
from test_scalar_numpy import recorded, same_bits

import tinygrad_bp as tb
from tinygrad_bp import floats
from tinygrad_bp.replay import kernels, scalar_numba, scalar_numpy
from tinygrad_bp.rules import elementwise

EDGES = [
    0.0, 5e-324, 2.2e-308, 1e-16, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 7.0, 20.0, 22.0, 709.7, 709.8,
    710.4, 710.5, 745.2, 1000.0, 2.0**53 + 2.0, 1e154, 1e308, 1.7976931348623157e308, math.inf,
]  # fmt: skip
EDGES = [*EDGES, *(-x for x in EDGES), math.nan]
ARITY = dict.fromkeys(floats.__all__, 1) | {"where": 3} | dict.fromkeys(
    ("arctan2", "azmul", "divide", "hypot", "logaddexp", "maximum", "minimum", "power"), 2
)  # fmt: skip


@pytest.fixture
def engine():
    return scalar_numba.Runner


def agrees(got, expected):
    """Equal with its sign, or within 8 units in the last place."""
    if expected != expected or math.isinf(expected) or got == expected:
        return same_bits(got, expected)
    return abs(got - expected) <= 8 * math.ulp(expected)


@pytest.mark.parametrize("name", floats.__all__)
def test_kernels_are_those_of_floats(name):
    rng, arity = np.random.default_rng(0), ARITY[name]
    points = list(itertools.product(EDGES, repeat=min(arity, 2)))
    for size in (1e-8, 1e-3, 0.5, 3.0, 30.0, 700.0):
        points += rng.uniform(-size, size, (2000, min(arity, 2))).tolist()
    if arity == 3:
        points = [(c, x, -x) for c, x in points]
    expected, kernel = getattr(floats, name), getattr(kernels, name)
    assert [p for p in points if not agrees(kernel(*p), expected(*p))] == []


def test_both_engines_agree():
    def f(*x):
        return sum((tb.tanh(a * b) + tb.exp(-a) for a, b in itertools.pairwise(x)), start=x[0])

    program = recorded(f, 50)
    point = np.random.default_rng(0).normal(size=50)
    results = [e.Runner(program).value_and_gradient(point) for e in (scalar_numba, scalar_numpy)]
    for x, y in zip(*results, strict=True):
        assert np.allclose(x, y, rtol=1e-14, atol=1e-14)


def test_interpreters_are_shared_by_programs_of_the_same_operations():
    first = scalar_numba.Runner(recorded(lambda x: tb.exp(x) * x, 1))
    second = scalar_numba.Runner(recorded(lambda x, y: tb.exp(x * y) * y * tb.exp(y), 2))
    third = scalar_numba.Runner(recorded(lambda x, y: x * y, 2))
    assert first.interpreter is second.interpreter is not third.interpreter


def test_a_rule_that_numba_cannot_compile_is_named():
    @elementwise(1.0, table=None)
    def peculiar(m, x):
        return math.prod([x])

    runner = scalar_numba.Runner(recorded(lambda x: peculiar(x) * 2.0, 1))
    with pytest.raises(TypeError, match=r"peculiar: numba cannot compile .* engine \"numpy\""):
        runner.values([1.0])


def test_without_numba_the_extra_is_named(monkeypatch):
    name = "tinygrad_bp.replay.scalar_numba"
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setitem(sys.modules, "numba.core.errors", None)
    with pytest.raises(ImportError, match=r"tinygrad_bp\[jit\]"):
        __import__(name)
