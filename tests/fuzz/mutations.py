"""Changes of a file: of its bytes, and of what they mean, each by a name and a seed."""

import contextlib
import gzip
import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np

from tinygrad_bp.files import array_of
from tinygrad_bp.replay import storage
from tinygrad_bp.training.checkpoint import FORMAT

from .real_files import NAMES, content_of

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
