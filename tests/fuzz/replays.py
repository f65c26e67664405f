"""Random programs, recorded once and replayed on many data sets, each checked against eager runs.

Arrays that numpy replays without optimisation must give every bit. What rounds in another way
(gathered products, single numbers, numba, jax) must agree but for what roundings may do, see
`wobble`. A row of a batch is checked as a replay of its own.
"""

import functools
import importlib.util
import random as _random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import inf, nan

import tinygrad_bp as tb
from tinygrad_bp import replay
from tinygrad_bp.rules import RULES

from . import Mismatch, making, programs
from .making import Maker
from .programs import Step, tidied
from .wobble import agree, close, same_replay

ROWS = 64  # of a batch
CHUNK = 50


class Program(NamedTuple):
    """What is recorded, and how it is replayed.

    Attributes:
        body: the function.
        kind: "array" or "number".
        engine: what replays it.
        mode: "value", "value_and_grad" or "backward"; "batch" for rows, "file" for a record that
            is saved and loaded.
        optimize: as for `compile`.
        captured: the leaves that the function reaches by itself.
        calls: how many data sets.
    """

    body: programs.Program
    kind: str = "array"
    engine: str = "numpy"
    mode: str = "value_and_grad"
    optimize: bool = False
    captured: tuple[int, ...] = ()
    calls: int = 30


# --- making -------------------------------------------------------------------------------------

# Numba compiles one interpreter per set of operations: with all of a family in every program, and
# in this order, it compiles as many as there are families.
FAMILIES = [sorted(RULES)[k::4] for k in range(4)]


@functools.cache
def has(package):
    return importlib.util.find_spec(package) is not None


def generate(random: _random.Random) -> Program:
    kind = random.random()
    if kind < 0.3:
        return _arrays(random)
    if kind < 0.3 + 0.0002:
        return _arrays(random)._replace(engine="jax", mode="value_and_grad", captured=())
    if kind < 0.65:
        return numbers(random)
    return numbers(random, random.choice(FAMILIES))


def _arrays(random):
    optimize = random.random() < 0.4
    body = unrolled(random) if optimize and random.random() < 0.4 else making.make(random)
    mode = random.choices(["value", "value_and_grad", "backward", "file"], [1, 5, 3, 1])[0]
    return Program(body, "array", "numpy", mode, optimize, _captured(random, body, mode))


def _captured(random, body, mode):
    if mode == "file" or len(body.leaves) < 2:
        return ()
    some = tuple(i for i in programs.tracked(body) if random.random() < 0.25)
    left = [i for i in programs.tracked(body) if i not in some]
    return some if left else ()


def numbers(random, family=None):
    """A program of single numbers; with a family of operations, for numba."""
    rules = family or sorted(RULES)
    body = making.make(random, few=rules, wild=random.random() < 0.1)
    mode = random.choices(["value", "value_and_grad", "backward", "file", "batch"], [1, 3, 2, 1, 5])
    engine = "numpy"
    if family is not None and has("numba"):
        engine, body = "numba", _with_all(body, rules)
    captured = _captured(random, body, mode[0])
    calls = 3 if mode[0] == "batch" else 30
    return Program(body, "number", engine, mode[0], False, captured, calls)


def _with_all(body, rules):
    """The program, after one operation of each kind."""
    first = [Step("sigmoid", (~0,)), Step("multiply", (0, 0.5)), Step("add", (1, 0.3))]
    first += [Step(name, (1, 2, 1)[: RULES[name].arity]) for name in rules]
    n = len(first)

    def later(x):
        return x + n if type(x) is int and x >= 0 else x

    rest = [s._replace(operands=tuple(map(later, s.operands))) for s in body.steps]
    return tidied(body._replace(steps=(*first, *rest)))


def unrolled(random):
    """A network over time, whose products may be gathered."""
    m = Maker(random)
    times, batch, inputs, size = (random.randint(2, n) for n in (7, 3, 3, 4))
    xs, h = m.leaf((times, batch, inputs), is_tracked=True), m.leaf((batch, size))
    U, W, b = m.leaf((inputs, size)), m.leaf((size, size)), m.leaf((size,))
    for t in range(times):
        x = m.add("row", [xs], (t,))
        if random.random() < 0.5:
            z = m.add("linear", [x, U, b])
        else:
            z = m.add("add", [m.add("matmul", [x, U]), b])
        h = m.add("tanh", [m.add("add", [z, m.add("matmul", [h, W])])])
    return tidied(programs.Program(random.randrange(1 << 30), tuple(m.leaves), tuple(m.steps)))


# --- data ---------------------------------------------------------------------------------------


def data_sets(program):
    """Arrays per leaf, for one call after the other: like the leaf's own, and bad ones between."""
    random = np.random.default_rng(program.body.mark)
    start = [leaf.array() for leaf in program.body.leaves]
    for k in range(program.calls):
        arrays = []
        for x in start:  # numpy makes numbers of arrays of no dimensions
            y = x.copy() if k % 3 == 2 else x * random.uniform(0.5, 1.5, x.shape)
            if k % 3 == 1:
                y = y + random.normal(size=x.shape) * 0.3
            if k % 11 == 7 and y.size and program.engine != "jax":
                odd = random.choice([nan, inf, -inf, 0.0, -0.0, 1e300, -1e-300])
                y = np.array(y, np.float64)
                y.flat[random.integers(y.size)] = odd
            with np.errstate(all="ignore"):
                arrays.append(np.asarray(y, x.dtype))
        yield k, arrays


