"""What an argument has to be: looked at in one place, and refused in the same words everywhere.

Each function takes an argument and the name to call it by, gives it back as the plain thing that it
stands for, and otherwise raises a TypeError (another kind of thing) or a ValueError (the right
kind, out of range). A message says which argument, what was expected, and what came, in at most 200
characters, however large that is.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

LONGEST = 48  # characters of what came
MOST = sys.maxsize  # more things than this no computer has
MOST_LISTED = 10**7
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def shown(x: Any) -> str:
    """What came, in a few words: a number or a text itself, of an array the shape."""
    if isinstance(x, _PLAIN):
        return _short(repr(x) if not isinstance(x, int) or abs(x) < 1 << 128 else "a huge int")
    kind = type(x).__name__
    shape = getattr(x, "shape", None)
    if isinstance(shape, tuple):
        number = f" {x}" if shape == () and isinstance(x, Real) else ""
        return _short(f"{kind}{number}" if number else f"{kind} of shape {tuple(shape)}{_dtype(x)}")
    if isinstance(x, type):
        return _short(f"the type {x.__name__}")
    if isinstance(x, (list, tuple, dict, set, frozenset)):
        return f"{kind} of length {len(x)}"
    return _short(f"{kind} {x}" if isinstance(x, (Real, os.PathLike)) else kind)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _dtype(x: Any) -> str:
    dtype = getattr(x, "dtype", "")
    return "" if dtype == "" or str(dtype) == "float64" else f" and dtype {dtype}"


def wrong_kind(what: str, expected: str, x: Any) -> TypeError:
    """The error for an argument of another kind."""
    kind = f"{type(x).__name__} " if isinstance(x, _PLAIN) else ""
    came = "NoneType" if x is None else f"{kind}{shown(x)}"
    return TypeError(f"{what}: expected {expected}, got {came}")


def out_of_range(what: str, expected: str, x: Any) -> ValueError:
    """The error for an argument of the right kind that is not allowed."""
    return ValueError(f"{what}: expected {expected}, got {shown(x)}")


# --- numbers ------------------------------------------------------------------------------------


def is_integer(x: Any) -> bool:
    """Whether x is an int, or numpy's; True and False are none."""
    return isinstance(x, Integral) and not isinstance(x, bool)


def is_real(x: Any) -> bool:
    """Whether x is a real number; True and False are none."""
    return isinstance(x, Real) and not isinstance(x, bool)


def _no_number(what: str, expected: str, x: Any) -> Exception:
    """A number of another kind, such as 1.5 for an integer, is out of range; the rest no number."""
    make: Any = out_of_range if isinstance(x, Real) else wrong_kind
    error: Exception = make(what, expected, x)
    return error


def integer(x: Any, what: str, least: int | None = None, most: int = MOST) -> int:
    """An integer, perhaps of at least and at most so much."""
    expected = "an integer" if least is None else f"an integer of at least {least}"
    if not is_integer(x):
        raise _no_number(what, expected, x)
    if (least is not None and x < least) or not -MOST <= x <= most:
        raise out_of_range(what, f"{expected} and at most {most}" if x > most else expected, x)
    return int(x)


def count(x: Any, what: str) -> int:
    """How many of something: a positive integer."""
    if not is_integer(x) or not 1 <= x <= MOST:
        raise _no_number(what, "a positive integer", x)
    return int(x)


def real(x: Any, what: str, expected: str = "a real number") -> float:
    """A real number as a float; it may be infinite or nan."""
    if not is_real(x):
        raise wrong_kind(what, expected, x)
    try:
        return float(x)
    except (OverflowError, TypeError):  # an integer beyond all floats; numpy's durations
        raise _no_number(what, expected, x) from None


def _within(x: Any, what: str, expected: str, fits: Callable[[float], bool]) -> float:
    number = real(x, what, expected)
    if not fits(number):
        raise out_of_range(what, expected, x)
    return number


def finite(x: Any, what: str) -> float:
    """A number that is neither infinite nor nan."""
    return _within(x, what, "a finite number", math.isfinite)


def positive(x: Any, what: str) -> float:
    """A number above zero."""
    return _within(x, what, "a positive number", lambda n: 0.0 < n < math.inf)


def at_least_zero(x: Any, what: str) -> float:
    """A number that is not negative."""
    return _within(x, what, "a number that is not negative", lambda n: 0.0 <= n < math.inf)


def fraction(x: Any, what: str, expected: str = "a number in [0, 1)") -> float:
    """A number in [0, 1)."""
    return _within(x, what, expected, lambda n: 0.0 <= n < 1.0)


# --- other plain things -------------------------------------------------------------------------


def flag(x: Any, what: str, expected: str = "True or False") -> bool:
    """True or False, also numpy's."""
    if not isinstance(x, bool) and type(x).__name__ != "bool":
        raise _no_number(what, expected, x)
    return bool(x)


def flag_or_none(x: Any, what: str) -> bool | None:
    """True, False or None."""
    return None if x is None else flag(x, what, "True, False or None")


def text(x: Any, what: str) -> str:
    """A text."""
    if not isinstance(x, str):
        raise wrong_kind(what, "a str", x)
    return x


def choice(x: Any, what: str, options: Collection[Any]) -> Any:
    """One of some texts (and None, where it is among them)."""
    if not (x is None or isinstance(x, str)) or x not in options:
        *most, last = map(repr, options)
        listed = f"{', '.join(most)} or {last}" if most else last
        raise ValueError(f"{what}: expected {listed}, got {shown(x)}")
    return x


def function(x: Any, what: str) -> Any:
    """Something that can be called."""
    if not callable(x):
        raise wrong_kind(what, "a function", x)
    return x


def instance(x: Any, what: str, kind: Any, expected: str) -> Any:
    """One of a kind."""
    if not isinstance(x, kind):
        raise wrong_kind(what, expected, x)
    return x


def mapping(x: Any, what: str, of: str) -> Any:
    """A dict, or what is like one."""
    if not isinstance(x, Mapping):
        raise wrong_kind(what, f"a dict of {of}", x)
    return x


def several(x: Any, what: str, of: str) -> list[Any]:
    """A sequence, or another thing to go through, as a list; a text or a dict is none."""
    if isinstance(x, (str, bytes, Mapping)) or not isinstance(x, Iterable):
        raise wrong_kind(what, f"a list of {of}", x)
    shape = getattr(x, "shape", ())
    size = math.prod(shape) if isinstance(shape, tuple) else 0
    if size > MOST_LISTED or _length(x) > MOST_LISTED:
        raise out_of_range(what, f"a list of {of}", x)
    try:
        return list(x)
    except TypeError:  # an array of no dimensions says that it can be gone through
        raise wrong_kind(what, f"a list of {of}", x) from None


def _length(x: Any) -> int:
    try:
        return len(x)
    except TypeError:
        return 0


def file_path(x: Any, what: str) -> Path:
    """The path of a file or a folder, there or not."""
    if not isinstance(x, (str, os.PathLike)):
        raise wrong_kind(what, "the path of a file", x)
    path = os.fspath(x)
    if not isinstance(path, str):
        raise wrong_kind(what, "a path that is a str", path)
    if not path or "\0" in path:
        raise out_of_range(what, "a path without NUL, that is not empty", path)
    return Path(path)
