"""The hot paths, as `benchmarks.cost` runs them under callgrind: python -m benchmarks.hot_paths

Each path is a few regions. A region begins and ends with a call of `getppid`, at which callgrind
writes out what it has counted since the one before (`--dump-before`). So the regions are told apart
without anything compiled. `plan()` says which region is which, in order.

*Without sockets*: two sessions, each fed what the other has to say. One thread, no clock, so that
the counts are the same each time. Every region is run with N and with 2 N messages; the difference
is what N messages cost, without what a region costs once.

*With sockets*: the calls that users make, over the loopback, both ends in one thread: a batch of
messages sent, then received, many times; the round in the middle counts. Nothing may depend on the
machine's speed: what `send` sends is kept apart by more than what makes a stream of it, and what is
received has all been read from the socket before, by the keeper. (What reading costs is counted
without sockets.)
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

MESSAGES = 96
"""N, of 1 KiB: 2 N find room in the send queue before any is written."""
CHUNKS = 16
"""N: a message of 1 MiB and one of 2 MiB."""
CHUNK = 64 * 1024
ROOM = 1 << 26
"""Credit and queue of the sessions, in bytes: nothing ever waits for the other side."""

BATCH = 64
"""Messages in a round."""
ROUNDS = 24
WARM_UP = 8
"""Rounds before, which are not counted."""
APART_NS = 30_000
"""Between two messages: more than what the engine takes for a stream."""

KILOBYTE = bytes(1024)


@dataclass(frozen=True)
class Region:
    """What is counted between two marks: so many operations of a path."""

    path: str
    """Empty for what only warms up."""
    operations: int
    body: Callable[[], object]
    prepare: Callable[[], object] | None = None
    """Runs before it, and does not count."""
    waits: bool = False
    """Whether it spends time on purpose, so that only tcpconn's own instructions say something."""


def plan() -> list[Region | None]:
    """All regions in the order in which they are marked; None for what lies between."""
    return [each for region in regions(None, None) for each in (None, region)]


def run() -> None:
    """Runs all regions, with a mark before and after each."""
    gc.collect()
    gc.disable()
    with Connections() as connections:
        for region in regions(Sessions(), connections):
            if region.prepare is not None:
                region.prepare()
            os.getppid()
            region.body()
            os.getppid()


def regions(sessions: Any, connections: Any) -> Iterator[Region]:
    """All regions. Their bodies need what they are given; only planned, it may be None."""
    for number, count in enumerate((2 * MESSAGES, MESSAGES, 2 * MESSAGES)):
        path = "session: {} 1 KiB" if number else ""
        yield from _steps(sessions, path, count, count, KILOBYTE)
    for number, count in enumerate((2 * CHUNKS, CHUNKS, 2 * CHUNKS)):
        path = "session: a chunk of 64 KiB" if number else ""
        body = partial(getattr(sessions, "move", str), bytes(count * CHUNK))
        yield Region(path, count, body)
    settle = getattr(connections, "settle", None)
    for number in range(WARM_UP + ROUNDS):
        for call in ("send", "receive", "send_many", "receive_many"):
            yield Region(
                f"{call} 1 KiB" if number >= WARM_UP else "",
                BATCH,
                getattr(connections, call, str),
                settle if call.startswith("receive") else None,
                waits=call == "send",
            )


def _steps(
    sessions: Any, path: str, operations: int, messages: int, message: bytes
) -> Iterator[Region]:
    arguments = {"send": (messages, message), "write": (), "read": (), "receive": (messages,)}
    for name, given in arguments.items():
        body = partial(getattr(sessions, name, str), *given)
        yield Region(path.format(name), operations, body)
    if sessions is not None:
        sessions.carry()


class Sessions:
    """A client's and a server's session, and the wire between them."""

    def __init__(self) -> None:
        from tcpconn._session import Session
        from tcpconn.options import Options

        options = Options(
            connection_credit=ROOM,
            max_connection_credit=ROOM,
            session_credit=ROOM,
            send_queue_size=ROOM,
        )
        self.client = Session(options, client=True)
        self.server = Session(options, client=False)
        self.name = bytes(range(16))
        self.wire: list[bytes] = []
        if self.client.open(self.name):
            raise RuntimeError("the session opens no connection")
        self.carry()
        if self.server.accept() != self.name:
            raise RuntimeError("the connection has not arrived")

    def carry(self) -> None:
        """Carries bytes both ways until there are none."""
        while True:
            there, back = self.client.output(), self.server.output()
            if not there and not back:
                return
            if there:
                self.server.feed(there)
            if back:
                self.client.feed(back)

    def send(self, count: int, message: bytes) -> None:
        """Queues messages at the client; one that has to wait is an error."""
        send, name = self.client.send, self.name
        for _ in range(count):
            if send(name, message) is not True:
                raise RuntimeError("a message has to wait")

    def write(self) -> None:
        """Takes from the client all that it has to say."""
        self.wire = list(iter(self.client.output, b""))

    def read(self) -> None:
        """Gives that to the server."""
        for part in self.wire:
            self.server.feed(part)

    def move(self, message: bytes) -> None:
        """A message from one end to the other."""
        self.send(1, message)
        self.write()
        self.read()
        self.receive(1)
        self.carry()

    def receive(self, count: int) -> None:
        """Takes messages from the server; a missing one is an error."""
        receive, name = self.server.receive, self.name
        for _ in range(count):
            if receive(name) is None:
                raise RuntimeError("a message has not arrived")


class Connections:
    """Both ends of a connection over the loopback."""

    def __init__(self) -> None:
        import tcpconn

        self.listener = tcpconn.listen("127.0.0.1:0")
        self.client = tcpconn.connect(self.listener.address)
        self.client.send(b"")
        self.server = self.listener.accept()
        self.server.receive()
        self.messages = [KILOBYTE] * BATCH

    def settle(self) -> None:
        """Waits until the server's end holds the whole batch."""
        while self.server.stats().unread_messages < BATCH:
            time.sleep(0.001)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.abort()
        self.listener.close(0)

    def send(self) -> None:
        """A batch, message by message, each by itself."""
        send, clock = self.client.send, time.perf_counter_ns
        for _ in range(BATCH):
            send(KILOBYTE)
            after = clock() + APART_NS
            while clock() < after:
                pass

    def receive(self) -> None:
        """A batch, message by message."""
        receive = self.server.receive
        for _ in range(BATCH):
            receive()

    def send_many(self) -> None:
        """A batch in one call."""
        self.client.send_many(self.messages)

    def receive_many(self) -> None:
        """A batch, in as many calls as it takes."""
        left = BATCH
        while left:
            left -= len(self.server.receive_many(left))


if __name__ == "__main__":
    run()
