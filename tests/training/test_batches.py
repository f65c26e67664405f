"""Mini-batches and streams."""

import itertools
import sys

import numpy as np
import pytest

from tinygrad_bp.training import minibatches, progress, streams


@pytest.mark.parametrize(("samples", "size"), [(10, 3), (10, 10), (10, 11), (1, 1)])
def test_minibatches_visit_every_sample_once(samples, size):
    batches = list(minibatches(samples, size, np.random.default_rng(0)))
    assert sorted(np.concatenate(batches)) == list(range(samples))
    assert all(len(batch) == size for batch in batches[:-1])


def test_the_generator_decides_the_order():
    first, again, other = (
        np.concatenate(list(minibatches(50, 7, np.random.default_rng(seed)))) for seed in (1, 1, 2)
    )
    assert (first == again).all()
    assert (first != other).any()


def test_bad_sizes():
    with pytest.raises(ValueError, match="positive"):
        next(minibatches(0, 3, np.random.default_rng(0)))
    with pytest.raises(ValueError, match="positive"):
        next(minibatches(3, 0, np.random.default_rng(0)))


def test_streams_continue_and_targets_are_one_ahead():
    text = np.arange(103)
    pieces = list(streams(text, batch=3, steps=5))
    assert len(pieces) == 34 // 5
    for inputs, targets in pieces:
        assert inputs.shape == targets.shape == (5, 3)
        assert (targets == inputs + 1).all()
    for (before, _), (after, _) in itertools.pairwise(pieces):
        assert (after[0] == before[-1] + 1).all()
    assert pieces[0][0][0].tolist() == [0, 34, 68]


def test_a_sequence_too_short():
    with pytest.raises(
        ValueError, match="expected enough for batch = 3 streams of steps = 5, got 15"
    ):
        next(streams(np.arange(15), 3, 5))


def test_progress_without_tqdm_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r"tinygrad_bp\[data\]"):
        progress([1, 2], "x")
