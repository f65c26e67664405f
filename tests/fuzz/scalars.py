"""Random programs of single numbers, against derivatives from the books, chained two ways.

A program is leaves and 1 to 40 operations; its last result is differentiated. The oracle
(`derivations`, summed over all paths in `paths`) is fed with the engine's own forward values, each
of which is itself compared with the operation of the operands' values. So an ill-conditioned
program is no mismatch, and no error hides behind it. For every program:

- each forward value: the operation by Python's `math`; zeros have their sign;
- the gradient by each leaf: dual numbers, one pass per leaf, within
  `ROUNDINGS * EPS * (operations + 2) * sum |terms|`. The sum of |terms| over all paths is computed
  by the same duals with the sizes of the derivatives: each factor of a term is wrong by ROUNDINGS
  at most, and a path has no more factors and sums than there are operations;
- where that fails, or something is not finite: the same derivatives in exact fractions, and in a
  reverse sweep written out. See `paths.compare`: a difference counts as explained, and is counted,
  where exact arithmetic shows an underflow or overflow of the order in which factors are taken;
- if all operations are analytic, the gradient by a complex step of each operation.

One program in `ONE_IN` is also run as a function whose gradient is nodes (`create_graph`), in
forward mode, on `Tensor`s without dimensions, on an array of Values, and recorded and replayed.

What the gradient is where it is not finite: the product of the chain rule is 0 where the gradient
of the result is 0, whatever the derivative is (a branch that was not chosen gives no nan). All
else is IEEE arithmetic in the order of the sweep: infinities and nan are equal or a mismatch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from math import copysign, isfinite
from random import Random
from typing import Any

import tinygrad_bp as tb
from tinygrad_bp.value import Value

from . import Mismatch, scalar_programs
from .derivations import COMPLEX, complex_step
from .paths import EAGER, Edge, compare, edges_of
from .scalar_programs import RULE_OF, Program, execute, numbers_of

CHUNK = 2000


def generate(random: Random) -> Program:
    return scalar_programs.make(random)


def smaller(program: Program) -> Iterator[Program]:
    yield from scalar_programs.smaller(program)


def code(program: Program) -> str:
    return scalar_programs.source(program)


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
        rule, numbers = RULE_OF[name], tuple(numbers_of(operands, values))
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
    for i in which:
        tangents = tuple(float(i == j) for j in which)
        value, tangent = tb.jvp(last, at, tangents)
        _same(value, values[-1], "forward mode: value")
        compare(edges, count, i, tangent, "forward mode", tally)
    _check_values_array(program, nodes, tally)
    _check_tensors(program, tally)
    _check_replay(program, function, at, which, tally)


def _same(got: float, expected: float, what: str) -> None:
    """Raise unless they are the same bits, where one nan is like another."""
    same = got == expected and copysign(1.0, got) == copysign(1.0, expected)
    if not same and (got == got or expected == expected):
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
        try:
            compare(edges, len(values), i, float(gradient), "replay", tally)
        except Mismatch:
            way = "replay, equal operations one"
            compare(*_merged(program, edges), i, float(gradient), way, Counter())
            tally["(explained, replay: equal operations are one)"] += 1


def _merged(program: Program, edges: Sequence[Edge]) -> tuple[list[Edge], int]:
    """The edges of the program whose equal operations are one, and the number of its nodes.

    So a replay has it. A sum that such a node is handed is multiplied as a whole: of x / x, where x
    has an infinite derivative, 0 times that, and not the difference of two infinities.
    """
    place = list(range(len(program.leaves)))
    first: dict[Any, int] = {}

    def put(operand: Any) -> Any:
        if type(operand) is tuple:
            return (operand[0], *map(put, operand[1:]))
        return place[operand] if type(operand) is int else repr(operand)

    for n, (name, operands) in enumerate(program.operations, len(place)):
        place.append(first.setdefault((RULE_OF[name], *map(put, operands)), n))
    kept = [(n, place[x], d, size) for n, x, d, size in edges if place[n] == n <= place[-1]]
    return kept, place[-1] + 1
