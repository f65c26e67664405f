"""Memory for long chains: parts of a computation that are run again instead of being kept.

A sweep needs every intermediate result, and the longer the sequence, the more there are. A
checkpointed part keeps its results alone. When the sweep comes to it, it is run once more, swept,
and forgotten. Of T steps in parts of k, T/k results and the inside of one part are held: with
k = sqrt(T) memory grows as sqrt(T), for one more forward pass (Griewank & Walther 2000; Chen et al.
2016). The nodes are swept in the very order in which they would have been swept without, so the
gradients are the same to the last bit.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from tinygrad_bp.arguments import out_of_range, wrong_kind
from tinygrad_bp.containers import like_elements
from tinygrad_bp.differentiable import check_leaf_data
from tinygrad_bp.evaluation import within
from tinygrad_bp.graph import MORE, Node, Segment, born
from tinygrad_bp.interrupts import undone
from tinygrad_bp.nn.module import Module
from tinygrad_bp.recording import Scope, current_state, resolve, resumed
from tinygrad_bp.scalars import Values
from tinygrad_bp.tensor import Tensor, result_of as tensor_of
from tinygrad_bp.value import Value, result_of as value_of

_T = TypeVar("_T")


def checkpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`function(*args, **kwargs)`, of which only the results are kept until the backward sweep.

    The sweep runs the function a second time, to the same numbers. Gradients are bit-identical to
    those of a plain call; they flow to the arguments and to whatever else the function reaches.
    Inner nodes are seen by `sweep()`, hooks and `detect_anomaly()`, but have no `.grad` afterwards.

    Generators of random numbers among the arguments, in Modules and in what the function closes
    over, are set back for the second run, so that dropout drops the same units.

    Args:
        function: returns nodes, or lists, tuples and dicts of them. Whatever it reads besides its
            arguments must be the same when it runs again.
        args, kwargs: what it is called with. numpy arrays among them are copied.

    Raises:
        ValueError: the function makes a tracked leaf, whose gradient nobody could receive.
        RuntimeError: in the sweep: the second run did not do what the first did, or a leaf was
            written to in between.

    Example:
        >>> def part(x):
        ...     for _ in range(1000):
        ...         x = x + 0.001 * (1.0 - x * x)
        ...     return x
        >>> x = Value(0.0)
        >>> y = x
        >>> for _ in range(10):
        ...     y = checkpoint(part, y)
        >>> y.backward()
    """
    if not callable(function):
        raise wrong_kind("function", "a function", function)
    scope = resolve(current_state())
    if scope is None:
        return function(*args, **kwargs)
    try:
        args, kwargs = _copied(args), _copied(kwargs)
    except RecursionError:
        raise out_of_range("args", "structures that end", args[0] if args else kwargs) from None
    generators = list(_generators((function, args, kwargs), set()))
    states = [copy.deepcopy(generator.bit_generator.state) for generator in generators]
    since = born()
    results = function(*args, **kwargs)
    nodes = list(dict.fromkeys(_nodes(results)))
    if any(type(node)._interpret is not _PLAIN[_kind(node)] for node in nodes):
        return results  # forward mode, or a program being recorded: nothing is swept here
    made = [node for node in nodes if node.requires_grad and node._birth > since]
    if not made:
        return results
    drawn = list(zip(generators, states, strict=True))
    segment = _Rerun(lambda: function(*args, **kwargs), scope, drawn, since, made)
    kept = {node: segment.result(i, node) for i, node in enumerate(made)}
    return _replaced(results, kept)


def _kind(x: Node) -> type[Value] | type[Tensor]:
    return Value if isinstance(x, Value) else Tensor


_PLAIN: dict[Any, Any] = {Value: Value._interpret, Tensor: Tensor._interpret}


class _Rule:
    """What stands for the operation at a segment and at its results."""

    name = "checkpoint"
    analytic = False  # it has no formula to be run on other numbers

    def __repr__(self) -> str:
        return "<rule checkpoint>"


RULE = _Rule()


class _Through:
    """The derivative of a segment by what it was computed from: known when it is run again."""

    __slots__ = ()
    name = "run again"

    def __mul__(self, gradient: Any) -> Any:
        raise TypeError("a checkpointed part has no local derivative; its nodes have")

    __rmul__ = __mul__


