"""Forward mode: tangents and Taylor coefficients of every rule, and perturbations kept apart.

The oracles are power series: mpmath's of the elementwise formulas, and for arrays Cauchy's integral
over a circle, Σ F(x + r ωᵏ v) ω⁻ᵏⁿ / (N rⁿ) with ω = exp(2πi/N), which takes no difference and runs
through the numpy formulas of test_array_rules.
"""

import itertools
import math
import operator
import threading
import weakref
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, strategies as st
from mpmath import mp, mpf
from oracles import FORMULAS
from test_array_rules import (
    ALL,
    CASES,
    MATMUL_SHAPES,
    B,
    M,
    V,
    length,
    log_sum_exp,
    numbers,
    seed_for,
    soft_max,
    variance,
)
from test_rules import every_rule

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value
from tinygrad_bp.rules import RULES
from tinygrad_bp.series import SeriesTensor, SeriesValue

every_case = pytest.mark.parametrize("case", ALL)
KINDS = pytest.mark.parametrize("kind", [float, np.array], ids=["Value", "Tensor"])
ORDER = 8


def inside(rule, seed=0):
    """A point inside of the rule's domain, none of its numbers 0 or equal."""
    random = np.random.default_rng([seed, len(rule.name)])
    return [float(random.uniform(*interval)) for interval in rule.domain]


def numbers_of(results):
    return [np.asarray(getattr(x, "data", x)) for x in results]


def close(got, expected, relative):
    """Relative to the largest number, or to 1, the size of what the operations were applied to."""
    got, expected = np.asarray(got, float), np.asarray(expected, float)
    assert got.shape == expected.shape
    scale = np.max(np.abs(expected), initial=0.0)
    atol = relative * min(max(scale, 1.0), 1e3)
    np.testing.assert_allclose(got, expected, rtol=relative, atol=atol)


# --- elementwise rules: Taylor series by mpmath -------------------------------------------------


def exact_series(formula, x, order=ORDER):
    with mp.workdps(60):
        return [float(mpmath.re(c)) for c in mpmath.taylor(formula, mpf(x), order)]


def along(rule, point, velocity, operation):
    """t ↦ the operation at `point + t velocity`; an operand of velocity 0 stays a constant."""
    pairs = list(zip(point, velocity, strict=True))
    return lambda t: operation(*(p + v * t if v else p for p, v in pairs))


def velocities(rule):
    """Every operand on its own, and all at once."""
    units = [tuple(float(i == j) for j in range(rule.arity)) for i in range(rule.arity)]
    together = (0.7, -0.4, 0.3)[: rule.arity]
    units = [u for u, p in zip(units, rule.partials, strict=True) if p is not None]
    return list(dict.fromkeys([*units, tuple(together)]))


@KINDS
@every_rule
def test_taylor_of_every_rule(rule, kind):
    for seed, velocity in enumerate(velocities(rule)):
        point = inside(rule, seed)
        expected = exact_series(along(rule, map(mpf, point), velocity, FORMULAS[rule.name]), 0)
        got = tb.taylor(along(rule, point, velocity, rule), kind(0.0), ORDER)
        np.testing.assert_allclose(numbers_of(got), expected, rtol=1e-9, atol=1e-11)


@every_rule
def test_taylor_of_arrays_is_that_of_their_elements(rule):
    shapes = [(2, 1, 3), (4, 1), ()][: rule.arity]
    random = np.random.default_rng(3)
    pairs = list(zip(rule.domain, shapes, strict=True))
    point = [random.uniform(*interval, shape) for interval, shape in pairs]
    for velocity in velocities(rule):
        moved = [np.full(s, v) for s, v in zip(shapes, velocity, strict=True)]
        got = tb.taylor(along(rule, point, velocity, rule), np.array(0.0), 3)
        value, tangent = tb.jvp(rule, tuple(point), tuple(moved))
        spread = np.broadcast_arrays(*point)
        assert all(c.shape == spread[0].shape for c in [*got, value, tangent])
        for place in list(np.ndindex(value.shape))[::5]:
            at = [float(x[place]) for x in spread]
            expected = exact_series(along(rule, map(mpf, at), velocity, FORMULAS[rule.name]), 0, 3)
            np.testing.assert_allclose([c[place] for c in got], expected, rtol=1e-10, atol=1e-11)
            np.testing.assert_allclose(
                [value[place], tangent[place]], expected[:2], rtol=1e-10, atol=1e-11
            )


@pytest.mark.parametrize("shapes", [((3,), ()), ((), (3,)), ((2, 1), (3,)), ((1,), (2, 3))])
@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide", "where", "maximum"])
def test_a_tangent_has_the_shape_and_dtype_of_the_result(name, shapes):
    rule = RULES[name]
    x, y = (np.full(s, 1.5 + i) for i, s in enumerate(shapes))
    for dtypes in itertools.product([np.float32, np.float64], repeat=2):
        x, y = x.astype(dtypes[0]), y.astype(dtypes[1])
        for moved in (0, 1):

            def f(z, x=x, y=y, moved=moved):
                operands = (z, y) if moved == 0 else (x, z)
                return rule(True, *operands) if name == "where" else rule(*operands)

            z = (x, y)[moved]
            value, tangent = tb.jvp(f, z, np.ones(z.shape))
            assert value.shape == tangent.shape == np.broadcast_shapes(*shapes)
            assert value.dtype == tangent.dtype == np.result_type(x, y)
            for c in tb.taylor(f, z, 3):
                assert (c.shape, c.dtype) == (value.shape, value.dtype)


