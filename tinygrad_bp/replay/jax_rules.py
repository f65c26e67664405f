"""The rules in jax: their values over jax's functions, and derivatives that are theirs.

Each elementwise rule has its partials, and the product of the chain rule is `azmul`, a primitive of
its own here, since jax would multiply a gradient of 0 by an infinite partial. They can be
differentiated again, in forward and reverse mode.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from tinygrad_bp import array_rules
from tinygrad_bp.array_rules import ARRAY_RULES, ArrayRule
from tinygrad_bp.derivatives import widened
from tinygrad_bp.replay import program as tape
from tinygrad_bp.replay.program import Program, filled_in, placeholders
from tinygrad_bp.rules import RULES, Rule

# What jax's functions call the same, and mean the same by.
_SAME = (
    *("absolute", "arccos", "arcsin", "arctan", "arctan2", "cos", "cosh", "divide", "exp", "expm1"),
    *("hypot", "log", "log1p", "logaddexp", "maximum", "minimum", "power", "sin", "sinh", "sqrt"),
    *("tan", "tanh", "broadcast_to", "concatenate", "cumsum", "einsum", "expand_dims", "flip"),
    *("matmul", "max", "min", "pad", "prod", "reshape", "squeeze", "stack", "sum"),
)


@functools.cache
def _jax() -> Any:
    try:
        return importlib.import_module("jax")
    except ImportError as error:
        raise ImportError(
            "to run programs by jax, install it: pip install tinygrad_bp[jax]"
        ) from error


def call_of(program: Program, i: int, rule: Any, differentiable: bool) -> Any:
    """What computes an instruction, given its operands."""
    m = _namespace(differentiable)
    if isinstance(rule, Rule):
        if differentiable:
            return _derived(rule)
        return functools.partial(rule.value, m)
    detail = program.details[i]
    count = len(detail.operands) - placeholders(detail.parameters)
    parameters, options = detail.parameters, detail.options
    if any(np.dtype(program.dtypes[j]).kind == "b" for j in detail.operands[count:]):
        raise ValueError(f"{rule.name}: jax cannot index by a mask that is given at each run")
    if rule is tape.one_hot:
        return lambda indices: m.one_hot(indices, *parameters, **options)
    if rule is tape.pick:
        return lambda indices: m.getitem(indices, *parameters)

    def apply(*operands: Any) -> Any:
        return rule.apply(m, operands[:count], filled_in(parameters, operands), options)

    if differentiable and ARRAY_RULES.get(rule.name) is not rule and rule.forward == "pullback":
        return _pulled(rule, apply, count, parameters, options)
    return apply


# --- derivatives --------------------------------------------------------------------------------


@functools.cache
def _derived(rule: Rule) -> Any:
    """An elementwise operation, of which jax knows the partial derivatives."""
    jax, plain = _jax(), _namespace(False)
    if all(partial is None for partial in rule.partials):
        stop = jax.lax.stop_gradient
        return lambda *operands: rule.value(plain, *map(stop, operands))

    def value(*operands: Any) -> Any:
        return jax.numpy.asarray(rule.value(plain, *operands))

    def tangent(operands: Any, tangents: Any) -> Any:
        m = _namespace(True)
        result = operation(*operands)
        shares = []
        for partial, t in zip(rule.partials, tangents, strict=True):
            if partial is None or type(t) is jax.custom_derivatives.SymbolicZero:
                continue
            if callable(partial):
                t = m.chain(t, partial(m, *widened(m, operands, result), result))
            elif partial != 1.0:
                t = t * partial
            shares.append(jax.numpy.broadcast_to(t, result.shape).astype(result.dtype))
        if not shares:
            return result, jax.numpy.zeros_like(result)
        return result, functools.reduce(jax.numpy.add, shares)

    operation = jax.custom_jvp(value)
    operation.defjvp(tangent, symbolic_zeros=True)
    return operation


def _pulled(
    rule: ArrayRule,
    apply: Callable[..., Any],
    count: int,
    parameters: tuple[Any, ...],
    options: dict[str, Any],
) -> Any:
    """A user's operation on arrays, with its pullbacks: reverse mode alone."""
    jax, m = _jax(), _namespace(True)
    call: Any = jax.custom_vjp(apply)

    def forward(*operands: Any) -> Any:
        result = call(*operands)
        return result, (operands, result)

    def backward(kept: Any, g: Any) -> Any:
        operands, result = kept
        given = filled_in(parameters, operands)
        gradients = []
        for k, x in enumerate(operands[:count]):
            pulled = rule.pull(m, k, g, result, operands[:count], given, options)
            gradients.append(array_rules.sum_to(m, pulled, x.shape).astype(x.dtype))
        return (*gradients, *[None] * (len(operands) - count))

    call.defvjp(forward, backward)
    return call


