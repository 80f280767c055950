"""What becomes of connections when their link breaks: over real sockets, with both link classes."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import tcpconn
import tcpconn.redial
import wire
from rawpeer import RawPeer
from support import (
    ANY,
    KIB,
    MIB,
    PATIENCE,
    Background,
    break_link,
    echo,
    fill,
    noise,
    unused_port,
    wait_until,
)
from tcpconn import handshake
from tcpconn._frame import PREFACE, decode_frames
from tcpconn.handshake import Resume

OVER_TLS = True
SHELLS = "many"


class Events:
    """What `on_state` was told, and when the next one comes."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._came = threading.Condition()

    def __call__(self, name: str, text: str) -> None:
        assert text
        with self._came:
            self.names.append(name)
            self._came.notify_all()

    def wait(self, name: str, count: int = 1) -> None:
        with self._came:
            came = self._came.wait_for(lambda: self.names.count(name) >= count, PATIENCE)
        assert came, f"{name} has not come {count} times: {self.names}"


def multiplexer_of(connection: tcpconn.Connection) -> tcpconn.Multiplexer:
    multiplexer = connection.multiplexer
    assert multiplexer is not None
    return multiplexer


@contextlib.contextmanager
def silent_server(address: str = ANY, **options: Any) -> Iterator[tcpconn.Listener]:
    """A listener that may go away without a word, as a killed process does."""
    listener = tcpconn.listen(address, **options)
    try:
        yield listener
    finally:
        listener.close(0)


def kill(listener: tcpconn.Listener) -> None:
    """Ends a listener as if its process were killed: nobody hears of it."""
    listener._greeter.close()
    for multiplexer in listener.multiplexers:
        break_link(multiplexer)
    for multiplexer in listener.multiplexers + listener.detached:
        wait_until(lambda m=multiplexer: m.detached or m.closed, "the link is not noticed")
        multiplexer.abort()


@pytest.mark.parametrize("side", ["client", "server"])
def test_nobody_notices(side: str, link: str) -> None:
    events = Events()
    with (
        tcpconn.serve(echo, ANY, link=link) as server,
        tcpconn.ConnectionPool(link=link, on_state=events) as pool,
        pool.connect(server.address) as connection,
    ):
        multiplexer = multiplexer_of(connection)
        for number in range(10):
            connection.send(noise(number * 10_000, number))
            if side == "client":
                break_link(multiplexer)
            else:
                wait_until(lambda: bool(server.listener.multiplexers), "the link is not there")
                break_link(server.listener.multiplexers[0])
            connection.send(b"behind it")
            assert connection.receive(PATIENCE) == noise(number * 10_000, number)
            assert connection.receive(PATIENCE) == b"behind it"
            events.wait("resumed", number + 1)
        assert connection.multiplexer is multiplexer
        assert connection.state == "open"
    assert set(events.names) == {"lost", "resumed"}


@pytest.mark.parametrize("size", [0, 100, 64 * KIB, 5 * MIB])
def test_in_the_middle_of_streams(size: int, link: str) -> None:
    """Both ways at once, on several connections, while the link breaks again and again."""
    count = 50 if size < MIB else 6
    with tcpconn.listen(ANY, link=link) as listener, tcpconn.ConnectionPool(link=link) as pool:
        opened = [pool.connect(listener.address) for _ in range(4)]
        accepted = {}
        for connection in opened:
            connection.send(b"hello")
            other = listener.accept(PATIENCE)
            accepted[other.id] = other
        pairs = [(connection, accepted[connection.id]) for connection in opened]

        def send(connection: tcpconn.Connection) -> None:
            for number in range(count):
                connection.send(noise(size, number), PATIENCE)

        def receive(connection: tcpconn.Connection) -> None:
            for number in range(count):
                assert connection.receive(PATIENCE) == noise(size, number)

        for _, other in pairs:
            assert other.receive(PATIENCE) == b"hello"
        work = [
            Background(lambda side=side, do=do: do(side))
            for ends in pairs
            for side in ends
            for do in (send, receive)
        ]
        multiplexer = multiplexer_of(opened[0])
        session = multiplexer.key.session

        def is_done() -> bool:
            return all(background.done for background in work)

        for _ in range(30):
            before = session.taken, session.acked
            if not is_done():
                break_link(multiplexer)
                # Links that break before they were of any use are redialled ever more slowly.
                wait_until(
                    lambda before=before: is_done() or (session.taken, session.acked) != before,
                    "nothing goes on",
                )
        for background in work:
            background.result()
        for ends in pairs:
            for side in ends:
                side.flush(PATIENCE)
                assert side.stats().messages_sent >= count


