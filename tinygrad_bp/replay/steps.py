"""The loops of a program: steps that repeat are found on the tape, and taken as one.

A recorded loop is a run of equal operations: instruction i of one step and instruction i of the
next are p apart. A run is a loop if the operands of each instruction correspond in all steps:
they are of the same step; or of the one before, or of the few before, which is a state that is
carried; or of before the run, and then the same in all steps, or one for each. This is checked for
every operand of every step, so what a loop computes is what the run computes. Steps that differ,
such as a first one from a constant state, stay apart.

Scopes `step(t)` say where to look for p first. What has no scope, such as a sum of losses, is found
by how far apart equal stretches of operations are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.array_rules import ARRAY_RULES
from tinygrad_bp.replay import program as tape
from tinygrad_bp.replay.loops import Loop, Run, built, whole_of
from tinygrad_bp.replay.program import Program

AT_LEAST = 8  # steps to be worth a loop
SAVED = 32  # instructions that it must save
REPEATED = 16  # elements up to which what is given to each step may be the same in some of them
DELAYED = 4  # steps back that a state may be from
TURNS = 4  # different steps that may take turns
CUTS = 64  # attempts to find the part of a run that is a loop


class Part(NamedTuple):
    """A part of an array: x[..., start], or, with a width, x[..., start:start + width]."""

    whole: int
    axis: int
    start: int
    width: int


class Rolled(NamedTuple):
    """A program with its loops.

    Attributes:
        program: the program.
        order: what is to be computed, in order: instructions by number, and loops. Leaves are not
            there, nor parts.
        parts: the instructions that are parts x[t] of an array that is taken apart: to be computed
            where they are needed, or, for all steps of a loop, had from x itself.
        place: int32 of shape (instructions, 3): the position of the loop in `loops`, the step, and
            the instruction within; -1 of what is in no loop.
        loops: the loops.
    """

    program: Program
    order: list[int | Loop]
    parts: dict[int, Part]
    place: NDArray[np.int32]
    loops: list[Loop]


def rolled(program: Program, scan: bool = True) -> Rolled:
    """The program with the loops that are found; without `scan` there are none."""
    place = np.full((len(program), 3), -1, np.int32)
    if not scan:
        every: list[int | Loop] = [*np.flatnonzero(program.codes >= 2).tolist()]
        return Rolled(program, every, {}, place, [])
    tape_ = _Tape(program)
    runs = _runs(tape_) if len(tape_.sequence) > SAVED else []
    loops = [built(program, run, tape_.operands_at) for run in runs]
    for k, loop in enumerate(loops):
        steps, slots = loop.numbers.shape
        place[loop.numbers, 0] = k
        place[loop.numbers, 1] = np.arange(steps)[:, None]
        place[loop.numbers, 2] = np.arange(slots)
    _choose_results(program, tape_.parts, place, loops)
    order: list[int | Loop] = []
    last = -1
    for i in tape_.sequence.tolist():
        k = int(place[i, 0])
        if k < 0:
            order.append(i)
        elif k != last:
            order.append(loops[k])
        last = k
    return Rolled(program, order, tape_.parts, place, loops)


def _choose_results(
    program: Program, parts: dict[int, Part], place: NDArray[np.int32], loops: Sequence[Loop]
) -> None:
    """Of which instructions of a loop the results are needed outside of it."""
    needed = np.zeros(len(program), bool)
    needed[[*program.outputs, *(g.condition for g in program.guards)]] = True
    needed[[part.whole for part in parts.values()]] = True
    for i in np.flatnonzero((program.codes >= 2) & (place[:, 0] < 0)).tolist():
        if i not in parts:
            needed[list(program.operands_of(i))] = True
    for loop in loops:
        needed[loop.needed()] = True
    for loop in loops:
        loop.keep(needed[loop.numbers])


# --- the tape as a sequence ---------------------------------------------------------------------


class _Tape:
    """A program as the sequence of its operations.

    Attributes:
        parts: see `Rolled`.
        is_part: of each instruction whether it is one.
        sequence: the instructions that are operations, and not parts.
        origin: of each instruction its position in the sequence; of a part that of its array; -1
            of leaves.
        kinds: an integer for each operation in the sequence: two that are equal do the same, with
            the same arguments, on operands of the same shapes and dtypes.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.parts = _parts(program) if program.kind == "array" else {}
        is_operation = program.codes >= 2
        self.is_part = np.zeros(len(program), bool)
        self.is_part[list(self.parts)] = True
        is_operation &= ~self.is_part
        self.sequence = np.flatnonzero(is_operation)
        self.origin = np.full(len(program), -1, np.int64)
        self.origin[self.sequence] = np.arange(len(self.sequence))
        for i, part in self.parts.items():  # in order: a part of a part comes later
            self.origin[i] = self.origin[part.whole]
        if program.kind == "scalar":
            self.kinds = program.codes[self.sequence].astype(np.int64)
        else:
            known: dict[Any, int] = {}
            keys = [_kind(program, i) for i in self.sequence.tolist()]
            self.kinds = np.array([known.setdefault(key, len(known)) for key in keys], np.int64)

    def operands_at(self, numbers: NDArray[Any]) -> list[NDArray[np.int64]]:
        """For instructions of one kind, an array of the operands for each place."""
        program, first = self.program, int(numbers[0])
        if first in program.details:
            rows = [program.details[i].operands for i in numbers.tolist()]
            return list(np.array(rows, np.int64).reshape(len(rows), -1).T)
        count = len(program.operands_of(first))
        return list(program.operands[numbers, :count].astype(np.int64).T)


