"""Recording: one run of a function, written down on a tape.

The recorder looks on at what the function does beside its arguments: leaves that it reaches by
itself become inputs, and what a later run could not repeat is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tinygrad_bp.graph import UNTRACKED, Node, topological_order
from tinygrad_bp.recording import Observer, Scope, _Block, current_state, resolve
from tinygrad_bp.replay.growing import GrowingTape
from tinygrad_bp.replay.program import Draw
from tinygrad_bp.replay.tracing import (
    Condition,
    Index,
    TracedTensor,
    TracedValue,
    apply_rule,
    input_like,
    is_traced,
    traced,
)
from tinygrad_bp.scalars import Values
from tinygrad_bp.value import Value


class Recorder(GrowingTape, Observer):
    """Who writes the tape. It looks on at plain operations, which are not on it.

    Attributes:
        dtype: of arrays that stand for a Python float.
        large: by id, arrays from outside that are too large to be compared at each run.
        leaves: by instruction, the leaves that the function reached by itself (parameters that it
            closes over); their data are read at each run.
    """

    def __init__(
        self, kind: str, dtype: Any = np.float64, large: dict[int, Any] | None = None
    ) -> None:
        super().__init__(kind)
        self.dtype = dtype
        self.large = large or {}
        self.leaves: dict[int, Node] = {}
        self.leaf_inputs: list[Any] = []
        self._held: list[Any] = []  # what is known by its identity must not vanish
        self.differentiates = False
        self._unswept = 0  # where what the sweep records for its next node begins

    def draw(self, draw: Draw, result: Any) -> Any:
        """Random numbers, as inputs that are drawn at each run."""
        if self.kind == "array":
            x = np.asarray(result, self.dtype if type(result) is float else None)
            i = self.random(x)
            self.draws.append(draw)
            return Index(self, i, x) if x.dtype.kind in "iu" else traced(self, i, x)
        numbers = np.ravel(result).astype(np.float64).tolist()
        nodes = [traced(self, self.random(x), x) for x in numbers]
        self.draws.append(replace(draw, count=len(nodes)))
        if not isinstance(result, np.ndarray):
            return nodes[0]
        array = np.empty(result.shape, object)
        for k, node in enumerate(nodes):
            array.flat[k] = node
        return array.view(Values)

    def leaf(self, x: Any) -> Any:
        """A leaf that the function has reached by itself, as an input."""
        if id(x) in self._known:
            return self._known[id(x)]
        if not x.is_leaf and self.was_here(x):
            for node in topological_order(x):  # of leaves alone, and so by the plain operations
                if not node.is_leaf and not self.was_here(node):
                    self.leaf(node)  # refuses it
                if id(node) not in self._known and not node.is_leaf:
                    self._known[id(node)] = again = self._again(node)
                    again._birth = node._birth  # so that gradients are added in the same order
                    self._held.append(node)
            return self._known[id(x)]
        if not x.is_leaf:
            raise ValueError(
                f"the compiled function uses a {type(x).__name__}{_labelled(x)} that was computed "
                "outside of it: pass it as an argument, compute it inside, or detach() it"
            )
        if x.rule is UNTRACKED and self.was_here(x):
            return x._data if isinstance(x, Value) else x._array  # made here: a constant
        self._known[id(x)] = given = input_like(self, x)
        given._birth = x._birth  # before all that is computed from it
        self._held.append(x)
        self.leaves[given.number] = x
        self.leaf_inputs.append(given)
        return given

    def was_here(self, x: Node) -> bool:
        """Whether a plain node was made during this recording."""
        place: Scope | None = x.scope
        while place is not None and place is not self.scope:
            place = place.outer
        return place is not None

    def _again(self, node: Any) -> Any:
        """A recorded operation on leaves, done once more on traced inputs."""
        local = next(d for d in node.locals if d is not None)
        arguments = getattr(local, "parameters", ()), getattr(local, "options", {})
        return apply_rule(node.rule, [self.operand(x) for x in node.operands], *arguments)

    def operation(
        self,
        rule: Any,
        operands: Sequence[Any],
        data: Sequence[Any],
        result: Any,
        parameters: tuple[Any, ...],
        options: dict[str, Any],
    ) -> None:
        """Look at a plain operation: it has to be repeatable."""
        unrecorded = resolve(current_state()) is None
        for x in operands:
            if unrecorded and isinstance(x, Node) and not is_traced(x):
                raise ValueError(
                    f"{rule.name}: under no_grad() a compiled function cannot compute with leaves "
                    "alone; pass them as arguments"
                )
            if (
                isinstance(x, Node)
                and not is_traced(x)
                and x.rule is UNTRACKED
                and not self.was_here(x)
            ):
                raise ValueError(
                    f"{rule.name}: the compiled function computes with a constant "
                    f"{type(x).__name__}{_labelled(x)} from outside; pass it as an argument, so "
                    "that a later run sees its data of then"
                )

    def read(self, node: Any) -> None:
        """Refuse to have numbers read that a later run will see others of."""
        made_here = self.was_here(node)
        if (node.is_leaf and not made_here) or (made_here and node.rule is not UNTRACKED):
            raise TypeError(
                f"the compiled function reads the numbers of a {type(node).__name__}"
                f"{_labelled(node)}: they would be those of this run; pass it as an argument, or "
                "return it as a further output"
            )

    def begin_sweep(self) -> None:
        """What comes now is the backward pass."""
        self.differentiates, self._unswept = True, len(self.codes)

    def swept(self, step: Any, reached: set[Any]) -> None:
        """Refuse a backward sweep of the function's own."""
        if not self.differentiates:
            raise TypeError(
                "the compiled function runs backward(): call backward() or value_and_grad() of the "
                "compiled function instead"
            )
        node = getattr(step.node, "original", step.node)
        if is_traced(node):
            self.scopes.backward(self._unswept, len(self.codes), node.number)
        self._unswept = len(self.codes)

    def operand(self, x: Any) -> Any:
        """What an operation is applied to, with a leaf as a traced input."""
        if isinstance(x, (TracedValue, TracedTensor, Condition, Index)):
            if x.recorder is not self:
                raise RuntimeError("a quantity of one recording cannot be used in another")
            return x
        if self.large and type(x) is np.ndarray:
            self._check_size(x)
        return self.leaf(x) if isinstance(x, Node) else x

    def _check_size(self, x: Any) -> None:
        """Refuse a large array from outside, or a part of one."""
        while x is not None:
            if id(x) in self.large:
                raise ValueError(
                    f"the compiled function uses an array of shape {x.shape} from outside, too "
                    "large to see whether it has changed: pass it as an argument"
                )
            x = x.base if isinstance(x, np.ndarray) else None


def _labelled(x: Node) -> str:
    return f" {x.label!r}" if x.label else ""


class recording_by(_Block):
    """The block in which a function is recorded."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def _scope(self, outer: Scope | None) -> Scope:
        return self.recorder.scope

    def _observers(self, outer: tuple[Observer, ...]) -> tuple[Observer, ...]:
        return (*outer, self.recorder)

    def _leave(self) -> bool:
        self.recorder.closed = True
        return super()._leave()
