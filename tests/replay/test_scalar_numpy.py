"""Replayed single numbers are those of the eager engine; in batches too, bit for bit.

`test_scalar_numba` runs these tests once more, on the other engine.
"""

import itertools
import math
import random
import threading

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import floats
from tinygrad_bp.graph import sweep
from tinygrad_bp.replay import program as tape, scalar_numpy
from tinygrad_bp.replay.passes import optimized
from tinygrad_bp.replay.program import Details, Program
from tinygrad_bp.replay.recorder import Recorder, recording_by
from tinygrad_bp.replay.tracing import input_like
from tinygrad_bp.rules import RULES, elementwise

EPS = np.finfo(float).eps
EDGES = [0.0, 1e-300, 0.5, 1.0, 2.0, 30.0, 800.0, 1e300, math.inf]
EDGES = [*EDGES, *(-x for x in EDGES), math.nan]
CONTINUOUS = sorted(set(RULES) - {"azmul", "absolute", "where", "clip"})
# For batches, which take longer to compile.
SOME = ["add", "multiply", "divide", "power", "exp", "log", "tanh", "erfc", "maximum", "sigmoid"]


@pytest.fixture
def engine():
    return scalar_numpy.Runner


def recorded(f, n):
    """The program of a function of n Values."""
    recorder = Recorder("scalar")
    given = [input_like(recorder, tb.Value(0.3 + 0.1 * k)) for k in range(n)]
    with recording_by(recorder):
        results = f(*given)
    results = results if isinstance(results, tuple) else (results,)
    return optimized(recorder.program([recorder.operand(x).number for x in results]))


def eager(f, point):
    """Value and gradient of a function of Values, and per input the sum of its |terms|."""
    leaves = [tb.Value(x) for x in point]
    result = f(*leaves)
    gradients, terms = dict.fromkeys(leaves, 0.0), dict.fromkeys(leaves, 0.0)
    if result.requires_grad:
        terms[result] = 1.0
        for step in sweep(result):
            if step.node in gradients:
                gradients[step.node] = step.gradient
            for parent, local, _ in step.edges:
                share = floats.azmul(terms[step.node], abs(float(local)))
                terms[parent] = terms.get(parent, 0.0) + share
    return result.data, [gradients[x] for x in leaves], [terms[x] for x in leaves]


def same_bits(x, y):
    """Equal in every bit, but for which nan it is."""
    x, y = np.asarray(x), np.asarray(y)
    equal = (x == y) & (np.signbit(x) == np.signbit(y))
    return x.shape == y.shape and bool(np.all(equal | (np.isnan(x) & np.isnan(y))))


def close(x, y, scale, relative):
    """The same nan or infinity, or apart by a part of the scale (and the smallest normal)."""
    if math.isnan(y) or math.isinf(y):
        return x == y or (math.isnan(x) and math.isnan(y))
    return abs(x - y) <= relative * scale + 2.3e-308


def random_function(seed, size=70, n=4, rules=CONTINUOUS):
    """A program with all the rules in it: operands are brought into the domain by a sine."""
    draw = random.Random(seed)
    names = rules + draw.choices(rules, k=size - len(rules))
    draw.shuffle(names)
    plan = []
    for k, name in enumerate(names):
        rule = RULES[name]
        plan.append((rule, [draw.randrange(max(0, k - 9), n + k) for _ in range(rule.arity)]))

    def f(*inputs):
        values = list(inputs)
        for rule, of in plan:
            operands = []
            for j, (low, high) in zip(of, rule.domain, strict=True):
                middle, half = (low + high) / 2, (high - low) / 2
                operands.append(middle + half * tb.sin(values[j]))
            values.append(0.5 * rule(*operands))
        total = values[-1]
        for x in values[n:]:
            total = total + 0.25 * x
        return total

    return f


