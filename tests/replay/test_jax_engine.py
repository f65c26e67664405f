"""Programs as functions of jax: the library's numbers and gradients, under jax's transformations.

Compiling takes most of the time, so that many programs are compiled as one.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import repository
from test_array_rules import CASES, numbers, seed_for

import tinygrad_bp as tb
from tinygrad_bp import arrays, floats, nn
from tinygrad_bp.replay import compile
from tinygrad_bp.rules import RULES

jax = pytest.importorskip("jax", reason="jax is not installed: pip install tinygrad_bp[jax]")
jnp = jax.numpy

from tinygrad_bp.replay import jax_rules  # noqa: E402
from tinygrad_bp.replay.jax_engine import Runner, function  # noqa: E402

nan, inf = float("nan"), float("inf")
CLOSE = {"rtol": 1e-12, "atol": 1e-13}


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def recorded(f, *args, mode="value"):
    return compile(f)._run(mode, args)[0].program


def gradients(f, x):
    return jax.grad(lambda *x: f(*x)[0], argnums=tuple(range(len(x))))(*x)


def eager(call, operands):
    """The value of a call and its gradients, by the library."""
    leaves = [tb.Tensor(x) for x in operands]
    result = call(*leaves)
    result.backward()
    return result.data, [leaf.grad for leaf in leaves]


def agree(calls):
    """Values and gradients of many functions, by the program's own backward pass and by jax's."""
    programs, operands, expected = [], [], []
    for call, xs in calls:
        xs = [np.asarray(x) for x in xs]
        tensors = [tb.Tensor(x) for x in xs]
        program = recorded(call, *tensors)
        programs.append(function(program))
        operands.append(xs)
        expected.append(eager(call, xs))

    def everything(operands):
        pairs = list(zip(programs, operands, strict=True))
        return [f(*x)[0] for f, x in pairs], [gradients(f, x) for f, x in pairs]

    found = jax.jit(everything)(operands)
    for (value, gradient), one, other in zip(expected, *found, strict=True):
        assert one.dtype == value.dtype
        close = {"rtol": 2e-6, "atol": 1e-6} if value.dtype == np.float32 else CLOSE
        np.testing.assert_allclose(one, value, **close)
        for g, exact in zip(other, gradient, strict=True):
            assert g.dtype == exact.dtype
            np.testing.assert_allclose(g, exact, **close)


def weighted(case):
    """A case as a function of one number: the result times some weights."""
    shape = np.asarray(case.formula(*[np.asarray(x, float) for x in case.operands]))
    weights = seed_for(shape)
    return lambda *x: tb.sum(case.call(*x) * weights), [np.asarray(x, float) for x in case.operands]


@pytest.mark.parametrize("name", CASES)
def test_structural_rules(name):
    agree([weighted(case) for case in CASES[name]])


def test_recorded_backward_passes():
    """The gradients that a program computes itself."""
    programs, operands, expected = [], [], []
    for name, cases in CASES.items():
        for case in cases[:8] if name != "prod" else ():  # whose pullback looks at the data
            call, xs = weighted(case)
            if not all(x.ndim for x in xs):
                continue
            f = compile(call, argnums=tuple(range(len(xs))))
            program = f._run("value_and_grad", [tb.Tensor(x) for x in xs])[0].program
            value, gradient = eager(call, xs)
            programs.append(function(program))
            operands.append(xs)
            expected.append([value, *gradient])
    assert len(programs) > 100
    found = jax.jit(lambda xs: [f(*x) for f, x in zip(programs, xs, strict=True)])(operands)
    for one, other in zip(found, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, **CLOSE)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_elementwise_rules(dtype):
    calls = []
    for rule in RULES.values():
        if None in rule.partials:
            continue
        rng = np.random.default_rng(len(rule.name))
        shapes = [(4, 5), (5,), (4, 1)]
        xs = [
            rng.uniform(*domain, shape).astype(dtype)
            for domain, shape in zip(rule.domain, shapes, strict=False)
        ]
        calls.append((lambda *x, rule=rule: (rule(*x) * rule(*x)).sum(), xs))
    agree(calls)


SPECIAL = [0.0, -0.0, 1.0, -1.0, inf, -inf, nan, 30.0, -30.0, 1e-9]


def test_elementwise_rules_at_special_points_and_kinks():
    """What is infinite, nan or chosen by convention, and its gradient: as in the library."""
    programs, points, expected = [], [], []
    for rule in RULES.values():
        if None in rule.partials:
            continue
        grid = np.array(np.meshgrid(*[SPECIAL] * rule.arity)).reshape(rule.arity, -1)
        if rule.arity == 3:
            grid = grid[:, ::7]
        tensors = [tb.Tensor(x) for x in grid]
        programs.append(function(recorded(lambda *x, r=rule: (r(*x).sum(), r(*x)), *tensors)))
        points.append(list(grid))
        leaves = [tb.Tensor(x) for x in grid]
        result = rule(*leaves)
        with np.errstate(all="ignore"):
            result.sum().backward()
        expected.append((rule, result.data, [leaf.grad for leaf in leaves]))

    def everything(points):
        pairs = list(zip(programs, points, strict=True))
        return [f(*x)[1] for f, x in pairs], [gradients(f, x) for f, x in pairs]

    found = jax.jit(everything)(points)
    for (rule, value, gradient), one, other in zip(expected, *found, strict=True):
        # Next to the largest magnitudes of the tails XLA has a few more roundings.
        np.testing.assert_allclose(one, value, rtol=1e-12, atol=1e-300, err_msg=rule.name)
        for g, exact in zip(other, gradient, strict=True):
            np.testing.assert_allclose(g, exact, rtol=1e-12, atol=1e-300, err_msg=rule.name)


# --- single numbers, and the chain rule's zero --------------------------------------------------


def masked(x, y):
    return tb.where(x > 0.0, tb.log(x) * y, tb.sqrt(-x)) + tb.where(y > x, x * y, tb.exp(y))


def test_scalar_programs_and_their_gradients():
    program = recorded(masked, 0.5, 1.5)
    runner, f = Runner(program), function(program)
    points = [(0.5, 1.5), (-0.5, 1.5), (2.0, -1.0), (-1.0, -2.0)]
    for x, y in points:
        value, gradient = tb.value_and_grad(masked, (0, 1))(x, y)
        assert runner.values([x, y]) == pytest.approx([value], rel=1e-12)
        values, found = runner.value_and_gradient([x, y])
        assert values == pytest.approx([value], rel=1e-12)
        assert found == pytest.approx(gradient, rel=1e-12)
    batch = jax.vmap(jax.grad(lambda x, y: f(x, y)[0], (0, 1)))(*np.array(points).T)
    exact = [tb.grad(masked, (0, 1))(x, y) for x, y in points]
    np.testing.assert_allclose(np.transpose(batch), exact, **CLOSE)


def test_a_zero_gradient_meets_an_infinite_partial():
    """The side that is not chosen gives 0, where jax's own where() gives nan."""
    chosen = recorded(lambda x: tb.where(x > 0.0, tb.sqrt(x), 0.0), 1.0)
    assert Runner(chosen).value_and_gradient([0.0])[1].tolist() == [0.0]
    assert np.isnan(jax.grad(lambda x: jnp.where(x > 0.0, jnp.sqrt(x), 0.0))(0.0))
    infinite = recorded(tb.sqrt, 1.0)
    assert Runner(infinite).value_and_gradient([0.0])[1].tolist() == [inf]


