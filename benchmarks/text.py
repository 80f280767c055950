"""Figures for people: three significant digits and a unit."""

from __future__ import annotations

ABSENT = "-"
"""Stands for what was not measured."""


def significant(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def duration(ns: float | None) -> str:
    """A time, given in ns."""
    if ns is None:
        return ABSENT
    for factor, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if ns >= factor:
            return f"{significant(ns / factor)} {unit}"
    return f"{significant(ns)} ns"


def rate(per_second: float) -> str:
    """Operations per second."""
    return f"{per_second:,.0f}"


def megabytes(mb_per_s: float) -> str:
    """Throughput, given in MB/s (10^6 bytes)."""
    return significant(mb_per_s)


def size(number: float | None) -> str:
    """Bytes, as they are: 1024 is 1 KiB."""
    if number is None:
        return ABSENT
    for factor, unit in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if number >= factor:
            value = number / factor
            return f"{int(value)} {unit}" if value == int(value) else f"{significant(value)} {unit}"
    # Less than half a byte is what a loop of thousands allocates once.
    number = 0 if number < 0.5 else number
    return f"{int(number)} B" if number == int(number) else f"{significant(number)} B"


def number(value: float | None) -> str:
    """A count per operation; `ABSENT` if it was not counted."""
    if value is None:
        return ABSENT
    # What a loop of thousands allocates once is not nothing, but next to it.
    return "0" if abs(value) < 0.005 else significant(value)


def ratio(value: float) -> str:
    """A ratio of times."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def faster(value: float) -> str:
    """A ratio of times in words."""
    if 0.97 < value < 1.03:
        return "as fast"
    times = 1 / value if value < 1 else value
    return f"{significant(times)} times {'faster' if value < 1 else 'slower'}"
