"""A layered layout of a directed acyclic graph, after Sugiyama, Tagawa and Toda (1981).

Boxes stand in layers, edges run from layer to layer, and four steps find the places:
layers by longest path; an order within each layer with few crossings, by barycentres and exchanges;
coordinates across the layers that keep long edges straight (Brandes and Köpf 2001); and coordinates
along them. Two things are done differently from the books:

- An edge's label is an item of the layer before its target, with a size of its own. So labels
  overlap nothing, by construction.
- All edges out of one box share one line, the trunk, for as long as they run side by side, and
  branch off it where their targets are. A weight that is used at every time step is one line.

Edges bend only between layers, where there are no boxes, so no edge crosses a box.

Everything here is in numbers: boxes are known by their place in the list, and have sizes. Lengths
are `along` the direction of the edges or `across` it until the very end.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise

from .shapes import Layout, Rectangle, Route, Size, simplified

ACROSS = {"box": 18.0, "label": 8.0, "trunk": 10.0}  # free space between two neighbours in a layer
GAP = (14.0, 70.0)  # between two layers: at least, at most
STEEPNESS = 5.0  # a gap is a fifth as wide as its steepest edge is high, within these limits
STUB = {"box": 12.0, "label": 4.0, "trunk": 0.0}  # the straight end of an edge: its arrowhead
MARGIN = 16.0
PORTS = 16.0  # between the ends of two edges at one box, where it is high enough

_EdgeSize = tuple[int, int, Size | None]  # source, target, and the size of the label


class _Link:
    """A piece of an edge, from an item to one of the next layer."""

    __slots__ = ("end", "port", "start", "turn")

    def __init__(self, start: _Item, end: _Item, turn: float = 0.0) -> None:
        self.start = start
        self.end = end
        self.turn = turn  # of an ordered box: a fraction of a place, by which operand it is
        self.port = 0.0  # how far from the middle of `end` it arrives
        start.after.append(self)
        end.before.append(self)


class _Item:
    """Something that has a place in a layer: a box, a label, or a bend of a trunk."""

    __slots__ = ("across", "after", "along", "before", "kind", "layer", "place", "y")

    def __init__(self, kind: str, layer: int, along: float, across: float) -> None:
        self.kind = kind
        self.layer = layer
        self.along = along
        self.across = across
        self.place = 0  # in its layer
        self.y = 0.0  # of its middle
        self.before: list[_Link] = []
        self.after: list[_Link] = []


_Layers = list[list[_Item]]


def layout(
    sizes: Sequence[Size],
    edges: Sequence[_EdgeSize],
    ordered: Collection[int] = (),
    direction: str = "LR",
) -> Layout:
    """Places for boxes, and lines for the edges between them.

    Args:
        sizes: of the boxes, in an order in which every edge leads to a later box.
        edges: the places of source and target in that order, and the size of the label, if any.
        ordered: the boxes at which edges shall arrive in the order given, from top to bottom (from
            left to right), as far as this depends on the layout.
        direction: `"LR"`, edges run to the right, or `"TB"`, downwards.

    Raises:
        ValueError: an edge leads to an earlier box or to itself, or the direction is another.
    """
    if direction not in ("LR", "TB"):
        raise ValueError(f"direction must be 'LR' or 'TB', got {direction!r}")
    if any(source >= target for source, target, _ in edges):
        raise ValueError("layout: every edge must lead to a later box")
    if direction == "TB":
        sizes = [(height, width) for width, height in sizes]
        edges = [(s, t, size and (size[1], size[0])) for s, t, size in edges]
    graph = _Graph(sizes, edges, frozenset(ordered))
    for item in graph.boxes:
        _assign_ports(item)
    _align(graph.layers)
    result = _drawn(graph)
    return _transposed(result) if direction == "TB" else result


# --- layers -------------------------------------------------------------------------------------


def _layer_numbers(count: int, edges: Sequence[_EdgeSize]) -> list[int]:
    """The layer of each box: leaves stand by their first user, all others by their operands.

    At first every box is as late as its users allow. Then those that have no more users than
    computed operands move to the front as far as they can, which makes no edge longer without
    making another shorter; leaves give way, and follow.
    """
    before: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    after: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for source, target, label in edges:
        length = 2 if label else 1
        before[target].append((source, length))
        after[source].append((target, length))
    to_end = [0] * count
    for i in reversed(range(count)):
        to_end[i] = max((to_end[j] + length for j, length in after[i]), default=0)
    layer = [max(to_end) - n for n in to_end] if to_end else []
    for i in range(count):
        computed = sum(1 for j, _ in before[i] if before[j])
        if computed and computed >= len(after[i]) > 0:
            layer[i] = max(length + (layer[j] if before[j] else 0) for j, length in before[i])
    for i in range(count):
        if not before[i] and after[i]:
            layer[i] = min(layer[j] - length for j, length in after[i])
    return layer


class _Graph:
    """Items and links made of boxes and edges, in layers."""

    def __init__(
        self,
        sizes: Sequence[Size],
        edges: Sequence[_EdgeSize],
        ordered: frozenset[int],
    ) -> None:
        numbers = _layer_numbers(len(sizes), edges)
        self.boxes = [
            _Item("box", layer, *size) for size, layer in zip(sizes, numbers, strict=True)
        ]
        self.trunks: list[list[_Item]] = [[box] for box in self.boxes]
        self.labels: list[_Item | None] = []
        self.ends: list[_Link] = []  # the last link of each edge
        self.arriving = [0] * len(sizes)
        for _, target, _ in edges:
            self.arriving[target] += 1
        self.ordered = ordered
        for source, target, label in edges:
            self._add_edge(source, target, label)
        self.layers = _ordered(self.boxes, max(numbers, default=-1) + 1)

    def _add_edge(self, source: int, target: int, size: Size | None) -> None:
        box = self.boxes[target]
        label = _Item("label", box.layer - 1, *size) if size else None
        first = label or box
        start = self._trunk(source, first.layer - 1)
        if label:
            _Link(start, label)
            start = label
        link = _Link(start, box)
        if target in self.ordered:
            link.turn = len(box.before) / (self.arriving[target] + 1) - 0.5
        self.labels.append(label)
        self.ends.append(link)

    def _trunk(self, source: int, layer: int) -> _Item:
        """The item of the source's trunk in a layer: the box itself, or a bend further on."""
        trunk = self.trunks[source]
        while trunk[-1].layer < layer:
            bend = _Item("trunk", trunk[-1].layer + 1, 0.0, 0.0)
            _Link(trunk[-1], bend)
            trunk.append(bend)
        return trunk[layer - trunk[0].layer]


