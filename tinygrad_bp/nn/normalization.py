"""Layer normalisation: every sample is brought to mean 0 and variance 1 over its own features."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bp.arguments import at_least_zero
from tinygrad_bp.array_rules import mean
from tinygrad_bp.nn.feedforward import check_features, check_sizes
from tinygrad_bp.nn.module import Module, as_node, named
from tinygrad_bp.rules import sqrt, square
from tinygrad_bp.tensor import Tensor


class LayerNorm(Module):
    """`g (x - μ) / sqrt(σ² + ε) + b`, with mean μ and variance σ² over the last axis.

    (Ba, Kiros & Hinton 2016, equation 4; the variance is divided by the number of features.) μ, σ²
    and the normalised x are named `mu`, `var` and `x_hat`.

    Args:
        features: the length of the last axis.
        eps: ε, which keeps a constant sample from a division by zero.
        dtype: float64 or float32.

    Attributes:
        g: the gain, shape (features,); starts at one.
        b: the bias, shape (features,); starts at zero.
    """

    def __init__(self, features: int, *, eps: float = 1e-5, dtype: Any = np.float64) -> None:
        check_sizes(features=features)
        eps = at_least_zero(eps, "eps")
        self.g = Tensor(np.ones(features), "g", dtype=dtype)
        self.b = Tensor(np.zeros(features), "b", dtype=dtype)
        self.eps = eps

    def forward(self, x: Any) -> Any:
        """x of shape (..., features) to the same shape."""
        check_features(x, self.g.shape[0], "LayerNorm")
        x = as_node(x, self.g)
        deviation = x - named(mean(x, -1, True), "mu")
        var = named(mean(square(deviation), -1, True), "var")
        return named(deviation / sqrt(var + self.eps), "x_hat") * self.g + self.b
