"""Whether a program that was read is one: that it could run, and gives what it says.

Shapes and types are checked by inference: every rule is applied to arrays that have a shape and a
dtype, but one number in memory (`_Ghost`), in a namespace of functions that compute shapes
(`_Shapes`). So the time it takes does not depend on how large the arrays would be.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from tinygrad_bp import arrays
from tinygrad_bp.array_rules import ArrayRule
from tinygrad_bp.replay.program import (
    CONSTANT,
    DRAWS,
    INPUT,
    Placeholder,
    Program,
    filled_in,
    placeholders,
)
from tinygrad_bp.replay.scopes import scopes_problem
from tinygrad_bp.rules import RULES, Rule

LARGEST = 2**40  # elements of one array


def wrong(what: str) -> NoReturn:
    """Say what is wrong with a program."""
    raise ValueError(what)


def check_program(program: Program) -> None:
    """Raise a ValueError if the program could not run, or would not give what it says."""
    codes, rules, count = program.codes, program.rules, len(program.codes)
    if program.kind not in ("scalar", "array"):
        wrong(f"kind: expected 'scalar' or 'array', got {program.kind!r}")
    if codes.shape != (count,) or program.operands.shape != (count, 3):
        wrong("codes and operands do not have the same number of instructions")
    if len(rules) < 2 or rules[:2] != [INPUT, CONSTANT] or len(rules) > 2**16:
        wrong("the first two operations must be input and constant")
    if count and int(codes.max()) >= len(rules):
        wrong(f"there are {len(rules)} operations, but not number {int(codes.max())}")
    if sorted(program.inputs) != np.flatnonzero(codes == 0).tolist():
        wrong("inputs: expected each instruction of this kind once")
    if sorted(program.constants) != np.flatnonzero(codes == 1).tolist():
        wrong("constants: expected each instruction of this kind once")
    for what, numbers in (
        ("outputs", program.outputs),
        ("guards", [guard.condition for guard in program.guards]),
    ):
        if not all(0 <= k < count for k in numbers):
            wrong(f"{what}: there are only {count} instructions")
    if not program.outputs:
        wrong("outputs: expected at least one")
    _check_operands(program)
    if problem := scopes_problem(program.scopes, count):
        wrong(problem)
    _check_draws(program)
    many = [count, count] if program.kind == "array" else [0, 0]
    if [len(program.shapes), len(program.dtypes)] != many:
        wrong("shapes and dtypes: expected one for each instruction on arrays")
    if program.kind == "scalar":
        for i, x in program.constants.items():
            if not isinstance(x, (bool, int, float, np.generic)):
                wrong(f"constant {i} is not a number")
    else:
        _check_shapes(program)


def _check_operands(program: Program) -> None:
    """Every instruction has the operands of its operation, which come before it."""
    codes, rules, count = program.codes, program.rules, len(program.codes)
    arity = [0, 0]
    for rule in rules[2:]:
        if isinstance(rule, ArrayRule) and program.kind == "scalar":
            wrong(f"{rule.name} is no operation on single numbers")
        arity.append(rule.arity if isinstance(rule, Rule) and rule.arity <= 3 else -1)
    expected = np.array(arity)[codes]
    described = np.flatnonzero(expected < 0).tolist()
    if sorted(program.details) != described:
        wrong("details: expected one for each instruction with arguments")
    own = np.arange(count)
    for k in range(3):
        column, used = program.operands[:, k], (expected > k)
        unused = (expected <= k) & (expected >= 0)
        if ((column < 0) | (column >= own))[used].any() or (column != -1)[unused].any():
            wrong("operands: expected earlier instructions, as many as the operation takes")
    rows = program.operands[described].tolist()
    for i, row in zip(described, rows, strict=True):
        detail, rule = program.details[i], rules[codes[i]]
        if not all(0 <= k < i for k in detail.operands):
            wrong(f"instruction {i}: expected operands that come before it")
        further = placeholders(detail.parameters)
        direct = detail.operands[: max(0, len(detail.operands) - further)]
        if isinstance(rule, Rule):
            fits = len(direct) == rule.arity and not (detail.parameters or detail.options)
        elif rule.takes_sequence:
            fits = len(direct) >= 1
        else:
            fits = len(direct) == len(rule.pullbacks)
        if not fits:
            wrong(f"instruction {i}: {rule.name} does not take {len(direct)} operands")
        if row not in (_row(direct), _row(detail.operands)):
            wrong(f"instruction {i}: its operands contradict each other")
        positions = sorted(_positions(detail.parameters))
        if positions != list(range(len(direct), len(detail.operands))):
            wrong(f"instruction {i}: the operands in its arguments are not those it has")
        if any(True for x in detail.options.values() for _ in _positions(x)):
            wrong(f"instruction {i}: an operand stands in the options")


def _check_draws(program: Program) -> None:
    """Every draw is of a method that draws, and there are inputs for what it gives."""
    for draw in program.draws:
        if draw.method not in DRAWS:
            wrong(f"draws: {draw.method[:40]!r} draws no random numbers")
        if not 0 <= draw.generator < len(program.draws):
            wrong(f"draws: there is no generator {draw.generator}")
        if draw.count < 0 or (program.kind == "array" and draw.count != 1):
            wrong(f"draws: {draw.method} cannot give {draw.count} inputs")
        given = (*draw.parameters, *draw.options.values())
        if "out" in draw.options or any(True for _ in _positions(given)):
            wrong(f"draws: {draw.method} does not take this")
    if sum(draw.count for draw in program.draws) > len(program.inputs):
        wrong("draws: they give more numbers than there are inputs")


def _row(operands: Sequence[int]) -> list[int]:
    return [*operands, -1, -1, -1][:3] if len(operands) <= 3 else [-1, -1, -1]


def _positions(parameters: Any) -> Iterable[int]:
    if isinstance(parameters, Placeholder):
        yield parameters.position
    elif isinstance(parameters, (list, tuple)):
        for part in parameters:
            yield from _positions(part)


def checked_shape(shape: Sequence[int]) -> None:
    """Raise a ValueError if no array could have this shape, or none of a size to be read."""
    if len(shape) > 32 or any(n < 0 for n in shape) or math.prod(shape) > LARGEST:
        wrong(f"an array cannot have the shape {str(tuple(shape))[:80]}")


def _check_shapes(program: Program) -> None:
    """Every instruction gives the shape and dtype that the program says it has."""
    for shape in set(program.shapes):
        checked_shape(shape)
    values: list[Any] = []
    for i, code in enumerate(program.codes.tolist()):
        rule, shape, dtype = program.rules[code], program.shapes[i], np.dtype(program.dtypes[i])
        if code == 0:
            result: Any = _ghost(shape, dtype)
        elif code == 1:
            result = program.constants[i]
            if not isinstance(result, (bool, float, np.generic, np.ndarray)):
                wrong(f"constant {i} is no number, and no array")
        else:
            try:
                result = _inferred(program, i, rule, values)
            except Exception as error:  # whatever a rule does with arguments that do not fit
                wrong(f"instruction {i}, {rule.name}: {error or type(error).__name__}")
        kind = np.shape(result), np.asarray(result).dtype
        if kind != (shape, dtype):
            name = rule if isinstance(rule, str) else rule.name
            wrong(f"instruction {i}, {name}: it has shape and dtype {kind}, not {(shape, dtype)}")
        values.append(_ghost(shape, dtype) if np.ndim(result) else result)


def _inferred(program: Program, i: int, rule: Any, values: list[Any]) -> Any:
    operands = [values[k] for k in program.operands_of(i)]
    if isinstance(rule, Rule):
        return _pointwise(lambda *tiny: rule.value(arrays, *tiny), *operands)
    detail = program.details[i]
    operands = [x if isinstance(x, np.ndarray) else np.asarray(x) for x in operands]
    given = filled_in(detail.parameters, operands)
    direct = operands[: len(operands) - placeholders(detail.parameters)]
    return rule.apply(_Shapes, direct, given, detail.options)


# --- shapes without numbers ---------------------------------------------------------------------


class _Ghost(np.ndarray[Any, Any]):
    """An array of which only shape and dtype count: every element is the same zero in memory."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or ufunc.signature or options:
            return NotImplemented
        return _pointwise(ufunc, *inputs)

    def __getitem__(self, index: Any) -> Any:
        return _Shapes.getitem(self, index)

    def one_hot(self, classes: int, dtype: Any = None) -> Any:
        """Rows with a one: see `array_rules.one_hot`."""
        if self.dtype.kind not in "iu":
            wrong("the indices are not integers")
        return _ghost((*self.shape, classes), np.dtype(dtype or np.float64))


