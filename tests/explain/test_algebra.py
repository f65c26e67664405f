"""Simplification keeps the value, and finds what a reader knows."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tinygrad_bp.explain import formulas as f
from tinygrad_bp.explain.algebra import simplified
from tinygrad_bp.explain.evaluating import Numbers, evaluate
from tinygrad_bp.explain.formulas import MINUS_ONE, ONE, Number, Symbol
from tinygrad_bp.explain.writing import plain

RNG = np.random.default_rng(0)
a, y, g = (Symbol(name, size=(3, 1)) for name in "ayg")
m = Symbol("m")
OF = {(s.key, None): RNG.uniform(0.2, 0.8, size=(3, 1)) for s in (a, y, g)}
OF[m.key, None] = np.full((1, 1), 5.0)
NUMBERS = Numbers(OF)


def minus(x, z):
    return f.add(x, f.negative(z))


def never(total):
    return False


J = f.Sum((f.Diag(a), f.negative(f.matmul(a, f.transpose(a)))))


@pytest.mark.parametrize(
    ("formula", "is_one", "expected"),
    [
        (
            f.multiply(
                f.power(m, MINUS_ONE),
                minus(f.divide(minus(ONE, y), minus(ONE, a)), f.divide(y, a)),
                a,
                minus(ONE, a),
            ),
            never,
            "1/m (a − y)",
        ),
        (f.matmul(J, f.negative(f.divide(y, a))), lambda total: True, "a − y"),
        (f.matmul(J, f.negative(f.divide(y, a))), never, "a Σ_k y_k − y"),
        (minus(f.multiply(f.total(y), a), y), lambda total: True, "a − y"),
        (minus(f.multiply(f.total(y), a), y), never, "(Σ_k y_k) a − y"),
        (f.multiply(a, minus(ONE, a)), never, "a ⊙ (1 − a)"),  # as short as it gets
        (minus(f.multiply(a, g), f.multiply(a, g)), never, "0"),
    ],
)
def test_what_a_reader_knows(formula, is_one, expected):
    written = plain(simplified(formula, is_one))
    assert written == expected or written == expected.replace("a Σ_k y_k", "(Σ_k y_k) a")


atoms = st.sampled_from([a, y, g, m, ONE, Number(2.0), Number(-0.5)])
trees = st.recursive(
    atoms,
    lambda x: st.one_of(
        st.builds(f.add, x, x),
        st.builds(minus, x, x),
        st.builds(f.multiply, x, x),
        st.builds(
            lambda u, v: f.divide(u, f.add(v, v, Number(7.0))), x, st.sampled_from([a, y, m])
        ),
        st.builds(lambda u: f.power(u, Number(2.0)), x),
        st.builds(lambda u: f.total(f.full(u, (3, 1))), x),
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(formula=trees)
def test_the_value_stays(formula):
    shorter = simplified(formula, never)
    expected = evaluate(formula, NUMBERS)
    got = np.broadcast_to(evaluate(shorter, NUMBERS), expected.shape)
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())
    assert f.extent(shorter) <= f.extent(formula)
