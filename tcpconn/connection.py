"""A connection: the user's end of a stream of messages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tcpconn._endpoint import Endpoint
from tcpconn.errors import ConnectionClosed, ConnectionReset, LinkLost
from tcpconn.facts import ConnectionStats

if TYPE_CHECKING:
    from tcpconn.multiplexer import Multiplexer


class Connection(Endpoint):
    """A two-way, ordered stream of messages with a peer, named by a UUID.

    Made by `connect`, `wrap`, `Multiplexer.open`, or accepted from a `Listener`. As a context
    manager it closes at the end. Iterating receives until the peer has closed it, and raises when
    the connection ended in another way.

    Any number of threads may use one connection at once; each message goes to exactly one receiver.
    Timeouts are in seconds: None waits without limit, 0 does not wait. A signal handler that raises
    (Ctrl-C) ends any wait, and no message is lost by that. Once the connection is over, methods
    raise why: `ConnectionClosed` (in order, or closed here), `ConnectionReset` (abruptly, by the
    peer or by `abort`), `LinkLost` (the link broke), `ProtocolError` (a side broke the protocol).
    """

    __slots__ = ("__weakref__", "_keeps")

    _keeps: Multiplexer
    """So that a multiplexer lives as long as what the user opened on it."""

    @property
    def multiplexer(self) -> Multiplexer | None:
        """The multiplexer that carries this connection; None when it is gone."""
        multiplexer: Multiplexer | None = self.engine.home()
        return multiplexer

    def stats(self) -> ConnectionStats:
        """This connection's counters now. Thread-safe, never waits."""
        return ConnectionStats(*self.counters())

    def __iter__(self) -> Iterator[bytes]:
        while True:
            try:
                message = self._next()
            except (ConnectionReset, LinkLost):
                raise
            except ConnectionClosed:  # closed here, meanwhile
                return
            if message is None:
                return
            yield message

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
            return
        # Something went wrong already: do not wait, and do not hide it behind another error.
        with contextlib.suppress(OSError):
            self.close(timeout=0)

    def __repr__(self) -> str:
        return f"<Connection {self.id} {self.state}, peer {self.peer_address}>"
