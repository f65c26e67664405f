"""Curves and heat maps of what a derivation is about, in one style. They need matplotlib.

Each function takes a result of `explain` or of a training, and returns a `Plot`, which shows itself
in a notebook and is saved as SVG, PNG or PDF. The global state of matplotlib is left alone.
"""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .files import write_bytes
from .text import clean, shorten
from .themes import THEMES

SUFFIXES = (".svg", ".png", ".pdf")
FONT = "DejaVu Sans Mono"
LONGEST_NAME = 20.0  # ems
# Of curves: each has a contrast of at least 3 to either theme's background (WCAG, 1.4.11).
COLOURS = ("#3d7fd1", "#d0472f", "#3f9a58", "#c77700", "#8a63d2", "#7b8794")


class Plot:
    """A drawn figure. A notebook shows it; elsewhere `save` it.

    Attributes:
        figure: the matplotlib `Figure`, to be changed before it is shown.
    """

    __slots__ = ("figure",)

    def __init__(self, figure: Any) -> None:
        self.figure = figure

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the figure to a file, all of it or nothing; the suffix says how.

        Raises:
            ValueError: the name does not end in .svg, .png or .pdf.
            OSError: the file cannot be written.
        """
        suffix = Path(path).suffix.lower()
        if suffix not in SUFFIXES:
            raise ValueError(f"save: expected a name ending in {', '.join(SUFFIXES)}, got {path!r}")
        return write_bytes(path, self._drawn(suffix[1:]))

    @property
    def svg(self) -> str:
        """The figure, as the text of an SVG file."""
        return self._drawn("svg").decode()

    def __repr__(self) -> str:
        titles = [axes.get_title() for axes in self.figure.axes if axes.get_title()]
        return f"Plot({'; '.join(titles)})"

    def _drawn(self, kind: str) -> bytes:
        from matplotlib import rc_context

        buffer = io.BytesIO()
        # No date and no random ids: the same figure gives the same bytes.
        metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
        with rc_context({"svg.hashsalt": "tinygrad_bp", "svg.fonttype": "none"}):
            self.figure.savefig(buffer, format=kind, metadata=metadata[kind], dpi=150)
        return buffer.getvalue()

    def _repr_mimebundle_(
        self, include: Container[str] | None = None, exclude: Container[str] | None = None
    ) -> dict[str, str]:
        """The figure, for a notebook."""
        if (include and "image/svg+xml" not in include) or "image/svg+xml" in (exclude or ()):
            return {}
        return {"image/svg+xml": self.svg}


def heat_map(table: Any, *, theme: str = "light") -> Plot:
    """The table over (loss time t, step k) of back-propagation through time, as colours.

    Args:
        table: what `explain.through_time` gives; or a truncation of it, whose dropped cells are
            hatched.
        theme: `"light"` or `"dark"`.

    Raises:
        TypeError: it is another thing.
    """
    whole = getattr(table, "whole", table)
    if not all(hasattr(whole, name) for name in ("norms", "mask", "times", "steps")):
        raise TypeError(
            f"heat_map: expected the result of explain.through_time, got {type(table).__name__}"
        )
    axes, plot = _axes(theme, width=1.8 + 2.8 * min(len(whole.steps) / len(whole.times), 4.0))
    image = _image(axes, np.where(whole.mask, whole.norms, np.nan), theme)
    _ticks(axes.set_xticks, whole.steps)
    _ticks(axes.set_yticks, whole.times)
    axes.set_xlabel("step k of the use")
    axes.set_ylabel("time t of the loss")
    title = f"log₁₀ ‖∂L(t)/∂{_plain(whole.name)} via k‖"
    if whole is not table:
        title += "\n" + "\n".join(textwrap.wrap(table.title, 36))
    axes.set_title(title, parse_math=False)
    if whole is not table:
        for row, column in np.argwhere(whole.mask & ~table.mask):
            _hatch(axes, column, row, THEMES[theme]["text"])
    _colour_bar(axes, image, theme)
    return plot


def norms_by_lag(results: Any, *, theme: str = "light") -> Plot:
    """How a gradient shrinks or grows with the distance in time, on a logarithmic scale.

    Args:
        results: the `Jacobians` of a network's states, a table of `explain.through_time`, or a dict
            of such by name, to be compared. The curve is the mean over all pairs of that lag.
        theme: `"light"` or `"dark"`.

    Raises:
        TypeError: a result is another thing.
        ValueError: there is none.
    """
    named = results if isinstance(results, Mapping) else {"": results}
    if not named:
        raise ValueError("norms_by_lag: expected at least one result, got an empty dict")
    axes, plot = _axes(theme)
    for i, result in enumerate(named.values()):
        lags, means = _by_lag(result)
        axes.plot(lags, means, marker="o", markersize=3.5, color=COLOURS[i % 6])
    axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("lag t − k")
    axes.set_ylabel("norm, mean over t")
    axes.set_title("How far gradients reach back in time")
    return _with_legend(axes, plot, list(named), theme)


def gradients(norms: Mapping[str, Sequence[float]], *, theme: str = "light") -> Plot:
    """The gradient norms of several quantities over the steps of a training, as colours.

    Args:
        norms: for each quantity (a parameter, a layer's delta, a time step's state), from the
            topmost row to the lowest, its norm at each training step.
        theme: `"light"` or `"dark"`.

    Raises:
        ValueError: there are none, or their lengths differ.
    """
    if not norms or len({len(row) for row in norms.values()}) != 1:
        raise ValueError("gradients: expected norms at the same training steps for every quantity")
    axes, plot = _axes(theme, height=1.4 + 0.3 * len(norms))
    rows = np.array([list(row) for row in norms.values()], float)
    image = _image(axes, rows, theme, aspect="auto")
    axes.set_yticks(range(len(norms)), map(_plain, norms), parse_math=False)
    axes.set_xlabel("training step")
    axes.set_title("log₁₀ of the gradient's norm")
    _colour_bar(axes, image, theme)
    return plot


def curves(
    history: Mapping[str, Sequence[float]],
    *,
    x: Sequence[float] | None = None,
    xlabel: str = "epoch",
    log: bool = False,
    theme: str = "light",
) -> Plot:
    """Numbers over the epochs of a training, such as the history that `training.fit` returns.

    Args:
        history: for each name a sequence of numbers.
        x: where they stand on the horizontal axis; 1, 2, 3, ... if not given.
        xlabel: what that axis says.
        log: whether the scale is logarithmic.
        theme: `"light"` or `"dark"`.

    Raises:
        ValueError: there are none.
    """
    if not history:
        raise ValueError("curves: expected at least one sequence of numbers, got an empty dict")
    axes, plot = _axes(theme)
    for i, numbers in enumerate(history.values()):
        places = range(1, len(numbers) + 1) if x is None else x[: len(numbers)]
        axes.plot(places, numbers, color=COLOURS[i % 6])
    if log:
        axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=x is None)
    axes.set_xlabel(_plain(xlabel, 60.0), parse_math=False)
    return _with_legend(axes, plot, list(history), theme)


# --- what they share ----------------------------------------------------------------------------


def _axes(theme: str, width: float = 6.4, height: float = 3.6) -> tuple[Any, Plot]:
    """Axes in the theme's colours, on a figure that belongs to nobody else."""
    if theme not in THEMES:
        raise ValueError(f"theme: expected one of {', '.join(THEMES)}, got {theme!r}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("plots need matplotlib: pip install 'tinygrad_bp[plots]'") from None
    colours = THEMES[theme]
    figure = Figure(figsize=(max(width, 4.2), height), layout="constrained")
    figure.set_facecolor(colours["background"])
    axes = figure.add_subplot()
    axes.set_facecolor(colours["background"])
    axes.tick_params(colors=colours["quiet"], labelsize=9)
    for spine in axes.spines.values():
        spine.set_color(colours["edge"])
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        text.set(color=colours["text"], fontfamily=FONT, fontsize=10)
    return axes, Plot(figure)


def _image(axes: Any, numbers: Any, theme: str, aspect: str = "equal") -> Any:
    """The logarithms of norms as colours; zeros are grey, and what is not there is blank."""
    grey = np.where(numbers == 0.0, 1.0, np.nan)
    axes.imshow(grey, cmap="Greys", vmin=0.0, vmax=3.0, aspect=aspect, interpolation="nearest")
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(numbers > 0.0, np.log10(numbers), np.nan)
    return axes.imshow(logs, cmap="viridis", aspect=aspect, interpolation="nearest")


def _colour_bar(axes: Any, image: Any, theme: str) -> None:
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.046)
    bar.ax.tick_params(colors=THEMES[theme]["quiet"], labelsize=9)
    bar.outline.set_edgecolor(THEMES[theme]["edge"])


