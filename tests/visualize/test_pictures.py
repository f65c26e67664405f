"""Pictures of twenty graphs, of Modules and Programs; highlights, heat maps, files, the gallery."""

from __future__ import annotations

import builtins
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import geometry
import geometry_of_lines
import graphs
import numpy as np
import pytest
import repository

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value, nn
from tinygrad_bp.visualize import __main__ as command, draw, heat
from tinygrad_bp.visualize.building import scene_of
from tinygrad_bp.visualize.examples import EXAMPLES
from tinygrad_bp.visualize.graphviz_layout import digraph
from tinygrad_bp.visualize.measures import label_size, maps_of, size_of, texts
from tinygrad_bp.visualize.placing import place
from tinygrad_bp.visualize.text import clean

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = [
    "</text><script>",
    "\\N \\G \\l",
    "<b>&amp;</b>",
    '"quoted"',
    "a\\",
    "\u202eevil",
    "x" * 9999,
]


def groups(svg):
    return {g.get("id"): g for g in ET.fromstring(svg).iter(f"{SVG}g") if g.get("id")}


# --- twenty graphs ------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", graphs.GRAPHS, ids=lambda graph: graph.__name__)
@pytest.mark.parametrize("direction", ["LR", "TB"])
def test_twenty_graphs_are_legible(graph, direction):
    root = graph()
    root.backward()
    scene = scene_of(root)
    layout = place(scene, direction)
    geometry.check(layout, [(e.source, e.target, label_size(e)) for e in scene.edges], direction)


@pytest.mark.parametrize("graph", graphs.GRAPHS, ids=lambda graph: graph.__name__)
def test_twenty_graphs_by_graphviz_are_legible(graph):
    pytest.importorskip("pygraphviz", reason="needs pygraphviz")
    root = graph()
    root.backward()
    scene = scene_of(root)
    layout = place(scene, "LR", "dot")
    edges = [(e.source, e.target, label_size(e)) for e in scene.edges]
    for i, box in enumerate(layout.boxes):
        assert np.allclose((box.width, box.height), size_of(scene.boxes[i]), atol=0.02)
        assert not any(geometry.overlap(box, other) for other in layout.boxes[:i])
    for (source, target, _), route in zip(edges, layout.routes, strict=True):
        assert geometry.holds(layout.boxes[source], route.points[0], 1.5)
        assert geometry.holds(layout.boxes[target], route.points[-1], 1.5)
        points = geometry_of_lines.curve_points(route.points)
        for i, box in enumerate(layout.boxes):
            inside = geometry_of_lines.shrunk(box, 3.0)
            assert i in (source, target) or not any(geometry.holds(inside, p, 0) for p in points)


