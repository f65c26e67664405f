"""Where the engine's conventions are not PyTorch's: its gradients derived a second time, and why.

An answer is taken from here only if the engine gave the same, and one of the reasons holds: then it
is explained, and counted under the reason's name. So no nan excuses what stands beside it.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import torch

from tinygrad_bp.rules import RULES

from .derivations import PARTIALS
from .torch_operations import count, dim_of, restored, softmax_in_the_limit


class Found(NamedTuple):
    """An operation, on these data, with gradient g of its result."""

    name: str
    data: list[Any]
    g: Any

    def has(self, test):
        return any(bool(test(x).any()) for x in self.data)


def _comparing(name):
    return name in ("max", "min") or (name in RULES and bool(RULES[name].kinks))


def _may_be_infinite(found):
    """Whether a derivative may be infinite or nan."""
    return found.name in RULES or found.has(lambda x: ~np.isfinite(x))


ZERO_UPSTREAM = "a gradient of exactly 0 upstream: 0 here, whatever the partial"
AT_INFINITY = "softmax at infinity: the others' limit here, nan for all there"
UNDERFLOW = "a zero with the sign of what underflows here, and without there"
OVERFLOW = "float32 overflows, here and in PyTorch's float32, and float64 does not"

# Where the conventions differ, each counted under this name. OVERFLOW is found by asking PyTorch
# once more, in float32; UNDERFLOW, as of log_sigmoid far out, by asking the derivations.
EXPLAINED = {
    "a comparison with nan": lambda d: _comparing(d.name) and d.has(np.isnan),
    "arctan2 at the origin: nan here, 0 there": lambda d: (
        d.name == "arctan2" and bool(np.logical_and(d.data[0] == 0, d.data[1] == 0).any())
    ),
    "clip between equal bounds: the bound's here, nobody's there": lambda d: (
        d.name == "clip" and bool(np.equal(d.data[1], d.data[2]).any())
    ),
    "prod at nan, infinity or overflow: the product of the others here, nan there": lambda d: (
        d.name == "prod" and not np.isfinite(np.prod(np.maximum(np.abs(d.data[0]), 1.0)))
    ),
    "logsumexp of a single nan: nan here, 1 there": lambda d: (
        d.name == "logsumexp" and d.data[0].ndim == 0 and d.has(np.isnan)
    ),
    AT_INFINITY: lambda d: d.name in ("softmax", "log_softmax") and d.has(np.isinf),
    ZERO_UPSTREAM: lambda d: bool((d.g == 0).any()) and _may_be_infinite(d),
}


def reasons(found):
    """The conventions that an operation may come under."""
    with np.errstate(all="ignore"):
        return [why for why, holds in EXPLAINED.items() if holds(found)]


# --- the engine's gradients ---------------------------------------------------------------------


def from_the_books(name, xs, z):
    """The partials of an elementwise operation, by the derivations of the scalar programs."""
    numbers = [x.detach().numpy() for x in xs]
    partials = [np.empty(z.shape) for _ in xs]
    for at in np.ndindex(z.shape):
        pairs = PARTIALS[name](*(float(x[at]) for x in numbers), float(z[at]))
        for partial, d in zip(partials, pairs[::2], strict=True):
            partial[at] = d
    return [torch.from_numpy(partial) for partial in partials]


def zero_times(g, d):
    return torch.where(g == 0, 0.0, g * d)


def _total(h, axis):
    dim = dim_of(h, axis)
    return h.sum(dim, keepdim=True) if dim else h


def _pulled_softmax(x, g, axis):
    p = softmax_in_the_limit(x, axis)
    weighted = zero_times(g, p)
    return weighted - zero_times(_total(weighted, axis), p)


def _pulled_extremum(of, x, g, axis):
    """In equal shares to the ties; to all of a row with nan, where nobody knows, nan."""
    dim = dim_of(x, axis)
    chosen = (x == (of(x, dim, True) if dim else x)).double()
    return zero_times(restored(g, x, axis), chosen / _total(chosen, axis))


def _pulled_prod(x, g, axis):
    """Each is handed the product of the others."""
    dim = dim_of(x, axis)
    kept = [i for i in range(x.dim()) if i not in dim]
    moved = x.permute((*kept, *dim))
    rows = moved.reshape(*(x.shape[i] for i in kept), 1, count(x, axis))
    others = torch.where(torch.eye(rows.shape[-1], dtype=torch.bool), 1.0, rows).prod(-1)
    back = others.reshape(moved.shape).permute([(*kept, *dim).index(i) for i in range(x.dim())])
    return zero_times(restored(g, x, axis), back)


PULLED = {
    "softmax": _pulled_softmax,
    "log_softmax": lambda x, g, axis: (
        g - zero_times(_total(g, axis), softmax_in_the_limit(x, axis))
    ),
    "logsumexp": lambda x, g, axis: zero_times(restored(g, x, axis), softmax_in_the_limit(x, axis)),
    "max": functools.partial(_pulled_extremum, torch.amax),
    "min": functools.partial(_pulled_extremum, torch.amin),
    "prod": _pulled_prod,
}
DEFAULT_AXIS = {"softmax": -1, "log_softmax": -1}
