"""The local derivatives of array operations: what the sweep multiplies a gradient by.

For single numbers a local derivative is a float. For arrays it is an object that holds what the
operation was computed from, and does its work when it is multiplied: an elementwise one by partial
derivatives, a structural one by a named pullback. Broadcasting is undone in one place, in `_fit`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp import array_rules, arrays

Array = NDArray[Any]


def read_only(x: Any) -> Any:
    """A view that cannot be written through."""
    if not isinstance(x, np.ndarray):
        return x
    view = x.view()
    view.setflags(write=False)
    return view


class Local:
    """The derivative of one operation by one operand, as a thing to multiply a gradient by.

    For arrays it is the transposed Jacobian, which is never formed: `local * g` computes its
    product with the gradient `g` of the result, in the shape and dtype of the operand.

    Attributes:
        rule: the operation.
        index: which of its operands.
    """

    __slots__ = ("_operands", "_result", "index", "rule")

    def __init__(self, rule: Any, index: int, operands: Sequence[Any], result: Any) -> None:
        self.rule = rule
        self.index = index
        self._operands = operands
        self._result = result

    @property
    def name(self) -> str:
        """What it is called: the operation and the operand, such as `tanh_dx`."""
        return f"{self.rule.name}_d{'xyz'[self.index]}"

    @property
    def operands(self) -> list[Any]:
        """What the operation was computed from: read-only, since the sweep needs it."""
        return [read_only(x) for x in self._operands]

    @property
    def result(self) -> Any:
        """What it gave: read-only."""
        return read_only(self._result)

    def __repr__(self) -> str:
        return f"<local derivative {self.name}>"


class Elementwise(Local):
    """The derivative of an elementwise operation: an array of partials, broadcast like the data."""

    __slots__ = ()

    def partial(self) -> Any:
        """The partial derivatives, one per element of the result (a number if all are equal)."""
        partial = self.rule.partials[self.index]
        if not callable(partial):
            return partial
        return read_only(quiet(partial)(arrays, *self._operands, self._result))

    def __mul__(self, g: Any) -> Any:
        partial = self.rule.partials[self.index]
        if callable(partial):
            g = arrays.azmul(g, partial(arrays, *self._operands, self._result))
        elif partial != 1.0:
            g = g * partial
        return _fit(g, self._operands[self.index])


class Structural(Local):
    """The derivative of a structural operation: its named pullback."""

    __slots__ = ("options", "parameters")

    parameters: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """What the pullback is called, such as `matmul_dy`."""
        pullbacks = self.rule.pullbacks
        if self.rule.takes_sequence:
            return f"{pullbacks[0].__name__}[{self.index}]"
        return str(pullbacks[self.index].__name__)

    def __mul__(self, g: Any) -> Any:
        operands, index = self._operands, self.index
        pulled = self.rule.pull(
            arrays, index, g, self._result, operands, self.parameters, self.options
        )
        return _fit(pulled, operands[index])


class Weights(Structural):
    """The derivative of `x @ W` by a leaf W: the product waits for those of other uses of W."""

    __slots__ = ()

    def __mul__(self, g: Any) -> Any:
        return Rows(self, g)

    def product(self, g: Any) -> Any:
        """The product, now."""
        return Structural.__mul__(self, g)


class Rows:
    """A gradient of weights, or a sum of such, that is computed when it is asked for.

    A recurrent network uses its weights at every step. The products `x.T @ g` of all steps add up
    to a single one, of all rows of x and all rows of g put one below the other: so that no array
    as large as the weights need be written, and added up, at every step.
    """

    __slots__ = ("before", "g", "local")
    __array_ufunc__ = None  # an array on the left leaves the sum to Rows

    def __init__(self, local: Weights, g: Array, before: Rows | None = None) -> None:
        self.local, self.g, self.before = local, g, before

    def __add__(self, other: Any) -> Any:
        if isinstance(other, Rows) and other.before is None:
            return Rows(other.local, other.g, self)
        return computed(self) + computed(other)

    def __radd__(self, other: Any) -> Any:
        return other + computed(self)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return np.asarray(computed(self), dtype)


def computed(g: Any) -> Any:
    """A gradient as an array."""
    if not isinstance(g, Rows):
        return g
    local = g.local
    if g.before is None:
        return local.product(g.g)
    xs, gs = [], []
    rows: Rows | None = g
    while rows is not None:
        x = rows.local._operands[0]
        xs.append(x.reshape(-1, x.shape[-1]))
        gs.append(rows.g.reshape(-1, rows.g.shape[-1]))
        rows = rows.before
    operands = (np.concatenate(xs), *local._operands[1:])
    of_all = Weights(local.rule, local.index, operands, None)
    of_all.parameters, of_all.options = local.parameters, local.options
    return of_all.product(np.concatenate(gs))


def quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that may overflow, or meet a pole, on the way to a right answer."""
    return np.errstate(all="ignore")(function)  # half the price of the `with` block


def _fit(g: Any, operand: Array) -> Any:
    """A gradient in the shape and dtype of its operand: the one place that undoes broadcasting."""
    if g.shape != operand.shape:
        g = array_rules.sum_to(arrays, g, operand.shape)
    return g if g.dtype == operand.dtype else g.astype(operand.dtype)
