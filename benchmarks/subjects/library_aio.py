"""Our subjects in event loops: `tcpconn_aio` on asyncio's, `tcpconn_aio_uvloop` (with --peers).

The same loops as in `library`, awaited: the timed side is the plain one that a user writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import Iterable
from typing import Any

from benchmarks.subjects.base import (
    HOST,
    Announce,
    Chosen,
    Client,
    Subject,
    batch_of,
    block_of,
    payload_of,
)
from benchmarks.subjects.framing import WARM_UP
from benchmarks.subjects.library import DONE, READY, RECEIVES, REQUEST, SENDS
from benchmarks.workloads import Kind, Workload


async def serve_connection(connection: Any, one_way: bool) -> None:
    """Echoes every message; or takes or sends as many as asked for, again and again."""
    send = connection.send
    if not one_way:
        async for message in connection:
            await send(message)
        return
    async for request in connection:
        direction, count, size = REQUEST.unpack(request)
        if direction == SENDS:
            await send(READY)
            while count:
                count -= len(await connection.receive_many())
            await send(DONE)
        else:
            batch = [bytes(size)] * batch_of(size)
            for _ in range(count // len(batch)):
                await connection.send_many(batch)
            await connection.send_many(batch[: count % len(batch)])


class RoundTrips(Client):
    """One connection, request and reply."""

    def __init__(self, loop: asyncio.AbstractEventLoop, address: str, payload: bytes) -> None:
        self.loop = loop
        self.address = address
        self.payload = payload
        loop.run_until_complete(self.open())

    async def open(self) -> None:
        """Connects."""
        from tcpconn import aio

        self.connection = await aio.connect(self.address)

    def run(self, ticks: Iterable[object]) -> None:
        """All of it within one run of the event loop."""
        self.loop.run_until_complete(self.go(ticks))

    async def go(self, ticks: Iterable[object]) -> None:
        """Sends the payload, receives the answer."""
        payload, send, receive = self.payload, self.connection.send, self.connection.receive
        for _ in ticks:
            await send(payload)
            await receive()

    async def expect(self, word: bytes) -> None:
        """The next message is `word`."""
        if await self.connection.receive() != word:
            raise EOFError(f"the server did not answer {word!r}")

    def close(self) -> None:
        """Closes the connection; the link stays in the pool."""
        self.loop.run_until_complete(self.connection.close())


class Fresh(RoundTrips):
    """A new connection for every round trip, on the pooled link."""

    async def open(self) -> None:
        """Nothing to do before."""

    async def go(self, ticks: Iterable[object]) -> None:
        """Connects, sends, receives, closes."""
        from tcpconn.aio import connect

        address, payload = self.address, self.payload
        for _ in ticks:
            connection = await connect(address)
            await connection.send(payload)
            await connection.receive()
            await connection.close()

    def close(self) -> None:
        """Nothing is open."""


class Sends(RoundTrips):
    """A plain loop of `send`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, address: str, payload: bytes) -> None:
        super().__init__(loop, address, payload)
        self.per_stamp = block_of(len(payload))

    def begin(self, count: int) -> None:
        """Asks the server to take `count` messages."""
        self.loop.run_until_complete(self.ask(count))

    async def ask(self, count: int) -> None:
        """Tells the server what is to come."""
        await self.connection.send(REQUEST.pack(SENDS, count, len(self.payload)))
        await self.expect(READY)

    async def go(self, ticks: Iterable[object]) -> None:
        """Sends the payload."""
        payload, send = self.payload, self.connection.send
        for _ in ticks:
            await send(payload)

    def finish(self) -> None:
        """Waits until the receiver has them all."""
        self.loop.run_until_complete(self.expect(DONE))


class Receives(RoundTrips):
    """A plain loop of `receive`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, address: str, payload: bytes) -> None:
        super().__init__(loop, address, payload)
        self.per_stamp = block_of(len(payload))

    def begin(self, count: int) -> None:
        """Asks the server to send `count` messages and some more, and takes those."""
        self.loop.run_until_complete(self.ask(count))

    async def ask(self, count: int) -> None:
        """Tells the server what is to come."""
        request = REQUEST.pack(RECEIVES, count + WARM_UP, len(self.payload))
        await self.connection.send(request)
        await self.go(range(WARM_UP))

    async def go(self, ticks: Iterable[object]) -> None:
        """Receives a message."""
        receive = self.connection.receive
        for _ in ticks:
            await receive()


class TcpconnAio(Subject):
    """The library in an event loop, on both sides."""

    ours = True

    def __init__(self, name: str, summary: str, chosen: Chosen, loop: str) -> None:
        self.name = name
        self.summary = summary
        self.chosen = chosen
        self.loop = loop

    def missing(self) -> str | None:
        """It has to be built, and the loop to be installed."""
        if importlib.util.find_spec("tcpconn") is None:
            return "tcpconn is not installed"
        try:
            import tcpconn.aio  # noqa: F401
        except ImportError as error:
            return f"tcpconn is not built ({error}); `make develop` builds it"
        if importlib.util.find_spec(self.loop) is None:
            return f"no module {self.loop}; `pip install 'tcpconn[peers]'` or `make bench-peers`"
        return None

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """An event loop."""
        loop: asyncio.AbstractEventLoop = importlib.import_module(self.loop).new_event_loop()
        return loop

    def serve(self, workload: Workload, announce: Announce) -> None:
        """A task for each connection; there is one client."""
        from tcpconn import aio

        async def listen() -> None:
            async def handle(connection: Any) -> None:
                with contextlib.suppress(ConnectionError):
                    await serve_connection(connection, workload.kind.one_way)

            async with aio.serve(handle, (HOST, 0)) as server:
                announce(int(server.address.rpartition(":")[2]))
                await server.wait()

        self.new_loop().run_until_complete(listen())

    def client(self, workload: Workload, port: int) -> Client:
        """The loop for the workload's kind."""
        kinds = {
            Kind.ROUND_TRIP: RoundTrips,
            Kind.FRESH: Fresh,
            Kind.SEND: Sends,
            Kind.RECEIVE: Receives,
        }
        return kinds[workload.kind](self.new_loop(), f"{HOST}:{port}", payload_of(workload))


SUBJECTS = [
    TcpconnAio(
        "tcpconn_aio",
        "The library in an event loop: plain `await send` and `await receive`, on asyncio's.",
        Chosen.PEERS,
        "asyncio",
    ),
    TcpconnAio("tcpconn_aio_uvloop", "The same on uvloop.", Chosen.PEERS, "uvloop"),
]
