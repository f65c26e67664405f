"""The operations once more, PyTorch's: what the engine's are compared with, by name.

Where elements only move, numpy says which goes where (of positions), and PyTorch moves them.
"""

import math

import numpy as np
import torch

from . import programs

torch.set_num_threads(1)
F = torch.nn.functional


class _Azmul(torch.autograd.Function):
    """The product that is 0 where g is 0, whatever d is; its derivatives are d and g."""

    @staticmethod
    def forward(ctx, g, d):
        ctx.save_for_backward(g, d)
        return torch.where((g == 0) & ~d.isfinite(), 0.0, g * d)

    @staticmethod
    def backward(ctx, up):
        g, d = ctx.saved_tensors
        return up * d, up * g


class _Arcsin(torch.autograd.Function):
    """With 1/√((1 - x)(1 + x)): PyTorch's own 1 - x·x loses the digits near 1."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.arcsin(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g / torch.sqrt((1.0 - x) * (1.0 + x))


class _Arccos(_Arcsin):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.arccos(x)

    @staticmethod
    def backward(ctx, g):
        return -_Arcsin.backward(ctx, g)


ELEMENTWISE = {
    "absolute": torch.abs,
    "add": torch.add,
    "arccos": _Arccos.apply,
    "arcsin": _Arcsin.apply,
    "arctan": torch.arctan,
    "arctan2": torch.arctan2,
    "azmul": _Azmul.apply,
    "clip": torch.clamp,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "divide": torch.divide,
    "elu": lambda x, alpha: torch.where(x > 0, x, alpha * torch.expm1(torch.clamp(x, max=0.0))),
    "erf": torch.erf,
    "erfc": torch.erfc,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "gelu": lambda x: 0.5 * x * torch.erfc(-math.sqrt(0.5) * x),
    "hypot": torch.hypot,
    "leaky_relu": lambda x, slope: torch.where(x > 0, x, slope * x),
    "log": torch.log,
    "log1p": torch.log1p,
    "log_sigmoid": F.logsigmoid,
    "logaddexp": torch.logaddexp,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "multiply": torch.multiply,
    "negative": torch.negative,
    "positive": torch.positive,
    "power": torch.pow,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "sqrt": torch.sqrt,
    "square": torch.square,
    "subtract": torch.subtract,
    "tan": torch.tan,
    "tanh": torch.tanh,
    "where": lambda condition, x, y: torch.where(condition != 0, x, y),
}

# Where PyTorch computes the derivative as a difference, such as 1 - y², its error is as large as
# the roundings of 1; the tails are compared elsewhere, with numbers of many digits.
DIFFERENCES = frozenset(
    [
        *("tanh", "sigmoid", "softplus", "log_sigmoid", "logaddexp", "silu", "gelu", "elu"),
        *("expm1", "log1p", "erf", "erfc", "tan"),
    ]
)


def dim_of(x, axis):
    if axis is None:
        return tuple(range(x.dim()))
    axes = axis if isinstance(axis, tuple) else (axis,)
    return tuple(a % x.dim() for a in axes) if x.dim() else ()


def count(x, axis):
    """How many elements are reduced to one."""
    return math.prod(x.shape[i] for i in dim_of(x, axis))


def restored(y, x, axis):
    """y, reduced from x, with axes of length 1 again."""
    dim = dim_of(x, axis)
    return y.reshape([1 if i in dim else n for i, n in enumerate(x.shape)])


def _reduced(function):
    """A reduction that PyTorch has along axes; over none of them it does nothing."""

    def reduction(x, axis=None, keepdims=False):
        dim = dim_of(x, axis)
        return function(x, dim, keepdims) if dim else x * 1.0

    return reduction


def _lined_up(x, axis):
    """x with the axes to reduce as one, the last."""
    dim = dim_of(x, axis)
    kept = [i for i in range(x.dim()) if i not in dim]
    y = x.permute((*kept, *dim))
    count = math.prod(x.shape[i] for i in dim)
    return y.reshape(*(x.shape[i] for i in kept), count)


def _with_ones(y, x, axis, keepdims):
    if not keepdims:
        return y
    dim = dim_of(x, axis)
    return y.reshape([1 if i in dim else n for i, n in enumerate(x.shape)])


def _on_rows(function):
    """A reduction that PyTorch has along one axis only."""

    def reduction(x, axis=None, keepdims=False):
        return _with_ones(function(_lined_up(x, axis)), x, axis, keepdims)

    return reduction


def _var(x, axis=None, ddof=0, keepdims=False):
    rows = _lined_up(x, axis)
    count = rows.shape[-1]
    # Without a gradient by the mean, as PyTorch's own: the deviations add up to 0.
    deviation = rows - rows.sum(-1, keepdim=True).detach() / count if count else rows
    total = (deviation * deviation).sum(-1)
    return _with_ones(total / torch.tensor(float(count - ddof)), x, axis, keepdims)


def mean(x, axis=None, keepdims=False):
    rows = _lined_up(x, axis)
    return _with_ones(rows.sum(-1) / torch.tensor(float(rows.shape[-1])), x, axis, keepdims)


def softmax_in_the_limit(x, axis=-1, log=False):
    """Where one is infinite, the shares of the others have 0 for a limit: its own is nan."""
    dim = dim_of(x, axis)
    peak = torch.amax(x, dim, keepdim=True) if dim else x
    shifted = x - torch.where(peak.isfinite(), peak, 0.0)
    total = shifted.exp().sum(dim, keepdim=True) if dim else shifted.exp()
    return shifted - total.log() if log else shifted.exp() / total


def softmax(x, axis=-1):
    dim = dim_of(x, axis)
    if not dim:
        return torch.softmax(x.reshape(1), 0).reshape(()) if not x.dim() else x * 0.0 + 1.0
    return torch.exp(x - torch.amax(x, dim, keepdim=True).detach()) / _exps(x, dim)


def _exps(x, dim):
    return torch.exp(x - torch.amax(x, dim, keepdim=True).detach()).sum(dim, keepdim=True)


def _log_softmax(x, axis=-1):
    dim = dim_of(x, axis)
    if not dim:
        return x * 0.0
    return x - torch.amax(x, dim, keepdim=True).detach() - torch.log(_exps(x, dim))


def _logsumexp(x, dim, keepdims):
    """Its gradient is softmax; PyTorch's exp(x - result) is wrong where result absorbs a log 2."""
    peak = torch.amax(x, dim, keepdim=True).detach()
    peak = torch.where(torch.isfinite(peak), peak, 0.0)
    total = torch.exp(x - peak).sum(dim, keepdim=True)
    return (torch.log(total) + peak).sum(dim, keepdim=keepdims)  # of one


