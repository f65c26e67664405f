"""Recurrent networks: cells, and the loop that unrolls them in time.

A cell is a pure function of the input and the state. Unrolled, its parameters stand in the graph
once and are used at every step; the sweep adds up the uses, and that sum is back-propagation
through time (Werbos 1990). Truncated BPTT is `h.detach()` between two unrolls.

The gates of a cell share one matrix, of as many columns for each, so that a step has one product
with the input and one with the state; each gate is then named on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_bp.arguments import (
    flag,
    function,
    integer,
    real,
    several,
    wrong_kind,
)
from tinygrad_bp.array_rules import linear
from tinygrad_bp.nn import init
from tinygrad_bp.nn.feedforward import Activation, activation_of, check_features, check_sizes, drawn
from tinygrad_bp.nn.module import Module, named
from tinygrad_bp.recording import call_in_scope, scope
from tinygrad_bp.rules import sigmoid, tanh
from tinygrad_bp.scalars import Values
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.value import Value


class RNNCell(Module):
    """The plain recurrent cell `h(t) = φ(x(t) U + h(t-1) W + b)` (Elman 1990).

    The argument of φ is named `z`.

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
        weights = drawn(recurrent, rng, (hidden, hidden), "recurrent")
        self.W = Tensor(weights, "W", dtype=dtype)
        self.b = Tensor(np.zeros(hidden), "b", dtype=dtype)
        self.activation = activation_of(activation)

    def forward(self, x: Any, h: Any) -> Any:
        """The next state, (..., hidden), of an input (..., inputs) and a state (..., hidden)."""
        _check_step(self, x, h)
        return self.activation(named(linear(x, self.U, self.b) + h @ self.W, "z"))

    def initial_state(self, *batch: int) -> Any:
        """A state of zeros, of shape (*batch, hidden): a constant."""
        return _zeros(self, *batch)


