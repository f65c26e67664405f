"""Every use of a shared parameter, and what it contributes to the gradient.

A node that is used in several places may be treated as so many independent copies, whose
derivatives are then added: the product rule, back-propagation through time, attention. The sweep
does just that, so the copies' derivatives can be read from it, one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tinygrad_bp.explain.quantities import Array, Index, Quantity, check_root, quantity_of
from tinygrad_bp.explain.samples import Batch, Samples, is_axis
from tinygrad_bp.explain.tables import MOST_ROWS, Shown, Table
from tinygrad_bp.explain.uses import Contribution, describe, uses_in
from tinygrad_bp.graph import Node, Step, sweep
from tinygrad_bp.text import clean


class Contributions(Shown):
    """The contributions to a gradient, in the order of the sweep.

    Iterated and indexed, it gives each `Contribution`.

    Attributes:
        rows: each `Contribution`.
        notes: what is to be known when reading them.
    """

    __slots__ = ("_dtype", "_quantity", "_samples", "name", "notes", "rows")

    def __init__(
        self,
        quantity: Quantity,
        rows: Sequence[Contribution],
        notes: Sequence[str],
        samples: Samples | None,
    ) -> None:
        self._quantity = quantity
        self.name = quantity.name or "the node"
        self._dtype = getattr(quantity.nodes[0], "dtype", np.dtype(np.float64))
        self.rows = tuple(rows)
        self.notes = tuple(notes)
        self._samples = samples

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Contribution]:
        return iter(self.rows)

    def __getitem__(self, i: int) -> Contribution:
        return self.rows[i]

    @property
    def arrays(self) -> list[Array]:
        """The contributions, in the order of the sweep; of an element as a number."""
        return [np.array(row.contribution) for row in self.rows]

    @property
    def total(self) -> Array:
        """Their sum in the order of the sweep, which is the gradient, bit for bit.

        (Of a parameter with hooks, before they see it.)
        """
        return self._sum(self.rows)

    def by_step(self) -> dict[int | None, Array]:
        """The sum of the contributions of each time step; None stands for uses of no step."""
        groups: dict[int | None, list[Contribution]] = defaultdict(list)
        for row in self.rows:
            groups[row.step].append(row)
        steps = sorted(groups, key=lambda step: (step is None, step or 0))
        return {step: self._sum(groups[step]) for step in steps}

    def by_sample(self) -> Array:
        """Each sample's share of the gradient, shape (samples, *shape): summed over the uses.

        What belongs to no single sample, such as a penalty on the weights, is in `unshared`.

        Raises:
            ValueError: no batch axis was named.
        """
        return self._by_sample()[0]

    @property
    def unshared(self) -> Array:
        """The part of the gradient that belongs to no single sample."""
        return self._by_sample()[1]

    def _by_sample(self) -> tuple[Array, Array]:
        if self._samples is None:
            raise ValueError("by_sample: name the axis of the samples: contributions(..., batch=0)")
        shape = self._quantity.shape
        shares = np.zeros((self._samples.count, *shape), self._dtype)
        rest = np.zeros(shape, self._dtype)
        for row in self.rows:
            of_row, of_none = self._samples.split(row)
            shares = shares if of_row is None else shares + of_row
            rest = rest if of_none is None else rest + of_none
        return shares, rest

    def _sum(self, rows: Iterable[Contribution]) -> Array:
        sums: dict[Index | None, Any] = {}
        with np.errstate(all="ignore"):
            for row in rows:
                sofar = sums.get(row.element)
                sums[row.element] = row.contribution if sofar is None else sofar + row.contribution
        total = np.zeros(self._quantity.shape, self._dtype)
        for element, x in sums.items():
            total[... if element is None else element] = x
        return total

    def table(self) -> Table:
        """The rows as a `Table`; of samples, the norm of each one's share."""
        columns = ["step", "operation", "layer", "upstream", "local", "contribution"]
        rows: list[tuple[Any, ...]] = [
            (r.step, r.operation, r.layer, r.upstream, r.name, r.contribution) for r in self.rows
        ]
        if any(row.element is not None for row in self.rows):
            columns = ["element", *columns]
            rows = [(_index(r), *row) for r, row in zip(self.rows, rows, strict=True)]
        if self._samples is not None and len(rows) <= MOST_ROWS:
            columns = [*columns, "‖share‖ by sample"]
            norms = [_norms(self._samples.split(r)[0]) for r in self.rows]
            rows = [(*row, n) for row, n in zip(rows, norms, strict=True)]
        count = f"{len(self.rows)} use{'' if len(self.rows) == 1 else 's'}"
        notes = [*self.notes, f"sum: {_written(self.total)}"] if self.rows else self.notes
        return Table(f"contributions to the gradient of {self.name}: {count}", columns, rows, notes)

    def text(self) -> str:
        return self.table().text()

    def html(self) -> str:
        return self.table().html()


def _index(row: Contribution) -> str:
    return "" if row.element is None else f"[{', '.join(map(str, row.element))}]"


def _norms(shares: Array | None) -> Array | None:
    if shares is None:
        return None
    norms: Array = np.linalg.norm(shares.reshape(len(shares), -1), axis=1)
    return norms


def _written(total: Array) -> str:
    text = np.array2string(total, precision=4, threshold=24, separator=" ")
    return clean(text) if total.ndim else f"{total:.4g}"


def contributions(loss: Any, parameter: Any, batch: Batch = None) -> Contributions:
    """Every use of a shared parameter, or of any other node, with what it contributes.

    Args:
        loss: a Value or a Tensor, a single number; no `.grad` is written.
        parameter: a Tensor, a Value, or an array of Values (whose elements' uses are then listed).
        batch: the axis along which the samples lie in the values that the parameter was used to
            compute, to read each sample's share; -2 is right for (batch, features) and for (time,
            batch, features) alike. Uses on the way from the parameter (`W.T`, `W[:, :3]`, a
            penalty) are followed to the values they end in. Where that cannot serve, a function
            from each `Contribution` to its axis, or to None for a use of no single sample.

    Returns:
        The contributions, in the order of the sweep; none if the loss does not depend on the
        parameter: its gradient is zero, and a note says so.

    Raises:
        TypeError: loss or parameter is of another kind.
        ValueError: one of them requires no gradient; loss is not a single number; or the uses have
            no such axis, or different numbers of samples along it.
    """
    root = check_root(loss)
    quantity = quantity_of(parameter, "parameter")
    if batch is not None and not callable(batch) and not is_axis(batch):
        raise TypeError(f"batch: expected an axis or a function, got {type(batch).__name__}")
    elements = dict(zip(quantity.nodes, quantity.elements or [None], strict=False))
    order: list[Node] = []
    steps: list[Step] = []
    uses: list[Contribution] = []
    for step in sweep(root):
        order.append(step.node)
        if batch is not None:
            steps.append(step)
        for use, parent in uses_in(step, elements):
            use.element = elements[parent]
            uses.append(use)
    describe(uses, order[::-1])
    samples = None if batch is None else Samples(quantity, uses, steps, batch)
    for use in uses:
        use._samples = samples
    notes = [] if samples is None else samples.notes
    if not uses:
        same = "it is the loss itself" if root in elements else "the gradient is zero"
        notes = [f"the loss is not computed from {quantity.name or 'this node'}: {same}"]
    return Contributions(quantity, uses, notes, samples)
