"""The backward sweep with a say at every edge: how a graph is run under another rule.

The engine's own sweep knows one rule, `contribution = local * gradient`. Here the same recorded
graph is walked with any other, to see what that would give. Nothing is written to a node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, NamedTuple

from tinygrad_bp import arrays, floats
from tinygrad_bp.arguments import out_of_range, wrong_kind
from tinygrad_bp.derivatives import Elementwise, Local, Structural, quiet
from tinygrad_bp.explain.naming import names_of
from tinygrad_bp.graph import Node, sweep
from tinygrad_bp.rules import Rule
from tinygrad_bp.tensor import Tensor

Flight = dict[Node, Any]
"""The gradient of every node that one reached."""

HandOn = Callable[[Node, int, Any, Any], Any]
"""What a node hands to an operand: of the node, which operand, the local derivative, the node's
gradient. None hands nothing."""

# Views of a parameter, which are taken once and then used in its place.
_VIEWS = {"transpose", "reshape", "astype", "positive"}
# Elementwise operations of arithmetic and of losses. All others of one operand are activations.
_ARITHMETIC = {
    "add", "subtract", "multiply", "divide", "negative", "positive", "power", "square", "sqrt",
    "absolute", "azmul", "exp", "log", "log1p", "expm1", "hypot", "logaddexp", "minimum", "where",
    "clip",
}  # fmt: skip


class Use(NamedTuple):
    """One place where a parameter is used, perhaps through a view of it such as its transpose.

    Attributes:
        node: what is computed from it.
        which: as which operand of that node.
        local: the derivative by that operand.
        views: the local derivatives from that operand back to the parameter.
    """

    node: Node
    which: int
    local: Any
    views: tuple[Any, ...] = ()

    def back(self, contribution: Any) -> Any:
        """A gradient of the operand, as one of the parameter."""
        for local in self.views:
            contribution = local * contribution
        return contribution

    def share(self, g: Any) -> Any:
        """What this use adds to the parameter's gradient, if the node's own gradient is g."""
        return self.back(self.local * g)

    @property
    def is_matrix(self) -> bool:
        """Whether the operand is a matrix that something is multiplied by from the left."""
        return self.node.rule.name in ("matmul", "linear") and self.which == 1


def loss_of(loss: Any, what: str = "loss") -> Any:
    """A tracked node of one number.

    Raises:
        TypeError: it is no node.
        ValueError: it has several numbers, or requires no gradient.
    """
    if not isinstance(loss, Node):
        raise wrong_kind(what, "a Value or a Tensor", loss)
    if getattr(loss, "size", 1) != 1:
        raise out_of_range(what, "a single number", loss)
    if not loss.requires_grad:
        raise ValueError(
            f"{what}: this {type(loss).__name__} requires no gradient; it is a constant"
        )
    return loss


class Graph:
    """A recorded graph, with what is to be known to walk it in other ways.

    Args:
        loss: a tracked node of one number.

    Attributes:
        root: the loss.
        order: its nodes, every one after those it was computed from.
        right: the gradient of every node.

    Raises:
        TypeError: loss is no node.
        ValueError: it has several numbers, or requires no gradient.
    """

    def __init__(self, loss: Any) -> None:
        steps = sweep(loss_of(loss))
        self.root: Node = loss
        self.right: Flight = {step.node: step.gradient for step in steps}
        self.order = list(reversed(self.right))
        self.kept: dict[str, Any] = {}  # what others have found out about this graph

    @cached_property
    def seed(self) -> Any:
        """The gradient that a sweep starts from."""
        return self.right[self.root]

    @cached_property
    def edges(self) -> dict[Node, list[tuple[int, Node, Any]]]:
        """For every node its tracked operands: which, the operand, the local derivative."""
        return {node: list(edges(node)) for node in self.order}

    @cached_property
    def children(self) -> dict[Node, list[tuple[Node, int]]]:
        """For every node its uses: by which node, as which operand."""
        children: dict[Node, list[tuple[Node, int]]] = {node: [] for node in self.order}
        for node in self.order:
            for which, x, _ in self.edges[node]:
                children[x].append((node, which))
        return children

    @cached_property
    def names(self) -> dict[Node, str]:
        """A different name for each node."""
        return names_of(self.order)

    @cached_property
    def leaves(self) -> list[Node]:
        """The tracked leaves, in the order in which they are first used."""
        return [node for node in self.order if node.rule is None]

    @cached_property
    def activations(self) -> list[Node]:
        """The nodes that apply a function to one tracked operand, element by element.

        What belongs to a loss does not count: the softplus of a fused cross-entropy, and the
        maximum that holds a logarithm.
        """
        of_loss = set(self.fused.values())
        of_loss |= {node for node in self.tail if getattr(node.rule, "name", "") == "maximum"}
        return [node for node in self.order if _is_activation(node) and node not in of_loss]

    def is_activation(self, node: Node) -> bool:
        """Whether a node is one of the activations."""
        return node in self._activations

    @cached_property
    def _activations(self) -> set[Node]:
        return set(self.activations)

    @cached_property
    def fused(self) -> dict[Node, Node]:
        """The logits of fused cross-entropies, each with what makes a probability of it.

        That is `log_softmax(o)`, or the softplus in `softplus(z) - y z`, where z is used again.
        """
        found = {}
        for node in self.order:
            if node in self.tail and getattr(node.rule, "name", "") in ("log_softmax", "softplus"):
                for _, x, _ in self.edges[node]:
                    if node.rule.name == "log_softmax" or len(self.children[x]) > 1:
                        found[x] = node
        return found

    @cached_property
    def tail(self) -> set[Node]:
        """What is computed after the last parameter: the output's activation, and the loss."""
        tail: set[Node] = set()
        for node in reversed(self.order):
            if all(
                child in tail and not any(x.is_leaf for _, x, _ in self.edges[child])
                for child, _ in self.children[node]
            ):
                tail.add(node)
        return tail

    def uses(self, node: Node) -> list[Use]:
        """Where a node is used; if only a view of it is used, where that is."""
        children = self.children.get(node, [])
        if len(children) == 1 and children[0][0].rule.name in _VIEWS:
            view, which = children[0]
            local = view.locals[which]
            return [use._replace(views=(*use.views, local)) for use in self.uses(view)]
        return [Use(child, which, child.locals[which]) for child, which in children]

    def swept(
        self, hand_on: HandOn | None = None, arriving: Callable[[Node, Any], Any] | None = None
    ) -> Flight:
        """The gradient of every node, under another rule.

        Args:
            hand_on: what a node hands to an operand; the chain rule, if not given.
            arriving: of a node and its gradient: what is to take the gradient's place.
        """
        flight: Flight = {self.root: self.seed}
        with self.root._arithmetic():
            for node in reversed(self.order):
                if node not in flight:
                    continue
                g = flight[node]
                if arriving is not None:
                    g = flight[node] = arriving(node, g)
                for which, x, local in self.edges[node]:
                    c = local * g if hand_on is None else hand_on(node, which, local, g)
                    if c is not None:
                        flight[x] = flight[x] + c if x in flight else c
        return flight


