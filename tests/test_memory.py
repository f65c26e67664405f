"""Memory: training does not grow, and no dead node stays, with the cycle collector off.

`STEPS=10000 python -m pytest tests/test_memory.py` trains that many steps in each way.
"""

import contextlib
import gc
import os
import tracemalloc

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value, nn, no_grad, optim, training, values
from tinygrad_bp.checkpointing import checkpoint
from tinygrad_bp.graph import Node
from tinygrad_bp.rules import RULES
from tinygrad_bp.visualize import draw

STEPS = int(os.environ.get("STEPS", "100"))
X = np.random.default_rng(0).normal(size=(6, 2))
T = X.sum(axis=1, keepdims=True)


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


# --- training -----------------------------------------------------------------------------------


def eager():
    model = nn.MLP([2, 4, 1], ["tanh", "identity"], rng=0)
    optimizer = optim.Adam(model.parameters())

    def step():
        optimizer.zero_grad()
        nn.squared_error(model(X), T).backward()
        optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()

    return step


def scalar():
    model = nn.MLP([2, 2, 1], ["tanh", "identity"], rng=0).scalar_view()
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step():
        optimizer.zero_grad()
        nn.squared_error(model(X[:1]), T[:1]).backward(leaves_only=True)
        optimizer.step()

    return step


def compiled():
    model = nn.MLP([2, 4, 1], ["tanh", "identity"], rng=0)
    optimizer = optim.RMSprop(model.parameters())
    program = tb.compile(lambda model, x, t: nn.squared_error(model(x), t))

    def step():
        optimizer.zero_grad()
        program.backward(model, X, T)
        optimizer.step()

    return step


def checkpointed():
    model = nn.MLP([2, 4, 1], ["tanh", "identity"], rng=0)
    optimizer = optim.SGD(model.parameters(), lr=0.01)

    def step():
        optimizer.zero_grad()
        nn.squared_error(checkpoint(model, X), T).backward()
        optimizer.step()

    return step


def truncated():
    w = Tensor(np.full((2, 2), 0.3))
    optimizer = optim.SGD([w], lr=0.01)

    def step():
        for _ in training.truncated_bptt(
            lambda x, h: tb.tanh(h @ w + x), X, 2, 3,
            targets=X, loss=nn.squared_error, state=np.zeros(2),
        ):  # fmt: skip
            optimizer.step()
            optimizer.zero_grad()

    return step


def functional():
    return lambda: tb.value_and_grad(lambda x: (tb.sin(x) * x).sum())(X[0])


TRAININGS = [eager, scalar, compiled, checkpointed, truncated, functional]


@pytest.mark.parametrize("make", TRAININGS)
def test_training_does_not_grow(make, no_collector):
    """Of what is allocated after the warm-up, next to nothing is there in the end.

    The collector finds nothing. It is run because it empties Python's stores of free tuples, too.
    """
    step = make()
    for _ in range(20):
        step()
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(5):
            step()
        assert gc.collect() == 0
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(STEPS):
            step()
        assert gc.collect() == 0
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert after - before < 4096 + STEPS  # one object a step would be 16 bytes and more


