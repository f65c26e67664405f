"""How much a program magnifies roundings: its numbers with every result moved by a few of them.

Two engines round differently, in functions like exp and in the order of sums. Where their results
differ by more than such roundings explain by themselves, the program is run several times with every
result of every operation multiplied by 1 + δ, δ some thousand roundings: what that changes is what
nobody can expect to agree (Parker 1997, "Monte Carlo arithmetic"). At a kink, or at a tie, that may
be the whole derivative.
"""

import numpy as np

import tinygrad_bp as tb

from . import Mismatch, programs

CLOSE = 1e-10  # of the largest number of an array: half a million roundings
DELTA = 1e-11


def agree(what, program, got, expected, tally, arrays=None):
    """Raise unless value and gradients agree, or differ by what roundings may do."""
    pairs = list(zip(_flat(got), _flat(expected), strict=True))
    for x, y in pairs:
        if x.shape != y.shape:
            raise Mismatch(f"{what}: shape {x.shape}, and not {y.shape}")
    if all(close(x, y) for x, y in pairs):
        return
    spread = wobbled(program, arrays)
    for k, ((x, y), allowed) in enumerate(zip(pairs, spread, strict=True)):
        with np.errstate(all="ignore"):
            near = np.abs(x - y) <= allowed + CLOSE * _size(y)
            ok = near | (x == y) | (np.isnan(x) & np.isnan(y)) | np.isnan(allowed)
        if not ok.all():
            raise Mismatch(f"{what} {k}: {x[~ok][:3]}, and not {y[~ok][:3]}")
    tally[f"explained: {what}: roundings magnified, or at a kink"] += 1


def close(x, y):
    """Equal but for a part of the largest of them; infinities and nan in the same places."""
    with np.errstate(all="ignore"):
        near = np.abs(x - y) <= CLOSE * _size(y)
        return bool(np.all(near | (x == y) | (np.isnan(x) & np.isnan(y))))


def _size(y):
    finite = np.abs(y[np.isfinite(y)])
    return finite.max(initial=1e-6)


def _flat(result):
    value, gradients = result
    return [np.asarray(x, np.float64) for x in (value, *gradients)]


def wobbled(program, arrays=None, times=6):
    """By how much value and gradients move; nan where they may be infinite or nan as well."""
    random = np.random.default_rng(program.mark)

    def after(z):
        return z * (1.0 + DELTA * random.uniform(-1.0, 1.0, z.shape))

    runs = []
    start = [leaf.array() for leaf in program.leaves] if arrays is None else arrays
    for k in range(times):
        moved = [x * (1.0 + (k > 0) * DELTA * random.uniform(-1.0, 1.0, x.shape)) for x in start]
        leaves = programs.tensors(program, moved)
        results = programs.run(program, leaves, after if k else lambda z: z)
        loss = programs.total(program, results)
        loss.backward()
        gradients = [
            np.zeros(x.shape) if x.grad is None else x.grad for x in leaves if x.requires_grad
        ]
        runs.append(_flat((loss.item(), gradients)))
    spread = []
    for versions in zip(*runs, strict=True):
        with np.errstate(all="ignore"):
            stacked = np.stack(versions)
            spread.append(2.0 * np.ptp(stacked, axis=0))
    return spread
