"""Automatic differentiation a second time: as slow as it may be, and as plain as it can be.

Every single number is a `Cell`, which lists what it was computed from and by how much it changes
with each, as fractions. The derivative by a cell is the sum over its uses of the user's derivative
times that. No order, no sweep, no arrays, no floats: nothing is shared with the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

EPS = 2.0**-52


class Term(NamedTuple):
    """What a cell was computed from, and its partial derivative."""

    cell: Cell
    partial: Fraction
    exact: bool  # whether the package must find this very number


class Cell:
    """A number. `terms` are fixed when it is computed, whatever is written to it later."""

    __slots__ = ("data", "owner", "terms")

    def __init__(self, data: float, terms: Iterable[Term] = (), owner: Any = None) -> None:
        self.data = data
        self.terms = tuple(terms)
        self.owner = owner


class Derivative(NamedTuple):
    """A derivative, the sum of its terms' absolute values, and how sure its bits are."""

    value: Fraction
    size: Fraction
    depth: int  # the longest chain of products and sums
    exact: bool  # no rounding is possible on the way

    def agrees(self, got: float) -> bool:
        if self.exact:
            return Fraction(got) == self.value
        # Every step of a chain rounds a product, a sum and a partial, which has a few roundings
        # of its own; 1e-300 for what underflows.
        bound = 16 * EPS * (1 + self.depth) * float(self.size) + 1e-300
        return abs(float(Fraction(got) - self.value)) <= bound


def derivatives(
    seeds: Mapping[Cell, Fraction],
    factor: Callable[[Cell], Fraction] = lambda cell: Fraction(1),
) -> dict[Cell, Derivative]:
    """The derivative of `sum(seed * cell)` by every cell that it was computed from.

    Args:
        seeds: the cells that are summed, and how much of each.
        factor: by what the gradient of a cell is multiplied, when it is complete (a hook's doing).
    """
    uses: dict[Cell, list[tuple[Cell, Term]]] = {cell: [] for cell in seeds}
    unvisited = list(seeds)
    for user in unvisited:
        for term in user.terms:
            if term.cell not in uses:
                uses[term.cell] = []
                unvisited.append(term.cell)
            uses[term.cell].append((user, term))
    known: dict[Cell, Derivative] = {}

    def by(cell: Cell) -> Derivative:
        if cell in known:
            return known[cell]
        parts = [seeds[cell]] if cell in seeds else []
        size, depth, exact = sum(map(abs, parts), Fraction(0)), 0, True
        for user, term in uses[cell]:
            above = by(user)
            parts.append(above.value * term.partial)
            size += above.size * abs(term.partial)
            depth = max(depth, above.depth + 1)
            exact = exact and above.exact and term.exact
        depth += len(parts)
        scale = factor(cell)
        finest = max((part.denominator for part in parts), default=1) * scale.denominator
        exact = exact and size * max(abs(scale), 1) * finest < 2**53
        known[cell] = Derivative(sum(parts, Fraction(0)) * scale, size * abs(scale), depth, exact)
        return known[cell]

    for cell in uses:
        by(cell)
    return known


# --- operations, a second time ------------------------------------------------------------------


class Operation(NamedTuple):
    """An operation on numbers.

    `value` and the first derivatives are functions of the operands; the second ones, the matrix
    by rows, too. `exact` says that the first ones are numbers or operands as they stand.
    """

    value: Callable[..., float]
    partials: Callable[..., tuple[float | None, ...]]
    seconds: Callable[..., tuple[tuple[float, ...], ...]] | None
    exact: bool
    allowed: Callable[..., bool] = lambda *x: True


def _half(x: float, y: float) -> float:
    return 1.0 if x > y else 0.5 if x == y else 0.0


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x > 0 else math.exp(x) / (1.0 + math.exp(x))


def _sigmoid_dx(x: float) -> float:
    e = math.exp(-abs(x))
    return e / (1.0 + e) ** 2


def _sech2(x: float) -> float:
    return 1.0 / math.cosh(x) ** 2


OPERATIONS: dict[str, Operation] = {
    "add": Operation(lambda x, y: x + y, lambda x, y: (1.0, 1.0), None, True),
    "subtract": Operation(lambda x, y: x - y, lambda x, y: (1.0, -1.0), None, True),
    "multiply": Operation(
        lambda x, y: x * y, lambda x, y: (y, x), lambda x, y: ((0.0, 1.0), (1.0, 0.0)), True
    ),
    "divide": Operation(
        lambda x, y: x / y,
        lambda x, y: (1.0 / y, -x / y / y),
        lambda x, y: ((0.0, -1.0 / y / y), (-1.0 / y / y, 2.0 * x / y**3)),
        False,
        lambda x, y: abs(y) > 0.1,
    ),
    "negative": Operation(lambda x: -x, lambda x: (-1.0,), None, True),
    "positive": Operation(lambda x: x, lambda x: (1.0,), None, True),
    "square": Operation(lambda x: x * x, lambda x: (2.0 * x,), lambda x: ((2.0,),), True),
    "absolute": Operation(abs, lambda x: (float((x > 0) - (x < 0)),), None, True),
    "relu": Operation(lambda x: max(x, 0.0), lambda x: (float(x > 0),), None, True),
    "exp": Operation(
        math.exp,
        lambda x: (math.exp(x),),
        lambda x: ((math.exp(x),),),
        False,
        lambda x: x < 5.0,
    ),
    "sin": Operation(math.sin, lambda x: (math.cos(x),), lambda x: ((-math.sin(x),),), False),
    "tanh": Operation(
        math.tanh,
        lambda x: (_sech2(x),),
        lambda x: ((-2.0 * math.tanh(x) * _sech2(x),),),
        False,
        lambda x: abs(x) < 100.0,
    ),
    "sigmoid": Operation(
        _sigmoid,
        lambda x: (_sigmoid_dx(x),),
        lambda x: ((_sigmoid_dx(x) * (_sigmoid(-x) - _sigmoid(x)),),),
        False,
        lambda x: abs(x) < 100.0,
    ),
    "maximum": Operation(max, lambda x, y: (_half(x, y), _half(y, x)), None, True),
    "minimum": Operation(min, lambda x, y: (_half(y, x), _half(x, y)), None, True),
    "clip": Operation(
        lambda x, low, high: min(max(x, low), high),
        lambda x, low, high: (
            float(low <= x <= high),
            float(x < low <= high),
            float(x > high or low > high),
        ),
        None,
        True,
    ),
    "where": Operation(
        lambda c, x, y: x if c else y,
        lambda c, x, y: (None, float(bool(c)), float(not c)),
        None,
        True,
    ),
}