class _Result:
    """The derivative of the i-th result of a segment by the segment."""

    __slots__ = ("i",)
    name = "result"

    def __init__(self, i: int) -> None:
        self.i = i

    def __mul__(self, gradient: Any) -> _Gradients:
        return _Gradients({self.i: gradient})


class _Gradients(dict[int, Any]):
    """The gradients of a segment's results, by their numbers."""

    def __add__(self, other: _Gradients) -> _Gradients:
        return _Gradients(self | other)


class _Rerun(Segment):
    """A segment that is run again by calling its function."""

    __slots__ = ("constants", "data", "derivative", "drawn", "function", "leaves")

    def __init__(
        self,
        function: Callable[[], Any],
        scope: Scope,
        drawn: list[tuple[np.random.Generator, Any]],
        since: int,
        made: list[Any],
    ) -> None:
        self.function = function
        self.drawn = drawn
        self.data = [_data(node) for node in made]
        inside, outside = _parts(made, since)
        leaves = [node for node in inside if node.rule is None]
        if leaves:
            raise ValueError(
                f"checkpoint: the function makes a tracked leaf {leaves[0].label!r}, to which no "
                "gradient can be given; make it outside, or with requires_grad=False"
            )
        self.leaves = {node: _data(node) for node in outside if node.rule is None}
        self.constants = _constants(inside, since)
        self.derivative = within.get()
        self._birth, self._grad, self._place, self.rule = born(), None, scope, RULE
        self.x = self.dx = None
        self.y, self.dy = tuple((node, _THROUGH) for node in outside), MORE

    @property
    def operands(self) -> tuple[Any, ...]:
        return tuple(node for node, _ in self.y)

    @property
    def locals(self) -> tuple[Any, ...]:
        return tuple(local for _, local in self.y)

    def result(self, i: int, original: Any) -> Any:
        """The i-th result as a node without its history, which has the segment as its operand."""
        make: Any = value_of if isinstance(original, Value) else tensor_of
        node = make(RULE, self, _Result(i), self.data[i], original.scope)
        if original.label:
            node.label = original.label
        return node

    def again(self, gradients: dict[int, Any]) -> tuple[list[Node], dict[Node, Any]]:
        since, results, (inside, outside) = self.run_again()
        wanted: dict[Node, Any] = {results[i]: g for i, g in gradients.items()}
        if len(wanted) < len(results):
            inside, outside = _parts(wanted, since)
        if not set(outside) <= set(self.operands):
            raise RuntimeError(
                "checkpoint: the function, run again, used other nodes than before; it must not "
                "keep nodes from one call to the next"
            )
        return inside, wanted

    def kept(self) -> tuple[list[Node], list[Node]]:
        _, results, (inside, _) = self.run_again()
        return inside, results

    def _results(self) -> list[Any]:
        """What the function returns now, for the derivative that it was called for then."""
        outside = within.get()

        def returned() -> list[Any]:
            within.set(self.derivative)
            return list(dict.fromkeys(_nodes(self.function())))

        return undone(returned, lambda: within.set(outside))

    def run_again(self) -> tuple[int, list[Any], tuple[list[Node], list[Node]]]:
        """The number that the new nodes come after, the results computed anew, and their `_parts`.

        Raises:
            RuntimeError: they are not what they were.
        """
        check_leaf_data(self.leaves)
        since = born()
        with resumed(self._place):  # type: ignore[arg-type]
            results = _set_back(self.drawn, self._results)
        results = [node for node in results if node.requires_grad and node._birth > since]
        again = [_data(node) for node in results]
        parts = _parts(results, since)
        constants = _constants(parts[0], since)
        pairs = ((again, self.data), (constants, self.constants))
        if not all(len(x) == len(y) and all(map(_same, x, y)) for x, y in pairs):
            raise RuntimeError(
                "checkpoint: the function, run again, gave other numbers; it reads something that "
                "has changed since, or draws random numbers of a generator it was not given"
            )
        return since, results, parts


_THROUGH = _Through()


# --- what the first run and the second have in common -------------------------------------------


