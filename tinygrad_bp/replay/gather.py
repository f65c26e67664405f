"""Products of the same weights, done in one: what an unrolled network leaves to be gained.

A recurrent network multiplies by the same matrix at every step. Where the steps do not wait for one
another, their rows can be put one below the other, and multiplied at once: the weighted inputs of
all steps, forward; and backward the gradient of the weights, a sum over steps of `x.T @ g`, which
is the one product of all rows of x and all rows of g.

The sums are the same, in another order: results differ in rounding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_bp.array_rules import ARRAY_RULES
from tinygrad_bp.replay.program import Details, Guard, Program
from tinygrad_bp.replay.scopes import NOWHERE
from tinygrad_bp.rules import RULES, Rule

ADD = RULES["add"]
AT_LEAST = 3  # products to be worth gathering


class _Draft:
    """A program in the form of a list of instructions, to be changed and put in order again."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.rules: list[Any] = [program.rule(i) for i in range(len(program))]
        self.operands = [list(program.operands_of(i)) for i in range(len(program))]
        self.details: dict[int, Details] = dict(program.details)
        self.constants = dict(program.constants)
        self.shapes, self.dtypes = list(program.shapes), list(program.dtypes)
        self.places = program.scopes.each(len(program)).tolist()
        self.wanted = [*program.outputs, *(g.condition for g in program.guards)]
        self.instead: dict[int, int] = {}

    def uses(self) -> list[int]:
        """How often each instruction is used."""
        counts = [0] * len(self.rules)
        for operands in self.operands:
            for i in operands:
                counts[i] += 1
        for i in self.wanted:
            counts[i] += 1
        return counts

    def new(self, rule: Any, operands: Sequence[int], shape: Any, *parameters: Any) -> int:
        """A further instruction."""
        self.rules.append(rule)
        self.operands.append(list(operands))
        self.shapes.append(tuple(shape))
        self.dtypes.append(self.dtypes[operands[0]])
        if rule is not ADD:
            self.details[len(self.rules) - 1] = Details(tuple(operands), parameters)
        return len(self.rules) - 1

    def joined(self, rows: Sequence[int]) -> int:
        """Matrices put one below the other: where they are x[0], x[1], ..., x itself."""
        x = self._all_parts_of(rows)
        if x is not None:
            count, height, width = self.shapes[x]
            shape = (count * height, width)
            return self.new(ARRAY_RULES["reshape"], [x], shape, shape)
        height = sum(self.shapes[i][0] for i in rows)
        shape = (height, self.shapes[rows[0]][1])
        return self.new(ARRAY_RULES["concatenate"], rows, shape, 0)

    def position(self, i: int) -> int:
        """Of a part x[n] its n: backward the steps come in reverse, and are put in order by it."""
        if self.rules[i] is ARRAY_RULES["getitem"]:
            index = self.details[i].parameters[0]
            return index if isinstance(index, int) else 0
        return 0

    def _all_parts_of(self, rows: Sequence[int]) -> int | None:
        """The array of which `rows` are all the parts, in order."""
        x: int | None = None
        for n, i in enumerate(rows):
            if self.rules[i] is not ARRAY_RULES["getitem"] or self.details[i].parameters != (n,):
                return None
            (of,) = self.operands[i]
            x = of if x is None else x
            if x != of or len(self.shapes[of]) != 3 or self.shapes[of][0] != len(rows):
                return None
        return x

    def finished(self) -> Program:
        """The program, with every instruction after those it needs."""
        self.operands = [[self._final(j) for j in of] for of in self.operands]
        wanted = [self._final(i) for i in self.wanted]
        order = self._sorted(wanted)
        place = {i: n for n, i in enumerate(order)}
        rules: list[Any] = ["input", "constant"]
        codes = {"input": 0, "constant": 1}
        details = {}
        table = np.full((len(order), 3), -1, np.int32)
        for n, i in enumerate(order):
            rule, of = self.rules[i], tuple(place[j] for j in self.operands[i])
            if rule not in codes:
                codes[rule] = len(rules)
                rules.append(rule)
            if len(of) <= 3:
                table[n, : len(of)] = of
            if i in self.details:
                details[n] = Details(of, self.details[i].parameters, self.details[i].options)
            elif len(of) > 3:
                details[n] = Details(of)
        program, size = self.program, len(self.program.outputs)
        return Program(
            kind=program.kind,
            rules=rules,
            codes=np.array([codes[self.rules[i]] for i in order], np.uint16),
            operands=table,
            details=details,
            inputs=[place[i] for i in program.inputs],
            constants={place[i]: x for i, x in self.constants.items() if i in place},
            outputs=[place[i] for i in wanted[:size]],
            guards=[
                Guard(place[i], g.outcome, g.line)
                for i, g in zip(wanted[size:], program.guards, strict=True)
            ],
            shapes=[self.shapes[i] for i in order],
            dtypes=[self.dtypes[i] for i in order],
            scopes=program.scopes.of_each(self._places(order)),
            draws=program.draws,
        )

    def _places(self, order: Sequence[int]) -> list[int]:
        """The scope of each instruction; what is gathered from several is in none."""
        return [self.places[i] if i < len(self.places) else NOWHERE for i in order]

    def _final(self, i: int) -> int:
        while i in self.instead:
            i = self.instead[i]
        return i

    def _sorted(self, wanted: Sequence[int]) -> list[int]:
        order: list[int] = []
        state: dict[int, int] = {}
        stack = [*reversed(wanted), *reversed(self.program.inputs)]
        while stack:
            i = stack[-1]
            if i in state:
                stack.pop()
                if state[i] == 0:
                    state[i] = 1
                    order.append(i)
                continue
            state[i] = 0
            stack += [j for j in reversed(self.operands[i]) if j not in state]
        return order


