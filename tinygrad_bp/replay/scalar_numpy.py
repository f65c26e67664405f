"""Replay of single numbers by numpy: in wavefronts.

The level of an instruction is one more than the highest of its operands. All instructions of one
level and operation are one call of numpy: they gather their operands, and need nothing from one
another. Backward the levels are gone through in reverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp import arrays
from tinygrad_bp.replay.program import Program

Floats = NDArray[np.float64]


class _Group:
    """Instructions of one level and operation."""

    __slots__ = ("operands", "results", "rule", "single")

    def __init__(self, rule: Any, results: NDArray[Any], operands: list[NDArray[Any]]) -> None:
        self.rule = rule
        self.results = _slice_or_index(results)
        self.operands = [_slice_or_index(x) for x in operands]
        # Whether every operand occurs once: then adding needs no care for repeated places.
        self.single = [len(np.unique(x)) == len(x) for x in operands]


def _slice_or_index(numbers: NDArray[Any]) -> Any:
    """Consecutive numbers as a slice, which numpy reads without gathering."""
    first, last = int(numbers[0]), int(numbers[-1])
    if last - first + 1 == len(numbers) and (np.diff(numbers) == 1).all():
        return slice(first, last + 1)
    return numbers.astype(np.intp)


def levels_of(program: Program) -> NDArray[np.int32]:
    """Per instruction its level; 0 for inputs and constants."""
    levels = [0] * len(program)
    operands = program.operands.tolist()
    for i, code in enumerate(program.codes.tolist()):
        if code >= 2:
            x, y, z = operands[i]
            level = levels[x]
            if y >= 0 and levels[y] > level:
                level = levels[y]
            if z >= 0 and levels[z] > level:
                level = levels[z]
            levels[i] = level + 1
    return np.array(levels, np.int32)


class Runner:
    """A program of single numbers, ready to run. It may be used by one thread at a time."""

    def __init__(self, program: Program) -> None:
        self.program = program
        levels = levels_of(program)
        # Renumbered so that each group is consecutive: its results are a slice.
        order = np.lexsort((program.codes, levels))
        place = np.empty(len(program), np.int64)
        place[order] = np.arange(len(program))
        codes, operands = program.codes[order], program.operands[order]
        operands = np.where(operands >= 0, place[operands], -1)
        self.inputs = place[program.inputs]
        self.outputs = place[program.outputs + [g.condition for g in program.guards]]
        self.root = int(place[program.outputs[0]]) if program.outputs else 0
        self.start = np.zeros(len(program))
        for i, x in program.constants.items():
            self.start[place[i]] = float(x)
        keys = levels[order].astype(np.int64) * 65536 + codes
        cuts = np.flatnonzero(np.diff(keys)) + 1
        self.groups = []
        for members in np.split(np.arange(len(program)), cuts):
            if len(members) and codes[members[0]] >= 2:
                rule = program.rules[codes[members[0]]]
                of = [operands[members, k] for k in range(rule.arity)]
                self.groups.append(_Group(rule, members, of))

    @np.errstate(all="ignore")
    def values(self, inputs: Sequence[float]) -> Floats:
        """The outputs, and then the guards' conditions."""
        return self._forward(inputs)[self.outputs]

    @np.errstate(all="ignore")
    def value_and_gradient(self, inputs: Sequence[float]) -> tuple[Floats, Floats]:
        """The same, and the gradient of the first output by every input."""
        values = self._forward(inputs)
        adjoints = np.zeros(len(values))
        adjoints[self.root] = 1.0
        for group in reversed(self.groups):
            g = adjoints[group.results]
            operands = [values[x] for x in group.operands]
            result = values[group.results]
            for k, partial in enumerate(group.rule.partials):
                if partial is None:
                    continue
                if callable(partial):
                    share = arrays.azmul(g, partial(arrays, *operands, result))
                else:
                    share = g if partial == 1.0 else g * partial
                if group.single[k]:
                    adjoints[group.operands[k]] += share
                else:
                    np.add.at(adjoints, group.operands[k], share)
        return values[self.outputs], adjoints[self.inputs]

    def _forward(self, inputs: Sequence[float]) -> Floats:
        values = self.start.copy()
        values[self.inputs] = inputs
        for group in self.groups:
            values[group.results] = group.rule.value(arrays, *[values[x] for x in group.operands])
        return values
