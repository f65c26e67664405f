"""What many instructions give as one array: had whole where it is whole already.

For every step of a loop its own operand: these are most often what an earlier loop gave in its
steps, or the parts x[t] of one array. Then they need not be put together one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tinygrad_bp.replay.steps import Part, Rolled


class Stacked(NamedTuple):
    """What a loop gave in some of its steps."""

    loop: int
    slot: int
    steps: tuple[int, ...]


class Sliced(NamedTuple):
    """Parts of an array that follow one another, forward or (step -1) backward."""

    part: Part
    length: int
    step: int


class Constants(NamedTuple):
    """Constants, by number."""

    numbers: tuple[int, ...]


class Inputs(NamedTuple):
    """Inputs, by position."""

    positions: tuple[int, ...]


class Single(NamedTuple):
    """One instruction that is none of these."""

    number: int


Segment = Stacked | Sliced | Constants | Inputs | Single


def segments(rolled: Rolled, numbers: Sequence[int], inputs: dict[int, int]) -> list[Segment]:
    """Where the results of instructions are to be had from, in order.

    Args:
        rolled: the program.
        numbers: the instructions.
        inputs: the positions of the program's inputs, by instruction.
    """
    items = [_located(rolled, int(i), inputs) for i in numbers]
    return list(_joined(items))


def _located(rolled: Rolled, i: int, inputs: dict[int, int]) -> Segment:
    if i in rolled.parts:
        return Sliced(rolled.parts[i], 1, 1)
    loop, step, slot = rolled.place[i].tolist()
    if loop >= 0 and slot in rolled.loops[loop].stacked:
        return Stacked(loop, slot, (step,))
    if rolled.program.codes[i] == 1:
        return Constants((i,))
    return Inputs((inputs[i],)) if i in inputs else Single(i)


def _joined(items: Sequence[Segment]) -> Iterator[Segment]:
    sofar: Segment | None = None
    for item in items:
        both = None if sofar is None else _together(sofar, item)
        if both is None:
            if sofar is not None:
                yield sofar
            both = item
        sofar = both
    if sofar is not None:
        yield sofar


def _together(x: Any, y: Any) -> Segment | None:
    """A segment and the single one that follows it as one; None if they are apart."""
    if type(x) is not type(y):
        return None
    if isinstance(x, Constants):
        return Constants(x.numbers + y.numbers)
    if isinstance(x, Inputs):
        return Inputs(x.positions + y.positions)
    if isinstance(x, Stacked) and (x.loop, x.slot) == (y.loop, y.slot):
        return x._replace(steps=x.steps + y.steps)
    if isinstance(x, Sliced) and x.part._replace(start=0) == y.part._replace(start=0):
        step = _direction(x, y.part.start - x.part.start, x.part.width or 1)
        return x._replace(length=x.length + 1, step=step) if step else None
    return None


def _direction(x: Sliced, distance: int, width: int) -> int:
    """Forward or backward (1, -1), if what follows is as far away as the next one is; else 0."""
    if x.length == 1:
        return {width: 1, -width: -1}.get(distance, 0)
    return x.step if distance == x.step * x.length * width else 0
