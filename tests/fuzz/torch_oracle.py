"""PyTorch's answer for every operation, one at a time, on the numbers that the engine computed.

Each operation is asked for its result and for what it hands to its operands, given the engine's own
operands and the engine's own gradient of the result. If all of these agree, and the gradients of
the nodes are the sums of what they are handed, then by induction every value and gradient is right.
And no rounding of an earlier operation is magnified on the way to the comparison, however badly
conditioned the program is.
"""

import functools
from collections import Counter
from typing import Any

import numpy as np
import torch

from tinygrad_bp.array_rules import ARRAY_RULES
from tinygrad_bp.rules import RULES

from . import Mismatch, programs
from .derivations import VALUES
from .paths import MAX, either_zero
from .torch_conventions import (
    AT_INFINITY,
    DEFAULT_AXIS,
    OVERFLOW,
    PULLED,
    UNDERFLOW,
    ZERO_UPSTREAM,
    Found,
    from_the_books,
    reasons,
    zero_times,
)
from .torch_operations import (
    DIFFERENCES,
    ELEMENTWISE,
    MOVES,
    STRUCTURAL,
    count,
    dim_of,
    mean,
    restored,
    softmax,
    softmax_in_the_limit,
    structural,
)

# --- how large the terms are, whose roundings are the error -------------------------------------

# Value and pullback are sums of products of numbers, with the signs of the operands: the same
# operation of the absolute values has the sum of the absolute terms.
ABSOLUTE = frozenset(STRUCTURAL) - {
    *("var", "norm", "prod", "max", "min", "softmax", "log_softmax", "logsumexp")
}


def _terms_of_var(step, x, z, a):
    axis, ddof, _ = (*step.arguments, None, 0, False)[:3] if step.arguments else (None, 0, False)
    deviation = x.abs() + restored(mean(x.abs(), axis), x, axis)
    n = max(count(x, axis) - ddof, 1)
    value = restored(mean(deviation**2, axis), x, axis) * count(x, axis) / n
    pulled = 2.0 * restored(a, x, axis) * deviation / n
    return value.reshape(z.shape) if value.numel() == z.numel() else z, [pulled]


def _terms_of_softmax(step, x, z, a):
    axis = step.arguments[0] if step.arguments else -1
    spread = 1.0 + _spread(x, axis)
    weighted = a * z
    dim = dim_of(x, axis)
    total = weighted.sum(dim, keepdim=True) if dim else weighted
    return z * spread, [(weighted + total * z) * spread]


def _spread(x, axis):
    """How far x is from its maximum: its rounding is that of the exponent."""
    dim = dim_of(x, axis)
    return (x - (torch.amax(x, dim, keepdim=True) if dim else x)).abs()


def _terms_of_log_softmax(step, x, z, a):
    axis = step.arguments[0] if step.arguments else -1
    dim = dim_of(x, axis)
    total = a.sum(dim, keepdim=True) if dim else a
    return z.abs() + _spread(x, axis) + 1.0, [a + torch.exp(z) * total * (1.0 + z.abs())]


def _terms_of_logsumexp(step, x, z, a):
    axis = step.arguments[0] if step.arguments else None
    shares = softmax(x, axis) * restored(a, x, axis) * (1.0 + _spread(x, axis))
    # log(total) + peak: both count, and so does the rounding of the total, which is 1 or more
    peak = torch.amax(x, dim_of(x, axis), keepdim=True) if x.dim() else x
    return z.abs() + peak.abs().reshape(z.shape) + 1.0, [shares]


def _plain(step, x, z, a):
    """No sums: the result, and what is handed on, are right to some roundings of their own."""
    return z.abs(), [None]


TERMS = {
    "var": _terms_of_var,
    "softmax": _terms_of_softmax,
    "log_softmax": _terms_of_log_softmax,
    "logsumexp": _terms_of_logsumexp,
    "norm": _plain,
    "prod": _plain,
    "max": _plain,
    "min": _plain,
}

# --- one operation ------------------------------------------------------------------------------


