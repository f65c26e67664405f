"""Replay of single numbers by numpy: in wavefronts.

The level of an instruction is one more than the highest of its operands. Instructions of one level
and operation need nothing from one another, so together they are one call of numpy, which gathers
their operands and writes their results side by side. Backward the levels are gone through in
reverse. `Schedule` finds these groups; what is left of a program between them, a long chain of
sums, say, is run number by number.

Memory: values and adjoints, 16 bytes per instruction, and of the schedule 4 per operand. In groups,
an operand that is not a slice takes 8 more, or 16 where instructions of one group share it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp import arrays, floats
from tinygrad_bp.replay.program import EXACT, Program
from tinygrad_bp.rules import RULES

Floats = NDArray[np.float64]
Numbers = NDArray[Any]
Do = Callable[[], None]

CHUNK = 1 << 15  # instructions of one call at most, so that what is gathered stays in the cache
FEW = 10  # below this, instructions are run one by one
# In numpy 2.0 functions have other last bits where the result begins just where the operand ends.
IN_PLACE = np.lib.NumpyVersion(np.__version__) >= "2.1.0"


# --- what can be done at once --------------------------------------------------------------------


class Schedule:
    """The instructions of a program, renumbered so that those of one group are consecutive.

    Attributes:
        rules: as in the program.
        size: the number of instructions.
        first, last, codes: per group, the first of its instructions, the one after its last, and
            their operation.
        flows: per group, a bit for each operand that a gradient is wanted of: some input reaches
            it.
        operands: per position of an operand, an array with that operand of every instruction.
        inputs, outputs: as in the program, with the guards' conditions after the outputs.
        constants: their instructions and their numbers.

    Args:
        program: of single numbers.
        window: how many instructions may be reordered at a time; all, if it is not given. A window
            that fits into the cache keeps what belongs together in it.
    """

    def __init__(self, program: Program, window: int | None = None) -> None:
        n = self.size = len(program)
        self.rules = program.rules
        operands = _columns(program)
        levels, reached = _levels(program)
        flows = np.zeros(n, np.int64)
        for k, column in enumerate(operands):
            flowing = np.array([_has_partial(rule, k) for rule in program.rules])
            flows |= (reached[column] & (column >= 0) & flowing[program.codes]).astype(int) << k
        key = levels.astype(np.int64) << 32 | program.codes.astype(np.int64) << 16 | flows
        del levels, reached, flows
        window = window or max(n, 1)
        order = np.empty(n, np.int32)
        for start in range(0, n, window):
            part = key[start : start + window]
            order[start : start + window] = start + np.argsort(part, kind="stable")
        place = np.empty(n, np.int32)
        place[order] = np.arange(n, dtype=np.int32)
        key = key[order]
        changes = np.flatnonzero((np.diff(key) != 0) | (np.arange(1, n) % window == 0)) + 1
        first = np.concatenate([[0], changes])[: n and None].astype(np.int32)
        last = np.concatenate([changes, [n]])[: n and None].astype(np.int32)
        computed = (key[first] >> 16 & 0xFFFF) >= 2
        self.first, self.last = first[computed], last[computed]
        self.codes = (key[self.first] >> 16 & 0xFFFF).astype(np.uint16)
        self.flows = (key[self.first] & 0xFFFF).astype(np.uint16)
        del key
        self.operands = [np.where(c >= 0, place[c], -1)[order].astype(np.int32) for c in operands]
        self.inputs = place[program.inputs]
        self.outputs = place[program.outputs + [g.condition for g in program.guards]]
        constants = program.constants
        numbers = np.fromiter(map(float, constants.values()), np.float64, len(constants))
        self.constants = place[np.fromiter(constants, np.int64, len(constants))], numbers


def _has_partial(rule: Any, k: int) -> bool:
    return not isinstance(rule, str) and k < rule.arity and rule.partials[k] is not None


def _columns(program: Program) -> list[NDArray[np.int32]]:
    """The operands by their position: -1 for none."""
    arity = max((r.arity for r in program.rules if not isinstance(r, str)), default=1)
    columns = [program.operands[:, k] for k in range(min(arity, 3))]
    if program.details:  # of operations on more than three numbers
        columns = [np.full(len(program), -1, np.int32) for _ in range(arity)]
        for k in range(min(arity, 3)):
            columns[k][:] = program.operands[:, k]
        for i, detail in program.details.items():
            for k, j in enumerate(detail.operands):
                columns[k][i] = j
    return columns


def _levels(program: Program) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Per instruction its level, 0 for inputs and constants; and whether an input reaches it."""
    n = len(program)
    levels, reached = np.zeros(n, np.int32), np.zeros(n, np.uint8)
    reached[program.inputs] = 1
    level_of, is_reached = levels.data, reached.data
    # Through which operands a gradient passes; later ones of a long instruction are in `details`.
    masks = [tuple(_has_partial(rule, k) for k in range(64)) for rule in program.rules]
    for start in range(0, n, CHUNK):
        codes = program.codes[start : start + CHUNK].tolist()
        rows = program.operands[start : start + CHUNK].T.tolist()
        for i, (code, x, y, z) in enumerate(zip(codes, *rows, strict=True), start):
            if code < 2:
                continue
            mask = masks[code]
            if x < 0:
                of = program.operands_of(i)
                level = max([level_of[j] for j in of], default=0)
                reach = any(is_reached[j] and some for j, some in zip(of, mask, strict=False))
            else:
                level, reach = level_of[x], is_reached[x] & mask[0]
                if y >= 0:
                    if level_of[y] > level:
                        level = level_of[y]
                    reach |= is_reached[y] & mask[1]
                    if z >= 0:
                        if level_of[z] > level:
                            level = level_of[z]
                        reach |= is_reached[z] & mask[2]
            level_of[i] = level + 1
            is_reached[i] = reach
    return levels, reached.astype(bool)


