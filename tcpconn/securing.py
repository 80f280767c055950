"""What may stand between a connected socket and a session: TLS."""

from __future__ import annotations

import socket
import time

from tcpconn.addresses import Address
from tcpconn.errors import LinkLost, TcpconnError, Timeout
from tcpconn.handshake import LOST, Stream
from tcpconn.options import Options


def stream_over(
    sock: socket.socket,
    options: Options,
    peer: str,
    *,
    server: bool,
    address: Address | None = None,
) -> Stream:
    """What a handshake reads and writes: the socket itself, or TLS over it. Sends nothing yet.

    The peer's certificate must name the host of `address`, if the options say nothing else. Raises
    `OptionError` for a context that is not for this side.
    """
    if options.ssl is None:
        return sock
    from tcpconn.tls import TlsStream

    hostname = options.server_hostname
    if hostname is None and address is not None and not address.path:
        hostname = address.host or "localhost"
    return TlsStream(
        sock, options.ssl, server=server, peer=peer, hostname=None if server else hostname
    )


def secure(
    sock: socket.socket,
    options: Options,
    peer: str,
    *,
    server: bool,
    address: Address | None = None,
    deadline: float | None = None,
) -> Stream:
    """The same once the TLS handshake is over. Blocks, for `handshake_timeout` at most, and not
    beyond `deadline` (of `time.monotonic`).

    Closes the socket when it raises: `TlsError`, `Timeout`, `LinkLost` or `OptionError`.
    """
    try:
        stream = stream_over(sock, options, peer, server=server, address=address)
        if stream is not sock:
            seconds = options.handshake_timeout
            if deadline is not None:
                seconds = max(1e-6, min(seconds, deadline - time.monotonic()))
            stream.settimeout(seconds)
            stream.recv(0)
        return stream
    except TimeoutError:
        sock.close()
        raise Timeout(f"the TLS handshake with {peer} took too long; does it speak TLS?") from None
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError) and not isinstance(error, TcpconnError):
            raise LinkLost(f"{LOST}: {error}") from error
        raise


def check_server(options: Options) -> None:
    """Raises `OptionError` for what a server cannot use, before it has accepted anything."""
    if options.ssl is not None:
        from tcpconn.tls import check_context

        check_context(options.ssl)
