"""The link on Linux's own system calls."""

from tcpconn._link cimport Link, Poller


cdef class NativeLink(Link):
    cdef int descriptor
    cdef int waker              # an eventfd

    cdef void set_least(self, int count) noexcept nogil


cdef class EpollPoller(Poller):
    cdef int epoll
    cdef int waker
