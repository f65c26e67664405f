"""The computation graph: nodes, their order, and the backward sweep.

A node is the result of one operation. It remembers what it was computed from (its operands) and,
for each operand, the local derivative of its own value by that operand. The chain rule is then one
line, `contribution = local * gradient`, applied to every node after all of its consumers, and this
module is that line with its bookkeeping. It knows no mathematics: a local derivative is anything
that can be multiplied by a gradient, and gradients are anything that can be added.

Why an order is needed. In `b = a + a; c = b + b`, node `b` is used twice. A sweep that walks from
`c` to `b` and straight on to `a`, once per use, hands on `b`'s gradient before it is complete, or
hands it on twice. Visiting every node once, after all of its consumers, is right for every graph,
and costs one visit per edge however many paths there are. The order in which the nodes were made
is such an order, since operands exist before results: the sweep is the program run backwards.
"""

from __future__ import annotations

import itertools
import operator
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from tinygrad_bp.arguments import flag, wrong_kind
from tinygrad_bp.hooks import Hook, HookHandle, any_hooks, hooked, hooks_of
from tinygrad_bp.interrupts import Write, commit_lock
from tinygrad_bp.recording import Label, Observer, Scope, current_state, observers_of

# --- nodes --------------------------------------------------------------------------------------


class _Mark:
    """A unique value that says what it means."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


UNTRACKED: Any = _Mark("untracked")  # the rule of a node that no gradient reaches
MORE: Any = _Mark("more")  # the second local derivative of a node with three operands or more

# The number of the next node. It is one call into C, so threads can share it.
born = itertools.count().__next__


class Node:
    """One value of a computation, with the operation it came from.

    Attributes:
        rule: the operation, None for a leaf, `UNTRACKED` for a constant.
        x, y: the first and second operand: nodes, or plain constants.
        dx, dy: the local derivatives by them; None where no gradient flows.

    Nearly all operations have one or two operands, so these live in slots: a tuple of operands and
    one of derivatives would each cost as much as the arithmetic. With three operands or more `dy`
    is `MORE` and `y` holds pairs (operand, local derivative) of the second onwards. Readers use
    `operands`, `locals` and `parents`.
    """

    __slots__ = ("__weakref__", "_birth", "_grad", "_place", "dx", "dy", "rule", "x", "y")

    _birth: int
    _grad: Any
    _place: Scope | Label
    rule: Any
    x: Any
    y: Any
    dx: Any
    dy: Any

    @property
    def operands(self) -> tuple[Any, ...]:
        """What the node was computed from, in order: nodes and plain constants."""
        if self.dy is MORE:
            return (self.x, *(y for y, _ in self.y))
        if self.x is None:
            return ()
        return (self.x,) if self.y is None else (self.x, self.y)

    @property
    def locals(self) -> tuple[Any, ...]:
        """The derivative of the node by each of its `operands`; None where no gradient flows."""
        if self.dy is MORE:
            return (self.dx, *(dy for _, dy in self.y))
        return (self.dx, self.dy)[: len(self.operands)]

    @property
    def parents(self) -> tuple[Node, ...]:
        """The operands that a gradient flows to, in order; `a + a` has two."""
        return tuple(
            operand
            for operand, local in zip(self.operands, self.locals, strict=True)
            if local is not None
        )

    @property
    def requires_grad(self) -> bool:
        """Whether a backward sweep gives this node a gradient."""
        return self.rule is not UNTRACKED

    @property
    def is_leaf(self) -> bool:
        """Whether the node was given, and not computed from tracked nodes."""
        return self.rule is None or self.rule is UNTRACKED

    @property
    def label(self) -> str:
        """The name given to this node; empty if it has none."""
        place = self._place
        return place.text if isinstance(place, Label) else ""

    @label.setter
    def label(self, text: str) -> None:
        if not isinstance(text, str):
            raise wrong_kind("label", "a str", text)
        place = self._place
        if type(place) is Scope:  # as nearly always
            self._place = Label(text, place) if text else place
            return
        line, hooks = self.line, hooks_of(self)
        needed = text or line or hooks
        self._place = Label(text, self.scope, line, hooks) if needed else self.scope

    @property
    def line(self) -> str:
        """The line of the program that made this node, if `detect_anomaly()` was there to see."""
        place = self._place
        return place.line if isinstance(place, Label) else ""

    @property
    def scope(self) -> Scope:
        """The region of the program in which the node was made."""
        place = self._place
        return place.scope if isinstance(place, Label) else place

    def register_hook(self, hook: Hook) -> HookHandle:
        """Have `hook(gradient)` called in every backward sweep, when this node's gradient is known.

        It is called once per sweep, after all contributions have been added, and before they are
        handed on. Gradients of arrays are read-only.

        Args:
            hook: returns None, or what is to take the gradient's place: a number or an array of
                its shape; a node, where a graph of the gradient is made. Written with operators
                and numpy's functions it serves both.

        Returns:
            A handle, whose `remove()` takes the hook back.

        Raises:
            TypeError: hook cannot be called.
            ValueError: this node requires no gradient.
        """
        if not callable(hook):
            raise TypeError(f"hook: expected a function, got {type(hook).__name__}")
        if not self.requires_grad:
            raise ValueError("register_hook: this node requires no gradient, and is never visited")
        return HookHandle(self, hook)

    def zero_grad(self) -> None:
        """Forget the gradient: `grad` is None again, as before any sweep."""
        with commit_lock:
            self._grad = None

    def _grad_writes(self, gradient: Any) -> list[Write]:
        """What sets the gradient, checked, or None, for `interrupts.write`."""
        raise NotImplementedError

    def _data_writes(self, data: Any) -> list[Write]:
        """What sets a leaf's data, which nobody else holds, for `interrupts.write`."""
        raise NotImplementedError

    def _seed(self, gradient: Any) -> Any:
        """The gradient that a sweep starts from at this node, checked."""
        raise NotImplementedError

    def _shown(self, x: Any) -> Any:
        """A gradient in flight, as it may be shown: safe from being written to."""
        return x

    def _arithmetic(self) -> AbstractContextManager[Any]:
        """What the sums and products of a sweep are to be computed under."""
        return nullcontext()


