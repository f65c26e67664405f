"""Programs as pure functions of jax, to be compiled, batched, differentiated and distributed by it.

The rules compute with jax's functions, and have derivatives that are theirs: see `jax_rules`. The
loops that are found on the tape (see `steps`), such as the steps of an unrolled network, are run by
`lax.scan`, or by `vmap` where no step waits for another; so the time to compile them does not grow
with their length. A loop computes what the instructions compute one by one, up to rounding.

Where it differs from numpy: jax does not raise for an index outside of an array that is given at
each run, the element is then nan; subnormal numbers are 0; and the last bits are XLA's. It may also
compute a quantity anew wherever it is used, with other last bits: where two operands of a maximum
or a minimum are equal because one was computed from the other, it can take them for different, and
give one of them the gradient that they would share.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_bp.array_rules import ARRAY_RULES
from tinygrad_bp.replay.columns import Column, Constants, Inputs, Segment, Sliced, Stacked, column
from tinygrad_bp.replay.jax_rules import _jax, call_of
from tinygrad_bp.replay.loops import Loop
from tinygrad_bp.replay.program import Program
from tinygrad_bp.replay.steps import AT_LEAST, rolled


def function(program: Program, *, scan: bool = True) -> Callable[..., tuple[Any, ...]]:
    """A program as a pure function, for jax's transformations.

    Args:
        program: what `compile(f).program(...)` gives. Of one on single numbers every instruction
            is an array without axes. Outside of loops, compiling its value takes about a
            millisecond for each, and its gradient more for each the more there are (300: a second;
            1000: half a minute). `jax.vmap` makes a batch.
        scan: whether to look for loops, such as the steps of an unrolled network, and have jax
            compile one step; otherwise it is given all instructions.

    Returns:
        `f(*inputs)`, which gives a tuple: the outputs, and then the guards' conditions, which have
        to come out as they were recorded. It can be given to `jax.jit`, `jax.vmap`, `jax.grad`,
        and be run on arrays that are distributed over devices.

    Raises:
        ImportError: there is no jax.
        ValueError: the program cannot be run by jax. At a call: jax is set to compute in float32
            and the program does not, or an input has another shape than at the recording.
    """
    tape_ = _Tape(program, differentiable=True, scan=scan)

    def pure(*inputs: Any) -> tuple[Any, ...]:
        return tuple(tape_.run(tape_.constants, inputs))

    return pure


class Runner:
    """A program, compiled by jax at the first run. It has the methods of the runners on numpy."""

    def __init__(self, program: Program, *, scan: bool = True) -> None:
        jax = _jax()
        self.program = program
        self._check = functools.partial(_check_width, jax, program)
        plain = _Tape(program, differentiable=False, scan=scan)
        # As an argument, constants are not copied into what is compiled.
        self._constants = plain.constants
        if program.kind == "array":
            self._values = jax.jit(plain.run)
            return

        # Single numbers come and go as one array.
        def values(constants: Any, inputs: Any) -> Any:
            return jax.numpy.stack(plain.run(constants, inputs))

        differentiable = _Tape(program, differentiable=True, scan=scan)

        def value_and_gradient(constants: Any, inputs: Any) -> Any:
            def root(inputs: Any) -> Any:
                results = differentiable.run(constants, inputs)
                return results[0], results

            gradient, results = jax.grad(root, has_aux=True)(inputs)
            return jax.numpy.stack(results), gradient

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


class _Tape:
    """What computes the outputs of a program and its guards' conditions, given its inputs.

    Attributes:
        constants: what `run` is to be given beside the inputs. What every step of a loop has of its
            own is one array here.
        places, stacks: where in them one constant is, by its number, and an array of several.
    """

    def __init__(self, program: Program, differentiable: bool, scan: bool) -> None:
        _jax()
        self.program = program
        self.rolled = rolled(program, scan)
        scalar = program.kind == "scalar"
        self.dtypes = [np.dtype(np.float64)] * len(program) if scalar else program.dtypes
        self.shapes = [()] * len(program) if scalar else program.shapes
        self.inputs = {i: k for k, i in enumerate(program.inputs)}
        self.wanted = [*program.outputs, *(g.condition for g in program.guards)]
        self.constants: list[Any] = []
        self.places: dict[int, int] = {}  # of constants, by instruction
        self.stacks: dict[tuple[int, ...], int] = {}
        self.steps = [
            _Plain(self, i, differentiable)
            if isinstance(i, int)
            else _Steps(self, i, differentiable, scan)
            for i in self.rolled.order
        ]
        for i in self.wanted:
            self.need(i)

    def need(self, i: int) -> None:
        """Have a constant at hand, if it is one."""
        if i in self.rolled.parts:
            self.need(self.rolled.parts[i].whole)
        elif i in self.program.constants and i not in self.places:
            self.places[i] = len(self.constants)
            self.constants.append(self.program.constants[i])

    def column(self, numbers: Sequence[int]) -> Column:
        """Where an operand that is put together has its parts; constants are so at once."""
        found = column(self.rolled, numbers, self.inputs)
        for segment in found.segments:
            if isinstance(segment, Constants):
                arrays = [np.asarray(self.program.constants[i]) for i in segment.which]
                self.stacks[segment.which] = len(self.constants)
                self.constants.append(np.stack(arrays).astype(self.dtypes[segment.which[0]]))
            elif isinstance(segment, Sliced):
                self.need(segment.whole)
        return found

    def run(self, constants: Sequence[Any], inputs: Any) -> list[Any]:
        """The outputs and conditions."""
        values = _Values(self, constants, inputs)
        for step in self.steps:
            step.run(values)
        return [values[i] for i in self.wanted]


class _Values:
    """What the instructions of a program give, during one run."""

    def __init__(self, tape_: _Tape, constants: Sequence[Any], inputs: Any) -> None:
        jax = _jax()
        _check_width(jax, tape_.program)
        if len(inputs) != len(tape_.program.inputs):
            raise ValueError(f"expected {len(tape_.program.inputs)} inputs, got {len(inputs)}")
        self.tape, self.constants, self.inputs, self.jnp = tape_, constants, inputs, jax.numpy
        self.known: dict[int, Any] = {}
        self.stacks: dict[tuple[int, int], Any] = {}  # by loop and slot
        if isinstance(inputs, (list, tuple)):
            for i in tape_.program.inputs:
                self.known[i] = self._input(i)

    def __getitem__(self, i: int) -> Any:
        if i not in self.known:
            self.known[i] = self._found(i)
        return self.known[i]

    def _found(self, i: int) -> Any:
        tape_ = self.tape
        if i in tape_.inputs:
            return self._input(i)
        if i in tape_.rolled.parts:
            part = tape_.rolled.parts[i]
            stop = part.start + (part.width or 1)
            x = self.jnp.asarray(self[part.whole])
            x = _jax().lax.slice_in_dim(x, part.start, stop, axis=part.axis)
            return x if part.width else self.jnp.squeeze(x, part.axis)
        if i in tape_.places:
            return self._typed(i, self.constants[tape_.places[i]])
        loop, step, slot = tape_.rolled.place[i].tolist()
        return self.stacks[loop, slot][step]

    def _input(self, i: int) -> Any:
        """An input as it was recorded."""
        x, shape = self.inputs[self.tape.inputs[i]], self.tape.shapes[i]
        if self.jnp.shape(x) != shape:
            raise ValueError(f"input {i}: expected shape {shape}, got {self.jnp.shape(x)}")
        return self._typed(i, x)

    def _typed(self, i: int, x: Any) -> Any:
        """Numbers in the dtype of the recording; of integers jax may have a narrower type."""
        dtype = self.tape.dtypes[i]
        return self.jnp.asarray(x, dtype if np.dtype(dtype).kind in "fb" else None)

    def column(self, given: Column) -> Any:
        """What many instructions give, one below the other."""
        arrays = [self._segment(segment) for segment in given.segments]
        x = arrays[0] if len(arrays) == 1 else self.jnp.concatenate(arrays)
        return x if given.order is None else self._taken(x, given.order)

    def _segment(self, segment: Segment) -> Any:
        jnp, which = self.jnp, segment.which
        if isinstance(segment, Constants):
            return jnp.asarray(self.constants[self.tape.stacks[which]])
        if isinstance(segment, Inputs):
            if isinstance(self.inputs, (list, tuple)):
                return jnp.stack([self[self.tape.program.inputs[k]] for k in which])
            return self._taken(jnp.asarray(self.inputs), which)
        if isinstance(segment, Stacked):
            return self._taken(self.stacks[segment.loop, segment.slot], which)
        if isinstance(segment, Sliced):
            return self._slices(self[segment.whole], segment)
        return jnp.stack([self[i] for i in which])

    def _taken(self, x: Any, which: Sequence[int]) -> Any:
        """Some of x, by position: a slice, if they follow one another."""
        ends = min(which), max(which) + 1
        for step in (1, -1):
            if list(which) == list(range(*ends))[::step]:
                x = x if ends == (0, len(x)) else _jax().lax.slice_in_dim(x, *ends)
                return x if step == 1 else self.jnp.flip(x, 0)
        return x[np.array(which)]

    def _slices(self, x: Any, segment: Sliced) -> Any:
        """Parts of an array, the first axis counting them."""
        jnp, axis, which = self.jnp, segment.axis, segment.which
        width = segment.width or 1
        if any(start % width for start in which) or x.shape[axis] % width:
            where = np.array(which)[:, None] + np.arange(width)
            return jnp.moveaxis(jnp.take(x, where, axis=axis), axis, 0)
        if segment.width:  # they are some of those that the array can be divided into
            x = x.reshape(*x.shape[:axis], -1, width, *x.shape[axis + 1 :])
        return self._taken(jnp.moveaxis(x, axis, 0), [start // width for start in which])


class _Plain:
    """An instruction."""

    def __init__(self, tape_: _Tape, i: int, differentiable: bool) -> None:
        program, rule = tape_.program, tape_.program.rule(i)
        self.number, self.dtype = i, tape_.dtypes[i]
        self.operands = program.operands_of(i)
        self.call = call_of(program, i, rule, differentiable)
        self.column: Column | None = None
        joins = rule in (ARRAY_RULES["concatenate"], ARRAY_RULES["stack"])
        if (
            joins
            and len(self.operands) >= AT_LEAST
            and len({tape_.shapes[j] for j in self.operands}) == 1
        ):
            detail = program.details[i]
            signature = inspect.signature(rule).bind(None, *detail.parameters, **detail.options)
            self.axis = signature.arguments.get("axis", 0)
            self.joined = rule is ARRAY_RULES["concatenate"]
            self.column = tape_.column(self.operands)
            return
        for j in self.operands:
            tape_.need(j)

    def run(self, values: _Values) -> None:
        """Compute it."""
        if self.column is not None:
            result = values.column(self.column)
            axis = self.axis % (result.ndim - self.joined)
            result = values.jnp.moveaxis(result, 0, axis)
            if self.joined:
                shape = result.shape
                result = result.reshape(*shape[:axis], -1, *shape[axis + 2 :])
        else:
            result = self.call(*[values[j] for j in self.operands])
        # numpy's dtype: jax has its own ideas about numbers that meet arrays.
        values.known[self.number] = _cast(result, self.dtype)


class _Steps:
    """A loop: by `lax.scan`, or, where no step waits for another, by `vmap`."""

    def __init__(self, tape_: _Tape, loop: Loop, differentiable: bool, scan: bool) -> None:
        self.loop = loop
        self.position = next(k for k, x in enumerate(tape_.rolled.loops) if x is loop)
        self.body = _Tape(loop.body, differentiable, scan)
        self.columns = [tape_.column(numbers.tolist()) for numbers in loop.columns]
        for i in (*loop.invariants, *(r.first for r in loop.registers if r.first is not None)):
            tape_.need(i)

    def run(self, values: _Values) -> None:
        """Compute all steps."""
        jax, loop = _jax(), self.loop
        states = [self._first(values, k) for k in range(len(loop.registers))]
        columns = [values.column(given) for given in self.columns]
        given = [*columns, *map(jax.numpy.asarray, loop.positions)]
        invariants = [values[i] for i in loop.invariants]

        def step(states: Any, given: Any) -> Any:
            results = self.body.run(self.body.constants, [*states, *given, *invariants])
            return results[: len(states)], results[len(states) :]

        if loop.carries or not given:
            states, stacked = jax.lax.scan(step, states, given, length=loop.count)
        else:
            stacked = jax.vmap(lambda *given: step([], given)[1])(*given)
        for slot, x in zip(loop.stacked, stacked, strict=True):
            values.stacks[self.position, slot] = x
        for slot, k in loop.last.items():
            values.known[int(loop.numbers[-1, slot])] = states[k]

    def _first(self, values: _Values, k: int) -> Any:
        register, body = self.loop.registers[k], self.body
        if register.first is None:
            return values.jnp.zeros(body.shapes[register.next], body.dtypes[register.next])
        return values.jnp.asarray(values[register.first])


def _cast(x: Any, dtype: Any) -> Any:
    return x if x.dtype == dtype or np.dtype(dtype).kind in "iu" else x.astype(dtype)
