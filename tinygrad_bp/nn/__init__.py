"""Networks: modules, cells, losses, and how weights start."""

from tinygrad_bp.nn import init
from tinygrad_bp.nn.attention import (
    MultiHeadAttention,
    attention_weights,
    scaled_dot_product_attention,
)
from tinygrad_bp.nn.embedding import Embedding, PositionalEncoding, positional_encoding
from tinygrad_bp.nn.exchange import load_torch_state_dict, torch_state_dict
from tinygrad_bp.nn.feedforward import MLP, Linear, Sequential
from tinygrad_bp.nn.losses import (
    absolute_error,
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber,
    kl_divergence,
    squared_error,
    weight_decay,
)
from tinygrad_bp.nn.masks import causal_mask, pad_sequences, padding_mask, zero_padding
from tinygrad_bp.nn.module import Module, named
from tinygrad_bp.nn.normalization import LayerNorm
from tinygrad_bp.nn.recurrent import CharRNN, GRUCell, LSTMCell, RNNCell, unroll
from tinygrad_bp.nn.regularization import Dropout
from tinygrad_bp.nn.sequences import GRU, LSTM, RNN
from tinygrad_bp.nn.transformer import TransformerBlock

__all__ = [
    "GRU",
    "LSTM",
    "MLP",
    "RNN",
    "CharRNN",
    "Dropout",
    "Embedding",
    "GRUCell",
    "LSTMCell",
    "LayerNorm",
    "Linear",
    "Module",
    "MultiHeadAttention",
    "PositionalEncoding",
    "RNNCell",
    "Sequential",
    "TransformerBlock",
    "absolute_error",
    "attention_weights",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "causal_mask",
    "cross_entropy",
    "huber",
    "init",
    "kl_divergence",
    "load_torch_state_dict",
    "named",
    "pad_sequences",
    "padding_mask",
    "positional_encoding",
    "scaled_dot_product_attention",
    "squared_error",
    "torch_state_dict",
    "unroll",
    "weight_decay",
    "zero_padding",
]