# --- the order ----------------------------------------------------------------------------------


_birth_of = operator.attrgetter("_birth")


def topological_order(root: Node) -> list[Node]:
    """All nodes that a gradient of `root` reaches, every node after the nodes it was computed from.

    It is the order in which they were made. The search for them is iterative, so no graph is too
    deep, and visits each edge once. The root comes last.
    """
    if not isinstance(root, Node):
        raise wrong_kind("root", "a Value or a Tensor", root)
    return _search(root)[0]


def _search(root: Node) -> tuple[list[Node], dict[Node, Any]]:
    """The topological order, and a dict with every node of it as key (of value None)."""
    found: dict[Node, Any] = {root: None}
    unvisited = [root]
    push, pop = unvisited.append, unvisited.pop
    while unvisited:
        node = pop()
        if node.dx is not None:
            x = node.x
            if x not in found:
                found[x] = None
                push(x)
        dy = node.dy
        if dy is not None:
            if dy is MORE:
                for y, local in node.y:
                    if local is not None and y not in found:
                        found[y] = None
                        push(y)
            else:
                y = node.y
                if y not in found:
                    found[y] = None
                    push(y)
    return sorted(found, key=_birth_of), found


# --- the sweep ----------------------------------------------------------------------------------


class Edge(NamedTuple):
    """One use of `parent` by a node: the local derivative, and what it adds to the parent."""

    parent: Any
    local: Any
    contribution: Any


class Step(NamedTuple):
    """One visit of the sweep: a node, its complete gradient, and what it hands to its parents."""

    node: Any
    gradient: Any
    edges: tuple[Edge, ...]


class Segment(Node):
    """A part of the computation that was not kept: it is run again when the sweep comes to it.

    Its operands are the older nodes that the part was computed from. What is computed from its
    results hands it their gradients, gathered in whatever `again` understands.
    """

    __slots__ = ()

    def again(self, gradients: Any) -> tuple[list[Node], dict[Node, Any]]:
        """Run it again: its nodes, the older ones first, and the gradients of its results."""
        raise NotImplementedError

    def kept(self) -> tuple[list[Node], list[Node]]:
        """Run it again for others to keep: its nodes, the older ones first, and its results."""
        raise NotImplementedError


_Flight = dict[Node, Any]


def _walk(
    order: list[Node], flight: _Flight, watched: bool, leaves_only: bool = False
) -> Generator[Step, None, list[Node]]:
    """The backward sweep over nodes in topological order. Returns the leaves; writes to no node.

    `flight` holds the gradients on their way: at first those to start from, and None for all other
    nodes; in the end every node's. Watched, the sweep stops at every node to show it. Unwatched, it
    never yields, and so loses no time.
    """
    leaves: list[Node] = []
    for node in reversed(order):
        g = flight[node]
        if g is None:  # it led to a result of a segment that nobody used
            del flight[node]
            continue
        if any_hooks and type(node._place) is Label:
            g = flight[node] = hooked(node, g)
        dx, dy = node.dx, node.dy
        if dx is not None:
            x = node.x
            cx = dx * g  # the chain rule
            sofar = flight[x]
            flight[x] = cx if sofar is None else sofar + cx
        if dy is not None:
            if dy is MORE:
                if isinstance(node, Segment):
                    del flight[node]
                    nodes, gradients = node.again(g)
                    flight |= dict.fromkeys(nodes) | gradients
                    yield from _walk(nodes, flight, watched, leaves_only=True)
                    continue
                cy = []
                for y, local in node.y:
                    c = None
                    if local is not None:
                        c = local * g
                        sofar = flight[y]
                        flight[y] = c if sofar is None else sofar + c
                    cy.append(c)
            else:
                y = node.y
                cy = dy * g
                sofar = flight[y]
                flight[y] = cy if sofar is None else sofar + cy
        elif node.rule is None:
            leaves.append(node)
        if leaves_only and node.rule is not None:
            del flight[node]  # and so its memory, which the next gradients can use again
        if watched and not isinstance(node.x, Segment):  # the segment's own nodes will be shown
            shares = (cx if dx is not None else None,)
            shares += tuple(cy) if dy is MORE else (cy if dy is not None else None,)
            edges = zip(node.operands, node.locals, shares, strict=False)
            yield Step(node, g, tuple(Edge(*edge) for edge in edges if edge[1] is not None))
    return leaves


