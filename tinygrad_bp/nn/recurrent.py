"""Recurrent networks: a cell, and the loop that unrolls it in time.

A cell is a pure function of the input and the state. Unrolled, its parameters stand in the graph
once and are used at every step; the sweep adds up the uses, and that sum is back-propagation
through time (Werbos 1990). Truncated BPTT is `h.detach()` between two unrolls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_bp.array_rules import linear
from tinygrad_bp.nn import init
from tinygrad_bp.nn.feedforward import Activation, activation_of, check_features, check_sizes
from tinygrad_bp.nn.module import Module, named
from tinygrad_bp.recording import call_in_scope, scope
from tinygrad_bp.tensor import Tensor


class RNN(Module):
    """The plain recurrent cell `h(t) = φ(x(t) U + h(t-1) W + b)` (Elman 1990).

    Args:
        inputs, hidden: the numbers of features of the input and of the state.
        rng: a numpy Generator, or a seed.
        activation: φ, by name or as a function.
        recurrent: how W starts: Xavier, or orthogonal for long sequences.
        dtype: float64 or float32.

    Attributes:
        U: shape (inputs, hidden).
        W: shape (hidden, hidden).
        b: shape (hidden,).
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
    ) -> None:
        check_sizes(inputs=inputs, hidden=hidden)
        rng = init.generator(rng)
        self.U = Tensor(init.xavier(rng, (inputs, hidden)), "U", dtype=dtype)
        self.W = Tensor(recurrent(rng, (hidden, hidden)), "W", dtype=dtype)
        self.b = Tensor(np.zeros(hidden), "b", dtype=dtype)
        self.activation = activation_of(activation)

    def forward(self, x: Any, h: Any) -> Any:
        """The next state, (..., hidden), of an input (..., inputs) and a state (..., hidden)."""
        check_features(x, self.U.shape[0], "RNN input")
        check_features(h, self.W.shape[0], "RNN state")
        if x.shape[:-1] != h.shape[:-1]:
            raise ValueError(
                f"RNN: the input has the batch shape {tuple(x.shape[:-1])}, the state "
                f"{tuple(h.shape[:-1])}"
            )
        return self.activation(named(linear(x, self.U, self.b) + h @ self.W, "z"))

    def initial_state(self, *batch: int) -> Any:
        """A state of zeros, of shape (*batch, hidden): a constant."""
        return np.zeros((*batch, self.W.shape[0]), getattr(self.W, "dtype", None) or np.float64)


def unroll(
    cell: Callable[[Any, Any], Any], xs: Any, h: Any, *, start: int = 1, name: str = "h"
) -> list[Any]:
    """Run a cell along a sequence: the states `[h(1), ..., h(τ)]`.

    Each step's nodes belong to a scope `step(t)`, and its state is named `h(t)`.

    Args:
        cell: a function `h = cell(x, h)`.
        xs: the inputs, indexed by time: shape (time, batch, features), or a sequence of τ inputs.
        h: the state before the first step; `cell.initial_state(batch)` is zeros.
        start: the number of the first step.
        name: the name of the states.

    Raises:
        ValueError: the sequence is empty.
    """
    if len(xs) == 0:
        raise ValueError("xs: expected at least one time step, got an empty sequence")

    def step(t: int, h: Any) -> Any:
        return named(cell(xs[t], h), f"{name}({start + t})")

    states = []
    for t in range(len(xs)):
        h = call_in_scope("step", start + t, step, (t, h), {})
        states.append(h)
    return states


class CharRNN(Module):
    """A recurrent network that predicts the next symbol: `o(t) = h(t) V + c` on an RNN cell.

    Args:
        symbols: the size of the alphabet.
        hidden: the size of the state.
        rng: a numpy Generator, or a seed.
        recurrent: how the cell's W starts.

    Attributes:
        cell: the recurrent cell, with U, W and b.
        V: shape (hidden, symbols).
        c: shape (symbols,).
    """

    def __init__(
        self,
        symbols: int,
        hidden: int,
        *,
        rng: np.random.Generator | int,
        recurrent: init.Initializer = init.orthogonal,
        dtype: Any = np.float64,
    ) -> None:
        rng = init.generator(rng)
        self.cell = RNN(symbols, hidden, rng=rng, recurrent=recurrent, dtype=dtype)
        self.V = Tensor(init.xavier(rng, (hidden, symbols)), "V", dtype=dtype)
        self.c = Tensor(np.zeros(symbols), "c", dtype=dtype)

    def forward(self, xs: Sequence[Any] | Any, h: Any) -> tuple[list[Any], Any]:
        """One-hot inputs (time, batch, symbols) to the logits o(1) ... o(τ), and the last state."""
        states = unroll(self.cell, xs, h)
        logits = []
        for t, h in enumerate(states, 1):
            with scope("step", t):
                logits.append(named(linear(h, self.V, self.c), f"o({t})"))
        return logits, states[-1]
