"""What a function goes by beside the numbers of its arguments: settings, and what it closes over.

A record is made in one state of all this, and holds in no other. To see that every attribute, cell
and element is still the same object takes about a microsecond; arrays are compared.
"""

from __future__ import annotations

import functools
import operator
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import PurePath
from types import (
    CodeType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from tinygrad_bp.graph import Node
from tinygrad_bp.nn.module import Module
from tinygrad_bp.replay.tracing import is_traced

LARGEST = 1 << 16  # bytes of an array that is compared at each call
MOST = 1000  # elements of containers that are looked at

_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)
_CONTAINERS = (list, tuple, set, frozenset, deque)
# What stands for functions, and of what else that is made.
_WRAPPERS: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    MethodType: lambda x: (x.__func__, x.__self__),
    functools.partial: lambda x: (x.func, x.args, x.keywords),
    staticmethod: lambda x: (x.__func__,),
    classmethod: lambda x: (x.__func__,),
    property: lambda x: (x.fget,),
    functools.cached_property: lambda x: (x.func,),
}
_ABSENT = object()


class Same:
    """An object as part of a key: equal to itself alone, and kept alive by it."""

    __slots__ = ("x",)

    def __init__(self, x: Any) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.x is self.x

    def __hash__(self) -> int:
        return id(self.x)


class Settings:
    """What a record depends on. Of equal ones there is one, so it is quick to look up by."""

    __slots__ = ("__weakref__",)


_settings: WeakValueDictionary[tuple[Any, ...], Settings] = WeakValueDictionary()
_lock = threading.Lock()


def settings_of(parts: Sequence[Any]) -> Settings:
    """The settings that consist of these parts."""
    with _lock:
        return _settings.setdefault(tuple(parts), Settings())


