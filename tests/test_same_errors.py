"""One rule, many interpreters: the same arguments give the same number, or the same kind of error.

The interpreters: plain floats, `Value`, `Tensor`, arrays of Values, forward mode, gradients that
are nodes, and a replayed record. What is expected at the edges is what plain floats give, and those
are compared with IEEE 754 and C99's annex F by name in `test_floats.py`.
"""

from __future__ import annotations

import itertools
import math
import sys
from contextlib import nullcontext

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import floats

EDGES = (0.0, -0.0, 1.0, -1.0, 0.5, math.inf, -math.inf, math.nan, 1e300, -1e300, 5e-324)
BAD = {
    "None": None,
    "text": "a",
    "complex": 1j,
    "object": object(),
    "dict": {},
    "module": math,
}
# The C library and numpy's vector code round elementary functions in their own ways: each promises
# 4 units in the last place at most (numpy's accuracy tests; glibc's manual, "Errors in Math
# Functions"), and rules are made of several of them.
ULPS = 16
RULES = sorted(tb.RULES)


def on_floats(rule, args):
    return rule.value(floats, *args)


def by_rule(rule, args):
    """Called on plain numbers."""
    return rule(*args)


def on_values(rule, args):
    return rule(*map(tb.Value, args)).data


def on_constants(rule, args):
    """One Value, and numbers that meet it."""
    return rule(*args[:-1], tb.Value(args[-1])).data


def on_tensors(rule, args):
    return rule(*map(tb.Tensor, args)).data.item()


def on_arrays(rule, args):
    return rule(*(tb.Tensor([x] * 9) for x in args)).data[4]


def on_an_array_and_numbers(rule, args):
    first, *others = args
    return rule(tb.Tensor([first] * 9), *others).data[4]


def on_arrays_of_values(rule, args):
    return rule(*(tb.values([x]) for x in args)).data[0]


def forward_mode(rule, args):
    return tb.jvp(rule, tuple(args), tuple(1.0 for _ in args))[0]


def with_graph(rule, args):
    keys = tuple(i for i, partial in enumerate(rule.partials) if partial is not None)
    given = [tb.Value(x) for x in args]
    return tb.value_and_grad(rule, keys, create_graph=True)(*given)[0].data


_compiled = {}


def replayed(rule, args):
    """The second call: the first one records."""
    if rule not in _compiled:
        compiled = _compiled[rule] = tb.compile(lambda *xs: rule(*xs))
        compiled(*(0.5 for _ in args))
    return _compiled[rule](*args)


def replayed_arrays(rule, args):
    key = (rule, "array")
    if key not in _compiled:
        compiled = _compiled[key] = tb.compile(lambda *xs: rule(*xs))
        compiled(*(np.full(3, 0.5) for _ in args))
    return _compiled[key](*(np.full(3, x) for x in args))[1]


WAYS = (
    by_rule, on_values, on_constants, on_tensors, on_arrays, on_an_array_and_numbers,
    on_arrays_of_values, forward_mode,
    with_graph, replayed, replayed_arrays,
)  # fmt: skip
# A condition has no derivative, and is no number: those that take the numbers apart leave it out.
OF_NUMBERS = {"where": (by_rule, on_values, on_constants, on_arrays_of_values)}


def same(x, y):
    """Equal as IEEE results, nan and the signs of zeros included; else within ULPS."""
    if math.isnan(x) or math.isnan(y):
        return math.isnan(x) and math.isnan(y)
    if math.isinf(x) or math.isinf(y):
        return x == y
    if x == y == 0.0:
        return math.copysign(1.0, x) == math.copysign(1.0, y)
    return abs(x - y) <= ULPS * math.ulp(max(abs(x), abs(y)))


def points(arity):
    """All pairs of edges; of three operands a part of the triples."""
    found = list(itertools.product(EDGES, repeat=arity))
    return found if arity < 3 else found[::7]


@pytest.mark.parametrize("name", RULES)
def test_edges_give_the_same_number_everywhere(name):
    rule = tb.RULES[name]
    different = []
    for way in OF_NUMBERS.get(name, WAYS):
        for args in points(rule.arity):
            expected, found = float(on_floats(rule, args)), float(way(rule, args))
            if name == "azmul":  # its zeros are those of the chain rule, where signs do not matter
                expected, found = expected + 0.0, found + 0.0
            if not same(expected, found):
                different.append(f"{way.__name__}{args}: {found}, not {expected}")
    assert not different, different[:10]


def bad_ways(rule, place, bad):
    """Calls with a bad argument at one place, and good ones at the others."""

    def call(make):
        return lambda: rule(*(bad if i == place else make(0.5) for i in range(rule.arity)))

    def compiled():
        good = [0.5] * (rule.arity - 1)
        return tb.compile(lambda *xs: rule(*xs[:place], bad, *xs[place:]))(*good)

    def dual():
        good = (0.5,) * (rule.arity - 1)
        return tb.jvp(lambda *xs: rule(*xs[:place], bad, *xs[place:]), good, good)

    def of_graph():
        good = [0.5] * (rule.arity - 1)
        f = lambda *xs: rule(*xs[:place], bad, *xs[place:])  # noqa: E731
        return tb.grad(f, create_graph=True)(*map(tb.Value, good))

    ways = {
        "floats": call(float),
        "Value": call(tb.Value),
        "Tensor": call(lambda x: tb.Tensor([x])),
        "Values": call(lambda x: tb.values([x])),
    }
    if rule.arity > 1:
        ways |= {"jvp": dual, "create_graph": of_graph, "replay": compiled}
    return ways


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", RULES)
def test_bad_arguments_give_the_same_kind_of_error_everywhere(name, bad):
    rule = tb.RULES[name]
    kinds = {}
    for place, partial in enumerate(rule.partials):
        if partial is None:
            continue
        for way, call in bad_ways(rule, place, BAD[bad]).items():
            try:
                call()
            except Exception as error:
                kinds[place, way] = type(error).__name__
            else:
                kinds[place, way] = "no error"
    assert set(kinds.values()) == {"TypeError"}, kinds


@pytest.mark.parametrize("name", RULES)
def test_too_many_and_too_few_arguments(name):
    rule = tb.RULES[name]
    for make in (float, tb.Value, lambda x: tb.Tensor([x]), lambda x: tb.values([x])):
        for count in (0, rule.arity + 1):
            with pytest.raises(TypeError, match=f"{name} takes"):
                rule(*(make(0.5) for _ in range(count)))


def in_float64(engine):
    return sys.modules["jax"].enable_x64(True) if engine == "jax" else nullcontext()


@pytest.mark.parametrize("engine", ["numba", "jax"])
@pytest.mark.parametrize("name", ["tanh", "log", "divide", "power"])
def test_edges_on_other_engines(name, engine):
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    rule = tb.RULES[name]
    compiled = tb.compile(lambda *xs: rule(*xs), engine=engine)
    for args in points(rule.arity)[:30]:
        expected = float(on_floats(rule, args))
        with in_float64(engine):
            found = float(compiled(*args))
        # XLA flushes numbers below the smallest normal one to zero.
        tiny = engine == "jax" and (5e-324 in args or abs(expected) < 1e-307)
        assert same(expected, found) or tiny, (args, found, expected)


def test_the_comparison_tells_what_differs():
    assert same(math.nan, math.nan)
    assert same(1.0, math.nextafter(1.0, 2.0))
    assert not same(0.0, -0.0)
    assert not same(math.inf, -math.inf)
    assert not same(math.nan, 0.0)
    assert not same(1.0, 1.0 + 1e-12)
