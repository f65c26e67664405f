"""numpy's own functions on nodes: `np.tanh(x)`, `np.sum(x, axis=0)`, `np.concatenate([x, y])`.

numpy hands a call that meets a node to the node's type (NEP 13 for ufuncs, NEP 18 for the others).
Rules carry numpy's names, so the answer is the rule of that name; a function without one raises,
naming itself, instead of computing without a history. Two things need care. A function is known by
its identity, since equal names may mean different arguments: the second of `np.linalg.norm` is not
an axis. And no argument is ever dropped: one that the rule lacks must have numpy's default.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from tinygrad_bp import array_rules, rules
from tinygrad_bp.array_rules import ARRAY_RULES, ArrayRule
from tinygrad_bp.rules import RULES, Rule

# --- which function is which rule ---------------------------------------------------------------

# Those whose arguments have other names or other defaults than the rule's.


def _clip(a: Any, a_min: Any = None, a_max: Any = None, min: Any = None, max: Any = None) -> Any:
    """No bound, in numpy None, is an infinite one."""
    if (min is not None or max is not None) and (a_min is not None or a_max is not None):
        raise TypeError("numpy.clip: give the bounds as a_min and a_max or as min and max")
    low, high = (a_min, a_max) if min is None and max is None else (min, max)
    return rules.clip(a, -math.inf if low is None else low, math.inf if high is None else high)


def _einsum(operands: tuple[Any, ...]) -> Any:
    if not operands or not isinstance(operands[0], str):
        raise TypeError('numpy.einsum of nodes takes its subscripts first, as in "ij,jk->ik"')
    return array_rules.einsum(*operands)


def _reshape(a: Any, shape: Any = None, newshape: Any = None) -> Any:
    """The second name is that of numpy 2.0."""
    return array_rules.reshape(a, newshape if shape is None else shape)


def _split(ary: Any, indices_or_sections: Any, axis: int = 0) -> Any:
    return array_rules.split(ary, indices_or_sections, axis)


def _take_along_axis(arr: Any, indices: Any, axis: int = -1) -> Any:
    return array_rules.take_along_axis(arr, indices, axis)


FUNCTIONS: dict[Any, Callable[..., Any]] = {
    getattr(np, name): rule for name, rule in (RULES | ARRAY_RULES).items() if hasattr(np, name)
} | {
    np.amax: array_rules.max,
    np.amin: array_rules.min,
    np.clip: _clip,
    np.einsum: _einsum,
    np.reshape: _reshape,
    np.split: _split,
    np.take_along_axis: _take_along_axis,
}

# For each the operator, and the one that says the same with the sides exchanged.
COMPARISONS: dict[Any, tuple[Any, Any]] = {
    np.equal: (operator.eq, operator.eq),
    np.not_equal: (operator.ne, operator.ne),
    np.less: (operator.lt, operator.gt),
    np.less_equal: (operator.le, operator.ge),
    np.greater: (operator.gt, operator.lt),
    np.greater_equal: (operator.ge, operator.le),
}

# These ask for the shape alone, so they see an array of that shape, and give plain arrays.
OF_SHAPE = {np.shape, np.ndim, np.size, np.zeros_like, np.ones_like, np.full_like}

# What does the same as a function that has no rule, or most of it; the function's own name is tried
# first and needs no entry.
INSTEAD = {
    "add.accumulate": "cumsum",
    "add.reduce": "sum",
    "append": "concatenate",
    "array_split": "split",
    "average": "mean",
    "block": "concatenate",
    "column_stack": "stack",
    "cumulative_sum": "cumsum",
    "dot": "matmul",
    "dsplit": "split",
    "dstack": "stack",
    "exp2": "power",
    "fabs": "absolute",
    "fliplr": "flip",
    "flipud": "flip",
    "float_power": "power",
    "fmax": "maximum",
    "fmin": "minimum",
    "hsplit": "split",
    "hstack": "concatenate",
    "inner": "einsum",
    "kron": "einsum",
    "linalg.matrix_norm": "norm",
    "linalg.matrix_transpose": "transpose",
    "linalg.multi_dot": "matmul",
    "linalg.outer": "einsum",
    "linalg.tensordot": "einsum",
    "linalg.trace": "einsum",
    "linalg.vecdot": "einsum",
    "linalg.vector_norm": "norm",
    "log10": "log",
    "log2": "log",
    "logaddexp.reduce": "logsumexp",
    "logaddexp2": "logaddexp",
    "matrix_transpose": "transpose",
    "matvec": "matmul",
    "maximum.reduce": "max",
    "minimum.reduce": "min",
    "moveaxis": "transpose",
    "multiply.outer": "einsum",
    "multiply.reduce": "prod",
    "outer": "einsum",
    "ravel": "reshape",
    "reciprocal": "divide",
    "rollaxis": "transpose",
    "select": "where",
    "swapaxes": "transpose",
    "tensordot": "einsum",
    "trace": "einsum",
    "vdot": "einsum",
    "vecdot": "einsum",
    "vecmat": "matmul",
    "vsplit": "split",
    "vstack": "concatenate",
}


# --- the two methods ----------------------------------------------------------------------------


def array_ufunc(self: Any, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
    """numpy's elementwise functions: `np.tanh(x)`, and operators with an array on their left."""
    known = method == "__call__" and (ufunc in FUNCTIONS or ufunc in COMPARISONS)
    if not known:
        raise _no_rule(self, ufunc, method)
    for name, value in sorted(options.items(), reverse=True):  # out before axes, for array @= node
        if not _is_neutral(name, value):
            raise _no_argument(self, ufunc, name)
    if ufunc in COMPARISONS:
        return _compare(ufunc, *inputs)
    return FUNCTIONS[ufunc](*inputs)


