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
from tinygrad_bp.arguments import (
    choice,
    finite,
    fraction,
    instance,
    integer,
    out_of_range,
    positive,
    several,
    shown,
    wrong_kind,
)
from tinygrad_bp.inputs import as_array
from tinygrad_bp.scalars import Values
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.value import Value

Reduction = Literal["mean", "sum", "none"]


def squared_error(a: Any, y: Any, reduction: Reduction = "mean", *, weight: Any = None) -> Any:
    """Half the squared distance, `½ ‖a - y‖²`, so that its derivative by a is a - y.

    Args:
        a: outputs of shape (..., K), or a single number.
        y: what they should be, in the same shape.
        reduction: over the samples.
        weight: factors of the single outputs' losses, broadcast to the shape of a.

    Raises:
        ValueError: the shapes differ, y holds a nan, or the reduction is unknown.
    """
    y = _target(a, y)
    return _reduce(rules.square(a - y), reduction, weight, factor=0.5)


def absolute_error(a: Any, y: Any, reduction: Reduction = "mean", *, weight: Any = None) -> Any:
    """The sum of the distances, `Σ_k |a - y|`; its derivative by a is the sign of a - y, 0 at 0.

    Args:
        a: outputs of shape (..., K), or a single number.
        y: what they should be, in the same shape.
        reduction: over the samples.
        weight: factors of the single outputs' losses, broadcast to the shape of a.

    Raises:
        ValueError: the shapes differ, y holds a nan, or the reduction is unknown.
    """
    y = _target(a, y)
    return _reduce(rules.absolute(a - y), reduction, weight)


def huber(
    a: Any, y: Any, reduction: Reduction = "mean", *, delta: float = 1.0, weight: Any = None
) -> Any:
    """`Σ_k ½ e²` of small errors e = a - y, `δ (|e| - ½ δ)` of those beyond ±δ (Huber 1964).

    Its derivative by a is e, held within ±δ: outliers pull no harder than that.

    Args:
        a: outputs of shape (..., K), or a single number.
        y: what they should be, in the same shape.
        reduction: over the samples.
        delta: where the square ends, positive.
        weight: factors of the single outputs' losses, broadcast to the shape of a.

    Raises:
        ValueError: the shapes differ, y holds a nan, delta is not positive, or the reduction is
            unknown.
    """
    delta = positive(delta, "delta")
    error = a - _target(a, y)
    held = rules.clip(error, -float(delta), float(delta))
    return _reduce(held * (error - 0.5 * held), reduction, weight)


def binary_cross_entropy(
    h: Any, y: Any, reduction: Reduction = "mean", *, weight: Any = None
) -> Any:
    """The negative log-likelihood of probabilities, `Σ_k -y log h - (1-y) log(1-h)`.

    Logarithms are held at -100 or more, as PyTorch's are, so that a saturated h gives a finite
    loss, without gradient there; `binary_cross_entropy_with_logits` needs no such hold.

    Args:
        h: probabilities of shape (..., K), or a single one.
        y: labels in [0, 1], in the same shape.
        reduction: over the samples.
        weight: factors of the single outputs' losses, broadcast to the shape of h.

    Raises:
        ValueError: the shapes differ, a number lies outside of [0, 1], or the reduction is unknown.
    """
    y = _probabilities(_target(h, y, first="h"), "y")
    _probabilities(h, "h")
    yes = rules.maximum(rules.log(h), -100.0)
    no = rules.maximum(rules.log(1.0 - h), -100.0)
    return _reduce(-(y * yes + (1.0 - y) * no), reduction, weight)


def binary_cross_entropy_with_logits(
    z: Any, y: Any, reduction: Reduction = "mean", *, weight: Any = None
) -> Any:
    """The same of h = sigmoid(z), from z itself: `Σ_k softplus(z) - y z`, finite for every z.

    Its derivative by z is sigmoid(z) - y.

    Args:
        z: weighted inputs of shape (..., K), or a single one.
        y: labels in [0, 1], in the same shape.
        reduction: over the samples.
        weight: factors of the single outputs' losses, broadcast to the shape of z.

    Raises:
        ValueError: the shapes differ, a label lies outside of [0, 1], or the reduction is unknown.
    """
    y = _probabilities(_target(z, y, first="z"), "y")
    return _reduce(rules.softplus(z) - y * z, reduction, weight)


