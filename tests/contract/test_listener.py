"""Listeners and servers: who accepts, in which order, how many, and what a handler may do."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading

import pytest

import tcpconn
from support import ANY, PATIENCE, Background, echo, in_time, noise, wait_until
from tcpconn._frame import PREFACE, encode_hello

OVER_TLS = True


class TestAccept:
    def test_nobody_comes(self, listener: tcpconn.Listener) -> None:
        for timeout in (0, 0.01):
            with pytest.raises(tcpconn.Timeout, match=f"{listener.address} within {timeout}"):
                listener.accept(timeout)

    def test_in_the_order_of_opening(
        self, listener: tcpconn.Listener, pool: tcpconn.ConnectionPool
    ) -> None:
        opened = [pool.connect(listener.address) for _ in range(50)]
        accepted = [listener.accept(PATIENCE) for _ in range(50)]
        assert [one.id for one in opened] == [one.id for one in accepted]
        for connection in opened + accepted:
            connection.close()

    def test_from_many_links(self, listener: tcpconn.Listener, link: str) -> None:
        with contextlib.ExitStack() as stack:
            opened = set()
            for _ in range(10):
                pool = stack.enter_context(tcpconn.ConnectionPool(link=link))
                opened |= {stack.enter_context(pool.connect(listener.address)).id for _ in range(5)}
            accepted = [stack.enter_context(listener.accept(PATIENCE)) for _ in range(50)]
            assert {connection.id for connection in accepted} == opened
            assert len(listener.multiplexers) == 10
            with pytest.raises(tcpconn.Timeout):
                listener.accept(0)

    def test_by_many_threads_each_gets_its_own(
        self, listener: tcpconn.Listener, pool: tcpconn.ConnectionPool
    ) -> None:
        accepting = [Background(lambda: listener.accept(PATIENCE)) for _ in range(20)]
        for background in accepting:
            background.asleep()
        opened = [pool.connect(listener.address) for _ in range(20)]
        accepted = [background.result() for background in accepting]
        assert {one.id for one in opened} == {one.id for one in accepted}
        for connection in opened + accepted:
            connection.close()

    def test_threads_that_give_up_take_nothing_with_them(
        self, listener: tcpconn.Listener, pool: tcpconn.ConnectionPool
    ) -> None:
        total = 200  # fewer than may wait to be accepted
        accepted = []

        def accept() -> None:
            while len(accepted) < total:
                with contextlib.suppress(tcpconn.Timeout):
                    accepted.append(listener.accept(0.0003))

        accepting = [Background(accept) for _ in range(4)]
        opened = []
        for _ in range(total):
            opened.append(pool.connect(listener.address))
            opened[-1].send(b"")
        for background in accepting:
            background.result()
        assert {one.id for one in opened} == {one.id for one in accepted}
        for connection in opened + accepted:
            connection.abort()

    def test_what_came_over_a_link_that_is_gone(
        self, listener: tcpconn.Listener, link: str
    ) -> None:
        """Whoever opened and sent and left may still be heard."""
        for number in range(20):
            with tcpconn.Multiplexer(listener.address, link=link) as multiplexer:
                for _ in range(3):
                    with multiplexer.open() as connection:
                        connection.send(noise(number))
        heard = []
        for _ in range(60):
            with listener.accept(PATIENCE) as connection:
                heard += list(connection)
        assert sorted(heard) == sorted([noise(number) for number in range(20)] * 3)

    def test_links_that_are_up_and_those_that_are_gone_take_turns(
        self, listener: tcpconn.Listener, link: str
    ) -> None:
        """However many connections one of them has opened, and however many links are gone."""
        with contextlib.ExitStack() as stack:
            for number in range(3):
                with tcpconn.Multiplexer(listener.address, link=link) as gone:
                    opened = [gone.open() for _ in range(5)]
                    for connection in opened:
                        connection.send(b"%d, gone" % number)
                        connection.close()
            wait_until(lambda: not listener.multiplexers, "a link stays")
            for number in range(2):
                multiplexer = tcpconn.Multiplexer(listener.address, link=link)
                stack.callback(multiplexer.abort)
                for _ in range(5):
                    connection = stack.enter_context(multiplexer.open())
                    connection.send(b"%d, up" % number)
                connection.flush(PATIENCE)
                multiplexer.ping(PATIENCE)  # by the answer, it has lined up
            heard = []
            for _ in range(25):
                with listener.accept(PATIENCE) as accepted:
                    heard.append(accepted.receive(PATIENCE))
            with pytest.raises(tcpconn.Timeout):
                listener.accept(0)
        everyone = sorted(set(heard))
        assert len(everyone) == 5
        for turn in range(0, 25, 5):
            assert sorted(heard[turn : turn + 5]) == everyone

    def test_many_wait_for_short_lived_links(self, listener: tcpconn.Listener, link: str) -> None:
        rounds, each = 30, 5
        accepting = [Background(lambda: listener.accept(PATIENCE)) for _ in range(rounds * each)]
        for _ in range(rounds):
            multiplexer = tcpconn.Multiplexer(listener.address, link=link)
            for _ in range(each):
                with multiplexer.open() as connection:
                    connection.send(b"quick")
            multiplexer.abort()
        for background in accepting:
            with background.result() as accepted:
                assert accepted.receive(PATIENCE) == b"quick"

    def test_waiting_while_a_link_comes_and_goes(
        self, listener: tcpconn.Listener, link: str
    ) -> None:
        accepting = Background(lambda: listener.accept(PATIENCE)).asleep()
        with tcpconn.Multiplexer(listener.address, link=link):
            pass
        # That link brought nothing.
        with tcpconn.Multiplexer(listener.address, link=link) as multiplexer:
            with multiplexer.open() as connection:
                connection.send(b"something")
            with accepting.result() as accepted:
                assert accepted.receive(PATIENCE) == b"something"

    def test_a_link_that_never_says_hello(self, link: str) -> None:
        """Its failure is nobody's who waits for connections."""
        with tcpconn.listen(ANY, link=link, handshake_timeout=0.2) as listener:
            accepting = Background(lambda: listener.accept(PATIENCE)).asleep()
            host, port = listener.address.split(":")
            with socket.create_connection((host, int(port)), timeout=PATIENCE) as silent:
                assert silent.recv(100) == b""
            wait_until(lambda: not listener.multiplexers, "the link is kept")
            with (
                in_time(lambda: tcpconn.Multiplexer(listener.address, link=link)) as multiplexer,
                multiplexer.open() as connection,
                accepting.result() as accepted,
            ):
                assert accepted.id == connection.id


