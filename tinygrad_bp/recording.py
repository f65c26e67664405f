"""Where we are in a program, and whether operations are recorded there.

Every operation asks both, so both are one variable: the scope that new nodes belong to, or a mark
that says there is none because nothing is being recorded. It is a ContextVar, so that threads and
asyncio tasks do not disturb each other.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from types import CodeType, FrameType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

from tinygrad_bp.arguments import integer, text

_F = TypeVar("_F", bound=Callable[..., Any])


class Scope:
    """A named region of a program, such as a layer or a time step; nodes made in it belong to it.

    Scopes nest: `path` of the innermost reads `"mlp/layer1"`. `index` is the number of a repeated
    region (the time step of an unrolled network), or None.
    """

    __slots__ = ("index", "name", "outer")

    def __init__(self, name: str, index: int | None = None, outer: Scope | None = None) -> None:
        self.name = name
        self.index = index
        self.outer = outer

    @property
    def path(self) -> str:
        """The names from the outermost scope inwards, joined by `/`; empty at the top."""
        if self.outer is None:
            return ""
        return f"{self.outer.path}/{self}" if self.outer.outer else str(self)

    def __str__(self) -> str:
        return self.name if self.index is None else f"{self.name}({self.index})"

    def __repr__(self) -> str:
        return f"Scope({self.path!r})"


class Label:
    """The name that was given to one node, with the scope in which the node was made.

    `line` is the line of the program that made the node, where that was asked for; `hooks` are the
    node's, by number.
    """

    __slots__ = ("hooks", "line", "scope", "text")

    def __init__(
        self,
        text: str,
        scope: Scope,
        line: str = "",
        hooks: dict[int, Callable[[Any], Any]] | None = None,
    ) -> None:
        self.text = text
        self.scope = scope
        self.line = line
        self.hooks = hooks


class Observer:
    """Someone who looks on while operations run; see `debugging` and `counting`."""

    def operation(
        self,
        rule: Any,
        operands: Sequence[Any],
        data: Sequence[Any],
        result: Any,
        parameters: tuple[Any, ...],
        options: dict[str, Any],
    ) -> None:
        """A rule was applied to `operands`, whose numbers are `data`, and gave `result`."""

    def recorded(self, node: Any) -> None:
        """The operation was recorded as this node."""

    def read(self, node: Any) -> None:
        """The numbers of a node were read, as numbers."""

    def swept(self, step: Any, reached: set[Any]) -> None:
        """A backward sweep has visited a node; `reached` are those it handed to before."""


class _Special:
    """A state of recording that needs a closer look.

    Nothing is recorded, or it was set inside a generator, or somebody looks on.
    """

    __slots__ = ("closed", "frame", "observers", "outer", "scope")

    def __init__(
        self,
        scope: Scope | None,
        frame: FrameType | None,
        outer: Scope | _Special,
        observers: tuple[Observer, ...],
    ) -> None:
        self.scope = scope
        self.frame = frame
        self.outer = outer
        self.observers = observers
        self.closed = False


ROOT = Scope("")

_state: ContextVar[Scope | _Special] = ContextVar("tinygrad_bp_state", default=ROOT)
current_state = _state.get

_GENERATOR = 0x20 | 0x200  # CO_GENERATOR, CO_ASYNC_GENERATOR of the inspect module


def resolve(state: Scope | _Special) -> Scope | None:
    """The scope that an operation made now belongs to, or None when it is not to be recorded.

    Raises:
        RuntimeError: the state was set inside a generator that is suspended at a `yield`: it would
            leak into code that never asked for it.
    """
    if isinstance(state, Scope):
        return state
    if state.frame is not None:
        frame: FrameType | None = sys._getframe()
        while frame is not None and frame is not state.frame:
            frame = frame.f_back
        if frame is None:
            code: CodeType = state.frame.f_code
            raise RuntimeError(
                f"the generator {code.co_name!r} is suspended at a yield inside a no_grad(), "
                "scope() or similar block, which would leak into its caller; close it before "
                "yielding, or, for a context manager of your own, write a class with __enter__ "
                "and __exit__"
            )
    return state.scope


def observers_of(state: Scope | _Special) -> tuple[Observer, ...]:
    """Those who look on."""
    return () if isinstance(state, Scope) else state.observers


def tell_read(node: Any) -> None:
    """Tell those who look on that the numbers of a node are read."""
    state = _state.get()
    if type(state) is not Scope:
        for observer in observers_of(state):
            observer.read(node)


class _Exit:
    """`__exit__` of a block: looked up before the block is entered, and called after.

    An interrupt may come when `__enter__` has done its work, or before `__exit__` has begun. In any
    case the `with` statement then lets go of what was looked up, and nobody else refers to it; by
    that the block knows that it was left.
    """

    def __get__(self, block: _Block | None, cls: type[_Block]) -> Callable[..., None]:
        if block is None:
            return _exit
        leave = functools.partial(_exit, block)
        if not hasattr(block, "_inner"):
            block._guard = ref(leave, functools.partial(_dropped, block))
        return leave


class _Block:
    """A `with` block that changes the state of recording, and puts it back.

    It is put back also if an interrupt (Ctrl-C) comes while the block is being entered or left.
    """

    __slots__ = ("_guard", "_inner", "_outer")

    if TYPE_CHECKING:
        _guard: ref[Any] | None

        def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
        ) -> None: ...
    else:
        __exit__ = _Exit()

    def _scope(self, outer: Scope | None) -> Scope | None:
        """The scope within the block, given that around it; None where nothing is recorded."""
        return outer

    def _observers(self, outer: tuple[Observer, ...]) -> tuple[Observer, ...]:
        """Those who look on within the block, given those around it."""
        return outer

    def _entered(self) -> Any:
        """What `with ... as` gives."""
        return None

    def __enter__(self) -> Any:
        if hasattr(self, "_inner"):
            raise RuntimeError(
                f"this {type(self).__name__}() block is entered already; make another"
            )
        self._outer = _state.get()
        scope = self._scope(resolve(self._outer))
        caller: Any = sys._getframe(1)
        while caller.f_code.co_filename == contextlib.__file__:  # an ExitStack's
            caller = caller.f_back
        in_generator = caller.f_code.co_flags & _GENERATOR
        observers = self._observers(observers_of(self._outer))
        self._inner: Scope | _Special
        if scope is not None and not in_generator and not observers:
            self._inner = scope
        else:
            frame = caller if in_generator else None
            self._inner = _Special(scope, frame, self._outer, observers)
        _state.set(self._inner)
        return self._entered()

    def _leave(self) -> bool:
        """Put the state back, unless other blocks have changed it since; whether it was done."""
        inner, state = self._inner, self._outer
        in_order = _state.get() is inner
        if isinstance(inner, _Special):
            inner.closed = True
        while isinstance(state, _Special) and state.closed:
            state = state.outer
        if in_order:
            _state.set(state)
        del self._inner
        self._guard = None  # it is not needed any more
        return in_order


def _dropped(block: _Block, _: Any) -> None:
    block._guard = None
    if hasattr(block, "_inner"):
        block._leave()


def _exit(
    block: _Block,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    if not block._leave() and error is None:
        raise RuntimeError("no_grad(), scope() and similar blocks were closed out of order")


class _Mode(_Block):
    """A block without arguments, which can also decorate a function."""

    __slots__ = ()

    def __call__(self, function: _F) -> _F:
        import copy
        import inspect

        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{type(self).__name__}() cannot decorate a generator function; use it in its body"
            )
        fresh = copy.copy(self)
        if hasattr(fresh, "_inner"):  # decorated within the block itself
            del fresh._inner
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def coroutine_in_block(*args: Any, **kwargs: Any) -> Any:
                with copy.copy(fresh):
                    return await function(*args, **kwargs)

            return coroutine_in_block  # type: ignore[return-value]

        @functools.wraps(function)
        def in_block(*args: Any, **kwargs: Any) -> Any:
            with copy.copy(fresh):
                return function(*args, **kwargs)

        return in_block  # type: ignore[return-value]


class no_grad(_Mode):
    """Within this block, or in a function decorated with it, operations are not recorded.

    The results are constants: they require no gradient and remember nothing, and derivatives of
    forward mode do not pass through them. The state is that of the present thread and asyncio task
    alone. An operation that runs while a generator is suspended inside such a block raises
    RuntimeError instead of being silently affected.

    Example:
        >>> x = Value(3.0)
        >>> with no_grad():
        ...     y = x * x
        >>> y.requires_grad
        False
    """

    __slots__ = ()

    def _scope(self, outer: Scope | None) -> Scope | None:
        return None


class enable_grad(_Mode):
    """Within this block, or in a function decorated with it, operations are recorded again.

    It undoes a `no_grad()` around it, and does nothing otherwise.
    """

    __slots__ = ()

    def _scope(self, outer: Scope | None) -> Scope | None:
        return ROOT if outer is None else outer


class scope(_Block):
    """Nodes made within this block belong to the region `name` (of step `index`, if given)."""

    __slots__ = ("index", "name")

    def __init__(self, name: str, index: int | None = None) -> None:
        text(name, "scope: name")
        if index is not None:
            integer(index, "scope: index")
        self.name = name
        self.index = index

    def _scope(self, outer: Scope | None) -> Scope | None:
        return None if outer is None else Scope(self.name, self.index, outer)


class resumed(_Block):
    """Nodes made within this block belong to a scope that has been left before."""

    __slots__ = ("scope",)

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    def _scope(self, outer: Scope | None) -> Scope | None:
        return self.scope


def call_in_scope(
    name: str, index: int | None, function: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
    """`with scope(name, index): return function(*args, **kwargs)`, at half the price."""
    outer = _state.get()
    if type(outer) is not Scope:
        with scope(name, index):
            return function(*args, **kwargs)
    inner = Scope(name, index, outer)
    try:  # an interrupt may come at any call in here
        _state.set(inner)
        result = function(*args, **kwargs)
        if _state.get() is not inner:
            raise RuntimeError("no_grad() and scope() blocks were closed out of order")
        _state.set(outer)
        return result
    except BaseException:
        if _state.get() is inner:
            _state.set(outer)
        raise


def is_grad_enabled() -> bool:
    """Whether operations are being recorded here and now."""
    return resolve(_state.get()) is not None
