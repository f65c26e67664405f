"""What every explanation is shown as: a table, as aligned text and as HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_bp.arguments import shown
from tinygrad_bp.text import clean, clean_lines, number

SMALL = 6  # numbers of an array that are shown one by one
MOST_ROWS = 60  # of a table that are shown; all are there to be read
_MATHEMATICS = re.compile(r"[$\\]")


class Shown:
    """Something that prints as `text()` and shows itself in a notebook as `html()`."""

    __slots__ = ()

    def text(self) -> str:
        """What `print` shows."""
        raise NotImplementedError

    def html(self) -> str:
        """The same as a piece of HTML: no scripts, no styles of its own, every text escaped."""
        return f"<pre>{html.escape(clean_lines(self.text()))}</pre>"

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return self.html()


class Table(Shown):
    """Rows of named columns.

    Attributes:
        title: one line above the table.
        columns: the headings.
        rows: the cells, a tuple for each row: strings, numbers, arrays, or None for an empty one.
        notes: lines below the table.
    """

    __slots__ = ("columns", "notes", "rows", "title")

    def __init__(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        notes: Sequence[str] = (),
    ) -> None:
        self.title = title
        self.columns = tuple(columns)
        self.rows = [tuple(row) for row in rows]
        self.notes = tuple(notes)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """Each row, as a dict from heading to cell."""
        return (dict(zip(self.columns, row, strict=True)) for row in self.rows)

    def column(self, name: str) -> list[Any]:
        """The cells under a heading, from the first row to the last.

        Raises:
            KeyError: there is no such heading.
        """
        if not isinstance(name, str) or name not in self.columns:
            listed = ", ".join(self.columns)
            raise KeyError(f"column: name: expected one of {listed:.100}, got {shown(name)}")
        place = self.columns.index(name)
        return [row[place] for row in self.rows]

    def _lines(self) -> list[list[str]]:
        """The cells of each line, headings first, without columns that say nothing."""
        rows = [[cell(x) for x in row] for row in self.rows[:MOST_ROWS]]
        kept = [i for i, _ in enumerate(self.columns) if not rows or any(row[i] for row in rows)]
        return [[line[i] for i in kept] for line in [list(self.columns), *rows]]

    def text(self) -> str:
        lines = self._lines()
        table = aligned(lines, [_is_numeric(self.column(name)) for name in lines[0]])
        return "\n".join([clean(self.title), *table, *self._cut(), *map(clean, self.notes)])

    def html(self) -> str:
        names, *rows = self._lines()
        head = "".join(f"<th>{escaped(name)}</th>" for name in names)
        body = "\n".join(
            f"<tr>{''.join(f'<td>{escaped(x)}</td>' for x in row)}</tr>" for row in rows
        )
        notes = "".join(f"<p>{escaped(line)}</p>\n" for line in (*self._cut(), *self.notes))
        return (
            f"<table>\n<caption>{escaped(self.title)}</caption>\n"
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n{notes}"
        )

    def _cut(self) -> list[str]:
        more = len(self.rows) - MOST_ROWS
        return [f"… and {more} rows more"] if more > 0 else []


def cell(x: Any) -> str:
    """A cell as text: numbers in few digits, small arrays in full, large ones by their size."""
    if x is None:
        return ""
    if isinstance(x, str):
        return clean(x)
    if isinstance(x, (int, np.integer)):
        return str(x)  # counts are exact, however large
    array = np.asarray(x)
    if array.ndim == 0:
        return number(float(array))
    if 0 < array.size <= SMALL:
        return _bracketed(array)
    shape = "×".join(map(str, array.shape))
    if array.size == 0:
        return f"{shape} empty"
    with np.errstate(all="ignore"):  # nan and inf are what a reader looks for
        return f"{shape}, {number(float(array.min()))} … {number(float(array.max()))}"


def _bracketed(array: Any) -> str:
    if array.ndim == 0:
        return number(float(array))
    return f"[{' '.join(map(_bracketed, array))}]"


def _is_numeric(cells: Sequence[Any]) -> bool:
    return all(x is None or isinstance(x, (int, float, np.number)) for x in cells)


def aligned(lines: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Lines of cells in columns of equal width, two spaces apart.

    Args:
        lines: the cells of each line; the first are the headings.
        right: for each column, whether its cells end at the right.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    ]


def escaped(text: str) -> str:
    """A text from anywhere, inert in HTML.

    Notebooks set what stands between dollar signs or backslashes as mathematics. It cannot reach
    over the ends of an element: each of these signs is one of its own.
    """
    return _MATHEMATICS.sub(r"<span>\g<0></span>", html.escape(clean(text)))
