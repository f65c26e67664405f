"""The tape while it grows: instructions are added at its end, and it becomes a `Program`."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_bp.debugging import _line_of_user as line_of_user
from tinygrad_bp.recording import ROOT, Scope, current_state, resolve
from tinygrad_bp.replay.program import CONSTANT, INPUT, Details, Draw, Guard, Program
from tinygrad_bp.replay.scopes import ScopeRecorder


class GrowingTape:
    """Instructions, in the order in which they are recorded.

    Attributes:
        drawn: the instructions that random numbers are, in the order of `draws`.
        scope: the scope of all that is made during the recording.
        closed: whether it has ended.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.rules: list[Any] = [INPUT, CONSTANT]
        self.positions: dict[Any, int] = {}
        self.codes = array("H")
        self.operands = array("i")
        self.details: dict[int, Details] = {}
        self.inputs: list[int] = []
        self.constants: dict[int, Any] = {}
        self.guards: list[Guard] = []
        self.shapes: list[tuple[int, ...]] = []
        self.dtypes: list[Any] = []
        self.draws: list[Draw] = []
        self.drawn: list[int] = []
        self._known: dict[Any, Any] = {}  # constants by their bits, leaves by identity
        self.closed = False
        self.scope = Scope("compiled", None, ROOT)
        self.scopes = ScopeRecorder(self.scope)

    def append(self, code: int, operands: Sequence[int], result: Any) -> int:
        """A new instruction; its number."""
        self.check_open()
        i = len(self.codes)
        self.scopes.note(i, resolve(current_state()))
        self.codes.append(code)
        padded = (*operands, -1, -1, -1)[:3] if len(operands) <= 3 else (-1, -1, -1)
        self.operands.extend(padded)
        if self.kind == "array":
            self.shapes.append(np.shape(result))
            self.dtypes.append(np.asarray(result).dtype)
        return i

    def check_open(self) -> None:
        """Raise RuntimeError if the recording has ended."""
        if self.closed:
            raise RuntimeError(
                "this quantity belongs to a recording that has ended; return it from the compiled "
                "function instead of keeping it"
            )

    def input(self, x: Any) -> int:
        """An instruction that is given at each run."""
        i = self.append(0, (), x)
        self.inputs.append(i)
        return i

    def random(self, x: Any) -> int:
        """An instruction for random numbers that are drawn at each run."""
        self.drawn.append(self.append(0, (), x))
        return self.drawn[-1]

    def constant(self, x: Any) -> int:
        """An instruction for a number or an array that is always the same."""
        key: Any = None
        if isinstance(x, (float, bool, np.generic)):
            key = (type(x), np.asarray(x).tobytes())
            if key in self._known:
                return int(self._known[key])
        i = self.append(1, (), x)
        self.constants[i] = x
        if key is not None:
            self._known[key] = i
        return i

    def position(self, rule: Any) -> int:
        """The code of an operation."""
        if rule not in self.positions:
            self.positions[rule] = len(self.rules)
            self.rules.append(rule)
        return self.positions[rule]

    def guard(self, condition: int, outcome: bool) -> None:
        """Note a decision that Python takes."""
        self.check_open()
        self.guards.append(Guard(condition, outcome, line_of_user()))

    def program(self, outputs: Sequence[int]) -> Program:
        """What was recorded."""
        self.closed = True
        return Program(
            kind="scalar" if self.kind == "scalar" else "array",
            rules=self.rules,
            codes=np.array(self.codes, np.uint16),
            operands=np.array(self.operands, np.int32).reshape(-1, 3),
            details=self.details,
            inputs=self.inputs + self.drawn,
            constants=self.constants,
            outputs=list(outputs),
            guards=self.guards,
            shapes=self.shapes,
            dtypes=self.dtypes,
            scopes=self.scopes.finished(),
            draws=self.draws,
        )
