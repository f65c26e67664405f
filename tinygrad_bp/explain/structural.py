"""The formulas of the structural operations and of their pullbacks: one table each.

An operation that is missing here, such as one of the user's own, is written by its name, and its
pullback by that of the pullback: `roll_dx(δ, x)`.

Matrix calculus: Giles 2008, "Collected matrix derivative results"; Petersen & Pedersen 2012.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_bp import array_rules as ar
from tinygrad_bp.explain import formulas as f, pieces, symbolic
from tinygrad_bp.explain.evaluating import View
from tinygrad_bp.explain.formulas import Expr
from tinygrad_bp.explain.operations import (
    Operand,
    Operation,
    axes_of,
    called,
    fitted,
    is_of_each_vector,
    is_of_one_vector,
    pulled,
)
from tinygrad_bp.rules import RULES, Rule

# --- products -----------------------------------------------------------------------------------


def _product(op: Operation) -> tuple[tuple[int, bool], tuple[int, bool]]:
    """The two factors in the order written: which operand, and whether it is transposed."""
    left, right = (len(x.view.core) for x in op.operands[:2])
    x, y = (0, False), (1, False)
    if right == 1 and left > 1:
        x = (0, True)
        return (x, y) if op.columns else (y, x)
    if right == 1:  # two vectors
        return ((0, True), y) if op.columns else (x, (1, True))
    return (y, x) if op.columns else (x, y)


def _factor(op: Operation, factor: tuple[int, bool]) -> Expr:
    which, turned = factor
    expr = f.full(op.operands[which].expr, op.operands[which].view.shape)
    return f.transpose(expr) if turned else expr


def _is_stack_of_vectors(op: Operation) -> bool:
    """Whether it is of a stack of matrices and a vector, for which there is no plain sign."""
    ranks = sorted(len(x.view.core) for x in op.operands[:2])
    return ranks[0] == 1 and ranks[1] > 2


def matmul(op: Operation) -> Expr | None:
    """x y, or y x for columns."""
    if _is_stack_of_vectors(op):
        return None
    left, right = _product(op)
    product = f.matmul(_factor(op, left), _factor(op, right))
    inner = not op.result.view.core and product.shape != ()
    return f.Scalar(product) if inner else product


def matmul_pull(op: Operation, which: int, g: Expr) -> Expr | None:
    """g yᵀ to the left factor, and xᵀ g to the right one."""
    if _is_stack_of_vectors(op):
        return None
    left, right = _product(op)
    first = left[0] == which
    mine, other = (left, right) if first else (right, left)
    view, operand = op.result.view, op.operands[which].view
    g, turned = f.full(g, view.shape), f.transpose(_factor(op, other))
    product = f.matmul(g, turned) if first else f.matmul(turned, g)
    pull = f.transpose(product) if mine[1] else product
    return f.samples(pull) if view.stacked and not operand.stacked else pull


def linear(op: Operation) -> Expr | None:
    """The weighted input W x + b."""
    product = matmul(op)
    return None if product is None else f.add(product, op.operands[2].expr)


def linear_pull(op: Operation, which: int, g: Expr) -> Expr | None:
    """As of a product; to the bias g itself."""
    if which == 2:
        return fitted(g, op.result.view, op.operands[2].view)
    return matmul_pull(op, which, g)


# --- sums ---------------------------------------------------------------------------------------


def _reduced(op: Operation, x: Expr) -> Expr | None:
    """The sum of x, which stands for the operand, over the axes of the operation."""
    view, result = op.operands[0].view, op.result.view
    axes = axes_of(op) if op.rule is not ar.ARRAY_RULES["scaled_sum"] else None
    if axes is None:
        everything = f.total(f.full(x, view.shape))
        summed = f.samples(everything) if view.stacked else everything
        return f.full(summed, result.shape)
    if axes == (-1,) and view.samples:  # over the samples
        return f.samples(x) if view.stacked else x
    if len(view.core) == 1 and axes == (0,):
        return f.full(f.total(f.full(x, view.shape)), result.shape)
    if len(view.core) == 2 and axes == (1,):
        x = f.full(x, view.shape)
        if op.columns:
            x = f.matmul(f.Ones((1, view.core[1])), x)
        else:
            x = f.matmul(x, f.Ones((view.core[1], 1)))
        return x if x.shape == result.shape else f.transpose(x)
    if len(view.core) == 2 and axes == (0,):
        x = f.full(x, view.shape)
        if op.columns:
            return f.matmul(x, f.Ones((view.core[0], 1)))
        return f.matmul(f.Ones((1, view.core[0])), x)
    return None


def _restored(op: Operation, g: Expr) -> Expr | None:
    """A gradient of a reduction, so that it broadcasts to the operand."""
    view, result = op.operands[0].view, op.result.view
    if not g.shape:
        return g
    axes = axes_of(op)
    if len(view.core) == 2 and axes == (1,) and len(result.core) == 1:
        return f.transpose(g)
    if len(view.core) <= 2 and axes in ((0,), (1,), (-1,), None):
        return g
    return None


def _count(op: Operation) -> Expr:
    """How many elements are taken together: the number of samples as m."""
    view = op.operands[0].view
    axes = axes_of(op)
    if axes is None:
        count = float(np.prod(view.core, initial=1.0))
        return f.multiply(f.Number(count), samples_count(view))
    if axes == (-1,):
        return samples_count(view)
    return f.Number(float(np.prod([view.core[a] for a in axes])))


def samples_count(view: View) -> Expr:
    """The number of samples: m, where there is more than one."""
    return f.Symbol("m") if view.stacked else f.ONE


def total(op: Operation) -> Expr | None:
    """The sum."""
    return _reduced(op, op.operands[0].expr)


def total_pull(op: Operation, which: int, g: Expr) -> Expr | None:
    """g, everywhere."""
    return _restored(op, g)


def mean(op: Operation) -> Expr | None:
    """The sum, divided by how many they are."""
    summed = _reduced(op, op.operands[0].expr)
    return None if summed is None else f.multiply(f.power(_count(op), f.MINUS_ONE), summed)


def mean_pull(op: Operation, which: int, g: Expr) -> Expr | None:
    """g, divided by how many they are."""
    g_back = _restored(op, g)
    return None if g_back is None else f.multiply(f.power(_count(op), f.MINUS_ONE), g_back)


def _scale(op: Operation) -> Expr:
    """The factor of a loss: 1/m, where it is that."""
    factor = float(op.argument("factor", 0))
    view = op.operands[0].view
    if view.stacked:
        whole = factor * view.array[0]
        if abs(whole * 2.0 - round(whole * 2.0)) < 1e-12 and round(whole * 2.0):
            whole = round(whole * 2.0) / 2.0
            return f.multiply(f.Number(whole), f.power(f.Symbol("m"), f.MINUS_ONE))
    return f.Number(factor)


def scaled_sum(op: Operation) -> Expr | None:
    """A factor times the sum."""
    summed = _reduced(op, op.operands[0].expr)
    return None if summed is None else f.multiply(_scale(op), summed)


def scaled_sum_pull(op: Operation, which: int, g: Expr) -> Expr:
    """The factor times g."""
    return f.multiply(_scale(op), g)


def norm(op: Operation) -> Expr | None:
    """The square root of the sum of squares."""
    squares = _reduced(op, f.power(op.operands[0].expr, f.Number(2.0)))
    return None if squares is None else f.power(squares, f.Number(0.5))


def norm_pull(op: Operation, which: int, g: Expr) -> Expr | None:
    """g x / |x|."""
    if op.result.expr.shape or axes_of(op) not in (None, (0,)):
        return None
    x = op.operands[0].expr
    return f.multiply(g, x, f.power(op.result.expr, f.MINUS_ONE))


# --- softmax and its family ---------------------------------------------------------------------


def softmax_of(op: Operation) -> Expr:
    """The softmax of the operand, of whatever kin the operation is."""
    rule = ar.ARRAY_RULES["softmax"]
    view = op.operands[0].view
    axis = op.argument("axis", 0, -1 if op.rule in _LAST else None)
    return called(Operation(rule, op.operands, Operand(f.ONE, view), (axis,), {}))


def jacobian_of_softmax(a: Expr) -> Expr:
    """J = diag(a) - a aᵀ, of one vector."""
    column = a if a.shape[-1] == 1 else f.transpose(a)
    return f.Sum((f.Diag(a), f.negative(f.matmul(column, f.transpose(column)))))


def softmax_pull(op: Operation, which: int, g: Expr) -> Expr | None:
    """(diag(a) - a aᵀ) g for a vector; for each row of a matrix a ⊙ (g - Σ g a)."""
    a, view = op.result.expr, op.result.view
    if is_of_one_vector(op):
        J = jacobian_of_softmax(a)
        g = f.full(g, view.shape)
        return f.matmul(J, g) if op.columns else f.matmul(g, J)
    shares = _along_last(op, f.multiply(g, a))
    return None if shares is None else f.multiply(a, f.add(g, f.negative(shares)))


def _along_last(op: Operation, x: Expr) -> Expr | None:
    """The sum along the last axis, as an axis of length 1; None where it is another axis."""
    view = op.operands[0].view
    if is_of_one_vector(op):
        return f.total(f.full(x, view.shape))
    if is_of_each_vector(op):
        n = view.core[-1]
        x = f.full(x, view.shape)
        return f.matmul(f.Ones((1, n)), x) if op.columns else f.matmul(x, f.Ones((n, 1)))
    return None


def log_softmax(op: Operation) -> Expr:
    """The logarithm of the softmax."""
    return f.Function(RULES["log"], (softmax_of(op),))


def log_softmax_pull(op: Operation, which: int, g: Expr) -> Expr | None:
    """g - (Σ g) ŷ."""
    shares = _along_last(op, g)
    if shares is None:
        return None
    result = op.result.expr
    if isinstance(result, f.Function) and result.rule is RULES["log"]:
        probabilities: Expr = result.arguments[0]
    else:
        probabilities = f.Function(RULES["exp"], (result,))
    return f.add(g, f.negative(f.multiply(shares, probabilities)))


def logsumexp(op: Operation) -> Expr | None:
    """The logarithm of the sum of exponentials."""
    summed = _reduced(op, f.Function(RULES["exp"], (op.operands[0].expr,)))
    return None if summed is None else f.Function(RULES["log"], (summed,))


def logsumexp_pull(op: Operation, which: int, g: Expr) -> Expr | None:
    """g times the softmax."""
    back = _restored(op, g)
    return None if back is None else f.multiply(back, softmax_of(op))


# --- shapes of arrays ---------------------------------------------------------------------------


def same(op: Operation) -> Expr | None:
    """An operation that only reshapes is not written, where formulas show no difference."""
    x = op.operands[0]
    unseen = x.view.shape == op.result.view.shape and x.view.stacked == op.result.view.stacked
    return x.expr if unseen else None


def same_pull(op: Operation, which: int, g: Expr) -> Expr | None:
    """g as it is."""
    x = op.operands[0]
    unseen = x.view.shape == op.result.view.shape and x.view.stacked == op.result.view.stacked
    return g if unseen else None


def _swaps_last(op: Operation) -> bool:
    view = op.operands[0].view
    axes = op.argument("axes", 0)
    n = len(view.array)
    order = tuple(reversed(range(n))) if axes is None else ar._axes(tuple(axes), n)
    if len(view.core) < 2:
        return False
    return order == (*range(n - 2), n - 1, n - 2)


def turned(op: Operation) -> Expr | None:
    """The transpose."""
    return f.transpose(op.operands[0].expr) if _swaps_last(op) else None


def turned_pull(op: Operation, which: int, g: Expr) -> Expr | None:
    """gᵀ."""
    return f.transpose(g) if _swaps_last(op) else None


Write = Callable[[Operation], Expr | None]
Pull = Callable[[Operation, int, Expr], Expr | None]


def _by_rule(names: dict[str, Any]) -> dict[Any, Any]:
    return {ar.ARRAY_RULES[name]: write for name, write in names.items()}


FORWARD: dict[Any, Write] = _by_rule(
    {
        "matmul": matmul,
        "linear": linear,
        "sum": total,
        "scaled_sum": scaled_sum,
        "mean": mean,
        "norm": norm,
        "log_softmax": log_softmax,
        "logsumexp": logsumexp,
        "reshape": same,
        "expand_dims": same,
        "squeeze": same,
        "astype": same,
        "transpose": turned,
        "getitem": pieces.part,
        "concatenate": pieces.joined,
    }
)
PULLBACK: dict[Any, Pull] = _by_rule(
    {
        "matmul": matmul_pull,
        "linear": linear_pull,
        "sum": total_pull,
        "scaled_sum": scaled_sum_pull,
        "mean": mean_pull,
        "norm": norm_pull,
        "softmax": softmax_pull,
        "log_softmax": log_softmax_pull,
        "logsumexp": logsumexp_pull,
        "reshape": same_pull,
        "expand_dims": same_pull,
        "squeeze": same_pull,
        "astype": same_pull,
        "transpose": turned_pull,
        "getitem": pieces.part_pull,
        "concatenate": pieces.joined_pull,
    }
)
_LAST = {ar.ARRAY_RULES["softmax"], ar.ARRAY_RULES["log_softmax"]}


def forward(op: Operation) -> Expr:
    """The formula of what an operation computes."""
    exprs = [x.expr for x in op.operands]
    if isinstance(op.rule, Rule):
        return symbolic.applied(op.rule, *exprs)
    write = FORWARD.get(op.rule)
    written = write(op) if write else None
    if written is None or not _fits(written, op.result.view):
        return called(op)
    return written


def pullback(op: Operation, which: int, g: Expr) -> Expr:
    """What an operation hands to operand `which`, given the gradient g of its result."""
    operand, result = op.operands[which], op.result
    if isinstance(op.rule, Rule):
        exprs = tuple(x.expr for x in op.operands)
        local = symbolic.derivative(op.rule, which, exprs, result.expr)
        return fitted(f.multiply(g, local), result.view, operand.view)
    write = PULLBACK.get(op.rule)
    written = write(op, which, g) if write else None
    if written is None or not _fits(written, operand.view):
        return pulled(op, which, g)
    return written


def _fits(written: Expr, view: View) -> bool:
    """Whether a formula has the shape of what it is for, or one that is repeated to it."""
    have, want = written.shape, view.shape
    pairs = zip(reversed(have), reversed(want), strict=False)
    return len(have) <= len(want) and all(n in (1, size) for n, size in pairs)
