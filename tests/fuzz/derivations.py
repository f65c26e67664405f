"""Every elementwise operation a second time, from the books: its value and its derivatives.

Nothing here comes from the package. `VALUES[name](*operands)` is the operation by Python's `math`,
with infinities and nan where `math` raises. `PARTIALS[name](*operands, z)`, with z the operation's
result, gives `(d, a)` per operand: the derivative, and its size for the purpose of rounding: an
honest computation of d in floats is within a few `EPS * a`. It is |d| times the number of roundings
that are magnified, or the sum of the magnitudes of what d is the sum of.

A derivative that may underflow has a size of at least `FLOOR`: below the smallest normal number no
digit is asked for. What is exact (a choice, a factor) has its own size, also if it is 0.

Conventions, at kinks and at infinity, are those that the package documents: x**0 has derivative 0,
|x|, relu and the likes are given their derivatives at the kink, ties share equally, 0/0 is nan.
Derivatives: Abramowitz & Stegun, chapters 4 and 7.
"""

from __future__ import annotations

import cmath
import math
import sys
from collections.abc import Callable
from math import copysign, fabs, inf, isfinite, nan

EPS = sys.float_info.epsilon
TINY = sys.float_info.min
ROUNDINGS = 8  # that a derivative of size a may be wrong by, in EPS * a
FLOOR = TINY / (ROUNDINGS * EPS)

Pairs = tuple[float, ...]  # d, a, d, a, ...: flat, since there are millions

# --- arithmetic without exceptions --------------------------------------------------------------


def quotient(x: float, y: float) -> float:
    try:
        return x / y
    except ZeroDivisionError:
        return nan if x == 0 or x != x else copysign(inf, x) * copysign(1.0, y)


def exp(x: float) -> float:
    return inf if x > 709.782712893384 else math.exp(x)


def _or(function: Callable[[float], float], otherwise: Callable[[float], float]) -> Callable:
    def total(x: float) -> float:
        try:
            return function(x)
        except (ValueError, OverflowError):
            return otherwise(x)

    return total


def _nan(x: float) -> float:
    return nan


def _inf(x: float) -> float:
    return inf


def _signed_inf(x: float) -> float:
    return copysign(inf, x)


log = _or(math.log, lambda x: -inf if x == 0 else nan)
root = _or(math.sqrt, _nan)
sin, cos, tan = _or(math.sin, _nan), _or(math.cos, _nan), _or(math.tan, _nan)
sinh, cosh = _or(math.sinh, _signed_inf), _or(math.cosh, _inf)
expm1 = _or(math.expm1, _inf)


def power(x: float, y: float) -> float:
    if x < 0 and isfinite(x) and isfinite(y) and y % 1 != 0:
        return nan
    try:
        z = x**y
    except OverflowError:
        z = inf if x > 0 or math.fmod(y, 2) == 0 else -inf
    except ZeroDivisionError:
        return copysign(inf, x) if math.fmod(y, 2) in (1, -1) else inf
    return nan if isinstance(z, complex) else z


def falling(x: float) -> float:
    """1 / (1 + e^x), with all digits in both tails."""
    if x > 0:
        e = math.exp(-x)
        return e / (1.0 + e)
    return 1.0 / (1.0 + math.exp(x)) if x == x else nan


def softplus(x: float) -> float:
    if x != x:
        return nan
    return (x if x > 0 else 0.0) + math.log1p(math.exp(-fabs(x)))


def logaddexp(x: float, y: float) -> float:
    if x != x or y != y:
        return nan
    if x == y:
        return x + math.log(2)
    top, gap = (x, x - y) if x > y else (y, y - x)
    return top + math.log1p(math.exp(-gap))


def larger(x: float, y: float) -> float:
    return nan if x != x or y != y else x if x > y else y


def smaller(x: float, y: float) -> float:
    return nan if x != x or y != y else x if x < y else y


