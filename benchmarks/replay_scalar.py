"""Single numbers, recorded once and replayed: what it costs, and when it pays.

The network is that of `scalar.py`, an MLP 2-16-16-1 with tanh and a squared error over 100 samples,
and the unit is again the forward pass of plain Python floats. All engines run one thread, and their
gradients are compared before anything is timed.

`--trace` records the ten million operations as well, which takes one to two minutes.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

from scalar import (
    LAYERS,
    SAMPLES,
    XS,
    YS,
    converted,
    flat,
    loss_of,
    plain_floats,
    tinygrad_bp_values,
)

import numpy as np  # isort: skip  (after `scalar`, which sets the number of threads)

import tinygrad_bp as tb
from tinygrad_bp.replay import scalar_numpy
from tinygrad_bp.replay.passes import optimized
from tinygrad_bp.replay.program import Program
from tinygrad_bp.replay.recorder import Recorder, recording_by
from tinygrad_bp.replay.tracing import input_like
from tinygrad_bp.rules import RULES

REPEATS = 30
ROWS = 10_000
HUGE = 10_000_000
Result = tuple[Any, Any]
Run = Callable[[], Result]


def recorded(samples: int, data_too: bool = False) -> Program:
    """The network as a program of its parameters, and on request of the data."""
    recorder = Recorder("scalar")

    def given(x: float) -> Any:
        return input_like(recorder, tb.Value(x))

    layers = converted(LAYERS, given)
    xs: Any = (XS * (1 + samples // len(XS)))[:samples]
    ys: Any = (YS * (1 + samples // len(YS)))[:samples]
    if data_too:
        xs, ys = [list(map(given, x)) for x in xs], list(map(given, ys))
    with recording_by(recorder):
        loss = loss_of(layers, xs, ys, tb.tanh)
    return recorder.program([loss.number])


def computed(program: Program) -> int:
    """How many instructions are operations."""
    return int((program.codes >= 2).sum())


def seconds(run: Callable[[], Any], repeats: int = 1) -> float:
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def target(what: str, reached: float, limit: float, unit: str) -> None:
    verdict = "reached" if reached <= limit else "MISSED"
    print(f"target: {what} <= {limit}{unit}: {reached:.2f}{unit}, {verdict}")


def agree(name: str, got: Any, expected: Any) -> None:
    error = float(np.abs(np.asarray(got) - expected).max())
    if not error <= 1e-9:
        raise AssertionError(f"{name}: gradients differ by {error}")


def engines() -> dict[str, Any]:
    """Those that are installed."""
    found: dict[str, Any] = {"numpy": scalar_numpy.Runner}
    try:
        from tinygrad_bp.replay import scalar_numba
    except ImportError as error:
        print(error)
    else:
        found["numba"] = scalar_numba.Runner
    return found


def casadi_run(point: list[float]) -> tuple[Run, float]:
    """The same function, and its gradient by CasADi's reverse mode; how long making it took."""
    import casadi

    start = time.perf_counter()
    symbols = iter(symbol_list := [casadi.SX.sym(f"p{k}") for k in range(len(point))])
    loss = loss_of(converted(LAYERS, lambda w: next(symbols)), XS, YS, casadi.tanh)
    # In the order in which `converted` asks, which is that of `flat`.
    p = casadi.vertcat(*symbol_list)
    f = casadi.Function("f", [p], [loss, casadi.gradient(loss, p)])
    buffer, call = f.buffer()
    given, value, gradient = np.array(point), np.zeros(1), np.zeros(len(point))
    buffer.set_arg(0, memoryview(given))
    buffer.set_res(0, memoryview(value))
    buffer.set_res(1, memoryview(gradient))
    made = time.perf_counter() - start

    def run(kept: Any = (f, buffer, given)) -> Result:
        call()
        return value, gradient

    return run, made


