"""Counting operations: what a function costs, and what its derivatives cost.

The cost of a gradient by reverse mode is a small multiple of that of the function, whatever the
number of its parameters; by forward mode, or by differences, it grows with that number (Griewank &
Walther 2008, "Evaluating Derivatives", chapter 4). Times show it only roughly. So every rule is run
a second time beside the program, on arrays that count what is done to them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp import array_rules, arrays
from tinygrad_bp.array_rules import explicit
from tinygrad_bp.graph import Node, Step
from tinygrad_bp.recording import Observer, _Block
from tinygrad_bp.rules import Rule
from tinygrad_bp.value import Value


class Counts:
    """How many operations were done on single numbers.

    Attributes:
        multiplications: multiplications and divisions.
        additions: additions, subtractions and changes of sign.
        calls: of elementary functions, by name.

    Comparisons, choices between numbers, and moving them about are not counted.
    """

    def __init__(self) -> None:
        self.multiplications = 0
        self.additions = 0
        self.calls: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """All of them together."""
        return self.multiplications + self.additions + self.calls.total()

    def __repr__(self) -> str:
        calls = "".join(f", {name} {n:,}" for name, n in sorted(self.calls.items()))
        return (
            f"Counts(total {self.total:,}: multiplications {self.multiplications:,}, "
            f"additions {self.additions:,}{calls})"
        )


class count_operations(_Block, Observer):
    """Within this block, count the operations of `Value`s and `Tensor`s, forward and backward.

    What runs in the block is counted: a forward pass; the local derivatives of `Value`s, which they
    compute with it (not under `no_grad()`); a backward sweep; `jvp`, `grad` and all the others.
    A product with a local derivative that is always 1 is not done, and not counted.

    Returns:
        `with count_operations() as counts` gives the `Counts`, which grow as operations run.

    Example:
        >>> with count_operations() as counts:
        ...     y = Value(3.0, requires_grad=False) * 2.0 + 1.0
        >>> counts
        Counts(total 2: multiplications 1, additions 1)
    """

    def __init__(self) -> None:
        self.counts = Counts()
        self._m = _Counting(self.counts)

    def _observers(self, outer: tuple[Observer, ...]) -> tuple[Observer, ...]:
        return (*outer, self)

    def _entered(self) -> Counts:
        return self.counts

    def operation(
        self,
        rule: Any,
        operands: Sequence[Any],
        data: Sequence[Any],
        result: Any,
        parameters: tuple[Any, ...],
        options: dict[str, Any],
    ) -> None:
        """Run the rule's value on numbers that count."""
        counted = [self._counted(x) for x in data]
        with np.errstate(all="ignore"):
            if isinstance(rule, Rule):
                rule.value(self._m, *counted)
            else:
                rule.apply(self._m, counted, parameters, options)

    def recorded(self, node: Any) -> None:
        """Count the partial derivatives that a Value computes when it is made."""
        if isinstance(node, Value):
            numbers = [x.data if isinstance(x, Value) else x for x in node.operands]
            counted = [self._counted(x) for x in (*numbers, node.data)]
            for partial, local in zip(node.rule.partials, node.locals, strict=True):
                if local is not None and callable(partial):
                    with np.errstate(all="ignore"):
                        partial(self._m, *counted)

    def swept(self, step: Step, reached: set[Any]) -> None:
        """Count a visit of the sweep: local derivatives, products with them, and sums."""
        node, gradient, edges = step
        if isinstance(gradient, Node):
            return  # operations like any other, which were counted when they ran
        now: set[Any] = set()
        for parent, local, contribution in edges:
            if parent in reached or parent in now:
                self.counts.additions += int(np.size(contribution))
            now.add(parent)
            self._product(node, local, self._counted(gradient))

    def _product(self, node: Any, local: Any, g: Any) -> None:
        if isinstance(local, float):
            partials = zip(node.rule.partials, node.locals, strict=True)
            if not any(one is local and partial == 1.0 for partial, one in partials):
                self.counts.multiplications += 1
            return
        operands = [self._counted(x) for x in local._operands]
        result = self._counted(local._result)
        with np.errstate(all="ignore"):
            if isinstance(local.rule, Rule):
                partial = local.rule.partials[local.index]
                if callable(partial):
                    g = self._m.azmul(g, partial(self._m, *operands, result))
                elif partial != 1.0:
                    g = g * partial
            else:
                g = local.rule.pull(
                    self._m, local.index, g, result, operands, local.parameters, local.options
                )
            array_rules.sum_to(self._m, g, np.shape(local._operands[local.index]))

    def _counted(self, x: Any) -> Any:
        return _wrapped(x, self.counts)


