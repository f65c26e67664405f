"""The uses of a node: who was computed from it, and what each hands back to it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from tinygrad_bp.derivatives import Elementwise, Local
from tinygrad_bp.explain.naming import layer_of, own_name
from tinygrad_bp.explain.quantities import Array, Index
from tinygrad_bp.explain.steps import steps_of
from tinygrad_bp.explain.tables import Shown
from tinygrad_bp.graph import Node, Step
from tinygrad_bp.text import clean


class Contribution(Shown):
    """What one use of a node contributes to its gradient: `contribution = local * upstream`.

    Attributes:
        node: the consumer, which the node was used to compute.
        operand: as which of the consumer's operands, from 0.
        operation: the consumer's rule and operands, such as `matmul(h(2), W)`.
        layer: the path of the modules the consumer was made in.
        step: the time step of the use, or None.
        element: the element used, of an array of Values; else None.
        upstream: the derivative of the loss by the consumer; read-only.
        local: the derivative of the consumer by the node: a float, or for arrays the named
            pullback (with the `operands` and the `result` that it holds).
        contribution: their product, in the shape of the node (of the element); read-only.
    """

    __slots__ = (
        "_samples",
        "contribution",
        "element",
        "layer",
        "local",
        "node",
        "operand",
        "operation",
        "step",
        "upstream",
    )

    node: Any
    operand: int
    operation: str
    layer: str
    step: int | None
    element: Index | None
    upstream: Any
    local: Any
    contribution: Any

    def __init__(self, node: Node, operand: int, upstream: Any, local: Any, share: Any) -> None:
        self.node, self.operand = node, operand
        self.upstream, self.local, self.contribution = upstream, local, share
        self.operation, self.layer = "", layer_of(node)
        self.step = self.element = None
        self._samples: Any = None

    @property
    def shares(self) -> Array:
        """The share of each sample in the contribution: shape (samples, *shape of the node).

        By linearity: the pullback, applied to the upstream gradient of that sample alone.

        Raises:
            ValueError: no batch axis was named, or this use is of no single sample.
        """
        if self._samples is None:
            raise ValueError("shares: name the axis of the samples: contributions(..., batch=0)")
        shares: Array | None = self._samples.split(self)[0]
        if shares is None:
            raise ValueError(f"shares: {self.operation} does not belong to single samples")
        return shares

    @property
    def name(self) -> str:
        """The local derivative, as it is called: a number, or the name of the pullback."""
        return getattr(self.local, "name", None) or f"{self.local:.4g}"

    def text(self) -> str:
        step = "" if self.step is None else f", step {self.step}"
        of = "" if self.element is None else f" of element {list(self.element)}"
        return (
            f"contribution{of} by {self.operation}{step}\nupstream\n{self.upstream}\n"
            f"local derivative\n{_held(self.local, self.name)}\ncontribution\n{self.contribution}"
        )


def _held(local: Any, name: str) -> str:
    """A local derivative in full: a number, partial derivatives, or a pullback's operands."""
    if isinstance(local, Elementwise):
        return f"{name}, elementwise\n{local.partial()}"
    if not isinstance(local, Local):
        return name
    others = [str(x) for i, x in enumerate(local.operands) if i != local.index]
    return "\n".join([f"{name}, which holds" if others else name, *others])


def uses_in(step: Step, wanted: Collection[Node]) -> Iterator[tuple[Contribution, Node]]:
    """The uses of some nodes that a visit of the sweep shows, each with the node."""
    edges = iter(step.edges)
    for i, local in enumerate(step.node.locals):
        if local is not None:
            edge = next(edges)
            if edge.parent in wanted:
                use = Contribution(step.node, i, step.gradient, edge.local, edge.contribution)
                yield use, edge.parent


def describe(uses: Sequence[Contribution], order: Sequence[Node]) -> None:
    """Fill in each use's time step, and its operation in words."""
    steps = steps_of(order)
    names: dict[Node, str] = {}
    for use in uses:
        use.step = steps.get(use.node)
        use.operation = operation_of(use.node, names)


def operation_of(node: Node, names: dict[Node, str]) -> str:
    """A node's rule and operands: `matmul(h(2), W)`; what has no name is a dot or its shape."""
    parts = []
    for x in node.operands:
        if isinstance(x, Node):
            if x not in names:
                names[x] = own_name(x) or "·"
            parts.append(names[x])
        else:
            shape = np.shape(x)
            parts.append("×".join(map(str, shape)) if shape else f"{float(x):.4g}")
    return f"{clean(node.rule.name)}({', '.join(parts)})"
