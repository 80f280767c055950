"""Multiplexers: many connections on one link, opened and accepted from either side."""

from __future__ import annotations

import socket
import uuid

import pytest

import tcpconn
from support import (
    KIB,
    MIB,
    PATIENCE,
    Background,
    multiplexer_pair,
    noise,
    tcp_pair,
    unused_port,
    wait_until,
)

OVER_TLS = True


def test_over_an_address(link: str, echo_server: tcpconn.Server) -> None:
    with tcpconn.Multiplexer(echo_server.address, link=link) as multiplexer:
        assert multiplexer.peer_address == echo_server.address
        assert multiplexer.options.link == link
        with multiplexer.open() as connection:
            connection.send(b"x")
            assert connection.receive(PATIENCE) == b"x"
            assert connection.multiplexer is multiplexer
    assert multiplexer.closed
    assert multiplexer.state == "closed"


@pytest.mark.plain
def test_over_a_socket_pair(link: str) -> None:
    near, far = socket.socketpair()
    with (
        tcpconn.Multiplexer(far, link=link) as server,
        tcpconn.Multiplexer(near, client=True, link=link) as client,
        client.open() as ours,
        server.accept(PATIENCE) as theirs,
    ):
        ours.send(b"there")
        assert theirs.receive(PATIENCE) == b"there"
        theirs.send(noise(MIB))
        assert ours.receive(PATIENCE) == noise(MIB)


def test_both_sides_open_and_accept(link: str) -> None:
    with multiplexer_pair(link) as sides:
        for opener, accepter in (sides, reversed(sides)):
            name = uuid.uuid4()
            with opener.open(name, priority=7) as near, accepter.accept(PATIENCE) as far:
                assert near.id == far.id == name
                assert far.priority == 7
                near.send(b"question")
                assert far.receive(PATIENCE) == b"question"
                far.send(b"answer")
                assert near.receive(PATIENCE) == b"answer"


@pytest.mark.plain
def test_the_server_may_open_before_the_client_has_said_hello(link: str) -> None:
    near, far = tcp_pair()
    with tcpconn.Multiplexer(far, link=link) as server:
        connection = server.open()
        connection.send(b"early")
        with (
            tcpconn.Multiplexer(near, client=True, link=link) as client,
            client.accept(PATIENCE) as accepted,
        ):
            assert accepted.receive(PATIENCE) == b"early"
        connection.close()


def test_many_connections(link: str) -> None:
    with multiplexer_pair(link, max_unaccepted=2000) as (client, server):
        opened = [client.open() for _ in range(2000)]
        for number, connection in enumerate(opened):
            connection.send(number.to_bytes(4, "big"))
        accepted = [server.accept(PATIENCE) for _ in opened]
        for number, connection in enumerate(accepted):
            assert connection.id == opened[number].id
            assert connection.receive(PATIENCE) == number.to_bytes(4, "big")
        assert len(client.connections) == len(server.connections) == 2000
        assert client.connection_count == 2000
        for connection in opened + accepted:
            connection.close()
        wait_until(lambda: client.connection_count == 0, "connections do not end")
        wait_until(lambda: server.connection_count == 0, "connections do not end")


def test_the_connections_in_use_are_listed(link: str) -> None:
    with multiplexer_pair(link) as (client, server):
        assert client.connections == []
        one, two = client.open(), client.open()
        assert set(client.connections) == {one, two}
        one.close()
        assert client.connections == [two]
        two.close()
        assert client.connections == []
        assert server.connections == []


def test_accept_with_a_timeout(link: str) -> None:
    with multiplexer_pair(link) as (client, server):
        for timeout in (0, 0.01):
            with pytest.raises(tcpconn.Timeout, match=f"within {timeout}"):
                server.accept(timeout)
        with client.open() as connection:
            connection.send(b"")
            with server.accept(PATIENCE) as accepted:
                assert accepted.id == connection.id


def test_connections_of_a_listener_are_accepted_there(
    listener: tcpconn.Listener, link: str
) -> None:
    with tcpconn.Multiplexer(listener.address, link=link) as client, client.open() as connection:
        connection.send(b"")
        with listener.accept(PATIENCE) as accepted:
            assert accepted.multiplexer is not None
            with pytest.raises(tcpconn.ConnectionClosed, match="listener"):
                accepted.multiplexer.accept(0)


def test_a_round_trip_is_measured(link: str) -> None:
    with multiplexer_pair(link) as (client, server):
        for side in (client, server):
            assert 0 < side.ping(PATIENCE) < PATIENCE
            assert side.round_trip_time is not None
            assert 0 < side.round_trip_time < PATIENCE
            assert side.stats().round_trip_time == side.round_trip_time


def test_pings_from_many_threads(link: str) -> None:
    with multiplexer_pair(link) as (client, server):
        pinging = [
            Background(lambda side=side: [side.ping(PATIENCE) for _ in range(4)])
            for side in (client, server, client, server)
        ]
        for background in pinging:
            assert min(background.result()) > 0


@pytest.mark.plain
def test_a_ping_without_an_answer(link: str) -> None:
    near, far = tcp_pair()
    with far, pytest.raises(tcpconn.Timeout):
        tcpconn.Multiplexer(near, client=True, link=link, timeout=0.02)
    near, far = tcp_pair()
    with far, tcpconn.Multiplexer(near, link=link) as alone, pytest.raises(tcpconn.Timeout):
        alone.ping(0.02)


