"""Independent answers: the operations in 400 digits, and gradients by summing over all paths."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import mpmath
import pytest
from mpmath import mp, mpf

# Enough digits to see the derivative of a function that is within 1e-308 of a constant.
DIGITS = 400
EPS = sys.float_info.epsilon
TINY = sys.float_info.min  # the smallest float of full precision
HUGE = sys.float_info.max


class _Torch:
    """PyTorch, where it is installed; else the test that asks it for something is skipped."""

    def __getattr__(self, name: str) -> Any:
        return getattr(pytest.importorskip("torch", reason="PyTorch is the oracle"), name)


torch = _Torch()

# --- the operations, written a second time ------------------------------------------------------

FORMULAS: dict[str, Callable[..., Any]] = {
    "absolute": abs,
    "add": lambda x, y: x + y,
    "arccos": mpmath.acos,
    "arcsin": mpmath.asin,
    "arctan": mpmath.atan,
    "arctan2": mpmath.atan2,
    "azmul": lambda g, d: g * d,
    "clip": lambda x, low, high: min(max(x, low), high),
    "cos": mpmath.cos,
    "cosh": mpmath.cosh,
    "divide": lambda x, y: x / y,
    "elu": lambda x, alpha: x if x > 0 else alpha * mpmath.expm1(x),
    "erf": mpmath.erf,
    "erfc": mpmath.erfc,
    "exp": mpmath.exp,
    "expm1": mpmath.expm1,
    "gelu": lambda x: x * mpmath.ncdf(x),
    "hypot": lambda x, y: mpmath.sqrt(x * x + y * y),
    "leaky_relu": lambda x, slope: x if x > 0 else slope * x,
    "log": mpmath.log,
    "log1p": mpmath.log1p,
    "log_sigmoid": lambda x: -mpmath.log1p(mpmath.exp(-x)),
    "logaddexp": lambda x, y: mpmath.log(mpmath.exp(x) + mpmath.exp(y)),
    "maximum": max,
    "minimum": min,
    "multiply": lambda x, y: x * y,
    "negative": lambda x: -x,
    "positive": lambda x: x,
    "power": lambda x, y: x**y,
    "relu": lambda x: max(x, mpf(0)),
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "sin": mpmath.sin,
    "sinh": mpmath.sinh,
    "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
    "sqrt": mpmath.sqrt,
    "square": lambda x: x**2,
    "subtract": lambda x, y: x - y,
    "tan": mpmath.tan,
    "tanh": mpmath.tanh,
    "where": lambda condition, x, y: x if condition else y,
}


class Truth(NamedTuple):
    """A number in high precision, and by how many times its operands' rounding is magnified."""

    number: Any
    condition: Any

    def agrees(self, got: float) -> bool:
        """Whether `got` is within 8 roundings of the result and of every operand."""
        if abs(self.number) < TINY:  # underflow may go to zero, and need not be accurate
            return abs(got) <= TINY
        if abs(self.number) > HUGE:
            return got == math.copysign(math.inf, self.number)
        with mp.workdps(DIGITS):
            bound = 8 * EPS * (1 + self.condition) * abs(self.number)
            return math.isfinite(got) and bool(abs(mpf(got) - self.number) <= bound)


def truth(
    name: str, point: tuple[float, ...], by: int | None = None, digits: int = DIGITS
) -> Truth | None:
    """The operation at a point, or its derivative by operand `by`; None outside the domain."""
    formula = FORMULAS[name]
    order = [int(i == by) for i in range(len(point))]
    with mp.workdps(digits):
        x = [mpf(a) for a in point]
        try:
            number = _derivative(formula, x, order)
            condition = mpf(0)
            for i in range(len(x)):
                order[i] += 1
                slope = _derivative(formula, x, order)
                condition += abs(x[i] * slope / number) if number else 0
                order[i] -= 1
        except (ZeroDivisionError, ValueError):
            return None
    if any(isinstance(n, mpmath.mpc) or not mpmath.isfinite(n) for n in (number, condition)):
        return None
    return Truth(number, condition)


def _derivative(formula: Callable[..., Any], x: list[Any], order: list[int]) -> Any:
    return mpmath.diff(formula, tuple(x), tuple(order)) if any(order) else formula(*x)


# --- random programs, and their gradients path by path ------------------------------------------

Program = list[tuple[str, tuple[int, ...]]]
"""Operations with the positions of their operands: first the leaves, then earlier results."""


def run(program: Program, leaves: list[Any], apply: Callable[..., Any]) -> list[Any]:
    """All numbers of a program: the leaves, and the result of every operation."""
    results = list(leaves)
    for name, operands in program:
        results.append(apply(name, *(results[i] for i in operands)))
    return results


def _halves(x: Any, y: Any) -> Any:
    return mpf(1) if x > y else mpf("0.5") if x == y else mpf(0)


# Derivatives by each operand, in closed form and with the conventions at the kinks.
DERIVATIVES: dict[str, tuple[Callable[..., Any] | None, ...]] = {
    "absolute": (mpmath.sign,),
    "add": (lambda x, y: 1, lambda x, y: 1),
    "arctan": (lambda x: 1 / (1 + x * x),),
    "clip": (
        lambda x, low, high: int(low <= x <= high),
        lambda x, low, high: int(x < low <= high),
        lambda x, low, high: int(x > high or low > high),
    ),
    "cos": (lambda x: -mpmath.sin(x),),
    "maximum": (lambda x, y: _halves(x, y), lambda x, y: _halves(y, x)),
    "minimum": (lambda x, y: _halves(y, x), lambda x, y: _halves(x, y)),
    "multiply": (lambda x, y: y, lambda x, y: x),
    "negative": (lambda x: -1,),
    "relu": (lambda x: int(x > 0),),
    "sigmoid": (lambda x: mpmath.sech(x / 2) ** 2 / 4,),
    "sin": (mpmath.cos,),
    "softplus": (lambda x: 1 / (1 + mpmath.exp(-x)),),
    "square": (lambda x: 2 * x,),
    "subtract": (lambda x, y: 1, lambda x, y: -1),
    "tanh": (lambda x: mpmath.sech(x) ** 2,),
    "where": (None, lambda c, x, y: int(bool(c)), lambda c, x, y: int(not c)),
}


def paths(program: Program, data: list[float], leaf: int) -> Iterator[Any]:
    """The product of the local derivatives along every path from the last result to a leaf."""
    first = len(data) - len(program)

    def walk(node: int, product: Any) -> Iterator[Any]:
        if node == leaf:
            yield product
        if node < first:
            return
        name, operands = program[node - first]
        x = [mpf(data[i]) for i in operands]
        for operand, derivative in zip(operands, DERIVATIVES[name], strict=True):
            if derivative is not None:
                yield from walk(operand, product * derivative(*x))

    return walk(len(data) - 1, mpf(1))