@pytest.mark.parametrize("layout", ["layered", "time", "dot"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_same_graph_same_bytes(layout, theme):
    if layout == "dot":
        pytest.importorskip("pygraphviz", reason="needs pygraphviz")

    def svg():
        root = graphs.rnn()
        root.backward()
        return draw(root, layout=layout, theme=theme, heat_maps=True).svg

    first = svg()
    assert svg() == first
    ids = re.findall(r'id="(\w+)"', first)
    assert len(ids) == len(set(ids))
    assert {i for i in ids if i[0] == "n"} == {
        f"n{k}" for k in range(len(scene_of(graphs.rnn()).boxes))
    }


# --- Graphviz -----------------------------------------------------------------------------------


@pytest.mark.parametrize("label", HOSTILE)
def test_digraph_labels_mean_only_themselves(label):
    x = Value(2.0, label)
    y = x * x
    y.label = label
    source = draw(y).to_dot().source
    pygraphviz = pytest.importorskip("pygraphviz", reason="needs pygraphviz")
    svg = pygraphviz.AGraph(string=source).draw(format="svg", prog="dot").decode()
    shown = "".join(t.text.replace("\u00a0", " ") for t in ET.fromstring(svg).iter(f"{SVG}text"))
    expected = scene_of(y).boxes[0].label
    assert expected in shown


def test_digraph_has_the_boxes_and_the_edges():
    scene = scene_of(graphs.polynomial())
    source = digraph(scene, "TB").source
    assert "rankdir=TB" in source
    assert source.count("->") == len(scene.edges)
    assert source.count("n0 -> n1") == 2


def without(monkeypatch, *names):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.split(".")[0] in names:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)


def test_missing_packages_are_named_with_their_extra(monkeypatch, tmp_path):
    picture = draw(graphs.neuron())
    without(monkeypatch, "pygraphviz", "cairosvg")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ImportError, match=r"pip install 'tinygrad_bp\[dot\]'"):
        draw(graphs.neuron(), layout="dot")
    for suffix in (".png", ".pdf"):
        with pytest.raises(ImportError, match=r"pip install 'tinygrad_bp\[png\]'"):
            picture.save(tmp_path / f"graph{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [*HOSTILE, "nul\x00\x07", "שלום1", "\ud800"])
def test_hostile_names_of_scopes_and_states_come_out_as_text(name):
    W, h = Tensor(np.eye(2), name), Tensor(np.ones(2), name)
    for t in range(1, 8):
        with tb.scope("step", t), tb.scope(f"{name}{1 + t % 2}"):
            h = nn.named(tb.tanh(h @ W) * 2.0, f"{name}(0)" if t == 4 else name)
    loss = tb.sum(h)
    loss.label = name
    loss.backward()
    for options in (
        {"layout": "time", "strip": bool(clean(name))},
        {"collapse": 1, "fold": False, "layout": "layered"},
        {"collapse": 2, "heat_maps": True},
        {"fold": True, "highlight": W},
        {"collapse": [name, f"*{name}*"], "layout": "layered"},
    ):
        picture = draw(loss, **options)
        tags = {e.tag.removeprefix(SVG) for e in ET.fromstring(picture.svg.encode()).iter()}
        assert tags <= {"svg", "rect", "g", "title", "path", "circle", "text"}
        assert "<script" not in picture.html
        assert picture.to_dot().source


# --- files --------------------------------------------------------------------------------------


def test_save_by_suffix(tmp_path):
    pytest.importorskip("cairosvg", reason="needs CairoSVG")
    picture = draw(graphs.rnn(), strip=True)
    assert picture.save(tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")
    assert picture.save(tmp_path / "graph.PDF").read_bytes().startswith(b"%PDF")


def test_page_is_inert_and_complete(tmp_path):
    x = Value(2.0, "</pre><script>alert(1)</script>")
    picture = draw(x * x)
    page = picture.save(tmp_path / "graph.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert picture.svg in page
    assert "<script" not in page
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|href|src=", page)


# --- highlight ----------------------------------------------------------------------------------


def emphasised(picture):
    high = [box.name for box in picture.scene.boxes if box.emphasis == "high"]
    return high, sum(edge.emphasis == "high" for edge in picture.scene.edges)


def test_highlight_of_a_parameter_shows_all_its_uses():
    a, b = Value(2.0, "a"), Value(3.0, "b")
    c = a * b + tb.sin(a)
    assert emphasised(draw(c, highlight=a)) == (["a", "v1", "v2"], 2)
    assert emphasised(draw(c, highlight=c)) == (["v3"], 0)
    svg = draw(c, highlight=a).svg
    assert [i for i, g in groups(svg).items() if g.get("opacity")] == ["e1", "e3", "e4", "n1", "n4"]


def test_highlight_of_a_path_in_either_direction():
    a, b = Value(2.0, "a"), Value(3.0, "b")
    c = a * b
    d = c + a
    for path in ([a, c, d], (d, c, a), iter([a, c, d])):
        assert emphasised(draw(d, highlight=path)) == (["a", "v1", "v2"], 2)


def test_highlight_of_an_array_of_values_a_module_and_a_collapsed_box():
    model = nn.MLP([2, 2, 1], rng=0).scalar_view()
    loss = model(np.ones((1, 2))).sum()
    names, edges = emphasised(draw(loss, highlight=model.layers[0].W))
    assert {f"W1[{i}, {j}]" for i in (0, 1) for j in (0, 1)} <= set(names)
    assert edges == 4
    assert emphasised(draw(loss, highlight=model))[1] == 9
    collapsed = draw(loss, collapse=["mlp/layer1"], highlight=model.layers[0].W)
    assert "layer1" in emphasised(collapsed)[0]


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        (Value(1.0, "other"), ValueError, "'other' is not in this graph"),
        ([], ValueError, "highlight: expected at least one node, got list of length 0"),
        (3.0, TypeError, "highlight must be a node, a Module or the nodes of a path, got float"),
        (["a"], TypeError, "highlight must be a node, a Module or the nodes of a path, got list"),
    ],
)
def test_bad_highlights(what, error, message):
    with pytest.raises(error, match=message):
        draw(Value(1.0) * 2.0, highlight=what)


# --- heat maps ----------------------------------------------------------------------------------


def test_heat_map_has_the_colours_of_the_numbers():
    W = Tensor([[1.0, -2.0], [0.0, np.nan]], "W")
    (box,) = draw(W, heat_maps=True, show=("data",)).scene.boxes
    (map_,) = box.heat
    assert map_.cells == ((0.5, -1.0), (0.0, None))
    assert map_.largest == "2"
    for theme in ("light", "dark"):
        low, middle, high = heat.ENDS[theme]
        colours = [heat.colour(x, theme) for x in (-1.0, 0.0, 1.0)]
        assert colours == ["#" + "".join(f"{c:02x}" for c in end) for end in (low, middle, high)]
        svg = draw(W, heat_maps=True, show=("data",), theme=theme).svg
        cells = [r.get("fill") for r in groups(svg)["n0"].iter(f"{SVG}rect")][2:6]
        assert cells == [heat.colour(x, theme) for x in (0.5, -1.0, 0.0, None)]


@pytest.mark.parametrize("shape", [(2,), (1, 2), (20, 20), (3, 33), (100, 4)])
def test_heat_map_and_its_texts_are_in_the_box(shape):
    (box,) = draw(Tensor(np.ones(shape), "W"), heat_maps=True).scene.boxes
    wide, high = size_of(box)
    bottom = 0.0
    for map_, x, y in maps_of(box, wide):
        assert x >= 3
        assert x + heat.side(map_) * shape[-1] <= wide - 3
        assert y - 12 >= bottom  # room for the caption
        bottom = y + heat.side(map_) * len(map_.cells)
    assert 0 < bottom <= high - 3
    assert not any(heading == "data" for heading, _ in box.rows)
    assert sum(text.text == "data" for text in texts(box)) == 1


@pytest.mark.parametrize("shape", [(), (1,), (21, 20), (2, 2, 2), (2, 40), (0, 3)])
def test_no_heat_map_of_other_arrays(shape):
    (box,) = draw(Tensor(np.ones(shape), "W"), heat_maps=True).scene.boxes
    assert box.heat == ()
    assert any(heading == "data" for heading, _ in box.rows)


# --- Modules and Programs -----------------------------------------------------------------------


def test_module_with_inputs_is_run():
    model = nn.MLP([3, 4, 2], rng=0)
    picture = draw(model, inputs=np.ones((1, 3)))
    roots = [box.label for box in picture.scene.boxes if box.is_root]
    assert roots == ["z2"]
    scalars = draw(model.scalar_view(), inputs=np.ones((1, 3)))
    assert [box.label for box in scalars.scene.boxes if box.is_root] == ["z2[0, 0]", "z2[0, 1]"]
    cell = nn.LSTMCell(2, 3, rng=0)
    both = draw(cell, inputs=(np.ones(2), cell.initial_state()))
    assert [box.label for box in both.scene.boxes if box.is_root] == ["c", "h"]


def test_module_without_inputs_is_its_parameters():
    scene = draw(nn.MLP([3, 4, 2], rng=0)).scene
    assert [box.label or box.symbol for box in scene.boxes] == [
        "W1", "b1", "layers.0", "W2", "b2", "layers.1", "MLP",
    ]  # fmt: skip
    ends = [(e.source, e.target) for e in scene.edges]
    assert ends == [(0, 2), (1, 2), (3, 5), (4, 5), (2, 6), (5, 6)]
    assert dict(scene.boxes[-1].rows)["numbers"] == "26"


def test_a_parameter_of_two_modules_is_drawn_once():
    class Tied(nn.Module):
        def __init__(self):
            self.a, self.b = nn.Linear(2, 2, rng=0), nn.Linear(2, 2, rng=1)
            self.b.W = self.a.W

    scene = draw(Tied()).scene
    assert sum(box.label == "W" for box in scene.boxes) == 1
    assert len(scene.edges) == 6


def test_program_is_drawn_by_its_instructions():
    f = tb.compile(lambda x, y: tb.tanh(x * y) + 2.0)
    program = f.program(2.0, 3.0)
    scene = draw(program).scene
    assert len(scene.boxes) == len(program)
    assert len(scene.edges) == sum(len(program.operands_of(i)) for i in range(len(program)))
    assert [box.is_root for box in scene.boxes].count(True) == 1
    assert {"×", "tanh", "+"} <= {box.symbol for box in scene.boxes}
    with pytest.raises(ValueError, match=f"{len(program)} instructions, more than max_nodes=2"):
        draw(program, max_nodes=2)
    with pytest.raises(TypeError, match=r"got Compiled; draw its f\.program"):
        draw(f)


def test_program_of_arrays_has_shapes():
    f = tb.compile(lambda W: tb.sum(W @ np.ones((3, 2))))
    program = f.program(Tensor(np.ones((4, 3))), gradient=True)
    scene = draw(program).scene
    assert ("shape", "(4, 3)") in scene.boxes[program.inputs[0]].rows
    layout = place(scene, "LR")
    geometry.check(layout, [(e.source, e.target, None) for e in scene.edges])


def test_what_cannot_be_shown_is_refused_and_not_left_out():
    model = nn.Linear(2, 2, rng=0)
    with pytest.raises(TypeError, match=r"highlight needs a recorded graph .*, got Linear"):
        draw(model, highlight=model.W)
    with pytest.raises(ValueError, match="a strip goes under layout='time', not 'layered'"):
        draw(graphs.rnn(), layout="layered", strip=True)


def test_module_that_returns_no_node_is_refused():
    class Nothing(nn.Module):
        def forward(self, x):
            return x

    with pytest.raises(TypeError, match="returned no Value and no Tensor"):
        draw(Nothing(), inputs=1.0)


# --- the gallery --------------------------------------------------------------------------------


def rounded(svg):
    """A picture without the last digits of numbers in full, which differ between processors."""
    return re.sub(r"-?\d+\.\d{10,}(e-?\d+)?", lambda m: f"{float(m[0]):.9g}", svg)


def test_gallery_is_drawn_by_the_command(tmp_path, capsys):
    assert command.main(["gallery", "--out", str(tmp_path / "new")]) == 0
    written = capsys.readouterr().out.split()
    assert [Path(path).stem for path in written] == list(EXAMPLES)
    for path in written:
        ET.parse(path)
    goldens = list(repository.file("visualize/gallery").glob("*.svg"))
    assert {golden.stem for golden in goldens} <= EXAMPLES.keys()
    assert goldens
    for golden in goldens:
        drawn = (tmp_path / "new" / golden.name).read_text(encoding="utf-8")
        assert rounded(drawn) == rounded(golden.read_text(encoding="utf-8")), golden.name


def test_command_reports_a_folder_that_cannot_be(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert command.main(["gallery", "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith("visualize: ")


def test_command_can_be_called():
    run = subprocess.run(
        [sys.executable, "-m", "tinygrad_bp.visualize", "--help"], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert "gallery" in run.stdout
