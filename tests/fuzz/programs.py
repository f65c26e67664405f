"""Programs of arrays as plain data: run, made smaller, and printed.

A program is a list of leaves and a list of operations. An operand is the number of an earlier
operation, or of a leaf as -1, -2, ... (`~k` for leaf k), or a float, which is a constant.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

import tinygrad_bp as tb
from tinygrad_bp.array_rules import ARRAY_RULES
from tinygrad_bp.rules import RULES
from tinygrad_bp.scalars import Values


class Leaf(NamedTuple):
    """An array to start from: its numbers in a row, and whether to differentiate by it."""

    shape: tuple[int, ...]
    numbers: tuple[float, ...]
    dtype: str = "float64"
    tracked: bool = True

    def array(self):
        return np.array(self.numbers, self.dtype).reshape(self.shape)


class Step(NamedTuple):
    """An operation, by name; what it is applied to; and its further arguments."""

    name: str
    operands: tuple[Any, ...]
    arguments: tuple[Any, ...] = ()


class Program(NamedTuple):
    """What is computed; `mark` is a random number, to choose what else is tried on it."""

    mark: int
    leaves: tuple[Leaf, ...]
    steps: tuple[Step, ...]


# Operations that are made of others, or of constants.
FUNCTIONS = {
    "split": lambda x, sections, axis, which: tb.split(x, sections, axis)[which],
    "one_hot": lambda x, indices, classes: x * tb.one_hot(np.array(indices, int), classes),
    "row": lambda x, which: list(x)[which],
}


# --- running ------------------------------------------------------------------------------------


def operands_of(step, leaves, results):
    return [x if type(x) is float else results[x] if x >= 0 else leaves[~x] for x in step.operands]


def given(argument):
    """An argument as it is handed over: nested lists as arrays, plain ones as they are."""
    if type(argument) is tuple:
        return tuple(map(given, argument))
    nested = type(argument) is list and argument and type(argument[0]) is list
    return np.array(argument) if nested else argument


def arguments_of(step):
    if step.name == "take_along_axis":
        return np.array(step.arguments[0], int), *step.arguments[1:]
    return given(step.arguments)


def applied(step, operands):
    """One operation, on whatever the operands are."""
    arguments = arguments_of(step)
    if step.name in FUNCTIONS:
        return FUNCTIONS[step.name](*operands, *arguments)
    if step.name in RULES:
        return RULES[step.name](*operands)
    rule = ARRAY_RULES[step.name]
    if rule.takes_sequence:
        return rule(operands, *arguments)
    return rule(*operands, *arguments)


def run(program, leaves, use=None, once=False):
    """The result of every operation; each use of an operand is of `use(operand)`.

    With `once`, operations that are equal have one result, as in an optimised record.
    """
    results = []
    first = {}
    for step in program.steps:
        operands = operands_of(step, leaves, results)
        if once:
            key = (
                step.name,
                repr(step.arguments),
                *(repr(x) if type(x) is float else id(x) for x in operands),
            )
            if key in first:
                results.append(first[key])
                continue
        if use is not None:
            operands = [
                use(x) if isinstance(x, (tb.Value, tb.Tensor, Values)) else x for x in operands
            ]
        results.append(applied(step, operands))
        if once:
            first[key] = results[-1]
    return results


@functools.lru_cache(4096)
def weights(shape, dtype):
    """Fixed factors of the results; some are zero, so that gradients of zero flow too."""
    seven = [1.0, -0.5, 0.75, 2.0, -1.25, 0.5, -2.0, 0.0, 1.5, -0.25, 1.75]
    w = np.resize(np.array(seven, dtype), shape)
    w.setflags(write=False)
    return w


def ends(program):
    """The operations whose results no other takes."""
    used = {x for step in program.steps for x in step.operands if type(x) is int}
    return [k for k in range(len(program.steps)) if k not in used]


def total(program, results, use=lambda z: z):
    """One number of all the results that no other operation takes."""
    return added([use(results[k]) for k in ends(program)])


def added(results):
    """The sum of all elements, each times a weight."""
    loss = None
    for z in results:
        shape, dtype = getattr(z, "shape", ()), getattr(z, "dtype", np.dtype(float))
        w = weights(tuple(shape), dtype if dtype.kind == "f" else np.dtype(float))
        term = tb.sum(z * w) if shape else z * float(w)
        loss = term if loss is None else loss + term
    return loss


def function_of(program):
    """The program as a function of its leaves."""

    def f(*leaves):
        return total(program, run(program, leaves))

    return f


def tracked(program):
    """The positions of the leaves to differentiate by."""
    return tuple(i for i, leaf in enumerate(program.leaves) if leaf.tracked)


def tensors(program, arrays=None):
    """Fresh leaves."""
    arrays = [leaf.array() for leaf in program.leaves] if arrays is None else arrays
    pairs = zip(arrays, program.leaves, strict=True)
    return [tb.Tensor(x, requires_grad=leaf.tracked) for x, leaf in pairs]


# --- smaller ------------------------------------------------------------------------------------


def tidied(program):
    """Without leaves that nothing uses; with at least one to differentiate by."""
    used = sorted({~x for s in program.steps for x in s.operands if type(x) is int and x < 0})
    place = {~k: ~i for i, k in enumerate(used)}

    def moved(x):
        return place.get(x, x) if type(x) is int else x

    steps = tuple(s._replace(operands=tuple(map(moved, s.operands))) for s in program.steps)
    leaves = [program.leaves[k] for k in used]
    if leaves and not any(leaf.tracked for leaf in leaves):
        leaves[0] = leaves[0]._replace(tracked=True)
    return Program(program.mark, tuple(leaves), steps)


def _only(program, kept, numbers):
    """Some of the operations; the results of the others are leaves, of the numbers they had."""
    leaves, steps, place = list(program.leaves), [], {}

    def at(x):
        if type(x) is float or x < 0:
            return x
        if x not in place:
            array = numbers[x]
            row = tuple(map(float, array.ravel()))
            leaves.append(Leaf(array.shape, row, array.dtype.name))
            place[x] = ~(len(leaves) - 1)
        return place[x]

    for k in kept:
        step = program.steps[k]
        steps.append(step._replace(operands=tuple(map(at, step.operands))))
        place[k] = len(steps) - 1
    return tidied(program._replace(leaves=tuple(leaves), steps=tuple(steps)))


def smaller(program) -> Iterator[Program]:
    """Programs a step smaller: fewer operations, and then simpler numbers."""
    count = len(program.steps)
    try:
        numbers = [z._array for z in run(program, tensors(program))]
    except Exception:  # perhaps what is wrong with it
        numbers = None
    if numbers is not None:
        if count > 1:
            for k in range(count):
                yield _only(program, [k], numbers)
        half = count // 2
        while half:
            for start in range(0, count, half):
                kept = [k for k in range(count) if not start <= k < start + half]
                if kept:
                    yield _only(program, kept, numbers)
            half //= 2
    else:
        for k in range(1, count):
            yield tidied(program._replace(steps=program.steps[:k]))
    for i, leaf in enumerate(program.leaves):
        for simpler in _simpler(leaf):
            leaves = (*program.leaves[:i], simpler, *program.leaves[i + 1 :])
            if any(x.tracked for x in leaves):
                yield program._replace(leaves=leaves)


def _simpler(leaf):
    """A leaf of plainer numbers, or a constant."""
    for numbers in (
        tuple(1.0 for _ in leaf.numbers),
        tuple(0.5 + k for k, _ in enumerate(leaf.numbers)),
        tuple(round(x, 1) if abs(x) < 1e6 else x for x in leaf.numbers),
    ):
        if repr(numbers) != repr(leaf.numbers) and weight(numbers) < weight(leaf.numbers):
            yield leaf._replace(numbers=numbers)
    if leaf.tracked:
        yield leaf._replace(tracked=False)


def weight(numbers):
    """How much there is to read: so that making smaller comes to an end."""
    return sum(len(repr(x)) for x in numbers) + 2 * len(set(numbers))


# --- printed ------------------------------------------------------------------------------------


def source(program, name="f"):
    """The program as Python, a function of its leaves, and then the leaves."""
    names = [f"x{i}" for i in range(len(program.leaves))]
    text = [f"def {name}({', '.join(names)}):", *lines(program, names), ""]
    for i, leaf in enumerate(program.leaves):
        dtype = "" if leaf.dtype == "float64" else f", np.{leaf.dtype}"
        array = f"np.array({list(leaf.numbers)}{dtype})"
        text.append(f"x{i} = {array}.reshape({leaf.shape})")
    return "\n".join(text)


def lines(program, names):
    """The body of a function that computes the program."""

    def of(x):
        return repr(x) if type(x) is float else f"z{x}" if x >= 0 else names[~x]

    text = []
    for k, step in enumerate(program.steps):
        text.append(f"    z{k} = {_call(step, [of(x) for x in step.operands])}")
    terms = ", ".join(f"z{k}" for k in ends(program))
    return [*text, f"    return programs.added([{terms}])"]


def _printed(argument):
    if isinstance(argument, np.ndarray):
        return f"np.array({argument.tolist()}, np.{argument.dtype})"
    if type(argument) is tuple:
        parts = [_printed(x) for x in argument]
        return f"({', '.join(parts)}{',' * (len(parts) == 1)})"
    return "..." if argument is ... else repr(argument)


def _call(step, operands):
    arguments = [_printed(x) for x in arguments_of(step)]
    if step.name in FUNCTIONS:
        return f"programs.FUNCTIONS[{step.name!r}]({', '.join(operands + arguments)})"
    rule = f"tb.{step.name}"
    if not hasattr(tb, step.name):
        table = "RULES" if step.name in RULES else "ARRAY_RULES"
        rule = f"tb.{table}[{step.name!r}]"
    if step.name in ARRAY_RULES and ARRAY_RULES[step.name].takes_sequence:
        operands = [f"[{', '.join(operands)}]"]
    return f"{rule}({', '.join(operands + arguments)})"
