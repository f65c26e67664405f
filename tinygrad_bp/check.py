"""Gradient checking: the sweep against two independent ways of computing a derivative.

Central differences, (f(x + h) - f(x - h)) / 2h, hold for any differentiable function and are right
to about ten digits after one step of Richardson's extrapolation. The complex step,
Im f(x + ih) / h, is right to rounding, but holds only where every operation is analytic (Squire &
Trapp 1998; Martins et al. 2003).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp import arrays
from tinygrad_bp.arguments import at_least_zero, choice, flag, function, out_of_range, several
from tinygrad_bp.evaluation import name_of
from tinygrad_bp.graph import Node, topological_order
from tinygrad_bp.recording import no_grad
from tinygrad_bp.rules import Rule
from tinygrad_bp.scalars import Values
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.value import Value

Input = Value | Tensor | Values


@dataclass(frozen=True)
class GradientReport:
    """What a check found. True in a condition if every entry passed.

    Attributes:
        ok: whether every entry passed.
        method: "central differences" or "complex step".
        entries: how many derivatives were compared.
        worst: which entry differs most from what it should be, relative to what is allowed.
        gradient: the sweep's derivative there.
        expected: the independent one.
        error: the absolute difference.
        allowed: the difference that was allowed at that entry.
    """

    ok: bool
    method: str
    entries: int
    worst: str
    gradient: float
    expected: float
    error: float
    allowed: float

    def __bool__(self) -> bool:
        return bool(self.ok)

    def __str__(self) -> str:
        verdict = "agree" if self.ok else "DISAGREE"
        who = f"{self.entries} derivatives {verdict}"
        if self.entries == 1:
            who = f"1 derivative {verdict}{'s' if self.ok else 'S'}"
        return (
            f"{who} with {self.method}; worst: {self.worst}: "
            f"sweep {self.gradient:.10g}, expected {self.expected:.10g} "
            f"(difference {self.error:.2g}, allowed {self.allowed:.2g})"
        )


def check_gradients(
    f: Callable[..., Any],
    inputs: Sequence[Input] | Input,
    *,
    method: str = "central differences",
    rtol: float | None = None,
    atol: float | None = None,
    raise_on_failure: bool = False,
) -> GradientReport:
    """Compare the gradients of `f(*inputs)` with derivatives computed another way.

    Args:
        f: a function of the inputs that returns one number, as a Value or a Tensor.
        inputs: leaves: Values, Tensors (float64) or arrays of Values. They, and their gradients,
            are left as they were.
        method: "central differences", or "complex step" for functions of analytic operations.
        rtol, atol: allowed is `atol + rtol * |expected|`; 1e-6 and 1e-8 times the size of f for
            differences, 1e-12 and 1e-13 for the complex step.
        raise_on_failure: raise AssertionError with the report instead of returning it.

    Raises:
        TypeError: an input is not a leaf, or f does not return a Value or a Tensor.
        ValueError: f returns several numbers, an input is not float64, the method is unknown, or a
            complex step is asked for through an operation that is not analytic.

    Example:
        >>> x = Value(0.5)
        >>> bool(check_gradients(lambda x: x * x.tanh(), [x]))
        True
    """
    function(f, "f")
    one = isinstance(inputs, (Value, Tensor, Values))
    leaves = [inputs] if one else several(inputs, "inputs", "leaves")
    if not leaves:
        raise out_of_range("inputs", "at least one leaf", inputs)
    _check_leaves(leaves)
    steps = {"central differences": _central, "complex step": _complex_step}
    choice(method, "method", steps)
    flag(raise_on_failure, "raise_on_failure")
    rtol = rtol if rtol is None else at_least_zero(rtol, "rtol")
    atol = atol if atol is None else at_least_zero(atol, "atol")
    exact = method == "complex step"
    gradients, size = _swept(f, leaves)
    rtol = (1e-12 if exact else 1e-6) if rtol is None else rtol
    atol = (1e-13 if exact else 1e-8) * max(1.0, size) if atol is None else atol
    expected = steps[method](f, leaves)
    report = _compare(leaves, gradients, expected, method, rtol, atol)
    if raise_on_failure and not report.ok:
        raise AssertionError(str(report))
    return report


def _check_leaves(leaves: list[Any]) -> None:
    for i, leaf in enumerate(leaves):
        if not isinstance(leaf, (Value, Tensor, Values)) or not leaf.is_leaf:
            raise TypeError(
                f"inputs[{i}]: expected a leaf (a Value, a Tensor or an array of Values that was "
                f"not computed), got {type(leaf).__name__}"
            )
        if isinstance(leaf, Tensor) and leaf.dtype != np.float64:
            raise ValueError(f"inputs[{i}]: differences need float64, got {leaf.dtype}")


def _swept(f: Callable[..., Any], leaves: list[Any]) -> tuple[list[NDArray[Any]], float]:
    """The sweep's gradients, on leaves of our own; and the size of the function's value."""
    mine = [_fresh(leaf) for leaf in leaves]
    result = _one_number(f, mine)
    if result.requires_grad:
        result.backward()
    gradients = [
        np.zeros(np.shape(leaf.data)) if leaf.grad is None else np.array(leaf.grad) for leaf in mine
    ]
    return gradients, abs(result.item())


def _fresh(leaf: Any, data: Any = None) -> Any:
    """A leaf of the same kind, with the same data or with other data."""
    data = np.array(leaf.data) if data is None else data
    if isinstance(leaf, Value):
        return Value(float(data), leaf.label)
    if isinstance(leaf, Tensor):
        return Tensor(data, leaf.label)
    from tinygrad_bp.scalars import values

    return values(data)


def _one_number(f: Callable[..., Any], arguments: list[Any]) -> Any:
    """What the function returns, after a look at it."""
    result = f(*arguments)
    expected = f"f: expected {name_of(f)} to return"
    if not isinstance(result, (Value, Tensor)):
        raise TypeError(f"{expected} a Value or a Tensor, got {type(result).__name__}")
    if isinstance(result, Tensor) and result.size != 1:
        raise ValueError(f"{expected} one number, got shape {result.shape}")
    return result


def _central(f: Callable[..., Any], leaves: list[Any]) -> list[NDArray[Any]]:
    """Central differences at h and h/2, extrapolated: error O(h⁴)."""

    def number(which: int, data: NDArray[Any]) -> float:
        with no_grad():
            arguments = [
                _fresh(leaf, data if i == which else None) for i, leaf in enumerate(leaves)
            ]
            result: float = _one_number(f, arguments).item()
            return result

    def slope(which: int, data: NDArray[Any], index: Any, h: float) -> float:
        up, down = data.copy(), data.copy()
        up[index] += h
        down[index] -= h
        rise = number(which, up) - number(which, down)
        return rise / float(up[index] - down[index])

    expected = []
    for which, leaf in enumerate(leaves):
        data = np.array(leaf.data)
        derivative = np.empty(data.shape)
        for index in np.ndindex(data.shape):
            size = abs(float(data[index]))
            h = max(1e-3 * min(max(size, 1e-2), 1.0), 1e-5 * size)
            wide, narrow = slope(which, data, index, h), slope(which, data, index, h / 2)
            derivative[index] = narrow + (narrow - wide) / 3.0
        expected.append(derivative)
    return expected


def _complex_step(f: Callable[..., Any], leaves: list[Any]) -> list[NDArray[Any]]:
    """The recorded graph, evaluated again with one input moved by a tiny imaginary step."""
    mine = [_fresh(leaf) for leaf in leaves]
    result = _one_number(f, mine)
    order = topological_order(result)
    h = 1e-150
    expected = []
    for leaf in mine:
        nodes: list[Any] = list(leaf.flat) if isinstance(leaf, Values) else [leaf]
        shape = np.shape(leaf.data)
        derivative = np.zeros(shape)
        flat = derivative.reshape(-1)
        sizes = 1 if isinstance(leaf, Values) else flat.size
        for i in range(flat.size):
            node, position = (nodes[i], 0) if isinstance(leaf, Values) else (nodes[0], i)
            step = np.zeros(sizes, complex)
            step[position] = 1j * h
            moved = np.asarray(node.data, complex) + step.reshape(np.shape(node.data))
            flat[i] = _evaluate(order, node, moved).imag.item() / h
        expected.append(derivative)
    return expected


def _evaluate(order: list[Node], moved: Node, data: NDArray[Any]) -> Any:
    """The last node of `order`, computed anew with the complex `data` in the place of one leaf."""
    known: dict[Any, Any] = {moved: data}  # also where a rule claims to have no derivative by it
    for node in order:
        if node is moved:
            continue
        if node.is_leaf:
            known[node] = np.asarray(_data(node), complex)
        else:
            known[node] = _again(node, known)
    return np.asarray(known[order[-1]])


def _data(x: Any) -> Any:
    return x.data if isinstance(x, (Value, Tensor)) else x


def _again(node: Node, known: dict[Any, Any]) -> Any:
    rule = node.rule
    operands = [known[x] if isinstance(x, Node) and x in known else _data(x) for x in node.operands]
    if isinstance(rule, Rule):
        if not rule.analytic:
            raise ValueError(f"complex step: {rule.name} is not analytic; use central differences")
        return rule.value(_Complex, *operands)
    if not rule.analytic:
        raise ValueError(f"complex step: {rule.name} is not analytic; use central differences")
    local = next(d for d in node.locals if d is not None)
    return rule.apply(_Complex, operands, local.parameters, local.options)


class _ComplexType:
    """numpy's functions of complex arrays, and for those it lacks their series in the step."""

    def __getattr__(self, name: str) -> Any:
        return getattr(arrays, name)

    @staticmethod
    def max(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        """Only to shift by, in softmax and its family: of the real parts."""
        return np.max(np.real(x), axis=axis, keepdims=keepdims)

    @staticmethod
    def logaddexp(x: Any, y: Any) -> Any:
        big = np.maximum(np.real(x), np.real(y))
        return big + np.log(np.exp(x - big) + np.exp(y - big))

    @staticmethod
    def erf(x: Any) -> Any:  # to first order in the imaginary part, which is 1e-150
        slope = 2.0 / np.sqrt(np.pi) * np.exp(-(np.real(x) ** 2))
        return arrays.erf(np.real(x)) + 1j * np.imag(x) * slope

    @staticmethod
    def erfc(x: Any) -> Any:
        slope = -2.0 / np.sqrt(np.pi) * np.exp(-(np.real(x) ** 2))
        return arrays.erfc(np.real(x)) + 1j * np.imag(x) * slope


_Complex = _ComplexType()


def _compare(
    leaves: list[Any],
    gradients: list[NDArray[Any]],
    expected: list[NDArray[Any]],
    method: str,
    rtol: float,
    atol: float,
) -> GradientReport:
    worst, worst_ratio, entries, ok = None, -1.0, 0, True
    for i, leaf in enumerate(leaves):
        name = leaf.label if isinstance(leaf, Node) and leaf.label else f"input {i}"
        for index in np.ndindex(expected[i].shape):
            got, want = float(gradients[i][index]), float(expected[i][index])
            allowed = atol + rtol * abs(want)
            error = abs(got - want)
            ratio = 0.0 if error == 0.0 else error / allowed if allowed > 0.0 else np.inf
            ratio = np.inf if error != error else ratio
            entries += 1
            ok = ok and ratio <= 1.0
            if ratio > worst_ratio:
                place = f"{name}[{', '.join(map(str, index))}]" if index else name
                if isinstance(leaf, Values):
                    element: Any = leaf[index]
                    place = element.label or place
                worst, worst_ratio = (place, got, want, error, allowed), ratio
    if worst is None:
        raise ValueError("inputs: expected at least one number, got empty arrays")
    return GradientReport(ok, method, entries, *worst)
