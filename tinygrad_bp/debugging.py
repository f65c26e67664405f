"""Finding where a nan or an infinity came from.

By the time a loss is nan, everything is. What helps is the first one: which operation made it, in
which layer and time step, from which line of the program. `detect_anomaly()` looks at every result,
and at every contribution of a backward sweep, and stops at the first that is not finite.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from tinygrad_bp.arguments import flag
from tinygrad_bp.graph import Node, Step
from tinygrad_bp.recording import Label, Observer, _Mode, current_state, resolve

_NOT_THE_USERS = tuple(str(Path(file).parent) + os.sep for file in (__file__, np.__file__))


class detect_anomaly(_Mode, Observer):
    """Within this block, or in a function decorated with it, the first nan or infinity raises.

    The error names the operation, the label and scope of its node, and the line of your program at
    which it was made; in a backward sweep, the line that recorded the node. It looks at every
    number, so use it to find trouble, and not in training.

    Args:
        infinite: whether an infinity counts as well. One that is given (a mask of -inf) never does,
            only one that an operation makes of finite numbers.

    Raises:
        FloatingPointError: at the first result, or contribution to a gradient, that is not finite.

    Example:
        >>> from tinygrad_bp import Value
        >>> try:
        ...     with detect_anomaly():
        ...         y = Value(-1.0).log()
        ... except FloatingPointError as error:
        ...     print(str(error).partition(",")[0])
        log(-1) made the first nan
    """

    def __init__(self, infinite: bool = True) -> None:
        self.infinite = flag(infinite, "infinite")

    def _observers(self, outer: tuple[Observer, ...]) -> tuple[Observer, ...]:
        return (*outer, self)

    def operation(
        self,
        rule: Any,
        operands: Sequence[Any],
        data: Sequence[Any],
        result: Any,
        parameters: tuple[Any, ...],
        options: dict[str, Any],
    ) -> None:
        """Look at a result."""
        found = self._trouble(result)
        if not found:
            return
        names = [x.label if isinstance(x, Node) else "" for x in operands]
        is_found = np.isnan if found == "nan" else np.isinf
        new = is_found(result)  # and not given
        for x in data:
            given = np.isnan(x) | is_found(x)
            new = new & ~(given if hasattr(rule, "partials") else given.any())
        if new.any():
            at = _first(new)
            raise FloatingPointError(
                f"{rule.name}{_arguments(names, data, result, rule, at)} made the first {found}"
                f"{_place_in_array(at)}{_scope_here()}{_line_of_user()}"
            )
        for name, x in zip(names, data, strict=True):
            if found == "nan" and np.isnan(x).any():
                raise FloatingPointError(
                    f"nan came into {rule.name} with {name or 'an operand'}"
                    f"{_scope_here()}{_line_of_user()}"
                )

    def recorded(self, node: Any) -> None:
        """Note the line that made a node."""
        node._place = Label("", node.scope, _line_of_user())

    def swept(self, step: Step, reached: set[Any]) -> None:
        """Look at a visit of the sweep: the node's gradient, and what it hands on."""
        node, gradient, edges = step
        if isinstance(gradient, Node):
            return  # operations like any other, which were looked at when they ran
        found = self._trouble(gradient)
        if found:
            raise FloatingPointError(
                f"the gradient of {_described(node)} is {found}: the sweep was started with it, or "
                "contributions to it added up to it"
            )
        numbers = [i for i, local in enumerate(node.locals) if local is not None]
        for number, (parent, local, contribution) in zip(numbers, edges, strict=True):
            found = self._trouble(contribution)
            if found:
                at = _first(np.isnan(contribution) if found == "nan" else np.isinf(contribution))
                by = parent.label or f"its operand {number}"
                slope = f" (local derivative {local:.6g})" if isinstance(local, float) else ""
                raise FloatingPointError(
                    f"the backward sweep made the first {found} at {_described(node)}, in the "
                    f"derivative by {by}{slope}{_place_in_array(at)}"
                    f"{node.line or '; it was recorded outside of detect_anomaly()'}"
                )

    def _trouble(self, x: Any) -> str:
        """What is wrong with x, if it counts: nan or inf; else empty."""
        if np.isfinite(x).all():
            return ""
        if np.isnan(x).any():
            return "nan"
        return "inf" if self.infinite else ""


def _described(node: Any) -> str:
    rule = node.rule.name if node.rule is not None else "the leaf"
    label = f" {node.label!r}" if node.label else ""
    scope = f", in scope {node.scope.path}" if node.scope.path else ""
    return f"{rule}{label}{scope}"


def _scope_here() -> str:
    scope = resolve(current_state())
    return f", in scope {scope.path}" if scope is not None and scope.path else ""


def _first(trouble: Any) -> tuple[int, ...]:
    """Where the first True stands."""
    return tuple(int(i) for i in np.argwhere(trouble)[0])


def _place_in_array(at: tuple[int, ...]) -> str:
    return f" at index {list(at)}" if at else ""


def _arguments(
    names: Sequence[str], data: Sequence[Any], result: Any, rule: Any, at: tuple[int, ...]
) -> str:
    """The operands at the place of trouble, `(x = -1, 2)`; empty for operations that mix places."""
    if not hasattr(rule, "partials"):
        return ""
    numbers = [np.broadcast_to(x, np.shape(result))[at] for x in data]
    parts = [f"{n} = {x:.6g}" if n else f"{x:.6g}" for n, x in zip(names, numbers, strict=True)]
    return f"({', '.join(parts)})"


def _line_of_user() -> str:
    """The innermost line of the program that is not of this package or of numpy."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        frame = frame.f_back
    if frame is None:
        return ""
    file, number = frame.f_code.co_filename, frame.f_lineno
    text = linecache.getline(file, number, frame.f_globals).strip()
    return f", in {file}, line {number}" + (f": {text}" if text else "")
