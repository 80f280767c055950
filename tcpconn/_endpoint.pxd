"""The compiled half of a connection."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from tcpconn._engine cimport Engine
from tcpconn._sending cimport Sending


cdef class Endpoint(Sending):
    cdef int own(self) except -1
    cdef int refuse(self, uint32_t code) except -1
    cdef int64_t check_heard(self, int64_t renewals) except -1
    cdef int check_closed_lost(self, uint32_t number) except -1
    cdef bint has_unacknowledged(self) noexcept nogil
    cdef object await_acks(self, int64_t limit)
    cdef uint64_t ask_for_acks(self) noexcept
    cdef bint begin_close(self, uint32_t* renewals) except -1
    cdef bint leave(self, Engine engine, uint32_t* renewals) noexcept nogil
    cdef int check_closed(self, uint32_t renewals) except -1
