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
from tinygrad_bp.explain.contributions import (
    Contributions as Contributions,
    contributions as contributions,
)
from tinygrad_bp.explain.cost import Cost as Cost, Growth as Growth, cost as cost, growth as growth
from tinygrad_bp.explain.deltas import Delta as Delta, Deltas as Deltas, deltas as deltas
from tinygrad_bp.explain.derivation import Derivation as Derivation
from tinygrad_bp.explain.deriving import derive as derive
from tinygrad_bp.explain.equations import Equation as Equation
from tinygrad_bp.explain.jacobians import Jacobians as Jacobians, jacobians as jacobians
from tinygrad_bp.explain.museum import Mistake as Mistake, Museum as Museum
from tinygrad_bp.explain.paths import Path as Path, Paths as Paths, paths as paths
from tinygrad_bp.explain.through_time import (
    StatesThroughTime as StatesThroughTime,
    ThroughTime as ThroughTime,
    through_time as through_time,
)
from tinygrad_bp.explain.truncation import Truncation as Truncation
from tinygrad_bp.explain.uses import Contribution as Contribution
from tinygrad_bp.explain.why import Why as Why, Whys as Whys, why as why
