"""Files, whole: what is written appears complete or not at all, what is read is bounded.

To write, a new file `.name.0.part` beside the target is filled, brought to the disk, and takes the
target's name. It is locked meanwhile. A process that is killed leaves it, without its lock, and the
next that writes the same target removes it: there are never more of them than there are writers.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import stat
import zlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from tinygrad_bp.arguments import file_path

try:
    import fcntl
except ImportError:  # on Windows a file that is open cannot be removed, which does as well
    fcntl = None  # type: ignore[assignment]

Path_ = str | os.PathLike[str]
LONGEST_NAME = 200  # bytes of a name that the temporary file's has in it
# To open a pipe waits for its other end, unless told not to.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_LOOK = _READ | getattr(os, "O_NOFOLLOW", 0)
_MAGIC = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# numpy has Python's parser read the header, which warns of what is almost Python, and may run out
# of memory where brackets are within brackets.
_TOKEN = rb"""[\s,:()\[\]]|'[^'\\\n]*'|"[^"\\\n]*"|\d+\b|True\b|False\b"""
_HEADER = re.compile(rb"\s*\{(?:" + _TOKEN + rb"){,500}\}")

# --- writing -------------------------------------------------------------------------------------


def write_whole(path: Path_, content: bytes) -> None:
    """Write a file, which appears complete or not at all; one that is there is replaced.

    The new one can be read and written by whom the old one could.

    Args:
        path: the file.
        content: all of it.

    Raises:
        ValueError: path is a symbolic link, a folder, a pipe or a device, or its folder is not
            there.
        OSError: it cannot be written.
    """
    path = file_path(path, "path")
    if not path.name:
        raise ValueError(f"{path}: expected the path of a file, got a folder")
    mode = _mode_of(path)
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}")
    with _temporary(path) as (name, file):
        file.write(content)
        file.flush()
        if mode is not None and hasattr(os, "fchmod"):
            os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
        if fcntl is None:
            file.close()  # an open file cannot be given another name there
        os.replace(name, path)
    _sync_folder(path.parent)


def _mode_of(path: Path) -> int | None:
    """Who may do what with a file; None if it is not there."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return None  # the folder is none, which is looked at next
    if stat.S_ISLNK(mode):
        raise ValueError(f"{path}: is a symbolic link; name the file that it leads to")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path}: expected a file, got a folder, a pipe or a device")
    return stat.S_IMODE(mode) & 0o777


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside another, locked; if it keeps its name, it is removed at the end."""
    encoded = os.fsencode(path.name)
    of = path.name if len(encoded) <= LONGEST_NAME else f"{zlib.crc32(encoded):08x}"
    for k in count():
        name = path.with_name(f".{of}.{k}.part")
        _remove_left(name)
        try:
            file = open(name, "xb", opener=lambda p, _: os.open(p, _CREATE, 0o666))  # noqa: SIM115
        except FileExistsError:
            continue  # somebody writes the same target now
        with file:
            if not _lock(file, wait=True) or not _has_name(file, name):
                continue  # somebody took it for one that was left, before it was locked
            try:
                yield name, file
            finally:
                if _has_name(file, name):
                    name.unlink()
        return


def _remove_left(name: Path) -> None:
    """Remove a temporary file that nobody writes any more."""
    try:
        handle = os.open(name, _LOOK)
    except OSError:  # it is not there, or not a file
        return
    with open(handle, "rb") as file:
        if _lock(file, wait=False) and _has_name(file, name):
            with contextlib.suppress(OSError):
                name.unlink()


def _lock(file: BinaryIO, wait: bool) -> bool:
    """Lock a file. True for those who hold the lock, and where there are none for writers alone."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # another holds it; or the file system has no locks
        return wait
    return True


def _has_name(file: BinaryIO, name: Path) -> bool:
    """Whether a file is still the one of its name."""
    if file.closed:
        return name.exists()
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(name))
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    """Bring the new name to the disk as well, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# --- reading -------------------------------------------------------------------------------------


def open_file(path: Path_) -> BinaryIO:
    """Open a file to be read, which has to be one: a pipe or a device might never end.

    Raises:
        ValueError: it is a folder, a pipe or a device.
        OSError: it cannot be read.
    """
    try:
        handle = os.open(path, _READ)
    except PermissionError:
        if os.path.isdir(path):  # as Windows says it
            raise _no_file(path) from None
        raise
    except ValueError as error:  # no name can have a zero in it
        raise OSError(0, str(error)) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _no_file(path)
    return open(handle, "rb")


def _no_file(path: Path_) -> ValueError:
    return ValueError(f"{path}: expected a file, got a folder, a pipe or a device")


def read_whole(path: Path_, most: int) -> bytes:
    """All bytes of a file.

    Args:
        path: the file.
        most: how many there may be.

    Raises:
        ValueError: it is a folder, a pipe or a device; it is longer, or changes meanwhile.
        OSError: it cannot be read.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"{path}: has {size:,} bytes; at most {most:,} are read")
        content = file.read(size + 1)
    if len(content) != size:
        raise ValueError(f"{path}: changed while it was read")
    return content


def read_some(file: Any, most: int) -> bytes:
    """The rest of an open file, or so many bytes of it: no more memory is taken than there are.

    (`file.read(most)` takes as much as it is asked for, before it looks.)
    """
    parts = []
    while most and (part := file.read(min(most, 2**16))):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def array_of(data: bytes) -> NDArray[Any]:
    """An array in numpy's format (`.npy`), whose header must agree with how much there is.

    Nothing is allocated that is not there, and nothing unpickled.

    Raises:
        ValueError: it is none, or one of Python objects.
    """
    file = io.BytesIO(data)
    version = npy.read_magic(file)
    if version not in _MAGIC:
        raise ValueError(f"expected version 1.0 or 2.0 of numpy's format, got {version}")
    if not _HEADER.match(data[file.tell() + 2 * version[0] :]):
        raise ValueError("the header is not one of numpy's format")
    shape, columns_first, dtype = _MAGIC[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    start = file.tell()
    size = math.prod(shape) * dtype.itemsize
    if len(shape) > 32 or min(shape, default=0) < 0 or len(data) - start != size:
        there = len(data) - start
        raise ValueError(f"its shape {str(shape)[:60]} does not fit its {there} bytes")
    flat = np.frombuffer(data, dtype, math.prod(shape), offset=start).copy()
    if dtype.kind == "b":
        flat = flat.view(np.uint8) != 0  # any other bit would make a truth value of its own
    return flat.reshape(shape, order="F" if columns_first else "C")


def shown(x: object, most: int = 60) -> str:
    """Text from a file as it may stand in a message: short, and without control characters."""
    text = str(x)
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return "".join(c if c.isprintable() else "�" for c in text)
