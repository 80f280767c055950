"""TLS: who is let in, who finds out what is wrong, and that slow handshakes hold nobody up."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

import tcpconn
from faults.plan import DOWN, FLIP, RST, UP, Fault, Plan
from faults.proxy import Proxy
from support import (
    ANY,
    CERTIFICATES,
    KIB,
    MIB,
    PATIENCE,
    Background,
    client_context,
    echo,
    noise,
    server_context,
    tcp_pair,
    wait_until,
)
from terminator import Terminator


def wants_certificates() -> ssl.SSLContext:
    """A server's context that takes only clients of our authority."""
    context = server_context(verify_mode=ssl.CERT_REQUIRED)
    context.load_verify_locations(CERTIFICATES / "authority.pem")
    return context


def with_certificate(context: ssl.SSLContext, name: str) -> ssl.SSLContext:
    """A client's context that shows one of our certificates."""
    context.load_cert_chain(CERTIFICATES / f"{name}.pem")
    return context


@contextlib.contextmanager
def serving(link: str, context: ssl.SSLContext | None, **options: Any) -> Iterator[tcpconn.Server]:
    """An echo server through TLS."""
    with tcpconn.serve(echo, ANY, link=link, ssl=context, **options) as server:
        yield server


def ask(address: str, link: str, context: ssl.SSLContext | None, **options: Any) -> bytes:
    """What a server answers, over a link of its own."""
    with (
        tcpconn.ConnectionPool(link=link, ssl=context, **options) as pool,
        pool.connect(address, timeout=PATIENCE) as connection,
    ):
        connection.send(b"hello")
        return connection.receive(PATIENCE)


class TestCertificates:
    def test_a_trusted_server(self, link: str) -> None:
        with serving(link, server_context()) as server:
            assert ask(server.address, link, client_context()) == b"hello"
            port = server.address.rpartition(":")[2]
            assert ask(f"localhost:{port}", link, client_context()) == b"hello"

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_each_version(self, version: ssl.TLSVersion, link: str) -> None:
        with serving(link, server_context(maximum_version=version)) as server:
            assert ask(server.address, link, client_context()) == b"hello"

    def test_an_authority_that_is_not_trusted(
        self, link: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "tcpconn")
        with serving(link, server_context("stranger-server")) as server:
            with pytest.raises(tcpconn.CertificateError, match="is not trusted") as raised:
                ask(server.address, link, client_context())
            assert server.address in str(raised.value)
            assert isinstance(raised.value, tcpconn.ConnectError)
            wait_until(lambda: "does not trust" in caplog.text, "the server says nothing of it")

    def test_a_certificate_for_another_name(self, link: str) -> None:
        with serving(link, server_context("elsewhere")) as server:
            with pytest.raises(tcpconn.CertificateError, match=r"127\.0\.0\.1"):
                ask(server.address, link, client_context())
            name = "elsewhere.example"
            answer = ask(server.address, link, client_context(), server_hostname=name)
            assert answer == b"hello"
            with pytest.raises(tcpconn.CertificateError, match="nowhere"):
                ask(server.address, link, client_context(), server_hostname="nowhere.example")

    def test_a_client_with_a_certificate(self, link: str) -> None:
        context = with_certificate(client_context(), "client")
        with serving(link, wants_certificates()) as server:
            assert ask(server.address, link, context) == b"hello"

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    @pytest.mark.parametrize("shown", [None, "stranger-client"])
    def test_a_client_without_one_that_is_trusted(
        self, shown: str | None, version: ssl.TLSVersion, link: str
    ) -> None:
        """Both sides say so; under TLS 1.3, the client hears of it only after its handshake."""
        context = client_context(maximum_version=version)
        if shown is not None:
            with_certificate(context, shown)
        said = "trust" if shown else "wants a certificate" if version == 0x304 else "handshake"
        with (
            serving(link, wants_certificates()) as server,
            pytest.raises(tcpconn.TlsError, match=said),
        ):
            ask(server.address, link, context)

    def test_versions_that_do_not_meet(self, link: str) -> None:
        context = client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
        with (
            serving(link, server_context(minimum_version=ssl.TLSVersion.TLSv1_3)) as server,
            pytest.raises(tcpconn.TlsError, match="version"),
        ):
            ask(server.address, link, context)

    def test_what_is_known_of_the_peer(self, link: str) -> None:
        context = with_certificate(client_context(), "client")
        with (
            tcpconn.listen(ANY, link=link, ssl=wants_certificates()) as listener,
            tcpconn.ConnectionPool(link=link, ssl=context) as pool,
            pool.connect(listener.address) as near,
        ):
            near.send(b"hello")
            far = listener.accept(PATIENCE)
            assert near.multiplexer is not None
            assert far.multiplexer is not None
            assert common_name(near.multiplexer.peer_certificate) == "tcpconn test server"
            assert common_name(far.multiplexer.peer_certificate) == "tcpconn test client"
            far.abort()

    def test_authorize_sees_it(self, link: str) -> None:
        """A server may know its clients by their certificates."""
        names = []

        def authorize(address: str, certificate: dict[str, Any], id: uuid.UUID) -> bool:
            names.append(common_name(certificate))
            return names[-1] == "tcpconn test client"

        context = with_certificate(client_context(), "client")
        with serving(link, wants_certificates(), authorize=authorize) as server:
            assert ask(server.address, link, context) == b"hello"
            other = with_certificate(client_context(), "other-client")
            with pytest.raises(tcpconn.ConnectionReset, match="refused"):
                ask(server.address, link, other)
        assert names == ["tcpconn test client", "tcpconn test other-client"]