class Asked:
    """What PyTorch says of one operation.

    Attributes:
        value: the result; terms: the sum of its absolute terms.
    """

    def __init__(self, step, xs):
        """Ask for the result of a step, of operands xs in any dtype, and prepare the rest."""
        self.step, self.xs = step, xs
        self.is_elementwise = step.name in RULES
        if self.is_elementwise:
            wide = torch.broadcast_tensors(*xs)
            self.leaves = [x.detach().clone().requires_grad_() for x in wide]
            self.z = ELEMENTWISE[step.name](*self.leaves)
            self.partials = _grad(self.z, self.leaves, torch.ones_like(self.z))
            self.terms = self.z.detach().abs()
            if step.name in ("add", "subtract", "gelu", "silu", "elu"):
                self.terms = sum(x.detach().abs() for x in self.leaves)
            if step.name == "logaddexp":  # the larger, and at most log 2
                self.terms = torch.maximum(*(x.detach() for x in self.leaves)).abs() + 0.7
        else:
            self.leaves = [x.detach().clone().requires_grad_() for x in xs]
            function = structural(step)
            self.z = function(*self.leaves)
            if step.name in ABSOLUTE:
                self.absolute = [x.detach().abs().requires_grad_() for x in xs]
                self.sizes = function(*self.absolute)
                self.terms = self.sizes.detach().abs()
            else:
                self.terms, _ = TERMS[step.name](step, xs[0], self.z.detach(), self.z.detach())
        self.value = self.z.detach()

    def handed(self, g):
        """What each operand is handed for a gradient g of the result."""
        if not self.is_elementwise:
            return _grad(self.z, self.leaves, g, keep=True)
        return [_sum_to(torch.where(g == 0, 0.0, g * p), x) for p, x in self._pairs()]

    def sizes_of(self, a):
        """The sums of the absolute terms of that, for a gradient of absolute size a."""
        if self.is_elementwise:
            more = 1.0 if self.step.name in DIFFERENCES else 0.0
            if self.step.name == "clip":  # between equal bounds, PyTorch's partials are 0
                more = torch.where(self.leaves[1] == self.leaves[2], 1.0, 0.0).detach()
            return [_sum_to(torch.where(a == 0, 0.0, a * (p.abs() + more)), x)
                    for p, x in self._pairs()]  # fmt: skip
        if self.step.name in ABSOLUTE:
            return [h.abs() for h in _grad(self.sizes, self.absolute, a, keep=True)]
        _, parts = TERMS[self.step.name](self.step, self.xs[0], self.value, a)
        handed = [h.abs() for h in _grad(self.z, self.leaves, a, keep=True)]
        return [
            h if part is None else part.expand(h.shape)
            for h, part in zip(handed, parts, strict=True)
        ]

    def _pairs(self):
        return zip(self.partials, self.xs, strict=True)

    def without_condition(self, handed):
        """A condition is handed nothing, and not 0 times what may be infinite."""
        if not self.is_elementwise:
            return handed
        rule = RULES[self.step.name]
        return [
            torch.zeros_like(h) if partial is None else h
            for h, partial in zip(handed, rule.partials, strict=True)
        ]


def _grad(z, leaves, g, keep=False):
    if not z.requires_grad:
        return [torch.zeros_like(x) for x in leaves]
    return torch.autograd.grad(
        z, leaves, g, retain_graph=keep, allow_unused=True, materialize_grads=True
    )


def _sum_to(g, x):
    return g.sum_to_size(x.shape) if g.shape != x.shape else g


def as_torch(x: Any) -> Any:
    return torch.from_numpy(np.array(x, np.float64))


# --- a program ----------------------------------------------------------------------------------

# Half a rounding per operation: results here have at most 200 terms, and elementary functions are
# right to 4 units in numpy and in PyTorch.
ROUNDINGS = 200


@functools.cache
def _eps(dtype):
    return float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny)


def same(got, expected, terms, dtype):
    """Equal but for the roundings of some terms; elements that are nan, or infinite, alike.

    Terms that overflow are as large as a float can be, and excuse no infinity.
    """
    eps, tiny = _eps(dtype)
    with np.errstate(all="ignore"):
        expected = np.asarray(expected, np.float64)
        bound = ROUNDINGS * (eps * np.minimum(terms, MAX) + tiny)
        near = np.abs(got - expected) <= bound
        return near | (got == expected) | (np.isnan(got) & np.isnan(expected))


def _same_narrow(got, expected, terms):
    """The same in float32, where terms that it has no room for excuse nothing."""
    size = np.where(np.isfinite(expected), np.abs(expected), 0.0)
    fits = np.abs(terms) <= np.finfo(np.float32).max
    return same(got, expected, np.where(fits, terms, size), "float32")


