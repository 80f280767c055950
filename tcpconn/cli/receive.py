"""``tcpconn receive``: takes what ``tcpconn send`` brings."""

from __future__ import annotations

import sys
from typing import Any

import click

import tcpconn
from tcpconn.cli import terminal
from tcpconn.cli.exits import (
    CommandError,
    ExitCode,
    Stopped,
    explaining,
    explaining_listen,
    printable,
    reason_of,
)
from tcpconn.cli.options import (
    DurationType,
    debug_option,
    link_options,
    print_address_option,
    quiet_option,
)
from tcpconn.cli.security import listener_options
from tcpconn.cli.storage import Destination, NotWanted, destination
from tcpconn.cli.transfer import (
    Header,
    Mismatch,
    SourceError,
    TransferError,
    receive_file,
    receive_header,
    refuse,
)


@click.command(short_help="Listen on ADDR and store what a tcpconn send brings.")
@click.argument("address", metavar="ADDR")
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    default=".",
    help="A directory (one that ends in / is created), the path for a single file, or - for "
    "standard output.  [default: the current directory]",
)
@click.option("-f", "--force", is_flag=True, help="Overwrite files that exist.")
@click.option(
    "-k",
    "--keep-listening",
    is_flag=True,
    help="Go on with the next sender, one after another, until Ctrl-C.",
)
@click.option(
    "--timeout",
    type=DurationType(),
    metavar="TIME",
    help="Give up if no sender comes, or nothing comes from it, for this long; without it, wait.",
)
@print_address_option
@quiet_option
@click.option("-v", "--verbose", is_flag=True, help="Print a line for each file, terminal or not.")
@link_options
@listener_options
@debug_option
def receive(
    address: str,
    output: str,
    force: bool,
    keep_listening: bool,
    timeout: float | None,
    print_address: bool,
    quiet: bool,
    verbose: bool,
    link: str,
    max_message_size: int,
    security: dict[str, Any],
) -> int:
    """Listen on ADDR and store what a tcpconn send brings; end when it has.

    A file appears under its name when it is whole and its SHA-256 is the sender's, never earlier,
    and takes the place of another only with --force. From a sender's names nothing is used but the
    last part, without control characters or a dot in front; what comes without a name, from
    standard input, is stored as "stdin". Permissions are taken over as far as the umask lets them.

    Anyone who reaches ADDR can send: listen on an address that only the right ones reach, or let
    them show that they are with --authkey-file, or --tls-cert and --tls-ca.

    On a terminal there is a progress bar; in a pipe there are no lines but the address and errors.

    \b
    Examples:
      tcpconn receive 0.0.0.0:9000                   into the current directory
      tcpconn receive -k -o inbox/ '[::]:9000'       from any number of senders
      tcpconn receive -o - host:9000 | tar xz        as a stream
    """
    if output == "-" and print_address:
        raise click.UsageError("--print-address and --output - both want standard output")
    target = destination(output, force=force)
    with explaining_listen(address):
        listener = tcpconn.listen(address, link=link, max_message_size=max_message_size, **security)
    with (
        listener,
        terminal.TransferReport(
            quiet=quiet,
            verbose=verbose,
            may_draw=output != "-" or not terminal.is_terminal(sys.stdout),
        ) as report,
    ):
        terminal.announce(
            listener.address,
            "for files to come; Ctrl-C ends",
            print_address=print_address,
            quiet=quiet,
        )
        code: int = ExitCode.OK
        while True:
            try:
                with explaining(address, lost=ExitCode.RECEIVE):
                    connection = listener.accept(timeout)
            except Stopped:
                if keep_listening:  # the one way in which it ends
                    return code
                raise
            try:
                came = _Reception(connection, target, report, timeout).run()
            except CommandError as error:
                if not keep_listening:
                    raise
                report.line(error.message)
                came = error.code
            finally:
                report.idle()
            if came is None:
                continue  # it was no sender; a port scan must not end the wait for one
            code = code or came
            if not keep_listening:
                return code


class _Reception:
    """What comes from one sender."""

    def __init__(
        self,
        connection: tcpconn.Connection,
        target: Destination,
        report: terminal.TransferReport,
        timeout: float | None,
    ) -> None:
        self._connection = connection
        self._target = target
        self._report = report
        self._timeout = timeout
        self._files = 0

    def run(self) -> int | None:
        """Take all that it sends; return an exit code, or None if it turns out to be no sender."""
        peer = self._connection.peer_address
        try:
            with explaining(peer, lost=ExitCode.RECEIVE):
                code = self._take_all()
                self._connection.close()
                return code
        except TransferError as error:
            self._report.line(f"{peer}: {printable(str(error))}; it is no tcpconn send")
            return ExitCode.NOT_TCPCONN if self._files else None
        finally:
            self._connection.abort()  # which does nothing to one that is closed

    def _take_all(self) -> int | None:
        code: int = ExitCode.OK
        while True:
            try:
                header = receive_header(self._connection, self._timeout)
            except (tcpconn.ConnectionClosed, tcpconn.LinkLost):
                if self._files:
                    raise
                return None
            except TransferError as error:
                refuse(self._connection, str(error), self._timeout)
                raise
            if header is None:
                return code if self._files else None
            self._files += 1
            taken = self._take(header)
            code = code or taken

    def _take(self, header: Header) -> int:
        peer = self._connection.peer_address
        name = printable(header.name or "the stream")
        try:
            store, shown = self._target.open(header)
        except NotWanted as error:
            refuse(self._connection, str(error), self._timeout)
            self._report.line(f"refused {name} from {peer}: {error}")
            return ExitCode.WRITE
        except OSError as error:
            refuse(self._connection, f"could not create it: {reason_of(error)}", self._timeout)
            self._report.line(f"could not create {name}: {reason_of(error)}")
            return ExitCode.WRITE
        self._report.begin(shown, header.size)
        try:
            through = receive_file(
                self._connection, store, advance=self._report.advance, timeout=self._timeout
            )
        except (tcpconn.ConnectionClosed, tcpconn.LinkLost) as error:
            raise CommandError(
                ExitCode.PARTIAL, f"{shown}: {peer} went away before the end: {error}"
            ) from error
        except tcpconn.TcpconnError:
            raise  # many of these are OSErrors too, but not the store's
        except Mismatch as error:
            self._report.line(f"{shown}: {error}; it was not kept")
            return ExitCode.PARTIAL
        except SourceError as error:
            self._report.line(f"{shown}: {printable(str(error))}; it was not kept")
            return ExitCode.PARTIAL
        except OSError as error:
            self._report.line(f"could not write {shown}: {reason_of(error)}")
            return ExitCode.WRITE
        self._report.finish(f"{shown} received", through.size, through.sha256)
        return ExitCode.OK