def common_name(certificate: dict[str, Any] | None) -> str:
    assert certificate is not None
    name: str = dict(part[0] for part in certificate["subject"])["commonName"]
    return name


class TestOtherPeers:
    def test_a_plain_client(self, link: str, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "tcpconn")
        with serving(link, server_context()) as server:
            with pytest.raises(tcpconn.LinkLost, match="does it want TLS"):
                ask(server.address, link, None)
            assert ask(server.address, link, client_context()) == b"hello"
        assert "the peer does not speak TLS" in caplog.text

    def test_a_plain_server(self, link: str) -> None:
        with serving(link, None) as server:
            with pytest.raises(tcpconn.LinkLost, match="does it speak TLS"):
                ask(server.address, link, client_context())
            assert ask(server.address, link, None) == b"hello"

    def test_a_server_that_says_nothing(self, link: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = silent.getsockname()[:2]
            with (
                tcpconn.ConnectionPool(link=link, ssl=client_context()) as pool,
                pytest.raises(tcpconn.Timeout, match="TLS handshake"),
            ):
                pool.connect(address, timeout=0.05)

    def test_a_server_that_trickles(self, link: str) -> None:
        """The timeout is for the handshake as a whole, not for each of its bytes."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            done = threading.Event()

            def trickle() -> None:
                peer, _ = server.accept()
                with peer, contextlib.suppress(OSError):
                    peer.sendall(b"\x16\x03\x03\x40\x00")  # a record of 16 KiB, which never ends
                    while not done.wait(0.01):
                        peer.send(b"\0")

            trickling = Background(trickle)
            with (
                tcpconn.ConnectionPool(link=link, ssl=client_context()) as pool,
                pytest.raises(tcpconn.Timeout, match="TLS handshake"),
            ):
                pool.connect(server.getsockname()[:2], timeout=0.2)
            done.set()
            trickling.result()

    def test_noise_instead_of_a_handshake(self, link: str) -> None:
        with serving(link, server_context()) as server:
            host, port = server.address.split(":")
            for size in (1, 5, 1000, 100 * KIB):
                with (
                    socket.create_connection((host, int(port)), timeout=PATIENCE) as peer,
                    contextlib.suppress(OSError),
                ):
                    peer.sendall(noise(size))
                    peer.shutdown(socket.SHUT_WR)
                    while peer.recv(1000):
                        pass
            assert ask(server.address, link, client_context()) == b"hello"


class TestManyHandshakes:
    def test_slow_ones_cost_nothing_but_their_place(
        self, link: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Some have not begun, some are in the midst: an honest client is served on."""
        with (
            serving(link, server_context(), max_handshakes=8) as server,
            contextlib.ExitStack() as stack,
        ):
            host, port = server.address.split(":")
            slow = []
            for number in range(8):
                peer = stack.enter_context(socket.create_connection((host, int(port))))
                peer.settimeout(PATIENCE)
                peer.sendall(client_hello()[: 20 * number])
                slow.append(peer)
            for _ in range(3):
                assert ask(server.address, link, client_context()) == b"hello"
            assert slow[0].recv(1) == b"", "the oldest has given up its place"
            assert "8 handshakes are under way" in caplog.text

    def test_one_that_takes_too_long(self, link: str, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "tcpconn")
        with serving(link, server_context(), handshake_timeout=0.05) as server:
            host, port = server.address.split(":")
            with socket.create_connection((host, int(port)), timeout=PATIENCE) as peer:
                peer.sendall(client_hello()[:100])
                assert peer.recv(1) == b""
        assert "no greeting within 0.05 s" in caplog.text

    def test_one_that_goes_on_and_on(self, link: str) -> None:
        """Records that are right and end nothing: a handshake has a length."""
        with serving(link, server_context()) as server:
            host, port = server.address.split(":")
            with socket.create_connection((host, int(port)), timeout=PATIENCE) as peer:
                sent = 0
                with contextlib.suppress(ConnectionError):
                    while sent < 100 * MIB:
                        peer.sendall(client_hello())
                        sent += len(client_hello())
                assert sent < 100 * MIB

    def test_many_honest_ones_at_once(self, link: str) -> None:
        with serving(link, server_context()) as server:
            asking = [
                Background(lambda: ask(server.address, link, client_context())) for _ in range(30)
            ]
            for each in asking:
                assert each.result() == b"hello"


def client_hello() -> bytes:
    """How a client begins."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"ssl": True}, "ssl=True is not an ssl.SSLContext"),
            ({"server_hostname": "x"}, "server_hostname .* needs ssl"),
            ({"ssl": client_context(), "server_hostname": ""}, "server_hostname='' is not a name"),
        ],
    )
    def test_values_that_cannot_be(self, options: dict[str, Any], said: str) -> None:
        with pytest.raises(tcpconn.OptionError, match=said):
            tcpconn.Options(**options)

    def test_they_can_be_compared_and_hashed(self) -> None:
        one, other = client_context(), client_context()
        assert tcpconn.Options(ssl=one) == tcpconn.Options(ssl=one)
        assert len({tcpconn.Options(ssl=one), tcpconn.Options(ssl=one)}) == 1
        assert tcpconn.Options(ssl=one) != tcpconn.Options(ssl=other)

    def test_a_clients_context_for_a_server(self, link: str) -> None:
        with pytest.raises(tcpconn.OptionError, match="not for a server"):
            tcpconn.listen(ANY, link=link, ssl=client_context())

    def test_a_servers_context_for_a_client(self, link: str) -> None:
        with (
            serving(link, server_context()) as server,
            pytest.raises(tcpconn.OptionError, match="not for a client"),
        ):
            ask(server.address, link, server_context())

    def test_a_socket_without_a_name_for_its_peer(self, link: str) -> None:
        near, far = tcp_pair()
        with far, pytest.raises(tcpconn.OptionError, match="server_hostname"):
            tcpconn.Multiplexer(near, client=True, link=link, ssl=client_context())

    def test_links_are_shared_by_those_with_the_same_context(self, link: str) -> None:
        one, other = client_context(), client_context()
        with (
            serving(link, server_context()) as server,
            tcpconn.ConnectionPool(link=link) as pool,
        ):
            for context in (one, other, one):
                with pool.connect(server.address, ssl=context) as connection:
                    connection.send(b"hello")
                    assert connection.receive(PATIENCE) == b"hello"
            assert pool.stats().dialled == 2


class TestWrap:
    def test_it_agrees_upon_tls_first(self, link: str) -> None:
        near, far = tcp_pair()
        name = uuid.uuid4()
        wrapping = Background(lambda: tcpconn.wrap(far, link=link, ssl=server_context()))
        with tcpconn.Multiplexer(
            near, client=True, link=link, ssl=client_context(), server_hostname="localhost"
        ) as client:
            connection = client.open(name)
            connection.send(b"hello")
            with wrapping.result() as wrapped:
                assert wrapped.id == name
                assert wrapped.receive(PATIENCE) == b"hello"
                wrapped.send(b"and back")
                assert connection.receive(PATIENCE) == b"and back"
                more = uuid.uuid4()
                with client.open(more) as here, tcpconn.wrap(far, more) as there:
                    here.send(b"again")
                    assert there.receive(PATIENCE) == b"again"
            connection.close()

    def test_a_peer_that_does_not_speak_it(self, link: str) -> None:
        near, far = tcp_pair()
        with near:
            near.sendall(b"TCPCONN\x01 and more")
            with pytest.raises(tcpconn.TlsError, match="does not speak TLS"):
                tcpconn.wrap(far, link=link, ssl=server_context())
        assert far.fileno() == -1

    def test_a_peer_that_says_nothing_holds_up_nobody_else(self, link: str) -> None:
        near, far = tcp_pair()
        with near:
            context = server_context()
            waiting = Background(lambda: tcpconn.wrap(far, link=link, ssl=context))
            waiting.asleep()
            self.test_it_agrees_upon_tls_first(link)
            near.shutdown(socket.SHUT_WR)
            assert isinstance(waiting.error(), tcpconn.LinkLost)

    def test_it_takes_too_long(self, link: str) -> None:
        near, far = tcp_pair()
        with near, pytest.raises(tcpconn.Timeout, match="TLS handshake"):
            tcpconn.wrap(far, link=link, ssl=server_context(), handshake_timeout=0.05)


class TestBreaks:
    """Resuming over TLS. (Most of it is in test_resume.)"""

    def test_bits_that_flip_are_breaks_to_be_survived(self, link: str) -> None:
        """In mid-record, in mid-handshake: nothing wrong gets through, and nothing is lost."""
        flips = [
            [Fault(FLIP, UP, at=150_000, bit=3)],
            [Fault(FLIP, DOWN, at=200_001, bit=7)],
            [Fault(FLIP, UP, at=700, bit=0)],  # in the handshake, where it is encrypted
            [Fault(FLIP, DOWN, at=5, bit=5)],  # and where it is not
            [Fault(FLIP, DOWN, at=90, bit=1)],
            [Fault(FLIP, UP, at=100_000, bit=0)],
        ]
        messages = [noise(20_000, number) for number in range(100)]
        # One that flips in the length of a record makes both sides wait for the other.
        soon = {"keepalive": 0.2, "keepalive_timeout": 1.0}
        with (
            serving(link, server_context(), **soon) as server,
            Proxy(server.address, Plan(links=flips)) as proxy,
            tcpconn.ConnectionPool(link=link, ssl=client_context(), **soon) as pool,
            pool.connect(proxy.address) as connection,
        ):
            sending = Background(lambda: connection.send_many(messages))
            for message in messages:
                assert connection.receive(PATIENCE) == message
            sending.result()
            assert proxy.count(FLIP) == len(flips)

    def test_a_server_that_is_not_trusted_any_more_ends_the_session(self, link: str) -> None:
        with (
            serving(link, server_context()) as server,
            serving(link, server_context("stranger-server")) as other,
            Proxy(server.address) as proxy,
            tcpconn.ConnectionPool(link=link, ssl=client_context()) as pool,
        ):
            connection = pool.connect(proxy.address)
            connection.send(b"hello")
            assert connection.receive(PATIENCE) == b"hello"
            host, port = other.address.split(":")
            proxy.target = (host, int(port))
            proxy.strike(RST)
            with pytest.raises(tcpconn.TcpconnError, match="is not trusted"):
                connection.receive(PATIENCE)


class TestNewKeys:
    """What makes reading write, and writing read."""

    @pytest.mark.parametrize("server", [False, True])
    def test_in_the_midst_of_traffic(self, server: bool, link: str) -> None:
        """The client is the one that is asked for new keys, or the server."""
        with self.path(link, server) as (connection, terminator):
            for size in (100, 300 * KIB):
                messages = [noise(size, number) for number in range(60)]
                sending = Background(lambda each=messages: connection.send_many(each))
                for number, message in enumerate(messages):
                    if number % 3 == 0:
                        terminator.update_keys(1 + number % 2)
                    assert connection.receive(PATIENCE) == message
                sending.result()

    @pytest.mark.parametrize("server", [False, True])
    def test_again_and_again_while_nothing_is_said(self, server: bool, link: str) -> None:
        with self.path(link, server) as (connection, terminator):
            terminator.update_keys(20_000)
            connection.send(b"hello again")
            assert connection.receive(PATIENCE) == b"hello again"

    def test_renegotiation(self, link: str) -> None:
        """TLS 1.2's way to new keys: a handshake in the midst of what is said."""
        version = ssl.TLSVersion.TLSv1_2
        with self.path(link, False, maximum_version=version) as (connection, terminator):
            for size in (100, 300 * KIB):
                messages = [noise(size, number) for number in range(40)]
                sending = Background(lambda each=messages: connection.send_many(each))
                for number, message in enumerate(messages):
                    if number % 5 == 0:
                        terminator.renegotiate()
                    assert connection.receive(PATIENCE) == message
                sending.result()
            assert terminator.renegotiations > 2

    @contextlib.contextmanager
    def path(
        self, link: str, server: bool, **settings: Any
    ) -> Iterator[tuple[tcpconn.Connection, Terminator]]:
        """A connection to an echo server, with TLS on the client's or the server's side of it."""
        with contextlib.ExitStack() as stack:
            near = None if server else client_context(**settings)
            far = server_context(**settings) if server else None
            target = stack.enter_context(serving(link, far, on_state=None))
            context = client_context(**settings) if server else server_context(**settings)
            terminator = stack.enter_context(Terminator(target.address, context, server=not server))
            pool = stack.enter_context(
                tcpconn.ConnectionPool(link=link, ssl=near, session_timeout=0)
            )
            connection = stack.enter_context(pool.connect(terminator.address))
            connection.send(b"hello")
            assert connection.receive(PATIENCE) == b"hello"
            yield connection, terminator


class TestTraffic:
    def test_every_byte_from_many_threads(self, link: str) -> None:
        """Big and small messages, both ways at once, on many connections of one link."""
        sizes = (0, 1, 100, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, 200 * KIB, 3 * MIB)
        rounds = 5

        def talk(pool: tcpconn.ConnectionPool, address: str, number: int) -> None:
            with pool.connect(address) as connection:
                messages = [
                    noise(size, number * 100 + turn) for turn in range(rounds) for size in sizes
                ]
                sending = Background(lambda: [connection.send(each) for each in messages])
                for message in messages:
                    assert connection.receive(PATIENCE) == message
                sending.result()

        with (
            serving(link, server_context()) as server,
            tcpconn.ConnectionPool(link=link, ssl=client_context()) as pool,
        ):
            talking = [
                Background(lambda number=number: talk(pool, server.address, number))
                for number in range(8)
            ]
            for each in talking:
                each.result()
            assert pool.stats().dialled == 1

    def test_nothing_is_in_the_clear(self, link: str) -> None:
        """A tap between both sides does not find what was sent."""
        secret = noise(1000)
        seen: list[bytes] = []
        with (
            serving(link, server_context()) as server,
            tapped(server.address, seen) as address,
            tcpconn.ConnectionPool(link=link, ssl=client_context()) as pool,
            pool.connect(address) as connection,
        ):
            connection.send(secret)
            assert connection.receive(PATIENCE) == secret
        assert sum(map(len, seen)) > 2000
        assert secret[:100] not in b"".join(seen)

    def test_the_orderly_end_says_so_in_tls_too(self, link: str) -> None:
        """The server's close_notify comes before the end of the stream."""
        near, far = tcp_pair()
        accepted = Background(lambda: tcpconn.Multiplexer(far, link=link, ssl=server_context()))
        near.settimeout(PATIENCE)
        with client_context().wrap_socket(near, server_hostname="localhost") as peer:
            accepted.result().close()
            peer.suppress_ragged_eofs = False
            while peer.recv(1000):
                pass


@contextlib.contextmanager
def tapped(address: str, seen: list[bytes]) -> Iterator[str]:
    """The address of something that hands everything on to `address`, and keeps a copy."""
    host, port = address.split(":")

    def hand_on(source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                seen.append(data)
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)

    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection((host, int(port))) as far,
    ):
        name = server.getsockname()
        accepting = Background(server.accept)
        yielded = f"{name[0]}:{name[1]}"

        def work() -> None:
            near, _ = accepting.result()
            with near:
                back = Background(lambda: hand_on(far, near))
                hand_on(near, far)
                back.result()

        working = Background(work)
        yield yielded
        working.result()
