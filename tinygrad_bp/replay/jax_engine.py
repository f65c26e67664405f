"""Programs as pure functions of jax, to be compiled, batched, differentiated and distributed by it.

The rules compute with a namespace of jax's functions in the place of `arrays`, so nothing about an
operation is said twice. Derivatives are the rules' too: each elementwise one has its partials, and
the product of the chain rule is `azmul`, a primitive of its own here, since jax would multiply a
gradient of 0 by an infinite partial. They can be differentiated again, in forward and reverse mode.

Where it differs from numpy: jax does not raise for an index outside of an array that is given at
each run, the element is then nan; subnormal numbers are 0; and the last bits are XLA's.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from tinygrad_bp import array_rules
from tinygrad_bp.array_rules import ARRAY_RULES, ArrayRule
from tinygrad_bp.replay import program as tape
from tinygrad_bp.replay.program import CONSTANT, INPUT, Program, filled_in, placeholders
from tinygrad_bp.rules import RULES, Rule

# What jax's functions call the same, and mean the same by.
_SAME = (
    *("absolute", "arccos", "arcsin", "arctan", "arctan2", "cos", "cosh", "divide", "exp", "expm1"),
    *("hypot", "log", "log1p", "logaddexp", "maximum", "minimum", "power", "sin", "sinh", "sqrt"),
    *("tan", "tanh", "broadcast_to", "concatenate", "cumsum", "einsum", "expand_dims", "flip"),
    *("matmul", "max", "min", "pad", "prod", "reshape", "squeeze", "stack", "sum"),
)


def function(program: Program) -> Callable[..., tuple[Any, ...]]:
    """A program as a pure function, for jax's transformations.

    Args:
        program: what `compile(f).program(...)` gives. Of one on single numbers every instruction
            is an array without axes: compiling its value takes about a millisecond for each, and
            its gradient more for each the more there are (300: a second; 1000: half a minute), so
            large ones are better run by another engine. `jax.vmap` makes a batch.

    Returns:
        `f(*inputs)`, which gives a tuple: the outputs, and then the guards' conditions, which have
        to come out as they were recorded. It can be given to `jax.jit`, `jax.vmap`, `jax.grad`,
        and be run on arrays that are distributed over devices.

    Raises:
        ImportError: there is no jax.
        ValueError: the program cannot be run by jax. At a call: jax is set to compute in float32
            and the program does not, or an input has another shape than at the recording.
    """
    evaluate = _evaluator(program, differentiable=True)
    constants = list(program.constants.values())

    def pure(*inputs: Any) -> tuple[Any, ...]:
        return tuple(evaluate(constants, inputs))

    return pure


class Runner:
    """A program, compiled by jax at the first run. It has the methods of the runners on numpy."""

    def __init__(self, program: Program) -> None:
        jax = _jax()
        self.program = program
        self._check = functools.partial(_check_width, jax, program)
        plain = _evaluator(program, differentiable=False)
        # As an argument, constants are not copied into what is compiled.
        self._constants = list(program.constants.values())
        if program.kind == "array":
            self._values = jax.jit(plain)
            return

        # Single numbers come and go as one array.
        def values(constants: Any, inputs: Any) -> Any:
            return jax.numpy.stack(plain(constants, list(inputs)))

        evaluate = _evaluator(program, differentiable=True)

        def value_and_gradient(constants: Any, inputs: Any) -> Any:
            def root(inputs: Any) -> Any:
                results = evaluate(constants, inputs)
                return results[0], results

            gradient, results = jax.grad(root, has_aux=True)(list(inputs))
            return jax.numpy.stack(results), jax.numpy.stack(gradient)

        self._values = jax.jit(values)
        self._value_and_gradient = jax.jit(value_and_gradient)

    def twin(self) -> Runner:
        """Another runner of the program, for another thread: jax's functions have no buffers."""
        return self

    def values(self, inputs: Sequence[Any]) -> list[Any]:
        """The outputs, and then the guards' conditions, as arrays of numpy that are read-only."""
        self._check()
        results = self._values(self._constants, self._given(inputs))
        return list(np.asarray(results)) if self.program.kind == "scalar" else _on_host(results)

    def value_and_gradient(self, inputs: Sequence[float]) -> tuple[list[Any], Any]:
        """The same, and the gradient of the first output by every input.

        Of single numbers alone: a program on arrays has its gradients among the outputs.
        """
        if self.program.kind != "scalar":
            raise ValueError("value_and_gradient: a program on arrays computes its own gradients")
        self._check()
        results = self._value_and_gradient(self._constants, self._given(inputs))
        values, gradient = _on_host(results)
        return list(values), gradient

    def _given(self, inputs: Sequence[Any]) -> Any:
        if self.program.kind == "array":
            return list(inputs)
        given = np.asarray(inputs, np.float64)
        if given.shape != (len(self.program.inputs),):
            raise ValueError(f"expected {len(self.program.inputs)} numbers, got {given.shape}")
        return given


