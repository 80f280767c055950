"""What the user sees: lines on standard error, lines on standard output, the progress bar."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tcpconn.cli.exits import CommandError, ExitCode

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# A bar that moves ten times a second looks steady; more would only cost time.
_BAR_INTERVAL = 0.1


def note(text: str) -> None:
    """Print a line about what goes on, on standard error."""
    # In one piece with its newline, or two processes on one terminal get into each other's lines.
    if sys.stderr is not None:  # which it is where standard error was closed from the start
        sys.stderr.write(f"tcpconn: {text}\n")
        sys.stderr.flush()


def emit(line: str) -> None:
    """Print a result on standard output, at once."""
    try:
        print(f"{line}\n", end="", flush=True)
    except BrokenPipeError as error:
        # Whoever read our lines has had enough of them: `| head` is no mishap to tell about.
        raise CommandError(ExitCode.WRITE) from error
    except OSError as error:
        raise CommandError(
            ExitCode.WRITE, f"could not write standard output: {error.strerror}"
        ) from error


def detach_broken_stdout() -> None:
    """Keep the interpreter from complaining at its end that nobody reads standard output."""
    if sys.stdout is None:  # it was closed from the start
        return
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def is_terminal(stream: object) -> bool:
    """Whether `stream` is a terminal (a stream may also be closed, or None)."""
    try:
        return bool(stream.isatty())  # type: ignore[attr-defined]
    except (AttributeError, ValueError):
        return False


def announce(address: str, what: str, *, print_address: bool, quiet: bool) -> None:
    """Tell where we listen. The address on standard output comes last: scripts go on from there."""
    if not quiet:
        note(f"listening on {address}, {what}")
    if print_address:
        emit(address)


def amount(size: float) -> str:
    """`size` bytes for people: 1.5 GB."""
    from rich.filesize import decimal

    return decimal(int(size))


class TransferReport:
    """The progress bar of the file under way, and a line for each file that is through.

    Both only on a terminal: in a pipe or a log nothing is printed, but for the lines if `verbose`.
    """

    def __init__(self, *, quiet: bool, verbose: bool, may_draw: bool = True) -> None:
        terminal = is_terminal(sys.stderr) and not quiet
        self._lines = verbose or terminal
        self._bar: Progress | None = _progress_bar() if terminal and may_draw else None
        self._task: TaskID | None = None
        self._pending = 0
        self._last_update = 0.0
        self._began = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.idle()

    def idle(self) -> None:
        """Nothing is under way, perhaps for long."""
        self._end_file()
        if self._bar is not None:
            self._bar.stop()

    def waiting(self, what: str) -> None:
        """Show that nothing can happen before `what`."""
        self._end_file()
        self._start(what, None)

    def begin(self, name: str, size: int | None) -> None:
        """A file of `size` bytes begins, or of unknown size."""
        self._end_file()
        self._pending = 0
        self._began = self._last_update = time.monotonic()
        self._start(name, size)

    def advance(self, count: int) -> None:
        """`count` more bytes of the file went through."""
        if self._bar is None or self._task is None:
            return
        self._pending += count
        now = time.monotonic()
        if now - self._last_update >= _BAR_INTERVAL:
            self._bar.update(self._task, advance=self._pending)
            self._pending = 0
            self._last_update = now

    def finish(self, text: str, size: int, sha256: str) -> None:
        """The file is through, and both sides have the same."""
        self._end_file()
        if self._lines:
            elapsed = max(time.monotonic() - self._began, 1e-9)
            self.line(
                f"{text}: {amount(size)} in {elapsed:.1f} s, {amount(size / elapsed)}/s, "
                f"sha256 {sha256}"
            )

    def line(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._bar is None or not self._bar.live.is_started:
            note(text)
        else:
            self._bar.console.print(
                f"tcpconn: {text}", markup=False, highlight=False, soft_wrap=True
            )

    def _start(self, what: str, size: int | None) -> None:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(what, total=size)

    def _end_file(self) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.remove_task(self._task)
        self._task = None


def _progress_bar() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.table import Column

    console = Console(stderr=True)
    # The other columns and the gaps; and room for the ^C that the terminal shows, which would go
    # over to the next line at the end of a full one, and the bar could not be wiped off.
    others = 16 + len(" 100% 100.0/100.0 MB 100.0 MB/s 0:00:00 ") + len("^C ")
    return Progress(
        # A file may be named like markup, so none is looked for.
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(
                max_width=max(8, console.width - others), no_wrap=True, overflow="ellipsis"
            ),
        ),
        BarColumn(bar_width=16),
        TaskProgressColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        refresh_per_second=10,
        transient=True,
    )
