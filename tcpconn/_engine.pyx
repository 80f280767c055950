"""The engine: who reads, who writes, who waits, and who wakes whom, for one session over one link.

*Whoever waits, reads.* A thread that waits for anything the peer must say takes the reader's role
if nobody has it: it reads, decodes, hands what is for others to them, and passes the role on when
its own turn has come.
*Whoever sends, writes*, unless a write is under way; only in a long stream of sends, frames gather
until they are worth a system call, and the flusher writes what is left when the stream pauses.
*The keeper* reads when nobody has waited for some milliseconds, and keeps the time.

The protocol between them, all of it under the session's lock:

- `reading` says who has the reader's role, `writing` whether somebody writes. Only the holder of a
  role touches that half of the link. Both are given up under the lock, and who gives one up looks
  first whether there is more to do or somebody to pass it to.
- A waiter is satisfied when its condition holds (`satisfied`). Who changes the state wakes those
  whose condition came true; a waiter looks again under the lock before it sleeps. So no wake-up is
  lost.
- Everything that calls out of here (a system call, the keeper, the flusher, an acceptor) happens
  without the lock: it is noted in `due` and done by `unlock`.

Lock order: the session's lock, then nothing. While one is held, nobody waits for the GIL; a thread
that has the GIL may wait for the lock. So between `nogil` and its end, the lock is always released
before the GIL comes back.
"""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from tcpconn._link cimport (
    OUTCOME_AGAIN,
    OUTCOME_INTERRUPTED,
    READY_READ,
    READY_WRITE,
    Link,
)
from tcpconn._receive cimport received, targets, unpost
from tcpconn._routes cimport conn_release, next_event, state_fail, state_lost
from tcpconn._send cimport (
    WAIT_ACK,
    WAIT_CREDIT,
    WAIT_LINK,
    prepare,
    send_room,
    wants_write,
    wrote,
)
from tcpconn._session cimport (
    Session,
    session_accept,
    session_deadline,
    session_detach,
    session_goaway,
    session_is_done,
    session_is_unused,
    session_ping,
    session_tick,
)
from tcpconn._frame cimport Fault, fault_set
from tcpconn._state cimport *
from tcpconn._sync cimport Span, tc_mutex_lock, tc_mutex_unlock, tc_now
from tcpconn._wire cimport CODE_SHUTDOWN, CODE_TIMEOUT, CODE_VERSION

import os

from tcpconn import errors
from tcpconn._frame import CODE_NAMES


cdef extern from "pythread.h" nogil:
    ctypedef enum PyLockStatus:
        PY_LOCK_FAILURE
        PY_LOCK_ACQUIRED
        PY_LOCK_INTR
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock lock)
    int PyThread_acquire_lock(PyThread_type_lock lock, int wait)
    PyLockStatus PyThread_acquire_lock_timed(
        PyThread_type_lock lock, long long microseconds, int interruptible
    )
    void PyThread_release_lock(PyThread_type_lock lock)


cdef enum:
    SPANS = 64
    # Sends that follow each other this closely, without the sender having waited for a message in
    # between, are a stream once there were so many: longer than a send takes, shorter than any
    # round trip between two processes; and more than one would send as one request in pieces.
    STREAM_NS = 20000
    STREAM_RUN = 16
    STREAM_BATCH = 65536        # what a stream's sender lets gather before it writes
    STREAM_PAUSE_NS = 40000     # a stream that pauses so long has its rest written by the flusher,
    STREAM_END_NS = 5000000     # and after so long it is over
    # How long a link is left alone after its reader left, before the keeper takes it over: longer
    # than whoever works in request and reply stays away.
    TAKE_OVER_NS = 5000000
    INLINE_ROUNDS = 64          # batches that a sender writes itself before the flusher goes on
    FLUSH_ROUNDS = 1024         # and the flusher, before another link's turn comes
    KEEPER_READS = 16           # reads of one link before another's turn comes
    FIRST_USE_NS = 1000000000   # how long a link stays at least before it had its first connection
    LONGEST_WAIT_S = 1000000
    WAKE_MOST = 65536           # bytes of a chunk that a reader sleeps for: it could copy meanwhile
    UNWRITTEN_RESUME = 131072   # senders held back by the link go on when so much is left to write

