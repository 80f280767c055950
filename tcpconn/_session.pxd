"""The session as an object: its records, and what may be asked of them from Python."""

from libc.stdint cimport uint32_t, uint64_t

from tcpconn._buffer cimport BlockPool
from tcpconn._state cimport Conn, Outgoing, State


cdef class Session:
    cdef State* s
    cdef BlockPool blocks       # keeps the pool alive
    cdef readonly object options
    cdef dict leftovers         # what lost sessions left, by their numbers

    cdef Conn* find(self, bytes id) except NULL
    cdef void drop_released(self)
    cdef object left_by(self, uint32_t number, uint32_t route)


cdef int session_open(
    State* s, uint64_t high, uint64_t low, int priority, Conn** opened
) noexcept nogil
cdef Conn* session_accept(State* s) noexcept nogil
cdef void session_detach(State* s, Conn* conn, uint64_t code, bint abruptly) noexcept nogil
cdef void session_refuse(State* s, Conn* conn) noexcept nogil
cdef void session_goaway(State* s) noexcept nogil
cdef bint session_is_unused(const State* s) noexcept nogil
cdef bint session_is_done(State* s) noexcept nogil
cdef uint64_t session_ping(State* s, uint64_t now) noexcept nogil
cdef uint64_t session_deadline(State* s) noexcept nogil
cdef void session_tick(State* s, uint64_t now) noexcept nogil
cdef bint session_is_silent(const State* s, uint64_t now) noexcept nogil
cdef bint session_is_kept(State* s) noexcept nogil
cdef object end_reason(State* s)
cdef Outgoing* hold(tuple buffers) except NULL
cdef void unhold(Outgoing* message) noexcept
