"""One queue of connections to be accepted, over many engines."""

from typing import TypeVar

from tcpconn._endpoint import Endpoint
from tcpconn._engine import Acceptor, Engine

_Kind = TypeVar("_Kind", bound=Endpoint)

class AcceptQueue(Acceptor):
    """Hands out connections in the order in which their engines lined up, one of each in turn.

    Thread-safe.
    """

    def next(
        self, kind: type[_Kind], timeout: float | None = None, asks: bool = True
    ) -> _Kind | None:
        """The next connection, as an object of class `kind`; `asks` as in `accept_endpoint`.

        None when the time (seconds) is over or the queue is closed.
        """

    def take(self, kind: type[_Kind], engine: Engine, asks: bool) -> _Kind | None:
        """A connection of an engine that was in the line; it lines up again if it has more."""

    def holds_ended(self, engine: Engine) -> bool:
        """Whether there is still something to be accepted of an engine whose link is gone."""

    def close(self) -> None:
        """Everybody who waits gets None."""
