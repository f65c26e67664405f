"""Dropout: in training, a part of the numbers is left out at random.

(Srivastava et al. 2014; "inverted", so that nothing needs to be scaled afterwards.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bp.arguments import fraction, wrong_kind
from tinygrad_bp.inputs import as_array
from tinygrad_bp.nn import init
from tinygrad_bp.nn.module import Module, named


class Dropout(Module):
    """Each number is zero with probability p in training, and else divided by 1 - p.

    After `eval()`, and if p is zero, the input is the output.

    Args:
        p: the probability, in [0, 1).
        rng: a numpy Generator, or a seed: every call draws from it.

    Raises:
        ValueError: p is not in [0, 1).
    """

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator | int) -> None:
        self.p = fraction(p, "p", "a probability in [0, 1)")
        self.rng = init.generator(rng)

    @property
    def active(self) -> bool:
        """Whether a call leaves anything out."""
        return self.training and self.p > 0.0

    def forward(self, x: Any) -> Any:
        """x of any shape, with some elements zero and the others scaled."""
        if not self.active:
            return x
        if not isinstance(getattr(x, "shape", None), tuple):
            raise wrong_kind("Dropout: x", "a Tensor, Values or a numpy array", x)
        if not hasattr(type(x), "_interpret"):
            x = as_array(x, "Dropout: x")
        kept = self.rng.random(x.shape) >= self.p
        y = x * (kept / (1.0 - self.p)).astype(_dtype(x))
        return named(y, "dropout") if hasattr(type(y), "_interpret") else y


def _dtype(x: Any) -> Any:
    dtype = getattr(x, "dtype", None)
    return dtype if dtype == np.float32 else np.float64
