"""Gradients that can be differentiated again: the rules, run on nodes.

Partials and pullbacks are functions over a namespace. Where that namespace is the operations
themselves (`operations`), what they compute is a graph like any other. So nothing new is needed for
second derivatives: the graph is linked a second time, with local derivatives that are nodes, and
the sweep of `graph` runs over it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tinygrad_bp import array_rules, arrays, floats
from tinygrad_bp.array_rules import ARRAY_RULES
from tinygrad_bp.derivatives import Elementwise, widened
from tinygrad_bp.graph import MORE, Node, Segment, born, gradients, topological_order
from tinygrad_bp.recording import enable_grad
from tinygrad_bp.rules import RULES, Rule
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.value import Value


class _Operations:
    """The namespace in which rules compute nodes: its functions are the rules.

    A call that meets only numbers and arrays is left to the namespaces of those.
    """

    def __getattr__(self, name: str) -> Callable[..., Any]:
        rule: Any = RULES.get(name) or ARRAY_RULES.get(name)
        if name == "einsum":
            rule = array_rules.einsum
        if rule is None:
            raise AttributeError(f"there is no operation {name!r}")

        def function(*arguments: Any, **options: Any) -> Any:
            plain: Any = arrays
            for argument in arguments:
                if isinstance(argument, (list, tuple)):  # a sequence of operands
                    argument = next(filter(_is_node, argument), None)
                if _is_node(argument):
                    return rule(*arguments, **options)
            if all(type(argument) in (float, bool) for argument in arguments):
                plain = floats
            return getattr(plain, name)(*arguments, **options)

        setattr(self, name, function)
        return function

    @staticmethod
    def detached(x: Any) -> Any:
        return x.detach() if _is_node(x) else x


def _is_node(x: Any) -> bool:
    return hasattr(type(x), "_interpret")


operations: Any = _Operations()


# --- the chain rule on nodes --------------------------------------------------------------------


def pulled(rule: Any, which: int, g: Any, result: Any, operands: Sequence[Any], local: Any) -> Any:
    """The gradient that an operation hands to an operand, `local * g`, as a node.

    Args:
        rule: the operation.
        which: the number of the operand.
        g: the gradient of the result.
        result, operands: what the operation gave, and was given.
        local: the recorded local derivative; of a structural operation it holds the arguments.
    """
    if isinstance(rule, Rule):
        partial = rule.partials[which]
        if callable(partial):
            given = operands
            if isinstance(result, Tensor):  # numpy's functions of constants, as in the first sweep
                given = [np.float64(x) if type(x) is float else x for x in operands]
                given = widened(operations, given, result)
            g = operations.azmul(g, partial(operations, *given, result))
        elif partial != 1.0:
            g = g * partial
    else:
        g = rule.pull(operations, which, g, result, operands, local.parameters, local.options)
    return fitted(g, operands[which])


def fitted(g: Any, operand: Any) -> Any:
    """A gradient in the shape and dtype of its operand."""
    if not isinstance(operand, Tensor):
        return g
    if g.shape != operand.shape:
        g = array_rules.sum_to(operations, g, operand.shape)
    return g if g.dtype == operand.dtype else operations.astype(g, operand.dtype)


class _Again:
    """A local derivative that is computed on nodes, when it is multiplied by a gradient."""

    __slots__ = ("local", "node", "operands", "which")

    def __init__(self, node: Node, operands: tuple[Any, ...], which: int, local: Any) -> None:
        self.node = node
        self.operands = operands  # one tuple for all of them: a `stack` may have thousands
        self.which = which
        self.local = local

    def __mul__(self, g: Any) -> Any:
        node = self.node
        return pulled(node.rule, self.which, g, node, self.operands, self.local)


def _linked_again(
    order: Sequence[Node], variables: Sequence[Node], create_graph: bool
) -> dict[Node, Node]:
    """Twins of the nodes that lead to the variables, with local derivatives that make nodes.

    Nodes from which no variable can be reached have no twin, and edges to them are left out: so
    this serves, with the recorded derivatives, also to sweep a part of a graph.
    """
    twins: dict[Node, Node] = {variable: _Twin(variable) for variable in variables}
    for node in _unfolded(order, twins):
        if node in twins or not any(parent in twins for parent in node.parents):
            continue
        if create_graph:
            check_unwritten(node)
        twin = twins[node] = _Twin(node)
        twin.rule = node.rule
        pairs: list[tuple[Any, Any]] = []
        operands = node.operands
        for i, (x, local) in enumerate(zip(operands, node.locals, strict=True)):
            if local is None or x not in twins:
                pairs.append((x, None))
            else:
                pairs.append(
                    (twins[x], _Again(node, operands, i, local) if create_graph else local)
                )
        twin.x, twin.dx = pairs[0]
        if node.dy is MORE:
            twin.y, twin.dy = tuple(pairs[1:]), MORE
        elif len(pairs) == 2:
            twin.y, twin.dy = pairs[1]
    return twins


def _unfolded(order: Sequence[Node], twins: dict[Node, Node]) -> Iterator[Node]:
    """The nodes, and in the place of a segment those of its second run, kept for good."""
    inside: dict[Node, list[Node]] = {}
    for node in order:
        if isinstance(node, Segment):
            nodes, inside[node] = node.kept()
            yield from _unfolded(nodes, twins)
        elif isinstance(node.x, Segment):
            result = inside[node.x][node.dx.i]
            if result in twins:
                twins[node] = twins[result]
        else:
            yield node


class _Twin(Node):
    """A node that stands in for another in a sweep."""

    __slots__ = ("original",)

    def __init__(self, node: Node) -> None:
        self._birth = born()
        self.original: Any = node
        self._grad, self._place, self.rule = None, node._place, None
        self.x = self.dx = self.y = self.dy = None

    def _arithmetic(self) -> Any:
        return self.original._arithmetic()

    def _shown(self, x: Any) -> Any:
        return x if isinstance(x, Node) else self.original._shown(x)

    def _seed(self, gradient: Any) -> Any:
        """What a hook has put in the place of a gradient."""
        if not isinstance(gradient, Node):
            return self.original._seed(gradient)
        got, expected = (getattr(x, "shape", ()) for x in (gradient, self.original))
        if got != expected:
            raise ValueError(f"gradient: expected shape {expected}, got {got}")
        return gradient


def gradients_of(root: Node, variables: Sequence[Node], seed: Any, create_graph: bool) -> list[Any]:
    """The gradients of `root` by the variables, returned and stored nowhere.

    Args:
        root: a tracked node.
        variables: tracked leaves.
        seed: the root's own gradient: a number or an array; with `create_graph` a node.
        create_graph: whether the gradients are to be nodes.

    Returns:
        Per variable the gradient; None where the root does not depend on it.

    Raises:
        RuntimeError: `create_graph`, and a leaf was written to since the graph was recorded.
    """
    order = topological_order(root)
    known = set(variables)
    if not create_graph and all(node in known for node in order if node.rule is None):
        return gradients(root, seed, variables, order)
    with enable_grad():
        twins = _linked_again(order, variables, create_graph)
        if root not in twins:
            return [None] * len(variables)
        return gradients(twins[root], seed, [twins[variable] for variable in variables])


def check_unwritten(node: Node) -> None:
    """Raise if a leaf among the operands is no longer what the node was computed from.

    A first derivative is safe from this, since what it needs was stored. A second one runs the
    partial derivatives once more, on the operands themselves.

    Raises:
        RuntimeError: a leaf was written to.
    """
    if any(isinstance(x, Node) and x.is_leaf for x in node.operands) and not (
        _same_arrays(node) if isinstance(node, Tensor) else _same_numbers(node)
    ):
        names = [x.label for x in node.operands if isinstance(x, Node) and x.is_leaf and x.label]
        raise RuntimeError(
            f"a leaf{' (' + ', '.join(names) + ')' if names else ''} that {node.rule.name} was "
            "computed from has been written to since; differentiate again before writing"
        )


def leaf_data(root: Any) -> dict[Node, Any]:
    """What every leaf of a graph holds now."""
    if not isinstance(root, Node):
        return {}
    leaves = [node for node in topological_order(root) if node.is_leaf]
    return {x: x._array if isinstance(x, Tensor) else x.data for x in leaves}  # type: ignore[attr-defined]


def check_leaf_data(data: dict[Node, Any]) -> None:
    """Raise if a leaf no longer holds what it held.

    Raises:
        RuntimeError: a leaf was written to.
    """
    for leaf, then in data.items():
        now = leaf._array if isinstance(leaf, Tensor) else leaf.data  # type: ignore[attr-defined]
        if now is not then and not np.array_equal(now, then, equal_nan=True):
            name = f" ({leaf.label})" if leaf.label else ""
            raise RuntimeError(f"a leaf{name} has been written to since the function was evaluated")


def _same_numbers(node: Any) -> bool:
    numbers = [x.data if isinstance(x, Value) else x for x in node.operands]
    again = [node.rule.value(floats, *numbers)]
    recorded = [node.data]
    for partial, local in zip(node.rule.partials, node.locals, strict=True):
        if local is not None and callable(partial):
            again.append(partial(floats, *numbers, node.data))
            recorded.append(float(local))
    return all(a == b or (a != a and b != b) for a, b in zip(again, recorded, strict=True))


def _same_arrays(node: Node) -> bool:
    recorded = next(local for local in node.locals if local is not None)._operands
    return all(
        x._array is then or np.array_equal(x._array, then, equal_nan=True)
        for x, then in zip(node.operands, recorded, strict=True)
        if isinstance(x, Tensor) and x.is_leaf
    )


def link(variable: Any, origin: Any) -> None:
    """Make a leaf the alias of the node that it stood for, so that gradients can flow further."""
    if not origin.requires_grad:
        return
    positive = RULES["positive"]
    local: Any = 1.0
    if isinstance(variable, Tensor):
        local = Elementwise(positive, 0, [variable._array], variable._array)
    variable.rule, variable.x, variable.dx = positive, origin, local