def test_flush_and_close_wait_for_the_next_link(link: str) -> None:
    with tcpconn.listen(ANY, link=link) as listener, tcpconn.ConnectionPool(link=link) as pool:
        connection = pool.connect(listener.address)
        connection.send(noise(5 * MIB))
        accepted = listener.accept(PATIENCE)
        flushing = Background(lambda: connection.flush(PATIENCE)).asleep()
        break_link(multiplexer_of(connection))
        assert accepted.receive(PATIENCE) == noise(5 * MIB)
        flushing.result()
        connection.send(b"last")
        break_link(multiplexer_of(connection))
        connection.close(PATIENCE)
        assert list(accepted) == [b"last"]


def test_ping_waits_for_the_next_link(link: str) -> None:
    with tcpconn.serve(echo, ANY, link=link) as server, tcpconn.ConnectionPool(link=link) as pool:
        connection = pool.connect(server.address)  # a session with none is not kept
        break_link(multiplexer_of(connection))
        assert multiplexer_of(connection).ping(PATIENCE) > 0


def test_receive_into_and_views(link: str) -> None:
    """A receiver's own buffer, in the middle of which the link breaks."""
    with tcpconn.listen(ANY, link=link) as listener, tcpconn.ConnectionPool(link=link) as pool:
        connection = pool.connect(listener.address)
        connection.send(b"hello")
        accepted = listener.accept(PATIENCE)
        accepted.receive(PATIENCE)
        buffer = bytearray(5 * MIB)
        for number in range(5):
            receiving = Background(lambda: accepted.receive_into(buffer, PATIENCE)).asleep()
            connection.send(noise(5 * MIB, number))
            break_link(multiplexer_of(connection))
            assert receiving.result() == 5 * MIB
            assert buffer == noise(5 * MIB, number)
        connection.send(b"view")
        break_link(multiplexer_of(connection))
        with accepted.receive_view(PATIENCE) as view:
            assert bytes(view) == b"view"


class TestFail:
    def test_at_once(self, link: str) -> None:
        """`on_disconnect="fail"`: nobody waits, and nothing is lost."""
        with (
            silent_server(link=link) as listener,
            tcpconn.ConnectionPool(link=link, on_disconnect="fail") as pool,
        ):
            connection = pool.connect(listener.address)
            connection.send(b"before")
            accepted = listener.accept(PATIENCE)
            connection.flush(PATIENCE)
            receiving = Background(connection.receive).asleep()
            listener._greeter._admission.most = 0  # nobody gets in
            break_link(multiplexer_of(connection))
            error = receiving.error()
            assert type(error) is tcpconn.LinkLost
            assert "nothing is lost" in str(error)
            with pytest.raises(tcpconn.LinkLost):
                connection.send(b"x")
            with pytest.raises(tcpconn.LinkLost):
                connection.receive(0)
            connection.flush(0)  # what was sent before is there
            assert connection.state == "without a link"
            listener._greeter._admission.most = 1000
            wait_until(lambda: not multiplexer_of(connection).detached, "no other link")
            connection.send(b"after")
            assert [accepted.receive(PATIENCE) for _ in range(2)] == [b"before", b"after"]

    @pytest.mark.plain
    def test_a_server_that_has_no_room_is_asked_again(
        self, link: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "tcpconn")
        with (
            silent_server(link=link) as listener,
            tcpconn.ConnectionPool(link=link) as pool,
        ):
            connection = pool.connect(listener.address)
            connection.send(b"before")
            accepted = listener.accept(PATIENCE)
            listener._greeter._admission.most = 0
            break_link(multiplexer_of(connection))
            wait_until(
                lambda: "places for links are taken (LIMIT)" in caplog.text, "it was not refused"
            )
            listener._greeter._admission.most = 1000
            connection.send(b"after")
            assert [accepted.receive(PATIENCE) for _ in range(2)] == [b"before", b"after"]


