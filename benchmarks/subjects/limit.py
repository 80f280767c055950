"""Two subjects: `limit`, the machine's own, and `limit_blocking`, the same without polling.

The loops are in `_limit.pyx`. Round trips poll the socket instead of sleeping; one way, 64
messages go into a system call, and what has arrived is taken with one. There is nothing here that
could be left out.
"""

from __future__ import annotations

from array import array

from benchmarks import compiled
from benchmarks.subjects import framing
from benchmarks.subjects.base import Announce, Chosen, Client, Subject, batch_of, payload_of
from benchmarks.workloads import Kind, Workload

POLL_NS = 1_000_000
"""How long a poll goes on before it sleeps: longer than any answer takes, shorter than a pause."""
_NONE = array("q")


class RoundTrips(Client):
    """One socket, request and reply."""

    compiled = True

    def __init__(self, port: int, payload: bytes, poll_ns: int) -> None:
        self.sock = framing.dial(port)
        self.payload = payload
        self.poll_ns = poll_ns
        self.loop = compiled.load("_limit").round_trips

    def run_compiled(self, count: int, stamps: array[int] | None) -> None:
        """`count` round trips."""
        stamps = _NONE if stamps is None else stamps
        self.loop(self.sock.fileno(), self.payload, count, stamps, self.poll_ns)

    def close(self) -> None:
        """Closes the socket."""
        self.sock.close()


class Fresh(Client):
    """A new socket for every round trip."""

    compiled = True

    def __init__(self, port: int, payload: bytes, poll_ns: int) -> None:
        self.port = port
        self.payload = payload
        self.poll_ns = poll_ns
        self.loop = compiled.load("_limit").connect_each

    def run_compiled(self, count: int, stamps: array[int] | None) -> None:
        """`count` sockets."""
        stamps = _NONE if stamps is None else stamps
        self.loop(self.port, self.payload, count, stamps, self.poll_ns)


class Sends(framing.OneWayClient):
    """64 messages in a system call."""

    compiled = True

    def __init__(self, port: int, payload: bytes) -> None:
        super().__init__(port, payload)
        self.batch = batch_of(len(payload))
        framing.keep_hot(self.sock)
        self.loop = compiled.load("_limit").send_messages

    def run_compiled(self, count: int, stamps: array[int] | None) -> None:
        """Sends `count` messages."""
        stamps = _NONE if stamps is None else stamps
        self.loop(self.sock.fileno(), self.payload, count, stamps, self.batch, self.per_stamp)


class Receives(framing.ReceivingClient):
    """Everything that has arrived in one system call."""

    compiled = True

    def __init__(self, port: int, payload: bytes) -> None:
        super().__init__(port, payload)
        self.reader = compiled.load("_limit").Reader(self.sock.fileno(), len(payload))

    def run_compiled(self, count: int, stamps: array[int] | None) -> None:
        """Receives `count` messages."""
        self.reader.take(count, _NONE if stamps is None else stamps, self.per_stamp)

    def take(self, count: int) -> None:
        """Takes `count` messages, untimed."""
        self.run_compiled(count, None)


class Limit(Subject):
    """Compiled loops over the same system calls."""

    def __init__(self, name: str, summary: str, poll_ns: int, kinds: frozenset[Kind]) -> None:
        self.name = name
        self.summary = summary
        self.poll_ns = poll_ns
        self.kinds = kinds

    def missing(self) -> str | None:
        """It needs Cython and a compiler."""
        return compiled.why_not("_limit")

    def serve(self, workload: Workload, announce: Announce) -> None:
        """Echoes in a compiled loop, or takes the other side of a one-way run."""
        loops = compiled.load("_limit")
        listener = framing.listen(announce)
        if workload.kind.one_way:
            framing.serve_each(listener, framing.serve_one_way)
        elif workload.kind is Kind.FRESH:
            listener.setblocking(False)
            loops.accept_each(listener.fileno(), workload.size, self.poll_ns)
        else:
            framing.serve_each(
                listener, lambda sock: loops.echo(sock.fileno(), workload.size, self.poll_ns)
            )

    def client(self, workload: Workload, port: int) -> Client:
        """The loop for the workload's kind."""
        payload = payload_of(workload)
        match workload.kind:
            case Kind.SEND:
                return Sends(port, payload)
            case Kind.RECEIVE:
                return Receives(port, payload)
            case Kind.FRESH:
                return Fresh(port, payload, self.poll_ns)
            case _:
                return RoundTrips(port, payload, self.poll_ns)


class LimitBlocking(Limit):
    """Only when named: it tells how much of a round trip is the kernel waking the other side."""

    chosen = Chosen.NEVER


SUBJECTS = [
    Limit(
        "limit",
        "A compiled loop over the same system calls, which polls for an answer and sends 64 "
        "messages a call: what the machine itself allows.",
        POLL_NS,
        frozenset(Kind),
    ),
    LimitBlocking(
        "limit_blocking",
        "The compiled loop, asleep until the answer comes.",
        0,
        frozenset({Kind.ROUND_TRIP, Kind.FRESH}),
    ),
]
