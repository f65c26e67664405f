"""Replay of arrays by numpy: a list of calls, with places for their results prepared.

A program on arrays has its backward pass in it, as further instructions. Where numpy's function can
write into a given array, it does, so that a run allocates next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_bp import arrays
from tinygrad_bp.array_rules import ArrayRule
from tinygrad_bp.replay.program import CONSTANT, INPUT, Program, filled_in, placeholders

# Operations that are one call of numpy's, which takes `out`.
_UFUNCS: dict[str, Any] = {
    name: getattr(np, name)
    for name in (
        *("add", "subtract", "multiply", "divide", "negative", "square", "sqrt", "absolute"),
        *("exp", "expm1", "log", "log1p", "logaddexp", "hypot", "maximum", "minimum", "tanh"),
        *("sin", "cos", "tan", "arcsin", "arccos", "arctan", "arctan2", "sinh", "cosh"),
    )
}


class Runner:
    """A program of arrays, ready to run. It may be used by one thread at a time."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.wanted = [*program.outputs, *(g.condition for g in program.guards)]
        self.start: list[Any] = [None] * len(program)
        self.steps: list[tuple[int, Callable[..., Any], tuple[int, ...]]] = []
        for i in range(len(program)):
            rule = program.rule(i)
            if rule == CONSTANT:
                self.start[i] = program.constants[i]
            elif rule != INPUT:
                self.steps.append((i, self._call(i, rule), program.operands_of(i)))

    def _call(self, i: int, rule: Any) -> Callable[..., Any]:
        """What computes an instruction, given its operands."""
        program = self.program
        if isinstance(rule, ArrayRule):
            detail = program.details[i]
            parameters, options = detail.parameters, detail.options
            if rule.name == "matmul":
                return self._product(i)

            count = len(detail.operands) - placeholders(parameters)
            if count < len(detail.operands):

                def indexed(*operands: Any) -> Any:
                    given = filled_in(parameters, operands)
                    return rule.apply(arrays, operands[:count], given, options)

                return indexed

            def structural(*operands: Any) -> Any:
                return rule.apply(arrays, operands, parameters, options)

            return structural
        ufunc = _UFUNCS.get(rule.name)
        if ufunc is not None and program.shapes[i] != ():
            out = np.empty(program.shapes[i], program.dtypes[i])

            def into(*operands: Any) -> Any:
                return ufunc(*operands, out=out)

            return into
        value = rule.value

        def elementwise(*operands: Any) -> Any:
            return value(arrays, *operands)

        return elementwise

    def _product(self, i: int) -> Callable[..., Any]:
        shapes = [self.program.shapes[j] for j in self.program.operands_of(i)]
        if [len(s) for s in shapes] != [2, 2]:
            return arrays.matmul
        out = np.empty(self.program.shapes[i], self.program.dtypes[i])

        def product(x: Any, y: Any) -> Any:
            return np.dot(x, y, out=out)

        return product

    @np.errstate(all="ignore")
    def values(self, inputs: Sequence[Any]) -> list[Any]:
        """The outputs, and then the guards' conditions; they are the runner's own, copy them."""
        values = self.start.copy()
        for i, x in zip(self.program.inputs, inputs, strict=True):
            values[i] = x
        for i, call, operands in self.steps:
            values[i] = call(*[values[j] for j in operands])
        return [values[i] for i in self.wanted]
