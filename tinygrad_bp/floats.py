"""Elementary functions of Python floats, after IEEE 754.

The namespace in which the rules compute single numbers. The names are numpy's. Where Python's
`math` raises (an overflow, a pole, outside the domain), these return what the standard says: an
infinity or nan, so that a float behaves like an element of an array.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from math import atan as arctan, atan2 as arctan2, erf, erfc, hypot, inf, nan, tanh

__all__ = [
    "absolute",
    "arccos",
    "arcsin",
    "arctan",
    "arctan2",
    "azmul",
    "cos",
    "cosh",
    "divide",
    "erf",
    "erfc",
    "exp",
    "expm1",
    "hypot",
    "log",
    "log1p",
    "logaddexp",
    "maximum",
    "minimum",
    "power",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
    "where",
]

absolute = math.fabs


def exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return inf


def expm1(x: float) -> float:
    try:
        return math.expm1(x)
    except OverflowError:
        return inf


def log(x: float) -> float:
    if x > 0.0:
        return math.log(x)
    return -inf if x == 0.0 else nan


def log1p(x: float) -> float:
    if x > -1.0:
        return math.log1p(x)
    return -inf if x == -1.0 else nan


def sqrt(x: float) -> float:
    return math.sqrt(x) if x >= 0.0 else nan


def _nan_outside(function: Callable[[float], float]) -> Callable[[float], float]:
    def total(x: float) -> float:
        try:
            return function(x)
        except ValueError:
            return nan

    return total


sin = _nan_outside(math.sin)
cos = _nan_outside(math.cos)
tan = _nan_outside(math.tan)
arcsin = _nan_outside(math.asin)
arccos = _nan_outside(math.acos)


def sinh(x: float) -> float:
    try:
        return math.sinh(x)
    except OverflowError:
        return math.copysign(inf, x)


def cosh(x: float) -> float:
    try:
        return math.cosh(x)
    except OverflowError:
        return inf


def divide(x: float, y: float) -> float:
    try:
        return x / y
    except ZeroDivisionError:
        if x == 0.0 or x != x:
            return nan
        return math.copysign(inf, x) * math.copysign(1.0, y)


def power(x: float, y: float) -> float:
    try:
        return math.pow(x, y)
    except OverflowError:
        return -inf if x < 0.0 and y % 2.0 == 1.0 else inf
    except ValueError:  # a pole at 0, or a fractional power of a negative number
        if x != 0.0:
            return nan
        return math.copysign(inf, x) if y % 2.0 == 1.0 else inf


def maximum(x: float, y: float) -> float:
    return x if x > y or x != x else y


def minimum(x: float, y: float) -> float:
    return x if x < y or x != x else y


def logaddexp(x: float, y: float) -> float:
    if x == y:  # also two equal infinities, whose difference is nan
        return x + math.log(2.0)
    return maximum(x, y) + math.log1p(exp(-abs(x - y)))


def where(condition: bool, x: float, y: float) -> float:
    return x if condition else y


def azmul(g: float, d: float) -> float:
    """The product `g * d`, where zero times anything is zero (the absolute zero of CppAD)."""
    return g * d if g != 0.0 or d - d == 0.0 else 0.0
