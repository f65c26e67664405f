"""When two ways to the same numbers agree: to the bit, or but for what roundings may do.

Two engines round differently, in functions like exp and in the order of sums. Where their results
differ by more than such roundings explain by themselves, the program is run several times with
every use of every quantity multiplied by 1 + δ, δ some thousand roundings: what that changes is
what nobody can expect to agree (Parker 1997, "Monte Carlo arithmetic"). At a kink, or at a tie,
that may be the whole derivative.

What moves together hides what cancels, as both derivatives of arctan2(x, x). So of programs of
single numbers the sum of the sizes of all paths is taken as well, of which any order of adding up
may miss some roundings (Higham 2002, "Accuracy and Stability of Numerical Algorithms", 4.2).
"""

import math

import numpy as np

from tinygrad_bp.rules import RULES

from . import Mismatch, programs
from .derivations import EPS, PARTIALS, ROUNDINGS

CLOSE = 1e-10  # of the largest number of an array: half a million roundings
DELTA = 1e-11
COARSE = 2**20  # times as much where there is float32, whose roundings are 2**29 times as large


def exactly(what, got, expected):
    """Raise unless they are the same bits, where one nan is like another."""
    for k, (x, y) in enumerate(zip(got, expected, strict=True)):
        x, y = np.asarray(x), np.asarray(y)
        if not y.shape:  # single numbers come back as floats
            x, y = np.float64(x), np.float64(y)
        if x.shape != y.shape or x.dtype != y.dtype:
            raise Mismatch(f"{what} {k}: {x.dtype}{x.shape}, and not {y.dtype}{y.shape}")
        if x.tobytes() != y.tobytes():
            nan = np.isnan(x) & np.isnan(y)
            ok = nan | ((x == y) & (np.signbit(x) == np.signbit(y)))
            if not ok.all():
                raise Mismatch(f"{what} {k}: {x[~ok][:3]}, and not {y[~ok][:3]}")


def turned(*nodes):
    """Whether an array of a value or a gradient lies in memory otherwise than by its axes.

    After a transpose or a flip, say: numpy then adds up in another order, and has other loops for
    its functions, also of a single element.
    """
    arrays = (np.asarray(x) for z in nodes for x in (z._array, z._grad) if x is not None)
    return any(x.strides != np.empty_like(x, order="C").strides for x in arrays if x.size)


def same_replay(program, got, expected, tally, arrays=None):
    """Raise unless a replay of arrays gives the same bits.

    Constants are kept in the order of their axes, and not backwards as after a flip, or turned as
    after a transpose: numpy then may add them up in another order.
    """
    try:
        exactly("replay: value", [np.float64(got[0])], [np.float64(expected[0])])
        exactly("replay: gradient", got[1], expected[1])
    except Mismatch:
        pairs = zip((got[0], *got[1]), (expected[0], *expected[1]), strict=True)
        most = CLOSE * _coarseness(program)
        if not all(close(np.asarray(x), np.asarray(y), most) for x, y in pairs):
            raise
        if not turned(*_swept(program, arrays)):
            raise
        tally["(replay: constants turned in memory, last bits)"] += 1


def _swept(program, arrays):
    """The nodes of a program, after a sweep."""
    leaves = programs.tensors(program, arrays)
    results = programs.run(program, leaves)
    programs.total(program, results).backward()
    return *leaves, *results


def agree(what, program, got, expected, tally, arrays=None, of=None, nodes=None):
    """Raise unless value and gradients agree, or differ by what roundings may do.

    Args:
        what: the way that `got` came about.
        program: the program.
        got, expected: value, and gradients.
        tally: where to count what had to be explained.
        arrays: the numbers of the leaves, if not their own.
        of: by which leaves the gradients are; by all that are tracked, if not given.
        nodes: what makes the leaves of arrays; Tensors, if not given.
    """
    pairs = list(zip(_flat(got), _flat(expected), strict=True))
    for x, y in pairs:
        if x.shape != y.shape:
            raise Mismatch(f"{what}: shape {x.shape}, and not {y.shape}")
    most = CLOSE * _coarseness(program)
    if all(close(x, y, most) for x, y in pairs):
        return
    spread = wobbled(program, arrays, of, nodes)
    sums = roundings_of_sums(program, arrays, of, nodes)
    why = "roundings magnified, or at a kink"
    for k, ((x, y), allowed, more) in enumerate(zip(pairs, spread, sums, strict=True)):
        with np.errstate(all="ignore"):
            missed = np.abs(x - y) - (allowed + most * _size(y))
            ok = (missed <= 0) | (x == y) | (np.isnan(x) & np.isnan(y)) | np.isnan(allowed)
        if not (ok | (missed <= more)).all():
            raise Mismatch(f"{what} {k}: {x[~ok][:3]}, and not {y[~ok][:3]}")
        if not ok.all():
            why = "terms that cancel, and roundings of their sum"
    tally[f"({what}: {why})"] += 1


