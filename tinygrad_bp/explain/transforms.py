"""What may have happened to an array besides: transposed, a sign, a factor. And how it is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinygrad_bp.explain.targets import Array
from tinygrad_bp.text import number

if TYPE_CHECKING:
    from tinygrad_bp.explain.hypotheses import Hypothesis

NOISE = 1e-5  # of the gradient's size; a mistake may have been made imprecisely
BETTER = 1e-3  # times the difference from the right gradient; else it explains nothing


class Change(NamedTuple):
    """What happened to an array besides.

    Attributes:
        transposed: whether it was transposed.
        factor: what it was multiplied by.
        words: what that number is.
    """

    transposed: bool
    factor: float
    words: str


class Fit(NamedTuple):
    """How a prediction fits what was given.

    Attributes:
        change: what happened to the prediction besides.
        residual: the largest difference that is left.
        rank: how far-fetched the change is.
    """

    change: Change
    residual: float
    rank: float


def fits(
    verdict: Any, predicted: Array, is_right: bool, factors: Sequence[tuple[float, str]]
) -> Iterator[Fit]:
    """The changes under which a prediction gives what was given.

    Args:
        verdict: of what was given.
        predicted: what a hypothesis gives.
        is_right: whether that is the right gradient, which is to be changed by something.
        factors: those that have a meaning here.
    """
    given = verdict.given
    arrays = [(False, predicted)]
    if predicted.ndim == 2 and not (is_right and _symmetric(predicted)):
        arrays.append((True, predicted.T))
    for transposed, array in arrays:
        if array.shape != given.shape or not np.isfinite(array).all():
            continue
        for factor, words, rank in _factors(given, array, is_right and not transposed, factors):
            residual = float(np.abs(given - factor * array).max(initial=0.0))
            if residual <= _limit(verdict, factor):
                yield Fit(Change(transposed, factor, words), residual, rank + 1.0 * transposed)
                break


def _limit(verdict: Any, factor: float) -> float:
    size = float(np.abs(verdict.given).max(initial=0.0))
    strict = float(verdict.tolerance) * max(1.0, abs(factor))
    if verdict.given.size < 3 or np.isnan(verdict.largest):
        return strict
    return max(strict, min(NOISE * size, BETTER * float(verdict.largest)))


def _symmetric(x: Array) -> bool:
    return x.shape[0] == x.shape[1] and bool(np.array_equal(x, x.T))


def _factors(
    given: Array, array: Array, is_right: bool, named: Sequence[tuple[float, str]]
) -> Iterator[tuple[float, str, float]]:
    """Factors to be tried, with their words and ranks: the one that fits best, by its name."""
    if not is_right:
        yield 1.0, "", 0.0
    square = float(np.vdot(array, array))
    if not square:
        return
    best = float(np.vdot(array, given)) / square
    if abs(best + 1.0) < 1e-4:
        yield -1.0, "", 0.5
    if not best:
        return
    for size, words in named:
        if abs(abs(best) - size) < 1e-4 * size:
            yield (size if best > 0 else -size), words, 1.0 + 0.5 * (best < 0)
    # Of two numbers, which may sum to zero, one is always a multiple of the other pair's.
    if is_right and np.count_nonzero(given) > 2 and abs(best - 1.0) > 1e-3:
        yield best, "", 4.0


# --- in words -----------------------------------------------------------------------------------


def named_factor(hypothesis: Hypothesis, fit: Fit) -> str:
    """The short name of a mistake, with what happened besides."""
    change = fit.change
    parts = [] if hypothesis.mistake == "right" else [hypothesis.mistake]
    if change.transposed:
        parts.append("transposed")
    if change.factor < 0:
        parts.append("sign")
    if abs(change.factor) != 1.0:
        parts.append("factor")
    return " and ".join(parts)


def sentence(hypothesis: Hypothesis, fit: Fit) -> str:
    """What a reader is told."""
    change = fit.change
    plain = hypothesis.mistake == "right"
    text = f"It is {'the transpose of ' if change.transposed else ''}{hypothesis.text}"
    if change.factor == 1.0:
        return text + (f": {_TRANSPOSED}" if plain else ".")
    size, minus = abs(change.factor), change.factor < 0
    shown = f"{'−' if minus else ''}{number(size)}"
    if change.words:
        shown += f" = {'−' if minus else ''}{change.words}"
    text += f"{'' if plain else ','} times {shown}"
    if not plain:
        return text + "."
    why = [_why(size, change.words)] if size != 1.0 else []
    why += ["a sign is lost, often in ŷ − y"] if minus else []
    why += ["and it is transposed"] if change.transposed else []
    return f"{text}: {'; '.join(filter(None, why))}."


_TRANSPOSED = (
    "with samples in rows it is aᵀ δ, of the shape (inputs, outputs); textbooks have columns, δ aᵀ."
)


def _why(size: float, words: str) -> str:
    if size == 2.0 and not words:
        return "a ½ of the loss is left out, or it is accumulated twice, without zero_grad()"
    if size == 0.5 and not words:
        return "the ½ of the loss twice, or half of what is added up"
    if not words:
        return "a constant factor"
    if size > 1.0:
        return "a sum where the loss takes a mean"
    return "a mean where the loss takes a sum, or a division too many"
