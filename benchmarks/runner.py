"""In which order everything runs, and within which time.

The rounds of a workload are interleaved: A B C, A B C, … Whatever else the machine does meanwhile
falls on all of them, and a ratio is taken within a round. All processes of a workload live for all
of its rounds, and sleep while it is another one's turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from benchmarks.processes import START_SECONDS, ChildFailed, Pair
from benchmarks.report import LeftOut, Report, Rounds, SweepPoint
from benchmarks.scale.definitions import Scale, ScalePoint
from benchmarks.subjects.base import Subject
from benchmarks.timing import Histogram
from benchmarks.workloads import Workload, sweep_workload

T = TypeVar("T")

SWEEP_SUBJECTS = ("tcpconn", "raw_tcp")
"""Whose throughput over message size is measured."""

PATIENCE_SECONDS = 20.0
"""How long any answer may take: the longest, calibration, takes a few times a round's share."""
MOST_COUNTED = 32768
"""Operations whose allocations are counted, if a round has that many."""


@dataclass(frozen=True)
class Plan:
    """How long everything takes. Times are in seconds."""

    rounds: int
    round_seconds: float
    """One subject's share of one round."""
    most_seconds: float
    """The whole run ends within this: with fewer rounds if it has to be, one at least."""
    sweep_sizes: Sequence[int] = ()
    sweep_seconds: float = 0.0
    """One point of the sweep."""


