"""Lines side by side: tracks in a gap between two rows, and lines that share their beginning."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping

from .shapes import Point

CLEAR = 6.0  # between the ends of two lines on one track


class Tracks:
    """The lines across in one gap: each source has one, on a track where it meets no other.

    Where one line comes from above and another goes down at the same x, the first has a track above
    that of the second, or they would lie on one another.

    Attributes:
        count: of tracks.
    """

    def __init__(self) -> None:
        self.count = 0
        self._spans: dict[int, tuple[float, float]] = {}
        self._upper: dict[int, set[float]] = defaultdict(set)
        self._lower: dict[int, set[float]] = defaultdict(set)
        self._track: dict[int, int] = {}

    def add(self, source: int, start: float, end: float, *, upper: float, lower: float) -> None:
        """A line from `start` to `end`; at `upper` it comes from above, at `lower` goes down."""
        low, high = self._spans.get(source, (start, start))
        self._spans[source] = (min(low, start, end), max(high, start, end))
        self._upper[source].add(upper)
        self._lower[source].add(lower)

    @property
    def sources(self) -> list[int]:
        """Those that have a track."""
        return list(self._track)

    def of(self, source: int) -> int:
        """The number of a source's track, from above."""
        return self._track[source]

    def assign(self) -> None:
        """Find the tracks."""
        at: dict[float, list[int]] = defaultdict(list)
        for source, xs in self._upper.items():
            for x in xs:
                at[x].append(source)
        above: dict[int, set[int]] = defaultdict(set)  # whose tracks have to be above
        for source, xs in self._lower.items():
            for x in xs:
                above[source].update(other for other in at.get(x, ()) if other != source)
        pending = sorted(self._spans, key=lambda s: (self._spans[s][0] - self._spans[s][1], s))
        ends: list[list[tuple[float, float]]] = []
        while pending:
            # With a circle among them somebody has to begin.
            chosen = next((s for s in pending if not above[s] & set(pending)), pending[0])
            pending.remove(chosen)
            low, high = self._spans[chosen]
            track = 1 + max((self._track[o] for o in above[chosen] if o in self._track), default=-1)
            while track < len(ends) and any(
                low < b + CLEAR and a < high + CLEAR for a, b in ends[track]
            ):
                track += 1
            while track >= len(ends):
                ends.append([])
            ends[track].append((low, high))
            self._track[chosen] = track
        self.count = len(ends)


def branched(
    lines: Mapping[int, tuple[Point, ...]],
) -> dict[int, tuple[tuple[Point, ...], bool]]:
    """Lines of one source, the longest in full, the others from where they leave those before.

    Args:
        lines: of horizontal and vertical pieces.

    Returns:
        For each its points, and whether it begins on another.
    """
    drawn: list[tuple[Point, Point]] = []
    result = {}
    for key in sorted(lines, key=lambda k: (-_length(lines[k]), k)):
        points = lines[key]
        kept, branches = _from_last_meeting(points, drawn)
        result[key] = (kept, branches)
        drawn += itertools.pairwise(kept)
    return result


def _length(points: tuple[Point, ...]) -> float:
    return sum(abs(x1 - x0) + abs(y1 - y0) for (x0, y0), (x1, y1) in itertools.pairwise(points))


def _from_last_meeting(
    points: tuple[Point, ...], drawn: list[tuple[Point, Point]]
) -> tuple[tuple[Point, ...], bool]:
    for i in range(len(points) - 2, -1, -1):
        start, end = points[i], points[i + 1]
        meetings = [m for piece in drawn if (m := _meeting(start, end, piece)) is not None]
        meetings = [m for m in meetings if m != points[-1]]
        if meetings:
            last = min(meetings, key=lambda m: abs(m[0] - end[0]) + abs(m[1] - end[1]))
            if last == points[0]:
                break
            return (last, *points[i + 1 :]) if last != end else points[i + 1 :], True
    return points, False


def _meeting(start: Point, end: Point, piece: tuple[Point, Point]) -> Point | None:
    """The point where a line from start to end meets a piece that is nearest to its end."""
    (ax, ay), (bx, by) = piece
    low, high = (min(ax, bx), min(ay, by)), (max(ax, bx), max(ay, by))
    x0, x1 = sorted((start[0], end[0]))
    y0, y1 = sorted((start[1], end[1]))
    left, right = max(x0, low[0]), min(x1, high[0])
    top, bottom = max(y0, low[1]), min(y1, high[1])
    if left > right or top > bottom:
        return None
    x = min(max(end[0], left), right)
    y = min(max(end[1], top), bottom)
    return x, y
