"""What a legible layout is: checks of rectangles and lines, independent of how they were found."""

from __future__ import annotations

from itertools import combinations, pairwise

from tinygrad_bp.visualize.shapes import Rectangle

SLACK = 0.05  # coordinates are rounded


def overlap(a, b, slack=SLACK):
    """Whether two rectangles share more than a border."""
    return (
        a.x + slack < b.x + b.width
        and b.x + slack < a.x + a.width
        and a.y + slack < b.y + b.height
        and b.y + slack < a.y + a.height
    )


def pieces(points):
    """The bounding boxes of a route's pieces: straight lines, and curves that stay inside."""
    return [
        Rectangle(min(x0, x1), min(y0, y1), abs(x1 - x0), abs(y1 - y0))
        for (x0, y0), (x1, y1) in pairwise(points)
    ]


def holds(r, point, slack=SLACK):
    """Whether a point lies in a rectangle or on its border."""
    x, y = point
    inside = r.x - slack <= x <= r.x + r.width + slack
    return inside and r.y - slack <= y <= r.y + r.height + slack


def check(layout, edges, direction="LR"):
    """Assert that a layout of boxes and edges is legible."""
    down = direction == "TB"
    boxes = layout.boxes
    labels = {i: route.label for i, route in enumerate(layout.routes) if route.label}
    for (i, a), (j, b) in combinations(enumerate([*boxes, *labels.values()]), 2):
        assert not overlap(a, b), f"rectangles {i} and {j} overlap: {a}, {b}"
    for r in (*boxes, *labels.values()):
        assert min(r.x, r.y) >= 0, r
        assert r.x + r.width <= layout.width, r
        assert r.y + r.height <= layout.height, r
    lines = [pieces(route.points) for route in layout.routes]
    for i, (source, target, label) in enumerate(edges):
        route = layout.routes[i]
        assert (route.label is None) == (label is None)
        for piece in lines[i]:
            assert holds(Rectangle(0, 0, layout.width, layout.height), (piece.x, piece.y))
            for j, box in enumerate(boxes):
                assert not overlap(piece, box), f"edge {i} runs through box {j}"
            for j, foreign in labels.items():
                assert i == j or not overlap(piece, foreign), f"edge {i} crosses label {j}"
        if route.label:
            assert any(overlap(piece, route.label) for piece in lines[i]), f"label {i} is off"
        check_ends(i, source, target, edges, layout, lines, down)


def check_ends(i, source, target, edges, layout, lines, down):
    """Assert that edge i leads from its source, or another edge of it, to its target."""
    points = [(y, x) if down else (x, y) for x, y in layout.routes[i].points]
    boxes = [Rectangle(b.y, b.x, b.height, b.width) if down else b for b in layout.boxes]
    (x, y), box = points[-1], boxes[target]
    assert x == box.x
    assert box.y <= y <= box.y + box.height
    (x, y), box = points[0], boxes[source]
    if layout.routes[i].branches:
        siblings = [j for j, edge in enumerate(edges) if edge[0] == source and j != i]
        begin = layout.routes[i].points[0]
        assert any(holds(p, begin) for j in siblings for p in lines[j]), f"edge {i} begins nowhere"
    else:
        assert abs(x - box.x - box.width) <= SLACK
        assert y == box.y + box.height / 2