# --- order within the layers --------------------------------------------------------------------


def _searched(boxes: list[_Item], count: int, both_ways: bool) -> _Layers:
    """Items in the order of a depth-first search from the last box.

    Towards the operands alone, a tree comes out uncrossed. Both ways, to users as well, neighbours
    in a net come out side by side.
    """
    layers: _Layers = [[] for _ in range(count)]
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


def _number(layers: _Layers) -> None:
    for layer in layers:
        for place, item in enumerate(layer):
            item.place = place


def _ordered(boxes: list[_Item], count: int) -> _Layers:
    """The layers of all items, in the better of the orders that two beginnings lead to."""
    results = [_improved(_searched(boxes, count, both_ways)) for both_ways in (False, True)]
    layers = min(results, key=lambda result: result[0])[1]
    _number(layers)
    return layers


def _improved(layers: _Layers) -> tuple[int, _Layers]:
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


def _sources(item: _Item) -> list[float]:
    return sorted(link.start.place + 0.0 for link in item.before)


def _targets(item: _Item) -> list[float]:
    return sorted(link.end.place + link.turn for link in item.after)


def _crossings(layers: _Layers) -> int:
    """The number of pairs of links that cross."""
    total = 0
    for layer in layers:
        seen: list[float] = []
        for item in layer:
            targets = _targets(item)
            total += sum(len(seen) - bisect_right(seen, target) for target in targets)
            seen = sorted(seen + targets)
    return total


def _sweep(layers: _Layers, forward: bool) -> None:
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


def _exchange(layers: _Layers) -> None:
    """Exchange neighbours in a layer wherever that removes crossings."""
    for layer in layers:
        sources = {id(item): _sources(item) for item in layer}
        targets = {id(item): _targets(item) for item in layer}
        for _ in range(4):
            exchanged = False
            for i in range(len(layer) - 1):
                u, v = layer[i], layer[i + 1]
                gain = _inversions(sources[id(u)], sources[id(v)])
                gain += _inversions(targets[id(u)], targets[id(v)])
                if gain > 0:
                    layer[i], layer[i + 1] = v, u
                    exchanged = True
            if not exchanged:
                break
        for place, item in enumerate(layer):
            item.place = place


def _inversions(upper: list[float], lower: list[float]) -> int:
    """Crossings of an item's links with those of the item below it, less those if exchanged."""
    return sum(
        bisect_left(lower, place) - (len(lower) - bisect_right(lower, place)) for place in upper
    )


def _assign_ports(box: _Item) -> None:
    """Spread the ends of the edges that arrive at a box over its side."""
    links = sorted(box.before, key=lambda link: (link.turn, link.start.place))
    distance = min(PORTS, box.across / (len(links) + 1))
    for i, link in enumerate(links):
        link.port = (i - (len(links) - 1) / 2) * distance


# --- coordinates across the layers --------------------------------------------------------------


def _align(layers: _Layers) -> None:
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


