"""Where the two processes of a subject run.

Client and server of a round trip each take their half of the cores. Left alone, the kernel now and
then puts both on one core, where waking the other side costs next to nothing: a tenfold
difference, by chance, that has nothing to do with who is measured. One way, both sides are busy at
once, and a library with threads of its own may use what cores there are.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from benchmarks.workloads import Kind

_FREE = "BENCHMARKS_FREE_PLACEMENT"


def leave_to_the_kernel() -> None:
    """For this process and those that it starts."""
    os.environ[_FREE] = "1"


def placement() -> str:
    """For the report: how round trips are placed."""
    if _FREE in os.environ or not hasattr(os, "sched_setaffinity"):
        return "left to the kernel"
    return "client and server on different cores"


def stand_apart(role: str, kind: Kind) -> None:
    """Takes this process to its half of the cores, if its kind of workload wants that."""
    if kind.one_way or _FREE in os.environ or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        half = len(cores) // 2
        os.sched_setaffinity(0, cores[:half] if role == "client" else cores[half:])


@contextlib.contextmanager
def apart(role: str) -> Iterator[None]:
    """Keeps the calling thread to its half of the cores meanwhile, for round trips."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    stand_apart(role, Kind.ROUND_TRIP)
    try:
        yield
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)