@KINDS
@pytest.mark.parametrize("kind_of_x", ["constant", "moved"])
def test_a_quotient_whose_terms_are_too_small_for_a_float(kind, kind_of_x):
    """z = x / (y + v t): here v z, and all products like it, underflow, and no coefficient does."""
    x, y, v = -1.1125369292536007e-308, -3.084e-292, 2.2250738585072014e-308
    u = 1e-310 if kind_of_x == "moved" else 0.0
    expected = [Fraction(x) / Fraction(y)]
    for k in range(1, 4):
        moved = Fraction(u) if k == 1 else 0
        expected.append((moved - Fraction(v) * expected[-1]) / Fraction(y))
    got = tb.taylor(lambda t: (x + u * t if u else x) / (y + v * t), kind(0.0), 3)
    for c, exact in zip(numbers_of(got), expected, strict=True):
        assert float(c) == pytest.approx(float(exact), rel=1e-14, abs=0.0)


COMPOSITIONS = {
    "exp(sin x)": (lambda m, x: m.exp(m.sin(x)), 0.7),
    "tanh(x) / x": (lambda m, x: m.tanh(x) / x, 0.9),
    "log(1 + exp x)": (lambda m, x: m.log(1.0 + m.exp(x)), -0.3),
    "sqrt(1 + x*x)": (lambda m, x: m.sqrt(1.0 + x * x), 0.4),
    "x**x": (lambda m, x: x**x, 1.3),
    "1 / (1 + x*x)": (lambda m, x: 1.0 / (1.0 + x * x), 0.5),
    "atan(exp(x) - x**3)": (lambda m, x: m.atan(m.exp(x) - x**3), 0.2),
    "sin(x)**2 + cos(x)**2": (lambda m, x: m.sin(x) ** 2 + m.cos(x) ** 2, 0.8),
    "erf(x / (2 + cos x))": (lambda m, x: m.erf(x / (2.0 + m.cos(x))), 0.6),
    "log(x) * 2**x": (lambda m, x: m.log(x) * 2.0**x, 1.7),
    "constant": (lambda m, x: x * 0.0 + 3.0, 1.0),
}


class Ours:
    """The library under the names of mpmath."""

    atan = staticmethod(tb.arctan)

    def __getattr__(self, name):
        return getattr(tb, name)


@KINDS
@pytest.mark.parametrize("name", COMPOSITIONS)
def test_taylor_of_compositions(name, kind):
    f, x = COMPOSITIONS[name]
    expected = exact_series(lambda t: f(mpmath, t), x)
    got = tb.taylor(lambda t: f(Ours(), t), kind(x), ORDER)
    np.testing.assert_allclose(numbers_of(got), expected, rtol=1e-9, atol=1e-12)
    for n in (0, 1, 2, 5):
        nth = tb.derivative(lambda t: f(Ours(), t), n)(kind(x))
        assert float(nth) == pytest.approx(expected[n] * math.factorial(n), rel=1e-9, abs=1e-11)


# --- structural rules: Taylor series by Cauchy's integral ---------------------------------------


def cauchy(formula, operands, directions, order, radius=0.05, points=32):
    """The Taylor coefficients of t ↦ formula(operands + t directions) at 0."""
    circle = radius * np.exp(2j * np.pi * np.arange(points) / points)
    values = np.array(
        [formula(*(x + t * v for x, v in zip(operands, directions, strict=True))) for t in circle],
        complex,
    )
    coefficients = np.fft.fft(values, axis=0) / points
    return [coefficients[k].real / radius**k for k in range(order + 1)]


def radius_of(case):
    """How far a case may move: a maximum not so far that another one takes over."""
    return 1e-3 if case.call is not None and case in (*CASES["max"], *CASES["min"]) else 0.05


def directions_of(operands, seed=5):
    random = np.random.default_rng(seed)
    return [random.uniform(-1.0, 1.0, x.shape) for x in operands]


def floats_of(case):
    return [np.asarray(x, float) for x in case.operands]


@every_case
def test_jvp_of_every_structural_rule(case):
    operands = floats_of(case)
    v = directions_of(operands)
    value, tangent = tb.jvp(case.call, tuple(operands), tuple(v))
    step = 1e-100
    expected = case.formula(*(x + 1j * step * d for x, d in zip(operands, v, strict=True)))
    close(value, case.formula(*operands), 1e-13)
    close(tangent, np.imag(expected) / step, 1e-12)
    # one operand at a time: the others are constants, or do not move
    alone = [
        tb.jvp(
            case.call,
            tuple(operands),
            tuple(d if i == j else np.zeros(d.shape) for j, d in enumerate(v)),
        )[1]
        for i in range(len(v))
    ]
    close(np.sum(alone, axis=0), tangent, 1e-12)
    for i, x in enumerate(operands):

        def f(y, i=i):
            return case.call(*(y if j == i else z for j, z in enumerate(operands)))

        close(tb.jvp(f, x, v[i])[1], alone[i], 1e-13)


