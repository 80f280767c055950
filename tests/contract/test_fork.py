"""fork(): the child starts with nothing, and does not disturb its parent."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from support import PATIENCE

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here"),
    pytest.mark.blocking("an event loop does not survive a fork"),
]

PRELUDE = """
import os, signal, sys, threading, warnings
import tcpconn

warnings.simplefilter("ignore", DeprecationWarning)  # fork() with threads, on purpose
link = sys.argv[1]
PATIENCE = float(sys.argv[2])


def echo(connection):
    for message in connection:
        connection.send(message)


def ask(connection, message):
    connection.send(message, PATIENCE)
    assert connection.receive(PATIENCE) == message


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{call} did not raise {kind}")


def in_child(function):
    # Runs it in a child, and raises when it failed there.
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        signal.alarm(int(PATIENCE))  # one that hangs does not stay
        try:
            function()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, "the child has failed"


# Not in this process: the child's new connection needs a server that outlives fork().
address = sys.argv[3]
"""

SERVER = """
import sys
import tcpconn


def echo(connection):
    for message in connection:
        connection.send(message)


with tcpconn.serve(echo, "127.0.0.1:0", link=sys.argv[1]) as server:
    print(server.address, flush=True)
    sys.stdin.read()
"""


def run(link: str, script: str) -> None:
    """Runs a script in a process of its own, with a server in another."""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", SERVER, link],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        try:
            done = subprocess.run(
                [
                    sys.executable,
                    "-P",
                    "-c",
                    PRELUDE + textwrap.dedent(script),
                    link,
                    str(PATIENCE),
                    address,
                    SERVER,
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        finally:
            server.communicate(timeout=PATIENCE)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "passed", done.stdout


def test_connections_from_before(link: str) -> None:
    """They raise at once in the child, and go on in the parent."""
    run(
        link,
        """
        connection = tcpconn.connect(address, link=link)
        ask(connection, b"before")

        def child():
            closed = tcpconn.ConnectionClosed
            raises(closed, lambda: connection.send(b"from the child"))
            raises(closed, lambda: connection.send(bytes(1 << 20)))
            raises(closed, lambda: connection.send_parts([b"from", b"the child"]))
            raises(closed, lambda: connection.send_many([b"from", b"the child"]))
            raises(closed, connection.receive)
            raises(closed, lambda: connection.receive_into(bytearray(10)))
            raises(closed, connection.receive_view)
            raises(closed, connection.receive_many)
            raises(closed, connection.flush)
            assert list(connection) == []
            assert connection.closed
            connection.close()
            connection.abort()

        for number in range(3):
            in_child(child)
            ask(connection, b"after %d" % number)
            ask(connection, bytes(1 << 20))
        connection.close()
        print("passed")
        """,
    )


def test_multiplexers_and_listeners_from_before(link: str) -> None:
    run(
        link,
        """
        multiplexer = tcpconn.Multiplexer(address, link=link)
        connection = multiplexer.open()
        ask(connection, b"before")
        listener = tcpconn.listen("127.0.0.1:0", link=link)

        def child():
            raises(tcpconn.ConnectionClosed, multiplexer.open)
            raises(tcpconn.ConnectionClosed, multiplexer.accept)
            raises(tcpconn.ConnectionClosed, multiplexer.ping)
            assert multiplexer.closed
            repr(multiplexer), repr(connection), repr(listener)

        in_child(child)
        ask(connection, b"after")
        assert multiplexer.ping(PATIENCE) > 0
        with tcpconn.connect(listener.address, link=link) as client:
            client.send(b"to the parent's listener")
            with listener.accept(PATIENCE) as accepted:
                assert accepted.receive(PATIENCE) == b"to the parent's listener"
        listener.close()
        multiplexer.close()
        print("passed")
        """,
    )


def test_new_connections_in_the_child(link: str) -> None:
    """By the default pool, whose link from before is the parent's, and by one of its own."""
    run(
        link,
        """
        connection = tcpconn.connect(address, link=link)
        pool = tcpconn.ConnectionPool(link=link)
        other = pool.connect(address)
        ask(connection, b"before")
        ask(other, b"before")

        def child():
            with tcpconn.connect(address, link=link) as new:
                ask(new, b"from the child")
                ask(new, bytes(1 << 20))
            with tcpconn.ConnectionPool(link=link) as mine, mine.connect(address) as new:
                ask(new, b"from the child")
            with pool.connect(address) as new:
                ask(new, b"from the child")
            with tcpconn.serve(echo, "127.0.0.1:0", link=link) as server:
                with tcpconn.connect(server.address, link=link) as new:
                    ask(new, b"within the child")
            tcpconn.default_pool().close()

        in_child(child)
        in_child(lambda: in_child(child))
        ask(connection, b"after")
        ask(other, b"after")
        connection.close()
        other.close()
        pool.close()
        print("passed")
        """,
    )


