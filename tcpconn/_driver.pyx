"""An engine as the shell uses it: starting, measuring and ending a session, with the GIL."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from tcpconn._ending cimport ended_error
from tcpconn._engine cimport INLINE_ROUNDS, KEEPER, NOBODY, WATCHED_NOT, Engine, Service
from tcpconn._frame cimport Fault, fault_set
from tcpconn._leftover cimport Leftover
from tcpconn._link cimport Link
from tcpconn._process cimport current_generation
from tcpconn._resume cimport session_lose, session_may_relink, session_relink
from tcpconn._routes cimport conn_release, state_fail
from tcpconn._lifecycle cimport (
    session_accept,
    session_detach,
    session_goaway,
    session_let_go,
    session_ping,
)
from tcpconn._state cimport *
from tcpconn._sync cimport tc_now
from tcpconn._waiting cimport DUE_LOOK, WANT_DONE, WANT_LINK, WANT_OPEN, WANT_PONG, as_timeout
from tcpconn._wire cimport CODE_ABORTED, CODE_SHUTDOWN

import os

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
        if self.s.phase != PHASE_CLOSED:
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
        """Takes in what has come, unless somebody is at it anyway. Returns whether a connection may
        be opened, and there is a link for it.
        """
        if self.generation != current_generation():
            return False
        with nogil:
            self.lock()
            if self.reading == NOBODY and not self.down:
                self.reading = KEEPER   # nobody is to wake this thread: it does not wait
                self.read_once()
                self.reading = NOBODY
                self.pass_role()
            self.unlock()
        return self.takes() and not self.s.detached

    cdef bint takes(self) noexcept nogil:
        return not (
            self.s.phase == PHASE_CLOSED or self.dormant
            or self.s.goaway_sent or self.s.goaway_received
            or self.generation != current_generation()
        )

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
        if self.s.phase == PHASE_CLOSED:
            raise ended_error(self)
        return self.s.round_trip / 1e9

    def drain(self, timeout=None):
        """Takes no new connections, and waits until those there are have ended on both sides.

        Returns whether they have in time, and the peer has acknowledged all. Nothing is cut short.
        """
        if self.generation != current_generation():
            return True
        with nogil:
            self.lock()
            if self.s.phase != PHASE_CLOSED:
                session_goaway(self.s)
                self.dispatch()
                self.pump(INLINE_ROUNDS)
            self.unlock()
        return self.wait_with_gil(NULL, WANT_DONE, 0, as_timeout(timeout)) is None

    def close(self, timeout=None):
        """Ends all connections, waits until the peer has what was sent, and closes the link.

        Returns whether the peer had everything in time.
        """
        cdef Conn* conn
        cdef bint over, complete
        cdef bint idle = False
        if self.generation != current_generation():
            return True
        with nogil:
            self.lock()
            # Only what was sent is worth waiting for another link, not that its sender goes.
            idle = (
                self.s.detached and self.s.outgoing_count == 0
                and self.s.queue.acked == self.s.queue.sequence
            )
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
        complete = idle or self.wait_with_gil(NULL, WANT_DONE, 0, as_timeout(timeout)) is None
        with nogil:
            self.lock()
            if complete:
                self.close_here()
            else:
                self.give_up()
            over = self.take_loose()
            self.unlock()
        if over:
            self.ended()
        return complete

    # Its end

    def finished(self):
        """The keeper has let go of the link: closes its descriptors, and says so."""
        cdef bint over
        self.link.release()
        self.lock()
        self.loose = True
        over = self.released or self.take_loose()
        self.unlock()
        if over:
            self.ended()
        elif self.on_detach is not None and not self.is_over:
            self.on_detach()

    def ended(self):
        """All is over, and nothing at work any more. What is received can still be read; else no
        more is kept than tells how it ended, for as long as anybody holds a connection.
        """
        with nogil:
            self.lock()
            session_let_go(self.s)
            self.unlock()
        self.session.drop_released()
        if self.acceptor is not None:
            self.acceptor.ended_engine(self)
        callback = self.on_end
        self.on_end = None
        self.on_link = None
        if callback is not None:
            callback()

    # Another link

    def keep(self, on_detach):
        """The session outlives its link, if the peer keeps it too: `on_detach` is called then."""
        self.on_detach = on_detach
        self.keeps = True

    def attach(self, Link link, Service service, received):
        """Gives the session another link, in the care of `service`, which registers it next.

        `received`: how many frames the peer has taken; None for a session that begins again.
        False when it has a link, is over, or the peer cannot have taken so many.
        """
        cdef uint64_t count = 0 if received is None else received
        cdef bint resumes = received is not None
        cdef bint fits
        cdef tuple _before = (self.link, self.service)      # nothing is freed under the lock
        self.lock()
        fits = self.loose and self.s.phase != PHASE_CLOSED and (
            not resumes or session_may_relink(self.s, count)
        )
        if fits:
            if resumes:
                session_relink(self.s, count)
            self.s.detached = False
            self.s.unusual = self.s.phase != PHASE_OPEN or self.s.renewals != 0
            self.s.now = tc_now()
            self.s.chunk_at = self.s.now
            self.s.heard_at = self.s.now
            self.s.asked_at = 0
            self.link = link
            self.service = service
            self.down = False
            self.writing = True         # nobody does before `go_on`: the link is not registered
            self.unserved = False
            self.loose = False
            self.blocked = False
            self.broken = False
            self.drained = False
            self.watched = WATCHED_NOT
            self.held = False
            self.owned = True
            self.suspect_at = 0
            self.began_at = self.s.now
            self.used_at = self.s.now
            self.due = 0
        self.unlock()
        return fits

    def go_on(self):
        """The link is in a keeper's care: sends what there is, and lets somebody read."""
        with nogil:
            self.lock()
            self.writing = False
            self.dispatch()
            if self.reading == NOBODY:
                self.pass_role()
            self.pump(INLINE_ROUNDS)
            self.unlock()

    def wait_attached(self, timeout, last_error=None):
        """Waits until there is a link. Raises `last_error`, or `Timeout`, if it takes too long."""
        if self.wait_with_gil(NULL, WANT_LINK, 0, as_timeout(timeout)) is not None:
            if last_error is not None:
                raise last_error
            raise errors.Timeout(f"no link to {self.peer_address} within {timeout} s")
        if self.s.phase == PHASE_CLOSED:
            raise ended_error(self)

    def may_resume(self, uint64_t received):
        """Whether the peer can have taken so many frames."""
        cdef bint answer
        self.lock()
        answer = session_may_relink(self.s, received)
        self.unlock()
        return answer

    def unlink(self, uint32_t epoch):
        """Takes the link away, for one of a later epoch. False: there was a later one, or the
        session is over. `on_detach` is called once nobody is at work on it any more.
        """
        cdef bint later
        with nogil:
            self.lock()
            later = epoch > self.s.epoch and self.s.phase != PHASE_CLOSED
            if later:
                self.s.epoch = epoch
                self.take_down(False)
            self.unlock()
        return later

    def rest(self):
        """Nobody sees to another link until the session is used again. Who waits is told."""
        with nogil:
            self.lock()
            self.dormant = True
            self.wake_all(True)
            self.unlock()

    def next_epoch(self):
        """The number for the next link."""
        cdef uint32_t epoch
        self.lock()
        self.s.epoch += 1
        epoch = self.s.epoch
        self.unlock()
        return epoch

    def lose(self, str reason, bint renew):
        """Gives up the session, which has no link: its connections are told, and what they had
        sent. A client's begins again (`renew`); else all is over. False: it has a link, or is over.
        """
        cdef Leftover leftover = Leftover(reason)
        cdef bytes names = os.urandom(32)
        cdef const uint8_t* start = <const uint8_t*> PyBytes_AS_STRING(names) if renew else NULL
        cdef uint32_t number = self.s.renewals + 1
        cdef bint possible, over
        cdef int failed = 0
        self.session.leftovers[number] = leftover
        with nogil:
            self.lock()
            possible = self.loose and self.s.phase != PHASE_CLOSED
            if possible:
                failed = session_lose(self.s, &leftover.lost, start)
                if failed:
                    self.take_down(True)
                else:
                    self.wake_all(True)
                    self.dispatch()
            over = self.take_loose()
            self.unlock()
        leftover.fill()
        if not possible or failed:
            del self.session.leftovers[number]
        if over:
            self.ended()
        if failed:
            raise MemoryError
        return possible

    @property
    def is_loose(self):
        """Whether it waits for another link, and nobody is at work on one."""
        return self.loose and self.s.phase != PHASE_CLOSED

    @property
    def held_bytes(self):
        """What its connections and messages hold: those the peer has not acknowledged, those
        nobody has received, and those that are not whole yet.
        """
        cdef State* s = self.s
        cdef uint64_t held
        self.lock()
        held = s.queue.bytes + s.outgoing_bytes + s.stalled_bytes
        held += max(s.unread_bytes, s.own_bytes + s.retired_bytes + s.moved_bytes)
        held += <uint64_t> s.connections * CONNECTION_BYTES
        self.unlock()
        return held

    def abort(self):
        """Closes the link at once, and tells the peer so, if it can be told without waiting."""
        cdef bint over
        if self.generation != current_generation():
            return
        with nogil:
            self.lock()
            self.give_up()
            over = self.take_loose()
            self.unlock()
        if over:
            self.ended()

    cdef void give_up(self) noexcept nogil:
        """Else the peer would take it for a break, and come back."""
        cdef Fault fault
        if self.s.phase == PHASE_OPEN and not self.down:
            self.closed_here = True
            fault_set(&fault, CODE_ABORTED, b"9", b"given up by its user")
            state_fail(self.s, &fault)
            self.dispatch()
        self.close_here()

    @property
    def takes_connections(self):
        """Whether a connection may be opened."""
        return self.takes()

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
