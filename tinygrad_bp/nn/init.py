"""How weights start: functions of an explicit random generator and a shape.

A shape is `(fan_in, fan_out)`: rows in, columns out, since the code multiplies `x @ W`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.arguments import count, is_integer, out_of_range, several, wrong_kind

Initializer = Callable[[np.random.Generator, tuple[int, int]], NDArray[Any]]


def zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[Any]:
    """All zeros: for biases. Weights that start at zero stay equal to one another."""
    generator(rng)
    return np.zeros(_sizes(shape, None))


def xavier(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[Any]:
    """Uniform in ±sqrt(6 / (fan_in + fan_out)), for tanh (Glorot & Bengio 2010, equation 16)."""
    rows, columns = _sizes(shape)
    bound = np.sqrt(6.0 / (rows + columns))
    return generator(rng).uniform(-bound, bound, (rows, columns))


def he(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[Any]:
    """Normal of variance 2 / fan_in, for relu (He et al. 2015, (10))."""
    rows, columns = _sizes(shape)
    return generator(rng).normal(0.0, np.sqrt(2.0 / rows), (rows, columns))


def orthogonal(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[Any]:
    """A random matrix with orthonormal rows or columns, whichever fit (Saxe et al. 2014).

    Repeated multiplication by it neither shrinks nor grows a vector, so that gradients start out
    surviving many steps of a recurrent network.
    """
    rows, columns = _sizes(shape)
    q, r = np.linalg.qr(generator(rng).normal(size=(max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))  # makes the distribution uniform (Mezzadri 2007)
    return q if rows >= columns else q.T


def generator(rng: np.random.Generator | int) -> np.random.Generator:
    """The generator, or a new one from a seed.

    Raises:
        TypeError: rng is neither; weights are never drawn from hidden global state.
    """
    if isinstance(rng, np.random.Generator):
        return rng
    if is_integer(rng):
        return np.random.default_rng(_seed(rng))
    raise wrong_kind("rng", "a numpy Generator or an int seed", rng)


def _seed(seed: Any) -> int:
    if seed < 0:
        raise out_of_range("rng", "a seed that is not negative", seed)
    return int(seed)


def _sizes(shape: Any, axes: int | None = 2) -> tuple[int, ...]:
    """A shape of positive lengths."""
    sizes = tuple(count(n, "shape") for n in several(shape, "shape", "lengths"))
    if axes is not None and len(sizes) != axes:
        raise ValueError(f"shape: expected (fan_in, fan_out), got {sizes}")
    return sizes
