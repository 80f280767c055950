"""Many threads at once: each message goes to one of them, and none waits after the end."""

from __future__ import annotations

import collections
import contextlib
import os
import struct
import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest

import tcpconn
from support import KIB, MIB, PATIENCE, Background, Pair, fill, multiplexer_pair, noise, wait_until

OVER_TLS = True

STAMP = struct.Struct("<II")
THREADS = 6


def stamped(sender: int, number: int) -> bytes:
    """A message that says who sent it as which; sizes around all that changes how it travels."""
    size = (0, 10, 3000, 20 * KIB, 100 * KIB)[(sender + number) % 5]
    if number % 50 == 17:
        size = MIB
    return STAMP.pack(sender, number) + noise(size, sender * 1000 + number)


def send_all(connection: tcpconn.Connection, sender: int, count: int) -> None:
    """Sends `count` stamped messages, in each of the ways there are."""
    number = 0
    while number < count:
        message = stamped(sender, number)
        way = (sender + number) % 4
        if way == 0:
            connection.send(message, PATIENCE)
        elif way == 1:
            connection.send(bytearray(message), PATIENCE)
        elif way == 2:
            connection.send_parts([message[:5], message[5:]], PATIENCE)
        else:
            batch = [stamped(sender, each) for each in range(number, min(number + 5, count))]
            number += connection.send_many(batch, PATIENCE)
            continue
        number += 1


def receive_all(connection: tcpconn.Connection, way: int) -> list[bytes]:
    """Receives until the peer has closed, in one of the ways there are."""
    received: list[bytes] = []
    buffer = bytearray(2 * MIB)
    with contextlib.suppress(tcpconn.ConnectionClosed):
        while True:
            if way == 0:
                received.append(connection.receive(PATIENCE))
            elif way == 1:
                size = connection.receive_into(buffer, PATIENCE)
                received.append(bytes(buffer[:size]))
            elif way == 2:
                with connection.receive_view(PATIENCE) as lease:
                    received.append(bytes(lease))
            else:
                received += connection.receive_many(10, PATIENCE)
    assert connection.state in ("closed", "finished by peer")
    return received


def check(received: list[list[bytes]], senders: int, count: int) -> None:
    """Each message once and unchanged; what one thread got of one sender is in order."""
    seen: collections.Counter[tuple[int, int]] = collections.Counter()
    for messages in received:
        last: dict[int, int] = {}
        for message in messages:
            sender, number = STAMP.unpack_from(message)
            assert message == stamped(sender, number)
            assert last.get(sender, -1) < number, "out of order"
            last[sender] = number
            seen[sender, number] += 1
    assert set(seen.values()) == {1}
    assert len(seen) == senders * count


def exchange(pair: Pair, count: int) -> Callable[[], None]:
    """Starts threads that send and receive on both ends. What it returns waits and checks."""
    sides: list[tuple[list[Background[None]], list[Background[list[bytes]]]]] = []
    for source, sink in (pair, (pair.server, pair.client)):
        receiving = [
            Background(lambda sink=sink, way=way: receive_all(sink, way % 4))
            for way in range(THREADS)
        ]
        sending = [
            Background(lambda source=source, sender=sender: send_all(source, sender, count))
            for sender in range(THREADS)
        ]
        sides.append((sending, receiving))

    def finish() -> None:
        for sending, _ in sides:
            for each in sending:
                each.result()
        # Nobody reads on a closed connection: first all must have been taken.
        for end in pair:
            wait_until(
                lambda end=end: end.stats().messages_received == THREADS * count,
                lambda end=end: f"messages are missing: {end.stats()}",
            )
        for end in pair:
            end.close(PATIENCE)
        for _, receiving in sides:
            check([each.result() for each in receiving], THREADS, count)

    return finish


def test_one_connection(pair: Pair) -> None:
    exchange(pair, 100)()


def test_many_connections_of_one_link(
    listener: tcpconn.Listener, pool: tcpconn.ConnectionPool
) -> None:
    pairs = [Pair(pool.connect(listener.address), listener.accept(PATIENCE)) for _ in range(4)]
    assert len(pool.multiplexers) == 1
    for finish in [exchange(pair, 25) for pair in pairs]:
        finish()


