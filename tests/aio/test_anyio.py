"""Connections as AnyIO's streams: what AnyIO promises of them, in AnyIO's words."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

import tcpconn
from aio.ends import ends, parked
from support import ANY, noise

anyio = pytest.importorskip("anyio")

from anyio.abc import Listener, ObjectStream, SocketAttribute, TaskGroup  # noqa: E402
from anyio.streams.stapled import StapledObjectStream  # noqa: E402

from tcpconn.anyio import (  # noqa: E402
    ConnectionAttribute,
    ConnectionListener,
    ConnectionStream,
    connect,
    listen,
)


async def echo(stream: ObjectStream[bytes]) -> None:
    """Knows nothing of tcpconn."""
    async with stream:
        async for message in stream:
            await stream.send(message)


async def send_until_it_fails(stream: ObjectStream[bytes]) -> None:
    """Until the peer has said that nobody reads it."""
    while True:
        await stream.send(b"late")


@contextlib.asynccontextmanager
async def serving(
    handler: Any, link: str, group: TaskGroup | None = None
) -> AsyncIterator[ConnectionListener]:
    """A listener that hands its streams to a handler."""
    async with anyio.create_task_group() as own, await listen(ANY, link=link) as listener:
        own.start_soon(listener.serve, handler, group)
        yield listener
        own.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def streams(link: str) -> AsyncIterator[tuple[ConnectionStream, ConnectionStream]]:
    """Both ends of a connection."""
    async with ends(link) as (client, server):
        yield ConnectionStream(client), ConnectionStream(server)


async def test_messages_there_and_back(link: str) -> None:
    async with (
        serving(echo, link) as listener,
        tcpconn.aio.ConnectionPool(link=link) as pool,
        await connect(listener.address, pool=pool) as stream,
    ):
        assert isinstance(stream, ObjectStream)
        assert isinstance(listener, Listener)
        for size in (0, 1, 1000, 100_000, 3_000_000):
            await stream.send(noise(size))
            assert await stream.receive() == noise(size)


async def test_handlers_in_the_group_of_another(link: str) -> None:
    async with (
        anyio.create_task_group() as group,
        serving(echo, link, group) as listener,
        await connect(listener.address, link=link) as stream,
    ):
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"


async def test_the_end_of_the_stream(link: str) -> None:
    async with streams(link) as (client, server):
        await client.send(b"last")
        closing = asyncio.create_task(client.aclose())
        assert [message async for message in server] == [b"last"]
        with pytest.raises(anyio.EndOfStream) as caught:
            await server.receive()
        assert isinstance(caught.value.__cause__, tcpconn.ConnectionClosed)
        await closing
        with pytest.raises(anyio.BrokenResourceError):
            await send_until_it_fails(server)
        await client.aclose()


async def test_what_was_closed_here(link: str) -> None:
    async with streams(link) as (client, _):
        receiving = asyncio.create_task(client.receive())
        await parked(receiving)
        await client.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await receiving
        with pytest.raises(anyio.ClosedResourceError):
            await client.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await client.send(b"late")


async def test_what_is_broken(link: str) -> None:
    async with streams(link) as (client, server):
        client.connection.abort()
        with pytest.raises(anyio.ClosedResourceError):
            await client.receive()
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await server.receive()
        assert isinstance(caught.value.__cause__, tcpconn.ConnectionReset)


async def test_a_lost_link(link: str) -> None:
    async with ends(link, session_timeout=0) as (client, server):
        server.engine.link.socket.shutdown(socket.SHUT_RDWR)
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await ConnectionStream(client).receive()
        assert isinstance(caught.value.__cause__, tcpconn.LinkLost)


async def test_a_message_too_large_is_no_end(link: str) -> None:
    async with streams(link) as (client, server):
        with pytest.raises(tcpconn.MessageTooLarge):
            await client.send(bytes(17 << 20))
        await client.send(b"small")
        assert await server.receive() == b"small"


async def test_a_cancelled_scope(link: str) -> None:
    async with streams(link) as (client, server):
        await client.send(b"kept")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await server.receive()
        assert scope.cancelled_caught
        with anyio.CancelScope() as scope:
            scope.cancel()
            await client.send(b"never sent")
        assert scope.cancelled_caught
        assert await server.receive() == b"kept"
        with anyio.move_on_after(0.01) as scope:
            await server.receive()
        assert scope.cancelled_caught
        await client.send(b"after it")
        assert await server.receive() == b"after it"


async def test_leaving_with_an_error_waits_for_nothing(link: str) -> None:
    async with streams(link) as (client, server):
        with pytest.raises(LookupError):
            async with client:
                raise LookupError
        with pytest.raises(anyio.ClosedResourceError):
            await client.send(b"late")
        assert server.connection.id == client.connection.id


async def test_there_is_no_half_of_a_connection(link: str) -> None:
    async with streams(link) as (client, server):
        with pytest.raises(NotImplementedError, match="aclose"):
            await client.send_eof()
        await client.send(b"still open")
        assert await server.receive() == b"still open"


async def test_what_a_stream_knows(link: str) -> None:
    async with streams(link) as (client, server):
        host, port = client.connection.peer_address.split(":")
        assert client.extra(SocketAttribute.remote_address) == (host, int(port))
        assert client.extra(SocketAttribute.remote_port) == int(port)
        assert client.extra(SocketAttribute.family) == socket.AF_INET
        assert server.extra(SocketAttribute.local_address) == (host, int(port))
        assert client.extra(SocketAttribute.local_port) == server.extra(SocketAttribute.remote_port)
        assert client.extra(ConnectionAttribute.connection) is client.connection
        assert client.extra(ConnectionAttribute.id) == server.extra(ConnectionAttribute.id)
        assert repr(client).startswith("<ConnectionStream over <aio.Connection")
        # AnyIO's own way to put streams together takes them as they are.
        both = StapledObjectStream(client, server)
        await both.send(b"round")
        assert await both.receive() == b"round"


async def test_a_closed_listener(link: str) -> None:
    async with await listen(ANY, link=link) as listener:
        assert listener.extra(SocketAttribute.local_port) > 0
        serving = asyncio.create_task(listener.serve(echo))
        await parked(serving)
        await listener.aclose()
        with pytest.raises(ExceptionGroup) as caught:
            await serving
        assert caught.group_contains(anyio.ClosedResourceError)


async def test_unix(link: str, tmp_path: Any) -> None:
    if not hasattr(socket, "AF_UNIX"):
        pytest.skip("this platform has no unix-domain sockets")
    address = f"unix:{tmp_path}/socket"
    async with (
        await listen(address, link=link) as listener,
        await connect(address, link=link) as client,
    ):
        assert listener.extra(SocketAttribute.local_address) == f"{tmp_path}/socket"
        assert client.extra(SocketAttribute.family) == socket.AF_UNIX
        assert client.extra(SocketAttribute.remote_address) == f"{tmp_path}/socket"
        with pytest.raises(anyio.TypedAttributeLookupError):
            client.extra(SocketAttribute.remote_port)
        server = ConnectionStream(await listener.listener.accept())
        await client.send(b"hello")
        assert await server.receive() == b"hello"
        server.connection.abort()
