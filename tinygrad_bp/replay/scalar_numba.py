"""Replay of single numbers by an interpreter that numba compiles.

The interpreter is a loop over groups of instructions and a switch on their operation; inside, the
functions of the rules themselves, compiled with `kernels` for their namespace. There is one for
every set of operations that occurs, kept for as long as the process lives. (Not on the disk: the
rules reach it as objects, whose changes a stored file would not see.)

What a rule reads besides its operands, such as a global number, is taken as it was when compiled.

Memory: values and adjoints, 16 bytes per instruction, 4 per operand, and 12 per group.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import CellType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.replay.program import Program
from tinygrad_bp.replay.scalar_numpy import Schedule, table

try:
    from numba.core.errors import NumbaError

    from tinygrad_bp.replay import kernels
except ImportError as error:
    raise ImportError(
        'the engine "numba" needs numba, which is not installed: pip install tinygrad_bp[jit]'
    ) from error

Floats = NDArray[np.float64]

WINDOW = 1 << 16  # instructions that are reordered at a time: their values stay in the cache
BLOCK = 1 << 19  # bytes of values of one block of rows
KEPT = 64  # interpreters


# --- compiling -----------------------------------------------------------------------------------

_functions: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
_interpreters: OrderedDict[tuple[Any, ...], _Interpreter] = OrderedDict()
_lock = threading.Lock()


def _compiled(function: Any) -> Any:
    """A function of a rule, compiled; with it the functions it calls that are Python's."""
    if not isinstance(function, FunctionType):
        return function
    if function not in _functions:
        _functions[function] = None  # one that calls itself finds this
        names = [n for n in function.__code__.co_names if n in function.__globals__]
        scope = {**function.__globals__}
        scope.update((n, _compiled(scope[n])) for n in names)
        cells = tuple(CellType(_compiled(c.cell_contents)) for c in function.__closure__ or ())
        copy = FunctionType(
            function.__code__, scope, function.__name__, function.__defaults__, cells
        )
        _functions[function] = kernels.compiled(copy)
    return _functions[function]


class _Interpreter:
    """Machine code for programs of certain operations; each function is compiled at its first call.

    Attributes:
        arity: how many operands there are at most.
        forward, backward: of one run.
        rows, rows_and_gradients: of a batch.
    """

    def __init__(self, rules: Sequence[Any]) -> None:
        self.rules = rules
        self.arity = max((rule.arity for rule in rules), default=1)
        scope: dict[str, Any] = {"m": kernels, "azmul": kernels.azmul}
        for c, rule in enumerate(rules):
            scope[f"value_{c}"] = _compiled(rule.value)
            for k, partial in enumerate(rule.partials):
                scope[f"partial_{c}_{k}"] = _compiled(partial)
        for text in map(
            _source, ("forward", "backward", "forward_rows", "backward_rows"), [rules] * 4
        ):
            exec(text, scope)
        self.forward = kernels.compiled(scope["forward"])
        self.backward = kernels.compiled(scope["backward"])
        forward_rows = kernels.compiled(scope["forward_rows"])
        backward_rows = kernels.compiled(scope["backward_rows"])
        self.rows = _batch(forward_rows, None)
        self.rows_and_gradients = _batch(forward_rows, backward_rows)

    def explain(self) -> str:
        """Which rule numba cannot compile."""
        for rule in self.rules:
            operands = (0.5,) * rule.arity
            try:
                _tried(_compiled(rule.value), operands)
                for partial in filter(callable, rule.partials):
                    _tried(_compiled(partial), (*operands, 0.5))
            except NumbaError:
                return f"{rule.name}: numba cannot compile this rule"
        return "numba cannot compile the rules of this program"


def _tried(function: Any, operands: tuple[float, ...]) -> None:
    def call(operands: Any) -> Any:
        return function(kernels, *operands)

    kernels.compiled(call)(operands)


def _interpreter_of(rules: Sequence[Any]) -> _Interpreter:
    key = tuple(rules)
    with _lock:
        if key not in _interpreters:
            _interpreters[key] = _Interpreter(key)
            while len(_interpreters) > KEPT:
                _interpreters.popitem(last=False)
        _interpreters.move_to_end(key)
        return _interpreters[key]


