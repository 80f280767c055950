"""The compiled half of a connection in an event loop."""

from collections.abc import Coroutine, Iterable
from typing import Any, Generic, Self, TypeVar

from typing_extensions import Buffer

from tcpconn._buffer import Lease
from tcpconn._endpoint import Endpoint
from tcpconn._engine import Engine

_T = TypeVar("_T")
_Kind = TypeVar("_Kind", bound=Endpoint)

class Operation(Coroutine[Any, Any, _T], Generic[_T]):
    """Something under way. Awaited once."""

    def __await__(self) -> Self: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> Any: ...
    def send(self, value: Any) -> Any:
        """One step: what to wait for; raises `StopIteration` with the result at the end."""

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        """It is called off with an exception."""

    def close(self) -> None:
        """It is called off."""

class Receive(Operation[Any]):
    """Takes a message, or several."""

class Send(Operation[None]):
    """Queues one message."""

class Settled(Operation[None]):
    """Waits until something is settled, and says nothing of how."""

class AsyncEndpoint(Endpoint):
    """Base of `tcpconn.aio.Connection`, which says what holds for all of its methods."""

    def receive(self) -> Coroutine[Any, Any, bytes]:  # type: ignore[override]
        """The next message. Waits for it.

        What arrived before the peer closed the connection, or before the link broke, is handed out
        first. Then raises `ConnectionClosed` when the peer has closed it, so that there will be no
        more messages, or when it was closed here; `ConnectionReset`, `LinkLost` or `ProtocolError`
        when it ended in another way. When it is cancelled, no message is lost.
        """

    def receive_into(self, buffer: Buffer) -> Coroutine[Any, Any, int]:  # type: ignore[override]
        """Receives the next message into a writable, C-contiguous buffer. Returns its size.

        The buffer is written to when the message is there, and in no other case. Raises
        `BufferTooSmall` (its `size` says what is needed): the message stays the next one, receive
        it in another way. `NotABuffer` for one that cannot be written to. Else as `receive`.
        """

    def receive_view(self) -> Coroutine[Any, Any, Lease]:  # type: ignore[override]
        """The next message where it lies, without a copy: a `Lease`, to be released after use.

            with await connection.receive_view() as lease, memoryview(lease) as view:
                ...

        A lease keeps a block of memory (128 KiB for small messages, which share it) in use until it
        and all views on it are released. For small messages `receive` is faster. Raises what
        `receive` raises.
        """

    def receive_many(  # type: ignore[override]
        self, limit: int | None = None
    ) -> Coroutine[Any, Any, list[bytes]]:
        """Waits for a message, and returns it with those that are there already: at most `limit`.

        Never returns an empty list. Raises what `receive` raises, or `ValueError` for a `limit`
        below 1.
        """

    def send(self, data: Buffer) -> Coroutine[Any, Any, None]:  # type: ignore[override]
        """Sends one message: bytes, or anything else with a C-contiguous buffer.

        Returns when the message is queued, whole; `flush` waits until the peer has it. Waits while
        the peer does not read what was sent before, or the link is slower than the sender. `data`
        may be changed as soon as this returns. When it is cancelled, nothing was sent.

        Raises `MessageTooLarge` and `NotABuffer`: nothing was sent, and the connection works on.
        `ConnectionClosed` when it is closed here, or by the peer, so that nobody would read the
        message; `ConnectionReset`, `LinkLost` or `ProtocolError` when it ended in another way.
        """

    def send_parts(  # type: ignore[override]
        self, buffers: Iterable[Buffer]
    ) -> Coroutine[Any, Any, None]:
        """Sends one message that is made of several buffers, without joining them first.

        The peer receives their bytes in a row. No buffers make an empty message. Everything else is
        as in `send`.
        """

    async def send_many(self, messages: Iterable[Buffer]) -> int:  # type: ignore[override]
        """Sends each of `messages` as `send` does, in as few writes as can be. Returns how many.

        What came first may wait for what comes last: an iterator should not take its time. When it
        raises, as `send` does, or is cancelled, the messages before the one in question are sent,
        that one and those behind it are not.
        """

    async def flush(self) -> None:  # type: ignore[override]
        """Waits until the peer has acknowledged all that was sent here before: it has reached the
        receive queue of the other process. That says nothing of whether its program has read it.

        Raises what has ended the connection when that happened before all was acknowledged;
        `LinkLost` when the session was lost meanwhile, and another call has raised `SessionLost`.
        """

    async def close(self, timeout: float | None = 5) -> None:  # type: ignore[override]
        """Ends the connection behind what was sent, and waits until the peer has acknowledged that.

        The peer can still receive all of it; then its `receive` raises `ConnectionClosed`, and so
        does its `send` from now on. Messages that nobody has received here are dropped. Tasks that
        wait on this connection are woken, with `ConnectionClosed`. Closing it again does nothing.
        When it is cancelled, the connection is closed all the same.

        Raises `Timeout` when the peer did not acknowledge within `timeout` seconds; the connection
        is aborted then, and what had not left is lost. Raises what ended the link when it ended
        before that.
        """

    def __aiter__(self) -> Self: ...
    def __anext__(self) -> Coroutine[Any, Any, bytes]: ...
    async def await_all_acks(self) -> None:
        """Waits until the peer has acknowledged all that was sent here, or all is over."""

async def accept_async(kind: type[_Kind], engine: Engine) -> _Kind:
    """The next connection that the peer opens, of class `kind`, about which nobody was asked yet.
    Raises why there will be none.
    """

async def ping_async(engine: Engine) -> float:
    """A round trip through the peer's session, in seconds, smoothed. Raises the end."""
