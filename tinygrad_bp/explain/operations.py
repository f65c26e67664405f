"""One operation of a graph, as it is to be written: its operands, and what is done without a sign.

What an operation computes, and what it hands back, can always be written by its name and evaluated
by its rule; and a gradient can be summed to the shape of what was repeated.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinygrad_bp import array_rules as ar, arrays
from tinygrad_bp.array_rules import ArrayRule
from tinygrad_bp.derivatives import quiet
from tinygrad_bp.explain import formulas as f
from tinygrad_bp.explain.evaluating import View
from tinygrad_bp.explain.formulas import Expr
from tinygrad_bp.rules import Rule

_DEFAULT_AXIS: dict[Any, int] = {
    ar.ARRAY_RULES["softmax"]: -1,
    ar.ARRAY_RULES["log_softmax"]: -1,
}


class Operand(NamedTuple):
    """Something that an operation was applied to, or what it gave: its formula and its arrays."""

    expr: Expr
    view: View


class Operation(NamedTuple):
    """One node of the graph, as it is to be written."""

    rule: Rule | ArrayRule
    operands: tuple[Operand, ...]
    result: Operand
    parameters: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def columns(self) -> bool:
        """Whether vectors are columns, and so all products in the textbook's order."""
        return self.result.view.columns

    def argument(self, name: str, position: int, default: Any = None) -> Any:
        """A further argument of the operation, such as its axis."""
        if name in self.options:
            return self.options[name]
        return self.parameters[position] if len(self.parameters) > position else default


# --- by name ------------------------------------------------------------------------------------


def called(op: Operation) -> Expr:
    """An operation by its name, evaluated by the rule itself."""
    rule: Any = op.rule

    @quiet
    def compute(*matrices: Any) -> Any:
        plain = [x.view.plain(m) for x, m in zip(op.operands, matrices, strict=True)]
        return op.result.view.matrix(rule.apply(arrays, plain, op.parameters, op.options))

    arguments = tuple(x.expr for x in op.operands)
    view = op.result.view
    return f.Apply(rule.name, arguments, _detail(op), view.shape, view.stacked, compute)


def pulled(op: Operation, which: int, g: Expr) -> Expr:
    """A pullback by its name, evaluated by the rule itself."""
    rule: Any = op.rule
    operand = op.operands[which]

    @quiet
    def compute(*matrices: Any) -> Any:
        delta = op.result.view.plain(matrices[0])
        plain = [x.view.plain(m) for x, m in zip(op.operands, matrices[1:], strict=True)]
        result = rule.apply(arrays, plain, op.parameters, op.options)
        back = rule.pull(arrays, which, delta, result, plain, op.parameters, op.options)
        return operand.view.matrix(ar.sum_to(arrays, back, operand.view.array))

    name = rule.pullbacks[0 if rule.takes_sequence else which].__name__
    if rule.takes_sequence:
        name = f"{name}[{which + 1}]"
    arguments = (f.full(g, op.result.view.shape), *(x.expr for x in op.operands))
    view = operand.view
    return f.Apply(name, arguments, _detail(op), view.shape, view.stacked, compute)


def _detail(op: Operation) -> str:
    given = [_said(p) for p in op.parameters]
    given += [f"{name}={_said(p)}" for name, p in op.options.items()]
    return ", ".join(given)


def _said(x: Any) -> str:
    """An argument in words: a slice as Python writes it."""
    if isinstance(x, slice):
        ends = ["" if end is None else str(end) for end in (x.start, x.stop)]
        return ":".join(ends if x.step is None else [*ends, str(x.step)])
    if isinstance(x, tuple):
        return ", ".join("…" if part is ... else _said(part) for part in x)
    if isinstance(x, np.ndarray):
        return np.array2string(x, separator=",", threshold=8).replace("\n", "")
    return "…" if x is ... else str(x)


# --- shapes -------------------------------------------------------------------------------------


def fitted(g: Expr, have: View, want: View) -> Expr:
    """A gradient in the shape of the operand: what was repeated is summed up again."""
    if have.core == want.core:
        return f.samples(g) if have.stacked and not want.stacked else g
    summed = _summed(f.full(g, have.shape), have, want)
    if summed is None:
        return _summed_by_shape(f.full(g, have.shape), have, want)
    return f.samples(summed) if have.stacked and not want.stacked else summed


def _summed(g: Expr, have: View, want: View) -> Expr | None:
    """One sample's gradient, summed: over everything, or over the rows."""
    if not want.core or (want.core == (1,) and len(have.core) == 1):
        return f.full(f.total(g), want.shape)
    if len(have.core) == 2 and want.core in ((have.core[1],), (1, have.core[1])):
        ones = have.core[0]
        return f.matmul(g, f.Ones((ones, 1))) if have.columns else f.matmul(f.Ones((1, ones)), g)
    return None


def _summed_by_shape(g: Expr, have: View, want: View) -> Expr:
    """The gradient, summed as numpy's broadcasting asks for it; of all samples at once."""

    def compute(matrix: Any) -> Any:
        return want.matrix(ar.sum_to(arrays, have.plain(matrix), want.array))

    detail = "×".join(map(str, want.array))
    return f.Apply("sum_to_shape", (g,), detail, want.shape, want.stacked, compute)


def axes_of(op: Operation) -> tuple[int, ...] | None:
    """The axes that a reduction takes together, as those of one sample; None if it is all."""
    view = op.operands[0].view
    axis = op.argument("axis", 0, _DEFAULT_AXIS.get(op.rule))
    if axis is None:
        return None
    axes = ar._axes(axis, len(view.array))
    shift = 1 if view.samples else 0
    if len(axes) == len(view.array):
        return None
    return tuple(a - shift for a in axes)


def is_of_one_vector(op: Operation) -> bool:
    """Whether it is along the features of one vector: the last axis, of a vector per sample."""
    view = op.operands[0].view
    return len(view.core) == 1 and axes_of(op) in ((0,), None if not view.stacked else (0,))


def is_of_each_vector(op: Operation) -> bool:
    """Whether it is along the features of each of several vectors, the rows of a matrix."""
    core = op.operands[0].view.core
    return len(core) > 1 and axes_of(op) == (len(core) - 1,)