def _is_inner(link: _Link) -> bool:
    return link.start.kind == link.end.kind == "trunk"


def _crossed_links(layers: _Layers) -> set[int]:
    """The links that cross a trunk: the trunk is to be straight there, and not they."""
    crossed: set[int] = set()
    for layer in layers:
        links = [link for item in layer for link in item.after]
        inner = [link for link in links if _is_inner(link)]
        for link in links:
            a, b = link.start.place, link.end.place
            if not _is_inner(link) and any(
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

    def __init__(self, layers: _Layers, forward: bool, sign: float, crossed: set[int]) -> None:
        self.layers = [layer if sign > 0 else layer[::-1] for layer in layers]
        self.forward = forward
        self.sign = sign
        self.crossed = crossed
        self.block: dict[int, int] = {}  # of an item: the identity of its first
        self.offset: dict[int, float] = {}  # of an item from its block
        for layer in self.layers if forward else self.layers[::-1]:
            self._align(layer)

    def _align(self, layer: list[_Item]) -> None:
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

    def _medians(self, item: _Item) -> list[tuple[float, _Link]]:
        """The one or two middle links to neighbours, with the neighbours' places."""
        links = item.before if self.forward else item.after
        # A trunk runs straight on, whatever branches off it.
        links = [link for link in links if _is_inner(link)] or links
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


def _distance(u: _Item, v: _Item) -> float:
    """The least distance of the middles of two neighbours in a layer."""
    return (u.across + v.across) / 2 + max(ACROSS[u.kind], ACROSS[v.kind])


# --- coordinates along the layers, and lines ----------------------------------------------------


def _drawn(graph: _Graph) -> Layout:
    layers = graph.layers
    spans = _spans(layers)
    items = [item for layer in layers for item in layer]
    top = min((item.y - item.across / 2 for item in items), default=0.0) - MARGIN
    for item in items:
        item.y -= top

    def rectangle(item: _Item) -> Rectangle:
        left, right = spans[item.layer]
        x, y = (left + right - item.along) / 2, item.y - item.across / 2
        return Rectangle(x, y, item.along, item.across)

    boxes = tuple(rectangle(box) for box in graph.boxes)
    routes = tuple(_routes(graph, spans, boxes, rectangle))
    height = max((item.y + item.across / 2 for item in items), default=0.0) + MARGIN
    return Layout(boxes, routes, spans[-1][1] + MARGIN if spans else 2 * MARGIN, height)


def _spans(layers: _Layers) -> list[tuple[float, float]]:
    """The beginning and end of each layer."""
    spans = []
    start = MARGIN
    for layer in layers:
        end = start + max(item.along for item in layer)
        spans.append((start, end))
        links = [link for item in layer for link in item.after]
        climb = max((abs(link.end.y + link.port - link.start.y) for link in links), default=0.0)
        stub = max((STUB[link.end.kind] for link in links), default=0.0)
        start = end + stub + min(max(math.ceil(climb / STEEPNESS), GAP[0]), GAP[1])
    return spans


def _routes(
    graph: _Graph,
    spans: list[tuple[float, float]],
    boxes: tuple[Rectangle, ...],
    rectangle: Callable[[_Item], Rectangle],
) -> list[Route]:
    """Edges from the longest to the shortest of each source: the longest draws the whole trunk."""
    drawn: set[int] = set()  # links
    routes: list[Route | None] = [None] * len(graph.ends)
    order = sorted(range(len(graph.ends)), key=lambda i: -graph.ends[i].end.layer)
    for i in order:
        links = [graph.ends[i]]
        while links[0].start.kind != "box" and id(links[0].start.before[0]) not in drawn:
            links.insert(0, links[0].start.before[0])
        drawn.update(map(id, links))
        first = links[0].start
        begin = spans[first.layer][1]
        if first.kind == "box":
            begin = (spans[first.layer][0] + begin + first.along) / 2
        points = [(begin, first.y)]
        for link in links:
            y = link.end.y + link.port
            points.append((spans[link.start.layer][1], link.start.y))
            points.append((spans[link.end.layer][0] - STUB[link.end.kind], y))
            points.append((spans[link.end.layer][1], y))
        end = rectangle(links[-1].end)
        points[-1] = (end.x, points[-1][1])
        label = graph.labels[i]
        routes[i] = Route(
            simplified(points), rectangle(label) if label else None, first.kind != "box"
        )
    return [route for route in routes if route]


def _transposed(result: Layout) -> Layout:
    def turn(r: Rectangle) -> Rectangle:
        return Rectangle(r.y, r.x, r.height, r.width)

    routes = (
        Route(
            tuple((y, x) for x, y in route.points),
            route.label and turn(route.label),
            route.branches,
        )
        for route in result.routes
    )
    return Layout(tuple(map(turn, result.boxes)), tuple(routes), result.height, result.width)
