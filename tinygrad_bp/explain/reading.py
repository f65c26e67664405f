"""A recorded graph, read as formulas: what each node is, and what flows back to it.

Named nodes are symbols; what lies between them, unnamed, is folded into the formula of the named
one. An unnamed node that is used twice, or whose formula would be too long to read, gets a name.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tinygrad_bp.array_rules import ARRAY_RULES
from tinygrad_bp.explain import formulas as f
from tinygrad_bp.explain.batches import arguments_of, place_in, shape_of, with_samples
from tinygrad_bp.explain.evaluating import Numbers, View
from tinygrad_bp.explain.formulas import Atom, Expr, Partial, Symbol
from tinygrad_bp.explain.naming import place_of
from tinygrad_bp.explain.operations import Operand, Operation
from tinygrad_bp.explain.pieces import added
from tinygrad_bp.explain.recursion import summed_over_time
from tinygrad_bp.explain.structural import forward, pullback, softmax_of
from tinygrad_bp.explain.symbols import Symbols, parsed
from tinygrad_bp.graph import Node, sweep, topological_order
from tinygrad_bp.rules import RULES
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.text import clean

LONGEST = 40  # signs in a formula that is folded into another
MOST_NODES = 20_000
_SOFTMAX, _LOG_SOFTMAX = ARRAY_RULES["softmax"], ARRAY_RULES["log_softmax"]


class Told(NamedTuple):
    """An equation of the forward pass: a symbol, the node it is of (if any), and its formula."""

    symbol: Symbol
    node: Node | None
    formula: Expr


class Reading:
    """The formulas of a graph.

    Args:
        loss: the node that is differentiated; a single number.
        columns: whether vectors are columns, as in textbooks.
        asked: what the user calls nodes, or names.

    Attributes:
        order: the nodes, every one after its operands.
        symbol: of each named node.
        told: the equations of the forward pass, in order.
        delta: for each named node the symbol of what flows back to it.
        by: for each of these (by its key) the key of what it is the derivative by.
        back: for each named node what flows back to it, as a formula.
        numbers: what every symbol stands for.
        notes: what a reader must know.
    """

    def __init__(self, loss: Node, columns: bool, asked: Mapping[Any, str]) -> None:
        self.loss, self.columns = loss, columns
        self.order = topological_order(loss)
        if len(self.order) > MOST_NODES:
            or_arrays = "" if isinstance(loss, Tensor) else ", or Tensors in the place of Values"
            raise ValueError(
                f"loss: its graph has {len(self.order):,} nodes, and derivations are written for "
                f"at most {MOST_NODES:,}: take fewer steps{or_arrays}"
            )
        self.scalar = not isinstance(loss, Tensor)
        self.notes: list[str] = []
        self.uses = Counter(p for node in self.order for p in node.parents)
        # Rows, as in the code, are the whole batch at once; columns are those of one sample.
        whole = self.scalar or not columns
        self.stacked, self.samples = (set(), 1) if whole else with_samples(self.order)
        self.names = Symbols(loss, self.order, asked, self.scalar)
        self._taken = {(s.key, s.step) for s in self.names.of.values()}
        self.symbol: dict[Node, Symbol] = {}
        self.of: dict[tuple[Any, f.Step], Any] = {}
        single = any(getattr(node, "dtype", None) == np.float32 for node in self.order)
        self.numbers = Numbers(self.of, self.samples, 2e-3 if single else 1e-7)
        self.of[Symbol("m").key, None] = np.full((1, 1), float(self.samples))
        self.told: list[Told] = []
        self.ref: dict[Node, Expr] = {}
        self.operation: dict[Node, Operation] = {}
        self._roles: dict[tuple[str, f.Step], list[tuple[Expr, Any]]] = defaultdict(list)
        self._unnamed: Counter[f.Step] = Counter()
        self._in_loss, self._owner_step = self._owners()
        self._forward()
        self.names.check_asked()
        self.delta: dict[Node, Atom] = {}
        self.by: dict[Any, Any] = {}
        self.back: dict[Node, Expr] = {}
        self._backward()

    # --- symbols and what they stand for --------------------------------------------------------

    def view(self, place: Any) -> View:
        """How the array of a node, or of a constant `(node, operand number)`, is written."""
        x = place if isinstance(place, Node) else place[0].operands[place[1]]
        return View(shape_of(x), place in self.stacked, self.columns)

    def _symbol(self, symbol: Symbol, view: View, array: Any) -> Symbol:
        symbol = replace(symbol, size=view.shape, per_sample=view.stacked)
        self.of[symbol.key, symbol.step] = view.matrix(array)
        return symbol

    def _owners(self) -> tuple[set[Node], dict[Node, f.Step]]:
        """The nodes that are written in the loss's own formula, and the step each is written at."""
        of = self.names.of
        losses = {self.loss} | {n for n, s in of.items() if s.key == of[self.loss].key}
        in_loss: set[Node] = set()
        step: dict[Node, f.Step] = {}
        for node in reversed(self.order):
            if node in of:
                step[node] = of[node].step
                if node in losses:
                    in_loss.add(node)
            elif self.names.places[node].step is not None:
                step[node] = self.names.places[node].step
            for parent in node.parents:
                if parent not in of:
                    step.setdefault(parent, step[node])
                    if node in in_loss:
                        in_loss.add(parent)
        return in_loss, step

    # --- forward --------------------------------------------------------------------------------

    def _forward(self) -> None:
        for node in self.order:
            view = self.view(node)
            if node.is_leaf:
                self.symbol[node] = self._symbol(self.names.of[node], view, data_of(node))
                self.ref[node] = self.symbol[node]
                continue
            operation = self._operation_of(node, view)
            formula = self._abbreviated(node, operation) or forward(operation)
            symbol_or_formula = self._referred(node, formula, view)
            self.ref[node] = symbol_or_formula
            self.operation[node] = operation._replace(result=Operand(symbol_or_formula, view))

    def _operation_of(self, node: Node, view: View) -> Operation:
        operands = tuple(
            Operand(self._operand(node, k, x), self.view(place_in(node, k)))
            for k, x in enumerate(node.operands)
        )
        if _holds_a_logarithm(node):
            least = float(node.operands[1])
            self.note(f"The hold of a logarithm at {least:g} is left out: it is not reached.")
            return Operation(RULES["positive"], operands[:1], Operand(f.ONE, view), (), {})
        return Operation(node.rule, operands, Operand(f.ONE, view), *arguments_of(node))

    def _operand(self, node: Node, k: int, x: Any) -> Expr:
        return self.ref[x] if _is_tracked(x) else self._constant(node, k, x)

    def _abbreviated(self, node: Node, op: Operation) -> Expr | None:
        """The logarithm of ŷ, for a softmax that is taken together with its logarithm."""
        operand = op.operands[0] if op.operands else None
        if node.rule is not _LOG_SOFTMAX or node in self.names.of:
            return None
        if operand is None or not isinstance(operand.expr, Symbol):
            return None
        name = self.names.free("ŷ", "p")
        symbol = self.names.wanted(name) or Symbol(name)
        symbol = replace(symbol, step=self._owner_step.get(node))
        if (symbol.key, symbol.step) in self.of:
            return None
        symbol = self._symbol(symbol, op.result.view, np.exp(data_of(node)))
        self.told.append(Told(symbol, None, softmax_of(op)))
        self.note(
            f"{name} is an abbreviation: the graph has the logarithm of the softmax in one "
            "operation (the fused form)."
        )
        return f.Function(RULES["log"], (symbol,))

    def _referred(self, node: Node, formula: Expr, view: View) -> Expr:
        """The symbol that stands for a node from now on, or its formula."""
        symbol = self.names.of.get(node)
        if symbol is None:
            shared = self.uses[node] > 1 and not isinstance(formula, (Symbol, f.Number))
            if not shared and self._is_readable(node, formula):
                return formula
            symbol = self._invented(node)
        symbol = self._symbol(symbol, view, data_of(node))
        self.symbol[node] = symbol
        self.told.append(Told(symbol, node, f.full(formula, view.shape)))
        return symbol

    def _is_readable(self, node: Node, formula: Expr) -> bool:
        """Whether a formula may be folded into another; the sum of all steps' losses may."""
        if node in self._in_loss and isinstance(formula, f.Sum):
            loss = self.names.of[self.loss].key
            if all(isinstance(part, Symbol) and part.key == loss for part in formula.parts):
                return True
            return f.extent(summed_over_time(formula)) <= LONGEST
        return f.extent(formula) <= LONGEST

    def _invented(self, node: Node) -> Symbol:
        step = self._owner_step.get(node)
        if step is None:
            step = self.names.step[node]
        self._unnamed[step] += 1
        n = str(self._unnamed[step])
        name = self.names.free("v", "u", "q")
        return Symbol(name, sub=n, step=step) if self.scalar else Symbol(name, sup=n, step=step)

    # --- constants ------------------------------------------------------------------------------

    def _constant(self, node: Node, k: int, x: Any) -> Expr:
        array = np.asarray(data_of(x) if isinstance(x, Node) else x, np.float64)
        label = clean(x.label) if isinstance(x, Node) else ""
        if not array.ndim and not label:
            return f.Number(float(array))
        view, step = self.view(place_in(node, k)), self._owner_step.get(node)
        symbol = self.names.before.get((node, k))
        if label and symbol is None:
            assert isinstance(x, Node)
            place = place_of(x)
            symbol = self.names.wanted(place.symbol) or parsed(place.symbol, not self.scalar)
            symbol = replace(symbol, step=step if place.step is None else place.step)
        if symbol is not None:
            known = self.of.get((symbol.key, symbol.step))
            if known is None and (symbol.key, symbol.step) not in self._taken:
                return self._symbol(symbol, view, array)
            if known is not None and np.array_equal(known, view.matrix(array), equal_nan=True):
                return self._symbol(symbol, view, array)
        return self._by_role(self._role(node, k), step, view, array)

    def _role(self, node: Node, k: int) -> str:
        matrix = self.columns and len(self.view(place_in(node, k)).core) > 1
        if node in self._in_loss:
            return self.names.free(*("YD" if matrix else "yd"))
        left = k == 0 and getattr(node.rule, "name", "") in ("matmul", "linear")
        if left:
            return self.names.free(*("XS" if matrix else "xs"))
        return self.names.free(*("KM" if matrix else "kq"))

    def _by_role(self, role: str, step: f.Step, view: View, array: Any) -> Expr:
        """A symbol for a constant: one that is known at this step, or that is 1 minus a known."""
        known = self._roles[role, step]
        for expr, other in known:
            if other.shape == array.shape and np.array_equal(other, array):
                return expr
            rounding = 1e-4 * self.numbers.tolerance
            if other.shape == array.shape and np.allclose(1.0 - other, array, 0.0, rounding):
                return f.add(f.ONE, f.negative(expr))
        symbol = self.names.wanted(role) or Symbol(role)
        if known:
            symbol = replace(symbol, sub=f"{symbol.sub}{len(known) + 1}")
        symbol = self._symbol(replace(symbol, step=step), view, array)
        known.append((symbol, array))
        return symbol

    # --- backward -------------------------------------------------------------------------------

    def _backward(self) -> None:
        gradient = {step.node: step.gradient for step in sweep(self.loss)}
        shares: dict[Node, list[Expr]] = defaultdict(list)
        for node in reversed(self.order):
            g = (
                f.ONE
                if node is self.loss
                else added(self._sorted(node, shares.pop(node)), self.view(node))
            )
            if node in self.symbol:
                view = self.view(node)
                delta = self.delta[node] = self._delta(node)
                self.by[delta.key] = self.symbol[node].key
                self.of[delta.key, delta.step] = view.matrix(gradient[node])
                self.back[node] = f.collected(f.full(g, view.shape))
                if not is_trivial(g):
                    g = delta
            operation = self.operation.get(node)
            for k, (x, local) in enumerate(zip(node.operands, node.locals, strict=True)):
                if local is not None and operation is not None:
                    shares[x].append(pullback(operation, k, g))

    def _sorted(self, node: Node, shares: list[Expr]) -> list[Expr]:
        """What comes from the same time step first, then what comes from later ones."""
        symbol = self.symbol.get(node)
        if symbol is None or symbol.step is None:
            return shares[::-1]
        return sorted(shares, key=_latest)

    def _delta(self, node: Node) -> Atom:
        """δ for weighted inputs and for what belongs to a time step, ∂C/∂a for all else."""
        symbol, loss = self.symbol[node], self.symbol[self.loss]
        if node.is_leaf or self.scalar or symbol.key == loss.key:
            return Partial(loss, symbol)
        if symbol.step is None and symbol.name != "z":
            return Partial(loss, symbol)
        plain = symbol.step is None and not symbol.sub
        below = "" if plain else f"{symbol.name},{symbol.sub}" if symbol.sub else symbol.name
        return replace(symbol, name="δ", sub=below)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def data_of(node: Any) -> Any:
    """The recorded numbers of a node."""
    return np.asarray(node.data)


def _is_tracked(x: Any) -> bool:
    return isinstance(x, Node) and x.requires_grad


def is_trivial(g: Expr) -> bool:
    """Whether a gradient is a mere number: 1, or 1/m."""
    return not g.shape and all(atom == Symbol("m") for atom in f.atoms(g))


def _latest(x: Expr) -> int:
    steps = [atom.step for atom in f.atoms(x) if isinstance(atom.step, int)]
    return max(steps, default=0)


def _holds_a_logarithm(node: Node) -> bool:
    """Whether it is max(log(x), a small number), and the logarithm is the larger throughout."""
    if node.rule is not RULES["maximum"]:
        return False
    x, least = node.operands
    if not isinstance(x, Node) or x.rule is not RULES["log"] or isinstance(least, Node):
        return False
    return np.ndim(least) == 0 and bool(np.all(data_of(x) > least))