def _ghost(shape: Sequence[int], dtype: Any) -> Any:
    checked_shape(shape)
    return np.broadcast_to(np.zeros((), dtype), shape).view(_Ghost)


@np.errstate(all="ignore")
def _pointwise(f: Callable[..., Any], *operands: Any) -> Any:
    """What a function of single elements gives: it is called on one of each operand."""
    shape = np.broadcast_shapes(*map(np.shape, operands))
    tiny = [np.ones(1, x.dtype) if isinstance(x, np.ndarray) else x for x in operands]
    result = np.asarray(f(*tiny))
    if result.size != 1:
        wrong("an elementwise operation gave more than one number per element")
    return _ghost(shape, result.dtype)


def _plain(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, _Ghost) else np.asarray(x)


def _as_index(x: Any) -> Any:
    """A list as numpy understands it in an index."""
    if not isinstance(x, list):
        return x
    array = np.asarray(x)
    return array if array.size else array.astype(np.intp)


def _check_positions(index: Any, length: int) -> None:
    if index.dtype.kind not in "iu":
        wrong(f"an index of {index.dtype}")
    if isinstance(index, _Ghost) or not index.size:
        return
    if int(index.min()) < -length or int(index.max()) >= length:
        wrong(f"an index outside of an axis of length {length}")