# --- against the eager engine --------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_random_programs(engine, seed):
    # Tolerance: 1e-10 of the sum of |terms|, 5e5 roundings: a program magnifies its roundings.
    f = random_function(seed)
    runner = engine(recorded(f, 4))
    for k in range(5):
        point = np.random.default_rng(10 * seed + k).normal(size=4).tolist()
        value, gradient, terms = eager(f, point)
        (got,), gradients = runner.value_and_gradient(point)
        assert got == runner.values(point)[0]
        assert close(got, value, abs(value) + 1.0, 1e-10)
        for g, expected, scale in zip(gradients, gradient, terms, strict=True):
            assert close(g, expected, scale, 1e-10)


@pytest.mark.parametrize("name", sorted(set(RULES) - {"where"}))
def test_every_rule_at_the_edges(engine, name):
    # Tolerance: 100 roundings of the result; several elementary functions make a partial.
    rule = RULES[name]
    runner = engine(recorded(rule, rule.arity))
    for point in itertools.product(EDGES if rule.arity < 3 else EDGES[::3], repeat=rule.arity):
        value, gradient, _ = eager(rule, point)
        (got,), gradients = runner.value_and_gradient(point)
        if name not in ("sin", "cos", "tan") or abs(point[0]) < 1e3 or got == got:
            assert close(got, value, abs(value), 100 * EPS), point
            for g, expected in zip(gradients, gradient, strict=True):
                assert close(g, expected, abs(expected), 100 * EPS), point


@pytest.mark.parametrize("width", [1, 40])
def test_many_and_few_of_a_kind(engine, width):
    # Chains of one kind, alone and side by side: numpy runs the former one by one.
    def f(*x):
        total = 0.0
        for k in range(width):
            z = x[k % 3]
            for _ in range(5):
                z = tb.tanh(z * x[1] + x[2]) - x[0] / 3.0
                z = tb.maximum(tb.where(z > x[k % 2], z, 0.5 * z), -0.3) + tb.square(z)
            total = z * (1.0 + 0.01 * k) + total
        return total

    runner = engine(recorded(f, 3))
    for seed in range(4):
        point = np.random.default_rng(seed).normal(size=3).tolist()
        value, gradient, terms = eager(f, point)
        (got,), gradients = runner.value_and_gradient(point)
        assert close(got, value, abs(value) + width, 1e-12)
        for g, expected, scale in zip(gradients, gradient, terms, strict=True):
            assert close(g, expected, scale, 1e-12)


def test_repeated_operands(engine):
    runner = engine(recorded(lambda x, y: (x + x) * (x * x) + y / y + tb.hypot(y, y), 2))
    (value,), gradient = runner.value_and_gradient([3.0, 4.0])
    assert value == 55.0 + math.hypot(4.0, 4.0)
    assert gradient[0] == 54.0
    assert abs(gradient[1] - math.sqrt(2.0)) < 4 * EPS


def test_sums_over_one_leaf_are_exact(engine):
    def f(x, y):
        total = x
        for k in range(100):
            total = total + x * float(k) + y
        return total

    (value,), gradient = engine(recorded(f, 2)).value_and_gradient([1.0, 2.0])
    assert value == 5151.0
    assert gradient.tolist() == [4951.0, 100.0]


def test_constants_and_unused_inputs(engine):
    runner = engine(recorded(lambda x, y, z: 2.0 * y + tb.Value(1.0, requires_grad=False), 3))
    (value,), gradient = runner.value_and_gradient([1.0, 2.0, math.nan])
    assert value == 5.0
    assert gradient.tolist() == [0.0, 2.0, 0.0]


def test_an_input_as_the_result(engine):
    runner = engine(recorded(lambda x, y: (y, x), 2))
    values, gradient = runner.value_and_gradient([1.0, 2.0])
    assert values.tolist() == [2.0, 1.0]
    assert gradient.tolist() == [0.0, 1.0]


def test_a_result_that_others_are_computed_from(engine):
    def f(x):
        y = x * x
        return y, tb.exp(y) * 1000.0

    values, gradient = engine(recorded(f, 1)).value_and_gradient([3.0])
    assert values[0] == 9.0
    assert gradient.tolist() == [6.0]


