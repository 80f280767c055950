"""The compiled half of a connection: where Python objects become messages and the reverse.

A message that is queued is taken, and one that finds room is put, under the session's lock with the
GIL held: both are a matter of a copy. Only who has to wait, read or write lets the GIL go; who then
comes back holds no lock.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from tcpconn._buffer cimport Block, Lease
from tcpconn._engine cimport (
    NOBODY,
    WAITED_READY,
    WAITED_SIGNAL,
    WAITED_TIMEOUT,
    WANT_ACK,
    WANT_CONNECTION,
    WANT_CUT,
    WANT_MESSAGE,
    WANT_ROOM,
    Engine,
    Waiter,
    as_timeout,
    current_generation,
)
from tcpconn._receive cimport take_message
from tcpconn._routes cimport conn_release, message_free, reader_starves
from tcpconn._send cimport (
    ROOM_CLOSED,
    ROOM_CUT,
    ROOM_DIRECT,
    ROOM_ENDED,
    ROOM_TOO_LARGE,
    WAIT_ACK,
    send_cut,
    send_direct,
    send_room,
)
from tcpconn._session cimport (
    hold,
    session_accept,
    session_detach,
    session_open,
    session_ping,
    unhold,
)
from tcpconn._state cimport *
from tcpconn._sync cimport tc_atomic_add, tc_now
from tcpconn._wire cimport *

import uuid

from tcpconn import errors
from tcpconn._frame import CODE_NAMES


cdef extern from "Python.h":
    PyObject* PyTuple_GET_ITEM(object items, Py_ssize_t index)  # a borrowed reference


cdef enum:
    INLINE_ROUNDS = 64
    STREAM_BATCH = 65536        # what gathers before it is written
    COPY_LOCKED = 16384         # up to this, copying under the lock is cheaper than taking it twice
    COPY_WITH_GIL = 65536       # and up to this, it is not worth letting the GIL go for
    SPARE_LEAST = 65537         # from this on, messages come in chunks, straight to where they go
    SPARE_MOST = 16777216       # a spare is memory held for a guess
    DIRECT_MOST = 65487         # what fits a block of the send queue, with an OPEN before it


cdef object code_name(int code):
    return CODE_NAMES.get(code, str(code))


@cython.no_gc_clear  # what its end still needs must outlive it, in a cycle too
cdef class Endpoint:
    """Base of `Connection`, which says what holds for all of its methods."""

    def __init__(self):
        raise TypeError("connections are made by connect, wrap, Multiplexer and Listener")

    def __dealloc__(self):
        cdef Engine engine = self.engine
        cdef Conn* conn = self.conn
        self.conn = NULL
        if conn is NULL or engine.generation != current_generation():
            return
        engine.lock()
        conn.owner = NULL               # before the GIL is let go: nobody shall find a dying object
        with nogil:
            if conn.attached:
                # Nobody can receive any more; what was sent still goes out.
                session_detach(engine.s, conn, CODE_CLOSED, False)
                engine.dispatch()
                engine.pump(INLINE_ROUNDS)
            conn_release(engine.s, conn)
            engine.unlock()

    cdef int check(self) except -1:
        if self.engine.generation != current_generation():
            raise errors.ConnectionClosed(
                "this connection belongs to the process that forked this one; open a new one here"
            )
        if self.engine.s.queue.released is not NULL:
            self.engine.session.drop_released()
        return 0

    # Receiving

    cdef int raise_receive_end(self) except -1:
        """Why no message will come. Releases the lock."""
        cdef Engine engine = self.engine
        cdef int code = self.conn.in_code
        cdef int out_code = self.conn.out_code
        cdef bint ended = self.conn.in_state == ROUTE_ENDED
        engine.unlock()
        if self.aborted:
            raise errors.ConnectionReset(f"connection {self.id} was aborted here", CODE_ABORTED)
        if self.closed_here:
            raise errors.ConnectionClosed(f"connection {self.id} was closed here")
        if ended and code == 0:
            raise errors.ConnectionClosed(
                f"the peer has finished connection {self.id}: no more messages"
            )
        if ended:
            raise errors.ConnectionReset(
                f"the peer reset connection {self.id} ({code_name(code)})", code
            )
        if out_code != 0 and not (engine.down or engine.s.phase == PHASE_CLOSED):
            raise errors.ConnectionReset(
                f"the peer refused connection {self.id} ({code_name(out_code)})", out_code
            )
        raise engine.ended_error()

    cdef Message* next_message(
        self, object timeout, uint64_t most, uint8_t* place, uint64_t size
    ) except NULL:
        """Takes the next message, waiting for it. With the GIL; the lock is held, and released.

        Raises `BufferTooSmall` when it has more than `most` bytes. `place`, of `size` bytes, may be
        used for the message itself, if it is large: its kind is MESSAGE_POSTED then.
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
        try:
            limit = as_timeout(timeout)
        except BaseException:
            engine.unlock()
            raise
        while True:
            message = take_message(s, conn, False, most)
            if message is not NULL:
                self.took()
                return message
            message = conn.unread_first
            if message is not NULL and message.length > most:
                now = message.length
                engine.unlock()
                raise errors.BufferTooSmall(now, most)
            if (
                conn.in_state == ROUTE_ENDED or not conn.attached
                or s.phase == PHASE_CLOSED or engine.down
                or (conn.in_state == ROUTE_IDLE and conn.out_code != 0)
            ):
                self.raise_receive_end()
            if outcome == WAITED_TIMEOUT:
                engine.unlock()
                raise errors.Timeout(f"no message on connection {self.id} within {timeout} s")
            if deadline == 0 and limit >= 0:
                deadline = tc_now() + <uint64_t> limit
            with nogil:
                reader_starves(s, conn)
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
        cdef bytes spare
        cdef Py_ssize_t length
        if engine.generation != current_generation() or s.queue.released is not NULL:
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
        if message is not NULL or conn.last_size < SPARE_LEAST:
            return self.to_bytes(self.next_message(timeout, size_ceiling(), NULL, 0))
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
            timeout, size_ceiling(), <uint8_t*> PyBytes_AS_STRING(spare), <uint64_t> length
        )
        if message.kind != MESSAGE_POSTED:
            self.spare = spare
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
                timeout, <uint64_t> view.len, <uint8_t*> view.buf, <uint64_t> view.len
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
        cdef Message* message
        cdef Lease lease
        cdef Block* block
        cdef Engine engine = self.engine
        self.check()
        engine.lock()
        message = self.next_message(timeout, size_ceiling(), NULL, 0)
        if message.kind == MESSAGE_RAW:
            # It was moved out of a sparse block: a lease wants one again.
            lease = engine.session.blocks.acquire(message.length)
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
        cdef Engine engine = self.engine
        cdef Message* message
        cdef Py_ssize_t most = <Py_ssize_t> (<size_t> -1 >> 1)
        if limit is not None:
            most = limit
            if most < 1:
                raise ValueError(
                    f"limit={limit}: at least one message is waited for; "
                    "leave it out for all there are"
                )
        messages = [self.receive(timeout)]
        while len(messages) < most:
            engine.lock()
            message = self.conn.unread_first
            if message is NULL or message.kind == MESSAGE_POSTED:
                engine.unlock()
                break
            message = self.next_message(0, size_ceiling(), NULL, 0)
            messages.append(self.to_bytes(message))
        return messages

    # Sending

    cdef int raise_send_end(self, int room, uint64_t size) except -1:
        """Why a message cannot be sent. Releases the lock."""
        cdef Engine engine = self.engine
        cdef int code = self.conn.out_code
        cdef uint64_t limit = engine.s.theirs.max_message_size
        engine.unlock()
        if room == ROOM_TOO_LARGE:
            raise errors.MessageTooLarge(size, limit)
        if self.aborted:
            raise errors.ConnectionReset(f"connection {self.id} was aborted here", CODE_ABORTED)
        if self.closed_here:
            raise errors.ConnectionClosed(f"connection {self.id} was closed here")
        if room == ROOM_CLOSED or engine.down or not self.conn.attached:
            raise engine.ended_error()
        if code == CODE_CLOSED or code == CODE_SHUTDOWN or code == 0:
            raise errors.ConnectionClosed(
                f"the peer has closed connection {self.id}: nobody reads it any more"
            )
        raise errors.ConnectionReset(
            f"the peer refused connection {self.id} ({code_name(code)})", code
        )

    cdef int await_room(self, uint64_t size, object timeout, uint64_t* deadline) except -1:
        """Waits for room. The lock is held, and held again on return; after an error it is not."""
        cdef Engine engine = self.engine
        cdef Waiter waiter
        cdef int outcome
        cdef int64_t limit
        cdef uint64_t now
        try:
            limit = as_timeout(timeout)
        except BaseException:
            engine.unlock()
            raise
        if limit >= 0:
            now = tc_now()
            if deadline[0] == 0:
                deadline[0] = now + <uint64_t> limit
            limit = <int64_t> (deadline[0] - now) if now < deadline[0] else 0
        with nogil:
            engine.begin_wait(&waiter, self.conn, WANT_ROOM, size)
            if send_room(engine.s, self.conn, size) == WAIT_ACK and engine.s.ping_sent_at == 0:
                session_ping(engine.s, tc_now())    # the answer brings the ack
            if not engine.writing:
                engine.pump(INLINE_ROUNDS)
            outcome = engine.wait_for(&waiter, limit)
            engine.end_wait(&waiter)
            engine.unlock()
        if outcome == WAITED_TIMEOUT:
            raise errors.Timeout(
                f"no room to send {size} bytes on connection {self.id} within {timeout} s: "
                "the peer does not read, or the link is slow; nothing was sent"
            )
        if outcome == WAITED_SIGNAL:
            engine.link.raise_pending()
        engine.lock()
        return 0

    cdef void finish_send(self, bint more) noexcept:
        """Sees to it that what was queued is written. Releases the lock."""
        cdef Engine engine = self.engine
        if more or not engine.sent():
            engine.unlock()
            return
        with nogil:
            engine.pump(INLINE_ROUNDS)
            engine.unlock()

    cdef int put(self, Part* part, object timeout, bint more) except 0:
        """Queues a message of one part, if it may be copied at once. -1: it must be held."""
        cdef Engine engine = self.engine
        cdef State* s = engine.s
        cdef int room
        cdef uint64_t deadline = 0
        engine.lock()
        while True:
            room = send_room(s, self.conn, part.length) if self.conn.attached else ROOM_ENDED
            if room == ROOM_DIRECT:
                send_direct(s, self.conn, part, 1, part.length)
                self.finish_send(more)
                return 1
            if room == ROOM_CUT:
                engine.unlock()
                return -1
            if room >= ROOM_ENDED:
                self.raise_send_end(room, part.length)
            self.await_room(part.length, timeout, &deadline)

    cdef int put_held(self, tuple buffers, object timeout, bint more) except -1:
        """Queues a message of any size and number of buffers."""
        cdef Engine engine = self.engine
        cdef State* s = engine.s
        cdef int room = ROOM_ENDED
        cdef uint64_t deadline = 0
        cdef uint64_t size = 0
        cdef uint64_t limit
        cdef Outgoing* message
        for buffer in buffers:
            size += <uint64_t> memoryview(buffer).nbytes
        limit = s.theirs.max_message_size
        if size > limit:
            raise errors.MessageTooLarge(size, limit)   # before it is copied
        message = hold(buffers)
        try:
            engine.lock()
            while True:
                room = send_room(s, self.conn, message.total) if self.conn.attached else ROOM_ENDED
                if room == ROOM_DIRECT:
                    send_direct(s, self.conn, message.parts, message.count, message.total)
                    self.finish_send(more)
                    return 0
                if room == ROOM_CUT:
                    send_cut(s, self.conn, message)
                    message = NULL
                    self.finish_send(more)
                    return 0
                if room >= ROOM_ENDED:
                    self.raise_send_end(room, message.total)
                self.await_room(message.total, timeout, &deadline)
        finally:
            if message is not NULL:
                unhold(message)

    cdef int send_one(self, object data, object timeout, bint more) except -1:
        cdef Py_buffer view
        cdef Part part
        if PyBytes_CheckExact(data):
            part.length = <uint64_t> PyBytes_GET_SIZE(data)
            if part.length <= DIRECT_MOST:
                part.data = <uint8_t*> PyBytes_AS_STRING(data)
                if self.put(&part, timeout, more) > 0:
                    return 0
            return self.put_held((data,), timeout, more)
        try:
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        except (BufferError, TypeError) as error:
            raise not_a_buffer(data, error) from None
        try:
            part.length = <uint64_t> view.len
            part.data = <uint8_t*> view.buf
            if part.length <= DIRECT_MOST and self.put(&part, timeout, more) > 0:
                return 0
            return self.put_held((data,), timeout, more)
        finally:
            PyBuffer_Release(&view)

    def send(self, data, timeout=None):
        """Sends one message: bytes, or anything else with a C-contiguous buffer.

        Returns when the message is queued, whole; `flush` waits until the peer has it. Waits while
        the peer does not read what was sent before, or the link is slower than the sender. `data`
        may be changed as soon as this returns.

        Raises `Timeout` when there was no room in time: nothing was sent, send it again if you
        like. `MessageTooLarge` and `NotABuffer`: nothing was sent either, and the connection works
        on. `ConnectionClosed` when it is closed here, or by the peer, so that nobody would read the
        message; `ConnectionReset`, `LinkLost` or `ProtocolError` when it ended in another way.
        """
        cdef Engine engine = self.engine
        if engine.generation != current_generation() or engine.s.queue.released is not NULL:
            self.check()
        self.send_one(data, timeout, False)

    cdef Py_ssize_t put_run(self, tuple messages, Py_ssize_t start) noexcept:
        """Queues messages from `start` on, as many as go without waiting, under one lock.

        Writes when enough has gathered. Returns how many it has queued; 0 when the first cannot be
        queued in this way.
        """
        cdef Engine engine = self.engine
        cdef State* s = engine.s
        cdef Part part
        cdef Py_ssize_t index = start
        cdef PyObject* message
        engine.lock()
        while (
            index < len(messages) and s.queue.unwritten < STREAM_BATCH and self.conn.attached
        ):
            message = PyTuple_GET_ITEM(messages, index)
            if not PyBytes_CheckExact(<object> message):
                break
            part.length = <uint64_t> PyBytes_GET_SIZE(<object> message)
            part.data = <uint8_t*> PyBytes_AS_STRING(<object> message)
            if part.length > DIRECT_MOST or send_room(s, self.conn, part.length) != ROOM_DIRECT:
                break
            if send_direct(s, self.conn, &part, 1, part.length):
                break
            index += 1
        if s.queue.unwritten < STREAM_BATCH or engine.writing:
            engine.unlock()
        else:
            with nogil:
                engine.pump(INLINE_ROUNDS)
                engine.unlock()
        return index - start

    def send_many(self, messages, timeout=None):
        """Sends each of `messages` as `send` does, in as few writes as can be. Returns how many.

        What came first may wait for what comes last: an iterator should not take its time.
        `timeout` is for each message. When it raises, as `send` does, the messages before the one
        in question are sent, that one and those behind it are not.
        """
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t run
        cdef tuple held
        self.check()
        try:
            if type(messages) is list or type(messages) is tuple:
                held = tuple(messages)
                while count < len(held):
                    run = self.put_run(held, count)
                    count += run
                    if run == 0:
                        self.send_one(held[count], timeout, True)
                        count += 1
            else:
                for message in messages:
                    self.send_one(message, timeout, True)
                    count += 1
        finally:
            if count > 0:
                self.engine.lock()
                self.finish_send(False)
        return count

    def send_parts(self, buffers, timeout=None):
        """Sends one message that is made of several buffers, without joining them first.

        The peer receives their bytes in a row. No buffers make an empty message. Everything else is
        as in `send`.
        """
        self.check()
        parts = tuple(buffers)
        for part in parts:
            try:
                if not memoryview(part).c_contiguous:
                    raise BufferError("it is not C-contiguous")
            except (BufferError, TypeError) as error:
                raise not_a_buffer(part, error) from None
        self.put_held(parts, timeout, False)

    # Flushing and ending

    cdef bint has_unacknowledged(self) noexcept nogil:
        """Whether the peer's session may not have all messages of this connection."""
        return (
            self.engine.s.queue.acked < self.conn.data_sequence
            or self.conn.outgoing_first is not NULL
        )

    cdef object await_acks(self, int64_t limit):
        """Waits until the peer has acknowledged all that was sent here. None, or `Timeout`."""
        cdef Engine engine = self.engine
        cdef State* s = engine.s
        cdef uint64_t sent, sequence
        cdef uint64_t started = tc_now()
        engine.lock()
        sent = self.conn.messages_sent
        engine.unlock()
        outcome = engine.wait_with_gil(self.conn, WANT_CUT, sent, limit)
        if outcome is not None:
            return outcome
        with nogil:
            engine.lock()
            sequence = self.conn.data_sequence
            if s.queue.acked < sequence:
                engine.pump(INLINE_ROUNDS)
                engine.ask_for_ack()
            engine.unlock()
        if limit >= 0:
            limit = max(<int64_t> 0, limit - <int64_t> (tc_now() - started))
        return engine.wait_with_gil(self.conn, WANT_ACK, sequence, limit)

    def flush(self, timeout=None):
        """Waits until the peer has acknowledged all that was sent here before: it has reached the
        receive queue of the other process. That says nothing of whether its program has read it.

        Raises `Timeout` when it took longer: nothing is lost, it is still on its way; call it
        again. Raises what has ended the connection when that happened before all was acknowledged.
        """
        self.check()
        self.check_heard()
        if self.await_acks(as_timeout(timeout)) is not None:
            raise errors.Timeout(
                f"the peer has not acknowledged all of connection {self.id} within {timeout} s"
            )
        self.check_heard()

    cdef int check_heard(self) except -1:
        """Raises what ended the connection while the peer had not acknowledged all of it."""
        cdef Engine engine = self.engine
        cdef State* s = engine.s
        engine.lock()
        if s.phase == PHASE_CLOSED and self.has_unacknowledged():
            self.raise_send_end(ROOM_CLOSED, 0)
        if self.conn.unheard or not self.conn.attached:
            self.raise_send_end(ROOM_ENDED, 0)
        engine.unlock()
        return 0

    def close(self, timeout=5):
        """Ends the connection behind what was sent, and waits until the peer has acknowledged that.

        The peer can still receive all of it; then its `receive` raises `ConnectionClosed`, and so
        does its `send` from now on. Messages that nobody has received here are dropped. Threads
        that wait on this connection are woken, with `ConnectionClosed`. Closing it again does
        nothing.

        Raises `Timeout` when the peer did not acknowledge in time; the connection is aborted then,
        and what had not left is lost. Raises what ended the link when it ended before that.
        """
        cdef Engine engine = self.engine
        cdef State* s = engine.s
        cdef bint pending
        if engine.generation != current_generation() or self.closed_here:
            return
        self.check()
        self.closed_here = True
        with nogil:
            engine.lock()
            # A reply says as much as an ack: only what is not acknowledged is waited for.
            pending = s.phase != PHASE_CLOSED and self.has_unacknowledged()
            session_detach(s, self.conn, CODE_CLOSED, False)
            engine.used_at = tc_now()
            engine.dispatch()
            # Not every end here is an event of the session's: it may have to come behind messages.
            engine.wake_receivers(self.conn)
            engine.wake_others()
            engine.send_later()
            engine.unlock()
        if not pending:
            return
        if self.await_acks(as_timeout(timeout)) is None:
            engine.lock()
            pending = s.phase == PHASE_CLOSED and self.has_unacknowledged()
            engine.unlock()
            if pending:
                raise engine.ended_error()
            return
        self.abort()
        raise errors.Timeout(
            f"the peer has not acknowledged all of connection {self.id} "
            f"within {timeout} s of its close; what it has not taken is lost"
        )

    def abort(self):
        """Ends the connection now, without waiting: what was sent and has not left is dropped.

        The peer can receive the messages that it has already; then it gets `ConnectionReset`.
        Threads that wait on this connection are woken with the same. Never raises; may be called at
        any time.
        """
        cdef Engine engine = self.engine
        if engine.generation != current_generation():
            return
        self.aborted = True
        self.closed_here = True
        with nogil:
            engine.lock()
            session_detach(engine.s, self.conn, CODE_ABORTED, True)
            engine.used_at = tc_now()
            engine.dispatch()
            # Not every end here is an event of the session's: it may have to come behind messages.
            engine.wake_receivers(self.conn)
            engine.wake_others()
            engine.pump(INLINE_ROUNDS)
            engine.unlock()

    # What is known

    @property
    def id(self):
        """What names the connection on both sides."""
        cdef uint8_t id[16]
        put_u64(put_u64(id, self.conn.id_high), self.conn.id_low)
        return uuid.UUID(bytes=(<const char*> id)[:16])

    @property
    def priority(self):
        """How urgent what is sent here is, among the connections of the link: 0 (least) to 7."""
        return self.conn.priority

    @property
    def closed(self):
        """Whether it is over on this side: closed or aborted here, or the link is gone.

        False while the peer alone has closed it: what it sent before can still be received.
        """
        cdef Engine engine = self.engine
        return self.closed_here or not self.conn.attached or engine.is_down

    @property
    def state(self):
        """For people: open, finished by peer, reset by peer, closed, aborted, ended or lost."""
        cdef Engine engine = self.engine
        if self.aborted:
            return "aborted"
        if self.closed_here or not self.conn.attached:
            return "closed"
        if engine.is_down:
            if engine.s.fault_is_loss and not (engine.closed_here or engine.s.goaway_received):
                return "lost"
            return "ended"
        if self.conn.in_state == ROUTE_ENDED:
            return "finished by peer" if self.conn.in_code == 0 else "reset by peer"
        return "open"

    def counters(self):
        """Messages sent, received, bytes sent, received, unread messages, bytes, credit, window."""
        cdef Conn conn
        # Making a tuple may set off the collector, and that may come to a connection of ours.
        self.engine.lock()
        conn = self.conn[0]
        self.engine.unlock()
        return (
            conn.messages_sent, conn.messages_received, conn.bytes_sent, conn.bytes_received,
            conn.unread_count, conn.unread_bytes, conn.send_limit - conn.send_used, conn.window,
        )


