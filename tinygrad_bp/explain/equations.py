"""One line of a derivation: an equation, checked on the recorded numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinygrad_bp.explain import formulas as f
from tinygrad_bp.explain.evaluating import Numbers, agree, evaluate
from tinygrad_bp.explain.formulas import Expr


@dataclass(frozen=True)
class Equation:
    """`lhs = rhs`, and what else the right side is equal to.

    Attributes:
        kind: "forward", "rule" (a local derivative), "backward", "boundary" (backward, at the
            last time step), "parameter" or "element".
        lhs: what the equation is for.
        forms: the right side, from the form in which it is derived to the last.
        steps: the time steps t = first ... last that it holds for, or None.
        shape: of both sides, as printed; () for a single number.
        index_sizes: the range of each free index of an element.
        numbers: what both sides come to: an array, or a dict of one per time step.
    """

    kind: str
    lhs: Expr
    forms: tuple[Expr, ...]
    steps: tuple[int, int] | None = None
    index_sizes: tuple[tuple[str, int], ...] = ()
    numbers: Any = field(default=None, compare=False, repr=False)

    @property
    def rhs(self) -> Expr:
        """The right side, as it is derived."""
        return self.forms[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.lhs.shape

    @property
    def step(self) -> int | None:
        """The time step it is about, if it is one."""
        step = getattr(self.lhs, "step", None)
        return step if isinstance(step, int) else None

    @property
    def times(self) -> list[int | None]:
        """The time steps it is to be evaluated at."""
        return [None] if self.steps is None else list(range(self.steps[0], self.steps[1] + 1))


def error_in(
    form: Expr,
    lhs: Expr,
    numbers: Numbers,
    t: int | None = None,
    indices: Mapping[str, int] | None = None,
) -> bool:
    """Whether a formula fails to reproduce the number it is for."""
    expected = evaluate(lhs, numbers, t, indices)
    got = evaluate(form, numbers, t, indices)
    return not agree(got, expected, scale_of(form, numbers, t), numbers.tolerance)


def is_finite(form: Expr, numbers: Numbers, t: int | None = None) -> bool:
    """Whether a formula comes to finite numbers, which alone can be compared."""
    return bool(np.isfinite(evaluate(form, numbers, t)).all())


def scale_of(form: Expr, numbers: Numbers, t: int | None) -> float:
    """The largest number that a formula is computed from."""
    scale = 1e-300
    with np.errstate(all="ignore"):
        for part in f.parts(form):
            if isinstance(part, f.Steps):
                return max(scale_of(part.x, numbers, k) for k in range(part.low, part.high + 1))
            if isinstance(part, (f.Symbol, f.Partial)):
                scale = max(scale, float(np.max(np.abs(evaluate(part, numbers, t)), initial=0.0)))
    return scale


def numbers_of(equation: Equation, numbers: Numbers) -> Any:
    """What an equation comes to: an array of the recorded numbers, or one for each time step."""
    if equation.steps is None:
        return np.array(evaluate(equation.lhs, numbers))
    return {t: np.array(evaluate(equation.lhs, numbers, t)) for t in equation.times}
