"""Many connections on one link, at once, from several threads on each side, every byte verified."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import uuid

import pytest

import tcpconn
from support import MIB, Background, open_descriptors, tcpconn_threads

TIMEOUT = 120.0
"""Seconds for one call, on a machine that has other things to do."""

THREADS = 8
GROUP = 16
"""So many connections does a thread send on before it receives from them."""

BLOCK = random.Random(7).randbytes(2 * MIB)
"""What messages are cut from, the same in both processes."""


class Plan:
    """The messages of one direction of a connection: both processes make the same."""

    def __init__(self, connection: int, from_client: bool) -> None:
        self._random = random.Random(2 * connection + from_client)

    def next(self) -> memoryview:
        """The next message: as many of each order of magnitude, from 0 bytes to 1 MiB."""
        size = int(2 ** (self._random.random() * 20)) - 1
        if self._random.random() < 0.001:
            size = MIB
        start = self._random.randrange(MIB)
        return memoryview(BLOCK)[start : start + size]


def exchange(
    connections: dict[int, tcpconn.Connection], mine: list[int], messages: int, client: bool
) -> int:
    """One thread's part. Returns how many bytes it has received."""
    outgoing = {number: Plan(number, client) for number in mine}
    incoming = {number: Plan(number, not client) for number in mine}
    received = 0

    def send(number: int) -> None:
        connections[number].send(bytes(outgoing[number].next()), TIMEOUT)

    def receive(number: int) -> None:
        nonlocal received
        message, expected = connections[number].receive(TIMEOUT), incoming[number].next()
        assert len(message) == len(expected)
        assert message == expected, f"a message on connection {number} has changed"
        received += len(message)

    for _ in range(messages):
        for first in range(0, len(mine), GROUP):
            group = mine[first : first + GROUP]
            if client:
                for number in group:
                    send(number)
                for number in group:
                    receive(number)
            else:
                for number in group:
                    receive(number)
                    send(number)
    return received


def exchange_all(connections: dict[int, tcpconn.Connection], messages: int, client: bool) -> int:
    """Shares the connections among the threads."""
    parts = [
        [number for number in connections if number % THREADS == part] for part in range(THREADS)
    ]
    working = [
        Background(lambda mine=mine: exchange(connections, mine, messages, client))
        for mine in parts
    ]
    return sum(each.result(10 * TIMEOUT) for each in working)


def serve(link: str, count: int, messages: int) -> None:
    """The other process."""
    threads, descriptors = threading.active_count(), open_descriptors()
    with tcpconn.listen("127.0.0.1:0", link=link, max_unaccepted=count) as listener:
        print(listener.address, flush=True)
        connections: dict[int, tcpconn.Connection] = {}
        while len(connections) < count:
            connection = listener.accept(TIMEOUT)
            connections[connection.id.int] = connection
        assert len(listener.multiplexers) == 1
        received = exchange_all(connections, messages, client=False)
        for connection in connections.values():
            connection.close(TIMEOUT)
    assert not tcpconn_threads()
    assert threading.active_count() == threads
    assert open_descriptors() == descriptors
    print(received, flush=True)


def run(link: str, count: int, messages: int) -> None:
    """The test, with the other side in a process of its own."""
    command = [sys.executable, __file__, link, str(count), str(messages)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process,
        tcpconn.ConnectionPool(link=link) as pool,
    ):
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            connections = {
                number: pool.connect(address, uuid.UUID(int=number)) for number in range(count)
            }
            assert len(pool.multiplexers) == 1
            received = exchange_all(connections, messages, client=True)
            for connection in connections.values():
                connection.close(TIMEOUT)
            said, _ = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
        assert process.returncode == 0
        stats = [connection.stats() for connection in connections.values()]
        assert {(each.messages_sent, each.messages_received) for each in stats} == {
            (messages, messages)
        }
        assert sum(each.bytes_received for each in stats) == received
        assert sum(each.bytes_sent for each in stats) == int(said)


@pytest.mark.usefixtures("no_leaks")
def test_many_connections_at_once(link: str) -> None:
    run(link, 64, 20)


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.usefixtures("no_leaks")
def test_a_thousand_connections_with_a_thousand_messages(link: str) -> None:
    run(link, 1000, 1000)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
