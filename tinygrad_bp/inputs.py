"""What is given, as arrays: copies that nobody else can write to, of real numbers alone.

Whatever makes a Tensor, meets one, or is an argument of an operation comes through here. What would
silently lose something is refused: a history, a mask, an imaginary part, a gradient of another
library's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tinygrad_bp import arrays
from tinygrad_bp.arguments import shown
from tinygrad_bp.graph import Node

Array = NDArray[Any]

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
DEEPEST = 64  # axes that numpy can have
_IMMUTABLE = {int, bool, float, str, type(None), slice}


def as_array(x: Any, what: str, dtype: DTypeLike | None = None) -> Array:
    """A private copy of `x` as float32 or float64; integers are promoted to float64.

    Raises:
        TypeError: x is not made of real numbers, or dtype is not float32 or float64.
    """
    if type(x) is np.ndarray and x.dtype in DTYPES and (dtype is None or dtype is x.dtype):
        try:
            return x.copy()  # as most are
        except MemoryError:
            raise MemoryError(f"{what}: no memory to copy {shown(x)}") from None
    if isinstance(x, Node):
        raise TypeError(f"{what}: expected numbers, got a {type(x).__name__}; use its .data")
    node = _node_in(x, what) if isinstance(x, (list, tuple)) else None
    if node is not None:
        raise TypeError(
            f"{what}: expected numbers, got a {type(node).__name__} in a {type(x).__name__}; use "
            "tb.stack(...) to join Tensors, and tb.values(...) for an array of Values"
        )
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{what}: a masked array would lose its mask; fill it first, got {shown(x)}"
        )
    array = copied(x, what)
    kind = array.dtype.kind
    if kind in "iu":
        array = array.astype(np.float64)
    elif kind != "f" or array.dtype.newbyteorder("=") not in DTYPES:
        hint = ""
        if kind == "O":
            hint = "; for an array of Values use tb.values(...) or tb.stack(...) on Tensors"
        raise TypeError(
            f"{what}: expected float32, float64 or integers, got {_name_of(x, array)}{hint}"
        )
    target = array.dtype.newbyteorder("=") if dtype is None else arrays.dtype_of(dtype)
    return array.astype(target, order="C", copy=False)


def copied(x: Any, what: str) -> Array:
    """What numpy makes of x, as a new array."""
    if isinstance(x, np.ndarray) and x.dtype.kind not in "iuf":
        return x  # refused in any case; a view of another's memory may be too large to copy
    if getattr(x, "requires_grad", False) is True:
        raise TypeError(
            f"{what}: expected numbers, got {shown(x)} with a gradient of its own, which would be "
            "lost: pass .detach().numpy()"
        )
    try:
        if is_foreign(x):
            x = np.asarray(x)  # without `copy`, which PyTorch's does not know
        return np.array(x)
    except MemoryError:
        raise MemoryError(f"{what}: no memory to copy {shown(x)}") from None
    except Exception as error:  # whatever an object of another library may raise
        if not isinstance(x, (list, tuple)):
            raise TypeError(f"{what}: expected numbers, got {shown(x)}: {error!s:.100}") from None
        raise ValueError(
            f"{what}: expected numbers, in lists of one shape, got {shown(x)}"
        ) from None


def _node_in(x: Sequence[Any], what: str, depth: int = 0) -> Node | None:
    """The first node in nested lists: numpy would take its number and lose its history."""
    if depth > DEEPEST:
        raise ValueError(f"{what}: expected lists at most {DEEPEST} deep, got {shown(x)}")
    for element in x:
        nested = isinstance(element, (list, tuple))
        node = _node_in(element, what, depth + 1) if nested else element
        if isinstance(node, Node):
            return node
    return None


def _name_of(x: Any, array: Array) -> str:
    kind = "" if isinstance(x, np.ndarray) else f"{type(x).__name__} that makes "
    return type(x).__name__ if array.ndim == 0 else f"{kind}an array of {array.dtype}"


def is_foreign(x: Any) -> bool:
    """Whether x is an array of another library."""
    ours = hasattr(type(x), "_interpret") or isinstance(x, (np.ndarray, np.generic))
    return hasattr(type(x), "__array__") and not ours


def frozen(parameter: Any) -> Any:
    """An argument that nobody else can change: arrays in it are copied."""
    if type(parameter) in _IMMUTABLE:
        return parameter
    if isinstance(parameter, np.ndarray):
        return parameter.copy()
    if isinstance(parameter, (list, tuple)):
        return type(parameter)(frozen(p) for p in parameter)
    if isinstance(parameter, Node):
        raise TypeError(f"expected plain numbers, got a {type(parameter).__name__}; use its .data")
    return copied(parameter, "argument") if is_foreign(parameter) else parameter


def typed(data: list[Any], conditions: Sequence[bool]) -> list[Any]:
    """Numbers in the dtype of the arrays they meet, so that a float32 network stays one.

    That of a condition says nothing.
    """
    dtype = None
    for d, is_condition in zip(data, conditions, strict=True):
        if type(d) is not float and d.dtype.kind == "f" and not is_condition:
            if d.dtype == np.float64:
                return data
            dtype = d.dtype
    with np.errstate(all="ignore"):
        return [dtype.type(d) if dtype and type(d) is float else d for d in data]
