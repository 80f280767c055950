"""How one run is timed, inside the process that is timed.

A subject's loop is handed an iterator of *ticks*, one for each operation, and does nothing else:

    for _ in ticks:
        send(payload)

The ticks read the clock as they are taken, in C, with no Python frame: about 60 ns per stamp. That
is one stamp per round trip; where messages go one way and take less than a microsecond, one per
block of them, and a block's time is divided by its messages.
"""

from __future__ import annotations

import gc
import itertools
import math
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from benchmarks.subjects.base import Client

BIN = math.log(1.005)
"""Latencies are kept in bins of half a percent: fine enough for a percentile, small to pass on."""


@dataclass
class Histogram:
    """Latencies (ns per operation), counted by the logarithm of their length."""

    bins: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, latencies: Iterable[float]) -> Histogram:
        """Counts each latency once."""
        return cls(Counter(round(math.log(max(1.0, each)) / BIN) for each in latencies))

    def add(self, other: Histogram) -> None:
        """Counts what `other` has counted too."""
        self.bins.update(other.bins)

    def percentile(self, share: float) -> float | None:
        """The latency (ns) that `share` (0 to 1) of all do not exceed; None if there are none."""
        total = self.bins.total()
        seen = 0
        for position in sorted(self.bins):
            seen += self.bins[position]
            if seen >= share * total:
                return math.exp(position * BIN)
        return None

    def density(self, ratio: float = 1.04) -> list[tuple[float, float]]:
        """(latency in ns, share of all within bins of that `ratio`), ascending, for a picture."""
        width = math.log(ratio)
        coarse: Counter[int] = Counter()
        for position, number in self.bins.items():
            coarse[round(position * BIN / width)] += number
        total = coarse.total()
        return [(math.exp(at * width), coarse[at] / total) for at in sorted(coarse)]

    def as_json(self) -> dict[str, int]:
        """For the pipe between the processes."""
        return {str(position): number for position, number in self.bins.items()}

    @classmethod
    def from_json(cls, bins: dict[str, int]) -> Histogram:
        """The inverse of `as_json`."""
        return cls(Counter({int(position): number for position, number in bins.items()}))


@dataclass(frozen=True)
class Run:
    """What one timed run gave."""

    operations: int
    elapsed_ns: int
    """From the first operation's start to the last one's end, with what `finish` waits for."""
    latencies: Histogram

    @property
    def ns_per_op(self) -> float:
        """The time of one operation, in ns."""
        return self.elapsed_ns / self.operations


def clock_ticks(count: int, per_stamp: int, stamps: list[int]) -> Iterator[object]:
    """`count` ticks; before every `per_stamp`-th, the time goes to `stamps`."""
    blocks = itertools.islice(iter(time.perf_counter_ns, None), math.ceil(count / per_stamp))
    if per_stamp == 1:
        return map(stamps.append, blocks)
    block = (None,) * per_stamp

    def record(stamp: int) -> tuple[None, ...]:
        stamps.append(stamp)
        return block

    return itertools.islice(itertools.chain.from_iterable(map(record, blocks)), count)


def whole_blocks(client: Client, operations: float) -> int:
    """`operations`, rounded up to whole blocks of the client's."""
    return max(1, math.ceil(operations / client.per_stamp)) * client.per_stamp


def timed_run(client: Client, operations: int) -> Run:
    """Runs `operations` (whole blocks) and times them."""
    per_stamp = client.per_stamp
    blocks = operations // per_stamp
    # A collection that is due would fall into the run of whoever comes next.
    gc.collect()
    client.begin(operations)
    stamps: list[int] | array[int] = []
    if client.compiled:
        # Its loop reads the same clock itself.
        stamps = array("q", bytes(8 * blocks))
        client.run_compiled(operations, stamps)
    else:
        assert isinstance(stamps, list)
        client.run(clock_ticks(operations // client.per_tick, per_stamp // client.per_tick, stamps))
    ran = time.perf_counter_ns()
    client.finish()
    ended = time.perf_counter_ns()
    edges = [*stamps, ran]
    lengths = ((after - before) / per_stamp for before, after in itertools.pairwise(edges))
    return Run(operations, ended - edges[0], Histogram.of(lengths))


def calibrate(client: Client, budget_ns: float, most: int = 50_000_000) -> int:
    """How many operations take about `budget_ns`. Warms everything up while it finds out."""
    operations = whole_blocks(client, 1)
    while True:
        run = timed_run(client, operations)
        if run.elapsed_ns >= budget_ns / 4 or operations >= most:
            return whole_blocks(client, min(most, budget_ns / run.ns_per_op))
        # At most tenfold: the first operations say little of the later ones.
        factor = min(10.0, budget_ns / 3 / max(1, run.elapsed_ns))
        operations = whole_blocks(client, operations * max(2.0, factor))
