"""Damaged and hostile files of every kind that is read: refused clearly, or read as good as new.

A program of this kind is the name of a real file, and changes to its bytes, each a name and a seed.
The changed file is read in a folder of its own, while the interpreter reports what is opened,
imported, compiled, run or removed. Then either

- a ValueError names the file and says what is wrong in 200 characters of plain text, and nothing
  was changed; or
- what was read is whole: saved again and read again it is the same, and a program runs.

Either takes less than SECONDS of the processor and, at its peak, less memory than `bound` says.
"""

import base64
import contextlib
import os
import resource
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from . import Mismatch
from .mutations import CHANGES, MEANT, PLAIN
from .readers import READERS
from .real_files import NAMES, OFTEN, content_of, folder

SECONDS = 2.0  # of the processor, for one file
LIMIT = 2**29  # bytes beyond those of the process that a load may ask of the system
LONGEST = 200  # characters of a message


def bound(kind: str, size: int) -> int:
    """How much memory the load of a file of so many bytes may take: Python's objects of its text,
    and what the readers need anyway. What was compressed may grow as Deflate can make it.
    """  # fmt: skip
    return 2**20 + (1100 if kind in ("npz", "idx.gz") else 64) * size


class Changed(NamedTuple):
    """A file with changes: (what, seed) each."""

    name: str
    changes: tuple[tuple[str, int], ...]


# --- the protocol ---------------------------------------------------------------------------------


def generate(random: Random) -> Changed:
    """A file, and one to three changes of it."""
    name = random.choice(OFTEN)
    known = PLAIN + MEANT.get(name.partition(" ")[0], ())
    count = random.choice((1, 1, 1, 2, 3))
    changes = [(random.choice(known).__name__, random.getrandbits(32)) for _ in range(count)]
    return Changed(name, tuple(changes))


def bytes_of(program: Changed) -> bytes:
    """The changed file."""
    content = content_of(program.name)
    for what, seed in program.changes:
        content = CHANGES[what](content, Random(seed))
    return content


def check(program: Changed, tally: Any) -> None:
    """Read the file, and what was read again."""
    check_content(program.name, bytes_of(program), tally)


def smaller(program: Changed) -> Iterator[Changed]:
    """One change less."""
    for k in range(len(program.changes)):
        yield program._replace(changes=program.changes[:k] + program.changes[k + 1 :])


def code(program: Changed) -> str:
    """Reads the file itself, if it is small, or makes it again."""
    content = bytes_of(program)
    if len(content) > 20_000:
        made = f"files.bytes_of(files.Changed{tuple(program)})"
    else:
        made = f"zlib.decompress(base64.b85decode({base64.b85encode(zlib.compress(content, 9))!r}))"
    return (
        "import base64, collections, zlib\n"
        "from tests.fuzz import files\n"
        f"content = {made}\n"
        f"files.check_content({program.name!r}, content, collections.Counter())\n"
    )


# --- reading --------------------------------------------------------------------------------------


def check_content(name: str, content: bytes, tally: Any) -> None:
    """Read a file of a kind and some content, and look at all that happens."""
    kind, _, which = name.partition(" ")
    reader = READERS[kind](which)
    _warm(name)
    path = reader.path(folder() / "f")
    path.write_bytes(content)
    try:
        before = reader.state()
        error = _watched(reader, path, content, tally)
        if path.read_bytes() != content or sorted(path.parent.iterdir()) != reader.files(path):
            raise Mismatch("the folder has changed")
        tally[f"{kind}: {'refused' if error else 'read'}"] += 1
        if error is not None:
            _check_error(error, path, reader)
            if reader.state() != before:
                raise Mismatch(f"it was refused, but something was changed: {error}")
        else:
            reader.check(path, tally)
    finally:
        for left in path.parent.iterdir():
            left.unlink()


def _check_error(error: Exception, path: Path, reader: Any) -> None:
    message = str(error)
    if type(error) is not ValueError:
        raise Mismatch(f"expected a ValueError, got {error!r:.300}") from error
    if not message.startswith(str(path if reader.names_file else path.parent)):
        raise Mismatch(f"the message does not begin with the file: {message[:300]}")
    text = message.replace(str(path), "").replace(str(path.parent), "")
    if len(text) > LONGEST or not text.isprintable() or "MemoryError" in text or len(text) < 12:
        raise Mismatch(f"the message: {text!r:.600}")


def _watched(reader: Any, path: Path, content: bytes, tally: Any) -> Exception | None:
    """Read it. The error, if there is one; a Mismatch if it does or takes what it must not."""
    traced = zlib.crc32(content) % 16 == 0  # to look at the memory takes as long as the load
    del seen[:]
    start = time.thread_time()
    if traced:
        tracemalloc.start()
    error: Exception | None = None
    try:
        with _less_memory(), _watching(path):
            reader.read(path)
    except Exception as raised:
        error = raised
    finally:
        taken = time.thread_time() - start
        peak = tracemalloc.get_traced_memory()[1] if traced else 0
        if traced:
            tracemalloc.stop()
    worst["seconds"] = max(worst["seconds"], taken * (not traced))
    worst["bytes"] = max(worst["bytes"], peak)
    worst["total"] += taken
    if seen:
        raise Mismatch(f"while it was read: {seen[:3]}") from error
    if taken > SECONDS:
        raise Mismatch(f"it took {taken:.2f} s of the processor")
    if peak > bound(reader.kind, len(content)):
        raise Mismatch(f"{len(content)} bytes took {peak} at the peak")
    return error


worst = {"seconds": 0.0, "bytes": 0.0, "total": 0.0}


@contextlib.contextmanager
def _watching(path: Path) -> Iterator[None]:
    """What the interpreter reports in this thread is noted."""
    watching.path = str(path)
    try:
        yield
    finally:
        watching.path = None


@contextlib.contextmanager
def _less_memory() -> Iterator[None]:
    """The system gives only so much more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    except OSError:  # not Linux
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + LIMIT, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# --- what the interpreter does meanwhile ----------------------------------------------------------

watching = threading.local()
watching.path = None
seen: list[str] = []
HARMLESS = frozenset(
    (
        *("object.__getattr__", "object.__setattr__", "object.__delattr__", "builtins.id"),
        *("sys._getframe", "os.fspath", "array.__new__"),
    )
)


def _noted(event: str, args: tuple[Any, ...]) -> None:
    path = getattr(watching, "path", None)
    if path is None or event in HARMLESS:
        return
    if event == "open":
        file, mode, flags = args
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        known = isinstance(file, int) or str(file).startswith((path, "/proc/self/statm"))
        if known and not writes and (mode is None or set(mode) <= set("rb")):
            return
        beside = str(file).startswith(str(Path(path).parent)) and not writes
        if beside:  # the other files of MNIST
            return
    if event == "compile" and args[1] == "<unknown>":
        return  # ast.literal_eval parses the header of an array; nothing is run
    seen.append(f"{event}{args!r:.200}")


_hooked: list[bool] = []


@cache
def _warm(name: str) -> None:
    """Read the real file once: what is imported late is there then."""
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(_noted)
    kind, _, which = name.partition(" ")
    reader = READERS[kind](which)
    path = reader.path(folder() / "f")
    for content in (content_of(name), b"no such file"):
        path.write_bytes(content)
        with contextlib.suppress(ValueError):
            reader.read(path)
    for other in NAMES:
        content_of(other)
    for left in path.parent.iterdir():
        left.unlink()