VALUES: dict[str, Callable[..., float]] = {
    "absolute": fabs,
    "add": lambda x, y: x + y,
    "arccos": _or(math.acos, _nan),
    "arcsin": _or(math.asin, _nan),
    "arctan": math.atan,
    "arctan2": math.atan2,
    "azmul": lambda g, d: g * d if g or isfinite(d) else 0.0,
    "clip": lambda x, low, high: smaller(larger(x, low), high),
    "cos": cos,
    "cosh": cosh,
    "divide": quotient,
    "elu": lambda x, alpha: x if x > 0 else alpha * math.expm1(x),
    "erf": math.erf,
    "erfc": math.erfc,
    "exp": exp,
    "expm1": expm1,
    "gelu": lambda x: x * (0.5 * math.erfc(-x / math.sqrt(2))),
    "hypot": math.hypot,
    "leaky_relu": lambda x, slope: x if x > 0 else slope * x,
    "log": log,
    "log1p": _or(math.log1p, lambda x: -inf if x == -1 else nan),
    "log_sigmoid": lambda x: -softplus(-x),
    "logaddexp": logaddexp,
    "maximum": larger,
    "minimum": smaller,
    "multiply": lambda x, y: x * y,
    "negative": lambda x: -x,
    "positive": lambda x: x,
    "power": power,
    "relu": lambda x: larger(x, 0.0),
    "sigmoid": lambda x: falling(-x),
    "silu": lambda x: x * falling(-x),
    "sin": sin,
    "sinh": sinh,
    "softplus": softplus,
    "sqrt": root,
    "square": lambda x: x * x,
    "subtract": lambda x, y: x - y,
    "tan": tan,
    "tanh": math.tanh,
    "where": lambda condition, x, y: x if condition else y,
}

# Where rounding within an operation is magnified: by what size the result's is to be measured.
SIZES: dict[str, Callable[..., float]] = {
    "gelu": lambda x: fabs(x * math.erfc(-x / math.sqrt(2))) * (1 + x * x),
    "logaddexp": lambda x, y: max(fabs(x), fabs(y)) + 1,
}

# --- derivatives --------------------------------------------------------------------------------


def _own(d: float) -> Pairs:
    return d, fabs(d) + FLOOR


def _divide(x: float, y: float, z: float) -> Pairs:
    by_y = -x / (y * y) if 1e-150 < fabs(y) < 1e150 else -quotient(quotient(x, y), y)
    return (*_own(quotient(1.0, y)), *_own(by_y))


def _power(x: float, y: float, z: float) -> Pairs:
    if y == 0:
        by_x = 0.0
    elif 1e-290 < fabs(z) < 1e290 and 1e-290 < fabs(x) < 1e290 and fabs(y) < 2**53:
        by_x = z / x * y
    else:  # from 2**53 on all floats are even, and y - 1 is rounded to one: documented at the rule
        by_x = y * power(x, y - 1)
    by_y = 0.0 if z == 0 or (x == 0 and y >= 0) else z * log(x)
    steep = 1 + min(fabs(log(fabs(x))), 745.0) * (1 + fabs(y)) / 8 if x == x else 1.0
    return by_x, fabs(by_x) * steep + (FLOOR if y != 0 else 0) if by_x else 0.0, *_own(by_y)


def _sign(x: float) -> float:
    return 1.0 if x > 0 else -1.0 if x < 0 else x * 0.0


def _hypot(x: float, y: float, z: float) -> Pairs:
    top = max(fabs(x), fabs(y))
    if not 0 < top < inf:
        return (*_own(quotient(x, z)), *_own(quotient(y, z)))
    u, v = x / top, y / top
    r = math.sqrt(u * u + v * v)
    # A subnormal z has few digits, and the package divides by it.
    few = 1.0 + (5e-324 / z / EPS if z < TINY else 0.0)
    return u / r, fabs(u / r) * few + FLOOR, v / r, fabs(v / r) * few + FLOOR


def _arctan2(x: float, y: float, z: float) -> Pairs:
    top = max(fabs(x), fabs(y))
    if not 0 < top < inf:
        h = math.hypot(x, y)
        return (*_own(quotient(quotient(y, h), h)), *_own(-quotient(quotient(x, h), h)))
    u, v = x / top, y / top
    r = u * u + v * v
    few = 1.0 + (5e-324 / top / EPS if top < TINY else 0.0)
    by_x, by_y = quotient(v / r, top), -quotient(u / r, top)
    return by_x, fabs(by_x) * few + FLOOR, by_y, fabs(by_y) * few + FLOOR


