"""What runs in the two processes of a subject.

    python -m benchmarks.child server SUBJECT WORKLOAD
    python -m benchmarks.child client SUBJECT WORKLOAD PORT

Both speak JSON lines over their standard input and output, and end with their standard input: none
outlives the harness, however that ends.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
from typing import Any

from benchmarks.allocations import allocations_per_op
from benchmarks.compiled import NotCompiled
from benchmarks.placement import stand_apart
from benchmarks.subjects import all_subjects
from benchmarks.subjects.base import Client, Subject
from benchmarks.timing import calibrate, timed_run, whole_blocks
from benchmarks.workloads import WORKLOADS, Workload, sweep_workload


def say(**answer: Any) -> None:
    """One answer."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def end_with_input() -> None:
    """Ends the process when its standard input does."""
    # Not `sys.stdin`: an interpreter that ends on an error could not take its lock from here.
    while os.read(0, 4096):
        pass
    # Not `sys.exit`: the main thread sits in a loop that nothing else ends.
    os._exit(0)


def serve(subject: Subject, workload: Workload) -> None:
    """The other side, until the standard input ends."""
    threading.Thread(target=end_with_input, daemon=True).start()
    subject.serve(workload, lambda port: say(port=port))


def _answer(client: Client, command: dict[str, Any]) -> dict[str, Any]:
    match command["do"]:
        case "calibrate":
            return {"operations": calibrate(client, command["budget_ns"])}
        case "time":
            run = timed_run(client, whole_blocks(client, command["operations"]))
            return {
                "operations": run.operations,
                "elapsed_ns": run.elapsed_ns,
                "bins": run.latencies.as_json(),
            }
        case "allocations":
            try:
                calls, size = allocations_per_op(client, command["operations"])
            except NotCompiled:
                return {"allocs_per_op": None, "bytes_per_op": None}
            return {"allocs_per_op": calls, "bytes_per_op": size}
        case unknown:
            raise ValueError(f"no such command: {unknown}")


def drive(subject: Subject, workload: Workload, port: int) -> None:
    """The timed side: does what it is told, one line at a time."""
    client = subject.client(workload, port)
    say(ready=True)
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "resize":
            client.close()
            client = subject.client(sweep_workload(command["size"]), port)
            say(ready=True)
        else:
            say(**_answer(client, command))
    client.close()


def main(role: str, subject: str, workload: str, port: str = "0") -> None:
    """Runs the role."""
    chosen = all_subjects()[subject]
    timed = sweep_workload(1) if workload == "sweep" else WORKLOADS[workload]
    faulthandler.enable()
    stand_apart(role, timed.kind)
    if role == "server":
        serve(chosen, timed)
    else:
        drive(chosen, timed, int(port))


if __name__ == "__main__":
    main(*sys.argv[1:])
