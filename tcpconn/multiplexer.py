"""A multiplexer: many connections over one session, and the link under it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import threading
import time
import uuid
import warnings
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tcpconn._driver import Driver
from tcpconn._endpoint import accept_endpoint, endpoints, open_endpoint
from tcpconn._engine import Acceptor
from tcpconn._keeper import join_ended_keepers, make_engine, make_link
from tcpconn._session import Session
from tcpconn.addresses import Address, describe, parse_address, resolve
from tcpconn.connection import Connection
from tcpconn.errors import (
    ConnectError,
    ConnectionClosed,
    NotTcpconn,
    OptionError,
    ProtocolError,
    Timeout,
)
from tcpconn.grumbling import Warnings
from tcpconn.handshake import Stream, socket_of
from tcpconn.options import Options, make_options
from tcpconn.securing import secure

logger = logging.getLogger("tcpconn")
faults = Warnings(logger)

NOTSENT_LOWAT = 262144
"""Bytes the kernel may hold unsent: one batch. More would only stand before what is more urgent."""

LONGEST_WAIT = 1e6
"""Seconds that count as for ever: locks and sockets take no timeout without bounds."""

LOCAL_SEND_BUFFER = 524288
"""Bytes that a socket to the same machine may hold, where the kernel would let it grow to
megabytes: there is no distance to be filled, and what lies there for long leaves the cache."""

LOCAL_CONGESTION = b"reno"
"""Congestion control to the same machine, where no network is to be spared. One that paces (BBR, if
the system has it as default) sets a timer for what it sends: half of a sender's time. This one is
there in every Linux, for every user."""

RELEASE_SECONDS = 2.0
"""How long `close` waits for its threads to let go of the socket. They need milliseconds."""


@dataclasses.dataclass(frozen=True, slots=True)
class MultiplexerStats:
    """Counters of one session at one moment."""

    connections: int
    bytes_sent: int
    """On the link, headers included."""
    bytes_received: int
    frames_received: int
    queued_bytes: int
    """In the send queue: written and not acknowledged, or not yet written."""
    unread_bytes: int
    """Of messages that nobody has received yet."""
    round_trip_time: float | None
    """Seconds, smoothed."""


def dial(
    address: Address, options: Options, timeout: float | None, *, client: bool = True
) -> Stream:
    """A connected TCP or unix-domain socket; or TLS over it, agreed upon, if the options say so.

    Raises `ResolveError`, `ConnectError` (which says what each address answered), `Timeout`,
    `TlsError`, `LinkLost` (in the midst of the TLS handshake) or `OptionError`.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    sock = dial_socket(address, timeout)
    return secure(
        sock, options, str(address), server=not client, address=address, deadline=deadline
    )


def dial_socket(address: Address, timeout: float | None) -> socket.socket:
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
            sock.connect(sockaddr)
            prepare_socket(sock)
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


def prepare_socket(sock: socket.socket) -> None:
    """Options for a link: no delay for small messages, little in the kernel before urgent ones."""
    if is_local(sock):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LOCAL_SEND_BUFFER)
        if hasattr(socket, "TCP_CONGESTION"):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, LOCAL_CONGESTION)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)


