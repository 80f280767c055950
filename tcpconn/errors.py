"""The exceptions of tcpconn, one tree:

    TcpconnError
     ├─ AddressError (ValueError)            an address that cannot be one
     ├─ OptionError (ValueError)             an option unknown or out of range
     ├─ MessageTooLarge (ValueError)         nothing was sent
     ├─ BufferTooSmall (ValueError)          the message stays in its queue
     ├─ NotABuffer (TypeError)               data that is not one piece of bytes
     ├─ WrongLoop (RuntimeError)             an object of one event loop used from another
     ├─ Timeout (TimeoutError)               time ran out; nothing is lost
     ├─ ConnectError (ConnectionError)       no link could be made
     │   ├─ ResolveError                     the host name has no address
     │   ├─ TlsError                         TLS was not agreed upon
     │   │   └─ CertificateError             a certificate that is not trusted, or wanting
     │   └─ AuthenticationError              the authkey was not proved
     ├─ ConnectionClosed (ConnectionError)   an orderly end, or use after close
     │   └─ ConnectionReset (ConnectionResetError)   an abrupt one
     ├─ ProtocolError (ConnectionError)      the peer broke the protocol, or says that we did
     │   ├─ NotTcpconn                       it speaks something else
     │   └─ VersionMismatch                  it speaks another version
     └─ LinkLost (ConnectionError)           the link broke
         └─ SessionLost                      and the session with it: what is known of each message

Each also derives from the built-in exception where a user would look for it.
"""

from __future__ import annotations

from collections.abc import Sequence


class TcpconnError(Exception):
    """Anything that tcpconn raises on its own account."""


class AddressError(TcpconnError, ValueError):
    """An address that cannot be one. Nothing was tried."""


class OptionError(TcpconnError, ValueError):
    """An option that does not exist, or has a value out of its range."""


class MessageTooLarge(TcpconnError, ValueError):
    """A message over the limit, in bytes. Nothing of it was sent; the connection works on."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"a message of {size} bytes is over the limit of {limit} that both sides allow; "
            "send it in parts, or raise max_message_size on both sides"
        )
        self.size = size
        self.limit = limit


class BufferTooSmall(TcpconnError, ValueError):
    """`receive_into` was given too small a buffer. The message stays first in the queue."""

    def __init__(self, size: int, capacity: int) -> None:
        super().__init__(
            f"the next message has {size} bytes and the buffer only {capacity}; "
            "the message stays queued: receive it into a larger one"
        )
        self.size = size
        self.capacity = capacity


class NotABuffer(TcpconnError, TypeError):
    """Data that has no buffer, or one that is not in one piece (C-contiguous)."""


class WrongLoop(TcpconnError, RuntimeError):
    """What belongs to one event loop was used from another, or from a thread without one."""


class Timeout(TcpconnError, TimeoutError):
    """Time ran out. Nothing is lost: the call may simply be made again."""


class ConnectError(TcpconnError, ConnectionError):
    """No link could be made to an address."""


class ResolveError(ConnectError):
    """A host name has no address."""


class TlsError(ConnectError):
    """No link through TLS could be made: the peer speaks something else, or with other settings."""


class CertificateError(TlsError):
    """One side does not trust the other's certificate, or misses one. Trying again is no use."""


class AuthenticationError(ConnectError):
    """The two sides have not proved the same `authkey` to each other. Trying again is no use."""


class ConnectionClosed(TcpconnError, ConnectionError):
    """The connection has ended in order, or was used after `close`."""

    code = 0
    """Why, a code of PROTOCOL.md section 10; 0 for an orderly end."""


class ConnectionReset(ConnectionClosed, ConnectionResetError):
    """The connection was ended abruptly, by the peer or by `abort`."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class ProtocolError(TcpconnError, ConnectionError):
    """Bytes that PROTOCOL.md does not allow came from the peer, or went to it, as it says."""

    def __init__(self, message: str, code: int = 1, section: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.section = section


class NotTcpconn(ProtocolError):
    """The peer speaks something else: HTTP, TLS, noise."""


class VersionMismatch(ProtocolError):
    """The peer speaks another version of the protocol."""


class LinkLost(TcpconnError, ConnectionError):
    """The link broke, or the peer left without a word."""


class SessionLost(LinkLost):
    """The session is gone. `acked`: how many messages the peer's session took; `in_doubt`: those
    it may or may not have taken; `unsent`: those it cannot have. Both in order, as sent."""

    def __init__(
        self,
        message: str,
        acked: int = 0,
        in_doubt: Sequence[bytes] = (),
        unsent: Sequence[bytes] = (),
    ) -> None:
        super().__init__(message)
        self.acked = acked
        self.in_doubt = list(in_doubt)
        self.unsent = list(unsent)
