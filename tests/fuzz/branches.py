"""Random functions with branches, random numbers and indices: replayed, recorded afresh, and eager.

    python -m tests.fuzz.branches [how many of each kind] [how many by jax]

Every function is called on many data sets in a row: other numbers, nan and infinities and good data
again, other shapes. Each call of the one compiled function must give what a new one gives, what the
eager engine gives, and leave the generator in the same state.
"""

import importlib.util
import os
import sys
import time
from typing import NamedTuple

# By itself, XLA computes a quantity anew wherever it is used, with other last bits. In random
# functions operands of minimum are often equal, and then it takes one for the smaller.
os.environ.setdefault("XLA_FLAGS", "--xla_disable_hlo_passes=fusion")

import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import nn

CHUNK = 50  # of a few seconds
MODEL = nn.MLP([4, 3, 4], ["tanh", "sigmoid"], rng=0)
UNARY = [
    *(tb.tanh, tb.sigmoid, tb.relu, tb.sin, tb.absolute, tb.softplus, tb.negative, tb.square),
    lambda x: tb.exp(-x * x),
    lambda x: tb.log(1.0 + x * x),
    lambda x: tb.sqrt(tb.absolute(x) + 0.5),
    lambda x: x / (1.0 + x * x),
    lambda x: tb.clip(x, -1.0, 0.75),
    lambda x: x**3 - x,
]


def negated(condition):
    """What ~ is of comparisons; a Value's is Python's own bool, of which ~ is an integer."""
    return not condition if isinstance(condition, bool) else ~condition


BINARY = [
    *(tb.add, tb.subtract, tb.multiply, tb.maximum, tb.minimum, tb.hypot),
    lambda x, y: x / (1.0 + y * y),
    lambda x, y: tb.where(x > y, x * 2.0, y),
    lambda x, y: tb.where((x > 0.0) & negated(y > x), y, -x),
]
# Of an array (n, 4), giving another.
MOVES = [
    lambda x: x[::-1],
    lambda x: tb.softmax(x),
    lambda x: tb.log_softmax(x, 0),
    lambda x: x - tb.mean(x, 0, keepdims=True),
    lambda x: x @ (x.T @ x) / 9.0,
    lambda x: tb.concatenate([x[1:], x[:1] * 2.0]),
    lambda x: x * tb.sum(x, 1, keepdims=True),
    lambda x: tb.cumsum(x, 0) / 3.0,
    lambda x: x.reshape(-1).reshape(x.shape),
    lambda x: tb.stack([x, -x]).max(0),
    lambda x: x * x.detach(),
    MODEL,
]
OF_INDEX = [
    lambda x, i: x[i],
    lambda x, i: tb.take(x, i, 0) - x,
    lambda x, i: x * tb.one_hot(i, len(i)).sum(0)[:, None],
]
DRAWN = [
    lambda x, rng: x * rng.normal(),
    lambda x, rng: x + rng.uniform(1.0, 2.0) * rng.random(),
    lambda x, rng: x * rng.integers(-2, 3),
    lambda x, rng: tb.where(rng.random() < 0.7, x / 0.7, -x),
]
DRAWN_OF_A_SHAPE = [
    lambda x, rng: x + 0.1 * rng.standard_normal(x.shape),
    lambda x, rng: tb.where(rng.random(x.shape) < 0.7, x / 0.7, 0.0),
    lambda x, rng: x[rng.permutation(len(x))],
    lambda x, rng: x * rng.binomial(1, 0.5, x.shape),
]


def everything(x, y, few):
    """Each operation once."""
    total = x
    for f in UNARY[:few]:
        total = total + f(y)
    for f in BINARY[:few]:
        total = total - f(x, y)
    return tb.where(total < x, tb.tanh(total), total * 0.0)


def random_function(seed, kind, branches=2, length=9, few=None):
    """A function of two arrays (n, 4), or numbers, positions 0 ... n - 1, and a generator.

    With a number of operations of a kind, all of these occur in it: numba then compiles one
    interpreter for all functions.
    """
    unary, binary = UNARY[:few], BINARY[:few]
    random = np.random.default_rng([seed, kind == "array"])
    plan = random.integers(0, 1 << 30, (length, 6)).tolist()
    asks = set(random.choice(length, branches, replace=False).tolist())
    mean = tb.mean if kind == "array" else tb.positive
    draws = DRAWN + DRAWN_OF_A_SHAPE if kind == "array" else DRAWN
    leaf = tb.Value(random.normal()) if kind == "number" else tb.Tensor(random.normal(size=4))

    def f(x, y, i, rng):
        pool = [x, y, x * leaf]
        for k, (what, a, b, which, c, where) in enumerate(plan):
            u, v = pool[a % len(pool)], pool[b % len(pool)]
            if k in asks and mean(u) > where % 5 / 4.0 - 0.5:
                pool[-1] = v * (c % 7 - 3.0) + u
                if k % 2:
                    continue  # the ways differ in length, and in what they draw
            if what % 8 < 3:
                z = unary[which % len(unary)](u)
            elif what % 8 < 5 or (kind == "number" and what % 8 < 7):
                z = binary[which % len(binary)](u, v)
            elif what % 8 == 5:
                z = MOVES[which % len(MOVES)](u)
            elif what % 8 == 6:
                z = OF_INDEX[which % len(OF_INDEX)](u, i)
            else:
                z = draws[which % len(draws)](u, rng)
            pool.append(z)
        total = mean(pool[0]) if few is None else everything(x, y, few)
        for z in pool[1:]:
            total = total + tb.tanh(mean(z) * 0.5)
        return total, pool[-1], pool[-2]

    return f, leaf


