"""Why a gradient is zero, tiny, huge or not a number: the factor that makes it so.

The gradient of a node is followed back to the loss along its strongest contributions. Its size is
the product of the factors on that way, so that the factor which makes it what it is can be named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_bp.arguments import at_least_zero, positive
from tinygrad_bp.explain.causes import Words
from tinygrad_bp.explain.judgement import Found, Judge
from tinygrad_bp.explain.naming import names_of, place_of
from tinygrad_bp.explain.quantities import check_root
from tinygrad_bp.explain.survey import Link, Survey, larger, size_of
from tinygrad_bp.explain.tables import Table
from tinygrad_bp.graph import Node
from tinygrad_bp.scalars import Values
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.text import clean, number
from tinygrad_bp.value import Value

TINY, HUGE = 1e-6, 1e6  # where a gradient of a loss is no longer ordinary
LOOKED_INTO = 20  # leaves, if none is asked for in particular


class Why(Table):
    """What a gradient is, and why: a sentence, and the chain of factors that made it.

    Attributes:
        verdict: the sentence.
        status: "not reached", "nan", "infinite", "zero", "tiny", "huge" or "ordinary".
        cause: in a word or two what is to blame, such as "saturated" or "recurrence"; empty for an
            ordinary gradient.
        gradient: the gradient: a float or an array.
        size: its largest absolute element.
        links: the edges of the strongest way from the loss down to the node.
        blamed: the link to blame, or None.
        factors: of each link, what the edge makes of what it is handed, as an array; nan below an
            edge that hands on nothing.
        sizes: of the gradients along the way, the loss's first, as an array.
    """

    __slots__ = (
        "blamed", "cause", "factors", "gradient", "links", "size", "sizes", "status", "verdict",
    )  # fmt: skip

    def __init__(self, name: str, gradient: Any, status: str, found: Found, words: Words) -> None:
        self.gradient, self.status, self.cause = gradient, status, found.cause.kind
        self.size = size_of(gradient)
        self.links, self.blamed = tuple(found.links), found.blamed
        self.factors = np.array([link.factor for link in self.links], np.float64)
        self.sizes = np.array([*(link.upstream for link in self.links), self.size], np.float64)
        because = f": {found.cause.text}" if found.cause.text else ""
        loss = words.name(words.survey.root)
        self.verdict = f"∂{loss}/∂{name} {_stated(status, gradient)}{because}"
        rows = [
            _row(link, words, link is self.blamed)
            for link in self.links
            if link is self.blamed or _does_something(link)
        ]
        columns = ["from", "by", "to", "factor", "× by other uses", "gradient", ""]
        super().__init__(self.verdict, columns, rows, found.notes)

    def text(self) -> str:
        return super().text() if self.rows else "\n".join([self.verdict, *self.notes])


class Whys(Table):
    """What the gradients of all leaves are, those that are not ordinary first.

    Its columns are "leaf", "gradient" (the status of a `Why`), "largest element", "cause" and
    "why".
    """

    __slots__ = ()


def why(loss: Any, node: Any = None, *, tiny: float = TINY, huge: float = HUGE) -> Why | Whys:
    """Why a gradient is zero, tiny, huge or not a number, or that it is ordinary.

    The factors are those of the strongest way from the loss to the node, where at each node the
    use is taken that contributes most. Gradients are measured by their largest element.

    Args:
        loss: a Value, or a Tensor of one element.
        node: the Value, Tensor or array of Values whose gradient is in question; all leaves, if not
            given.
        tiny, huge: the sizes beyond which a gradient is not ordinary. That of the loss itself is 1.

    Returns:
        A `Why`; for all leaves a `Whys`.

    Raises:
        TypeError: loss or node is not a node.
        ValueError: loss requires no gradient, or is not a single number; node is empty.
    """
    survey = Survey(check_root(loss))
    words = Words(survey, _names(survey))
    judge = Judge(survey, words, at_least_zero(tiny, "tiny"), positive(huge, "huge"))
    if node is None:
        return _of_leaves(judge)
    return _of(judge, _nodes(node), _name_of(node, words), getattr(node, "shape", ()))


def _of(judge: Judge, nodes: Sequence[Node], name: str, shape: tuple[int, ...]) -> Why:
    """One gradient: of a node, or of the elements of an array."""
    status = judge.status(nodes)
    gradients = [judge.survey.gradients.get(node) for node in nodes]
    gradient: Any = gradients[0]
    if len(nodes) > 1 or gradient is None:
        numbers = [0.0 if g is None else g for g in gradients]
        gradient = np.broadcast_to(np.reshape(numbers, shape if len(nodes) > 1 else ()), shape)
    return Why(name, gradient, status, judge.look_into(nodes, status), judge.words)


def _of_leaves(judge: Judge) -> Whys:
    """All leaves, the elements of an array together, of which the first are looked into."""
    groups = _leaves(judge.survey)
    status = {key: judge.status(nodes) for key, nodes in groups.items()}
    rows: list[Any] = []
    for key in sorted(groups, key=lambda key: status[key] == "ordinary"):  # stable
        nodes = groups[key]
        name = key[0] if isinstance(key, tuple) else judge.words.name(nodes[0])
        size = max((judge.survey.sizes[node] for node in nodes), key=larger)
        words: list[str | None] = [None, None]
        if len(rows) < LOOKED_INTO:
            found = judge.look_into(nodes, status[key])
            words = [found.cause.kind or None, found.cause.text or "; ".join(found.notes) or None]
        rows.append((name, status[key], size, *words))
    odd = sum(of != "ordinary" for of in status.values())
    loss = judge.words.name(judge.survey.root)
    title = f"The gradients of {loss}: {odd or 'none'} of {len(rows)} not ordinary"
    notes = [f"the first {LOOKED_INTO} were looked into"] if len(rows) > LOOKED_INTO else []
    return Whys(title, ["leaf", "gradient", "largest element", "cause", "why"], rows, notes)


def _leaves(survey: Survey) -> dict[Any, list[Node]]:
    """The leaves of a graph: arrays of Values by name and number, others by themselves."""
    groups: dict[Any, list[Node]] = {}
    seen: dict[Any, int] = {}
    for node in survey.order:
        if node.rule is None:
            place = place_of(node)
            key: Any = node
            if place.element is not None:
                # A second array of the same name has the same elements again.
                again = seen[place[:1] + place[4:]] = seen.get(place[:1] + place[4:], 0) + 1
                key = (f"{place.name}#{again}" if again > 1 else place.name, again)
            groups.setdefault(key, []).append(node)
    return groups


# --- what was asked for -------------------------------------------------------------------------


def _nodes(node: Any) -> list[Node]:
    if isinstance(node, Values):
        if not node.size:
            raise ValueError(f"node: there is nothing in Values of shape {node.shape}")
        return list(node.flat)
    if not isinstance(node, (Value, Tensor)):
        raise TypeError(f"node: expected a Value, a Tensor or Values, got {type(node).__name__}")
    return [node]


def _names(survey: Survey) -> dict[Node, str]:
    names = names_of(survey.order)
    if not survey.root.label and "L" not in names.values():
        names[survey.root] = "L"
    return names


def _name_of(node: Any, words: Words) -> str:
    """What was asked about; an array of Values by the name its elements have in common."""
    first = node.flat[0] if isinstance(node, Values) else node
    if isinstance(node, Values) and place_of(first).name:
        return place_of(first).name
    if first in words.survey.sizes:
        return words.name(first)
    return clean(first.label) or "the node"


# --- how it is shown ----------------------------------------------------------------------------


def _stated(status: str, gradient: Any) -> str:
    single = np.ndim(gradient) == 0
    if status == "not reached":
        return "is not there"
    if status == "zero":
        return "is 0" if single else "is 0 in all elements"
    if status in ("nan", "infinite") and not single:
        bad = np.count_nonzero(~np.isfinite(gradient))
        return f"is not finite in {bad:,} of {np.size(gradient):,} elements"
    if status in ("nan", "infinite"):
        return f"is {number(float(gradient))}"
    return f"is {status}, {'' if single else 'at most '}{number(size_of(gradient))}"


def _does_something(link: Link) -> bool:
    """Whether an edge does anything, or ends at something with a name."""
    return not (link.factor == 1.0 and link.added == 1.0) or bool(link.node.label)


def _row(link: Link, words: Words, blamed: bool) -> tuple[Any, ...]:
    defined = link.upstream != 0.0
    several = link.added != 1.0 and link.contribution != 0.0
    return (
        words.name(link.consumer),
        link.rule,
        words.name(link.node),
        link.factor if defined else None,
        link.added if several else None,
        link.gradient,
        "←" if blamed else "",
    )
