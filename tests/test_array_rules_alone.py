"""What a structural rule is, apart from its mathematics: table entry, call, refusals."""

import inspect
import math
import re
from typing import ClassVar

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import Tensor, array_rules, arrays
from tinygrad_bp.array_rules import ARRAY_RULES, ArrayRule, explicit, structural


def exactly(message):
    return f"^{re.escape(message)}$"


def refusal(error, message):
    return pytest.raises(error, match=exactly(message))


def twice(m, x, times=2.0):
    """x as often as wanted"""
    return m.multiply(times, x)


def twice_dx(m, g, z, x, times=2.0):
    return m.multiply(times, g)


def joined(m, operands, axis=0):
    return m.concatenate(operands, axis)


def joined_dx(m, g, z, operands, which, axis=0):
    return (g, which, len(operands), axis)


def test_what_a_rule_says_of_itself():
    rule = structural(twice_dx, table=None)(twice)
    assert type(rule) is ArrayRule
    assert (rule.name, rule.__name__, rule.__doc__) == ("twice", "twice", "x as often as wanted")
    assert rule.__module__ == __name__
    assert (rule.value, rule.pullbacks) == (twice, (twice_dx,))
    assert (rule.takes_sequence, rule.analytic, rule.forward) == (False, True, "pullback")
    assert str(inspect.signature(rule)) == "(x, times=2.0)"
    assert (repr(rule), rule.__reduce__()) == ("<rule twice>", "twice")
    assert "twice" not in ARRAY_RULES
    rule = structural(twice_dx, analytic=False, forward="linear", table=None)(twice)
    assert (rule.analytic, rule.forward) == (False, "linear")


def test_a_table_has_every_name_once():
    table = {}
    rule = structural(twice_dx, table=table)(twice)
    message = "there is a rule 'twice' already; give this one another name"
    with refusal(ValueError, message):
        structural(twice_dx, table=table)(twice)
    assert table == {"twice": rule}


def test_ways_of_forward_mode_are_known_by_name():
    message = "forward: expected 'linear', 'multilinear', 'formula' or 'pullback', got 'other'"
    with refusal(ValueError, message):
        structural(twice_dx, forward="other", table=None)(twice)


def test_flags_of_a_rule_are_flags():
    with refusal(TypeError, "takes_sequence: expected True or False, got str 'no'"):
        structural(twice_dx, takes_sequence="no", table=None)
    with refusal(TypeError, "analytic: expected True or False, got NoneType"):
        structural(twice_dx, analytic=None, table=None)


def test_apply_and_pull_of_operands_and_of_a_sequence():
    rule = structural(twice_dx, table=None)(twice)
    x = np.array([1.0, 2.0])
    assert list(rule.apply(np, [x], (3.0,), {})) == [3.0, 6.0]
    assert list(rule.apply(np, [x], (), {"times": 4.0})) == [4.0, 8.0]
    assert list(rule.pull(np, 0, x, None, [x], (3.0,), {})) == [3.0, 6.0]
    assert list(rule.pull(np, 0, x, None, [x], (), {"times": 4.0})) == [4.0, 8.0]
    rule = structural(joined_dx, takes_sequence=True, table=None)(joined)
    assert list(rule.apply(np, [x, x], (), {})) == [1.0, 2.0, 1.0, 2.0]
    for way in ((1,), {}), ((), {"axis": 1}):
        assert rule.apply(np, [x[None], x[None]], *way).shape == (1, 4)
    assert rule.pull(np, 1, 5.0, None, [x, x], (7,), {}) == (5.0, 1, 2, 7)
    assert rule.pull(np, 1, 5.0, None, [x, x], (), {"axis": 8}) == (5.0, 1, 2, 8)


class Seen:
    """An operand that writes down what it is called with."""

    calls: ClassVar[list[object]] = []
    answer = "answer"

    @classmethod
    def _interpret(cls, *call):
        cls.calls.append(call)
        return cls.answer


class Unable:
    @staticmethod
    def _interpret(*call):
        return NotImplemented


