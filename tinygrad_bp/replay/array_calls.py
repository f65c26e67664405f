"""The functions of numpy that a program calls, written down by running its rules over a namespace.

A call can be *hopeful*: it leaves out a precaution that hardly ever matters, and that is missed
only where its result holds a nan. `witnesses` finds a few results in which any such nan shows, so
that one look at the end stands for all precautions.

Where the order of terms need not be numpy's, short sums are products of matrices with ones, for
which a library of linear algebra takes a quarter of the time.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from tinygrad_bp import array_rules, arrays

OUT = object()  # among arguments: where the array for the result is to stand, if not at their end

_REDUCTIONS = {
    "sum": np.add.reduce,
    "prod": np.multiply.reduce,
    "max": np.maximum.reduce,
    "min": np.minimum.reduce,
}
# Of two numbers, Python's operators give numpy's result in a fifth of the time.
_OF_NUMBERS = {
    np.add: operator.add,
    np.subtract: operator.sub,
    np.multiply: operator.mul,
    np.divide: operator.truediv,
}
MANY = 256  # classes up to which there is a table of their rows
SHORT = 4096  # terms up to which a sum may be taken in any order: beyond, numpy's is more accurate
_transposed = operator.attrgetter("T")


def _azmul_into(g: Any, d: Any, out: Any) -> Any:
    """`arrays.azmul`, into a prepared array."""
    np.multiply(g, d, out)
    total = np.vdot(out, out)
    if total != total:
        np.copyto(out, 0.0, where=np.equal(g, 0) & np.isnan(out))
    return out


def _maximum_into(x: Any, y: Any, out: Any) -> Any:
    return np.maximum(x, y, out=out)


def _minimum_into(x: Any, y: Any, out: Any) -> Any:
    return np.minimum(x, y, out=out)


# Functions that want `out` to be named; the others are quicker without.
_INTO: dict[Any, Any] = {np.maximum: _maximum_into, np.minimum: _minimum_into}


def _one_hot(rows: Any, indices: Any) -> Any:
    """`array_rules.one_hot`, from its rows between two of nan, where all other indices come to."""
    try:
        return rows.take(indices + 1, 0, None, "clip")
    except TypeError:  # uint64
        return array_rules.one_hot(indices, len(rows) - 2, rows.dtype)


class Call:
    """One call of a function of numpy's.

    Attributes:
        function: what is called.
        arguments: its arguments; symbols stand for arrays.
        into: the function with an array for the result as its last argument (or where `OUT`
            stands), if there is one.
        elementwise: whether the result may be written over an operand.
        result: the symbol of the result.
        hopeful: whether, had it gone wrong, its result would hold a nan.
        raises: whether it is to be made for its errors, too, if nothing needs the result.
        transparent: whether, if an operand holds a nan, so does the result, unless it is empty.
    """

    __slots__ = (
        *("arguments", "elementwise", "function", "hopeful", "into", "options"),
        *("raises", "result", "transparent"),
    )

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        into: Callable[..., Any] | None,
        elementwise: bool,
    ) -> None:
        self.function, self.arguments, self.options = function, arguments, options
        self.into, self.elementwise = into, elementwise
        self.hopeful = self.raises = False
        self.transparent = function in _TRANSPARENT
        self.result: Any = None


class Symbol:
    """An array of the program: its shape and dtype are known, its numbers are not.

    `sample` is an array of these, with some numbers; `owner` the symbol whose memory it may be a
    view of; `name` what it is called in the code; `call` the call that it is the result of.
    """

    __slots__ = ("call", "calls", "name", "owner", "sample")

    def __init__(self, calls: Calls, sample: Any, name: str = "", owner: Any = None) -> None:
        self.calls, self.sample, self.name = calls, sample, name
        self.call: Call | None = None
        self.owner: Symbol = self if owner is None else owner

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.sample)

    @property
    def ndim(self) -> int:
        return np.ndim(self.sample)

    @property
    def dtype(self) -> Any:
        return self.sample.dtype

    def __len__(self) -> int:
        return len(self.sample)

    def __getitem__(self, index: Any) -> Any:
        return self.calls.call(arrays.getitem, (self, index), {})

    def __array__(self, *unused: Any, **also: Any) -> Any:
        raise TypeError(
            "a rule works on the numbers of an array, and not through its namespace m: it cannot "
            "be replayed"
        )

    def one_hot(self, classes: int, dtype: Any = None) -> Any:
        return self.calls.one_hot(self, classes, dtype)

    def __add__(self, other: Any) -> Any:
        return self.calls.ufunc(np.add, self, other)

    def __radd__(self, other: Any) -> Any:
        return self.calls.ufunc(np.add, other, self)

    def __sub__(self, other: Any) -> Any:
        return self.calls.ufunc(np.subtract, self, other)

    def __rsub__(self, other: Any) -> Any:
        return self.calls.ufunc(np.subtract, other, self)

    def __mul__(self, other: Any) -> Any:
        return self.calls.ufunc(np.multiply, self, other)

    def __rmul__(self, other: Any) -> Any:
        return self.calls.ufunc(np.multiply, other, self)

    def __truediv__(self, other: Any) -> Any:
        return self.calls.ufunc(np.true_divide, self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self.calls.ufunc(np.true_divide, other, self)

    def __rpow__(self, other: Any) -> Any:
        return self.calls.ufunc(np.power, other, self)

    def __pow__(self, other: Any) -> Any:
        return self.calls.ufunc(np.power, self, other)

    def __neg__(self) -> Any:
        return self.calls.ufunc(np.negative, self)

    def __abs__(self) -> Any:
        return self.calls.ufunc(np.absolute, self)

    def __and__(self, other: Any) -> Any:
        return self.calls.ufunc(np.bitwise_and, self, other)

    def __or__(self, other: Any) -> Any:
        return self.calls.ufunc(np.bitwise_or, self, other)

    def __lt__(self, other: Any) -> Any:
        return self.calls.ufunc(np.less, self, other)

    def __le__(self, other: Any) -> Any:
        return self.calls.ufunc(np.less_equal, self, other)

    def __gt__(self, other: Any) -> Any:
        return self.calls.ufunc(np.greater, self, other)

    def __ge__(self, other: Any) -> Any:
        return self.calls.ufunc(np.greater_equal, self, other)

    def __eq__(self, other: Any) -> Any:
        return self.calls.ufunc(np.equal, self, other)

    def __ne__(self, other: Any) -> Any:
        return self.calls.ufunc(np.not_equal, self, other)

    __hash__ = object.__hash__
    __array_ufunc__ = None  # an array on the left leaves the operator to us

    def __bool__(self) -> bool:
        raise TypeError("a rule decides by the data of an array: it cannot be replayed")


class Calls:
    """The calls of a program in order. It is also the namespace that the rules are run over.

    Args:
        hopeful: whether to leave out precautions that `witnesses` can make good.
        exact: whether to add up in numpy's order.
    """

    def __init__(self, hopeful: bool = False, exact: bool = True) -> None:
        self.hopeful, self.exact = hopeful, exact
        self.all: list[Call] = []
        self._peaks: dict[Symbol, Symbol] = {}  # of a maximum taken for finite, what it is of
        self.unseen: set[Symbol] = set()  # those of them that are not yet part of a difference
        self._one_hots: set[Symbol] = set()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(arrays, name)

        def called(*arguments: Any, **options: Any) -> Any:
            return self._named(name, function, arguments, options)

        return called

    def _named(
        self, name: str, function: Any, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        if not any(isinstance(x, Symbol) for x in flat(arguments)):
            return function(*arguments, **options)
        if isinstance(function, np.ufunc):
            return self.ufunc(function, *arguments)
        into: Any = None
        if name == "azmul":
            plain = _has_no_zero(arguments[0])
            if self.hopeful or plain:
                product = self.ufunc(np.multiply, *arguments)
                self.all[-1].hopeful = not plain
                return product
            into = _azmul_into
        elif name == "detached":
            return arguments[0]
        elif name in _REDUCTIONS:
            return self._reduction(_REDUCTIONS[name], *arguments, **options)
        elif name == "transpose" and arguments[1:] in ((), (None,)) and not options:
            return self.call(_transposed, arguments[:1], {})
        elif name == "matmul":
            function, into = _product(*arguments)
        elif name == "broadcast_to":
            return self.call(function, arguments, options, _broadcast_into)
        elif name == "where" and self.hopeful and _is_peak(*arguments):
            x, peak = arguments[1].call.arguments[0], arguments[1]
            self._peaks[peak] = x
            self.unseen.add(peak)
            return peak
        return self.call(function, arguments, options, into, elementwise=False)

    def one_hot(self, indices: Symbol, classes: int, dtype: Any) -> Symbol:
        """Rows with a one at each index; a hopeful call leaves it to a nan to show a wrong one."""
        if self.hopeful and classes <= MANY:
            rows = np.eye(classes + 2, classes, -1, dtype=dtype or np.float64)
            rows[[0, -1]] = np.nan
            result = self.call(_one_hot, (rows, indices), {})
            self.all[-1].hopeful = True
        else:
            made = functools.partial(array_rules.one_hot, classes=classes, dtype=dtype)
            result = self.call(made, (indices,), {})
        self._one_hots.add(result)
        return result

    def _reduction(self, reduce: Any, x: Any, axis: Any = None, keepdims: Any = False) -> Any:
        if reduce is _REDUCTIONS["sum"]:
            total = self._only_term(x, axis, keepdims)
            if total is None and not self.exact:
                total = self._short_sum(x, axis, keepdims)
            if total is not None:
                return total
        return self.call(reduce, (x, axis, None, OUT, bool(keepdims)), {}, reduce)

    def _only_term(self, x: Symbol, axis: Any, keepdims: Any) -> Any:
        """The sum over the classes of c * one_hot(...), of a finite number c: it is c."""
        call = x.call
        if not call or call.function is not np.multiply or axis not in (-1, x.ndim - 1):
            return None
        for c, one in (call.arguments, call.arguments[::-1]):
            is_one_hot = isinstance(one, Symbol) and one.call and one in self._one_hots
            if is_one_hot and not isinstance(c, Symbol) and np.size(c) == 1:
                one.call.raises = True
                shape = (*x.shape[:-1], 1) if keepdims else x.shape[:-1]
                return np.full(shape, c, x.dtype) if np.isfinite(c).all() else None
        return None

    def _short_sum(self, x: Symbol, axis: Any, keepdims: Any) -> Symbol | None:
        """A sum as a product with ones, or of the factors of its terms; None if it is neither."""
        if x.dtype.kind != "f" or not 0 < x.sample.size <= SHORT:
            return None
        axes = tuple(range(x.ndim)) if axis is None else axis if type(axis) is tuple else (axis,)
        factors = x.call.arguments if x.call and x.call.function is np.multiply else ()
        if len(axes) == x.ndim and factors and all(_is_like(f, x) for f in factors):
            if keepdims:
                return None
            total = self.call(np.vdot, factors, {})
            self.all[-1].hopeful = x.call.hopeful  # type: ignore[union-attr]
        elif len(axes) == 1 and x.ndim == 2 and x.sample.flags.forc:
            total = self.call(np.dot, _with_ones(x, axes[0], keepdims), {}, np.dot)
        else:
            return None
        self.all[-1].transparent = True  # a dot product, or one with ones, leaves nothing out
        return total

    def ufunc(self, function: np.ufunc, *operands: Any) -> Any:
        """An elementwise function."""
        if len(operands) != function.nin:
            raise TypeError(f"{function.__name__} takes {function.nin} operands")
        if function in _OF_NUMBERS and not any(map(np.ndim, operands)):
            numbers = [x[()] if isinstance(x, np.ndarray) else x for x in operands]
            return self.call(_OF_NUMBERS[function], tuple(numbers), {})
        if function in _OF_NUMBERS:
            operands = _with_numbers(*operands)
        result = self.call(function, operands, {}, _INTO.get(function, function), elementwise=True)
        if function is np.subtract and self._peaks.get(operands[1]) is operands[0]:
            self.all[-1].hopeful = True  # infinity less infinity is nan
            self.unseen.discard(operands[1])
        return result

    def call(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        into: Callable[..., Any] | None = None,
        elementwise: bool = False,
    ) -> Symbol:
        """Write down a call, and do it once on samples, to know what comes out."""
        samples = replaced(arguments, lambda symbol: symbol.sample)
        sample = np.asarray(function(*samples, **options))
        call = Call(function, arguments, options, into, elementwise)
        if not sample.ndim:
            call.into = None  # a number is made as fast as it is written
        owner = None
        if call.into is None:
            for x in flat(arguments):
                if isinstance(x, Symbol) and (
                    function is arrays.reshape or np.may_share_memory(sample, x.sample)
                ):  # whether a reshape is a view depends on the order in memory
                    owner = x.owner
        result = call.result = Symbol(self, sample, owner=owner)
        result.call = call
        self.all.append(call)
        return result


def _broadcast_into(x: Any, shape: Any, out: Any) -> Any:
    np.copyto(out, x)
    return out


def _is_peak(condition: Any, peak: Any, otherwise: Any) -> bool:
    """Whether it is `where(absolute(peak) < inf, peak, 0)`, of a maximum."""
    if not (isinstance(condition, Symbol) and isinstance(peak, Symbol)):
        return False
    less, maximum = condition.call, peak.call
    if less is None or maximum is None or less.function is not np.less:
        return False
    size, bound = less.arguments
    return (
        maximum.function is _REDUCTIONS["max"]
        and isinstance(size, Symbol)
        and size.call is not None
        and size.call.function is np.absolute
        and size.call.arguments[0] is peak
        and not isinstance(bound, Symbol)
        and bound == float("inf")
        and not isinstance(otherwise, Symbol)
        and np.all(np.equal(otherwise, 0.0)).item()
    )


def _with_ones(x: Symbol, axis: int, keepdims: Any) -> tuple[Any, Any]:
    """The factors whose product is a sum along one axis of two."""
    ones = np.ones(x.shape[axis], x.dtype)
    if axis % 2:
        return x, ones[:, None] if keepdims else ones
    return ones[None, :] if keepdims else ones, x


def _with_numbers(x: Any, y: Any) -> tuple[Any, Any]:
    """Two operands, with a number for a constant array of equal ones, unless it gives the shape."""
    shape = np.broadcast_shapes(np.shape(x), np.shape(y))
    return _as_number(x, np.shape(y) == shape), _as_number(y, np.shape(x) == shape)


def _as_number(x: Any, redundant: bool) -> Any:
    if not redundant or not isinstance(x, np.ndarray) or not x.ndim or not x.size:
        return x
    first = x.ravel()[:1]
    return first.reshape(()) if x.tobytes() == first.tobytes() * x.size else x


def _is_like(x: Any, other: Symbol) -> bool:
    """Whether x is an array of the same shape, dtype and order in memory."""
    return (
        isinstance(x, Symbol)
        and x.shape == other.shape
        and x.dtype == other.dtype
        and x.sample.flags.c_contiguous
    )


def _product(x: Any, y: Any) -> tuple[Any, Any]:
    if x.ndim == 2 and y.ndim == 2:
        return np.dot, np.dot
    return np.matmul, (np.matmul if x.ndim > 1 and y.ndim > 1 else None)


def _has_no_zero(x: Any) -> bool:
    """Whether x is a constant in which nothing is zero: then azmul is the plain product."""
    return isinstance(x, (float, np.ndarray, np.generic)) and bool(np.all(np.not_equal(x, 0)))


def flat(x: Any) -> Any:
    """What lists and tuples within one another hold, in order."""
    if isinstance(x, (list, tuple)):
        for part in x:
            yield from flat(part)
    else:
        yield x


def replaced(x: Any, by: Callable[[Symbol], Any]) -> Any:
    """An argument with something else in the place of each symbol."""
    if isinstance(x, Symbol):
        return by(x)
    if x is OUT:
        return None
    if type(x) in (list, tuple):
        return type(x)(replaced(part, by) for part in x)
    return x


# --- one look for all -----------------------------------------------------------------------------

# What is transparent. Products of matrices are not: some libraries leave out what meets a zero.
_TRANSPARENT = {
    *(np.add, np.subtract, np.multiply, np.divide, np.maximum, np.minimum, np.negative),
    *(np.absolute, np.exp, np.expm1, np.log, np.log1p, np.sqrt, np.sin, np.cos, np.tanh, np.cosh),
    *(*_REDUCTIONS.values(), *_OF_NUMBERS.values(), _transposed),
    *(arrays.reshape, arrays.broadcast_to, np.stack, np.concatenate, np.expand_dims, np.squeeze),
}


def witnesses(calls: Sequence[Call], outputs: Iterable[Any]) -> list[Symbol] | None:
    """Outputs that hold a nan whenever the result of a hopeful call does; None if it may not show.

    Args:
        calls: the calls that are needed.
        outputs: the results of the program.
    """
    shown: dict[Symbol, Symbol] = {}  # where a nan in it shows
    for x in outputs:
        if isinstance(x, Symbol) and x.dtype.kind == "f" and x not in shown:
            shown[x] = x
    found: dict[Symbol, None] = {}
    for call in reversed(calls):
        output = shown.get(call.result)
        if call.hopeful:
            if output is None:
                return None
            found[output] = None
        if output is None or not call.transparent or not call.result.sample.size:
            continue
        for x in flat(call.arguments):
            if isinstance(x, Symbol) and (
                x not in shown or shown[x].sample.size > output.sample.size
            ):
                shown[x] = output
    return list(found)