# --- checking -----------------------------------------------------------------------------------


def _function(program, leaves):
    """The function, with some leaves at hand and the others as arguments."""
    body, captured = program.body, program.captured
    names = [f"x{i}" for i in range(len(body.leaves))]
    lines = [f"def f({', '.join(x for i, x in enumerate(names) if i not in captured)}):"]
    lines += programs.lines(body, names)
    space = {"tb": tb, "np": np, "nan": nan, "inf": inf, "programs": programs}
    space |= {names[i]: leaves[i] for i in captured}
    exec(compile("\n".join(lines), "<program>", "exec"), space)
    return space["f"]


def _nodes(program, arrays):
    pairs = zip(arrays, program.body.leaves, strict=True)
    if program.kind == "number":
        return [tb.Value(float(x), requires_grad=leaf.tracked) for x, leaf in pairs]
    return [tb.Tensor(x, requires_grad=leaf.tracked) for x, leaf in pairs]


def eager(program, arrays, once=False):
    """Value, and gradients of the tracked leaves; None for those that nothing leads to."""
    leaves = _nodes(program, arrays)
    loss = programs.total(program.body, programs.run(program.body, leaves, once=once))
    if getattr(loss, "requires_grad", False):
        loss.backward()
    return float(loss), [leaf.grad for leaf in leaves]


class Replay:
    """A compiled function and how it is called."""

    def __init__(self, program):
        self.program = program
        self.body = program.body
        self.leaves = _nodes(program, [leaf.array() for leaf in self.body.leaves])
        self.given = [i for i in range(len(self.leaves)) if i not in program.captured]
        self.by = [i for i in self.given if self.body.leaves[i].tracked]
        argnums = tuple(self.given.index(i) for i in self.by)
        self.step = tb.compile(
            _function(program, self.leaves), argnums=argnums, optimize=program.optimize,
            engine=program.engine,
        )  # fmt: skip
        self.loaded = None

    def set_captured(self, arrays):
        for i in self.program.captured:
            x = arrays[i]
            self.leaves[i].data = float(x) if self.program.kind == "number" else x

    def __call__(self, arrays):
        """Value, and gradients by leaf number, of one data set."""
        self.set_captured(arrays)
        mode = self.program.mode
        if self.program.kind == "number":
            arguments = [float(arrays[i]) for i in self.given]
        else:
            arguments = [arrays[i] for i in self.given]
        if mode == "value":
            return self.step(*arguments), {}
        if mode == "value_and_grad":
            value, gradients = self.step.value_and_grad(*arguments)
            return value, dict(zip(self.by, gradients, strict=True))
        if mode == "backward":
            return self._backward(arrays)
        return self._from_file(arguments)

    def _backward(self, arrays):
        fresh = _nodes(self.program, arrays)
        nodes = [x if i in self.given else self.leaves[i] for i, x in enumerate(fresh)]
        for i in self.program.captured:
            nodes[i].grad = None
        value = self.step.backward(*(nodes[i] for i in self.given))
        return value, {i: x.grad for i, x in enumerate(nodes) if x.requires_grad}

    def _from_file(self, arguments):
        if self.loaded is None:
            recorded = self.step.program(*arguments, gradient=True)
            with tempfile.TemporaryDirectory() as folder:
                replay.save(recorded, Path(folder) / "program")
                self.recorded = replay.load(Path(folder) / "program")
            self.loaded = replay.runner(self.recorded, self.program.engine)
        if self.program.kind == "number":
            results, gradients = self.loaded.value_and_gradient(arguments)
            by = {i: gradients[self.given.index(i)] for i in self.by}
        else:
            results = self.loaded.values(arguments)
            by = dict(zip(self.by, results[1:], strict=False))
        outcomes = results[len(self.recorded.outputs) :]  # of branches, such as one in prod's rule
        if [bool(x) for x in outcomes] != [guard.outcome for guard in self.recorded.guards]:
            self.loaded = None  # another program
            return self._from_file(arguments)
        return float(results[0]), by


def check(program: Program, tally: Counter) -> None:
    """Raise Mismatch if a replay differs from the eager engine."""
    if program.engine == "jax":
        from .arrays import with_jax

        with_jax()
    tally["(functions)"] += 1
    compiled = Replay(program)
    if not _is_tracked(program):
        tally["(functions without a gradient: values alone)"] += 1
        program = program._replace(mode="value" if program.mode != "batch" else "batch")
        compiled.program = program
    if program.mode == "batch":
        _check_batches(compiled, tally)
        return
    for _, arrays in data_sets(program):
        value, gradients = eager(program, arrays)
        got, replayed = compiled(arrays)
        _compare(program, arrays, (got, replayed), (value, gradients), tally)
        tally[f"replays of {program.kind}s by {program.engine}"] += 1


