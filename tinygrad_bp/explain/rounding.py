"""How much of a difference rounding explains."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_bp.explain.resweep import Graph, Use, local_at, operands_of, unreduced, value_of
from tinygrad_bp.explain.targets import Array, Target
from tinygrad_bp.graph import Node
from tinygrad_bp.tensor import Tensor

ROUNDINGS = 1000.0


def tolerance(graph: Graph, target: Target, given: Array) -> float:
    """A thousand roundings of the largest term that the gradient is a sum of.

    Roundings are those of the coarser of the two number formats. Where the loss is a difference of
    nearly equal numbers, as of a network that has learned its data, terms are as large as they
    would be without that cancellation.
    """
    coarse = max(np.finfo(given.dtype).eps, np.finfo(target.dtype).eps)
    with np.errstate(all="ignore"):
        terms = [
            size(graph, target),
            float(np.abs(target.of(_uncancelled(graph))).max(initial=0.0)),
        ]
    return ROUNDINGS * float(coarse) * max(x for x in [0.0, *terms] if np.isfinite(x))


def imprecision(graph: Graph, target: Target) -> float:
    """The difference that a right gradient may have which was computed in low precision.

    That is a ten-thousandth of it, or a millionth of its terms. Where units are saturated it may
    be up to a hundredth: `1 - a²` is then a small difference of large numbers.
    """
    largest = float(np.abs(target.of(graph.right)).max(initial=0.0))
    if "unsaturated" not in graph.kept:
        graph.kept["unsaturated"] = graph.swept(_unsaturated)
    with np.errstate(all="ignore"):
        terms = float(np.nan_to_num(np.abs(target.of(graph.kept["unsaturated"])).max(initial=0.0)))
    return max(1e-4 * largest, 1e-6 * size(graph, target), min(1e-6 * terms, 1e-2 * largest))


def _unsaturated(node: Node, which: int, local: Any, g: Any) -> Any:
    return abs(g) if node.rule.name in ("sigmoid", "tanh") else local * g


def size(graph: Graph, target: Target) -> float:
    """The size of a gradient before terms of opposite signs cancel, in its largest element."""
    right = target.of(graph.right)
    largest = float(np.abs(right).max(initial=0.0))
    with np.errstate(all="ignore"):
        for uses in target.uses(graph):
            terms = [_absolute(use, graph.right[use.node]) for use in uses]
            largest = max(largest, float(sum(np.abs(term).max(initial=0.0) for term in terms)))
    return largest


def _absolute(use: Use, g: Any) -> Any:
    """A use's share, with all terms of its sums taken as positive."""
    if not isinstance(use.node, Tensor) or use.views:
        return np.asarray(use.share(g))
    if use.node.rule.name in ("matmul", "linear"):
        operands = [np.abs(x) for x in operands_of(use.node)]
        return local_at(use.node, use.which, operands, use.local.result) * np.abs(g)
    whole = unreduced(use, g)
    return np.asarray(use.share(g) if whole is None else use.local * np.abs(g))


def _uncancelled(graph: Graph) -> dict[Node, Any]:
    """The sweep, as if at the loss the outputs were as far from the targets as from zero."""
    if "uncancelled" not in graph.kept:

        def hand_on(node: Node, which: int, local: Any, g: Any) -> Any:
            return _without_cancelling(node, which, local, g) if node in graph.tail else local * g

        graph.kept["uncancelled"] = graph.swept(hand_on)
    return graph.kept["uncancelled"]  # type: ignore[no-any-return]


def _without_cancelling(node: Node, which: int, local: Any, g: Any) -> Any:
    x, name = node.operands[which], node.rule.name
    if name == "sigmoid":  # 1 - a is rounded as 1 is
        return abs(local * g) / np.maximum(1.0 - node.data, np.finfo(float).eps)  # type: ignore[attr-defined]
    if name == "tanh":
        return abs(g)
    by_itself = name in ("square", "power") or (name == "multiply" and node.x is node.y)
    if by_itself and _is_difference(x):
        operands = operands_of(node)
        apart = sum(np.abs(part) for part in operands_of(x))
        operands = [
            apart if operand is x else n for operand, n in zip(node.operands, operands, strict=True)
        ]
        return local_at(node, which, operands, value_of(node, operands)) * abs(g)
    if name in ("log_softmax", "softplus"):
        return abs(g)
    return local * g


def _is_difference(x: Any) -> bool:
    return isinstance(x, Node) and not x.is_leaf and x.rule.name in ("subtract", "add")
