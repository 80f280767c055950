"""A process that runs cases until it is told to stop, or until one ends it.

What it is about to run, it first writes where its parent can read it when it is gone. What is worth
keeping it writes to a directory that it shares with the others.
"""

from __future__ import annotations

import ctypes
import json
import marshal
import mmap
import random
import signal
import sys
import time
from pathlib import Path

from fuzz.cases import Case, loads, seeds
from fuzz.mutate import Mutator
from fuzz.targets import TARGETS

HANG_SECONDS = 20
"""Of the processor's time: a run that takes so long ends its process. With sanitizers, none takes a
second, but a machine may be busy with other things."""

NOTE_SIZE = 1 << 24
SHARE_SECONDS = 5.0


class Coverage:
    """The map of `coverage.c`, if it is loaded."""

    def __init__(self) -> None:
        try:
            self._library: ctypes.CDLL | None = ctypes.CDLL(None)
            self._begin = self._library.coverage_begin
            self._end = self._library.coverage_end
        except AttributeError:
            self._library = None

    @property
    def is_there(self) -> bool:
        """Whether there is anything to ask."""
        return self._library is not None

    def begin(self) -> None:
        """A run begins."""
        if self._library is not None:
            self._begin()

    def end(self) -> int:
        """It ends: how much of what it did was new."""
        return int(self._end()) if self._library is not None else 0

    def last(self) -> set[int]:
        """The edges of the run that has just ended."""
        if self._library is None:
            return set()
        edges = (ctypes.c_int32 * (1 << 17))()
        count = self._library.coverage_last(edges, len(edges))
        return set(edges[:count])

    @property
    def edges(self) -> int:
        """How many any run has taken."""
        return int(self._library.coverage_edges()) if self._library is not None else 0


def run(case: Case) -> None:
    """Runs one case. Raises what is a finding, or does not come back."""
    signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)
    TARGETS[case.target](case)
    signal.setitimer(signal.ITIMER_PROF, 0)


class Worker:
    """Runs, keeps, mutates."""

    def __init__(self, seed: int, targets: list[str], note: Path, shared: Path) -> None:
        self.rng = random.Random(seed)
        self.mutator = Mutator(seed)
        self.coverage = Coverage()
        self.targets = targets
        self.shared = shared
        self.name = f"{seed:016x}"
        self.corpus: dict[str, list[Case]] = {target: [] for target in targets}
        self.known: set[str] = set()
        self.runs = 0
        with note.open("r+b") as file:
            self._note = mmap.mmap(file.fileno(), NOTE_SIZE)

    def try_case(self, case: Case) -> bool:
        """Runs it, and keeps it if it did something new."""
        noted = marshal.dumps(tuple(case))
        if len(noted) > NOTE_SIZE - 8:
            return False
        self._note[:8] = len(noted).to_bytes(8, "big")
        self._note[8 : 8 + len(noted)] = noted
        self.coverage.begin()
        run(case)
        self.runs += 1
        if not self.coverage.end():
            return False
        self.corpus[case.target].append(case)
        return True

    def take_in(self) -> None:
        """What the others have found."""
        for path in self.shared.iterdir():
            if path.suffix or path.name in self.known or path.name.startswith(self.name):
                continue
            self.known.add(path.name)
            for line in path.read_text("utf-8").splitlines():
                case = loads(line)
                if case.target in self.targets:
                    self.try_case(case)

    def report(self) -> None:
        """A line for the parent."""
        numbers = {
            "runs": self.runs,
            "edges": self.coverage.edges,
            "corpus": sum(map(len, self.corpus.values())),
        }
        print(json.dumps(numbers), flush=True)

    def work(self) -> None:
        """Runs for ever."""
        for case in seeds():
            if case.target in self.targets:
                self.try_case(case)
        for target, cases in self.corpus.items():
            cases.append(Case(target, {}, []))
        self.report()
        told = shared = time.monotonic()
        found = 0
        while True:
            target = self.rng.choice(self.targets)
            cases = self.corpus[target]
            # The latest finds are where it goes on, but not only there.
            late = self.rng.random() < 0.5
            case = self.rng.choice(cases[-50:] if late else cases)
            if self.try_case(self.mutator.mutate(case, cases)):
                found += 1
                path = self.shared / f"{self.name}-{found}"
                part = path.with_suffix(".part")
                part.write_text(cases[-1].dumps() + "\n", "utf-8")
                part.rename(path)
            now = time.monotonic()
            if now - told >= 1:
                told = now
                self.report()
            if now - shared >= SHARE_SECONDS:
                shared = now
                self.take_in()


def main() -> None:
    """`worker.py SEED TARGETS NOTE SHARED`, or `worker.py --replay FILE`."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    if sys.argv[1] == "--replay":
        for line in Path(sys.argv[2]).read_text("utf-8").splitlines():
            run(loads(line))
        return
    seed, targets, note, shared = sys.argv[1:]
    Worker(int(seed), targets.split(","), Path(note), Path(shared)).work()


if __name__ == "__main__":
    main()
