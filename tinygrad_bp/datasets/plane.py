"""Classes in the plane that no straight line can tell apart."""

from __future__ import annotations

import numpy as np

from tinygrad_bp.arguments import at_least_zero, finite
from tinygrad_bp.datasets.samples import XY, check_counts
from tinygrad_bp.nn import init


def moons(samples: int, noise: float = 0.1, *, rng: np.random.Generator | int) -> XY:
    """Two half circles that reach into one another.

    Args:
        samples: how many points; half of each class, and one more of the first if it is odd.
        noise: the standard deviation of the normal noise in both coordinates.
        rng: a numpy Generator, or a seed.

    Returns:
        x of shape (samples, 2), float64; and y of shape (samples,), 0 or 1; in random order.
    """
    check_counts(samples=samples)
    generator = init.generator(rng)
    y = generator.permutation(np.arange(samples) % 2)
    angle = generator.uniform(0.0, np.pi, samples)
    upper = np.stack([np.cos(angle), np.sin(angle)], 1)
    x = np.where(y[:, None] == 0, upper, [1.0, 0.5] - upper)
    return XY(x + generator.normal(0.0, at_least_zero(noise, "noise"), x.shape), y)


def spirals(
    samples: int,
    arms: int = 2,
    turns: float = 1.0,
    noise: float = 0.02,
    *,
    rng: np.random.Generator | int,
) -> XY:
    """Arms of a spiral that wind around one another (Lang & Witbrock 1988, of two).

    Args:
        samples: how many points, spread evenly over the arms.
        arms: how many arms; each is a class.
        turns: how often an arm goes around.
        noise: the standard deviation of the normal noise in both coordinates.
        rng: a numpy Generator, or a seed.

    Returns:
        x of shape (samples, 2), float64, in about [-1, 1]; and y of shape (samples,), 0 ... arms-1;
        in random order.
    """
    check_counts(samples=samples, arms=arms)
    turns = finite(turns, "turns")
    generator = init.generator(rng)
    y = generator.permutation(np.arange(samples) % arms)
    radius = np.sqrt(generator.uniform(0.01, 1.0, samples))  # as dense outside as inside
    angle = 2.0 * np.pi * (turns * radius + y / arms)
    x = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return XY(x + generator.normal(0.0, at_least_zero(noise, "noise"), x.shape), y)
