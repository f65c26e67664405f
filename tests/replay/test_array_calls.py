"""Calls without precautions: where one would have mattered, it shows, and the careful code runs."""

import functools

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import arrays, nn
from tinygrad_bp.replay import array_calls
from tinygrad_bp.replay.array_numpy import Runner

ODD = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e308, -1e308, 5e-324, 1.0, -2.0]
UNARY = [f for f in array_calls._TRANSPARENT if isinstance(f, np.ufunc) and f.nin == 1]
BINARY = [f for f in array_calls._TRANSPARENT if isinstance(f, np.ufunc) and f.nin == 2]
OTHERS = {
    arrays.reshape: lambda f, x: f(x, (-1,)),
    arrays.broadcast_to: lambda f, x: f(x, (3, *x.shape)),
    np.stack: lambda f, x: f([x * 0.0 + 1.0, x]),
    np.concatenate: lambda f, x: f([x, x * 0.0 + 1.0]),
    np.expand_dims: lambda f, x: f(x, 0),
    np.squeeze: lambda f, x: f(x[None], 0),
    array_calls._transposed: lambda f, x: f(x),
}


@pytest.fixture(autouse=True)
def quiet():
    with np.errstate(all="ignore"):
        yield


def with_a_nan(seed):
    random = np.random.default_rng(seed)
    x = random.choice(ODD[1:], (4, 3))
    x[random.integers(4), random.integers(3)] = np.nan
    return x, random.choice(ODD[1:], (4, 3))


@pytest.mark.parametrize("f", UNARY, ids=lambda f: f.__name__)
def test_a_nan_passes_through_functions(f):
    x = with_a_nan(0)[0]
    assert np.isnan(f(x))[np.isnan(x)].all()


@pytest.mark.parametrize("f", BINARY, ids=lambda f: f.__name__)
def test_a_nan_passes_through_operations_from_either_side(f):
    for seed in range(30):
        x, y = with_a_nan(seed)
        assert np.isnan(f(x, y))[np.isnan(x)].all()
        assert np.isnan(f(y, x))[np.isnan(x)].all()


def test_a_nan_passes_through_everything_else_that_is_said_to():
    rest = array_calls._TRANSPARENT - {*UNARY, *BINARY}
    reductions = set(array_calls._REDUCTIONS.values())
    numbers = set(array_calls._OF_NUMBERS.values())
    assert rest == reductions | numbers | set(OTHERS)
    for seed in range(10):
        x, _ = with_a_nan(seed)
        for reduce in reductions:
            assert np.isnan(reduce(x, 0)).any()
            assert np.isnan(reduce(x, None))
        for f, call in OTHERS.items():
            assert np.isnan(call(f, x)).any()
        for f in numbers:
            for y in ODD:
                assert np.isnan(f(np.float64("nan"), y))
                assert np.isnan(f(np.float64(y), np.float64("nan")))


def loss(w, b, x, y):
    return nn.cross_entropy(tb.tanh(x @ w + b), y)


def logits_loss(w, b, x, y):
    return nn.cross_entropy(x @ w + b, y)


def without_bias(w, b, x, y):
    return nn.cross_entropy(x @ w, y) + tb.sum(b)


def data(seed, odd=()):
    random = np.random.default_rng(seed)
    w, b, x = random.normal(size=(3, 4)), random.normal(size=4), random.normal(size=(5, 3))
    for value in odd:
        x.flat[random.integers(x.size)] = value
        b.flat[random.integers(b.size)] = random.choice([value, 0.0])
    return w, b, x, np.eye(4)[random.integers(0, 4, 5)]


def runner(f, *args):
    step = tb.compile(f, argnums=(0, 1, 2), optimize=False)
    return Runner(step.program(*args, gradient=True))


@pytest.mark.parametrize("f", [loss, logits_loss], ids=lambda f: f.__name__)
def test_odd_numbers_come_out_as_in_the_function_itself(f):
    """The precautions are left out of the code, and are made good where they matter."""
    fast = runner(f, *data(0))
    assert "azmul" not in fast.source
    assert "where" not in fast.source
    careful = 0
    for seed in range(60):
        args = data(seed, np.random.default_rng(seed).choice(ODD, seed % 4))
        value, gradients = tb.value_and_grad(f, (0, 1, 2))(*args)
        before, fast._careful = fast._careful, None
        got = fast.values(args)
        careful += fast._careful is not None
        fast._careful = fast._careful or before
        for a, b in zip(got, (value, *gradients), strict=True):
            np.testing.assert_array_equal(a, b)
    assert 0 < careful < 60


def test_a_masked_branch_leaks_nothing():
    """The derivative of x log(x) at 0 is infinite, and its gradient from above 0."""

    def f(x):
        return tb.sum(tb.where(x > 0.0, x * tb.log(x), 0.0))

    step = tb.compile(f)
    for x in ([2.0, 3.0], [2.0, 0.0], [-1.0, 3.0], [0.5, 0.5]):
        x = np.array(x)
        expected = np.where(x > 0.0, np.log(np.where(x > 0.0, x, 1.0)) + 1.0, 0.0)
        np.testing.assert_allclose(step.value_and_grad(x)[1], expected, rtol=1e-15)


def test_precautions_stay_where_a_nan_need_not_show():
    """In libraries that skip zeros, a product of matrices can hide one."""
    source = runner(without_bias, *data(0)).source
    assert "azmul" in source
    assert "vdot" not in source


def test_a_user_of_the_maximum_itself_keeps_the_guard():
    f = functools.partial(tb.logsumexp, axis=None)
    program = tb.compile(f).program(np.ones(3))
    for x in ([1.0, 2.0, 3.0], [np.inf, 1.0, 2.0], [-np.inf] * 3, [np.nan, 1.0, 2.0]):
        x = np.array(x)
        np.testing.assert_array_equal(Runner(program).values([x])[0], np.logaddexp.reduce(x))
