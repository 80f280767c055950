"""Ends: closing, aborting, losing the link. Who waits is woken; what was sent arrives, or not."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest

import tcpconn
import wire
from support import (
    KIB,
    MIB,
    PATIENCE,
    Background,
    Pair,
    break_link,
    fill,
    multiplexer_pair,
    noise,
    tcp_pair,
    wait_until,
)

OVER_TLS = True

Wait = Callable[[tcpconn.Connection], Any]

RECEIVES: dict[str, Wait] = {
    "receive": lambda connection: connection.receive(),
    "receive_into": lambda connection: connection.receive_into(bytearray(10)),
    "receive_view": lambda connection: connection.receive_view(),
    "receive_many": lambda connection: connection.receive_many(),
}


def send_for_ever(connection: tcpconn.Connection) -> None:
    while True:
        connection.send(noise(10 * KIB))


def send_large_for_ever(connection: tcpconn.Connection) -> None:
    while True:
        connection.send(noise(MIB))


def send_parts_for_ever(connection: tcpconn.Connection) -> None:
    while True:
        connection.send_parts([noise(5 * KIB), noise(5 * KIB)])


SENDS: dict[str, Wait] = {
    "send": send_for_ever,
    "send-large": send_large_for_ever,
    "send_parts": send_parts_for_ever,
    "send_many": lambda connection: connection.send_many(itertools.repeat(noise(10 * KIB))),
    "flush": lambda connection: connection.flush(),
}
WAITS = RECEIVES | SENDS


def close_here(pair: Pair) -> None:
    # What cannot be sent any more is no reason to wait here.
    with contextlib.suppress(tcpconn.Timeout):
        pair.client.close(0)


def abort_here(pair: Pair) -> None:
    pair.client.abort()


def close_there(pair: Pair) -> None:
    pair.server.close()


def abort_there(pair: Pair) -> None:
    pair.server.abort()


def close_link_here(pair: Pair) -> None:
    assert pair.client.multiplexer is not None
    pair.client.multiplexer.close(0)


def abort_link_here(pair: Pair) -> None:
    assert pair.client.multiplexer is not None
    pair.client.multiplexer.abort()


def close_link_there(pair: Pair) -> None:
    assert pair.server.multiplexer is not None
    pair.server.multiplexer.close(0)


def abort_link_there(pair: Pair) -> None:
    assert pair.server.multiplexer is not None
    pair.server.multiplexer.abort()


HERE = [close_here, abort_here, close_link_here, abort_link_here]
THERE = [close_there, abort_there, close_link_there, abort_link_there]


@pytest.mark.parametrize("end", HERE + THERE)
@pytest.mark.parametrize("wait", WAITS)
def test_every_wait_ends_with_the_connection(
    wait: str, end: Callable[[Pair], None], pair: Pair
) -> None:
    if wait == "flush":
        fill(pair.client, noise(MIB))
    waiting = [Background(lambda: WAITS[wait](pair.client)).asleep() for _ in range(3)]
    end(pair)
    for background in waiting:
        error = background.error()
        assert isinstance(error, (tcpconn.ConnectionClosed, tcpconn.LinkLost))
        assert isinstance(error, ConnectionError)
        assert str(pair.client.id) in str(error) or pair.client.peer_address in str(error)
    # And again, without waiting.
    with pytest.raises(ConnectionError):
        RECEIVES["receive"](pair.client)
    with pytest.raises(ConnectionError):
        send_for_ever(pair.client)


@pytest.mark.parametrize("end", ["listener", "pool"])
@pytest.mark.parametrize("wait", RECEIVES)
def test_every_wait_ends_with_the_listener_or_the_pool(wait: str, end: str, link: str) -> None:
    listener = tcpconn.listen("127.0.0.1:0", link=link)
    pool = tcpconn.ConnectionPool(link=link)
    client = pool.connect(listener.address)
    server = listener.accept(PATIENCE)
    waiting = [
        Background(lambda side=side: RECEIVES[wait](side)).asleep() for side in (client, server)
    ]
    (listener if end == "listener" else pool).close()
    for background in waiting:
        assert isinstance(background.error(), tcpconn.ConnectionClosed)
    listener.close()
    pool.close()


def test_accept_ends_with_the_listener(listener: tcpconn.Listener) -> None:
    waiting = [Background(listener.accept).asleep() for _ in range(5)]
    iterating = Background(lambda: list(listener)).asleep()
    listener.close()
    for background in waiting:
        assert isinstance(background.error(), tcpconn.ConnectionClosed)
    assert iterating.result() == []


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("how", ["close", "abort"])
def test_accept_of_a_multiplexer_ends_with_it(how: str, side: str, link: str) -> None:
    with multiplexer_pair(link) as (client, server):
        waiting = [Background(m.accept).asleep() for m in (client, server, client, server)]
        ending = client if side == "client" else server
        if how == "close":
            ending.close()
        else:
            ending.abort()
        for background in waiting:
            assert isinstance(background.error(), ConnectionError)


def test_ping_ends_with_its_link(link: str) -> None:
    with multiplexer_pair(link) as (client, server):
        assert client.ping(PATIENCE) > 0
        server.abort()
        with pytest.raises(ConnectionError):
            client.ping(PATIENCE)


class TestClose:
    @pytest.mark.parametrize("size", [0, 10, 100 * KIB, 5 * MIB])
    def test_what_was_sent_arrives(self, size: int, pair: Pair) -> None:
        for seed in range(3):
            pair.client.send(noise(size, seed), PATIENCE)
        closing = Background(lambda: pair.client.close(PATIENCE))
        for seed in range(3):
            assert pair.server.receive(PATIENCE) == noise(size, seed)
        closing.result()
        with pytest.raises(tcpconn.ConnectionClosed, match="no more messages"):
            pair.server.receive(PATIENCE)

    def test_it_waits_for_the_peers_session_not_for_its_user(self, pair: Pair) -> None:
        pair.client.send_many([noise(1000, seed) for seed in range(20)])
        pair.client.close(PATIENCE)
        assert list(pair.server) == [noise(1000, seed) for seed in range(20)]

    def test_it_gives_up_when_the_peer_does_not_take_it(self, pair: Pair) -> None:
        sent = fill(pair.client, noise(MIB))
        with pytest.raises(tcpconn.Timeout, match=f"{pair.client.id}.*0.05.*lost"):
            pair.client.close(0.05)
        assert pair.client.state == "aborted"
        received = 0
        with contextlib.suppress(tcpconn.ConnectionReset):
            while True:
                assert pair.server.receive(PATIENCE) == noise(MIB)
                received += 1
        assert received < sent

    @pytest.mark.parametrize("end", ["abort", "close"])
    def test_giving_up_after_all(self, end: str, pair: Pair) -> None:
        """Somebody else may abort it while it waits, or the peer may close."""
        fill(pair.client, noise(MIB))
        closing = Background(lambda: pair.client.close(None)).asleep()
        if end == "abort":
            pair.client.abort()
        else:
            pair.server.close()
        closing.result()

    def test_the_link_breaks_before_all_is_acknowledged(self, pair: Pair) -> None:
        fill(pair.client, noise(MIB))
        closing = Background(lambda: pair.client.close(None)).asleep()
        assert pair.server.multiplexer is not None
        pair.server.multiplexer.abort()
        assert isinstance(closing.error(), tcpconn.ConnectionReset)

    def test_again(self, pair: Pair) -> None:
        for _ in range(3):
            pair.client.close()
        pair.client.abort()
        pair.client.close()

    def test_both_at_once(self, listener: tcpconn.Listener, pool: tcpconn.ConnectionPool) -> None:
        for number in range(50):
            client, server = pool.connect(listener.address), listener.accept(PATIENCE)
            if number % 2:
                server.send(b"unread")
            closing = [Background(side.close) for side in (client, server)]
            for background in closing:
                background.result()
        assert client.closed
        assert server.closed

    def test_from_many_threads(self, pair: Pair) -> None:
        pair.client.send(noise(100 * KIB))
        closing = [Background(pair.client.close) for _ in range(8)]
        for background in closing:
            background.result()
        assert pair.server.receive(PATIENCE) == noise(100 * KIB)

    def test_who_waits_here_is_told_at_once(self, pair: Pair) -> None:
        fill(pair.client, noise(100 * KIB))
        receiving = Background(pair.client.receive).asleep()
        closing = Background(pair.client.close)
        assert isinstance(receiving.error(1), tcpconn.ConnectionClosed)
        pair.client.abort()
        closing.result()

    def test_messages_unread_here_are_dropped(self, pair: Pair) -> None:
        pair.server.send_many([b"one", b"two"])
        pair.server.flush(PATIENCE)
        pair.client.close()
        with pytest.raises(tcpconn.ConnectionClosed, match="closed here"):
            pair.client.receive(0)

    def test_the_peer_learns_that_nobody_reads(self, pair: Pair) -> None:
        pair.server.send(b"opened")
        assert pair.client.receive(PATIENCE) == b"opened"
        pair.client.close()
        with pytest.raises(tcpconn.ConnectionClosed, match="no more messages"):
            pair.server.receive(PATIENCE)
        with pytest.raises(tcpconn.ConnectionClosed, match="nobody reads it any more"):
            pair.server.send(b"anybody?")
        pair.server.close()

    @pytest.mark.plain
    @pytest.mark.parametrize("ends_first", [False, True])
    @pytest.mark.parametrize(("acked", "heard"), [(0, False), (1, False), (2, True), (4, True)])
    def test_a_peer_that_closes_has_what_it_acknowledged(
        self, acked: int, heard: bool, ends_first: bool, link: str
    ) -> None:
        """Whatever other connections have under way meanwhile, and in whatever order it says so."""
        near, far = tcp_pair()
        peer = wire.Writer()
        with far, contextlib.closing(tcpconn.Multiplexer(near, link=link)) as multiplexer:
            far.sendall(wire.PREFACE + wire.hello() + peer.open(1, b"1" * 16))
            closed = multiplexer.accept(PATIENCE)
            far.sendall(peer.open(2, b"2" * 16))
            other = multiplexer.accept(PATIENCE)
            closed.send(b"OPEN is 0, and this is 1")
            other.send(b"OPEN is 2, and this is 3")
            end = peer.fin(1) + wire.ack(4) if ends_first else b""  # too late to mean anything
            far.sendall(wire.ack(acked) + end + peer.reset(1, wire.CLOSED, peer=True))
            said = b""
            while bytes(wire.Frame(wire.RESET, 0, 1, 4, b"\0\0\0\x10")) not in said:
                said += far.recv(65536)
            if heard:
                closed.flush(PATIENCE)
            else:
                with pytest.raises(tcpconn.ConnectionClosed, match="nobody reads it any more"):
                    closed.flush(PATIENCE)
            multiplexer.abort()

    def test_unread_messages_outlive_the_peers_close(self, pair: Pair) -> None:
        pair.client.send_many([noise(1000), noise(200 * KIB)])
        pair.client.close(PATIENCE)
        assert pair.server.state == "finished by peer"
        assert pair.server.receive(0) == noise(1000)
        assert pair.server.receive(0) == noise(200 * KIB)

    @pytest.mark.parametrize("end", THERE)
    def test_unread_messages_outlive_every_end_there(
        self, end: Callable[[Pair], None], pair: Pair
    ) -> None:
        pair.server.send_many([noise(10), noise(200 * KIB)])
        pair.server.flush(PATIENCE)
        end(pair)
        assert pair.client.receive(PATIENCE) == noise(10)
        assert pair.client.receive(PATIENCE) == noise(200 * KIB)
        with pytest.raises(ConnectionError):
            pair.client.receive(PATIENCE)

    def test_the_link_and_others_on_it_go_on(
        self, listener: tcpconn.Listener, pool: tcpconn.ConnectionPool
    ) -> None:
        client, server = pool.connect(listener.address), listener.accept(PATIENCE)
        for how in ("close", "abort"):
            for _ in range(20):
                one, other = pool.connect(listener.address), listener.accept(PATIENCE)
                one.send(noise(100 * KIB))
                other.send(noise(100 * KIB))
                getattr(one, how)()
                getattr(other, how)()
                client.send(b"go on")
                assert server.receive(PATIENCE) == b"go on"
        client.close()
        server.close()

    def test_context_manager(self, pair: Pair) -> None:
        with pair.client as connection:
            assert connection is pair.client
            connection.send(b"in time")
        assert pair.client.closed
        assert list(pair.server) == [b"in time"]

    def test_context_manager_with_an_error(self, pair: Pair) -> None:
        """It does not hide it, and does not wait."""
        fill(pair.client, noise(MIB))
        with pytest.raises(RuntimeError, match="the reason"), pair.client:
            raise RuntimeError("the reason")
        assert pair.client.closed


class TestFlush:
    def test_the_peer_does_not_want_it(self, pair: Pair) -> None:
        fill(pair.client, noise(MIB))
        flushing = Background(pair.client.flush).asleep()
        pair.server.close()
        assert isinstance(flushing.error(), tcpconn.ConnectionClosed)
        with pytest.raises(tcpconn.ConnectionClosed):
            pair.client.flush(PATIENCE)

    def test_the_peer_had_closed_before_it_came(self, pair: Pair) -> None:
        pair.client.send(b"some")
        pair.client.close()
        assert pair.server.receive(PATIENCE) == b"some"
        pair.server.send(b"which nobody will read")
        with pytest.raises(tcpconn.ConnectionClosed):
            pair.server.flush(PATIENCE)

    def test_the_peer_had_it_all_when_it_closed(self, pair: Pair) -> None:
        pair.client.send(b"all")
        pair.client.flush(PATIENCE)
        pair.server.close()
        with pytest.raises(tcpconn.ConnectionClosed):
            pair.client.receive(PATIENCE)
        pair.client.flush(PATIENCE)


class TestAbort:
    def test_what_was_sent_before_may_be_lost_and_the_peer_knows(self, pair: Pair) -> None:
        fill(pair.client, noise(MIB))
        pair.client.abort()
        with pytest.raises(tcpconn.ConnectionReset, match="ABORTED") as caught:
            list(pair.server)
        assert caught.value.code == 13
        assert isinstance(caught.value, ConnectionResetError)

    def test_whole_messages_stay(self, pair: Pair) -> None:
        pair.client.send(b"whole")
        pair.client.flush(PATIENCE)
        pair.client.abort()
        assert pair.server.receive(PATIENCE) == b"whole"
        with pytest.raises(tcpconn.ConnectionReset):
            pair.server.receive(PATIENCE)

    def test_use_after_it(self, pair: Pair) -> None:
        pair.client.abort()
        assert pair.client.state == "aborted"
        for use in (
            lambda: pair.client.send(b""),
            lambda: pair.client.receive(0),
            lambda: pair.client.flush(0),
        ):
            with pytest.raises(tcpconn.ConnectionReset, match="aborted here"):
                use()

    def test_again_and_after_close(self, pair: Pair) -> None:
        pair.client.close()
        pair.client.abort()
        pair.client.abort()
        pair.server.abort()
        pair.server.close()


@pytest.mark.parametrize(
    "use",
    [
        lambda connection: connection.send(b"x"),
        lambda connection: connection.send(bytearray(b"x")),
        lambda connection: connection.send(noise(MIB)),
        lambda connection: connection.send_parts([b"x", b"y"]),
        lambda connection: connection.send_many([b"x"]),
        lambda connection: connection.receive(0),
        lambda connection: connection.receive(),
        lambda connection: connection.receive_into(bytearray(1), 0),
        lambda connection: connection.receive_view(0),
        lambda connection: connection.receive_many(timeout=0),
        lambda connection: connection.flush(),
    ],
)
def test_use_after_close(use: Callable[[tcpconn.Connection], Any], pair: Pair) -> None:
    pair.client.close()
    assert pair.client.closed
    assert pair.client.state == "closed"
    with pytest.raises(
        tcpconn.ConnectionClosed, match=f"{pair.client.id} was closed here"
    ) as caught:
        use(pair.client)
    assert not isinstance(caught.value, tcpconn.ConnectionReset)
    # What is only looked at can still be looked at.
    assert pair.client.stats().messages_sent == 0
    assert pair.client.id == pair.server.id
    assert pair.client.peer_address
    assert list(pair.client) == []


def test_states(listener: tcpconn.Listener, pool: tcpconn.ConnectionPool) -> None:
    client, server = pool.connect(listener.address), listener.accept(PATIENCE)
    assert client.state == server.state == "open"
    assert not client.closed
    client.close()
    with pytest.raises(tcpconn.ConnectionClosed):
        server.receive(PATIENCE)
    assert server.state == "finished by peer"
    server.close()
    assert server.state == "closed"
    client, server = pool.connect(listener.address), listener.accept(PATIENCE)
    client.abort()
    with pytest.raises(tcpconn.ConnectionReset):
        server.receive(PATIENCE)
    assert (client.state, server.state) == ("aborted", "reset by peer")
    server.close()
    client, server = pool.connect(listener.address), listener.accept(PATIENCE)
    listener.close()
    with pytest.raises(tcpconn.ConnectionClosed):
        client.receive(PATIENCE)
    wait_until(lambda: client.closed, "the link stayed")
    assert (client.state, server.state) == ("ended", "closed")


def test_a_lost_link(link: str, caplog: pytest.LogCaptureFixture) -> None:
    """The peer's process is gone, say: no word of farewell."""
    with multiplexer_pair(link) as (client, server), caplog.at_level(logging.DEBUG):
        connection = client.open()
        connection.send(b"there?")
        accepted = server.accept(PATIENCE)
        assert accepted.receive(PATIENCE) == b"there?"
        break_link(server)
        with pytest.raises(tcpconn.LinkLost, match=client.peer_address):
            connection.receive(PATIENCE)
        with pytest.raises(tcpconn.LinkLost, match=client.peer_address):
            connection.send(b"gone?")
        with pytest.raises(tcpconn.LinkLost):
            connection.flush(PATIENCE)
        assert connection.state == "lost"
        assert connection.closed
        with pytest.raises(tcpconn.LinkLost):
            list(connection)
        connection.close()
    assert {record.name for record in caplog.records} <= {"tcpconn"}
    assert b"there?".decode() not in caplog.text
