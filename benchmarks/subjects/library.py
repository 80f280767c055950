"""Our subjects: `tcpconn` as it comes, `tcpconn_busy_poll`, `tcpconn_stdlib` (with --stdlib), and
`tcpconn_tls` (with --tls).

The timed side is the plain loop that a user writes: `send(payload)`, `receive()`. The other side
is not timed, and takes and sends its messages with the batch calls.
"""

from __future__ import annotations

import contextlib
import importlib.util
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.subjects.base import (
    HOST,
    Announce,
    Chosen,
    Client,
    Subject,
    batch_of,
    block_of,
    payload_of,
)
from benchmarks.subjects.framing import WARM_UP
from benchmarks.workloads import Kind, Workload

REQUEST = struct.Struct(">BQI")
SENDS, RECEIVES = 1, 2
READY, DONE = b"r", b"d"
SIZES = {"max_message_size": 256 << 20}
"""Options where messages get larger than a receiver takes by default."""
CERTIFICATES = Path(__file__).resolve().parents[2] / "tests" / "certificates"
BUSY_POLL = 0.001
"""Seconds, the same as `limit` polls."""


def serve_connection(connection: Any, one_way: bool) -> None:
    """Echoes every message; or takes or sends as many as asked for, again and again."""
    send = connection.send
    if not one_way:
        for message in connection:
            send(message)
        return
    for request in connection:
        direction, count, size = REQUEST.unpack(request)
        if direction == SENDS:
            send(READY)
            while count:
                count -= len(connection.receive_many())
            send(DONE)
        else:
            batch = [bytes(size)] * batch_of(size)
            for _ in range(count // len(batch)):
                connection.send_many(batch)
            connection.send_many(batch[: count % len(batch)])


class RoundTrips(Client):
    """One connection, request and reply."""

    def __init__(self, address: str, payload: bytes, options: dict[str, Any]) -> None:
        import tcpconn

        self.payload = payload
        self.connection = tcpconn.connect(address, **options)

    def run(self, ticks: Iterable[object]) -> None:
        """Sends the payload, receives the answer."""
        payload, send, receive = self.payload, self.connection.send, self.connection.receive
        for _ in ticks:
            send(payload)
            receive()

    def close(self) -> None:
        """Closes the connection; the link stays in the pool."""
        self.connection.close()


class Fresh(Client):
    """A new connection for every round trip, on the pooled link."""

    def __init__(self, address: str, payload: bytes, options: dict[str, Any]) -> None:
        self.address = address
        self.payload = payload
        self.options = options

    def run(self, ticks: Iterable[object]) -> None:
        """Connects, sends, receives, closes."""
        import tcpconn

        connect, address, payload, options = (
            tcpconn.connect,
            self.address,
            self.payload,
            self.options,
        )
        for _ in ticks:
            connection = connect(address, **options)
            connection.send(payload)
            connection.receive()
            connection.close()


class Sends(RoundTrips):
    """A plain loop of `send`."""

    def __init__(self, address: str, payload: bytes, options: dict[str, Any]) -> None:
        super().__init__(address, payload, options)
        self.per_stamp = block_of(len(payload))

    def begin(self, count: int) -> None:
        """Asks the server to take `count` messages."""
        self.connection.send(REQUEST.pack(SENDS, count, len(self.payload)))
        if self.connection.receive() != READY:
            raise EOFError("the server is not ready")

    def run(self, ticks: Iterable[object]) -> None:
        """Sends the payload."""
        payload, send = self.payload, self.connection.send
        for _ in ticks:
            send(payload)

    def finish(self) -> None:
        """Waits until the receiver has them all."""
        if self.connection.receive() != DONE:
            raise EOFError("the server has not received everything")


class Receives(RoundTrips):
    """A plain loop of `receive`."""

    def __init__(self, address: str, payload: bytes, options: dict[str, Any]) -> None:
        super().__init__(address, payload, options)
        self.per_stamp = block_of(len(payload))

    def begin(self, count: int) -> None:
        """Asks the server to send `count` messages and some more, and takes those."""
        self.connection.send(REQUEST.pack(RECEIVES, count + WARM_UP, len(self.payload)))
        for _ in range(WARM_UP):
            self.connection.receive()

    def run(self, ticks: Iterable[object]) -> None:
        """Receives a message."""
        receive = self.connection.receive
        for _ in ticks:
            receive()


class Tcpconn(Subject):
    """The library, with the given options on both sides."""

    ours = True

    def __init__(self, name: str, summary: str, chosen: Chosen = Chosen.ALWAYS, **options: Any):
        self.name = name
        self.summary = summary
        self.chosen = chosen
        self.options = options

    def missing(self) -> str | None:
        """It has to be built."""
        if importlib.util.find_spec("tcpconn") is None:
            return "tcpconn is not installed"
        try:
            import tcpconn  # noqa: F401
        except ImportError as error:
            return f"tcpconn is not built ({error}); `make develop` builds it"
        return None

    def serve(self, workload: Workload, announce: Announce) -> None:
        """One connection after the other: there is one client."""
        import tcpconn

        with tcpconn.listen((HOST, 0), **self.options_for(workload)) as listener:
            announce(int(listener.address.rpartition(":")[2]))
            for connection in listener:
                with connection, contextlib.suppress(ConnectionError):
                    serve_connection(connection, workload.kind.one_way)

    def client(self, workload: Workload, port: int) -> Client:
        """The loop for the workload's kind."""
        kinds = {
            Kind.ROUND_TRIP: RoundTrips,
            Kind.FRESH: Fresh,
            Kind.SEND: Sends,
            Kind.RECEIVE: Receives,
        }
        options = self.options_for(workload)
        return kinds[workload.kind](f"{HOST}:{port}", payload_of(workload), options)

    def options_for(self, workload: Workload) -> dict[str, Any]:
        """On both sides."""
        return {**self.options, **SIZES} if workload.name == "sizes" else self.options


class TcpconnTls(Tcpconn):
    """The library through TLS, with a certificate of the tests'."""

    def missing(self) -> str | None:
        """It needs the tests' certificates."""
        if not CERTIFICATES.is_dir():
            return f"there is no {CERTIFICATES}"
        return super().missing()

    def serve(self, workload: Workload, announce: Announce) -> None:
        """As without TLS, and with a certificate."""
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATES / "server.pem")
        self.options = {**self.options, "ssl": context}
        super().serve(workload, announce)

    def client(self, workload: Workload, port: int) -> Client:
        """The same loop; the server's certificate is checked."""
        import ssl

        context = ssl.create_default_context(cafile=str(CERTIFICATES / "authority.pem"))
        self.options = {**self.options, "ssl": context}
        return super().client(workload, port)


SUBJECTS = [
    Tcpconn("tcpconn", "The library with its defaults: plain `send` and `receive`."),
    Tcpconn(
        "tcpconn_busy_poll",
        "The library with `busy_poll`: a receiver polls for up to 1 ms before it sleeps.",
        busy_poll=BUSY_POLL,
    ),
    Tcpconn(
        "tcpconn_stdlib",
        "The library on the standard library's sockets, as where there is no compiled link.",
        Chosen.STDLIB,
        link="stdlib",
    ),
    TcpconnTls(
        "tcpconn_tls",
        "The library through TLS 1.3, as Python's `ssl` has it by default.",
        Chosen.TLS,
    ),
]
