"""Arrays of `Value`s: the scalar view of a network.

`values(...)` makes a numpy array whose elements are single Values, so that the code which runs on
Tensors also runs weight by weight, and every edge of the graph can be seen. There is no second
implementation: an elementwise rule is mapped over the elements, and a structural rule's value is
computed in a namespace where sums and products are those of Values.
"""

# Values takes the place of what ndarray does to objects, with simpler signatures.
# mypy: disable-error-code="override"

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinygrad_bp import array_rules, rules
from tinygrad_bp.array_rules import ArrayRule
from tinygrad_bp.rules import Rule
from tinygrad_bp.tensor import as_array
from tinygrad_bp.value import Value

# The elements are Values, which numpy's types cannot say.
_ObjectArray = np.ndarray[Any, Any]


class Values(_ObjectArray):
    """An array of Values. Indexing down to one element gives the `Value` itself.

    It takes operators, `@`, indexing, reshaping, iteration, and the functions of `tb`. numpy's own
    functions do the wrong thing to objects, so they raise.
    """

    __array_priority__ = 10.0

    # --- numbers of the elements ----------------------------------------------------------------

    @property
    def data(self) -> NDArray[np.float64]:
        """The numbers, as a new float64 array. Setting it sets every leaf's number."""
        return self._collect(lambda v: v.data)

    @data.setter
    def data(self, data: ArrayLike) -> None:
        numbers = as_array(data, "data")
        if numbers.shape != self.shape:
            raise ValueError(f"data: expected shape {self.shape}, got {numbers.shape}")
        self._replace(numbers)

    def _replace(self, array: NDArray[Any]) -> None:
        for value, number in zip(self.flat, array.flat, strict=True):
            value.data = float(number)

    @property
    def grad(self) -> NDArray[np.float64] | None:
        """The elements' gradients, as a new float64 array; None before any sweep.

        An element that a sweep did not reach counts as 0 beside those that it did.
        """
        if all(v.grad is None for v in self.flat):
            return None
        return self._collect(lambda v: 0.0 if v.grad is None else v.grad)

    @grad.setter
    def grad(self, grad: ArrayLike | None) -> None:
        if grad is None:
            self.zero_grad()
            return
        numbers = as_array(grad, "grad")
        if numbers.shape != self.shape:
            raise ValueError(f"grad: expected shape {self.shape}, got {numbers.shape}")
        for value, number in zip(self.flat, numbers.flat, strict=True):
            value.grad = float(number)

    def zero_grad(self) -> None:
        """Forget the elements' gradients."""
        for value in self.flat:
            value.grad = None

    @property
    def requires_grad(self) -> bool:
        """Whether a backward sweep gives any element a gradient."""
        return any(v.requires_grad for v in self.flat)

    @property
    def is_leaf(self) -> bool:
        """Whether every element was given, and not computed."""
        return all(v.is_leaf for v in self.flat)

    def detach(self) -> Values:
        """Constants of the same numbers."""
        return values(self.data, requires_grad=False)

    def item(self, *index: Any) -> Any:
        """The one number, or with an index the number at that place."""
        return float(super().item(*index))

    def _collect(self, number: Callable[[Value], Any]) -> NDArray[np.float64]:
        return np.array([number(v) for v in self.flat], np.float64).reshape(self.shape)

    def __repr__(self) -> str:
        if self.size > 12:
            return f"Values(shape={self.shape})"
        return (
            f"Values({np.array2string(self.data, precision=4, separator=', ', prefix='Values(')})"
        )

    __str__ = __repr__

    # --- operators ------------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Only what operators and sums need; the rest of numpy has no derivative here."""
        if ufunc not in _OPERATORS or options.get("out") is not None:
            raise TypeError(
                f"numpy.{ufunc.__name__} does not take an array of Values; "
                f"use tb.{ufunc.__name__} if there is one, or numpy on .data"
            )
        plain = [_objects(x) for x in inputs]
        result = getattr(ufunc, method)(*plain, **options)
        return result.view(Values) if isinstance(result, np.ndarray) else result

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(
            f"numpy.{function.__name__} does not take an array of Values; "
            f"use tb.{function.__name__} if there is one, or numpy on .data"
        )

    def __add__(self, other: Any) -> Any:
        return super().__add__(_zero_dimensional(other))

    def __radd__(self, other: Any) -> Any:
        return super().__radd__(_zero_dimensional(other))

    def __sub__(self, other: Any) -> Any:
        return super().__sub__(_zero_dimensional(other))

    def __rsub__(self, other: Any) -> Any:
        return super().__rsub__(_zero_dimensional(other))

    def __mul__(self, other: Any) -> Any:
        return super().__mul__(_zero_dimensional(other))

    def __rmul__(self, other: Any) -> Any:
        return super().__rmul__(_zero_dimensional(other))

    def __truediv__(self, other: Any) -> Any:
        return super().__truediv__(_zero_dimensional(other))

    def __rtruediv__(self, other: Any) -> Any:
        return super().__rtruediv__(_zero_dimensional(other))

    def __pow__(self, other: Any) -> Any:
        return super().__pow__(_zero_dimensional(other))

    def __rpow__(self, other: Any) -> Any:
        return super().__rpow__(_zero_dimensional(other))

    # As for a Tensor, `x += y` makes a new array: the old one may stand in a graph.
    __iadd__, __isub__, __imul__, __itruediv__ = __add__, __sub__, __mul__, __truediv__

    # --- what ndarray would do to objects without derivatives -----------------------------------

    def sum(self, axis: Any = None, keepdims: bool = False) -> Any:
        """The sum over an axis, several, or all."""
        return array_rules.sum(self, axis, keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Any:
        """The mean over an axis, several, or all."""
        return array_rules.mean(self, axis, keepdims)

    def var(self, axis: Any = None, ddof: float = 0, keepdims: bool = False) -> Any:
        """The variance over an axis, several, or all, divided by n - ddof."""
        return array_rules.var(self, axis, ddof, keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> Any:
        """The largest element over an axis, several, or all; equal ones share the gradient."""
        return array_rules.max(self, axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Any:
        """The smallest element over an axis, several, or all; equal ones share the gradient."""
        return array_rules.min(self, axis, keepdims)

    def prod(self, axis: Any = None, keepdims: bool = False) -> Any:
        """The product over an axis, several, or all."""
        return array_rules.prod(self, axis, keepdims)

    def cumsum(self, axis: Any = None) -> Any:
        """The running sum along an axis; of the flattened array without one."""
        return array_rules.cumsum(self, axis)

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

    # --- the interpreter ------------------------------------------------------------------------

    @staticmethod
    def _interpret(
        rule: Rule | ArrayRule,
        operands: tuple[Any, ...],
        parameters: tuple[Any, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> Any:
        """Apply a rule to operands of which at least one is an array of Values."""
        if isinstance(rule, Rule):
            return _each(rule, *operands)
        plain = [_objects(x) for x in operands]
        return _wrap(_all_values(rule.apply(_Namespace, plain, parameters, options or {})))


_OPERATORS = {
    np.add,
    np.subtract,
    np.multiply,
    np.true_divide,
    np.power,
    np.negative,
    np.absolute,
    np.matmul,
    np.equal,
    np.not_equal,
    np.less,
    np.less_equal,
    np.greater,
    np.greater_equal,
}


def values(data: ArrayLike, label: str = "", requires_grad: bool = True) -> Values:
    """An array of Values with the given numbers, each a leaf of its own.

    Args:
        data: numbers, nested lists of them, or an array; also nested lists of Values.
        label: a name; the elements are called `label[i, j]`.
        requires_grad: False for constants.

    Raises:
        TypeError: data is not made of real numbers.
    """
    if isinstance(data, (list, tuple)) and _holds_values(data):
        return np.array(data, dtype=object).view(Values)
    numbers = as_array(data, "values")
    result = np.empty(numbers.shape, dtype=object)
    for index in np.ndindex(numbers.shape):
        place = ", ".join(str(i) for i in index)
        name = f"{label}[{place}]" if label and index else label
        result[index] = Value(float(numbers[index]), name, requires_grad)
    return result.view(Values)


def _holds_values(data: Sequence[Any]) -> bool:
    return any(
        _holds_values(x) if isinstance(x, (list, tuple)) else isinstance(x, (Value, Values))
        for x in data
    )


def _zero_dimensional(x: Any) -> Any:
    """A single Value as an array of no dimensions, which numpy will broadcast."""
    if not isinstance(x, Value):
        return x
    cell = np.empty((), dtype=object)
    cell[()] = x
    return cell


def _objects(x: Any) -> Any:
    """An operand as a plain array of Values, or of numbers."""
    if isinstance(x, Values):
        return x.view(np.ndarray)
    if isinstance(x, (Value, int, float)) and not isinstance(x, bool):
        return _zero_dimensional(x)
    if isinstance(x, np.ndarray) and x.dtype == object:
        return x  # made by _zero_dimensional
    return as_array(x, "array of Values").astype(object)


def _wrap(result: Any) -> Any:
    """A result as Values, or as the Value it is."""
    if isinstance(result, np.ndarray) and result.dtype == object:
        return result.view(Values) if result.ndim else result.item()
    return result


def _all_values(result: Any) -> Any:
    """The result with the plain zeros of a padding or a triangle as constants."""
    if isinstance(result, np.ndarray):
        return np.asarray(_as_value(result), dtype=object)
    return result


_as_value = np.frompyfunc(
    lambda x: x if isinstance(x, Value) else Value(x, requires_grad=False), 1, 1
)
_detached = np.frompyfunc(lambda x: x.detach() if isinstance(x, Value) else x, 1, 1)


def _each(rule: Rule, *operands: Any) -> Any:
    """An elementwise rule, mapped over broadcast operands."""
    plain = [
        np.asarray(x, dtype=object) if _is_condition(x) else np.asarray(_objects(x), dtype=object)
        for x in operands
    ]
    shaped = np.broadcast_arrays(*plain)
    result = np.empty(shaped[0].shape, dtype=object)
    for index in np.ndindex(result.shape):
        result[index] = rule(*(x[index] for x in shaped))
    return _wrap(result)


def _is_condition(x: Any) -> bool:
    return isinstance(x, bool) or (isinstance(x, np.ndarray) and x.dtype == np.bool_)


def _plain(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, Values) else x


def _reduce(step: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """A reduction over axes, by repeated use of an operation of two Values."""
    reduce = np.frompyfunc(step, 2, 1).reduce

    def reduction(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        axes = range(x.ndim) if axis is None else (axis if isinstance(axis, tuple) else (axis,))
        for a in sorted((a % x.ndim for a in axes), reverse=True):
            x = reduce(x, axis=a, keepdims=True)
        if keepdims:
            return x
        kept = None if axis is None else axis
        return np.squeeze(x, kept) if axis is not None else x.reshape(())[()]

    return reduction


class _NamespaceType:
    """The namespace in which structural rules compute arrays of Values.

    What only moves elements about is numpy's; arithmetic goes through the Values' operators, and
    elementary functions through the elementwise rules.
    """

    sum = staticmethod(_reduce(operator.add))
    prod = staticmethod(_reduce(operator.mul))
    max = staticmethod(_reduce(rules.maximum))
    min = staticmethod(_reduce(rules.minimum))
    matmul = staticmethod(np.matmul)
    cumsum = staticmethod(np.cumsum)
    reshape = staticmethod(np.reshape)
    transpose = staticmethod(np.transpose)
    expand_dims = staticmethod(np.expand_dims)
    squeeze = staticmethod(np.squeeze)
    broadcast_to = staticmethod(np.broadcast_to)
    concatenate = staticmethod(np.concatenate)
    stack = staticmethod(np.stack)
    flip = staticmethod(np.flip)
    take = staticmethod(np.take)
    take_along_axis = staticmethod(np.take_along_axis)
    getitem = staticmethod(operator.getitem)
    einsum = staticmethod(np.einsum)
    tril = staticmethod(np.tril)
    triu = staticmethod(np.triu)
    pad = staticmethod(np.pad)
    detached = staticmethod(_detached)

    @staticmethod
    def scatter(x: Any, index: Any, shape: tuple[int, ...]) -> Any:
        result = np.full(shape, 0.0, dtype=object)
        np.add.at(result, index, x)
        return result

    def __getattr__(self, name: str) -> Any:
        rule = rules.RULES.get(name)
        if name.startswith("__"):
            raise AttributeError(name)
        if rule is None:
            raise TypeError(f"arrays of Values have no {name}; use a Tensor")
        return functools.partial(_mapped, rule)


def _mapped(rule: Rule, *operands: Any) -> Any:
    return _plain(_each(rule, *operands))


_Namespace = _NamespaceType()
