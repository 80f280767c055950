"""The same for asyncio: connections whose methods are awaited, over the same compiled core.

    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    async with tcpconn.aio.serve(echo, "127.0.0.1:9000") as server:
        await server.wait()

A client:

    async with tcpconn.aio.connect("127.0.0.1:9000") as connection:
        await connection.send(b"hello")
        async with asyncio.timeout(5):
            reply = await connection.receive()

Names, options and errors are those of `tcpconn`. Time limits are `asyncio.timeout`'s, but for
`connect` and `close`, which have one of their own. Each object belongs to the event loop in which
it was made, and raises `WrongLoop` elsewhere.
"""

from tcpconn.aio.connection import Connection
from tcpconn.aio.multiplexer import Multiplexer, wrap
from tcpconn.aio.pool import ConnectionPool, connect, default_pool
from tcpconn.aio.server import Listener, Server, listen, serve

__all__ = [
    "Connection",
    "ConnectionPool",
    "Listener",
    "Multiplexer",
    "Server",
    "connect",
    "default_pool",
    "listen",
    "serve",
    "wrap",
]
