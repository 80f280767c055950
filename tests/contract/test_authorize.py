"""What a listener lets in, connection by connection: yes, no, and an exception."""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

import tcpconn
from support import (
    ANY,
    KIB,
    PATIENCE,
    Background,
    echo,
    multiplexer_pair,
    noise,
    wait_until,
)

OVER_TLS = True
SHELLS = "many"


@pytest.fixture(autouse=True)
def _no_warning_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is logged, whatever was before."""
    monkeypatch.setattr("tcpconn._endpoint.failures._quiet_until", 0.0)


def knock(connection: tcpconn.Connection, message: bytes = b"let me in") -> None:
    """Sends, unless it is refused already."""
    with contextlib.suppress(tcpconn.ConnectionReset):
        connection.send(message)


def refused(connection: tcpconn.Connection) -> None:
    """Waits until a connection is refused."""
    with pytest.raises(tcpconn.ConnectionReset, match="refused") as raised:
        connection.receive(PATIENCE)
    assert raised.value.code == 9


def test_it_sees_who_comes(link: str) -> None:
    seen: list[tuple[Any, ...]] = []

    def authorize(*what: Any) -> bool:
        seen.append(what)
        return True

    name = uuid.uuid4()
    with (
        tcpconn.serve(echo, ANY, link=link, authorize=authorize) as server,
        tcpconn.ConnectionPool(link=link) as pool,
        pool.connect(server.address, name) as connection,
    ):
        connection.send(b"hello")
        assert connection.receive(PATIENCE) == b"hello"
        assert seen == [(connection.local_address, None, name)]


@pytest.mark.parametrize("answer", [False, None, 0])
def test_no(answer: object, link: str, caplog: pytest.LogCaptureFixture) -> None:
    """The others on the link go on, and the UUID may be tried again."""
    caplog.set_level(logging.INFO, "tcpconn")
    wanted, unwanted = uuid.uuid4(), uuid.uuid4()

    def authorize(address: str, certificate: object, id: uuid.UUID) -> object:
        return True if id == wanted else answer

    with (
        tcpconn.serve(echo, ANY, link=link, authorize=authorize) as server,
        tcpconn.ConnectionPool(link=link) as pool,
        pool.connect(server.address, wanted) as friend,
    ):
        for _ in range(3):
            stranger = pool.connect(server.address, unwanted)
            knock(stranger)
            refused(stranger)
            with pytest.raises(tcpconn.ConnectionReset, match="refused"):
                stranger.send(b"please")
            stranger.close()
            friend.send(b"hello")
            assert friend.receive(PATIENCE) == b"hello"
        assert pool.stats().dialled == 1
        assert f"connection {unwanted} of {friend.local_address} is refused" in caplog.text


def test_an_exception(link: str, caplog: pytest.LogCaptureFixture) -> None:
    answers = [True, RuntimeError("the list of friends is lost"), True]

    def authorize(*_: Any) -> bool:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with (
        tcpconn.serve(echo, ANY, link=link, authorize=authorize) as server,
        tcpconn.ConnectionPool(link=link) as pool,
    ):
        for expected in (True, False, True):
            connection = pool.connect(server.address)
            knock(connection, b"hello")
            if expected:
                assert connection.receive(PATIENCE) == b"hello"
            else:
                refused(connection)
            connection.close()
    assert "the list of friends is lost" in caplog.text


def test_exceptions_do_not_fill_the_log(link: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever can make it fail could else write there as much as they like."""
    caplog.set_level(logging.DEBUG, "tcpconn")

    def authorize(*_: Any) -> bool:
        raise RuntimeError("the list of friends is lost")

    with (
        tcpconn.serve(echo, ANY, link=link, authorize=authorize) as server,
        tcpconn.ConnectionPool(link=link) as pool,
    ):
        for _ in range(20):
            connection = pool.connect(server.address)
            knock(connection)
            refused(connection)
            connection.close()
    said = [record for record in caplog.records if "authorize failed" in record.message]
    loud = [record for record in said if record.levelno > logging.DEBUG]
    assert [record.levelno for record in loud] == [logging.WARNING]
    assert "the list of friends is lost" in loud[0].message
    assert not loud[0].exc_info
    assert len([record for record in said if record.exc_info]) == 20


@pytest.mark.blocking("in a loop, the answer may be awaited")
def test_a_coroutine_is_no_yes(link: str, caplog: pytest.LogCaptureFixture) -> None:
    class Awaitable:
        def __await__(self) -> Iterator[None]:
            yield

    with (
        tcpconn.serve(echo, ANY, link=link, authorize=lambda *_: Awaitable()) as server,
        tcpconn.ConnectionPool(link=link) as pool,
    ):
        connection = pool.connect(server.address)
        knock(connection)
        refused(connection)
        connection.close()
    assert "to be awaited" in caplog.text


