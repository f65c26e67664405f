"""What a program can do without: the same results, in fewer instructions.

Both passes preserve every bit. Instructions that nothing needs are dropped. Those that compute the
same from the same operands become one; inputs never do, so leaves of equal value stay apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bp.replay.program import Details, Guard, Program


def optimized(program: Program) -> Program:
    """The program without what is computed twice, or for nothing."""
    return without_dead_code(without_repetition(program))


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
        draws=program.draws,
    )
