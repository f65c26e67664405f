"""The pictures of the gallery: one function each, and a file of its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import nn

from .drawing import draw
from .picture import Picture

EXAMPLES: dict[str, Callable[[], Picture]] = {}


def _example(function: Callable[[], Picture]) -> Callable[[], Picture]:
    EXAMPLES[function.__name__] = function
    return function


@_example
def neuron() -> Picture:
    """A neuron: data and gradients at the nodes, local derivatives at the edges."""
    w, x, b = tb.Value(0.5, "w"), tb.Value(2.0, "x"), tb.Value(-0.3, "b")
    y = tb.tanh(w * x + b)
    y.backward()
    return draw(y)


def _expression() -> tb.Value:
    a, b = tb.Value(2.0, "a"), tb.Value(-3.0, "b")
    c = a * b
    c.label = "c"
    d = c + a * a
    d.label = "d"
    e = tb.tanh(d * 0.5)
    e.label = "e"
    e.backward()
    return e  # type: ignore[no-any-return]


@_example
def expression() -> Picture:
    """A small expression: every edge with its contribution, local times upstream."""
    return draw(_expression(), show=("data", "grad", "local", "contribution"))


@_example
def dark() -> Picture:
    """The same on a dark background."""
    return draw(_expression(), theme="dark")


def _mlp_loss(scalar: bool) -> tb.Value | tb.Tensor:
    model = nn.MLP([3, 4, 1], rng=0)
    x, t = np.array([[1.0, -0.5, 0.25]]), np.array([[1.0]])
    run = model.scalar_view() if scalar else model
    loss: tb.Value | tb.Tensor = nn.squared_error(run(x), t)
    loss.label = "L"
    loss.backward()
    return loss


@_example
def mlp() -> Picture:
    """An MLP 3-4-1: a box for each array."""
    return draw(_mlp_loss(scalar=False))


@_example
def mlp_scalars() -> Picture:
    """The same MLP weight by weight."""
    return draw(_mlp_loss(scalar=True))


@_example
def mlp_heat() -> Picture:
    """An MLP 8-12-4 with its numbers as colours."""
    model = nn.MLP([8, 12, 4], rng=0)
    x = np.random.default_rng(0).standard_normal((6, 8))
    loss = nn.squared_error(model(x), np.zeros((6, 4)))
    loss.label = "L"
    loss.backward()
    return draw(loss, heat_maps=True, show=("data", "grad"))


@_example
def module() -> Picture:
    """The parameters of a module."""
    return draw(nn.MLP([3, 4, 1], rng=0))


def _rnn_loss(steps: int, cut: int = 0) -> tb.Tensor:
    """The loss of a recurrent network with a target at every step."""
    cell = nn.RNNCell(2, 2, rng=1)
    V, c = tb.Tensor([[0.8], [-0.5]], "V"), tb.Tensor([0.0], "c")
    h, loss = cell.initial_state(), tb.Tensor(0.0, requires_grad=False)
    for t in range(1, steps + 1):
        x = tb.Tensor([np.sin(t), np.cos(t)], f"x({t})", requires_grad=False)
        (h,) = nn.unroll(cell, [x], h, start=t)
        with tb.scope("step", t):
            o = nn.named(tb.linear(h, V, c), f"o({t})")
            of_step = nn.named(tb.sum(tb.square(o - np.sin(t + 1))), f"L({t})")
            loss = nn.named(loss + of_step, "loss")
        if t == cut:
            h = h.detach()
    loss.backward()
    return loss


@_example
def rnn() -> Picture:
    """A recurrent network of 8 steps, and how much gradient comes to each state."""
    return draw(_rnn_loss(8), show=("data", "grad"), strip=True)


@_example
def rnn_plain() -> Picture:
    """The same network, its operations alone, and how much gradient comes to each state."""
    return draw(_rnn_loss(4), show=(), strip=True)


@_example
def rnn_truncated() -> Picture:
    """Truncated back-propagation through time: the state was detached after step 3."""
    return draw(_rnn_loss(6, cut=3), show=("grad",), strip=True)


@_example
def rnn_folded() -> Picture:
    """50 steps: the middle ones, which are alike, as one box."""
    return draw(_rnn_loss(50), show=("data", "grad"), fold=True)


@_example
def shared_weight() -> Picture:
    """A shared weight: all of its uses."""
    loss = _rnn_loss(4)
    weights = [node for node in tb.topological_order(loss) if node.label == "W"]
    return draw(loss, show=("data", "grad"), highlight=weights[0])


@_example
def lstm() -> Picture:
    """An LSTM of 5 steps."""
    cell = nn.LSTMCell(2, 2, rng=0)
    xs = [tb.Tensor([np.sin(t), np.cos(t)], f"x({t})", requires_grad=False) for t in range(1, 6)]
    states = nn.unroll(cell, xs, cell.initial_state())
    loss = tb.sum(tb.square(states[-1][0] - 1.0))
    loss.label = "L"
    loss.backward()
    return draw(loss, show=("data", "grad"))


@_example
def lstm_stacked() -> Picture:
    """Two recurrent layers on top of one another."""
    model = nn.RNN(2, 2, layers=2, rng=0)
    out, _ = model(np.ones((4, 2)))
    loss = tb.sum(out[-1])
    loss.label = "L"
    loss.backward()
    return draw(loss, show=("grad",))


@_example
def attention() -> Picture:
    """Scaled dot-product attention of 4 positions."""
    rng = np.random.default_rng(0)
    x = tb.Tensor(rng.standard_normal((4, 6)), "x", requires_grad=False)
    W = {name: tb.Tensor(rng.standard_normal((6, 3)) / 2, f"W{name}") for name in "qkv"}
    with tb.scope("attention"):
        q, k, v = (nn.named(x @ W[name], name) for name in "qkv")
        scores = nn.named(q @ tb.transpose(k) / np.sqrt(3.0), "scores")
        weights = nn.named(tb.softmax(scores), "weights")
        out = nn.named(weights @ v, "out")
    loss = tb.mean(tb.square(out))
    loss.label = "L"
    loss.backward()
    return draw(loss, heat_maps=True, show=("data",))


@_example
def large() -> Picture:
    """A graph of 50,000 nodes, collapsed by itself to what can be read."""
    model = nn.MLP([64, 96, 96, 32, 10], rng=0).scalar_view()
    x, t = np.linspace(-1.0, 1.0, 64)[None], np.ones((1, 10))
    out = model(x)
    with tb.scope("loss"):
        loss = nn.squared_error(out, t)
    loss.label = "L"
    loss.backward()
    return draw(loss)


def write(folder: Path) -> list[Path]:
    """Write every picture of the gallery to a folder, which is made if there is none.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [picture().save(folder / f"{name}.svg") for name, picture in EXAMPLES.items()]
