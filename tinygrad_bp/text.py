"""Numbers and names as a reader is shown them: in few digits, on one line, harmless."""

from __future__ import annotations

import re
import unicodedata

# What XML 1.0 cannot hold (section 2.2), and the rest of the controls, which nobody can see.
_ILLEGAL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
# Marks that change the direction of the text around them (Unicode Annex 9, section 2).
_DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SPACE = re.compile(r"[\s\x1c-\x1f\x85\u2028\u2029]+")
_MARKS_KEPT = 2  # combining marks on one character; more of them climb out of the line


def number(x: float) -> str:
    """`x` to four significant digits; whole numbers below a million in full."""
    if isinstance(x, bool):
        return str(x)
    if abs(x) < 1e6 and x == int(x) and x != 0:
        return str(int(x))
    return f"{x + 0.0:.4g}"  # the sum makes a negative zero a plain one


def clean(text: str) -> str:
    """`text` on one line, without what XML cannot hold or what would disturb its surroundings."""
    text = _ILLEGAL.sub("", _SPACE.sub(" ", text))
    text = " ".join(_DIRECTION.sub("", text).split())
    return text if text.isascii() else _tamed(text)


def clean_lines(text: str) -> str:
    """The same of a text of several lines, which keeps its lines and its spaces."""
    return "\n".join(_whole(line) for line in text.expandtabs().splitlines())


def _whole(line: str) -> str:
    line = _DIRECTION.sub("", _ILLEGAL.sub("", line))
    return line if line.isascii() else _tamed(line)


def _tamed(text: str) -> str:
    """`text` with at most `_MARKS_KEPT` combining marks in a row."""
    kept: list[str] = []
    marks = 0
    for character in unicodedata.normalize("NFC", text):
        marks = marks + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
        if marks <= _MARKS_KEPT:
            kept.append(character)
    return "".join(kept)
