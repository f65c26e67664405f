"""The passes drop instructions, and change no bit of any result."""

import dataclasses
import math

import numpy as np
import pytest
from test_array_numpy import random_graph
from test_program import bits, by_hand, recorded

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value
from tinygrad_bp.differentiable import gradients_of
from tinygrad_bp.replay import array_numpy, scalar_numpy
from tinygrad_bp.replay.passes import folded, optimized, without_dead_code, without_repetition

PASSES = [without_dead_code, without_repetition, optimized, folded]
every_pass = pytest.mark.parametrize("change", PASSES, ids=lambda p: p.__name__)
X = Tensor(np.arange(6.0).reshape(2, 3))


def names(program):
    return [str(program.rule(i)).removeprefix("<rule ").rstrip(">") for i in range(len(program))]


# --- what goes ----------------------------------------------------------------------------------


def test_dead_code_goes():
    def f(x, y):
        tb.exp(x * 3.0) + y
        return x * 2.0

    program = without_dead_code(recorded(f, X, X))
    assert names(program) == ["input", "input", "constant", "multiply"]
    assert list(program.constants.values()) == [2.0]
    assert program.shapes == [(2, 3), (2, 3), (), (2, 3)]
    assert not program.details


def test_inputs_stay_where_they_are():
    program = optimized(
        recorded(lambda x, y, z: y * y, Value(1.0), Value(2.0), Value(3.0), kind="scalar")
    )
    assert program.inputs == [0, 1, 2]
    assert names(program) == ["input", "input", "input", "multiply"]


def test_what_a_guard_needs_stays():
    program = optimized(
        recorded(lambda x: x * 2.0 if tb.exp(x) > 1.0 else x, Value(1.0), kind="scalar")
    )
    assert [program.rule(g.condition).name for g in program.guards] == ["less"]
    assert program.guards[0].outcome is True
    assert "exp" in names(program)


def test_what_is_computed_twice_is_computed_once():
    def f(x, y):
        return tb.exp(x * y) + tb.exp(x * y), tb.sum(x, 0) * tb.sum(x, 0), x[:, 1:] + x[:, 1:]

    program = optimized(recorded(f, X, X))
    counts = program.stats()
    assert [counts[name] for name in ("exp", "sum", "getitem")] == [1, 1, 1]
    assert counts["multiply"] == 2


def test_what_is_the_same_from_the_same_is_the_same_all_along():
    def f(x):
        def tower(x):
            for k in range(5):
                x = tb.sin(x * float(k + 1)) + x
            return x

        return tower(x) - tower(x)

    program = optimized(recorded(f, Value(1.0), kind="scalar"))
    assert program.stats()["sin"] == 5
    i = program.outputs[0]
    first, second = program.operands_of(i)
    assert first == second


def test_two_guards_of_one_condition_stay():
    def f(x):
        if x > 0.0 and x > 0.0:
            return x
        return -x

    program = optimized(recorded(f, Value(1.0), kind="scalar"))
    assert [g.condition for g in program.guards] == [program.guards[0].condition] * 2


# --- what stays apart ---------------------------------------------------------------------------


def test_inputs_and_leaves_of_equal_value_stay_apart():
    w, v = Tensor(np.ones(2)), Tensor(np.ones(2))
    step = tb.compile(lambda a, b: ((a * w) * (b * v)).sum(), argnums=(0, 1))
    program = step.program(np.ones(2), np.ones(2))
    assert len(program.inputs) == len(set(program.inputs)) == 4
    v.data[...] = 3.0
    value, (ga, gb) = step.value_and_grad(np.ones(2), np.full(2, 2.0))
    assert (value, ga.tolist(), gb.tolist()) == (12.0, [6.0, 6.0], [3.0, 3.0])


def test_operands_are_not_exchanged():
    program = optimized(
        recorded(lambda x, y: x - y + (y - x), Value(1.0), Value(2.0), kind="scalar")
    )
    assert program.stats()["subtract"] == 2


ZEROS = [0.0, -0.0, math.nan]
APART = {
    "constants": lambda x, c: x * c,
    "arrays": lambda x, c: x * np.full(3, c),
    "pad": lambda x, c: tb.pad(x, 1, constant_values=c),
    "in where": lambda x, c: tb.where(x > 100.0, x, c),
}


@pytest.mark.parametrize("f", APART.values(), ids=list(APART))
def test_zeros_of_both_signs_and_nan_stay_apart(f):
    program = optimized(recorded(lambda x: tuple(f(x, c) for c in ZEROS), X))
    assert bits(by_hand(program, X.data)) == bits([f(X, c).data for c in ZEROS])


