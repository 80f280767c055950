"""The report's pictures: SVG from matplotlib, in the colours of the page that they are put into.

Everything is drawn in stand-in colours, which become CSS variables in the SVG's text, and text
stays text. So the pictures follow the page's font and its light and dark themes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, NullLocator

from benchmarks import text
from benchmarks.report import Ratio, Report
from benchmarks.subjects import all_subjects
from benchmarks.workloads import WORKLOADS, Kind

INK, FAINT, GRID, GOOD = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {INK: "--ink", FAINT: "--faint", GRID: "--line", GOOD: "--good-tint"}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
}
COLOURS = 18
"""How many colours for subjects the page has."""
_STEP = 0.2
"""Inches between the marks of a row; a row with few marks is as high as one with three."""
NAMED_FROM = 5
"""With more marks in a row, each has its name beside it: colours alone do not tell them apart."""
WIDTH = 9.6
"""Inches; the page scales a picture to its column."""


def colour_variable(subject: str) -> str:
    """The CSS variable of a subject's colour: its own for who is always there, else by turns."""
    known = list(all_subjects())
    return f"--subject-{known.index(subject) % COLOURS}" if subject in known else "--faint"


def colour(subject: str) -> str:
    """The stand-in for a subject's colour."""
    position = list(all_subjects()).index(subject)
    colour = f"#0a0a{16 + position % COLOURS:02x}"
    _VARIABLES[colour] = colour_variable(subject)
    return colour


def svg(figure: Figure, name: str, description: str) -> str:
    """The figure as SVG to stand in the page; ids are made unique by `name`."""
    buffer = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    # The page scales it, and says what it shows to who cannot see it.
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, count=1, flags=re.DOTALL)
    drawn = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", drawn, count=1)
    drawn = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", drawn, count=1)
    drawn = drawn.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)
    for pattern in (r'(id=")', r"(url\(#)", r'(href="#)'):
        drawn = re.sub(pattern, rf"\g<1>{name}-", drawn)
    drawn = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", drawn)
    for colour, variable in _VARIABLES.items():
        drawn = drawn.replace(colour, f"var({variable})")
    return drawn


