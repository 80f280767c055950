"""The link through TLS: the standard library's SSL object, over another link that has the socket.

The reader and the writer share one SSL object, which is not made for that, and takes the GIL. So:

- `state` guards the SSL object and its two buffers of ciphertext. It is taken without the GIL, then
  the GIL is; it is held for a few records, and never for a system call.
- `order` is held by whoever moves ciphertext to the socket, from before it is made until the socket
  has taken what it takes at once. It comes before `state`.

A record that the socket took a part of is not reported as written: the engine offers the same bytes
again once the socket has room, and until then waits for that. What was encrypted is remembered
(`committed`), and nothing else is encrypted before it has gone.

Reading may produce something to write (where TLS 1.2 renegotiates): the reader sends it, as far as
the socket takes it. What is left goes with the next write, or when whoever waits for this link
finds that the socket has room. Until the renegotiation is over nothing else is written: OpenSSL
would go on with it from there, and take what the peer still sends for a fault.

What was decrypted or received and not yet read is nothing that a wait on the socket would notice:
`holding` says that there may be some.
"""

cimport cython
from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EIO, ENOMEM
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy

from tcpconn._link cimport (
    OUTCOME_AGAIN,
    OUTCOME_FAILED,
    OUTCOME_INTERRUPTED,
    READY_READ,
    READY_WRITE,
    Link,
    Poller,
)
from tcpconn._memory cimport memory_free, memory_take
from tcpconn._sync cimport (
    Span,
    tc_mutex_destroy,
    tc_mutex_init,
    tc_mutex_lock,
    tc_mutex_unlock,
)

import os
import ssl
import threading

from tcpconn.errors import TlsError
from tcpconn.tls_errors import tls_error


cdef extern from "Python.h":
    int Py_AddPendingCall(int (*function)(void*) except -1, void* argument)
    int Py_MakePendingCalls() except -1


cdef extern from "pythread.h" nogil:
    unsigned long PyThread_get_thread_ident()


cdef enum:
    RECORD = 16384              # plaintext in a record at most
    RECORD_HEADER = 5
    BATCH = 65536               # plaintext that is encrypted before the socket gets any of it
    RECEIVE = 4 * (RECORD + 256)    # four records and what they are wrapped in: one read's worth
    # Ciphertext made by reading that the peer may leave unread: answers to more key updates than
    # one read can bring.
    BACKLOG_MOST = 4 * RECEIVE

cdef unsigned long _main_thread = threading.main_thread().ident


def _forked():
    global _main_thread
    _main_thread = threading.main_thread().ident


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


cdef int raise_deferred(void* kept) except -1:
    error = <object> kept
    Py_DECREF(error)
    raise error


cdef inline object readable(const uint8_t* data, Py_ssize_t length):
    return PyMemoryView_FromMemory(<char*> data, length, PyBUF_READ)


cdef inline object writable(uint8_t* data, Py_ssize_t length):
    return PyMemoryView_FromMemory(<char*> data, length, PyBUF_WRITE)


