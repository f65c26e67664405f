"""`compile`: a function that is recorded at its first call, and replayed at later ones."""

from __future__ import annotations

import functools
import importlib
import operator
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from tinygrad_bp.containers import elements_of, filled, leaves_of, like_elements, nodes_of, shaped
from tinygrad_bp.differentiable import gradients_of
from tinygrad_bp.graph import UNTRACKED
from tinygrad_bp.hooks import hooks_of
from tinygrad_bp.nn.module import Module
from tinygrad_bp.recording import current_state, observers_of
from tinygrad_bp.replay import array_numpy, scalar_numpy
from tinygrad_bp.replay.gather import gathered
from tinygrad_bp.replay.passes import optimized
from tinygrad_bp.replay.program import Program
from tinygrad_bp.replay.tracing import (
    Index,
    Recorder,
    TracedTensor,
    input_like,
    is_traced,
    recording_by,
)
from tinygrad_bp.scalars import Values, values
from tinygrad_bp.tensor import Tensor, as_array
from tinygrad_bp.value import Value

Mode = Literal["value", "value_and_grad", "backward"]
Kind = Literal["scalar", "array"]
OnBranch = Literal["record", "raise"]
Engine = Literal["numpy", "numba", "jax"]
KEPT = 16  # kinds of arguments, and ways through the code for each of them

_FLOATS = (np.dtype(np.float64), np.dtype(np.float32))


def compile(
    function: Callable[..., Any] | None = None,
    *,
    argnums: int | Sequence[int] = 0,
    on_branch: OnBranch = "record",
    optimize: bool = True,
    engine: Engine = "numpy",
) -> Any:
    """Record a function at its first call, and replay the record at later ones.

    The record holds for arguments of the same structure, shapes and dtypes; others are recorded on
    their own. Data are read at each call: those of the arguments, and those of leaves that the
    function reaches by itself, such as a model's parameters. Whatever else the function reaches
    (numbers, numpy arrays, random numbers that it draws) is a constant of the record; so is what a
    Module keeps in attributes, unless the Module is an argument.

    Args:
        function: a function of numbers, arrays, nodes, Modules, and lists, tuples and dicts of
            these, that returns nodes. Arrays of integers are indices; bool, str and None are part
            of what is recorded.
        argnums: by which arguments `value_and_grad` differentiates.
        on_branch: what to do where Python's `if` would now go another way: "record" that way too,
            or "raise".
        optimize: whether the products of an unrolled network may be gathered into few large ones.
            Their sums are then taken in another order, so that results differ in rounding; without
            it, a program of arrays gives every bit that the function itself gives.
        engine: what runs the record. "numpy"; "numba" (extra `jit`), machine code, for functions of
            Values; "jax" (extra `jax`), for accelerators.

    Returns:
        A `Compiled`. Calling it gives the function's value; it has `value_and_grad` and `backward`.

    Raises:
        TypeError: (when it records) the function reads a number out of a node.
        ValueError: on_branch or engine is unknown; or (when it records) the function uses what was
            computed outside of it.
        ImportError: (when it records) the engine's package is not installed.

    Example:
        >>> step = compile(lambda x: x * x + 1.0)
        >>> step(3.0), step.value_and_grad(4.0), step.value_and_grad(5.0)
        (10.0, (17.0, 8.0), (26.0, 10.0))
    """
    if on_branch not in ("record", "raise"):
        raise ValueError(f"on_branch: expected 'record' or 'raise', got {on_branch!r}")
    if engine not in ("numpy", "numba", "jax"):
        raise ValueError(f"engine: expected 'numpy', 'numba' or 'jax', got {engine!r}")
    if function is None:
        return functools.partial(
            compile, argnums=argnums, on_branch=on_branch, optimize=optimize, engine=engine
        )
    if not callable(function):
        raise TypeError(f"function: expected something to call, got {type(function).__name__}")
    return Compiled(function, argnums, on_branch, optimize, engine)


