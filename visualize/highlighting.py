"""One thing in a picture that stands out, with its uses, or a path; all else recedes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from tinygrad_bp.arguments import out_of_range, several, shown
from tinygrad_bp.graph import Node
from tinygrad_bp.nn.module import Module
from tinygrad_bp.scalars import Values

from .building import Built
from .scene import Scene


def highlighted(built: Built, what: Any) -> Scene:
    """The scene with a node and all its uses, a Module's parameters, or a path emphasised.

    Args:
        built: the scene and what it stands for.
        what: a Value, a Tensor, an array of Values or a Module; or the nodes of a path, in order.

    Raises:
        TypeError: it is something else.
        ValueError: something of it is not in the graph.
    """
    nodes, is_path = _nodes_of(what)
    places: dict[int, list[int]] = {}
    for i, contents in enumerate(built.contents):
        for content in contents:
            places.setdefault(id(content), []).append(i)
    missing = [node for node in nodes if id(node) not in places]
    if not nodes:
        raise out_of_range("draw: highlight", "at least one node", what)
    if missing:
        name = repr(missing[0].label or type(missing[0]).__name__)
        raise ValueError(f"draw: highlight: {name[:80]} is not in this graph, got {shown(what)}")
    boxes = {i for node in nodes for i in places[id(node)]}
    edges = _of_path(built, nodes, places) if is_path else _of_uses(built, nodes)
    boxes |= {built.scene.edges[e].target for e in edges}
    return built.scene._replace(
        boxes=tuple(
            box._replace(emphasis="high" if i in boxes else "dim")
            for i, box in enumerate(built.scene.boxes)
        ),
        edges=tuple(
            edge._replace(emphasis="high" if e in edges else "dim")
            for e, edge in enumerate(built.scene.edges)
        ),
    )


def _nodes_of(what: Any) -> tuple[list[Node], bool]:
    """The nodes that are meant, and whether they are a path."""
    if isinstance(what, Node):
        return [what], False
    if isinstance(what, Values):
        return list(what.flat), False
    if isinstance(what, Module):
        return [n for parameter in what.parameters() for n in _nodes_of(parameter)[0]], False
    what = getattr(what, "nodes", what)
    if isinstance(what, Iterable):
        nodes = several(what, "draw: highlight", "nodes")
        if all(isinstance(node, Node) for node in nodes):
            return nodes, True
    raise TypeError(
        f"draw: highlight must be a node, a Module or the nodes of a path, got "
        f"{type(what).__name__}"
    )


def _of_uses(built: Built, nodes: list[Node]) -> set[int]:
    """The edges that lead from one of the nodes, out of whatever box it is in."""
    wanted = set(map(id, nodes))
    sources = {
        i for i, contents in enumerate(built.contents) if any(id(c) in wanted for c in contents)
    }
    return {e for e, edge in enumerate(built.scene.edges) if edge.source in sources}


def _of_path(built: Built, nodes: list[Node], places: dict[int, list[int]]) -> set[int]:
    """The edges between neighbours of a path, whichever way it is told."""
    pairs = {
        (a, b)
        for one, other in pairwise(nodes)
        for i in places[id(one)]
        for j in places[id(other)]
        for a, b in ((i, j), (j, i))
    }
    return {e for e, edge in enumerate(built.scene.edges) if (edge.source, edge.target) in pairs}
