"""Vectors cut into pieces, and put together: the gates of a cell that come from one product.

`[x; h]` is a vector of two pieces, one below the other (beside each other in rows), and `z[0:3]` a
piece. Where every piece of a vector has a gradient of its own, that of the vector is these, put
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_bp.explain import formulas as f
from tinygrad_bp.explain.evaluating import View
from tinygrad_bp.explain.formulas import Apply, Expr
from tinygrad_bp.explain.operations import Operation

JOINED, PART, PLACED = "joined", "part", "placed"


def _axis(view: View) -> int:
    """The axis of a matrix that counts features: rows of columns, columns of rows."""
    return -2 if view.columns else -1


def _ends(op: Operation) -> tuple[int, int] | None:
    """Where a piece begins and ends, if it is one of consecutive features."""
    view = op.operands[0].view
    index = op.argument("index", 0)
    index = index if isinstance(index, tuple) else (index,)
    if any(part is ... for part in index[:-1]) and len(index) == 2:
        index = (slice(None),) * (len(view.array) - 1) + index[-1:]
    if len(index) != len(view.array) or not all(isinstance(part, slice) for part in index):
        return None
    *others, last = (part.indices(n) for part, n in zip(index, view.array, strict=True))
    whole = [(0, n, 1) for n in view.array[:-1]]
    return last[:2] if others == whole and last[2] == 1 and last[0] < last[1] else None


def part(op: Operation) -> Expr | None:
    """z[a:b], of features."""
    ends, view = _ends(op), op.operands[0].view
    return None if ends is None else _part(op.operands[0].expr, view, op.result.view, *ends)


def _part(x: Expr, have: View, want: View, start: int, stop: int) -> Expr:
    axis, size = _axis(have), want.shape

    def compute(matrix: Any) -> Any:
        return np.take(matrix, range(start, stop), axis)

    return Apply(PART, (f.full(x, have.shape),), f"{start}:{stop}", size, want.stacked, compute)


def part_pull(op: Operation, which: int, g: Expr) -> Expr | None:
    """The gradient of a piece in its place, with zeros elsewhere."""
    ends, view = _ends(op), op.operands[0].view
    if ends is None:
        return None
    start, axis = ends[0], _axis(view)
    after = view.shape[axis] - ends[1]

    def compute(matrix: Any) -> Any:
        widths = [(0, 0)] * matrix.ndim
        widths[axis] = (start, after)
        return np.pad(matrix, widths)

    detail = f"{start}:{ends[1]}"
    g = f.full(g, op.result.view.shape)
    return Apply(PLACED, (g,), detail, view.shape, view.stacked, compute)


def joined(op: Operation) -> Expr | None:
    """[x; h]: one below the other, or beside each other in rows."""
    view = op.result.view
    if not _is_of_features(op) or any(x.view.stacked != view.stacked for x in op.operands):
        return None
    return _joined([f.full(x.expr, x.view.shape) for x in op.operands], view)


def _joined(pieces: Sequence[Expr], view: View) -> Expr:
    axis = _axis(view)

    def compute(*matrices: Any) -> Any:
        front = view.array[:1] if view.stacked else ()
        wide = [np.broadcast_to(m, (*front, *m.shape[-len(view.shape) :])) for m in matrices]
        return np.concatenate(wide, axis)

    sign = ";" if view.columns else ","
    return Apply(JOINED, tuple(pieces), sign, view.shape, view.stacked, compute)


def _is_of_features(op: Operation) -> bool:
    view = op.result.view
    axis = int(op.argument("axis", 0, 0)) % len(view.array)
    return axis == len(view.array) - 1 and len(view.core) > 0


def joined_pull(op: Operation, which: int, g: Expr) -> Expr | None:
    """The piece of g that is the operand's."""
    if not _is_of_features(op):
        return None
    sizes = [x.view.array[-1] for x in op.operands]
    start = sum(sizes[:which])
    return _part(g, op.result.view, op.operands[which].view, start, start + sizes[which])


def added(shares: Sequence[Expr], view: View | None = None) -> Expr:
    """The sum of what flows back; pieces that make up the whole are put together instead.

    Args:
        shares: what comes from each use.
        view: how the node is written, to which they flow back.
    """
    pieces = [x for x in shares if isinstance(x, Apply) and x.name == PLACED]
    if view is None or len(pieces) < 2:
        return f.add(*shares)
    ordered = sorted(pieces, key=lambda x: int(x.detail.partition(":")[0]))
    ends = [tuple(map(int, x.detail.split(":"))) for x in ordered]
    edges = [0, *(stop for _, stop in ends)]
    if [start for start, _ in ends] != edges[:-1] or edges[-1] != view.shape[_axis(view)]:
        return f.add(*shares)
    others = [x for x in shares if not any(x is piece for piece in pieces)]
    return f.add(_joined([x.arguments[0] for x in ordered], view), *others)
