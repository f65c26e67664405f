"""Text as a picture needs it: widths estimated, and texts cut to them.

Nothing here knows what is drawn. Widths are estimates on the safe side, because the font that a
reader's machine will use is not known: a box sized by them holds its text in any monospace font.
Characters that monospace fonts lack come from fonts of unknown width; whoever draws them has to
squeeze them into the estimate.
"""

from __future__ import annotations

import re
import unicodedata

from tinygrad_bp.text import clean, number

__all__ = ["ADVANCE", "WIDE", "clean", "is_certain", "number", "shorten", "width"]

ADVANCE = 0.62  # of a character of a monospace font, in ems; DejaVu Sans Mono has 0.602
WIDE = 1.1  # of Chinese, Japanese and Korean characters and emoji

# Latin with its accents, Greek, Cyrillic, and the symbols that operations are drawn with: all of
# these are in the monospace fonts. Anything else may come from a wider font.
_NARROW = re.compile(r"[\x00-\u02ff\u0370-\u052f\u1d2c-\u1d6a\u1e00-\u1eff\u2010-\u203a"
                     r"\u2070-\u209c\u2190-\u21ff\u2200-\u22ff]")  # fmt: skip


def width(text: str, size: float) -> float:
    """The width of `text` in a monospace font of `size`: at most this much if it `is_certain`."""
    if is_certain(text):
        return len(text) * ADVANCE * size
    return sum(map(_advance, text)) * size


def _advance(character: str) -> float:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0.0
    return WIDE if unicodedata.east_asian_width(character) in ("W", "F") else ADVANCE


def is_certain(text: str) -> bool:
    """Whether all characters are in the monospace fonts, so that `width` can be relied on."""
    return text.isascii() or len(_NARROW.findall(text)) == len(text)


def shorten(text: str, ems: float) -> str:
    """`text`, cut to at most `ems` of width at size 1 with an ellipsis in place of the rest."""
    if width(text, 1.0) <= ems:
        return text
    room = ems - width("…", 1.0)
    end = 0
    for character in text:
        room -= width(character, 1.0)
        if room < 1e-9:
            break
        end += 1
    return text[:end].rstrip() + "…"
