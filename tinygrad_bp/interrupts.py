"""What an interrupt cannot cut in two: writes that happen together, and what is undone in any case.

Ctrl-C arrives between two instructions of Python code, as a KeyboardInterrupt, but never within a
call into C. So writes that belong together are listed first, and then made by one such call. A
`finally` is not enough to undo something: the interrupt may come in it. It comes once, however, so
what is interrupted while it undoes is undone again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from itertools import starmap
from operator import call
from typing import Any, TypeVar

_T = TypeVar("_T")

Write = tuple[Any, ...]  # a function in C, such as a slot's own setter, and its arguments

# Held while gradients are written, so that threads do not lose one another's. It can be taken
# twice: a signal's handler that looks at a gradient must not wait for the code it interrupted.
commit_lock = threading.RLock()


def write(writes: Iterable[Write]) -> None:
    """Make all writes, or none if an interrupt comes before.

    Args:
        writes: functions written in C with their arguments, `(setattr, x, "name", 1)`. Nothing in
            them may fail, run Python code, or need memory: a dict must have the key already.
    """
    listed = list(writes)
    with commit_lock:
        deque(starmap(call, listed), 0)


def undone(do: Callable[[], _T], undo: Callable[[], Any]) -> _T:
    """What `do()` gives; `undo()` is called after it, however it ends, and wherever it stops.

    Args:
        do: what needs to be undone is done in here.
        undo: harmless if nothing was done yet, and a second time.
    """
    try:
        result = do()
        undo()
        return result
    except BaseException:
        undo()
        raise
