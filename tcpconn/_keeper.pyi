"""The keeper and the flusher: one thread each per process and kind of link."""

import threading
from collections.abc import Callable
from typing import Any, Self

from tcpconn._driver import Driver
from tcpconn._engine import Acceptor, Engine, Service
from tcpconn._link import Link, Poller
from tcpconn._session import Session

class Keeper(Service):
    """Serves engines of one kind of link. Ends when it has none left; a new one is made then."""

    def __new__(cls, poller: Poller) -> Self: ...
    @property
    def threads(self) -> list[threading.Thread]:
        """The keeper's and the flusher's, once there is an engine."""

    def reserve(self) -> bool:
        """Stays for an engine to come. False when it is about to end: then ask another."""

    def cancel(self) -> None:
        """The engine does not come."""

    def register(self, engine: Engine) -> None:
        """Takes an engine into its care, for which there is a reservation."""

    def keep(self) -> None:
        """What the keeper's thread runs, until there is nothing left to keep."""

    def write(self) -> None:
        """What the flusher's thread runs, until the keeper ends."""

def make_link(stream: Any, kind: str) -> Link:
    """The link class for `kind` ("auto", "native", "stdlib") around a connected socket.

    A stream through TLS, whose handshake is done, gives a link through TLS. Raises `ValueError` for
    "native" where there is none.
    """

def make_poller(link: Link) -> Poller:
    """A poller for links of the same kind."""

def keeper_for(link: Link) -> Keeper:
    """The keeper that looks after links of this kind; a new one if the last has ended."""

def make_engine(
    session: Session,
    link: Link,
    acceptor: Acceptor | None = None,
    prepare: Callable[[Driver], object] | None = None,
) -> Driver:
    """An engine in the care of a keeper; `prepare(engine)` is called before others see it."""

def reserve_keeper(link: Link) -> Keeper:
    """A keeper that stays for the engine of this link."""

def attach_link(engine: Driver, link: Link, received: int | None = None) -> bool:
    """Gives an engine without a link another one; `received` as in `Driver.attach`. Whether it took
    it.
    """

def join_ended_keepers(timeout: float | None) -> None:
    """Waits until keepers that are about to end have ended (seconds)."""
