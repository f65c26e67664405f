"""What a rule is, apart from its mathematics: its table entry, its call, its refusals."""

import inspect
import itertools
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest

from tinygrad_bp import floats, rules
from tinygrad_bp.rules import RULES, Rule, elementwise


def exactly(message):
    return f"^{re.escape(message)}$"


def double(m, x, y=3.0):
    """twice x, plus y"""
    return 2.0 * x + y


def test_what_a_rule_says_of_itself():
    rule = elementwise(2, None, kinks="x = 7: none", table=None)(double)
    assert type(rule) is Rule
    assert (rule.name, rule.__name__, rule.__doc__) == ("double", "double", "twice x, plus y")
    assert rule.__module__ == __name__
    assert rule.value is double
    assert rule.partials == (2.0, None)
    assert [type(p) for p in rule.partials] == [float, type(None)]
    assert (rule.arity, rule.defaults, rule.kinks) == (2, (3.0,), "x = 7: none")
    assert str(inspect.signature(rule)) == "(x, y=3.0)"
    assert rule.domain == (rules.SMOOTH, rules.SMOOTH)
    assert rule.analytic is False  # for it has a kink
    assert (repr(rule), rule.__reduce__()) == ("<rule double>", "double")
    assert "double" not in RULES
    assert rule(1.0) == 5.0
    assert rule(1, 2) == 4.0


def test_what_may_be_said_of_a_rule():
    def dx(m, x, y, z):
        return 2.0

    rule = elementwise(dx, dx, domain=((1, 2), (3, 4)), textbook=dx, table=None)(double)
    assert rule.partials == (dx, dx)
    assert rule.domain == ((1, 2), (3, 4))
    assert (rule.analytic, rule.kinks, rule.textbook) == (True, "", (dx,))
    rule = elementwise(dx, dx, analytic=False, textbook=(dx, dx), table=None)(double)
    assert (rule.analytic, rule.textbook) == (False, (dx, dx))
    assert elementwise(dx, dx, table=None)(double).textbook == ()
    assert elementwise(dx, dx, domain=(1, 2), table=None)(double).domain == ((1, 2), (1, 2))


def test_a_table_has_every_name_once():
    table = {}
    rule = elementwise(2.0, 1.0, table=table)(double)
    assert table == {"double": rule}
    message = "there is a rule 'double' already; give this one another name"
    with pytest.raises(ValueError, match=exactly(message)):
        elementwise(2.0, 1.0, table=table)(double)
    assert table == {"double": rule}


def test_partials_and_domains_for_every_operand():
    message = "double has 2 operands, but 1 partials and 2 domains"
    with pytest.raises(ValueError, match=exactly(message)):
        elementwise(2.0, table=None)(double)
    message = "double has 2 operands, but 2 partials and 3 domains"
    with pytest.raises(ValueError, match=exactly(message)):
        elementwise(2.0, 1.0, domain=((0, 1),) * 3, table=None)(double)


AN_INTERVAL = "an interval (low, high), or one for each operand"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinks": None}, "kinks: expected a str, got NoneType"),
        ({"analytic": "no"}, "analytic: expected True or False, got str 'no'"),
        ({"textbook": "1"}, "textbook: expected a function, got str '1'"),
        ({"textbook": (double, None)}, "textbook: expected a function, got NoneType"),
        ({"domain": 3.0}, f"domain: expected {AN_INTERVAL}, got float 3.0"),
        ({"domain": ()}, f"domain: expected {AN_INTERVAL}, got tuple of length 0"),
        ({"domain": (1.0,)}, f"domain: expected {AN_INTERVAL}, got tuple of length 1"),
        ({"domain": (1.0, 2.0, 3.0)}, f"domain: expected {AN_INTERVAL}, got tuple of length 3"),
        ({"domain": [1.0, "2"]}, f"domain: expected {AN_INTERVAL}, got list of length 2"),
        ({"domain": ("1", 2.0)}, f"domain: expected {AN_INTERVAL}, got str '1'"),
        ({"domain": ((1.0, 2.0), 3.0)}, f"domain: expected {AN_INTERVAL}, got float 3.0"),
        ({"domain": (2.0, 1.0)}, f"domain: expected {AN_INTERVAL}, got tuple of length 2"),
        ({"domain": (1.0, 1.0)}, f"domain: expected {AN_INTERVAL}, got tuple of length 2"),
        ({"domain": (1.0, math.nan)}, f"domain: expected {AN_INTERVAL}, got tuple of length 2"),
    ],
    ids=str,
)
def test_what_cannot_be_said_of_a_rule(options, message):
    with pytest.raises(TypeError, match=exactly(message)):
        elementwise(2.0, **options, table=None)


def test_what_is_no_partial():
    for bad in ("1", True):
        kind = type(bad).__name__
        message = f"dx, more: expected a function, a number or None, got {kind} {bad!r}"
        for partials in ((bad,), (None, bad), (double, 2.0, bad)):
            with pytest.raises(TypeError, match=exactly(message)):
                elementwise(*partials, table=None)


