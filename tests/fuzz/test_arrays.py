"""A slice of the random programs of `arrays`; and that a wrong rule does not get past them."""

import math
import os
import random
from collections import Counter

import numpy as np
import pytest
from numpy import inf, nan

import tinygrad_bp as tb
from tinygrad_bp import array_rules, arrays as arrays_of_numpy
from tinygrad_bp.array_rules import ARRAY_RULES
from tinygrad_bp.rules import RULES

pytest.importorskip("torch", reason="PyTorch is the oracle")

from . import Mismatch, arrays, making, programs, torch_oracle
from .programs import Leaf, Program, Step
from .shrinking import execute, fails, shrunk
from .torch_conventions import AT_INFINITY, OVERFLOW, UNDERFLOW, ZERO_UPSTREAM

MANY = int(os.environ.get("TINYGRAD_BP_FUZZ", "1"))  # times as many


def first_failure(kind, count):
    found = (kind.generate(random.Random(seed)) for seed in range(count))
    return next((program for program in found if fails(kind, program)), None)


def test_every_operation_is_drawn_and_known_to_the_oracle():
    assert torch_oracle.missing() == set()
    assert set(making.CHOICES) == {*ARRAY_RULES, *programs.FUNCTIONS}


def test_programs_are_those_of_their_seed():
    def one():
        return arrays.generate(random.Random(7))

    assert repr(one()) == repr(one())
    assert eval(repr(one()).replace("Ellipsis", "..."), vars(programs) | {"nan": np.nan}) == one()


def test_random_programs():
    tally = Counter()
    for seed in range(250 * MANY):
        arrays.check(arrays.generate(random.Random(f"arrays {seed}")), tally)
    assert tally["gradients of nodes, PyTorch"] > 1000
    assert min(tally[way] for way in ("forward mode", "differences", "single numbers")) > 0


def test_random_programs_by_jax():
    pytest.importorskip("jax", reason="the engine's package")
    tally = Counter()
    for seed in range(24 * MANY):
        program = arrays.generate(random.Random(f"jax {seed}"))
        arrays.check(program._replace(mark=2), tally)
    assert tally["replays, jax"] > 12


def test_a_program_by_numba():
    pytest.importorskip("numba", reason="the engine's package")
    leaf = Leaf((2, 2), (0.5, -1.0, 2.0, 0.25))
    steps = (Step("tanh", (~0,)), Step("matmul", (0, ~0)), Step("max", (1,), (0, True)))
    tally = Counter()
    arrays.check(Program(1, (leaf,), steps), tally)
    assert tally["replays, numba"] == 1


def one(name, numbers, *more, dtype="float64", arguments=(), shape=None):
    """A program of one operation, on a leaf and constants."""
    leaf = Leaf((len(numbers),) if shape is None else shape, numbers, dtype)
    return Program(3, (leaf,), (Step(name, (~0, *more), arguments),))


ZERO_TIMES_NAN = (
    Step("log1p", (~0,)), Step("var", (0,), (None, 1, True)), Step("maximum", (1, -1.74)),
    Step("concatenate", (~0, 0), (0,)),
)  # fmt: skip


def contracted(formula, first, second, then="negative", number=1.0):
    """Sums of products of two leaves."""
    leaves = [Leaf(shape, (number,) * math.prod(shape)) for shape in (first, second)]
    steps = (Step("contract", (~0, ~1), (formula,)), Step(then, (0,)))
    return Program(3, tuple(leaves), steps)


