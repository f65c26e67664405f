"""One evaluation of a function for its derivatives: arguments in, results out.

What `calculus` differentiates is evaluated here: on leaves of its own in the place of the arguments
(reverse mode), or on series that move (forward mode). Here is also what an argument may be, what a
function may return, and how results are given.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, Literal

import numpy as np

from tinygrad_bp import array_rules
from tinygrad_bp.arguments import flag_or_none, is_integer, out_of_range, shown, wrong_kind
from tinygrad_bp.containers import (
    elements_of,
    filled,
    leaves_like,
    leaves_of,
    like_elements,
    shaped,
)
from tinygrad_bp.differentiable import link
from tinygrad_bp.graph import Node, topological_order
from tinygrad_bp.inputs import as_array
from tinygrad_bp.interrupts import undone
from tinygrad_bp.recording import enable_grad, is_grad_enabled
from tinygrad_bp.scalars import Values
from tinygrad_bp.series import (
    SeriesTensor,
    SeriesValue,
    coefficient_of,
    constant,
    gradients_through,
    new_tag,
    series,
)
from tinygrad_bp.tensor import Tensor, leaf_of
from tinygrad_bp.value import Value

Argnums = int | str | Sequence[int | str]

# What derivative the present code is evaluated for. Within "reverse", gradients must be nodes.
within: ContextVar[Literal["", "forward", "reverse"]] = ContextVar("within", default="")

# The leaves that stand for arguments of derivatives under way, by id. An argument with one among
# its ancestors says the same, also in a thread that the derivative has started.
_under_way: set[int] = set()


# --- reverse mode -------------------------------------------------------------------------------


class Run:
    """One evaluation of a function, on leaves of its own in the place of the arguments.

    Of its own, because an argument may also be reached by another way, which does not count; and
    because it may have a history, which is none of this derivative's business.

    Attributes:
        result: what the function returned.
        leaves: what it is differentiated by, as it was given.
        nodes: whether the results are to be nodes.
        create_graph: whether these are to be recorded.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        argnums: Argnums,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        create_graph: bool | None,
    ) -> None:
        self.keys = _keys(f, argnums, args, kwargs)
        self.trees = [kwargs[k] if isinstance(k, str) else args[k] for k in self.keys]
        named = zip(self.trees, self.keys, strict=True)
        self.leaves = _in_kind([x for t, k in named for _, x in leaves_of(t, _argument(f, k))])
        outside = within.get() or _kind_of_history(self.leaves)
        self.nodes = bool(outside) if create_graph is None else create_graph
        recorded = outside == "reverse" and is_grad_enabled()
        self.create_graph = recorded if create_graph is None else create_graph
        self.f, self.args, self.kwargs = f, args, kwargs
        self.single = isinstance(argnums, (int, str, np.integer))
        self.variables: list[Node] = []
        stand_ins = list(map(self._stand_in, self.leaves))
        under_way = [id(variable) for variable in self.variables]

        def evaluated() -> Any:
            _under_way.update(under_way)
            return self.evaluate(stand_ins, "reverse")

        self.result = undone(evaluated, lambda: _under_way.difference_update(under_way))

    def _stand_in(self, leaf: Any) -> Any:
        pairs = [_fresh(x) for x in elements_of(leaf)]
        self.variables += [variable for _, variable in pairs]
        stand_ins = like_elements(leaf, [stand_in for stand_in, _ in pairs])
        return stand_ins.view(Values) if isinstance(leaf, Values) else stand_ins

    def evaluate(self, leaves: Sequence[Any], mode: Literal["forward", "reverse"]) -> Any:
        """The function, with other leaves in the arguments."""
        args, kwargs, rest = list(self.args), dict(self.kwargs), iter(leaves)
        for key, tree in zip(self.keys, self.trees, strict=True):
            if isinstance(key, str):
                kwargs[key] = filled(tree, rest)
            else:
                args[key] = filled(tree, rest)
        return _evaluate(self.f, args, kwargs, mode)

    def gradients(self, root: Any, seed: Any = None, create_graph: bool = False) -> list[Any]:
        """The gradient of `root` by every leaf: a node, numbers, or None for zero.

        That by an array of Values is an array of objects.
        """
        if isinstance(root, Values):
            with enable_grad():
                root, seed = array_rules.sum(root if seed is None else root * seed), None
        again = create_graph or self.create_graph
        parts = iter(gradients_through(root, self.variables, again, seed))
        return [
            like_elements(leaf, [next(parts) for _ in elements_of(leaf)]) for leaf in self.leaves
        ]

    def rows(self, root: Any, shape: tuple[int, ...]) -> list[Any]:
        """The Jacobian by every leaf, one sweep per element of `root`, which has this shape."""
        sweeps: list[list[Any]] = []
        if isinstance(root, np.ndarray):  # of Values
            sweeps = [self.gradients(element) for element in root.flat]
        elif isinstance(root, Value):
            sweeps = [self.gradients(root)]
        elif isinstance(root, Tensor):
            units = np.eye(root.size, dtype=root.dtype).reshape(root.size, *shape)
            sweeps = [self.gradients(root, unit) for unit in units]
        return [
            _stacked([sweep[i] for sweep in sweeps], leaf, shape + shape_of(leaf), axis=0)
            for i, leaf in enumerate(self.leaves)
        ]

    def columns(self, root: Any) -> list[Any]:
        """The Jacobian by every leaf, one evaluation in forward mode per element of the leaf."""
        jacobians = []
        for i, leaf in enumerate(self.leaves):
            shape = shape_of(leaf)
            columns = []
            for unit in np.eye(math.prod(shape)).reshape(math.prod(shape), *shape):
                tag, moved = new_tag(), list(self.leaves)
                moved[i] = _moved(leaf, unit, 1, tag)
                mode: Any = "reverse" if self.create_graph else "forward"
                output = node_of(self.evaluate(moved, mode), self.f)
                columns.append(coefficient_at(output, 1, tag))
            jacobians.append(_stacked(columns, root, shape_of(root) + shape, axis=-1))
        return jacobians

    def close(self) -> None:
        """Tie the leaves to what they stood for, so that gradients can flow further."""
        if self.create_graph:
            origins = [x for leaf in self.leaves for x in elements_of(leaf)]
            for variable, origin in zip(self.variables, origins, strict=True):
                link(variable, _innermost(origin))

    def presented(self, results: Sequence[Any], nodes: bool | None = None) -> list[Any]:
        """Results, one per leaf, as the user gets them."""
        pairs = zip(results, self.leaves, strict=True)
        return [presented(x, leaf, self.nodes if nodes is None else nodes) for x, leaf in pairs]

    def shaped(self, results: Sequence[Any]) -> Any:
        """Results, one per leaf, in the structure of the arguments."""
        rest = iter(results)
        trees = tuple(shaped(tree, rest) for tree in self.trees)
        return trees[0] if self.single else trees


