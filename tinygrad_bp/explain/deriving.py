"""`derive`: the derivation of a gradient, as a textbook sets it, from the recorded graph.

Nothing is known of any network beforehand: forward equations and local rules are written by the
rules of the operations, the equations backward by the chain rule along the graph. Every formula is
evaluated on the recorded numbers before it is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from tinygrad_bp.arguments import choice, flag, mapping, shown, wrong_kind
from tinygrad_bp.array_rules import ARRAY_RULES
from tinygrad_bp.explain import formulas as f, symbolic
from tinygrad_bp.explain.algebra import simplified
from tinygrad_bp.explain.derivation import Derivation
from tinygrad_bp.explain.elements import element_equations
from tinygrad_bp.explain.equations import Equation, error_in, is_finite, numbers_of
from tinygrad_bp.explain.evaluating import Numbers, evaluate
from tinygrad_bp.explain.formulas import Atom, Expr, Partial, Symbol
from tinygrad_bp.explain.operations import is_of_each_vector
from tinygrad_bp.explain.pieces import PART, PLACED
from tinygrad_bp.explain.reading import Reading, is_trivial
from tinygrad_bp.explain.recursion import absolute, grouped, relative, summed_over_time
from tinygrad_bp.explain.structural import jacobian_of_softmax
from tinygrad_bp.explain.writing import plain
from tinygrad_bp.graph import Node
from tinygrad_bp.rules import Rule
from tinygrad_bp.scalars import Values

Convention = Literal["columns", "rows"]
MOST_EQUATIONS = 200
LONGEST_FORM = 34  # signs in what an equation is rewritten to
LONGEST_PART = 25  # signs in what is put into another equation


def derive(
    loss: Any,
    with_respect_to: Any = None,
    *,
    symbols: Mapping[Any, str] | None = None,
    convention: Convention = "columns",
    indices: Literal["nielsen", "ng"] | None = None,
    numbers: bool = False,
) -> Derivation:
    """The derivation of the gradients of `loss`, step by step, from the graph that computed it.

    At each named node there is the forward equation and the one backward, `δ² = (W³ᵀ δ³) ⊙ σ'(z²)`,
    the local rules and what they become, and the gradients of the parameters. What lies between
    named nodes is folded into their formulas. Equations that are the same at every time step are
    stated once, for step t. Each formula has been evaluated on the recorded numbers, and gives the
    gradients of the sweep; one that does not is never shown.

    Args:
        loss: a single number that was computed: a Tensor of size 1 or a Value.
        with_respect_to: a node, its name, or several; all tracked leaves, if not given.
        symbols: what nodes, or names, are to be written as: `{W: "Θ"}`, `{"W1": "Θ_1"}`.
        convention: "columns", as in textbooks: `z = W a + b` for one sample, where W is the
            transpose of the code's W, and Σ_i adds up the samples; or "rows", the code's own
            arrays: `z = a W + b`.
        indices: state each equation element by element as well: "nielsen", `∂C/∂W_jk = δ_j a_k`
            with W_jk from k to j (Nielsen 2015, chapter 2, BP1 to BP4); or "ng", `Θ_ij` to i from j
            with layers as Θ⁽²⁾ (Ng, Machine Learning, week 5).
        numbers: show what each equation comes to.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: loss is no single number, requires no gradient, or is a leaf; it does not depend
            on what is asked for; or the derivation would be too long to read.
        ArithmeticError: a formula does not give the recorded number. That is a defect of a rule,
            and the message says whose.

    Example:
        >>> w, x = tb.Value(0.5, "w"), tb.Value(2.0, "x", requires_grad=False)
        >>> print(derive(tb.tanh(w * x)))
        Derivation of ∂L/∂w
        <BLANKLINE>
        Forward
          L = tanh(w x)
        <BLANKLINE>
        Local derivatives
          tanh′(x) = 1 − tanh(x)²
        <BLANKLINE>
        Parameters
          ∂L/∂w = tanh′(w x) x = (1 − L²) x
    """
    _check_options(loss, convention, indices)
    flag(numbers, "numbers")
    asked = {} if symbols is None else dict(mapping(symbols, "symbols", "names by node"))
    for text in asked.values():
        if not isinstance(text, str) or not text.strip():
            raise wrong_kind("symbols", "a name", text)
    reading = Reading(loss, convention == "columns", asked)
    work = _Derivation(reading, _targets(reading, with_respect_to))
    _check_length(work.fewest())
    equations = work.equations()
    if indices is not None:
        equations += element_equations(equations, reading.numbers, indices)
    _check_length(len(equations))
    return Derivation(
        equations,
        notes=work.notes(indices == "ng"),
        numbers=reading.numbers,
        targets=tuple(reading.delta[n] for n in reading.order if n in work.targets),
        ng=indices == "ng",
        show_numbers=numbers,
    )


def _check_length(count: int) -> None:
    if count > MOST_EQUATIONS:
        raise ValueError(
            f"loss: its derivation takes at least {count} equations, and {MOST_EQUATIONS} can be "
            "read at most: choose with_respect_to, or use Tensors in the place of Values"
        )


def _check_options(loss: Any, convention: Any, indices: Any) -> None:
    if isinstance(loss, Values):
        raise TypeError("loss: expected a Value or a Tensor, got Values; sum them to one Value")
    if not isinstance(loss, Node):
        raise wrong_kind("loss", "a Value or a Tensor", loss)
    if getattr(loss, "size", 1) != 1:
        raise ValueError(f"loss: expected a single number, got shape {loss.shape}")  # type: ignore[attr-defined]
    if loss.is_leaf:
        raise ValueError(
            "loss: nothing was computed: it is a leaf, or requires no gradient; got " + shown(loss)
        )
    choice(convention, "convention", ("columns", "rows"))
    choice(indices, "indices", (None, "nielsen", "ng"))
    if indices and convention == "rows":
        raise ValueError("indices: these are conventions for columns; rows are the code's own")


def _targets(reading: Reading, asked: Any) -> set[Node]:
    """The named nodes that gradients are wanted of."""
    if asked is None:
        return {node for node in reading.order if node.is_leaf}
    found: set[Node] = set()
    for x in _each(asked):
        if isinstance(x, str):
            nodes = [n for n, s in reading.symbol.items() if x in _names(reading, n, s)]
        elif isinstance(x, Node):
            nodes = [n for n in reading.order if n is x]
            if nodes and x not in reading.symbol:
                raise ValueError("with_respect_to: this inner node has no name; give it a label")
        else:
            raise wrong_kind("with_respect_to", "nodes or their names", x)
        if not nodes:
            what = "" if isinstance(x, str) else "one of these nodes, "
            raise ValueError(f"with_respect_to: the loss does not depend on {what}{shown(x)}")
        found.update(nodes)
    return found


def _each(asked: Any) -> Iterator[Any]:
    if isinstance(asked, Values):
        yield from asked.flat
    elif isinstance(asked, (list, tuple, set, frozenset)):
        for x in asked:
            yield from _each(x)
    else:
        yield asked


def _names(reading: Reading, node: Node, symbol: Symbol) -> set[str]:
    place = reading.names.places[node]
    return {place.name, place.symbol, symbol.name}


class _Derivation:
    """The equations of a graph, under way."""

    def __init__(self, reading: Reading, targets: set[Node]) -> None:
        self.reading, self.targets = reading, targets
        self.on_the_way: set[Node] = set()
        for node in reading.order:
            if node in targets or any(p in self.on_the_way for p in node.parents):
                self.on_the_way.add(node)
        self.states = self._states()
        self.base: dict[Atom, Expr] = {}  # what flows back, by primary deltas alone
        self.finished: dict[Any, tuple[Expr, ...]] = {}
        self.shown: list[Expr] = []
        self.totals: dict[Expr, None] = {}  # sums that were found to be 1

    def _states(self) -> set[Any]:
        """Symbols that a later time step is computed from."""
        states = set()
        for symbol, _, formula in self.reading.told:
            for atom in f.atoms(formula):
                steps = atom.step, symbol.step
                if all(isinstance(step, int) for step in steps) and steps[0] < steps[1]:  # type: ignore[operator]
                    states.add(atom.key)
        return states

    def fewest(self) -> int:
        """How many equations there will be at least, those of all time steps being one."""
        forward = {symbol.key for symbol, _, _ in self.reading.told}
        symbols = self.reading.symbol
        return len(forward) + len({symbols[n].key for n in self.on_the_way if n in symbols}) - 1

    def equations(self) -> list[Equation]:
        """All of them, in the order of a textbook."""
        forward = [self._forward(*told) for told in self.reading.told]
        backward, parameters = [], []
        for node in reversed(self.reading.order):
            if node not in self.reading.symbol or node is self.reading.loss:
                continue
            if node in self.on_the_way:
                equation = self._backward(node)
                if node.is_leaf:
                    parameters.append(equation)
                elif not is_trivial(self.reading.back[node]) or node.label:
                    backward.append(equation)
        notation = self._notation(backward)
        rules = [*self._rules(backward + parameters), *self._jacobians()]
        backward = _with_boundaries(grouped(backward))
        found = [*grouped(forward), *grouped(notation), *grouped(rules), *backward]
        found += grouped(parameters[::-1])
        self.shown = [form for equation in found for form in equation.forms]
        return [self._counted(equation) for equation in found]

    # --- one equation ---------------------------------------------------------------------------

    def _forward(self, symbol: Symbol, node: Node | None, formula: Expr) -> Equation:
        if symbol.step is None:
            formula = summed_over_time(formula)
        return self._checked(Equation("forward", symbol, (formula,)))

    def _backward(self, node: Node) -> Equation:
        delta, formula = self.reading.delta[node], self.reading.back[node]
        forms = self._forms(formula, delta.step)  # type: ignore[arg-type]
        if node.is_leaf and not self.reading.scalar:
            forms = [forms[0], min(forms[1:] or forms, key=lambda x: (_primed(x), self._rank(x)))]
        kind = "parameter" if node.is_leaf else "backward"
        equation = self._checked(Equation(kind, delta, tuple(dict.fromkeys(forms))))
        if not node.is_leaf and not self._is_primary(delta):
            shortest = min(equation.forms, key=self._rank)
            if f.extent(shortest) <= LONGEST_PART and all(map(self._is_primary, _deltas(shortest))):
                self.base[delta] = shortest
        return equation

    def _forms(self, formula: Expr, step: int | None) -> list[Expr]:
        """What a formula is equal to, step by step.

        As derived; with what flows back to the nodes between put in; with the local rules written
        out; and simplified. Forms that would be too long to read are left out.
        """
        put_in = f.transformed(formula, lambda x: self.base.get(x, x))  # type: ignore[call-overload]
        if step is None:
            formula, put_in = summed_over_time(formula), summed_over_time(put_in)
        out, short = self._finished(put_in, step)
        if f.extent(put_in) > LONGEST_FORM:
            put_in, out = formula, self._finished(formula, step)[0]
        forms = [formula, put_in, out, short]
        return [x for i, x in enumerate(forms) if not i or f.extent(x) <= LONGEST_FORM]

    def _is_primary(self, delta: Atom) -> bool:
        """Whether a derivation is stated in terms of it: δ of weighted inputs, and of states."""
        if isinstance(delta, Partial):
            return delta.by.key in self.states
        return delta.step is None or self.reading.by[delta.key] in self.states

    def _rank(self, form: Expr) -> tuple[bool, int]:
        return not all(map(self._is_primary, _deltas(form))), f.extent(form)

    def _finished(self, form: Expr, step: int | None) -> list[Expr]:
        """The form with local rules written out, and that simplified. Done once for like steps."""
        key = form if step is None else relative(form, step)
        if key not in self.finished:
            out = symbolic.written_out(form)
            short = simplified(out, self._is_one)
            both = (out, short)
            self.finished[key] = both if step is None else tuple(relative(x, step) for x in both)
        found = self.finished[key]
        return [x if step is None else absolute(x, step) for x in found]

    def _is_one(self, total: Expr) -> bool:
        try:
            found = bool(np.allclose(evaluate(total, self.reading.numbers), 1.0, rtol=0, atol=1e-6))
        except ValueError:  # it is about a time step t
            return False
        if found:
            self.totals[_timeless(total)] = None
        return found

    def _checked(self, equation: Equation) -> Equation:
        """The equation with the forms that reproduce the recorded number; the first one has to."""
        good, numbers = [], self.reading.numbers
        for form in equation.forms:
            if not error_in(form, equation.lhs, numbers):
                good.append(form)
            elif not (is_finite(form, numbers) and is_finite(equation.lhs, numbers)):
                self.reading.note("Some numbers are infinite or undefined: nothing checks these.")
                good += [form] if form is equation.forms[0] else []
            elif form is equation.forms[0]:
                raise ArithmeticError(
                    f"the formula of {plain(equation.lhs)} does not give the recorded number: "
                    f"{_rules_in(form)} has one that does not fit, or a hook changes a gradient"
                )
            else:
                self.reading.note(
                    "A form is left out where rounding would show: numbers there are too extreme."
                )
        return replace(equation, forms=tuple(good))

    def _counted(self, equation: Equation) -> Equation:
        """The equation with its numbers, checked once more if it is stated for all time steps."""
        if equation.kind == "rule":
            return equation
        numbers = self.reading.numbers
        for t in equation.times if equation.steps else ():
            for form in equation.forms:
                if error_in(form, equation.lhs, numbers, t) and is_finite(form, numbers, t):
                    raise ArithmeticError(
                        f"the formula of {plain(equation.lhs)} does not hold at t = {t}, although "
                        "it holds as derived: a defect of the recognition of time steps"
                    )
        return replace(equation, numbers=numbers_of(equation, numbers))

    # --- what is said once ----------------------------------------------------------------------

    def _notation(self, backward: Sequence[Equation]) -> list[Equation]:
        """What each δ is the derivative by."""
        shown = {equation.lhs for equation in backward}
        loss = self.reading.symbol[self.reading.loss]
        found = []
        for node, delta in self.reading.delta.items():
            if isinstance(delta, Symbol) and delta in shown:
                partial = Partial(loss, self.reading.symbol[node])
                self.reading.of[partial.key, partial.step] = self.reading.of[delta.key, delta.step]
                found.append(Equation("notation", delta, (partial,)))
        return found

    def _rules(self, equations: Iterable[Equation]) -> Iterator[Equation]:
        """The functions whose derivative is shown as σ', and that derivative."""
        met: dict[Rule, f.Derivative] = {}
        for equation in equations:
            for form in equation.forms:
                for part in f.parts(form):
                    if isinstance(part, f.Derivative):
                        met.setdefault(part.rule, part)
        for rule, part in met.items():
            yield from _rule_equations(rule, part)

    def _jacobians(self) -> Iterator[Equation]:
        """Of a softmax over a vector: diag(a) - a aᵀ."""
        reading = self.reading
        for node, symbol in reading.symbol.items():
            if node.rule is not ARRAY_RULES["softmax"] or node not in self.on_the_way:
                continue
            z = reading.operation[node].operands[0].expr
            if not isinstance(z, Symbol) or len(reading.view(node).core) != 1:
                continue
            a = node.data.reshape(-1, node.shape[-1])  # type: ignore[attr-defined]
            stack = np.einsum("ij,jk->ijk", a, np.eye(a.shape[-1])) - np.einsum("ij,ik->ijk", a, a)
            size = (a.shape[-1],) * 2
            jacobian = _Jacobian(symbol, replace(z, size=size))
            matrix = stack if reading.view(node).stacked else stack[0]
            reading.of[jacobian.key, jacobian.step] = matrix
            yield self._checked(Equation("rule", jacobian, (jacobian_of_softmax(symbol),)))

    def notes(self, ng: bool) -> list[str]:
        """What a reader must know before the equations."""
        reading = self.reading
        notes = []
        if reading.columns and not reading.scalar:
            notes.append("Columns, as in textbooks: a vector is a column." + self._transposed(ng))
            if reading.samples > 1:
                sign, m = "Σ_s" if ng else "Σᵢ", reading.samples
                notes.append(
                    f"Each equation is that of one sample; {sign} adds up the m = {m} samples, "
                    "the rows of the code's arrays. A factor 1/m of the loss is part of δ."
                )
        elif not reading.scalar:
            notes.append(
                "Rows, as in the code: arrays as they are there, a vector is a row, and a batch "
                "has a sample in each row."
            )
        if not reading.scalar:
            notes.append("⊙, quotients, powers and functions are taken element by element.")
        notes += self._softmax_in_words()
        written = [x for form in self.shown for x in f.parts(form)]
        if any(isinstance(x, f.Ones) for x in written):
            notes.append("𝟏 is a vector, or a matrix, of ones: a product with it is a sum.")
        names = {x.name for x in written if isinstance(x, f.Apply)}
        if names & {PART, PLACED}:
            notes.append("v[a:b] are the elements a to b − 1 of v, counted from 0, as in the code.")
        if PLACED in names:
            notes.append("place[a:b](v) has v there, and zeros elsewhere.")
        notes += reading.notes
        for total in self.totals:
            notes.append(
                f"{plain(total, ng=ng)} = 1 was found on the numbers, and used to simplify."
            )
        return notes

    def _softmax_in_words(self) -> list[str]:
        """What the softmax of a matrix is, and its derivative."""
        softmaxes = [n for n in self.on_the_way if n.rule is ARRAY_RULES["softmax"]]
        if not any(is_of_each_vector(self.reading.operation[n]) for n in softmaxes):
            return []
        each = "column" if self.reading.columns else "row"
        return [
            f"softmax is taken of each {each} on its own. Its derivative there is the matrix "
            "diag(a) − a aᵀ, a being the result as a column; it is written out in what flows back."
        ]

    def _transposed(self, ng: bool) -> str:
        """Which of the code's arrays are printed transposed."""
        reading = self.reading
        matrices = [n for n in reading.symbol if n.is_leaf and len(reading.view(n).core) > 1]
        names = list(dict.fromkeys(plain(reading.symbol[n], ng=ng) for n in matrices))
        if not names:
            return ""
        if len(names) == 1:
            return f" {names[0]} stands for the transpose of the code's array."
        *first, last = names
        return f" {', '.join(first)} and {last} stand for the transposes of the code's arrays."


