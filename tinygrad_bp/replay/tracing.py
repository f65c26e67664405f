"""Recording: one run of a function, on nodes that write down what is done to them.

A traced node is a `Value` or a `Tensor` that holds the number of an instruction. It computes as the
plain ones do, so shapes and values are at hand; but the numbers are those of one run only, and the
program will see others. So reading one out raises, a comparison gives a condition that is recorded,
and only where Python must know (`if x > 0:`) is the outcome taken, and noted as a guard.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np

from tinygrad_bp import arrays, floats, rules
from tinygrad_bp.array_rules import ArrayRule
from tinygrad_bp.derivatives import Elementwise, Structural, quiet
from tinygrad_bp.failures import fail, of_operand
from tinygrad_bp.graph import MORE, UNTRACKED, Node, born, topological_order
from tinygrad_bp.operators import ArrayByRules, ByRules
from tinygrad_bp.recording import ROOT, Observer, Scope, _Block, current_state, resolve
from tinygrad_bp.replay import program as tape
from tinygrad_bp.replay.growing import GrowingTape
from tinygrad_bp.replay.program import (
    Details,
    Draw,
    Placeholder,
)
from tinygrad_bp.rules import Rule
from tinygrad_bp.scalars import Values
from tinygrad_bp.series import SeriesTensor, SeriesValue
from tinygrad_bp.tensor import _EXPOSED, Tensor, _frozen as frozen, _typed as typed, as_array
from tinygrad_bp.value import Value


class Recorder(GrowingTape, Observer):
    """Who writes the tape. It looks on at plain operations, which are not on it.

    Attributes:
        dtype: of arrays that stand for a Python float.
        large: by id, arrays from outside that are too large to be compared at each run.
        leaves: by instruction, the leaves that the function reached by itself (parameters that it
            closes over); their data are read at each run.
    """

    def __init__(
        self, kind: str, dtype: Any = np.float64, large: dict[int, Any] | None = None
    ) -> None:
        super().__init__(kind)
        self.dtype = dtype
        self.large = large or {}
        self.leaves: dict[int, Node] = {}
        self.leaf_inputs: list[Any] = []
        self._held: list[Any] = []  # what is known by its identity must not vanish
        self.differentiates = False
        self._unswept = 0  # where what the sweep records for its next node begins

    def draw(self, draw: Draw, result: Any) -> Any:
        """Random numbers, as inputs that are drawn at each run."""
        if self.kind == "array":
            x = np.asarray(result, self.dtype if type(result) is float else None)
            i = self.random(x)
            self.draws.append(draw)
            return Index(self, i, x) if x.dtype.kind in "iu" else traced(self, i, x)
        numbers = np.ravel(result).astype(np.float64).tolist()
        nodes = [traced(self, self.random(x), x) for x in numbers]
        self.draws.append(replace(draw, count=len(nodes)))
        if not isinstance(result, np.ndarray):
            return nodes[0]
        array = np.empty(result.shape, object)
        for k, node in enumerate(nodes):
            array.flat[k] = node
        return array.view(Values)

    def leaf(self, x: Any) -> Any:
        """A leaf that the function has reached by itself, as an input."""
        if id(x) in self._known:
            return self._known[id(x)]
        if not x.is_leaf and self.was_here(x):
            for node in topological_order(x):  # of leaves alone, and so by the plain operations
                if not node.is_leaf and not self.was_here(node):
                    self.leaf(node)  # refuses it
                if id(node) not in self._known and not node.is_leaf:
                    self._known[id(node)] = again = self._again(node)
                    again._birth = node._birth  # so that gradients are added in the same order
                    self._held.append(node)
            return self._known[id(x)]
        if not x.is_leaf:
            raise ValueError(
                f"the compiled function uses a {type(x).__name__}{_labelled(x)} that was computed "
                "outside of it: pass it as an argument, compute it inside, or detach() it"
            )
        if x.rule is UNTRACKED and self.was_here(x):
            return x._data if isinstance(x, Value) else x._array  # made here: a constant
        self._known[id(x)] = given = input_like(self, x)
        given._birth = x._birth  # before all that is computed from it
        self._held.append(x)
        self.leaves[given.number] = x
        self.leaf_inputs.append(given)
        return given

    def was_here(self, x: Node) -> bool:
        """Whether a plain node was made during this recording."""
        place: Scope | None = x.scope
        while place is not None and place is not self.scope:
            place = place.outer
        return place is not None

    def _again(self, node: Any) -> Any:
        """A recorded operation on leaves, done once more on traced inputs."""
        local = next(d for d in node.locals if d is not None)
        arguments = getattr(local, "parameters", ()), getattr(local, "options", {})
        return _operation(node.rule, [self.operand(x) for x in node.operands], *arguments)

    def operation(
        self,
        rule: Any,
        operands: Sequence[Any],
        data: Sequence[Any],
        result: Any,
        parameters: tuple[Any, ...],
        options: dict[str, Any],
    ) -> None:
        """Look at a plain operation: it has to be repeatable."""
        unrecorded = resolve(current_state()) is None
        for x in operands:
            if unrecorded and isinstance(x, Node) and not is_traced(x):
                raise ValueError(
                    f"{rule.name}: under no_grad() a compiled function cannot compute with leaves "
                    "alone; pass them as arguments"
                )
            if (
                isinstance(x, Node)
                and not is_traced(x)
                and x.rule is UNTRACKED
                and not self.was_here(x)
            ):
                raise ValueError(
                    f"{rule.name}: the compiled function computes with a constant "
                    f"{type(x).__name__}{_labelled(x)} from outside; pass it as an argument, so "
                    "that a later run sees its data of then"
                )

    def read(self, node: Any) -> None:
        """Refuse to have numbers read that a later run will see others of."""
        made_here = self.was_here(node)
        if (node.is_leaf and not made_here) or (made_here and node.rule is not UNTRACKED):
            raise TypeError(
                f"the compiled function reads the numbers of a {type(node).__name__}"
                f"{_labelled(node)}: they would be those of this run; pass it as an argument, or "
                "return it as a further output"
            )

    def begin_sweep(self) -> None:
        """What comes now is the backward pass."""
        self.differentiates, self._unswept = True, len(self.codes)

    def swept(self, step: Any, reached: set[Any]) -> None:
        """Refuse a backward sweep of the function's own."""
        if not self.differentiates:
            raise TypeError(
                "the compiled function runs backward(): call backward() or value_and_grad() of the "
                "compiled function instead"
            )
        node = getattr(step.node, "original", step.node)
        if is_traced(node):
            self.scopes.backward(self._unswept, len(self.codes), node.number)
        self._unswept = len(self.codes)

    def operand(self, x: Any) -> Any:
        """What an operation is applied to, with a leaf as a traced input."""
        if isinstance(x, (TracedValue, TracedTensor, Condition, Index)):
            if x.recorder is not self:
                raise RuntimeError("a quantity of one recording cannot be used in another")
            return x
        if self.large and type(x) is np.ndarray:
            self._check_size(x)
        return self.leaf(x) if isinstance(x, Node) else x

    def _check_size(self, x: Any) -> None:
        """Refuse a large array from outside, or a part of one."""
        while x is not None:
            if id(x) in self.large:
                raise ValueError(
                    f"the compiled function uses an array of shape {x.shape} from outside, too "
                    "large to see whether it has changed: pass it as an argument"
                )
            x = x.base if isinstance(x, np.ndarray) else None


def _labelled(x: Node) -> str:
    return f" {x.label!r}" if x.label else ""


# --- traced nodes -------------------------------------------------------------------------------


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
        return _operation(tape.detach, (self,))

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
        return _operation(rule, operands, parameters, options or {})


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
            return _operation(rule, given, parameters, options)
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
        return _operation(rules.where, (self, 1.0, 0.0))

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


def _operation(
    rule: Any,
    operands: Sequence[Any],
    parameters: tuple[Any, ...] = (),
    options: dict[str, Any] | None = None,
) -> Any:
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
        return _operation(tape.detach, (node,))
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
                locals_[i] = Structural(rule, i, data, node._array)
                locals_[i].parameters, locals_[i].options = parameters, options
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
    return _operation(rule, operands)


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


class recording_by(_Block):
    """The block in which a function is recorded."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def _scope(self, outer: Scope | None) -> Scope:
        return self.recorder.scope

    def _observers(self, outer: tuple[Observer, ...]) -> tuple[Observer, ...]:
        return (*outer, self.recorder)

    def _leave(self) -> bool:
        self.recorder.closed = True
        return super()._leave()


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
