"""The receiving half of an endpoint, and what both halves share."""

from libc.stdint cimport uint8_t, uint64_t

from tcpconn._engine cimport Engine
from tcpconn._state cimport Conn, Message

cdef enum:
    COPY_LOCKED = 16384         # up to this, copying under the lock is cheaper than taking it twice


cdef object code_name(int code)
cdef Py_ssize_t most_messages(object limit) except -1


cdef class Receiving:
    cdef readonly Engine engine
    cdef Conn* conn
    cdef bint closed_here
    cdef bint aborted
    cdef bytes spare            # memory for the next large message, nobody else's

    cdef int check(self) except -1
    cdef str name(self)
    cdef int raise_lost(self) except -1
    cdef int raise_detached(self) except -1
    cdef int raise_receive_end(self) except -1
    cdef Message* try_message(self, uint64_t most) except? NULL
    cdef bint is_finished(self) noexcept nogil
    cdef Message* next_message(
        self, object timeout, uint64_t most, uint8_t* place, uint64_t size, bint iterates
    ) except? NULL
    cdef object receive_next(self, object timeout, bint iterates)
    cdef bint owes_credit(self) noexcept nogil
    cdef void took(self) noexcept
    cdef void free_message(self, Message* message)
    cdef object to_bytes(self, Message* message)
    cdef object to_lease(self, Message* message)
    cdef int take_all(self, list messages, Py_ssize_t most) except -1
    cdef Py_ssize_t take_run(self, list messages, Py_ssize_t most) except -1