class TestLimits:
    def test_connections_not_accepted(self, link: str) -> None:
        with (
            tcpconn.listen(ANY, link=link, max_unaccepted=3) as listener,
            tcpconn.Multiplexer(listener.address, link=link) as multiplexer,
        ):
            taken = [multiplexer.open() for _ in range(3)]
            refused = multiplexer.open()
            with contextlib.suppress(tcpconn.ConnectionReset):
                refused.send(b"me too?")  # it may have been refused already
            with pytest.raises(tcpconn.ConnectionReset, match="LIMIT") as caught:
                refused.receive(PATIENCE)
            assert caught.value.code == 10
            with pytest.raises(tcpconn.ConnectionReset, match=f"{refused.id}.*LIMIT"):
                refused.send(b"really?")
            assert [listener.accept(PATIENCE).id for _ in taken] == [one.id for one in taken]
            with multiplexer.open() as again, listener.accept(PATIENCE) as accepted:
                assert again.id == accepted.id
            refused.close()

    def test_connections_open(self, link: str) -> None:
        with (
            tcpconn.listen(ANY, link=link, max_connections=2) as listener,
            tcpconn.Multiplexer(listener.address, link=link) as multiplexer,
        ):
            one, two = multiplexer.open(), multiplexer.open()
            with pytest.raises(tcpconn.ConnectionClosed, match="2 connections"):
                multiplexer.open()
            accepted = [listener.accept(PATIENCE) for _ in range(2)]
            one.close()
            accepted[0].close()
            wait_until(lambda: multiplexer.connection_count < 2, "it does not end")
            three = multiplexer.open()
            three.send(b"now")
            with listener.accept(PATIENCE) as third:
                assert third.receive(PATIENCE) == b"now"
            two.close()


