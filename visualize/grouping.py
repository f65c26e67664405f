"""Boxes that stand for many nodes: collapsed scopes, and arrays of elements.

Every thing has a key, and those of one key are drawn as one box. What is used by one such box alone
(a layer's weights, a constant) is inside it. Boxes must not come before and after one another: a
scope that was entered twice, with something of another in between, is a box for each time.

Keys are numbers in arrays, so that a large graph can be tried in several ways.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.graph import Node
from tinygrad_bp.recording import Scope

from .things import Thing, label_of, scope_of

Collapse = int | Sequence[str] | None
Keys = NDArray[np.int64]  # per thing the number of a key, -1 for none
DEEP = 1_000_000  # a level below all scopes

_ELEMENT = re.compile(r"^(.+)\[([0-9]{1,18}(?:, ?[0-9]{1,18})*)\]$", re.DOTALL)


class Unit(NamedTuple):
    """What becomes a box: a thing, or all things of one key.

    Attributes:
        members: their places, in order.
        key: that of a group: its kind (`"scope"`, `"fold"`, `"elements"`), a name, and more; None
            for a single thing.
    """

    members: tuple[int, ...]
    key: Any


class Use(NamedTuple):
    """Uses of a unit by another: the first of them, and how many there are, `times`."""

    source: int
    target: int
    thing: int
    operand: int
    times: int


class Folded(NamedTuple):
    """For each thing the level of the scope that is folded, and the number of its key; or -1."""

    levels: Keys
    keys: Keys
    names: list[Any]


def chain_of(scope: Scope) -> list[Scope]:
    """A scope and those around it, from the outermost inwards, without the root."""
    chain: list[Scope] = []
    while scope.outer is not None:
        chain.append(scope)
        scope = scope.outer
    return chain[::-1]


def element_of(content: Any) -> tuple[str, tuple[int, ...]] | None:
    """The array that a Value called `W[0, 2]` belongs to, and its index there."""
    if hasattr(content, "shape"):
        return None
    match = _ELEMENT.match(label_of(content))
    return match and (match[1], tuple(int(n) for n in match[2].split(",")))


def _level(chain: Sequence[Scope], collapse: Collapse, outer: Collection[str]) -> int | None:
    """Which scope of a chain is drawn as one box, given those that have others within them."""
    if collapse is None or not chain:
        return None
    if isinstance(collapse, int):
        if len(chain) >= collapse:
            return collapse - 1
        return None if chain[-1].path in outer else len(chain) - 1
    for level, scope in enumerate(chain):
        if any(scope.path == pattern or fnmatchcase(scope.path, pattern) for pattern in collapse):
            return level
    return None


class Grouping:
    """The ways to draw a graph in fewer boxes than it has things."""

    def __init__(self, things: Sequence[Thing]) -> None:
        self.things = things
        numbers: dict[int, int] = {}
        self.scopes: list[list[Scope]] = []
        scope = np.full(len(things), -1)
        for i, thing in enumerate(things):
            if thing.operands:
                own = scope_of(thing.content)
                if id(own) not in numbers:
                    numbers[id(own)] = len(self.scopes)
                    self.scopes.append(chain_of(own))
                scope[i] = numbers[id(own)]
        self.scope: Keys = scope
        self.outer = {scope.path for chain in self.scopes for scope in chain[:-1]}
        self.depth = max(map(len, self.scopes), default=0)
        self.source = np.array([j for thing in things for j in thing.operands], np.int64)
        counts = np.array([len(thing.operands) for thing in things], np.int64)
        self.target: Keys = np.repeat(np.arange(len(things)), counts)
        self.element, self.arrays = self._elements()

    def _elements(self) -> tuple[Keys, list[Any]]:
        """The array that each node called like an element is one of."""
        found: Keys = np.full(len(self.things), -1)
        arrays: dict[Any, int] = {}
        seen: Counter[str] = Counter()
        for i, thing in enumerate(self.things):
            content = thing.content
            if not isinstance(content, Node) or not content.requires_grad or not content.label:
                continue
            element = element_of(content)
            if element is not None:
                label = label_of(content)
                seen[label] += 1  # two arrays may have one name
                turn = thing.use or seen[label]
                key = ("elements", element[0], turn)
                found[i] = arrays.setdefault((*key, thing.operands == ()), len(arrays))
        return found, list(arrays)

    def keys(
        self,
        collapse: Collapse,
        folded: Folded | None,
        by_entry: frozenset[Any] = frozenset(),
    ) -> tuple[Keys, list[Any]]:
        """The number of the key of each thing, and what the keys are.

        Args:
            collapse: at which scopes, see `draw`.
            folded: what is folded.
            by_entry: keys of scopes that are a box for every time they were entered.
        """
        names: dict[Any, int] = {}
        table, levels = [-1], [DEEP]  # the last is that of what has no scope
        for chain in self.scopes:
            level = _level(chain, collapse, self.outer)
            if level is None:
                table.append(-1)
                levels.append(DEEP)
                continue
            key: Any = ("scope", chain[level].path)
            key = (*key, id(chain[level])) if key in by_entry else key
            table.append(names.setdefault(key, len(names)))
            levels.append(level)
        keys: Keys = np.array(table)[self.scope + 1]
        all_names = list(names)
        if folded is not None:
            is_outer = (folded.keys >= 0) & (folded.levels <= np.array(levels)[self.scope + 1])
            keys = np.where(is_outer, folded.keys + len(all_names), keys)
            all_names += folded.names
        if all_names:
            keys = self._with_operands(keys, len(all_names))
        return keys, [*all_names, *self.arrays]

    def _with_operands(self, keys: Keys, count: int) -> Keys:
        """With leaves and constants in their only user's box, and elements in their array's."""
        low, high = np.full(len(keys), DEEP * DEEP), np.full(len(keys), -1)
        np.minimum.at(low, self.source, keys[self.target])
        np.maximum.at(high, self.source, keys[self.target])
        keys = np.where((self.scope < 0) & (low == high), high, keys)
        return np.where((keys < 0) & (self.element >= 0), self.element + count, keys)

    def grouped(self, collapse: Collapse, folded: Folded | None) -> tuple[list[Unit], list[Use]]:
        """Units, each after those it uses, and their uses.

        Scopes that stand in a circle are boxes by entry, and if need be none at all.
        """
        by_entry: frozenset[Any] = frozenset()
        broken: set[Any] = set()
        while True:
            keys, names = self.keys(collapse, folded, by_entry)
            if broken:
                is_broken = np.array([name in broken for name in names] + [False])
                keys = np.where(is_broken[keys], -1, keys)
            result = self._units(keys, names)
            if not isinstance(result, set):
                return result
            fresh = {key for key in result if key[0] == "scope" and len(key) == 2}
            by_entry |= fresh
            if not fresh:
                broken |= result

    def _units(self, keys: Keys, names: list[Any]) -> tuple[list[Unit], list[Use]] | set[Any]:
        """Units and uses; or the keys that stand in a circle."""
        sizes = np.bincount(keys[keys >= 0], minlength=len(names) + 1)
        keys = np.where((keys >= 0) & (sizes[keys] == 1), -1, keys)  # one alone is no group
        groups: dict[int, list[int]] = defaultdict(list)
        for i, key in enumerate(keys.tolist()):
            groups[key if key >= 0 else -1 - i].append(i)
        members = list(groups.values())
        unit: Keys = np.zeros(len(keys), np.int64)
        for u, each in enumerate(members):
            unit[each] = u
        uses = self._uses(unit, keys)
        order = _order(len(members), uses, [each[-1] for each in members])
        named = [names[key] if key >= 0 else None for key in groups]
        if len(order) < len(members):
            backwards = [use._replace(source=use.target, target=use.source) for use in uses]
            free = {*order, *_order(len(members), backwards, [0] * len(members))}
            return {named[u] for u in set(range(len(members))) - free} - {None}
        place = {u: p for p, u in enumerate(order)}
        units = [Unit(tuple(members[u]), named[u]) for u in order]
        moved = [use._replace(source=place[use.source], target=place[use.target]) for use in uses]
        return units, sorted(moved, key=lambda use: (use.target, use.thing, use.operand))

    def _uses(self, unit: Keys, keys: Keys) -> list[Use]:
        """The uses of units by others: between two things each by itself, else one for all."""
        uses: list[Use] = []
        merged: dict[tuple[int, int], int] = {}
        starts = np.searchsorted(self.target, self.target)
        for e in np.nonzero(unit[self.source] != unit[self.target])[0].tolist():
            i, j = int(self.target[e]), int(self.source[e])
            ends = int(unit[j]), int(unit[i])
            if keys[i] < 0 and keys[j] < 0:
                uses.append(Use(*ends, i, e - int(starts[e]), 1))
            elif ends in merged:
                n = merged[ends]
                uses[n] = uses[n]._replace(times=uses[n].times + 1)
            else:
                merged[ends] = len(uses)
                uses.append(Use(*ends, i, e - int(starts[e]), 1))
        return uses


def count(keys: Keys) -> int:
    """How many boxes there would be."""
    return int(np.sum(keys < 0)) + len(np.unique(keys[keys >= 0]))


def _order(size: int, uses: Sequence[Use], rank: Sequence[int]) -> list[int]:
    """A topological order of units, the one closest to their ranks; incomplete with circles."""
    after: list[list[int]] = [[] for _ in range(size)]
    waiting = [0] * size
    for use in uses:
        after[use.source].append(use.target)
        waiting[use.target] += 1
    ready = [(rank[u], u) for u in range(size) if not waiting[u]]
    heapq.heapify(ready)
    order = []
    while ready:
        _, u = heapq.heappop(ready)
        order.append(u)
        for v in after[u]:
            waiting[v] -= 1
            if not waiting[v]:
                heapq.heappush(ready, (rank[v], v))
    return order
