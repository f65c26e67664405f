"""A box for each unit of a drawing: its title, and its numbers in few words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_bp.explain.naming import layer_of, place_of
from tinygrad_bp.graph import Node

from .folding import Fold
from .grouping import Unit, element_of
from .heat import heats
from .scene import Box
from .summaries import UNASKED, Row, summary
from .text import clean, number, shorten
from .things import Thing, is_number, kind_of, label_of, numbers, scope_of, source

# How an operation is drawn, where its name is not what a reader would write.
SYMBOLS = {
    "add": "+",
    "subtract": "−",
    "multiply": "×",
    "divide": "÷",
    "negative": "−x",
    "power": "xʸ",
    "square": "x²",
    "sqrt": "√x",
    "absolute": "|x|",
    "matmul": "@",
    "sum": "Σ",
    "scaled_sum": "c·Σ",
    "transpose": "xᵀ",
    "getitem": "x[i]",
}
# How it is written between its operands, in the listing.
INFIX = {"add": "+", "subtract": "−", "multiply": "×", "divide": "÷", "matmul": "@", "power": "**"}
# Exchanging the operands of these does not matter, so the layout may.
COMMUTATIVE = {"add", "multiply", "maximum", "minimum", "hypot", "logaddexp"}
LISTED = 3  # parameters that a group names


class Boxes:
    """Makes the boxes of a drawing.

    Args:
        things, units: what there is, and what is drawn as one.
        show: what of it, see `scene.SHOWN`.
        heat_maps: whether arrays are drawn as maps of colours.
        steps: the time steps of nodes, where they have one.
    """

    def __init__(
        self,
        things: Sequence[Thing],
        units: Sequence[Unit],
        show: Sequence[str],
        heat_maps: bool,
        steps: Mapping[Node, int],
    ) -> None:
        self.things = things
        self.units = units
        self.show = show
        self.heat_maps = heat_maps
        self.steps = steps
        self.labels = [self._label(unit) for unit in units]
        self.names = self._names()

    def _single(self, unit: Unit) -> Any:
        """The only thing of a unit that is no group."""
        return self.things[unit.members[0]].content if unit.key is None else None

    def _label(self, unit: Unit) -> str:
        if unit.key is None:
            return label_of(self._single(unit))
        kind, name = unit.key[:2]
        if kind == "fold":
            fold: Fold = unit.key[2]
            return f"… {fold.size} more {clean(fold.name)}s"
        return clean(name.rpartition("/")[2]) if kind == "scope" else name

    def _names(self) -> list[str]:
        """For each unit its label, numbered if others have the same, or `v1`, `v2`, ...

        A constant without a label is called by its number.
        """
        labels = [shorten(label, 12.0) for label in self.labels]
        count = Counter(labels)
        given: Counter[str] = Counter()
        names = []
        for unit, label in zip(self.units, labels, strict=True):
            content = self._single(unit)
            is_plain = unit.key is None and kind_of(content) == "constant" and is_number(content)
            if not label and is_plain:
                names.append(number(numbers(content).item()))
                continue
            given[label] += 1
            if label:
                names.append(label if count[label] == 1 else f"{label}#{given[label]}")
                continue
            while f"v{given['']}" in count:  # somebody's label
                given[""] += 1
            names.append(f"v{given['']}")
        return names

    def box(self, u: int, operands: Sequence[int], outputs: Sequence[int], is_root: bool) -> Box:
        """The box of a unit, given the units it uses and, of a group, the things others use."""
        unit = self.units[u]
        if unit.key is None:
            return self._of_thing(u, self.things[unit.members[0]], operands, is_root)
        if unit.key[0] == "elements":
            return self._of_elements(u, operands, is_root)
        return self._of_group(u, operands, outputs, is_root)

    # --- one node or constant -------------------------------------------------------------------

    def _of_thing(self, u: int, thing: Thing, operands: Sequence[int], is_root: bool) -> Box:
        content = thing.content
        kind = kind_of(content)
        rule = source(content).rule.name if kind == "inner" else ""
        names = [self.names[i] for i in operands]
        symbol = SYMBOLS.get(content.rule.name, clean(content.rule.name)) if rule else ""
        if thing.uses:
            symbol = f"use {thing.use} of {thing.uses}"
        data = numbers(content)
        grad = content.grad if kind != "constant" else None
        heat = heats(self._maps(data, grad)) if self.heat_maps else ()
        place = place_of(content) if isinstance(content, Node) else None
        step = self.steps.get(content) if kind == "inner" else None
        return Box(
            kind=kind,
            label=self.labels[u],
            symbol=symbol,
            rows=tuple(self._rows(data, grad, kind, bool(heat), self.labels[u])),
            is_compact=kind == "constant" and is_number(content),
            is_root=is_root,
            is_ordered=len(names) > 1 and rule not in COMMUTATIVE,
            scope=clean(scope_of(content).path),
            name=self.names[u],
            formula=_formula(rule, names),
            details=tuple(_details(content, kind, rule, thing)),
            heat=heat,
            step=step,
            quantity=place.symbol if place and place.symbol else symbol or "constant",
            layer=place.layer if place else "",
            was_step=place.step if place and kind == "constant" else None,
        )

    def _maps(self, data: Any, grad: Any) -> Iterator[tuple[str, Any]]:
        if "data" in self.show:
            yield "data", data
        if "grad" in self.show and grad is not None:
            yield "grad", np.asarray(grad)

    def _rows(self, data: Any, grad: Any, kind: str, is_heat: bool, label: str) -> Iterator[Row]:
        is_constant = kind == "constant"
        is_asked = not {"data", "grad"}.isdisjoint(self.show)
        if data.ndim > 0 and (is_asked or (is_constant and not label)):  # it would say nothing
            yield "shape", str(data.shape)
        if ("data" in self.show or (is_constant and not data.ndim)) and not is_heat:
            yield from summary("data", data)
        if "grad" in self.show and not is_constant:
            if grad is None:
                yield "grad", UNASKED
            elif not is_heat:
                yield from summary("grad", np.asarray(grad))

    # --- several --------------------------------------------------------------------------------

    def _contents(self, unit: Unit) -> list[Any]:
        return [self.things[i].content for i in unit.members]

    def _of_elements(self, u: int, operands: Sequence[int], is_root: bool) -> Box:
        """The elements of an array as that array."""
        contents = self._contents(self.units[u])
        places = [element[1] for c in contents if (element := element_of(c)) is not None]
        if len({len(place) for place in places}) > 1:
            places = [(i,) for i in range(len(contents))]
        shape = tuple(1 + max(axis) for axis in zip(*places, strict=True))
        if np.prod([float(n) for n in shape]) > 64 + 4 * len(places):  # few of a large one
            places, shape = [(i,) for i in range(len(contents))], (len(contents),)
        data, grad = np.full(shape, np.nan), np.full(shape, np.nan)
        for place, c in zip(places, contents, strict=True):
            data[place] = c.data
            grad[place] = np.nan if c.grad is None else np.asarray(c.grad).item()
        first = contents[0]
        kind = kind_of(first)
        rules = {c.rule.name for c in contents if c.rule is not None}
        rule = rules.pop() if len(rules) == 1 and kind == "inner" else ""
        place_ = place_of(first)
        unasked = all(c.grad is None for c in contents)
        gradient = None if unasked else grad
        heat = heats(self._maps(data, gradient)) if self.heat_maps else ()
        return Box(
            kind=kind,
            label=self.labels[u],
            symbol=SYMBOLS.get(rule, clean(rule)),
            rows=tuple(self._rows(data, gradient, kind, bool(heat), self.labels[u])),
            is_compact=False,
            is_root=is_root,
            is_ordered=False,
            scope=clean(scope_of(first).path),
            name=self.names[u],
            formula=_formula(rule, [self.names[i] for i in operands]),
            details=(self.labels[u], f"{kind}: {len(contents)} elements of shape {shape}"),
            heat=heat,
            step=self.steps.get(first) if kind == "inner" else None,
            quantity=place_.symbol or self.labels[u],
            layer=place_.layer,
        )

    def _of_group(
        self, u: int, operands: Sequence[int], outputs: Sequence[int], is_root: bool
    ) -> Box:
        unit = self.units[u]
        contents = self._contents(unit)
        kinds = Counter(map(kind_of, contents))
        nodes = f"{kinds['inner']:,}"
        is_fold = unit.key[0] == "fold"
        rows: list[Row] = [("nodes", nodes)]
        if is_fold:
            fold: Fold = unit.key[2]
            rows.insert(0, ("same as", f"{clean(fold.name)} {fold.like}"))
        parameters = _parameters(contents)
        if parameters:
            rows.append(("holds", parameters))
        shown = [self.things[i].content for i in outputs]
        if len(shown) == 1 and not is_fold:
            name = label_of(shown[0])
            rows += [("gives", name)] if name else []
            grad = shown[0].grad
            rows += self._rows(numbers(shown[0]), grad, kind_of(shown[0]), False, name)
        inner = [c for c in contents if kind_of(c) == "inner"]
        found = {self.steps.get(c) for c in inner} - {None}
        first = inner[0] if inner else contents[0]
        where = unit.key[1] if unit.key[0] == "scope" else ""
        names = ", ".join(dict.fromkeys(self.names[i] for i in operands))
        layer = layer_of(first).rpartition("/")[0] if isinstance(first, Node) else ""
        return Box(
            kind="group",
            label=self.labels[u],
            symbol="",
            rows=tuple(rows),
            is_compact=False,
            is_root=is_root,
            is_ordered=False,
            scope=clean(where),
            name=self.names[u],
            formula=f"{self.labels[u]}({names})",
            details=(clean(where) or self.labels[u], f"{nodes} nodes drawn as one"),
            step=min(found, default=None) if is_fold or len(found) == 1 else None,  # type: ignore[type-var]
            quantity="…" if is_fold else self.labels[u],
            layer=layer,
        )


def _parameters(contents: Sequence[Any]) -> str:
    """The parameters that only a group uses: `W1 (784, 30), b1 (30,)`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for content in contents:
        if kind_of(content) != "leaf" or not label_of(content):
            continue
        element = element_of(content)
        name, place = element or (label_of(content), None)
        if place is None:
            shapes[name] = getattr(content, "shape", ())
        else:
            old = shapes.get(name, (0,) * len(place))
            if len(old) == len(place):
                shapes[name] = tuple(max(n, i + 1) for n, i in zip(old, place, strict=True))
    texts = [f"{shorten(name, 8.0)} {shape}" if shape else name for name, shape in shapes.items()]
    more = f", {len(texts) - LISTED} more" if len(texts) > LISTED else ""
    return ", ".join(texts[:LISTED]) + more


def _formula(rule: str, operands: Sequence[str]) -> str:
    if rule in INFIX and len(operands) == 2:
        return f"{operands[0]} {INFIX[rule]} {operands[1]}"
    return f"{clean(rule)}({', '.join(operands)})" if rule else ""


def _details(content: Any, kind: str, rule: str, thing: Thing) -> Iterator[str]:
    if label_of(content):
        yield label_of(content)
    yield f"{kind}: {clean(rule)}" if rule else kind
    if thing.uses:
        yield f"use {thing.use} of {thing.uses}"
    scope = clean(scope_of(content).path)
    if scope:
        yield f"in {scope}"
    data = numbers(content)
    if data.ndim == 0:
        yield f"data = {data.item()!r}"
        if kind != "constant" and content.grad is not None:
            yield f"grad = {np.asarray(content.grad).item()!r}"
    else:
        yield f"shape {data.shape}, {data.dtype}"
