"""A compiled function draws what the function draws, and leaves the generator where it does."""

import copy
import pickle
import random

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn, replay
from tinygrad_bp.replay.program import DRAWS, Draw

ENGINES = ["numpy", "numba", "jax"]


@pytest.fixture(params=ENGINES)
def engine(request):
    if request.param != "numpy":
        package = pytest.importorskip(request.param, reason="the engine's package")
        if request.param == "jax":
            package.config.update("jax_enable_x64", True)
    return request.param


def eager(f, *args):
    """The function itself, on nodes: numbers of its result."""
    nodes = [
        tb.Tensor(x) if isinstance(x, np.ndarray) else tb.Value(x) if isinstance(x, float) else x
        for x in args
    ]
    result = f(*nodes)
    return result.data if isinstance(result, (tb.Tensor, tb.Value)) else [x.data for x in result]


def state(rng):
    return copy.deepcopy(rng.bit_generator.state)


def follows(f, *data, calls=4, recordings=1, rng=lambda: np.random.default_rng(7), **options):
    """At every call the bits of the function, and the generator where the function leaves it."""
    step, mine, theirs = tb.compile(f, optimize=False, **options), rng(), rng()
    for k in range(calls):
        args = [x + float(k) for x in data]
        got, expected = step(*args, mine), eager(f, *args, theirs)
        assert np.array_equal(got, expected, equal_nan=True)
        assert str(state(mine)) == str(state(theirs))
    assert step.recordings == recordings
    return step


X = np.random.default_rng(0).normal(size=(3, 4))

# Arguments for which every method draws numbers of a shape that is fixed.
GIVEN = {
    "beta": (2.0, 3.0),
    "binomial": (5, 0.3),
    "chisquare": (2.0,),
    "choice": (7,),
    "dirichlet": ([1.0, 2.0, 3.0],),
    "f": (2.0, 3.0),
    "gamma": (2.0,),
    "geometric": (0.3,),
    "hypergeometric": (5, 6, 3),
    "integers": (0, 9),
    "logseries": (0.4,),
    "multinomial": (5, [0.2, 0.3, 0.5]),
    "multivariate_hypergeometric": ([5, 6, 7], 4),
    "multivariate_normal": (np.zeros(2), np.eye(2)),
    "negative_binomial": (3, 0.4),
    "noncentral_chisquare": (2.0, 1.0),
    "noncentral_f": (2.0, 3.0, 1.0),
    "pareto": (2.0,),
    "permutation": (12,),
    "permuted": (np.arange(12.0),),
    "power": (2.0,),
    "standard_gamma": (2.0,),
    "standard_t": (3.0,),
    "triangular": (0.0, 1.0, 2.0),
    "vonmises": (0.0, 1.0),
    "wald": (1.0, 2.0),
    "weibull": (2.0,),
    "zipf": (3.0,),
}
WITHOUT_SIZE = {"permutation", "permuted"}


@pytest.mark.parametrize("method", sorted(DRAWS))
def test_every_method_is_drawn_anew(method):
    def f(x, rng):
        draw, given = getattr(rng, method), GIVEN.get(method, ())
        if method in WITHOUT_SIZE:
            return tb.sum(x) * draw(*given)
        return tb.sum(x) * draw(*given) + (x[0, 0] * draw(*given, size=6)).sum()

    if method in {"dirichlet", "multinomial", "multivariate_hypergeometric"}:
        follows(lambda x, rng: x[0, :3] * getattr(rng, method)(*GIVEN[method]), X)
    elif method == "multivariate_normal":
        follows(lambda x, rng: x[0, :2] * rng.multivariate_normal(np.zeros(2), np.eye(2)), X)
    else:
        follows(f, X)


def test_no_method_of_a_generator_is_forgotten():
    others = {"bit_generator", "bytes", "shuffle", "spawn"}
    public = {name for name in dir(np.random.Generator) if not name.startswith("_")}
    assert public >= DRAWS | others
    rng = np.random.default_rng(0)

    for name in public - DRAWS:
        with pytest.raises(TypeError, match=f"rng.{name}"):
            tb.compile(lambda x, rng, name=name: getattr(rng, name) and x)(1.0, rng)


