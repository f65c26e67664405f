"""Elementary functions compiled by numba: the namespace in which the rules become machine code.

What `floats` says of single numbers holds here too: IEEE 754 at every edge. Most functions are the
C library's. The exponential and its relatives are written out, in arithmetic without a branch, so
that the compiler can compute several elements at once; they are within 4 units in the last place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import extending, njit, types

from tinygrad_bp import floats

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """The function as machine code, made when it is first called.

    Value-preserving: nothing is reordered or contracted; and 1/0 is an infinity, no error.
    """
    return cast(F, njit(error_model="numpy", nogil=True)(function))


def _cast(to: Any, given: Any) -> Any:
    """What reads the bits of a number as one of another type."""

    def typed(typing: Any, x: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], context.get_value_type(to))

        return to(given), build

    return cast(Any, extending.intrinsic)(typed)


_bits = _cast(types.int64, types.float64)
_float = _cast(types.float64, types.int64)

# --- the exponential -----------------------------------------------------------------------------
# exp(x) = 2^k exp(r), |r| <= log(2)/2, after Cody & Waite (1980); exp(r) is its Taylor polynomial,
# whose remainder is below 2^-57.

_SHIFT = 6755399441055744.0  # 1.5 * 2^52: added to a number, it leaves its nearest integer
_LOG2_E = 1.4426950408889634
_LN2_HIGH = 0.6931471803691238  # with 21 zero bits at the end: products with k are exact
_LN2_LOW = 1.9082149292705877e-10
_C = [1.0 / math.factorial(k) for k in range(14)]
_C2, _C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10, _C11, _C12, _C13 = _C[2:]
_SIGN = -(2**63)


@compiled
def _reduced(x: float) -> Any:
    """k, and exp(r) - 1, of a finite x between -746 and 711."""
    shifted = x * _LOG2_E + _SHIFT
    k = _bits(shifted) - _bits(_SHIFT)
    n = shifted - _SHIFT
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    s = r * r
    # Pairs of coefficients (Estrin), a shorter chain than Horner's.
    low = (_C2 + r * _C3) + s * (_C4 + r * _C5)
    middle = (_C6 + r * _C7) + s * (_C8 + r * _C9)
    high = (_C10 + r * _C11) + s * (_C12 + r * _C13)
    t = s * s
    return k, r + s * (low + t * (middle + t * high))


@compiled
def _power_of_two(k: int) -> Any:
    return _float((k + 1023) << 52)


@compiled
def _clamped(x: float, low: float, high: float) -> float:
    y = low if x < low else x
    return high if y > high else y


@compiled
def exp(x: float) -> float:
    k, q = _reduced(_clamped(x, -746.0, 710.0))
    half = k >> 1  # in two steps: 2^k may be out of range where the result is not
    y = (1.0 + q) * _power_of_two(half) * _power_of_two(k - half)
    return x + x if x != x else y


@compiled
def tanh(x: float) -> float:
    size = math.fabs(x)
    k, q = _reduced(2.0 * (20.0 if size > 20.0 else size))  # tanh(20) is 1
    scale = _power_of_two(k)
    e = scale * q + (scale - 1.0)  # exp(2|x|) - 1
    y = e / (e + 2.0)
    y = _float(_bits(y) | (_bits(x) & _SIGN))
    return x if x != x else y


@compiled
def cosh(x: float) -> float:
    size = math.fabs(x)
    k, q = _reduced(711.0 if size > 711.0 else size)
    # exp(|x|) / 2 overflows no sooner than the result.
    half = (1.0 + q) * _power_of_two(k - 2) * 2.0
    y = half + 0.25 / half
    return x if x != x else y


# --- the others ----------------------------------------------------------------------------------


@compiled
def absolute(x: float) -> float:
    return math.fabs(x)


@compiled
def expm1(x: float) -> float:
    return math.expm1(x)


@compiled
def log(x: float) -> float:
    return math.log(x)


@compiled
def log1p(x: float) -> float:
    return math.log1p(x)


@compiled
def sqrt(x: float) -> float:
    return math.sqrt(x)


@compiled
def sin(x: float) -> float:
    return math.sin(x)


@compiled
def cos(x: float) -> float:
    return math.cos(x)


@compiled
def tan(x: float) -> float:
    return math.tan(x)


@compiled
def arcsin(x: float) -> float:
    return math.asin(x)


@compiled
def arccos(x: float) -> float:
    return math.acos(x)


@compiled
def arctan(x: float) -> float:
    return math.atan(x)


@compiled
def arctan2(x: float, y: float) -> float:
    return math.atan2(x, y)


@compiled
def sinh(x: float) -> float:
    return math.sinh(x)


@compiled
def hypot(x: float, y: float) -> float:
    return math.hypot(x, y)


@compiled
def erf(x: float) -> float:
    return math.erf(x)


@compiled
def erfc(x: float) -> float:
    return math.erfc(x)


@compiled
def divide(x: float, y: float) -> float:
    return x / y


@compiled
def power(x: float, y: float) -> float:
    return math.pow(x, y)


@compiled
def logaddexp(x: float, y: float) -> float:
    # The sum may cancel: with the exponential of the C library, it does so as in `floats`.
    if x == y:
        return x + _LOG_2
    return maximum(x, y) + math.log1p(math.exp(-math.fabs(x - y)))


_LOG_2 = math.log(2.0)

# Written without an exception, these can be taken as they are.
maximum = compiled(floats.maximum)
minimum = compiled(floats.minimum)
where = compiled(floats.where)
azmul = compiled(floats.azmul)


@compiled
def detached(x: float) -> float:
    return x
