"""`python -m fuzz`: runs workers, gathers what they find, makes it small, and says how it went.

`make fuzz` builds what this needs and runs it. Findings are written to a directory, a case and a
report each; a case is run again with `python -m fuzz.worker --replay FILE` in the same environment.
"""

from __future__ import annotations

import argparse
import json
import marshal
import os
import random
import re
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import tcpconn
from fuzz import cases
from fuzz.cases import Case
from fuzz.targets import TARGETS
from fuzz.worker import NOTE_SIZE, Coverage, run

MINIMISE_SECONDS = 60.0
PAUSE = 1.0
KEEP_MOST = 150
"""Cases of a target that are kept in the repository …"""

LONGEST = 20_000
"""… and how long one of them may be."""


class Child(NamedTuple):
    """A worker."""

    process: subprocess.Popen[bytes]
    note: Path
    log: Path
    numbers: dict[str, int]


class Signature(NamedTuple):
    """What makes two findings the same."""

    what: str
    where: str


def signature(report: str, code: int) -> Signature:
    """The kind of a failure and the place in our code that it came from."""
    if code == -signal.SIGPROF:
        return Signature("hang", "")
    sanitizer = re.search(r"(?:ERROR: AddressSanitizer:|runtime error:) (.*)", report)
    if sanitizer:
        what = re.sub(r"0x[0-9a-f]+|\d+", "N", sanitizer[1])
        frames = re.findall(r"#\d+ \S+ in (\S+) .*?([\w./]*tcpconn/[\w.]+)", report)
        return Signature(what[:80], " < ".join(name for name, _ in frames[:3]))
    errors = re.findall(r"^([\w.]+(?:Finding|Error|Exception).*)$", report, re.MULTILINE)
    what = re.sub(r"\d+", "N", errors[-1]) if errors else f"ended with {code}"
    places = re.findall(r'File ".*?(\w+\.py)", line (\d+)', report)
    return Signature(what[:80], ":".join(places[-1]) if places else "")