class TestLoss:
    def test_a_restarted_server(self, link: str) -> None:
        """Each connection hears of it once, with every message; then it works again."""
        events = Events()
        address = f"127.0.0.1:{unused_port()}"
        with tcpconn.ConnectionPool(link=link, on_state=events) as pool:
            with silent_server(address, link=link) as listener:
                connections = [pool.connect(address) for _ in range(3)]
                accepted = []
                for number, connection in enumerate(connections):
                    connection.send(b"taken")
                    connection.flush(PATIENCE)
                    accepted.append(listener.accept(PATIENCE))
                    accepted[-1].send(b"unread %d" % number)
                    accepted[-1].flush(PATIENCE)
                kill(listener)
                events.wait("lost")
                for connection in connections:
                    connection.send(b"too late")
                    connection.send(noise(200 * KIB))
            with tcpconn.serve(echo, address, link=link):
                events.wait("renewed")
                for number, connection in enumerate(connections):
                    with pytest.raises(tcpconn.SessionLost, match=address) as caught:
                        connection.send(b"x")
                    assert caught.value.acked == 1
                    kept = caught.value.in_doubt + caught.value.unsent
                    assert kept == [b"too late", noise(200 * KIB)]
                    assert connection.receive(0) == b"unread %d" % number
                    connection.send(b"again")
                    assert connection.receive(PATIENCE) == b"again"
                    assert connection.state == "open"

    def test_a_large_message_waits_for_the_new_session(self, link: str) -> None:
        """Before its server has said what it takes, nothing is refused as too large."""
        address = f"127.0.0.1:{unused_port()}"
        with tcpconn.ConnectionPool(link=link) as pool:
            with silent_server(address, link=link) as listener:
                connection = pool.connect(address)
                kill(listener)
                multiplexer = multiplexer_of(connection)
                redialler = multiplexer._redialler
                assert redialler is not None
                redialler.stop()
                wait_until(lambda: multiplexer.key.lose("gone", True), "the loss is not noticed")
            with pytest.raises(tcpconn.SessionLost):
                connection.send(noise(200 * KIB))
            with pytest.raises(tcpconn.Timeout):
                connection.send(noise(200 * KIB), 0)
            with pytest.raises(tcpconn.MessageTooLarge):
                connection.send(noise(17 * MIB), 0)
            multiplexer.abort()

    def test_flush_does_not_return_when_another_is_told(self, link: str) -> None:
        address = f"127.0.0.1:{unused_port()}"
        with tcpconn.ConnectionPool(link=link) as pool:
            with silent_server(address, link=link) as listener:
                connection = pool.connect(address)
                kill(listener)
                connection.send(b"in vain")
                calls = [Background(lambda: connection.flush(PATIENCE)).asleep() for _ in range(3)]
            with tcpconn.serve(echo, address, link=link):
                told = [call.error() for call in calls]
                assert all(isinstance(error, tcpconn.LinkLost) for error in told)
                lost = [error for error in told if isinstance(error, tcpconn.SessionLost)]
                assert [error.in_doubt + error.unsent for error in lost] == [[b"in vain"]]

    def test_who_waits_is_told(self, link: str) -> None:
        address = f"127.0.0.1:{unused_port()}"
        with tcpconn.ConnectionPool(link=link) as pool:
            with silent_server(address, link=link) as listener:
                waiting, full, flushing = (pool.connect(address) for _ in range(3))
                receiver = Background(lambda: waiting.receive(PATIENCE)).asleep()
                sent = fill(full, noise(100 * KIB))
                sender = Background(lambda: full.send(noise(100 * KIB), PATIENCE)).asleep()
                kill(listener)
                flushing.send(b"x")
                flusher = Background(lambda: flushing.flush(PATIENCE)).asleep()
            with tcpconn.serve(echo, address, link=link):
                assert isinstance(receiver.error(), tcpconn.SessionLost)
                error = sender.error()
                assert isinstance(error, tcpconn.SessionLost)
                assert error.acked + len(error.in_doubt) + len(error.unsent) == sent
                error = flusher.error()
                assert isinstance(error, tcpconn.SessionLost)
                assert error.in_doubt + error.unsent == [b"x"]

    def test_closing_when_it_is_lost(self, link: str) -> None:
        address = f"127.0.0.1:{unused_port()}"
        with tcpconn.ConnectionPool(link=link) as pool:
            with silent_server(address, link=link) as listener:
                connection, done = pool.connect(address), pool.connect(address)
                done.send(b"taken")
                done.flush(PATIENCE)
                kill(listener)
                connection.send(b"too late")
                closing = Background(lambda: connection.close(PATIENCE)).asleep()
            with tcpconn.serve(echo, address, link=link):
                error = closing.error()
                assert isinstance(error, tcpconn.SessionLost)
                assert error.in_doubt + error.unsent == [b"too late"]
                done.close(PATIENCE)

    def test_a_server_gives_up(self, link: str, caplog: pytest.LogCaptureFixture) -> None:
        events = Events()
        with (
            caplog.at_level(logging.INFO, "tcpconn"),
            tcpconn.listen(ANY, link=link, session_timeout=0.05, on_state=events) as listener,
            tcpconn.ConnectionPool(link=link) as pool,
        ):
            connection = pool.connect(listener.address)
            connection.send(b"unread")
            accepted = listener.accept(PATIENCE)
            accepted.send(b"taken")
            assert connection.receive(PATIENCE) == b"taken"
            connection.flush(PATIENCE)
            accepted.flush(PATIENCE)
            multiplexer_of(connection)._redialler.stop()  # type: ignore[union-attr]
            break_link(multiplexer_of(connection))
            events.wait("lost")
            accepted.send(b"in vain")
            events.wait("expired")
            assert accepted.receive(PATIENCE) == b"unread"
            with pytest.raises(tcpconn.SessionLost, match="no link for") as caught:
                accepted.receive(PATIENCE)
            assert (caught.value.acked, caught.value.in_doubt) == (1, [])
            assert caught.value.unsent == [b"in vain"]
            with pytest.raises(tcpconn.LinkLost) as again:
                accepted.send(b"x")
            assert not isinstance(again.value, tcpconn.SessionLost)
            assert listener.detached == []
            multiplexer_of(connection).abort()
        assert "is over" in caplog.text

    @pytest.mark.blocking("it is the redialler who gives up, and takes its time")
    def test_a_client_gives_up_until_it_is_used_again(
        self, link: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # What failed before it gave up does not keep it from dialling at once when it is used.
        for name in ("PAUSE", "LONGEST_PAUSE", "STABLE"):
            monkeypatch.setattr(tcpconn.redial, name, 1000.0)
        events = Events()
        address = f"127.0.0.1:{unused_port()}"
        with tcpconn.ConnectionPool(link=link, session_timeout=0.1, on_state=events) as pool:
            with silent_server(address, link=link) as listener:
                connection = pool.connect(address)
                connection.send(b"taken")
                connection.flush(PATIENCE)
                kill(listener)
                events.wait("expired")
            with pytest.raises(tcpconn.SessionLost, match=r"no link for 0\.1 s"):
                connection.receive(PATIENCE)
            with tcpconn.serve(echo, address, link=link):

                def sent() -> bool:
                    try:
                        connection.send(b"again", PATIENCE)
                    except tcpconn.SessionLost:
                        raise
                    except tcpconn.LinkLost:
                        return False  # a tenth of a second may be over before there is a link
                    return True

                wait_until(sent, "there is no other link")
                assert connection.receive(PATIENCE) == b"again"

    def test_without_a_session_timeout_the_link_is_all(self, link: str) -> None:
        with (
            tcpconn.serve(echo, ANY, link=link) as server,
            tcpconn.ConnectionPool(link=link, session_timeout=0) as pool,
        ):
            connection = pool.connect(server.address)
            connection.send(b"x")
            assert connection.receive(PATIENCE) == b"x"
            break_link(multiplexer_of(connection))
            with pytest.raises(tcpconn.LinkLost):
                connection.receive(PATIENCE)
            with pool.connect(server.address) as another:
                another.send(b"y")
                assert another.receive(PATIENCE) == b"y"


@pytest.mark.blocking("it is the listener who closes")
def test_a_link_that_is_lost_while_its_listener_closes(
    link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can come back to that session either."""
    options = {"link": link, "session_timeout": PATIENCE}
    with (
        contextlib.closing(tcpconn.listen(ANY, **options)) as listener,
        tcpconn.ConnectionPool(link=link, session_timeout=0) as pool,
        tcpconn.ConnectionPool(link=link, session_timeout=0) as other_pool,
    ):
        clients = [each.connect(listener.address) for each in (pool, other_pool)]
        accepted = [listener.accept(PATIENCE) for _ in clients]
        first, second = (multiplexer_of(connection) for connection in accepted)

        def lose(multiplexer: tcpconn.Multiplexer) -> None:
            break_link(multiplexer)
            wait_until(lambda: multiplexer.detached, "its loss is not noticed")

        abort = first.abort

        def abort_and_lose_the_other() -> None:
            abort()
            lose(second)

        monkeypatch.setattr(first, "abort", abort_and_lose_the_other)
        lose(first)
        listener.close()
        assert first.closed
        assert second.closed
        for connection in clients:
            connection.abort()


class TestConnecting:
    def test_waits_for_the_link_that_is_being_made(self, link: str) -> None:
        with (
            tcpconn.serve(echo, ANY, link=link) as server,
            tcpconn.ConnectionPool(link=link) as pool,
            pool.connect(server.address) as connection,
        ):
            for _ in range(5):
                break_link(multiplexer_of(connection))
                with pool.connect(server.address) as another:
                    another.send(b"x")
                    assert another.receive(PATIENCE) == b"x"
                    assert another.multiplexer is connection.multiplexer

    @pytest.mark.blocking("it is the redialler who says it, and takes its time")
    def test_says_why_there_is_none(self, link: str) -> None:
        address = f"127.0.0.1:{unused_port()}"
        with tcpconn.ConnectionPool(link=link) as pool, silent_server(address, link=link) as there:
            connection = pool.connect(address)
            connection.send(b"x")
            there.accept(PATIENCE)
            kill(there)
            multiplexer = multiplexer_of(connection)
            wait_until(lambda: multiplexer.detached, "the loss is not noticed")
            redialler = multiplexer._redialler
            assert redialler is not None
            wait_until(lambda: redialler.last_error is not None, "nobody has dialled")
            with pytest.raises(tcpconn.ConnectError, match=address):
                pool.connect(address, timeout=0.05)
            multiplexer.abort()  # nobody is there who would acknowledge the message


def ask(address: str, request: bytes) -> tuple[int, bytes]:
    """What a listener answers to a first frame: its type and payload."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
        sock.sendall(PREFACE + request)
        data = b""
        while more := sock.recv(4096):
            data += more
            frames, _ = decode_frames(data[8:])
            if frames:
                return frames[0][0], frames[0][4]
    raise AssertionError(f"no answer but {data!r}")


class TestWhoAsks:
    """A listener believes nobody who does not know the session's secret."""

    @pytest.fixture
    def connection(self, link: str) -> Iterator[tcpconn.Connection]:
        with (
            tcpconn.serve(echo, ANY, link=link) as server,
            tcpconn.ConnectionPool(link=link) as pool,
            pool.connect(server.address) as connection,
        ):
            connection.send(b"x")
            assert connection.receive(PATIENCE) == b"x"
            yield connection
            connection.send(b"unharmed")
            assert connection.receive(PATIENCE) == b"unharmed"

    def request(self, connection: tcpconn.Connection, **changed: Any) -> Resume:
        session = multiplexer_of(connection).key.session
        fields = {
            "session_id": session.session_id,
            "epoch": session.epoch + 1,
            "received": session.taken,
            "proof": b"",
        }
        return Resume(**{**fields, **changed})

    def signed(self, connection: tcpconn.Connection, **changed: Any) -> bytes:
        session = multiplexer_of(connection).key.session
        request = self.request(connection, **changed)
        return request.signed(session.secret or b"", session.server_nonce, False).frame(False)

    @pytest.mark.plain
    @pytest.mark.parametrize("wrong", ["secret", "nonce", "id", "side"])
    def test_a_wrong_proof(self, wrong: str, connection: tcpconn.Connection) -> None:
        session = multiplexer_of(connection).key.session
        secret = bytes(32) if wrong == "secret" else session.secret or b""
        nonce = bytes(16) if wrong == "nonce" else session.server_nonce
        changed = {"session_id": bytes(16)} if wrong == "id" else {}
        request = self.request(connection, **changed).signed(secret, nonce, wrong == "side")
        kind, payload = ask(connection.peer_address, request.frame(False))
        assert (kind, payload[:4]) == (3, b"\0\0\0\x0b")

    @pytest.mark.plain
    def test_an_old_request_again(self, connection: tcpconn.Connection) -> None:
        break_link(multiplexer_of(connection))
        connection.send(b"y")
        assert connection.receive(PATIENCE) == b"y"
        epoch = multiplexer_of(connection).key.session.epoch
        assert epoch > 0
        kind, payload = ask(connection.peer_address, self.signed(connection, epoch=epoch))
        assert (kind, payload[:4]) == (3, b"\0\0\0\x07")

    @pytest.mark.plain
    def test_one_bit_is_wrong(self, connection: tcpconn.Connection) -> None:
        *proof, last = self.signed(connection)
        kind, payload = ask(connection.peer_address, bytes([*proof, last ^ 1]))
        assert (kind, payload[:4]) == (3, b"\0\0\0\x0b")


@pytest.mark.plain
@pytest.mark.blocking("a loop lets go of the link later: the right one may come before that")
def test_one_who_has_what_was_not_sent_is_refused(link: str) -> None:
    """And the session is kept for the right one."""
    with tcpconn.serve(echo, ANY, link=link) as server, tcpconn.ConnectionPool(link=link) as pool:
        connection = pool.connect(server.address)
        connection.send(b"x")
        assert connection.receive(PATIENCE) == b"x"
        multiplexer = multiplexer_of(connection)
        # The right one loses its link by this, and is not to come back before the answer.
        multiplexer.key.keep(lambda: None)
        session = multiplexer.key.session
        request = Resume(session.session_id, multiplexer.key.next_epoch(), 1 << 40, b"")
        request = request.signed(session.secret or b"", session.server_nonce, False)
        kind, payload = ask(server.address, request.frame(False))
        assert (kind, payload[:4]) == (3, b"\0\0\0\x06")
        redialler = multiplexer._redialler
        assert redialler is not None
        multiplexer.key.keep(redialler.lost)
        redialler.again()
        connection.send(b"y")
        assert connection.receive(PATIENCE) == b"y"


class TestKept:
    def test_no_more_sessions_than_allowed(self, link: str) -> None:
        events = Events()
        with tcpconn.listen(ANY, link=link, max_detached=2, on_state=events) as listener:
            pools = [tcpconn.ConnectionPool(link=link) for _ in range(4)]
            accepted = []
            for number, pool in enumerate(pools):
                connection = pool.connect(listener.address)
                connection.send(b"x")
                accepted.append(listener.accept(PATIENCE))
                multiplexer = multiplexer_of(connection)
                multiplexer._redialler.stop()  # type: ignore[union-attr]
                break_link(multiplexer)
                events.wait("lost", number + 1)
            events.wait("expired", 2)
            assert len(listener.detached) == 2
            for pool in pools:
                pool.close(0)

    def test_no_more_bytes_than_allowed(self, link: str) -> None:
        events = Events()
        with tcpconn.listen(
            ANY, link=link, max_detached_bytes=100 * KIB, on_state=events
        ) as listener:
            pools = [tcpconn.ConnectionPool(link=link) for _ in range(2)]
            unread = []
            for number, pool in enumerate(pools):
                connection = pool.connect(listener.address)
                connection.send(noise(60 * KIB))
                connection.flush(PATIENCE)
                unread.append(listener.accept(PATIENCE))
                multiplexer = multiplexer_of(connection)
                multiplexer._redialler.stop()  # type: ignore[union-attr]
                break_link(multiplexer)
                events.wait("lost", number + 1)
            events.wait("expired")
            assert len(listener.detached) == 1
            for pool in pools:
                pool.close(0)

    @pytest.mark.plain
    def test_nor_of_messages_that_are_not_whole(self, link: str) -> None:
        """What a peer has begun counts too, and its connections."""
        events = Events()
        with tcpconn.listen(
            ANY, link=link, max_detached_bytes=100 * KIB, on_state=events
        ) as listener:
            with RawPeer(listener.address) as peer:
                peer.open(1)
                peer.say(peer.writer.first(1, 1 << 20, bytes(60 * KIB)))
                for _ in range(3):
                    peer.say(peer.writer.middle(1, bytes(60 * KIB)))
                peer.say(wire.ping(1))
                peer.until(wire.PONG)
            events.wait("expired")
            assert not listener.detached


class TestSilence:
    @pytest.mark.plain
    def test_a_frozen_peer_counts_as_lost(self, link: str) -> None:
        """It takes what is sent, and says nothing, not even when asked."""
        events = Events()
        with socket.create_server(("127.0.0.1", 0)) as frozen:
            frozen.settimeout(PATIENCE)
            port = frozen.getsockname()[1]

            def be_frozen() -> socket.socket:
                sock, _ = frozen.accept()
                hello = sock.recv(4096)
                _, end = 0, len(hello)
                assert end
                from tcpconn._frame import decode_hello, encode_hello

                fields = decode_hello(hello[24:])
                welcome = encode_hello(
                    session_id=fields["session_id"],
                    nonce=bytes(16),
                    secret=bytes(32),
                    welcome=True,
                )
                sock.sendall(PREFACE + welcome)
                return sock

            serving = Background(be_frozen)
            multiplexer = tcpconn.Multiplexer(
                f"127.0.0.1:{port}",
                link=link,
                keepalive=0.05,
                keepalive_timeout=0.2,
                session_timeout=1,
                on_state=events,
            )
            connection = multiplexer.open()
            connection.send(b"anybody there?")
            events.wait("lost")
            assert multiplexer.detached
            multiplexer.abort()
            serving.result().close()

    def test_a_peer_with_nothing_to_say_is_not_lost(self, link: str) -> None:
        events = Events()
        options: dict[str, Any] = {
            "link": link,
            "keepalive": 0.02,
            "keepalive_timeout": 10,
            "on_state": events,
        }
        with (
            tcpconn.serve(echo, ANY, **options) as server,
            tcpconn.ConnectionPool(**options) as pool,
        ):
            connection = pool.connect(server.address)
            connection.send(b"x")
            assert connection.receive(PATIENCE) == b"x"
            before = multiplexer_of(connection).stats().frames_received
            wait_until(
                lambda: multiplexer_of(connection).stats().frames_received > before + 10,
                "nobody asks",
            )
            assert events.names == []


def test_closing_without_a_link(link: str) -> None:
    """With nothing to be acknowledged, nobody is waited for."""
    address = f"127.0.0.1:{unused_port()}"
    with tcpconn.ConnectionPool(link=link) as pool, silent_server(address, link=link) as listener:
        connection = pool.connect(address)
        connection.send(b"x")
        connection.flush(PATIENCE)
        multiplexer = multiplexer_of(connection)
        kill(listener)
        wait_until(lambda: multiplexer.detached, "the loss is not noticed")
        began = time.monotonic()
        multiplexer.close(PATIENCE)
        assert multiplexer.closed
        assert time.monotonic() - began < PATIENCE
        with pytest.raises(tcpconn.ConnectionClosed):
            connection.send(b"y")


@pytest.mark.plain
def test_a_blocking_handshake_is_the_same(link: str) -> None:
    """A peer written on `handshake` alone gets its session back."""
    with tcpconn.serve(echo, ANY, link=link) as server, tcpconn.ConnectionPool(link=link) as pool:
        connection = pool.connect(server.address)
        connection.send(b"x")
        assert connection.receive(PATIENCE) == b"x"
        session = multiplexer_of(connection).key.session
        redialler = multiplexer_of(connection)._redialler
        assert redialler is not None
        redialler.stop()
        host, port = server.address.split(":")
        with socket.create_connection((host, int(port))) as sock:
            request = Resume(session.session_id, session.epoch + 1, session.taken, b"")
            steps = handshake.resume(request, session.secret or b"", session.server_nonce)
            answer = handshake.run(steps, sock, time.monotonic() + PATIENCE)
            assert answer.received <= session.stats()["sequence"]
        multiplexer_of(connection).abort()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux has it")
def test_the_kernel_gives_up_a_peer_that_takes_nothing(link: str) -> None:
    """After as long as it may be silent, on both sides, and on the next link too."""
    options: dict[str, Any] = {"link": link, "keepalive_timeout": 25}
    with tcpconn.serve(echo, ANY, **options) as server, tcpconn.ConnectionPool(**options) as pool:
        connection = pool.connect(server.address)
        for _ in range(2):
            connection.send(b"x")
            assert connection.receive(PATIENCE) == b"x"
            for multiplexer in (multiplexer_of(connection), server.listener.multiplexers[0]):
                sock = multiplexer.key.link.socket
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 25_001
            break_link(multiplexer_of(connection))
