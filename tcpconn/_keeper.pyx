"""The keeper and the flusher: a thread each per process and kind of link, while there are links.

The keeper waits for all links that nobody reads, and visits each engine when something came, when
asked to (`look`) and when a time is over. The flusher looks after streams: while senders send so
fast that frames gather before they are written, it writes what is left when a stream pauses. Both
hold the GIL only to let go of a link that has ended.
"""

cimport cython
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint64_t

from tcpconn._driver cimport Driver
from tcpconn._engine cimport (
    INLINE_ROUNDS,
    KEEPER,
    NOBODY,
    USER,
    VISIT_DROP,
    VISIT_NEVER,
    WATCHED_NOT,
    WATCHED_STREAM,
    Engine,
    Service,
)
from tcpconn._frame cimport Fault, fault_set
from tcpconn._link cimport READY_END, READY_READ, READY_WRITE, Link, Poller, StdlibPoller
from tcpconn._memory cimport memory_free, memory_resize
from tcpconn._resume cimport session_unlink
from tcpconn._routes cimport state_fail
from tcpconn._send cimport wants_write
from tcpconn._lifecycle cimport (
    session_deadline,
    session_goaway,
    session_is_done,
    session_is_silent,
    session_is_unused,
    session_tick,
)
from tcpconn._state cimport HAPPENED_CLOSED, PHASE_CLOSED, PHASE_OPEN, State
from tcpconn._sync cimport (
    PyThread_acquire_lock,
    PyThread_acquire_lock_timed,
    PyThread_allocate_lock,
    PyThread_free_lock,
    PyThread_release_lock,
    tc_mutex_destroy,
    tc_mutex_init,
    tc_mutex_lock,
    tc_mutex_unlock,
    tc_now,
)
from tcpconn._waiting cimport DUE_LOOK, DUE_TELL
from tcpconn._wire cimport ACK_DELAY_NS, CODE_TIMEOUT

import os
import socket
import threading

from tcpconn._link import StdlibLink


cdef enum:
    EVENTS = 64
    # How long a link is left alone after its reader left, before the keeper takes it over: longer
    # than whoever works in request and reply stays away.
    TAKE_OVER_NS = 5000000
    ROUSE_NS = 1000000          # how often it is tried to tell one more thread of an end
    PAUSE_NS = 5000000          # how often a session that waits for memory is looked at
    KEEPER_READS = 16           # reads of one link before another's turn comes
    FIRST_USE_NS = 1000000000   # how long a link stays at least before it had its first connection
    SUSPICION_NS = 500000000    # how long a silent peer has, after that was noticed, to be heard
    # What is due is done together. To look for it is a walk over all links: the more there are, the
    # longer the pause behind one, but no ack may come too late for it (PROTOCOL.md, section 8).
    DUE_PAUSE_NS = 2000         # for each link
    DUE_PAUSE_MOST_NS = 10000000
    LOOP_SLACK_NS = 1000000000  # whom a loop has not heard for so long may have spoken all the same
    # How long a link that its loop has read is still visited, so that the loop need not ask for it:
    # that is a system call, and wakes the keeper.
    LOOP_HEED_NS = 100000000
    FLUSH_TICK_US = 250         # how often the flusher looks whether a stream has paused,
    LATER_TICK_US = 1000        # and whether anything still waits that was to go with what follows

cdef uint64_t FAR = <uint64_t> 1 << 62