TWINS = {
    "index": [lambda x: x[1], lambda x: x[1:2], lambda x: x[[1]], lambda x: x[True][0][1]],
    "axis": [lambda x: x.sum(0), lambda x: x.sum(1), lambda x: x.sum()],
    "keepdims": [lambda x: x.sum(1), lambda x: x.sum(1, True), lambda x: x.sum(1, keepdims=False)],
    "slice": [lambda x: x[:1], lambda x: x[0:1], lambda x: x[::-1], lambda x: x[:]],
    "bool or int": [lambda x: x[0], lambda x: x[False], lambda x: x[True], lambda x: x[1]],
    "arrays": [lambda x: x[np.array([0, 1])], lambda x: x[np.array([1, 0])]],
    "dtype": [lambda x: x.astype(np.float32), lambda x: x.astype(np.float64)],
    "shape": [lambda x: x.reshape(6), lambda x: x.reshape((6, 1)), lambda x: x.reshape(1, 6)],
    "sequence": [lambda x: tb.stack([x, -x]), lambda x: tb.stack([-x, x]), lambda x: tb.stack([x])],
    "width": [lambda x: tb.pad(x, (1, 2)), lambda x: tb.pad(x, (2, 1)), lambda x: tb.pad(x, 1)],
}


@pytest.mark.parametrize("twins", TWINS.values(), ids=list(TWINS))
def test_the_arguments_of_a_rule_count(twins):
    program = optimized(recorded(lambda x: tuple(f(x) for f in twins), X))
    assert bits(by_hand(program, X.data)) == bits([f(X).data for f in twins])


def test_a_recorded_index_counts():
    def f(x, i, j):
        return x[i], x[j], x[i] * 2.0

    program = optimized(recorded(f, X, np.array([0]), np.array([0])))
    assert program.stats()["getitem"] == 2
    got = by_hand(program, X.data, np.array([0]), np.array([1]))
    assert bits(got) == bits([X.data[[0]], X.data[[1]], X.data[[0]] * 2.0])


# --- every bit ----------------------------------------------------------------------------------


def program_with_gradients(f, data):
    """A random function with its gradient, as it is recorded."""

    def both(*xs):
        for x in xs:
            x.rule = None
        value, aux = f(*xs)
        value.recorder.differentiates = True
        seed = np.ones(())
        gradients = gradients_of(value, xs, seed, create_graph=True)
        zero = xs[0].detach()
        return value, *aux, *(zero if g is None else g for g in gradients)

    return recorded(both, *map(Tensor, data))


def leaf_data(f):
    (captured,) = (
        cell.cell_contents for cell in f.__closure__ if isinstance(cell.cell_contents, Tensor)
    )
    return captured.data


@pytest.mark.parametrize("block", range(6))
def test_random_programs_keep_every_bit(block):
    for seed in range(3000 + 10 * block, 3010 + 10 * block):
        f, data_sets = random_graph(seed)
        program = program_with_gradients(f, data_sets[0])
        changed = [change(program) for change in PASSES]
        assert len(changed[0]) < len(program)
        assert len(changed[2]) <= len(changed[0])
        for data in data_sets:
            inputs = [*data, leaf_data(f)][: len(program.inputs)]
            expected = bits(by_hand(program, *inputs))
            for other in changed:
                assert bits(by_hand(other, *inputs)) == expected


@every_pass
def test_numbers_keep_every_bit(change):
    def f(x, y):
        total = x * 0.0
        for k in range(4):
            total = total + tb.sin(x * y) / (tb.exp(x * y) + float(k % 2)) - tb.maximum(x, y)
            tb.cos(total)
        return total, x * y

    program = recorded(f, Value(1.0), Value(2.0), kind="scalar")
    before, after = scalar_numpy.Runner(program), scalar_numpy.Runner(change(program))
    random = np.random.default_rng(0)
    for _ in range(20):
        data = random.normal(size=2).tolist()
        assert before.values(data).tobytes() == after.values(data).tobytes()
    assert len(optimized(program)) < len(program)


@every_pass
def test_the_engine_gives_the_same_before_and_after(change):
    def f(x):
        y = tb.softmax(x * x, -1)
        tb.exp(y)
        return y @ y.T + tb.softmax(x * x, -1) @ y.T, y.sum()

    program = recorded(f, X)
    before, after = array_numpy.Runner(program), array_numpy.Runner(change(program))
    assert (
        bits(before.values([X.data]))
        == bits(after.values([X.data]))
        == bits(by_hand(program, X.data))
    )


@every_pass
def test_a_program_is_not_changed_in_place(change):
    program = recorded(lambda x: (x * x + x * x).sum() if x.sum() > 0.0 else x, X)
    before = str(program)
    change(program)
    assert str(program) == before


@every_pass
def test_a_second_time_changes_nothing(change):
    program = optimized(recorded(lambda x: (x * x + x * x).sum() * tb.sum(x[1:]), X))
    assert str(change(program)) == str(program)


@every_pass
def test_a_program_without_instructions_or_outputs(change):
    program = change(recorded(lambda: (), kind="scalar"))
    assert (len(program), program.outputs) == (0, [])
    program = change(recorded(lambda x: (x * 2.0, ())[1], Value(1.0), kind="scalar"))
    assert program.inputs == [0]
    assert program.outputs == []


# --- constants ----------------------------------------------------------------------------------


