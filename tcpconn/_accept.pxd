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
    cdef set ended              # those in the line whose link is gone, but not what came over it
    cdef object ended_lock      # guards them; comes before the mutex

    cdef void lined_up(self) noexcept nogil
    cdef void push(self, Engine engine) noexcept nogil
    cdef void wake_one(self) noexcept nogil
    cdef object pop(self)
    cdef void remove(self, Engine engine) noexcept nogil
    cdef int had_turn(self, Engine engine) except -1
    cdef void sleep(self, long long microseconds) noexcept nogil
