"""Rows of data that take different ways through the branches of a function."""

import math

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn

ENGINES = ["numpy", "numba"]


@pytest.fixture(params=ENGINES)
def engine(request):
    if request.param != "numpy":
        pytest.importorskip(request.param, reason="the engine's package")
    return request.param


def halved(x):
    while x > 1.0:
        x = x / 2.0
    return x


def signs(x, y):
    z = x * y if x > 0.0 else tb.sin(x) + y
    return z * z if z < 1.0 else tb.log(z) * y


def through_a_model(model, x):
    y = model(x).sum()
    return y * y if y > 0.0 else -y


ROWS = np.random.default_rng(0).normal(size=(200, 2)) * 4.0


def one_by_one(f, argnums, *columns):
    results = [tb.value_and_grad(f, argnums)(*row) for row in zip(*columns, strict=True)]
    return [value for value, _ in results], [gradient for _, gradient in results]


def test_rows_that_part_are_single_runs(engine):
    step = tb.compile(signs, argnums=(0, 1), engine=engine)
    x, y = ROWS.T
    values, gradients = step.batch(x, y, rows=(0, 1), gradient="rows")
    expected, exact = one_by_one(signs, (0, 1), x.tolist(), y.tolist())
    np.testing.assert_allclose(values, expected, rtol=1e-13)
    np.testing.assert_allclose(np.transpose(gradients), exact, rtol=1e-12)
    assert step.recordings == 4
    again, summed = step.batch(x, y, rows=(0, 1), gradient="sum")
    assert again.tolist() == values.tolist()
    scale = np.abs(exact).sum(0)
    assert (np.abs(summed - np.sum(exact, 0)) <= 1e-12 * scale).all()
    assert step.batch(x, y, rows=(0, 1)).tolist() == values.tolist()
    assert step.recordings == 8  # of values alone: four more


def test_rows_are_those_of_calls_bit_for_bit(engine):
    step = tb.compile(signs, argnums=(0, 1), engine=engine)
    values, gradients = step.batch(*ROWS.T, rows=(0, 1), gradient="rows")
    for k, (x, y) in enumerate(ROWS.tolist()):
        value, gradient = step.value_and_grad(x, y)
        if engine == "numpy":
            assert (value, gradient) == (values[k], tuple(g[k] for g in gradients))
        np.testing.assert_allclose([value, *gradient], [values[k], *(g[k] for g in gradients)])


def test_many_ways_and_few_rows(engine):
    step = tb.compile(halved, engine=engine)
    data = np.exp(np.random.default_rng(1).uniform(-1.0, 25.0, 120))
    values, slopes = step.batch(data, rows=[0], gradient="rows")
    times = np.maximum(0, np.ceil(np.log2(data)))
    assert values.tolist() == (data / 2**times).tolist()
    assert slopes.tolist() == (0.5**times).tolist()
    assert step.batch(data, rows=[0], gradient="sum")[1] == pytest.approx(math.fsum(0.5**times))
    assert sum(len(kept) for kept in step._kept.values()) <= 32


def test_every_row_of_its_own_way_and_one_row(engine):
    step = tb.compile(halved, engine=engine)
    assert step.batch(2.0 ** np.arange(6.0), rows=[0]).tolist() == [1.0] * 6
    assert step.recordings == 6
    assert step.batch(np.array([8.0]), rows=[0]).tolist() == [1.0]
    assert step.recordings == 6


def test_nan_among_rows(engine):
    step = tb.compile(lambda x: x * x if x > 0.0 else -x, engine=engine)
    data = np.array([1.0, math.nan, -2.0, math.inf, -math.inf, 3.0])
    values, slopes = step.batch(data, rows=[0], gradient="rows")
    np.testing.assert_array_equal(values, [1.0, math.nan, 2.0, math.inf, math.inf, 9.0])
    np.testing.assert_array_equal(slopes, [2.0, -1.0, -1.0, math.inf, -1.0, 6.0])


def test_gradients_by_a_network_whose_rows_part(engine):
    model = nn.MLP([2, 3, 1], "tanh", rng=0).scalar_view()
    step = tb.compile(through_a_model, engine=engine)
    values, gradients = step.batch(model, ROWS, rows=[1], gradient="rows")
    _, summed = step.batch(model, ROWS, rows=[1], gradient="sum")
    pairs = [tb.value_and_grad(through_a_model)(model, x) for x in ROWS]
    assert len({value > 0 for value, _ in pairs}) == 1
    assert step.recordings == 2
    np.testing.assert_allclose(values, [value for value, _ in pairs], rtol=1e-12)
    for name in gradients:
        rows = np.array([gradient[name] for _, gradient in pairs])
        np.testing.assert_allclose(gradients[name], rows, rtol=1e-11, atol=1e-14)
        np.testing.assert_allclose(summed[name], rows.sum(0), rtol=1e-10, atol=1e-12)


def test_rows_that_part_by_a_leaf_that_is_reached(engine):
    w = tb.Value(2.0)
    step = tb.compile(lambda x: x * w if x > w else x / w, engine=engine)
    assert step.batch(np.array([1.0, 3.0, 2.0]), rows=[0]).tolist() == [0.5, 6.0, 1.0]
    w.data = 0.5
    assert step.batch(np.array([1.0, 3.0, 0.25]), rows=[0]).tolist() == [0.5, 1.5, 0.5]
    assert step.recordings == 2


def test_an_error_on_the_way_of_a_row_is_the_functions(engine):
    def f(x):
        if x < 0.0:
            raise ValueError("no root of a negative number")
        return tb.sqrt(x)

    step = tb.compile(f, engine=engine)
    assert step.batch(np.array([4.0, 9.0]), rows=[0]).tolist() == [2.0, 3.0]
    with pytest.raises(ValueError, match="no root"):
        step.batch(np.array([4.0, -1.0]), rows=[0])
    assert step.batch(np.array([4.0, 9.0]), rows=[0]).tolist() == [2.0, 3.0]


def test_threads_and_rows_that_part():
    pytest.importorskip("numba", reason="the engine's package")
    step = tb.compile(signs, argnums=(0, 1), engine="numba")
    one = step.batch(*ROWS.T, rows=(0, 1), gradient="rows")
    two = step.batch(*ROWS.T, rows=(0, 1), gradient="rows", threads=3)
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])
