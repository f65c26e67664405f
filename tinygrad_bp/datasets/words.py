"""Text as numbers."""

from __future__ import annotations

import numpy as np

from tinygrad_bp.arguments import count, text as argument_text
from tinygrad_bp.datasets.samples import Text

MOST_SYMBOLS = 256  # rarer ones are read as one


def english() -> Text:
    """A text that every Python has: the help pages of its standard library.

    Returns:
        Some 700,000 characters; which, depends on the version of Python.
    """
    from pydoc_data.topics import topics

    return encode("\n".join(topics.values()))


def encode(text: str, most: int = MOST_SYMBOLS) -> Text:
    """The text as numbers, and what they stand for; the rarest symbols are read as one, □.

    Args:
        text: at least one character.
        most: the largest number of different symbols.

    Raises:
        ValueError: the text is empty, or `most` is less than 1.
    """
    if not argument_text(text, "text"):
        raise ValueError("text: expected at least one character, got ''")
    most = count(most, "most")
    # An array of texts drops zeros at their ends: what is empty in it is the character of number 0.
    symbols, codes, counts = np.unique(list(text), return_inverse=True, return_counts=True)
    if len(symbols) <= most:
        return Text(codes, [str(s) or "\0" for s in symbols])
    kept = np.sort(np.argsort(-counts, kind="stable")[: most - 1])
    number = np.full(len(symbols), most - 1)
    number[kept] = np.arange(len(kept))
    return Text(number[codes], [*(str(s) or "\0" for s in symbols[kept]), "□"])