class LSTMCell(Module):
    """Long short-term memory: a cell state that is kept, written to and read through gates.

    With the weighted inputs `z = x(t) U + h(t-1) W + b` of the four gates side by side,

        i = sigmoid(z_i), f = sigmoid(z_f), g = tanh(z_g), o = sigmoid(z_o),
        c(t) = f c(t-1) + i g,
        h(t) = o tanh(c(t)),

    where all of these are named (Hochreiter & Schmidhuber 1997; the forget gate f is that of Gers
    et al. 2000).

    Args:
        inputs, hidden: the numbers of features of the input and of the states h and c.
        rng: a numpy Generator, or a seed.
        recurrent: how W starts, gate by gate.
        forget_bias: where b starts for the forget gate, to remember at first (Gers et al. 2000;
            Jozefowicz et al. 2015).
        dtype: float64 or float32.

    Attributes:
        U: shape (inputs, 4 hidden): the columns of i, then f, g and o, as PyTorch's rows.
        W: shape (hidden, 4 hidden), in the same order.
        b: shape (4 hidden,), in the same order.
    """

    gates = ("i", "f", "g", "o")

    def __init__(
        self,
        inputs: int,
        hidden: int,
        *,
        rng: np.random.Generator | int,
        recurrent: init.Initializer = init.xavier,
        forget_bias: float = 1.0,
        dtype: Any = np.float64,
    ) -> None:
        check_sizes(inputs=inputs, hidden=hidden)
        rng = init.generator(rng)
        b = np.zeros(4 * hidden)
        b[hidden : 2 * hidden] = real(forget_bias, "forget_bias")
        self.U = Tensor(_side_by_side(init.xavier, rng, (inputs, hidden), 4), "U", dtype=dtype)
        self.W = Tensor(_side_by_side(recurrent, rng, (hidden, hidden), 4), "W", dtype=dtype)
        self.b = Tensor(b, "b", dtype=dtype)

    def forward(self, x: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
        """The next states (h, c) of an input (..., inputs) and states of shape (..., hidden)."""
        h, c = _pair(state)
        _check_step(self, x, h)
        if c.shape != h.shape:
            raise ValueError(f"LSTMCell: h has shape {tuple(h.shape)}, c {tuple(c.shape)}")
        H = self.W.shape[0]
        z = named(linear(x, self.U, self.b) + h @ self.W, "z")
        i = named(sigmoid(named(z[..., :H], "z_i")), "i")
        f = named(sigmoid(named(z[..., H : 2 * H], "z_f")), "f")
        g = named(tanh(named(z[..., 2 * H : 3 * H], "z_g")), "g")
        o = named(sigmoid(named(z[..., 3 * H :], "z_o")), "o")
        c = named(f * c + i * g, "c")
        return named(o * tanh(c), "h"), c

    def initial_state(self, *batch: int) -> tuple[Any, Any]:
        """States (h, c) of zeros, each of shape (*batch, hidden): constants."""
        return _zeros(self, *batch), _zeros(self, *batch)


class GRUCell(Module):
    """The gated recurrent unit: a state that is partly kept and partly replaced.

        r = sigmoid(s_r), s_r = x(t) U_r + h(t-1) W_r + b_r,
        z = sigmoid(s_z), s_z = x(t) U_z + h(t-1) W_z + b_z,
        n = tanh(s_n), s_n = x(t) U_n + b_n + r (h(t-1) W_n + d),
        h(t) = (1 - z) n + z h(t-1)

    (Cho et al. 2014; with the reset gate r behind the product with W_n, which has a bias d of its
    own, as in PyTorch and cuDNN). All of these are named, as are `p = x U + b` and `q = h W`.

    Args:
        inputs, hidden: the numbers of features of the input and of the state.
        rng: a numpy Generator, or a seed.
        recurrent: how W starts, gate by gate.
        dtype: float64 or float32.

    Attributes:
        U: shape (inputs, 3 hidden): the columns of r, then z and n, as PyTorch's rows.
        W: shape (hidden, 3 hidden), in the same order.
        b: shape (3 hidden,), in the same order.
        d: shape (hidden,).
    """

    gates = ("r", "z", "n")

    def __init__(
        self,
        inputs: int,
        hidden: int,
        *,
        rng: np.random.Generator | int,
        recurrent: init.Initializer = init.xavier,
        dtype: Any = np.float64,
    ) -> None:
        check_sizes(inputs=inputs, hidden=hidden)
        rng = init.generator(rng)
        self.U = Tensor(_side_by_side(init.xavier, rng, (inputs, hidden), 3), "U", dtype=dtype)
        self.W = Tensor(_side_by_side(recurrent, rng, (hidden, hidden), 3), "W", dtype=dtype)
        self.b = Tensor(np.zeros(3 * hidden), "b", dtype=dtype)
        self.d = Tensor(np.zeros(hidden), "d", dtype=dtype)

    def forward(self, x: Any, h: Any) -> Any:
        """The next state, (..., hidden), of an input (..., inputs) and a state (..., hidden)."""
        _check_step(self, x, h)
        H = self.W.shape[0]
        p = named(linear(x, self.U, self.b), "p")
        q = named(h @ self.W, "q")
        s = p + q  # for the gates; of n, each is needed on its own
        r = named(sigmoid(named(s[..., :H], "s_r")), "r")
        z = named(sigmoid(named(s[..., H : 2 * H], "s_z")), "z")
        s_n = p[..., 2 * H :] + r * (q[..., 2 * H :] + self.d)
        n = named(tanh(named(s_n, "s_n")), "n")
        return named((1.0 - z) * n + z * h, "h")

    def initial_state(self, *batch: int) -> Any:
        """A state of zeros, of shape (*batch, hidden): a constant."""
        return _zeros(self, *batch)


def _side_by_side(
    initializer: init.Initializer, rng: np.random.Generator, shape: tuple[int, int], count: int
) -> Any:
    """The matrices of several gates, each started as if it stood alone."""
    return np.concatenate([drawn(initializer, rng, shape, "recurrent") for _ in range(count)], 1)


def _zeros(cell: Any, *batch: int) -> Any:
    for size in batch:
        integer(size, "batch", 0)
    return np.zeros((*batch, cell.W.shape[0]), getattr(cell.W, "dtype", None) or np.float64)


def _pair(state: Any) -> tuple[Any, Any]:
    if not isinstance(state, (tuple, list)) or len(state) != 2:
        raise wrong_kind("LSTMCell", "the states (h, c)", state)
    return state[0], state[1]


def _check_step(cell: Any, x: Any, h: Any) -> None:
    """Raise TypeError or ValueError where x and h are not an input and a state of the cell."""
    of_x, of_h = getattr(x, "shape", None), getattr(h, "shape", None)
    sizes = cell.U.shape[0], cell.W.shape[0]
    if of_x and of_h and (of_x[-1], of_h[-1]) == sizes and of_x[:-1] == of_h[:-1]:
        return  # as nearly always
    what = type(cell).__name__
    check_features(x, cell.U.shape[0], f"{what} input")
    check_features(h, cell.W.shape[0], f"{what} state")
    if x.shape[:-1] != h.shape[:-1]:
        raise ValueError(
            f"{what}: expected the batch shape of x and the state h to agree, got "
            f"{tuple(x.shape)} and {tuple(h.shape)}"
        )


def length_of(xs: Any, what: str) -> int:
    """How many steps a sequence has that is indexed by time."""
    if isinstance(xs, (str, bytes, dict)) or not hasattr(type(xs), "__getitem__"):
        raise wrong_kind(what, "a sequence indexed by time", xs)
    try:
        return len(xs)
    except TypeError:
        raise wrong_kind(what, "a sequence indexed by time", xs) from None


def unroll(
    cell: Callable[[Any, Any], Any],
    xs: Any,
    state: Any,
    *,
    start: int = 1,
    name: str | Sequence[str] = "",
    reverse: bool = False,
) -> list[Any]:
    """Run a cell along a sequence: the states `[h(1), ..., h(τ)]`.

    Each step's nodes belong to a scope `step(t)`, and its state is named `h(t)`; the parts of a
    state that is a tuple, as an LSTM's is, `h(t)` and `c(t)`.

    Args:
        cell: a function `state = cell(x, state)`.
        xs: the inputs, indexed by time: shape (time, batch, features), or a sequence of τ inputs.
        state: that before the first step; `cell.initial_state(batch)` is zeros.
        start: the number of the first element of xs.
        name: the name of the states; of a tuple's parts, a name for each.
        reverse: run from the last element to the first. The states are still listed by time.

    Raises:
        ValueError: the sequence is empty, or the names are not as many as the parts.
    """
    steps = length_of(xs, "xs")
    if not steps:
        raise ValueError(f"xs: expected at least one time step, got an empty {type(xs).__name__}")
    function(cell, "cell")
    integer(start, "start")
    flag(reverse, "reverse")
    if not isinstance(name, str):
        name = several(name, "name", "names")
    name = name or (("h", "c") if isinstance(state, tuple) else "h")

    def step(t: int, state: Any) -> Any:
        state = cell(xs[t], state)
        if isinstance(state, tuple):
            _name_parts(state, name, start + t)
            return state
        if not isinstance(state, (Value, Tensor, Values)):
            raise wrong_kind("cell", "a function that returns a state", state)
        return named(state, f"{name}({start + t})")

    states = []
    for t in reversed(range(steps)) if reverse else range(steps):
        state = call_in_scope("step", start + t, step, (t, state), {})
        states.append(state)
    return states[::-1] if reverse else states


def _name_parts(state: tuple[Any, ...], names: str | Sequence[str], t: int) -> None:
    if isinstance(names, str) or len(names) != len(state):
        raise ValueError(f"name: expected {len(state)}, one per part of the state, got {names!r}")
    for part, name in zip(state, names, strict=True):
        named(part, f"{name}({t})")


class CharRNN(Module):
    """A recurrent network that predicts the next symbol: `o(t) = h(t) V + c` on a recurrent cell.

    Args:
        symbols: the size of the alphabet.
        hidden: the size of the state.
        rng: a numpy Generator, or a seed.
        cell: the kind of cell: `RNNCell`, `LSTMCell` or `GRUCell`.
        recurrent: how the cell's W starts.

    Attributes:
        cell: the recurrent cell.
        V: shape (hidden, symbols).
        c: shape (symbols,).
    """

    def __init__(
        self,
        symbols: int,
        hidden: int,
        *,
        rng: np.random.Generator | int,
        cell: Callable[..., Any] = RNNCell,
        recurrent: init.Initializer = init.orthogonal,
        dtype: Any = np.float64,
    ) -> None:
        check_sizes(symbols=symbols, hidden=hidden)
        rng = init.generator(rng)
        self.cell = function(cell, "cell")(
            symbols, hidden, rng=rng, recurrent=recurrent, dtype=dtype
        )
        self.V = Tensor(init.xavier(rng, (hidden, symbols)), "V", dtype=dtype)
        self.c = Tensor(np.zeros(symbols), "c", dtype=dtype)

    def forward(self, xs: Sequence[Any] | Any, state: Any) -> tuple[list[Any], Any]:
        """One-hot inputs (time, batch, symbols) to the logits o(1) ... o(τ), and the last state."""
        states = unroll(self.cell, xs, state)
        logits = []
        for t, state in enumerate(states, 1):
            h = state[0] if isinstance(state, tuple) else state
            with scope("step", t):
                logits.append(named(linear(h, self.V, self.c), f"o({t})"))
        return logits, states[-1]
