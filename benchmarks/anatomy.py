"""Where the time of a workload goes: processor time, system calls and sleeps of both processes.

    python -m benchmarks.anatomy [--only WORKLOAD] [--subjects NAME,…] [--seconds S]

The processor's time and the sleeps are the kernel's own count for the whole process, all threads
of it, from before the first operation until after the last. System calls are counted by `perf
stat`, in a pass of its own, where it is installed and may be used (`kernel.perf_event_paranoid`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import text
from benchmarks.processes import ChildFailed, Pair
from benchmarks.subjects import all_subjects
from benchmarks.workloads import WORKLOADS

PATIENCE_SECONDS = 60.0
"""How long any answer may take."""
CALLS = ("sendmsg", "sendto", "recvmsg", "recvfrom", "ppoll", "poll", "epoll_wait", "futex")
"""System calls that get a column. All others are in the sum."""
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
SUBJECTS = ("tcpconn", "raw_tcp", "raw_tcp_batched", "limit")


@dataclass
class Usage:
    """What a process has used so far."""

    user_ns: int
    system_ns: int
    sleeps: int
    """How often one of its threads went to sleep."""
    interruptions: int
    """How often one was interrupted, for another one's sake."""

    def __sub__(self, before: Usage) -> Usage:
        return Usage(
            self.user_ns - before.user_ns,
            self.system_ns - before.system_ns,
            self.sleeps - before.sleeps,
            self.interruptions - before.interruptions,
        )


