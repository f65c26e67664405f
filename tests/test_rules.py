"""Every rule of the table against independent mathematics: in the middle, the tails, at edges."""

import cmath
import itertools
import math
import pickle
from types import SimpleNamespace

import mpmath
import numpy as np
import pytest
from hypothesis import given, strategies as st
from oracles import DIGITS, EPS, FORMULAS, TINY, truth

import tinygrad_bp as tb
from tinygrad_bp import floats, rules
from tinygrad_bp.rules import RULES, Rule
from tinygrad_bp.value import Value

nan, inf = math.nan, math.inf
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))


def partial_at(rule, i, point, m=floats):
    """The partial by operand i, as a rule states it."""
    partial = rule.partials[i]
    return partial(m, *point, rule.value(m, *point)) if callable(partial) else partial


def differentiable(rule):
    """The positions of the operands that a rule has a derivative by."""
    return [i for i, partial in enumerate(rule.partials) if partial is not None]


def points_of(rule):
    """A strategy for points of the rule's domain that are not on a kink."""
    intervals = [st.floats(low, high) for low, high in rule.domain]
    point = st.tuples(*(x.filter(lambda x: not 0.0 < abs(x) < 1e-30) for x in intervals))
    return point.filter(lambda p: 0.0 not in p and len(set(p)) == len(p)) if rule.kinks else point


def same(x, y):
    """Equal, where nan equals nan."""
    return x == y or (x != x and y != y)


def near(x, y, relative):
    return same(x, y) or abs(x - y) <= relative * abs(y)


def disagreements(rule, points, digits=DIGITS):
    """Where value or partials are not what high precision says."""
    wrong = []
    for point in points:
        for i in [None, *differentiable(rule)]:
            expected = truth(rule.name, point, i, digits)
            got = rule.value(floats, *point) if i is None else partial_at(rule, i, point)
            if expected is not None and not expected.agrees(got):
                wrong.append((rule.name, i, point, got, float(expected.number)))
    return wrong


# --- the table ----------------------------------------------------------------------------------


def test_every_rule_has_an_independent_formula():
    assert set(FORMULAS) == set(RULES)


@every_rule
def test_table_entry_is_complete(rule):
    assert getattr(rules, rule.name) is rule
    assert rule.__doc__
    assert len(rule.partials) == len(rule.domain) == rule.arity
    assert all(low < high for low, high in rule.domain)
    assert len(rule.textbook) in (0, rule.arity)
    assert repr(rule) == f"<rule {rule.name}>"
    assert pickle.loads(pickle.dumps(rule)) is rule


def test_partials_must_match_the_operands():
    with pytest.raises(ValueError, match="product has 2 operands, but 1 partials"):

        @rules.elementwise(1.0)
        def product(m, x, y):
            return x * y


@every_rule
def test_wrong_number_of_operands_is_refused_by_name(rule):
    with pytest.raises(TypeError, match=f"{rule.name} takes .* operands, got 4"):
        rule(1.0, 1.0, 1.0, 1.0)
    with pytest.raises(TypeError, match=f"{rule.name} takes .* operands, got 0"):
        rule()


@every_rule
def test_other_operands_are_refused_by_name(rule):
    for bad in ["1", None, 1j, [1.0], object(), np.array([1.0, 2.0])]:
        with pytest.raises(TypeError, match=rule.name):
            rule(*[bad] * rule.arity)


@pytest.mark.parametrize(("rule", "default"), [(rules.leaky_relu, 0.01), (rules.elu, 1.0)])
def test_last_operands_may_be_left_out(rule, default):
    assert rule(-2.0) == rule(-2.0, default) != rule(-2.0, 0.3)
    x = Value(-2.0)
    rule(x).backward()
    y = Value(-2.0)
    rule(y, default).backward()
    assert x.grad == y.grad


# --- values and derivatives ---------------------------------------------------------------------


@every_rule
@given(data=st.data())
def test_value_and_partials_in_the_domain(rule, data):
    assert not disagreements(rule, [data.draw(points_of(rule))], digits=120)


TAILS = [sign * size for size in (20.0, 40.0, 300.0, 700.0, 1000.0) for sign in (1.0, -1.0)]


