"""An engine as the shell uses it: starting, measuring and ending a session."""

from collections.abc import Callable

from tcpconn._engine import Engine, Service
from tcpconn._link import Link

class Driver(Engine):
    """One session over one link. Thread-safe; timeouts in seconds, None for no limit."""

    def start(self, timeout: float | None = None) -> None:
        """Sends what the session has to say first and, for a client, waits for the handshake's end.

        Raises `Timeout`, or why the session ended.
        """

    def error(self) -> Exception | None:
        """Why the session ended, as an exception; None while it goes on."""

    def set_idle_timeout(self, seconds: float) -> None:
        """Closes the link after so many seconds without connections."""

    def poll(self) -> bool:
        """Takes in what has come, unless somebody is at it anyway. Returns whether a connection may
        be opened, and there is a link for it.
        """

    def ping(self, timeout: float | None = None) -> float:
        """A round trip through the peer's session, in seconds, smoothed. Raises `Timeout`, or the
        end.
        """

    def drain(self, timeout: float | None = None) -> bool:
        """Takes no new connections, and waits until those there are have ended on both sides.

        Returns whether they have in time, and the peer has acknowledged all. Nothing is cut short.
        """

    def close(self, timeout: float | None = None) -> bool:
        """Ends all connections, waits until the peer has what was sent, and closes the link.

        Returns whether the peer had everything in time.
        """

    def finished(self) -> None:
        """The keeper has let go of the link: closes its descriptors, and says so."""

    def ended(self) -> None:
        """All is over, and nothing at work any more."""

    def keep(self, on_detach: Callable[[], object]) -> None:
        """The session outlives its link, if the peer keeps it too: `on_detach` is called then."""

    def attach(self, link: Link, service: Service, received: int | None) -> bool:
        """Gives the session another link, in the care of `service`, which registers it next.

        `received`: how many frames the peer has taken; None for a session that begins again.
        False when it has a link, is over, or the peer cannot have taken so many.
        """

    def go_on(self) -> None:
        """The link is in a keeper's care: sends what there is, and lets somebody read."""

    def wait_attached(self, timeout: float | None, last_error: Exception | None = None) -> None:
        """Waits until there is a link. Raises `last_error`, or `Timeout`, if it takes too long."""

    def may_resume(self, received: int) -> bool:
        """Whether the peer can have taken so many frames."""

    def unlink(self, epoch: int) -> bool:
        """Takes the link away, for one of a later epoch. False: there was a later one, or the
        session is over. `on_detach` is called once nobody is at work on it any more.
        """

    def rest(self) -> None:
        """Nobody sees to another link until the session is used again. Who waits is told."""

    def next_epoch(self) -> int:
        """The number for the next link."""

    def lose(self, reason: str, renew: bool) -> bool:
        """Gives up the session, which has no link: its connections are told, and what they had
        sent. A client's begins again (`renew`); else all is over. False: it has a link, or is over.
        """

    @property
    def is_loose(self) -> bool:
        """Whether it waits for another link, and nobody is at work on one."""

    @property
    def held_bytes(self) -> int:
        """What its messages hold: those the peer has not acknowledged, and those nobody has
        received.
        """

    def abort(self) -> None:
        """Closes the link at once, and tells the peer so, if it can be told without waiting."""

    @property
    def takes_connections(self) -> bool:
        """Whether a connection may be opened."""

    @property
    def connections(self) -> int:
        """How many connections the session has."""

    def stats(self) -> dict[str, int]:
        """The session's counters. In a forked child, whose they are not, `ConnectionClosed`."""

    @property
    def round_trip(self) -> float | None:
        """Seconds, or None when nothing was measured yet."""