@pytest.mark.parametrize("compiled", [False, True])
def test_fit_does_not_grow(compiled):
    """Only its history does: a few numbers per epoch."""

    def fitted(epochs):
        model = nn.MLP([2, 4, 1], ["tanh", "identity"], rng=0)
        peaks = []

        def peak(run):
            if run.epoch in (20, epochs - 1):
                gc.collect()
                peaks.append(tracemalloc.get_traced_memory()[0])

        tracemalloc.start()
        try:
            training.fit(
                model, (X, T), nn.squared_error, optim.Adam(model.parameters()),
                epochs=epochs, batch_size=3, rng=0, validation=(X, T), compiled=compiled,
                callbacks=[peak],
            )  # fmt: skip
        finally:
            tracemalloc.stop()
        return peaks

    epochs = max(STEPS // 2, 40)
    peaks = fitted(epochs)
    assert peaks[1] - peaks[0] < 400 * epochs + 8192


# --- no dead node, with the collector off --------------------------------------------------------


def nodes_left(work):
    """The nodes that are still there after `work()`, and were not before."""
    work()  # what is made once and kept, is made now
    gc.freeze()
    work()
    left = [x for x in gc.get_objects() if isinstance(x, Node)]
    return [x for x in left if not (isinstance(x, Value) and x.label == "kept")]


def of_rule(rule):
    def work():
        for kind in (Value, lambda x: Tensor([x, x])):
            operands = [kind(x) for x in rule_sample(rule)]
            y = rule(*operands)
            if y.requires_grad:
                y.backward(None if isinstance(y, Value) else np.ones(2))

    return work


def rule_sample(rule):
    return [0.4, 0.3, 0.2][: rule.arity]


@pytest.mark.parametrize("name", [n for n, r in RULES.items() if r.arity <= 3])
def test_rules(name, no_collector):
    assert not nodes_left(of_rule(RULES[name]))


def hooks():
    x = Value(1.0)
    y = x * x
    y.register_hook(lambda g: g * 2.0)
    handle = x.register_hook(lambda g: None)
    y.backward()
    handle.remove()


def scopes():
    with tb.scope("a"), tb.detect_anomaly():
        y = Tensor([1.0, 2.0]) * 2.0
    with no_grad():
        y = y * 2.0
    tb.count(lambda: y * 3.0) if hasattr(tb, "count") else None


def higher():
    def f(x):
        return tb.sin(x) * x * x

    tb.grad(tb.grad(f))(0.5)
    tb.grad(f, create_graph=True)(Value(0.5)).backward()
    tb.jvp(f, 0.5, 1.0)
    tb.hvp(lambda x: f(x).sum(), np.arange(2.0), np.ones(2))
    tb.derivative(f, 3)(0.5)
    tb.hessian(lambda x: f(x).sum())(np.arange(2.0))


def programs():
    x = Tensor([1.0, 2.0])
    step = tb.compile(lambda x: (x * x).sum())
    step.backward(x)
    step.value_and_grad(np.ones(2))
    tb.compile(lambda x: x * x + 1.0).value_and_grad(2.0)


def explained():
    x, w = Value(0.5, label="x"), Value(2.0, label="w")
    y = tb.tanh(x * w) * w
    y.backward()
    explain = tb.explain
    for what in (
        explain.deltas(y), explain.why(y), explain.why(y, w), explain.contributions(y, w),
        explain.paths(y, w), explain.derive(y),
    ):  # fmt: skip
        str(what)
    explain.cost(lambda x: tb.sin(x) * x, 0.5, times=False)


def drawn():
    model = nn.MLP([2, 2, 1], ["tanh", "identity"], rng=0)
    draw(nn.squared_error(model(X[:1]), T[:1])).svg  # noqa: B018


def swept():
    y = Value(1.0) * 2.0 + 1.0
    steps = tb.sweep(y)
    next(steps)
    del steps
    list(tb.sweep(y))


def arrays_of_values():
    x = values([1.0, 2.0])
    (tb.tanh(x) @ x).backward()
    x.sum().backward()


def recomputed():
    x = Tensor([1.0, 2.0])
    checkpoint(lambda x: tb.tanh(x * x), x).sum().backward()


def failing():
    """An error in the middle of a forward pass, a sweep, and a record."""
    x = Value(1.0)
    for broken in (lambda x: tb.exp(x * x) + "a", lambda x: tb.exp(x * x) + None):
        with contextlib.suppress(TypeError):
            broken(x)
    y = tb.exp(x * x)

    def hook(g):
        raise ValueError("here")

    y.register_hook(hook)
    with contextlib.suppress(ValueError):
        y.backward()
    with contextlib.suppress(ZeroDivisionError):
        tb.grad(lambda x: 1 / 0 if x * x > 0 else x)(1.0)
    with contextlib.suppress(TypeError):
        tb.compile(lambda x: float(x * x))(1.0)
    with contextlib.suppress(ValueError):
        (Tensor([1.0, 2.0]) * 2.0) @ Tensor([1.0, 2.0, 3.0])
    with contextlib.suppress(TypeError):
        checkpoint(lambda x: tb.exp(x) + "a", x)


@pytest.mark.parametrize(
    "work",
    [
        hooks, scopes, higher, programs, explained, drawn, swept, arrays_of_values, recomputed,
        failing,
    ],
)  # fmt: skip
def test_nothing_dead_stays(work, no_collector):
    assert not nodes_left(work)


@pytest.mark.parametrize("make", TRAININGS)
def test_nothing_dead_stays_of_a_training(make, no_collector):
    step = make()
    assert not nodes_left(step)
