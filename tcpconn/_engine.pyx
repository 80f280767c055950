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
- What waits in an event loop is a waiter like any other, but woken by its herald: it is put into a
  list, of which the loop is told. The loop reads, as the keeper does, when it finds something
  (`looped`); a thread never reads in its stead.

Lock order: the session's lock, then nothing but a herald's, for its list. While one is held, nobody
waits for the GIL; a thread that has the GIL may wait for the lock. So between `nogil` and its end,
the lock is always released before the GIL comes back.
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
from tcpconn._routes cimport conn_release, next_event, state_lost
from tcpconn._send cimport (
    SPANS,
    WAIT_ACK,
    WAIT_CREDIT,
    WAIT_LINK,
    prepare,
    send_ask,
    send_room,
    may_wait,
    wants_write,
    wrote,
)
from tcpconn._lifecycle cimport session_is_done, session_is_kept, session_let_go
from tcpconn._session cimport Session
from tcpconn._state cimport *
from tcpconn._sync cimport (
    PY_LOCK_ACQUIRED,
    PY_LOCK_INTR,
    PyLockStatus,
    PyThread_acquire_lock,
    PyThread_acquire_lock_timed,
    PyThread_allocate_lock,
    PyThread_free_lock,
    PyThread_get_thread_ident,
    PyThread_release_lock,
    Span,
    tc_mutex_lock,
    tc_mutex_unlock,
    tc_now,
)

import os
import threading

from tcpconn import errors


cdef enum:
    # Sends that follow each other this closely, without the sender having waited for a message in
    # between, are a stream once there were so many: longer than a send takes, shorter than any
    # round trip between two processes; and more than one would send as one request in pieces.
    STREAM_NS = 20000
    STREAM_RUN = 16
    STREAM_PAUSE_NS = 40000     # a stream that pauses so long has its rest written by the flusher,
    STREAM_END_NS = 5000000     # and after so long it is over
    FLUSH_ROUNDS = 1024         # and the flusher, before another link's turn comes
    LONGEST_WAIT_S = 1000000
    WAKE_MOST = 65536           # bytes of a chunk that a reader sleeps for: it could copy meanwhile
    # So long a reader tries again for the rest of a chunk before it sleeps: its sender is copying,
    # on another core, and to sleep and be woken takes longer than that. Where neither all of it nor
    # so much comes meanwhile (no network is as fast, nor is a sender who has to share our core), it
    # is tried ever more seldom, down to one time in so many.
    REST_NS = 30000
    REST_LEAST = 32768
    REST_SELDOM = 16
    UNWRITTEN_RESUME = 131072   # senders held back by the link go on when so much is left to write
    # A signal interrupts a system call, but not the way to the next one: how long the main thread,
    # where handlers run, may go without a look.
    SIGNALS_NS = 250000000

cdef int _generation = 0
cdef unsigned long _main_thread = threading.main_thread().ident


cdef int current_generation() noexcept nogil:
    return _generation


cdef uint64_t longest_sleep() noexcept nogil:
    """How long this thread may wait before it looks for signals (ns); 0: it gets none."""
    return SIGNALS_NS if PyThread_get_thread_ident() == _main_thread else 0


def _forked():
    # The threads that serve links do not exist in the child; its parent goes on using the sockets.
    global _generation, _main_thread
    _generation += 1
    _main_thread = PyThread_get_thread_ident()


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


cdef void unpark(Waiter* waiter) noexcept nogil:
    """Those that were woken. Without the lock: each may be gone as soon as it is unparked."""
    cdef Waiter* following
    while waiter is not NULL:
        following = waiter.woken_next
        PyThread_release_lock(waiter.parker)
        waiter = following


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


