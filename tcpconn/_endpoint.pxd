"""The compiled half of a connection."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from tcpconn._engine cimport Engine
from tcpconn._state cimport Conn, Message, Part


cdef class Endpoint:
    cdef readonly Engine engine
    cdef Conn* conn
    cdef bint closed_here
    cdef bint aborted
    cdef bytes spare            # memory for the next large message, nobody else's

    cdef int check(self) except -1
    cdef int raise_receive_end(self) except -1
    cdef int raise_send_end(self, int room, uint64_t size) except -1
    cdef int check_heard(self) except -1
    cdef Message* next_message(
        self, object timeout, uint64_t most, uint8_t* place, uint64_t size
    ) except NULL
    cdef bint owes_credit(self) noexcept nogil
    cdef void took(self) noexcept
    cdef void free_message(self, Message* message)
    cdef object to_bytes(self, Message* message)
    cdef int await_room(self, uint64_t size, object timeout, uint64_t* deadline) except -1
    cdef void finish_send(self, bint more) noexcept
    cdef int put(self, Part* part, object timeout, bint more) except 0
    cdef int put_held(self, tuple buffers, object timeout, bint more) except -1
    cdef int send_one(self, object data, object timeout, bint more) except -1
    cdef Py_ssize_t put_run(self, tuple messages, Py_ssize_t start) noexcept
    cdef bint has_unacknowledged(self) noexcept nogil
    cdef object await_acks(self, int64_t limit)