def _places(function):
    """An operation that only moves elements: numpy moves their numbers, PyTorch the elements."""

    def operation(x, *arguments):
        numbers = function(np.arange(x.numel()).reshape(tuple(x.shape)), *arguments)
        numbers = torch.from_numpy(np.array(numbers, order="C"))
        return x.reshape(-1)[numbers.reshape(-1)].reshape(numbers.shape)

    return operation


def _scatter(x, index, shape):
    places = np.asarray(np.arange(math.prod(shape)).reshape(shape)[index])
    flat = torch.zeros(math.prod(shape), dtype=x.dtype)
    where = torch.from_numpy(places.reshape(-1).copy())
    return flat.index_add(0, where, x.expand(places.shape).reshape(-1)).reshape(shape)


def _pad(x, pad_width, constant_values=0.0):
    pairs = np.broadcast_to(pad_width, (x.dim(), 2))[::-1].reshape(-1).tolist()
    return F.pad(x, pairs, value=constant_values) if x.dim() else x * 1.0


def _triangle(function):
    return lambda x, k=0: function(x if x.dim() > 1 else x.expand(len(x), len(x)), k)


def _squeeze(x, axis=None):
    dim = [i for i, n in enumerate(x.shape) if n == 1] if axis is None else dim_of(x, axis)
    return x.reshape([n for i, n in enumerate(x.shape) if i not in dim])


def _linear(x, W, b):
    return torch.matmul(x, W) + b


def _contract(*operands_and_formula):
    """By its definition: all products first, and then their sum.

    PyTorch adds up an operand beforehand where it can, which is another order at infinities, and
    0 times nan where there is nothing to add up.
    """
    *operands, formula = operands_and_formula
    left, arrow, right = formula.partition("->")
    dots = "..." if "..." in left else ""
    letters = [c for c in left.replace("...", "") if c != ","]
    if not arrow:
        right = dots + "".join(sorted({c for c in letters if letters.count(c) == 1}))
    summed = "".join(sorted({c for c in letters if c not in right}))
    products = torch.einsum(f"{left}->{right}{summed}", *operands)
    return products.sum(tuple(range(-len(summed), 0))) if summed else products


STRUCTURAL = {
    "astype": lambda x, dtype: x * 1.0,
    "broadcast_to": lambda x, shape: x.expand(shape),
    "concatenate": lambda *xs: torch.cat(xs[:-1], xs[-1]),
    "contract": _contract,
    "cumsum": lambda x, axis=None: torch.cumsum(
        x if axis is not None else x.reshape(-1), axis or 0
    ),
    "expand_dims": _places(np.expand_dims),
    "flip": _places(np.flip),
    "getitem": _places(lambda x, index: x[index]),
    "linear": _linear,
    "log_softmax": _log_softmax,
    "logsumexp": _reduced(_logsumexp),
    "matmul": torch.matmul,
    "max": _reduced(torch.amax),
    "mean": mean,
    "min": _reduced(torch.amin),
    "norm": _on_rows(lambda rows: torch.linalg.vector_norm(rows, dim=-1)),
    "pad": _pad,
    "prod": _on_rows(lambda rows: torch.prod(rows, -1)),
    "reshape": lambda x, shape: x.reshape(shape),
    "scaled_sum": lambda x, factor: factor * x.sum(),
    "scatter": _scatter,
    "softmax": softmax,
    "squeeze": _squeeze,
    "stack": lambda *xs: torch.stack(xs[:-1], xs[-1]),
    "sum": _reduced(torch.sum),
    "take": _places(np.take),
    "take_along_axis": _places(np.take_along_axis),
    "transpose": lambda x, axes=None: x.permute(
        tuple(range(x.dim())[::-1] if axes is None else [a % x.dim() for a in axes])
    ),
    "tril": _triangle(torch.tril),
    "triu": _triangle(torch.triu),
    "var": _var,
    # Functions of programs.FUNCTIONS
    "one_hot": lambda x, indices, classes: x * F.one_hot(torch.tensor(indices).long(), classes),
    "row": lambda x, which: x[which],
    "split": _places(lambda x, sections, axis, which: np.split(x, sections, axis)[which]),
}

# Elements as they are, in other places.
MOVES = frozenset(
    [
        *("astype", "broadcast_to", "concatenate", "expand_dims", "flip", "getitem", "reshape"),
        *("row", "split", "squeeze", "stack", "take", "take_along_axis", "transpose"),
    ]
)

SEQUENCES = {"concatenate", "stack"}


def structural(step):
    """PyTorch's function of the operands."""
    function, arguments = STRUCTURAL[step.name], programs.arguments_of(step)
    if step.name in SEQUENCES and not arguments:
        arguments = (0,)
    return lambda *xs: function(*xs, *arguments)
