"""`Tensor`: an array that remembers how it was computed.

The array interpreter of the rules. A node's local derivatives are the objects of `derivatives`,
which hold the arrays that it was computed from.

What a sweep needs cannot change under it. Arrays are copied on entry. A leaf's own array is handed
out by `.data` to be written to, but never the one that a graph has recorded: then a fresh copy is
(copy on access). A computed array is handed out read-only.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from tinygrad_bp import array_rules, arrays, rules
from tinygrad_bp.arguments import flag, real, shown
from tinygrad_bp.array_rules import ArrayRule
from tinygrad_bp.derivatives import Elementwise, Structural, quiet, read_only
from tinygrad_bp.failures import fail, of_operand
from tinygrad_bp.graph import MORE, UNTRACKED, Node, backward, born, set_grad
from tinygrad_bp.inputs import as_array, copied, frozen, is_foreign, typed
from tinygrad_bp.interrupts import Write, commit_lock, write
from tinygrad_bp.numpy_protocol import ArrayUfunc, array_function
from tinygrad_bp.recording import (
    ROOT,
    Label,
    Observer,
    Scope,
    current_state,
    observers_of,
    resolve,
    tell_read,
)
from tinygrad_bp.rules import Rule
from tinygrad_bp.value import Value

Array = NDArray[Any]

# A graph of arrays is built and freed at every step of a training. The C library would give that
# memory back to the system each time, and fetch it again page by page, at a third of the cost of a
# step. Having once freed a block of 16 MB, glibc keeps as much for the next (in the whole process).
_freed = np.empty(1 << 21)
del _freed

_COUNTED = sys.version_info < (3, 14)  # later Pythons count references to locals otherwise

_FLOAT64 = np.dtype(np.float64)
_NO_OPTIONS: dict[str, Any] = {}

NO_MIX = (
    "a Tensor and an array of Values do not mix: convert with tb.Tensor(values.data) or "
    "tb.values(tensor.data), which start without history"
)

# Who may hold a leaf's array.
_PRIVATE = 0  # this Tensor alone
_EXPOSED = 1  # the user too, who may write to it
_RECORDED = 2  # a graph too, which must not see it change


# --- the interpreter ----------------------------------------------------------------------------


# These functions are most of what an operation on small arrays costs beside numpy's own work, so
# they are written out, with no helper per operand.


def _unary(rule: Rule) -> Callable[[Any], Any]:
    value, general = quiet(rule.value), _general(rule)

    def operation(x: Tensor) -> Any:
        state = current_state()
        if type(state) is not Scope or x.rule is UNTRACKED:
            return general(x)
        data = (x._array if x._holders == _RECORDED else x._read(),)
        z = value(arrays, *data)
        return _node(rule, x, Elementwise(rule, 0, data, z), None, None, z, state)

    return operation


def _binary(rule: Rule) -> Callable[[Any, Any], Any]:
    """The operation of two Tensors, or of a Tensor and a float; what else there is, is rare."""
    value, general = quiet(rule.value), _general(rule)

    def operation(x: Any, y: Any) -> Any:
        state = current_state()
        if type(state) is not Scope:
            return general(x, y)
        if isinstance(x, Tensor):
            a: Any = x._array if x._holders == _RECORDED else x._read()
        elif type(x) is float and y._array.dtype == _FLOAT64:
            a = x
        else:
            return general(x, y)
        if isinstance(y, Tensor):
            b: Any = y._array if y._holders == _RECORDED else y._read()
        elif type(y) is float and a.dtype == _FLOAT64:
            b = y
        else:
            return general(x, y)
        data = (a, b)
        try:
            z = value(arrays, a, b)
        except Exception as error:
            fail(rule, data, (), {}, error)
        dx = dy = None
        if a is not x and x.rule is not UNTRACKED:
            dx = Elementwise(rule, 0, data, z)
        if b is not y and y.rule is not UNTRACKED:
            dy = Elementwise(rule, 1, data, z)
        return _node(rule, x, dx, y, dy, z, state) if dx or dy else _untracked(z)

    return operation


def _general(rule: Rule) -> Callable[..., Any]:
    """The operation of any number of operands, of which some may be plain numbers and arrays."""
    value, partials = quiet(rule.value), rule.partials
    conditions = [partial is None for partial in partials]

    def operation(*operands: Any) -> Any:
        data: list[Any] = []
        tracked = []
        kept: Sequence[Any] = operands
        constants = False
        for i, x in enumerate(operands):
            if isinstance(x, Tensor):
                data.append(x._array if x._holders == _RECORDED else x._read())
                if x.rule is not UNTRACKED and partials[i] is not None:
                    tracked.append(i)
            else:
                constants = True
                data.append(_constant(x, rule.name, is_condition=partials[i] is None))
        if constants:
            data = typed(data, conditions)
            kept = _kept(operands, data)
        try:
            result = value(arrays, *data)
        except Exception as error:
            fail(rule, data, (), {}, error)
        state = current_state()
        scope = state if type(state) is Scope else resolve(state)
        observers = observers_of(state)
        for observer in observers:
            observer.operation(rule, operands, data, result, (), _NO_OPTIONS)
        if scope is None or not tracked:
            return _untracked(result)
        locals_: list[Any] = [None] * len(data)
        for i in tracked:
            locals_[i] = Elementwise(rule, i, data, result)
        node = _node(rule, *_slots(kept, locals_), result, scope)
        for observer in observers:
            observer.recorded(node)
        return node

    return operation


def _elementwise(rule: Rule) -> Callable[..., Any]:
    if rule.arity > 2 or None in rule.partials:
        return _general(rule)
    return _unary(rule) if rule.arity == 1 else _binary(rule)


def _structural(rule: ArrayRule) -> Callable[..., Any]:
    value, takes_sequence = quiet(rule.value), rule.takes_sequence

    def operation(
        operands: Sequence[Any],
        parameters: tuple[Any, ...] = (),
        options: dict[str, Any] = _NO_OPTIONS,
    ) -> Any:
        state = current_state()
        data: list[Any] = []
        tracked = False
        kept: Sequence[Any] = operands
        constants = False
        for x in operands:
            if isinstance(x, Tensor):
                data.append(x._array if x._holders == _RECORDED else x._read())
                if x.rule is not UNTRACKED:
                    tracked = True
            else:
                constants = True
                data.append(_array_of(x, rule, len(data)))
        if constants:
            kept = _kept(operands, data)
        try:
            if takes_sequence or parameters or options:
                parameters = tuple(map(frozen, parameters))
                options = {name: frozen(p) for name, p in options.items()}
                given = (data,) if takes_sequence else data
                result = value(arrays, *given, *parameters, **options)
            else:
                result = value(arrays, *data)
        except Exception as error:
            fail(rule, data, parameters, options, error)
        if type(state) is Scope:
            scope: Scope | None = state
            observers: tuple[Observer, ...] = ()
        else:
            scope, observers = resolve(state), observers_of(state)
            for observer in observers:
                observer.operation(rule, operands, data, result, parameters, options)
        if scope is None or not tracked:
            return _untracked(result)
        locals_: list[Any] = []
        for i, x in enumerate(operands):
            if isinstance(x, Tensor) and x.rule is not UNTRACKED:
                locals_.append(Structural(rule, i, data, result, parameters, options))
            else:
                locals_.append(None)
        node = _node(rule, *_slots(kept, locals_), result, scope)
        for observer in observers:
            observer.recorded(node)
        return node

    return operation


def _kept(operands: Sequence[Any], data: Sequence[Any]) -> list[Any]:
    """What a node remembers: Tensors, and constants as they were."""
    pairs = zip(operands, data, strict=True)
    return [x if isinstance(x, Tensor) else read_only(d) for x, d in pairs]


def _slots(operands: Sequence[Any], locals_: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
    """What stands in a node's x, dx, y and dy."""
    if len(operands) == 1:
        return operands[0], locals_[0], None, None
    if len(operands) == 2:
        return operands[0], locals_[0], operands[1], locals_[1]
    pairs = tuple(zip(operands[1:], locals_[1:], strict=True))
    return operands[0], locals_[0], pairs, MORE


