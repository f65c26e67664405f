"""What many instructions give as one array: had whole where it is whole already.

For every step of a loop its own operand: these are most often what an earlier loop gave in its
steps, or the parts x[t] of one array. Then they need not be put together one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

from tinygrad_bp.replay.steps import Rolled

FEW = 8  # pieces


class Stacked(NamedTuple):
    """What an instruction of a loop gave in some of its steps."""

    loop: int
    slot: int
    which: tuple[int, ...]


class Sliced(NamedTuple):
    """Parts of an array, from some starts on; see `Part`."""

    whole: int
    axis: int
    width: int
    which: tuple[int, ...]


class Constants(NamedTuple):
    """Constants, by number."""

    which: tuple[int, ...]


class Inputs(NamedTuple):
    """Inputs, by position."""

    which: tuple[int, ...]


class Singles(NamedTuple):
    """Instructions that are none of these, by number."""

    which: tuple[int, ...]


Segment = Stacked | Sliced | Constants | Inputs | Singles


class Column(NamedTuple):
    """Segments one below the other, and the order in which their rows are then to be taken."""

    segments: list[Segment]
    order: tuple[int, ...] | None = None


def column(rolled: Rolled, numbers: Sequence[int], inputs: dict[int, int]) -> Column:
    """Where the results of instructions are to be had from.

    Args:
        rolled: the program.
        numbers: the instructions.
        inputs: the positions of the program's inputs, by instruction.
    """
    items = [_located(rolled, int(i), inputs) for i in numbers]
    joined = [_together(list(same)) for _, same in groupby(items, _source)]
    return Column(joined) if len(joined) <= FEW else _sorted(items)


def _sorted(items: Sequence[Segment]) -> Column:
    """One segment for each source, and the way back."""
    groups: dict[Any, list[int]] = {}
    for k, item in enumerate(items):
        groups.setdefault(_source(item), []).append(k)
    joined = [_together([items[k] for k in members]) for members in groups.values()]
    places = {k: n for n, k in enumerate(k for members in groups.values() for k in members)}
    return Column(joined, tuple(places[k] for k in range(len(items))))


def _source(segment: Segment) -> Any:
    return type(segment), segment[:-1]


def _together(items: Sequence[Segment]) -> Segment:
    """Segments of one source as one."""
    return items[0]._replace(which=tuple(k for item in items for k in item.which))


def _located(rolled: Rolled, i: int, inputs: dict[int, int]) -> Segment:
    if i in rolled.parts:
        part = rolled.parts[i]
        return Sliced(part.whole, part.axis, part.width, (part.start,))
    loop, step, slot = rolled.place[i].tolist()
    if loop >= 0 and slot in rolled.loops[loop].stacked:
        return Stacked(loop, slot, (step,))
    if rolled.program.codes[i] == 1:
        return Constants((i,))
    return Inputs((inputs[i],)) if i in inputs else Singles((i,))
