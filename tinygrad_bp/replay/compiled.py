"""`compile`: a function that is recorded at its first call, and replayed at later ones."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from tinygrad_bp.arguments import choice, count, flag, integer, out_of_range, several, wrong_kind
from tinygrad_bp.inputs import as_array
from tinygrad_bp.interrupts import undone
from tinygrad_bp.recording import current_state, observers_of
from tinygrad_bp.replay.arguments import KEPT, Given, Parameters, put, put_rows
from tinygrad_bp.replay.drawing import Hidden, holding, restore, same, states
from tinygrad_bp.replay.program import Program
from tinygrad_bp.replay.recorded import Engine, Gradient, Mode, Recording
from tinygrad_bp.replay.recorder import Recorder
from tinygrad_bp.replay.surroundings import Surroundings

OnBranch = Literal["record", "raise"]
Outcome = tuple[Recording, list[Any], list[Any]]  # the record, its results, its gradients


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
    function reaches by itself, such as a model's parameters.

    Whatever else it reaches is a constant of the record, and looked at before each call: numbers,
    strings, functions, numpy arrays of up to 64 KiB, containers of up to 1000 of these, attributes
    of Modules, in its cells, defaults and globals, and those of functions, objects and classes of
    the same package (all files that are not installed are one). If they have changed, the function
    is recorded anew. A larger array is refused where it is used: pass it as an argument. What else
    Python can read (files, the time, caches, objects of other packages) is not looked at.

    Random numbers are drawn at each call, from a `numpy.random.Generator` among the arguments or in
    a Module there, as the function would draw them. From one that is no argument they are refused.

    Several threads may call it, and run at the same time, each in buffers of its own.

    Args:
        function: a function of numbers, arrays, nodes, Modules, generators, and lists, tuples and
            dicts of these, that returns nodes. Arrays of integers are indices; bool, str and None
            are part of what is recorded.
        argnums: by which arguments `value_and_grad` differentiates.
        on_branch: what to do where Python's `if` would now go another way: "record" that way too,
            or "raise".
        optimize: whether terms may be added in another order, by which results differ in rounding:
            the products of an unrolled network are gathered into few large ones, and short sums are
            products with ones. Without it, a program of arrays gives every bit that the function
            itself gives (but for sums over constants that were flipped or transposed, whose last
            bits may differ).
        engine: what runs the record. "numpy"; "numba" (extra `jit`), machine code, for functions of
            Values; "jax" (extra `jax`), for accelerators: it compiles for about a second, in which
            it looks at one step of a loop, such as an unrolled network, however long that is.

    Returns:
        A `Compiled`. Calling it gives the function's value; it has `value_and_grad` and `backward`.

    Raises:
        TypeError: (when it records) the function reads a number out of a node, or draws from a
            generator that is no argument.
        ValueError: on_branch or engine is unknown; or (when it records) the function uses what was
            computed outside of it, or a large array from there.
        ImportError: (when it records) the engine's package is not installed.

    Example:
        >>> step = compile(lambda x: x * x + 1.0)
        >>> step(3.0), step.value_and_grad(4.0), step.value_and_grad(5.0)
        (10.0, (17.0, 8.0), (26.0, 10.0))
    """
    choice(on_branch, "on_branch", ("record", "raise"))
    choice(engine, "engine", ("numpy", "numba", "jax"))
    flag(optimize, "optimize")
    if function is None:
        return functools.partial(
            compile, argnums=argnums, on_branch=on_branch, optimize=optimize, engine=engine
        )
    if not callable(function):
        raise wrong_kind("function", "something to call", function)
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
        self._around: Surroundings | None = None
        self._kept: OrderedDict[Any, tuple[Recording, ...]] = OrderedDict()
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
        gradient: Gradient | None = None,
        threads: int = 1,
    ) -> Any:
        """The function of single numbers at many rows of data, from the record of one.

        Rows that take another way through the function's branches are run by a record of that way.
        Of random numbers, every row draws its own, as in calls one after the other.

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
            RuntimeError: a row takes another branch than the first, and on_branch is "raise", or
                random numbers are drawn: which are another row's hangs on the branches before.
        """
        choice(gradient, "gradient", ("rows", "sum", None))
        count(threads, "threads")
        given, rows = rows, several(rows, "rows", "positions of arguments")
        if not rows:
            raise out_of_range("rows", "the position of at least one argument", given)
        rows = [integer(i, "rows") for i in rows]
        if not all(-len(args) <= i < len(args) for i in rows):
            raise ValueError(f"rows: expected positions among {len(args)} arguments, got {rows}")
        data = {i % len(args): as_array(args[i], f"argument {i}") for i in rows}
        counts = {len(x) if x.ndim else 0 for x in data.values()}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(f"rows: expected arguments of equally many rows, got {sorted(counts)}")
        return self._batch(args, data, counts.pop(), gradient, threads)

    def program(self, *args: Any, gradient: bool = False) -> Program:
        """The program that such arguments lead to: of the value, or of value and gradient.

        Generators among them are left as they are.
        """
        mode: Mode = "value_and_grad" if flag(gradient, "gradient") else "value"
        return self._recording(mode, args).program

    # --- choosing a recording -------------------------------------------------------------------

    def _run(self, mode: Mode, args: tuple[Any, ...]) -> Outcome:
        """The record that holds for these arguments, its results, and its gradients."""
        given = self._given(mode, args)
        if not given.generators:
            return self._replay(mode, args, given)
        return holding(given.generators, lambda: self._replay(mode, args, given))

    def _recording(self, mode: Mode, args: tuple[Any, ...]) -> Recording:
        """The record that holds for these arguments; generators are left as they are."""
        given = self._given(mode, args)

        def found() -> Recording:
            before = states(given.generators)
            return undone(
                lambda: self._replay(mode, args, given)[0],
                lambda: restore(given.generators, before),
            )

        return holding(given.generators, found)

    def _given(self, mode: Mode, args: tuple[Any, ...]) -> Given:
        """The arguments taken apart, and what else a record depends on."""
        given = Given(mode == "backward", self._modules)
        around = self._around
        if around is None or not around.hold():
            around = self._around = Surroundings(self.f, captured=True)
        given.key += (mode, around.settings)
        for arg in args:
            given.take(arg)
        observers = observers_of(current_state())
        if observers and any(isinstance(observer, Recorder) for observer in observers):
            raise TypeError(
                f"{self.name}: a compiled function cannot be called in another; call its .f there"
            )
        return given

    def _replay(self, mode: Mode, args: tuple[Any, ...], given: Given) -> Outcome:
        before: Sequence[Any]
        key = tuple(given.key)
        before = states(given.generators) if given.generators else ()
        recordings = self._kept.get(key, ())
        outcome = _outcome_of(recordings, given, before)
        if outcome is not None:
            return outcome
        with self._lock:
            of_others = [r for r in self._kept.get(key, ()) if r not in recordings]
            outcome = _outcome_of(of_others, given, before)  # recorded in the meantime
            if outcome is not None:
                return outcome
            recordings = self._kept.get(key, ())
            if recordings and self.on_branch == "raise":
                reason = recordings[-1].diverged(given)
                restore(given.generators, before)
                raise RuntimeError(f"{self.name}: {reason}")
            recording = self._record(mode, args, given)
            after = states(given.generators)
            restore(given.generators, before)
            results = recording.run(given)
            if results is None or not same(after, states(given.generators)):
                raise RuntimeError(
                    f"{self.name}: replayed on the data of its recording, a branch came out "
                    "otherwise, or random numbers were drawn otherwise; does the function depend "
                    "on something that changes?"
                )
            self.recordings += 1
            self._kept[key] = (*recordings[1 - KEPT :], recording)
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return recording, *results

    def _record(self, mode: Mode, args: tuple[Any, ...], given: Given) -> Recording:
        """Record, and refuse random numbers that a replay would not draw."""
        around: Any = self._around
        mine = {id(g) for g in given.generators}
        others = [g for g in around.generators if id(g) not in mine]
        hidden = Hidden(others, any(x.names_random for x in (around, *given.known.values())))
        recording = Recording(
            *(self.f, self.argnums, mode, args, self.optimize, self.engine),
            given.generators,
            around.large,
        )
        if hidden.moved():
            raise TypeError(
                f"{self.name}: draws random numbers from a generator that is not an argument: they "
                "would be those of this run; pass the numpy Generator as an argument"
            )
        recording.prepare()
        return recording

    # --- batches --------------------------------------------------------------------------------

    def _batch(
        self,
        args: tuple[Any, ...],
        data: dict[int, Any],
        count: int,
        gradient: Gradient | None,
        threads: int,
    ) -> Any:
        """Rows by the way that they take: those that the record of the first left are next."""
        mode: Mode = "value" if gradient is None else "value_and_grad"
        values, parts = np.empty(count), None
        rest = np.arange(count)
        while len(rest):
            here = {i: x[rest] for i, x in data.items()}
            example = tuple(here[i][0] if i in here else arg for i, arg in enumerate(args))
            recording = self._recording(mode, example)
            generators = self._given(mode, example).generators
            before = states(generators)
            columns = recording.columns(args, here, len(rest), generators)
            stay, results, gradients = recording.batch(columns, gradient, threads)
            if not stay.all():
                self._check_parting(recording, stay, generators, before)
            values[rest[stay]] = results
            if gradient == "sum":
                parts = gradients if parts is None else parts + gradients
            elif gradient == "rows":
                parts = np.empty((count, gradients.shape[1])) if parts is None else parts
                parts[rest[stay]] = gradients
            rest = rest[~stay]
        return (
            values if gradient is None else (values, put_rows(recording.gradient_template, parts))
        )

    def _check_parting(self, recording: Recording, stay: Any, generators: Any, before: Any) -> None:
        """Raise if rows that take another way cannot be run by their own record."""
        if self.on_branch == "record" and stay[0] and not recording.program.draws:
            return
        restore(generators, before)
        other = np.flatnonzero(~stay)
        lines = "".join(dict.fromkeys(guard.line for guard in recording.program.guards))
        why = ", and they draw random numbers" if recording.program.draws else ""
        raise RuntimeError(
            f"batch: {len(other)} rows, the first of them {other[0]}, take another branch than "
            f"row 0{why}{lines}; use where(), or call them apart"
        )


def _outcome_of(
    recordings: Sequence[Recording], given: Given, before: Sequence[Any]
) -> Outcome | None:
    """The first record that holds for these arguments, its results and gradients; or None."""
    for recording in recordings:
        try:
            outcome = recording.run(given)
        except Exception:  # on another way through the code it may not arise
            outcome = None
        if outcome is not None:
            return recording, *outcome
        restore(given.generators, before)
    return None
