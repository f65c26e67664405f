"""Boxes in rows, moved sideways to where their neighbours in other rows are."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

Slot = tuple[int, int]  # a row, and a place in it
SWEEPS = 6
LIGHT = 1e-4  # the weight of a light slot


def aligned(
    widths: Mapping[Slot, float],
    pairs: Iterable[tuple[Slot, Slot]],
    space: float,
    light: Collection[Slot] = (),
) -> dict[Slot, float]:
    """The left of each slot: in the order of each row, and as close as that allows to the middle of
    its neighbours. The leftmost is at 0.

    Args:
        widths: of the slots.
        pairs: neighbours, the upper one first.
        space: between two slots of a row, at least.
        light: those that give way, and that nobody stands by who has other neighbours.
    """
    rows: dict[int, list[Slot]] = defaultdict(list)
    for slot in sorted(widths):
        rows[slot[0]].append(slot)
    above: dict[Slot, set[Slot]] = defaultdict(set)
    below: dict[Slot, set[Slot]] = defaultdict(set)
    for upper, lower in pairs:
        above[lower].add(upper)
        below[upper].add(lower)
    middle = {}
    for slots in rows.values():
        x = -(sum(widths[s] for s in slots) + space * (len(slots) - 1)) / 2
        for s in slots:
            middle[s] = x + widths[s] / 2
            x += widths[s] + space
    for sweep in range(SWEEPS):
        down = sweep % 2 == 1  # the last
        neighbours, others = (above, below) if down else (below, above)
        for row in sorted(rows, reverse=not down):
            slots = rows[row]
            wanted = []
            for s in slots:
                near = sorted(neighbours[s] or others[s])
                near = [n for n in near if n not in light] or near
                wanted.append(sum(middle[n] for n in near) / len(near) if near else middle[s])
            distances = [(widths[a] + widths[b]) / 2 + space for a, b in itertools.pairwise(slots)]
            weights = [LIGHT if s in light else 1.0 for s in slots]
            middle.update(zip(slots, _spread(wanted, distances, weights), strict=True))
    left = {s: round(2 * (middle[s] - widths[s] / 2)) / 2 for s in middle}
    start = min(left.values(), default=0.0)
    return {s: x - start for s, x in left.items()}


def _spread(
    wanted: Sequence[float], distances: Sequence[float], weights: Sequence[float]
) -> list[float]:
    """Places in order, at these distances at least, with the least squares from those wanted.

    Without the distances it is an isotonic regression, by pooling adjacent violators.
    """
    offsets = [0.0]
    for distance in distances:
        offsets.append(offsets[-1] + distance)
    blocks: list[tuple[float, float, int]] = []  # the weighted sum, the weight, and how many
    for x, offset, weight in zip(wanted, offsets, weights, strict=True):
        total, count = (x - offset) * weight, 1
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / weight:
            last = blocks.pop()
            total, weight, count = total + last[0], weight + last[1], count + last[2]
        blocks.append((total, weight, count))
    means = [total / weight for total, weight, count in blocks for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]
