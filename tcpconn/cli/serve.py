"""``tcpconn serve``: a peer to try things against."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import click

import tcpconn
from tcpconn.cli import terminal
from tcpconn.cli.exits import ExitCode, Stopped, explaining_listen, printable
from tcpconn.cli.options import (
    busy_poll_option,
    debug_option,
    link_options,
    print_address_option,
    quiet_option,
)
from tcpconn.cli.security import listener_options

_REPORT_INTERVAL = 1.0
# In seconds: what peers are owed still goes out, but whoever pressed Ctrl-C does not wait for long.
_CLOSE_TIMEOUT = 1.0
# How many messages are taken from the queue at a time.
_BATCH = 256


class _Service:
    """What is done with the connections, each in its own thread."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def __call__(self, connection: tcpconn.Connection) -> None:
        """Serve one connection up to its end."""
        try:
            self.run(connection)
        except tcpconn.ConnectionReset as error:
            self._tell(connection, error)
        except tcpconn.ConnectionClosed:
            pass
        except tcpconn.TcpconnError as error:
            self._tell(connection, error)

    def run(self, connection: tcpconn.Connection) -> None:
        raise NotImplementedError

    def _tell(self, connection: tcpconn.Connection, error: Exception) -> None:
        if not self._quiet:
            terminal.note(f"{connection.peer_address}: {printable(str(error))}")


class _Echo(_Service):
    """Every message goes back to where it came from."""

    def run(self, connection: tcpconn.Connection) -> None:
        while True:
            connection.send_many(connection.receive_many(_BATCH))


class _Sink(_Service):
    """Messages are counted and thrown away."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__(quiet=quiet)
        self._lock = threading.Lock()
        self._messages = 0
        self._size = 0
        self._connections = 0

    def run(self, connection: tcpconn.Connection) -> None:
        with self._lock:
            self._connections += 1
        try:
            while True:
                batch = connection.receive_many(_BATCH)
                size = sum(map(len, batch))
                with self._lock:
                    self._messages += len(batch)
                    self._size += size
        finally:
            with self._lock:
                self._connections -= 1

    def counts(self) -> tuple[int, int, int]:
        """How many messages and bytes came so far, and how many connections there are now."""
        with self._lock:
            return self._messages, self._size, self._connections


@click.command()
@click.argument("address", metavar="ADDR")
@click.option(
    "--echo",
    "mode",
    flag_value="echo",
    default="echo",
    help="Send every message back. The default.",
)
@click.option("--sink", "mode", flag_value="sink", help="Count the messages and throw them away.")
@print_address_option
@quiet_option
@busy_poll_option
@link_options
@listener_options
@debug_option
def serve(
    address: str,
    mode: str,
    print_address: bool,
    quiet: bool,
    busy_poll: float,
    link: str,
    max_message_size: int,
    security: dict[str, Any],
) -> int:
    """Listen on ADDR and answer every connection, until Ctrl-C.

    ADDR is host:port, [::1]:port or unix:/path. Port 0 takes a free one: standard error tells
    which, and with --print-address standard output too.

    With --sink, a terminal gets a line a second on what comes in while something does.

    \b
    Examples:
      tcpconn serve 127.0.0.1:9000            an echo server, for tcpconn ping
      tcpconn serve --sink '[::]:9000'        count what comes in, from anywhere
      tcpconn serve --print-address 127.0.0.1:0 > address &
      tcpconn serve --tls-cert server.pem --authkey-file key 0.0.0.0:9000
    """
    service = _Sink(quiet=quiet) if mode == "sink" else _Echo(quiet=quiet)
    began = time.monotonic()
    try:
        with explaining_listen(address):
            server = tcpconn.serve(
                service,
                address,
                link=link,
                max_message_size=max_message_size,
                busy_poll=busy_poll,
                **security,
            )
        try:
            terminal.announce(
                server.address, f"{mode}; Ctrl-C ends", print_address=print_address, quiet=quiet
            )
            if isinstance(service, _Sink) and terminal.is_terminal(sys.stderr) and not quiet:
                _report_rates(service)
            threading.Event().wait()
        finally:
            server.close(_CLOSE_TIMEOUT)
    except Stopped:
        pass  # the one way in which a server ends, and no mishap
    if isinstance(service, _Sink) and not quiet:
        messages, size, _ = service.counts()
        terminal.note(
            f"{messages:,} messages, {terminal.amount(size)} in {time.monotonic() - began:.1f} s"
        )
    return ExitCode.OK


def _report_rates(sink: _Sink) -> None:
    never = threading.Event()
    last_messages = last_size = 0
    last = time.monotonic()
    while not never.wait(_REPORT_INTERVAL):
        messages, size, connections = sink.counts()
        now = time.monotonic()
        elapsed, last = now - last, now
        if messages != last_messages:
            terminal.note(
                f"{terminal.amount((size - last_size) / elapsed)}/s, "
                f"{(messages - last_messages) / elapsed:,.0f} messages/s, "
                f"{connections} connection{'' if connections == 1 else 's'}"
            )
        last_messages, last_size = messages, size