def gathered(program: Program) -> Program:
    """The program with its products gathered."""
    draft = _Draft(program)
    _gather_gradients(draft)
    _gather_rows(draft)
    _gather_elements(draft)
    return draft.finished() if draft.instead else program  # in the order of the recording


def _gather_gradients(draft: _Draft) -> None:
    """Sums of products `x.T @ g`, and of sums of rows."""
    uses = draft.uses()
    inner = {
        j
        for i, rule in enumerate(draft.rules)
        if rule is ADD
        for j in draft.operands[i]
        if draft.rules[j] is ADD and uses[j] == 1 and draft.shapes[j] == draft.shapes[i]
    }
    known: dict[Any, int] = {}

    for i in range(len(draft.program)):
        if draft.rules[i] is not ADD or i in inner:
            continue
        terms = _terms(draft, i, inner)
        products, row_sums, rest = [], [], []
        for j in terms:
            if uses[j] == 1 and _is_transposed_product(draft, j):
                products.append(j)
            elif uses[j] == 1 and _is_sum_of_rows(draft, j):
                row_sums.append(j)
            else:
                rest.append(j)
        shape = draft.shapes[i]
        if len(products) >= AT_LEAST:
            products.sort(key=lambda j: draft.position(draft.operands[draft.operands[j][0]][0]))
            xs = [draft.operands[draft.operands[j][0]][0] for j in products]
            gs = [draft.operands[j][1] for j in products]
            x, g = _once(draft, known, xs), _once(draft, known, gs)
            turned = draft.new(ARRAY_RULES["transpose"], [x], draft.shapes[x][::-1])
            rest.append(draft.new(ARRAY_RULES["matmul"], [turned, g], shape))
        else:
            rest += products
        if len(row_sums) >= AT_LEAST:
            g = _once(draft, known, [draft.operands[j][0] for j in row_sums])
            rest.append(draft.new(ARRAY_RULES["sum"], [g], shape, (0,)))
        else:
            rest += row_sums
        if len(rest) < len(terms):
            total = rest[0]
            for j in rest[1:]:
                total = draft.new(ADD, [total, j], shape)
            draft.instead[i] = total


def _once(draft: _Draft, known: dict[Any, int], rows: list[int]) -> int:
    """The same rows are put together once."""
    if tuple(rows) not in known:
        known[tuple(rows)] = draft.joined(rows)
    return known[tuple(rows)]


def _terms(draft: _Draft, i: int, inner: set[int]) -> list[int]:
    """What a tree of additions adds up, from left to right."""
    terms, stack = [], [i]
    while stack:
        j = stack.pop()
        if j == i or j in inner:
            stack += reversed(draft.operands[j])
        else:
            terms.append(j)
    return terms


def _is_transposed_product(draft: _Draft, i: int) -> bool:
    if draft.rules[i] is not ARRAY_RULES["matmul"]:
        return False
    x, g = draft.operands[i]
    return (
        draft.rules[x] is ARRAY_RULES["transpose"]
        and draft.details[x].parameters in ((), (None,))
        and len(draft.shapes[x]) == len(draft.shapes[g]) == 2
    )


