"""What the peers share: who they are, and how the two sides of a one-way run understand each other.

Also the loops of all libraries that block: they differ in their `send` and `receive` only.
"""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.subjects.base import Chosen, Client, Subject, block_of
from benchmarks.subjects.framing import WARM_UP

REQUEST = struct.Struct(">BQI")
"""Before a one-way run the client says: direction, how many messages, of how many bytes."""
SENDS, RECEIVES = 1, 2
READY, DONE = b"r", b"d"

Send = Callable[[Any], Any]
Receive = Callable[[], Any]


class Peer(Subject):
    """Another library; left out where it is not installed."""

    chosen = Chosen.PEERS
    needs: tuple[str, ...] = ()
    """Modules that must be there."""

    def missing(self) -> str | None:
        """What is not installed."""
        absent = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if not absent:
            return None
        return f"no module {absent[0]}; `pip install 'tcpconn[peers]'` or `make bench-peers`"


class RoundTrips(Client):
    """Request and reply, with calls that block."""

    def __init__(self, payload: bytes, send: Send, receive: Receive) -> None:
        self.payload = payload
        self.send = send
        self.receive = receive

    def run(self, ticks: Iterable[object]) -> None:
        """Sends the payload, receives the answer."""
        payload, send, receive = self.payload, self.send, self.receive
        for _ in ticks:
            send(payload)
            receive()


class Sends(RoundTrips):
    """A plain loop of the library's `send`."""

    def __init__(self, payload: bytes, send: Send, receive: Receive) -> None:
        super().__init__(payload, send, receive)
        self.per_stamp = block_of(len(payload))

    def begin(self, count: int) -> None:
        """Asks the server to take `count` messages."""
        self.send(REQUEST.pack(SENDS, count, len(self.payload)))
        self.expect(READY)

    def run(self, ticks: Iterable[object]) -> None:
        """Sends the payload."""
        payload, send = self.payload, self.send
        for _ in ticks:
            send(payload)

    def finish(self) -> None:
        """Waits until the receiver has them all."""
        self.expect(DONE)

    def expect(self, word: bytes) -> None:
        """The next message is `word`."""
        if bytes(self.receive()) != word:
            raise EOFError(f"the server did not answer {word!r}")


class Receives(RoundTrips):
    """A plain loop of the library's `receive`."""

    def __init__(self, payload: bytes, send: Send, receive: Receive) -> None:
        super().__init__(payload, send, receive)
        self.per_stamp = block_of(len(payload))

    def begin(self, count: int) -> None:
        """Asks the server to send `count` messages and some more, and takes those."""
        self.send(REQUEST.pack(RECEIVES, count + WARM_UP, len(self.payload)))
        for _ in range(WARM_UP):
            self.receive()

    def run(self, ticks: Iterable[object]) -> None:
        """Receives a message."""
        receive = self.receive
        for _ in ticks:
            receive()


def echo(send: Send, receive: Receive) -> None:
    """Sends every message back."""
    while True:
        send(receive())


def serve_one_way(send: Send, receive: Receive) -> None:
    """Takes or sends as many messages as the client asks for, again and again."""
    while True:
        direction, count, size = REQUEST.unpack(receive())
        if direction == SENDS:
            send(READY)
            for _ in range(count):
                receive()
            send(DONE)
        else:
            payload = bytes(size)
            for _ in range(count):
                send(payload)
