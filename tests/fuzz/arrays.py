"""Random programs of arrays: against PyTorch, differences, and every other way the engine has.

Value and gradient of every operation are compared with PyTorch's (see `torch_oracle`); the whole
program's gradient, in a random direction, with differences of the program's values. Then the other
ways to the same numbers are compared with the eager one: gradients that are nodes, forward mode, a
record replayed by numpy; and of a few programs single numbers (`tb.values`), numba and jax.
"""

import functools
import random as _random
from collections import Counter
from collections.abc import Iterator

import numpy as np

import tinygrad_bp as tb
from tinygrad_bp.array_rules import ARRAY_RULES
from tinygrad_bp.rules import RULES

from . import Mismatch, making, programs
from .programs import Program, function_of, run, tensors, total, tracked
from .wobble import agree, exactly, same_replay, turned

# One in so many programs is tried in these ways as well, chosen by its mark.
VALUES, NUMBA, JAX = 20, 4000, 2000
CHUNK = 100


EPS = float(np.finfo(np.float64).eps)
EPS_32 = float(np.finfo(np.float32).eps)


def generate(random: _random.Random) -> Program:
    return making.make(random)


def smaller(program: Program) -> Iterator[Program]:
    yield from programs.smaller(program)


def code(program: Program) -> str:
    lines = [
        "from collections import Counter",
        "",
        "import numpy as np",
        "from numpy import inf, nan",
        "",
        "import tinygrad_bp as tb",
        "from tests.fuzz import arrays, programs",
        "from tests.fuzz.programs import Leaf, Program, Step",
        "",
        programs.source(program),
        f"leaves = [{', '.join(f'x{i}' for i in range(len(program.leaves)))}]",
        f"print(tb.value_and_grad(f, {tracked(program)})(*leaves))",
        "",
        f"arrays.check({program!r}, Counter())",
    ]
    return "\n".join(lines).replace("Ellipsis", "...")


def check(program: Program, tally: Counter) -> None:
    """Raise Mismatch if any two ways to the program's numbers disagree."""
    from .torch_oracle import Comparison

    leaves = tensors(program)
    results = run(program, leaves)
    loss = total(program, results)
    tally["(programs)"] += 1
    if loss.requires_grad:
        loss.backward()
    comparison = Comparison(program, leaves, results, tally)
    tally["values of operations, PyTorch"] += len(results)
    if not loss.requires_grad:
        tally["skipped: without a gradient"] += 1
        return
    comparison.gradients()
    value, gradients = loss.item(), [leaf.grad for leaf in leaves if leaf.requires_grad]
    _create_graph(program, comparison, gradients, tally)
    _replayed(program, value, gradients, tally)
    finite = all(np.isfinite(z._array).all() for z in results) and np.isfinite(value)
    if not (finite and all(g is None or np.isfinite(g).all() for g in gradients)):
        tally["skipped: forward mode and differences, infinities or nan"] += 1
        return
    v = directions(program)
    allowed = rounding(program, comparison, v)
    _forward(program, value, gradients, v, allowed, tally)
    _differences(program, results, gradients, v, allowed, tally)
    _elsewhere(program, value, gradients, tally)


def _filled(gradients, program):
    """Gradients with zeros where nothing leads to a leaf."""
    shapes = [program.leaves[i] for i in tracked(program)]
    return [
        np.zeros(leaf.shape, leaf.dtype) if g is None else np.asarray(g)
        for g, leaf in zip(gradients, shapes, strict=True)
    ]


