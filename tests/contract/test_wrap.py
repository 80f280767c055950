"""wrap: serving sockets that a program has accepted itself."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Iterator

import pytest

import tcpconn
from support import PATIENCE, Background, noise, tcp_pair, wait_until


@pytest.fixture
def sides(link: str) -> Iterator[tuple[tcpconn.Multiplexer, socket.socket]]:
    """A client's multiplexer, and the accepted socket that it is connected to."""
    near, far = tcp_pair()
    # The client waits for an answer that comes only once the socket is served.
    dialling = Background(lambda: tcpconn.Multiplexer(near, client=True, link=link))
    first = tcpconn.wrap(far, uuid.UUID(int=0), link=link, idle_timeout=0.1)
    with dialling.result() as client:
        yield client, far
    first.close()


Sides = tuple[tcpconn.Multiplexer, socket.socket]


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
        assert len({connection.multiplexer for connection in there}) == 1


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


def test_the_next_that_the_peer_opens(sides: Sides) -> None:
    client, sock = sides
    with client.open() as ours:
        ours.send(b"hello")
        with tcpconn.wrap(sock) as theirs:
            assert theirs.id == ours.id
            assert theirs.receive(PATIENCE) == b"hello"
            theirs.send(b"there")
            assert ours.receive(PATIENCE) == b"there"


def test_ids_that_both_name(sides: Sides) -> None:
    client, sock = sides
    names = [uuid.uuid4() for _ in range(10)]
    theirs = [tcpconn.wrap(sock, name) for name in names]
    ours = [client.open(name) for name in reversed(names)]
    for connection in ours:
        connection.send(connection.id.bytes)
    for connection in theirs:
        assert connection.receive(PATIENCE) == connection.id.bytes
    assert len({connection.multiplexer for connection in theirs}) == 1
    for connection in ours + theirs:
        connection.close()


def test_from_many_threads(sides: Sides) -> None:
    client, sock = sides
    together = threading.Barrier(8)

    def serve(name: uuid.UUID) -> bytes:
        together.wait(PATIENCE)
        with tcpconn.wrap(sock, name) as connection:
            return connection.receive(PATIENCE)

    names = [uuid.uuid4() for _ in range(8)]
    serving = [Background(lambda name=name: serve(name)) for name in names]
    for name in names:
        with client.open(name) as connection:
            connection.send(name.bytes)
    for name, background in zip(names, serving, strict=True):
        assert background.result() == name.bytes


def test_nobody_opens_one(sides: Sides) -> None:
    _, sock = sides
    with pytest.raises(tcpconn.Timeout):
        tcpconn.wrap(sock, timeout=0.01)
    with pytest.raises(tcpconn.Timeout):
        tcpconn.wrap(sock, timeout=0)


def test_other_options_for_the_same_socket(sides: Sides, link: str) -> None:
    _, sock = sides
    with pytest.raises(tcpconn.OptionError, match="other options"):
        tcpconn.wrap(sock, uuid.uuid4(), max_frame_size=1 << 20)
    # The same ones are no contradiction.
    with tcpconn.wrap(sock, uuid.uuid4(), link=link, idle_timeout=0.1):
        pass


def test_the_id_is_in_use(sides: Sides) -> None:
    _, sock = sides
    name = uuid.uuid4()
    with tcpconn.wrap(sock, name), pytest.raises(tcpconn.ConnectionClosed, match=str(name)):
        tcpconn.wrap(sock, name)


def test_bad_arguments(link: str) -> None:
    near, far = tcp_pair()
    with near, far:
        with pytest.raises(tcpconn.OptionError, match="'name'"):
            tcpconn.wrap(far, "name", link=link)  # type: ignore[arg-type]
        with pytest.raises(tcpconn.OptionError, match="colour"):
            tcpconn.wrap(near, colour="red")
        with pytest.raises(tcpconn.OptionError, match="priority=9"):
            tcpconn.wrap(near, uuid.uuid4(), priority=9, link=link)
        # A mistake in the arguments is no reason to take the socket away.
        near.sendall(b"still")
        assert far.recv(5) == b"still"


def test_wrapping_again_after_nobody_came(link: str) -> None:
    near, far = tcp_pair()
    for timeout in (0, 0.01, 0.01):
        with pytest.raises(tcpconn.Timeout):
            tcpconn.wrap(far, link=link, idle_timeout=0, timeout=timeout)
    with tcpconn.Multiplexer(near, client=True, link=link) as client, client.open() as ours:
        ours.send(b"at last")
        with tcpconn.wrap(far, timeout=PATIENCE) as theirs:
            assert theirs.receive(PATIENCE) == b"at last"


def test_the_socket_is_closed_with_its_last_connection(link: str) -> None:
    near, far = tcp_pair()
    name = uuid.uuid4()
    served = tcpconn.wrap(far, name, link=link, idle_timeout=0)
    with tcpconn.Multiplexer(near, client=True, link=link) as client:
        with client.open(name) as connection:
            connection.send(noise(1000))
            assert served.receive(PATIENCE) == noise(1000)
        served.close()
        wait_until(lambda: client.closed, "the link stays")
    wait_until(lambda: far.fileno() == -1, "the socket stays open")
    with pytest.raises(OSError, match="descriptor"):
        tcpconn.wrap(far, link=link)


def test_a_peer_that_speaks_something_else(link: str) -> None:
    near, far = tcp_pair()
    with near:
        near.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(tcpconn.NotTcpconn):
            tcpconn.wrap(far, link=link, timeout=PATIENCE)


def test_a_loop_that_accepts_and_wraps(link: str) -> None:
    """How a program uses it that has its own listening socket."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        tcpconn.ConnectionPool(link=link) as pool,
    ):

        def serve() -> None:
            sock, _ = server.accept()
            with tcpconn.wrap(sock, link=link, idle_timeout=0) as connection:
                for message in connection:
                    connection.send(message)

        serving = Background(serve)
        with pool.connect(server.getsockname()) as connection:
            for size in (0, 10, 1 << 20):
                connection.send(noise(size))
                assert connection.receive(PATIENCE) == noise(size)
        serving.result()
