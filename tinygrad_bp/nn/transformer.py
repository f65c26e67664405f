"""One block of a Transformer: attention across the steps, then a small network at each step."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bp.arguments import flag, fraction
from tinygrad_bp.nn import init
from tinygrad_bp.nn.attention import MultiHeadAttention
from tinygrad_bp.nn.feedforward import (
    Activation,
    Linear,
    activation_of,
    check_features,
    check_sizes,
)
from tinygrad_bp.nn.masks import both, padding_mask, zero_padding
from tinygrad_bp.nn.module import Module, named
from tinygrad_bp.nn.normalization import LayerNorm
from tinygrad_bp.nn.regularization import Dropout


class TransformerBlock(Module):
    """Self-attention and a feed-forward network, each added to what went into it.

    As in the paper the sum is normalised, `x = norm(x + f(x))` (Vaswani et al. 2017, section 3.1);
    or with `norm_first` what goes in, `x = x + f(norm(x))`, which trains more steadily (Xiong et
    al. 2020). It is PyTorch's `TransformerEncoderLayer`; with `causal=True`, what a language model
    is made of.

    Args:
        features: of inputs and outputs.
        heads: of the attention; divides the features.
        hidden: the width of the network; 4 · features, if not given.
        rng: a numpy Generator, or a seed.
        norm_first: where to normalise.
        activation: of the network, by name or as a function.
        dropout: the share left out in training: of the attention's weights, of the network's
            hidden units, and of what is added.
        eps: of the normalisation.
        dtype: float64 or float32.

    Attributes:
        attention, norm1: of the first half.
        linear1, linear2, norm2: of the second.
    """

    def __init__(
        self,
        features: int,
        heads: int,
        hidden: int | None = None,
        *,
        rng: np.random.Generator | int,
        norm_first: bool = False,
        activation: str | Activation = "relu",
        dropout: float = 0.0,
        eps: float = 1e-5,
        dtype: Any = np.float64,
    ) -> None:
        check_sizes(features=features, **({} if hidden is None else {"hidden": hidden}))
        fraction(dropout, "dropout")
        rng = init.generator(rng)
        hidden = 4 * features if hidden is None else hidden
        self.attention = MultiHeadAttention(features, heads, rng=rng, dropout=dropout, dtype=dtype)
        self.linear1 = Linear(features, hidden, rng=rng, initializer=init.he, dtype=dtype)
        self.linear2 = Linear(hidden, features, rng=rng, dtype=dtype)
        self.norm1 = LayerNorm(features, eps=eps, dtype=dtype)
        self.norm2 = LayerNorm(features, eps=eps, dtype=dtype)
        halves = ((self.linear1, self.norm1), (self.linear2, self.norm2))
        for i, (linear, norm) in enumerate(halves, 1):
            linear.name, norm.name = f"linear{i}", f"norm{i}"
            linear.W.label, linear.b.label = f"W{i}", f"b{i}"  # type: ignore[union-attr]
            norm.g.label, norm.b.label = f"norm{i}.g", f"norm{i}.b"
        self.activation = activation_of(activation)
        self.norm_first = flag(norm_first, "norm_first")
        self.dropout = Dropout(dropout, rng=rng)

    def forward(
        self, x: Any, *, mask: Any = None, causal: bool = False, lengths: Any = None
    ) -> Any:
        """x of shape (time, batch, features), or (time, features), to the same shape.

        Args:
            x: the steps.
            mask: True where a step may read, broadcast to (batch, heads, time, time).
            causal: whether a step may read itself and earlier ones only.
            lengths: how many steps of each sequence count, (batch,); nothing else is read, and the
                outputs there are zero.

        Raises:
            TypeError, ValueError: as `MultiHeadAttention`.
        """
        check_features(x, self.linear1.W.shape[0], "TransformerBlock: x")
        if lengths is not None:
            x = zero_padding(x, lengths)
            mask = both(mask, padding_mask(lengths, x.shape[0])[:, None, None, :])

        def attend(x: Any) -> Any:
            return self.attention(x, mask=mask, causal=causal)

        for part, norm in ((attend, self.norm1), (self._network, self.norm2)):
            if self.norm_first:
                x = x + self.dropout(part(norm(x)))
            else:
                x = norm(x + self.dropout(part(x)))
        return x if lengths is None else zero_padding(x, lengths)

    def _network(self, x: Any) -> Any:
        z = named(self.linear1(x), "z")
        a = named(self.activation(z), "a")
        return self.linear2(self.dropout(a))
