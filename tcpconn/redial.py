"""Another link for a client's session whose link was lost, PROTOCOL.md section 12.

At once, then after random pauses that grow ("full jitter", as M. Brooker describes it in the AWS
Architecture Blog, 2015), until the session is resumed, or has been without a link for too long.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import weakref
from collections.abc import Callable

from tcpconn._driver import Driver
from tcpconn._keeper import attach_link, make_link
from tcpconn.addresses import Address, describe
from tcpconn.dialling import dial
from tcpconn.errors import (
    AuthenticationError,
    CertificateError,
    ConnectError,
    LinkLost,
    Timeout,
    VersionMismatch,
)
from tcpconn.handshake import (
    LIMIT,
    UNKNOWN_SESSION,
    Malformed,
    Rejected,
    Resume,
    resume,
    run,
    socket_of,
)
from tcpconn.options import Options

logger = logging.getLogger("tcpconn")

PAUSE = 0.1
"""Seconds that the first pause takes at most; each further one may take twice as long."""

LONGEST_PAUSE = 30.0
"""Seconds that any pause takes at most."""

STABLE = 10.0
"""Seconds after which a link counts as good: the next one that is lost is redialled at once."""


class Redialler:
    """Sees to the links of one client's session. Thread-safe."""

    def __init__(self, engine: Driver, address: Address, options: Options) -> None:
        self._engine = weakref.ref(engine)
        self._address = address
        self._options = options
        self._lock = threading.Lock()
        self._working = False
        self._stopped = threading.Event()
        self._pauses = 0
        self._linked_at = time.monotonic()
        self._progress: tuple[int, int] | None = None
        self.last_error: Exception | None = None
        """Why the last attempt failed."""

    def lost(self) -> None:
        """The link is gone: begins to dial, in a thread of its own. Does not wait."""
        engine = self._engine()
        if engine is None or self._stopped.is_set():
            return
        self._tell("lost", f"the link to {self._address} is lost")
        self._begin(engine)

    def again(self) -> None:
        """The session is used again, after dialling was given up. Does not wait."""
        engine = self._engine()
        if engine is not None and not self._stopped.is_set():
            self._begin(engine, anew=True)

    def stop(self) -> None:
        """Dials no more."""
        self._stopped.set()

    def _begin(self, engine: Driver, *, anew: bool = False) -> None:
        with self._lock:
            if self._working:
                return
            self._working = True
            if anew:
                # Else the first pause could take all the time that there is.
                self._pauses = 0
        engine.dormant = False
        threading.Thread(
            target=self._work, args=(engine,), name=f"tcpconn-redial {self._address}", daemon=True
        ).start()

    def _work(self, engine: Driver) -> None:
        try:
            while True:
                with self._lock:
                    # A link that is lost before this thread has ended asks nobody else.
                    if not engine.is_loose or engine.dormant or self._stopped.is_set():
                        self._working = False
                        return
                self._dial_until_linked(engine)
        except BaseException:
            logger.exception("redialling %s failed", self._address)
            engine.abort()

    def _dial_until_linked(self, engine: Driver) -> None:
        options = self._options
        began = time.monotonic()
        deadline = began + options.session_timeout
        progress = (engine.session.taken, engine.session.acked)
        if began - self._linked_at >= STABLE or progress != self._progress:
            self._pauses = 0
        self._progress = progress
        while engine.is_loose:
            if self._pauses:
                longest = min(LONGEST_PAUSE, PAUSE * 2**self._pauses)
                pause = min(random.uniform(0, longest), max(0.0, deadline - time.monotonic()))  # noqa: S311
                if self._stopped.wait(pause):
                    return
            self._pauses = min(self._pauses + 1, 30)
            if time.monotonic() >= deadline:
                self._give_up(engine)
                return
            try:
                self._try(engine, deadline)
            except (ConnectError, LinkLost, Timeout, OSError) as error:
                if is_final(error):
                    self._refused(engine, error)
                    return
                self.last_error = error
                logger.debug("redialling %s: %s", self._address, error)

    def _try(self, engine: Driver, deadline: float) -> None:
        """One attempt. Raises why there is no link; there may be none without an error."""
        options = self._options
        limit = min(deadline, time.monotonic() + options.handshake_timeout)
        stream = dial(self._address, options, max(0.001, limit - time.monotonic()))
        try:
            received = None
            session = engine.session
            if not session.begins:
                epoch = engine.next_epoch()
                request = Resume(session.session_id, epoch, session.taken, b"")
                answer = run(
                    resume(request, session.secret or b"", session.server_nonce), stream, limit
                )
                received = answer.received
                if not engine.may_resume(received):
                    raise Malformed(f"the server has {received} frames, which it cannot have")
            engine.local_address = describe(socket_of(stream).getsockname())
            self._linked_at = time.monotonic()
            taken = attach_link(engine, make_link(stream, options.link), received)
        except Rejected as error:
            stream.close()
            if error.code != UNKNOWN_SESSION:
                raise
            engine.lose(f"the server does not keep it any more ({error})", True)
            self._tell("renewed", f"the session with {self._address} was lost: {error}")
            self._pauses = 0
            return
        except BaseException:
            stream.close()
            raise
        if taken and received is not None:
            self._tell("resumed", f"the session with {self._address} goes on")

    def _give_up(self, engine: Driver) -> None:
        why = f"no link for {self._options.session_timeout} s ({self.last_error})"
        engine.rest()
        # Of a session that has not begun, nothing can be lost.
        if not engine.session.begins and engine.lose(why, True):
            self._tell("expired", f"the session with {self._address} is given up: {why}")

    def _refused(self, engine: Driver, error: Exception) -> None:
        self.last_error = error
        if engine.lose(str(error), False):
            self._tell("expired", f"the session with {self._address} is over: {error}")

    def _tell(self, event: str, text: str) -> None:
        logger.log(logging.WARNING if event in LOUD else logging.INFO, "%s", text)
        tell(self._options.on_state, event, text)


FINAL = (Rejected, VersionMismatch, CertificateError, AuthenticationError)
"""What another attempt would not change, but see `is_final`."""


def is_final(error: Exception) -> bool:
    """Whether another attempt would come to the same. A full server may have room the next time."""
    return isinstance(error, FINAL) and not (isinstance(error, Rejected) and error.code == LIMIT)


LOUD = ("renewed", "expired")
"""Events in which something may be lost."""


def tell(callback: Callable[[str, str], object] | None, event: str, text: str) -> None:
    """Calls `on_state`. What it raises is logged."""
    if callback is None:
        return
    try:
        callback(event, text)
    except Exception:
        logger.exception("on_state failed for %r", event)