cdef uint64_t visit(Engine engine, int events, uint64_t now) noexcept nogil:
    """What the keeper does for a link: reads if nobody else does, keeps the time, cleans up.

    Returns when to come again (ns), VISIT_NEVER or VISIT_DROP. The link is armed afterwards for
    what `want` says.
    """
    cdef State* s = engine.s
    cdef uint64_t next_at = 0
    cdef uint64_t at
    cdef int _
    cdef Fault fault
    engine.lock()
    if events & READY_WRITE:
        engine.blocked = False
    if engine.looped and (
        events & READY_END          # some loops tell of that only once
        # Perhaps its loop is held up: the peer must not think us dead.
        or now - min(s.heard_at, now) >= LOOP_SLACK_NS
    ):
        events |= READY_READ
    elif engine.looped:
        events &= ~READY_READ
    if (events & READY_READ or s.paused) and engine.reading == NOBODY and not engine.down:
        engine.reading = KEEPER
        engine.drained = False
        for _ in range(KEEPER_READS):
            if not engine.read_once() or engine.drained or engine.down:
                break
        engine.reading = NOBODY
        engine.pass_role()
    # Looked at again under the lock: what was just read may have set the times that are
    # compared with it.
    now = tc_now()
    session_tick(s, now)
    if s.happened & HAPPENED_CLOSED:
        engine.dispatch()
    if not engine.down and s.phase < PHASE_OPEN and now >= engine.began_at + engine.handshake_ns:
        if s.renewals != 0:
            engine.take_down(False)     # it had a session before: another link will do
        else:
            fault_set(&fault, CODE_TIMEOUT, b"11", b"the handshake took too long")
            state_fail(s, &fault)
            engine.dispatch()
    if not session_is_silent(s, now):
        engine.suspect_at = 0
    elif engine.suspect_at == 0:
        # This process may have been stopped for a while: whoever reads is given time to.
        engine.suspect_at = now
    elif now - engine.suspect_at >= SUSPICION_NS and not engine.down:
        engine.take_down(False)
    if not engine.down and engine.idle_ns > 0 and s.phase == PHASE_OPEN and session_is_unused(s):
        at = engine.used_at + engine.idle_ns
        if s.in_route == 0 and s.out_route == 0:
            # Who made it is about to open its first connection.
            at = max(at, engine.began_at + FIRST_USE_NS)
        if now >= at:
            session_goaway(s)
    if wants_write(s) and not engine.writing:
        engine.pump(INLINE_ROUNDS)
    if (s.goaway_sent or s.goaway_received) and not engine.down and session_is_done(s):
        engine.close_here()
    if engine.rousing:
        engine.rouse()
    if engine.down:
        next_at = now + 1000000
        if engine.looped:
            # Its loop says so when it has let go of the descriptor. Else it is told to.
            next_at = now + TAKE_OVER_NS
            if engine.held and engine.herald.release_links():
                engine.due |= DUE_TELL
            engine.held = True
        elif (
            engine.reading == NOBODY and not engine.writing and engine.outside == 0
            and not engine.rousing
        ):
            engine.due &= ~DUE_LOOK
            if engine.due == 0:
                engine.unserved = True
                engine.released = s.phase == PHASE_CLOSED
                if s.phase != PHASE_CLOSED:
                    session_unlink(s)
                next_at = VISIT_DROP
        engine.want = 0
        engine.unlock()
        return next_at
    # When to come again: while somebody reads, to see whether they still do, and because what they
    # read sets times (acks that are owed).
    if engine.looped:
        if engine.heeded and now - min(s.heard_at, now) < LOOP_HEED_NS:
            next_at = now + ACK_DELAY_NS        # an ack that is owed since now is due then
        else:
            engine.heeded = False
    if not engine.owned and not engine.looped:
        if engine.reading == NOBODY and now - min(engine.left_at, now) >= TAKE_OVER_NS:
            engine.owned = True
        else:
            next_at = now + TAKE_OVER_NS
    if s.paused:
        next_at = now + PAUSE_NS
    if engine.rousing:
        next_at = now + ROUSE_NS
    at = session_deadline(s)
    if at != 0 and (next_at == 0 or at < next_at):
        next_at = at
    if s.silence_ns != 0 and s.phase == PHASE_OPEN:
        at = s.heard_at + s.silence_ns
        if engine.suspect_at != 0:
            at = engine.suspect_at + SUSPICION_NS
        if next_at == 0 or at < next_at:
            next_at = at
    at = 0
    if s.phase < PHASE_OPEN:
        at = engine.began_at + engine.handshake_ns
    elif engine.idle_ns > 0:
        # A used link is looked at in idle_ns's time: not worth a wake-up when it becomes idle.
        at = max(engine.used_at + engine.idle_ns, now + engine.idle_ns // 4)
        if s.in_route == 0 and s.out_route == 0:
            at = max(at, engine.began_at + FIRST_USE_NS)
    if at != 0 and (next_at == 0 or at < next_at):
        next_at = at
    engine.want = 0
    if engine.owned and engine.reading != USER and not s.paused:
        engine.want |= READY_READ     # one who polls is done in a moment, and tells nobody
    if engine.blocked and engine.reading != USER:
        engine.want |= READY_WRITE
    if engine.looped and not s.paused:
        engine.want |= READY_END
    engine.due &= ~DUE_LOOK       # this is the look
    engine.unlock()
    return next_at


@cython.no_gc_clear  # what its end still needs must outlive it, in a cycle too
cdef class Keeper(Service):
    """Serves engines of one kind of link. Ends when it has none left; a new one is made then."""

    def __cinit__(self, Poller poller):
        tc_mutex_init(&self.mutex)
        self.poller = poller
        self.flusher_parker = PyThread_allocate_lock()
        PyThread_acquire_lock(self.flusher_parker, 0)
        self.next_at = FAR
        self.threads = []

    def __dealloc__(self):
        memory_free(self.engines)
        PyThread_free_lock(self.flusher_parker)
        tc_mutex_destroy(&self.mutex)

    def reserve(self):
        """Stays for an engine to come. False when it is about to end: then ask another."""
        cdef bint stopping
        tc_mutex_lock(&self.mutex)
        stopping = self.stopping
        if not stopping:
            self.registered += 1
        tc_mutex_unlock(&self.mutex)
        return not stopping

    def cancel(self):
        """The engine does not come."""
        cdef bint unused
        tc_mutex_lock(&self.mutex)
        self.registered -= 1
        unused = self.registered == 0 and not self.started
        if unused:
            self.stopping = True
        tc_mutex_unlock(&self.mutex)
        if unused:
            self.poller.release()
        else:
            self.poller.wake()

    def register(self, Engine engine):
        """Takes an engine into its care, for which there is a reservation."""
        engine.kept = False
        engine.dropping = False
        engine.armed = 0
        engine.visit_at = FAR
        try:
            self.poller.register(engine.link, <void*> engine)
        except BaseException:
            self.cancel()
            raise
        Py_INCREF(engine)       # given back when the link has ended
        if not self.threads:
            self.started = True
            self.threads = [
                threading.Thread(target=self.keep, name="tcpconn-keeper", daemon=True),
                threading.Thread(target=self.write, name="tcpconn-flusher", daemon=True),
            ]
            # The keeper last: it may end at once, and then waits for the flusher's end.
            for thread in reversed(self.threads):
                thread.start()
        self.look(engine)

    cdef void look(self, Engine engine) noexcept nogil:
        tc_mutex_lock(&self.mutex)
        if not engine.look_listed:
            engine.look_listed = True
            engine.look_next = self.look_first
            self.look_first = <void*> engine
        tc_mutex_unlock(&self.mutex)
        self.poller.wake()

    cdef void flush(self, Engine engine) noexcept nogil:
        cdef bint wake
        tc_mutex_lock(&self.mutex)
        self.flush_list(<void*> engine)
        wake = self.flusher_sleeps or self.flusher_naps
        self.flusher_sleeps = False
        self.flusher_naps = False
        tc_mutex_unlock(&self.mutex)
        if wake:
            PyThread_release_lock(self.flusher_parker)

    # The keeper's thread

    def keep(self):
        """Runs until there is nothing left to keep."""
        cdef bint last = False
        while not last:
            with nogil:
                self.loop()
            last = self.let_go()

    cdef void loop(self) noexcept nogil:
        """Keeps links until one is to be let go."""
        cdef void* keys[EVENTS]
        cdef int events[EVENTS]
        cdef int found, index
        cdef uint64_t now, at
        cdef int64_t timeout
        while self.dropped_first is NULL:
            timeout = -1
            if self.next_at < FAR:
                now = tc_now()
                at = max(self.next_at, self.walk_at)
                timeout = <int64_t> (at - now) if at > now else 0
            found = self.poller.wait(keys, events, EVENTS, timeout)
            now = tc_now()
            for index in range(found):
                (<Engine> keys[index]).armed = 0
                self.visit(keys[index], events[index], now)
            self.take_looks(now)
            if now >= self.next_at and now >= self.walk_at:
                self.visit_due(now)
            tc_mutex_lock(&self.mutex)
            if self.registered == 0:
                self.stopping = True
            tc_mutex_unlock(&self.mutex)
            if self.stopping:
                return

    cdef void take_looks(self, uint64_t now) noexcept nogil:
        cdef void* key
        cdef void* following
        cdef void** larger
        tc_mutex_lock(&self.mutex)
        key = self.look_first
        self.look_first = NULL
        tc_mutex_unlock(&self.mutex)
        while key is not NULL:
            following = (<Engine> key).look_next
            # From here on a look is a new one: what happens now may come too late for this visit.
            tc_mutex_lock(&self.mutex)
            (<Engine> key).look_listed = False
            tc_mutex_unlock(&self.mutex)
            if not (<Engine> key).kept:
                if self.count == self.capacity:
                    larger = <void**> memory_resize(
                        self.engines, (2 * self.capacity + 16) * sizeof(void*)
                    )
                    if larger is not NULL:
                        self.engines = larger
                        self.capacity = 2 * self.capacity + 16
                if self.count < self.capacity:
                    (<Engine> key).kept = True
                    (<Engine> key).place = self.count
                    self.engines[self.count] = key
                    self.count += 1
            self.visit(key, 0, now)
            key = following

    cdef void visit(self, void* key, int events, uint64_t now) noexcept nogil:
        cdef uint64_t at
        cdef int want
        if (<Engine> key).dropping:
            return
        at = visit(<Engine> key, events, now)
        if at == VISIT_DROP:
            if self.forget(key):
                return
            at = now + 1000000      # the flusher is at it: soon
        (<Engine> key).visit_at = at if at != VISIT_NEVER else FAR
        if (<Engine> key).visit_at < self.next_at:
            self.next_at = (<Engine> key).visit_at
        want = (<Engine> key).want
        if want & ~(<Engine> key).armed or (want and (<Engine> key).link.layered):
            (<Engine> key).armed = want
            self.poller.watch((<Engine> key).link, key, want)

    cdef void visit_due(self, uint64_t now) noexcept nogil:
        cdef size_t index = 0
        cdef void* key
        self.next_at = FAR
        self.walk_at = now + min(self.count * DUE_PAUSE_NS, <uint64_t> DUE_PAUSE_MOST_NS)
        while index < self.count:
            key = self.engines[index]
            if (<Engine> key).visit_at <= now:
                self.visit(key, 0, now)
            elif (<Engine> key).visit_at < self.next_at:
                self.next_at = (<Engine> key).visit_at
            # `forget` puts another engine into this place.
            if index < self.count and self.engines[index] is key:
                index += 1

    cdef bint forget(self, void* key) noexcept nogil:
        """Takes an engine whose link is done with out of all lists. False: the flusher has it."""
        cdef void* at
        cdef void* before = NULL
        cdef bint busy
        tc_mutex_lock(&self.mutex)
        busy = self.flushing is key
        if not busy and (<Engine> key).flush_listed:
            at = self.flush_first
            while at is not key:
                before = at
                at = (<Engine> at).flush_next
            if before is NULL:
                self.flush_first = (<Engine> key).flush_next
            else:
                (<Engine> before).flush_next = (<Engine> key).flush_next
            if self.flush_last is key:
                self.flush_last = before
            self.flush_count -= 1
            (<Engine> key).flush_listed = False
        if not busy and (<Engine> key).look_listed:
            before = NULL
            at = self.look_first
            while at is not NULL and at is not key:
                before = at
                at = (<Engine> at).look_next
            if at is not NULL:
                if before is NULL:
                    self.look_first = (<Engine> key).look_next
                else:
                    (<Engine> before).look_next = (<Engine> key).look_next
            (<Engine> key).look_listed = False
        tc_mutex_unlock(&self.mutex)
        if busy:
            return False
        if (<Engine> key).kept:
            self.count -= 1
            at = self.engines[self.count]
            self.engines[(<Engine> key).place] = at
            (<Engine> at).place = (<Engine> key).place
        (<Engine> key).dropping = True
        (<Engine> key).drop_next = self.dropped_first
        self.dropped_first = key
        return True

    cdef bint let_go(self):
        """With the GIL: ends what `forget` has put aside. True: there is nothing left to keep."""
        cdef void* key = self.dropped_first
        cdef void* following
        cdef bint stopping
        ended = []
        self.dropped_first = NULL
        while key is not NULL:
            following = (<Engine> key).drop_next
            engine = <Engine> key
            self.poller.unregister((<Engine> engine).link)
            ended.append(engine)
            Py_DECREF(engine)
            key = following
        tc_mutex_lock(&self.mutex)
        self.registered -= <size_t> len(ended)
        if self.registered == 0:
            self.stopping = True
        stopping = self.stopping
        tc_mutex_unlock(&self.mutex)
        if stopping:
            PyThread_release_lock(self.flusher_parker)
            self.threads[1].join()
            self.poller.release()
        for engine in ended:
            try:
                engine.finished()
            except Exception:
                _log_failure()
        return stopping

    # The flusher's thread

    def write(self):
        """Runs until the keeper ends."""
        with nogil:
            self.flush_loop()

    cdef void flush_loop(self) noexcept nogil:
        cdef size_t turns
        cdef bint streams = True
        while True:
            tc_mutex_lock(&self.mutex)
            turns = self.flush_count
            self.flusher_sleeps = turns == 0
            self.flusher_naps = turns > 0 and not streams
            tc_mutex_unlock(&self.mutex)
            if self.stopping:
                return
            if turns == 0:
                PyThread_acquire_lock(self.flusher_parker, 1)
                streams = True
                continue
            if streams:
                PyThread_acquire_lock_timed(self.flusher_parker, FLUSH_TICK_US, 0)
            elif PyThread_acquire_lock_timed(self.flusher_parker, LATER_TICK_US, 0):
                streams = True          # somebody has begun to
                continue
            streams = False
            while turns > 0:
                turns -= 1
                streams |= self.flush_one()

    cdef bint flush_one(self) noexcept nogil:
        """Looks after the stream whose turn it is. Whether it goes on."""
        cdef void* key
        cdef int again
        tc_mutex_lock(&self.mutex)
        key = self.flush_first
        if key is NULL:
            tc_mutex_unlock(&self.mutex)
            return False
        self.flush_first = (<Engine> key).flush_next
        if self.flush_first is NULL:
            self.flush_last = NULL
        self.flush_count -= 1
        # From here on it may be put into the list again: what is queued now may come too late for
        # this turn.
        (<Engine> key).flush_listed = False
        self.flushing = key
        tc_mutex_unlock(&self.mutex)
        again = (<Engine> key).flush(tc_now())
        tc_mutex_lock(&self.mutex)
        if again != WATCHED_NOT:
            self.flush_list(key)
        self.flushing = NULL
        tc_mutex_unlock(&self.mutex)
        return again == WATCHED_STREAM

    cdef void flush_list(self, void* key) noexcept nogil:
        if (<Engine> key).flush_listed:
            return
        (<Engine> key).flush_listed = True
        (<Engine> key).flush_next = NULL
        if self.flush_last is NULL:
            self.flush_first = key
        else:
            (<Engine> self.flush_last).flush_next = key
        self.flush_last = key
        self.flush_count += 1


def _log_failure():
    import logging
    logging.getLogger("tcpconn").exception("an error while a link was closed")


_keepers = {}
_starting = threading.Lock()

try:
    from tcpconn._link_linux import EpollPoller, NativeLink
except ImportError:
    EpollPoller = NativeLink = None


def make_link(stream, kind):
    """The link class for `kind` ("auto", "native", "stdlib") around a connected socket.

    A stream through TLS, whose handshake is done, gives a link through TLS. Raises `ValueError` for
    "native" where there is none.
    """
    if not isinstance(stream, socket.socket):
        return stream.link(make_link(stream.socket, kind))
    if kind == "stdlib" or (kind == "auto" and NativeLink is None):
        return StdlibLink(stream)
    if NativeLink is None:
        raise ValueError("link='native' exists on Linux only; use 'stdlib' or 'auto'")
    return NativeLink(stream)


def make_poller(link):
    """A poller for links of the same kind."""
    if isinstance(link, StdlibLink):
        return StdlibPoller()
    if NativeLink is not None and isinstance(link, NativeLink):
        return EpollPoller()
    from tcpconn._link_tls import TlsPoller
    return TlsPoller(make_poller(link.under))


def keeper_for(link):
    """The keeper that looks after links of this kind; a new one if the last has ended."""
    kind = (type(link), type(getattr(link, "under", None)))
    keeper = _keepers.get(kind)
    if keeper is None or (<Keeper> keeper).stopping:
        keeper = _keepers[kind] = Keeper(make_poller(link))
    return keeper


def reserve_keeper(link):
    """A keeper that stays for the engine of this link."""
    while True:
        with _starting:
            keeper = keeper_for(link)
            if keeper.reserve():
                return keeper


def make_engine(session, link, acceptor=None, prepare=None):
    """An engine in the care of a keeper; `prepare(engine)` is called before others see it."""
    keeper = reserve_keeper(link)
    try:
        engine = Driver(session, link, keeper, acceptor)
        if prepare is not None:
            prepare(engine)
    except BaseException:
        keeper.cancel()
        raise
    with _starting:
        keeper.register(engine)
    return engine


def attach_link(engine, link, received=None):
    """Gives an engine without a link another one; `received` as in `Driver.attach`. Whether it took
    it.
    """
    keeper = reserve_keeper(link)
    try:
        taken = engine.attach(link, keeper, received)
    except BaseException:
        keeper.cancel()
        raise
    if not taken:
        keeper.cancel()
        (<Link> link).release()
        return False
    with _starting:
        keeper.register(engine)
    engine.go_on()
    if engine.on_link is not None:
        engine.on_link()
    return True


def join_ended_keepers(timeout):
    """Waits until keepers that are about to end have ended (seconds)."""
    for keeper in list(_keepers.values()):
        if (<Keeper> keeper).stopping:
            for thread in keeper.threads:
                if thread is not threading.current_thread():
                    thread.join(timeout)


def _forget_keepers():
    # Their threads do not exist in a forked child.
    global _starting
    _keepers.clear()
    _starting = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_keepers)
