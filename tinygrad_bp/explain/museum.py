"""A mistake on show: what it gives on a graph, beside what is right, with a word about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tinygrad_bp.arguments import out_of_range, several
from tinygrad_bp.explain import rounding
from tinygrad_bp.explain.resweep import Graph
from tinygrad_bp.explain.tables import Shown, Table, escaped
from tinygrad_bp.explain.targets import Array, Target, parameters_of, target_of
from tinygrad_bp.explain.wrong import DoesNotApplyError
from tinygrad_bp.graph import Node
from tinygrad_bp.scalars import Values

Rule = Callable[[Graph], Callable[[Target], Any]]
Parameters = Iterable[Any] | None


class Prose(NamedTuple):
    """A mistake in words.

    Attributes:
        what: what is done wrong.
        who: where it is met.
        shows: how it shows.
    """

    what: str
    who: str
    shows: str


class Mistake(Shown):
    """What a wrong rule gives on a graph, beside what is right.

    Attributes:
        name: of the mistake.
        prose: what is done wrong, who does it, how it shows.
        right, wrong: the gradients by the parameters' names.
        changed: the names of the parameters whose gradient is spoilt, beyond rounding.
    """

    __slots__ = ("changed", "name", "prose", "right", "wrong")

    def __init__(
        self,
        name: str,
        prose: Prose,
        right: dict[str, Array],
        wrong: dict[str, Array],
        changed: list[str],
    ) -> None:
        self.name = name
        self.prose = prose
        self.right, self.wrong = right, wrong
        self.changed = changed

    @property
    def table(self) -> Table:
        """The two gradients of every parameter, side by side."""
        rows = [
            (name, right, self.wrong[name], _difference(right, self.wrong[name]))
            for name, right in self.right.items()
        ]
        columns = ["parameter", "right", "wrong", "largest difference"]
        spoilt = ", ".join(self.changed) or "nothing here"
        return Table(self.name, columns, rows, [f"It spoils {spoilt}."])

    def text(self) -> str:
        return "\n".join([self.table.text(), *self.prose])

    def html(self) -> str:
        return self.table.html() + "".join(f"<p>{escaped(line)}</p>\n" for line in self.prose)


class Museum(Shown):
    """The mistakes that can be made on a graph: `museum["overwriting"]` is one of them.

    Attributes:
        mistakes: those that apply, by name.
        skipped: the others, with the reason why they do not.
    """

    __slots__ = ("mistakes", "skipped")

    def __init__(self, mistakes: dict[str, Mistake], skipped: dict[str, str]) -> None:
        self.mistakes = mistakes
        self.skipped = skipped

    def __getitem__(self, name: str) -> Mistake:
        if name in self.skipped:
            raise KeyError(f"{name} does not apply here: {self.skipped[name]}")
        return self.mistakes[name]

    def __iter__(self) -> Iterator[Mistake]:
        return iter(self.mistakes.values())

    def __len__(self) -> int:
        return len(self.mistakes)

    @property
    def table(self) -> Table:
        """For each mistake and parameter the largest difference from the right gradient."""
        names = list(dict.fromkeys(name for mistake in self for name in mistake.right))
        rows = [
            (m.name, *(_difference(m.right[n], m.wrong[n]) if n in m.changed else None
                       for n in names))
            for m in self
        ]  # fmt: skip
        notes = [f"{name}: does not apply, {reason}" for name, reason in self.skipped.items()]
        title = "largest difference from the right gradient; empty where there is none"
        return Table(title, ["mistake", *names], rows, notes)

    def text(self) -> str:
        return self.table.text()

    def html(self) -> str:
        return self.table.html()


def _difference(right: Array, wrong: Array) -> float | None:
    """The largest one; None where the shapes differ."""
    if right.shape != wrong.shape:
        return None
    with np.errstate(invalid="ignore"):
        return float(np.abs(right - wrong).max(initial=0.0))


def made(loss: Any, parameters: Parameters, name: str, rule: Rule, prose: Prose) -> Mistake:
    """Run a wrong rule for the parameters that are asked for."""
    graph = loss if isinstance(loss, Graph) else Graph(loss)
    if parameters is None:
        targets = parameters_of(graph)
    else:
        one = isinstance(parameters, (str, Node, Values))
        asked = [parameters] if one else several(parameters, "parameters", "nodes or names")
        if not asked:
            raise out_of_range("parameters", "at least one node or name", parameters)
        targets = [target_of(key, graph) for key in asked]
    with np.errstate(all="ignore"):
        predict = rule(graph)
        right = {target.name: target.of(graph.right) for target in targets}
        wrong_, changed, reason, applies = dict(right), [], "", False
        for target in targets:
            try:
                predicted = predict(target)
            except DoesNotApplyError as refused:
                reason = str(refused)
                continue
            applies = True
            if predicted is None:
                continue
            wrong_[target.name] = np.array(predicted)
            if _spoilt(graph, target, wrong_[target.name], right[target.name]):
                changed.append(target.name)
    if not applies:
        raise DoesNotApplyError(f"{name}: {reason}")
    return Mistake(name, prose, right, wrong_, changed)


def _spoilt(graph: Graph, target: Target, wrong: Array, right: Array) -> bool:
    if wrong.shape != right.shape:
        return True
    return not bool(np.all(np.abs(wrong - right) <= rounding.tolerance(graph, target, right)))
