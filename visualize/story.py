"""What happens in a computation, step by step: the program forwards, then the sweep backwards.

Every number comes from the engine: the data that it computed, and its own sweep, one node at a
time. What a gradient has become so far is the sum of the contributions in the order in which the
sweep adds them.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tinygrad_bp.differentiable import check_unwritten
from tinygrad_bp.explain.naming import names_of
from tinygrad_bp.explain.steps import steps_of
from tinygrad_bp.explain.uses import uses_in
from tinygrad_bp.graph import Node, Segment, Step, sweep as sweep_from, topological_order

from .building import scene_of
from .equations import (
    WEIGHTED,
    Line,
    Part,
    Term,
    Use,
    figure,
    forward,
    named,
    plain,
    product,
)
from .scene import Box, Scene
from .text import clean, number, shorten
from .things import kind_of, numbers as numbers_of, things_of

LONGEST_NAME = 14.0  # ems
LISTED = 12  # quantities at the start and at the end


class Sum(NamedTuple):
    """The gradient of a box so far: how many contributions it has, and what they add up to."""

    box: int
    arrived: int
    sofar: Any


class Moment(NamedTuple):
    """One step of the story.

    Attributes:
        phase: `"start"`, `"forward"`, `"backward"` or `"end"`.
        visited: the box whose turn it is; None at the start and at the end.
        edges: those that carry a contribution in this step.
        lines: the equations.
        sums: the gradients that have changed.
    """

    phase: str
    visited: int | None
    edges: tuple[int, ...]
    lines: tuple[Line, ...]
    sums: tuple[Sum, ...]


class Contribution(NamedTuple):
    """What one use of a box hands to it: along which edge, at which time step, and how much."""

    edge: int
    step: int | None
    use: Use


class Story(NamedTuple):
    """All of it: the scene, the data of its boxes, the steps, and who contributed to whom.

    Attributes:
        scene: boxes and edges.
        terms: the name and data of each box.
        kinds: of each box what it is: `"leaf"`, `"constant"`, or the name of the operation.
        moments: the steps.
        contributions: of each box that the sweep visits, in the order of the sweep.
        gradients: of each box that the sweep visits, when all of it is known.
        root: the place of the node that was asked for.
    """

    scene: Scene
    terms: tuple[Term, ...]
    kinds: tuple[str, ...]
    moments: tuple[Moment, ...]
    contributions: dict[int, list[Contribution]]
    gradients: dict[int, Any]
    root: int


def story_of(root: Node, max_nodes: int) -> Story:
    """The story of a node: how it was computed, and the sweep from it.

    Args:
        root: a tracked Value or Tensor, a single number.
        max_nodes: the most nodes and constants there may be.

    Raises:
        ValueError: the graph is larger, root requires no gradient or is several numbers, or a
            part of the computation was not kept (`checkpoint`).
        RuntimeError: a leaf was written to since.
    """
    sweep = sweep_from(root)  # which refuses what it cannot start from
    order = topological_order(root)
    if any(isinstance(node, Segment) for node in order):
        raise ValueError(
            "play: a part of the computation was not kept, so there is nothing to show of it; "
            "compute it without checkpoint()"
        )
    things = things_of([root])
    if len(things) > max_nodes:
        raise ValueError(
            f"play: the graph has {len(things)} nodes and constants, more than max_nodes="
            f"{max_nodes}; play a smaller network or fewer time steps, or pass a larger max_nodes"
        )
    for node in order:
        if node.rule is not None:
            _check_unwritten(node)
    return _Teller(root, order, things, scene_of(root, max_nodes, fold=False)).story(sweep)


def _check_unwritten(node: Node) -> None:
    try:
        check_unwritten(node)
    except RuntimeError as error:
        what = str(error).partition(";")[0]
        raise RuntimeError(f"play: {what}; play before writing to it, or compute it anew") from None


class _Teller:
    """Tells one story; its attributes are what all parts of it need."""

    def __init__(self, root: Node, order: list[Node], things: list[Any], scene: Scene) -> None:
        self.root, self.order, self.scene = root, order, scene
        self.things = things
        self.place = {thing.content: i for i, thing in enumerate(things) if _is_node(thing)}
        names = _names(things, root)
        contents = [numbers_of(thing.content) for thing in things]
        self.terms = tuple(Term(*pair) for pair in zip(names, contents, strict=True))
        self.uses = Counter(i for thing in things for i in thing.operands)
        self.first_edge = np.cumsum([0, *(len(thing.operands) for thing in things)]).tolist()
        self.sums: dict[int, Sum] = {}
        self.contributions: dict[int, list[Contribution]] = defaultdict(list)
        self.gradients: dict[int, Any] = {}

    def story(self, sweep: Iterator[Step]) -> Story:
        moments = (self.start(), *self.forward(), *self.backward(sweep), self.end())
        return Story(
            self.scene,
            self.terms,
            tuple(_what(thing.content) for thing in self.things),
            moments,
            dict(self.contributions),
            self.gradients,
            self.place[self.root],
        )

    def operands_of(self, i: int) -> tuple[Term, ...]:
        return tuple(self.terms[k] for k in self.things[i].operands)

    def start(self) -> Moment:
        boxes = zip(self.things, self.scene.boxes, strict=True)
        given = [i for i, (x, box) in enumerate(boxes) if not x.operands and has_name(box)]
        lines = [[Part("Given: ")]]
        for i in given[:LISTED]:
            lines[0] += [*named(self.terms[i].name), Part(" = "), figure(self.terms[i].data)]
            lines[0].append(Part(", "))
        lines[0][-1:] = plain(", …") if len(given) > LISTED else []
        lines.append(plain("Forwards, each operation computes its value; then, backwards, each"))
        name = self.terms[self.place[self.root]].name
        lines[-1] += [Part(" hands the derivative of "), *named(name), Part(" to its operands.")]
        return Moment("start", None, (), tuple(lines), ())

    def forward(self) -> Iterator[Moment]:
        for node in self.order:
            if node.rule is not None:
                i = self.place[node]
                within = {
                    k: (self.things[x].content.rule.name, self.operands_of(x))
                    for k, x in enumerate(self.things[i].operands)
                    if node.rule.name in ("add", "subtract") and self.can_be_written_out(x)
                }
                operands = (*self.operands_of(i), *_factor(node))
                line = forward(node.rule.name, self.terms[i], operands, within)
                edges = range(self.first_edge[i], self.first_edge[i + 1])
                yield Moment("forward", i, tuple(edges), (line,), ())

    def can_be_written_out(self, i: int) -> bool:
        """Whether it is an unnamed product that is used but once."""
        content = self.things[i].content
        return (
            kind_of(content) == "inner"
            and not content.label
            and content.rule.name in WEIGHTED
            and self.uses[i] == 1
        )

    def backward(self, sweep: Iterator[Step]) -> Iterator[Moment]:
        steps = steps_of(self.order)
        for step in sweep:
            i = self.place[step.node]
            self.gradients[i] = step.gradient
            lines, edges = [self.delta(i, step.gradient)], []
            sums = {i: Sum(i, self.sums[i].arrived if i in self.sums else 0, step.gradient)}
            for share, parent in uses_in(step, self.place):
                use = self.use(i, share)
                edges.append(self.first_edge[i] + use.which)
                source = self.place[parent]
                at = Contribution(edges[-1], steps.get(step.node), use)
                self.contributions[source].append(at)
                line, sums[source] = self.added(source, use)
                lines.append(line)
            yield Moment("backward", i, tuple(edges), tuple(lines), tuple(sums.values()))

    def use(self, i: int, share: Any) -> Use:
        rule, operands = share.node.rule.name, self.operands_of(i)
        recorded = (share.operand, share.local, share.upstream, share.contribution)
        return Use(rule, self.terms[i], operands, *recorded)

    def delta(self, i: int, gradient: Any) -> Line:
        """The line of the node itself: its gradient is complete."""
        root = self.terms[self.place[self.root]].name
        line = [*derivative(root, self.terms[i].name), Part(" = "), figure(gradient)]
        if i == self.place[self.root]:
            return [Part("δ = "), *line, Part(": the sweep begins here")]
        total = self.sums[i]
        count = "one contribution" if total.arrived == 1 else f"{total.arrived} contributions"
        if not np.array_equal(np.asarray(total.sofar), np.asarray(gradient), equal_nan=True):
            return [*line, Part(": a hook has replaced "), figure(total.sofar)]
        if self.things[i].operands:
            return [Part("δ = "), *line, Part(f": complete, {count}")]
        return [*line, Part(f": complete, {count}; a leaf, nothing to hand on")]

    def added(self, source: int, use: Use) -> tuple[Line, Sum]:
        """`w.grad += x · δ = 2 · 0.6347 = 1.269`, and what the sum is now."""
        symbols, numbers = product(use, plain("δ"))
        line = [*named(self.terms[source].name), Part(".grad += "), *symbols, Part(" = ")]
        line += [*numbers, Part(" = ")] if numbers else []
        line.append(figure(use.contribution))
        before = self.sums.get(source)
        if before is None:
            total = Sum(source, 1, use.contribution)
        else:
            with np.errstate(all="ignore"):
                total = Sum(source, before.arrived + 1, before.sofar + use.contribution)
            line += [Part(", together "), figure(total.sofar)]
        self.sums[source] = total
        return line, total

    def end(self) -> Moment:
        root = self.terms[self.place[self.root]].name
        lines = [plain("The sweep has ended; every gradient is complete:")]
        leaves = [i for i in self.gradients if kind_of(self.things[i].content) == "leaf"]
        for i in sorted(leaves)[:LISTED]:
            line = [*derivative(root, self.terms[i].name), Part(" = "), figure(self.gradients[i])]
            lines.append(line)
        lines += [plain("…")] if len(leaves) > LISTED else []
        return Moment("end", None, (), tuple(lines), ())


def derivative(of: str, by: str) -> Line:
    """`∂L/∂w`."""
    return [Part("∂"), *named(of), Part("/∂"), *named(by)]


def has_name(box: Box) -> bool:
    """Whether a box is more than a number that stands in an equation."""
    return not box.is_compact or bool(box.label)


def _factor(node: Node) -> list[Term]:
    """The factor of a scaled sum: it is no operand, but stands in the equation."""
    if node.rule.name != "scaled_sum":
        return []
    (factor,) = node.dx.parameters or node.dx.options.values()
    return [Term(number(factor), factor)]


def _what(content: Any) -> str:
    kind = kind_of(content)
    return clean(content.rule.name) if kind == "inner" else kind


def _is_node(thing: Any) -> bool:
    return isinstance(thing.content, Node)


def _names(things: list[Any], root: Node) -> list[str]:
    """What each box is called: as `explain` calls it, `h(3)`; unnamed constants by their number.

    The root is called L, if it has no name and nobody else has this one.
    """
    nodes = [thing.content for thing in things if _is_node(thing)]
    own = names_of(x for x in nodes if x.label or kind_of(x) != "constant" or numbers_of(x).ndim)
    if not root.label and "L" not in own.values():
        own[root] = "L"
    names: list[str] = []
    given = set(own.values())
    taken = set(given)
    for thing in things:
        name = own.get(thing.content) if _is_node(thing) else None
        data = numbers_of(thing.content)
        if name is None and data.ndim == 0:
            names.append(number(data.item()))
            continue
        name = shorten(name or "c", LONGEST_NAME)
        names.append(name if name in given else _unlike(name, taken))
        taken.add(names[-1])
    return names


def _unlike(name: str, taken: set[str]) -> str:
    """A name that nobody has: numbered, if need be."""
    numbered = (f"{name}#{k}" for k in itertools.count(2))
    return name if name not in taken else next(x for x in numbered if x not in taken)