def test_a_refused_connection_is_none_that_is_accepted(link: str) -> None:
    wanted = uuid.uuid4()
    with (
        tcpconn.listen(ANY, link=link, authorize=lambda *what: what[2] == wanted) as listener,
        tcpconn.ConnectionPool(link=link) as pool,
    ):
        strangers = [pool.connect(listener.address) for _ in range(10)]
        for stranger in strangers:
            knock(stranger, noise(100 * KIB))
        friend = pool.connect(listener.address, wanted)
        friend.send(b"hello")
        with listener.accept(PATIENCE) as accepted:
            assert accepted.id == wanted
            with pytest.raises(tcpconn.Timeout):
                listener.accept(0.01)
            for stranger in strangers:
                refused(stranger)
                stranger.close()
            [multiplexer] = listener.multiplexers
            wait_until(lambda: multiplexer.connection_count == 1, "a refused connection is kept")
            assert multiplexer.stats().unread_bytes == 5
        friend.close()


def test_one_that_has_closed_already(link: str) -> None:
    with (
        tcpconn.listen(ANY, link=link, authorize=lambda *_: False) as listener,
        tcpconn.ConnectionPool(link=link) as pool,
    ):
        stranger = pool.connect(listener.address)
        knock(stranger)
        stranger.close()
        [multiplexer] = listener.multiplexers
        with pytest.raises(tcpconn.Timeout):
            listener.accept(0.01)
        wait_until(lambda: multiplexer.connection_count == 0, "a refused connection is kept")


@pytest.mark.blocking("authorize is asked in the loop, where nothing may take long")
def test_a_slow_answer_holds_up_nobody_who_is_in(link: str) -> None:
    """What the reader of the link does for others does not wait for it."""
    asked, go_on = threading.Event(), threading.Event()
    friend, friend_too = uuid.uuid4(), uuid.uuid4()

    def authorize(address: str, certificate: object, id: uuid.UUID) -> bool:
        if id not in (friend, friend_too):
            asked.set()
            assert go_on.wait(PATIENCE)
        return True

    with (
        tcpconn.serve(echo, ANY, link=link, authorize=authorize) as server,
        tcpconn.ConnectionPool(link=link) as pool,
        pool.connect(server.address, friend) as inside,
    ):
        inside.send(b"hello")
        assert inside.receive(PATIENCE) == b"hello"
        with pool.connect(server.address) as outside:
            outside.send(b"hello, too")
            assert asked.wait(PATIENCE)
            for number in range(100):
                inside.send(b"%d" % number)
                assert inside.receive(PATIENCE) == b"%d" % number
            # Nor anybody who comes.
            with pool.connect(server.address, friend_too) as second:
                second.send(b"and hello")
                assert second.receive(PATIENCE) == b"and hello"
            go_on.set()
            assert outside.receive(PATIENCE) == b"hello, too"


@pytest.mark.blocking("it is about numbers, which the core keeps for all")
def test_a_peer_that_is_refused_again_and_again(link: str) -> None:
    """And does not end what was refused: that has a limit, and memory another."""
    with (
        tcpconn.listen(ANY, link=link, authorize=lambda *_: False) as listener,
        tcpconn.ConnectionPool(link=link) as pool,
    ):
        accepting = Background(lambda: listener.accept(PATIENCE))
        for _ in range(2000):
            connection = pool.connect(listener.address)
            knock(connection)
            refused(connection)
            connection.close()
        assert pool.stats().dialled == 1
        [multiplexer] = listener.multiplexers
        wait_until(lambda: multiplexer.connection_count == 0, "a refused connection is kept")
        listener.close()
        assert isinstance(accepting.error(), tcpconn.ConnectionClosed)


def test_it_is_not_asked_about_what_this_side_names(link: str) -> None:
    name = uuid.uuid4()
    with (
        multiplexer_pair(link, authorize=lambda *_: False) as (client, server),
        client.open(name) as near,
        server.open(name) as far,
    ):
        near.send(b"hello")
        assert far.receive(PATIENCE) == b"hello"


def test_a_multiplexer_asks_too(link: str) -> None:
    wanted = uuid.uuid4()
    with (
        multiplexer_pair(link, authorize=lambda *what: what[2] == wanted) as (client, server),
        client.open() as stranger,
        client.open(wanted) as friend,
    ):
        knock(stranger)
        friend.send(b"hello")
        with server.accept(PATIENCE) as accepted:
            assert accepted.receive(PATIENCE) == b"hello"
        refused(stranger)


def test_something_that_cannot_be_asked() -> None:
    with pytest.raises(tcpconn.OptionError, match="cannot be called"):
        tcpconn.Options(authorize=True)  # type: ignore[arg-type]