def test_one_receiver_sees_each_senders_order(pair: Pair) -> None:
    """And what one thread sends in one `send_many` stays in a row among small messages."""
    receiving = Background(lambda: receive_all(pair.server, 0))
    sending = [
        Background(lambda sender=sender: send_all(pair.client, sender, 100))
        for sender in range(THREADS)
    ]
    for each in sending:
        each.result()
    pair.client.close(PATIENCE)
    check([receiving.result()], THREADS, 100)


def test_threads_that_open_use_and_close(
    listener: tcpconn.Listener, pool: tcpconn.ConnectionPool
) -> None:
    def serve() -> int:
        served = 0
        while True:
            try:
                connection = listener.accept(PATIENCE)
            except tcpconn.ConnectionClosed:
                return served
            with connection:
                for message in connection:
                    connection.send(message)
            served += 1

    def use(seed: int) -> None:
        for number in range(20):
            with pool.connect(listener.address) as connection:
                message = noise(number * 5000, seed)
                connection.send(message, PATIENCE)
                assert connection.receive(PATIENCE) == message

    serving = [Background(serve) for _ in range(THREADS)]
    using = [Background(lambda seed=seed: use(seed)) for seed in range(THREADS)]
    for each in using:
        each.result()
    listener.close()
    assert sum(each.result() for each in serving) == THREADS * 20


def test_each_connection_is_accepted_once(link: str) -> None:
    with multiplexer_pair(link) as (client, server):
        accepting = [
            Background(lambda: [server.accept(PATIENCE).id for _ in range(10)])
            for _ in range(THREADS)
        ]
        opening = [Background(lambda: [client.open() for _ in range(10)]) for _ in range(THREADS)]
        opened = [each.id for background in opening for each in background.result()]
        accepted = [each for background in accepting for each in background.result()]
        assert sorted(accepted) == sorted(opened)


def test_one_message_wakes_one_of_many(pair: Pair) -> None:
    """Each message ends one wait, whichever; the others go on waiting."""
    buffer = bytearray(10)
    ways: list[Callable[[], Any]] = [
        lambda: pair.server.receive(PATIENCE),
        lambda: pair.server.receive_into(buffer, PATIENCE),
        lambda: pair.server.receive_view(PATIENCE).release(),
        lambda: pair.server.receive_many(1, PATIENCE),
    ]
    waiting = [Background(way).asleep() for way in ways * 2]
    for left in range(len(waiting), 0, -1):
        assert sum(not each.done for each in waiting) == left
        pair.client.send(b"one")
        wait_until(
            lambda left=left: sum(not each.done for each in waiting) < left,
            "a message has woken nobody",
        )
    for each in waiting:
        each.result()


def end_by_close(pair: Pair, listener: tcpconn.Listener) -> None:
    with pytest.raises(tcpconn.Timeout):  # nobody takes what is on its way
        pair.client.close(0)


def end_by_abort(pair: Pair, listener: tcpconn.Listener) -> None:
    pair.client.abort()


def end_by_peers_close(pair: Pair, listener: tcpconn.Listener) -> None:
    pair.server.close(PATIENCE)


def end_by_link_loss(pair: Pair, listener: tcpconn.Listener) -> None:
    assert pair.server.multiplexer is not None
    pair.server.multiplexer.abort()


def end_by_listener(pair: Pair, listener: tcpconn.Listener) -> None:
    listener.close(0)