def test_the_first_operand_that_can_interprets():
    rule = structural(twice_dx, table=None)(twice)
    x, calls = Seen(), Seen.calls
    calls.clear()
    assert rule(x, 5.0, times=6.0) == "answer"
    assert calls.pop() == (rule, (x,), (5.0,), {"times": 6.0})
    rule = structural(joined_dx, takes_sequence=True, table=None)(joined)
    y = Unable()
    assert rule([y, x], 1) == "answer"
    assert calls.pop() == (rule, (y, x), (1,), {})
    assert rule((x,)) == "answer"
    assert calls.pop() == (rule, (x,), (), {})


def test_an_index_may_interpret():
    """One that is being recorded, among plain arrays, and within tuples."""
    rule = structural(twice_dx, table=None)(twice)
    index, calls = Seen(), Seen.calls
    for parameters in ((index,), (((1, (index,)), 2),)):
        calls.clear()
        assert rule(1.0, *parameters) == "answer"
        assert calls == [(rule, (1.0,), parameters, {})]


def test_what_a_call_refuses():
    rule = structural(twice_dx, table=None)(twice)
    message = (
        "twice: expected a Tensor or an array made by tb.values(), got ndarray; wrap an array as "
        "tb.Tensor(array)"
    )
    with refusal(TypeError, message):
        rule(np.ones(2))
    with refusal(TypeError, message.replace("ndarray", "Unable")):
        rule(Unable())
    with refusal(TypeError, "twice takes 1 operands, got 0"):
        rule()
    with refusal(TypeError, "matmul takes 2 operands, got 1"):
        tb.matmul(Tensor([1.0]))
    with refusal(TypeError, message.replace("twice", "matmul").replace("ndarray", "int, float")):
        tb.matmul(1, 2.0)
    with refusal(
        TypeError, message.replace("twice", "stack").replace("ndarray", ", ".join(["int"] * 5))
    ):
        tb.stack([1] * 6)  # of many, the first five
    rule = structural(joined_dx, takes_sequence=True, table=None)(joined)
    with refusal(TypeError, "joined: expected a list or tuple of arrays first, got nothing"):
        rule()
    with refusal(TypeError, "joined: expected a list or tuple of arrays first, got ndarray"):
        rule(np.ones(2))
    for nothing in ((), []):
        with refusal(ValueError, "joined: expected at least one array, got an empty sequence"):
            rule(nothing)


