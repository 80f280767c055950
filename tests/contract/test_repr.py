"""What people see in a debugger, in a log line, in an error."""

from __future__ import annotations

import uuid

import pytest

import tcpconn
from support import (
    PATIENCE,
    Pair,
    break_link,
    echo,
    multiplexer_pair,
    noise,
)


def test_connection(pair: Pair) -> None:
    name = str(pair.client.id)
    assert name in repr(pair.client)
    assert pair.client.peer_address in repr(pair.client)
    assert "open" in repr(pair.client)
    pair.client.close()
    assert "closed" in repr(pair.client)
    assert name in repr(pair.client)
    with pytest.raises(tcpconn.ConnectionClosed):
        pair.server.receive(PATIENCE)
    assert "finished by peer" in repr(pair.server)
    pair.server.abort()
    assert "aborted" in repr(pair.server)


def test_multiplexer(link: str) -> None:
    with multiplexer_pair(link) as (client, server):
        connection = client.open()
        assert repr(client) == (
            f"<Multiplexer open, {client.local_address} to {client.peer_address}, 1 connections>"
        )
        assert client.local_address == server.peer_address
        assert client.peer_address == server.local_address
        break_link(server)
        with pytest.raises(tcpconn.LinkLost):
            connection.receive(PATIENCE)
        assert "closed" in repr(client)


def test_pool(link: str, echo_server: tcpconn.Server) -> None:
    with tcpconn.ConnectionPool(link=link) as pool:
        assert repr(pool) == "<ConnectionPool 0 links to 0 addresses, 0 connections>"
        with pool.connect(echo_server.address):
            assert repr(pool) == "<ConnectionPool 1 links to 1 addresses, 1 connections>"
    assert repr(pool) == "<ConnectionPool closed>"


def test_listener_and_server(link: str) -> None:
    with tcpconn.listen("127.0.0.1:0", link=link) as listener:
        assert repr(listener) == f"<Listener {listener.address}, 0 links>"
    assert repr(listener) == f"<Listener {listener.address} closed>"
    with tcpconn.serve(echo, "127.0.0.1:0", link=link) as server:
        assert repr(server) == f"<Server {server.address}, 0 handlers at work>"
    assert repr(server) == f"<Server {server.address}, closed>"


def test_lease(pair: Pair) -> None:
    pair.client.send(noise(123))
    with pair.server.receive_view(PATIENCE) as lease:
        assert repr(lease) == "<Lease 123 bytes>"
    assert repr(lease) == "<Lease released>"


def test_stats(pair: Pair) -> None:
    pair.client.send(noise(123))
    assert "messages_sent=1" in repr(pair.client.stats())
    assert "bytes_sent=123" in repr(pair.client.stats())
    assert pair.client.multiplexer is not None
    assert "connections=1" in repr(pair.client.multiplexer.stats())


def test_attributes(listener: tcpconn.Listener, pool: tcpconn.ConnectionPool) -> None:
    name = uuid.uuid4()
    with (
        pool.connect(listener.address, name, priority=6) as client,
        listener.accept(PATIENCE) as server,
    ):
        assert isinstance(client.id, uuid.UUID)
        assert client.id == server.id == name
        assert client.peer_address == server.local_address == listener.address
        assert client.local_address == server.peer_address
        assert client.priority == 6
        assert not client.closed
        with pytest.raises(AttributeError):
            client.id = uuid.uuid4()  # type: ignore[misc]
        # What is not there is not made by a misspelling.
        with pytest.raises(AttributeError):
            client.timeuot = 5  # type: ignore[attr-defined]


def test_connections_are_themselves(pair: Pair) -> None:
    assert pair.client == pair.client
    assert pair.client != pair.server
    assert len({pair.client, pair.server, pair.client}) == 2
