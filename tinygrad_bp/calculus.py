"""Derivatives of functions: gradients, products with Jacobians, Hessians, Taylor series.

These take a function and return derivatives, or a function that computes them; nothing is stored on
any node. They nest to any depth and in any mixture. What is differentiated by may be numbers and
arrays, which reach the function as `Value`s and `Tensor`s; nodes; Modules, which are differentiated
by their parameters; and lists, tuples and dicts of these. Results come in the same structure, where
a dict by parameter name stands for a Module.

Results are plain numbers and arrays. Inside of another derivative, and with `create_graph=True`,
they are nodes, which can be differentiated again.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any, Literal

import numpy as np

from tinygrad_bp import array_rules
from tinygrad_bp.containers import (
    elements_of,
    filled,
    leaves_like,
    leaves_of,
    like_elements,
    nodes_of,
    shaped,
)
from tinygrad_bp.differentiable import check_leaf_data, leaf_data, link
from tinygrad_bp.graph import Node, topological_order
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
from tinygrad_bp.tensor import Tensor, as_array, leaf_of
from tinygrad_bp.value import Value

Argnums = int | str | Sequence[int | str]
Mode = Literal["auto", "reverse", "forward"]

# What derivative the present code is evaluated for. Within "reverse", gradients must be nodes.
_within: ContextVar[Literal["", "forward", "reverse"]] = ContextVar("within", default="")

# The leaves that stand for arguments of derivatives under way, by id. An argument with one among
# its ancestors says the same, also in a thread that the derivative has started.
_under_way: set[int] = set()


def grad(f: Callable[..., Any], argnums: Argnums = 0, *, create_graph: bool | None = None) -> Any:
    """The gradient of a function, as a function of the same arguments.

    Args:
        f: a function that returns a single number, as a Value or a Tensor.
        argnums: by which argument to differentiate: its position or name; several, for a tuple. A
            Module is copied for the call: what its forward() assigns to it is lost.
        create_graph: True for a gradient of nodes, which can be differentiated again. If not given
            it is so inside of another derivative.

    Returns:
        A function. Per argument it returns the gradient in the argument's structure: a float for a
        number, an array for an array; a dict by parameter name for a Module.

    Raises:
        TypeError: (when called) an argument has no derivative, or f returned something else than a
            node.
        ValueError: f returned several numbers.

    Example:
        >>> grad(lambda x: x * x * x)(2.0)
        12.0
        >>> grad(grad(lambda x: x * x * x))(2.0)
        12.0
    """
    both = value_and_grad(f, argnums, create_graph=create_graph)

    @functools.wraps(f, updated=())
    def gradient(*args: Any, **kwargs: Any) -> Any:
        return both(*args, **kwargs)[1]

    return gradient


def value_and_grad(
    f: Callable[..., Any],
    argnums: Argnums = 0,
    *,
    has_aux: bool = False,
    create_graph: bool | None = None,
) -> Any:
    """A function's value and its gradient, as a function of the same arguments.

    Args:
        f: a function that returns a single number, as a Value or a Tensor.
        argnums: by which argument to differentiate: its position or name; several, for a tuple.
        has_aux: f returns a pair: the number, and something else that is handed through, with its
            nodes detached (unless create_graph).
        create_graph: see `grad`.

    Returns:
        A function that returns `(value, gradient)`, or `((value, aux), gradient)`.

    Raises:
        See `grad`.
    """
    _check(f, argnums)

    @functools.wraps(f, updated=())
    def derivative(*args: Any, **kwargs: Any) -> Any:
        run = _Run(f, argnums, args, kwargs, create_graph)
        root, aux = run.result, None
        if has_aux:
            if not isinstance(root, tuple) or len(root) != 2:
                raise TypeError(f"has_aux: expected {_name(f)} to return a pair, got {_kind(root)}")
            root, aux = root
        root = _single_number(root, f)
        gradients = run.gradients(root)
        run.close()
        value = _presented(root, root, run.nodes)
        aux = aux if run.create_graph else _detached(aux)
        return (value, aux) if has_aux else value, run.shaped(run.presented(gradients))

    return derivative


def vjp(f: Callable[..., Any], *primals: Any, create_graph: bool | None = None) -> Any:
    """The value of a function, and the product of a vector with its Jacobian.

    Reverse mode: one sweep per product, whatever the number of inputs.

    Args:
        f: a function that returns a Value, a Tensor or an array of Values.
        primals: its arguments.
        create_graph: see `grad`.

    Returns:
        `(f(*primals), pull)`. `pull(u)`, with u in the shape of the value, returns the tuple of
        uᵀJ, one per argument; it can be called any number of times.

    Raises:
        TypeError, ValueError: see `grad`; u has another shape than the value.
    """
    run = _Run(f, range(len(primals)), primals, {}, create_graph)
    root = _node(run.result, f)
    run.close()
    data = leaf_data(root) if run.create_graph else {}

    def pull(cotangent: Any) -> Any:
        check_leaf_data(data)
        # In a derivative that began after this function was evaluated, u may have a history.
        again = run.create_graph or (create_graph is None and bool(_within.get()))
        nodes = run.nodes or again
        seed = _seed(root, cotangent if nodes else _number(cotangent), "u")
        return run.shaped(run.presented(run.gradients(root, seed, again), nodes))

    return _presented(root, root, run.nodes), pull


def jvp(
    f: Callable[..., Any], primals: Any, tangents: Any, *, create_graph: bool | None = None
) -> Any:
    """The value of a function, and its derivative in a direction: the product Jv.

    Forward mode: value and derivative are computed together, and no graph is kept.

    Args:
        f: a function that returns nodes, or nested containers of them.
        primals: its argument; several, as a tuple.
        tangents: the direction v, in the structure and shapes of `primals`.
        create_graph: see `grad`.

    Returns:
        `(value, tangent)`.

    Raises:
        TypeError, ValueError: an argument has no derivative, or the structures differ.

    Example:
        >>> jvp(lambda x, y: x * y, (2.0, 3.0), (1.0, 0.0))
        (6.0, 3.0)
    """
    outputs, tag, nodes = _forward(f, primals, tangents, 1, create_graph)
    leaves = nodes_of(outputs, f"the result of {_name(f)}")
    value, tangent = (
        shaped(outputs, iter([_presented(_coefficient(x, k, tag), x, nodes) for x in leaves]))
        for k in (0, 1)
    )
    return value, tangent


def jacobian(
    f: Callable[..., Any],
    argnums: Argnums = 0,
    *,
    mode: Mode = "auto",
    create_graph: bool | None = None,
) -> Any:
    """The matrix of all first derivatives of a function, as a function of the same arguments.

    Args:
        f: a function that returns a Value, a Tensor or an array of Values.
        argnums: by which argument to differentiate: its position or name; several, for a tuple.
        mode: "reverse", one sweep per output; "forward", one evaluation of f per input; "auto",
            whichever is less.
        create_graph: see `grad`.

    Returns:
        A function. Per argument it returns an array of shape `value.shape + argument.shape`.

    Raises:
        TypeError: see `grad`.
        ValueError: the mode is unknown.
    """
    if mode not in ("auto", "reverse", "forward"):
        raise ValueError(f"mode: expected 'auto', 'reverse' or 'forward', got {mode!r}")

    _check(f, argnums)

    @functools.wraps(f, updated=())
    def matrix(*args: Any, **kwargs: Any) -> Any:
        run = _Run(f, argnums, args, kwargs, create_graph)
        root = _node(run.result, f)
        inputs = sum(math.prod(_shape(leaf)) for leaf in run.leaves)
        outputs = math.prod(_shape(root))
        forward = mode == "forward" or (mode == "auto" and outputs > inputs)
        parts = run.columns(root) if forward else run.rows(root, _shape(root))
        run.close()
        return run.shaped(run.presented(parts))

    return matrix


def hessian(
    f: Callable[..., Any], argnums: Argnums = 0, *, create_graph: bool | None = None
) -> Any:
    """The matrix of all second derivatives of a function, as a function of the same arguments.

    One sweep that records the gradient, and then one sweep over that record per input.

    Args:
        f: a function that returns a single number, as a Value or a Tensor.
        argnums: by which argument to differentiate: its position or name; several, for a tuple.
        create_graph: see `grad`.

    Returns:
        A function. For an array it returns an array of shape `x.shape + x.shape`; for a structure
        of leaves, the structure of structures: `H[a][b]` has shape `a.shape + b.shape`.

    Raises:
        See `grad`.
    """
    _check(f, argnums)

    @functools.wraps(f, updated=())
    def matrix(*args: Any, **kwargs: Any) -> Any:
        run = _Run(f, argnums, args, kwargs, create_graph)
        root = _single_number(run.result, f)
        gradients = run.gradients(root, create_graph=True)
        pairs = zip(gradients, run.leaves, strict=True)
        rows = [run.rows(gradient, _shape(leaf)) for gradient, leaf in pairs]
        run.close()
        return run.shaped([run.shaped(run.presented(row)) for row in rows])

    return matrix


def hvp(
    f: Callable[..., Any], primals: Any, tangents: Any, *, create_graph: bool | None = None
) -> Any:
    """The product of a function's Hessian with a vector, without forming the Hessian.

    The derivative of the gradient in a direction, forward over reverse (Pearlmutter 1994, "Fast
    exact multiplication by the Hessian"): a small multiple of the cost of the gradient.

    Args:
        f: a function that returns a single number, as a Value or a Tensor.
        primals: its argument; several, as a tuple.
        tangents: the vector, in the structure and shapes of `primals`.
        create_graph: see `grad`.

    Returns:
        Hv, in the structure of `primals`.

    Raises:
        See `grad` and `jvp`.
    """
    argnums: Any = tuple(range(len(primals))) if type(primals) is tuple else 0
    return jvp(grad(f, argnums), primals, tangents, create_graph=create_graph)[1]


def derivative(f: Callable[..., Any], n: int = 1, *, create_graph: bool | None = None) -> Any:
    """The n-th derivative of a function of one variable, as a function.

    By its Taylor series, at a cost that grows with n² to n³, and not with 2ⁿ.

    Args:
        f: a function of one number. At an array it is differentiated in the direction of all ones:
            of a function that works elementwise that is the derivative at each element.
        n: the order; 0 is the function itself.
        create_graph: see `grad`.

    Raises:
        ValueError: n is negative.

    Example:
        >>> derivative(lambda x: x**5, 3)(2.0)
        240.0
    """
    _check_order(n)

    @functools.wraps(f, updated=())
    def function(x: Any) -> Any:
        coefficient = taylor(f, x, n, create_graph=create_graph)[n]
        with enable_grad() if create_graph else nullcontext():
            return coefficient * float(math.factorial(n))

    return function


def taylor(
    f: Callable[..., Any], x: Any, order: int, *, create_graph: bool | None = None
) -> list[Any]:
    """The coefficients c₀, c₁, ... of the Taylor series of a function of one variable.

    c_k is the k-th derivative at x divided by k!, so that f(x + ε) ≈ Σ c_k εᵏ.

    Args:
        f: a function of one number, or as in `derivative` of an array.
        x: where to expand.
        order: the number of the last coefficient.
        create_graph: see `grad`.

    Returns:
        order + 1 floats, or arrays.

    Raises:
        ValueError: the order is negative.
    """
    _check_order(order)
    found = leaves_of(x, "x")
    if len(found) != 1 or isinstance(x, (list, tuple, dict)):
        raise TypeError(f"x: expected one number or array, got a {type(x).__name__} of them")
    ones = np.ones(_shape(found[0][1]))
    try:
        output, tag, nodes = _forward(f, x, ones, max(order, 1), create_graph)
    except RecursionError:  # every order is a partial derivative within the one before
        raise ValueError(f"order: {order} is too high for this function") from None
    output = _node(output, f)
    return [_presented(_coefficient(output, k, tag), output, nodes) for k in range(order + 1)]


# --- reverse mode -------------------------------------------------------------------------------


class _Run:
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
        outside = _within.get() or _kind_of_history(self.leaves)
        self.nodes = bool(outside) if create_graph is None else create_graph
        recorded = outside == "reverse" and is_grad_enabled()
        self.create_graph = recorded if create_graph is None else create_graph
        self.f, self.args, self.kwargs = f, args, kwargs
        self.single = isinstance(argnums, (int, str, np.integer))
        self.variables: list[Node] = []
        stand_ins = list(map(self._stand_in, self.leaves))
        under_way = [id(variable) for variable in self.variables]
        _under_way.update(under_way)
        try:
            self.result = self.evaluate(stand_ins, "reverse")
        finally:
            _under_way.difference_update(under_way)

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
            _stacked([sweep[i] for sweep in sweeps], leaf, shape + _shape(leaf), axis=0)
            for i, leaf in enumerate(self.leaves)
        ]

    def columns(self, root: Any) -> list[Any]:
        """The Jacobian by every leaf, one evaluation in forward mode per element of the leaf."""
        jacobians = []
        for i, leaf in enumerate(self.leaves):
            shape = _shape(leaf)
            columns = []
            for unit in np.eye(math.prod(shape)).reshape(math.prod(shape), *shape):
                tag, moved = new_tag(), list(self.leaves)
                moved[i] = _moved(leaf, unit, 1, tag)
                mode: Any = "reverse" if self.create_graph else "forward"
                output = _node(self.evaluate(moved, mode), self.f)
                columns.append(_coefficient(output, 1, tag))
            jacobians.append(_stacked(columns, root, _shape(root) + shape, axis=-1))
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
        return [_presented(x, leaf, self.nodes if nodes is None else nodes) for x, leaf in pairs]

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


def _forward(
    f: Callable[..., Any], primals: Any, tangents: Any, order: int, create_graph: bool | None
) -> tuple[Any, int, bool]:
    """A function of series; what it returned, their tag, and whether results are to be nodes."""
    several = type(primals) is tuple  # and not a named one, which is a structure
    if several and not isinstance(tangents, tuple):
        raise TypeError(f"tangents: expected a tuple like primals, got {_kind(tangents)}")
    trees, directions = (primals, tangents) if several else ((primals,), (tangents,))
    leaves = _in_kind([leaf for _, leaf in leaves_of(trees, "primals")])
    velocities = leaves_like(trees, directions, "tangents")
    inside = _within.get() or _kind_of_history([*leaves, *velocities])
    nodes = bool(inside) if create_graph is None else create_graph
    if not nodes:
        leaves = [leaf.detach() for leaf in leaves]
        velocities = [velocity.detach() for velocity in velocities]
    tag = new_tag()
    pairs = zip(leaves, velocities, strict=True)
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
            velocity = Value(float(_number(velocity)), requires_grad=False)
    elif not isinstance(velocity, Tensor):
        numbers: Any = velocity.data if isinstance(velocity, Value) else velocity
        velocity = Tensor(numbers, requires_grad=False, dtype=leaf.dtype)
    elif velocity.dtype != leaf.dtype:
        velocity = velocity.astype(leaf.dtype)
    return series([leaf, velocity, *[None] * (order - 1)], order, tag, is_leaf=True)


def _coefficient(x: Any, k: int, tag: int) -> Any:
    """c_k of an output; None for zero, and of an array of Values an array of objects."""
    return like_elements(x, [coefficient_of(element, k, tag) for element in elements_of(x)])


# --- functions, arguments and results -----------------------------------------------------------


def _check(f: Any, argnums: Any) -> None:
    if not callable(f):
        raise TypeError(
            f"f: expected a function, got {_kind(f)}; the gradient of a node is node.backward()"
        )
    several = argnums if isinstance(argnums, (list, tuple, range)) else [argnums]
    for key in several:
        if not isinstance(key, (int, str, np.integer)) or isinstance(key, bool):
            raise TypeError(
                f"argnums: expected positions or names of arguments, got {_kind(argnums)}; the "
                "arguments themselves come after: grad(f)(x)"
            )


def _evaluate(
    f: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    mode: Literal["forward", "reverse"],
) -> Any:
    token = _within.set("reverse" if _within.get() == "reverse" else mode)
    try:
        with enable_grad():  # what is around a derivative does not matter, what is within it does
            return f(*args, **kwargs)
    finally:
        _within.reset(token)


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


def _node(result: Any, f: Callable[..., Any]) -> Any:
    if not isinstance(result, (Value, Tensor, Values)):
        raise TypeError(
            f"expected {_name(f)} to return a Value, a Tensor or Values, got {_kind(result)}; what "
            "comes from .data, float() or the math module has no derivative"
        )
    return result


def _single_number(result: Any, f: Callable[..., Any]) -> Any:
    result = _node(result, f)
    if math.prod(_shape(result)) != 1:
        raise ValueError(
            f"expected {_name(f)} to return a single number, got shape {_shape(result)}; sum it, "
            "or use jacobian() or vjp()"
        )
    return result.flat[0] if isinstance(result, Values) else result


def _seed(root: Any, cotangent: Any, what: str) -> Any:
    """The gradient that a sweep starts from."""
    if isinstance(cotangent, (Value, Tensor, Values)):
        found = _shape(cotangent)
    else:
        if not isinstance(root, Value):
            cotangent = as_array(cotangent, what, root.dtype if isinstance(root, Tensor) else None)
        elif isinstance(cotangent, np.ndarray) and not cotangent.ndim:
            cotangent = float(cotangent)
        else:
            cotangent = Value(cotangent).data
        found = np.shape(cotangent)
    if found != _shape(root):
        raise ValueError(f"{what}: expected shape {_shape(root)}, got {found}")
    return cotangent


def _check_order(n: Any) -> None:
    if not isinstance(n, (int, np.integer)) or isinstance(n, bool):
        raise TypeError(f"order: expected an int, got {_kind(n)}")
    if not 0 <= n <= 170:  # 171! is no float
        raise ValueError(f"order: expected 0 to 170, got {n}")


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


def _detached(x: Any) -> Any:
    """Something else that a function returned, without the graph that it was computed by."""
    if isinstance(x, (Value, Tensor, Values)):
        return x.detach()
    if isinstance(x, dict):
        return {key: _detached(part) for key, part in x.items()}
    if type(x) in (list, tuple):
        return type(x)(map(_detached, x))
    return x


def _presented(x: Any, like: Any, nodes: bool) -> Any:
    """A result as the user gets it: nodes, or numbers that nothing else holds."""
    if isinstance(x, np.ndarray) and x.dtype == object:
        if nodes:
            return like_elements(x, [_as_node(element) for element in x.flat]).view(Values)
        floats = [0.0 if e is None else _number(e) for e in x.flat]
        return np.array(floats, np.float64).reshape(x.shape)
    if x is None:
        x = 0.0 if isinstance(like, Value) else np.zeros(like.shape, like.dtype)
    if nodes:
        return x if isinstance(x, (Node, Values)) else constant(x)
    numbers = _number(x)
    return np.array(numbers) if np.ndim(numbers) else float(numbers)


def _number(x: Any) -> Any:
    return x.data if isinstance(x, (Value, Tensor, Values)) else x


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(getattr(x, "shape", ()))


def _name(f: Callable[..., Any]) -> str:
    return getattr(f, "__name__", None) or type(f).__name__


def _kind(x: Any) -> str:
    return f"{type(x).__name__} {x!r}"[:60]
