"""Replay of arrays by numpy: straight-line code, with places for the results prepared.

A program on arrays has its backward pass in it, as further instructions. Every rule is run once
more, over a namespace that writes down which functions of numpy it calls (as the rules compute
arrays over a namespace that calls them). What comes out is one long function without a branch, in
which numpy writes into buffers: a buffer is used again as soon as nothing needs what is in it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_bp import array_rules, arrays
from tinygrad_bp.array_rules import ArrayRule
from tinygrad_bp.replay.program import CONSTANT, INPUT, Program, filled_in, placeholders

_BUFFER = "b"  # what the names of buffers begin with, and no others
_REDUCTIONS = {
    "sum": np.add.reduce,
    "prod": np.multiply.reduce,
    "max": np.maximum.reduce,
    "min": np.minimum.reduce,
}


def _azmul_into(g: Any, d: Any, out: Any) -> Any:
    """`arrays.azmul`, into a prepared array."""
    np.multiply(g, d, out)
    total = np.vdot(out, out)
    if total != total:
        np.copyto(out, np.where(np.equal(g, 0), 0.0, out))
    return out


_add_up: Any = np.add.reduce


def _sum_into(x: Any, axis: Any, keepdims: bool, out: Any) -> Any:
    return _add_up(x, axis, None, out, keepdims)


def _maximum_into(x: Any, y: Any, out: Any) -> Any:
    return np.maximum(x, y, out=out)


def _minimum_into(x: Any, y: Any, out: Any) -> Any:
    return np.minimum(x, y, out=out)


# Functions that want `out` to be named; the others are quicker without.
_INTO: dict[Any, Any] = {np.maximum: _maximum_into, np.minimum: _minimum_into}


def _one_hot(eye: Any, indices: Any) -> Any:
    """`array_rules.one_hot`, with the rows prepared."""
    try:
        if indices.size == 0 or indices.min() >= 0:
            return eye.take(indices, 0)
    except IndexError:
        pass
    return array_rules.one_hot(indices, len(eye))  # raises, and says why


# --- what the rules call ------------------------------------------------------------------------


class _Call:
    """One call of a function of numpy's.

    Attributes:
        function: what is called.
        arguments: its arguments; symbols stand for arrays.
        into: the function with an array for the result as its last argument, if there is one.
        elementwise: whether the result may be written over an operand.
        result: the symbol of the result.
    """

    __slots__ = ("arguments", "elementwise", "function", "into", "options", "result")

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
        self.result: Any = None


class _Symbol:
    """An array of the program: its shape and dtype are known, its numbers are not.

    `sample` is an array of these, with some numbers; `owner` the symbol whose memory it may be a
    view of; `name` what it is called in the code.
    """

    __slots__ = ("code", "name", "owner", "sample")

    def __init__(self, code: _Code, sample: Any, name: str = "", owner: Any = None) -> None:
        self.code, self.sample, self.name = code, sample, name
        self.owner: _Symbol = self if owner is None else owner

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
        return self.code.call(arrays.getitem, (self, index), {})

    def __array__(self, *unused: Any, **also: Any) -> Any:
        raise TypeError(
            "a rule works on the numbers of an array, and not through its namespace m: it cannot "
            "be replayed"
        )

    def one_hot(self, classes: int, dtype: Any = None) -> Any:
        return self.code.call(_one_hot, (np.eye(classes, dtype=dtype), self), {})

    def __add__(self, other: Any) -> Any:
        return self.code.ufunc(np.add, self, other)

    def __radd__(self, other: Any) -> Any:
        return self.code.ufunc(np.add, other, self)

    def __sub__(self, other: Any) -> Any:
        return self.code.ufunc(np.subtract, self, other)

    def __rsub__(self, other: Any) -> Any:
        return self.code.ufunc(np.subtract, other, self)

    def __mul__(self, other: Any) -> Any:
        return self.code.ufunc(np.multiply, self, other)

    def __rmul__(self, other: Any) -> Any:
        return self.code.ufunc(np.multiply, other, self)

    def __truediv__(self, other: Any) -> Any:
        return self.code.ufunc(np.true_divide, self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self.code.ufunc(np.true_divide, other, self)

    def __rpow__(self, other: Any) -> Any:
        return self.code.ufunc(np.power, other, self)

    def __pow__(self, other: Any) -> Any:
        return self.code.ufunc(np.power, self, other)

    def __neg__(self) -> Any:
        return self.code.ufunc(np.negative, self)

    def __abs__(self) -> Any:
        return self.code.ufunc(np.absolute, self)

    def __and__(self, other: Any) -> Any:
        return self.code.ufunc(np.bitwise_and, self, other)

    def __or__(self, other: Any) -> Any:
        return self.code.ufunc(np.bitwise_or, self, other)

    def __lt__(self, other: Any) -> Any:
        return self.code.ufunc(np.less, self, other)

    def __le__(self, other: Any) -> Any:
        return self.code.ufunc(np.less_equal, self, other)

    def __gt__(self, other: Any) -> Any:
        return self.code.ufunc(np.greater, self, other)

    def __ge__(self, other: Any) -> Any:
        return self.code.ufunc(np.greater_equal, self, other)

    def __eq__(self, other: Any) -> Any:
        return self.code.ufunc(np.equal, self, other)

    def __ne__(self, other: Any) -> Any:
        return self.code.ufunc(np.not_equal, self, other)

    __hash__ = object.__hash__
    __array_ufunc__ = None  # an array on the left leaves the operator to us

    def __bool__(self) -> bool:
        raise TypeError("a rule decides by the data of an array: it cannot be replayed")


class _Code:
    """The calls of a program in order. It is also the namespace that the rules are run over."""

    def __init__(self) -> None:
        self.calls: list[_Call] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(arrays, name)

        def called(*arguments: Any, **options: Any) -> Any:
            return self._named(name, function, arguments, options)

        return called

    def _named(
        self, name: str, function: Any, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        if not any(isinstance(x, _Symbol) for x in _flat(arguments)):
            return function(*arguments, **options)
        if isinstance(function, np.ufunc):
            return self.ufunc(function, *arguments)
        into: Any = None
        if name == "azmul":
            if _has_no_zero(arguments[0]):
                return self.ufunc(np.multiply, *arguments)
            into = _azmul_into
        elif name == "detached":
            return arguments[0]
        elif name in _REDUCTIONS:
            given = dict(zip(("x", "axis", "keepdims"), arguments, strict=False)) | options
            x, axis = given["x"], given.get("axis")
            keepdims = bool(given.get("keepdims", False))
            if name == "sum":
                return self.call(_summed, (x, axis, keepdims), {}, _sum_into)
            return self.call(function, (x, axis, keepdims), {})
        elif name == "matmul":
            function, into = _product(*arguments)
        elif name == "broadcast_to":
            return self.call(function, arguments, options, _broadcast_into)
        return self.call(function, arguments, options, into, elementwise=False)

    def ufunc(self, function: np.ufunc, *operands: Any) -> Any:
        """An elementwise function."""
        if len(operands) != function.nin:
            raise TypeError(f"{function.__name__} takes {function.nin} operands")
        return self.call(function, operands, {}, _INTO.get(function, function), elementwise=True)

    def call(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        into: Callable[..., Any] | None = None,
        elementwise: bool = False,
    ) -> _Symbol:
        """Write down a call, and do it once on samples, to know what comes out."""
        samples = _replaced(arguments, lambda symbol: symbol.sample)
        sample = np.asarray(function(*samples, **options))
        call = _Call(function, arguments, options, into, elementwise)
        if not sample.ndim:
            call.into = None  # a number is made as fast as it is written
        owner = None
        if call.into is None:
            for x in _flat(arguments):
                if isinstance(x, _Symbol) and (
                    function is arrays.reshape or np.may_share_memory(sample, x.sample)
                ):  # whether a reshape is a view depends on the order in memory
                    owner = x.owner
        result = call.result = _Symbol(self, sample, owner=owner)
        self.calls.append(call)
        return result


def _summed(x: Any, axis: Any, keepdims: bool) -> Any:
    return _add_up(x, axis, None, None, keepdims)


def _broadcast_into(x: Any, shape: Any, out: Any) -> Any:
    np.copyto(out, x)
    return out


def _product(x: Any, y: Any) -> tuple[Any, Any]:
    if x.ndim == 2 and y.ndim == 2:
        return np.dot, np.dot
    return np.matmul, (np.matmul if x.ndim > 1 and y.ndim > 1 else None)


def _has_no_zero(x: Any) -> bool:
    """Whether x is a constant in which nothing is zero: then azmul is the plain product."""
    return isinstance(x, (float, np.ndarray, np.generic)) and bool(np.all(np.not_equal(x, 0)))


def _flat(x: Any) -> Any:
    if isinstance(x, (list, tuple)):
        for part in x:
            yield from _flat(part)
    else:
        yield x


def _replaced(x: Any, by: Callable[[_Symbol], Any]) -> Any:
    if isinstance(x, _Symbol):
        return by(x)
    if type(x) in (list, tuple):
        return type(x)(_replaced(part, by) for part in x)
    return x


# --- a program as code --------------------------------------------------------------------------


class Runner:
    """A program of arrays, ready to run. It may be used by one thread at a time."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._code = _Code()
        self._names: dict[str, Any] = {}
        with np.errstate(all="ignore"):
            symbols = self._run_rules()
        wanted = [*program.outputs, *(g.condition for g in program.guards)]
        self.source = self._write([symbols[i] for i in wanted])
        self._compiled = compile(self.source, "<program>", "exec")  # every name in it is ours
        exec(self._compiled, self._names)
        self._function = self._names["run"]

    def twin(self) -> Runner:
        """Another runner of the program, for another thread."""
        other = copy.copy(self)
        other._names = {
            name: np.empty_like(x) if name.startswith(_BUFFER) else x
            for name, x in self._names.items()
        }
        exec(other._compiled, other._names)
        other._function = other._names["run"]
        return other

    @np.errstate(all="ignore")
    def values(self, inputs: Sequence[Any]) -> list[Any]:
        """The outputs, and then the guards' conditions; nothing else holds these arrays."""
        result: list[Any] = self._function(*inputs)
        return result

    def _run_rules(self) -> list[Any]:
        """What every instruction gives: a symbol, or a constant."""
        program, code = self.program, self._code
        symbols: list[Any] = [None] * len(program)
        for number, i in enumerate(program.inputs):
            sample = np.ones(program.shapes[i], program.dtypes[i])
            if sample.dtype.kind in "iu":
                sample = np.zeros_like(sample)
            symbols[i] = _Symbol(code, sample, f"i{number}")
        for i in range(len(program)):
            rule = program.rule(i)
            if rule == INPUT:
                continue
            if rule == CONSTANT:
                symbols[i] = program.constants[i]
                continue
            operands = [symbols[j] for j in program.operands_of(i)]
            apply = self._application(i, rule, len(operands))
            before = len(code.calls)
            try:
                symbols[i] = apply(code, *operands)
            except TypeError:  # a rule of the user's, in functions that m does not have
                del code.calls[before:]
                symbols[i] = code.call(functools.partial(apply, arrays), tuple(operands), {})
        return symbols

    def _application(self, i: int, rule: Any, count: int) -> Callable[..., Any]:
        """An instruction as a function of a namespace and the operands."""
        if not isinstance(rule, ArrayRule):
            return rule.value  # type: ignore[no-any-return]
        detail = self.program.details[i]
        count -= placeholders(detail.parameters)

        def apply(m: Any, *operands: Any) -> Any:
            parameters = filled_in(detail.parameters, operands)
            return rule.apply(m, operands[:count], parameters, detail.options)

        return apply

    def _write(self, wanted: Sequence[Any]) -> str:
        """The code, with a buffer for every result that numpy can write into one."""
        calls = self._needed(wanted)
        last: dict[_Symbol, int] = {}  # by owner of memory, the last call that needs it
        for number, call in enumerate(calls):
            for x in _flat(call.arguments):
                if isinstance(x, _Symbol):
                    last[x.owner] = number
        kept = {x.owner for x in wanted if isinstance(x, _Symbol)}
        free: dict[Any, list[str]] = {}
        buffer_of: dict[_Symbol, str] = {}
        lines = []
        for number, call in enumerate(calls):
            dying = {
                x.owner
                for x in _flat(call.arguments)
                if isinstance(x, _Symbol) and x.owner in buffer_of and last[x.owner] == number
            } - kept
            arguments = [self._named(x) for x in call.arguments]
            result = call.result
            if call.elementwise:
                self._release(dying, buffer_of, free)
            if call.into is None or result in kept:
                result.name = f"v{number}"
                options = [f"{key}={self._named(x)}" for key, x in call.options.items()]
                text = ", ".join([*arguments, *options])
                lines.append(f"{result.name} = {self._constant(call.function)}({text})")
            else:
                key = (result.shape, result.dtype)
                if free.get(key):
                    result.name = free[key].pop()
                else:
                    result.name = self._constant(np.empty(*key), _BUFFER)
                buffer_of[result] = result.name
                out = "out=" if isinstance(call.into, np.ufunc) else ""
                text = ", ".join([*arguments, out + result.name])
                lines.append(f"{self._constant(call.into)}({text})")
            if not call.elementwise:
                self._release(dying, buffer_of, free)
        results = [self._returned(x, any(x is y for y in wanted[:i])) for i, x in enumerate(wanted)]
        inputs = ", ".join(f"i{n}" for n in range(len(self.program.inputs)))
        body = "".join(f"    {line}\n" for line in lines)
        return f"def run({inputs}):\n{body}    return [{', '.join(results)}]\n"

    def _needed(self, wanted: Sequence[Any]) -> list[_Call]:
        """The calls without those that nothing needs."""
        needed = {x for x in wanted if isinstance(x, _Symbol)}
        calls = []
        for call in reversed(self._code.calls):
            if call.result in needed:
                calls.append(call)
                needed.update(x for x in _flat(call.arguments) if isinstance(x, _Symbol))
        return calls[::-1]

    def _release(
        self, dying: set[_Symbol], buffer_of: dict[_Symbol, str], free: dict[Any, list[str]]
    ) -> None:
        for owner in dying:
            free.setdefault((owner.shape, owner.dtype), []).append(buffer_of.pop(owner))

    def _named(self, x: Any) -> str:
        """An argument, as it stands in the code."""
        if isinstance(x, _Symbol):
            return x.name
        if type(x) in (list, tuple):
            inner = ", ".join(self._named(part) for part in x)
            if type(x) is list:
                return f"[{inner}]"
            return f"({inner},)" if x else "()"
        if x is None or type(x) in (bool, int):
            return repr(x)
        return self._constant(x)

    def _constant(self, x: Any, prefix: str = "c") -> str:
        """A name for an object in the code."""
        if callable(x):
            name = f"f{len(self._names)}_{getattr(x, '__name__', 'function').strip('<>_')}"
            name = name if name.isidentifier() else f"f{len(self._names)}"
        else:
            name = f"{prefix}{len(self._names)}"
        self._names[name] = x
        return name

    def _returned(self, x: Any, again: bool) -> str:
        if not isinstance(x, _Symbol):
            return f"{self._constant(np.array(x))}.copy()"
        fresh = x.owner is x and x.name.startswith("v") and not again
        return x.name if fresh else f"{self._constant(np.array)}({x.name})"
