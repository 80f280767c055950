"""The command ``tcpconn`` itself, and how whatever happens becomes an exit code."""

from __future__ import annotations

import logging
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import click

import tcpconn
from tcpconn.cli import terminal
from tcpconn.cli.exits import CommandError, ExitCode, Stopped
from tcpconn.cli.options import debug_option
from tcpconn.cli.ping import ping
from tcpconn.cli.receive import receive
from tcpconn.cli.send import send
from tcpconn.cli.serve import serve

_EXIT_CODES = "\b\nExit codes, curl's where curl has one:\n" + "\n".join(
    f"  {code.value:>3}  {code.meaning}" for code in ExitCode
)
_NO_LOG = logging.NullHandler()
_SEE_ALSO = "Exit codes: see tcpconn --help."


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EXIT_CODES,
)
@click.version_option(tcpconn.__version__, prog_name="tcpconn", message="%(prog)s %(version)s")
@debug_option
def cli() -> None:
    """Exchange messages over TCP: try a connection, measure it, move files through it.

    ADDR is host:port, [::1]:port for IPv6, or unix:/path. Sizes are written like 4096, 64K or 1.5M
    (powers of 1024), times like 2, 0.5, 500ms or 2m (seconds if nothing is said).

    \b
    Examples:
      tcpconn serve 127.0.0.1:9000         in one terminal, and in another
      tcpconn ping 127.0.0.1:9000
      tcpconn receive 0.0.0.0:9000         on one machine, and on another
      tcpconn send thathost:9000 file
    """


for _command in (serve, ping, receive, send):
    _command.epilog = _SEE_ALSO
    cli.add_command(_command)


def run(arguments: Sequence[str]) -> int:
    """Run the command line with `arguments` and return its exit code."""
    debug = "--debug" in arguments

    def fail(code: int, message: str, error: BaseException) -> int:
        if debug:
            traceback.print_exception(error)
        if message:
            terminal.note(message)
        return code

    # Without a handler of ours, logging would print warnings on standard error by itself.
    logging.getLogger("tcpconn").addHandler(_NO_LOG)
    with _signals_as_exceptions():
        try:
            code = cli.main(args=list(arguments), prog_name="tcpconn", standalone_mode=False)
            return int(code or 0)
        except CommandError as error:
            return fail(error.code, error.message, error)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            return ExitCode.USAGE
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx is not None else "tcpconn"
            message = f"{error.format_message().rstrip('.')} (see: {where} --help)"
            return fail(ExitCode.USAGE, message, error)
        except click.exceptions.Exit as error:
            return error.exit_code
        except (click.Abort, KeyboardInterrupt):
            return ExitCode.INTERRUPTED
        except Stopped as error:
            return error.exit_code
        except Exception as error:  # noqa: BLE001  the user gets one line, and --debug the rest
            message = f"{type(error).__name__}: {error}"
            hint = "this is an error in tcpconn; --debug shows where"
            return fail(ExitCode.BUG, f"{message} ({hint})", error)
        finally:
            terminal.detach_broken_stdout()


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a closed terminal unwind the command, so that it cleans up."""

    def stop(signal_number: int, _frame: FrameType | None) -> None:
        raise Stopped(signal_number)

    previous = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # One that is ignored, like SIGHUP under nohup, stays so.
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            previous[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
