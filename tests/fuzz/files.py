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
import gzip
import importlib.util
import io
import json
import os
import pickle
import resource
import struct
import sys
import tempfile
import threading
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import datasets, nn, optim, replay
from tinygrad_bp.files import array_of
from tinygrad_bp.replay import storage
from tinygrad_bp.training import Callback, fit, loop
from tinygrad_bp.training.checkpoint import FORMAT, read_checkpoint, write_checkpoint

from . import Mismatch

SECONDS = 2.0  # of the processor, for one file
LIMIT = 2**29  # bytes beyond those of the process that a load may ask of the system
LONGEST = 200  # characters of a message
WORK = 10**7  # numbers in a program that is run


def bound(kind: str, size: int) -> int:
    """How much memory the load of a file of so many bytes may take: Python's objects of its text,
    and what the readers need anyway. What was compressed may grow as Deflate can make it.
    """  # fmt: skip
    return 2**20 + (1100 if kind in ("npz", "idx.gz") else 64) * size


class Changed(NamedTuple):
    """A file with changes: (what, seed) each."""

    name: str
    changes: tuple[tuple[str, int], ...]


# --- real files ----------------------------------------------------------------------------------


class Odd(nn.Module):
    """Parameters of every kind."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.single = tb.Value(rng.normal())
        self.empty = tb.Tensor(np.zeros((0, 3)))
        self.narrow = tb.Tensor(rng.normal(size=(2, 3)).astype(np.float32))
        self.parts = {"a/b": tb.Tensor(rng.normal(size=2)), "../c": tb.Tensor(rng.normal(size=1))}


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "linear": lambda seed: nn.Linear(2, 3, rng=seed),
    "mlp": lambda seed: nn.MLP([3, 4, 2], "tanh", rng=seed),
    "odd": Odd,
}
BITS = ("PCG64", "MT19937", "Philox", "SFC64")
DATA = np.random.default_rng(0).normal(size=(20, 3))
TARGETS = (DATA[:, 0] > 0).astype(int)


def fresh_run(bits: str) -> loop.Run:
    """A run at its start."""
    rng = np.random.Generator(getattr(np.random, bits)(3))
    model = nn.MLP([3, 4, 2], "tanh", rng=1)
    adam = optim.Adam(model.parameters(), lr=0.05)
    return loop.Run(model, adam, optim.StepLR(adam, 2), [rng], ["loss", "lr"])


def checkpoint_of(bits: str) -> bytes:
    """The checkpoint of a run within its third epoch."""
    run = fresh_run(bits)

    class Enough(Exception):  # noqa: N818
        pass

    class Stop(Callback):
        def on_batch_end(self, now: loop.Run) -> None:
            if now.epoch == 2 and now.batch == 2:
                raise Enough

    path = folder() / "run"
    with contextlib.suppress(Enough):
        fit(
            *(run.model, (DATA, TARGETS), nn.cross_entropy, run.optimizer),
            epochs=5,
            batch_size=8,
            scheduler=run.scheduler,
            rng=run.generators[0],
            callbacks=[Stop()],
            checkpoint=path,
            checkpoint_every=1,
        )
    content = path.read_bytes()
    path.unlink()
    return content


def shifted(x: Any, y: Any) -> Any:
    """A scalar function with a branch."""
    return tb.tanh(x) * y + (x * y if y > 0.0 else -x)


def drawing(x: Any, rng: Any) -> Any:
    """Numbers and arrays with random ones."""
    y = x * rng.normal(0.5, 2.0) + rng.integers(0, 9)
    return y * rng.random() if np.ndim(x) == 0 else (y * rng.random(3)).sum()


def indexed(x: Any, i: Any) -> Any:
    """Indices of every kind."""
    parts = x[i], x[:, i[0]], tb.one_hot(i, 4), tb.take(x, i, axis=1), x[None, ..., 1:]
    return sum((part.sum() for part in parts[1:]), parts[0].sum())


def shaped(x: Any, y: Any) -> Any:
    """The other structural operations."""
    z = tb.einsum("ij,kj->ik", x, y) @ tb.stack([x[:, 0], y[:, 1], x[0]])
    z = tb.concatenate([z, tb.pad(x, ((0, 0), (0, 0))), tb.cumsum(y, 0)])
    return tb.softmax(z.T.reshape(9, 3)).max(1).sum() + tb.tril(x).sum() + tb.mean(z) ** 2


def program_of(f: Any, *args: Any, gradient: bool = False) -> bytes:
    """A saved program."""
    path = folder() / "made"
    replay.save(tb.compile(f).program(*args, gradient=gradient), path)
    content = path.read_bytes()
    path.unlink()
    return content


def recurrent() -> bytes:
    """A network in time: enough steps for a loop, with scopes."""
    model = nn.RNN(2, 3, rng=0)
    x = np.random.default_rng(0).normal(size=(14, 2, 2))
    return program_of(lambda model, x: model(x)[0].sum(), model, x, gradient=True)


def packed(**arrays: Any) -> bytes:
    """A numpy archive."""
    file = io.BytesIO()
    (np.savez_compressed if len(arrays) > 2 else np.savez)(file, **arrays)
    return file.getvalue()


def idx(array: Any) -> bytes:
    """An array of bytes as MNIST has it."""
    return struct.pack(f">{array.ndim + 1}i", 0x0800 + array.ndim, *array.shape) + array.tobytes()


X = np.arange(12.0).reshape(4, 3)
MAKERS: dict[str, Callable[[], bytes]] = {
    **{f"model {name}": lambda n=name: saved(MODELS[n](1)) for name in MODELS},  # type: ignore[misc]
    **{f"checkpoint {bits}": lambda b=bits: checkpoint_of(b) for bits in BITS},  # type: ignore[misc]
    "program scalar": lambda: program_of(shifted, 0.3, 1.7, gradient=True),
    "program draws": lambda: program_of(drawing, 2.0, np.random.default_rng(0)),
    "program array draws": lambda: program_of(drawing, np.ones(3), np.random.default_rng(0)),
    "program network": lambda: program_of(
        lambda model, x, y: nn.cross_entropy(model(x), y),
        *(MODELS["mlp"](0), DATA[:5], TARGETS[:5]),
        gradient=True,
    ),
    "program indexed": lambda: program_of(indexed, tb.Tensor(X), np.array([0, 2, 1])),
    "program shaped": lambda: program_of(shaped, X[:3], X[1:] / 9.0, gradient=True),
    "program recurrent": recurrent,
    "npz stored": lambda: packed(x=X, y=[1, 2, 3, 4]),
    "npz packed": lambda: packed(x=X, y=[1, 2, 3, 4], more=np.zeros(999)),
    "csv": lambda: b'a,"b ""c""",kind\r\n1.5,-2e-3,x\r\n3,4,y\r\n5,6.25,x\r\n',
    "text": lambda: "Süße Träume,\nto the reader!\r\n".encode(),
    "idx": lambda: idx(np.arange(72, dtype=np.uint8).reshape(6, 3, 4)),
    "idx.gz": lambda: gzip.compress(idx(np.arange(72, dtype=np.uint8).reshape(6, 3, 4)), mtime=0),
}
NAMES = tuple(MAKERS)
OFTEN = NAMES + tuple(name for name in NAMES if name.startswith("program")) * 2