def test_intervals_may_be_lists():
    for domain in ([1, 2], [[1, 2]], [[1, 2], [1, 2]]):
        rule = elementwise(2.0, 1.0, domain=domain, table=None)(double)
        assert rule.domain == ((1.0, 2.0), (1.0, 2.0))
        assert all(type(end) is float for interval in rule.domain for end in interval)


def test_what_a_call_refuses():
    rule = elementwise(2.0, 1.0, table=None)(double)
    for operands in ((), (1.0, 2.0, 3.0)):
        message = f"double takes 1 to 2 operands, got {len(operands)}"
        with pytest.raises(TypeError, match=exactly(message)):
            rule(*operands)
    with pytest.raises(TypeError, match=exactly("add takes 2 operands, got 1")):
        rules.add(1.0)
    for bad, kind in (("1", "str"), (True, "bool"), (1j, "complex"), (np.ones(2), "ndarray")):
        message = (
            "double: expected a Value, a Tensor, an array made by tb.values() or a number, got "
            f"{kind}; wrap an array as tb.Tensor(array)"
        )
        for operands in ((bad,), (1.0, bad)):
            with pytest.raises(TypeError, match=exactly(message)):
                rule(*operands)


def test_the_first_operand_that_can_interprets():
    calls = []

    class Other:
        def __init__(self, answer):
            self.answer = answer

        @staticmethod
        def _interpret(rule, operands):
            calls.append((rule, operands))
            return next(x.answer for x in operands if isinstance(x, Other))

    class Unable:
        @staticmethod
        def _interpret(rule, operands):
            return NotImplemented

    x, y = Other("so"), Unable()
    assert rules.add(1.0, x) == "so"
    assert rules.add(y, x) == "so"
    assert calls == [(rules.add, (1.0, x)), (rules.add, (y, x))]
    with pytest.raises(TypeError, match=r"add: expected .* got Unable"):
        rules.add(1.0, y)


# What the partials and the values need of a namespace is what they are given: here by name.
ANALYTIC = {
    "add", "subtract", "multiply", "divide", "positive", "negative", "power", "square", "sqrt",
    "azmul", "exp", "expm1", "log", "log1p", "logaddexp", "sin", "cos", "tan", "arcsin", "arccos",
    "arctan", "sinh", "cosh", "tanh", "sigmoid", "log_sigmoid", "softplus", "gelu", "erf", "erfc",
    "where",
}  # fmt: skip


def test_complex_differentiable_are_those_of_complex_analysis():
    """All but those with kinks, and those of which a modulus is taken on the way."""
    assert {name for name, rule in RULES.items() if rule.analytic} == ANALYTIC


KINKS = {
    "absolute": "x = 0: derivative 0",
    "relu": "x = 0: derivative 0",
    "leaky_relu": "x = 0: derivative `slope`",
    "elu": "x = 0: derivative alpha",
    "maximum": "x = y: derivative 1/2 each",
    "minimum": "x = y: derivative 1/2 each",
    "clip": "x = low or x = high: derivative 1 by x, 0 by the bound",
}


def test_kinks_are_said():
    assert {name: rule.kinks for name, rule in RULES.items() if rule.kinks} == KINKS


# Whose accurate derivative is not the one that a reader knows.
TEXTBOOK = {
    "divide", "power", "expm1", "logaddexp", "arcsin", "arccos", "arctan2", "tanh", "sigmoid",
    "log_sigmoid", "softplus", "silu",
}  # fmt: skip


def test_readers_are_shown_what_they_know():
    assert {name for name, rule in RULES.items() if rule.textbook} == TEXTBOOK


@pytest.mark.parametrize("name", ["clip", "maximum", "minimum"])
def test_a_choice_that_is_shifted_as_a_whole_moves_as_much(name):
    """f(x + t, y + t, ...) = f(x, y, ...) + t, so the partials sum to 1, ties included."""
    rule = RULES[name]
    for point in itertools.product([-1.0, 0.0, 2.0], repeat=rule.arity):
        z = rule.value(floats, *point)
        assert sum(partial(floats, *point, z) for partial in rule.partials) == 1.0


def test_helpers_keep_their_sides():
    m = SimpleNamespace(where=lambda c, x, y: x if c else y)
    assert [rules.share(m, x, 1.0) for x in (2.0, 0.0, 1.0)] == [1.0, 0.0, 0.5]
    assert [rules.sign(m, x) for x in (2.0, -2.0, 0.0)] == [1.0, -1.0, 0.0]
    assert (rules.first(m, 1, 2, 3), rules.second(m, 1, 2, 3)) == (1, 2)
    assert rules.logistic(floats, 0.0) == 0.5
    assert rules.logistic_to_the_end(floats, 0.0) == 0.5
