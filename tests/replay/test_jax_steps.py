"""Loops of programs on jax: the numbers and gradients of the library, in code of one size."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_steps import CELLS, LOSSES, B, H, example, random, recorded, unrolled

import tinygrad_bp as tb
from tinygrad_bp import nn

jax = pytest.importorskip("jax", reason="jax is not installed: pip install tinygrad_bp[jax]")
jnp = jax.numpy

from tinygrad_bp.replay.jax_engine import Runner, function  # noqa: E402
from tinygrad_bp.replay.steps import rolled  # noqa: E402

CLOSE = {"rtol": 1e-11, "atol": 1e-13}
nan = float("nan")


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def close(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)


def eager(f, weights, xs, ys):
    """Value and gradients, by the library without a program."""

    def loss(*args):
        result = f(*args)
        return result[0] if isinstance(result, tuple) else result

    value, (dw, dx) = tb.value_and_grad(loss, (0, 1))(
        [tb.Tensor(w) for w in weights],
        [*map(tb.Tensor, xs)] if isinstance(xs, list) else tb.Tensor(xs),
        tb.Tensor(ys),
    )
    return [value, *dw, *(dx if isinstance(xs, list) else [dx])]


def by_jax(program):
    """The same by a program of the value alone, differentiated by jax."""
    f = function(program)

    def value_and_gradients(*inputs):
        argnums = tuple(range(len(inputs) - 1))  # all but the targets
        value, gradients = jax.value_and_grad(lambda *x: f(*x)[0], argnums)(*inputs)
        return [value, *gradients]

    return value_and_gradients


def selected(f, outputs):
    return lambda *inputs: [f(*inputs)[i] for i in outputs]


@pytest.mark.parametrize("name", CELLS)
def test_values_and_gradients_of_unrolled_networks(name):
    """Of each cell the program's own backward pass, and jax's; compiled all at once."""
    calls, expected = [], []
    which = list(CELLS).index(name) % 2
    for k, loss in [*enumerate(LOSSES)][which::2]:  # compiling takes a second each
        for T in (2, 20) if name == "rnn" else (20,):
            wide, optimize, first = loss != "outside", k % 2 == 0, ["row", "array", "other"][k % 3]
            cell, count, *args = example(name, T, wide)
            f = unrolled(cell, count, first, loss)
            program, inputs = recorded(f, *args, True, optimize)
            outputs = [0, *range(2 if loss == "stacked" else 1, len(program.outputs))]
            calls.append((selected(function(program), outputs), inputs))
            plain, _ = recorded(f, *args, False, optimize)
            calls.append((by_jax(plain), inputs))
            if T == 20:
                assert rolled(program).loops
                assert rolled(plain).loops
            expected += [eager(f, *args)] * 2
    found = jax.jit(lambda every: [f(*x) for (f, _), x in zip(calls, every, strict=True)])(
        [x for _, x in calls]
    )
    for one, other in zip(found, expected, strict=True):
        close(one, other)


def equations(f, inputs):
    """How many operations jax is given to compile, and their names."""
    names = []

    def count(jaxpr):
        for equation in jaxpr.eqns:
            names.append(equation.primitive.name)
            for x in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
                if _is_jaxpr(x):
                    count(getattr(x, "jaxpr", x))

    count(jax.make_jaxpr(f)(*inputs).jaxpr)
    return names


def _is_jaxpr(x):
    return hasattr(x, "eqns")


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_what_is_compiled_does_not_grow_with_time(name, optimize):
    sizes = []
    for T in (50, 70):
        cell, count, *args = example(name, T, True)
        f = unrolled(cell, count, "array", "each")
        program, inputs = recorded(f, *args, True, optimize)
        plain, _ = recorded(f, *args, False, optimize)
        backward, forward = equations(function(program), inputs), equations(by_jax(plain), inputs)
        assert "scan" in forward
        assert "scan" in backward
        sizes.append((len(backward), len(forward)))
    assert sizes[0] == sizes[1]


def test_without_loops_what_is_compiled_grows():
    cell, count, *args = example("rnn", 60, True)
    program, inputs = recorded(unrolled(cell, count, "array", "each"), *args, True, True)
    straight = equations(function(program, scan=False), inputs)
    assert "scan" not in straight
    assert len(straight) > 3 * len(equations(function(program), inputs))


def test_batches_of_sequences():
    cell, count, *args = example("lstm", 16, True)
    program, (*weights, xs, ys) = recorded(
        unrolled(cell, count, "array", "each"), *args, False, True
    )
    many = np.stack([xs, 2.0 * xs, -xs])
    f = by_jax(program)
    found = jax.jit(jax.vmap(f, (*[None] * 3, 0, None)))(*weights, many, ys)
    for k, x in enumerate(many):
        close([part[k] for part in found], jax.jit(f)(*weights, x, ys))
        close([found[0][k]], [eager(unrolled(cell, count, "array", "each"), weights, x, ys)[0]])


def test_float32():
    cell, _, weights, xs, ys = example("gru", 16, True)
    weights, xs, ys = [w.astype(np.float32) for w in weights], np.float32(xs), np.float32(ys)

    def f(weights, xs, ys):
        h = (np.zeros((B, H), np.float32),)
        total = 0.0
        for t in range(16):
            h, y = cell(weights, xs[t], h)
            total = total + tb.sum((y - ys[t]) ** 2)
        return total

    program, inputs = recorded(f, weights, xs, ys, True, True)
    with jax.enable_x64(False):
        found = Runner(program).values(inputs)
    for one, other in zip(found, eager(f, weights, xs, ys), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


def test_compiled_functions_give_the_states_of_all_steps():
    model = nn.CharRNN(5, 6, rng=0)

    def loss(model, x, y):
        logits, last = model(x, model.cell.initial_state(3))
        return sum(tb.sum(o * y[t]) for t, o in enumerate(logits)), logits, last

    x, y = tb.Tensor(random(20, 3, 5)), tb.Tensor(random(20, 3, 5))
    steps = [tb.compile(loss, engine=engine) for engine in ("jax", "numpy")]
    (one, gradient), (other, exact) = (step.value_and_grad(model, x, y) for step in steps)
    close([one[0], *one[1], one[2]], [other[0], *other[1], other[2]])
    assert gradient.keys() == exact.keys()
    close([gradient[name] for name in exact], exact.values())


# --- single numbers -----------------------------------------------------------------------------


def test_samples_of_a_network_of_single_numbers():
    """Some thousand instructions, whose gradient would take minutes to compile one by one."""
    model = nn.MLP([2, 4, 4, 1], rng=0).scalar_view()
    step = tb.compile(lambda model, x, y: nn.squared_error(model(x), y))
    args = model, random(60, 2), random(60, 1)
    program = step.program(*args, gradient=True)
    assert len(program) > 4000
    parameters = [v for p in model.parameters() for v in np.ravel(p.data)]
    inputs = [*parameters, *args[1].flat, *args[2].flat]
    values, gradient = Runner(program).value_and_gradient(inputs)
    value, exact = step.value_and_grad(*args)
    flat = np.concatenate([np.ravel(g) for g in exact.values()])
    close([values[0], gradient[: len(flat)]], [value, flat])


def recurrence(w, xs):
    h, total = w, 0.0
    for x in xs:
        h = tb.tanh(w * h + x)
        total = total + tb.where(h > 0.1, tb.sqrt(h * h + 1.0), -h)
    return total


def test_recurrences_and_their_second_derivatives():
    xs = random(40).tolist()
    program = tb.compile(recurrence).program(0.7, xs)
    assert rolled(program).loops
    f = function(program)

    def value(w):
        return f(w, *xs)[0]

    exact = [tb.grad(recurrence)(0.7, xs), tb.hessian(recurrence)(0.7, xs)]
    second = [jax.hessian(value)(0.7), jax.jacrev(jax.jacrev(value))(0.7)]
    close([jax.grad(value)(0.7), jax.jvp(value, (0.7,), (1.0,))[1], *second],
          [exact[0], exact[0], exact[1], exact[1]])  # fmt: skip


def test_a_zero_gradient_meets_an_infinite_partial_in_a_loop():
    """The side that is not chosen gives 0, and not nan, in the steps where it is not."""

    def f(w, xs):
        total = 0.0
        for x in xs:
            total = tb.where(x > 0.0, tb.sqrt(w * x), 0.0) + total
        return total

    xs = [0.0, 4.0] * 20
    program = tb.compile(f).program(1.0, xs)
    assert rolled(program).loops
    assert Runner(program).value_and_gradient([1.0, *xs])[1][0] == 20.0


def test_guards_of_each_step():
    def f(w, xs):
        h = w
        for x in xs:
            h = h * x + w if h > 0.0 else h
        return h

    step, other = tb.compile(f, engine="jax"), tb.compile(f)
    xs = np.abs(random(30)).tolist()
    for data in (xs, [-x for x in xs]):
        assert step(0.7, data) == pytest.approx(other(0.7, data), rel=1e-12)
        assert step.recordings == other.recordings


# --- devices ------------------------------------------------------------------------------------

ON_DEVICES = """
import sys
import numpy as np
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from test_steps import example, recorded, unrolled
from tinygrad_bp.replay.jax_engine import function

