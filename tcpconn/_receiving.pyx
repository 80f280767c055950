"""The receiving half of an endpoint: messages become Python objects.

A message that is queued is taken under the session's lock with the GIL held: it is a matter of a
copy. Only who has to wait or read lets the GIL go; who then comes back holds no lock.
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from tcpconn._buffer cimport Block, Lease
from tcpconn._ending cimport ended_error
from tcpconn._engine cimport INLINE_ROUNDS, NOBODY, Engine
from tcpconn._process cimport current_generation
from tcpconn._receive cimport take_message
from tcpconn._routes cimport message_free, reader_starves
from tcpconn._state cimport *
from tcpconn._sync cimport tc_atomic_add, tc_now
from tcpconn._waiting cimport (
    WAITED_READY,
    WAITED_SIGNAL,
    WAITED_TIMEOUT,
    WANT_MESSAGE,
    Waiter,
    as_timeout,
)
from tcpconn._wire cimport *

from tcpconn import errors
from tcpconn._frame import CODE_NAMES


cdef enum:
    RUN_MOST = 64               # messages taken under one lock
    COPY_WITH_GIL = 65536       # and up to this, it is not worth letting the GIL go for
    SPARE_LEAST = 65537         # from this on, messages come in chunks, straight to where they go
    SPARE_MOST = 16777216       # a spare is memory held for a guess


cdef const char* DIGITS = b"0123456789abcdef"


cdef object code_name(int code):
    return CODE_NAMES.get(code, str(code))


cdef Py_ssize_t most_messages(object limit) except -1:
    """The `limit` of `receive_many` as a number."""
    cdef Py_ssize_t most = <Py_ssize_t> (<size_t> -1 >> 1)
    if limit is not None:
        most = limit
        if most < 1:
            raise ValueError(
                f"limit={limit}: at least one message is waited for; leave it out for all there are"
            )
    return most


@cython.no_gc_clear  # what its end still needs must outlive it, in a cycle too
cdef class Receiving:
    """What a connection can receive."""

    cdef int check(self) except -1:
        if self.engine.generation != current_generation():
            raise errors.ConnectionClosed(
                "this connection belongs to the process that forked this one; open a new one here"
            )
        if self.engine.s.queue.released is not NULL:
            self.engine.session.drop_released()
        if self.engine.dormant:
            self.engine.on_use()
        return 0

    cdef str name(self):
        """The UUID as people read it; for errors, of which some end loops that are in a hurry."""
        cdef char[36] text
        cdef uint64_t half = self.conn.id_high
        cdef int at = 0
        cdef int digit
        for digit in range(32):
            if digit == 16:
                half = self.conn.id_low
            if digit == 8 or digit == 12 or digit == 16 or digit == 20:
                text[at] = b"-"
                at += 1
            text[at] = DIGITS[half >> 60]
            half <<= 4
            at += 1
        return PyUnicode_DecodeASCII(text, 36, NULL)

    cdef int raise_lost(self) except -1:
        """The session was lost with what this connection had sent: says so, once. Releases the
        lock.
        """
        cdef Engine engine = self.engine
        cdef Conn* conn = self.conn
        cdef uint32_t number = conn.lost
        cdef uint32_t route = conn.lost_route
        cdef uint64_t sent = conn.messages_sent - conn.sent_before
        conn.sent_before = conn.messages_sent
        conn.lost = 0
        engine.unlock()
        reason, doubt, unsent = engine.session.left_by(number, route)
        raise errors.SessionLost(
            f"the session with {engine.peer_address} was lost: {reason}. Of {sent} messages sent "
            f"on connection {self.name()}, the peer took {sent - len(doubt) - len(unsent)}, "
            f"{len(doubt)} are in doubt and {len(unsent)} were not sent",
            sent - len(doubt) - len(unsent), doubt, unsent,
        )

    cdef int raise_detached(self) except -1:
        """There is no link, and nobody is to wait for one. Releases the lock."""
        cdef Engine engine = self.engine
        engine.unlock()
        raise errors.LinkLost(
            f"there is no link to {engine.peer_address} at present; nothing is lost, try again"
        )

    cdef int raise_receive_end(self) except -1:
        """Why no message will come. Releases the lock."""
        cdef Engine engine = self.engine
        cdef int code = self.conn.in_code
        cdef int out_code = self.conn.out_code
        cdef bint ended = self.conn.in_state == ROUTE_ENDED
        cdef bint lost = self.conn.lost != 0
        if (
            engine.s.detached and (engine.s.fails_detached or engine.dormant)
            and not (ended or lost) and self.conn.attached
        ):
            self.raise_detached()
        engine.unlock()
        if self.aborted:
            raise errors.ConnectionReset(f"connection {self.name()} was aborted here", CODE_ABORTED)
        if self.closed_here:
            raise errors.ConnectionClosed(f"connection {self.name()} was closed here")
        if lost:
            engine.lock()
            self.raise_lost()
        if ended and code == CODE_UNKNOWN_SESSION:
            raise errors.LinkLost(
                f"connection {self.name()} ended with its session, which was lost"
            )
        if ended and code == 0:
            raise errors.ConnectionClosed(
                f"the peer has finished connection {self.name()}: no more messages"
            )
        if ended:
            refused = code in (CODE_REFUSED, CODE_LIMIT, CODE_DUPLICATE)
            did = "refused" if refused else "reset"
            raise errors.ConnectionReset(
                f"the peer {did} connection {self.name()} ({code_name(code)})", code
            )
        if out_code != 0 and engine.s.phase != PHASE_CLOSED:
            raise errors.ConnectionReset(
                f"the peer refused connection {self.name()} ({code_name(out_code)})", out_code
            )
        raise ended_error(engine)

    cdef Message* try_message(self, uint64_t most) except? NULL:
        """Takes the next message, if it is there. The lock is held, and still is when it is not.

        Raises `BufferTooSmall` when it has more than `most` bytes, or why no message will come.
        """
        cdef Engine engine = self.engine
        cdef State* s = engine.s
        cdef Conn* conn = self.conn
        cdef Message* message = take_message(s, conn, False, most)
        cdef uint64_t length
        if message is not NULL:
            self.took()
            return message
        message = conn.unread_first
        if message is not NULL and message.length > most:
            length = message.length
            engine.unlock()
            raise errors.BufferTooSmall(length, most)
        if (
            conn.in_state == ROUTE_ENDED or not conn.attached
            or s.phase == PHASE_CLOSED or conn.lost != 0
            or (s.detached and (s.fails_detached or engine.dormant))
            or (conn.in_state == ROUTE_IDLE and conn.out_code != 0)
        ):
            self.raise_receive_end()
        return NULL

    cdef bint is_finished(self) noexcept nogil:
        """Whether the peer has closed the connection in order, and all that it sent was taken."""
        cdef Conn* conn = self.conn
        return (
            conn.in_state == ROUTE_ENDED and conn.in_code == 0 and conn.unread_first is NULL
            and conn.lost == 0 and not self.aborted
        )

    cdef Message* next_message(
        self, object timeout, uint64_t most, uint8_t* place, uint64_t size, bint iterates
    ) except? NULL:
        """Takes the next message, waiting for it. With the GIL; the lock is held, and released.

        Raises `BufferTooSmall` when it has more than `most` bytes. `place`, of `size` bytes, may be
        used for the message itself, if it is large: its kind is MESSAGE_POSTED then. NULL when the
        connection is finished, for who iterates: to raise and to catch what says so takes longer
        than to receive a message.
        """
        cdef Engine engine = self.engine
        cdef State* s = engine.s
        cdef Conn* conn = self.conn
        cdef Message* message
        cdef Waiter waiter
        cdef int outcome = WAITED_READY
        cdef int64_t limit
        cdef uint64_t deadline = 0
        cdef uint64_t now
        if timeout is None:
            limit = -1
        else:
            engine.unlock()
            limit = as_timeout(timeout)     # it may run any code
            engine.lock()
        while True:
            if iterates and self.is_finished():
                engine.unlock()
                return NULL
            message = self.try_message(most)
            if message is not NULL:
                return message
            if outcome == WAITED_TIMEOUT:
                engine.unlock()
                raise errors.Timeout(f"no message on connection {self.name()} within {timeout} s")
            if deadline == 0 and limit >= 0:
                deadline = tc_now() + <uint64_t> limit
            with nogil:
                reader_starves(s, conn)
                if s.credit_urgent:
                    engine.pump(INLINE_ROUNDS)  # who reads the link may be another, and wait
                engine.begin_wait(&waiter, conn, WANT_MESSAGE, 0)
                if place is not NULL and engine.reading == NOBODY and s.posted_by is NULL:
                    engine.take_role(&waiter)
                    s.posted_by = conn
                    s.posted_data = place
                    s.posted_size = size
                outcome = engine.wait_for(&waiter, limit)
                message = NULL
                if outcome == WAITED_READY:
                    message = take_message(s, conn, waiter.reader, most)
                engine.end_wait(&waiter)
                if message is not NULL and self.owes_credit():
                    engine.pump(INLINE_ROUNDS)
                engine.unlock()
            engine.back(&waiter)
            if message is not NULL:
                return message
            if outcome == WAITED_SIGNAL:
                engine.link.raise_pending()
            if limit >= 0:
                now = tc_now()
                limit = <int64_t> (deadline - now) if now < deadline else 0
            engine.lock()

    cdef bint owes_credit(self) noexcept nogil:
        """Whether a message that was taken is worth telling the peer about now."""
        self.engine.replied = self.conn.unread_count == 0
        return self.engine.s.credit_urgent

    cdef void took(self) noexcept:
        """A message was taken. Releases the lock."""
        if not self.owes_credit():
            self.engine.unlock()
            return
        with nogil:
            self.engine.pump(INLINE_ROUNDS)
            self.engine.unlock()

    cdef void free_message(self, Message* message):
        self.engine.lock()
        message_free(self.engine.s, message)
        self.engine.unlock()

    cdef object to_bytes(self, Message* message):
        """A taken message as bytes; frees it."""
        cdef Py_ssize_t length = <Py_ssize_t> message.length
        cdef char* to
        try:
            data = PyBytes_FromStringAndSize(NULL, length)
            to = PyBytes_AS_STRING(data)
            if length <= COPY_WITH_GIL:
                memcpy(to, message.data, <size_t> length)
            else:
                with nogil:
                    memcpy(to, message.data, <size_t> length)
            return data
        finally:
            self.free_message(message)

    def receive(self, timeout=None):
        """The next message. Waits for it.

        What arrived before the peer closed the connection, or before the link broke, is handed out
        first. Then raises `ConnectionClosed` when the peer has closed it, so that there will be no
        more messages, or when it was closed here; `ConnectionReset`, `LinkLost` or `ProtocolError`
        when it ended in another way. Raises `Timeout` when there was no message in time: nothing is
        lost, call it again.
        """
        cdef Engine engine = self.engine
        cdef State* s = engine.s
        cdef Conn* conn = self.conn
        cdef Message* message
        cdef bytes data
        if (
            engine.generation != current_generation() or s.queue.released is not NULL
            or engine.dormant
        ):
            self.check()
        engine.lock()
        message = conn.unread_first
        if message is not NULL and message.length <= COPY_LOCKED and message.kind != MESSAGE_POSTED:
            try:
                data = PyBytes_FromStringAndSize(<char*> message.data, <Py_ssize_t> message.length)
            except MemoryError:
                engine.unlock()
                raise
            message_free(s, take_message(s, conn, False, COPY_LOCKED))
            self.took()
            return data
        return self.receive_next(timeout, False)

    def _next(self):
        """The next message; None once the peer has closed the connection, and all was received.

        For iterating. Raises what else `receive` raises.
        """
        self.check()
        self.engine.lock()
        return self.receive_next(None, True)

    cdef object receive_next(self, object timeout, bint iterates):
        """What `receive` returns; None for who iterates, when the connection is finished. The lock
        is held, and released.
        """
        cdef Engine engine = self.engine
        cdef Conn* conn = self.conn
        cdef Message* message = conn.unread_first
        cdef bytes spare
        cdef Py_ssize_t length
        if message is not NULL or conn.last_size < SPARE_LEAST:
            message = self.next_message(timeout, size_ceiling(), NULL, 0, iterates)
            return None if message is NULL else self.to_bytes(message)
        # Large messages come here: the next one may go from the socket straight into its bytes.
        spare = self.spare
        self.spare = None
        length = <Py_ssize_t> min(conn.last_size, <uint64_t> SPARE_MOST)
        if spare is None or PyBytes_GET_SIZE(spare) != length:
            try:
                spare = PyBytes_FromStringAndSize(NULL, length)
            except MemoryError:
                engine.unlock()
                raise
        message = self.next_message(
            timeout, size_ceiling(), <uint8_t*> PyBytes_AS_STRING(spare), <uint64_t> length,
            iterates,
        )
        if message is NULL:
            return None
        if message.kind != MESSAGE_POSTED:
            engine.lock()
            _other = self.spare         # another receiver's, who was here meanwhile
            self.spare = spare
            engine.unlock()
            return self.to_bytes(message)
        length = <Py_ssize_t> message.length
        self.free_message(message)
        return spare if length == PyBytes_GET_SIZE(spare) else spare[:length]

    def receive_into(self, buffer, timeout=None):
        """Receives the next message into a writable, C-contiguous buffer. Returns its size.

        A large message comes straight from the socket if nothing else was waiting. The buffer
        behind the message, or all of it when this raises, has undefined contents.

        Raises `BufferTooSmall` (its `size` says what is needed): the message stays the next one,
        receive it in another way. `NotABuffer` for one that cannot be written to. Else as
        `receive`.
        """
        cdef Py_buffer view
        cdef Message* message
        cdef uint64_t length
        self.check()
        try:
            PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        except (BufferError, TypeError) as error:
            raise errors.NotABuffer(
                "receive_into needs a writable, C-contiguous buffer, "
                f"not {type(buffer).__name__}: {error}"
            ) from None
        try:
            self.engine.lock()
            message = self.next_message(
                timeout, <uint64_t> view.len, <uint8_t*> view.buf, <uint64_t> view.len, False
            )
            length = message.length
            if message.kind != MESSAGE_POSTED:
                if length <= COPY_WITH_GIL:
                    memcpy(view.buf, message.data, <size_t> length)
                else:
                    with nogil:
                        memcpy(view.buf, message.data, <size_t> length)
            self.free_message(message)
            return length
        finally:
            PyBuffer_Release(&view)

    def receive_view(self, timeout=None):
        """The next message where it lies, without a copy: a `Lease`, to be released after use.

            with connection.receive_view() as lease, memoryview(lease) as view:
                ...

        A lease keeps a block of memory (128 KiB for small messages, which share it) in use until it
        and all views on it are released. For small messages `receive` is faster. Raises what
        `receive` raises.
        """
        self.check()
        self.engine.lock()
        return self.to_lease(self.next_message(timeout, size_ceiling(), NULL, 0, False))

    cdef object to_lease(self, Message* message):
        """A taken message where it lies; frees its record."""
        cdef Lease lease
        cdef Block* block
        if message.kind == MESSAGE_RAW:
            # It was moved out of a sparse block: a lease wants one again.
            lease = self.engine.session.blocks.acquire(message.length)
            memcpy(lease.data, message.data, <size_t> message.length)
            self.free_message(message)
            return lease
        lease = Lease.__new__(Lease)
        block = message.block
        tc_atomic_add(&block.references, 1)
        lease.take_over(block, message.data, <size_t> message.length)
        self.free_message(message)
        return lease

    def receive_many(self, limit=None, timeout=None):
        """Waits for a message, and returns it with those that are there already: at most `limit`.

        Never returns an empty list. Raises what `receive` raises, or `ValueError` for a `limit`
        below 1.
        """
        cdef Py_ssize_t most = most_messages(limit)
        messages = [self.receive(timeout)]
        self.take_all(messages, most)
        return messages

    cdef int take_all(self, list messages, Py_ssize_t most) except -1:
        """Adds messages that are there, until there are `most`."""
        cdef Engine engine = self.engine
        cdef Message* message
        while len(messages) < most:
            if self.take_run(messages, most) > 0:
                continue
            engine.lock()
            message = take_message(engine.s, self.conn, False, size_ceiling())
            if message is NULL:
                engine.unlock()
                break
            self.took()
            messages.append(self.to_bytes(message))
        return 0

    cdef Py_ssize_t take_run(self, list messages, Py_ssize_t most) except -1:
        """Adds small messages that are there, a few under one lock, up to `most`. How many."""
        cdef State* s = self.engine.s
        cdef Conn* conn = self.conn
        cdef Message* message
        cdef Py_ssize_t count = 0
        self.engine.lock()
        try:
            while count < RUN_MOST and len(messages) < most:
                message = conn.unread_first
                if (
                    message is NULL or message.length > COPY_LOCKED
                    or message.kind == MESSAGE_POSTED
                ):
                    break
                messages.append(
                    PyBytes_FromStringAndSize(<char*> message.data, <Py_ssize_t> message.length)
                )
                message_free(s, take_message(s, conn, False, COPY_LOCKED))
                count += 1
        finally:
            self.took()
        return count
