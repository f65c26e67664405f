"""What data sets are: tuples of arrays with names; and how to hold a part of them out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinygrad_bp.arguments import count, integer, out_of_range, real, several, wrong_kind
from tinygrad_bp.nn import init

_T = TypeVar("_T", bound=tuple[Any, ...])


class XY(NamedTuple):
    """Inputs and targets.

    Attributes:
        x: shape (samples, ...).
        y: shape (samples, ...); classes are integers of shape (samples,).
    """

    x: NDArray[Any]
    y: NDArray[Any]


class Table(NamedTuple):
    """A table of numbers, with a column to be predicted.

    Attributes:
        x: shape (samples, features), float64.
        y: shape (samples,): float64, or the classes' numbers.
        features: the names of the columns of x.
        classes: the names of the classes, in the order of their numbers; empty for numbers.
    """

    x: NDArray[np.float64]
    y: NDArray[Any]
    features: tuple[str, ...]
    classes: tuple[str, ...]


class Sequences(NamedTuple):
    """Sequences of unequal length, padded at the end.

    Attributes:
        x: shape (samples, time, features), float64; zero in the padding.
        y: shape (samples, time): the classes' numbers; zero in the padding.
        possible: shape (samples, time, classes), bool: which classes could have been.
        lengths: shape (samples,), integers: how many steps are not padding.
    """

    x: NDArray[np.float64]
    y: NDArray[np.int64]
    possible: NDArray[np.bool_]
    lengths: NDArray[np.int64]


class Text(NamedTuple):
    """A text as numbers.

    Attributes:
        codes: shape (length,), integers: the number of each symbol.
        symbols: what the numbers stand for.
    """

    codes: NDArray[np.int64]
    symbols: list[str]

    def decode(self, codes: Iterable[int]) -> str:
        """The text that numbers stand for."""
        numbers = [integer(code, "codes", 0) for code in several(codes, "codes", "numbers")]
        if any(number >= len(self.symbols) for number in numbers):
            raise ValueError(f"codes: expected 0 to {len(self.symbols) - 1}, got {max(numbers)}")
        return "".join(self.symbols[number] for number in numbers)


class MNIST(NamedTuple):
    """The handwritten digits of LeCun, Cortes & Burges.

    Attributes:
        train, test: images of shape (samples, rows * columns) in [0, 1], and classes 0 ... 9.
    """

    train: XY
    test: XY


def train_test_split(
    data: _T,
    test_size: float = 0.2,
    *,
    rng: np.random.Generator | int,
    stratify: ArrayLike | None = None,
) -> tuple[_T, _T]:
    """Hold out a random part of the samples.

    Args:
        data: a tuple of arrays, samples along the first axis of each; a named one stays one.
            (What is no array, such as names, goes into both parts.)
        test_size: the share of the samples to hold out, in (0, 1); rounded up.
        rng: a numpy Generator, or a seed: decides which.
        stratify: the class of each sample, shape (samples,): each is held out in proportion, as
            nearly as whole samples allow.

    Returns:
        The data to learn from, and those held out, each in the order they were in.

    Raises:
        ValueError: a part would be empty, or the arrays have different numbers of samples.
    """
    samples = _samples(data)
    if not 0.0 < real(test_size, "test_size") < 1.0:
        raise out_of_range("test_size", "a share in (0, 1)", test_size)
    generator = init.generator(rng)
    groups = np.zeros(samples, int) if stratify is None else _groups(stratify, samples)
    held = np.zeros(samples, bool)
    members = [np.flatnonzero(groups == k) for k in range(groups.max() + 1)]
    for indices, share in zip(members, _shares(members, test_size), strict=True):
        held[generator.permutation(indices)[:share]] = True
    if held.all() or not held.any():
        raise ValueError(f"test_size: {test_size} of {samples} samples leaves one part empty")
    return _part(data, ~held), _part(data, held)


def _samples(data: tuple[Any, ...]) -> int:
    if not isinstance(data, tuple) or not data:
        raise wrong_kind("data", "a tuple of arrays", data)
    lengths = {len(x) for x in data if isinstance(x, np.ndarray) and x.ndim}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"data: expected arrays of equally many samples, got {sorted(lengths)}")
    return lengths.pop()


def _groups(stratify: ArrayLike, samples: int) -> NDArray[np.int64]:
    try:
        classes = np.asarray(stratify)
    except Exception:  # ragged lists, and whatever an object of another library may raise
        raise wrong_kind("stratify", "classes", stratify) from None
    if classes.shape != (samples,):
        raise out_of_range("stratify", f"shape ({samples},)", stratify)
    return np.unique(classes, return_inverse=True)[1]


def _shares(members: list[NDArray[Any]], share: float) -> list[int]:
    """Whole numbers in proportion, together rounded up: those with the largest remainders are."""
    exact = np.array([len(indices) * share for indices in members])
    counts = np.floor(exact).astype(int)
    total = math.ceil(round(sum(map(len, members)) * share, 9))
    short = total - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:short]] += 1
    return [int(count) for count in counts]


def _part(data: _T, chosen: NDArray[np.bool_]) -> _T:
    parts = [x[chosen] if isinstance(x, np.ndarray) and x.ndim else x for x in data]
    return type(data)(*parts) if hasattr(data, "_fields") else type(data)(parts)


def check_counts(**counts: Any) -> None:
    """Look whether numbers of things are positive integers."""
    for name, x in counts.items():
        count(x, name)
