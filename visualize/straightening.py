"""Coordinates across the layers that keep long edges straight, after Brandes and Köpf (2001)."""

from __future__ import annotations

import math
from itertools import pairwise

from .items import Item, Layers, Link

ACROSS = {"box": 18.0, "label": 8.0, "trunk": 10.0}  # free space between two neighbours in a layer
TOLERANCE = 0.26  # two ends of a line that are so close are at one height


def straighten(layers: Layers) -> None:
    """Set `y` of every item: Brandes and Köpf's method, extended by sizes and by ports.

    Items are aligned with their median neighbours, which makes edges straight, in four ways: with
    neighbours before or after, and ties to the left or right. Each way packs the items closely
    after its own fashion. The mean of the two middle ones is balanced, and keeps all distances.
    """
    if not layers:
        return
    crossed = _crossed_links(layers)
    results = [
        (sign, _Alignment(layers, forward, sign, crossed).places())
        for forward in (True, False)
        for sign in (1.0, -1.0)
    ]
    widths = [max(ys.values()) - min(ys.values()) for _, ys in results]
    narrow = results[widths.index(min(widths))][1]
    for sign, ys in results:
        end = min if sign > 0 else max
        shift = end(narrow.values()) - end(ys.values())
        for key in ys:
            ys[key] += shift
    for layer in layers:
        for item in layer:
            four = sorted(ys[id(item)] for _, ys in results)
            # To half a point, so that what is straight stays so when it is written in decimals.
            item.y = math.floor(four[1] + four[2] + 0.501) / 2


def is_inner(link: Link) -> bool:
    """Whether a link is a piece of a trunk."""
    return link.start.kind == link.end.kind == "trunk"


def _crossed_links(layers: Layers) -> set[int]:
    """The links that cross a trunk: the trunk is to be straight there, and not they."""
    crossed: set[int] = set()
    for layer in layers:
        links = [link for item in layer for link in item.after]
        inner = [link for link in links if is_inner(link)]
        for link in links:
            a, b = link.start.place, link.end.place
            if not is_inner(link) and any(
                (a - trunk.start.place) * (b - trunk.end.place) < 0 for trunk in inner
            ):
                crossed.add(id(link))
    return crossed


class _Alignment:
    """One of the four: items in blocks, which are straight, and the blocks packed.

    Args:
        forward: whether to align with neighbours before, or after.
        sign: 1 to pack upwards and prefer upper medians; -1 to look at everything upside down.
    """

    def __init__(self, layers: Layers, forward: bool, sign: float, crossed: set[int]) -> None:
        self.layers = [layer if sign > 0 else layer[::-1] for layer in layers]
        self.forward = forward
        self.sign = sign
        self.crossed = crossed
        self.block: dict[int, int] = {}  # of an item: the identity of its first
        self.offset: dict[int, float] = {}  # of an item from its block
        for layer in self.layers if forward else self.layers[::-1]:
            self._align(layer)

    def _align(self, layer: list[Item]) -> None:
        last = -math.inf  # of the neighbours that are taken: alignments must not cross
        for item in layer:
            self.block[id(item)], self.offset[id(item)] = id(item), 0.0
            for place, link in self._medians(item):
                if place > last and id(link) not in self.crossed:
                    other = link.start if self.forward else link.end
                    port = -link.port if self.forward else link.port
                    self.block[id(item)] = self.block[id(other)]
                    self.offset[id(item)] = self.offset[id(other)] + self.sign * port
                    last = place
                    break

    def _medians(self, item: Item) -> list[tuple[float, Link]]:
        """The one or two middle links to neighbours, with the neighbours' places."""
        links = item.before if self.forward else item.after
        # A trunk runs straight on, whatever branches off it.
        links = [link for link in links if is_inner(link)] or links
        if self.forward:
            places = [(self.sign * link.start.place, link.port, link) for link in links]
        else:
            places = [(self.sign * link.end.place, link.port, link) for link in links]
        places.sort(key=lambda p: (p[0], self.sign * p[1]))
        middle = len(places) // 2
        chosen = places[middle : middle + 1] if len(places) % 2 else places[middle - 1 : middle + 1]
        return [(place, link) for place, _, link in chosen]

    def places(self) -> dict[int, float]:
        """The middle of each item, of blocks packed as closely as their order allows."""
        after: dict[int, list[tuple[int, float]]] = {block: [] for block in self.block.values()}
        waiting_for = dict.fromkeys(after, 0)
        for layer in self.layers:
            for u, v in pairwise(layer):
                distance = _distance(u, v) + self.offset[id(u)] - self.offset[id(v)]
                after[self.block[id(u)]].append((self.block[id(v)], distance))
                waiting_for[self.block[id(v)]] += 1
        start = dict.fromkeys(after, 0.0)
        order = [block for block, count in waiting_for.items() if not count]
        for block in order:
            for other, distance in after[block]:
                start[other] = max(start[other], start[block] + distance)
                waiting_for[other] -= 1
                if not waiting_for[other]:
                    order.append(other)
        for block in reversed(order):  # those with room move to those that follow
            if after[block]:
                start[block] = min(start[other] - distance for other, distance in after[block])
        return {
            item: self.sign * (start[block] + self.offset[item])
            for item, block in self.block.items()
        }


