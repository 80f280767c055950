"""A multiplexer: many connections over one session, and the link under it."""

from __future__ import annotations

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
from tcpconn._endpoint import Endpoint, accept_endpoint, endpoints, open_endpoint
from tcpconn._engine import Acceptor
from tcpconn._keeper import join_ended_keepers, make_engine, make_link
from tcpconn._session import Session
from tcpconn.addresses import Address, describe, parse_address
from tcpconn.connection import Connection
from tcpconn.dialling import dial, prepare_socket
from tcpconn.errors import (
    ConnectionClosed,
    NotTcpconn,
    OptionError,
    ProtocolError,
    Timeout,
)
from tcpconn.facts import SessionFacts
from tcpconn.grumbling import Warnings
from tcpconn.handshake import Stream, socket_of
from tcpconn.options import Options, make_options
from tcpconn.redial import Redialler
from tcpconn.securing import secure

logger = logging.getLogger("tcpconn")
faults = Warnings(logger)

RELEASE_SECONDS = 2.0
"""How long `close` waits for its threads to let go of the socket. They need milliseconds."""


class Multiplexer(SessionFacts):
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
        address = None
        stream: Stream
        if isinstance(target, socket.socket):
            client = bool(client)
            deadline = None if timeout is None else started + timeout
            stream = secure(target, chosen, "the peer", server=not client, deadline=deadline)
        else:
            client = client is None or client
            address = parse_address(target)
            stream = dial(address, chosen, timeout, client=client)
        left = None if timeout is None else max(0.0, timeout - (time.monotonic() - started))
        self._begin(stream, client, chosen, left, address)

    def _begin(
        self,
        stream: Stream,
        client: bool,
        options: Options,
        timeout: float | None = None,
        dialled: Address | None = None,
        acceptor: Acceptor | None = None,
        on_end: Callable[[Multiplexer], None] | None = None,
        first: bytes = b"",
        on_detach: Callable[[Multiplexer], None] | None = None,
    ) -> None:
        self.options = options
        sock = socket_of(stream)
        try:
            peer = describe(sock.getpeername())
        except OSError:
            peer = "unnamed"
        peer_address = str(dialled) if dialled else peer
        self._socket = sock
        self._released = threading.Event()
        self._accepting = acceptor is None
        self._managed = False
        self._engine: Driver
        try:
            if dialled is None:
                prepare_socket(sock, options)
            link = make_link(stream, options.link)
        except ValueError as error:
            sock.close()
            raise OptionError(str(error)) from None
        keeps = options.session_timeout > 0
        secret = os.urandom(32) if keeps and on_detach is not None else None
        session = Session(options, client=client, secret=secret)
        session.feed(first)
        self._redialler: Redialler | None = None

        def prepare(engine: Driver) -> None:
            self._engine = engine
            engine.local_address = describe(sock.getsockname())
            engine.peer_address = peer_address
            engine.home = weakref.ref(self)
            if keeps and client and dialled is not None:
                self._redialler = Redialler(engine, dialled, options)
                engine.keep(self._redialler.lost)
                engine.on_use = self._redialler.again
            elif keeps and on_detach is not None:
                engine.keep(_detach_callback(weakref.ref(self), on_detach))
            engine.on_end = _end_callback(
                weakref.ref(self), self._released, engine, self._redialler, on_end
            )

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
        connection: Connection = self.open_as(Connection, id, priority)
        return connection

    def open_as(self, kind: type[Any], id: uuid.UUID | None, priority: int | None) -> Any:
        """The same, as an object of another class."""
        name = None if id is None else check_id(id).bytes
        urgency = -1 if priority is None else check_priority(priority)
        connection = open_endpoint(kind, self._engine, name, urgency)
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
        return [each for each in self.all_connections() if isinstance(each, Connection)]

    def all_connections(self) -> list[Endpoint]:
        """Those of an event loop too."""
        return endpoints(self._engine)

    @property
    def accepts(self) -> bool:
        """Whether its connections are accepted here, and not by a listener."""
        return self._accepting

    # The link

    def wait_attached(self, timeout: float | None) -> None:
        """Waits until there is a link, `timeout` seconds at most.

        Raises `ConnectError` or what else the last attempt to make one came to, or why the session
        ended.
        """
        last_error = None if self._redialler is None else self._redialler.last_error
        self._engine.wait_attached(timeout, last_error)

    def ping(self, timeout: float | None = None) -> float:
        """Measures a round trip, and returns it smoothed with earlier ones, in seconds.

        Peers need not take more than one PING a second: after eight in a row, or while another is
        on its way, it waits its turn, and threads that wait share one. Raises `Timeout`, or why the
        link ended.
        """
        return self._engine.ping(timeout)

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

    def drain(self, timeout: float | None = None) -> bool:
        """Takes no new connections from either side, and waits until those there are have ended.

        Returns whether they have within `timeout` seconds, with all acknowledged; the link is
        closed then. Nothing is cut short: to do that, `close` afterwards.
        """
        return self._engine.drain(timeout)

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
        if engine is None or engine.is_over:
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
    redialler: Redialler | None,
    on_end: Callable[[Multiplexer], None] | None,
) -> Callable[[], None]:
    """What happens once the link's descriptor is closed. Must not keep the multiplexer alive."""
    engine_reference = weakref.ref(engine)

    def ended() -> None:
        if redialler is not None:
            redialler.stop()
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


def _detach_callback(
    reference: weakref.ref[Multiplexer], on_detach: Callable[[Multiplexer], None]
) -> Callable[[], None]:
    """What happens once a session has lost its link. Must not keep the multiplexer alive."""

    def detached() -> None:
        multiplexer = reference()
        if multiplexer is not None:
            on_detach(multiplexer)

    return detached


def serve_socket(
    stream: Stream,
    options: Options,
    acceptor: Acceptor | None = None,
    on_end: Callable[[Multiplexer], None] | None = None,
    first: bytes = b"",
    on_detach: Callable[[Multiplexer], None] | None = None,
) -> Multiplexer:
    """A multiplexer on an accepted socket, of which `first` was read already. Does not wait.

    With `on_detach`, which sees to another link, the session outlives this one.
    """
    multiplexer = Multiplexer.__new__(Multiplexer)
    multiplexer._begin(
        stream,
        False,
        options,
        acceptor=acceptor,
        on_end=on_end,
        first=first,
        on_detach=on_detach,
    )
    return multiplexer


def check_priority(priority: object) -> int:
    """A priority for the core, -1 for none given."""
    if priority is None:
        return -1
    if not isinstance(priority, int) or not 0 <= priority <= 7:
        raise OptionError(f"priority={priority!r} is outside 0 … 7")
    return priority


def check_id(id: Any) -> uuid.UUID:
    """An id, or `OptionError`."""
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
    check_priority(priority)
    if id is not None:
        check_id(id)
    multiplexer = wrapped(sock, timeout, options)
    if id is None:
        return multiplexer.accept(timeout)
    return multiplexer.open(id, priority=priority)


def wrapped(sock: socket.socket, timeout: float | None, options: dict[str, Any]) -> Multiplexer:
    """The multiplexer that serves a socket, made when it is first asked for."""
    chosen = make_options(options)
    with _wrapping:
        place = _wrapped.get(sock.fileno())
        if place is None or place.sock is not sock:
            place = _wrapped[sock.fileno()] = _Wrapped(sock)
    with place.lock:
        if place.multiplexer is None:
            place.multiplexer = _serve_wrapped(place, chosen, timeout)
        elif options and chosen != place.multiplexer.options:
            raise OptionError("this socket is served already, with other options")
    return place.multiplexer


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
