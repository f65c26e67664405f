"""A scene, laid out, as the text of an SVG picture.

Everything is said in presentation attributes, without style sheets, markers or references, so that
the picture looks alike in browsers, notebooks and converters. The same scene gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import pairwise
from math import ceil
from typing import NamedTuple

from .layered import Layout, Point, Rectangle, Route, Size, layout
from .scene import Box, Edge, Scene
from .text import is_certain, shorten, width

FONT = "'DejaVu Sans Mono', ui-monospace, monospace"

# Every colour there is. Texts have a contrast of at least 4.5 to what is behind them (WCAG AA).
THEMES = {
    "light": {
        "background": "#ffffff",
        "text": "#1c2430",
        "quiet": "#5b6675",
        "gradient": "#b02a1a",
        "edge": "#6b7787",
        "constant edge": "#a9b1bc",
        "local": "#5b3fa8",
        "root": "#c77700",
        "leaf": "#f1f8f2",
        "leaf header": "#cfe8d3",
        "leaf border": "#3f8a52",
        "inner": "#fbfcfe",
        "inner header": "#dbe7f6",
        "inner border": "#5a7ba6",
        "constant": "#f4f4f4",
        "constant header": "#e6e6e6",
        "constant border": "#9a9a9a",
    },
    "dark": {
        "background": "#14181f",
        "text": "#e8ecf2",
        "quiet": "#a3adba",
        "gradient": "#ff9c8a",
        "edge": "#8794a6",
        "constant edge": "#5a6472",
        "local": "#c3b0ff",
        "root": "#ffb443",
        "leaf": "#17241b",
        "leaf header": "#24452e",
        "leaf border": "#62b878",
        "inner": "#1b222d",
        "inner header": "#2a3d58",
        "inner border": "#7d9fcc",
        "constant": "#202226",
        "constant header": "#33363b",
        "constant border": "#80858d",
    },
}

TITLE, ROW, LOCAL = 13.0, 12.0, 11.0  # sizes of the fonts of headers, rows and edges
HEADER, LINE, COMPACT = 23.0, 17.0, 22.0  # heights
PAD = 9.0  # from a box's border to its text
SPACE = 12.0  # between two texts on a line
BLANK = 7.0  # between words
# At most, in ems; what is longer ends in an ellipsis, and the hover text has all of it.
LONGEST_TITLE, LONGEST_ROW, LONGEST_LOCAL = 16.0, 28.0, 14.0
CORNER = {"leaf": 8.0, "inner": 3.0, "constant": 8.0}


class Text(NamedTuple):
    """A line of text in a box: relative to the box's upper left corner, `y` of its baseline.

    Attributes:
        text: what it says, short enough.
        x, y: where it begins, or ends if `anchor` is `"end"`.
        size: of the font.
        colour: a name in the theme.
    """

    text: str
    x: float
    y: float
    anchor: str
    size: float
    colour: str
    bold: bool = False

    @property
    def span(self) -> tuple[float, float]:
        """Where it begins and ends at most."""
        w = width(self.text, self.size)
        return (self.x, self.x + w) if self.anchor == "start" else (self.x - w, self.x)


def render(scene: Scene, direction: str = "LR", theme: str = "light") -> str:
    """The picture of a scene.

    Args:
        scene: what to draw.
        direction: `"LR"` from left to right, or `"TB"` from top to bottom.
        theme: `"light"` or `"dark"`.
    """
    return _Painter(THEMES[theme]).picture(scene, place(scene, direction))


def place(scene: Scene, direction: str) -> Layout:
    """The layout of a scene's boxes and edges."""
    sizes = [size_of(box) for box in scene.boxes]
    edges = [(edge.source, edge.target, label_size(edge)) for edge in scene.edges]
    ordered = [i for i, box in enumerate(scene.boxes) if box.is_ordered]
    return layout(sizes, edges, ordered, direction)


# --- sizes --------------------------------------------------------------------------------------


def label_size(edge: Edge) -> Size | None:
    """The size of an edge's label; None if it has none."""
    if not edge.text:
        return None
    return _even(width(_local(edge), LOCAL) + 6), 16.0


def _local(edge: Edge) -> str:
    return shorten(edge.text, LONGEST_LOCAL)


def _even(length: float) -> float:
    """Rounded up, so that halves are whole."""
    return 2.0 * ceil(length / 2)


def size_of(box: Box) -> Size:
    """The size of a box that holds its texts."""
    return _even(max(_widths(box), default=0.0) + 2 * PAD), _height(box)


