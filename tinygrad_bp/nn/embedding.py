"""Symbols and positions as vectors: `Embedding` and `PositionalEncoding`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.arguments import flag
from tinygrad_bp.arrays import dtype_of, integers
from tinygrad_bp.inputs import as_array
from tinygrad_bp.nn import init
from tinygrad_bp.nn.feedforward import check_features, check_sizes
from tinygrad_bp.nn.module import Module, named
from tinygrad_bp.scalars import Values
from tinygrad_bp.tensor import Tensor


class Embedding(Module):
    """A vector for each of a number of symbols: row i of a matrix E for symbol i.

    Args:
        symbols: how many there are.
        features: the length of a vector.
        rng: a numpy Generator, or a seed; E starts normally distributed, of variance 1.
        dtype: float64 or float32.

    Attributes:
        E: shape (symbols, features).
    """

    def __init__(
        self,
        symbols: int,
        features: int,
        *,
        rng: np.random.Generator | int,
        dtype: Any = np.float64,
    ) -> None:
        check_sizes(symbols=symbols, features=features)
        self.E = Tensor(init.generator(rng).normal(size=(symbols, features)), "E", dtype=dtype)

    def forward(self, x: Any) -> Any:
        """Vectors (..., features) of symbols.

        Args:
            x: integers of shape (...), or one-hot rows (or mixtures of symbols) of shape
                (..., symbols), whose product with E is the same.

        Raises:
            ValueError: a symbol is not in 0 ... symbols - 1, or the rows have another length.
        """
        if not hasattr(getattr(x, "dtype", None), "kind"):  # a list, or another library's array
            x = integers(x, "Embedding: x")
        if isinstance(x, (Tensor, Values)) or x.dtype.kind not in "iu":
            check_features(x, self.E.shape[0], "Embedding")
            return named(x @ self.E, "embedded")
        symbols = self.E.shape[0]
        if isinstance(x, np.ndarray) and x.size and not (x.min() >= 0 and x.max() < symbols):
            raise ValueError(
                f"Embedding: symbols must lie in 0 ... {symbols - 1}, got {x.min()} ... {x.max()}"
            )
        return self.E[x]


def positional_encoding(steps: int, features: int) -> NDArray[np.float64]:
    """A vector for each position in a sequence, of sines and cosines of falling frequency.

    `P[t, 2i] = sin(t / 10000^(2i/features))`, and `P[t, 2i+1]` the cosine of the same (Vaswani et
    al. 2017, section 3.5).

    Args:
        steps: how many positions t = 0, 1, ...
        features: the length of a vector.

    Returns:
        Shape (steps, features).
    """
    check_sizes(steps=steps, features=features)
    even = np.arange(0, features, 2)
    angles = np.arange(steps)[:, None] / 10000.0 ** (even / features)
    P = np.empty((steps, features))
    P[:, 0::2] = np.sin(angles)
    P[:, 1::2] = np.cos(angles[:, : features // 2])
    return P


class PositionalEncoding(Module):
    """Adds to each step of a sequence a vector that tells its position.

    Args:
        steps: the length of the longest sequence.
        features: the length of a vector.
        learned: whether the vectors are parameters, which start small and normally distributed,
            instead of `positional_encoding`.
        rng: a numpy Generator, or a seed; needed for those that are learned.
        dtype: float64 or float32.

    Attributes:
        P: shape (steps, features); a parameter if learned, else an array.
    """

    def __init__(
        self,
        steps: int,
        features: int,
        *,
        learned: bool = False,
        rng: np.random.Generator | int | None = None,
        dtype: Any = np.float64,
    ) -> None:
        P = positional_encoding(steps, features)
        self.P: Any = P.astype(dtype_of(dtype))
        if flag(learned, "learned"):
            P = 0.02 * init.generator(rng).normal(size=P.shape)  # type: ignore[arg-type]
            self.P = Tensor(P, "P", dtype=dtype)

    def forward(self, x: Any) -> Any:
        """x of shape (time, features) or (time, batch, features) to the same shape.

        Raises:
            ValueError: the sequence is longer than there are positions.
        """
        steps, features = self.P.shape
        check_features(x, features, "PositionalEncoding")
        if len(x.shape) not in (2, 3) or x.shape[0] > steps:
            raise ValueError(
                f"PositionalEncoding: expected (time, batch, {features}) of at most {steps} "
                f"steps, got shape {tuple(x.shape)}"
            )
        if not (hasattr(type(x), "_interpret") or isinstance(x, np.ndarray)):
            x = as_array(x, "x")
        P = self.P[: x.shape[0]]
        return x + (P if len(x.shape) == 2 else P[:, None])
