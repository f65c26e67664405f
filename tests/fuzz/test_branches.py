"""A few of the random functions of `branches`, which has them by the thousand."""

import math
import os

import numpy as np
import pytest

import tinygrad_bp as tb

from . import branches

MANY = int(os.environ.get("TINYGRAD_BP_FUZZ", "1"))  # times as many


def check_arrays():
    for seed in range(5000, 5015):
        branches.replayed(seed, "array")


@pytest.mark.parametrize("kind", ["number", "array"])
def test_random_functions_with_branches_and_draws(kind):
    records = [branches.replayed(seed, kind) for seed in range(5000, 5000 + 12 * MANY)]
    assert max(records) > 2  # branches did flip


def test_random_functions_by_numba():
    pytest.importorskip("numba", reason="the engine's package")
    records = [
        branches.replayed(seed, "number", "numba", few=3) for seed in range(5000, 5000 + 8 * MANY)
    ]
    assert max(records) > 1


def test_random_functions_by_jax():
    jax = pytest.importorskip("jax", reason="the engine's package")
    jax.config.update("jax_enable_x64", True)
    for seed in range(5000, 5000 + 2 * MANY):
        branches.replayed(seed, "array", "jax", calls=3, branches=1)


def test_a_record_that_misses_a_flip_is_found_out(monkeypatch):
    """The check itself: with guards that always hold, it fails."""
    monkeypatch.setattr("tinygrad_bp.replay.recorded.bool", lambda x: True, raising=False)
    with pytest.raises((AssertionError, RuntimeError)):
        check_arrays()


def test_draws_that_are_frozen_are_found_out(monkeypatch):
    drawn = {}

    def frozen(program, *generators):
        for draw in program.draws:
            getattr(generators[draw.generator], draw.method)(*draw.parameters, **draw.options)
        return drawn.setdefault(id(program), [np.zeros(program.shapes[i], program.dtypes[i])
            for i in program.inputs[len(program.inputs) - len(program.draws):]])  # fmt: skip

    monkeypatch.setattr("tinygrad_bp.replay.program.Program.drawn", frozen)
    with pytest.raises(AssertionError):
        check_arrays()


# --- one after the other ------------------------------------------------------------------------


def test_an_error_while_another_way_is_recorded_changes_nothing():
    def f(x, rng):
        y = x * rng.normal()
        if y > 1.0:
            raise KeyError("user's")
        return y * rng.random() if y > 0.0 else y - rng.random()

    step, mine, theirs = tb.compile(f), np.random.default_rng(3), np.random.default_rng(3)
    failed = 0
    for _ in range(60):
        try:
            expected = f(tb.Value(1.0), theirs).data
        except KeyError:
            failed += 1
            with pytest.raises(KeyError):
                step(1.0, mine)
        else:
            assert step(1.0, mine) == expected
        assert mine.bit_generator.state == theirs.bit_generator.state
    assert failed
    assert step.recordings == 2


def test_a_recording_within_a_recording_is_refused_and_does_no_harm():
    inner = tb.compile(lambda x, rng: x * rng.normal())
    outer = tb.compile(lambda x, rng: x + inner(x, rng))
    rng = np.random.default_rng(0)
    for _ in range(2):
        with pytest.raises(TypeError, match=r"recording|call its \.f there"):
            outer(2.0, rng)
    assert (inner.recordings, outer.recordings) == (0, 0)
    whole = tb.compile(lambda x, rng: x + inner.f(x, rng))
    a, b = np.random.default_rng(1), np.random.default_rng(1)
    assert [whole(2.0, a) for _ in range(3)] == [2.0 + 2.0 * b.normal() for _ in range(3)]
    assert inner(2.0, a) == 2.0 * b.normal()


def test_good_data_after_nan_on_every_branch():
    def f(x):
        y = tb.log(x) if x > 0.0 else x * x
        return tb.where(y > y, 0.0, y) / x

    step = tb.compile(f)
    data = [2.0, math.nan, -1.0, math.inf, 2.0, -math.inf, 0.0, -0.0, 2.0, -1.0]
    for x in data:
        with np.errstate(all="ignore"):
            expected = tb.value_and_grad(f)(x)
        np.testing.assert_array_equal(step.value_and_grad(x), expected)
    assert step.recordings == 2
