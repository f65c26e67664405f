"""A program: what it holds, how large it is, and how it reads."""

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value, nn
from tinygrad_bp.replay.program import OPERATIONS, Details, Placeholder, Program
from tinygrad_bp.replay.recorder import Recorder, recording_by
from tinygrad_bp.replay.tracing import input_like


def recorded(f, *args, kind="array"):
    """The program of f as it was recorded, without passes."""
    recorder = Recorder(kind)
    inputs = [input_like(recorder, x) for x in args]
    with recording_by(recorder):
        result = f(*inputs)
        outputs = result if isinstance(result, tuple) else (result,)
        operands = [recorder.operand(x) for x in outputs]
        numbers = [getattr(x, "number", None) for x in operands]
        numbers = [
            recorder.constant(x) if i is None else i for x, i in zip(operands, numbers, strict=True)
        ]
    return recorder.program(numbers)


def by_hand(program, *inputs):
    """What a program gives: its rules, one after the other, as the eager engine runs them."""
    from tinygrad_bp import arrays
    from tinygrad_bp.array_rules import ArrayRule
    from tinygrad_bp.replay.program import filled_in, placeholders

    values = [None] * len(program)
    given = iter(inputs)
    with np.errstate(all="ignore"):
        for i in range(len(program)):
            rule = program.rule(i)
            operands = [values[j] for j in program.operands_of(i)]
            if rule == "input":
                values[i] = next(given)
            elif rule == "constant":
                values[i] = program.constants[i]
            elif isinstance(rule, ArrayRule):
                detail = program.details[i]
                count = len(operands) - placeholders(detail.parameters)
                parameters = filled_in(detail.parameters, operands)
                operands = [np.asarray(x) for x in operands[:count]]
                values[i] = rule.apply(arrays, operands, parameters, detail.options)
            else:
                values[i] = rule.value(arrays, *operands)
    wanted = [*program.outputs, *(g.condition for g in program.guards)]
    return [np.asarray(values[i]) for i in wanted]


def bits(arrays):
    return [(x.shape, x.dtype, x.tobytes()) for x in map(np.asarray, arrays)]


X = Tensor(np.arange(6.0).reshape(2, 3))


def test_a_program_reads_as_it_computes():
    step = tb.compile(lambda x: tb.where(x > 0.5, x * 2.0, -x) if x > 0.0 else x)
    lines = str(step.program(3.0)).splitlines()
    text = "\n".join(line.partition(" is ")[0] for line in lines)
    assert text == (
        "%0 = input 0\n"
        "%1 = 0\n"
        "%2 = less(%1, %0)\n"
        "%3 = 0.5\n"
        "%4 = less(%3, %0)\n"
        "%5 = 2\n"
        "%6 = multiply(%0, %5)\n"
        "%7 = negative(%0)\n"
        "%8 = where(%4, %6, %7)\n"
        "guard %2\n"
        "return %8"
    )
    assert "guard %2 is True, in " in lines[-2]
    assert "test_program.py" in lines[-2]


def test_arrays_are_shown_with_their_shapes_and_arguments():
    program = recorded(lambda x: tb.sum(x + np.ones((2, 3)), axis=0, keepdims=True), X)
    assert str(program).splitlines() == [
        "%0 [2, 3] = input 0",
        "%1 [2, 3] = array[2, 3]",
        "%2 [2, 3] = add(%0, %1)",
        "%3 [1, 3] = sum(%2, axis=0, keepdims=True)",
        "return %3",
    ]


def test_a_recorded_index_is_shown_in_its_place():
    program = recorded(lambda x, i: x[:, i], X, np.array([0, 2]))
    assert "Placeholder" not in str(program)


def test_stats_and_len_count_instructions():
    program = recorded(lambda x: (x * x + x * 2.0).sum() + x.sum(), X)
    assert program.stats() == {"input": 1, "constant": 1, "multiply": 2, "add": 2, "sum": 2}
    assert len(program) == sum(program.stats().values()) == 8
    assert repr(program) == "<array program of 8 instructions>"


def test_every_operation_has_its_name():
    assert all(rule.name == name for name, rule in OPERATIONS.items())


def test_an_instruction_on_single_numbers_takes_32_bytes_at_most():
    model = nn.MLP([4, 8, 8, 1], rng=0).scalar_view()
    step = tb.compile(lambda model, x, y: nn.squared_error(model(x), y))
    random = np.random.default_rng(0)
    args = model, random.normal(size=(5, 4)), random.normal(size=(5, 1))
    step.value_and_grad(*args)
    program = step.program(*args)
    assert program.kind == "scalar"
    assert len(program) > 1000
    assert (program.codes.dtype, program.operands.dtype) == (np.uint16, np.int32)
    assert program.operands.shape == (len(program), 3)
    assert not any((program.details, program.shapes, program.dtypes))
    value_and_adjoint = 2 * np.dtype(np.float64).itemsize
    held = program.codes.nbytes + program.operands.nbytes
    assert held / len(program) + value_and_adjoint <= 32


def test_operands_come_before_what_is_computed_from_them():
    model = nn.MLP([3, 2], rng=0)
    program = tb.compile(lambda x: model(x).sum()).program(np.ones((2, 3)))
    for i in range(len(program)):
        assert all(0 <= j < i for j in program.operands_of(i))


def test_inputs_stand_in_their_order_and_leaves_that_are_reached_after_them():
    w = Tensor([1.0, 2.0])
    program = tb.compile(lambda a, b: (w * b).sum() + a.sum() * 0.0).program(np.ones(3), np.ones(2))
    assert [program.shapes[i] for i in program.inputs] == [(3,), (2,), (2,)]


def test_equal_constants_are_one_and_others_are_not():
    def f(x):
        y = x * 2.0 + 2.0
        for c in (0.0, -0.0, float("nan"), float("nan"), 1.0):
            y = y + c
        return y

    constants = recorded(f, Value(1.0), kind="scalar").constants.values()
    assert sorted(map(str, constants)) == ["-0.0", "0.0", "1.0", "2.0", "nan"]


def test_parameters_are_copies():
    index = np.array([0, 0])
    program = recorded(lambda x: x[index], X)
    index[:] = 1
    assert by_hand(program, X.data)[0].tolist() == [[0, 1, 2]] * 2


def test_an_instruction_of_more_operands_has_details():
    program = recorded(lambda x: tb.stack([x, x * 2.0, x, x]), X)
    i = program.outputs[0]
    assert program.operands_of(i) == (0, 2, 0, 0)
    assert program.operands[i].tolist() == [-1, -1, -1]
    assert program.details[i] == Details((0, 2, 0, 0))


def test_a_recorded_index_is_a_further_operand():
    program = recorded(lambda x, i: x[:, i], X, np.array([0, 2]))
    detail = program.details[program.outputs[0]]
    assert detail.operands == (0, 1)
    assert detail.parameters == ((slice(None), Placeholder(1)),)


@pytest.mark.parametrize("kind", ["scalar", "array"])
def test_a_program_may_be_empty(kind):
    program = recorded(lambda x: x, Value(1.0) if kind == "scalar" else X, kind=kind)
    assert len(program) == 1
    assert program.outputs == program.inputs == [0]
    assert isinstance(program, Program)
    assert str(program).endswith("return %0")


def test_the_program_of_a_function_is_that_of_its_value():
    step = tb.compile(lambda x: (x * x).sum())
    assert step.program(np.ones(2)).stats() == {"input": 1, "multiply": 1, "sum": 1}
    step.value_and_grad(np.ones(2))
    assert len(step.program(np.ones(2))) == 3
