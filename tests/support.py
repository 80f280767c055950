"""What the tests over real sockets share: threads that hand back results, bounded waits, leaks."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import ssl
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import pytest

import tcpconn

T = TypeVar("T")

ANY = "127.0.0.1:0"
KIB = 1 << 10
MIB = 1 << 20

PATIENCE = 30.0
"""Seconds that nothing here takes: only a hang gets there."""

SIZES = (
    0,
    1,
    1023,
    1024,
    4096,
    16 * KIB - 1,
    16 * KIB,
    16 * KIB + 1,
    64 * KIB - 50,
    64 * KIB - 49,
    64 * KIB - 48,
    64 * KIB - 16,
    64 * KIB - 1,
    64 * KIB,
    64 * KIB + 1,
    128 * KIB,
    MIB,
    5 * MIB,
    16 * MIB,
)
"""Around all that changes how a message travels: copied or referenced, whole or in chunks."""

_noise = random.Random(20260101).randbytes(4 * MIB)


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that differ at each place and for each seed. The same arguments give the same bytes."""
    start = (seed * 7919) % MIB
    if start + size <= len(_noise):
        return _noise[start : start + size]
    whole, rest = divmod(size, len(_noise) - start)
    return _noise[start:] * whole + _noise[start : start + rest]


CERTIFICATES = Path(__file__).parent / "certificates"


class OverTls(str):
    """A link class, by name, for tests that put TLS over it: see `conftest.link`."""

    __slots__ = ()


LINKS = ["native", "stdlib"] if sys.platform == "linux" else ["stdlib"]
if os.environ.get("TCPCONN_LINK"):
    LINKS = [os.environ["TCPCONN_LINK"]]


def link_kinds(metafunc: pytest.Metafunc) -> list[str]:
    """The link classes that a test runs for, and TLS over one in modules that say `OVER_TLS`.

    That is left out for tests marked `plain`, which have a plain socket at one end.
    """
    plain = any(metafunc.definition.iter_markers("plain"))
    over_tls = getattr(metafunc.module, "OVER_TLS", False) and not plain
    return LINKS + [OverTls(LINKS[0])] * over_tls


def link_id(kind: str) -> str:
    """What names it in a test's id."""
    return "tls" if isinstance(kind, OverTls) else kind


def server_context(certificate: str = "server", **settings: Any) -> ssl.SSLContext:
    """A server's context with one of our certificates; `settings` are attributes of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / f"{certificate}.pem")
    return with_settings(context, settings)


def client_context(authority: str = "authority", **settings: Any) -> ssl.SSLContext:
    """A client's context that trusts one of our authorities; `settings` are attributes of it."""
    context = ssl.create_default_context(cafile=str(CERTIFICATES / f"{authority}.pem"))
    return with_settings(context, settings)


def context_for_both_sides() -> ssl.SSLContext:
    """One that a client and a server can use alike; it checks nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS)
    context.load_cert_chain(CERTIFICATES / "server.pem")
    return context


def with_settings(context: ssl.SSLContext, settings: dict[str, Any]) -> ssl.SSLContext:
    for name, value in settings.items():
        setattr(context, name, value)
    return context


class Background(Generic[T]):
    """Runs a function in a thread of its own, and hands back what it returned or raised."""

    def __init__(self, function: Callable[[], T], name: str = "test-background") -> None:
        self._function = function
        self._value: list[T] = []
        self._error: BaseException | None = None
        self._running = threading.Event()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self._running.set()
        try:
            self._value.append(self._function())
        except BaseException as error:  # noqa: BLE001  - it is raised by `result`
            self._error = error

    @property
    def done(self) -> bool:
        """Whether the function has returned or raised."""
        return not self.thread.is_alive()

    def asleep(self) -> Background[T]:
        """Waits until the thread sleeps, as far as the platform can tell."""
        self._running.wait(PATIENCE)
        stat = Path(f"/proc/self/task/{self.thread.native_id}/stat")
        if not stat.exists():
            return self
        seen = 0

        def sleeps() -> bool:
            nonlocal seen
            try:
                state = stat.read_text().rpartition(")")[2].split()[0]
            except OSError:
                return True  # it has ended
            seen = seen + 1 if state == "S" else 0
            return seen >= 5

        wait_until(sleeps, "a thread that should wait goes on working")
        return self

    def at_work(self) -> Background[T]:
        """Waits until the thread has used so much processor time that it must be polling."""
        self._running.wait(PATIENCE)
        stat = Path(f"/proc/self/task/{self.thread.native_id}/stat")
        if stat.exists():
            wait_until(lambda: used(stat) >= 5, "a thread that should poll does nothing")
        return self

    def result(self, timeout: float = PATIENCE) -> T:
        """What the function returned. Raises what it raised."""
        self.thread.join(timeout)
        if self.thread.is_alive():
            frame = sys._current_frames().get(self.thread.ident or 0)
            raise AssertionError(f"{self._function} does not end; it is at {frame}")
        if self._error is not None:
            raise self._error
        return self._value[0]

    def error(self, timeout: float = PATIENCE) -> BaseException:
        """What the function raised."""
        try:
            value = self.result(timeout)
        except AssertionError:
            raise
        except BaseException as error:  # noqa: BLE001  - it is what was asked for
            return error
        raise AssertionError(f"it returned {value!r} and did not raise")


def used(stat: Path) -> int:
    """The processor time of a thread, in the kernel's ticks, which are 10 ms."""
    fields = stat.read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


