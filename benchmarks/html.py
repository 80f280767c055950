"""The report as one HTML page that needs nothing else: pictures, tables, and how to read them."""

from __future__ import annotations

from html import escape
from pathlib import Path

from benchmarks import charts, text
from benchmarks.live import REFERENCE
from benchmarks.report import Report, Result
from benchmarks.scale.definitions import SCALES
from benchmarks.subjects import all_subjects
from benchmarks.workloads import WORKLOADS

_READING = """
<ul>
<li><b>Ratios, not times.</b> A ratio is a subject's time divided by another's. The two runs of a
pair follow each other, so that whatever else the machine does falls on both; the point is the
median of all pairs, the line reaches from the smallest to the largest. Below 1 is faster. Absolute
times drift from run to run and from machine to machine.</li>
<li><b>p50 and p99</b> are of single round trips. Where messages go one way the clock is read once
in 1024 messages (fewer if they are large), and p50 and p99 are of those blocks, per message.</li>
<li><b>MB/s</b> counts 10<sup>6</sup> bytes of messages, once per operation: a round trip carries
its message twice.</li>
<li><b>B/op and allocs/op</b> count what the timed process allocates through Python's allocators, by
all of its threads, in a steady state and in a pass of its own, without a clock. A block that is
used again from a free list or a pool is no allocation. Memory from elsewhere (C++, Go) is not
seen.</li>
</ul>"""

_METHOD = """
<ul>
<li>Client and server are <b>two processes</b> on 127.0.0.1. The process that is timed does nothing
else; the other side is as fast as its subject allows, so that it is not what is measured.</li>
<li>Rounds are <b>interleaved</b>: every subject in turn, and again. The operations of a round are
chosen so that each subject takes the same time.</li>
<li>In round trips client and server run on <b>different cores</b> (unless the kernel was told to
choose). Otherwise the kernel now and then puts both on one, where waking the other side costs next
to nothing: a tenfold difference, by chance.</li>
<li>The timed loop is the one a user writes: <code>send(payload)</code>, <code>receive()</code>. The
time of the loop itself, some 60 ns for a reading of the clock, is in every figure.</li>
<li>The baselines are <b>written to win</b>. They hand out no objects, they share nothing between
threads, and they check nothing that they could leave out.</li>
</ul>"""


def _tiles(report: Report, subject: str) -> str:
    tiles = []
    for name in report.workloads():
        result, ratio = report.result(name, subject), report.ratio(name, subject, REFERENCE)
        if result is None:
            continue
        figure, detail, mood = text.duration(result.ns_per_op), "", ""
        if ratio is not None:
            figure, mood = _words(ratio.median)
            detail = f"{text.duration(result.ns_per_op)}, ratio {text.ratio(ratio.median)}"
        tiles.append(
            f'<div class="tile"><div class="what">{escape(WORKLOADS[name].title)}</div>'
            f'<div class="figure {mood}">{figure}</div><div class="detail">{detail}</div></div>'
        )
    about = (
        f"{escape(subject)} against plain Python sockets that send a message at a time. All "
        "figures are from one machine and one run."
    )
    return f'<div class="tiles">{"".join(tiles)}</div><p class="faint below">{about}</p>'


def _words(ratio: float) -> tuple[str, str]:
    if 0.97 < ratio < 1.03:
        return "as fast", ""
    factor = 1 / ratio if ratio < 1 else ratio
    direction, mood = ("faster", "good") if ratio < 1 else ("slower", "bad")
    if factor < 1.5:
        return f"{100 * (factor - 1):.0f} %<small>{direction}</small>", mood
    return f"{text.significant(factor)}<small>times {direction}</small>", mood


def _legend(subjects: list[str]) -> str:
    entries = [
        f'<span><span class="dot" style="--colour:var({charts.colour_variable(name)})"></span>'
        f"{escape(name)}</span>"
        for name in subjects
    ]
    return f'<div class="legend">{"".join(entries)}</div>'


def _ratio_cards(report: Report) -> str:
    cards = []
    for subject in _ours(report):
        others = [ratio.versus for ratio in report.ratios if ratio.subject == subject]
        ordered = [name for name in all_subjects() if name in others]
        cards.append(
            f"<h3>{escape(subject)}, against</h3>"
            f'<div class="card">{_legend(ordered)}{charts.ratios(report, subject)}</div>'
        )
    return "".join(cards)


def _ours(report: Report) -> list[str]:
    """Our subjects that have ratios."""
    return [
        name
        for name, subject in all_subjects().items()
        if subject.ours and any(ratio.subject == name for ratio in report.ratios)
    ]


def _row(result: Result, slowest: float) -> str:
    name = result.subject
    cells = [
        text.rate(result.ops_per_s),
        text.megabytes(result.mb_per_s),
        text.duration(result.p50_ns),
        text.duration(result.p99_ns),
        text.size(result.bytes_per_op),
        text.number(result.allocs_per_op),
    ]
    share = f"{100 * result.ns_per_op / slowest:.1f}%"
    ours = ' class="ours"' if all_subjects()[name].ours else ""
    return (
        f"<tr{ours}><td>{escape(name)}</td>"
        f'<td class="time"><div class="bar"><i style="--share:{share};'
        f'--colour:var({charts.colour_variable(name)})"></i>'
        f"<span>{text.duration(result.ns_per_op)}</span></div></td>"
        f"{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
    )


