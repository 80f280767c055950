"""An engine as the shell uses it."""

from tcpconn._engine cimport Engine


cdef class Driver(Engine):
    cdef bint takes(self) noexcept nogil
    cdef void give_up(self) noexcept nogil
