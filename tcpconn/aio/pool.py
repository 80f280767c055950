"""The pool of an event loop: the multiplexers it shares between connections, by address."""

from __future__ import annotations

import uuid
from typing import Any

from tcpconn import pool as blocking
from tcpconn._loop import tie
from tcpconn.aio.connection import Connection
from tcpconn.aio.loops import Closing, Opening, in_thread, presence
from tcpconn.aio.multiplexer import Multiplexer
from tcpconn.errors import ConnectionClosed, Timeout, WrongLoop
from tcpconn.multiplexer import check_id, check_priority
from tcpconn.pool import EXIT_SECONDS, PoolStats


class ConnectionPool(Closing):
    """Shares links between connections to the same address. An asynchronous context manager.

    `links_per_address`: links made before connections share one. Options (see `Options`) are the
    default for `connect`. A link without connections is closed after `idle_timeout`. It belongs to
    the loop in which it is first used.
    """

    def __init__(self, *, links_per_address: int = 1, **options: Any) -> None:
        self._inner = blocking.ConnectionPool(links_per_address=links_per_address, **options)
        self._loop: Any = None

    def connect(
        self,
        address: Any,
        id: uuid.UUID | None = None,
        *,
        priority: int | None = None,
        timeout: float | None = 10.0,
        **options: Any,
    ) -> Opening[Connection]:
        """Opens the connection named `id` (a new one without) over a pooled link to `address`.

        To be awaited, or entered with `async with`. `timeout` in seconds bounds dialling and the
        handshake, which take place in a thread. Raises `AddressError`, `ResolveError`,
        `ConnectError`, `Timeout`, `NotTcpconn`, `VersionMismatch`, `ProtocolError` or
        `OptionError`; it tries once and does not loop.
        """
        return Opening(self._connect(address, id, priority, timeout, options))

    async def _connect(
        self,
        address: Any,
        id: uuid.UUID | None,
        priority: int | None,
        timeout: float | None,
        options: dict[str, Any],
    ) -> Connection:
        here = presence()
        if self._loop not in (None, here.herald.loop):
            raise WrongLoop("this pool belongs to another event loop: use one for each")
        self._loop = here.herald.loop
        check_priority(priority)
        if id is not None:
            check_id(id)
        multiplexer = self._inner.ready(address, options)
        connection: Connection
        if multiplexer is not None:
            try:
                connection = multiplexer.open_as(Connection, id, priority)
                tie(connection.engine, here.herald)
                return connection
            except (ConnectionClosed, Timeout):
                if multiplexer.takes_connections:
                    raise  # the connection is the trouble, not the link
        connection = await in_thread(
            lambda: self._inner.connect_as(Connection, address, id, priority, timeout, options),
            lambda opened: opened.abort(),
        )
        tie(connection.engine, here.herald)
        return connection

    @property
    def multiplexers(self) -> list[Multiplexer]:
        """Those with a link that is up."""
        return [Multiplexer.over(each) for each in self._inner.multiplexers]

    def stats(self) -> PoolStats:
        """The pool's counters now. Never waits."""
        return self._inner.stats()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._inner.closed

    async def close(self, timeout: float | None = 5) -> None:
        """Closes all links, each as `Multiplexer.close` does, in `timeout` seconds together."""
        await in_thread(lambda: self._inner.close(timeout))

    def __repr__(self) -> str:
        return repr(self._inner).replace("<", "<aio.", 1)


_defaults: dict[Any, ConnectionPool] = {}


def default_pool() -> ConnectionPool:
    """The running loop's pool, which `connect` uses. Made on first use, closed as the loop ends."""
    here = presence()
    pool = _defaults.get(here)
    if pool is None or pool.closed:
        chosen = pool = _defaults[here] = ConnectionPool()

        async def close() -> None:
            _defaults.pop(here, None)
            await chosen.close(EXIT_SECONDS)

        here.closing.append(close)
    return pool


def connect(
    address: Any,
    id: uuid.UUID | None = None,
    *,
    pool: ConnectionPool | None = None,
    priority: int | None = None,
    timeout: float | None = 10.0,
    **options: Any,
) -> Opening[Connection]:
    """Opens a connection to `address`, over a link that all connections to it share.

    To be awaited, or entered with `async with`, which closes the connection at the end. `address`:
    "host:port", "[::1]:port", (host, port) or "unix:/path". `id`: a `uuid.UUID`, a new one without;
    the peer may name the same one, and both meet. `pool`: the loop's own without. `priority`: 0
    (least) to 7. `timeout`: seconds for dialling and the handshake, None for no limit. Options: see
    `Options`.

    Raises `AddressError`, `ResolveError`, `ConnectError`, `Timeout`, `NotTcpconn`,
    `VersionMismatch`, `ProtocolError` or `OptionError`.
    """
    chosen = default_pool() if pool is None else pool
    return chosen.connect(address, id, priority=priority, timeout=timeout, **options)
