"""The engine: who reads and who writes, for one session over one link.

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
- Who waits, and how it is woken, is in `_waiting`.
- Everything that calls out of here (a system call, the keeper, the flusher, an acceptor) happens
  without the lock: it is noted in `due` and done by `unlock`.
- An event loop reads its links, as the keeper does, when it finds something there (`looped`); a
  thread never reads in its stead.

Lock order: the session's lock, then nothing but a herald's, for its list. While one is held, nobody
waits for the GIL; a thread that has the GIL may wait for the lock. So between `nogil` and its end,
the lock is always released before the GIL comes back.
"""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from tcpconn._link cimport (
    OUTCOME_AGAIN,
    OUTCOME_INTERRUPTED,
    READY_READ,
    READY_WRITE,
    Link,
)
from tcpconn._process cimport current_generation, longest_sleep
from tcpconn._receive cimport received, targets, unpost
from tcpconn._routes cimport conn_release, next_event, state_lost
from tcpconn._send cimport (
    SPANS,
    WAIT_LINK,
    may_wait,
    prepare,
    send_ask,
    send_room,
    wants_write,
    wrote,
)
from tcpconn._lifecycle cimport session_is_kept
from tcpconn._session cimport Session
from tcpconn._state cimport *
from tcpconn._sync cimport Span, tc_mutex_lock, tc_mutex_unlock, tc_now
from tcpconn._waiting cimport (
    DUE_ACCEPT,
    DUE_FLUSH,
    DUE_LOOK,
    DUE_SHUT,
    DUE_TELL,
    DUE_UNPARK,
    DUE_WAKE_READER,
    WAITED_READY,
    WAITED_SIGNAL,
    WAITED_TIMEOUT,
    WANT_ROOM,
    Waiter,
    Waiting,
    unpark,
)

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
    WAKE_MOST = 65536           # bytes of a chunk that a reader sleeps for: it could copy meanwhile
    # So long a reader tries again for the rest of a chunk before it sleeps: its sender is copying,
    # on another core, and to sleep and be woken takes longer than that. Where neither all of it nor
    # so much comes meanwhile (no network is as fast, nor is a sender who has to share our core), it
    # is tried ever more seldom, down to one time in so many.
    REST_NS = 30000
    REST_LEAST = 32768
    REST_SELDOM = 16


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
cdef class Engine(Waiting):
    def __cinit__(self, Session session, Link link, Service service, Acceptor acceptor=None):
        options = session.options
        self.session = session
        self.s = session.s
        self.link = link
        self.service = service
        self.acceptor = acceptor
        self.generation = current_generation()
        self.owned = True
        self.began_at = tc_now()
        self.used_at = self.began_at
        self.handshake_ns = <uint64_t> (options.handshake_timeout * 1e9)
        self.busy_poll_ns = <uint64_t> (options.busy_poll * 1e9)

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

    cdef void end_wait(self, Waiter* waiter) noexcept nogil:
        self.drop_waiter(waiter)
        if waiter.reader:
            self.leave_role(waiter)

    cdef void leave_role(self, Waiter* waiter) noexcept nogil:
        waiter.reader = False
        self.reading = NOBODY
        self.left_at = self.s.now
        if self.s.posted_by is not NULL:
            unpost(self.s)
        self.pass_role()

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

    cdef void dispatch(self) noexcept nogil:
        """Tells those who wait what the session says has happened."""
        cdef State* s = self.s
        cdef Conn* conn
        cdef uint32_t events
        cdef uint32_t happened
        cdef bint look = False
        cdef bint over = (s.happened & HAPPENED_CLOSED) != 0
        if over:
            self.wake_all(self.unserved)      # else the keeper goes on with it
        while True:
            conn = next_event(s)
            if conn is NULL:
                break
            events = conn.events
            conn.events = 0
            if conn.waiters is not NULL and events & (EVENT_MESSAGE | EVENT_END) and not over:
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
        self.wake_all(self.unserved)

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
            self.back(&waiter)
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
        return self.s.phase == PHASE_CLOSED or self.generation != current_generation()

    @property
    def is_detached(self):
        return self.s.detached
