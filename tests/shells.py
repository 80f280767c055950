"""The shells under the contract tests: the blocking one as it is, that of asyncio behind its names.

A test says `tcpconn.listen(…)` and the like. For a shell other than the blocking one, these names
stand for faces: objects with the methods of the blocking API, which have them done in an event
loop, in a thread of its own, by what `tcpconn.aio` has of the same name.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import importlib
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple, Self

import tcpconn
from support import PATIENCE, Background
from tcpconn import aio


class Shell(NamedTuple):
    """Which ends of a test are in an event loop, and in which one."""

    loop: str
    """The loop's module; empty: none."""
    client: bool = False
    server: bool = False


SHELLS = {
    "blocking": Shell(""),
    "aio": Shell("asyncio", client=True, server=True),
    "uvloop": Shell("uvloop", client=True, server=True),
    "aio_client": Shell("asyncio", client=True),
    "aio_server": Shell("asyncio", server=True),
}

TIMEOUT_AT = {
    "accept": 0,
    "flush": 0,
    "ping": 0,
    "receive": 0,
    "receive_into": 1,
    "receive_many": 1,
    "receive_view": 0,
    "send": 1,
    "send_many": 1,
    "send_parts": 1,
}
"""Where the blocking methods have the time limit that `asyncio.timeout` sets in a loop."""

CONTEXTS = (aio.Connection, aio.ConnectionPool, aio.Listener, aio.Multiplexer, aio.Server)

PARTS = {"_greeter": "_links", "_redialler": "_inner", "key": "_inner", "options": "_inner"}
"""What tests look at inside, and in which part of its object it is."""


def warm(kind: str) -> None:
    """Has a kind of loop open what it opens once for the whole process: that is no leak of ours."""
    loop = importlib.import_module(kind).new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


class LoopThread:
    """An event loop in debug mode, in a thread of its own, in which others have things done."""

    def __init__(self, kind: str) -> None:
        self._factory = importlib.import_module(kind).new_event_loop
        self._begun = threading.Event()
        self._complaints: list[dict[str, Any]] = []
        self._thread = Background(self._run, "test-loop")
        self._begun.wait(PATIENCE)

    def _run(self) -> None:
        with asyncio.Runner(debug=True, loop_factory=self._factory) as runner:
            runner.run(self._stay())

    async def _stay(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.slow_callback_duration = PATIENCE
        self.loop.set_exception_handler(lambda _, context: self._complaints.append(context))
        self._over = asyncio.Event()
        self._begun.set()
        await self._over.wait()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"the test left tasks behind: {left}"

    def end(self) -> None:
        """Fails if something was left in the loop, or the loop complained."""
        self.loop.call_soon_threadsafe(self._over.set)
        self._thread.result()
        assert not self._complaints, f"the loop complained: {self._complaints}"

    def do(self, function: Callable[[], Any], seconds: float | None = None) -> Any:
        """What a function, called in the loop, returns or gives when it is awaited.

        Raises `Timeout` after `seconds`. Whoever is interrupted has it cancelled.
        """
        if threading.current_thread() is self._thread.thread:
            raise RuntimeError("the loop's own thread would wait for itself")
        done: concurrent.futures.Future[None] = concurrent.futures.Future()
        tasks: list[asyncio.Task[None]] = []
        # Goes from thread to thread in a list: nothing else holds it, so that a connection that
        # its test lets go of is closed then, and by nobody else.
        held: list[Any] = [function]
        del function

        async def work() -> None:
            try:
                async with asyncio.timeout(seconds) as limit:
                    result = held.pop()()
                    if isinstance(result, Awaitable):
                        result = await result
                    held.append(result)
                    del result
            except TimeoutError as error:
                done.set_exception(tcpconn.Timeout(seconds) if limit.expired() else error)
            except BaseException as error:  # noqa: BLE001  - it is raised in the other thread
                done.set_exception(error)
            else:
                done.set_result(None)

        def begin() -> None:
            tasks.append(self.loop.create_task(work()))

        def cancel() -> None:
            tasks[0].cancel()

        # A context of its own: what the thread has set is not for the loop's tasks.
        self.loop.call_soon_threadsafe(begin, context=contextvars.Context())
        try:
            done.result()
        finally:
            if not done.done():
                self.loop.call_soon_threadsafe(cancel)
                concurrent.futures.wait([done], PATIENCE)
        return held.pop()


class Face:
    """An object of `tcpconn.aio` with the blocking API's methods."""

    __slots__ = ("__weakref__", "_inner", "_loop")

    _inner: Any
    _loop: LoopThread

    def __init__(self, inner: Any, loop: LoopThread) -> None:
        object.__setattr__(self, "_inner", inner)
        object.__setattr__(self, "_loop", loop)

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._inner, PARTS[name]) if name in PARTS else self._inner
        if not callable(getattr(type(inner), name, None)):
            if name in PARTS:
                return getattr(inner, name)
            return with_face(self._loop.do(lambda: getattr(inner, name)), self._loop)

        def method(*arguments: Any, **options: Any) -> Any:
            seconds = None
            if name in TIMEOUT_AT:
                place = TIMEOUT_AT[name]
                seconds = options.pop("timeout", None)
                if len(arguments) > place:
                    seconds = arguments[place]
                    arguments = arguments[:place]
            try:
                found = self._loop.do(lambda: getattr(inner, name)(*arguments, **options), seconds)
            except tcpconn.Timeout as error:
                if error.args != (seconds,):
                    raise
                named = "id" if isinstance(inner, aio.Connection) else "address"
                what = getattr(inner, named, inner)
                raise tcpconn.Timeout(f"{name} on {what} within {seconds} s") from None
            return with_face(found, self._loop)

        return self._wait if name == "wait" else method

    def _wait(self, timeout: float | None = None) -> bool:
        """A server's, which says whether it is closed."""
        try:
            self._loop.do(self._inner.wait, timeout)
        except tcpconn.Timeout:
            return False
        return True

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._inner, name, value)

    def __iter__(self) -> Iterator[Any]:
        while True:
            try:
                found = done_with_face(self._loop, lambda: anext(self._inner))
            except StopAsyncIteration:
                return
            yield found

    def __enter__(self) -> Self:
        self._loop.do(self._inner.__aenter__)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.do(lambda: self._inner.__aexit__(*error))

    def __repr__(self) -> str:
        return repr(self._inner).replace("<aio.", "<", 1)


