"""Operations of your own: value and derivative, and everything else follows.

An operation is one decorated function. It runs on numbers, `Value`s, `Tensor`s and arrays of
Values, forward and backward, and can be differentiated to any order in any mode, as those that come
with the package can; they are written in the same way, in `rules` and `array_rules`.

What to write them in: `m`, the first argument, holds the elementary functions under numpy's names
(`m.exp`, `m.where`; for arrays also `m.sum`, `m.matmul`, `m.getitem`, ...). With arithmetic
operators and `m` alone the same lines compute numbers, arrays, and graphs of nodes. Write
`m.divide(x, y)` where y may be 0, since Python's `/` raises for floats.

A derivative is checked against differences where it is defined; that of an operation on whole
arrays where it is given examples of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any

import numpy as np

from tinygrad_bp import array_rules, floats, rules
from tinygrad_bp.arguments import flag, integer, several, shown, wrong_kind
from tinygrad_bp.array_rules import ArrayRule, Forward, Pullback
from tinygrad_bp.calculus import grad, jvp
from tinygrad_bp.check import check_gradients
from tinygrad_bp.rules import SMOOTH, Partial, Rule
from tinygrad_bp.scalars import Values, values
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.value import Value


def elementwise(
    dx: Partial,
    *more: Partial,
    domain: tuple[float, float] | tuple[tuple[float, float], ...] = SMOOTH,
    kinks: str = "",
    analytic: bool = False,
    textbook: Callable[..., Any] | tuple[Callable[..., Any], ...] = (),
    check: bool = True,
) -> Callable[[Callable[..., Any]], Rule]:
    """Make an elementwise operation of the decorated function `value(m, x, ...)`.

    Args:
        dx, more: the partial derivatives by the first, second, ... operand: functions
            `partial(m, x, ..., result)`; or a number, where it is constant; or None for an operand
            that is a condition.
        domain: where the operands are checked, an interval for all or one for each.
        kinks: the points without derivative, and what is chosen there, in words.
        analytic: whether it is complex differentiable, and value and partials can be given complex
            arrays: then `check_gradients` can take its complex step through it.
        textbook: the partials in the form to be shown, if that is another one.
        check: compare value and derivatives, first and second, at 20 points of the domain.

    Returns:
        A decorator, which gives a `Rule` to be called on operands of any kind.

    Raises:
        ValueError: there is not one partial (and interval) per operand, or the check found a
            derivative to be wrong; the message names it, and the point.

    Example:
        >>> @elementwise(lambda m, x, y: m.divide(1.0, (1.0 + m.absolute(x)) ** 2))
        ... def softsign(m, x):
        ...     return m.divide(x, 1.0 + m.absolute(x))
        >>> softsign(Value(1.0))
        Value(0.5)
    """
    flag(check, "check")
    make = rules.elementwise(
        dx,
        *more,
        domain=domain,
        kinks=kinks,
        analytic=analytic,
        textbook=textbook,
        table=None,
    )

    def decorate(value: Callable[..., Any]) -> Rule:
        if not callable(value):
            raise TypeError(
                "elementwise: expected a function to decorate; write @tb.elementwise(dx), where dx "
                "is the derivative"
            )
        rule = make(value)
        if check:
            Context().run(check_rule, rule)
        return rule

    return decorate


def structural(
    *pullbacks: Pullback,
    takes_sequence: bool = False,
    analytic: bool = False,
    forward: Forward = "pullback",
    check: Sequence[tuple[Any, ...]] = (),
) -> Callable[[Callable[..., Any]], ArrayRule]:
    """Make an operation on whole arrays of the decorated function `value(m, x, ..., *arguments)`.

    Args:
        pullbacks: one function per operand, `pullback(m, g, result, x, ..., *arguments)`, from the
            gradient of the result to that of the operand (which may still be broadcast). They are
            named after what they compute, such as `roll_dx`, since pictures and tables show it.
        takes_sequence: the first argument is a sequence of operands; then there is one pullback,
            called with `(m, g, result, operands, which, *arguments)`.
        analytic: see `elementwise`.
        forward: how forward mode passes through, see `ArrayRule`; as it stands it uses the
            pullback, which is right for every operation.
        check: arguments to try the operation on, `[(x, ...), ...]`: derivatives, first and second,
            are compared there.

    Returns:
        A decorator, which gives an `ArrayRule` to be called on Tensors.

    Raises:
        ValueError: the check found a derivative to be wrong.

    Example:
        >>> def swap_dx(m, g, y, x):
        ...     return m.getitem(g, (slice(None), [1, 0]))
        >>> @structural(swap_dx, check=[(np.eye(2),)])
        ... def swap(m, x):
        ...     return m.getitem(x, (slice(None), [1, 0]))
    """
    make = array_rules.structural(
        *pullbacks,
        takes_sequence=takes_sequence,
        analytic=analytic,
        forward=forward,
        table=None,
    )

    if not pullbacks or not all(map(callable, pullbacks)):
        given = shown(next((pull for pull in pullbacks if not callable(pull)), None))
        raise TypeError(
            "structural: pullbacks: expected a function for each operand, "
            f"@tb.structural(pull), got {given}"
        )
    check = several(check, "check", "tuples of arguments")
    for arguments in check:
        if not isinstance(arguments, tuple):
            raise wrong_kind("check", "tuples of arguments, [(x, ...), ...]", arguments)

    def decorate(value: Callable[..., Any]) -> ArrayRule:
        rule = make(value)
        if check:
            Context().run(check_rule, rule, *check)
        return rule

    return decorate


def check_rule(rule: Rule | ArrayRule, *examples: tuple[Any, ...], seed: int = 0) -> None:
    """Compare an operation with what must hold for it.

    On Values and Tensors the same numbers must come out; the derivatives must be those of central
    differences, and so must second derivatives be; forward and reverse mode must agree.

    Args:
        rule: the operation.
        examples: arguments to try it on. For an elementwise one 20 points are drawn from its
            domain, if none are given.
        seed: for those points.

    Raises:
        ValueError: something does not hold. The message says what, and where.
    """
    if not isinstance(rule, (Rule, ArrayRule)):
        raise wrong_kind("rule", "an operation", rule)
    for example in examples:
        if not isinstance(example, tuple):
            raise wrong_kind("examples", "tuples of arguments", example)
    random = np.random.default_rng(integer(seed, "seed", 0))
    try:
        _check(rule, examples, random)
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(f"{rule.name}:"):
            raise
        kind = type(error).__name__
        raise ValueError(f"{rule.name}: trying it failed with {kind}: {error}") from error


def _check(
    rule: Rule | ArrayRule, examples: tuple[tuple[Any, ...], ...], random: np.random.Generator
) -> None:
    if isinstance(rule, Rule):
        if not examples:
            examples = tuple(_point(rule, random) for _ in range(20))
        for point in examples:
            _check_point(rule, point)
        columns = [np.array(column) for column in zip(*examples, strict=True)]
        _check_call(rule, columns, random, [p is not None for p in rule.partials])
    else:
        if not examples:
            raise ValueError(f"{rule.name}: expected examples of arguments to try it on")
        for arguments in examples:
            count = 1 if rule.takes_sequence else len(rule.pullbacks)
            _check_call(rule, arguments, random, [i < count for i in range(len(arguments))])


def _point(rule: Rule, random: np.random.Generator) -> tuple[Any, ...]:
    return tuple(
        bool(random.integers(2)) if partial is None else float(random.uniform(low, high))
        for partial, (low, high) in zip(rule.partials, rule.domain, strict=True)
    )


def _check_point(rule: Rule, point: Sequence[Any]) -> None:
    """Each partial derivative at a point, and each of its derivatives."""
    where = f"at ({', '.join(f'{x:.6g}' for x in point)})"
    result = rule.value(floats, *point)
    if not np.isfinite(result):
        raise ValueError(f"{rule.name}: it is {result} {where}; give a domain where it is finite")
    by = [i for i, partial in enumerate(rule.partials) if partial is not None]

    def only(f: Callable[..., Any]) -> Callable[..., Any]:
        """f as a function of the operands with a derivative."""

        def of_moved(*moved: Any) -> Any:
            operands = list(point)
            for i, x in zip(by, moved, strict=True):
                operands[i] = x
            return f(*operands)

        return of_moved

    leaves = [Value(point[i], "xyz"[i]) for i in by]
    _agree(only(rule), leaves, f"{rule.name}: its derivative is wrong {where}")
    for i in by:
        partial = grad(rule, i, create_graph=True)
        number, node = grad(rule, i)(*point), partial(*point).item()
        if not abs(number - node) <= 1e-9 * max(1.0, abs(number)):
            raise ValueError(
                f"{rule.name}: d{'xyz'[i]} is {number:.10g} on numbers, but {node:.10g} on nodes "
                f"{where}"
            )
        what = f"{rule.name}: d{'xyz'[i]}, differentiated again, is wrong {where}"
        _agree(only(partial), leaves, what)


def _check_call(
    rule: Any, arguments: Sequence[Any], random: np.random.Generator, moved: Sequence[bool]
) -> None:
    """The derivatives of an operation on arrays, in reverse and in forward mode."""
    sequence = isinstance(rule, ArrayRule) and rule.takes_sequence
    operands = arguments[0] if sequence else [x for x, m in zip(arguments, moved, strict=True) if m]
    leaves = [Tensor(x, f"operand {i}", dtype=np.float64) for i, x in enumerate(operands)]

    def call(*tensors: Any) -> Any:
        rest = iter(tensors)
        if sequence:
            return rule(tensors, *arguments[1:])
        return rule(*(next(rest) if m else x for x, m in zip(arguments, moved, strict=True)))

    weights = random.normal(size=call(*leaves).shape)
    name = rule.name

    def weighted(*tensors: Any) -> Any:
        return array_rules.sum(call(*tensors) * weights)

    _agree(weighted, leaves, f"{name}: its derivative is wrong")
    every = tuple(range(len(leaves)))
    directions = [random.normal(size=leaf.shape) for leaf in leaves]

    def slope(*tensors: Any) -> Any:
        gradients = grad(weighted, every, create_graph=True)(*tensors)
        terms = [array_rules.sum(g * v) for g, v in zip(gradients, directions, strict=True)]
        return sum(terms[1:], terms[0])

    _agree(slope, leaves, f"{name}: its derivative, differentiated again, is wrong")
    _, forward = jvp(weighted, tuple(leaves), tuple(directions))
    gradients = grad(weighted, every)(*leaves)
    reverse = float(sum(np.sum(g * v) for g, v in zip(gradients, directions, strict=True)))
    if not abs(forward - reverse) <= 1e-9 * max(1.0, abs(reverse)):
        raise ValueError(
            f"{name}: forward mode gives {forward:.10g} in some direction, reverse {reverse:.10g}"
        )
    if isinstance(rule, Rule):
        scalars: Any = [rule.value(floats, *p) for p in zip(*arguments, strict=True)]
    else:
        scalars = call(*(values(leaf.data) for leaf in leaves)).data
    if not np.allclose(call(*leaves).data, scalars, rtol=1e-12, atol=1e-300):
        raise ValueError(f"{name}: on arrays it gives other numbers than on Values")


def _agree(f: Callable[..., Any], leaves: Sequence[Value | Tensor | Values], message: str) -> None:
    report = check_gradients(f, leaves)
    if not report:
        raise ValueError(f"{message}: {report}")
