"""What is timed. A new workload is an entry here, and a client for its kind in each subject."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Kind(enum.Enum):
    """How the two processes talk; a subject has one client for each kind it can do."""

    ROUND_TRIP = "round trip"
    FRESH = "connect, round trip, close"
    SEND = "one way, timed at the sender"
    RECEIVE = "one way, timed at the receiver"

    @property
    def one_way(self) -> bool:
        """Nothing comes back for a message, so only blocks of them can be timed."""
        return self in (Kind.SEND, Kind.RECEIVE)


@dataclass(frozen=True)
class Workload:
    """One row of the report. `size` is a message's payload in bytes."""

    name: str
    kind: Kind
    size: int
    title: str
    what: str
    """What is timed, for the report's reader."""


def _by_name(*workloads: Workload) -> dict[str, Workload]:
    return {workload.name: workload for workload in workloads}


WORKLOADS = _by_name(
    Workload(
        "small",
        Kind.ROUND_TRIP,
        100,
        "Round trip, 100 B",
        "The client sends 100 bytes, the server sends them back, the client has them.",
    ),
    Workload(
        "large",
        Kind.ROUND_TRIP,
        1024 * 1024,
        "Round trip, 1 MiB",
        "The same with 1 MiB; the server answers when it has the whole message.",
    ),
    Workload(
        "chunking",
        Kind.ROUND_TRIP,
        200 * 1024,
        "Round trip, 200 KiB",
        "The same with 200 KiB: a message of several chunks.",
    ),
    Workload(
        "pool_reuse",
        Kind.ROUND_TRIP,
        1024,
        "Round trip, 1 KiB, pooled",
        "1 KiB back and forth on one connection that lies on a pooled link.",
    ),
    Workload(
        "pool_fresh",
        Kind.FRESH,
        1024,
        "Connect, 1 KiB, close",
        "A new connection for every round trip: `connect`, 1 KiB there and back, `close`. "
        "The pool gives tcpconn's connections a link that is there already; sockets are new.",
    ),
    Workload(
        "send_only",
        Kind.SEND,
        1024,
        "Send, 1 KiB",
        "1 KiB messages one way from a plain loop, until the receiver has counted them all and "
        "said so. The receiving side takes them as fast as it can: raw TCP's is compiled, "
        "tcpconn's calls `receive_many`.",
    ),
    Workload(
        "receive_only",
        Kind.RECEIVE,
        1024,
        "Receive, 1 KiB",
        "1 KiB messages one way, timed from message to message in a plain receiving loop that is "
        "already under way. The sending side is faster: raw TCP's is compiled and sends 64 "
        "messages a call, tcpconn's calls `send_many`.",
    ),
)

SWEEP_SIZES = (64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304)
"""Payloads in bytes for throughput over message size."""


def sweep_workload(size: int) -> Workload:
    """`send_only` with another size."""
    return Workload("sweep", Kind.SEND, size, f"Send, {size} B", "Throughput over message size.")
