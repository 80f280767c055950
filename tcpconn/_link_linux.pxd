"""The link on Linux's own system calls."""

from tcpconn._link cimport Link, Poller


cdef class NativeLink(Link):
    cdef int descriptor
    cdef int waker              # an eventfd


cdef class EpollPoller(Poller):
    cdef int epoll
    cdef int waker
