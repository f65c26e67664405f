"""Repeated regions, folded: of many time steps or layers that are alike, the middle ones.

Regions of one family differ in a number alone: `step(1), step(2)` or `layer1, layer2`. Two of them
are alike if the same operations are applied, in the same order, to operands that stand in the same
places relative to them.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygrad_bp.graph import Node
from tinygrad_bp.recording import Scope

from .grouping import Folded, chain_of
from .things import Thing, kind_of, scope_of, uses_of

FEWEST = 3  # regions that are folded into one box

_NUMBERED = re.compile(r"^(.*[^0-9])([0-9]{1,18})$", re.DOTALL)

Family = tuple[int, str, str]  # the level of the scopes, the path around them, their name


class Fold(NamedTuple):
    """A box for regions that are alike.

    Attributes:
        name: of each, such as `step`.
        first, last: the numbers of those that are folded.
        like: the number of one that is drawn and is the same.
        size: how many are folded.
    """

    name: str
    first: int
    last: int
    like: int
    size: int


def numbered(scope: Scope) -> tuple[str, int] | None:
    """The name and number of a region that may be one of many."""
    if scope.index is not None:
        return scope.name, scope.index
    match = _NUMBERED.match(scope.name)
    return (match[1], int(match[2])) if match else None


def folds_of(things: Sequence[Thing], steps: Mapping[Node, int]) -> Folded | None:
    """What can be folded: for each thing the level of its scope and its key; None if nothing."""
    members = _members(things, steps)
    regions = dict.fromkeys(members.values())
    families = Counter(family for family, _ in regions)
    if not any(n >= FEWEST + 2 for n in families.values()):
        return None
    folds = _folds(_signatures(things, members))
    names: dict[Any, int] = {}
    levels, keys = np.full(len(things), -1), np.full(len(things), -1)
    for i, (family, n) in members.items():
        fold = folds.get((family, n))
        if fold is not None:
            levels[i] = family[0]
            keys[i] = names.setdefault(("fold", family, fold), len(names))
    return Folded(levels, keys, list(names)) if names else None


def _members(things: Sequence[Thing], steps: Mapping[Node, int]) -> dict[int, tuple[Family, int]]:
    """The family and number of every computed thing that has them, see `_family_of`."""
    cache: dict[int, tuple[Family, int] | None] = {}
    members: dict[int, tuple[Family, int]] = {}
    for i, thing in enumerate(things):
        if thing.operands:
            scope = scope_of(thing.content)
            if id(scope) not in cache:
                cache[id(scope)] = _family_of(scope)
            found = cache[id(scope)]
            if found is not None:
                members[i] = found
    of_steps = {family for family, _ in members.values() if family[2] == "step"}
    outside = of_steps.pop() if len(of_steps) == 1 else (0, "", "step")
    for i, thing in enumerate(things):  # what was made outside of the scopes, a loss say
        if thing.operands and i not in members and thing.content in steps:
            members[i] = (outside, steps[thing.content])
    return members


def _family_of(scope: Scope) -> tuple[Family, int] | None:
    """The outermost scope with an index, `step(3)`; else with a number in its name, `layer3`."""
    chain = chain_of(scope)
    for level, each in sorted(enumerate(chain), key=lambda pair: pair[1].index is None):
        found = numbered(each)
        if found is not None:
            outer = each.outer.path if each.outer is not None else ""
            return (level, outer, found[0]), found[1]
    return None


_Signatures = dict[Family, dict[int, list[Any]]]


def _signatures(things: Sequence[Thing], members: Mapping[int, tuple[Family, int]]) -> _Signatures:
    """For each region its operations, with the places of their operands relative to it."""
    result: _Signatures = defaultdict(lambda: defaultdict(list))
    position: dict[int, int] = {}
    uses = uses_of(things)

    def reference(j: int, family: Family, n: int) -> Any:
        if j in members:
            other, m = members[j]
            return (other, n - m if other == family else m, position[j])
        content = things[j].content
        if not things[j].operands and uses[j] == 1:
            return (kind_of(content), getattr(content, "shape", ()))
        return j

    for i, thing in enumerate(things):
        if i in members:
            family, n = members[i]
            signature = result[family][n]
            position[i] = len(signature)
            rule = thing.content.rule
            shape = getattr(thing.content, "shape", ())
            operands = tuple(reference(j, family, n) for j in thing.operands)
            signature.append((rule and rule.name, shape, operands))
    return result


def _folds(signatures: _Signatures) -> dict[tuple[Family, int], Fold]:
    folds: dict[tuple[Family, int], Fold] = {}
    for family, regions in signatures.items():
        numbers = sorted(regions)
        start = 0
        for end in range(1, len(numbers) + 1):
            alike = end < len(numbers) and regions[numbers[end]] == regions[numbers[start]]
            if alike and numbers[end] == numbers[end - 1] + 1:
                continue
            inner = numbers[start + 1 : end - 1]
            if len(inner) >= FEWEST:
                fold = Fold(family[2], inner[0], inner[-1], numbers[start], len(inner))
                folds.update(((family, n), fold) for n in inner)
            start = end
    return folds
