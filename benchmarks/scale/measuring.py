"""What the measuring sides share: memory, times, and options that let a link carry so much."""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.subjects.framing import LENGTH, receive_exactly
from benchmarks.subjects.raw_tcp import send_message

SMALL = bytes(range(100))
KILOBYTE = bytes(range(256)) * 4

MOST_CONNECTIONS = 200_000
OPTIONS: dict[str, Any] = {
    "max_connections": MOST_CONNECTIONS,
    # The client opens them as fast as it can, however far the server has come with accepting.
    "max_unaccepted": MOST_CONNECTIONS,
}

_GROWTH = 4
_SHARES = 3


def memory() -> int:
    """Bytes of this process's own memory, none of what is mapped from files; 0: not known here."""
    gc.collect()
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    line = next((line for line in status.splitlines() if line.startswith("RssAnon")), None)
    return int(line.split()[1]) * 1024 if line else 0


A_LINK_NEEDS = 2
"""Descriptors: its socket and, if a thread has ever waited for it, what wakes that. They are fewer
by more than all else in the process needs.
"""


def allow_many_descriptors(links: int = 0) -> None:
    """As many as this process may have; more, for so many links, where it may have that."""
    if os.name == "posix":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        needed = A_LINK_NEEDS * links
        if most != resource.RLIM_INFINITY and most < needed:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (needed, needed))  # root may


def need_descriptors(links: int) -> None:
    """The same. Ends the process, and says why, when they are too few."""
    allow_many_descriptors(links)
    if os.name == "posix":
        import resource

        needed = A_LINK_NEEDS * links
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if most != resource.RLIM_INFINITY and most < needed:
            raise SystemExit(
                f"{links:,} links need {needed:,} descriptors, and a process may have {most:,} "
                f"here: raise the limit (RLIMIT_NOFILE), as with `ulimit -Hn {needed}`"
            )


def ns_per_message(
    run: Callable[[int], None], seconds: float, first: int = 1, most: int = 10_000_000
) -> float:
    """What one of many takes, in ns: the median of three runs of `run(count)`, after warming up.

    `count` is a multiple of `first`, and a run takes about a third of `seconds`.
    """

    def timed(count: int) -> float:
        started = time.perf_counter_ns()
        run(count)
        return time.perf_counter_ns() - started

    budget = seconds * 1e9 / _SHARES
    count = first
    taken = timed(count)
    while taken < budget / _GROWTH and count < most:
        count = first * max(2, min(10, int(budget / max(1.0, taken) / 2))) * (count // first)
        taken = timed(count)
    count = first * max(1, int(min(most, count * budget / max(1.0, taken))) // first)
    return statistics.median(timed(count) / count for _ in range(_SHARES))


def round_trips_ns(exchange: Callable[[], object], count: int) -> list[int]:
    """So many round trips, each in ns."""
    taken = []
    for _ in range(count):
        started = time.perf_counter_ns()
        exchange()
        taken.append(time.perf_counter_ns() - started)
    return taken


class SocketChannel:
    """Messages over a plain socket: a 4-byte length and the payload."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock

    def send(self, payload: bytes) -> None:
        """One message, one system call."""
        send_message(self.sock, payload)

    def receive(self) -> bytes:
        """The next message."""
        header = receive_exactly(self.sock, LENGTH.size)
        if len(header) < LENGTH.size:
            raise EOFError("the peer closed its socket")
        return receive_exactly(self.sock, LENGTH.unpack(header)[0])