def one_point() -> None:
    point = flat(LAYERS)
    unit_step, eager = plain_floats(), tinygrad_bp_values()
    expected = np.array(eager(SAMPLES))
    raw: list[Program] = []
    recording = seconds(lambda: raw.append(recorded(SAMPLES)))
    program = optimized(raw[0])
    optimising = seconds(lambda: optimized(raw[0]))
    nodes = computed(program)

    runs: dict[str, Run] = {}
    values: dict[str, Callable[[], Any]] = {}
    starts: dict[str, float] = {}
    for name, make in engines().items():

        def started(name: str = name, make: Any = make) -> None:
            runner = make(program)
            runner.value_and_gradient(point)
            runs[name] = lambda: runner.value_and_gradient(point)
            values[name] = lambda: runner.values(point)

        starts[name] = seconds(started)
    try:
        runs["CasADi SX"], starts["CasADi SX"] = casadi_run(point)
    except ImportError:
        print("CasADi is not installed")
    for name, run in runs.items():
        agree(name, run()[1], expected)

    best = dict.fromkeys(["floats", "eager", *runs], math.inf)
    forward = dict.fromkeys(values, math.inf)
    for repeat in range(REPEATS):
        best["floats"] = min(best["floats"], seconds(lambda: unit_step(SAMPLES)))
        if repeat < 5:
            best["eager"] = min(best["eager"], seconds(lambda: eager(SAMPLES)))
        for name, run in runs.items():
            best[name] = min(best[name], seconds(run))
        for name, run in values.items():
            forward[name] = min(forward[name], seconds(run))

    unit = best["floats"]
    print(f"MLP 2-16-16-1 tanh, squared error, {SAMPLES} samples: {nodes} operations")
    print(f"{'':34}{'ms':>9}{'ns/node':>10}{'ratio':>8}")
    rows = [("plain floats, forward only", unit), ("tinygrad_bp Values", best["eager"])]
    rows += [(f"replay {name}, forward only", t) for name, t in forward.items()]
    rows += [(name if " " in name else f"replay {name}", best[name]) for name in runs]
    for label, t in rows:
        print(f"{label:34}{1e3 * t:9.3f}{1e9 * t / nodes:10.2f}{t / unit:8.2f}")
    target(
        "numpy, value and gradient, against the float forward pass", best["numpy"] / unit, 1, "x"
    )
    if "numba" in runs:
        target("numba, the same", best["numba"] / unit, 0.2, "x")
        if "CasADi SX" in runs:
            target("numba against CasADi SX", best["numba"] / best["CasADi SX"], 1, "x")

    print("\nuntil it pays     record  optimise  build, compile, first run    eager steps")
    for name in values:
        total = recording + optimising + starts[name]
        steps = total / (best["eager"] - best[name])
        parts = f"{recording:9.2f}{optimising:10.2f}{starts[name]:28.2f}"
        print(f"{name:15}{parts}{steps:15.0f}")


def batches() -> None:
    """One sample recorded, many rows of data."""
    program = optimized(recorded(1, data_too=True))
    rng, nodes = np.random.default_rng(0), computed(program)
    columns = [*flat(LAYERS), *rng.uniform(-1, 1, (2, ROWS)), rng.choice([-0.8, 0.8], ROWS)]
    first = [x if isinstance(x, float) else float(x[0]) for x in columns]
    results = {}
    print(f"\none sample recorded ({nodes} operations), {ROWS} rows: ns per operation and row")
    print(f"{'':12}{'forward':>9}{'gradients':>11}{'summed':>8}")
    for name, make in engines().items():
        runner = make(program)
        kinds: list[dict[str, bool]] = [{"gradients": False}, {}, {"sum_gradients": True}]
        results[name] = runner.batch(columns, sum_gradients=True)[1]
        agree(name, runner.batch(columns)[1][0], runner.value_and_gradient(first)[1])
        agree(name, results[name] / ROWS, results["numpy"] / ROWS)
        scale = 1e9 / nodes / ROWS
        times = [scale * seconds(lambda k=k, r=runner: r.batch(columns, **k), 8) for k in kinds]
        print(f"{name:12}{times[0]:9.2f}{times[1]:11.2f}{times[2]:8.2f}")
    if len(results) > 1:
        target("numba, gradients of each row, per operation and row", times[1], 1.5, " ns")
        target("numba, their sum, the same", times[2], 1.5, " ns")


