"""What goes wrong is said: what it was, which value, which limit; and it does no harm."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import tcpconn
from support import KIB, MIB, PATIENCE, Background, Pair, noise, unused_port

SHELLS = "few"


class TestAddresses:
    @pytest.mark.parametrize(
        "address",
        [
            "",
            "localhost",
            ":",
            "localhost:",
            "localhost:http",
            "localhost:-1",
            "localhost:70000",
            "::1:80",
            "[::1]",
            "[::1]:",
            "[]:80",
            "unix:",
            "tcp://localhost:80",
            ("localhost",),
            ("localhost", "80"),
            ("localhost", 70000),
            ("localhost", -1),
            ("localhost", True),
            (b"localhost", 80),
            (80, "localhost"),
            80,
            None,
            b"localhost:80",
            ["localhost", 80],
        ],
        ids=repr,
    )
    def test_what_is_no_address(self, address: Any, link: str) -> None:
        makers = (
            lambda: tcpconn.connect(address, link=link),
            lambda: tcpconn.listen(address, link=link),
            lambda: tcpconn.serve(print, address, link=link),
            lambda: tcpconn.Multiplexer(address, link=link),
        )
        for make in makers:
            with pytest.raises(tcpconn.AddressError) as caught:
                make()
            assert repr(address) in str(caught.value)
            assert isinstance(caught.value, ValueError)

    def test_a_port_names_its_range(self) -> None:
        with pytest.raises(tcpconn.AddressError, match=r"70000.*65535"):
            tcpconn.connect("localhost:70000")

    def test_a_name_that_does_not_resolve(self, link: str) -> None:
        for make in (tcpconn.listen, lambda address, link: tcpconn.connect(address, link=link)):
            with pytest.raises(tcpconn.ResolveError, match=r"no-such-host\.invalid") as caught:
                make("no-such-host.invalid:1", link=link)
            assert isinstance(caught.value, tcpconn.ConnectError)
            assert isinstance(caught.value, ConnectionError)
        tcpconn.default_pool().close()

    @pytest.mark.parametrize("host", ["a" * 300, "sp ace", "\x00", "é" * 80, "..", "\udcff"])
    def test_names_that_cannot_resolve(self, host: str, link: str) -> None:
        with tcpconn.ConnectionPool(link=link) as pool, pytest.raises(tcpconn.ResolveError):
            pool.connect((host, 1))

    @pytest.mark.parametrize("path", ["/no/such/directory/socket", "x" * 200, "nul\0byte"])
    def test_paths_that_cannot_be(self, path: str, link: str) -> None:
        with tcpconn.ConnectionPool(link=link) as pool:
            with pytest.raises((tcpconn.ConnectError, tcpconn.AddressError)):
                pool.connect(f"unix:{path}")
            with pytest.raises((tcpconn.ConnectError, tcpconn.AddressError)):
                tcpconn.listen(f"unix:{path}", link=link)

    def test_an_address_of_somebody_else(self, link: str) -> None:
        # 192.0.2.0/24 is for documentation: nobody's.
        with pytest.raises(tcpconn.ConnectError, match=r"192\.0\.2\.1:0"):
            tcpconn.listen("192.0.2.1:0", link=link)

    def test_nobody_listens(self, link: str) -> None:
        address = f"127.0.0.1:{unused_port()}"
        with pytest.raises(tcpconn.ConnectError, match=address) as caught:
            tcpconn.Multiplexer(address, link=link)
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)

    def test_nobody_listens_on_any_of_its_addresses(self, link: str) -> None:
        """localhost may have several; each is told."""
        port = unused_port()
        with pytest.raises(tcpconn.ConnectError, match=f"localhost:{port}.*:{port}: .*refused"):
            tcpconn.Multiplexer(f"localhost:{port}", link=link)


class TestData:
    @pytest.mark.parametrize("data", ["text", 7, None, 1.5, [b"list"], {}, object()], ids=repr)
    def test_what_is_no_buffer(self, data: Any, pair: Pair) -> None:
        sends = (
            lambda: pair.client.send(data),
            lambda: pair.client.send_parts([b"fine", data]),
            lambda: pair.client.send_many([data]),
        )
        for send in sends:
            with pytest.raises(tcpconn.NotABuffer, match=type(data).__name__) as caught:
                send()
            assert isinstance(caught.value, TypeError)
        assert pair.client.stats().messages_sent == 0
        pair.client.send(b"next")
        assert pair.server.receive(PATIENCE) == b"next"

    @pytest.mark.parametrize("size", [10, 1 * MIB])
    def test_what_is_not_in_one_piece(self, size: int, pair: Pair) -> None:
        data = memoryview(bytes(size))[::2]
        sends = (
            lambda: pair.client.send(data),
            lambda: pair.client.send_parts([data]),
            lambda: pair.client.send_many([data]),
        )
        for send in sends:
            with pytest.raises(tcpconn.NotABuffer, match=r"contiguous"):
                send()
        assert pair.client.stats().messages_sent == 0

    @pytest.mark.parametrize("parts", [7, None, object()])
    def test_parts_that_are_none(self, parts: Any, pair: Pair) -> None:
        with pytest.raises(TypeError):
            pair.client.send_parts(parts)
        with pytest.raises(TypeError):
            pair.client.send_many(parts)

    @pytest.mark.blocking("time limits are asyncio's")
    @pytest.mark.parametrize("timeout", ["soon", [], object(), float("nan")], ids=repr)
    def test_what_is_no_timeout(self, timeout: Any, pair: Pair) -> None:
        waits = (
            lambda: pair.client.receive(timeout),
            lambda: pair.client.receive_into(bytearray(1), timeout),
            lambda: pair.client.receive_view(timeout),
            lambda: pair.client.receive_many(timeout=timeout),
            lambda: pair.client.flush(timeout),
        )
        for wait in waits:
            with pytest.raises((TypeError, ValueError)):
                wait()
        pair.client.send(b"unharmed")
        assert pair.server.receive(PATIENCE) == b"unharmed"

    @pytest.mark.blocking("time limits are asyncio's")
    def test_a_timeout_that_runs_code(self, pair: Pair) -> None:
        """Code that uses the very connection, too."""

        class Odd:
            def __float__(self) -> float:
                pair.server.send(b"from within")
                return float(len(pair.client.stats().__slots__)) + PATIENCE

        odd: Any = Odd()
        assert pair.client.receive(odd) == b"from within"
        assert pair.client.receive_into(bytearray(20), odd) == 11
        pair.client.send(b"x", odd)
        pair.client.flush(odd)


class TestTooLarge:
    @pytest.mark.parametrize("side", ["client", "server"])
    def test_the_smaller_limit_of_both_holds(self, side: str, link: str) -> None:
        limits = {"client": 1 * MIB, "server": 1 * MIB, side: 100 * KIB}
        with (
            tcpconn.listen("127.0.0.1:0", link=link, max_message_size=limits["server"]) as listener,
            tcpconn.ConnectionPool(link=link, max_message_size=limits["client"]) as pool,
            pool.connect(listener.address) as client,
            listener.accept(PATIENCE) as server,
        ):
            client.send(noise(100 * KIB))
            assert server.receive(PATIENCE) == noise(100 * KIB)
            for sender, receiver in ((client, server), (server, client)):
                for data in (noise(100 * KIB + 1), bytearray(2 * MIB), noise(200 * KIB)):
                    expected = f"{len(data)}.*{100 * KIB}"
                    with pytest.raises(tcpconn.MessageTooLarge, match=expected) as caught:
                        sender.send(data)
                    assert (caught.value.size, caught.value.limit) == (len(data), 100 * KIB)
                    assert isinstance(caught.value, ValueError)
                    with pytest.raises(tcpconn.MessageTooLarge):
                        sender.send_parts([data[:10], data[10:]])
                    with pytest.raises(tcpconn.MessageTooLarge):
                        sender.send_many([data])
                # Nothing of it was sent, and the connection works on.
                sender.send(noise(100 * KIB))
                assert receiver.receive(PATIENCE) == noise(100 * KIB)

    def test_the_default_limit(self, pair: Pair) -> None:
        with pytest.raises(tcpconn.MessageTooLarge, match=f"{16 * MIB + 1}.*{16 * MIB}"):
            pair.client.send(bytes(16 * MIB + 1))
        with pytest.raises(tcpconn.MessageTooLarge, match=f"{17 * MIB}.*{16 * MIB}"):
            pair.client.send_parts([bytes(MIB)] * 17)

    def test_a_larger_limit(self, link: str) -> None:
        size = 40 * MIB
        with (
            tcpconn.listen("127.0.0.1:0", link=link, max_message_size=size) as listener,
            tcpconn.ConnectionPool(link=link, max_message_size=size) as pool,
            pool.connect(listener.address) as client,
            listener.accept(PATIENCE) as server,
        ):
            sending = Background(lambda: client.send(noise(size)))
            assert server.receive(PATIENCE) == noise(size)
            sending.result()

    def test_into_too_small_a_buffer(self, pair: Pair) -> None:
        pair.client.send(noise(1000))
        with pytest.raises(tcpconn.BufferTooSmall, match=r"1000.*999") as caught:
            pair.server.receive_into(bytearray(999), PATIENCE)
        assert (caught.value.size, caught.value.capacity) == (1000, 999)
        assert pair.server.stats().unread_messages == 1
        assert pair.server.receive(0) == noise(1000)


class TestOptions:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("max_message_size", 65535),
            ("max_message_size", 1 << 63),
            ("max_frame_size", 16383),
            ("max_frame_size", (1 << 20) + 1),
            ("connection_credit", 1),
            ("max_connection_credit", 1),
            ("session_credit", 1 << 20),
            ("send_queue_size", 0),
            ("max_connections", 0),
            ("max_connections", 1 << 32),
            ("max_unaccepted", 0),
            ("handshake_timeout", 0),
            ("handshake_timeout", float("nan")),
            ("idle_timeout", -1),
            ("busy_poll", -0.1),
            ("busy_poll", float("inf")),
            ("link", "pigeon"),
            ("max_frame_size", "large"),
            ("max_frame_size", 1e5),
            ("max_frame_size", None),
            ("max_frame_size", True),
            ("idle_timeout", "long"),
            ("no_such_option", 1),
        ],
    )
    def test_out_of_range(self, option: str, value: Any, echo_server: tcpconn.Server) -> None:
        makers = (
            lambda **options: tcpconn.listen("127.0.0.1:0", **options),
            lambda **options: tcpconn.connect(echo_server.address, **options),
            lambda **options: tcpconn.Multiplexer(echo_server.address, **options),
            tcpconn.ConnectionPool,
        )
        for make in makers:
            with pytest.raises(tcpconn.OptionError, match=option) as caught:
                make(**{option: value})
            assert str(value) in str(caught.value) or option == "no_such_option"
            assert isinstance(caught.value, ValueError)
        tcpconn.default_pool().close()

    def test_the_least_of_everything(self, link: str) -> None:
        options: dict[str, Any] = {
            "max_message_size": 64 * KIB,
            "max_frame_size": 16 * KIB,
            "connection_credit": 64 * KIB,
            "max_connection_credit": 64 * KIB,
            "session_credit": MIB,
            "send_queue_size": 64 * KIB,
            "max_unaccepted": 1,
            "link": link,
        }
        with (
            tcpconn.listen("127.0.0.1:0", **options) as listener,
            tcpconn.ConnectionPool(**options) as pool,
            pool.connect(listener.address) as client,
            listener.accept(PATIENCE) as server,
        ):
            sizes = [0, 1, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, 64 * KIB - 1, 64 * KIB] * 5

            def send() -> None:
                for size in sizes:
                    client.send(noise(size, size), PATIENCE)
                    server.send(noise(size, size), PATIENCE)

            sending = Background(send)
            answering = Background(lambda: [client.receive(PATIENCE) for _ in sizes])
            for size in sizes:
                assert server.receive(PATIENCE) == noise(size, size)
            assert answering.result() == [noise(size, size) for size in sizes]
            sending.result()

    def test_sides_with_different_options(self, link: str) -> None:
        ours: dict[str, Any] = {"max_frame_size": 16 * KIB, "connection_credit": 64 * KIB}
        theirs: dict[str, Any] = {"max_frame_size": MIB, "connection_credit": 8 * MIB}
        with (
            tcpconn.listen("127.0.0.1:0", link=link, **ours) as listener,
            tcpconn.ConnectionPool(link=link, **theirs) as pool,
            pool.connect(listener.address) as client,
            listener.accept(PATIENCE) as server,
        ):
            for sender, receiver in ((client, server), (server, client)):
                for size in (100, 100 * KIB, 3 * MIB):
                    sending = Background(
                        lambda sender=sender, size=size: sender.send(noise(size), PATIENCE)
                    )
                    assert receiver.receive(PATIENCE) == noise(size)
                    sending.result()


def test_made_by_hand() -> None:
    with pytest.raises(TypeError, match="connect"):
        tcpconn.Connection()
    with pytest.raises(TypeError):
        tcpconn.Lease()


def test_nothing_is_logged_that_was_sent(
    pair: Pair, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = b"correct horse battery staple"
    pair.client.send(secret)
    with pytest.raises(tcpconn.BufferTooSmall) as caught:
        pair.server.receive_into(bytearray(1), PATIENCE)
    assert pair.server.receive(PATIENCE) == secret
    pair.client.send(secret)
    pair.server.abort()
    pair.client.abort()
    for text in (caplog.text, str(caught.value), repr(pair), *capfd.readouterr()):
        assert secret.decode() not in text
    assert {record.name for record in caplog.records} <= {"tcpconn"}