class Multiplexer:
    """Carries many connections over one session, and drives its link.

    Thread-safe; a context manager. `target` is an address, which is dialled, or a connected stream
    socket, which the multiplexer owns from then on. `client` says who greets first: by default who
    dialled does, and who was given a socket waits. `timeout` in seconds bounds dialling and the
    handshake. Options: see `Options`.

    Raises what `connect` raises.
    """

    def __init__(
        self,
        target: Any,
        *,
        client: bool | None = None,
        timeout: float | None = 10.0,
        **options: Any,
    ) -> None:
        chosen = make_options(options)
        started = time.monotonic()
        name = None
        stream: Stream
        if isinstance(target, socket.socket):
            client = bool(client)
            deadline = None if timeout is None else started + timeout
            stream = secure(target, chosen, "the peer", server=not client, deadline=deadline)
        else:
            client = client is None or client
            address = parse_address(target)
            name = str(address)
            stream = dial(address, chosen, timeout, client=client)
        left = None if timeout is None else max(0.0, timeout - (time.monotonic() - started))
        self._begin(stream, client, chosen, left, name)

    def _begin(
        self,
        stream: Stream,
        client: bool,
        options: Options,
        timeout: float | None = None,
        name: str | None = None,
        acceptor: Acceptor | None = None,
        on_end: Callable[[Multiplexer], None] | None = None,
        first: bytes = b"",
    ) -> None:
        self.options = options
        sock = socket_of(stream)
        self.local_address = describe(sock.getsockname())
        try:
            peer = describe(sock.getpeername())
        except OSError:
            peer = "unnamed"
        self.peer_address = name or peer
        self._socket = sock
        self._released = threading.Event()
        self._accepting = acceptor is None
        self._managed = False
        self._engine: Driver
        try:
            prepare_socket(sock)
            link = make_link(stream, options.link)
        except ValueError as error:
            sock.close()
            raise OptionError(str(error)) from None
        session = Session(options, client=client)
        session.feed(first)

        def prepare(engine: Driver) -> None:
            self._engine = engine
            engine.local_address = self.local_address
            engine.peer_address = self.peer_address
            engine.home = weakref.ref(self)
            engine.on_end = _end_callback(weakref.ref(self), self._released, engine, on_end)

        make_engine(session, link, acceptor, prepare)
        logger.debug("link to %s opened from %s", self.peer_address, self.local_address)
        try:
            self._engine.start(timeout)
        except BaseException:
            self._engine.abort()
            self._wait_released()
            raise

    # Connections

    def open(self, id: uuid.UUID | None = None, *, priority: int | None = None) -> Connection:
        """Opens the connection named `id` (a new one without), or meets the peer who has opened it.

        `priority` is 0 (least) to 7, 3 by default; it governs what we send, and is told to the
        peer. Raises `ConnectionClosed` when the link is closed or closing, or when the connection
        is open here already.
        """
        name = uuid.uuid4() if id is None else _uuid(id)
        connection: Connection = open_endpoint(
            Connection, self._engine, name.bytes, check_priority(priority)
        )
        connection._keeps = self
        return connection

    def accept(self, timeout: float | None = None) -> Connection:
        """Waits for a connection that the peer opens (`timeout` in seconds).

        Raises `Timeout`, or `ConnectionClosed` and its like when the link ends. What a listener
        made is accepted there.
        """
        if not self._accepting:
            raise ConnectionClosed("connections of this multiplexer are accepted by its listener")
        connection: Connection | None = accept_endpoint(Connection, self._engine, timeout)
        if connection is None:
            raise Timeout(f"the peer has opened no connection within {timeout} s")
        connection._keeps = self
        return connection

    @property
    def connections(self) -> list[Connection]:
        """The connections in use here."""
        return [each for each in endpoints(self._engine) if isinstance(each, Connection)]

    @property
    def takes_connections(self) -> bool:
        """Whether `open` may succeed: the link is up and neither side is closing it."""
        return self._engine.takes_connections

    @property
    def connection_count(self) -> int:
        """How many connections the session has, those included that the peer has not closed yet."""
        return self._engine.connections

    # The link

    @property
    def round_trip_time(self) -> float | None:
        """Seconds for a round trip through the peer's session, smoothed; None: not measured."""
        return self._engine.round_trip

    def ping(self, timeout: float | None = None) -> float:
        """Measures a round trip, and returns it smoothed with earlier ones, in seconds.

        Peers need not take more than one PING a second: after eight in a row, or while another is
        on its way, it waits its turn, and threads that wait share one. Raises `Timeout`, or why the
        link ended.
        """
        return self._engine.ping(timeout)

    @property
    def closed(self) -> bool:
        """Whether the link is closed or broken."""
        return self._engine.is_down

    @property
    def state(self) -> str:
        """A word: open, closing, closed."""
        if self._engine.is_down:
            return "closed"
        return "open" if self._engine.takes_connections else "closing"

    @property
    def peer_certificate(self) -> dict[str, Any] | None:
        """The peer's, as `ssl.SSLSocket.getpeercert` gives it; None: none that was checked."""
        return self._engine.link.certificate

    def stats(self) -> MultiplexerStats:
        """The session's counters now. Thread-safe, never waits.

        Raises `ConnectionClosed` in a process that was forked after the link was made.
        """
        numbers = self._engine.stats()
        return MultiplexerStats(
            connections=numbers["connections"],
            bytes_sent=numbers["bytes_sent"],
            bytes_received=numbers["bytes_received"],
            frames_received=numbers["frames_received"],
            queued_bytes=numbers["queued_bytes"] + numbers["outgoing_bytes"],
            unread_bytes=numbers["unread_bytes"],
            round_trip_time=self._engine.round_trip,
        )

    def manage(self) -> None:
        """Somebody else than the user sees to its end."""
        self._managed = True

    @property
    def key(self) -> Driver:
        """What stands for it where it must not be kept alive."""
        return self._engine

    def let_go_when_idle(self) -> None:
        """From now on the link is closed when it has had no connection for `idle_timeout`."""
        self._managed = True
        self._engine.set_idle_timeout(self.options.idle_timeout)

    def close(self, timeout: float | None = 5) -> None:
        """Ends all connections, and closes the link once the peer has acknowledged what was sent.

        After `timeout` seconds it is closed all the same, and that is logged. Never raises for what
        the peer did not take: that is `Connection.close`'s and `flush`'s to say. Calling it again
        does nothing.
        """
        if not self._engine.close(timeout):
            logger.warning(
                "link to %s closed with messages that the peer had not acknowledged after %s s",
                self.peer_address,
                timeout,
            )
        self._wait_released()

    def abort(self) -> None:
        """Closes the link at once. What was not acknowledged may be lost."""
        self._engine.abort()
        self._wait_released()

    def _wait_released(self) -> None:
        if self._released.wait(RELEASE_SECONDS):
            join_ended_keepers(RELEASE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is None or engine.is_down:
            return
        if self._managed:
            engine.set_idle_timeout(0)  # nobody can use it any more
            return
        warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=1)
        engine.abort()

    def __repr__(self) -> str:
        if not hasattr(self, "_engine"):
            return "<Multiplexer not connected>"
        return (
            f"<Multiplexer {self.state}, {self.local_address} to {self.peer_address}, "
            f"{self.connection_count} connections>"
        )


