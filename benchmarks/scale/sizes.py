"""`sizes`: from one byte to 256 MiB in a message, with the loops of the `send_only` workload."""

from __future__ import annotations

from benchmarks.subjects import all_subjects
from benchmarks.subjects.base import Announce
from benchmarks.timing import calibrate, timed_run, whole_blocks
from benchmarks.workloads import Kind, Workload

RUNS = 3


def workload(size: int) -> Workload:
    """`send_only` with another size; its name tells subjects to allow for that."""
    return Workload("sizes", Kind.SEND, size, "", "")


def serve(subject: str, announce: Announce) -> None:
    """One client."""
    all_subjects()[subject].serve(workload(1), announce)


def measure(subject: str, port: int, at: int, seconds: float) -> dict[str, float]:
    """Messages of `at` bytes: the best of three runs, as in the sweep."""
    client = all_subjects()[subject].client(workload(at), port)
    operations = whole_blocks(client, calibrate(client, seconds * 1e9 / RUNS))
    ns = min(timed_run(client, operations).ns_per_op for _ in range(RUNS))
    client.close()
    return {"message": ns, "throughput": at * 1e3 / ns}