LAYERS = {
    "dropout": lambda x, rng: tb.where(rng.random(x.shape) < 0.8, x / 0.8, 0.0),
    "a mask": lambda x, rng: x * ((rng.random(x.shape) < 0.8) / 0.8),
    "a mask of floats": lambda x, rng: x * (rng.random(x.shape) < 0.8).astype(float),
    "noise": lambda x, rng: x + 0.1 * rng.standard_normal(x.shape),
    "uniform": lambda x, rng: x * rng.uniform(-1.0, 1.0, x.shape) * rng.uniform(2.0, 3.0),
    "a sample": lambda x, rng: x[:, rng.permutation(4)[:2]],
    "rows": lambda x, rng: x[rng.integers(0, 3, 5)],
    "a choice": lambda x, rng: tb.take(x, rng.choice(4, 2, replace=False), 1),
    "integers": lambda x, rng: x * rng.binomial(1, 0.5, x.shape),
    "number": lambda x, rng: x * rng.normal() + rng.integers(5) + rng.random(),
    "gumbel": lambda x, rng: tb.softmax((x + rng.gumbel(size=x.shape)) / 0.5),
    "of itself": lambda x, rng: x * (2.0 * rng.random(12).reshape(3, 4) - 1.0),
    "unused": lambda x, rng: (rng.random(3), x * rng.random())[1],
    "scale": lambda x, rng: x * rng.normal(np.arange(4.0), 2.0, size=(3, 4)),
}


@pytest.mark.parametrize("f", LAYERS.values(), ids=list(LAYERS))
@pytest.mark.parametrize(
    "bits", [np.random.PCG64, np.random.MT19937, np.random.Philox], ids=lambda b: b.__name__
)
def test_arrays_are_drawn_anew_bit_for_bit(f, bits):
    follows(f, X, rng=lambda: np.random.Generator(bits(3)))


@pytest.mark.parametrize("engine", ["numpy", "jax"], indirect=True)
@pytest.mark.parametrize("f", LAYERS.values(), ids=list(LAYERS))
def test_gradients_are_those_of_what_was_drawn(f, engine):
    def loss(x, rng):
        y = f(x, rng)
        return (y * y).sum()

    mine, theirs = np.random.default_rng(1), np.random.default_rng(1)
    step = tb.compile(loss, engine=engine)
    for k in range(3):
        value, gradient = step.value_and_grad(X + k, mine)
        expected, exact = tb.value_and_grad(lambda x: loss(x, theirs))(X + k)
        np.testing.assert_allclose(value, expected, rtol=1e-13)
        np.testing.assert_allclose(gradient, exact, rtol=1e-12, atol=1e-13)
        assert state(mine) == state(theirs)
    assert step.recordings == 1


NUMBERS = {
    "number": lambda x, rng: x * rng.normal() + rng.random(),
    "several": lambda x, rng: sum((x * r for r in rng.normal(size=3)), x),
    "integers": lambda x, rng: x * rng.integers(-3, 4) + rng.binomial(9, 0.5),
    "where": lambda x, rng: tb.where(rng.random() < 0.5, x, -x),
    "sum": lambda x, rng: x * tb.sum(rng.random((2, 2))),
}


@pytest.mark.parametrize("f", NUMBERS.values(), ids=list(NUMBERS))
def test_single_numbers_are_drawn_anew(f, engine):
    mine, theirs = np.random.default_rng(1), np.random.default_rng(1)
    step = tb.compile(f, engine=engine)
    for k in range(4):
        value, slope = step.value_and_grad(0.5 + k, mine)

        def plain(x):  # tb.sum takes no plain array
            return f(x, Summing(theirs))

        expected, exact = tb.value_and_grad(plain)(0.5 + k)
        np.testing.assert_allclose([value, slope], [expected, exact], rtol=1e-14)
        assert state(mine) == state(theirs)
    assert step.recordings == 1


class Summing:
    """A generator whose arrays are Values, as they are in a recording of single numbers."""

    def __init__(self, rng):
        self.rng = rng

    def __getattr__(self, name):
        def draw(*given, **named):
            x = getattr(self.rng, name)(*given, **named)
            return tb.values(x, requires_grad=False) if isinstance(x, np.ndarray) else x

        return draw


