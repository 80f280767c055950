"""Every limit, one past it, from a peer that means no good.

What it gets, what is logged, that it costs little memory here, and that others are served on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tcpconn
import wire
from rawpeer import RawPeer
from support import ANY, KIB, MIB, PATIENCE, Background, echo, fill, noise, tcp_pair, wait_until
from tcpconn._buffer import block_pool

Serve = Callable[..., tcpconn.Server]


@pytest.fixture
def serve(link: str, caplog: pytest.LogCaptureFixture) -> Iterator[Serve]:
    """Makes an echo server, which must serve an honest client before, while and after."""
    caplog.set_level(logging.DEBUG)
    with contextlib.ExitStack() as stack:
        honest: list[tcpconn.Connection] = []

        def serve(
            handler: Callable[[tcpconn.Connection], object] = echo, **options: float
        ) -> tcpconn.Server:
            server = stack.enter_context(tcpconn.serve(handler, ANY, link=link, **options))
            pool = stack.enter_context(tcpconn.ConnectionPool(link=link))
            honest.append(stack.enter_context(pool.connect(server.address)))
            served_on(honest[0])
            return server

        yield serve
        for connection in honest:
            served_on(connection)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def served_on(connection: tcpconn.Connection) -> None:
    """A message there and back."""
    connection.send(noise(1000))
    assert connection.receive(PATIENCE) == noise(1000)


def warnings(caplog: pytest.LogCaptureFixture) -> str:
    """What was logged as a warning; the end of a link is logged when it has been let go of."""
    found: list[str] = []

    def look() -> bool:
        found[:] = [each.message for each in caplog.records if each.levelno == logging.WARNING]
        return bool(found)

    wait_until(look, "nothing was logged")
    return "\n".join(found)


@pytest.fixture(autouse=True)
def _loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """No warning is held back."""
    monkeypatch.setattr("tcpconn.grumbling.QUIET_SECONDS", 0.0)
    monkeypatch.setattr("tcpconn.multiplexer.faults._quiet_until", 0.0)


def resident() -> int:
    """This process's memory now, in bytes."""
    with Path("/proc/self/status").open() as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def held_by_sessions() -> int:
    """What is in use of the memory that sessions have, in bytes."""
    stats = block_pool().stats()
    return stats["allocated_bytes"] - stats["free_bytes"]


TIMES = 2 if "ASAN_OPTIONS" in os.environ else 1
"""A sanitizer keeps what was freed, for a while."""