@functools.cache
def _chain() -> Any:
    """`azmul(g, d)` as a primitive, which is linear in g: its transpose is itself.

    Of g * d, jax would have 0 * inf = nan; and where(g == 0, 0, g * d) would not be linear.
    """
    jax = _jax()
    jnp = jax.numpy
    ad, batching, mlir = (
        importlib.import_module(f"jax.interpreters.{name}") for name in ("ad", "batching", "mlir")
    )
    primitive = importlib.import_module("jax.extend.core").Primitive("azmul")

    def chain(g: Any, d: Any) -> Any:
        dtype = jnp.result_type(g, d)
        shape = jnp.broadcast_shapes(jnp.shape(g), jnp.shape(d))
        return primitive.bind(*(jnp.broadcast_to(jnp.asarray(x, dtype), shape) for x in (g, d)))

    def compute(g: Any, d: Any) -> Any:
        return jnp.where(g == 0, jnp.zeros_like(g), g * d)

    def tangent(primals: Any, tangents: Any) -> Any:
        (g, d), (dg, dd) = primals, tangents
        parts = [chain(t, x) for t, x in ((dg, d), (dd, g)) if type(t) is not ad.Zero]
        result = chain(g, d)
        return result, sum(parts[1:], parts[0]) if parts else jnp.zeros_like(result)

    def transpose(ct: Any, g: Any, d: Any) -> Any:
        if ad.is_undefined_primal(d):  # linear in the other one: tangents of partials
            raise NotImplementedError("azmul: the transpose by its second operand")
        return ad.Zero(g.aval) if type(ct) is ad.Zero else chain(ct, d), None

    def batched(operands: Any, axes: Any) -> Any:
        pairs = zip(operands, axes, strict=True)
        g, d = (x if a is None else jnp.moveaxis(x, a, 0) for x, a in pairs)
        return chain(g, d), 0  # both have the same axes, but for that of the batch

    primitive.def_impl(jax.jit(compute))
    primitive.def_abstract_eval(lambda g, d: g.update(weak_type=False))
    ad.primitive_jvps[primitive] = tangent
    ad.primitive_transposes[primitive] = transpose
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, mlir.lower_fun(compute, multiple_results=False))
    return chain


# --- jax's functions under numpy's names --------------------------------------------------------


@functools.cache
def _namespace(differentiable: bool) -> Any:
    """The functions of `arrays` for jax; if so, with the rules' derivatives."""
    jax = _jax()
    m = SimpleNamespace(**{name: getattr(jax.numpy, name) for name in _SAME})
    for f in _adapted(jax.numpy):
        setattr(m, f.__name__, f)
    m.erf, m.erfc = jax.lax.erf, jax.lax.erfc
    m.detached = jax.lax.stop_gradient
    if differentiable:
        m.chain = _chain()
        for name in vars(m).keys() & RULES.keys():
            setattr(m, name, _derived(RULES[name]))
    return m


def _adapted(jnp: Any) -> list[Callable[..., Any]]:
    """Functions where jax's differ from numpy's."""

    def azmul(g: Any, d: Any) -> Any:
        return jnp.where(g == 0, 0.0, g * d)

    def where(condition: Any, x: Any, y: Any) -> Any:
        return jnp.where(jnp.asarray(condition) != 0, x, y)

    def astype(x: Any, dtype: Any) -> Any:
        return x.astype(dtype)

    def transpose(x: Any, axes: Any = None) -> Any:
        return jnp.transpose(x, axes if axes is None else tuple(axes))

    def lower(x: Any, k: int) -> Any:
        rows, columns = (x.shape * 2)[-2:]  # numpy makes a square of a vector
        return np.tri(rows, columns, k, dtype=bool)

    def tril(x: Any, k: int = 0) -> Any:
        return jnp.where(lower(x, k), x, jnp.zeros_like(x))

    def triu(x: Any, k: int = 0) -> Any:
        return jnp.where(lower(x, k - 1), jnp.zeros_like(x), x)

    def getitem(x: Any, index: Any) -> Any:
        index = _index(index)
        return x[index] if _is_static(index) else x.at[index].get(mode="fill")

    def scatter(g: Any, index: Any, shape: Any) -> Any:
        return jnp.zeros(tuple(shape), g.dtype).at[_index(index)].add(g)

    def take(x: Any, indices: Any, axis: Any = None) -> Any:
        return jnp.take(x, _index(indices), axis=axis, mode="fill")

    def take_along_axis(x: Any, indices: Any, axis: int) -> Any:
        return jnp.take_along_axis(x, indices, axis, mode="fill")

    def one_hot(indices: Any, classes: int, dtype: Any = None) -> Any:
        classes_ = jnp.where(indices < 0, classes, indices)  # outside, and so nan
        rows = jnp.eye(classes, dtype=np.dtype(dtype or np.float64))
        return rows.at[classes_].get(mode="fill")

    return [
        *(azmul, where, astype, transpose, tril, triu, getitem, scatter),
        *(take, take_along_axis, one_hot),
    ]


def _index(index: Any) -> Any:
    """An index with arrays for lists, which jax does not take."""
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    if isinstance(index, list):
        array = np.asarray(index)
        return array if array.size else array.astype(np.intp)
    return index


def _is_static(index: Any) -> bool:
    """Whether the index was recorded with the program, and checked then."""
    parts = index if isinstance(index, tuple) else (index,)
    known = (int, np.integer, np.bool_, slice, np.ndarray, type(None), type(...))
    return all(isinstance(part, known) for part in parts)
