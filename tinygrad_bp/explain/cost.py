"""What the gradient of a function costs: by reverse mode, by forward mode, and by differences.

Reverse mode gives the whole gradient in one sweep; forward mode and differences need an evaluation
or two for each parameter. Operations are counted, and exact; times are measured, and so differ from
run to run. The unit of both is one evaluation of the function, without derivatives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygrad_bp.arguments import flag, function as callable_, is_integer, out_of_range, several
from tinygrad_bp.calculus import grad, jvp
from tinygrad_bp.containers import filled, leaves_of, shaped
from tinygrad_bp.counting import Counts, count_operations
from tinygrad_bp.evaluation import Argnums
from tinygrad_bp.explain.tables import Table
from tinygrad_bp.recording import no_grad
from tinygrad_bp.text import clean

WAYS = ("reverse mode", "forward mode", "central differences")
MEASURED_FOR = 0.05  # seconds, for each time that is measured
BY_DIFFERENCES = 4  # per parameter: forth and back, a difference and a quotient


class Cost(Table):
    """What one gradient of a function costs.

    Attributes:
        parameters: how many numbers the gradient has.
        evaluation: the operations of one evaluation, without derivatives.
        operations: those of the gradient, as integers: by reverse mode, one `grad`; by forward
            mode, a `jvp` per parameter; by central differences, two evaluations per parameter.
        ratios: the same in evaluations, as an array.
        times: measured times in evaluations, as an array; nan where none were measured.
    """

    __slots__ = ("evaluation", "operations", "parameters", "ratios", "times")

    def __init__(
        self, name: str, parameters: int, evaluation: int, operations: Sequence[int], times: Any
    ) -> None:
        self.parameters = parameters
        self.evaluation = evaluation
        self.operations = tuple(operations)
        self.ratios = np.array([n / evaluation if evaluation else np.nan for n in operations])
        self.times = np.full(len(WAYS), np.nan) if times is None else times
        needs = ("1 sweep", f"{parameters:,} × a derivative", f"{2 * parameters:,} evaluations")
        cells = zip(WAYS, needs, operations, self.ratios, self.times, strict=True)
        rows = [("one evaluation", "", evaluation, 1.0, None if times is None else 1.0), *cells]
        columns = ["", "needs", "operations", "in evaluations"]
        notes = ["operations: counted"]
        if times is not None:
            columns.append("time, measured")
            notes.append("times: the best of several, in evaluations; per parameter, one is timed")
        title = f"The gradient of {name} by {parameters:,} parameter{'s' * (parameters != 1)}"
        super().__init__(title, columns, [row[: len(columns)] for row in rows], notes)


class Growth(Table):
    """How the cost of a gradient grows with the number of parameters.

    Attributes:
        costs: for each size, the `Cost`.
        parameters: the numbers of parameters, as an array.
        ratios: the operations in evaluations, of shape (sizes, 3): reverse mode, forward mode,
            differences.
        times: the measured times in evaluations, likewise; nan where none were measured.
        exponents: the p of `ratio ≈ c · parametersᵖ` for the three ways, fitted to the operations:
            about 0 for reverse mode, and 1 for the others.
    """

    __slots__ = ("costs", "exponents", "parameters", "ratios", "times")

    def __init__(self, sizes: Sequence[Any], costs: Sequence[Cost]) -> None:
        self.costs = tuple(costs)
        self.parameters = np.array([cost.parameters for cost in costs])
        self.ratios = np.array([cost.ratios for cost in costs])
        self.times = np.array([cost.times for cost in costs])
        self.exponents = _exponents(self.parameters, self.ratios)
        timed = not np.isnan(self.times).all()
        columns = ["size", "parameters", "operations", *WAYS]
        columns += [f"{way}, time" for way in WAYS] if timed else []
        rows = [
            (str(size), cost.parameters, cost.evaluation, *cost.ratios, *cost.times)[: len(columns)]
            for size, cost in zip(sizes, costs, strict=True)
        ]
        notes = ["operations of one evaluation, and of the gradient in evaluations: counted"]
        if timed:
            notes.append("times in evaluations: measured")
        if not np.isnan(self.exponents).any():
            powers = zip(WAYS, self.exponents, strict=True)
            grows = ", ".join(f"{way} n^{power:.2f}" for way, power in powers)
            notes.append(f"with the number n of parameters, in evaluations: {grows}")
        super().__init__("What a gradient costs", columns, rows, notes)


def cost(
    function: Callable[..., Any], *inputs: Any, argnums: Argnums = 0, times: bool = True
) -> Cost:
    """What the gradient of a function costs, by reverse mode, forward mode and differences.

    By reverse mode it is a small multiple of an evaluation, whatever the number of parameters
    (Baur & Strassen 1983; Griewank & Walther 2008, "Evaluating Derivatives", section 4.6).

    Args:
        function: returns a single number, as a Value or a Tensor.
        inputs: its arguments, as for `grad`: numbers, arrays, Modules, containers of these.
        argnums: by which of them to differentiate: a position, or several.
        times: whether to measure times too. Operations are counted in any case.

    Raises:
        TypeError, ValueError: as `grad` does; there are no inputs.
    """
    if not inputs:
        raise ValueError("inputs: expected the arguments to differentiate by, got none")
    callable_(function, "function")
    flag(times, "times")
    ways = _Ways(function, inputs, argnums)
    evaluation, sweep, direction = (_operations(run) for run in ways.runs())
    n = ways.parameters
    operations = [sweep, n * direction, n * (2 * evaluation + BY_DIFFERENCES)]
    measured = None
    if times:
        once, reverse, forward = (_seconds(run) for run in ways.runs())
        measured = np.array([reverse / once, n * forward / once, 2.0 * n])
    name = getattr(function, "__name__", type(function).__name__)
    name = "the function" if name == "<lambda>" else clean(name)
    return Cost(name, n, evaluation, operations, measured)


def growth(
    make: Callable[[Any], tuple[Any, ...]],
    sizes: Iterable[Any],
    *,
    argnums: Argnums = 0,
    times: bool = False,
) -> Growth:
    """What the gradient costs for functions of growing size.

    Args:
        make: for a size, the function and its inputs: `make(width) -> (function, *inputs)`.
        sizes: what to call it with.
        argnums, times: see `cost`.

    Raises:
        TypeError: make returned something else; or see `cost`.
        ValueError: there are no sizes.

    Example:
        >>> def cubes(n):
        ...     return lambda x: tb.sum(x * x * x), np.ones(n)
        >>> growth(cubes, [10, 100]).ratios[:, 0].round(2)
        array([3.07, 3.01])
    """
    sizes = several(sizes, "sizes", "sizes")
    if not sizes:
        raise ValueError("sizes: expected at least one, got none")
    callable_(make, "make")
    flag(times, "times")
    costs = []
    for size in sizes:
        made = make(size)
        if not isinstance(made, tuple) or len(made) < 2 or not callable(made[0]):
            raise TypeError(
                f"make: expected (function, input, ...) of size {size!r}, got {type(made).__name__}"
            )
        costs.append(cost(*made, argnums=argnums, times=times))
    return Growth(sizes, costs)


class _Runs(NamedTuple):
    """What is counted and timed."""

    evaluation: Callable[[], Any]
    sweep: Callable[[], Any]
    direction: Callable[[], Any]


class _Ways:
    """A function at its inputs: evaluated, and differentiated in each way."""

    def __init__(
        self, function: Callable[..., Any], inputs: tuple[Any, ...], argnums: Argnums
    ) -> None:
        self.function, self.inputs, self.argnums = function, inputs, argnums
        self.places = [_position(i, len(inputs)) for i in _several(argnums)]
        self.moving = tuple(inputs[i] for i in self.places)
        self.leaves = [leaf for _, leaf in leaves_of(self.moving, "inputs")]
        self.parameters = sum(int(np.size(leaf.data)) for leaf in self.leaves)

    def runs(self) -> _Runs:
        return _Runs(self._evaluation, self._sweep, self._direction)

    def _of_moving(self, *moving: Any) -> Any:
        """The function of the inputs that it is differentiated by."""
        arguments = list(self.inputs)
        for i, x in zip(self.places, moving, strict=True):
            arguments[i] = x
        return self.function(*arguments)

    def _evaluation(self) -> Any:
        with no_grad():
            return self._of_moving(*filled(self.moving, iter(self.leaves)))

    def _sweep(self) -> Any:
        return grad(self.function, self.argnums)(*self.inputs)

    def _direction(self) -> Any:
        ones = iter([np.ones(np.shape(leaf.data)) for leaf in self.leaves])
        tangents = shaped(self.moving, (x if x.ndim else 1.0 for x in ones))
        return jvp(self._of_moving, self.moving, tangents)


def _several(argnums: Any) -> list[Any]:
    if is_integer(argnums):
        return [argnums]
    positions = several(argnums, "argnums", "positions")
    if not positions:
        raise out_of_range("argnums", "at least one position", argnums)
    return positions


def _position(i: Any, count: int) -> int:
    if not is_integer(i) or not -count <= i < count:
        raise out_of_range("argnums", f"positions of {count} inputs", i)
    return int(i) % count


def _operations(run: Callable[[], Any]) -> int:
    counts: Counts
    with count_operations() as counts:
        run()
    return counts.total


def _seconds(run: Callable[[], Any]) -> float:
    """The best of several times; the first run is not timed."""
    run()
    best, end = float("inf"), time.perf_counter() + MEASURED_FOR
    while True:
        start = time.perf_counter()
        run()
        stop = time.perf_counter()
        best = min(best, stop - start)
        if stop > end:
            return max(best, 1e-9)


def _exponents(parameters: Any, ratios: Any) -> Any:
    """The slopes of the ratios over the number of parameters, both in logarithms."""
    usable = (parameters > 0) & np.isfinite(ratios).all(axis=1) & (ratios > 0).all(axis=1)
    if len(set(parameters[usable])) < 2:
        return np.full(len(WAYS), np.nan)
    slopes, _ = np.polyfit(np.log(parameters[usable]), np.log(ratios[usable]), 1)
    return slopes
