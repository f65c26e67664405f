"""Random programs of single numbers, against derivatives from the books, chained two ways.

A program is leaves and 1 to 40 operations; its last result is differentiated. The oracle
(`derivations`) is fed with the engine's own forward values, each of which is itself compared with
the operation of the operands' values. So an ill-conditioned program is no mismatch, and no error
hides behind it. For every program:

- each forward value: the operation by Python's `math`; zeros have their sign;
- the gradient by each leaf: dual numbers, one pass per leaf, within
  `ROUNDINGS * EPS * (operations + 2) * sum |terms|`. The sum of |terms| over all paths is computed
  by the same duals with the sizes of the derivatives: each factor of a term is wrong by ROUNDINGS
  at most, and a path has no more factors and sums than there are operations;
- where that fails, or something is not finite: the same derivatives in exact fractions, and in a
  reverse sweep written out here. See `_judge`: a difference counts as explained, and is counted,
  where exact arithmetic shows an underflow or overflow of the order in which factors are taken;
- if all operations are analytic, the gradient by a complex step of each operation.

One program in `ONE_IN` is also run as a function whose gradient is nodes (`create_graph`), in
forward mode, on `Tensor`s without dimensions, on an array of Values, and recorded and replayed.

What the gradient is where it is not finite: the product of the chain rule is 0 where the gradient
of the result is 0, whatever the derivative is (a branch that was not chosen gives no nan). All
else is IEEE arithmetic in the order of the sweep: infinities and nan are equal or a mismatch.
"""

from __future__ import annotations

import operator
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from math import copysign, fabs, inf, isfinite, nan
from random import Random
from typing import Any, NamedTuple

import tinygrad_bp as tb
from tinygrad_bp import rules
from tinygrad_bp.value import Value

from . import Mismatch
from .derivations import (
    COMPLEX,
    EPS,
    PARTIALS,
    ROUNDINGS,
    SIZES,
    TINY,
    VALUES,
    complex_step,
)

CHUNK = 2000
ONE_IN = 50
SMALLEST = 5e-324
MAX = sys.float_info.max


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
EITHER_ZERO = {"maximum", "minimum", "clip", "relu", "elu", "azmul"}  # they choose between 0 and -0
NOT_FINITE = (inf, -inf, nan)

# --- random programs ----------------------------------------------------------------------------


def generate(random: Random) -> Program:
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


def _numbers(operands: tuple[Any, ...], values: Sequence[float]) -> list[Any]:
    """The operands as numbers, and conditions as truth values."""
    return [
        values[o]
        if type(o) is int
        else o
        if type(o) is float
        else COMPARISONS[o[0]](*_numbers(o[1:], values))
        for o in operands
    ]


def _value(name: str, operands: tuple[Any, ...], values: Sequence[float]) -> float:
    return VALUES[RULE_OF[name]](*_numbers(operands, values))


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


# --- the oracle ---------------------------------------------------------------------------------

Edge = tuple[int, int, float, float]  # result, operand, derivative, its size


def edges_of(program: Program, values: Sequence[float]) -> tuple[list[Edge], list[bool]]:
    """Every use of a tracked operand, with its derivative; which nodes are tracked.

    Raises:
        Mismatch: a value is not that of the operation.
    """
    tracked = [is_tracked for _, is_tracked in program.leaves]
    edges: list[Edge] = []
    n = len(tracked)
    for name, operands in program.operations:
        rule = RULE_OF[name]
        numbers = [
            values[o]
            if type(o) is int
            else o
            if type(o) is float
            else COMPARISONS[o[0]](*_numbers(o[1:], values))
            for o in operands
        ]
        z = values[n]
        expected = VALUES[rule](*numbers)
        if z != expected or z == 0:
            _check_value(rule, numbers, z, expected)
        pairs = None
        reached = False
        i = -2
        for operand in operands:
            i += 2
            if type(operand) is int and tracked[operand] and (i or rule not in HAS_CONDITION):
                if pairs is None:
                    pairs = PARTIALS[rule](*numbers, z)
                edges.append((n, operand, pairs[i], pairs[i + 1]))
                reached = True
        tracked.append(reached)
        n += 1
    return edges, tracked


