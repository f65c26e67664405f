"""The symbols of a derivation: what each node of a graph is written as.

They are the program's own labels: `W1` is written W¹, `h(3)` keeps its time step. A loss without a
name is C, or L where there are time steps, and its share of step t is L(t). An activation without a
name, and what it is applied to, are a and z. A user can give every symbol.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tinygrad_bp.array_rules import ARRAY_RULES
from tinygrad_bp.explain.formulas import Symbol
from tinygrad_bp.explain.naming import Place, place_of
from tinygrad_bp.explain.symbolic import PRIMED
from tinygrad_bp.graph import Node
from tinygrad_bp.rules import RULES, Rule
from tinygrad_bp.text import clean

_NUMBERED = re.compile(r"^(.*?[^\d])(\d+)$", re.DOTALL)
_SPREADING = {RULES[name] for name in ("add", "subtract")}  # what a loss is added up by
_SCALING = {RULES[name] for name in ("multiply", "divide", "negative", "positive")}
_OF_LOSSES = {RULES["softplus"], RULES["log_sigmoid"]}


def parsed(text: str, layered: bool) -> Symbol:
    """A name as it is written: `W_hh` is W with an index; `W1` is W¹ of layer 1, or else W₁."""
    text = "δ′" + text[1:] if text.startswith("δ") else text  # δ is what flows back
    name, _, below = text.partition("_")
    if name and below:
        return Symbol(name, sub=below)
    number = _NUMBERED.match(text)
    if number is None:
        return Symbol(text)
    return Symbol(number[1], sup=number[2]) if layered else Symbol(number[1], sub=number[2])


class Symbols:
    """What nodes are called.

    Attributes:
        of: the symbol of each node that has one from the start.
        step: the time step of each node: its own, or the latest that it was computed from.
        taken: the letters that are in use.
        before: the symbols of initial states, as operands `(node, operand number)`.
    """

    def __init__(
        self, loss: Node, order: Sequence[Node], asked: Mapping[Any, str], scalar: bool
    ) -> None:
        self.loss, self.order, self.scalar = loss, order, scalar
        self.asked = {clean(k) if isinstance(k, str) else k: v for k, v in asked.items()}
        self.met: set[Any] = set()
        self.places = {node: place_of(node) for node in order}
        self.step = self._steps()
        self.of: dict[Node, Symbol] = {}
        self._own_names()
        self._of_unnamed()
        self.taken = set(self._labels_of_constants()) | {s.name for s in self.of.values()}
        self._of_losses()
        self._tell_twins_apart()
        self.taken |= {symbol.name for symbol in self.of.values()}
        self.before = dict(self._initial_states())

    def check_asked(self) -> None:
        """Raise ValueError where the user named something that there is not."""
        unknown = [key for key in self.asked if key not in self.met]
        if unknown:
            what = repr(unknown[0]) if isinstance(unknown[0], str) else "a node"
            names = sorted({str(p.symbol) for p in self.places.values() if p.symbol})
            known = ", ".join(names[:12])
            raise ValueError(f"symbols: {what} is not in this graph; its names are {known}")

    def wanted(self, name: str) -> Symbol | None:
        """What the user wants a name to be written as."""
        if name not in self.asked:
            return None
        self.met.add(name)
        return parsed(clean(self.asked[name]), not self.scalar)

    def free(self, *names: str) -> str:
        """The first of some names that is not taken."""
        return next((name for name in names if name not in self.taken), names[-1] * 2)

    # --- from the program -----------------------------------------------------------------------

    def _steps(self) -> dict[Node, int | None]:
        steps: dict[Node, int | None] = {}
        for node in self.order:
            step = self.places[node].step
            if step is None and not node.is_leaf:
                earlier = [steps[p] for p in node.parents]
                step = max((s for s in earlier if s is not None), default=None)
            steps[node] = step
        return steps

    def _own_names(self) -> None:
        for node in self.order:
            place = self.places[node]
            if place.symbol or node in self.asked:
                self.of[node] = self._named(node, place)
            elif node.is_leaf:
                self.of[node] = Symbol("x" if self.scalar else "θ")

    def _labels_of_constants(self) -> Iterator[str]:
        for node in self.order:
            for x in node.operands:
                if isinstance(x, Node) and not x.requires_grad and x.label:
                    yield parsed(place_of(x).symbol, not self.scalar).name

    def _named(self, node: Node, place: Place) -> Symbol:
        layered = not self.scalar or place.element is not None
        own = parsed(place.symbol, layered) if place.symbol else Symbol("v")
        symbol = own
        for key in (node, place.name, place.symbol):
            if key in self.asked:
                self.met.add(key)
                symbol = parsed(clean(self.asked[key]), layered)
                break
        else:
            if own.name in self.asked:
                self.met.add(own.name)
                symbol = replace(own, name=clean(self.asked[own.name]))
        if place.element is not None:
            below = ",".join(map(str, place.element))
            symbol = replace(symbol, sub=f"{symbol.sub},{below}" if symbol.sub else below)
        return replace(symbol, step=place.step)

    # --- for what has no name -------------------------------------------------------------------

    def _of_unnamed(self) -> None:
        """Activations and what they are applied to, a and z; z_i, if the activation is called i."""
        count: Counter[int | None] = Counter()
        own = {symbol.name for symbol in self.of.values()}
        above = next(name for name in ("a", "u", "g", "aa") if name not in own)
        below_it = next(name for name in ("z", "s", "q", "zz") if name not in own)
        for node in [] if self.scalar else self.order:
            z = node.x
            if node.is_leaf or not _is_activation(node) or not isinstance(z, Node):
                continue
            if z.is_leaf or z in self.of:
                continue
            a = self.of.get(node)
            if a is None:
                step = self.step[node]
                count[step] += 1
                layer = str(count[step]) if step is None else ""
                a = self.of[node] = Symbol(above, sup=layer, step=step)
                self.of[z] = replace(a, name=below_it)
            else:
                below = "" if a.sup else f"{a.name},{a.sub}" if a.sub else a.name
                self.of[z] = Symbol("z", sup=a.sup, sub=below, step=a.step)

    def _of_losses(self) -> None:
        timed = any(symbol.step is not None for symbol in self.of.values())
        if self.loss not in self.of:
            name = self.free(*("LEJ" if timed or self.scalar else "CEJ"))
            self.of[self.loss] = self.wanted(name) or Symbol(name)
        symbol = self.of[self.loss]
        terms = list(self._terms())
        steps = [self.step[term] for term in terms]
        if len(terms) < 2 or symbol.step is not None:
            return
        for term, step in zip(terms, steps, strict=True):
            if step is not None and steps.count(step) == 1 and term not in self.of:
                self.of[term] = replace(symbol, step=step)

    def _terms(self) -> Iterator[Node]:
        """What the loss is the sum of, from the first on."""
        pending = [self.loss]
        while pending:
            node = pending.pop()
            inner = node is self.loss or node not in self.of
            if inner and node.rule in _SPREADING:
                pending += reversed(node.parents)
            elif inner and node.rule in _SCALING and len(node.parents) == 1:
                pending += node.parents
            elif not node.is_leaf:
                yield node

    # --- one symbol, one thing ------------------------------------------------------------------

    def _tell_twins_apart(self) -> None:
        """Number nodes that have the same symbol: in their order, at every time step anew."""
        met = Counter((symbol.key, symbol.step) for symbol in self.of.values())
        twins = {key for (key, _), count in met.items() if count > 1}
        if not self.scalar:
            twins.add(Symbol("m").key)  # the number of samples
        number: Counter[Any] = Counter()
        for node in self.order:
            symbol = self.of.get(node)
            if symbol is None or symbol.key not in twins:
                continue
            number[symbol.key, symbol.step] += 1
            n = str(number[symbol.key, symbol.step])
            if self.scalar or symbol.sup:
                symbol = replace(symbol, sub=f"{symbol.sub},{n}" if symbol.sub else n)
            else:
                symbol = replace(symbol, sup=n)
            self.of[node] = symbol

    def _initial_states(self) -> Iterator[tuple[tuple[Node, int], Symbol]]:
        """Operands of the first step that stand where later steps have a state.

        A leaf that stands there, such as a state to be learned, is renamed at once.
        """
        by_symbol = {(s.key, s.step): node for node, s in self.of.items()}
        for node, symbol in list(self.of.items()):
            if symbol.step is None or node.is_leaf:
                continue
            later = by_symbol.get((symbol.key, symbol.step + 1))  # type: ignore[operator]
            earlier = by_symbol.get((symbol.key, symbol.step - 1))  # type: ignore[operator]
            if later is not None and earlier is None:
                yield from self._paired(node, later, int(symbol.step))  # type: ignore[arg-type]

    def _paired(self, node: Node, later: Node, step: int) -> Iterator[tuple[Any, Symbol]]:
        pairs = [(node, later)]
        while pairs:
            a, b = pairs.pop()
            if a.rule is not b.rule:
                continue
            for k, (x, y) in enumerate(zip(a.operands, b.operands, strict=False)):
                state = self.of.get(y) if isinstance(y, Node) else None
                if state is not None and state.step == step and not y.is_leaf:
                    symbol = replace(state, step=step - 1)
                    if isinstance(x, Node) and x.requires_grad:
                        if x.is_leaf and x not in self.asked:
                            self.of[x] = symbol
                    else:
                        yield (a, k), symbol
                elif state is None and self._is_folded(x) and self._is_folded(y):
                    pairs.append((x, y))

    def _is_folded(self, x: Any) -> bool:
        return isinstance(x, Node) and not x.is_leaf and x not in self.of


def _is_activation(node: Node) -> bool:
    rule = node.rule
    if rule is ARRAY_RULES["softmax"]:
        return True
    if not isinstance(rule, Rule) or rule.arity - len(rule.defaults) != 1:
        return False
    return (rule in PRIMED and rule not in _OF_LOSSES) or RULES.get(rule.name) is not rule
