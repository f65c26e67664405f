"""Operators that leave everything to the rules.

`Value` and `Tensor` write their operators out, for speed. Kinds of them that apply the rules in a
way of their own (forward mode, for one) start from here: every operator and method of theirs that
computes goes through `Rule.__call__`, and so to their own interpreter.
"""

from __future__ import annotations

from typing import Any

from tinygrad_bp import array_rules, rules


class FunctionMethods:
    """The functions that are methods as well: `x.tanh()`."""

    __slots__ = ()

    def exp(self) -> Any:
        """Of every element."""
        return rules.exp(self)

    def log(self) -> Any:
        """Of every element."""
        return rules.log(self)

    def sqrt(self) -> Any:
        """Of every element."""
        return rules.sqrt(self)

    def tanh(self) -> Any:
        """Of every element."""
        return rules.tanh(self)

    def sigmoid(self) -> Any:
        """Of every element."""
        return rules.sigmoid(self)

    def relu(self) -> Any:
        """Of every element."""
        return rules.relu(self)


class ByRules(FunctionMethods):
    """The operators and methods of single numbers and of arrays."""

    __slots__ = ()

    def __add__(self, other: Any) -> Any:
        return rules.add(self, other)

    def __radd__(self, other: Any) -> Any:
        return rules.add(other, self)

    def __sub__(self, other: Any) -> Any:
        return rules.subtract(self, other)

    def __rsub__(self, other: Any) -> Any:
        return rules.subtract(other, self)

    def __mul__(self, other: Any) -> Any:
        return rules.multiply(self, other)

    def __rmul__(self, other: Any) -> Any:
        return rules.multiply(other, self)

    def __truediv__(self, other: Any) -> Any:
        return rules.divide(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return rules.divide(other, self)

    def __pow__(self, other: Any) -> Any:
        return rules.power(self, other)

    def __rpow__(self, other: Any) -> Any:
        return rules.power(other, self)

    def __neg__(self) -> Any:
        return rules.negative(self)

    def __abs__(self) -> Any:
        return rules.absolute(self)


class ArrayByRules(ByRules):
    """Those that only arrays have."""

    __slots__ = ()

    def __matmul__(self, other: Any) -> Any:
        return array_rules.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return array_rules.matmul(other, self)

    def __getitem__(self, index: Any) -> Any:
        return array_rules.getitem(self, index)
