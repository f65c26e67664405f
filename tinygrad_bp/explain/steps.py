"""The time step of every node, also of those that nobody labelled.

A node made in a numbered scope (`nn.unroll` makes one per step), or labelled `h(3)`, says its step
itself. Between such nodes the graph says it: what is computed on the way to `h(3)` alone belongs to
step 3, and so does what is computed from `o(3)` alone. Where the graph allows several answers, a
node has no step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from tinygrad_bp.explain.naming import step_of, time_step_of
from tinygrad_bp.graph import Node, topological_order

LABEL_THEM = (
    "make the steps by nn.unroll(), or within `with tb.scope('step', t):`, or name the states "
    "'h(1)', 'h(2)', ..."
)


def steps_of(order: Sequence[Node]) -> dict[Node, int]:
    """The time steps of the nodes that have one.

    Args:
        order: the nodes of a graph, in topological order.
    """
    found = steps_before(order)
    for node in order:
        if node not in found:
            steps = {found[x] for x in node.parents if x in found}
            if len(steps) == 1:
                found[node] = steps.pop()
    return found


def steps_before(order: Sequence[Node]) -> dict[Node, int]:
    """The steps of the nodes that lie on the way to a step; `o(3)` says nothing of its loss."""
    inner = [node for node in order if node.rule is not None]
    steps = {node: time_step_of(node) for node in inner}
    own = {node: step for node, step in steps.items() if step is not None}
    if not own:
        return {}
    # Where steps are scopes, what was made outside of them was not meant to be in one.
    carried = all(step_of(node) is None for node in own)
    found, backwards = _from_consumers(order, own, carried)
    return _from_consumers(order, own, carried=False)[0] if carried and backwards else found


def _from_consumers(
    order: Sequence[Node], own: dict[Node, int], carried: bool
) -> tuple[dict[Node, int], bool]:
    """Steps by what the nodes are used for, and whether some step uses a later one."""
    found = dict(own)
    consumers: dict[Node, list[tuple[Node, int]]] = defaultdict(list)
    backwards = False
    for node in reversed(order):
        uses = consumers.pop(node, ())
        step = found.get(node)
        if step is not None:
            backwards = backwards or any(s < step for _, s in uses)
        elif node.rule is not None:
            step = _step_of_uses(uses, carried)
        if step is not None:
            found[node] = step
            for parent in node.parents:
                if parent.rule is not None:
                    consumers[parent].append((node, step))
    return found, backwards


def _step_of_uses(uses: Iterable[tuple[Node, int]], carried: bool) -> int | None:
    steps = {step for _, step in uses}
    if len(steps) == 1:
        return steps.pop()
    # A part of the state without a name, such as an LSTM's c, is used at its own step and at the
    # next one. (But what is computed for all steps at once is indexed by them.)
    if carried and len(steps) == 2 and max(steps) - min(steps) == 1:
        indexed = any(node.rule.name == "getitem" for node, _ in uses)
        return None if indexed else min(steps)
    return None


def joint_order(roots: Iterable[Node]) -> list[Node]:
    """The nodes of several graphs, which may share some, in one topological order."""
    order: dict[Node, None] = {}
    for root in roots:
        order.update(dict.fromkeys(topological_order(root)))
    return list(order)