def _on_host(results: Sequence[Any]) -> list[Any]:
    return [np.asarray(x) for x in results]


@functools.cache
def _jax() -> Any:
    try:
        return importlib.import_module("jax")
    except ImportError as error:
        raise ImportError(
            "to run programs by jax, install it: pip install tinygrad_bp[jax]"
        ) from error


def _check_width(jax: Any, program: Program) -> None:
    """Raise if jax would compute in float32 what is in float64."""
    wide = program.kind == "scalar" or any(d == np.float64 for d in program.dtypes)
    if wide and not jax.config.jax_enable_x64:
        raise ValueError(
            "the program computes in float64, and jax is set to float32: call "
            'jax.config.update("jax_enable_x64", True) before anything else is done with jax (or '
            "set JAX_ENABLE_X64=1), or record the program with float32 data"
        )


# --- running the tape ---------------------------------------------------------------------------


def _evaluator(program: Program, differentiable: bool) -> Callable[[Any, Any], list[Any]]:
    """What computes outputs and conditions, given constants and inputs."""
    jax = _jax()
    jnp = jax.numpy
    calls = [
        (i, _call(program, i, rule, differentiable), program.operands_of(i))
        for i, rule in enumerate(map(program.rule, range(len(program))))
        if rule not in (INPUT, CONSTANT)
    ]
    wanted = [*program.outputs, *(g.condition for g in program.guards)]
    scalar = program.kind == "scalar"
    dtypes = [np.float64] * len(program) if scalar else program.dtypes
    shapes = [()] * len(program) if scalar else program.shapes

    def given(i: int, x: Any) -> Any:
        """An input as it was recorded; of integers jax may have a narrower type."""
        if jnp.shape(x) != shapes[i]:
            raise ValueError(f"input {i}: expected shape {shapes[i]}, got {jnp.shape(x)}")
        return jnp.asarray(x, dtypes[i] if np.dtype(dtypes[i]).kind == "f" else None)

    def evaluate(constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        _check_width(jax, program)
        if len(inputs) != len(program.inputs):
            raise ValueError(f"expected {len(program.inputs)} inputs, got {len(inputs)}")
        values: list[Any] = [None] * len(program)
        for i, x in [
            *zip(program.inputs, inputs, strict=True),
            *zip(program.constants, constants, strict=True),
        ]:
            values[i] = given(i, x)
        for i, call, operands in calls:
            result = call(*[values[j] for j in operands])
            # numpy's dtype: jax has its own ideas about numbers that meet arrays.
            values[i] = result if result.dtype == dtypes[i] else _cast(result, dtypes[i])
        return [values[i] for i in wanted]

    return evaluate


def _cast(x: Any, dtype: Any) -> Any:
    return x if np.dtype(dtype).kind in "iu" else x.astype(dtype)


def _call(program: Program, i: int, rule: Any, differentiable: bool) -> Any:
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
                t = m.chain(t, partial(m, *operands, result))
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

    primitive.def_impl(jax.jit(compute))
    primitive.def_abstract_eval(lambda g, d: g.update(weak_type=False))
    ad.primitive_jvps[primitive] = tangent
    ad.primitive_transposes[primitive] = transpose
    batching.defbroadcasting(primitive)
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