def test_while_threads_are_at_work(link: str) -> None:
    """Whatever lock another thread holds at that moment, the child does not wait for it."""
    run(
        link,
        """
        connections = [tcpconn.connect(address, link=link) for _ in range(4)]
        stop = threading.Event()
        failures = []

        def work(connection):
            number = 0
            try:
                while not stop.is_set():
                    ask(connection, bytes(number % 7 * 30000))
                    number += 1
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(each,)) for each in connections]
        for thread in threads:
            thread.start()

        def child():
            for connection in connections:
                raises(tcpconn.ConnectionClosed, lambda: connection.send(b"from the child"))
                raises(tcpconn.ConnectionClosed, connection.multiplexer.ping)
            with tcpconn.connect(address, link=link) as new:
                ask(new, b"from the child")

        try:
            for _ in range(10):
                in_child(child)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not failures, failures
        for connection in connections:
            ask(connection, b"after")
            connection.close()
        print("passed")
        """,
    )


def test_a_child_that_ends_in_the_usual_way(link: str) -> None:
    """What the interpreter destroys at its end does not close the parent's link."""
    run(
        link,
        """
        connection = tcpconn.connect(address, link=link)
        multiplexer = tcpconn.Multiplexer(address, link=link)
        on_it = multiplexer.open()
        ask(connection, b"before")
        ask(on_it, b"before")
        pid = os.fork()
        if pid == 0:
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        ask(connection, b"after")
        ask(on_it, b"after")
        connection.close()
        multiplexer.close()
        print("passed")
        """,
    )


def test_ids_are_not_given_twice(link: str) -> None:
    """Random ones are made in stock: what is left of it stays with the parent."""
    run(
        link,
        """
        def some_ids():
            with tcpconn.ConnectionPool(link=link) as pool:
                return {pool.connect(address).id.bytes for _ in range(8)}

        reading, writing = os.pipe()
        mine = some_ids()
        in_child(lambda: os.write(writing, b"".join(some_ids())))
        mine |= some_ids()
        theirs = os.read(reading, 8 * 16)
        assert len(theirs) == 8 * 16 and len(mine) == 16
        assert not mine & {theirs[at:at + 16] for at in range(0, len(theirs), 16)}
        print("passed")
        """,
    )


def test_while_threads_are_about_to_hear_of_an_end(link: str) -> None:
    """In the whole process only a few are on their way to it at a time: in the child, nobody is."""
    run(
        link,
        """
        import subprocess
        CROWD = 30

        def crowd(address):
            multiplexer = tcpconn.Multiplexer(address, link=link, on_disconnect="fail")
            connections = [multiplexer.open() for _ in range(CROWD)]
            for connection in connections:
                ask(connection, b"here")
            heard = threading.Semaphore(0)

            def wait(connection):
                raises((tcpconn.ConnectionClosed, tcpconn.LinkLost), connection.receive)
                heard.release()

            for connection in connections:
                threading.Thread(target=wait, args=[connection], daemon=True).start()
            return multiplexer, heard

        def await_all(heard):
            for _ in range(CROWD):
                assert heard.acquire(timeout=PATIENCE)

        def child():
            multiplexer, heard = crowd(address)
            multiplexer.abort()
            await_all(heard)

        server = subprocess.Popen(
            [sys.executable, "-P", "-c", sys.argv[4], link],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        multiplexer, heard = crowd(server.stdout.readline().strip())
        sys.setswitchinterval(PATIENCE)     # whoever is woken gets no further while we work
        os.kill(server.pid, signal.SIGKILL)
        for _ in range(3_000_000):
            pass
        in_child(child)
        await_all(heard)
        multiplexer.abort()
        server.communicate()
        print("passed")
        """,
    )
