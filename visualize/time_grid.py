"""Where the boxes of an unrolled graph stand in time: a column for each step, rows of quantities.

A quantity has the same row, and the same slot in it, at every step. Rows are found from the steps
laid on top of one another: a quantity stands below all that it is computed from at its own step.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from .scene import Box, Scene

GIVEN, BEFORE, AFTER = "given", "before", "after"  # columns that are no steps
Column = int | str

_LAYER = re.compile(r"^(.*?\d)(?:/|$)")


class Grid(NamedTuple):
    """The places of boxes, in columns, rows and slots.

    Attributes:
        columns: in their order: parameters, what is computed before, the steps, and what after.
        cells: for each box its column's place in `columns`, its row, and its slot in the row. Those
            of the column of parameters are in no row: -1.
        rows: how many.
        cuts: places of columns at whose beginning the past was cut off: a state was detached.
        bands: of layers on top of one another, the first and last row and the name.
    """

    columns: tuple[Column, ...]
    cells: tuple[tuple[int, int, int], ...]
    rows: int
    cuts: tuple[int, ...]
    bands: tuple[tuple[int, int, str], ...]


def is_unrolled(scene: Scene) -> bool:
    """Whether the boxes have steps, and later ones use earlier ones."""
    boxes = scene.boxes
    for edge in scene.edges:
        source, target = boxes[edge.source], boxes[edge.target]
        if source.step is not None and target.step is not None and source.step < target.step:
            return True
    return False


def grid_of(scene: Scene) -> Grid:
    """The places of a scene's boxes in time.

    Raises:
        ValueError: no box has a time step.
    """
    column = _columns(scene)
    steps = sorted({c for c in column if isinstance(c, int)})
    if not steps:
        raise ValueError(
            "draw: layout='time' needs time steps: make them by nn.unroll(), or within `with "
            "tb.scope('step', t):`"
        )
    order: list[Column] = [GIVEN, BEFORE, *steps, AFTER]
    columns = tuple(c for c in order if c in set(column))
    keys = _keys(scene, column)
    inner = [e for e in scene.edges if column[e.source] == column[e.target] != GIVEN]
    outer = [(keys[e.source], keys[e.target]) for e in scene.edges if column[e.target] == AFTER]
    rows = _rows(len(scene.boxes), [(keys[e.source], keys[e.target]) for e in inner] + outer, keys)
    if rows is None:  # what comes first differs from step to step
        keys = list(range(len(scene.boxes)))
        rows = _rows(len(keys), [(e.source, e.target) for e in inner], keys) or {}
    slots = _slots(scene, column, keys, rows)
    cells = tuple(
        (columns.index(c), -1, 0) if c == GIVEN else (columns.index(c), rows[k], slots[k])
        for c, k in zip(column, keys, strict=True)
    )
    cuts = sorted(columns.index(c) for c in _cuts(scene.boxes, column, steps))
    bands = _bands(scene.boxes, cells)
    return Grid(columns, cells, 1 + max(rows.values()), tuple(cuts), bands)


def _cuts(boxes: Sequence[Box], column: Sequence[Column], steps: Sequence[int]) -> set[int]:
    """The steps that use a state of an earlier one as a constant: it was detached.

    The state 0 is the beginning, if there is nothing before.
    """
    states = {box.quantity for box in boxes if box.step is not None}
    return {
        c
        for box, c in zip(boxes, column, strict=True)
        if isinstance(c, int) and box.was_step is not None and box.quantity in states
        if box.was_step < c and (box.was_step > 0 or steps[0] < c)
    }


def _columns(scene: Scene) -> list[Column]:
    boxes = scene.boxes
    is_computed = [False] * len(boxes)
    column: list[Column | None] = [None] * len(boxes)
    for edge in scene.edges:
        is_computed[edge.target] = True
    for i, box in enumerate(boxes):
        if is_computed[i]:
            column[i] = BEFORE if box.step is None else box.step
    for edge in scene.edges:  # sorted by target, so that operands come first
        source, target = column[edge.source], column[edge.target]
        if target == BEFORE and source not in (None, BEFORE):
            column[edge.target] = AFTER
    users: dict[int, set[Column | None]] = defaultdict(set)
    for edge in scene.edges:
        users[edge.source].add(column[edge.target])
    for i, box in enumerate(boxes):
        if not is_computed[i]:
            column[i] = _column_of_given(box, users[i])
    return [GIVEN if c is None else c for c in column]


def _column_of_given(box: Box, users: set[Column | None]) -> Column | None:
    """A constant stands by its user; a leaf to the left, where its lines begin."""
    if len(users) == 1:
        (user,) = users
        if box.kind == "constant" or user in (BEFORE, AFTER):
            return user
    return GIVEN


# --- rows and slots -----------------------------------------------------------------------------


def _keys(scene: Scene, column: Sequence[Column]) -> list[int]:
    """A number for each box, the same at every step: by its name, else by what it is used for."""
    uses: dict[int, tuple[int, int]] = {}
    operand: dict[int, int] = defaultdict(int)
    for edge in scene.edges:
        k = operand[edge.target]
        operand[edge.target] += 1
        if column[edge.source] == column[edge.target]:
            uses.setdefault(edge.source, (edge.target, k))
    numbers: dict[Any, int] = {}
    seen: dict[Any, int] = defaultdict(int)
    keys = [0] * len(scene.boxes)
    for i in reversed(range(len(scene.boxes))):
        box, where = scene.boxes[i], column[i]
        is_step = isinstance(where, int)
        if not is_step:
            key: Any = ("alone", i)
        elif not box.label and i in uses:
            user, k = uses[i]
            key = ("operand", keys[user], k, box.quantity)
        else:
            key = (box.layer, box.quantity, box.kind)
            seen[where, key] += 1
            key = (*key, seen[where, key])
        keys[i] = numbers.setdefault(key, len(numbers))
    return keys


def _rows(
    size: int, pairs: Iterable[tuple[int, int]], keys: Sequence[int]
) -> dict[int, int] | None:
    """The row of each key: below those it is computed from; None if they stand in a circle."""
    before: dict[int, set[int]] = defaultdict(set)
    after: dict[int, set[int]] = defaultdict(set)
    for source, target in pairs:
        before[target].add(source)
        after[source].add(target)
    rows = dict.fromkeys(keys, 0)
    waiting = {key: len(before[key]) for key in rows}
    ready = [key for key in rows if not waiting[key]]
    for key in ready:
        for other in sorted(after[key]):
            rows[other] = max(rows[other], rows[key] + 1)
            waiting[other] -= 1
            if not waiting[other]:
                ready.append(other)
    if len(ready) < len(rows):
        return None
    for key in reversed(ready):  # what is given, or hardly more, stands by its first user
        if after[key] and not any(before[other] for other in before[key]):
            rows[key] = min(rows[other] for other in after[key]) - 1
    return rows


def _slots(
    scene: Scene, column: Sequence[Column], keys: Sequence[int], rows: dict[int, int]
) -> dict[int, int]:
    """The slot of each key in its row. What the next step uses stands to the right."""
    position: dict[int, int] = {}
    leans: dict[int, int] = defaultdict(int)
    before: dict[int, list[int]] = defaultdict(list)
    for edge in scene.edges:
        a, b = column[edge.source], column[edge.target]
        if a == b:
            before[keys[edge.target]].append(keys[edge.source])
            position.setdefault(keys[edge.source], len(position))
        elif isinstance(a, int) and isinstance(b, int):
            leans[keys[edge.source]] = 1
            leans[keys[edge.target]] = leans[keys[edge.target]] or -1
    members: dict[int, list[int]] = defaultdict(list)
    for key in dict.fromkeys(keys):
        members[rows[key]].append(key)
    slots: dict[int, int] = {}

    def place(key: int) -> tuple[float, float, int]:
        above = [slots[k] for k in before[key] if k in slots]
        middle = sum(above) / len(above) if above else 0.0
        return leans[key], middle, position.get(key, len(position))

    stands: dict[int, set[Column]] = defaultdict(set)
    what: dict[int, tuple[str, bool]] = {}
    for key, where, box in zip(keys, column, scene.boxes, strict=True):
        stands[key].add(where)
        what[key] = box.symbol, box.kind == "inner"
    for row in sorted(members):
        taken: list[tuple[tuple[str, bool], set[Column]]] = []  # of each slot, and in which columns
        for key in sorted(members[row], key=place):
            free = (s for s, (w, t) in enumerate(taken) if w == what[key] and not t & stands[key])
            slot = next(free, len(taken))
            if slot == len(taken):
                taken.append((what[key], set()))
            taken[slot][1].update(stands[key])
            slots[key] = slot
    return slots


def _bands(
    boxes: Sequence[Box], cells: Sequence[tuple[int, int, int]]
) -> tuple[tuple[int, int, str], ...]:
    """Numbered layers whose rows do not mix, if there are several."""
    rows: dict[str, list[int]] = defaultdict(list)
    for box, (_, row, _) in zip(boxes, cells, strict=True):
        match = _LAYER.match(box.layer)
        if match and box.step is not None and row >= 0:
            rows[match[1]].append(row)
    spans = sorted((min(each), max(each), name) for name, each in rows.items())
    is_mixed = any(a[1] >= b[0] for a, b in itertools.pairwise(spans))
    return () if len(spans) < 2 or is_mixed else tuple(spans)
