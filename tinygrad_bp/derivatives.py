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
        operands = widened(arrays, self._operands, self._result)
        return read_only(quiet(partial)(arrays, *operands, self._result))

    def __mul__(self, g: Any) -> Any:
        partial = self.rule.partials[self.index]
        if callable(partial):
            operands, result = self._operands, self._result
            if len(operands) > 1:
                operands = widened(arrays, operands, result)
            g = arrays.azmul(g, partial(arrays, *operands, result))
        elif partial != 1.0:
            g = g * partial
        return _fit(g, self._operands[self.index])


class Structural(Local):
    """The derivative of a structural operation: its named pullback."""

    __slots__ = ("options", "parameters")

    def __init__(
        self,
        rule: Any,
        index: int,
        operands: Sequence[Any],
        result: Any,
        parameters: tuple[Any, ...],
        options: dict[str, Any],
    ) -> None:
        self.rule, self.index = rule, index  # written out, since every operation comes here
        self._operands, self._result = operands, result
        self.parameters = parameters
        self.options = options

    @property
    def name(self) -> str:
        """What the pullback is called, such as `matmul_dy`."""
        pullbacks = self.rule.pullbacks
        if self.rule.takes_sequence:
            return f"{pullbacks[0].__name__}[{self.index}]"
        return str(pullbacks[self.index].__name__)

    def __mul__(self, g: Any) -> Any:
        operands, index, rule = self._operands, self.index, self.rule
        if rule.takes_sequence or self.parameters or self.options:
            pulled = rule.pull(
                arrays, index, g, self._result, operands, self.parameters, self.options
            )
        else:  # as `pull` does, for small arrays in half the time
            pulled = rule.pullbacks[index](arrays, g, self._result, *operands)
        return _fit(pulled, operands[index])


def widened(m: Any, operands: Sequence[Any], result: Any) -> Sequence[Any]:
    """The operands of a partial, none coarser than the result: 1 / y has no more digits than y."""
    dtype = getattr(result, "dtype", None)
    for x in operands:
        if getattr(x, "dtype", dtype) is not dtype and dtype == np.float64:
            return [_at_least(m, x, dtype) for x in operands]
    return operands


def _at_least(m: Any, x: Any, dtype: Any) -> Any:
    return m.astype(x, dtype) if getattr(x, "dtype", dtype) == np.float32 else x


def quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that may overflow, or meet a pole, on the way to a right answer."""
    return np.errstate(all="ignore")(function)  # half the price of the `with` block


def _fit(g: Any, operand: Array) -> Any:
    """A gradient in the shape and dtype of its operand: the one place that undoes broadcasting."""
    if g.shape != operand.shape:
        g = array_rules.sum_to(arrays, g, operand.shape)
    return g if g.dtype == operand.dtype else g.astype(operand.dtype)
