"""Micro-benchmarks of the session: two of them and no socket between.

What a message costs before the kernel comes in: framing, credit, acks, queues and reassembly. Every
round moves the same messages, so divide a figure by what its name says.
"""

import os

import pytest

from tcpconn._session import Session

MESSAGES = 64


class Pair:
    """A client's and a server's session, and the wire between them."""

    def __init__(self) -> None:
        self.client = Session(client=True)
        self.server = Session(client=False)
        self.id = os.urandom(16)
        assert self.client.open(self.id) == 0
        self.carry()
        assert self.server.accept() == self.id

    def carry(self) -> None:
        """Carries bytes both ways until there are none."""
        while True:
            there, back = self.client.output(), self.server.output()
            if not there and not back:
                return
            if there:
                self.server.feed(there)
            if back:
                self.client.feed(back)

    def receive_all(self, session: Session) -> int:
        """Takes every unread message; how many there were."""
        number = 0
        while session.receive(self.id) is not None:
            number += 1
        return number


@pytest.fixture
def pair():
    return Pair()


@pytest.mark.parametrize("size", [0, 100, 1024])
def test_64_messages_end_to_end(benchmark, pair, size):
    message = bytes(size)

    def stream():
        for _ in range(MESSAGES):
            pair.client.send(pair.id, message)
        pair.carry()
        return pair.receive_all(pair.server)

    assert benchmark(stream) == MESSAGES


def test_send_64_messages_of_1_kib(benchmark, pair):
    message = bytes(1024)

    def before():
        pair.carry()
        pair.receive_all(pair.server)
        pair.carry()

    def send():
        for _ in range(MESSAGES):
            pair.client.send(pair.id, message)

    benchmark.pedantic(send, setup=before, rounds=500, warmup_rounds=20)
    pair.carry()
    assert pair.receive_all(pair.server) == MESSAGES


def test_feed_64_messages_of_1_kib(benchmark, pair):
    message = bytes(1024)

    def before():
        pair.receive_all(pair.server)
        pair.carry()
        for _ in range(MESSAGES):
            pair.client.send(pair.id, message)
        return (pair.client.output(),), {}

    benchmark.pedantic(pair.server.feed, setup=before, rounds=500, warmup_rounds=20)
    assert pair.receive_all(pair.server) == MESSAGES


@pytest.mark.parametrize("size", [200 * 1024, 1 << 20])
def test_one_large_message_in_chunks(benchmark, pair, size):
    message = os.urandom(size)

    def move():
        pair.client.send(pair.id, message)
        pair.carry()
        return pair.server.receive(pair.id)

    assert benchmark(move) == message


def test_round_trip_of_100_bytes(benchmark, pair):
    message = bytes(100)

    def there_and_back():
        pair.client.send(pair.id, message)
        pair.server.feed(pair.client.output())
        pair.server.send(pair.id, pair.server.receive(pair.id))
        pair.client.feed(pair.server.output())
        return pair.client.receive(pair.id)

    assert benchmark(there_and_back) == message


def test_open_and_close_a_connection(benchmark, pair):
    def come_and_go():
        opened = os.urandom(16)
        pair.client.open(opened)
        pair.carry()
        assert pair.server.accept() == opened
        pair.client.close(opened)
        pair.server.close(opened)
        pair.carry()

    benchmark(come_and_go)
    assert pair.client.stats()["connections"] == 1
