"""A gradient derived by hand, held against the recorded graph: equal or not, and if not, why.

Why is found by testing hypotheses. Each runs a rule that is known to be wrong on this very graph
and is compared with what was given; the one that gives the same numbers is named. Where several
give the same numbers, all of them are: numbers alone cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tinygrad_bp.arguments import positive, several, wrong_kind
from tinygrad_bp.explain import rounding
from tinygrad_bp.explain.hypotheses import Hypothesis, after_update, hypotheses
from tinygrad_bp.explain.resweep import Graph
from tinygrad_bp.explain.sizes import Sizes
from tinygrad_bp.explain.tables import Shown, Table
from tinygrad_bp.explain.targets import Array, Target, target_of
from tinygrad_bp.explain.transforms import Fit, fits, named_factor, sentence
from tinygrad_bp.graph import Node
from tinygrad_bp.nn.module import Module
from tinygrad_bp.scalars import Values
from tinygrad_bp.text import clean, number

LARGE = 20_000  # nodes; beyond it the search ends with the first explanation
MOST_ALSO = 3  # other explanations that are told


class Finding(NamedTuple):
    """A mistake that gives the numbers that were given.

    Attributes:
        mistake: its short name: `sign`, `transposed`, `missing_derivative`...
        text: a sentence about it.
        fit: the largest difference that it leaves, relative to the gradient's size.
    """

    mistake: str
    text: str
    fit: float


class Verdict(Shown):
    """What is to be said about one array that was given.

    Attributes:
        name: what it was given for.
        status: "equal" within rounding; "close": right, but computed imprecisely; "different"; or
            "not finite".
        given, right: the array as it was given, and the sweep's.
        tolerance: the difference that rounding explains.
        largest: the largest difference; nan if the shapes differ.
        where: its place, an index.
        findings: the mistakes that give these numbers, the likeliest first; empty if none is known.
        note: what else is to be said.
    """

    __slots__ = (
        "findings", "given", "largest", "name", "note", "right", "status", "tolerance", "where",
    )  # fmt: skip

    def __init__(self, name: str, given: Array, right: Array, tolerance: float) -> None:
        self.name = name
        self.given, self.right = given, right
        self.tolerance = tolerance
        self.status = "different"
        self.largest = float("nan")
        self.where: tuple[int, ...] = ()
        self.findings: list[Finding] = []
        self.note = ""

    def __bool__(self) -> bool:
        """Whether it is right: equal, or close."""
        return self.status in ("equal", "close")

    @property
    def mistake(self) -> str | None:
        """The short name of the likeliest mistake; None where there is none, or none is known."""
        return self.findings[0].mistake if self.findings else None

    @property
    def also(self) -> list[Finding]:
        """The other mistakes that would give the same numbers."""
        return self.findings[1:]

    def text(self) -> str:
        return f"{self.name}: {_STATUS[self.status](self)}"


def _different(verdict: Verdict) -> str:
    if verdict.given.shape == verdict.right.shape:
        place = f" at [{', '.join(map(str, verdict.where))}]" if verdict.where else ""
        head = f"not equal (largest difference {number(verdict.largest)}{place})."
    else:
        head = f"not equal (shape {verdict.given.shape}, expected {verdict.right.shape})."
    told = [head]
    if verdict.findings:
        told.append(verdict.findings[0].text)
        if verdict.also:
            others = [finding.text.removeprefix("It is ").rstrip(".") for finding in verdict.also]
            told.append(f"Also fits: {'; '.join(others)}.")
    elif not verdict.note:
        told.append("None of the mistakes known here gives these numbers.")
    return " ".join([*told, verdict.note]).strip()


def _close(verdict: Verdict) -> str:
    digits = int(-np.log10(verdict.largest / max(np.abs(verdict.right).max(), 1e-300)))
    return (
        f"right to about {max(digits, 1)} digits (largest difference {number(verdict.largest)}): "
        "numerically right but imprecise, as by finite differences or in float32. " + verdict.note
    ).strip()


def _equal(verdict: Verdict) -> str:
    return f"equal (within rounding, {number(verdict.tolerance)}). {verdict.note}".strip()


def _not_finite(verdict: Verdict) -> str:
    return verdict.note


_STATUS: dict[str, Callable[[Verdict], str]] = {
    "equal": _equal,
    "close": _close,
    "different": _different,
    "not finite": _not_finite,
}


class Comparison(Shown):
    """What is to be said about gradients derived by hand.

    It is true in a condition if all are right; `comparison["W1"]` is the verdict of one.

    Attributes:
        verdicts: of the parameters, in the order in which they were given.
        deltas: of the deltas, from the loss backwards.
        departs: the name of the first delta, walking backwards from the loss, that is not right;
            None if all are, or none were given.
    """

    __slots__ = ("deltas", "verdicts")

    def __init__(self, verdicts: list[Verdict], deltas: list[Verdict]) -> None:
        self.verdicts = verdicts
        self.deltas = deltas

    def __bool__(self) -> bool:
        return all(self.verdicts) and all(self.deltas)

    def __iter__(self) -> Iterator[Verdict]:
        return iter([*self.verdicts, *self.deltas])

    def __getitem__(self, name: str) -> Verdict:
        for verdict in self:
            if verdict.name in (name, clean(name)):
                return verdict
        raise KeyError(f"nothing was given for {name!r}")

    @property
    def departs(self) -> str | None:
        """Where the derivation departs from the right one."""
        return next((verdict.name for verdict in self.deltas if not verdict), None)

    @property
    def table(self) -> Table:
        """One row per array: its status, the largest difference, and the likeliest mistake."""
        rows = [(v.name, v.status, v.largest, v.tolerance, v.mistake or "") for v in self]
        columns = ["name", "status", "largest difference", "rounding", "mistake"]
        return Table("by hand and by the sweep", columns, rows)

    def text(self) -> str:
        lines: list[str] = []
        told: dict[str, str] = {}  # the name of the first array that it was told of
        for verdict in self:
            finding = verdict.findings[0].text if verdict.findings else ""
            line = verdict.text()
            if finding in told:
                line = f"{line[: line.index(finding)]}The same mistake as in {told[finding]}."
            elif finding:
                told[finding] = verdict.name
            lines.append(line)
        if self.deltas:
            start = len(self.verdicts)
            lines[start:] = [self._walk(), *(f"  {line}" for line in lines[start:])]
        return "\n".join(lines)

    def _walk(self) -> str:
        if self.departs is None:
            return "Deltas, from the loss backwards: all are right."
        before = []
        for verdict in self.deltas:
            if not verdict:
                break
            before.append(verdict.name)
        right = (
            f"{', '.join(before)} {'is' if len(before) == 1 else 'are'} right; " if before else ""
        )
        return f"Deltas, from the loss backwards: {right}{self.departs} is the first that departs."

    def html(self) -> str:
        return self.table.html() + super().html()


Given = Mapping[Any, Any] | Iterable[tuple[Any, Any]]


def compare(
    loss: Any,
    gradients: Given,
    deltas: Given | None = None,
    *,
    model: Any = None,
    learning_rate: float | None = None,
) -> Comparison:
    """Hold gradients derived by hand against the sweep's, and say what went wrong.

    Args:
        loss: the node that was differentiated, a single number.
        gradients: the derivatives by hand: a dict from a parameter (a node, or its name) to an
            array of its shape; or pairs of these, since an array of Values is no key of a dict.
        deltas: the same for inner quantities, by names such as "z1" or "h(3)": then the first of
            them, walking backwards from the loss, that departs is told. A delta is that of the
            whole batch's loss; one that leaves out the mean's 1/m throughout is taken as right.
        model: a Module, whose names of parameters (`layers.0.W`) may be used.
        learning_rate: of an update that was made meanwhile; if not given, any is tried.

    Returns:
        A verdict for each. "equal" is within a thousand roundings of the largest term of the
        gradient; "close" within what low precision explains, see `rounding.imprecision`.

    Raises:
        TypeError: an array is not made of numbers, or a key is nothing of the graph.
        ValueError: a name is unknown or stands for several nodes, or an array has a shape that no
            known mistake gives.

    Example:
        >>> w = Value(2.0, "w")
        >>> compare((w * 3.0 - 1.0) ** 2, {"w": -30.0})["w"].mistake
        'sign'
    """
    if model is not None and not isinstance(model, Module):
        raise wrong_kind("model", "a Module", model)
    if learning_rate is not None:
        learning_rate = positive(learning_rate, "learning_rate")
    graph = Graph(loss)
    parameters = _read(gradients, graph, model, "gradients")
    inner = _read({} if deltas is None else deltas, graph, model, "deltas")
    if not parameters and not inner:
        raise ValueError("gradients: expected at least one array, got none")
    place = {node: i for i, node in enumerate(graph.order)}
    inner.sort(key=lambda pair: max(place.get(n, -1) for n in pair[0].nodes), reverse=True)
    search = _Search(graph, [*parameters, *inner], learning_rate)
    _accept_per_sample(search.sizes, search.verdicts[len(parameters) :])
    search.explain()
    verdicts = search.verdicts
    return Comparison(verdicts[: len(parameters)], verdicts[len(parameters) :])


def _read(given: Given, graph: Graph, model: Any, what: str) -> list[tuple[Target, Array]]:
    pairs = list(given.items()) if isinstance(given, Mapping) else several(given, what, "pairs")
    if not all(map(_is_pair, pairs)):
        expected = "a dict, or pairs of a node or its name and an array"
        raise wrong_kind(what, expected, next(p for p in pairs if not _is_pair(p)))
    read = []
    for key, numbers in pairs:
        target = target_of(key, graph, model, what)
        read.append((target, _numbers(numbers, f"{what}[{target.name!r}]")))
    return read


def _is_pair(x: Any) -> bool:
    return isinstance(x, tuple) and len(x) == 2


def _numbers(x: Any, what: str) -> Array:
    if isinstance(x, (Node, Values)):
        x = x.data  # type: ignore[union-attr]
    elif hasattr(x, "detach"):  # PyTorch's
        x = x.detach().cpu().numpy()
    array = np.array(x)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{what}: expected an array of real numbers, got {array.dtype}")
    return array if array.dtype.kind == "f" else array.astype(np.float64)


# --- the search ---------------------------------------------------------------------------------


class _Search:
    """The verdicts, while hypotheses are tested."""

    def __init__(
        self, graph: Graph, given: list[tuple[Target, Array]], learning_rate: float | None
    ) -> None:
        self.graph = graph
        self.learning_rate = learning_rate
        self.sizes = Sizes(graph)
        self.factors = self.sizes.named()
        self.targets = [target for target, _ in given]
        self.verdicts: list[Verdict] = []
        self.found: list[list[tuple[Hypothesis, Fit]]] = [[] for _ in given]
        for target, array in given:
            right = target.of(graph.right)
            verdict = Verdict(target.name, array, right, rounding.tolerance(graph, target, array))
            _judge(verdict, rounding.imprecision(graph, target))
            self.verdicts.append(verdict)

    def explain(self) -> None:
        """Find out what gives the arrays that are not right."""
        open_ = [i for i, v in enumerate(self.verdicts) if _is_open(v)]
        if not open_:
            return
        shapes: dict[int, set[tuple[int, ...]]] = {i: set() for i in open_}
        for hypothesis in self._hypotheses(open_):
            for i in open_:
                shapes[i] |= self._test(i, hypothesis)
            if len(self.graph.order) > LARGE and all(self.found[i] for i in open_):
                break
        for i in open_:
            self._conclude(i, shapes[i])

    def _hypotheses(self, open_: list[int]) -> Iterator[Hypothesis]:
        right = self.graph.right
        yield Hypothesis("right", "the gradient", 0.0, lambda target: target.of(right))
        yield from hypotheses(self.graph, [self.targets[i] for i in open_])
        differing = [
            (self.targets[i], self.verdicts[i].given)
            for i in open_
            if self.verdicts[i].status == "different"
        ]
        moved = after_update(self.graph, differing, self.learning_rate)
        if moved is not None:
            yield moved

    def _test(self, i: int, hypothesis: Hypothesis) -> set[tuple[int, ...]]:
        """Note where a hypothesis fits; the shapes that it would give."""
        predicted = hypothesis.predict(self.targets[i])
        if predicted is None:
            return set()
        verdict = self.verdicts[i]
        if hypothesis.mistake != "right" and _same(predicted, verdict.right, verdict.tolerance):
            return set()  # the mistake makes no difference here
        with np.errstate(all="ignore"):
            for fit in fits(verdict, predicted, hypothesis.mistake == "right", self.factors):
                self.found[i].append((hypothesis, fit))
        return {predicted.shape, predicted.T.shape}

    def _conclude(self, i: int, shapes: set[tuple[int, ...]]) -> None:
        verdict, found = self.verdicts[i], self.found[i]
        if verdict.status == "close":
            found = [(h, fit) for h, fit in found if fit.residual <= verdict.tolerance]
            if found and min(f.residual for _, f in found) < 1e-3 * verdict.largest:
                verdict.status = "different"
            else:
                return
        if not found:
            _unexplained(verdict, shapes)
            return
        keys = {pair: self._key(i, *pair) for pair in _simple(found)}
        found = sorted(keys, key=lambda pair: keys[pair])
        told: dict[str, Finding] = {}
        for hypothesis, fit in found:
            if keys[hypothesis, fit][:-1] != keys[found[0]][:-1]:
                break  # what comes now contradicts more, or explains less, than what was told
            text = sentence(hypothesis, fit)
            scale = max(float(np.abs(verdict.right).max(initial=0.0)), 1e-300)
            name = named_factor(hypothesis, fit)
            told.setdefault(text, Finding(name, text, fit.residual / scale))
        verdict.findings = list(told.values())[: MOST_ALSO + 1]

    def _key(self, i: int, hypothesis: Hypothesis, fit: Fit) -> tuple[Any, ...]:
        """Sort by: does it contradict what is right, how much it explains, how simple it is."""
        noisy = fit.residual > self.verdicts[i].tolerance
        explained = sum(
            any(h is hypothesis and f.change == fit.change for h, f in found)
            for found in self.found
        )
        return noisy, self._contradicts(hypothesis), -explained, hypothesis.rank + fit.rank

    def _contradicts(self, hypothesis: Hypothesis) -> bool:
        """Whether a mistake in the sweep would have spoilt something that is right."""
        if not hypothesis.everywhere:
            return False
        for target, verdict in zip(self.targets, self.verdicts, strict=True):
            if verdict.status == "equal":
                predicted = hypothesis.predict(target)
                if predicted is not None and not _same(predicted, verdict.right, verdict.tolerance):
                    return True
        return False


def _simple(found: list[tuple[Hypothesis, Fit]]) -> list[tuple[Hypothesis, Fit]]:
    """Without mistakes that need another one besides, if there are some that need none."""
    plain = [(h, fit) for h, fit in found if h.mistake == "right" or not fit.rank]
    return plain or found


def _same(x: Array, y: Array, tolerance: float) -> bool:
    return x.shape == y.shape and bool(np.all(np.abs(x - y) <= tolerance))


def _is_open(verdict: Verdict) -> bool:
    return verdict.status in ("different", "close") and not verdict.findings


def _judge(verdict: Verdict, imprecise: float) -> None:
    """What can be said of the numbers alone; differences may be imprecise up to a limit."""
    given, right = verdict.given, verdict.right
    bad = ~np.isfinite(given)
    if bad.any() and not (
        given.shape == right.shape and np.array_equal(given, right, equal_nan=True)
    ):
        _say_not_finite(verdict, bad)
        return
    if given.shape != right.shape:
        if _squeezed(given.shape) != _squeezed(right.shape):
            return
        same = given.reshape(right.shape)
        if np.all(np.abs(same - right) <= max(verdict.tolerance, imprecise)):
            text = f"It is the gradient in shape {given.shape}, where {right.shape} is expected."
            verdict.findings = [Finding("shape", text, 0.0)]
        return
    with np.errstate(invalid="ignore"):
        difference = np.where(given == right, 0.0, np.abs(given - right))
    verdict.largest = float(difference.max(initial=0.0))
    if given.size:
        verdict.where = tuple(map(int, np.unravel_index(np.argmax(difference), given.shape)))
    if np.isnan(right).any() and not np.array_equal(given, right, equal_nan=True):
        verdict.status, verdict.note = "not finite", "the right gradient is itself not finite."
    elif verdict.largest <= verdict.tolerance or np.array_equal(given, right, equal_nan=True):
        verdict.status = "equal"
    elif verdict.largest <= imprecise:
        verdict.status = "close"


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def _say_not_finite(verdict: Verdict, bad: Array) -> None:
    first = tuple(map(int, np.argwhere(bad)[0]))
    kind = "nan" if np.isnan(verdict.given).any() else "inf"
    at = f" at [{', '.join(map(str, first))}]" if first else ""
    verdict.status, verdict.where = "not finite", first
    verdict.note = f"holds {kind} ({int(bad.sum())} of {bad.size} numbers, the first{at})."


def _unexplained(verdict: Verdict, shapes: set[tuple[int, ...]]) -> None:
    given, right = verdict.given.shape, verdict.right.shape
    if given == right:
        return
    if given not in shapes and _squeezed(given) != _squeezed(right):
        raise ValueError(f"{verdict.name}: expected an array of shape {right}, got {given}")
    transposed = given == right[::-1]
    what = "that of the transpose" if transposed else "not that of the parameter"
    verdict.note = f"The shape is {what}, and the numbers are others as well."


def _accept_per_sample(sizes: Sizes, deltas: list[Verdict]) -> None:
    """Deltas that all lack the same 1/m are those of the single samples, as in textbooks."""
    m = float(sizes.samples)
    if m == 1.0 or not any(v.status == "different" for v in deltas):
        return
    lacking = [v for v in deltas if v.given.shape == v.right.shape and v.right.any()]
    if not lacking or not all(_same(v.given, m * v.right, m * v.tolerance) for v in lacking):
        return
    for verdict in lacking:
        verdict.status = "equal"
        verdict.note = "It is that of the single samples: the mean's 1/m is left out."
