"""What a program can do without: the same results, in fewer instructions.

Every pass preserves every bit of a value. What is computed from constants alone is a constant.
Instructions that compute the same from the same operands become one; inputs never do, so leaves of
equal value stay apart. Instructions that nothing needs are dropped.

A program of arrays holds its gradients as values. Those of single numbers are swept afterwards, and
what has become one hands on the sum of its gradients: (a + b) d, and not a d + b d. That rounds
otherwise, and where d is infinite and a + b is 0, it is 0, and not inf - inf.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tinygrad_bp import arrays, floats
from tinygrad_bp.array_rules import ArrayRule
from tinygrad_bp.replay.program import EXACT, Details, Guard, Program, filled_in, placeholders
from tinygrad_bp.rules import RULES

SMALL = 1 << 16  # bytes that a constant may take, if it is made of smaller ones

# By operation: which operand, with which bits, makes it give the other one.
_NEUTRAL: dict[Any, tuple[tuple[int, float], ...]] = {
    RULES["multiply"]: ((0, 1.0), (1, 1.0)),
    RULES["divide"]: ((1, 1.0),),
    RULES["subtract"]: ((1, 0.0),),
    RULES["add"]: ((0, -0.0), (1, -0.0)),
}


def optimized(program: Program) -> Program:
    """The program without what is computed twice, or for nothing."""
    return without_dead_code(without_repetition(folded(program)))


def folded(program: Program) -> Program:
    """What is computed from constants as constants, and no operation that changes nothing.

    Of arrays, x * 1, x / 1, x - 0 and x + (-0) are x, to the last bit; x + 0 is not, where x is -0.
    Of single numbers they stay: gradients would come together in another order. So do functions
    whose last bits differ between the engines.
    """
    if program.kind == "scalar" and not _has_constant_operations(program):
        return program
    constants = dict(program.constants)
    details = dict(program.details)
    codes, operands = program.codes.copy(), program.operands.copy()
    same = np.arange(len(program), dtype=np.int32)
    for i in _candidates(program, set(constants)):
        of = [int(same[j]) for j in program.operands_of(i)]
        if all(j in constants for j in of):
            result = _computed(program, i, [constants[j] for j in of])
            if result is not None:
                constants[i] = result
                codes[i], operands[i] = 1, -1
                details.pop(i, None)
        elif program.kind == "array":
            same[i] = _unchanged(program, i, of, constants)
    details = {
        i: replace(d, operands=tuple(int(same[j]) for j in d.operands)) for i, d in details.items()
    }
    return replace(
        program,
        codes=codes,
        operands=np.where(operands >= 0, same[operands], -1).astype(np.int32),
        details=details,
        constants=constants,
        outputs=[int(same[i]) for i in program.outputs],
        guards=[replace(g, condition=int(same[g.condition])) for g in program.guards],
    )


def _has_constant_operations(program: Program) -> bool:
    """Whether some instruction has constants alone; quick, as programs of numbers are long."""
    constant = np.append(program.codes == 1, True)  # the last stands for "no operand"
    first = program.operands[:, 0] >= 0
    return bool((first & constant[program.operands].all(axis=1)).any())


def _candidates(program: Program, constants: set[int]) -> Iterator[int]:
    """The instructions with a constant among their operands, in order; more may become such."""
    table = program.operands.tolist()
    for i, code in enumerate(program.codes.tolist()):
        if code >= 2:
            of = program.details[i].operands if i in program.details else table[i]
            if not constants.isdisjoint(of):
                yield i
                if all(j in constants or j < 0 for j in of):
                    constants.add(i)


def _computed(program: Program, i: int, operands: list[Any]) -> Any:
    """What an instruction gives on constants; None if it is better left where it is."""
    rule = program.rule(i)
    if program.kind == "scalar":
        if rule not in EXACT:
            return None
        return rule.value(floats, *operands)
    try:
        with np.errstate(all="ignore"):
            if isinstance(rule, ArrayRule):
                detail = program.details[i]
                given = filled_in(detail.parameters, operands)
                count = len(operands) - placeholders(detail.parameters)
                result = rule.apply(arrays, operands[:count], given, detail.options)
            else:
                result = rule.value(arrays, *operands)
    except Exception:  # as it will be at the run
        return None
    if not isinstance(result, (float, np.generic, np.ndarray)):
        return None
    as_recorded = (
        np.shape(result) == program.shapes[i] and np.asarray(result).dtype == program.dtypes[i]
    )
    size = max(SMALL, *(np.asarray(x).nbytes for x in operands))
    return result if as_recorded and np.asarray(result).nbytes <= size else None


def _unchanged(program: Program, i: int, of: list[int], constants: dict[int, Any]) -> int:
    """The operand that an instruction gives as it is; if there is none, itself."""
    rule = program.rule(i)
    for k, neutral in _NEUTRAL.get(rule, ()):
        x, other = of[1 - k], of[k]
        if other in constants and (program.shapes[x], program.dtypes[x]) == (
            program.shapes[i],
            program.dtypes[i],
        ):
            bits = np.asarray(constants[other], np.float64).view(np.int64)
            if (bits == np.float64(neutral).view(np.int64)).all():
                return x
    return i


def without_repetition(program: Program) -> Program:
    """Common subexpressions computed once."""
    first: dict[Any, int] = {}
    same = np.arange(len(program))
    codes, operands = program.codes.tolist(), program.operands.tolist()
    renumbered: dict[int, Details] = {}
    for i, code in enumerate(codes):
        if code < 2:  # inputs and constants
            continue
        detail = program.details.get(i)
        if detail is None:
            x, y, z = operands[i]
            key: Any = (code, same[x], same[y] if y >= 0 else -1, same[z] if z >= 0 else -1)
        else:
            of = tuple(int(same[j]) for j in detail.operands)
            detail = renumbered[i] = Details(of, detail.parameters, detail.options)
            try:
                key = (code, of, _key(detail.parameters), _key(tuple(detail.options.items())))
            except TypeError:
                continue
        same[i] = first.setdefault(key, i)
    return Program(
        kind=program.kind,
        rules=program.rules,
        codes=program.codes,
        operands=np.where(program.operands >= 0, same[program.operands], -1).astype(np.int32),
        details={**program.details, **renumbered},
        inputs=program.inputs,
        constants=program.constants,
        outputs=[int(same[i]) for i in program.outputs],
        guards=[Guard(int(same[g.condition]), g.outcome, g.line) for g in program.guards],
        shapes=program.shapes,
        dtypes=program.dtypes,
        scopes=program.scopes,
        draws=program.draws,
    )


def _key(x: Any) -> Any:
    """Arguments as something to look up; TypeError for those that cannot be, such as arrays."""
    if isinstance(x, (list, tuple)):
        return type(x).__name__, tuple(_key(part) for part in x)
    if isinstance(x, slice):
        return "slice", x.start, x.stop, x.step
    hash(x)
    return type(x).__name__, x.hex() if isinstance(x, float) else x


def without_dead_code(program: Program) -> Program:
    """Only what the outputs and the guards need; inputs stay."""
    needed = np.zeros(len(program), bool)
    needed[program.inputs] = True
    needed[program.outputs] = True
    needed[[g.condition for g in program.guards]] = True
    details, operands = program.details, program.operands.tolist()
    for i in np.flatnonzero(program.codes >= 2)[::-1].tolist():
        if needed[i]:
            of = details[i].operands if i in details else operands[i]
            for j in of:
                if j >= 0:
                    needed[j] = True
    kept = np.flatnonzero(needed)
    new = np.full(len(program) + 1, -1, np.int32)  # the last stands for "no operand"
    new[kept] = np.arange(len(kept))
    number = new.tolist()
    return Program(
        kind=program.kind,
        rules=program.rules,
        codes=program.codes[kept],
        operands=new[program.operands[kept]],
        details={
            number[i]: Details(tuple(number[j] for j in d.operands), d.parameters, d.options)
            for i, d in details.items()
            if needed[i]
        },
        inputs=[number[i] for i in program.inputs],
        constants={number[i]: x for i, x in program.constants.items() if needed[i]},
        outputs=[number[i] for i in program.outputs],
        guards=[Guard(number[g.condition], g.outcome, g.line) for g in program.guards],
        shapes=[program.shapes[i] for i in kept] if program.shapes else [],
        dtypes=[program.dtypes[i] for i in kept] if program.dtypes else [],
        scopes=program.scopes.of_each(program.scopes.each(len(program))[kept]),
        draws=program.draws,
    )
