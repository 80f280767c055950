"""Asking in an event loop who may come in, where the answer may take its time."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from aio.ends import echo, parked
from support import ANY
from tcpconn import ConnectionReset, aio


class Doorkeeper:
    """Answers at once for who is `known`, and else what and when the test says."""

    def __init__(self, *known: uuid.UUID) -> None:
        self.known = known
        self.asked = asyncio.Event()
        self.answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def __call__(self, address: str, certificate: object, id: uuid.UUID) -> object:
        if id in self.known:
            return True
        self.asked.set()
        return await self.answer


async def say(connection: aio.Connection) -> bytes:
    """A message there and back."""
    await connection.send(b"hello")
    return await connection.receive()


@pytest.mark.parametrize("answer", [True, False, RuntimeError("the list of friends is lost")])
async def test_a_slow_answer_holds_up_nobody_else(
    answer: object, link: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tcpconn._endpoint.failures._quiet_until", 0.0)
    friend = uuid.uuid4()
    doorkeeper = Doorkeeper(friend)
    async with (
        aio.serve(echo, ANY, link=link, authorize=doorkeeper) as server,
        aio.ConnectionPool(link=link) as pool,
        pool.connect(server.address) as stranger,
    ):
        await stranger.send(b"let me in")
        await doorkeeper.asked.wait()
        async with pool.connect(server.address, friend) as connection:
            assert await say(connection) == b"hello"
        assert not doorkeeper.answer.done()
        if isinstance(answer, Exception):
            doorkeeper.answer.set_exception(answer)
        else:
            doorkeeper.answer.set_result(answer)
        if answer is True:
            assert await stranger.receive() == b"let me in"
        else:
            with pytest.raises(ConnectionReset, match="refused"):
                await stranger.receive()
    warned = [
        each.message
        for each in caplog.records
        if each.name == "tcpconn" and each.levelno >= logging.WARNING
    ]
    assert len(warned) == isinstance(answer, Exception)
    assert all("the list of friends is lost" in message for message in warned)


async def through_a_listener(
    link: str, authorize: Any, use: Callable[[Any, Callable[[], Any]], Any]
) -> None:
    """Calls `use` with a listener, and with what opens a connection to it."""
    async with (
        aio.listen(ANY, link=link, authorize=authorize) as listener,
        aio.ConnectionPool(link=link) as pool,
    ):
        await use(listener, lambda: pool.connect(listener.address))


async def through_a_multiplexer(
    link: str, authorize: Any, use: Callable[[Any, Callable[[], Any]], Any]
) -> None:
    """The same with the two multiplexers of a link."""
    async with (
        aio.listen(ANY, link=link) as listener,
        aio.Multiplexer(listener.address, link=link, authorize=authorize) as client,
    ):
        first = client.open()
        accepted = await listener.accept()
        multiplexer = accepted.multiplexer
        assert multiplexer is not None

        async def opened() -> aio.Connection:
            return multiplexer.open()

        await use(client, opened)
        first.abort()
        accepted.abort()


@pytest.mark.parametrize("through", [through_a_listener, through_a_multiplexer])
async def test_who_is_cancelled_leaves_the_question_to_the_next(through: Any, link: str) -> None:
    doorkeeper = Doorkeeper()

    async def use(acceptor: Any, connect: Callable[[], Any]) -> None:
        connection = await connect()
        await connection.send(b"hello")
        accepting = asyncio.create_task(acceptor.accept())
        await doorkeeper.asked.wait()
        await parked(accepting)
        accepting.cancel()
        await asyncio.wait([accepting])
        assert accepting.cancelled()
        doorkeeper.asked.clear()
        accepting = asyncio.create_task(acceptor.accept())
        await parked(accepting)
        doorkeeper.answer.set_result(True)
        accepted = await accepting
        assert await accepted.receive() == b"hello"
        assert not doorkeeper.asked.is_set()  # it was asked once
        connection.abort()
        accepted.abort()

    await through(link, doorkeeper, use)


async def test_who_waits_already_takes_it_over(link: str) -> None:
    doorkeeper = Doorkeeper()

    async def use(listener: Any, connect: Callable[[], Any]) -> None:
        accepting = [asyncio.create_task(listener.accept()) for _ in range(2)]
        for task in accepting:
            await parked(task)
        connection = await connect()
        await connection.send(b"hello")
        await doorkeeper.asked.wait()
        await parked(accepting[0])
        accepting[0].cancel()
        doorkeeper.answer.set_result(True)
        accepted = await accepting[1]
        assert await accepted.receive() == b"hello"
        connection.abort()
        accepted.abort()
        await asyncio.wait(accepting)

    await through_a_listener(link, doorkeeper, use)


async def test_nobody_accepts_any_more(link: str) -> None:
    """What was asked for one that was cancelled ends with the listener."""
    doorkeeper = Doorkeeper()

    async def use(listener: Any, connect: Callable[[], Any]) -> None:
        connection = await connect()
        await connection.send(b"hello")
        accepting = asyncio.create_task(listener.accept())
        await doorkeeper.asked.wait()
        await parked(accepting)
        accepting.cancel()
        await asyncio.wait([accepting])
        await listener.close()
        await asyncio.wait([doorkeeper.answer])
        assert doorkeeper.answer.cancelled()
        connection.abort()

    await through_a_listener(link, doorkeeper, use)
