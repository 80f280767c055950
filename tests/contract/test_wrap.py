"""`wrap`: connections on a socket that was accepted by other means."""

from __future__ import annotations

import socket
import uuid

import pytest

import tcpconn
from support import PATIENCE, Background, tcp_pair, wait_until


@pytest.fixture
def sockets() -> tuple[socket.socket, socket.socket]:
    """Connected sockets: the client's and the server's. Whom the test gives them to closes them."""
    return tcp_pair()


def test_many_connections_named_on_both_sides_before_anything_was_said(
    sockets: tuple[socket.socket, socket.socket], link: str
) -> None:
    client, server = sockets
    ids = [uuid.uuid4() for _ in range(3)]
    there = [tcpconn.wrap(server, name, link=link) for name in ids]
    with tcpconn.Multiplexer(client, client=True, link=link) as multiplexer:
        here = [multiplexer.open(name) for name in reversed(ids)]
        for connection in here:
            connection.send(connection.id.bytes)
        for connection in there:
            assert connection.receive(PATIENCE) == connection.id.bytes
            connection.send(b"met")
        for connection in here:
            assert connection.receive(PATIENCE) == b"met"
        assert len({id(connection.multiplexer) for connection in there}) == 1


def test_without_an_id_it_accepts_what_the_peer_opens(
    sockets: tuple[socket.socket, socket.socket], link: str
) -> None:
    client, server = sockets
    accepting = Background(lambda: tcpconn.wrap(server, link=link)).asleep()
    with tcpconn.Multiplexer(client, client=True, link=link) as multiplexer:
        here = multiplexer.open()
        with accepting.result() as there:
            assert there.id == here.id
            with pytest.raises(tcpconn.Timeout):
                tcpconn.wrap(server, timeout=0.01, link=link)


def test_the_link_goes_when_it_was_idle_for_long_enough(
    sockets: tuple[socket.socket, socket.socket], link: str
) -> None:
    client, server = sockets
    there = tcpconn.wrap(server, uuid.uuid4(), idle_timeout=0.05, link=link)
    multiplexer = tcpconn.Multiplexer(client, client=True, link=link)
    here = multiplexer.open(there.id)
    there.send(b"last")
    there.close()
    assert here.receive(PATIENCE) == b"last"
    here.close()
    wait_until(lambda: multiplexer.closed, "the link stayed")
    multiplexer.close()


def test_the_same_socket_has_the_same_options(
    sockets: tuple[socket.socket, socket.socket], link: str
) -> None:
    client, server = sockets
    with tcpconn.wrap(server, uuid.uuid4(), link=link) as there:
        with pytest.raises(tcpconn.OptionError):
            tcpconn.wrap(server, uuid.uuid4(), link=link, idle_timeout=1)
        tcpconn.wrap(server, uuid.uuid4()).close()
        assert there.multiplexer is not None
        there.multiplexer.abort()
    with pytest.raises(OSError, match=r"closed|[Bb]ad file"):
        server.getpeername()
    client.close()
