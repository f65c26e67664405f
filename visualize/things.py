"""What a graph is made of, before anyone asks how it is drawn: nodes and constants, in order.

A constant that is a plain number or array is a thing of its own at every use: two 2.0 are no
shared quantity, even where Python keeps one object for both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygrad_bp.explain.steps import joint_order
from tinygrad_bp.graph import Node, Segment
from tinygrad_bp.recording import ROOT, Scope

from .text import clean


class Thing(NamedTuple):
    """A node or a constant operand.

    Attributes:
        content: the node; of a constant that is none, its data when it was used.
        operands: the places of what it was computed from.
        use: for a leaf that is drawn once per use, the number of this use; else 0.
        uses: and how many there are.
    """

    content: Any
    operands: tuple[int, ...]
    use: int = 0
    uses: int = 0


def things_of(roots: Sequence[Node], per_use: bool = False) -> list[Thing]:
    """All that some nodes were computed from, each thing after its operands.

    Args:
        roots: nodes.
        per_use: whether a leaf with several uses is a thing for each of them.
    """
    things: list[Thing] = []
    place: dict[int, int] = {}  # of a node by its identity, since `==` of nodes compares data
    wanted = set(map(id, roots))
    used: dict[int, list[int]] = {}  # the copies of a leaf

    def add(content: Any, operands: tuple[int, ...]) -> int:
        things.append(Thing(content, operands))
        return len(things) - 1

    for node in joint_order(roots):
        if isinstance(node, Segment) or (id(node) in used):
            continue  # the results of a segment stand for it
        if per_use and node.rule is None and id(node) not in wanted:
            used[id(node)] = []
            continue
        operands = []
        for i, operand in enumerate(source(node).operands):
            if type(operand) is float:  # nobody can have written to it
                operands.append(add(operand, ()))
            elif not isinstance(operand, Node):
                operands.append(add(_recorded(node, i), ()))
            elif id(operand) in used:
                operands.append(add(operand, ()))
                used[id(operand)].append(operands[-1])
            elif id(operand) in place:
                operands.append(place[id(operand)])
            else:
                operands.append(add(operand, ()))
                place[id(operand)] = operands[-1]
        place[id(node)] = add(node, tuple(operands))
    for places in used.values():
        if len(places) > 1:
            for k, i in enumerate(places, 1):
                things[i] = things[i]._replace(use=k, uses=len(places))
    return things


def source(node: Node) -> Node:
    """The node that knows what this one was computed from: for the result of a segment, that."""
    return node.x if isinstance(node.x, Segment) else node


def _recorded(node: Node, i: int) -> Any:
    """The i-th operand as it was when it was used: its owner may have written to it since."""
    for local in node.locals:
        if hasattr(local, "operands"):
            return local.operands[i]
    return node.operands[i]


# --- what is known of one -----------------------------------------------------------------------


def kind_of(content: Any) -> str:
    """`"leaf"`, `"inner"` or `"constant"`."""
    if not isinstance(content, Node) or not content.requires_grad:
        return "constant"
    return "leaf" if content.is_leaf else "inner"


def label_of(content: Any) -> str:
    """The name that its user gave it, on one line."""
    return clean(content.label) if isinstance(content, Node) else ""


def scope_of(content: Any) -> Scope:
    """The region of the program in which it was made."""
    return content.scope if isinstance(content, Node) else ROOT


def is_number(content: Any) -> bool:
    """Whether it is a single number, of no shape."""
    return getattr(content, "shape", ()) == ()


def numbers(content: Any) -> Any:
    """The data of a node or constant, as an array. A Tensor's `.data` would count as a write."""
    if isinstance(content, Node) and not hasattr(content, "shape"):
        content = content.data  # type: ignore[attr-defined]
    return np.asarray(content)


def uses_of(things: Sequence[Thing]) -> Counter[int]:
    """How often each thing is used."""
    return Counter(i for thing in things for i in thing.operands)
