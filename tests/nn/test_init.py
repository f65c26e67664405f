"""How weights start: their statistics, and that nothing is drawn from hidden state."""

import math

import numpy as np
import pytest

from tinygrad_bp import nn
from tinygrad_bp.nn import init

SHAPE = (300, 200)
N = SHAPE[0] * SHAPE[1]


def draw(initializer, seed=0, shape=SHAPE):
    return initializer(np.random.default_rng(seed), shape)


def within_five_errors(mean, expected, deviation):
    assert abs(mean - expected) < 5 * deviation / math.sqrt(N)


def test_zeros():
    np.testing.assert_array_equal(draw(init.zeros), np.zeros(SHAPE))


def test_xavier_is_uniform_of_variance_two_over_both_fans():
    weights, variance = draw(init.xavier), 2 / (300 + 200)
    bound = math.sqrt(3 * variance)
    assert 0.999 * bound < np.abs(weights).max() <= bound
    within_five_errors(weights.mean(), 0.0, math.sqrt(variance))
    # The square of a uniform number in ±b has the deviation b²·√(4/45).
    within_five_errors(np.square(weights).mean(), variance, bound**2 * math.sqrt(4 / 45))
    assert abs((np.abs(weights) < bound / 2).mean() - 0.5) < 5 * 0.5 / math.sqrt(N)


def test_he_is_normal_of_variance_two_over_fan_in():
    weights, variance = draw(init.he), 2 / 300
    within_five_errors(weights.mean(), 0.0, math.sqrt(variance))
    within_five_errors(np.square(weights).mean(), variance, variance * math.sqrt(2))
    inside = (np.abs(weights) < math.sqrt(variance)).mean()
    assert abs(inside - math.erf(math.sqrt(0.5))) < 5 * 0.5 / math.sqrt(N)


@pytest.mark.parametrize("shape", [(6, 6), (7, 3), (3, 7), (1, 1), (1, 5)])
def test_orthogonal(shape):
    q = draw(init.orthogonal, shape=shape)
    assert q.shape == shape
    product = q.T @ q if shape[0] >= shape[1] else q @ q.T
    np.testing.assert_allclose(product, np.eye(min(shape)), rtol=0, atol=1e-14)


def test_orthogonal_prefers_no_direction():
    """Without the correction of signs the diagonal of numpy's q would be negative."""
    signs = np.sign([draw(init.orthogonal, seed, (3, 3)).diagonal() for seed in range(400)])
    assert np.all(np.abs(signs.mean(0)) < 5 / math.sqrt(400))


MAKERS = {
    "Linear": lambda rng: nn.Linear(3, 4, rng=rng),
    "MLP": lambda rng: nn.MLP([3, 4, 2], "relu", rng=rng),
    "RNNCell": lambda rng: nn.RNNCell(3, 4, rng=rng),
    "CharRNN": lambda rng: nn.CharRNN(3, 4, rng=rng),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_seed_decides_and_global_state_does_not(make):
    state = np.random.get_state()
    first, second = make(7).state_dict(), make(np.random.default_rng(7)).state_dict()
    np.random.seed(1)
    third, other = make(np.int64(7)).state_dict(), make(8).state_dict()
    np.random.set_state(state)
    for name, weights in first.items():
        np.testing.assert_array_equal(weights, second[name])
        np.testing.assert_array_equal(weights, third[name])
    assert any(not np.array_equal(weights, other[name]) for name, weights in first.items())


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_global_state_is_left_alone(make):
    before = np.random.get_state()
    make(0)
    after = np.random.get_state()
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2:] == after[2:]


def test_one_generator_gives_two_layers_different_weights():
    rng = np.random.default_rng(0)
    first, second = nn.Linear(3, 3, rng=rng), nn.Linear(3, 3, rng=rng)
    assert not np.array_equal(first.W.data, second.W.data)


@pytest.mark.parametrize("rng", [None, True, 1.0, "0", np.random])
def test_rng_must_be_a_generator_or_a_seed(rng):
    with pytest.raises(TypeError, match="rng: expected a numpy Generator or an int seed"):
        nn.Linear(2, 2, rng=rng)


def test_rng_must_be_given():
    with pytest.raises(TypeError, match="rng"):
        nn.Linear(2, 2)


def test_biases_start_at_zero():
    model = nn.MLP([3, 4, 2], "tanh", rng=0)
    assert not any(layer.b.data.any() for layer in model.layers)
    assert not nn.RNNCell(3, 4, rng=0).b.data.any()
    assert not nn.CharRNN(3, 4, rng=0).c.data.any()


def spread(layer):
    return np.square(layer.W.data).mean()


@pytest.mark.parametrize("rectifier", ["relu", "leaky_relu", "elu", "gelu", "silu"])
def test_mlp_starts_rectifiers_as_he(rectifier):
    hidden, output = nn.MLP([300, 200, 300], [rectifier, "tanh"], rng=0).layers
    within_five_errors(spread(hidden), 2 / 300, 2 / 300 * math.sqrt(2))
    within_five_errors(spread(output), 2 / 500, 6 / 500 * math.sqrt(4 / 45))


def test_mlp_starts_a_rectifier_as_he_however_it_is_given():
    from tinygrad_bp import relu

    by_name, by_function = (nn.MLP([3, 4, 2], phi, rng=0) for phi in ("relu", relu))
    np.testing.assert_array_equal(by_name.layers[0].W.data, by_function.layers[0].W.data)


def test_initializer_given():
    model = nn.MLP([4, 4, 4], "relu", rng=0, initializer=init.orthogonal)
    for layer in model.layers:
        W = layer.W.data
        np.testing.assert_allclose(W @ W.T, np.eye(4), rtol=0, atol=1e-14)
    W = nn.CharRNN(3, 5, rng=0).cell.W.data
    np.testing.assert_allclose(W @ W.T, np.eye(5), rtol=0, atol=1e-14)
    assert not nn.RNNCell(3, 5, rng=0, recurrent=init.zeros).W.data.any()
