"""A multiplexer in an event loop: the blocking one, and what there is to be awaited of it."""

from __future__ import annotations

import socket
import uuid
import weakref
from collections.abc import Generator
from types import TracebackType
from typing import Any, Self

from tcpconn import multiplexer as blocking
from tcpconn._aio import accept_async, ping_async
from tcpconn._driver import Driver
from tcpconn._loop import tie
from tcpconn.aio.asking import Asking
from tcpconn.aio.connection import Connection
from tcpconn.aio.loops import Opening, Presence, in_thread, presence
from tcpconn.errors import ConnectionClosed
from tcpconn.facts import SessionFacts
from tcpconn.multiplexer import check_id, check_priority, wrapped
from tcpconn.options import make_options


class Multiplexer(SessionFacts):
    """Carries many connections over one session, and drives its link in the running loop.

    Made by `await Multiplexer(target, ...)` or `async with Multiplexer(target, ...)`, which closes
    it at the end. `target` is an address, which is dialled, or a connected stream socket, which the
    multiplexer owns from then on. `client` says who greets first: by default who dialled does, and
    who was given a socket waits. `timeout` in seconds bounds dialling and the handshake. Options:
    see `Options`.

    Raises what `connect` raises.
    """

    _inner: blocking.Multiplexer

    def __init__(
        self,
        target: Any,
        *,
        client: bool | None = None,
        timeout: float | None = 10.0,
        **options: Any,
    ) -> None:
        make_options(options)

        def make() -> blocking.Multiplexer:
            return blocking.Multiplexer(target, client=client, timeout=timeout, **options)

        self._make = make

    @classmethod
    def over(cls, inner: blocking.Multiplexer) -> Self:
        """That of a session that there is; it belongs to the running loop from then on."""
        multiplexer = _known.get(inner.key)
        if not isinstance(multiplexer, cls):
            multiplexer = cls.__new__(cls)
            multiplexer._hold(inner, presence())
        return multiplexer

    def _hold(self, inner: blocking.Multiplexer, here: Presence) -> None:
        tie(inner.key, here.herald)
        self._inner = inner
        self._asking = None if inner.options.authorize is None else Asking()
        _known[inner.key] = self

    async def _begin(self) -> Self:
        if not hasattr(self, "_inner"):
            here = presence()
            inner = await in_thread(self._make, lambda made: made.abort())
            self._hold(inner, here)
        return self

    @property
    def key(self) -> Driver:
        """What stands for it where it must not be kept alive."""
        return self._inner.key

    def __await__(self) -> Generator[Any, Any, Self]:
        return self._begin().__await__()

    # Connections

    def open(self, id: uuid.UUID | None = None, *, priority: int | None = None) -> Connection:
        """Opens the connection named `id` (a new one without), or meets the peer who has opened it.

        Does not wait. `priority` is 0 (least) to 7, 3 by default; it governs what we send, and is
        told to the peer. Raises `ConnectionClosed` when the link is closed or closing, or when the
        connection is open here already.
        """
        connection: Connection = self._inner.open_as(Connection, id, priority)
        return connection

    async def accept(self) -> Connection:
        """Waits for a connection that the peer opens.

        Raises `ConnectionClosed` and its like when the link ends. What a listener made is accepted
        there.
        """
        if not self._inner.accepts:
            raise ConnectionClosed("connections of this multiplexer are accepted by its listener")
        if self._asking is None:
            connection: Connection = await accept_async(Connection, self.key)
        else:
            connection = await self._asking.accept(
                lambda: accept_async(Connection, self.key), lambda: None
            )
        connection._keeps = self._inner
        return connection

    @property
    def connections(self) -> list[Connection]:
        """The connections in use here."""
        return [each for each in self._inner.all_connections() if isinstance(each, Connection)]

    # The link

    async def ping(self) -> float:
        """Measures a round trip, and returns it smoothed with earlier ones, in seconds.

        Peers need not take more than one PING a second: after eight in a row, or while another is
        on its way, it waits its turn. Raises why the link ended.
        """
        seconds: float = await ping_async(self.key)
        return seconds

    async def drain(self, timeout: float | None = None) -> bool:
        """Takes no new connections from either side, and waits until those there are have ended.

        Returns whether they have within `timeout` seconds, with all acknowledged; the link is
        closed then. Nothing is cut short: to do that, `close` afterwards.
        """
        return await in_thread(lambda: self._inner.drain(timeout))

    async def close(self, timeout: float | None = 5) -> None:
        """Ends all connections, and closes the link once the peer has acknowledged what was sent.

        After `timeout` seconds it is closed all the same, and that is logged. Never raises for what
        the peer did not take: that is `Connection.close`'s and `flush`'s to say. Calling it again
        does nothing.
        """
        await in_thread(lambda: self._inner.close(timeout))

    def abort(self) -> None:
        """Closes the link at once. What was not acknowledged may be lost."""
        self.key.abort()

    async def __aenter__(self) -> Self:
        return await self._begin()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.close()
        else:
            self.abort()

    def __repr__(self) -> str:
        if not hasattr(self, "_inner"):
            return "<aio.Multiplexer not connected>"
        return repr(self._inner).replace("<Multiplexer", "<aio.Multiplexer", 1)


_known: weakref.WeakValueDictionary[Driver, Multiplexer] = weakref.WeakValueDictionary()
"""Those in use: of each session there is one."""


def wrap(
    sock: socket.socket,
    id: uuid.UUID | None = None,
    *,
    priority: int | None = None,
    timeout: float | None = 10.0,
    **options: Any,
) -> Opening[Connection]:
    """Serves an accepted socket: the connection `id` on it, or else the next that the peer opens.

    To be awaited, or entered with `async with`. The socket belongs to tcpconn from then on. Calling
    it again with the same socket gives further connections on the same link. The link is closed
    once its connections are, and `idle_timeout` is over. `timeout` in seconds is for the handshake
    of TLS and `authkey`, if there is one. Raises `Timeout`, `ConnectionClosed`, `ProtocolError`,
    `OptionError`.
    """
    check_priority(priority)
    if id is not None:
        check_id(id)
    return Opening(_wrap(sock, id, priority, timeout, options))


async def _wrap(
    sock: socket.socket,
    id: uuid.UUID | None,
    priority: int | None,
    timeout: float | None,
    options: dict[str, Any],
) -> Connection:
    multiplexer = Multiplexer.over(await in_thread(lambda: wrapped(sock, timeout, options)))
    if id is None:
        return await multiplexer.accept()
    return multiplexer.open(id, priority=priority)
