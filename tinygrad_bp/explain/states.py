"""The state of a recurrent network at each time step, as one vector of units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygrad_bp.explain.naming import place_of
from tinygrad_bp.explain.quantities import Array, Quantity, quantity_of
from tinygrad_bp.explain.steps import LABEL_THEM, joint_order, steps_before
from tinygrad_bp.graph import Node


class State(NamedTuple):
    """The state at one time step: one quantity, or several side by side, as an LSTM's h and c.

    Attributes:
        step: its time step.
        parts: the quantities.
    """

    step: int
    parts: tuple[Quantity, ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes of the state."""
        return tuple(node for part in self.parts for node in part.nodes)

    @property
    def symbol(self) -> str:
        """What it is called, without the time step."""
        names = [part.place.symbol or "?" for part in self.parts]
        return names[0] if len(names) == 1 else f"({', '.join(names)})"

    def array(self, gradients: Mapping[Node, Any]) -> Array:
        """The derivative by the state, the parts side by side; zero where there is none."""
        arrays = [_array(part, gradients) for part in self.parts]
        return arrays[0] if len(arrays) == 1 else np.concatenate(np.atleast_1d(*arrays), -1)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the parts side by side."""
        return self.array({}).shape

    def part_of_units(self) -> Array:
        """For each unit of the state, the number of the part that it belongs to."""
        of = [np.full(part.shape, i) for i, part in enumerate(self.parts)]
        return of[0] if len(of) == 1 else np.concatenate(np.atleast_1d(*of), -1)

    def seeds(self, x: Array) -> dict[Node, Any]:
        """An array of the state's shape, as a gradient for each of its nodes; zeros left out."""
        widths = [(part.shape or (1,))[-1] for part in self.parts]
        pieces = [x] if len(self.parts) == 1 else np.split(x, np.cumsum(widths)[:-1], -1)
        seeds: dict[Node, Any] = {}
        for part, piece in zip(self.parts, pieces, strict=True):
            if part.elements is not None:
                at = zip(part.nodes, part.elements, strict=True)
                seeds.update((node, float(piece[i])) for node, i in at if piece[i])
            elif piece.any():
                node: Any = part.nodes[0]
                piece = piece.reshape(part.shape)
                seeds[node] = piece.astype(node.dtype) if hasattr(node, "dtype") else piece.item()
        return seeds


def _array(part: Quantity, gradients: Mapping[Node, Any]) -> Array:
    if part.elements is None and part.nodes[0] not in gradients:
        return np.zeros(part.shape, getattr(part.nodes[0], "dtype", np.float64))
    reached = {node: gradients.get(node, 0.0) for node in part.nodes}
    return np.array(part.array(reached, missing=0.0))


def is_state(x: Any) -> bool:
    """Whether x is a list of states."""
    return isinstance(x, (list, tuple))


def states_of(states: Any, what: str, steps: Mapping[Node, int] | None = None) -> list[State]:
    """The states of a network, checked.

    Args:
        states: for each time step a Tensor, a Value, an array of Values, or a tuple of them.
        what: how the argument is called, for messages.
        steps: the time steps of nodes that do not say theirs; looked for if not given.

    Raises:
        TypeError: states is no list, or a state is something else.
        ValueError: there is none, one requires no gradient, their shapes differ, the time step of
            one is not known, or two have the same.
    """
    if not is_state(states):
        raise TypeError(f"{what}: expected a list of states, got {type(states).__name__}")
    if not states:
        raise ValueError(f"{what}: expected at least one state, got an empty list")
    parts_of = []
    for i, state in enumerate(states):
        of = state if isinstance(state, tuple) else (state,)
        if not of:
            raise ValueError(f"{what}[{i}]: expected a state, got an empty tuple")
        parts_of.append(tuple(quantity_of(part, f"{what}[{i}]") for part in of))
    if steps is None:
        steps = steps_before(joint_order(q.nodes[0] for parts in parts_of for q in parts))
    found = [State(_step(q, steps, f"{what}[{i}]"), q) for i, q in enumerate(parts_of)]
    _check(found, what)
    return found


def _step(parts: Sequence[Quantity], steps: Mapping[Node, int], what: str) -> int:
    for part in parts:
        step = place_of(part.nodes[0]).step
        step = steps.get(part.nodes[0]) if step is None else step
        if step is not None:
            return step
    raise ValueError(f"{what}: its time step is not known; {LABEL_THEM}")


def _check(states: Sequence[State], what: str) -> None:
    leading = {part.shape[:-1] for part in states[0].parts}
    if len(leading) > 1:
        raise ValueError(
            f"{what}: expected parts that differ in the last axis alone, got {leading}"
        )
    shapes = [[part.shape for part in state.parts] for state in states]
    for i, state in enumerate(states):
        if shapes[i] != shapes[0]:
            raise ValueError(
                f"{what}: expected states of one shape, got {shapes[0]} and {shapes[i]}"
            )
        if i and state.step <= states[i - 1].step:
            raise ValueError(
                f"{what}: expected rising time steps, got {states[i - 1].step} and then "
                f"{state.step}; number the steps on: nn.unroll(..., start=)"
            )