@every_rule
def test_value_and_partials_in_the_tails(rule):
    if rule.arity == 1:
        points = [(x,) for x in [*TAILS, 1e-9, -1e-9, 1e-200, -1e-200]]
    elif rule.arity == 2:
        points = list(itertools.permutations([*TAILS[:2], *TAILS[6:], 0.5], 2))
    else:
        points = itertools.permutations([20.0, -40.0, 1000.0, -1000.0, 0.5], 3)
    assert not disagreements(rule, points)


@pytest.mark.parametrize(
    ("name", "x", "derivative"),
    [
        ("tanh", 20.0, 1.6993417021166355e-17),
        ("tanh", -20.0, 1.6993417021166355e-17),
        ("tanh", 300.0, 1.0601586212017243e-260),
        ("sigmoid", 40.0, 4.248354255291589e-18),
        ("sigmoid", -700.0, 9.859676543759770e-305),
        ("softplus", -300.0, 5.148200222412013e-131),
        ("log_sigmoid", 300.0, 5.148200222412013e-131),
    ],
)
def test_small_derivatives_keep_their_digits(name, x, derivative):
    a = Value(x)
    RULES[name](a).backward()
    assert a.grad == pytest.approx(derivative, rel=1e-13, abs=0.0)


@every_rule
@given(data=st.data())
def test_central_differences(rule, data):
    point = data.draw(points_of(rule).map(lambda p: tuple(round(x, 3) for x in p)))
    step = 2.0**-17  # about the cube root of a rounding: the best compromise of the two errors
    for i in differentiable(rule):
        ahead, behind = list(point), list(point)
        ahead[i] += step
        behind[i] -= step
        on_a_kink = rule.kinks and (
            any(a * b <= 0.0 for a, b in zip(ahead, behind, strict=True))
            or any(abs(a - b) <= step for a, b in itertools.combinations(point, 2))
        )
        if on_a_kink:
            continue
        slope = (rule.value(floats, *ahead) - rule.value(floats, *behind)) / (2.0 * step)
        # step**2 / 6 = 1e-11 times the third derivative, which is below 3000 in all the domains
        assert slope == pytest.approx(partial_at(rule, i, point), rel=1e-7, abs=3e-8)


COMPLEX = SimpleNamespace(
    arccos=cmath.acos,
    arcsin=cmath.asin,
    arctan=cmath.atan,
    azmul=lambda g, d: g * d,
    cos=cmath.cos,
    cosh=cmath.cosh,
    divide=lambda x, y: x / y,
    erf=mpmath.erf,
    erfc=mpmath.erfc,
    exp=cmath.exp,
    expm1=mpmath.expm1,
    log=cmath.log,
    log1p=mpmath.log1p,
    logaddexp=lambda x, y: cmath.log(cmath.exp(x) + cmath.exp(y)),
    power=lambda x, y: cmath.exp(y * cmath.log(x)),
    sin=cmath.sin,
    sinh=cmath.sinh,
    sqrt=cmath.sqrt,
    tan=cmath.tan,
    tanh=cmath.tanh,
    where=lambda condition, x, y: x if condition else y,
)
analytic_rules = [rule for rule in RULES.values() if rule.analytic]


@pytest.mark.parametrize("rule", analytic_rules, ids=lambda rule: rule.name)
@given(data=st.data())
def test_complex_step(rule, data):
    point = data.draw(points_of(rule))
    for i in differentiable(rule):
        aside = [complex(x, 1e-30 if i == j else 0.0) for j, x in enumerate(point)]
        with mpmath.workdps(50):  # for the functions that cmath does not have
            slope = float(rule.value(COMPLEX, *aside).imag) / 1e-30
        # no difference is taken, so no digits are lost but to the terms of a sum (silu, gelu)
        assert slope == pytest.approx(partial_at(rule, i, point), rel=1e-13, abs=1e-14)


SPECIAL = [0.0, 1.0, -1.0, 0.5, 2.0]  # where formulas branch, and two points where none does


def special_points(rule):
    """Those inside the domain."""
    inside = [[x for x in SPECIAL if low <= x <= high] for low, high in rule.domain]
    return itertools.product(*inside)


