"""The link on Linux's own system calls."""

from tcpconn._link cimport Link, Poller
from tcpconn._sync cimport tc_mutex


cdef class NativeLink(Link):
    cdef int descriptor
    cdef tc_mutex mutex         # of the next two; it is held for nothing else
    cdef int waker              # an eventfd, made when somebody first waits; < 0: none
    cdef bint woken             # before there was one

    cdef int make_waker(self) noexcept nogil

    cdef void set_least(self, int count) noexcept nogil


cdef class EpollPoller(Poller):
    cdef int epoll
    cdef int waker
