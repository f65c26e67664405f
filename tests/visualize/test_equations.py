"""Equations: what is written for an operation is what it computes."""

import math
import re

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp.rules import RULES
from tinygrad_bp.visualize.equations import FORMS, LOCALS, Term, figure, forward, html, text

FUNCTIONS = {
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "sin": math.sin,
    "cos": math.cos,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
}


def evaluated(form, **quantities):
    """The number that a form stands for, read as a mathematician would."""
    python = re.sub(r"\{(\w)p?\}", r"_\1", form)
    python = re.sub(r"√(\w+)", r"sqrt(\1)", python)
    python = re.sub(r"\|(\w+)\|", r"abs(\1)", python)
    for mathematical, pythonic in {"·": "*", "−": "-", "²": "**2", "^": "**"}.items():
        python = python.replace(mathematical, pythonic)
    if python.startswith("["):
        python = f"float({python[1:-1]})"
    return eval(python, {**FUNCTIONS, **{f"_{name}": x for name, x in quantities.items()}})


def sampled(rule):
    """Operands inside a rule's domain, and the value and the partials by central differences."""
    random = np.random.default_rng(len(rule.name))
    x = [float(random.uniform(low, high)) for low, high in rule.domain]

    def value(*x):
        return rule(*x)

    y, h = value(*x), 1e-6
    partials = [
        (value(*x[:i], x[i] + h, *x[i + 1 :]) - value(*x[:i], x[i] - h, *x[i + 1 :])) / (2 * h)
        for i in range(rule.arity)
    ]
    return {**{str(i): a for i, a in enumerate(x)}, "y": y}, partials


@pytest.mark.parametrize("name", sorted(FORMS.keys() & RULES.keys()))
def test_forms_are_what_the_rules_compute(name):
    quantities, _ = sampled(RULES[name])
    assert evaluated(FORMS[name], **quantities) == pytest.approx(quantities["y"], rel=1e-12)


@pytest.mark.parametrize("name", sorted(LOCALS))
def test_local_derivatives_are_right(name):
    quantities, partials = sampled(RULES[name])
    assert len(LOCALS[name]) == RULES[name].arity
    for form, partial in zip(LOCALS[name], partials, strict=True):
        assert evaluated(form, **quantities) == pytest.approx(partial, rel=1e-7)


@pytest.mark.parametrize(
    ("rule", "operands", "expected"),
    [
        ("multiply", [("a", 2.0), ("b", -3.0)], "z = a · b = 2 · (−3) = 0.5"),
        ("multiply", [("-3", -3.0), ("-2", -2.0)], "z = −3 · (−2) = −3 · (−2) = 0.5"),
        ("power", [("a", -2.0), ("2", 2.0)], "z = a² = (−2)² = 0.5"),
        ("power", [("a", -2.0), ("b", 3.0)], "z = a^b = (−2)^3 = 0.5"),
        ("negative", [("a", -2.0)], "z = −a = −(−2) = 0.5"),
        ("tanh", [("a", -2.0)], "z = tanh(a) = tanh(−2) = 0.5"),
        ("clip", [("a", 1.0), ("0", 0.0), ("1", 1.0)], "z = clip(a, 0, 1) = clip(1, 0, 1) = 0.5"),
        ("linear", [("x", 1.0), ("W", 2.0), ("b", 3.0)], "z = x @ W + b = 1 @ 2 + 3 = 0.5"),
    ],
)
def test_forward(rule, operands, expected):
    terms = [Term(*operand) for operand in operands]
    assert text(forward(rule, Term("z", 0.5), terms, {})) == expected


def test_a_product_may_be_written_out_in_a_sum():
    inner = (Term("w", -2.0), Term("x", 3.0))
    terms = [Term("a", 1.0), Term("v1", -6.0)]
    line = forward("add", Term("z", -5.0), terms, {1: ("multiply", inner)})
    assert text(line) == "z = a + w · x = 1 + (−2) · 3 = −5"


@pytest.mark.parametrize(
    ("x", "short", "full"),
    [
        (1 / 3, "0.3333", "0.3333333333333333"),
        (-1e-9, "−1e−09", "-1e-09"),
        (0.0, "0", "0.0"),
        (math.inf, "inf", "inf"),
        (math.nan, "nan", "nan"),
        (np.float32(0.1), "0.1", "0.1"),
        (np.array([1.0, -1 / 3]), "[1, −0.3333]", "[1.0, -0.3333333333333333]"),
        (np.array([[1.0], [2.0]]), "[[1], [2]]", "[[1.0], [2.0]]"),
        (np.zeros((0, 2)), "empty, shape (0, 2)", "shape (0, 2), float64"),
        (
            np.array([3.0, 4.0, 0, 0, 0, 0, 0]),
            "shape (7,), norm 5, 0 … 4",
            "shape (7,), float64, norm 5.0, min 0.0, max 4.0",
        ),
    ],
)
def test_figures(x, short, full):
    part = figure(x)
    assert (part.text, part.full) == (short, full)


def test_html_is_inert():
    line = [*forward("exp", Term('<b a="">', 1.0), [Term("&", np.ones(2))], {})]
    shown = html(line)
    assert "<b " not in shown
    assert "&lt;b a=&quot;&quot;&gt;" in shown
    assert "<bdi>&amp;</bdi>" in shown
    assert '<span class="num" title="[1.0, 1.0]">[1, 1]</span>' in shown


def test_names_of_rules_exist():
    others = {"matmul", "linear", "transpose", "sum", "scaled_sum"}
    assert FORMS.keys() - others <= RULES.keys()
    assert others <= tb.ARRAY_RULES.keys()
