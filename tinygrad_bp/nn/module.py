"""`Module`: a plain object whose parameters can be found, saved and shown.

There is no registration: a module's parameters are the tracked leaves among its attributes, and
those of the modules among its attributes, in the order in which they were assigned.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from types import MethodType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tinygrad_bp.arguments import flag, mapping, wrong_kind
from tinygrad_bp.inputs import as_array
from tinygrad_bp.interrupts import write
from tinygrad_bp.recording import call_in_scope
from tinygrad_bp.scalars import Values, values
from tinygrad_bp.tensor import NO_MIX, Tensor
from tinygrad_bp.text import clean
from tinygrad_bp.value import Value

Parameter = Tensor | Values | Value
_M = TypeVar("_M", bound="Module")
_T = TypeVar("_T")


class Module:
    """Something with parameters that computes an output from an input.

    Write `__init__`, which assigns parameters and other modules to attributes, and `forward`.
    Calling the module runs `forward` in a scope of the module's `name`, to which the nodes made
    there belong.

    Example:
        >>> class Affine(Module):
        ...     def __init__(self):
        ...         self.a, self.b = Value(2.0), Value(1.0)
        ...     def forward(self, x):
        ...         return self.a * x + self.b
        >>> Affine()(3.0).data
        7.0
    """

    name: str = ""
    training: bool = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output. To be written by each module."""
        raise NotImplementedError(f"{type(self).__name__} has no forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self.name or type(self).__name__.lower()
        return call_in_scope(name, None, self.forward, args, kwargs)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """The parameters with their names, such as `layers.0.W`; a shared one once, first name."""
        names = set()
        for name, leaf in _leaves(self, "", set()):
            if leaf.requires_grad:
                if name in names:
                    raise ValueError(f"two parameters have the name {name!r}; rename one")
                names.add(name)
                yield name, leaf

    def parameters(self) -> list[Parameter]:
        """The parameters: Tensors, or arrays of Values in the scalar view."""
        return [leaf for _, leaf in _leaves(self, "", set()) if leaf.requires_grad]

    def zero_grad(self) -> None:
        """Forget the gradient of every parameter."""
        write(each for p in self.parameters() for each in p._grad_writes(None))

    def modules(self) -> Iterator[Module]:
        """This module and all those within it, each once, from the outside inwards."""
        return _modules(self, set())

    def train(self: _M, mode: bool = True) -> _M:
        """Set `training` of all modules, for those that behave otherwise in training; itself."""
        for module in self.modules():
            module.training = flag(mode, "mode")
        return self

    def eval(self: _M) -> _M:
        """Clear `training` of all modules: nothing is left to chance; itself."""
        return self.train(False)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """The numbers of every parameter by name, as copies."""
        return {name: np.array(p.data) for name, p in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set every parameter to the numbers of its name.

        Raises:
            ValueError: a name is missing or unknown, or a shape differs; then nothing is set, and
                if it is interrupted, all or nothing.
        """
        mapping(state, "state", "arrays by name")
        mine = dict(self.named_parameters())
        missing, unknown = sorted(mine.keys() - state.keys()), sorted(state.keys() - mine.keys())
        if missing or unknown:
            raise ValueError(
                f"state: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}"
            )
        arrays = {name: as_array(state[name], f"state[{name!r}]") for name in mine}
        for name, parameter in mine.items():
            expected = np.shape(parameter.data)
            if arrays[name].shape != expected:
                raise ValueError(
                    f"state[{name!r}]: expected shape {expected}, got {arrays[name].shape}"
                )
        write(each for name, p in mine.items() for each in p._data_writes(arrays[name]))

    def scalar_view(self: _M) -> _M:
        """A copy whose parameters are arrays of Values with the same numbers.

        The same code then runs weight by weight: every product and sum is a node of its own.
        """
        twins = {
            id(leaf): values(leaf.data, leaf.label, leaf.requires_grad)
            for _, leaf in _leaves(self, "", set())
            if isinstance(leaf, Tensor)
        }
        return copy.deepcopy(self, twins)

    def __repr__(self) -> str:
        named = self.named_parameters()
        lines = [f"  {clean(name)}: {tuple(np.shape(p.data))}" for name, p in named]
        return "\n".join([f"{clean(type(self).__name__)}(", *lines, ")"])


def children(x: Any) -> list[tuple[str, Any]]:
    """What a module or a container holds, with names."""
    if isinstance(x, Module):
        return list(vars(x).items())
    if isinstance(x, dict):
        return [(str(key), value) for key, value in x.items()]
    if isinstance(x, (list, tuple)):
        return [(str(i), value) for i, value in enumerate(x)]
    return []


def _modules(x: Any, seen: set[int]) -> Iterator[Module]:
    parts = children(x)
    if (not parts and not isinstance(x, Module)) or id(x) in seen:
        return
    seen.add(id(x))
    if isinstance(x, Module):
        yield x
    for _, value in parts:
        yield from _modules(value, seen)


def _leaves(x: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Parameter]]:
    """Every leaf among the attributes with its name, once; `seen` also ends circles of modules."""
    if id(x) in seen:
        return
    if isinstance(x, (Tensor, Value, Values)):
        seen.add(id(x))
        if x.is_leaf:
            yield name, x
        return
    parts = children(x)
    if not parts:
        return
    seen.add(id(x))
    for key, value in parts:
        yield from _leaves(value, f"{name}.{key}" if name else key, seen)


def substituted(x: Any, twins: dict[int, Any]) -> Any:
    """A module, or nested containers, with other leaves in the place of some.

    Nothing is changed: what holds a replaced leaf is copied, all else is shared.

    Args:
        x: a Module, dict, list or tuple.
        twins: for the id of each leaf to be replaced, what stands in for it.
    """
    if id(x) in twins:
        return twins[id(x)]
    if isinstance(x, Module):
        twin = twins[id(x)] = copy.copy(x)
        for key, value in vars(x).items():
            vars(twin)[key] = substituted(value, twins)
        return twin
    if isinstance(x, dict):
        copied: Any = {key: substituted(value, twins) for key, value in x.items()}
        changed = any(copied[key] is not x[key] for key in x)
    elif isinstance(x, (list, tuple)):
        copied = [substituted(value, twins) for value in x]
        changed = any(a is not b for a, b in zip(copied, x, strict=True))
        if changed and isinstance(x, tuple):
            copied = type(x)(*copied) if hasattr(x, "_fields") else tuple(copied)
    elif isinstance(x, MethodType) and isinstance(x.__self__, Module):  # self.f = self._f
        return MethodType(x.__func__, substituted(x.__self__, twins))
    else:
        return x
    return copied if changed else x


def as_node(x: Any, like: Any) -> Any:
    """A plain array as a constant of the kind of `like`, a parameter; nodes as they are."""
    if isinstance(x, Values if isinstance(like, Tensor) else Tensor):
        raise TypeError(f"x: {NO_MIX}")
    if hasattr(type(x), "_interpret"):
        return x
    if isinstance(like, (Value, Values)):
        return values(x, requires_grad=False)
    if not isinstance(x, np.ndarray):
        x = as_array(x, "x")  # whose errors name the argument
    return Tensor(x, requires_grad=False)


def named(x: _T, name: str) -> _T:
    """Give an inner quantity the name it has in the derivation (`z1`, `h(3)`), and return it.

    Args:
        x: a Value, a Tensor, or an array of Values, whose elements become `name[i, j]`.
        name: the name.
    """
    if isinstance(x, (Tensor, Value)):
        x.label = name
    elif isinstance(x, Values):
        for index in np.ndindex(x.shape):
            element: Any = x[index]
            element.label = f"{name}[{', '.join(map(str, index))}]"
    else:
        raise wrong_kind("named", "a Value, a Tensor or Values", x)
    return x
