"""What is legible of any layout, whatever its lines are made of: checked point by point."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import geometry

from tinygrad_bp.visualize.shapes import Rectangle

SLACK = 0.6
PIECES = 16


def curve_points(points, count=PIECES):
    """Points on cubic curves whose ends and control points are given."""
    result = [points[0]]
    for i in range(0, len(points) - 1, 3):
        p = points[i : i + 4]
        for k in range(1, count + 1):
            t = k / count
            weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
            result.append(tuple(sum(w * q[a] for w, q in zip(weights, p, strict=True))
                                for a in (0, 1)))  # fmt: skip
    return result


def pieces(route):
    """The bounding boxes of the straight pieces of a line."""
    points = curve_points(route.points) if route.curve == "bezier" else route.points
    return geometry.pieces(points)


def shrunk(r, by=SLACK):
    return Rectangle(r.x + by, r.y + by, r.width - 2 * by, r.height - 2 * by)


def is_on_border(r, point, slack=SLACK):
    return geometry.holds(r, point, slack) and not geometry.holds(shrunk(r), point, -slack / 2)


def check(layout, edges):
    """Assert that boxes and labels are apart, and that lines lead where they should."""
    whole = Rectangle(0, 0, layout.width, layout.height)
    labels = [(e, route.label) for e, route in enumerate(layout.routes) if route.label]
    for (i, a), (j, b) in combinations(enumerate(layout.boxes), 2):
        assert not geometry.overlap(a, b), f"boxes {i} and {j}"
    for e, label in labels:
        for i, box in enumerate(layout.boxes):
            assert not geometry.overlap(label, box, SLACK), f"label {e} on box {i}"
    for r in (*layout.boxes, *(label for _, label in labels)):
        assert geometry.holds(whole, (r.x, r.y))
        assert geometry.holds(whole, (r.x + r.width, r.y + r.height))
    for e, ((source, target, size), route) in enumerate(zip(edges, layout.routes, strict=True)):
        assert (route.label is None) == (size is None)
        assert is_on_border(layout.boxes[target], route.points[-1], 1.5), f"edge {e} ends nowhere"
        if not route.branches:
            start = route.points[0]
            assert geometry.holds(layout.boxes[source], start, 1.5), f"edge {e} begins nowhere"
        for piece in pieces(route):
            for i, box in enumerate(layout.boxes):
                through = geometry.overlap(piece, shrunk(box, 1.0), 0.0)
                assert not through or (route.curve == "bezier" and i in (source, target)), (
                    f"edge {e} runs through box {i}"
                )


def check_orthogonal(layout, edges):
    """Assert the same of lines across and down, and that those of two sources are apart."""
    check(layout, edges)
    by_source = {}
    for (source, _, _), route in zip(edges, layout.routes, strict=True):
        assert all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(route.points)), route
        by_source.setdefault(source, []).extend(pairwise(route.points))
    for e, ((source, _, _), route) in enumerate(zip(edges, layout.routes, strict=True)):
        if route.branches:
            begin = route.points[0]
            mine = list(pairwise(route.points))
            others = [p for p in by_source[source] if p not in mine]
            assert any(geometry.holds(r, begin, 0.01) for p in others
                       for r in geometry.pieces(p)), f"edge {e} begins nowhere"  # fmt: skip
        if route.label:
            for f, (other, _, _) in enumerate(edges):
                if e != f and other != source:
                    for piece in geometry.pieces(layout.routes[f].points):
                        assert not geometry.overlap(piece, route.label, 1.0), (e, f)
    for a, b in combinations(by_source, 2):
        for p in by_source[a]:
            for q in by_source[b]:
                assert shared_length(p, q) < 1.0, (a, b, p, q)


def shared_length(p, q):
    """How far two pieces run on one another."""
    for axis in (0, 1):
        if len({point[axis] for point in (*p, *q)}) == 1:
            other = 1 - axis
            low = max(min(p[0][other], p[1][other]), min(q[0][other], q[1][other]))
            high = min(max(p[0][other], p[1][other]), max(q[0][other], q[1][other]))
            return max(0.0, high - low)
    return 0.0


def length(route):
    return sum(math.dist(a, b) for a, b in pairwise(route.points))
