"""Formulas written down: how a tree becomes a line, in whatever notation.

`Writer` knows the grammar, which is the same for all: where brackets are needed, what is a
fraction, which index a sum has. What single signs look like is said by its notations: `TextWriter`
here, `LatexWriter` and `MathWriter` in `markup`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from tinygrad_bp.explain import formulas as f
from tinygrad_bp.explain.elements import element
from tinygrad_bp.explain.formulas import Expr, Later, Partial, Step, Symbol
from tinygrad_bp.text import clean, number

# How strongly a formula holds together: what is below the level asked for gets brackets.
SUM, LARGE, TERM, FACTOR, ATOM = range(5)
NAMES = {"sigmoid": "σ", "maximum": "max", "minimum": "min", "arcsin": "arcsin"}
RELATIONS = {">=": "≥", "<=": "≤", "and": "∧", "or": "∨"}


def fraction(value: float) -> Fraction | None:
    """The simple fraction that a number is, if it is one."""
    if not abs(value) < 1e6:
        return None
    near = Fraction(value).limit_denominator(1000)
    return near if abs(float(near) - value) <= 1e-14 * abs(value) else None


def root_of(value: float) -> tuple[Fraction, int] | None:
    """A fraction f and a whole number r with value = f / √r, if they are small."""
    square = fraction(value * value)
    if square is None or square.denominator > 200 or square.numerator > 200:
        return None
    radicand, share = square.numerator * square.denominator, Fraction(1, square.denominator)
    for k in range(math.isqrt(radicand), 1, -1):
        if radicand % (k * k) == 0:
            radicand, share = radicand // (k * k), share * k
            break
    return None if radicand == 1 else (share * radicand, radicand)


class Writer:
    """The grammar of formulas.

    Args:
        tau: the last time step, written as τ; None if there is none.
        ng: whether layers are in parentheses, Θ⁽²⁾, and samples counted by s.
    """

    product, space, minus, plus = " ⊙ ", " ", "−", " + "

    def __init__(self, tau: int | None = None, ng: bool = False) -> None:
        self.tau, self.ng = tau, ng
        self.sample = False  # whether we are inside of a sum over samples
        self.letters: list[str] = []  # of the indices in use

    # --- signs, to be said by a notation --------------------------------------------------------

    def signs(self, text: str) -> str:
        """Digits and signs as they are."""
        raise NotImplementedError

    def name(self, text: str) -> str:
        """A letter, or a name of several: of a variable."""
        raise NotImplementedError

    def word(self, text: str) -> str:
        """The name of a function."""
        raise NotImplementedError

    def scripted(self, base: str, above: str, below: str) -> str:
        """A formula with others above and below it."""
        raise NotImplementedError

    def over(self, above: str, below: str) -> tuple[str, int]:
        """A quotient, and how strongly it holds together."""
        raise NotImplementedError

    def brackets(self, inner: str, kind: str = "()") -> str:
        raise NotImplementedError

    def large(self, sign: str, below: str, above: str = "") -> str:
        """A sum sign with its limits."""
        raise NotImplementedError

    def cases(self, rows: Sequence[tuple[str, str]]) -> str:
        """Values and their conditions; the last is for all else."""
        raise NotImplementedError

    def root(self, inner: str) -> str:
        raise NotImplementedError

    def joined(self, pieces: Sequence[str], sign: str) -> str:
        return sign.join(pieces)

    # --- the grammar ----------------------------------------------------------------------------

    def write(self, x: Expr, level: int = SUM) -> str:
        """A formula, in brackets if it holds together less strongly than `level`."""
        text, own = self._of(x)
        return text if own >= level else self.brackets(text)

    def _of(self, x: Expr) -> tuple[str, int]:
        match x:
            case f.Number(value):
                return self._number(value)
            case Symbol():
                return self.symbol(x), ATOM
            case Partial(top, by):
                return self.derivative(top, self.symbol(by))
            case f.Ones(size):
                one = self.name("𝟏")
                is_row = size[-2] == 1 != size[-1]
                return self.scripted(one, self.signs("⊤"), "") if is_row else one, ATOM
            case f.Sum(parts):
                return self._sum(parts), SUM
            case f.Product(parts):
                return self._product(parts)
            case f.Power(f.Sum() | f.Total() | f.Samples() as y, f.Number(0.5)):
                return self.root(self.write(y)), ATOM
            case f.Power(y, f.Number(n)) if n < 0:
                return self._product((x,))
            case f.Power(y, exponent):
                return self._power(y, self.write(exponent)), FACTOR
            case f.MatMul(parts):
                inner = [self.write(p, FACTOR) for p in parts]
                return self.joined(inner, self.space), TERM
            case f.Transpose(y):
                return self.transposed(y), FACTOR
            case f.Scalar(y):
                return self._of(y)
            case f.Diag(y):
                return self._called(self.word("diag"), [self.write(y)]), ATOM
            case f.Compare(sign, left, right):
                relation = self.signs(f" {RELATIONS.get(sign, sign)} ")
                return self.write(left) + relation + self.write(right), SUM
            case f.Cases():
                return self._cases(x)
            case f.Indexed(y, letters):
                return self._indexed(y, letters), ATOM
            case f.Derivative() | f.Function() | f.Apply():
                return self._function(x)
            case _:
                return self._large(x), LARGE if _is_large(x) else FACTOR

    def _number(self, value: float) -> tuple[str, int]:
        exact, level = fraction(value), FACTOR
        if exact is None:
            text = self.decimal(abs(value))
        elif exact.denominator == 1:
            text, level = self.signs(str(abs(exact.numerator))), ATOM
        else:
            above, below = str(abs(exact.numerator)), str(exact.denominator)
            text = self.over(self.signs(above), self.signs(below))[0]
        return (self.signs(self.minus) + text, SUM) if value < 0 else (text, level)

    def decimal(self, value: float) -> str:
        """A number in few digits; a simple fraction of a square root as that."""
        root = root_of(value)
        if root is not None:
            share, radicand = root
            sign = self.root(self.signs(str(radicand)))
            below = [self.signs(str(share.denominator))] if share.denominator != 1 else []
            if share.numerator % radicand == 0:
                share /= radicand
                above = [self.signs(str(share.numerator))] if share.numerator != 1 else []
                above.append(sign)
            else:
                above, below = [self.signs(str(share.numerator))], [*below, sign]
            numerator = self.joined(above, self.space)
            if not below:
                return numerator
            denominator = self.joined(below, self.space)
            if len(below) > 1 and isinstance(self, TextWriter):
                denominator = self.brackets(denominator)
            return self.over(numerator, denominator)[0]
        digits, _, exponent = number(value).partition("e")
        if not exponent:
            return self.signs(digits)
        ten = self.scripted(self.signs("10"), self.signs(str(int(exponent)).replace("-", "−")), "")
        return self.signs(f"{digits}·") + ten

    def _sum(self, parts: Sequence[Expr]) -> str:
        negative = [f.coefficient(part)[0] < 0 for part in parts]
        ordered = list(parts)
        if negative[0] and not all(negative):
            first = negative.index(False)
            ordered.insert(0, ordered.pop(first))
        written = ""
        for i, part in enumerate(ordered):
            factor, rest = f.coefficient(part)
            size = f.multiply(f.Number(abs(factor)), rest)
            sign = self.minus if factor < 0 else self.plus.strip()
            if i:
                written += self.signs(f" {sign} ")
            elif factor < 0:
                written += self.signs(self.minus)
            written += self.write(size, LARGE)
        return written

    def _product(self, parts: Sequence[Expr]) -> tuple[str, int]:
        value = 1.0
        above: list[list[Expr]] = [[], []]  # single numbers, and matrices
        below: list[list[Expr]] = [[], []]
        for part in parts:
            if isinstance(part, f.Number):
                value *= part.value
            elif f.is_inverse(part):
                below[bool(part.shape)].append(f.power(part, f.MINUS_ONE))
            else:
                above[bool(part.shape)].append(part)
        ends = not above[1] and not below[1]  # a sum sign reaches to the end
        front = self._front(value, above[0], below[0], ends)
        matrices = self._matrices(above[1], below[1])
        pieces = [piece for piece in (front, matrices) if piece]
        text = self.joined(pieces, self.space)
        alone = len(pieces) == 1 and not above[0] and not below[0] and value == 1.0
        level = TERM
        if alone and below[1]:
            level = self.over("", "")[1]
        if above[0] and not matrices and _is_large(above[0][-1]):
            level = LARGE
        if above[1] and _is_large(above[1][-1]) and len(above[1]) == 1:
            level = LARGE
        return (self.signs(self.minus) + text, SUM) if value < 0 else (text, level)

    def _front(self, value: float, above: list[Expr], below: list[Expr], ends: bool) -> str:
        exact = fraction(value)
        top, bottom = (abs(exact.numerator), exact.denominator) if exact else (None, 1)
        digits = self.decimal(abs(value)) if top is None else self.signs(str(top))
        if not below:
            if bottom != 1:
                digits = self.over(digits, self.signs(str(bottom)))[0]
            shown = [digits] if top != 1 or bottom != 1 else []
            return self.joined(shown + self._scalars(above, ends), self.space)
        divisors = ([self.signs(str(bottom))] if bottom != 1 else []) + self._scalars(below, False)
        factors = [digits] if top != 1 else []
        samples = below == [Symbol("m")]
        large = [x for x in above if _is_large(x) or samples]
        inside = [x for x in above if x not in large]
        alone = len(inside) == 1 and not factors and not isinstance(self, TextWriter)
        factors += [self.write(inside[0])] if alone else self._scalars(inside, False)
        numerator = self.joined(factors, self.space) if factors else self.signs("1")
        denominator = self.joined(divisors, self.space)
        if isinstance(self, TextWriter):
            if len(factors) > 1:
                numerator = self.brackets(numerator)
            if len(divisors) > 1:
                denominator = self.brackets(denominator)
        elif len(divisors) == 1 and bottom == 1:
            denominator = self.write(below[0])
        quotient = self.over(numerator, denominator)[0]
        return self.joined([quotient, *self._scalars(large, ends)], self.space)

    def _scalars(self, parts: list[Expr], ends: bool) -> list[str]:
        last = len(parts) - 1 if ends else -1
        return [
            self.write(part, LARGE if i == last and _is_large(part) else FACTOR)
            for i, part in enumerate(parts)
        ]

    def _matrices(self, above: list[Expr], below: list[Expr]) -> str:
        several = len(above) > 1
        level = FACTOR if several else LARGE
        if below and not several:
            level = TERM if isinstance(self, TextWriter) else SUM
        factors = [self.write(part, level) for part in above]
        text = self.joined(factors, self.signs(self.product)) if factors else self.signs("1")
        if not below:
            return text if above else ""
        divisors = self.joined([self.write(p, FACTOR) for p in below], self.signs(self.product))
        if isinstance(self, TextWriter):
            text = self.brackets(text) if several else text
            divisors = self.brackets(divisors) if len(below) > 1 else divisors
        elif len(below) == 1:
            divisors = self.write(below[0])
        return self.over(text, divisors)[0]

    def _power(self, base: Expr, exponent: str) -> str:
        """A power: of a symbol with a layer above it in brackets, a² being that of layer 2."""
        text = self.write(base, ATOM)
        plain = isinstance(base, Symbol) and (not base.sup or base.step is not None)
        if isinstance(base, Symbol) and (not plain or (self.sample and base.batched)):
            text = self.brackets(text)
        return self.scripted(text, exponent, "")

    def transposed(self, x: Expr) -> str:
        return self.scripted(self.write(x, ATOM), self.signs("⊤"), "")

    def _large(self, x: Expr) -> str:
        match x:
            case f.Total(f.Power(y, f.Number(2.0))):
                norm = self.brackets(self.write(y), "‖‖")
                return self.scripted(norm, self.signs("2"), "")
            case f.Total(y):
                return self._total(y)
            case f.Samples(y):
                outer, self.sample = self.sample, True
                body = self.write(y, LARGE)
                self.sample = outer
                return self.joined(
                    [self.large("∑", self.name(self.sample_letter)), body], self.space
                )
            case f.Steps(y, low, high):
                below = self.name("t") + self.signs("=") + self.step(low)
                return self.joined(
                    [self.large("∑", below, self.step(high)), self.write(y, LARGE)], self.space
                )
            case f.IndexSum(y, index, _):
                return self.joined(
                    [self.large("∑", self.name(index)), self.write(y, LARGE)], self.space
                )
        raise TypeError(f"a formula of an unknown kind: {type(x).__name__}")

    def _total(self, y: Expr) -> str:
        row, column = (self._fresh(letter) for letter in "kl")
        one = [n == 1 for n in y.shape[-2:]]
        at = (None if one[0] else row, None if one[1] else row if one[0] else column)
        letters = [letter for letter in at if letter] or [row]
        self.letters += letters
        body = self.write(element(y, at[0] or (row if all(one) else None), at[1], "pqrs"), LARGE)
        del self.letters[-len(letters) :]
        below = self.joined([self.name(letter) for letter in letters], self.signs(","))
        return self.joined([self.large("∑", below), body], self.space)

    def _fresh(self, letter: str) -> str:
        return next(x for x in letter + "nuvw" if x not in self.letters)

    @property
    def sample_letter(self) -> str:
        return "s" if self.ng else "i"

    # --- symbols --------------------------------------------------------------------------------

    def symbol(self, x: Symbol, below: str = "") -> str:
        """A symbol with its layer, its sample and its time step; and an index below."""
        above = (
            [self.brackets(self.signs(x.sup)) if self.ng else self.signs(x.sup)] if x.sup else []
        )
        if self.sample and x.batched:
            above.append(self.brackets(self.name(self.sample_letter)))
        subs = [self.index(x.sub)] if x.sub else []
        subs += [below] if below else []
        base = self.name(x.name)
        if above or subs:
            commas = self.joined(subs, self.signs(",")) if subs else ""
            base = self.scripted(base, "".join(above), commas)
        return base if x.step is None else base + self.brackets(self.step(x.step))

    def index(self, text: str) -> str:
        """What stands below a symbol: numbers and names, with commas between."""
        pieces = [self.signs(p) if p.isdigit() else self.name(p) for p in text.split(",")]
        return self.joined(pieces, self.signs(","))

    def step(self, step: Step) -> str:
        """A time step: a number, τ for the last, or t with an offset."""
        if isinstance(step, Later):
            n = step.offset
            sign = f" {self.minus} " if n < 0 else " + "
            return self.name("t") + (self.signs(f"{sign}{abs(n)}") if n else "")
        if self.tau is not None and step == self.tau:
            return self.name("τ")
        return self.signs(str(step).replace("-", self.minus))

    def derivative(self, top: Symbol, by: str) -> tuple[str, int]:
        return self.over(self.name("∂") + self.symbol(top), self.name("∂") + by)

    def _indexed(self, x: Expr, letters: tuple[str, ...]) -> str:
        below = "".join(self.name(letter) for letter in letters)
        if isinstance(x, Symbol):
            return self.symbol(x, below)
        if isinstance(x, Partial):
            return self.derivative(x.top, self.symbol(x.by, below))[0]
        return self.scripted(self.write(x, ATOM), "", below)

    # --- functions ------------------------------------------------------------------------------

    def _function(self, x: Any) -> tuple[str, int]:
        if isinstance(x, f.Apply):
            return self._applied(x)
        arguments, defaults = list(x.arguments), list(x.rule.defaults)
        while defaults and arguments[-1] == f.Number(float(defaults.pop())):
            arguments.pop()
        written = [self.write(y) for y in arguments]
        name = NAMES.get(x.rule.name, x.rule.name)
        if isinstance(x, f.Derivative):
            below = "" if x.which == 0 else self.signs(str(x.which + 1))
            word = self.scripted(self.word(name) + self.signs("′"), "", below)
            return self._called(word, written), ATOM
        if name == "absolute":
            return self.brackets(written[0], "||"), ATOM
        if name == "sqrt":
            return self.root(written[0]), ATOM
        return self._called(self.word(name), written), ATOM

    def _applied(self, x: f.Apply) -> tuple[str, int]:
        if x.name in ("getitem", "part"):
            index = self.brackets(self.signs(x.detail), "[]")
            return self.write(x.arguments[0], ATOM) + index, ATOM
        written = [self.write(y) for y in x.arguments]
        if x.name == "joined":
            return self.brackets(self.joined(written, self.signs(f"{x.detail} ")), "[]"), ATOM
        if x.name == "placed":
            index = self.brackets(self.signs(x.detail), "[]")
            return self._called(self.word("place") + index, written), ATOM
        if x.name.endswith("]"):  # of a sequence: what flows back says enough
            written = written[:1]
        if x.detail and x.name not in ("softmax",):
            written.append(self.signs(x.detail))
        return self._called(self.word(x.name), written), ATOM

    def _called(self, name: str, arguments: Sequence[str]) -> str:
        return name + self.brackets(self.joined(arguments, self.signs(", ")))

    def _cases(self, x: f.Cases) -> tuple[str, int]:
        condition = self.write(x.condition)
        if (x.yes, x.no) == (f.ONE, f.ZERO):
            return self.brackets(condition, "[]"), ATOM
        rows = [(self.write(x.yes), condition)]
        rest = x.no
        while isinstance(rest, f.Cases):
            rows.append((self.write(rest.yes), self.write(rest.condition)))
            rest = rest.no
        return self.cases([*rows, (self.write(rest), "")]), ATOM


def _is_large(x: Expr) -> bool:
    return isinstance(x, (f.Total, f.Samples, f.Steps, f.IndexSum)) and not (
        isinstance(x, f.Total) and isinstance(x.x, f.Power) and x.x.exponent == f.Number(2.0)
    )


_SUPER = str.maketrans("0123456789()i+−s", "⁰¹²³⁴⁵⁶⁷⁸⁹⁽⁾ⁱ⁺⁻ˢ")
_SUB = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


class TextWriter(Writer):
    """Formulas as a line of text, with what Unicode has for them."""

    def signs(self, text: str) -> str:
        return text

    def name(self, text: str) -> str:
        return clean(text)

    word = name

    def scripted(self, base: str, above: str, below: str) -> str:
        if above == "⊤":
            return base + "ᵀ"
        if above:
            small = above.translate(_SUPER)
            raised = all(c in "⁰¹²³⁴⁵⁶⁷⁸⁹⁽⁾ⁱ⁺⁻ˢ" for c in small)
            base += small if raised else f"^{above}" if above.isalnum() else f"^({above})"
        if below:
            if below.isdigit():
                return base + below.translate(_SUB)
            base += f"_{below}" if below.isalnum() else f"_{{{below}}}"
        return base

    def over(self, above: str, below: str) -> tuple[str, int]:
        return ("½" if (above, below) == ("1", "2") else f"{above}/{below}"), TERM

    def derivative(self, top: Symbol, by: str) -> tuple[str, int]:
        return f"∂{self.symbol(top)}/∂{by}", FACTOR

    def brackets(self, inner: str, kind: str = "()") -> str:
        return f"{kind[0]}{inner}{kind[1]}"

    def large(self, sign: str, below: str, above: str = "") -> str:
        if not above:
            return "Σᵢ" if below == "i" else f"Σ_{below}"
        return f"Σ_{{{below}…{above}}}"

    def cases(self, rows: Sequence[tuple[str, str]]) -> str:
        *first, (rest, _) = rows
        return "(" + "; ".join([*(f"{y} if {c}" for y, c in first), f"else {rest}"]) + ")"

    def root(self, inner: str) -> str:
        return f"√{inner}" if inner.isalnum() else f"√({inner})"


def plain(x: Expr, tau: int | None = None, ng: bool = False) -> str:
    """A formula as a line of text."""
    return TextWriter(tau, ng).write(x)
