"""A listener's thread: accepts links, and hears what each begins with, all of them at once.

Nobody is waited for: a link that says nothing costs a place until its time is over. There is a
bounded number of places; when they are all taken, the link that has had one for longest gives it
up, because an honest peer needs its own for milliseconds.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from tcpconn.addresses import describe
from tcpconn.admission import Admission
from tcpconn.authkey import prove_to_client
from tcpconn.errors import AuthenticationError, TcpconnError, TlsError
from tcpconn.grumbling import Warnings
from tcpconn.handshake import LIMIT, Malformed, Resume, Steps, Stream, greeted, reject, socket_of

logger = logging.getLogger("tcpconn")

PAUSE_SECONDS = 0.1
"""Pause after `accept` failed for want of descriptors or memory, not to fail in a busy loop."""


class Greeting:
    """A link that is nobody's yet, and how far its handshake has come."""

    def __init__(self, sock: Stream, peer: str, deadline: float, authkey: bytes | None) -> None:
        self.sock = sock
        self.peer = peer
        self.deadline = deadline
        self._steps: Steps[bytes | Resume] = _begun(authkey)
        self._request: int | bytes = next(self._steps)

    def advance(self) -> bytes | Resume | None:
        """Goes as far as the socket lets it: how the link begins, or None while that is not known.

        Raises what `greeted` and `prove_to_client` raise, or `OSError`.
        """
        try:
            while True:
                if isinstance(self._request, int):
                    self._request = self._steps.send(self.sock.recv(self._request))
                    continue
                sent = self.sock.send(self._request)
                self._request = self._request[sent:] or next(self._steps)
        except (BlockingIOError, InterruptedError):
            return None
        except StopIteration as end:
            began: bytes | Resume = end.value
            return began

    @property
    def waits_for(self) -> int:
        """The selector's event that it waits for."""
        if isinstance(self._request, int) and not getattr(self.sock, "wants_write", False):
            return selectors.EVENT_READ
        return selectors.EVENT_WRITE


def _begun(authkey: bytes | None) -> Steps[bytes | Resume]:
    if authkey is not None:
        yield from prove_to_client(authkey)
    return (yield from greeted())


