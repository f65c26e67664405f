"""Runners for several threads: each runs the program in buffers that are its own meanwhile."""

from __future__ import annotations

import os
import threading
from typing import Any

LIMIT = max(2, min(16, os.cpu_count() or 1))  # sets of buffers; further threads wait


class Pool:
    """A runner, and its twins for as many threads as run at one time, up to a limit.

    Args:
        runner: what runs the program; its `twin()` is another with buffers of its own.
        limit: how many there may be.
    """

    def __init__(self, runner: Any, limit: int = LIMIT) -> None:
        self.first = runner
        self.limit = limit
        self.made = 1
        self._idle = [runner]  # the last used is taken first: its buffers are in the cache
        self._waiting = 0
        self._freed = threading.Condition()

    def take(self) -> Any:
        """A runner that nobody else uses, until it is put back."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._further()

    def put(self, runner: Any) -> None:
        """Put back what `take` gave."""
        self._idle.append(runner)
        if self._waiting:
            with self._freed:
                self._freed.notify()

    def _further(self) -> Any:
        """A new runner, or the next that is put back."""
        with self._freed:
            if self.made >= self.limit:
                return self._next()
            self.made += 1
        try:
            return self.first.twin()
        except BaseException:
            with self._freed:
                self.made -= 1
            raise

    def _next(self) -> Any:
        self._waiting += 1  # before looking: whoever puts one back now, tells
        try:
            while True:
                try:
                    return self._idle.pop()
                except IndexError:
                    self._freed.wait()
        finally:
            self._waiting -= 1
