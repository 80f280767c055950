"""What a listener accepts from: engines line up when a peer opens a connection, without the GIL."""

cimport cython
from libc.stdint cimport int64_t, uint64_t

from tcpconn._engine cimport Acceptor, Engine
from tcpconn._process cimport longest_sleep
from tcpconn._sync cimport (
    PY_LOCK_INTR,
    PyLockStatus,
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
from tcpconn._waiting cimport as_timeout
from tcpconn._wire cimport CODE_NONE

import threading

from tcpconn._endpoint import accept_endpoint
from tcpconn.errors import TcpconnError


cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1


cdef bint has_broken_a_rule(Engine engine) noexcept:
    """Whether the peer has. Nothing that it opened is accepted then: those who do so again and
    again would fill the line.
    """
    cdef bint answer
    engine.lock()
    answer = engine.s.fault.code != CODE_NONE and not engine.s.fault_is_theirs
    engine.unlock()
    return answer


cdef bint has_left(Engine engine) noexcept:
    """Whether there is something to be accepted."""
    return engine.s.accept_first is not NULL and not has_broken_a_rule(engine)


@cython.no_gc_clear  # what its end still needs must outlive it, in a cycle too
cdef class AcceptQueue(Acceptor):
    """Hands out connections in the order in which their engines lined up, one of each in turn."""

    def __cinit__(self):
        tc_mutex_init(&self.mutex)
        self.ended = set()
        self.ended_lock = threading.RLock()     # to hold it may set off the collector

    def __dealloc__(self):
        tc_mutex_destroy(&self.mutex)

    cdef void notify(self, Engine engine) noexcept nogil:
        tc_mutex_lock(&self.mutex)
        if not engine.accept_ended:
            self.push(engine)
        tc_mutex_unlock(&self.mutex)
        self.lined_up()

    cdef void lined_up(self) noexcept nogil:
        """There may be something to accept. Without the mutex."""

    cdef void push(self, Engine engine) noexcept nogil:
        """With the mutex. An engine in the line lives: while it has a link, its keeper's is the
        reference that says so; behind that, `ended` has one.
        """
        if not engine.accept_listed:
            engine.accept_listed = True
            engine.accept_next = NULL
            if self.last is NULL:
                self.first = <void*> engine
            else:
                (<Engine> self.last).accept_next = <void*> engine
            self.last = <void*> engine
        self.wake_one()

    cdef void wake_one(self) noexcept nogil:
        cdef Sleeper* sleeper = self.sleepers
        if sleeper is not NULL:
            self.sleepers = sleeper.next
            sleeper.woken = True
            PyThread_release_lock(sleeper.parker)

    cdef object pop(self):
        cdef void* at
        engine = None
        tc_mutex_lock(&self.mutex)
        at = self.first
        if at is not NULL:
            engine = <Engine> at
            self.first = (<Engine> at).accept_next
            if self.first is NULL:
                self.last = NULL
            (<Engine> at).accept_listed = False
        tc_mutex_unlock(&self.mutex)
        return engine

    cdef void remove(self, Engine engine) noexcept nogil:
        """With the mutex: takes it out of the line, if it is there."""
        cdef void* at = self.first
        cdef void* before = NULL
        if not engine.accept_listed:
            return
        while at is not <void*> engine:
            before = at
            at = (<Engine> at).accept_next
        if before is NULL:
            self.first = engine.accept_next
        else:
            (<Engine> before).accept_next = engine.accept_next
        if self.last is <void*> engine:
            self.last = before
        engine.accept_listed = False

    def ended_engine(self, Engine engine):
        """The link of an engine is gone. What came over it may still be accepted, in its turn,
        unless the peer broke the protocol.
        """
        cdef bint stays
        with self.ended_lock:
            stays = has_left(engine) and not self.closed
            if stays:
                self.ended.add(engine)
            tc_mutex_lock(&self.mutex)
            engine.accept_ended = True
            if stays:
                self.push(engine)
            else:
                self.remove(engine)
            tc_mutex_unlock(&self.mutex)
        if stays:
            self.lined_up()

    def holds_ended(self, Engine engine):
        """Whether there is still something to be accepted of an engine whose link is gone."""
        with self.ended_lock:
            return engine in self.ended

    cdef int had_turn(self, Engine engine) except -1:
        """An engine that was popped lines up again, if it has more."""
        cdef bint more = has_left(engine)
        cdef bint ended
        tc_mutex_lock(&self.mutex)
        ended = engine.accept_ended
        if more and not ended:
            self.push(engine)
        tc_mutex_unlock(&self.mutex)
        if ended:
            with self.ended_lock:
                more = more and not self.closed
                if more:
                    self.ended.add(engine)
                tc_mutex_lock(&self.mutex)
                if more:
                    self.push(engine)
                ended = engine.accept_listed    # if not by us, by who had it meanwhile
                tc_mutex_unlock(&self.mutex)
                if not ended:
                    self.ended.discard(engine)
        if more:
            self.lined_up()
        return 0

    def next(self, kind, timeout=None, bint asks=True):
        """The next connection, as an object of class `kind`; `asks` as in `accept_endpoint`.

        None when the time (seconds) is over or the queue is closed.
        """
        cdef int64_t limit = as_timeout(timeout)
        cdef uint64_t deadline = tc_now() + <uint64_t> max(limit, <int64_t> 0)
        cdef uint64_t now
        cdef long long microseconds, left
        while True:
            while True:
                engine = self.pop()
                if engine is None:
                    break
                endpoint = self.take(kind, engine, asks)
                if endpoint is not None:
                    return endpoint
            if self.closed:
                return None
            microseconds = <long long> (longest_sleep() // 1000) or -1
            if limit >= 0:
                now = tc_now()
                if now >= deadline:
                    return None
                left = <long long> ((deadline - now + 999) // 1000)
                microseconds = left if microseconds < 0 else min(microseconds, left)
            with nogil:
                self.sleep(microseconds)
            PyErr_CheckSignals()

    def take(self, kind, Engine engine, bint asks):
        """One connection of an engine that was in the line; it lines up again if it has more."""
        try:
            if not has_broken_a_rule(engine):
                return accept_endpoint(kind, engine, 0, asks)
        except TcpconnError:
            pass                        # gone, and nothing left of it
        finally:
            self.had_turn(engine)
        return None

    cdef void sleep(self, long long microseconds) noexcept nogil:
        """Waits for somebody to line up."""
        cdef Sleeper sleeper
        cdef Sleeper** at
        cdef PyLockStatus status
        sleeper.woken = False
        sleeper.parker = PyThread_allocate_lock()
        PyThread_acquire_lock(sleeper.parker, 0)
        tc_mutex_lock(&self.mutex)
        if self.first is not NULL or self.closed:
            tc_mutex_unlock(&self.mutex)
            PyThread_free_lock(sleeper.parker)
            return
        sleeper.next = self.sleepers
        self.sleepers = &sleeper
        tc_mutex_unlock(&self.mutex)
        status = PyThread_acquire_lock_timed(sleeper.parker, microseconds, 1)
        tc_mutex_lock(&self.mutex)
        at = &self.sleepers
        while at[0] is not NULL and at[0] is not &sleeper:
            at = &at[0].next
        if at[0] is &sleeper:
            at[0] = sleeper.next
        elif status == PY_LOCK_INTR and not self.closed and self.first is not NULL:
            self.wake_one()             # woken, but called away: another one goes
        tc_mutex_unlock(&self.mutex)
        PyThread_free_lock(sleeper.parker)

    def close(self):
        """Everybody who waits gets None."""
        cdef list left
        tc_mutex_lock(&self.mutex)
        self.closed = True
        while self.sleepers is not NULL:
            self.wake_one()
        tc_mutex_unlock(&self.mutex)
        with self.ended_lock:
            left = list(self.ended)
            self.ended.clear()
            for engine in left:
                tc_mutex_lock(&self.mutex)
                self.remove(engine)
                tc_mutex_unlock(&self.mutex)
