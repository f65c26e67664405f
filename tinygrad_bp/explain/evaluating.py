"""What a formula comes to on the recorded numbers: how every derivation is checked.

A formula speaks of matrices, columns or rows, for each sample of a batch; the program computed
arrays with the samples in front. A `View` says how the one becomes the other. A quantity that
differs between the samples is evaluated for all of them at once: as a stack of matrices.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tinygrad_bp import arrays
from tinygrad_bp.derivatives import quiet
from tinygrad_bp.explain import formulas as f
from tinygrad_bp.explain.formulas import Expr, Shape


class View(NamedTuple):
    """How an array of the program stands in a formula.

    Attributes:
        array: the array's shape.
        samples: whether its first axis counts samples.
        columns: whether it is set as in textbooks, transposed.
    """

    array: Shape
    samples: bool
    columns: bool

    @property
    def stacked(self) -> bool:
        """Whether there is more than one sample."""
        return self.samples and self.array[0] != 1

    @property
    def core(self) -> Shape:
        """The shape of a single sample's array."""
        return self.array[1:] if self.samples else self.array

    @property
    def shape(self) -> Shape:
        """The shape in a formula."""
        core = self.core
        if not core:
            return ()
        if len(core) == 1:
            return (core[0], 1) if self.columns else (1, core[0])
        return f.swapped(core) if self.columns else core

    def matrix(self, array: Any) -> Any:
        """An array as a formula has it: a matrix, or a stack of one for each sample."""
        array = np.asarray(array, np.float64).reshape(self.array)
        if self.samples and not self.stacked:
            array = array[0]
        if self.columns and len(self.core) > 1:
            array = np.swapaxes(array, -1, -2)
        front = self.array[:1] if self.stacked else ()
        return array.reshape(*front, *(self.shape or (1, 1)))

    def plain(self, matrix: Any) -> Any:
        """The array of the program that a matrix stands for."""
        front = self.array[:1] if self.stacked else ()
        matrix = np.broadcast_to(matrix, (*front, *(self.shape or (1, 1))))
        if self.columns and len(self.core) > 1:
            matrix = np.swapaxes(matrix, -1, -2)
        return matrix.reshape(self.array)


class Numbers:
    """The numbers that symbols stand for.

    Args:
        of: for each key of a symbol and step, the matrix (or a stack of one per sample).
        samples: how many samples a batch has.
        tolerance: of the rounding of what was recorded, relative to each number.
    """

    def __init__(
        self, of: Mapping[tuple[Any, f.Step], Any], samples: int = 1, tolerance: float = 1e-7
    ) -> None:
        self.of = of
        self.samples = samples
        self.tolerance = tolerance

    def atom(self, atom: f.Atom, t: int | None) -> Any:
        step = atom.step
        if isinstance(step, f.Later):
            if t is None:
                raise ValueError(f"{atom.key}: this formula holds for a time step t; give one")
            step = t + step.offset
        return self.of[atom.key, step]


Indices = Mapping[str, int]


def evaluate(
    x: Expr, numbers: Numbers, t: int | None = None, indices: Indices | None = None
) -> Any:
    """The matrix that a formula comes to; a stack of one per sample, if they differ.

    Args:
        x: the formula.
        numbers: what its symbols stand for.
        t: the time step, where it is about one.
        indices: what the letters of indices stand for, from 0.
    """
    return _evaluated(x, numbers, t, indices or {})


@quiet
def _evaluated(x: Expr, numbers: Numbers, t: int | None, indices: Indices) -> Any:
    def of(y: Expr) -> Any:
        return _evaluated(y, numbers, t, indices)

    match x:
        case f.Number(value):
            return np.full((1, 1), value)
        case f.Symbol() | f.Partial():
            return numbers.atom(x, t)
        case f.Ones(size):
            return np.ones(size)
        case f.Sum(parts):
            return _folded(operator.add, [of(part) for part in parts])
        case f.Product(parts):
            return _folded(_times, [of(part) for part in parts])
        case f.MatMul(parts):
            return _folded(np.matmul, [of(part) for part in parts])
        case f.Power(base, exponent):
            return arrays.power(of(base), of(exponent))
        case f.Transpose(y):
            return np.swapaxes(of(y), -1, -2)
        case f.Diag(y):
            v = of(y)
            v = v.reshape(*v.shape[:-2], -1)
            return v[..., None] * np.eye(v.shape[-1])
        case f.Scalar(y):
            return of(y)
        case f.Total(y):
            axes = tuple(range(-max(2, len(y.shape)), 0))
            return np.sum(of(y), axis=axes)[..., None, None]
        case f.Samples(y):
            return np.sum(of(y), axis=0) if y.batched else numbers.samples * of(y)
        case f.Steps(y, low, high):
            steps = [_evaluated(y, numbers, k, indices) for k in range(low, high + 1)]
            return _folded(operator.add, steps)
        case f.Derivative():
            partial = x.rule.partials[x.which]
            operands = [of(y) for y in x.arguments]
            if not callable(partial):
                return np.full((1, 1), partial)
            return partial(arrays, *operands, x.rule.value(arrays, *operands))
        case f.Function(rule, arguments):
            return rule.value(arrays, *(of(y) for y in arguments))
        case f.Compare(sign, left, right):
            return _COMPARE[sign](of(left), of(right))
        case f.Cases(condition, yes, no):
            return np.where(of(condition), of(yes), of(no))
        case f.Apply():
            return x.compute(*(of(y) for y in x.arguments))
        case f.Indexed(y, letters):
            matrix = of(y)
            row, column = _place(matrix.shape[-2:], letters, indices)
            return matrix[..., row : row + 1, column : column + 1]
        case f.IndexSum(y, index, count):
            ks = range(count)
            return _folded(
                operator.add, [_evaluated(y, numbers, t, {**indices, index: k}) for k in ks]
            )
    raise TypeError(f"a formula of an unknown kind: {type(x).__name__}")


def _folded(operation: Any, matrices: list[Any]) -> Any:
    result = matrices[0]
    for matrix in matrices[1:]:
        result = operation(result, matrix)
    return result


def _times(x: Any, y: Any) -> Any:
    """The product, where zero times anything is zero: as the sweep multiplies (CppAD's azmul)."""
    product = x * y
    if np.isnan(product).any():
        product = np.where((x == 0) | (y == 0), 0.0, product)
    return product


def _place(shape: Shape, letters: tuple[str, ...], indices: Indices) -> tuple[int, int]:
    if not letters:  # there is but one
        return 0, 0
    if len(letters) == 1:  # of a vector
        k = indices[letters[0]]
        return (k, 0) if shape[1] == 1 else (0, k)
    return indices[letters[0]], indices[letters[1]]


_COMPARE = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
    "=": operator.eq,
    "and": operator.and_,
    "or": operator.or_,
}


def agree(got: Any, expected: Any, scale: float, tolerance: float) -> bool:
    """Whether a formula came to the recorded numbers, infinite and undefined ones among them.

    Args:
        got: what it came to; may still be broadcast.
        expected: the recorded matrix.
        scale: how large the numbers are that it was computed from.
        tolerance: of the rounding, relative to each number and to the scale.
    """
    try:
        got = np.broadcast_to(got, expected.shape)
    except ValueError:
        return False
    if not math.isfinite(scale):
        scale = 0.0
    return bool(
        np.allclose(got, expected, rtol=tolerance, atol=1e-3 * tolerance * scale, equal_nan=True)
    )
