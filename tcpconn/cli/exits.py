"""How a command ends: its exit code, and one line that says why.

The codes are curl's wherever curl has one for the case, so that what scripts know of curl holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Self

import tcpconn

# The longest text of a peer's that is repeated to the user.
_PEER_TEXT_LIMIT = 200


class ExitCode(IntEnum):
    """The exit codes, each with its meaning for ``--help``."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Self:
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    OK = 0, "everything went well"
    NO_REPLY = 1, "ping: not one reply came"
    USAGE = 2, "an option or argument is wrong, or the extra 'cli' is not installed"
    BAD_ADDRESS = 3, "ADDR is not an address"
    RESOLVE = 6, "the host name could not be resolved"
    CONNECT = 7, "could not connect"
    NOT_TCPCONN = 8, "the peer speaks something else, or is not the command it should be"
    PARTIAL = 18, "a file did not arrive whole: the sender went away, or the SHA-256 differ"
    WRITE = 23, "could not write a file or standard output"
    REFUSED = 25, "send: the receiver refused a file or could not store it"
    READ = 26, "could not read a file or standard input"
    TIMEOUT = 28, "a timeout ran out"
    TLS = 35, "no link through TLS: the peer speaks something else, or has other settings"
    LISTEN = 45, "could not listen on ADDR"
    SEND = 55, "send: the connection was lost"
    RECEIVE = 56, "receive, ping: the connection was lost"
    CREDENTIALS = 58, "a certificate, or the file of a key, cannot be used"
    UNTRUSTED = 60, "one side does not trust the other's certificate"
    TOO_LARGE = 63, "a message is larger than the peer takes"
    AUTHENTICATION = 67, "the peer has another key than --authkey-file, or none"
    BUG = 70, "an error in tcpconn itself"
    INTERRUPTED = 130, "ended by Ctrl-C (143: by SIGTERM)"


class CommandError(Exception):
    """Ends a command with `code`, and with `message` on standard error unless that is empty."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Stopped(BaseException):
    """A signal asks the command to end.

    Not a KeyboardInterrupt, because click has its own way with those.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.exit_code = 128 + signal_number


def printable(text: str) -> str:
    """`text` from a peer, fit for a terminal: one line, no control characters, not too long."""
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= _PEER_TEXT_LIMIT else shown[: _PEER_TEXT_LIMIT - 1] + "…"


def reason_of(error: BaseException) -> str:
    """What `error` says, without the number and the path that an OSError puts around it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _naming(address: str, error: BaseException) -> str:
    text = printable(str(error))
    return text if address in text else f"{address}: {text}"


@contextmanager
def explaining(address: str, *, lost: ExitCode) -> Iterator[None]:
    """Turn the errors of talking to `address` into a CommandError.

    `lost` is the code for a connection that breaks once it had come about.
    """
    try:
        yield
    except tcpconn.AddressError as error:
        raise CommandError(ExitCode.BAD_ADDRESS, str(error)) from error
    except tcpconn.OptionError as error:
        raise CommandError(ExitCode.USAGE, str(error)) from error
    except tcpconn.MessageTooLarge as error:
        raise CommandError(
            ExitCode.TOO_LARGE,
            f"{address}: a message of {error.size} bytes is over the {error.limit} that both sides "
            "allow; make it smaller, or raise --max-message-size on both sides",
        ) from error
    except tcpconn.ResolveError as error:
        raise CommandError(ExitCode.RESOLVE, _naming(address, error)) from error
    except tcpconn.CertificateError as error:
        raise CommandError(ExitCode.UNTRUSTED, _naming(address, error)) from error
    except tcpconn.TlsError as error:
        raise CommandError(ExitCode.TLS, _naming(address, error)) from error
    except tcpconn.AuthenticationError as error:
        raise CommandError(ExitCode.AUTHENTICATION, _naming(address, error)) from error
    except tcpconn.ConnectError as error:
        raise CommandError(
            ExitCode.CONNECT, f"{_naming(address, error)}; is anything listening there?"
        ) from error
    except tcpconn.Timeout as error:
        raise CommandError(ExitCode.TIMEOUT, _naming(address, error)) from error
    except tcpconn.ProtocolError as error:
        raise CommandError(ExitCode.NOT_TCPCONN, _naming(address, error)) from error
    except (tcpconn.ConnectionClosed, tcpconn.LinkLost) as error:
        raise CommandError(lost, _naming(address, error)) from error


@contextmanager
def explaining_listen(address: str) -> Iterator[None]:
    """Turn the errors of beginning to listen on `address` into a CommandError."""
    try:
        with explaining(address, lost=ExitCode.LISTEN):
            try:
                yield
            except tcpconn.ResolveError:
                raise
            except tcpconn.ConnectError as error:
                raise CommandError(ExitCode.LISTEN, _naming(address, error)) from error
    except OSError as error:
        raise CommandError(
            ExitCode.LISTEN, f"could not listen on {address}: {reason_of(error)}"
        ) from error