def higher(rule, places, point):
    """A derivative of higher order: by the operands at these places, one after the other."""
    derivative = rule
    for i in places:
        derivative = tb.grad(derivative, i)
    return derivative(*point)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize(
    "rule", [r for r in RULES.values() if not r.kinks and None not in r.partials], ids=repr
)
def test_derivatives_of_higher_order(rule, order):
    """Of the partials, which are programs of their own: also exactly where these branch."""
    for point in special_points(rule):
        for places in itertools.product(range(rule.arity), repeat=order):
            times = tuple(map(places.count, range(rule.arity)))
            with mpmath.workdps(50):
                exact = mpmath.diff(FORMULAS[rule.name], tuple(map(mpmath.mpf, point)), times)
            # Terms of size up to 100 cancel in some, as in the third derivative of arctan2.
            got = higher(rule, places, point)
            assert got == pytest.approx(float(exact), rel=1e-13, abs=1e-13), (point, places)


@pytest.mark.parametrize("rule", [r for r in RULES.values() if r.kinks], ids=repr)
def test_a_kink_is_on_one_side_throughout(rule):
    """What is chosen there is a derivative of one smooth function: the order does not matter."""
    for point in itertools.product(SPECIAL, repeat=rule.arity):
        for i, j in itertools.combinations(range(rule.arity), 2):
            assert higher(rule, (i, j), point) == higher(rule, (j, i), point)


@pytest.mark.parametrize(
    ("name", "point", "places", "expected"),
    [
        ("absolute", (0.0,), (0, 0), 0.0),
        ("leaky_relu", (0.0, 0.25), (0, 1), 1.0),  # of slope * x
        ("elu", (0.0, 0.5), (0, 0), 0.5),  # of alpha * (exp(x) - 1)
        ("elu", (0.0, 0.5), (0, 1), 1.0),
        ("power", (2.0, 0.0), (0, 1), 0.5),  # x**y is 1 + y*log(x) there
        ("silu", (0.0,), (0, 0), 0.5),  # x/2 + x**2/4
    ],
)
def test_second_derivatives_by_hand(name, point, places, expected):
    assert higher(RULES[name], places, point) == expected


@pytest.mark.parametrize("rule", [r for r in RULES.values() if r.textbook], ids=lambda r: r.name)
@given(data=st.data())
def test_textbook_partials_are_the_accurate_ones(rule, data):
    point = data.draw(points_of(rule))
    z = rule.value(floats, *point)
    for i, textbook in enumerate(rule.textbook):
        # 1 - y*y at 3 has lost two digits; no textbook form loses more in its domain
        assert textbook(floats, *point, z) == pytest.approx(
            partial_at(rule, i, point), rel=1e-12, abs=1e-14
        )


@every_rule
@given(data=st.data())
def test_values_and_numbers_take_the_same_rule(rule, data):
    point = data.draw(points_of(rule))
    operands = [Value(x) for x in point]
    result = rule(*operands)
    result.backward()
    assert result.data == rule(*point) == rule.value(floats, *point)
    assert result.rule is rule
    for i, operand in enumerate(operands):
        assert operand.grad == partial_at(rule, i, point)


@every_rule
def test_every_mixture_of_values_and_numbers(rule):
    point = tuple(low + 0.6 * (high - low) for low, high in rule.domain)
    tracked_operands = differentiable(rule)
    for chosen in itertools.product([False, True], repeat=rule.arity):
        operands = [Value(x) if c else x for x, c in zip(point, chosen, strict=True)]
        result = rule(*operands)
        if not any(chosen):
            assert type(result) is float
            continue
        assert result.data == rule.value(floats, *point)
        assert result.requires_grad == any(chosen[i] for i in tracked_operands)
        if result.requires_grad:
            result.backward()
        for i, operand in enumerate(operands):
            if chosen[i]:
                expected = partial_at(rule, i, point) if i in tracked_operands else None
                assert operand.grad == expected


