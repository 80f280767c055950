"""Results and ratios, and the JSON that holds them.

    {"environment": {...},
     "results": [{"workload", "subject", "size", "ns_per_op", "ops_per_s", "mb_per_s", "p50_ns",
                  "p99_ns", "bytes_per_op", "allocs_per_op"}],
     "ratios": [{"workload", "subject", "versus", "median", "min", "max"}],
     "distributions": [{"workload", "subject", "density": [[ns, share], ...]}],
     "sweep": [{"subject", "size", "ns_per_op", "mb_per_s"}],
     "scale": [{"workload", "subject", "at", "measure", "value"}],
     "left_out": [{"workload", "subject", "why"}]}

The first three are what other programs read. Sizes are in bytes, MB are 10^6 bytes, counted once
per operation (a round trip carries its message twice). `p50_ns` and `p99_ns` are of single round
trips, or one way of blocks of 1024 messages, divided by their number. A ratio is
ns_per_op(subject) / ns_per_op(versus) of two runs that followed each other: less than 1 is faster.
What was not measured is null. `scale` (with --scale) has a value for each measure of
`scale/definitions.py` at each step: ns, bytes, a rate per second or MB/s.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.scale.definitions import ScalePoint
from benchmarks.subjects import all_subjects
from benchmarks.subjects.base import Chosen
from benchmarks.timing import Histogram
from benchmarks.workloads import Workload


@dataclass(frozen=True)
class Result:
    """One subject in one workload. `ns_per_op` is the median of the rounds."""

    workload: str
    subject: str
    size: int
    ns_per_op: float
    ops_per_s: float
    mb_per_s: float
    p50_ns: float | None
    p99_ns: float | None
    bytes_per_op: float | None
    allocs_per_op: float | None


@dataclass(frozen=True)
class Ratio:
    """One of our subjects against another, over the rounds."""

    workload: str
    subject: str
    versus: str
    median: float
    min: float
    max: float


@dataclass(frozen=True)
class SweepPoint:
    """Throughput with one message size."""

    subject: str
    size: int
    ns_per_op: float
    mb_per_s: float


@dataclass(frozen=True)
class LeftOut:
    """Who could not be measured, and why."""

    workload: str
    subject: str
    why: str


@dataclass
class Rounds:
    """What the rounds of one subject in one workload gave, in their order."""

    subject: str
    ns_per_op: list[float] = field(default_factory=list)
    latencies: Histogram = field(default_factory=Histogram)
    bytes_per_op: float | None = None
    allocs_per_op: float | None = None


@dataclass
class Report:
    """Everything that a run of the harness found."""

    environment: dict[str, Any]
    results: list[Result] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    distributions: list[dict[str, Any]] = field(default_factory=list)
    sweep: list[SweepPoint] = field(default_factory=list)
    scale: list[ScalePoint] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def add(self, workload: Workload, measured: list[Rounds]) -> list[Result]:
        """Adds a workload's results and the ratios between its subjects."""
        added = [result_of(workload, rounds) for rounds in measured]
        self.results.extend(added)
        self.ratios.extend(ratios_of(workload.name, measured))
        self.distributions.extend(
            {
                "workload": workload.name,
                "subject": rounds.subject,
                "density": [
                    [round(at, 1), round(share, 6)] for at, share in rounds.latencies.density()
                ],
            }
            for rounds in measured
        )
        return added

    def workloads(self) -> list[str]:
        """The workloads that were measured, in order."""
        return list(dict.fromkeys(result.workload for result in self.results))

    def of(self, workload: str) -> list[Result]:
        """A workload's results, in the order of the subjects."""
        return [result for result in self.results if result.workload == workload]

    def result(self, workload: str, subject: str) -> Result | None:
        """One result, if it is there."""
        return next((each for each in self.of(workload) if each.subject == subject), None)

    def ratio(self, workload: str, subject: str, versus: str) -> Ratio | None:
        """One ratio, if it is there."""
        key = (workload, subject, versus)
        found = (each for each in self.ratios if (each.workload, each.subject, each.versus) == key)
        return next(found, None)

    def versus(self, subject: str) -> list[str]:
        """With whom a subject of ours is compared, in the order of the tables."""
        found = {ratio.versus for ratio in self.ratios if ratio.subject == subject}
        return [name for name in all_subjects() if name in found]

    def fastest_peer(self, workload: str, subject: str) -> Ratio | None:
        """The ratio to the fastest of the other libraries, if there are any."""
        peers = {name for name, each in all_subjects().items() if each.chosen is Chosen.PEERS}
        found = [
            ratio
            for ratio in self.ratios
            if (ratio.workload, ratio.subject) == (workload, subject) and ratio.versus in peers
        ]
        return max(found, key=lambda ratio: ratio.median, default=None)

    def as_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(
            {
                "environment": self.environment,
                "results": [_rounded(asdict(each)) for each in self.results],
                "ratios": [_rounded(asdict(each)) for each in self.ratios],
                "distributions": self.distributions,
                "sweep": [_rounded(asdict(each)) for each in self.sweep],
                "scale": [_rounded(asdict(each)) for each in self.scale],
                "left_out": [asdict(each) for each in self.left_out],
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The inverse of `as_json`."""
        data = json.loads(text)
        return cls(
            environment=data["environment"],
            results=[Result(**each) for each in data["results"]],
            ratios=[Ratio(**each) for each in data["ratios"]],
            distributions=data.get("distributions", []),
            sweep=[SweepPoint(**each) for each in data.get("sweep", [])],
            scale=[ScalePoint(**each) for each in data.get("scale", [])],
            left_out=[LeftOut(**each) for each in data.get("left_out", [])],
        )


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()
    }


def result_of(workload: Workload, rounds: Rounds) -> Result:
    """The row of one subject."""
    ns_per_op = statistics.median(rounds.ns_per_op)
    return Result(
        workload=workload.name,
        subject=rounds.subject,
        size=workload.size,
        ns_per_op=ns_per_op,
        ops_per_s=1e9 / ns_per_op,
        mb_per_s=workload.size * 1e3 / ns_per_op,
        p50_ns=rounds.latencies.percentile(0.50),
        p99_ns=rounds.latencies.percentile(0.99),
        bytes_per_op=rounds.bytes_per_op,
        allocs_per_op=rounds.allocs_per_op,
    )


def pair_ratio(workload: str, subject: Rounds, versus: Rounds) -> Ratio:
    """Round by round, so that what slows both down at once cancels out."""
    pairs = [
        ours / theirs for ours, theirs in zip(subject.ns_per_op, versus.ns_per_op, strict=True)
    ]
    return Ratio(
        workload=workload,
        subject=subject.subject,
        versus=versus.subject,
        median=statistics.median(pairs),
        min=min(pairs),
        max=max(pairs),
    )


def ratios_of(workload: str, measured: list[Rounds]) -> list[Ratio]:
    """Each of our subjects against each other subject."""
    return [
        pair_ratio(workload, ours, versus)
        for ours in measured
        if all_subjects()[ours.subject].ours
        for versus in measured
        if versus is not ours
    ]
