"""This tree against another commit of it, run by run: make bench-compare BASE=<commit>

    python -m benchmarks.compare BASE            all workloads, some two minutes
    python -m benchmarks.compare BASE --only small --subject tcpconn_busy_poll

The base is built in `build/compare/`, once for each commit; this tree is what `python -m
benchmarks` measures. Both are driven by this tree's harness, in processes of their own that live
side by side, interleaved: A B A B. A ratio is this tree's time divided by the base's, taken pair by
pair: below 1 is faster. Where the span from the first to the third quarter of the pairs includes 1,
nothing can be said.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ROOT, text
from benchmarks.processes import ChildFailed, Pair
from benchmarks.runner import PATIENCE_SECONDS, Deadline
from benchmarks.subjects import all_subjects
from benchmarks.workloads import WORKLOADS, Workload

BUILD_SECONDS = 600
FOLDER = ROOT / "build" / "compare"


class NotBuilt(Exception):
    """The base cannot be had; the text says why, for the user."""


def _git(*arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    except OSError as error:
        raise NotBuilt(f"git: {error}") from None
    if done.returncode:
        raise NotBuilt(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def commit_of(base: str) -> str:
    """The full name of a commit; raises `NotBuilt`."""
    return _git("rev-parse", "--verify", "--end-of-options", f"{base}^{{commit}}").decode().strip()


def build(commit: str) -> Path:
    """Where the commit's package lies, to be put on the path; built if it is not there yet."""
    # The interpreter has a part in it too.
    tag = f"{sys.implementation.cache_tag}{getattr(sys, 'abiflags', '')}"
    site = FOLDER / f"{commit[:12]}-{tag}"
    if site.exists():
        return site
    tree = site.with_name(f"{site.name}.tree")
    partial = site.with_name(f"{site.name}.partial")
    for left_over in (tree, partial):
        shutil.rmtree(left_over, ignore_errors=True)
    tree.mkdir(parents=True)
    packed = tree / "tree.tar"
    packed.write_bytes(_git("archive", "--format=tar", commit))
    with tarfile.open(packed) as archive:
        archive.extractall(tree, filter="data")
    packed.unlink()
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
    done = subprocess.run(
        [*pip, "install", "--no-deps", "--no-build-isolation", "--target", partial, tree],
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if done.returncode:
        raise NotBuilt(f"{commit[:12]} cannot be built:\n{done.stderr.strip()}")
    # Complete before it has its name.
    partial.rename(site)
    shutil.rmtree(tree)
    return site


@dataclass(frozen=True)
class Comparison:
    """One workload: times (ns) of runs that followed each other."""

    base: Sequence[float]
    this: Sequence[float]

    @property
    def ratios(self) -> list[float]:
        """This tree's times by the base's, pair by pair."""
        return [ours / theirs for ours, theirs in zip(self.this, self.base, strict=True)]

    @property
    def median(self) -> float:
        """Of the ratios."""
        return statistics.median(self.ratios)

    @property
    def middle(self) -> tuple[float, float]:
        """The first and the third quarter of the ratios."""
        ratios = self.ratios
        if len(ratios) == 1:
            return ratios[0], ratios[0]
        first, _, third = statistics.quantiles(ratios, n=4, method="inclusive")
        return first, third

    @property
    def verdict(self) -> str:
        """In words."""
        low, high = self.middle
        if low <= 1 <= high or len(self.ratios) < 3:
            return "as fast, as far as one can tell"
        return text.faster(self.median)


def measure(
    workload: Workload, subject: str, site: Path, rounds: int, seconds: float, most: float
) -> Comparison:
    """Runs both, interleaved, for `most` seconds at the longest; raises `ChildFailed`."""
    deadline = Deadline(most)
    pairs = {
        "base": Pair(subject, workload.name, environment={"PYTHONPATH": str(site)}),
        "this": Pair(subject, workload.name),
    }
    times: dict[str, list[float]] = {"base": [], "this": []}
    try:
        for pair in pairs.values():
            pair.connect()
        for pair in pairs.values():
            pair.ready()
        budget = seconds * 1e9
        operations = [
            pair.ask(PATIENCE_SECONDS, do="calibrate", budget_ns=budget)["operations"]
            for pair in pairs.values()
        ]
        for _ in range(rounds):
            for name, pair in pairs.items():
                run = pair.ask(PATIENCE_SECONDS, do="time", operations=min(operations))
                times[name].append(run["elapsed_ns"] / run["operations"])
            if deadline.left() < 0:
                break
    finally:
        for pair in pairs.values():
            pair.end()
    return Comparison(times["base"], times["this"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description="Measures this tree against another commit of it, run by run.",
    )
    parser.add_argument("base", metavar="BASE", help="a commit: HEAD~3, main, a tag …")
    parser.add_argument("--only", action="append", choices=list(WORKLOADS), help="may be repeated")
    parser.add_argument("--subject", default="tcpconn", help="or another one of ours")
    parser.add_argument("--rounds", type=int, default=25, help="pairs of runs of each workload")
    parser.add_argument("--round-seconds", type=float, default=0.25, metavar="S", help="one run")
    parser.add_argument(
        "--most-seconds", type=float, default=30.0, metavar="S", help="for one workload"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    subject = all_subjects().get(arguments.subject)
    if subject is None or not subject.ours:
        parser.error(f"{arguments.subject!r} is no subject of ours")
    if reason := subject.missing():
        parser.error(reason)
    try:
        commit = commit_of(arguments.base)
        print(f"base: {_git('log', '-1', '--format=%h %s', commit).decode().strip()}", flush=True)
        site = build(commit)
    except NotBuilt as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    print(f"{'':<14}{'base':>10}{'this':>10}{'ratio':>8}{'middle half':>15}{'all':>15}", flush=True)
    failed = False
    for name in dict.fromkeys(arguments.only or WORKLOADS):
        try:
            found = measure(
                WORKLOADS[name],
                subject.name,
                site,
                arguments.rounds,
                arguments.round_seconds,
                arguments.most_seconds,
            )
        except ChildFailed as failure:
            failed = True
            print(f"{name:<14}{failure}{os.linesep}{failure.output}", file=sys.stderr)
            continue
        print(_row(name, found), flush=True)
    return 1 if failed else 0


def _row(name: str, found: Comparison) -> str:
    times = (statistics.median(found.base), statistics.median(found.this))
    spans = (found.middle, (min(found.ratios), max(found.ratios)))
    return (
        f"{name:<14}"
        + "".join(f"{text.duration(each):>10}" for each in times)
        + f"{found.median:>8.3f}"
        + "".join(f"{f'{low:.3f}-{high:.3f}':>15}" for low, high in spans)
        + f"  {found.verdict}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