def _end_callback(
    reference: weakref.ref[Multiplexer],
    released: threading.Event,
    engine: Driver,
    on_end: Callable[[Multiplexer], None] | None,
) -> Callable[[], None]:
    """What happens once the link's descriptor is closed. Must not keep the multiplexer alive."""
    engine_reference = weakref.ref(engine)

    def ended() -> None:
        ended_engine = engine_reference()
        if ended_engine is not None:
            error = ended_engine.error()
            if isinstance(error, ProtocolError) and not isinstance(error, NotTcpconn):
                faults.warn("%s", error)
            logger.debug("link to %s ended: %s", ended_engine.peer_address, error)
        released.set()
        multiplexer = reference()
        if on_end is not None and multiplexer is not None:
            on_end(multiplexer)

    return ended


def serve_socket(
    stream: Stream,
    options: Options,
    acceptor: Acceptor | None = None,
    on_end: Callable[[Multiplexer], None] | None = None,
    first: bytes = b"",
) -> Multiplexer:
    """A multiplexer on an accepted socket, of which `first` was read already. Does not wait."""
    multiplexer = Multiplexer.__new__(Multiplexer)
    multiplexer._begin(stream, False, options, acceptor=acceptor, on_end=on_end, first=first)
    return multiplexer


def check_priority(priority: object) -> int:
    """A priority for the core, -1 for none given."""
    if priority is None:
        return -1
    if not isinstance(priority, int) or not 0 <= priority <= 7:
        raise OptionError(f"priority={priority!r} is outside 0 … 7")
    return priority


def _uuid(id: Any) -> uuid.UUID:
    if not isinstance(id, uuid.UUID):
        raise OptionError(f"id={id!r} is not a uuid.UUID")
    return id


class _Wrapped:
    """A socket that `wrap` serves. Whoever comes first makes its multiplexer, under the lock."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.lock = threading.Lock()
        self.multiplexer: Multiplexer | None = None


_wrapped: dict[int, _Wrapped] = {}
"""By descriptor, until the link ends: a socket may be wrapped again after a `Timeout`."""

_wrapping = threading.Lock()


def _unwrap(multiplexer: Multiplexer) -> None:
    _forget(lambda place: place.multiplexer is multiplexer)


def _forget(ended: Callable[[_Wrapped], bool]) -> None:
    with _wrapping:
        for descriptor in [key for key, place in _wrapped.items() if ended(place)]:
            del _wrapped[descriptor]


def _forget_in_child() -> None:
    global _wrapped, _wrapping
    _wrapped = {}
    _wrapping = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def wrap(
    sock: socket.socket,
    id: uuid.UUID | None = None,
    *,
    priority: int | None = None,
    timeout: float | None = None,
    **options: Any,
) -> Connection:
    """Serves an accepted socket: the connection `id` on it, or else the next that the peer opens.

    The socket belongs to tcpconn from then on. Calling it again with the same socket gives further
    connections on the same link. The link is closed once its connections are, and `idle_timeout` is
    over. `timeout` in seconds is for the peer's opening, and for the handshake of TLS if there is
    one, which ends the socket when it fails. Raises `Timeout`, `ConnectionClosed`,
    `ProtocolError`, `OptionError`.
    """
    chosen = make_options(options)
    check_priority(priority)
    if id is not None:
        _uuid(id)
    with _wrapping:
        place = _wrapped.get(sock.fileno())
        if place is None or place.sock is not sock:
            place = _wrapped[sock.fileno()] = _Wrapped(sock)
    with place.lock:
        if place.multiplexer is None:
            place.multiplexer = _serve_wrapped(place, chosen, timeout)
        elif options and chosen != place.multiplexer.options:
            raise OptionError("this socket is served already, with other options")
    multiplexer = place.multiplexer
    if id is None:
        return multiplexer.accept(timeout)
    return multiplexer.open(id, priority=priority)


def _serve_wrapped(place: _Wrapped, options: Options, timeout: float | None) -> Multiplexer:
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        stream = secure(place.sock, options, "the peer", server=True, deadline=deadline)
        multiplexer = serve_socket(stream, options, on_end=_unwrap)
    except BaseException:
        _forget(lambda other: other is place)
        raise
    multiplexer.let_go_when_idle()
    return multiplexer
