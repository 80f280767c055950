"""Listeners, servers, pools and multiplexers in event loops; and blocking ones at the other end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import uuid

import pytest

import tcpconn
from aio.ends import echo, ends, parked
from support import ANY, Background, client_context, server_context, wait_until
from support import echo as blocking_echo
from tcpconn import aio


async def test_a_server_runs_a_task_for_each_connection(link: str) -> None:
    async with (
        aio.serve(echo, ANY, link=link) as server,
        aio.ConnectionPool(link=link) as pool,
    ):

        async def talk(number: int) -> None:
            async with pool.connect(server.address) as connection:
                for turn in range(20):
                    await connection.send(b"%d %d" % (number, turn))
                    assert await connection.receive() == b"%d %d" % (number, turn)

        async with asyncio.TaskGroup() as group:
            for number in range(30):
                group.create_task(talk(number))
        assert pool.stats().links == 1
        assert pool.stats().dialled == 1


async def test_a_blocking_client_of_an_asyncio_server(link: str) -> None:
    async with aio.serve(echo, ANY, link=link) as server:

        def talk() -> None:
            with (
                tcpconn.ConnectionPool(link=link) as pool,
                pool.connect(server.address) as connection,
            ):
                for size in (0, 100, 200_000, 2_000_000):
                    connection.send(bytes(size))
                    assert connection.receive(10) == bytes(size)

        await asyncio.gather(*(asyncio.to_thread(talk) for _ in range(3)))


async def test_an_asyncio_client_of_a_blocking_server(link: str) -> None:
    with tcpconn.serve(blocking_echo, ANY, link=link) as server:
        async with (
            aio.ConnectionPool(link=link) as pool,
            pool.connect(server.address) as connection,
        ):
            for size in (0, 100, 200_000, 2_000_000):
                await connection.send(bytes(size))
                assert await connection.receive() == bytes(size)


async def test_the_loops_own_pool_is_closed_with_it(link: str) -> None:
    async with aio.serve(echo, ANY, link=link) as server:
        async with aio.connect(server.address, link=link) as connection:
            await connection.send(b"x")
            assert await connection.receive() == b"x"
        assert aio.default_pool().stats().links == 1
        assert aio.default_pool() is aio.default_pool()


async def test_errors_of_connect_are_the_blocking_ones(link: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(tcpconn.ConnectError):
            await aio.connect(("127.0.0.1", port), link=link)
    with pytest.raises(tcpconn.AddressError):
        await aio.connect("nonsense")
    with pytest.raises(tcpconn.OptionError):
        await aio.connect("127.0.0.1:1", no_such_option=1)
    with pytest.raises(tcpconn.OptionError):
        aio.listen(ANY, no_such_option=1)


async def test_a_connect_that_is_cancelled_leaves_nothing(link: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with aio.ConnectionPool(link=link) as pool:
            connecting = asyncio.create_task(pool.connect(silent.getsockname(), timeout=2))
            accepted, _ = await asyncio.to_thread(silent.accept)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            accepted.close()


async def test_accept_can_be_cancelled_and_ends_with_the_listener(link: str) -> None:
    async with aio.listen(ANY, link=link) as listener:
        first, second = (asyncio.create_task(listener.accept()) for _ in range(2))
        await parked(first)
        await parked(second)
        first.cancel()
        async with (
            aio.ConnectionPool(link=link) as pool,
            pool.connect(listener.address) as connection,
        ):
            await connection.send(b"x")
            server = await second
            assert await server.receive() == b"x"
            await server.close()
        third = asyncio.create_task(listener.accept())
        await parked(third)
        await listener.close()
        with pytest.raises(tcpconn.ConnectionClosed):
            await third
        assert [connection async for connection in listener] == []


async def test_a_handler_that_fails_is_logged(link: str, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(connection: aio.Connection) -> None:
        raise ValueError("on purpose")

    async with (
        aio.serve(fail, ANY, link=link) as server,
        aio.ConnectionPool(link=link) as pool,
    ):
        connection = await pool.connect(server.address)
        with caplog.at_level(logging.ERROR, "tcpconn"):
            assert [message async for message in connection] == []
        await connection.close()
        assert "the handler failed" in caplog.text


async def test_a_server_that_is_closed_cancels_handlers_that_do_not_end(link: str) -> None:
    began = asyncio.Event()
    ended: list[str] = []

    async def sleep(connection: aio.Connection) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    server = await aio.serve(sleep, ANY, link=link)
    async with aio.ConnectionPool(link=link) as pool:
        connection = await pool.connect(server.address)
        await connection.send(b"x")
        await began.wait()
        await server.close(timeout=0.1)
        connection.abort()
    assert ended == ["cancelled"]


async def test_a_multiplexer_over_a_socket_pair(link: str) -> None:
    left, right = socket.socketpair()
    async with asyncio.TaskGroup() as group:
        ours = group.create_task(open_multiplexer(left, True, link))
        theirs = group.create_task(open_multiplexer(right, False, link))
    async with ours.result() as one, theirs.result() as other:
        connection = one.open()
        await connection.send(b"over a pair")
        accepted = await other.accept()
        assert await accepted.receive() == b"over a pair"
        assert other.connections == [accepted]
        assert repr(one).startswith("<aio.Multiplexer open")
        await connection.close()


async def open_multiplexer(sock: socket.socket, client: bool, link: str) -> aio.Multiplexer:
    return await aio.Multiplexer(sock, client=client, link=link)


async def test_wrap_serves_an_accepted_socket(link: str) -> None:
    name = uuid.uuid4()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with aio.ConnectionPool(link=link) as pool:
            connecting = asyncio.create_task(pool.connect(listening.getsockname(), name))
            accepted, _ = await asyncio.to_thread(listening.accept)
            async with aio.wrap(accepted, name, link=link) as served:
                client = await connecting
                await client.send(b"wrapped")
                assert await served.receive() == b"wrapped"
                again = asyncio.create_task(aio.wrap(accepted, link=link))
                other = await pool.connect(listening.getsockname())
                await other.send(b"second")
                second = await again
                assert await second.receive() == b"second"
                await asyncio.gather(client.close(), other.close(), second.close())
            multiplexer = served.multiplexer
            assert multiplexer is not None
            await multiplexer.close()


async def test_a_server_that_drains_lets_connections_end(link: str) -> None:
    server = await aio.serve(echo, ANY, link=link)
    async with aio.ConnectionPool(link=link) as pool:
        connection = await pool.connect(server.address)
        await connection.send(b"before")
        assert await connection.receive() == b"before"
        closing = asyncio.create_task(server.close(10, drain=True))
        for _ in range(3):
            await asyncio.sleep(0)
        await connection.send(b"meanwhile")
        assert await connection.receive() == b"meanwhile"
        assert not closing.done()
        await connection.close()
        await closing


async def test_through_tls_with_an_authkey(link: str) -> None:
    async with (
        aio.serve(echo, ANY, link=link, ssl=server_context(), authkey=b"k" * 32) as server,
        aio.ConnectionPool(
            link=link, ssl=client_context(), server_hostname="localhost", authkey=b"k" * 32
        ) as pool,
        pool.connect(server.address) as connection,
    ):
        for size in (0, 100, 300_000, 3_000_000):
            await connection.send(bytes(size))
            assert await connection.receive() == bytes(size)


async def test_a_link_that_breaks_is_resumed(link: str) -> None:
    async with ends(link) as (client, server):
        for number in range(20):
            await client.send(b"%d" % number)
            wait = asyncio.create_task(server.receive())
            await asyncio.sleep(0)
            break_link(client)
            assert await wait == b"%d" % number
            await server.send(b"reply %d" % number)
            assert await client.receive() == b"reply %d" % number


def break_link(connection: aio.Connection) -> None:
    """As a router would that forgets it."""
    with contextlib.suppress(OSError):  # it is being replaced just now
        connection.engine.link.socket.shutdown(socket.SHUT_RDWR)


async def test_objects_of_a_loop_that_has_ended_are_refused(link: str) -> None:
    kept: list[aio.Connection] = []
    server = tcpconn.serve(blocking_echo, ANY, link=link)

    def earlier() -> None:
        async def connect() -> None:
            kept.append(await aio.connect(server.address, link=link))

        asyncio.run(connect())

    await asyncio.to_thread(earlier)
    with pytest.raises(tcpconn.WrongLoop):
        await kept[0].receive()
    kept.clear()
    await asyncio.to_thread(server.close)


def test_a_blocked_loop_does_not_make_the_peer_think_it_dead(link: str) -> None:
    """The keeper reads for a loop that is held up."""
    listener = tcpconn.listen(ANY, link=link, keepalive=0.2, keepalive_timeout=3)

    async def hold_up() -> None:
        async with (
            aio.ConnectionPool(link=link, keepalive=1) as pool,
            pool.connect(listener.address) as connection,
        ):
            await connection.send(b"x")
            server = await asyncio.to_thread(listener.accept, 10)
            multiplexer = server.multiplexer
            assert multiplexer is not None
            before = multiplexer.stats().frames_received
            # Nothing runs in the loop until the peer has been heard twice.
            wait_until(
                lambda: multiplexer.stats().frames_received >= before + 2, "the loop's end is mute"
            )
            assert not multiplexer.detached
            await asyncio.to_thread(server.abort)

    with listener:
        Background(lambda: asyncio.run(hold_up())).result()
