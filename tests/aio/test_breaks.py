"""A link that breaks while an event loop waits for it is noticed and replaced, on every loop."""

from __future__ import annotations

import asyncio

import pytest

import tcpconn
from faults.proxy import Proxy
from support import ANY, PATIENCE
from tcpconn import aio


@pytest.mark.parametrize("kind", ["fin", "rst"])
@pytest.mark.parametrize("size", [1, 3_000_000])
async def test_together_with_the_last_that_it_brings(
    size: int, kind: str, link: str, loop_kind: str
) -> None:
    """The loop finds both at once. uvloop tells only once of a reset, and forgets the descriptor;
    what it reads then may be the data alone."""
    if (loop_kind, link) == ("uvloop", "stdlib"):
        pytest.skip("selectors do not tell of a reset alone")
    with (
        tcpconn.listen(ANY, link=link, keepalive=0) as listener,
        Proxy(listener.address) as proxy,
    ):
        async with aio.ConnectionPool(link=link, keepalive=0) as pool:
            client = await pool.connect(proxy.address)
            await client.send(b"hello")
            server = await asyncio.to_thread(listener.accept, PATIENCE)
            for number in range(5):
                waiting = asyncio.create_task(client.receive())
                await asyncio.sleep(0)
                proxy.wait("open", number + 1)
                # The loop stands still meanwhile.
                server.send(bytes(size))
                proxy.wait("first message", number + 1)
                proxy.strike(kind)
                assert await waiting == bytes(size)
                # Without a word from here, the link must be found broken.
                await asyncio.to_thread(proxy.wait, "open", number + 2)
            await client.close()
            server.close()
