"""From a graph to its scene: what is collapsed so that it fits, and what is said of the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygrad_bp.graph import Node

from .boxes import Boxes
from .folding import Fold, folds_of
from .grouping import Collapse, Folded, Grouping, Unit, Use, count
from .scene import Edge, Scene
from .steps import steps_in
from .strips import strip_of
from .summaries import short
from .text import clean, number
from .things import Thing, source, things_of

SEARCH = 400_000  # things; of larger graphs the outermost scopes are collapsed at once


class Options(NamedTuple):
    """What is drawn of a graph; see `draw`."""

    max_nodes: int = 300
    collapse: Collapse = None
    fold: bool | None = None
    show: tuple[str, ...] = ("data", "grad", "local")
    shared: str = "once"
    heat_maps: bool = False
    strip: bool = False


class Built(NamedTuple):
    """A scene with what its boxes and edges stand for, for whoever draws more on it.

    Attributes:
        scene: the texts.
        contents: for each box the node or constant; of a group, all of them.
        uses: for each edge the node that uses, and the number of the operand.
    """

    scene: Scene
    contents: tuple[tuple[Any, ...], ...]
    uses: tuple[tuple[Any, int], ...]


def scene_of(root: Node | Sequence[Node], max_nodes: int = 300, **options: Any) -> Scene:
    """The scene of all that a node, or several, were computed from.

    Args:
        root: a Value or a Tensor, or a list of them.
        max_nodes: the most boxes there may be.
        options: see `Options`.

    Raises:
        ValueError: the graph has more nodes and constants, and collapsing its scopes is not enough.
    """
    return build(root, Options(max_nodes, **options)).scene


def build(root: Node | Sequence[Node], options: Options) -> Built:
    """The same, with the nodes that boxes and edges stand for."""
    roots = [root] if isinstance(root, Node) else list(root)
    things = things_of(roots, options.shared == "per use")
    steps = steps_in(things)
    units, uses, how = _fitting(things, steps, options)
    maker = Boxes(things, units, options.show, options.heat_maps, steps)
    operands: dict[int, list[int]] = defaultdict(list)
    for use in uses:
        operands[use.target].append(use.source)
    wanted = {id(node) for node in roots}
    outputs = _outputs(things, units, wanted)
    boxes = tuple(
        maker.box(
            u,
            operands[u],
            outputs[u],
            any(id(things[i].content) in wanted for i in unit.members),
        )
        for u, unit in enumerate(units)
    )
    edges = tuple(_edges(things, units, uses, maker.names, options.show))
    hidden = sum(len(unit.members) > 1 for unit in units)
    note = _note(things, units, how) if hidden else ""
    contents = tuple(tuple(things[i].content for i in unit.members) for unit in units)
    strip = strip_of(things, steps, roots[-1]) if options.strip else None
    ends = tuple((things[use.thing].content, use.operand) for use in uses)
    return Built(Scene(boxes, edges, note, strip), contents, ends)


# --- what fits ----------------------------------------------------------------------------------


def _fitting(
    things: Sequence[Thing], steps: Mapping[Node, int], options: Options
) -> tuple[list[Unit], list[Use], str]:
    """The units that are drawn: as asked for, and if these are too many the most that fit."""
    fewest = len(things)
    grouping = Grouping(things)
    folds: Folded | None = None
    for collapse, fold, how in _ways(grouping, options):
        if fold and folds is None:
            folds = folds_of(things, steps)
        folded = folds if fold else None
        boxes = count(grouping.keys(collapse, folded)[0])
        if boxes <= options.max_nodes:
            units, uses = grouping.grouped(collapse, folded)
            boxes = len(units)
            if boxes <= options.max_nodes:
                return units, uses, how
        fewest = min(fewest, boxes)
    collapsed = f", and {fewest} boxes with scopes collapsed" if fewest < len(things) else ""
    raise ValueError(
        f"draw: the graph has {len(things)} nodes and constants{collapsed}, more than max_nodes="
        f"{options.max_nodes}; draw less of it, name its parts by tb.scope, or pass a larger "
        "max_nodes"
    )


def _ways(grouping: Grouping, options: Options) -> Iterator[tuple[Collapse, bool, str]]:
    """Ways to draw a graph, each with fewer boxes than the one before, in words."""
    asked = options.collapse
    if not options.fold:
        yield asked, False, _words(asked)
    if options.fold is not False:
        yield asked, True, _words(asked)
    if asked is not None:
        return
    deepest = grouping.depth if len(grouping.things) <= SEARCH else min(1, grouping.depth)
    for depth in range(deepest, 0, -1):
        if not options.fold:
            yield depth, False, _words(depth)
        if options.fold is not False:
            yield depth, True, _words(depth)


def _words(collapse: Collapse) -> str:
    if isinstance(collapse, int):
        return f"scopes collapsed at depth {collapse}"
    return "" if collapse is None else f"collapsed: {clean(', '.join(collapse))}"


def _note(things: Sequence[Thing], units: Sequence[Unit], how: str) -> str:
    parts = [f"{len(things):,} nodes and constants drawn as {len(units):,} boxes"]
    if how and any(unit.key and unit.key[0] == "scope" for unit in units):
        parts.append(how)
    folds = {unit.key[2]: None for unit in units if unit.key and unit.key[0] == "fold"}
    parts += dict.fromkeys(map(_folded, folds))
    return "; ".join(parts)


def _folded(fold: Fold) -> str:
    name = clean(fold.name)
    return f"{name}s {fold.first} to {fold.last} folded, they are the same as {name} {fold.like}"


def _outputs(things: Sequence[Thing], units: Sequence[Unit], wanted: set[int]) -> list[list[int]]:
    """For each group the things that others use, or that were asked for."""
    unit_of = [0] * len(things)
    for u, unit in enumerate(units):
        for i in unit.members:
            unit_of[i] = u
    outputs: list[dict[int, None]] = [{} for _ in units]
    for thing, u in zip(things, unit_of, strict=True):
        for j in thing.operands:
            if unit_of[j] != u:
                outputs[unit_of[j]][j] = None
    for i, thing in enumerate(things):
        if id(thing.content) in wanted:
            outputs[unit_of[i]][i] = None
    return [list(each) for each in outputs]


# --- edges --------------------------------------------------------------------------------------


def _edges(
    things: Sequence[Thing],
    units: Sequence[Unit],
    uses: Sequence[Use],
    names: Sequence[str],
    show: Sequence[str],
) -> Iterator[Edge]:
    for use in uses:
        node = things[use.thing].content
        local = source(node).locals[use.operand]
        pair = f"{names[use.source]} → {names[use.target]}"
        if units[use.source].key is None and units[use.target].key is None:
            of = clean(f"{pair}, operand {use.operand + 1} of {source(node).rule.name}")
            yield Edge(use.source, use.target, *_texts(local, node, of, show), local is not None)
        else:
            times = f"{use.times} use{'s' if use.times > 1 else ''}"
            yield Edge(use.source, use.target, "", clean(f"{pair}: {times}"), local is not None)


def _texts(local: Any, node: Any, of: str, show: Sequence[str]) -> tuple[str, str]:
    """What stands at an edge, and in its hover text."""
    if local is None:
        return "", f"{of}: no gradient flows here"
    if isinstance(local, (int, float)):
        text, details = number(local), f"{of}: local derivative {float(local)!r}"
    else:
        text = clean(str(getattr(local, "name", type(local).__name__)))
        details = f"{of}: pullback {text}"
    shown = text if "local" in show else ""
    # A part that is run again has no derivative of its own; its nodes have.
    is_rerun = source(node) is not node
    if "contribution" in show and node.grad is not None and not is_rerun:
        share = _share(local, node)
        shown = f"{shown} · {short(node.grad)} = {share}" if shown else share
        details += f"\ncontribution {share}"
    return shown, details


def _share(local: Any, node: Any) -> str:
    """Upstream times local, as the sweep adds it to the operand's gradient."""
    with np.errstate(all="ignore"):
        return short(local * node.grad)
