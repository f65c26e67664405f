"""Recurrent layers: cells run along whole sequences, stacked, and in both directions.

A layer adds no mathematics to its cells: it is `unroll`, called once per cell. Sequences of
unequal length are padded to one array. Past a sequence's end a mask keeps the state as it is and
puts zeros in the place of the padding, so that nothing in the padding can reach a value or a
gradient, be it nan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.arguments import choice, flag, shown, wrong_kind
from tinygrad_bp.array_rules import broadcast_to, concatenate, stack
from tinygrad_bp.nn import init
from tinygrad_bp.nn.feedforward import Activation, check_sizes
from tinygrad_bp.nn.masks import Mask, masked, padding_mask
from tinygrad_bp.nn.module import Module
from tinygrad_bp.nn.recurrent import GRUCell, LSTMCell, RNNCell, unroll
from tinygrad_bp.nn.regularization import Dropout
from tinygrad_bp.recording import scope
from tinygrad_bp.rules import where
from tinygrad_bp.tensor import Tensor


class Options(TypedDict, total=False):
    """What RNN, LSTM and GRU have in common, see `RecurrentLayer`."""

    layers: int
    bidirectional: bool
    dropout: float
    outputs: Literal["all", "last"]
    learn_initial_state: bool


class RecurrentLayer(Module):
    """Cells along a sequence: what `RNN`, `LSTM` and `GRU` have in common.

    Args:
        make_cell: a new cell, given its number of inputs.
        inputs, hidden: the numbers of features of the inputs and of each state.
        parts: the names of the parts of a cell's state.
        rng: draws what dropout leaves out.
        layers: how many cells stand above one another, each reading the states of that below.
        bidirectional: whether each has a second one that runs from the last step to the first;
            the states of the two are joined, that of the first in front.
        dropout: the share of the states that is left out between layers, in training.
        outputs: "all" steps' states of the top layer, or the "last" state of each sequence (and in
            the reverse direction, that of its first step).
        learn_initial_state: whether the states before the first step are parameters, which start
            at zero, instead of zeros.

    Attributes:
        cells: from the lowest to the top one.
        reverse_cells: those which run backwards; empty without.
        h0, c0: the learned initial states, of shape (layers · directions, hidden); or None.
    """

    cells: list[Any]

    def __init__(
        self,
        make_cell: Callable[[int], Any],
        inputs: int,
        hidden: int,
        parts: Sequence[str],
        *,
        rng: np.random.Generator,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        outputs: Literal["all", "last"] = "all",
        learn_initial_state: bool = False,
    ) -> None:
        check_sizes(inputs=inputs, hidden=hidden, layers=layers)
        choice(outputs, "outputs", ("all", "last"))
        flag(bidirectional, "bidirectional")
        flag(learn_initial_state, "learn_initial_state")
        directions = 2 if bidirectional else 1
        widths = [inputs] + [directions * hidden] * (layers - 1)
        self.cells = [make_cell(width) for width in widths]
        self.reverse_cells = [make_cell(width) for width in widths] if bidirectional else []
        for cells, suffix in ((self.cells, ""), (self.reverse_cells, "_reverse")):
            for i, cell in enumerate(cells, 1):
                for parameter in cell.parameters():
                    parameter.label += (str(i) if layers > 1 else "") + suffix
        shape, dtype = (layers * directions, hidden), self.cells[0].W.dtype
        for part in parts:
            start = Tensor(np.zeros(shape), f"{part}0", dtype=dtype)
            setattr(self, f"{part}0", start if learn_initial_state else None)
        self.parts = tuple(parts)
        self.dropout = Dropout(dropout, rng=rng)
        self.outputs = outputs

    def forward(
        self, xs: Any, state: Any = None, lengths: Sequence[int] | NDArray[Any] | None = None
    ) -> tuple[Any, Any]:
        """Run along sequences.

        Args:
            xs: shape (time, batch, inputs), or (time, inputs) for a single sequence; or a list of
                the steps.
            state: before the first step, of shape (layers · directions, batch, hidden), with the
                directions of a layer next to each other; of an LSTM the pair (h, c) of these. If
                not given, the learned one, or zeros.
            lengths: how many steps of each sequence count, shape (batch,); all, if not given. Plain
                numbers: a compiled function is recorded for these lengths.

        Returns:
            The outputs, (time, batch, directions · hidden), zero past a sequence's end; or without
            time where only the last is asked for. And the states after the last step that counts,
            in the shape of `state`.

        Raises:
            TypeError, ValueError: xs, state or lengths do not have these shapes, or a length is
                not in 1 ... time.
        """
        steps, batch = _steps(xs)
        masks = _masks(lengths, len(steps), batch)
        starts = self._starts(state, batch)
        directions = [self.cells, self.reverse_cells] if self.reverse_cells else [self.cells]
        ends: list[tuple[Any, ...]] = []
        for i in range(len(self.cells)):
            if i and self.dropout.active:
                steps = [self.dropout(h) for h in steps]
            runs = []
            for k, cells in enumerate(directions):
                with scope(f"{'reverse' if k else 'layer'}{i + 1}"):
                    run = _run(cells[i], steps, masks, starts[len(ends)], reverse=k == 1)
                runs.append([parts[0] for parts in run])
                ends.append(run[0 if k else -1])
            steps = [_joined(hs) for hs in zip(*runs, strict=True)]
        if self.outputs == "all":
            outputs = stack([masked(mask, h, 0.0) for mask, h in zip(masks, steps, strict=True)])
        else:
            outputs = _joined([end[0] for end in ends[-len(directions) :]])
        last = tuple(stack(part) for part in zip(*ends, strict=True))
        return outputs, last if len(last) > 1 else last[0]

    def _starts(self, state: Any, batch: tuple[int, ...]) -> list[Any]:
        """For each cell the state before its first step."""
        count, hidden = len(self.cells) + len(self.reverse_cells), self.cells[0].W.shape[0]
        if state is None and getattr(self, f"{self.parts[0]}0") is None:
            return [cell.initial_state(*batch) for cell in self.cells + self.reverse_cells]
        if state is None:
            learned = [getattr(self, f"{part}0") for part in self.parts]
            rows = [[broadcast_to(x[k], (*batch, hidden)) for x in learned] for k in range(count)]
        else:
            given = [state] if len(self.parts) == 1 else state
            _check_state(given, self.parts, (count, *batch, hidden))
            rows = [[x[k] for x in given] for k in range(count)]
        return [tuple(row) if len(row) > 1 else row[0] for row in rows]


def _check_state(state: Any, parts: tuple[str, ...], expected: tuple[int, ...]) -> None:
    """Raise TypeError or ValueError for what is not a state of a layer."""
    if not isinstance(state, (tuple, list)) or len(state) != len(parts):
        raise wrong_kind("state", f"({', '.join(parts)})", state)
    for part, x in zip(parts, state, strict=True):
        if not hasattr(x, "shape"):
            raise wrong_kind(f"state: {part}", "a Tensor or an array", x)
        if tuple(x.shape) != expected:
            raise ValueError(
                f"state: expected {part} of shape {expected}, that is (layers · directions, batch, "
                f"hidden), got {tuple(x.shape)}"
            )


def _run(
    cell: Any, steps: list[Any], masks: list[Mask | None], start: Any, reverse: bool
) -> list[tuple[Any, ...]]:
    """The states of a cell along the steps, as tuples of their parts; kept where masked."""

    def masked_cell(step: tuple[Any, Mask | None], state: Any) -> Any:
        x, mask = step
        if mask is None:
            return cell(x, state)
        new = cell(masked(mask, x, 0.0), state)
        if isinstance(new, tuple):
            return tuple(where(mask, a, b) for a, b in zip(new, state, strict=True))
        return where(mask, new, state)

    states = unroll(masked_cell, list(zip(steps, masks, strict=True)), start, reverse=reverse)
    return [state if isinstance(state, tuple) else (state,) for state in states]


def _joined(states: Sequence[Any]) -> Any:
    """The states of the directions next to each other."""
    return states[0] if len(states) == 1 else concatenate(list(states), -1)


def _steps(xs: Any) -> tuple[list[Any], tuple[int, ...]]:
    """The steps of a sequence, and the shape of its batch."""
    if isinstance(xs, (list, tuple)):
        shapes = {tuple(getattr(x, "shape", ())) for x in xs}
        if len(shapes) > 1:
            raise ValueError(
                f"xs: the steps have the shapes {sorted(shapes)[:2]} ...; pad sequences of unequal "
                "length by nn.pad_sequences, and give their lengths"
            )
        shape = (len(xs), *shapes.pop()) if shapes else (0, 0)
    else:
        shape = tuple(getattr(xs, "shape", ()))
    if len(shape) not in (2, 3) or not hasattr(xs, "__getitem__"):
        given = f", {shape}" if shape else ""
        raise ValueError(
            "xs: expected shape (time, batch, features) or (time, features), got "
            f"{shown(xs)}{given}"
        )
    if 0 in shape:
        raise ValueError(
            f"xs: expected at least one step, sample and feature, got {shown(xs)}, shape {shape}"
        )
    return _cut(xs, shape[0]), shape[1:-1]


def _cut(xs: Any, steps: int) -> list[Any]:
    """xs[0], xs[1], ...

    The gradient of a slice is as large as what it was cut from. Cut into blocks first and these
    into steps, all of them together cost as √steps times that of xs, and not steps times.
    """
    if isinstance(xs, (list, tuple)) or not getattr(xs, "requires_grad", False):
        return [xs[t] for t in range(steps)]
    size = math.isqrt(steps)
    blocks = [xs[t : t + size] for t in range(0, steps, size)]
    return [block[t] for block in blocks for t in range(block.shape[0])]


def _masks(lengths: Any, steps: int, batch: tuple[int, ...]) -> list[Mask | None]:
    """For each step, which sequences have not ended: (batch, 1); None where none has."""
    if lengths is None:
        return [None] * steps
    counts = padding_mask(lengths, steps, batch)
    return [None if now.all() else now[:, None] for now in counts.T]


class RNN(RecurrentLayer):
    """`RNNCell`s along a sequence: `outputs, h = rnn(xs)`.

    Args:
        inputs, hidden, rng, activation, recurrent, dtype: as of `RNNCell`.
        options: layers, bidirectional, dropout, outputs, learn_initial_state: as of
            `RecurrentLayer`.

    Example:
        >>> outputs, h = RNN(3, 5, rng=0)(np.zeros((7, 2, 3)))
        >>> outputs.shape, h.shape
        ((7, 2, 5), (1, 2, 5))
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        *,
        rng: np.random.Generator | int,
        activation: str | Activation = "tanh",
        recurrent: init.Initializer = init.xavier,
        dtype: Any = np.float64,
        **options: Unpack[Options],
    ) -> None:
        rng = init.generator(rng)

        def cell(width: int) -> RNNCell:
            return RNNCell(
                width, hidden, rng=rng, activation=activation, recurrent=recurrent, dtype=dtype
            )

        super().__init__(cell, inputs, hidden, ["h"], rng=rng, **options)


