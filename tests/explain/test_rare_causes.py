"""Causes that are seldom met: of distributions, of products of matrices; and odd operations."""

import math

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp.custom import elementwise
from tinygrad_bp.explain import derive, mistakes, why


def judged(found, status, cause, *words):
    assert (found.status, found.cause) == (status, cause), found.verdict
    for word in words:
        assert word in found.verdict


@pytest.mark.parametrize(
    ("margin", "status", "how"), [(30.0, "tiny", "near"), (800.0, "zero", "at")]
)
def test_a_sample_that_is_learnt(margin, status, how):
    logits = tb.Tensor([[margin, 0.0]], "o")
    loss = -tb.sum(tb.log_softmax(logits) * np.array([[1.0, 0.0]]))
    wrong = math.exp(-margin) / (1.0 + math.exp(-margin))  # the probability of the wrong class
    judged(why(loss, logits), status, "at minimum", f"is {how} the minimum", f"{wrong:.4g}")


def test_the_sum_of_a_distribution_does_not_change():
    logits = tb.Tensor([[0.3, 0.1]], "o")
    judged(
        why(tb.sum(tb.softmax(logits)), logits), "zero", "cancellation", "add up to 1, are equal"
    )


def test_products_that_nearly_cancel():
    W = tb.Tensor([[1.0], [1.0]], "W")
    x = np.array([[1.0, 1.0], [-1.0, -1.0 + 1e-9]])  # by the columns' sums: 0 and 1e-9
    judged(why(tb.sum(x @ W), W), "tiny", "cancellation", "at most 1e-09", "nearly cancel")


def test_an_operation_on_nothing():
    x = tb.Tensor([1.0, 2.0], "x")
    assert why(tb.sum(x[:0]), x).status == "zero"


def test_a_mistake_is_told_as_text_and_as_html():
    w = tb.Value(2.0, "w")
    found = mistakes.overwriting(w * w * 3.0)  # d/dw 3w² = 12, of which one share of 6 is kept
    assert (found.right["w"], found.wrong["w"]) == (12.0, 6.0)
    for line in found.prose:
        assert line in found.text()
    assert found.html().count("<p>") >= 3
    museum = mistakes.museum(w * w * 3.0)
    assert museum["overwriting"].wrong["w"] == 6.0
    with pytest.raises(KeyError, match="does not apply here"):
        museum[next(iter(museum.skipped))]


def test_a_rule_that_is_written_with_every_sign():
    @elementwise(lambda m, x, y: m.where((x > 1.0) | (x <= -2.0), 0.0, 3.0 * x**2), check=False)
    def cube(m, x):
        return m.where((x >= -2.0) & (x < 1.0), +(x**3), -abs(2.0**x))

    x = tb.Value(0.5, "x")
    found = derive(cube(x))
    assert "cube(x) = (x³ if x ≥ −2 ∧ x < 1; else −|" in found.text()
    assert "cube′(x) = (0 if x > 1 ∨ x ≤ −2; else 3 x²)" in found.text()
    (last,) = [equation for equation in found if equation.kind == "parameter"]
    assert np.asarray(last.numbers).item() == 0.75  # 3 · 0.5²
