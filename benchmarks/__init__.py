"""The benchmark harness: `python -m benchmarks --help`.

    workloads.py    what is timed            subjects/      who is timed, a file each
    runner.py       in which order           timing.py      how a run is timed
    processes.py    the two processes        child.py       what runs in them
    placement.py    on which cores           allocations.py counts what one operation allocates
    report.py       results and ratios       markdown.py, html.py, charts.py, live.py    show them
    scale/          what grows: connections, threads, sizes, links
    compare.py      this tree against another commit
    cost.py         instructions of the hot paths (hot_paths.py, callgrind.py, cost.json)
    compiled.py     builds `_limit.pyx` and `_allocs.pyx` on first use
    micro/          micro-benchmarks without sockets, for pytest

A new workload is an entry in `workloads.py`, a new subject a file in `subjects/` (or in
`subjects/peers/`, for other libraries).
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The repository: child processes start here, and `build/` is below it."""


def _measure_the_installed_package() -> None:
    """Moves the repository to the end of `sys.path`.

    `python -m` puts the current directory first, where the package's *source* lies, without its
    compiled modules. An installed tcpconn has to win over it; the source, built in place, is the
    second choice. The harness itself is imported already, and needs no entry.
    """
    rooted = [entry for entry in sys.path if Path(entry or ".").resolve() == ROOT]
    for entry in rooted:
        sys.path.remove(entry)
    if rooted:
        sys.path.append(str(ROOT))


_measure_the_installed_package()