cdef class Herald:
    cdef bint add(self, Waiter* waiter) noexcept nogil:
        """Under the session's lock: the wait is over. Whether `signal` is to be called."""
        return False

    cdef bint release_links(self) noexcept nogil:
        """Under the session's lock: the loop is to let go of links that are down, which it may not
        have noticed. Whether `signal` is to be called.
        """
        return False

    cdef void signal(self) noexcept nogil:
        """Has the loop look at what was added."""


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
        cdef bint unserved, released
        cdef Waiter* woken
        if due == 0:
            tc_mutex_unlock(&self.s.lock)
            return
        woken = self.woken
        self.woken = NULL
        if due == DUE_UNPARK:
            self.due = 0
            tc_mutex_unlock(&self.s.lock)
            unpark(woken)
            return
        # Once the keeper has let go of it, nobody may ask it to look.
        unserved = self.unserved
        released = self.released
        self.due = 0
        self.outside += 1
        tc_mutex_unlock(&self.s.lock)
        unpark(woken)
        if due & DUE_WAKE_READER:
            self.link.wake()
        if due & DUE_SHUT:
            self.link.shut()
        if due & DUE_TELL:
            self.herald.signal()
        if due & DUE_FLUSH and not unserved:
            self.service.flush(self)
        if due & DUE_ACCEPT and self.acceptor is not None and not released:
            self.acceptor.notify(self)
        if due & DUE_LOOK and not unserved:
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
        if self.watched != WATCHED_STREAM:
            self.watched = WATCHED_STREAM
            self.due |= DUE_FLUSH
        return False

    cdef void send_later(self) noexcept nogil:
        """Something was queued that is to go along with what follows: an OPEN before the first
        message, the end of one connection before the beginning of the next. If nothing follows, the
        flusher writes it.
        """
        self.sent_at = tc_now()
        if self.watched == WATCHED_NOT:
            self.watched = WATCHED_LATER
            self.due |= DUE_FLUSH

    cdef int flush(self, uint64_t now) noexcept nogil:
        """The flusher's visit: writes the rest of a stream that pauses. Whether, and how closely,
        it is to be watched on: a Watched.
        """
        cdef int again
        self.lock()
        if now - min(self.sent_at, now) >= STREAM_END_NS or self.down:
            self.watched = WATCHED_NOT
        elif self.run <= STREAM_RUN and not wants_write(self.s):
            self.watched = WATCHED_LATER
        if wants_write(self.s) and now - min(self.sent_at, now) >= STREAM_PAUSE_NS:
            self.pump(FLUSH_ROUNDS)     # which watches again what it has to leave
        self.due &= ~DUE_FLUSH
        again = self.watched
        self.unlock()
        return again

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
                self.watched = WATCHED_STREAM
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
            if s.paused and s.answers == 0:
                self.due |= DUE_LOOK    # it may have been for what is written now
            if self.blocked or self.broken or self.down:
                break
        self.writing = False
        if s.phase == PHASE_CLOSED:
            self.take_down(True)
        elif self.down:
            self.due |= DUE_LOOK        # the keeper waits until nobody is at work
        elif self.blocked or self.broken:
            if self.reading != USER:
                self.due |= DUE_LOOK
            elif self.reader_waits:
                self.due |= DUE_WAKE_READER
        if self.others > 0 and self.reading == NOBODY:
            self.pass_role()    # a sender who slept while this went on may now need the peer

    # Waiting

    cdef void begin_wait(
        self, Waiter* waiter, Conn* conn, int wanted, uint64_t amount
    ) noexcept nogil:
        memset(waiter, 0, sizeof(Waiter))
        waiter.conn = conn
        waiter.wanted = wanted
        waiter.amount = amount
        waiter.renewals = self.s.renewals
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
            self.leave_role(waiter)

    cdef void leave_role(self, Waiter* waiter) noexcept nogil:
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
        if s.phase == PHASE_CLOSED:
            return True
        if conn is not NULL:
            if conn.lost != 0 or waiter.renewals != s.renewals:
                return True             # there is something to be told first
            if s.detached and (s.fails_detached or self.dormant) and conn.attached:
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
        if waiter.wanted == WANT_LINK:
            return not s.detached
        return session_is_done(s)

    cdef int wait_for(self, Waiter* waiter, int64_t timeout) noexcept nogil:
        """Waits until `waiter` is satisfied; `timeout` in ns, < 0 for none. A Waited."""
        cdef uint64_t deadline = 0
        cdef uint64_t until = longest_sleep()
        cdef int outcome
        if until != 0:
            until += tc_now()
        if timeout >= 0:
            deadline = tc_now() + <uint64_t> timeout + 1
            until = deadline if until == 0 else min(until, deadline)
        while not self.satisfied(waiter):
            outcome = self.await_change(waiter, until)
            if self.satisfied(waiter):
                break
            if outcome == WAITED_READY and until != 0 and tc_now() >= until:
                outcome = WAITED_TIMEOUT        # there is always something to read
            if outcome == WAITED_TIMEOUT and until != deadline:
                outcome = WAITED_SIGNAL
            if outcome != WAITED_READY:
                return outcome
        return WAITED_READY

    cdef bint needs_reader(self, const Waiter* waiter) noexcept nogil:
        """Whether it is for the peer to say what this waiter waits for.

        A sender held back by the link needs only that a writer, who is at work, goes on: reading in
        its stead would cost it a thread switch for every batch.
        """
        if self.s.paused:
            return False                # the keeper looks whether it can go on
        return (
            waiter.wanted != WANT_ROOM or self.blocked
            or send_room(self.s, waiter.conn, waiter.amount) != WAIT_LINK
        )

    cdef int await_change(self, Waiter* waiter, uint64_t deadline) noexcept nogil:
        """Reads, or sleeps until somebody wakes this waiter; something may have changed then."""
        cdef int outcome
        if self.down:
            if waiter.reader:
                self.leave_role(waiter)
            return self.park(waiter, deadline)
        if (
            not waiter.reader and self.reading == NOBODY and not self.looped
            and self.needs_reader(waiter)
        ):
            self.take_role(waiter)
        if not waiter.reader:
            return self.park(waiter, deadline)
        outcome = self.read_pass(deadline)
        if self.s.paused:
            self.leave_role(waiter)
        return outcome

    cdef int park(self, Waiter* waiter, uint64_t deadline) noexcept nogil:
        cdef long long microseconds = -1
        cdef uint64_t now
        cdef PyLockStatus status
        if waiter.parker is NULL:
            if self.parker_count > 0:
                self.parker_count -= 1
                waiter.parker = self.parkers[self.parker_count]
            else:
                # That takes Python's memory, for which a hook may wait for the GIL: see _memory.
                self.unlock()
                waiter.parker = PyThread_allocate_lock()
                PyThread_acquire_lock(waiter.parker, 0)
                self.lock()
                return WAITED_READY         # something may have happened meanwhile
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
            # Woken just then: take it, so that it is locked again, and nobody comes to release it.
            self.unlock()
            PyThread_acquire_lock(waiter.parker, 1)
            self.lock()
            status = PY_LOCK_ACQUIRED
        if status == PY_LOCK_ACQUIRED:
            return WAITED_READY
        return WAITED_SIGNAL if status == PY_LOCK_INTR else WAITED_TIMEOUT

    cdef void wake(self, Waiter* waiter) noexcept nogil:
        if waiter.told_by is not NULL:
            if not waiter.woken:
                waiter.woken = True
                if self.herald.add(waiter):
                    self.due |= DUE_TELL
        elif waiter.reader:
            if self.reader_waits:
                self.due |= DUE_WAKE_READER
            self.stirred = True
        elif waiter.parked and not waiter.woken:
            self.unpark_later(waiter)

    cdef void unpark_later(self, Waiter* waiter) noexcept nogil:
        """Unparks a waiter once the lock is released, which is the first thing that it will want.

        Until then it stays where it is: who was woken does not go on before.
        """
        waiter.woken = True
        waiter.woken_next = self.woken
        self.woken = waiter
        self.due |= DUE_UNPARK

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
                self.take_down(True)
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
        if self.down:
            self.due |= DUE_LOOK        # the keeper waits until nobody is at work
            return
        while waiter is not NULL:
            if (
                waiter.parked and not waiter.woken and not self.looped
                and self.needs_reader(waiter)
            ):
                self.take_role(waiter)
                self.unpark_later(waiter)
                return
            waiter = waiter.next
        if self.s.paused:
            self.owned = True
        if self.blocked or self.s.paused:
            self.due |= DUE_LOOK

    cdef void leave_to_keeper(self) noexcept nogil:
        """A connection has ended here, and whoever read for it will hardly come back.

        On a server, what comes next may be for nobody who waits on this link: the thread that
        accepts waits for all of them. So the keeper reads from now on, not only after a while.
        """
        if (
            self.acceptor is not None and self.reading == NOBODY and not self.owned
            and not self.looped and self.s.accept_first is NULL
        ):
            self.owned = True
            self.due |= DUE_LOOK

    cdef int read_pass(self, uint64_t deadline) noexcept nogil:
        """One read by a waiting thread that has the role. A Waited."""
        cdef int events, wanted
        cdef int64_t timeout = -1
        cdef uint64_t now, until
        cdef size_t least
        if self.down:
            return WAITED_READY
        self.stirred = False
        if wants_write(self.s) and not self.writing and not may_wait(self.s):
            self.pump(INLINE_ROUNDS)    # what the peer may be waiting for
        if not self.drained and self.read_once() or self.s.paused:
            return WAITED_READY
        if self.s.direct is not NULL and self.link.quick and self.await_rest():
            return WAITED_READY
        if self.busy_poll_ns > 0:
            until = tc_now() + self.busy_poll_ns
            while True:
                if self.read_once() or self.s.paused or self.stirred:
                    return WAITED_READY
                if self.blocked:        # nobody else looks whether the kernel takes more
                    self.blocked = False
                    self.pump(INLINE_ROUNDS)
                self.unlock()
                self.link.give_way()
                self.lock()
                now = tc_now()
                if now >= until or (deadline != 0 and now >= deadline):
                    break
        if deadline != 0:
            now = tc_now()
            timeout = <int64_t> (deadline - now) if now < deadline else 0
        if self.stirred:
            return WAITED_READY         # while the lock was free: it looks again
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

    cdef bint await_rest(self) noexcept nogil:
        """Tries for the rest of a chunk that has begun, for as long as it is worth it. Whether
        something came, or there is something else to look at.
        """
        cdef State* s = self.s
        cdef uint64_t chunk = s.sequence
        cdef uint64_t begun = s.bytes_received
        cdef uint64_t until
        if self.rest_pause > 0:
            self.rest_pause -= 1
            return False
        until = tc_now() + REST_NS
        while not self.blocked:         # else it is also for the kernel to take more
            if not self.read_once():
                self.unlock()
                self.link.give_way()
                self.lock()
            if s.sequence != chunk or s.direct is NULL:
                self.rest_missed = 0
                return True
            if s.paused or self.stirred or self.down:
                return True
            if tc_now() >= until:
                break
        if s.bytes_received - begun >= REST_LEAST:
            self.rest_missed = 0
        else:
            self.rest_missed = min(2 * self.rest_missed + 1, <uint32_t> REST_SELDOM - 1)
            self.rest_pause = self.rest_missed
        return s.bytes_received != begun

    cdef bint read_once(self) noexcept nogil:
        """Takes in what is there, and tells everybody. The caller has the reader's role.

        False when there was nothing, or nothing may be taken now. Afterwards, `drained` says
        whether there can be more.
        """
        cdef State* s = self.s
        cdef Span[2] spans
        cdef int count = targets(s, spans)
        cdef int index
        cdef size_t asked = 0
        cdef Py_ssize_t result
        if count == 0 or self.down:
            self.dispatch()
            return not s.paused
        for index in range(count):
            asked += spans[index].length
        self.unlock()
        result = self.link.read(spans, count)
        self.lock()
        if result > 0:
            received(s, <size_t> result, tc_now())
            self.drained = <size_t> result < asked and not s.paused
        elif result == OUTCOME_AGAIN:
            self.drained = True
            return False
        else:
            self.take_down(False)
        self.dispatch()
        if wants_write(s) and not self.writing:
            if may_wait(s) and not self.unserved:
                self.send_later()
            else:
                self.pump(INLINE_ROUNDS)
        return True

    # Ending

    cdef void take_down(self, bint for_good) noexcept nogil:
        """Shuts the link, and ends the session too, if it is not kept. All who wait find out."""
        cdef State* s = self.s
        if self.down and (not for_good or self.released):
            return
        if s.phase != PHASE_CLOSED and not for_good and self.keeps and session_is_kept(s):
            s.detached = True
            s.unusual = True
        else:
            state_lost(s)
            s.detached = False
            self.due |= DUE_ACCEPT
        if not self.down:
            self.down = True
            self.due |= DUE_SHUT
        self.due |= DUE_LOOK
        self.wake_all()

    cdef void wake_all(self) noexcept nogil:
        cdef Waiter* waiter = self.first
        while waiter is not NULL:
            self.wake(waiter)
            waiter = waiter.next

    cdef void close_here(self) noexcept nogil:
        if self.s.phase == PHASE_CLOSED and self.writing:
            return                      # what the peer is told of its fault is just going out
        if self.s.phase != PHASE_CLOSED:
            self.closed_here = not self.s.goaway_received or self.s.goaway_sent
        self.take_down(True)

    cdef bint take_loose(self) noexcept nogil:
        """Whether the caller is to call `ended`: all is over, and no keeper is there to do it."""
        if not self.loose or self.s.phase != PHASE_CLOSED or self.released:
            return False
        self.released = True
        return True

    cdef void ask_for_ack(self) noexcept nogil:
        """Behind the last frame, a PING brings the ack of all of it at once."""
        if self.down or self.s.phase != PHASE_OPEN:
            return
        if self.s.queue.acked < self.s.queue.sequence:
            send_ask(self.s, tc_now())
            self.pump(INLINE_ROUNDS)

    # With the GIL

    cdef object wait_with_gil(
        self, Conn* conn, int wanted, uint64_t amount, int64_t timeout, int64_t renewals=-1
    ):
        """Waits without lock and GIL. None when satisfied; `Timeout` when it took too long.

        `amount` may mean something in the session with this number of `renewals` only.
        """
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
                if renewals >= 0:
                    waiter.renewals = <uint32_t> renewals
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

    @property
    def peer_certificate(self):
        """The peer's, as `ssl.SSLSocket.getpeercert` gives it; None: none that was checked."""
        cdef Link link
        self.lock()
        link = self.link            # another one may be on its way
        self.unlock()
        return link.certificate

    @property
    def is_over(self):
        return self.s.phase == PHASE_CLOSED or self.generation != _generation

    @property
    def is_detached(self):
        return self.s.detached

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
