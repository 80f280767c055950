"""The ends of whole processes: what the interpreter is left with, and what their peers see."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

import tcpconn
from support import ANY, PATIENCE, echo, noise

pytestmark = pytest.mark.blocking("runs programs that are written for threads")

SENDS_AND_LEAVES = """
import sys
import tcpconn
connection = tcpconn.connect(sys.argv[1], link=sys.argv[2])
for number in range(200):
    connection.send(number.to_bytes(4, "big") + bytes(1000))
connection.send(bytes(3_000_000))
"""

LEAVES_ALL_OPEN = """
import sys
import threading
import tcpconn

link = sys.argv[2]
inside = threading.Semaphore(0)

def wait(call):
    def run():
        inside.release()
        try:
            call()
        except ConnectionError:
            pass
    threading.Thread(target=run, daemon=True).start()
    inside.acquire()

def handle(connection):
    for message in connection:
        connection.send(message)

listener = tcpconn.listen("127.0.0.1:0", link=link)
server = tcpconn.serve(handle, "127.0.0.1:0", link=link)
pool = tcpconn.ConnectionPool(link=link)
wait(listener.accept)
for address in (sys.argv[1], server.address):
    for _ in range(3):
        connection = pool.connect(address)
        connection.send(b"hello")
        assert connection.receive(10) == b"hello"
        wait(connection.receive)
        wait(lambda send=connection.send: [send(bytes(10000)) for _ in range(10000)])
default = tcpconn.connect(sys.argv[1], link=link)
default.send(b"hello")
assert default.receive(10) == b"hello"
wait(default.receive)
"""

WAITS_TO_BE_KILLED = """
import sys
import tcpconn
connection = tcpconn.connect(sys.argv[1], link=sys.argv[2])
connection.send(b"here I am")
connection.receive()
"""

FAILS = """
import sys
import tcpconn
connection = tcpconn.connect(sys.argv[1], link=sys.argv[2])
connection.send(b"last words")
raise SystemExit(3)
"""

WATCHES_MEMORY = """
import sys
import threading
import tracemalloc
tracemalloc.start()
import tcpconn

link = sys.argv[2]

def echo(connection):
    for message in connection:
        connection.send(message)

def come_and_go():
    for _ in range(50):
        with pool.connect(server.address) as connection:
            connection.send(bytes(100_000))
            assert len(connection.receive(20)) == 100_000

pool = tcpconn.ConnectionPool(link=link)
with tcpconn.serve(echo, "127.0.0.1:0", link=link) as server, pool:
    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def run(script: str, address: str, link: str, code: int = 0) -> None:
    """Runs a script to its end. It has nothing to say."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, address, link],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.decode()) == (code, b"", "")


def test_what_was_sent_last_is_delivered(link: str, listener: tcpconn.Listener) -> None:
    """The pool of the process is closed in order at its end."""
    run(SENDS_AND_LEAVES, listener.address, link)
    with listener.accept(PATIENCE) as connection:
        received = list(connection)
    assert [int.from_bytes(message[:4], "big") for message in received[:-1]] == list(range(200))
    assert len(received[-1]) == 3_000_000


def test_an_exit_in_the_middle(link: str, listener: tcpconn.Listener) -> None:
    run(FAILS, listener.address, link, code=3)
    with listener.accept(PATIENCE) as connection:
        assert list(connection) == [b"last words"]


@pytest.mark.parametrize("again", range(3))
def test_everything_is_left_open(again: int, link: str, echo_server: tcpconn.Server) -> None:
    """Threads wait, send and are served while the interpreter ends: it ends all the same."""
    run(LEAVES_ALL_OPEN, echo_server.address, link)


def test_a_peer_that_is_killed(link: str) -> None:
    ended = threading.Semaphore(0)
    errors: list[Exception] = []

    def handler(connection: tcpconn.Connection) -> None:
        if connection.receive() != b"here I am":
            echo(connection)
            return
        try:
            ended.release()
            connection.receive()
        except tcpconn.LinkLost as error:
            errors.append(error)
        ended.release()

    with (
        # The peer could come back, for all that the server knows.
        tcpconn.serve(handler, ANY, link=link, session_timeout=0.05) as server,
        tcpconn.ConnectionPool(link=link) as pool,
        pool.connect(server.address) as another,
    ):
        another.send(b"echo")
        for _ in range(3):
            with subprocess.Popen(
                [sys.executable, "-P", "-c", WAITS_TO_BE_KILLED, server.address, link]
            ) as process:
                assert ended.acquire(timeout=PATIENCE)
                process.kill()
            assert ended.acquire(timeout=PATIENCE)
            another.send(noise(1000))
            assert another.receive(PATIENCE) == noise(1000)
    assert len(errors) == 3


def test_importing_is_all_it_takes_to_be_quiet(link: str) -> None:
    run("import tcpconn", "", link)
    run("import tcpconn; tcpconn.default_pool()", "", link)


def test_tracemalloc_waits_for_nobody(link: str) -> None:
    """It wants the GIL for each piece of memory that is taken from Python's allocators without it,
    and the GIL may be with who waits for one of our locks.
    """
    run(WATCHES_MEMORY, "", link)