class _Counted(np.ndarray[Any, Any]):
    """An array that counts what operators do to it."""

    counts: Counts

    def __array_finalize__(self, origin: Any) -> None:
        if isinstance(origin, _Counted):
            self.counts = origin.counts

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        plain = [_plain(x) for x in inputs]
        if options.get("out") is not None:
            options["out"] = tuple(map(_plain, options["out"]))
        result = getattr(ufunc, method)(*plain, **options)
        reduction = _REDUCTIONS.get(ufunc) if method == "reduce" else None
        _Counting(self.counts)._count(reduction or ufunc.__name__, plain, result)
        return _wrapped(result, self.counts)


_REDUCTIONS: dict[Any, str] = {np.add: "sum", np.multiply: "prod"}


def _wrapped(x: Any, counts: Counts) -> Any:
    array = np.asarray(_plain(x)).view(_Counted)
    array.counts = counts
    return array


def _plain(x: Any) -> Any:
    if type(x) in (list, tuple):  # operands, or an index
        return type(x)(map(_plain, x))
    return x.view(np.ndarray) if isinstance(x, _Counted) else x


class _Counting:
    """The namespace of arrays, where every function counts what it does."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(arrays, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            plain = [_plain(a) for a in arguments]
            result = function(*plain, **options)
            self._count(name, plain, result, options.get("axis", (*plain, None, None)[1]))
            return _wrapped(result, self.counts)

        return counted

    def _count(self, name: str, arguments: Sequence[Any], result: Any, axis: Any = None) -> None:
        counts, size = self.counts, int(np.size(result))
        if name in _ELEMENTARY:
            counts.calls[name] += size
        elif name in ("add", "subtract", "negative"):
            counts.additions += size
        elif name in ("multiply", "divide", "square", "reciprocal", "azmul"):
            counts.multiplications += size
        elif name == "matmul":
            length = arguments[0].shape[-1]
            counts.multiplications += size * length
            counts.additions += size * max(length - 1, 0)
        elif name == "einsum":
            products, sums = _of_einsum(*arguments)
            counts.multiplications += products
            counts.additions += sums
        elif name == "sum":
            counts.additions += max(int(np.size(arguments[0])) - size, 0)
        elif name == "cumsum":
            along = np.shape(result)[0 if axis is None else axis]
            counts.additions += size - size // along if along else 0
        elif name == "prod":
            counts.multiplications += max(int(np.size(arguments[0])) - size, 0)
        elif name == "scatter" and not _is_basic(arguments[1]):
            counts.additions += int(np.size(arguments[0]))


_ELEMENTARY = {
    *("exp", "expm1", "log", "log1p", "logaddexp", "sqrt", "power", "hypot", "erf", "erfc"),
    *("sin", "cos", "tan", "arcsin", "arccos", "arctan", "arctan2", "sinh", "cosh", "tanh"),
}


def _of_einsum(subscripts: str, *operands: NDArray[Any]) -> tuple[int, int]:
    """The products and sums of a contraction, done without reordering."""
    inputs, output = explicit(subscripts, [x.ndim for x in operands])
    lengths: dict[str, int] = {}
    for letters, x in zip(inputs, operands, strict=True):
        for letter, length in zip(letters, x.shape, strict=True):
            lengths[letter] = max(length, lengths.get(letter, 1))
    terms = math.prod(lengths.values())
    return terms * (len(operands) - 1), terms - math.prod(lengths[c] for c in output)


def _is_basic(index: Any) -> bool:
    """Whether an index takes no element twice: integers and slices."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is ... or isinstance(part, (int, slice)) for part in parts)