def _in_kind(leaves: Sequence[Any]) -> list[Any]:
    """Leaves that can meet: beside arrays, numbers become arrays of no dimensions."""
    dtypes = [x.dtype for x in leaves if isinstance(x, Tensor)]
    if not dtypes:
        return list(leaves)
    return [
        Tensor(x.data, requires_grad=False, dtype=np.result_type(*dtypes))
        if isinstance(x, Value) and not x.requires_grad
        else x
        for x in leaves
    ]


def _kind_of_history(leaves: Sequence[Any]) -> Literal["", "reverse"]:
    """Whether arguments stem from a derivative under way, perhaps of another thread."""
    for x in (element for leaf in leaves for element in elements_of(leaf)):
        if isinstance(x, (SeriesValue, SeriesTensor)):
            return "reverse"
        if (
            _under_way
            and x.requires_grad
            and any(id(n) in _under_way for n in topological_order(x))
        ):
            return "reverse"
    return ""


def _fresh(x: Any) -> tuple[Any, Any]:
    """What stands in for a node, and the leaf in it: under a series there is one, too."""
    if isinstance(x, (SeriesValue, SeriesTensor)):
        stand_in, variable = _fresh(x.coefficients[0])
        coefficients = [stand_in, *x.coefficients[1:]]
        return series(coefficients, x.order, x.tag, is_leaf=True), variable
    variable = Value(x.data, x.label) if isinstance(x, Value) else leaf_of(x)
    return variable, variable


def _innermost(x: Any) -> Any:
    while isinstance(x, (SeriesValue, SeriesTensor)):
        x = x.coefficients[0]
    return x


# --- forward mode -------------------------------------------------------------------------------


def run_forward(
    f: Callable[..., Any], primals: Any, tangents: Any, order: int, create_graph: bool | None
) -> tuple[Any, int, bool]:
    """A function of series; what it returned, their tag, and whether results are to be nodes."""
    check_function(f, create_graph)
    several = type(primals) is tuple  # and not a named one, which is a structure
    if several and not isinstance(tangents, tuple):
        raise TypeError(f"tangents: expected a tuple like primals, got {kind_of(tangents)}")
    leaves = _in_kind([leaf for _, leaf in leaves_of(primals, "primals")])
    velocities = leaves_like(primals, tangents, "tangents")
    inside = within.get() or _kind_of_history([*leaves, *velocities])
    nodes = bool(inside) if create_graph is None else create_graph
    if not nodes:
        leaves = [leaf.detach() for leaf in leaves]
        velocities = [velocity.detach() for velocity in velocities]
    tag = new_tag()
    pairs = zip(leaves, velocities, strict=True)
    trees = primals if several else (primals,)
    args = filled(trees, iter([_moved(leaf, v, order, tag) for leaf, v in pairs]))
    # With create_graph somebody will sweep over this: gradients in it must be recorded.
    return _evaluate(f, args, {}, "reverse" if create_graph else "forward"), tag, nodes