# --- branches, errors and recordings ------------------------------------------------------------


def test_nothing_is_drawn_twice_when_a_branch_comes_out_otherwise():
    def f(x, rng):
        y = x * rng.normal()
        y = y + rng.random() if y > 0.0 else y - rng.standard_normal() * rng.random()
        return y * rng.integers(1, 4) if rng.random() < 0.5 else y

    step = follows(f, 1.0, calls=40, recordings=4)
    follows(lambda x, rng: f(x.sum(), rng), X, calls=40, recordings=4)
    assert step.program(1.0, np.random.default_rng(0)).draws


def test_loops_until_a_draw_says_so():
    def f(x, rng):
        while rng.random() < 0.6:
            x = x * rng.uniform(0.5, 1.5)
        return x

    step, mine, theirs = tb.compile(f), np.random.default_rng(5), np.random.default_rng(5)
    for k in range(60):
        assert step(float(k), mine) == eager(f, float(k), theirs)
        assert state(mine) == state(theirs)
    assert 3 < step.recordings < 40


def test_a_refused_branch_draws_nothing():
    step = tb.compile(lambda x, rng: x if rng.random() < 0.5 else -x, on_branch="raise")
    rng = np.random.default_rng(0)
    step(1.0, rng)
    failed = 0
    for _ in range(20):
        before = state(rng)
        try:
            step(1.0, rng)
        except RuntimeError:
            assert state(rng) == before
            rng.random()
            failed += 1
    assert failed


def test_an_error_of_the_function_leaves_the_generator_where_the_function_does():
    def f(x, i, rng):
        noise = rng.random(3)
        y = tb.take(x * noise, i).sum()
        return y * rng.random()

    step, mine, theirs = tb.compile(f), np.random.default_rng(5), np.random.default_rng(5)
    for i in ([0, 1], [0, 7], [2, 2]):
        for rng, call in ((mine, step), (theirs, lambda *a: f(tb.Tensor(a[0]), *a[1:]))):
            if 7 in i:
                with pytest.raises(IndexError):
                    call(np.ones(3), np.array(i), rng)
            else:
                call(np.ones(3), np.array(i), rng)
        assert state(mine) == state(theirs)


def test_asking_for_the_program_draws_nothing():
    rng = np.random.default_rng(0)
    before = state(rng)
    program = tb.compile(lambda x, rng: x * rng.normal(size=3)).program(np.ones(3), rng)
    assert state(rng) == before
    assert program.draws == [Draw(0, "normal", (), {"size": 3})]
    assert "rng0.normal(size=3)" in str(program)


# --- several generators, and where they are -----------------------------------------------------


def test_several_generators_are_told_apart():
    def f(x, a, b):
        return x * a.normal() + b.normal() * a.random()

    step = tb.compile(f)
    for same in (False, True, False):
        mine = [np.random.default_rng(k) for k in (1, 2)]
        theirs = [np.random.default_rng(k) for k in (1, 2)]
        if same:
            mine[1], theirs[1] = mine[0], theirs[0]
        for k in range(3):
            assert step(1.0 + k, *mine) == eager(f, 1.0 + k, *theirs)
        assert list(map(state, mine)) == list(map(state, theirs))
    assert step.recordings == 2


def test_generators_in_containers_and_in_modules():
    class Noisy(nn.Module):
        def __init__(self, seed):
            self.w = tb.Tensor([2.0, 3.0])
            self.rng = np.random.default_rng(seed)

        def forward(self, x):
            return (self.w * x * self.rng.normal(size=2)).sum()

    def f(model, both):
        return model(both["x"]) * both["rng"].random()

    mine, theirs = Noisy(1), Noisy(1)
    a, b = np.random.default_rng(2), np.random.default_rng(2)
    step = tb.compile(f)
    for k in range(3):
        x = np.array([1.0, k])
        value, gradient = step.value_and_grad(mine, {"x": x, "rng": a})
        expected, exact = tb.value_and_grad(lambda m, x=x: f(m, {"x": tb.Tensor(x), "rng": b}))(
            theirs
        )
        assert value == expected
        assert gradient["w"].tolist() == exact["w"].tolist()
    assert step.recordings == 1
    assert state(mine.rng) == state(theirs.rng)
    assert state(a) == state(b)
    assert type(mine.rng) is np.random.Generator


