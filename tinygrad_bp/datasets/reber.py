"""Reber's grammar: strings of seven symbols, and which may come next (Reber 1967).

The embedded one (Cleeremans, Servan-Schreiber & McClelland 1989; Hochreiter & Schmidhuber 1997,
section 5.1) puts such a string between two equal symbols: the last but one is known only to whoever
remembers the second.
"""

from __future__ import annotations

import numpy as np

from tinygrad_bp.arguments import flag
from tinygrad_bp.datasets.samples import Sequences, check_counts
from tinygrad_bp.nn import init

REBER_SYMBOLS = "BTPSXVE"

# From each state, the symbols that may come, and the states they lead to; None is the end.
_GRAMMAR: list[dict[str, int | None]] = [
    {"B": 1},
    {"T": 2, "P": 3},
    {"S": 2, "X": 4},
    {"T": 3, "V": 5},
    {"X": 3, "S": 6},
    {"P": 4, "V": 6},
    {"E": None},
]


def reber(samples: int, embedded: bool = False, *, rng: np.random.Generator | int) -> Sequences:
    """Strings of Reber's grammar: predict the next symbol.

    Args:
        samples: how many strings.
        embedded: whether they stand between two equal symbols.
        rng: a numpy Generator, or a seed; both ways from a state are equally likely.

    Returns:
        x, one-hot, of all symbols but the last; y, the numbers of all but the first in
        `REBER_SYMBOLS`; which ones were possible; and the strings' lengths, less one.
    """
    check_counts(samples=samples)
    flag(embedded, "embedded")
    generator = init.generator(rng)
    strings = [_embedded(generator) if embedded else _string(generator) for _ in range(samples)]
    lengths = np.array([len(symbols) - 1 for symbols, _ in strings])
    shape = samples, int(lengths.max())
    x, y = np.zeros((*shape, 7)), np.zeros(shape, np.int64)
    possible = np.zeros((*shape, 7), bool)
    for i, (symbols, choices) in enumerate(strings):
        codes = [REBER_SYMBOLS.index(symbol) for symbol in symbols]
        steps = np.arange(lengths[i])
        x[i, steps, codes[:-1]] = 1.0
        y[i, steps] = codes[1:]
        for t in steps:
            possible[i, t, [REBER_SYMBOLS.index(symbol) for symbol in choices[t + 1]]] = True
    return Sequences(x, y, possible, lengths)


def _string(rng: np.random.Generator) -> tuple[str, list[str]]:
    """A string, and for each of its symbols those that were possible."""
    symbols, choices = "", []
    state: int | None = 0
    while state is not None:
        choices.append("".join(_GRAMMAR[state]))
        symbol = choices[-1][rng.integers(len(choices[-1]))]
        symbols += symbol
        state = _GRAMMAR[state][symbol]
    return symbols, choices


def _embedded(rng: np.random.Generator) -> tuple[str, list[str]]:
    branch = "TP"[rng.integers(2)]
    symbols, choices = _string(rng)
    return f"B{branch}{symbols}{branch}E", ["B", "TP", *choices, branch, "E"]
