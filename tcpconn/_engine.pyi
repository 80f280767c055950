"""The engine: one session driven over one link by whoever waits on it."""

from collections.abc import Callable
from typing import Any, Self

from tcpconn._link import Link
from tcpconn._session import Session
from tcpconn._waiting import Waiting

class Service:
    """What the engine needs of the process's threads."""

class Acceptor:
    """Who accepts from many engines."""

    def ended_engine(self, engine: Engine) -> None:
        """The link of an engine is gone; called before its keeper lets go of it."""

class Engine(Waiting):
    """One session over one link. Thread-safe; timeouts in seconds, None for no limit."""

    on_end: Callable[[], object] | None
    """Called once when the link's descriptors are closed, by the keeper's thread."""

    on_detach: Callable[[], object] | None
    """Called by the keeper's thread when the link is gone and the session kept."""

    on_link: Callable[[], object] | None
    """Called when the session has got another link, by the thread that made it."""

    on_use: Callable[[], object] | None
    """Called when a dormant session is used."""

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
    @property
    def peer_certificate(self) -> dict[str, Any] | None:
        """The peer's, as `ssl.SSLSocket.getpeercert` gives it; None: none that was checked."""

    @property
    def is_over(self) -> bool:
        """Whether the session is over."""

    @property
    def is_detached(self) -> bool:
        """Whether there is no link, and the session is kept."""