cell, count, weights, xs, ys = example("lstm", 20, True)
xs, ys = np.concatenate([xs] * 8, axis=1), np.concatenate([ys] * 8, axis=1)
xs = xs * np.linspace(0.5, 1.5, xs.shape[1])[:, None]


def loss(weights, xs, ys):
    import tinygrad_bp as tb

    state = tuple(np.zeros((16, 5)) for _ in range(2))
    total = 0.0
    for t in range(20):
        state, y = cell(weights, xs[t], state)
        total = total + tb.sum((y - ys[t]) ** 2)
    return total


program, inputs = recorded(loss, weights, xs, ys, False, True)
f = function(program)
step = jax.jit(jax.value_and_grad(lambda *x: f(*x)[0], argnums=(0, 1, 2, 3)))
alone = step(*jax.device_put(inputs, jax.devices()[0]))
mesh = Mesh(np.array(jax.devices()), ("data",))
shared = [jax.device_put(w, NamedSharding(mesh, PartitionSpec())) for w in inputs[:3]]
parts = [jax.device_put(x, NamedSharding(mesh, PartitionSpec(None, "data"))) for x in inputs[3:]]
together = step(*shared, *parts)
assert len(jax.devices()) == 8
assert "while" in step.lower(*shared, *parts).as_text()
for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
    one, other = np.asarray(one), np.asarray(other)
    assert np.abs(one - other).max() <= 1e-12 * np.abs(other).max()
print("equal")
"""


def test_a_loop_on_eight_devices():
    """The batch divided among devices: each has its rows of every step."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
    }
    run = subprocess.run(
        [sys.executable, "-c", ON_DEVICES], cwd=Path(__file__).parent,
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert run.stdout == "equal\n", run.stdout + run.stderr