@every_case
def test_products_with_jacobian_and_its_transpose_are_dual(case):
    operands = floats_of(case)
    v = directions_of(operands)
    value, tangent = tb.jvp(case.call, tuple(operands), tuple(v))
    again, pull = tb.vjp(case.call, *operands)
    np.testing.assert_array_equal(value, again)
    u = seed_for(np.asarray(value))
    forward = np.sum(u * tangent)
    reverse = sum(np.sum(g * d) for g, d in zip(pull(u), v, strict=True))
    terms = np.sum(np.abs(u * tangent))
    assert reverse == pytest.approx(forward, rel=1e-12, abs=1e-13 * terms)


@every_case
def test_taylor_of_every_structural_rule(case):
    operands = floats_of(case)
    v = directions_of(operands)
    radius = radius_of(case)
    order = 1 if radius < 0.01 else 4
    expected = cauchy(case.formula, operands, v, order, radius)

    def f(t):
        return case.call(*(x + t * d for x, d in zip(operands, v, strict=True)))

    got = tb.taylor(f, np.array(0.0), 4)
    size = max([1.0, *(np.max(np.abs(c), initial=0.0) for c in expected[:2])])
    for k in range(5):
        if k <= order:
            roundings = 1e-14 * size / radius**k
            np.testing.assert_allclose(got[k], expected[k], rtol=1e-9, atol=roundings)
        else:
            np.testing.assert_array_equal(got[k], 0.0)  # a maximum is linear


ALONG_A_CURVE = {
    "softmax": (lambda x: tb.softmax(x, 1), lambda x: soft_max(x, 1)),
    "log_softmax": (tb.log_softmax, lambda x: np.log(soft_max(x))),
    "logsumexp": (lambda x: tb.logsumexp(x, 0), lambda x: log_sum_exp(x, 0)),
    "var": (lambda x: tb.var(x, (0, 2), 1), lambda x: variance(x, (0, 2), 1)),
    "prod": (lambda x: tb.prod(x, 1), lambda x: np.prod(x, 1)),
    "prod of zeros": (
        lambda x: tb.prod(x - B * (B > 1.0), 1),
        lambda x: np.prod(x - B * (B > 1.0), 1),
    ),
    "matmul": (lambda x: x @ x.transpose(0, 2, 1), lambda x: x @ x.transpose(0, 2, 1)),
    "norm": (lambda x: tb.norm(x, -1), lambda x: length(x, -1)),
    "einsum": (
        lambda x: tb.einsum("bij,bkj,bkl->il", x, x, x),
        lambda x: np.einsum("bij,bkj,bkl->il", x, x, x),
    ),
}


@pytest.mark.parametrize("name", ALONG_A_CURVE)
def test_taylor_along_a_curve_to_order_eight(name):
    """Arrays whose elements are exp(w t) x + sin(t): no coefficient vanishes."""
    ours, theirs = ALONG_A_CURVE[name]
    w = directions_of([B])[0]
    expected = cauchy(
        lambda t: theirs(np.exp(w * t) * B + np.sin(t)), [0.0], [1.0], ORDER, 0.125, 64
    )
    got = tb.taylor(lambda t: ours(tb.exp(w * t) * B + tb.sin(t)), np.array(0.0), ORDER)
    for k in range(ORDER + 1):
        # the integral's own roundings, against a radius of convergence of about 0.3
        np.testing.assert_allclose(got[k], expected[k], rtol=1e-9, atol=1e-14 * 8.0**k)


@pytest.mark.parametrize("name", ["softmax", "logsumexp", "var", "prod", "norm", "matmul"])
def test_taylor_of_array_functions_by_mpmath(name):
    x, v = [0.5, -1.25, 2.0], [1.0, 0.5, -0.75]

    def exact(t):
        y = [mpf(a) + mpf(b) * t for a, b in zip(x, v, strict=True)]
        total = mpmath.fsum(map(mpmath.exp, y))
        mean = mpmath.fsum(y) / 3
        return {
            "softmax": lambda: mpmath.exp(y[0]) / total,
            "logsumexp": lambda: mpmath.log(total),
            "var": lambda: mpmath.fsum((a - mean) ** 2 for a in y) / 3,
            "prod": lambda: mpmath.fprod(y),
            "norm": lambda: mpmath.sqrt(mpmath.fsum(a * a for a in y)),
            "matmul": lambda: mpmath.fsum(a * a for a in y),
        }[name]()

    def ours(t):
        y = np.array(x) + np.array(v) * t
        if name == "softmax":
            return tb.softmax(y)[0]
        return y @ y if name == "matmul" else getattr(tb, name)(y)

    got = tb.taylor(ours, np.array(0.0), ORDER)
    np.testing.assert_allclose(got, exact_series(exact, 0), rtol=1e-9, atol=1e-13)