def _check_value(rule: str, numbers: list[Any], z: float, expected: float) -> None:
    if z != z or expected != expected:
        good = z != z and expected != expected
    elif z == expected:
        good = z != 0 or rule in EITHER_ZERO or copysign(1, z) == copysign(1, expected)
    else:
        size = max(SIZES.get(rule, fabs)(*numbers) if rule in SIZES else 0.0, fabs(expected))
        good = fabs(z - expected) <= ROUNDINGS * EPS * size + TINY and isfinite(expected)
    if rule == "power" and numbers[1] == 0.5 and numbers[0] in (0.0, -inf):
        return  # numpy takes the square root, which is -0 of -0, and nan of -inf
    if not good:
        raise Mismatch(f"value of {rule}: {z!r} of {numbers}, expected {expected!r}")


def duals(edges: Sequence[Edge], leaf: int, count: int) -> tuple[float, float | None]:
    """The derivative of the last node by a leaf, and the sum of the sizes of its terms.

    The size is None where no path leads to the leaf.
    """
    t: list[float] = [0.0] * count
    a: list[float | None] = [None] * count
    t[leaf] = a[leaf] = 1.0
    for result, operand, d, size in edges:
        sofar = a[operand]
        if sofar is not None:
            t[result] += d * t[operand]
            before = a[result]
            a[result] = size * sofar if before is None else before + size * sofar
    return t[-1], a[-1]


def swept(edges: Sequence[Edge], count: int) -> list[float | None]:
    """The reverse sweep in IEEE arithmetic, as documented: zero times anything is zero."""
    g: list[float | None] = [None] * count
    g[-1] = 1.0
    for result, operand, d, _ in _sweep_order(edges):
        upstream = g[result]
        if upstream is not None:
            c = d * upstream if upstream != 0 or isfinite(d) else 0.0
            g[operand] = c if g[operand] is None else g[operand] + c
    return g


def _sweep_order(edges: Sequence[Edge]) -> list[Edge]:
    """The edges as the sweep meets them: the last result first, its operands in their order."""
    return sorted(edges, key=lambda edge: -edge[0])


def compare(
    edges: Sequence[Edge],
    count: int,
    leaf: int,
    got: float | None,
    way: str,
    tally: Counter[str],
    known: str = "",
) -> None:
    """Compare the gradient by a leaf with the oracle's.

    With `known`, a reason why infinities may differ, they are explained by it.

    Raises:
        Mismatch: they differ, and nothing explains it.
    """
    expected, size = duals(edges, leaf, count)
    if got is not None and size is not None:
        bound = ROUNDINGS * EPS * (count + 2) * size
        if fabs(got - expected) <= bound < inf:
            tally[way] += 1
            return
    _judge(edges, count, leaf, got, way, tally, known)


def _judge(
    edges: Sequence[Edge],
    count: int,
    leaf: int,
    got: float | None,
    way: str,
    tally: Counter[str],
    known: str,
) -> None:
    """What the quick comparison could not settle.

    - No path leads to the leaf: the gradient is None (or in a functional way 0).
    - The reverse sweep, or its sizes, is not finite: the gradient is its equal by IEEE.
    - All is finite: within the bound of the exact sum over all paths, taken in fractions. To the
      bound belongs what an underflow of any product may take away: half the smallest float, times
      the derivative of what it is the gradient of.
    """
    forward = way.startswith("forward")
    g = swept(edges, count)[leaf]
    if g is None:
        if got is not None and (got != 0 or way == EAGER):
            raise Mismatch(f"{way}: gradient {got!r} of a leaf that nothing depends on")
        tally[f"{way}: no path"] += 1
        return
    if got is None:
        raise Mismatch(f"{way}: no gradient of leaf {leaf}, expected {g!r}")
    if not isfinite(got) or not isfinite(g):
        order, size = _forward(edges, count, leaf) if forward else (g, 0.0)
        near = fabs(got - order) <= ROUNDINGS * EPS * (count + 2) * size < inf
        if got == order or near or (got != got and order != order):
            tally[f"{way}: infinite or nan alike"] += 1
            return
        why = known or _explanation(edges, count, leaf, forward)
        if why:
            tally[f"(explained, {way}: {why})"] += 1
            return
        raise Mismatch(f"{way}: gradient {got!r} of leaf {leaf}, expected {order!r} by IEEE")
    if not all(isfinite(d) for _, _, d, _ in edges):
        edges = _unmasked(edges, count)
    exact, bound = _exact(edges, count, leaf)
    if abs(Fraction(got) - exact) > bound:
        raise Mismatch(
            f"{way}: gradient {got!r} of leaf {leaf}, expected {_float(exact)!r} within "
            f"{_float(bound):.2g}"
        )
    tally[f"{way}: by exact fractions"] += 1


