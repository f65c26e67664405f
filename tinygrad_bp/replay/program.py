"""`Program`: a recorded computation as a flat tape.

An instruction is the number of an operation and the numbers of its operands, which are earlier
instructions. That is all there is: 30 bytes for a single number, its value and its adjoint
included. What an operation means stands in the rules; the engines run them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp import array_rules
from tinygrad_bp.arguments import instance, integer
from tinygrad_bp.array_rules import ARRAY_RULES, structural
from tinygrad_bp.replay.scopes import Scopes
from tinygrad_bp.rules import RULES, elementwise

INPUT, CONSTANT = "input", "constant"

# --- operations that only a recorded computation has ---------------------------------------------


@elementwise(None, None, table=None)
def less(m: Any, x: Any, y: Any) -> Any:
    """x < y"""
    return x < y


@elementwise(None, None, table=None)
def less_equal(m: Any, x: Any, y: Any) -> Any:
    """x <= y"""
    return x <= y


@elementwise(None, None, table=None)
def equal(m: Any, x: Any, y: Any) -> Any:
    """x == y"""
    return x == y


@elementwise(None, None, table=None)
def not_equal(m: Any, x: Any, y: Any) -> Any:
    """x != y"""
    return x != y


@elementwise(None, None, table=None)
def logical_and(m: Any, x: Any, y: Any) -> Any:
    """Both conditions hold"""
    return (x != 0) & (y != 0)


@elementwise(None, None, table=None)
def logical_or(m: Any, x: Any, y: Any) -> Any:
    """One of the conditions holds, or both"""
    return (x != 0) | (y != 0)


@elementwise(None, table=None)
def logical_not(m: Any, x: Any) -> Any:
    """The condition does not hold"""
    return x == 0


@elementwise(None, table=None)
def detach(m: Any, x: Any) -> Any:
    """x, through which no gradient flows"""
    return x


def _none(*unused: Any) -> Any:
    raise RuntimeError("an integer array has no gradient")


@structural(_none, table=None)
def one_hot(m: Any, indices: Any, classes: int, dtype: Any = None) -> Any:
    """Rows of zeros with a one at each index"""
    return array_rules.one_hot(indices, classes, dtype)


@structural(_none, table=None)
def as_floats(m: Any, indices: Any) -> Any:
    """The integers as float64"""
    return m.astype(indices, np.float64)


@structural(_none, table=None)
def pick(m: Any, indices: Any, index: Any) -> Any:
    """A part of an integer array"""
    return indices[index]


CONDITIONS = {
    rule.name: rule for rule in (less, less_equal, equal, not_equal, logical_and, logical_or)
} | {"logical_not": logical_not}

# By name, as a program refers to them.
OPERATIONS: dict[str, Any] = {
    **RULES,
    **ARRAY_RULES,
    **CONDITIONS,
    **{rule.name: rule for rule in (detach, one_hot, pick, as_floats)},
}


# These give the same bits in every namespace: for a float as for an element of an array.
EXACT = {detach, *CONDITIONS.values()} | {
    RULES[name]
    for name in (
        *("absolute", "add", "subtract", "multiply", "divide"),
        *("negative", "positive", "sqrt", "square", "where"),
    )
}


# --- the tape -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Guard:
    """A decision that Python took while recording: the program holds only where it comes out so.

    Attributes:
        condition: the number of the instruction whose truth was asked for.
        outcome: what it was.
        line: where in the user's program.
    """

    condition: int
    outcome: bool
    line: str


@dataclass(frozen=True)
class Placeholder:
    """In the arguments of a rule, the result of the instruction's operand number `position`."""

    position: int


@dataclass(frozen=True)
class Details:
    """What an instruction on arrays has beside its operands: the arguments of its rule.

    Operands beyond those of the rule are integer arrays, which stand in its arguments.
    """

    operands: tuple[int, ...]
    parameters: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


# What a generator may be asked for: methods whose result hangs on its state and their arguments.
DRAWS = frozenset(
    (
        *("random", "uniform", "normal", "standard_normal", "integers", "choice", "permutation"),
        *("beta", "binomial", "chisquare", "dirichlet", "exponential", "f", "gamma", "geometric"),
        *("gumbel", "hypergeometric", "laplace", "logistic", "lognormal", "logseries"),
        *("multinomial", "multivariate_hypergeometric", "multivariate_normal"),
        *("negative_binomial", "noncentral_chisquare", "noncentral_f", "pareto", "permuted"),
        *("poisson", "power", "rayleigh", "standard_cauchy", "standard_exponential"),
        *("standard_gamma", "standard_t", "triangular", "vonmises", "wald", "weibull", "zipf"),
    )
)


@dataclass(frozen=True)
class Draw:
    """Random numbers that a program takes at each run.

    Attributes:
        generator: which of the generators that are given then.
        method: its method, one of `DRAWS`.
        parameters, options: the method's arguments.
        count: how many inputs it gives: 1, or in a program of single numbers as many as it draws.
    """

    generator: int
    method: str
    parameters: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    count: int = 1

    def __str__(self) -> str:
        named = [f"{name}={_short(x)}" for name, x in self.options.items()]
        given = ", ".join([*map(_short, self.parameters), *named])
        return f"rng{self.generator}.{self.method}({given})"


def placeholders(parameters: Any) -> int:
    """How many there are."""
    if isinstance(parameters, (list, tuple)):
        return sum(map(placeholders, parameters))
    return int(isinstance(parameters, Placeholder))


