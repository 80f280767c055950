"""Python objects become messages to be sent."""

from tcpconn._state cimport Outgoing

cdef Outgoing* hold(tuple buffers) except NULL
cdef void unhold(Outgoing* message) noexcept
