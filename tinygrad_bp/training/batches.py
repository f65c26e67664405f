"""What every training loop needs: mini-batches, and a look at how it goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def minibatches(samples: int, size: int, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """The indices 0 ... samples - 1 in random order, in batches; the last may be smaller.

    Args:
        samples: how many there are.
        size: how many at a time.
        rng: decides the order.

    Raises:
        ValueError: a number is not positive.
    """
    if samples < 1 or size < 1:
        raise ValueError(f"expected positive samples and size, got {samples} and {size}")
    order = rng.permutation(samples)
    for start in range(0, samples, size):
        yield order[start : start + size]


def streams(
    symbols: NDArray[Any], batch: int, steps: int
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """A long sequence as `batch` parallel streams, cut into pieces of `steps` for truncated BPTT.

    Piece k + 1 continues piece k in every stream, so that the state can be carried over.

    Args:
        symbols: the sequence, shape (length,).
        batch: how many streams.
        steps: the length of a piece.

    Yields:
        Inputs and, one position later, targets: both of shape (steps, batch).

    Raises:
        ValueError: the sequence is too short for one piece.
    """
    length = (len(symbols) - 1) // batch
    if length < steps:
        raise ValueError(
            f"a sequence of {len(symbols)} symbols is too short for {batch} streams of {steps}"
        )
    inputs = symbols[: batch * length].reshape(batch, length).T
    targets = symbols[1 : batch * length + 1].reshape(batch, length).T
    for start in range(0, length - steps + 1, steps):
        yield inputs[start : start + steps], targets[start : start + steps]


def progress(
    items: Iterable[Any] | None, description: str, total: int | None = None, initial: int = 0
) -> Any:
    """The items, with a progress bar on standard error; `.set_postfix(loss=...)` adds numbers.

    Args:
        items: what to go through; None for a bar that is moved by `.update(n)`.
        description: what stands in front of it.
        total: how many there are, if that cannot be seen.
        initial: how many were done before.

    Raises:
        ImportError: tqdm is not installed; it comes with the extra `data`.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError("a progress bar needs tqdm: pip install 'tinygrad_bp[data]'") from None
    return tqdm(items, desc=description, total=total, initial=initial, mininterval=0.2)
