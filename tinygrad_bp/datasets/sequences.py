"""Problems whose answer lies far back in a sequence, or is carried along it."""

from __future__ import annotations

import numpy as np

from tinygrad_bp.arguments import out_of_range
from tinygrad_bp.datasets.samples import XY, check_counts
from tinygrad_bp.nn import init


def adding(samples: int, steps: int, *, rng: np.random.Generator | int) -> XY:
    """The adding problem: remember two marked numbers, and give their sum at the end.

    Whoever always answers 1 has the mean squared error 1/6. (Hochreiter & Schmidhuber 1997,
    section 5.4; here with numbers in [0, 1), a fixed length, one mark in each half, and the sum
    itself, as in Le, Jaitly & Hinton 2015.)

    Args:
        samples: how many sequences.
        steps: T, their length, at least 2.
        rng: a numpy Generator, or a seed.

    Returns:
        x of shape (samples, steps, 2), float64: at each step a number, and 1 if it is marked or
        else 0; and y of shape (samples, 1), float64.
    """
    check_counts(samples=samples, steps=steps)
    if steps < 2:
        raise ValueError(f"steps: expected at least 2, got {steps}")
    generator = init.generator(rng)
    numbers, marks = generator.random((samples, steps)), np.zeros((samples, steps))
    rows = np.arange(samples)
    marks[rows, generator.integers(0, steps // 2, samples)] = 1.0
    marks[rows, generator.integers(steps // 2, steps, samples)] = 1.0
    return XY(np.stack([numbers, marks], -1), (numbers * marks).sum(1, keepdims=True))


def sequence_copy(
    samples: int,
    length: int = 10,
    delay: int = 20,
    symbols: int = 8,
    *,
    rng: np.random.Generator | int,
) -> XY:
    """Repeat some symbols after a delay (Arjovsky, Shah & Bengio 2016, section 4.1).

    Args:
        samples: how many sequences.
        length: how many symbols are to be kept in mind.
        delay: how many blanks stand between them and the sign to begin.
        symbols: how many there are, 0 ... symbols-1; `symbols` is the blank, `symbols + 1` the
            sign.
        rng: a numpy Generator, or a seed.

    Returns:
        x and y of shape (samples, 2 length + delay + 1), integers: in x the symbols, the blanks,
        the sign, and blanks again; in y blanks, and at the end the symbols.
    """
    check_counts(samples=samples, length=length, delay=delay, symbols=symbols)
    generator = init.generator(rng)
    kept = generator.integers(0, symbols, (samples, length))
    x = np.full((samples, 2 * length + delay + 1), symbols, np.int64)
    y = x.copy()
    x[:, :length], x[:, length + delay] = kept, symbols + 1
    y[:, -length:] = kept
    return XY(x, y)


def binary_addition(
    samples: int | None = None, bits: int = 8, *, rng: np.random.Generator | int | None = None
) -> XY:
    """Sums of two binary numbers, bit by bit from the lowest: the carry has to be remembered.

    Args:
        samples: how many pairs; without, every pair there is, in order.
        bits: the bits of each number; at most 10 for every pair, and 62 otherwise.
        rng: a numpy Generator, or a seed; needed with `samples`.

    Returns:
        x of shape (samples, bits + 1, 2), float64: a bit of each number per step, and 0 in the
        last; and y of shape (samples, bits + 1, 1), float64: the bits of the sum.
    """
    check_counts(bits=bits)
    most = 62 if samples is not None else 10
    if bits > most:
        raise ValueError(f"bits: expected at most {most}, got {bits}")
    if samples is None:
        a, b = (n.ravel() for n in np.indices((2**bits, 2**bits)))
    else:
        check_counts(samples=samples)
        if rng is None:
            raise out_of_range("rng", "a numpy Generator or a seed", rng)
        a, b = init.generator(rng).integers(0, 2**bits, (2, samples))
    places = np.arange(bits + 1)
    of = [(n[:, None] >> places & 1).astype(np.float64) for n in (a, b, a + b)]
    return XY(np.stack(of[:2], -1), of[2][..., None])