def test_second_derivatives_pass_through_zero_gradients():
    f = function(recorded(lambda x, y, z: (x * y) * z, 1.0, 1.0, 1.0))
    expected = [[0.0, 0.0, 2.0], [0.0, 0.0, 1.0], [2.0, 1.0, 0.0]]

    def value(x):
        return f(*x)[0]

    x = jnp.array([1.0, 2.0, 0.0])
    for derivative in (jax.hessian, lambda f: jax.jacrev(jax.jacrev(f))):
        assert derivative(value)(x).tolist() == expected
    assert jax.jacfwd(jax.jacfwd(value))(x).tolist() == expected


def test_detached_quantities_have_no_gradient():
    program = recorded(lambda x: x.detach() * x, 3.0)
    assert Runner(program).value_and_gradient([4.0])[1].tolist() == [4.0]


def test_guards_are_returned_after_the_outputs():
    program = recorded(lambda x: x * 2.0 if x > 0.0 else -x, 1.0)
    for x in (3.0, -3.0):
        value, condition = Runner(program).values([x])
        assert (value, bool(condition)) == (2.0 * x, x > 0.0)
        assert [float(y) for y in function(program)(x)] == [value, condition]


# --- arrays -------------------------------------------------------------------------------------


def test_a_network_on_integers_in_batches():
    model = nn.MLP([4, 3, 2], ["tanh", "sigmoid"], rng=0)

    def step(x, classes):
        return nn.cross_entropy(model(x), classes)

    x, classes = numbers(5, 4), np.array([0, 1, 1, 0, 1])
    program = recorded(step, x, classes, mode="backward")
    parameters = list(model.parameters())
    inputs = [x, classes, *(p.data for p in parameters)]
    model.zero_grad()
    value = step(tb.Tensor(x), classes)
    value.backward()
    found = Runner(program).values(inputs)
    assert all(isinstance(y, np.ndarray) for y in found)
    np.testing.assert_allclose(found[0], value.data, **CLOSE)
    for one, p in zip(found[-len(parameters) :], parameters, strict=True):
        np.testing.assert_allclose(one, p.grad, **CLOSE)
    axes = (0, 0, *[None] * (len(inputs) - 2))
    batch = jax.vmap(function(program), axes)(np.stack([x, 2 * x]), np.stack([classes] * 2),
                                              *inputs[2:])  # fmt: skip
    np.testing.assert_allclose(batch[0][0], value.data, **CLOSE)


