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
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np

from tinygrad_bp.arguments import choice, flag
from tinygrad_bp.containers import (
    leaves_of,
    nodes_of,
    shaped,
)
from tinygrad_bp.differentiable import check_leaf_data, leaf_data
from tinygrad_bp.evaluation import (
    Argnums,
    Run,
    check_call,
    check_function,
    check_order,
    coefficient_at,
    detached,
    kind_of,
    name_of,
    node_of,
    number_of,
    presented,
    run_forward,
    seed_of,
    shape_of,
    single_number,
    within,
)
from tinygrad_bp.recording import enable_grad

Mode = Literal["auto", "reverse", "forward"]


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
    check_call(f, argnums, create_graph)
    flag(has_aux, "has_aux")

    @functools.wraps(f, updated=())
    def derivative(*args: Any, **kwargs: Any) -> Any:
        run = Run(f, argnums, args, kwargs, create_graph)
        root, aux = run.result, None
        if has_aux:
            if not isinstance(root, tuple) or len(root) != 2:
                raise TypeError(
                    f"has_aux: expected {name_of(f)} to return a pair, got {kind_of(root)}"
                )
            root, aux = root
        root = single_number(root, f)
        gradients = run.gradients(root)
        run.close()
        value = presented(root, root, run.nodes)
        aux = aux if run.create_graph else detached(aux)
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
    check_function(f, create_graph)
    run = Run(f, range(len(primals)), primals, {}, create_graph)
    root = node_of(run.result, f)
    run.close()
    data = leaf_data(root) if run.create_graph else {}

    def pull(cotangent: Any) -> Any:
        check_leaf_data(data)
        # In a derivative that began after this function was evaluated, u may have a history.
        again = run.create_graph or (create_graph is None and bool(within.get()))
        nodes = run.nodes or again
        seed = seed_of(root, cotangent if nodes else number_of(cotangent), "u")
        return run.shaped(run.presented(run.gradients(root, seed, again), nodes))

    return presented(root, root, run.nodes), pull


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
    outputs, tag, nodes = run_forward(f, primals, tangents, 1, create_graph)
    leaves = nodes_of(outputs, f"the result of {name_of(f)}")
    value, tangent = (
        shaped(outputs, iter([presented(coefficient_at(x, k, tag), x, nodes) for x in leaves]))
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
    choice(mode, "mode", ("auto", "reverse", "forward"))
    check_call(f, argnums, create_graph)

    @functools.wraps(f, updated=())
    def matrix(*args: Any, **kwargs: Any) -> Any:
        run = Run(f, argnums, args, kwargs, create_graph)
        root = node_of(run.result, f)
        inputs = sum(math.prod(shape_of(leaf)) for leaf in run.leaves)
        outputs = math.prod(shape_of(root))
        forward = mode == "forward" or (mode == "auto" and outputs > inputs)
        parts = run.columns(root) if forward else run.rows(root, shape_of(root))
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
    check_call(f, argnums, create_graph)

    @functools.wraps(f, updated=())
    def matrix(*args: Any, **kwargs: Any) -> Any:
        run = Run(f, argnums, args, kwargs, create_graph)
        root = single_number(run.result, f)
        gradients = run.gradients(root, create_graph=True)
        pairs = zip(gradients, run.leaves, strict=True)
        rows = [run.rows(gradient, shape_of(leaf)) for gradient, leaf in pairs]
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
    check_function(f, create_graph)
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
    check_function(f, create_graph)
    check_order(n, "n")

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
    check_order(order)
    found = leaves_of(x, "x")
    if len(found) != 1 or isinstance(x, (list, tuple, dict)):
        raise TypeError(f"x: expected one number or array, got a {type(x).__name__} of them")
    ones = np.ones(shape_of(found[0][1]))
    try:
        output, tag, nodes = run_forward(f, x, ones, max(order, 1), create_graph)
    except RecursionError:  # every order is a partial derivative within the one before
        raise ValueError(f"order: {order} is too high for this function") from None
    output = node_of(output, f)
    return [presented(coefficient_at(output, k, tag), output, nodes) for k in range(order + 1)]
