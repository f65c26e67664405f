"""Clipping: gradients made smaller before a step, against explosion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tinygrad_bp.arguments import instance, positive, several
from tinygrad_bp.interrupts import write
from tinygrad_bp.optim.optimizer import gradient_of
from tinygrad_bp.scalars import Values
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.value import Value


def clip_grad_norm(parameters: Iterable[Any], max_norm: float) -> float:
    """Scale all gradients down together, so that their joint norm is at most `max_norm`.

    Args:
        parameters: leaves; those without a gradient do not count.
        max_norm: the largest norm allowed, positive.

    Returns:
        The norm before scaling.

    Raises:
        ValueError: max_norm is not positive, or the norm is not finite (nothing is scaled then).

    Source: Pascanu, Mikolov & Bengio 2013, algorithm 1.
    """
    positive(max_norm, "max_norm")
    graded = _graded(parameters)
    largest = max((float(np.max(np.abs(g), initial=0.0)) for _, g in graded), default=0.0)
    norm = largest  # 0, infinite or nan, if it stays so
    if 0.0 < largest < np.inf:  # divided by it, no square overflows
        squares = (np.sum(np.square(np.asarray(g, np.float64) / largest)) for _, g in graded)
        norm = largest * float(np.sqrt(sum(squares)))
    if not np.isfinite(norm):
        raise ValueError(
            f"clip_grad_norm: the gradient's norm is {norm}; there is nothing to scale"
        )
    if norm > max_norm:
        write(each for p, g in graded for each in p._grad_writes(g / norm * max_norm))
    return norm


def clip_grad_value(parameters: Iterable[Any], clip_value: float) -> None:
    """Hold every entry of the gradients in [-clip_value, clip_value].

    Args:
        parameters: leaves; those without a gradient are left alone.
        clip_value: the largest size allowed, positive.

    Raises:
        ValueError: clip_value is not positive, or an entry is nan (nothing is clipped then).
    """
    positive(clip_value, "clip_value")
    graded = _graded(parameters)
    if any(np.isnan(g).any() for _, g in graded):
        raise ValueError("clip_grad_value: an entry of the gradient is nan")
    clipped = ((p, np.clip(g, -clip_value, clip_value)) for p, g in graded)
    write(each for p, g in clipped for each in p._grad_writes(g))


def _graded(parameters: Iterable[Any]) -> list[tuple[Any, Any]]:
    """The leaves that have a gradient, each once, with it."""
    if isinstance(parameters, (Tensor, Values, Value)):
        parameters = [parameters]
    leaves = {id(p): p for p in several(parameters, "parameters", "leaves")}.values()
    for p in leaves:
        instance(p, "parameters", (Tensor, Values, Value), "leaves")
    return [(p, g) for p in leaves if (g := gradient_of(p)) is not None]
