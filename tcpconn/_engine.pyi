"""The engine: one session driven over one link by whoever waits on it."""

from collections.abc import Callable
from typing import Any, Self

from tcpconn._frame import CODE_NAMES as CODE_NAMES
from tcpconn._link import Link
from tcpconn._session import Session

class Service:
    """What the engine needs of the process's threads."""

class Acceptor:
    """Who accepts from many engines."""

    def ended_engine(self, engine: Engine) -> None:
        """The link of an engine is gone; called before its keeper lets go of it."""

class Engine:
    """One session over one link. Thread-safe; timeouts in seconds, None for no limit."""

    on_end: Callable[[], object] | None
    """Called once when the link's descriptors are closed, by the keeper's thread."""

    local_address: str
    peer_address: str

    home: Any
    """A weak reference to the multiplexer."""

    def __new__(
        cls, session: Session, link: Link, service: Service, acceptor: Acceptor | None = None
    ) -> Self: ...
    @property
    def session(self) -> Session: ...
    @property
    def link(self) -> Link: ...
    @property
    def acceptor(self) -> Acceptor | None: ...
    def start(self, timeout: float | None = None) -> None:
        """Sends what the session has to say first and, for a client, waits for the handshake's end.

        Raises `Timeout`, or why the session ended.
        """

    def why(self) -> str:
        """What the system says of a broken link, to be put behind a sentence; empty for nothing."""

    def error(self) -> Exception | None:
        """Why the session ended, as an exception; None while it goes on."""

    def set_idle_timeout(self, seconds: float) -> None:
        """Closes the link after so many seconds without connections."""

    def poll(self) -> None:
        """Takes in what has come, unless somebody is at it anyway."""

    def ping(self, timeout: float | None = None) -> float:
        """A round trip through the peer's session, in seconds, smoothed. Raises `Timeout`, or the
        end.
        """

    def close(self, timeout: float | None = None) -> bool:
        """Ends all connections, waits until the peer has what was sent, and closes the link.

        Returns whether the peer had everything in time.
        """

    def abort(self) -> None:
        """Closes the link at once."""

    @property
    def is_down(self) -> bool: ...
    @property
    def takes_connections(self) -> bool:
        """Whether a connection may be opened."""

    @property
    def connections(self) -> int:
        """How many connections the session has."""

    @property
    def round_trip(self) -> float | None:
        """Seconds, or None when nothing was measured yet."""

    def finished(self) -> None:
        """The keeper has let go of the link: closes its descriptors and says so."""
