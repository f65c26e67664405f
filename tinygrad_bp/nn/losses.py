"""Losses: one number to differentiate.

A loss is summed over the outputs of a sample (the last axis); what is done over the samples is the
`reduction`, which is named:

- "mean": divided by the number of samples m (a textbook's 1/m; PyTorch's means divide by the
  number of elements m·K as well),
- "sum": added up,
- "none": one number per sample.

Deltas are per sample: under "mean" they enter the gradient with 1/m.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from tinygrad_bp import array_rules, rules
from tinygrad_bp.scalars import Values
from tinygrad_bp.tensor import Tensor, as_array
from tinygrad_bp.value import Value

Reduction = Literal["mean", "sum", "none"]


def squared_error(a: Any, y: Any, reduction: Reduction = "mean") -> Any:
    """Half the squared distance, `½ ‖a - y‖²`, so that its derivative by a is a - y.

    Args:
        a: outputs of shape (..., K), or a single number.
        y: what they should be, in the same shape.
        reduction: over the samples.

    Raises:
        ValueError: the shapes differ, or the reduction is unknown.
    """
    y = _same_shape(a, y)
    return _reduce(rules.square(a - y), reduction, factor=0.5)


def binary_cross_entropy(h: Any, y: Any, reduction: Reduction = "mean") -> Any:
    """The negative log-likelihood of probabilities, `Σ_k -y log h - (1-y) log(1-h)`.

    Logarithms are held at -100 or more, as PyTorch's are, so that a saturated h gives a finite
    loss, without gradient there; `binary_cross_entropy_with_logits` needs no such hold.

    Args:
        h: probabilities of shape (..., K), or a single one.
        y: labels in [0, 1], in the same shape.
        reduction: over the samples.

    Raises:
        ValueError: the shapes differ, a number lies outside of [0, 1], or the reduction is unknown.
    """
    y = _probabilities(_same_shape(h, y), "y")
    _probabilities(h, "h")
    yes = rules.maximum(rules.log(h), -100.0)
    no = rules.maximum(rules.log(1.0 - h), -100.0)
    return _reduce(-(y * yes + (1.0 - y) * no), reduction)


def binary_cross_entropy_with_logits(z: Any, y: Any, reduction: Reduction = "mean") -> Any:
    """The same of h = sigmoid(z), from z itself: `Σ_k softplus(z) - y z`, finite for every z.

    Its derivative by z is sigmoid(z) - y.

    Args:
        z: weighted inputs of shape (..., K), or a single one.
        y: labels in [0, 1], in the same shape.
        reduction: over the samples.

    Raises:
        ValueError: the shapes differ, a label lies outside of [0, 1], or the reduction is unknown.
    """
    y = _probabilities(_same_shape(z, y), "y")
    return _reduce(rules.softplus(z) - y * z, reduction)


def cross_entropy(o: Any, y: Any, reduction: Reduction = "mean") -> Any:
    """Softmax cross-entropy, `-Σ_i y_i log ŷ_i` with ŷ = softmax(o), from the logits o.

    Its derivative by o is ŷ - y. It is finite for every o.

    Args:
        o: logits of shape (..., K).
        y: the class of each sample, integers of shape (...); or distributions of shape (..., K).
        reduction: over the samples.

    Raises:
        ValueError: the shapes do not fit, a class is not in 0 ... K-1, a distribution has a
            negative entry or does not sum to 1, or the reduction is unknown.
        TypeError: o is not a Tensor or an array of Values.
    """
    shape = _shape(o)
    if not isinstance(o, (Tensor, Values)) or not shape:
        raise TypeError(f"o: expected a Tensor or Values of shape (..., K), got {_kind(o)}")
    if isinstance(y, (Tensor, Values)):
        if y.requires_grad:
            raise ValueError("y: a target that requires a gradient gets none here; detach() it")
        y = y if _is_recorded(y) else y.data
    if not _is_recorded(y):
        y = np.asanyarray(y)
    if y.dtype.kind in "iu" and y.shape == shape[:-1]:
        y = array_rules.one_hot(y, shape[-1], getattr(o, "dtype", None) or None)
    elif y.shape != shape:
        raise ValueError(
            f"y: expected integer classes of shape {shape[:-1]} or distributions of shape {shape}, "
            f"got {y.dtype} of shape {y.shape}"
        )
    elif not _is_recorded(y):
        y = as_array(y, "y", o.dtype if isinstance(o, Tensor) else None)
        if not np.allclose(_probabilities(y, "y").sum(-1), 1.0, atol=1e-6):
            raise ValueError(
                f"y: expected distributions, each with sum 1, got {y.sum(-1).ravel()[:3]} ...; "
                f"classes are integers of shape {shape[:-1]}"
            )
    # A class that cannot be (o = -inf) and is not (y = 0) costs nothing: the product is azmul.
    log_likelihood = rules.azmul(y, array_rules.log_softmax(o, -1))
    return _reduce(log_likelihood, reduction, factor=-1.0)


def weight_decay(parameters: Iterable[Any], strength: float) -> Any:
    """The L2 penalty `½ strength Σ W²` over the weight matrices; biases are left free.

    Args:
        parameters: of a module; those with fewer than two axes are taken to be biases.
        strength: the factor λ.

    Raises:
        ValueError: there is no weight matrix.
    """
    squares = [array_rules.sum(rules.square(p)) for p in parameters if len(_shape(p)) >= 2]
    if not squares:
        raise ValueError("weight_decay: expected at least one weight matrix, got none")
    total = squares[0]
    for square in squares[1:]:
        total = total + square
    return (0.5 * strength) * total


def _reduce(losses: Any, reduction: Reduction, factor: float = 1.0) -> Any:
    """The losses of single outputs, summed per sample and reduced over the samples."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {reduction!r}")
    if isinstance(losses, Value):
        return losses if factor == 1.0 else factor * losses
    samples = math.prod(losses.shape[:-1])
    if reduction == "none" and losses.ndim:
        total = array_rules.sum(losses, -1)
    else:
        if reduction == "mean":
            if not samples:
                raise ValueError("reduction: there is no mean over no samples")
            factor = factor / samples
        if factor != 1.0:
            return array_rules.scaled_sum(losses, factor)
        total = array_rules.sum(losses)
    return total if factor == 1.0 else factor * total


