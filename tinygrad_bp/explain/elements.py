"""The element view: an equation of matrices, read for one of their elements.

`∂C/∂W = δ aᵀ` becomes `∂C/∂W_jk = δ_j a_k`, and `(Wᵀ δ) ⊙ σ'(z)` the sum `Σ_k W_kj δ_k σ'(z_j)`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from tinygrad_bp.explain import formulas as f
from tinygrad_bp.explain.equations import Equation, error_in
from tinygrad_bp.explain.evaluating import Numbers
from tinygrad_bp.explain.formulas import Expr

Indices = Literal["nielsen", "ng"]
LETTERS = {"nielsen": "jklnpq", "ng": "ijklnp"}
MOST_TRIED = 5  # of the values of each index that an equation is evaluated at


def element(x: Expr, row: str | None, column: str | None, fresh: Sequence[str]) -> Expr:
    """The element of a formula in a row and a column.

    Args:
        x: the formula.
        row, column: the letters of its indices; None where there is one row or column only.
        fresh: letters for the indices of sums.
    """
    if not x.shape:
        return x

    def of(y: Expr) -> Expr:
        return element(y, row, column, fresh)

    match x:
        case f.Symbol() | f.Partial():
            return f.Indexed(x, _letters(x, row, column))
        case f.Ones():
            return f.ONE
        case f.Transpose(y):
            return element(y, column, row, fresh)
        case f.MatMul(parts):
            rest = parts[1] if len(parts) == 2 else f.MatMul(parts[1:])
            count = rest.shape[-2]
            if count == 1:
                first = element(parts[0], row, None, fresh)
                return f.multiply(first, element(rest, None, column, fresh))
            k, later = fresh[0], fresh[1:]
            product = f.multiply(element(parts[0], row, k, later), element(rest, k, column, later))
            return f.IndexSum(product, k, count)
        case f.Sum() | f.Product() | f.Power() | f.Function() | f.Cases() | f.Compare():
            return f.rebuilt(x, tuple(of(child) for child in x.children))
        case f.Samples() | f.Steps():
            return f.rebuilt(x, (of(x.x),))
    return f.Indexed(x, _letters(x, row, column))


def _letters(x: Expr, row: str | None, column: str | None) -> tuple[str, ...]:
    sizes = x.shape[-2:]
    kept = [letter for letter, n in zip((row, column), sizes, strict=True) if letter and n != 1]
    return tuple(kept) or tuple(letter for letter in (row, column) if letter)[:1]


def element_equations(
    equations: Iterable[Equation], numbers: Numbers, indices: Indices
) -> list[Equation]:
    """The equations read for one element, those that are about more than one."""
    letters = LETTERS[indices]
    found = []
    for equation in equations:
        lhs = equation.lhs
        if equation.kind not in ("forward", "backward", "boundary", "parameter"):
            continue
        if not isinstance(lhs, (f.Symbol, f.Partial)) or len(lhs.shape) != 2:
            continue
        rows, columns = lhs.shape
        row = letters[0]
        column = None if columns == 1 else letters[1]
        fresh = letters[2:] if column else letters[1:]
        form = min(equation.forms[1:] or equation.forms, key=f.extent)
        right = element(form, row, column, fresh)
        if any(isinstance(p, f.Indexed) and isinstance(p.x, f.Apply) for p in f.parts(right)):
            continue
        left = f.Indexed(lhs, (row,) if column is None else (row, column))
        sizes = ((row, rows),) if column is None else ((row, rows), (column, columns))
        one = replace(equation, kind="element", lhs=left, forms=(right,), index_sizes=sizes)
        if all(_holds(one, numbers, t, at) for t in one.times for at in _some(sizes)):
            found.append(one)
    return found


def _some(sizes: tuple[tuple[str, int], ...]) -> Iterator[dict[str, int]]:
    ranges = [range(0, n, max(1, n // MOST_TRIED)) for _, n in sizes]
    for values in itertools.product(*ranges):
        yield dict(zip((letter for letter, _ in sizes), values, strict=True))


def _holds(equation: Equation, numbers: Numbers, t: int | None, at: dict[str, int]) -> bool:
    return not error_in(equation.rhs, equation.lhs, numbers, t, at)