def roundings_of_sums(program, arrays=None, of=None, nodes=None):
    """What roundings may take from value and gradients as sums over paths; 0 if not known.

    It is known of single numbers, whose derivatives have sizes (`derivations`): each path of at
    most n operations, and each sum, is right to some roundings of the size of its terms.
    """
    of = programs.tracked(program) if of is None else of
    start = [leaf.array() for leaf in program.leaves] if arrays is None else arrays
    unknown = any(x.shape for x in start) or not all(s.name in RULES for s in program.steps)
    if unknown or any(leaf.dtype != "float64" for leaf in program.leaves):
        return [0.0] * (1 + len(of))
    leaves = nodes(start) if nodes else programs.tensors(program, start)
    results = programs.run(program, leaves)
    sizes = dict.fromkeys(range(-len(leaves), len(results)), 0.0)
    for k in programs.ends(program):
        sizes[k] = abs(float(programs.weights((), np.dtype(float))))
    for k in reversed(range(len(results))):
        step = program.steps[k]
        operands = [float(x) for x in programs.operands_of(step, leaves, results)]
        pairs = PARTIALS[step.name](*operands, float(results[k]))
        for x, size in zip(step.operands, pairs[1::2], strict=True):
            if type(x) is int and size and sizes[k]:
                sizes[x] += size * sizes[k]
    roundings = 2 * ROUNDINGS * EPS * (len(sizes) + 2)  # of both that are compared
    found = [roundings * sizes[~i] for i in of]
    return [0.0, *(x if math.isfinite(x) else 0.0 for x in found)]


def close(x, y, most=CLOSE):
    """Equal but for a part of the largest of them; infinities and nan in the same places."""
    with np.errstate(all="ignore"):
        near = np.abs(x - y) <= most * _size(y)
        return bool(np.all(near | (x == y) | (np.isnan(x) & np.isnan(y))))


def _coarseness(program):
    return COARSE if any(leaf.dtype == "float32" for leaf in program.leaves) else 1


def _size(y):
    finite = np.abs(y[np.isfinite(y)])
    return finite.max(initial=1e-6)


def _flat(result):
    value, gradients = result
    with np.errstate(all="ignore"):
        return [np.asarray(x, np.float64) for x in (value, *gradients)]


def wobbled(program, arrays=None, of=None, nodes=None, times=6):
    """By how much value and gradients move; nan where some are infinite or nan, and some not."""
    random = np.random.default_rng(program.mark)
    of = programs.tracked(program) if of is None else of
    start = [leaf.array() for leaf in program.leaves] if arrays is None else arrays
    delta = DELTA * _coarseness(program)
    runs = []
    for k in range(times):

        def moved(z, k=k):
            shape = getattr(z, "shape", ())
            change = delta * random.uniform(-1.0, 1.0, shape or None) if k else 0.0
            return z * (1.0 + change)

        given = [np.asarray(moved(x)) for x in start]
        leaves = nodes(given) if nodes else programs.tensors(program, given)
        loss = programs.total(program, programs.run(program, leaves, moved), moved)
        if getattr(loss, "requires_grad", False):
            loss.backward()
        gradients = [
            np.zeros(getattr(leaves[i], "shape", ())) if leaves[i].grad is None else leaves[i].grad
            for i in of
        ]
        runs.append(_flat((float(loss), gradients)))
    return [_spread(np.stack(versions)) for versions in zip(*runs, strict=True)]


def _spread(versions):
    """By how much numbers move; by nothing, if all are the same infinity, or all are nan."""
    alike = (versions == versions[0]).all(axis=0) | np.isnan(versions).all(axis=0)
    with np.errstate(all="ignore"):
        return np.where(alike, 0.0, 2.0 * np.ptp(versions, axis=0))
