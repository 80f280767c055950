"""The pool: one link per address, replaced when it is gone, let go when nobody needs it."""

from __future__ import annotations

import contextlib
import socket
import threading
import uuid
from collections.abc import Iterator

import pytest

import tcpconn
from support import ANY, PATIENCE, Background, echo, noise, unused_port, wait_until

OVER_TLS = True


def ask(connection: tcpconn.Connection) -> None:
    """A message there and back."""
    connection.send(b"?")
    assert connection.receive(PATIENCE) == b"?"


@contextlib.contextmanager
def opened(
    pool: tcpconn.ConnectionPool, address: str, count: int
) -> Iterator[list[tcpconn.Connection]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(pool.connect(address)) for _ in range(count)]


def test_one_link_for_each_address(link: str, pool: tcpconn.ConnectionPool) -> None:
    with (
        tcpconn.serve(echo, ANY, link=link) as one,
        tcpconn.serve(echo, ANY, link=link) as other,
        opened(pool, one.address, 3) as to_one,
        opened(pool, other.address, 3) as to_other,
    ):
        for connection in to_one + to_other:
            ask(connection)
        assert len({connection.multiplexer for connection in to_one}) == 1
        assert len({connection.multiplexer for connection in to_other}) == 1
        stats = pool.stats()
        assert (stats.addresses, stats.links, stats.connections) == (2, 2, 6)
        assert (stats.dialled, stats.reused) == (2, 4)
        assert len(one.listener.multiplexers) == len(other.listener.multiplexers) == 1


def test_another_form_of_the_same_address_shares_the_link(
    pool: tcpconn.ConnectionPool, echo_server: tcpconn.Server
) -> None:
    host, port = echo_server.address.split(":")
    with pool.connect((host, int(port))) as one, pool.connect(f"{host}:{port}") as other:
        assert one.multiplexer is other.multiplexer


def test_several_links_for_each_address(link: str, echo_server: tcpconn.Server) -> None:
    with (
        tcpconn.ConnectionPool(links_per_address=3, link=link) as pool,
        opened(pool, echo_server.address, 9) as connections,
    ):
        for connection in connections:
            ask(connection)
        links = [connection.multiplexer for connection in connections]
        assert len(set(links)) == 3
        assert {links.count(one) for one in links} == {3}
        assert pool.stats().links == 3


def test_a_link_that_nobody_uses_is_used_before_another_is_dialled(
    link: str, echo_server: tcpconn.Server
) -> None:
    with tcpconn.ConnectionPool(links_per_address=3, link=link) as pool:
        for _ in range(5):
            with pool.connect(echo_server.address) as connection:
                ask(connection)
            # The server ends its direction when it has seen the end of ours.
            wait_until(lambda: pool.stats().connections == 0, "the connection does not end")
        assert pool.stats().dialled == 1


@pytest.mark.parametrize("links", [0, -1, 1.5, "2", None])
def test_what_is_no_number_of_links(links: object) -> None:
    with pytest.raises(tcpconn.OptionError, match=f"links_per_address={links!r}"):
        tcpconn.ConnectionPool(links_per_address=links)  # type: ignore[arg-type]


def test_options_are_checked_at_once() -> None:
    with pytest.raises(tcpconn.OptionError, match="max_frame_size=1 "):
        tcpconn.ConnectionPool(max_frame_size=1)
    with pytest.raises(tcpconn.OptionError, match=r"'colour'.*busy_poll"):
        tcpconn.ConnectionPool(colour="red")


def test_other_options_get_another_link(
    pool: tcpconn.ConnectionPool, echo_server: tcpconn.Server
) -> None:
    address = echo_server.address
    with (
        pool.connect(address) as plain,
        pool.connect(address, max_frame_size=1 << 20) as large,
        pool.connect(address, max_frame_size=1 << 20) as large_too,
    ):
        for connection in (plain, large, large_too):
            ask(connection)
        assert plain.multiplexer is not large.multiplexer
        assert large.multiplexer is large_too.multiplexer
        assert large.multiplexer.options.max_frame_size == 1 << 20


def test_values_that_only_compare_equal_are_other_options(
    pool: tcpconn.ConnectionPool, echo_server: tcpconn.Server
) -> None:
    for _ in range(2):
        with pool.connect(echo_server.address, max_unaccepted=1) as connection:
            ask(connection)
        with pytest.raises(tcpconn.OptionError, match="max_unaccepted=True"):
            pool.connect(echo_server.address, max_unaccepted=True)
        with pytest.raises(tcpconn.OptionError, match=r"keepalive=\[\]"):
            pool.connect(echo_server.address, keepalive=[])


