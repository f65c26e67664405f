"""What every training loop needs: mini-batches, and a look at how it goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.arguments import count, instance, integer, text, wrong_kind


def minibatches(samples: int, size: int, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """The indices 0 ... samples - 1 in random order, in batches; the last may be smaller.

    Args:
        samples: how many there are.
        size: how many at a time.
        rng: decides the order.

    Raises:
        ValueError: a number is not positive.
    """
    samples, size = count(samples, "samples"), count(size, "size")
    instance(rng, "rng", np.random.Generator, "a numpy Generator")
    return _minibatches(samples, size, rng)


def _minibatches(samples: int, size: int, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
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
    batch, steps = count(batch, "batch"), count(steps, "steps")
    if not isinstance(symbols, np.ndarray) or symbols.ndim != 1:
        raise wrong_kind("symbols", "an array of shape (length,)", symbols)
    length = (len(symbols) - 1) // batch
    if length < steps:
        raise ValueError(
            f"symbols: expected enough for batch = {batch} streams of steps = {steps}, got "
            f"{len(symbols)} symbols"
        )
    return _pieces(symbols, batch, steps, length)


def _pieces(
    symbols: NDArray[Any], batch: int, steps: int, length: int
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
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
    if items is not None and (isinstance(items, str) or not isinstance(items, Iterable)):
        raise wrong_kind("items", "something to go through", items)
    text(description, "description")
    if total is not None:
        integer(total, "total", 0)
    integer(initial, "initial", 0)
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError("a progress bar needs tqdm: pip install 'tinygrad_bp[data]'") from None
    return tqdm(items, desc=description, total=total, initial=initial, mininterval=0.2)
