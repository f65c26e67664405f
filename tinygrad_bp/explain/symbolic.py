"""The symbolic interpreter: elementwise rules, run on formulas.

A rule is plain Python over a namespace `m`. Given formulas as operands, and an `m` that makes
formulas, its value and its partials write themselves down, those of a rule of the user's own as
well. Partials are taken in the textbook's form, where the rule has one.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

from tinygrad_bp.explain import formulas as f
from tinygrad_bp.explain.formulas import Expr
from tinygrad_bp.rules import RULES, Rule


class Writing:
    """A formula that takes part in Python's arithmetic, while a rule runs on it."""

    __slots__ = ("expr",)

    def __init__(self, expr: Expr) -> None:
        self.expr = expr

    def __add__(self, other: Any) -> Writing:
        return Writing(f.add(self.expr, formula(other)))

    def __radd__(self, other: Any) -> Writing:
        return Writing(f.add(formula(other), self.expr))

    def __sub__(self, other: Any) -> Writing:
        return Writing(f.add(self.expr, f.negative(formula(other))))

    def __rsub__(self, other: Any) -> Writing:
        return Writing(f.add(formula(other), f.negative(self.expr)))

    def __mul__(self, other: Any) -> Writing:
        return Writing(f.multiply(self.expr, formula(other)))

    def __rmul__(self, other: Any) -> Writing:
        return Writing(f.multiply(formula(other), self.expr))

    def __truediv__(self, other: Any) -> Writing:
        return Writing(f.divide(self.expr, formula(other)))

    def __rtruediv__(self, other: Any) -> Writing:
        return Writing(f.divide(formula(other), self.expr))

    def __pow__(self, other: Any) -> Writing:
        return Writing(f.power(self.expr, formula(other)))

    def __rpow__(self, other: Any) -> Writing:
        return Writing(f.power(formula(other), self.expr))

    def __neg__(self) -> Writing:
        return Writing(f.negative(self.expr))

    def __pos__(self) -> Writing:
        return self

    def __abs__(self) -> Writing:
        return Writing(f.Function(RULES["absolute"], (self.expr,)))

    def _compared(self, sign: str, other: Any) -> Writing:
        return Writing(f.Compare(sign, self.expr, formula(other)))

    def __gt__(self, other: Any) -> Writing:
        return self._compared(">", other)

    def __lt__(self, other: Any) -> Writing:
        return self._compared("<", other)

    def __ge__(self, other: Any) -> Writing:
        return self._compared(">=", other)

    def __le__(self, other: Any) -> Writing:
        return self._compared("<=", other)

    def __eq__(self, other: Any) -> Any:
        return self._compared("=", other)

    def __and__(self, other: Any) -> Writing:
        return self._compared("and", other)

    def __or__(self, other: Any) -> Writing:
        return self._compared("or", other)

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise TypeError("a formula is neither true nor false")


class Signs:
    """The namespace `m` whose functions make formulas."""

    def __getattr__(self, name: str) -> Callable[..., Writing]:
        if name not in RULES:
            raise AttributeError(name)
        rule = RULES[name]
        return lambda *operands: Writing(applied(rule, *map(formula, operands)))


SIGNS = Signs()


def formula(x: Any) -> Expr:
    """A number or what a rule has written, as a formula."""
    if isinstance(x, Writing):
        return x.expr
    if isinstance(x, Real):
        return f.Number(float(x))
    raise TypeError(f"expected a formula or a number, got {type(x).__name__}")


# Operations that are written by signs of arithmetic, and not by a name.
ARITHMETIC: dict[Rule, Callable[..., Expr]] = {
    RULES["add"]: f.add,
    RULES["subtract"]: lambda x, y: f.add(x, f.negative(y)),
    RULES["multiply"]: f.multiply,
    RULES["azmul"]: f.multiply,
    RULES["divide"]: f.divide,
    RULES["positive"]: lambda x: x,
    RULES["negative"]: f.negative,
    RULES["power"]: f.power,
    RULES["square"]: lambda x: f.power(x, f.Number(2.0)),
    RULES["where"]: f.Cases,
}

# Whose derivative is shown as σ'(z) first; that of the others is written out at once.
PRIMED = {
    RULES[name]
    for name in ("sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "softplus")
} | {RULES["log_sigmoid"]}


def applied(rule: Rule, *operands: Expr) -> Expr:
    """The formula of an operation on operands."""
    write = ARITHMETIC.get(rule)
    return write(*operands) if write else f.Function(rule, operands)


def definition(rule: Rule, *operands: Expr) -> Expr | None:
    """What an operation is made of; None where it cannot be run on formulas."""
    return _run(rule.value, operands, by_name=rule is not RULES["sigmoid"])


def textbook(rule: Rule, which: int, operands: tuple[Expr, ...], result: Expr) -> Expr | None:
    """A partial derivative as a reader knows it; None where it cannot be run on formulas."""
    partials = rule.textbook or rule.partials
    partial = partials[which]
    if not callable(partial):
        return None if partial is None else f.Number(float(partial))
    return _run(partial, (*operands, result))


def derivative(rule: Rule, which: int, operands: tuple[Expr, ...], result: Expr) -> Expr:
    """A partial derivative: σ'(z) for an activation, written out for an operation of arithmetic."""
    named = f.Derivative(rule, operands, which, result)
    if RULES.get(rule.name) is rule and rule not in PRIMED:
        return textbook(rule, which, operands, result) or named
    others = [x for i, x in enumerate(operands) if i != which]
    if which == 0 and all(isinstance(x, f.Number) for x in others):
        return named
    return textbook(rule, which, operands, result) or named


def written_out(x: Expr) -> Expr:
    """The formula with every σ'(z) replaced by what it is: σ(z) (1 - σ(z))."""

    def change(part: Expr) -> Expr:
        if not isinstance(part, f.Derivative):
            return part
        return textbook(part.rule, part.which, part.arguments, part.result) or part

    return f.transformed(x, change)


def _run(
    function: Callable[..., Any], operands: tuple[Expr, ...], by_name: bool = True
) -> Expr | None:
    try:
        written = formula(function(SIGNS, *map(Writing, operands)))
    except (TypeError, AttributeError, ValueError):  # it does what only numbers can
        return None
    return f.transformed(written, _known) if by_name else written


def _known(x: Expr) -> Expr:
    """1 / (1 + exp(-x)) by its name."""
    match x:
        case f.Power(f.Sum((f.Number(1.0), f.Function(rule, (y,)))), f.Number(-1.0)):
            if rule is RULES["exp"]:
                return f.Function(RULES["sigmoid"], (f.negative(y),))
    return x
