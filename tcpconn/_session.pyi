"""The session as tests, tools and simulations see it: a state machine without I/O, PROTOCOL.md."""

from collections.abc import Callable
from typing import Literal, Self, TypeAlias, TypedDict

from typing_extensions import Buffer

from tcpconn._buffer import BlockPool
from tcpconn.options import Options

_Route: TypeAlias = Literal["idle", "open", "discarding", "ended"]

class _State(TypedDict):
    incoming: _Route
    outgoing: _Route
    in_code: int
    out_code: int
    unread: int
    unread_bytes: int
    send_credit: int
    outgoing_cost: int
    window: int
    receive_credit: int

class _Stats(TypedDict):
    connections: int
    unaccepted: int
    sequence: int
    acked: int
    received_sequence: int
    queued_bytes: int
    unwritten_bytes: int
    outgoing_bytes: int
    unread_bytes: int
    send_credit: int
    reserved: int
    receive_credit: int
    retired_bytes: int
    frames_received: int
    bytes_received: int
    bytes_sent: int
    round_trip_ns: int
    expected_bytes: int
    messages_in_use: int
    pieces_in_use: int

class Session:
    """One side of a session. `client` says who opened the link.

    A server gives a `secret` of 32 bytes to sessions that it keeps when their link is lost.

    Times are in nanoseconds of any monotonic clock. Ids are the 16 bytes of a UUID. Thread-safe.
    """

    def __new__(
        cls,
        options: Options | None = None,
        *,
        client: bool,
        blocks: BlockPool | None = None,
        secret: bytes | None = None,
    ) -> Self: ...
    @property
    def options(self) -> Options: ...
    def open(self, id: bytes, priority: int = -1) -> int:
        """Opens a connection, or meets the peer's. 0, or the code that stands against it."""

    def accept(self) -> bytes | None:
        """The id of the connection of the peer's that has waited longest."""

    def send(
        self, id: bytes, *buffers: Buffer
    ) -> Literal[True, "wait", "ended", "too large", "closed", "lost", "detached"]:
        """Queues one message. True, or a word that says why not."""

    def receive(self, id: bytes) -> bytes | None:
        """The oldest unread message."""

    def receive_slowly(self, id: bytes, meanwhile: Callable[[], object]) -> bytes | None:
        """The same; `meanwhile` is called between taking the message and copying it."""

    def finish(self, id: bytes) -> None:
        """Ends our direction behind what was sent; the peer's goes on."""

    def close(self, id: bytes, abruptly: bool = False) -> None:
        """Ends our direction, and tells the peer that its own will not be read."""

    def goaway(self) -> None:
        """No new connections from here on."""

    def ping(self, now: int) -> None:
        """Asks the peer for an answer, as soon as it must take a PING."""

    def ask_for_ack(self, now: int) -> None:
        """Asks the peer to acknowledge what is queued, behind it."""

    def feed(self, data: Buffer, now: int = 0) -> int:
        """Takes in what came from the link. How much was wanted: all, but after a failure or in a
        pause; then the rest, or b"", is to be fed later.
        """

    def output(self, most: int = 0xFFFFFFFF) -> bytes:
        """What is to be written now; b"" for nothing. It counts as written."""

    def lost(self) -> bool:
        """The link is gone. Whether the session is kept, and may be resumed."""

    def resume(self, count: int) -> bool:
        """There is another link, and the peer has taken so many frames. False: it cannot have."""

    def lose(self, renew: bool = True) -> None:
        """Gives up a session without a link. A client's begins again under another id (`renew`), or
        is over. The frames' numbers, epoch and so on begin again too.
        """

    def loss(self, id: bytes) -> tuple[int, list[bytes], list[bytes]] | None:
        """What a connection is to be told of the lost session, once: (acked, in doubt, unsent).
        None when there is nothing to tell.
        """

    @property
    def is_detached(self) -> bool:
        """Whether it has no link, and waits for another."""

    @property
    def session_id(self) -> bytes:
        """16 bytes, the same on both sides."""

    @property
    def secret(self) -> bytes | None:
        """What proves that a peer is this session's, 32 bytes; None: it is not kept."""

    @property
    def server_nonce(self) -> bytes:
        """16 bytes, from WELCOME."""

    @property
    def taken(self) -> int:
        """How many sequenced frames it has taken."""

    @property
    def acked(self) -> int:
        """How many of ours the peer has said to have taken."""

    @property
    def begins(self) -> bool:
        """Whether there is no session with the peer yet."""

    @property
    def epoch(self) -> int:
        """The number of its link."""

    def tick(self, now: int) -> None:
        """Tells the time, after `deadline` at the latest."""

    @property
    def deadline(self) -> int:
        """When `tick` should be called next, in ns; 0: no need."""

    @property
    def wants_write(self) -> bool:
        """Whether there is something that should go out now."""

    @property
    def is_open(self) -> bool:
        """Whether the handshake is done and nothing has gone wrong."""

    @property
    def end(self) -> tuple[Literal["lost", "told", "fault"], int, str, str] | None:
        """Why the session ended: (kind, code, section, text); None while it goes on."""

    @property
    def is_paused(self) -> bool:
        """Whether what was fed waits for memory, or for answers to be written."""

    @property
    def is_done(self) -> bool:
        """Nobody here uses the session, and the peer has acknowledged all that was said."""

    def events(self) -> list[tuple[bytes, set[Literal["message", "credit", "end"]]]]:
        """What happened to connections since the last call: (id, words)."""

    def state(self, id: bytes) -> _State:
        """The state of a connection."""

    def stats(self) -> _Stats:
        """The counters of the session."""