def _shape_at(shape: tuple[int, ...], index: Any) -> tuple[int, ...]:
    """The shape of x[index], after numpy's rules: the axes of index arrays come where the first
    stands, or, if slices stand between them, in front.
    """  # fmt: skip
    parts = [_as_index(part) for part in (index if isinstance(index, tuple) else (index,))]
    parts = [np.asarray(p) if isinstance(p, (bool, np.bool_)) else p for p in parts]
    taken = 0
    for part in parts:
        mask = isinstance(part, np.ndarray) and part.dtype.kind == "b"
        taken += part.ndim if mask else part is not None and part is not ...
    dots = sum(part is ... for part in parts)
    if taken > len(shape) or dots > 1:
        wrong("too many indices")
    if not dots:
        parts.append(...)
    rest = len(shape) - taken
    lengths = iter(shape)
    kept: list[int] = []
    chosen: list[tuple[int, ...]] = []  # the shapes of index arrays
    places: list[int] = []  # how many axes came before each
    runs, joined = 0, False
    for part in parts:
        advanced = isinstance(part, (np.ndarray, int, np.integer))
        if advanced and not joined:
            runs += 1
        joined = advanced
        if part is None:
            kept.append(1)
        elif part is ...:
            kept += [next(lengths) for _ in range(rest)]
        elif isinstance(part, slice):
            kept.append(len(range(*part.indices(next(lengths)))))
        elif isinstance(part, np.ndarray) and part.dtype.kind == "b":
            if isinstance(part, _Ghost):
                wrong("a mask that is given at each run: the shape would depend on its data")
            if tuple(next(lengths) for _ in range(part.ndim)) != part.shape:
                wrong("a mask of another shape")
            chosen.append((int(np.count_nonzero(part)),))
            places.append(len(kept))
        elif advanced:
            position = part if isinstance(part, np.ndarray) else np.asarray(part)
            _check_positions(position, next(lengths))
            chosen.append(position.shape)
            places.append(len(kept))
        else:
            wrong(f"an index of type {type(part).__name__}")
    if not chosen:
        return tuple(kept)
    at = places[0] if runs == 1 else 0
    return (*kept[:at], *np.broadcast_shapes(*chosen), *kept[at:])