def terms_of(name: str, numbers: list[float], cells: list[Cell | None]) -> list[Term]:
    """The terms of a result: of every operand that is a cell and not None."""
    operation = OPERATIONS[name]
    return [
        Term(cell, Fraction(partial), operation.exact)
        for cell, partial in zip(cells, operation.partials(*numbers), strict=True)
        if cell is not None and partial is not None
    ]


# --- a computation, run again on other numbers --------------------------------------------------

Line = tuple[str, tuple[Any, ...]]
"""An operation and its operands: ("at", i) for what stands at a place, or a number."""


class Unsure(Exception):  # noqa: N818 (no error: a number too near to a kink to be compared)
    """Rounding may decide which way a choice goes."""


class Run(NamedTuple):
    """The numbers of a program at a point, and its first and second derivatives."""

    numbers: list[float]
    gradient: list[Derivative]
    hessian: list[list[float]]


def run(lines: list[Line], inputs: list[float]) -> Run:
    """A program on other numbers: first the inputs, then the result of each line.

    Raises:
        Unsure: a choice hangs on rounding, or an operand is outside of where this is accurate.
    """
    cells = [Cell(x) for x in inputs]
    errors = [0.0] * len(inputs)
    count = len(inputs)
    firsts = [[float(i == j) for j in range(count)] for i in range(count)]
    zeros = [[0.0] * count for _ in range(count)]
    seconds = [zeros for _ in range(count)]
    for name, operands in lines:
        operation = OPERATIONS[name]
        places = [x[1] if isinstance(x, tuple) else None for x in operands]
        numbers = [
            x if at is None else cells[at].data for x, at in zip(operands, places, strict=True)
        ]
        error = [0.0 if at is None else errors[at] for at in places]
        _check_choices(name, numbers, error)
        if not operation.allowed(*numbers):
            raise Unsure
        z = operation.value(*numbers)
        partials = operation.partials(*numbers)
        exact = operation.exact and Fraction(z) == _exactly(name, numbers)
        spread = sum(abs(p or 0.0) * e for p, e in zip(partials, error, strict=True))
        errors.append(2.0 * spread + (0.0 if exact else 8 * EPS * abs(z)))
        firsts.append([
            sum(p * firsts[at][i] for p, at in _tracked(partials, places)) for i in range(count)
        ])  # fmt: skip
        curved = operation.seconds(*numbers) if operation.seconds else None
        seconds.append([[
            sum(p * seconds[at][i][j] for p, at in _tracked(partials, places))
            + _curvature(curved, places, firsts, i, j)
            for j in range(count)] for i in range(count)])  # fmt: skip
        at_places = [None if at is None else cells[at] for at in places]
        cells.append(Cell(z, terms_of(name, numbers, at_places)))
    found = derivatives({cells[-1]: Fraction(1)})
    nothing = Derivative(Fraction(0), Fraction(0), 0, True)
    gradient = [found.get(cell, nothing) for cell in cells[:count]]
    return Run([cell.data for cell in cells], gradient, seconds[-1])


def _tracked(partials: Any, places: Any) -> list[tuple[float, int]]:
    pairs = zip(partials, places, strict=True)
    return [(p, at) for p, at in pairs if p is not None and at is not None]


def _curvature(curved: Any, places: Any, firsts: Any, i: int, j: int) -> float:
    if curved is None:
        return 0.0
    return sum(
        curved[a][b] * firsts[p][i] * firsts[q][j]
        for a, p in enumerate(places)
        for b, q in enumerate(places)
        if p is not None and q is not None
    )


def _exactly(name: str, numbers: list[float]) -> Fraction | None:
    """What an exact operation gives without rounding."""
    x = [Fraction(n) for n in numbers]
    if name in ("add", "subtract", "multiply", "square"):
        both = [x[0], x[-1]]
        return {
            "add": both[0] + both[1],
            "subtract": both[0] - both[1],
            "multiply": both[0] * both[1],
            "square": x[0] * x[0],
        }[name]
    return Fraction(OPERATIONS[name].value(*x))  # one of the operands, or its negative


_CHOICES: dict[str, tuple[tuple[int, int | None], ...]] = {
    "absolute": ((0, None),),
    "relu": ((0, None),),
    "maximum": ((0, 1),),
    "minimum": ((0, 1),),
    "clip": ((0, 1), (0, 2), (1, 2)),
    "where": ((0, None),),
}


def _check_choices(name: str, numbers: list[float], errors: list[float]) -> None:
    for a, b in _CHOICES.get(name, ()):
        distance = abs(numbers[a] - (0.0 if b is None else numbers[b]))
        error = errors[a] + (0.0 if b is None else errors[b])
        if error and distance <= error:
            raise Unsure
