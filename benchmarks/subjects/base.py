"""What a subject is: a name, a server for one process, and clients for the one that is timed."""

from __future__ import annotations

import abc
import enum
from array import array
from collections.abc import Callable, Iterable

from benchmarks.workloads import Kind, Workload

HOST = "127.0.0.1"
"""The only address that anything here listens on or connects to."""

Announce = Callable[[int], None]
"""Tells the harness the port that a server listens on."""


class Chosen(enum.Enum):
    """When a subject takes part without being named by `--subjects`."""

    ALWAYS = "always"
    STDLIB = "with --stdlib"
    TLS = "with --tls"
    PEERS = "with --peers"
    NEVER = "only when named"


class Client:
    """The timed side of one subject in one workload. Made anew for each size."""

    per_stamp = 1
    """Operations between two readings of the clock: 1 for round trips, a block one way."""
    per_tick = 1
    """Operations in one step of `run`: more than 1 where one call handles several messages."""
    compiled = False
    """Whether `run_compiled` takes the place of `run`."""

    def begin(self, count: int) -> None:
        """Not timed: what the other side must know of the `count` operations that follow."""

    def run(self, ticks: Iterable[object]) -> None:
        """One step for each of `ticks`, and as little else as can be: this is what is timed."""
        raise NotImplementedError

    def run_compiled(self, count: int, stamps: array[int] | None) -> None:
        """`count` operations in a compiled loop, which fills `stamps` (ns) unless it is None."""
        raise NotImplementedError

    def finish(self) -> None:
        """Timed: waits until the other side has everything, where operations do not wait."""

    def close(self) -> None:
        """Ends the exchange."""


class Subject(abc.ABC):
    """One who is timed. A module in `subjects/` lists its instances in `SUBJECTS`.

    Import the library in the methods, not at the top of the module: the harness reads every
    module to know who there is, and one library must not be loaded into another one's process.
    """

    name: str
    summary: str
    """One line for the report's reader: what this is, and how it was made fast."""
    chosen = Chosen.ALWAYS
    ours = False
    """Whether ratios of this subject to the others are reported."""
    kinds: frozenset[Kind] = frozenset(Kind)
    """The kinds of workload that it takes part in."""

    def missing(self) -> str | None:
        """Why it cannot run here (what to install, in one line), or None if it can."""
        return None

    @abc.abstractmethod
    def serve(self, workload: Workload, announce: Announce) -> None:
        """The other side, in a process of its own: announces its port, serves until killed."""

    @abc.abstractmethod
    def client(self, workload: Workload, port: int) -> Client:
        """A client that is connected to the server and ready."""


def block_of(size: int) -> int:
    """How many messages of `size` bytes make a block, where they go one way: up to 1024, 1 MiB.

    The clock is read once per block. It is longer than what a reader takes with one system call, so
    that a block's time is neither that of a call nor that of what it has left in memory.
    """
    fitting = max(1, min(1024, (1 << 20) // max(1, size)))
    return 1 << (fitting.bit_length() - 1)


def batch_of(size: int) -> int:
    """How many messages of `size` bytes go into one call, where they are batched: up to 64."""
    return min(64, block_of(size))


def payload_of(workload: Workload) -> bytes:
    """The message of a workload: bytes without a pattern, the same in every run."""
    import random

    size = workload.size
    if size <= 1 << 20:
        return random.Random(size).randbytes(size)
    block = random.Random(size).randbytes(1 << 20)
    return block * (size >> 20) + block[: size & 0xFFFFF]
