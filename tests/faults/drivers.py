"""What calls for the ends of the traffic: threads on the blocking interface, or an event loop."""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import tcpconn
from faults.ends import PATIENCE, REST, Script, Step, connection_id
from tcpconn import aio

RETRIED = (tcpconn.LinkLost, tcpconn.ConnectError)
"""A first link that broke in mid-handshake: an error, after which one connects again."""


class Driven(Protocol):
    """An end as the drivers see it."""

    number: int

    def scripts(self) -> list[Script]:
        """What is to be done at the same time, before the connection is closed."""

    def failed(self, what: str, error: BaseException) -> None:
        """Told of what a script let through."""


def connect_all(kind: str, address: str, options: dict[str, Any], ends: list[Any]) -> None:
    """Connects each of the client's ends, over one link, and sees them to their end."""
    if kind == "blocking":
        _connect_threads(address, options, ends)
    else:
        _run(kind, _connect_tasks(address, options, ends))


def accept_all(
    kind: str,
    address: str,
    options: dict[str, Any],
    ends: list[Any],
    told: Callable[[str], None],
    through: Callable[[], None],
) -> None:
    """Accepts each of the server's ends, and sees them to their end.

    `told` is called with the address as soon as it is known; `through` when all ends are: the
    listener is there until it returns.
    """
    if kind == "blocking":
        _accept_threads(address, options, ends, told, through)
    else:
        _run(kind, _accept_tasks(address, options, ends, told, through))


# Threads


def _connect_threads(address: str, options: dict[str, Any], ends: list[Driven]) -> None:
    with tcpconn.ConnectionPool(**options) as pool:
        running = [_EndThreads(_connect(pool, address, end.number), end) for end in ends]
        for each in running:
            each.join()


def _connect(pool: tcpconn.ConnectionPool, address: str, number: int) -> tcpconn.Connection:
    while True:
        try:
            return pool.connect(address, connection_id(number), timeout=PATIENCE)
        except RETRIED:
            if pool.multiplexers:
                raise


def _accept_threads(
    address: str,
    options: dict[str, Any],
    ends: list[Driven],
    told: Callable[[str], None],
    through: Callable[[], None],
) -> None:
    with tcpconn.listen(address, **options) as listener:
        told(listener.address)
        running = []
        for _ in ends:
            connection = listener.accept(PATIENCE)
            running.append(_EndThreads(connection, ends[connection.id.int - 1]))
        for each in running:
            each.join()
        through()


class _EndThreads:
    """A thread for each script of an end."""

    def __init__(self, connection: tcpconn.Connection, end: Driven) -> None:
        self._connection, self._end = connection, end
        self._resting = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(each,), name=each.__name__, daemon=True)
            for each in end.scripts()
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Waits for them all, and closes the connection."""
        for thread in self._threads:
            thread.join()
        try:
            self._connection.close(PATIENCE)
        except tcpconn.TcpconnError as error:
            self._end.failed("closing", error)

    def _run(self, script: Script) -> None:
        try:
            step = next(script)
            while True:
                try:
                    answer = self._do(step)
                except (tcpconn.TcpconnError, TimeoutError) as error:
                    step = script.throw(error)
                else:
                    step = script.send(answer)
        except StopIteration:
            pass
        except Exception as error:  # noqa: BLE001  - it is reported
            self._end.failed(script.__name__.strip("_"), error)
            self._connection.abort()  # so that the other scripts end too

    def _do(self, step: Step) -> Any:
        if step.name == REST:
            return self._resting.wait(step.limit)
        return getattr(self._connection, step.name)(*step.arguments, step.limit)


# Tasks


def _run(kind: str, main: Coroutine[Any, Any, None]) -> None:
    factory = importlib.import_module(kind).new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


async def _connect_tasks(address: str, options: dict[str, Any], ends: list[Driven]) -> None:
    async with aio.ConnectionPool(**options) as pool, asyncio.TaskGroup() as group:
        for end in ends:
            connection = await _connect_in_loop(pool, address, end.number)
            group.create_task(_see_through(connection, end))


async def _connect_in_loop(pool: aio.ConnectionPool, address: str, number: int) -> aio.Connection:
    while True:
        try:
            return await pool.connect(address, connection_id(number), timeout=PATIENCE)
        except RETRIED:
            if pool.multiplexers:
                raise


async def _accept_tasks(
    address: str,
    options: dict[str, Any],
    ends: list[Driven],
    told: Callable[[str], None],
    through: Callable[[], None],
) -> None:
    async with aio.listen(address, **options) as listener:
        told(listener.address)
        async with asyncio.TaskGroup() as group:
            for _ in ends:
                async with asyncio.timeout(PATIENCE):
                    connection = await listener.accept()
                group.create_task(_see_through(connection, ends[connection.id.int - 1]))
        await asyncio.to_thread(through)


async def _see_through(connection: aio.Connection, end: Driven) -> None:
    """Runs the scripts of an end, and closes its connection."""
    async with asyncio.TaskGroup() as group:
        for script in end.scripts():
            group.create_task(_run_in_loop(connection, end, script))
    try:
        await connection.close(PATIENCE)
    except tcpconn.TcpconnError as error:
        end.failed("closing", error)


async def _run_in_loop(connection: aio.Connection, end: Driven, script: Script) -> None:
    try:
        step = next(script)
        while True:
            try:
                answer = await _do_in_loop(connection, step)
            except (tcpconn.TcpconnError, TimeoutError) as error:
                step = script.throw(error)
            else:
                step = script.send(answer)
    except StopIteration:
        pass
    except Exception as error:  # noqa: BLE001  - it is reported
        end.failed(script.__name__.strip("_"), error)
        connection.abort()  # so that the other scripts end too


async def _do_in_loop(connection: aio.Connection, step: Step) -> Any:
    if step.name == REST:
        return await asyncio.sleep(step.limit)
    async with asyncio.timeout(step.limit):
        return await getattr(connection, step.name)(*step.arguments)
