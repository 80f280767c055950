"""``tcpconn send``: files, or standard input, to ``tcpconn receive``."""

from __future__ import annotations

import os
import stat
import sys
from collections import Counter
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import click

import tcpconn
from tcpconn.cli import terminal
from tcpconn.cli.exits import CommandError, ExitCode, explaining, printable, reason_of
from tcpconn.cli.options import (
    DurationType,
    SizeType,
    connect_timeout_option,
    debug_option,
    link_options,
    quiet_option,
)
from tcpconn.cli.security import caller_options
from tcpconn.cli.transfer import (
    Header,
    Mismatch,
    Refused,
    SourceError,
    TransferError,
    send_file,
)


@dataclass(frozen=True)
class _File:
    """One thing to send: a path, or None for standard input."""

    path: Path | None
    name: str | None

    @property
    def shown(self) -> str:
        """Its name for the user."""
        return "standard input" if self.path is None else printable(str(self.path))

    def open(self) -> tuple[BufferedReader, Header]:
        """Open it, and return it with what to tell the receiver."""
        if self.path is None:
            source = open(sys.stdin.fileno(), "rb", closefd=False)  # noqa: SIM115
        else:
            source = self.path.open("rb")
        status = os.fstat(source.fileno())
        if not stat.S_ISREG(status.st_mode):  # a pipe or device: how much will come, nobody knows
            return source, Header(self.name)
        if self.path is None:  # `< file`, which may have been read from already
            return source, Header(self.name, max(0, status.st_size - source.tell()))
        return source, Header(self.name, status.st_size, stat.S_IMODE(status.st_mode))


class _Source:
    """A file that is read as it comes: what a pipe has now goes out now, in a smaller message."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file

    def readinto(self, buffer: memoryview) -> int:
        return self._file.readinto1(buffer)


def _check(paths: tuple[str, ...], name: str | None) -> list[_File]:
    """Find what cannot be sent before anything is."""
    if name is not None and len(paths) > 1:
        raise click.UsageError("--name is for a single FILE")
    if paths.count("-") > 1:
        raise click.UsageError("standard input can be sent only once")
    files = []
    for text in paths:
        if text == "-":
            if sys.stdin is None:
                raise CommandError(ExitCode.READ, "standard input is closed; give a FILE")
            files.append(_File(None, name))
            continue
        path = Path(text)
        try:
            if path.is_dir():
                raise CommandError(
                    ExitCode.READ,
                    f"{text!r} is a directory; send a pack of it: tar c {text} | tcpconn send ADDR",
                )
            if not stat.S_ISFIFO(path.stat().st_mode):  # a pipe can be opened only once
                path.open("rb").close()
        except OSError as error:
            raise CommandError(
                ExitCode.READ, f"could not read {text!r}: {reason_of(error)}"
            ) from error
        files.append(_File(path, name or path.name))
    for name_sent, times in Counter(file.name for file in files).items():
        if times > 1:
            raise click.UsageError(
                f"{times} files are named {name_sent!r}, and directories do not go along; "
                "send them one by one"
            )
    return files


@click.command(short_help="Send files or standard input to a tcpconn receive.")
@click.argument("address", metavar="ADDR")
@click.argument("paths", metavar="[FILE]...", nargs=-1)
@click.option(
    "-n",
    "--name",
    metavar="NAME",
    help="The name to send, instead of FILE's own or for standard input.",
)
@click.option(
    "--message-size",
    type=SizeType(),
    metavar="SIZE",
    default="256K",  # stays in a core's cache on its way from read to hash to socket
    show_default=True,
    help="The contents go in messages of up to this size.",
)
@connect_timeout_option
@click.option(
    "--timeout",
    type=DurationType(),
    metavar="TIME",
    help="Give up if the receiver takes nothing for this long; without it, wait.",
)
@quiet_option
@click.option("-v", "--verbose", is_flag=True, help="Print a line for each file, terminal or not.")
@link_options
@caller_options
@debug_option
def send(
    address: str,
    paths: tuple[str, ...],
    name: str | None,
    message_size: int,
    connect_timeout: float,
    timeout: float | None,
    quiet: bool,
    verbose: bool,
    link: str,
    max_message_size: int,
    security: dict[str, Any],
) -> int:
    """Send each FILE, or standard input, to the tcpconn receive that listens on ADDR.

    FILE may be - for standard input. Contents of any size go through as a stream, in little memory.
    Names go along without their directories, and permissions.

    At the end of each file both sides compare its SHA-256: send ends with 0 only if the receiver
    has stored every file as it was read. A file that the receiver refuses does not keep the others
    back.

    On a terminal there is a progress bar; in a pipe there are no lines but errors.

    \b
    Examples:
      tcpconn send host:9000 disk.img notes.txt
      tar cz photos | tcpconn send --name photos.tgz host:9000
      tcpconn send --tls-ca authority.pem --authkey-file key host:9000 disk.img
    """
    if message_size > max_message_size:
        raise click.UsageError(
            f"--message-size {message_size} is over --max-message-size {max_message_size}"
        )
    files = _check(paths or ("-",), name)
    with explaining(address, lost=ExitCode.SEND):
        connection = tcpconn.connect(
            address,
            timeout=connect_timeout,
            link=link,
            max_message_size=max_message_size,
            **security,
        )
    try:
        with (
            terminal.TransferReport(quiet=quiet, verbose=verbose) as report,
            explaining(address, lost=ExitCode.SEND),
        ):
            code = _send_all(connection, files, message_size, timeout, report)
            connection.close()
            return code
    finally:
        # Nothing to one that is closed. Where it is not, this must not look like an orderly end.
        connection.abort()


def _send_all(
    connection: tcpconn.Connection,
    files: list[_File],
    message_size: int,
    timeout: float | None,
    report: terminal.TransferReport,
) -> int:
    code: int = ExitCode.OK
    peer = connection.peer_address
    # Anything mutable is copied by the core before send() returns, so one buffer does for all.
    with memoryview(bytearray(message_size)) as buffer:
        for file in files:
            try:
                _send_one(connection, file, buffer, timeout, report)
                continue
            except TransferError as error:
                raise CommandError(
                    ExitCode.NOT_TCPCONN,
                    f"{peer}: {printable(str(error))}; is it a tcpconn receive?",
                ) from error
            except Refused as error:
                failed, reason = (
                    ExitCode.REFUSED,
                    f"{peer} did not take it: {printable(str(error))}",
                )
            except Mismatch as error:
                failed, reason = ExitCode.PARTIAL, f"{peer}: {printable(str(error))}; send it again"
            except SourceError as error:
                failed, reason = ExitCode.READ, f"could not read on: {error}"
            code = code or failed
            report.line(f"{file.shown}: {reason}")
    return code


def _send_one(
    connection: tcpconn.Connection,
    file: _File,
    buffer: memoryview,
    timeout: float | None,
    report: terminal.TransferReport,
) -> None:
    try:
        source, header = file.open()
    except OSError as error:
        raise SourceError(reason_of(error)) from error
    with source:
        report.waiting("waiting for the receiver")
        through = send_file(
            connection,
            header,
            _Source(source),
            buffer,
            begin=lambda: report.begin(file.shown, header.size),
            advance=report.advance,
            timeout=timeout,
        )
    report.finish(f"{file.shown} sent", through.size, through.sha256)
    if header.size is not None and header.size != through.size:
        report.line(
            f"{file.shown}: changed while it was read, from {header.size} to {through.size} bytes"
        )
