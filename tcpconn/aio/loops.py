"""Event loops: the herald of each, blocking calls beside them, and what happens when they end."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from tcpconn._loop import LoopHerald

T = TypeVar("T")

_heralds: dict[asyncio.AbstractEventLoop, Presence] = {}


class Presence:
    """What tcpconn has in one event loop. It leaves with `loop.shutdown_asyncgens`, which
    `asyncio.run` calls: that is the only word a loop gives before it is closed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.herald = LoopHerald(loop)
        self.closing: list[Callable[[], Awaitable[object]]] = []
        """Called before the loop is left."""
        self._stay = self._staying()
        # It does not wait for anything before its `yield`; from then on the loop knows it.
        with contextlib.suppress(StopIteration):
            self._stay.__anext__().send(None)

    async def _staying(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            for close in self.closing:
                with contextlib.suppress(OSError):
                    await close()
            self.leave()

    def leave(self) -> None:
        """Links that are still open go to the keeper."""
        self.herald.leave()
        if _heralds.get(self.herald.loop) is self:
            del _heralds[self.herald.loop]


def presence() -> Presence:
    """That of the running loop."""
    loop = asyncio.get_running_loop()
    found = _heralds.get(loop)
    if found is None:
        for other in list(_heralds.values()):
            if other.herald.loop.is_closed():
                other.leave()
        found = _heralds[loop] = Presence(loop)
    return found


async def in_thread(function: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
    """What a blocking function returns or raises, which runs in a thread of its own.

    Of its own, so that one that takes long holds up nobody else who needs threads. When the task is
    cancelled meanwhile, the thread goes on, and undoes what it has done.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    lock = threading.Lock()
    abandoned = False

    def deliver(value: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)  # type: ignore[arg-type]

    def work() -> None:
        try:
            value = function()
        except BaseException as error:  # noqa: BLE001  - it is raised in the task
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(deliver, None, error)
            return
        with lock:
            if not abandoned:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(deliver, value, None)
                    return
        if undo is not None:
            undo(value)

    threading.Thread(target=work, name="tcpconn-call", daemon=True).start()
    try:
        return await future
    except asyncio.CancelledError:
        with lock:
            abandoned = True
        if future.done() and not future.cancelled() and future.exception() is None:
            _undo_in_thread(undo, future.result())
        raise


def _undo_in_thread(undo: Callable[[T], object] | None, value: T) -> None:
    if undo is not None:
        threading.Thread(target=undo, args=(value,), name="tcpconn-call", daemon=True).start()


class Opened(Protocol):
    """What can be opened: an asynchronous context manager."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Closing(abc.ABC):
    """What `async with` closes at the end: in 5 seconds, or at once behind an error."""

    @abc.abstractmethod
    async def close(self, timeout: float | None = 5) -> None:
        """Ends it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close(5 if kind is None else 0)


O = TypeVar("O", bound=Opened)  # noqa: E741


class Opening(Coroutine[Any, Any, O], Generic[O]):
    """What opens something: awaited, or entered by `async with`, which closes it too."""

    def __init__(self, coroutine: Coroutine[Any, Any, O]) -> None:
        self._coroutine = coroutine
        self._opened: O | None = None

    def __await__(self) -> Generator[Any, Any, O]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        """As a coroutine's."""
        return self._coroutine.send(value)

    def throw(self, *args: Any) -> Any:
        """As a coroutine's."""
        return self._coroutine.throw(*args)

    def close(self) -> None:
        """As a coroutine's."""
        self._coroutine.close()

    async def __aenter__(self) -> O:
        self._opened = await self._coroutine
        return await self._opened.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._opened is not None:
            await self._opened.__aexit__(kind, error, traceback)
