"""What is done to a session: connections opened, accepted and closed, time, its end."""

from libc.stdint cimport uint32_t, uint64_t

from tcpconn._state cimport Conn, State

cdef int session_open(
    State* s, uint64_t high, uint64_t low, int priority, Conn** opened
) noexcept nogil
cdef Conn* session_accept(State* s) noexcept nogil
cdef void session_detach(State* s, Conn* conn, uint64_t code, bint abruptly) noexcept nogil
cdef void session_refuse(State* s, Conn* conn, uint32_t code) noexcept nogil
cdef void session_goaway(State* s) noexcept nogil
cdef bint session_is_unused(const State* s) noexcept nogil
cdef bint session_is_done(State* s) noexcept nogil
cdef uint64_t session_ping(State* s, uint64_t now) noexcept nogil
cdef uint64_t session_deadline(State* s) noexcept nogil
cdef void session_tick(State* s, uint64_t now) noexcept nogil
cdef bint session_is_silent(const State* s, uint64_t now) noexcept nogil
cdef void session_let_go(State* s) noexcept nogil
cdef void session_clear(State* s) noexcept nogil
cdef bint session_is_kept(State* s) noexcept nogil
cdef object end_reason(State* s)