_never = threading.Event()


def wait_until(condition: Callable[[], bool], otherwise: str | Callable[[], str]) -> None:
    """Waits for what there is no event for. Fails with `otherwise` when it never comes true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(otherwise() if callable(otherwise) else otherwise)
        _never.wait(0.001)


def in_time(connect: Callable[[], T]) -> T:
    """What `connect` gives. A busy machine may need some attempts for a short handshake_timeout."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return connect()
        except tcpconn.LinkLost:
            if time.monotonic() > deadline:
                raise


def open_descriptors() -> dict[str, str]:
    """This process's descriptors and what they are; empty where the platform does not tell."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found[entry.name] = str(Path(entry.path).readlink())
    # The descriptor that the listing itself needed.
    return {number: target for number, target in found.items() if "/fd" not in target}


def tcpconn_threads() -> set[threading.Thread]:
    """The threads that tcpconn has made."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("tcpconn")}


class Pair(NamedTuple):
    """The two ends of one connection."""

    client: tcpconn.Connection
    server: tcpconn.Connection


def echo(connection: tcpconn.Connection) -> None:
    """Sends back what it receives, to the end."""
    for message in connection:
        connection.send(message)


def fill(connection: tcpconn.Connection, message: bytes) -> int:
    """Sends until there is no room, and returns how often."""
    return fill_with(connection, lambda number: message)


def fill_with(connection: tcpconn.Connection, message: Callable[[int], bytes]) -> int:
    """Sends `message(0)`, `message(1)` … until there is no room, and returns how many."""
    sent = 0
    written = -1
    surely = False
    while True:
        try:
            connection.send(message(sent), timeout=0.02)
            sent += 1
            surely = False
        except tcpconn.Timeout:
            if surely:
                return sent
            multiplexer = connection.multiplexer
            assert multiplexer is not None
            before, written = written, multiplexer.stats().bytes_sent
            if written == before:  # nothing is under way either, that would make room
                # It may be, if the peer is slow: its answer comes behind what it makes room with.
                with contextlib.suppress(tcpconn.Timeout):
                    multiplexer.ping(1.0)
                surely = True


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two TCP sockets that are connected to each other."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname(), timeout=PATIENCE)
        far, _ = server.accept()
    far.settimeout(PATIENCE)
    return near, far


@contextlib.contextmanager
def multiplexer_pair(
    link: str, **options: Any
) -> Iterator[tuple[tcpconn.Multiplexer, tcpconn.Multiplexer]]:
    """A client's and a server's multiplexer on one link."""
    near, far = tcp_pair()
    # Through TLS, neither is there before the other.
    accepted = Background(lambda: tcpconn.Multiplexer(far, link=link, **options))
    with contextlib.ExitStack() as ends:
        client = tcpconn.Multiplexer(near, client=True, link=link, **options)
        ends.callback(client.abort)
        server = accepted.result()
        ends.callback(server.abort)
        yield client, server


def break_link(multiplexer: tcpconn.Multiplexer) -> None:
    """Ends a link without a word, as a network does; waits for it, if there is none."""

    def broken() -> bool:
        try:
            multiplexer.key.link.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return False  # it is being replaced
        return True

    wait_until(broken, "there is no link to break")


def unused_port() -> int:
    """A port of 127.0.0.1 where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
