"""The page of a story: the drawing, every step and every sum as plain HTML, and a script.

All that is said stands in the page as HTML, to be read with scripts off; the script shows one step
of it at a time. The page needs no network and no library, and its policy allows nothing but this
script and this style sheet, by their hashes.
"""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np

from .consumers import section
from .equations import figure, html
from .policy import policy
from .scene import Box, Scene
from .story import Moment, Story, has_name
from .summaries import UNASKED, summary
from .svg import render
from .themes import THEMES

# The colours of what is pointed at: at least 3 to 1 against the background (WCAG 1.4.11).
POINTERS = {
    "light": {"visited": "#c2006b", "asked": "#00695c", "raised": "#eef2f7", "line": "#ccd3dc"},
    "dark": {"visited": "#ff7ab8", "asked": "#4fd8c4", "raised": "#222a35", "line": "#3c4654"},
}


def page(story: Story, title: str, theme: str) -> str:
    """The page, complete in itself.

    Args:
        story: what it tells.
        title: its heading.
        theme: `"light"` or `"dark"`.
    """
    script = files(__package__).joinpath("player.js").read_text(encoding="utf-8")
    style = _colours(theme) + files(__package__).joinpath("player.css").read_text(encoding="utf-8")
    parts = {
        "title": escape(title),
        "policy": policy(style, script),
        "style": style,
        "picture": render(_with_gradients(story), "LR", theme),
        "steps": "\n".join(_step(k, moment, story) for k, moment in enumerate(story.moments)),
        "sums": "\n".join(
            section(story, i) for i, box in enumerate(story.scene.boxes) if has_name(box)
        ),
        "data": _json(_data(story, theme)),
        "script": script,
    }
    template = files(__package__).joinpath("player.html").read_text(encoding="utf-8")
    before, *pieces = template.split("{{")  # one pass: no text is searched for marks
    return before + "".join(
        parts[name] + rest for name, _, rest in (piece.partition("}}") for piece in pieces)
    )


def _colours(theme: str) -> str:
    colours = {**THEMES[theme], **POINTERS[theme]}
    names = ("background", "text", "quiet", "gradient", "visited", "asked", "raised", "line")
    declared = "".join(f"--{name}:{colours[name]};" for name in names)
    return f":root{{color-scheme:{theme};{declared}}}\n"


def _json(data: Any) -> str:
    """JSON that ends no script element and no line of one."""
    encoded = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        encoded = encoded.replace(character, f"\\u{ord(character):04x}")
    return encoded


# --- the drawing --------------------------------------------------------------------------------


def _with_gradients(story: Story) -> Scene:
    """The scene with a name and a gradient in every box, and room for what leads up to it."""
    room = _room(story)
    boxes = [_with_gradient(story, i, box, room) for i, box in enumerate(story.scene.boxes)]
    return story.scene._replace(boxes=tuple(boxes))


def _with_gradient(story: Story, i: int, box: Box, room: dict[int, list[int]]) -> Box:
    if box.label or not box.is_compact:
        box = box._replace(label=story.terms[i].name)
    if i not in story.gradients:
        return box
    headings = [heading for heading, _ in box.rows]
    rows = box.rows[: headings.index("grad")] if "grad" in headings else box.rows
    lines = _lines(story.gradients[i])
    padded = [line.rjust(n, "\xa0") for line, n in zip(lines, room[i], strict=True)]
    heads = ["grad", *[""] * (len(lines) - 1)]
    return box._replace(rows=(*rows, *zip(heads, padded, strict=True)))


def _room(story: Story) -> dict[int, list[int]]:
    """For each line of each gradient, the longest text that it is going to show."""
    room: dict[int, list[int]] = {}
    for moment in story.moments:
        for total in moment.sums:
            lengths = [len(line) for line in _lines(total.sofar)]
            room[total.box] = list(map(max, lengths, room.get(total.box, lengths)))
    return room


def _lines(x: Any) -> list[str]:
    """A gradient as the box shows it."""
    return [line for _, line in summary("grad", np.asarray(x))]


# --- what is there to be read -------------------------------------------------------------------


def _step(k: int, moment: Moment, story: Story) -> str:
    name = "" if moment.visited is None else story.terms[moment.visited].name
    lines = "".join(f"<p>{html(line)}</p>" for line in moment.lines)
    return (
        f'<tr id="s{k}"><th scope="row">{k}</th><td>{moment.phase}</td>'
        f"<td><bdi>{escape(name)}</bdi></td><td>{lines}</td></tr>"
    )


# --- what the script needs ----------------------------------------------------------------------


def _data(story: Story, theme: str) -> dict[str, Any]:
    return {
        "colour": THEMES[theme]["gradient"],  # of the texts in the drawing that are gradients
        "unasked": UNASKED,
        "boxes": [_box(story, i) for i in range(len(story.terms))],
        "edges": [[edge.source, edge.target] for edge in story.scene.edges],
        "steps": [_moment(moment) for moment in story.moments],
    }


def _box(story: Story, i: int) -> dict[str, Any]:
    term = story.terms[i]
    shown = figure(term.data)
    return {
        "name": term.name,
        "named": has_name(story.scene.boxes[i]),
        "what": story.kinds[i],
        "data": [shown.text, shown.full],
        "swept": i in story.gradients,
        "uses": len(story.contributions.get(i, [])),
    }


def _moment(moment: Moment) -> dict[str, Any]:
    sums = []
    for total in moment.sums:
        shown = figure(total.sofar)
        sums.append([total.box, total.arrived, shown.text, shown.full, _lines(total.sofar)])
    return {
        "phase": moment.phase,
        "visited": moment.visited,
        "edges": moment.edges,
        "sums": sums,
    }