def test_stats(link: str) -> None:
    with multiplexer_pair(link) as (client, server):
        with client.open() as connection:
            connection.send(noise(100 * KIB))
            with server.accept(PATIENCE) as accepted:
                connection.flush(PATIENCE)
                sent, received = client.stats(), server.stats()
                assert sent.connections == received.connections == 1
                assert sent.bytes_sent > 100 * KIB
                assert received.bytes_received > 100 * KIB
                assert received.unread_bytes == 100 * KIB
                assert received.frames_received > 2
                assert sent.queued_bytes == 0
                accepted.receive(PATIENCE)
        assert server.stats().unread_bytes == 0


class TestClose:
    def test_what_was_sent_arrives(self, link: str) -> None:
        with multiplexer_pair(link) as (client, server):
            connections = [client.open() for _ in range(10)]
            for number, connection in enumerate(connections):
                connection.send(noise(30 * KIB, number))
            accepted = [server.accept(PATIENCE) for _ in connections]
            client.close()
            for number, connection in enumerate(accepted):
                assert list(connection) == [noise(30 * KIB, number)]

    def test_no_new_connections(self, link: str) -> None:
        with multiplexer_pair(link) as (client, server):
            connection = client.open()
            client.close()
            # What was opened before the end can still be accepted.
            assert server.accept(PATIENCE).id == connection.id
            for side in (client, server):
                wait_until(lambda side=side: side.closed, "the link is still open")
                with pytest.raises(tcpconn.ConnectionClosed):
                    side.open()
                with pytest.raises(tcpconn.ConnectionClosed):
                    side.accept(PATIENCE)
            with pytest.raises(tcpconn.ConnectionClosed):
                connection.send(b"")

    @pytest.mark.parametrize("times", [1, 3])
    @pytest.mark.parametrize("how", ["close", "abort"])
    def test_again_and_from_many_threads(self, how: str, times: int, link: str) -> None:
        with multiplexer_pair(link) as (client, server):
            client.open().send(b"x")
            for _ in range(times):
                closing = [
                    Background(getattr(side, how)) for side in (client, server, client, server)
                ]
                for background in closing:
                    background.result()

    @pytest.mark.plain
    def test_it_does_not_wait_for_ever(self, link: str, caplog: pytest.LogCaptureFixture) -> None:
        near, far = tcp_pair()
        with far:
            server = tcpconn.Multiplexer(near, link=link)
            server.open().send(b"to nobody")
            server.close(0.02)
        assert server.closed
        warnings = [record for record in caplog.records if record.levelname == "WARNING"]
        assert [record.name for record in warnings] == ["tcpconn"]
        assert server.peer_address in warnings[0].getMessage()
        assert "0.02" in warnings[0].getMessage()

    @pytest.mark.plain
    def test_with_an_error_it_does_not_wait(self, link: str) -> None:
        near, far = tcp_pair()
        with far:
            multiplexer = tcpconn.Multiplexer(near, link=link)
            multiplexer.open().send(b"to nobody")
            with pytest.raises(RuntimeError, match="the reason"), multiplexer:
                raise RuntimeError("the reason")
        assert multiplexer.closed


def test_failures_close_the_socket(link: str) -> None:
    """The leak check would find it."""
    with pytest.raises(tcpconn.ConnectError):
        tcpconn.Multiplexer(f"127.0.0.1:{unused_port()}", link=link)
    with pytest.raises(tcpconn.OptionError):
        tcpconn.Multiplexer("127.0.0.1:1", link=link, max_frame_size=0)
    near, far = tcp_pair()
    far.close()
    with pytest.raises(tcpconn.LinkLost):
        tcpconn.Multiplexer(near, client=True, link=link)
    assert near.fileno() == -1


def test_a_closed_socket(link: str) -> None:
    near, far = tcp_pair()
    near.close()
    with far, pytest.raises(OSError, match="descriptor"):
        tcpconn.Multiplexer(near, link=link)


@pytest.mark.plain
def test_a_listening_socket(link: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(ConnectionError):
        tcpconn.Multiplexer(server, client=True, link=link)


@pytest.mark.parametrize("priority", [-1, 8, 1.5, "high", True])
def test_what_is_no_priority(priority: object, link: str) -> None:
    with multiplexer_pair(link) as (client, _):
        if priority is True:
            client.open(priority=True).close()  # an int, for better or worse
            return
        with pytest.raises(tcpconn.OptionError, match=f"priority={priority!r}"):
            client.open(priority=priority)  # type: ignore[arg-type]


@pytest.mark.plain
def test_two_clients_or_two_servers(link: str) -> None:
    """Both would greet first: each finds that the other does not answer."""
    near, far = tcp_pair()
    one = Background(lambda: tcpconn.Multiplexer(near, client=True, link=link))
    with pytest.raises(tcpconn.ProtocolError, match=r"HELLO|WELCOME"):
        tcpconn.Multiplexer(far, client=True, link=link)
    assert isinstance(one.error(), tcpconn.ProtocolError)


@pytest.mark.parametrize("wait", ["ping", "flush", "close", "accept"])
def test_whoever_waits_is_woken_by_another_who_reads(wait: str, link: str) -> None:
    """One thread waits for a message and reads the link for all of them."""
    with multiplexer_pair(link) as (client, server):
        connection = client.open()
        connection.send(b"here")
        accepted = server.accept(PATIENCE)
        reading = Background(connection.receive).asleep()
        # More pings than so many in a row would have to wait.
        for _ in range(8 if wait == "ping" else 20):
            if wait == "ping":
                assert client.ping(PATIENCE) > 0
            elif wait == "flush":
                connection.send(noise(100))
                connection.flush(PATIENCE)
            elif wait == "close":
                with client.open() as another:
                    another.send(noise(100))
            else:
                opening = Background(server.open)
                client.accept(PATIENCE).close()
                opening.result().close()
        accepted.send(b"go")
        assert reading.result() == b"go"
