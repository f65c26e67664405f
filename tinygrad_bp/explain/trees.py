"""The kinds of formulas: trees of small immutable objects.

Everything that is not a single number is a matrix, and a vector is one of a single column (or row).
How formulas are made, and simplified on the way, stands in `formulas`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Later(NamedTuple):
    """A time step that is not a number but `t + offset`."""

    offset: int


Step = int | Later | None


@dataclass(frozen=True, slots=True)
class Expr:
    """A formula.

    Attributes:
        shape: of the matrix that it is, or () for a single number.
        batched: whether it differs between the samples of a batch.
    """

    @property
    def shape(self) -> Shape:
        return broadcast(*(x.shape for x in self.children))

    @property
    def batched(self) -> bool:
        return any(x.batched for x in self.children)

    @property
    def children(self) -> tuple[Expr, ...]:
        """The formulas that it is made of, in order."""
        return ()

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        """The same of other formulas."""
        return self


def broadcast(*shapes: Shape) -> Shape:
    """The shape that matrices take together, element by element."""
    different = {shape for shape in shapes if shape}
    if len(different) > 1:
        return np.broadcast_shapes(*different)
    return different.pop() if different else ()


def swapped(shape: Shape) -> Shape:
    """The shape of the transpose."""
    return (*shape[:-2], shape[-1], shape[-2]) if shape else shape


# --- atoms --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Number(Expr):
    """A plain number."""

    value: float


@dataclass(frozen=True, slots=True)
class Symbol(Expr):
    """A letter or a name, with what stands above and below it.

    Attributes:
        name: the letter: `W`, `δ`.
        sup: above it: the layer.
        sub: below it.
        step: the time step in parentheses, or None.
    """

    name: str
    sup: str = ""
    sub: str = ""
    step: Step = None
    size: Shape = field(default=(), compare=False)
    per_sample: bool = field(default=False, compare=False)

    @property
    def shape(self) -> Shape:
        return self.size

    @property
    def batched(self) -> bool:
        return self.per_sample

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from other symbols, the time step apart."""
        return (self.name, self.sup, self.sub)


@dataclass(frozen=True, slots=True)
class Partial(Expr):
    """The derivative of `top` by `by`: ∂C/∂W."""

    top: Symbol
    by: Symbol

    @property
    def shape(self) -> Shape:
        return self.by.shape

    @property
    def batched(self) -> bool:
        return self.by.batched

    @property
    def step(self) -> Step:
        return self.by.step

    @property
    def key(self) -> tuple[Any, ...]:
        return ("∂", *self.by.key)


Atom = Symbol | Partial


@dataclass(frozen=True, slots=True)
class Ones(Expr):
    """A matrix of ones."""

    size: Shape

    @property
    def shape(self) -> Shape:
        return self.size


# --- arithmetic ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Many(Expr):
    """Something of any number of formulas."""

    parts: tuple[Expr, ...]

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.parts


@dataclass(frozen=True, slots=True)
class Sum(Many):
    """Terms, added up."""


@dataclass(frozen=True, slots=True)
class Product(Many):
    """Element by element: ⊙ between matrices."""


@dataclass(frozen=True, slots=True)
class MatMul(Many):
    """The product of matrices: rows times columns."""

    @property
    def shape(self) -> Shape:
        shapes = [x.shape for x in self.parts]
        return (*broadcast(*(s[:-2] for s in shapes)), shapes[0][-2], shapes[-1][-1])


@dataclass(frozen=True, slots=True)
class Single(Expr):
    """Something of one formula."""

    x: Expr

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.x,)

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return replace(self, x=children[0])


@dataclass(frozen=True, slots=True)
class Power(Single):
    """A power, element by element; one with a negative exponent is a quotient."""

    exponent: Expr

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.x, self.exponent)


@dataclass(frozen=True, slots=True)
class Transpose(Single):
    """Rows as columns."""

    @property
    def shape(self) -> Shape:
        return swapped(self.x.shape)


@dataclass(frozen=True, slots=True)
class Diag(Single):
    """The matrix with a vector on its diagonal."""

    @property
    def shape(self) -> Shape:
        n = max(self.x.shape)
        return (n, n)


@dataclass(frozen=True, slots=True)
class Scalar(Single):
    """The one number in a matrix of one row and one column: an inner product."""

    @property
    def shape(self) -> Shape:
        return ()


@dataclass(frozen=True, slots=True)
class Total(Single):
    """The sum over all elements."""

    @property
    def shape(self) -> Shape:
        return ()


@dataclass(frozen=True, slots=True)
class Samples(Single):
    """The sum over the samples of a batch."""

    @property
    def batched(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Steps(Single):
    """The sum over the time steps t = low ... high."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Function(Expr):
    """An elementwise operation applied: σ(z)."""

    rule: Any
    arguments: tuple[Expr, ...]

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.arguments

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return replace(self, arguments=children)


@dataclass(frozen=True, slots=True)
class Derivative(Function):
    """Its partial derivative by argument `which`: σ'(z). `result` is what the function gave."""

    which: int
    result: Expr

    @property
    def children(self) -> tuple[Expr, ...]:
        return (*self.arguments, self.result)

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return replace(self, arguments=children[:-1], result=children[-1])


@dataclass(frozen=True, slots=True)
class Compare(Expr):
    """A condition."""

    sign: str
    left: Expr
    right: Expr

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.left, self.right)

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return Compare(self.sign, *children)


@dataclass(frozen=True, slots=True)
class Cases(Expr):
    """`yes` where the condition holds, else `no`."""

    condition: Expr
    yes: Expr
    no: Expr

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.condition, self.yes, self.no)

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return Cases(*children)


@dataclass(frozen=True, slots=True)
class Apply(Expr):
    """An operation on whole arrays that has no sign of its own: softmax(o).

    Attributes:
        name: what it is called.
        arguments: what it is applied to.
        detail: its further arguments, in words.
        size: of what it gives.
        per_sample: whether that differs between samples.
        compute: its value, a function of the arguments' matrices.
    """

    name: str
    arguments: tuple[Expr, ...]
    detail: str
    size: Shape
    per_sample: bool
    compute: Callable[..., Any] = field(compare=False)

    @property
    def shape(self) -> Shape:
        return self.size

    @property
    def batched(self) -> bool:
        return self.per_sample

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.arguments

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return replace(self, arguments=children)


@dataclass(frozen=True, slots=True)
class Indexed(Single):
    """An element, by the letters of its indices: W_jk."""

    indices: tuple[str, ...]

    @property
    def shape(self) -> Shape:
        return ()


@dataclass(frozen=True, slots=True)
class IndexSum(Single):
    """The sum over an index that runs from 1 to `count`."""

    index: str
    count: int

    @property
    def shape(self) -> Shape:
        return ()


ZERO, ONE, MINUS_ONE = Number(0.0), Number(1.0), Number(-1.0)
