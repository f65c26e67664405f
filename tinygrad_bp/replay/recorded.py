"""One recording of a function: its program, and how to replay it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from tinygrad_bp.arguments import choice, instance
from tinygrad_bp.containers import elements_of, filled, leaves_of, like_elements, nodes_of, shaped
from tinygrad_bp.differentiable import gradients_of
from tinygrad_bp.graph import UNTRACKED
from tinygrad_bp.interrupts import commit_lock, write
from tinygrad_bp.replay import array_numpy, scalar_numpy
from tinygrad_bp.replay.arguments import (
    Given,
    Kind,
    Positions,
    as_given,
    check_leaf,
    check_state,
    data_of,
    kind_of,
    numbered,
    positions,
)
from tinygrad_bp.replay.drawing import TracedGenerator
from tinygrad_bp.replay.gather import gathered
from tinygrad_bp.replay.passes import optimized
from tinygrad_bp.replay.pool import Pool
from tinygrad_bp.replay.program import Program
from tinygrad_bp.replay.recorder import Recorder, recording_by
from tinygrad_bp.replay.tracing import (
    Index,
    TracedTensor,
    input_like,
    is_traced,
)
from tinygrad_bp.scalars import Values
from tinygrad_bp.tensor import Tensor

Mode = Literal["value", "value_and_grad", "backward"]
Engine = Literal["numpy", "numba", "jax"]
Gradient = Literal["rows", "sum"]


class Recording:
    """One recording of a function: its program, and how arguments and results fit to it."""

    def __init__(
        self,
        f: Callable[..., Any],
        argnums: Any,
        mode: Mode,
        args: tuple[Any, ...],
        optimize: bool,
        engine: Engine,
        generators: Sequence[np.random.Generator] = (),
        large: dict[int, Any] | None = None,
    ) -> None:
        self.mode = mode
        self.args = args  # Modules are known by their identity, so they must not vanish
        found = [[leaf for _, leaf in leaves_of(arg, "argument", further=True)] for arg in args]
        kind = kind_of([leaf for leaves in found for leaf in leaves])
        parts = [[as_given(leaf, kind) for leaf in leaves] for leaves in found]
        dtypes = [x.dtype for leaves in parts for x in leaves if isinstance(x, Tensor)]
        dtype = np.result_type(*dtypes, np.float32)
        self.recorder = recorder = Recorder(kind, dtype, large or {})
        drawing = {id(g): TracedGenerator(recorder, k, g) for k, g in enumerate(generators)}
        stand_ins = [[_stand_in(recorder, x, dtype) for x in xs] for xs in parts]
        self.given = [[e for x in xs for e in elements_of(x)] for xs in stand_ins]
        self.selected = positions(argnums, len(args)) if mode == "value_and_grad" else []
        for i in self.selected:
            leaves_of(args[i], f"argument {i}")  # refuses what there is no derivative by
        self._mark_selected()
        with recording_by(recorder):
            pairs = zip(args, stand_ins, strict=True)
            given = [filled(arg, iter(xs), drawing) for arg, xs in pairs]
            result = f(*given)
            check_state(given, {id(x) for xs in stand_ins for x in xs}, set())
            outputs = nodes_of(result, f"the result of {getattr(f, '__name__', 'the function')}")
            numbers = [self._number(e) for x in outputs for e in elements_of(x)]
            self.template = numbered(result, outputs)
            self.size = len(numbers)
            self.variables: list[int] = []
            if mode != "value":
                self._differentiate(outputs[0], numbers)
        if mode == "value_and_grad":
            rest = Positions()
            templates = tuple(
                shaped(args[i], iter([rest.of(x) for x in parts[i]])) for i in self.selected
            )
            self.gradient_template = templates[0] if isinstance(argnums, int) else templates
        self.captured = list(recorder.leaves.values())
        self.program = optimized(recorder.program(numbers))
        self.optimize = optimize
        if optimize and kind == "array":
            self.program = optimized(gathered(self.program))
        self.engine = engine
        del self.recorder, self.given

    def prepare(self) -> None:
        """Make what runs the program: apart, since engines may draw random numbers of their own."""
        made = runner_of(self.engine, self.program.kind)
        exact = {"exact": not self.optimize} if made is array_numpy.Runner else {}
        self.runners = Pool(made(self.program, **exact))

    def _number(self, x: Any) -> int:
        """The instruction that gives a result."""
        x = self.recorder.operand(x)
        return int(x.number if is_traced(x) else self.recorder.constant(x))

    def _mark_selected(self) -> None:
        """Have derivatives flow to the arguments to differentiate by."""
        for i in self.selected:
            for x in self.given[i]:
                if isinstance(x, Index):
                    raise TypeError(f"argnums: argument {i} holds integers: no derivative by it")
                x.rule = None

    def _differentiate(self, output: Any, numbers: list[int]) -> None:
        """Record the gradient of the first output; that of single numbers is the runner's work."""
        recorder = self.recorder
        recorder.begin_sweep()
        elements = elements_of(output)
        if len(elements) != 1 or np.size(getattr(elements[0], "_array", 0.0)) != 1:
            raise ValueError(
                "expected the function's (first) result to be a single number, for a gradient, got "
                f"shape {getattr(output, 'shape', ())}"
            )
        if self.mode == "value_and_grad":
            variables = [x for i in self.selected for x in self.given[i]]
        else:
            every = [*(x for xs in self.given for x in xs), *recorder.leaf_inputs]
            variables = [x for x in every if not isinstance(x, Index) and x.rule is None]
        places = {number: i for i, number in enumerate(recorder.inputs)}
        self.variables = [places[x.number] for x in variables]
        if recorder.kind == "scalar":
            return
        root = recorder.operand(elements[0])
        gradients: list[Any] = [None] * len(variables)
        if isinstance(root, TracedTensor) and root.rule is not UNTRACKED:
            seed = np.ones(root.shape, root.dtype)
            gradients = gradients_of(root, variables, seed, create_graph=True)
        for g, x in zip(gradients, variables, strict=True):
            numbers.append(self._number(np.zeros(x.shape, x.dtype) if g is None else g))

    # --- replay ---------------------------------------------------------------------------------

    def run(self, given: Given) -> tuple[list[Any], list[Any]] | None:
        """Results and gradients for arguments; None if a branch comes out otherwise.

        Leaves that the function reaches by itself are read now, and random numbers are drawn.
        """
        outcome = self._outcome(given)
        size = len(self.program.outputs)
        for guard, condition in zip(self.program.guards, outcome[0][size:], strict=True):
            if bool(condition) != guard.outcome:
                return None
        results, gradients = outcome
        if self.program.kind == "array":
            gradients = results[self.size : size]
        return results[: self.size], gradients

    def _outcome(self, given: Given) -> tuple[list[Any], list[Any]]:
        scalar = self.program.kind == "scalar"
        inputs: list[Any]
        if scalar:
            inputs = [number for leaf in given.leaves for number in _numbers_in(leaf)]
        else:
            dtypes = self.program.dtypes
            inputs = [
                leaf if type(leaf) is np.ndarray
                else leaf._array if type(leaf) is Tensor
                else np.asarray(data_of(leaf), dtypes[i])
                for leaf, i in zip(given.leaves, self.program.inputs, strict=False)
            ]  # fmt: skip
        inputs += [data_of(x) for x in self.captured]
        if self.program.draws:
            inputs += self.program.drawn(*given.generators)
        runner = self.runners.take()
        try:
            if scalar and self.mode != "value":
                results, every = runner.value_and_gradient(inputs)
                return list(map(float, results)), [float(every[i]) for i in self.variables]
            results = runner.values(inputs)
        finally:
            self.runners.put(runner)
        return (list(map(float, results)) if scalar else results), []

    def batch(
        self, inputs: Sequence[Any], gradient: Gradient | None, threads: int
    ) -> tuple[Any, Any, Any]:
        """Per row whether branches come out as recorded; and for those rows values and gradients.

        Gradients are by the arguments to differentiate by, of each row or their sum.
        """
        summed = gradient == "sum"
        options: Any = {"gradients": gradient is not None, "sum_gradients": summed}
        runner = self.runners.take()
        try:
            results, gradients = runner.batch(inputs, threads=threads, **options)
            stay = np.ones(len(results), bool)
            for k, guard in enumerate(self.program.guards, len(self.program.outputs)):
                stay &= (results[:, k] != 0.0) == guard.outcome
            if not stay.all() and summed:  # the others are in the sum
                kept = [x[stay] if np.ndim(x) else x for x in inputs]
                gradients = runner.batch(kept, threads=threads, **options)[1]
        finally:
            self.runners.put(runner)
        if gradients is not None:
            gradients = gradients[..., self.variables]
            gradients = gradients if summed else gradients[stay]
        return stay, results[stay, 0], gradients

    def columns(
        self,
        args: tuple[Any, ...],
        data: dict[int, Any],
        rows: int,
        generators: Sequence[np.random.Generator],
    ) -> list[Any]:
        """The inputs of a batch: a column of one number per row, or a number for all rows."""
        if self.program.kind != "scalar" or self.size != 1:
            raise TypeError("batch: expected a function of Values that returns a single number")
        inputs: list[Any] = []
        for i, arg in enumerate(args):
            if i in data:
                inputs += list(data[i].reshape(rows, -1).T)
            else:
                for leaf in leaves_of(arg, "argument", further=True):
                    inputs += [e._data for e in elements_of(as_given(leaf[1], "scalar"))]
        inputs += [float(data_of(x)) for x in self.captured]
        if self.program.draws:
            drawn = [self.program.drawn(*generators) for _ in range(rows)]  # row after row
            inputs += list(np.array(drawn).reshape(rows, -1).T)
        return inputs

    def diverged(self, given: Given) -> str:
        """Which branch comes out otherwise than it was recorded."""
        outcomes = self._outcome(given)[0][len(self.program.outputs) :]
        for guard, condition in zip(self.program.guards, outcomes, strict=True):
            if bool(condition) != guard.outcome:
                return (
                    f"a branch comes out {bool(condition)}, and was recorded {guard.outcome}"
                    f"{guard.line}; use where() to have both sides in the program"
                )
        return "no branch comes out otherwise"

    def commit(self, gradients: Sequence[Any], args: tuple[Any, ...]) -> None:
        """Add gradients to those of the leaves."""
        found = [leaf for _, leaf in leaves_of(args, "argument", further=True)]
        given = [as_given(leaf, self.program.kind) for leaf in found]
        leaves = [*(x for leaf in given for x in elements_of(leaf)), *self.captured]
        for i in self.variables:
            check_leaf(leaves[i])
        totals: dict[int, Any] = {}  # a leaf may be there twice
        with commit_lock:
            for i, g in zip(self.variables, gradients, strict=True):
                leaf = leaves[i]
                before = totals[id(leaf)][1] if id(leaf) in totals else leaf._grad
                totals[id(leaf)] = leaf, g if before is None else before + g
            pairs = totals.values()
            write(each for leaf, total in pairs for each in leaf._grad_writes(total))