def _moved(leaf: Any, velocity: Any, order: int, tag: int) -> Any:
    """The series of a leaf that moves at a constant velocity."""
    kind = next(kind for kind in (Values, Value, Tensor) if isinstance(leaf, kind))
    if not isinstance(velocity, kind) and getattr(velocity, "requires_grad", False):
        raise TypeError(
            f"tangents: expected a {kind.__name__} like its primal, got a "
            f"{type(velocity).__name__}, whose history would be lost"
        )
    if isinstance(leaf, Values):
        parts = velocity.flat if isinstance(velocity, np.ndarray) else velocity.data.flat
        pairs = zip(leaf.flat, parts, strict=True)
        return like_elements(leaf, [_moved(x, v, order, tag) for x, v in pairs]).view(Values)
    if isinstance(leaf, Value):
        if not isinstance(velocity, Value):
            velocity = Value(float(number_of(velocity)), requires_grad=False)
    elif not isinstance(velocity, Tensor):
        numbers: Any = velocity.data if isinstance(velocity, Value) else velocity
        velocity = Tensor(numbers, requires_grad=False, dtype=leaf.dtype)
    elif velocity.dtype != leaf.dtype:
        velocity = velocity.astype(leaf.dtype)
    return series([leaf, velocity, *[None] * (order - 1)], order, tag, is_leaf=True)


def coefficient_at(x: Any, k: int, tag: int) -> Any:
    """c_k of an output; None for zero, and of an array of Values an array of objects."""
    return like_elements(x, [coefficient_of(element, k, tag) for element in elements_of(x)])


# --- functions, arguments and results -----------------------------------------------------------


def check_function(f: Any, create_graph: Any) -> None:
    """Raise TypeError if f is no function, or create_graph no truth value."""
    if not callable(f):
        raise TypeError(
            f"f: expected a function, got {shown(f)}; the gradient of a node is node.backward()"
        )
    flag_or_none(create_graph, "create_graph")


def check_call(f: Any, argnums: Any, create_graph: Any = None) -> None:
    """Raise TypeError if f is no function, or argnums are no positions or names."""
    check_function(f, create_graph)
    several = argnums if isinstance(argnums, (list, tuple, range)) else [argnums]
    for key in several:
        if not isinstance(key, (int, str, np.integer)) or isinstance(key, bool):
            raise TypeError(
                f"argnums: expected positions or names of arguments, got {shown(argnums)}; the "
                "arguments themselves come after: grad(f)(x)"
            )


def _evaluate(
    f: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    mode: Literal["forward", "reverse"],
) -> Any:
    outside = within.get()

    def evaluated() -> Any:
        within.set("reverse" if outside == "reverse" else mode)
        with enable_grad():  # what is around a derivative does not matter, what is within it does
            return f(*args, **kwargs)

    return undone(evaluated, lambda: within.set(outside))


def _keys(
    f: Callable[..., Any], argnums: Argnums, args: Sequence[Any], kwargs: dict[str, Any]
) -> list[int | str]:
    """Where the arguments stand in this call: positions, or names of keyword arguments."""
    several: Any = [argnums] if isinstance(argnums, (int, str, np.integer)) else list(argnums)
    keys: list[int | str] = []
    for key in several:
        if isinstance(key, str) and key not in kwargs:
            key = _position(f, key, len(args))
        if isinstance(key, (int, np.integer)):
            if not -len(args) <= key < len(args):
                raise ValueError(
                    f"argnums: there is no argument {argnums!r} among {len(args)} positional ones "
                    f"and the names {sorted(kwargs)}"
                )
            key %= len(args)
        keys.append(key)
    if len(set(keys)) < len(keys):
        raise ValueError(f"argnums: expected every argument once, got {argnums!r}")
    return keys


