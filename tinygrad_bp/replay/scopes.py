"""The scopes of a program: in which layer, in which time step an instruction was recorded.

Instructions of a scope stand one after the other, so what is kept is where a run of them begins:
nothing per instruction. What the backward pass computes for a node is in the scope of that node,
below a scope `backward`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.recording import Scope

NOWHERE = -1  # the place of what is in no scope
BACKWARD = "backward"


class Place(NamedTuple):
    """A scope: its name, its number (of a time step, or None), and the place it is in, or -1."""

    name: str
    number: int | None
    outer: int


def _none() -> NDArray[np.int32]:
    return np.zeros(0, np.int32)


@dataclass
class Scopes:
    """Where the instructions of a program were recorded.

    Attributes:
        table: the scopes; an outer one comes before those in it.
        starts: int32, increasing: the first instructions of runs that were recorded in one scope.
        places: int32: the scope of each run, a position in the table, or -1 for none. So are
            instructions before the first run.
    """

    table: list[Place] = field(default_factory=list)
    starts: NDArray[np.int32] = field(default_factory=_none)
    places: NDArray[np.int32] = field(default_factory=_none)

    def each(self, count: int) -> NDArray[np.int32]:
        """The place of each of so many instructions."""
        lengths = np.diff([0, *self.starts.tolist(), count])
        return np.repeat(np.concatenate([[NOWHERE], self.places]), lengths).astype(np.int32)

    def of_each(self, each: Any) -> Scopes:
        """The same scopes with other instructions in them, given the place of each."""
        each = np.asarray(each, np.int32)
        starts = np.flatnonzero(np.diff(each, prepend=NOWHERE))
        return Scopes(self.table, starts.astype(np.int32), each[starts])

    def path(self, place: int) -> str:
        """The names from the outermost scope inwards, joined by `/`; empty for none."""
        names = []
        while place != NOWHERE:
            name, index, place = self.table[place]
            names.append(name if index is None else f"{name}({index})")
        return "/".join(reversed(names))

    def runs(self, count: int) -> Iterator[tuple[int, int, int]]:
        """Of each run of so many instructions its start, its end and its place."""
        ends = [*self.starts.tolist(), count]
        for (start, end), place in zip(pairwise(ends), self.places.tolist(), strict=True):
            yield start, end, place


class ScopeRecorder:
    """The scopes while a program is recorded: every instruction is noted with its own."""

    def __init__(self, root: Scope) -> None:
        self.root = root
        self.table: list[Place] = []
        self.starts = array("i")
        self.places = array("i")
        self._known: dict[Place, int] = {}
        self._scope: Scope = root
        self._place = NOWHERE

    def note(self, i: int, scope: Scope | None) -> None:
        """The instruction i is recorded in a scope; where none is known, in the last one."""
        if scope is not None and scope is not self._scope:
            self._scope, self._place = scope, self._of(scope)
        self._mark(i, self._place)

    def backward(self, start: int, end: int, node: int) -> None:
        """The instructions from `start` on belong to the backward pass through a node."""
        place = self._backward(self._at(node))
        while self.starts and self.starts[-1] >= start:
            self.starts.pop()
            self.places.pop()
        if end > start:
            self._mark(start, place)

    def finished(self) -> Scopes:
        """What was noted."""
        return Scopes(self.table, np.array(self.starts, np.int32), np.array(self.places, np.int32))

    def _mark(self, i: int, place: int) -> None:
        if place != (self.places[-1] if self.places else NOWHERE):
            self.starts.append(i)
            self.places.append(place)

    def _at(self, i: int) -> int:
        run = int(np.searchsorted(np.frombuffer(self.starts, np.intc), i, "right")) - 1
        return self.places[run] if run >= 0 else NOWHERE

    def _of(self, scope: Scope) -> int:
        if scope is self.root or scope.outer is None:
            return NOWHERE
        plain = scope.index is None or type(scope.index) is int
        name, index = (scope.name, scope.index) if plain else (str(scope), None)
        return self._number(Place(name, index, self._of(scope.outer)))

    def _backward(self, place: int) -> int:
        """The same place in the scope `backward`."""
        if place == NOWHERE:
            return self._number(Place(BACKWARD, None, NOWHERE))
        name, index, outer = self.table[place]
        return self._number(Place(name, index, self._backward(outer)))

    def _number(self, place: Place) -> int:
        if place not in self._known:
            self._known[place] = len(self.table)
            self.table.append(place)
        return self._known[place]


def scopes_problem(scopes: Scopes, count: int) -> str:
    """What is wrong with the scopes of a program of so many instructions; empty if nothing is."""
    starts, places = scopes.starts, scopes.places
    if starts.shape != (len(starts),) or starts.shape != places.shape:
        return "scopes: expected as many places as starts"
    if len(starts) and (starts[0] < 0 or starts[-1] >= count or (np.diff(starts) <= 0).any()):
        return f"scopes: expected increasing starts below {count}"
    if len(places) and not (places.min() >= -1 and places.max() < len(scopes.table)):
        return "scopes: there is no such place"
    for i, place in enumerate(scopes.table):
        if not _is_place(place) or not NOWHERE <= place[2] < i:
            return f"scopes: place {i} is none"
    return ""


def _is_place(place: Sequence[Any]) -> bool:
    name, index, outer = place if len(place) == 3 else (None, None, None)
    return type(name) is str and type(outer) is int and (index is None or type(index) is int)