def new_figure(
    width: float, height: float, rows: int, columns: int, **grid: Any
) -> tuple[Figure, Any]:
    """A figure of so many inches, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw=grid)
    return figure, axes


def ratios(report: Report, subject: str) -> str:
    """One of our subjects against all others: a row per workload, below 1 is faster."""
    rows = [ratio for ratio in report.ratios if ratio.subject == subject]
    workloads = [name for name in report.workloads() if any(r.workload == name for r in rows)]
    others = report.versus(subject)
    most = max(sum(row.workload == name for row in rows) for name in workloads)
    row_height = _STEP * max(3.3, most + 1)
    step = _STEP / row_height
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(WIDTH, 0.9 + row_height * len(workloads), 1, 1)
        axis: Axes = axes[0][0]
        _ratio_axis(axis, rows)
        for row, workload in enumerate(workloads):
            if row:
                axis.axhline(row - 0.5, color=GRID, linewidth=0.6)
            drawn = [each for other in others for each in rows if _is(each, workload, other)]
            for place, ratio in enumerate(drawn):
                height = row + (place - (len(drawn) - 1) / 2) * step
                _ratio_mark(axis, ratio, height, named=most > NAMED_FROM)
        axis.set_ylim(len(workloads) - 0.5, -0.5)
        axis.set_yticks(range(len(workloads)), [WORKLOADS[name].title for name in workloads])
        axis.tick_params(axis="y", length=0, pad=8)
        axis.spines["left"].set_visible(False)
        return svg(figure, f"ratios-{subject}", f"Ratios of {subject} to the others")


def _is(ratio: Ratio, workload: str, versus: str) -> bool:
    return ratio.workload == workload and ratio.versus == versus


def _ratio_axis(axis: Axes, rows: Sequence[Ratio]) -> None:
    lowest = min(0.5, *(row.min for row in rows)) / 1.25
    highest = max(2.0, *(row.max for row in rows)) * 1.5
    axis.set_xscale("log")
    axis.set_xlim(lowest, highest)
    axis.axvspan(lowest, 1, color=GOOD, linewidth=0, zorder=0)
    axis.axvline(1, color=FAINT, linewidth=1.2, zorder=1)
    marks = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]
    shown = [mark for mark in marks if lowest < mark < highest]
    axis.xaxis.set_major_locator(FixedLocator(shown))
    axis.xaxis.set_major_formatter(FixedFormatter([f"{mark:g}" for mark in shown]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(visible=True, axis="x", zorder=0)
    axis.set_axisbelow(True)
    axis.set_xlabel("time, divided by the other's (logarithmic)")
    for position, words, side in ((0.97, "faster", "right"), (1.03, "slower", "left")):
        axis.annotate(
            words,
            (position, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 5),
            textcoords="offset points",
            ha=side,
            color=FAINT,
        )


def _ratio_mark(axis: Axes, ratio: Ratio, height: float, named: bool) -> None:
    own = colour(ratio.versus)
    axis.plot([ratio.min, ratio.max], [height, height], color=own, linewidth=2.2, alpha=0.35)
    axis.plot([ratio.median], [height], "o", color=own, markersize=6, zorder=3)
    axis.annotate(
        f"{text.ratio(ratio.median)} {ratio.versus if named else ''}",
        (max(ratio.max, ratio.median), height),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        color=FAINT,
    )


def latencies(report: Report) -> str:
    """How long single round trips took: a panel per workload, a ridge per subject."""
    shown = [
        name
        for name in report.workloads()
        if not WORKLOADS[name].kind.one_way and _densities(report, name)
    ]
    if not shown:
        return ""
    rows = math.ceil(len(shown) / 2)
    subjects = max(len(_densities(report, name)) for name in shown)
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(WIDTH, rows * (0.95 + 0.42 * subjects), rows, 2, hspace=0.12)
        for axis, name in zip(axes.flat, shown, strict=False):
            _ridges(axis, report, name)
        for axis in list(axes.flat)[len(shown) :]:
            axis.set_visible(False)
        return svg(figure, "latencies", "Distributions of round-trip times")


def _densities(report: Report, workload: str) -> dict[str, list[tuple[float, float]]]:
    return {
        row["subject"]: row["density"]
        for row in report.distributions
        if row["workload"] == workload and row["density"]
    }


def _ridges(axis: Axes, report: Report, workload: str) -> None:
    densities = _densities(report, workload)
    # The rarest half percent on each side would squeeze all others together.
    edges = [_edges(density) for density in densities.values()]
    low, high = min(edge[0] for edge in edges) / 1.3, max(edge[1] for edge in edges) * 1.3
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    for row, (subject, density) in enumerate(densities.items()):
        at, share = _filled(density)
        height = 0.86 * share / share.max()
        own = colour(subject)
        axis.fill_between(at, row, row - height, color=own, alpha=0.32, linewidth=0)
        axis.plot(at, row - height, color=own, linewidth=1.3)
        result = report.result(workload, subject)
        if result is not None and result.p50_ns and result.p99_ns:
            axis.plot([result.p50_ns] * 2, [row, row - 0.86], color=own, linewidth=1.3)
            axis.plot([result.p99_ns] * 2, [row, row - 0.3], color=own, linewidth=1.3)
    axis.set_ylim(len(densities) - 0.9, -1.05)
    axis.set_yticks(range(len(densities)), densities)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.set_title(WORKLOADS[workload].title, loc="left", fontsize=11, pad=4)
    _time_ticks(axis, low, high)
    if WORKLOADS[workload].kind is Kind.FRESH:
        axis.set_xlabel("time, from connect to close")


def _edges(density: Sequence[tuple[float, float]]) -> tuple[float, float]:
    low = high = density[0][0]
    seen = 0.0
    for at, share in density:
        if seen < 0.005:
            low = at
        if seen < 0.995:
            high = at
        seen += share
    return low, high


def _filled(density: Sequence[tuple[float, float]]) -> tuple[Any, Any]:
    """The bins with the empty ones between them, lightly smoothed."""
    width = math.log(1.04)
    places = [round(math.log(at) / width) for at, _ in density]
    first, last = places[0] - 2, places[-1] + 2
    share = np.zeros(last - first + 1)
    for place, (_, value) in zip(places, density, strict=True):
        share[place - first] += value
    at = np.exp(np.arange(first, last + 1) * width)
    return at, np.convolve(share, [0.25, 0.5, 0.25], mode="same")


def _time_ticks(axis: Axes, low: float, high: float) -> None:
    marks = [factor * 10**power for power in range(2, 9) for factor in (1, 2, 5)]
    within = [mark for mark in marks if low <= mark <= high]
    if len(within) > 6:
        within = [mark for mark in within if str(mark)[0] == "1"]
    axis.xaxis.set_major_locator(FixedLocator(within))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short_time(value)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(visible=True, axis="x")
    axis.set_axisbelow(True)


def _short_time(ns: float) -> str:
    factor, unit = (1e6, "ms") if ns >= 1e6 else (1e3, "µs") if ns >= 1e3 else (1, "ns")
    return f"{ns / factor:g} {unit}"


def throughput(report: Report) -> str:
    """Messages one way: MB/s over message size."""
    if not report.sweep:
        return ""
    subjects = list(dict.fromkeys(point.subject for point in report.sweep))
    sizes = sorted({point.size for point in report.sweep})
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(WIDTH, 3.9, 1, 1)
        axis: Axes = axes[0][0]
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        for subject in subjects:
            points = [point for point in report.sweep if point.subject == subject]
            at = [point.size for point in points]
            rates = [point.mb_per_s for point in points]
            axis.plot(at, rates, "o-", color=colour(subject), linewidth=2.2, markersize=5)
        axis.xaxis.set_major_locator(FixedLocator(sizes))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text.size(value)))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        _rate_ticks(axis, (point.mb_per_s for point in report.sweep))
        axis.set_xlim(sizes[0] / 1.3, sizes[-1] * 1.3)
        axis.grid(visible=True)
        axis.set_axisbelow(True)
        axis.tick_params(length=0, labelcolor=FAINT)
        axis.set_xlabel("message")
        axis.set_title("MB/s (logarithmic)", loc="left", fontsize=10.5, color=FAINT)
        return svg(figure, "throughput", "Throughput over message size")


def _rate_ticks(axis: Axes, rates: Iterable[float]) -> None:
    found = sorted(rates)
    marks = [factor * 10**power for power in range(6) for factor in (1, 2, 5)]
    within = [mark for mark in marks if found[0] / 1.6 <= mark <= found[-1] * 1.6]
    axis.yaxis.set_major_locator(FixedLocator(within))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_ylim(found[0] / 1.6, found[-1] * 1.6)
