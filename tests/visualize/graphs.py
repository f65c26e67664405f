"""Twenty graphs of the kinds that are drawn, by name; each is made anew."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value, nn


def neuron():
    return tb.tanh(Value(0.5, "w") * Value(2.0, "x") + Value(-0.3, "b"))


def polynomial():
    a = Value(2.0, "a")
    return a * a + 3.0 * a


def chain():
    x = Value(0.5, "x")
    for _ in range(12):
        x = tb.sin(x)
    return x


def reuse():
    x = Value(0.9, "x")
    for _ in range(6):
        x = x * x
    return x


def diamond_chain():
    x = Value(0.3, "x")
    for _ in range(5):
        x = x.tanh() + x.exp()
    return x


def horner():
    x, total = Value(1.1, "x"), Value(1.0, "c0")
    for i in range(1, 7):
        total = total * x + Value(float(i), f"c{i}")
    return total


def softmax_by_hand():
    xs = [Value(float(i), f"x{i}") for i in range(4)]
    exps = [tb.exp(x) for x in xs]
    total = sum(exps[1:], exps[0])
    return tb.log(exps[0] / total)


def rosenbrock():
    xs = [Value(0.1 * i, f"x{i}") for i in range(6)]
    return sum(100.0 * (b - a * a) ** 2 + (1.0 - a) ** 2 for a, b in pairwise(xs))


def fast_fourier():
    xs = [Value(float(i + 1), f"x{i}") for i in range(8)]
    for distance in (1, 2, 4):
        xs = [
            xs[i] + xs[i ^ distance] if i < i ^ distance else xs[i ^ distance] - xs[i]
            for i in range(8)
        ]
    return sum(x * x for x in xs)


def mlp_scalars():
    model = nn.MLP([2, 3, 1], rng=0).scalar_view()
    return nn.squared_error(model(np.array([[1.0, -0.5]])), np.array([[1.0]]))


def mlp_wide_scalars():
    model = nn.MLP([3, 4, 2], rng=0).scalar_view()
    return nn.squared_error(model(np.array([[1.0, -0.5, 0.3]])), np.array([[1.0, 0.0]]))


def mlp_tensors():
    model = nn.MLP([4, 8, 8, 2], rng=0)
    return nn.squared_error(model(np.ones((5, 4))), np.zeros((5, 2)))


def residual():
    x = Tensor(np.ones((3, 4)), "x")
    for i in range(4):
        x = x + tb.tanh(x @ Tensor(np.eye(4), f"W{i}"))
    return tb.sum(x)


def dense():
    hidden = [Tensor(np.ones(4), "x")]
    for _ in range(5):
        hidden.append(tb.tanh(tb.concatenate(hidden)[:4]))
    return tb.sum(hidden[-1])


def attention():
    x = Tensor(np.linspace(-1, 1, 12).reshape(4, 3), "x")
    q, k, v = (x @ Tensor(np.eye(3), name) for name in ("Wq", "Wk", "Wv"))
    return tb.sum(tb.softmax(q @ tb.transpose(k)) @ v + x)


def _recurrent(cell, steps, each=True):
    V = Tensor(np.ones((cell.W.shape[0], 1)), "V")
    states = nn.unroll(cell, np.ones((steps, 2)), cell.initial_state())
    hs = [s[0] if isinstance(s, tuple) else s for s in states]
    return sum(tb.sum((h @ V) ** 2) for h in (hs if each else hs[-1:]))


def rnn():
    return _recurrent(nn.RNNCell(2, 3, rng=0), 6)


def lstm():
    return _recurrent(nn.LSTMCell(2, 3, rng=0), 3, each=False)


def gru():
    return _recurrent(nn.GRUCell(2, 3, rng=0), 3)


def _random(seed, count, reach):
    choice = random.Random(seed)
    nodes = [Value(1.5, "x"), Value(-0.5, "y"), Value(0.25, "z")]
    for _ in range(count):
        a, b = choice.choice(nodes[-reach:]), choice.choice(nodes[-reach:])
        nodes.append(choice.choice([a + b, a * b, tb.tanh(a), a - b]))
    return sum(nodes[-reach:-1], nodes[-1])


def random_narrow():
    return _random(1, 30, 4)


def random_wide():
    return _random(2, 40, 10)


GRAPHS = (
    neuron, polynomial, chain, reuse, diamond_chain, horner, softmax_by_hand, rosenbrock,
    fast_fourier, mlp_scalars, mlp_wide_scalars, mlp_tensors, residual, dense, attention, rnn,
    lstm, gru, random_narrow, random_wide,
)  # fmt: skip
UNROLLED = (rnn, lstm, gru)
