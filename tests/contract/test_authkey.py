"""The authkey over real links: who gets in, who is turned away, and what both sides say of it."""

from __future__ import annotations

import logging
import secrets
import socket
import uuid
from typing import Any

import pytest

import tcpconn
from faults.plan import RST
from faults.proxy import Proxy
from support import ANY, PATIENCE, Background, break_link, echo, tcp_pair, wait_until
from tcpconn.handshake import Rejected, Resume, resume, run

OVER_TLS = True

KEY, OTHER_KEY = secrets.token_bytes(32), secrets.token_bytes(16)
HELLO = b"TCPCONN\x01" + bytes.fromhex("00000000 01 00 0000 00000000 00000000")


def ask(address: str, link: str, **options: Any) -> bytes:
    """What a server answers, over a link of its own."""
    with (
        tcpconn.ConnectionPool(link=link, **options) as pool,
        pool.connect(address, timeout=PATIENCE) as connection,
    ):
        connection.send(b"hello")
        return connection.receive(PATIENCE)


def test_both_have_it(link: str) -> None:
    with tcpconn.serve(echo, ANY, link=link, authkey=KEY) as server:
        assert ask(server.address, link, authkey=KEY) == b"hello"


@pytest.mark.parametrize(
    ("clients", "servers", "said", "logged"),
    [
        (OTHER_KEY, KEY, "the same on both sides", "the client's proof of the authkey is wrong"),
        (None, KEY, "wants a proof of its authkey", "the client does not prove the authkey"),
        (KEY, None, "to prove an authkey, and this side has none", "this side has none"),
    ],
)
def test_who_has_not(
    clients: bytes | None,
    servers: bytes | None,
    said: str,
    logged: str,
    link: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "tcpconn")
    with tcpconn.serve(echo, ANY, link=link, authkey=servers) as server:
        with pytest.raises(tcpconn.AuthenticationError, match=said) as raised:
            ask(server.address, link, authkey=clients)
        assert server.address in str(raised.value)
        assert isinstance(raised.value, tcpconn.ConnectError)
        wait_until(lambda: logged in caplog.text, lambda: f"the log says {caplog.text!r}")
        assert ask(server.address, link, authkey=servers) == b"hello"
    for key in (KEY, OTHER_KEY):
        assert key.hex() not in caplog.text
        assert repr(key) not in caplog.text
        assert key.hex() not in repr(server) + str(raised.value)


