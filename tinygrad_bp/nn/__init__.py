"""Networks: modules, cells, losses, and how weights start."""

from tinygrad_bp.nn import init
from tinygrad_bp.nn.feedforward import MLP, Linear
from tinygrad_bp.nn.losses import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    squared_error,
    weight_decay,
)
from tinygrad_bp.nn.module import Module, named
from tinygrad_bp.nn.recurrent import CharRNN, GRUCell, LSTMCell, RNNCell, unroll

__all__ = [
    "MLP",
    "CharRNN",
    "GRUCell",
    "LSTMCell",
    "Linear",
    "Module",
    "RNNCell",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "init",
    "named",
    "squared_error",
    "unroll",
    "weight_decay",
]