X = Tensor(np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: tb.linear(X, Tensor(np.ones(3)), Tensor(np.ones(3))),
            ValueError,
            "linear: expected W of shape (inputs, outputs) and b of shape (outputs,), got (3,) and "
            "(3,)",
        ),
        (
            lambda: tb.linear(X, Tensor(np.ones((3, 2))), Tensor(np.ones(3))),
            ValueError,
            "linear: expected W of shape (inputs, outputs) and b of shape (outputs,), got (3, 2) "
            "and (3,)",
        ),
        (
            lambda: explicit(3, [1]),
            TypeError,
            "einsum: subscripts: expected a str, got int 3",
        ),
        (
            lambda: tb.einsum("ij,jk", X),
            ValueError,
            "einsum: subscripts 'ij,jk' name 2 operands, got 1",
        ),
        (
            lambda: tb.einsum("i,ij", np.ones(3), np.ones((3, 2))),
            TypeError,
            "einsum: operands: expected a Tensor or Values among them, got ndarray of shape (3,)",
        ),
        (
            lambda: tb.logsumexp(X, keepdims="no"),
            TypeError,
            "logsumexp: keepdims: expected True or False, got str 'no'",
        ),
        (
            lambda: tb.pad(X, 1.5),
            TypeError,
            "pad: pad_width: expected an int, a pair, or a pair for each axis, got float 1.5",
        ),
        (
            lambda: tb.pad(X, (0, -1)),
            TypeError,
            "pad: pad_width: expected an int, a pair, or a pair for each axis, "
            "got tuple of length 2",
        ),
        (
            lambda: tb.pad(X, 1, "0"),
            TypeError,
            "pad: constant_values: expected a real number, got str '0'",
        ),
        (
            lambda: tb.tril(X, "0"),
            TypeError,
            "tril: k: expected an integer, got str '0'",
        ),
        (
            lambda: tb.triu(X, "0"),
            TypeError,
            "triu: k: expected an integer, got str '0'",
        ),
        (
            lambda: tb.take_along_axis(X, [[0], [1]], 1),
            TypeError,
            "take_along_axis: indices: expected an array of integers, got list of length 2",
        ),
        (
            lambda: tb.expand_dims(X, "0"),
            TypeError,
            "expand_dims: axis: expected an int or a tuple of ints, got str '0'",
        ),
        (
            lambda: tb.flip(X, (0, True)),
            TypeError,
            "flip: axis: expected an int or a tuple of ints, got tuple of length 2",
        ),
        (
            lambda: tb.einsum("ijk", X),
            ValueError,
            "einsum: subscripts 'ijk' do not fit operands of [2] dimensions",
        ),
        (
            lambda: tb.einsum("i", X),
            ValueError,
            "einsum: subscripts 'i' do not fit operands of [2] dimensions",
        ),
        (
            lambda: tb.einsum("...i->i", X),
            ValueError,
            "einsum: '...i->i' has '...' on the left but not on the right",
        ),
        (
            lambda: tb.astype(X, np.int64),
            TypeError,
            "astype: dtype: expected float32 or float64, got int64",
        ),
        (
            lambda: tb.take_along_axis(X, np.zeros((2, 1), int), "1"),
            TypeError,
            "take_along_axis: axis: expected an int, got str '1'",
        ),
        (
            lambda: tb.concatenate([X, X], None),
            TypeError,
            "concatenate: axis: expected an int, got None; reshape the arrays to flatten them",
        ),
        (
            lambda: tb.split(np.ones(3), 1),
            TypeError,
            "split: x: expected a Tensor or Values, got ndarray of shape (3,)",
        ),
        (
            lambda: tb.split(X, 2, 1),
            ValueError,
            "split: sections: axis 1 of length 3 has no 2 equal parts",
        ),
        (
            lambda: tb.split(X, 0, 1),
            ValueError,
            "split: sections: axis 1 of length 3 has no 0 equal parts",
        ),
        (
            lambda: tb.split(X, 1, "0"),
            TypeError,
            "split: axis: expected an integer, got str '0'",
        ),
        (
            lambda: tb.split(X, 1, 2),
            IndexError,
            "split: axis: expected one of 2, got 2",
        ),
        (
            lambda: tb.split(X, 1, -3),
            IndexError,
            "split: axis: expected one of 2, got -3",
        ),
        (
            lambda: tb.split(X, "0"),
            TypeError,
            "split: sections: expected a list of positions, got str '0'",
        ),
        (
            lambda: tb.split(X, [1, "0"]),
            TypeError,
            "split: sections: expected an integer, got str '0'",
        ),
        (
            lambda: tb.one_hot([0], 0),
            ValueError,
            "one_hot: classes: expected a positive integer, got 0",
        ),
        (
            lambda: tb.one_hot([0], 2, np.int64),
            TypeError,
            "one_hot: dtype: expected float32 or float64, got int64",
        ),
        (
            lambda: tb.one_hot([0.0], 2),
            TypeError,
            "one_hot: indices: expected integers, got list of length 1",
        ),
        (
            lambda: tb.one_hot([0, 2], 2),
            ValueError,
            "one_hot: indices must lie in 0 ... 1, got 0 ... 2",
        ),
        (
            lambda: tb.one_hot([-1, 1], 2),
            ValueError,
            "one_hot: indices must lie in 0 ... 1, got -1 ... 1",
        ),
    ],
)
def test_what_each_error_says(call, error, message):
    with refusal(error, message):
        call()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("expand_dims", ("0",), "axis: expected an int or a tuple of ints, got str '0'"),
        ("flip", ("0",), "axis: expected an int or a tuple of ints, got str '0'"),
        ("logsumexp", (None, "no"), "keepdims: expected True or False, got str 'no'"),
        ("pad", (1, "0"), "constant_values: expected a real number, got str '0'"),
        ("tril", ("0",), "k: expected an integer, got str '0'"),
        ("triu", ("0",), "k: expected an integer, got str '0'"),
    ],
)
def test_what_a_rule_itself_says(name, arguments, message):
    """Without a Tensor, which would look for the reason a second time."""
    with refusal(TypeError, f"{name}: {message}"):
        ARRAY_RULES[name].value(arrays, np.ones((2, 3)), *arguments)


