"""Why an operation failed, in words of its own arguments.

Operations do not look at their arguments beforehand, which would cost time at every call. They try,
and numpy refuses what does not fit, in words about things the caller never saw. Here the arguments
are looked at afterwards, to say which of them it was.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from tinygrad_bp.arguments import (
    flag,
    integer,
    is_integer,
    out_of_range,
    real,
    shown,
    wrong_kind,
)
from tinygrad_bp.array_rules import ARRAY_RULES, ArrayRule
from tinygrad_bp.rules import RULES, Rule

KINDS = (MemoryError, IndexError, TypeError)  # all else becomes a ValueError
LONGEST = 90  # characters of numpy's own words
CALLED = {"contract": "einsum"}  # rules that have another name for the user
NEW_AXIS = ("expand_dims", "stack")


def fail(
    rule: Rule | ArrayRule,
    operands: Sequence[Any],
    parameters: Sequence[Any],
    options: dict[str, Any],
    error: Exception,
) -> NoReturn:
    """Raise the error of an operation that failed: itself, if it tells already which argument.

    Args:
        rule: the operation.
        operands: its operands, as arrays and numbers.
        parameters, options: its further arguments.
        error: what was raised.
    """
    told = _explained(rule, operands, parameters, options, error)
    try:
        if told is error:
            raise error  # with its cause, if it has one
        raise told from None
    finally:
        del error, told  # which hold this frame, and with it the operands


def _explained(
    rule: Rule | ArrayRule,
    operands: Sequence[Any],
    parameters: Sequence[Any],
    options: dict[str, Any],
    error: Exception,
) -> Exception:
    name = CALLED.get(rule.name, rule.name)
    told = str(error).startswith(f"{name}: ") and "Input operand" not in str(error)
    own = RULES.get(rule.name) is rule or ARRAY_RULES.get(rule.name) is rule
    if told or not own or not isinstance(error, _EXPECTED):
        return error  # a rule of the user's fails where its own formula does
    shapes = [np.shape(x) for x in operands]
    named = dict(_named(rule, parameters, options))
    ndim = len(shapes[0]) + _new_axes(rule, named) if shapes else 0
    takes = inspect.signature(rule).parameters
    for name, x in named.items():
        if name not in takes:
            return TypeError(f"{rule.name}: there is no argument {name!r}; got {shown(x)} for it")
        try:
            _check(name, f"{rule.name}: {name}", x, ndim)
        except (TypeError, ValueError) as found:
            return found
    return _of_shapes(rule, shapes, named, error)


def _new_axes(rule: Rule | ArrayRule, named: dict[str, Any]) -> int:
    """How many axes the result has more than an operand, where `axis` is one of the result's."""
    axis = named.get("axis")
    return 0 if rule.name not in NEW_AXIS else len(axis) if isinstance(axis, (tuple, list)) else 1


def of_operand(rule: Rule | ArrayRule, which: int, error: Exception) -> Exception:
    """The error for an operand that is no array of numbers, with the name that it has."""
    several = isinstance(rule, ArrayRule) and not rule.takes_sequence and len(rule.pullbacks) > 1
    prefix, text = f"{rule.name}: ", str(error)
    if not several or not text.startswith(prefix):
        return error
    name = list(inspect.signature(rule).parameters)[which]
    return type(error)(f"{prefix}{name}: {text.removeprefix(prefix)}")


def mismatch(name: str, operands: Sequence[Any]) -> ValueError:
    """The error for operands of an elementwise operation whose shapes do not fit."""
    shapes = " and ".join(str(np.shape(x)) for x in operands)
    return ValueError(f"{name}: of shape {shapes}: they do not broadcast")


_EXPECTED = (TypeError, ValueError, IndexError, MemoryError, OverflowError, RecursionError)


