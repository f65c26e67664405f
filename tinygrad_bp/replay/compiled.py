"""`compile`: a function that is recorded at its first call, and replayed at later ones."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal

from tinygrad_bp.recording import current_state, observers_of
from tinygrad_bp.replay.arguments import KEPT, Parameters, put, take_apart
from tinygrad_bp.replay.program import Program
from tinygrad_bp.replay.recorded import Engine, Mode, Recording
from tinygrad_bp.replay.tracing import Recorder
from tinygrad_bp.tensor import as_array

OnBranch = Literal["record", "raise"]


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
            Values; "jax" (extra `jax`), for accelerators: it compiles for about a second, in which
            it looks at one step of a loop, such as an unrolled network, however long that is.

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
        self._kept: OrderedDict[Any, list[Recording]] = OrderedDict()
        self._modules: dict[int, Parameters] = {}
        self._lock = threading.Lock()

    def __call__(self, *args: Any) -> Any:
        """What the function returns, as numbers and arrays."""
        recording, results, _ = self._run("value", args)
        return put(recording.template, results)

    def value_and_grad(self, *args: Any) -> tuple[Any, Any]:
        """The value, and its gradient by the arguments `argnums` in their structure.

        Where the function returns a tuple, the gradient is that of its first part.
        """
        recording, results, gradients = self._run("value_and_grad", args)
        return put(recording.template, results), put(recording.gradient_template, gradients)

    def backward(self, *args: Any) -> Any:
        """The value; the gradient is added to the `grad` of every leaf that takes part.

        These are the leaves among the arguments, the parameters of Modules there, and those that
        the function reaches by itself.
        """
        recording, results, gradients = self._run("backward", args)
        recording.commit(gradients, args)
        return put(recording.template, results)

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
        recording: Recording = self._run(mode, args)[0]
        return recording.program

    def _run(self, mode: Mode, args: tuple[Any, ...]) -> tuple[Any, list[Any], list[Any]]:
        """The record that holds for these arguments, its results, and its gradients."""
        leaves: list[Any] = []
        parts: list[Any] = [mode]
        for arg in args:
            take_apart(arg, leaves, parts, mode == "backward", self._modules)
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
            recording = Recording(self.f, self.argnums, mode, args, self.optimize, self.engine)
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
