"""Parameters in files: safetensors, from which no code is ever run.

A file is a short header in JSON, with the name, shape and dtype of every array, and then the
numbers. All that the header says is compared with what is expected before a number is read, and
all numbers are there before any is assigned.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.arguments import file_path, wrong_kind
from tinygrad_bp.files import write_whole
from tinygrad_bp.nn.module import Module

Path_ = str | os.PathLike[str]
LONGEST_HEADER = 2**24  # bytes
_SHOWN = 3  # names in a message
_DTYPES = {"F64": "float64", "F32": "float32", "I64": "int64", "BOOL": "bool"}


def save_model(model: Module, path: Path_) -> None:
    """Write a model's parameters to a safetensors file, which appears whole or not at all.

    Args:
        model: the parameters are saved under their names, such as `layers.0.W`.
        path: the file; one that is there already is replaced.

    Raises:
        TypeError: model is not a Module.
        ValueError: it has no parameters, or path is a symbolic link or in no folder.
        OSError: the file cannot be written.
        ImportError: safetensors is not installed; it comes with the extra `data`.
    """
    write_arrays(file_path(path, "path"), _state(model))


def load_model(model: Module, path: Path_) -> None:
    """Set a model's parameters to those of a safetensors file.

    Names, shapes and dtypes have to be the model's; else nothing is set. A file from elsewhere is
    as good as one of `save_model`, if it has them.

    Args:
        model: a model of the same parameters.
        path: the file.

    Raises:
        TypeError: model is not a Module.
        ValueError: there is no such file, it is not a safetensors file, or it does not fit.
        ImportError: safetensors is not installed; it comes with the extra `data`.
    """
    expected, path = _state(model), file_path(path, "path")
    with opened(path) as file:
        compare(path, file, expected)
        arrays = {name: file.get_tensor(name) for name in expected}
    model.load_state_dict(arrays)


def _state(model: Module) -> dict[str, NDArray[Any]]:
    if not isinstance(model, Module):
        raise wrong_kind("model", "a Module", model)
    state = model.state_dict()
    if not state:
        raise ValueError(f"model: {type(model).__name__} has no parameters")
    return state


# --- arrays in files -----------------------------------------------------------------------------


def write_arrays(
    path: Path_, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named arrays, and texts about them, to a safetensors file."""
    save = _safetensors().numpy.save
    if "__metadata__" in arrays:
        raise ValueError(f"{path}: no array may have the name '__metadata__'")
    # In C's order, with 0-d arrays left 0-d.
    in_order = {name: np.array(array, order="C") for name, array in arrays.items()}
    write_whole(path, save(in_order, dict(metadata) if metadata else None))


@contextmanager
def opened(path: Path_) -> Iterator[Any]:
    """A safetensors file whose header has been read and found in order.

    Raises:
        ValueError: there is no such file, or it is not a safetensors file.
    """
    safetensors = _safetensors()
    _check_header(Path(path))
    try:
        file = safetensors.safe_open(path, framework="numpy")
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(
            f"{path}: not a safetensors file, or a damaged one: {str(error)[:80]}"
        ) from None
    with file:
        yield file


def compare(path: Path_, file: Any, expected: Mapping[str, NDArray[Any]]) -> None:
    """Look whether a file holds arrays of these names, shapes and dtypes, and no others.

    Raises:
        ValueError: it does not.
    """
    found = set(file.keys())
    missing, unknown = expected.keys() - found, found - expected.keys()
    if missing or unknown:
        raise ValueError(f"{path}: missing {_names(missing)}, unknown {_names(unknown)}")
    for name, array in expected.items():
        entry = file.get_slice(name)
        shape, dtype = tuple(entry.get_shape()), entry.get_dtype()
        dtype = _DTYPES.get(dtype, dtype)
        if (shape, dtype) != (array.shape, str(array.dtype)):
            raise ValueError(
                f"{path}: {name!r}: expected {array.dtype} of shape {array.shape}, "
                f"got {dtype} of shape {str(shape)[:40]}"
            )


def _check_header(path: Path) -> None:
    """What the library would take long to find out, or say less clearly."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: cannot be read: {reason}") from None
    if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for its other end
        raise ValueError(f"{path}: expected a file, got a folder, a pipe or a device")
    try:
        with open(path, "rb") as file:
            start = file.read(8)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > status.st_size - 8:
        raise ValueError(f"{path}: not a safetensors file, or one cut short")
    if length > LONGEST_HEADER:
        raise ValueError(
            f"{path}: the header has {length:,} bytes; at most {LONGEST_HEADER:,} are read"
        )


def _names(names: Iterable[str]) -> str:
    listed = sorted(names)
    shown = ", ".join(repr(name[:40])[:42] for name in listed[:_SHOWN])
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return shown + more or "nothing"


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError:
        raise ImportError(
            "parameters in files need safetensors: pip install 'tinygrad_bp[data]'"
        ) from None
    return safetensors
