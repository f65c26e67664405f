"""Nodes that write down what is done to them, for a recorder.

A traced node is a `Value` or a `Tensor` that holds the number of an instruction. It computes as the
plain ones do, so shapes and values are at hand; but the numbers are those of one run only, and the
program will see others. So reading one out raises, a comparison gives a condition that is recorded,
and only where Python must know (`if x > 0:`) is the outcome taken, and noted as a guard.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from tinygrad_bp import arrays, floats, rules
from tinygrad_bp.array_rules import ArrayRule
from tinygrad_bp.derivatives import Elementwise, Structural, quiet
from tinygrad_bp.failures import fail, of_operand
from tinygrad_bp.graph import MORE, UNTRACKED, Node, born
from tinygrad_bp.inputs import as_array, frozen, typed
from tinygrad_bp.operators import ArrayByRules, ByRules
from tinygrad_bp.recording import ROOT, current_state, resolve
from tinygrad_bp.replay import program as tape
from tinygrad_bp.replay.program import Details, Placeholder
from tinygrad_bp.rules import Rule
from tinygrad_bp.scalars import Values
from tinygrad_bp.series import SeriesTensor, SeriesValue
from tinygrad_bp.tensor import _EXPOSED, Tensor
from tinygrad_bp.value import Value

if TYPE_CHECKING:
    from tinygrad_bp.replay.recorder import Recorder


def _refuse(what: str) -> NoReturn:
    raise TypeError(
        f"{what} of a quantity that is being recorded: the number would be that of this run, and "
        "wrong in the next; return it as a further output of the compiled function"
    )


class _Traced:
    """What traced nodes have in common: the recording, and the number of an instruction."""

    __slots__ = ()

    recorder: Recorder
    number: int

    @property
    def data(self) -> Any:
        """Refused: see above."""
        _refuse(".data")

    @data.setter
    def data(self, data: Any) -> None:
        raise ValueError("data: while a function is being recorded, data cannot be set")

    @property
    def grad(self) -> Any:
        """There is none."""
        return None

    @grad.setter
    def grad(self, grad: Any) -> None:
        raise ValueError("grad: while a function is being recorded, gradients cannot be set")

    def __reduce__(self) -> Any:
        _refuse("a copy")

    def item(self) -> Any:
        """Refused."""
        _refuse("item()")

    def __float__(self) -> float:
        _refuse("float()")

    def __int__(self) -> int:
        _refuse("int()")

    def __index__(self) -> int:
        _refuse("int()")

    def __array__(self, *unused: Any, **also: Any) -> Any:
        _refuse("the numpy array")

    def __bool__(self) -> bool:
        return bool(self != 0.0)

    def __hash__(self) -> int:
        return id(self) >> 4

    def __repr__(self) -> str:
        return f"<recorded %{self.number}>"

    def _seed(self, gradient: Any) -> Any:
        raise ValueError(
            "backward() inside of a compiled function: call backward() or value_and_grad() of the "
            "compiled function itself"
        )

    def _read(self) -> Any:
        raise RuntimeError("an operation took a recorded quantity for a plain array")

    def detach(self) -> Any:
        """The same values, through which no gradient flows."""
        return apply_rule(tape.detach, (self,))

    def register_hook(self, hook: Any) -> Any:
        """Refused: a program has no hooks."""
        raise ValueError("register_hook: a compiled function calls no hooks")

    def __lt__(self, other: Any) -> Any:
        return _compared(tape.less, self, other)

    def __le__(self, other: Any) -> Any:
        return _compared(tape.less_equal, self, other)

    def __gt__(self, other: Any) -> Any:
        return _compared(tape.less, other, self)

    def __ge__(self, other: Any) -> Any:
        return _compared(tape.less_equal, other, self)

    def __eq__(self, other: Any) -> Any:
        return _compared(tape.equal, self, other)

    def __ne__(self, other: Any) -> Any:
        return _compared(tape.not_equal, self, other)

    @staticmethod
    def _interpret(
        rule: Any,
        operands: Sequence[Any],
        parameters: tuple[Any, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> Any:
        """Record an operation, and compute it."""
        if any(isinstance(x, (SeriesValue, SeriesTensor)) for x in operands):
            return NotImplemented  # forward mode applies the rules to us, in its turn
        if isinstance(rule, Rule) and any(isinstance(x, Values) for x in operands):
            return NotImplemented  # they apply it to each of their elements and us
        return apply_rule(rule, operands, parameters, options or {})


class TracedValue(ByRules, _Traced, Value):
    """A Value that is being recorded."""

    __slots__ = ("is_leaf", "number", "recorder")
    __init__ = object.__init__
    __hash__ = _Traced.__hash__


class TracedTensor(ArrayByRules, _Traced, Tensor):
    """A Tensor that is being recorded."""

    __slots__ = ("is_leaf", "number", "recorder")
    __init__ = object.__init__
    __hash__ = _Traced.__hash__


class Index(ArrayByRules):
    """An integer array that is given at each run: classes, or positions.

    It can be an index (`x[i]`, `take`) and be made `one_hot`. Anywhere else its numbers count as
    floats, as those of a plain integer array that meets a Tensor do.
    """

    __slots__ = ("_numbers", "number", "recorder")

    def __init__(self, recorder: Recorder, number: int, numbers: Any) -> None:
        self.recorder = recorder
        self.number = number
        self._numbers = numbers

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return np.shape(self._numbers)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return np.ndim(self._numbers)

    @property
    def dtype(self) -> Any:
        """An integer type."""
        return self._numbers.dtype

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        return self._interpret(tape.pick, (self,), (index,))

    def one_hot(self, classes: int, dtype: Any = None) -> Any:
        """Rows of zeros with a one at each index."""
        return self._interpret(tape.one_hot, (self,), (classes, dtype))

    def __array__(self, *unused: Any, **also: Any) -> Any:
        _refuse("the numpy array")

    def __index__(self) -> int:
        _refuse("int()")

    __int__ = __index__

    def __float__(self) -> float:
        _refuse("float()")

    def __lt__(self, other: Any) -> Any:
        return self._as_floats() < other

    def __le__(self, other: Any) -> Any:
        return self._as_floats() <= other

    def __gt__(self, other: Any) -> Any:
        return self._as_floats() > other

    def __ge__(self, other: Any) -> Any:
        return self._as_floats() >= other

    def __eq__(self, other: Any) -> Any:
        return self._as_floats() == other

    def __ne__(self, other: Any) -> Any:
        return self._as_floats() != other

    def __bool__(self) -> bool:
        return bool(self._as_floats() != 0.0)

    __hash__ = object.__hash__
    __array_ufunc__ = None

    @staticmethod
    def _interpret(
        rule: Any,
        operands: Sequence[Any],
        parameters: tuple[Any, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> Any:
        """Record what is done to the index itself; other operations are on its numbers."""
        if rule not in (tape.pick, tape.one_hot, tape.as_floats):
            given = [x._as_floats() if isinstance(x, Index) else x for x in operands]
            return apply_rule(rule, given, parameters, options)
        (x,) = operands
        result = rule.apply(arrays, [x._numbers], parameters, options or {})
        recorder = x.recorder
        i = recorder.append(recorder.position(rule), (x.number,), result)
        recorder.details[i] = Details((x.number,), parameters, options or {})
        if rule is tape.pick:
            return Index(recorder, i, result)
        return traced(recorder, i, result)

    def _as_floats(self) -> Any:
        return self._interpret(tape.as_floats, (self,))


class Condition:
    """The outcome of a comparison, as something that is recorded.

    `where` takes it, and `&`, `|`, `~` combine it. Python's `if` asks for its truth, which becomes
    a guard.
    """

    __slots__ = ("_outcome", "number", "recorder")

    def __init__(self, recorder: Recorder, number: int, outcome: Any) -> None:
        self.recorder = recorder
        self.number = number
        self._outcome = outcome

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return np.shape(self._outcome)

    def __bool__(self) -> bool:
        outcome = bool(self._outcome)  # of several: numpy's own error
        self.recorder.guard(self.number, outcome)
        return outcome

    def __and__(self, other: Any) -> Any:
        return _compared(tape.logical_and, self, other)

    def __or__(self, other: Any) -> Any:
        return _compared(tape.logical_or, self, other)

    def __invert__(self) -> Any:
        return _compared(tape.logical_not, self)

    def __mul__(self, other: Any) -> Any:
        return self._as_number() * other if _is_plain(other) else NotImplemented

    def __truediv__(self, other: Any) -> Any:
        return self._as_number() / other if _is_plain(other) else NotImplemented

    def astype(self, dtype: Any) -> Any:
        """1 where it holds, else 0: in a type of floats."""
        if np.dtype(dtype).kind != "f":
            raise TypeError(f"astype: a condition can become floats, not {np.dtype(dtype)}")
        x = self._as_number()
        return x if self.recorder.kind == "scalar" else x.astype(dtype)

    def _as_number(self) -> Any:
        return apply_rule(rules.where, (self, 1.0, 0.0))

    def all(self) -> Any:
        """Whether it holds everywhere."""
        return self._as_number().prod() != 0.0

    def any(self) -> Any:
        """Whether it holds anywhere."""
        return self._as_number().sum() != 0.0

    __rand__, __ror__, __rmul__ = __and__, __or__, __mul__
    __array_ufunc__ = None  # an array on the left leaves the operator to us
    __hash__ = object.__hash__

    def __eq__(self, other: Any) -> Any:
        return _compared(tape.equal, self, float(other) if isinstance(other, bool) else other)

    def __ne__(self, other: Any) -> Any:
        return _compared(tape.not_equal, self, float(other) if isinstance(other, bool) else other)

    _interpret = staticmethod(_Traced._interpret)


def _is_plain(x: Any) -> bool:
    """Whether x is what a truth value of numpy may be multiplied by, giving floats."""
    return type(x) is float or (isinstance(x, np.ndarray) and x.dtype.kind == "f")


def _array_of(x: Any, rule: ArrayRule, which: int, kind: str) -> Any:
    """An operand of a rule of arrays, as its numbers in this run."""
    try:
        return _numbers(x, rule, False, kind)
    except (TypeError, ValueError) as error:
        raise of_operand(rule, which, error) from None


# --- the interpreter ----------------------------------------------------------------------------


def _recorder_of(operands: Sequence[Any]) -> Recorder:
    kinds = (TracedValue, TracedTensor, Condition, Index)
    recorder: Recorder = next(x.recorder for x in operands if isinstance(x, kinds))
    return recorder


def _numbers(x: Any, rule: Any, is_condition: bool, kind: str) -> Any:
    """What an operand is in this run: a number, an array or a truth value."""
    if isinstance(x, Condition):
        if not is_condition and rule not in _ON_NUMBERS:
            raise TypeError(
                f"{rule.name}: expected numbers, got a condition; use where(it, 1.0, 0.0)"
            )
        return x._outcome if is_condition else np.asarray(x._outcome, np.float64)
    if isinstance(x, Value):
        return x._data
    if isinstance(x, Tensor):
        return x._array
    if is_condition:
        return bool(x) if kind == "scalar" else np.asarray(x) != 0
    if isinstance(rule, ArrayRule):
        return as_array(x, rule.name)
    if isinstance(x, (int, float, np.integer, np.floating)) and not isinstance(x, bool):
        return float(x)
    if isinstance(x, np.ndarray) and x.dtype == object:
        raise TypeError(
            f"{rule.name}: arrays and Values do not mix; pass the Values, or the Module that holds "
            "them, as an argument"
        )
    if kind == "scalar":
        raise TypeError(f"{rule.name}: expected a real number, got {type(x).__name__}")
    return as_array(x, rule.name)


def apply_rule(
    rule: Any,
    operands: Sequence[Any],
    parameters: tuple[Any, ...] = (),
    options: dict[str, Any] | None = None,
) -> Any:
    """Compute an operation on this run's numbers, and write it down."""
    recorder = _recorder_of([*operands, *_flat(parameters)])
    recorder.check_open()
    kind = recorder.kind
    if kind == "scalar" and isinstance(rule, ArrayRule):
        Value._interpret(rule, tuple(operands))  # type: ignore[arg-type]  # raises, and says why
    operands = [x._as_floats() if isinstance(x, Index) else x for x in operands]
    operands = [recorder.operand(x) for x in operands]
    if options and any(isinstance(p, Index) for p in options.values()):
        bound = inspect.signature(rule).bind(*operands, *parameters, **options)
        bound.apply_defaults()
        parameters, options = bound.args[len(operands) :], {}
    options = {name: frozen(p) for name, p in (options or {}).items()}
    given: list[Index] = []  # indices among the arguments are operands of the instruction
    if isinstance(rule, ArrayRule):
        data = [_array_of(x, rule, which, kind) for which, x in enumerate(operands)]
        parameters = tuple(map(frozen, parameters))
        concrete = _replaced(parameters, lambda index: index._numbers)
        try:
            result = quiet(rule.apply)(arrays, data, concrete, options)
        except Exception as error:
            fail(rule, data, concrete, options, error)
    else:
        conditions = [p is None and rule not in _ON_NUMBERS for p in rule.partials]
        data = [_numbers(x, rule, c, kind) for x, c in zip(operands, conditions, strict=True)]
        data = data if kind == "scalar" else typed(data, conditions)
        value = quiet(rule.value) if kind == "array" else rule.value
        try:
            result = value(arrays if kind == "array" else floats, *data)
        except Exception as error:
            if kind == "array":
                fail(rule, data, (), {}, error)
            raise
    pairs = list(zip(operands, data, strict=True))
    numbers = [x.number if is_traced(x) else recorder.constant(d) for x, d in pairs]
    i = recorder.append(recorder.position(rule), numbers, result)
    if isinstance(rule, ArrayRule) or len(numbers) > 3:

        def placeholder(index: Index) -> Placeholder:
            given.append(index)
            return Placeholder(len(numbers) + len(given) - 1)

        kept = _replaced(parameters, placeholder)
        every = (*numbers, *(index.number for index in given))
        recorder.details[i] = Details(every, kept, options)
    node = traced(recorder, i, result)
    recording = resolve(current_state()) is not None
    if isinstance(node, TracedTensor) and recording:
        remembered = [x if is_traced(x) else d for x, d in pairs]
        _link(node, rule, remembered, data, parameters, options)
    elif isinstance(node, TracedValue) and not recording and rule is not tape.detach:
        return apply_rule(tape.detach, (node,))
    return node


