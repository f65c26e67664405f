"""The user's own data: tables, arrays and text, and MNIST as it was published.

Nothing that is read is ever run: arrays come without pickle. What is compressed is read only if it
cannot fill the memory from a small file.
"""

from __future__ import annotations

import csv as tables
import gzip
import io
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tinygrad_bp.arguments import (
    file_path,
    flag,
    flag_or_none,
    integer,
    out_of_range,
    text as argument_text,
)
from tinygrad_bp.arrays import dtype_of
from tinygrad_bp.datasets.samples import MNIST, XY, Table, Text
from tinygrad_bp.datasets.words import encode
from tinygrad_bp.files import Path_, array_of, open_file, read_some, read_whole, shown

LONGEST_TEXT = 2**30  # bytes; a table takes some 40 times as many while it is read
LARGEST_IDX = 2**30  # bytes; the largest known, of EMNIST, has 547 million
LARGEST_ARRAY = 2**28  # bytes of a compressed one; larger ones may not have shrunk more than
LARGEST_RATIO = 200  # so many times


def csv(
    path: Path_,
    target: int | str = -1,
    *,
    classes: bool = False,
    delimiter: str = ",",
    header: bool | None = None,
) -> Table:
    """A table of numbers from a text file, in UTF-8.

    Args:
        path: the file.
        target: the column to be predicted, by its name or number.
        classes: whether that column names classes, which are then numbered in sorted order, or
            holds numbers.
        delimiter: what stands between columns.
        header: whether the first line names the columns; by default, if a column of x there is no
            number.

    Raises:
        ValueError: the file is missing, not UTF-8, or has no rows; a row has more columns or fewer
            than the first, or an entry is no finite number. The message names line and column.
    """
    path = file_path(path, "path")
    flag(classes, "classes")
    flag_or_none(header, "header")
    if len(argument_text(delimiter, "delimiter")) != 1 or delimiter in '"\r\n':
        raise out_of_range("delimiter", "a single character", delimiter)
    rows = _rows(path, delimiter)
    first = rows[0][1]
    column = _column(path, first, target)
    if header is None:
        header = not all(_is_number(x) for i, x in enumerate(first) if i != column)
    names = first if header else [f"x{i}" for i in range(len(first))]
    rows = rows[1:] if header else rows
    if not rows:
        raise ValueError(f"{path}: expected rows, got a header alone")
    for line, row in rows:
        if len(row) != len(first):
            raise ValueError(f"{path}: line {line}: expected {len(first)} columns, got {len(row)}")
    features = [i for i in range(len(first)) if i != column]
    x = [[_number(path, line, names[i], row[i]) for i in features] for line, row in rows]
    named = tuple(names[i] for i in features)
    if not classes:
        y = [_number(path, line, names[column], row[column]) for line, row in rows]
        return Table(np.array(x), np.array(y), named, ())
    found, codes = np.unique([row[column].strip() for _, row in rows], return_inverse=True)
    return Table(np.array(x), codes, named, tuple(str(name) for name in found))


def npz(path: Path_, x: str = "x", y: str = "y") -> XY:
    """Two arrays of a numpy archive (`numpy.savez`), of equally many samples.

    Args:
        path: the file.
        x, y: the names of the arrays in it.

    Raises:
        ValueError: the file is missing, no archive or damaged; an array is missing, holds Python
            objects, has more than 256 MiB that were compressed to less than 1 / 200 of them, or
            the numbers of samples differ.
    """
    path, x, y = file_path(path, "path"), argument_text(x, "x"), argument_text(y, "y")
    try:
        with open_file(path) as file:
            data = XY(*_members(file, (x, y)))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or shown(error)}") from None
    except Exception as error:  # a damaged archive may upset its reader in any way
        what = str(error).removeprefix(f"{path}: ") or f"damaged: {type(error).__name__}"
        raise ValueError(f"{path}: {shown(what, 180)}") from None
    if not data.x.ndim or not data.y.ndim or len(data.x) != len(data.y):
        raise ValueError(
            f"{path}: expected equally many samples, got shapes {data.x.shape} and {data.y.shape}"
        )
    return data


def _members(file: BinaryIO, names: tuple[str, str]) -> list[NDArray[Any]]:
    """Arrays of an archive."""
    if not zipfile.is_zipfile(file):
        raise ValueError("it is no .npz archive, or a damaged one")
    with zipfile.ZipFile(file) as archive:
        known = [info.filename.removesuffix(".npy") for info in archive.infolist()]
        for name in names:
            if known.count(name) != 1:
                how = "more than one" if name in known else "no"
                raise ValueError(f"{how} array {name!r}; there are {', '.join(known)[:80]}")
        infos = dict(zip(known, archive.infolist(), strict=True))
        arrays = []
        for name in names:
            info = infos[name]
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name!r} is compressed in a way that numpy does not use")
            if info.compress_size > os.fstat(file.fileno()).st_size:
                raise ValueError(f"{name!r} claims to be longer than the file")
            if info.file_size > max(LARGEST_ARRAY, LARGEST_RATIO * info.compress_size):
                raise ValueError(
                    f"{name!r} would become {info.file_size:,} bytes from {info.compress_size:,}"
                )
            arrays.append(array_of(archive.read(info)))
        return arrays


