"""Truncated back-propagation through time: a long sequence, learnt from as it goes by.

After every k1 steps the losses of these steps are back-propagated over the last k2 steps. The
states are carried on; those computed before an update are not computed again.

Each step is a graph of its own, cut off at the state it starts from. Only the last k2 are kept, and
the gradient is handed from each to the one before: the delta of E24, written out as a loop.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp import array_rules
from tinygrad_bp.arguments import count, function, wrong_kind
from tinygrad_bp.graph import commit, leaf_gradients
from tinygrad_bp.nn.module import named
from tinygrad_bp.recording import call_in_scope, is_grad_enabled, no_grad
from tinygrad_bp.scalars import Values, values
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.value import Value

Cell = Callable[[Any, Any], Any]
Loss = Callable[[Any, Any], Any]
_NODES = (Tensor, Values, Value)
_MISSING = object()


class Update(NamedTuple):
    """The gradients are there, and it is time for an update.

    Attributes:
        step: T, the number of steps so far.
        losses: those of the steps since the last update, shape (k1,); fewer at the end.
        state: the state after step T, as constants.
    """

    step: int
    losses: NDArray[np.float64]
    state: Any

    @property
    def loss(self) -> float:
        """The mean of the losses."""
        return float(self.losses.mean())


class _Step(NamedTuple):
    """The graph of one step: the leaves it starts from, its state, and its loss."""

    number: int
    before: tuple[Any, ...]
    after: tuple[Any, ...]
    loss: Any


def truncated_bptt(
    cell: Cell,
    sequence: Iterable[Any],
    k1: int,
    k2: int,
    *,
    targets: Iterable[Any],
    loss: Loss,
    state: Any,
) -> Iterator[Update]:
    """Run a cell along a sequence, and back-propagate over k2 steps after every k1.

    Each time it stops for an update, having added to the parameters' `grad`, at step T,
    `Σ_{t∈(T-k1,T]} Σ_{s∈(T-k2,t]}` of the losses' derivatives by the uses of the parameters: of the
    loss at t, through the use at s. If the sequence does not end with an update, the last losses
    get one there. With k2 < k1 the losses up to T-k2 have no terms, and teach nothing.

    It holds k2 steps at a time, however long the sequence is.

    Args:
        cell: a function `state = cell(x, state)`; a state is a node, or a tuple of nodes.
        sequence: the inputs, indexed by time: shape (time, batch, features), or anything that
            gives one x after the other.
        k1: the number of steps between updates.
        k2: the number of steps to back-propagate over.
        targets: what the loss compares with, one per step.
        loss: a function `loss(state, target)` of one step, that gives a single number.
        state: the state before the first step: arrays, or nodes. A gradient flows into it, if it
            requires one, as long as the first step is within k2.

    Yields:
        `Update`s. Between them, step the optimiser and forget the gradients.

    Raises:
        ValueError: k1 or k2 is not a positive integer, or larger than the sequence is long; there
            are more inputs than targets, or fewer; a loss is not a single number; nothing is being
            recorded.
        FloatingPointError: a loss is nan or infinite. No gradient was added for it.

    Example:
        >>> from tinygrad_bp import nn, optim
        >>> w = Value(0.5)
        >>> sgd = optim.SGD([w], lr=0.1)
        >>> for update in truncated_bptt(
        ...     lambda x, h: tb.tanh(w * h + x), [1.0, 0.0, 1.0, 0.0], 2, 3,
        ...     targets=[0.5, 0.5, 0.5, 0.5], loss=nn.squared_error, state=0.0,
        ... ):
        ...     sgd.step()
        ...     sgd.zero_grad()
        ...     print(update.step, round(update.loss, 4), round(w.data, 4))
        2 0.0218 0.509
        4 0.0296 0.5098

    Source: Williams & Peng 1990, BPTT(h; h') with h = k2 and h' = k1.
    """
    function(cell, "cell")
    function(loss, "loss")
    for name, steps in (("sequence", sequence), ("targets", targets)):
        if isinstance(steps, (str, bytes, Mapping)) or not isinstance(steps, (Iterable, Tensor)):
            raise wrong_kind(name, "a sequence of steps", steps)
    for name, k in (("k1", k1), ("k2", k2)):
        count(k, name)
        if isinstance(sequence, Sized) and k > len(sequence):
            raise ValueError(f"{name}: expected at most the sequence's {len(sequence)}, got {k}")
    if isinstance(sequence, Sized) and isinstance(targets, Sized):
        _same_length(len(sequence), len(targets))
    parts = state if isinstance(state, tuple) else (state,)
    if isinstance(state, tuple) and len(state) < 2:
        raise ValueError(f"state: expected a tuple of two parts or more, got {len(state)}")
    if not is_grad_enabled():
        raise ValueError("truncated_bptt: under no_grad() there is nothing to back-propagate")
    return _updates(cell, sequence, int(k1), int(k2), targets, loss, parts)


def _updates(
    cell: Cell,
    sequence: Iterable[Any],
    k1: int,
    k2: int,
    targets: Iterable[Any],
    loss: Loss,
    before: tuple[Any, ...],
) -> Iterator[Update]:
    window: deque[_Step] = deque(maxlen=k2)
    losses: list[float] = []
    for t, (x, y) in enumerate(_pairs(sequence, targets), 1):
        step = call_in_scope("step", t, _run, (t, cell, x, before, loss, y), {})
        window.append(step)
        losses.append(_number(step.loss, t))
        before = tuple(_leaf(h) for h in step.after)
        if t % k1 == 0:
            _back_propagate(window, k1)
            yield Update(t, np.array(losses), _state(_constants(step.after)))
            losses = []
    if losses:
        _back_propagate(window, len(losses))
        yield Update(t, np.array(losses), _state(_constants(step.after)))


def _run(t: int, cell: Cell, x: Any, before: tuple[Any, ...], loss: Loss, y: Any) -> _Step:
    state = cell(x, _state(before))
    after = state if isinstance(state, tuple) else (state,)
    if len(after) != len(before):
        raise ValueError(f"cell: expected a state of {len(before)} parts, got {len(after)}")
    for part, name in zip(after, ("h", "c"), strict=False):  # as `unroll` names them
        if isinstance(part, _NODES):
            named(part, f"{name}({t})")
        elif part is None:
            raise wrong_kind("cell", "a function that returns a state", part)
    return _Step(t, before, after, loss(state, y))


def _back_propagate(window: deque[_Step], losses: int) -> None:
    """Sweep the graphs of the window from the last to the first, for the last few losses."""
    last = window[-1].number
    arriving: list[Any] = []  # the gradient by each part of a step's state, from the steps after it
    totals: dict[Any, Any] = {}  # by leaf; added to their gradients in the end, all or none
    for step in reversed(window):
        roots = [step.loss] if step.number > last - losses else []
        # The derivative of Σ h·g by h is g: so it enters the sweep with what the loss hands down.
        roots += [
            array_rules.sum(h * g) if np.ndim(g) else h * g
            for h, g in zip(step.after, arriving, strict=False)
            if g is not None and isinstance(h, _NODES) and h.requires_grad
        ]
        roots = [root for root in roots if isinstance(root, _NODES) and root.requires_grad]
        cut = step.number > 1  # the state before the first step is the caller's
        found = leaf_gradients(sum(roots[1:], start=roots[0])) if roots else {}
        arriving = [_taken(h, found) if cut else None for h in step.before]
        with np.errstate(all="ignore"):
            for leaf, g in found.items():
                totals[leaf] = totals[leaf] + g if leaf in totals else g
    with np.errstate(all="ignore"):
        commit(totals, totals)


def _taken(h: Any, gradients: dict[Any, Any]) -> Any:
    """The gradient of a state that is a leaf, taken out of those of all leaves."""
    if isinstance(h, Values):
        each = [gradients.pop(x, None) for x in h.flat]
        if all(g is None for g in each):
            return None
        return np.array([0.0 if g is None else g for g in each]).reshape(h.shape)
    if not isinstance(h, _NODES) or h not in gradients:
        return None
    g = gradients.pop(h)
    return np.array(g) if isinstance(h, Tensor) else g


def _pairs(sequence: Iterable[Any], targets: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Inputs with their targets. numpy's arrays give their rows; Tensors too, by indexing."""
    for t, (x, y) in enumerate(zip_longest(sequence, targets, fillvalue=_MISSING)):
        if x is _MISSING or y is _MISSING:
            _same_length(t + (x is not _MISSING), t + (y is not _MISSING))
        yield x, y


def _same_length(inputs: int, targets: int) -> None:
    if inputs != targets:
        raise ValueError(f"targets: expected one for each of {inputs} steps, got {targets}")


def _number(loss: Any, t: int) -> float:
    if np.shape(getattr(loss, "data", loss)) != ():
        raise ValueError(f"loss: expected a single number at step {t}, got {str(loss)[:60]}")
    try:
        number = float(loss.data if isinstance(loss, _NODES) else loss)
    except (TypeError, ValueError):
        raise wrong_kind("loss", "a function that returns a number", loss) from None
    if not math.isfinite(number):
        raise FloatingPointError(f"loss: it is {number} at step {t}")
    return number


def _state(parts: tuple[Any, ...]) -> Any:
    return parts[0] if len(parts) == 1 else parts


def _leaf(h: Any) -> Any:
    """A new leaf of the same numbers, where a gradient comes out."""
    if isinstance(h, Values):
        return values(h.data)
    if isinstance(h, Tensor):
        return Tensor(h.data)
    return Value(h.data) if isinstance(h, Value) else h


def _constants(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    with no_grad():
        return tuple(h.detach() if isinstance(h, _NODES) else h for h in parts)
