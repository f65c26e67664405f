"""What is rarely drawn: odd elements of arrays, steps in another order, plots of other scales."""

import re
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.explain import jacobians
from tinygrad_bp.visualize import draw
from tinygrad_bp.visualize.report import heat_map, report
from tinygrad_bp.visualize.summaries import short

SVG = "{http://www.w3.org/2000/svg}"


def box(picture, name):
    (found,) = [box for box in picture.scene.boxes if box.name == name]
    return found


def elements(*labels):
    """Numbers 1, 2, ... with these labels, which two scopes use, so that they are in neither."""
    leaves = [tb.Value(float(i), label) for i, label in enumerate(labels, 1)]
    with tb.scope("squares"):
        squares = sum(x * x for x in leaves)
    with tb.scope("cubes"):
        total = squares + sum(x * x * x for x in leaves)
    total.backward()
    return total


@pytest.mark.parametrize(
    ("labels", "shape"),
    [
        (["W[0]", "W[1]", "W[2]"], (3,)),
        (["W[0, 0]", "W[0, 1]", "W[1, 0]"], (2, 2)),
        (["W[0]", "W[1, 2]", "W[3]"], (3,)),  # no array has these: they are listed
        (["W[0, 0]", "W[500, 500]", "W[7, 7]"], (3,)),  # few of a large one
    ],
)
def test_elements_are_drawn_as_an_array(labels, shape):
    drawn = box(draw(elements(*labels), collapse=1), "W")
    assert ("shape", str(shape)) in drawn.rows
    # x² + x³ has the derivative 2x + 3x²: 5, 16 and 33 at 1, 2 and 3.
    numbers = set(re.findall(r"\d+", " ".join(value for _, value in drawn.rows[1:])))
    assert numbers == {"1", "2", "3", "5", "16", "33"}


def test_the_parameters_of_a_group_with_elements_of_several_ranks():
    with tb.scope("inside"):
        leaves = [tb.Value(1.0, label) for label in ("W[0]", "W[2]", "W[1, 1]")]
        total = sum(x * x for x in leaves)
    drawn = draw(total * 1.0, collapse=1, max_nodes=4)
    assert "W (3,)" in " ".join(value for each in drawn.scene.boxes for _, value in each.rows)


def test_heat_maps_of_what_is_shown():
    x = tb.Tensor(np.array([[1.0, -2.0], [0.5, 0.0]]), "x")
    tb.sum(x * x).backward()
    headings = [[h.heading for h in box(draw(x, show=show, heat_maps=True), "x").heat]
                for show in (("grad",), ("data",), ())]  # fmt: skip
    assert headings == [["grad"], ["data"], []]


def test_arrays_on_one_line():
    assert short(np.array([1.0, -2.5])) == "[1, -2.5]"
    assert short(np.array([[3.0]])) == "3"
    assert short(np.array([3.0, 0.0, 0.0, 4.0])) == "‖5‖"


def test_what_does_not_fit_even_folded_is_refused():
    x = tb.Value(1.0, "x")
    with tb.scope("all"):
        for t in range(30):
            with tb.scope("step", t):
                x = x * x + float(t)
    for fold in (True, False):
        with pytest.raises(ValueError, match="more than max_nodes=1"):
            draw(x, max_nodes=1, collapse=2, fold=fold)
    folded = draw(x * 2.0, max_nodes=12, fold=True)
    assert len(folded.scene.boxes) <= 12
    assert len(draw(x * 2.0, max_nodes=3, fold=True).scene.boxes) <= 3


def test_a_module_that_returns_a_dict_or_arrays_of_values():
    class Two(nn.Module):
        def __call__(self, x):
            return {"double": x * 2.0, "more": [x * 3.0, tb.values([1.0, 2.0])]}

    drawn = draw(Two(), inputs=tb.Value(4.0, "x"))
    assert sum(each.is_root for each in drawn.scene.boxes) == 4
    assert {"8", "12"} <= {value for each in drawn.scene.boxes for _, value in each.rows}


def test_a_module_shows_gradients_and_what_hangs_in_a_dict():
    class Named(nn.Module):
        def __init__(self):
            self.parts = {"a": tb.Tensor([1.0, 2.0], "a")}
            self.computed = self.parts["a"] * 2.0  # no parameter

    model = Named()
    tb.sum(model.parts["a"] * 3.0).backward()
    drawn = draw(model)
    (leaf,) = [each for each in drawn.scene.boxes if each.kind == "leaf"]
    assert ("grad", "[3, 3]") in leaf.rows
    assert len(drawn.scene.boxes) == 2