@pytest.mark.parametrize(
    "partials", [(lambda m, x, y, z: y, 5.0), (5.0, lambda m, x, y, z: x), (None, 5.0)]
)
def test_a_rule_may_mix_constant_and_computed_partials(partials):
    def made_up(m, x, y):
        return x * y

    rule = Rule(
        made_up,
        partials,
        domain=((-3.0, 3.0),),
        kinks="",
        analytic=True,
        textbook=(),
    )
    x, y = Value(2.0), Value(3.0)
    rule(x, y).backward()
    assert [x.grad, y.grad] == [partial_at(rule, i, (2.0, 3.0)) for i in (0, 1)]


# --- kinks --------------------------------------------------------------------------------------

# Rule, point, and the derivatives that are stated to be chosen there.
KINKS = [
    ("absolute", (0.0,), (0.0,)),
    ("absolute", (-0.0,), (0.0,)),
    ("relu", (0.0,), (0.0,)),
    ("relu", (-0.0,), (0.0,)),
    ("leaky_relu", (0.0, 0.1), (0.1, 0.0)),
    ("elu", (0.0, 0.7), (0.7, 0.0)),
    ("maximum", (2.0, 2.0), (0.5, 0.5)),
    ("maximum", (0.0, -0.0), (0.5, 0.5)),
    ("maximum", (inf, inf), (0.5, 0.5)),
    ("minimum", (2.0, 2.0), (0.5, 0.5)),
    ("clip", (-1.0, -1.0, 1.0), (1.0, 0.0, 0.0)),
    ("clip", (1.0, -1.0, 1.0), (1.0, 0.0, 0.0)),
    ("clip", (1.0, 1.0, 1.0), (1.0, 0.0, 0.0)),
    ("clip", (0.0, 1.0, -1.0), (0.0, 0.0, 1.0)),
    ("clip", (-5.0, 1.0, -1.0), (0.0, 0.0, 1.0)),
    ("clip", (5.0, 1.0, -1.0), (0.0, 0.0, 1.0)),
    ("where", (1.0, 2.0, 2.0), (None, 1.0, 0.0)),
    ("where", (0.0, 2.0, 2.0), (None, 0.0, 1.0)),
    # not kinks of the function, but of its formula
    ("power", (0.0, 0.0), (0.0, 0.0)),
    ("power", (2.0, 0.0), (0.0, math.log(2.0))),
    ("power", (0.0, 1.0), (1.0, 0.0)),
    ("power", (0.0, 2.0), (0.0, 0.0)),
    ("power", (-3.0, 2.0), (-6.0, nan)),
    ("azmul", (0.0, 3.0), (3.0, 0.0)),
    ("square", (0.0,), (0.0,)),
]


def test_every_kink_that_a_rule_states_is_tested():
    stated = {rule.name for rule in RULES.values() if rule.kinks}
    assert stated <= {name for name, _, _ in KINKS}


@pytest.mark.parametrize(("name", "point", "expected"), KINKS)
def test_kinks(name, point, expected):
    rule = RULES[name]
    got = [partial_at(rule, i, point) for i in range(rule.arity)]
    assert all(same(a, b) for a, b in zip(got, expected, strict=True)), got
    operands = [Value(x) for x in point]
    rule(*operands).backward()
    grads = [operand.grad for operand in operands]
    assert all(same(a, b) for a, b in zip(grads, expected, strict=True)), grads


@pytest.mark.parametrize("x", [0.0, -0.0, 2.0, -2.0, inf, -inf, nan, 1e308, 5e-324])
def test_power_zero_is_constant_everywhere(x):
    a = Value(x)
    b = a**0
    b.backward()
    assert (b.data, a.grad) == (1.0, 0.0)


def test_a_tie_with_itself_has_derivative_one():
    for choose in (rules.maximum, rules.minimum):
        a = Value(2.0)
        choose(a, a).backward()
        assert a.grad == 1.0


# --- the edges ----------------------------------------------------------------------------------

EDGES = [0.0, -0.0, 1.0, -1.0, inf, -inf, nan, 1000.0, -1000.0, 1e308, 5e-324]


def edge_points(rule):
    return list(itertools.product(EDGES, repeat=rule.arity))


