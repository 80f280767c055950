"""An engine as the shell uses it: starting, measuring and ending a session."""

from tcpconn._engine import Engine

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
