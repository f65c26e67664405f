"""What counts and what does not: padding, and the future.

A mask is an array of truth values, True where something counts. The rest is replaced before it is
used, never multiplied by zero: 0 · nan is nan.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.arguments import count, instance, out_of_range, real, several, shown, wrong_kind
from tinygrad_bp.arrays import integers
from tinygrad_bp.inputs import as_array
from tinygrad_bp.rules import where

Mask = NDArray[np.bool_]


def pad_sequences(
    sequences: Sequence[Any], value: float = 0.0
) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Sequences of unequal length as one array, with their lengths.

    Args:
        sequences: arrays of shapes (length, features), which differ in length alone.
        value: what stands in the padding; of integers, which stay integers, one of them.

    Returns:
        Shape (time, batch, features), and the lengths, (batch,).

    Raises:
        ValueError: there is no sequence, one is empty, or their features differ in shape.
    """
    arrays = [_numbers(sequence) for sequence in several(sequences, "sequences", "arrays")]
    if not arrays or any(a.ndim == 0 or not len(a) for a in arrays):
        raise out_of_range("sequences", "at least one, of at least one step each", sequences)
    value = real(value, "value")
    if len({a.shape[1:] for a in arrays}) > 1:
        raise ValueError(f"sequences: their steps differ in shape: {[a.shape[1:] for a in arrays]}")
    lengths = np.array([len(a) for a in arrays])
    shape = (lengths.max(), len(arrays), *arrays[0].shape[1:])
    dtype = np.result_type(*arrays)
    if dtype.kind in "iu" and not (
        value.is_integer() and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
    ):
        raise out_of_range("value", f"one of {dtype}, as the sequences are", value)
    padded = np.full(shape, value, dtype)
    for i, a in enumerate(arrays):
        padded[: len(a), i] = a
    return padded, lengths


def _numbers(sequence: Any) -> NDArray[Any]:
    """A sequence as an array; integers stay integers, since they may be symbols."""
    if not hasattr(type(sequence), "_interpret"):
        try:
            return integers(sequence, "sequences")
        except TypeError:
            pass
    return as_array(sequence, "sequences")


def causal_mask(steps: int) -> Mask:
    """True where step t (the row) may read step s (the column): where s is not later than t."""
    return np.tri(count(steps, "steps"), dtype=bool)


def padding_mask(lengths: Any, steps: int, batch: tuple[int, ...] | None = None) -> Mask:
    """True where a step belongs to a sequence: shape (batch, steps).

    Args:
        lengths: of the sequences, (batch,).
        steps: how many steps they were padded to.
        batch: the shape that the lengths must have, if it is known.

    Raises:
        TypeError: the lengths are not integers.
        ValueError: there is not one per sequence, or one is not in 1 ... steps.
    """
    if batch is not None:
        instance(batch, "batch", tuple, "a shape, such as (2,)")
    lengths, steps = integers(lengths, "lengths"), count(steps, "steps")
    if lengths.ndim != 1 or not lengths.size or batch not in (None, lengths.shape):
        raise ValueError(f"lengths: expected one per sequence, {batch}, got shape {lengths.shape}")
    if lengths.min() < 1 or lengths.max() > steps:
        raise ValueError(
            f"lengths: expected 1 ... {steps}, got {lengths.min()} ... {lengths.max()}"
        )
    return np.arange(steps) < lengths[:, None]  # type: ignore[no-any-return]


def zero_padding(x: Any, lengths: Any) -> Any:
    """x of shape (time, batch, features) with zeros past the end of each sequence.

    Args:
        x: padded sequences.
        lengths: of the sequences, (batch,).

    Raises:
        TypeError: the lengths are not integers.
        ValueError: there is not one per sequence, or one is not in 1 ... time.
    """
    shape = getattr(x, "shape", None)
    if not isinstance(shape, tuple):
        raise wrong_kind("x", "a Tensor, Values or a numpy array", x)
    if len(shape) != 3:
        raise ValueError(f"lengths: they need x of (time, batch, features), got shape {shape}")
    return masked(padding_mask(lengths, x.shape[0], x.shape[1:2]).T[:, :, None], x, 0.0)


def both(mask: Any, other: Mask | None) -> Mask | None:
    """True where both masks are; None stands for one that is True everywhere.

    Raises:
        TypeError: the first, a user's, is not of truth values. (PyTorch adds masks of numbers to
            the scores: there 0 lets through what -inf holds back.)
    """
    if mask is None:
        return other
    given, mask = mask, mask_of(mask)
    if mask is None or mask.dtype != bool:
        kind = f"{mask.dtype} in a " if mask is not None else ""
        raise TypeError(
            f"mask: expected True where something may be read, got {kind}{shown(given)}"
        )
    return mask if other is None else mask & other  # type: ignore[no-any-return]


def mask_of(mask: Any) -> NDArray[Any] | None:
    """An array of what may be a mask; None for what is none."""
    try:
        return np.asarray(mask) if isinstance(mask, (np.ndarray, list, tuple)) else None
    except ValueError:  # a ragged list
        return None


def masked(mask: Mask | None, x: Any, other: float) -> Any:
    """x where the mask is True (everywhere, if there is none), and the other number elsewhere."""
    if mask is None:
        return x
    return where(mask, x, other) if hasattr(type(x), "_interpret") else np.where(mask, x, other)