def text(path: Path_, least: int = 2) -> Text:
    """The reader's own text, in UTF-8, as numbers.

    Args:
        path: the file.
        least: how many characters it has to have.

    Raises:
        ValueError: the file cannot be read, is not UTF-8, or is too short.
    """
    integer(least, "least", 0)
    content = _decoded(file_path(path, "path"))
    if len(content) < least:
        raise ValueError(f"{path}: expected {least:,} characters or more, got {len(content):,}")
    return encode(content)


# --- tables --------------------------------------------------------------------------------------


def _decoded(path: Path_) -> str:
    try:
        content = read_whole(path, LONGEST_TEXT).decode("utf-8-sig")
        return content.replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text; {error}") from None


def _rows(path: Path, delimiter: str) -> list[tuple[int, list[str]]]:
    """The rows that are not empty, with the numbers of their lines."""
    lines = io.StringIO(_decoded(path), newline="")
    reader = tables.reader(lines, delimiter=delimiter, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if any(x.strip() for x in row)]
    except tables.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: {shown(error, 120)}") from None
    if not rows:
        raise ValueError(f"{path}: expected rows, got an empty file")
    if len(rows[0][1]) < 2:
        raise ValueError(f"{path}: expected two columns or more, separated by {delimiter!r}")
    return rows


def _column(path: Path_, first: list[str], target: int | str) -> int:
    if isinstance(target, str):
        if target not in first:
            raise ValueError(f"{path}: target: no column {target!r} in {shown(', '.join(first))}")
        return first.index(target)
    if not -len(first) <= integer(target, "target") < len(first):
        raise ValueError(f"{path}: target: there are {len(first)} columns, got number {target}")
    return target % len(first)


def _is_number(x: str) -> bool:
    try:
        float(x)
    except ValueError:
        return False
    return True


def _number(path: Path_, line: int, column: str, x: str) -> float:
    if not _is_number(x) or not np.isfinite(float(x)):
        raise ValueError(
            f"{path}: line {line}, column {column[:30]!r}: expected a number, got {x[:30]!r}"
        )
    return float(x)


# --- MNIST ---------------------------------------------------------------------------------------


def mnist(folder: Path_, dtype: DTypeLike = np.float64) -> MNIST:
    """MNIST, from its four original files in a folder, as they are or still compressed (.gz).

    Args:
        folder: where `train-images-idx3-ubyte` and the other three are.
        dtype: float64 or float32, of the images.

    Returns:
        60,000 images to learn from and 10,000 held out, of shape (samples, 784).

    Raises:
        ValueError: a file is missing, or not what its name says: its magic number, its sizes, its
            length, or a label is wrong.
    """
    parts, dtype, folder = [], dtype_of(dtype), file_path(folder, "folder")
    for name in ("train", "t10k"):
        images = _idx(folder, f"{name}-images-idx3-ubyte", 3)
        labels = _idx(folder, f"{name}-labels-idx1-ubyte", 1)
        if len(images) != len(labels):
            raise ValueError(f"{folder}: {name}: {len(images)} images, but {len(labels)} labels")
        if labels.size and labels.max() > 9:
            raise ValueError(f"{folder}: {name}: expected labels 0 ... 9, got {labels.max()}")
        x = images.reshape(len(images), -1).astype(dtype)
        x /= 255
        parts.append(XY(x, labels.astype(np.int64)))
    if parts[0].x.shape[1] != parts[1].x.shape[1]:
        raise ValueError(f"{folder}: the images of the two parts differ in size")
    return MNIST(*parts)


def _idx(folder: Path, name: str, axes: int) -> NDArray[np.uint8]:
    """An array of bytes in the IDX format: a magic number, the sizes, and the bytes.

    Source: Y. LeCun, C. Cortes & C. Burges, "The MNIST database", FILE FORMATS.
    """
    path = folder / name
    packed = not path.exists() and (folder / f"{name}.gz").exists()
    path = folder / f"{name}.gz" if packed else path
    try:
        with open_file(path) as raw, gzip.open(raw) if packed else raw as file:
            start = file.read(4 + 4 * axes)
            magic, *shape = np.frombuffer(start[: len(start) // 4 * 4], ">u4").tolist() or [0]
            if magic != 0x0800 + axes or len(shape) != axes:
                raise ValueError(f"expected an IDX file of {axes} axes, got magic number {magic}")
            size = 1
            for n in shape:
                size *= n
            content = read_some(file, size + 1) if size <= LARGEST_IDX else b""
    except OSError as error:
        told = error.strerror or shown(error)
        raise ValueError(f"{folder}: {path.name}: cannot be read: {told}") from None
    except (ValueError, EOFError, zlib.error) as error:
        what = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: {shown(what, 150)}") from None
    if len(content) != size:
        raise ValueError(f"{path}: expected {size:,} bytes for shape {tuple(shape)}, got another")
    return np.frombuffer(content, np.uint8).reshape(shape)