# --- groups, on given arrays ---------------------------------------------------------------------


def _slice_or_index(numbers: Numbers) -> Any:
    """Numbers at equal distances as a slice, which numpy reads without gathering."""
    first, step = int(numbers[0]), int(numbers[1] - numbers[0]) if len(numbers) > 1 else 1
    if step > 0 and (len(numbers) < 3 or (np.diff(numbers) == step).all()):
        return slice(first, int(numbers[-1]) + 1, step)
    return numbers.astype(np.intp)


class _Shared:
    """Places of which some occur repeatedly: what is added there is summed up first."""

    __slots__ = ("inverse", "size", "unique")

    def __init__(self, numbers: Numbers) -> None:
        unique, inverse = np.unique(numbers, return_inverse=True)
        self.unique, self.inverse = _slice_or_index(unique), inverse.astype(np.intp)
        self.size = len(unique)

    def sums(self, share: Floats) -> Floats:
        """Per place the sum, in order: by this, rows of a batch have the bits of single runs."""
        if share.ndim == 1:
            return np.bincount(self.inverse, share, self.size).astype(np.float64, copy=False)
        rows = share.shape[1]
        index = self.inverse[:, None] * rows + np.arange(rows)
        total = np.bincount(index.ravel(), share.ravel(), self.size * rows)
        return total.reshape(self.size, rows).astype(np.float64, copy=False)


class _Group:
    """Instructions of one level and operation, at most a `CHUNK` of them."""

    __slots__ = ("flows", "operands", "results", "rule", "targets")

    def __init__(self, rule: Any, first: int, last: int, flows: int, of: list[Numbers]) -> None:
        self.rule = rule
        self.results = slice(first, last)
        self.flows = [k for k in range(rule.arity) if flows >> k & 1]
        self.operands = [_slice_or_index(x) for x in of]
        self.targets: list[Any] = []
        for k in self.flows:
            where = self.operands[k]
            if not isinstance(where, slice) and len(np.unique(where)) < len(where):
                where = _Shared(where)
            self.targets.append(where)

    def forward(self, values: Floats, spare: list[Floats]) -> Do:
        """What computes the results."""
        gathers, operands = self._gathered(values, spare, range(self.rule.arity))
        results, value = values[self.results], self.rule.value
        ufunc = getattr(np, self.rule.name, None)
        if IN_PLACE and isinstance(ufunc, np.ufunc) and RULES.get(self.rule.name) is self.rule:

            def call() -> None:
                for index, out in gathers:
                    values.take(index, 0, out, "clip")
                ufunc(*operands, out=results)
        else:

            def call() -> None:
                for index, out in gathers:
                    values.take(index, 0, out, "clip")
                results[...] = value(arrays, *operands)

        return call

    def backward(self, values: Floats, adjoints: Floats, spare: list[Floats]) -> Iterator[Do]:
        """What adds to the adjoints of the operands, one after the other."""
        g, result = adjoints[self.results], values[self.results]
        product = spare[-1][: len(g)]
        for k, target in zip(self.flows, self.targets, strict=True):
            add, partial = _adder(adjoints, target, spare[-2]), self.rule.partials[k]
            if not callable(partial):
                yield _constant(partial, g, product, add)
            elif self.rule is RULES["multiply"]:
                gathers, (other,) = self._gathered(values, spare, [1 - k])
                yield _scaled(values, gathers, g, other, product, add)
            else:
                gathers, operands = self._gathered(values, spare, range(self.rule.arity))
                yield _by_rule(values, gathers, g, partial, operands, result, add)

    def _gathered(self, values: Floats, spare: list[Floats], wanted: Sequence[int]) -> Any:
        """Operands as views, of the values or of spare memory; and what to gather there."""
        gathers, operands = [], []
        for k in wanted:
            where = self.operands[k]
            if isinstance(where, slice):
                operands.append(values[where])
            else:
                operands.append(spare[k][: len(where)])
                gathers.append((where, operands[-1]))
        return gathers, operands


