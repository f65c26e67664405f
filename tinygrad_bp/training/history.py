"""What a training has to show: numbers by epoch, and the rule by which it stops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinygrad_bp.arguments import out_of_range, real
from tinygrad_bp.arrays import integers
from tinygrad_bp.inputs import as_array
from tinygrad_bp.scalars import Values
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.text import clean


class History(dict[str, NDArray[np.float64]]):
    """The numbers of every epoch: arrays of shape (epochs,), by name.

    "loss" is the mean over the epoch's samples, each as it was when its turn came; "lr" the first
    group's learning rate; "val_loss" and "val_..." are those of the validation data at the epoch's
    end.

    Attributes:
        best_epoch: the epoch, from 1, whose parameters early stopping holds best; or None.
        stopped: whether the training ended before the last epoch.
    """

    def __init__(
        self,
        columns: Mapping[str, ArrayLike],
        best_epoch: int | None = None,
        stopped: bool = False,
    ) -> None:
        super().__init__({name: np.array(x, np.float64) for name, x in columns.items()})
        self.best_epoch = best_epoch
        self.stopped = stopped

    @property
    def epochs(self) -> int:
        """How many epochs there are."""
        return max(map(len, self.values()), default=0)

    def __repr__(self) -> str:
        """A table of the first and the last epochs, and the best."""
        rows = range(self.epochs)
        shown = [*rows] if len(rows) <= 10 else [*rows[:3], None, *rows[-6:]]
        table = [["epoch", *map(clean, self)]]
        for i in shown:
            numbers = ["…"] * len(self) if i is None else [f"{x[i]:.4g}" for x in self.values()]
            table.append(["…" if i is None else str(i + 1), *numbers])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(map(str.rjust, row, widths)) for row in table]
        if self.best_epoch is not None:
            lines.append(f"best: epoch {self.best_epoch}" + ", stopped" * self.stopped)
        return "\n".join(lines)


class EarlyStopping(NamedTuple):
    """Stop when a number has not improved for some epochs.

    Attributes:
        patience: how many epochs without improvement are borne, at least 1.
        monitor: the number's name in the `History`.
        min_delta: by how much it has to improve, to count.
        mode: whether "min" or "max" is better.
        restore_best: whether the model ends up with the parameters of its best epoch.
    """

    patience: int
    monitor: str = "val_loss"
    min_delta: float = 0.0
    mode: Literal["min", "max"] = "min"
    restore_best: bool = True

    def improves(self, number: float, best: float | None) -> bool:
        """Whether a number is better than the best so far."""
        real(number, "number")
        if best is None or real(best, "best") != best:
            return True
        gain = best - number if self.mode == "min" else number - best
        return gain > self.min_delta


def accuracy(outputs: Any, labels: Any) -> float:
    """The share of samples whose largest output is that of their class.

    Args:
        outputs: shape (..., K): one number per class.
        labels: the classes, integers of shape (...).

    Raises:
        ValueError: the shapes do not fit, there is nothing, or the labels are no integers.
    """
    is_node = isinstance(outputs, (Tensor, Values))
    outputs = outputs.data if is_node else as_array(outputs, "outputs")
    try:
        labels = integers(labels, "labels")
    except TypeError:
        shape = outputs.shape[:-1]
        raise out_of_range("labels", f"integers of shape {shape}", labels) from None
    if not outputs.ndim or outputs.shape[:-1] != labels.shape:
        raise ValueError(
            f"labels: expected integers of shape {outputs.shape[:-1]}, for outputs of shape "
            f"{outputs.shape}, got {labels.dtype} of shape {labels.shape}"
        )
    if not labels.size:
        raise ValueError("labels: expected at least one sample, got none")
    return float((outputs.argmax(-1) == labels).mean())