def _reduction(ufunc: Any) -> Callable[..., Any]:
    def reduced(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        axes = range(x.ndim) if axis is None else normalize_axis_tuple(axis, x.ndim)
        if ufunc.identity is None and any(x.shape[a] == 0 for a in axes):
            wrong("nothing to choose from")
        shape = [1 if i in axes else n for i, n in enumerate(x.shape) if keepdims or i not in axes]
        return _ghost(shape, ufunc.reduce(np.ones(1, x.dtype)).dtype)

    return reduced


class _Shapes:
    """The functions of `arrays`, computing shapes and dtypes."""

    sum, prod = staticmethod(_reduction(np.add)), staticmethod(_reduction(np.multiply))
    max, min = staticmethod(_reduction(np.maximum)), staticmethod(_reduction(np.minimum))

    @staticmethod
    def detached(x: Any) -> Any:
        return x

    @staticmethod
    def astype(x: Any, dtype: Any) -> Any:
        return _ghost(x.shape, dtype)

    @staticmethod
    def reshape(x: Any, shape: Any) -> Any:
        lengths: list[Any] = [shape] if isinstance(shape, (int, np.integer)) else list(shape)
        known = math.prod(n for n in lengths if n != -1)
        if lengths.count(-1) == 1 and known:
            lengths[lengths.index(-1)] = x.size // known
        if min(lengths, default=0) < 0 or math.prod(lengths) != x.size:
            wrong(f"{x.size} elements do not fill the shape {str(shape)[:80]}")
        return _ghost(lengths, x.dtype)

    @staticmethod
    def transpose(x: Any, axes: Any = None) -> Any:
        return _ghost(_plain(x).transpose(axes).shape, x.dtype)

    @staticmethod
    def expand_dims(x: Any, axis: Any) -> Any:
        return _ghost(np.expand_dims(_plain(x), axis).shape, x.dtype)

    @staticmethod
    def squeeze(x: Any, axis: Any = None) -> Any:
        return _ghost(np.squeeze(_plain(x), axis).shape, x.dtype)

    @staticmethod
    def broadcast_to(x: Any, shape: Any) -> Any:
        return _ghost(np.broadcast_to(_plain(x), shape).shape, x.dtype)

    @staticmethod
    def flip(x: Any, axis: Any = None) -> Any:
        return _ghost(np.flip(_plain(x), axis).shape, x.dtype)

    @staticmethod
    def cumsum(x: Any, axis: Any = None) -> Any:
        if axis is None:
            return _ghost((x.size,), x.dtype)
        normalize_axis_index(axis, x.ndim)
        return _ghost(x.shape, x.dtype)

    @staticmethod
    def pad(x: Any, widths: Any, constant_values: Any = 0.0) -> Any:
        if min((w for pair in widths for w in pair), default=0) < 0:
            wrong("a negative width")
        float(constant_values)
        lengths = [a + n + b for (a, b), n in zip(widths, x.shape, strict=True)]
        return _ghost(lengths, x.dtype)

    @staticmethod
    def tril(x: Any, k: Any = 0) -> Any:
        if not isinstance(k, (int, np.integer)) or not x.ndim:
            wrong("expected a diagonal of a matrix")
        return _ghost(x.shape if x.ndim > 1 else x.shape * 2, x.dtype)

    triu = tril

    @staticmethod
    def matmul(x: Any, y: Any) -> Any:
        if not (x.ndim and y.ndim) or x.shape[-1] != y.shape[-2 if y.ndim > 1 else -1]:
            wrong(f"no product of shapes {x.shape} and {y.shape}")
        stack = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        shape = (*stack, *x.shape[-2:-1], *(y.shape[-1:] if y.ndim > 1 else ()))
        return _ghost(shape, np.result_type(x.dtype, y.dtype))

    @staticmethod
    def einsum(subscripts: str, *operands: Any) -> Any:
        left, output = subscripts.split("->")
        sizes: dict[str, int] = {}
        for letters, x in zip(left.split(","), operands, strict=True):
            mine = dict(zip(letters, x.shape, strict=True))
            if any(mine[c] != n for c, n in zip(letters, x.shape, strict=True)):
                wrong(f"{subscripts!r}: a diagonal of unequal axes")
            for c, n in mine.items():
                have = sizes.setdefault(c, n)
                if not (c.isascii() and c.isalpha()) or (have != n and 1 not in (have, n)):
                    wrong(f"{subscripts!r} does not fit")
                sizes[c] = n if have == 1 else have
        if len(set(output)) < len(output):
            wrong(f"{subscripts!r} names an axis of the result twice")
        return _ghost([sizes[c] for c in output], np.result_type(*(x.dtype for x in operands)))

    @staticmethod
    def getitem(x: Any, index: Any) -> Any:
        return _ghost(_shape_at(x.shape, index), x.dtype)

    @staticmethod
    def scatter(g: Any, index: Any, shape: Any) -> Any:
        shape = tuple(shape)
        if np.broadcast_shapes(np.shape(g), place := _shape_at(shape, index)) != place:
            wrong("more than there is place for")
        return _ghost(shape, np.asarray(g).dtype)

    @staticmethod
    def take(x: Any, indices: Any, axis: Any = None) -> Any:
        indices = np.asarray(_as_index(indices)) if not isinstance(indices, _Ghost) else indices
        if axis is None:
            _check_positions(indices, x.size)
            return _ghost(indices.shape, x.dtype)
        axis = normalize_axis_index(axis, x.ndim)
        _check_positions(indices, x.shape[axis])
        return _ghost((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype)

    @staticmethod
    def take_along_axis(x: Any, indices: Any, axis: Any) -> Any:
        axis = normalize_axis_index(axis, x.ndim)
        _check_positions(indices, x.shape[axis])
        if indices.ndim != x.ndim:
            wrong("expected as many axes of positions as there are")
        around = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        return _ghost(np.broadcast_shapes(indices.shape, around), x.dtype)

    @staticmethod
    def concatenate(operands: Any, axis: Any = 0) -> Any:
        axis = normalize_axis_index(axis, operands[0].ndim)
        around = {(*x.shape[:axis], *x.shape[axis + 1 :], x.ndim) for x in operands}
        if len(around) > 1:
            wrong("shapes that cannot be joined")
        shape = list(operands[0].shape)
        shape[axis] = sum(x.shape[axis] for x in operands)
        return _ghost(shape, np.result_type(*(x.dtype for x in operands)))

    @staticmethod
    def stack(operands: Any, axis: Any = 0) -> Any:
        if len({x.shape for x in operands}) > 1:
            wrong("shapes that cannot be stacked")
        axis = normalize_axis_index(axis, operands[0].ndim + 1)
        shape = list(operands[0].shape)
        shape.insert(axis, len(operands))
        return _ghost(shape, np.result_type(*(x.dtype for x in operands)))


for _name in RULES.keys() & set(arrays.__all__):
    setattr(_Shapes, _name, staticmethod(functools.partial(_pointwise, getattr(arrays, _name))))
