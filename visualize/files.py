"""Pictures as files: written whole, and through a link to where it leads."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from tinygrad_bp.files import write_whole


def write_bytes(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write a file, all of it or nothing.

    Returns:
        The path, as it was given.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it is a folder, a pipe or a device.
        OSError: the file cannot be written.
    """
    given = Path(path)
    try:
        target = given.resolve()
    except RuntimeError:  # as some versions of Python say it
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(given)) from None
    if not target.parent.is_dir():
        raise FileNotFoundError(f"save: there is no directory {str(given.parent)!r}")
    write_whole(target, content)
    return given


def write_text(path: str | os.PathLike[str], content: str) -> Path:
    """The same of a text, in UTF-8 with the line ends that it has."""
    return write_bytes(path, content.encode())