def _explanation(edges: Sequence[Edge], count: int, leaf: int, forward: bool) -> str:
    """Why rounding may decide whether a result is finite; empty if it does not.

    - An infinite gradient meets a derivative below the smallest normal number, which is one or 0.
    - An infinite derivative meets a difference of equal terms. Whether that is 0, and with it the
      product, or a rounding error, depends on the last bits of the terms.
    - A product comes so near to the largest float that its last bits decide.
    """
    relative = ROUNDINGS * EPS * (count + 2)
    turned = edges if forward else [(x, n, d, a) for n, x, d, a in _sweep_order(edges)]
    t, a = [0.0] * count, [0.0] * count
    start = leaf if forward else count - 1
    t[start] = a[start] = 1.0
    for result, operand, d, size in turned:
        if size != 0 and fabs(d) < TINY and not isfinite(t[operand]):
            return "an infinite gradient times a derivative that may underflow"
        if a[operand] and not isfinite(d) and fabs(t[operand]) <= relative * a[operand]:
            return "an infinite derivative times a difference that rounding makes"
        if t[operand] != 0 or isfinite(d):
            t[result] += d * t[operand]
            a[result] += size * a[operand]
        if fabs(fabs(t[result]) / MAX - 1) < relative:
            return "as near to the largest float as rounding comes"
    return ""


def _forward(edges: Sequence[Edge], count: int, leaf: int) -> tuple[float, float]:
    """The tangent in IEEE arithmetic, and its size: in forward mode a zero of either gives zero."""
    t, a = [0.0] * count, [0.0] * count
    t[leaf] = a[leaf] = 1.0
    for result, operand, d, size in edges:
        if t[operand] != 0 and d != 0:
            t[result] += d * t[operand]
            a[result] += size * a[operand]
    return t[-1], a[-1]


def _unmasked(edges: Sequence[Edge], count: int) -> list[Edge]:
    """The edges with a finite derivative, and of the others those that carry no zero."""
    g = swept(edges, count)
    return [edge for edge in edges if isfinite(edge[2]) or g[edge[0]] not in (0, None)]


def _exact(edges: Sequence[Edge], count: int, leaf: int) -> tuple[Fraction, Fraction]:
    """The sum over all paths, and by how much a computation in floats may miss it."""
    t, a = [Fraction(0)] * count, [Fraction(0)] * count
    t[leaf] = a[leaf] = Fraction(1)
    for result, operand, d, size in edges:
        if a[operand]:
            t[result] += Fraction(d) * t[operand]
            a[result] += Fraction(min(size, MAX)) * a[operand]
    lost = sum(a, Fraction(0)) * Fraction(SMALLEST)
    return t[-1], Fraction(ROUNDINGS * EPS * (count + 2)) * a[-1] + lost


def _float(x: Fraction) -> float:
    try:
        return float(x)
    except OverflowError:
        return inf if x > 0 else -inf


# --- the check ----------------------------------------------------------------------------------

EAGER = "eager"


def check(program: Program, tally: Counter[str]) -> None:
    """Differentiate the program and compare everything; see the module."""
    leaves = [Value(number, requires_grad=tracked) for number, tracked in program.leaves]
    nodes = execute(program, leaves)
    values = [node._data for node in nodes]
    count = len(values)
    edges, tracked = edges_of(program, values)
    if nodes[-1].requires_grad != tracked[-1]:
        raise Mismatch(f"requires_grad: {nodes[-1].requires_grad}, expected {tracked[-1]}")
    if not tracked[-1]:
        tally["skipped: a constant"] += 1
        return
    nodes[-1].backward()
    for i, leaf in enumerate(leaves):
        if leaf.rule is None:
            compare(edges, count, i, leaf._grad, EAGER, tally)
    tally["values"] += count - len(leaves)
    if not all(isfinite(z) for z in values):
        tally["(programs with a value that is not finite)"] += 1
    _check_complex_step(program, values, edges, leaves, tally)
    if program.every_way:
        _check_every_way(program, nodes, edges, tally)


def _check_complex_step(
    program: Program,
    values: Sequence[float],
    edges: Sequence[Edge],
    leaves: Sequence[Value],
    tally: Counter[str],
) -> None:
    if not all(RULE_OF[name] in COMPLEX for name, _ in program.operations):
        tally["skipped: complex step, not analytic"] += 1
        return
    uses = iter(edges)
    edge = next(uses, None)
    stepped: list[Edge] = []
    for n, (name, operands) in enumerate(program.operations, len(program.leaves)):
        if edge is None or edge[0] != n:
            continue
        rule, numbers = RULE_OF[name], tuple(_numbers(operands, values))
        for which, operand in enumerate(operands):
            if type(operand) is int and edge is not None and edge[:2] == (n, operand):
                d = complex_step(rule, numbers, which)
                if d is None:
                    tally["skipped: complex step, at an edge"] += 1
                    return
                stepped.append((n, operand, d, edge[3]))
                edge = next(uses, None)
    for i, leaf in enumerate(leaves):
        if leaf.rule is None:
            compare(stepped, len(values), i, leaf._grad, "complex step", tally)


