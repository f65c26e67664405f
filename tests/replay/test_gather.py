"""Gathered products: the same sums in another order, and fewer calls."""

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn


def data(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def last_state(model, xs, h):
    return tb.sum(nn.unroll(model, xs, h)[-1] ** 2)


def all_states(model, xs, h):
    return tb.sum(tb.stack(nn.unroll(model, xs, h)) ** 2)


def outputs_per_step(model, xs, y):
    logits, _ = model(xs, model.cell.initial_state(xs.shape[1]))
    return nn.cross_entropy(tb.stack(logits), y)


def shared_projection(W, xs):
    """Rows that are multiplied by one matrix, and then meet."""
    rows = [tb.tanh(xs[t] @ W) for t in range(len(xs))]
    return tb.sum(rows[0] * rows[1] + rows[2] * rows[3] - tb.exp(rows[4]))


def not_to_be_gathered(W, x):
    """Every product waits for the one before."""
    for _ in range(5):
        x = tb.tanh(x @ W)
    return tb.sum(x)


def used_outside_of_the_sum(W, xs):
    """A product that is part of a sum, and of something else."""
    parts = [xs[t].T @ xs[t] @ W for t in range(4)]
    return tb.sum((parts[0] + parts[1] + parts[2] + parts[3]) * parts[1])


RNN = nn.RNNCell(3, 4, rng=0)
CHARS = nn.CharRNN(5, 4, rng=0)
CLASSES = np.random.default_rng(1).integers(0, 5, (6, 2))
ROWS = np.eye(5)[np.random.default_rng(2).integers(0, 5, (6, 2))]

CASES = {
    "last state": (last_state, RNN, data(7, 2, 3), data(2, 4)),
    "last state, one row": (last_state, RNN, data(7, 1, 3), data(1, 4)),
    "all states": (all_states, RNN, data(7, 2, 3), data(2, 4)),
    "two steps": (all_states, RNN, data(2, 2, 3), data(2, 4)),
    "outputs per step": (outputs_per_step, CHARS, ROWS, CLASSES),
    "shared projection": (shared_projection, data(3, 4), data(5, 2, 3)),
    "rows of other heights": (
        lambda W, a, b, c: tb.sum(tb.concatenate([tb.tanh(x @ W) for x in (a, b, c)]) ** 2),
        data(3, 4), data(1, 3), data(2, 3), data(5, 3),
    ),
    "not to be gathered": (not_to_be_gathered, data(3, 3), data(2, 3)),
    "used outside of the sum": (used_outside_of_the_sum, data(3, 2), data(4, 3, 3)),
}  # fmt: skip


def leaves(tree):
    return list(tree.values()) if isinstance(tree, dict) else [tree]


@pytest.mark.parametrize("name", CASES)
def test_results_agree_but_for_rounding(name):
    f, *arguments = CASES[name]
    value, gradient = tb.compile(f).value_and_grad(*arguments)
    expected, exact = tb.value_and_grad(f)(*arguments)
    # Sums of a few dozen terms of size 1, in another order.
    assert value == pytest.approx(expected, rel=1e-13)
    for one, other in zip(leaves(gradient), leaves(exact), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_without_optimizing_every_bit_is_the_same(name):
    f, *arguments = CASES[name]
    value, gradient = tb.compile(f, optimize=False).value_and_grad(*arguments)
    expected, exact = tb.value_and_grad(f)(*arguments)
    assert value == expected
    for one, other in zip(leaves(gradient), leaves(exact), strict=True):
        np.testing.assert_array_equal(one, other)


def products(step, *arguments):
    program = next(iter(step._kept.values()))[0].program
    return program.stats().get("matmul", 0) + program.stats().get("linear", 0)


def test_an_unrolled_network_has_one_product_per_step_each_way_and_few_more():
    for steps in (10, 20):
        step = tb.compile(all_states)
        step.value_and_grad(RNN, data(steps, 2, 3), data(2, 4))
        # Forward: x U of all steps, and h W of each. Backward: the gradients of U and W, each one
        # product (the step before the first h is apart), and delta W' of each step but the last.
        assert products(step) <= 2 * steps + 4


def test_what_waits_stays_as_it_is():
    step = tb.compile(not_to_be_gathered)
    step.value_and_grad(data(3, 3), data(2, 3))
    plain = tb.compile(not_to_be_gathered, optimize=False)
    plain.value_and_grad(data(3, 3), data(2, 3))
    assert products(step) <= products(plain)


def test_functions_of_four_operands_are_gathered_too():
    rule = tb.elementwise(1.0, 2.0, 3.0, 4.0, check=False)(
        lambda m, a, b, c, d: a + 2.0 * b + 3.0 * c + 4.0 * d
    )

    def f(x):
        parts = [rule(x[t], x[t] * 2.0, tb.sin(x[t]), tb.exp(x[t])) for t in range(5)]
        return tb.sum(parts[0] * parts[1] * parts[2] * parts[3] * parts[4])

    x = data(5, 2, 3)
    value, gradient = tb.compile(f).value_and_grad(x)
    expected, exact = tb.value_and_grad(f)(x)
    assert value == pytest.approx(expected, rel=1e-13)
    np.testing.assert_allclose(gradient, exact, rtol=1e-12)


def test_what_is_gathered_has_the_dtype_of_its_parts():
    """Of `where` the first operand is a condition; the result is not."""

    def f(x):
        return sum(tb.where(x[0, 0, 0] > 2.0, x[t], 0.5).sum() for t in range(6))

    x = tb.Tensor(np.arange(24.0).reshape(6, 2, 2))
    program = tb.compile(f).program(x, gradient=False)
    choices = [i for i in range(len(program)) if program.rule(i) is tb.where]
    gathered = [i for i in choices if program.shapes[i] == (12, 2)]
    assert gathered
    assert all(program.dtypes[i] == np.float64 for i in gathered)
