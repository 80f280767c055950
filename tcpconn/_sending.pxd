"""The sending half of an endpoint."""

from libc.stdint cimport uint64_t

from tcpconn._receiving cimport Receiving
from tcpconn._state cimport Part


cdef class Sending(Receiving):
    cdef int raise_send_end(self, int room, uint64_t size) except -1
    cdef int await_room(self, uint64_t size, object timeout, uint64_t* deadline) except -1
    cdef void finish_send(self, bint more) noexcept
    cdef int put(self, Part* part, object timeout, bint more) except 0
    cdef int put_held(self, tuple buffers, object timeout, bint more) except -1
    cdef int send_one(self, object data, object timeout, bint more) except -1
    cdef Py_ssize_t put_run(self, tuple messages, Py_ssize_t start) noexcept
