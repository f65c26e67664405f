"""Every gradient, read: as numbers and formulas, from the recorded graph of the user's own code.

Nothing here writes to a node: each function walks the graph with a sweep of its own and leaves
every `.grad` alone. Results print as text, show themselves in notebooks, and give their numbers as
arrays.
"""

from tinygrad_bp.explain.derivation import Derivation as Derivation
from tinygrad_bp.explain.deriving import derive as derive
from tinygrad_bp.explain.equations import Equation as Equation