# Of infinite gradients: a difference of infinities here, and there infinity times a difference.
MEETING = Program(
    3, (Leaf((1, 2), (0.0, 0.0)), Leaf((3, 2), (-0.5, 1.0, 0.25, 1.0, 1.0, 1.0))),
    (Step("contract", (~0, ~1), ("ij,xj->j",)), Step("power", (0, 0.5))),
)  # fmt: skip
PROD = "prod at nan, infinity or overflow: the product of the others here, nan there"
DIFFERENT = {
    "square": (one("norm", (1e30, -2e30, 1.0), dtype="float32"), OVERFLOW),
    "power": (one("power", (1e30, 2.0), 3.0, dtype="float32"), OVERFLOW),
    "nan": (
        Program(3, (Leaf((3,), (0.9, -1.7, 0.5)),), ZERO_TIMES_NAN), ZERO_UPSTREAM,
    ),
    "at the origin": (one("arctan2", (0.0, 1.0), 0.0), "arctan2 at the origin: nan here, 0 there"),
    "between equal bounds": (
        Program(3, (Leaf((2,), (0.0, 1.0)), Leaf((1,), (0.5,))), (Step("clip", (~0, ~1, ~1)),)),
        "clip between equal bounds: the bound's here, nobody's there",
    ),
    "relu of nan": (one("relu", (nan, 1.0)), "a comparison with nan"),
    "a minimum with nan": (one("minimum", (nan, 1.0), 2.0), "a comparison with nan"),
    "a product with nan": (
        one("prod", (2.0, nan, 3.0)), PROD,
    ),
    "a product at infinity": (one("prod", (inf, inf)), PROD),
    "a product that overflows": (one("prod", (1e200, 1e200)), PROD),
    "zero times nan": (
        Program(3, (Leaf((3,), (0.0, -0.0, 2.0)), Leaf((3,), (nan, inf, 3.0))),
                (Step("azmul", (~0, ~1)),)), None,
    ),
    "far out": (one("log_sigmoid", (4e30, 2.0)), UNDERFLOW),
    "logsumexp of nan": (
        one("logsumexp", (nan,), shape=()), "logsumexp of a single nan: nan here, 1 there",
    ),
    "softmax": (one("softmax", (1.0, inf)), AT_INFINITY),
    "float32": (one("softmax", (0.1, inf, inf), dtype="float32"), AT_INFINITY),
    "log_softmax": (one("log_softmax", (1.0, inf)), AT_INFINITY),
    "some rows": (
        one("norm", (nan,) * 8, arguments=(0, False), shape=(1, 8)), ZERO_UPSTREAM,
    ),
    "an empty sum": (contracted(",x->", (), (0,), number=nan), None),
    "an empty sum, upstream of nan": (contracted("ij,x->x", (2, 0), (3,), "log"), None),
    "terms that meet": (MEETING, None),
    "a variance at infinity": (one("var", (1.0, inf, 2.0)), None),
    "absorbed": (one("logsumexp", (1e30, 1e30, 1.0), arguments=(0,)), None),
    "a logarithm that cancels": (
        one("logsumexp", (-8.216299057006836, -0.0002702109341043979), dtype="float32"), None,
    ),
    "log 2 that cancels": (
        Program(3, (Leaf((1,), (-0.6931471824645996,), "float32"),),
                (Step("logaddexp", (~0, ~0)),)), None,
    ),
    "near 1": (one("arcsin", (1.0 - 1e-12, -1.0 + 1e-9)), None),
    "near -1": (one("arccos", (1.0 - 1e-12, -1.0 + 1e-9)), None),
}  # fmt: skip


@pytest.mark.parametrize("which", DIFFERENT)
def test_what_pytorch_does_otherwise_is_counted_or_avoided(which):
    program, reason = DIFFERENT[which]
    tally = Counter()
    arrays.check(program, tally)
    if reason is None:
        assert not [why for why in tally if why.startswith("(") and why != "(programs)"]
    else:
        assert tally[f"({reason})"] > 0


def doubled(which, part="pullbacks"):
    """A rule that hands on twice as much as it should."""
    rule = {**RULES, **ARRAY_RULES}[which]
    right = getattr(rule, part)[0]
    wrong = (lambda m, *x: 2.0 * right(m, *x)) if callable(right) else 2.0 * right
    return rule, part, (wrong, *getattr(rule, part)[1:])


