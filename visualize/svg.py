"""A scene, laid out, as the text of an SVG picture.

Everything is said in presentation attributes, without style sheets, markers or references, so that
the picture looks alike in browsers, notebooks and converters. The same scene gives the same bytes.
The groups of boxes have the ids `n0`, `n1`, ..., those of edges `e0`, `e1`, ..., by their places
in the scene.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from html import escape

from . import heat
from .lines import arrowhead, path_of, written as _n
from .measures import (
    CORNER,
    HEADER,
    LOCAL,
    ROW,
    Text,
    has_header,
    label_size,
    local_text,
    maps_of,
    size_of,
    texts,
)
from .placing import place
from .scene import Box, Edge, Heat, Scene
from .shapes import Layout, Mark, Rectangle, Route
from .text import ADVANCE, is_certain, shorten, width
from .themes import THEMES

__all__ = ["THEMES", "label_size", "place", "render", "size_of", "texts"]

FONT = "'DejaVu Sans Mono', ui-monospace, monospace"
DIM = 0.22  # the opacity of what is not highlighted
NOTE = 15.0  # the height of a line of the note


def render(
    scene: Scene, direction: str = "LR", theme: str = "light", layout: str = "layered"
) -> str:
    """The picture of a scene.

    Args:
        scene: what to draw.
        direction: `"LR"` from left to right, or `"TB"` from top to bottom.
        theme: `"light"` or `"dark"`.
        layout: `"layered"`, `"time"` or `"dot"`.
    """
    return _Painter(theme).picture(scene, place(scene, direction, layout))


def _tag(name: str, content: str | None = None, /, **attributes: str | float) -> str:
    """An element; `_` in the name of an attribute stands for `-`."""
    pairs = (
        f' {key.replace("_", "-")}="{escape(x) if isinstance(x, str) else _n(x)}"'
        for key, x in attributes.items()
    )
    end = "/>" if content is None else f">{content}</{name}>"
    return f"<{name}{''.join(pairs)}{end}"


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


class _Painter:
    """Draws with the colours of one theme."""

    def __init__(self, theme: str) -> None:
        self.theme = theme
        self.colours = THEMES[theme]

    def picture(self, scene: Scene, result: Layout) -> str:
        note, wide, high = self.note(scene.note, result)
        size = {"width": wide, "height": high}
        order = sorted(range(len(scene.edges)), key=lambda i: scene.edges[i].emphasis == "high")
        lines = [
            _tag("rect", **size, fill=self.colours["background"]),
            *(self.mark(mark) for mark in result.marks),
            *(self.line(f"e{i}", scene.edges[i], result.routes[i]) for i in order),
            *(
                self.local(edge, route.label)
                for edge, route in zip(scene.edges, result.routes, strict=True)
                if route.label
            ),
            *(
                self.box(f"n{i}", box, place)
                for i, (box, place) in enumerate(zip(scene.boxes, result.boxes, strict=True))
            ),
            *note,
        ]
        name = scene.boxes[-1].name if scene.boxes else "nothing"
        return _tag(
            "svg",
            "\n" + "\n".join(lines) + "\n",
            xmlns="http://www.w3.org/2000/svg",
            **size,
            viewBox=f"0 0 {_n(wide)} {_n(high)}",
            role="img",
            aria_label=f"Computation graph of {name}, {len(scene.boxes)} boxes",
            font_family=FONT,
        )

    def note(self, note: str, result: Layout) -> tuple[list[str], float, float]:
        """The note below the picture, and the size of both."""
        if not note:
            return [], result.width, result.height
        per_line = max(40, int((result.width - 32) / (ADVANCE * LOCAL)))
        lines = textwrap.wrap(note, per_line)
        wide = max(result.width, 32 + max(width(line, LOCAL) for line in lines))
        texts = [
            self.text(Text(line, 16, 8 + NOTE * i, "start", LOCAL, "quiet"), 0, result.height)
            for i, line in enumerate(lines)
        ]
        return texts, wide, result.height + NOTE * len(lines) + 6

    # --- edges ----------------------------------------------------------------------------------

    def line(self, name: str, edge: Edge, route: Route) -> str:
        """The line of an edge, with its arrowhead, and a dot where it leaves another's."""
        is_high = edge.emphasis == "high"
        colour = self.colours["highlight" if is_high else "edge" if edge.flows else "constant edge"]
        thickness = 2.6 if is_high else 1.4
        shapes = [
            _tag("title", escape(edge.details)),
            _tag("path", d=path_of(route), fill="none", stroke=colour, stroke_width=thickness),
            _tag("path", d=arrowhead(route), fill=colour),
        ]
        if route.branches:
            x, y = route.points[0]
            shapes.append(_tag("circle", cx=x, cy=y, r=2.4, fill=colour))
        return _tag("g", "".join(shapes), id=name, **_opacity(edge.emphasis))

    def local(self, edge: Edge, place: Rectangle) -> str:
        """The local derivative, on its edge's line, which it interrupts."""
        text = local_text(edge)
        w = width(text, LOCAL)
        left = Text(text, place.x + (place.width - w) / 2, place.y + 12, "start", LOCAL, "local")
        return _tag(
            "g",
            _tag("title", escape(edge.details))
            + _rect(place, fill=self.colours["background"])
            + self.text(left, 0.0, 0.0),
            **_opacity(edge.emphasis),
        )

    # --- boxes ----------------------------------------------------------------------------------

    def box(self, name: str, box: Box, place: Rectangle) -> str:
        colours, kind = self.colours, box.kind
        title = f"{kind} header"
        corner = place.height / 2 if box.is_compact else CORNER[kind]
        is_high = box.emphasis == "high"
        border = colours["highlight" if is_high else "root" if box.is_root else f"{kind} border"]
        shapes = [
            _tag("title", escape("\n".join(box.details))),
            _rect(place, rx=corner, fill=colours[kind if box.rows or box.heat else title]),
        ]
        if has_header(box) and (box.rows or box.heat):
            shapes.append(_tag("path", d=_top(place, corner), fill=colours[title]))
        dashes: dict[str, str | float] = {"stroke_dasharray": "4 3"} if kind == "constant" else {}
        thickness = 2.8 if box.is_root or is_high else 1.3
        shapes.append(
            _rect(place, rx=corner, fill="none", stroke=border, stroke_width=thickness, **dashes)
        )
        shapes += (self.text(text, place.x, place.y) for text in texts(box, place.width))
        for map_, x, y in maps_of(box, place.width):
            shapes += self.heat(map_, place.x + x, place.y + y)
        return _tag("g", "".join(shapes), id=name, **_opacity(box.emphasis))

    def heat(self, map_: Heat, x: float, y: float) -> Iterator[str]:
        side = heat.side(map_)
        for i, row in enumerate(map_.cells):
            for j, cell in enumerate(row):
                place = Rectangle(x + side * j, y + side * i, side, side)
                yield _rect(place, fill=heat.colour(cell, self.theme))
        whole = Rectangle(x, y, side * len(map_.cells[0]), side * len(map_.cells))
        yield _rect(whole, fill="none", stroke=self.colours["quiet"], stroke_width=0.6)

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

    # --- marks ----------------------------------------------------------------------------------

    def mark(self, mark: Mark) -> str:
        place, colours = mark.place, self.colours
        shapes = [_tag("title", escape(mark.details or mark.text))]
        if mark.kind == "band":
            shapes.append(_rect(place, rx=6.0, fill=colours["band"]))
            shapes.append(
                self.text(Text(shorten(mark.text, 40.0), 8, 15, "start", ROW, "quiet"), *place[:2])
            )
        elif mark.kind == "cut":
            x = _n(place.x + place.width / 2)
            d = f"M{x} {_n(place.y + 18)}V{_n(place.y + place.height)}"
            dashes: dict[str, str | float] = {"stroke_width": 2.0, "stroke_dasharray": "7 5"}
            shapes.append(_tag("path", d=d, fill="none", stroke=colours["cut"], **dashes))
            shapes.append(self.centred(mark.text, place, LOCAL, "cut"))
        elif mark.kind == "bar":
            shapes.append(_rect(place, fill=colours["local"]))
            shapes.append(self.centred(mark.text, place._replace(y=place.y - 17), LOCAL, "text"))
        elif mark.kind == "heading":
            shapes.append(self.centred(mark.text, place, ROW, "quiet"))
        else:
            shapes.append(
                self.text(
                    Text(shorten(mark.text, 60.0), 0, 12, "start", LOCAL, "quiet"), *place[:2]
                )
            )
        return _tag("g", "".join(shapes))

    def centred(self, text: str, place: Rectangle, size: float, colour: str) -> str:
        x = place.x + (place.width - width(text, size)) / 2
        return self.text(Text(text, x, place.y + 12, "start", size, colour), 0.0, 0.0)


def _opacity(emphasis: str) -> dict[str, str | float]:
    return {"opacity": DIM} if emphasis == "dim" else {}
