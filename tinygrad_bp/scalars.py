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
import math
import operator
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple
from numpy.typing import ArrayLike, NDArray

from tinygrad_bp import array_rules, rules
from tinygrad_bp.arguments import flag, is_integer, out_of_range, shown, text, wrong_kind
from tinygrad_bp.array_rules import ArrayRule
from tinygrad_bp.failures import fail, mismatch
from tinygrad_bp.graph import set_grad
from tinygrad_bp.inputs import DEEPEST, as_array
from tinygrad_bp.interrupts import Write, write
from tinygrad_bp.numpy_protocol import array_function, array_ufunc
from tinygrad_bp.operators import FunctionMethods
from tinygrad_bp.rules import Rule
from tinygrad_bp.tensor import NO_MIX, Tensor
from tinygrad_bp.value import Value

# The elements are Values, which numpy's types cannot say.
_ObjectArray = np.ndarray[Any, Any]


class Values(FunctionMethods, _ObjectArray):
    """An array of Values. Indexing down to one element gives the `Value` itself.

    It takes operators, `@`, indexing, reshaping, iteration, the functions of `tb`, and numpy's own
    wherever there is a rule. The others do the wrong thing to objects, so they raise.
    """

    __array_priority__ = 1e4  # above PyTorch's, so that the operators are ours

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
        write(self._data_writes(numbers))

    def _data_writes(self, data: Any) -> list[Write]:
        if not self.is_leaf:
            raise ValueError("data: some of these Values were computed; only a leaf's can be set")
        pairs = zip(self.flat, data.flat, strict=True)
        return [each for value, x in pairs for each in value._data_writes(x)]

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
        write(self._grad_writes(grad))

    def _grad_writes(self, gradient: Any) -> list[Write]:
        if gradient is None:
            return [(set_grad, value, None) for value in self.flat]
        numbers = as_array(gradient, "grad")
        if numbers.shape != self.shape:
            raise ValueError(f"grad: expected shape {self.shape}, got {numbers.shape}")
        pairs = zip(self.flat, numbers.flat, strict=True)
        return [each for value, x in pairs for each in value._grad_writes(float(x))]

    def zero_grad(self) -> None:
        """Forget the elements' gradients."""
        write(self._grad_writes(None))

    @property
    def requires_grad(self) -> bool:
        """Whether a backward sweep gives any element a gradient."""
        return any(v.requires_grad for v in self.flat)

    @property
    def is_leaf(self) -> bool:
        """Whether every element was given, and not computed."""
        return all(v.is_leaf for v in self.flat)

    def backward(self, gradient: ArrayLike | None = None, *, leaves_only: bool = False) -> None:
        """Compute the gradient by every tracked ancestor, as a Tensor does.

        Raises:
            ValueError: there are several elements and no gradient, or its shape is another.
        """
        if gradient is None and self.size != 1:
            raise ValueError(
                f"backward() of Values of shape {self.shape} needs the gradient to start from, got "
                "none: sum them to one Value first, or pass an array of this shape"
            )
        seed = np.ones(self.shape) if gradient is None else as_array(gradient, "gradient")
        if seed.shape != self.shape:
            raise ValueError(f"gradient: expected shape {self.shape}, got {seed.shape}")
        # In a context of its own, so that the sum is recorded also under no_grad().
        Context().run(lambda: (self * seed).sum()).backward(leaves_only=leaves_only)

    def detach(self) -> Values:
        """Constants of the same numbers."""
        constants: Values = values(self.data, requires_grad=False)
        return constants

    def item(self, *index: Any) -> Any:
        """The one number, or with an index the number at that place."""
        try:
            return float(super().item(*index))
        except (TypeError, ValueError, OverflowError) as error:
            raise _wrong_index(index, self.shape, error) from None

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
        """The operators are numpy's loops over the elements' own; the rest is as for a Tensor."""
        if ufunc not in _OPERATORS or method != "__call__" or options:
            return array_ufunc(self, ufunc, method, *inputs, **options)
        name = _NAMES.get(ufunc, ufunc.__name__)
        plain = [_objects(x, name) for x in inputs]
        with np.errstate(all="ignore"):  # what numpy thinks of objects is no news
            try:
                result = ufunc(*plain)
            except ValueError:
                raise mismatch(name, plain) from None
        if ufunc is np.matmul:  # over an axis of length 0 it gives plain zeros
            result = _all_values(result)
        return _wrap(result) if isinstance(result, np.ndarray) and result.ndim else result

    def __array_finalize__(self, made_from: Any) -> None:
        if self.dtype != object and made_from is not None:
            raise TypeError(f"an array of Values cannot be one of {self.dtype}; use .data")

    def __setitem__(self, index: Any, value: Any) -> None:
        if not isinstance(value, (Value, Values)):
            raise TypeError(f"expected a Value or Values to put in, got {type(value).__name__}")
        super().__setitem__(index, value)

    __array_function__ = array_function  # type: ignore[assignment]

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

    def __pos__(self) -> Values:
        return self

    def __eq__(self, other: Any) -> Any:
        return super().__eq__(_zero_dimensional(other))

    def __ne__(self, other: Any) -> Any:
        return super().__ne__(_zero_dimensional(other))

    def __lt__(self, other: Any) -> Any:
        return super().__lt__(_zero_dimensional(other))

    def __le__(self, other: Any) -> Any:
        return super().__le__(_zero_dimensional(other))

    def __gt__(self, other: Any) -> Any:
        return super().__gt__(_zero_dimensional(other))

    def __ge__(self, other: Any) -> Any:
        return super().__ge__(_zero_dimensional(other))

    # As for a Tensor, `x += y` makes a new array: the old one may stand in a graph.
    __iadd__, __imul__, __itruediv__ = __add__, __mul__, __truediv__

    def __isub__(self, other: Any) -> Any:
        if self.is_leaf and self.requires_grad:
            raise TypeError(
                "p -= ... does not move leaves; write p.data -= ..., or p = p - ... for new nodes"
            )
        return self - other

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
        plain = [_objects(x, rule.name) for x in operands]
        with np.errstate(all="ignore"):  # as for the operators
            try:
                result = rule.apply(_Namespace, plain, parameters, options or {})
            except Exception as error:
                fail(rule, plain, parameters, options or {}, error)
        return _wrap(_all_values(result))


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