def _node(rule: Any, x: Any, dx: Any, y: Any, dy: Any, result: Any, scope: Scope) -> Tensor:
    node: Tensor = object.__new__(Tensor)
    node._array = result if isinstance(result, np.ndarray) else np.asarray(result)
    node._birth = born()
    node._holders = _RECORDED
    node._grad = node._own_grad = None
    node._place, node.rule = scope, rule
    node.x, node.dx, node.y, node.dy = x, dx, y, dy
    return node


def result_of(rule: Any, x: Node, dx: Any, data: Array, scope: Scope) -> Tensor:
    """A Tensor that is the result of an operation with one operand."""
    return _node(rule, x, dx, None, None, data, scope)


def _untracked(result: Any) -> Tensor:
    node = Tensor.__new__(Tensor)
    node._become_leaf(np.asarray(result), requires_grad=False)
    node._holders = _RECORDED  # it may be a view of an operand's array
    return node


def _has_own_interpreter(x: Any) -> bool:
    """Whether x is of a kind of Tensor that applies the rules in its own way."""
    return isinstance(x, Tensor) and type(x)._interpret is not Tensor._interpret


def leaf_of(x: Tensor) -> Tensor:
    """A tracked leaf of the same numbers, in the same memory, which nobody can write to."""
    tell_read(x)
    leaf = Tensor.__new__(Tensor)
    leaf._become_leaf(x._read(), requires_grad=True)
    leaf._holders = _RECORDED
    leaf.label = x.label
    return leaf


