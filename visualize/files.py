"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_bytes(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write next to the place first, then move: nobody ever sees half a file.

    Returns:
        The path, as it was given.

    Raises:
        FileNotFoundError: there is no such directory.
        OSError: the file cannot be written.
    """
    given = Path(path)
    target = given.resolve()  # through a link, to where it leads
    if not target.parent.is_dir():
        raise FileNotFoundError(f"save: there is no directory {str(given.parent)!r}")
    unfinished = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
    return given


def write_text(path: str | os.PathLike[str], content: str) -> Path:
    """The same of a text, in UTF-8 with the line ends that it has."""
    return write_bytes(path, content.encode())
