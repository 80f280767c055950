"""The compiled half of a connection."""

from collections.abc import Iterable
from typing import TypeVar
from uuid import UUID

from typing_extensions import Buffer

from tcpconn._buffer import Lease
from tcpconn._engine import Engine
from tcpconn._frame import CODE_NAMES as CODE_NAMES

_Kind = TypeVar("_Kind", bound=Endpoint)

class Endpoint:
    """Base of `Connection`, which says what holds for all of its methods."""

    @property
    def engine(self) -> Engine:
        """What drives the link."""

    def send(self, data: Buffer, timeout: float | None = None) -> None:
        """Sends one message: bytes, or anything else with a C-contiguous buffer.

        Returns when the message is queued, whole; `flush` waits until the peer has it. Waits while
        the peer does not read what was sent before, or the link is slower than the sender. `data`
        may be changed as soon as this returns.

        Raises `Timeout` when there was no room in time: nothing was sent, send it again if you
        like. `MessageTooLarge` and `NotABuffer`: nothing was sent either, and the connection works
        on. `ConnectionClosed` when it is closed here, or by the peer, so that nobody would read the
        message; `ConnectionReset`, `LinkLost` or `ProtocolError` when it ended in another way.
        """

    def send_parts(self, buffers: Iterable[Buffer], timeout: float | None = None) -> None:
        """Sends one message that is made of several buffers, without joining them first.

        The peer receives their bytes in a row. No buffers make an empty message. Everything else is
        as in `send`.
        """

    def send_many(self, messages: Iterable[Buffer], timeout: float | None = None) -> int:
        """Sends each of `messages` as `send` does, in as few writes as can be. Returns how many.

        What came first may wait for what comes last: an iterator should not take its time.
        `timeout` is for each message. When it raises, as `send` does, the messages before the one
        in question are sent, that one and those behind it are not.
        """

    def receive(self, timeout: float | None = None) -> bytes:
        """The next message. Waits for it.

        What arrived before the peer closed the connection, or before the link broke, is handed out
        first. Then raises `ConnectionClosed` when the peer has closed it, so that there will be no
        more messages, or when it was closed here; `ConnectionReset`, `LinkLost` or `ProtocolError`
        when it ended in another way. Raises `Timeout` when there was no message in time: nothing is
        lost, call it again.
        """

    def receive_into(self, buffer: Buffer, timeout: float | None = None) -> int:
        """Receives the next message into a writable, C-contiguous buffer. Returns its size.

        A large message comes straight from the socket if nothing else was waiting. The buffer
        behind the message, or all of it when this raises, has undefined contents.

        Raises `BufferTooSmall` (its `size` says what is needed): the message stays the next one,
        receive it in another way. `NotABuffer` for one that cannot be written to. Else as
        `receive`.
        """

    def receive_view(self, timeout: float | None = None) -> Lease:
        """The next message where it lies, without a copy: a `Lease`, to be released after use.

            with connection.receive_view() as lease, memoryview(lease) as view:
                ...

        A lease keeps a block of memory (128 KiB for small messages, which share it) in use until it
        and all views on it are released. For small messages `receive` is faster. Raises what
        `receive` raises.
        """

    def receive_many(self, limit: int | None = None, timeout: float | None = None) -> list[bytes]:
        """Waits for a message, and returns it with those that are there already: at most `limit`.

        Never returns an empty list. Raises what `receive` raises, or `ValueError` for a `limit`
        below 1.
        """

    def flush(self, timeout: float | None = None) -> None:
        """Waits until the peer has acknowledged all that was sent here before: it has reached the
        receive queue of the other process. That says nothing of whether its program has read it.

        Raises `Timeout` when it took longer: nothing is lost, it is still on its way; call it
        again. Raises what has ended the connection when that happened before all was acknowledged.
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
    def closed(self) -> bool:
        """Whether it is over on this side: closed or aborted here, or the link is gone.

        False while the peer alone has closed it: what it sent before can still be received.
        """

    @property
    def state(self) -> str:
        """For people: open, finished by peer, reset by peer, closed, aborted, ended or lost."""

    def counters(self) -> tuple[int, int, int, int, int, int, int, int]:
        """Messages sent, received, bytes sent, received, unread messages, bytes, credit, window."""

def open_endpoint(kind: type[_Kind], engine: Engine, id: bytes, priority: int = -1) -> _Kind:
    """Opens the connection named `id` (16 bytes) as an object of class `kind`. Raises why not."""

def accept_endpoint(kind: type[_Kind], engine: Engine, timeout: float | None = 0) -> _Kind | None:
    """The next connection that the peer opened, of class `kind`; None if there is none in time."""

def endpoints(engine: Engine) -> list[Endpoint]:
    """The objects that stand for connections of an engine."""