_NAMES: dict[Any, str] = {np.true_divide: "divide"} | dict.fromkeys(
    (np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal), "comparison"
)


def values(data: ArrayLike, label: str = "", requires_grad: bool = True) -> Any:
    """An array of Values with the given numbers, each a leaf of its own; of one number, a Value.

    Args:
        data: numbers, nested lists of them, or an array; also nested lists of Values.
        label: a name; the elements are called `label[i, j]`.
        requires_grad: False for constants.

    Raises:
        TypeError: data is not made of real numbers.
    """
    if isinstance(data, (list, tuple)) and _holds_values(data, 0):
        try:
            cells = np.array(data, dtype=object)
        except ValueError:
            raise out_of_range("values", "lists of one shape", data) from None
        if any(isinstance(cell, (list, tuple)) for cell in cells.flat):
            raise ValueError("values: expected lists of one shape, got ragged ones")
        return _wrap(_all_values(cells))
    numbers = as_array(data, "values")
    requires_grad, label = flag(requires_grad, "requires_grad"), text(label, "label")
    if not numbers.ndim:
        return Value(numbers.item(), label, requires_grad)
    result = np.empty(numbers.shape, dtype=object)
    for index in np.ndindex(numbers.shape):
        place = ", ".join(str(i) for i in index)
        name = f"{label}[{place}]" if label else ""
        result[index] = Value(float(numbers[index]), name, requires_grad)
    return result.view(Values)


def _wrong_index(index: Any, shape: tuple[int, ...], error: Exception) -> Exception:
    kind = TypeError if isinstance(error, TypeError) else IndexError
    listed = ", ".join(map(shown, index[:4])) or "none"
    return kind(f"index: expected a place in the shape {shape}, got {listed}")


def _holds_values(data: Sequence[Any], depth: int) -> bool:
    if depth > DEEPEST:
        raise out_of_range("values", f"lists at most {DEEPEST} deep", data)
    return any(
        _holds_values(x, depth + 1)
        if isinstance(x, (list, tuple))
        else isinstance(x, (Value, Values))
        for x in data
    )


def _zero_dimensional(x: Any) -> Any:
    """A single Value as an array of no dimensions, which numpy will broadcast."""
    if not isinstance(x, Value):
        return x
    cell = np.empty((), dtype=object)
    cell[()] = x
    return cell


def _objects(x: Any, what: str) -> Any:
    """An operand as a plain array of Values, or of numbers."""
    if isinstance(x, Values):
        return x.view(np.ndarray)
    if isinstance(x, (Value, int, float)) and not isinstance(x, bool):
        return _zero_dimensional(x)
    if isinstance(x, np.ndarray) and x.dtype == object:
        return x  # made by _zero_dimensional
    if isinstance(x, Tensor):
        raise TypeError(f"{what}: {NO_MIX}")
    return as_array(x, what).astype(object)


def _wrap(result: Any) -> Any:
    """A result as Values, or as the Value it is."""
    if isinstance(result, np.ndarray) and result.dtype == object:
        return result.view(Values) if result.ndim else result.item()
    return result


def _all_values(result: Any) -> Any:
    """The result with the plain zeros of a padding or a triangle as constants."""
    if isinstance(result, np.ndarray):
        return _each_as_value(result) if result.ndim else _as_value(result.item())
    return _as_value(result)


def _as_value(x: Any) -> Value:
    return x if isinstance(x, Value) else Value(x, requires_grad=False)


_each_as_value = np.frompyfunc(_as_value, 1, 1)
_detached = np.frompyfunc(lambda x: x.detach() if isinstance(x, Value) else x, 1, 1)


