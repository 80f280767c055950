"""A connection in an event loop keeps the promises of the blocking one."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import threading
import uuid

import pytest

import tcpconn
from aio.ends import ends, parked
from support import KIB, MIB, SIZES, noise
from tcpconn import aio


async def test_messages_of_all_sizes_arrive_whole_and_in_order(link: str) -> None:
    async with ends(link) as (client, server):

        async def send() -> None:
            for seed, size in enumerate(SIZES):
                await client.send(noise(size, seed))

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            for seed, size in enumerate(SIZES):
                assert await server.receive() == noise(size, seed)


async def test_every_way_to_send_and_to_receive(link: str) -> None:
    async with ends(link) as (client, server):
        await client.send(bytearray(b"mutable"))
        await client.send_parts([b"in ", bytearray(b"parts"), b""])
        assert await client.send_many([b"1", b"2", bytearray(b"3")]) == 3
        assert await client.send_many(bytes([n]) for n in b"45") == 2
        await client.flush()
        buffer = bytearray(16)
        assert await server.receive_into(buffer) == 7
        assert buffer[:7] == b"mutable"
        with await server.receive_view() as lease, memoryview(lease) as view:
            assert view == b"in parts"
        assert await server.receive_many(2) == [b"1", b"2"]
        assert await server.receive_many() == [b"3", b"4", b"5"]


async def test_buffers_may_change_as_soon_as_send_returns(link: str) -> None:
    async with ends(link) as (client, server):
        data = bytearray(noise(2 * MIB))
        await client.send(data)
        data[:] = bytes(len(data))
        assert await server.receive() == noise(2 * MIB)


async def test_a_buffer_too_small_leaves_the_message(link: str) -> None:
    async with ends(link) as (client, server):
        await client.send(b"four")
        with pytest.raises(tcpconn.BufferTooSmall) as caught:
            await server.receive_into(bytearray(3))
        assert caught.value.size == 4
        with pytest.raises(tcpconn.NotABuffer):
            await server.receive_into(b"read-only")
        assert await server.receive() == b"four"


async def test_iteration_ends_when_the_peer_has_closed(link: str) -> None:
    async with ends(link) as (client, server):
        await client.send_many([b"a", b"b"])
        closing = asyncio.create_task(client.close())
        assert [message async for message in server] == [b"a", b"b"]
        await closing
        with pytest.raises(tcpconn.ConnectionClosed):
            await server.receive()
        with pytest.raises(tcpconn.ConnectionClosed, match="closed here"):
            await client.send(b"late")


async def test_iteration_raises_when_the_peer_aborts(link: str) -> None:
    async with ends(link) as (client, server):
        receiving = asyncio.create_task(anext(server))
        await parked(receiving)
        client.abort()
        with pytest.raises(tcpconn.ConnectionReset):
            await receiving


async def test_closing_wakes_who_waits(link: str) -> None:
    async with ends(link) as (_, server):
        receiving = [asyncio.create_task(server.receive()) for _ in range(3)]
        for task in receiving:
            await parked(task)
        await server.close()
        for result in await asyncio.gather(*receiving, return_exceptions=True):
            assert isinstance(result, tcpconn.ConnectionClosed)


async def test_each_message_goes_to_one_of_many_receivers(link: str) -> None:
    async with ends(link) as (client, server):
        receiving = [asyncio.create_task(server.receive()) for _ in range(50)]
        for task in receiving:
            await parked(task)
        await client.send_many([bytes([number]) for number in range(50)])
        assert sorted(await asyncio.gather(*receiving)) == [bytes([n]) for n in range(50)]


async def test_a_cancelled_receive_loses_no_message(link: str) -> None:
    async with ends(link) as (client, server):
        for number in range(100):
            receiving = asyncio.create_task(server.receive())
            await parked(receiving)
            await client.send(b"%d" % number)
            for _ in range(number % 7):
                await asyncio.sleep(0)
            receiving.cancel()
            try:
                message = await receiving
            except asyncio.CancelledError:
                message = await server.receive()
            assert message == b"%d" % number


async def test_a_cancelled_receive_leaves_its_message_to_the_next(link: str) -> None:
    async with ends(link) as (client, server):
        first, second = (asyncio.create_task(server.receive()) for _ in range(2))
        await parked(first)
        await parked(second)
        await client.send(b"one")
        first.cancel()
        results = await asyncio.gather(first, return_exceptions=True)
        if isinstance(results[0], asyncio.CancelledError):
            assert await second == b"one"
        else:
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)


async def test_timeouts_are_asyncios(link: str) -> None:
    async with ends(link) as (client, server):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await server.receive()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(server.receive(), 0.01)
        await client.send(b"after all")
        assert await server.receive() == b"after all"


async def test_a_sender_waits_for_its_reader_and_a_cancelled_one_sends_nothing(link: str) -> None:
    async with ends(link, connection_credit=256 * KIB, max_connection_credit=256 * KIB) as (
        client,
        server,
    ):
        sent = 0
        while True:
            sending = asyncio.create_task(client.send(noise(16384, sent)))
            done, _ = await asyncio.wait([sending], timeout=0.2)
            if not done:
                break
            sent += 1
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert sent >= 16
        last = asyncio.create_task(client.send(b"last"))
        for number in range(sent):
            assert await server.receive() == noise(16384, number)
        await last
        assert await server.receive() == b"last"


async def test_credit_comes_back_though_the_receiver_sends_nothing(link: str) -> None:
    # Without a keepalive that would bring it along in the end.
    async with ends(link, keepalive=0) as (client, server):
        for _ in range(30):
            for _ in range(100):
                await client.send(bytes(1024))
            await client.flush()
            for _ in range(100):
                assert len(await server.receive()) == 1024


async def test_operations_are_coroutines_to_asyncio(link: str) -> None:
    async with ends(link) as (client, server):
        await asyncio.gather(client.send(b"1"), client.send(b"2"), client.flush())
        assert await asyncio.wait_for(server.receive(), 5) == b"1"
        async with asyncio.TaskGroup() as group:
            received = group.create_task(server.receive())
        assert received.result() == b"2"
        operation = client.send(b"3")
        assert asyncio.iscoroutine(operation)
        await operation
        with pytest.raises(RuntimeError, match="awaited already"):
            await operation
        assert await server.receive() == b"3"


async def test_what_is_never_awaited_says_so(link: str) -> None:
    async with ends(link) as (client, _):
        with pytest.warns(RuntimeWarning, match="never awaited"):
            client.send(b"forgotten")


async def test_others_have_their_turn_while_nothing_waits(link: str) -> None:
    async with ends(link) as (client, server):
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        among = 0
        for _ in range(10):
            await client.send_many([b"x"] * 512)
            await client.flush()
            before = turns
            for _ in range(512):
                assert await server.receive() == b"x"
            among += turns - before
        assert among >= 10
        counting.cancel()


async def test_use_from_elsewhere_says_so(link: str) -> None:
    async with ends(link) as (client, _):
        caught: list[BaseException] = []

        def elsewhere() -> None:
            for operation in (client.receive(), client.send(b""), client.flush(), client.close()):
                try:
                    asyncio.run(drive(operation))
                except tcpconn.WrongLoop as error:
                    caught.append(error)

        async def drive(operation: object) -> None:
            await operation  # type: ignore[misc]

        thread = threading.Thread(target=elsewhere)
        thread.start()
        await asyncio.to_thread(thread.join)
        assert len(caught) == 4
        assert "another event loop" in str(caught[0])


@pytest.mark.parametrize("loop_kind", ["asyncio", "uvloop"], indirect=True)
def test_use_in_the_next_loop_of_the_same_thread_says_so(loop_kind: str) -> None:
    new_loop = importlib.import_module(loop_kind).new_event_loop
    first, second = new_loop(), new_loop()
    over = contextlib.AsyncExitStack()

    async def use_twice() -> aio.Connection:
        client, server = await over.enter_async_context(ends("native"))
        for _ in range(2):
            await client.send(b"x")
            await server.receive()
        return client

    async def use_again(client: aio.Connection) -> None:
        with pytest.raises(tcpconn.WrongLoop):
            await client.send(b"x")
        with pytest.raises(tcpconn.WrongLoop):
            await client.receive()

    try:
        client = first.run_until_complete(use_twice())
        second.run_until_complete(use_again(client))
        first.run_until_complete(client.send(b"y"))
    finally:
        first.run_until_complete(over.aclose())
        first.run_until_complete(first.shutdown_asyncgens())
        first.close()
        second.close()


async def test_both_ends_name_the_same_connection(link: str) -> None:
    name = uuid.uuid4()
    async with ends(link) as (client, server):
        ours, theirs = client.multiplexer, server.multiplexer
        assert ours is not None
        assert theirs is not None
        one, other = ours.open(name), theirs.open(name)
        await one.send(b"met")
        assert await other.receive() == b"met"
        await asyncio.gather(one.close(), other.close())


async def test_what_a_connection_says_of_itself(link: str) -> None:
    async with ends(link) as (client, server):
        await client.send(b"12345")
        await server.receive()
        stats = server.stats()
        assert (stats.messages_received, stats.bytes_received) == (1, 5)
        assert repr(client).startswith(f"<aio.Connection {client.id} open")
        multiplexer = client.multiplexer
        assert multiplexer == client.multiplexer
        assert hash(multiplexer) == hash(client.multiplexer)
        assert multiplexer is not None
        assert await multiplexer.ping() > 0
        assert "1 connections" in repr(client.multiplexer)


async def test_a_connection_that_nobody_holds_is_closed(link: str) -> None:
    async with ends(link) as (client, server):
        multiplexer = client.multiplexer
        assert multiplexer is not None
        extra = multiplexer.open()
        await extra.send(b"x")
        del extra
        gc.collect()
        assert len(multiplexer.connections) == 1
        assert await server.multiplexer.ping() > 0  # type: ignore[union-attr]
        assert isinstance(client, aio.Connection)
