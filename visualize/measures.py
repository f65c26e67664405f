"""How large boxes and labels are, and where the texts stand in them."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

from . import heat
from .scene import Box, Edge, Heat
from .shapes import Size
from .text import shorten, width

TITLE, ROW, LOCAL = 13.0, 12.0, 11.0  # sizes of the fonts of headers, rows and edges
HEADER, LINE, COMPACT = 23.0, 17.0, 22.0  # heights
PAD = 9.0  # from a box's border to its text
SPACE = 12.0  # between two texts on a line
BLANK = 7.0  # between words
# At most, in ems; what is longer ends in an ellipsis, and the hover text has all of it.
LONGEST_TITLE, LONGEST_ROW, LONGEST_LOCAL = 16.0, 28.0, 14.0
CORNER = {"leaf": 8.0, "inner": 3.0, "constant": 8.0, "group": 8.0}


class Text(NamedTuple):
    """A line of text in a box: relative to the box's upper left corner, `y` of its baseline.

    Attributes:
        text: what it says, short enough.
        x, y: where it begins, or ends if `anchor` is `"end"`.
        size: of the font.
        colour: a name in the theme.
    """

    text: str
    x: float
    y: float
    anchor: str
    size: float
    colour: str
    bold: bool = False

    @property
    def span(self) -> tuple[float, float]:
        """Where it begins and ends at most."""
        w = width(self.text, self.size)
        return (self.x, self.x + w) if self.anchor == "start" else (self.x - w, self.x)


# --- sizes --------------------------------------------------------------------------------------


def label_size(edge: Edge) -> Size | None:
    """The size of an edge's label; None if it has none."""
    if not edge.text:
        return None
    return _even(width(local_text(edge), LOCAL) + 6), 16.0


def local_text(edge: Edge) -> str:
    """What stands at an edge, short enough."""
    return shorten(edge.text, LONGEST_LOCAL)


def _even(length: float) -> float:
    """Rounded up, so that halves are whole."""
    return 2.0 * ceil(length / 2)


def size_of(box: Box) -> Size:
    """The size of a box that holds its texts."""
    return _even(max(_widths(box), default=0.0) + 2 * PAD), _height(box)


def _height(box: Box) -> float:
    if box.is_compact:
        return COMPACT
    if not box.rows and not box.heat:
        return HEADER + 1.0
    maps = sum(heat.size(each)[1] for each in box.heat)
    return (HEADER if has_header(box) else 4.0) + LINE * len(box.rows) + 6.0 + _even(maps)


def has_header(box: Box) -> bool:
    """Whether a box has a line for its label and symbol."""
    return bool(box.label or box.symbol) and not box.is_compact


def _widths(box: Box) -> Iterator[float]:
    """The widths that the lines of a box need."""
    if box.is_compact:
        yield _compact_width(box)
        return
    for each in box.heat:
        yield heat.size(each)[0]
        yield width(each.heading, ROW) + SPACE + width(_scale(each), ROW)
    label, symbol = _title(box)
    yield width(label, TITLE) + (SPACE if label and symbol else 0.0) + width(symbol, TITLE)
    for heading, value in box.rows:
        # Rows without a heading stand in the same columns as those with one.
        yield width(heading or "data", ROW) + SPACE + width(shorten(value, LONGEST_ROW), ROW)


def _title(box: Box) -> tuple[str, str]:
    return shorten(box.label, LONGEST_TITLE), shorten(box.symbol, LONGEST_TITLE)


def _compact(box: Box) -> tuple[str, ...]:
    """The texts of a compact box, apart: a label in Hebrew would draw its value to its left."""
    value = shorten(box.rows[0][1], LONGEST_ROW)
    return (shorten(box.label, LONGEST_TITLE), "=", value) if box.label else (value,)


def _compact_width(box: Box) -> float:
    parts = _compact(box)
    return sum(width(text, ROW) for text in parts) + BLANK * (len(parts) - 1)


# --- texts --------------------------------------------------------------------------------------


def texts(box: Box, w: float = 0.0) -> Iterator[Text]:
    """The texts of a box, with their places in it; it may be wider than it needs."""
    w = w or size_of(box)[0]
    if box.is_compact:
        x = (w - _compact_width(box)) / 2
        for text in _compact(box):
            yield Text(text, x, 15.0, "start", ROW, "text")
            x += width(text, ROW) + BLANK
        return
    label, symbol = _title(box)
    if label:
        yield Text(label, PAD, 16.0, "start", TITLE, "text", bold=True)
    if symbol and label:
        yield Text(symbol, w - PAD, 16.0, "end", TITLE, "text")
    elif symbol:
        yield Text(symbol, (w - width(symbol, TITLE)) / 2, 16.0, "start", TITLE, "text")
    y = (HEADER if has_header(box) else 4.0) + 13.0
    current = ""
    for heading, value in box.rows:
        current = heading or current
        if heading:
            yield Text(heading, PAD, y, "start", ROW, "quiet")
        colour = "gradient" if current == "grad" else "text"
        yield Text(shorten(value, LONGEST_ROW), w - PAD, y, "end", ROW, colour)
        y += LINE
    for each, _, top in maps_of(box, w):
        yield Text(each.heading, PAD, top - 5, "start", ROW, "quiet")
        yield Text(_scale(each), w - PAD, top - 5, "end", ROW, "quiet")


def _scale(each: Heat) -> str:
    return f"±{each.largest}"


def maps_of(box: Box, w: float) -> Iterator[tuple[Heat, float, float]]:
    """The heat maps of a box, with the upper left corner of their cells."""
    y = (HEADER if has_header(box) else 4.0) + LINE * len(box.rows) + heat.CAPTION
    for each in box.heat:
        map_width, map_height = heat.size(each)
        yield each, (w - map_width) / 2, y
        y += map_height