@dataclass
class Progress:
    """How far a workload has come."""

    workload: Workload
    subjects: Sequence[Subject]
    of: int
    """Rounds that are planned."""
    rounds: list[Rounds] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Rounds that all subjects have gone through."""
        return len(self.rounds[0].ns_per_op) if self.rounds else 0


class Watcher(Protocol):
    """Who is told what happens while it happens."""

    def starting(self, progress: Progress) -> None:
        """A workload begins."""

    def round_done(self, progress: Progress) -> None:
        """All subjects have gone through one more round."""

    def finished(self, progress: Progress) -> None:
        """A workload is done, and in the report."""

    def left_out(self, row: LeftOut) -> None:
        """A subject cannot be measured, or not any more."""

    def failed(self, output: str) -> None:
        """What the process wrote of which the subject was left out."""

    def sweeping(self, point: SweepPoint) -> None:
        """One more point of the sweep."""

    def scaled(self, scale: Scale, points: Sequence[ScalePoint]) -> None:
        """One more step of what grows: all that was measured there of one subject."""


class Deadline:
    """The end of the whole run, and each part's share of what is left."""

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds."""
        return self.at - time.monotonic()

    def share(self, parts: int) -> Deadline:
        """A deadline for the next one of so many parts."""
        return Deadline(self.left() / max(1, parts))


def run(
    workloads: Sequence[Workload],
    subjects: Sequence[Subject],
    plan: Plan,
    report: Report,
    watcher: Watcher,
) -> Report:
    """Runs everything; fills the report as it goes, so that an interrupt leaves what is there."""
    deadline = Deadline(plan.most_seconds)
    present: list[Subject] = []
    for subject in subjects:
        if reason := subject.missing():
            _leave_out(report, watcher, "all", subject.name, reason)
        else:
            present.append(subject)
    sweep = bool(plan.sweep_sizes) and any(each.name in SWEEP_SUBJECTS for each in present)
    for position, workload in enumerate(workloads):
        taking_part = [subject for subject in present if workload.kind in subject.kinds]
        if not taking_part:
            continue
        progress = Progress(workload, taking_part, plan.rounds)
        watcher.starting(progress)
        share = deadline.share(len(workloads) - position + sweep)
        run_workload(progress, plan, share, report, watcher)
        report.add(workload, progress.rounds)
        watcher.finished(progress)
    if sweep:
        run_sweep(present, plan, deadline, report, watcher)
    return report


def _leave_out(report: Report, watcher: Watcher, workload: str, subject: str, why: str) -> None:
    row = LeftOut(workload, subject, why)
    report.left_out.append(row)
    watcher.left_out(row)


class _Workload:
    """The processes of one workload; a subject whose processes fail drops out."""

    def __init__(
        self,
        workload: Workload,
        subjects: Sequence[Subject],
        deadline: Deadline,
        report: Report,
        watcher: Watcher,
    ) -> None:
        self.name = workload.name
        self.deadline = deadline
        self.report = report
        self.watcher = watcher
        # In three strides: the processes of all subjects start side by side.
        self.pairs: dict[str, Pair] = {}
        for subject in subjects:
            self.pairs[subject.name] = Pair(subject.name, workload.name)
        self.for_each(lambda pair: pair.connect(min(START_SECONDS, self.patience())))
        self.for_each(lambda pair: pair.ready(min(START_SECONDS, self.patience())))

    def for_each(self, step: Callable[[Pair], T]) -> dict[str, T]:
        """`step(pair)` for each that is still there: the answers by subject."""
        answers: dict[str, T] = {}
        for name, pair in list(self.pairs.items()):
            try:
                answers[name] = step(pair)
            except ChildFailed as failure:
                del self.pairs[name]
                pair.end()
                _leave_out(self.report, self.watcher, self.name, name, str(failure))
                self.watcher.failed(failure.output)
        return answers

    def patience(self) -> float:
        """How long (s) an answer may take before the subject has failed."""
        return max(5.0, min(PATIENCE_SECONDS, self.deadline.left()))

    def calibrate(self, seconds: float) -> dict[str, int]:
        """How many operations each subject gets through in `seconds`."""
        answers = self.for_each(
            lambda pair: pair.ask(self.patience(), do="calibrate", budget_ns=seconds * 1e9)
        )
        return {name: answer["operations"] for name, answer in answers.items()}

    def time(self, operations: dict[str, int]) -> dict[str, dict[str, Any]]:
        """One round: every subject in turn."""
        return self.for_each(
            lambda pair: pair.ask(self.patience(), do="time", operations=operations[pair.subject])
        )

    def count_allocations(self, operations: dict[str, int]) -> dict[str, dict[str, Any]]:
        """What an operation allocates, counted over a round's operations if they are not too many.

        As many again go before, to leave a stream's start behind.
        """
        return self.for_each(
            lambda pair: pair.ask(
                self.patience(),
                do="allocations",
                operations=min(operations[pair.subject], MOST_COUNTED),
            )
        )

    def resize(self, size: int) -> None:
        """New connections, for messages of `size` bytes."""
        self.for_each(lambda pair: pair.ask(self.patience(), do="resize", size=size))

    def end(self) -> None:
        """Ends all processes."""
        for pair in self.pairs.values():
            if pair.client is not None:
                pair.client.hang_up()
        for pair in self.pairs.values():
            pair.end()


def run_workload(
    progress: Progress, plan: Plan, deadline: Deadline, report: Report, watcher: Watcher
) -> None:
    """All rounds of one workload."""
    running = _Workload(progress.workload, progress.subjects, deadline, report, watcher)
    try:
        operations = running.calibrate(plan.round_seconds)
        rounds = {name: Rounds(name) for name in operations}
        for _ in range(plan.rounds):
            for name, answer in running.time(operations).items():
                rounds[name].ns_per_op.append(answer["elapsed_ns"] / answer["operations"])
                rounds[name].latencies.add(Histogram.from_json(answer["bins"]))
            progress.rounds = [rounds[name] for name in running.pairs]
            watcher.round_done(progress)
            if deadline.left() < plan.round_seconds * len(progress.rounds):
                break
        for name, answer in running.count_allocations(operations).items():
            rounds[name].allocs_per_op = answer["allocs_per_op"]
            rounds[name].bytes_per_op = answer["bytes_per_op"]
        progress.rounds = [rounds[name] for name in running.pairs]
    finally:
        running.end()


def run_sweep(
    subjects: Sequence[Subject],
    plan: Plan,
    deadline: Deadline,
    report: Report,
    watcher: Watcher,
) -> None:
    """Throughput over message size, interleaved like the rest: the best of three."""
    chosen = [subject for subject in subjects if subject.name in SWEEP_SUBJECTS]
    running = _Workload(sweep_workload(1), chosen, deadline, report, watcher)
    try:
        for size in plan.sweep_sizes:
            if deadline.left() < 0:
                break
            running.resize(size)
            operations = running.calibrate(plan.sweep_seconds)
            best: dict[str, float] = {}
            for _ in range(3):
                for name, answer in running.time(operations).items():
                    ns_per_op = answer["elapsed_ns"] / answer["operations"]
                    best[name] = min(ns_per_op, best.get(name, ns_per_op))
            for name, ns_per_op in best.items():
                point = SweepPoint(name, size, ns_per_op, size * 1e3 / ns_per_op)
                report.sweep.append(point)
                watcher.sweeping(point)
    finally:
        running.end()
