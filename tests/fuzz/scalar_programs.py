"""Programs of single numbers: made from a seed, executed, made smaller, and written as Python."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from math import copysign, inf, isfinite, nan
from random import Random
from typing import Any, NamedTuple

import tinygrad_bp as tb
from tinygrad_bp import rules

from .derivations import COMPLEX, EPS, TINY, VALUES

ONE_IN = 50  # is run in every way


class Program(NamedTuple):
    """Leaves, operations, and whether to try all ways of differentiating.

    A leaf is `(number, tracked)`. An operation is `(name, operands)`. An operand is a position (the
    leaves, then the results), a float, or as a condition `(comparison, operand, operand)`.
    """

    leaves: tuple[tuple[float, bool], ...]
    operations: tuple[tuple[str, tuple[Any, ...]], ...]
    every_way: bool


# --- what there is ------------------------------------------------------------------------------

OPERATORS: dict[str, tuple[Callable[..., Any], str]] = {
    "+": (operator.add, "add"),
    "-": (operator.sub, "subtract"),
    "*": (operator.mul, "multiply"),
    "/": (operator.truediv, "divide"),
    "**": (operator.pow, "power"),
    "neg": (operator.neg, "negative"),
    "abs": (operator.abs, "absolute"),
}
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}
APPLY: dict[str, Callable[..., Any]] = {
    **rules.RULES,
    **{symbol: function for symbol, (function, _) in OPERATORS.items()},
}
RULE_OF = {name: name for name in rules.RULES} | {s: name for s, (_, name) in OPERATORS.items()}
ARITY = {name: rules.RULES[rule].arity for name, rule in RULE_OF.items()}
HAS_CONDITION = {name for name, rule in rules.RULES.items() if rule.partials[0] is None}
NAMES = tuple(APPLY)
ANALYTIC = tuple(name for name in NAMES if RULE_OF[name] in COMPLEX)
TAME = ("tanh", "sigmoid", "arctan", "sin", "relu", "absolute", "negative", "erf", "silu", "cos")

ROUND = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.0, 0.25, -3.0, 10.0)
EDGES = (
    *(0.0, -0.0, 1e300, -1e300, 1e-300, -1e-300, 5e-324, -5e-324, 1e-310, TINY, -TINY),
    *(20.0, -20.0, 40.0, -40.0, 700.0, -700.0, 709.7, 710.0, -745.0, 746.0, 1e150, -1e-150),
    *(1e16, -1e16, 1 - EPS / 2, 1 + EPS, EPS, -EPS, 1.5707963267948966, 27.0, -38.0, -6.0, 9.0),
)
NOT_FINITE = (inf, -inf, nan)

# --- random programs ----------------------------------------------------------------------------


def make(random: Random) -> Program:
    """A program; most are steered away from values that are infinite, nan or very large."""
    draw = random.random
    every_way = draw() * ONE_IN < 1
    names = ANALYTIC if draw() < 0.2 else NAMES
    wild = draw() < 0.1
    length = 1 + int(40 * draw() ** 2)
    few = 1 + int(min(3, length) * draw())
    leaves = [(_number(draw), i == 0 or draw() < 0.9) for i in range(few)]
    values = [number for number, _ in leaves]
    operations: list[tuple[str, tuple[Any, ...]]] = []
    for _ in range(length):
        name = names[int(draw() * len(names))]
        operands = _operands(name, len(values), draw)
        z = _value(name, operands, values)
        if not -1e4 < z < 1e4 and not wild:
            name = TAME[int(draw() * len(TAME))]
            operands = (_node(len(values), draw),)
            z = _value(name, operands, values)
        operations.append((name, operands))
        values.append(z)
    return Program(tuple(leaves), tuple(operations), every_way)


def _number(draw: Callable[[], float]) -> float:
    r = draw()
    if r < 0.6:
        return 10.0 * r - 3.0
    if r < 0.8:
        return ROUND[int(draw() * len(ROUND))]
    if r < 0.9:
        return (-1.0 if draw() < 0.5 else 1.0) * 10.0 ** (400.0 * (r - 0.85))
    if r < 0.995:
        return EDGES[int(draw() * len(EDGES))]
    return NOT_FINITE[int(draw() * 3)]


def _node(count: int, draw: Callable[[], float]) -> int:
    """A position: the last result, one of the first three, or any."""
    r = 4.0 * draw()
    return (
        count - 1
        if r < 1.7
        else int((r - 3.0) * min(count, 3))
        if r > 3.0
        else int((r - 1.7) / 1.3 * count)
    )


def _operands(name: str, count: int, draw: Callable[[], float]) -> tuple[Any, ...]:
    arity = ARITY[name]
    if arity == 1:
        return (_node(count, draw),)
    kept = int(draw() * arity)  # at least one is a node
    operands = tuple(
        _node(count, draw) if i == kept or draw() < 0.75 else _number(draw) for i in range(arity)
    )
    if name in HAS_CONDITION and draw() < 0.9:
        if not any(type(operand) is int for operand in operands[1:]):
            operands = (operands[0], _node(count, draw), operands[2])
        comparison = tuple(COMPARISONS)[int(draw() * 4)]
        condition = (comparison, _node(count, draw), _operand(count, draw))
        operands = (condition, *operands[1:])
    return operands


def _operand(count: int, draw: Callable[[], float]) -> Any:
    return _node(count, draw) if draw() < 0.75 else _number(draw)


def numbers_of(operands: tuple[Any, ...], values: Sequence[float]) -> list[Any]:
    """The operands as numbers, and conditions as truth values."""
    return [
        values[o]
        if type(o) is int
        else o
        if type(o) is float
        else COMPARISONS[o[0]](*numbers_of(o[1:], values))
        for o in operands
    ]


def _value(name: str, operands: tuple[Any, ...], values: Sequence[float]) -> float:
    return VALUES[RULE_OF[name]](*numbers_of(operands, values))


def execute(program: Program, leaves: Sequence[Any]) -> list[Any]:
    """All nodes of a program: the leaves, and the result of every operation."""
    nodes = list(leaves)
    for name, operands in program.operations:
        nodes.append(
            APPLY[name](
                *[
                    nodes[o]
                    if type(o) is int
                    else o
                    if type(o) is float
                    else COMPARISONS[o[0]](*[nodes[p] if type(p) is int else p for p in o[1:]])
                    for o in operands
                ]
            )
        )
    return nodes


# --- smaller programs ---------------------------------------------------------------------------


def smaller(program: Program) -> Iterator[Program]:
    """Programs a step smaller: fewer operations first, then fewer leaves, then simpler numbers."""
    leaves, operations, every_way = program
    n = len(leaves)
    if every_way:
        yield program._replace(every_way=False)
    for size in range(1, len(operations)):
        yield _used(Program(leaves, operations[:size], every_way))
    values = [number for number, _ in leaves]
    for name, operands in operations:
        values.append(_value(name, operands, values))
    for i in reversed(range(len(operations) - 1)):
        yield _used(_as_leaf(program, i, values[n + i]))
    for i in reversed(range(len(operations))):
        _, operands = operations[i]
        nodes = {p for o in operands for p in (o[1:] if type(o) is tuple else (o,))}
        for operand in sorted(p for p in nodes if type(p) is int):
            yield _used(_without(program, n + i, operand))
    for i, (number, tracked) in enumerate(leaves):
        if len(leaves) > 1:
            others = [j for j in range(n) if j != i]
            yield _used(_without(program, i, others[0])) if i else program
        if tracked and n > 1:
            yield program._replace(leaves=(*leaves[:i], (number, False), *leaves[i + 1 :]))
        for simple in _simpler(number):
            yield program._replace(leaves=(*leaves[:i], (simple, tracked), *leaves[i + 1 :]))
    for i, (name, operands) in enumerate(operations):
        for j, operand in enumerate(operands):
            for other in _other_operands(operand, values):
                changed = (name, (*operands[:j], other, *operands[j + 1 :]))
                if any(type(o) is int for o in changed[1]):
                    new = (*operations[:i], changed, *operations[i + 1 :])
                    yield _used(program._replace(operations=new))


def _other_operands(operand: Any, values: Sequence[float]) -> Iterator[Any]:
    if type(operand) is int:
        yield values[operand]
    elif type(operand) is float:
        yield from _simpler(operand)
    else:
        for j in (1, 2):
            for other in _other_operands(operand[j], values):
                changed = (*operand[:j], other, *operand[j + 1 :])
                if any(type(o) is int for o in changed[1:]):
                    yield changed


def _simpler(number: float) -> Iterator[float]:
    """Numbers that are shorter to write."""
    length = len(repr(number)) + (number < 0)
    candidates = [0.0, 1.0, 2.0, 0.5]
    if isfinite(number):
        candidates += [float(f"{number:.{digits}g}") for digits in (1, 2, 3, 6)] + [-number]
    for candidate in candidates:
        same = candidate == number and copysign(1, candidate) == copysign(1, number)
        if len(repr(candidate)) + (candidate < 0) < length and not same:
            yield candidate
    if number in (2.0, 0.5):
        yield 1.0


def _without(program: Program, position: int, other: int) -> Program:
    """The program with `other` in the place of a node, which is then no longer used."""

    def put(operand: Any) -> Any:
        if type(operand) is tuple:
            return (operand[0], *map(put, operand[1:]))
        return other if type(operand) is int and operand == position else operand

    count = len(program.leaves) + len(program.operations)
    operations = [(name, tuple(map(put, operands))) for name, operands in program.operations]
    if position == count - 1 and other >= len(program.leaves):
        operations = operations[: other - len(program.leaves) + 1]
    return program._replace(operations=tuple(operations))


def _as_leaf(program: Program, i: int, value: float) -> Program:
    """The program with a further leaf in the place of operation i, which is then not used."""
    n = len(program.leaves)

    def put(operand: Any) -> Any:
        if type(operand) is tuple:
            return (operand[0], *map(put, operand[1:]))
        if type(operand) is not int:
            return operand
        return n if operand == n + i else operand + (operand >= n)

    operations = [(name, tuple(map(put, operands))) for name, operands in program.operations]
    return program._replace(leaves=(*program.leaves, (value, True)), operations=tuple(operations))


def _used(program: Program) -> Program:
    """The program without what does not lead to its last result."""
    leaves, operations, _ = program
    n = len(leaves)
    needed = {n + len(operations) - 1}
    for i in reversed(range(len(operations))):
        if n + i in needed:
            for o in operations[i][1]:
                needed |= {p for p in (o[1:] if type(o) is tuple else (o,)) if type(p) is int}
    new = {old: i for i, old in enumerate(sorted(needed))}

    def put(operand: Any) -> Any:
        if type(operand) is tuple:
            return (operand[0], *map(put, operand[1:]))
        return new[operand] if type(operand) is int else operand

    return program._replace(
        leaves=tuple(leaf for i, leaf in enumerate(leaves) if i in needed),
        operations=tuple(
            (name, tuple(map(put, operands)))
            for i, (name, operands) in enumerate(operations)
            if n + i in needed
        ),
    )


# --- as code ------------------------------------------------------------------------------------


def source(program: Program) -> str:
    """Python that builds and differentiates the program, shows the numbers, and raises Mismatch."""
    lines = ["from collections import Counter", "from math import inf, nan", ""]
    lines += ["import tinygrad_bp as tb", "from tests.fuzz.scalars import Program, check", ""]
    names = [f"x{i}" for i in range(len(program.leaves))]
    for name, (number, tracked) in zip(names, program.leaves, strict=True):
        lines.append(f"{name} = tb.Value({number!r}{'' if tracked else ', requires_grad=False'})")
    for name, operands in program.operations:
        names.append(f"x{len(names)}")
        lines.append(f"{names[-1]} = {_call(name, operands, names)}")
    lines.append(f"if {names[-1]}.requires_grad:\n    {names[-1]}.backward()")
    lines.append(f"for x in ({', '.join(names)},):\n    print(x.data, x.grad)")
    lines.append(f"check({program!r}, Counter())")
    return "\n".join(lines)


def _call(name: str, operands: tuple[Any, ...], names: Sequence[str]) -> str:
    def text(o: Any) -> str:
        if type(o) is tuple:
            return f"{text(o[1])} {o[0]} {text(o[2])}"
        return names[o] if type(o) is int else f"({o!r})" if str(o)[0] == "-" else repr(o)

    if name in ("neg", "abs"):
        return f"-{text(operands[0])}" if name == "neg" else f"abs({text(operands[0])})"
    if name in OPERATORS:
        return f"{text(operands[0])} {name} {text(operands[1])}"
    function = f"tb.{name}" if hasattr(tb, name) else f"tb.RULES[{name!r}]"
    return f"{function}({', '.join(map(text, operands))})"
