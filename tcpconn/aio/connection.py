"""A connection in an event loop: the user's end of a stream of messages."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tcpconn import multiplexer as blocking
from tcpconn._aio import AsyncEndpoint
from tcpconn.facts import ConnectionStats

if TYPE_CHECKING:
    from tcpconn.aio.multiplexer import Multiplexer


class Connection(AsyncEndpoint):
    """A two-way, ordered stream of messages with a peer, named by a UUID.

    Made by `connect`, `wrap`, `Multiplexer.open`, or accepted from a `Listener`. `async with`
    closes it at the end. `async for` receives until the peer has closed it, and raises when the
    connection ended in another way.

    Any number of tasks of its loop may use one connection at once; each message goes to exactly one
    receiver. A `receive` that is cancelled loses no message; a `send` that is cancelled has queued
    its message whole or not at all. Once the connection is over, methods raise why:
    `ConnectionClosed` (in order, or closed here), `ConnectionReset` (abruptly, by the peer or by
    `abort`), `LinkLost` (the link broke), `ProtocolError` (a side broke the protocol). In another
    loop or thread they raise `WrongLoop`.
    """

    __slots__ = ("__weakref__", "_keeps")

    _keeps: blocking.Multiplexer
    """So that a multiplexer lives as long as what the user opened on it."""

    @property
    def multiplexer(self) -> Multiplexer | None:
        """The multiplexer that carries this connection; None when it is gone."""
        from tcpconn.aio.multiplexer import Multiplexer

        multiplexer = self.engine.home()
        return None if multiplexer is None else Multiplexer.over(multiplexer)

    def stats(self) -> ConnectionStats:
        """This connection's counters now. Never waits."""
        return ConnectionStats(*self.counters())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.close()
            return
        # Something went wrong already: do not wait, and do not hide it behind another error.
        with contextlib.suppress(OSError):
            await self.close(timeout=0)

    def __repr__(self) -> str:
        return f"<aio.Connection {self.id} {self.state}, peer {self.peer_address}>"
