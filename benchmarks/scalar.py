"""Numbers that remember, side by side: one network of single numbers, in several engines.

The network is an MLP 2-16-16-1 with tanh and a squared error over 100 samples, in one graph. Every
engine runs the same source, `loss_of`; so do plain Python floats, whose forward pass is the unit of
the table. A step builds the graph, differentiates it and frees it, with the garbage collector on.
"""

from __future__ import annotations

import gc
import itertools
import math
import os
import random
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

for _variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[_variable] = "1"

import tinygrad_bp as tb  # noqa: E402  (the number of threads is read on import)
from tinygrad_bp.graph import topological_order  # noqa: E402

SIZES = (2, 16, 16, 1)
SAMPLES = 100
REPEATS = 7
Layers = list[tuple[list[list[Any]], list[Any]]]


def loss_of(layers: Layers, xs: list[list[float]], ys: list[float], tanh: Any) -> Any:
    """The squared error of an MLP, one number at a time. Knows nothing of who computes."""
    loss = 0.0
    for x, y in zip(xs, ys, strict=True):
        a = x
        for weights, biases in layers:
            outputs = []
            for row, z in zip(weights, biases, strict=True):
                for w, value in zip(row, a, strict=True):
                    z = z + w * value
                outputs.append(tanh(z))
            a = outputs
        error = a[0] - y
        loss = error * error + loss
    return loss


def numbers(seed: int = 0) -> tuple[Layers, list[list[float]], list[float]]:
    """Parameters and data, as floats."""
    draw = random.Random(seed).uniform
    layers = [
        ([[draw(-0.5, 0.5) for _ in range(n)] for _ in range(m)], [draw(-0.1, 0.1)] * m)
        for n, m in itertools.pairwise(SIZES)
    ]
    xs = [[draw(-1.0, 1.0), draw(-1.0, 1.0)] for _ in range(SAMPLES)]
    return layers, xs, [math.copysign(0.8, x[0] * x[1]) for x in xs]


def converted(layers: Layers, kind: Callable[[float], Any]) -> Layers:
    return [([[kind(w) for w in row] for row in weights], list(map(kind, biases)))
            for weights, biases in layers]  # fmt: skip


def flat(layers: Layers) -> list[Any]:
    rows = [row for weights, biases in layers for row in (*weights, biases)]
    return [p for row in rows for p in row]


# --- one step of each engine: a function of the number of samples, to the gradients --------------

Step = Callable[[int], list[float]]
LAYERS, XS, YS = numbers()


def plain_floats() -> Step:
    def step(n: int) -> list[float]:
        return [loss_of(LAYERS, XS[:n], YS[:n], math.tanh)]

    return step


def tinygrad_bp_values() -> Step:
    layers = converted(LAYERS, tb.Value)
    parameters = flat(layers)

    def step(n: int) -> list[float]:
        for p in parameters:
            p.zero_grad()
        loss_of(layers, XS[:n], YS[:n], tb.Value.tanh).backward()
        return [p.grad for p in parameters]

    return step


def micrograd() -> Step:
    from micrograd.engine import Value

    def tanh(x: Any) -> Any:
        """One node, in the manner of the package's own operations, which have no tanh."""
        t = math.tanh(x.data)
        out = Value(t, (x,), "tanh")

        def backward() -> None:
            x.grad += (1 - t * t) * out.grad

        out._backward = backward
        return out

    layers = converted(LAYERS, Value)
    parameters = flat(layers)

    def step(n: int) -> list[float]:
        for p in parameters:
            p.grad = 0.0
        loss_of(layers, XS[:n], YS[:n], tanh).backward()
        return [p.grad for p in parameters]

    return step


def pytorch() -> Step:
    import torch

    torch.set_num_threads(1)
    layers = converted(LAYERS, lambda w: torch.tensor(w, dtype=torch.float64, requires_grad=True))
    parameters = flat(layers)

    def step(n: int) -> list[float]:
        loss = loss_of(layers, XS[:n], YS[:n], torch.tanh)
        return [g.item() for g in torch.autograd.grad(loss, parameters)]

    return step


def autograd() -> Step:
    import autograd.numpy as anp
    from autograd import grad

    def step(n: int) -> list[float]:
        return flat(grad(loss_of)(LAYERS, XS[:n], YS[:n], anp.tanh))

    return step