def _height(box: Box) -> float:
    if box.is_compact:
        return COMPACT
    return (HEADER if _has_header(box) else 4.0) + LINE * len(box.rows) + 6.0


def _has_header(box: Box) -> bool:
    return bool(box.label or box.symbol) and not box.is_compact


def _widths(box: Box) -> Iterator[float]:
    """The widths that the lines of a box need."""
    if box.is_compact:
        yield _compact_width(box)
        return
    label, symbol = _title(box)
    yield width(label, TITLE) + (SPACE if label and symbol else 0.0) + width(symbol, TITLE)
    for heading, value in box.rows:
        # Rows without a heading stand in the same columns as those with one.
        yield width(heading or "data", ROW) + SPACE + width(shorten(value, LONGEST_ROW), ROW)


def _title(box: Box) -> tuple[str, str]:
    return shorten(box.label, LONGEST_TITLE), shorten(box.symbol, LONGEST_TITLE)


def _compact(box: Box) -> tuple[str, ...]:
    """The texts of a compact box, apart: a label in Hebrew would draw its value to its left."""
    value = shorten(box.rows[0][1], LONGEST_ROW)
    return (shorten(box.label, LONGEST_TITLE), "=", value) if box.label else (value,)


def _compact_width(box: Box) -> float:
    parts = _compact(box)
    return sum(width(text, ROW) for text in parts) + BLANK * (len(parts) - 1)


# --- texts --------------------------------------------------------------------------------------


def texts(box: Box) -> Iterator[Text]:
    """The texts of a box, with their places in it."""
    w, _ = size_of(box)
    if box.is_compact:
        x = (w - _compact_width(box)) / 2
        for text in _compact(box):
            yield Text(text, x, 15.0, "start", ROW, "text")
            x += width(text, ROW) + BLANK
        return
    label, symbol = _title(box)
    if label:
        yield Text(label, PAD, 16.0, "start", TITLE, "text", bold=True)
    if symbol and label:
        yield Text(symbol, w - PAD, 16.0, "end", TITLE, "text")
    elif symbol:
        yield Text(symbol, (w - width(symbol, TITLE)) / 2, 16.0, "start", TITLE, "text")
    y = (HEADER if _has_header(box) else 4.0) + 13.0
    current = ""
    for heading, value in box.rows:
        current = heading or current
        if heading:
            yield Text(heading, PAD, y, "start", ROW, "quiet")
        colour = "gradient" if current == "grad" else "text"
        yield Text(shorten(value, LONGEST_ROW), w - PAD, y, "end", ROW, colour)
        y += LINE


# --- drawing ------------------------------------------------------------------------------------


def _n(x: float) -> str:
    """A coordinate, in as few characters as it takes."""
    return f"{x:.2f}".rstrip("0").rstrip(".")


def _tag(name: str, content: str | None = None, /, **attributes: str | float) -> str:
    """An element; `_` in the name of an attribute stands for `-`."""
    pairs = (
        f' {key.replace("_", "-")}="{escape(x) if isinstance(x, str) else _n(x)}"'
        for key, x in attributes.items()
    )
    end = "/>" if content is None else f">{content}</{name}>"
    return f"<{name}{''.join(pairs)}{end}"