def _parts(program: Program) -> dict[int, Part]:
    """The parts of arrays that are taken apart into many, once."""
    found: dict[int, list[tuple[int, Part]]] = defaultdict(list)
    for i in range(len(program)):
        part = _part(program, i)
        if part is not None:
            found[part.whole].append((i, part))
    many = {x: parts for x, parts in found.items() if len({p for _, p in parts}) >= AT_LEAST}
    alike = Counter((program.rule(x), program.shapes[x]) for x in many)
    parts: dict[int, Part] = {}
    for x, members in many.items():
        # Of what each step of a loop takes apart for itself the parts are operations of the step.
        if program.codes[x] < 2 or alike[program.rule(x), program.shapes[x]] < AT_LEAST:
            parts.update(members)
    return dict(sorted(parts.items()))


def _part(program: Program, i: int) -> Part | None:
    rule, detail = program.rule(i), program.details.get(i)
    if rule not in (ARRAY_RULES["getitem"], tape.pick) or detail is None:
        return None
    if len(detail.operands) != 1 or len(detail.parameters) != 1:
        return None
    (x,), (index,) = detail.operands, detail.parameters
    components = index if type(index) is tuple else (index,)
    some = [k for k, c in enumerate(components) if not (isinstance(c, slice) and c == slice(None))]
    if len(some) != 1 or len(components) > len(program.shapes[x]):
        return None
    axis, component = some[0], components[some[0]]
    length = program.shapes[x][axis]
    if isinstance(component, slice):
        start, stop, step = component.indices(length)
        return Part(x, axis, start, stop - start) if step == 1 and stop > start else None
    if isinstance(component, (int, np.integer)) and not isinstance(component, bool):
        return Part(x, axis, int(component) % length, 0)
    return None


def _kind(program: Program, i: int) -> Any:
    """What an instruction does, as something to compare; where it does it may vary."""
    detail = program.details.get(i)
    kinds = [(program.shapes[j], np.dtype(program.dtypes[j])) for j in (i, *program.operands_of(i))]
    arguments: Any = None
    if detail is not None:
        parameters = whole_of(program.rule(i), detail.parameters)[0]
        arguments = _key(parameters), _key(tuple(detail.options.items()))
    return int(program.codes[i]), tuple(kinds), arguments


def _key(x: Any) -> Any:
    if isinstance(x, (list, tuple)):
        return type(x).__name__, tuple(_key(part) for part in x)
    if isinstance(x, slice):
        return "slice", _key(x.start), _key(x.stop), _key(x.step)
    if isinstance(x, (np.ndarray, np.generic)):
        return type(x).__name__, x.dtype, np.shape(x), x.tobytes()
    try:
        hash(x)
    except TypeError:
        return object()  # equal to nothing
    return type(x).__name__, x.hex() if isinstance(x, float) else x


# --- finding ------------------------------------------------------------------------------------


def _runs(tape_: _Tape) -> list[Run]:
    """The loops of a sequence: the one that saves most, and then those before and after it."""
    found = []
    pending = [(0, len(tape_.sequence))]
    while pending:
        start, end = pending.pop()
        if end - start <= SAVED:
            continue
        run = _best(tape_, start, end)
        if run is not None:
            found.append(run)
            pending += [(start, run.start), (run.end, end)]
    return sorted(found, key=lambda run: run.start)


def _best(tape_: _Tape, start: int, end: int) -> Run | None:
    """The loop between two positions that saves most."""
    kinds = tape_.kinds[start:end]
    candidates = []
    periods = _scoped_periods(tape_, start, end) | _periods(kinds)
    for p in sorted({k * p for p in periods for k in range(1, TURNS + 1)}):
        for begin, length in _equal_stretches(kinds, p):
            count = length // p + 1
            if _is_worthwhile(count, p):
                candidates.append(Run(tape_.sequence, start + begin, p, count))
    candidates.sort(key=lambda run: (-run.saved, run.period))
    best: Run | None = None
    for candidate in candidates:
        if best is not None and candidate.saved <= best.saved:
            break
        for run in _checked(tape_, candidate):
            if best is None or run.saved > best.saved:
                best = run
    return best


