"""Calls without precautions: where one would have mattered, it shows, and the careful code runs."""

import functools
import math

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


# --- sums in any order ----------------------------------------------------------------------------

SUMS = {
    "rows": lambda x: tb.sum(x, 0),
    "rows, kept": lambda x: tb.sum(x, (-2,), keepdims=True),
    "columns": lambda x: tb.sum(x, 1),
    "columns, kept": lambda x: tb.sum(x, -1, keepdims=True),
    "turned": lambda x: tb.sum(x.T, 1),
    "of squares": lambda x: tb.sum(x * x),
    "of products": lambda x: tb.sum(x * (x + 1.0)),
}
TERMS = {
    "rows": lambda x: x.T,
    "rows, kept": lambda x: x.T[None],
    "columns": lambda x: x,
    "columns, kept": lambda x: x[:, None],
    "turned": lambda x: x.T,
    "of squares": lambda x: (x * x).ravel(),
    "of products": lambda x: (x * (x + 1.0)).ravel(),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", SUMS)
def test_short_sums_are_exact_within_a_rounding_for_each_term(name, dtype):
    for shape in [(1, 1), (1, 7), (5, 1), (32, 10), (3, 40)]:
        x = np.random.default_rng(0).normal(size=shape).astype(dtype)
        quick = Runner(tb.compile(SUMS[name]).program(x), exact=False)
        assert "reduce" not in quick.source
        assert "reduce" in Runner(quick.program).source
        for scale in (1.0, -1e5):
            terms = TERMS[name]((x * dtype(scale)).astype(dtype))
            (got,) = quick.values([(x * dtype(scale)).astype(dtype)])
            expected = np.apply_along_axis(math.fsum, -1, terms)
            bound = 2.0 * terms.shape[-1] * np.finfo(dtype).eps * np.abs(terms).sum(-1)
            assert got.dtype == dtype
            assert np.shape(got) == np.shape(expected)
            assert (np.abs(got - expected) <= bound).all()


@pytest.mark.parametrize("name", SUMS)
def test_short_sums_of_odd_numbers_are_those_of_ieee(name):
    quick = Runner(tb.compile(SUMS[name]).program(np.ones((4, 3))), exact=False)
    for seed in range(60):
        random = np.random.default_rng(seed)
        x = random.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 5e-324, 1.0, -2.0], (4, 3))
        with np.errstate(all="ignore"):
            (got,), expected = quick.values([x]), TERMS[name](x).sum(-1)
        np.testing.assert_allclose(got, expected, rtol=1e-15, atol=5e-324)