cdef int _generation = 0


cdef int current_generation() noexcept nogil:
    return _generation


def _forked():
    # The threads that serve links do not exist in the child; its parent goes on using the sockets.
    global _generation
    _generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


cdef int64_t as_timeout(object seconds) except? -2:
    """Seconds as ns, -1 for None (no limit)."""
    cdef double value
    if seconds is None:
        return -1
    value = seconds
    if value != value:
        raise ValueError("a timeout cannot be NaN")
    if value <= 0:
        return 0
    return <int64_t> (min(value, <double> LONGEST_WAIT_S) * 1e9)


cdef class Service:
    cdef void look(self, Engine engine) noexcept nogil:
        """Visit this engine soon."""

    cdef void flush(self, Engine engine) noexcept nogil:
        """Write what this engine has queued."""


cdef class Acceptor:
    cdef void notify(self, Engine engine) noexcept nogil:
        """This engine has a connection that waits to be accepted."""

    def ended_engine(self, Engine engine):
        """The link of an engine is gone; with the GIL, before its keeper lets go of it."""


@cython.no_gc_clear  # what its end still needs must outlive it, in a cycle too
cdef class Engine:
    def __cinit__(self, Session session, Link link, Service service, Acceptor acceptor=None):
        options = session.options
        self.session = session
        self.s = session.s
        self.link = link
        self.service = service
        self.acceptor = acceptor
        self.generation = _generation
        self.owned = True
        self.began_at = tc_now()
        self.used_at = self.began_at
        self.handshake_ns = <uint64_t> (options.handshake_timeout * 1e9)
        self.busy_poll_ns = <uint64_t> (options.busy_poll * 1e9)

    def __dealloc__(self):
        cdef uint32_t index
        for index in range(self.parker_count):
            PyThread_free_lock(self.parkers[index])

    cdef void lock(self) noexcept nogil:
        tc_mutex_lock(&self.s.lock)

    cdef void unlock(self) noexcept nogil:
        """Releases the lock, and does what became due under it."""
        cdef int due = self.due
        cdef bint released
        if due == 0:
            tc_mutex_unlock(&self.s.lock)
            return
        released = self.released    # then the keeper has let go of it: nobody may ask it to look
        self.due = 0
        self.outside += 1
        tc_mutex_unlock(&self.s.lock)
        if due & DUE_WAKE_READER:
            self.link.wake()
        if due & DUE_SHUT:
            self.link.shut()
        if due & DUE_FLUSH and not released:
            self.service.flush(self)
        if due & DUE_ACCEPT and self.acceptor is not None and not released:
            self.acceptor.notify(self)
        if due & DUE_LOOK and not released:
            self.service.look(self)
        tc_mutex_lock(&self.s.lock)
        self.outside -= 1
        tc_mutex_unlock(&self.s.lock)

    # Writing

    cdef bint sent(self) noexcept nogil:
        """Something was queued: True when the caller should pump it out, False: somebody else will.
        """
        cdef uint64_t now = tc_now()
        if self.replied or now - self.sent_at >= STREAM_NS:
            self.run = 0
        self.run += 1
        self.sent_at = now
        if self.writing or self.blocked or self.broken or self.down:
            return False
        if self.run <= STREAM_RUN or self.s.queue.unwritten >= STREAM_BATCH:
            return True
        if not self.watched:
            self.watched = True
            self.due |= DUE_FLUSH
        return False

    cdef void send_later(self) noexcept nogil:
        """Something was queued that is to go along with what follows: an OPEN before the first
        message, the end of one connection before the beginning of the next. If nothing follows, the
        flusher writes it.
        """
        self.sent_at = tc_now()
        if not self.watched:
            self.watched = True
            self.due |= DUE_FLUSH

    cdef bint flush(self, uint64_t now) noexcept nogil:
        """The flusher's visit: writes the rest of a stream that pauses. False: it is at its end."""
        self.lock()
        if wants_write(self.s) and now - min(self.sent_at, now) >= STREAM_PAUSE_NS:
            self.pump(FLUSH_ROUNDS)
        if now - min(self.sent_at, now) >= STREAM_END_NS or self.down:
            self.watched = False
        self.due &= ~DUE_FLUSH
        self.unlock()
        return self.watched

    cdef void pump(self, int rounds) noexcept nogil:
        """Writes what is queued, until all is, the kernel takes no more, or `rounds` are over."""
        cdef State* s = self.s
        cdef Span[SPANS] spans
        cdef int count, index
        cdef size_t asked
        cdef Py_ssize_t result
        if self.writing or self.blocked or self.broken or self.down:
            return
        self.writing = True
        self.replied = False
        while True:
            count = prepare(s, spans, SPANS)
            if count == 0:
                # It may have found that a message waits for its reader: that holds nobody else up.
                if self.others > 0:
                    self.wake_others()
                break
            if rounds == 0:
                # Nothing of the batch is lost: it is what the next writer gets.
                self.watched = True
                self.due |= DUE_FLUSH
                break
            rounds -= 1
            asked = 0
            for index in range(count):
                asked += spans[index].length
            self.unlock()
            result = self.link.write(spans, count)
            self.lock()
            if result >= 0:
                wrote(s, <size_t> result, asked)
                if <size_t> result < asked:
                    self.blocked = True
            elif result == OUTCOME_AGAIN:
                self.blocked = True
            else:
                # What the peer said last may still be there to be read: reading finds the end.
                self.broken = True
            if self.others > 0:
                self.wake_others()
            if self.blocked or self.broken or self.down:
                break
        self.writing = False
        if s.phase == PHASE_CLOSED:
            self.take_down()
        elif self.blocked or self.broken:
            if self.reading != USER:
                self.due |= DUE_LOOK
            elif self.reader_waits:
                self.due |= DUE_WAKE_READER

    # Waiting

    cdef void begin_wait(
        self, Waiter* waiter, Conn* conn, int wanted, uint64_t amount
    ) noexcept nogil:
        memset(waiter, 0, sizeof(Waiter))
        waiter.conn = conn
        waiter.wanted = wanted
        waiter.amount = amount
        waiter.before = self.last
        if self.last is NULL:
            self.first = waiter
        else:
            self.last.next = waiter
        self.last = waiter
        if wanted != WANT_MESSAGE:
            self.others += 1
            return
        waiter.conn_next = <Waiter*> conn.waiters
        if waiter.conn_next is not NULL:
            waiter.conn_next.conn_before = waiter
        conn.waiters = waiter

    cdef void end_wait(self, Waiter* waiter) noexcept nogil:
        if waiter.before is NULL:
            self.first = waiter.next
        else:
            waiter.before.next = waiter.next
        if waiter.next is NULL:
            self.last = waiter.before
        else:
            waiter.next.before = waiter.before
        if waiter.wanted != WANT_MESSAGE:
            self.others -= 1
        else:
            if waiter.conn_before is NULL:
                waiter.conn.waiters = waiter.conn_next
            else:
                waiter.conn_before.conn_next = waiter.conn_next
            if waiter.conn_next is not NULL:
                waiter.conn_next.conn_before = waiter.conn_before
        if waiter.parker is not NULL:
            if self.parker_count < PARKERS:
                self.parkers[self.parker_count] = waiter.parker
                self.parker_count += 1
            else:
                PyThread_free_lock(waiter.parker)
            waiter.parker = NULL
        if waiter.reader:
            waiter.reader = False
            self.reading = NOBODY
            self.left_at = self.s.now
            if self.s.posted_by is not NULL:
                unpost(self.s)
            self.pass_role()

    cdef bint satisfied(self, const Waiter* waiter) noexcept nogil:
        """Whether what a waiter waits for is there, or can never be."""
        cdef State* s = self.s
        cdef Conn* conn = waiter.conn
        cdef int room
        if s.phase == PHASE_CLOSED or self.down:
            return True
        if waiter.wanted == WANT_MESSAGE:
            if conn.unread_first is not NULL:
                return conn.unread_first.kind != MESSAGE_POSTED or waiter.reader
            return conn.in_state == ROUTE_ENDED or not conn.attached or (
                conn.in_state == ROUTE_IDLE and conn.out_code != 0
            )
        if waiter.wanted == WANT_ROOM:
            if not conn.attached:
                return True
            room = send_room(s, conn, waiter.amount)
            if room == WAIT_LINK:
                return s.queue.unwritten <= UNWRITTEN_RESUME
            return room != WAIT_CREDIT and room != WAIT_ACK
        if waiter.wanted == WANT_CUT:
            return conn.messages_sent - conn.outgoing_count >= waiter.amount or conn.out_code != 0
        if waiter.wanted == WANT_ACK:
            return s.queue.acked >= waiter.amount
        if waiter.wanted == WANT_CONNECTION:
            return s.accept_first is not NULL
        if waiter.wanted == WANT_OPEN:
            return s.phase == PHASE_OPEN
        if waiter.wanted == WANT_PONG:
            return s.ping_answered >= waiter.amount
        return session_is_done(s)

    cdef int wait_for(self, Waiter* waiter, int64_t timeout) noexcept nogil:
        """Waits until `waiter` is satisfied; `timeout` in ns, < 0 for none. A Waited."""
        cdef uint64_t deadline = 0
        cdef int outcome = WAITED_READY
        if timeout >= 0:
            deadline = tc_now() + <uint64_t> timeout + 1
        while not self.satisfied(waiter):
            outcome = self.await_change(waiter, deadline)
            if outcome != WAITED_READY:
                return WAITED_READY if self.satisfied(waiter) else outcome
        return WAITED_READY

    cdef int await_change(self, Waiter* waiter, uint64_t deadline) noexcept nogil:
        """Reads, or sleeps until somebody wakes this waiter; something may have changed then."""
        # A sender held back by the link needs nothing from the peer but that it reads, and a writer
        # is at work: reading in its stead would cost it a thread switch for every batch.
        if not waiter.reader and self.reading == NOBODY and (
            waiter.wanted != WANT_ROOM or self.blocked
        ):
            self.take_role(waiter)
        if waiter.reader:
            return self.read_pass(deadline)
        return self.park(waiter, deadline)

    cdef int park(self, Waiter* waiter, uint64_t deadline) noexcept nogil:
        cdef long long microseconds = -1
        cdef uint64_t now
        cdef PyLockStatus status
        if waiter.parker is NULL:
            if self.parker_count > 0:
                self.parker_count -= 1
                waiter.parker = self.parkers[self.parker_count]
            else:
                waiter.parker = PyThread_allocate_lock()
                PyThread_acquire_lock(waiter.parker, 0)
        if deadline != 0:
            now = tc_now()
            if now >= deadline:
                return WAITED_TIMEOUT
            microseconds = <long long> ((deadline - now + 999) // 1000)
        waiter.woken = False
        waiter.parked = True
        self.unlock()
        status = PyThread_acquire_lock_timed(waiter.parker, microseconds, 1)
        self.lock()
        waiter.parked = False
        if waiter.woken and status != PY_LOCK_ACQUIRED:
            # Woken just then: take it, so that it is locked again.
            PyThread_acquire_lock(waiter.parker, 1)
            status = PY_LOCK_ACQUIRED
        if status == PY_LOCK_ACQUIRED:
            return WAITED_READY
        return WAITED_SIGNAL if status == PY_LOCK_INTR else WAITED_TIMEOUT

    cdef void wake(self, Waiter* waiter) noexcept nogil:
        if waiter.reader:
            if self.reader_waits:
                self.due |= DUE_WAKE_READER
        elif waiter.parked and not waiter.woken:
            waiter.woken = True
            PyThread_release_lock(waiter.parker)

    cdef void wake_receivers(self, Conn* conn) noexcept nogil:
        """One waiter for each unread message, or all when there will be no more."""
        cdef Waiter* waiter = <Waiter*> conn.waiters
        cdef uint32_t count = conn.unread_count
        if conn.in_state == ROUTE_ENDED or not conn.attached or conn.out_code != 0:
            count = 0xFFFFFFFF
        # The oldest waiter is the last in the list: it is served first.
        while waiter is not NULL and waiter.conn_next is not NULL:
            waiter = waiter.conn_next
        while waiter is not NULL and count > 0:
            self.wake(waiter)
            count -= 1
            waiter = waiter.conn_before

    cdef void wake_others(self) noexcept nogil:
        cdef Waiter* waiter = self.first
        while waiter is not NULL:
            if waiter.wanted != WANT_MESSAGE and self.satisfied(waiter):
                self.wake(waiter)
            waiter = waiter.next

    cdef void dispatch(self) noexcept nogil:
        """Tells those who wait what the session says has happened."""
        cdef State* s = self.s
        cdef Conn* conn
        cdef uint32_t events
        cdef uint32_t happened
        cdef bint look = False
        while True:
            conn = next_event(s)
            if conn is NULL:
                break
            events = conn.events
            conn.events = 0
            if events & (EVENT_MESSAGE | EVENT_END) and conn.waiters is not NULL:
                self.wake_receivers(conn)
            if events & (EVENT_CREDIT | EVENT_END):
                look = True
            conn_release(s, conn)
        happened = s.happened
        s.happened = 0
        if happened & HAPPENED_CONNECTION and self.acceptor is not None:
            self.due |= DUE_ACCEPT
        if (happened or look) and self.others > 0:
            self.wake_others()
        if happened & HAPPENED_OVER:
            self.used_at = s.now
        if happened & HAPPENED_CLOSED:
            if self.writing:
                return                  # the writer sends the farewell and takes the link down
            if self.blocked or self.broken or s.fault_is_loss or s.fault_is_theirs:
                self.take_down()
            else:
                self.pump(1)

    # Reading

    cdef void take_role(self, Waiter* waiter) noexcept nogil:
        self.reading = USER
        waiter.reader = True
        if self.owned:
            self.owned = False
            self.due |= DUE_LOOK

    cdef void pass_role(self) noexcept nogil:
        """The reader's role is free: it goes to the oldest waiter who sleeps, or to the keeper."""
        cdef Waiter* waiter = self.first
        while waiter is not NULL:
            if waiter.parked and not waiter.woken and not (
                waiter.wanted == WANT_ROOM and not self.blocked
            ):
                waiter.woken = True
                self.take_role(waiter)
                PyThread_release_lock(waiter.parker)
                return
            waiter = waiter.next
        if self.blocked:
            self.due |= DUE_LOOK

    cdef int read_pass(self, uint64_t deadline) noexcept nogil:
        """One read by a waiting thread that has the role. A Waited."""
        cdef int events, wanted
        cdef int64_t timeout = -1
        cdef uint64_t now, until
        cdef size_t least
        if self.down:
            return WAITED_READY
        if wants_write(self.s) and not self.writing:
            self.pump(INLINE_ROUNDS)    # what the peer may be waiting for
        if not self.drained and self.read_once():
            return WAITED_READY
        if self.busy_poll_ns > 0:
            until = tc_now() + self.busy_poll_ns
            while True:
                if self.read_once():
                    return WAITED_READY
                self.unlock()
                self.link.give_way()
                self.lock()
                now = tc_now()
                if now >= until or (deadline != 0 and now >= deadline):
                    break
        if deadline != 0:
            now = tc_now()
            timeout = <int64_t> (deadline - now) if now < deadline else 0
        wanted = READY_READ | (READY_WRITE if self.blocked else 0)
        least = 1
        if self.s.direct is not NULL:
            # The rest of a chunk that has begun comes whatever happens: a part is not worth it.
            least = <size_t> min(self.s.direct_length - self.s.direct_done, <uint64_t> WAKE_MOST)
        self.reader_waits = True
        self.unlock()
        events = self.link.wait(wanted, timeout, least)
        self.lock()
        self.reader_waits = False
        if events == OUTCOME_INTERRUPTED:
            return WAITED_SIGNAL
        if events == 0:
            return WAITED_TIMEOUT
        if events & READY_WRITE:
            self.blocked = False
            self.pump(INLINE_ROUNDS)
        if events & READY_READ:
            self.read_once()
        return WAITED_READY

    cdef bint read_once(self) noexcept nogil:
        """Takes in what is there, and tells everybody. The caller has the reader's role.

        False when there was nothing. Afterwards, `drained` says whether there can be more.
        """
        cdef State* s = self.s
        cdef Span[2] spans
        cdef int count = targets(s, spans)
        cdef int index
        cdef size_t asked = 0
        cdef Py_ssize_t result
        if count == 0 or self.down:
            self.dispatch()
            return True
        for index in range(count):
            asked += spans[index].length
        self.unlock()
        result = self.link.read(spans, count)
        self.lock()
        if result > 0:
            self.drained = <size_t> result < asked
            received(s, <size_t> result, tc_now())
        elif result == OUTCOME_AGAIN:
            self.drained = True
            return False
        else:
            state_lost(s)
            self.take_down()
        self.dispatch()
        if wants_write(s) and not self.writing:
            self.pump(INLINE_ROUNDS)
        return True

    # Ending

    cdef void take_down(self) noexcept nogil:
        """Shuts the link; everybody who waits finds out."""
        cdef Waiter* waiter = self.first
        if self.down:
            return
        if self.s.phase != PHASE_CLOSED:
            state_lost(self.s)
        self.down = True
        self.due |= DUE_SHUT | DUE_LOOK | DUE_ACCEPT
        while waiter is not NULL:
            self.wake(waiter)
            waiter = waiter.next

    cdef void close_here(self) noexcept nogil:
        if self.s.phase != PHASE_CLOSED:
            self.closed_here = not self.s.goaway_received or self.s.goaway_sent
        self.take_down()

    # The keeper's part

    cdef uint64_t visit(self, int events, uint64_t now) noexcept nogil:
        """What the keeper does for a link: reads if nobody else does, keeps the time, cleans up.

        Returns when to come again (ns), VISIT_NEVER or VISIT_DROP. Only the keeper's thread calls
        it, and arms the link afterwards for `want`.
        """
        cdef State* s = self.s
        cdef uint64_t next_at = 0
        cdef uint64_t at
        cdef int _
        cdef Fault fault
        self.lock()
        if events & READY_WRITE:
            self.blocked = False
        if events & READY_READ and self.reading == NOBODY and not self.down:
            self.reading = KEEPER
            self.drained = False
            for _ in range(KEEPER_READS):
                self.read_once()
                if self.drained or self.down:
                    break
            self.reading = NOBODY
            self.pass_role()
        # Looked at again under the lock: what was just read may have set the times that are
        # compared with it.
        now = tc_now()
        session_tick(s, now)
        if not self.down and s.phase < PHASE_OPEN and now >= self.began_at + self.handshake_ns:
            fault_set(&fault, CODE_TIMEOUT, b"11", b"the handshake took too long")
            state_fail(s, &fault)
            self.dispatch()
        if not self.down and self.idle_ns > 0 and s.phase == PHASE_OPEN and session_is_unused(s):
            at = self.used_at + self.idle_ns
            if s.in_route == 0 and s.out_route == 0:
                # Who made it is about to open its first connection.
                at = max(at, self.began_at + FIRST_USE_NS)
            if now >= at:
                session_goaway(s)
        if wants_write(s) and not self.writing:
            self.pump(INLINE_ROUNDS)
        if (s.goaway_sent or s.goaway_received) and not self.down and session_is_done(s):
            self.close_here()
        if self.down:
            next_at = now + 1000000
            if self.reading == NOBODY and not self.writing and self.outside == 0:
                self.due &= ~DUE_LOOK
                if self.due == 0:
                    self.released = True
                    next_at = VISIT_DROP
            self.want = 0
            self.unlock()
            return next_at
        # When to come again: while somebody reads, to see whether they still do.
        if not self.owned:
            if self.reading == NOBODY and now - min(self.left_at, now) >= TAKE_OVER_NS:
                self.owned = True
            else:
                next_at = now + TAKE_OVER_NS
        at = session_deadline(s)
        if at != 0 and (next_at == 0 or at < next_at):
            next_at = at
        at = 0
        if s.phase < PHASE_OPEN:
            at = self.began_at + self.handshake_ns
        elif self.idle_ns > 0:
            # A used link is looked at in idle_ns's time: not worth a wake-up when it becomes idle.
            at = max(self.used_at + self.idle_ns, now + self.idle_ns // 4)
            if s.in_route == 0 and s.out_route == 0:
                at = max(at, self.began_at + FIRST_USE_NS)
        if at != 0 and (next_at == 0 or at < next_at):
            next_at = at
        self.want = 0
        if self.owned and self.reading != USER:
            self.want |= READY_READ     # one who polls is done in a moment, and tells nobody
        if self.blocked and self.reading != USER:
            self.want |= READY_WRITE
        self.due &= ~DUE_LOOK       # this is the look
        self.unlock()
        return next_at

    cdef void ask_for_ack(self) noexcept nogil:
        """Behind the last frame, a PING brings the ack of all of it at once."""
        if self.down or self.s.phase != PHASE_OPEN:
            return
        if self.s.queue.acked < self.s.queue.sequence:
            session_ping(self.s, tc_now())
            self.pump(INLINE_ROUNDS)

    # With the GIL: what the shell asks for

    cdef object wait_with_gil(self, Conn* conn, int wanted, uint64_t amount, int64_t timeout):
        """Waits without lock and GIL. None when satisfied; `Timeout` when it took too long."""
        cdef Waiter waiter
        cdef int outcome
        cdef uint64_t now
        cdef uint64_t deadline = 0
        if timeout >= 0:
            deadline = tc_now() + <uint64_t> timeout
        while True:
            with nogil:
                self.lock()
                self.begin_wait(&waiter, conn, wanted, amount)
                outcome = self.wait_for(&waiter, timeout)
                self.end_wait(&waiter)
                self.unlock()
            if outcome == WAITED_READY:
                return None
            if outcome == WAITED_TIMEOUT:
                return errors.Timeout
            self.link.raise_pending()
            if timeout >= 0:
                now = tc_now()
                timeout = <int64_t> (deadline - now) if now < deadline else 0

    def start(self, timeout=None):
        """Sends what the session has to say first; a client waits for the end of the handshake."""
        cdef int64_t limit = as_timeout(timeout)
        cdef uint64_t began = tc_now()
        with nogil:
            self.lock()
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
            raise self.ended_error()

    cdef object ended_error(self):
        """The exception that says why the session ended."""
        cdef State* s = self.s
        where = f"the link to {self.peer_address}"
        if self.generation != _generation:
            return errors.ConnectionClosed(f"{where} belongs to the process that forked this one")
        reason = self.session.end
        if self.closed_here:
            return errors.ConnectionClosed(f"{where} was closed here")
        if reason is None:
            return errors.ConnectionClosed(f"{where} is closed")
        kind, code, section, text = reason
        if kind == "lost":
            if s.goaway_received:
                return errors.ConnectionClosed(f"the peer closed {where}")
            if s.sequence == 0 and s.frames_received == 0:
                return errors.LinkLost(
                    f"{where} ended before the peer said a word of tcpconn{self.why()}"
                )
            return errors.LinkLost(f"{where} broke{self.why()}")
        name = CODE_NAMES.get(code, "PROTOCOL")
        if kind == "told":
            if code == CODE_VERSION:
                return errors.VersionMismatch(
                    f"{where} was refused: {text} ({name})", code, section
                )
            return errors.ProtocolError(f"the peer ended {where}: {text} ({name})", code, section)
        if code == CODE_TIMEOUT:
            return errors.Timeout(f"{where}: {text}")
        if code == CODE_VERSION:
            return errors.VersionMismatch(f"{where}: {text}", code, section)
        if section == "2":
            return errors.NotTcpconn(f"{where}: {text}; check address and port", code, section)
        return errors.ProtocolError(
            f"{where} was closed, the peer broke the protocol: {text}", code, section
        )

    def why(self):
        return f": {os.strerror(self.link.error)}" if self.link.error else ""

    def error(self):
        """Why the session ended, as an exception; None while it goes on."""
        if self.s.phase != PHASE_CLOSED and not self.down:
            return None
        return self.ended_error()

    def set_idle_timeout(self, double seconds):
        """Closes the link after so many seconds without connections."""
        if self.generation != _generation:
            return
        self.lock()
        self.idle_ns = max(<uint64_t> 1, <uint64_t> (seconds * 1e9))
        self.due |= DUE_LOOK
        self.unlock()

    def poll(self):
        """Takes in what has come, unless somebody is at it anyway."""
        if self.generation != _generation:
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
        if self.generation != _generation:
            raise self.ended_error()
        with nogil:
            self.lock()
            session_ping(self.s, tc_now())
            token = self.s.ping_token
            if not self.writing:
                self.pump(INLINE_ROUNDS)
            self.unlock()
        outcome = self.wait_with_gil(NULL, WANT_PONG, token, as_timeout(timeout))
        if outcome is not None:
            raise errors.Timeout(f"no answer to a ping within {timeout} s")
        if self.down:
            raise self.ended_error()
        return self.s.round_trip / 1e9

    def close(self, timeout=None):
        """Ends all connections, waits until the peer has what was sent, and closes the link.

        Returns whether the peer had everything in time.
        """
        cdef Conn* conn
        if self.generation != _generation:
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
        if self.generation != _generation:
            return
        with nogil:
            self.lock()
            self.close_here()
            self.unlock()

    @property
    def is_down(self):
        return self.down or self.s.phase == PHASE_CLOSED or self.generation != _generation

    @property
    def takes_connections(self):
        """Whether a connection may be opened."""
        return not (
            self.down or self.s.phase == PHASE_CLOSED
            or self.s.goaway_sent or self.s.goaway_received
            or self.generation != _generation
        )

    @property
    def connections(self):
        """How many connections the session has."""
        return self.s.connections

    @property
    def round_trip(self):
        """Seconds, or None when nothing was measured yet."""
        return self.s.round_trip / 1e9 if self.s.round_trip else None

    def finished(self):
        """The keeper has let go of the link: closes its descriptors and says so."""
        self.link.release()
        if self.acceptor is not None:
            self.acceptor.ended_engine(self)
        callback = self.on_end
        self.on_end = None
        if callback is not None:
            callback()
