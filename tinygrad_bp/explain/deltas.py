"""The delta table of a textbook: every named inner quantity with its value and its derivative.

A delta is the derivative of the loss by an inner quantity. Textbooks differ in which: by the
weighted input z (Nielsen), or by the state h (Goodfellow et al. 2016, section 10.2.2). Whatever is
named has a row of its own, so both are there: `δ_z = σ'(z) ⊙ δ_a`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tinygrad_bp.arguments import flag, text
from tinygrad_bp.derivatives import read_only
from tinygrad_bp.explain.naming import Place, names_of, place_of
from tinygrad_bp.explain.quantities import Array, Quantity, check_root, quantities_of
from tinygrad_bp.explain.steps import steps_of
from tinygrad_bp.explain.tables import Shown, Table
from tinygrad_bp.graph import Node, sweep
from tinygrad_bp.text import clean, number


class Delta(Shown):
    """One quantity with its value and the derivative of the loss by it.

    Attributes:
        name: with the time step, if there is one; numbered, if several in a layer have the same.
        symbol: the name without the time step.
        step: the time step, or None.
        layer: the path of the modules it was made in.
        value: a read-only array; of an element that is not in the graph, nan.
        delta: the derivative, in the same shape; None for a quantity that is not recorded itself.
        nodes: the node, or the nodes of the elements.
    """

    __slots__ = ("delta", "layer", "name", "nodes", "step", "symbol", "value")

    def __init__(
        self, name: str, place: Place, value: Array, delta: Array | None, nodes: tuple[Node, ...]
    ) -> None:
        self.name = name
        self.symbol, self.step, self.layer = place.symbol, place.step, place.layer
        self.value = value
        self.delta = delta
        self.nodes = nodes

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return self.value.shape

    def text(self) -> str:
        where = f" in {self.layer}" if self.layer else ""
        delta = "not recorded" if self.delta is None else str(self.delta)
        return f"{self.name}{where}\nvalue\n{self.value}\ndelta\n{delta}"


class Deltas(Shown):
    """The deltas of a loss, in backward order: as a derivation goes.

    Iterated, it gives each `Delta`, from the loss down; `reversed()`, from the input up. One is
    found by name and step, `table["h", 3]` or `table["h(3)"]`, and where several layers have the
    same names by the layer as well, or by a part of its path: `table["h", 3, "layer2"]`.

    Attributes:
        rows: each `Delta`.
        notes: what is to be known when reading them.
    """

    __slots__ = ("notes", "rows", "title")

    def __init__(self, title: str, rows: Sequence[Delta], notes: Sequence[str]) -> None:
        self.title = title
        self.rows = tuple(rows)
        self.notes = tuple(notes)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Delta]:
        return iter(self.rows)

    def __reversed__(self) -> Iterator[Delta]:
        return reversed(self.rows)

    def __contains__(self, key: object) -> bool:
        return len(self._found(key)) == 1

    def __getitem__(self, key: Any) -> Delta:
        """The delta of this name, of (name, step), (name, layer), or (name, step, layer).

        Raises:
            KeyError: there is none, or several.
        """
        found = self._found(key)
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(f"{d.name!r} in {d.layer or 'no layer'}" for d in found[:3])
            raise KeyError(
                f"{key!r} are {len(found)} quantities, expected (name, step, layer) or a numbered "
                f"name: {names}{', ...' if found[3:] else ''}"[:200]
            )
        names = ", ".join(dict.fromkeys(d.symbol for d in reversed(self.rows)))
        raise KeyError(f"no quantity is called {key!r}; there are {names or 'none'}"[:200])

    def _found(self, key: Any) -> list[Delta]:
        name, *rest = key if isinstance(key, tuple) and key else (key,)
        layer = rest.pop() if rest and isinstance(rest[-1], str) else ""
        if not isinstance(name, str) or len(rest) > 1:
            raise TypeError(f"expected a name, (name, step) or (name, step, layer), got {key!r}")
        name = clean(name)
        found = [d for d in self.rows if d.name == name]
        if rest or not found:
            found = [d for d in self.rows if d.symbol == name or d.name.startswith(f"{name}#")]
        found = [d for d in found if f"/{layer}/" in f"/{d.layer}/" or not layer]
        return [d for d in found if d.step == rest[0]] if rest else found

    def over_time(self, symbol: str, layer: str = "") -> list[Delta]:
        """The deltas of one quantity at each of its time steps, the first step first.

        Raises:
            KeyError: it has no time steps, or is in several layers and none was named.
        """
        text(symbol, "symbol")
        text(layer, "layer")
        found = [d for d in self._found((symbol, layer)) if d.step is not None]
        by_step = {d.step: d for d in found}
        if not found or len(by_step) < len(found):
            layers = sorted({d.layer for d in found})
            within = f" of layer {layer!r:.40}" if layer else ""
            raise KeyError(
                f"over_time: {symbol!r:.40}{within} has "
                + (f"several a step, in {layers}; name one" if found else "no time steps")
            )
        return sorted(found, key=lambda d: d.step or 0)

    def table(self) -> Table:
        """The rows as a `Table`: quantity, layer, value, delta."""
        rows = [(d.name, d.layer, d.value, d.delta) for d in self.rows]
        return Table(self.title, ["quantity", "layer", "value", "delta"], rows, self.notes)

    def summary(self) -> Table:
        """Sizes in the place of arrays, for networks too big to read.

        The norms are Euclidean, over all elements; `zeros` is the share of deltas that are 0.
        """
        columns = ["quantity", "layer", "shape", "‖value‖", "‖delta‖", "largest |delta|", "zeros"]
        return Table(self.title, columns, [_sizes(d) for d in self.rows], self.notes)

    def text(self) -> str:
        return self.table().text()

    def html(self) -> str:
        return self.table().html()


def _sizes(d: Delta) -> tuple[Any, ...]:
    shape = "×".join(map(str, d.shape))
    with np.errstate(all="ignore"):
        size = float(np.linalg.norm(d.value.astype(np.float64)))
        if d.delta is None or not d.delta.size:
            return d.name, d.layer, shape, size, None, None, None
        delta = d.delta.astype(np.float64)
        zeros = float(np.mean(delta == 0.0))
        largest = float(np.abs(delta).max())
        return d.name, d.layer, shape, size, float(np.linalg.norm(delta)), largest, zeros


def deltas(loss: Any, gradient: Any = None, *, unnamed: bool = False) -> Deltas:
    """Every named inner quantity with its value and the derivative of the loss by it.

    Quantities are named by `nn.named` (the layers and cells of `nn` do it) or by their `label`;
    elements of arrays of Values are gathered into the array. Arrays have samples in rows: the last
    axis is that of the features. Where a loss works with `log_softmax`, that is shown as `log ŷ`,
    and beside it `ŷ`, which is no node of the graph and has no delta.

    Args:
        loss: a Value or a Tensor; no `.grad` is written.
        gradient: the derivative of something further by the loss; 1 for a single number.
        unnamed: show the inner nodes without a name as well, as `v1`, `v2`, ...

    Returns:
        The deltas, in backward order.

    Raises:
        TypeError: loss is no Value or Tensor.
        ValueError: loss requires no gradient, or is several numbers and there is no gradient.
    """
    root = check_root(loss, gradient=gradient)
    flag(unnamed, "unnamed")
    gradients, order = {}, []
    for step in sweep(root, gradient):
        node = step.node
        order.append(node)
        if node.rule and (node.label or unnamed or node.rule.name == "log_softmax"):
            gradients[node] = step.gradient
    order.reverse()
    forward = [node for node in order if node in gradients]
    rows = [_delta(q, gradients) for q in quantities_of(forward, order)]
    rows += _softmaxes(forward, order, gradients)
    rows += _without_name(forward, gradients) if unnamed else []
    position = {node: i for i, node in enumerate(forward)}
    rows.sort(key=lambda d: position[d.nodes[-1]], reverse=True)
    notes = list(dict.fromkeys(note for node in order for note in _scale(node)))
    if not rows:
        notes.append("no inner quantity has a name: nn.named(z, 'z1') gives one, or unnamed=True")
    elif any(d.delta is None for d in rows):
        notes.append("ŷ is exp(log ŷ): the graph has log ŷ, so there is no derivative by ŷ")
    name = place_of(root).name or "the loss"
    return Deltas(f"derivatives of {name}, backwards", rows, notes)


def _delta(q: Quantity, gradients: dict[Node, Any]) -> Delta:
    values: dict[Node, Any] = {node: node.data for node in q.nodes}  # type: ignore[attr-defined]
    return Delta(q.name, q.place, q.array(values), q.array(gradients, missing=0.0), q.nodes)


def _without_name(forward: Sequence[Node], gradients: dict[Node, Any]) -> list[Delta]:
    """Rows of the nodes that have no label."""
    rows = []
    for node, name in names_of(forward).items():
        place = place_of(node)
        if not place.name and node.rule.name != "log_softmax":
            rows.append(_row(place._replace(name=name, symbol=name), node, gradients[node]))
    return rows


def _softmaxes(
    forward: Sequence[Node], order: Sequence[Node], gradients: dict[Node, Any]
) -> list[Delta]:
    """Rows of what a cross-entropy works with: log ŷ, if it has no label, and ŷ."""
    nodes = [node for node in forward if node.rule.name == "log_softmax"]
    steps = steps_of(order) if nodes else {}
    names = [(node, _at("log ŷ", steps.get(node)), _at("ŷ", steps.get(node))) for node in nodes]
    count = Counter(name for _, name, _ in names)
    rows, given = [], Counter[str]()
    for node, log, softmax in names:
        given[log] += 1
        suffix = f"#{given[log]}" if count[log] > 1 else ""
        place = place_of(node)._replace(step=steps.get(node))
        if not place.name:
            named = place._replace(name=log + suffix, symbol="log ŷ")
            rows.append(_row(named, node, gradients[node]))
        place = place._replace(name=softmax + suffix, symbol="ŷ")
        rows.append(_row(place, node, None))
    return rows


def _at(symbol: str, step: int | None) -> str:
    return symbol if step is None else f"{symbol}({step})"


def _row(place: Place, node: Any, delta: Any) -> Delta:
    """A row of a node; without a delta, that of its exponential."""
    if delta is None:
        return Delta(place.name, place, read_only(np.exp(node.data)), None, (node,))
    value, delta = read_only(np.asarray(node.data)), read_only(np.asarray(delta))
    return Delta(place.name, place, value, delta, (node,))


def _scale(node: Any) -> list[str]:
    """What a mean over the samples puts into the deltas, if the graph shows it."""
    kind = node.rule.name if node.rule else ""
    if kind == "mean" and node.shape == () and node.x.size > 1:
        return [f"a mean over {node.x.size} numbers: its 1/{node.x.size} is in the deltas below"]
    if kind != "scaled_sum" or math.prod(node.x.shape[:-1]) <= 1:
        return []
    (factor,) = node.dx.parameters or node.dx.options.values()
    if abs(factor) in (0.0, 1.0):
        return []
    whole = round(1.0 / abs(factor))
    is_whole = whole and math.isclose(whole * abs(factor), 1.0)
    written = f"1/{whole}" if is_whole else number(abs(factor))
    over = "×".join(map(str, node.x.shape))
    return [f"{written} of a sum over {over} numbers: this factor is in the deltas below it"]