def _logaddexp(x: float, y: float, z: float) -> Pairs:
    gap = x - y
    by_x, by_y = falling(-gap), falling(gap)
    steep = 1 + min(fabs(gap), 745.0)
    return by_x, by_x * steep + FLOOR, by_y, by_y * steep + FLOOR


def _arcsin(x: float, z: float) -> Pairs:
    return _own(quotient(1.0, root(1.0 - x) * root(1.0 + x)))


def _arctan(x: float, z: float) -> Pairs:
    if fabs(x) <= 1:
        return _own(1.0 / (1.0 + x * x))
    r = 1.0 / x if x == x else nan
    return _own(r * r / (1.0 + r * r))


def _tanh(x: float, z: float) -> Pairs:
    e = math.exp(-2.0 * fabs(x))
    return _own(4.0 * e / ((1.0 + e) * (1.0 + e)))


def _sigmoid(x: float, z: float) -> Pairs:
    e = math.exp(-fabs(x))
    return _own(e / ((1.0 + e) * (1.0 + e)))


def _silu(x: float, z: float) -> Pairs:
    s, rest = falling(-x), falling(x)
    return s * (1.0 + x * rest), s * (1.0 + fabs(x) * rest) + FLOOR


def _leaky_relu(x: float, slope: float, z: float) -> Pairs:
    return (1.0, 1.0, 0.0, 0.0) if x > 0 else (slope, fabs(slope), x, fabs(x))


def _elu(x: float, alpha: float, z: float) -> Pairs:
    if x > 0:
        return 1.0, 1.0, 0.0, 0.0
    return (*_own(alpha * math.exp(x)), *_own(math.expm1(x)))


def _gelu(x: float, z: float) -> Pairs:
    phi = math.exp(-(x * x) / 2) / math.sqrt(2 * math.pi)
    far = math.erfc(fabs(x) / math.sqrt(2)) / 2
    below = 1 - far if x > 0 else far
    steep = 1 + min(x * x, 1500.0)
    return below + x * phi, (below + fabs(x) * phi) * steep + FLOOR


def _bell(sign: float) -> Callable[..., Pairs]:
    def partial(x: float, z: float) -> Pairs:
        d = sign * 2 * math.exp(-x * x) / math.sqrt(math.pi)
        return d, fabs(d) * (1 + min(x * x, 750.0)) + FLOOR

    return partial


def _maximum(x: float, y: float, z: float) -> Pairs:
    return (1, 1, 0, 0) if x > y else (0, 0, 1, 1) if x < y else _tie(x, y)


def _minimum(x: float, y: float, z: float) -> Pairs:
    return (1, 1, 0, 0) if x < y else (0, 0, 1, 1) if x > y else _tie(x, y)


def _tie(x: float, y: float) -> Pairs:
    return (0.5, 0.5, 0.5, 0.5) if x == y else (0, 0, 0, 0)


def _clip(x: float, low: float, high: float, z: float) -> Pairs:
    by_x, by_low = float(low <= x <= high), float(x < low <= high)
    by_high = float(x > high or low > high)
    return by_x, by_x, by_low, by_low, by_high, by_high


def _where(condition: bool, x: float, y: float, z: float) -> Pairs:
    return (0, 0, 1, 1, 0, 0) if condition else (0, 0, 0, 0, 1, 1)


