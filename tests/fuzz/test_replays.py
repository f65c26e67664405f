"""A slice of the replays of `replays`; and that a wrong replay does not get past them."""

import functools
import os
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tinygrad_bp.replay import passes
from tinygrad_bp.replay.arguments import data_of
from tinygrad_bp.rules import RULES

from . import Mismatch, making, programs, replays, wobble
from .programs import Leaf, Step
from .shrinking import execute, fails, shrunk

MANY = int(os.environ.get("TINYGRAD_BP_FUZZ", "1"))  # times as many


FEW = ["divide", "maximum", "power", "tanh"]  # numba compiles these for a few seconds


def of_engine(engine, count, calls=None):
    """Programs that are replayed by one engine."""
    seeds = (random.Random(f"{engine} {k}") for k in range(10000))
    found = (p for p in map(replays.generate, seeds) if p.engine == engine)
    for _ in range(count):
        program = next(found)
        yield program if calls is None else program._replace(calls=calls)


def test_replays_by_numpy():
    tally = Counter()
    for program in of_engine("numpy", 250 * MANY):
        replays.check(program, tally)
    replayed = sum(n for key, n in tally.items() if key.startswith("replays"))
    assert replayed > 10_000
    assert len([key for key in tally if key.startswith("replays")]) == 3


def test_replays_by_numba():
    pytest.importorskip("numba", reason="the engine's package")
    tally = Counter()
    for k in range(60 * MANY):
        replays.check(replays.numbers(random.Random(k), FEW), tally)
    assert tally["replays of numbers by numba"] > 100
    assert tally["replays of numbers by numba, rows"] > 1000


def test_replays_by_jax():
    pytest.importorskip("jax", reason="the engine's package")
    tally = Counter()
    for k in range(6 * MANY):
        body = making.make(random.Random(f"jax {k}"), wild=False, dtype="float64")
        replays.check(replays.Program(body, engine="jax", calls=9), tally)
    assert tally["replays of arrays by jax"] > 20


def test_families_have_every_rule():
    assert sorted(name for family in replays.FAMILIES for name in family) == sorted(RULES)


# --- broken on purpose --------------------------------------------------------------------------


def swapped(program):
    """The operands of a difference the wrong way round."""
    operands = program.operands.copy()
    for i in range(len(program)):
        if program.rule(i) is RULES["subtract"]:
            operands[i, :2] = operands[i, 1::-1]
    return passes.optimized(replace(program, operands=operands))


def alike(x):
    """Arguments that are told apart by their kind alone."""
    if isinstance(x, (list, tuple)):
        return tuple(alike(part) for part in x)
    return type(x).__name__


def unchanged(program, i, of, constants):
    """x + c, x * c, ... taken for x."""
    same = [j for j in of if j not in constants and program.shapes[j] == program.shapes[i]]
    return same[0] if same and program.dtypes[same[0]] == program.dtypes[i] else i


def stale():
    first = {}  # with the leaf, lest another takes its place in memory
    return lambda leaf: first.setdefault(id(leaf), (leaf, data_of(leaf)))[1]


def rounded(path, load=replays.replay.load):
    """A file that keeps constants with half their digits."""
    program = load(path)
    for x in program.constants.values():
        if isinstance(x, np.ndarray):
            x[...] = x.astype(np.float16)
    return program


BROKEN = {
    "a pass that swaps": ("tinygrad_bp.replay.recorded.optimized", swapped),
    "arguments not told apart": ("tinygrad_bp.replay.passes._key", alike),
    "what changes taken for what does not": ("tinygrad_bp.replay.passes._unchanged", unchanged),
    "leaves read once": ("tinygrad_bp.replay.recorded.data_of", stale()),
    "a file that rounds": ("tests.fuzz.replays.replay.load", rounded),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_replay_is_found_and_made_small(how, monkeypatch):
    path, wrong = BROKEN[how]
    monkeypatch.setattr(path.replace("tests.fuzz.replays", replays.__name__), wrong)
    given = of_engine("numpy", 1000)
    if "file" in how:
        given = (p._replace(mode="file", captured=()) for p in given if p.kind == "array")
    found = next((p for p in given if fails(replays, p)), None)
    assert found is not None
    small = shrunk(replays, found)
    assert small.calls <= 2
    assert len(small.body.steps) <= 4
    with pytest.raises(Mismatch):
        execute(replays.code(small))
    monkeypatch.undo()
    execute(replays.code(small))  # and it is the replay that was wrong


# --- what counts as agreement -------------------------------------------------------------------

SINGLE = Leaf((), (1.0,))
CANCEL = programs.Program(  # by arctan2 1/(2x) - 1/(2x), and of hypot √2
    5, (SINGLE,), (Step("hypot", (~0, ~0)), Step("arctan2", (~0, ~0)))
)


def agreed(body, x, change):
    """What is told of a replay whose value and gradient are changed."""
    program = replays.Program(body, "number")
    arrays = [np.array(x)]
    value, gradients = replays.eager(program, arrays)
    got = change(value, gradients[0])
    nodes = functools.partial(replays._nodes, program)
    tally = Counter()
    wobble.agree("it", body, (got[0], got[1:]), (value, gradients), tally, arrays, nodes=nodes)
    return list(tally)


def test_a_small_term_may_be_lost_between_large_ones_that_cancel(monkeypatch):
    """Also if they cancel wherever x is moved to, as they do but for roundings."""
    monkeypatch.setattr(wobble, "wobbled", lambda *_: [np.zeros(()), np.zeros(())])
    told = agreed(CANCEL, -1e-300, lambda value, g: (value, g + 2.0**0.5))
    assert told == ["(it: terms that cancel, and roundings of their sum)"]


@pytest.mark.parametrize(
    ("x", "change"),
    [
        (-1e-300, lambda value, g: (value, g + 1e287)),  # more than roundings of 1e300
        (-1e-300, lambda value, g: (value, np.nan)),
        (-1e-300, lambda value, g: (value + 1e-6, g)),
        (1.0, lambda value, g: (value, g + 1e-6)),
        (1.0, lambda value, g: (value, np.inf)),
        (np.nan, lambda value, g: (value, 3.0)),
        (np.nan, lambda value, g: (1.0, g)),
    ],
)
def test_beyond_the_roundings_of_a_sum_nothing_is_excused(x, change):
    agreed(CANCEL, x, lambda value, g: (value, g))
    with pytest.raises(Mismatch):
        agreed(CANCEL, x, change)


TWICE = programs.Program(
    8, (SINGLE,), (Step("sinh", (~0,)), Step("sinh", (~0,)), Step("subtract", (0, 1)))
)


def test_equal_operations_of_a_replay_are_one(monkeypatch):
    """Of sinh(x) - sinh(x), whose derivatives are infinite at 800: 0, and not inf - inf."""
    program = replays.Program(TWICE, "number", calls=1)
    monkeypatch.setattr(replays, "data_sets", lambda _: [(0, [np.array(800.0)])])
    replays.check(program, tally := Counter())
    assert tally["(numbers by numpy: equal operations are one)"] == 1
    call = replays.Replay.__call__
    for wrong in (0.5, np.inf):
        monkeypatch.setattr(
            replays.Replay, "__call__", lambda s, x, w=wrong: (call(s, x)[0], {0: w})
        )
        with pytest.raises(Mismatch):
            replays.check(program, Counter())


def test_code_shows_data_and_results(capsys):
    program = next(of_engine("numpy", 1, calls=2))
    execute(replays.code(program), print)
    assert capsys.readouterr().out.count("eager") == 2
