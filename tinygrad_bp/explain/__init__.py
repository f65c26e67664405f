"""Every gradient, read: as numbers and formulas, from the recorded graph of the user's own code.

Nothing here writes to a node: each function walks the graph with a sweep of its own and leaves
every `.grad` alone. Results print as text, show themselves in notebooks, and give their numbers as
arrays.
"""

from tinygrad_bp.explain import mistakes as mistakes
from tinygrad_bp.explain.compare import (
    Comparison as Comparison,
    Finding as Finding,
    Verdict as Verdict,
    compare as compare,
)
from tinygrad_bp.explain.museum import Mistake as Mistake, Museum as Museum