def _is_sum_of_rows(draft: _Draft, i: int) -> bool:
    if not draft.operands[i] or len(draft.shapes[draft.operands[i][0]]) != 2:
        return False
    if draft.rules[i] is ARRAY_RULES["reshape"]:  # the sum of a single row
        return draft.shapes[draft.operands[i][0]] == (1, *draft.shapes[i])
    if draft.rules[i] is not ARRAY_RULES["sum"]:
        return False
    detail = draft.details[i]
    given = (*detail.parameters, *detail.options.values())
    return given in (((0,),), (0,), ((0,), False), (0, False))


def _gather_rows(draft: _Draft) -> None:
    """Products of different rows with the same matrix, which do not wait for one another."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for i in range(len(draft.program)):
        rule = draft.rules[i]
        if rule in (ARRAY_RULES["matmul"], ARRAY_RULES["linear"]):
            x, *weights = draft.operands[i]
            if len(draft.shapes[x]) == len(draft.shapes[weights[0]]) == 2:
                key = (rule, tuple(map(draft._final, weights)), draft.shapes[x][1], draft.dtypes[x])
                groups[key].append(i)
    for (rule, weights, _, _), members in groups.items():
        lefts = [draft.operands[i][0] for i in members]
        if len(members) < AT_LEAST or len(set(lefts)) < len(lefts):
            continue
        if _any_needs(draft, [*lefts, *weights], set(members)):
            continue
        x = draft.joined(lefts)
        height = draft.shapes[x][0]
        product = draft.new(rule, [x, *weights], (height, draft.shapes[members[0]][1]))
        start = 0
        for i in members:
            stop = start + draft.shapes[i][0]
            part = draft.new(ARRAY_RULES["getitem"], [product], draft.shapes[i], slice(start, stop))
            draft.instead[i] = part
            start = stop


def _gather_elements(draft: _Draft) -> None:
    """Functions of the elements of different rows, which do not wait for one another.

    One pass takes the functions of functions as well: the parts of a gathered result, put together
    again, are the result itself.
    """
    whole: dict[tuple[int, ...], int] = {}
    groups: dict[Any, list[int]] = defaultdict(list)
    for i in range(len(draft.program)):
        rule = draft.rules[i]
        if isinstance(rule, Rule) and i not in draft.instead and len(draft.shapes[i]) == 2:
            groups[(rule, draft.shapes[i], draft.dtypes[i])].append(i)
    for (rule, shape, _), members in groups.items():
        if len(members) < AT_LEAST or shape[0] * shape[1] > 4096:
            continue
        columns = []
        for k in range(rule.arity):
            column = [draft._final(draft.operands[i][k]) for i in members]
            if all(draft.shapes[j] == shape for j in column) and len(set(column)) == len(column):
                columns.append(column)
            elif len(set(column)) == 1 and draft.shapes[column[0]] == ():
                columns.append(column[:1])
            else:
                break
        if len(columns) < rule.arity or all(len(c) == 1 for c in columns):
            continue
        if _any_needs(draft, [j for column in columns for j in column], set(members)):
            continue
        joined = []
        for column in columns:
            if len(column) == 1:
                joined.append(column[0])
            else:
                if tuple(column) not in whole:
                    whole[tuple(column)] = draft.joined(column)
                joined.append(whole[tuple(column)])
        height = shape[0] * len(members)
        result = draft.new(rule, joined, (height, shape[1]))
        draft.dtypes[result] = draft.dtypes[members[0]]  # which of `where` is not the condition's
        if rule is not ADD:
            del draft.details[result]
        parts = []
        for n, i in enumerate(members):
            index = slice(n * shape[0], (n + 1) * shape[0])
            part = draft.new(ARRAY_RULES["getitem"], [result], shape, index)
            draft.instead[i] = part
            parts.append(part)
        whole[tuple(parts)] = result


def _any_needs(draft: _Draft, starts: Sequence[int], results: set[int]) -> bool:
    """Whether one of `starts` is computed from one of `results`."""
    seen: set[int] = set()
    stack = [draft._final(i) for i in starts]
    results = results | {draft._final(i) for i in results}
    while stack:
        i = stack.pop()
        if i in results:
            return True
        if i not in seen:
            seen.add(i)
            stack += [draft._final(j) for j in draft.operands[i]]
    return False
