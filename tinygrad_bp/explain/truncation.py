"""Truncated back-propagation through time: which terms it keeps, and what it drops.

Three different things go by the name. Each keeps other cells of the table over the times t of the
losses and the steps k of the uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.arguments import is_integer, out_of_range, wrong_kind
from tinygrad_bp.explain.quantities import Array
from tinygrad_bp.explain.tables import Shown, Table
from tinygrad_bp.text import number

if TYPE_CHECKING:
    from tinygrad_bp.explain.through_time import ThroughTime


class Truncation(Shown):
    """What a truncated back-propagation through time keeps of the gradient.

    Attributes:
        title: which terms are kept, in words.
        mask: which cells are kept, shape (times, steps).
        kept: the sum of the kept terms: the truncated gradient.
        dropped: the sum of the others; `kept + dropped` is the gradient.
    """

    __slots__ = ("_table", "dropped", "kept", "mask", "title")

    def __init__(self, table: ThroughTime, title: str, mask: NDArray[np.bool_]) -> None:
        self._table = table
        self.title = title
        self.mask: NDArray[np.bool_] = mask & table.mask
        self.kept: Array = table.sum(self.mask)
        self.dropped: Array = table.sum(table.mask & ~mask)

    @property
    def whole(self) -> ThroughTime:
        """The table whose cells are kept or dropped."""
        return self._table

    @property
    def cosine(self) -> float:
        """The cosine of the angle between the truncated gradient and the whole."""
        kept, whole = self.kept.ravel(), (self.kept + self.dropped).ravel()
        with np.errstate(all="ignore"):
            return float(kept @ whole / (np.linalg.norm(kept) * np.linalg.norm(whole)))

    def table(self) -> Table:
        """The norms of the kept cells; those of the dropped ones in brackets."""
        table = self._table
        whole = table.table()
        notes = [
            f"kept {int(self.mask.sum())} of {int(table.mask.sum())} terms: "
            f"‖kept‖ = {number(_norm(self.kept))}, ‖dropped‖ = {number(_norm(self.dropped))}, "
            f"cosine with the whole gradient {number(self.cosine)}"
        ]
        title = f"‖∂L(t)/∂{table.name} via step k‖, {self.title}"
        if len(whole.columns) != len(table.steps) + 1 or len(whole.rows) != len(table.times):
            return self._by_lag(title, notes)
        rows: list[tuple[Any, ...]] = []
        for t, norms, there, kept in zip(
            table.times, table.norms, table.mask, self.mask, strict=True
        ):
            pairs = zip(norms, there, kept, strict=True)
            cells = [(number(n) if k else f"({number(n)})") if is_ else "" for n, is_, k in pairs]
            rows.append((t, *cells))
        return Table(title, whole.columns, rows, notes)

    def _by_lag(self, title: str, notes: list[str]) -> Table:
        lags, rows = self._table.lags, []
        for lag in np.unique(lags[self._table.mask]):
            cells = self._table.mask & (lags == lag)
            norms = self._table.norms[cells]
            rows.append((int(lag), int(cells.sum()), int(self.mask[cells].sum()), norms.mean()))
        return Table(title, ["lag t - k", "terms", "kept", "mean norm"], rows, notes)

    def text(self) -> str:
        return self.table().text()

    def html(self) -> str:
        return self.table().html()


def _norm(x: Array) -> float:
    return float(np.linalg.norm(x))


def sliding(table: ThroughTime, k: int) -> tuple[str, NDArray[np.bool_]]:
    """The cells with a lag of less than k."""
    k = _count(k, "k")
    return f"a sliding window: lags below {k}", table.lags < k


def blocks(table: ThroughTime, k: int) -> tuple[str, NDArray[np.bool_]]:
    """The cells whose t and k lie in the same block of so many steps."""
    k = _count(k, "k")
    times, steps = _since_first(table)
    return f"in blocks of {k}: t and k in the same", times[:, None] // k == steps[None, :] // k


def updates(table: ThroughTime, k1: int, k2: int) -> tuple[str, NDArray[np.bool_]]:
    """The cells that an update after every k1 steps takes in, which looks back k2 steps."""
    k1, k2 = _count(k1, "k1"), _count(k2, "k2")
    times, steps = _since_first(table)
    # The update that learns from time t; the last one comes when the sequence ends.
    update = np.minimum((times // k1 + 1) * k1 - 1, times.max(initial=0))
    title = f"an update every {k1} steps that reaches back {k2} from there"
    return title, steps[None, :] > update[:, None] - k2


def _since_first(table: ThroughTime) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    first = min((*table.times, *table.steps))
    return np.array(table.times, int) - first, np.array(table.steps, int) - first


def _count(k: Any, what: str) -> int:
    if not is_integer(k):
        raise wrong_kind(what, "a number of steps", k)
    if k < 1:
        raise out_of_range(what, "at least one step", k)
    return int(min(k, 2**31))  # as good as all
