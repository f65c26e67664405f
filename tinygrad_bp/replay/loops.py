"""`Loop`: steps of a program as one program of a step, and what goes in and comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.array_rules import ARRAY_RULES
from tinygrad_bp.replay.program import Details, Placeholder, Program

OperandsAt = Callable[[NDArray[Any]], list[NDArray[np.int64]]]


class Run(NamedTuple):
    """So many steps of `period` operations each, from a position in a sequence of instructions."""

    sequence: NDArray[Any]
    start: int
    period: int
    steps: int

    @property
    def end(self) -> int:
        """The position after it."""
        return self.start + self.steps * self.period

    @property
    def saved(self) -> int:
        """How many operations there are less, if it is a loop."""
        return (self.steps - 1) * self.period

    @property
    def numbers(self) -> NDArray[Any]:
        """The instructions, one row per step."""
        return self.sequence[self.start : self.end].reshape(self.steps, self.period)

    def part(self, first: int, stop: int) -> Run:
        """Some of the steps."""
        return self._replace(start=self.start + first * self.period, steps=stop - first)


class Register(NamedTuple):
    """A state that is carried from step to step.

    Attributes:
        first: the program's instruction that it holds before the first step; None for zeros.
        next: the body's instruction that it holds after a step.
    """

    first: int | None
    next: int


@dataclass
class Loop:
    """Steps of a program.

    Attributes:
        numbers: int, of shape (steps, slots): the program's instructions.
        body: a step as a program. Its inputs are the registers, the columns, the positions and the
            invariants; its outputs the registers' next states, and then `stacked`.
        registers: the states.
        columns: int of shape (steps,) each: operands of which each step has its own.
        positions: int of shape (steps, ...) each: where in an array each step reads or adds.
        invariants: operands that are the same in all steps.
        stacked: the slots of which the results of all steps are needed.
        last: of slots of which only the result of the last step is needed, the register.
    """

    numbers: NDArray[Any]
    body: Program
    registers: list[Register]
    columns: list[NDArray[np.int64]]
    positions: list[NDArray[np.int64]]
    invariants: list[int]
    offset: int  # of the slots in the body: as many as it has inputs
    stacked: list[int] = field(default_factory=list)
    last: dict[int, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """The number of steps."""
        return len(self.numbers)

    @property
    def carries(self) -> bool:
        """Whether steps wait for one another."""
        return any(register.first is not None for register in self.registers)

    def needed(self) -> list[int]:
        """The instructions before the loop that it needs."""
        firsts = [r.first for r in self.registers if r.first is not None]
        return [*firsts, *self.invariants, *(int(i) for c in self.columns for i in c)]

    def keep(self, used: NDArray[np.bool_]) -> None:
        """Have the results come out that are used outside, given whether each is."""
        states = {r.next - self.offset: k for k, r in reversed([*enumerate(self.registers)])}
        carries = self.carries
        for slot in np.flatnonzero(used.any(axis=0)).tolist():
            if used[:-1, slot].any() or not carries:
                self.stacked.append(slot)
            elif slot in states:
                self.last[slot] = states[slot]
            else:
                self.last[slot] = len(self.registers)
                self.registers.append(Register(None, self.offset + slot))
        kept = [self.offset + slot for slot in self.stacked]
        self.body.outputs = [*(r.next for r in self.registers), *kept]


# --- where in an array --------------------------------------------------------------------------


class _Anywhere:
    """Stands in an index for a number that may differ from step to step."""

    def __repr__(self) -> str:
        return "?"


ANYWHERE = _Anywhere()
_INDEXED = {ARRAY_RULES["getitem"]: 1, ARRAY_RULES["scatter"]: 2}


def whole_of(rule: Any, parameters: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[Any]]:
    """Arguments with the positions taken out of the index, and the positions."""
    if len(parameters) != _INDEXED.get(rule):
        return parameters, []
    index, *rest = parameters
    found: list[Any] = []
    components = index if type(index) is tuple else (index,)
    new = []
    for component in components:
        position = _position(component, alone=len(components) == 1)
        if position is None:
            new.append(component)
        else:
            found.append(position)
            new.append((ANYWHERE, np.ndim(position)))
    return (tuple(new) if type(index) is tuple else new[0], *rest), found


def _position(component: Any, alone: bool) -> Any:
    if isinstance(component, (int, np.integer)) and not isinstance(component, bool):
        return int(component)
    simple = isinstance(component, slice) and component.step in (None, 1)
    if alone and simple and component.start is not None and component.stop is not None:
        return np.arange(component.start, component.stop) if component.start >= 0 else None
    return None


def _with_placeholders(
    parameters: tuple[Any, ...], varying: Sequence[int], count: int
) -> tuple[Any, ...]:
    """Arguments with operands, from number `count` on, for those positions that vary."""
    index, *rest = parameters
    components = list(index) if type(index) is tuple else [index]
    seen = 0
    for k, component in enumerate(components):
        if _position(component, alone=len(components) == 1) is not None:
            if seen in varying:
                components[k] = Placeholder(count + list(varying).index(seen))
            seen += 1
    return (tuple(components) if type(index) is tuple else components[0], *rest)


# --- making one ---------------------------------------------------------------------------------


def built(program: Program, run: Run, operands_at: OperandsAt) -> Loop:
    """The loop that a run is, which was checked to be one."""
    draft = _Draft(program, run)
    for slot in range(run.period):
        draft.add(slot, operands_at(draft.numbers[:, slot]))
    return draft.finished()


class _Draft:
    """A loop while it is made. Operands in it are ("slot" or a kind of input, number)."""

    def __init__(self, program: Program, run: Run) -> None:
        self.program, self.run, self.numbers = program, run, run.numbers
        order = np.full(len(program), -1, np.int64)
        order[self.numbers.ravel()] = np.arange(self.numbers.size)
        self.order = order
        self.registers: dict[Any, int] = {}
        self.states: list[tuple[int, Any]] = []  # first, and the operand that is next
        self.columns: dict[Any, int] = {}
        self.positions: list[NDArray[np.int64]] = []
        self.invariants: dict[int, int] = {}
        self.body: list[list[tuple[str, int]]] = []
        self.details: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def add(self, slot: int, operands: Sequence[NDArray[np.int64]]) -> None:
        """An instruction of the body."""
        own = [self._operand(slot, column) for column in operands]
        first = int(self.numbers[0, slot])
        if first in self.program.details:
            detail = self.program.details[first]
            parameters = detail.parameters
            every = [self._positions(int(i)) for i in self.numbers[:, slot]]
            varying = [
                k for k in range(len(every[0])) if any(_differ(x[k], every[0][k]) for x in every)
            ]
            if varying:
                parameters = _with_placeholders(parameters, varying, len(own))
                for k in varying:
                    own.append(("position", len(self.positions)))
                    self.positions.append(np.array([x[k] for x in every], np.int64))
            self.details[slot] = parameters, detail.options
        self.body.append(own)

    def _positions(self, i: int) -> list[Any]:
        return whole_of(self.program.rule(i), self.program.details[i].parameters)[1]

    def _operand(self, slot: int, column: NDArray[np.int64]) -> tuple[str, int]:
        at, period = int(self.order[column[-1]]), self.run.period
        if at < 0:
            if (column == column[0]).all():
                number = int(column[0])
                return "invariant", self.invariants.setdefault(number, len(self.invariants))
            return "column", self.columns.setdefault(tuple(column.tolist()), len(self.columns))
        block, source = divmod(at, period)
        back = self.run.steps - 1 - block
        if back == 0:
            return "slot", source
        return "register", self._register(source, tuple(column[:back].tolist()))

    def _register(self, source: int, firsts: tuple[int, ...]) -> int:
        """What holds the result of a slot from as many steps back as there are first values."""
        if (source, firsts) not in self.registers:
            if len(firsts) == 1:
                origin = ("slot", source)
            else:
                origin = ("register", self._register(source, firsts[1:]))
            self.registers[source, firsts] = len(self.states)
            self.states.append((firsts[0], origin))
        return self.registers[source, firsts]

    def finished(self) -> Loop:
        """The loop."""
        columns = [np.array(column, np.int64) for column in self.columns]
        kinds = [first for first, _ in self.states]
        kinds += [int(column[0]) for column in columns]
        starts = {"register": 0, "column": len(self.states)}
        starts["position"] = starts["column"] + len(columns)
        starts["invariant"] = starts["position"] + len(self.positions)
        inputs = starts["slot"] = starts["invariant"] + len(self.invariants)
        program, slots = self.program, self.numbers[0]
        table = np.full((inputs + len(slots), 3), -1, np.int32)
        details = {}
        for slot, operands in enumerate(self.body):
            of = tuple(starts[kind] + number for kind, number in operands)
            if len(of) <= 3:
                table[inputs + slot, : len(of)] = of
            if slot in self.details:
                details[inputs + slot] = Details(of, *self.details[slot])
            elif len(of) > 3:
                details[inputs + slot] = Details(of)
        shapes: list[Any] = []
        dtypes: list[Any] = []
        if program.shapes:
            at = [x[0] for x in self.positions]
            later = [*self.invariants, *slots.tolist()]
            shapes = [program.shapes[i] for i in kinds] + [np.shape(x) for x in at]
            shapes += [program.shapes[i] for i in later]
            dtypes = [program.dtypes[i] for i in kinds] + [np.dtype(np.int64) for _ in at]
            dtypes += [program.dtypes[i] for i in later]
        codes = np.zeros(inputs + len(slots), np.uint16)
        codes[inputs:] = program.codes[slots]
        body = Program(
            kind=program.kind,
            rules=program.rules,
            codes=codes,
            operands=table,
            details=details,
            inputs=list(range(inputs)),
            constants={},
            outputs=[],
            shapes=shapes,
            dtypes=dtypes,
        )
        registers = [Register(i, starts[kind] + number) for i, (kind, number) in self.states]
        return Loop(
            numbers=self.numbers,
            body=body,
            registers=registers,
            columns=columns,
            positions=self.positions,
            invariants=list(self.invariants),
            offset=inputs,
        )


def _differ(x: Any, y: Any) -> bool:
    return not np.array_equal(x, y)
