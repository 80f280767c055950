"""The compiled half of a connection in an event loop: its methods give operations to be awaited.

An operation does its work when it is awaited, at once if that can be done without waiting: a
message is there, or there is room for one. It raises, and takes the lock, exactly as the blocking
methods do. What has to wait registers a `Wait` with the engine, and tries again when that is over.
A message is taken, or queued, in the same step in which the operation ends; so one that is
cancelled has done nothing.

Tasks drive operations through the slot for this (`am_send`), which costs no exception for a result.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from tcpconn._endpoint cimport Endpoint
from tcpconn._ending cimport ended_error
from tcpconn._engine cimport INLINE_ROUNDS, Engine
from tcpconn._holding cimport unhold
from tcpconn._lifecycle cimport session_ping
from tcpconn._loop cimport LoopHerald, Wait
from tcpconn._process cimport current_generation
from tcpconn._receive cimport take_message
from tcpconn._receiving cimport COPY_LOCKED, most_messages
from tcpconn._routes cimport message_free, reader_starves
from tcpconn._send cimport WAIT_ACK, send_ask, send_room, wants_write
from tcpconn._sending cimport DIRECT_MOST, checked_parts, not_a_buffer
from tcpconn._state cimport *
from tcpconn._sync cimport tc_now
from tcpconn._waiting cimport (
    DUE_LOOK,
    WANT_ACK,
    WANT_CONNECTION,
    WANT_CUT,
    WANT_MESSAGE,
    WANT_PONG,
    WANT_ROOM,
)
from tcpconn._wire cimport size_ceiling

import asyncio
import warnings

from tcpconn import errors
from tcpconn._endpoint import accept_endpoint


cdef enum:
    WRITE_WITH_GIL = 16384      # bytes

cdef extern from *:
    """
    static PyObject *(*tc_step)(PyObject *, int *);

    static PySendResult tc_send(PyObject *operation, PyObject *value, PyObject **result) {
        int finished = 0;
        (void)value;
        *result = tc_step(operation, &finished);
        if (*result == NULL) return PYGEN_ERROR;
        return finished ? PYGEN_RETURN : PYGEN_NEXT;
    }

    static void tc_drive_by(PyTypeObject *type, void *step) {
        tc_step = (PyObject *(*)(PyObject *, int *)) step;
        type->tp_as_async->am_send = tc_send;
        PyType_Modified(type);
    }
    """
    ctypedef struct PyTypeObject:
        pass
    void tc_drive_by(PyTypeObject* type, void* step)


cdef LoopHerald herald_of(Engine engine):
    if engine.herald is None:
        raise errors.WrongLoop("this object belongs to no event loop")
    return <LoopHerald> engine.herald


cdef object step_of(Operation operation, int* finished):
    cdef bint is_finished = False
    result = operation.step(&is_finished)
    finished[0] = is_finished
    return result


cdef class Operation:
    """Something under way. Awaited once."""

    def __dealloc__(self):
        if self.stage == STAGE_FRESH and self.engine is not None:
            warnings.warn(
                f"{type(self).__name__.lower()} on a connection was never awaited, so it was not "
                "done", RuntimeWarning, stacklevel=2,
            )

    cdef bint attempt(self) except -1:
        """Does it, if that is possible without waiting. If not, `wait` is registered if there is
        one, and the answer False.
        """
        raise NotImplementedError

    cdef void wait_unlocked(self, Conn* conn, int wanted, uint64_t amount) noexcept:
        """Under the lock, which is released: registers `wait`, if there is one."""
        cdef Engine engine = self.engine
        if self.wait is None:
            engine.unlock()
            return
        self.wait.begin(conn, wanted, amount)
        if engine.writing or not wants_write(engine.s):
            engine.unlock()
            return
        with nogil:
            engine.pump(INLINE_ROUNDS)      # what the peer may be waiting for
            engine.unlock()

    cdef object step(self, bint* finished):
        cdef LoopHerald herald
        if self.stage == STAGE_OVER or (self.stage == STAGE_WAITING and self.wait.waiting):
            raise RuntimeError("this is awaited already; each call gives what one task can await")
        if self.stage == STAGE_FRESH:
            self.stage = STAGE_OVER
            herald = herald_of(self.engine)
            herald.check()
            self.stage = STAGE_BEGUN
            if herald.spent(1):
                return None                 # before anything is done that could be lost
        self.stage = STAGE_OVER
        if self.attempt():
            finished[0] = True
            return self.value
        if self.wait is None:
            self.make_wait()
            if self.attempt():
                finished[0] = True
                return self.value
        self.stage = STAGE_WAITING
        return self.wait

    cdef int make_wait(self) except -1:
        """Not under the lock: memory may be collected, and with it a connection closed."""
        self.wait = Wait.__new__(Wait)
        self.wait.engine = self.engine
        self.wait.herald = <LoopHerald> self.engine.herald
        return 0

    cdef bint leave(self) noexcept:
        """It is called off. Whether it was under way."""
        cdef int stage = self.stage
        self.stage = STAGE_OVER
        if stage == STAGE_WAITING:
            if self.wait.waiting:
                self.wait.cancel()
            elif not self.wait.is_cancelled:
                self.wait.pass_on()
        return stage != STAGE_OVER

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        """One step: what to wait for; raises `StopIteration` with the result at the end."""
        cdef bint finished = False
        result = self.step(&finished)
        if finished:
            raise StopIteration(result)
        return result

    def throw(self, kind, value=None, traceback=None):
        """It is called off with an exception."""
        self.leave()
        if value is None:
            value = kind() if isinstance(kind, type) else kind
        if traceback is not None:
            value = value.with_traceback(traceback)
        raise value

    def close(self):
        """It is called off."""
        self.leave()


cdef class Receive(Operation):
    """Takes a message, or several."""

    cdef bint attempt(self) except -1:
        if self.form == FORM_INTO:
            return self.take_into()
        if self.form != FORM_NEXT:
            return self.take()
        try:
            return self.take()
        except (errors.ConnectionReset, errors.LinkLost):
            raise
        except errors.ConnectionClosed:
            raise StopAsyncIteration from None

    cdef bint take(self) except -1:
        cdef AsyncEndpoint endpoint = self.endpoint
        cdef Engine engine = self.engine
        cdef Conn* conn = endpoint.conn
        cdef Message* message
        if (
            engine.generation != current_generation() or engine.s.queue.released is not NULL
            or engine.dormant
        ):
            endpoint.check()
        if conn.unread_first is NULL and self.wait is None:
            self.make_wait()        # it will most likely have to: that saves another attempt
        engine.lock()
        message = conn.unread_first
        if (
            message is not NULL and message.length <= COPY_LOCKED
            and message.kind != MESSAGE_POSTED and self.form <= FORM_NEXT
        ):
            try:
                self.value = PyBytes_FromStringAndSize(
                    <char*> message.data, <Py_ssize_t> message.length
                )
            except MemoryError:
                engine.unlock()
                raise
            message_free(engine.s, take_message(engine.s, conn, False, COPY_LOCKED))
            endpoint.took()
            return True
        message = endpoint.try_message(size_ceiling())
        if message is NULL:
            if self.wait is not None:
                reader_starves(engine.s, conn)
            self.wait_unlocked(conn, WANT_MESSAGE, 0)
            return False
        (<LoopHerald> engine.herald).budget -= <Py_ssize_t> (message.length >> 12)
        if self.form == FORM_VIEW:
            self.value = endpoint.to_lease(message)
        else:
            self.value = endpoint.to_bytes(message)
            if self.form == FORM_MANY:
                self.value = [self.value]
                endpoint.take_all(self.value, self.most)
                (<LoopHerald> engine.herald).budget -= len(self.value) >> 2
        return True

    cdef bint take_into(self) except -1:
        cdef AsyncEndpoint endpoint = self.endpoint
        cdef Engine engine = self.engine
        cdef Py_buffer view
        cdef Message* message
        endpoint.check()
        try:
            PyObject_GetBuffer(self.buffer, &view, PyBUF_WRITABLE)
        except (BufferError, TypeError) as error:
            raise errors.NotABuffer(
                "receive_into needs a writable, C-contiguous buffer, "
                f"not {type(self.buffer).__name__}: {error}"
            ) from None
        try:
            engine.lock()
            message = endpoint.try_message(<uint64_t> view.len)
            if message is NULL:
                if self.wait is not None:
                    reader_starves(engine.s, endpoint.conn)
                self.wait_unlocked(endpoint.conn, WANT_MESSAGE, 0)
                return False
            (<LoopHerald> engine.herald).budget -= <Py_ssize_t> (message.length >> 12)
            memcpy(view.buf, message.data, <size_t> message.length)
            length = message.length
            endpoint.free_message(message)
            self.value = length
            return True
        finally:
            PyBuffer_Release(&view)


cdef class Send(Operation):
    """Queues one message."""

    def __dealloc__(self):
        if self.held is not NULL:
            unhold(self.held)

    cdef bint attempt(self) except -1:
        cdef AsyncEndpoint endpoint = self.endpoint
        cdef Engine engine = self.engine
        cdef Py_buffer view
        cdef int done = -1
        if (
            engine.generation != current_generation() or engine.s.queue.released is not NULL
            or engine.dormant
        ):
            endpoint.check()
        if self.held is not NULL:
            return self.put_held()
        if self.parts is None and PyBytes_CheckExact(self.data):
            if PyBytes_GET_SIZE(self.data) <= DIRECT_MOST:
                done = self.put_direct(
                    <const uint8_t*> PyBytes_AS_STRING(self.data),
                    <uint64_t> PyBytes_GET_SIZE(self.data),
                )
        elif self.parts is None:
            try:
                PyObject_GetBuffer(self.data, &view, PyBUF_SIMPLE)
            except (BufferError, TypeError) as error:
                raise not_a_buffer(self.data, error) from None
            try:
                if view.len <= DIRECT_MOST:
                    done = self.put_direct(<const uint8_t*> view.buf, <uint64_t> view.len)
            finally:
                PyBuffer_Release(&view)
        if done >= 0:
            return done > 0
        self.held = endpoint.hold_checked((self.data,) if self.parts is None else self.parts)
        return self.put_held()

    cdef int put_direct(self, const uint8_t* data, uint64_t length) except -2:
        """1: it is queued. 0: there is no room. -1: it must be held."""
        cdef Part part
        cdef int done
        part.data = <uint8_t*> data
        part.length = length
        self.engine.lock()
        done = self.endpoint.try_put(&part, self.more)
        if done == 0:
            self.wait_for_room(length)
        return done

    cdef bint put_held(self) except -1:
        cdef uint64_t size = self.held.total
        self.engine.lock()
        if self.endpoint.try_put_held(&self.held, self.more):
            (<LoopHerald> self.engine.herald).budget -= <Py_ssize_t> (size >> 12)
            return True
        self.wait_for_room(size)
        return False

    cdef void wait_for_room(self, uint64_t size) noexcept:
        """Under the lock, which is released."""
        cdef Engine engine = self.engine
        if self.wait is not None and send_room(engine.s, self.endpoint.conn, size) == WAIT_ACK:
            send_ask(engine.s, tc_now())
        self.wait_unlocked(self.endpoint.conn, WANT_ROOM, size)


cdef class Settled(Operation):
    """Waits until something is settled, and says nothing of how."""

    cdef bint attempt(self) except -1:
        cdef Engine engine = self.engine
        cdef bint satisfied
        if self.wait is None:
            return False
        engine.lock()
        self.wait.begin(self.conn, self.wanted, self.amount)
        if self.renewals >= 0:
            self.wait.waiter.renewals = <uint32_t> self.renewals
        satisfied = engine.satisfied(&self.wait.waiter)
        engine.unlock()
        if satisfied:
            self.wait.end()
        return satisfied


cdef Settled settled(Engine engine, int wanted, uint64_t amount):
    cdef Settled operation = Settled.__new__(Settled)
    operation.engine = engine
    operation.wanted = wanted
    operation.amount = amount
    operation.renewals = -1
    return operation


for _kind in (Receive, Send, Settled):
    tc_drive_by(<PyTypeObject*> _kind, <void*> step_of)


@cython.no_gc_clear  # what its end still needs must outlive it, in a cycle too
cdef class AsyncEndpoint(Endpoint):
    """Base of `tcpconn.aio.Connection`, which says what holds for all of its methods."""

    cdef void finish_send(self, bint more) noexcept:
        """Writes a little without giving the GIL away: that, and getting it back, takes longer."""
        cdef Engine engine = self.engine
        cdef State* s = engine.s
        # A link through TLS has locks of its own, whose holders may wait for the GIL.
        if (
            more or engine.link.layered or s.queue.unwritten > WRITE_WITH_GIL
            or s.outgoing_count > 0
        ):
            Endpoint.finish_send(self, more)
            return
        if engine.sent():
            engine.pump(INLINE_ROUNDS)
        engine.unlock()

    cdef Receive receive_as(self, int form):
        cdef Receive operation = Receive.__new__(Receive)
        operation.form = form
        operation.endpoint = self
        operation.engine = self.engine
        return operation

    cdef Settled settled(self, int wanted, uint64_t amount, int64_t renewals):
        cdef Settled operation = settled(self.engine, wanted, amount)
        operation.endpoint = self
        operation.conn = self.conn
        operation.renewals = renewals
        return operation

    def receive(self):
        """The next message. Waits for it.

        What arrived before the peer closed the connection, or before the link broke, is handed out
        first. Then raises `ConnectionClosed` when the peer has closed it, so that there will be no
        more messages, or when it was closed here; `ConnectionReset`, `LinkLost` or `ProtocolError`
        when it ended in another way. When it is cancelled, no message is lost.
        """
        return self.receive_as(FORM_BYTES)

    def __aiter__(self):
        return self

    def __anext__(self):
        return self.receive_as(FORM_NEXT)

    def receive_into(self, buffer):
        """Receives the next message into a writable, C-contiguous buffer. Returns its size.

        The buffer is written to when the message is there, and in no other case. Raises
        `BufferTooSmall` (its `size` says what is needed): the message stays the next one, receive
        it in another way. `NotABuffer` for one that cannot be written to. Else as `receive`.
        """
        cdef Receive operation = self.receive_as(FORM_INTO)
        operation.buffer = buffer
        return operation

    def receive_view(self):
        """The next message where it lies, without a copy: a `Lease`, to be released after use.

            with await connection.receive_view() as lease, memoryview(lease) as view:
                ...

        A lease keeps a block of memory (128 KiB for small messages, which share it) in use until it
        and all views on it are released. For small messages `receive` is faster. Raises what
        `receive` raises.
        """
        return self.receive_as(FORM_VIEW)

    def receive_many(self, limit=None):
        """Waits for a message, and returns it with those that are there already: at most `limit`.

        Never returns an empty list. Raises what `receive` raises, or `ValueError` for a `limit`
        below 1.
        """
        cdef Py_ssize_t most = most_messages(limit)
        cdef Receive operation = self.receive_as(FORM_MANY)
        operation.most = most
        return operation

    def send(self, data):
        """Sends one message: bytes, or anything else with a C-contiguous buffer.

        Returns when the message is queued, whole; `flush` waits until the peer has it. Waits while
        the peer does not read what was sent before, or the link is slower than the sender. `data`
        may be changed as soon as this returns. When it is cancelled, nothing was sent.

        Raises `MessageTooLarge` and `NotABuffer`: nothing was sent, and the connection works on.
        `ConnectionClosed` when it is closed here, or by the peer, so that nobody would read the
        message; `ConnectionReset`, `LinkLost` or `ProtocolError` when it ended in another way.
        """
        cdef Send operation = Send.__new__(Send)
        operation.endpoint = self
        operation.engine = self.engine
        operation.data = data
        return operation

    def send_parts(self, buffers):
        """Sends one message that is made of several buffers, without joining them first.

        The peer receives their bytes in a row. No buffers make an empty message. Everything else is
        as in `send`.
        """
        cdef tuple parts = checked_parts(buffers)
        cdef Send operation = Send.__new__(Send)
        operation.endpoint = self
        operation.engine = self.engine
        operation.parts = parts
        return operation

    async def send_many(self, messages):
        """Sends each of `messages` as `send` does, in as few writes as can be. Returns how many.

        What came first may wait for what comes last: an iterator should not take its time. When it
        raises, as `send` does, or is cancelled, the messages before the one in question are sent,
        that one and those behind it are not.
        """
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t run
        cdef LoopHerald herald = herald_of(self.engine)
        cdef tuple held
        cdef Send operation
        herald.check()
        self.check()
        try:
            if type(messages) is list or type(messages) is tuple:
                held = tuple(messages)
                while count < len(held):
                    run = self.put_run(held, count)
                    count += run
                    herald.budget -= run >> 2
                    if run == 0:
                        operation = self.send(held[count])
                        operation.more = True
                        await operation
                        count += 1
                    elif herald.spent(0):
                        await asyncio.sleep(0)
            else:
                for message in messages:
                    operation = self.send(message)
                    operation.more = True
                    await operation
                    count += 1
        finally:
            if count > 0:
                self.engine.lock()
                self.finish_send(False)
        return count

    # Flushing and ending

    async def await_all_acks(self):
        """Waits until the peer has acknowledged all that was sent here, or all is over."""
        cdef uint64_t sent, sequence
        cdef int64_t renewals
        self.engine.lock()
        sent = self.conn.messages_sent
        renewals = self.engine.s.renewals
        self.engine.unlock()
        await self.settled(WANT_CUT, sent, renewals)
        sequence = self.ask_for_acks()
        await self.settled(WANT_ACK, sequence, renewals)

    async def flush(self):
        """Waits until the peer has acknowledged all that was sent here before: it has reached the
        receive queue of the other process. That says nothing of whether its program has read it.

        Raises what has ended the connection when that happened before all was acknowledged;
        `LinkLost` when the session was lost meanwhile, and another call has raised `SessionLost`.
        """
        cdef int64_t renewals
        herald_of(self.engine).check()
        self.check()
        renewals = self.check_heard(-1)
        await self.await_all_acks()
        self.check_heard(renewals)

    async def close(self, timeout=5):
        """Ends the connection behind what was sent, and waits until the peer has acknowledged that.

        The peer can still receive all of it; then its `receive` raises `ConnectionClosed`, and so
        does its `send` from now on. Messages that nobody has received here are dropped. Tasks that
        wait on this connection are woken, with `ConnectionClosed`. Closing it again does nothing.
        When it is cancelled, the connection is closed all the same.

        Raises `Timeout` when the peer did not acknowledge within `timeout` seconds; the connection
        is aborted then, and what had not left is lost. Raises what ended the link when it ended
        before that.
        """
        cdef uint32_t renewals = 0
        herald_of(self.engine).check()
        if (
            self.engine.generation != current_generation() or self.closed_here
            or not self.begin_close(&renewals)
        ):
            return
        try:
            async with asyncio.timeout(timeout):
                await self.await_all_acks()
        except TimeoutError:
            self.abort()
            raise errors.Timeout(
                f"the peer has not acknowledged all of connection {self.id} "
                f"within {timeout} s of its close; what it has not taken is lost"
            ) from None
        self.check_closed(renewals)


# What concerns the whole session

async def accept_async(kind, Engine engine):
    """The next connection that the peer opens, of class `kind`, about which nobody was asked yet.
    Raises why there will be none.
    """
    herald_of(engine).check()
    while True:
        endpoint = accept_endpoint(kind, engine, 0, False)
        if endpoint is not None:
            return endpoint
        await settled(engine, WANT_CONNECTION, 0)


async def ping_async(Engine engine):
    """A round trip through the peer's session, in seconds, smoothed. Raises the end."""
    cdef uint64_t token
    herald_of(engine).check()
    if engine.generation != current_generation():
        raise ended_error(engine)
    with nogil:
        engine.lock()
        token = session_ping(engine.s, tc_now())
        if engine.s.ping_wanted:
            engine.due |= DUE_LOOK      # it has to wait: the keeper sends it then
        if not engine.writing:
            engine.pump(INLINE_ROUNDS)
        engine.unlock()
    await settled(engine, WANT_PONG, token)
    if engine.s.phase == PHASE_CLOSED:
        raise ended_error(engine)
    return engine.s.round_trip / 1e9
