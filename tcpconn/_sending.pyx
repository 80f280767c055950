"""The sending half of an endpoint: Python objects become messages.

A message that finds room is put into the send queue under the session's lock with the GIL held: it
is a matter of a copy. Only who has to wait or write lets the GIL go; who then comes back holds no
lock.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint64_t

from tcpconn._ending cimport ended_error
from tcpconn._engine cimport INLINE_ROUNDS, STREAM_BATCH, Engine
from tcpconn._process cimport current_generation
from tcpconn._receiving cimport Receiving, code_name
from tcpconn._send cimport (
    ROOM_CLOSED,
    ROOM_CUT,
    ROOM_DETACHED,
    ROOM_DIRECT,
    ROOM_ENDED,
    ROOM_LOST,
    ROOM_TOO_LARGE,
    WAIT_ACK,
    send_ask,
    send_cut,
    send_direct,
    send_room,
)
from tcpconn._holding cimport hold, unhold
from tcpconn._state cimport *
from tcpconn._sync cimport tc_now
from tcpconn._waiting cimport WAITED_SIGNAL, WAITED_TIMEOUT, WANT_ROOM, Waiter, as_timeout
from tcpconn._wire cimport *

from tcpconn import errors


cdef extern from "Python.h":
    PyObject* PyTuple_GET_ITEM(object items, Py_ssize_t index)  # a borrowed reference


@cython.no_gc_clear  # what its end still needs must outlive it, in a cycle too
cdef class Sending(Receiving):
    """What a connection can send."""

    cdef int raise_send_end(self, int room, uint64_t size) except -1:
        """Why a message cannot be sent. Releases the lock."""
        cdef Engine engine = self.engine
        cdef int code = self.conn.out_code
        cdef uint64_t limit = engine.s.theirs.max_message_size
        if room == ROOM_LOST and not self.aborted and not self.closed_here:
            self.raise_lost()
        if room == ROOM_DETACHED:
            self.raise_detached()
        engine.unlock()
        if room == ROOM_TOO_LARGE:
            raise errors.MessageTooLarge(size, limit)
        if self.aborted:
            raise errors.ConnectionReset(f"connection {self.name()} was aborted here", CODE_ABORTED)
        if self.closed_here:
            raise errors.ConnectionClosed(f"connection {self.name()} was closed here")
        if room == ROOM_CLOSED or engine.s.phase == PHASE_CLOSED or not self.conn.attached:
            raise ended_error(engine)
        if code == CODE_UNKNOWN_SESSION:
            raise errors.LinkLost(
                f"connection {self.name()} ended with its session, which was lost"
            )
        if code == CODE_CLOSED or code == CODE_SHUTDOWN or code == 0:
            raise errors.ConnectionClosed(
                f"the peer has closed connection {self.name()}: nobody reads it any more"
            )
        raise errors.ConnectionReset(
            f"the peer refused connection {self.name()} ({code_name(code)})", code
        )

    cdef int await_room(self, uint64_t size, object timeout, uint64_t* deadline) except -1:
        """Waits for room. The lock is held, and held again on return; after an error it is not."""
        cdef Engine engine = self.engine
        cdef Waiter waiter
        cdef int outcome
        cdef int64_t limit
        cdef uint64_t now
        if timeout is None:
            limit = -1
        else:
            engine.unlock()
            limit = as_timeout(timeout)     # it may run any code
            engine.lock()
        if limit >= 0:
            now = tc_now()
            if deadline[0] == 0:
                deadline[0] = now + <uint64_t> limit
            limit = <int64_t> (deadline[0] - now) if now < deadline[0] else 0
        with nogil:
            engine.begin_wait(&waiter, self.conn, WANT_ROOM, size)
            if send_room(engine.s, self.conn, size) == WAIT_ACK:
                send_ask(engine.s, tc_now())
            if not engine.writing:
                engine.pump(INLINE_ROUNDS)
            outcome = engine.wait_for(&waiter, limit)
            engine.end_wait(&waiter)
            engine.sent_at = tc_now()   # the stream goes on: it was not its sender who paused
            engine.unlock()
        engine.back(&waiter)
        if outcome == WAITED_TIMEOUT:
            raise errors.Timeout(
                f"no room to send {size} bytes on connection {self.name()} within {timeout} s: "
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
            if engine.link.layered:
                engine.sent_at = tc_now()   # writing took its time: that is no pause
            engine.unlock()

    cdef int try_put(self, Part* part, bint more) except -2:
        """Queues a message of one part, if it may be copied at once. -1: it must be held. 0: there
        is no room; the lock is held, and still is in this case.
        """
        cdef Engine engine = self.engine
        cdef State* s = engine.s
        cdef int room = send_room(s, self.conn, part.length) if self.conn.attached else ROOM_ENDED
        if room == ROOM_DIRECT:
            send_direct(s, self.conn, part, 1, part.length)
            self.finish_send(more)
            return 1
        if room == ROOM_CUT:
            engine.unlock()
            return -1
        if room >= ROOM_ENDED:
            self.raise_send_end(room, part.length)
        if engine.dormant:
            self.raise_detached()
        return 0

    cdef int put(self, Part* part, object timeout, bint more) except 0:
        """Queues a message of one part, if it may be copied at once. -1: it must be held."""
        cdef int done
        cdef uint64_t deadline = 0
        self.engine.lock()
        while True:
            done = self.try_put(part, more)
            if done != 0:
                return done
            self.await_room(part.length, timeout, &deadline)

    cdef Outgoing* hold_checked(self, tuple buffers) except NULL:
        """A message of any size and number of buffers, to be queued or given to `unhold`."""
        cdef State* s = self.engine.s
        cdef uint64_t size = 0
        cdef uint64_t limit
        for buffer in buffers:
            if PyBytes_CheckExact(buffer):
                size += <uint64_t> PyBytes_GET_SIZE(buffer)
            else:
                size += <uint64_t> memoryview(buffer).nbytes
        limit = s.theirs.max_message_size
        if s.renewals != 0 and s.phase < PHASE_OPEN:
            limit = s.ours.max_message_size     # `send_room` looks again, when the peer has spoken
        if size > limit:
            raise errors.MessageTooLarge(size, limit)   # before it is copied
        return hold(buffers)

    cdef bint try_put_held(self, Outgoing** held, bint more) except -1:
        """Queues a message that is held, and takes it away then. False: there is no room; the lock
        is held, and still is in this case.
        """
        cdef Engine engine = self.engine
        cdef State* s = engine.s
        cdef Outgoing* message = held[0]
        cdef int room = send_room(s, self.conn, message.total) if self.conn.attached else ROOM_ENDED
        if room == ROOM_DIRECT:
            send_direct(s, self.conn, message.parts, message.count, message.total)
            self.finish_send(more)
            unhold(message)
            held[0] = NULL
            return True
        if room == ROOM_CUT:
            send_cut(s, self.conn, message)
            held[0] = NULL
            self.finish_send(more)
            return True
        if room >= ROOM_ENDED:
            self.raise_send_end(room, message.total)
        if engine.dormant:
            self.raise_detached()
        return False

    cdef int put_held(self, tuple buffers, object timeout, bint more) except -1:
        """Queues a message of any size and number of buffers."""
        cdef uint64_t deadline = 0
        cdef Outgoing* message = self.hold_checked(buffers)
        try:
            self.engine.lock()
            while not self.try_put_held(&message, more):
                self.await_room(message.total, timeout, &deadline)
        finally:
            if message is not NULL:
                unhold(message)
        return 0

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
        if (
            engine.generation != current_generation() or engine.s.queue.released is not NULL
            or engine.dormant
        ):
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
        self.put_held(checked_parts(buffers), timeout, False)


cdef tuple checked_parts(object buffers):
    parts = tuple(buffers)
    for part in parts:
        try:
            if not memoryview(part).c_contiguous:
                raise BufferError("it is not C-contiguous")
        except (BufferError, TypeError) as error:
            raise not_a_buffer(part, error) from None
    return parts


cdef object not_a_buffer(object data, object error):
    return errors.NotABuffer(
        "a message is bytes or anything else with a C-contiguous buffer, "
        f"not {type(data).__name__}: {error}"
    )