def _create_graph(program, comparison, gradients, tally):
    """Gradients that are nodes are computed by the same formulas, so they are the same bits.

    But for the order of sums: what is a node lies in the order of its axes, and what an operation
    of numpy's gives otherwise, at times, as after a transpose.
    """
    leaves = tensors(program)
    again = tb.grad(function_of(program), tracked(program), create_graph=True)(*leaves)
    got, expected = [np.asarray(g) for g in again], _filled(gradients, program)
    tally["create_graph"] += 1
    is_single = single(comparison)
    if not is_single:
        try:
            exactly("create_graph: gradient", got, expected)
            return
        except Mismatch:
            if not turned(*comparison.leaves, *comparison.results):
                raise
    # A partial of constants, such as where()'s, is float64 among numbers and float32 among nodes.
    sizes = comparison.sizes()
    for x, y, i in zip(got, expected, tracked(program), strict=True):
        with np.errstate(all="ignore"):
            near = np.abs(x - y) <= PATH_ROUNDINGS * (EPS_32 if is_single else EPS) * sizes[i]
        if not (near | (x == y) | (np.isnan(x) & np.isnan(y))).all():
            raise Mismatch(f"create_graph: gradient {i}: {x}, and not {y}")
    if not is_single:
        tally["(create_graph: arrays turned in memory, last bits)"] += 1


def _replayed(program, value, gradients, tally):
    """A record gives every bit of the function itself."""
    step = tb.compile(function_of(program), argnums=tracked(program), optimize=False)
    got, replayed = step.value_and_grad(*tensors(program))
    tally["replays, numpy"] += 1
    same_replay(program, (got, replayed), (value, _filled(gradients, program)), tally)


def single(comparison):
    """Whether there is float32 in it."""
    return any(z.dtype == np.float32 for z in (*comparison.leaves, *comparison.results))


def directions(program):
    """A direction per tracked leaf; none for the others."""
    random = np.random.default_rng(program.mark)
    return [
        random.choice([-1.0, -0.5, 0.5, 1.0], leaf.shape).astype(leaf.dtype)
        if leaf.tracked
        else np.zeros(leaf.shape, leaf.dtype)
        for leaf in program.leaves
    ]


NEAR = 1e-2  # some steps of the differences


# Each operation on a path rounds some times, in both directions; a path has at most 12 + 3.
PATH_ROUNDINGS = 2000


def rounding(program, comparison, v):
    """What roundings may do to the derivative in a direction: a part of the sum of its terms."""
    sizes = comparison.sizes()
    scale = sum(float(np.vdot(sizes[i], np.abs(v[i]))) for i in tracked(program))
    return PATH_ROUNDINGS * (EPS_32 if single(comparison) else EPS) * scale


def _forward(program, value, gradients, v, allowed, tally):
    """Forward mode takes the same sums over all paths, in another order."""
    f = function_of(program)
    chosen = tracked(program)
    fixed = tensors(program)

    def g(*moving):
        leaves = list(fixed)
        for i, x in zip(chosen, moving, strict=True):
            leaves[i] = x
        return f(*leaves)

    primals = tuple(program.leaves[i].array() for i in chosen)
    got, tangent = tb.jvp(g, primals, tuple(v[i] for i in chosen))
    agree("forward mode: value", program, (got, ()), (value, ()), tally, of=())
    expected = sum(
        float(np.vdot(x.astype(float), v[i]))
        for x, i in zip(_filled(gradients, program), chosen, strict=True)
    )
    if not np.isfinite(allowed):
        tally["skipped: forward mode, terms overflow"] += 1
        return
    if not abs(tangent - expected) <= allowed + 1e-300:
        raise Mismatch(f"forward mode: {tangent}, by the gradient {expected} within {allowed}")
    tally["forward mode"] += 1


@functools.cache
def _smooth_names():
    """Operations without a kink; hypot and norm have one at the origin."""
    elementwise = {name for name, rule in RULES.items() if not rule.kinks} - {"where", "hypot"}
    structural = {*ARRAY_RULES, *programs.FUNCTIONS} - {"max", "min", "norm", "astype"}
    return elementwise | structural


def _at_the_cut(program, results):
    """Whether a step may lead over the cut of an arctan2, the half-axis where it jumps."""
    leaves = tensors(program)
    for step in program.steps:
        if step.name == "arctan2":
            operands = programs.operands_of(step, leaves, results)
            x, y = (np.asarray(getattr(z, "_array", z)) for z in operands)
            if np.any((np.abs(x) < NEAR) & (y < NEAR)):
                return True
    return False