# --- at zeros, poles and kinks ------------------------------------------------------------------

MASKED = {
    "log": lambda x: tb.where(x > 0.0, tb.log(x), 0.0),
    "sqrt": lambda x: tb.where(x > 0.0, tb.sqrt(x), 0.0),
    "1/x": lambda x: tb.where(x > 0.0, 1.0 / x, 0.0),
    "x log x": lambda x: tb.where(x > 0.0, x * tb.log(x), 0.0),
    "power": lambda x: tb.where(x > 0.0, x**-1.5, 0.0),
    "sin 1/x": lambda x: tb.where(x > 0.0, tb.sin(1.0 / x), 0.0),
}


@KINDS
@pytest.mark.parametrize("name", MASKED)
def test_a_masked_branch_leaks_nothing(name, kind):
    f = MASKED[name]

    def g(x):
        return f(x) + 3.0 * x + 5.0 * x * x

    np.testing.assert_array_equal(numbers_of(tb.taylor(g, kind(0.0), 2)), [0.0, 3.0, 5.0])
    assert tb.jvp(g, kind(0.0), kind(1.0))[1] == 3.0
    assert tb.hvp(g, kind(0.0), kind(1.0)) == 10.0
    assert tb.jvp(tb.derivative(g), kind(0.0), kind(1.0))[1] == 10.0
    assert tb.grad(tb.derivative(g))(kind(0.0)) == 10.0


# Of "x log x" and "sin 1/x" reverse over reverse gives nan, and is seen: the gradient by log(x) is
# azmul(u, x) with u = 0, the mask; differentiated again, an infinite gradient (log' = inf) meets
# that partial 0 by x. A zero partial against an infinite gradient stays nan, by design. (Forward
# mode, on its way down, knows of the mask: above.)
@KINDS
@pytest.mark.parametrize("name", [name for name in MASKED if name not in ("x log x", "sin 1/x")])
def test_a_masked_branch_leaks_nothing_into_the_gradient_of_a_gradient(name, kind):
    def g(x):
        return MASKED[name](x) + 3.0 * x + 5.0 * x * x

    assert tb.grad(g)(kind(0.0)) == tb.grad(g, create_graph=True)(kind(0.0)).data == 3.0
    assert tb.grad(tb.grad(g))(kind(0.0)) == 10.0
    assert tb.hessian(g)(kind(0.0)) == 10.0


def test_masked_elements_leave_the_others_alone():
    x = np.array([0.0, 2.0])

    def f(x):
        return tb.where(x > 0.0, tb.log(x), 0.0)

    np.testing.assert_array_equal(tb.jvp(f, x, np.ones(2))[1], [0.0, 0.5])
    np.testing.assert_array_equal(tb.derivative(f, 2)(x), [0.0, -0.25])
    np.testing.assert_array_equal(tb.hvp(lambda x: tb.sum(f(x)), x, np.ones(2)), [0.0, -0.25])


def test_what_does_not_move_has_no_tangent_at_a_pole():
    """As a zero gradient gives zero in reverse mode."""
    x, v = np.array([0.0, 4.0]), np.array([0.0, 1.0])
    np.testing.assert_array_equal(tb.jvp(tb.log, x, v)[1], [0.0, 0.25])
    np.testing.assert_array_equal(tb.jvp(tb.sqrt, x, v)[1], [0.0, 0.25])
    assert tb.jvp(lambda x, y: tb.log(x) + y, (0.0, 1.0), (0.0, 1.0))[1] == 1.0
    assert tb.jvp(lambda x: tb.sqrt(x * 0.0) + x, 2.0, 1.0)[1] == 1.0


def test_an_unmasked_pole_is_seen():
    assert tb.jvp(tb.log, 0.0, 1.0) == (-math.inf, math.inf)
    assert tb.jvp(tb.sqrt, 0.0, 1.0) == (0.0, math.inf)


@KINDS
@pytest.mark.parametrize("n", range(6))
def test_powers_at_zero(n, kind):
    expected = [float(k == n) for k in range(7)]
    np.testing.assert_array_equal(numbers_of(tb.taylor(lambda x: x**n, kind(0.0), 6)), expected)
    np.testing.assert_array_equal(
        numbers_of(tb.taylor(lambda x: math.prod([x] * n, start=1.0) + 0.0 * x, kind(0.0), 6)),
        expected,
    )


@pytest.mark.parametrize(
    ("f", "x", "v", "tangent"),
    [
        (tb.absolute, 0.0, 1.0, 0.0),
        (tb.relu, 0.0, 1.0, 0.0),
        (lambda x: tb.maximum(x, 2.0), 2.0, 1.0, 0.5),
        (lambda x: tb.clip(x, -1.0, 1.0), 1.0, 1.0, 1.0),
        (tb.norm, np.zeros(2), np.ones(2), 0.0),
        (tb.max, np.array([1.0, 1.0, 0.0]), np.array([1.0, 3.0, 9.0]), 2.0),
        (lambda x: x**0, 0.0, 1.0, 0.0),
    ],
)
def test_kinks_are_those_of_reverse_mode(f, x, v, tangent):
    assert tb.jvp(f, x, v)[1] == tangent
    assert np.sum(v * tb.grad(f)(x)) == tangent


