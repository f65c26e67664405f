"""Optimisers: what to do with a gradient.

Gradients are computed by `backward()`; what stands here only uses them. The parameters may be
Tensors, arrays of Values, or single Values.
"""

from tinygrad_bp.optim import lr_scheduler
from tinygrad_bp.optim.algorithms import SGD, Adam, AdamW, RMSprop
from tinygrad_bp.optim.clipping import clip_grad_norm, clip_grad_value
from tinygrad_bp.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
    StepLR,
)
from tinygrad_bp.optim.optimizer import Optimizer

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "ChainedScheduler",
    "CosineAnnealingLR",
    "LRScheduler",
    "LinearLR",
    "Optimizer",
    "RMSprop",
    "SequentialLR",
    "StepLR",
    "clip_grad_norm",
    "clip_grad_value",
    "lr_scheduler",
]