def _distance(u: Item, v: Item) -> float:
    """The least distance of the middles of two neighbours in a layer."""
    return (u.across + v.across) / 2 + max(ACROSS[u.kind], ACROSS[v.kind])


# --- shorter lines ------------------------------------------------------------------------------


def shorten_links(layers: Layers, rounds: int) -> None:
    """Move what is straight together to the median of its other neighbours, as far as it can go.

    Straight links stay so, and each move makes the sum of all climbs smaller.
    """
    for turn in range(rounds):
        blocks = _blocks(layers)
        moves = [_move(block, layers) for block in (blocks if turn % 2 else reversed(blocks))]
        if not any(moves):
            break


def _blocks(layers: Layers) -> list[list[Item]]:
    """Items that straight links connect, those that begin first in front."""
    block: dict[int, list[Item]] = {}
    blocks: list[list[Item]] = []
    for layer in layers:
        for item in layer:
            straight = [
                block[id(link.start)] for link in item.before if abs(_climb(link)) < TOLERANCE
            ]
            if not straight:
                block[id(item)] = [item]
                blocks.append(block[id(item)])
                continue
            first, *others = straight
            for other in others:
                if other is not first:
                    first += other
                    for each in other:
                        block[id(each)] = first
                    other.clear()
            if not any(each is item for each in first[-1:]):
                first.append(item)
            block[id(item)] = first
    return sorted(filter(None, blocks), key=lambda each: (each[0].y, each[0].layer))


def _climb(link: Link) -> float:
    return link.end.y + link.port - link.start.y


def _move(block: list[Item], layers: Layers) -> bool:
    inside = set(map(id, block))
    wanted = [_climb(link) for item in block for link in item.after if id(link.end) not in inside]
    wanted += [
        -_climb(link) for item in block for link in item.before if id(link.start) not in inside
    ]
    if not wanted:
        return False
    wanted.sort()
    low, high = wanted[(len(wanted) - 1) // 2], wanted[len(wanted) // 2]
    shift = low if low > 0 else min(high, 0.0)
    room = math.inf
    for item in block:
        layer = layers[item.layer]
        place = item.place + (1 if shift > 0 else -1)
        if 0 <= place < len(layer) and id(layer[place]) not in inside:
            other = layer[place]
            room = min(room, abs(other.y - item.y) - _distance(item, other))
    size = math.floor(2 * min(abs(shift), max(room, 0.0))) / 2
    if not size:
        return False
    for item in block:
        item.y += math.copysign(size, shift)
    return True
