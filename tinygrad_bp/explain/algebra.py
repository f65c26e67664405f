"""Simplification: a product of sums multiplied out, factors cancelled, a common factor in front.

`-(y/a - (1-y)/(1-a)) ⊙ a ⊙ (1-a)` is `a - y`: a reader sees it after some work, and so does this.
The result is an equal formula wherever both are defined; it is taken if it is shorter.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

from tinygrad_bp.explain import formulas as f
from tinygrad_bp.explain.formulas import Expr, is_inverse

# A product of powers of other formulas, and what it is multiplied by.
_Powers = tuple[tuple[Expr, int], ...]
_Polynomial = dict[_Powers, float]
MOST_TERMS = 64


class _TooLongError(Exception):
    """There are more terms than anybody would multiply out by hand."""


def simplified(x: Expr, is_one: Callable[[Expr], bool]) -> Expr:
    """A shorter formula of the same value, or the same one.

    Args:
        x: the formula.
        is_one: whether a total, such as Σ y of a distribution, is 1.
    """

    def change(part: Expr) -> Expr:
        if isinstance(part, f.MatMul):
            part = _times_jacobian(part)
        if not isinstance(part, (f.Sum, f.Product, f.Total)):
            return part
        try:
            shorter = _written(_multiplied_out(part, is_one), part.shape)
        except _TooLongError:
            return part
        return shorter if f.extent(shorter) < f.extent(part) else part

    shorter = f.transformed(x, change)
    return shorter if f.extent(shorter) < f.extent(x) else x


def _times_jacobian(x: f.MatMul) -> Expr:
    """(diag(a) - a aᵀ) g as a ⊙ (g - Σ a g), where it is that."""
    for J, g in (x.parts, x.parts[::-1]) if len(x.parts) == 2 else ():
        match J:
            case f.Sum((f.Diag(a), _)) if a.shape == g.shape:
                shares = f.total(f.multiply(a, g))
                return f.add(f.multiply(a, g), f.negative(f.multiply(a, shares)))
    return x


def _multiplied_out(x: Expr, is_one: Callable[[Expr], bool]) -> _Polynomial:
    """First what has denominators, so that they cancel, and then the rest."""
    first = _polynomial(x, _has_denominator, is_one)
    second: _Polynomial = {}
    for powers, number in first.items():
        term: _Polynomial = {(): number}
        for base, n in powers:
            factor: _Polynomial = {((base, n),): 1.0}
            if isinstance(base, f.Sum) and n > 0:
                factor = _power(_polynomial(base, lambda _: True, is_one), n)
            term = _times(term, factor)
        _add_to(second, term)
    return {powers: n for powers, n in second.items() if abs(n) > 1e-12}


def _polynomial(
    x: Expr, opened: Callable[[Expr], bool], is_one: Callable[[Expr], bool]
) -> _Polynomial:
    def of(y: Expr) -> _Polynomial:
        return _polynomial(y, opened, is_one)

    match x:
        case f.Number(value):
            return {(): value}
        case f.Sum(parts) if opened(x):
            result: _Polynomial = {}
            for part in parts:
                _add_to(result, of(part))
            return result
        case f.Product(parts):
            return reduce(_times, map(of, parts))
        case f.Power(base, f.Number(n)) if float(n).is_integer():
            if n > 0 and opened(base):
                return _power(of(base), int(n))
            if isinstance(base, f.Product):
                return reduce(_times, (of(f.power(part, f.Number(n))) for part in base.parts))
            return {((base, int(n)),): 1.0}
        case f.Total(y):
            return _total(y, is_one)
        case f.Ones():
            return {(): 1.0}
        case f.MatMul(parts) if any(isinstance(p, f.Ones) for p in parts) and is_one(x):
            return {(): 1.0}
    return {((x, 1),): 1.0}


def _total(y: Expr, is_one: Callable[[Expr], bool]) -> _Polynomial:
    """Term by term, with constant factors in front."""
    result: _Polynomial = {}
    for powers, number in _multiplied_out(y, is_one).items():
        outside = tuple((base, n) for base, n in powers if not base.shape)
        inside = _product([(b, n) for b, n in powers if b.shape])
        summed = f.Total(inside if inside.shape else f.Ones(y.shape))
        rest: _Powers = () if is_one(summed) else ((summed, 1),)
        _add_to(result, _times({outside: number}, {rest: 1.0}))
    return result


def _product(powers: list[tuple[Expr, int]]) -> Expr:
    return f.multiply(*(f.power(base, f.Number(float(n))) for base, n in powers))


def _has_denominator(x: Expr) -> bool:
    return any(
        isinstance(part, f.Total) or (is_inverse(part) and part.children[0].shape != ())
        for part in f.parts(x)
    )


def _add_to(result: _Polynomial, more: _Polynomial) -> None:
    for powers, number in more.items():
        result[powers] = result.get(powers, 0.0) + number
    if len(result) > MOST_TERMS:
        raise _TooLongError


def _times(a: _Polynomial, b: _Polynomial) -> _Polynomial:
    result: _Polynomial = {}
    for p, m in a.items():
        for q, n in b.items():
            counts: dict[Expr, int] = {}
            for base, k in (*p, *q):
                counts[base] = counts.get(base, 0) + k
            powers = tuple(sorted(((x, k) for x, k in counts.items() if k), key=_order))
            result[powers] = result.get(powers, 0.0) + m * n
    if len(result) > MOST_TERMS:
        raise _TooLongError
    return result


def _order(power: tuple[Expr, int]) -> str:
    return repr(power[0])


def _power(x: _Polynomial, n: int) -> _Polynomial:
    return reduce(_times, [x] * n)


def _written(x: _Polynomial, shape: f.Shape) -> Expr:
    """As a formula, with the factors that all terms have in front."""
    if not x:
        return f.ZERO
    common = dict(next(iter(x)))
    for powers in x:
        mine = dict(powers)
        common = {b: min(n, mine[b]) for b, n in common.items() if mine.get(b, 0) * n > 0}
        common = {b: n if n > 0 else max(n, mine[b]) for b, n in common.items()}
    sizes = {abs(n) for n in x.values()}
    size = sizes.pop() if len(sizes) == 1 and len(x) > 1 else 1.0
    terms = []
    for powers, number in x.items():
        rest = [(b, n - common.get(b, 0)) for b, n in powers if n != common.get(b, 0)]
        terms.append(f.multiply(f.Number(number / size), _product(rest)))
    front = _product(list(common.items()))
    whole = f.multiply(f.Number(size), front, f.add(*terms))
    return f.full(whole, shape)
