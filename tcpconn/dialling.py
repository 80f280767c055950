"""Sockets for links: how they are dialled, and what is asked of the kernel for them."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any

from tcpconn.addresses import Address, describe, resolve
from tcpconn.errors import ConnectError, Timeout
from tcpconn.handshake import Stream
from tcpconn.options import Options
from tcpconn.securing import secure

NOTSENT_LOWAT = 262144
"""Bytes the kernel may hold unsent: one batch. More would only stand before what is more urgent."""

LONGEST_WAIT = 1e6
"""Seconds that count as for ever: locks and sockets take no timeout without bounds."""

LOCAL_SEND_BUFFER = 262144
"""Bytes that a socket to the same machine may hold, where the kernel would let it grow to
megabytes: there is no distance to be filled, and what lies there for long leaves the cache."""

LOCAL_CONGESTION = b"reno"
"""Congestion control to the same machine, where no network is to be spared. One that paces (BBR, if
the system has it as default) sets a timer for what it sends: half of a sender's time. This one is
there in every Linux, for every user."""

LOOPBACK = ("127.", "::1", "::ffff:127.")
"""How addresses begin that no other machine has."""


def dial(
    address: Address, options: Options, timeout: float | None, *, client: bool = True
) -> Stream:
    """A connected TCP or unix-domain socket; or TLS over it, agreed upon, if the options say so.

    Raises `ResolveError`, `ConnectError` (which says what each address answered), `Timeout`,
    `TlsError`, `LinkLost` (in the midst of the TLS handshake) or `OptionError`.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    sock = dial_socket(address, options, timeout)
    return secure(
        sock, options, str(address), server=not client, address=address, deadline=deadline
    )


def dial_socket(address: Address, options: Options, timeout: float | None) -> socket.socket:
    """A connected socket. Raises `ResolveError`, `ConnectError` or `Timeout`."""
    deadline = None if timeout is None else time.monotonic() + timeout
    failures: list[str] = []
    last: OSError | None = None
    for family, sockaddr in resolve(address):
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            break
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(None if left is None else min(left, LONGEST_WAIT))
            prepare_for_peers(sock, sockaddr)
            sock.connect(sockaddr)
            prepare_socket(sock, options)
            return sock
        except OSError as error:
            sock.close()
            last = error
            failures.append(f"{describe(sockaddr)}: {error.strerror or error}")
        except BaseException:
            sock.close()
            raise
    if last is None or isinstance(last, TimeoutError):
        raise Timeout(f"no connection to {address} within {timeout} s")
    raise ConnectError(f"cannot connect to {address} ({'; '.join(failures)})") from last


def is_local(sock: socket.socket) -> bool:
    """Whether the peer is on this machine."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return True
    try:
        return bool(sock.getpeername()[0] == sock.getsockname()[0])
    except OSError:
        return False


def prepare_for_peers(sock: socket.socket, sockaddr: Any) -> None:
    """What is to be said before `connect` or `listen`: a socket that has begun to pace goes on to,
    whatever is chosen later. `sockaddr` is where it connects to, or listens at.
    """
    if not isinstance(sockaddr, str) and str(sockaddr[0]).startswith(LOOPBACK):
        choose_local_congestion(sock)


def choose_local_congestion(sock: socket.socket) -> None:
    if hasattr(socket, "TCP_CONGESTION"):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, LOCAL_CONGESTION)


def prepare_socket(sock: socket.socket, options: Options) -> None:
    """Options for a link: no delay for small messages, little in the kernel before urgent ones, and
    an end to it when the peer takes nothing for as long as it may be silent.
    """
    if is_local(sock):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LOCAL_SEND_BUFFER)
        choose_local_congestion(sock)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if options.keepalive and options.keepalive_timeout and hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = min(int(options.keepalive_timeout * 1000) + 1, 0x7FFFFFFF)
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)
