"""A layout along time: columns are steps, rows are quantities, and it grows in width only.

Lines run where no boxes are: across in the gaps between two rows, up and down in the gutters
between two columns, or through a free place in a column. In a gap every source has a track of its
own, in a gutter a lane; so lines cross, but never lie on one another. All lines of one source are
one line as far as they go together: a parameter's runs along its row of users.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import NamedTuple

from .alignment import aligned
from .measures import label_size, size_of
from .scene import Scene
from .shapes import Layout, Mark, Point, Rectangle, Route, Size, simplified
from .text import number
from .time_grid import AFTER, BEFORE, GIVEN, Grid, grid_of
from .tracks import Tracks, branched

MARGIN = 16.0
HEADING = 24.0  # the height of the line above the columns
HEADED = 80.0  # the least width of a column, for what stands above it
SLOT = 14.0  # between two boxes of a row
TRACK, LANE = 8.0, 8.0  # between two lines
CLEAR = 8.0  # between a line and what it passes
STUB = 12.0  # the straight end of a line: its arrowhead
PORT = 20.0  # between the ends of two lines at one box
BAR = 46.0  # the height of the chart below the columns
STACK = 16.0  # between two parameters
AT_LEFT = 2  # lines that arrive at the left of a box, at most


class _Plan(NamedTuple):
    """How an edge runs.

    Attributes:
        leaves: `"right"` or `"bottom"` of its source.
        arrives: `"left"` or `"top"` of its target.
        gutter: the column at whose left it goes up or down; -1 for none.
        lane: or the place in the column where it does, from the column's left; None for none.
    """

    leaves: str
    arrives: str
    gutter: int = -1
    lane: float | None = None


def in_time(scene: Scene) -> Layout:
    """The layout of an unrolled graph.

    Raises:
        ValueError: no box has a time step.
    """
    return _Columns(scene, grid_of(scene)).layout()


class _Columns:
    """Coordinates for a grid: first those across, then lines, then those down."""

    def __init__(self, scene: Scene, grid: Grid) -> None:
        self.scene, self.grid = scene, grid
        self.edges = scene.edges
        self.labels: list[Size | None] = [label_size(edge) for edge in scene.edges]
        self.sizes = [size_of(box) for box in scene.boxes]
        self.column = [cell[0] for cell in grid.cells]
        self.row = [cell[1] for cell in grid.cells]
        self.given = {i for i, (_, row, _) in enumerate(grid.cells) if row < 0}
        self._ends_of_rows()
        self._left_count: Counter[int] = Counter()
        self.plans = [self._sides(i) for i in range(len(self.edges))]
        self.leaving: dict[tuple[int, int], set[int]] = defaultdict(set)
        for plan, edge in zip(self.plans, self.edges, strict=True):
            if plan.leaves == "right":
                place = self.column[edge.source], self.row[edge.source]
                self.leaving[place].add(edge.source)
        self._ports_needed()
        self._across()
        self._find_lanes()
        self._absolute()

    # --- sides ----------------------------------------------------------------------------------

    def _ends_of_rows(self) -> None:
        """Which boxes are the first and the last of their row in their column."""
        rows: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, (column, row, _) in enumerate(self.grid.cells):
            if row >= 0:
                rows[column, row].append(i)
        by_slot = [sorted(each, key=lambda i: self.grid.cells[i][2]) for each in rows.values()]
        self.first = {each[0] for each in by_slot}
        self.last = {each[-1] for each in by_slot}

    def _sides(self, e: int) -> _Plan:
        source, target = self.edges[e].source, self.edges[e].target
        a, b = self.column[source], self.column[target]
        if source in self.given:
            return _Plan("right", "top", a + 1)
        if a == b:
            return _Plan("bottom", "top")
        is_right = a < b and source in self.last
        if b == a + 1 and target in self.first and self._count_left(target) <= AT_LEFT:
            return _Plan("right" if is_right else "bottom", "left", b)
        if is_right:
            return _Plan("right", "top", a + 1)
        return _Plan("bottom", "top", a + 1 if a < b else a)

    def _count_left(self, target: int) -> int:
        """Count one more line that could arrive at the left of a box."""
        self._left_count[target] += 1
        return self._left_count[target]

    # --- across ---------------------------------------------------------------------------------

    def _ports_needed(self) -> None:
        """The lines that arrive at the top of each box, and how wide the box has to be for them."""
        self.tops: dict[int, list[int]] = defaultdict(list)
        self.lefts: dict[int, list[int]] = defaultdict(list)
        for e, (edge, plan) in enumerate(zip(self.edges, self.plans, strict=True)):
            (self.tops if plan.arrives == "top" else self.lefts)[edge.target].append(e)

    def _pitch(self, e: int) -> float:
        """The room that the end of a line takes at the top of a box."""
        label = self.labels[e]
        return max(PORT, label[0] + 6.0 if label else 0.0)

    def _across(self) -> None:
        """Widths of slots, and their places from the left of the column."""
        self.kinds = kinds = [c if isinstance(c, str) else "step" for c in self.grid.columns]
        # Parameters stand below one another, each in a row of its own.
        slot_of = [(row, slot) if row >= 0 else (-1 - i, 0)
                   for i, (_, row, slot) in enumerate(self.grid.cells)]  # fmt: skip
        widths: dict[str, dict[tuple[int, int], float]] = defaultdict(dict)
        for i, slot in enumerate(slot_of):
            needed = sum(map(self._pitch, self.tops[i])) + 8.0 if self.tops[i] else 0.0
            width = max(self.sizes[i][0], 2.0 * round(needed / 2 + 0.5))
            of_kind = widths[kinds[self.column[i]]]
            of_kind[slot] = max(of_kind.get(slot, 0.0), width)
        pairs: dict[str, dict[tuple[tuple[int, int], tuple[int, int]], None]] = defaultdict(dict)
        for edge in self.edges:
            if self.column[edge.source] == self.column[edge.target]:
                ends = slot_of[edge.source], slot_of[edge.target]
                pairs[kinds[self.column[edge.source]]][ends] = None
        computed = {slot_of[edge.target] for edge in self.edges}
        light = set(slot_of) - computed
        lefts = {kind: aligned(widths[kind], pairs[kind], SLOT, light) for kind in widths}
        self.width, shift = {}, {}
        for kind, places in lefts.items():
            wide = max(x + widths[kind][slot] for slot, x in places.items())
            self.width[kind] = max(wide, HEADED)
            shift[kind] = (self.width[kind] - wide) / 2
        self.span: list[tuple[float, float]] = []  # of each box, from the left of its column
        for i, slot in enumerate(slot_of):
            kind = kinds[self.column[i]]
            left = lefts[kind][slot] + shift[kind]
            self.span.append((left, left + widths[kind][slot]))

    def _middle(self, i: int) -> float:
        left, right = self.span[i]
        return (left + right) / 2

    def _port_order(self, target: int) -> list[int]:
        """The lines at the top of a box: in the order of operands, or of where they come from."""
        if self.scene.boxes[target].is_ordered:
            return self.tops[target]

        def origin(e: int) -> tuple[float, float]:
            source = self.edges[e].source
            column = self.column[source]
            if column != self.column[target]:
                return -1.0 if column < self.column[target] else 1.0, 0.0
            return 0.0, self._middle(source)

        return sorted(self.tops[target], key=origin)

    def _set_ports(self) -> None:
        self.port: dict[int, float] = {}
        for target in self.tops:
            order = self._port_order(target)
            pitches = [self._pitch(e) for e in order]
            x = self._middle(target) - sum(pitches) / 2
            for e, pitch in zip(order, pitches, strict=True):
                self.port[e] = x + pitch / 2
                x += pitch

    def _find_lanes(self) -> None:
        """A way through its column for each line that passes a row; else through the gutter."""
        self._set_ports()
        occupied: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, (column, row, _) in enumerate(self.grid.cells):
            if row >= 0:
                occupied[column, row].append(i)
        taken: dict[int, list[tuple[float, int, int, int]]] = defaultdict(list)
        for e, edge in enumerate(self.edges):
            source, target = edge.source, edge.target
            if self.plans[e].gutter >= 0 or self.row[target] == self.row[source] + 1:
                continue
            column, top, bottom = self.column[source], self.row[source], self.row[target]
            x = None
            if top < bottom:
                walls = [self.span[i] for r in range(top + 1, bottom)
                         for i in occupied[column, r]]  # fmt: skip
                ends = [self._middle(i) for i in occupied[column, top] if i != source]
                ends += [self.port[o] for i in occupied[column, bottom]
                         for o in self.tops[i] if o != e]  # fmt: skip
                used = [t for t in taken[column] if t[3] != source and t[1] < bottom and top < t[2]]
                walls += [(x, x) for x, *_ in used] + [(x, x) for x in ends]
                width = self.width[self.kinds[column]]
                x = _free(self._middle(source), self.port[e], walls, width)
            if x is None:
                self.plans[e] = _Plan("bottom", "top", column)
            else:
                self.plans[e] = _Plan("bottom", "top", -1, x)
                taken[column].append((x, top, bottom, source))

    def _absolute(self) -> None:
        """The left of each column, with gutters for their lanes and labels in front of them."""
        count = len(self.grid.columns)
        lanes: list[dict[int, int]] = [{} for _ in range(count + 1)]
        rooms = [0.0] * (count + 1)
        for e, plan in enumerate(self.plans):
            if plan.gutter >= 0:
                source = self.edges[e].source
                lanes[plan.gutter].setdefault(source, len(lanes[plan.gutter]))
            label = self.labels[e]
            if plan.arrives == "left" and label:
                rooms[plan.gutter] = max(rooms[plan.gutter], label[0])
        steps = [c for c in range(1, count) if self.kinds[c] == self.kinds[c - 1] == "step"]
        most = max((len(lanes[c]) for c in steps), default=0)
        widest = max((rooms[c] for c in steps), default=0.0)
        self.left: list[float] = []
        self.gutter: list[float] = []
        x = MARGIN
        for c in range(count):
            self.gutter.append(x)
            tracks, room = (most, widest) if c in steps else (len(lanes[c]), rooms[c])
            cut = 10.0 if c in self.grid.cuts else 0.0
            gap = 2 * CLEAR + LANE * tracks + room + STUB + cut if c else LANE * tracks
            self.left.append(x + gap)
            x += gap + self.width[self.kinds[c]]
        self.gutter.append(x)
        self.lane_x = [
            {s: self.gutter[c] + CLEAR + LANE * k + (10.0 if c in self.grid.cuts else 0.0)
             for s, k in each.items()}
            for c, each in enumerate(lanes)
        ]  # fmt: skip
        self.right = x + (2 * CLEAR + LANE * len(lanes[count]) if lanes[count] else 0.0)

    # --- down -----------------------------------------------------------------------------------

    def layout(self) -> Layout:
        """The whole layout."""
        gaps = self._gaps()
        has_label = [False] * self.grid.rows
        for e, plan in enumerate(self.plans):
            if plan.arrives == "top" and self.labels[e]:
                has_label[self.row[self.edges[e].target]] = True
        heights = [0.0] * self.grid.rows
        for i, row in enumerate(self.row):
            if row >= 0:
                heights[row] = max(heights[row], self.sizes[i][1])
        y = MARGIN + HEADING
        self.gap_y: list[float] = []  # of the first track of the gap above a row
        self.top: list[float] = []
        firsts = {first for first, _, _ in self.grid.bands}
        for row in range(self.grid.rows):
            if row in firsts:
                y += 26.0
            self.gap_y.append(y + CLEAR)
            label = 20.0 if has_label[row] else 0.0
            y += 2 * CLEAR + TRACK * (gaps[row].count - 1) + label + STUB
            self.top.append(y)
            y += heights[row]
        self.gap_y.append(y + CLEAR)
        if gaps[self.grid.rows].count:
            y += 2 * CLEAR + TRACK * (gaps[self.grid.rows].count - 1)
        self.heights, self.tracks = heights, gaps
        boxes = self._boxes()
        bottom = max([y, *(box.y + box.height for box in boxes)])
        routes = self._routes(boxes)
        marks, bottom = self._marks(bottom, boxes)
        return Layout(tuple(boxes), tuple(routes), self.right + MARGIN, bottom + MARGIN, marks)

    def _ends(self, e: int) -> tuple[float, float, float]:
        """Where a line leaves its source, goes up or down, and arrives: three x."""
        plan, edge = self.plans[e], self.edges[e]
        a, b = self.left[self.column[edge.source]], self.left[self.column[edge.target]]
        start = a + (self.span[edge.source][1] if plan.leaves == "right" else
                     self._middle(edge.source))  # fmt: skip
        end = b + (self.port[e] if plan.arrives == "top" else self.span[edge.target][0])
        if plan.gutter >= 0:
            return start, self.lane_x[plan.gutter][edge.source], end
        return start, start if plan.lane is None else a + plan.lane, end

    def _gaps(self) -> list[Tracks]:
        """The lines across in the gap above each row, and below the last."""
        gaps = [Tracks() for _ in range(self.grid.rows + 1)]
        for e, (plan, edge) in enumerate(zip(self.plans, self.edges, strict=True)):
            start, lane, end = self._ends(e)
            below, above = self.row[edge.source] + 1, self.row[edge.target]
            if plan.leaves == "bottom" and plan.gutter < 0 and plan.lane is None:
                gaps[above].add(edge.source, start, end, upper=start, lower=end)
                continue
            if plan.leaves == "bottom":
                gaps[below].add(edge.source, start, lane, upper=start, lower=lane)
            if plan.arrives == "top":
                gaps[above].add(edge.source, lane, end, upper=lane, lower=end)
        for gap in gaps:
            gap.assign()
        return gaps

    def _boxes(self) -> list[Rectangle]:
        places: list[Rectangle] = []
        for i, (column, row, _) in enumerate(self.grid.cells):
            left, right = self.span[i]
            height = self.sizes[i][1]
            y = self.top[row] + (self.heights[row] - height) / 2 if row >= 0 else 0.0
            places.append(Rectangle(self.left[column] + left, y, right - left, height))
        self._place_given(places)
        return places

    def _place_given(self, places: list[Rectangle]) -> None:
        """Parameters below one another, each by its first user if it can be."""
        wanted = dict.fromkeys(sorted(self.given), self.gap_y[-1])
        for edge in self.edges:
            if edge.source in wanted:
                own = self._track(self.row[edge.target], edge.source)
                wanted[edge.source] = min(wanted[edge.source], own)
        tracks = {
            (source, self._track(gap, source))
            for gap, of_gap in enumerate(self.tracks)
            for source in of_gap.sources
        }
        y = MARGIN + HEADING
        for i in sorted(wanted, key=lambda i: (wanted[i], i)):
            y = max(y, wanted[i] - places[i].height / 2)
            # Its line must not begin at the height of another's track.
            others = [t for source, t in tracks if source != i]
            while any(abs(y + places[i].height / 2 - t) < TRACK / 2 for t in others):
                y += TRACK / 4
            places[i] = places[i]._replace(y=y)
            y += places[i].height + STACK

    # --- lines ----------------------------------------------------------------------------------

    def _routes(self, boxes: list[Rectangle]) -> list[Route]:
        lines = [self._line(e, boxes) for e in range(len(self.edges))]
        sources: dict[int, list[int]] = defaultdict(list)
        for e, edge in enumerate(self.edges):
            sources[edge.source].append(e)
        routes: list[Route | None] = [None] * len(lines)
        for several in sources.values():
            for e, (points, branches) in branched({e: lines[e] for e in several}).items():
                routes[e] = Route(points, self._label(e, points), branches, "round")
        return [route for route in routes if route]

    def _line(self, e: int, boxes: list[Rectangle]) -> tuple[Point, ...]:
        plan, edge = self.plans[e], self.edges[e]
        start, lane, end = self._ends(e)
        source, target = boxes[edge.source], boxes[edge.target]
        below, above = self.row[edge.source] + 1, self.row[edge.target]
        points: list[Point] = []
        if plan.leaves == "right":
            y = source.y + source.height / 2
            points += [(start, y), (lane, y)]
        else:
            is_next = plan.gutter < 0 and plan.lane is None
            gap = above if is_next else below
            y = self._track(gap, edge.source)
            points += [(start, source.y + source.height), (start, y)]
            points.append((end if is_next else lane, y))
        if plan.arrives == "top":
            y = self._track(above, edge.source)
            points += [(lane, y)] if points[-1][0] == lane else []
            points += [(end, y), (end, target.y)]
        else:
            y = target.y + target.height / 2 + self._offset(e)
            points += [(lane, y), (end, y)]
        return simplified(points)

    def _offset(self, e: int) -> float:
        """How far from the middle of its target's left side a line arrives.

        In the middle only if no other line can leave the row there, in the column before.
        """
        target = self.edges[e].target
        lefts = self.lefts[target]
        if len(lefts) > 1:
            return (lefts.index(e) - (len(lefts) - 1) / 2) * PORT
        leaving = self.leaving[self.column[target] - 1, self.row[target]]
        return 0.0 if leaving <= {self.edges[e].source} else -8.0

    def _track(self, gap: int, source: int) -> float:
        return self.gap_y[gap] + TRACK * self.tracks[gap].of(source)

    def _label(self, e: int, points: tuple[Point, ...]) -> Rectangle | None:
        size = self.labels[e]
        if size is None:
            return None
        x, y = points[-1]
        if self.plans[e].arrives == "top":
            return Rectangle(x - size[0] / 2, y - STUB - size[1], *size)
        return Rectangle(x - STUB - size[0], y - size[1] / 2, *size)

    # --- marks ----------------------------------------------------------------------------------

    def _marks(self, bottom: float, boxes: list[Rectangle]) -> tuple[tuple[Mark, ...], float]:
        marks: list[Mark] = []
        start = self.gutter[1] if self.grid.columns[0] == GIVEN else MARGIN / 2
        for first, last, name in self.grid.bands:
            y, end = self.gap_y[first] - CLEAR - 22.0, self.top[last] + self.heights[last] + 4.0
            place = Rectangle(start, y, self.right - start + 4.0, end - y)
            marks.append(Mark("band", place, name))
        for c, column in enumerate(self.grid.columns):
            place = Rectangle(self.left[c], MARGIN, self.width[self.kinds[c]], 16.0)
            marks.append(Mark("heading", place, self._heading(c, column)))
        for c in self.grid.cuts:
            place = Rectangle(self.gutter[c], MARGIN, 2 * CLEAR, bottom - MARGIN)
            details = "a state was detached here: no gradient flows further back"
            marks.append(Mark("cut", place, "cut", details))
        if self.scene.strip:
            bottom = self._strip(marks, bottom)
        return tuple(marks), bottom

    def _heading(self, c: int, name: int | str) -> str:
        if isinstance(name, str):
            return {GIVEN: "parameters", BEFORE: "before", AFTER: "after"}[name]
        for box, cell in zip(self.scene.boxes, self.grid.cells, strict=True):
            if cell[0] == c and box.kind == "group" and box.quantity == "…":
                return "…"
        return f"step {name}"

    def _strip(self, marks: list[Mark], bottom: float) -> float:
        """A bar for each step, and its number: how much gradient comes to its state."""
        what, norms = self.scene.strip or ("", {})
        shown = {c: norms[n] for c, n in enumerate(self.grid.columns)
                 if isinstance(n, int) and n in norms}  # fmt: skip
        heights, scale = bars(list(shown.values()))
        place = Rectangle(MARGIN, bottom + 8.0, 0.0, 0.0)
        marks.append(Mark("caption", place, f"{what} by step{scale}"))
        base = bottom + 8.0 + 18.0 + 18.0 + BAR
        for (column, norm), height in zip(shown.items(), heights, strict=True):
            width = min(44.0, self.width["step"])
            x = self.left[column] + (self.width["step"] - width) / 2
            height = max(1.0, round(BAR * height, 1))
            text = f"{what} at step {self.grid.columns[column]}: {norm!r}"
            marks.append(
                Mark("bar", Rectangle(x, base - height, width, height), number(norm), text)
            )
        return base


def bars(values: list[float]) -> tuple[list[float], str]:
    """Heights from 0 to 1, on a logarithmic scale where a linear one would show nothing."""
    good = [v for v in values if math.isfinite(v) and v > 0]
    largest, least = max(good, default=1.0), min(good, default=1.0)
    if largest / least < 100:
        return [v / largest if v in good else 0.0 for v in values], ""
    low, high = math.floor(math.log10(least)) - 0.5, math.log10(largest)
    heights = [(math.log10(v) - low) / (high - low) if v in good else 0.0 for v in values]
    return heights, ", on a logarithmic scale"


def _free(start: float, end: float, walls: list[tuple[float, float]], width: float) -> float | None:
    """An x in a column that keeps clear of all walls, with the shortest way from start to end."""
    candidates = [start, end]
    for low, high in walls:
        candidates += [low - CLEAR, high + CLEAR]
    good = [
        x
        for x in candidates
        if 0.0 <= x <= width and not any(a - CLEAR < x < b + CLEAR for a, b in walls)
    ]
    return min(good, key=lambda x: (abs(x - start) + abs(x - end), x), default=None)