def _position(f: Callable[..., Any], name: str, count: int) -> int:
    """The position of a parameter by name; `count`, which is none, if it cannot be given by one."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(f).parameters.values()
    names = [p.name for p in parameters if p.kind in positional]
    return names.index(name) if name in names else count


def _argument(f: Callable[..., Any], key: int | str) -> str:
    """The name of an argument, for messages."""
    if isinstance(key, int):
        try:
            return list(inspect.signature(f).parameters)[key]
        except (TypeError, ValueError, IndexError):
            return f"argument {key}"
    return key


def node_of(result: Any, f: Callable[..., Any]) -> Any:
    """What a function returned, if it is a node; else TypeError."""
    if not isinstance(result, (Value, Tensor, Values)):
        raise TypeError(
            f"expected {name_of(f)} to return a Value, a Tensor or Values, got {kind_of(result)}; "
            "what comes from .data, float() or the math module has no derivative"
        )
    return result


def single_number(result: Any, f: Callable[..., Any]) -> Any:
    """What a function returned, if it is a single number; else an error."""
    result = node_of(result, f)
    if math.prod(shape_of(result)) != 1:
        raise ValueError(
            f"expected {name_of(f)} to return a single number, got shape {shape_of(result)}; "
            "sum it, or use jacobian() or vjp()"
        )
    return result.flat[0] if isinstance(result, Values) else result


def seed_of(root: Any, cotangent: Any, what: str) -> Any:
    """The gradient that a sweep starts from."""
    if isinstance(cotangent, (Value, Tensor, Values)):
        found = shape_of(cotangent)
    else:
        if not isinstance(root, Value):
            cotangent = as_array(cotangent, what, root.dtype if isinstance(root, Tensor) else None)
        elif isinstance(cotangent, np.ndarray) and not cotangent.ndim:
            cotangent = float(cotangent)
        else:
            cotangent = Value(cotangent).data
        found = np.shape(cotangent)
    if found != shape_of(root):
        raise ValueError(f"{what}: expected shape {shape_of(root)}, got {found}")
    return cotangent


def check_order(n: Any, what: str = "order") -> None:
    """Raise if an order is not an integer from 0 to 170."""
    if not is_integer(n):
        raise wrong_kind(what, "an int", n)
    if not 0 <= n <= 170:  # 171! is no float
        raise out_of_range(what, "0 to 170", n)


def _stacked(parts: Sequence[Any], like: Any, shape: tuple[int, ...], axis: int) -> Any:
    """Rows or columns of a Jacobian as one array; the parts are kinds of `like`, None is zero."""
    if isinstance(like, Tensor):
        if not any(isinstance(part, Node) for part in parts):
            zero = np.zeros(like.shape, like.dtype)
            rows = [zero if part is None else part for part in parts]
            return np.stack(rows, axis).reshape(shape) if rows else np.zeros(shape, like.dtype)
        constant_zero = constant(np.zeros(like.shape, like.dtype))
        nodes = [constant_zero if part is None else _as_node(part) for part in parts]
        with enable_grad():
            return array_rules.reshape(array_rules.stack(nodes, axis), shape)
    if not shape:
        return parts[0] if parts else None
    cells = np.full(shape, None, dtype=object)
    if parts:
        arrays = [part if isinstance(part, np.ndarray) else _cell(part) for part in parts]
        cells[...] = np.stack(arrays, axis).reshape(shape)
    return cells


def _cell(x: Any) -> Any:
    cell = np.empty((), dtype=object)
    cell[()] = x
    return cell


def _as_node(x: Any) -> Any:
    return x if isinstance(x, Node) else constant(0.0 if x is None else x)


def detached(x: Any) -> Any:
    """Something else that a function returned, without the graph that it was computed by."""
    if isinstance(x, (Value, Tensor, Values)):
        return x.detach()
    if isinstance(x, dict):
        return {key: detached(part) for key, part in x.items()}
    if type(x) in (list, tuple):
        return type(x)(map(detached, x))
    return x


def presented(x: Any, like: Any, nodes: bool) -> Any:
    """A result as the user gets it: nodes, or numbers that nothing else holds."""
    if isinstance(x, np.ndarray) and x.dtype == object:
        if nodes:
            return like_elements(x, [_as_node(element) for element in x.flat]).view(Values)
        floats = [0.0 if e is None else number_of(e) for e in x.flat]
        return np.array(floats, np.float64).reshape(x.shape)
    if x is None:
        x = 0.0 if isinstance(like, Value) else np.zeros(like.shape, like.dtype)
    if nodes:
        return x if isinstance(x, (Node, Values)) else constant(x)
    numbers = number_of(x)
    return np.array(numbers) if np.ndim(numbers) else float(numbers)


def number_of(x: Any) -> Any:
    """The numbers of a node; others are what they are."""
    return x.data if isinstance(x, (Value, Tensor, Values)) else x


def shape_of(x: Any) -> tuple[int, ...]:
    """The lengths of the axes; () for a number."""
    return tuple(getattr(x, "shape", ()))


def name_of(f: Callable[..., Any]) -> str:
    """What a function is called, for messages."""
    return getattr(f, "__name__", None) or type(f).__name__


def kind_of(x: Any) -> str:
    """What something is, for messages."""
    return shown(x)