@cython.final
cdef class TlsLink(Link):
    """A link on an `ssl.SSLObject` whose handshake is done, over a link that has the socket."""

    def __cinit__(
        self, Link under, sslobject, incoming, outgoing, bytes unsent=b"", bytes begun=b""
    ):
        tc_mutex_init(&self.order)
        tc_mutex_init(&self.state)
        self.under = under
        self.socket = under.socket
        self.layered = True
        self.certificate = sslobject.getpeercert() or None
        # Its methods in Python are no more than calls of this, where a signal handler could raise
        # between bytes that are taken and their number.
        self.tls = sslobject._sslobj
        self.tls_read = self.tls.read
        self.tls_write = self.tls.write
        self.may_renegotiate = sslobject.version() != "TLSv1.3"
        self.incoming = incoming
        self.outgoing = outgoing
        self.holding = True             # what came behind the handshake
        self.unsent = unsent
        self.unsent_data = <const uint8_t*> PyBytes_AS_STRING(unsent)
        self.unsent_size = <size_t> PyBytes_GET_SIZE(unsent)
        self.leftover = self.unsent_size > 0
        self.follow(<const uint8_t*> PyBytes_AS_STRING(begun), <size_t> PyBytes_GET_SIZE(begun))
        self.received = <uint8_t*> memory_take(RECEIVE)
        self.gathered = <uint8_t*> memory_take(RECORD)
        if self.received is NULL or self.gathered is NULL:
            raise MemoryError

    def __dealloc__(self):
        memory_free(self.received)
        memory_free(self.gathered)
        tc_mutex_destroy(&self.order)
        tc_mutex_destroy(&self.state)

    # Reading

    cdef Py_ssize_t read(self, Span* spans, int count) noexcept nogil:
        cdef Span space
        cdef Py_ssize_t total = 0
        cdef Py_ssize_t result
        cdef size_t asked = 0
        cdef bint more = True           # the socket may have more
        cdef int index
        for index in range(count):
            asked += spans[index].length
        space.data = self.received
        space.length = RECEIVE
        while True:
            if self.holding:
                result = self.decrypt(spans, count, <size_t> total)
                if result == OUTCOME_FAILED:
                    return total if total > 0 else OUTCOME_FAILED
                total += result
                if <size_t> total == asked or self.ended:
                    return total
                self.holding = False
            if total > 0 and not more:
                return total
            result = self.under.read(&space, 1)
            if result == OUTCOME_AGAIN:
                return total if total > 0 else OUTCOME_AGAIN
            if result <= 0:
                # Said again by the next read, if this one has something to say before.
                self.error = self.under.error
                return total if total > 0 else result
            more = <size_t> result == RECEIVE
            if self.absorb(<size_t> result):
                return total if total > 0 else OUTCOME_FAILED
            self.holding = True

    cdef int absorb(self, size_t size) noexcept nogil:
        """Hands ciphertext to the SSL object."""
        self.follow(self.received, size)
        tc_mutex_lock(&self.state)
        with gil:
            try:
                self.incoming.write(readable(self.received, <Py_ssize_t> size))
            except BaseException as error:
                self.fail(error)
        tc_mutex_unlock(&self.state)
        return -1 if self.failed else 0

    cdef void follow(self, const uint8_t* data, size_t size) noexcept nogil:
        """Keeps account of where records end: whether a whole one is there to be read."""
        cdef size_t step
        while size > 0:
            if self.partial < RECORD_HEADER:
                self.body = self.body << 8 & 0xFFFF | data[0]
                step = 1
            else:
                step = min(size, RECORD_HEADER + self.body - self.partial)
            self.partial += step
            data += step
            size -= step
            if self.partial >= RECORD_HEADER and self.partial == RECORD_HEADER + self.body:
                self.partial = 0

    cdef Py_ssize_t decrypt(self, Span* spans, int count, size_t skip) noexcept nogil:
        """Fills spans behind the first `skip` bytes with what can be decrypted. How much it was, or
        OUTCOME_FAILED.
        """
        cdef Py_ssize_t total = OUTCOME_FAILED
        cdef bint answered = False
        tc_mutex_lock(&self.state)
        if not self.failed:
            with gil:
                try:
                    total = self.decrypt_all(spans, count, skip)
                    if self.outgoing.pending > BACKLOG_MOST:
                        self.fail(TlsError("the peer wants answers and does not read them"))
                    answered = self.outgoing.pending > 0
                    if answered:
                        self.answers = True
                except BaseException as error:
                    self.fail(error)
        tc_mutex_unlock(&self.state)
        if answered:
            self.flush()
        return total

    cdef Py_ssize_t decrypt_all(self, Span* spans, int count, size_t skip) except -2:
        cdef Py_ssize_t total = 0
        cdef Py_ssize_t step
        cdef size_t done
        cdef int index
        for index in range(count):
            done = min(skip, spans[index].length)
            skip -= done
            while done < spans[index].length:
                try:
                    step = self.take(
                        <uint8_t*> spans[index].data + done,
                        <Py_ssize_t> (spans[index].length - done)
                    )
                except BaseException as error:
                    if total == 0:
                        raise
                    self.fail(error)        # for the next read to say
                    return total
                if step == 0:
                    return total
                done += <size_t> step
                total += step
        return total

    cdef Py_ssize_t take(self, uint8_t* to, Py_ssize_t room) except -2:
        """Decrypts into `to`, at most one record. 0: the end, or what came makes no record yet."""
        cdef Py_ssize_t step
        if self.ended:
            return 0
        if self.incoming.pending <= <Py_ssize_t> self.partial and self.tls.pending() == 0:
            step = OUTCOME_AGAIN
        else:
            try:
                if PyThread_get_thread_ident() == _main_thread:
                    step = self.take_on_main_thread(to, room)
                else:
                    step = self.tls_read(room, writable(to, room))
            except ssl.SSLWantReadError:
                step = OUTCOME_AGAIN        # what was there had nothing to be read in it
            except ssl.SSLZeroReturnError:
                step = 0
        if self.may_renegotiate:
            if self.outgoing.pending > 0:
                self.renegotiates = True
            if self.renegotiates and step == OUTCOME_AGAIN:
                self.renegotiates = not self.is_agreed()
        if step == OUTCOME_AGAIN:
            return 0
        if step == 0:
            self.ended = True
        return step

    cdef bint is_agreed(self) except -1:
        """Whether no renegotiation is under way; all that came is read."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                return False
            except ssl.SSLError:
                raise
            except BaseException as error:
                self.defer(error)
                continue
            return True

    cdef Py_ssize_t take_on_main_thread(self, uint8_t* to, Py_ssize_t room) except -2:
        """CPython runs signal handlers between decrypting and saying how much that was. One that
        raises must cost nothing: so the first byte of a record comes alone, and then it is known
        how many there are.
        """
        cdef Py_ssize_t first = 0
        cdef Py_ssize_t rest = self.tls.pending()
        if rest == 0:
            try:
                first = self.tls_read(1, writable(to, 1))
                if first == 0:
                    return 0
            except ssl.SSLError:
                raise
            except BaseException as error:
                self.defer(error)
                if self.tls.pending() == 0:
                    raise OSError(EIO, "a signal came while a record was read") from None
                first = 1
            rest = self.tls.pending()
        rest = min(rest, room - first)
        if rest > 0:
            try:
                self.tls_read(rest, writable(to + first, rest))
            except ssl.SSLError:
                raise
            except BaseException as error:
                self.defer(error)
        return first + rest

    # Writing

    cdef Py_ssize_t write(self, Span* spans, int count) noexcept nogil:
        cdef size_t asked = 0
        cdef size_t total = 0
        cdef size_t step
        cdef Py_ssize_t made = 0
        cdef int gone
        cdef int index
        for index in range(count):
            asked += spans[index].length
        tc_mutex_lock(&self.order)
        while True:
            gone = self.flush_ordered()
            if gone <= 0:
                break
            step = min(self.committed, asked - total)
            total += step
            self.committed -= step
            if total == asked:
                break
            made = self.encrypt(spans, count, total, BATCH)
            if made <= 0:
                break
            self.committed = <size_t> made
        tc_mutex_unlock(&self.order)
        if total > 0:
            return <Py_ssize_t> total
        return OUTCOME_FAILED if gone == OUTCOME_FAILED or made == OUTCOME_FAILED else OUTCOME_AGAIN

    cdef Py_ssize_t encrypt(
        self, Span* spans, int count, size_t skip, size_t most
    ) noexcept nogil:
        """Encrypts up to about `most` bytes behind the first `skip`, and puts the ciphertext into
        `unsent`. How many it were (0: something must be read before), or OUTCOME_FAILED.
        """
        cdef Py_ssize_t total = OUTCOME_FAILED
        tc_mutex_lock(&self.state)
        if self.renegotiates:
            total = 0
        elif not self.failed and not self.closing:
            with gil:
                try:
                    total = self.encrypt_all(spans, count, skip, most)
                    self.renegotiates = total == 0
                    self.take_ciphertext()
                except BaseException as error:
                    self.fail(error)
        tc_mutex_unlock(&self.state)
        return total

    cdef Py_ssize_t encrypt_all(self, Span* spans, int count, size_t skip, size_t most) except -2:
        cdef size_t total = 0
        cdef size_t offset = skip
        cdef size_t size
        cdef const uint8_t* data
        cdef Py_ssize_t made
        cdef int index = 0
        while True:
            while index < count and offset >= spans[index].length:
                offset -= spans[index].length
                index += 1
            if index == count or total >= most:
                return <Py_ssize_t> total
            data = spans[index].data + offset
            size = min(spans[index].length - offset, <size_t> RECORD)
            if size < RECORD and index + 1 < count:
                size = gather(self.gathered, spans + index, count - index, offset)
                data = self.gathered
            made = self.put(data, <Py_ssize_t> size)
            if made == 0:
                return <Py_ssize_t> total
            total += <size_t> made
            offset += <size_t> made

    cdef Py_ssize_t put(self, const uint8_t* data, Py_ssize_t length) except -2:
        """Encrypts one record. How much went into it; 0: something must be read before."""
        cdef Py_ssize_t before = self.outgoing.pending
        try:
            return self.tls_write(readable(data, length))
        except ssl.SSLWantReadError:
            return 0
        except (ssl.SSLError, MemoryError):
            raise
        except BaseException as error:
            if PyThread_get_thread_ident() != _main_thread:
                raise
            # As above, a signal handler: whether the record was made shows in what is to be sent.
            self.defer(error)
            if self.outgoing.pending - before <= length:
                raise OSError(EIO, "a signal came while a record was made") from None
            return length

    cdef int flush(self) noexcept nogil:
        """Hands the socket the ciphertext that there is. As `flush_ordered`."""
        cdef int gone
        tc_mutex_lock(&self.order)
        gone = self.flush_ordered()
        tc_mutex_unlock(&self.order)
        return gone

    cdef int flush_ordered(self) noexcept nogil:
        """1: the socket has taken all ciphertext; 0: it takes no more now; or OUTCOME_FAILED."""
        cdef Span span
        cdef Py_ssize_t result
        self.leftover = False
        while True:
            if self.sent == self.unsent_size and not (self.answers and self.fetch()):
                return 1
            span.data = self.unsent_data + self.sent
            span.length = self.unsent_size - self.sent
            result = self.under.write(&span, 1)
            if result == OUTCOME_FAILED:
                self.error = self.under.error
                return OUTCOME_FAILED
            if result > 0:
                self.sent += <size_t> result
            if self.sent < self.unsent_size:
                self.leftover = True
                return 0

    cdef bint fetch(self) noexcept nogil:
        """Puts the ciphertext that reading has made into `unsent`. Whether there was any."""
        tc_mutex_lock(&self.state)
        with gil:
            try:
                self.take_ciphertext()
            except BaseException as error:
                self.fail(error)
        tc_mutex_unlock(&self.state)
        return self.sent < self.unsent_size

    cdef int take_ciphertext(self) except -1:
        self.unsent = self.outgoing.read()
        self.unsent_data = <const uint8_t*> PyBytes_AS_STRING(self.unsent)
        self.unsent_size = <size_t> PyBytes_GET_SIZE(self.unsent)
        self.sent = 0
        self.answers = False
        return 0

    # Waiting

    cdef int wait(self, int events, int64_t timeout, size_t least) noexcept nogil:
        cdef int wanted, ready
        if self.interrupted and PyThread_get_thread_ident() == _main_thread:
            self.interrupted = False
            return OUTCOME_INTERRUPTED
        if self.holding and events & READY_READ:
            return READY_READ
        wanted = self.events_under(events)
        ready = self.under.wait(wanted, timeout, 1)
        if ready > 0 and ready & READY_WRITE & ~events:
            # The caller has nothing to write; it looks, and what is left goes as it comes back.
            ready = ready & ~READY_WRITE | READY_READ
        return ready

    cdef int events_under(self, int events) noexcept nogil:
        """What to wait for on the socket, when `events` is what the engine waits for."""
        if self.leftover:
            self.flush()
        if self.leftover:
            return events | READY_WRITE
        if self.renegotiates:
            return events & ~READY_WRITE | READY_READ
        return events

    cdef void wake(self) noexcept nogil:
        self.under.wake()

    cdef void give_way(self) noexcept nogil:
        self.under.give_way()

    cdef int raise_pending(self) except -1:
        Py_MakePendingCalls()
        return self.under.raise_pending()

    cdef int defer(self, object error) except -1:
        """Has the main thread raise what a signal handler raised, once it is back in Python."""
        Py_INCREF(error)
        if Py_AddPendingCall(raise_deferred, <void*> error):
            Py_DECREF(error)
            raise error
        self.interrupted = True
        return 0

    # The end

    cdef void fail(self, object error) noexcept:
        """Remembers why the link is broken. With the GIL and `state`."""
        self.failed = True
        self.holding = True             # who waits finds out
        self.answers = True             # the alert that says it to the peer
        self.error = EIO
        if isinstance(error, MemoryError):
            self.error = ENOMEM
        elif isinstance(error, ssl.SSLError):
            self.trouble = tls_error(error)
        elif isinstance(error, TlsError):
            self.trouble = error
        elif isinstance(error, OSError) and error.errno is not None:
            self.error = error.errno

    cdef void shut(self) noexcept nogil:
        # Who has the GIL must not wait for `state`; and some who call this have it.
        with gil:
            with nogil:
                self.take_leave()
        self.under.shut()

    cdef void take_leave(self) noexcept nogil:
        """Sends close_notify, if the socket takes it at once."""
        tc_mutex_lock(&self.order)
        tc_mutex_lock(&self.state)
        if not self.failed and not self.closing:
            with gil:
                try:
                    self.tls.shutdown()
                except ssl.SSLError:
                    pass                # the peer's own is not here yet
                except BaseException as error:
                    self.defer(error)
            self.answers = True
        self.closing = True
        tc_mutex_unlock(&self.state)
        self.flush_ordered()
        tc_mutex_unlock(&self.order)

    cdef void release(self) noexcept:
        self.under.release()


cdef size_t gather(uint8_t* to, const Span* spans, int count, size_t offset) noexcept nogil:
    """Copies what lies behind `offset` in spans, up to a record. How much."""
    cdef size_t total = 0
    cdef size_t step
    cdef int index
    for index in range(count):
        step = min(spans[index].length - offset, RECORD - total)
        memcpy(to + total, spans[index].data + offset, step)
        total += step
        offset = 0
        if total == RECORD:
            break
    return total


@cython.final
cdef class TlsPoller(Poller):
    """Waits for the links under its TLS links, and knows what those have already."""

    def __cinit__(self, Poller under):
        self.under = under

    cdef int register(self, Link link, void* key) except -1:
        (<TlsLink> link).ready_key = key
        return self.under.register((<TlsLink> link).under, key)

    cdef void watch(self, Link link, void* key, int events) noexcept nogil:
        if (<TlsLink> link).holding and events & READY_READ:
            if not (<TlsLink> link).ready_listed:
                (<TlsLink> link).ready_listed = True
                (<TlsLink> link).ready_next = self.ready_first
                self.ready_first = <void*> link
            events &= ~READY_READ
        self.under.watch(
            (<TlsLink> link).under, key, (<TlsLink> link).events_under(events)
        )

    cdef void unregister(self, Link link) noexcept:
        cdef void* at = self.ready_first
        cdef void* before = NULL
        if (<TlsLink> link).ready_listed:
            while at is not <void*> link:
                before = at
                at = (<TlsLink> at).ready_next
            if before is NULL:
                self.ready_first = (<TlsLink> link).ready_next
            else:
                (<TlsLink> before).ready_next = (<TlsLink> link).ready_next
            (<TlsLink> link).ready_listed = False
        self.under.unregister((<TlsLink> link).under)

    cdef int wait(self, void** keys, int* events, int most, int64_t timeout) noexcept nogil:
        cdef int count = 0
        while self.ready_first is not NULL and count < most:
            keys[count] = (<TlsLink> self.ready_first).ready_key
            events[count] = READY_READ
            (<TlsLink> self.ready_first).ready_listed = False
            self.ready_first = (<TlsLink> self.ready_first).ready_next
            count += 1
        if count == most:
            return count
        return count + self.under.wait(
            keys + count, events + count, most - count, 0 if count > 0 else timeout
        )

    cdef void wake(self) noexcept nogil:
        self.under.wake()

    cdef void release(self) noexcept:
        self.under.release()
