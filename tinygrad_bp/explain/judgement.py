"""Which factor makes a gradient what it is: the judgement behind `why`.

The size of a gradient is the product of the factors along the strongest way from the loss. Zero is
blamed on every edge that hands on nothing while a gradient arrives there; nan and infinity on the
first edge that makes them; tiny and huge on the one factor that makes most of the orders of
magnitude, or else on one that comes again and again.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygrad_bp.explain.causes import (
    PRODUCTS,
    RECTIFIERS,
    Cause,
    Words,
    of_large,
    of_nonfinite,
    of_small,
    of_zero,
)
from tinygrad_bp.explain.naming import place_of
from tinygrad_bp.explain.survey import Link, Survey, Use, larger, numbers_in
from tinygrad_bp.graph import Node
from tinygrad_bp.hooks import hooks_of
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.text import number

ALONE = 0.5  # the part of all orders of magnitude for which one factor is blamed alone
TOGETHER = 0.3  # the part for which one that comes again is blamed
REPEATED = 3  # the times that it has to come
MOST_BLOCKS = 1000  # edges that hand on nothing, of which it is asked why
LARGEST_MATRIX = 512  # of which eigenvalues are computed

_Block = tuple[Node, Use | None]  # an edge that hands on nothing; or a node whose uses cancel


class Found(NamedTuple):
    """What was found out about a gradient.

    Attributes:
        cause: what is to blame.
        links: the edges on the way from the loss.
        blamed: the link to blame, or None.
        notes: what else was seen.
    """

    cause: Cause
    links: Sequence[Link]
    blamed: Link | None
    notes: Sequence[str] = ()


class Judge:
    """Looks into gradients of one sweep.

    Args:
        survey: the sweep.
        words: the names to use.
        tiny, huge: the sizes beyond which a gradient is not ordinary.
    """

    def __init__(self, survey: Survey, words: Words, tiny: float, huge: float) -> None:
        self.survey, self.words, self.tiny, self.huge = survey, words, tiny, huge

    def worst(self, nodes: Sequence[Node]) -> Node | None:
        """Of those that the sweep reached, the one with the largest gradient; nan before all."""
        reached = [node for node in nodes if node in self.survey.sizes]
        return max(reached, key=lambda n: larger(self.survey.sizes[n]), default=None)

    def status(self, nodes: Sequence[Node]) -> str:
        """What the gradient of a node is, or of the elements of an array together."""
        worst = self.worst(nodes)
        if worst is None:
            return "not reached"
        size = self.survey.sizes[worst]
        if size != size:
            return "nan"
        if size == math.inf:
            return "infinite"
        if size == 0.0:
            return "zero"
        return "tiny" if size < self.tiny else "huge" if size > self.huge else "ordinary"

    def look_into(self, nodes: Sequence[Node], status: str) -> Found:
        """Why it is so."""
        worst = self.worst(nodes)
        if worst is None:
            return Found(self._not_reached(nodes[0]), (), None)
        if status == "zero":
            return self._zero(worst)
        if status in ("nan", "infinite"):
            return self._not_finite(worst)
        found = self._ordinary(worst)
        if status != "ordinary":
            found = self._out_of_proportion(worst, -1.0 if status == "tiny" else 1.0)
        return found._replace(notes=[*found.notes, *self._zeros(nodes)])

    # --- not reached ----------------------------------------------------------------------------

    def _not_reached(self, node: Node) -> Cause:
        if not node.requires_grad:
            text = "it requires no gradient: a constant, detached, or computed under no_grad()"
            return Cause("not tracked", text)
        constants = self._constants()
        for operand, consumer in constants:
            if _is_copy(operand, node):
                return Cause(
                    "detached",
                    f"its numbers enter {self.words.name(consumer)} as a constant: detached, or "
                    "read from .data",
                )
        ends = [f"{self.words.name(o)} in {self.words.name(c)}" for o, c in constants]
        if not ends:
            return Cause("not reached", "the loss does not depend on it")
        more = f" and {len(ends) - 3} more" if len(ends) > 3 else ""
        return Cause(
            "not reached",
            "the loss depends on it at most by way of a constant, where tracking ends: "
            f"{', '.join(ends[:3])}{more}",
        )

    def _constants(self) -> list[tuple[Any, Node]]:
        """The constants of the graph that may have a history, nodes first, each with a consumer."""
        constants: dict[int, tuple[Any, Node]] = {}
        for consumer in self.survey.order:
            for operand, local in zip(consumer.operands, consumer.locals, strict=True):
                may_be = isinstance(operand, Node) or np.ndim(operand) > 0
                if local is None and may_be:
                    constants.setdefault(id(operand), (operand, consumer))
        return sorted(constants.values(), key=lambda pair: not isinstance(pair[0], Node))

    # --- zero -----------------------------------------------------------------------------------

    def _zero(self, node: Node) -> Found:
        blocks, below = self._blocks(node)
        judged = [(self._blocked(block), block) for block in blocks[:MOST_BLOCKS]]
        counted = Counter(cause.kind for cause, _ in judged)
        if not counted:
            return Found(Cause("hook", "a hook replaces the gradient of the loss"), (), None)
        kind, count = counted.most_common(1)[0]
        cause, block = next(pair for pair in judged if pair[0].kind == kind)
        text = cause.text
        if count > 1:
            least = "at least " if len(blocks) > MOST_BLOCKS else ""
            text += f" (and {least}{count - 1:,} more of the kind)"
        others = [next(c for c, _ in judged if c.kind == k) for k in counted if k != kind]
        text += "".join(f"; elsewhere {other.text}" for other in others[:3])
        links, blamed = self._way_by(block, below)
        return Found(Cause(kind, text), links, blamed)

    def _blocks(self, node: Node) -> tuple[list[_Block], dict[Node, tuple[Node, Use]]]:
        """All that keeps gradients off a node, from the node upwards.

        Also, for each node on the way there, the node below it and the use that leads down.
        """
        sizes, blocks = self.survey.sizes, list[_Block]()
        below: dict[Node, tuple[Node, Use]] = {}
        found, waiting = {node}, deque([node])
        while waiting:
            node = waiting.popleft()
            uses = self.survey.uses[node]
            if any(use.size != 0.0 for use in uses):
                blocks.append((node, None))
                continue
            for use in uses:
                if sizes[use.consumer] != 0.0:
                    blocks.append((node, use))
                elif use.consumer not in found:
                    found.add(use.consumer)
                    below[use.consumer] = (node, use)
                    waiting.append(use.consumer)
        return blocks, below

    def _blocked(self, block: _Block) -> Cause:
        node, use = block
        if use is None:
            return self._cancelled(node)
        return of_zero(self.survey.link(node, use), self.words)

    def _way_by(
        self, block: _Block, below: dict[Node, tuple[Node, Use]]
    ) -> tuple[list[Link], Link | None]:
        """The links from the loss by way of a block to where a gradient is asked for."""
        node, use = block
        if use is None:
            links = self.survey.chain(node)
        else:
            links = [*self.survey.chain(use.consumer), self.survey.link(node, use)]
        blamed = links[-1] if links else None
        while node in below:
            node, use = below[node]
            links.append(self.survey.link(node, use))
        return links, blamed

    def _cancelled(self, node: Node) -> Cause:
        """Contributions that add up to nothing, or nearly so."""
        name, uses = self.words.name(node), self.survey.uses[node]
        if hooks_of(node):
            return Cause("hook", f"a hook of {name} replaces its gradient")
        if _is_one_logit(uses, self.survey):
            return Cause(
                "softmax of one logit",
                f"{name} is divided by itself, or its own logarithm is taken off: a softmax of one "
                "logit is constant",
            )
        shares = [self.survey.contribution(self.survey.link(node, use)) for use in uses[:4]]
        shown = ""
        if not any(map(np.ndim, shares)):
            shown = ": " + " and ".join(number(float(share)) for share in shares)
            shown += f" and {len(uses) - 4:,} more" if len(uses) > 4 else ""
        return Cause("cancellation", f"the contributions to {name} cancel{shown}")

    def _zeros(self, nodes: Sequence[Node]) -> list[str]:
        """A note on the elements of an array that are exactly zero."""
        sizes = self.survey.sizes
        if len(nodes) > 1:
            count, zero = len(nodes), [n for n in nodes if sizes.get(n, 0.0) == 0.0]
            reached = next((n for n in zero if n in sizes), None)
            zeros = len(zero)
        else:
            gradient = self.survey.gradients[nodes[0]]
            count, reached = np.size(gradient), None
            zeros = int(np.count_nonzero(gradient == 0.0))
        if not zeros or not count:
            return []
        note = f"{zeros:,} of {count:,} elements are exactly 0"
        if reached is not None:
            note += f"; of {self.words.name(reached)}: {self._zero(reached).cause.text}"
        return [note]

    # --- ordinary -------------------------------------------------------------------------------

    def _ordinary(self, node: Node) -> Found:
        links = self.survey.chain(node)
        rectified = links if isinstance(node, Tensor) else ()
        return Found(
            Cause("", ""), links, None, [n for link in rectified for n in self._dead(link)]
        )

    def _dead(self, link: Link) -> list[str]:
        """Which units of a rectifier are off for all samples."""
        if link.rule not in RECTIFIERS or np.ndim(link.partial) < 2:
            return []
        on = np.asarray(link.partial != 0.0)
        units = np.flatnonzero(~on.any(axis=tuple(range(on.ndim - 1))))
        if not units.size:
            return []
        shown = ", ".join(map(str, units[:10])) + (", …" if units.size > 10 else "")
        return [
            f"{self.words.operation(link)}: {units.size} of {on.shape[-1]} units are off for all "
            f"{on.size // on.shape[-1]} samples: {shown}"
        ]

    # --- tiny and huge --------------------------------------------------------------------------

    def _out_of_proportion(self, node: Node, sign: float) -> Found:
        """Blame the one factor that makes most of it, or one that comes again and again."""
        links = self.survey.chain(node)
        if not links:
            return Found(
                Cause("the loss", "it is the loss itself, by which one starts"), links, None
            )
        orders = [(sign * _log10(link.factor), sign * _log10(link.added)) for link in links]
        total = sum(max(x, 0.0) for pair in orders for x in pair)
        most, by_sum, i = max(
            (x, j, i) for i, pair in enumerate(orders) for j, x in enumerate(pair)
        )
        if most >= ALONE * total:
            return Found(self._alone(links[i], bool(by_sum), sign), links, links[i])
        again = self._recurrent(links, sign, total) or self._deep(links, sign)
        if again is not None:
            return Found(again[0], links, again[1])
        text = f"{len(links)} factors together, none of them alone"
        return Found(Cause("many factors", text), links, None)

    def _alone(self, link: Link, by_sum: bool, sign: float) -> Cause:
        if not by_sum:
            return (of_small if sign < 0.0 else of_large)(link, self.words)
        if sign < 0.0:
            return self._cancelled(link.node)
        count = len(self.survey.uses[link.node])
        return Cause("many uses", f"{count:,} uses of {self.words.name(link.node)} add up")

    def _recurrent(
        self, links: Sequence[Link], sign: float, total: float
    ) -> tuple[Cause, Link] | None:
        """The weights of a recurrence, which stand on the way at every step; or the steps alone."""
        weights = [_weight_of(link) for link in links]
        keys = [None if weight is None else _quantity(weight) for weight in weights]
        counted = Counter(key for key in keys if key is not None)
        key, times = counted.most_common(1)[0] if counted else (None, 0)
        places = [i for i, k in enumerate(keys) if k == key]
        if times < REPEATED:
            steps = [place_of(link.node).step for link in links]
            key, times = None, len(set(steps) - {None}) - 1
            places = [i for i, step in enumerate(steps) if step is not None]
        if times < REPEATED:
            return None
        passed = links[places[0] : places[-1] + 1]
        change = _log10(passed[-1].gradient) - _log10(passed[0].upstream)
        if sign * change < TOGETHER * total:
            return None
        worst = max(passed, key=lambda link: sign * _log10(link.factor))
        through = "" if key is None else self._through(links[places[0]])
        return self._recurrence(passed, times, change, through), worst

    def _recurrence(self, passed: Sequence[Link], times: int, change: float, through: str) -> Cause:
        first, last = self.words.name(passed[0].consumer), self.words.name(passed[-1].node)
        how = "shrinks" if change < 0.0 else "grows"
        text = f"from {first} to {last} it {how} {times} times, by ×{_power(change / times)} a time"
        slopes = [_log10(link.factor) for link in passed if link.rule not in PRODUCTS]
        if any(slopes):
            text += f", of which the activations make ×{_power(sum(slopes) / times)}"
        return Cause("recurrence", text + through)

    def _through(self, link: Link) -> str:
        """The recurrent weights, with the spectral radius of a matrix."""
        weight, array = next((o, np.asarray(x, np.float64)) for o, x in link.others)
        name = place_of(weight).name or self.words.name(weight)
        square = array.ndim == 2 and array.shape[0] == array.shape[1] <= LARGEST_MATRIX
        if square and np.isfinite(array).all():
            radius = float(np.abs(np.linalg.eigvals(array)).max())
            return f"; each time it passes {name}, of spectral radius {number(radius)}"
        shown = f" = {number(float(array))}" if array.ndim == 0 and name == weight.label else ""
        return f"; each time it passes {name}{shown}"

    def _deep(self, links: Sequence[Link], sign: float) -> tuple[Cause, Link] | None:
        """One kind of operation, at several places."""
        of_rule: dict[str, list[Link]] = {}
        for link in links:
            if sign * _log10(link.factor) > 0.0:
                of_rule.setdefault(link.rule, []).append(link)

        def orders(links: Sequence[Link]) -> float:
            return sum(_log10(link.factor) for link in links)

        same = max(of_rule.values(), key=lambda links: sign * orders(links), default=[])
        if len(same) < 2:
            return None
        worst = max(same, key=lambda link: sign * _log10(link.factor))
        text = (
            f"{worst.rule} at {len(same)} places on the way makes ×{_power(orders(same))} of it, "
            f"the most at {self.words.name(worst.consumer)}: ×{number(worst.factor)}"
        )
        return Cause("depth", text), worst

    # --- not a number ---------------------------------------------------------------------------

    def _not_finite(self, node: Node) -> Found:
        links = self.survey.chain(node)
        origin = next((link for link in links if not math.isfinite(link.gradient)), None)
        if origin is None:  # the loss itself is asked for
            return Found(Cause("hook", "a hook replaces the gradient of the loss"), links, None)
        if math.isfinite(origin.contribution):
            text = f"the sum over the uses of {self.words.name(origin.node)} overflows"
            return Found(Cause("overflow", text), links, origin)
        kind, text = of_nonfinite(origin, self.words)
        meets = next((link for link in links if link.gradient != link.gradient), origin)
        if meets is not origin and meets.contribution != meets.contribution:
            how = "meets its opposite or 0" if meets.partial is None else "times 0 is nan,"
            text += f"; infinity {how} at {self.words.operation(meets)}"
        return Found(Cause(kind, text), links, origin)


# --- parts of it --------------------------------------------------------------------------------


def _log10(x: float) -> float:
    """The order of magnitude; of what no float holds, beyond that of any."""
    if x == 0.0 or not x < math.inf:
        return 400.0 if x else -400.0
    return math.log10(x)


def _power(order: float) -> str:
    return number(10.0**order) if abs(order) < 300.0 else f"1e{order:.0f}"


def _weight_of(link: Link) -> Node | None:
    """The leaf that a product on the way multiplies by."""
    if link.rule not in PRODUCTS:
        return None
    others = [x for i, x in enumerate(link.consumer.operands) if i != link.operand]
    leaf = others[0] if others else None
    return leaf if isinstance(leaf, Node) and leaf.rule is None else None


def _quantity(weight: Node) -> Any:
    """What a leaf belongs to: itself, or an array of Values by its name."""
    place = place_of(weight)
    return id(weight) if place.element is None else place.name


def _is_one_logit(uses: Sequence[Use], survey: Survey) -> bool:
    """Whether it is x / x, or x - log(exp(x)): what is left of a softmax over one logit."""
    if len(uses) != 2:
        return False
    first, second = (use.consumer for use in uses)
    if first is second:
        return bool(first.rule.name == "divide")
    for whole, e in ((first, second), (second, first)):
        if whole.rule.name == "subtract" and e.rule.name == "exp":
            logs = [use.consumer for use in survey.uses[e]]
            if [log.rule.name for log in logs] == ["log"]:
                return [use.consumer for use in survey.uses[logs[0]]] == [whole]
    return False


def _is_copy(constant: Any, node: Node) -> bool:
    """Whether a constant has the name or the numbers of a node."""
    if isinstance(constant, Node) and constant.label:
        return constant.label == node.label
    x, y = np.asarray(numbers_in(constant)), np.asarray(numbers_in(node))
    if x.ndim == 0 and float(x).is_integer():  # equal by chance
        return False
    return x.shape == y.shape and np.array_equal(x, y)