def _named(
    rule: Rule | ArrayRule, parameters: Sequence[Any], options: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    """The further arguments by name."""
    if isinstance(rule, ArrayRule):
        names = list(inspect.signature(rule).parameters)
        names = names[1 if rule.takes_sequence else len(rule.pullbacks) :]
        yield from zip(names, parameters, strict=False)
        yield from options.items()


def _of_shapes(
    rule: Rule | ArrayRule, shapes: Sequence[Any], named: dict[str, Any], error: Exception
) -> Exception:
    """Each argument can be right by itself, and all together do not fit."""
    listed = " and ".join(str(shape) for shape in shapes[:3])
    more = f" and {len(shapes) - 3} more" if len(shapes) > 3 else ""
    given = ", ".join(f"{name}={shown(x)}" for name, x in named.items())
    words = "they do not broadcast" if isinstance(rule, Rule) else _words(error)
    text = f"{rule.name}: of shape {listed}{more}{' with ' if given else ''}{given}: {words}"
    kind: Any = next((kind for kind in KINDS if isinstance(error, kind)), ValueError)
    return kind(text if len(text) <= 200 else f"{text[:199]}…")  # type: ignore[no-any-return]


def _words(error: Exception) -> str:
    words = " ".join(str(error).split())
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}…"


# --- what an argument of a name has to be -------------------------------------------------------


def _check(name: str, what: str, x: Any, ndim: int) -> None:
    """Raise if an argument is not what its name asks for."""
    check = _CHECKS.get(name)
    if check is not None:
        check(x, what, ndim)
    elif hasattr(type(x), "_interpret"):
        raise wrong_kind(what, "plain numbers", x)


def _axis(x: Any, what: str, ndim: int) -> None:
    if x is None:
        return
    axes = x if isinstance(x, (tuple, list)) else (x,)
    if not all(map(is_integer, axes)):
        raise wrong_kind(what, "an int or a tuple of ints", _first(axes, is_integer))
    if not all(-ndim <= axis < ndim for axis in axes):
        given = ", ".join(map(shown, axes[:3]))
        raise np.exceptions.AxisError(f"{what}: expected axes of {ndim} dimensions, got {given}")


def _first(parts: Any, fits: Callable[[Any], bool]) -> Any:
    """The first part that does not fit."""
    return next(part for part in parts if not fits(part))


def _lengths(x: Any, what: str, ndim: int) -> None:
    lengths = x if isinstance(x, (tuple, list)) else (x,)
    if not all(map(is_integer, lengths)):
        raise wrong_kind(what, "an int or a tuple of ints", _first(lengths, is_integer))
    if not all(-(2**62) < length < 2**62 for length in lengths):
        raise out_of_range(what, "lengths that an array can have", x)


def _axes(x: Any, what: str, ndim: int) -> None:
    _axis(x, what, ndim)
    if x is not None and (not isinstance(x, (tuple, list)) or len(x) != ndim):
        raise ValueError(f"{what}: expected every one of {ndim} axes, got {x!s:.40}")


def _indices(x: Any, what: str, ndim: int) -> None:
    if hasattr(type(x), "_interpret"):
        raise wrong_kind(what, "an array of integers", x)
    kind = _kind(x)
    if kind not in "iu":
        raise wrong_kind(what, "an array of integers", x)


def _kind(x: Any) -> str:
    try:
        return np.asarray(x).dtype.kind
    except Exception:  # whatever an object of another library may raise
        return "O"


def _widths(x: Any, what: str, ndim: int) -> None:
    if _kind(x) not in "iu" or np.any(np.asarray(x) < 0):
        raise wrong_kind(what, "an int, a pair, or a pair for each axis, not negative", x)


_CHECKS: dict[str, Callable[[Any, str, int], Any]] = {
    "axis": _axis,
    "axes": _axes,
    "shape": _lengths,
    "keepdims": lambda x, what, ndim: is_integer(x) or flag(x, what),
    "ddof": lambda x, what, ndim: real(x, what),
    "k": lambda x, what, ndim: integer(x, what),
    "indices": _indices,
    "pad_width": _widths,
    "constant_values": lambda x, what, ndim: real(x, what),
}