def filled_in(parameters: Any, operands: Sequence[Any]) -> Any:
    """Arguments with the operands that stand in them."""
    if isinstance(parameters, Placeholder):
        return operands[parameters.position]
    if type(parameters) in (list, tuple):
        return type(parameters)(filled_in(p, operands) for p in parameters)
    return parameters


@dataclass
class Program:
    """A recorded computation.

    Attributes:
        kind: "scalar", if every instruction gives a single number, or "array".
        rules: the operations that occur; `codes` are positions in this list. The first two are
            "input" and "constant".
        codes: per instruction its operation, uint16.
        operands: int32 of shape (instructions, 3): the instructions it was computed from, -1 for
            none. An instruction with more, or with further arguments, has `details`.
        details: by the number of the instruction.
        inputs: the instructions that are given at each run, in order.
        constants: by the number of the instruction, its number or array.
        outputs: the instructions that are the result.
        guards: what must come out as it did.
        shapes, dtypes: per instruction, for arrays; empty for single numbers.
        scopes: where the instructions were recorded.
        draws: where the last of the inputs come from, in this order, if they are random numbers.
    """

    kind: Literal["scalar", "array"]
    rules: list[Any]
    codes: NDArray[np.uint16]
    operands: NDArray[np.int32]
    details: dict[int, Details]
    inputs: list[int]
    constants: dict[int, Any]
    outputs: list[int]
    guards: list[Guard] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtypes: list[Any] = field(default_factory=list)
    scopes: Scopes = field(default_factory=Scopes)
    draws: list[Draw] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.codes)

    def rule(self, i: int) -> Any:
        """The operation of an instruction: a rule, or "input", or "constant"."""
        return self.rules[self.codes[self._place(i)]]

    def operands_of(self, i: int) -> tuple[int, ...]:
        """The instructions that an instruction was computed from."""
        i = self._place(i)
        if i in self.details:
            return self.details[i].operands
        return tuple(int(j) for j in self.operands[i] if j >= 0)

    def _place(self, i: Any) -> int:
        """The number of an instruction, from 0."""
        count = len(self.codes)
        if type(i) is int and 0 <= i < count:  # as nearly always, and asked for very often
            return i
        if not -count <= integer(i, "i") < count:
            raise IndexError(f"i: expected one of {count} instructions, got {i}")
        return int(i) % count

    def drawn(self, *generators: np.random.Generator) -> list[Any]:
        """What the draws give now: the last of the inputs, to be put after the others.

        Args:
            generators: those that the function was given, each once, in the order of its arguments.

        Raises:
            ValueError: there are too few, or a draw gives another shape than at the recording.
        """
        for generator in generators:
            instance(generator, "generators", np.random.Generator, "numpy Generators")
        count = max((draw.generator for draw in self.draws), default=-1) + 1
        if len(generators) < count:
            raise ValueError(f"the program draws from {count} generators, got {len(generators)}")
        given: list[Any] = []
        rest = iter(self.inputs[len(self.inputs) - sum(draw.count for draw in self.draws) :])
        for draw in self.draws:
            x = getattr(generators[draw.generator], draw.method)(*draw.parameters, **draw.options)
            numbers = [next(rest) for _ in range(draw.count)]
            if self.kind == "scalar":
                fits, each = np.size(x) == draw.count, np.ravel(x).tolist()
            else:
                each = [np.asarray(x, self.dtypes[numbers[0]])]
                fits = each[0].shape == self.shapes[numbers[0]]
            if not fits:
                raise ValueError(f"{draw}: it gives the shape {np.shape(x)}, and did not before")
            given += each
        return given

    def stats(self) -> dict[str, int]:
        """How often each operation occurs."""
        counts = np.bincount(self.codes, minlength=len(self.rules))
        return {_name(r): int(n) for r, n in zip(self.rules, counts, strict=True) if n}

    def __str__(self) -> str:
        lines = []
        headings = dict(zip(self.scopes.starts.tolist(), self.scopes.places.tolist(), strict=True))
        drawn = [str(draw) for draw in self.draws for _ in range(draw.count)]
        names = [f"input {k}" for k in range(len(self.inputs))]
        names[len(names) - len(drawn) :] = drawn
        named = dict(zip(self.inputs, names, strict=True))
        for i in range(len(self)):
            if i in headings:
                lines.append(f"# {self.scopes.path(headings[i])}".rstrip())
            rule = self.rule(i)
            if rule == INPUT:
                text = named[i]
            elif rule == CONSTANT:
                text = _short(self.constants[i])
            else:
                detail = self.details.get(i)
                parts = [f"%{j}" for j in self.operands_of(i)]
                if detail is not None:
                    count = len(parts) - placeholders(detail.parameters)
                    given = filled_in(detail.parameters, list(map(_Named, parts)))
                    parts = parts[:count] + [_short(p) for p in given]
                    parts += [f"{k}={_short(v)}" for k, v in detail.options.items()]
                text = f"{rule.name}({', '.join(parts)})"
            shape = f" {list(self.shapes[i])}" if self.shapes else ""
            lines.append(f"%{i}{shape} = {text}")
        lines += [f"guard %{g.condition} is {g.outcome}{g.line}" for g in self.guards]
        lines.append("return " + ", ".join(f"%{i}" for i in self.outputs))
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<{self.kind} program of {len(self)} instructions>"


class _Named(str):
    """The name of an instruction, which is shown without quotes."""

    __repr__ = str.__str__


def _name(rule: Any) -> str:
    return rule if isinstance(rule, str) else str(rule.name)


def _short(x: Any) -> str:
    if isinstance(x, np.ndarray) and x.ndim:
        return f"array{list(x.shape)}"
    return f"{float(x):.6g}" if isinstance(x, (float, np.floating, np.ndarray)) else repr(x)