def _adder(adjoints: Floats, target: Any, spare: Floats) -> Callable[[Floats], None]:
    """What adds numbers to the adjoints at a target."""
    if isinstance(target, _Shared):
        add = _adder(adjoints, target.unique, spare)
        return lambda share: add(target.sums(share))
    if isinstance(target, slice):
        view = adjoints[target]

        def to_slice(share: Floats) -> None:
            np.add(view, share, view)

        return to_slice
    sofar = spare[: len(target)]

    def to_index(share: Floats) -> None:
        adjoints.take(target, 0, sofar, "clip")
        np.add(sofar, share, sofar)
        adjoints[target] = sofar

    return to_index


def _constant(partial: Any, g: Floats, product: Floats, add: Callable[[Floats], None]) -> Do:
    if partial == 1.0:
        return lambda: add(g)
    return lambda: add(np.multiply(g, partial, product))


def _scaled(
    values: Floats, gathers: Any, g: Floats, other: Floats, product: Floats, add: Any
) -> Do:
    flat = product.reshape(-1)

    def call() -> None:
        for index, out in gathers:
            values.take(index, 0, out, "clip")
        np.multiply(g, other, product)
        total = flat.dot(flat)
        if total != total:  # as in `arrays.azmul`
            product[g == 0] = 0.0
        add(product)

    return call


def _by_rule(
    values: Floats, gathers: Any, g: Floats, partial: Any, operands: Any, result: Floats, add: Any
) -> Do:
    def call() -> None:
        for index, out in gathers:
            values.take(index, 0, out, "clip")
        add(arrays.azmul(g, partial(arrays, *operands, result)))

    return call


class _OneByOne:
    """A stretch of instructions too few of a kind for numpy.

    Those whose rule gives other bits for floats are computed as arrays, of one element.
    """

    __slots__ = ("first", "last", "schedule")

    def __init__(self, schedule: Schedule, first: int, last: int) -> None:
        self.schedule = schedule
        self.first, self.last = first, last  # groups

    def _instructions(self, reverse: bool) -> Iterator[Any]:
        """Per instruction: its number, its operation, its flow and up to three operands."""
        schedule = self.schedule
        starts = range(self.first, self.last, CHUNK)
        for start in reversed(starts) if reverse else starts:
            part = slice(start, min(start + CHUNK, self.last))
            first, last = int(schedule.first[part][0]), int(schedule.last[part][-1])
            sizes = schedule.last[part] - schedule.first[part]
            numbers = range(first, last)
            columns: list[Numbers] = [
                np.repeat(schedule.codes[part], sizes),
                np.repeat(schedule.flows[part], sizes),
            ]
            columns += [column[first:last] for column in schedule.operands[:3]]
            columns += [np.full(len(numbers), -1)] * (5 - len(columns))
            if reverse:
                yield from zip(numbers[::-1], *(c[::-1].tolist() for c in columns), strict=True)
            else:
                yield from zip(numbers, *(c.tolist() for c in columns), strict=True)

    def _of(self, i: int, rule: Any) -> list[int]:
        return [int(column[i]) for column in self.schedule.operands[: rule.arity]]

    def forward(self, values: Floats) -> None:
        """Compute the results."""
        rules = self.schedule.rules
        if values.ndim > 1:
            for i, code, *_ in self._instructions(False):
                rule = rules[code]
                values[i] = rule.value(arrays, *[values[j] for j in self._of(i, rule)])
            return
        number = values.data
        exact = [rule.value if rule in EXACT else None for rule in rules]
        for i, code, _, x, y, z in self._instructions(False):
            value = exact[code]
            if value is None:
                rule = rules[code]
                of = self._of(i, rule)
                values[i : i + 1] = rule.value(arrays, *[values[j : j + 1] for j in of])
            elif y < 0:
                number[i] = value(floats, number[x])
            elif z < 0:
                number[i] = value(floats, number[x], number[y])
            else:
                number[i] = value(floats, number[x], number[y], number[z])

    def backward(self, values: Floats, adjoints: Floats) -> None:
        """Add to the adjoints of the operands."""
        rules, azmul = self.schedule.rules, floats.azmul
        if values.ndim > 1:
            for i, code, flow, *_ in self._instructions(True):
                self._as_arrays(i, rules[code], flow, values, adjoints, i)
            return
        number, adjoint = values.data, adjoints.data
        # Of one and two operands: whether the partials are functions of exact arithmetic.
        quick = [rule in EXACT and rule.arity < 3 for rule in rules]
        partials = [
            (*rule.partials, None) if q else () for rule, q in zip(rules, quick, strict=True)
        ]
        for i, code, flow, x, y, _ in self._instructions(True):
            if not flow:
                continue
            if not quick[code]:
                self._as_arrays(i, rules[code], flow, values, adjoints, slice(i, i + 1))
                continue
            g, (px, py, *_) = adjoint[i], partials[code]
            of = (number[x],) if y < 0 else (number[x], number[y])
            if flow & 1:
                d = px(floats, *of, number[i]) if callable(px) else px
                adjoint[x] = adjoint[x] + azmul(g, d)
            if flow & 2:
                d = py(floats, *of, number[i]) if callable(py) else py
                adjoint[y] = adjoint[y] + azmul(g, d)

    def _as_arrays(
        self, i: int, rule: Any, flow: int, values: Floats, adjoints: Floats, here: Any
    ) -> None:
        """The same of one instruction, for which numpy computes a row, or one element."""
        of = self._of(i, rule)
        places: list[Any] = [j if here == i else slice(j, j + 1) for j in of]
        operands = [values[place] for place in places]
        for k, partial in enumerate(rule.partials):
            if flow >> k & 1:
                if callable(partial):
                    partial = partial(arrays, *operands, values[here])
                adjoints[places[k]] += arrays.azmul(adjoints[here], partial)