def test_long_sums_are_numpys():
    x = np.ones((array_calls.SHORT // 4 + 1, 4))
    for f in (lambda x: tb.sum(x, 0), lambda x: tb.sum(x * x)):
        assert "reduce" in Runner(tb.compile(f).program(x), exact=False).source


def test_a_hope_in_a_factor_is_looked_after():
    """The product may be 0 * infinity, which counts as 0, and only its sum is left to show it."""

    def f(w, x):
        return tb.sum(tb.where(x > 0.0, tb.log(x) * w, 0.0))

    step = tb.compile(f)
    for x in ([1.0, 2.0, 4.0], [0.0, 2.0, 4.0], [-1.0, 0.0, 4.0]):
        x = np.array([x, x])
        expected = np.log(x, where=x > 0.0, out=np.zeros(x.shape)).sum()
        np.testing.assert_allclose(step.value_and_grad(3.0, x)[1], expected, rtol=1e-15)
    source = Runner(step.program(3.0, x, gradient=True), exact=False).source
    assert source.count("vdot") == 1
    assert "azmul" not in source


@pytest.mark.parametrize("c", [-0.25, 0.0, -0.0, 1e308, np.inf, np.nan])
def test_of_a_row_with_one_number_beside_zeros_the_sum_is_known(c):
    program = tb.compile(
        lambda x, i: tb.sum(tb.one_hot(i, 4) * np.full((1, 1), c), -1, keepdims=True) * x
    ).program(np.ones((3, 1)), np.zeros(3, int))
    known = Runner(program)
    assert ("reduce" in known.source) == (not np.isfinite(c))
    for wrong in ([0, 4, 1], [0, -1, 1], [0, 1, 8]):
        with pytest.raises(ValueError, match=r"indices must lie in 0 \.\.\. 3"):
            known.values([np.ones((3, 1)), np.array(wrong)])
    row = functools.reduce(np.add, np.float64(c) * np.array([1.0, 0.0, 0.0, 0.0]))
    x, i = np.array([[1.0], [2.0], [-3.0]]), np.array([0, 3, 1])
    (got,) = known.values([x, i])
    np.testing.assert_array_equal(got, x * row)
    np.testing.assert_array_equal(
        np.signbit(got[~np.isnan(got)]), np.signbit((x * row)[~np.isnan(got)])
    )


@pytest.mark.parametrize("f", [loss, logits_loss], ids=lambda f: f.__name__)
def test_a_class_that_is_none_is_refused(f):
    """Without a look at the indices: a row of nan is found where these are none."""
    w, b, x, _ = data(0)
    step = tb.compile(f, argnums=(0, 1))
    good = step.value_and_grad(w, b, x, np.array([0, 1, 2, 3, 0]))
    for wrong in (-1, 4, -4, 5, -5, 6, -6, 100, -(2**63), 2**63 - 1):
        with pytest.raises(ValueError, match=r"indices must lie in 0 \.\.\. 3, got"):
            step.value_and_grad(w, b, x, np.array([0, 1, 2, 3, wrong]))
    again = step.value_and_grad(w, b, x, np.array([0, 1, 2, 3, 0]))
    assert again[0] == good[0]
    assert "one_hot" in Runner(step.program(w, b, x, np.zeros(5, int), gradient=True)).source


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_classes_may_be_integers_of_any_kind(dtype):
    step = tb.compile(lambda i: tb.one_hot(i, 128))
    for i in ([0, 127], [5, 6]):
        assert np.argmax(step(np.array(i, dtype)), -1).tolist() == i


@pytest.mark.parametrize("classes", [array_calls.MANY, array_calls.MANY + 1, 100_000])
def test_many_classes_have_no_table(classes):
    step = tb.compile(lambda i: tb.one_hot(i, classes))
    i = np.array([classes - 1, 0])
    got = step(i)
    assert np.argmax(got, -1).tolist() == i.tolist()
    assert got.sum() == 2.0
    made = Runner(step.program(i))
    largest = max([0, *(np.size(x) for x in made._names.values() if not callable(x))])
    assert largest <= 2 * array_calls.MANY**2


@pytest.mark.parametrize("same", [True, False])
def test_a_constant_of_equal_numbers_is_a_number(same):
    c = np.zeros((3, 1)) if same else np.array([[0.0], [-0.0], [0.0]])
    made = Runner(tb.compile(lambda x: x * c).program(np.ones((3, 4))))
    constants = [x for name, x in made._names.items() if name.startswith("c")]
    assert [np.shape(x) for x in constants] == [() if same else (3, 1)]
    x = np.array([[1.0, -1.0, 2.0, np.inf]] * 3)
    expected = np.multiply(x, c)
    np.testing.assert_array_equal(made.values([x])[0], expected)
    finite = np.isfinite(x)
    assert (np.signbit(made.values([x])[0]) == np.signbit(expected))[finite].all()


def test_a_constant_that_gives_the_shape_stays():
    c = np.ones((3, 2))
    step = tb.compile(lambda x: (x + c, x + np.ones(1)))
    wide, narrow = step(np.array([1.0, 2.0]))
    assert wide.tolist() == [[2.0, 3.0]] * 3
    assert narrow.tolist() == [2.0, 3.0]
