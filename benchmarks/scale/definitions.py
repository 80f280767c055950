"""What grows: each entry is a workload with its steps and what is measured at each of them."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import text

KIB = 1 << 10
MIB = 1 << 20


class Unit(enum.Enum):
    """What a measured value counts; less is better but for rates."""

    TIME = "ns"
    BYTES = "B"
    RATE = "/s"
    MEGABYTES = "MB/s"

    def text(self, value: float) -> str:
        """A value with its unit, for people."""
        match self:
            case Unit.TIME:
                return text.duration(value)
            case Unit.BYTES:
                return text.size(value)
            case Unit.RATE:
                return f"{text.significant(value)}/s"
            case Unit.MEGABYTES:
                return f"{text.significant(value)} MB/s"


@dataclass(frozen=True)
class Measure:
    """One value at each step."""

    name: str
    title: str
    unit: Unit


@dataclass(frozen=True)
class Scale:
    """One thing that grows."""

    name: str
    title: str
    what: str
    """What is measured, for the report's reader."""
    axis: str
    """What the steps count."""
    steps: Sequence[int]
    quick_steps: Sequence[int]
    """With --quick."""
    subjects: Sequence[str]
    measures: Sequence[Measure]

    def measure(self, name: str) -> Measure:
        """By name."""
        return next(each for each in self.measures if each.name == name)

    def step_text(self, at: float) -> str:
        """A step, for people."""
        return text.size(at) if self.name == "sizes" else f"{at:,.0f}"

    def value_text(self, point: ScalePoint) -> str:
        """A value with its unit, for people."""
        return self.measure(point.measure).unit.text(point.value)


@dataclass(frozen=True)
class ScalePoint:
    """One value: what `measure` was of `subject` when there were `at` of what grows."""

    workload: str
    subject: str
    at: int
    measure: str
    value: float


def _by_name(*scales: Scale) -> dict[str, Scale]:
    return {scale.name: scale for scale in scales}


SCALES = _by_name(
    Scale(
        "connections",
        "Connections on one link",
        "So many connections are open at once on one link. Memory is what the processes' own "
        "(anonymous) memory grows by for each of them, everything included, from 10,000 on: "
        "below, it is lost in the allocators' steps. `One of them` carries all messages while the "
        "others are idle; then `each in turn` carries one. A new connection is opened, says one "
        "message and is closed, one after the other.",
        "open connections",
        (1, 10, 100, 1_000, 10_000, 30_000, 100_000),
        (1, 100, 1_000),
        ("tcpconn",),
        (
            Measure("client_memory", "Client's memory, a connection", Unit.BYTES),
            Measure("server_memory", "Server's memory, a connection", Unit.BYTES),
            Measure("round_trip", "Round trip of 100 B on one of them", Unit.TIME),
            Measure("one_sends", "Message of 1 KiB one way, one of them", Unit.TIME),
            Measure("all_send", "Message of 1 KiB one way, each in turn", Unit.TIME),
            Measure("open_rate", "Connections opened and accepted", Unit.RATE),
            Measure("churn_rate", "Opened, one message, closed", Unit.RATE),
        ),
    ),
    Scale(
        "threads",
        "Threads that send on one link",
        "So many threads send messages of 1 KiB at once, each in a plain loop, until the receiver "
        "has them all. `tcpconn` gives each thread a connection of its own on the one link; "
        "`raw_tcp` has one socket and a lock around each message.",
        "sending threads",
        (1, 2, 4, 8, 16),
        (1, 4),
        ("tcpconn", "raw_tcp"),
        (
            Measure("message", "Time for a message, all threads together", Unit.TIME),
            Measure("throughput", "Throughput, all threads together", Unit.MEGABYTES),
        ),
    ),
    Scale(
        "sizes",
        "Size of a message",
        "Messages of one size one way from a plain loop, until the receiver has them all.",
        "bytes in a message",
        (1, 16, 256, 4 * KIB, 64 * KIB, MIB, 16 * MIB, 64 * MIB, 256 * MIB),
        (1, 4 * KIB, MIB),
        ("tcpconn", "raw_tcp"),
        (
            Measure("message", "Time for a message", Unit.TIME),
            Measure("throughput", "Throughput", Unit.MEGABYTES),
        ),
    ),
    Scale(
        "links",
        "Clients of one listener",
        "So many clients, each with a link of its own: one process holds all their ends, another "
        "serves them. Memory is what the processes' own (anonymous) memory grows by for each, "
        "from 100 on; the kernel's share is not seen. `One of them` carries all messages while the "
        "others are idle; then `each in turn` carries one.",
        "clients",
        (1, 10, 100, 1_000),
        (1, 10),
        ("tcpconn", "raw_tcp"),
        (
            Measure("client_memory", "Client's memory, a link", Unit.BYTES),
            Measure("server_memory", "Server's memory, a link", Unit.BYTES),
            Measure("round_trip", "Round trip of 100 B on one of them", Unit.TIME),
            Measure("one_sends", "Message of 1 KiB one way, one of them", Unit.TIME),
            Measure("all_send", "Message of 1 KiB one way, each in turn", Unit.TIME),
            Measure("open_rate", "Links made and accepted", Unit.RATE),
        ),
    ),
    Scale(
        "clients",
        "Clients of one asyncio server",
        "So many clients, each with a link of its own, of one server in an event loop, which has a "
        "task for each; another process holds all clients in one event loop. Each client is served "
        "once. Memory is what the processes' own (anonymous) memory grows by for each, from 100 "
        "on. Then 10 of them, and 1,000, exchange messages of 100 B at once, while the others are "
        "idle. 10,000 clients need up to 20,000 descriptors.",
        "clients",
        (1, 10, 100, 1_000, 10_000),
        (1, 100),
        ("tcpconn_aio", "asyncio_streams"),
        (
            Measure("server_memory", "Server's memory, an idle client", Unit.BYTES),
            Measure("client_memory", "Client's memory, an idle client", Unit.BYTES),
            Measure("few_active", "Time for a round trip, 10 of them active", Unit.TIME),
            Measure("many_active", "Time for a round trip, 1,000 of them active", Unit.TIME),
            Measure("open_rate", "Links made, each served once", Unit.RATE),
        ),
    ),
)
