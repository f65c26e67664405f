"""Curves and heat maps: what is drawn, that it is deterministic, and what is refused."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

import tinygrad_bp as tb
from tinygrad_bp import nn
from tinygrad_bp.explain import jacobians, through_time
from tinygrad_bp.visualize import plots

pytest.importorskip("matplotlib", reason="plots are drawn by matplotlib")


def recurrent(T=6):
    cell = nn.RNNCell(2, 3, rng=0)
    xs = np.random.default_rng(0).normal(size=(T, 1, 2))
    states = nn.unroll(cell, xs, cell.initial_state(1))
    return cell, states, [tb.sum(h * h) for h in states]


def test_a_heat_map_has_the_norms_of_the_table():
    cell, _, losses = recurrent()
    table = through_time(losses, cell.W)
    axes = plots.heat_map(table).figure.axes[0]
    grey, drawn = (image.get_array().filled(np.nan) for image in axes.images)
    positive = table.mask & (table.norms > 0)
    np.testing.assert_allclose(10.0 ** drawn[positive], table.norms[positive], rtol=1e-12)
    assert np.isnan(drawn[~positive]).all()
    assert np.array_equal(grey == 1.0, table.mask & (table.norms == 0))
    assert (grey == 1.0).any()  # the initial state is zero


def test_the_cells_that_a_truncation_drops_are_hatched():
    cell, _, losses = recurrent()
    truncated = through_time(losses, cell.W).blocks(2)
    axes = plots.heat_map(truncated).figure.axes[0]
    assert len(axes.patches) == (truncated.whole.mask & ~truncated.mask).sum() > 0
    assert "blocks" in axes.get_title()


def test_norms_by_lag_are_means_over_pairs():
    _, states, _ = recurrent()
    found = jacobians(states, batch=0)
    line = plots.norms_by_lag({"rnn": found}).figure.axes[0].lines[0]
    norms = found.norms().mean(-1) if found.norms().ndim == 3 else found.norms()
    expected = [np.mean(np.diag(norms, -lag)) for lag in range(len(states))]
    np.testing.assert_array_equal(line.get_xdata(), range(len(states)))
    np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-12)


def test_gradients_over_training_are_a_row_for_each_quantity():
    plot = plots.gradients({"W1": [1.0, 0.1], "W2": [0.01, 0.0]})
    drawn = plot.figure.axes[0].images[1].get_array().filled(np.nan)
    np.testing.assert_allclose(drawn, [[0.0, -1.0], [-2.0, np.nan]])
    assert [t.get_text() for t in plot.figure.axes[0].get_yticklabels()] == ["W1", "W2"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_same_figure_gives_the_same_bytes(theme, tmp_path):
    draw = lambda: plots.curves({"loss": [3.0, 1.0], "val_loss": [3.5, 2.0]}, theme=theme)  # noqa: E731
    assert draw().svg == draw().svg
    ET.fromstring(draw().svg)
    for suffix, start in {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}.items():
        path = draw().save(tmp_path / f"plot{suffix}")
        assert path.read_bytes().startswith(start)
        assert path.read_bytes() == draw().save(tmp_path / f"again{suffix}").read_bytes()
    assert draw()._repr_mimebundle_()["image/svg+xml"] == draw().svg


def test_a_plot_prints_as_its_title():
    plot = plots.gradients({"W": [1.0, 2.0]})
    assert repr(plot) == "Plot(log₁₀ of the gradient's norm)"
    assert repr(plots.curves({"loss": [1.0]})) == "Plot()"


def test_global_state_is_left_alone():
    import matplotlib

    # All but the backend, which is decided by the first who looks.
    settings = lambda: {k: v for k, v in matplotlib.rcParams.items() if k != "backend"}  # noqa: E731
    before = settings()
    plots.curves({"loss": [1.0]}).svg  # noqa: B018
    assert settings() == before


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"expected the result of explain.through_time, got list"):
        plots.heat_map([1.0])
    with pytest.raises(TypeError, match="got int"):
        plots.norms_by_lag(3)
    with pytest.raises(ValueError, match="at least one"):
        plots.norms_by_lag({})
    with pytest.raises(ValueError, match="same training steps"):
        plots.gradients({"a": [1.0], "b": [1.0, 2.0]})
    with pytest.raises(ValueError, match="theme: expected one of light, dark"):
        plots.curves({"a": [1.0]}, theme="pink")
    with pytest.raises(ValueError, match=r"expected a name ending in \.svg, \.png, \.pdf"):
        plots.curves({"a": [1.0]}).save(tmp_path / "plot.gif")