# --- the other ways -----------------------------------------------------------------------------


def _check_every_way(
    program: Program, nodes: Sequence[Value], edges: Sequence[Edge], tally: Counter[str]
) -> None:
    values = [node._data for node in nodes]
    count, numbers = len(values), [number for number, _ in program.leaves]
    which = [i for i, (_, tracked) in enumerate(program.leaves) if tracked]

    def function(*tracked: Any) -> list[Any]:
        known = iter(tracked)
        return execute(
            program,
            [
                next(known) if is_tracked else Value(number, requires_grad=False)
                for number, is_tracked in program.leaves
            ],
        )

    def last(*tracked: Any) -> Any:
        return function(*tracked)[-1]

    at = tuple(numbers[i] for i in which)
    of_graph = tb.grad(last, tuple(range(len(at))), create_graph=True)(*at)
    for i, node in zip(which, of_graph, strict=True):
        compare(edges, count, i, float(node), "create_graph", tally)
    known = _divides_by_a_subnormal(program, values)
    for i in which:
        tangents = tuple(float(i == j) for j in which)
        value, tangent = tb.jvp(last, at, tangents)
        _same(value, values[-1], "forward mode: value")
        compare(edges, count, i, tangent, "forward mode", tally, known)
    _check_values_array(program, nodes, tally)
    _check_tensors(program, tally)
    _check_replay(program, function, at, which, tally)


def _divides_by_a_subnormal(program: Program, values: Sequence[float]) -> str:
    """Forward mode takes (x' - z y') / y whole, where the oracle has infinities to subtract."""
    for name, operands in program.operations:
        if RULE_OF[name] == "divide" and fabs(_numbers(operands, values)[1]) < TINY:
            return "a quotient by a number without a reciprocal"
    return ""


def _same(got: float, expected: float, what: str) -> None:
    if got != expected and (got == got or expected == expected):
        raise Mismatch(f"{what}: {got!r}, expected {expected!r}")


def _check_values_array(program: Program, nodes: Sequence[Value], tally: Counter[str]) -> None:
    """The leaves as arrays of one Value: the same nodes, so every bit is the same."""
    leaves = [tb.values([number], requires_grad=tracked) for number, tracked in program.leaves]
    ends = execute(program, leaves)
    for n, (end, node) in enumerate(zip(ends, nodes, strict=True)):
        _same(float(end.data[0]), node._data, f"array of Values: value {n}")
    ends[-1].sum().backward()
    for leaf, node in zip(leaves, nodes, strict=False):
        if node._grad is None or leaf[0].grad is None:
            _same(float(leaf[0].grad is None), float(node._grad is None), "array of Values: None")
        else:
            _same(leaf[0].grad, node._grad, "array of Values: gradient")
        tally["array of Values"] += 1


def _check_tensors(program: Program, tally: Counter[str]) -> None:
    leaves = [tb.Tensor(number, requires_grad=tracked) for number, tracked in program.leaves]
    nodes = execute(program, leaves)
    values = [float(node.data) for node in nodes]
    edges, _ = edges_of(program, values)
    nodes[-1].backward()
    for i, leaf in enumerate(leaves):
        if program.leaves[i][1]:
            got = None if leaf.grad is None else float(leaf.grad)
            compare(edges, len(values), i, got, "Tensor", tally)


def _check_replay(
    program: Program, function: Callable[..., Any], at: Any, which: list[int], tally: Counter[str]
) -> None:
    """Recorded at other numbers, then replayed at the program's; all values are handed out."""

    def outputs(*tracked: Any) -> tuple[Any, ...]:
        nodes = function(*tracked)
        return nodes[-1], *nodes

    compiled = tb.compile(outputs, argnums=tuple(range(len(at))))
    compiled.value_and_grad(*[1.25 for _ in at])
    (_, *found), gradients = compiled.value_and_grad(*at)
    values = [float(x) for x in found]
    edges, _ = edges_of(program, values)
    for i, gradient in zip(which, gradients, strict=True):
        compare(edges, len(values), i, float(gradient), "replay", tally)


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


def code(program: Program) -> str:
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
