"""Files that appear whole: a kill at any moment leaves the old one or the new."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from tinygrad_bp.arguments import file_path


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file, which appears complete or not at all; one that is there is replaced.

    The bytes go to a new file beside it, are brought to the disk, and take its name. (A process
    that is killed in between leaves that other file, `.name.….part`; it may be deleted.)

    Args:
        path: the file.
        content: all of it.

    Raises:
        ValueError: path is a symbolic link, or its folder is not there.
        OSError: it cannot be written.
    """
    path = file_path(path, "path")
    if not path.name or path.is_dir():
        raise ValueError(f"{path}: expected the path of a file, got a folder")
    if path.is_symlink():
        raise ValueError(f"{path}: is a symbolic link; name the file that it leads to")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Bring the new name to the disk as well, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
