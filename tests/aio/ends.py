"""What the tests in event loops share: two ends of a connection, and tasks that wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from support import ANY
from tcpconn import aio


class Ends(NamedTuple):
    """The two ends of one connection."""

    client: aio.Connection
    server: aio.Connection


@contextlib.asynccontextmanager
async def ends(link: str, **options: Any) -> AsyncIterator[Ends]:
    """A connection within this loop, over a link of its own."""
    async with (
        aio.listen(ANY, link=link, **options) as listener,
        aio.ConnectionPool(link=link, **options) as pool,
    ):
        client = await pool.connect(listener.address)
        server = await listener.accept()
        yield Ends(client, server)
        client.abort()
        server.abort()


async def echo(connection: aio.Connection) -> None:
    """Sends back what it receives."""
    async for message in connection:
        await connection.send(message)


async def parked(task: asyncio.Task[Any]) -> None:
    """Waits until a task waits for something that is not just to come."""
    while not getattr(task, "_fut_waiter", None):  # noqa: ASYNC110  - there is no event for it
        await asyncio.sleep(0)