def _plain(x: Any, what: str) -> Any:
    """`x` if it is of a kind that can meet a Tensor."""
    if isinstance(x, Value):
        raise TypeError(
            f"{what}: a Tensor and a Value do not mix: convert with tb.Tensor(value.data) or "
            "tb.Value(tensor.item()), which start without history"
        )
    if hasattr(type(x), "_interpret") and not isinstance(x, Tensor):
        raise TypeError(f"{what}: {NO_MIX}")
    return x


def _constant(x: Any, what: str, is_condition: bool = False) -> Any:
    """A number or an array that meets a Tensor. Numbers take the Tensor's dtype, as in numpy."""
    if type(x) is float:
        return x
    if isinstance(x, (int, float, np.floating, np.integer)) and not isinstance(x, bool):
        return real(x, what)
    _plain(x, what)
    if is_condition:
        condition = copied(x, what)
        if condition.dtype.kind not in "biuf" or isinstance(x, np.ma.MaskedArray):
            raise TypeError(f"{what}: expected a condition, got {shown(x)}")
        return condition != 0
    return as_array(x, what)


def _array_of(x: Any, rule: ArrayRule, which: int) -> Array:
    """An operand that meets a Tensor, as an array."""
    try:
        return as_array(_plain(x, rule.name), rule.name)
    except (TypeError, ValueError) as error:
        raise of_operand(rule, which, error) from None


_operations: dict[Rule | ArrayRule, Callable[..., Any]] = {}


def _operation(rule: Any) -> Callable[..., Any]:
    """The function that applies a rule; made once."""
    if rule not in _operations:
        operation = _elementwise(rule) if isinstance(rule, Rule) else _structural(rule)
        operation.__doc__ = rule.__doc__
        _operations[rule] = operation
    return _operations[rule]


def _operator(rule: Rule, reflected: bool = False) -> Callable[[Any, Any], Any]:
    operation = _operation(rule)
    return (lambda x, y: operation(y, x)) if reflected else operation


