"""Boxes that stand for many nodes: collapsed scopes, and arrays of elements.

Every thing has a key, and those of one key are drawn as one box. What is used by one such box alone
(a layer's weights, a constant) is inside it. Boxes must not come before and after one another: a
scope that was entered twice, with something of another in between, is a box for each time.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from tinygrad_bp.recording import Scope

from .things import Thing, kind_of, label_of, scope_of

Keys = list[Hashable | None]
Collapse = int | Sequence[str] | None

_ELEMENT = re.compile(r"^(.+)\[(\d+(?:, ?\d+)*)\]$", re.DOTALL)


class Unit(NamedTuple):
    """What becomes a box: a thing, or all things of one key.

    Attributes:
        members: their places, in order.
        key: that of a group: a pair of its kind (`"scope"`, `"fold"`, `"elements"`) and a name;
            None for a single thing.
    """

    members: tuple[int, ...]
    key: Any


class Use(NamedTuple):
    """Uses of a unit by another: the first of them, and how many there are."""

    source: int
    target: int
    thing: int
    operand: int
    count: int


def chain_of(scope: Scope) -> list[Scope]:
    """A scope and those around it, from the outermost inwards, without the root."""
    chain: list[Scope] = []
    while scope.outer is not None:
        chain.append(scope)
        scope = scope.outer
    return chain[::-1]


def depth_of(things: Sequence[Thing]) -> int:
    """How deep the scopes are nested."""
    scopes = {id(s): s for s in (scope_of(thing.content) for thing in things)}
    return max((len(chain_of(scope)) for scope in scopes.values()), default=0)


def level_of(chain: Sequence[Scope], collapse: Collapse) -> int | None:
    """Which scope of a chain is drawn as one box; None if none is."""
    if collapse is None:
        return None
    if isinstance(collapse, int):
        return collapse - 1 if len(chain) >= collapse else None
    for level, scope in enumerate(chain):
        if any(scope.path == pattern or fnmatchcase(scope.path, pattern) for pattern in collapse):
            return level
    return None


def keys_of(
    things: Sequence[Thing],
    collapse: Collapse,
    folded: Callable[[int], tuple[int, Hashable] | None] = lambda i: None,
    by_entry: frozenset[Any] = frozenset(),
) -> Keys:
    """The key of each thing; None for those that are drawn by themselves.

    Args:
        things: as from `things_of`.
        collapse: at which scopes, see `draw`.
        folded: for the place of a thing, the level of the scope that is folded and its key.
        by_entry: keys of scopes that are a box for every time they were entered.
    """
    cache: dict[int, tuple[int, Hashable] | None] = {}
    keys: Keys = [None] * len(things)
    for i, thing in enumerate(things):
        if not thing.operands:
            continue
        scope = scope_of(thing.content)
        if id(scope) not in cache:
            cache[id(scope)] = _scope_key(scope, collapse, by_entry)
        found, fold = cache[id(scope)], folded(i)
        if fold is not None and (found is None or fold[0] <= found[0]):
            found = fold
        keys[i] = found and found[1]
    _add_operands(things, keys)
    return keys


def _scope_key(
    scope: Scope, collapse: Collapse, by_entry: frozenset[Any]
) -> tuple[int, Hashable] | None:
    chain = chain_of(scope)
    level = level_of(chain, collapse)
    if level is None:
        return None
    key: Any = ("scope", chain[level].path)
    return level, (*key, id(chain[level])) if key in by_entry else key


_SEVERAL: Any = object()


def _add_operands(things: Sequence[Thing], keys: Keys) -> None:
    """Keys for leaves and constants: those of their only user, or of the array they belong to."""
    user: dict[int, Any] = {}
    for thing, key in zip(things, keys, strict=True):
        for i in thing.operands:
            if not things[i].operands:
                user[i] = key if user.get(i, key) == key else _SEVERAL
    seen: Counter[str] = Counter()
    for i, key in user.items():
        if key is not None and key is not _SEVERAL:
            keys[i] = key
        elif kind_of(things[i].content) == "leaf" and (element := element_of(things[i].content)):
            label = label_of(things[i].content)
            seen[label] += 1  # two arrays may have one name
            keys[i] = ("elements", element[0], seen[label], things[i].use)


def element_of(content: Any) -> tuple[str, tuple[int, ...]] | None:
    """The array that a Value called `W[0, 2]` belongs to, and its index there."""
    match = _ELEMENT.match(label_of(content))
    if match is None or hasattr(content, "shape"):
        return None
    return match[1], tuple(int(n) for n in match[2].split(","))


def count(keys: Keys) -> int:
    """How many boxes there would be."""
    return sum(key is None for key in keys) + len(set(keys) - {None})


# --- units and their order ----------------------------------------------------------------------


def units_of(things: Sequence[Thing], keys: Keys) -> tuple[list[Unit], list[Use]] | set[Hashable]:
    """Units, each after those it uses, and their uses; or the keys that stand in a circle."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        groups[("thing", i) if key is None else key].append(i)
    names = list(groups)
    unit = [0] * len(things)
    for u, members in enumerate(groups.values()):
        for i in members:
            unit[i] = u
    uses = _uses(things, keys, unit)
    order = _order(len(names), uses, [groups[name][-1] for name in names])
    if len(order) < len(names):
        return {names[u] for u in set(range(len(names))) - set(order)}
    place = {u: p for p, u in enumerate(order)}
    units = [
        Unit(tuple(groups[names[u]]), None if names[u][0] == "thing" else names[u])  # type: ignore[index]
        for u in order
    ]
    moved = [use._replace(source=place[use.source], target=place[use.target]) for use in uses]
    return units, sorted(moved, key=lambda use: (use.target, use.thing, use.operand))


def _uses(things: Sequence[Thing], keys: Keys, unit: list[int]) -> list[Use]:
    """The uses of units by others: between two things each by itself, else one for all."""
    uses: list[Use] = []
    merged: dict[tuple[int, int], int] = {}
    for i, thing in enumerate(things):
        for k, j in enumerate(thing.operands):
            source, target = unit[j], unit[i]
            if source == target:
                continue
            if keys[i] is None and keys[j] is None:
                uses.append(Use(source, target, i, k, 1))
            elif (source, target) in merged:
                n = merged[source, target]
                uses[n] = uses[n]._replace(count=uses[n].count + 1)
            else:
                merged[source, target] = len(uses)
                uses.append(Use(source, target, i, k, 1))
    return uses


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


def grouped(
    things: Sequence[Thing],
    collapse: Collapse,
    folded: Callable[[int], tuple[int, Hashable] | None] = lambda i: None,
) -> tuple[list[Unit], list[Use]]:
    """The units of a drawing. Scopes in a circle are taken by entry, and if need be not at all."""
    by_entry: frozenset[Any] = frozenset()
    broken: set[Hashable] = set()
    while True:
        keys = keys_of(things, collapse, folded, by_entry)
        if broken:
            keys = [None if key in broken else key for key in keys]
        result = units_of(things, keys)
        if not isinstance(result, set):
            return result
        circle = {key for key in result if key[0] != "thing"}  # type: ignore[index]
        fresh = {key for key in circle if key[0] == "scope" and len(key) == 2}  # type: ignore[index, arg-type]
        by_entry |= fresh
        if not fresh:
            broken |= circle
