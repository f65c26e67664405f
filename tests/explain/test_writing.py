"""How formulas are written: what is read back from the page means what the tree does."""

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st
from latex_reader import evaluate as read

from tinygrad_bp.explain import formulas as f
from tinygrad_bp.explain.evaluating import Numbers, evaluate
from tinygrad_bp.explain.formulas import Number, Symbol
from tinygrad_bp.explain.markup import LatexWriter, tidy
from tinygrad_bp.explain.writing import fraction, plain
from tinygrad_bp.rules import RULES

RNG = np.random.default_rng(0)
NUMBERS = {"x": 0.7, "y": -1.3, "a2": 1.9}
MATRICES = {
    "A": RNG.normal(size=(2, 2)),
    "B": RNG.normal(size=(2, 2)),
    "W1": RNG.normal(size=(2, 2)),
}
SCALARS = [Symbol("x"), Symbol("y"), Symbol("a", sup="2")]
SQUARE = [Symbol("A", size=(2, 2)), Symbol("B", size=(2, 2)), Symbol("W", sup="1", size=(2, 2))]
OF = {
    (s.key, None): np.reshape(
        (NUMBERS | MATRICES)[s.name + s.sup], (1, 1) if not s.size else (2, 2)
    )
    for s in SCALARS + SQUARE
}


def single(children):
    return st.one_of(
        st.builds(f.add, children, children),
        st.builds(lambda x, y: f.add(x, f.negative(y)), children, children),
        st.builds(f.multiply, children, children),
        st.builds(lambda x, n: f.power(x, Number(n)), children, st.sampled_from([2.0, 3.0])),
        st.builds(
            lambda x, y: f.divide(x, f.add(f.ONE, f.power(y, Number(2.0)))), children, children
        ),
        st.builds(lambda x: f.Function(RULES["tanh"], (x,)), children),
        st.builds(f.negative, children),
    )


numbers = st.sampled_from([0.5, 1.0, -1.0, 2.0, 0.3, -0.25, 1.0 / 3.0]).map(Number)
scalars = st.recursive(st.one_of(st.sampled_from(SCALARS), numbers), single, max_leaves=6)


def matrix(children):
    return st.one_of(
        single(children),
        st.builds(f.matmul, children, children),
        st.builds(f.transpose, children),
        st.builds(f.multiply, scalars, children),
    )


matrices = st.recursive(st.sampled_from(SQUARE), matrix, max_leaves=8)


@settings(max_examples=300, deadline=None)
@given(formula=st.one_of(scalars, matrices))
def test_what_is_written_means_what_the_tree_does(formula):
    # Other numbers are written in four digits.
    assume(all(fraction(x.value) is not None for x in f.parts(formula) if isinstance(x, Number)))
    expected = np.broadcast_to(evaluate(formula, Numbers(OF)), formula.shape or (1, 1))
    written = tidy(LatexWriter().write(formula))
    got = np.broadcast_to(read(written, NUMBERS | MATRICES), formula.shape or (1, 1))
    scale = 1e-9 * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=scale, err_msg=written)


x, y, a2 = SCALARS
A, B, W1 = SQUARE


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        (f.multiply(f.matmul(A, B), A), "(A B) ⊙ A"),
        (f.matmul(f.multiply(A, B), A), "(A ⊙ B) A"),
        (f.transpose(f.matmul(A, W1)), "W¹ᵀ Aᵀ"),
        (f.power(a2, Number(2.0)), "(a²)²"),
        (f.power(x, Number(2.0)), "x²"),
        (f.power(Number(2.0), x), "2^x"),
        (f.power(Number(-2.0), x), "(−2)^x"),
        (f.power(Number(0.5), x), "(½)^x"),
        (f.add(f.negative(x), y), "y − x"),
        (f.add(x, f.negative(f.add(y, f.ONE))), "x − y − 1"),
        (f.negative(f.add(x, f.negative(y))), "y − x"),
        (f.divide(x, f.multiply(Number(2.0), y)), "x/(2 y)"),
        (f.multiply(Number(0.5), x), "½ x"),
        (f.power(f.add(x, f.ONE), Number(-2.0)), "1/(x + 1)²"),
        (f.total(f.power(A, Number(2.0))), "‖A‖²"),
        (f.add(x, f.total(f.multiply(A, B))), "x + Σ_k,l A_kl B_kl"),
        (f.multiply(f.total(A), A), "(Σ_k,l A_kl) A"),
        (f.multiply(f.total(A), f.power(A, Number(-1.0))), "(Σ_k,l A_kl) 1/A"),
        (f.multiply(Number(2.0), f.total(A)), "2 Σ_k,l A_kl"),
        (f.divide(f.total(A), x), "1/x Σ_k,l A_kl"),
        (f.matmul(f.Steps(A, 1, 3), B), "(Σ_{t=1…3} A) B"),
        (Number(np.sqrt(0.5)), "1/√2"),
        (f.multiply(Number(np.sqrt(2.0)), x), "√2 x"),
        (Number(1.0 / np.sqrt(32.0)), "1/(4 √2)"),
        (Number(1.2345e-7), "1.235·10⁻⁷"),
        (f.Cases(f.Compare(">", x, f.ZERO), f.ONE, f.ZERO), "[x > 0]"),
        (f.Cases(f.Compare(">=", x, f.ZERO), x, y), "(x if x ≥ 0; else y)"),
        (Symbol("W_", sub="a,b"), "W__{a,b}"),
    ],
)
def test_text(formula, expected):
    assert plain(formula) == expected
