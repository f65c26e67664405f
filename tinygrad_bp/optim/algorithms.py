"""The optimisers: each is one formula, from a gradient g to the new numbers of x.

Settings, defaults and what is remembered have PyTorch's names, and the steps are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from tinygrad_bp.arguments import at_least_zero, flag, fraction, positive
from tinygrad_bp.optim.optimizer import Check, Group, Optimizer, State, two_fractions


class SGD(Optimizer):
    """Gradient descent, `x -= lr * v` with `v = momentum * v + g` (Polyak 1964).

    Args:
        parameters, lr: see `Optimizer`; lr is the learning rate.
        momentum: in [0, 1); 0 is plain gradient descent.
        dampening: in [0, 1); v takes `(1 - dampening) * g`, but the first g whole.
        weight_decay: λ; g takes `λ x`, the derivative of ½ λ x².
        nesterov: whether the step is `g + momentum * v`, the gradient looked for one step ahead
            (Nesterov 1983; Sutskever et al. 2013).

    Raises:
        ValueError: nesterov without momentum, or with dampening.
    """

    checks: ClassVar[dict[str, Check]] = {
        "lr": at_least_zero,
        "momentum": fraction,
        "dampening": fraction,
        "weight_decay": at_least_zero,
        "nesterov": flag,
    }
    buffers = ("momentum_buffer",)

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(
            parameters,
            lr=positive(lr, "lr"),
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
        )

    def _checked(self, settings: Any) -> dict[str, Any]:
        checked = super()._checked(settings)
        if checked.get("nesterov") and (not checked["momentum"] or checked["dampening"]):
            raise ValueError("nesterov: expected momentum, and no dampening")
        return checked

    def _update(self, x: Any, g: Any, state: State, group: Group) -> tuple[Any, State]:
        g = _decayed(g, x, group)
        momentum = group["momentum"]
        if not momentum:
            return x - group["lr"] * g, state
        v = state.get("momentum_buffer")
        # The first is a copy: whoever holds the gradient may write to it.
        v = 1.0 * g if v is None else momentum * v + (1.0 - group["dampening"]) * g
        step = g + momentum * v if group["nesterov"] else v
        return x - group["lr"] * step, {"momentum_buffer": v}


class RMSprop(Optimizer):
    """The gradient over the root of the running mean of its square (Tieleman & Hinton 2012).

    Args:
        parameters, lr: see `Optimizer`; lr is the learning rate.
        alpha: how much of the running mean is kept at each step, in [0, 1).
        eps: added to the denominator.
        weight_decay: λ; g takes `λ x`.
        momentum: in [0, 1), of the steps.
        centered: whether the mean's square is subtracted, which leaves the variance (Graves 2013,
            equations 38 to 45).
    """

    checks: ClassVar[dict[str, Check]] = {
        "lr": at_least_zero,
        "alpha": fraction,
        "eps": positive,
        "weight_decay": at_least_zero,
        "momentum": fraction,
        "centered": flag,
    }
    buffers = ("square_avg", "grad_avg", "momentum_buffer")

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        super().__init__(
            parameters,
            lr=positive(lr, "lr"),
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
        )

    def _update(self, x: Any, g: Any, state: State, group: Group) -> tuple[Any, State]:
        g, alpha = _decayed(g, x, group), group["alpha"]
        new = {"square_avg": _running(state.get("square_avg", 0.0), g * g, alpha)}
        spread = new["square_avg"]
        if group["centered"]:
            mean = new["grad_avg"] = _running(state.get("grad_avg", 0.0), g, alpha)
            spread = np.maximum(spread - mean * mean, 0.0)  # below zero by rounding alone
        step = g / (np.sqrt(spread) + group["eps"])
        if group["momentum"]:
            step = group["momentum"] * state.get("momentum_buffer", 0.0) + step
            new["momentum_buffer"] = step
        return x - group["lr"] * step, new


class Adam(Optimizer):
    """Adam: the mean of the gradient over the root of the mean of its square (Kingma & Ba 2015).

    Args:
        parameters, lr: see `Optimizer`; lr is the learning rate.
        betas: how much of the two running means is kept at each step, each in [0, 1).
        eps: added to the denominator.
        weight_decay: λ; g takes `λ x`, so that the decay is divided by the root as well. `AdamW`
            decays apart.
    """

    checks: ClassVar[dict[str, Check]] = {
        "lr": at_least_zero,
        "betas": two_fractions,
        "eps": positive,
        "weight_decay": at_least_zero,
    }
    buffers = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            parameters, lr=positive(lr, "lr"), betas=betas, eps=eps, weight_decay=weight_decay
        )

    def _update(self, x: Any, g: Any, state: State, group: Group) -> tuple[Any, State]:
        return self._adam(x, _decayed(g, x, group), state, group)

    def _adam(self, x: Any, g: Any, state: State, group: Group) -> tuple[Any, State]:
        first, second = group["betas"]
        t = state.get("step", 0) + 1
        mean = _running(state.get("exp_avg", 0.0), g, first)
        square = _running(state.get("exp_avg_sq", 0.0), g * g, second)
        # The means start at zero; dividing by what they have seen so far undoes that bias.
        root = np.sqrt(square / (1.0 - second**t))
        root += group["eps"]
        step = mean / root
        step *= group["lr"] / (1.0 - first**t)
        return x - step, {"step": t, "exp_avg": mean, "exp_avg_sq": square}


class AdamW(Adam):
    """Adam with weight decay apart from the gradient, `x -= lr λ x` (Loshchilov & Hutter 2019).

    Args:
        parameters, lr, betas, eps: see `Adam`.
        weight_decay: λ.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay)

    def _update(self, x: Any, g: Any, state: State, group: Group) -> tuple[Any, State]:
        return self._adam(x * (1.0 - group["lr"] * group["weight_decay"]), g, state, group)


def _decayed(g: Any, x: Any, group: Group) -> Any:
    return g + group["weight_decay"] * x if group["weight_decay"] else g


def _running(mean: Any, new: Any, kept: float) -> Any:
    result = (1.0 - kept) * new  # a new array, which the sum may be written to
    result += kept * mean
    return result
