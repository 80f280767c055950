"""Flow: who does not read stops its own sender and nobody else, and what waits is bounded."""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Iterator

import pytest

import tcpconn
from support import (
    ANY,
    KIB,
    MIB,
    PATIENCE,
    Background,
    Pair,
    fill,
    fill_with,
    multiplexer_pair,
    noise,
    wait_until,
)

OVER_TLS = True

WINDOW = 256 * KIB
"""What a new connection may hold unread: the default of `connection_credit`."""


def send_stamped(connection: tcpconn.Connection, size: int) -> int:
    """Sends numbered messages until there is no room, and returns how many."""
    return fill_with(connection, lambda number: number.to_bytes(4, "big") + noise(size - 4, number))


def take_stamped(connection: tcpconn.Connection, size: int, first: int, count: int) -> None:
    for number in range(first, first + count):
        expected = number.to_bytes(4, "big") + noise(size - 4, number)
        assert connection.receive(PATIENCE) == expected


@pytest.mark.parametrize("size", [1000, 10 * KIB, 60 * KIB, 200 * KIB, MIB])
def test_a_reader_that_is_dead_stops_only_its_sender(
    size: int, listener: tcpconn.Listener, pool: tcpconn.ConnectionPool
) -> None:
    dead = Pair(pool.connect(listener.address), listener.accept(PATIENCE))
    live = Pair(pool.connect(listener.address), listener.accept(PATIENCE))
    assert len(pool.multiplexers) == 1
    sent = send_stamped(dead.client, size)
    blocked = Background(lambda: dead.client.send(noise(size))).asleep()
    for number in range(200):
        message = noise(5000, number) if number % 20 else noise(MIB, number)
        live.client.send(message, PATIENCE)
        assert live.server.receive(PATIENCE) == message
        live.server.send(message, PATIENCE)
        assert live.client.receive(PATIENCE) == message
        held = dead.server.stats()
        assert held.unread_bytes <= WINDOW + size
    assert held.receive_window == WINDOW, "the window grew without being used"
    assert not blocked.done
    mux = dead.server.multiplexer
    assert mux is not None
    assert mux.stats().unread_bytes <= WINDOW + size
    take_stamped(dead.server, size, 0, sent)
    assert dead.server.receive(PATIENCE) == noise(size)
    blocked.result()
    for end in (*dead, *live):
        end.close(PATIENCE)


def test_many_dead_readers(listener: tcpconn.Listener, pool: tcpconn.ConnectionPool) -> None:
    """Up to the session's budget, which all of them share."""
    dead = [Pair(pool.connect(listener.address), listener.accept(PATIENCE)) for _ in range(20)]
    sent = [send_stamped(pair.client, 10 * KIB) for pair in dead]
    live = Pair(pool.connect(listener.address), listener.accept(PATIENCE))
    for number in range(100):
        live.client.send(noise(20 * KIB, number), PATIENCE)
        assert live.server.receive(PATIENCE) == noise(20 * KIB, number)
    assert live.server.multiplexer is not None
    assert live.server.multiplexer.stats().unread_bytes <= 20 * (WINDOW + 10 * KIB)
    for pair, count in zip(dead, sent, strict=True):
        take_stamped(pair.server, 10 * KIB, 0, count)
    for pair in (*dead, live):
        pair.client.close(PATIENCE)
        pair.server.close(PATIENCE)


