"""The sending half of a session: from messages to batches of frames."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from tcpconn._frame cimport Hello
from tcpconn._state cimport Conn, Outgoing, Part, State
from tcpconn._sync cimport Span

cdef enum:
    SPANS = 64                  # of one batch: what sendmsg takes without allocating in the kernel

cdef enum Room:                 # what may be done with a message of a given size now
    ROOM_DIRECT                 # put it into the send queue
    ROOM_CUT                    # queue it whole; the scheduler cuts it
    WAIT_CREDIT                 # the peer must read first
    WAIT_ACK                    # the send queue is full of what is not acknowledged
    WAIT_LINK                   # the link must take what is queued first
    ROOM_ENDED                  # this direction is over
    ROOM_TOO_LARGE              # over the peer's max_message_size
    ROOM_CLOSED                 # the session is
    ROOM_LOST                   # it was lost, and the user is to hear of it first
    ROOM_DETACHED               # there is no link, and nobody is to wait for one

cdef int send_open(State* s, Conn* conn, bint last) noexcept nogil
cdef void send_finish(State* s, Conn* conn) noexcept nogil
cdef void send_reset(State* s, Conn* conn, uint32_t code) noexcept nogil
cdef void send_stop(State* s, Conn* conn, uint32_t code) noexcept nogil
cdef void send_break(State* s, Conn* conn, uint32_t code) noexcept nogil
cdef void send_due_resets(State* s) noexcept nogil
cdef double keepalive_rate(const Hello* hello) noexcept nogil
cdef void send_ping(State* s, uint64_t now) noexcept nogil
cdef void send_ask(State* s, uint64_t now) noexcept nogil
cdef void bound_sending(State* s) noexcept nogil
cdef Room send_room(State* s, Conn* conn, uint64_t size) noexcept nogil
cdef int send_direct(
    State* s, Conn* conn, const Part* parts, uint32_t count, uint64_t size
) noexcept nogil
cdef Outgoing* outgoing_new(uint32_t parts) noexcept nogil
cdef void send_cut(State* s, Conn* conn, Outgoing* message) noexcept nogil
cdef void stop_sending(State* s) noexcept nogil
cdef bint wants_write(State* s) noexcept nogil
cdef bint may_wait(const State* s) noexcept nogil
cdef bint is_pressing(const State* s) noexcept nogil
cdef int prepare(State* s, Span* spans, int most) noexcept nogil
cdef void wrote(State* s, size_t count, size_t asked) noexcept nogil
cdef void credit_came(State* s, Conn* conn) noexcept nogil