class _Machine:
    """The groups on arrays of their own: per instruction a number, or one for each row."""

    def __init__(self, schedule: Schedule, parts: list[_Group | _OneByOne], rows: Any) -> None:
        shape = () if rows is None else (rows,)
        self.schedule = schedule
        self.values = np.zeros((schedule.size, *shape))
        self.adjoints = np.zeros((schedule.size, *shape))
        where, numbers = schedule.constants
        self.values[where] = numbers if rows is None else numbers[:, None]
        widest = max(
            (p.results.stop - p.results.start for p in parts if type(p) is _Group), default=0
        )
        count = len(schedule.operands) + 2
        self.spare = spare = [np.empty((widest, *shape)) for _ in range(count)]
        self.forward_calls: list[Do] = []
        self.backward_calls: list[Do] = []
        for part in parts:
            if isinstance(part, _Group):
                self.forward_calls.append(part.forward(self.values, spare))
                self.backward_calls += part.backward(self.values, self.adjoints, spare)
            else:
                self._add(part)
        self.backward_calls.reverse()

    def _add(self, part: _OneByOne) -> None:
        self.forward_calls.append(lambda: part.forward(self.values))
        self.backward_calls.append(lambda: part.backward(self.values, self.adjoints))

    def forward(self, inputs: Any) -> Floats:
        """The outputs, and then the guards' conditions."""
        self.values[self.schedule.inputs] = inputs
        for call in self.forward_calls:
            call()
        return self.values[self.schedule.outputs]

    def backward(self) -> Floats:
        """After `forward`: the gradient of the first output by every input."""
        self.adjoints.fill(0.0)
        self.adjoints[self.schedule.outputs[0]] = 1.0
        for call in self.backward_calls:
            call()
        return self.adjoints[self.schedule.inputs]


# --- the engine ----------------------------------------------------------------------------------


