"""Routes as the paths of an SVG picture, and their arrowheads."""

from __future__ import annotations

import math
from itertools import pairwise

from .shapes import Point, Route

HEAD = 8.0  # the length of an arrowhead
RADIUS = 7.0  # of a round corner


def written(x: float) -> str:
    """A coordinate, in as few characters as it takes."""
    return f"{x:.2f}".rstrip("0").rstrip(".") if x else "0"


def path_of(route: Route) -> str:
    """The line of a route; it ends under the arrowhead."""
    draw = {"s": _s_shaped, "round": _round, "bezier": _bezier}[route.curve]
    return draw(_retracted(route.points, route.curve))


def arrowhead(route: Route) -> str:
    """A triangle whose tip is the end of the route."""
    x, y = route.points[-1]
    dx, dy = _heading(route)
    tip = f"M{written(x)} {written(y)}"
    if (dx, dy) == (0.0, 1.0):
        return f"{tip}l-4 -8h8Z"
    if (dx, dy) == (1.0, 0.0):
        return f"{tip}l-8 -4v8Z"
    left = (x - HEAD * dx + 4 * dy, y - HEAD * dy - 4 * dx)
    right = (x - HEAD * dx - 4 * dy, y - HEAD * dy + 4 * dx)
    return f"{tip}L{_at(left)}L{_at(right)}Z"


def _at(point: Point) -> str:
    return f"{written(point[0])} {written(point[1])}"


def _heading(route: Route) -> Point:
    """The direction in which a route arrives, of length 1."""
    (x0, y0), (x1, y1) = _last_piece(route.points)
    if route.curve == "s":  # the end of an S is straight: downwards, or to the right
        return (0.0, 1.0) if x0 == x1 else (1.0, 0.0)
    length = math.hypot(x1 - x0, y1 - y0)
    return ((x1 - x0) / length, (y1 - y0) / length) if length else (1.0, 0.0)


def _last_piece(points: tuple[Point, ...]) -> tuple[Point, Point]:
    end = points[-1]
    return next((p for p in reversed(points) if p != end), end), end


def _retracted(points: tuple[Point, ...], curve: str) -> tuple[Point, ...]:
    dx, dy = _heading(Route(points, None, False, curve))
    x, y = points[-1]
    return (*points[:-1], (x - 5 * dx, y - 5 * dy))


def _s_shaped(points: tuple[Point, ...]) -> str:
    """A line through the points: straight, or an S between two that differ in both coordinates."""
    downward = points[-2][0] == points[-1][0]
    parts = [f"M{_at(points[0])}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        end = _at((x1, y1))
        if x0 == x1 or y0 == y1:
            parts.append(f"L{end}")
        elif downward:
            middle = written((y0 + y1) / 2)
            parts.append(f"C{written(x0)} {middle} {written(x1)} {middle} {end}")
        else:
            middle = written((x0 + x1) / 2)
            parts.append(f"C{middle} {written(y0)} {middle} {written(y1)} {end}")
    return "".join(parts)


def _round(points: tuple[Point, ...]) -> str:
    parts = [f"M{_at(points[0])}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        radius = min(RADIUS, math.dist(before, corner) / 2, math.dist(corner, after) / 2)
        parts.append(f"L{_at(_towards(corner, before, radius))}")
        parts.append(f"Q{_at(corner)} {_at(_towards(corner, after, radius))}")
    return "".join([*parts, f"L{_at(points[-1])}"])


def _towards(start: Point, end: Point, distance: float) -> Point:
    length = math.dist(start, end) or 1.0
    return tuple(a + (b - a) * distance / length for a, b in zip(start, end, strict=True))  # type: ignore[return-value]


def _bezier(points: tuple[Point, ...]) -> str:
    return f"M{_at(points[0])}C{' '.join(map(_at, points[1:]))}"
