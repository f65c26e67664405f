"""Arguments and results in nested containers: lists, tuples, dicts and Modules.

What is to be differentiated by may be one number, an array, or a structure of many. Here a
structure is taken apart into its leaves, and put together again around other leaves. A Module
counts as the dict of its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tinygrad_bp.arguments import out_of_range, shown
from tinygrad_bp.inputs import as_array
from tinygrad_bp.nn.module import Module, substituted
from tinygrad_bp.scalars import Values
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.value import Value

Leaf = Value | Tensor | Values
_NO_LEAVES = (bool, str, type(None), np.random.Generator)


def leaves_of(tree: Any, name: str, *, further: bool = False) -> list[tuple[str, Any]]:
    """The leaves of a structure from left to right, each with a name such as `x[0]["W"]`.

    Numbers become untracked Values, arrays untracked Tensors; nodes stay what they are.

    Args:
        tree: the structure.
        name: what to call it.
        further: whether there may be more than can be differentiated by: arrays of integers are
            then leaves as they are, and bool, str, None and generators are passed over.

    Raises:
        TypeError: something in it is neither a number, nor an array, nor a node, nor a container.
    """
    try:
        return list(_walk(tree, name, further))
    except RecursionError:
        raise out_of_range(name, "a structure that ends", tree) from None


def nodes_of(tree: Any, name: str) -> list[Any]:
    """The leaves of a structure, which have to be nodes: those of a result to be differentiated.

    Raises:
        TypeError: one is a plain number or array.
    """
    if isinstance(tree, (dict, list, tuple)):
        parts = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return [node for key, part in parts for node in nodes_of(part, f"{name}[{key!r}]")]
    if not isinstance(tree, (Value, Tensor, Values)):
        raise TypeError(
            f"{name}: expected a Value, a Tensor or Values, got {type(tree).__name__}; what comes "
            "from .data, float() or the math module has no derivative"
        )
    return [tree]


def _walk(tree: Any, name: str, further: bool) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, (Value, Tensor, Values)) or (further and _is_of_integers(tree)):
        yield name, tree
    elif further and isinstance(tree, _NO_LEAVES):
        return
    elif isinstance(tree, Module):
        for key, parameter in tree.named_parameters():
            yield f"{name}.{key}", parameter
    elif isinstance(tree, dict):
        for key, part in tree.items():
            yield from _walk(part, f"{name}[{key!r}]", further)
    elif isinstance(tree, (list, tuple)):
        for i, part in enumerate(tree):
            yield from _walk(part, f"{name}[{i}]", further)
    elif isinstance(tree, (bool, np.bool_)):
        raise TypeError(f"{name}: expected a number or an array, got a bool, {tree}")
    elif isinstance(tree, (int, float, np.integer, np.floating)):
        yield name, Value(float(tree), requires_grad=False)
    elif isinstance(tree, np.ndarray):
        yield name, Tensor(as_array(tree, name), requires_grad=False)
    else:
        raise TypeError(
            f"{name}: expected a number, an array, a Value, a Tensor, Values, a Module, or a list, "
            f"tuple or dict of them, got {shown(tree)}"
        )


def elements_of(x: Any) -> list[Any]:
    """The nodes of a leaf: itself, or the elements of an array of Values."""
    return list(x.flat) if isinstance(x, Values) else [x]


def like_elements(x: Any, elements: Sequence[Any]) -> Any:
    """Other things in the place of the nodes of a leaf: an array of objects for Values."""
    if not isinstance(x, np.ndarray) or x.dtype != object:
        return elements[0]
    result = np.empty(x.shape, dtype=object)
    for i, element in enumerate(elements):
        result.flat[i] = element
    return result


def _is_of_integers(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind in "iu"


def filled(tree: Any, leaves: Iterator[Any], instead: dict[int, Any] | None = None) -> Any:
    """The structure with other leaves, such as a function takes it: a Module stays one.

    Args:
        tree: the structure.
        leaves: what to put in their places, in their order.
        instead: by id, what stands in for generators.
    """
    further = instead or {}

    def module(x: Module) -> Module:
        twins: Any = {id(parameter): next(leaves) for parameter in x.parameters()}
        return substituted(x, further | twins)  # type: ignore[no-any-return]

    return _rebuilt(tree, leaves, module, further)


def shaped(tree: Any, leaves: Iterator[Any]) -> Any:
    """The structure with results at its leaves: that of a Module is a dict by parameter name."""

    def by_name(x: Module) -> dict[str, Any]:
        return {name: next(leaves) for name, _ in x.named_parameters()}

    return _rebuilt(tree, leaves, by_name)


def _rebuilt(
    tree: Any,
    leaves: Iterator[Any],
    of_module: Callable[[Any], Any],
    instead: dict[int, Any] | None = None,
) -> Any:
    if isinstance(tree, (Values, np.ndarray)):
        return next(leaves)
    if isinstance(tree, _NO_LEAVES):
        return instead.get(id(tree), tree) if instead else tree
    if isinstance(tree, Module):
        return of_module(tree)
    if isinstance(tree, dict):
        return {key: _rebuilt(part, leaves, of_module, instead) for key, part in tree.items()}
    if isinstance(tree, (list, tuple)):
        parts = [_rebuilt(part, leaves, of_module, instead) for part in tree]
        if isinstance(tree, list):
            return parts
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return next(leaves)


def leaves_like(tree: Any, other: Any, name: str) -> list[Any]:
    """The leaves of `other`, in the order of those of `tree`, whose structure it must have.

    A Module is matched by a dict of its parameters' names.

    Raises:
        TypeError, ValueError: the structures or the shapes differ.
    """
    return list(_matched(tree, other, name))


def _matched(tree: Any, other: Any, name: str) -> Iterator[Any]:
    of = ""
    if isinstance(tree, Module):
        of = f"a {type(tree).__name__} or "
        tree = dict(tree.named_parameters())
        other = dict(other.named_parameters()) if isinstance(other, Module) else other
    if isinstance(tree, dict):
        if not isinstance(other, dict) or other.keys() != tree.keys():
            raise _mismatch(name, f"{of}a dict of {sorted(tree, key=str)}", other)
        for key, part in tree.items():
            yield from _matched(part, other[key], f"{name}[{key!r}]")
    elif isinstance(tree, (list, tuple)):
        if not isinstance(other, (list, tuple)) or len(other) != len(tree):
            raise _mismatch(name, f"a {type(tree).__name__} of {len(tree)}", other)
        for i, (part, counterpart) in enumerate(zip(tree, other, strict=True)):
            yield from _matched(part, counterpart, f"{name}[{i}]")
    else:
        shape = np.shape(getattr(tree, "data", tree))
        found = leaves_of(other, name)
        if len(found) != 1 or np.shape(found[0][1].data) != shape:
            raise _mismatch(name, f"numbers of shape {shape}", other)
        yield found[0][1]


def _mismatch(name: str, expected: str, got: Any) -> Exception:
    shape = getattr(got, "shape", None)
    size = f" of {len(got)}" if isinstance(got, (list, tuple, dict)) else ""
    kind = f"{type(got).__name__}{size}" + (f" of shape {tuple(shape)}" if shape else "")
    return ValueError(f"{name}: expected {expected}, got a {kind}")
