"""What a layout is: rectangles, lines and marks, in numbers. It knows nothing of graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Size = tuple[float, float]  # width, height
Point = tuple[float, float]


class Rectangle(NamedTuple):
    """A rectangle by its upper left corner and size; y grows downwards."""

    x: float
    y: float
    width: float
    height: float


class Route(NamedTuple):
    """The line of one edge.

    Attributes:
        points: from its beginning to the border of the target.
        label: where its label stands; None if it has none.
        branches: whether it begins at a point of another edge's line, from the same source.
        curve: how the points are joined. `"s"`: neighbours that differ in one coordinate by a
            straight line, others by an S whose ends are straight. `"round"`: by straight lines
            with round corners. `"bezier"`: they are the ends and control points of cubic curves.
    """

    points: tuple[Point, ...]
    label: Rectangle | None
    branches: bool
    curve: str = "s"


class Mark(NamedTuple):
    """Something besides boxes and edges.

    Attributes:
        kind: `"band"`, a group of rows; `"heading"` of a column; `"cut"`, a dashed line; `"bar"` of
            a chart; `"caption"`.
        place: where.
        text: what stands there.
        details: the hover text.
    """

    kind: str
    place: Rectangle
    text: str
    details: str = ""


class Layout(NamedTuple):
    """The places of boxes and the lines of edges, in the order they were given, and the size."""

    boxes: tuple[Rectangle, ...]
    routes: tuple[Route, ...]
    width: float
    height: float
    marks: tuple[Mark, ...] = ()


def simplified(points: Sequence[Point]) -> tuple[Point, ...]:
    """Without repeated points, and without those inside a straight piece."""
    kept: list[Point] = []
    for point in points:
        if kept and point == kept[-1]:
            continue
        if len(kept) > 1 and (
            kept[-2][1] == kept[-1][1] == point[1] or kept[-2][0] == kept[-1][0] == point[0]
        ):
            kept.pop()
        kept.append(point)
    return tuple(kept)
