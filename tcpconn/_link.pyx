"""A link's socket, as the engine sees it, and the portable implementation on the standard library.

A link is read by one thread at a time and written by one at a time; `wake` may come from any.
Nothing here knows what the bytes mean. `_link_linux` has the implementation on plain system calls,
which needs no GIL.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from libc.errno cimport ECONNRESET, EIO
from libc.stdint cimport int64_t, uintptr_t

import select
import selectors
import socket
import time

from tcpconn._sync cimport Span


cdef class Link:
    """A non-blocking stream socket in use. Subclasses implement every method."""

    cdef Py_ssize_t read(self, Span* spans, int count) noexcept nogil:
        """Reads what is there, into spans in order. Bytes read, 0 at the end; or an Outcome."""
        return OUTCOME_FAILED

    cdef Py_ssize_t write(self, Span* spans, int count) noexcept nogil:
        """Writes what there is room for. Bytes written, or an Outcome."""
        return OUTCOME_FAILED

    cdef int wait(self, int events, int64_t timeout, size_t least) noexcept nogil:
        """Waits until one of `events` is there, `wake` is called or `timeout` (ns; < 0: none) over.

        `least` is how many bytes must be there to count as ready to read; a link may wake for
        fewer. A mask of Ready (0: time is over), or OUTCOME_INTERRUPTED. An error counts as ready
        to read.
        """
        return 0

    cdef void wake(self) noexcept nogil:
        """Ends the wait that is going on, or else the next one."""

    cdef void give_way(self) noexcept nogil:
        """Lets another thread run, between two looks of one that polls."""

    cdef void shut(self) noexcept nogil:
        """Ends both directions, which whoever waits or reads notices. Keeps the descriptor."""

    cdef int raise_pending(self) except -1:
        """Raises what a signal handler raised, or the interruption itself."""
        return PyErr_CheckSignals()

    cdef void release(self) noexcept:
        """Closes the descriptors. Nobody uses the link any more."""


cdef object view_of(Span span, bint writable):
    return PyMemoryView_FromMemory(
        <char*> span.data, <Py_ssize_t> span.length, PyBUF_WRITE if writable else PyBUF_READ
    )


cdef class StdlibLink(Link):
    """A link on a Python socket. Works wherever Python does, and takes the GIL for each call."""

    def __init__(self, sock):
        sock.setblocking(False)
        self.socket = sock
        self.sendmsg = getattr(sock, "sendmsg", None)
        self.woken, self.waker = socket.socketpair()
        self.woken.setblocking(False)
        self.waker.setblocking(False)
        if hasattr(select, "poll"):
            self.poll = select.poll()
            self.poll.register(self.woken, select.POLLIN)

    cdef int failed(self, object error) noexcept:
        if isinstance(error, (BlockingIOError, InterruptedError)):
            return OUTCOME_AGAIN
        if type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError"):
            return OUTCOME_AGAIN
        self.error = EIO
        if isinstance(error, OSError) and error.errno is not None:
            self.error = error.errno
        elif isinstance(error, ConnectionError):
            self.error = ECONNRESET
        return OUTCOME_FAILED

    cdef Py_ssize_t read(self, Span* spans, int count) noexcept nogil:
        cdef Py_ssize_t total = 0
        cdef Py_ssize_t step
        cdef int index
        with gil:
            try:
                for index in range(count):
                    step = self.socket.recv_into(view_of(spans[index], True))
                    total += step
                    if step < <Py_ssize_t> spans[index].length:
                        break
            except BaseException as error:
                if total == 0:
                    return self.failed(error)
            return total

    cdef Py_ssize_t write(self, Span* spans, int count) noexcept nogil:
        cdef Py_ssize_t total = 0
        cdef Py_ssize_t step
        cdef int index
        with gil:
            try:
                if self.sendmsg is not None:
                    return self.sendmsg([view_of(spans[index], False) for index in range(count)])
                for index in range(count):
                    step = self.socket.send(view_of(spans[index], False))
                    total += step
                    if step < <Py_ssize_t> spans[index].length:
                        break
            except BaseException as error:
                if total == 0:
                    return self.failed(error)
            return total

    cdef int wait(self, int events, int64_t timeout, size_t least) noexcept nogil:
        with gil:
            try:
                return self.wait_with_gil(events, timeout)
            except BaseException as error:
                if isinstance(error, (OSError, ValueError)):
                    return READY_READ       # reading will say what is wrong
                with cython.critical_section(self):
                    self.pending = error
                return OUTCOME_INTERRUPTED

    cdef int wait_with_gil(self, int events, int64_t timeout) except? 0:
        cdef int ready = 0
        seconds = None if timeout < 0 else timeout / 1e9
        if self.poll is not None:
            mask = (select.POLLIN if events & READY_READ else 0) | (
                select.POLLOUT if events & READY_WRITE else 0
            )
            self.poll.register(self.socket, mask)
            # poll counts in ms: rounding up means that the caller's deadline is over afterwards
            found = self.poll.poll(None if seconds is None else -int(-seconds * 1000 // 1))
            for descriptor, mask in found:
                if descriptor == self.woken.fileno():
                    ready |= READY_WOKEN
                    continue
                if mask & select.POLLOUT:
                    ready |= READY_WRITE
                if mask & ~select.POLLOUT:
                    ready |= READY_READ
        else:
            readers = [self.woken] + ([self.socket] if events & READY_READ else [])
            writers = [self.socket] if events & READY_WRITE else []
            readable, writable, broken = select.select(readers, writers, [self.socket], seconds)
            if self.woken in readable:
                ready |= READY_WOKEN
            if self.socket in readable or broken:
                ready |= READY_READ
            if writable:
                ready |= READY_WRITE
        if ready & READY_WOKEN:
            self.woken.recv(64)
        return ready

    cdef void wake(self) noexcept nogil:
        with gil:
            try:
                self.waker.send(b"\0")
            except OSError:
                pass                        # full: a wake is on its way already

    cdef void give_way(self) noexcept nogil:
        with gil:
            time.sleep(0)

    cdef void shut(self) noexcept nogil:
        with gil:
            try:
                self.socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.wake()

    cdef int raise_pending(self) except -1:
        with cython.critical_section(self):
            pending = self.pending
            self.pending = None
        if pending is not None:
            raise pending
        return PyErr_CheckSignals()

    cdef void release(self) noexcept:
        try:
            self.socket.close()
            self.waker.close()
            self.woken.close()
        except OSError:
            pass


cdef class Poller:
    """Waits for many links at once, for one thread. A link is armed by `watch`, for one event.

    `register`, `unregister` and `release` need the GIL; `watch` and `wait` are for the thread that
    waits; `wake` is for any.
    """

    cdef int register(self, Link link, void* key) except -1:
        """Makes a link known, unarmed; `key` is what `wait` calls it by."""
        raise NotImplementedError

    cdef void watch(self, Link link, void* key, int events) noexcept nogil:
        """Arms a link: the next of `events` is reported, once."""

    cdef void unregister(self, Link link) noexcept:
        """Forgets a link, before its descriptor is closed."""

    cdef int wait(self, void** keys, int* events, int most, int64_t timeout) noexcept nogil:
        """Waits for links, `wake` or `timeout` (ns; < 0: none). How many keys and masks it gave."""
        return 0

    cdef void wake(self) noexcept nogil:
        """Ends the wait that is going on, or else the next one."""

    cdef void release(self) noexcept:
        """Closes the poller's own descriptors."""


