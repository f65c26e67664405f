"""The layout in time: aligned, growing in width only, and every line clear of the boxes."""

from __future__ import annotations

import geometry_of_lines
import graphs
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import tinygrad_bp as tb
from tinygrad_bp import Tensor, Value, nn
from tinygrad_bp.visualize import draw
from tinygrad_bp.visualize.building import scene_of
from tinygrad_bp.visualize.measures import label_size
from tinygrad_bp.visualize.placing import chosen, place
from tinygrad_bp.visualize.time_columns import bars
from tinygrad_bp.visualize.time_grid import grid_of, is_unrolled


def in_time(root, **options):
    """The scene and its layout, checked."""
    scene = scene_of(root, 2000, **options)
    layout = place(scene, "LR", "time")
    edges = [(e.source, e.target, label_size(e)) for e in scene.edges]
    geometry_of_lines.check_orthogonal(layout, edges)
    return scene, layout


def elman(steps, cut=0, scalar=False):
    cell = nn.RNNCell(1, 2, rng=0)
    V = Tensor(np.ones((2, 1)), "V")
    h, loss = cell.initial_state(), 0.0
    for t in range(1, steps + 1):
        (h,) = nn.unroll(cell, [np.array([0.5])], h, start=t)
        with tb.scope("step", t):
            loss = nn.named(loss + tb.sum((h @ V) ** 2), "loss")
        if t == cut:
            h = h.detach()
    return loss


def scalar_rnn(steps, hidden=2):
    cell = nn.RNNCell(1, hidden, rng=0).scalar_view()
    hs = nn.unroll(cell, np.ones((steps, 1)), np.zeros(hidden))
    return sum((h * h).sum() for h in hs)


def stacked():
    out, _ = nn.LSTM(2, 2, layers=2, rng=0)(np.ones((3, 2)))
    return tb.sum(out)


def bidirectional():
    out, _ = nn.RNN(2, 2, bidirectional=True, rng=0)(np.ones((4, 2)))
    return tb.sum(out)


def characters():
    model = nn.CharRNN(3, 4, rng=0)
    logits, _ = model(np.eye(3)[:, None], model.cell.initial_state(1))
    return sum(nn.cross_entropy(o, np.array([1])) for o in logits)


def looking_back():
    """Every step uses all the states before it, as attention does."""
    states = [Tensor(np.ones(2), "s")]
    for t in range(1, 5):
        with tb.scope("step", t):
            states.append(nn.named(tb.tanh(sum(states[1:], states[0])), f"h({t})"))
    return tb.sum(states[-1])


UNROLLED = [
    lambda: elman(1),
    lambda: elman(5),
    lambda: elman(6, cut=3),
    lambda: scalar_rnn(3),
    stacked,
    bidirectional,
    characters,
    looking_back,
    *graphs.UNROLLED,
]


@pytest.mark.parametrize("graph", UNROLLED)
@pytest.mark.parametrize("show", [("data", "grad", "local"), ()])
@pytest.mark.parametrize("shared", ["once", "per use"])
def test_unrolled_graphs_are_legible(graph, show, shared):
    root = graph()
    root.backward()
    in_time(root, show=show, shared=shared)


def test_a_quantity_has_one_height_and_one_place_in_its_column():
    scene, layout = in_time(elman(6))
    for quantity in ("z", "h", "@", "linear", "Σ", "loss"):
        boxes = [
            (box.step, r)
            for box, r in zip(scene.boxes, layout.boxes, strict=True)
            if box.quantity == quantity
        ]
        assert len(boxes) >= 6
        if quantity == "@":  # h W and h V
            boxes = boxes[::2]
        assert len({r.y for _, r in boxes}) == 1, quantity
        xs = [r.x for _, r in sorted(boxes)]
        distances = np.diff(xs)
        assert np.all(distances > 0)
        assert np.ptp(distances[1:]) < 1e-9


def test_it_grows_in_width_only():
    few, many = in_time(elman(4), show=())[1], in_time(elman(16), show=())[1]
    assert many.height == few.height
    assert many.width > 3 * few.width


def test_a_shared_parameter_is_one_box_with_one_line_along_its_users():
    scene, layout = in_time(elman(5))
    (W,) = (i for i, box in enumerate(scene.boxes) if box.label == "W")
    routes = [r for e, r in zip(scene.edges, layout.routes, strict=True) if e.source == W]
    assert len(routes) == 5
    assert sum(not route.branches for route in routes) == 1
    others = [geometry_of_lines.length(route) for route in routes if route.branches]
    assert max(others) < 100


def test_per_use_there_is_a_box_for_each():
    scene, _ = in_time(elman(3), shared="per use")
    boxes = [box for box in scene.boxes if box.label == "W"]
    assert [box.symbol for box in boxes] == ["use 1 of 3", "use 2 of 3", "use 3 of 3"]


def test_the_state_of_the_step_before_arrives_from_the_left():
    scene, layout = in_time(elman(3))
    for edge, route in zip(scene.edges, layout.routes, strict=True):
        source, target = scene.boxes[edge.source], scene.boxes[edge.target]
        if source.quantity == "h" and target.step == (source.step or 0) + 1:
            (x0, y0), (x1, y1) = route.points[-2:]
            assert y0 == y1
            assert x0 < x1


