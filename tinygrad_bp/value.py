"""`Value`: a float that remembers how it was computed.

The scalar interpreter of the rules. An operation computes its value and its partial derivatives at
once, as floats, and stores both in the new node, so nothing that happens to the operands later can
change a gradient. Everything here is about doing that quickly and refusing what is not a number;
the mathematics is in `rules`, the chain rule in `graph`.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from importlib import import_module
from numbers import Real
from typing import Any

from tinygrad_bp import floats, rules
from tinygrad_bp.arguments import flag, wrong_kind
from tinygrad_bp.graph import MORE, UNTRACKED, Node, backward, born, set_grad
from tinygrad_bp.interrupts import Write
from tinygrad_bp.recording import ROOT, Scope, current_state, observers_of, resolve, tell_read
from tinygrad_bp.rules import Rule


class _Unbounded(float):
    """A local derivative that is infinite or nan. Zero times it is zero, by `azmul`.

    An upstream gradient of exactly zero (a branch masked by `where`) must not turn into nan. Only
    derivatives that are not finite need the care, so only they have a multiplication of their own.
    """

    __slots__ = ()

    def __mul__(self, gradient: float) -> float:
        return floats.azmul(gradient, float(self))

    __rmul__ = __mul__


def _number(x: Any, what: str) -> float:
    """`x` as a float, if it is a real number."""
    if type(x) is float:
        return x
    if isinstance(x, Real) and not isinstance(x, bool):
        try:
            return float(x)
        except OverflowError:
            raise ValueError(f"{what}: an integer this large has no float") from None
        except TypeError:  # numpy's durations call themselves real
            pass
    hint = ""
    if hasattr(x, "__array__") or isinstance(x, (list, tuple)):
        hint = (
            "; for arrays use tb.Tensor(...), also for a number that meets them (as an argument "
            "np.array(2.0)), or tb.values(...) for an array of Values"
        )
    raise TypeError(f"{what}: expected a real number, got {type(x).__name__}{hint}")


# --- the interpreter: a rule as a function of Values ---------------------------------------------


def _unary(rule: Rule) -> Callable[[Value], Any]:
    value, (partial,) = rule.value, rule.partials
    if not callable(partial):
        return _general(rule)
    general = _general(rule)

    def operation(x: Value) -> Any:
        state = current_state()
        if type(state) is not Scope or x.rule is UNTRACKED:
            return general(x)
        a = x._data
        z = value(floats, a)
        dx = partial(floats, a, z)
        if dx - dx != 0.0:
            dx = _Unbounded(dx)
        node = _Result()
        node._birth = born()
        node._data, node._grad, node._place, node.rule = z, None, state, rule
        node.x, node.dx, node.y, node.dy = x, dx, None, None
        return node

    return operation


def _binary(rule: Rule) -> Callable[[Value, Any], Any]:
    """The operation of two operands, the first of which is a Value.

    Nearly all nodes of a scalar graph are made here, so it is written out for speed: once for
    partials that are computed, once for constant ones (sums and differences), and once where each
    is the other operand (products).
    """
    value, (partial_x, partial_y) = rule.value, rule.partials
    on_floats = _OPERATORS.get(rule) or functools.partial(value, floats)
    general = _general(rule)

    def operation(x: Value, y: Any) -> Any:
        state = current_state()
        if type(state) is not Scope or x.rule is UNTRACKED:
            return general(x, y)
        a = x._data
        if type(y) is float:
            z = value(floats, a, y)
            dx = partial_x(floats, a, y, z)  # type: ignore[operator, misc]
            dy = None
        elif type(y) is _Result or (isinstance(y, Value) and y.rule is not UNTRACKED):
            b = y._data
            z = value(floats, a, b)
            dx = partial_x(floats, a, b, z)  # type: ignore[operator, misc]
            dy = partial_y(floats, a, b, z)  # type: ignore[operator, misc]
            if dy - dy != 0.0:
                dy = _Unbounded(dy)
        else:
            return general(x, y)
        if dx - dx != 0.0:
            dx = _Unbounded(dx)
        node = _Result()
        node._birth = born()
        node._data = z
        node._grad = None
        node._place = state
        node.rule = rule
        node.x = x
        node.dx = dx
        node.y = y
        node.dy = dy
        return node

    def linear(x: Value, y: Any) -> Any:
        state = current_state()
        if type(state) is not Scope or x.rule is UNTRACKED:
            return general(x, y)
        node = _Result()
        if type(y) is float:
            node._data = on_floats(x._data, y)
            node.dy = None
        elif type(y) is _Result or (isinstance(y, Value) and y.rule is not UNTRACKED):
            node._data = on_floats(x._data, y._data)
            node.dy = partial_y
        else:
            return general(x, y)
        node._birth = born()
        node._grad = None
        node._place = state
        node.rule = rule
        node.x = x
        node.dx = partial_x
        node.y = y
        return node

    def product(x: Value, y: Any) -> Any:
        state = current_state()
        if type(state) is not Scope or x.rule is UNTRACKED:
            return general(x, y)
        node = _Result()
        a = x._data
        if type(y) is float:
            b = y
            node.dy = None
        elif type(y) is _Result or (isinstance(y, Value) and y.rule is not UNTRACKED):
            b = y._data
            node.dy = a if a - a == 0.0 else _Unbounded(a)
        else:
            return general(x, y)
        node.dx = b if b - b == 0.0 else _Unbounded(b)
        node._birth = born()
        node._data = on_floats(a, b)
        node._grad = None
        node._place = state
        node.rule = rule
        node.x = x
        node.y = y
        return node

    if rule.partials == (rules.second, rules.first):
        return product
    if callable(partial_x) and callable(partial_y):
        return operation
    return linear if isinstance(partial_x, float) and isinstance(partial_y, float) else general


# What computes a rule's value of two floats without a call of Python's.
_OPERATORS: dict[Rule, Callable[[float, float], float]] = {
    rules.add: operator.add,
    rules.subtract: operator.sub,
    rules.multiply: operator.mul,
}


def _general(rule: Rule) -> Callable[..., Any]:
    """The operation of any number of operands, of which some may be plain numbers."""

    def operation(*operands: Any) -> Any:
        numbers = []
        for operand, partial in zip(operands, rule.partials, strict=True):
            number = _operand(operand, rule.name, is_condition=partial is None)
            if number is NotImplemented:
                return NotImplemented
            numbers.append(number)
        z = rule.value(floats, *numbers)
        state = current_state()
        scope = resolve(state)
        observers = observers_of(state)
        for observer in observers:
            observer.operation(rule, operands, numbers, z, (), {})
        if scope is None:
            return Value(z, requires_grad=False)
        locals_ = [
            _local(rule, partial, numbers, z) if _is_tracked(operand) else None
            for operand, partial in zip(operands, rule.partials, strict=True)
        ]
        if all(local is None for local in locals_):
            return Value(z, requires_grad=False)
        node = _Result()
        node._birth = born()
        node._data, node._grad, node._place, node.rule = z, None, scope, rule
        node.x, node.dx, node.y, node.dy = operands[0], locals_[0], None, None
        if rule.arity == 2:
            node.y, node.dy = operands[1], locals_[1]
        elif rule.arity > 2:
            node.y, node.dy = tuple(zip(operands[1:], locals_[1:], strict=True)), MORE
        for observer in observers:
            observer.recorded(node)
        return node

    return operation


def result_of(rule: Any, x: Node, dx: Any, data: float, scope: Scope) -> Value:
    """A Value that is the result of an operation with one operand."""
    node: Value = _Result()
    node._birth = born()
    node._data, node._grad, node._place, node.rule = data, None, scope, rule
    node.x, node.dx, node.y, node.dy = x, dx, None, None
    return node


def _reflected(rule: Rule) -> Callable[[Value, Any], Any]:
    general = _general(rule)

    def operation(y: Value, x: Any) -> Any:
        return general(x, y)

    return operation


def _operand(x: Any, what: str, is_condition: bool = False) -> Any:
    """The number to compute with; NotImplemented for a kind that has its own interpreter."""
    if isinstance(x, Value):
        return x._data if type(x)._interpret is Value._interpret else NotImplemented
    if type(x) is float and not is_condition:
        return x
    if hasattr(type(x), "_interpret"):
        return NotImplemented
    return _truth(x, what) if is_condition else _number(x, what)


def _truth(x: Any, what: str) -> bool:
    if type(x) is int and x in (-1, -2):  # both are true
        raise ValueError(
            f"{what}: condition: got {x}, which is ~ of a comparison; compare the other way, or "
            "write `not`"
        )
    if isinstance(x, Real) or type(x).__name__ == "bool" or getattr(x, "shape", None) == ():
        return bool(x)
    raise wrong_kind(f"{what}: condition", "a truth value", x)


def _is_tracked(x: Any) -> bool:
    return isinstance(x, Value) and x.rule is not UNTRACKED


def _local(rule: Rule, partial: Any, numbers: list[float], z: float) -> float | None:
    if not callable(partial):
        return partial  # type: ignore[no-any-return]
    local = partial(floats, *numbers, z)
    return _Unbounded(local) if local - local != 0.0 else local


def _comparison(compare: Callable[[float, float], bool]) -> Callable[[Value, Any], Any]:
    def method(x: Value, y: Any) -> Any:
        if isinstance(y, Value):
            number: Any = NotImplemented if _is_recorded(y) else y._data
        else:
            number = _operand(y, "comparison")
        if number is NotImplemented:
            return number
        tell_read(x)
        return compare(x._data, number)

    return method


def _is_recorded(x: Value) -> bool:
    """Whether x is on the tape of a function that is being compiled: it compares in its own way."""
    return hasattr(type(x), "recorder")


def _numpy_protocol() -> Any:
    # Only numpy asks for it, so numpy is there; the scalar engine itself runs without.
    return import_module("tinygrad_bp.numpy_protocol")


class _ArrayUfunc:
    """The method by which numpy's functions, and arrays on the left, leave the work to a Value.

    Found on the type only, see `numpy_protocol.ArrayUfunc`.
    """

    def __get__(self, node: Value | None, kind: type) -> Any:
        return _numpy_protocol().array_ufunc if node is None else None


class Value(Node):
    """A float that remembers how it was computed, and so can say its derivative by its ancestors.

    `Value(3.0)` is a tracked leaf: `backward()` of something computed from it fills its `grad`.
    Numbers that meet a Value are constants.

    Args:
        data: a real number (int, float, numpy's real scalars); bool, str, None and complex are
            refused.
        label: a name to show in pictures and tables.
        requires_grad: False for a constant, to which no gradient flows.

    Raises:
        TypeError: data is not a real number.

    Example:
        >>> a = Value(2.0)
        >>> b = a * a + 3.0 * a
        >>> b.backward()
        >>> b.data, a.grad
        (10.0, 7.0)
    """

    __slots__ = ("_data",)

    _data: float

    __array_ufunc__ = _ArrayUfunc()

    def __array_function__(self, *call: Any) -> Any:
        """numpy's functions that are not elementwise."""
        return _numpy_protocol().array_function(self, *call)

    def __init__(self, data: float, label: str = "", requires_grad: bool = True) -> None:
        self._birth = born()
        self._data = _number(data, "Value")
        self._grad: float | None = None
        self._place = resolve(current_state()) or ROOT
        if requires_grad is not True:
            requires_grad = flag(requires_grad, "requires_grad")
        self.rule = None if requires_grad else UNTRACKED
        self.x = self.dx = self.y = self.dy = None
        if type(label) is not str or label:
            self.label = label

    # --- the number -----------------------------------------------------------------------------

    @property
    def data(self) -> float:
        """The number. That of a leaf can be set; a later computation will use the new one."""
        tell_read(self)
        return self._data

    @data.setter
    def data(self, data: float) -> None:
        if self.rule is not None and self.rule is not UNTRACKED:
            raise ValueError(
                f"data: this Value was computed by {self.rule.name!r}; only a leaf's can be set"
            )
        self._data = _number(data, "data")

    @property
    def grad(self) -> float | None:
        """The derivative by this value of what was swept; None before any sweep."""
        return self._grad

    @grad.setter
    def grad(self, grad: float | None) -> None:
        self._grad = None if grad is None else _number(grad, "grad")

    def _grad_writes(self, gradient: Any) -> list[Write]:
        return [(set_grad, self, None if gradient is None else _number(gradient, "grad"))]

    def _data_writes(self, data: Any) -> list[Write]:
        return [(_set_data, self, float(data))]

    def item(self) -> float:
        """The number, as a Python float."""
        return self.data

    def __float__(self) -> float:
        return self.data

    def __repr__(self) -> str:
        label = f", label={self.label!r}" if self.label else ""
        grad = f", grad={self._grad:.6g}" if self._grad is not None else ""
        return f"Value({self._data:.6g}{label}{grad})"

    # --- derivatives ----------------------------------------------------------------------------

    def backward(self, gradient: float | None = None, *, leaves_only: bool = False) -> None:
        """Compute the derivative of this value by every tracked ancestor, into their `grad`.

        Leaves accumulate over calls, so a second call doubles them; an inner node's `grad` is that
        of the last call. A call that fails or is interrupted changes no gradient.

        Args:
            gradient: the derivative of some further quantity by this value; 1 if not given.
            leaves_only: leave the inner nodes' `grad` alone.

        Raises:
            ValueError: the value requires no gradient.
        """
        backward(self, gradient, leaves_only)

    def detach(self) -> Value:
        """A constant of the same value: no gradient flows through it."""
        return Value(self.data, self.label, requires_grad=False)

    def _seed(self, gradient: Any) -> float:
        return 1.0 if gradient is None else _number(gradient, "gradient")

    # --- comparison by data, identity by hash ---------------------------------------------------

    __hash__ = Node.__hash__

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Value):
            if _is_recorded(other):
                return NotImplemented
            return self.data == other.data
        return self.data == other if isinstance(other, Real) else NotImplemented

    __lt__ = _comparison(operator.lt)
    __le__ = _comparison(operator.le)
    __gt__ = _comparison(operator.gt)
    __ge__ = _comparison(operator.ge)

    def __bool__(self) -> bool:
        return self.data != 0.0

    # --- copies ---------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.is_leaf:
            raise TypeError(
                "a Value with a history cannot be copied or pickled; use .detach() for its number, "
                "or copy the leaves it was computed from"
            )
        return Value, (self.data, self.label, self.requires_grad)

    # --- operators ------------------------------------------------------------------------------

    __add__ = _binary(rules.add)
    __sub__ = _binary(rules.subtract)
    __mul__ = _binary(rules.multiply)
    __truediv__ = _binary(rules.divide)
    __pow__ = _binary(rules.power)
    __neg__ = _unary(rules.negative)
    __abs__ = _unary(rules.absolute)

    __radd__ = _reflected(rules.add)
    __rsub__ = _reflected(rules.subtract)
    __rmul__ = _reflected(rules.multiply)
    __rtruediv__ = _reflected(rules.divide)
    __rpow__ = _reflected(rules.power)

    def __pos__(self) -> Value:
        return self

    def __isub__(self, other: Any) -> Any:
        if self.rule is None:
            # It would make a node called p, and leave the parameter as it is.
            raise TypeError(
                "p -= ... does not move a leaf; write p.data -= ..., or p = p - ... for a new node"
            )
        return self - other

    exp = _unary(rules.exp)
    log = _unary(rules.log)
    sqrt = _unary(rules.sqrt)
    tanh = _unary(rules.tanh)
    sigmoid = _unary(rules.sigmoid)
    relu = _unary(rules.relu)

    @staticmethod
    def _interpret(rule: Rule, operands: tuple[Any, ...], *unused: Any) -> Any:
        """Apply an elementwise rule to operands of which at least one is a Value."""
        if not isinstance(rule, Rule):
            raise TypeError(
                f"{rule.name} works on arrays: use a tb.Tensor, or tb.values(...) for an array of "
                "Values"
            )
        if not isinstance(operands[0], Value):
            return _general(rule)(*operands)
        method = _methods.get(rule)
        if method is None:
            makers: dict[int, Callable[[Rule], Callable[..., Any]]] = {1: _unary, 2: _binary}
            method = _methods[rule] = makers.get(rule.arity, _general)(rule)
        return method(*operands)


_set_data = vars(Value)["_data"].__set__

_methods: dict[Rule, Callable[..., Any]] = {}


class _Result(Value):
    """A Value that was computed: a class of its own, to have no `__init__`, which costs time."""

    __slots__ = ()
    __init__ = object.__init__


_Result.__name__ = _Result.__qualname__ = "Value"
