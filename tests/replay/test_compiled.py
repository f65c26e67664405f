"""A compiled function gives what the function gives, on whatever data."""

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.replay import compile


def numbers(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def squared(model, x, y):
    return nn.squared_error(model(x), y)


def test_a_network_is_replayed_bit_for_bit_on_other_data():
    model = nn.MLP([5, 4, 2], ["sigmoid", "tanh"], rng=0)
    step = compile(squared)
    for seed in range(3):
        x, y = numbers(seed, 7, 5), numbers(seed + 9, 7, 2)
        model.layers[0].W.data[...] = numbers(seed, 5, 4)
        value, gradient = step.value_and_grad(model, x, y)
        expected, exact = tb.value_and_grad(squared)(model, x, y)
        assert value == expected
        assert gradient.keys() == exact.keys()
        assert all((gradient[name] == exact[name]).all() for name in exact)
    assert step.recordings == 1


def test_both_ways_through_a_branch_are_recorded():
    step = compile(lambda x: x * 2.0 if x > 0.0 else -x)
    assert [step(x) for x in (1.0, -1.0, 3.0, -3.0)] == [2.0, 1.0, 6.0, 3.0]
    assert step.recordings == 2


def test_a_branch_that_comes_out_otherwise_can_be_refused():
    step = compile(lambda x: x * 2.0 if x > 0.0 else -x, on_branch="raise")
    assert step(1.0) == 2.0
    with pytest.raises(RuntimeError, match=r"test_compiled\.py"):
        step(-1.0)


def test_where_is_recomputed():
    step = compile(lambda x: tb.where(x > 0.0, x * x, -x))
    assert [step(x) for x in (2.0, -3.0)] == [4.0, 3.0]
    assert step.recordings == 1


@pytest.mark.parametrize(
    "read", [float, lambda x: x.data, lambda x: x.item(), np.asarray], ids=repr
)
def test_a_number_cannot_be_read_out(read):
    with pytest.raises(TypeError, match="further output"):
        compile(lambda x: x * read(x))(np.ones(()) if read is np.asarray else 2.0)
