"""Which arrays have samples in front."""

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.explain.batches import with_samples
from tinygrad_bp.nn.module import named

X = np.random.default_rng(0).normal(size=(5, 3))


def leaf(*shape):
    return tb.Tensor(np.random.default_rng(1).normal(size=shape), "P")


def found(loss):
    """The labels of nodes with samples, and their number."""
    places, m = with_samples(tb.topological_order(loss))
    return {p.label for p in places if isinstance(p, tb.Tensor) and p.label}, m


def test_the_layers_of_a_network_have_samples_and_its_parameters_have_none():
    net = nn.MLP([3, 4, 2], "tanh", rng=0)
    loss = nn.squared_error(net(X), np.ones((5, 2)))
    assert found(loss) == ({"z1", "a1", "z2"}, 5)


def test_a_square_weight_as_wide_as_the_batch_is_none():
    net = nn.MLP([5, 5, 5], "tanh", rng=0)
    loss = nn.squared_error(net(np.ones((5, 5))), np.ones((5, 5)))
    assert found(loss + nn.weight_decay(net.parameters(), 0.1)) == ({"z1", "a1", "z2"}, 5)


@pytest.mark.parametrize(
    ("mix", "samples"),
    [
        (lambda a: a * 2.0 - a.mean(axis=-1, keepdims=True), True),
        (lambda a: tb.softmax(a), True),
        (lambda a: a[:, 1:], True),
        (lambda a: tb.concatenate([a, a], -1), True),
        (lambda a: a.sum(axis=0), True),  # it adds the samples up
        (lambda a: tb.softmax(a, 0), False),
        (lambda a: a / a.var(axis=0), False),
        (lambda a: a @ tb.transpose(a), False),
        (lambda a: a[1:], False),
        (lambda a: tb.stack([a, a]), False),
        (lambda a: tb.flip(a), False),
    ],
)
def test_operations_that_mix_samples(mix, samples):
    a = named(X @ leaf(3, 4), "a")
    labels, _ = found((mix(a) ** 2.0).sum())
    assert ("a" in labels) == samples


def test_samples_of_sequences():
    x = np.ones((2, 4, 3))
    q, k = named(x @ leaf(3, 2), "q"), named(x @ leaf(3, 2), "k")
    scores = named(q @ k.transpose(0, 2, 1), "s")
    assert found(scores.sum()) == ({"q", "k", "s"}, 2)


def test_a_constant_is_the_same_wherever_it_is_met():
    q, k = named(X @ leaf(3, 2), "q"), named(X @ leaf(3, 2), "k")
    assert found((q @ k.transpose()).sum()) == (set(), 1)