def _numbers_in(leaf: Any) -> Sequence[float]:
    """What an argument gives a program of single numbers."""
    if isinstance(leaf, Values):
        return [x._data for x in leaf.flat]
    data = data_of(leaf)
    return data.ravel().tolist() if isinstance(data, np.ndarray) else [data]


def _stand_in(recorder: Recorder, leaf: Any, dtype: Any) -> Any:
    """A leaf of the arguments as inputs of the program."""
    stand_in = like_elements(leaf, [input_like(recorder, e, dtype) for e in elements_of(leaf)])
    return stand_in.view(Values) if isinstance(leaf, Values) else stand_in


def runner_of(engine: Engine, kind: Kind) -> Any:
    """What runs programs of a kind."""
    if engine == "numpy":
        return array_numpy.Runner if kind == "array" else scalar_numpy.Runner
    if engine == "numba":
        if kind == "array":
            raise ValueError("engine: numba runs functions of Values; for arrays take numpy or jax")
        return importlib.import_module("tinygrad_bp.replay.scalar_numba").Runner
    return importlib.import_module("tinygrad_bp.replay.jax_engine").Runner


def runner(program: Program, engine: Engine = "numpy") -> Any:
    """Something to run a program with: one that was recorded, or loaded from a file.

    Args:
        program: the program.
        engine: as for `compile`.

    Returns:
        An object whose `values(inputs)` gives the program's outputs, and then the conditions of its
        guards, as numbers or arrays; one of single numbers has `value_and_gradient` and `batch`.

    Raises:
        ValueError: the engine does not run programs of this kind.
        ImportError: its package is not installed.
    """
    instance(program, "program", Program, "a Program")
    choice(engine, "engine", ("numpy", "numba", "jax"))
    return runner_of(engine, program.kind)(program)
