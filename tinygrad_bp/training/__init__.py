"""Training: the loop, truncated back-propagation through time, and what is kept in files."""

from tinygrad_bp.training.batches import minibatches, progress, streams
from tinygrad_bp.training.bptt import Update, truncated_bptt

__all__ = [
    "Update",
    "minibatches",
    "progress",
    "streams",
    "truncated_bptt",
]
