"""Back-propagation through time, as the table of which loss learns from which step.

The loss of step t reaches a shared parameter through its use at every step k ≤ t, so that
`∂L/∂W = Σ_t Σ_k ∂L(t)/∂W via step k` (Werbos 1990; Goodfellow et al. 2016, section 10.2.2). Each
term is a cell of the table; what a truncated back-propagation keeps is a set of its cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.arguments import integer, out_of_range, several
from tinygrad_bp.explain import limits
from tinygrad_bp.explain.quantities import Array, Index, Quantity, check_root, quantity_of
from tinygrad_bp.explain.states import State, is_state, states_of
from tinygrad_bp.explain.steps import LABEL_THEM, joint_order, steps_of
from tinygrad_bp.explain.tables import Shown, Table
from tinygrad_bp.explain.truncation import Truncation, blocks, sliding, updates
from tinygrad_bp.explain.uses import uses_in
from tinygrad_bp.graph import Node, sweep
from tinygrad_bp.nn.masks import mask_of

WIDEST = 12  # table that is shown cell by cell

Mask = NDArray[np.bool_]


class _Use(NamedTuple):
    """One place where the parameter (an element of it) is used: its step and local derivative."""

    column: int
    local: Any
    element: Index | None


class OverTime(Shown):
    """A table over the times t of the losses and the steps k; its cells are arrays.

    Attributes:
        times: t of each row.
        steps: k of each column.
        norms: the Euclidean norm of each cell, shape (times, steps).
        mask: which cells there are: True where L(t) depends on step k.
    """

    __slots__ = ("mask", "name", "norms", "steps", "times")

    name: str
    times: tuple[int, ...]
    steps: tuple[int, ...]
    norms: Array
    mask: Mask

    @property
    def lags(self) -> NDArray[np.int_]:
        """t - k of each cell."""
        t, k = np.array(self.times, int), np.array(self.steps, int)
        lags: NDArray[np.int_] = t[:, None] - k[None, :]
        return lags

    def __getitem__(self, cell: tuple[int, int]) -> Array:
        """The cell at time t and step k; zero where L(t) does not depend on step k.

        Raises:
            KeyError: there is no such time or step.
        """
        if not isinstance(cell, tuple) or len(cell) != 2:
            raise KeyError(f"expected a time and a step, table[t, k], got {cell!r}")
        t, k = cell
        if t not in self.times or k not in self.steps:
            raise KeyError(
                f"expected a time in {_range(self.times)} and a step in {_range(self.steps)}, "
                f"got {t!r}, {k!r}"
            )
        return self._cell(self.times.index(t), self.steps.index(k))

    def _cell(self, row: int, column: int) -> Array:
        raise NotImplementedError

    def table(self) -> Table:
        """The norms as a `Table`: cell by cell, or for long sequences by lag."""
        if max(self.norms.shape, default=0) > WIDEST:
            return self._by_lag()
        title = f"‖{self._what()}‖: the loss of time t down, the step k across"
        rows = [
            (t, *(n if there else None for n, there in zip(norms, mask, strict=True)))
            for t, norms, mask in zip(self.times, self.norms, self.mask, strict=True)
        ]
        return Table(title, ["t \\ k", *map(str, self.steps)], rows)

    def _by_lag(self) -> Table:
        lags, rows = self.lags, []
        for lag in np.unique(lags[self.mask]):
            norms = self.norms[self.mask & (lags == lag)]
            rows.append((int(lag), len(norms), norms.min(), norms.mean(), norms.max()))
        columns = ["lag t - k", "cells", "smallest", "mean", "largest"]
        return Table(f"‖{self._what()}‖ by lag", columns, rows)

    def _what(self) -> str:
        raise NotImplementedError

    def text(self) -> str:
        return self.table().text()

    def html(self) -> str:
        return self.table().html()


class ThroughTime(OverTime):
    """∂L(t)/∂W via its use at step k, for every t and k.

    `table[t, k]` is a cell, in the shape of W.
    """

    __slots__ = ("_dtype", "_rows", "_shape", "_uses")

    def __init__(self, quantity: Quantity, times: Sequence[int]) -> None:
        self.name = quantity.name or "the parameter"
        self.times = tuple(times)
        self._shape = quantity.shape
        self._dtype = getattr(quantity.nodes[0], "dtype", np.dtype(np.float64))
        self._uses: list[_Use] = []
        self._rows: list[list[tuple[int, Any]]] = []  # per loss: number of a use, upstream

    def sum(self, mask: Any) -> Array:
        """The sum of the cells where the mask is True; shape of the mask: (times, steps)."""
        expected = f"truth values of shape {self.norms.shape}"
        given, mask = mask, mask_of(mask)
        if mask is None or mask.shape != self.norms.shape or mask.dtype != bool:
            raise out_of_range("mask", expected, given)
        upstream: dict[int, Any] = {}
        for row, kept in zip(self._rows, mask, strict=True):
            for number, g in row:
                if kept[self._uses[number].column]:
                    sofar = upstream.get(number)
                    upstream[number] = g if sofar is None else sofar + g
        total = np.zeros(self._shape, self._dtype)
        with np.errstate(all="ignore"):
            for number, g in upstream.items():
                use = self._uses[number]
                total[... if use.element is None else use.element] += use.local * g
        return total

    @property
    def total(self) -> Array:
        """The gradient of the sum of all losses."""
        return self.sum(self.mask)

    def by_loss(self) -> dict[int, Array]:
        """The gradient of each loss: the sum over k, by t."""
        rows = np.arange(len(self.times))
        return {t: self.sum(self.mask & (rows == i)[:, None]) for i, t in enumerate(self.times)}

    def by_use(self) -> dict[int, Array]:
        """What the use at each step contributes to the gradient of all losses: the sum over t."""
        columns = np.arange(len(self.steps))
        return {k: self.sum(self.mask & (columns == i)) for i, k in enumerate(self.steps)}

    def by_lag(self) -> dict[int, Array]:
        """What comes from so many steps back: the sum over the cells with t - k = lag."""
        lags = self.lags
        return {int(lag): self.sum(self.mask & (lags == lag)) for lag in np.unique(lags[self.mask])}

    def sliding(self, k: int) -> Truncation:
        """A window that slides: each loss reaches k steps, its own and the k - 1 before."""
        return Truncation(self, *sliding(self, k))

    def blocks(self, k: int) -> Truncation:
        """`detach` after every k steps: a loss reaches the steps of its own block."""
        return Truncation(self, *blocks(self, k))

    def k1k2(self, k1: int, k2: int) -> Truncation:
        """TBPTT(k1, k2): after every k1 steps, their losses reach back k2 steps from there.

        (Williams & Peng 1990.) States are those of the recorded run: none is computed again with
        parameters that an update has changed.
        """
        return Truncation(self, *updates(self, k1, k2))

    def _cell(self, row: int, column: int) -> Array:
        mask = np.zeros_like(self.mask)
        mask[row, column] = True
        return self.sum(mask)

    def _what(self) -> str:
        return f"∂L(t)/∂{self.name} via step k"


class StatesThroughTime(OverTime):
    """∂L(t)/∂h(k) for every t and k: `table[t, k]`, in the shape of h.

    The parts of a state that is a tuple, as an LSTM's (h, c), stand side by side, on the last axis.
    """

    __slots__ = ("_cells", "_zeros")

    def __init__(self, states: Sequence[State], times: Sequence[int]) -> None:
        self.name = states[0].symbol
        self.times = tuple(times)
        self.steps = tuple(state.step for state in states)
        self._cells: dict[tuple[int, int], Array] = {}
        self._zeros = [state.array({}) for state in states]

    def by_state(self) -> dict[int, Array]:
        """δ(k), the derivative of the sum of all losses by each state: the sum over t."""
        return {
            k: sum((self._cell(i, j) for i in range(len(self.times))), self._zeros[j])
            for j, k in enumerate(self.steps)
        }

    def _cell(self, row: int, column: int) -> Array:
        return np.array(self._cells.get((row, column), self._zeros[column]))

    def _what(self) -> str:
        return f"∂L(t)/∂{self.name}(k)"


def through_time(losses: Sequence[Any], parameter: Any, times: Sequence[int] | None = None) -> Any:
    """The table over (loss time t, use time k) of back-propagation through time.

    Steps are known from the scopes of `nn.unroll`, from `with tb.scope("step", t):`, or from labels
    such as `h(3)`.

    Args:
        losses: the loss of each step, L(1) ... L(τ): Values or Tensors, each a single number. No
            `.grad` is written.
        parameter: a Tensor, a Value or an array of Values that is used at several steps; or the
            list of the states h(1) ... h(τ), each of these or, for an LSTM, a tuple (h, c).
        times: the time of each loss, where the graph does not say it.

    Returns:
        For a parameter a `ThroughTime`, for states a `StatesThroughTime`.

    Raises:
        TypeError: losses is no list, or something in it no Value or Tensor.
        ValueError: a loss or the parameter requires no gradient; a loss is not a single number; the
            time step of a loss or of a use cannot be known, or two have the same; or the table
            would hold more than `limits.MOST_NUMBERS` numbers.
    """
    roots = _roots(losses)
    order = joint_order(roots)
    steps = steps_of(order)
    found = _times(roots, steps, times)
    if is_state(parameter):
        return _table_of_states(roots, found, states_of(parameter, "parameter", steps))
    return _table_of_uses(roots, found, quantity_of(parameter, "parameter"), steps)


def _table_of_uses(
    roots: Sequence[Node], times: Sequence[int], quantity: Quantity, steps: dict[Node, int]
) -> ThroughTime:
    table = ThroughTime(quantity, times)
    collected = _Uses(quantity, steps)
    cells = [collected.add(root) for root in roots]
    table.steps = tuple(sorted({step for step, _, _ in collected.uses}))
    column = {step: j for j, step in enumerate(table.steps)}
    table._rows = collected.rows
    table._uses = [_Use(column[step], local, element) for step, local, element in collected.uses]
    _set_norms(table, [{column[step]: n for step, n in row.items()} for row in cells])
    return table


class _Uses:
    """The uses of a parameter by several losses, which share most of them.

    Attributes:
        uses: of each its step, local derivative and element.
        rows: for each loss, the numbers of its uses, each with the upstream gradient.
    """

    def __init__(self, quantity: Quantity, steps: dict[Node, int]) -> None:
        self.name, self.shape = quantity.name or "the parameter", quantity.shape
        self.elements = dict(zip(quantity.nodes, quantity.elements or [None], strict=False))
        self.steps = steps
        self.numbers: dict[tuple[Node, int], int] = {}
        self.uses: list[tuple[int, Any, Index | None]] = []
        self.rows: list[list[tuple[int, Any]]] = []
        self.held = 0

    def add(self, root: Node) -> dict[int, float]:
        """Sweep from one more loss; the norm of its contribution from each step."""
        row: list[tuple[int, Any]] = []
        cells: dict[int, Any] = {}
        for visit in sweep(root):
            for use, parent in uses_in(visit, self.elements):
                step, element = self._step(use.node), self.elements[parent]
                number = self.numbers.setdefault((use.node, use.operand), len(self.uses))
                if number == len(self.uses):
                    self.uses.append((step, use.local, element))
                row.append((number, use.upstream))
                self.held += np.size(use.upstream)
                if element is not None:
                    cells.setdefault(step, np.zeros(self.shape))[element] += use.contribution
                else:
                    c = use.contribution
                    cells[step] = cells[step] + c if step in cells else c
        _check_size(self.held)
        self.rows.append(row)
        return {step: _norm(cell) for step, cell in cells.items()}

    def _step(self, node: Node) -> int:
        if node not in self.steps:
            raise ValueError(
                f"the time step of a use of {self.name} in {node.rule.name} is not known: "
                f"{LABEL_THEM}"
            )
        return self.steps[node]


def _norm(x: Any) -> float:
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(np.asarray(x, np.float64)))


def _table_of_states(
    roots: Sequence[Node], times: Sequence[int], states: Sequence[State]
) -> StatesThroughTime:
    table = StatesThroughTime(states, times)
    wanted = {node for state in states for node in state.nodes}
    norms, held = [], 0
    for i, root in enumerate(roots):
        gradients = {s.node: s.gradient for s in sweep(root) if s.node in wanted}
        row = {}
        for j, state in enumerate(states):
            if any(node in gradients for node in state.nodes):
                cell = table._cells[i, j] = state.array(gradients)
                row[j] = _norm(cell)
                held += cell.size
        _check_size(held)
        norms.append(row)
    _set_norms(table, norms)
    return table


def _set_norms(table: OverTime, rows: Sequence[dict[int, float]]) -> None:
    table.norms = np.zeros((len(table.times), len(table.steps)))
    table.mask = np.zeros(table.norms.shape, bool)
    for i, row in enumerate(rows):
        for j, norm in row.items():
            table.norms[i, j] = norm
            table.mask[i, j] = True


def _roots(losses: Any) -> list[Node]:
    if not isinstance(losses, (list, tuple)):
        raise TypeError(
            f"losses: expected a list, the loss of each step, got {type(losses).__name__}"
        )
    if not losses:
        raise ValueError("losses: expected at least one loss, got an empty list")
    return [check_root(loss, f"losses[{i}]") for i, loss in enumerate(losses)]


def _times(roots: Sequence[Node], steps: dict[Node, int], times: Sequence[int] | None) -> list[int]:
    if times is None:
        found = [steps.get(root) for root in roots]
        if None in found:
            raise ValueError(
                f"losses[{found.index(None)}]: the graph does not say its time step; pass "
                f"times=[...], or {LABEL_THEM}"
            )
        given: list[Any] = found
    else:
        given = [integer(t, "times") for t in several(times, "times", "time steps")]
        if len(given) != len(roots):
            raise ValueError(f"times: expected {len(roots)}, one per loss, got {len(given)}")
    times = given
    for i, t in enumerate(times):
        if t in times[:i]:
            raise ValueError(
                f"losses[{times.index(t)}] and losses[{i}] both have the time step {t}; number the "
                "steps on: nn.unroll(..., start=)"
            )
    return times


def _check_size(held: int) -> None:
    if held > limits.MOST_NUMBERS:
        raise ValueError(
            f"losses: the table would hold more than {limits.MOST_NUMBERS} numbers; take fewer "
            "steps, losses or samples"
        )


def _range(steps: Sequence[int]) -> str:
    return f"{min(steps)} ... {max(steps)}" if steps else "no steps"