PARTIALS: dict[str, Callable[..., Pairs]] = {
    "absolute": lambda x, z: (_sign(x), 1.0),
    "add": lambda x, y, z: (1.0, 1.0, 1.0, 1.0),
    "arccos": lambda x, z: (-_arcsin(x, z)[0], _arcsin(x, z)[1]),
    "arcsin": _arcsin,
    "arctan": _arctan,
    "arctan2": _arctan2,
    "azmul": lambda g, d, z: (d, fabs(d), g, fabs(g)),
    "clip": _clip,
    "cos": lambda x, z: _own(-sin(x)),
    "cosh": lambda x, z: _own(sinh(x)),
    "divide": _divide,
    "elu": _elu,
    "erf": _bell(1.0),
    "erfc": _bell(-1.0),
    "exp": lambda x, z: _own(exp(x)),
    "expm1": lambda x, z: _own(exp(x)),
    "gelu": _gelu,
    "hypot": _hypot,
    "leaky_relu": _leaky_relu,
    "log": lambda x, z: _own(quotient(1.0, x)),
    "log1p": lambda x, z: _own(quotient(1.0, 1.0 + x)),
    "log_sigmoid": lambda x, z: _own(falling(x)),
    "logaddexp": _logaddexp,
    "maximum": _maximum,
    "minimum": _minimum,
    "multiply": lambda x, y, z: (y, fabs(y), x, fabs(x)),
    "negative": lambda x, z: (-1.0, 1.0),
    "positive": lambda x, z: (1.0, 1.0),
    "power": _power,
    "relu": lambda x, z: (1.0, 1.0) if x > 0 else (0.0, 0.0),
    "sigmoid": _sigmoid,
    "silu": _silu,
    "sin": lambda x, z: _own(cos(x)),
    "sinh": lambda x, z: _own(cosh(x)),
    "softplus": lambda x, z: _own(falling(-x)),
    "sqrt": lambda x, z: _own(quotient(0.5, root(x))),
    "square": lambda x, z: (x + x, fabs(x + x)),
    "subtract": lambda x, y, z: (1.0, 1.0, -1.0, 1.0),
    "tan": lambda x, z: _own(1.0 / cos(x) ** 2),
    "tanh": _tanh,
    "where": _where,
}

# --- by a complex step --------------------------------------------------------------------------

# Functions of a complex number, for a derivative without a formula: the imaginary part of
# f(x + ih) / h (Squire & Trapp 1998). What cmath has no function for is not here.
COMPLEX: dict[str, Callable[..., complex]] = {
    "add": lambda x, y: x + y,
    "arccos": cmath.acos,
    "arcsin": cmath.asin,
    "arctan": cmath.atan,
    "azmul": lambda g, d: g * d,
    "cos": cmath.cos,
    "cosh": cmath.cosh,
    "divide": lambda x, y: x / y,
    "exp": cmath.exp,
    "expm1": lambda x: cmath.exp(x) - 1,
    "log": cmath.log,
    "log1p": lambda x: cmath.log(1 + x),
    "log_sigmoid": lambda x: -cmath.log(1 + cmath.exp(-x)),
    "logaddexp": lambda x, y: cmath.log(cmath.exp(x) + cmath.exp(y)),
    "multiply": lambda x, y: x * y,
    "negative": lambda x: -x,
    "positive": lambda x: x,
    "power": lambda x, y: cmath.exp(y * cmath.log(x)),
    "sigmoid": lambda x: 1 / (1 + cmath.exp(-x)),
    "silu": lambda x: x / (1 + cmath.exp(-x)),
    "sin": cmath.sin,
    "sinh": cmath.sinh,
    "softplus": lambda x: cmath.log(1 + cmath.exp(x)),
    "sqrt": cmath.sqrt,
    "square": lambda x: x * x,
    "subtract": lambda x, y: x - y,
    "tan": cmath.tan,
    "tanh": cmath.tanh,
}
POSITIVE = {"log", "sqrt", "power"}  # the first operand; elsewhere a branch cut is near
UNIT = {"arcsin", "arccos"}


def complex_step(name: str, operands: tuple[float, ...], which: int) -> float | None:
    """The derivative by one operand; None where the step is not well defined."""
    x = operands[0]
    if any(not 1e-6 < fabs(o) < 30 for o in operands):
        return None
    if (name in POSITIVE and x <= 0) or (name in UNIT and fabs(x) > 0.999):
        return None
    if name == "log1p" and x < -0.999:
        return None
    if (
        name == "power" and fabs(operands[1] * log(x)) > 4
    ):  # whose rounding the exponential magnifies
        return None
    h = 1e-30
    stepped = [complex(o, h if i == which else 0.0) for i, o in enumerate(operands)]
    return COMPLEX[name](*stepped).imag / h