@pytest.mark.parametrize(
    "end", [end_by_close, end_by_abort, end_by_peers_close, end_by_link_loss, end_by_listener]
)
def test_everybody_who_waits_is_woken(
    end: Callable[[Pair, tcpconn.Listener], None], pair: Pair, listener: tcpconn.Listener
) -> None:
    """All kinds of waits together, several threads in each, on one end of one connection."""
    fill(pair.client, noise(MIB))
    ways: list[Callable[[], Any]] = [
        pair.client.receive,
        lambda: pair.client.receive_into(bytearray(MIB)),
        pair.client.receive_view,
        pair.client.receive_many,
        lambda: pair.client.send(noise(MIB)),
        lambda: pair.client.send(b"small"),
        lambda: pair.client.send_many([noise(10 * KIB)]),
        pair.client.flush,
    ]
    waiting = [Background(way).asleep() for way in ways * 2]
    accepting = [Background(listener.accept).asleep() for _ in range(2)]
    end(pair, listener)
    for each in waiting:
        assert isinstance(each.error(), (tcpconn.ConnectionClosed, tcpconn.LinkLost))
    # An accept waits for the next link, whatever became of this one.
    if end is not end_by_listener:
        assert not any(each.done for each in accepting)
        listener.close(0)
    for each in accepting:
        assert isinstance(each.error(), tcpconn.ConnectionClosed)


def test_a_crowd_hears_of_the_end(listener: tcpconn.Listener, link: str) -> None:
    """Threads are woken a few at a time then, but all of them, and those of all links."""
    links = [tcpconn.Multiplexer(listener.address, link=link) for _ in range(3)]
    pairs = [Pair(each.open(), listener.accept(PATIENCE)) for each in links for _ in range(20)]
    waiting = [Background(end.receive).asleep() for pair in pairs for end in pair]
    for each in links:
        each.abort()
    for one in waiting:
        assert isinstance(one.error(), (tcpconn.ConnectionClosed, tcpconn.LinkLost))


def test_others_go_on_when_one_ends(
    listener: tcpconn.Listener, pool: tcpconn.ConnectionPool
) -> None:
    """The thread that read the link leaves: one of those that wait must read on."""
    pairs = [Pair(pool.connect(listener.address), listener.accept(PATIENCE)) for _ in range(8)]
    waiting = [Background(lambda end=pair.client: end.receive(PATIENCE)).asleep() for pair in pairs]
    for number, pair in enumerate(pairs):
        if number % 2:
            pair.client.abort()
            assert isinstance(waiting[number].error(), tcpconn.ConnectionReset)
        else:
            pair.server.send(noise(1000, number))
            assert waiting[number].result() == noise(1000, number)
    for pair in pairs:
        pair.client.abort()
        pair.server.abort()


def test_calls_and_closes_race(listener: tcpconn.Listener, pool: tcpconn.ConnectionPool) -> None:
    """A call either works or raises what ended the connection; nothing hangs."""
    for number in range(30):
        pair = Pair(pool.connect(listener.address), listener.accept(PATIENCE))
        ready = threading.Barrier(5)

        def use(call: Callable[[], Any], ready: threading.Barrier = ready) -> None:
            ready.wait(PATIENCE)
            while True:
                call()

        using = [
            Background(lambda call=call: use(call))
            for call in (
                lambda end=pair.client: end.send(noise(5000)),
                lambda end=pair.server: end.receive(PATIENCE),
                lambda end=pair.server: end.send(noise(5000)),
                lambda end=pair.client: end.receive_many(timeout=PATIENCE),
            )
        ]
        ready.wait(PATIENCE)
        ending = pair[number % 2]
        if number % 3:
            ending.abort()
        else:
            ending.close()
        for each in using:
            assert isinstance(each.error(), tcpconn.ConnectionClosed)
        for end in pair:
            end.close()


@pytest.mark.blocking("a loop waits for links itself")
def test_waiting_when_no_descriptor_is_left(link: str) -> None:
    resource = pytest.importorskip("resource")
    with multiplexer_pair(link) as (near, far):
        name = uuid.uuid4()
        client, server = near.open(name), far.open(name)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.open(os.devnull, os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                os.open(os.devnull, os.O_RDONLY)
            with pytest.raises(tcpconn.Timeout):
                server.receive(0.05)
            receiving = Background(lambda: server.receive(PATIENCE))
            client.send(b"hello")
            assert receiving.result() == b"hello"
            receiving = Background(lambda: server.receive(PATIENCE))
            server.close()
            assert isinstance(receiving.error(), tcpconn.ConnectionClosed)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        client.close()