class TestFrames:
    """The sizes of single frames and messages: the link ends before anything is taken for them."""

    @pytest.mark.parametrize("size", [256 * KIB + 1, 0x7FFFFFFF, 0xFFFFFFFF])
    def test_frame(self, size: int, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
        with RawPeer(serve().address) as peer:
            peer.open()
            header = struct.pack(">IBBHII", size, wire.DATA, wire.FIRST | wire.LAST, 0, 1, 1)
            peer.say(header)
            code, text = peer.farewell()
        assert code == wire.FRAME_SIZE
        assert "frame" in text
        logged = warnings(caplog)
        assert str(size) in logged
        assert str(256 * KIB) in logged

    @pytest.mark.parametrize("size", [16 * MIB + 1, 1 << 62, (1 << 64) - 1])
    def test_message(self, size: int, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
        before = resident()
        with RawPeer(serve().address) as peer:
            peer.open()
            peer.say(peer.writer.first(1, size, noise(1024)))
            code, _ = peer.farewell()
            assert code == wire.MESSAGE_SIZE
            logged = warnings(caplog)
            assert str(size) in logged
            assert str(16 * MIB) in logged
        assert resident() - before < 16 * MIB * TIMES

    @pytest.mark.parametrize("size", [0, 1, 1023])
    def test_chunk(self, size: int, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
        with RawPeer(serve().address) as peer:
            peer.open()
            peer.say(peer.writer.first(1, MIB, noise(1024)), peer.writer.middle(1, noise(size)))
            code, text = peer.farewell()
        assert code == wire.MALFORMED
        assert "short" in text
        assert "limit 1024" in warnings(caplog)

    def test_hello(self, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
        size = 4096 - (len(wire.hello()) - 16) - 4
        server = serve()
        with RawPeer(
            server.address, wire.PREFACE + wire.hello(more=wire.tag(99, bytes(size)))
        ) as peer:
            peer.until(wire.WELCOME)
        long = wire.PREFACE + wire.hello(more=wire.tag(99, bytes(size + 1)))
        with RawPeer(server.address, long) as peer:
            code, _ = peer.farewell()
        assert code == wire.FRAME_SIZE
        assert "4097, limit 4096" in warnings(caplog)


class TestConnections:
    def test_open_at_once(self, serve: Serve) -> None:
        with RawPeer(serve(max_connections=3).address) as peer:
            for route in range(1, 6):
                peer.open(route)
            refused = [peer.until(wire.RESET, wire.PEER) for _ in range(2)]
            assert [frame.route for frame in refused] == [4, 5]
            assert {wire.u32(frame.payload) for frame in refused} == {wire.LIMIT}
            # The link and the others on it go on.
            peer.say(peer.writer.whole(3, b"still here"))
            assert peer.until(wire.DATA).payload == b"still here"

    def test_not_accepted_yet(self, link: str) -> None:
        with (
            tcpconn.listen(ANY, link=link, max_unaccepted=2) as listener,
            RawPeer(listener.address) as peer,
        ):
            for route in range(1, 4):
                peer.open(route)
            refusal = peer.until(wire.RESET, wire.PEER)
            assert (refusal.route, wire.u32(refusal.payload)) == (3, wire.LIMIT)
            for _ in range(2):
                listener.accept(PATIENCE).close()

    def test_refused_and_never_ended(self, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
        """A flood of OPENs by one who does not care for the answer."""
        before = resident()
        with RawPeer(serve(max_connections=1).address) as peer:
            flooding = Background(
                lambda: [peer.open(route) for route in range(1, 10_000)], "test-flood"
            )
            code, _ = peer.farewell()
            flooding.result()
        assert code == wire.LIMIT
        assert "refused" in warnings(caplog)
        assert resident() - before < 32 * MIB * TIMES

    def test_handlers(self, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
        """One link takes a quarter of the handlers that are free, and leaves the rest."""
        server = serve(max_handlers=40, session_timeout=0)
        with contextlib.ExitStack() as stack:
            counts = []
            for _ in range(6):
                peer = stack.enter_context(RawPeer(server.address))
                for route in range(1, 21):
                    peer.open(route)
                    peer.say(peer.writer.whole(route, b"here"))
                answers: dict[int, bool] = {}
                for frame in peer.frames():
                    if frame.type == wire.OPEN:
                        answers[int.from_bytes(frame.payload[:16])] = True
                    elif frame.type == wire.RESET and frame.flags == wire.PEER:
                        assert wire.u32(frame.payload) == wire.LIMIT
                        answers[frame.route] = False
                    if len(answers) == 20:
                        break
                counts.append(sum(answers.values()))
        # The honest client has one.
        assert counts[0] == 9
        assert all(0 < count <= counts[0] for count in counts)
        assert "handlers" in warnings(caplog)

    def test_broken_off(self, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
        with RawPeer(serve(max_unaccepted=2000).address) as peer:
            for route in range(1, 1300):
                peer.open(route)
                peer.say(peer.writer.reset(route))
            code, text = peer.farewell()
        assert code == wire.LIMIT
        assert "broken off" in text
        assert "broken off" in warnings(caplog)


class TestMemory:
    def test_of_a_connection(self, link: str, caplog: pytest.LogCaptureFixture) -> None:
        """More than its credit, to one who does not read."""
        with (
            tcpconn.listen(ANY, link=link) as listener,
            RawPeer(listener.address) as peer,
        ):
            peer.open()
            peer.say(*(peer.writer.whole(1, noise(16_000)) for _ in range(17)))
            code, text = peer.farewell()
            assert code == wire.CREDIT_CODE
            assert "route" in text
            assert str(256 * KIB) in warnings(caplog)

    def test_of_a_session(self, link: str, caplog: pytest.LogCaptureFixture) -> None:
        options = {"session_credit": MIB, "max_message_size": 512 * KIB, "link": link}
        with (
            tcpconn.listen(ANY, connection_credit=MIB, **options) as listener,
            RawPeer(listener.address) as peer,
        ):
            peer.open(1)
            peer.open(2)
            for _ in range(40):
                peer.say(*(peer.writer.whole(route, noise(16_000)) for route in (1, 2)))
            code, text = peer.farewell()
            assert code == wire.CREDIT_CODE
            assert "session" in text
            assert str(MIB) in warnings(caplog)

    def test_of_the_process(self, link: str) -> None:
        """Many links fill the budget with messages that they never end. Others are served."""
        hogs = 40
        options = {"session_credit": 4 * MIB, "max_message_size": 2 * MIB, "link": link}
        before = resident()
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(
                tcpconn.serve(echo, ANY, receive_memory=20 * MIB, message_timeout=60.0, **options)
            )
            for _ in range(hogs):
                peer = stack.enter_context(RawPeer(server.address))
                peer.until(wire.WELCOME)
                # As large as their credit for it; most will not be read.
                peer.sock.setblocking(False)
                for route in (1, 2):
                    with contextlib.suppress(BlockingIOError):
                        peer.sock.send(peer.writer.open(route, route.to_bytes(16, "big")))
                        peer.sock.send(peer.writer.first(route, 2 * MIB, noise(200 * KIB)))
            pool = stack.enter_context(tcpconn.ConnectionPool(link=link))
            honest = stack.enter_context(pool.connect(server.address))
            for _ in range(200):
                served_on(honest)
            counted = block_pool().stats()["counted_bytes"]
            assert counted <= 20 * MIB
            assert resident() - before < 64 * MIB * TIMES

    @pytest.mark.parametrize("ended_here", [False, True])
    def test_of_a_session_that_is_over(self, ended_here: bool, link: str) -> None:
        """While its connections are held here, only what can be received is kept."""
        options = {"session_timeout": 0, "connection_credit": 4 * MIB, "link": link}
        with tcpconn.listen(ANY, **options) as listener, RawPeer(listener.address) as peer:
            before = held_by_sessions()
            for route in (1, 2):
                peer.open(route)
            accepted = [listener.accept(PATIENCE) for _ in range(2)]
            [multiplexer] = listener.multiplexers
            # To be sent, and never acknowledged: small and large messages, copied and referenced.
            for connection in accepted:
                connection.send(noise(100), PATIENCE)
                connection.send(bytearray(MIB), PATIENCE)
            # One to be received, and one that stops in the middle of a chunk.
            said = peer.writer.whole(2, b"to be received")
            said += b"".join(peer.writer.chunks(1, noise(4 * MIB), 128 * KIB)[:12])[: -64 * KIB]
            peer.say(said)
            wait_until(lambda: multiplexer.stats().bytes_received >= len(said), "it does not come")
            assert held_by_sessions() - before > MIB
            if ended_here:
                multiplexer.abort()
            else:
                peer.close()
            wait_until(lambda: not listener.multiplexers, "the link is not let go of")
            assert accepted[1].receive(PATIENCE) == b"to be received"
            assert held_by_sessions() <= before
            for connection in accepted:
                assert connection.multiplexer.stats().queued_bytes == 0
                with pytest.raises((tcpconn.LinkLost, tcpconn.ConnectionClosed)):
                    connection.flush(PATIENCE)
                with pytest.raises((tcpconn.LinkLost, tcpconn.ConnectionClosed)):
                    connection.receive(PATIENCE)

    def test_who_breaks_a_rule_leaves_nothing_to_be_accepted(self, link: str) -> None:
        """Else such peers could have more and more of it held here."""
        with (
            tcpconn.listen(ANY, link=link) as listener,
            tcpconn.ConnectionPool(link=link) as pool,
        ):
            with RawPeer(listener.address) as peer:
                peer.open()
                peer.say(peer.writer.whole(1, b"not to be heard"), b"\xff" * 16)
                peer.farewell()
            wait_until(lambda: not listener.multiplexers, "the link stays")
            with pool.connect(listener.address) as connection:
                connection.send(b"the next")
                with listener.accept(PATIENCE) as accepted:
                    assert accepted.receive(PATIENCE) == b"the next"
            with pytest.raises(tcpconn.Timeout):
                listener.accept(0)

    @pytest.mark.timeout(120)
    def test_of_the_process_leaves_room_for_large_messages(self, link: str) -> None:
        """Those hold all they may, and others' large messages pass both ways all the same."""
        budget = 128 * MIB
        options = {"session_credit": 16 * MIB, "max_message_size": 6 * MIB, "link": link}
        options["session_timeout"] = 0  # the handlers of those who went are not to wait for them
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(
                tcpconn.serve(echo, ANY, receive_memory=budget, message_timeout=60.0, **options)
            )
            hogs = [stack.enter_context(RawPeer(server.address)) for _ in range(40)]
            unsent = {}
            for hog in hogs:
                hog.until(wire.WELCOME)
                hog.sock.setblocking(False)
                # Two messages, of which all comes but the end.
                frames = [hog.writer.open(route, route.to_bytes(16, "big")) for route in (1, 2)]
                frames += [hog.writer.first(route, 6 * MIB, noise(64 * KIB)) for route in (1, 2)]
                frames += [hog.writer.middle(1 + n % 2, noise(64 * KIB)) for n in range(2 * 94)]
                unsent[hog] = memoryview(b"".join(frames))
            pool = stack.enter_context(tcpconn.ConnectionPool(link=link))
            honest = stack.enter_context(pool.connect(server.address))

            def send_on() -> None:
                for hog, rest in unsent.items():
                    with contextlib.suppress(OSError):
                        while rest := rest[hog.sock.send(rest) :]:
                            pass
                    unsent[hog] = rest

            def is_full() -> bool:
                send_on()
                return block_pool().stats()["counted_bytes"] > budget * 11 // 16

            wait_until(is_full, "they do not fill it")
            for size in (200 * KIB, 5 * MIB) * 2:
                send_on()
                honest.send(noise(size), PATIENCE)
                assert honest.receive(PATIENCE) == noise(size)
            # What the client, in the same process, holds is counted along.
            assert block_pool().stats()["counted_bytes"] <= budget + 16 * MIB

    def test_of_what_is_sent(self, link: str) -> None:
        """A peer that reads and acknowledges nothing: senders wait, and hold no more than that."""
        with (
            tcpconn.listen(ANY, link=link) as listener,
            RawPeer(
                listener.address,
                wire.PREFACE + wire.hello(route_credit=1 << 40, session_credit=1 << 40),
            ) as peer,
        ):
            peer.open()
            connection = listener.accept(PATIENCE)
            reading = Background(lambda: sum(len(frame.payload) for frame in peer.frames()))
            assert 100 < fill(connection, noise(100 * KIB)) < 170
            connection.multiplexer.abort()
            reading.result()


def test_answers_that_are_not_read(serve: Serve) -> None:
    """A peer that makes us answer and does not read: it is not read from either, and then heard."""
    with RawPeer(serve(max_connections=1, max_control_frames=100).address) as peer:
        # It has little room for what it is told.
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opens = [peer.writer.open(n, n.to_bytes(16, "big")) for n in range(1, 3000)]
        flooding = Background(lambda: peer.say(*opens))
        refused = 0
        for frame in peer.frames():
            refused += frame.type == wire.RESET
            if refused == len(opens) - 1:
                break
        flooding.result()


class TestPings:
    def test_flood(self, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
        with RawPeer(serve().address) as peer:
            for token in range(10):
                peer.say(wire.ping(token))
                assert wire.u64(peer.until(wire.PONG).payload) == token
            peer.say(*(wire.ping(token) for token in range(100)))
            code, text = peer.farewell()
        assert code == wire.LIMIT
        assert "PING" in text
        assert "PING" in warnings(caplog)

    def test_ours_never_come_to_that(self, link: str) -> None:
        """What one side's `ping`, `flush` and `close` send, the other takes."""
        with (
            tcpconn.serve(echo, ANY, link=link) as server,
            tcpconn.Multiplexer(server.address, link=link) as multiplexer,
            multiplexer.open() as connection,
        ):
            for _ in range(9):
                assert multiplexer.ping(PATIENCE) > 0
            for _ in range(200):
                connection.send(b"x")
                connection.flush(PATIENCE)
                with multiplexer.open() as short:
                    short.send(b"y")
            for _ in range(200):
                assert connection.receive(PATIENCE) == b"x"


def test_many_connections_are_aborted(link: str) -> None:
    """What one side aborts, the other takes, however many: it hears of some a little later."""
    count = 2000
    with (
        tcpconn.listen(ANY, link=link, max_unaccepted=count) as listener,
        tcpconn.Multiplexer(listener.address, link=link) as multiplexer,
    ):
        connections = [multiplexer.open() for _ in range(count)]
        for connection in connections:
            connection.send(b"x")
        accepted = [listener.accept(PATIENCE) for _ in range(count)]
        for connection in connections:
            connection.abort()
        # The first are told at once.
        wait_until(
            lambda: sum(each.state == "reset by peer" for each in accepted) >= 200,
            "the peer does not hear of it",
        )
        assert not multiplexer.closed
        for connection in accepted:
            connection.close()


class TestMessagesThatDoNotGoOn:
    def test_end_their_link(self, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
        with RawPeer(serve(message_timeout=0.2).address) as peer:
            peer.open()
            peer.say(peer.writer.first(1, MIB, noise(1024)))
            stop = threading.Event()

            def live() -> None:
                while not stop.wait(0.01):
                    peer.say(wire.ack(0))

            living = Background(live)
            code, text = peer.farewell()
            stop.set()
            living.result()
        assert code == wire.TIMEOUT
        assert "go on" in text
        assert str(MIB - 1024) in warnings(caplog)

    def test_on_a_silent_link(self, serve: Serve) -> None:
        with RawPeer(serve(message_timeout=0.1).address) as peer:
            peer.open()
            peer.say(peer.writer.first(1, MIB, noise(1024)))
            code, _ = peer.farewell()
        assert code == wire.TIMEOUT

    def test_tell_their_receiver(self, link: str) -> None:
        near, far = tcp_pair()
        with (
            tcpconn.Multiplexer(far, link=link, message_timeout=0.1) as multiplexer,
            RawPeer(near) as peer,
        ):
            peer.open()
            peer.say(peer.writer.first(1, MIB, noise(1024)))
            connection = multiplexer.accept(PATIENCE)
            with pytest.raises(tcpconn.ProtocolError, match="go on") as caught:
                connection.receive()
            assert caught.value.code == wire.TIMEOUT
            assert not isinstance(caught.value, TimeoutError)


class TestLinks:
    def test_together(self, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
        server = serve(max_links=4)
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(RawPeer(server.address)).until(wire.WELCOME)
            code, text = self.refused(server)
            assert (code, text) == (wire.LIMIT, "all 4 places for links are taken")
            assert "all 4 places for links are taken" in warnings(caplog)
        # The places of those that went are free again.
        self.admitted(server)

    def test_from_one_address(self, serve: Serve) -> None:
        server = serve(max_links_per_address=3)
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(RawPeer(server.address)).until(wire.WELCOME)
            code, text = self.refused(server)
            assert code == wire.LIMIT
            assert "all 3 places for links from 127.0.0.1 are taken" in text
        self.admitted(server)

    def test_a_client_is_told(self, serve: Serve, link: str) -> None:
        server = serve(max_links=1)
        with pytest.raises(tcpconn.ProtocolError, match=r"all 1 places.*LIMIT"):
            tcpconn.Multiplexer(server.address, link=link)

    def test_those_that_say_nothing_count(self, serve: Serve) -> None:
        server = serve(max_links=3)
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                sock = stack.enter_context(RawPeer(server.address, b"T"))
            assert self.refused(server)[0] == wire.LIMIT
            assert sock.sock.fileno() > 0
        self.admitted(server)

    def test_those_that_left_something_to_be_accepted_count(self, link: str) -> None:
        """Else who comes and goes could have more and more of it held here."""
        with (
            tcpconn.listen(ANY, link=link, max_links=5, max_links_per_address=3) as listener,
        ):
            for number in range(3):
                with tcpconn.Multiplexer(listener.address, link=link) as multiplexer:
                    for _ in range(2):
                        with multiplexer.open() as connection:
                            connection.send(b"%d" % number)
            wait_until(lambda: not listener.multiplexers, "a link stays")
            assert self.refused(listener) == (
                wire.LIMIT,
                "all 3 places for links from 127.0.0.1 are taken",
            )
            heard = []
            for _ in range(3):
                with listener.accept(PATIENCE) as accepted:
                    heard.append(accepted.receive(PATIENCE))
            assert sorted(heard) == [b"0", b"1", b"2"]  # each has one left
            assert self.refused(listener)[0] == wire.LIMIT
            for _ in range(3):
                listener.accept(PATIENCE).close()
            self.admitted(listener)

    def refused(self, server: tcpconn.Server | tcpconn.Listener) -> tuple[int, str]:
        """What one more is told."""
        with RawPeer(server.address, b"") as peer:
            return peer.farewell()

    def admitted(self, server: tcpconn.Server | tcpconn.Listener) -> None:
        """One more is served, at the latest when the others' ends have been noticed."""

        def try_it() -> bool:
            with RawPeer(server.address) as peer:
                return next(peer.frames()).type == wire.WELCOME

        wait_until(try_it, "nobody is admitted any more")
