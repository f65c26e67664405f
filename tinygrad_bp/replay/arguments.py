"""How arguments and results of a compiled function fit to inputs and outputs of a program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from tinygrad_bp.arguments import out_of_range
from tinygrad_bp.containers import elements_of, leaves_of, shaped
from tinygrad_bp.hooks import hooks_of
from tinygrad_bp.inputs import as_array
from tinygrad_bp.nn.module import Module
from tinygrad_bp.replay.surroundings import Surroundings
from tinygrad_bp.replay.tracing import is_traced
from tinygrad_bp.scalars import Values, values
from tinygrad_bp.tensor import Tensor
from tinygrad_bp.value import Value

Kind = Literal["scalar", "array"]
KEPT = 16  # Modules whose parameters are remembered; recordings, too

_FLOATS = (np.dtype(np.float64), np.dtype(np.float32))

# --- arguments ----------------------------------------------------------------------------------


class Parameters(Surroundings):
    """The parameters and settings of a Module, for as long as nothing in it is replaced.

    To find them anew takes longer than a small step.
    """

    def __init__(self, module: Module) -> None:
        super().__init__(module, captured=False)
        self.parameters = module.parameters()


class Given:
    """The arguments of a call, taken apart.

    Attributes:
        leaves: what the numbers are in.
        generators: those among the arguments, and in their Modules, each once.
        key: what a recording must agree with.
    """

    def __init__(self, by_tracked: bool, known: dict[int, Parameters]) -> None:
        self.leaves: list[Any] = []
        self.generators: list[np.random.Generator] = []
        self.key: list[Any] = []
        self.by_tracked, self.known = by_tracked, known

    def take(self, x: Any) -> None:
        """Take an argument apart."""
        try:
            self._take(x)
        except RecursionError:
            raise out_of_range("argument", "a structure that ends", x) from None

    def _take(self, x: Any) -> None:
        leaves, key = self.leaves, self.key
        if type(x) is np.ndarray:  # first what small steps are given
            self._take_array(x)
        elif isinstance(x, Module):
            self._take_module(x)
        elif type(x) is not Tensor and isinstance(x, (Tensor, Value)) and is_traced(x):
            raise TypeError("argument: a quantity of a recording has no numbers to be given")
        elif isinstance(x, Tensor):
            leaves.append(x)
            key += (Tensor, x._array.shape, x._array.dtype, self.by_tracked and x.rule)
        elif isinstance(x, Values):
            leaves.append(x)
            key += (Values, x.shape, self.by_tracked and x.requires_grad)
        elif isinstance(x, np.ndarray):
            self._take_array(x)
        elif isinstance(x, Value):
            leaves.append(x)
            key += (Value, self.by_tracked and x.rule)
        elif isinstance(x, (bool, str, type(None))):
            key.append((type(x), x))
        elif isinstance(x, (int, float, np.integer, np.floating)):
            leaves.append(float(x))
            key.append(float)
        elif isinstance(x, dict):
            key += ("dict", *x)
            for part in x.values():
                self._take(part)
        elif isinstance(x, (list, tuple)):
            key += (type(x), len(x))
            for part in x:
                self._take(part)
        elif isinstance(x, np.random.Generator):
            self._take_generator(x)
        else:
            leaves_of(x, "argument", further=True)  # raises, and says why

    def _take_array(self, x: Any) -> None:
        if x.dtype not in _FLOATS and x.dtype.kind not in "iu":
            x = as_array(x, "argument")
        if type(x) is not np.ndarray:
            x = as_array(x, "argument") if x.dtype in _FLOATS else np.asarray(x)
        self.leaves.append(x)
        self.key += (x.shape, x.dtype if x.dtype in _FLOATS else int)

    def _take_module(self, x: Module) -> None:
        found = self.known.get(id(x))
        if found is None or not found.hold():
            if len(self.known) > KEPT:
                self.known.clear()
            found = self.known[id(x)] = Parameters(x)
        self.key += (id(x), found.settings)
        for part in found.parameters:
            if type(part) is Tensor:  # as nearly always: written out, since small steps take long
                array = part._array
                self.leaves.append(part)
                self.key += (Tensor, array.shape, array.dtype, self.by_tracked and part.rule)
            else:
                self._take(part)
        for generator in found.generators:
            self.take(generator)

    def _take_generator(self, x: np.random.Generator) -> None:
        places = [k for k, generator in enumerate(self.generators) if generator is x]
        self.key += (np.random.Generator, places[0] if places else len(self.generators))
        if not places:
            self.generators.append(x)


def check_state(x: Any, stand_ins: set[int], seen: set[int]) -> None:
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
            check_state(part, stand_ins, seen)


def kind_of(leaves: Sequence[Any]) -> Kind:
    """Of single numbers where there are Values, or nothing but numbers."""
    if any(isinstance(x, Values) or (isinstance(x, Value) and x.requires_grad) for x in leaves):
        return "scalar"
    if not leaves:
        return "array"
    return "array" if any(isinstance(x, (Tensor, np.ndarray)) for x in leaves) else "scalar"


def as_given(leaf: Any, kind: str) -> Any:
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


def positions(argnums: Any, count: int) -> list[int]:
    """The arguments to differentiate by."""
    wanted = [argnums] if isinstance(argnums, int) else list(argnums)
    for i in wanted:
        if not isinstance(i, int) or not -count <= i < count:
            raise ValueError(f"argnums: expected positions among {count} arguments, got {argnums}")
    return [i % count for i in wanted]


def check_leaf(leaf: Any) -> None:
    """Raise if a gradient added to a leaf would not be all that its user expects."""
    if not leaf.is_leaf:
        raise ValueError(
            f"backward: a {type(leaf).__name__} that was computed was given; its ancestors would "
            "get no gradient: give the leaves, or its detach()"
        )
    if hooks_of(leaf):
        raise ValueError("backward: a compiled function calls no hooks, and a leaf has one")


def data_of(leaf: Any) -> Any:
    """The number of a Value, or the array of a Tensor; what is one already, itself."""
    if isinstance(leaf, Value):
        return leaf._data
    return leaf._array if isinstance(leaf, Tensor) else leaf


# --- results ------------------------------------------------------------------------------------


class Positions:
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


def numbered(tree: Any, nodes: Sequence[Any]) -> Any:
    """The structure of a result, with positions in the place of its nodes."""
    rest = Positions()
    return shaped(tree, iter([rest.of(x) for x in nodes]))


def put(template: Any, results: Sequence[Any]) -> Any:
    """Results in the places of their positions."""
    if type(template) is int:
        x = results[template]
        return x if isinstance(x, np.ndarray) and x.ndim else float(x)
    if isinstance(template, dict):
        return {key: put(part, results) for key, part in template.items()}
    if isinstance(template, np.ndarray):
        return np.array([results[i] for i in template.flat], np.float64).reshape(template.shape)
    parts: Iterator[Any] = (put(part, results) for part in template)
    if hasattr(template, "_fields"):
        return type(template)(*parts)
    return type(template)(parts)


def put_rows(template: Any, parts: Any) -> Any:
    """Gradients, summed or with one row each, in the places of their positions."""
    if isinstance(template, (int, np.ndarray)):
        x = parts[..., template]
        return x if np.ndim(x) else float(x)
    if isinstance(template, dict):
        return {key: put_rows(part, parts) for key, part in template.items()}
    return type(template)(put_rows(part, parts) for part in template)
