"""The paths of the chain rule: a gradient is their sum, and this lists the largest terms.

`∂L/∂w = Σ over the paths from w to L of the product of the local derivatives along the path`. The
sweep never forms these products one by one, since there are exponentially many; here the largest
are, and the others are counted exactly.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.arguments import flag_or_none, is_integer, out_of_range
from tinygrad_bp.explain.naming import names_of
from tinygrad_bp.explain.strongest import Edge, StrongestPaths, log10_of, product_of
from tinygrad_bp.explain.tables import MOST_ROWS, Table
from tinygrad_bp.graph import Node, sweep
from tinygrad_bp.hooks import hooks_of
from tinygrad_bp.scalars import Values
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.text import clean, number
from tinygrad_bp.value import Value

MOST_PATHS = 10_000  # of which a list could still be read by a program
MOST_STEPS = 12  # of a path that are written out; all are there to be read
EXACT_DIGITS = 15  # of a count that are written out


class Path(NamedTuple):
    """One path, from the quantity it starts at to the loss.

    Attributes:
        nodes: every node along it, the loss last.
        locals: the local derivatives: that of `nodes[i + 1]` by `nodes[i]` at place i.
        product: their product, which may be 0 or infinite where no float holds it.
        log10: the decimal logarithm of the absolute product, also then.
        share: the product divided by the gradient; nan where that is 0 or not finite.
        names: the nodes that are shown.
        factors: the product of the local derivatives from each node shown to the next.
    """

    nodes: tuple[Value, ...]
    locals: NDArray[np.float64]
    product: float
    log10: float
    share: float
    names: tuple[str, ...]
    factors: NDArray[np.float64]

    @property
    def arrows(self) -> str:
        """The nodes shown, in the order of the computation: `w → z → a → L`."""
        return " → ".join(_ends_of(self.names))

    @property
    def equations(self) -> str:
        """The factors shown, as derivatives: `∂z/∂w = 0.5, ∂a/∂z = 0.2`."""
        steps = zip(pairwise(self.names), self.factors, strict=True)
        return ", ".join(_ends_of([f"∂{y}/∂{x} = {number(f)}" for (x, y), f in steps]))


class Paths(Table):
    """The paths of a gradient, the largest products first.

    Attributes:
        count: how many paths there are, exactly.
        listed: the strongest of them.
        others: how many are not listed.
        gradient: what all paths add up to, by the sweep: a float; an array, if the paths to each
            element of an array were asked for.
        remainder: the gradient without the listed paths; nan for an array.
        products, shares: of the listed paths, as arrays.
    """

    __slots__ = ("count", "gradient", "listed", "others", "products", "remainder", "shares")

    def __init__(
        self, title: str, count: int, listed: Sequence[Path], gradient: Any, notes: Sequence[str]
    ) -> None:
        self.count = count
        self.listed = tuple(listed)
        self.others = count - len(self.listed)
        self.gradient = gradient
        self.products = np.array([path.product for path in listed], np.float64)
        self.shares = np.array([path.share for path in listed], np.float64)
        self.remainder = _remainder(gradient, self.products)
        rows = [
            (p.arrows, p.equations, _decimal(p.product, p.log10), _percent(p.share)) for p in listed
        ]
        notes = [*([self._rest()] if self.others else []), *self._sum(), *notes]
        super().__init__(title, ["path", "local derivatives", "product", "share"], rows, notes)

    def _rest(self) -> str:
        rest = f"… {_counted(self.others)} other path{'s' * (self.others > 1)}"
        if not math.isfinite(self.remainder):
            return rest
        scale = max(abs(self.gradient), math.fsum(map(abs, self.products)))
        if abs(self.remainder) <= 8.0 * np.finfo(float).eps * scale:
            return f"{rest}, together 0 within rounding"
        share = _percent(self.remainder / self.gradient if self.gradient else math.nan)
        return f"{rest}, together {number(self.remainder)}{f' ({share})' if share else ''}"

    def _sum(self) -> list[str]:
        if self.others or not self.count or not isinstance(self.gradient, float):
            return []
        total = _sum_of(self.products)
        close = math.isclose(total, self.gradient, rel_tol=1e-9, abs_tol=1e-300)
        if close or (math.isnan(total) and math.isnan(self.gradient)):
            return [f"sum: {number(total)}, the gradient"]
        return [
            f"sum: {number(total)}; the sweep has {number(self.gradient)}, since it adds up before "
            "it multiplies: 0 by cancellation times infinity is 0, and numbers may overflow"
        ]

    def text(self) -> str:
        """Each path on a line, and its local derivatives on the next."""
        lines = [self.title]
        for i, (path, equations, product, share) in enumerate(self.rows[:MOST_ROWS], 1):
            shown = f", {share}" if share else ""
            lines += [f"{i:3}. {path}   product {product}{shown}"]
            lines += [f"     {equations}"] if equations else []
        return "\n".join([*lines, *self._cut(), *self.notes])


def paths(loss: Any, node: Any, top: int | None = 10, *, full: bool | None = None) -> Paths:
    """The gradient of `loss` by `node` as a sum over paths, and the largest terms of it.

    `∂L/∂w` is the sum over all paths from w to L of the product of the local derivatives along the
    path (Bauer 1974, "Computational graphs and rounding error"). The strongest paths are found
    without enumerating them, and the number of all is exact.

    A local derivative that is 0 makes its path 0; one that is infinite or nan makes it so, unless
    the path was 0 before (in the order of the sweep, from the loss). nan counts as larger than
    infinity. Products are ranked with their exponents apart, and so without underflow. Equal ones
    come in the order of the sweep.

    Args:
        loss: a Value.
        node: a Value; a list of them, for the copies of one parameter, whose derivatives are
            added; or an array of Values, for the paths to each of its elements.
        top: how many paths to list at most; None for all.
        full: True to show every node of a path, False to show the named ones alone, with the
            product of the local derivatives between them. If not given, the named ones alone where
            there are any. The nodes and local derivatives of a `Path` are always complete.

    Raises:
        TypeError: loss or node is not made of Values.
        ValueError: loss requires no gradient; top is not positive; or all paths are asked for and
            there are more than 10,000.
    """
    root, targets = _scalar(loss, "loss"), _targets(node)
    if top is not None and (not is_integer(top) or top < 1):
        raise out_of_range("top", "a positive integer or None", top)
    flag_or_none(full, "full")
    top = None if top is None else int(min(top, sys.maxsize))
    gradients = _gradients(root, targets)
    found = StrongestPaths(root, targets)
    count = sum(found.counts.values())
    if top is None and count > MOST_PATHS:
        raise ValueError(
            f"top: there are {_counted(count)} paths, too many to list (at most {MOST_PATHS:,}); "
            "give a number"
        )
    chosen = list(islice(found, top))
    names = _Names(root, found.order, chosen, full)
    of_each = isinstance(node, Values)
    total = math.nan if of_each else _sum_of(np.array(list(gradients.values())))
    listed = [
        _path(edges, names, gradients[edges[-1].consumer] if of_each else total) for edges in chosen
    ]
    gradient: Any = total
    if isinstance(node, Values):
        gradient = np.array([gradients[v] for v in node.flat]).reshape(node.shape)
    title = _title(root, node, targets, gradient, count, names)
    return Paths(title, count, listed, gradient, _notes(found, chosen))


# --- what was asked for -------------------------------------------------------------------------


def _scalar(x: Any, what: str) -> Value:
    if isinstance(x, Values) and x.size == 1:
        x = next(iter(x.flat))
    if isinstance(x, Value):
        return x
    hint = ""
    if isinstance(x, Tensor):
        hint = (
            ": paths are those of single numbers; run the same code on model.scalar_view() and "
            "tb.values(array)"
        )
    elif isinstance(x, Values):
        hint = f" of shape {x.shape}: take one element, or the sum"
    raise TypeError(f"{what}: expected a Value, got a {type(x).__name__}{hint}")


def _targets(node: Any) -> list[Value]:
    """The Values asked for, each once."""
    if isinstance(node, Values):
        return list(dict.fromkeys(node.flat))
    if not isinstance(node, (list, tuple)):
        return [_scalar(node, "node")]
    if not node:
        raise ValueError("node: expected at least one Value, got an empty sequence")
    return list(dict.fromkeys(_scalar(x, "node") for x in node))


def _gradients(root: Value, targets: Sequence[Value]) -> dict[Value, float]:
    """The gradients by the sweep; 0 for what it does not reach."""
    gradients = dict.fromkeys(targets, 0.0)
    for step in sweep(root):
        if step.node in gradients:
            gradients[step.node] = float(step.gradient)
    return gradients


# --- one path -----------------------------------------------------------------------------------


class _Names:
    """What the nodes of the listed paths are called, and which of them are shown."""

    def __init__(
        self, root: Node, order: Sequence[Node], chosen: Sequence[list[Edge]], full: bool | None
    ) -> None:
        self._names = names_of(order)
        if not root.label and "L" not in self._names.values():
            self._names[root] = "L"
        if full is None:
            full = not any(edge.consumer.label for edges in chosen for edge in edges[1:-1])
        self.full = full

    def __getitem__(self, node: Node) -> str:
        return self._names.get(node) or clean(node.label) or "the node"

    def shown(self, nodes: Sequence[Node]) -> list[int]:
        """The places of a path that are shown: its ends, and what has a name."""
        last = len(nodes) - 1
        return [i for i, n in enumerate(nodes) if self.full or i in (0, last) or n.label]


def _path(edges: Sequence[Edge], names: _Names, gradient: float) -> Path:
    """A path from its edges, which come from the root downwards, the last one without meaning."""
    nodes = tuple(edge.consumer for edge in reversed(edges))
    locals_ = [edge.local for edge in reversed(edges[:-1])]
    strength, product = product_of(reversed(locals_))
    places = names.shown(nodes)
    factors = [product_of(reversed(locals_[i:j]))[1] for i, j in pairwise(places)]
    known = gradient != 0.0 and math.isfinite(gradient)
    return Path(
        nodes,
        np.array(locals_, np.float64),
        product,
        log10_of(strength),
        product / gradient if known else math.nan,
        tuple(names[nodes[i]] for i in places),
        np.array(factors, np.float64),
    )


def _ends_of(parts: Sequence[str]) -> Iterator[str]:
    """The parts; of very many the first and the last, and between them how many there are."""
    if len(parts) <= MOST_STEPS:
        yield from parts
        return
    half = MOST_STEPS // 2
    yield from parts[:half]
    yield f"… {len(parts) - 2 * half} more …"
    yield from parts[-half:]


# --- words --------------------------------------------------------------------------------------


def _title(
    root: Node, node: Any, targets: Sequence[Node], gradient: Any, count: int, names: _Names
) -> str:
    of = names[targets[0]] if len(targets) == 1 else f"{len(targets)} quantities"
    if not count:
        return f"There is no path from {of} to {names[root]}: it does not depend on it"
    paths = f"{_counted(count)} path{'s' * (count > 1)}"
    if isinstance(node, Values):
        return f"∂{names[root]} by the {len(targets)} elements of an array: {paths} in all"
    by = f"∂{names[root]}/∂({' + '.join(_ends_of([names[t] for t in targets]))})"
    if len(targets) == 1:
        by = f"∂{names[root]}/∂{of}"
    return f"{by} = {number(gradient)}, the sum over {paths}"


def _notes(found: StrongestPaths, chosen: Sequence[Sequence[Edge]]) -> list[str]:
    notes = []
    routes = [tuple(edge.consumer for edge in edges) for edges in chosen]
    if len(set(routes)) < len(routes):
        notes.append(
            "paths through the same nodes: an operand that stands in two places, as in a·a"
        )
    if any(hooks_of(node) for node in found.order):
        notes.append("a hook may change the gradient: the products know nothing of it")
    return notes


def _remainder(gradient: Any, products: NDArray[np.float64]) -> float:
    if not isinstance(gradient, float):
        return math.nan
    return gradient - _sum_of(products)


def _sum_of(numbers: NDArray[np.float64]) -> float:
    """The sum, rounded once where it is finite."""
    if np.isfinite(numbers).all():
        try:
            return math.fsum(numbers)
        except OverflowError:
            pass
    with np.errstate(all="ignore"):
        return float(numbers.sum())


def _counted(count: int) -> str:
    """A number of paths: exactly, or of a long one its size."""
    exponent = int(math.log10(count)) if count else 0
    if exponent < EXACT_DIGITS:
        return f"{count:,}"
    leading = 10.0 ** (math.log10(count) - exponent)
    return f"{leading:.3f}·10^{exponent}" if exponent < 10**9 else f"10^{exponent}"


def _decimal(product: float, log10: float) -> str:
    """A product, also one that no float holds."""
    if math.isfinite(log10) and not 1e-300 < abs(product) < math.inf:
        exponent = math.floor(log10)
        sign = "-" if math.copysign(1.0, product) < 0.0 else ""
        return f"{sign}{10.0 ** (log10 - exponent):.3f}e{exponent:+d}"
    return number(product)


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{100.0 * share:.3g} %"
