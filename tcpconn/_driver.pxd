"""An engine as the shell uses it."""

from tcpconn._engine cimport Engine


cdef class Driver(Engine):
    pass