def _flat(parameters: Any) -> list[Any]:
    if isinstance(parameters, (list, tuple)):
        return [x for part in parameters for x in _flat(part)]
    return [parameters]


def _replaced(parameters: Any, by: Callable[[Index], Any]) -> Any:
    """Arguments of a rule, with something else in the place of every index."""
    if isinstance(parameters, Index):
        return by(parameters)
    if type(parameters) in (list, tuple):
        return type(parameters)(_replaced(p, by) for p in parameters)
    return parameters


def _link(
    node: Any,
    rule: Any,
    operands: Sequence[Any],
    data: Sequence[Any],
    parameters: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    """Give a traced array what a recorded one has, so that the sweep can run over it."""
    locals_: list[Any] = [None] * len(operands)
    for i, x in enumerate(operands):
        if isinstance(x, TracedTensor) and x.rule is not UNTRACKED:
            if isinstance(rule, ArrayRule):
                locals_[i] = Structural(rule, i, data, node._array, parameters, options)
            elif rule.partials[i] is not None:
                locals_[i] = Elementwise(rule, i, data, node._array)
    if any(local is not None for local in locals_):
        node.rule, node.is_leaf = rule, False
        node.x, node.dx = operands[0], locals_[0]
        if len(operands) == 2:
            node.y, node.dy = operands[1], locals_[1]
        elif len(operands) > 2:
            node.y, node.dy = tuple(zip(operands[1:], locals_[1:], strict=True)), MORE


def is_traced(x: Any) -> bool:
    """Whether x is on a tape."""
    return isinstance(x, (TracedValue, TracedTensor, Condition, Index))


_ON_NUMBERS = {tape.less, tape.less_equal, tape.equal, tape.not_equal, tape.detach}


def _compared(rule: Rule, *operands: Any) -> Any:
    if any(isinstance(x, (SeriesValue, SeriesTensor, Values)) for x in operands):
        return NotImplemented
    known = (Node, Condition, int, float, np.number, np.bool, np.ndarray, list, tuple)
    if not all(isinstance(x, known) for x in operands):
        return NotImplemented
    return apply_rule(rule, operands)


def traced(recorder: Recorder, number: int, result: Any) -> Any:
    """The result of an instruction, to compute on with."""
    if isinstance(result, (bool, np.bool_)) or getattr(result, "dtype", None) == np.bool_:
        return Condition(recorder, number, result)
    x: Any
    if recorder.kind == "scalar":
        x = object.__new__(TracedValue)
        x._data = result
    else:
        x = object.__new__(TracedTensor)
        x._array, x._holders, x._own_grad = np.asarray(result), _EXPOSED, None
    x._birth = born()
    x._grad, x._place, x.rule = None, ROOT, UNTRACKED
    x.x = x.dx = x.y = x.dy = None
    x.recorder, x.number, x.is_leaf = recorder, number, False
    return x


def input_like(recorder: Recorder, x: Any, dtype: Any = None) -> Any:
    """A traced input with the numbers that a Value or a Tensor has in this run."""
    if isinstance(x, np.ndarray):
        return Index(recorder, recorder.input(x), x)
    data = x._data if isinstance(x, Value) else x._array
    if isinstance(x, Value) and recorder.kind == "array":
        data = np.asarray(data, dtype)
    given = traced(recorder, recorder.input(data), data)
    given.is_leaf = True
    given.rule = None if x.requires_grad else UNTRACKED
    given.label = x.label
    return given