def kl_divergence(log_q: Any, p: Any, reduction: Reduction = "mean", *, weight: Any = None) -> Any:
    """The divergence of q from p, `Σ_i p_i (log p_i - log q_i)` (Kullback & Leibler 1951).

    It is the cross-entropy less the entropy of p, and zero where q = p. What p excludes (p_i = 0)
    costs nothing.

    Args:
        log_q: log-probabilities of shape (..., K), such as a log_softmax; as PyTorch's.
        p: the distributions that they should be, in the same shape.
        reduction: over the samples.
        weight: factors of the single summands, broadcast to the shape of log_q.

    Raises:
        ValueError: the shapes differ, p is no distribution, or the reduction is unknown.
    """
    p = _target(log_q, p, "p")
    if hasattr(type(p), "_interpret"):
        log_p = rules.log(p)
    else:
        p = _distributions(p, "p")
        log_p = np.log(np.where(p > 0.0, p, 1.0))
    return _reduce(rules.azmul(p, log_p - log_q), reduction, weight)


def cross_entropy(
    o: Any,
    y: Any,
    reduction: Reduction = "mean",
    *,
    weight: Any = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
) -> Any:
    """Softmax cross-entropy, `-Σ_i y_i log ŷ_i` with ŷ = softmax(o), from the logits o.

    Its derivative by o is ŷ - y. It is finite for every o.

    Args:
        o: logits of shape (..., K).
        y: the class of each sample, integers of shape (...); or distributions of shape (..., K).
        reduction: over the samples.
        weight: a factor for each class, shape (K,): then `-Σ_i w_i y_i log ŷ_i`. A mean still
            divides by the number of samples (PyTorch's by the sum of the classes' weights).
        label_smoothing: ε in [0, 1): each y becomes (1 - ε) y + ε/K (Szegedy et al. 2016). It may
            be a node, such as an argument of a compiled function.
        ignore_index: samples of this class are left out, and not counted in a mean.

    Raises:
        ValueError: the shapes do not fit, a class is not in 0 ... K-1, a distribution has a
            negative entry or does not sum to 1, all samples are left out of a mean, or an option
            is out of its range.
        TypeError: o is not a Tensor or an array of Values.
    """
    if ignore_index is not None:
        integer(ignore_index, "ignore_index")
    shape = _shape(o)
    if not isinstance(o, (Tensor, Values)) or not shape:
        raise TypeError(f"o: expected a Tensor or Values of shape (..., K), got {shown(o)}")
    y, counted = _rows(o, y, ignore_index)
    if _is_single_node(label_smoothing) or fraction(label_smoothing, "label_smoothing", "[0, 1)"):
        even = label_smoothing / shape[-1]
        y = (1.0 - label_smoothing) * y + (even if counted is None else even * counted)
    if weight is not None:
        y = y * _weight(weight, o, shape[-1:])
    samples = None if counted is None else counted.sum()
    # A class that cannot be (o = -inf) and is not (y = 0) costs nothing: the product is azmul.
    log_likelihood = rules.azmul(y, array_rules.log_softmax(o, -1))
    return _reduce(log_likelihood, reduction, factor=-1.0, samples=samples)


def _array(y: Any) -> Any:
    try:
        return np.asanyarray(y)
    except Exception:  # ragged lists, and whatever an object of another library may raise
        raise wrong_kind("y", "integer classes or distributions", y) from None


def _rows(o: Any, y: Any, ignore_index: int | None) -> tuple[Any, Any]:
    """A distribution for each sample, and which samples count, (..., 1); None for all."""
    given = y
    shape, dtype = _shape(o), getattr(o, "dtype", None) if isinstance(o, Tensor) else None
    if isinstance(y, (Tensor, Values)):
        if y.requires_grad:
            raise ValueError(
                f"y: a target that requires a gradient gets none here; detach() it; got {shown(y)}"
            )
        y = y if _is_recorded(y) else y.data
    if not _is_recorded(y):
        y = _array(y)
    if y.dtype.kind in "iu" and y.shape == shape[:-1]:
        return _one_hot(y, shape[-1], dtype, ignore_index)
    if y.shape != shape:
        raise ValueError(
            f"y: expected integer classes of shape {shape[:-1]} or distributions of shape {shape}, "
            f"got {shown(given)} of {y.dtype}, shape {y.shape}"
        )
    if ignore_index is not None:
        raise ValueError(
            f"ignore_index: it needs classes, not distributions; got {shown(ignore_index)}"
        )
    return y if _is_recorded(y) else _distributions(as_array(y, "y", dtype), "y"), None


def _one_hot(y: Any, classes: int, dtype: Any, ignore_index: int | None) -> tuple[Any, Any]:
    """Classes as rows with a one, or zeros where they are left out; and which ones count."""
    if ignore_index is None:
        return array_rules.one_hot(y, classes, dtype), None
    if 0 <= ignore_index < classes:
        rows = array_rules.one_hot(y, classes, dtype)
        rows = rows * (np.arange(classes) != ignore_index).astype(dtype or np.float64)
        return rows, rows.sum(-1, keepdims=True)
    if _is_recorded(y):
        raise ValueError(
            f"ignore_index: a compiled function needs one in 0 ... {classes - 1}, "
            f"got {ignore_index}"
        )
    counted = (y != ignore_index)[..., None].astype(dtype or np.float64)
    return array_rules.one_hot(np.where(counted[..., 0], y, 0), classes, dtype) * counted, counted


