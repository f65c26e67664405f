"""Settings of the whole suite: how many examples the property tests try."""

import os

# The arrays are small: one thread of BLAS is faster, and on busy cores very much faster.
for library in ("OPENBLAS", "MKL", "OMP"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

import pytest  # noqa: E402
from hypothesis import HealthCheck, Phase, settings  # noqa: E402

from tinygrad_bp.recording import ROOT, _state  # noqa: E402

QUIET = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}
settings.register_profile("default", derandomize=True, max_examples=25, database=None, **QUIET)
settings.register_profile("fuzz", max_examples=1500, **QUIET)
settings.register_profile(
    "mutation",
    derandomize=True,
    max_examples=25,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    **QUIET,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True)
def recording():
    """Every test starts at the top, with recording on, whatever a failed one has left behind."""
    _state.set(ROOT)
