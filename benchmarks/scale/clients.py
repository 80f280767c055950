"""`clients`: up to ten thousand clients of one asyncio server, each with a link of its own."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from benchmarks.scale.measuring import (
    SMALL,
    allow_many_descriptors,
    memory,
    need_descriptors,
    ns_per_message,
)
from benchmarks.subjects.base import HOST, Announce
from benchmarks.subjects.framing import HEADER, LENGTH

MANY = 100
"""Clients from which on memory, and the rate of opening, say something."""
FEW = 10
MOST_ACTIVE = 1000
MOST = 10_000
AT_ONCE = 100
"""Clients that are connecting at the same time."""
WEIGH = b"how much do you weigh?"
BACKLOG = 1024
OPTIONS: dict[str, Any] = {
    "max_handlers": 2 * MOST,
    "max_links": 2 * MOST,
    "max_links_per_address": 2 * MOST,
}


class Channel(NamedTuple):
    """One end, of whichever subject."""

    send: Callable[[bytes], Awaitable[object]]
    receive: Callable[[], Awaitable[bytes]]
    end: Callable[[], object]


async def answer(channel: Channel) -> None:
    """The server's side: sends back what it receives, or says what its process weighs."""
    while True:
        message = await channel.receive()
        if message == WEIGH:
            message = json.dumps(memory()).encode()
        await channel.send(message)


def over_connection(connection: Any) -> Channel:
    """Of `tcpconn.aio`."""
    return Channel(connection.send, connection.receive, connection.abort)


def over_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Channel:
    """Of asyncio's streams: a 4-byte length and the payload."""

    async def send(message: bytes) -> None:
        writer.write(LENGTH.pack(len(message)) + message)
        await writer.drain()

    async def receive() -> bytes:
        (length,) = LENGTH.unpack(await reader.readexactly(HEADER))
        return await reader.readexactly(length)

    return Channel(send, receive, writer.close)


async def _serve(subject: str, announce: Announce) -> None:
    if subject == "asyncio_streams":

        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await answer(over_streams(reader, writer))

        server = await asyncio.start_server(converse, HOST, 0, backlog=BACKLOG)
        announce(server.sockets[0].getsockname()[1])
        await server.serve_forever()
    from tcpconn import aio

    async with aio.serve(
        lambda connection: answer(over_connection(connection)), (HOST, 0), **OPTIONS
    ) as serving:
        announce(int(serving.address.rpartition(":")[2]))
        await serving.wait()


def serve(subject: str, announce: Announce) -> None:
    """A task for each client."""
    allow_many_descriptors(MOST)
    asyncio.run(_serve(subject, announce))


async def _connect(subject: str, port: int) -> Channel:
    if subject == "asyncio_streams":
        return over_streams(*await asyncio.open_connection(HOST, port))
    from tcpconn import aio

    # A connection keeps its multiplexer alive.
    return over_connection((await aio.Multiplexer((HOST, port))).open())


async def exchange(channel: Channel, count: int) -> None:
    """So many round trips."""
    for _ in range(count):
        await channel.send(SMALL)
        await channel.receive()


async def _all_exchange(channels: list[Channel], count: int) -> None:
    await asyncio.gather(*(exchange(channel, count) for channel in channels))


async def _open(subject: str, port: int, count: int) -> list[Channel]:
    """So many clients, each of which is served once."""
    opened: list[Channel] = []
    numbers = itertools.count()

    async def connect() -> None:
        while next(numbers) < count:
            channel = await _connect(subject, port)
            await exchange(channel, 1)
            opened.append(channel)

    await asyncio.gather(*(connect() for _ in range(min(count, AT_ONCE))))
    return opened


def measure(subject: str, port: int, at: int, seconds: float) -> dict[str, float]:
    """All that is measured with `at` clients; each measurement takes about `seconds`."""
    need_descriptors(at)
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        run = loop.run_until_complete

        async def weigh() -> float:
            await first.send(WEIGH)
            return float(json.loads(await first.receive()))

        first = run(_connect(subject, port))
        theirs = run(weigh())
        ours = memory()
        started = loop.time()
        opened = run(_open(subject, port, at))
        taken = loop.time() - started
        values: dict[str, float] = {}
        if at >= MANY:
            values["open_rate"] = at / taken
        if at >= MANY and ours:
            values["server_memory"] = (run(weigh()) - theirs) / at
            values["client_memory"] = (memory() - ours) / at

        for name, most in (("few_active", FEW), ("many_active", MOST_ACTIVE)):
            active = opened[:: max(1, at // most)][:most]

            def all_exchange(count: int, active: list[Channel] = active) -> None:
                run(_all_exchange(active, count // len(active)))

            values[name] = ns_per_message(all_exchange, seconds, first=10 * len(active))
        for channel in [*opened, first]:
            channel.end()
    return values
