"""The receiving half of a session: from bytes to messages in their connections' queues."""

from libc.stdint cimport uint8_t, uint64_t

from tcpconn._state cimport Conn, Message, State
from tcpconn._sync cimport Span

cdef int targets(State* s, Span* spans) noexcept nogil
cdef void received(State* s, size_t count, uint64_t now) noexcept nogil
cdef Message* take_message(State* s, Conn* conn, bint posted, uint64_t most) noexcept nogil
cdef void stop_receiving(State* s) noexcept nogil
cdef void unpost(State* s) noexcept nogil
