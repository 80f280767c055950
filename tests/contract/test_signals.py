"""Ctrl-C: a signal handler that raises ends any wait, and nothing is lost by it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tcpconn
from support import (
    KIB,
    MIB,
    PATIENCE,
    Background,
    Pair,
    fill,
    multiplexer_pair,
    noise,
    wait_until,
)

OVER_TLS = True

pytestmark = [
    pytest.mark.skipif(
        not hasattr(signal, "pthread_kill"), reason="there is no pthread_kill() here"
    ),
    pytest.mark.blocking("what a signal interrupts in a loop is the loop"),
]


class Interrupted(BaseException):
    """What the handler raises, as Ctrl-C raises KeyboardInterrupt."""


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    yield
    signal.signal(signal.SIGUSR1, before)


def interrupted(call: Callable[[], Any]) -> None:
    """Calls it in this, the main thread; another one sends the signal once this one sleeps."""
    main = threading.main_thread()
    assert threading.current_thread() is main
    assert main.ident is not None
    number = main.ident
    stat = Path(f"/proc/self/task/{main.native_id}/stat")
    inside = threading.Event()

    def send_signal() -> None:
        assert inside.wait(PATIENCE)
        seen = 0

        def sleeps() -> bool:
            nonlocal seen
            state = stat.read_text().rpartition(")")[2].split()[0]
            seen = seen + 1 if state == "S" else 0
            return seen >= 5

        try:
            if stat.exists():
                wait_until(sleeps, "the main thread should wait and goes on working")
        finally:
            signal.pthread_kill(number, signal.SIGUSR1)

    returned = threading.Event()

    def enter() -> None:
        inside.set()
        call()
        returned.set()
        sender.thread.join(PATIENCE)  # the signal must not come later, in the midst of something

    sender = Background(send_signal)
    with pytest.raises(Interrupted):
        enter()
    sender.result()
    assert not returned.is_set(), "it ended before it was interrupted"


def told_elsewhere(call: Callable[[], Any]) -> None:
    """Calls it in this, the main thread, where handlers run, while another one gets the signal."""
    waiting = threading.Event()

    def get_signal() -> None:
        assert waiting.wait(PATIENCE)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    def enter() -> None:
        waiting.set()
        call()

    getting = Background(get_signal)
    with pytest.raises(Interrupted):
        enter()
    getting.result()


def check(pair: Pair) -> None:
    """Both directions work."""
    for source, sink in (pair, (pair.server, pair.client)):
        for size in (10, 100 * KIB, 2 * MIB):
            sending = Background(lambda source=source, size=size: source.send(noise(size)))
            assert sink.receive(PATIENCE) == noise(size)
            sending.result()


RECEIVES: dict[str, Callable[[tcpconn.Connection], Any]] = {
    "receive": lambda connection: connection.receive(),
    "receive-timeout": lambda connection: connection.receive(PATIENCE),
    "receive_into": lambda connection: connection.receive_into(bytearray(3 * MIB)),
    "receive_view": lambda connection: connection.receive_view(),
    "receive_many": lambda connection: connection.receive_many(),
    "for": list,
}


def test_a_signal_that_interrupts_no_system_call(pair: Pair, listener: tcpconn.Listener) -> None:
    """It came while the thread was on its way to the next one, say."""
    told_elsewhere(pair.client.receive)
    fill(pair.client, noise(MIB))
    told_elsewhere(lambda: pair.client.send(noise(MIB)))
    told_elsewhere(lambda: listener.accept(2 * PATIENCE))


@pytest.mark.parametrize("how", RECEIVES)
def test_receive(how: str, pair: Pair) -> None:
    for _ in range(3):
        interrupted(lambda: RECEIVES[how](pair.client))
        check(pair)


@pytest.mark.parametrize("how", RECEIVES)
def test_receive_while_another_thread_reads_the_link(how: str, pair: Pair) -> None:
    other = Background(lambda: pair.client.receive(PATIENCE)).asleep()
    interrupted(lambda: RECEIVES[how](pair.client))
    pair.server.send(b"for the other")
    assert other.result() == b"for the other"
    check(pair)


@pytest.mark.parametrize("how", RECEIVES)
def test_the_reader_of_the_link_is_interrupted(how: str, pair: Pair) -> None:
    """Another thread takes over."""
    waiting = threading.Event()

    def wait_second() -> bytes:
        assert waiting.wait(PATIENCE)
        return pair.client.receive(PATIENCE)

    def wait_first() -> None:
        waiting.set()
        RECEIVES[how](pair.client)

    other = Background(wait_second)
    interrupted(wait_first)
    pair.server.send(b"for the other")
    assert other.result() == b"for the other"
    check(pair)


SENDS: dict[str, Callable[[tcpconn.Connection], Any]] = {
    "send": lambda connection: connection.send(noise(10 * KIB)),
    "send-copied": lambda connection: connection.send(bytearray(noise(10 * KIB))),
    "send-large": lambda connection: connection.send(noise(MIB)),
    "send_parts": lambda connection: connection.send_parts([noise(10), noise(10 * KIB)]),
    "send_many": lambda connection: connection.send_many([noise(10 * KIB)] * 3),
}


@pytest.mark.parametrize("how", SENDS)
def test_send(how: str, pair: Pair) -> None:
    """It was not sent, and what was sent before it arrives."""
    sent = fill(pair.client, noise(MIB))
    while True:
        try:
            pair.client.send(b"to the brim", timeout=0)
        except tcpconn.Timeout:
            break
    count = pair.client.stats().messages_sent
    for _ in range(3):
        interrupted(lambda: SENDS[how](pair.client))
        assert pair.client.stats().messages_sent == count
    for number in range(count):
        expected = noise(MIB) if number < sent else b"to the brim"
        assert pair.server.receive(PATIENCE) == expected
    with pytest.raises(tcpconn.Timeout):
        pair.server.receive(0)
    check(pair)


def test_flush(pair: Pair) -> None:
    sent = fill(pair.client, noise(MIB))
    for _ in range(3):
        interrupted(pair.client.flush)
    for _ in range(sent):
        assert pair.server.receive(PATIENCE) == noise(MIB)
    pair.client.flush(PATIENCE)
    check(pair)


def test_close(pair: Pair) -> None:
    """Whoever does not want to wait for it any longer can still let go of it."""
    fill(pair.client, noise(MIB))
    interrupted(lambda: pair.client.close(None))
    pair.client.abort()
    assert pair.client.closed


def test_accept_of_a_listener(listener: tcpconn.Listener, pool: tcpconn.ConnectionPool) -> None:
    for _ in range(3):
        interrupted(listener.accept)
        interrupted(lambda: next(iter(listener)))
        pair = Pair(pool.connect(listener.address), listener.accept(PATIENCE))
        check(pair)
        interrupted(listener.accept)
        check(pair)
        pair.client.close(PATIENCE)
        pair.server.close(PATIENCE)


def test_accept_of_a_multiplexer(link: str) -> None:
    with multiplexer_pair(link) as (client, server):
        for opening, accepting in ((client, server), (server, client)):
            for _ in range(3):
                interrupted(accepting.accept)
                pair = Pair(opening.open(), accepting.accept(PATIENCE))
                check(pair)
                pair.client.close(PATIENCE)
                pair.server.close(PATIENCE)


def test_wait_of_a_server(echo_server: tcpconn.Server, pool: tcpconn.ConnectionPool) -> None:
    interrupted(echo_server.wait)
    with pool.connect(echo_server.address) as connection:
        connection.send(b"still there?")
        assert connection.receive(PATIENCE) == b"still there?"


ECHO = """
import sys
import tcpconn


