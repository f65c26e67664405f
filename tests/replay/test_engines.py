"""The same function on every engine, row by row, and from a file."""

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn, replay

ENGINES = ["numpy", "numba", "jax"]
DATA = np.random.default_rng(0).normal(size=(7, 2))
TARGETS = np.random.default_rng(1).uniform(size=(7, 1))


@pytest.fixture(params=ENGINES)
def engine(request):
    if request.param != "numpy":
        package = pytest.importorskip(request.param, reason="the engine's package")
        if request.param == "jax":
            package.config.update("jax_enable_x64", True)
    return request.param


@pytest.fixture(params=["numpy", "numba"])
def row_engine(request):
    if request.param != "numpy":
        pytest.importorskip(request.param, reason="the engine's package")
    return request.param


def loss(model, x, y):
    return nn.binary_cross_entropy_with_logits(model(x), y)


def small(scalar):
    model = nn.MLP([2, 3, 1], ["tanh", "identity"], rng=0)
    return model.scalar_view() if scalar else model


def test_functions_of_values_on_every_engine(engine):
    step = tb.compile(
        lambda x, y: tb.tanh(x * y) + x / (1.0 + y * y), argnums=(0, 1), engine=engine
    )
    for x, y in [(0.5, -1.0), (2.0, 0.25)]:
        value, gradient = step.value_and_grad(x, y)
        expected, exact = tb.value_and_grad(step.f, (0, 1))(x, y)
        assert value == pytest.approx(expected, rel=1e-14)
        assert gradient == pytest.approx(exact, rel=1e-14)


@pytest.mark.parametrize("engine", ["numpy", "jax"], indirect=True)
def test_functions_of_arrays_on_every_engine(engine):
    step, model = tb.compile(loss, engine=engine), small(False)
    value, gradient = step.value_and_grad(model, DATA, TARGETS)
    expected, exact = tb.value_and_grad(loss)(model, DATA, TARGETS)
    assert value == pytest.approx(expected, rel=1e-13)
    for name in exact:
        np.testing.assert_allclose(gradient[name], exact[name], rtol=1e-12, atol=1e-14)


def test_numba_does_not_run_arrays():
    pytest.importorskip("numba", reason="the engine's package")
    with pytest.raises(ValueError, match="functions of Values"):
        tb.compile(tb.sum, engine="numba")(DATA)


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="engine"):
        tb.compile(tb.sum, engine="cuda")


def test_rows_are_single_runs(row_engine):
    model = small(True)
    step = tb.compile(loss, engine=row_engine)
    values, per_row = step.batch(model, DATA, TARGETS, rows=(1, 2), gradient="rows")
    again, summed = step.batch(model, DATA, TARGETS, rows=(1, 2), gradient="sum")
    assert step.recordings == 1
    pairs = [tb.value_and_grad(loss)(model, x, y) for x, y in zip(DATA, TARGETS, strict=True)]
    np.testing.assert_allclose(values, [value for value, _ in pairs], rtol=1e-13)
    np.testing.assert_array_equal(values, again)
    np.testing.assert_array_equal(values, step.batch(model, DATA, TARGETS, rows=(1, 2)))
    for name in summed:
        rows = np.array([gradient[name] for _, gradient in pairs])
        np.testing.assert_allclose(per_row[name], rows, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(summed[name], rows.sum(0), rtol=1e-12, atol=1e-14)


def test_rows_by_several_arguments(row_engine):
    step = tb.compile(lambda a, x: a * x * x, argnums=(1, 0), engine=row_engine)
    x = np.array([1.0, 2.0, 3.0])
    values, (by_x, by_a) = step.batch(2.0, x, rows=[1], gradient="rows")
    assert values.tolist() == [2.0, 8.0, 18.0]
    assert by_x.tolist() == [4.0, 8.0, 12.0]
    assert by_a.tolist() == [1.0, 4.0, 9.0]
    assert step.batch(2.0, x, rows=[1], gradient="sum")[1] == (24.0, 14.0)


def test_rows_that_part_are_refused_by_number(row_engine):
    step = tb.compile(lambda x: x if x > 0.0 else -x, engine=row_engine, on_branch="raise")
    with pytest.raises(RuntimeError, match=r"1 rows, the first of them 2.*test_engines"):
        step.batch(np.array([1.0, 2.0, -1.0]), rows=[0])
    both = tb.compile(lambda x: tb.where(x > 0.0, x, -x), engine=row_engine)
    assert both.batch(np.array([1.0, 2.0, -1.0]), rows=[0]).tolist() == [1.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "rows", "options", "error"),
    [
        ((np.ones(2), np.ones(3)), (0, 1), {}, ValueError),
        ((np.ones(0), np.ones(0)), (0, 1), {}, ValueError),
        ((1.0, 2.0), (0,), {}, ValueError),
        ((np.ones(2), 1.0), (), {}, ValueError),
        ((np.ones(2), 1.0), (0,), {"gradient": "mean"}, ValueError),
        ((np.ones((2, 3)), 1.0), (0,), {}, TypeError),
    ],
)
def test_what_is_no_batch_is_refused(arguments, rows, options, error):
    with pytest.raises(error):
        tb.compile(lambda x, y: x * y).batch(*arguments, rows=rows, **options)


def test_a_program_goes_through_a_file(tmp_path):
    model = small(False)
    step = tb.compile(loss)
    program = step.program(model, DATA, TARGETS, gradient=True)
    replay.save(program, tmp_path / "step.program")
    loaded = replay.load(tmp_path / "step.program")
    inputs = [*(p.data for p in model.parameters()), DATA, TARGETS]
    results = replay.runner(loaded).values(inputs)
    value, gradient = step.value_and_grad(model, DATA, TARGETS)
    assert float(results[0]) == value
    for got, expected in zip(results[1:], gradient.values(), strict=True):
        np.testing.assert_array_equal(got, expected)