def test_detach_and_masked_poles(engine):
    # Gradient 0 times an infinite or undefined derivative is 0.
    runner = engine(recorded(lambda x: tb.where(x > 0.0, tb.log(x), 1.0) + x.detach() * x, 1))
    for x, expected in ((2.0, 2.5), (0.0, 0.0), (-1.0, -1.0)):
        assert runner.value_and_gradient([x])[1].tolist() == [expected]
    runner = engine(recorded(lambda x: tb.sqrt(x) * 0.0 + x, 1))
    assert runner.value_and_gradient([0.0])[1].tolist() == [1.0]


def test_conditions_and_guards(engine):
    def f(x, y):
        inside = ((x < y) & (x >= 0.0)) | ~(y != 2.0) | (x == 7.0)
        if x <= y:
            return tb.where(inside, x, y) * 3.0
        return x

    program = recorded(f, 2)
    assert [g.outcome for g in program.guards] == [True]
    runner = engine(program)
    for x, y in itertools.product([-1.0, 0.0, 1.0, 2.0, 7.0, math.nan], repeat=2):
        inside = (x < y and x >= 0.0) or y == 2.0 or x == 7.0
        values, gradient = runner.value_and_gradient([x, y])
        assert same_bits(values, [3.0 * (x if inside else y), float(x <= y)])
        assert gradient.tolist() == ([3.0, 0.0] if inside else [0.0, 3.0])


def test_rules_of_users(engine):
    slope = 0.3

    def helper(m, x):
        return m.where(x > 0, x, slope * m.expm1(m.minimum(x, 0.0)))

    @elementwise(lambda m, x, y, z: m.divide(y, (1.0 + m.absolute(x)) ** 2), helper_dy, table=None)
    def softsign(m, x, y):
        return m.divide(x, 1.0 + m.absolute(x)) * y + helper(m, y)

    runner = engine(recorded(lambda x, y: softsign(x * y, y), 2))
    for point in ((0.5, 2.0), (-3.0, -0.2)):
        value, gradient, _ = eager(lambda x, y: softsign(x * y, y), point)
        (got,), gradients = runner.value_and_gradient(point)
        assert close(got, value, abs(value), 8 * EPS)
        assert np.allclose(gradients, gradient, rtol=1e-13, atol=0.0)


def helper_dy(m, x, y, z):
    return m.divide(x, 1.0 + m.absolute(x)) + m.where(y > 0, 1.0, 0.3 * m.exp(m.minimum(y, 0.0)))


def test_more_than_three_operands(engine):
    @elementwise(1.0, 2.0, None, lambda m, x, y, c, u, z: u + u, table=None)
    def four(m, x, y, c, u):
        return x + 2.0 * y + u * u

    def f(x, y, u):
        total = four(x, y, 1.0, u)
        for k in range(20):
            total = total + four(x * float(k), y, 0.0, u)
        return total

    program = recorded(f, 3)
    assert all(isinstance(d, Details) for d in program.details.values())
    (value,), gradient = engine(program).value_and_gradient([1.0, 2.0, 3.0])
    assert value == 191.0 + 21 * 13.0
    assert gradient.tolist() == [191.0, 42.0, 126.0]


def test_a_program_without_instructions(engine):
    nothing = np.zeros(0, np.uint16), np.zeros((0, 3), np.int32)
    runner = engine(Program("scalar", ["input", "constant"], *nothing, {}, [], {}, []))
    assert runner.values([]).tolist() == []


def test_nan_leaves_no_traces(engine):
    runner = engine(recorded(random_function(3), 4))
    point = [0.1, 0.2, 0.3, 0.4]
    first = runner.value_and_gradient(point)
    assert math.isnan(runner.value_and_gradient([math.nan] * 4)[0][0])
    runner.value_and_gradient([math.inf, 1e300, -math.inf, 0.0])
    again = runner.value_and_gradient(point)
    assert all(map(same_bits, first, again))


def test_results_are_the_caller_s_own(engine):
    runner = engine(recorded(lambda x: x * x, 1))
    first = runner.value_and_gradient([3.0])
    runner.value_and_gradient([5.0])
    assert [x.tolist() for x in first] == [[9.0], [6.0]]


