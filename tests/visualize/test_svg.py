"""The picture: well-formed whatever the labels are, every text in its box, the same every time."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import geometry
import numpy as np
import pytest
from hypothesis import given, strategies as st

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value
from tinygrad_bp.visualize.building import scene_of
from tinygrad_bp.visualize.svg import THEMES, label_size, place, render, size_of, texts
from tinygrad_bp.visualize.text import width

SVG = "{http://www.w3.org/2000/svg}"

HOSTILE = [
    "</text></svg><script>alert(1)</script>",
    "\"' onload='alert(1)' x=\"",
    "&amp; &#0; ]]> <!-- <![CDATA[",
    "nul\x00 bell\x07 escape\x1b[31m delete\x7f next\x85line",
    "half a pair \ud800, a non-character \uffff",
    "evil\u202egnp.exe",
    "שלום עולם",
    "﷽" * 4,
    "漢字テスト",
    "👩‍👩‍👧‍👦 family",
    "Z" + "\u0334\u0335\u0336\u0337" * 30,
    "  \n\t ",
    "W" * 10_000,
]


def drawn(root, direction="LR", theme="light"):
    scene = scene_of(root, 300)
    return scene, render(scene, direction, theme)


def neuron():
    w, x, b = Value(-3.0, label="w"), Value(2.0, label="x"), Value(6.5, label="b")
    y = (w * x + b).tanh() ** 2
    y.label = "y"
    y.backward()
    return y


def check_picture(scene, direction="LR"):
    """Assert that the layout is legible and all texts are within their boxes."""
    result = place(scene, direction)
    edges = [(e.source, e.target, label_size(e)) for e in scene.edges]
    geometry.check(result, edges, direction)
    for box in scene.boxes:
        w, h = size_of(box)
        for text in texts(box):
            left, right = text.span
            assert left >= 3, (box, text)
            assert right <= w - 3, (box, text)
            # DejaVu Sans Mono reaches 0.93 em above the baseline with accents, 0.24 below.
            assert text.y - 0.93 * text.size >= 0, (box, text)
            assert text.y + 0.24 * text.size <= h, (box, text)
    for edge in scene.edges:
        if edge.text and len(edge.text) <= 20:
            assert width(edge.text, 11.0) <= label_size(edge)[0]


def test_texts_of_one_line_do_not_meet():
    x = Value(1.0, label="a label that is as long as possible") * 1.0
    x.label = "another that is as long as possible"
    for box in drawn(x)[0].boxes:
        lines = {}
        for text in texts(box):
            lines.setdefault(text.y, []).append(text.span)
        for spans in lines.values():
            spans.sort()
            assert all(a[1] + 4 <= b[0] for a, b in pairwise(spans))


def test_neuron_has_its_texts_and_shapes():
    scene, svg = drawn(neuron())
    root = ET.fromstring(svg)
    shown = [text.text for text in root.iter(f"{SVG}text")]
    for expected in ("w", "×", "tanh", "xʸ", "-3", "data", "grad"):
        assert expected in shown
    groups = [group.get("id") for group in root.iter(f"{SVG}g") if group.get("id")]
    assert [g for g in groups if g[0] == "n"] == [f"n{i}" for i in range(len(scene.boxes))]
    assert [g for g in groups if g[0] == "e"] == [f"e{i}" for i in range(len(scene.edges))]
    assert root[0].get("fill") == "#ffffff"
    assert (root[0].get("width"), root[0].get("height")) == (root.get("width"), root.get("height"))


def test_every_text_is_where_the_layout_says():
    scene, svg = drawn(neuron())
    result = place(scene, "LR")
    groups = {g.get("id"): g for g in ET.fromstring(svg).iter(f"{SVG}g")}
    for i, rectangle in enumerate(result.boxes):
        for text in groups[f"n{i}"].iter(f"{SVG}text"):
            assert geometry.holds(rectangle, (float(text.get("x")), float(text.get("y"))))


def test_lines_are_drawn_from_border_to_border():
    scene, svg = drawn(neuron())
    result = place(scene, "LR")
    groups = {g.get("id"): g for g in ET.fromstring(svg).iter(f"{SVG}g")}
    for i, (edge, route) in enumerate(zip(scene.edges, result.routes, strict=True)):
        line, head = groups[f"e{i}"].findall(f"{SVG}path")
        numbers = [float(n) for n in re.findall(r"-?[\d.]+", line.get("d"))]
        assert numbers[:2] == [round(c, 2) for c in route.points[0]]
        tip = re.match(r"M([\d.]+) ([\d.]+)l", head.get("d"))
        target = result.boxes[edge.target]
        assert float(tip[1]) == round(target.x, 2)
        assert target.y < float(tip[2]) < target.y + target.height
        # The line ends under the arrowhead, which is 8 long.
        assert float(tip[1]) - 8 <= numbers[-2] < float(tip[1])
        assert numbers[-1] == float(tip[2])


def test_root_leaves_and_constants_look_different():
    scene, svg = drawn(neuron())
    colours = THEMES["light"]
    groups = {g.get("id"): g for g in ET.fromstring(svg).iter(f"{SVG}g")}
    for i, box in enumerate(scene.boxes):
        border = groups[f"n{i}"].findall(f"{SVG}rect")[-1]
        expected = colours["root"] if box.is_root else colours[f"{box.kind} border"]
        assert border.get("stroke") == expected
        assert (border.get("stroke-dasharray") is not None) == (box.kind == "constant")


def test_picture_depends_on_nothing_outside():
    _, svg = drawn(neuron())
    assert not re.search(r"<style|<script|<image|href|url\(|class=|@import|<use", svg)


@pytest.mark.parametrize("label", HOSTILE)
@pytest.mark.parametrize("requires_grad", [True, False])
def test_hostile_labels(label, requires_grad):
    x = Value(2.0, label=label, requires_grad=requires_grad)
    y = Value(3.0) * x
    y.label = label
    with tb.scope(label):
        z = y + y
    z.label = label
    scene, svg = drawn(z)
    check_picture(scene)
    root = ET.fromstring(svg.encode("utf-8"))
    assert {e.tag.removeprefix(SVG) for e in root.iter()} <= {
        *("svg", "rect", "g", "title", "path", "circle", "text")
    }
    for element in root.iter():
        assert not any(name.startswith("on") for name in element.attrib)
    for text in root.iter(f"{SVG}text"):
        assert len(text.text) <= 40
        assert not re.search(
            "[\u202a-\u202e\u2066-\u2069\u200e\u200f\x00-\x1f\x7f-\x9f]", text.text
        )


def test_long_label_is_cut_and_all_of_it_in_the_hover_text():
    _, svg = drawn(Value(1.0, label="W" * 10_000))
    root = ET.fromstring(svg)
    (shown,) = (t.text for t in root.iter(f"{SVG}text") if t.text.startswith("W"))
    assert re.fullmatch("W{10,30}…", shown)
    assert "W" * 10_000 in root.find(f"{SVG}g/{SVG}title").text


def test_text_of_unknown_width_is_squeezed_into_its_estimate():
    _, svg = drawn(Value(1.0, label="﷽﷽"))
    (text,) = (t for t in ET.fromstring(svg).iter(f"{SVG}text") if t.text == "﷽﷽")
    assert float(text.get("textLength")) == round(width("﷽﷽", 13.0), 2)
    assert text.get("lengthAdjust") == "spacingAndGlyphs"
    _, svg = drawn(Value(1.0, label="W₁"))
    assert "textLength" not in svg


def test_hover_texts_have_full_precision():
    x = Value(1 / 3, label="x")
    y = x * 0.1
    y.backward()
    _, svg = drawn(y)
    titles = [title.text for title in ET.fromstring(svg).iter(f"{SVG}title")]
    assert f"x\nleaf\ndata = {1 / 3!r}\ngrad = 0.1" in titles
    assert "x → v1, operand 1 of multiply: local derivative 0.1" in titles


@pytest.mark.parametrize("direction", ["LR", "TB"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_same_graph_same_bytes(direction, theme):
    first = drawn(neuron(), direction, theme)[1]
    clutter = [Value(i) for i in range(1000)]
    assert drawn(neuron(), direction, theme)[1] == first
    assert len(clutter) == 1000


def test_tensor_graph_is_legible():
    W = Tensor(np.linspace(-1e-5, 1e5, 6).reshape(2, 3), label="W")
    x = Tensor(np.linspace(-2, 2, 20).reshape(10, 2), label="x", requires_grad=False)
    b = Tensor([0.1, -0.2, 1e-9], label="b")
    loss = tb.mean(tb.sigmoid(x @ W + b) * np.ones((10, 3)))
    loss.backward()
    for direction in ("LR", "TB"):
        scene, svg = drawn(loss, direction)
        check_picture(scene, direction)
        ET.fromstring(svg)


OPERATIONS = [
    lambda x, y: x + y,
    lambda x, y: x * y,
    lambda x, y: x - y,
    lambda x, y: x / y,
    lambda x, y: x.tanh(),
    lambda x, y: 2.0 * y,
    lambda x, y: x**3,
    lambda x, y: x + x,
    lambda x, y: tb.where(x > y, x, y),
    lambda x, y: (x + y).detach() * x,
]


@given(
    st.lists(
        st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 30), st.integers(0, 30)),
        min_size=1,
        max_size=25,
    ),
    st.sampled_from(["LR", "TB"]),
    st.booleans(),
)
def test_random_graphs_are_legible(steps, direction, is_swept):
    nodes = [Value(1.5, label="x"), Value(-2.0, label="weight"), Value(1e-5)]
    for operation, i, j in steps:
        nodes.append(operation(nodes[i % len(nodes)], nodes[j % len(nodes)]))
    root = nodes[-1]
    if is_swept:
        root.backward()
    scene, svg = drawn(root, direction)
    check_picture(scene, direction)
    ET.fromstring(svg)


def luminance(colour):
    """WCAG 2.1, relative luminance."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES)
def test_colours_can_be_told_apart(theme):
    colours = THEMES[theme]
    assert colours.keys() == THEMES["light"].keys()
    for kind in ("leaf", "inner", "constant"):
        for ink in ("text", "quiet", "gradient"):
            assert contrast(colours[ink], colours[kind]) >= 4.5, (ink, kind)
        assert contrast(colours["text"], colours[f"{kind} header"]) >= 4.5
    assert contrast(colours["local"], colours["background"]) >= 4.5
    # Shapes need 3 (WCAG 1.4.11); the boxes of constants and their edges are meant to recede.
    for shape in ("edge", "root", "leaf border", "inner border"):
        assert contrast(colours[shape], colours["background"]) >= 3, shape
