"""What `fit` is given: looked at once, before anything happens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.nn.module import Module
from tinygrad_bp.nn.regularization import Dropout
from tinygrad_bp.optim import Optimizer
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.training.history import EarlyStopping

Arrays = tuple[NDArray[Any], ...]
Loss = Callable[[Any, Any], Any]
Metric = Callable[[NDArray[Any], NDArray[Any]], float]


class Plan(NamedTuple):
    """The arguments of `fit` that say what happens in an epoch, checked."""

    data: Arrays
    loss: Loss
    batch_size: int
    validation: Arrays | None
    metrics: dict[str, Metric]
    stopping: EarlyStopping | None
    scheduler_per: str
    clip_norm: float | None
    callbacks: list[Any]
    compiled: bool

    @property
    def samples(self) -> int:
        """The number of samples to learn from."""
        return len(self.data[0])

    @property
    def batches(self) -> int:
        """The number of batches in an epoch."""
        return -(-self.samples // self.batch_size)

    @property
    def columns(self) -> list[str]:
        """The names of the numbers of an epoch."""
        validated = [] if self.validation is None else ["loss", *self.metrics]
        return ["loss", "lr", *(f"val_{name}" for name in validated)]


def check_trained(model: Any, optimizer: Any, scheduler: Any, compiled: bool) -> None:
    """Look at who is to be trained, and by whom."""
    if not isinstance(model, Module):
        raise TypeError(f"model: expected a Module, got {type(model).__name__}")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer: expected an Optimizer, got {type(optimizer).__name__}")
    if scheduler is not None and getattr(scheduler, "optimizer", None) is not optimizer:
        raise ValueError("scheduler: expected a schedule of the optimizer that is given")
    if compiled and any(isinstance(m, Dropout) and m.p > 0.0 for m in model.modules()):
        raise ValueError("compiled: a record would leave out the same numbers at every step")


def check_plan(plan: Plan) -> None:
    """Look at what the parts of a plan say of one another."""
    check_count(plan.batch_size, "batch_size", 1)
    if plan.scheduler_per not in ("epoch", "batch"):
        raise ValueError(f"scheduler_per: expected 'epoch' or 'batch', got {plan.scheduler_per!r}")
    if plan.metrics and plan.validation is None:
        raise ValueError("metrics: they are of the validation data, and there are none")
    if plan.stopping is not None:
        _check_stopping(plan.stopping, plan.columns)


def arrays_of(data: Iterable[Any], what: str) -> Arrays:
    """Inputs and targets as arrays, of equally many samples, all finite."""
    if isinstance(data, (np.ndarray, Tensor, Mapping, str)) or not isinstance(data, Iterable):
        raise TypeError(f"{what}: expected arrays (x, y), got {type(data).__name__}")
    arrays = tuple(np.asarray(part) for part in data)
    if len(arrays) < 2:
        raise ValueError(f"{what}: expected inputs and targets, got {len(arrays)} array")
    for i, array in enumerate(arrays):
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{what}[{i}]: expected numbers, got an array of {array.dtype}")
        if array.ndim == 0 or len(array) == 0:
            raise ValueError(f"{what}[{i}]: expected samples, got an array of shape {array.shape}")
        if len(array) != len(arrays[0]):
            raise ValueError(
                f"{what}[{i}]: expected {len(arrays[0])} samples, as in the first, got {len(array)}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            sample = int(np.argwhere(~np.isfinite(array))[0][0])
            raise ValueError(f"{what}[{i}]: sample {sample} has nan or infinity")
    return arrays


def named_metrics(metrics: Mapping[str, Metric] | Iterable[Metric]) -> dict[str, Metric]:
    """Metrics by name."""
    if isinstance(metrics, Mapping):
        found = dict(metrics)
    else:
        found = {getattr(f, "__name__", type(f).__name__): f for f in metrics}
    for name, metric in found.items():
        if not callable(metric):
            raise TypeError(f"metrics: {name!r}: expected a function, got {metric!r}")
    return found


def stopping_of(given: EarlyStopping | int | None) -> EarlyStopping | None:
    """When to stop; a number is the patience."""
    return given if given is None or isinstance(given, EarlyStopping) else EarlyStopping(given)


def _check_stopping(stopping: EarlyStopping, columns: list[str]) -> None:
    check_count(stopping.patience, "early_stopping: patience", 1)
    if stopping.monitor not in columns:
        raise ValueError(
            f"early_stopping: there is no {stopping.monitor!r} to monitor; there are "
            f"{', '.join(columns)}"
        )
    if stopping.mode not in ("min", "max"):
        raise ValueError(f"early_stopping: expected 'min' or 'max', got {stopping.mode!r}")


def check_count(x: Any, what: str, least: int) -> None:
    """Look whether x is an integer of at least `least`."""
    if not isinstance(x, (int, np.integer)) or isinstance(x, bool) or x < least:
        raise ValueError(f"{what}: expected an integer of at least {least}, got {x!r}")
