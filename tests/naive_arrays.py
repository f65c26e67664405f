"""Arrays of `naive` cells: every operation, one element at a time."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from naive import EPS, OPERATIONS, Cell, Term, terms_of

ELEMENTWISE = set(OPERATIONS)
ONE = Fraction(1)


class Cells:
    """Cells in a shape; `loose` bounds how far rounding may move a number of a sum."""

    def __init__(self, cells: list[Cell], shape: tuple[int, ...], loose: list[float]) -> None:
        self.cells = cells
        self.shape = shape
        self.loose = loose

    @classmethod
    def of(cls, array: Any) -> Cells:
        array = np.asarray(array, dtype=float)
        return cls([Cell(float(x)) for x in array.ravel()], array.shape, [0.0] * array.size)

    def at(self, index: tuple[int, ...]) -> Cell:
        """The cell at an index of a shape that this one broadcasts to."""
        last = index[len(index) - len(self.shape) :]
        where = tuple(i if n > 1 else 0 for i, n in zip(last, self.shape, strict=True))
        return self.cells[int(np.ravel_multi_index(where, self.shape)) if where else 0]

    def data(self) -> Any:
        return np.array([cell.data for cell in self.cells]).reshape(self.shape)


Operand = Any  # Cells of a tracked operand, or an array of constants


def _number_at(x: Operand, index: tuple[int, ...]) -> tuple[Any, Cell | None]:
    if isinstance(x, Cells):
        cell = x.at(index)
        return cell.data, cell
    x = np.asarray(x)
    x = np.broadcast_to(x, np.broadcast_shapes(x.shape, (1,) * len(index)))
    return x[tuple(i if n > 1 else 0 for i, n in zip(index, x.shape, strict=True))].item(), None


def computed(name: str, parameters: tuple[Any, ...], operands: list[Operand]) -> Cells:
    """An operation on cells and constants."""
    if name in ELEMENTWISE:
        return _elementwise(name, operands)
    return _STRUCTURAL[name](operands, *parameters)


def _elementwise(name: str, operands: list[Operand]) -> Cells:
    shape = np.broadcast_shapes(*(np.shape(x) if not isinstance(x, Cells) else x.shape
                                  for x in operands))  # fmt: skip
    cells, loose = [], []
    for index in np.ndindex(shape):
        pairs = [_number_at(x, index) for x in operands]
        numbers = [number for number, _ in pairs]
        if not OPERATIONS[name].allowed(*numbers):
            raise OverflowError
        z = OPERATIONS[name].value(*numbers)
        cells.append(Cell(z, terms_of(name, numbers, [cell for _, cell in pairs])))
        loose.append(8 * EPS * abs(z))
    return Cells(cells, shape, loose)


def _summed(cells: list[Cell], partials: list[Fraction], exact: bool = True) -> tuple[Cell, float]:
    parts = [float(p) * cell.data for cell, p in zip(cells, partials, strict=True)]
    terms = [Term(cell, p, exact) for cell, p in zip(cells, partials, strict=True)]
    return Cell(sum(parts), terms), 4 * len(parts) * EPS * sum(map(abs, parts))


def _of(pairs: list[tuple[Cell, float]], shape: tuple[int, ...]) -> Cells:
    return Cells([cell for cell, _ in pairs], shape, [slack for _, slack in pairs])


def _places(x: Cells) -> Any:
    return np.arange(len(x.cells)).reshape(x.shape)


def _picked(operands: list[Cells], places: Any) -> Cells:
    """Cells that stand elsewhere now; places count through all operands."""
    everything = [cell for x in operands for cell in x.cells]
    found = [everything[i] for i in np.ravel(places)]
    return _of([_summed([cell], [ONE]) for cell in found], np.shape(places))


def _groups(x: Cells, axis: int | None, keepdims: bool) -> tuple[list[list[Cell]], Any]:
    """The cells that are reduced together, and the shape of the result."""
    shape = np.sum(np.zeros(x.shape), axis=axis, keepdims=keepdims).shape
    if axis is None:
        return [list(x.cells)], shape
    rows = np.moveaxis(_places(x), axis, -1)
    return [[x.cells[i] for i in rows[index]] for index in np.ndindex(rows.shape[:-1])], shape


def _sum(operands: list[Cells], axis: int | None, keepdims: bool) -> Cells:
    groups, shape = _groups(operands[0], axis, keepdims)
    return _of([_summed(group, [ONE] * len(group)) for group in groups], shape)


def _mean(operands: list[Cells], axis: int | None, keepdims: bool) -> Cells:
    groups, shape = _groups(operands[0], axis, keepdims)
    return _of([_summed(g, [Fraction(1, len(g))] * len(g), False) for g in groups], shape)


def _max(operands: list[Cells], axis: int | None, keepdims: bool) -> Cells:
    groups, shape = _groups(operands[0], axis, keepdims)
    pairs = []
    for group in groups:
        largest = max(cell.data for cell in group)
        ties = [cell for cell in group if cell.data == largest]
        terms = [Term(c, Fraction(1, len(ties)) if c in ties else Fraction(0), False)
                 for c in group]  # fmt: skip
        pairs.append((Cell(largest, terms), 0.0))
    return _of(pairs, shape)


def _matmul(operands: list[Operand]) -> Cells:
    x, y = operands
    constant = np.ndarray
    a, b = (z if isinstance(z, constant) else z.data() for z in (x, y))
    rows = a.reshape(1, -1) if a.ndim == 1 else a
    columns = b.reshape(-1, 1) if b.ndim == 1 else b
    pairs = []
    for i in range(rows.shape[0]):
        for j in range(columns.shape[1]):
            terms, total, size = [], 0.0, 0.0
            for k in range(rows.shape[1]):
                u, v = float(rows[i, k]), float(columns[k, j])
                total, size = total + u * v, size + abs(u * v)
                if isinstance(x, Cells):
                    terms.append(Term(x.cells[i * rows.shape[1] + k], Fraction(v), True))
                if isinstance(y, Cells):
                    terms.append(Term(y.cells[k * columns.shape[1] + j], Fraction(u), True))
            pairs.append((Cell(total, terms), 4 * rows.shape[1] * EPS * size))
    return _of(pairs, (np.zeros(a.shape) @ np.zeros(b.shape)).shape)


def _concatenate(operands: list[Cells], axis: int) -> Cells:
    start, parts = 0, []
    for x in operands:
        parts.append(_places(x) + start)
        start += len(x.cells)
    return _picked(operands, np.concatenate(parts, axis))


_STRUCTURAL: dict[str, Callable[..., Cells]] = {
    "sum": _sum,
    "mean": _mean,
    "max": _max,
    "matmul": _matmul,
    "concatenate": _concatenate,
    "reshape": lambda xs, shape: _picked(xs, _places(xs[0]).reshape(shape)),
    "transpose": lambda xs: _picked(xs, _places(xs[0]).T),
    "getitem": lambda xs, index: _picked(xs, _places(xs[0])[index]),
    "broadcast_to": lambda xs, shape: _picked(xs, np.broadcast_to(_places(xs[0]), shape)),
}
