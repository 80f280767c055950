"""The link on plain system calls: recv, recvmsg, send, sendmsg, ppoll, epoll, eventfd.

None of them needs the GIL.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.time cimport timespec
from posix cimport unistd

from tcpconn._link cimport (
    OUTCOME_AGAIN,
    OUTCOME_FAILED,
    OUTCOME_INTERRUPTED,
    READY_END,
    READY_READ,
    READY_WOKEN,
    READY_WRITE,
)
from tcpconn._sync cimport (
    SECOND_NS,
    Span,
    tc_mutex_destroy,
    tc_mutex_init,
    tc_mutex_lock,
    tc_mutex_unlock,
)

import os


cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <poll.h>
    #include <sched.h>
    #include <sys/epoll.h>
    #include <sys/eventfd.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    """
    struct iovec:
        pass
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    ssize_t recvmsg(int descriptor, msghdr* message, int flags) nogil
    ssize_t send(int descriptor, const void* to, size_t length, int flags) nogil
    ssize_t sendmsg(int descriptor, const msghdr* message, int flags) nogil
    ssize_t recv(int descriptor, void* data, size_t length, int flags) nogil
    int shutdown(int descriptor, int how) nogil
    int sched_yield() nogil
    int setsockopt(
        int descriptor, int level, int option, const void* value, unsigned int size
    ) nogil
    int MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_RDWR, SOL_SOCKET, SO_RCVLOWAT

    struct pollfd:
        int fd
        short events
        short revents
    int ppoll(
        pollfd* descriptors, unsigned long count, const timespec* timeout, const void* mask
    ) nogil
    int POLLIN, POLLOUT

    ctypedef union epoll_data_t:
        void* ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags) nogil
    int epoll_ctl(int epoll, int operation, int descriptor, epoll_event* event) nogil
    int epoll_wait(int epoll, epoll_event* events, int most, int timeout) nogil
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    uint32_t EPOLLIN, EPOLLOUT, EPOLLONESHOT, EPOLLERR, EPOLLHUP

    int eventfd(unsigned int value, int flags) nogil
    int EFD_CLOEXEC, EFD_NONBLOCK

cdef enum:
    EVENTS_MOST = 64            # links reported by one wait
    JOIN_MOST = 2048            # bytes that are sooner joined than given to the kernel as a vector
    UNWOKEN_NS = 10_000_000     # a wait that nobody can wake ends by itself


cdef void signal_eventfd(int descriptor) noexcept nogil:
    cdef uint64_t one = 1
    if unistd.write(descriptor, &one, sizeof(one)) < 0:
        pass                    # the counter is full: a wake is on its way already


cdef void clear_eventfd(int descriptor) noexcept nogil:
    cdef uint64_t count
    if unistd.read(descriptor, &count, sizeof(count)) < 0:
        pass                    # somebody else took it