class Compiled:
    """A function that was, or will be, recorded: what `compile` returns.

    Attributes:
        recordings: how often it was recorded: for every kind of arguments, and way through the
            branches of its code, once.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        argnums: Any,
        on_branch: OnBranch,
        optimize: bool,
        engine: Engine,
    ) -> None:
        functools.update_wrapper(self, f, updated=())
        self.f = f
        self.name = getattr(f, "__name__", type(f).__name__)
        self.argnums = argnums
        self.on_branch = on_branch
        self.optimize = optimize
        self.engine = engine
        self.recordings = 0
        self._kept: OrderedDict[Any, list[_Recording]] = OrderedDict()
        self._modules: dict[int, _Parameters] = {}
        self._lock = threading.Lock()

    def __call__(self, *args: Any) -> Any:
        """What the function returns, as numbers and arrays."""
        recording, results, _ = self._run("value", args)
        return _put(recording.template, results)

    def value_and_grad(self, *args: Any) -> tuple[Any, Any]:
        """The value, and its gradient by the arguments `argnums` in their structure.

        Where the function returns a tuple, the gradient is that of its first part.
        """
        recording, results, gradients = self._run("value_and_grad", args)
        return _put(recording.template, results), _put(recording.gradient_template, gradients)

    def backward(self, *args: Any) -> Any:
        """The value; the gradient is added to the `grad` of every leaf that takes part.

        These are the leaves among the arguments, the parameters of Modules there, and those that
        the function reaches by itself.
        """
        recording, results, gradients = self._run("backward", args)
        recording.commit(gradients, args)
        return _put(recording.template, results)

    def batch(
        self,
        *args: Any,
        rows: Sequence[int],
        gradient: Literal["rows", "sum"] | None = None,
        threads: int = 1,
    ) -> Any:
        """The function of single numbers at many rows of data, from the record of one.

        Args:
            args: as for a single call, but that those named by `rows` have a further first axis:
                one entry per row.
            rows: which arguments these are.
            gradient: "rows" for the gradient by the arguments `argnums` at every row, "sum" for its
                sum over the rows.
            threads: how many to use; the engine "numba" can use several.

        Returns:
            The values, an array of one number per row; with `gradient` the pair of them and the
            gradient in the arguments' structure, in which "rows" puts a further first axis.

        Raises:
            TypeError: the function is one of arrays, or it returns several things.
            ValueError: there are no rows, or their numbers differ.
            RuntimeError: a row takes another branch than the first.
        """
        if gradient not in (None, "rows", "sum"):
            raise ValueError(f"gradient: expected 'rows', 'sum' or None, got {gradient!r}")
        data = {i % len(args): as_array(args[i], f"argument {i}") for i in rows}
        counts = {len(x) if x.ndim else 0 for x in data.values()}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(f"rows: expected arguments of equally many rows, got {sorted(counts)}")
        example = tuple(data[i][0] if i in data else arg for i, arg in enumerate(args))
        recording = self._run("value" if gradient is None else "value_and_grad", example)[0]
        return recording.batch(args, data, gradient, threads)

    def program(self, *args: Any, gradient: bool = False) -> Program:
        """The program that such arguments lead to: of the value, or of value and gradient."""
        mode: Mode = "value_and_grad" if gradient else "value"
        recording: _Recording = self._run(mode, args)[0]
        return recording.program

    def _run(self, mode: Mode, args: tuple[Any, ...]) -> tuple[Any, list[Any], list[Any]]:
        """The record that holds for these arguments, its results, and its gradients."""
        leaves: list[Any] = []
        parts: list[Any] = [mode]
        for arg in args:
            _take_apart(arg, leaves, parts, mode == "backward", self._modules)
        if any(isinstance(observer, Recorder) for observer in observers_of(current_state())):
            raise TypeError(
                f"{self.name}: a compiled function cannot be called in another; call its .f there"
            )
        key = tuple(parts)
        with self._lock:
            recordings = self._kept.get(key, [])
            for recording in recordings:
                try:
                    outcome = recording.run(leaves)
                except Exception:
                    continue  # on another way through the code it may not arise; see below
                if outcome is not None:
                    return recording, *outcome
            if recordings and self.on_branch == "raise":
                raise RuntimeError(f"{self.name}: {recordings[-1].diverged(leaves)}")
            recording = _Recording(self.f, self.argnums, mode, args, self.optimize, self.engine)
            outcome = recording.run(leaves)
            if outcome is None:
                raise RuntimeError(
                    f"{self.name}: replayed on the data of its recording, a branch came out "
                    "otherwise; does the function depend on something that changes?"
                )
            self.recordings += 1
            self._kept[key] = [*recordings[1 - KEPT :], recording]
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return recording, *outcome


class _Recording:
    """One recording of a function: its program, and how arguments and results fit to it."""

    def __init__(
        self,
        f: Callable[..., Any],
        argnums: Any,
        mode: Mode,
        args: tuple[Any, ...],
        optimize: bool,
        engine: Engine,
    ) -> None:
        self.mode = mode
        self.args = args  # Modules are known by their identity, so they must not vanish
        found = [[leaf for _, leaf in leaves_of(arg, "argument", further=True)] for arg in args]
        kind = _kind_of([leaf for leaves in found for leaf in leaves])
        parts = [[_as_given(leaf, kind) for leaf in leaves] for leaves in found]
        dtypes = [x.dtype for leaves in parts for x in leaves if isinstance(x, Tensor)]
        dtype = np.result_type(*dtypes, np.float32)
        self.recorder = recorder = Recorder(kind)
        stand_ins = [
            [like_elements(x, [input_like(recorder, e, dtype) for e in elements_of(x)]) for x in xs]
            for xs in parts
        ]
        self.given = [[e for x in xs for e in elements_of(x)] for xs in stand_ins]
        self.selected = _positions(argnums, len(args)) if mode == "value_and_grad" else []
        self._mark_selected()
        with recording_by(recorder):
            pairs = zip(args, stand_ins, strict=True)
            given = [filled(arg, iter(xs)) for arg, xs in pairs]
            result = f(*given)
            _check_state(given, {id(x) for xs in stand_ins for x in xs}, set())
            outputs = nodes_of(result, f"the result of {getattr(f, '__name__', 'the function')}")
            numbers = [self._number(e) for x in outputs for e in elements_of(x)]
            self.template = _numbered(result, outputs)
            self.size = len(numbers)
            self.variables: list[int] = []
            if mode != "value":
                self._differentiate(outputs[0], numbers)
        if mode == "value_and_grad":
            rest = _Positions()
            templates = tuple(
                shaped(args[i], iter([rest.of(x) for x in parts[i]])) for i in self.selected
            )
            self.gradient_template = templates[0] if isinstance(argnums, int) else templates
        self.captured = list(recorder.leaves.values())
        self.program = optimized(recorder.program(numbers))
        if optimize and kind == "array":
            self.program = optimized(gathered(self.program))
        self.runner = _runner_of(engine, kind)(self.program)
        del self.recorder, self.given

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
        recorder.differentiates = True
        elements = elements_of(output)
        if len(elements) != 1 or np.size(getattr(elements[0], "_array", 0.0)) != 1:
            raise ValueError(
                "expected the function's (first) result to be a single number, to differentiate"
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

    def run(self, leaves: Sequence[Any]) -> tuple[list[Any], list[Any]] | None:
        """Results and gradients for the leaves of arguments; None if a branch comes out otherwise.

        Leaves that the function reaches by itself are read now.
        """
        outcome = self._outcome(leaves)
        size = len(self.program.outputs)
        for guard, condition in zip(self.program.guards, outcome[0][size:], strict=True):
            if bool(condition) != guard.outcome:
                return None
        results, gradients = outcome
        if self.program.kind == "array":
            gradients = results[self.size : size]
        return results[: self.size], gradients

    def _outcome(self, leaves: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        scalar = self.program.kind == "scalar"
        inputs: list[Any] = []
        for leaf in leaves:
            if type(leaf) is np.ndarray:
                inputs += leaf.ravel().tolist() if scalar else [leaf]
            elif isinstance(leaf, Tensor):
                inputs += leaf._array.ravel().tolist() if scalar else [leaf._array]
            elif isinstance(leaf, Values):
                inputs += [x._data for x in leaf.flat]
            else:
                x = leaf._data if isinstance(leaf, Value) else leaf
                i = self.program.inputs[len(inputs)]
                inputs.append(x if scalar else np.asarray(x, self.program.dtypes[i]))
        inputs += [_data_of(x) for x in self.captured]
        if scalar and self.mode != "value":
            results, every = self.runner.value_and_gradient(inputs)
            return list(map(float, results)), [float(every[i]) for i in self.variables]
        results = self.runner.values(inputs)
        return (list(map(float, results)) if scalar else results), []

    def batch(
        self,
        args: tuple[Any, ...],
        data: dict[int, Any],
        gradient: Literal["rows", "sum"] | None,
        threads: int,
    ) -> Any:
        """The values at every row, and the gradient; see `Compiled.batch`."""
        if self.program.kind != "scalar" or self.size != 1:
            raise TypeError("batch: expected a function of Values that returns a single number")
        inputs: list[Any] = []
        for i, arg in enumerate(args):
            if i in data:
                inputs += list(data[i].reshape(len(data[i]), -1).T)
            else:
                for leaf in leaves_of(arg, "argument", further=True):
                    inputs += [e._data for e in elements_of(_as_given(leaf[1], "scalar"))]
        inputs += [float(_data_of(x)) for x in self.captured]
        results, gradients = self.runner.batch(
            inputs,
            gradients=gradient is not None,
            sum_gradients=gradient == "sum",
            threads=threads,
        )
        for k, guard in enumerate(self.program.guards, len(self.program.outputs)):
            other = np.flatnonzero((results[:, k] != 0.0) != guard.outcome)
            if len(other):
                raise RuntimeError(
                    f"batch: {len(other)} rows, the first of them {other[0]}, take another branch "
                    f"than row 0{guard.line}; use where(), or call them apart"
                )
        if gradient is None:
            return results[:, 0]
        parts = gradients[..., self.variables]
        return results[:, 0], _put_rows(self.gradient_template, parts)

    def diverged(self, leaves: Sequence[Any]) -> str:
        """Which branch comes out otherwise than it was recorded."""
        outcomes = self._outcome(leaves)[0][len(self.program.outputs) :]
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
        given = [_as_given(leaf, self.program.kind) for leaf in found]
        leaves = [*(x for leaf in given for x in elements_of(leaf)), *self.captured]
        totals: dict[int, Any] = {}  # a leaf may be there twice
        for i, g in zip(self.variables, gradients, strict=True):
            leaf = leaves[i]
            _check_leaf(leaf)
            before = totals[id(leaf)][1] if id(leaf) in totals else leaf.grad
            totals[id(leaf)] = leaf, g if before is None else before + g
        for leaf, total in totals.values():
            leaf.grad = total


def _runner_of(engine: Engine, kind: Kind) -> Any:
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
    return _runner_of(engine, program.kind)(program)


# --- arguments ----------------------------------------------------------------------------------


class _Parameters:
    """The parameters of a Module, remembered for as long as nothing in it is replaced.

    To find them anew takes longer than a small step. To see that every attribute, and every element
    of a list or dict there, is still the same object takes a microsecond.
    """

    def __init__(self, module: Module) -> None:
        self.module = module
        self.parameters = module.parameters()
        self.holders: list[tuple[Any, list[Any]]] = []
        self.settings: list[Any] = []  # what else its forward() may go by
        self._remember(module, set())

    def _remember(self, x: Any, seen: set[int]) -> None:
        if isinstance(x, (bool, int, float, str, type(None))):
            self.settings += (type(x), x)
        elif callable(x) and not isinstance(x, Module):
            self.settings.append(id(x))
        if id(x) in seen or not isinstance(x, (Module, dict, list, tuple)):
            return
        seen.add(id(x))
        holder = vars(x) if isinstance(x, Module) else x
        parts = list(holder.values() if isinstance(holder, dict) else holder)
        self.holders.append((holder, parts))
        for part in parts:
            self._remember(part, seen)

    def hold(self) -> bool:
        """Whether they are still those of the Module."""
        for holder, parts in self.holders:
            now = holder.values() if isinstance(holder, dict) else holder
            if len(now) != len(parts) or not all(map(operator.is_, now, parts)):
                return False
        return True


def _take_apart(
    x: Any, leaves: list[Any], key: list[Any], by_tracked: bool, known: dict[int, _Parameters]
) -> None:
    """The leaves of an argument, and what a recording must agree with."""
    if isinstance(x, (Tensor, Value)) and is_traced(x):
        raise TypeError("argument: a quantity of a recording has no numbers to be given")
    if isinstance(x, Tensor):
        leaves.append(x)
        key += (Tensor, x._array.shape, x._array.dtype, by_tracked and x.rule)
    elif isinstance(x, Values):
        leaves.append(x)
        key += (Values, x.shape, by_tracked and x.requires_grad)
    elif isinstance(x, np.ndarray):
        if x.dtype not in _FLOATS and x.dtype.kind not in "iu":
            x = as_array(x, "argument")
        if type(x) is not np.ndarray:
            x = as_array(x, "argument") if x.dtype in _FLOATS else np.asarray(x)
        leaves.append(x)
        key += (x.shape, x.dtype if x.dtype in _FLOATS else int)
    elif isinstance(x, Value):
        leaves.append(x)
        key += (Value, by_tracked and x.rule)
    elif isinstance(x, (bool, str, type(None))):
        key.append((type(x), x))
    elif isinstance(x, (int, float, np.integer, np.floating)):
        leaves.append(float(x))
        key.append(float)
    elif isinstance(x, Module):
        key.append(id(x))
        found = known.get(id(x))
        if found is None or not found.hold():
            if len(known) > KEPT:
                known.clear()
            found = known[id(x)] = _Parameters(x)
        key += found.settings
        for parameter in found.parameters:
            _take_apart(parameter, leaves, key, by_tracked, known)
    elif isinstance(x, dict):
        key += ("dict", *x)
        for part in x.values():
            _take_apart(part, leaves, key, by_tracked, known)
    elif isinstance(x, (list, tuple)):
        key += (type(x), len(x))
        for part in x:
            _take_apart(part, leaves, key, by_tracked, known)
    else:
        leaves_of(x, "argument", further=True)  # raises, and says why


def _check_state(x: Any, stand_ins: set[int], seen: set[int]) -> None:
    """Raise if a Module has kept something of its recording: a replay will not do so again."""
    if id(x) in stand_ins or id(x) in seen:
        return
    seen.add(id(x))
    if is_traced(x):
        raise ValueError(
            "a Module among the arguments keeps a computed quantity in an attribute; a replay "
            "would not: return it as a further output"
        )
    if isinstance(x, (Module, dict)):
        x = list((vars(x) if isinstance(x, Module) else x).values())
    if isinstance(x, (list, tuple)):
        for part in x:
            _check_state(part, stand_ins, seen)


def _kind_of(leaves: Sequence[Any]) -> Kind:
    """Of single numbers where there are Values, or nothing but numbers."""
    if any(isinstance(x, Values) or (isinstance(x, Value) and x.requires_grad) for x in leaves):
        return "scalar"
    if not leaves:
        return "array"
    return "array" if any(isinstance(x, (Tensor, np.ndarray)) for x in leaves) else "scalar"


def _as_given(leaf: Any, kind: str) -> Any:
    """A leaf as nodes of the kind of a program: in one of single numbers, arrays are of Values."""
    if kind == "array" or isinstance(leaf, (Value, Values)):
        return leaf
    if isinstance(leaf, np.ndarray):
        raise TypeError("a function of Values takes no array of integers; give it floats")
    if leaf.rule is None:
        raise TypeError(
            "a tracked Tensor and Values do not go together: its gradient would have no place"
        )
    return values(leaf._array, requires_grad=False)


def _positions(argnums: Any, count: int) -> list[int]:
    """The arguments to differentiate by."""
    wanted = [argnums] if isinstance(argnums, int) else list(argnums)
    for i in wanted:
        if not isinstance(i, int) or not -count <= i < count:
            raise ValueError(f"argnums: expected positions among {count} arguments, got {argnums}")
    return [i % count for i in wanted]


def _check_leaf(leaf: Any) -> None:
    """Raise if a gradient added to a leaf would not be all that its user expects."""
    if not leaf.is_leaf:
        raise ValueError(
            f"backward: a {type(leaf).__name__} that was computed was given; its ancestors would "
            "get no gradient: give the leaves, or its detach()"
        )
    if hooks_of(leaf):
        raise ValueError("backward: a compiled function calls no hooks, and a leaf has one")


def _data_of(leaf: Any) -> Any:
    return leaf._data if isinstance(leaf, Value) else leaf._array


# --- results ------------------------------------------------------------------------------------


class _Positions:
    """Consecutive numbers, in the shapes of results."""

    def __init__(self) -> None:
        self.next = 0

    def of(self, x: Any) -> Any:
        """The numbers of what x consists of: one, or an array of them."""
        size = len(elements_of(x))
        start, self.next = self.next, self.next + size
        if isinstance(x, Values):
            return np.arange(start, self.next).reshape(x.shape)
        return start


def _numbered(tree: Any, nodes: Sequence[Any]) -> Any:
    """The structure of a result, with positions in the place of its nodes."""
    rest = _Positions()
    return shaped(tree, iter([rest.of(x) for x in nodes]))


def _put(template: Any, results: Sequence[Any]) -> Any:
    """Results in the places of their positions."""
    if type(template) is int:
        x = results[template]
        return x if isinstance(x, np.ndarray) and x.ndim else float(x)
    if isinstance(template, dict):
        return {key: _put(part, results) for key, part in template.items()}
    if isinstance(template, np.ndarray):
        return np.array([results[i] for i in template.flat], np.float64).reshape(template.shape)
    parts: Iterator[Any] = (_put(part, results) for part in template)
    if hasattr(template, "_fields"):
        return type(template)(*parts)
    return type(template)(parts)


def _put_rows(template: Any, parts: Any) -> Any:
    """Gradients, summed or with one row each, in the places of their positions."""
    if isinstance(template, (int, np.ndarray)):
        x = parts[..., template]
        return x if np.ndim(x) else float(x)
    if isinstance(template, dict):
        return {key: _put_rows(part, parts) for key, part in template.items()}
    return type(template)(_put_rows(part, parts) for part in template)