class TestClose:
    def test_connections_end_for_their_peers(self, link: str, pool: tcpconn.ConnectionPool) -> None:
        with tcpconn.listen(ANY, link=link) as listener:
            opened = [pool.connect(listener.address) for _ in range(5)]
            accepted = [listener.accept(PATIENCE) for _ in range(3)]
            accepted[0].send(b"last words")
        assert opened[0].receive(PATIENCE) == b"last words"
        for connection in opened:
            with pytest.raises(tcpconn.ConnectionClosed):
                connection.receive(PATIENCE)
            with pytest.raises(tcpconn.ConnectionClosed):
                connection.send(b"x")
        for connection in accepted:
            with pytest.raises(tcpconn.ConnectionClosed):
                connection.receive(0)
        with pytest.raises(tcpconn.ConnectionClosed, match=listener.address):
            listener.accept()
        assert listener.closed
        assert listener.multiplexers == []
        listener.close()

    @pytest.mark.plain
    def test_a_peer_that_takes_nothing_holds_it_up_no_longer_than_that(
        self, link: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        listener = tcpconn.listen(ANY, link=link)
        host, port = listener.address.split(":")
        with socket.create_connection((host, int(port))) as peer:
            peer.sendall(PREFACE + encode_hello(session_id=bytes(16), nonce=bytes(16)))
            wait_until(lambda: bool(listener.multiplexers), "the link is not there")
            listener.close(0.02)
        assert listener.multiplexers == []

    def test_nobody_gets_in_any_more(self, listener: tcpconn.Listener) -> None:
        listener.close()
        host, port = listener.address.split(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)))

    def test_from_many_threads(self, listener: tcpconn.Listener) -> None:
        for background in [Background(listener.close) for _ in range(5)]:
            background.result()


