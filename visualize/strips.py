"""How much gradient comes to the state of each time step: the strip under an unrolled graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_bp.explain import through_time
from tinygrad_bp.explain.naming import place_of
from tinygrad_bp.graph import Node

from .text import clean
from .things import Thing

Strip = tuple[str, dict[int, float]]


def strip_of(things: Sequence[Thing], steps: Mapping[Node, int], root: Node) -> Strip:
    """The name of the state, and the norm of the root's derivative by it at each step.

    Raises:
        ValueError: no named quantity is handed from a step to the next, or the root is no single
            number.
    """
    if np.size(getattr(root, "_array", 0.0)) != 1 or not root.requires_grad:
        raise ValueError("draw: a strip needs a single number that requires a gradient: a loss")
    symbol, states = _states(things, steps)
    # One loss, of all steps: which time it has is of no matter.
    losses = through_time([root], [_as_state(nodes) for nodes in states.values()], times=[0])
    norms = dict(zip(losses.steps, losses.norms[0].tolist(), strict=True))
    return f"‖∂{clean(root.label) or 'L'}/∂{symbol}(t)‖", norms


def _states(
    things: Sequence[Thing], steps: Mapping[Node, int]
) -> tuple[str, dict[int, list[Node]]]:
    """The named quantity that goes from each step to the next, by step; h, if there are more."""
    found: dict[str, dict[int, dict[Node, None]]] = defaultdict(lambda: defaultdict(dict))
    shapes: dict[str, tuple[int, ...]] = {}  # of those that are handed on
    for thing in things:
        node = thing.content
        if not thing.operands or node not in steps:
            continue
        symbol = place_of(node).symbol
        found[symbol][steps[node]][node] = None
        for i in thing.operands:
            operand: Any = things[i].content
            if isinstance(operand, Node) and steps.get(operand, steps[node]) < steps[node]:
                shapes.setdefault(place_of(operand).symbol, getattr(operand, "shape", ()))
    shapes.pop("", None)
    if not shapes:
        raise ValueError(
            "draw: a strip needs a state that is named at every step, as nn.unroll() does"
        )
    # A running sum of losses is handed on as well; the state comes before it.
    symbol = "h" if "h" in shapes else min(shapes, key=list(found).index)
    states = {
        t: [node for node in nodes if getattr(node, "shape", ()) == shapes[symbol]]
        for t, nodes in sorted(found[symbol].items())
    }
    size = len(next(filter(None, states.values())))
    return symbol, {t: nodes for t, nodes in states.items() if len(nodes) == size}


def _as_state(nodes: Sequence[Node]) -> Any:
    """One Tensor, or the elements of an array of Values as a tuple."""
    return nodes[0] if len(nodes) == 1 else tuple(nodes)
