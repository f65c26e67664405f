"""What each parameter of the public callables takes, as predicates: all else has to be refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.graph import Node

Accepts = Callable[[Any], bool]


def nothing(x: Any) -> bool:
    return False


def anything(x: Any) -> bool:
    return True


def none(x: Any) -> bool:
    return x is None


def flag(x: Any) -> bool:
    return isinstance(x, (bool, np.bool_))


def text(x: Any) -> bool:
    return isinstance(x, str)


def path(x: Any) -> bool:
    return isinstance(x, (str, os.PathLike))


def function(x: Any) -> bool:
    return callable(x)


def integer(x: Any) -> bool:
    return isinstance(x, (int, np.integer)) and not isinstance(x, bool)


def count(x: Any) -> bool:
    return integer(x) and 1 <= x < 10**6


def natural(x: Any) -> bool:
    return integer(x) and 0 <= x < 10**6


def real(x: Any) -> bool:
    """A single real number, nan and infinite ones too; also in an array or node of one."""
    if isinstance(x, bool):
        return False
    return isinstance(x, (int, float, np.integer, np.floating))


def finite(x: Any) -> bool:
    return real(x) and -1e300 < x < 1e300


def positive(x: Any) -> bool:
    return finite(x) and x > 0


def not_negative(x: Any) -> bool:
    return finite(x) and x >= 0


def share(x: Any) -> bool:
    return finite(x) and 0 <= x < 1


def numbers(x: Any) -> bool:
    """Real numbers of a shape: what `tb.Tensor` takes."""
    if isinstance(x, np.ndarray):
        return x.dtype.kind in "iuf" and x.size < 10**7 and not isinstance(x, np.ma.MaskedArray)
    return real(x) or (isinstance(x, list) and not x)


def node(x: Any) -> bool:
    return isinstance(x, (Node, tb.Values))


def operand(x: Any) -> bool:
    """What an operation can compute with, if the shapes fit."""
    return numbers(x) or node(x)


def condition(x: Any) -> bool:
    return operand(x) or isinstance(x, bool)


def leaves(x: Any) -> bool:
    return node(x) or isinstance(x, nn.Module)


def axis(x: Any) -> bool:
    return x is None or (integer(x) and -3 <= x < 3)


def mapping(x: Any) -> bool:
    return isinstance(x, Mapping)


def iterable(x: Any) -> bool:
    return isinstance(x, Iterable)


def seed(x: Any) -> bool:
    return natural(x) or (x == 10**30 and integer(x))


def either(*of: Accepts) -> Accepts:
    return lambda x: any(accepts(x) for accepts in of)


def only(*values: Any) -> Accepts:
    return lambda x: any(x is v or (isinstance(x, str) and x == v) for v in values)


SCHEDULES = ("StepLR", "LinearLR", "CosineAnnealingLR", "ChainedScheduler", "SequentialLR")

# By the name of a parameter, wherever it stands; and below, where one takes something else.
PARAMETERS: dict[str, Accepts] = {
    **dict.fromkeys(("keepdims", "requires_grad", "leaves_only", "has_aux", "check", "infinite",
                     "analytic", "takes_sequence", "raise_on_failure", "causal", "learned", "bias",
                     "need_weights", "norm_first", "reverse", "mode", "nesterov", "centered",
                     "restore_best", "resume", "compiled", "unnamed", "numbers", "times",
                     "heat_maps", "strip", "embedded", "optimize"), flag),
    **dict.fromkeys(("label", "text", "kinks", "title", "description", "monitor"), text),
    **dict.fromkeys(("path", "folder"), path),
    **dict.fromkeys(("f", "function", "hook", "loss", "cell", "make", "initializer",
                     "recurrent"), function),
    **dict.fromkeys(("steps", "samples", "features", "symbols", "hidden", "inputs", "outputs",
                     "epochs", "batch_size", "classes", "step_size", "T_max", "total_iters",
                     "patience", "heads", "size", "n", "bits", "length", "arms", "max_nodes",
                     "order", "passes", "k1", "k2", "threads"), count),
    **dict.fromkeys(("axis",), axis),
    **dict.fromkeys(("create_graph", "fold", "full"), either(none, flag)),
    **dict.fromkeys(("rng", "seed"), seed),
    **dict.fromkeys(("lr", "weight_decay", "gamma", "eta_min", "noise", "min_delta", "strength"),
                    not_negative),
    **dict.fromkeys(("eps", "max_norm", "clip_value", "delta", "huge", "tiny"), positive),
    **dict.fromkeys(("momentum", "dampening", "alpha", "p", "dropout", "label_smoothing"), share),
    **dict.fromkeys(("x", "y", "W", "b", "low", "high", "slope", "q", "k", "v", "z", "o", "a", "h"),
                    operand),
    # As numpy has it.
    **dict.fromkeys(("keepdims",), either(flag, integer)),
    **dict.fromkeys(("tb.expand_dims.axis", "tb.flip.axis", "tb.stack.axis"),
                    either(axis, flag, lambda x: x == () or (isinstance(x, list) and not x))),
    **dict.fromkeys(("tb.tril.k", "tb.triu.k"), either(integer, flag)),
    "tb.check_gradients.inputs": leaves, "tb.structural.check": iterable,
    "tb.derivative.n": natural, "tb.taylor.order": natural,
    # Where None, 0 or nan has a meaning, or the value is handed on to be judged by another.
    **dict.fromkeys(("binary_addition.samples", "TransformerBlock.hidden"), either(none, count)),
    **dict.fromkeys(("why.tiny", "LayerNorm.eps", "TransformerBlock.eps"), not_negative),
    **dict.fromkeys(("contributions.loss", "deltas.loss", "paths.loss", "why.loss"), node),
    **dict.fromkeys((f"{kind}.at.lr" for kind in SCHEDULES), real),
    **dict.fromkeys(("EarlyStopping.patience", "EarlyStopping.monitor", "EarlyStopping.min_delta",
                     "EarlyStopping.mode", "EarlyStopping.restore_best"), anything),  # see `fit`
    **dict.fromkeys(("k1", "k2", "max_nodes"), integer),
    "weight_decay.strength": lambda x: finite(x) or (node(x) and np.size(x.data) == 1),
    "accuracy.outputs": operand, "fit.epochs": natural,
    "streams.symbols": lambda x: isinstance(x, np.ndarray), "csv.classes": flag,
    "compile.function": either(none, function), "MLP.initializer": either(none, function),
    "cost.inputs": operand, "derive.symbols": either(none, mapping),
    "play.path": either(none, path),
    "draw.inputs": anything, "through_time.times": none, "elu.alpha": operand,
    "leaky_relu.slope": operand,
    "condition": condition,
    "dtype": none,
}  # fmt: skip