class TestServer:
    def test_a_thread_for_each_connection(self, link: str, pool: tcpconn.ConnectionPool) -> None:
        together = threading.Barrier(5)

        def handler(connection: tcpconn.Connection) -> None:
            together.wait(PATIENCE)
            connection.send(threading.current_thread().name.encode())

        with tcpconn.serve(handler, ANY, link=link) as server:
            connections = [pool.connect(server.address) for _ in range(5)]
            for connection in connections:
                assert connection.receive(PATIENCE).startswith(b"tcpconn-handler")
                with pytest.raises(tcpconn.ConnectionClosed):
                    connection.receive(PATIENCE)
                connection.close()

    def test_a_handler_that_fails(
        self, link: str, pool: tcpconn.ConnectionPool, caplog: pytest.LogCaptureFixture
    ) -> None:
        def handler(connection: tcpconn.Connection) -> None:
            if connection.receive(PATIENCE) == b"fail":
                raise RuntimeError("on purpose")
            connection.send(b"fine")

        with (
            tcpconn.serve(handler, ANY, link=link) as server,
            pool.connect(server.address) as bad,
            pool.connect(server.address) as good,
        ):
            bad.send(b"fail")
            with pytest.raises(tcpconn.ConnectionClosed):
                bad.receive(PATIENCE)
            good.send(b"work")
            assert good.receive(PATIENCE) == b"fine"
        failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert len(failures) == 1
        assert failures[0].name == "tcpconn"
        assert failures[0].exc_info is not None
        assert "on purpose" in str(failures[0].exc_info[1])

    def test_peers_that_go_away_are_no_failure(
        self, link: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        handled = threading.Semaphore(0)

        def handler(connection: tcpconn.Connection) -> None:
            try:
                for _ in connection:
                    pass
            finally:
                handled.release()

        with tcpconn.serve(handler, ANY, link=link) as server:
            for how in ("abort", "close"):
                multiplexer = tcpconn.Multiplexer(server.address, link=link)
                connection = multiplexer.open()
                connection.send(b"x")
                connection.flush(PATIENCE)
                getattr(multiplexer, how)()
                assert handled.acquire(timeout=PATIENCE)
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    def test_wait(self, link: str) -> None:
        server = tcpconn.serve(echo, ANY, link=link)
        assert not server.wait(0)
        waiting = Background(server.wait).asleep()
        server.close()
        assert waiting.result()
        assert server.wait()
        server.close()

    def test_close_waits_for_handlers(self, link: str, pool: tcpconn.ConnectionPool) -> None:
        finished = []

        def handler(connection: tcpconn.Connection) -> None:
            connection.send(b"started")
            with contextlib.suppress(tcpconn.ConnectionClosed):
                connection.receive()
            finished.append(True)

        with tcpconn.serve(handler, ANY, link=link) as server:
            connection = pool.connect(server.address)
            assert connection.receive(PATIENCE) == b"started"
        assert finished == [True]
        connection.close()

    @pytest.mark.blocking("a handler that blocks is not in the task that close leaves out")
    def test_close_from_a_handler(self, link: str, pool: tcpconn.ConnectionPool) -> None:
        servers = []

        def handler(connection: tcpconn.Connection) -> None:
            connection.receive()
            servers[0].close()

        with tcpconn.serve(handler, ANY, link=link) as server:
            servers.append(server)
            with pool.connect(server.address) as connection:
                connection.send(b"stop")
                assert server.wait(PATIENCE)


class TestDrain:
    def test_what_is_open_goes_on(self, link: str) -> None:
        """New connections do not get in any more; those there are come to their own end."""
        listener = tcpconn.listen(ANY, link=link)
        with tcpconn.ConnectionPool(link=link) as pool:
            connection = pool.connect(listener.address)
            connection.send(b"before")
            accepted = listener.accept(PATIENCE)
            assert accepted.receive(PATIENCE) == b"before"
            closing = Background(lambda: listener.close(PATIENCE, drain=True)).asleep()
            for number in range(10):
                connection.send(noise(100_000, number))
                assert accepted.receive(PATIENCE) == noise(100_000, number)
                accepted.send(b"still here")
                assert connection.receive(PATIENCE) == b"still here"
            multiplexer = connection.multiplexer
            assert multiplexer is not None
            wait_until(lambda: not multiplexer.takes_connections, "the client has not heard of it")
            with pytest.raises(tcpconn.ConnectionClosed):
                multiplexer.open()
            with pytest.raises(tcpconn.ConnectError):
                pool.connect(listener.address)
            assert not closing.done
            connection.send(b"last")
            connection.close()
            assert list(accepted) == [b"last"]
            accepted.close()
            closing.result()
            assert listener.multiplexers == []

    def test_no_longer_than_allowed(self, link: str) -> None:
        listener = tcpconn.listen(ANY, link=link)
        with tcpconn.ConnectionPool(link=link) as pool:
            connection = pool.connect(listener.address)
            connection.send(b"x")
            listener.accept(PATIENCE).send(b"y")
            assert connection.receive(PATIENCE) == b"y"
            listener.close(0.05, drain=True)
            with pytest.raises(tcpconn.ConnectionClosed):
                connection.receive(PATIENCE)

    def test_a_server(self, link: str) -> None:
        server = tcpconn.serve(echo, ANY, link=link)
        with tcpconn.ConnectionPool(link=link) as pool:
            connection = pool.connect(server.address)
            connection.send(b"x")
            assert connection.receive(PATIENCE) == b"x"
            closing = Background(lambda: server.close(PATIENCE, drain=True)).asleep()
            connection.send(b"y")
            assert connection.receive(PATIENCE) == b"y"
            connection.close()
            closing.result()
