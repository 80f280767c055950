"""What `asyncio_streams` and `uvloop_streams` share: everything but the event loop.

A message is a 4-byte length and its payload: `write` and `drain` to send one, `readexactly` twice
to receive one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from benchmarks.subjects.base import HOST, Announce, Client, block_of, payload_of
from benchmarks.subjects.framing import HEADER, LENGTH, WARM_UP
from benchmarks.subjects.peers.conversation import DONE, READY, RECEIVES, REQUEST, SENDS, Peer
from benchmarks.workloads import Kind, Workload

LIMIT = 256 * 1024
"""Bytes that a reader buffers before it stops its transport, if messages are not larger."""
JOINED = 64 * 1024
"""Up to so many bytes, header and payload are joined for one write."""

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def limit_of(size: int) -> int:
    """A reader's limit, so that a whole message finds room."""
    return max(LIMIT, 2 * size)


async def receive(reader: asyncio.StreamReader) -> bytes:
    """The next message."""
    [size] = LENGTH.unpack(await reader.readexactly(HEADER))
    return await reader.readexactly(size)


async def send(writer: asyncio.StreamWriter, payload: bytes) -> None:
    """One message."""
    if len(payload) <= JOINED:
        writer.write(LENGTH.pack(len(payload)) + payload)
    else:
        writer.write(LENGTH.pack(len(payload)))
        writer.write(payload)
    await writer.drain()


class RoundTrips(Client):
    """One connection, request and reply."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: int, payload: bytes) -> None:
        self.loop = loop
        self.payload = payload
        self.reader, self.writer = loop.run_until_complete(
            asyncio.open_connection(HOST, port, limit=limit_of(len(payload)))
        )

    def run(self, ticks: Iterable[object]) -> None:
        """All of it within one run of the event loop."""
        self.loop.run_until_complete(self.go(ticks))

    async def go(self, ticks: Iterable[object]) -> None:
        """Sends the payload, receives the answer."""
        payload, reader, writer = self.payload, self.reader, self.writer
        for _ in ticks:
            await send(writer, payload)
            await receive(reader)

    def ask(self, direction: int, count: int) -> None:
        """Tells the server what is to come."""
        request = REQUEST.pack(direction, count, len(self.payload))
        self.loop.run_until_complete(send(self.writer, request))

    def expect(self, word: bytes) -> None:
        """The next message is `word`."""
        if self.loop.run_until_complete(receive(self.reader)) != word:
            raise EOFError(f"the server did not answer {word!r}")

    def close(self) -> None:
        """Closes the connection."""
        self.writer.close()
        self.loop.run_until_complete(self.writer.wait_closed())


class Sends(RoundTrips):
    """`write` and `drain`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: int, payload: bytes) -> None:
        super().__init__(loop, port, payload)
        self.per_stamp = block_of(len(payload))

    def begin(self, count: int) -> None:
        """Asks the server to take `count` messages."""
        self.ask(SENDS, count)
        self.expect(READY)

    async def go(self, ticks: Iterable[object]) -> None:
        """Sends the payload."""
        payload, writer = self.payload, self.writer
        for _ in ticks:
            await send(writer, payload)

    def finish(self) -> None:
        """Waits until the receiver has them all."""
        self.expect(DONE)


class Receives(RoundTrips):
    """`readexactly`, twice a message."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: int, payload: bytes) -> None:
        super().__init__(loop, port, payload)
        self.per_stamp = block_of(len(payload))

    def begin(self, count: int) -> None:
        """Asks the server to send `count` messages and some more, and takes those."""
        self.ask(RECEIVES, count + WARM_UP)
        self.run(range(WARM_UP))

    async def go(self, ticks: Iterable[object]) -> None:
        """Receives a message."""
        reader = self.reader
        for _ in ticks:
            await receive(reader)


class Fresh(Client):
    """A new connection for every round trip."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: int, payload: bytes) -> None:
        self.loop = loop
        self.port = port
        self.payload = payload

    def run(self, ticks: Iterable[object]) -> None:
        """All of it within one run of the event loop."""
        self.loop.run_until_complete(self.go(ticks))

    async def go(self, ticks: Iterable[object]) -> None:
        """Connects, sends, receives, closes."""
        port, payload = self.port, self.payload
        for _ in ticks:
            reader, writer = await asyncio.open_connection(HOST, port)
            await send(writer, payload)
            await receive(reader)
            writer.close()
            await writer.wait_closed()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends every message back until the client is gone."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            await send(writer, await receive(reader))
    writer.close()


async def serve_one_way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes or sends as many messages as the client asks for, again and again."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            direction, count, size = REQUEST.unpack(await receive(reader))
            if direction == SENDS:
                await send(writer, READY)
                for _ in range(count):
                    await receive(reader)
                await send(writer, DONE)
            else:
                payload = bytes(size)
                for _ in range(count):
                    await send(writer, payload)
    writer.close()


class Streams(Peer):
    """asyncio's streams on a given event loop."""

    def loop(self) -> asyncio.AbstractEventLoop:
        """A new event loop."""
        raise NotImplementedError

    def serve(self, workload: Workload, announce: Announce) -> None:
        """Echoes, or takes the other side of a one-way run."""

        async def listen() -> None:
            handle = serve_one_way if workload.kind.one_way else echo
            server = await asyncio.start_server(
                handle, HOST, 0, limit=limit_of(workload.size), backlog=128
            )
            announce(server.sockets[0].getsockname()[1])
            await server.serve_forever()

        self.loop().run_until_complete(listen())

    def client(self, workload: Workload, port: int) -> Client:
        """The loop for the workload's kind."""
        kinds = {
            Kind.ROUND_TRIP: RoundTrips,
            Kind.FRESH: Fresh,
            Kind.SEND: Sends,
            Kind.RECEIVE: Receives,
        }
        return kinds[workload.kind](self.loop(), port, payload_of(workload))
