"""Memory for long sequences: the peak of a step of BPTT, plain and in checkpointed parts.

An RNN 65-128-65 over T steps of a batch of 32, with a loss at every step; loss and all gradients,
which are bit for bit the same. Peaks are counted by Python's allocator, which numpy's arrays use.
"""

from __future__ import annotations

import gc
import math
import os
import time
import tracemalloc
from typing import Any

for _variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[_variable] = "1"

import numpy as np  # noqa: E402  (the number of threads is read on import)

import tinygrad_bp as tb  # noqa: E402
from tinygrad_bp import nn  # noqa: E402

SYMBOLS, HIDDEN, BATCH = 65, 128, 32


def loss_of(net: nn.CharRNN, symbols: Any, size: int, run: Any) -> Any:
    """The loss over a sequence whose steps are run in parts of a size by `run(part, ...)`."""
    eye = np.eye(SYMBOLS)

    def part(h: Any, inputs: Any, targets: Any) -> Any:
        outputs, h = net(eye[inputs], h)
        return h, sum(nn.cross_entropy(o, y) for o, y in zip(outputs, targets, strict=True))

    h, loss = net.cell.initial_state(BATCH), 0.0
    for start in range(0, len(symbols) - 1, size):
        piece = symbols[start : start + size + 1]
        h, of_part = run(part, h, piece[:-1], piece[1:])
        loss = loss + of_part
    return loss


def measured(T: int, size: int, run: Any) -> tuple[float, float, list[Any]]:
    """Seconds, the peak in MB, and the gradients."""
    net = nn.CharRNN(SYMBOLS, HIDDEN, rng=0)
    symbols = np.random.default_rng(0).integers(0, SYMBOLS, (T + 1, BATCH))
    best = math.inf
    for _ in range(2):
        net.zero_grad()
        gc.collect()
        start = time.perf_counter()
        loss_of(net, symbols, size, run).backward(leaves_only=True)
        best = min(best, time.perf_counter() - start)
    gradients = [p.grad for p in net.parameters()]
    gc.collect()
    tracemalloc.start()
    loss_of(net, symbols, size, run).backward(leaves_only=True)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return best, peak, gradients


def plainly(function: Any, *args: Any) -> Any:
    return function(*args)


def main() -> None:
    print(f"{'T':>6}{'part':>6}{'plain MB':>10}{'parts MB':>10}{'ratio':>7}{'time ratio':>12}")
    for T in (64, 256, 1024):
        size = math.isqrt(T)
        plain, plain_mb, expected = measured(T, size, plainly)
        parts, parts_mb, got = measured(T, size, tb.checkpoint)
        if not all(np.array_equal(a, b) for a, b in zip(expected, got, strict=True)):
            raise AssertionError("the gradients differ")
        ratio, time_ = parts_mb / plain_mb, parts / plain
        print(f"{T:6}{size:6}{plain_mb:10.1f}{parts_mb:10.1f}{ratio:7.2f}{time_:12.2f}")


if __name__ == "__main__":
    main()
