"""In which order the steps run, and within which time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.processes import START_SECONDS, ChildFailed, Pair
from benchmarks.report import LeftOut, Report
from benchmarks.runner import Deadline, Watcher
from benchmarks.scale.definitions import Scale, ScalePoint
from benchmarks.subjects import all_subjects

PATIENCE_SECONDS = 60.0
"""How long all measurements of one step may take. The largest needs some 10 s."""


@dataclass(frozen=True)
class ScalePlan:
    """How long everything takes. Times are in seconds."""

    quick: bool
    measure_seconds: float
    """One measurement at one step."""
    most_seconds: float
    """No step begins later than this."""


def run_scales(
    scales: Sequence[Scale],
    plan: ScalePlan,
    report: Report,
    watcher: Watcher,
    named: Sequence[str] | None = None,
) -> None:
    """Runs them one after the other; fills the report as it goes. `named`: these subjects only."""
    deadline = Deadline(plan.most_seconds)
    for position, scale in enumerate(scales):
        taking_part = [
            name
            for name in scale.subjects
            if (named is None or name in named) and not _is_missing(scale, name, report, watcher)
        ]
        share = deadline.share(len(scales) - position)
        _run_scale(scale, taking_part, plan, share, report, watcher)


def _is_missing(scale: Scale, name: str, report: Report, watcher: Watcher) -> bool:
    reason = all_subjects()[name].missing()
    if reason:
        _leave_out(report, watcher, scale.name, name, reason)
    return reason is not None


def _leave_out(report: Report, watcher: Watcher, workload: str, subject: str, why: str) -> None:
    row = LeftOut(workload, subject, why)
    report.left_out.append(row)
    watcher.left_out(row)


def _run_scale(
    scale: Scale,
    subjects: Sequence[str],
    plan: ScalePlan,
    deadline: Deadline,
    report: Report,
    watcher: Watcher,
) -> None:
    """All steps of one; the subjects of a step follow each other."""
    failed: set[str] = set()
    for at in scale.quick_steps if plan.quick else scale.steps:
        for name in subjects:
            if name in failed:
                continue
            if deadline.left() < 0:
                _leave_out(report, watcher, scale.name, name, f"no time left for {at:,}")
                failed.add(name)
                continue
            try:
                points = _step(scale, name, at, plan.measure_seconds)
            except ChildFailed as failure:
                # What is more than this would fail too.
                failed.add(name)
                _leave_out(report, watcher, scale.name, name, f"at {at:,}: {failure}")
                watcher.failed(failure.output)
            else:
                report.scale.extend(points)
                watcher.scaled(scale, points)


def _step(scale: Scale, subject: str, at: int, seconds: float) -> list[ScalePoint]:
    pair = Pair(subject, scale.name, module="benchmarks.scale.child")
    try:
        pair.connect(START_SECONDS)
        pair.ready(START_SECONDS)
        values = pair.ask(PATIENCE_SECONDS, at=at, budget=seconds)["values"]
    finally:
        pair.end()
    return [
        ScalePoint(scale.name, subject, at, measure.name, values[measure.name])
        for measure in scale.measures
        if measure.name in values
    ]
