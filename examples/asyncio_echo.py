"""An asyncio server with clients of both kinds: tasks of the same event loop, and a thread.

    python examples/asyncio_echo.py

The protocol is one: either end may be `tcpconn` or `tcpconn.aio`.
"""

import asyncio

import tcpconn
from tcpconn import aio

CLIENTS = 100
TURNS = 20


async def echo(connection: aio.Connection) -> None:
    """Runs in a task of its own for each connection, which is closed when this returns."""
    async for message in connection:  # until the client closes
        await connection.send(message)


async def talk(address: str, number: int) -> bool:
    """A client in the event loop; all of them share one link."""
    async with aio.connect(address) as connection:
        for turn in range(TURNS):
            message = b"client %d, turn %d" % (number, turn)
            await connection.send(message)
            async with asyncio.timeout(5):
                if await connection.receive() != message:
                    return False
    return True


def talk_from_a_thread(address: str) -> bytes:
    """A blocking client."""
    with tcpconn.connect(address) as connection:
        connection.send(b"from a thread")
        return connection.receive(timeout=5)


async def main() -> None:
    async with aio.serve(echo, "127.0.0.1:0") as server:
        replies = await asyncio.gather(*(talk(server.address, n) for n in range(CLIENTS)))
        print(f"{CLIENTS} clients in the loop, {sum(replies)} with all replies")
        print(f"sockets dialled: {aio.default_pool().stats().dialled}")
        reply = await asyncio.to_thread(talk_from_a_thread, server.address)
        print(f"a client in a thread: {reply.decode()}")


if __name__ == "__main__":
    asyncio.run(main())
