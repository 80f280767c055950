"""The two processes of a subject, seen from the harness: started, asked, always ended."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
from typing import Any

from benchmarks import ROOT

START_SECONDS = 30.0
"""How long a process may take to start and connect."""
END_SECONDS = 2.0
"""How long a process may take to end by itself before it is killed."""


class ChildFailed(Exception):
    """A process ended, or did not answer in time; the text says which, and its last words."""


class Child:
    """One process, which answers JSON lines with JSON lines."""

    def __init__(self, *arguments: str) -> None:
        self.what = " ".join(arguments)
        # A file and not a pipe: nobody has to read it for the process to go on.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `end`)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.child", *arguments],
            cwd=ROOT,
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
            raise ChildFailed(f"no answer within {seconds:.0f} s{self._last_words()}") from None
        if line is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
            code = self._process.returncode
            raise ChildFailed(f"ended with exit code {code}{self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, seconds: float, **command: Any) -> dict[str, Any]:
        """Sends a command and returns its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ChildFailed(f"is gone ({error}){self._last_words()}") from error
        return self.answer(seconds)

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

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
    """A subject's server and its client, the one that is timed."""

    def __init__(self, subject: str, workload: str) -> None:
        self.subject = subject
        self.workload = workload
        self.server = Child("server", subject, workload)
        self.client: Child | None = None

    def connect(self, seconds: float = START_SECONDS) -> None:
        """Starts the client once the server has its port. Call `ready` next."""
        port = self.server.answer(seconds)["port"]
        self.client = Child("client", self.subject, self.workload, str(port))

    def ready(self, seconds: float = START_SECONDS) -> None:
        """Waits until the client is connected."""
        assert self.client is not None
        self.client.answer(seconds)

    def ask(self, seconds: float, **command: Any) -> dict[str, Any]:
        """Asks the client."""
        assert self.client is not None
        return self.client.ask(seconds, **command)

    def end(self) -> None:
        """Ends both, whatever state they are in."""
        if self.client is not None:
            self.client.end()
        self.server.end()
