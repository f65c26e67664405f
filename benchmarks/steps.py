"""How long jax takes to compile an unrolled network, in the number of its steps.

A recorded step of training (the loss and its gradients) of a recurrent network 65-100-65, batch 8,
outputs and losses of every step. Its loops are found on the tape and given to jax as `lax.scan`;
beside it, the same program straight-line. The gradients of both are compared with those by numpy
before anything is timed. Then single numbers: a network 2-4-4-1 over many samples, whose gradient
is taken by jax. Recording, finding and compiling are in seconds of the processor, of all threads.

Long straight-line programs take minutes, and are left out; `--all` has them too.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["JAX_ENABLE_X64"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np  # noqa: E402  (the settings are read on import)

import tinygrad_bp as tb  # noqa: E402
from tinygrad_bp import nn  # noqa: E402
from tinygrad_bp.replay import array_numpy, scalar_numpy  # noqa: E402
from tinygrad_bp.replay.jax_engine import Runner  # noqa: E402
from tinygrad_bp.replay.program import Program  # noqa: E402
from tinygrad_bp.replay.steps import rolled  # noqa: E402

SYMBOLS, HIDDEN, BATCH = 65, 100, 8
STEPS, SAMPLES = (10, 50, 200, 1000), (5, 10, 100, 1000)
LONG = {"steps": 50, "samples": 10}  # how far straight-line programs are compiled
REPEATS = 10


def loss(model: Any, xs: Any, ys: Any) -> Any:
    """The cross-entropy of every step, added up."""
    logits, _ = model(xs, model.cell.initial_state(BATCH))
    return sum(-tb.sum(tb.log_softmax(o) * ys[t]) for t, o in enumerate(logits))


def network(steps: int) -> tuple[Program, list[Any], float]:
    """The program, its inputs, and the seconds to record it."""
    rng = np.random.default_rng(0)
    model = nn.CharRNN(SYMBOLS, HIDDEN, rng=0)
    xs, ys = (np.eye(SYMBOLS)[rng.integers(0, SYMBOLS, (steps, BATCH))] for _ in range(2))
    start = time.process_time()
    program = tb.compile(loss).program(model, tb.Tensor(xs), tb.Tensor(ys), gradient=True)
    seconds = time.process_time() - start
    return program, [*(p.data for p in model.parameters()), xs, ys], seconds


def numbers(samples: int) -> tuple[Program, list[float], float]:
    """The same of single numbers."""
    rng = np.random.default_rng(0)
    model = nn.MLP([2, 4, 4, 1], rng=0).scalar_view()
    data = rng.normal(size=(samples, 2)), rng.normal(size=(samples, 1))
    step = tb.compile(lambda model, x, y: nn.squared_error(model(x), y))
    start = time.process_time()
    program = step.program(model, *data)
    seconds = time.process_time() - start
    flat = [float(x) for p in model.parameters() for x in np.ravel(p.data)]
    return program, [*flat, *(float(x) for part in data for x in part.flat)], seconds


def measured(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result, the processor's seconds in the first call, and the least time of some others."""
    start = time.process_time()
    result = call()
    first = time.process_time() - start
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return result, first, min(times)


def row(program: Program, inputs: list[Any], recording: float, straight: bool) -> list[float]:
    """Seconds: recording, finding loops, compiling and running; and straight-line."""
    scalar = program.kind == "scalar"
    start = time.process_time()
    rolled(program)
    seconds = [recording, time.process_time() - start]
    exact: Any = scalar_numpy.Runner(program) if scalar else array_numpy.Runner(program)
    expected = exact.value_and_gradient(inputs) if scalar else exact.values(inputs)
    for scan in (True, False):
        if not scan and not straight:
            seconds += [float("nan")] * 2
            continue
        runner = Runner(program, scan=scan)
        call = runner.value_and_gradient if scalar else runner.values
        found, first, best = measured(lambda call=call: call(inputs))
        check(found, expected)
        seconds += [first, best]
    return seconds


def check(found: Any, expected: Any) -> None:
    """Raise if two results differ by more than rounding."""
    for one, other in zip(found, expected, strict=True):
        scale = np.abs(np.asarray(other)).max()
        if not np.abs(np.asarray(one) - np.asarray(other)).max() <= 1e-11 * scale:
            raise SystemExit("the engines differ")


def table(what: str, sizes: tuple[int, ...], make: Callable[[int], Any]) -> bool:
    """Print the measurements for several sizes; whether compiling does not grow with the last."""
    print(f"\n| {what} | instructions | recording s | finding loops s | compiling s | run ms "
          "| straight-line: compiling s | run ms |")  # fmt: skip
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    compiling = []
    for size in sizes:
        program, inputs, recording = make(size)
        straight = size <= LONG[what] or "--all" in sys.argv
        seconds = row(program, inputs, recording, straight)
        compiling.append(seconds[2])
        texts = [f"{seconds[k] * (1e3 if k in (3, 5) else 1):.2f}" for k in range(6)]
        texts = ["" if text == "nan" else text for text in texts]
        print(f"| {size:,} | {len(program):,} | " + " | ".join(texts) + " |", flush=True)
    return compiling[-1] <= 2.0 * max(compiling[:-1])


def main() -> int:
    """Print the tables, and whether the target is met."""
    Runner(network(1)[0]).values(network(1)[1])  # jax's own start
    met = [table("steps", STEPS, network), table("samples", SAMPLES, numbers)]
    print(f"\ncompiling does not grow with the number of steps: {'met' if all(met) else 'MISSED'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