def edges(node: Node) -> Iterable[tuple[int, Node, Any]]:
    """The operands that a gradient flows to: which, the operand, the local derivative."""
    for which, (x, local) in enumerate(zip(node.operands, node.locals, strict=True)):
        if local is not None:
            yield which, x, local


def _is_activation(node: Node) -> bool:
    """Whether a node is a function of one tracked operand, elementwise, and no arithmetic."""
    rule = node.rule
    if not isinstance(rule, Rule) or rule.name in _ARITHMETIC:
        return False
    which = [i for i, _, _ in edges(node)]
    return len(which) == 1 and callable(rule.partials[which[0]])


def operands_of(node: Node) -> list[Any]:
    """The numbers that a node was computed from, as they were."""
    for local in node.locals:
        if isinstance(local, Local):
            return local.operands
    return [x.data if isinstance(x, Node) else x for x in node.operands]  # type: ignore[attr-defined]


def namespace_of(node: Node) -> Any:
    """Where the rules compute such a node."""
    return arrays if isinstance(node, Tensor) else floats


def value_of(node: Node, operands: list[Any]) -> Any:
    """What the operation of an elementwise node gives of other operands."""
    return quiet(node.rule.value)(namespace_of(node), *operands)


def local_at(node: Node, which: int, operands: list[Any], result: Any) -> Any:
    """The local derivative of a node, had it been computed from other operands."""
    rule = node.rule
    if isinstance(node, Tensor):
        if isinstance(rule, Rule):
            return Elementwise(rule, which, operands, result)
        recorded = node.locals[which]
        return Structural(rule, which, operands, result, recorded.parameters, recorded.options)
    partial = rule.partials[which]
    return partial(floats, *operands, result) if callable(partial) else partial


def unreduced(use: Use, g: Any) -> Any:
    """What reaches the operand of a sum before the axes that it was repeated along are summed."""
    if use.node.rule.name == "linear" and use.which == 2:
        return g
    if isinstance(use.local, Elementwise) and use.node.rule.name in ("add", "subtract"):
        return g * use.local.partial()
    return None