def test_one_hot_of_nothing_and_of_what_is_recorded():
    assert tb.one_hot(np.zeros((2, 0), int), 3).shape == (2, 0, 3)
    assert tb.one_hot(np.array([1], np.uint8), 2).tolist() == [[0.0, 1.0]]
    assert tb.one_hot([1], 2).dtype == np.float64
    assert tb.one_hot([1], 2, np.float32).dtype == np.float32

    class Recorded:
        def one_hot(self, classes, dtype):
            return classes, dtype

    assert tb.one_hot(Recorded(), 3) == (3, None)
    assert tb.one_hot(Recorded(), 3, np.float32) == (3, np.float32)


@pytest.mark.parametrize("stack", [(1, 1, 1), (1, 1, 1, 1), (2, 1, 1), (1, 1, 3), (1, 3, 1)])
def test_products_of_vectors_and_stacks_with_axes_of_length_one(stack):
    """Where `squeeze` could take away too much."""
    y = Tensor(np.arange(1.0, 1.0 + np.prod(stack)).reshape(stack))
    x = Tensor(np.arange(2.0, 2.0 + stack[-2]))
    z = x @ y
    z.backward(np.ones(z.shape))
    np.testing.assert_array_equal(x.grad, y.data.reshape(-1, *stack[-2:]).sum(axis=(0, 2)))
    np.testing.assert_array_equal(y.grad, np.broadcast_to(x.data[:, None], stack))
    x = Tensor(np.arange(2.0, 2.0 + stack[-1]))
    y.zero_grad()
    z = y @ x
    z.backward(np.ones(z.shape))
    np.testing.assert_array_equal(x.grad, y.data.reshape(-1, stack[-1]).sum(axis=0))
    np.testing.assert_array_equal(y.grad, np.broadcast_to(x.data, stack))


@pytest.mark.parametrize("shape", [(2, 3), (4, 2, 3), (1, 4, 2, 3), (3, 0, 2)])
def test_rows_of_a_stack_are_those_of_one_matrix(shape):
    x = np.arange(float(np.prod(shape))).reshape(shape)
    rows = array_rules._rows(np, x)
    assert rows.shape == (math.prod(shape[:-1]), shape[-1])
    assert rows.ravel().tolist() == x.ravel().tolist()


def test_what_is_left_out_of_a_product_is_told_by_truth_values():
    mask = array_rules._identity(2)
    assert (mask.dtype, mask.tolist()) == (bool, [[True, False], [False, True]])


# How a tangent passes: what follows from the mathematics of each operation.
FORWARD = {
    "linear": {
        "sum", "scaled_sum", "mean", "cumsum", "reshape", "transpose", "astype", "expand_dims",
        "squeeze", "broadcast_to", "flip", "tril", "triu", "getitem", "scatter", "take",
        "take_along_axis", "concatenate", "stack",
    },
    "multilinear": {"matmul", "contract"},
    "formula": {"linear", "var", "norm", "logsumexp", "softmax", "log_softmax"},
    "pullback": {"max", "min", "prod", "pad"},
}  # fmt: skip


def test_how_tangents_pass():
    found = {way: {n for n, r in ARRAY_RULES.items() if r.forward == way} for way in FORWARD}
    assert found == FORWARD
    assert {n for n, r in ARRAY_RULES.items() if not r.analytic} == {"max", "min"}
    sequences = {n for n, r in ARRAY_RULES.items() if r.takes_sequence}
    assert sequences == {"contract", "concatenate", "stack"}
    assert array_rules.split not in ARRAY_RULES.values()