# --- perturbations are kept apart ---------------------------------------------------------------

D = {
    "grad": tb.grad,
    "jvp": lambda f: lambda x: tb.jvp(f, x, 1.0)[1],
    "derivative": tb.derivative,
    "taylor": lambda f: lambda x: tb.taylor(f, x, 3)[1],
    "vjp": lambda f: lambda x: tb.vjp(f, x)[1](1.0)[0],
    "jacobian": tb.jacobian,
    "forward jacobian": lambda f: tb.jacobian(f, mode="forward"),
    "value_and_grad": lambda f: lambda x: tb.value_and_grad(f)(x)[1],
    "with a graph": lambda f: tb.grad(f, create_graph=True),
}
every_pair = pytest.mark.parametrize(
    ("outer", "inner"),
    [pytest.param(D[a], D[b], id=f"{a}-{b}") for a, b in itertools.product(D, repeat=2)],
)


@every_pair
def test_siskind_and_pearlmutter(outer, inner):
    """d/dx (x d/dy (x + y)) is 1; one perturbation taken for the other gives 2."""
    assert float(outer(lambda x: x * inner(lambda y: x + y)(1.0))(1.0)) == 1.0


@every_pair
def test_closures_over_outer_variables(outer, inner):
    # d/dx (x³ · ∂/∂y (x y² + sin(x y))) at y = x, and at y = 2
    def at_x(x):
        return x**3 * inner(lambda y: x * y * y + tb.sin(x * y))(x)

    def at_two(x):
        return x**3 * inner(lambda y: x * y * y + tb.sin(x * y))(2.0)

    x = 1.3
    with mp.workdps(40):
        expected = mpmath.diff(lambda x: x**3 * (2 * x * x + x * mpmath.cos(x * x)), x)
        assert float(outer(at_x)(x)) == pytest.approx(float(expected), rel=1e-13)
        expected = mpmath.diff(lambda x: x**3 * (4 * x + x * mpmath.cos(2 * x)), x)
        assert float(outer(at_two)(x)) == pytest.approx(float(expected), rel=1e-13)


@every_pair
def test_the_inner_derivative_by_another_name_of_the_outer_variable(outer, inner):
    """∂/∂y (x y) at y = x is x, whose derivative is 1: the outer x inside counts as constant."""
    assert float(outer(lambda x: inner(lambda y: x * y)(x))(3.0)) == 1.0
    assert float(outer(lambda x: inner(lambda y: x * x)(x))(3.0)) == 0.0
    assert float(outer(lambda x: inner(lambda y: y * y)(x))(3.0)) == 2.0


@pytest.mark.parametrize("modes", list(itertools.product(list(D)[:3], repeat=3)), ids="-".join)
def test_three_levels(modes):
    first, second, third = (D[mode] for mode in modes)

    def f(x):
        return x * second(lambda y: x * y * third(lambda z: x * y * z * z * z)(y))(x)

    # third: 3 x y z² at z = y: 3 x y³; times x y: 3 x² y⁴; second: 12 x² y³ at x: 12 x⁵
    assert float(first(f)(1.1)) == pytest.approx(72.0 * 1.1**5, rel=1e-13)
    sine = first(second(third(tb.sin)))
    assert float(sine(0.7)) == pytest.approx(-math.cos(0.7), rel=1e-14)


@pytest.mark.parametrize("mode", ["jvp", "derivative"])
def test_the_amazing_bug(mode):
    """Manzyuk, Pearlmutter, Radul, Rush and Siskind 2019, section 3: s u f x = f (x + u).

    A derivative that returns a function, which another derivative is then taken of: D(s 0) applied
    to D(s 0) of h is D D h.
    """
    outer = D[mode]

    def shift(u):
        return lambda f: lambda x: f(x + u)

    # The derivative of a curried function, eta-expanded: D(shift)(0)(f)(x) = f'(x).
    def d_shift(f):
        return lambda x: outer(lambda u: shift(u)(f)(x))(0.0)

    assert float(d_shift(tb.exp)(1.2)) == pytest.approx(math.exp(1.2), rel=1e-14)
    twice = d_shift(d_shift(tb.exp))
    assert float(twice(1.2)) == pytest.approx(math.exp(1.2), rel=1e-14)
    thrice = d_shift(d_shift(d_shift(tb.sin)))
    assert float(thrice(1.2)) == pytest.approx(-math.cos(1.2), rel=1e-14)


def test_a_result_that_holds_an_outer_perturbation_keeps_it():
    """An inner derivative of what depends on the outer variable alone is an outer node, or 0."""

    def f(x):
        value, tangent = tb.jvp(lambda y: (x * x, y * x), 2.0, 1.0)
        return value[0] + 10.0 * tangent[0] + 100.0 * value[1] + 1000.0 * tangent[1]

    for d in D.values():
        assert float(d(f)(3.0)) == 2.0 * 3.0 + 100.0 * 2.0 + 1000.0