@pytest.mark.parametrize("cut", [0, 1, 3])
def test_truncation_is_drawn_where_the_state_was_detached(cut):
    scene, layout = in_time(elman(5, cut=cut))
    cuts = [mark.place for mark in layout.marks if mark.kind == "cut"]
    assert len(cuts) == (1 if cut else 0)
    for place_ in cuts:
        x = place_.x + place_.width / 2
        for box, r in zip(scene.boxes, layout.boxes, strict=True):
            if box.step is not None:
                assert (r.x + r.width < x) == (box.step <= cut)


def test_an_initial_state_is_no_truncation():
    h0 = Tensor([0.0, 0.0], "h(0)", requires_grad=False)
    (h,) = nn.unroll(nn.RNNCell(1, 2, rng=0), np.ones((1, 1)), h0)
    h = nn.unroll(nn.RNNCell(1, 2, rng=0), np.ones((1, 1)), h, start=2)[0]
    assert not grid_of(scene_of(tb.sum(h))).cuts


def test_stacked_layers_are_bands_of_rows():
    scene, layout = in_time(stacked())
    bands = [mark for mark in layout.marks if mark.kind == "band"]
    assert [mark.text for mark in bands] == ["lstm/layer1", "lstm/layer2"]
    for box, r in zip(scene.boxes, layout.boxes, strict=True):
        if box.kind == "inner" and "layer" in box.layer and box.step is not None:
            band = bands["layer2" in box.layer].place
            assert band.y <= r.y
            assert r.y + r.height <= band.y + band.height


def test_folded_steps_are_one_column():
    scene, layout = in_time(elman(30), fold=True)
    headings = [mark.text for mark in layout.marks if mark.kind == "heading"]
    assert headings == ["parameters", "step 1", "step 2", "…", "step 30"]
    assert any("27 more steps" in box.label for box in scene.boxes)


def test_auto_is_time_for_unrolled_graphs_only():
    for graph in graphs.GRAPHS:
        scene = scene_of(graph())
        expected = graph in graphs.UNROLLED
        assert is_unrolled(scene) == expected, graph.__name__
        assert chosen(scene, "auto") == ("time" if expected else "layered")


def test_time_without_steps_is_refused():
    with pytest.raises(ValueError, match="layout='time' needs time steps"):
        draw(Value(1.0) * 2.0, layout="time")


# --- the strip ----------------------------------------------------------------------------------


def test_strip_shows_the_norm_of_the_gradient_by_each_state():
    # h(t) = w h(t-1): the derivative of h(4) by h(k) is w^(4-k), all of them 0.5 powers.
    w, h = Tensor([0.5], "w"), Tensor([1.0], requires_grad=False)
    for t in range(1, 5):
        with tb.scope("step", t):
            h = nn.named(w * h, f"h({t})")
    scene = scene_of(tb.sum(h), strip=True)
    assert scene.strip[1] == {1: 0.125, 2: 0.25, 3: 0.5, 4: 1.0}
    marks = [mark for mark in place(scene, "LR", "time").marks if mark.kind == "bar"]
    assert [mark.text for mark in marks] == ["0.125", "0.25", "0.5", "1"]
    heights = [mark.place.height for mark in marks]
    assert np.allclose(heights, [h * heights[-1] for h in (0.125, 0.25, 0.5, 1)], atol=0.1)
    assert len({mark.place.y + mark.place.height for mark in marks}) == 1


def test_strip_of_the_scalar_view_is_that_of_the_arrays():
    def loss(cell):
        return (nn.unroll(cell, np.ones((4, 1)), np.zeros(2))[-1] ** 2).sum()

    cell = nn.RNNCell(1, 2, rng=0)
    arrays, scalars = (
        scene_of(loss(c), 1000, strip=True).strip[1] for c in (cell, cell.scalar_view())
    )
    assert arrays.keys() == scalars.keys()
    assert np.allclose(list(arrays.values()), list(scalars.values()), rtol=1e-12)


def test_strip_without_a_state_is_refused():
    with pytest.raises(ValueError, match="a state that is named at every step"):
        draw(Value(2.0) * Value(3.0), strip=True)
    with pytest.raises(ValueError, match="a single number"):
        draw(Tensor([1.0, 2.0]) * 2.0, strip=True)


def test_bars_are_linear_or_logarithmic():
    assert bars([1.0, 4.0, 2.0]) == ([0.25, 1.0, 0.5], "")
    heights, scale = bars([1e-6, 1e-3, 1.0, 0.0, float("nan")])
    assert "logarithmic" in scale
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1])
    assert heights[2] == 1.0
    assert heights[3:] == [0.0, 0.0]


# --- random -------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 60), st.integers(0, 60), st.integers(0, 2)),
        min_size=3,
        max_size=30,
    ),
    st.booleans(),
)
def test_random_graphs_in_time_are_legible(operations, labelled):
    nodes = [Value(0.5, "w"), Value(0.25, "v"), Value(2.0, "c", requires_grad=False)]
    step = 1
    for advance, i, j, kind in operations:
        step += advance == 0
        a, b = nodes[i % len(nodes)], nodes[j % len(nodes)]
        with tb.scope("step", step):
            node = (a * b, a - b, tb.tanh(a))[kind]
        if labelled:
            node.label = f"q{kind}"
        nodes.append(node)
    root = sum(nodes[3:], nodes[0])
    if any(box.step is not None for box in scene_of(root).boxes):
        in_time(root)
