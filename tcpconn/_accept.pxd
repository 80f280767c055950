"""One queue of connections to be accepted, over many engines."""

from tcpconn._engine cimport Acceptor, Engine
from tcpconn._sync cimport PyThread_type_lock, tc_mutex


cdef struct Sleeper:            # lives on its thread's stack
    Sleeper* next
    PyThread_type_lock parker
    bint woken


cdef class AcceptQueue(Acceptor):
    cdef tc_mutex mutex         # comes after a session's lock, and nothing comes after it
    cdef void* first            # engines with connections to be accepted, in turn
    cdef void* last
    cdef Sleeper* sleepers
    cdef bint closed
    cdef object ended           # engines whose link is gone, but not what came over it
    cdef object ended_lock      # guards them; comes before the mutex
    cdef bint has_ended         # there are such

    cdef void push(self, Engine engine) noexcept nogil
    cdef void wake_one(self) noexcept nogil
    cdef object pop(self)
    cdef void count_ended(self)
    cdef object first_ended(self)
    cdef void looked_at_ended(self, object engine, bint empty)
    cdef void sleep(self, long long microseconds) noexcept nogil