def test_steps_whose_quantities_come_in_another_order():
    """At odd steps a is computed from b, at even ones b from a: no order of rows holds for all."""
    h = tb.Value(0.5, "h(0)")
    for t in range(1, 5):
        with tb.scope("step", t):
            first, second = ("a", "b") if t % 2 else ("b", "a")
            x = nn.named(h * 0.5, first)
            h = nn.named(nn.named(x * 2.0, second) * 1.0, "h")
    drawn = draw(h, layout="time")
    root = ET.fromstring(drawn.svg)
    names = [text.text for text in root.iter(f"{SVG}text")]
    assert all(f"step {t}" in names for t in range(1, 5))
    places = {i: g.find(f"{SVG}rect") for i in range(len(drawn.scene.boxes))
              for g in root.iter(f"{SVG}g") if g.get("id") == f"n{i}"}  # fmt: skip
    for edge in drawn.scene.edges:  # within a step what is computed stands below its operands
        a, b = drawn.scene.boxes[edge.source], drawn.scene.boxes[edge.target]
        if a.step == b.step is not None:
            assert float(places[edge.source].get("y")) < float(places[edge.target].get("y"))


# --- reports ------------------------------------------------------------------------------------


def test_losses_of_which_no_parameter_is_used_twice(tmp_path):
    x = tb.Value(2.0, "x")
    with tb.scope("step", 1):
        loss = x * x
    page = report(loss, tmp_path / "page.html", losses=[loss]).read_text(encoding="utf-8")
    assert "no parameter is used at more than one time step" in page


def test_a_parameter_that_is_used_outside_of_the_steps_has_no_table(tmp_path):
    cell = nn.RNNCell(1, 2, rng=0)
    states = nn.unroll(cell, np.ones((3, 1, 1)), cell.initial_state(1))
    outside = tb.Tensor([2.0], "outside")
    factor = outside * 1.0
    losses = [tb.sum(h * h * factor) for h in states]
    page = report(sum(losses), tmp_path / "page.html", losses=losses).read_text(encoding="utf-8")
    assert "<h3>W</h3>" in page
    assert "<h3>outside</h3>" not in page


def test_a_long_heat_map_names_every_second_step():
    steps = tuple(range(1, 41))
    mask = np.tril(np.ones((40, 40), bool))
    root = ET.fromstring(heat_map(np.ones((40, 40)), mask, steps, steps))
    named = [text.text for text in root.iter(f"{SVG}text")]
    assert [n for n in named if n.isdigit()] == [str(n) for n in range(1, 41, 2)] * 2
    assert len(root.findall(f"{SVG}rect")) == mask.sum()
    assert {r.get("fill-opacity") for r in root.iter(f"{SVG}rect")} == {"1.00"}  # all are equal


# --- plots --------------------------------------------------------------------------------------


def test_curves_on_another_axis():
    plots = pytest.importorskip("tinygrad_bp.visualize.plots")
    pytest.importorskip("matplotlib", reason="draws plots")
    axes = plots.curves({"loss": [8.0, 4.0, 2.0]}, x=[10, 100, 1000], log=True).figure.axes[0]
    assert axes.get_yscale() == "log"
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [10, 100, 1000])
    with pytest.raises(ValueError, match="at least one sequence of numbers"):
        plots.curves({})
    plot = plots.curves({"loss": [1.0]})
    assert plot._repr_mimebundle_(exclude=["image/svg+xml"]) == {}
    assert plot._repr_mimebundle_(include=["text/plain"]) == {}


def test_norms_of_several_samples_are_their_mean():
    pytest.importorskip("matplotlib", reason="draws plots")
    from tinygrad_bp.visualize import plots

    cell = nn.RNNCell(2, 3, rng=0)
    xs = np.random.default_rng(0).normal(size=(5, 4, 2))
    found = jacobians(nn.unroll(cell, xs, cell.initial_state(4)), batch=0)
    axes = plots.norms_by_lag(found).figure.axes[0]
    assert axes.get_legend() is None  # a single one needs no name
    norms = found.norms()
    assert norms.shape == (5, 5, 4)
    expected = [np.mean([norms[t, t - lag] for t in range(lag, 5)]) for lag in range(5)]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), expected, rtol=1e-12)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    from tinygrad_bp.visualize import plots

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"tinygrad_bp\[plots\]"):
        plots.curves({"loss": [1.0]})
