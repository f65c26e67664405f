"""Which layout places a scene, and how large its boxes and labels are to it."""

from __future__ import annotations

from .layered import layout as layered
from .measures import label_size, size_of
from .scene import Scene
from .shapes import Layout

LAYOUTS = ("auto", "layered", "time", "dot")


def place(scene: Scene, direction: str = "LR", layout: str = "layered") -> Layout:
    """The layout of a scene's boxes and edges.

    Raises:
        ValueError: a layout in time was asked for, and there are no time steps.
        ImportError: Graphviz was asked for, and is not installed.
    """
    if layout == "time":
        from .time_columns import in_time

        return in_time(scene)
    sizes = [size_of(box) for box in scene.boxes]
    edges = [(edge.source, edge.target, label_size(edge)) for edge in scene.edges]
    if layout == "dot":
        from .graphviz_layout import by_graphviz

        return by_graphviz(sizes, edges, direction)
    ordered = [i for i, box in enumerate(scene.boxes) if box.is_ordered]
    return layered(sizes, edges, ordered, direction)


def chosen(scene: Scene, layout: str) -> str:
    """The layout that `"auto"` stands for: in time for an unrolled graph, else layered."""
    if layout != "auto":
        return layout
    from .time_grid import is_unrolled

    return "time" if is_unrolled(scene) else "layered"