def _source(name: str, rules: Sequence[Any]) -> str:
    """The interpreter as Python text.

    Rows of a batch are gone through innermost, one operand after the other, which the compiler can
    do for several of them at once.
    """
    back, rows = name.startswith("backward"), name.endswith("rows")
    arity = max((rule.arity for rule in rules), default=0)
    lines = [f"def {name}(values, adjoints, schedule, count):"]
    lines += ["    first, last, codes, flows, operands = schedule"]
    lines += [f"    operands_{k} = operands[{k}]" for k in range(arity)]
    lines += ["    for n in range(len(codes)):"]
    if back:
        lines += ["        n = len(codes) - 1 - n", "        flow = flows[n]"]
    lines += ["        code = codes[n]"]
    if not rules:
        lines += ["        pass"]
    for c, rule in enumerate(rules):
        lines += [f"        {'elif' if c else 'if'} code == {c}:"]
        lines += ["            for i in range(first[n], last[n]):"]
        numbers = range(rule.arity)
        lines += [f"                j{k} = operands_{k}[i]" for k in numbers]
        at = "{}, r" if rows else "{}"
        result = f"values[{at.format('i')}]"
        given = ["m", *(f"values[{at.format(f'j{k}')}]" for k in numbers)]
        indent = " " * (20 if rows else 16)
        each_row = ["                for r in range(count):"] if rows else []
        if not back:
            lines += [*each_row, f"{indent}{result} = value_{c}({', '.join(given)})"]
            continue
        lines += ["                pass"]
        for k, partial in enumerate(rule.partials):
            if partial is None:
                continue
            g = f"adjoints[{at.format('i')}]"
            if callable(partial):
                share = f"azmul({g}, partial_{c}_{k}({', '.join([*given, result])}))"
            else:
                share = g if partial == 1.0 else f"{g} * partial_{c}_{k}"
            lines += [f"                if flow & {1 << k}:"]
            lines += ["    " + line for line in each_row]
            lines += [f"    {indent}adjoints[{at.format(f'j{k}')}] += {share}"]
    return "\n".join(lines)


def _batch(forward: Any, backward: Any) -> Any:
    """The loop over blocks of rows."""

    @kernels.compiled
    def run(
        values: Any,
        adjoints: Any,
        schedule: Any,
        variable: Any,
        columns: Any,
        inputs: Any,
        outputs: Any,
        results: Any,
        gradients: Any,
        summed: bool,
        start: int,
        stop: int,
    ) -> None:
        size = values.shape[1]
        for row in range(start, stop, size):
            count = min(size, stop - row)
            for k in range(len(variable)):
                for r in range(count):
                    values[variable[k], r] = columns[k, row + r]
            forward(values, adjoints, schedule, count)
            for k in range(len(outputs)):
                for r in range(count):
                    results[row + r, k] = values[outputs[k], r]
            if backward is not None:
                adjoints[:] = 0.0
                adjoints[outputs[0], :count] = 1.0
                backward(values, adjoints, schedule, count)
                for k in range(len(inputs)):
                    if summed:
                        total = 0.0
                        for r in range(count):
                            total += adjoints[inputs[k], r]
                        gradients[0, k] += total
                    else:
                        for r in range(count):
                            gradients[row + r, k] = adjoints[inputs[k], r]

    return run


# --- the engine ----------------------------------------------------------------------------------