class _Painter:
    """Draws with the colours of one theme."""

    def __init__(self, colours: dict[str, str]) -> None:
        self.colours = colours

    def picture(self, scene: Scene, result: Layout) -> str:
        size = {"width": result.width, "height": result.height}
        lines = [
            _tag("rect", **size, fill=self.colours["background"]),
            *(
                self.line(f"e{i}", edge, route)
                for i, (edge, route) in enumerate(zip(scene.edges, result.routes, strict=True))
            ),
            *(
                self.local(edge, route.label)
                for edge, route in zip(scene.edges, result.routes, strict=True)
                if route.label
            ),
            *(
                self.box(f"n{i}", box, place)
                for i, (box, place) in enumerate(zip(scene.boxes, result.boxes, strict=True))
            ),
        ]
        return _tag(
            "svg",
            "\n" + "\n".join(lines) + "\n",
            xmlns="http://www.w3.org/2000/svg",
            **size,
            viewBox=f"0 0 {_n(result.width)} {_n(result.height)}",
            role="img",
            aria_label=f"Computation graph of {scene.boxes[-1].name}, {len(scene.boxes)} boxes",
            font_family=FONT,
        )

    def line(self, name: str, edge: Edge, route: Route) -> str:
        """The line of an edge, with its arrowhead, and a dot where it leaves another's."""
        colour = self.colours["edge" if edge.text else "constant edge"]
        shapes = [
            _tag("title", escape(edge.details)),
            _tag("path", d=_path(route.points), fill="none", stroke=colour, stroke_width=1.4),
            _tag("path", d=_arrowhead(route.points), fill=colour),
        ]
        if route.branches:
            x, y = route.points[0]
            shapes.append(_tag("circle", cx=x, cy=y, r=2.4, fill=colour))
        return _tag("g", "".join(shapes), id=name)

    def local(self, edge: Edge, place: Rectangle) -> str:
        """The local derivative, on its edge's line, which it interrupts."""
        text = _local(edge)
        w = width(text, LOCAL)
        left = Text(text, place.x + (place.width - w) / 2, place.y + 12, "start", LOCAL, "local")
        return _tag(
            "g",
            _tag("title", escape(edge.details))
            + _rect(place, fill=self.colours["background"])
            + self.text(left, 0.0, 0.0),
        )

    def box(self, name: str, box: Box, place: Rectangle) -> str:
        colours, kind = self.colours, box.kind
        corner = place.height / 2 if box.is_compact else CORNER[kind]
        border = colours["root" if box.is_root else f"{kind} border"]
        shapes = [
            _tag("title", escape("\n".join(box.details))),
            _rect(place, rx=corner, fill=colours[kind]),
        ]
        if _has_header(box):
            shapes.append(_tag("path", d=_top(place, corner), fill=colours[f"{kind} header"]))
        dashes: dict[str, str | float] = {"stroke_dasharray": "4 3"} if kind == "constant" else {}
        thickness = 2.8 if box.is_root else 1.3
        shapes.append(
            _rect(place, rx=corner, fill="none", stroke=border, stroke_width=thickness, **dashes)
        )
        shapes += (self.text(text, place.x, place.y) for text in texts(box))
        return _tag("g", "".join(shapes), id=name)

    def text(self, text: Text, x: float, y: float) -> str:
        attributes: dict[str, str | float] = {"font_size": text.size}
        if text.anchor != "start":
            attributes["text_anchor"] = text.anchor
        if text.bold:
            attributes["font_weight"] = "bold"
        if not is_certain(text.text):
            # The reader's font for these characters is unknown: squeeze them into their estimate.
            attributes["textLength"] = width(text.text, text.size)
            attributes["lengthAdjust"] = "spacingAndGlyphs"
        fill = self.colours[text.colour]
        return _tag("text", escape(text.text), x=x + text.x, y=y + text.y, fill=fill, **attributes)


def _rect(place: Rectangle, **attributes: str | float) -> str:
    x, y, w, h = place
    return _tag("rect", x=x, y=y, width=w, height=h, **attributes)


def _top(place: Rectangle, corner: float) -> str:
    """The header of a box: its upper part, with round upper corners."""
    x, y, w, _ = place
    r, bottom = _n(corner), _n(y + HEADER)
    return (
        f"M{_n(x)} {bottom}V{_n(y + corner)}a{r} {r} 0 0 1 {r} -{r}"
        f"H{_n(x + w - corner)}a{r} {r} 0 0 1 {r} {r}V{bottom}Z"
    )


def _is_downward(points: tuple[Point, ...]) -> bool:
    """Whether a line arrives from above; else it arrives from the left."""
    return points[-2][0] == points[-1][0]


def _path(points: tuple[Point, ...]) -> str:
    """A line through the points: straight, or an S between two that differ in both coordinates."""
    downward = _is_downward(points)
    *points_, (x, y) = points
    points = (*points_, (x, y - 5) if downward else (x - 5, y))  # the arrowhead covers the rest
    parts = [f"M{_n(points[0][0])} {_n(points[0][1])}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        end = f"{_n(x1)} {_n(y1)}"
        if x0 == x1 or y0 == y1:
            parts.append(f"L{end}")
        elif downward:
            middle = _n((y0 + y1) / 2)
            parts.append(f"C{_n(x0)} {middle} {_n(x1)} {middle} {end}")
        else:
            middle = _n((x0 + x1) / 2)
            parts.append(f"C{middle} {_n(y0)} {middle} {_n(y1)} {end}")
    return "".join(parts)


def _arrowhead(points: tuple[Point, ...]) -> str:
    x, y = points[-1]
    tip = f"M{_n(x)} {_n(y)}"
    return f"{tip}l-4 -8h8Z" if _is_downward(points) else f"{tip}l-8 -4v8Z"
