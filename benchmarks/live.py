"""What the terminal shows: a table that fills while it runs, or plain lines where it is none."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from benchmarks import text
from benchmarks.report import (
    LeftOut,
    Ratio,
    Report,
    Result,
    Rounds,
    SweepPoint,
    pair_ratio,
    result_of,
)
from benchmarks.runner import Progress
from benchmarks.scale.definitions import Scale, ScalePoint
from benchmarks.subjects import all_subjects

WIDE = 96
"""Columns of a terminal that shows everything."""
REFERENCE = "raw_tcp"
"""Whom the last column compares with."""

_COLUMNS = ("subject", "time/op", "op/s", "MB/s", "p50", "p99", "B/op", "allocs/op", "vs raw_tcp")


def _cells(result: Result, ratio: float | None) -> list[str]:
    return [
        result.subject,
        text.duration(result.ns_per_op),
        text.rate(result.ops_per_s),
        text.megabytes(result.mb_per_s),
        text.duration(result.p50_ns),
        text.duration(result.p99_ns),
        text.size(result.bytes_per_op),
        text.number(result.allocs_per_op),
        text.ABSENT if ratio is None else text.ratio(ratio),
    ]


def _ratio(rounds: Rounds, measured: Sequence[Rounds]) -> float | None:
    reference = next((each for each in measured if each.subject == REFERENCE), None)
    return None if reference is None else pair_ratio("", rounds, reference).median


def _styled(ratio: float | None, cell: str) -> Text:
    if ratio is None or cell == text.ABSENT:
        return Text(cell)
    return Text(cell, style="green" if ratio < 0.97 else "yellow" if ratio < 1.03 else "red")


def _table(progress: Progress, caption: str, width: int) -> Table:
    workload = progress.workload
    table = Table(
        title=f"[bold]{workload.name}[/]  {workload.title}",
        caption=caption,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    # A narrow terminal does without what follows from the time.
    shown = [name for name in _COLUMNS if width >= WIDE or name not in ("op/s", "MB/s", "p50")]
    for name in shown:
        table.add_column(name, justify="left" if name == "subject" else "right", no_wrap=True)
    for rounds in progress.rounds:
        ratio = _ratio(rounds, progress.rounds)
        cells = dict(zip(_COLUMNS, _cells(result_of(workload, rounds), ratio), strict=True))
        ours = all_subjects()[rounds.subject].ours
        styled = [_styled(ratio, cells.pop(_COLUMNS[-1]))]
        plain = [cells[name] for name in shown[:-1]]
        table.add_row(*plain, *styled, style="bold" if ours else "")
    return table


def _summary(report: Report, subject: str) -> tuple[list[str], list[list[str]]]:
    """The ratios of one of our subjects: a heading, and a row for each other subject."""
    workloads = [name for name in report.workloads() if report.result(name, subject) is not None]

    def row(name: str, ratios: list[Ratio | None]) -> list[str]:
        return [
            name,
            *(text.ABSENT if each is None else text.ratio(each.median) for each in ratios),
        ]

    table = [
        row(other, [report.ratio(name, subject, other) for name in workloads])
        for other in report.versus(subject)
    ]
    fastest = [report.fastest_peer(name, subject) for name in workloads]
    if any(fastest):
        table.append(row("fastest peer", fastest))
    return ["against", *workloads], table


def _ours(report: Report) -> list[str]:
    return list(dict.fromkeys(ratio.subject for ratio in report.ratios))


_SUMMARY = "its time divided by the other's; below 1 is faster"


class Tables:
    """A live table for each workload, which stays on the screen when the workload is done."""

    def __init__(self, console: Console, verbose: bool) -> None:
        self.console = console
        self.verbose = verbose
        self.live: Live | None = None

    def starting(self, progress: Progress) -> None:
        """Opens an empty table."""
        # Drawn between two rounds only: a thread that redraws would take a core's time from them.
        self.live = Live(
            _table(progress, f"warming up {len(progress.subjects)} subjects …", self.console.width),
            console=self.console,
            auto_refresh=False,
        )
        self.live.start(refresh=True)

    def round_done(self, progress: Progress) -> None:
        """Fills it."""
        if self.live is not None:
            caption = f"round {progress.done} of {progress.of}"
            self.live.update(_table(progress, caption, self.console.width), refresh=True)

    def finished(self, progress: Progress) -> None:
        """Leaves it as it is."""
        if self.live is not None:
            caption = f"median of {progress.done} rounds"
            self.live.update(_table(progress, caption, self.console.width), refresh=True)
            self.live.stop()
            self.live = None

    def left_out(self, row: LeftOut) -> None:
        """Says so, above the table."""
        self.console.print(f"[yellow]left out[/] {row.subject} ({row.workload}): {row.why}")

    def failed(self, output: str) -> None:
        """Shows it, if asked to."""
        if self.verbose:
            self.console.print(output, markup=False, highlight=False)

    def sweeping(self, point: SweepPoint) -> None:
        """One line."""
        self.console.print(_sweep_line(point), highlight=False)

    def scaled(self, scale: Scale, points: Sequence[ScalePoint]) -> None:
        """One line."""
        self.console.print(_scale_line(scale, points), highlight=False)

    def close(self) -> None:
        """Gives the terminal back after an interrupt."""
        if self.live is not None:
            self.live.stop()

    def summary(self, report: Report) -> None:
        """The ratios, a table for each of our subjects."""
        for subject in _ours(report):
            header, rows = _summary(report, subject)
            table = Table(
                title=f"[bold]{subject}[/]: {_SUMMARY}",
                title_justify="left",
                box=SIMPLE_HEAD,
                pad_edge=False,
            )
            for name in header:
                table.add_column(name, justify="left" if name == header[0] else "right")
            for other, *ratios in rows:
                styled = [
                    _styled(None if each == text.ABSENT else float(each), each) for each in ratios
                ]
                table.add_row(other, *styled)
            self.console.print(table)


class Lines:
    """Plain lines, a result each, for a file or a pipe."""

    def __init__(self, verbose: bool) -> None:
        self.verbose = verbose

    def starting(self, progress: Progress) -> None:
        """A heading."""
        print(f"{progress.workload.name}: {progress.workload.title}", flush=True)

    def round_done(self, progress: Progress) -> None:
        """Nothing: the result comes when it is one."""

    def finished(self, progress: Progress) -> None:
        """The workload's rows."""
        rows = [list(_COLUMNS)]
        for rounds in progress.rounds:
            ratio = _ratio(rounds, progress.rounds)
            rows.append(_cells(result_of(progress.workload, rounds), ratio))
        for row in rows:
            print(f"  {row[0]:<18}" + "".join(f"{cell:>12}" for cell in row[1:]), flush=True)

    def left_out(self, row: LeftOut) -> None:
        """A line."""
        print(f"left out: {row.subject} ({row.workload}): {row.why}", flush=True)

    def failed(self, output: str) -> None:
        """Shows it, if asked to."""
        if self.verbose:
            print(output, flush=True)

    def sweeping(self, point: SweepPoint) -> None:
        """A line."""
        print(_sweep_line(point), flush=True)

    def scaled(self, scale: Scale, points: Sequence[ScalePoint]) -> None:
        """A line."""
        print(_scale_line(scale, points), flush=True)

    def close(self) -> None:
        """Nothing to give back."""

    def summary(self, report: Report) -> None:
        """The ratios, for each of our subjects."""
        for subject in _ours(report):
            header, rows = _summary(report, subject)
            print(f"{subject}: {_SUMMARY}")
            for first, *others in [header, *rows]:
                print(f"  {first:<18}" + "".join(f"{each:>14}" for each in others), flush=True)


def _sweep_line(point: SweepPoint) -> str:
    return (
        f"sweep {text.size(point.size):>8} {point.subject:<10} {text.duration(point.ns_per_op):>10}"
        f" {text.megabytes(point.mb_per_s):>8} MB/s"
    )


def _scale_line(scale: Scale, points: Sequence[ScalePoint]) -> str:
    values = (f"{each.measure} {scale.value_text(each)}" for each in points)
    at = scale.step_text(points[0].at)
    return f"{scale.name:<11} {at:>9} {points[0].subject:<8} {', '.join(values)}"


def watcher(verbose: bool) -> Tables | Lines:
    """What suits the standard output. `verbose` shows what failed processes wrote."""
    return Tables(Console(), verbose) if sys.stdout.isatty() else Lines(verbose)