def _each(rule: Rule, *operands: Any) -> Any:
    """An elementwise rule, mapped over broadcast operands."""
    plain = [
        _condition(x) if partial is None else np.asarray(_objects(x, rule.name), dtype=object)
        for x, partial in zip(operands, rule.partials, strict=True)
    ]
    try:
        shaped = np.broadcast_arrays(*plain)
    except ValueError:
        raise mismatch(rule.name, plain) from None
    result = np.empty(shaped[0].shape, dtype=object)
    for index in np.ndindex(result.shape):
        cells = tuple(x[index] for x in shaped)
        cell = Value._interpret(rule, cells)
        result[index] = rule(*cells) if cell is NotImplemented else cell
    return _wrap(result)


def _condition(x: Any) -> NDArray[Any]:
    """Truth values: given, or Values, which hold where they differ from zero."""
    if isinstance(x, (Value, Values)):
        return np.asarray(_objects(x, "where"), dtype=object)
    condition: NDArray[Any] = np.asarray(x) if not isinstance(x, Tensor) else x.data
    if condition.dtype == object:  # elements of Values, or truth values on their way
        condition = np.frompyfunc(bool, 1, 1)(condition)
    elif condition.dtype.kind not in "biuf":
        raise TypeError(f"where: expected a condition, got {shown(x)}")
    return np.asarray(condition, bool)


def _plain(x: Any) -> Any:
    return np.asarray(_objects(x, "Values"), dtype=object)


def _reduction(of_list: Callable[[list[Any]], Any]) -> Callable[..., Any]:
    """A reduction over axes, given that of a list of Values."""

    def reduction(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        x = np.asarray(_zero_dimensional(x), dtype=object)
        every = tuple(range(x.ndim))
        if not (axis is None or is_integer(axis) or isinstance(axis, tuple)):
            raise wrong_kind("axis", "an int or a tuple of ints", axis)
        axes = normalize_axis_tuple(every if axis is None else axis, x.ndim)
        kept = [a for a in every if a not in axes]
        length = math.prod(x.shape[a] for a in axes)
        lists = x.transpose([*kept, *axes]).reshape([x.shape[a] for a in kept] + [length])
        result = np.empty(lists.shape[:-1], dtype=object)
        for index in np.ndindex(result.shape):
            result[index] = of_list(list(lists[index]))
        if keepdims if isinstance(keepdims, (bool, np.bool_)) else operator.index(keepdims):
            return result.reshape([1 if a in axes else n for a, n in enumerate(x.shape)])
        return result if result.ndim else result[()]

    return reduction


def _sum(values: list[Any]) -> Any:
    return functools.reduce(operator.add, values) if values else 0.0


def _prod(values: list[Any]) -> Any:
    return functools.reduce(operator.mul, values) if values else 1.0


def _largest(values: list[Any], sign: float = 1.0) -> Any:
    """The largest (or by sign the smallest); k equal ones are each given 1/k of the gradient."""
    if not values:
        raise ValueError("an empty array of Values has no maximum or minimum")
    if any(hasattr(type(v), "recorder") for v in values):
        return _largest_recorded(values, rules.maximum if sign > 0.0 else rules.minimum)
    numbers = [sign * float(v) for v in values]
    if any(n != n for n in numbers):
        return next(v for v, n in zip(values, numbers, strict=True) if n != n)
    peak = max(numbers)
    ties = [v for v, n in zip(values, numbers, strict=True) if n == peak]
    if math.isinf(peak):  # equal, but without a difference
        return _sum(ties) / float(len(ties)) if len(ties) > 1 else ties[0]
    first, *others = ties
    if not others:
        return first
    return first + _sum([v - first for v in others]) / (1.0 + len(others))


def _largest_recorded(values: list[Any], choose: Any) -> Any:
    """The same for Values that are being recorded: which is the largest, is decided at each run."""
    peak = functools.reduce(choose, values)
    peak = peak.detach()
    chosen = [rules.where(v == peak, 1.0, 0.0) for v in values]
    count = _sum(chosen)
    # Zero, with the gradients of those that are chosen.
    moves = [rules.where(v == peak, v - v.detach(), 0.0) for v in values]
    return peak + _sum(moves) / count


class _NamespaceType:
    """The namespace in which structural rules compute arrays of Values.

    What only moves elements about is numpy's; arithmetic goes through the Values' operators, and
    elementary functions through the elementwise rules.
    """

    sum = staticmethod(_reduction(_sum))
    prod = staticmethod(_reduction(_prod))
    max = staticmethod(_reduction(_largest))
    min = staticmethod(_reduction(functools.partial(_largest, sign=-1.0)))
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
    def astype(x: Any, dtype: Any) -> Any:
        if np.dtype(dtype) != np.float64:
            raise TypeError(f"astype: Values are float64, and cannot become {np.dtype(dtype)}")
        return x

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
