"""Which link a listener gives to a session that has none, whatever order things come in."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tcpconn.sessions
import wire
from support import PATIENCE
from tcpconn.handshake import Resume
from tcpconn.options import Options
from tcpconn.sessions import Sessions

SECRET, NONCE, NAME = b"s" * 32, b"n" * 16, b"i" * 16


class Session:
    """What is asked of a session."""

    session_id, secret, server_nonce, taken = NAME, SECRET, NONCE, 0
    begins = False


class Engine:
    """A driver, of which the test says when it has let go of its link."""

    def __init__(self) -> None:
        self.session = Session()
        self.is_loose = False
        self.epoch = 0
        self.local_address = ""
        self.held_bytes = 0

    def unlink(self, epoch: int) -> bool:
        later = epoch > self.epoch
        self.epoch = max(epoch, self.epoch)
        return later

    def may_resume(self, received: int) -> bool:
        return True


class Multiplexer:
    """One whose session is kept."""

    def __init__(self) -> None:
        self.key = Engine()
        self.peer_address = "a peer"
        self.closed = False


class Listener:
    """The thread of a listener: what it is called for waits until `run`."""

    def __init__(self) -> None:
        self.multiplexer = Multiplexer()
        self.key = self.multiplexer.key
        self.calls: list[Callable[[], None]] = []
        self.sessions = Sessions(Options())
        self.sessions.begun(self.multiplexer)  # type: ignore[arg-type]
        self.sessions.call = self.calls.append
        self.alarms: list[Callable[[], None]] = []
        self.sessions.call_at = lambda when, call: self.alarms.append(call)
        self.attached: list[socket.socket] = []
        self.sockets: list[socket.socket] = []

    def attach(self, engine: Engine, link: socket.socket, received: int) -> bool:
        if not engine.is_loose:
            link.close()
            return False
        engine.is_loose = False
        self.attached.append(link)
        return True

    def detached(self) -> None:
        """The session has lost its link, and the listener is still to hear of it."""
        self.key.is_loose = True
        self.sessions.detached(self.multiplexer)  # type: ignore[arg-type]

    def run(self) -> None:
        calls, self.calls[:] = list(self.calls), []
        for call in calls:
            call()

    def resume(self, epoch: int) -> socket.socket:
        """A client comes back; its end of the link."""
        near, far = socket.socketpair()
        near.settimeout(PATIENCE)
        self.sockets += [near, far]
        request = Resume(NAME, epoch, 0, b"").signed(SECRET, NONCE, False)
        self.sessions.resume(far, request)
        return near


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    listener = Listener()

    def same(stream: Any, *rest: Any) -> Any:
        return stream

    for name in ("make_link", "prepare_socket", "socket_of", "describe"):
        monkeypatch.setattr(tcpconn.sessions, name, same)
    monkeypatch.setattr(tcpconn.sessions, "attach_link", listener.attach)
    yield listener
    for sock in listener.sockets:
        sock.close()


def answer(sock: socket.socket) -> int:
    """The type of the first frame."""
    said = sock.recv(1000)
    assert said.startswith(wire.PREFACE)
    return said[12]


def code(sock: socket.socket) -> int:
    """Why it was refused."""
    said = sock.recv(1000)
    assert said[12] == wire.REJECT
    return wire.u32(said[24:])


def test_one_that_has_no_link_is_resumed_at_once(listener: Listener) -> None:
    listener.detached()
    listener.run()
    assert answer(listener.resume(1)) == wire.RESUMED
    assert len(listener.attached) == 1


def test_one_whose_link_is_not_gone_yet_waits_for_that(listener: Listener) -> None:
    peer = listener.resume(1)
    assert not listener.attached
    listener.detached()
    listener.run()
    assert answer(peer) == wire.RESUMED
    assert len(listener.attached) == 1


def test_the_end_of_an_earlier_link_is_not_that_of_a_later_one(listener: Listener) -> None:
    listener.detached()
    first = listener.resume(1)  # before the listener hears of the loss
    assert answer(first) == wire.RESUMED
    second = listener.resume(2)  # that link is broken already
    listener.run()
    assert len(listener.attached) == 1
    listener.detached()
    listener.run()
    assert answer(second) == wire.RESUMED
    assert len(listener.attached) == 2


def test_the_latest_of_two_that_wait_is_taken(listener: Listener) -> None:
    first, second = listener.resume(1), listener.resume(2)
    assert first.recv(1) == b""
    listener.detached()
    listener.run()
    assert answer(second) == wire.RESUMED


def test_an_earlier_one_that_comes_late_harms_nobody(listener: Listener) -> None:
    second = listener.resume(2)
    assert code(listener.resume(1)) == wire.STATE
    listener.detached()
    listener.run()
    assert answer(second) == wire.RESUMED


def test_a_session_that_ends_meanwhile_is_unknown(listener: Listener) -> None:
    peer = listener.resume(1)
    listener.multiplexer.closed = True
    listener.sessions.ended(listener.multiplexer)  # type: ignore[arg-type]
    listener.run()
    assert code(peer) == wire.UNKNOWN_SESSION


def test_one_that_has_ended_is_unknown(listener: Listener) -> None:
    listener.multiplexer.closed = True
    listener.key.epoch = 7
    assert code(listener.resume(7)) == wire.UNKNOWN_SESSION


def test_who_waits_when_the_listener_closes_is_let_go_of(listener: Listener) -> None:
    peer = listener.resume(1)
    listener.sessions.close()
    assert peer.recv(1) == b""


def test_one_that_has_ended_is_not_found_any_more(listener: Listener) -> None:
    assert listener.resume(1).fileno() >= 0  # it is known by its id now
    listener.detached()
    listener.run()
    listener.sessions.ended(listener.multiplexer)  # type: ignore[arg-type]
    listener.run()
    assert code(listener.resume(2)) == wire.UNKNOWN_SESSION


def test_one_whose_greeting_is_not_here_is_not_found_yet(listener: Listener) -> None:
    listener.key.session.begins = True
    assert code(listener.resume(1)) == wire.UNKNOWN_SESSION
    listener.key.session.begins = False
    listener.detached()
    listener.run()
    assert answer(listener.resume(1)) == wire.RESUMED


def test_two_of_one_id_are_told_apart_by_their_secrets(listener: Listener) -> None:
    """A client chooses the id: another's, if it has heard of it."""
    thief = Multiplexer()
    thief.key.session.secret = bytes(32)
    listener.sessions.begun(thief)  # type: ignore[arg-type]
    listener.detached()
    listener.run()
    assert answer(listener.resume(1)) == wire.RESUMED
    assert listener.attached
    assert thief.key.epoch == 0


def test_however_often_a_session_is_detached_one_alarm_is_enough(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is to come later holds what it is about: a client could have it hold any amount."""
    now = 1000.0
    monkeypatch.setattr("tcpconn.sessions.time.monotonic", lambda: now)
    lost: list[str] = []
    listener.key.lose = lambda why, renew: lost.append(why)  # type: ignore[attr-defined]
    for epoch in range(1, 10):
        listener.detached()
        listener.run()
        listener.resume(epoch)
    assert len(listener.alarms) == 1
    now += 59
    listener.detached()
    listener.run()
    now += 2
    listener.alarms.pop(0)()
    assert not lost
    now += 60
    listener.alarms.pop(0)()
    assert lost
    assert not listener.alarms