def _comparison(compare: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def operation(x: Tensor, y: Any) -> Any:
        tell_read(x)
        if isinstance(y, Tensor):
            return _compared(compare, x._array, y._array)
        plain = (int, float, np.number, np.ndarray, list, tuple)
        numeric = isinstance(_plain(y, "comparison"), plain) or is_foreign(y)
        if not numeric or isinstance(y, bool):
            return NotImplemented
        return _compared(compare, x._array, _constant(y, "comparison"))

    return operation


def _compared(compare: Callable[[Any, Any], Any], x: Array, y: Any) -> Any:
    try:
        return compare(x, y)
    except ValueError:
        raise ValueError(
            f"comparison: shapes {x.shape} and {np.shape(y)} do not broadcast"
        ) from None


_matmul, _getitem = _operation(array_rules.matmul), _operation(array_rules.getitem)


class Tensor(Node):
    """An array that remembers how it was computed, and so can say derivatives by its ancestors.

    `Tensor(...)` is a tracked leaf: `backward()` of something computed from it fills its `grad`.
    Numbers and numpy arrays that meet a Tensor are constants.

    Args:
        data: numbers, nested lists of them, or an array; copied. float32 and float64 are kept,
            integers are promoted to float64.
        label: a name to show in pictures and tables.
        requires_grad: False for data, to which no gradient flows and for which none is computed.
        dtype: float32 or float64, to convert to.

    Raises:
        TypeError: data is not made of real numbers (bool, str, None, complex and object are
            refused), or dtype is another one.

    Example:
        >>> x = Tensor([1.0, 2.0, 3.0])
        >>> (x * x).sum().backward()
        >>> x.grad
        array([2., 4., 6.])
    """

    __slots__ = ("_array", "_holders", "_own_grad")

    _array: Array
    _holders: int
    _own_grad: Array | None

    # numpy's own functions, and operators with an array on their left.
    __array_ufunc__ = ArrayUfunc()
    __array_function__ = array_function

    def __init__(
        self,
        data: ArrayLike,
        label: str = "",
        requires_grad: bool = True,
        dtype: DTypeLike | None = None,
    ) -> None:
        self._become_leaf(as_array(data, "Tensor", dtype), requires_grad)
        if type(label) is not str or label:
            self.label = label

    def _become_leaf(self, array: Array, requires_grad: bool) -> None:
        self._birth = born()
        self._array = array
        self._holders = _PRIVATE
        self._grad = self._own_grad = None
        self._place = resolve(current_state()) or ROOT
        if requires_grad is not True:
            requires_grad = flag(requires_grad, "requires_grad")
        self.rule = None if requires_grad else UNTRACKED
        self.x = self.dx = self.y = self.dy = None

    # --- the array ------------------------------------------------------------------------------

    def _read(self) -> Array:
        """The array for an operation to record; from now on nobody may write to it."""
        if self._holders != _RECORDED:
            if self._holders == _EXPOSED:
                exposed = self._array
                self._array = exposed.copy()
                exposed.setflags(write=False)  # a late write raises, instead of being lost
            self._holders = _RECORDED
        return self._array

    def _data_writes(self, data: Any) -> list[Write]:
        array = np.asarray(data, self._array.dtype)
        return [(_set_array, self, array), (_set_holders, self, _PRIVATE)]

    @property
    def data(self) -> Array:
        """The array. A leaf's can be written to and set; a computed one is read-only.

        Writing never affects what was computed before: if a graph has recorded the array, a fresh
        copy is handed out and used from then on. An array handed out earlier turns read-only when
        the leaf is next used; views taken of it do not, but writing to them has no effect.
        """
        tell_read(self)
        if not self.is_leaf:
            view: Array = read_only(self._array)
            return view
        if self._holders == _RECORDED:
            self._array = self._array.copy()
        self._holders = _EXPOSED
        return self._array

    @data.setter
    def data(self, data: ArrayLike) -> None:
        if not self.is_leaf:
            raise ValueError(
                f"data: this Tensor was computed by {self.rule.name!r}; only a leaf's can be set"
            )
        if data is self._array:  # p.data -= ... ends with an assignment of the array to itself
            return
        array = as_array(data, "data", self._array.dtype)
        if array.shape != self._array.shape:
            raise ValueError(f"data: expected shape {self._array.shape}, got {array.shape}")
        write(self._data_writes(array))

    @property
    def grad(self) -> Array | None:
        """The gradient by this array, in its shape and dtype; None before any sweep.

        It shares memory with nothing.
        """
        grad = self._grad
        if grad is not None and grad is not self._own_grad:
            # In a sweep, gradients may be views of one another: whoever looks gets a copy, unless
            # nothing else refers to the array (only this slot, this name, and the call itself).
            alone = _COUNTED and type(grad) is np.ndarray and grad.base is None
            alone = alone and sys.getrefcount(grad) == 3
            own = grad if alone else np.array(grad)
            with commit_lock:
                if self._grad is grad:  # and no other thread has added to it meanwhile
                    self._grad = self._own_grad = own
            return own
        return grad

    @grad.setter
    def grad(self, grad: ArrayLike | None) -> None:
        write(self._grad_writes(grad))

    def _grad_writes(self, gradient: Any) -> list[Write]:
        if gradient is None or gradient is self._own_grad:
            return [(set_grad, self, gradient)]
        array = as_array(gradient, "grad", self._array.dtype)
        if array.shape != self._array.shape:
            raise ValueError(f"grad: expected shape {self._array.shape}, got {array.shape}")
        return [(set_grad, self, array), (_set_own_grad, self, array)]

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return self._array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self._array.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self._array.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self._array.size

    @property
    def T(self) -> Tensor:
        """The transpose: the axes in reverse order."""
        return self.transpose()

    def item(self) -> float:
        """The number in an array of one element.

        Raises:
            ValueError: there is not exactly one element.
        """
        if self.size != 1:
            raise ValueError(
                f"only a Tensor of one element is a number; this has shape {self.shape}"
            )
        tell_read(self)
        return float(self._array.reshape(()))

    def __float__(self) -> float:
        return self.item()

    def __bool__(self) -> bool:
        return self.item() != 0.0

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        """The data, detached: a copy, or with `copy=False` a read-only view."""
        tell_read(self)
        if copy is False:
            return np.array(read_only(self._array), dtype, copy=False)  # raises if it has to copy
        return np.array(self._array, dtype)

    def __repr__(self) -> str:
        label = f", label={self.label!r}" if self.label else ""
        if self.size <= 12:
            numbers = np.array2string(self._array, precision=4, separator=", ", prefix="Tensor(")
        else:
            numbers = f"shape={self.shape}"
        dtype = "" if self.dtype == np.float64 else f", dtype={self.dtype}"
        return f"Tensor({numbers}{dtype}{label})"

    # --- derivatives ----------------------------------------------------------------------------

    def backward(self, gradient: ArrayLike | None = None, *, leaves_only: bool = False) -> None:
        """Compute the gradient of this Tensor by every tracked ancestor, into their `grad`.

        Leaves accumulate over calls, so a second call doubles them; an inner node's `grad` is that
        of the last call. A call that fails or is interrupted changes no gradient.

        Args:
            gradient: the gradient of some further quantity by this Tensor, in its shape; may be
                left out for a single number, where it is 1.
            leaves_only: leave the inner nodes' `grad` alone, and free their memory.

        Raises:
            ValueError: the Tensor requires no gradient, or has several elements and no gradient
                was given, or the gradient's shape is another.
        """
        backward(self, gradient, leaves_only)

    def detach(self) -> Tensor:
        """A constant of the same values: no gradient flows through it."""
        tell_read(self)
        constant = _untracked(self._read())
        constant._place = Label(self.label, self.scope) if self.label else self.scope
        return constant

    def _shown(self, x: Any) -> Any:
        return read_only(x)

    def _arithmetic(self) -> AbstractContextManager[Any]:
        return np.errstate(all="ignore")  # infinities and nan are results, after IEEE 754

    def _seed(self, gradient: Any) -> Any:
        if gradient is None:
            if self.size != 1:
                raise ValueError(
                    f"backward() of a Tensor of shape {self.shape} needs the gradient to start "
                    "from, got none: sum it to a number first, or pass an array of this shape"
                )
            return np.ones(self.shape, self.dtype)
        seed = as_array(gradient, "gradient", self.dtype)
        if seed.shape != self.shape:
            raise ValueError(f"gradient: expected shape {self.shape}, got {seed.shape}")
        return seed

    # --- comparison by data, identity by hash ---------------------------------------------------

    __hash__ = Node.__hash__

    __eq__ = _comparison(operator.eq)
    __ne__ = _comparison(operator.ne)
    __lt__ = _comparison(operator.lt)
    __le__ = _comparison(operator.le)
    __gt__ = _comparison(operator.gt)
    __ge__ = _comparison(operator.ge)

    # --- copies ---------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.is_leaf:
            raise TypeError(
                "a Tensor with a history cannot be copied or pickled; use .detach() for its "
                "numbers, or copy the leaves it was computed from"
            )
        tell_read(self)
        return Tensor, (self._array.copy(), self.label, self.requires_grad)

    # --- operators ------------------------------------------------------------------------------

    @staticmethod
    def _interpret(
        rule: Rule | ArrayRule,
        operands: tuple[Any, ...],
        parameters: tuple[Any, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> Any:
        """Apply a rule to operands of which at least one is a Tensor."""
        for x in operands:
            if type(x) is not Tensor and _has_own_interpreter(x):
                return NotImplemented
        operation = _operations.get(rule) or _operation(rule)
        if isinstance(rule, Rule):
            return operation(*operands)
        return operation(operands, parameters, options or _NO_OPTIONS)

    __add__ = _operator(rules.add)
    __sub__ = _operator(rules.subtract)
    __mul__ = _operator(rules.multiply)
    __truediv__ = _operator(rules.divide)
    __pow__ = _operator(rules.power)
    __radd__ = _operator(rules.add, reflected=True)
    __rsub__ = _operator(rules.subtract, reflected=True)
    __rmul__ = _operator(rules.multiply, reflected=True)
    __rtruediv__ = _operator(rules.divide, reflected=True)
    __rpow__ = _operator(rules.power, reflected=True)
    __neg__ = _operation(rules.negative)
    __abs__ = _operation(rules.absolute)

    def __pos__(self) -> Tensor:
        return self

    def __isub__(self, other: Any) -> Any:
        if self.rule is None:
            # It would make a node called p, and leave the parameter as it is.
            raise TypeError(
                "p -= ... does not move a leaf; write p.data -= ..., or p = p - ... for a new node"
            )
        return self - other

    def __matmul__(self, other: Any) -> Tensor:
        return _matmul((self, other))  # type: ignore[no-any-return]

    def __rmatmul__(self, other: Any) -> Tensor:
        return _matmul((other, self))  # type: ignore[no-any-return]

    def __getitem__(self, index: Any) -> Tensor:
        if hasattr(type(index), "_interpret"):  # an index that is being recorded
            return type(index)._interpret(array_rules.getitem, (self,), (index,))  # type: ignore[no-any-return]
        return _getitem((self,), (index,))  # type: ignore[no-any-return]

    exp = _operation(rules.exp)
    log = _operation(rules.log)
    sqrt = _operation(rules.sqrt)
    tanh = _operation(rules.tanh)
    sigmoid = _operation(rules.sigmoid)
    relu = _operation(rules.relu)

    def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The sum over an axis, several, or all."""
        return array_rules.sum(self, axis, keepdims)  # type: ignore[no-any-return]

    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The mean over an axis, several, or all."""
        return array_rules.mean(self, axis, keepdims)  # type: ignore[no-any-return]

    def var(self, axis: Any = None, ddof: float = 0, keepdims: bool = False) -> Tensor:
        """The variance over an axis, several, or all, divided by n - ddof."""
        return array_rules.var(self, axis, ddof, keepdims)  # type: ignore[no-any-return]

    def max(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The largest element over an axis, several, or all; equal ones share the gradient."""
        return array_rules.max(self, axis, keepdims)  # type: ignore[no-any-return]

    def min(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The smallest element over an axis, several, or all; equal ones share the gradient."""
        return array_rules.min(self, axis, keepdims)  # type: ignore[no-any-return]

    def prod(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The product over an axis, several, or all."""
        return array_rules.prod(self, axis, keepdims)  # type: ignore[no-any-return]

    def astype(self, dtype: DTypeLike) -> Tensor:
        """The same numbers as float32 or float64.

        Raises:
            TypeError: dtype is another one.
        """
        return array_rules.astype(self, dtype)  # type: ignore[no-any-return]

    def reshape(self, *shape: Any) -> Tensor:
        """The same elements in another shape: `reshape(2, 3)` or `reshape((2, 3))`."""
        return array_rules.reshape(self, shape[0] if len(shape) == 1 else shape)  # type: ignore[no-any-return]

    def transpose(self, *axes: Any) -> Tensor:
        """The axes in another order, `transpose(1, 0)`; reversed, if none is given."""
        order: Any = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        if isinstance(order, (tuple, list)) and not order:
            order = None
        return array_rules.transpose(self, order)  # type: ignore[no-any-return]


_set_array, _set_holders, _set_own_grad = (
    vars(Tensor)[name].__set__ for name in ("_array", "_holders", "_own_grad")
)
