"""Who waits for what, in one session, and how each is woken."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from tcpconn._state cimport Conn, State
from tcpconn._sync cimport PyThread_type_lock

cdef enum:
    PARKERS = 16                # thread locks kept for waiters to come

cdef enum Wanted:               # what a waiter waits for
    WANT_MESSAGE                # an unread message, or the end of the peer's direction
    WANT_ROOM                   # room to send `amount` bytes
    WANT_CUT                    # `amount` messages of the connection in the send queue
    WANT_ACK                    # sequence numbers below `amount` acknowledged
    WANT_CONNECTION             # one that waits to be accepted
    WANT_OPEN                   # the end of the handshake
    WANT_DONE                   # nothing open and nothing unacknowledged
    WANT_PONG                   # the answer to the ping with token `amount`
    WANT_LINK                   # a link, when there is none

cdef enum Waited:
    WAITED_READY
    WAITED_TIMEOUT
    WAITED_SIGNAL

cdef enum Due:                  # to be done as soon as the lock is released
    DUE_WAKE_READER = 1
    DUE_LOOK = 2                # the keeper should visit
    DUE_FLUSH = 4
    DUE_SHUT = 8
    DUE_ACCEPT = 16
    DUE_TELL = 32               # an event loop has been given something to look at
    DUE_UNPARK = 64

cdef struct Waiter:             # lives on its thread's stack, or in an object that a loop waits for
    Waiter* next                # in the engine's list
    Waiter* before
    Waiter* conn_next           # in its connection's, for WANT_MESSAGE
    Waiter* conn_before
    Conn* conn
    int wanted
    uint64_t amount
    uint32_t renewals           # of the session, as the wait began
    PyThread_type_lock parker
    bint parked
    bint woken                  # it is, or will be as soon as the lock is released
    bint roused                 # to be told of an end, and not back yet
    Waiter* woken_next          # the engine's list of those
    bint reader                 # it has the role
    void* told_by               # not a thread's: the object that its loop is to be told of
    Waiter* told_next           # the herald's list, and whether it is in it
    bint told


cdef class Herald:              # who tells an event loop that a wait of its is over
    cdef bint add(self, Waiter* waiter) noexcept nogil
    cdef bint release_links(self) noexcept nogil
    cdef void signal(self) noexcept nogil


cdef class Waiting:
    cdef Herald herald          # of the loop that this session belongs to; None: threads use it
    cdef State* s
    # Guarded by the session's lock:
    cdef int due                # Due
    cdef public bint dormant    # nobody sees to another link until the session is used
    cdef bint reader_waits      # the USER reader is in link.wait
    cdef bint stirred           # it is to look again before it goes there
    cdef Waiter* first          # all waiters
    cdef Waiter* last
    cdef Waiter* woken          # those to be unparked
    cdef bint rousing           # not all that are to be woken are yet: the keeper goes on
    cdef uint32_t others        # those that want something else than a message
    cdef PyThread_type_lock[PARKERS] parkers
    cdef uint32_t parker_count

    cdef void lock(self) noexcept nogil
    cdef void unlock(self) noexcept nogil
    cdef void begin_wait(
        self, Waiter* waiter, Conn* conn, int wanted, uint64_t amount
    ) noexcept nogil
    cdef void drop_waiter(self, Waiter* waiter) noexcept nogil
    cdef bint satisfied(self, const Waiter* waiter) noexcept nogil
    cdef int park(self, Waiter* waiter, uint64_t deadline) noexcept nogil
    cdef void wake(self, Waiter* waiter) noexcept nogil
    cdef void unpark_later(self, Waiter* waiter) noexcept nogil
    cdef void wake_receivers(self, Conn* conn) noexcept nogil
    cdef void wake_others(self) noexcept nogil
    cdef void wake_all(self, bint at_once) noexcept nogil
    cdef void rouse(self) noexcept nogil
    cdef void back(self, Waiter* waiter) noexcept


cdef void unpark(Waiter* waiter) noexcept nogil
cdef int64_t as_timeout(object seconds) except? -2
