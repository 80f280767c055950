"""The other side: a listener accepts connections, and a server runs a handler task for each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Self

from tcpconn._loop import LoopQueue, tie
from tcpconn.admission import Places
from tcpconn.aio.asking import Asking, is_authorized
from tcpconn.aio.connection import Connection
from tcpconn.aio.loops import Closing, Opening, in_thread, presence
from tcpconn.aio.multiplexer import Multiplexer
from tcpconn.errors import ConnectionClosed
from tcpconn.grumbling import Warnings
from tcpconn.multiplexer import Multiplexer as BlockingMultiplexer
from tcpconn.options import Options, make_options
from tcpconn.server import Listening, refuse

logger = logging.getLogger("tcpconn")


class Listener(Closing):
    """Accepts links at an address, and hands out the connections that peers open on them.

    Made by `listen`. An asynchronous context manager; `async for` accepts until the listener is
    closed. It belongs to the loop in which it was made; links are accepted, and their handshakes
    heard, in a thread of its own.
    """

    def __init__(self, address: Any, options: Options) -> None:
        herald = presence().herald
        self._loop = herald.loop
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._asking = None if options.authorize is None else Asking()
        self._queue = LoopQueue(herald, self._wake)

        def begun(multiplexer: BlockingMultiplexer) -> None:
            # From here on the loop reads the link, if it has not ended meanwhile.
            with contextlib.suppress(RuntimeError):
                herald.loop.call_soon_threadsafe(tie, multiplexer.key, herald)

        try:
            self._links = Listening(address, options, self._queue, begun)
        except BaseException:
            self._queue.close()
            raise
        self.address: str = self._links.address
        """Where it listens, in the form that `connect` takes; with the real port, if it was 0."""

    def _wake(self) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                return

    @property
    def multiplexers(self) -> list[Multiplexer]:
        """Those of the links that are up."""
        return [Multiplexer.over(each) for each in self._links.multiplexers]

    @property
    def detached(self) -> list[Multiplexer]:
        """Those whose link was lost, and whose sessions are kept for their peers to come back."""
        return [Multiplexer.over(each) for each in self._links.detached]

    async def accept(self) -> Connection:
        """The next connection that a peer opened. Raises `ConnectionClosed` once the listener is
        closed. When it is cancelled, no connection is lost.
        """
        if self._asking is not None:
            asking = self._asking
            return await asking.accept(lambda: self.take(asking), self._wake)
        connection: Connection = await self.take()
        return connection

    async def take(self, asking: Asking | None = None) -> Any:
        """The next one, about which `authorize` was not asked; None when `asking` has one."""
        presence().herald.check_loop(self._loop)
        while True:
            if asking:
                return None
            connection: Connection | None = self._queue.next(Connection, 0, False)
            if connection is not None:
                if self._waiting:
                    self._wake()  # there may be more
                return connection
            if self._links.closed:
                raise ConnectionClosed(f"the listener on {self.address} is closed")
            waiting = self._loop.create_future()
            self._waiting.append(waiting)
            try:
                await waiting
            except asyncio.CancelledError:
                if waiting.done() and not waiting.cancelled():
                    self._wake()  # it is for another
                raise

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Connection:
        try:
            return await self.accept()
        except ConnectionClosed:
            raise StopAsyncIteration from None

    # The end

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._links.closed

    async def close(self, timeout: float | None = 5, *, drain: bool = False) -> None:
        """Stops listening, and closes all links as `Multiplexer.close` does.

        With `drain`, connections that are open go on until both sides have closed them; peers open
        new ones elsewhere. All of that takes `timeout` seconds at most: then what is left is cut
        short. Whoever waits in `accept` gets `ConnectionClosed`. Calling it again does nothing.
        """
        try:
            await in_thread(lambda: self._links.close(timeout, drain=drain))
        finally:
            for waiting in self._waiting:
                if not waiting.done():
                    waiting.set_result(None)
            self._waiting.clear()
            if self._asking is not None:
                self._asking.close()

    def __repr__(self) -> str:
        return repr(self._links).replace("<", "<aio.", 1)


def listen(address: Any, **options: Any) -> Opening[Listener]:
    """Listens at `address`, and gives a `Listener` to accept connections from.

    To be awaited, or entered with `async with`, which closes it at the end. `address`: "host:port",
    "[::1]:port", (host, port) or "unix:/path". Without a host it listens on all interfaces; port 0
    is any that is free, see `Listener.address`. Options: see `Options`.

    Raises `AddressError`, `ResolveError`, `ConnectError` (in use, not allowed) or `OptionError`.
    """
    return Opening(_listen(address, make_options(options)))


async def _listen(address: Any, options: Options) -> Listener:
    return Listener(address, options)


Handler = Callable[[Connection], Awaitable[object]]


class Server(Closing):
    """A listener with a task for each connection that runs a handler on it. Made by `serve`.

    The connection is closed when its handler returns; when it raises, that is logged, and the
    connection closed too. One beyond `max_handlers` is refused.
    """

    def __init__(self, handler: Handler, listener: Listener, places: Places) -> None:
        self.listener = listener
        self._handler = handler
        self._handlers: set[asyncio.Task[None]] = set()
        self._places = places
        self._crowding = Warnings(logger)
        self._task = asyncio.create_task(self._run(), name=f"tcpconn-server {listener.address}")

    @property
    def address(self) -> str:
        """Where it listens, in the form that `connect` takes."""
        return self.listener.address

    async def _run(self) -> None:
        while True:
            try:
                connection = await self.listener.take()
            except ConnectionClosed:
                return
            reason = self._places.take(connection.engine)
            if reason is not None:
                refuse(connection, reason, self._crowding)
                continue
            task = asyncio.create_task(self._handle(connection), name="tcpconn-handler")
            self._handlers.add(task)
            task.add_done_callback(self._handlers.discard)

    async def _handle(self, connection: Connection) -> None:
        try:
            if not await is_authorized(connection):
                return
            async with connection:
                await self._handler(connection)
        except ConnectionError as error:
            # A peer that goes away is everyday business for a server.
            logger.info("%s: %s", connection, error)
        except Exception:
            logger.exception("%s: the handler failed", connection)
        finally:
            self._places.give_back(connection.engine)

    async def wait(self) -> None:
        """Waits until the server is closed."""
        await asyncio.shield(self._task)

    async def close(self, timeout: float | None = 5, *, drain: bool = False) -> None:
        """Closes the listener and its links, and waits for handlers: `timeout` seconds in all.

        With `drain`, handlers go on with the connections that are open: see `Listener.close`.
        Handlers that are still at work then are cancelled.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        await self.listener.close(timeout, drain=drain)
        await asyncio.wait([self._task])
        handlers = [task for task in self._handlers if task is not asyncio.current_task()]
        if not handlers:
            return
        left = None if deadline is None else max(0.0, deadline - loop.time())
        _, late = await asyncio.wait(handlers, timeout=left)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    def __repr__(self) -> str:
        state = "closed" if self.listener.closed else f"{len(self._handlers)} handlers at work"
        return f"<aio.Server {self.address}, {state}>"


def serve(handler: Handler, address: Any, **options: Any) -> Opening[Server]:
    """Runs `await handler(connection)`, in a task, for each connection that a peer opens.

    To be awaited, or entered with `async with`, which closes it at the end; it serves from then on.
    Options and errors: as `listen`.
    """
    return Opening(_serve(handler, address, make_options(options)))


async def _serve(handler: Handler, address: Any, options: Options) -> Server:
    return Server(handler, Listener(address, options), Places(options.max_handlers))
