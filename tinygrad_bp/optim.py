"""Optimisers: what to do with a gradient.

Gradients are computed by `backward()`; an optimiser only uses them. The parameters may be Tensors,
arrays of Values, or single Values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tinygrad_bp.scalars import Values
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.value import Value


class Optimizer:
    """Parameters and a learning rate; `step()` moves each against its gradient.

    Args:
        parameters: leaves, such as `model.parameters()`.
        lr: the learning rate, positive; it may be changed between steps.

    Raises:
        TypeError: a parameter is not a tracked leaf.
        ValueError: there are no parameters, or lr is not positive.
    """

    def __init__(self, parameters: Iterable[Any], lr: float) -> None:
        if not isinstance(parameters, Iterable):
            kind = type(parameters).__name__
            raise TypeError(f"parameters: expected leaves, as model.parameters() gives, got {kind}")
        self.parameters = list(parameters)
        if not self.parameters:
            raise ValueError("parameters: expected at least one, got none")
        for i, p in enumerate(self.parameters):
            leaf = isinstance(p, (Tensor, Values, Value)) and p.is_leaf and p.requires_grad
            if not leaf:
                raise TypeError(f"parameters[{i}]: expected a tracked leaf, got {type(p).__name__}")
        if len({id(p) for p in self.parameters}) < len(self.parameters):
            raise ValueError("parameters: one is given twice, and would be moved twice")
        self.lr = _positive(lr, "lr")

    def zero_grad(self) -> None:
        """Forget every parameter's gradient."""
        for p in self.parameters:
            p.zero_grad()

    def step(self) -> None:
        """Move every parameter that has a gradient; those without are left alone."""
        if not all(p.is_leaf for p in self.parameters):
            raise TypeError("a parameter is a leaf no longer: an element of it was computed")
        for i, p in enumerate(self.parameters):
            gradient = _gradient(p)
            if gradient is not None:
                _set(p, _numbers(p) - self._update(i, gradient))

    def _update(self, i: int, gradient: Any) -> Any:
        """What to subtract from parameter number i."""
        raise NotImplementedError


class SGD(Optimizer):
    """Gradient descent, `p -= lr * v` with `v = momentum * v + gradient` (Polyak 1964).

    Args:
        parameters, lr: see `Optimizer`.
        momentum: in [0, 1); 0 is plain gradient descent.
    """

    def __init__(self, parameters: Iterable[Any], lr: float, momentum: float = 0.0) -> None:
        super().__init__(parameters, lr)
        self.momentum = _fraction(momentum, "momentum")
        self.velocity: dict[int, Any] = {}

    def _update(self, i: int, gradient: Any) -> Any:
        if self.momentum:
            gradient = self.momentum * self.velocity.get(i, 0.0) + gradient
            self.velocity[i] = gradient
        return self.lr * gradient


class Adam(Optimizer):
    """Adam: the mean of the gradient over the root of the mean of its square (Kingma & Ba 2015).

    Args:
        parameters, lr: see `Optimizer`.
        betas: how much of the two running means is kept at each step, each in [0, 1).
        eps: added to the denominator.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, lr)
        self.betas = (_fraction(betas[0], "betas[0]"), _fraction(betas[1], "betas[1]"))
        self.eps = _positive(eps, "eps")
        self.means: dict[int, Any] = {}
        self.squares: dict[int, Any] = {}
        self.steps: dict[int, int] = {}

    def _update(self, i: int, gradient: Any) -> Any:
        first, second = self.betas
        t = self.steps[i] = self.steps.get(i, 0) + 1
        mean = self.means[i] = first * self.means.get(i, 0.0) + (1.0 - first) * gradient
        square = self.squares[i] = (
            second * self.squares.get(i, 0.0) + (1.0 - second) * gradient * gradient
        )
        # The means start at zero; dividing by what they have seen so far undoes that bias.
        root = np.sqrt(square / (1.0 - second**t)) + self.eps
        return (self.lr / (1.0 - first**t)) * mean / root


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
    _positive(max_norm, "max_norm")
    if isinstance(parameters, (Tensor, Values, Value)):
        parameters = [parameters]
    parameters = list({id(p): p for p in parameters}.values())  # each once
    graded = [(p, g) for p in parameters if (g := _gradient(p)) is not None]
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
        for p, g in graded:
            p.grad = g / norm * max_norm
    return norm


def _gradient(p: Any) -> Any:
    # A Tensor's own slot: reading it spares the copy that `.grad` makes for whoever may write.
    return p._grad if isinstance(p, Tensor) else p.grad


def _numbers(p: Any) -> Any:
    return p._array if isinstance(p, Tensor) else p.data


def _set(p: Any, numbers: Any) -> None:
    if isinstance(p, Value):
        p.data = float(numbers)
    else:
        p._replace(
            np.asarray(numbers, getattr(p, "dtype", None)) if isinstance(p, Tensor) else numbers
        )


def _positive(x: float, what: str) -> float:
    if not x > 0.0:
        raise ValueError(f"{what}: expected a positive number, got {x!r}")
    return float(x)


def _fraction(x: float, what: str) -> float:
    if not 0.0 <= x < 1.0:
        raise ValueError(f"{what}: expected a number in [0, 1), got {x!r}")
    return float(x)
