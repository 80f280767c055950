"""``tcpconn ping``: how long messages take to a peer and back."""

from __future__ import annotations

import math
import sys
import time
from bisect import bisect_left
from collections import deque
from itertools import accumulate
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

import tcpconn
from tcpconn.cli import terminal
from tcpconn.cli.exits import CommandError, ExitCode, Stopped, explaining
from tcpconn.cli.options import (
    DurationType,
    SizeType,
    busy_poll_option,
    connect_timeout_option,
    debug_option,
    link_options,
)
from tcpconn.cli.security import caller_options

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

_NANOSECOND = 1e-9
_PERCENTILES = (50.0, 90.0, 99.0, 99.9)
_STATUS_INTERVAL_NS = 100_000_000


class RoundTrips:
    """The times of any number of round trips, in a bounded amount of memory.

    Least, greatest, mean and deviation are exact. The percentiles come from a histogram whose steps
    are the times' third digit, which is finer than any two runs of ping agree.
    """

    def __init__(self) -> None:
        self.count = 0
        self.least = 0
        self.greatest = 0
        self.mean = 0.0
        self._square_sum = 0.0
        self._histogram: dict[int, int] = {}

    def add(self, nanoseconds: int) -> None:
        """Take in one more time."""
        self.least = nanoseconds if not self.count else min(self.least, nanoseconds)
        self.greatest = max(self.greatest, nanoseconds)
        # Welford's way, which does not lose digits however many times there are.
        self.count += 1
        difference = nanoseconds - self.mean
        self.mean += difference / self.count
        self._square_sum += difference * (nanoseconds - self.mean)
        step = 10 ** max(0, len(str(nanoseconds)) - 3)
        rounded = (nanoseconds + step // 2) // step * step
        self._histogram[rounded] = self._histogram.get(rounded, 0) + 1

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        return math.sqrt(self._square_sum / self.count) if self.count else 0.0

    def percentiles(self, *wanted: float) -> list[int]:
        """For each percentage in `wanted`, the time that so many round trips stayed within."""
        found = []
        times = sorted(self._histogram)
        ranks = list(accumulate(self._histogram[time] for time in times))
        for percentage in wanted:
            rank = math.ceil(self.count * percentage / 100)
            rounded = times[bisect_left(ranks, rank)]
            found.append(max(self.least, min(self.greatest, rounded)))
        return found


class _Display:
    """Prints lines, and on a terminal keeps the figures so far below them."""

    def __init__(self, *, quiet: bool) -> None:
        self._console: Console | None = None
        self._live: Live | None = None
        self._last_status = 0
        if not quiet and terminal.is_terminal(sys.stdout):
            from rich.console import Console
            from rich.live import Live

            self._console = Console(markup=False, highlight=False, emoji=False)
            # Drawn by us between two pings: a thread that draws would disturb what is measured.
            self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def line(self, text: str) -> None:
        if self._console is None:
            terminal.emit(text)
        else:
            self._console.print(text, soft_wrap=True)

    def status(self, sent: int, trips: RoundTrips) -> None:
        """Show the figures, but not more often than the eye follows."""
        now = time.monotonic_ns()
        if self._live is None or now - self._last_status < _STATUS_INTERVAL_NS:
            return
        self._last_status = now
        text = f"{sent:,} sent, {trips.count:,} received"
        if trips.count:
            p50, p99 = trips.percentiles(50, 99)
            text += (
                f" · min {_milliseconds(trips.least)}  p50 {_milliseconds(p50)}"
                f"  p99 {_milliseconds(p99)}  max {_milliseconds(trips.greatest)} ms"
            )
        from rich.text import Text

        self._live.update(Text(text, style="dim", no_wrap=True, overflow="ellipsis"), refresh=True)


def _milliseconds(nanoseconds: float) -> str:
    return f"{nanoseconds / 1e6:.3f}"


class Pinger:
    """Sends messages and takes what comes back.

    A connection keeps the order, so replies need no number: the next one belongs to the oldest
    message that is still without. One that comes after its timeout is late, not lost.
    """

    def __init__(
        self,
        connection: tcpconn.Connection,
        display: _Display,
        *,
        size: int,
        interval: float,
        timeout: float,
        show_replies: bool,
    ) -> None:
        self._connection = connection
        self._display = display
        self._filling = bytes(index & 0xFF for index in range(size))
        self._interval_ns = int(interval / _NANOSECOND)
        self._timeout = timeout
        self._timeout_ns = int(timeout / _NANOSECOND)
        self._show_replies = show_replies
        # Sequence number and time of what was sent and has no reply yet; first the overdue ones.
        self._overdue: deque[tuple[int, int]] = deque()
        self._awaited: deque[tuple[int, int]] = deque()
        self.sent = 0
        self.trips = RoundTrips()

    @property
    def lost(self) -> int:
        """How many messages got no reply within the timeout, nor later."""
        return self.sent - self.trips.count - len(self._awaited)

    def give_up(self) -> None:
        """No more replies will come."""
        self._overdue.extend(self._awaited)
        self._awaited.clear()

    def run(self, count: int | None) -> None:
        """Ping `count` times, or for ever."""
        next_send = time.perf_counter_ns()
        while True:
            may_send = count is None or self.sent < count
            now = time.perf_counter_ns()
            if may_send and now >= next_send and (self._interval_ns or not self._awaited):
                self._send()
                # After a delay no burst follows to make up for it.
                next_send = max(next_send + self._interval_ns, now)
                continue
            if not may_send and not self._awaited:
                return
            self._display.status(self.sent, self.trips)
            due = [self._awaited[0][1] + self._timeout_ns] if self._awaited else []
            if may_send and self._interval_ns:
                due.append(next_send)
            self._receive_until(min(due, default=next_send))

    def _message(self, sequence: int) -> bytes:
        number = sequence.to_bytes(8, "big")
        return (number + self._filling[8:])[-len(self._filling) :] if self._filling else b""

    def _send(self) -> None:
        self.sent += 1
        message = self._message(self.sent)
        began = time.perf_counter_ns()
        try:
            self._connection.send(message, self._timeout)
        except tcpconn.Timeout:
            self._display.line(f"seq={self.sent} could not be sent within {self._timeout:g} s")
            return
        self._awaited.append((self.sent, began))

    def _receive_until(self, due: int) -> None:
        left = (due - time.perf_counter_ns()) * _NANOSECOND
        try:
            reply = self._connection.receive(max(left, 0.0))
        except tcpconn.Timeout:
            now = time.perf_counter_ns()
            while self._awaited and now >= self._awaited[0][1] + self._timeout_ns:
                self._overdue.append(self._awaited.popleft())
                sequence = self._overdue[-1][0]
                self._display.line(f"seq={sequence} no reply within {self._timeout:g} s")
            return
        now = time.perf_counter_ns()
        late = bool(self._overdue)
        queue = self._overdue or self._awaited
        sequence, began = queue.popleft() if queue else (0, 0)
        if not sequence or reply != self._message(sequence):
            raise CommandError(
                ExitCode.NOT_TCPCONN,
                f"{self._connection.peer_address}: what came back is not what was sent; "
                "ping needs an echo server, like tcpconn serve",
            )
        self.trips.add(now - began)
        if self._show_replies or late:
            self._display.line(
                f"{len(reply)} bytes from {self._connection.peer_address}: seq={sequence} "
                f"time={_milliseconds(now - began)} ms{' (late)' if late else ''}"
            )


@click.command()
@click.argument("address", metavar="ADDR")
@click.option(
    "-c",
    "--count",
    type=click.IntRange(min=1),
    metavar="N",
    help="Stop after N messages; without it, at Ctrl-C.",
)
@click.option(
    "-s",
    "--size",
    type=SizeType(minimum=0),
    metavar="SIZE",
    default="64",
    show_default=True,
    help="The size of each message.",
)
@click.option(
    "-i",
    "--interval",
    type=DurationType(),
    metavar="TIME",
    default="1",
    show_default=True,
    help="From one message to the next; 0: as soon as the reply to the last is there.",
)
@click.option(
    "-W",
    "--timeout",
    type=DurationType(),
    metavar="TIME",
    default="2",
    show_default=True,
    help="How long a reply may take. One that comes later still counts, as late.",
)
@click.option("-f", "--flood", is_flag=True, help="As --interval 0, with no line for each reply.")
@click.option("-q", "--quiet", is_flag=True, help="Print the summary only.")
@connect_timeout_option
@busy_poll_option
@link_options
@caller_options
@debug_option
def ping(
    address: str,
    count: int | None,
    size: int,
    interval: float,
    timeout: float,
    flood: bool,
    quiet: bool,
    connect_timeout: float,
    busy_poll: float,
    link: str,
    max_message_size: int,
    security: dict[str, Any],
) -> int:
    """Send messages to the echo server at ADDR and time the replies.

    There is a line for each reply, and at the end, or at Ctrl-C, a summary: least, mean and
    greatest time with the standard deviation, then the percentiles. A time is that of a whole
    round trip, from before the message is sent until its reply is in Python's hands.

    Exits with 0 if there was a reply, with 1 if there was none.

    \b
    Examples:
      tcpconn ping 127.0.0.1:9000
      tcpconn ping -c 10 -i 200ms -s 64K host:9000
      tcpconn ping -f -c 100000 host:9000       as fast as they come back
      tcpconn ping --tls host.example:9000      through TLS
    """
    began = time.monotonic()
    with explaining(address, lost=ExitCode.RECEIVE):
        connection = tcpconn.connect(
            address,
            timeout=connect_timeout,
            link=link,
            max_message_size=max_message_size,
            busy_poll=busy_poll,
            **security,
        )
    peer = connection.peer_address
    took = time.monotonic() - began
    display = _Display(quiet=quiet)
    pinger = Pinger(
        connection,
        display,
        size=size,
        interval=0.0 if flood else interval,
        timeout=timeout,
        show_replies=not flood and not quiet,
    )
    failure: CommandError | None = None
    try:
        with display:
            if not quiet:
                display.line(
                    f"PING {peer}: {size} bytes a message, connected in {took * 1e3:.3f} ms"
                )
            began = time.monotonic()
            try:
                with explaining(peer, lost=ExitCode.RECEIVE):
                    pinger.run(count)
            except Stopped:
                pass
            except CommandError as error:  # the summary of what there was comes first
                failure = error
                pinger.give_up()
            took = time.monotonic() - began
        _summarize(peer, pinger, took)
    finally:
        try:
            connection.close(timeout)
        except tcpconn.TcpconnError:
            connection.abort()
    if failure is not None:
        raise failure
    if not pinger.trips.count and pinger.sent:
        terminal.note(f"{peer} did not reply; is it an echo server, like tcpconn serve?")
        return ExitCode.NO_REPLY
    return ExitCode.OK


def _summarize(peer: str, pinger: Pinger, took: float) -> None:
    trips = pinger.trips
    lost = 100 * pinger.lost / pinger.sent if pinger.sent else 0.0
    terminal.emit(f"--- {peer} ping statistics ---")
    terminal.emit(
        f"{pinger.sent} sent, {trips.count} received, {lost:.4g}% lost, time {took * 1e3:.0f} ms"
    )
    if trips.count:
        exact = (trips.least, trips.mean, trips.greatest, trips.deviation)
        names = "/".join(f"p{percentage:g}" for percentage in _PERCENTILES)
        terminal.emit(f"rtt min/avg/max/stddev = {'/'.join(map(_milliseconds, exact))} ms")
        percentiles = "/".join(map(_milliseconds, trips.percentiles(*_PERCENTILES)))
        terminal.emit(f"rtt {names} = {percentiles} ms")