def echo(connection):
    for message in connection:
        connection.send(message)


with tcpconn.serve(echo, "127.0.0.1:0", link=sys.argv[1]) as server:
    print(server.address, flush=True)
    sys.stdin.read()
"""


@pytest.mark.plain
def test_ping(link: str) -> None:
    """Of a process that is stopped, and so does not answer."""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", ECHO, link],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            with tcpconn.Multiplexer(process.stdout.readline().strip(), link=link) as multiplexer:
                connection = multiplexer.open()
                assert multiplexer.ping(PATIENCE) > 0
                process.send_signal(signal.SIGSTOP)
                os.waitpid(process.pid, os.WUNTRACED)
                try:
                    for _ in range(3):
                        interrupted(multiplexer.ping)
                    connection.send(b"when you wake up")
                    interrupted(connection.flush)
                finally:
                    process.send_signal(signal.SIGCONT)
                assert multiplexer.ping(PATIENCE) > 0
                assert connection.receive(PATIENCE) == b"when you wake up"
                connection.close(PATIENCE)
        finally:
            process.communicate(timeout=PATIENCE)


# A handler that raises in a weak reference's callback is heard of by nobody but this warning.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("size", [100, 100 * KIB, 2 * MIB])
def test_signals_again_and_again(size: int, pair: Pair) -> None:
    """Each message is taken whole or not at all, and the counters say which."""
    count = 30
    stop = threading.Event()
    main = threading.main_thread().ident
    assert main is not None
    number_of_main: int = main
    handled = threading.Event()

    def handle(number: int, frame: Any) -> None:
        handled.set()
        # Only calls are to be interrupted, not the counting around them.
        if frame is not None and frame.f_code is call.__code__ and not stop.is_set():
            raise Interrupted

    def call(function: Callable[..., Any], *arguments: Any) -> None:
        function(*arguments)

    def storm() -> None:
        while not stop.is_set():
            handled.clear()
            signal.pthread_kill(number_of_main, signal.SIGUSR1)
            handled.wait(PATIENCE)
            stop.wait(0.0005)

    def echo() -> None:
        for number in range(count):
            assert pair.server.receive(PATIENCE) == noise(size, number)
            pair.server.send(noise(size, number), PATIENCE)

    echoing = Background(echo)
    signal.signal(signal.SIGUSR1, handle)
    storming = Background(storm)
    buffer = bytearray(size)
    try:
        for number in range(count):
            message = noise(size, number)
            while pair.client.stats().messages_sent == number:
                with contextlib.suppress(Interrupted):
                    call(pair.client.send, message, PATIENCE)
            assert pair.client.stats().messages_sent == number + 1
            while pair.client.stats().messages_received == number:
                with contextlib.suppress(Interrupted):
                    call(pair.client.receive_into, buffer, PATIENCE)
            assert pair.client.stats().messages_received == number + 1
            assert buffer == message
    finally:
        stop.set()
        handled.set()
        storming.result()
    echoing.result()
