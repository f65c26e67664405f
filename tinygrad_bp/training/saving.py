"""Parameters in files: safetensors, from which no code is ever run.

A file is a short header in JSON, with the name, shape and dtype of every array, and then the
numbers. It is read whole, once, if it is not longer than what is expected can be: nothing that
happens to the file later, not even its being cut, is seen. All that the header says is compared
with what is expected before a number is taken, and all numbers are there before any is assigned.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.arguments import file_path, wrong_kind
from tinygrad_bp.files import Path_, read_whole, shown, write_whole
from tinygrad_bp.nn.module import Module

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
    file = read_arrays(path, sum(x.nbytes for x in expected.values()))
    model.load_state_dict(file.arrays(expected))


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


class Arrays:
    """A safetensors file that has been read: what is in it, by name.

    Attributes:
        path: the file.
        entries: of each array its dtype, shape and bytes, as the library gives them.
        metadata: texts about them.
    """

    __slots__ = ("entries", "metadata", "path")

    def __init__(self, path: Path_, content: bytes) -> None:
        safetensors = _safetensors()
        _check_header(path, content)
        try:
            self.entries = dict(safetensors.deserialize(content))
        except safetensors.SafetensorError as error:
            raise ValueError(
                f"{path}: not a safetensors file, or a damaged one: {shown(error, 80)}"
            ) from None
        self.path = path
        self.metadata: dict[str, str] = _metadata(content)

    def arrays(self, expected: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The arrays, if there are those of these names, shapes and dtypes, and no others.

        Raises:
            ValueError: it is not so.
        """
        missing, unknown = expected.keys() - self.entries.keys(), self.entries.keys() - expected
        if missing or unknown:
            raise ValueError(f"{self.path}: missing {_names(missing)}, unknown {_names(unknown)}")
        return {name: self._array(name, array) for name, array in expected.items()}

    def _array(self, name: str, like: NDArray[Any]) -> NDArray[Any]:
        entry = self.entries[name]
        shape, dtype = tuple(entry["shape"]), entry["dtype"]
        dtype = _DTYPES.get(dtype, dtype)
        if (shape, dtype) != (like.shape, str(like.dtype)):
            raise ValueError(
                f"{self.path}: {shown(repr(name))}: expected {like.dtype} of shape {like.shape}, "
                f"got {dtype} of shape {str(shape)[:40]}"
            )
        if dtype == "bool":
            truth: NDArray[Any] = np.frombuffer(entry["data"], np.uint8) != 0
            return truth.reshape(shape)
        return np.frombuffer(entry["data"], like.dtype.newbyteorder("<")).reshape(shape)


def read_arrays(path: Path_, nbytes: int) -> Arrays:
    """Read a safetensors file.

    Args:
        path: the file.
        nbytes: how large all numbers in it may be together.

    Raises:
        ValueError: there is no such file, it is longer, or it is not a safetensors file.
    """
    _safetensors()
    try:
        return Arrays(path, read_whole(path, 8 + LONGEST_HEADER + nbytes))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from None


def _check_header(path: Path_, content: bytes) -> None:
    """What the library would take long to find out, or say less clearly."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise ValueError(f"{path}: not a safetensors file, or one cut short")
    if length > LONGEST_HEADER:
        raise ValueError(
            f"{path}: the header has {length:,} bytes; at most {LONGEST_HEADER:,} are read"
        )


def _metadata(content: bytes) -> dict[str, str]:
    """The texts in a header that the library has found in order."""
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    return json.loads(header).get("__metadata__") or {} if b"__metadata__" in header else {}


def _names(names: Iterable[str]) -> str:
    listed = sorted(names)
    named = ", ".join(repr(name[:40])[:42] for name in listed[:_SHOWN])
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return named + more or "nothing"


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError:
        raise ImportError(
            "parameters in files need safetensors: pip install 'tinygrad_bp[data]'"
        ) from None
    return safetensors
