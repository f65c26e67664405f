"""Numbers and arrays in the few words that fit into a box."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .text import number

SMALL_ARRAY = 6  # elements; larger arrays are summarised
PER_LINE = 3  # of them
UNASKED = "–"  # for a gradient before any sweep: it is not zero, nobody has asked yet

Row = tuple[str, str]


def summary(heading: str, data: Any) -> Iterator[Row]:
    """The numbers of an array if they are few, else their mean and range, as rows of a box."""
    lines = _summarised(data)
    yield heading, lines[0]
    for line in lines[1:]:
        yield "", line


def _summarised(data: Any) -> list[str]:
    if data.size == 0:
        return ["empty"]
    if data.size <= SMALL_ARRAY and data.ndim <= 2:
        return _lines(data)
    with np.errstate(all="ignore"):  # nan and inf are what a reader looks for
        mean, low, high = (number(float(f(data))) for f in (np.mean, np.min, np.max))
    return [f"mean {mean}", f"{low} … {high}"]


def _lines(data: Any) -> list[str]:
    """A few numbers as `[1, 2]`: a line for each row, or more if it has many."""
    if data.ndim == 0:
        return [number(data.item())]
    if data.ndim == 2:
        return [line for row in data for line in _lines(row)]
    texts = [number(x) for x in data.ravel().tolist()]
    parts = [", ".join(texts[i : i + PER_LINE]) for i in range(0, len(texts), PER_LINE)]
    return f"[{',|'.join(parts)}]".split("|")


def short(data: Any) -> str:
    """An array on one line: a number, a few of them, or its Euclidean norm."""
    data = np.asarray(data)
    if data.size == 1:
        return number(data.item())
    if 1 < data.size <= PER_LINE:
        return f"[{', '.join(map(number, data.ravel().tolist()))}]"
    with np.errstate(all="ignore"):
        return f"‖{number(float(np.linalg.norm(data.ravel())))}‖"
