"""What a lost session had still to send, as messages."""

from tcpconn._resume cimport Lost


cdef class Leftover:
    cdef Lost lost
    cdef readonly object reason
    cdef object filled          # a lock, held until the messages are there
    cdef dict messages          # by route: (in doubt, unsent)

    cdef object fill(self)
    cdef object walk(self)
