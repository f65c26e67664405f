"""What nobody should pass, and what an error about it has to say."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import nn

SMALL = 10**7  # no answer to a bad argument may need more elements than that


class Plain:
    """A class that has nothing to do with numbers."""


class Lying:
    """It says it has a shape and a dtype, and has no numbers."""

    shape, dtype, ndim, size = (4, 3), np.dtype(float), 2, 12

    def __len__(self) -> int:
        return 4


def _freed() -> tb.Tensor:
    x = tb.Tensor([[1.0, 2.0, 3.0]] * 4, "x")
    y = x * x
    tb.sum(y).backward(leaves_only=True)
    return y


def _leaked(run: Callable[[Callable[[Any], Any]], Any]) -> Any:
    kept: list[Any] = []

    def f(x: Any) -> Any:
        kept.append(x)
        return tb.sum(x * x)

    run(f)
    return kept[0]


def _recorded() -> Any:
    """What stood for an argument while a function was recorded."""
    return _leaked(lambda f: tb.compile(f)(np.ones((4, 3))))


def _dual() -> Any:
    """What stood for an argument in forward mode."""
    return _leaked(lambda f: tb.jvp(f, np.ones((4, 3)), np.ones((4, 3))))


def _inner() -> Any:
    """What stood for an argument in a derivative that is done."""
    return _leaked(lambda f: tb.grad(f, create_graph=True)(tb.Tensor(np.ones((4, 3)))))


def _closed() -> Any:
    generator = (x for x in range(3))
    generator.close()
    return generator


def _of_objects() -> Any:
    return np.array([Plain(), None], dtype=object)


BAD: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "str": lambda: "nonsense",
    "empty str": lambda: "",
    "NUL": lambda: "a\0b",
    "bytes": lambda: b"nonsense",
    "True": lambda: True,
    "complex": lambda: 1.0 + 2.0j,
    "object": lambda: Plain(),
    "lying": lambda: Lying(),
    "class": lambda: Plain,
    "function": lambda: lambda *args, **kwargs: None,
    "module": lambda: re,
    "generator": lambda: (x for x in "abc"),
    "closed generator": _closed,
    "dict": lambda: {"a": 1.0},
    "set": lambda: {1.0, 2.0},
    "empty list": list,
    "strings": lambda: ["a", "b"],
    "ragged": lambda: [[1.0], [2.0, 3.0]],
    "None in list": lambda: [1.0, None],
    "list of itself": lambda: _circle(),
    "datetime": lambda: datetime(2020, 1, 1),
    "slice": lambda: slice(None, None, "a"),
    "Ellipsis": lambda: ...,
    "-1": lambda: -1,
    "0": lambda: 0,
    "10**30": lambda: 10**30,
    "1.5": lambda: 1.5,
    "-0.5": lambda: -0.5,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "numpy nan": lambda: np.float64("nan"),
    "rank 5": lambda: np.ones((1, 1, 2, 1, 2)),
    "rank 0": lambda: np.array(0.25),
    "length 7": lambda: np.ones(7),
    "empty array": lambda: np.zeros((0, 3)),
    "objects": _of_objects,
    "complex array": lambda: np.ones((4, 3), complex),
    "string array": lambda: np.array([["a"] * 3] * 4),
    "dates": lambda: np.zeros((4, 3), "datetime64[s]"),
    "durations": lambda: np.zeros((4, 3), "timedelta64[s]"),
    "records": lambda: np.zeros(4, [("a", float), ("b", int)]),
    "huge": lambda: np.broadcast_to(0.5, (10**6, 10**6)),
    "huge and long": lambda: np.broadcast_to(0.5, (10**12,)),
    "ints": lambda: np.arange(12).reshape(4, 3) - 20,
    "nan array": lambda: np.full((4, 3), np.nan),
    "masked": lambda: np.ma.masked_array(np.ones((4, 3)), mask=True),
    "freed": _freed,
    "recorded": _recorded,
    "dual": _dual,
    "inner": _inner,
    "Value": lambda: tb.Value(0.5),
    "Tensor": lambda: tb.Tensor(np.ones((2, 5))),
    "Values": lambda: tb.values(np.full((4, 3), 0.5)),
    "Module": lambda: nn.Linear(3, 2, rng=0),
    "directory": lambda: Path("."),
    "nowhere": lambda: Path("nowhere/at/all"),
}


def _torch(requires_grad: bool = False, dtype: str = "float64") -> Any:
    import torch

    return torch.ones(4, 3, dtype=getattr(torch, dtype), requires_grad=requires_grad)


def _jax() -> Any:
    import jax

    return jax.numpy.ones((4, 3))


# Arrays of other libraries: by name, the library and how to make one.
FOREIGN: dict[str, tuple[str, Callable[[], Any]]] = {
    "torch": ("torch", _torch),
    "torch with a gradient": ("torch", lambda: _torch(requires_grad=True)),
    "torch ints": ("torch", lambda: _torch(dtype="int64")),
    "jax": ("jax", _jax),
}


def _circle() -> Any:
    x: list[Any] = [1.0]
    x.append(x)
    return x


def is_leaked(x: Any) -> bool:
    """Whether x stood for an argument of a function, and is of no use outside."""
    return isinstance(x, tb.Tensor) and type(x) is not tb.Tensor


# --- what an error may be -----------------------------------------------------------------------

ERRORS = (TypeError, ValueError)
BESIDES: tuple[type[BaseException], ...] = (
    IndexError,
    KeyError,
    FileNotFoundError,
    IsADirectoryError,
    OSError,
    ImportError,
    FloatingPointError,
    MemoryError,
    RuntimeError,
    NotImplementedError,
)
LONGEST = 200


def complaint(error: BaseException, names: tuple[str, ...], value: Any) -> str:
    """What is wrong with an error's text; empty if nothing is."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if not text:
        return "says nothing"
    if len(text) > LONGEST:
        return f"says too much: {len(text)} characters"
    if not any(re.search(rf"(?<![A-Za-z_]){re.escape(name)}(?![A-Za-z_])", text) for name in names):
        return "does not name the argument"
    if not any(mark in text for mark in marks_of(value)):
        return "does not say what came"
    return ""


