"""Random numbers as inputs of a program: drawn at each call, from the generators given then.

Inside of a compiled function, a `numpy.random.Generator` among the arguments is one of these: what
it draws is recorded, with the method and its fixed arguments. A replay draws the same way in the
same order, so that results, and the generator's state after a call, are those of the function.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from tinygrad_bp.inputs import frozen
from tinygrad_bp.replay.program import DRAWS, Draw
from tinygrad_bp.replay.recorder import Recorder
from tinygrad_bp.replay.tracing import is_traced

_T = TypeVar("_T")


class TracedGenerator(np.random.Generator):
    """A generator whose draws are recorded. What else it could do raises a TypeError."""

    def __init__(self, recorder: Recorder, position: int, generator: np.random.Generator) -> None:
        super().__init__(generator.bit_generator)
        self._recorder = recorder
        self._position = position
        self._generator = generator

    def _draw(self, method: str, parameters: tuple[Any, ...], options: dict[str, Any]) -> Any:
        self._recorder.check_open()
        if options.get("out") is not None:
            raise TypeError(f"rng.{method}: a compiled function takes no out; use the result")
        if any(map(_holds_traced, (*parameters, *options.values()))):
            raise TypeError(
                f"rng.{method}: its arguments must be plain numbers; compute on what is drawn, as "
                "in mean + deviation * rng.standard_normal(shape)"
            )
        fixed = tuple(map(frozen, parameters))
        named = {name: frozen(x) for name, x in options.items()}
        result = getattr(self._generator, method)(*fixed, **named)
        if np.asarray(result).dtype.kind not in "fiu":
            raise TypeError(f"rng.{method}: a compiled function draws floats and integers alone")
        return self._recorder.draw(Draw(self._position, method, fixed, named), result)

    def __reduce__(self) -> Any:
        raise TypeError("a generator that is being recorded cannot be copied or pickled")

    __copy__ = __reduce__

    def __deepcopy__(self, memo: Any) -> Any:
        return self.__reduce__()


def _holds_traced(x: Any) -> bool:
    if isinstance(x, (list, tuple)):
        return any(map(_holds_traced, x))
    return is_traced(x) or (isinstance(x, np.ndarray) and x.dtype == object)


def _recorded(name: str) -> Any:
    def method(self: TracedGenerator, *parameters: Any, **options: Any) -> Any:
        return self._draw(name, parameters, options)

    return method


def _refused(name: str) -> Any:
    def attribute(self: TracedGenerator) -> Any:
        raise TypeError(
            f"rng.{name} inside of a compiled function: of a generator, a program can repeat only "
            "what it draws (and permutation, but not shuffle)"
        )

    return property(attribute)


for _name in dir(np.random.Generator):  # whatever numpy adds in the future is refused
    if not _name.startswith("_"):
        setattr(TracedGenerator, _name, _recorded(_name) if _name in DRAWS else _refused(_name))


# --- the state of generators --------------------------------------------------------------------


def states(generators: Sequence[np.random.Generator]) -> list[Any]:
    """Where they stand."""
    return [g.bit_generator.state for g in generators]


def restore(generators: Sequence[np.random.Generator], before: Sequence[Any]) -> None:
    """Put them back to where they stood."""
    for generator, state in zip(generators, before, strict=True):
        generator.bit_generator.state = state


_turn = threading.RLock()


def holding(generators: Sequence[np.random.Generator], do: Callable[[], _T]) -> _T:
    """`do()`, while no other thread draws from them: what is put back was not drawn by it.

    The lock of a generator keeps everybody else out. Before numpy 2.4 that is the one who holds it
    as well, who would wait for ever: there, it is compiled functions alone that take turns.
    """
    locks = (g.bit_generator.lock for g in generators)
    reentrant = (lock if isinstance(lock, type(_turn)) else _turn for lock in locks)
    return _under(sorted(reentrant, key=id), do)


def _under(locks: Sequence[Any], do: Callable[[], _T]) -> _T:
    if not locks:
        return do()
    with locks[0]:  # written in C, so that no interrupt can leave it locked, as in an ExitStack
        return _under(locks[1:], do)


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal."""
    if isinstance(a, dict):
        return all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return all(map(same, a, b))
    return bool(np.array_equal(a, b))


class Hidden:
    """Random numbers that a program could not draw again: has any been drawn since this was made?

    Args:
        generators: those that the function reaches by itself.
        globals_too: whether to look at the global states of numpy and of Python.
    """

    def __init__(self, generators: Sequence[np.random.Generator], globals_too: bool) -> None:
        self.generators, self.globals_too = generators, globals_too
        self._before = self._states()

    def _states(self) -> list[Any]:
        both = [np.random.get_state(legacy=False), random.getstate()] if self.globals_too else []
        return [*states(self.generators), *both]

    def moved(self) -> bool:
        """Whether it was; the generators are then put back."""
        if same(self._before, self._states()):
            return False
        restore(self.generators, self._before[: len(self.generators)])
        if self.globals_too:
            np.random.set_state(self._before[-2])
            random.setstate(self._before[-1])
        return True