def test_ids_are_random_ones_of_version_4(
    pool: tcpconn.ConnectionPool, echo_server: tcpconn.Server
) -> None:
    with opened(pool, echo_server.address, 100) as connections:
        ids = {connection.id for connection in connections}
    assert len(ids) == 100
    assert {(each.version, each.variant) for each in ids} == {(4, uuid.RFC_4122)}


def test_many_threads_share_the_dialling(
    pool: tcpconn.ConnectionPool, echo_server: tcpconn.Server
) -> None:
    together = threading.Barrier(16)

    def connect() -> None:
        together.wait(PATIENCE)
        with pool.connect(echo_server.address) as connection:
            ask(connection)

    for background in [Background(connect) for _ in range(16)]:
        background.result()
    assert pool.stats().dialled == 1


class TestReplacement:
    def test_the_server_was_restarted(self, link: str, pool: tcpconn.ConnectionPool) -> None:
        address = ANY
        for number in range(5):
            with tcpconn.serve(echo, address, link=link) as server:
                address = server.address
                for _ in range(2):
                    with pool.connect(address) as connection:
                        ask(connection)
            assert pool.stats().dialled == number + 1

    def test_the_server_was_killed_and_came_back(
        self, link: str, pool: tcpconn.ConnectionPool
    ) -> None:
        with tcpconn.serve(echo, ANY, link=link) as server:
            address = server.address
            connection = pool.connect(address)
            ask(connection)
            for multiplexer in server.listener.multiplexers:
                multiplexer.abort()
            with pytest.raises(ConnectionError):
                connection.receive(PATIENCE)
            with pool.connect(address) as another:
                ask(another)
            assert connection.multiplexer is not another.multiplexer
            connection.close()
        with pytest.raises(tcpconn.ConnectError):
            pool.connect(address)
        with tcpconn.serve(echo, address, link=link), pool.connect(address) as another:
            ask(another)

    def test_a_link_that_is_closed_here_is_replaced(
        self, pool: tcpconn.ConnectionPool, echo_server: tcpconn.Server
    ) -> None:
        for how in ("close", "abort"):
            with pool.connect(echo_server.address) as connection:
                ask(connection)
                assert connection.multiplexer is not None
                getattr(connection.multiplexer, how)()
            with pool.connect(echo_server.address) as connection:
                ask(connection)

    def test_failures_are_not_remembered(self, link: str, pool: tcpconn.ConnectionPool) -> None:
        address = f"127.0.0.1:{unused_port()}"
        for _ in range(3):
            with pytest.raises(tcpconn.ConnectError):
                pool.connect(address)
        with tcpconn.serve(echo, address, link=link), pool.connect(address) as connection:
            ask(connection)
        assert pool.stats().dialled == 1

    @pytest.mark.plain
    def test_a_peer_that_is_none_is_not_remembered(
        self, link: str, pool: tcpconn.ConnectionPool
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as impostor:
            port = impostor.getsockname()[1]
            connecting = Background(lambda: pool.connect(f"127.0.0.1:{port}"))
            accepted, _ = impostor.accept()
            accepted.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            assert isinstance(connecting.error(), tcpconn.NotTcpconn)
            accepted.close()
        with (
            tcpconn.serve(echo, f"127.0.0.1:{port}", link=link),
            pool.connect(f"127.0.0.1:{port}") as connection,
        ):
            ask(connection)

    def test_under_the_feet_of_many(self, link: str, pool: tcpconn.ConnectionPool) -> None:
        """Links are cut all the time; a new connection always gets one that works at first."""
        with tcpconn.serve(echo, ANY, link=link) as server:
            stop = threading.Event()
            answers = []

            def use() -> None:
                while not stop.is_set():
                    with (
                        contextlib.suppress(tcpconn.LinkLost, tcpconn.ConnectionClosed),
                        pool.connect(server.address) as connection,
                    ):
                        ask(connection)
                        answers.append(1)

            users = [Background(use) for _ in range(4)]
            for _ in range(20):
                before = len(answers)
                wait_until(lambda before=before: len(answers) > before + 5, "nobody gets through")
                for multiplexer in server.listener.multiplexers + pool.multiplexers:
                    multiplexer.abort()
            stop.set()
            for user in users:
                user.result()


class TestIdle:
    @pytest.mark.parametrize("idle_timeout", [0, 0.02])
    def test_the_last_connection_lets_the_link_go(
        self, idle_timeout: float, link: str, echo_server: tcpconn.Server
    ) -> None:
        with tcpconn.ConnectionPool(link=link, idle_timeout=idle_timeout) as pool:
            for number in range(3):
                with (
                    pool.connect(echo_server.address) as one,
                    pool.connect(echo_server.address) as other,
                ):
                    ask(one)
                    one.close()
                    for _ in range(3):
                        ask(other)
                wait_until(lambda: not pool.multiplexers, "the link is not let go")
                wait_until(lambda: not echo_server.listener.multiplexers, "nor at the other side")
                assert pool.stats().dialled == number + 1

    def test_a_link_in_use_is_not_let_go(self, link: str, echo_server: tcpconn.Server) -> None:
        with (
            tcpconn.ConnectionPool(link=link, idle_timeout=0.01) as pool,
            pool.connect(echo_server.address) as connection,
        ):
            multiplexer = connection.multiplexer
            for _ in range(5):
                with pytest.raises(tcpconn.Timeout):
                    connection.receive(0.02)
            ask(connection)
            assert pool.multiplexers == [multiplexer]

    def test_a_link_is_kept_for_a_while(self, pool: tcpconn.ConnectionPool, link: str) -> None:
        with tcpconn.serve(echo, ANY, link=link) as server:
            for _ in range(10):
                with pool.connect(server.address) as connection:
                    ask(connection)
            assert pool.stats().dialled == 1

    def test_forgotten_connections_let_it_go_too(
        self, link: str, echo_server: tcpconn.Server
    ) -> None:
        with tcpconn.ConnectionPool(link=link, idle_timeout=0) as pool:
            connection = pool.connect(echo_server.address)
            ask(connection)
            del connection
            wait_until(lambda: not pool.multiplexers, "the link is not let go")

    def test_connecting_as_links_go(self, link: str, echo_server: tcpconn.Server) -> None:
        """Each is closed as soon as it is idle, and asked for again at that moment."""
        with tcpconn.ConnectionPool(link=link, idle_timeout=0) as pool:

            def come_and_go() -> None:
                for _ in range(100):
                    with pool.connect(echo_server.address) as connection:
                        ask(connection)

            for background in [Background(come_and_go) for _ in range(3)]:
                background.result()


class TestClose:
    def test_everything_ends(self, link: str, echo_server: tcpconn.Server) -> None:
        pool = tcpconn.ConnectionPool(link=link)
        connections = [pool.connect(echo_server.address) for _ in range(5)]
        for connection in connections:
            ask(connection)
        pool.close()
        assert pool.closed
        assert pool.multiplexers == []
        for connection in connections:
            assert connection.closed
            with pytest.raises(tcpconn.ConnectionClosed):
                connection.receive(PATIENCE)
        with pytest.raises(tcpconn.ConnectionClosed, match="pool is closed"):
            pool.connect(echo_server.address)
        pool.close()

    def test_what_was_sent_arrives(self, link: str, listener: tcpconn.Listener) -> None:
        messages = [noise(n * 1000, n) for n in range(40)]
        with tcpconn.ConnectionPool(link=link) as pool:
            client = pool.connect(listener.address)
            server = listener.accept(PATIENCE)
            receiving = Background(lambda: list(server))
            client.send_many(messages)
        assert receiving.result() == messages
        server.close()

    def test_with_an_error_it_does_not_wait(self, link: str, listener: tcpconn.Listener) -> None:
        pool = tcpconn.ConnectionPool(link=link)
        connection = pool.connect(listener.address)
        connection.send(b"x")
        with pytest.raises(RuntimeError, match="the reason"), pool:
            raise RuntimeError("the reason")
        assert pool.closed
        assert connection.closed

    def test_a_pool_that_was_never_used(self) -> None:
        with tcpconn.ConnectionPool():
            pass

    def test_while_another_thread_dials(self, link: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            pool = tcpconn.ConnectionPool(link=link)
            dialling = Background(lambda: pool.connect(server.getsockname()))
            accepted, _ = server.accept()
            pool.close(0)
            accepted.close()
            assert isinstance(dialling.error(), ConnectionError)

    def test_connections_that_the_server_never_accepts(
        self, link: str, listener: tcpconn.Listener
    ) -> None:
        """Nobody has to wait for what the peer's program leaves undone."""
        with tcpconn.ConnectionPool(link=link) as pool:
            for _ in range(5):
                with pool.connect(listener.address) as connection:
                    connection.send(b"to whom it may concern")


def test_meeting_over_two_pools(link: str, listener: tcpconn.Listener) -> None:
    """The same id on two links is two connections: a connection belongs to its session."""
    name = uuid.uuid4()
    with (
        tcpconn.ConnectionPool(link=link) as one,
        tcpconn.ConnectionPool(link=link) as other,
        one.connect(listener.address, name) as first,
        other.connect(listener.address, name) as second,
    ):
        first.send(b"first")
        second.send(b"second")
        accepted = [listener.accept(PATIENCE) for _ in range(2)]
        assert {connection.receive(PATIENCE) for connection in accepted} == {b"first", b"second"}
        for connection in accepted:
            connection.close()
