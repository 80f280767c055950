"""The server's process of the checked traffic: `python -m faults.server JOB`."""

from __future__ import annotations

import os
import subprocess
import sys
from types import TracebackType
from typing import Self

from faults.drivers import accept_all
from faults.ends import PATIENCE, End, Job, Report


def main() -> None:
    """Says the address, serves the job's connections to their end, and says what it saw."""
    job = Job.from_json(sys.argv[1])
    ends = [End(number, job, client=False) for number in range(job.connections)]

    def told(address: str) -> None:
        print(address, flush=True)

    def through() -> None:
        print(Report.of(ends).to_json(), flush=True)
        sys.stdin.read()  # a client whose link broke at the very end may still come back

    accept_all(job.server, "127.0.0.1:0", job.for_server(), ends, told, through)


class ServerProcess:
    """The server in a process of its own. A context manager."""

    def __init__(self, job: Job) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "faults.server", job.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        if not self.address:
            raise AssertionError("the server did not start")

    def report(self) -> Report:
        """What the server saw, once it is through."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"the server ended with {self._process.wait(PATIENCE)}")
        return Report.from_json(line)

    def kill(self) -> None:
        """Ends the process without giving it a chance to say so."""
        self._process.kill()
        self._process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            if kind is None:
                self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process.stdout.close()


if __name__ == "__main__":
    main()
