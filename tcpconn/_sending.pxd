"""The sending half of an endpoint."""

from libc.stdint cimport uint64_t

from tcpconn._receiving cimport Receiving
from tcpconn._state cimport Outgoing, Part

cdef enum:
    DIRECT_MOST = 65487         # what fits a block of the send queue, with an OPEN before it


cdef class Sending(Receiving):
    cdef int raise_send_end(self, int room, uint64_t size) except -1
    cdef int await_room(self, uint64_t size, object timeout, uint64_t* deadline) except -1
    cdef void finish_send(self, bint more) noexcept
    cdef int try_put(self, Part* part, bint more) except -2
    cdef int put(self, Part* part, object timeout, bint more) except 0
    cdef Outgoing* hold_checked(self, tuple buffers) except NULL
    cdef bint try_put_held(self, Outgoing** held, bint more) except -1
    cdef int put_held(self, tuple buffers, object timeout, bint more) except -1
    cdef int send_one(self, object data, object timeout, bint more) except -1
    cdef Py_ssize_t put_run(self, tuple messages, Py_ssize_t start) noexcept


cdef tuple checked_parts(object buffers)
cdef object not_a_buffer(object data, object error)
