"""An engine as the shell uses it: starting, measuring and ending a session, with the GIL."""

cimport cython
from libc.stdint cimport int64_t, uint64_t

from tcpconn._ending cimport ended_error
from tcpconn._engine cimport (
    DUE_LOOK,
    INLINE_ROUNDS,
    KEEPER,
    NOBODY,
    WANT_DONE,
    WANT_OPEN,
    WANT_PONG,
    Engine,
    as_timeout,
    current_generation,
)
from tcpconn._routes cimport conn_release
from tcpconn._session cimport session_accept, session_detach, session_goaway, session_ping
from tcpconn._state cimport *
from tcpconn._sync cimport tc_now
from tcpconn._wire cimport CODE_SHUTDOWN

from tcpconn import errors


@cython.no_gc_clear  # what its end still needs must outlive it, in a cycle too
cdef class Driver(Engine):
    """One session over one link. Thread-safe; timeouts in seconds, None for no limit."""

    def start(self, timeout=None):
        """Sends what the session has to say first; a client waits for the end of the handshake."""
        cdef int64_t limit = as_timeout(timeout)
        cdef uint64_t began = tc_now()
        with nogil:
            self.lock()
            self.dispatch()             # the session may have been fed before it had a link
            self.pump(INLINE_ROUNDS)
            self.unlock()
        if not self.s.client:
            return
        outcome = self.wait_with_gil(NULL, WANT_OPEN, 0, limit)
        if outcome is not None:
            raise errors.Timeout(
                f"no answer from {self.peer_address} to the handshake within {timeout} s"
            )
        self.lock()
        if self.s.phase == PHASE_OPEN and self.s.round_trip == 0:
            self.s.round_trip = tc_now() - began
        self.unlock()
        if self.s.phase == PHASE_CLOSED:
            raise ended_error(self)

    def error(self):
        """Why the session ended, as an exception; None while it goes on."""
        if self.s.phase != PHASE_CLOSED and not self.down:
            return None
        return ended_error(self)

    def set_idle_timeout(self, double seconds):
        """Closes the link after so many seconds without connections."""
        if self.generation != current_generation():
            return
        self.lock()
        self.idle_ns = max(<uint64_t> 1, <uint64_t> (seconds * 1e9))
        self.due |= DUE_LOOK
        self.unlock()

    def poll(self):
        """Takes in what has come, unless somebody is at it anyway."""
        if self.generation != current_generation():
            return
        with nogil:
            self.lock()
            if self.reading == NOBODY and not self.down:
                self.reading = KEEPER   # nobody is to wake this thread: it does not wait
                self.read_once()
                self.reading = NOBODY
                self.pass_role()
            self.unlock()

    def ping(self, timeout=None):
        """A round trip through the peer's session, in seconds."""
        cdef uint64_t token
        if self.generation != current_generation():
            raise ended_error(self)
        with nogil:
            self.lock()
            token = session_ping(self.s, tc_now())
            if self.s.ping_wanted:
                self.due |= DUE_LOOK    # it has to wait: the keeper sends it then
            if not self.writing:
                self.pump(INLINE_ROUNDS)
            self.unlock()
        outcome = self.wait_with_gil(NULL, WANT_PONG, token, as_timeout(timeout))
        if outcome is not None:
            raise errors.Timeout(f"no answer to a ping within {timeout} s")
        if self.down:
            raise ended_error(self)
        return self.s.round_trip / 1e9

    def close(self, timeout=None):
        """Ends all connections, waits until the peer has what was sent, and closes the link.

        Returns whether the peer had everything in time.
        """
        cdef Conn* conn
        if self.generation != current_generation():
            return True
        with nogil:
            self.lock()
            if self.s.phase != PHASE_CLOSED:
                session_goaway(self.s)
                while True:
                    conn = session_accept(self.s)
                    if conn is NULL:
                        break
                    session_detach(self.s, conn, CODE_SHUTDOWN, False)
                    conn_release(self.s, conn)
                while self.s.attached is not NULL:
                    session_detach(self.s, self.s.attached, CODE_SHUTDOWN, False)
                self.dispatch()
                self.pump(INLINE_ROUNDS)
                self.ask_for_ack()
            self.unlock()
        outcome = self.wait_with_gil(NULL, WANT_DONE, 0, as_timeout(timeout))
        complete = outcome is None
        with nogil:
            self.lock()
            self.close_here()
            self.unlock()
        return complete

    def abort(self):
        """Closes the link at once."""
        if self.generation != current_generation():
            return
        with nogil:
            self.lock()
            self.close_here()
            self.unlock()

    @property
    def takes_connections(self):
        """Whether a connection may be opened."""
        return not (
            self.down or self.s.phase == PHASE_CLOSED
            or self.s.goaway_sent or self.s.goaway_received
            or self.generation != current_generation()
        )

    @property
    def connections(self):
        """How many connections the session has."""
        return self.s.connections

    def stats(self):
        """The session's counters. In a forked child, whose they are not, `ConnectionClosed`."""
        if self.generation != current_generation():
            raise ended_error(self)
        return self.session.stats()

    @property
    def round_trip(self):
        """Seconds, or None when nothing was measured yet."""
        return self.s.round_trip / 1e9 if self.s.round_trip else None
