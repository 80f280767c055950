"""The receiving half of an endpoint."""

from typing_extensions import Buffer

from tcpconn._buffer import Lease
from tcpconn._engine import Engine
from tcpconn._frame import CODE_NAMES as CODE_NAMES

class Receiving:
    """What a connection can receive."""

    @property
    def engine(self) -> Engine:
        """What drives the link."""

    def receive(self, timeout: float | None = None) -> bytes:
        """The next message. Waits for it.

        What arrived before the peer closed the connection, or before the link broke, is handed out
        first. Then raises `ConnectionClosed` when the peer has closed it, so that there will be no
        more messages, or when it was closed here; `ConnectionReset`, `LinkLost` or `ProtocolError`
        when it ended in another way. Raises `Timeout` when there was no message in time: nothing is
        lost, call it again.
        """

    def _next(self) -> bytes | None:
        """The next message; None once the peer has closed the connection, and all was received.

        For iterating. Raises what else `receive` raises.
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
