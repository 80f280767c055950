"""What ties engines to an event loop."""

from cpython.pystate cimport PyThreadState
from libc.stdint cimport uint64_t

from tcpconn._accept cimport AcceptQueue
from tcpconn._engine cimport Engine
from tcpconn._state cimport Conn
from tcpconn._sync cimport tc_mutex
from tcpconn._waiting cimport Herald, Waiter


cdef class LoopHerald(Herald):
    cdef readonly object loop
    cdef readonly bint left     # the loop is about to end
    cdef object over            # a future with a result: what a task that goes on is told of
    cdef object seen            # what asyncio had noted of its thread when it was last looked at
    cdef PyThreadState* driver  # the thread that drives a task just now, so it runs the loop
    cdef readonly set watches   # of the links that the loop waits for
    cdef set queues             # to be looked at when there is somebody to accept
    cdef tc_mutex mutex         # comes after a session's lock, and nothing comes after it
    cdef Waiter* first          # of those that are woken, through told_next
    cdef Waiter* last
    cdef bint accepting         # a queue is to be looked at
    cdef bint releasing         # a link is down, and its watch has not noticed
    cdef bint signalled         # the loop will look, or is looking
    cdef int descriptor         # what it waits for; < 0: it cannot wait for descriptors
    cdef int poker              # what is written to, to signal it
    cdef int poking             # threads that do so just now
    cdef Py_ssize_t budget      # what operations may do before the loop has its turn

    cdef void close_descriptors(self) noexcept
    cdef int check(self) except -1
    cdef bint spent(self, Py_ssize_t cost) noexcept
    cdef bint is_first(self) noexcept nogil
    cdef bint accept_soon(self) noexcept nogil
    cdef void forget(self, Waiter* waiter) noexcept
    cdef int stop_watches(self) except -1
    cdef void attend(self) noexcept nogil
    cdef int drain(self) except -1
    cdef int go_on(self) except -1


cdef class Wait:                # awaited by a task of the loop
    cdef Waiter waiter
    cdef Engine engine
    cdef LoopHerald herald
    cdef object callback        # the task's
    cdef object context
    cdef object reason          # of the cancellation
    cdef bint waiting           # the engine has it in its lists, and holds a reference
    cdef bint is_cancelled
    cdef public bint _asyncio_future_blocking

    cdef void begin(self, Conn* conn, int wanted, uint64_t amount) noexcept
    cdef void end(self) noexcept
    cdef int tell(self) except -1
    cdef void pass_on(self) noexcept


cdef class LinkWatch:
    cdef Engine engine
    cdef LoopHerald herald
    cdef int descriptor         # < 0: not watched

    cdef int stop_if_down(self) except -1
    cdef void let_go(self) noexcept


cdef class LoopQueue(AcceptQueue):
    cdef LoopHerald herald
    cdef object on_accept
