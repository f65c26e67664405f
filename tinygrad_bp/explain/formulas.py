"""Formulas: how they are made, and walked through.

Formulas are the trees of `trees`. The functions here do what a reader expects of a formula: a
factor 1 is not written, a double transpose is none, a factor that is a single number stands in
front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tinygrad_bp.explain.trees import (
    MINUS_ONE as MINUS_ONE,
    ONE as ONE,
    ZERO as ZERO,
    Apply as Apply,
    Atom as Atom,
    Cases as Cases,
    Compare as Compare,
    Derivative as Derivative,
    Diag as Diag,
    Expr as Expr,
    Function as Function,
    Indexed as Indexed,
    IndexSum as IndexSum,
    Later as Later,
    Many as Many,
    MatMul as MatMul,
    Number as Number,
    Ones as Ones,
    Partial as Partial,
    Power as Power,
    Product as Product,
    Samples as Samples,
    Scalar as Scalar,
    Shape as Shape,
    Single as Single,
    Step as Step,
    Steps as Steps,
    Sum as Sum,
    Symbol as Symbol,
    Total as Total,
    Transpose as Transpose,
    broadcast as broadcast,
    swapped as swapped,
)

# --- how they are made --------------------------------------------------------------------------


def coefficient(x: Expr) -> tuple[float, Expr]:
    """A formula as a number times the rest."""
    if isinstance(x, Number):
        return x.value, ONE
    if isinstance(x, Product) and isinstance(x.parts[0], Number):
        rest = x.parts[1:]
        return x.parts[0].value, rest[0] if len(rest) == 1 else Product(rest)
    return 1.0, x


def add(*terms: Expr) -> Expr:
    """The sum, with like terms taken together."""
    flat = [x for term in terms for x in (term.parts if isinstance(term, Sum) else (term,))]
    counts: dict[Expr, float] = {}
    for x in flat:
        factor, rest = coefficient(x)
        counts[rest] = counts.get(rest, 0.0) + factor
    kept = [x if n == 1.0 else multiply(Number(n), x) for x, n in counts.items() if n != 0.0]
    if not kept:
        return ZERO
    return kept[0] if len(kept) == 1 else Sum(tuple(kept))


def negative(x: Expr) -> Expr:
    """Minus the formula."""
    return multiply(MINUS_ONE, x)


def multiply(*factors: Expr) -> Expr:
    """The product element by element; numbers first, equal factors as a power."""
    number = 1.0
    powers: dict[Expr, float] = {}
    for factor in factors:
        for x in factor.parts if isinstance(factor, Product) else (factor,):
            if isinstance(x, Number):
                number *= x.value
                continue
            base, n = x, 1.0
            if isinstance(x, Power) and isinstance(x.exponent, Number) and x.exponent.value > 0:
                base, n = x.x, x.exponent.value
            powers[base] = powers.get(base, 0.0) + n
    rest = [power(base, Number(n)) for base, n in powers.items()]
    for x in [x for x in rest if isinstance(x, Ones)]:  # needed for their shape alone
        others = [y for y in rest if y is not x]
        if broadcast(*(y.shape for y in others)) == broadcast(*(y.shape for y in rest)):
            rest = others
    if number == 0.0:
        return ZERO
    if number == -1.0 and len(rest) == 1 and isinstance(rest[0], Sum):
        return add(*(negative(x) for x in rest[0].parts))
    if number != 1.0 or not rest:
        rest.insert(0, Number(number))
    return rest[0] if len(rest) == 1 else Product(tuple(rest))


def power(x: Expr, exponent: Expr) -> Expr:
    """The power; of 1, or to the power of 1 or 0, what that is."""
    if exponent == ONE or x == ONE:
        return x
    if exponent == ZERO:
        return ONE
    if isinstance(x, Number) and isinstance(exponent, Number) and x.value > 0.0:
        return Number(x.value**exponent.value)
    if isinstance(x, Power) and _is_whole(exponent) and _is_whole(x.exponent):
        return power(x.x, multiply(x.exponent, exponent))
    if isinstance(x, Product) and exponent == MINUS_ONE:
        return multiply(*(power(part, MINUS_ONE) for part in x.parts))
    return Power(x, exponent)


def _is_whole(x: Expr) -> bool:
    return isinstance(x, Number) and float(x.value).is_integer()


def is_inverse(x: Expr) -> bool:
    """Whether it stands below the line of a fraction."""
    return isinstance(x, Power) and isinstance(x.exponent, Number) and x.exponent.value < 0


def divide(x: Expr, y: Expr) -> Expr:
    """The quotient, as a product with a power of -1."""
    if y == ZERO:
        return Product((x, Power(y, MINUS_ONE)))
    if isinstance(y, Number):
        return multiply(Number(1.0 / y.value), x)
    return multiply(x, power(y, MINUS_ONE))


def scalar_part(x: Expr) -> tuple[Expr, Expr]:
    """A formula as a single number times the rest."""
    if not isinstance(x, Product) or not x.shape:
        return ONE, x
    scalars = [part for part in x.parts if not part.shape]
    rest = [part for part in x.parts if part.shape]
    return multiply(*scalars), multiply(*rest)


def matmul(*factors: Expr) -> Expr:
    """The product of matrices, with single numbers in front."""
    outside, inside = [], []
    for factor in factors:
        for x in factor.parts if isinstance(factor, MatMul) else (factor,):
            front, rest = (x, None) if not x.shape else scalar_part(x)
            outside.append(front)
            if rest is not None:
                inside.append(rest)
    inner = [x for r in inside for x in (r.parts if isinstance(r, MatMul) else (r,))]
    if len(inner) < 2:
        return multiply(*outside, *inner)
    return multiply(*outside, MatMul(tuple(inner)))


def transpose(x: Expr) -> Expr:
    """The transpose, moved down to the single letters."""
    if not x.shape or isinstance(x, Diag):
        return x
    if isinstance(x, Transpose):
        return x.x
    if isinstance(x, MatMul):
        return matmul(*(transpose(part) for part in reversed(x.parts)))
    if isinstance(x, Sum):
        return add(*(transpose(part) for part in x.parts))
    if isinstance(x, Product) and len([p for p in x.parts if p.shape]) == 1:
        return multiply(*(transpose(part) for part in x.parts))
    if isinstance(x, Ones):
        return Ones(swapped(x.size))
    return Transpose(x)


def total(x: Expr) -> Expr:
    """The sum over all elements; of a single number it is the number."""
    if not x.shape:
        return x
    front, rest = scalar_part(x)
    number, rest = coefficient(rest)
    return multiply(Number(number), front, Total(rest))


def samples(x: Expr) -> Expr:
    """The sum over the samples, with constant factors in front."""
    front, rest = _apart(x, lambda part: not part.batched)
    return multiply(front, Samples(rest))


def over_steps(x: Expr, low: int, high: int) -> Expr:
    """The sum over time steps, with constant factors in front."""
    front, rest = _apart(x, lambda part: all(atom.step is None for atom in atoms(part)))
    return multiply(front, Steps(rest, low, high))


def _apart(x: Expr, is_constant: Callable[[Expr], bool]) -> tuple[Expr, Expr]:
    """The single numbers among the factors that are constant, and the rest."""
    if not isinstance(x, Product):
        return ONE, x
    front = [part for part in x.parts if not part.shape and is_constant(part)]
    rest = [part for part in x.parts if part not in front]
    return (multiply(*front), multiply(*rest)) if rest else (ONE, x)


def collected(x: Expr) -> Expr:
    """A sum with the single numbers that all its terms are multiplied by in front: 1/m."""
    if not isinstance(x, Sum):
        return x
    split = [coefficient(term) for term in x.parts]
    sizes = {abs(n) for n, _ in split}
    size = sizes.pop() if len(sizes) == 1 else 1.0
    lists = [rest.parts if isinstance(rest, Product) else (rest,) for _, rest in split]
    common = [p for p in lists[0] if not p.shape and p != ONE and all(p in q for q in lists[1:])]
    if size == 1.0 and not common:
        return x
    terms = [
        multiply(Number(n / size), *(p for p in factors if p not in common))
        for (n, _), factors in zip(split, lists, strict=True)
    ]
    return multiply(Number(size), *common, add(*terms))


def full(x: Expr, shape: Shape) -> Expr:
    """A formula that may be broadcast, in its full shape."""
    if x.shape == shape:
        return x
    return multiply(x, Ones(shape))


# --- walking through them -----------------------------------------------------------------------


def rebuilt(x: Expr, children: tuple[Expr, ...]) -> Expr:
    """The same of other formulas, made anew: simplified as any other."""
    make = _MAKERS.get(type(x))
    if make is not None:
        return make(*children)
    if isinstance(x, Steps):
        return over_steps(children[0], x.low, x.high)
    return x.with_children(children)


_MAKERS: dict[type[Expr], Callable[..., Expr]] = {
    Sum: add,
    Product: multiply,
    MatMul: matmul,
    Power: power,
    Transpose: transpose,
    Total: total,
    Samples: samples,
}


def transformed(x: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """The formula with `change` made to every part of it, the innermost first."""
    children = x.children
    if children:
        new = tuple(transformed(child, change) for child in children)
        if new != children:
            x = rebuilt(x, new)
    return change(x)


def parts(x: Expr) -> Iterator[Expr]:
    """Every formula within a formula, and itself, from left to right."""
    yield x
    for child in x.children:
        yield from parts(child)


def atoms(x: Expr) -> Iterator[Atom]:
    """The symbols and derivatives in a formula, as written: what a derivative gave is not."""
    if isinstance(x, (Symbol, Partial)):
        yield x
        return
    for child in x.arguments if isinstance(x, Function) else x.children:
        yield from atoms(child)


def extent(x: Expr) -> int:
    """How many signs a formula has."""
    if isinstance(x, Function):
        return 1 + sum(map(extent, x.arguments))
    if isinstance(x, (Symbol, Partial)):
        return 1 if x.step is None else 2
    return 1 + sum(map(extent, x.children))


def at_step(atom: Atom, step: Step) -> Atom:
    """The same at another time step."""
    if isinstance(atom, Symbol):
        return replace(atom, step=step)
    return replace(atom, by=replace(atom.by, step=step))