def marks_of(value: Any) -> list[str]:
    """Texts by which a reader recognises a value: one is to be found in the error."""
    marks = [type(value).__name__, repr_of(value)[:12]]
    for attribute in ("shape", "dtype", "ndim"):
        mark = getattr(value, attribute, None)
        if mark is not None:
            marks.append(str(mark))
    if isinstance(value, (list, tuple, dict, set)):
        marks += [f"got {len(value)}", f"{len(value)} "]
        for x in parts_of(value):
            marks += [repr_of(x)[:12], type(x).__name__]
    numbers = value.data if type(value) is tb.Tensor else value
    if isinstance(numbers, np.ndarray) and 0 < numbers.size < SMALL and numbers.dtype.kind in "if":
        marks += [f"got {x}" for x in (numbers.min(), numbers.max())]
    if isinstance(value, tb.Tensor):
        marks += [f"got {value.size}"]
    if hasattr(value, "dtype") or isinstance(value, (list, tuple, set, dict)):
        with suppress(Exception):  # those of an element of it
            marks += [type(x).__name__ for x in itertools.islice(iter(value), 3)]
    if type(value).__name__ == "generator":
        marks += ["str", "'a'", "got 3"]  # its first element, or how many there are
    if is_empty(value):
        marks += ["nothing", "none", "empty", "got 0", "got []", "got ()", "length 0"]
    if value is None:
        marks.append("none")
    if inspect.isfunction(value):
        marks.append("NoneType")  # what it returned
    if isinstance(value, tb.Value):
        marks.append("()")  # its shape
    if isinstance(value, tb.Values):
        marks.append("Value")  # one of them
    if is_leaked(value):
        marks += ["quantity", "recording", "Tensor"]
    if isinstance(value, nn.Module):
        marks.append("Module")
    if isinstance(value, Path):
        marks += [str(value), repr(value.name)] if value.name else [str(value)]
    if isinstance(value, str):
        marks += [value] if len(value) > 3 else ["''", "nothing"] if not value else []
    if hasattr(value, "shape"):
        marks += [f"got {n}" for n in value.shape] + ["got ()", str(tuple(value.shape))]
        marks.append(f"shape {value.shape[1:]}")  # of one of its steps
    if isinstance(value, float):
        marks.append(f"{value:g}")
    if isinstance(value, (int, float, list)):
        marks.append("()" if not isinstance(value, list) else "(0,)")
    if isinstance(value, int) and abs(value) > 10**20:
        marks.append("huge int")
    return [mark for mark in marks if mark]


def is_empty(value: Any) -> bool:
    """Whether it holds nothing."""
    if inspect.isgenerator(value):
        return inspect.getgeneratorstate(value) == inspect.GEN_CLOSED
    if isinstance(value, np.ndarray):
        return not value.size
    return isinstance(value, (list, tuple, dict, set)) and not value


def parts_of(value: Any) -> list[Any]:
    """What a container holds, and what that holds."""
    parts = [*value, *(value.values() if isinstance(value, dict) else ())]
    return parts + [x for part in parts if isinstance(part, list) for x in part]


def repr_of(value: Any) -> str:
    try:
        return repr(value) if getattr(value, "size", 0) < SMALL else ""
    except Exception:
        return ""
