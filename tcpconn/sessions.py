"""The sessions that a listener keeps without a link, until their clients come back for them.

PROTOCOL.md section 12. All of it happens in the listener's thread.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable

from tcpconn._frame import PREFACE, WIRE
from tcpconn._keeper import attach_link, make_link
from tcpconn.addresses import describe
from tcpconn.dialling import prepare_socket
from tcpconn.handshake import UNKNOWN_SESSION, Resume, Stream, reject, socket_of
from tcpconn.multiplexer import Multiplexer
from tcpconn.options import Options
from tcpconn.redial import tell

logger = logging.getLogger("tcpconn")

_CODES = WIRE["codes"]


class Sessions:
    """Resumes a listener's sessions, and ends those that nobody comes back for."""

    call: Callable[[Callable[[], None]], None]
    """Has the listener's thread call a function, see `Greeter`."""

    call_at: Callable[[float, Callable[[], None]], None]

    def __init__(self, options: Options) -> None:
        self._options = options
        self._unnamed: dict[Multiplexer, None] = {}  # whose HELLO is not known to be here
        self._by_id: dict[bytes, list[Multiplexer]] = {}
        self._coming: dict[Multiplexer, tuple[Stream, Resume]] = {}
        self._since: dict[Multiplexer, float] = {}  # the one that was detached first comes first
        self._watching = False  # the time of that one

    def begun(self, multiplexer: Multiplexer) -> None:
        """There is a new session."""
        self._unnamed[multiplexer] = None

    # A link is gone

    def detached(self, multiplexer: Multiplexer) -> None:
        """A session has lost its link. From any thread; does not wait."""
        self.call(lambda: self._keep(multiplexer))

    def _keep(self, multiplexer: Multiplexer) -> None:
        if not multiplexer.key.is_loose:
            return  # it has another one already: what comes after that waits for its end
        coming = self._coming.pop(multiplexer, None)
        if coming is not None:
            self._attach(multiplexer, *coming)
            if not multiplexer.key.is_loose:
                return
        now = time.monotonic()
        self._since.pop(multiplexer, None)
        self._since[multiplexer] = now
        if coming is None:
            self._tell("lost", f"the link to {multiplexer.peer_address} is lost")
        self._watch(now)
        self._make_room()

    def ended(self, multiplexer: Multiplexer) -> None:
        """A session is over. From any thread; does not wait."""
        self.call(lambda: self._forget(multiplexer))

    def _forget(self, multiplexer: Multiplexer) -> None:
        self._since.pop(multiplexer, None)
        self._unnamed.pop(multiplexer, None)
        name = multiplexer.key.session.session_id
        if multiplexer in self._by_id.get(name, ()):
            self._by_id[name].remove(multiplexer)
            if not self._by_id[name]:
                del self._by_id[name]
        coming = self._coming.pop(multiplexer, None)
        if coming is not None:
            self._reject(coming[0], UNKNOWN_SESSION, "the session was ended here")

    def close(self) -> None:
        """Lets go of the links that still wait. The listener's thread has ended."""
        while self._coming:
            self._coming.popitem()[1][0].close()

    def _make_room(self) -> None:
        for multiplexer in list(self._since):
            if not multiplexer.key.is_loose:
                del self._since[multiplexer]
        held = sum(multiplexer.key.held_bytes for multiplexer in self._since)
        while self._since and (
            len(self._since) > self._options.max_detached or held > self._options.max_detached_bytes
        ):
            oldest = next(iter(self._since))
            held -= oldest.key.held_bytes
            self._end(
                oldest,
                f"too many are kept (max_detached={self._options.max_detached}, "
                f"max_detached_bytes={self._options.max_detached_bytes})",
            )

    def _watch(self, since: float) -> None:
        """Has `_expire` come when a session that was detached then has waited long enough."""
        if not self._watching:
            self._watching = True
            self.call_at(since + self._options.session_timeout, self._expire)

    def _expire(self) -> None:
        self._watching = False
        latest = time.monotonic() - self._options.session_timeout
        for multiplexer, since in list(self._since.items()):
            if since > latest:
                self._watch(since)
                return
            self._end(multiplexer, f"no link for {self._options.session_timeout} s")

    def _end(self, multiplexer: Multiplexer, why: str) -> None:
        del self._since[multiplexer]
        if multiplexer.key.lose(why, False):
            self._tell("expired", f"the session with {multiplexer.peer_address} is over: {why}")

    # Another one comes

    def resume(self, sock: Stream, request: Resume) -> None:
        """A client asks for its session on a new link, which belongs to this object from now on."""
        multiplexer = self._find(request)
        if multiplexer is None:
            self._reject(sock, UNKNOWN_SESSION, "this server does not keep such a session")
            return
        if not multiplexer.key.unlink(request.epoch):
            if multiplexer.closed:
                self._reject(sock, UNKNOWN_SESSION, "the session was ended here")
            else:
                self._reject(sock, _CODES["STATE"], f"epoch {request.epoch} is not a new one")
            return
        before = self._coming.pop(multiplexer, None)
        if before is not None:
            before[0].close()
        if multiplexer.key.is_loose:
            self._attach(multiplexer, sock, request)
        else:
            self._coming[multiplexer] = (sock, request)

    def _find(self, request: Resume) -> Multiplexer | None:
        # Any stranger may ask, so this must not take longer the more sessions there are.
        for multiplexer in list(self._unnamed):
            session = multiplexer.key.session
            if not session.begins:
                del self._unnamed[multiplexer]
                self._by_id.setdefault(session.session_id, []).append(multiplexer)
        for multiplexer in self._by_id.get(request.session_id, ()):
            session = multiplexer.key.session
            if session.secret is not None and request.is_proven(
                session.secret, session.server_nonce, False
            ):
                return multiplexer
        return None

    def _attach(self, multiplexer: Multiplexer, sock: Stream, request: Resume) -> None:
        engine = multiplexer.key
        session = engine.session
        if not engine.may_resume(request.received):
            self._reject(
                sock, _CODES["SEQUENCE"], f"{request.received} frames cannot have been received"
            )
            return
        answer = Resume(request.session_id, request.epoch, session.taken, b"")
        try:
            # The peer is waiting for it, and a new socket has room for more than this.
            sock.send(
                PREFACE
                + answer.signed(session.secret or b"", session.server_nonce, True).frame(True)
            )
            prepare_socket(socket_of(sock), self._options)
            engine.local_address = describe(socket_of(sock).getsockname())
            link = make_link(sock, self._options.link)
        except OSError as error:
            logger.debug("a link to resume was lost: %s", error)
            sock.close()
            return
        if attach_link(engine, link, request.received):
            self._since.pop(multiplexer, None)
            self._tell("resumed", f"the session with {multiplexer.peer_address} goes on")

    def _reject(self, sock: Stream, code: int, text: str) -> None:
        logger.info("a session was not resumed: %s", text)
        with contextlib.suppress(OSError):
            sock.send(reject(code, text))
        sock.close()

    def _tell(self, event: str, text: str) -> None:
        logger.log(logging.WARNING if event == "expired" else logging.INFO, "%s", text)
        tell(self._options.on_state, event, text)
