"""Connection records: making, finding, ending them; events for those who wait."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from tcpconn._budget cimport Claim
from tcpconn._buffer cimport Block
from tcpconn._frame cimport Fault
from tcpconn._state cimport Conn, Message, Outgoing, State

cdef Conn* conn_new(State* s, uint64_t high, uint64_t low) noexcept nogil
cdef Conn* conn_find(State* s, uint64_t high, uint64_t low) noexcept nogil
cdef Conn* conn_by_in_route(State* s, uint32_t route) noexcept nogil
cdef Conn* conn_by_out_route(State* s, uint32_t route) noexcept nogil
cdef void conn_bind(State* s, Conn* conn) noexcept nogil
cdef void conn_release(State* s, Conn* conn) noexcept nogil
cdef void conn_event(State* s, Conn* conn, uint32_t events) noexcept nogil
cdef Conn* next_event(State* s) noexcept nogil
cdef void in_route_opened(State* s, Conn* conn) noexcept nogil
cdef void in_route_ended(State* s, Conn* conn) noexcept nogil
cdef void out_route_opened(State* s, Conn* conn) noexcept nogil
cdef void out_route_ended(State* s, Conn* conn) noexcept nogil
cdef void check_over(State* s, Conn* conn) noexcept nogil
cdef void accept_push(State* s, Conn* conn) noexcept nogil
cdef void accept_remove(State* s, Conn* conn) noexcept nogil

cdef void leave_block(State* s, Block* block, uint64_t length) noexcept nogil
cdef void unlink_from_block(Message* message) noexcept nogil
cdef void message_free(State* s, Message* message) noexcept nogil
cdef Claim claim_of(State* s) noexcept nogil
cdef void settle_charge(State* s) noexcept nogil
cdef void give_loan_back(State* s) noexcept nogil
cdef void leave_memory(State* s, Conn* conn) noexcept nogil
cdef void assembly_ended(State* s, Conn* conn) noexcept nogil
cdef void credit_list(State* s, Conn* conn) noexcept nogil
cdef void reader_starves(State* s, Conn* conn) noexcept nogil
cdef void credit_release(State* s, Conn* conn, uint64_t cost) noexcept nogil
cdef void drop_unread(State* s, Conn* conn) noexcept nogil
cdef void drop_assembly(State* s, Conn* conn) noexcept nogil
cdef void outgoing_drop(State* s, Conn* conn) noexcept nogil
cdef void set_stalled(State* s, Conn* conn, bint stalled) noexcept nogil
cdef void session_room_came(State* s) noexcept nogil

cdef void state_close(State* s) noexcept nogil
cdef void state_fail(State* s, const Fault* fault) noexcept nogil
cdef void state_lost(State* s) noexcept nogil
