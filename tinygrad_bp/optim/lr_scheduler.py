"""Schedules: the learning rate as a function of the number of steps.

Each schedule is a function `at(t, lr)`: the rate after t steps, of one that is `lr` without it.
That makes them compose: one after another (`SequentialLR`), or one of the other
(`ChainedScheduler`). Names, settings and rates are PyTorch's.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tinygrad_bp.arguments import at_least_zero, instance, integer, out_of_range, real, several
from tinygrad_bp.interrupts import write
from tinygrad_bp.optim.optimizer import Optimizer


class LRScheduler:
    """Sets the learning rate of every group; `step()` goes on by one.

    Args:
        optimizer: whose rates to set. A group's rate when its first schedule is made is the one
            that all its schedules start from ("initial_lr").

    Attributes:
        last_epoch: the number of steps so far. Whether these are epochs or updates is decided by
            where `step()` is called.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        instance(optimizer, "optimizer", Optimizer, "an Optimizer")
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.base_lrs: list[float]
        self.last_epoch: int
        self._go_to(0, [group["initial_lr"] for group in optimizer.param_groups])

    def at(self, t: int, lr: float) -> float:
        """The rate after t steps, of one that is `lr` without a schedule."""
        raise NotImplementedError

    def step(self) -> None:
        """Go on by one, and set the rates; if it is interrupted, both or neither."""
        self._go_to(self.last_epoch + 1, self.base_lrs)

    def get_last_lr(self) -> list[float]:
        """The rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What a later run needs to go on."""
        return {"last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict()`, and set the rates.

        Raises:
            ValueError: it does not fit; then nothing is changed.
        """
        if not isinstance(state, Mapping) or state.keys() != {"last_epoch", "base_lrs"}:
            raise out_of_range("state", "a dict of 'last_epoch' and 'base_lrs'", state)
        t, rates = _count(state["last_epoch"], "last_epoch", 0), list(state["base_lrs"])
        if len(rates) != len(self.base_lrs):
            raise ValueError(f"base_lrs: expected {len(self.base_lrs)} rates, got {len(rates)}")
        self._go_to(t, [at_least_zero(rate, "base_lrs") for rate in rates])

    def _go_to(self, t: int, base_lrs: list[float]) -> None:
        pairs = zip(self.optimizer.param_groups, base_lrs, strict=True)
        rates = [(dict.__setitem__, group, "lr", self.at(t, lr)) for group, lr in pairs]
        write([*rates, (vars(self).update, {"last_epoch": t, "base_lrs": base_lrs})])


class StepLR(LRScheduler):
    """The rate times `gamma` after every `step_size` steps.

    Args:
        optimizer: see `LRScheduler`.
        step_size: at least 1.
        gamma: not negative.
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size = _count(step_size, "step_size")
        self.gamma = at_least_zero(gamma, "gamma")
        super().__init__(optimizer)

    def at(self, t: int, lr: float) -> float:
        """`lr gamma^⌊t / step_size⌋`."""
        t, lr = _checked(t, lr)
        return lr * self.gamma ** (t // self.step_size)


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from the rate down to `eta_min` (Loshchilov & Hutter 2017, equation 5).

    After T_max steps it goes up again, as PyTorch's does.

    Args:
        optimizer: see `LRScheduler`.
        T_max: the number of steps down, at least 1.
        eta_min: the smallest rate.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.T_max = _count(T_max, "T_max")
        self.eta_min = at_least_zero(eta_min, "eta_min")
        super().__init__(optimizer)

    def at(self, t: int, lr: float) -> float:
        """`eta_min + ½ (lr - eta_min)(1 + cos(π t / T_max))`."""
        t, lr = _checked(t, lr)
        height = 0.5 * (1.0 + math.cos(math.pi * t / self.T_max))
        return self.eta_min + (lr - self.eta_min) * height


class LinearLR(LRScheduler):
    """A straight line between two multiples of the rate: a warm-up, if the first is the smaller.

    Args:
        optimizer: see `LRScheduler`.
        start_factor, end_factor: the multiples, not negative.
        total_iters: the number of steps from one to the other, at least 1; later ones stay there.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3.0,
        end_factor: float = 1.0,
        total_iters: int = 5,
    ) -> None:
        self.start_factor = at_least_zero(start_factor, "start_factor")
        self.end_factor = at_least_zero(end_factor, "end_factor")
        self.total_iters = _count(total_iters, "total_iters")
        super().__init__(optimizer)

    def at(self, t: int, lr: float) -> float:
        """`lr (start + (end - start) min(1, t / total_iters))`."""
        t, lr = _checked(t, lr)
        way = min(1.0, t / self.total_iters)
        return lr * (self.start_factor + (self.end_factor - self.start_factor) * way)


class SequentialLR(LRScheduler):
    """One schedule after another: a warm-up and then a cosine.

    Args:
        optimizer: see `LRScheduler`.
        schedulers: made for the same optimiser, in order.
        milestones: the numbers of steps after which the next one starts, from its own 0;
            increasing, and one fewer than there are schedules.

    Example:
        >>> optimizer = tb.optim.SGD([Value(1.0)], lr=0.1)
        >>> warm_up = LinearLR(optimizer, 0.5, total_iters=2)
        >>> schedule = SequentialLR(optimizer, [warm_up, CosineAnnealingLR(optimizer, 4)], [2])
        >>> for t in range(5):
        ...     print(round(optimizer.lr, 4))
        ...     schedule.step()
        0.05
        0.075
        0.1
        0.0854
        0.05
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
    ) -> None:
        self.schedulers = _of_one(schedulers, optimizer)
        listed = several(milestones, "milestones", "numbers of steps")
        self.milestones = [_count(m, "milestones") for m in listed]
        if len(self.milestones) != len(self.schedulers) - 1:
            raise ValueError(
                f"milestones: expected {len(self.schedulers) - 1}, got {len(self.milestones)}"
            )
        if sorted(set(self.milestones)) != self.milestones:
            raise ValueError(f"milestones: expected increasing numbers, got {self.milestones}")
        super().__init__(optimizer)

    def at(self, t: int, lr: float) -> float:
        """The rate of the schedule whose turn it is."""
        t, lr = _checked(t, lr)
        k = bisect.bisect_right(self.milestones, t)
        return self.schedulers[k].at(t - (self.milestones[k - 1] if k else 0), lr)


class ChainedScheduler(LRScheduler):
    """Several schedules at once: each of the rate that the one before gives.

    Args:
        schedulers: made for the same optimiser.
        optimizer: which; that of the first, if it is left out.
    """

    def __init__(
        self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None
    ) -> None:
        if optimizer is None and isinstance(schedulers, (list, tuple)) and schedulers:
            optimizer = getattr(schedulers[0], "optimizer", None)
        self.schedulers = _of_one(schedulers, optimizer)
        super().__init__(self.schedulers[0].optimizer)

    def at(self, t: int, lr: float) -> float:
        """The schedules' functions, one of the other."""
        t, lr = _checked(t, lr)
        for scheduler in self.schedulers:
            lr = scheduler.at(t, lr)
        return lr


def _of_one(schedulers: Sequence[LRScheduler], optimizer: Optimizer | None) -> list[LRScheduler]:
    if not isinstance(schedulers, (list, tuple)) or not schedulers:
        raise out_of_range("schedulers", "a list of at least one", schedulers)
    for i, scheduler in enumerate(schedulers):
        instance(scheduler, f"schedulers[{i}]", LRScheduler, "a schedule")
    instance(optimizer, "optimizer", Optimizer, "an Optimizer")
    for i, scheduler in enumerate(schedulers):
        if scheduler.optimizer is not optimizer:
            raise out_of_range(
                f"schedulers[{i}]", "a schedule made for the same optimizer", scheduler
            )
    return list(schedulers)


def _count(x: Any, what: str, least: int = 1) -> int:
    return integer(x, what, least)


def _checked(t: Any, lr: Any) -> tuple[int, float]:
    return integer(t, "t", 0), real(lr, "lr")
