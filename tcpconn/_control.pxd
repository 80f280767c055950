"""Frames that carry no message: the handshake, routes, credit, acks, PING and GOAWAY."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from tcpconn._frame cimport Fault, Header
from tcpconn._state cimport State

cdef int fail(State* s, const Fault* fault) noexcept nogil
cdef int fail_with(
    State* s, uint32_t code, const char* section, const char* text
) noexcept nogil
cdef int fail_numbers(
    State* s, uint32_t code, const char* section, const char* text, uint64_t value, uint64_t limit
) noexcept nogil

cdef void session_start(State* s) noexcept nogil
cdef void session_limits(State* s) noexcept nogil
cdef int check_first(State* s, const Header* header) noexcept nogil
cdef int on_first(State* s, const Header* header, const uint8_t* payload) noexcept nogil
cdef int take_control(State* s, const Header* header, const uint8_t* payload) noexcept nogil
cdef bint may_refuse(State* s) noexcept nogil
cdef int too_many_refused(State* s) noexcept nogil
cdef int no_such_route(State* s, uint32_t route) noexcept nogil
