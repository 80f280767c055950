"""The other side: a listener accepts connections, and a server runs a handler for each."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tcpconn._accept import AcceptQueue
from tcpconn._endpoint import Endpoint, is_authorized, refuse_endpoint
from tcpconn.addresses import Address, describe, parse_address, resolve, sockaddr_of
from tcpconn.admission import Admission, Places
from tcpconn.connection import Connection
from tcpconn.dialling import prepare_for_peers
from tcpconn.errors import ConnectError, ConnectionClosed, TcpconnError, Timeout
from tcpconn.greeter import Greeter
from tcpconn.grumbling import Warnings
from tcpconn.handshake import Stream
from tcpconn.multiplexer import Multiplexer, serve_socket
from tcpconn.options import Options, make_options
from tcpconn.securing import check_server, stream_over
from tcpconn.sessions import Sessions

logger = logging.getLogger("tcpconn")

BACKLOG = 1024
"""Links that the kernel holds until they are accepted: for a burst of clients."""


def bind(address: Address) -> socket.socket:
    """A listening socket. Raises `ResolveError` or `ConnectError`."""
    failures: list[str] = []
    last: OSError | None = None
    for family, sockaddr in resolve(address, passive=True):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            if address.path:
                _remove_stale(address.path)
            elif os.name == "posix":
                # So that a restart need not wait for old links to time out. On Windows it means
                # something else.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(sockaddr)
            prepare_for_peers(sock, sockaddr)
            sock.listen(BACKLOG)
            sock.setblocking(False)
            return sock
        except OSError as error:
            sock.close()
            last = error
            failures.append(f"{describe(sockaddr)}: {error.strerror or error}")
        except BaseException:
            sock.close()
            raise
    raise ConnectError(f"cannot listen on {address} ({'; '.join(failures)})") from last


def _remove_stale(path: str) -> None:
    """Removes a socket that a process left behind which does not listen any more."""
    with contextlib.suppress(OSError):
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                Path(path).unlink()


class Listening:
    """Accepts links at an address: all of a listener but who accepts its connections, and how.

    They line up in `queue`. `begun` is called with the multiplexer of each new session, in a thread
    of the listener's.
    """

    def __init__(
        self,
        address: Any,
        options: Options,
        queue: AcceptQueue,
        begun: Callable[[Multiplexer], object] | None = None,
    ) -> None:
        self._address = parse_address(address)
        self._options = options
        self._lock = threading.Lock()
        self._multiplexers: dict[Any, Multiplexer] = {}
        self._queue = queue
        self._begun = begun
        self._closed = False
        check_server(options)
        self._sessions = Sessions(options)
        self._admission = Admission(options.max_links, options.max_links_per_address)
        sock = bind(self._address)
        self.address: str = describe(sock.getsockname())
        """Where it listens, in the form that `connect` takes; with the real port, if it was 0."""
        self._greeter = Greeter(
            sock,
            self.address,
            serve=self._begin_session,
            resume=self._sessions.resume,
            admission=self._admission,
            places=options.max_handshakes,
            seconds=options.handshake_timeout,
            secure=None if options.ssl is None else self._secure,
            authkey=options.authkey,
        )
        self._sessions.call = self._greeter.call
        self._sessions.call_at = self._greeter.call_at

    # Links

    def _secure(self, sock: socket.socket, peer: str) -> Stream:
        return stream_over(sock, self._options, peer, server=True)

    def _begin_session(self, sock: Stream, first: bytes) -> None:
        # Its connections may be accepted before it is listed: who asks for the list waits for that.
        with self._lock:
            try:
                multiplexer = serve_socket(
                    sock,
                    self._options,
                    self._queue,
                    self._link_ended,
                    first,
                    self._sessions.detached,
                )
            except (OSError, TcpconnError) as error:
                logger.warning("%s: a link could not be served: %s", self.address, error)
                sock.close()
                return
            multiplexer.manage()
            self._sessions.begun(multiplexer)
            self._multiplexers[multiplexer.key] = multiplexer
            if multiplexer.closed:
                self._multiplexers.pop(multiplexer.key, None)
        if self._begun is not None:
            self._begun(multiplexer)

    def _all(self) -> list[Multiplexer]:
        with self._lock:
            return list(self._multiplexers.values())

    def _link_ended(self, multiplexer: Multiplexer) -> None:
        if self._queue.holds_ended(multiplexer.key):
            # It keeps its place: who comes and goes is not to leave more than who stays may have.
            reference = weakref.ref(multiplexer.key)

            def counts() -> bool:
                engine = reference()
                return engine is not None and self._queue.holds_ended(engine)

            self._admission.count(sockaddr_of(multiplexer.peer_address), counts)
        with self._lock:
            self._multiplexers.pop(multiplexer.key, None)
        self._sessions.ended(multiplexer)

    @property
    def multiplexers(self) -> list[Multiplexer]:
        """Those of the links that are up."""
        return [multiplexer for multiplexer in self._all() if not multiplexer.detached]

    @property
    def detached(self) -> list[Multiplexer]:
        """Those whose link was lost, and whose sessions are kept for their peers to come back."""
        return [multiplexer for multiplexer in self._all() if multiplexer.detached]

    # The end

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self, timeout: float | None = 5, *, drain: bool = False) -> None:
        """Stops listening, and closes all links as `Multiplexer.close` does.

        With `drain`, connections that are open go on until both sides have closed them; peers open
        new ones elsewhere. All of that takes `timeout` seconds at most: then what is left is cut
        short. Whoever waits in `accept` gets `ConnectionClosed`. Calling it again does nothing.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        deadline = None if timeout is None else time.monotonic() + timeout
        self._greeter.close()
        self._sessions.close()
        if self._address.path:
            with contextlib.suppress(OSError):
                Path(self._address.path).unlink()
        self._queue.close()
        for multiplexer in self.detached:
            multiplexer.abort()  # nobody can come back to it
        if drain:
            for multiplexer in self.multiplexers:
                multiplexer.drain(0)  # all of them hear of it before one is waited for
            for multiplexer in self.multiplexers:
                multiplexer.drain(_left(deadline))
        for multiplexer in self.multiplexers:
            multiplexer.close(_left(deadline))
        for multiplexer in self.detached:
            multiplexer.abort()  # it has lost its link meanwhile

    def __repr__(self) -> str:
        if self._closed:
            return f"<Listener {self.address} closed>"
        return f"<Listener {self.address}, {len(self.multiplexers)} links>"