NOT_EXCUSED = {
    "at the origin": (RULES["arctan2"], "partials", (lambda m, x, y, z: 0.5 + 0.0 * x,) * 2),
    "between equal bounds": (RULES["clip"], "partials", (lambda m, x, *_: 0.5 + 0.0 * x,) * 3),
    "relu of nan": (RULES["relu"], "partials", (lambda m, x, y: m.where(x > 0, 1.0, 0.5),)),
    "a minimum with nan": doubled("minimum", "partials"),
    "a product with nan": doubled("prod"),
    "a product at infinity": (
        ARRAY_RULES["prod"],
        "pullbacks",
        (lambda m, g, y, x, *_: np.ones(2),),
    ),
    "a product that overflows": doubled("prod"),
    "logsumexp of nan": (ARRAY_RULES["logsumexp"], "pullbacks", (lambda m, g, *x: g * 0.5,)),
    "log_softmax": doubled("log_softmax"),
    "some rows": (ARRAY_RULES["norm"], "pullbacks", (lambda m, g, y, x, *_: m.reshape(g, (1, 8)),)),
}


@pytest.mark.parametrize("which", NOT_EXCUSED)
def test_a_convention_excuses_no_wrong_rule(which, monkeypatch):
    program, _ = DIFFERENT[which]
    monkeypatch.setattr(*NOT_EXCUSED[which])
    with pytest.raises(Mismatch):
        arrays.check(program, Counter())


WRONG_VALUES = {
    "softmax": (one("softmax", (1.0, inf)), [0.5, nan], "value of softmax"),
    "log_softmax": (one("log_softmax", (1.0, inf)), [-inf, 0.0], "value of log_softmax"),
    "relu": (one("relu", (-1.0, 0.0, 2.0)), [-0.0, 0.0, 2.0], "sign of zero of relu"),
    "azmul": (one("azmul", (0.0, 1.0), inf), [nan, inf], "value of azmul"),
    "transpose": (one("transpose", (-0.0, 1.0)), [0.0, 1.0], "sign of zero of transpose"),
}


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_a_value_that_only_looks_like_a_convention_is_found(name):
    program, wrong, what = WRONG_VALUES[name]
    leaves = programs.tensors(program)
    results = programs.run(program, leaves)
    torch_oracle.Comparison(program, leaves, results, Counter())
    results[0]._array = np.array(wrong)
    with pytest.raises(Mismatch, match=what):
        torch_oracle.Comparison(program, leaves, results, Counter())


TURNED = Program(
    3, (Leaf((2, 2), (1.0,) * 4), Leaf((3, 3, 2, 3), tuple(0.1 * k * k - 3.0 for k in range(54)))),
    (Step("contract", (~1, ~0), ("iikl,xk",)), Step("exp", (0,)), Step("min", (1,), (1, False))),
)  # fmt: skip


def test_arrays_turned_in_memory_excuse_last_bits_alone(monkeypatch):
    tally = Counter()
    arrays.check(TURNED, tally)
    assert tally["create_graph"] == 1
    grad, moved = tb.grad, 1.0 + 1e-15

    def nearly(*given, **options):
        at = grad(*given, **options)
        return lambda *leaves: [np.asarray(g) * moved for g in at(*leaves)]

    monkeypatch.setattr(tb, "grad", nearly)
    arrays.check(TURNED, tally)
    assert tally["(create_graph: arrays turned in memory, last bits)"] > 0
    with pytest.raises(Mismatch, match="create_graph"):  # nothing is turned
        arrays.check(one("exp", (1.0, 2.0)), Counter())
    moved = 1.0 + 1e-11
    with pytest.raises(Mismatch, match="create_graph"):
        arrays.check(TURNED, Counter())


def test_a_single_element_may_lie_backwards():
    steps = [("arctan", ~0), ("flip", 0, (0,)), ("cosh", 1), ("square", 1), ("square", 1)]
    steps = [Step(name, (x,), *more) for name, x, *more in steps]
    steps.append(Step("take_along_axis", (4,), ([-1, -1, 0], -1)))
    arrays.check(Program(237146919, (Leaf((1,), (0.449,)),), tuple(steps)), Counter())


def test_differences_of_terms_that_cancel():
    """x/x has the derivative 1e30 - 1e30, in which another of 1 is lost."""
    leaf = Leaf((2,), (0.394, 1e-30))
    steps = (Step("divide", (~0, ~0)), Step("flip", (~0,), (0,)))
    tally = Counter()
    arrays.check(Program(50986020, (leaf,), steps), tally)
    assert tally["skipped: differences, terms that cancel"] == 1


