"""Attention: every step of a sequence reads from all the others, as far as it may.

A query is compared with the key of each step; the comparisons, made positive and of sum 1 by a
softmax, are the weights in a mean of the steps' values (Vaswani et al. 2017, section 3.2). What may
not be read gets the score -inf, and so a weight and a gradient of exactly zero.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_bp.arguments import flag, fraction, is_integer, out_of_range
from tinygrad_bp.array_rules import reshape, softmax, transpose
from tinygrad_bp.nn import init
from tinygrad_bp.nn.feedforward import Linear, check_arrays, check_features, check_sizes
from tinygrad_bp.nn.masks import Mask, both, causal_mask, padding_mask, zero_padding
from tinygrad_bp.nn.module import Module, named
from tinygrad_bp.nn.regularization import Dropout
from tinygrad_bp.rules import where


def attention_weights(q: Any, k: Any, mask: Any = None, *, causal: bool = False) -> Any:
    """`softmax(q kᵀ / sqrt(d))`: how much each query reads of each step, rows of sum 1.

    The softmax's argument is named `scores`, and the result `weights`.

    Args:
        q: queries of shape (..., T, d).
        k: keys of shape (..., S, d).
        mask: True where a query may read, in a shape that broadcasts to (..., T, S).
        causal: whether query t may read the steps s <= t only.

    Returns:
        Shape (..., T, S).

    Raises:
        TypeError: the mask is not of truth values.
        ValueError: the shapes do not fit, or a query may read nothing at all.
    """
    check_arrays(q=q, k=k)
    if len(q.shape) < 2 or len(k.shape) < 2 or q.shape[-1] != k.shape[-1]:
        raise ValueError(
            f"attention: expected q (..., T, d) and k (..., S, d), got {tuple(q.shape)} and "
            f"{tuple(k.shape)}"
        )
    axes = (*range(len(k.shape) - 2), len(k.shape) - 1, len(k.shape) - 2)
    scores = (q @ transpose(k, axes)) * (1.0 / math.sqrt(q.shape[-1]))
    allowed = _allowed(mask, causal, tuple(scores.shape))
    if allowed is not None:
        scores = where(allowed, scores, -math.inf)
    return named(softmax(named(scores, "scores"), -1), "weights")


def scaled_dot_product_attention(
    q: Any, k: Any, v: Any, mask: Any = None, *, causal: bool = False
) -> Any:
    """`softmax(q kᵀ / sqrt(d)) v` (Vaswani et al. 2017, equation 1).

    Args:
        q: queries of shape (..., T, d).
        k: keys of shape (..., S, d).
        v: values of shape (..., S, n). They must be finite, those which nobody reads included:
            0 · nan is nan.
        mask: True where a query may read, in a shape that broadcasts to (..., T, S).
        causal: whether query t may read the steps s <= t only.

    Returns:
        Shape (..., T, n).

    Raises:
        TypeError: the mask is not of truth values.
        ValueError: the shapes do not fit, or a query may read nothing at all.
    """
    check_arrays(q=q, k=k, v=v)
    if len(v.shape) < 2 or len(k.shape) < 2 or v.shape[-2] != k.shape[-2]:
        raise ValueError(
            f"attention: expected k (..., S, d) and v (..., S, n), got {tuple(k.shape)} and "
            f"{tuple(v.shape)}"
        )
    return attention_weights(q, k, mask, causal=causal) @ v


def _allowed(mask: Any, causal: bool, shape: tuple[int, ...]) -> Mask | None:
    """Both conditions as one, in the shape of the scores."""
    if flag(causal, "causal") and shape[-1] != shape[-2]:
        raise ValueError(f"causal: expected as many keys as queries, got scores of {shape}")
    allowed = both(mask, None)
    if allowed is not None:
        try:
            allowed = np.broadcast_to(allowed, shape)
        except ValueError:
            raise ValueError(
                f"mask: expected a shape that broadcasts to {shape}, got {np.shape(mask)}"
            ) from None
    if causal:
        allowed = both(allowed, causal_mask(shape[-1]))
    if allowed is not None and not allowed.any(-1).all():
        raise ValueError("mask: there is a query that may read nothing")
    return allowed


class MultiHeadAttention(Module):
    """Several attentions side by side, each over its own part of the features.

    `q = query W_q + b_q`, `k` and `v` likewise; each is cut into heads; what the heads read is
    joined and multiplied by W_o, plus b_o (Vaswani et al. 2017, section 3.2.2). `q`, `k`, `v`,
    `scores` and `weights` are named.

    Args:
        features: of inputs and outputs.
        heads: how many; divides the features.
        rng: a numpy Generator, or a seed.
        dropout: the share of the weights that is left out in training.
        dtype: float64 or float32.

    Attributes:
        q, k, v, o: `Linear`, each with a W of shape (features, features) and a b.
    """

    q: Linear
    k: Linear
    v: Linear
    o: Linear

    def __init__(
        self,
        features: int,
        heads: int,
        *,
        rng: np.random.Generator | int,
        dropout: float = 0.0,
        dtype: Any = np.float64,
    ) -> None:
        check_sizes(features=features)
        fraction(dropout, "dropout")
        if not is_integer(heads) or heads < 1 or features % heads:
            raise out_of_range("heads", f"a divisor of {features}", heads)
        rng = init.generator(rng)
        for name in ("q", "k", "v", "o"):
            linear = Linear(features, features, rng=rng, dtype=dtype)
            linear.W.label, linear.b.label = f"W_{name}", f"b_{name}"  # type: ignore[union-attr]
            linear.name = name
            setattr(self, name, linear)
        self.heads = int(heads)
        self.dropout = Dropout(dropout, rng=rng)

    def forward(
        self,
        query: Any,
        key: Any = None,
        value: Any = None,
        *,
        mask: Any = None,
        causal: bool = False,
        lengths: Any = None,
        need_weights: bool = False,
    ) -> Any:
        """What each step of the query reads.

        Args:
            query: shape (time, batch, features), or (time, features) for a single sequence.
            key: what is compared with; the query itself, if not given.
            value: what is read; the key, if not given.
            mask: True where a step may read (the opposite of PyTorch's masks for this layer),
                broadcast to (batch, heads, time, key's time); without batch, (heads, ...).
            causal: whether a step may read itself and earlier ones only.
            lengths: how many steps of each sequence of keys count, (batch,): nothing in the
                padding is read, be it nan; and of a sequence that reads itself, the outputs there
                are zero.
            need_weights: return the weights too.

        Returns:
            Shape (time, batch, features). With the weights, the pair of it and these, of shape
            (batch, heads, time, key's time).

        Raises:
            TypeError, ValueError: the shapes do not fit, a length is not in 1 ... time, or a step
                may read nothing at all.
        """
        if lengths is not None:
            query, key, value, mask = _without_padding(query, key, value, mask, lengths)
        keys = query if key is None else key
        inputs = {"query": query, "key": keys, "value": keys if value is None else value}
        for name, x in inputs.items():
            check_features(x, self.q.W.shape[0], f"MultiHeadAttention {name}")
            if len(x.shape) not in (2, 3) or x.shape[1:] != query.shape[1:]:
                raise ValueError(
                    f"MultiHeadAttention: expected {name} of shape (time, batch, features) with "
                    f"the query's batch, got {tuple(x.shape)}"
                )
        if inputs["value"].shape[0] != keys.shape[0]:
            raise ValueError(
                f"MultiHeadAttention: expected a value for each of the {keys.shape[0]} keys, got "
                f"{inputs['value'].shape[0]}"
            )
        projected = zip((self.q, self.k, self.v), inputs.values(), strict=True)
        q, k, v = (self._heads(named(linear(x), linear.name)) for linear, x in projected)
        weights = attention_weights(q, k, mask, causal=causal)
        read = self.o(self._joined(self.dropout(weights) @ v))
        if lengths is not None and key is None:
            read = zero_padding(read, lengths)
        return (read, weights) if flag(need_weights, "need_weights") else read

    def _heads(self, x: Any) -> Any:
        """(time, batch, features) cut into (batch, heads, time, features / heads)."""
        parts = reshape(x, (*x.shape[:-1], self.heads, x.shape[-1] // self.heads))
        return transpose(parts, (1, 2, 0, 3) if len(x.shape) == 3 else (1, 0, 2))

    def _joined(self, parts: Any) -> Any:
        """The way back."""
        x = transpose(parts, (2, 0, 1, 3) if len(parts.shape) == 4 else (1, 0, 2))
        return reshape(x, (*x.shape[:-2], x.shape[-2] * x.shape[-1]))


def _without_padding(query: Any, key: Any, value: Any, mask: Any, lengths: Any) -> Any:
    """The same with zeros in the place of the padding, and a mask that keeps it from being read."""
    if key is None:
        query = keys = zero_padding(query, lengths)
    else:
        key = keys = zero_padding(key, lengths)
    if value is not None:
        value = zero_padding(value, lengths)
    allowed = padding_mask(lengths, keys.shape[0])[:, None, None, :]
    return query, key, value, both(mask, allowed)