# --- threads ------------------------------------------------------------------------------------


class Relay:
    """Two threads that run in turns, step by step."""

    def __init__(self):
        self.turn, self.lock = 0, threading.Condition()
        self.done = [False, False]

    def step(self, me):
        with self.lock:
            self.turn = 1 - me
            self.lock.notify_all()
            assert self.lock.wait_for(lambda: self.turn == me or self.done[1 - me], timeout=30)

    def end(self, me):
        with self.lock:
            self.done[me], self.turn = True, 1 - me
            self.lock.notify_all()


def together(*functions):
    """Run two functions in two threads in turns; each is given what yields to the other."""
    relay, results = Relay(), [None, None]

    def body(me):
        try:
            results[me] = functions[me](lambda: relay.step(me))
        except BaseException as error:
            results[me] = error
        finally:
            relay.end(me)

    threads = [threading.Thread(target=body, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


@pytest.mark.parametrize(
    "pair", list(itertools.product(["grad", "jvp", "derivative"], repeat=2)), ids="-".join
)
def test_nested_derivatives_in_two_threads_by_turns(pair):
    outer, inner = (D[name] for name in pair)

    def work(scale):
        def body(pause):
            def f(x):
                pause()
                y = x * x
                pause()

                def g(z):
                    pause()
                    w = z * z * z * y
                    pause()
                    return w * scale

                return inner(g)(x) * x

            return float(outer(f)(1.5))

        return body

    # 3 x² · x² · x = 3 x⁵
    assert together(work(1.0), work(7.0)) == pytest.approx([15 * 1.5**4, 105 * 1.5**4], rel=1e-13)


@pytest.mark.parametrize("first", ["jvp", "derivative", "grad"])
@pytest.mark.parametrize("second", ["jvp", "derivative", "grad"])
def test_a_perturbation_seen_from_another_threads_derivative(first, second):
    """A variable of the one thread's derivative in the other's function counts as constant there,
    and the other's variable, taken back, as constant here.
    """
    shared, there, back = {}, threading.Event(), threading.Event()

    def ours(pause):
        def f(x):
            shared["x"] = x
            there.set()
            assert back.wait(30)
            return (
                x * x * shared["of z"].detach() * shared["z"].detach() + 0.0 * shared["of z"].data
            )

        return float(D[first](f)(3.0))

    def theirs(pause):
        def g(z):
            assert there.wait(30)
            shared["z"], shared["of z"] = z, z * z + 1.0
            result = z * z * shared["x"]
            back.set()
            return result

        derivative = D[second](g)(2.0)
        return float(getattr(derivative, "data", derivative))

    results = [None, None]

    def run(i, f):
        results[i] = f(None)

    threads = [threading.Thread(target=run, args=(i, f)) for i, f in enumerate((ours, theirs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [2.0 * 3.0 * 5.0 * 2.0, 4.0 * 3.0]


def test_tangents_pass_through_a_worker_thread():
    """A derivative whose function computes in another thread, and that one differentiates too."""

    def in_a_thread(f, *arguments):
        box = []
        thread = threading.Thread(target=lambda: box.append(f(*arguments)))
        thread.start()
        thread.join()
        return box[0]

    def f(x):
        # a context of its own: there it is the top, so nodes are asked for
        slope = in_a_thread(tb.grad(lambda y: x * y * y, create_graph=True), x)
        return x * slope

    assert tb.jvp(f, 3.0, 1.0)[1] == pytest.approx(6.0 * 9.0)
    assert tb.grad(f)(3.0) == pytest.approx(6.0 * 9.0)

    def g(x):
        return x * in_a_thread(lambda: tb.jvp(lambda y: x * y * y, x, 1.0, create_graph=True)[1])

    assert tb.jvp(g, 3.0, 1.0)[1] == pytest.approx(6.0 * 9.0)
    assert tb.grad(g)(3.0) == pytest.approx(6.0 * 9.0)


# --- every operator and method ------------------------------------------------------------------

A, C = numbers(2, 3) ** 2, numbers(3, 2)
# What keeps no tangent: questions about numbers, and the machinery.
WITHOUT_TANGENT = {
    *("__init__", "__float__", "__bool__", "__len__", "__array__", "__array_function__"),
    *("__repr__", "__hash__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"),
    *("__reduce__", "item", "backward", "detach"),
}
# How the others are called; the same is done to numpy arrays for the oracle, unless stated.
CALLS = {
    "__add__": lambda x: x + C.T,
    "__radd__": lambda x: C.T + x,
    "__sub__": lambda x: x - C.T,
    "__rsub__": lambda x: C.T - x,
    "__mul__": lambda x: x * C.T,
    "__rmul__": lambda x: C.T * x,
    "__truediv__": lambda x: x / C.T,
    "__rtruediv__": lambda x: C.T / x,
    "__pow__": lambda x: x**2.5,
    "__rpow__": lambda x: 2.5**x,
    "__neg__": lambda x: -x,
    "__pos__": lambda x: +x,
    "__abs__": abs,
    "__isub__": lambda x: x.__isub__(C.T),
    "__matmul__": lambda x: x @ C,
    "__rmatmul__": lambda x: C @ x,
    "__getitem__": lambda x: x[:, 1:],
    "__iter__": lambda x: list(x)[1],
    "exp": lambda x: x.exp(),
    "log": lambda x: x.log(),
    "sqrt": lambda x: x.sqrt(),
    "tanh": lambda x: x.tanh(),
    "sigmoid": lambda x: x.sigmoid(),
    "relu": lambda x: x.relu(),
    "sum": lambda x: x.sum(1),
    "mean": lambda x: x.mean(1),
    "var": lambda x: x.var(1),
    "max": lambda x: x.max(1),
    "min": lambda x: x.min(1),
    "prod": lambda x: x.prod(1),
    "astype": lambda x: x.astype(np.float64),
    "reshape": lambda x: x.reshape(3, 2),
    "transpose": lambda x: x.transpose(1, 0),
    "T": lambda x: x.T,
}
IN_NUMPY = {
    "__isub__": lambda x: x - C.T,
    "__abs__": lambda x: x,  # where it is positive; numpy's is not analytic
    "relu": lambda x: x,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "max": lambda x: x[[0, 1], np.argmax(A, 1)],
    "min": lambda x: x[[0, 1], np.argmin(A, 1)],
    "var": lambda x: ((x - x.mean(1, keepdims=True)) ** 2).mean(1),
    "astype": lambda x: x,
}
NUMBER = {name: call for name, call in CALLS.items() if name in vars(Value)}


def computing(kind):
    """The public methods and operators of a class, and its properties that are computed."""
    names = {
        name
        for name, member in vars(kind).items()
        if callable(member) and (name.startswith("__") or not name.startswith("_"))
    }
    return sorted(names - WITHOUT_TANGENT)


def test_every_method_has_a_call():
    """A new method belongs into CALLS, or into WITHOUT_TANGENT."""
    assert set(computing(Tensor)) | {"T"} == set(CALLS)
    assert set(computing(Value)) <= set(CALLS)
    properties = {n for k in (Tensor, Value) for n, m in vars(k).items() if type(m) is property}
    assert properties == {"data", "grad", "shape", "dtype", "ndim", "size", "T"}


@pytest.mark.parametrize("name", CALLS)
def test_every_method_of_a_tensor_keeps_its_tangent(name):
    v = directions_of([A])[0]
    kinds = []

    def f(x):
        result = CALLS[name](x)
        kinds.append(type(result))
        return result

    value, tangent = tb.jvp(f, A, v)
    oracle = IN_NUMPY.get(name, CALLS[name])
    expected = cauchy(oracle, [A], [v], 2, 0.02)
    assert kinds == [SeriesTensor]
    close(value, expected[0], 1e-13)
    close(tangent, expected[1], 1e-11)
    second = tb.taylor(lambda t: CALLS[name](A + t * v), np.array(0.0), 2)[2]
    np.testing.assert_allclose(second, expected[2], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", computing(Value))
def test_every_method_of_a_value_keeps_its_tangent(name):
    x, c = 1.7, 0.6
    calls = {
        "__add__": lambda x: x + c,
        "__radd__": lambda x: c + x,
        "__sub__": lambda x: x - c,
        "__rsub__": lambda x: c - x,
        "__mul__": lambda x: x * c,
        "__rmul__": lambda x: c * x,
        "__truediv__": lambda x: x / c,
        "__rtruediv__": lambda x: c / x,
        "__isub__": lambda x: x.__isub__(c),
    }
    call = calls.get(name, CALLS[name])
    oracle = calls.get(name) or IN_NUMPY.get(name, CALLS[name])
    oracle = (lambda x: x - c) if name == "__isub__" else oracle
    kinds = []

    def f(x):
        result = call(x)
        kinds.append(type(result))
        return result

    expected = cauchy(oracle, [x], [1.0], 2, 0.1)
    got = tb.taylor(f, x, 2)
    assert kinds == [SeriesValue]
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-13)


OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]


@pytest.mark.parametrize("other", [2.0, 2, np.float64(2.0), Value(2.0), None], ids=repr)
@pytest.mark.parametrize("apply", OPERATORS)
def test_operators_with_every_kind_of_number(apply, other):
    """On either side; None stands for the quantity itself."""

    def f(x, other):
        y = x if other is None else other
        return apply(x, y) + 3.0 * apply(y, x)

    with mp.workdps(40):
        plain = None if other is None else mpf(2)
        expected = float(mpmath.diff(lambda x: f(x, plain), mpf(0.75)))
    assert tb.jvp(lambda x: f(x, other), 0.75, 1.0)[1] == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("shapes", MATMUL_SHAPES, ids=str)
def test_matmul_with_an_array_on_either_side(shapes):
    x, y = numbers(*shapes[0]), numbers(*shapes[1], seed=1)
    u, w = directions_of([x, y])
    close(tb.jvp(lambda x: x @ y, x, u)[1], u @ y, 1e-13)
    close(tb.jvp(lambda y: x @ y, y, w)[1], x @ w, 1e-13)
    close(tb.jvp(lambda x: x @ Tensor(y), x, u)[1], u @ y, 1e-13)
    close(tb.jvp(lambda y: Tensor(x) @ y, y, w)[1], x @ w, 1e-13)


# --- what a quantity of forward mode is ---------------------------------------------------------


def test_a_series_behaves_like_its_first_coefficient():
    seen = {}

    def f(x, y):
        seen.update(
            float=float(x),
            item=x.item(),
            comparisons=(x > 1.0, x < 1.0, x >= 2, x == 2.0),
            text=(repr(x), repr(y)),
            data=(x.data, y.data.tolist()),
            shape=(y.shape, y.size, len(y)),
            asked=(x.requires_grad, x.is_leaf, y.requires_grad, (y * y).is_leaf),
            truth=bool(x),
            detached=(x.detach().requires_grad, y.detach().requires_grad),
        )
        return tb.sum(y * y)

    tb.jvp(f, (2.0, np.ones(2)), (1.0, np.ones(2)))
    assert seen == {
        "float": 2.0,
        "item": 2.0,
        "comparisons": (True, False, True, True),
        "text": ("Tensor(2.)", "Tensor([1., 1.])"),
        "data": (2.0, [1.0, 1.0]),
        "shape": ((2,), 2, 2),
        "asked": (True, True, True, False),
        "truth": True,
        "detached": (False, False),
    }


@pytest.mark.parametrize("x", [2.0, np.ones(2)], ids=["Value", "Tensor"])
def test_detach_stops_the_tangent(x):
    assert np.all(tb.jvp(lambda x: x.detach() * x, x, x)[1] == x * x)
    assert np.all(tb.jvp(lambda x: x.detach() * 3.0, x, x)[1] == 0.0)
    # and the derivative around it
    outer = tb.derivative(lambda x: tb.jvp(lambda y: y.detach() * y, x, x.data)[1])
    assert np.all(outer(x) == 0.0)


@pytest.mark.parametrize("x", [2.0, np.ones(())], ids=["Value", "Tensor"])
def test_backward_and_writing_are_refused(x):
    with pytest.raises(ValueError, match="forward mode"):
        tb.jvp(lambda x: (x * x).backward(), x, x)

    def write(x):
        x.data = x.data + 1.0
        return x

    with pytest.raises(ValueError, match="data"):
        tb.jvp(write, x, x)


@pytest.mark.parametrize("x", [Value(2.0), Tensor(V)], ids=["Value", "Tensor"])
def test_forward_mode_keeps_no_graph(x):
    """Of a quantity that is dropped nothing stays, though it was computed from a tracked leaf."""

    def f(x):
        y = x * x
        parts = [weakref.ref(c) for c in y.coefficients]
        y = tb.exp(y * 0.5)
        assert [part() for part in parts] == [None, None]
        return y

    tb.jvp(f, x, np.ones(x.data.shape) if isinstance(x, Tensor) else 1.0)


def test_under_no_grad_results_are_constants_in_every_mode():
    def f(x):
        with tb.no_grad():
            c = x * x
        return c * x

    assert tb.grad(f)(3.0) == tb.derivative(f)(3.0) == tb.jvp(f, 3.0, 1.0)[1] == 9.0
    assert tb.hessian(lambda x: f(x) * x)(3.0) == tb.hvp(lambda x: f(x) * x, 3.0, 1.0) == 18.0
    with tb.no_grad():  # around a derivative it does not matter
        assert tb.jvp(lambda x: x * x, 3.0, 1.0)[1] == 6.0


@given(st.lists(st.floats(-2.0, 2.0), min_size=2, max_size=5), st.integers(0, 6))
def test_taylor_of_a_polynomial_is_the_shifted_polynomial(coefficients, order):
    def horner(x):
        total = coefficients[-1] + 0.0 * x
        for c in reversed(coefficients[:-1]):
            total = total * x + c
        return total

    shifted = np.polynomial.Polynomial(coefficients)(np.polynomial.Polynomial([0.75, 1.0])).coef
    expected = [*shifted, *[0.0] * 9][: order + 1]
    np.testing.assert_allclose(tb.taylor(horner, 0.75, order), expected, rtol=1e-12, atol=1e-13)


def test_m_is_not_moved():
    """Jvp leaves its arguments alone, and hands out memory of its own."""
    x, v = M.copy(), directions_of([M])[0]
    before = v.copy()
    value, tangent = tb.jvp(lambda x: x, x, v)
    assert not any(
        np.shares_memory(a, b) for a, b in itertools.combinations([x, v, value, tangent], 2)
    )
    value += 1.0
    tangent += 1.0
    np.testing.assert_array_equal(x, M)
    np.testing.assert_array_equal(v, before)
