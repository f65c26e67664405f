"""Putting a mutant in the place of the module: two ways, a quick one and a sure one.

The quick one goes into a process that has imported everything: the functions whose code differs get
the mutant's code. It reaches what is called from then on. The sure one is a loader: the mutant is
imported instead of the module, and so is what runs at import.
"""

from __future__ import annotations

import gc
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

_FUNCTION = 0x1  # CO_OPTIMIZED of the inspect module: neither a module nor a class


def _parts(code: CodeType) -> list[CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def _itself(code: CodeType) -> tuple[Any, ...]:
    """What a piece of code does, but for its parts, and without its line numbers."""
    constants = [repr(c) for c in code.co_consts if not isinstance(c, CodeType)]
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    counts = (code.co_argcount, code.co_kwonlyargcount, code.co_flags, len(_parts(code)))
    return code.co_name, code.co_code, constants, names, counts, code.co_exceptiontable


def differing(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """The pairs of code that differ, in themselves or in a part, the inner ones first."""
    same = _itself(old) == _itself(new)
    inner = []
    if len(_parts(old)) == len(_parts(new)):
        for a, b in zip(_parts(old), _parts(new), strict=True):
            inner += differing(a, b)
    yield from inner
    if inner or not same:
        yield old, new


def in_functions(old: CodeType, new: CodeType) -> bool:
    """Whether nothing differs in what a module or a class body does when it is run."""
    pairs = differing(old, new)
    return all(a.co_flags & _FUNCTION or _itself(a) == _itself(b) for a, b in pairs)


def functions_of(path: str) -> dict[CodeType, list[FunctionType]]:
    """Every function there is whose code is from a file, by its code."""
    found: dict[CodeType, list[FunctionType]] = {}
    for x in gc.get_objects():
        if isinstance(x, FunctionType) and x.__code__.co_filename == path:
            found.setdefault(x.__code__, []).append(x)
    return found


def patched(functions: Any, module: ModuleType, old: CodeType, new: CodeType) -> bool:
    """Put the mutant in place, as far as it goes; whether that is certain to be all of it.

    What has been imported elsewhere by name, or has been computed at import, stays what it was.
    """
    if not in_functions(old, new):
        _transplanted(module, new)
        return False
    pairs = list(differing(old, new))
    pairs = [(a, b) for a, b in pairs if a.co_flags & _FUNCTION]
    if any(a.co_freevars != b.co_freevars for a, b in pairs):
        return False
    known = [function for a, _ in pairs for function in functions.get(a, ())]
    for a, b in pairs:
        for function in functions.get(a, ()):
            function.__code__ = b
    return bool(known)


def _transplanted(module: ModuleType, code: CodeType) -> None:
    """Run the mutant as a module of its own, and give what came of it to the original."""
    fresh = ModuleType(module.__name__)
    vars(fresh).update(__file__=module.__file__, __package__=module.__package__)
    sys.modules[module.__name__] = fresh
    try:
        exec(code, vars(fresh))
    finally:
        sys.modules[module.__name__] = module
    for name, new in vars(fresh).items():
        if not name.startswith("__"):
            vars(module)[name] = _given(vars(module).get(name), new)


def _given(old: Any, new: Any) -> Any:
    """The old thing, made like the new one where that is possible; else the new one."""
    if isinstance(old, FunctionType) and isinstance(new, FunctionType):
        if old.__code__.co_freevars == new.__code__.co_freevars:
            old.__code__ = new.__code__
            old.__defaults__, old.__kwdefaults__ = new.__defaults__, new.__kwdefaults__
            return old
    elif isinstance(old, tuple) and isinstance(new, tuple) and len(old) == len(new):
        if any(callable(x) for x in old):
            return tuple(map(_given, old, new))
    elif isinstance(old, dict) and isinstance(new, dict) and new.keys() == old.keys():
        old.update({key: _given(old[key], new[key]) for key in old})
        return old
    elif type(old).__name__ == type(new).__name__ in ("Rule", "ArrayRule"):
        for name, part in vars(new).items():
            vars(old)[name] = _given(vars(old).get(name), part)
        return old
    elif isinstance(old, type):
        return old
    return new


class _Loader(importlib.machinery.SourceFileLoader):
    mutated: CodeType

    def get_code(self, fullname: str) -> CodeType:
        return self.mutated


class Finder(importlib.abc.MetaPathFinder):
    """Finds the mutant under the module's name."""

    def __init__(self, name: str, path: Path, mutated: CodeType) -> None:
        self.name = name
        self.loader = _Loader(name, str(path))
        self.loader.mutated = mutated

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.loader.path, loader=self.loader)

    def install(self) -> None:
        sys.meta_path.insert(0, self)
