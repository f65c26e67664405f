"""The oracle of programs of single numbers: the sum over all paths, in four ways.

A program and the engine's own forward values give its edges, each with a derivative from the books.
Over these the derivative by a leaf is summed by dual numbers, in a reverse sweep, in a forward one,
and in exact fractions; `compare` settles with them what may differ, and why.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from math import copysign, fabs, inf, isfinite
from typing import Any

from . import Mismatch
from .derivations import EPS, PARTIALS, ROUNDINGS, SIZES, TINY, VALUES
from .scalar_programs import COMPARISONS, HAS_CONDITION, RULE_OF, Program, numbers_of

SMALLEST = 5e-324
MAX = sys.float_info.max
EAGER = "eager"

Edge = tuple[int, int, float, float]  # result, operand, derivative, its size


def edges_of(program: Program, values: Sequence[float]) -> tuple[list[Edge], list[bool]]:
    """Every use of a tracked operand, with its derivative; which nodes are tracked.

    Raises:
        Mismatch: a value is not that of the operation.
    """
    tracked = [is_tracked for _, is_tracked in program.leaves]
    edges: list[Edge] = []
    n = len(tracked)
    for name, operands in program.operations:
        rule = RULE_OF[name]
        numbers = [
            values[o]
            if type(o) is int
            else o
            if type(o) is float
            else COMPARISONS[o[0]](*numbers_of(o[1:], values))
            for o in operands
        ]
        z = values[n]
        expected = VALUES[rule](*numbers)
        if z != expected or z == 0:
            _check_value(rule, numbers, z, expected)
        pairs = None
        reached = False
        i = -2
        for operand in operands:
            i += 2
            if type(operand) is int and tracked[operand] and (i or rule not in HAS_CONDITION):
                if pairs is None:
                    pairs = PARTIALS[rule](*numbers, z)
                edges.append((n, operand, pairs[i], pairs[i + 1]))
                reached = True
        tracked.append(reached)
        n += 1
    return edges, tracked


def _check_value(rule: str, numbers: list[Any], z: float, expected: float) -> None:
    if z != z or expected != expected:
        good = z != z and expected != expected
    elif z == expected:
        good = z != 0 or copysign(1, z) == copysign(1, expected) or either_zero(rule, numbers)
    else:
        size = max(SIZES.get(rule, fabs)(*numbers) if rule in SIZES else 0.0, fabs(expected))
        good = fabs(z - expected) <= ROUNDINGS * EPS * size + TINY and isfinite(expected)
    if not good:
        raise Mismatch(f"value of {rule}: {z!r} of {numbers}, expected {expected!r}")


def either_zero(rule: str, numbers: list[Any]) -> bool:
    """Whether a result of zero may have either sign.

    IEEE 754-2008 (5.3.1) leaves it open which of 0 and -0 is the larger, so numpy's `maximum` may
    give one and Python's comparison the other, also between -0 and the constant 0 of `relu` and
    `elu`. That 0 times infinity is 0 is the chain rule's convention, and not IEEE's.
    """
    if rule == "azmul":
        return numbers[0] == 0 and not isfinite(numbers[1])
    if rule in ("maximum", "minimum", "clip"):
        return len({copysign(1, x) for x in numbers if x == 0}) == 2
    return rule in ("relu", "elu") and numbers[0] == 0 and copysign(1, numbers[0]) < 0


def duals(edges: Sequence[Edge], leaf: int, count: int) -> tuple[float, float | None]:
    """The derivative of the last node by a leaf, and the sum of the sizes of its terms.

    The size is None where no path leads to the leaf.
    """
    t: list[float] = [0.0] * count
    a: list[float | None] = [None] * count
    t[leaf] = a[leaf] = 1.0
    for result, operand, d, size in edges:
        sofar = a[operand]
        if sofar is not None:
            t[result] += d * t[operand]
            before = a[result]
            a[result] = size * sofar if before is None else before + size * sofar
    return t[-1], a[-1]


def swept(edges: Sequence[Edge], count: int) -> list[float | None]:
    """The reverse sweep in IEEE arithmetic, as documented: zero times anything is zero."""
    g: list[float | None] = [None] * count
    g[-1] = 1.0
    for result, operand, d, _ in _sweep_order(edges):
        upstream = g[result]
        if upstream is not None:
            c = d * upstream if upstream != 0 or isfinite(d) else 0.0
            g[operand] = c if g[operand] is None else g[operand] + c
    return g


def _sweep_order(edges: Sequence[Edge]) -> list[Edge]:
    """The edges as the sweep meets them: the last result first, its operands in their order."""
    return sorted(edges, key=lambda edge: -edge[0])


def compare(
    edges: Sequence[Edge],
    count: int,
    leaf: int,
    got: float | None,
    way: str,
    tally: Counter[str],
) -> None:
    """Compare the gradient by a leaf with the oracle's.

    Raises:
        Mismatch: they differ, and nothing explains it.
    """
    expected, size = duals(edges, leaf, count)
    if got is not None and size is not None:
        bound = ROUNDINGS * EPS * (count + 2) * size
        if fabs(got - expected) <= bound < inf:
            tally[way] += 1
            return
    _judge(edges, count, leaf, got, way, tally)


def _judge(
    edges: Sequence[Edge],
    count: int,
    leaf: int,
    got: float | None,
    way: str,
    tally: Counter[str],
) -> None:
    """What the quick comparison could not settle.

    - No path leads to the leaf: the gradient is None (or in a functional way 0).
    - The reverse sweep, or its sizes, is not finite: the gradient is its equal by IEEE.
    - All is finite: within the bound of the exact sum over all paths, taken in fractions. To the
      bound belongs what an underflow of any product may take away: half the smallest float, times
      the derivative of what it is the gradient of.
    """
    forward = way.startswith("forward")
    g = swept(edges, count)[leaf]
    if g is None:
        if got is not None and (got != 0 or way == EAGER):
            raise Mismatch(f"{way}: gradient {got!r} of a leaf that nothing depends on")
        tally[f"{way}: no path"] += 1
        return
    if got is None:
        raise Mismatch(f"{way}: no gradient of leaf {leaf}, expected {g!r}")
    if not isfinite(got) or not isfinite(g):
        order, size = _forward(edges, count, leaf) if forward else (g, 0.0)
        near = fabs(got - order) <= ROUNDINGS * EPS * (count + 2) * size < inf
        if got == order or near or (got != got and order != order):
            tally[f"{way}: infinite or nan alike"] += 1
            return
        why = _explanation(edges, count, leaf, forward)
        if why:
            tally[f"(explained, {way}: {why})"] += 1
            return
        raise Mismatch(f"{way}: gradient {got!r} of leaf {leaf}, expected {order!r} by IEEE")
    if not all(isfinite(d) for _, _, d, _ in edges):
        edges = _unmasked(edges, count)
    exact, bound = _exact(edges, count, leaf)
    if abs(Fraction(got) - exact) > bound:
        raise Mismatch(
            f"{way}: gradient {got!r} of leaf {leaf}, expected {_float(exact)!r} within "
            f"{_float(bound):.2g}"
        )
    tally[f"{way}: by exact fractions"] += 1


def _explanation(edges: Sequence[Edge], count: int, leaf: int, forward: bool) -> str:
    """Why rounding may decide whether a result is finite; empty if it does not.

    - An infinite gradient meets a derivative below the smallest normal number, which is one or 0.
    - An infinite derivative meets a difference of equal terms. Whether that is 0, and with it the
      product, or a rounding error, depends on the last bits of the terms.
    - A product comes so near to the largest float that its last bits decide.
    """
    relative = ROUNDINGS * EPS * (count + 2)
    turned = edges if forward else [(x, n, d, a) for n, x, d, a in _sweep_order(edges)]
    t, a = [0.0] * count, [0.0] * count
    start = leaf if forward else count - 1
    t[start] = a[start] = 1.0
    for result, operand, d, size in turned:
        if size != 0 and fabs(d) < TINY and not isfinite(t[operand]):
            return "an infinite gradient times a derivative that may underflow"
        if a[operand] and not isfinite(d) and fabs(t[operand]) <= relative * a[operand]:
            return "an infinite derivative times a difference that rounding makes"
        if t[operand] != 0 or isfinite(d):
            t[result] += d * t[operand]
            a[result] += size * a[operand]
        if fabs(fabs(t[result]) / MAX - 1) < relative:
            return "as near to the largest float as rounding comes"
    return ""


def _forward(edges: Sequence[Edge], count: int, leaf: int) -> tuple[float, float]:
    """The tangent in IEEE arithmetic, and its size: in forward mode a zero of either gives zero."""
    t, a = [0.0] * count, [0.0] * count
    t[leaf] = a[leaf] = 1.0
    for result, operand, d, size in edges:
        if t[operand] != 0 and d != 0:
            t[result] += d * t[operand]
            a[result] += size * a[operand]
    return t[-1], a[-1]


def _unmasked(edges: Sequence[Edge], count: int) -> list[Edge]:
    """The edges with a finite derivative, and of the others those that carry no zero."""
    g = swept(edges, count)
    return [edge for edge in edges if isfinite(edge[2]) or g[edge[0]] not in (0, None)]


def _exact(edges: Sequence[Edge], count: int, leaf: int) -> tuple[Fraction, Fraction]:
    """The sum over all paths, and by how much a computation in floats may miss it."""
    t, a = [Fraction(0)] * count, [Fraction(0)] * count
    t[leaf] = a[leaf] = Fraction(1)
    for result, operand, d, size in edges:
        if a[operand]:
            t[result] += Fraction(d) * t[operand]
            a[result] += Fraction(min(size, MAX)) * a[operand]
    lost = sum(a, Fraction(0)) * Fraction(SMALLEST)
    return t[-1], Fraction(ROUNDINGS * EPS * (count + 2)) * a[-1] + lost


def _float(x: Fraction) -> float:
    try:
        return float(x)
    except OverflowError:
        return inf if x > 0 else -inf