def _parts(results: Iterable[Node], since: int) -> tuple[list[Node], list[Node]]:
    """The tracked nodes that results were computed from: those made since, and the older ones.

    The older ones are those at the border, of which the newer were computed directly.
    """
    found = dict.fromkeys(results)
    outside: dict[Node, None] = {}
    unvisited = list(found)
    for node in unvisited:  # which grows as we go
        for parent in node.parents:
            if parent._birth < since:
                outside[parent] = None
            elif parent not in found:
                found[parent] = None
                unvisited.append(parent)
    return sorted(found, key=lambda node: node._birth), list(outside)


def _constants(inside: Iterable[Node], since: int) -> list[Any]:
    """What the nodes of a part have as operands besides tracked nodes, to be compared.

    A derivative may depend on them where the result does not: `u * c` at u = 0. Arrays that the
    part itself makes are not kept for it; a checksum is.
    """
    found: list[Any] = []
    for node in inside:
        if isinstance(node, _Rerun):
            found += node.constants
        elif node.dx is None or node.dy is MORE or (node.dy is None and node.y is not None):
            for x, local in zip(node.operands, node.locals, strict=True):
                if local is None:
                    older = isinstance(x, Node) and x._birth < since
                    data = _data(x) if isinstance(x, Node) else x
                    is_made = isinstance(data, np.ndarray) and not older
                    found.append(zlib.crc32(data.tobytes()) if is_made else data)
    return found


def _data(node: Any) -> Any:
    return node._data if isinstance(node, Value) else node._array


def _same(x: Any, y: Any) -> bool:
    return x is y or np.array_equal(x, y, equal_nan=True)


def _nodes(x: Any) -> Iterator[Any]:
    """The nodes in nested containers."""
    if isinstance(x, (Value, Tensor)):
        yield x
    elif isinstance(x, Values):
        yield from x.flat
    elif isinstance(x, (list, tuple)):
        for part in x:
            yield from _nodes(part)
    elif isinstance(x, dict):
        yield from _nodes(list(x.values()))


def _replaced(x: Any, kept: dict[Node, Any]) -> Any:
    """Nested containers, with other nodes in the place of some."""
    if isinstance(x, (Value, Tensor)):
        return kept.get(x, x)
    if isinstance(x, Values):
        return like_elements(x, [kept.get(node, node) for node in x.flat]).view(Values)
    if isinstance(x, dict):
        return {key: _replaced(part, kept) for key, part in x.items()}
    if isinstance(x, (list, tuple)):
        parts = [_replaced(part, kept) for part in x]
        if isinstance(x, list):
            return parts
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x


def _copied(x: Any) -> Any:
    """Arguments, whose arrays nobody else can write to."""
    if isinstance(x, np.ndarray) and not isinstance(x, Values):
        return x.copy()
    if isinstance(x, dict):
        return {key: _copied(part) for key, part in x.items()}
    if isinstance(x, (list, tuple)):
        parts = [_copied(part) for part in x]
        if isinstance(x, list):
            return parts
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x


def _generators(x: Any, seen: set[int]) -> Iterator[np.random.Generator]:
    """The generators of random numbers among arguments, in Modules, and in what functions hold."""
    if id(x) in seen:
        return
    seen.add(id(x))
    parts: Iterable[Any] = ()
    if isinstance(x, np.random.Generator):
        yield x
    elif isinstance(x, (list, tuple)):
        parts = x
    elif isinstance(x, dict):
        parts = x.values()
    elif isinstance(x, Module):
        parts = vars(x).values()
    elif callable(x):
        cells = getattr(x, "__closure__", None) or ()
        parts = [getattr(x, "__self__", None), *(c.cell_contents for c in cells if _is_full(c))]
    for part in parts:
        yield from _generators(part, seen)


def _is_full(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  (an empty cell raises)
    except ValueError:
        return False
    return True


def _set_back(drawn: Sequence[tuple[np.random.Generator, Any]], do: Callable[[], _T]) -> _T:
    """`do()` with generators in the state they once had, and then in their present one again."""
    if not drawn:
        return do()
    present = [(g, copy.deepcopy(g.bit_generator.state)) for g, _ in drawn]

    def put(states: Sequence[tuple[np.random.Generator, Any]]) -> None:
        for generator, state in states:
            generator.bit_generator.state = state

    def set_back() -> _T:
        put(drawn)
        return do()

    return undone(set_back, lambda: put(present))
