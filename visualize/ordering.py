"""An order within each layer with few crossings: by barycentres, and by exchanges of neighbours."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort

from .items import Item, Layers


def _searched(boxes: list[Item], count: int, both_ways: bool) -> Layers:
    """Items in the order of a depth-first search from the last box.

    Towards the operands alone, a tree comes out uncrossed. Both ways, to users as well, neighbours
    in a net come out side by side.
    """
    layers: Layers = [[] for _ in range(count)]
    found: set[int] = set()
    for root in reversed(boxes):
        pending = [root]
        while pending:
            item = pending.pop()
            if id(item) in found:
                continue
            found.add(id(item))
            layers[item.layer].append(item)
            if both_ways:
                pending += [link.end for link in reversed(item.after)]
            pending += [link.start for link in reversed(item.before)]
    return layers


def _number(layers: Layers) -> None:
    for layer in layers:
        for place, item in enumerate(layer):
            item.place = place


def in_order(boxes: list[Item], count: int) -> Layers:
    """The layers of all items, in the better of the orders that two beginnings lead to."""
    results = [_improved(_searched(boxes, count, both_ways)) for both_ways in (False, True)]
    layers = min(results, key=lambda result: result[0])[1]
    _number(layers)
    return layers


def _improved(layers: Layers) -> tuple[int, Layers]:
    """The fewest crossings met, and their order, in sweeps by barycentres and in exchanges."""
    _number(layers)
    best, fewest = [layer[:] for layer in layers], _crossings(layers)
    is_small = sum(map(len, layers)) < 1200
    patience = 4 if is_small else 2
    fruitless = 0
    for turn in range(24 if is_small else 8):
        if not fewest or fruitless == patience:
            break
        _sweep(layers, forward=turn % 2 == 0)
        _exchange(layers)
        crossings = _crossings(layers)
        fruitless += 1
        if crossings < fewest:
            best, fewest, fruitless = [layer[:] for layer in layers], crossings, 0
    return fewest, best


def _sources(item: Item) -> list[float]:
    if len(item.before) == 1:
        return [item.before[0].start.place + 0.0]
    return sorted(link.start.place + 0.0 for link in item.before)


def _targets(item: Item) -> list[float]:
    if len(item.after) == 1:
        return [item.after[0].end.place + item.after[0].turn]
    return sorted(link.end.place + link.turn for link in item.after)


def _crossings(layers: Layers) -> int:
    """The number of pairs of links that cross."""
    total = 0
    for layer in layers:
        seen: list[float] = []
        for item in layer:
            targets = _targets(item)
            if targets and (not seen or targets[0] >= seen[-1]):
                seen += targets
                continue
            total += sum(len(seen) - bisect_right(seen, target) for target in targets)
            for target in targets:
                insort(seen, target)
    return total


def _sweep(layers: Layers, forward: bool) -> None:
    """Sort each layer by the barycentres of its items' neighbours in the layer just sorted."""
    neighbours = _sources if forward else _targets
    for layer in layers if forward else reversed(layers):
        keys: dict[int, float] = {}
        for item in layer:
            places = neighbours(item)
            keys[id(item)] = sum(places) / len(places) if places else float(item.place)
        layer.sort(key=lambda item: keys[id(item)])
        for place, item in enumerate(layer):
            item.place = place


def _exchange(layers: Layers) -> None:
    """Exchange neighbours in a layer wherever that removes crossings."""
    for layer in layers:
        sources = {id(item): _sources(item) for item in layer}
        targets = {id(item): _targets(item) for item in layer}
        for _ in range(4):
            exchanged = False
            for i in range(len(layer) - 1):
                u, v = layer[i], layer[i + 1]
                before, after = (sources[id(u)], sources[id(v)]), (targets[id(u)], targets[id(v)])
                if not _may_cross(*before) and not _may_cross(*after):
                    continue
                if _inversions(*before) + _inversions(*after) > 0:
                    layer[i], layer[i + 1] = v, u
                    exchanged = True
            if not exchanged:
                break
        for place, item in enumerate(layer):
            item.place = place


def _may_cross(upper: list[float], lower: list[float]) -> bool:
    """Whether some link of an item ends below one of the item below it."""
    return bool(upper and lower) and upper[-1] > lower[0]


def _inversions(upper: list[float], lower: list[float]) -> int:
    """Crossings of an item's links with those of the item below it, less those if exchanged."""
    return sum(
        bisect_left(lower, place) - (len(lower) - bisect_right(lower, place)) for place in upper
    )
