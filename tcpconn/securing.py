"""What may stand between a connected socket and a session: TLS, and the proof of the authkey."""

from __future__ import annotations

import socket
import time

from tcpconn.addresses import Address
from tcpconn.authkey import prove_to_client, prove_to_server
from tcpconn.errors import AuthenticationError, LinkLost, TcpconnError, Timeout
from tcpconn.handshake import LOST, Stream, run
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
    """The same once TLS is agreed upon and the authkey proved, as far as the options say so.

    Blocks, for `handshake_timeout` at most, and not beyond `deadline` (of `time.monotonic`). Closes
    the socket when it raises: `TlsError`, `AuthenticationError`, `ProtocolError`, `Timeout`,
    `LinkLost` or `OptionError`.
    """
    latest = time.monotonic() + options.handshake_timeout
    deadline = latest if deadline is None else min(latest, deadline)
    try:
        stream = stream_over(sock, options, peer, server=server, address=address)
        if stream is not sock:
            _agree(stream, peer, deadline)
        if options.authkey is not None:
            steps = prove_to_client if server else prove_to_server
            run(steps(options.authkey), stream, deadline)
        return stream
    except AuthenticationError as error:
        sock.close()
        raise AuthenticationError(f"{peer}: {error}") from None
    except BaseException:
        sock.close()
        raise


def _agree(stream: Stream, peer: str, deadline: float) -> None:
    """The TLS handshake."""
    try:
        stream.settimeout(max(1e-6, deadline - time.monotonic()))
        stream.recv(0)
    except TimeoutError:
        raise Timeout(f"the TLS handshake with {peer} took too long; does it speak TLS?") from None
    except OSError as error:
        if isinstance(error, TcpconnError):
            raise
        raise LinkLost(f"{LOST}: {error}") from error


def check_server(options: Options) -> None:
    """Raises `OptionError` for what a server cannot use, before it has accepted anything."""
    if options.ssl is not None:
        from tcpconn.tls import check_context

        check_context(options.ssl)
