"""The compiled half of a connection."""

from typing import TypeVar
from uuid import UUID

from tcpconn._engine import Engine
from tcpconn._sending import Sending

_Kind = TypeVar("_Kind", bound=Endpoint)

class Endpoint(Sending):
    """Base of `Connection`, which says what holds for all of its methods."""

    def flush(self, timeout: float | None = None) -> None:
        """Waits until the peer has acknowledged all that was sent here before: it has reached the
        receive queue of the other process. That says nothing of whether its program has read it.

        Raises `Timeout` when it took longer: nothing is lost, it is still on its way; call it
        again. Raises what has ended the connection when that happened before all was acknowledged;
        `LinkLost` when the session was lost meanwhile, and another call has raised `SessionLost`.
        """

    def close(self, timeout: float | None = 5) -> None:
        """Ends the connection behind what was sent, and waits until the peer has acknowledged that.

        The peer can still receive all of it; then its `receive` raises `ConnectionClosed`, and so
        does its `send` from now on. Messages that nobody has received here are dropped. Threads
        that wait on this connection are woken, with `ConnectionClosed`. Closing it again does
        nothing.

        Raises `Timeout` when the peer did not acknowledge in time; the connection is aborted then,
        and what had not left is lost. Raises what ended the link when it ended before that.
        """

    def abort(self) -> None:
        """Ends the connection now, without waiting: what was sent and has not left is dropped.

        The peer can receive the messages that it has already; then it gets `ConnectionReset`.
        Threads that wait on this connection are woken with the same. Never raises; may be called at
        any time.
        """

    @property
    def id(self) -> UUID:
        """What names the connection on both sides."""

    @property
    def priority(self) -> int:
        """How urgent what is sent here is, among the connections of the link: 0 (least) to 7."""

    @property
    def local_address(self) -> str:
        """This end of the link, in the form that `connect` takes."""

    @property
    def peer_address(self) -> str:
        """The other end of the link, in the form that `connect` takes."""

    @property
    def closed(self) -> bool:
        """Whether it is over on this side: closed or aborted here, or the link is gone.

        False while the peer alone has closed it: what it sent before can still be received.
        """

    @property
    def state(self) -> str:
        """For people: open, without a link, finished by peer, reset by peer, closed, aborted, ended
        or lost.
        """

    def counters(self) -> tuple[int, int, int, int, int, int, int, int]:
        """Messages sent, received, bytes sent, received, unread messages, bytes, credit, window."""

def open_endpoint(
    kind: type[_Kind], engine: Engine, id: bytes | None = None, priority: int = -1
) -> _Kind:
    """Opens the connection named `id` (16 bytes; None: a new one) as an object of class `kind`.

    Raises why not.
    """

def accept_endpoint(
    kind: type[_Kind], engine: Engine, timeout: float | None = 0, asks: bool = True
) -> _Kind | None:
    """The next connection that the peer opened, of class `kind`; None if there is none in time.

    Those that the option `authorize` refuses are passed over. Without `asks`, that is still to be
    found out: `ask` and `let_in` come before any use.
    """

def is_in_question(endpoint: Endpoint) -> bool:
    """Whether `authorize` is to be asked about a connection that was just accepted."""

def ask(endpoint: Endpoint) -> object:
    """What `authorize` answers about a connection."""

def let_in(endpoint: Endpoint, wanted: object, error: BaseException | None = None) -> bool:
    """A connection about which was asked is let in, or refused. Whether it is `wanted`; `error` is
    why nobody knows.
    """

def is_authorized(endpoint: Endpoint) -> bool:
    """Asks `authorize` about a connection, and refuses what it does not want, or fails at."""

def refuse_endpoint(endpoint: Endpoint) -> None:
    """Gives back a connection that was just accepted: a limit was reached."""

def endpoints(engine: Engine) -> list[Endpoint]:
    """The objects that stand for connections of an engine."""