def _differences(program, results, gradients, v, allowed, tally):
    """Central differences, of the step for which two of them agree best.

    They show a wrong gradient, and never a slightly inaccurate one: wrong is what no step can
    bring within the distance of two estimates, nor within what roundings may do to the gradient.
    """
    if not {step.name for step in program.steps} <= _smooth_names():
        tally["skipped: differences, not smooth"] += 1
        return
    numbers = [*(z._array for z in results), *(leaf.array() for leaf in program.leaves)]
    large = max(np.abs(x).max(initial=0.0) for x in numbers)  # a step is lost beside such a leaf
    if large > 1e6 or any(leaf.dtype != "float64" for leaf in program.leaves):
        tally["skipped: differences, too large or float32"] += 1
        return
    if _at_the_cut(program, results):
        tally["skipped: differences, at the cut of arctan2"] += 1
        return
    chosen = tracked(program)
    filled = _filled(gradients, program)
    expected = sum(float(np.vdot(g, v[i])) for g, i in zip(filled, chosen, strict=True))
    sizes = sum(float(np.abs(g).sum()) for g in filled)
    start = [leaf.array() for leaf in program.leaves]

    def slope(h):
        with tb.no_grad():
            up, down = (
                total(program, run(program, tensors(program, [x + s * h * d for x, d in
                      zip(start, v, strict=True)]))).item()
                for s in (1.0, -1.0)
            )  # fmt: skip
        return (up - down) / (2.0 * h)

    best = np.inf
    for h in (1e-4, 1e-5, 1e-6, 1e-3):
        coarse, fine = slope(2.0 * h), slope(h)
        if not np.isfinite(coarse - fine):
            continue
        error = abs(coarse - fine)
        best = min(best, error)
        if abs(fine - expected) <= 5.0 * error + 1e-6 * (sizes + abs(fine)) + 1e-9:
            good = error <= 1e-3 * (sizes + 1e-3)
            tally["differences" if good else "skipped: differences, too rough to tell"] += 1
            return
    if best > 1e-2 * (sizes + 1e-3):
        tally["skipped: differences, too rough to tell"] += 1
        return
    if abs(fine - expected) <= allowed:
        tally["skipped: differences, terms that cancel"] += 1
        return
    raise Mismatch(f"differences: {fine} (error {error}), by the gradient {expected}")


# --- other engines ------------------------------------------------------------------------------


def _elsewhere(program, value, gradients, tally):
    """Single numbers, numba and jax, for a few of the programs."""
    plain = all(leaf.dtype == "float64" for leaf in program.leaves) and not any(
        step.name == "astype" for step in program.steps
    )
    if not plain:
        return
    filled = _filled(gradients, program)
    if program.mark % VALUES == 0 and _of_values(program):
        got = tb.value_and_grad(function_of(program), tracked(program))(*_values(program))
        agree("single numbers", program, got, (value, filled), tally)
        tally["single numbers"] += 1
    if program.mark % NUMBA == 1 and _of_values(program):
        step = tb.compile(function_of(program), argnums=tracked(program), engine="numba")
        agree("numba", program, step.value_and_grad(*_values(program)), (value, filled), tally)
        tally["replays, numba"] += 1
    if program.mark % JAX == 2:
        with_jax()
        step = tb.compile(function_of(program), argnums=tracked(program), engine="jax")
        agree("jax", program, step.value_and_grad(*tensors(program)), (value, filled), tally)
        tally["replays, jax"] += 1


@functools.cache
def with_jax():
    import jax

    jax.config.update("jax_enable_x64", True)


def _of_values(program):
    """Whether single numbers, which are Values and no arrays, meet elementwise operations alone."""
    leaves = tensors(program)
    results = run(program, leaves)
    return all(
        step.name in RULES or all(x.shape for x in programs.operands_of(step, leaves, results))
        for step in program.steps
    )


def _values(program):
    """The leaves as arrays of Values."""
    return [
        tb.values(leaf.array()) if leaf.shape else tb.Value(leaf.numbers[0])
        for leaf in program.leaves
    ]