# What numpy has no function of this name for.
WITHOUT_NUMPY = {
    "azmul": lambda g, d: 0.0 if g == 0.0 else np.float64(g) * d,
    "clip": lambda x, low, high: np.minimum(np.maximum(x, low), high),
    "elu": lambda x, alpha: x if x > 0.0 else np.float64(alpha) * np.expm1(np.minimum(x, 0.0)),
    "leaky_relu": lambda x, slope: x if x > 0.0 else np.float64(slope) * x,
    "log_sigmoid": lambda x: -np.logaddexp(0.0, -np.float64(x)),
    "relu": lambda x: np.maximum(x, 0.0),
    "softplus": lambda x: np.logaddexp(0.0, x),
    "where": lambda condition, x, y: x if condition else y,
}

# The limits, where there is one. silu and gelu are products, and -inf * 0 is nan (as in PyTorch).
LIMITS = {
    "sigmoid": {-inf: 0.0, -1000.0: 0.0, 0.0: 0.5, 1000.0: 1.0, 1e308: 1.0, inf: 1.0},
    "silu": {-inf: nan, -1000.0: 0.0, 0.0: 0.0, 1000.0: 1000.0, 1e308: 1e308, inf: inf},
    "gelu": {-inf: nan, -1000.0: 0.0, 0.0: 0.0, 1000.0: 1000.0, 1e308: 1e308, inf: inf},
    "erf": {-inf: -1.0, -1000.0: -1.0, 0.0: 0.0, 1000.0: 1.0, 1e308: 1.0, inf: 1.0},
    "erfc": {-inf: 2.0, -1000.0: 2.0, 0.0: 1.0, 1000.0: 0.0, 1e308: 0.0, inf: 0.0},
}


@every_rule
def test_edges_never_raise(rule):
    for point in edge_points(rule):
        assert isinstance(rule.value(floats, *point), float)
        for i in range(rule.arity):
            assert partial_at(rule, i, point) is None or isinstance(
                partial_at(rule, i, point), float
            )
        rule(*(Value(x) for x in point)).backward()


@pytest.mark.parametrize("rule", [r for r in RULES.values() if r.name not in LIMITS], ids=repr)
def test_edges_are_those_of_numpy(rule):
    reference = WITHOUT_NUMPY.get(rule.name) or getattr(np, rule.name)
    wrong = []
    for point in edge_points(rule):
        with np.errstate(all="ignore"):
            expected = float(reference(*point))
        got = rule.value(floats, *point)
        if not near(got, expected, 4 * EPS):
            wrong.append((point, got, expected))
    assert not wrong


@pytest.mark.parametrize("name", LIMITS)
def test_edges_are_the_limits(name):
    rule = RULES[name]
    assert {x: rule(x) for x in LIMITS[name]} == pytest.approx(LIMITS[name], nan_ok=True, abs=0.0)
    assert math.isnan(rule(nan))


@pytest.mark.parametrize(
    ("name", "point", "value"),
    [
        ("divide", (1.0, 0.0), inf),
        ("divide", (1.0, -0.0), -inf),
        ("divide", (0.0, 0.0), nan),
        ("log", (0.0,), -inf),
        ("log", (-1.0,), nan),
        ("sqrt", (-1.0,), nan),
        ("exp", (1000.0,), inf),
        ("sin", (inf,), nan),
        ("power", (0.0, -1.0), inf),
        ("power", (-8.0, 1.0 / 3.0), nan),
        ("arcsin", (2.0,), nan),
        ("softplus", (1000.0,), 1000.0),
        ("softplus", (-1000.0,), 0.0),
        ("log_sigmoid", (-1000.0,), -1000.0),
        ("logaddexp", (1000.0, 1000.0), 1000.0 + math.log(2.0)),
    ],
)
def test_edges_by_hand(name, point, value):
    assert same(RULES[name](*point), value)