def weight_decay(parameters: Iterable[Any], strength: float) -> Any:
    """The L2 penalty `½ strength Σ W²` over the weight matrices; biases are left free.

    Args:
        parameters: of a module; those with fewer than two axes are taken to be biases.
        strength: the factor λ; a number, or a node, such as an argument of a compiled function.

    Raises:
        ValueError: there is no weight matrix.
    """
    listed = several(parameters, "parameters", "parameters")
    for p in listed:
        instance(p, "parameters", (Tensor, Values, Value), "Tensors or Values")
    if not _is_single_node(strength):
        strength = finite(strength, "strength")
    squares = [array_rules.sum(rules.square(p)) for p in listed if len(_shape(p)) >= 2]
    if not squares:
        given = ", ".join(shown(p) for p in listed[:2])
        raise ValueError(f"parameters: expected at least one weight matrix, got {given or 'none'}")
    total = squares[0]
    for square in squares[1:]:
        total = total + square
    return (0.5 * strength) * total


def _reduce(
    losses: Any,
    reduction: Reduction,
    weight: Any = None,
    factor: float = 1.0,
    samples: Any = None,
) -> Any:
    """The losses of single outputs, summed per sample and reduced over the samples.

    `samples` is their number, where not all count.
    """
    choice(reduction, "reduction", ("mean", "sum", "none"))
    if weight is not None:
        losses = losses * _weight(weight, losses, _shape(losses))
    if isinstance(losses, Value):
        return losses if factor == 1.0 else factor * losses
    if reduction == "none" and losses.ndim:
        total = array_rules.sum(losses, -1)
    else:
        if reduction == "mean":
            if samples is None:
                samples = math.prod(losses.shape[:-1])
            if not _is_recorded(samples):
                if not samples:
                    raise ValueError("reduction: there is no mean over no samples")
                samples = float(samples)
            factor = factor / samples
        if type(factor) is not float:  # a number that is being recorded
            return array_rules.sum(losses) * factor
        if factor != 1.0:
            return array_rules.scaled_sum(losses, factor)
        total = array_rules.sum(losses)
    return total if factor == 1.0 else factor * total


def _weight(weight: Any, losses: Any, shape: tuple[int, ...]) -> Any:
    """Factors, after a look at them: of a shape that broadcasts to the one given."""
    if hasattr(type(weight), "_interpret"):
        return weight
    numbers = as_array(weight, "weight", losses.dtype if isinstance(losses, Tensor) else None)
    if not ((numbers >= 0.0) & (numbers < np.inf)).all():
        raise out_of_range("weight", "numbers that are not negative", weight)
    fits = len(numbers.shape) <= len(shape) and all(
        n in (1, m) for n, m in zip(numbers.shape[::-1], shape[::-1], strict=False)
    )
    if not fits:
        raise ValueError(
            f"weight: expected a shape that broadcasts to {shape}, got {numbers.shape}"
        )
    return numbers if numbers.ndim else numbers.item()


def _target(a: Any, y: Any, what: str = "y", first: str = "a") -> Any:
    """The target, after a look at its shape: a broadcast here is nearly always a mistake."""
    if not isinstance(a, (Value, Tensor, Values)):
        raise TypeError(f"{first}: expected a Value, a Tensor or Values first, got {shown(a)}")
    if not isinstance(y, (Value, Tensor, Values)) and not _is_recorded(y):
        y = as_array(y, what, getattr(a, "dtype", None) if isinstance(a, Tensor) else None)
        if np.isnan(y).any():
            raise ValueError(f"{what}: expected numbers, got nan among them")
    if _shape(a) != _shape(y):
        raise ValueError(f"{what}: expected shape {_shape(a)}, got {_shape(y)}")
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


def _distributions(y: Any, what: str) -> Any:
    """y, after a look at whether each row is a distribution."""
    if not np.allclose(_probabilities(y, what).sum(-1), 1.0, atol=1e-6):
        raise ValueError(
            f"{what}: expected distributions, each with sum 1, got {y.sum(-1).ravel()[:3]} ...; "
            f"classes are integers of shape {y.shape[:-1]}"
        )
    return y


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(getattr(x, "shape", ()))


def _is_single_node(x: Any) -> bool:
    """Whether x is a node of a single number, which has no float yet where it is recorded."""
    return hasattr(type(x), "_interpret") and not _shape(x)