def _is_worthwhile(count: int, period: int) -> bool:
    return count >= AT_LEAST and (count - 1) * period >= SAVED


def _equal_stretches(kinds: NDArray[np.int64], p: int) -> Iterator[tuple[int, int]]:
    """Where, and how far, a sequence is equal to itself p further on."""
    if p >= len(kinds):
        return
    equal = np.concatenate([[False], kinds[p:] == kinds[:-p], [False]])
    starts = np.flatnonzero(equal[1:] & ~equal[:-1])
    ends = np.flatnonzero(~equal[1:] & equal[:-1])
    yield from zip(starts.tolist(), (ends - starts).tolist(), strict=True)


def _periods(kinds: NDArray[np.int64]) -> set[int]:
    """How far apart equal stretches are, of lengths 1, 2, 4 and so on: what occurs most often."""
    found: set[int] = set()
    ranks, width = kinds, 1
    while width <= len(kinds) // 2:
        order = np.argsort(ranks, kind="stable")
        gaps = np.diff(order)[np.diff(ranks[order]) == 0]
        distances, counts = np.unique(gaps, return_counts=True)
        often = np.argsort(-counts, kind="stable")[:4]
        found.update(distances[often][counts[often] >= AT_LEAST // 2].tolist())
        if not len(gaps):
            break
        pairs = ranks[:-width] * (int(ranks.max()) + 1) + ranks[width:]
        ranks = np.unique(pairs, return_inverse=True)[1]
        width *= 2
    return found


def _scoped_periods(tape_: _Tape, start: int, end: int) -> set[int]:
    """How far apart the scopes of consecutive steps begin."""
    scopes = tape_.program.scopes
    begins: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
    positions = np.searchsorted(tape_.sequence, scopes.starts)
    for position, place in zip(positions.tolist(), scopes.places.tolist(), strict=True):
        if place >= 0 and start <= position < end:
            name, index, outer = scopes.table[place]
            if index is not None:
                begins[name, outer].append((index, position))
    gaps: Counter[int] = Counter()
    for steps in begins.values():
        for (one, here), (other, there) in pairwise(steps):
            if abs(one - other) == 1 and there > here:
                gaps[there - here] += 1
    return {gap for gap, _ in gaps.most_common(4)}


# --- checking -----------------------------------------------------------------------------------


def _checked(tape_: _Tape, run: Run) -> Iterator[Run]:
    """The parts of a run of equal operations whose operands correspond."""
    pending, cuts = [run], 0
    while pending:
        run = pending.pop()
        if not _is_worthwhile(run.steps, run.period):
            continue
        cut = _cut(tape_, run)
        if cut is None:
            yield run
        elif cuts < CUTS:
            cuts += 1
            pending += [run.part(0, cut), run.part(cut, run.steps)]


def _cut(tape_: _Tape, run: Run) -> int | None:
    """The step before which the run has to be cut, to be a loop; None if it is one."""
    numbers = run.numbers
    for slot in range(run.period):
        for operands in tape_.operands_at(numbers[:, slot]):
            cut = _mismatch(tape_, run, slot, operands)
            if cut is not None:
                return cut
    return None


def _mismatch(tape_: _Tape, run: Run, slot: int, operands: NDArray[np.int64]) -> int | None:
    """The step before which an operand is not what it is in the last step."""
    origin = tape_.origin[operands]
    within = origin >= run.start
    if not within[-1]:
        if within.any():
            return int(np.flatnonzero(within)[-1]) + 1
        return _unequal(tape_.program, operands)
    block = (int(origin[-1]) - run.start) // run.period
    if tape_.is_part[operands[-1]] or operands[-1] == operands[-2]:
        return min(block + 1, run.steps - 1)  # computed once: it has to be before the run
    own = run.start + np.arange(run.steps) * run.period + slot
    distance = own[-1] - origin[-1]
    expected = own - distance
    fits = np.where(expected >= run.start, origin == expected, ~within)
    fits &= ~(tape_.is_part[operands] & within)
    if not fits.all():
        return int(np.flatnonzero(~fits)[-1]) + 1
    back = run.steps - 1 - block
    dtype = np.dtype(tape_.program.dtypes[operands[-1]]) if tape_.program.dtypes else None
    if back > DELAYED or (back and dtype is not None and dtype.kind in "iu"):
        return run.steps - 1
    return None


def _unequal(program: Program, operands: NDArray[np.int64]) -> int | None:
    """Large arrays must be the same in all steps, or different in all: they are put together."""
    last = operands[-1]
    if (operands == last).all() or not program.shapes:
        return None
    if np.prod(program.shapes[last]) <= REPEATED or len(np.unique(operands)) == len(operands):
        return None
    differs = operands != last
    return int(np.flatnonzero(differs)[-1]) + 1
