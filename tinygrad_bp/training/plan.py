"""What `fit` is given: looked at once, before anything happens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.arguments import (
    choice,
    finite,
    flag,
    function,
    integer,
    out_of_range,
    positive,
    several,
    shown,
    wrong_kind,
)
from tinygrad_bp.nn.module import Module
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
        raise wrong_kind("model", "a Module", model)
    if not isinstance(optimizer, Optimizer):
        raise wrong_kind("optimizer", "an Optimizer", optimizer)
    if scheduler is not None and getattr(scheduler, "optimizer", None) is not optimizer:
        raise out_of_range("scheduler", "a schedule of the optimizer that is given", scheduler)
    flag(compiled, "compiled")


def check_plan(plan: Plan) -> None:
    """Look at what the parts of a plan say of one another."""
    integer(plan.batch_size, "batch_size", 1)
    choice(plan.scheduler_per, "scheduler_per", ("epoch", "batch"))
    function(plan.loss, "loss")
    if plan.clip_norm is not None:
        positive(plan.clip_norm, "clip_norm")
    if plan.metrics and plan.validation is None:
        raise ValueError("metrics: they are of the validation data, and there are none")
    if plan.stopping is not None:
        _check_stopping(plan.stopping, plan.columns)


def arrays_of(data: Iterable[Any], what: str) -> Arrays:
    """Inputs and targets as arrays, of equally many samples, all finite."""
    if isinstance(data, Tensor) or hasattr(type(data), "__array__"):
        raise wrong_kind(what, "arrays (x, y)", data)
    parts = several(data, what, "arrays (x, y)")
    arrays = tuple(_array(part, what) for part in parts)
    if len(arrays) < 2:
        raise ValueError(f"{what}: expected inputs and targets, got {shown(data)}")
    for i, array in enumerate(arrays):
        if array.dtype.kind not in "fiub":
            raise wrong_kind(f"{what}[{i}]", "numbers", parts[i])
        if array.ndim == 0 or len(array) == 0:
            raise out_of_range(f"{what}[{i}]", "samples", parts[i])
        if len(array) != len(arrays[0]):
            raise ValueError(
                f"{what}[{i}]: expected {len(arrays[0])} samples, as in the first, got {len(array)}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            sample = int(np.argwhere(~np.isfinite(array))[0][0])
            raise ValueError(f"{what}[{i}]: sample {sample} has nan or infinity")
    return arrays


def _array(x: Any, what: str) -> Any:
    try:
        return np.asarray(x)
    except Exception:  # ragged lists, and whatever an object of another library may raise
        raise wrong_kind(what, "arrays (x, y)", x) from None


def named_metrics(metrics: Mapping[str, Metric] | Iterable[Metric]) -> dict[str, Metric]:
    """Metrics by name."""
    if isinstance(metrics, Mapping):
        found = dict(metrics)
    else:
        listed = several(metrics, "metrics", "functions")
        found = {getattr(f, "__name__", type(f).__name__): f for f in listed}
    for metric in found.values():
        if not callable(metric):
            raise wrong_kind("metrics", "functions", metric)
    return found


def stopping_of(given: EarlyStopping | int | None) -> EarlyStopping | None:
    """When to stop; a number is the patience."""
    if given is None or isinstance(given, EarlyStopping):
        return given
    return EarlyStopping(integer(given, "early_stopping", 1))


def _check_stopping(stopping: EarlyStopping, columns: list[str]) -> None:
    integer(stopping.patience, "early_stopping: patience", 1)
    finite(stopping.min_delta, "early_stopping: min_delta")
    flag(stopping.restore_best, "early_stopping: restore_best")
    if stopping.monitor not in columns:
        raise ValueError(
            f"early_stopping: there is no {stopping.monitor!r} to monitor; there are "
            f"{', '.join(columns)}"
        )
    choice(stopping.mode, "early_stopping: mode", ("min", "max"))