cdef class NativeLink(Link):
    """A link that owns a Python socket and works on its descriptor."""

    def __cinit__(self, sock):
        self.socket = sock
        self.descriptor = sock.fileno()
        self.waker = -1
        self.quick = True
        tc_mutex_init(&self.mutex)
        sock.setblocking(False)

    cdef Py_ssize_t read(self, Span* spans, int count) noexcept nogil:
        cdef msghdr message
        cdef Py_ssize_t result
        while True:
            if count == 1:
                result = recv(self.descriptor, <void*> spans[0].data, spans[0].length, MSG_DONTWAIT)
            else:
                memset(&message, 0, sizeof(message))
                message.msg_iov = <iovec*> spans
                message.msg_iovlen = <size_t> count
                result = recvmsg(self.descriptor, &message, MSG_DONTWAIT)
            if result >= 0:
                return result
            if errno == EAGAIN:
                return OUTCOME_AGAIN
            if errno != EINTR:
                self.error = errno
                return OUTCOME_FAILED

    cdef Py_ssize_t write(self, Span* spans, int count) noexcept nogil:
        cdef msghdr message
        cdef uint8_t[JOIN_MOST] joined
        cdef Span whole
        cdef Py_ssize_t result
        if count == 2 and spans[0].length + spans[1].length <= JOIN_MOST:
            memcpy(joined, spans[0].data, spans[0].length)
            memcpy(joined + spans[0].length, spans[1].data, spans[1].length)
            whole.data = joined
            whole.length = spans[0].length + spans[1].length
            spans = &whole
            count = 1
        while True:
            if count == 1:
                result = send(
                    self.descriptor, <void*> spans[0].data, spans[0].length,
                    MSG_DONTWAIT | MSG_NOSIGNAL,
                )
            else:
                memset(&message, 0, sizeof(message))
                message.msg_iov = <iovec*> spans
                message.msg_iovlen = <size_t> count
                result = sendmsg(self.descriptor, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
            if result >= 0:
                return result
            if errno == EAGAIN:
                return OUTCOME_AGAIN
            if errno != EINTR:
                self.error = errno
                return OUTCOME_FAILED

    cdef int wait(self, int events, int64_t timeout, size_t least) noexcept nogil:
        cdef pollfd[2] descriptors
        cdef timespec limit
        cdef int ready = 0
        cdef int result
        cdef bint unwoken
        if self.waker < 0 and self.make_waker():
            return READY_WOKEN
        unwoken = self.waker < 0 and not 0 <= timeout < UNWOKEN_NS
        if unwoken:
            timeout = UNWOKEN_NS        # too many descriptors are open for one more
        descriptors[0].fd = self.descriptor
        descriptors[0].events = <short> (
            (POLLIN if events & READY_READ else 0) | (POLLOUT if events & READY_WRITE else 0)
        )
        descriptors[0].revents = 0
        descriptors[1].fd = self.waker
        descriptors[1].events = <short> POLLIN
        descriptors[1].revents = 0
        limit.tv_sec = timeout // SECOND_NS
        limit.tv_nsec = timeout % SECOND_NS
        if least > 1:
            self.set_least(<int> least)
        result = ppoll(descriptors, 2, NULL if timeout < 0 else &limit, NULL)
        if least > 1:
            self.set_least(1)
        if result < 0:
            if errno == EINTR:
                return OUTCOME_INTERRUPTED
            return READY_READ
        if result == 0 and unwoken:
            return READY_WOKEN
        if descriptors[1].revents:
            clear_eventfd(self.waker)
            ready |= READY_WOKEN
        if descriptors[0].revents & POLLOUT:
            ready |= READY_WRITE
        if descriptors[0].revents & ~POLLOUT:
            ready |= READY_READ
        return ready

    cdef int make_waker(self) noexcept nogil:
        """Only who waits needs it: not the links that an event loop or the keeper reads. Whether
        `wake` was called before there was one.
        """
        cdef int descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        cdef bint woken
        tc_mutex_lock(&self.mutex)
        self.waker = descriptor
        woken = self.woken
        self.woken = False
        tc_mutex_unlock(&self.mutex)
        return woken

    cdef void set_least(self, int count) noexcept nogil:
        """Where it is not understood (unix-domain sockets), waits end sooner."""
        setsockopt(self.descriptor, SOL_SOCKET, SO_RCVLOWAT, &count, sizeof(count))

    cdef void wake(self) noexcept nogil:
        tc_mutex_lock(&self.mutex)
        if self.waker < 0:
            self.woken = True
        else:
            signal_eventfd(self.waker)
        tc_mutex_unlock(&self.mutex)

    cdef void give_way(self) noexcept nogil:
        sched_yield()

    cdef void shut(self) noexcept nogil:
        shutdown(self.descriptor, SHUT_RDWR)
        self.wake()

    cdef void release(self) noexcept:
        self.descriptor = -1
        try:
            self.socket.close()
        except OSError:
            pass
        tc_mutex_lock(&self.mutex)
        if self.waker >= 0:
            unistd.close(self.waker)
            self.waker = -1
        tc_mutex_unlock(&self.mutex)

    def __dealloc__(self):
        if self.waker >= 0:
            unistd.close(self.waker)
        tc_mutex_destroy(&self.mutex)


cdef class EpollPoller(Poller):
    """Waits with epoll, each link armed for one event."""

    def __cinit__(self):
        cdef epoll_event event
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        self.waker = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        event.events = EPOLLIN
        event.data.ptr = NULL
        if self.epoll < 0 or self.waker < 0 or epoll_ctl(
            self.epoll, EPOLL_CTL_ADD, self.waker, &event
        ):
            raise OSError(errno, os.strerror(errno))

    cdef int register(self, Link link, void* key) except -1:
        cdef epoll_event event
        event.events = EPOLLONESHOT
        event.data.ptr = key
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD, (<NativeLink> link).descriptor, &event):
            raise OSError(errno, os.strerror(errno))
        return 0

    cdef void watch(self, Link link, void* key, int events) noexcept nogil:
        cdef epoll_event event
        event.events = EPOLLONESHOT
        if events & READY_READ:
            event.events |= EPOLLIN
        if events & READY_WRITE:
            event.events |= EPOLLOUT
        event.data.ptr = key
        epoll_ctl(self.epoll, EPOLL_CTL_MOD, (<NativeLink> link).descriptor, &event)

    cdef void unregister(self, Link link) noexcept:
        cdef epoll_event event
        epoll_ctl(self.epoll, EPOLL_CTL_DEL, (<NativeLink> link).descriptor, &event)

    cdef int wait(self, void** keys, int* events, int most, int64_t timeout) noexcept nogil:
        cdef epoll_event[EVENTS_MOST] found
        cdef int limit = -1
        cdef int result, index
        cdef int count = 0
        if timeout >= 0:
            # epoll counts in ms: rounding up means that the caller's deadline is over afterwards.
            limit = <int> min((timeout + 999999) // 1000000, <int64_t> 1000000000)
        result = epoll_wait(self.epoll, found, min(most, <int> EVENTS_MOST), limit)
        for index in range(result):
            if found[index].data.ptr is NULL:
                clear_eventfd(self.waker)
                continue
            keys[count] = found[index].data.ptr
            events[count] = READY_WRITE if found[index].events & EPOLLOUT else 0
            if found[index].events & ~EPOLLOUT:
                events[count] |= READY_READ
            if found[index].events & (EPOLLERR | EPOLLHUP):
                events[count] |= READY_END      # which needs not be asked for
            count += 1
        return count

    cdef void wake(self) noexcept nogil:
        signal_eventfd(self.waker)

    cdef void release(self) noexcept:
        if self.epoll >= 0:
            unistd.close(self.epoll)
            unistd.close(self.waker)
            self.epoll = -1
            self.waker = -1

    def __dealloc__(self):
        self.release()