def _table(report: Report, workload: str) -> str:
    results = report.of(workload)
    slowest = max(result.ns_per_op for result in results)
    header = ("subject", "time/op", "op/s", "MB/s", "p50", "p99", "B/op", "allocs/op")
    return (
        f"<h3>{escape(WORKLOADS[workload].title)} <code>{escape(workload)}</code></h3>"
        f'<p class="faint">{_code(WORKLOADS[workload].what)}</p>'
        f'<div class="card"><table><thead><tr>'
        f"{''.join(f'<th>{name}</th>' for name in header)}</tr></thead>"
        f"<tbody>{''.join(_row(result, slowest) for result in results)}</tbody></table></div>"
    )


def _code(words: str) -> str:
    """`Quoted` words as code."""
    parts = escape(words).split("`")
    marked = (f"<code>{part}</code>" if odd % 2 else part for odd, part in enumerate(parts))
    return "".join(marked)


def _environment(report: Report) -> str:
    found = report.environment
    threads = "free-threaded" if found.get("free_threaded") else "with the GIL"
    tcpconn = f"{found['tcpconn']}, {found['tcpconn_file']}" if found.get("tcpconn") else "none"
    rows = {
        "tcpconn": tcpconn,
        "Python": f"{found['implementation']} {found['python']}, {threads}",
        "System": f"{found['os']}, kernel {found['kernel']}, {found['machine']}",
        "Processor": f"{found['cpu']}, {found['cores']} cores",
        "Round trips": found.get("placement", ""),
        "Measured": found["date"].replace("T", " "),
    }
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in rows.items()
    )
    return f'<div class="card"><dl>{items}</dl></div>'


def _who(report: Report) -> str:
    measured = dict.fromkeys(result.subject for result in report.results)
    items = "".join(
        f"<li><b>{escape(name)}</b>: {_code(all_subjects()[name].summary)}</li>"
        for name in all_subjects()
        if name in measured
    )
    left_out = "".join(
        f"<li>{escape(row.subject)} ({escape(row.workload)}): {escape(row.why)}</li>"
        for row in report.left_out
    )
    missing = f"<h3>Left out</h3><ul>{left_out}</ul>" if left_out else ""
    return f"<ul>{items}</ul>{missing}"


def _section(title: str, lead: str, *content: str) -> str:
    about = f'<p class="faint">{lead}</p>' if lead else ""
    return f"<h2>{title}</h2>{about}{''.join(content)}"


def _card(*content: str) -> str:
    return f'<div class="card">{"".join(content)}</div>'


def _growth(report: Report) -> list[str]:
    """What grows: a section for each."""
    # Late: not every report has it.
    from benchmarks.scale.charts import growth

    sections = []
    for name in dict.fromkeys(point.workload for point in report.scale):
        points = [point for point in report.scale if point.workload == name]
        subjects = list(dict.fromkeys(point.subject for point in points))
        card = _card(_legend(subjects), growth(SCALES[name], points))
        sections.append(_section(escape(SCALES[name].title), _code(SCALES[name].what), card))
    return sections


def _sections(report: Report) -> list[str]:
    sections = []
    if ours := _ours(report):
        sections.append(_tiles(report, ours[0]))
        lead = "Points left of the line are faster than whom they are compared with."
        sections.append(_section("Ratios at a glance", lead, _ratio_cards(report)))
    if drawn := charts.latencies(report):
        lead = (
            "Every single one, on a logarithmic axis. The tall mark is the median (p50), the short "
            "one p99."
        )
        sections.append(_section("How long a round trip takes", lead, _card(drawn)))
    if drawn := charts.throughput(report):
        lead = "Messages one way from a plain loop, until the receiver has them all."
        swept = list(dict.fromkeys(point.subject for point in report.sweep))
        card = _card(_legend(swept), drawn)
        sections.append(_section("Throughput over message size", lead, card))
    sections.extend(_growth(report))
    if tables := [_table(report, name) for name in report.workloads()]:
        sections.append(_section("All figures", "", *tables))
    sections.append(_section("How to read it", "", _READING))
    sections.append(_section("How it was measured", "", _METHOD))
    sections.append(_section("Who is who", "", _who(report)))
    sections.append(_section("Where", "", _environment(report)))
    return sections


def html(report: Report) -> str:
    """The whole page."""
    date = escape(report.environment["date"][:10])
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    body = "\n".join(_sections(report))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>tcpconn, measured</title><style>
{style}</style></head>
<body><main>
<h1>tcpconn, measured</h1>
<p class="lead">Messages over TCP: against plain sockets, against sockets batched by hand, and
against what the machine itself allows. {date}.</p>
{body}
<footer>Made by <code>python -m benchmarks</code>.</footer>
</main></body></html>
"""