def test_the_sessions_budget(link: str) -> None:
    """What all connections of a link hold together is bounded, and flows on once it is read."""
    budget = MIB
    with multiplexer_pair(link, session_credit=budget, max_message_size=100 * KIB) as (near, far):
        clients = {client.id: client for client in (near.open() for _ in range(8))}
        sent = {name: send_stamped(client, 20 * KIB) for name, client in clients.items()}
        wait_until(lambda: far.stats().unread_bytes > budget // 2, "nothing arrives")
        assert far.stats().unread_bytes <= budget + 100 * KIB
        assert sum(sent.values()) * 20 * KIB > budget

        def serve() -> None:
            server = far.accept(PATIENCE)
            take_stamped(server, 20 * KIB, 0, sent[server.id])
            # Now there is room for those who had none.
            assert server.receive(PATIENCE) == noise(1000)

        serving = [Background(serve) for _ in clients]
        for client in clients.values():
            client.send(noise(1000), PATIENCE)
        for each in serving:
            each.result()


@pytest.mark.parametrize("size", [100 * KIB, MIB, 10 * MIB])
def test_both_sides_send_and_nobody_reads_at_first(size: int, pair: Pair) -> None:
    """Each side's sender waits for a reader, not for the other side's sender."""
    count = max(3, 3 * MIB // size)

    def send(connection: tcpconn.Connection) -> None:
        for number in range(count):
            connection.send(noise(size, number), PATIENCE)

    def receive(connection: tcpconn.Connection) -> None:
        for number in range(count):
            assert connection.receive(PATIENCE) == noise(size, number)

    sending = [Background(lambda end=end: send(end)).asleep() for end in pair]
    receiving = [Background(lambda end=end: receive(end)) for end in pair]
    for each in sending + receiving:
        each.result()


def test_each_side_sends_all_and_only_then_reads(pair: Pair) -> None:
    """One thread on each side; what it sends fits into the windows and queues."""

    def work(connection: tcpconn.Connection) -> None:
        for number in range(3):
            connection.send(noise(3 * MIB, number), PATIENCE)
        for number in range(3):
            assert connection.receive(PATIENCE) == noise(3 * MIB, number)

    for each in [Background(lambda end=end: work(end)) for end in pair]:
        each.result()


def test_urgent_messages_pass_large_ones(
    listener: tcpconn.Listener, pool: tcpconn.ConnectionPool
) -> None:
    """A small message of a more urgent connection overtakes what was sent long before it."""
    bulk = Pair(pool.connect(listener.address, priority=0), listener.accept(PATIENCE))
    urgent = Pair(pool.connect(listener.address, priority=7), listener.accept(PATIENCE))
    assert (bulk.client.priority, urgent.client.priority) == (0, 7)
    assert (bulk.server.priority, urgent.server.priority) == (0, 7)
    fill(bulk.client, noise(8 * MIB))  # waits for credit: the reader is not there yet
    for number in range(50):
        urgent.client.send(noise(1000, number), PATIENCE)
        assert urgent.server.receive(PATIENCE) == noise(1000, number)
        assert bulk.server.stats().messages_received == 0
    assert bulk.server.receive(PATIENCE) == noise(8 * MIB)


def test_priorities_share_a_busy_link(
    listener: tcpconn.Listener, pool: tcpconn.ConnectionPool
) -> None:
    """While the least urgent keep the link full, all others get through, and these do too."""
    pairs = [
        Pair(pool.connect(listener.address, priority=priority), listener.accept(PATIENCE))
        for priority in range(8)
    ]
    stop = threading.Event()

    def flood(connection: tcpconn.Connection) -> int:
        sent = 0
        while not stop.is_set():
            connection.send(noise(300 * KIB, sent), PATIENCE)
            sent += 1
        connection.close(PATIENCE)
        return sent

    def drain(connection: tcpconn.Connection) -> int:
        received = 0
        for message in connection:
            assert message == noise(300 * KIB, received)
            received += 1
        return received

    draining = [Background(lambda pair=pair: drain(pair.server)) for pair in pairs[:2]]
    flooding = [Background(lambda pair=pair: flood(pair.client)) for pair in pairs[:2]]
    for number in range(20):
        for pair in pairs[2:]:
            pair.client.send(noise(100 * KIB, number), PATIENCE)
            assert pair.server.receive(PATIENCE) == noise(100 * KIB, number)
    wait_until(
        lambda: all(pair.server.stats().messages_received >= 3 for pair in pairs[:2]),
        "the least urgent get nothing through",
    )
    stop.set()
    sent = [each.result() for each in flooding]
    assert [each.result() for each in draining] == sent


def test_the_window_grows_with_use(pair: Pair) -> None:
    assert pair.server.stats().receive_window == WINDOW

    # A reader that has caught up, with messages of which the window does not hold two.
    for size in (200 * KIB, 400 * KIB, 800 * KIB):
        message = noise(size)
        pair.client.send(message, PATIENCE)
        assert pair.server.receive(PATIENCE) == message
        with pytest.raises(tcpconn.Timeout):
            pair.server.receive(0)
    grown = pair.server.stats().receive_window
    assert WINDOW < grown <= 16 * MIB
    # And now it may hold that much.
    sent = send_stamped(pair.client, 10 * KIB)
    wait_until(
        lambda: pair.server.stats().unread_bytes > WINDOW,
        lambda: f"a grown window is not used: {pair.server.stats()}",
    )
    assert pair.server.stats().unread_bytes <= grown + 10 * KIB
    take_stamped(pair.server, 10 * KIB, 0, sent)


def test_the_window_grows_no_further_than_it_may(link: str) -> None:
    options = {"connection_credit": 64 * KIB, "max_connection_credit": 128 * KIB}
    with multiplexer_pair(link, **options) as (near, far):
        client = near.open()
        sending = Background(
            lambda: [client.send(noise(10 * KIB, number), PATIENCE) for number in range(500)]
        )
        server = far.accept(PATIENCE)
        for number in range(500):
            assert server.receive(PATIENCE) == noise(10 * KIB, number)
        sending.result()
        assert server.stats().receive_window <= 128 * KIB
        send_stamped(client, 10 * KIB)
        assert server.stats().unread_bytes <= 128 * KIB + 10 * KIB


@pytest.mark.parametrize("size", [100, 10 * KIB, 100 * KIB, 2 * MIB])
def test_a_send_without_room_times_out_with_nothing_sent(size: int, pair: Pair) -> None:
    sent = send_stamped(pair.client, size)
    before = pair.client.stats()
    assert before.messages_sent == sent
    for timeout in (0, 0.01):
        for send in (
            lambda timeout=timeout: pair.client.send(noise(size), timeout),
            lambda timeout=timeout: pair.client.send(bytearray(noise(size)), timeout),
            lambda timeout=timeout: pair.client.send_parts([noise(size), b"x"], timeout),
            lambda timeout=timeout: pair.client.send_many([noise(size)], timeout),
        ):
            with pytest.raises(tcpconn.Timeout):
                send()
    after = pair.client.stats()
    assert (after.messages_sent, after.bytes_sent) == (before.messages_sent, before.bytes_sent)
    take_stamped(pair.server, size, 0, sent)
    pair.client.send(b"later", PATIENCE)
    assert pair.server.receive(PATIENCE) == b"later"


def test_reading_makes_room_for_all_who_wait(pair: Pair) -> None:
    fill(pair.client, noise(MIB))
    queued = pair.client.stats().messages_sent
    waiting = [
        Background(lambda seed=seed: pair.client.send(noise(100 * KIB, seed))).asleep()
        for seed in range(1, 9)
    ]
    for _ in range(queued):
        assert pair.server.receive(PATIENCE) == noise(MIB)
    received = {pair.server.receive(PATIENCE) for _ in waiting}
    for each in waiting:
        each.result()
    assert received == {noise(100 * KIB, seed) for seed in range(1, 9)}


class HoldsUp(logging.Handler):
    """Holds up the thread that says that a link has ended, which is the keeper."""

    def __init__(self) -> None:
        super().__init__()
        self.held = threading.Event()
        self.go = threading.Event()

    def handle(self, record: logging.LogRecord) -> bool:
        if "ended" in record.msg:
            self.held.set()
            self.go.wait(PATIENCE)
        return True


@contextlib.contextmanager
def keeper_held_up(link: str) -> Iterator[None]:
    logger = logging.getLogger("tcpconn")
    before = logger.level
    handler = HoldsUp()
    with multiplexer_pair(link) as (ending, _):
        logger.setLevel(logging.DEBUG)
        logger.addHandler(handler)
        aborting = Background(ending.abort)
        try:
            assert handler.held.wait(PATIENCE)
            yield
        finally:
            handler.go.set()
            aborting.result()
            logger.removeHandler(handler)
            logger.setLevel(before)


@pytest.mark.blocking("through TLS, the keeper reads for a loop")
@pytest.mark.parametrize("threads", [1, 4])
def test_senders_who_wait_for_the_reader_need_no_keeper(threads: int, link: str) -> None:
    """They read for themselves what the peer says about it."""
    count = 100
    with multiplexer_pair(link) as (near, far):
        name = uuid.uuid4()
        client, server = near.open(name), far.open(name)

        def send() -> None:
            for number in range(count):
                client.send(noise(10 * KIB, number), PATIENCE)
            client.receive(PATIENCE)  # who waits sees to it that the rest is written, too

        with keeper_held_up(link):
            senders = [Background(send) for _ in range(threads)]
            for _ in range(threads * count):
                server.receive(PATIENCE)
            server.send_many([b"thanks"] * threads)
            for sender in senders:
                sender.result()


@pytest.mark.blocking("it is about numbers, which the core keeps for all")
def test_empty_messages_are_bounded_too(pair: Pair) -> None:
    """They cost credit although they have no bytes."""
    sent = fill(pair.client, b"")
    assert pair.server.stats().unread_messages <= sent < MIB
    for _ in range(sent):
        assert pair.server.receive(PATIENCE) == b""
    pair.client.send(b"later", PATIENCE)
    assert pair.server.receive(PATIENCE) == b"later"


def test_a_connection_that_nobody_accepts(link: str) -> None:
    """What is sent on it waits for who accepts it, within its window."""
    with (
        tcpconn.listen(ANY, link=link) as listener,
        tcpconn.ConnectionPool(link=link) as pool,
    ):
        client = pool.connect(listener.address)
        sent = send_stamped(client, 10 * KIB)
        assert 0 < sent <= (WINDOW + 16 * MIB) // (10 * KIB) + 1
        server = listener.accept(PATIENCE)
        take_stamped(server, 10 * KIB, 0, sent)
        client.close(PATIENCE)
        server.close(PATIENCE)