@pytest.mark.plain
def test_who_says_nothing(link: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tcpconn")
    options: dict[str, Any] = {"authkey": KEY, "handshake_timeout": 0.05}
    with tcpconn.serve(echo, ANY, link=link, **options) as server:
        host, port = server.address.split(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as peer:
            assert peer.recv(1) == b""
        assert "no greeting" in caplog.text
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(tcpconn.Timeout, match="handshake"),
    ):
        ask(silent.getsockname()[:2], link, **options)


@pytest.mark.plain
def test_what_comes_before_the_proof_is_not_taken(link: str) -> None:
    with tcpconn.listen(ANY, link=link, authkey=KEY) as listener:
        host, port = listener.address.split(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as peer:
            peer.sendall(HELLO + bytes(1000))
            answer = b""
            while data := peer.recv(1000):
                answer += data
        assert answer.startswith(b"TCPCONN\x01")
        assert b"authkey" in answer
        assert listener.multiplexers == []


def test_links_are_shared_by_those_with_the_same_key(link: str) -> None:
    with (
        tcpconn.serve(echo, ANY, link=link, authkey=KEY) as server,
        tcpconn.ConnectionPool(link=link) as pool,
    ):
        for key in (KEY, bytes(bytearray(KEY))):
            with pool.connect(server.address, authkey=key) as connection:
                connection.send(b"hello")
                assert connection.receive(PATIENCE) == b"hello"
        with pytest.raises(tcpconn.AuthenticationError):
            pool.connect(server.address)
        assert pool.stats().dialled == 1


def test_a_session_goes_on_with_the_same_key(link: str) -> None:
    with (
        tcpconn.serve(echo, ANY, link=link, authkey=KEY) as server,
        tcpconn.ConnectionPool(link=link, authkey=KEY) as pool,
        pool.connect(server.address) as connection,
    ):
        assert connection.multiplexer is not None
        for number in range(3):
            connection.send(b"%d" % number)
            assert connection.receive(PATIENCE) == b"%d" % number
            break_link(connection.multiplexer)


@pytest.mark.plain
def test_a_stolen_session_is_of_no_use_without_the_key(link: str) -> None:
    with (
        tcpconn.serve(echo, ANY, link=link, authkey=KEY) as server,
        tcpconn.ConnectionPool(link=link, authkey=KEY) as pool,
        pool.connect(server.address) as connection,
    ):
        connection.send(b"hello")
        assert connection.receive(PATIENCE) == b"hello"
        assert connection.multiplexer is not None
        session = connection.multiplexer.key.session
        assert session.secret is not None
        host, port = server.address.split(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as thief:
            request = Resume(session.session_id, 9, session.taken, b"")
            steps = resume(request, session.secret, session.server_nonce)
            with pytest.raises(Rejected, match="wants a proof of its authkey"):
                run(steps, thief, None)
        connection.send(b"still here")
        assert connection.receive(PATIENCE) == b"still here"


def test_a_server_with_a_new_key_ends_the_session(link: str) -> None:
    with (
        tcpconn.serve(echo, ANY, link=link, authkey=KEY) as server,
        Proxy(server.address) as proxy,
        tcpconn.ConnectionPool(link=link, authkey=KEY) as pool,
    ):
        connection = pool.connect(proxy.address)
        connection.send(b"hello")
        assert connection.receive(PATIENCE) == b"hello"
        with tcpconn.serve(echo, ANY, link=link, authkey=OTHER_KEY) as other:
            host, port = other.address.split(":")
            proxy.target = (host, int(port))
            proxy.strike(RST)
            with pytest.raises(tcpconn.TcpconnError, match="the same on both sides"):
                connection.receive(PATIENCE)


def test_wrap(link: str) -> None:
    near, far = tcp_pair()
    name = uuid.uuid4()
    wrapping = Background(lambda: tcpconn.wrap(far, link=link, authkey=KEY))
    with (
        tcpconn.Multiplexer(near, client=True, link=link, authkey=KEY) as client,
        client.open(name) as connection,
    ):
        connection.send(b"hello")
        with wrapping.result() as wrapped:
            assert wrapped.id == name
            assert wrapped.receive(PATIENCE) == b"hello"


def test_wrap_with_a_peer_that_has_another(link: str) -> None:
    near, far = tcp_pair()
    wrapping = Background(lambda: tcpconn.wrap(far, link=link, authkey=KEY))
    with pytest.raises(tcpconn.AuthenticationError, match="the same on both sides"):
        tcpconn.Multiplexer(near, client=True, link=link, authkey=OTHER_KEY)
    assert isinstance(wrapping.error(), tcpconn.AuthenticationError)
    assert near.fileno() == -1
    assert far.fileno() == -1


@pytest.mark.parametrize("key", [b"", b"x" * 15, "x" * 32, bytearray(32), 5])
def test_keys_that_are_none(key: Any) -> None:
    with pytest.raises(tcpconn.OptionError, match="16 bytes or more") as raised:
        tcpconn.Options(authkey=key)
    assert "xxx" not in str(raised.value)


def test_options_do_not_show_it() -> None:
    options = tcpconn.Options(authkey=KEY)
    assert repr(KEY) not in repr(options)
    assert options == tcpconn.Options(authkey=KEY)
    assert options != tcpconn.Options(authkey=OTHER_KEY)
    assert hash(options) == hash(tcpconn.Options(authkey=KEY))
