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

from .drawing import draw
from .picture import Picture

__all__ = ["Picture", "draw"]