class Listener(Listening):
    """Accepts links at an address, and hands out the connections that peers open on them.

    Made by `listen`. Thread-safe; a context manager; iterating accepts until the listener is
    closed.
    """

    def __init__(self, address: Any, options: Options) -> None:
        super().__init__(address, options, AcceptQueue())

    def accept(self, timeout: float | None = None) -> Connection:
        """The next connection that a peer opened (`timeout` in seconds).

        Raises `Timeout`, or `ConnectionClosed` once the listener is closed.
        """
        connection: Connection | None = self._queue.next(Connection, timeout)
        if connection is None:
            if self._closed:
                raise ConnectionClosed(f"the listener on {self.address} is closed")
            raise Timeout(f"nobody opened a connection to {self.address} within {timeout} s")
        return connection

    def take(self) -> Connection | None:
        """The next one, about which `authorize` was not asked; None once the listener is closed."""
        connection: Connection | None = self._queue.next(Connection, None, False)
        return connection

    def __iter__(self) -> Iterator[Connection]:
        while True:
            try:
                connection = self.accept()
            except ConnectionClosed:
                return
            yield connection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(5 if kind is None else 0)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def listen(address: Any, **options: Any) -> Listener:
    """Listens at `address`, and returns a `Listener` to accept connections from.

    `address`: "host:port", "[::1]:port", (host, port) or "unix:/path". Without a host it listens
    on all interfaces; port 0 is any that is free, see `Listener.address`. Options: see `Options`.

    Raises `AddressError`, `ResolveError`, `ConnectError` (in use, not allowed) or `OptionError`.
    """
    return Listener(address, make_options(options))


class Server:
    """A listener with a thread for each connection that runs a handler on it. Made by `serve`.

    The connection is closed when its handler returns; when it raises, that is logged, and the
    connection closed too. One for which there is no thread is refused.
    """

    def __init__(
        self, handler: Callable[[Connection], object], listener: Listener, places: Places
    ) -> None:
        self.listener = listener
        self._handler = handler
        self._handlers: set[threading.Thread] = set()
        self._places = places
        self._crowding = Warnings(logger)
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"tcpconn-server {listener.address}", daemon=True
        )
        self._thread.start()

    @property
    def address(self) -> str:
        """Where it listens, in the form that `connect` takes."""
        return self.listener.address

    def _run(self) -> None:
        while (connection := self.listener.take()) is not None:
            reason = self._begin(connection)
            if reason is not None:
                refuse(connection, reason, self._crowding)
            del connection  # it may be long until there is another
        self._done.set()

    def _begin(self, connection: Connection) -> str | None:
        """Starts a handler; or says in words why there is none."""
        reason = self._places.take(connection.engine)
        if reason is not None:
            return reason
        thread = threading.Thread(
            target=self._handle, args=(connection,), name="tcpconn-handler", daemon=True
        )
        with self._lock:
            self._handlers.add(thread)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more threads
            self._ended(thread, connection)
            return str(error)
        return None

    def _ended(self, thread: threading.Thread, connection: Connection) -> None:
        self._places.give_back(connection.engine)
        with self._lock:
            self._handlers.discard(thread)

    def _handle(self, connection: Connection) -> None:
        try:
            if not is_authorized(connection):  # here, where it holds up nobody else
                return
            with connection:
                self._handler(connection)
        except ConnectionError as error:
            # A peer that goes away is everyday business for a server.
            logger.info("%s: %s", connection, error)
        except Exception:
            logger.exception("%s: the handler failed", connection)
        finally:
            self._ended(threading.current_thread(), connection)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the server is closed (`timeout` in seconds). Whether it is."""
        return self._done.wait(timeout)

    def close(self, timeout: float | None = 5, *, drain: bool = False) -> None:
        """Closes the listener and its links, and waits for handlers: `timeout` seconds in all.

        With `drain`, handlers go on with the connections that are open: see `Listener.close`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self.listener.close(timeout, drain=drain)
        self._thread.join()
        with self._lock:
            handlers = list(self._handlers)
        for thread in handlers:
            if thread is not threading.current_thread():
                thread.join(_left(deadline))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(5 if kind is None else 0)

    def __repr__(self) -> str:
        state = "closed" if self.listener.closed else f"{len(self._handlers)} handlers at work"
        return f"<Server {self.address}, {state}>"


def refuse(connection: Endpoint, reason: str, warnings: Warnings) -> None:
    """Gives back a connection that was just accepted, and says so now and then."""
    warnings.warn("a connection from %s is refused: %s", connection.engine.peer_address, reason)
    refuse_endpoint(connection)


def serve(handler: Callable[[Connection], object], address: Any, **options: Any) -> Server:
    """Runs `handler(connection)`, in a thread, for each connection that a peer opens at `address`.

    Returns at once: use it as a context manager, or `wait`. Options and errors: as `listen`.
    """
    chosen = make_options(options)
    return Server(handler, Listener(address, chosen), Places(chosen.max_handlers))
