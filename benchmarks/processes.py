"""The two processes of a subject, seen from the harness: started, asked, always ended."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from typing import Any

from benchmarks import ROOT

START_SECONDS = 30.0
"""How long a process may take to start and connect."""
END_SECONDS = 2.0
"""How long a process may take to end by itself before it is killed."""


class ChildFailed(Exception):
    """A process ended, or did not answer in time; the text says which, and its last words.

    `output` is all that it wrote to its standard error, the stacks of its threads if it hung.
    """

    def __init__(self, text: str, output: str) -> None:
        super().__init__(text)
        self.output = output


def _last_words(output: str) -> str:
    lines = output.strip().splitlines()
    fatal = [line for line in lines if line.startswith("Fatal Python error")]
    return (fatal or lines[-1:] or [""])[0]


class Child:
    """One process, which answers JSON lines with JSON lines."""

    def __init__(
        self,
        *arguments: str,
        module: str = "benchmarks.child",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.role = arguments[0]
        # A file and not a pipe: nobody has to read it for the process to go on.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `end`)
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=None if environment is None else {**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def answer(self, seconds: float) -> dict[str, Any]:
        """The next line, within `seconds`."""
        try:
            line = self._answers.get(timeout=max(0.1, seconds))
        except queue.Empty:
            # Its fault handler then writes where each thread is.
            output = self.abort()
            raise ChildFailed(
                f"the {self.role} did not answer within {seconds:.0f} s", output
            ) from None
        if line is None:
            raise self.ended()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, seconds: float, **command: Any) -> dict[str, Any]:
        """Sends a command and returns its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self.ended() from error
        return self.answer(seconds)

    def ended(self) -> ChildFailed:
        """What to raise when it has ended by itself."""
        output = self._output()
        last = _last_words(output)
        code = self._process.returncode
        return ChildFailed(f"the {self.role} ended with exit code {code}: {last}", output)

    @property
    def pid(self) -> int:
        """Its process's number."""
        return self._process.pid

    def is_running(self) -> bool:
        """Whether it has not ended by itself."""
        return self._process.poll() is None

    def abort(self) -> str:
        """Ends it by a signal at which it writes where its threads are; all that it wrote."""
        if self.is_running():
            self._process.send_signal(signal.SIGABRT)
        return self._output()

    def _output(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def hang_up(self) -> None:
        """Ends its standard input, at which it ends."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def end(self) -> None:
        """Waits for its end, and kills it if that does not come."""
        self.hang_up()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(END_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()


class Pair:
    """A subject's server and its client, the one that is timed.

    `module` is what runs in both processes, `environment` what they find in theirs besides ours.
    """

    def __init__(
        self,
        subject: str,
        workload: str,
        module: str = "benchmarks.child",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.subject = subject
        self.workload = workload
        self.module = module
        self.environment = environment
        self.server = self._child("server")
        self.client: Child | None = None

    def _child(self, role: str, *more: str) -> Child:
        return Child(
            *(role, self.subject, self.workload, *more),
            module=self.module,
            environment=self.environment,
        )

    def connect(self, seconds: float = START_SECONDS) -> None:
        """Starts the client once the server has its port. Call `ready` next."""
        port = self.server.answer(seconds)["port"]
        self.client = self._child("client", str(port))

    def ready(self, seconds: float = START_SECONDS) -> None:
        """Waits until the client is connected."""
        assert self.client is not None
        self.client.answer(seconds)

    def ask(self, seconds: float, **command: Any) -> dict[str, Any]:
        """Asks the client."""
        assert self.client is not None
        try:
            return self.client.ask(seconds, **command)
        except ChildFailed as failure:
            if not self.server.is_running():
                # Then the client's failure only follows from that.
                raise self.server.ended() from failure
            failure.output += "\nthe server:\n" + self.server.abort()
            raise

    def end(self) -> None:
        """Ends both, whatever state they are in."""
        if self.client is not None:
            self.client.end()
        self.server.end()
