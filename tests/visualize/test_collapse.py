"""Large graphs in few boxes: collapsed scopes, folded repetitions, and what is said of them."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import geometry
import numpy as np
import pytest
from hypothesis import given, strategies as st

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value, nn
from tinygrad_bp.visualize import building, draw
from tinygrad_bp.visualize.building import Options, build, scene_of
from tinygrad_bp.visualize.folding import numbered
from tinygrad_bp.visualize.measures import label_size
from tinygrad_bp.visualize.placing import place
from tinygrad_bp.visualize.scene import listing


def mlp_loss(sizes=(3, 4, 2)):
    model = nn.MLP(list(sizes), rng=0).scalar_view()
    loss = nn.squared_error(model(np.ones((1, sizes[0]))), np.zeros((1, sizes[-1])))
    loss.backward()
    return loss


def pairs(scene):
    return {(scene.boxes[e.source].label, scene.boxes[e.target].label) for e in scene.edges}


def labels(scene):
    return [box.label for box in scene.boxes]


def nested(x):
    with tb.scope("net"):
        for i in (1, 2):
            with tb.scope(f"block{i}"):
                x = x * 2.0 + 1.0
                with tb.scope("inner"):
                    x = x.tanh().tanh()
    return x


# --- collapse -----------------------------------------------------------------------------------


def test_collapse_to_each_depth():
    root = nested(Value(0.5, "x"))
    assert labels(scene_of(root, collapse=1)) == ["net"]  # and x in it, which nobody else uses
    two = scene_of(root, collapse=2)
    assert labels(two) == ["block1", "block2"]
    assert pairs(two) == {("block1", "block2")}
    three = scene_of(root, collapse=3)
    assert [b for b in labels(three) if b] == ["x", "inner", "inner"]
    assert len(three.boxes) == 3 + 2 * 4  # and two operations with a constant each, twice
    assert [len(scene_of(root, collapse=depth).boxes) for depth in (1, 2, 3)] == [1, 2, 11]


def test_collapse_by_path_and_pattern():
    root = nested(Value(0.5, "x"))
    assert "block1" in labels(scene_of(root, collapse=["net/block1"]))
    assert "block2" not in labels(scene_of(root, collapse=["net/block1"]))
    assert labels(scene_of(root, collapse=["net/block*"])) == ["block1", "block2"]
    assert labels(scene_of(root, collapse=["*/inner"])).count("inner") == 2
    unknown = scene_of(root, collapse=["other"])
    assert len(unknown.boxes) == len(scene_of(root).boxes)
    assert not unknown.note


def test_a_collapsed_box_tells_what_it_holds_and_gives():
    model = nn.MLP([3, 4, 2], rng=0)
    loss = nn.squared_error(model(np.ones((1, 3))), np.zeros((1, 2)))
    loss.backward()
    scene = scene_of(loss, collapse=["mlp/layer1"])
    (box,) = (box for box in scene.boxes if box.label == "layer1")
    rows = dict(box.rows)
    assert rows["nodes"] == "1"
    assert rows["holds"] == "W1 (3, 4), b1 (4,)"
    assert rows["gives"] == "z1"
    assert rows["shape"] == "(1, 4)"
    assert box.kind == "group"
    assert not {"W1", "b1"} & set(labels(scene))


def test_a_parameter_of_several_boxes_stays_outside():
    w = Value(0.5, "w")
    x = Value(1.0, "x")
    for i in range(3):
        with tb.scope(f"part{i}"):
            x = tb.sin(x * w)
    scene = scene_of(x, collapse=1)
    assert sorted(labels(scene)) == ["part0", "part1", "part2", "w"]  # x is inside part0
    assert sum(e.source == labels(scene).index("w") for e in scene.edges) == 3


def test_elements_become_their_array():
    scene = scene_of(mlp_loss(), collapse=["mlp/layer*"])
    (a1,) = (box for box in scene.boxes if box.label == "a1")
    rows = dict(box_row for box_row in a1.rows if box_row[0])
    assert rows["shape"] == "(1, 4)"
    assert a1.symbol == "tanh"
    assert ("layer1", "a1") in pairs(scene)
    assert ("a1", "layer2") in pairs(scene)


def test_a_shared_array_of_elements_is_one_box_with_its_numbers():
    W = tb.values(np.arange(4.0).reshape(2, 2), "W")
    x = np.ones(2)
    for i in range(3):
        with tb.scope(f"part{i}"):
            x = x @ W
    loss = x.sum()
    loss.backward()
    scene = scene_of(loss, collapse=1)
    (box,) = (box for box in scene.boxes if box.label == "W")
    assert box.kind == "leaf"
    assert box.rows[:3] == (("shape", "(2, 2)"), ("data", "[0, 1]"), ("", "[2, 3]"))
    # The gradient of 1ᵀ W³ 1, by the engine of arrays.
    A = Tensor(np.arange(4.0).reshape(2, 2))
    tb.sum(np.ones(2) @ A @ A @ A).backward()
    assert box.rows[3] == ("grad", f"[{A.grad[0, 0]:g}, {A.grad[0, 1]:g}]")


def test_a_scope_entered_twice_with_something_between_is_two_boxes():
    def net(x):
        with tb.scope("net"):
            return x * 2.0 + 1.0

    scene = scene_of(net(tb.sin(net(Value(0.5, "x")))), collapse=1)
    assert labels(scene) == ["net", "", "net"]
    assert pairs(scene) == {("net", ""), ("", "net")}


def test_what_stands_in_a_circle_even_by_entry_is_drawn_by_itself():
    from tinygrad_bp.recording import Scope, resumed

    one, other = (Scope(name, None, Value(0.0).scope) for name in ("one", "other"))
    x = Value(0.5, "x")
    for _ in range(2):
        with resumed(one):
            x = tb.sin(x)
        with resumed(other):
            x = tb.exp(x)
    scene = scene_of(x, collapse=1)
    assert [box.symbol for box in scene.boxes] == ["", "sin", "exp", "sin", "exp"]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30), st.integers(0, 30)), min_size=2,
             max_size=30),
    st.integers(1, 3),
)  # fmt: skip
def test_collapsed_graphs_hang_together_as_before(operations, depth):
    nodes = [Value(0.5, "x"), Value(0.25, "y")]
    for where, i, j in operations:
        with tb.scope(f"part{where % 3}"), tb.scope(f"inner{where // 3}"):
            nodes.append(nodes[i % len(nodes)] * nodes[j % len(nodes)])
    root = nodes[-1]
    built = build(root, Options(collapse=depth))
    scene = built.scene
    box_of = {id(c): i for i, contents in enumerate(built.contents) for c in contents}
    expected = {
        (box_of[id(x)], box_of[id(node)])
        for node in tb.topological_order(root)
        for x in node.parents
        if box_of[id(x)] != box_of[id(node)]
    }
    assert {(e.source, e.target) for e in scene.edges} == expected
    assert all(e.source < e.target for e in scene.edges)
    assert sum(map(len, built.contents)) == len(tb.topological_order(root))


# --- folding ------------------------------------------------------------------------------------


def recurrent(steps, change=0):
    cell = nn.RNNCell(1, 2, rng=0)
    h = cell.initial_state()
    for t in range(1, steps + 1):
        (h,) = nn.unroll(cell, [np.ones(1)], h, start=t)
        if t == change:
            with tb.scope("step", t):
                h = h * 2.0
    return tb.sum(h)


def test_alike_steps_are_folded_with_their_number():
    scene = scene_of(recurrent(50), fold=True)
    (fold,) = (box for box in scene.boxes if box.kind == "group")
    # Step 1 begins with a constant, 50 ends with a sum; of the others the ends are drawn.
    assert fold.label == "… 46 more steps"
    assert fold.rows == (("same as", "step 2"), ("nodes", str(46 * 4)))
    assert "steps 3 to 48 folded, they are the same as step 2" in scene.note
    assert "they are the same as step 2" in listing(scene)


def test_a_step_that_differs_is_not_folded():
    scene = scene_of(recurrent(20, change=10), fold=True)
    folds = [box.label for box in scene.boxes if box.kind == "group"]
    # 2 ... 9 are alike, 11 uses a state twice as deep, 12 ... 19 are alike.
    assert folds == ["… 6 more steps", "… 6 more steps"]
    assert {box.step for box in scene.boxes if box.kind == "inner"} >= {1, 2, 9, 10, 11, 12, 19, 20}


def test_fold_true_folds_nothing_where_there_is_nothing():
    root = Value(1.0) * 2.0
    assert scene_of(root, fold=True) == scene_of(root)


def test_layers_are_folded_by_the_number_in_their_name():
    x = Tensor(np.ones(2), "x")
    for i in range(12):
        with tb.scope(f"block{i}"):
            x = tb.tanh(x @ Tensor(np.eye(2), f"W{i}"))
    scene = scene_of(tb.sum(x), fold=True)
    (fold,) = (box for box in scene.boxes if box.kind == "group")
    # The first one begins with a leaf, and the last one is drawn.
    assert fold.label == "… 9 more blocks"
    assert "blocks 2 to 10 folded, they are the same as block 1" in scene.note


@pytest.mark.parametrize(
    ("name", "index", "expected"),
    [("step", 3, ("step", 3)), ("layer12", None, ("layer", 12)), ("net", None, None),
     ("7", None, None)],
)  # fmt: skip
def test_what_counts_as_numbered(name, index, expected):
    assert numbered(tb.Scope(name, index)) == expected


# --- max_nodes ----------------------------------------------------------------------------------


def test_the_deepest_collapse_that_fits_is_chosen():
    root = nested(Value(0.5, "x"))
    full = len(scene_of(root).boxes)
    sizes = {depth: len(scene_of(root, collapse=depth).boxes) for depth in (1, 2, 3)}
    assert full > sizes[3] > sizes[2] > sizes[1]
    for limit, depth in ((full - 1, 3), (sizes[3] - 1, 2), (sizes[2] - 1, 1)):
        scene = scene_of(root, limit)
        assert len(scene.boxes) == sizes[depth]
        assert f"collapsed at depth {depth}" in scene.note
    assert not scene_of(root, full).note
    with pytest.raises(ValueError, match=f"and {sizes[1]} boxes with scopes collapsed, more than"):
        scene_of(root, sizes[1] - 1)


def test_the_note_is_in_the_picture():
    svg = ET.fromstring(draw(nested(Value(0.5, "x")), max_nodes=3).svg)
    shown = " ".join(text.text for text in svg.iter("{http://www.w3.org/2000/svg}text"))
    assert "13 nodes and constants drawn as 2 boxes; scopes collapsed at depth 2" in shown


@pytest.mark.parametrize("graph", [lambda: mlp_loss((48, 64, 64, 32, 10)), lambda: recurrent(3000)])
def test_a_large_graph_is_drawn_in_few_boxes(graph):
    root = graph()
    scene = scene_of(root)
    assert 3 <= len(scene.boxes) <= 300
    assert "drawn as" in scene.note
    layout = place(scene, "LR")
    geometry.check(layout, [(e.source, e.target, label_size(e)) for e in scene.edges])
    assert len(draw(root).svg) < 1e6


def test_a_large_graph_without_scopes_is_refused_at_once():
    x = Value(1.0)
    for _ in range(30_000):
        x = x * 1.0001
    with pytest.raises(ValueError, match="60001 nodes and constants, more than max_nodes=300"):
        draw(x)


# --- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"collapse": 0}, ValueError, "collapse must be at least 1"),
        ({"collapse": True}, TypeError, "collapse must be a depth or a list"),
        (
            {"collapse": "mlp"},
            TypeError,
            "collapse must be a depth or a list of scopes' paths, got",
        ),
        ({"collapse": [1]}, TypeError, "collapse must be a depth or a list"),
        ({"show": "data"}, TypeError, "show must be a tuple of str, got str"),
        ({"show": ("value",)}, ValueError, "show must be one of data, grad, local, contribution"),
        ({"shared": "twice"}, ValueError, "shared must be one of once, per use, got 'twice'"),
        ({"layout": "spring"}, ValueError, "layout must be one of auto, layered, time, dot"),
        ({"inputs": 1.0}, TypeError, "inputs go with a Module, got 1.0 for a Value"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        draw(Value(1.0) + Value(2.0), **options)


def test_contributions_are_local_times_upstream():
    a, b = Value(2.0, "a"), Value(3.0, "b")
    c = a * b
    d = c * c
    d.backward()  # dd/dc = 12, so c hands 12 · 3 to a and 12 · 2 to b
    scene = scene_of(d, show=("contribution",))
    texts = {(scene.boxes[e.source].label, e.text) for e in scene.edges}
    assert texts == {("a", "36"), ("b", "24"), ("", "6")}
    both = scene_of(d, show=("local", "contribution"))
    assert {e.text for e in both.edges} == {"3 · 12 = 36", "2 · 12 = 24", "6 · 1 = 6"}
    assert [box.rows for box in both.boxes] == [()] * 4


def test_contributions_of_arrays_are_shown_by_their_norm():
    W = Tensor(np.full((2, 8), 2.0), "W")
    y = tb.sum(W * W)
    y.backward()
    scene = scene_of(y, show=("contribution",))
    # Each use of W hands on W itself: 16 entries of 2, whose Euclidean norm is 8.
    assert [e.text for e in scene.edges] == ["‖8‖", "‖8‖", "‖4‖"]


def test_contributions_before_a_sweep_are_not_there():
    assert {e.text for e in scene_of(Value(1.0) * Value(2.0), show=("contribution",)).edges} == {""}


def test_per_use_draws_a_leaf_for_each_use():
    w = Value(2.0, "w")
    scene = scene_of(w * w + w, shared="per use")
    uses = [box for box in scene.boxes if box.label == "w"]
    assert [box.symbol for box in uses] == ["use 1 of 3", "use 2 of 3", "use 3 of 3"]
    assert all(sum(e.source == i for e in scene.edges) <= 1 for i in range(len(scene.boxes)))
    assert len(scene_of(w, shared="per use").boxes) == 1


def test_a_checkpointed_part_has_no_contribution_of_its_own():
    w = Tensor([2.0], "w")
    y = tb.checkpoint(lambda x: tb.tanh(x * w), Tensor([0.5], "x"))
    loss = tb.sum(y)
    loss.backward()
    scene = scene_of(loss, show=("contribution",))
    assert [e.text for e in scene.edges] == ["", "", "1"]


def test_of_a_very_large_graph_the_outermost_scopes_are_collapsed(monkeypatch):
    monkeypatch.setattr(building, "SEARCH", 100)
    x = tb.Value(0.5, "x")
    y = x
    with tb.scope("outer"):
        for name in "abc":
            with tb.scope(name):
                for _ in range(50):
                    y = y * x
    drawing = draw(y * x, max_nodes=10)
    assert "collapsed at depth 1" in drawing.scene.note
    assert sorted(box.kind for box in drawing.scene.boxes) == ["group", "inner", "leaf"]
