"""connect, listen and serve: the ways from an address to a connection."""

from __future__ import annotations

import socket
import uuid
from pathlib import Path

import pytest

import tcpconn
from support import ANY, PATIENCE, Background, Pair, echo, unused_port

OVER_TLS = True

unix_only = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs unix-domain sockets")


def ipv6() -> bool:
    """Whether this machine has IPv6 on its loopback interface."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


ipv6_only = pytest.mark.skipif(not ipv6(), reason="needs IPv6")


def check_echo(connection: tcpconn.Connection) -> None:
    connection.send(b"are you there?")
    assert connection.receive(PATIENCE) == b"are you there?"


def test_a_message_and_its_answer(listener: tcpconn.Listener, pool: tcpconn.ConnectionPool) -> None:
    with pool.connect(listener.address) as client, listener.accept(PATIENCE) as server:
        assert client.id == server.id
        client.send(b"question")
        assert server.receive(PATIENCE) == b"question"
        server.send(b"answer")
        assert client.receive(PATIENCE) == b"answer"


def test_the_server_may_speak_first(
    listener: tcpconn.Listener, pool: tcpconn.ConnectionPool
) -> None:
    with pool.connect(listener.address) as client, listener.accept(PATIENCE) as server:
        server.send(b"welcome")
        assert client.receive(PATIENCE) == b"welcome"


def test_connect_uses_the_pool_of_the_process(link: str, echo_server: tcpconn.Server) -> None:
    try:
        with (
            tcpconn.connect(echo_server.address, link=link) as one,
            tcpconn.connect(echo_server.address, link=link) as other,
        ):
            check_echo(one)
            check_echo(other)
            assert one.multiplexer is other.multiplexer
            assert one.multiplexer in tcpconn.default_pool().multiplexers
    finally:
        tcpconn.default_pool().close()


def test_a_closed_default_pool_is_replaced(link: str, echo_server: tcpconn.Server) -> None:
    for _ in range(2):
        with tcpconn.connect(echo_server.address, link=link) as connection:
            check_echo(connection)
        tcpconn.default_pool().close()


def test_connect_in_a_pool_of_ones_own(
    echo_server: tcpconn.Server, pool: tcpconn.ConnectionPool
) -> None:
    with tcpconn.connect(echo_server.address, pool=pool) as connection:
        check_echo(connection)
        assert connection.multiplexer in pool.multiplexers


@pytest.mark.parametrize("form", ["string", "tuple", "name"])
def test_forms_of_an_address(
    form: str, echo_server: tcpconn.Server, pool: tcpconn.ConnectionPool
) -> None:
    host, port = echo_server.address.split(":")
    address = {"string": f"{host}:{port}", "tuple": (host, int(port)), "name": f"localhost:{port}"}
    with pool.connect(address[form]) as connection:
        check_echo(connection)
        # Under the name that was given; what it resolved to is the link's business.
        assert connection.peer_address in (f"{host}:{port}", f"localhost:{port}")


@ipv6_only
@pytest.mark.parametrize("tupled", [False, True])
def test_ipv6(link: str, tupled: bool, pool: tcpconn.ConnectionPool) -> None:
    with tcpconn.serve(echo, ("::1", 0) if tupled else "[::1]:0", link=link) as server:
        assert server.address.startswith("[::1]:")
        port = int(server.address.rpartition(":")[2])
        with pool.connect(("::1", port) if tupled else server.address) as connection:
            check_echo(connection)
            assert connection.peer_address == server.address
            assert connection.local_address.startswith("[::1]:")


@unix_only
def test_unix_socket(link: str, tmp_path: Path, pool: tcpconn.ConnectionPool) -> None:
    address = f"unix:{tmp_path}/socket"
    with tcpconn.serve(echo, address, link=link) as server:
        assert server.address == address
        with pool.connect(address) as connection:
            check_echo(connection)
            assert connection.peer_address == address
    assert not (tmp_path / "socket").exists()


@unix_only
def test_a_stale_unix_socket_is_replaced(link: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    assert path.exists()
    with tcpconn.listen(f"unix:{path}", link=link):
        pass


@unix_only
def test_a_unix_socket_in_use_is_not_taken_away(link: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with tcpconn.serve(echo, f"unix:{path}", link=link):
        with pytest.raises(tcpconn.ConnectError, match="socket"):
            tcpconn.listen(f"unix:{path}", link=link)
        with tcpconn.ConnectionPool(link=link) as pool, pool.connect(f"unix:{path}") as connection:
            check_echo(connection)


@unix_only
def test_a_file_in_the_way_of_a_unix_socket_stays(link: str, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(tcpconn.ConnectError):
        tcpconn.listen(f"unix:{path}", link=link)
    assert path.read_text() == "data"


def test_listening_twice_at_one_port(link: str, listener: tcpconn.Listener) -> None:
    with pytest.raises(tcpconn.ConnectError, match=listener.address.rpartition(":")[2]):
        tcpconn.listen(listener.address, link=link)


def test_a_port_can_be_listened_at_again(link: str, pool: tcpconn.ConnectionPool) -> None:
    with tcpconn.serve(echo, ANY, link=link) as server, pool.connect(server.address) as connection:
        check_echo(connection)
        address = server.address
    with tcpconn.serve(echo, address, link=link), pool.connect(address) as connection:
        check_echo(connection)


def test_the_id_is_the_one_that_was_given(
    listener: tcpconn.Listener, pool: tcpconn.ConnectionPool
) -> None:
    name = uuid.uuid4()
    with pool.connect(listener.address, name) as client, listener.accept(PATIENCE) as server:
        assert client.id == server.id == name


def test_extreme_ids(listener: tcpconn.Listener, pool: tcpconn.ConnectionPool) -> None:
    for number in (0, 1, 1 << 64, (1 << 128) - 1):
        with (
            pool.connect(listener.address, uuid.UUID(int=number)) as client,
            listener.accept(PATIENCE) as server,
        ):
            assert client.id.int == server.id.int == number


def test_an_id_in_use(pair: Pair, pool: tcpconn.ConnectionPool) -> None:
    client, server = pair
    with pytest.raises(tcpconn.ConnectionClosed, match=str(client.id)):
        pool.connect(client.peer_address, client.id)
    client.send(b"still here")
    assert server.receive(PATIENCE) == b"still here"


def test_an_id_can_be_used_again(echo_server: tcpconn.Server, pool: tcpconn.ConnectionPool) -> None:
    name = uuid.uuid4()
    with pool.connect(echo_server.address, name) as connection:
        multiplexer = connection.multiplexer
        assert multiplexer is not None
        check_echo(connection)
    # The peer has to have ended its direction too: what comes behind its answer says so.
    while multiplexer.connection_count:
        multiplexer.ping(PATIENCE)
    with pool.connect(echo_server.address, name) as connection:
        check_echo(connection)


def test_what_is_no_id(pool: tcpconn.ConnectionPool, echo_server: tcpconn.Server) -> None:
    with pytest.raises(tcpconn.OptionError, match="'name'"):
        pool.connect(echo_server.address, "name")  # type: ignore[arg-type]


@pytest.mark.parametrize("priority", range(8))
def test_priorities(
    priority: int, listener: tcpconn.Listener, pool: tcpconn.ConnectionPool
) -> None:
    with (
        pool.connect(listener.address, priority=priority) as client,
        listener.accept(PATIENCE) as server,
    ):
        assert client.priority == priority
        assert server.priority == priority
        client.send(b"")
        assert server.receive(PATIENCE) == b""


def test_both_sides_name_the_same_id_after_the_peer(
    listener: tcpconn.Listener, pool: tcpconn.ConnectionPool
) -> None:
    name = uuid.uuid4()
    with pool.connect(listener.address) as first, listener.accept(PATIENCE) as at_server:
        multiplexer = at_server.multiplexer
        assert multiplexer is not None
        with pool.connect(listener.address, name) as client:
            client.send(b"one")
            first.send(b"behind it")
            assert at_server.receive(PATIENCE) == b"behind it"
            # Its opening is here already.
            with multiplexer.open(name) as server:
                assert server.receive(PATIENCE) == b"one"
                server.send(b"two")
                assert client.receive(PATIENCE) == b"two"
    with pytest.raises(tcpconn.Timeout):
        listener.accept(0)


def test_both_sides_name_the_same_id_before_the_peer(
    listener: tcpconn.Listener, pool: tcpconn.ConnectionPool
) -> None:
    name = uuid.uuid4()
    with pool.connect(listener.address) as first, listener.accept(PATIENCE) as at_server:
        multiplexer = at_server.multiplexer
        assert multiplexer is not None
        with multiplexer.open(name) as server:
            server.send(b"one")
            at_server.send(b"behind it")
            assert first.receive(PATIENCE) == b"behind it"
            with pool.connect(listener.address, name) as client:
                assert client.receive(PATIENCE) == b"one"
                client.send(b"two")
                assert server.receive(PATIENCE) == b"two"
    with pytest.raises(tcpconn.Timeout):
        listener.accept(0)


def test_both_sides_name_the_same_ids_at_once(
    listener: tcpconn.Listener, pool: tcpconn.ConnectionPool
) -> None:
    names = [uuid.uuid4() for _ in range(100)]
    with pool.connect(listener.address) as first, listener.accept(PATIENCE) as at_server:
        ours, theirs = first.multiplexer, at_server.multiplexer
        assert ours is not None
        assert theirs is not None

        def meet(multiplexer: tcpconn.Multiplexer) -> list[tcpconn.Connection]:
            connections = []
            for name in names:
                connection = multiplexer.open(name)
                connection.send(name.bytes)
                connections.append(connection)
            for connection in connections:
                assert connection.receive(PATIENCE) == connection.id.bytes
            return connections

        both = [Background(lambda side=side: meet(side)) for side in (ours, theirs)]
        opened = [connection for one in both for connection in one.result()]
        for connection in opened:
            connection.close()
    with pytest.raises(tcpconn.Timeout):
        listener.accept(0)


def test_the_connection_keeps_its_link_alive(link: str, echo_server: tcpconn.Server) -> None:
    with tcpconn.ConnectionPool(link=link, idle_timeout=0) as pool:
        connection = pool.connect(echo_server.address)
        check_echo(connection)
        check_echo(connection)
        connection.close()


@pytest.mark.parametrize("timeout", [0.0, 0.05])
def test_dialling_in_no_time(timeout: float, link: str) -> None:
    # The backlog is full: the kernel answers nothing.
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = server.getsockname()
        waiting = []
        for _ in range(8):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(address)
            waiting.append(sock)
        with (
            tcpconn.ConnectionPool(link=link) as pool,
            pytest.raises(tcpconn.Timeout, match=f"{address[0]}:{address[1]}"),
        ):
            pool.connect(address, timeout=timeout)
        for sock in waiting:
            sock.close()


def test_a_peer_that_accepts_and_says_nothing(link: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with tcpconn.ConnectionPool(link=link) as pool:
            with pytest.raises(tcpconn.Timeout, match="handshake"):
                pool.connect(address, timeout=0.05)
            # The option has its own say.
            with pytest.raises(tcpconn.Timeout, match="handshake"):
                pool.connect(address, timeout=None, handshake_timeout=0.05)


def test_one_that_dials_holds_up_no_shorter_timeout(link: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        tcpconn.ConnectionPool(link=link) as pool,
    ):
        address = server.getsockname()
        patient = Background(lambda: pool.connect(address, timeout=PATIENCE))
        accepted, _ = server.accept()
        with pytest.raises(tcpconn.Timeout):
            pool.connect(address, timeout=0.05)
        assert not patient.done
        accepted.close()
        assert isinstance(patient.error(), tcpconn.LinkLost)


def test_nobody_listens(pool: tcpconn.ConnectionPool) -> None:
    port = unused_port()
    with pytest.raises(tcpconn.ConnectError, match=f"127.0.0.1:{port}.*refused") as caught:
        pool.connect(f"127.0.0.1:{port}")
    assert isinstance(caught.value, ConnectionError)
    assert not isinstance(caught.value, tcpconn.ResolveError)