def folds(f, *data, kind="array"):
    """The operations that stay, when the bits of what they give on any data stay the same."""
    program = recorded(f, *data, kind=kind)
    change = optimized(program)
    if kind == "array":
        for seed in range(3):
            rng = np.random.default_rng(seed)
            inputs = [rng.choice(EDGES, x.data.shape) for x in data]
            assert bits(by_hand(program, *inputs)) == bits(by_hand(change, *inputs))
    return [name for name in names(change) if name not in ("input", "constant")]


EDGES = [0.0, -0.0, 1.0, -1.5, math.nan, math.inf, -math.inf, 5e-324, -5e-324, 1e308]


NOTHING = {
    "x * 1": lambda x: x * 1.0,
    "1 * x": lambda x: 1.0 * x,
    "x * ones": lambda x: x * np.ones(3),
    "x / 1": lambda x: x / 1.0,
    "x - 0": lambda x: x - 0.0,
    "x + -0": lambda x: x + -0.0,
    "-0 + x": lambda x: -0.0 + x,
    "all of it": lambda x: ((x * 1.0 - 0.0) / 1.0 + -0.0) * np.ones((2, 1)),
}
SOMETHING = {
    "x + 0": lambda x: x + 0.0,
    "x - -0": lambda x: x - -0.0,
    "0 - x": lambda x: 0.0 - x,
    "1 / x": lambda x: 1.0 / x,
    "wider": lambda x: x * np.ones((4, 2, 3)),
    "not all": lambda x: x * np.array([1.0, 1.0, 2.0]),
    "one of all": lambda x: x * np.array([1.0, -0.0, 1.0]),
}


@pytest.mark.parametrize("f", NOTHING.values(), ids=list(NOTHING))
def test_what_changes_nothing_goes(f):
    assert folds(f, X) == []


@pytest.mark.parametrize("f", SOMETHING.values(), ids=list(SOMETHING))
def test_what_changes_a_bit_or_a_shape_stays(f):
    assert len(folds(f, X)) == 1


def test_another_dtype_stays():
    x = Tensor(np.ones(3, np.float32))
    program = optimized(recorded(lambda x: x * np.ones(3), x))
    assert program.stats()["multiply"] == 1
    assert program.dtypes[program.outputs[0]] == np.float64


def with_constants(program, inputs):
    """The program with some of its inputs as constants."""
    codes = program.codes.copy()
    given = dict(zip(program.inputs, inputs, strict=True))
    constants = {**program.constants, **{i: x for i, x in given.items() if x is not None}}
    codes[list(constants)] = 1
    return dataclasses.replace(
        program,
        codes=codes,
        constants=constants,
        inputs=[i for i, x in given.items() if x is None],
    )


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_of_constants_are_computed_once(seed):
    f, (data, *_) = random_graph(seed)
    program = program_with_gradients(f, data)
    inputs = [*data, leaf_data(f)][: len(program.inputs)]
    constant = with_constants(program, inputs)
    change = optimized(constant)
    assert set(names(change)) <= {"constant"}
    assert bits(by_hand(change)) == bits(by_hand(program, *inputs))
    partly = with_constants(program, [*inputs[:1], *[None] * len(inputs[1:])])
    assert len(optimized(partly)) <= len(partly)
    assert bits(by_hand(optimized(partly), *inputs[1:])) == bits(by_hand(program, *inputs))


def test_numbers_are_computed_where_every_engine_gives_the_same_bits():
    def f(x, c):
        return x * (c * 2.0 + 1.0) + tb.exp(c)

    program = with_constants(recorded(f, Value(1.0), Value(3.0), kind="scalar"), [None, 3.0])
    change = optimized(program)
    assert change.stats() == {"input": 1, "constant": 2, "multiply": 1, "exp": 1, "add": 1}
    for x in EDGES:
        one, other = (scalar_numpy.Runner(p).value_and_gradient([x]) for p in (program, change))
        assert bits(one) == bits(other)


def test_single_numbers_keep_what_changes_nothing():
    """Without it, gradients would come together in another order."""
    assert folds(lambda x: x * 1.0, Value(2.0), kind="scalar") == ["multiply"]


def test_a_guard_on_a_constant_stays():
    def f(x, c):
        return x * 2.0 if c > 1.0 else x

    program = with_constants(recorded(f, Value(1.0), Value(3.0), kind="scalar"), [None, 3.0])
    change = optimized(program)
    assert [change.constants[g.condition] for g in change.guards] == [True]
    assert scalar_numpy.Runner(change).values([4.0]).tolist() == [8.0, 1.0]


def test_small_constants_do_not_become_large_ones():
    def f(x, c):
        return (x * tb.broadcast_to(c, (300, 300))).sum()

    program = with_constants(recorded(f, Tensor(2.0), Tensor(3.0)), [None, np.float64(3.0)])
    assert optimized(program).stats()["broadcast_to"] == 1


def test_an_error_of_constants_is_that_of_the_run():
    program = recorded(lambda x, i: tb.take(x, i), Tensor(np.ones(3)), np.array([1]))
    bad = with_constants(program, [np.ones(3), np.array([7])])
    assert optimized(bad).stats()["take"] == 1
