"""Pictures of computation graphs.

Example:
    >>> from tinygrad_bp import Value
    >>> from tinygrad_bp.visualize import draw
    >>> a = Value(2.0, label="a")
    >>> b = a * a + 3.0 * a
    >>> b.backward()
    >>> picture = draw(b)  # in a notebook, the last expression of a cell shows itself
    >>> path = picture.save("graph.svg")  # doctest: +SKIP

`play(b)` is a page that steps through the same graph, forwards and backwards.
"""

from .drawing import draw
from .picture import Picture
from .player import Player, play

__all__ = ["Picture", "Player", "draw", "play"]