class Findings:
    """What went wrong, each kind once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.counts: dict[Signature, int] = {}

    def add(self, case: Case, report: str, code: int) -> None:
        """Notes a failure; the first of its kind is made small and written."""
        name = signature(report, code)
        self.counts[name] = self.counts.get(name, 0) + 1
        if self.counts[name] > 1:
            return
        number = len(self.counts)
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"{number:03}.jsonl"
        print(f"\nfinding {number}: {name.what} {name.where}\n  {path}", file=sys.stderr)
        cases.write(path, [case])
        path.with_suffix(".txt").write_text(report, "utf-8")
        cases.write(path, [self.minimise(case, name)])

    def minimise(self, case: Case, name: Signature) -> Case:
        """Leaves out steps as long as it fails in the same way."""
        deadline = time.monotonic() + MINIMISE_SECONDS
        trial = self.directory / "trial.jsonl"

        def fails(candidate: Case) -> bool:
            cases.write(trial, [candidate])
            done = subprocess.run(
                [sys.executable, "-P", "-m", "fuzz.worker", "--replay", str(trial)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
            )
            report = done.stderr.decode(errors="replace")
            return done.returncode != 0 and signature(report, done.returncode) == name

        size = max(1, len(case.steps) // 2)
        while size and time.monotonic() < deadline:
            at = 0
            while at < len(case.steps) and time.monotonic() < deadline:
                shorter = case._replace(steps=case.steps[:at] + case.steps[at + size :])
                if fails(shorter):
                    case = shorter
                else:
                    at += size
            size //= 2
        trial.unlink(missing_ok=True)
        return case


class Fuzzing:
    """Workers at work."""

    def __init__(self, jobs: int, seed: int, targets: list[str], directory: Path) -> None:
        self.jobs = jobs
        self.seeds = random.Random(seed)
        self.targets = targets
        self.directory = directory
        self.shared = directory / "shared"
        self.shared.mkdir(parents=True, exist_ok=True)
        for path in self.shared.iterdir():
            path.unlink()
        self.findings = Findings(directory / "findings")
        self.selector = selectors.DefaultSelector()
        self.done = {"runs": 0}
        self.began = time.monotonic()
        self.children = [self.start(number) for number in range(jobs)]

    def start(self, number: int) -> Child:
        """A new worker in this place."""
        note, log = self.directory / f"note-{number}", self.directory / f"log-{number}"
        with note.open("wb") as file:
            file.truncate(NOTE_SIZE)
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "fuzz.worker", str(self.seeds.getrandbits(60))),
                    *(",".join(self.targets), str(note), str(self.shared)),
                ],
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        assert process.stdout is not None
        child = Child(process, note, log, {"runs": 0, "edges": 0, "corpus": 0})
        self.selector.register(process.stdout, selectors.EVENT_READ, number)
        return child

    def listen(self, seconds: float) -> None:
        """Takes in what workers say, and their ends."""
        for key, _ in self.selector.select(seconds):
            child = self.children[key.data]
            line = child.process.stdout.readline() if child.process.stdout else b""
            if line:
                child.numbers.update(json.loads(line))
                continue
            self.ended(child)
            self.children[key.data] = self.start(key.data)

    def ended(self, child: Child) -> None:
        """A worker is gone: what it was at is a finding."""
        assert child.process.stdout is not None
        self.selector.unregister(child.process.stdout)
        child.process.stdout.close()
        code = child.process.wait()
        self.done["runs"] += child.numbers["runs"]
        note = child.note.read_bytes()
        length = int.from_bytes(note[:8], "big")
        report = child.log.read_text("utf-8", errors="replace")
        if not length:
            sys.exit(f"a worker did not begin:\n{report}")
        self.findings.add(Case(*marshal.loads(note[8 : 8 + length])), report, code)

    def stop(self) -> None:
        """Ends the workers."""
        for child in self.children:
            child.process.kill()
            child.process.wait()
            if child.process.stdout is not None:
                child.process.stdout.close()

    @property
    def runs(self) -> int:
        """All runs so far."""
        return self.done["runs"] + sum(child.numbers["runs"] for child in self.children)

    def numbers(self) -> dict[str, int | float]:
        """How it stands."""
        seconds = time.monotonic() - self.began
        return {
            "seconds": seconds,
            "runs": self.runs,
            "rate": self.runs / max(seconds, 0.001),
            "edges": max(child.numbers["edges"] for child in self.children),
            "corpus": max(child.numbers["corpus"] for child in self.children),
            "findings": len(self.findings.counts),
        }


def live(numbers: dict[str, int | float], last: float) -> float:
    """A line that is written over on a terminal, and else now and then; when it was."""
    line = (
        f"{numbers['seconds']:6.0f} s  {numbers['runs']:>10,} runs  {numbers['rate']:>7,.0f}/s  "
        f"{numbers['edges']:>6,} edges  {numbers['corpus']:>5,} cases  "
        f"{numbers['findings']} findings"
    )
    now = time.monotonic()
    if sys.stderr.isatty():
        print(f"\r{line}", end="", file=sys.stderr, flush=True)
    elif now - last < 30:
        return last
    else:
        print(line, file=sys.stderr, flush=True)
    return now


def table(fuzzing: Fuzzing) -> None:
    """How it went."""
    numbers = fuzzing.numbers()
    print(f"\n\nfuzzed {', '.join(fuzzing.targets)} with {fuzzing.jobs} workers\n")
    for name, unit in (
        ("seconds", "s"), ("runs", ""), ("rate", "runs/s"), ("edges", "covered"),
        ("corpus", "cases that found something new"), ("findings", ""),
    ):  # fmt: skip
        print(f"  {name:<9}{numbers[name]:>12,.0f} {unit}")
    for found, count in fuzzing.findings.counts.items():
        print(f"  {count:>6} times {found.what} {found.where}")


def keep(targets: list[str], directory: Path) -> None:
    """Writes the fewest cases that cover what all cover into the repository's corpus."""
    coverage = Coverage()
    found = [case for path in sorted((directory / "shared").iterdir()) for case in cases.read(path)]
    for target in targets:
        path = cases.CORPUS / f"{target}.jsonl"
        before = {case.dumps() for case in cases.read(path)}
        known: set[int] = set()
        covered: list[tuple[Case, set[int]]] = []
        for case in [*cases.seeds(), *found]:
            if case.target != target or len(case.dumps()) > LONGEST:
                continue
            coverage.begin()
            run(case)
            coverage.end()
            if case in found or case.dumps() in before:
                covered.append((case, coverage.last()))
            else:
                known |= coverage.last()
        kept: list[Case] = []
        while covered and len(kept) < KEEP_MOST:
            case, edges = max(
                covered, key=lambda each: (len(each[1] - known), -len(each[0].dumps()))
            )
            if not edges - known:
                break
            kept.append(case)
            known |= edges
        cases.write(path, sorted(kept, key=lambda each: each.dumps()))
        print(f"{path}: {len(kept)} cases")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long (60)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="workers (one per core)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--target", choices=list(TARGETS), action="append", help="all of them")
    parser.add_argument(
        "--directory", type=Path, default=Path("build/fuzz"), help="for what it finds"
    )
    parser.add_argument(
        "--keep", action="store_true", help="add what was found to the corpus after"
    )
    arguments = parser.parse_args()
    targets = arguments.target or list(TARGETS)
    print(f"seed {arguments.seed}, {Path(tcpconn.__file__).parent}", file=sys.stderr)
    if not Coverage().is_there:
        print("no coverage: what is new cannot be told from what is not", file=sys.stderr)
    fuzzing = Fuzzing(arguments.jobs or 1, arguments.seed, targets, arguments.directory)
    last = 0.0
    try:
        while time.monotonic() - fuzzing.began < arguments.seconds:
            fuzzing.listen(PAUSE)
            last = live(fuzzing.numbers(), last)
    except KeyboardInterrupt:
        pass
    finally:
        fuzzing.stop()
    table(fuzzing)
    if arguments.keep:
        keep(targets, arguments.directory)
    return 1 if fuzzing.findings.counts else 0


if __name__ == "__main__":
    sys.exit(main())