class Comparison:
    """The engine's results and gradients of a program against PyTorch's.

    Args:
        program: the program.
        leaves, results: the nodes, after a sweep.
        tally: what was compared, and what was explained.
    """

    def __init__(self, program, leaves, results, tally: Counter):
        self.program, self.leaves, self.results, self.tally = program, leaves, results, tally
        self.asked, self.narrow = [], {}
        for k, step in enumerate(program.steps):
            operands = programs.operands_of(step, leaves, results)
            data = [getattr(x, "_array", x) for x in operands]
            with np.errstate(all="ignore"):
                asked = Asked(step, [as_torch(x) for x in data])
            self.asked.append(asked)
            self._check_value(k, results[k]._array, data)

    def _check_value(self, k, got, data):
        """Raise unless they agree, or the difference is an explained one."""
        expected, terms = self.asked[k].value.numpy(), self.asked[k].terms.numpy()
        if got.shape != expected.shape:
            raise Mismatch(f"value of operation {k}: shape {got.shape}, PyTorch {expected.shape}")
        ok = same(got, expected, terms, _coarsest([got]))
        self._check_zeros(k, got, expected, data)
        if ok.all():
            return
        if got.dtype == np.float32 and self._overflows(k):
            ok |= _same_narrow(got, self._in_float32(k).value.numpy(), terms)
            if ok.all():
                self.tally[f"({OVERFLOW})"] += 1
                return
        if same(got, expected, terms, _coarsest(data)).all():  # as elu's, exp(x) of a float32 x
            self.tally["(a value of float64, of functions of a float32 operand)"] += 1
            return
        step = self.program.steps[k]
        if step.name in ("softmax", "log_softmax") and np.isinf(data[0]).any():
            axis = step.arguments[0] if step.arguments else -1
            limit = softmax_in_the_limit(self.asked[k].xs[0], axis, step.name == "log_softmax")
            if (ok | same(got, limit.numpy(), 0.0, "float64")).all():
                self.tally[f"({AT_INFINITY})"] += 1
                return
        raise Mismatch(
            f"value of {step.name}: {_first(got, ok)}, PyTorch {_first(expected, ok)}"
            f" (terms {_first(terms, ok)})"
        )

    def _check_zeros(self, k, got, expected, data):
        """Zeros have their sign, where elements are moved or a function is computed of each.

        A sum of zeros has one that depends on what it begins with; and see `paths.either_zero`.
        """
        name = self.program.steps[k].name
        other = (got == 0) & (expected == 0) & (np.signbit(got) != np.signbit(expected))
        if not other.any() or not (name in RULES or name in MOVES):
            return
        if name in RULES:
            operands = [np.broadcast_to(x, got.shape)[other].tolist() for x in data]
            each = list(zip(*operands, strict=True))
            if all(either_zero(name, list(numbers)) for numbers in each):
                return
            zeros = np.array([VALUES[name](*numbers) for numbers in each])
            if (np.signbit(zeros) == np.signbit(got[other])).all():
                self.tally[f"({UNDERFLOW})"] += 1
                return
        raise Mismatch(f"sign of zero of {name}: {_first(got, ~other)} and not the other")

    def _in_float32(self, k):
        """What PyTorch says of operation k in float32, if that is the dtype of its result."""
        if self.results[k].dtype != np.float32:
            return self.asked[k]
        if k not in self.narrow:
            xs = [x.float() for x in self.asked[k].xs]
            self.narrow[k] = Asked(self.program.steps[k], xs)
        return self.narrow[k]

    def _overflows(self, k):
        """Whether PyTorch's result or partials are finite in float64, and not in float32."""
        wide, narrow = self.asked[k], self._in_float32(k)
        pairs = [(wide.value, narrow.value)]
        if wide.is_elementwise:
            pairs += zip(wide.partials, narrow.partials, strict=True)
        return any(bool((x.isfinite() & ~y.isfinite()).any()) for x, y in pairs)

    def _summed(self, k, handed, part=lambda x: x):
        """What the operations that take node k hand it, by `handed(operation, gradient)`."""
        program, node = self.program, (self.leaves[~k] if k < 0 else self.results[k])
        total = np.zeros(node.shape)
        if k in programs.ends(program):
            total = total + part(programs.weights(node.shape, node.dtype))
        for j, step in enumerate(program.steps):
            z = self.results[j]
            if not any(type(x) is int and x == k for x in step.operands) or z._grad is None:
                continue
            parts = handed(j, as_torch(z._grad))
            for x, h in zip(step.operands, parts, strict=True):
                if type(x) is int and x == k:
                    total = total + part(h.double().numpy())
        return total

    def _narrow(self, j, g):
        asked = self._in_float32(j)
        return asked.without_condition(asked.handed(g.to(asked.value.dtype)))

    def _by_convention(self, j, g):
        """What operation j hands on by the engine's conventions, derived once more."""
        step, asked = self.program.steps[j], self.asked[j]
        if asked.is_elementwise:
            partials = from_the_books(step.name, asked.leaves, self.results[j]._array)
            pairs = zip(partials, asked.xs, strict=True)
            return asked.without_condition([_sum_to(zero_times(g, p), x) for p, x in pairs])
        x = asked.xs[0]
        if step.name in PULLED:
            axis = step.arguments[0] if step.arguments else DEFAULT_AXIS.get(step.name)
            return [PULLED[step.name](x, g, axis)]
        parts = asked.handed(g)
        if step.name in ("var", "norm"):
            axis = step.arguments[0] if step.arguments else None
            return [torch.where(restored(g, x, axis) == 0, 0.0, h) for h in parts]
        return [torch.zeros_like(h) for h in parts] if bool((g == 0).all()) else parts

    def gradients(self):
        """Compare what every node is handed, added up, with its gradient."""
        program = self.program
        ends = set(programs.ends(program))
        sums: dict[int, Any] = {}
        for k in reversed(range(len(program.steps))):
            z = self.results[k]
            if not z.requires_grad:
                continue
            if k in ends:
                w = as_torch(programs.weights(z.shape, z.dtype))
                sums[k] = (w, w.abs(), {z.dtype})
            self._check_sum(k, z, sums.pop(k, None))
            step, asked = program.steps[k], self.asked[k]
            if z._grad is None:
                continue
            g = as_torch(z._grad)
            handed, sizes = (
                asked.without_condition(x) for x in (asked.handed(g), asked.sizes_of(g.abs()))
            )
            for x, h, s in zip(step.operands, handed, sizes, strict=True):
                if type(x) is int:
                    total, terms, dtypes = sums.get(x, (0.0, 0.0, set()))
                    sums[x] = (total + h, terms + torch.maximum(s, h.abs()), dtypes | {z.dtype})
        for i, leaf in enumerate(self.leaves):
            if leaf.requires_grad:
                self._check_sum(~i, leaf, sums.pop(~i, None))
        self.tally["gradients of nodes, PyTorch"] += len(self.results) + len(self.leaves)

    def _check_sum(self, k, node, summed):
        grad = node._grad
        if summed is None:
            if grad is not None and np.any(grad):
                raise Mismatch(f"gradient of {_called(k)}: {grad}, PyTorch none")
            return
        total, terms, dtypes = summed
        if grad is None:
            grad = np.zeros(node.shape)
        like = [np.zeros((), d) for d in dtypes]
        consumers = [
            (j, s)
            for j, s in enumerate(self.program.steps)
            if any(type(x) is int and x == k for x in s.operands)
        ]
        expected, terms, got = total.numpy(), terms.numpy(), np.asarray(grad)
        if got.shape != expected.shape:
            raise Mismatch(f"gradient of {_called(k)}: shape {got.shape}, PyTorch {expected.shape}")
        ok = same(got, expected, terms, _coarsest([got, *like]))
        if ok.all():
            return
        by_convention = self._summed(k, self._by_convention)
        sizes = np.nan_to_num(self._summed(k, self._by_convention, np.abs))
        if (ok | same(got, by_convention, sizes, _coarsest([got, *like]))).all():
            found = {why for j, _ in consumers for why in self._reasons(j)}
            for why in found - {ZERO_UPSTREAM} or found:
                self.tally[f"({why})"] += 1
            if found:
                return
        if any(self._overflows(j) for j, _ in consumers):
            narrow = self._summed(k, self._narrow)
            if (ok | _same_narrow(got, narrow, terms)).all():
                self.tally[f"({OVERFLOW})"] += 1
                return
        names = ", ".join(step.name for _, step in consumers)
        raise Mismatch(
            f"gradient of {_called(k)}, operand of {names}: {_first(got, ok)}, "
            f"PyTorch {_first(expected, ok)} (terms {_first(terms, ok)})"
        )

    def _reasons(self, j):
        """The conventions that operation j may come under."""
        step, g = self.program.steps[j], self.results[j]._grad
        operands = programs.operands_of(step, self.leaves, self.results)
        data = [np.asarray(getattr(x, "_array", x)) for x in operands]
        return reasons(Found(step.name, data, np.zeros(1) if g is None else g))

    def sizes(self):
        """Per leaf the sum over all paths of absolute terms: what roundings are a part of."""
        program, sums = self.program, {}
        for k in programs.ends(program):
            sums[k] = as_torch(
                np.abs(programs.weights(self.results[k].shape, self.results[k].dtype))
            )
        for k in reversed(range(len(program.steps))):
            if k not in sums:
                continue
            parts = self.asked[k].sizes_of(sums[k])
            for x, part in zip(program.steps[k].operands, parts, strict=True):
                if type(x) is int:
                    sums[x] = sums.get(x, 0.0) + part
        return [
            np.broadcast_to(sums[~i].numpy() if ~i in sums else 0.0, leaf.shape)
            for i, leaf in enumerate(self.leaves)
        ]


def _coarsest(arrays):
    """The dtype of the coarsest numbers that take part."""
    return "float32" if any(getattr(x, "dtype", None) == np.float32 for x in arrays) else "float64"


def _first(x, ok):
    return np.broadcast_to(x, ok.shape)[~ok][:3]


def _called(k):
    return f"operation {k}" if k >= 0 else f"leaf {~k}"


# --- the tables -----------------------------------------------------------------------------------


def missing():
    """Operations that stand in no table here."""
    rules = {*RULES, *ARRAY_RULES, *programs.FUNCTIONS}
    return rules ^ {*ELEMENTWISE, *STRUCTURAL}
