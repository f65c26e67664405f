"""Runners for several threads: each runs the program in buffers that are its own meanwhile.

They are put back by one call into C, so that no interrupt comes in between. One that comes while a
runner is being taken loses it: what counts is how many there still are.
"""

from __future__ import annotations

import os
import threading
from queue import Empty, SimpleQueue
from typing import Any
from weakref import WeakSet

LIMIT = max(2, min(16, os.cpu_count() or 1))  # sets of buffers; further threads wait


class Pool:
    """A runner, and its twins for as many threads as run at one time, up to a limit.

    Args:
        runner: what runs the program; its `twin()` is another with buffers of its own.
        limit: how many there may be.

    Attributes:
        put: puts back what `take` gave.
    """

    def __init__(self, runner: Any, limit: int = LIMIT) -> None:
        self.first = runner
        self.limit = limit
        self._made = WeakSet([runner])
        self._lock = threading.Lock()
        self._idle: SimpleQueue[Any] = SimpleQueue()
        self.put = self._idle.put
        self.put(runner)

    @property
    def made(self) -> int:
        """How many runners there are."""
        return len(self._made)

    def take(self) -> Any:
        """A runner that nobody else uses, until it is put back."""
        try:
            return self._idle.get_nowait()
        except Empty:
            return self._further()

    def _further(self) -> Any:
        """A new runner, or the next that is put back."""
        while True:
            with self._lock:
                if self.made < self.limit:
                    runner = self.first.twin()
                    self._made.add(runner)
                    return runner
            try:
                return self._idle.get(timeout=1.0)
            except Empty:
                pass  # perhaps one was lost
