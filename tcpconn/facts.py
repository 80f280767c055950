"""What is known of connections and sessions, as the shell for threads and that for loops say it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tcpconn._driver import Driver


@dataclasses.dataclass(frozen=True, slots=True)
class ConnectionStats:
    """Counters of one connection at one moment."""

    messages_sent: int
    """Messages that `send` has taken."""
    messages_received: int
    """Messages handed out."""
    bytes_sent: int
    """Their bytes."""
    bytes_received: int
    unread_messages: int
    """Messages here that nobody has received yet."""
    unread_bytes: int
    send_credit: int
    """Bytes that the peer lets us send on this connection before it reads more."""
    receive_window: int
    """Unread bytes that this connection may hold; grows with use."""


@dataclasses.dataclass(frozen=True, slots=True)
class MultiplexerStats:
    """Counters of one session at one moment."""

    connections: int
    bytes_sent: int
    """On the link, headers included."""
    bytes_received: int
    frames_received: int
    queued_bytes: int
    """In the send queue: written and not acknowledged, or not yet written."""
    unread_bytes: int
    """Of messages that nobody has received yet."""
    round_trip_time: float | None
    """Seconds, smoothed."""


class SessionFacts:
    """Of a multiplexer's session. All may be asked from any thread, and never wait."""

    @property
    def key(self) -> Driver:
        """What stands for it where it must not be kept alive."""
        raise NotImplementedError

    @property
    def takes_connections(self) -> bool:
        """Whether `open` may succeed: the link is up and neither side is closing it."""
        return self.key.takes_connections

    @property
    def connection_count(self) -> int:
        """How many connections the session has, those included that the peer has not closed yet."""
        return self.key.connections

    @property
    def local_address(self) -> str:
        """This end of the link, in the form that `connect` takes."""
        return self.key.local_address

    @property
    def peer_address(self) -> str:
        """The other end of the link, in the form that `connect` takes."""
        return self.key.peer_address

    @property
    def detached(self) -> bool:
        """Whether there is no link at present, and the session waits for another."""
        return self.key.is_detached

    @property
    def round_trip_time(self) -> float | None:
        """Seconds for a round trip through the peer's session, smoothed; None: not measured."""
        return self.key.round_trip

    @property
    def closed(self) -> bool:
        """Whether the session is over: its link closed here or by the peer, or lost for good."""
        return self.key.is_over

    @property
    def state(self) -> str:
        """A word: open, without a link, closing, closed."""
        if self.key.is_over:
            return "closed"
        if self.key.is_detached:
            return "without a link"
        return "open" if self.key.takes_connections else "closing"

    @property
    def peer_certificate(self) -> dict[str, Any] | None:
        """The peer's, as `ssl.SSLSocket.getpeercert` gives it; None: none that was checked."""
        return self.key.peer_certificate

    def stats(self) -> MultiplexerStats:
        """The session's counters now. Thread-safe, never waits.

        Raises `ConnectionClosed` in a process that was forked after the link was made.
        """
        numbers = self.key.stats()
        return MultiplexerStats(
            connections=numbers["connections"],
            bytes_sent=numbers["bytes_sent"],
            bytes_received=numbers["bytes_received"],
            frames_received=numbers["frames_received"],
            queued_bytes=numbers["queued_bytes"] + numbers["outgoing_bytes"],
            unread_bytes=numbers["unread_bytes"],
            round_trip_time=self.key.round_trip,
        )