class LSTM(RecurrentLayer):
    """`LSTMCell`s along a sequence: `outputs, (h, c) = lstm(xs)`.

    Args:
        inputs, hidden, rng, recurrent, forget_bias, dtype: as of `LSTMCell`.
        options: layers, bidirectional, dropout, outputs, learn_initial_state: as of
            `RecurrentLayer`.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        *,
        rng: np.random.Generator | int,
        recurrent: init.Initializer = init.xavier,
        forget_bias: float = 1.0,
        dtype: Any = np.float64,
        **options: Unpack[Options],
    ) -> None:
        rng = init.generator(rng)

        def cell(width: int) -> LSTMCell:
            return LSTMCell(
                width, hidden, rng=rng, recurrent=recurrent, forget_bias=forget_bias, dtype=dtype
            )

        super().__init__(cell, inputs, hidden, ["h", "c"], rng=rng, **options)


class GRU(RecurrentLayer):
    """`GRUCell`s along a sequence: `outputs, h = gru(xs)`.

    Args:
        inputs, hidden, rng, recurrent, dtype: as of `GRUCell`.
        options: layers, bidirectional, dropout, outputs, learn_initial_state: as of
            `RecurrentLayer`.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        *,
        rng: np.random.Generator | int,
        recurrent: init.Initializer = init.xavier,
        dtype: Any = np.float64,
        **options: Unpack[Options],
    ) -> None:
        rng = init.generator(rng)

        def cell(width: int) -> GRUCell:
            return GRUCell(width, hidden, rng=rng, recurrent=recurrent, dtype=dtype)

        super().__init__(cell, inputs, hidden, ["h"], rng=rng, **options)
