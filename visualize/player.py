"""The player: a page that steps through a computation and its backward sweep."""

from __future__ import annotations

import os
from collections.abc import Container
from html import escape
from pathlib import Path
from typing import Any

from tinygrad_bp.arguments import is_integer, out_of_range
from tinygrad_bp.graph import Node

from .equations import text
from .files import write_text
from .page import page
from .story import Story, story_of
from .text import clean
from .themes import THEMES


class Player:
    """A page that plays a computation. A notebook shows it; elsewhere `save` it and open the file.

    Attributes:
        html: the page, complete in itself.
        text: the steps as text.
    """

    __slots__ = ("_title", "html", "text")

    def __init__(self, html: str, text: str, title: str) -> None:
        self.html = html
        self.text = text
        self._title = title

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to a file, all of it or nothing.

        Args:
            path: where to; a name that ends in `.html`.

        Returns:
            The path written.

        Raises:
            TypeError: the path is not a str or a path.
            ValueError: the name has another ending.
            OSError: the file cannot be written.
        """
        return write_text(_checked_path(path), self.html)

    def _repr_mimebundle_(
        self, include: Container[str] | None = None, exclude: Container[str] | None = None
    ) -> dict[str, str]:
        """The page in a frame of its own, which can run its script and reach nothing else."""
        frame = (
            f'<iframe sandbox="allow-scripts" title="{escape(self._title)}" width="100%" '
            f'height="760" frameborder="0" srcdoc="{escape(self.html)}"></iframe>'
        )
        bundle = {"text/html": frame, "text/plain": self.text}
        return {
            kind: content
            for kind, content in bundle.items()
            if (not include or kind in include) and not (exclude and kind in exclude)
        }

    def __repr__(self) -> str:
        return self.text


def play(
    node: Node,
    path: str | os.PathLike[str] | None = None,
    *,
    title: str = "Forward pass and backward sweep",
    max_nodes: int = 300,
    theme: str = "light",
) -> Player:
    """A page that steps through a computation: the forward pass, then the backward sweep.

    At each step it shows the equation with its numbers, the node that is visited, and what every
    gradient has become so far. A click on a node shows the sum over its consumers, each with its
    contribution. All numbers are the engine's; no `.grad` is read or written.

    Args:
        node: the result of the computation, a single number.
        path: where to write the page, if anywhere; a name that ends in `.html`.
        title: the heading of the page.
        max_nodes: refuse graphs of more nodes and constants; they would be no page to read.
        theme: `"light"` or `"dark"`.

    Returns:
        The page: shown by a notebook, or written by `save()`.

    Raises:
        TypeError: an argument is of another type.
        ValueError: the graph is too large; node requires no gradient, is several numbers, or was
            computed through `checkpoint()`; or there is no such theme.
        RuntimeError: a leaf has been written to since the computation.
        OSError: the file cannot be written.

    Example:
        >>> from tinygrad_bp import Value
        >>> a = Value(3.0, "a")
        >>> print(play(a * a))
        forward   L = a · a = 3 · 3 = 9
        backward  δ = ∂L/∂L = 1: the sweep begins here
                  a.grad += a · δ = 3 · 1 = 3
                  a.grad += a · δ = 3 · 1 = 3, together 6
                  ∂L/∂a = 6: complete, 2 contributions; a leaf, nothing to hand on
    """
    if not isinstance(node, Node):
        hint = "; play one element, or their sum" if hasattr(type(node), "flat") else ""
        raise TypeError(f"play: node must be a Value or a Tensor, got {type(node).__name__}{hint}")
    if getattr(node, "size", 1) != 1:
        raise out_of_range("play: node", "a single number", node)
    if not node.requires_grad:
        kind = type(node).__name__
        raise ValueError(f"play: node: this {kind} requires no gradient: it is a constant")
    if not is_integer(max_nodes):
        raise TypeError(f"play: max_nodes must be an int, got {type(max_nodes).__name__}")
    for name, given in (("title", title), ("theme", theme)):
        if not isinstance(given, str):
            raise TypeError(f"play: {name} must be a str, got {type(given).__name__}")
    if theme not in THEMES:
        raise ValueError(f"play: theme must be one of {', '.join(THEMES)}, got {theme!r}")
    if path is not None:
        _checked_path(path)
    story = story_of(node, max_nodes)
    player = Player(page(story, clean(title), theme), _listing(story), clean(title))
    if path is not None:
        player.save(path)
    return player


def _checked_path(path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"play: path must be a str or a path, got {type(path).__name__}")
    given = Path(path)
    if given.suffix.lower() != ".html":
        raise ValueError(f"play: path: the name must end in .html, got {given.name!r:.100}")
    return given


def _listing(story: Story) -> str:
    """The steps as text."""
    lines, before = [], ""
    for moment in story.moments:
        if moment.phase in ("forward", "backward"):
            for line in moment.lines:
                lines.append(f"{moment.phase if moment.phase != before else '':10}{text(line)}")
                before = moment.phase
    return "\n".join(lines)
