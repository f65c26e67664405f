"""Pictures of computation graphs.

Example:
    >>> from tinygrad_bp import Value
    >>> from tinygrad_bp.visualize import draw
    >>> a = Value(2.0, label="a")
    >>> b = a * a + 3.0 * a
    >>> b.backward()
    >>> picture = draw(b)  # in a notebook, the last expression of a cell shows itself
    >>> path = picture.save("graph.svg")  # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path
from typing import Any

from tinygrad_bp.graph import Node

from .building import scene_of
from .files import write_text
from .scene import listing
from .svg import THEMES, render

__all__ = ["Picture", "draw"]


class Picture:
    """A drawn graph. A notebook shows it; elsewhere `save` it, or print it for a listing.

    Attributes:
        svg: the picture, as the text of an SVG file.
        text: the same graph as a table of text.
    """

    __slots__ = ("svg", "text")

    def __init__(self, svg: str, text: str) -> None:
        self.svg = svg
        self.text = text

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture to a file, all of it or nothing.

        Args:
            path: where to; a name that ends in `.svg`.

        Returns:
            The path written.

        Raises:
            TypeError: the path is not a str or a path.
            ValueError: the name has another ending.
            OSError: the file cannot be written.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"save: path must be a str or a path, got {type(path).__name__}")
        given = Path(path)
        if given.suffix.lower() != ".svg":
            raise ValueError(f"save: the name must end in .svg, got {given.name!r}")
        return write_text(given, self.svg)

    def _repr_mimebundle_(
        self, include: Container[str] | None = None, exclude: Container[str] | None = None
    ) -> dict[str, str]:
        """The picture and the listing, for a notebook to choose from."""
        bundle = {"image/svg+xml": self.svg, "text/plain": self.text}
        return {
            kind: content
            for kind, content in bundle.items()
            if (not include or kind in include) and not (exclude and kind in exclude)
        }

    def __repr__(self) -> str:
        return self.text


def draw(
    node: Node, *, direction: str = "LR", max_nodes: int = 300, theme: str = "light"
) -> Picture:
    """Draw the graph that a Value or a Tensor was computed by.

    A box is a node, with its value and, after `backward()`, its gradient; green boxes are leaves,
    dashed ones constants, and the thick one is the node that was asked for. An edge leads from an
    operand to its result and carries the local derivative: a gradient is the sum over the edges
    that leave a box, of the local derivative times the gradient at the edge's end.

    Args:
        node: the result of the computation.
        direction: `"LR"` from left to right, or `"TB"` from top to bottom.
        max_nodes: refuse graphs of more nodes and constants; they would be no picture to read.
        theme: `"light"` or `"dark"`.

    Raises:
        TypeError: an argument is of another type.
        ValueError: the graph is too large, or there is no such direction or theme.
    """
    if not isinstance(node, Node):
        hint = "; draw one element, or their sum" if hasattr(node, "flat") else ""
        raise TypeError(f"draw: node must be a Value or a Tensor, got {type(node).__name__}{hint}")
    if isinstance(max_nodes, bool) or not isinstance(max_nodes, int):
        raise TypeError(f"draw: max_nodes must be an int, got {type(max_nodes).__name__}")
    _check_choice("direction", direction, ("LR", "TB"))
    _check_choice("theme", theme, tuple(THEMES))
    scene = scene_of(node, max_nodes)
    return Picture(render(scene, direction, theme), listing(scene))


def _check_choice(name: str, given: Any, choices: tuple[str, ...]) -> None:
    if not isinstance(given, str):
        raise TypeError(f"draw: {name} must be a str, got {type(given).__name__}")
    if given not in choices:
        raise ValueError(f"draw: {name} must be one of {', '.join(choices)}, got {given!r}")
