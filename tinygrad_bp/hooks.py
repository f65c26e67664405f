"""Hooks: functions of the user's that a backward sweep calls with the gradient of a node."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, ref

Hook = Callable[[Any], Any]

# Beside the nodes, not in them: nearly all nodes have none, and pay nothing.
hooks: WeakKeyDictionary[Any, dict[int, Hook]] = WeakKeyDictionary()
_numbers = itertools.count()


class HookHandle:
    """A hook that was registered; `remove()` takes it back."""

    __slots__ = ("_node", "_number")

    def __init__(self, node: Any, hook: Hook) -> None:
        self._node = ref(node)
        self._number = next(_numbers)
        # A new dict each time: a sweep that is under way goes on with the old one.
        hooks[node] = {**hooks.get(node, {}), self._number: hook}

    def remove(self) -> None:
        """Take the hook back. A second time it does nothing."""
        node = self._node()
        if node is not None and node in hooks:
            rest = {n: hook for n, hook in hooks[node].items() if n != self._number}
            if rest:
                hooks[node] = rest
            else:
                del hooks[node]


def hooked(node: Any, g: Any) -> Any:
    """The gradient of a node, after its hooks have seen and perhaps replaced it."""
    for hook in hooks[node].values():
        replacement = hook(node._shown(g))
        if replacement is not None:
            g = node._seed(replacement)
    return g


def copy_hooks(node: Any, twin: Any) -> None:
    """Have a node that stands in for another call its hooks."""
    if hooks and node in hooks:
        hooks[twin] = hooks[node]