class Surroundings:
    """Plain state that is reached from an object, remembered until something there is replaced.

    Attributes:
        settings: what it consists of: numbers, strings, functions, and arrays up to `LARGEST`.
        generators: the random generators there.
        large: by id, the arrays that are too large to be compared.
        names_random: whether the code of a function names something called `random`.

    Args:
        root: a function, or a Module.
        captured: whether leaves are part of it. Those of an argument are given at each call.
    """

    def __init__(self, root: Any, captured: bool) -> None:
        self.captured = captured
        self.package = _package_of(root)
        self.generators: list[np.random.Generator] = []
        self.large: dict[int, Any] = {}
        self.names_random = False
        self.holders: list[tuple[Callable[[], Any], list[Any]]] = []
        self._arrays: list[tuple[Any, bytes]] = []
        self._parts: list[Any] = []
        self._seen: set[int] = set()
        self._looked_at = 0
        self._remember(root)
        self.settings = settings_of(self._parts)
        del self._parts, self._seen

    def hold(self) -> bool:
        """Whether everything is as it was."""
        for read, parts in self.holders:
            now = read()
            if len(now) != len(parts) or not all(map(operator.is_, now, parts)):
                return False
        return all(array.tobytes() == content for array, content in self._arrays)

    def _remember(self, x: Any) -> None:
        parts = self._parts
        if isinstance(x, _PLAIN):
            bits = x.tobytes() if isinstance(x, np.generic) else x
            parts += (type(x), x.hex() if type(x) is float else bits)
        elif id(x) in self._seen:
            parts.append(Same(x))
        else:
            self._seen.add(id(x))
            self._look_into(x)

    def _look_into(self, x: Any) -> None:
        if isinstance(x, Node):
            if self.captured and x.is_leaf and not is_traced(x):
                self._parts.append(Same(x))
        elif isinstance(x, np.ndarray):
            self._array(x)
        elif isinstance(x, np.random.Generator):
            self.generators.append(x)
            self._parts.append(Same(x))
        elif isinstance(x, dict):
            self._parts += ("dict", *(k if isinstance(k, _PLAIN) else Same(k) for k in x))
            self._hold(x.values, x)
        elif isinstance(x, _CONTAINERS):
            self._parts += (type(x), len(x))
            self._hold(lambda: x, x)
        elif isinstance(x, FunctionType):
            self._within(x, self._function)
        elif type(x) in _WRAPPERS:
            for part in _WRAPPERS[type(x)](x):
                self._remember(part)
        elif isinstance(x, (Module, SimpleNamespace)) or self._follows(type(x)):
            self._within(x, self._object)
        elif callable(x):
            self._parts.append(Same(x))

    def _within(self, x: Any, look_into: Callable[[Any], None]) -> None:
        """Follow what is of the package of x, unless it is ours, or another is followed already."""
        outside = self.package
        self.package = outside or _package_of(x)
        look_into(x)
        self.package = outside

    def _hold(self, read: Callable[[], Any], holder: Any) -> None:
        """Remember the parts of something; where there are very many, only the thing itself.

        Without a holder, their number stays as it is.
        """
        parts = list(read())
        container = isinstance(holder, (dict, *_CONTAINERS))
        if not parts and holder is None:
            return
        if container and self._looked_at + len(parts) > MOST:
            self._parts.append(Same(holder))
            return
        self._looked_at += len(parts) if container else 0
        self.holders.append((read, parts))
        for part in parts:
            self._remember(part)

    def _array(self, x: Any) -> None:
        if x.dtype.kind not in "biufc":
            self._parts.append(Same(x))  # of Values, whose data are read at each call
        elif x.nbytes > LARGEST:
            self._parts.append(Same(x))
            self.large[id(x)] = x
        else:
            self._arrays.append((x, x.tobytes()))
            self._parts += (x.shape, x.dtype, self._arrays[-1][1])

    def _object(self, x: Any) -> None:
        """Attributes, those in slots too; and those of the classes that are of the same package."""
        self._parts.append(type(x))
        if hasattr(x, "__dict__"):
            self._hold(vars(x).values, x)
        for base in filter(self._follows, type(x).__mro__):
            self._hold(functools.partial(_in_slots, x, base), None)
            self._hold(functools.partial(_of_class, base), base)

    def _follows(self, x: Any) -> bool:
        """Whether x is of the package that is followed, or the first that is not ours."""
        package = _package_of(x)
        return package != "" and self.package in ("", package)

    def _function(self, f: FunctionType) -> None:
        """Cells, defaults, and the globals that the code names; of the same package only."""
        self._parts.append(Same(f))
        if self.package and not self._follows(f):
            return
        captured, self.captured = self.captured, True  # leaves in there are no argument's
        cells = f.__closure__ or ()
        self._hold(lambda: [_content(cell) for cell in cells], None)
        if self.package:  # one of ours has at most a function of the user's in a cell
            self._globals(f)
        self.captured = captured

    def _globals(self, f: FunctionType) -> None:
        """Defaults, and what the code may read of its module, and of modules and classes it has."""
        names, known = _names_in(f.__code__), f.__globals__
        self.names_random |= "random" in names
        for defaults in (f.__defaults__, f.__kwdefaults__):
            self._remember(defaults)
        self._names_in(known, [n for n in names if not isinstance(known.get(n), ModuleType)])
        for x in [*map(known.get, names), *map(_content, f.__closure__ or ())]:
            if isinstance(x, (ModuleType, type)) and self._follows(x):
                self._names_in(x.__dict__, names)

    def _names_in(self, namespace: Any, names: Sequence[str]) -> None:
        """What the code may read of a module, or a class."""
        known = [name for name in names if name in namespace]
        self._hold(lambda: [namespace.get(name, _ABSENT) for name in known], None)


def _package_of(x: Any) -> str:
    """The package that a function, a class or an object comes from; empty where it is ours.

    What is not installed, such as the files of a project beside its script, is one package.
    """
    while isinstance(x, (MethodType, functools.partial)):
        x = x.__func__ if isinstance(x, MethodType) else x.func
    name = x.__name__ if isinstance(x, ModuleType) else getattr(x, "__module__", "")
    package = str(name).partition(".")[0]
    if package in _NOT_FOLLOWED:
        return ""
    module = sys.modules.get(package)
    places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", [])]
    installed = any(_INSTALLED.intersection(PurePath(place).parts) for place in places)
    return package if installed else "__main__"


_INSTALLED = {"site-packages", "dist-packages"}
_NOT_FOLLOWED = {"tinygrad_bp", "numpy", *sys.stdlib_module_names} - {"__main__"}


def _names_in(code: CodeType) -> list[str]:
    """The names of globals and attributes in a function, and in those defined in it."""
    inner = [name for c in code.co_consts if isinstance(c, CodeType) for name in _names_in(c)]
    return list(dict.fromkeys([*code.co_names, *inner]))


def _of_class(base: type) -> list[Any]:
    """Attributes of a class, without what Python notes there by itself, such as `__slotnames__`."""
    return [x for k, x in vars(base).items() if k[:2] != "__" or isinstance(x, FunctionType)]


def _in_slots(x: Any, base: type) -> list[Any]:
    """What an object has in the slots of a class."""
    slots = [name for name, d in vars(base).items() if isinstance(d, MemberDescriptorType)]
    return [getattr(x, name, _ABSENT) for name in slots]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return _ABSENT
