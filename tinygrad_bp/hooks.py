"""Hooks: functions of the user's that a backward sweep calls with the gradient of a node."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any
from weakref import ref

from tinygrad_bp.recording import Label

Hook = Callable[[Any], Any]

# Whether there ever was a hook: until then a sweep does not look for any. The hooks of a node are
# its own, beside its label, and go with it (one that refers to its node, when the collector runs).
any_hooks: list[bool] = []
_numbers = itertools.count()


class HookHandle:
    """A hook that was registered; `remove()` takes it back."""

    __slots__ = ("_node", "_number")

    def __init__(self, node: Any, hook: Hook) -> None:
        self._node = ref(node)
        self._number = next(_numbers)
        # A new dict each time: a sweep that is under way goes on with the old one.
        any_hooks[:] = [True]
        _set_hooks(node, {**hooks_of(node), self._number: hook})

    def remove(self) -> None:
        """Take the hook back. A second time it does nothing."""
        node = self._node()
        if node is not None and self._number in hooks_of(node):
            _set_hooks(node, {n: h for n, h in hooks_of(node).items() if n != self._number})


def hooks_of(node: Any) -> dict[int, Hook]:
    """The hooks of a node, in the order in which they were registered."""
    place = node._place
    return place.hooks or {} if type(place) is Label else {}


def _set_hooks(node: Any, hooks: dict[int, Hook]) -> None:
    node._place = Label(node.label, node.scope, node.line, hooks)


def hooked(node: Any, g: Any) -> Any:
    """The gradient of a node, after its hooks have seen and perhaps replaced it."""
    for hook in hooks_of(node).values():
        replacement = hook(node._shown(g))
        if replacement is not None:
            g = node._seed(replacement)
    return g
