"""`compile`: a function that is recorded at its first call, and replayed at later ones."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from tinygrad_bp.containers import elements_of, filled, leaves_of, like_elements, nodes_of, shaped
from tinygrad_bp.differentiable import gradients_of
from tinygrad_bp.graph import UNTRACKED, Node
from tinygrad_bp.nn.module import Module
from tinygrad_bp.replay import array_numpy, scalar_numpy
from tinygrad_bp.replay.passes import optimized
from tinygrad_bp.replay.program import Program
from tinygrad_bp.replay.tracing import Index, Recorder, input_like, is_traced, recording_by
from tinygrad_bp.scalars import Values, values
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.value import Value

Mode = Literal["value", "value_and_grad", "backward"]
OnBranch = Literal["record", "raise"]
KEPT = 16  # kinds of arguments, and ways through the code for each of them


class Compiled:
    """A function that was, or will be, recorded: what `compile` returns.

    Attributes:
        recordings: how often it was recorded: for every kind of arguments, and way through the
            branches of its code, once.
    """

    def __init__(self, f: Callable[..., Any], argnums: Any, on_branch: OnBranch) -> None:
        functools.update_wrapper(self, f, updated=())
        self.f = f
        self.name = getattr(f, "__name__", type(f).__name__)
        self.argnums = argnums
        self.on_branch = on_branch
        self.recordings = 0
        self._kept: OrderedDict[Any, list[_Recording]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, *args: Any) -> Any:
        """What the function returns, as numbers and arrays."""
        recording, numbers, _ = self._run("value", args)
        return recording.result(numbers)

    def value_and_grad(self, *args: Any) -> tuple[Any, Any]:
        """The value, and its gradient by the arguments `argnums` in their structure.

        Where the function returns a tuple, the gradient is that of its first part.
        """
        recording, numbers, gradients = self._run("value_and_grad", args)
        return recording.result(numbers), recording.gradient(gradients)

    def backward(self, *args: Any) -> Any:
        """The value; the gradient is added to the `grad` of every leaf that takes part.

        These are the leaves among the arguments, the parameters of Modules there, and those that
        the function reaches by itself.
        """
        recording, numbers, gradients = self._run("backward", args)
        recording.commit(gradients, args)
        return recording.result(numbers)

    def program(self, *args: Any) -> Program:
        """The recorded program for such arguments."""
        recording: _Recording = self._run("value", args)[0]
        return recording.program

    def _run(self, mode: Mode, args: tuple[Any, ...]) -> tuple[Any, list[Any], list[Any]]:
        leaves = _leaves(args)
        kinds = [(type(x), getattr(x, "shape", ()), getattr(x, "dtype", None)) for x in leaves]
        tracked = [getattr(x, "requires_grad", False) for x in leaves if mode == "backward"]
        key = (mode, _kind_of(args), *kinds, *tracked)
        kind = _kind_of_program(leaves)
        elements = [x for leaf in leaves for x in _numbers_of(leaf, kind)]
        with self._lock:
            recordings = self._kept.setdefault(key, [])
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            for recording in recordings:
                outcome = recording.run(elements)
                if outcome is not None:
                    return recording, *outcome
            if recordings and self.on_branch == "raise":
                raise RuntimeError(recordings[-1].diverged(elements))
            recording = _Recording(self.f, self.argnums, mode, args)
            self.recordings += 1
            recordings.append(recording)
            del recordings[:-KEPT]
            outcome = recording.run(elements)
            if outcome is None:
                raise RuntimeError(
                    f"{self.name}: replayed on the data of its recording, a branch came out "
                    "otherwise; does the function depend on something that changes?"
                )
            return recording, *outcome


class _Recording:
    """One recording of a function: its program, and how arguments and results fit to it."""

    def __init__(
        self, f: Callable[..., Any], argnums: Any, mode: Mode, args: tuple[Any, ...]
    ) -> None:
        self.mode, self.args, self.argnums = mode, args, argnums
        leaves = _leaves(args)
        kind: Literal["scalar", "array"] = _kind_of_program(leaves)
        leaves = _split(leaves, kind)
        dtypes = [leaf.dtype for leaf in leaves if isinstance(leaf, Tensor)]
        dtype = np.result_type(*dtypes, np.float32)
        self.recorder = recorder = Recorder(kind)
        traced = [
            like_elements(leaf, [input_like(recorder, x, dtype) for x in elements_of(leaf)])
            for leaf in leaves
        ]
        self.given = [x for leaf in traced for x in elements_of(leaf)]
        if mode == "value_and_grad":
            for x in self._selected():
                if isinstance(x, Index):
                    raise TypeError("argnums: there is no derivative by an array of integers")
                x.rule = None
        with recording_by(recorder):
            self.structure = f(*filled(args, iter(traced)))
            self.outputs = nodes_of(self.structure, f"the result of {getattr(f, '__name__', f)}")
            numbers = [self._number(x) for out in self.outputs for x in elements_of(out)]
            self.size = len(numbers)
            if mode != "value":
                self._differentiate(numbers)
        self.captured = list(recorder.leaves.values())
        self.program = optimized(recorder.program(numbers))
        del self.recorder
        kinds: Any = {"array": array_numpy.Runner, "scalar": scalar_numpy.Runner}
        self.runner = kinds[kind](self.program)

    def _number(self, x: Any) -> int:
        """The instruction that gives a result."""
        x = self.recorder.operand(x)
        return int(x.number if is_traced(x) else self.recorder.constant(x))

    def _selected(self) -> list[Any]:
        """The traced inputs of the arguments to differentiate by."""
        wanted = [self.argnums] if isinstance(self.argnums, int) else self.argnums
        chosen, start = [], 0
        for i, arg in enumerate(self.args):
            size = sum(_size(x, self.recorder.kind) for x in _leaves(arg))
            if i in wanted:
                chosen += self.given[start : start + size]
            start += size
        return chosen

    def _differentiate(self, numbers: list[int]) -> None:
        """Record the gradient of the first output as well; of single numbers the runner knows it.

        `variables` are the positions among the inputs of what it is taken by.
        """
        recorder = self.recorder
        first = elements_of(self.outputs[0])
        if len(first) != 1 or np.shape(getattr(first[0], "_array", 0.0)) not in ((), (1,)):
            raise ValueError("the first result must be a single number to be differentiated")
        inputs = {number: i for i, number in enumerate(recorder.inputs)}
        captured = [x for x in recorder.leaf_inputs if x.rule is None]
        given = [x for x in self.given if isinstance(x, Node) and x.rule is None]
        variables = self._selected() if self.mode == "value_and_grad" else given + captured
        self.variables = [inputs[x.number] for x in variables]
        if recorder.kind == "array":
            root: Any = first[0]
            if root.rule is UNTRACKED:
                gradients: list[Any] = [None] * len(variables)
            else:
                seed = np.ones(root.shape, root.dtype)
                gradients = gradients_of(root, variables, seed, create_graph=True)
            pairs = zip(gradients, variables, strict=True)
            numbers += [
                self._number(np.zeros(x.shape, x.dtype) if g is None else g) for g, x in pairs
            ]

    # --- replay ---------------------------------------------------------------------------------

    def run(self, arguments: Sequence[Any]) -> tuple[list[Any], list[Any]] | None:
        """Results and gradients for the numbers of arguments; None if a branch comes out otherwise.

        Leaves that the function reaches by itself are read now.
        """
        inputs = [*arguments, *(_numbers(leaf) for leaf in self.captured)]
        gradients: Any = []
        if self.program.kind == "scalar" and self.mode != "value":
            results, every = self.runner.value_and_gradient(inputs)
            gradients = [every[i] for i in self.variables]
        else:
            results = self.runner.values(inputs)
        size = len(self.program.outputs)
        for guard, outcome in zip(self.program.guards, results[size:], strict=True):
            if bool(outcome) != guard.outcome:
                return None
        if self.program.kind == "array":
            gradients = results[self.size : size]
        return list(results[: self.size]), list(gradients)

    def diverged(self, arguments: Sequence[Any]) -> str:
        """Which branch comes out otherwise than it was recorded."""
        results = self.runner.values([*arguments, *(_numbers(leaf) for leaf in self.captured)])
        outcomes = results[len(self.program.outputs) :]
        for guard, outcome in zip(self.program.guards, outcomes, strict=True):
            if bool(outcome) != guard.outcome:
                return (
                    f"a branch comes out {bool(outcome)}, and was recorded {guard.outcome}"
                    f"{guard.line}; use where() to have both sides in the program"
                )
        return "no branch comes out otherwise"

    def result(self, numbers: Sequence[Any]) -> Any:
        """Results in the structure that the function returns."""
        rest = iter(numbers)
        shaped_ = [_filled(out, [next(rest) for _ in elements_of(out)]) for out in self.outputs]
        return shaped(self.structure, iter(shaped_))

    def gradient(self, gradients: Sequence[Any]) -> Any:
        """Gradients in the structure of the arguments `argnums`."""
        rest = iter(gradients)
        wanted = [self.argnums] if isinstance(self.argnums, int) else self.argnums
        trees = []
        for i in sorted(wanted):
            leaves, kind = _leaves(self.args[i]), self.program.kind
            parts = [_filled(x, [next(rest) for _ in range(_size(x, kind))]) for x in leaves]
            trees.append(shaped(self.args[i], iter(parts)))
        return trees[0] if isinstance(self.argnums, int) else tuple(trees)

    def commit(self, gradients: Sequence[Any], args: tuple[Any, ...]) -> None:
        """Add gradients to those of the leaves."""
        given = [x for leaf in _split(_leaves(args), self.program.kind) for x in elements_of(leaf)]
        leaves = [*given, *self.captured]
        for i, g in zip(self.variables, gradients, strict=True):
            leaf = leaves[i]
            total = g if leaf.grad is None else leaf.grad + g
            leaf.grad = np.array(total) if isinstance(leaf, Tensor) else float(total)


def _leaves(tree: Any) -> list[Any]:
    return [leaf for _, leaf in leaves_of(tree, "argument", further=True)]


def _kind_of_program(leaves: Sequence[Any]) -> Literal["scalar", "array"]:
    """Of single numbers where there are tracked Values, or nothing but numbers."""
    if any(isinstance(x, (Value, Values)) and x.requires_grad for x in leaves):
        return "scalar"
    arrays = [x for x in leaves if isinstance(x, (Tensor, np.ndarray))]
    return "array" if any(not isinstance(x, Values) for x in arrays) else "scalar"


def _split(leaves: Sequence[Any], kind: str) -> list[Any]:
    """Leaves as nodes of the kind of a program: in one of single numbers, arrays are of Values."""
    if kind == "array":
        return list(leaves)
    if any(_is_of_integers(x) for x in leaves):
        raise TypeError("a function of Values takes no arrays of integers; pass them as floats")
    return [
        values(x._array, requires_grad=x.rule is None) if isinstance(x, Tensor) else x
        for x in leaves
    ]


def _is_of_integers(x: Any) -> bool:
    return isinstance(x, np.ndarray) and not isinstance(x, Values)


def _size(leaf: Any, kind: str) -> int:
    """How many inputs of a program a leaf is."""
    if isinstance(leaf, Values) or (isinstance(leaf, Tensor) and kind == "scalar"):
        return int(leaf.size)
    return 1


def _numbers_of(leaf: Any, kind: str) -> list[Any]:
    """What is given to the inputs of a leaf."""
    if isinstance(leaf, Values):
        return [x._data for x in leaf.flat]
    if isinstance(leaf, Tensor) and kind == "scalar":
        return leaf._array.ravel().tolist()
    return [_numbers(leaf)]


def _numbers(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        return x
    return x._data if isinstance(x, Value) else x._array


def _filled(like: Any, numbers: Sequence[Any]) -> Any:
    """Numbers as the user gets them, in the shape of a node or of an array of Values."""
    if isinstance(like, Values) or len(numbers) != 1 or np.ndim(numbers[0]) != np.ndim(like):
        return np.array(numbers, np.float64).reshape(like.shape)
    (x,) = numbers
    return np.array(x) if np.ndim(x) else float(x)


def _kind_of(tree: Any) -> Any:
    """The structure of arguments, as something to look up; Modules by identity."""
    if isinstance(tree, Module):
        return id(tree)
    if isinstance(tree, dict):
        return "dict", tuple((key, _kind_of(part)) for key, part in tree.items())
    if isinstance(tree, (list, tuple)):
        return type(tree), tuple(map(_kind_of, tree))
    return (tree,) if isinstance(tree, (bool, str)) else None


def compile(
    function: Callable[..., Any] | None = None,
    *,
    argnums: int | Sequence[int] = 0,
    on_branch: OnBranch = "record",
) -> Any:
    """Record a function at its first call, and replay the record at later ones.

    Args:
        function: a function of numbers, arrays, nodes, Modules, and lists, tuples and dicts of
            these, that returns nodes.
        argnums: by which arguments `value_and_grad` differentiates.
        on_branch: what to do where Python's `if` would now go another way: "record" that way too,
            or "raise".

    Returns:
        A `Compiled`. Calling it gives the function's value; it has `value_and_grad` and `backward`.

    Raises:
        TypeError: (when it records) the function reads a number out of a node.

    Example:
        >>> step = compile(lambda x: x * x + 1.0)
        >>> step(3.0), step.value_and_grad(4.0), step.recordings
        (10.0, (17.0, 8.0), 2)
    """
    if function is None:
        return lambda f: Compiled(f, argnums, on_branch)
    return Compiled(function, argnums, on_branch)