_faces: weakref.WeakValueDictionary[int, Face] = weakref.WeakValueDictionary()
"""By the object behind, which each keeps alive."""


def face_of(inner: Any, loop: LoopThread) -> Face:
    """Its one face."""
    face = _faces.get(id(inner))
    if face is None:
        face = _faces[id(inner)] = Face(inner, loop)
    return face


def with_face(value: Any, loop: LoopThread) -> Any:
    """The same with a face, if it is one of our objects or a list of them."""
    if isinstance(value, CONTEXTS):
        return face_of(value, loop)
    if isinstance(value, list) and value and isinstance(value[0], CONTEXTS):
        return [face_of(each, loop) for each in value]
    return value


def done_with_face(
    loop: LoopThread, function: Callable[[], Any], seconds: float | None = None
) -> Any:
    return with_face(loop.do(function, seconds), loop)


def behind(value: Any) -> Any:
    return value._inner if isinstance(value, Face) else value


class Faces:
    """What `tcpconn` has, as faces of what `tcpconn.aio` has."""

    def __init__(self, loop: LoopThread) -> None:
        self._loop = loop

    def of(self, name: str) -> Callable[..., Any]:
        """A function of this name, or a class that makes such objects."""
        opens = getattr(aio, name)

        def opened(*arguments: Any, **options: Any) -> Any:
            def begin() -> Any:
                options.update({key: behind(value) for key, value in options.items()})
                return opens(*arguments, **options)

            return done_with_face(self._loop, begin)

        return opened

    def wrap(self, sock: Any, id: Any = None, timeout: float | None = None, **options: Any) -> Any:
        """Whose time limit is for the peer's opening too."""
        return done_with_face(
            self._loop, lambda: aio.wrap(sock, id, timeout=timeout, **options), timeout
        )

    def serve(self, handler: Callable[[Any], object], address: Any, **options: Any) -> Any:
        """With a handler that blocks, and has a thread for that."""

        async def handle(connection: aio.Connection) -> None:
            face = face_of(connection, self._loop)
            future = asyncio.get_running_loop().create_future()

            def tell(error: BaseException | None) -> None:
                if future.done():
                    return
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)

            def work() -> None:
                failure = None
                try:
                    handler(face)
                except BaseException as error:  # noqa: BLE001  - it is raised in the loop
                    failure = error
                self._loop.loop.call_soon_threadsafe(tell, failure)

            threading.Thread(target=work, name="tcpconn-handler", daemon=True).start()
            await future

        return done_with_face(self._loop, lambda: aio.serve(handle, address, **options))


def replaced(shell: Shell, loop: LoopThread) -> dict[str, Any]:
    """What stands for the names of `tcpconn` that open something."""
    faces = Faces(loop)
    names: dict[str, Any] = {}
    if shell.client:
        names |= {name: faces.of(name) for name in ("connect", "default_pool", "ConnectionPool")}
    if shell.server:
        names |= {"listen": faces.of("listen"), "serve": faces.serve, "wrap": faces.wrap}
    blocking, in_loop = tcpconn.Multiplexer, faces.of("Multiplexer")

    def multiplexer(target: Any, *, client: bool | None = None, **options: Any) -> Any:
        greets = isinstance(target, (str, tuple)) if client is None else client
        make: Callable[..., Any] = blocking
        if shell.client if greets else shell.server:
            make = in_loop
        return make(target, client=client, **options)

    return {**names, "Multiplexer": multiplexer}