def _ticks(set_ticks: Callable[..., Any], numbers: Sequence[int]) -> None:
    """At most a dozen of them."""
    every = -(-len(numbers) // 12)
    set_ticks(range(0, len(numbers), every), [str(n) for n in numbers[::every]])


def _hatch(axes: Any, column: int, row: int, colour: str) -> None:
    from matplotlib.patches import Rectangle

    cell = (column - 0.5, row - 0.5)
    axes.add_patch(
        Rectangle(cell, 1, 1, fill=False, hatch="///", edgecolor=colour, linewidth=0.0, alpha=0.8)
    )


def _with_legend(axes: Any, plot: Plot, names: list[str], theme: str) -> Plot:
    axes.grid(visible=True, color=THEMES[theme]["constant edge"], linewidth=0.4, alpha=0.6)
    if any(names):
        # The names are set afterwards: matplotlib leaves out those that begin with an underscore.
        legend = axes.legend(axes.lines, ["…"] * len(names), fontsize=9, frameon=False)
        for text, name in zip(legend.get_texts(), names, strict=True):
            text.set(text=_plain(name), parse_math=False, color=THEMES[theme]["text"])
    return plot


def _plain(name: Any, longest: float = LONGEST_NAME) -> str:
    """A name from anywhere: short, on one line; to be set with `parse_math=False`, as it is."""
    return shorten(clean(str(name)), longest)


def _by_lag(result: Any) -> tuple[list[int], list[float]]:
    """The lags, and the mean norm over all pairs of each."""
    norms = getattr(result, "norms", None)
    if norms is None:
        raise TypeError(
            "norms_by_lag: expected explain.jacobians(...) or explain.through_time(...), got "
            f"{type(result).__name__}"
        )
    norms = norms() if callable(norms) else norms
    if norms.ndim == 3:  # of several samples
        norms = norms.mean(-1)
    times = np.array(getattr(result, "times", result.steps))
    lag = times[:, None] - np.array(result.steps)[None, :]
    there = getattr(result, "mask", lag >= 0)
    lags = [int(x) for x in np.unique(lag[there])]
    return lags, [float(norms[there & (lag == x)].mean()) for x in lags]
