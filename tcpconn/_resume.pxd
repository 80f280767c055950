"""A session without a link, PROTOCOL.md section 12: detached, resumed, or lost and renewed."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from tcpconn._sendqueue cimport Outgoing, SendQueue
from tcpconn._state cimport Conn, State


cdef struct Cut:                # what was not cut into chunks of one direction of ours
    uint32_t route
    Outgoing* first


cdef struct Lost:               # what a session that is lost had still to send
    SendQueue queue
    uint64_t begun              # frames from here on cannot have reached the peer
    Cut* cuts
    size_t count


cdef void session_unlink(State* s) noexcept nogil
cdef bint session_may_relink(const State* s, uint64_t received) noexcept nogil
cdef void session_relink(State* s, uint64_t received) noexcept nogil
cdef int session_lose(State* s, Lost* lost, const uint8_t* names) noexcept nogil
