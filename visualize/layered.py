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
from collections.abc import Callable, Collection, Sequence

from .items import Item, Layers, Link
from .ordering import in_order
from .shapes import Layout, Rectangle, Route, Size, simplified
from .straightening import shorten_links, straighten

GAP = (14.0, 70.0)  # between two layers: at least, at most
STEEPNESS = 5.0  # a gap is a fifth as wide as its steepest edge is high, within these limits
STUB = {"box": 12.0, "label": 4.0, "trunk": 0.0}  # the straight end of an edge: its arrowhead
MARGIN = 16.0
PORTS = 16.0  # between the ends of two edges at one box, where it is high enough

_EdgeSize = tuple[int, int, Size | None]  # source, target, and the size of the label


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
    straighten(graph.layers)
    is_small = sum(map(len, graph.layers)) < 4000
    shorten_links(graph.layers, rounds=12 if is_small else 2)
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
        self.boxes = [Item("box", layer, *size) for size, layer in zip(sizes, numbers, strict=True)]
        self.trunks: list[list[Item]] = [[box] for box in self.boxes]
        self.labels: list[Item | None] = []
        self.ends: list[Link] = []  # the last link of each edge
        self.arriving = [0] * len(sizes)
        for _, target, _ in edges:
            self.arriving[target] += 1
        self.ordered = ordered
        for source, target, label in edges:
            self._add_edge(source, target, label)
        self.layers = in_order(self.boxes, max(numbers, default=-1) + 1)

    def _add_edge(self, source: int, target: int, size: Size | None) -> None:
        box = self.boxes[target]
        label = Item("label", box.layer - 1, *size) if size else None
        first = label or box
        start = self._trunk(source, first.layer - 1)
        if label:
            Link(start, label)
            start = label
        link = Link(start, box)
        if target in self.ordered:
            link.turn = len(box.before) / (self.arriving[target] + 1) - 0.5
        self.labels.append(label)
        self.ends.append(link)

    def _trunk(self, source: int, layer: int) -> Item:
        """The item of the source's trunk in a layer: the box itself, or a bend further on."""
        trunk = self.trunks[source]
        while trunk[-1].layer < layer:
            bend = Item("trunk", trunk[-1].layer + 1, 0.0, 0.0)
            Link(trunk[-1], bend)
            trunk.append(bend)
        return trunk[layer - trunk[0].layer]


def _assign_ports(box: Item) -> None:
    """Spread the ends of the edges that arrive at a box over its side."""
    links = sorted(box.before, key=lambda link: (link.turn, link.start.place))
    distance = min(PORTS, box.across / (len(links) + 1))
    for i, link in enumerate(links):
        link.port = (i - (len(links) - 1) / 2) * distance


# --- coordinates along the layers, and lines ----------------------------------------------------


def _drawn(graph: _Graph) -> Layout:
    layers = graph.layers
    spans = _spans(layers)
    items = [item for layer in layers for item in layer]
    top = min((item.y - item.across / 2 for item in items), default=0.0) - MARGIN
    for item in items:
        item.y -= top

    def rectangle(item: Item) -> Rectangle:
        left, right = spans[item.layer]
        x, y = (left + right - item.along) / 2, item.y - item.across / 2
        return Rectangle(x, y, item.along, item.across)

    boxes = tuple(rectangle(box) for box in graph.boxes)
    routes = tuple(_routes(graph, spans, boxes, rectangle))
    height = max((item.y + item.across / 2 for item in items), default=0.0) + MARGIN
    return Layout(boxes, routes, spans[-1][1] + MARGIN if spans else 2 * MARGIN, height)


def _spans(layers: Layers) -> list[tuple[float, float]]:
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
    rectangle: Callable[[Item], Rectangle],
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