def test_indices_that_are_given():
    def parts(x, i):
        return x[i], x[:, i[0]], tb.one_hot(i, 4), tb.take(x, i, axis=1), x[[0, 1], ..., 1:]

    x, i = numbers(3, 4), np.array([0, -2, 1])
    f = function(recorded(parts, tb.Tensor(x), np.array([0, 2, 1])))
    other = np.array([2, 0, 2])
    for one, exact in zip(jax.jit(f)(x, other), parts(tb.Tensor(x), other), strict=True):
        np.testing.assert_allclose(one, getattr(exact, "data", exact))
    outside = f(x, np.array([0, 7, -1]))
    assert np.isnan(outside[0][1]).all()
    assert np.isnan(outside[2][1:]).all()
    assert not np.isnan(f(x, i)[0]).any()


def test_operations_of_a_user():
    @tb.elementwise(lambda m, x, y: 1.0 + 0.0 * x, check=False)
    def straight_through(m, x):
        return m.where(x > 0, 1.0, 0.0)

    def held_dx(m, g, y, x, factor):
        return m.azmul(g, m.getitem(x, (slice(None, 1),))) * factor

    @tb.structural(held_dx)
    def held(m, x, factor):
        return m.detached(x) * factor

    x = numbers(4)
    agree([(lambda x: (held(x, 3.0) + tb.exp(straight_through(x))).sum(), [x])])


# --- what is refused ----------------------------------------------------------------------------


def test_float64_is_never_computed_in_float32():
    wide = recorded(lambda x: x.sum(), tb.Tensor(numbers(3)))
    single = recorded(lambda x: x * 2.0, 1.0)
    narrow = recorded(lambda x: (x * 2.0).sum(), tb.Tensor(np.ones(3, np.float32)))
    with jax.enable_x64(False):
        for program in (wide, single):
            x = np.ones(3) if program is wide else 1.0
            with pytest.raises(ValueError, match=r'jax\.config\.update\("jax_enable_x64", True\)'):
                function(program)(x)
            with pytest.raises(ValueError, match="jax_enable_x64"):
                Runner(program).values([x])
        assert Runner(narrow).values([np.ones(3, np.float32)])[0].dtype == np.float32
    assert Runner(narrow).values([np.ones(3, np.float32)])[0].dtype == np.float32


def test_wrong_inputs_are_refused():
    program = recorded(lambda x: x.sum(), tb.Tensor(numbers(3)))
    with pytest.raises(ValueError, match="input 0: expected shape"):
        function(program)(np.ones(4))
    with pytest.raises(ValueError, match="expected 1 inputs, got 2"):
        function(program)(np.ones(3), 1.0)
    with pytest.raises(ValueError, match="its own gradients"):
        Runner(program).value_and_gradient([np.ones(3)])
    with pytest.raises(ValueError, match="expected 1 numbers"):
        Runner(recorded(tb.sin, 1.0)).values([1.0, 2.0])


def test_the_extra_is_named_where_jax_is_missing(monkeypatch):
    program = recorded(tb.sin, 1.0)
    monkeypatch.setitem(sys.modules, "jax", None)
    jax_rules._jax.cache_clear()
    with pytest.raises(ImportError, match=r"pip install tinygrad_bp\[jax\]"):
        function(program)
    monkeypatch.undo()
    jax_rules._jax.cache_clear()


def test_the_namespace_is_that_of_arrays():
    for m in (jax_rules._namespace(False), jax_rules._namespace(True)):
        assert all(hasattr(m, name) for name in {*arrays.__all__, *floats.__all__})


def test_importing_the_engine_does_not_import_jax():
    text = "import sys, tinygrad_bp.replay.jax_engine; print('jax' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_training_on_eight_devices():
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    run = subprocess.run(
        [sys.executable, str(repository.file("benchmarks/data_parallel.py"))],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "8 devices" in run.stdout
    assert run.stdout.rstrip().endswith("equal to 1e-12: met")