class _Jacobian(Partial):
    """The matrix of derivatives of one vector by another."""

    __slots__ = ()

    @property
    def key(self) -> tuple[Any, ...]:
        return ("J", *self.top.key, *self.by.key)


def _primed(x: Expr) -> bool:
    """Whether it has a σ' that could be written out."""
    return any(isinstance(part, f.Derivative) for part in f.parts(x))


def _timeless(x: Expr) -> Expr:
    """A formula without time steps: it is the same at all of them."""
    return f.transformed(
        x, lambda part: f.at_step(part, None) if isinstance(part, (Symbol, Partial)) else part
    )


def _deltas(form: Expr) -> list[Atom]:
    return [a for a in f.atoms(form) if isinstance(a, Partial) or a.name == "δ"]


def _rules_in(form: Expr) -> str:
    names = {x.rule.name for x in f.parts(form) if isinstance(x, f.Function)}
    names |= {x.name for x in f.parts(form) if isinstance(x, f.Apply)}
    return ", ".join(sorted(names)) or "an operation"


def _rule_equations(rule: Rule, part: f.Derivative) -> Iterator[Equation]:
    """`σ(x) = 1 / (1 + exp(-x))` and `σ'(x) = σ(x) (1 - σ(x))`, tried on numbers of its domain."""
    x = Symbol("x")
    arguments = (x, *part.arguments[1:])
    function = f.Function(rule, arguments)
    of: dict[Any, Any] = {}
    low, high = rule.domain[0]
    kinds: list[tuple[Expr, Expr | None]] = [
        (function, symbolic.definition(rule, *arguments)),
        (
            f.Derivative(rule, arguments, 0, function),
            symbolic.textbook(rule, 0, arguments, function),
        ),
    ]
    for lhs, written in kinds:
        if written is None or written == lhs:
            continue
        for point in np.linspace(low, high, 5):
            of[x.key, None] = np.full((1, 1), point)
            if error_in(written, lhs, Numbers(of)):
                break
        else:
            yield Equation("rule", lhs, (written,))


def _with_boundaries(equations: list[Equation]) -> list[Equation]:
    """The equations with those at the last time step, that differ from the rest, marked."""
    last: dict[Any, int] = {}
    several: set[Any] = set()
    for e in equations:
        end = e.steps[1] if e.steps else e.step
        if end is not None and isinstance(e.lhs, (Symbol, Partial)):
            key = e.lhs.key
            several |= {key} if key in last or e.steps else set()
            last[key] = max(last.get(key, end), end)
    return [
        replace(e, kind="boundary")
        if isinstance(e.lhs, (Symbol, Partial))
        and e.step is not None
        and e.lhs.key in several
        and last[e.lhs.key] == e.step
        else e
        for e in equations
    ]
