"""Code written for AnyIO's object streams takes a connection as it is.

    python examples/anyio_streams.py

Needs the extra `anyio`.
"""

import anyio
from anyio.abc import ObjectStream

import tcpconn.anyio


async def upper(stream: ObjectStream[bytes]) -> None:
    """Knows nothing of tcpconn: it would serve any stream of messages."""
    async with stream:
        async for message in stream:
            await stream.send(message.upper())


async def main() -> None:
    async with (
        anyio.create_task_group() as tasks,
        await tcpconn.anyio.listen("127.0.0.1:0") as listener,
    ):
        tasks.start_soon(listener.serve, upper)
        async with await tcpconn.anyio.connect(listener.address) as stream:
            for word in (b"whole", b"messages"):
                await stream.send(word)
                with anyio.fail_after(5):
                    print((await stream.receive()).decode())
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main)
