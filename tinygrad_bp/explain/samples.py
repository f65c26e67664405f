"""The shares of single samples in a contribution.

A pullback is linear, so the contribution of a batch is the sum, over its samples, of the pullback
applied to that sample's part of the upstream gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_bp.explain.quantities import Array, Quantity
from tinygrad_bp.explain.uses import Contribution, uses_in
from tinygrad_bp.graph import Node, Step
from tinygrad_bp.rules import Rule

Batch = int | Callable[[Contribution], int | None] | None
_Parts = tuple[Array | None, Array | None]
_JOINING = ("concatenate", "stack")


class Samples:
    """Where the samples are in every use of a node.

    Attributes:
        count: how many samples there are.
        notes: which uses are of no single sample.
    """

    def __init__(
        self, quantity: Quantity, uses: Sequence[Contribution], steps: Sequence[Step], batch: Batch
    ) -> None:
        if quantity.elements is not None or not hasattr(quantity.nodes[0], "shape"):
            raise ValueError(
                "batch: a use of a Value is that of one sample already; there is no axis to name"
            )
        self.batch = batch
        self.on_the_way = _on_the_way(quantity.nodes[0], steps) if is_axis(batch) else {}
        self._parts: dict[Node, _Parts] | None = None
        self._with_samples: set[Node] | None = None
        every = [*uses, *(use for inner in self.on_the_way.values() for use in inner)]
        ends = [use for use in every if use.node not in self.on_the_way]
        axes = [self.axis(end) for end in ends]
        counts: dict[int, Contribution] = {}
        for end, axis in zip(ends, axes, strict=True):
            if axis is not None:
                counts.setdefault(end.upstream.shape[axis], end)
        _check_counts(counts, bool(uses), batch)
        self.count = next(iter(counts), 0)
        others = dict.fromkeys(use.operation for use in uses if not self._has_samples(use))
        self.notes = [f"of no single sample: {', '.join(others)}"] if others else []

    def axis(self, use: Contribution) -> int | None:
        """The axis of the samples in the upstream gradient of a use."""
        ndim = np.ndim(use.upstream)
        if not callable(self.batch):
            axis = self.batch
            return axis if axis is not None and -ndim <= axis < ndim else None
        axis = self.batch(use)
        if axis is None:
            return None
        if not is_axis(axis) or not -ndim <= axis < ndim:
            raise ValueError(
                f"batch: expected an axis of {ndim} or None for {use.operation or use.node.rule}, "
                f"got {axis!r}"
            )
        return axis

    def _has_samples(self, use: Contribution) -> bool:
        if self._with_samples is None:
            self._with_samples = set()
            for node, inner in self.on_the_way.items():
                if any(map(self._has_samples, inner)):
                    self._with_samples.add(node)
        return use.node in self._with_samples or (
            use.node not in self.on_the_way and self.axis(use) is not None
        )

    def split(self, use: Contribution) -> _Parts:
        """What of a contribution belongs to each sample, shape (samples, ...), and what to none."""
        if use.node in self.on_the_way:
            if self._parts is None:
                self._parts = self._of_inner()
            shares, rest = self._parts[use.node]
            with np.errstate(all="ignore"):
                mapped = None if shares is None else np.stack([use.local * g for g in shares])
                return mapped, None if rest is None else use.local * rest
        axis = self.axis(use)
        if axis is None:
            return None, use.contribution
        return _shares(use, axis), None

    def _of_inner(self) -> dict[Node, _Parts]:
        """The same for the gradients of the nodes on the way, from the loss down."""
        self._parts = {}
        for node, uses in self.on_the_way.items():
            parts = [self.split(use) for use in uses]
            self._parts[node] = (_sum(p[0] for p in parts), _sum(p[1] for p in parts))
        return self._parts


def _shares(use: Contribution, axis: int) -> Array:
    shares = []
    at: list[Any] = [slice(None)] * use.upstream.ndim
    with np.errstate(all="ignore"):
        for i in range(use.upstream.shape[axis]):
            at[axis] = i
            alone = np.zeros_like(use.upstream)
            alone[tuple(at)] = use.upstream[tuple(at)]
            shares.append(use.local * alone)
    return np.array(shares)


def _sum(parts: Any) -> Array | None:
    total = None
    for part in parts:
        if part is not None:
            total = part if total is None else total + part
    return total


def is_axis(x: Any) -> bool:
    """Whether x is the number of an axis."""
    return isinstance(x, (int, np.integer)) and not isinstance(x, bool)


def _check_counts(counts: dict[int, Contribution], used: bool, batch: Batch) -> None:
    if len(counts) > 1:
        (m, a), (n, b) = sorted(counts.items(), key=lambda item: item[0])[:2]
        raise ValueError(
            f"batch: {a.node.rule.name} has {m} samples along its axis, {b.node.rule.name} {n}; "
            "give a function of the use: its axis, or None for a use of no single sample"
        )
    if used and not counts:
        raise ValueError(
            f"batch: no use has samples along {batch!r}; give a function from the use to the axis "
            "of its upstream gradient"
        )


def _on_the_way(parameter: Node, steps: Sequence[Step]) -> dict[Node, list[Contribution]]:
    """The nodes computed from a leaf alone, such as `W.T`, from the loss down, with their uses.

    Samples come in where it meets something else. (An inner node has its samples itself.)
    """
    found: set[Node] = set()
    if parameter.rule is None:
        for step in reversed(steps):
            if _is_computed_from(step.node, parameter, found):
                found.add(step.node)
    uses: dict[Node, list[Contribution]] = {}
    for step in steps:
        if step.node in found:
            uses[step.node] = []
    for step in steps:
        for use, parent in uses_in(step, found):
            uses[parent].append(use)
    return uses


def _is_computed_from(node: Any, parameter: Node, found: set[Node]) -> bool:
    if node.rule is None:
        return False
    mine = [x for x in node.operands if isinstance(x, Node) and (x is parameter or x in found)]
    if not mine or node.rule.name in _JOINING:
        return bool(mine)
    shape = mine[0].shape  # type: ignore[attr-defined]
    same = isinstance(node.rule, Rule) and node.shape == shape
    for x in node.operands:
        is_constant = not isinstance(x, Node) or not x.requires_grad
        if is_constant:
            serves = same or np.size(getattr(x, "_array", x)) == 1
        else:
            serves = x is parameter or x in found or (same and x.is_leaf)
        if not serves:
            return False
    return True