cdef class StdlibPoller(Poller):
    """Waits with the standard library's selectors."""

    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.watched = set()
        self.woken, self.waker = socket.socketpair()
        self.woken.setblocking(False)
        self.waker.setblocking(False)
        self.selector.register(self.woken, selectors.EVENT_READ, 0)

    cdef int register(self, Link link, void* key) except -1:
        return 0                            # selectors have no registration without events

    cdef void watch(self, Link link, void* key, int events) noexcept nogil:
        with gil:
            mask = (selectors.EVENT_READ if events & READY_READ else 0) | (
                selectors.EVENT_WRITE if events & READY_WRITE else 0
            )
            try:
                # To ask the selector costs an exception, whose text asks the socket for addresses.
                if link.socket in self.watched:
                    self.selector.modify(link.socket, mask, <uintptr_t> key)
                else:
                    self.selector.register(link.socket, mask, <uintptr_t> key)
                    self.watched.add(link.socket)
            except (OSError, ValueError, KeyError):
                pass                        # closed meanwhile: its end is reported in another way

    cdef void unregister(self, Link link) noexcept:
        if link.socket not in self.watched:
            return
        self.watched.discard(link.socket)
        try:
            self.selector.unregister(link.socket)
        except (OSError, ValueError, KeyError):
            pass

    cdef int wait(self, void** keys, int* events, int most, int64_t timeout) noexcept nogil:
        cdef int count = 0
        with gil:
            try:
                found = self.selector.select(None if timeout < 0 else timeout / 1e9)
                for entry, mask in found:
                    if entry.data == 0:
                        self.woken.recv(64)
                        continue
                    if count == most:
                        break               # what is left is reported by the next wait
                    keys[count] = <void*> <uintptr_t> entry.data
                    events[count] = (READY_READ if mask & selectors.EVENT_READ else 0) | (
                        READY_WRITE if mask & selectors.EVENT_WRITE else 0
                    )
                    count += 1
                    self.watched.discard(entry.fileobj)
                    self.selector.unregister(entry.fileobj)
            except (OSError, ValueError, KeyError):
                pass
            return count

    cdef void wake(self) noexcept nogil:
        with gil:
            try:
                self.waker.send(b"\0")
            except OSError:
                pass

    cdef void release(self) noexcept:
        self.selector.close()
        self.waker.close()
        self.woken.close()
