"""The structural operations on arrays: each one's value and its pullbacks, written once.

A pullback takes the gradient of the result to the gradient of an operand: it multiplies by the
transposed Jacobian without ever forming it. Like the elementwise rules these are plain Python over
a namespace `m`, here of array functions under numpy's names.

To read a rule: the decorated function is the value, `value(m, *operands, ...)`; its pullbacks stand
above it and are called `pullback(m, g, result, *operands, ...)` with the same further arguments.
A pullback may return its gradient still broadcast: the interpreter sums it to the operand's shape.

Matrix calculus: Giles 2008, "Collected matrix derivative results"; Petersen & Pedersen 2012.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any, Literal, get_args

from tinygrad_bp.arguments import (
    choice,
    count,
    flag,
    integer,
    is_integer,
    real,
    several,
    shown,
    wrong_kind,
)

M = Any  # a namespace of array functions
X = Any  # whatever that namespace computes with
Axis = int | tuple[int, ...] | None
Pullback = Callable[..., Any]
Forward = Literal["linear", "multilinear", "formula", "pullback"]


class ArrayRule:
    """A structural operation on arrays.

    Calling it applies it to `Tensor`s or arrays of Values, with numpy's arguments.

    Attributes:
        name: as numpy names it.
        value: the function `value(m, *operands, *arguments)`.
        pullbacks: one named function per operand; for an operation on a sequence of operands a
            single one, which is told the `which` of the operand.
        takes_sequence: whether the first argument is a sequence of operands.
        analytic: whether it is complex differentiable (then a complex step can check it).
        forward: how a tangent passes through it, in forward mode. "linear": the operation itself,
            applied to the tangents. "multilinear": the sum over the operands, each in turn replaced
            by its tangent. "formula": by what `value` is made of, which are other operations.
            "pullback": by the transpose of the pullback, which holds for any operation.
    """

    def __init__(
        self,
        value: Callable[..., Any],
        pullbacks: tuple[Pullback, ...],
        takes_sequence: bool,
        analytic: bool,
        forward: Forward,
    ) -> None:
        self.analytic = analytic
        self.forward = forward
        self.value = value
        self.pullbacks = pullbacks
        self.takes_sequence = takes_sequence
        self.name = self.__name__ = value.__name__
        self.__doc__, self.__module__ = value.__doc__, value.__module__
        signature = inspect.signature(value)
        self.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Apply the operation: operands first, then what numpy's function of this name takes."""
        if self.takes_sequence:
            operands = _operands(self.name, arguments)
            parameters = arguments[1:]
        else:
            count = len(self.pullbacks)
            operands, parameters = arguments[:count], arguments[count:]
            if len(operands) < count:
                raise TypeError(f"{self.name} takes {count} operands, got {len(operands)}")
        for operand in operands:
            interpret = getattr(type(operand), "_interpret", None)
            if interpret is not None:
                result = interpret(self, operands, parameters, options)
                if result is not NotImplemented:
                    return result
        for index in _flat(parameters):
            if hasattr(type(index), "_interpret"):  # one that is being recorded
                return type(index)._interpret(self, operands, parameters, options)
        kinds = ", ".join(type(operand).__name__ for operand in operands[:5])
        raise TypeError(
            f"{self.name}: expected a Tensor or an array made by tb.values(), got {kinds}; "
            "wrap an array as tb.Tensor(array)"
        )

    def apply(
        self, m: M, operands: Sequence[X], parameters: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """The value, computed in the namespace `m`."""
        if self.takes_sequence:
            return self.value(m, operands, *parameters, **options)
        return self.value(m, *operands, *parameters, **options)

    def pull(
        self,
        m: M,
        which: int,
        g: X,
        result: X,
        operands: Sequence[X],
        parameters: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        """The gradient of operand number `which`, given the gradient `g` of the result."""
        if self.takes_sequence:
            return self.pullbacks[0](m, g, result, operands, which, *parameters, **options)
        return self.pullbacks[which](m, g, result, *operands, *parameters, **options)

    def __repr__(self) -> str:
        return f"<rule {self.name}>"

    def __reduce__(self) -> str:
        return self.name


def _operands(name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if not arguments or not isinstance(arguments[0], (list, tuple)):
        kind = type(arguments[0]).__name__ if arguments else "nothing"
        raise TypeError(f"{name}: expected a list or tuple of arrays first, got {kind}")
    if not arguments[0]:
        raise ValueError(f"{name}: expected at least one array, got an empty sequence")
    return tuple(arguments[0])


def _flat(parameters: tuple[Any, ...]) -> list[Any]:
    return [x for p in parameters for x in (_flat(p) if isinstance(p, tuple) else [p])]


ARRAY_RULES: dict[str, ArrayRule] = {}


def structural(
    *pullbacks: Pullback,
    takes_sequence: bool = False,
    analytic: bool = True,
    forward: Forward = "pullback",
    table: dict[str, ArrayRule] | None = ARRAY_RULES,
) -> Callable[[Callable[..., Any]], ArrayRule]:
    """Make a rule of the decorated function `value(m, *operands, ...)`, given its pullbacks."""
    choice(forward, "forward", get_args(Forward))
    flag(takes_sequence, "takes_sequence")
    flag(analytic, "analytic")

    def decorate(value: Callable[..., Any]) -> ArrayRule:
        rule = ArrayRule(value, pullbacks, takes_sequence, analytic, forward)
        if table is not None and table.setdefault(rule.name, rule) is not rule:
            raise ValueError(f"there is a rule {rule.name!r} already; give this one another name")
        return rule

    return decorate


# --- shapes of reductions -----------------------------------------------------------------------


def _axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """The axes of a reduction, as non-negative numbers."""
    if axis is None:
        return tuple(range(ndim))
    axes: Any = (axis,) if isinstance(axis, Integral) else axis
    return tuple(int(a) % ndim for a in axes) if ndim else ()


def _check_axis(axis: Any, what: str) -> None:
    """Raise for what numpy would take for an axis, and is none."""
    for a in axis if isinstance(axis, (tuple, list)) else (axis,):
        if not (is_integer(a) or axis is None):
            raise wrong_kind(what, "an int or a tuple of ints", axis)


def _count(x: X, axis: Axis) -> int:
    """How many elements a reduction of x over `axis` takes together."""
    count = 1
    for a in _axes(axis, len(x.shape)):
        count *= x.shape[a]
    return count


def _restore(m: M, reduced: X, x: X, axis: Axis, keepdims: bool) -> X:
    """A reduced quantity, with the summed axes back as axes of length 1."""
    if keepdims or axis is None:  # a single number broadcasts as it is
        return reduced
    axes = _axes(axis, len(x.shape))
    return m.reshape(reduced, tuple(1 if i in axes else n for i, n in enumerate(x.shape)))


def sum_to(m: M, g: X, shape: tuple[int, ...]) -> X:
    """Undo a broadcast: `g` summed over every axis along which `shape` was repeated."""
    extra = len(g.shape) - len(shape)
    if extra == 1 and g.shape[0] == 1:  # a batch of one
        g = m.reshape(g, g.shape[1:])
    elif extra:
        g = m.sum(g, axis=tuple(range(extra)))
    if g.shape == shape:
        return g
    repeated = tuple(i for i, (n, big) in enumerate(zip(shape, g.shape, strict=True)) if n != big)
    return m.sum(g, axis=repeated, keepdims=True)


# --- products of arrays -------------------------------------------------------------------------


def _swap_last(m: M, x: X) -> X:
    if len(x.shape) == 2:
        return m.transpose(x)
    axes = (*range(len(x.shape) - 2), len(x.shape) - 1, len(x.shape) - 2)
    return m.transpose(x, axes)


def _rows(m: M, x: X) -> X:
    """The rows of a stack of matrices, as one matrix."""
    if len(x.shape) == 2:
        return x
    return m.reshape(x, (_count(x, tuple(range(len(x.shape) - 1))), x.shape[-1]))


# A vector operand counts as a matrix of one row (on the left) or one column (on the right).


def matmul_dx(m: M, g: X, z: X, x: X, y: X) -> X:
    if x.ndim == y.ndim == 2:
        return m.matmul(g, m.transpose(y))
    if len(y.shape) == 1:
        return m.expand_dims(g, -1) * y
    if len(x.shape) == 1:
        row = m.matmul(m.expand_dims(g, -2), _swap_last(m, y))
        return sum_to(m, m.squeeze(row, -2), x.shape)
    if len(y.shape) == 2:
        return m.reshape(m.matmul(_rows(m, g), m.transpose(y)), x.shape)
    return sum_to(m, m.matmul(g, _swap_last(m, y)), x.shape)


def matmul_dy(m: M, g: X, z: X, x: X, y: X) -> X:
    if x.ndim == y.ndim == 2:
        return m.matmul(m.transpose(x), g)
    if len(x.shape) == 1:
        if len(y.shape) == 1:
            return g * x
        return m.expand_dims(x, -1) * m.expand_dims(g, -2)
    if len(y.shape) == 1:
        column = m.matmul(_swap_last(m, x), m.expand_dims(g, -1))
        return sum_to(m, m.squeeze(column, -1), y.shape)
    if len(y.shape) == 2:  # the rows of all matrices of a stack are one matrix: one product
        x, g = _rows(m, x), _rows(m, g)
    return sum_to(m, m.matmul(_swap_last(m, x), g), y.shape)


@structural(matmul_dx, matmul_dy, forward="multilinear")
def matmul(m: M, x: X, y: X) -> X:
    """x @ y: of vectors, matrices, and stacks of matrices"""
    if x.ndim > 2 and y.ndim == 2:
        return m.reshape(m.matmul(_rows(m, x), y), (*x.shape[:-1], y.shape[1]))
    return m.matmul(x, y)


def linear_dx(m: M, g: X, z: X, x: X, W: X, b: X) -> X:
    return matmul_dx(m, g, z, x, W)


def linear_dW(m: M, g: X, z: X, x: X, W: X, b: X) -> X:
    return matmul_dy(m, g, z, x, W)


def linear_db(m: M, g: X, z: X, x: X, W: X, b: X) -> X:
    return sum_to(m, g, b.shape)


@structural(linear_dx, linear_dW, linear_db, forward="formula")
def linear(m: M, x: X, W: X, b: X) -> X:
    """x @ W + b: the weighted input of a layer; W has shape (inputs, outputs), b (outputs,)"""
    if W.ndim != 2 or b.shape != W.shape[1:]:
        raise ValueError(
            f"linear: expected W of shape (inputs, outputs) and b of shape (outputs,), "
            f"got {tuple(W.shape)} and {tuple(b.shape)}"
        )
    return m.matmul(x, W) + b


def einsum_dx(m: M, g: X, z: X, operands: Sequence[X], which: int, subscripts: str) -> X:
    """The same contraction with the result's gradient in the place of the operand."""
    inputs, output = explicit(subscripts, [len(x.shape) for x in operands])
    mine, shape = inputs[which], operands[which].shape
    others = [(s, x) for i, (s, x) in enumerate(zip(inputs, operands, strict=True)) if i != which]
    known = set(output).union(*(s for s, _ in others))
    letters = [c for i, c in enumerate(mine) if c not in mine[:i]]  # each once
    kept = "".join(c for c in letters if c in known)
    formula = ",".join([output, *(s for s, _ in others)]) + "->" + kept
    gradient = m.einsum(formula, g, *(x for _, x in others))
    # An index that only this operand has was summed: its gradient is the same all along it.
    sizes = dict(zip(mine, shape, strict=True))
    axes = tuple(i for i, c in enumerate(letters) if c not in known)
    gradient = m.expand_dims(gradient, axes)
    target = tuple(sizes[c] for c in letters)
    narrow = tuple(1 if n == 1 else have for have, n in zip(gradient.shape, target, strict=True))
    gradient = m.broadcast_to(sum_to(m, gradient, narrow), target)
    if len(letters) == len(mine):
        return gradient
    # A repeated index took a diagonal: the gradient stands on it, zeros elsewhere.
    return m.scatter(gradient, _diagonal(mine, letters, sizes), shape)


def _diagonal(mine: str, letters: list[str], sizes: dict[str, int]) -> tuple[Any, ...]:
    import numpy as np

    grid = np.ogrid[tuple(slice(sizes[c]) for c in letters)]
    return tuple(grid[letters.index(c)] for c in mine)


def explicit(subscripts: str, ranks: list[int]) -> tuple[list[str], str]:
    """The subscripts of an einsum with output and every ellipsis spelled out.

    Raises:
        TypeError: subscripts is not a string.
        ValueError: they do not fit the number of operands or their dimensions.
    """
    if not isinstance(subscripts, str):
        raise wrong_kind("einsum: subscripts", "a str", subscripts)
    left, arrow, output = subscripts.replace(" ", "").partition("->")
    inputs = left.split(",")
    if len(inputs) != len(ranks):
        raise ValueError(
            f"einsum: subscripts {subscripts!r:.60} name {len(inputs)} operands, got {len(ranks)}"
        )
    free = [
        c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if c not in subscripts
    ]
    widths = [rank - len(s.replace("...", "")) for s, rank in zip(inputs, ranks, strict=True)]
    if any(w < 0 or (w > 0 and "..." not in s) for w, s in zip(widths, inputs, strict=True)):
        raise ValueError(
            f"einsum: subscripts {subscripts!r:.60} do not fit operands of {ranks!s:.60} dimensions"
        )
    dots = "".join(free[: sorted(widths)[-1]])
    spelled = [s.replace("...", dots[len(dots) - w :]) for s, w in zip(inputs, widths, strict=True)]
    if arrow and dots and "..." not in output:
        raise ValueError(f"einsum: {subscripts!r} has '...' on the left but not on the right")
    if arrow:
        return spelled, output.replace("...", dots)
    return spelled, dots + "".join(sorted(c for c in left if c.isalpha() and left.count(c) == 1))


@structural(einsum_dx, takes_sequence=True, forward="multilinear")
def contract(m: M, operands: Sequence[X], subscripts: str) -> X:
    """einsum of a sequence of operands"""
    inputs, output = explicit(subscripts, [len(x.shape) for x in operands])
    return m.einsum(",".join(inputs) + "->" + output, *operands)


def einsum(subscripts: str, *operands: Any) -> Any:
    """Einstein's sum, `einsum("ij,jk->ik", x, y)`, with numpy's notation.

    Args:
        subscripts: one letter per axis; a letter missing on the right is summed over.
        operands: the arrays.
    """
    if operands and not any(hasattr(type(x), "_interpret") for x in operands):
        raise wrong_kind("einsum: operands", "a Tensor or Values among them", operands[0])
    return contract(operands, subscripts)


# --- reductions ---------------------------------------------------------------------------------


def sum_dx(m: M, g: X, y: X, x: X, axis: Axis = None, keepdims: bool = False) -> X:
    return m.broadcast_to(_restore(m, g, x, axis, keepdims), x.shape)


@structural(sum_dx, forward="linear")
def sum(m: M, x: X, axis: Axis = None, keepdims: bool = False) -> X:
    """The sum over an axis, several, or all"""
    return m.sum(x, axis=axis, keepdims=keepdims)


def scaled_sum_dx(m: M, g: X, y: X, x: X, factor: float) -> X:
    return m.broadcast_to(factor * g, x.shape)


@structural(scaled_sum_dx, forward="linear")
def scaled_sum(m: M, x: X, factor: float) -> X:
    """factor times the sum over all: how losses end, in one operation"""
    return factor * m.sum(x)


def mean_dx(m: M, g: X, y: X, x: X, axis: Axis = None, keepdims: bool = False) -> X:
    share = m.divide(_restore(m, g, x, axis, keepdims), float(_count(x, axis)))
    return m.broadcast_to(share, x.shape)


@structural(mean_dx, forward="linear")
def mean(m: M, x: X, axis: Axis = None, keepdims: bool = False) -> X:
    """The mean over an axis, several, or all"""
    return m.divide(m.sum(x, axis=axis, keepdims=keepdims), float(_count(x, axis)))


def var_dx(m: M, g: X, y: X, x: X, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> X:
    deviation = x - mean.value(m, x, axis, True)
    share = m.divide(2.0 * _restore(m, g, x, axis, keepdims), float(_count(x, axis) - ddof))
    return m.azmul(share, deviation)


@structural(var_dx, forward="formula")
def var(m: M, x: X, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> X:
    """The variance over an axis, several, or all: divided by n - ddof"""
    deviation = x - mean.value(m, x, axis, True)
    total = m.sum(deviation * deviation, axis=axis, keepdims=keepdims)
    return m.divide(total, float(_count(x, axis) - ddof))


def max_dx(m: M, g: X, y: X, x: X, axis: Axis = None, keepdims: bool = False) -> X:
    """Ties share equally."""
    chosen = m.where(x == _restore(m, y, x, axis, keepdims), 1.0, 0.0)
    share = m.divide(chosen, m.sum(chosen, axis=axis, keepdims=True))
    return m.azmul(_restore(m, g, x, axis, keepdims), share)


@structural(max_dx, analytic=False)
def max(m: M, x: X, axis: Axis = None, keepdims: bool = False) -> X:
    """The largest element over an axis, several, or all; equal ones share the gradient"""
    return m.max(x, axis=axis, keepdims=keepdims)


@structural(max_dx, analytic=False)
def min(m: M, x: X, axis: Axis = None, keepdims: bool = False) -> X:
    """The smallest element over an axis, several, or all; equal ones share the gradient"""
    return m.min(x, axis=axis, keepdims=keepdims)


def prod_dx(m: M, g: X, y: X, x: X, axis: Axis = None, keepdims: bool = False) -> X:
    """The product of the others: y / x, or where that is not accurate each product on its own."""
    g = _restore(m, g, x, axis, keepdims)
    y = _restore(m, y, x, axis, keepdims)
    tiny = 1e-290 if y.dtype == "float64" else 1e-30
    if ((abs(y) > tiny) & (abs(y) < float("inf"))).all():
        return m.azmul(g, m.divide(y, x))
    axes = _axes(axis, len(x.shape))
    kept = tuple(i for i in range(len(x.shape)) if i not in axes)
    forward = kept + axes
    moved = m.transpose(x, forward)
    rows = m.reshape(moved, (*moved.shape[: len(kept)], 1, _count(x, axis)))
    others = m.prod(m.where(_identity(rows.shape[-1]), 1.0, rows), axis=-1)
    back = tuple(forward.index(i) for i in range(len(forward)))
    return m.azmul(g, m.transpose(m.reshape(others, moved.shape), back))


def _identity(n: int) -> Any:
    import numpy as np

    return np.eye(n, dtype=bool)


@structural(prod_dx)
def prod(m: M, x: X, axis: Axis = None, keepdims: bool = False) -> X:
    """The product over an axis, several, or all; its derivative is right at zeros as well"""
    return m.prod(x, axis=axis, keepdims=keepdims)


def cumsum_dx(m: M, g: X, y: X, x: X, axis: int | None = None) -> X:
    return m.reshape(m.flip(m.cumsum(m.flip(g, axis), axis), axis), x.shape)


@structural(cumsum_dx, forward="linear")
def cumsum(m: M, x: X, axis: int | None = None) -> X:
    """The running sum along an axis; of the flattened array without one"""
    return m.cumsum(x, axis)


def norm_dx(m: M, g: X, y: X, x: X, axis: Axis = None, keepdims: bool = False) -> X:
    """x/|x|; at the zero vector, where there is none, 0: the least of the subgradients."""
    length = _restore(m, y, x, axis, keepdims)
    direction = m.where(length == 0, 0.0, m.divide(x, length))
    return m.azmul(_restore(m, g, x, axis, keepdims), direction)


@structural(norm_dx, forward="formula")
def norm(m: M, x: X, axis: Axis = None, keepdims: bool = False) -> X:
    """The Euclidean norm over an axis, several, or all; derivative 0 at the zero vector"""
    total = m.sum(x * x, axis=axis, keepdims=keepdims)
    return m.where(total == 0, 0.0, m.sqrt(total))


# --- softmax and its family ---------------------------------------------------------------------


def _peak(m: M, x: X, axis: Axis) -> X:
    """The maximum, to shift by: a constant, since the result does not depend on the shift.

    0 where it is infinite, so that inf - inf cannot arise.
    """
    peak = m.max(m.detached(x), axis=axis, keepdims=True)
    return m.where(m.absolute(peak) < float("inf"), peak, 0.0)


def logsumexp_dx(m: M, g: X, y: X, x: X, axis: Axis = None, keepdims: bool = False) -> X:
    return m.azmul(_restore(m, g, x, axis, keepdims), softmax.value(m, x, axis))


@structural(logsumexp_dx, forward="formula")
def logsumexp(m: M, x: X, axis: Axis = None, keepdims: bool = False) -> X:
    """log(sum(exp(x))) over an axis, several, or all; finite wherever x is"""
    peak = _peak(m, x, axis)
    total = m.sum(m.exp(x - peak), axis=axis, keepdims=True)
    result = m.log(total) + peak
    kept = keepdims if is_integer(keepdims) else flag(keepdims, "logsumexp: keepdims")
    return result if kept else m.sum(result, axis=axis)


def softmax_dx(m: M, g: X, y: X, x: X, axis: Axis = -1) -> X:
    weighted = m.azmul(g, y)
    return weighted - m.azmul(m.sum(weighted, axis=axis, keepdims=True), y)


@structural(softmax_dx, forward="formula")
def softmax(m: M, x: X, axis: Axis = -1) -> X:
    """exp(x) / sum(exp(x)) over an axis (the last, if not given)"""
    e = m.exp(x - _peak(m, x, axis))
    return m.divide(e, m.sum(e, axis=axis, keepdims=True))


def log_softmax_dx(m: M, g: X, y: X, x: X, axis: Axis = -1) -> X:
    return g - m.azmul(m.sum(g, axis=axis, keepdims=True), m.exp(y))


@structural(log_softmax_dx, forward="formula")
def log_softmax(m: M, x: X, axis: Axis = -1) -> X:
    """log(softmax(x)), without the underflow"""
    shifted = x - _peak(m, x, axis)
    return shifted - m.log(m.sum(m.exp(shifted), axis=axis, keepdims=True))


# --- shapes -------------------------------------------------------------------------------------


def reshape_dx(m: M, g: X, y: X, x: X, *arguments: Any, **options: Any) -> X:
    """Back to the operand's shape, whichever way it was changed."""
    return m.reshape(g, x.shape)


@structural(reshape_dx, forward="linear")
def reshape(m: M, x: X, shape: int | tuple[int, ...]) -> X:
    """The same elements in another shape; one length may be -1"""
    return m.reshape(x, shape)


def transpose_dx(m: M, g: X, y: X, x: X, axes: tuple[int, ...] | None = None) -> X:
    if axes is None:
        return m.transpose(g)
    axes = _axes(axes, len(x.shape))
    return m.transpose(g, tuple(axes.index(i) for i in range(len(axes))))


@structural(transpose_dx, forward="linear")
def transpose(m: M, x: X, axes: tuple[int, ...] | None = None) -> X:
    """The axes in another order; reversed, if none is given"""
    return m.transpose(x, axes)


def astype_dx(m: M, g: X, y: X, x: X, dtype: Any) -> X:
    return m.astype(g, x.dtype)


@structural(astype_dx, forward="linear")
def astype(m: M, x: X, dtype: Any) -> X:
    """The same numbers as float32 or float64"""
    from tinygrad_bp.arrays import dtype_of

    return m.astype(x, dtype_of(dtype, "astype: dtype"))


@structural(reshape_dx, forward="linear")
def expand_dims(m: M, x: X, axis: int | tuple[int, ...]) -> X:
    """A new axis of length 1 at a position, or several"""
    _check_axis(axis, "expand_dims: axis")
    return m.expand_dims(x, axis)


@structural(reshape_dx, forward="linear")
def squeeze(m: M, x: X, axis: Axis = None) -> X:
    """Without the axes of length 1, or without those named"""
    return m.squeeze(x, axis)


def broadcast_to_dx(m: M, g: X, y: X, x: X, shape: tuple[int, ...]) -> X:
    return sum_to(m, g, x.shape)


@structural(broadcast_to_dx, forward="linear")
def broadcast_to(m: M, x: X, shape: tuple[int, ...]) -> X:
    """Repeated along axes of length 1, and along new ones in front"""
    return m.broadcast_to(x, shape)


def flip_dx(m: M, g: X, y: X, x: X, axis: Axis = None) -> X:
    return m.flip(g, axis)


@structural(flip_dx, forward="linear")
def flip(m: M, x: X, axis: Axis = None) -> X:
    """The elements in reverse order along an axis, several, or all"""
    _check_axis(axis, "flip: axis")
    return m.flip(x, axis)


def pad_dx(m: M, g: X, y: X, x: X, pad_width: Any, constant_values: float = 0.0) -> X:
    widths = pad_widths(pad_width, len(x.shape))
    inner = zip(widths, x.shape, strict=True)
    return m.getitem(g, tuple(slice(before, before + n) for (before, _), n in inner))


def pad_widths(pad_width: Any, ndim: int) -> list[tuple[int, int]]:
    """numpy's forms of a padding width, n, (n, m) or one pair per axis, as one pair per axis."""
    import numpy as np

    given = np.asarray(pad_width)
    if given.dtype.kind not in "iu" or (given < 0).any():
        raise wrong_kind("pad: pad_width", "an int, a pair, or a pair for each axis", pad_width)
    return [(int(a), int(b)) for a, b in np.broadcast_to(given, (ndim, 2))]


@structural(pad_dx)
def pad(m: M, x: X, pad_width: Any, constant_values: float = 0.0) -> X:
    """A border of a constant around the array"""
    constant_values = real(constant_values, "pad: constant_values")
    return m.pad(x, pad_widths(pad_width, len(x.shape)), constant_values=constant_values)


def tril_dx(m: M, g: X, y: X, x: X, k: int = 0) -> X:
    return m.tril(g, k)


@structural(tril_dx, forward="linear")
def tril(m: M, x: X, k: int = 0) -> X:
    """The lower triangle, zeros above diagonal k"""
    return m.tril(x, integer(k, "tril: k"))


def triu_dx(m: M, g: X, y: X, x: X, k: int = 0) -> X:
    return m.triu(g, k)


@structural(triu_dx, forward="linear")
def triu(m: M, x: X, k: int = 0) -> X:
    """The upper triangle, zeros below diagonal k"""
    return m.triu(x, integer(k, "triu: k"))


# --- selecting and joining ----------------------------------------------------------------------


def getitem_dx(m: M, g: X, y: X, x: X, index: Any) -> X:
    return m.scatter(g, index, x.shape)


@structural(getitem_dx, forward="linear")
def getitem(m: M, x: X, index: Any) -> X:
    """x[index]: basic, integer and boolean indexing; a repeated index accumulates its gradient"""
    return m.getitem(x, index)


def scatter_dx(m: M, g: X, y: X, x: X, index: Any, shape: tuple[int, ...]) -> X:
    return m.getitem(g, index)


@structural(scatter_dx, forward="linear")
def scatter(m: M, x: X, index: Any, shape: tuple[int, ...]) -> X:
    """Zeros of a shape, to which x is added at an index: the transpose of indexing"""
    return m.scatter(x, index, shape)


def take_dx(m: M, g: X, y: X, x: X, indices: Any, axis: int | None = None) -> X:
    if axis is None or not x.shape:
        count = _count(x, None)
        return m.reshape(m.scatter(g, (indices,), (count,)), x.shape)
    before = (slice(None),) * (axis % len(x.shape))
    return m.scatter(g, (*before, indices), x.shape)


@structural(take_dx, forward="linear")
def take(m: M, x: X, indices: Any, axis: int | None = None) -> X:
    """The elements at integer positions along an axis; of the flattened array without one"""
    return m.take(x, indices, axis)


def take_along_axis_dx(m: M, g: X, y: X, x: X, indices: Any, axis: int) -> X:
    import numpy as np

    grid: list[Any] = list(np.ogrid[tuple(slice(n) for n in y.shape)])
    grid = [g if n > 1 else 0 for g, n in zip(grid, x.shape, strict=True)]  # broadcast axes
    grid[axis % len(x.shape)] = indices  # with the others, of the shape of y
    return m.scatter(g, tuple(grid), x.shape)


@structural(take_along_axis_dx, forward="linear")
def take_along_axis(m: M, x: X, indices: Any, axis: int) -> X:
    """One element per row, at the positions of an integer array of the same number of axes"""
    if not is_integer(axis):
        raise wrong_kind("take_along_axis: axis", "an int", axis)
    if not hasattr(indices, "dtype"):
        raise wrong_kind("take_along_axis: indices", "an array of integers", indices)
    return m.take_along_axis(x, indices, axis)


def concatenate_dx(m: M, g: X, y: X, operands: Sequence[X], which: int, axis: int = 0) -> X:
    along = axis % len(y.shape)
    start = 0
    for x in operands[:which]:
        start += x.shape[along]
    before = (slice(None),) * along
    return m.getitem(g, (*before, slice(start, start + operands[which].shape[along])))


@structural(concatenate_dx, takes_sequence=True, forward="linear")
def concatenate(m: M, operands: Sequence[X], axis: int = 0) -> X:
    """Arrays joined along an axis they have"""
    if axis is None:
        raise TypeError(
            "concatenate: axis: expected an int, got None; reshape the arrays to flatten them"
        )
    return m.concatenate(operands, axis)


def stack_dx(m: M, g: X, y: X, operands: Sequence[X], which: int, axis: int = 0) -> X:
    before = (slice(None),) * (axis % len(y.shape))
    return m.getitem(g, (*before, which))


@structural(stack_dx, takes_sequence=True, forward="linear")
def stack(m: M, operands: Sequence[X], axis: int = 0) -> X:
    """Arrays of one shape joined along a new axis"""
    return m.stack(operands, axis)


def split(x: Any, sections: Any, axis: int = 0) -> list[Any]:
    """Parts of x along an axis: a number of equal ones, or cut before the given positions.

    Args:
        x: a Tensor or an array of Values.
        sections: how many equal parts, or the positions of the cuts.
        axis: the axis to cut.

    Raises:
        ValueError: the axis cannot be cut into so many equal parts.
    """
    if not hasattr(type(x), "_interpret") or not hasattr(x, "shape"):
        raise TypeError(f"split: x: expected a Tensor or Values, got {shown(x)}")
    axis = integer(axis, "split: axis")
    if not -len(x.shape) <= axis < len(x.shape):
        raise IndexError(f"split: axis: expected one of {len(x.shape)}, got {axis}")
    length = x.shape[axis]
    if is_integer(sections):
        sections = int(sections)
        if sections < 1 or length % sections:
            along = f"axis {axis} of length {length}"
            raise ValueError(f"split: sections: {along} has no {shown(sections)} equal parts")
        step = length // sections
        cuts = [step * i for i in range(sections + 1)]
    else:
        positions = several(sections, "split: sections", "positions")
        cuts = [0, *(integer(position, "split: sections") for position in positions), length]
    before = (slice(None),) * (axis % len(x.shape))
    return [x[(*before, slice(start, stop))] for start, stop in pairwise(cuts)]


def one_hot(indices: Any, classes: int, dtype: Any = None) -> Any:
    """Rows of zeros with a one at each index: constants, shape `indices.shape + (classes,)`.

    Args:
        indices: integers in 0 ... classes - 1, of any shape.
        classes: the length of the new last axis.
        dtype: float64 if not given.

    Raises:
        TypeError: the indices are not integers.
        ValueError: an index is outside of 0 ... classes - 1.
    """
    if hasattr(indices, "one_hot"):  # integers that are being recorded
        return indices.one_hot(classes, dtype)
    import numpy as np

    from tinygrad_bp.arrays import dtype_of, integers

    indices, classes = integers(indices, "one_hot: indices"), count(classes, "one_hot: classes")
    if indices.size and not (indices.min() >= 0 and indices.max() < classes):
        raise ValueError(
            f"one_hot: indices must lie in 0 ... {classes - 1}, "
            f"got {indices.min()} ... {indices.max()}"
        )
    dtype = np.dtype(np.float64) if dtype is None else dtype_of(dtype, "one_hot: dtype")
    if classes <= _FEW:
        return np.eye(classes, dtype=dtype)[indices]
    rows = np.zeros((indices.size, classes), dtype)
    rows[np.arange(indices.size), indices.ravel()] = 1.0
    return rows.reshape(*indices.shape, classes)


_FEW = 64  # classes of which the unit matrix is quickly made