def sweep(root: Node, gradient: Any = None) -> Iterator[Step]:
    """The backward sweep one node at a time, from the root to the leaves.

    Yields a `Step` per node: the node, its complete gradient, and for each use of a parent the
    local derivative and the contribution, `local * gradient`. Every `.grad` is left alone; it can
    be paused for any time and abandoned anywhere.

    Args:
        root: the node whose derivatives are wanted.
        gradient: the root's own gradient; 1 if root is a single number.

    Raises:
        ValueError: root does not require a gradient, or the gradient does not fit it.
    """
    seed = _checked_seed(root, gradient)
    order, flight = _search(root)
    flight[root] = seed
    return _each(_walk(order, flight, watched=True), root)


def _each(steps: Iterator[Step], root: Node) -> Iterator[Step]:
    # Not one `with` around all: it would reach into the code that the steps are yielded to.
    shown = root._shown
    reached: set[Node] = set()
    while True:
        with root._arithmetic():
            step = next(steps, None)
            if step is None:
                return
            _tell(observers_of(current_state()), step, reached)
        edges = (Edge(parent, local, shown(c)) for parent, local, c in step.edges)
        yield Step(step.node, shown(step.gradient), tuple(edges))


def gradients(
    root: Node, seed: Any, variables: Sequence[Node], order: list[Node] | None = None
) -> list[Any]:
    """The gradients of `root` by some leaves, returned and stored nowhere.

    Args:
        root: a tracked node.
        seed: its own gradient.
        variables: leaves; one that the root does not depend on gets None.
        order: the topological order, if it is known already.
    """
    with root._arithmetic():
        flight, _ = _swept(root, seed, leaves_only=True, order=order)
    return [flight.get(variable) for variable in variables]


def _swept(
    root: Node, seed: Any, leaves_only: bool, order: list[Node] | None = None
) -> tuple[_Flight, list[Node]]:
    """The whole sweep at once, under the eyes of those who look on: gradients, and the leaves."""
    flight: _Flight
    if order is None:
        order, flight = _search(root)
    else:
        flight = dict.fromkeys(order)
    flight[root] = seed
    observers = observers_of(current_state())
    steps = _walk(order, flight, bool(observers), leaves_only)
    reached: set[Node] = set()
    try:
        while True:
            _tell(observers, next(steps), reached)
    except StopIteration as end:
        return flight, end.value


def _tell(observers: Sequence[Observer], step: Step, reached: set[Node]) -> None:
    for observer in observers:
        observer.swept(step, reached)
    reached.update(edge.parent for edge in step.edges)


set_grad = vars(Node)["_grad"].__set__  # the slot's own setter, in C


def backward(root: Node, gradient: Any = None, leaves_only: bool = False) -> None:
    """Sweep from `root` and commit the gradients: leaves accumulate, inner nodes are overwritten.

    All arithmetic happens before the first write, and the writes happen together.
    """
    seed = _checked_seed(root, gradient)
    flag(leaves_only, "leaves_only")
    with root._arithmetic():
        flight, leaves = _swept(root, seed, leaves_only)
        if leaves_only:
            flight = {leaf: flight[leaf] for leaf in leaves}
        commit(flight, leaves)


def leaf_gradients(root: Node, gradient: Any = None) -> dict[Node, Any]:
    """What `backward` would add to each leaf, stored nowhere yet; see `commit`."""
    seed = _checked_seed(root, gradient)
    with root._arithmetic():
        flight, leaves = _swept(root, seed, leaves_only=True)
    return {leaf: flight[leaf] for leaf in leaves}


def commit(gradients: dict[Node, Any], leaves: Iterable[Node]) -> None:
    """Set gradients, all or none. Those of the leaves are added to what these have.

    All sums are computed before the first write, and the writes are one call into C: Python
    delivers an interrupt (Ctrl-C) before it or after it, never in the middle.
    """
    with commit_lock:
        for leaf in leaves:
            if leaf._grad is not None:
                gradients[leaf] = leaf._grad + gradients[leaf]
        deque(map(set_grad, gradients.keys(), gradients.values()), 0)


def _checked_seed(root: Node, gradient: Any) -> Any:
    if not isinstance(root, Node):
        raise wrong_kind("root", "a Value or a Tensor", root)
    if not root.requires_grad:
        raise ValueError(
            f"this {type(root).__name__} requires no gradient: it is a constant, was detached, or "
            "was computed from constants or under no_grad()"
        )
    return root._seed(gradient)
