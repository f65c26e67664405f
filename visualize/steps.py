"""The time step under which each node is drawn.

It is that of `explain`, carried on to what is computed from the steps: a running sum of losses
belongs to the step of its newest part. What is computed from several steps at once belongs to none.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinygrad_bp.explain.steps import steps_before
from tinygrad_bp.graph import Node

from .things import Thing


def steps_in(things: Sequence[Thing]) -> dict[Node, int]:
    """The time steps of the nodes that have one, in the order of the things."""
    order = [thing.content for thing in things if thing.operands]
    if not any(map(_may_have_a_step, _samples(order))):
        return {}
    found = steps_before(order)
    if not found:
        return {}
    after: set[Node] = set()
    for node in order:
        if node in found:
            continue
        inner = [x for x in node.parents if x.rule is not None]
        steps = {found[x] for x in inner if x in found}
        if len(steps) > 2 or any(x in after for x in inner):
            after.add(node)
        elif steps:
            found[node] = max(steps)
    return found


def _samples(order: Sequence[Node]) -> list[Node]:
    """One node of every scope, and all that are labelled."""
    seen: dict[int, Node] = {}
    labelled = []
    for node in order:
        if node.label:
            labelled.append(node)
        else:
            seen.setdefault(id(node.scope), node)
    return [*seen.values(), *labelled]


def _may_have_a_step(node: Node) -> bool:
    if node.label.endswith((")", "]")) and "(" in node.label:
        return True
    scope = node.scope
    while scope.outer is not None:
        if scope.index is not None:
            return True
        scope = scope.outer
    return False
