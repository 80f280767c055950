"""The engine: one session driven over one link by whoever waits on it."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from tcpconn._link cimport Link
from tcpconn._session cimport Session
from tcpconn._state cimport Conn
from tcpconn._waiting cimport Waiter, Waiting

cdef enum:
    INLINE_ROUNDS = 64          # batches that a thread writes itself before the flusher goes on
    STREAM_BATCH = 65536        # bytes that a stream's sender lets gather before it writes

cdef enum Reader:               # who has the role
    NOBODY
    USER                        # a thread that waits
    KEEPER

cdef enum Watched:              # by the flusher
    WATCHED_NOT
    WATCHED_LATER               # something may wait for what follows: that takes no haste
    WATCHED_STREAM

cdef enum:
    VISIT_NEVER = 0
    VISIT_DROP = 1


cdef class Engine               # below


cdef class Service:             # what the engine needs of the process's threads
    cdef void look(self, Engine engine) noexcept nogil
    cdef void flush(self, Engine engine) noexcept nogil


cdef class Acceptor:            # who accepts from many engines
    cdef void notify(self, Engine engine) noexcept nogil


cdef class Engine(Waiting):
    cdef readonly Session session
    cdef readonly Link link
    cdef Service service
    cdef readonly Acceptor acceptor
    cdef public object on_end   # called once, with the GIL, when all is over
    cdef public object on_use   # called with the GIL when a dormant session is used
    cdef public object on_link  # called with the GIL when there is another link
    cdef public object on_detach  # called with the GIL when the link is gone and the session kept
    cdef public str local_address
    cdef public str peer_address
    cdef public object home     # a weak reference to the multiplexer
    cdef object __weakref__
    cdef int generation         # of the process: another one after a fork
    # Guarded by the session's lock:
    cdef int reading            # Reader
    cdef bint writing
    cdef bint blocked           # the kernel took less than it was given
    cdef bint broken            # it takes nothing more: what is left is to read what it gave
    cdef bint down              # the link is shut
    cdef bint unserved          # no keeper looks after it
    cdef bint loose             # there is no link, and nobody is at work on one
    cdef bint released          # nothing will come any more
    cdef bint keeps             # who made it sees to another link when this one is lost
    cdef bint closed_here
    cdef bint drained           # the last read took all there was
    cdef uint32_t rest_missed   # how often it does without trying for the rest of a chunk, after
    cdef uint32_t rest_pause    # the last time was in vain; and how often it still will
    cdef bint owned             # the keeper reads when nobody waits
    cdef bint looped            # an event loop waits for the link, and reads when it can
    cdef bint held              # it is down, and its loop was given time to let go of it
    cdef bint heeded            # the keeper comes soon: a loop that has read need not ask it to
    cdef bint replied           # the last message was taken, and no write has followed
    cdef int watched            # Watched: the flusher looks after a stream of sends
    cdef uint32_t run           # sends in close succession
    cdef uint64_t sent_at
    cdef int outside            # threads that do something due
    cdef uint64_t left_at       # when the last USER reader left
    cdef uint64_t began_at
    cdef uint64_t used_at       # a connection was opened or closed
    cdef uint64_t handshake_ns
    cdef uint64_t idle_ns       # 0: never closed for being idle
    cdef uint64_t busy_poll_ns
    cdef uint64_t suspect_at    # when the peer's silence was first too long
    # The keeper's own:
    cdef int want               # Ready, as of the last visit
    cdef int armed
    cdef void* look_next        # the service's list, and whether it is in it
    cdef bint look_listed
    cdef void* flush_next       # the flusher's
    cdef bint flush_listed
    cdef uint64_t visit_at
    cdef bint kept              # it has a place in the keeper's array
    cdef size_t place
    cdef bint dropping
    cdef void* drop_next
    # The acceptor's own:
    cdef void* accept_next
    cdef bint accept_listed
    cdef bint accept_ended      # it does not line up any more

    cdef bint sent(self) noexcept nogil
    cdef void send_later(self) noexcept nogil
    cdef int flush(self, uint64_t now) noexcept nogil
    cdef void pump(self, int rounds) noexcept nogil
    cdef void end_wait(self, Waiter* waiter) noexcept nogil
    cdef int wait_for(self, Waiter* waiter, int64_t timeout) noexcept nogil
    cdef bint needs_reader(self, const Waiter* waiter) noexcept nogil
    cdef int await_change(self, Waiter* waiter, uint64_t deadline) noexcept nogil
    cdef int read_pass(self, uint64_t deadline) noexcept nogil
    cdef bint await_rest(self) noexcept nogil
    cdef bint read_once(self) noexcept nogil
    cdef void dispatch(self) noexcept nogil
    cdef void take_role(self, Waiter* waiter) noexcept nogil
    cdef void pass_role(self) noexcept nogil
    cdef void leave_to_keeper(self) noexcept nogil
    cdef void take_down(self, bint for_good) noexcept nogil
    cdef void leave_role(self, Waiter* waiter) noexcept nogil
    cdef bint take_loose(self) noexcept nogil
    cdef void close_here(self) noexcept nogil
    cdef void ask_for_ack(self) noexcept nogil
    cdef object wait_with_gil(
        self, Conn* conn, int wanted, uint64_t amount, int64_t timeout, int64_t renewals=*
    )