def usage(pid: int) -> Usage:
    """Of all threads that live."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    found = Usage(int(fields[11]) * TICK_NS, int(fields[12]) * TICK_NS, 0, 0)
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            status = (task / "status").read_text()
            for name, count in re.findall(
                r"^(\w*voluntary)_ctxt_switches:\s+(\d+)", status, re.MULTILINE
            ):
                if name == "voluntary":
                    found.sleeps += int(count)
                else:
                    found.interruptions += int(count)
    return found


class Counter:
    """`perf stat` on one process."""

    def __init__(self, pid: int) -> None:
        events = ["raw_syscalls:sys_enter", *(f"syscalls:sys_enter_{name}" for name in CALLS)]
        self._process = subprocess.Popen(
            ["perf", "stat", "-x", ";", "-p", str(pid), "-e", ",".join(events)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "LC_ALL": "C"},
        )
        # It says nothing when it has begun; it has, when it holds its events open.
        opened = Path(f"/proc/{self._process.pid}/fd")

        def events_open() -> int:
            return sum("perf_event" in str(each.readlink()) for each in opened.iterdir())

        until = time.monotonic() + 5
        while self._process.poll() is None and time.monotonic() < until:
            with contextlib.suppress(OSError):
                if events_open() >= len(events):
                    break
            time.sleep(0.01)

    def stop(self) -> dict[str, int]:
        """The counts, by name; `all` is the sum of all calls, these and others."""
        self._process.send_signal(signal.SIGINT)
        _, output = self._process.communicate(timeout=PATIENCE_SECONDS)
        counts = {}
        for line in output.splitlines():
            fields = line.split(";")
            if len(fields) > 2 and fields[0].isdigit():
                name = fields[2].rpartition("sys_enter")[2].lstrip("_")
                counts[name or "all"] = int(fields[0])
        return counts


def can_count() -> bool:
    """Whether `perf` is there and may count system calls."""
    if shutil.which("perf") is None:
        return False
    probe = subprocess.run(
        ["perf", "stat", "-x", ";", "-e", "raw_syscalls:sys_enter", "true"],
        check=False,
        capture_output=True,
        text=True,
    )
    return probe.returncode == 0 and "not" not in probe.stderr


@dataclass
class Side:
    """One process in one workload; everything for one operation."""

    role: str
    user_ns: float
    system_ns: float
    sleeps: float
    interruptions: float
    calls: dict[str, float]


def measure(subject: str, workload: str, seconds: float, count: bool) -> tuple[float, list[Side]]:
    """The time of one operation in ns, and both sides of it."""
    pair = Pair(subject, workload)
    try:
        pair.connect()
        pair.ready()
        assert pair.client is not None
        budget = int(seconds * 1e9)
        operations = pair.ask(PATIENCE_SECONDS, do="calibrate", budget_ns=budget)["operations"]
        pids = {"client": pair.client.pid, "server": pair.server.pid}
        before = {role: usage(pid) for role, pid in pids.items()}
        timed = pair.ask(PATIENCE_SECONDS, do="time", operations=operations)
        used = {role: usage(pid) - before[role] for role, pid in pids.items()}
        done = timed["operations"]
        calls: dict[str, dict[str, int]] = {}
        counted = done
        if count:
            counters = {role: Counter(pid) for role, pid in pids.items()}
            counted = pair.ask(PATIENCE_SECONDS, do="time", operations=operations)["operations"]
            calls = {role: counter.stop() for role, counter in counters.items()}
    finally:
        pair.end()
    sides = [
        Side(
            role,
            each.user_ns / done,
            each.system_ns / done,
            each.sleeps / done,
            each.interruptions / done,
            {name: number / counted for name, number in calls.get(role, {}).items()},
        )
        for role, each in used.items()
    ]
    return timed["elapsed_ns"] / done, sides


def _figure(value: float) -> str:
    return "-" if value < 0.0005 else f"{value:.3f}" if value < 1 else f"{value:.2f}"


Measured = tuple[str, float, list[Side]]
"""A subject, the time of one operation in ns, and both sides of it."""


def table(measured: Sequence[Measured]) -> Iterator[str]:
    """A title, and two lines for each subject. A system call that none made has no column."""
    names = [
        name
        for name in ("all", *CALLS)
        if any(side.calls.get(name) for _, _, sides in measured for side in sides)
    ]
    titles = ["time", "", "user", "system", "sleeps", "preempted"]
    titles += ["syscalls" if name == "all" else name for name in names]
    yield f"  {'subject':<18}" + "".join(f"{title:>11}" for title in titles)
    for subject, per_operation, sides in measured:
        for first, side in zip((True, False), sides, strict=True):
            cells = [
                text.duration(per_operation) if first else "",
                side.role,
                text.duration(side.user_ns),
                text.duration(side.system_ns),
                _figure(side.sleeps),
                _figure(side.interruptions),
                *(_figure(side.calls.get(name, 0)) for name in names),
            ]
            yield f"  {subject if first else '':<18}" + "".join(f"{cell:>11}" for cell in cells)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.anatomy",
        description="Says what one operation of a workload takes of the processor, and how many "
        "system calls and sleeps, on both sides.",
    )
    parser.add_argument("--only", metavar="WORKLOAD", action="append", choices=list(WORKLOADS))
    parser.add_argument("--subjects", metavar="NAME,…", default=",".join(SUBJECTS))
    parser.add_argument("--seconds", metavar="S", type=float, default=2.0, help="of each pass")
    chosen = parser.parse_args(argv)
    subjects = all_subjects()
    for name in chosen.subjects.split(","):
        if name not in subjects:
            parser.error(f"no subject {name!r}; there are: {', '.join(subjects)}")
    count = can_count()
    if not count:
        print(
            "perf is not here, or may not count system calls: those are left out", file=sys.stderr
        )
    for workload in chosen.only or WORKLOADS:
        kind = WORKLOADS[workload].kind
        measured: list[Measured] = []
        for name in chosen.subjects.split(","):
            if kind not in subjects[name].kinds or subjects[name].missing():
                continue
            try:
                measured.append((name, *measure(name, workload, chosen.seconds, count)))
            except ChildFailed as failure:
                print(f"{workload}, {name}: {failure}", file=sys.stderr)
        print(f"{workload}: {WORKLOADS[workload].title}, for one operation")
        for line in table(measured):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