def tiled(sample: Program, size: int) -> Program:
    """The operations of a program over and over, added up: as many samples of the same data."""
    is_computed = sample.codes >= 2
    heads, body = np.flatnonzero(~is_computed), np.flatnonzero(is_computed)
    new = np.empty(len(sample), np.int64)
    new[heads], new[body] = np.arange(len(heads)), len(heads) + np.arange(len(body))
    head, step = len(heads), len(body) + 1
    copies = -(-(size - head) // step)
    operands = np.where(sample.operands >= 0, new[sample.operands], -1)[body]
    last = int(new[sample.outputs[0]])
    block = np.vstack([operands, [[0, last, -1]]])
    every = np.tile(block, (copies, 1, 1))
    every = np.where(every >= head, every + step * np.arange(copies)[:, None, None], every)
    every[1:, -1, 0] = head + step * np.arange(1, copies) - 1  # the sum so far
    add = sample.rules.index(RULES["add"])
    codes = np.append(sample.codes[body], add).astype(np.uint16)
    return Program(
        kind="scalar",
        rules=sample.rules,
        codes=np.concatenate([sample.codes[heads], np.tile(codes, copies)]),
        operands=np.vstack([sample.operands[heads], every.reshape(-1, 3)]).astype(np.int32),
        details={},
        inputs=[int(new[i]) for i in sample.inputs],
        constants={int(new[i]): x for i, x in sample.constants.items()},
        outputs=[head + step * copies - 1],
    )


def chained(size: int) -> Program:
    """x = x * a + b, over and over: nothing in it can be done side by side."""
    operands = np.full((size + 3, 3), -1, np.int32)
    operands[3:, 0] = np.arange(size) + 2
    operands[3:, 1] = np.arange(size) % 2
    codes = np.append([0, 0, 0], np.arange(size) % 2 + 2).astype(np.uint16)
    rules = ["input", "constant", RULES["multiply"], RULES["add"]]
    return Program("scalar", rules, codes, operands, {}, [0, 1, 2], {}, [size + 2])


def size(trace: bool) -> None:
    """Ten million instructions against one million: time and memory are linear."""
    sample = optimized(recorded(1, data_too=True))
    point = [*flat(LAYERS), 0.3, 0.2, 0.8]
    print(
        "\nprograms made directly      instructions   build s   ns/instr. of a run   bytes/instr."
    )
    shapes: list[tuple[str, Callable[[int], Program], list[float]]] = [
        ("samples", lambda n: tiled(sample, n), point),
        ("a chain", chained, [0.5, 0.1, 0.3]),
    ]
    for shape, make_program, inputs in shapes:
        for name, make in engines().items():
            per: list[float] = []
            for n in (HUGE // 10, HUGE):
                program, runners = make_program(n), []
                build = seconds(lambda p=program, m=make, r=runners: r.append(m(p)))
                (runner,) = runners
                runner.value_and_gradient(inputs)
                run = seconds(lambda r=runner, x=inputs: r.value_and_gradient(x), 2)
                per.append(run / len(program))
                held = runner.nbytes / len(program)
                label = f"{shape}, {name}"
                print(f"{label:27}{len(program):13}{build:10.2f}{1e9 * per[-1]:21.2f}{held:15.1f}")
                del runner, runners
            target(f"{label}: per instruction, ten times the size", per[1] / per[0], 2, "x")
    if trace:
        n = HUGE // 645
        raw: list[Program] = []
        print(f"recording {n} samples: {seconds(lambda: raw.append(recorded(n))):.1f} s")
        print(f"optimising {raw[0]!r}: {seconds(lambda: optimized(raw[0])):.1f} s")


if __name__ == "__main__":
    one_point()
    batches()
    size("--trace" in sys.argv)