def test_there_is_no_derivative_by_a_generator():
    step = tb.compile(lambda x, rng: x * rng.random(), argnums=1)
    with pytest.raises(TypeError, match="Generator"):
        step.value_and_grad(1.0, np.random.default_rng(0))


def test_the_initialisers_draw_in_a_recording():
    def f(x, rng):
        return (x @ nn.init.xavier(nn.init.generator(rng), (4, 2))).sum()

    follows(f, X)


# --- refused ------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)


def from_a_global(x):
    return x * RNG.normal()


def by_a_helper(x):
    return from_a_global(x)


class Layer(nn.Module):
    def __init__(self):
        self.w, self.rng = tb.Tensor([2.0]), RNG

    def forward(self, x):
        return (self.w * x * self.rng.normal()).sum()


LAYER = Layer()


@pytest.mark.parametrize(
    "f",
    [
        from_a_global,
        by_a_helper,
        lambda x: x * RNG.normal(),
        lambda x, rng=RNG: x * rng.normal(),
        lambda x: LAYER(x),
        lambda x: x * np.random.random(),
        lambda x: x * random.random(),
        LAYER,
    ],
)
def test_a_generator_that_is_no_argument_is_refused_and_left_as_it_was(f):
    before = state(RNG), np.random.get_state()[2], random.getstate()
    with pytest.raises(TypeError, match="as an argument"):
        tb.compile(f)(np.ones(1))
    assert before == (state(RNG), np.random.get_state()[2], random.getstate())


def test_a_generator_in_a_cell_is_refused_also_where_it_is_an_argument():
    rng = np.random.default_rng(0)
    with pytest.raises(TypeError, match="as an argument"):
        tb.compile(lambda x: x * rng.random())(1.0)
    with pytest.raises(RuntimeError, match="drawn otherwise"):
        tb.compile(lambda x, given: x * rng.random() * given.random())(1.0, rng)


BAD = {
    "a mean that is computed": lambda x, rng: rng.normal(x, 1.0),
    "a deviation": lambda x, rng: rng.normal(0.0, scale=x),
    "size": lambda x, rng: x * rng.random(size=rng.integers(3)),
    "out": lambda x, rng: x * rng.random(3, out=np.zeros(3)),
    "int": lambda x, rng: x * int(rng.integers(3)),
    "float": lambda x, rng: x * float(rng.random()),
    "a list": lambda x, rng: x * [1.0, 2.0][rng.integers(2)],
    "range": lambda x, rng: sum((x for _ in range(rng.integers(2))), x),
    "words": lambda x, rng: x * len(rng.choice(["a", "b"])),
    "the state": lambda x, rng: x * rng.bit_generator.state["state"]["state"],
    "children": lambda x, rng: x * rng.spawn(1)[0].random(),
    "a copy": lambda x, rng: x * copy.deepcopy(rng).random(),
    "a pickle": lambda x, rng: x * pickle.loads(pickle.dumps(rng)).random(),
    "shuffle": lambda x, rng: rng.shuffle([1, 2]) or x,
    "of a node": lambda x, rng: rng.permutation(x),
}


@pytest.mark.parametrize("f", BAD.values(), ids=list(BAD))
@pytest.mark.parametrize("x", [2.0, np.ones(3)], ids=["number", "array"])
def test_what_cannot_be_drawn_again_is_refused(f, x):
    for _ in range(2):
        with pytest.raises(TypeError):
            tb.compile(f)(x, np.random.default_rng(0))


def test_a_recorded_generator_is_of_no_use_afterwards():
    kept = []
    tb.compile(lambda x, rng: kept.append(rng) or x)(1.0, np.random.default_rng(0))
    with pytest.raises(RuntimeError, match="ended"):
        kept[0].random()


# --- rows, files --------------------------------------------------------------------------------


