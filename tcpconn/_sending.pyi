"""The sending half of an endpoint."""

from collections.abc import Iterable

from typing_extensions import Buffer

from tcpconn._receiving import Receiving

class Sending(Receiving):
    """What a connection can send."""

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
