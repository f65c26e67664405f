"""Training: the loop, truncated back-propagation through time, and what is kept in files."""

from tinygrad_bp.training.batches import minibatches, progress, streams
from tinygrad_bp.training.bptt import Update, truncated_bptt
from tinygrad_bp.training.history import EarlyStopping, History, accuracy
from tinygrad_bp.training.loop import Callback, Run, fit
from tinygrad_bp.training.saving import load_model, save_model

__all__ = [
    "Callback",
    "EarlyStopping",
    "History",
    "Run",
    "Update",
    "accuracy",
    "fit",
    "load_model",
    "minibatches",
    "progress",
    "save_model",
    "streams",
    "truncated_bptt",
]
