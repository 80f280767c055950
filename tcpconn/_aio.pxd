"""The compiled half of a connection in an event loop."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from tcpconn._endpoint cimport Endpoint
from tcpconn._engine cimport Engine
from tcpconn._loop cimport LoopHerald, Wait
from tcpconn._state cimport Conn, Outgoing

cdef enum Stage:
    STAGE_FRESH                 # nobody has awaited it
    STAGE_BEGUN
    STAGE_WAITING
    STAGE_OVER

cdef enum Form:                 # in which a message is received
    FORM_BYTES
    FORM_NEXT                   # the same, for `async for`
    FORM_INTO
    FORM_VIEW
    FORM_MANY


cdef class Operation:           # a coroutine, as far as tasks can tell
    cdef Engine engine
    cdef AsyncEndpoint endpoint     # None for what concerns the whole session
    cdef Wait wait              # made when there is something to wait for
    cdef object value           # what it returns
    cdef int stage

    cdef bint attempt(self) except -1
    cdef int make_wait(self) except -1
    cdef void wait_unlocked(self, Conn* conn, int wanted, uint64_t amount) noexcept
    cdef object step(self, bint* finished)
    cdef bint leave(self) noexcept


cdef class Receive(Operation):
    cdef int form
    cdef object buffer          # FORM_INTO's
    cdef Py_ssize_t most        # FORM_MANY's

    cdef bint take(self) except -1
    cdef bint take_into(self) except -1


cdef class Send(Operation):
    cdef object data
    cdef tuple parts            # of send_parts
    cdef Outgoing* held
    cdef bint more

    cdef int put_direct(self, const uint8_t* data, uint64_t length) except -2
    cdef bint put_held(self) except -1
    cdef void wait_for_room(self, uint64_t size) noexcept


cdef class Settled(Operation):
    cdef Conn* conn
    cdef int wanted
    cdef uint64_t amount
    cdef int64_t renewals       # `amount` means something in the session of this number; < 0: any


cdef class AsyncEndpoint(Endpoint):
    cdef Receive receive_as(self, int form)
    cdef void finish_send(self, bint more) noexcept
    cdef Settled settled(self, int wanted, uint64_t amount, int64_t renewals)