# Name, what makes its step, and the samples it is given: time per node of autograd does not depend
# on them, and that of micrograd does, so it is shown for both.
ENGINES: list[tuple[str, Callable[[], Step], int]] = [
    ("plain floats, forward only", plain_floats, SAMPLES),
    ("tinygrad_bp Values", tinygrad_bp_values, SAMPLES),
    ("micrograd 0.1.0", micrograd, SAMPLES),
    ("micrograd 0.1.0", micrograd, 20),
    ("PyTorch 0-d tensors", pytorch, SAMPLES),
    ("HIPS autograd", autograd, 5),
]


def seconds(step: Callable[[], Any]) -> float:
    gc.collect()
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def nodes_of(n: int) -> int:
    """How many operations the network of n samples has."""
    layers = converted(LAYERS, tb.Value)
    loss = loss_of(layers, XS[:n], YS[:n], tb.Value.tanh)
    return sum(not node.is_leaf for node in topological_order(loss))


def compare() -> None:
    counts = {n: nodes_of(n) for n in {n for _, _, n in ENGINES}}
    reference = {n: tinygrad_bp_values()(n) for n in counts}
    rows: list[tuple[str, int, Step | None]] = []
    for name, make, n in ENGINES:
        try:
            step = make()
        except ImportError:
            rows.append((name, n, None))
            continue
        gradients = step(n)
        if len(gradients) > 1:
            error = max(abs(a - b) for a, b in zip(gradients, reference[n], strict=True))
            if error > 1e-9:
                raise AssertionError(f"{name}: gradients differ by {error}")
        rows.append((name, n, step))

    best = [math.inf] * len(rows)
    for repeat in range(REPEATS):
        for i, (name, n, step) in enumerate(rows):
            if step is not None and (repeat < 3 or name.startswith(("plain", "tinygrad"))):
                for _ in range(5 if i == 0 else 1):
                    best[i] = min(best[i], seconds(lambda step=step, n=n: step(n)) / counts[n])

    print(f"MLP 2-16-16-1 tanh, squared error, {counts[SAMPLES]} nodes in one graph")
    print(f"{'':30}{'samples':>8}{'ns/node':>10}{'ratio':>8}")
    for (name, n, step), time_ in zip(rows, best, strict=True):
        if step is None:
            print(f"{name:30}{'not installed':>18}")
        else:
            print(f"{name:30}{n:8}{1e9 * time_:10.0f}{time_ / best[0]:8.1f}")
    target("forward and backward, against the float forward pass", best[1] / best[0], 35, "x")


def memory() -> None:
    """What a graph occupies, counted by Python's allocator (which PyTorch does not use)."""
    print("\nbytes per node            graph   with gradients")
    full = 0.0
    for name, make in (("tinygrad_bp Values", _held_values), ("micrograd 0.1.0", _held_micrograd)):
        try:
            layers, tanh = make()
        except ImportError:
            print(f"{name:24}{'not installed':>16}")
            continue
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        loss = loss_of(layers, XS[:20], YS[:20], tanh)
        graph = tracemalloc.get_traced_memory()[0] - before
        loss.backward()
        gc.collect()
        both = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        count = nodes_of(20)
        full = full or both / count
        print(f"{name:22}{graph / count:9.0f}{both / count:17.0f}")
    target("with gradients", full, 300, " bytes a node")


def _held_values() -> tuple[Layers, Any]:
    return converted(LAYERS, tb.Value), tb.Value.tanh


def _held_micrograd() -> tuple[Layers, Any]:
    from micrograd.engine import Value

    return converted(LAYERS, Value), Value.relu


def extremes() -> None:
    """Graphs that recursion, or counting paths, would not survive."""

    def chain() -> None:
        x = tb.Value(1e-6)
        y = x
        for _ in range(999_999):
            y = y + x
        y.backward()
        assert x.grad == 1_000_000.0

    def doublings() -> None:
        a = b = tb.Value(1.0)
        for _ in range(60):
            b = b + b
        b.backward()
        assert a.grad == 2.0**60

    print()
    print(f"a chain of 1,000,000 operations, built, differentiated, freed {seconds(chain):8.2f} s")
    best = min(seconds(doublings) for _ in range(20))
    print(f"60 doublings, 2^60 paths                                      {1e3 * best:8.3f} ms")


def target(what: str, reached: float, limit: float, unit: str) -> None:
    verdict = "reached" if reached <= limit else "MISSED"
    print(f"target: {what} <= {limit}{unit}: {reached:.1f}{unit}, {verdict}")


if __name__ == "__main__":
    sys.setrecursionlimit(100_000)  # for micrograd's recursive sort
    compare()
    memory()
    extremes()