class Runner:
    """A program of single numbers, ready to run. It may be used by one thread at a time."""

    def __init__(self, program: Program) -> None:
        self.program = program
        schedule = Schedule(program, WINDOW)
        present = [program.rules[code] for code in np.unique(schedule.codes)]
        present.sort(key=lambda rule: (rule.name, id(rule)))
        code_of = [present.index(rule) if rule in present else 0 for rule in program.rules]
        self.interpreter = _interpreter_of(present)
        # Unsigned: numba takes a signed index for one that may count from the end.
        self.schedule = (
            schedule.first.view(np.uint32),
            schedule.last.view(np.uint32),
            np.array(code_of, np.uint16)[schedule.codes],
            schedule.flows,
            tuple(c.view(np.uint32) for c in schedule.operands[: self.interpreter.arity]),
        )
        self.size = schedule.size
        self.inputs = schedule.inputs.astype(np.uint32)
        self.outputs = schedule.outputs.astype(np.uint32)
        self.constants = schedule.constants
        self._values = np.zeros(self.size)
        self._values[self.constants[0]] = self.constants[1]
        self._adjoints = np.zeros(0)

    def twin(self) -> Runner:
        """Another runner of the program, for another thread."""
        other = copy.copy(self)
        other._values, other._adjoints = self._values.copy(), np.zeros(0)
        return other

    @property
    def nbytes(self) -> int:
        """The memory of its arrays, those of batches not counted."""
        *groups, operands = self.schedule
        kept: list[Any] = [*groups, *operands, self._values, self._adjoints]
        return sum(x.nbytes for x in kept)

    def values(self, inputs: Sequence[float]) -> Floats:
        """The outputs, and then the guards' conditions."""
        self._values[self.inputs] = inputs
        self._call(self.interpreter.forward, self._values, self._adjoints, self.schedule, 1)
        return self._values[self.outputs]

    def value_and_gradient(self, inputs: Sequence[float]) -> tuple[Floats, Floats]:
        """The same, and the gradient of the first output by every input."""
        results = self.values(inputs)
        if len(self._adjoints) != self.size:
            self._adjoints = np.empty(self.size)
        self._adjoints.fill(0.0)
        self._adjoints[self.outputs[0]] = 1.0
        self._call(self.interpreter.backward, self._values, self._adjoints, self.schedule, 1)
        return results, self._adjoints[self.inputs]

    def batch(
        self, inputs: Any, *, gradients: bool = True, sum_gradients: bool = False, threads: int = 1
    ) -> tuple[Floats, Floats | None]:
        """Many runs at once, one per row.

        Args:
            inputs: an array (rows, inputs), or per input a number, for all rows, or a column.
            gradients: compute them.
            sum_gradients: add them up over the rows. Leave out rows that come out otherwise at a
                guard: they are in the sum.
            threads: how many to use, each for a part of the rows. Sums may differ in their last
                bits with their number.

        Returns:
            The outputs and then the guards' conditions, (rows, n); and the gradients of the first
            output, (rows, inputs) or summed up, (inputs,), or None.
        """
        shared, varying, rows = table(inputs, len(self.inputs))
        variable = self.inputs[[k for k, _ in varying]]
        columns = np.array([column for _, column in varying], np.float64)
        results = np.empty((rows, len(self.outputs)))
        totals = np.zeros((threads, 1, len(self.inputs)))
        full = np.empty((rows if gradients and not sum_gradients else 0, len(self.inputs)))
        run = self.interpreter.rows_and_gradients if gradients else self.interpreter.rows
        size = max(16, min(512, BLOCK // (8 * max(self.size, 1)) // 16 * 16))

        def part(t: int) -> None:
            values = np.zeros((self.size, size))
            values[self.constants[0]] = self.constants[1][:, None]
            values[self.inputs] = shared[:, None]
            adjoints = np.zeros((self.size if gradients else 0, size))
            share = -(-rows // threads)
            self._call(
                run,
                values,
                adjoints,
                self.schedule,
                variable,
                columns,
                self.inputs,
                self.outputs,
                results,
                totals[t] if sum_gradients else full,
                sum_gradients,
                t * share,
                min(rows, (t + 1) * share),
            )

        if threads == 1:
            part(0)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(part, range(threads)))
        if not gradients:
            return results, None
        return results, totals.sum(axis=0)[0] if sum_gradients else full

    def _call(self, function: Any, *args: Any) -> None:
        try:
            function(*args)
        except NumbaError as error:
            reason = self.interpreter.explain()
            raise TypeError(f'{reason}; the engine "numpy" can run it') from error
