"""What a gradient costs: against counts by hand, and against the ways themselves, counted."""

import math

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.explain.cost import cost, growth


def network(width, samples=4):
    x, y = np.ones((samples, width)), np.zeros((samples, 1))
    return lambda model: nn.squared_error(model(x), y), nn.MLP([width, width, 1], rng=0)


def test_a_function_counted_by_hand():
    def f(x, y):
        return x * y + tb.sin(x)

    found = cost(f, 2.0, 3.0, argnums=(0, 1))
    assert found.parameters == 2
    assert found.evaluation == 3  # a product, a sine and a sum
    # The three; cos(x); y·1, x·1, cos(x)·1; and the sum of the two uses of x.
    assert found.operations[0] == 3 + 1 + 3 + 1
    # Two evaluations per parameter; x ± h, a difference and a quotient.
    assert found.operations[2] == 2 * (2 * 3 + 4)
    np.testing.assert_allclose(found.ratios, np.array(found.operations) / 3)


@pytest.mark.parametrize("scalar", [False, True])
def test_the_counts_are_those_of_the_ways_themselves(scalar):
    loss, model = network(5)
    model = model.scalar_view() if scalar else model
    n = 5 * 5 + 5 + 5 + 1
    found = cost(loss, model, times=False)
    with tb.count_operations() as once, tb.no_grad():
        loss(model)
    with tb.count_operations() as reverse:
        tb.grad(loss)(model)
    ones = {name: np.ones(p.shape) for name, p in model.named_parameters()}
    with tb.count_operations() as forward:
        for _ in range(n):
            tb.jvp(loss, model, ones)
    assert found.parameters == n
    assert found.evaluation == once.total
    assert found.operations == (reverse.total, forward.total, n * (2 * once.total + 4))
    assert np.isnan(found.times).all()
    assert "time" not in found.text()


def test_counts_are_the_same_each_time():
    found = [cost(*network(3), times=False) for _ in range(2)]
    assert found[0].text() == found[1].text()


def test_times_are_marked_as_measured():
    found = cost(*network(3))
    assert (found.times > 0).all()
    assert found.times[2] == 2 * found.parameters
    assert "time, measured" in found.columns
    assert found.column("time, measured")[0] == 1.0


def test_data_are_not_differentiated_by():
    def loss(model, x, classes):
        return nn.cross_entropy(model(x), classes)

    model = nn.MLP([2, 3], rng=0)
    found = cost(loss, model, np.ones((4, 2)), np.array([0, 1, 2, 0]), times=False)
    assert found.parameters == 2 * 3 + 3


def test_e16_reverse_mode_stays_and_the_others_grow():
    found = growth(network, [4, 8, 16, 32, 64])
    np.testing.assert_array_equal(found.parameters, [w * w + 2 * w + 1 for w in (4, 8, 16, 32, 64)])
    assert found.ratios[:, 0].max() <= 4.0  # Baur & Strassen's bound, in their measure
    assert np.ptp(found.ratios[:, 0]) < 0.5
    per_parameter = found.ratios[:, 1:] / found.parameters[:, None]
    assert (per_parameter > 1.0).all()
    assert (per_parameter < 3.0).all()
    assert found.exponents == pytest.approx([0.0, 1.0, 1.0], abs=0.1)
    assert np.isnan(found.times).all()
    assert "reverse mode n^-0.0" in found.notes[-1]
    assert len(found.costs) == len(found) == 5


def test_growth_can_be_timed():
    found = growth(network, [2, 3], times=True)
    assert found.times.shape == (2, 3)
    assert (found.times > 0).all()
    assert "reverse mode, time" in found.columns


def test_a_single_size_has_no_growth():
    assert np.isnan(growth(network, [2]).exponents).all()


def test_a_function_without_operations_costs_nothing():
    found = cost(lambda x: x, 2.0)
    assert found.evaluation == 0
    assert math.isnan(found.ratios[0])
    assert "0" in found.text()


def test_what_is_refused():
    with pytest.raises(ValueError, match="inputs: expected the arguments"):
        cost(lambda: tb.Value(1.0))
    with pytest.raises(ValueError, match="argnums: expected positions of 1 inputs, got 3"):
        cost(lambda x: x, 1.0, argnums=3)
    with pytest.raises(TypeError, match="expected a number, an array"):
        cost(lambda x: x, "one")
    with pytest.raises(ValueError, match="sizes: expected at least one"):
        growth(network, [])
    with pytest.raises(TypeError, match=r"make: expected \(function, input, ...\) of size 2"):
        growth(lambda size: network(size)[1], [2])
