"""Which arrays of a graph have samples in front: rows that no operation mixes.

A formula for one sample is easier to read than one for a batch, and right only where the samples
keep apart until the loss adds them up. This is decided by the operations: those that keep the first
axis apart tie operand and result together, those that do not (the second factor of a product, a
transposition) rule both out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np

from tinygrad_bp import array_rules as ar
from tinygrad_bp.explain.formulas import Shape
from tinygrad_bp.graph import Node
from tinygrad_bp.rules import Rule

# The place of an array: a node, or a constant as the operand of one.
Place = Hashable

_ALONG_AXIS = {"sum", "mean", "max", "min", "prod", "var", "norm", "softmax", "log_softmax"} | {
    "logsumexp",
    "cumsum",
}
_LAST = {"softmax", "log_softmax"}  # along the last axis, if not told
_KEEPS, _ADDS, _MIXES = "keeps the first axis", "adds it up", "mixes it"
_SAME_FRONT = {"reshape", "expand_dims", "squeeze", "astype"}


class _Classes:
    """Places that have samples in front all together, or not at all."""

    def __init__(self) -> None:
        self.number: dict[Place, int] = {}  # Tensors compare by their data: numbers do not
        self.above: list[int] = []
        self.shape: dict[Place, Shape] = {}
        self.barred: set[Place] = set()
        self.wanted: set[Place] = set()

    def find(self, place: Place) -> int:
        n = self.number.setdefault(place, len(self.above))
        if n == len(self.above):
            self.above.append(n)
        while self.above[n] != n:
            self.above[n] = n = self.above[self.above[n]]
        return n

    def tie(self, a: Place, b: Place) -> None:
        self.above[self.find(a)] = self.find(b)

    def samples(self) -> tuple[set[Place], int]:
        """The places with samples in front, and how many these are."""
        barred = {self.find(p) for p in self.barred}
        sizes = Counter(
            self.shape[p][0]
            for p in self.wanted
            if self.find(p) not in barred and len(self.shape[p]) > 1
        )
        if not sizes:
            return set(), 1
        m = sizes.most_common(1)[0][0]
        misfits = {self.find(p) for p, s in self.shape.items() if not s or s[0] != m}
        wanted = {self.find(p) for p in self.wanted} - barred - misfits
        return {p for p in self.shape if self.find(p) in wanted}, m


def with_samples(order: Iterable[Node]) -> tuple[set[Place], int]:
    """The nodes, and constants `(node, operand number)`, with samples in front; and their number.

    Args:
        order: the nodes of a graph of Tensors, every one after its operands.
    """
    classes = _Classes()
    same: dict[Any, Place] = {}  # constants are copied where they meet a Tensor
    for node in order:
        classes.shape[node] = shape_of(node)
        operands = [place_in(node, k) for k in range(len(node.operands))]
        for place, operand in zip(operands, node.operands, strict=True):
            classes.shape.setdefault(place, shape_of(operand))
            if isinstance(operand, np.ndarray):
                twin = same.setdefault((operand.shape, operand.tobytes()), place)
                classes.tie(place, twin)
        if operands:
            _look(classes, node, operands)
    return classes.samples()


def place_in(node: Node, k: int) -> Place:
    """The node that is an operand, or where the constant is that is one."""
    operand = node.operands[k]
    return operand if isinstance(operand, Node) else (node, k)


def shape_of(x: Any) -> Shape:
    """The shape of an array, or of a number."""
    return tuple(getattr(x, "shape", ()))


def _look(classes: _Classes, node: Node, operands: list[Place]) -> None:
    if isinstance(node.rule, Rule):
        _elementwise(classes, node, operands)
        return
    name = node.rule.name
    if node.rule is not ar.ARRAY_RULES.get(name):
        what = _MIXES
    elif name in ("matmul", "linear"):
        _product(classes, node, operands)
        return
    elif name in _ALONG_AXIS or name == "scaled_sum":
        what = _reduction(classes, node, operands[0])
    else:
        what = _rearranged(classes, node, operands[0])
    for place in operands:
        if what == _MIXES:
            classes.barred.add(place)
        elif what == _KEEPS:
            classes.tie(place, node)
    if what != _KEEPS and classes.shape[node]:
        classes.barred.add(node)


def _elementwise(classes: _Classes, node: Node, operands: list[Place]) -> None:
    result = classes.shape[node]
    for place in operands:
        shape = classes.shape[place]
        if result and len(shape) == len(result) and shape[0] == result[0]:
            classes.tie(place, node)
        else:
            classes.barred.add(place)


def _product(classes: _Classes, node: Node, operands: list[Place]) -> None:
    x, y, *rest = operands
    left, right, result = len(classes.shape[x]), len(classes.shape[y]), len(classes.shape[node])
    classes.barred.update(rest)
    if left > 1 and left >= right:
        classes.tie(x, node)
        classes.wanted.add(x)
    else:
        classes.barred.add(x)
        if left == 1:
            classes.barred.add(node)
    if right > 2 and right == result:
        classes.tie(y, node)
    else:
        classes.barred.add(y)


def _reduction(classes: _Classes, node: Node, place: Place) -> str:
    name, parameters, options = node.rule.name, *arguments_of(node)
    ndim = len(classes.shape[place])
    axis = options.get("axis", parameters[0] if parameters else -1 if name in _LAST else None)
    axes = ar._axes(None if name == "scaled_sum" else axis, ndim)
    if len(axes) == ndim or axes == (0,):
        return _ADDS if name in ("sum", "mean", "scaled_sum") else _MIXES
    if 0 in axes:
        return _MIXES
    classes.wanted.add(place)
    return _KEEPS


def _rearranged(classes: _Classes, node: Node, place: Place) -> str:
    name, parameters, options = node.rule.name, *arguments_of(node)
    shape, result = classes.shape[place], classes.shape[node]
    keeps = False
    if shape and result and shape[0] == result[0]:
        if name == "transpose":
            axes = options.get("axes", parameters[0] if parameters else None)
            keeps = axes is not None and ar._axes(tuple(axes), len(shape))[0] == 0
        elif name == "getitem":
            index = parameters[0]
            first = index[0] if isinstance(index, tuple) else index
            keeps = first is ... or (isinstance(first, slice) and first == slice(None))
        elif name in ("concatenate", "stack"):
            axis = options.get("axis", parameters[0] if parameters else 0)
            keeps = int(axis) % len(result) != 0
        else:
            keeps = name in _SAME_FRONT
    return _KEEPS if keeps else _MIXES


def arguments_of(node: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The further arguments of a structural operation."""
    for local in node.locals:
        if local is not None:
            return getattr(local, "parameters", ()), getattr(local, "options", {})
    return (), {}