cdef object not_a_buffer(object data, object error):
    return errors.NotABuffer(
        "a message is bytes or anything else with a C-contiguous buffer, "
        f"not {type(data).__name__}: {error}"
    )


def open_endpoint(kind, Engine engine, bytes id, int priority=-1):
    """Opens the connection named `id` (16 bytes) as an object of class `kind`. Raises why not."""
    cdef Cursor cursor = cursor_over(<const uint8_t*> PyBytes_AS_STRING(id), len(id))
    cdef uint64_t high = take_u64(&cursor)
    cdef uint64_t low = take_u64(&cursor)
    cdef Conn* conn = NULL
    cdef int code
    cdef Endpoint endpoint = <Endpoint> kind.__new__(kind)
    if engine.is_down:
        raise engine.ended_error()
    with nogil:
        engine.lock()
        code = session_open(engine.s, high, low, priority, &conn)
        engine.used_at = tc_now()
        if code == 0:
            engine.send_later()
        engine.unlock()
    endpoint.engine = engine
    endpoint.conn = conn
    if code == 0:
        conn.owner = <void*> endpoint
        return endpoint
    name = uuid.UUID(bytes=id)
    if code == CODE_DUPLICATE:
        raise errors.ConnectionClosed(
            f"connection {name} is open here already, or the peer has not closed it yet"
        )
    if code == CODE_LIMIT:
        raise errors.ConnectionClosed(
            f"the peer takes no more than {engine.s.theirs.max_connections} connections "
            "on one session"
        )
    if code == CODE_SHUTDOWN:
        raise errors.ConnectionClosed("this link takes no new connections: it is about to close")
    raise MemoryError


