"""How many instructions the hot paths take, and what has changed since that was recorded.

    python -m benchmarks.cost             counts, and compares with benchmarks/cost.json
    python -m benchmarks.cost --record    counts, and records

Instructions do not depend on what else the machine does. Compared are those in tcpconn's own
compiled modules. What the C library adds (memory, copies, locks) is told too, but it depends on the
processor. Another compiler or another Cython makes other instructions of the same source: then
there is nothing to compare with, and it says so.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path

from benchmarks import callgrind, hot_paths

RECORD = Path(__file__).with_name("cost.json")
EXACT = 0.01
"""Share by which a path without sockets may grow: its count is the same each time."""
LOOSE = 0.03
"""The same where other threads of the process have a part."""
TOLD = 0.5
"""Instructions an operation from which on a function is worth telling."""
MOST_TOLD = 6


@dataclass
class Cost:
    """Instructions for one operation."""

    ours: float
    """In tcpconn's modules."""
    libc: float | None
    """In the C library; None where that says nothing."""
    functions: dict[str, float] = field(default_factory=dict)
    """Ours, by function."""

    def rounded(self) -> Cost:
        """To tenths; functions that matter, the largest first."""
        largest = sorted(self.functions.items(), key=lambda item: -item[1])
        kept = {name: round(cost, 1) for name, cost in largest if cost >= TOLD}
        libc = None if self.libc is None else round(max(0.0, self.libc), 1)
        return Cost(round(self.ours, 1), libc, kept)


def environment() -> dict[str, str]:
    """What decides which instructions a source becomes."""
    compiler = str(sysconfig.get_config_var("CC") or "cc").split()[0]
    try:
        asked = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
        built_with = asked.stdout.splitlines()[0]
    except (OSError, IndexError):
        built_with = compiler
    try:
        cython = version_of("Cython")
    except PackageNotFoundError:
        cython = "unknown"
    return {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "compiler": built_with,
        "cython": cython,
    }


def count() -> dict[str, Cost]:
    """Runs the hot paths under callgrind; raises `callgrind.NoCallgrind`."""
    with tempfile.TemporaryDirectory(prefix="benchmarks-cost-") as folder:
        files = callgrind.run("benchmarks.hot_paths", Path(folder), "getppid")
        return costs_of(
            [
                (region, callgrind.read(path.read_text(errors="replace").splitlines()))
                for region, path in zip(hot_paths.plan(), files, strict=False)
                if region is not None
            ]
        )


def costs_of(
    counted: Sequence[tuple[hot_paths.Region, Counter[callgrind.Function]]],
) -> dict[str, Cost]:
    """The cost of each path from the counts of its regions."""
    by_path: dict[str, list[tuple[hot_paths.Region, Cost]]] = defaultdict(list)
    for region, functions in counted:
        ours: Counter[str] = Counter()
        for function, instructions in functions.items():
            if function.ours:
                ours[callgrind.readable(function.name)] += instructions
        if region.path:
            libc = sum(cost for function, cost in functions.items() if function.of_libc)
            cost = Cost(ours.total(), None if region.waits else libc, dict(ours))
            by_path[region.path].append((region, cost))
    return {path: _cost(regions).rounded() for path, regions in by_path.items()}


def _cost(regions: list[tuple[hot_paths.Region, Cost]]) -> Cost:
    sizes = sorted({region.operations for region, _ in regions})
    if len(sizes) == 2:
        [once], [twice] = (
            [cost for region, cost in regions if region.operations == size] for size in sizes
        )
        return _per_operation(twice, sizes[1] - sizes[0], less=once)
    found = [_per_operation(cost, region.operations) for region, cost in regions]
    # The round in the middle, by what is compared; its functions go with it.
    middle = statistics.median_low(sorted(cost.ours for cost in found))
    return next(cost for cost in found if cost.ours == middle)


def _per_operation(cost: Cost, operations: int, less: Cost | None = None) -> Cost:
    less = less or Cost(0, 0)
    return Cost(
        (cost.ours - less.ours) / operations,
        None if cost.libc is None else (cost.libc - (less.libc or 0)) / operations,
        {
            name: (instructions - less.functions.get(name, 0)) / operations
            for name, instructions in cost.functions.items()
        },
    )


def tolerance(path: str) -> float:
    """By which share a path may grow."""
    return EXACT if path.startswith("session") else LOOSE


def changes(before: Cost, after: Cost) -> list[str]:
    """Which functions have changed, the largest change first."""
    names = {*before.functions, *after.functions}
    found = {name: after.functions.get(name, 0) - before.functions.get(name, 0) for name in names}
    largest = sorted(found.items(), key=lambda item: -abs(item[1]))
    return [f"{change:+.1f} {name}" for name, change in largest if abs(change) >= TOLD][:MOST_TOLD]


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _row(path: str, was: Cost | None, now: Cost) -> str:
    figures = (was.ours if was else None, now.ours, now.libc)
    return f"{path:<34}" + "".join(f"{_or_dash(figure):>10}" for figure in figures)


def compare(recorded: dict[str, Cost], counted: dict[str, Cost]) -> tuple[list[str], bool]:
    """Lines that say how each path fares, and whether all are within their tolerance."""
    lines = [f"{'instructions for one operation':<34}{'recorded':>10}{'now':>10}{'libc':>10}"]
    good = True
    for path, now in counted.items():
        was = recorded.get(path)
        line = _row(path, was, now)
        if was is None:
            lines.append(f"{line}  not recorded yet")
            continue
        share = now.ours / was.ours - 1 if was.ours else float(now.ours > 0)
        if abs(share) <= tolerance(path):
            lines.append(line)
            continue
        if share > 0:
            good = False
        verdict = "more than is allowed" if share > 0 else "less: --record keeps it so"
        lines.append(f"{line}  {share:+.1%}, {verdict}")
        lines += [f"    {change}" for change in changes(was, now)]
    lines += [f"{path:<34}is recorded, but was not counted" for path in recorded.keys() - counted]
    return lines, good and not recorded.keys() - counted.keys()


def load() -> tuple[dict[str, str], dict[str, Cost]]:
    """What is recorded: the environment, and the costs."""
    data = json.loads(RECORD.read_text(encoding="utf-8"))
    return data["environment"], {path: Cost(**cost) for path, cost in data["costs"].items()}


def save(counted: dict[str, Cost]) -> None:
    """Records."""
    data = {
        "environment": environment(),
        "costs": {path: asdict(cost) for path, cost in counted.items()},
    }
    RECORD.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line: 0, 1 if a path costs more than is allowed, 2 if none is known."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost",
        description="Counts the instructions of the hot paths with callgrind, and compares them "
        f"with those in benchmarks/{RECORD.name}.",
    )
    parser.add_argument("--record", action="store_true", help="record what is counted")
    arguments = parser.parse_args(argv)
    try:
        counted = count()
    except callgrind.NoCallgrind as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    if arguments.record:
        recorded = load()[1] if RECORD.exists() else {}
        print("\n".join(compare(recorded, counted)[0]))
        save(counted)
        print(f"recorded in benchmarks/{RECORD.name}")
        return 0
    if not RECORD.exists():
        print("error: nothing is recorded yet: --record does it", file=sys.stderr)
        return 2
    where, recorded = load()
    lines, good = compare(recorded, counted)
    print("\n".join(lines))
    here = environment()
    if where != here:
        print("recorded elsewhere, so that the difference says nothing:")
        for key in here:
            print(f"  {key}: {where.get(key)}; here {here[key]}")
        return 0
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
