"""The elementwise operations: each one's value and its partial derivatives, written once.

A rule is plain Python over a namespace `m` of elementary functions. Called with `m` for floats it
computes a `Value`, with numpy an array, with the operations themselves a derivative that can be
differentiated again. So everything there is to say about an operation stands in one place, here.

To read a rule: the decorated function is the value; `dx`, `dy`, ... are the partial derivatives by
the first, second, ... operand, as functions of the operands and of the result (`x, y` of one
operand; `x, y, z` of two). A partial that does not depend on the data is given as a number.

Accuracy: partials keep their relative accuracy in the tails, which the textbook form may lose
(`1 - y*y` for tanh is 0 at 20; the derivative is 1.7e-17). Where the two differ, the rule carries
the textbook form as well, to be shown. Derivatives: Abramowitz & Stegun, chapters 4 and 7.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from numbers import Real
from typing import Any

from tinygrad_bp.arguments import flag, function, is_real, text, wrong_kind

M = Any  # a namespace of elementary functions
X = Any  # whatever that namespace computes with
Partial = Callable[..., Any] | float | None

SMOOTH = (-3.0, 3.0)
POSITIVE = (0.1, 4.0)
UNIT = (-0.9, 0.9)


class Rule:
    """An elementwise operation.

    Calling it applies it to numbers, `Value`s, `Tensor`s or arrays of Values, whichever it meets.

    Attributes:
        name: as numpy names it.
        value: the function `value(m, *operands)`.
        partials: per operand a function `partial(m, *operands, result)`, a number where the partial
            is constant, or None for an operand without derivative (a condition).
        arity: the number of operands; `defaults` stand in for the last ones.
        domain: per operand an interval inside the domain, away from its edges, to sample from.
        kinks: points where the derivative is chosen by convention, in words; the choice stands at
            the rule and is the same for numbers and arrays.
        analytic: whether it is complex differentiable (then a complex step can check it).
        textbook: the partials as a reader knows them, where the accurate ones look different.
    """

    def __init__(
        self,
        value: Callable[..., Any],
        partials: tuple[Partial, ...],
        *,
        domain: tuple[tuple[float, float], ...],
        kinks: str,
        analytic: bool,
        textbook: tuple[Callable[..., Any], ...],
    ) -> None:
        signature = inspect.signature(value)
        parameters = list(signature.parameters.values())[1:]
        self.__signature__ = signature.replace(parameters=parameters)
        self.value = value
        self.partials = tuple(float(p) if isinstance(p, Real) else p for p in partials)
        self.name = self.__name__ = value.__name__
        self.__doc__, self.__module__ = value.__doc__, value.__module__
        self.arity = len(parameters)
        self.defaults = tuple(p.default for p in parameters if p.default is not p.empty)
        self.domain = domain * self.arity if len(domain) == 1 else domain
        self.kinks = kinks
        self.analytic = analytic
        self.textbook = textbook
        if len(partials) != self.arity or len(self.domain) != self.arity:
            raise ValueError(
                f"{self.name} has {self.arity} operands, but {len(partials)} partials "
                f"and {len(self.domain)} domains"
            )

    def __call__(self, *operands: Any) -> Any:
        """Apply the operation. The kind of the operands decides what comes back."""
        if len(operands) != self.arity:
            operands = self._completed(operands)
        for operand in operands:
            interpret = getattr(type(operand), "_interpret", None)
            if interpret is not None:
                result = interpret(self, operands)
                if result is not NotImplemented:
                    return result
        for operand, partial in zip(operands, self.partials, strict=True):
            is_truth = isinstance(operand, bool) and partial is None  # of a condition
            if not (is_truth or (isinstance(operand, Real) and not isinstance(operand, bool))):
                raise TypeError(
                    f"{self.name}: expected a Value, a Tensor, an array made by tb.values() or a "
                    f"number, got {type(operand).__name__}; wrap an array as tb.Tensor(array)"
                )
        from tinygrad_bp import floats

        return self.value(floats, *map(float, operands))

    def _completed(self, operands: tuple[Any, ...]) -> tuple[Any, ...]:
        least = self.arity - len(self.defaults)
        if len(operands) not in range(least, self.arity):
            expected = f"{least} to {self.arity}" if self.defaults else str(self.arity)
            raise TypeError(f"{self.name} takes {expected} operands, got {len(operands)}")
        return operands + self.defaults[len(operands) - self.arity :]

    def __repr__(self) -> str:
        return f"<rule {self.name}>"

    def __reduce__(self) -> str:
        return self.name


RULES: dict[str, Rule] = {}


def elementwise(
    dx: Partial,
    *more: Partial,
    domain: tuple[float, float] | tuple[tuple[float, float], ...] = SMOOTH,
    kinks: str = "",
    analytic: bool = True,
    textbook: Callable[..., Any] | tuple[Callable[..., Any], ...] = (),
    table: dict[str, Rule] | None = RULES,
) -> Callable[[Callable[..., Any]], Rule]:
    """Make a rule of the decorated function `value(m, *operands)`, given its partials.

    The partials come in the order of the operands; `Rule` explains the rest. The rule is entered in
    the table, if there is one.
    """
    partials = (dx, *more)
    for partial in partials:
        if not (partial is None or callable(partial) or is_real(partial)):
            raise wrong_kind("dx, more", "a function, a number or None", partial)
    domains = _domains(domain)
    text(kinks, "kinks")
    flag(analytic, "analytic")
    shown_as = textbook if isinstance(textbook, tuple) else (textbook,)
    for formula in shown_as:
        function(formula, "textbook")

    def decorate(value: Callable[..., Any]) -> Rule:
        rule = Rule(
            value,
            partials,
            domain=domains,
            kinks=kinks,
            analytic=analytic and not kinks,
            textbook=shown_as,
        )
        if table is not None and table.setdefault(rule.name, rule) is not rule:
            raise ValueError(f"there is a rule {rule.name!r} already; give this one another name")
        return rule

    return decorate


def _domains(domain: Any) -> tuple[tuple[float, float], ...]:
    """An interval, or one for each operand, as intervals."""
    several = isinstance(domain, (tuple, list)) and domain and not is_real(domain[0])
    intervals = domain if several else (domain,)
    for interval in intervals:
        pair = isinstance(interval, (tuple, list)) and len(interval) == 2
        if not (pair and all(map(is_real, interval)) and interval[0] < interval[1]):
            raise wrong_kind("domain", "an interval (low, high), or one for each operand", interval)
    return tuple((float(low), float(high)) for low, high in intervals)


# --- arithmetic ---------------------------------------------------------------------------------


@elementwise(1.0, 1.0)
def add(m: M, x: X, y: X) -> X:
    """x + y"""
    return x + y


@elementwise(1.0, -1.0)
def subtract(m: M, x: X, y: X) -> X:
    """x - y"""
    return x - y


def first(m: M, x: X, y: X, z: X) -> X:
    return x


def second(m: M, x: X, y: X, z: X) -> X:
    return y


@elementwise(second, first)
def multiply(m: M, x: X, y: X) -> X:
    """x * y"""
    return x * y


@elementwise(
    lambda m, x, y, z: m.divide(1.0, y),
    lambda m, x, y, z: m.divide(-z, y),
    domain=((-3.0, 3.0), (0.2, 4.0)),
    textbook=(lambda m, x, y, z: 1.0 / y, lambda m, x, y, z: -x / y**2),
)
def divide(m: M, x: X, y: X) -> X:
    """x / y; 1/0 is inf and 0/0 is nan"""
    return m.divide(x, y)


@elementwise(1.0)
def positive(m: M, x: X) -> X:
    """x itself, as a node of its own"""
    return x


@elementwise(-1.0)
def negative(m: M, x: X) -> X:
    """-x"""
    return -x


def power_dx(m: M, x: X, y: X, z: X) -> X:
    # 0 where y is 0, whatever x is; a choice by `where` would forget how that changes with y.
    return m.azmul(y, m.power(x, y - 1.0))


def power_dy(m: M, x: X, y: X, z: X) -> X:
    return m.where((x == 0) & (y >= 0), 0.0, m.azmul(z, m.log(x)))


@elementwise(
    power_dx,
    power_dy,
    domain=((0.2, 3.0), (-2.0, 3.0)),
    textbook=(
        lambda m, x, y, z: y * x ** (y - 1),
        lambda m, x, y, z: z * m.log(x),
    ),
)
def power(m: M, x: X, y: X) -> X:
    """x to the power y; x**0 is 1 with derivative 0 by x everywhere, 0**y has derivative 0 by y

    The derivative by x takes y - 1. From 2**53 on all floats are even, also what y - 1 is rounded
    to, so that there the derivative at a negative x has the sign of an even power.
    """
    return m.power(x, y)


@elementwise(lambda m, x, y: 2.0 * x)
def square(m: M, x: X) -> X:
    """x * x"""
    return x * x


@elementwise(lambda m, x, y: m.divide(0.5, y), domain=POSITIVE)
def sqrt(m: M, x: X) -> X:
    """The square root; nan for x < 0"""
    return m.sqrt(x)


def sign(m: M, x: X) -> X:
    return m.where(x > 0, 1.0, m.where(x < 0, -1.0, x * 0.0))


@elementwise(lambda m, x, y: sign(m, x), kinks="x = 0: derivative 0")
def absolute(m: M, x: X) -> X:
    """|x|"""
    return m.absolute(x)


@elementwise(
    lambda m, x, y, z: m.divide(x, z),
    lambda m, x, y, z: m.divide(y, z),
    domain=((0.2, 3.0), (-3.0, 3.0)),
    analytic=False,
)
def hypot(m: M, x: X, y: X) -> X:
    """The square root of x*x + y*y, without overflow on the way"""
    return m.hypot(x, y)


@elementwise(
    lambda m, g, d, z: d,
    lambda m, g, d, z: g,
)
def azmul(m: M, g: X, d: X) -> X:
    """g * d where a zero g gives zero, whatever d is: the product of the chain rule

    A value of its own with a derivative of its own, and not a skipped edge: the derivative of
    g * d by g is d also where g is 0 (CppAD calls it `azmul`, absolute-zero multiplication).
    """
    return m.azmul(g, d)


# --- exponentials and logarithms ----------------------------------------------------------------


@elementwise(lambda m, x, y: y)
def exp(m: M, x: X) -> X:
    """e to the power x"""
    return m.exp(x)


@elementwise(lambda m, x, y: m.exp(x), textbook=lambda m, x, y: y + 1.0)
def expm1(m: M, x: X) -> X:
    """exp(x) - 1, accurate near 0"""
    return m.expm1(x)


@elementwise(lambda m, x, y: m.divide(1.0, x), domain=POSITIVE)
def log(m: M, x: X) -> X:
    """The natural logarithm; -inf at 0, nan for x < 0"""
    return m.log(x)


@elementwise(lambda m, x, y: m.divide(1.0, 1.0 + x), domain=(-0.8, 3.0))
def log1p(m: M, x: X) -> X:
    """log(1 + x), accurate near 0"""
    return m.log1p(x)


def logistic(m: M, x: X) -> X:
    # exp(-x) may overflow to infinity: the quotient is then 0, as it should be.
    return m.divide(1.0, 1.0 + m.exp(-x))


@elementwise(
    lambda m, x, y, z: logistic(m, x - y),
    lambda m, x, y, z: logistic(m, y - x),
    textbook=(lambda m, x, y, z: m.exp(x - z), lambda m, x, y, z: m.exp(y - z)),
)
def logaddexp(m: M, x: X, y: X) -> X:
    """log(exp(x) + exp(y)), finite wherever x and y are"""
    return m.logaddexp(x, y)


# --- trigonometric and hyperbolic ---------------------------------------------------------------


@elementwise(lambda m, x, y: m.cos(x))
def sin(m: M, x: X) -> X:
    """The sine of x radians"""
    return m.sin(x)


@elementwise(lambda m, x, y: -m.sin(x))
def cos(m: M, x: X) -> X:
    """The cosine of x radians"""
    return m.cos(x)


@elementwise(lambda m, x, y: 1.0 + y * y, domain=(-1.2, 1.2))
def tan(m: M, x: X) -> X:
    """The tangent of x radians"""
    return m.tan(x)


def arcsin_dx(m: M, x: X, y: X) -> X:
    return m.divide(1.0, m.sqrt((1.0 - x) * (1.0 + x)))


@elementwise(arcsin_dx, domain=UNIT, textbook=lambda m, x, y: 1.0 / m.sqrt(1.0 - x**2))
def arcsin(m: M, x: X) -> X:
    """The inverse sine, in radians; nan for |x| > 1"""
    return m.arcsin(x)


@elementwise(
    lambda m, x, y: -arcsin_dx(m, x, y),
    domain=UNIT,
    textbook=lambda m, x, y: -1.0 / m.sqrt(1.0 - x**2),
)
def arccos(m: M, x: X) -> X:
    """The inverse cosine, in radians; nan for |x| > 1"""
    return m.arccos(x)


@elementwise(lambda m, x, y: m.divide(1.0, 1.0 + x * x))
def arctan(m: M, x: X) -> X:
    """The inverse tangent, in radians"""
    return m.arctan(x)


@elementwise(
    lambda m, x, y, z: m.divide(m.divide(y, m.hypot(x, y)), m.hypot(x, y)),
    lambda m, x, y, z: -m.divide(m.divide(x, m.hypot(x, y)), m.hypot(x, y)),
    domain=((-3.0, 3.0), (0.2, 3.0)),
    analytic=False,
    textbook=(
        lambda m, x, y, z: y / (x**2 + y**2),
        lambda m, x, y, z: -x / (x**2 + y**2),
    ),
)
def arctan2(m: M, x: X, y: X) -> X:
    """The angle of the point (y, x), in radians: arctan(x / y) in the right quadrant"""
    return m.arctan2(x, y)


@elementwise(lambda m, x, y: m.cosh(x))
def sinh(m: M, x: X) -> X:
    """The hyperbolic sine"""
    return m.sinh(x)


@elementwise(lambda m, x, y: m.sinh(x))
def cosh(m: M, x: X) -> X:
    """The hyperbolic cosine"""
    return m.cosh(x)


def tanh_dx(m: M, x: X, y: X) -> X:
    s = 1.0 / m.cosh(x)
    return s * s


@elementwise(tanh_dx, textbook=lambda m, x, y: 1.0 - y**2)
def tanh(m: M, x: X) -> X:
    """The hyperbolic tangent"""
    return m.tanh(x)


# --- activations --------------------------------------------------------------------------------


@elementwise(
    lambda m, x, y: m.divide(y, 1.0 + m.exp(x)),
    textbook=lambda m, x, y: y * (1.0 - y),
)
def sigmoid(m: M, x: X) -> X:
    """The logistic function 1 / (1 + exp(-x))"""
    return logistic(m, x)


@elementwise(lambda m, x, y: logistic(m, -x), textbook=lambda m, x, y: 1.0 - m.exp(y))
def log_sigmoid(m: M, x: X) -> X:
    """log(sigmoid(x)), finite wherever x is"""
    return -m.logaddexp(-x, 0.0)


@elementwise(
    lambda m, x, y: logistic(m, x),
    textbook=lambda m, x, y: 1.0 / (1.0 + m.exp(-x)),
)
def softplus(m: M, x: X) -> X:
    """log(1 + exp(x)), finite wherever x is"""
    return m.logaddexp(x, 0.0)


def logistic_to_the_end(m: M, x: X) -> X:
    # Times x, the last normal numbers of the left tail count: no exponential may overflow.
    # The exponent is -|x|, but not by `absolute`, whose derivative at 0 is that of neither side.
    e = m.exp(m.where(x >= 0, -x, x))
    return m.where(x >= 0, 1.0, e) / (1.0 + e)


def silu_dx(m: M, x: X, y: X) -> X:
    return logistic_to_the_end(m, x) * (1.0 + x * logistic(m, -x))


@elementwise(
    silu_dx,
    analytic=False,
    textbook=lambda m, x, y: y + (1.0 - y) / (1.0 + m.exp(-x)),
)
def silu(m: M, x: X) -> X:
    """x * sigmoid(x), also called swish (Hendrycks & Gimpel 2016; Ramachandran et al. 2017)"""
    return x * logistic_to_the_end(m, x)


@elementwise(lambda m, x, y: m.where(x > 0, 1.0, 0.0), kinks="x = 0: derivative 0")
def relu(m: M, x: X) -> X:
    """max(x, 0)"""
    return m.maximum(x, 0.0)


@elementwise(
    lambda m, x, slope, y: m.where(x > 0, 1.0, slope),
    lambda m, x, slope, y: m.where(x > 0, 0.0, x),
    domain=((-3.0, 3.0), (0.01, 0.5)),
    kinks="x = 0: derivative `slope`",
)
def leaky_relu(m: M, x: X, slope: X = 0.01) -> X:
    """x where x > 0, else slope * x (Maas et al. 2013)"""
    return m.where(x > 0, x, slope * x)


# The exponential is taken of min(x, 0), so that the side that is not used cannot overflow; in the
# derivatives by a choice, so that at 0 those of higher order are of the left side as well.
@elementwise(
    lambda m, x, alpha, y: m.where(x > 0, 1.0, alpha * m.exp(m.where(x > 0, 0.0, x))),
    lambda m, x, alpha, y: m.expm1(m.where(x > 0, 0.0, x)),
    domain=((-3.0, 3.0), (0.5, 2.0)),
    kinks="x = 0: derivative alpha",
)
def elu(m: M, x: X, alpha: X = 1.0) -> X:
    """x where x > 0, else alpha * (exp(x) - 1) (Clevert et al. 2015)"""
    return m.where(x > 0, x, alpha * m.expm1(m.minimum(x, 0.0)))


ROOT_HALF = math.sqrt(0.5)
TWO_BY_ROOT_PI = 2.0 / math.sqrt(math.pi)
ONE_BY_ROOT_TWO_PI = 1.0 / math.sqrt(2.0 * math.pi)


def gelu_dx(m: M, x: X, y: X) -> X:
    return 0.5 * m.erfc(-ROOT_HALF * x) + x * (ONE_BY_ROOT_TWO_PI * m.exp(-0.5 * x * x))


@elementwise(gelu_dx)
def gelu(m: M, x: X) -> X:
    """x times the normal distribution function of x, exact form (Hendrycks & Gimpel 2016)"""
    return 0.5 * x * m.erfc(-ROOT_HALF * x)


@elementwise(lambda m, x, y: TWO_BY_ROOT_PI * m.exp(-x * x))
def erf(m: M, x: X) -> X:
    """The error function"""
    return m.erf(x)


@elementwise(lambda m, x, y: -TWO_BY_ROOT_PI * m.exp(-x * x))
def erfc(m: M, x: X) -> X:
    """1 - erf(x), accurate for large x"""
    return m.erfc(x)


# --- choices ------------------------------------------------------------------------------------


def share(m: M, first: X, second: X) -> X:
    """1 where first > second, 0 where it is less, and a half each where they are equal."""
    return m.where(first > second, 1.0, m.where(first == second, 0.5, 0.0))


@elementwise(
    lambda m, x, y, z: share(m, x, y),
    lambda m, x, y, z: share(m, y, x),
    kinks="x = y: derivative 1/2 each",
)
def maximum(m: M, x: X, y: X) -> X:
    """The larger of x and y; nan if either is"""
    return m.maximum(x, y)


@elementwise(
    lambda m, x, y, z: share(m, y, x),
    lambda m, x, y, z: share(m, x, y),
    kinks="x = y: derivative 1/2 each",
)
def minimum(m: M, x: X, y: X) -> X:
    """The smaller of x and y; nan if either is"""
    return m.minimum(x, y)


@elementwise(
    lambda m, x, low, high, y: m.where((x >= low) & (x <= high), 1.0, 0.0),
    lambda m, x, low, high, y: m.where((x < low) & (low <= high), 1.0, 0.0),
    lambda m, x, low, high, y: m.where((x > high) | (low > high), 1.0, 0.0),
    domain=((-3.0, 3.0), (-2.0, -1.0), (1.0, 2.0)),
    kinks="x = low or x = high: derivative 1 by x, 0 by the bound",
)
def clip(m: M, x: X, low: X, high: X) -> X:
    """x held between low and high; high where low > high"""
    return m.minimum(m.maximum(x, low), high)


@elementwise(
    None,
    lambda m, condition, x, y, z: m.where(condition, 1.0, 0.0),
    lambda m, condition, x, y, z: m.where(condition, 0.0, 1.0),
)
def where(m: M, condition: X, x: X, y: X) -> X:
    """x where the condition holds, else y; the side not chosen gets gradient 0, and never nan"""
    return m.where(condition, x, y)
