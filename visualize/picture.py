"""`Picture`: a drawn graph, as it is shown and saved."""

from __future__ import annotations

import os
from collections.abc import Callable, Container
from html import escape
from pathlib import Path
from typing import Any

from tinygrad_bp.arguments import file_path

from .files import write_bytes
from .policy import policy
from .scene import Scene

# Nothing may be loaded and nothing may run: the page is a picture.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
</head>
<body>
{svg}
<details>
<summary>As text</summary>
<pre>{text}</pre>
</details>
</body>
</html>
"""


class Picture:
    """A drawn graph. A notebook shows it; elsewhere `save` it, or print it for a listing.

    Attributes:
        svg: the picture, as the text of an SVG file.
        text: the same graph as a table of text.
        scene: the boxes and edges that were drawn.
    """

    __slots__ = ("direction", "scene", "svg", "text")

    def __init__(
        self, svg: str, text: str, scene: Scene | None = None, direction: str = "LR"
    ) -> None:
        self.svg = svg
        self.text = text
        self.scene = scene or Scene((), ())
        self.direction = direction

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture to a file, all of it or nothing; the suffix says how.

        Args:
            path: where to; a name that ends in `.svg`, `.html`, or, with the extra `png`
                (CairoSVG), in `.png` or `.pdf`.

        Returns:
            The path written.

        Raises:
            TypeError: the path is not a str or a path.
            ValueError: the name has another ending.
            ImportError: the package that writes such files is not installed.
            OSError: the file cannot be written.
        """
        given = file_path(path, "save: path")
        kind = given.suffix.lower()
        if kind not in _WRITERS:
            raise ValueError(
                f"save: the name must end in {', '.join(_WRITERS)}, got {given.name!r}"
            )
        return write_bytes(given, _WRITERS[kind](self))

    @property
    def html(self) -> str:
        """The picture as a page of its own, with the listing; it needs no network."""
        title = escape(f"Computation graph of {self.scene.boxes[-1].name}"
                       if self.scene.boxes else "Computation graph")  # fmt: skip
        return PAGE.format(policy=policy(), title=title, svg=self.svg, text=escape(self.text))

    def to_dot(self) -> Any:
        """The drawn boxes and edges as a `graphviz.Digraph`, for tools that read DOT.

        Raises:
            ImportError: the package graphviz is not installed.
        """
        from .graphviz_layout import digraph

        return digraph(self.scene, self.direction)

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


def _cairo(name: str, **options: float) -> Callable[[Picture], bytes]:
    def write(picture: Picture) -> bytes:
        try:
            import cairosvg
        except (ImportError, OSError) as error:  # OSError: the package without the cairo library
            raise ImportError(
                "save: PNG and PDF need CairoSVG, which the extra `png` installs: "
                "pip install 'tinygrad_bp[png]'"
            ) from error
        written: bytes = getattr(cairosvg, name)(bytestring=picture.svg.encode(), **options)
        return written

    return write


_WRITERS: dict[str, Callable[[Picture], bytes]] = {
    ".svg": lambda picture: picture.svg.encode(),
    ".html": lambda picture: picture.html.encode(),
    ".png": _cairo("svg2png", scale=2.0),
    ".pdf": _cairo("svg2pdf"),
}
