"""The session as an object: its records, and what may be asked of them from Python."""

from libc.stdint cimport uint32_t, uint64_t

from tcpconn._buffer cimport BlockPool
from tcpconn._state cimport Conn, State


cdef class Session:
    cdef State* s
    cdef BlockPool blocks       # keeps the pool alive
    cdef readonly object options
    cdef dict leftovers         # what lost sessions left, by their numbers

    cdef Conn* find(self, bytes id) except NULL
    cdef void drop_released(self)
    cdef object left_by(self, uint32_t number, uint32_t route)
