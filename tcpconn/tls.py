"""TLS before there is a link: what stands for the socket until the handshake is over.

Imported only by who uses TLS: the standard library's `ssl` is not in every Python, nor quick to
load.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from typing import TypeVar

from tcpconn._link import Link
from tcpconn._link_tls import TlsLink
from tcpconn.errors import LinkLost, OptionError, TlsError
from tcpconn.tls_errors import tls_error

T = TypeVar("T")

RECEIVE = 65536
"""Bytes of ciphertext taken from the socket at once."""

LONGEST = 4 * RECEIVE
"""Bytes of ciphertext before there is a link: more than any chain of certificates has, and less
than would keep a listener's thread busy."""


def check_context(context: ssl.SSLContext) -> None:
    """Raises `OptionError` for a context that is not for servers."""
    _wrapped(context, ssl.MemoryBIO(), ssl.MemoryBIO(), True, None)


def _wrapped(
    context: ssl.SSLContext,
    incoming: ssl.MemoryBIO,
    outgoing: ssl.MemoryBIO,
    server: bool,
    hostname: str | None,
) -> ssl.SSLObject:
    if context.check_hostname and not server and not hostname:
        # OpenSSL would take any name then.
        raise OptionError("ssl: this context checks the server's name: say it with server_hostname")
    try:
        return context.wrap_bio(incoming, outgoing, server_side=server, server_hostname=hostname)
    except ValueError as error:
        raise OptionError(f"ssl: {error} (server_hostname={hostname!r})") from None
    except ssl.SSLError as error:
        side = "server" if server else "client"
        raise OptionError(f"ssl: this context is not for a {side}: {error.reason}") from None


class TlsStream:
    """What a socket is to a handshake, with TLS in between.

    It reads and writes as the socket does: at once, or blocking. The TLS handshake takes place when
    something is first read or written. Errors of TLS raise `TlsError`; a stream that ends before it
    has begun, `LinkLost`.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server: bool,
        peer: str,
        hostname: str | None = None,
    ) -> None:
        self.socket = sock
        self._peer = peer
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._unsent = b""
        self._begun = False
        self._received = b""
        self._deadline: float | None = None
        self._tls = _wrapped(context, self._incoming, self._outgoing, server, hostname)

    # As a socket

    def recv(self, count: int) -> bytes:
        """As a socket's. With 0, only the handshake takes place."""
        if not count:
            self._do(self._tls.do_handshake)
            return b""
        return self._do(lambda: self._tls.read(count), at_end=b"")

    def send(self, data: bytes) -> int:
        """As a socket's; what of it the socket does not take at once goes with the next call."""
        return self._do(lambda: self._tls.write(data))

    def sendall(self, data: bytes) -> None:
        """As a socket's, for one that blocks."""
        while data:
            data = data[self.send(data) :]

    def settimeout(self, seconds: float | None) -> None:
        """As a socket's, but for all that the next call does together."""
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self.socket.settimeout(seconds)

    def setblocking(self, flag: bool) -> None:
        """As a socket's."""
        self._deadline = None
        self.socket.setblocking(flag)

    def fileno(self) -> int:
        """As a socket's."""
        return self.socket.fileno()

    def close(self) -> None:
        """Closes the socket, without a word."""
        self.socket.close()

    # Beyond a socket

    @property
    def wants_write(self) -> bool:
        """Whether it waits for the socket to take something."""
        return bool(self._unsent)

    def link(self, under: Link) -> Link:
        """The link that goes on with what was begun here, over one on the socket."""
        return TlsLink(
            under, self._tls, self._incoming, self._outgoing, self._unsent, self._received
        )

    def _do(self, operation: Callable[[], T], at_end: T | None = None) -> T:
        while True:
            try:
                result = operation()
            except ssl.SSLWantReadError:
                self._flush()
                self._receive()
                continue
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                if self._begun and at_end is not None:
                    return at_end
                raise LinkLost(
                    f"{self._peer} ended the link in the midst of the TLS handshake; "
                    "does it speak TLS?"
                ) from None
            except ssl.SSLError as error:
                with contextlib.suppress(OSError):
                    self._flush()  # the alert, which tells the peer
                why = tls_error(error)
                raise type(why)(f"no TLS with {self._peer}: {why}") from None
            self._begun = True
            self._flush()
            return result

    def _receive(self) -> None:
        self._limit_time()
        data = self.socket.recv(RECEIVE)
        self._received += data
        if len(self._received) > LONGEST:
            raise TlsError(f"no TLS with {self._peer}: a handshake of more than {LONGEST} bytes")
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _flush(self) -> None:
        """Sends what there is; one that does not block, as much of it as the socket takes."""
        self._unsent += self._outgoing.read()
        try:
            while self._unsent:
                self._limit_time()
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except (BlockingIOError, InterruptedError):
            pass

    def _limit_time(self) -> None:
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.socket.settimeout(left)