def _is_tracked(program):
    leaves = _nodes(program, [leaf.array() for leaf in program.body.leaves])
    loss = programs.total(program.body, programs.run(program.body, leaves))
    return getattr(loss, "requires_grad", False)


def _compare(program, arrays, got, expected, tally):
    value, gradients = expected
    got_value, replayed = got
    if (
        program.kind == "number"
        and _near(got_value, value)
        and all(_near(g, gradients[i] or 0.0) for i, g in replayed.items())
    ):
        return
    pairs = []
    for i, g in replayed.items():
        if gradients[i] is None:  # a replay tells nothing of whether a leaf takes part
            if g is not None and np.any(g):
                raise Mismatch(f"gradient {i}: {g}, and not none")
        else:
            pairs.append((i, g, gradients[i]))
    mine = got_value, [g for _, g, _ in pairs]
    theirs = value, [g for _, _, g in pairs]
    if program.kind == "array" and program.engine == "numpy" and not program.optimize:
        same_replay(program.body, mine, theirs, tally, arrays)
        return
    what = f"{program.kind}s by {program.engine}" + " optimized" * program.optimize
    try:
        agree(what, program.body, mine, theirs, tally, arrays, of=[i for i, _, _ in pairs],
              nodes=functools.partial(_nodes, program))  # fmt: skip
    except Mismatch:
        if program.kind != "number" or not _agree_once(program, mine, pairs, arrays):
            raise
        tally[f"({what}: equal operations are one)"] += 1


def _agree_once(program, mine, pairs, arrays):
    """Whether a replay of numbers gives what the eager engine does if it shares what is equal.

    It is handed one gradient then, their sum, and 0 times an infinite derivative is 0, where the
    difference of two infinities is nan.
    """
    value, gradients = eager(program, arrays, once=True)
    expected = [value, *(gradients[i] for i, _, _ in pairs)]
    given = zip((mine[0], *mine[1]), expected, strict=True)
    return all(close(np.asarray(x), np.asarray(y)) for x, y in given)


def _near(x, y):
    """Single numbers that agree but for some roundings of their size."""
    return x == y or abs(x - y) <= 1e-11 * abs(y) or (x != x and y != y)


def _check_batches(compiled, tally):
    """Rows of numbers: each is a replay."""
    program, body = compiled.program, compiled.body
    for k, arrays in data_sets(program):
        compiled.set_captured(arrays)
        random = np.random.default_rng([body.mark, k])
        moves = random.choice([1.0, 0.9, 1.1, -1.0, 0.0, 2.0], (ROWS, len(arrays)))
        columns = np.array([float(x) for x in arrays]) * moves
        some = tuple(range(len(compiled.given)))
        rows, gradients = compiled.step.batch(
            *(columns[:, i] for i in compiled.given), rows=some, gradient="rows"
        )
        for r in range(ROWS):
            here = [
                np.asarray(columns[r, i] if i in compiled.given else arrays[i])
                for i in range(len(arrays))
            ]
            replayed = {i: float(g[r]) for i, g in zip(compiled.by, gradients, strict=True)}
            _compare(program, here, (float(rows[r]), replayed), eager(program, here), tally)
        tally[f"replays of {program.kind}s by {program.engine}, rows"] += ROWS


# --- smaller, and printed -----------------------------------------------------------------------


def smaller(program: Program) -> Iterator[Program]:
    for calls in (1, program.calls // 2, program.calls - 1):
        if 0 < calls < program.calls:
            yield program._replace(calls=calls)
    if program.captured:
        yield program._replace(captured=())
    if program.mode in ("file", "backward"):
        yield program._replace(mode="value_and_grad")
    for body in programs.smaller(program.body):
        if program.kind == "number" and any(leaf.shape for leaf in body.leaves):
            continue
        captured = tuple(i for i in program.captured if i in programs.tracked(body))
        if any(leaf.tracked and i not in captured for i, leaf in enumerate(body.leaves)):
            yield program._replace(body=body, captured=captured)


def code(program: Program) -> str:
    return "\n".join(
        [
            "from collections import Counter",
            "",
            "import numpy as np",
            "from numpy import inf, nan",
            "",
            "import tinygrad_bp as tb",
            "from tests.fuzz import programs, replays",
            "from tests.fuzz.programs import Leaf, Step",
            "",
            "# What is recorded:",
            programs.source(program.body),
            "",
            "body = programs." + repr(program.body).replace("Ellipsis", "..."),
            f"program = replays.Program(body, {program.kind!r}, {program.engine!r}, "
            f"{program.mode!r}, {program.optimize}, {program.captured}, {program.calls})",
            "for k, arrays in replays.data_sets(program):",
            "    print('data', k, *arrays)",
            "    print('eager', *replays.eager(program, arrays))",
            "    if program.mode != 'batch':",
            "        print('replayed', *replays.Replay(program)(arrays))",
            "replays.check(program, Counter())",
        ]
    )