def array_function(
    self: Any,
    function: Callable[..., Any],
    types: Any,
    arguments: Any,
    options: Any,
) -> Any:
    """numpy's other functions: `np.sum(x, axis=0)`, `np.where(condition, x, 0.0)`."""
    rule = function if function in OF_SHAPE else FUNCTIONS.get(function)
    if rule is None:
        raise _no_rule(self, function)
    numpys = _signature(function)
    try:
        given = numpys.bind(*arguments, **options).arguments
    except TypeError as error:
        raise TypeError(f"{_name(function)}: {error}") from None
    operands = [given.pop(name) for name in list(given)[: _operand_count(rule)]]
    taken = _signature(rule).parameters
    named = {}
    for name, value in given.items():
        parameter = numpys.parameters[name]
        if parameter.kind is parameter.VAR_KEYWORD:
            further = {k: v for k, v in value.items() if k in taken or not _is_neutral(k, v)}
        else:
            further = {} if _is_default(value, parameter.default) else {name: value}
        named.update(further)
    for name, value in named.items():
        if name not in taken:
            raise _no_argument(self, function, name)
        if operands and _is_node(value) and not _is_index(value):
            raise TypeError(
                f"{_name(function)}: {name} is no operand, and cannot be {_kind(value)}; "
                "use its .data"
            )
    if rule is function:
        operands = [_hollow(x) for x in operands]
    return rule(*operands, **named)


class ArrayUfunc:
    """`array_ufunc` as a method of nodes: numpy looks for it on the type.

    `np.ma` looks on the node, and finding a method there would compute the product of a masked
    array and the data, without a history. None tells it to leave the operator to the node.
    """

    def __get__(self, node: Any, kind: type) -> Any:
        return array_ufunc if node is None else None


# --- arguments ----------------------------------------------------------------------------------


@cache
def _signature(function: Any) -> inspect.Signature:
    # These two are written in C, and say what they take in newer numpys only.
    stand_ins: dict[Any, Any] = {np.where: rules.where, np.concatenate: np.stack}
    return inspect.signature(stand_ins.get(function, function))


def _operand_count(rule: Any) -> int:
    """How many of numpy's arguments, from the first on, are the rule's operands."""
    if isinstance(rule, Rule):
        return rule.arity
    if isinstance(rule, ArrayRule):
        return 1 if rule.takes_sequence else len(rule.pullbacks)
    return 0 if rule in (_clip, _einsum) else 1


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (isinstance(value, str) and value == default)


# What ufuncs may be told beside their operands, and what changes nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "casting": ("same_kind", "safe"),
    "dtype": (None,),
    "order": ("K",),
    "out": (None,),
    "subok": (True,),
    "where": (True,),
}


def _is_neutral(name: str, value: Any) -> bool:
    return any(_is_default(value, neutral) for neutral in _NEUTRAL.get(name, ()))


def _is_node(x: Any) -> bool:
    return hasattr(type(x), "_interpret")


def _is_index(x: Any) -> bool:
    """Whether x are integers that are being recorded: those can be arguments."""
    return np.dtype(getattr(x, "dtype", object)).kind in "iu"


def _hollow(x: Any) -> Any:
    """An array of the shape and dtype of a node; what it holds does not matter."""
    dtype = np.dtype(getattr(x, "dtype", np.float64))
    return np.empty(getattr(x, "shape", ()), np.float64 if dtype.hasobject else dtype)


def _compare(ufunc: np.ufunc, x: Any, y: Any) -> Any:
    """By data, as the operators do."""
    compare, mirrored = COMPARISONS[ufunc]
    if _is_node(x) and _is_node(y):
        return compare(x, y)
    if not _is_node(x):
        x, y, compare = y, x, mirrored
        if type(y) is np.ndarray and y.ndim == 0:
            y = y[()]  # numpy makes an array of a scalar on the left of `<`, but it is a number
    # The operator itself would ask numpy again where the node has no answer, and numpy us.
    answer = getattr(type(x), f"__{compare.__name__}__")(x, y)
    if answer is not NotImplemented:
        return answer
    if ufunc is np.equal or ufunc is np.not_equal:
        return ufunc is np.not_equal
    raise TypeError(f"{_name(ufunc)} cannot compare {_kind(x)} with {type(y).__name__}")


# --- errors -------------------------------------------------------------------------------------


def _name(function: Any) -> str:
    """As one writes it in full; a ufunc that is not numpy's has no more than its own name."""
    name: str = function.__name__
    if isinstance(function, np.ufunc):
        return f"numpy.{name}" if getattr(np, name, None) is function else name
    return f"{function.__module__}.{name}"


def _kind(x: Any) -> str:
    return "an array of Values" if isinstance(x, np.ndarray) else f"a {type(x).__name__}"


def _no_rule(node: Any, function: Any, method: str = "__call__") -> TypeError:
    name = _name(function) if method == "__call__" else f"{_name(function)}.{method}"
    short = name.removeprefix("numpy.")
    last = short.split(".")[-1]
    ours = RULES.keys() | ARRAY_RULES.keys() | {"einsum", "split"}
    instead = INSTEAD.get(short) or (last if last in ours else None)
    hint = f"use tb.{instead}, or numpy" if instead else "there is no rule for it; use numpy"
    return TypeError(f"{name} does not take {_kind(node)}: {hint} on .data to leave the graph")


def _no_argument(node: Any, function: Any, argument: str) -> TypeError:
    name = _name(function)
    hint = "its rule has no such argument"
    if argument == "out":
        hint = "a result with a history is a new node (write a = a + x where numpy has a += x)"
    return TypeError(f"{name} of {_kind(node)} takes no {argument}=: {hint}")