def test_two_runners_in_two_threads(engine):
    program = recorded(random_function(1), 4)
    points = [np.random.default_rng(seed).normal(size=4).tolist() for seed in range(2)]
    expected = [engine(program).value_and_gradient(point) for point in points]
    wrong = []

    def work(point, value_and_gradient):
        runner = engine(program)
        runs = (runner.value_and_gradient(point) for _ in range(50))
        wrong.extend(run for run in runs if not all(map(same_bits, run, value_and_gradient)))

    threads = [threading.Thread(target=work, args=pair) for pair in zip(points, expected, strict=1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rows", [1, 7, 1500])
def test_rows_are_single_runs_bit_for_bit(engine, seed, rows):
    runner = engine(recorded(random_function(seed, size=120, rules=SOME), 4))
    data = np.random.default_rng(seed).normal(size=(rows, 4))
    data[0, 0] = math.inf
    values, gradients = runner.batch(data)
    some = range(rows) if rows < 10 else [0, 1, 2, 63, 64, 500, rows - 2, rows - 1]
    for r in some:
        value, gradient = runner.value_and_gradient(data[r].tolist())
        assert same_bits(values[r], value)
        assert same_bits(gradients[r], gradient)
    only, none = runner.batch(data, gradients=False)
    assert same_bits(only, values)
    assert none is None


@pytest.mark.parametrize("threads", [1, 2])
def test_gradients_summed_over_rows(engine, threads):
    # Tolerance: rows roundings of the sum of |terms|.
    runner = engine(recorded(random_function(2, rules=SOME), 4))
    columns = [0.3, *np.random.default_rng(0).normal(size=(2, 999)), -0.7]
    values, each = runner.batch(columns, threads=threads)
    again, total = runner.batch(columns, sum_gradients=True, threads=threads)
    assert same_bits(values, again)
    assert total.shape == (4,)
    assert (np.abs(total - each.sum(axis=0)) <= 999 * EPS * np.abs(each).sum(axis=0)).all()
    full = np.array([np.broadcast_to(c, 999) for c in columns]).T
    assert all(map(same_bits, (values, each), runner.batch(full, threads=threads)))


def test_one_bad_row_spoils_no_other(engine):
    runner = engine(recorded(lambda x, y: tb.log(x) * y, 2))
    x = np.linspace(1.0, 2.0, 50)
    good = runner.batch([x, 2.0])
    x[7] = math.nan
    for a, b in zip(good, runner.batch([x, 2.0]), strict=True):
        assert np.isnan(b[7]).any()
        assert same_bits(np.delete(a, 7, 0), np.delete(b, 7, 0))


def test_outcomes_of_guards_per_row(engine):
    runner = engine(recorded(lambda x: x * x if x > 0.0 else -x, 1))
    x = np.array([[1.0], [-1.0], [0.0], [2.0], [math.nan]])
    assert runner.batch(x)[0][:, 1].tolist() == [1.0, 0.0, 0.0, 1.0, 0.0]


def test_inputs_of_a_batch_must_fit(engine):
    runner = engine(recorded(lambda x, y: x * y, 2))
    with pytest.raises(ValueError, match="2 inputs, got 3"):
        runner.batch(np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"one length are expected, got lengths \[4, 5\]"):
        runner.batch([np.zeros(4), np.zeros(5)])
    with pytest.raises(ValueError, match="one length"):
        runner.batch([1.0, 2.0])
    values, gradients = runner.batch(np.zeros((0, 2)))
    assert values.shape == (0, 1)
    assert gradients.shape == (0, 2)


def test_conditions_have_no_gradient():
    assert all(set(rule.partials) == {None} for rule in tape.CONDITIONS.values())


def test_rows_at_once_are_what_a_cache_holds_or_16_of_a_long_program():
    found = [scalar_numpy._block(n, 5000) for n in (10, 1000, 10**5, 10**6, 10**8)]
    assert found == [1024, 262, 16, 16, 1]
    assert scalar_numpy._block(10**5, 3) == 3