def test_differences_are_not_taken_over_a_cut():
    leaves = (Leaf((2,), (0.0, 1.0)), Leaf((2,), (0.0, 0.5)))
    steps = (Step("arctan2", (~0, ~0)), Step("multiply", (~1, 0)))
    tally = Counter()
    arrays.check(Program(54366093, leaves, steps), tally)
    assert tally["skipped: differences, at the cut of arctan2"] == 1
    leaves = (Leaf((2,), (0.1, 1.0)), *leaves[1:])
    arrays.check(Program(54366093, leaves, steps), tally)
    assert tally["differences"] == 1


def test_nothing_is_made_of_what_is_too_large():
    m = making.Maker(random.Random(1))
    x = m.leaf((making.LARGEST + 1,))
    assert {m.fitting(x, (0.4, 0.6)) for _ in range(50)} == {x}


def test_an_overflow_excuses_no_wrong_gradient(monkeypatch):
    monkeypatch.setattr(*partial("power", 0, lambda m, x, y, z: 2.0 * x))
    with pytest.raises(Mismatch, match="power"):
        arrays.check(one("power", (1e30, 2.0), 3.0, dtype="float32"), Counter())


def pullback(name, which, wrong):
    rule = ARRAY_RULES[name]
    return rule, "pullbacks", (*rule.pullbacks[:which], wrong, *rule.pullbacks[which + 1 :])


def partial(name, which, wrong):
    rule = RULES[name]
    return rule, "partials", (*rule.partials[:which], wrong, *rule.partials[which + 1 :])


def without_repeats(g, index, shape):
    result = np.zeros(shape, np.asarray(g).dtype)
    result[index] = g  # the last one wins
    return result


def untransposed(m, g, y, x, axes=None):
    return m.transpose(g, axes) if g.shape == x.shape else m.reshape(g, x.shape)


def summed(m, g, y, x, *arguments):
    return array_rules.sum_dx(m, g, y, x, *arguments)


def forwards(m, g, y, x, axis=None):
    return m.reshape(m.cumsum(g, axis or 0), x.shape)


def quotient(m, g, y, x, axis=None, keepdims=False):
    g, y = (array_rules._restore(m, z, x, axis, keepdims) for z in (g, y))
    return m.azmul(g, m.divide(y, x + 1e-9))


BROKEN = {
    "a partial": partial("tanh", 0, lambda m, x, y: 1.0 - y),
    "a sign": partial("subtract", 1, 1.0),
    "a small term": partial("hypot", 0, lambda m, x, y, z: m.divide(x, z) + 1e-6 * y),
    "ties": partial("maximum", 0, lambda m, x, y, z: m.where(x >= y, 1.0, 0.0)),
    "repeated indices": (arrays_of_numpy, "scatter", without_repeats),
    "not transposed": pullback("transpose", 0, untransposed),
    "a mean that is a sum": pullback("mean", 0, summed),
    "the other way round": pullback("cumsum", 0, forwards),
    "zeros in a product": pullback("prod", 0, quotient),
    "a value": (arrays_of_numpy, "take", lambda x, i, axis=None: np.take(np.abs(x), i, axis)),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_rule_is_found_and_made_small(how, monkeypatch):
    monkeypatch.setattr(*BROKEN[how])
    found = first_failure(arrays, 1500)
    assert found is not None
    small = shrunk(arrays, found)
    assert len(small.steps) <= 2
    with pytest.raises(Mismatch):
        execute(arrays.code(small))
    monkeypatch.undo()
    execute(arrays.code(small))  # and it is the rule that was wrong


def test_a_wrong_forward_mode_is_found(monkeypatch):
    monkeypatch.setattr(ARRAY_RULES["pad"], "forward", "linear")  # pads tangents by the constant
    small = shrunk(arrays, first_failure(arrays, 600))
    assert [step.name for step in small.steps] == ["pad"]


@pytest.mark.parametrize("name", ["min", "logsumexp", "max"])
def test_what_cannot_be_reduced_is_refused(name):
    """numpy's own ValueError, where PyTorch gives infinities or refuses as well."""
    with pytest.raises(ValueError, match="zero-size"):
        getattr(tb, name)(tb.Tensor(np.ones((2, 0))), 1)