def accept_endpoint(kind, Engine engine, timeout=0):
    """The next connection that the peer opened, of class `kind`; None if there is none in time."""
    cdef Endpoint endpoint = <Endpoint> kind.__new__(kind)
    cdef Conn* conn = NULL
    cdef int64_t limit = as_timeout(timeout)
    cdef uint64_t deadline = tc_now() + <uint64_t> max(limit, <int64_t> 0)
    cdef uint64_t now
    while True:
        engine.lock()
        conn = session_accept(engine.s)
        engine.unlock()
        if conn is not NULL:
            endpoint.engine = engine
            endpoint.conn = conn
            conn.owner = <void*> endpoint
            return endpoint
        if engine.is_down:
            raise engine.ended_error()
        if limit == 0:
            return None
        if engine.wait_with_gil(NULL, WANT_CONNECTION, 0, limit) is not None:
            return None
        if limit > 0:
            now = tc_now()
            limit = <int64_t> (deadline - now) if now < deadline else 0


def endpoints(Engine engine):
    """The objects that stand for connections of an engine."""
    cdef Conn* conn
    found = []
    engine.lock()
    conn = engine.s.attached
    while conn is not NULL:
        if conn.owner is not NULL:
            found.append(<object> conn.owner)
        conn = conn.attached_behind
    engine.unlock()
    return found
