"""One subject: `raw_tcp_batched`, the fastest that plain Python sockets send and receive a stream.

Only for messages that go one way: a reply cannot wait for 63 others. The sender must have its 64
messages before the first of them leaves, which a program that sends them as they come has not.
"""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.subjects import framing
from benchmarks.subjects.base import Announce, Client, Subject, batch_of, payload_of
from benchmarks.subjects.framing import LENGTH
from benchmarks.workloads import Kind, Workload


class Sends(framing.OneWayClient):
    """64 messages joined into one, sent with one call."""

    def __init__(self, port: int, payload: bytes) -> None:
        super().__init__(port, payload)
        self.per_tick = batch_of(len(payload))
        framing.keep_hot(self.sock)

    def run(self, ticks: Iterable[object]) -> None:
        """Sends 64 messages for each tick."""
        payload, sendall, pack, join = self.payload, self.sock.sendall, LENGTH.pack, b"".join
        batch = (None,) * self.per_tick
        for _ in ticks:
            parts: list[bytes] = []
            add = parts.append
            for _ in batch:
                add(pack(len(payload)))
                add(payload)
            sendall(join(parts))


class Receives(framing.ReceivingClient):
    """One large `recv_into`, sliced into messages."""

    def __init__(self, port: int, payload: bytes) -> None:
        super().__init__(port, payload)
        self.run = framing.BatchReader(self.sock, len(payload)).run  # type: ignore[method-assign]


class RawTcpBatched(Subject):
    """Plain Python sockets, 64 messages at a time."""

    name = "raw_tcp_batched"
    summary = (
        "Plain Python sockets, batched by hand: 64 messages joined for one call, one large "
        "`recv_into` sliced into messages. The fastest one can write in plain Python."
    )
    kinds = frozenset({Kind.SEND, Kind.RECEIVE})

    def serve(self, workload: Workload, announce: Announce) -> None:
        """Takes the other side of a one-way run."""
        assert workload.kind in self.kinds
        framing.serve_each(framing.listen(announce), framing.serve_one_way)

    def client(self, workload: Workload, port: int) -> Client:
        """The loop for the direction."""
        payload = payload_of(workload)
        return Sends(port, payload) if workload.kind is Kind.SEND else Receives(port, payload)


SUBJECTS = [RawTcpBatched()]