def _same_shape(a: Any, y: Any) -> Any:
    """The target, after a look at its shape: a broadcast here is nearly always a mistake."""
    if not isinstance(a, (Value, Tensor, Values)):
        raise TypeError(f"expected a Value, a Tensor or Values first, got {_kind(a)}")
    if not isinstance(y, (Value, Tensor, Values)) and not _is_recorded(y):
        y = as_array(y, "y", getattr(a, "dtype", None) if isinstance(a, Tensor) else None)
    if _shape(a) != _shape(y):
        raise ValueError(f"y: expected shape {_shape(a)}, got {_shape(y)}")
    return y.item() if isinstance(a, Value) and isinstance(y, np.ndarray) else y


def _is_recorded(x: Any) -> bool:
    """Whether x stands for data that are not there yet, in a function that is being compiled."""
    if isinstance(x, Values) and x.size:
        x = x.flat[0]
    return hasattr(type(x), "recorder")


def _probabilities(x: Any, what: str) -> Any:
    if _is_recorded(x):
        return x
    numbers = np.asarray(getattr(x, "data", x), np.float64)
    if np.any((numbers < 0.0) | (numbers > 1.0)):
        raise ValueError(
            f"{what}: expected numbers in [0, 1], got {numbers.min()} ... {numbers.max()}"
        )
    return x


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(getattr(x, "shape", ()))


def _kind(x: Any) -> str:
    return f"{type(x).__name__} of shape {_shape(x)}"
