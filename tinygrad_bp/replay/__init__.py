"""Record once, replay at the speed of the machine."""

from tinygrad_bp.replay.compiled import Compiled as Compiled, compile as compile
from tinygrad_bp.replay.program import Program as Program
from tinygrad_bp.replay.recorded import runner as runner
from tinygrad_bp.replay.storage import load as load, save as save
