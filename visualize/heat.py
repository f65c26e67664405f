"""Small heat maps: the numbers of an array as colours, blue for negative and red for positive."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .scene import Heat
from .text import number

MOST_CELLS = 400
CELLS_ACROSS = (12.0, 4.0)  # the side of a cell, at most and at least
ACROSS = 132.0  # the width of a map, at most
CAPTION = 17.0  # the height of the line above it
# Lightness and hue change together, so that a map reads in grey as well as in colours.
ENDS = {
    "light": ((33, 82, 163), (247, 247, 247), (178, 24, 43)),
    "dark": ((110, 168, 254), (34, 38, 46), (255, 122, 102)),
}
NAN = {"light": "#d9c400", "dark": "#ffe34d"}


def heats(maps: Iterable[tuple[str, Any]]) -> tuple[Heat, ...]:
    """Maps of arrays of one or two axes and of 2 to 400 elements; of none, if one is another."""
    result = []
    for heading, data in maps:
        if not 1 <= data.ndim <= 2 or not 2 <= data.size <= MOST_CELLS:
            return ()
        rows = np.atleast_2d(np.asarray(data, np.float64))
        if rows.shape[1] * CELLS_ACROSS[1] > ACROSS:
            return ()
        finite = np.abs(rows[np.isfinite(rows)])
        largest = float(finite.max(initial=0.0))
        scaled = np.clip(rows / (largest or 1.0), -1.0, 1.0)
        cells = tuple(
            tuple(None if np.isnan(x) else round(float(x), 3) for x in row) for row in scaled
        )
        result.append(Heat(heading, cells, number(largest)))
    return tuple(result)


def side(heat: Heat) -> float:
    """The side of a cell."""
    most, least = CELLS_ACROSS
    return max(least, min(most, float(int(ACROSS / len(heat.cells[0])))))


def size(heat: Heat) -> tuple[float, float]:
    """The width and height of a map, its caption included."""
    return side(heat) * len(heat.cells[0]), CAPTION + side(heat) * len(heat.cells) + 4.0


def colour(x: float | None, theme: str) -> str:
    """The colour of a number from -1 to 1."""
    if x is None:
        return NAN[theme]
    low, middle, high = ENDS[theme]
    end = high if x > 0 else low
    return "#" + "".join(
        f"{round(m + (e - m) * abs(x)):02x}" for m, e in zip(middle, end, strict=True)
    )