@pytest.mark.parametrize("row_engine", ["numpy", "numba"])
def test_every_row_draws_its_own(row_engine):
    if row_engine != "numpy":
        pytest.importorskip(row_engine, reason="the engine's package")

    def f(x, rng):
        return x * rng.normal() + rng.integers(0, 9) * sum(rng.random(2), 0.0)

    step = tb.compile(f, engine=row_engine)
    mine, theirs = np.random.default_rng(1), np.random.default_rng(1)
    data = np.linspace(-1.0, 2.0, 20)
    values, slopes = step.batch(data, mine, rows=[0], gradient="rows")
    expected = [tb.value_and_grad(lambda x: f(x, theirs))(float(x)) for x in data]
    np.testing.assert_allclose(np.array([values, slopes]).T, expected, rtol=1e-14)
    assert state(mine) == state(theirs)


def test_rows_that_draw_and_part_are_refused():
    step = tb.compile(lambda x, rng: x if rng.random() < 0.5 else -x)
    rng = np.random.default_rng(1)
    before = state(rng)
    with pytest.raises(RuntimeError, match="draw random numbers"):
        step.batch(np.ones(50), rng, rows=[0])
    assert state(rng) == before


@pytest.mark.parametrize("x", [2.0, np.ones(3)], ids=["number", "array"])
def test_a_program_with_draws_goes_through_a_file(x, tmp_path):
    def f(x, a, b):
        y = x * b.normal([0.5], 2.0, size=1)[0] + a.integers(0, 9)
        return y * a.random() if np.ndim(x) == 0 else (y * a.random(3, dtype=np.float32)).sum()

    a, b = np.random.default_rng(1), np.random.default_rng(2)
    program = tb.compile(f).program(x, a, b)
    replay.save(program, tmp_path / "f.program")
    loaded = replay.load(tmp_path / "f.program")
    assert str(loaded.draws) == str(program.draws)
    runner, step = replay.runner(loaded), tb.compile(f)
    for _ in range(3):
        c, d = copy.deepcopy(a), copy.deepcopy(b)
        got = runner.values([x, *loaded.drawn(a, b)])
        assert float(got[0]) == step(x, c, d)
        assert (state(a), state(b)) == (state(c), state(d))
    with pytest.raises(ValueError, match="2 generators"):
        loaded.drawn(a)


@pytest.mark.parametrize(
    "draw",
    [
        Draw(0, "shuffle", ([1],)),
        Draw(0, "bit_generator"),
        Draw(0, "__reduce__"),
        Draw(7, "random"),
        Draw(-1, "random"),
        Draw(0, "random", count=5),
        Draw(0, "random", count=-1),
        Draw(0, "random", (), {"out": None}),
        Draw(0, "random", (replay.program.Placeholder(0),)),
    ],
    ids=repr,
)
def test_draws_that_are_none_are_no_part_of_a_file(draw, tmp_path):
    program = tb.compile(lambda x, rng: x * rng.random()).program(1.0, np.random.default_rng(0))
    program.draws = [draw]
    with pytest.raises(ValueError, match="draws"):
        replay.save(program, tmp_path / "f.program")


def test_draws_of_another_shape_are_found_out():
    program = tb.compile(lambda x, rng: x * rng.random(3)).program(
        np.ones(3), np.random.default_rng(0)
    )
    program.draws = [Draw(0, "random", (4,))]
    with pytest.raises(ValueError, match="shape"):
        program.drawn(np.random.default_rng(0))


class Drawing(nn.Module):
    generator = np.random.default_rng(0)

    def __init__(self, draw):
        self.draw = draw

    def forward(self, x):
        return x * self.draw()


@pytest.mark.parametrize(
    "draw",
    [
        lambda: np.random.rand(),
        lambda: random.random(),
        lambda: Drawing.generator.random(),
    ],
)
@pytest.mark.parametrize("make", [Drawing, lambda draw: nn.Sequential(lambda x: x * draw())])
def test_draws_in_a_module_from_what_is_no_argument_are_refused(make, draw):
    """A record would give the numbers of its own run again and again."""
    step, model = tb.compile(lambda m, x: m(x).sum()), make(draw)
    with pytest.raises((TypeError, RuntimeError), match="random numbers"):
        step(model, tb.Tensor([1.0, 2.0]))
