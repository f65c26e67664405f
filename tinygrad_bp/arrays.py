"""Functions of numpy arrays: the namespace in which the rules compute arrays.

Mostly numpy's own, under numpy's names. Added are the error function, which numpy lacks, the
product of the chain rule, and the two directions of indexing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy import (
    absolute,
    arccos,
    arcsin,
    arctan,
    arctan2,
    concatenate,
    cos,
    cosh,
    cumsum,
    divide,
    einsum,
    exp,
    expand_dims,
    expm1,
    flip,
    hypot,
    log,
    log1p,
    logaddexp,
    maximum,
    minimum,
    pad,
    sin,
    sinh,
    sqrt,
    squeeze,
    stack,
    take,
    take_along_axis,
    tan,
    tanh,
    tril,
    triu,
    where,
)
from numpy.polynomial.chebyshev import chebval
from numpy.typing import NDArray

from tinygrad_bp.arguments import out_of_range, wrong_kind

__all__ = [
    "absolute",
    "arccos",
    "arcsin",
    "arctan",
    "arctan2",
    "astype",
    "azmul",
    "broadcast_to",
    "concatenate",
    "cos",
    "cosh",
    "cumsum",
    "detached",
    "divide",
    "einsum",
    "erf",
    "erfc",
    "exp",
    "expand_dims",
    "expm1",
    "flip",
    "getitem",
    "hypot",
    "log",
    "log1p",
    "logaddexp",
    "matmul",
    "max",
    "maximum",
    "min",
    "minimum",
    "pad",
    "power",
    "prod",
    "reshape",
    "scatter",
    "sin",
    "sinh",
    "sqrt",
    "squeeze",
    "stack",
    "sum",
    "take",
    "take_along_axis",
    "tan",
    "tanh",
    "transpose",
    "tril",
    "triu",
    "where",
]

Array = NDArray[Any]
Axis = Any  # int, tuple of int, or None

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def dtype_of(dtype: Any, what: str = "dtype") -> np.dtype[Any]:
    """float32 or float64, by any of its names.

    Raises:
        TypeError: it is another one, or none.
    """
    if dtype is float or isinstance(dtype, (str, np.dtype)) or _is_scalar_type(dtype):
        try:
            found: np.dtype[Any] = np.dtype(dtype)
        except (TypeError, ValueError):
            raise out_of_range(what, "float32 or float64", dtype) from None
        if found in DTYPES:
            return found
        raise TypeError(f"{what}: expected float32 or float64, got {found}")
    raise wrong_kind(what, "float32 or float64", dtype)


def integers(x: Any, what: str) -> Array:
    """An array of integers.

    Raises:
        TypeError: it is made of something else.
    """
    try:
        array = np.asarray(x)
    except Exception:  # ragged lists, and whatever an object of another library may raise
        raise wrong_kind(what, "integers", x) from None
    if array.dtype.kind not in "iu" or isinstance(x, np.ma.MaskedArray):
        raise wrong_kind(what, "integers", x)
    return array


def _is_scalar_type(x: Any) -> bool:
    return isinstance(x, type) and issubclass(x, (np.generic, int, complex))


# numpy's functions of these names add a microsecond of Python to what their ufuncs do.


def sum(x: Any, axis: Axis = None, keepdims: Any = False) -> Any:
    return np.add.reduce(x, axis=axis, keepdims=keepdims)


def prod(x: Any, axis: Axis = None, keepdims: Any = False) -> Any:
    return np.multiply.reduce(x, axis=axis, keepdims=keepdims)


def max(x: Any, axis: Axis = None, keepdims: Any = False) -> Any:
    return np.maximum.reduce(x, axis=axis, keepdims=keepdims)


def min(x: Any, axis: Axis = None, keepdims: Any = False) -> Any:
    return np.minimum.reduce(x, axis=axis, keepdims=keepdims)


def power(x: Any, y: Any) -> Any:
    result = np.power(x, y)
    if y != 0.5 if type(y) is float else not np.equal(y, 0.5).any():
        return result
    # Where the exponent is the same all along, numpy takes the square root: nan at -inf, and -0
    # at -0. Elsewhere, as in C (C99, annex F.9.4.4), these are inf and 0.
    half = np.where(np.equal(x, -np.inf), np.inf, result + 0.0)
    return np.where(np.equal(y, 0.5), half, result)


def reshape(x: Array, shape: Any) -> Array:
    return x.reshape(shape)


def transpose(x: Array, axes: Sequence[int] | None = None) -> Array:
    return x.transpose(axes)


def matmul(x: Array, y: Array) -> Any:
    # Of two matrices, numpy's `dot` starts half a microsecond sooner than its `matmul`; and of a
    # column and a row it makes the product five times as fast.
    return x.dot(y) if x.ndim == y.ndim == 2 else np.matmul(x, y)


def broadcast_to(x: Array, shape: tuple[int, ...]) -> Array:
    # Filled, for small arrays: numpy's view costs two microseconds to make, and slows its readers.
    if math.prod(shape) > 4096 or x.ndim > len(shape):  # the latter is refused there
        return np.broadcast_to(x, shape)
    full = np.empty(shape, x.dtype)
    full[...] = x
    return full


def azmul(g: Any, d: Any) -> Any:
    """The product `g * d`, where zero times anything is zero."""
    product = g * d
    # The sum of squares is nan exactly if an element is: half the price of looking at each.
    total = np.vdot(product, product)
    if total == total:
        return product
    return np.where(np.equal(g, 0) & np.isnan(product), 0.0, product)  # a finite 0 keeps its sign


def detached(x: Any) -> Any:
    """x as a constant: an array has no history to forget."""
    return x


def astype(x: Any, dtype: Any) -> Any:
    return x.astype(dtype)


def getitem(x: Array, index: Any) -> Any:
    return x[index]


def scatter(g: Any, index: Any, shape: tuple[int, ...]) -> Array:
    """An array of zeros to which `g` is added at `index`; repeated indices accumulate."""
    result = np.zeros(shape, np.asarray(g).dtype)
    parts = index if isinstance(index, tuple) else (index,)
    if all(part is None or part is ... or isinstance(part, (int, slice)) for part in parts):
        result[index] = g  # a view: no element is met twice
    else:
        np.add.at(result, index, g)
    return result


# Chebyshev coefficients, from interpolation in 50-digit arithmetic: of erf(x)/x on [0, 1] in the
# variable 2x² - 1, and of (x + 1) exp(x²) erfc(x) on [0, ∞) in (x - 2.5)/(x + 2.5).
# Largest relative error met: erf 3.3e-16, erfc 5.2e-16.
_ERF = [
    0.9754769393826541,
    -0.14226120510371365,
    0.010035582187599796,
    -0.0005768764699767485,
    2.741993125219606e-05,
    -1.1043175507344507e-06,
    3.8488755420345036e-08,
    -1.1808582533875466e-09,
    3.2334215826050907e-11,
    -7.991015947004549e-13,
    1.7990725113961456e-14,
    -3.718635487818693e-16,
    7.103599003714241e-18,
]
_ERFC = [
    0.7639912664551598,
    -0.22668588709797102,
    0.022145211846553815,
    0.008064183098648542,
    -0.004034570727013601,
    0.0007364259686819664,
    -8.871925000882748e-06,
    -2.0527358539706786e-05,
    1.8343843159445818e-06,
    6.203520591590429e-07,
    -8.107271887057334e-08,
    -2.429647726362604e-08,
    2.8830270407004687e-09,
    1.1647494383207832e-09,
    -6.929366760316871e-11,
    -6.009609950624446e-11,
    -1.5117995441571183e-12,
    2.934997263089758e-12,
    3.950060682290734e-13,
    -1.1352699541799262e-13,
    -3.695618143653854e-14,
    1.3986980764144386e-15,
    2.4050440334394085e-15,
    2.9749622941365363e-16,
    -9.993929137424307e-17,
    -3.661543994515416e-17,
    -2.602601660233531e-19,
    2.382843614419809e-18,
]


def _erf_inside(x: Array) -> Array:
    """erf for |x| <= 1; other elements are computed as if they were 1."""
    x = np.clip(x, -1.0, 1.0)
    return x * chebval(2.0 * x * x - 1.0, _ERF)


def _erfc_outside(x: Array) -> Array:
    """erfc for x >= 0."""
    x = np.minimum(x, 30.0)  # erfc(30) is 0 in float64; beyond it the map would meet inf/inf
    # exp(-x²) with x² rounded would be off by x² roundings: split off a part whose square is exact.
    high = x.astype(np.float32).astype(np.float64)
    gauss = np.exp(-high * high) * np.exp((high - x) * (high + x))
    return gauss * chebval((x - 2.5) / (x + 2.5), _ERFC) / (x + 1.0)


def erf(x: Any) -> Any:
    """The error function, elementwise, to full precision of the array's dtype."""
    wide = np.asarray(x, np.float64)
    size = np.abs(wide)
    tail = np.copysign(1.0 - _erfc_outside(np.maximum(size, 1.0)), wide)
    return np.where(size <= 1.0, _erf_inside(wide), tail).astype(np.asarray(x).dtype)


def erfc(x: Any) -> Any:
    """1 - erf(x), elementwise, without cancellation for large x."""
    wide = np.asarray(x, np.float64)
    outside = _erfc_outside(np.abs(wide))
    value = np.where(wide > 0.5, outside, 1.0 - _erf_inside(wide))
    return np.where(wide < -1.0, 2.0 - outside, value).astype(np.asarray(x).dtype)
