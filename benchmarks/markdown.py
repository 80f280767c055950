"""The report as Markdown: a table of ratios, then a table for each workload."""

from __future__ import annotations

from benchmarks import text
from benchmarks.report import Ratio, Report
from benchmarks.scale.definitions import SCALES, Scale
from benchmarks.subjects import all_subjects
from benchmarks.workloads import WORKLOADS


def _table(header: list[str], rows: list[list[str]]) -> str:
    aligned = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, aligned, *rows]) + "\n"


def _environment(report: Report) -> str:
    found = report.environment
    free_threaded = " (free-threaded)" if found.get("free_threaded") else ""
    measured = found.get("tcpconn")
    machine = (
        f"{found['date'][:10]}, {found['implementation']} {found['python']}{free_threaded}, "
        f"{found['os']}, kernel {found['kernel']}, {found['cpu']}, {found['cores']} cores."
    )
    library = f"tcpconn {measured}, `{found['tcpconn_file']}`." if measured else "Without tcpconn."
    return f"{machine}  \n{library}"


def _span(ratio: Ratio) -> str:
    return f"**{text.ratio(ratio.median)}** ({text.ratio(ratio.min)} to {text.ratio(ratio.max)})"


def _ratios(report: Report, subject: str) -> str:
    workloads = [name for name in report.workloads() if report.result(name, subject) is not None]

    def row(name: str, ratios: list[Ratio | None]) -> list[str]:
        return [name, *(text.ABSENT if each is None else _span(each) for each in ratios)]

    table = [
        row(f"`{other}`", [report.ratio(name, subject, other) for name in workloads])
        for other in report.versus(subject)
    ]
    fastest = [report.fastest_peer(name, subject) for name in workloads]
    if any(fastest):
        table.append(row("the fastest peer", fastest))
    return _table(["against", *(f"`{name}`" for name in workloads)], table)


def _results(report: Report, workload: str) -> str:
    rows = [
        [
            f"`{result.subject}`",
            text.duration(result.ns_per_op),
            text.rate(result.ops_per_s),
            text.megabytes(result.mb_per_s),
            text.duration(result.p50_ns),
            text.duration(result.p99_ns),
            text.size(result.bytes_per_op),
            text.number(result.allocs_per_op),
        ]
        for result in report.of(workload)
    ]
    header = ["subject", "time/op", "op/s", "MB/s", "p50", "p99", "B/op", "allocs/op"]
    return _table(header, rows)


def _growth(report: Report, scale: Scale) -> str:
    """A row for each step, a column for each measure of each subject."""
    points = [point for point in report.scale if point.workload == scale.name]
    found = {(point.at, point.subject, point.measure): point for point in points}
    columns = [
        (subject, measure)
        for measure in scale.measures
        for subject in scale.subjects
        if any((point.subject, point.measure) == (subject, measure.name) for point in points)
    ]
    rows = []
    for at in dict.fromkeys(point.at for point in points):
        cells = [found.get((at, subject, measure.name)) for subject, measure in columns]
        values = (text.ABSENT if each is None else scale.value_text(each) for each in cells)
        rows.append([scale.step_text(at), *values])
    several = len(scale.subjects) > 1
    header = (f"{m.title}{f', `{name}`' if several else ''}" for name, m in columns)
    return _table([scale.axis, *header], rows)


def markdown(report: Report) -> str:
    """The whole report."""
    parts = ["# Benchmarks", _environment(report)]
    for subject in (name for name, each in all_subjects().items() if each.ours):
        if any(ratio.subject == subject for ratio in report.ratios):
            parts.append(f"## `{subject}` against the others")
            parts.append(
                "Its time divided by the other's, median (and range) of pairs of runs that "
                "followed each other. Below 1 is faster."
            )
            parts.append(_ratios(report, subject))
    for name in report.workloads():
        workload = WORKLOADS[name]
        parts += [f"## `{name}`: {workload.title}", workload.what, _results(report, name)]
    if report.sweep:
        parts.append("## Throughput over message size")
        parts.append("Messages one way, MB/s.")
        subjects = list(dict.fromkeys(point.subject for point in report.sweep))
        rates = {(point.subject, point.size): point.mb_per_s for point in report.sweep}
        rows = []
        for size in dict.fromkeys(point.size for point in report.sweep):
            found = [rates.get((subject, size)) for subject in subjects]
            cells = [text.ABSENT if rate is None else text.megabytes(rate) for rate in found]
            rows.append([text.size(size), *cells])
        parts.append(_table(["message", *(f"`{subject}`" for subject in subjects)], rows))
    for name in dict.fromkeys(point.workload for point in report.scale):
        scale = SCALES[name]
        parts += [f"## `{name}`: {scale.title}", scale.what, _growth(report, scale)]
    parts.append("## Who is who")
    measured = dict.fromkeys(result.subject for result in report.results)
    parts.append("\n".join(f"- `{name}`: {all_subjects()[name].summary}" for name in measured))
    if report.left_out:
        parts.append("## Left out")
        parts.append(
            "\n".join(f"- `{row.subject}` ({row.workload}): {row.why}" for row in report.left_out)
        )
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"