def data_sets(seed, kind, calls):
    """Numbers for the calls one after the other; for arrays of several shapes."""
    random = np.random.default_rng([seed, 9])
    for k in range(calls):
        n = (3, 3, 5, 3)[k % 4]
        shape = (2,) if kind == "number" else (2, n, 4)
        x = random.normal(size=shape) * (1.0 + k % 3)
        if k % 5 == 3:  # and good data after
            bad = random.choice([np.nan, np.inf, -np.inf, 0.0, -0.0], x.size)
            x.flat[:: 1 + k % 3] = bad[:: 1 + k % 3]
        yield (*(x.tolist() if kind == "number" else x), random.integers(0, n, n))


def flat(result):
    """Value, further outputs and gradients, as a list of arrays."""
    (value, *more), gradients = result
    return [np.asarray(getattr(x, "data", x)) for x in (value, *more, *gradients)]


def eager(f, args):
    """The function itself."""

    def first(x, y):
        value, *more = f(x, y, *args[2:])
        return value, more

    (value, more), gradients = tb.value_and_grad(first, (0, 1), has_aux=True)(*args[:2])
    return flat(((value, *more), gradients))


def compare(got, expected, exactly, what):
    """Raise an AssertionError unless they agree."""
    for a, b in zip(got, expected, strict=True):
        if exactly:
            assert a.shape == b.shape, what
            assert np.array_equal(a, b, equal_nan=True), what
            signs = np.isnan(a) | (np.signbit(a) == np.signbit(b))
            assert signs.all(), what
        else:
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10, err_msg=str(what))


class Program(NamedTuple):
    """A random function, and how it is replayed: the arguments of `replayed`."""

    seed: int
    kind: str
    engine: str = "numpy"
    calls: int = 8
    branches: int = 2
    few: int | None = None
    length: int = 9


def generate(random):
    engines = ["numpy", "numpy", "numba"] if importlib.util.find_spec("numba") else ["numpy"]
    engine = random.choice(engines)
    kind = "number" if engine == "numba" else random.choice(["number", "array"])
    few = len(UNARY) if engine == "numba" else None
    return Program(random.randrange(1 << 40), kind, engine, few=few)


def check(program, tally):
    records = replayed(**program._asdict())
    tally[f"replays of {program.kind}s with branches by {program.engine}"] += program.calls
    tally["(records)"] += records


def smaller(program):
    for name, least in (("calls", 1), ("length", 3), ("branches", 1)):
        now = getattr(program, name)
        for less in (least, (now + least) // 2, now - 1):
            if least <= less < now:
                yield program._replace(**{name: less})


def code(program):
    return f"from tests.fuzz import branches\n\nbranches.replayed(**{program._asdict()!r})"


def replayed(seed, kind, engine="numpy", calls=8, branches=2, few=None, length=9):
    """One random function, on many data sets. Returns how often it was recorded."""
    few = len(UNARY) if few is None and engine == "numba" else few
    f, leaf = random_function(seed, kind, branches, length, few)
    options = {"argnums": (0, 1), "engine": engine, "optimize": False}
    step = tb.compile(f, **options)
    exact = engine == "numpy" and kind == "array"
    edges = np.random.default_rng(seed)
    for k, given in enumerate(data_sets(seed, kind, calls)):
        leaf.data = leaf.data + edges.normal()
        numbers = given if kind == "array" else (*given[:2], None)
        if engine == "jax" and not np.isfinite(np.asarray(given[:2])).all():
            continue  # its functions of infinities, and of subnormal numbers, are its own
        what = (seed, kind, engine, k)
        mine, theirs, third = (np.random.default_rng([seed, k]) for _ in range(3))
        got = flat(step.value_and_grad(*numbers, mine))
        with np.errstate(all="ignore"):
            compare(got, eager(f, (*numbers, theirs)), exact, what)
        assert mine.bit_generator.state == theirs.bit_generator.state, what
        if engine != "jax":  # it compiles for too long
            fresh = tb.compile(f, **options)
            compare(got, flat(fresh.value_and_grad(*numbers, third)), True, what)
            assert mine.bit_generator.state == third.bit_generator.state, what
    return step.recordings


def main(each=1000, by_jax=100):
    """Check many, and say how many there were."""
    counts = {("number", "numpy"): each, ("array", "numpy"): each}
    if importlib.util.find_spec("numba"):
        counts["number", "numba"] = each
    if importlib.util.find_spec("jax"):
        import jax

        jax.config.update("jax_enable_x64", True)
        counts["array", "jax"], counts["number", "jax"] = by_jax, by_jax // 2
    for (kind, engine), count in counts.items():
        start, recorded = time.perf_counter(), 0
        for seed in range(count):
            calls = 8 if engine != "jax" else 4
            recorded += replayed(seed, kind, engine, calls, branches=2 if engine != "jax" else 1)
        passed = time.perf_counter() - start
        print(f"{count} functions of {kind}s by {engine}: {recorded} records, {passed:.0f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
