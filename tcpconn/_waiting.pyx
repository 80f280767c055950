"""Who waits for what, in one session: the waiters, when each is satisfied, and how it is woken.

A waiter is satisfied when its condition holds (`satisfied`). Who changes the state wakes those
whose condition came true; a waiter looks again under the lock before it sleeps. So no wake-up is
lost.

There are three ways to wake one (`wake`). A thread that sleeps on its parker is unparked, once the
lock is released. The thread that reads for the others is called back from its system call, or looks
again before the next. What waits in an event loop is put into the list of the loop's herald.
"""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset

from tcpconn._send cimport WAIT_ACK, WAIT_CREDIT, WAIT_LINK, send_room
from tcpconn._lifecycle cimport session_is_done
from tcpconn._state cimport *
from tcpconn._sync cimport (
    PY_LOCK_ACQUIRED,
    PY_LOCK_INTR,
    PyLockStatus,
    PyThread_acquire_lock,
    PyThread_acquire_lock_timed,
    PyThread_allocate_lock,
    PyThread_free_lock,
    PyThread_release_lock,
    tc_atomic_add,
    tc_atomic_get,
    tc_mutex_lock,
    tc_mutex_unlock,
    tc_now,
)

import os


cdef enum:
    LONGEST_WAIT_S = 1000000
    UNWRITTEN_RESUME = 131072   # senders held back by the link go on when so much is left to write
    ROUSED_MOST = 2             # threads on their way to the interpreter's lock to hear of an end

cdef int32_t _roused = 0        # how many there are


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
cdef class Waiting:
    def __dealloc__(self):
        cdef uint32_t index
        for index in range(self.parker_count):
            PyThread_free_lock(self.parkers[index])

    cdef void lock(self) noexcept nogil:
        tc_mutex_lock(&self.s.lock)

    cdef void unlock(self) noexcept nogil:
        """Releases the lock. What became due under it, whoever extends this does then."""
        tc_mutex_unlock(&self.s.lock)

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

    cdef void drop_waiter(self, Waiter* waiter) noexcept nogil:
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
        if waiter.roused:               # for nothing
            waiter.roused = False
            tc_atomic_add(&_roused, -1)
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

    cdef void wake_all(self, bint at_once) noexcept nogil:
        """There is an end to hear of. If not at once, threads that sleep are roused."""
        cdef Waiter* waiter = self.first
        while waiter is not NULL:
            if at_once or waiter.reader or not waiter.parked:
                self.wake(waiter)
            waiter = waiter.next
        if not at_once:
            self.rouse()
            if self.rousing:
                self.due |= DUE_LOOK

    cdef void rouse(self) noexcept nogil:
        """Wakes threads to hear of an end, a few at a time. `rousing`: there are more.

        That takes no haste, and each of them wants the interpreter's lock next: hundreds at once
        would keep it from everybody else for as long as they take together. So in the whole process
        there are never more than a few on their way to it. Who has got it rouses the next (`back`),
        and where other sessions' threads come first, the keeper tries again.
        """
        cdef Waiter* waiter = self.first
        self.rousing = False
        while waiter is not NULL:
            if (
                waiter.parked and not waiter.woken and not waiter.reader
                and self.satisfied(waiter)
            ):
                if tc_atomic_get(&_roused) >= ROUSED_MOST:
                    self.rousing = True
                    return
                tc_atomic_add(&_roused, 1)
                waiter.roused = True
                self.unpark_later(waiter)
            waiter = waiter.next

    cdef void back(self, Waiter* waiter) noexcept:
        """The waiter's thread has the interpreter's lock again. Without the session's lock."""
        if waiter.roused:
            waiter.roused = False
            tc_atomic_add(&_roused, -1)
        if self.rousing:
            self.lock()
            self.rouse()
            self.unlock()


def _forked():
    # Who was on the way does not exist in the child.
    global _roused
    _roused = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