class Greeter:
    """Accepts from a listening socket in a thread of its own, until closed. Thread-safe.

    `secure(sock, peer)` puts TLS between a socket and all that follows; with an `authkey`, both
    sides prove that they have it. `serve(sock, first)` is called for a new session, with the bytes
    that were read already; `resume(sock, request)` for one that is to go on. Both own the socket
    from then on, and must not block. At most `places` handshakes, all of this included, are under
    way, each for `seconds`; what `admission` does not admit is told so and closed.
    """

    def __init__(
        self,
        sock: socket.socket,
        name: str,
        *,
        serve: Callable[[Stream, bytes], None],
        resume: Callable[[Stream, Resume], None],
        admission: Admission,
        places: int,
        seconds: float,
        secure: Callable[[socket.socket, str], Stream] | None = None,
        authkey: bytes | None = None,
    ) -> None:
        self._socket = sock
        self._name = name
        self._serve = serve
        self._resume = resume
        self._admission = admission
        self._refusals = Warnings(logger)
        self._crowding = Warnings(logger)
        self._intruders = Warnings(logger)
        self._places = places
        self._seconds = seconds
        self._secure = secure
        self._authkey = authkey
        self._closed = False
        self._calls: deque[Callable[[], None]] = deque()
        self._alarms: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._greetings: dict[Stream, Greeting] = {}  # the oldest first
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name=f"tcpconn-listener {name}")
        self._thread.daemon = True
        self._thread.start()

    def call(self, function: Callable[[], None]) -> None:
        """Has the thread call a function soon; it must not block. From any thread."""
        self._calls.append(function)
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def call_at(self, when: float, function: Callable[[], None]) -> None:
        """The same, not before a time of `time.monotonic`. From the thread itself."""
        heapq.heappush(self._alarms, (when, next(self._numbers), function))

    def close(self) -> None:
        """Stops accepting, and closes the links that are nobody's yet. Calling it again is fine."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # The thread

    def _run(self) -> None:
        try:
            while not self._closed:
                for key, _ in self._selector.select(self._patience()):
                    if key.fileobj is self._socket:
                        self._accept()
                    elif key.fileobj is self._woken:
                        with contextlib.suppress(OSError):
                            self._woken.recv(4096)
                    elif (greeting := self._greetings.get(key.data)) is not None:
                        self._advance(greeting)
                while self._calls:
                    self._calls.popleft()()
                while self._alarms and self._alarms[0][0] <= time.monotonic():
                    heapq.heappop(self._alarms)[2]()
                self._end_late()
        finally:
            for greeting in list(self._greetings.values()):
                self._drop(greeting)
            self._selector.close()
            for sock in (self._socket, self._woken, self._waker):
                sock.close()

    def _patience(self) -> float | None:
        times = [greeting.deadline for greeting in itertools.islice(self._greetings.values(), 1)]
        times += [when for when, _, _ in self._alarms[:1]]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _accept(self) -> None:
        while not self._closed:
            try:
                sock, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue  # gone before it was accepted
            except OSError as error:
                if not self._closed:
                    logger.warning("%s: accept failed: %s", self._name, error)
                    self._pause()
                return
            self._greet(sock)

    def _pause(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            selector.select(PAUSE_SECONDS)

    def _greet(self, sock: socket.socket) -> None:
        try:
            sock.setblocking(False)
            name = sock.getpeername()
            peer = describe(name)
        except OSError:
            sock.close()
            return
        reason = self._admission.admit(sock, name)
        if reason is not None:
            self._refusals.warn("%s: a link from %s is refused: %s", self._name, peer, reason)
            if self._secure is None:  # through TLS it would take a handshake to say so
                with contextlib.suppress(OSError):
                    sock.send(reject(LIMIT, reason))
            _close(sock)
            return
        if len(self._greetings) >= self._places:
            oldest = next(iter(self._greetings.values()))
            self._crowding.warn(
                "%s: %d handshakes are under way; the oldest, with %s, is given up",
                self._name,
                self._places,
                oldest.peer,
            )
            self._drop(oldest)
        stream = sock if self._secure is None else self._secure(sock, peer)
        greeting = Greeting(stream, peer, time.monotonic() + self._seconds, self._authkey)
        self._greetings[stream] = greeting
        self._selector.register(stream, greeting.waits_for, stream)
        self._advance(greeting)

    def _advance(self, greeting: Greeting) -> None:
        try:
            began = greeting.advance()
        except (OSError, TcpconnError) as error:
            if isinstance(error, AuthenticationError):
                self._intruders.warn("%s: %s: %s", self._name, greeting.peer, error)
            else:
                level = logging.INFO if isinstance(error, (TlsError, Malformed)) else logging.DEBUG
                logger.log(level, "%s: %s: %s", self._name, greeting.peer, error)
            self._drop(greeting)
            return
        if began is None:
            self._selector.modify(greeting.sock, greeting.waits_for, greeting.sock)
            return
        self._forget(greeting)
        if isinstance(began, Resume):
            self._resume(greeting.sock, began)
        else:
            self._serve(greeting.sock, began)

    def _end_late(self) -> None:
        now = time.monotonic()
        for greeting in list(self._greetings.values()):
            if greeting.deadline > now:
                return
            logger.info("%s: %s: no greeting within %s s", self._name, greeting.peer, self._seconds)
            self._drop(greeting)

    def _forget(self, greeting: Greeting) -> None:
        del self._greetings[greeting.sock]
        self._selector.unregister(greeting.sock)

    def _drop(self, greeting: Greeting) -> None:
        self._forget(greeting)
        _close(greeting.sock)


def _close(sock: Stream) -> None:
    # What is unread when a socket is closed makes the system take back what was sent.
    with contextlib.suppress(OSError):
        socket_of(sock).recv(65536)
    sock.close()
