"""Pictures of what grows: a panel for each measure, a line for each subject."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from benchmarks.charts import FAINT, STYLE, WIDTH, colour, new_figure, svg
from benchmarks.scale.definitions import Measure, Scale, ScalePoint, Unit

_PANEL = 2.7
"""Inches a panel is high."""
_MOST_TICKS = 6


def growth(scale: Scale, points: Sequence[ScalePoint]) -> str:
    """Everything that was measured of one."""
    shown = [each for each in scale.measures if any(p.measure == each.name for p in points)]
    rows = math.ceil(len(shown) / 2)
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(WIDTH, _PANEL * rows, rows, 2)
        for axis, measure in zip(axes.flat, shown, strict=False):
            _panel(axis, scale, measure, [p for p in points if p.measure == measure.name])
        for axis in list(axes.flat)[len(shown) :]:
            axis.set_visible(False)
        return svg(figure, f"scale-{scale.name}", f"{scale.title}: cost over number or size")


def _panel(axis: Axes, scale: Scale, measure: Measure, points: Sequence[ScalePoint]) -> None:
    axis.set_xscale("log")
    steps = sorted({point.at for point in points})
    for subject in dict.fromkeys(point.subject for point in points):
        line = [point for point in points if point.subject == subject]
        axis.plot(
            [point.at for point in line],
            [point.value for point in line],
            "o-",
            color=colour(subject),
            linewidth=2.0,
            markersize=4.5,
        )
    axis.set_xlim(steps[0] / 1.4, steps[-1] * 1.4)
    axis.xaxis.set_major_locator(FixedLocator(_thinned(steps)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda at, _: scale.step_text(at)))
    axis.xaxis.set_minor_locator(NullLocator())
    _values_axis(axis, measure, [point.value for point in points])
    axis.grid(visible=True)
    axis.set_axisbelow(True)
    axis.tick_params(length=0, labelcolor=FAINT, labelsize=9)
    axis.set_xlabel(scale.axis, fontsize=9.5)
    axis.set_title(measure.title, loc="left", fontsize=10.5, pad=5)


def _thinned(steps: Sequence[int]) -> Sequence[int]:
    """Those that have room on the axis."""
    distance = math.log(steps[-1] / steps[0]) / _MOST_TICKS
    shown = [steps[0]]
    for step in steps[1:]:
        if math.log(step / shown[-1]) >= distance:
            shown.append(step)
    return shown


def _values_axis(axis: Axes, measure: Measure, values: Sequence[float]) -> None:
    low, high = min(values), max(values)
    if high < 4 * low or measure.unit is Unit.BYTES:
        # From zero, so that what hardly changes looks like it.
        axis.set_ylim(0, high * 1.25)
        axis.yaxis.set_major_locator(MaxNLocator(nbins=4))
    else:
        axis.set_yscale("log")
        axis.set_ylim(low / 1.6, high * 1.6)
        decades = math.log10(high / low)
        factors = (1, 2, 5) if decades < 2 else (1,)
        powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        marks = [factor * 10.0**power for power in powers for factor in factors]
        within = [mark for mark in marks if low / 1.6 <= mark <= high * 1.6]
        axis.yaxis.set_major_locator(FixedLocator(_thinned_marks(within)))
        axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: measure.unit.text(value)))


def _thinned_marks(marks: Sequence[float]) -> Sequence[float]:
    return marks[:: math.ceil(len(marks) / _MOST_TICKS)] if marks else marks
