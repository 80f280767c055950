"""What the engine asks of a socket, and of a thing that waits for many of them."""

from libc.stdint cimport int64_t

from tcpconn._sync cimport Span

cdef enum Ready:
    READY_READ = 1
    READY_WRITE = 2
    READY_WOKEN = 4             # somebody called wake
    READY_END = 8               # it is broken; of a poller, which may not know of it

cdef enum Outcome:              # of read, write and wait, when not a number of bytes or a Ready
    OUTCOME_AGAIN = -1          # nothing there, or no room
    OUTCOME_FAILED = -2         # the link is broken: `error` says how
    OUTCOME_INTERRUPTED = -3    # a signal came; with the GIL, call `raise_pending`


cdef class Link:
    cdef public object socket   # the Python socket that owns the descriptor
    cdef int error              # errno of OUTCOME_FAILED
    cdef readonly object trouble    # or the exception that says it better
    cdef readonly object certificate    # the peer's, as ssl gives it, if it was checked
    # What it has to read or write does not depend on the socket alone: a poller is to be asked
    # anew after each visit. `holding`: there may be something to read that no wait would notice.
    cdef bint layered
    cdef bint holding
    cdef bint quick             # to try to read costs a system call, and nothing else

    cdef Py_ssize_t read(self, Span* spans, int count) noexcept nogil
    cdef Py_ssize_t write(self, Span* spans, int count) noexcept nogil
    cdef int wait(self, int events, int64_t timeout, size_t least) noexcept nogil
    cdef void wake(self) noexcept nogil
    cdef void give_way(self) noexcept nogil
    cdef void shut(self) noexcept nogil
    cdef int raise_pending(self) except -1
    cdef void release(self) noexcept


cdef class StdlibLink(Link):
    cdef object waker
    cdef object woken
    cdef object pending
    cdef object sendmsg
    cdef object poll

    cdef int failed(self, object error) noexcept
    cdef int wait_with_gil(self, int events, int64_t timeout) except? 0


cdef class Poller:
    cdef int register(self, Link link, void* key) except -1
    cdef void watch(self, Link link, void* key, int events) noexcept nogil
    cdef void unregister(self, Link link) noexcept
    cdef int wait(self, void** keys, int* events, int most, int64_t timeout) noexcept nogil
    cdef void wake(self) noexcept nogil
    cdef void release(self) noexcept


cdef class StdlibPoller(Poller):
    cdef object selector
    cdef set watched            # sockets that the selector has
    cdef object waker
    cdef object woken