class Runner:
    """A program of single numbers, ready to run. It may be used by one thread at a time."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.schedule = Schedule(program)
        self.parts = list(_parts_of(self.schedule))
        self._machine = _Machine(self.schedule, self.parts, None)
        self._batches: _Machine | None = None

    def twin(self) -> Runner:
        """Another runner of the program, for another thread."""
        other = copy.copy(self)
        other._machine, other._batches = _Machine(self.schedule, self.parts, None), None
        return other

    @property
    def nbytes(self) -> int:
        """The memory of its arrays, those of batches not counted."""
        schedule, machine = self.schedule, self._machine
        kept: list[Numbers] = [
            schedule.first,
            schedule.last,
            schedule.codes,
            schedule.flows,
            *schedule.operands,
        ]
        kept += [machine.values, machine.adjoints, *machine.spare]
        for part in self.parts:
            if isinstance(part, _Group):
                kept += [x for x in part.operands if not isinstance(x, slice)]
                kept += [x.inverse for x in part.targets if isinstance(x, _Shared)]
        return sum(x.nbytes for x in kept)

    @np.errstate(all="ignore")
    def values(self, inputs: Sequence[float]) -> Floats:
        """The outputs, and then the guards' conditions."""
        return self._machine.forward(inputs)

    @np.errstate(all="ignore")
    def value_and_gradient(self, inputs: Sequence[float]) -> tuple[Floats, Floats]:
        """The same, and the gradient of the first output by every input."""
        results = self._machine.forward(inputs)
        return results, self._machine.backward()

    @np.errstate(all="ignore")
    def batch(
        self, inputs: Any, *, gradients: bool = True, sum_gradients: bool = False, threads: int = 1
    ) -> tuple[Floats, Floats | None]:
        """Many runs at once, one per row.

        Args:
            inputs: an array (rows, inputs), or per input a number, for all rows, or a column.
            gradients: compute them.
            sum_gradients: add them up over the rows. Leave out rows that come out otherwise at a
                guard: they are in the sum.
            threads: there is one, whatever is asked for.

        Returns:
            The outputs and then the guards' conditions, (rows, n); and the gradients of the first
            output, (rows, inputs) or summed up, (inputs,), or None.
        """
        shared, columns, rows = table(inputs, len(self.program.inputs))
        schedule, n = self.schedule, len(shared)
        results = np.empty((rows, len(schedule.outputs)))
        size = _block(schedule.size, rows)
        if self._batches is None or self._batches.values.shape[1] != size:
            self._batches = _Machine(schedule, self.parts, size)
        machine = self._batches
        total = None
        if gradients:
            total = np.zeros(n) if sum_gradients else np.empty((rows, n))
        block = np.repeat(shared[:, None], size, axis=1)
        for start in range(0, rows, size):
            count = min(size, rows - start)
            for k, column in columns:
                block[k, :count] = column[start : start + count]
                block[k, count:] = block[k, 0]
            results[start : start + count] = machine.forward(block)[:, :count].T
            if total is not None and sum_gradients:
                total += machine.backward()[:, :count].sum(axis=1)
            elif total is not None:
                total[start : start + count] = machine.backward()[:, :count].T
        return results, total


def _block(instructions: int, rows: int) -> int:
    """How many rows to run at once: what a cache holds, or few where the calls are what costs."""
    fast, large = ((1 << bits) // max(instructions, 1) for bits in (18, 24))
    return max(1, min(rows, max(min(1024, fast), min(16, large))))


def table(inputs: Any, n: int) -> tuple[Floats, list[tuple[int, Floats]], int]:
    """Inputs of a batch: those that are the same for all rows; the others; how many rows."""
    lengths: set[int] = set()
    if isinstance(inputs, np.ndarray) and inputs.ndim == 2:
        each: list[Any] = list(inputs.T)
        lengths = {len(inputs)}
    else:
        each = [np.asarray(x, np.float64) for x in inputs]
    if len(each) != n:
        raise ValueError(f"the program has {n} inputs, got {len(each)}")
    lengths |= {len(x) for x in each if x.ndim}
    if len(lengths) != 1 or any(x.ndim > 1 for x in each):
        raise ValueError(f"columns of one length are expected, got lengths {sorted(lengths)}")
    shared = np.array([0.0 if x.ndim else float(x) for x in each])
    return shared, [(k, x) for k, x in enumerate(each) if x.ndim], lengths.pop()


def _parts_of(schedule: Schedule) -> Iterator[_Group | _OneByOne]:
    """Groups, and what is between them."""
    sizes = schedule.last - schedule.first
    exact = np.array([rule in EXACT for rule in schedule.rules], bool)[schedule.codes]
    wide = sizes >= np.where(exact, FEW, 2)
    start = 0
    for g in np.flatnonzero(wide).tolist():
        if g > start:
            yield _OneByOne(schedule, start, g)
        start = g + 1
        rule, flows = schedule.rules[schedule.codes[g]], int(schedule.flows[g])
        for first in range(int(schedule.first[g]), int(schedule.last[g]), CHUNK):
            last = min(first + CHUNK, int(schedule.last[g]))
            of = [column[first:last] for column in schedule.operands[: rule.arity]]
            yield _Group(rule, first, last, flows, of)
    if start < len(sizes):
        yield _OneByOne(schedule, start, len(sizes))