@pytest.mark.parametrize(
    ("name", "x", "derivative"),
    [
        ("log", 0.0, inf),
        ("sqrt", 0.0, inf),
        ("log1p", -1.0, inf),
        ("arcsin", 1.0, inf),
        ("arccos", -1.0, -inf),
        ("log", -1.0, -1.0),
        ("exp", 1000.0, inf),
        ("exp", -inf, 0.0),
        ("tanh", inf, 0.0),
        ("tanh", -inf, 0.0),
        ("sigmoid", inf, 0.0),
        ("sigmoid", -inf, 0.0),
        ("softplus", inf, 1.0),
        ("softplus", -inf, 0.0),
        ("log_sigmoid", inf, 0.0),
        ("log_sigmoid", -inf, 1.0),
        ("relu", -inf, 0.0),
        ("relu", inf, 1.0),
        ("arctan", inf, 0.0),
        ("erf", -inf, 0.0),
        ("sin", inf, nan),
    ],
)
def test_derivatives_at_edges_by_hand(name, x, derivative):
    assert same(partial_at(RULES[name], 0, (x,)), derivative)


@every_rule
def test_zero_gradient_contributes_zero_at_the_edges(rule):
    wrong = []
    for point in edge_points(rule):
        operands = [Value(x) for x in point]
        rules.where(False, rule(*operands), 0.0).backward()
        grads = [operands[i].grad for i in differentiable(rule)]
        if any(grad != 0.0 for grad in grads):
            wrong.append((point, grads))
    assert not wrong


@pytest.mark.parametrize(
    "branch",
    [
        lambda x: x * rules.log(x),
        lambda x: rules.log(x),
        lambda x: rules.sqrt(x),
        lambda x: 1.0 / x,
        lambda x: x**-1.5,
        lambda x: rules.sqrt(x) * rules.log(x) / x,
        lambda x: rules.exp(1.0 / x),
        lambda x: rules.tanh(1.0 / x),
        lambda x: rules.sin(1.0 / x),
        lambda x: rules.hypot(x, x),
        lambda x: rules.logaddexp(rules.log(x), rules.log(x)),
    ],
)
def test_a_masked_branch_leaks_nothing(branch):
    x = Value(0.0)
    (rules.where(x > 0.0, branch(x), 0.0) + 3.0 * x).backward()
    assert x.grad == 3.0


def test_zero_partial_against_infinite_gradient_is_seen():
    x = Value(0.0)
    rules.log(x * x).backward()
    assert math.isnan(x.grad)


@given(x=st.floats(-745.0, 710.0))
def test_logistic_family_keeps_its_digits_where_exp_does(x):
    """From where exp(x) is the smallest float to where it overflows."""
    for name in ("sigmoid", "log_sigmoid", "softplus", "tanh"):
        assert not disagreements(RULES[name], [(x,)])


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("arcsin", (1.0 - 2.0**-30,)),
        ("arccos", (-1.0 + 2.0**-40,)),
        ("log1p", (-1.0 + 2.0**-45,)),
        ("divide", (1e-200, 1e-200)),
        ("divide", (1e200, 1e150)),
        ("hypot", (3e-200, 4e-200)),
        ("hypot", (3e200, 4e200)),
        ("arctan2", (3e-200, 4e-200)),
        ("arctan2", (3e200, 4e200)),
    ],
)
def test_partials_where_a_simpler_formula_fails(name, point):
    """Near a pole, where 1 - x*x has lost its digits, and where x*x over- or underflows."""
    for i in range(len(point)):
        exact = truth(name, point, i)._replace(condition=0)
        assert exact.agrees(partial_at(RULES[name], i, point))


@pytest.mark.parametrize("name", ["silu", "gelu", "sigmoid", "softplus", "tanh", "erf", "erfc"])
def test_tails_near_underflow(name):
    """Where the result is still a float of full precision, however small."""
    points = [(-712.0,), (-708.0,), (-37.0,), (-26.0,), (26.0,), (354.0,), (708.0,)]
    assert TINY < abs(-712.0 * math.exp(-712.0)) < 1e-305
    assert not disagreements(RULES[name], points)


def test_the_condition_of_plain_numbers_may_be_a_truth_value():
    assert rules.where(True, 1.0, 2.0) == rules.where(1.0, 1.0, 2.0) == 1.0
    assert rules.where(False, 1.0, 2.0) == rules.where(0.0, 1.0, 2.0) == 2.0
    with pytest.raises(TypeError, match=r"where: .*, got bool"):
        rules.where(True, False, 2.0)
