"""Recognising what repeats: the equations of all time steps, stated once for step t.

Formulas are compared after their time steps have been replaced by `t + offset`: where those of
neighbouring steps are then the same, one equation stands for all of them. What is special, such as
the first step and the boundary at the last, stays on its own. In the gradient of a parameter that
is used at every step, terms that are the same become a sum over t.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from tinygrad_bp.explain import formulas as f
from tinygrad_bp.explain.equations import Equation
from tinygrad_bp.explain.formulas import Expr, Later, Partial, Symbol


def relative(x: Expr, step: int) -> Expr:
    """The formula with every time step as `t + offset`, where t is `step`."""

    def change(part: Expr) -> Expr:
        if isinstance(part, (Symbol, Partial)) and isinstance(part.step, int):
            return f.at_step(part, Later(part.step - step))
        return part

    return f.transformed(x, change)


def grouped(equations: Sequence[Equation]) -> list[Equation]:
    """The equations of time steps, with those that say the same put together.

    The order stays that of the first of each; a group of one step is left as it is.
    """
    families: dict[Any, list[Equation]] = {}
    for equation in equations:
        key = _family(equation)
        families.setdefault(key, []).append(equation)
    return [one for family in families.values() for one in _runs(family)]


def _family(equation: Equation) -> Any:
    if equation.step is None or equation.steps is not None:
        return id(equation)
    return (equation.kind in ("forward",), relative(equation.lhs, equation.step))


def _runs(family: list[Equation]) -> list[Equation]:
    if len(family) == 1:
        return family
    stated = [(e, relative(e.lhs, _step(e)), _relative_forms(e)) for e in family]
    runs: list[list[Any]] = [[stated[0]]]
    for before, after in pairwise(stated):
        near = abs(_step(before[0]) - _step(after[0])) == 1
        if near and before[1:] == after[1:]:
            runs[-1].append(after)
        else:
            runs.append([after])
    return [_joined(run) for run in runs]


def _joined(run: list[Any]) -> Equation:
    equation: Equation = run[0][0]
    _, lhs, forms = run[0]
    if len(run) == 1:
        return equation
    steps = [_step(e) for e, _, _ in run]
    return replace(equation, lhs=lhs, forms=forms, steps=(min(steps), max(steps)))


def _step(equation: Equation) -> int:
    assert equation.step is not None
    return equation.step


def _relative_forms(equation: Equation) -> tuple[Expr, ...]:
    return tuple(relative(form, _step(equation)) for form in equation.forms)


# --- sums over time ------------------------------------------------------------------------------


def summed_over_time(x: Expr) -> Expr:
    """The formula with the terms of every sum put together that differ in their time step alone."""
    return f.transformed(x, lambda part: _folded(part) if isinstance(part, f.Sum) else part)


def _folded(x: f.Sum) -> Expr:
    groups: dict[Expr, list[int]] = {}
    alone: list[Expr] = []
    for term in x.parts:
        step = anchor(term)
        if step is None:
            alone.append(term)
        else:
            groups.setdefault(relative(term, step), []).append(step)
    together: dict[tuple[int, int], list[Expr]] = {}
    for body, steps in groups.items():
        for run in _consecutive(steps):
            together.setdefault(run, []).append(body)
    terms = [_over(f.collected(f.add(*bodies)), run) for run, bodies in together.items()]
    return f.add(*terms, *alone)


def anchor(term: Expr) -> int | None:
    """The time step that a term is of: that of what flows back in it, or else its latest."""
    atoms = [(a, a.step) for a in f.atoms(term) if isinstance(a.step, int)]
    flowing = [step for a, step in atoms if isinstance(a, Partial) or a.name == "δ"]
    return max(flowing or [step for _, step in atoms], default=None)


def _consecutive(steps: Iterable[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for step in sorted(steps):
        if runs and step == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], step)
        else:
            runs.append((step, step))
    return runs


def _over(body: Expr, run: tuple[int, int]) -> Expr:
    low, high = run
    if low == high:
        return absolute(body, low)
    return f.over_steps(body, low, high)


def absolute(x: Expr, t: int) -> Expr:
    """The formula at time step t."""

    def change(part: Expr) -> Expr:
        if isinstance(part, (Symbol, Partial)) and isinstance(part.step, Later):
            return f.at_step(part, t + part.step.offset)
        return part

    return f.transformed(x, change)
