"""Networks: modules, cells, losses, and how weights start."""

from tinygrad_bp.nn import init
from tinygrad_bp.nn.exchange import load_torch_state_dict, torch_state_dict
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
from tinygrad_bp.nn.regularization import Dropout
from tinygrad_bp.nn.sequences import GRU, LSTM, RNN, pad_sequences

__all__ = [
    "GRU",
    "LSTM",
    "MLP",
    "RNN",
    "CharRNN",
    "Dropout",
    "GRUCell",
    "LSTMCell",
    "Linear",
    "Module",
    "RNNCell",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "init",
    "load_torch_state_dict",
    "named",
    "pad_sequences",
    "squared_error",
    "torch_state_dict",
    "unroll",
    "weight_decay",
]