def saved(model: nn.Module) -> bytes:
    """A model's parameters in a file."""
    path = folder() / "made"
    tb.save_model(model, path)
    content = path.read_bytes()
    path.unlink()
    return content


@cache
def content_of(name: str) -> bytes:
    """A real file."""
    return MAKERS[name]()


@cache
def folder() -> Path:
    """Where the files of this process are: in memory, if the system has such a place."""
    keep = tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    _kept.append(keep)
    return Path(keep.name)


_kept: list[Any] = []

# --- changes of bytes ----------------------------------------------------------------------------

INTEGERS = (0, 1, 7, 2**24, 2**24 + 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
HOSTILE = (
    *(
        "",
        "../../x",
        "/etc/passwd",
        "a\0b",
        "C:\\x",
        "\x1b[2J\n",
        "\ud800",
        "__metadata__",
        "é" * 99,
    ),
    *("x" * 9999, "__class__", "0.npy", "NaN", "object", "O", "|O", "float64", "F8_E5M2", "sum"),
)


def span(content: bytes, random: Random) -> tuple[int, int]:
    """A piece of the content, short more often than long."""
    start = random.randrange(len(content) + 1)
    return start, min(len(content), start + random.choice((1, 2, 4, 8, 64, len(content))))


def cut(content: bytes, random: Random) -> bytes:
    """The end is missing."""
    return content[: random.randrange(len(content) + 1)]


def flip(content: bytes, random: Random) -> bytes:
    """A few bits are others."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8))):
        if data:
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(data)


def poke(content: bytes, random: Random) -> bytes:
    """A number of 1 to 8 bytes is one at the edge."""
    start, width = random.randrange(len(content) + 1), random.choice((1, 2, 4, 8))
    number = random.choice((*INTEGERS, random.getrandbits(64))) % 2 ** (8 * width)
    return content[:start] + number.to_bytes(width, "little") + content[start + width :]


def remove(content: bytes, random: Random) -> bytes:
    """A piece is missing."""
    start, end = span(content, random)
    return content[:start] + content[end:]


def repeat(content: bytes, random: Random) -> bytes:
    """A piece is there several times."""
    start, end = span(content, random)
    return content[:start] + content[start:end] * random.choice((2, 3, 17)) + content[end:]


def turn(content: bytes, random: Random) -> bytes:
    """A piece is the wrong way round."""
    start, end = span(content, random)
    return content[:start] + content[start:end][::-1] + content[end:]


def insert(content: bytes, random: Random) -> bytes:
    """Something is in between."""
    start = random.randrange(len(content) + 1)
    odd = (b"\0", b"\xff\xfe", b'"', b"\n" * 99, b"[" * 9999, b"1" * 5000, b"PK\x05\x06", b"\r")
    made = (*odd, random.randbytes(random.choice((1, 9, 300))))
    return content[:start] + random.choice(made) + content[start:]


def splice(content: bytes, random: Random) -> bytes:
    """A piece of another file is in place of one of this."""
    other = content_of(random.choice(NAMES))
    (start, end), (first, last) = span(content, random), span(other, random)
    return content[:start] + other[first:last] + content[end:]


def another(content: bytes, random: Random) -> bytes:
    """It is another file."""
    odd = (pickle.dumps(os.system), b"", b"#!/bin/sh\n", b"\x93NUMPY\1\0", b"{}", bytes(999))
    return random.choice((*odd, *map(content_of, NAMES)))


# --- changes of what the bytes mean ---------------------------------------------------------------


def mutated(x: Any, random: Random, keys: bool = True) -> Any:
    """JSON with one thing in it changed."""
    if isinstance(x, (list, dict)) and x and random.random() < 0.85:
        y: Any = x.copy()
        key = random.choice(list(x)) if isinstance(x, dict) else random.randrange(len(x))
        what = random.random()
        if what < 0.8:
            y[key] = mutated(x[key], random)
        elif what < 0.85:
            del y[key]
        elif isinstance(x, dict):
            y[random.choice((*HOSTILE, *x))] = x[key]
        elif what < 0.9:
            y.insert(random.randrange(len(x)), x[key])
        else:
            other = random.randrange(len(x))
            y[key], y[other] = x[other], x[key]
        return y
    if type(x) is int and random.random() < 0.7:
        return x + random.choice((-1, 1, 2, -x, -2 * x, 2**31, 2**40, 2**70, 10**30))
    deep: Any = []
    for _ in range(random.choice((3, 50))):
        deep = ["list", deep]
    odd = (
        *(
            None,
            True,
            False,
            -1,
            0,
            1,
            0.5,
            1e999,
            float("nan"),
            10**4000,
            2**63,
            [],
            {},
            deep,
            "sum",
        ),
        *(["..."], ["tuple"], ["slice", 0, None, -1], ["array", 0], ["operand", 1], ["list", 1]),
        *(["dtype", "float32"], ["scalar", "bool", "07"], [2**31, 2**31], ["float", "00" * 8]),
        *(["slice", -(2**62), 2**62, 2**61], ["type", "float"], [2**20] * 3, "ij,jk->ik"),
    )
    return random.choice((*odd, *HOSTILE))


def as_text(x: Any, random: Random) -> bytes:
    """JSON, now and then with a name in it twice."""
    with contextlib.suppress(ValueError):  # an integer too long to be written
        text = json.dumps(x).encode()
        if random.random() < 0.1 and text.startswith(b'{"'):
            text = b"{" + text[1 : text.find(b":", 1)] + b": 0, " + text[1:]
        return text
    return b"1" * 5000


def rewrite_header(content: bytes, random: Random) -> bytes:
    """The header of a safetensors file, and within it the state of a run, is another."""
    with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        metadata = header.get("__metadata__") or {}
        if FORMAT in metadata and random.random() < 0.8:
            metadata[FORMAT] = as_text(
                mutated(json.loads(metadata[FORMAT]), random), random
            ).decode()
        else:
            header = mutated(header, random)
        text = as_text(header, random)
        return struct.pack("<Q", len(text)) + text + content[8 + length :]
    return flip(content, random)


def relength(content: bytes, random: Random) -> bytes:
    """The header claims another length."""
    length = int.from_bytes(content[:8], "little")
    near = (length - 1, length + 1, len(content) - 8, len(content) - 7, len(content))
    return struct.pack("<Q", random.choice((*near, *INTEGERS)) % 2**64) + content[8:]


def numbers_of(data: bytes, random: Random) -> bytes:
    """An array's file with another header, or other numbers."""
    try:
        x = array_of(data)
    except Exception:
        return flip(data, random)
    if random.random() < 0.4 and x.size:
        x = x.copy()
        few = [random.randrange(x.size) for _ in range(random.choice((1, 1, 4)))]
        with np.errstate(all="ignore"):
            for i in few:
                old = x.flat[i]
                new = (0, 1, -1, 127, 255, 2**15, 2**31 - 1, -(2**31), old + 1, old - 1, old * 2)
                x.flat[i] = np.array(random.choice(new)).astype(x.dtype)
        return npy(x)
    descr = random.choice((x.dtype.str, "|O", ">f8", "<f8", "|b1", "<U9", "<c16", "<M8[s]", "<i2"))
    odd = ((-1,), (2**40, 2**40), (2**62,), (1,) * 40, (-2, -3), (True,), (0,), ())
    shape = random.choice((x.shape, x.shape[::-1], (x.size,), (*x.shape, 1), *odd))
    fortran = random.choice((True, False, 1))
    header = repr({"descr": descr, "fortran_order": fortran, "shape": shape})
    if random.random() < 0.2:
        header = random.choice(
            ("(" * 9000, "{}", "9" * 5000, header + "#", "1if 1else 2", header * 2)
        )
    version = random.choice((b"\1\0", b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\0\0"))
    text = header.encode() + b"\n"
    width = struct.pack("<H" if version == b"\1\0" else "<I", len(text) % 65536)
    return b"\x93NUMPY" + version + width + text + x.tobytes()


def npy(x: Any) -> bytes:
    """An array's file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, x, (1, 0), allow_pickle=False)
    return file.getvalue()


def repack(content: bytes, random: Random) -> bytes:
    """An archive with other members."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:
        return flip(content, random)
    method, links, what = zipfile.ZIP_STORED, False, random.randrange(12)
    if not members:
        return content
    k = random.randrange(len(members))
    name, data = members[k]
    texts = [i for i, (n, _) in enumerate(members) if n == storage.TEXT]
    if texts and what < 5:
        k = texts[0]
        with contextlib.suppress(ValueError, RecursionError):
            data = as_text(mutated(json.loads(members[k][1]), random), random)
        members[k] = members[k][0], data
    elif what < 7:
        members[k] = name, (flip if name == storage.TEXT else numbers_of)(data, random)
    elif what == 7:
        members[k] = random.choice([n for n in HOSTILE if n.isprintable()]), data
    elif what == 8:
        members.insert(k, random.choice(members))
    elif what == 9:
        members[k] = name, random.choice(members)[1]
    elif what == 10:
        del members[k]
    else:
        method = random.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
        links = random.random() < 0.5
        if random.random() < 0.5:
            members[k] = name, npy(np.zeros(2**17))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            info.external_attr = 0o120777 << 16 if links else 0
            with contextlib.suppress(UnicodeError):
                archive.fp and write_member(archive, info, data)
    return file.getvalue()


def write_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, data: bytes) -> None:
    """Write a member, also of a name that is there."""
    archive.NameToInfo.pop(info.filename, None)  # else it warns
    archive.writestr(info, data)


def regzip(content: bytes, random: Random) -> bytes:
    """What is within, changed; or something that grows."""
    if random.random() < 0.1:
        grows = struct.pack(">4I", 0x0803, 2**10, 2**7, 2**3) + bytes(2**20)
        return gzip.compress(grows, 1, mtime=0)
    change = random.choice((cut, flip, poke, repeat))
    with contextlib.suppress(OSError, EOFError, zlib.error):
        return gzip.compress(change(gzip.decompress(content), random), 1, mtime=0)
    return flip(content, random)


def renumber(content: bytes, random: Random) -> bytes:
    """In a program, a number is another that could stand there."""
    try:
        return _renumbered(content, random)
    except Exception:  # it is no program any more
        return flip(content, random)


def _renumbered(content: bytes, random: Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    text = json.loads(members[storage.TEXT])
    table = array_of(members[storage.OPERANDS])
    count = len(table) if table.ndim else 1
    if random.random() < 0.4 and len(text):
        places = list(_places(text))
        *way, last = random.choice(places)
        at = text
        for key in way:
            at = at[key]
        near = (at[last] + 1, at[last] - 1, 0, -1, count - 1, count, 2, 3)
        at[last] = random.choice((*near, random.randrange(count + 1)))
        members[storage.TEXT] = json.dumps(text).encode()
    else:
        name = random.choice((storage.CODES, storage.OPERANDS, storage.OPERANDS, storage.KINDS))
        x = array_of(members[name])
        for _ in range(random.choice((1, 1, 2, 3))):
            if x.size:
                most = min(count, 12) if name == storage.CODES else count
                x.flat[random.randrange(x.size)] = random.randrange(max(1, most))
        members[name] = npy(x)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return file.getvalue()


def _places(x: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the integers are in JSON."""
    items = x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, list) else ()
    for key, part in items:
        if type(part) is int:
            yield (*way, key)
        yield from _places(part, (*way, key))


PLAIN = (cut, flip, poke, remove, repeat, turn, insert, splice, another)
MEANT = {
    "model": (rewrite_header,) * 6 + (relength,),
    "checkpoint": (rewrite_header,) * 12 + (relength,),
    "program": (repack,) * 12 + (renumber,) * 20,
    "npz": (repack,) * 8,
    "idx.gz": (regzip,) * 6,
}
CHANGES = {f.__name__: f for f in (*PLAIN, *(g for many in MEANT.values() for g in many))}


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


# --- the kinds of files ---------------------------------------------------------------------------


class Reader:
    """How a kind of file is read, and what has to hold of what was read."""

    names_file = True

    def __init__(self, which: str) -> None:
        self.kind = next(kind for kind, reader in READERS.items() if reader is type(self))
        self.which = which
        self.found: Any = None

    def path(self, path: Path) -> Path:
        """Where the file has to be."""
        return path

    def files(self, path: Path) -> list[Path]:
        """All files that are there then."""
        return [path]

    def state(self) -> Any:
        """What must not change if the file is refused."""
        return None

    def read(self, path: Path) -> None:
        """Read it."""
        raise NotImplementedError

    def check(self, path: Path, tally: Any) -> None:
        """What has been read: again it is the same."""
        first = _bits(self.found)
        self.read(path)
        if _bits(self.found) != first:
            raise Mismatch("read again, it is something else")


def _bits(x: Any) -> Any:
    """What is equal only for the same numbers of the same types."""
    if isinstance(x, np.ndarray):
        return x.dtype.str, x.shape, x.tobytes()
    if isinstance(x, (list, tuple)):
        return [_bits(part) for part in x]
    if isinstance(x, dict):
        return sorted((repr(name), _bits(part)) for name, part in x.items())
    return repr(x)


class Model(Reader):
    """Parameters."""

    def __init__(self, which: str) -> None:
        super().__init__(which)
        self.model = MODELS[which](2)

    def state(self) -> Any:
        return _bits(self.model.state_dict())

    def read(self, path: Path) -> None:
        tb.load_model(self.model, path)

    def check(self, path: Path, tally: Any) -> None:
        tb.save_model(self.model, path)
        other = MODELS[self.which](3)
        tb.load_model(other, path)
        if _bits(other.state_dict()) != self.state():
            raise Mismatch("saved and read again, it is something else")
        kinds = [(x.shape, x.dtype) for x in other.state_dict().values()]
        if kinds != [(x.shape, x.dtype) for x in MODELS[self.which](4).state_dict().values()]:
            raise Mismatch("the parameters have other shapes or dtypes")


class Checkpoint(Reader):
    """The state of a run."""

    def __init__(self, which: str) -> None:
        super().__init__(which)
        self.run = fresh_run(which)
        content = content_of(f"checkpoint {which}")
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        self.settings = json.loads(header["__metadata__"][FORMAT])["settings"]

    def state(self) -> Any:
        run = self.run
        place = run.epoch, run.batch, run.stop, run.best_epoch, run.losses, run.columns
        arrays = run.model.state_dict(), run.best, run.order, run.optimizer.state_dict()
        return _bits([*place, *arrays, run.scheduler.state_dict(),
            [g.bit_generator.state for g in run.generators]])  # type: ignore[union-attr]  # fmt: skip

    def read(self, path: Path) -> None:
        read_checkpoint(path, self.run, self.settings)

    def check(self, path: Path, tally: Any) -> None:
        state = self.state()
        write_checkpoint(path, self.run, self.settings)
        other = Checkpoint(self.which)
        other.read(path)
        if other.state() != state:
            raise Mismatch("saved and read again, it is something else")
        for g in self.run.generators:  # they draw, and go on drawing
            g.random(1000)
            g.integers(0, 9, 1000, np.uint32)
        x = self.run.model(DATA).sum()
        with np.errstate(all="ignore"):
            x.backward()
            self.run.optimizer.step()


class Replayed(Reader):
    """Programs."""

    def read(self, path: Path) -> None:
        self.found = replay.load(path)

    def check(self, path: Path, tally: Any) -> None:
        program = self.found
        str(program).encode()
        replay.save(program, path)
        content = path.read_bytes()
        again = replay.load(path)
        replay.save(again, path)
        if path.read_bytes() != content or str(again) != str(program):
            raise Mismatch("saved and read again, it is something else")
        if _is_small(program):
            _run(program, tally)
        else:
            tally["program: too large to be run"] += 1


def _is_small(program: Any) -> bool:
    sizes = [int(np.prod(shape, dtype=float)) for shape in program.shapes]
    drawn = [x for d in program.draws for x in _integers((d.parameters, d.options))]
    products = 1.0
    for i in range(len(program)):
        if program.shapes and getattr(program.rule(i), "name", "") in ("einsum", "matmul"):
            shapes = [program.shapes[k] for k in program.operands_of(i)]
            products = max(products, float(np.prod([n for s in shapes for n in s], dtype=float)))
    return sum(sizes) < WORK and products < 1e3 * WORK and max(drawn, default=0) < WORK


def _integers(x: Any) -> Iterator[int]:
    if isinstance(x, dict):
        x = list(x.values())
    if isinstance(x, (list, tuple)):
        if x and all(isinstance(n, (int, np.integer)) for n in x):
            yield int(np.prod([float(n) for n in x]))
        for part in x:
            yield from _integers(part)
    elif isinstance(x, (int, float, np.number)) and x == x:
        yield int(min(abs(float(x)), 1e18))
    elif isinstance(x, np.ndarray):
        yield int(min(np.nan_to_num(np.abs(x.astype(float))).sum(), 1e18))


@np.errstate(all="ignore")
def _run(program: Any, tally: Any) -> None:
    """Run it by every engine there is that knows its operations: nothing may break the process."""
    drawn = sum(draw.count for draw in program.draws)
    given = program.inputs[: len(program.inputs) - drawn]
    if program.draws:
        try:
            late = program.drawn(np.random.default_rng(0), *[np.random.default_rng(1)] * 9)
        except (ValueError, TypeError) as error:  # numpy's own, of what it shall draw
            tally[f"program: drew nothing, {type(error).__name__}"] += 1
            return
    else:
        late = []
    if program.kind == "array":
        inputs = [np.full(program.shapes[i], 0.5).astype(program.dtypes[i]) for i in given]
    else:
        inputs = [0.5 + 0.25 * k for k in range(len(given))]
    runner = replay.runner(program)
    found = runner.values([*inputs, *late])
    tally["program: run"] += 1
    if program.kind == "array":
        for i, x in zip(program.outputs, found, strict=False):
            if np.shape(x) != tuple(program.shapes[i]) or np.asarray(x).dtype != program.dtypes[i]:
                raise Mismatch(f"%{i} has shape {np.shape(x)} and dtype {np.asarray(x).dtype}")
        return
    if _used(program) not in _known_sets():
        return
    if importlib.util.find_spec("numba") and os.environ.get("TINYGRAD_BP_FUZZ_NUMBA", "1") != "0":
        other = replay.runner(program, "numba")
        np.testing.assert_allclose(other.values([*inputs, *late]), found, rtol=1e-9, atol=1e-300)
        other.value_and_gradient([*inputs, *late])
        if inputs or late:
            other.batch([np.full(3, x) for x in (*inputs, *late)])
        tally["program: run by numba"] += 1


def _used(program: Any) -> frozenset[Any]:
    """The operations that occur."""
    return frozenset(program.rules[code] for code in np.unique(program.codes))


@cache
def _known_sets() -> frozenset[Any]:
    """Operations for which numba may compile an interpreter, which takes seconds."""
    path, found = folder() / "known", set()
    for name in ("program scalar", "program draws"):
        path.write_bytes(content_of(name))
        found.add(_used(replay.load(path)))
    path.unlink()
    return frozenset(found)


class Archive(Reader):
    """Arrays in numpy's archive."""

    def read(self, path: Path) -> None:
        self.found = datasets.npz(path)

    def check(self, path: Path, tally: Any) -> None:
        data = self.found
        if len(data.x) != len(data.y) or data.x.dtype.hasobject or data.y.dtype.hasobject:
            raise Mismatch("no data")
        path.write_bytes(packed(x=data.x, y=data.y))
        again = datasets.npz(path)
        if _bits([again.x, again.y]) != _bits([data.x, data.y]):
            raise Mismatch("saved and read again, it is something else")


class Table(Reader):
    """Text with columns."""

    def read(self, path: Path) -> None:
        self.found = datasets.csv(path, classes=True)

    def check(self, path: Path, tally: Any) -> None:
        super().check(path, tally)
        if not np.isfinite(self.found.x).all() or len(self.found.x) != len(self.found.y):
            raise Mismatch("no data")


class Reading(Reader):
    """Text."""

    def read(self, path: Path) -> None:
        self.found = datasets.text(path)

    def check(self, path: Path, tally: Any) -> None:
        text = self.found.decode(self.found.codes)
        path.write_bytes(text.encode())
        if datasets.text(path).decode(datasets.text(path).codes) != text:
            raise Mismatch("saved and read again, it is something else")


class Images(Reader):
    """One of the four files of MNIST."""

    names_file = False
    name = "train-images-idx3-ubyte"

    def path(self, path: Path) -> Path:
        for name, size in (("train-labels-idx1", 6), ("t10k-labels-idx1", 2)):
            (path.parent / f"{name}-ubyte").write_bytes(idx(np.zeros(size, np.uint8)))
        held = np.ones((2, 3, 4), np.uint8)
        (path.parent / "t10k-images-idx3-ubyte").write_bytes(idx(held))
        return path.with_name(self.name)

    def files(self, path: Path) -> list[Path]:
        names = ("train-labels-idx1", "t10k-labels-idx1", "t10k-images-idx3")
        return sorted([path, *(path.parent / f"{name}-ubyte" for name in names)])

    def read(self, path: Path) -> None:
        self.found = datasets.mnist(path.parent)

    def check(self, path: Path, tally: Any) -> None:
        super().check(path, tally)
        x = self.found.train.x
        if len(x) != 6 or x.shape[1] != 12 or not (x >= 0).all() or not (x <= 1).all():
            raise Mismatch("no images")


class Packed(Images):
    """The same, compressed."""

    name = "train-images-idx3-ubyte.gz"


READERS: dict[str, Callable[[str], Any]] = {
    "model": Model,
    "checkpoint": Checkpoint,
    "program": Replayed,
    "npz": Archive,
    "csv": Table,
    "text": Reading,
    "idx": Images,
    "idx.gz": Packed,
}
