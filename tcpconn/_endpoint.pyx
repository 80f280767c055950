"""The compiled half of a connection: its two halves put together, how it begins and how it ends."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.weakref cimport PyWeakref_NewRef
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from tcpconn._ending cimport ended_error
from tcpconn._engine cimport INLINE_ROUNDS, Engine
from tcpconn._process cimport current_generation
from tcpconn._routes cimport conn_release
from tcpconn._send cimport ROOM_CLOSED, ROOM_ENDED, ROOM_LOST
from tcpconn._sending cimport Sending
from tcpconn._lifecycle cimport session_accept, session_detach, session_open, session_refuse
from tcpconn._state cimport *
from tcpconn._sync cimport tc_now
from tcpconn._waiting cimport DUE_LOOK, WANT_ACK, WANT_CONNECTION, WANT_CUT, as_timeout
from tcpconn._wire cimport *

import logging
import os
import uuid

from tcpconn import errors
from tcpconn.grumbling import Warnings

logger = logging.getLogger("tcpconn")
failures = Warnings(logger)


cdef enum:
    RANDOM_IDS = 64             # made at a time


cdef void* discard(Engine engine, Conn* conn) noexcept nogil:
    """Nobody has this connection any more. Its owner, a reference."""
    cdef void* owner
    engine.lock()
    owner = conn.owner
    conn.owner = NULL
    if conn.attached:
        # Nobody can receive any more; what was sent still goes out.
        session_detach(engine.s, conn, CODE_CLOSED, False)
        engine.dispatch()
        engine.pump(INLINE_ROUNDS)
    conn_release(engine.s, conn)
    engine.unlock()
    return owner


@cython.no_gc_clear  # what its end still needs must outlive it, in a cycle too
cdef class Endpoint(Sending):
    """Base of `Connection`, which says what holds for all of its methods."""

    def __init__(self):
        raise TypeError("connections are made by connect, wrap, Multiplexer and Listener")

    def __dealloc__(self):
        cdef Engine engine = self.engine
        cdef Conn* conn = self.conn
        cdef void* owner
        self.conn = NULL
        if conn is NULL or engine.generation != current_generation():
            return
        if conn.attached and engine.s.phase != PHASE_CLOSED:
            with nogil:
                owner = discard(engine, conn)
        else:
            owner = discard(engine, conn)   # which writes nothing: as in `begin_close`
        if owner is not NULL:
            Py_DECREF(<object> owner)

    cdef int refuse(self, uint32_t code) except -1:
        """The connection, just accepted, is not wanted."""
        cdef Engine engine = self.engine
        self.closed_here = True
        with nogil:
            engine.lock()
            session_refuse(engine.s, self.conn, code)
            engine.used_at = tc_now()
            engine.leave_to_keeper()
            engine.dispatch()
            engine.pump(INLINE_ROUNDS)
            engine.unlock()
        return 0

    cdef int own(self) except -1:
        """Lets others find this object by its connection."""
        # Not the object itself: only a weak reference says safely whether it is just dying.
        reference = PyWeakref_NewRef(self, None)
        Py_INCREF(reference)
        self.engine.lock()
        self.conn.owner = <void*> reference
        self.engine.unlock()
        return 0

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
        cdef uint32_t renewals
        engine.lock()
        sent = self.conn.messages_sent
        renewals = s.renewals
        engine.unlock()
        outcome = engine.wait_with_gil(self.conn, WANT_CUT, sent, limit, renewals)
        if outcome is not None:
            return outcome
        sequence = self.ask_for_acks()
        if limit >= 0:
            limit = max(<int64_t> 0, limit - <int64_t> (tc_now() - started))
        return engine.wait_with_gil(self.conn, WANT_ACK, sequence, limit, renewals)

    cdef uint64_t ask_for_acks(self) noexcept:
        """All is in the send queue: what is to be acknowledged, up to this sequence number."""
        cdef Engine engine = self.engine
        cdef uint64_t sequence
        with nogil:
            engine.lock()
            sequence = self.conn.data_sequence
            if engine.s.queue.acked < sequence:
                engine.pump(INLINE_ROUNDS)
                engine.ask_for_ack()
            engine.unlock()
        return sequence

    def flush(self, timeout=None):
        """Waits until the peer has acknowledged all that was sent here before: it has reached the
        receive queue of the other process. That says nothing of whether its program has read it.

        Raises `Timeout` when it took longer: nothing is lost, it is still on its way; call it
        again. Raises what has ended the connection when that happened before all was acknowledged;
        `LinkLost` when the session was lost meanwhile, and another call has raised `SessionLost`.
        """
        cdef int64_t renewals
        self.check()
        renewals = self.check_heard(-1)
        if self.await_acks(as_timeout(timeout)) is not None:
            raise errors.Timeout(
                f"the peer has not acknowledged all of connection {self.name()} within {timeout} s"
            )
        self.check_heard(renewals)

    cdef int64_t check_heard(self, int64_t renewals) except -1:
        """Raises what ended the connection while the peer had not acknowledged all of it; or that
        its session was lost, if it is another one than that with this number of `renewals` (< 0:
        any). Returns the number.
        """
        cdef Engine engine = self.engine
        cdef State* s = engine.s
        cdef int64_t now
        engine.lock()
        if self.conn.lost != 0:
            self.raise_send_end(ROOM_LOST, 0)
        if s.phase == PHASE_CLOSED and self.has_unacknowledged():
            self.raise_send_end(ROOM_CLOSED, 0)
        if s.detached and (s.fails_detached or engine.dormant) and self.has_unacknowledged():
            self.raise_detached()
        if self.conn.unheard or not self.conn.attached:
            self.raise_send_end(ROOM_ENDED, 0)
        now = s.renewals
        engine.unlock()
        if renewals >= 0 and now != renewals:
            raise errors.LinkLost(
                f"the session with {engine.peer_address} was lost before the peer had acknowledged "
                f"all of connection {self.name()}; another call was told what became of it"
            )
        return now

    def close(self, timeout=5):
        """Ends the connection behind what was sent, and waits until the peer has acknowledged that.

        The peer can still receive all of it; then its `receive` raises `ConnectionClosed`, and so
        does its `send` from now on. Messages that nobody has received here are dropped. Threads
        that wait on this connection are woken, with `ConnectionClosed`. Closing it again does
        nothing.

        Raises `Timeout` when the peer did not acknowledge in time; the connection is aborted then,
        and what had not left is lost. Raises what ended the link when it ended before that.
        """
        cdef uint32_t renewals = 0
        if (
            self.engine.generation != current_generation() or self.closed_here
            or not self.begin_close(&renewals)
        ):
            return
        if self.await_acks(as_timeout(timeout)) is None:
            self.check_closed(renewals)
            return
        self.abort()
        raise errors.Timeout(
            f"the peer has not acknowledged all of connection {self.name()} "
            f"within {timeout} s of its close; what it has not taken is lost"
        )

    cdef bint begin_close(self, uint32_t* renewals) except -1:
        """Ends the connection behind what was sent. Whether that is to be acknowledged, in the
        session with this number of `renewals`.
        """
        cdef Engine engine = self.engine
        cdef bint pending
        self.check()
        self.closed_here = True
        if engine.s.phase == PHASE_CLOSED:
            # Nothing is written. Handlers by the hundred may be on their way out here: each is done
            # sooner than it would have got the interpreter's lock back.
            return self.leave(engine, renewals)
        with nogil:
            pending = self.leave(engine, renewals)
        return pending

    cdef bint leave(self, Engine engine, uint32_t* renewals) noexcept nogil:
        """What `begin_close` does, and answers."""
        cdef State* s = engine.s
        cdef bint pending
        engine.lock()
        # A reply says as much as an ack: only what is not acknowledged is waited for.
        renewals[0] = s.renewals
        pending = s.phase != PHASE_CLOSED and self.has_unacknowledged()
        session_detach(s, self.conn, CODE_CLOSED, False)
        engine.used_at = tc_now()
        engine.leave_to_keeper()
        engine.dispatch()
        # Not every end here is an event of the session's: it may have to come behind messages.
        engine.wake_receivers(self.conn)
        engine.wake_others()
        engine.send_later()
        engine.unlock()
        return pending

    cdef int check_closed(self, uint32_t renewals) except -1:
        """Raises what ended the session before the peer had acknowledged all that was sent."""
        cdef Engine engine = self.engine
        cdef State* s = engine.s
        cdef bint lost, pending
        engine.lock()
        lost = s.renewals != renewals
        pending = s.phase == PHASE_CLOSED and self.has_unacknowledged()
        engine.unlock()
        if lost:
            self.check_closed_lost(renewals + 1)
        elif pending:
            raise ended_error(engine)
        return 0

    cdef int check_closed_lost(self, uint32_t number) except -1:
        """Raises `SessionLost` if the session of this number was lost before what was sent here."""
        cdef Engine engine = self.engine
        cdef Conn* conn = self.conn
        cdef uint32_t route
        cdef uint64_t sent
        engine.lock()
        route = conn.lost_route if conn.lost == number else conn.out_route
        sent = conn.messages_sent - conn.sent_before
        conn.lost = 0
        engine.unlock()
        reason, doubt, unsent = engine.session.left_by(number, route)
        if doubt or unsent:
            raise errors.SessionLost(
                f"the session with {engine.peer_address} was lost while connection {self.name()} "
                f"was being closed: {reason}. {len(doubt)} of its messages are in doubt and "
                f"{len(unsent)} were not sent",
                sent - len(doubt) - len(unsent), doubt, unsent,
            )
        return 0

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
            if engine.s.resets_due > 0:
                engine.due |= DUE_LOOK  # the peer must not be sent too many: the keeper goes on
            engine.used_at = tc_now()
            engine.leave_to_keeper()
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
    def local_address(self):
        """This end of the link, in the form that `connect` takes."""
        return self.engine.local_address

    @property
    def peer_address(self):
        """The other end of the link, in the form that `connect` takes."""
        return self.engine.peer_address

    @property
    def closed(self):
        """Whether it is over on this side: closed or aborted here, or the link is gone.

        False while the peer alone has closed it: what it sent before can still be received.
        """
        cdef Engine engine = self.engine
        return self.closed_here or not self.conn.attached or engine.is_over

    @property
    def state(self):
        """For people: open, without a link, finished by peer, reset by peer, closed, aborted, ended
        or lost.
        """
        cdef Engine engine = self.engine
        if self.aborted:
            return "aborted"
        if self.closed_here or not self.conn.attached:
            return "closed"
        if engine.is_over:
            if engine.s.fault_is_loss and not (engine.closed_here or engine.s.goaway_received):
                return "lost"
            return "ended"
        if self.conn.in_state == ROUTE_ENDED:
            return "finished by peer" if self.conn.in_code == 0 else "reset by peer"
        if engine.s.detached:
            return "without a link"
        return "open"

    def counters(self):
        """Messages sent, received, bytes sent, received, unread messages, bytes, credit, window."""
        cdef Conn conn
        # Making a tuple may set off the collector, and that may come to a connection of ours.
        if self.engine.generation == current_generation():
            self.engine.lock()
            conn = self.conn[0]
            self.engine.unlock()
        else:
            conn = self.conn[0]     # a forked child: who held the lock is not there to give it back
        return (
            conn.messages_sent, conn.messages_received, conn.bytes_sent, conn.bytes_received,
            conn.unread_count, conn.unread_bytes, conn.send_limit - conn.send_used, conn.window,
        )


cdef list _random = []              # ids that nobody has yet


def _forked():
    _random.clear()                 # the parent has them


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


cdef bytes random_id():
    """16 random bytes. The system is asked for many at a time: that takes most of the time."""
    cdef bytes many
    cdef int at
    while True:
        try:
            return <bytes> _random.pop()
        except IndexError:
            many = os.urandom(16 * RANDOM_IDS)
            for at in range(RANDOM_IDS):
                _random.append(many[16 * at:16 * at + 16])


def open_endpoint(kind, Engine engine, bytes id=None, int priority=-1):
    """Opens the connection named `id` (16 bytes; None: a new one) as an object of class `kind`.

    Raises why not.
    """
    cdef bytes name = random_id() if id is None else id
    cdef Cursor cursor = cursor_over(<const uint8_t*> PyBytes_AS_STRING(name), len(name))
    cdef uint64_t high = take_u64(&cursor)
    cdef uint64_t low = take_u64(&cursor)
    cdef Conn* conn = NULL
    cdef int code
    cdef Endpoint endpoint = <Endpoint> kind.__new__(kind)
    if id is None:
        high = high & ~<uint64_t> 0xF000 | 0x4000       # a UUID of version 4, RFC 9562 section 5.4
        low = low & ~(<uint64_t> 0xC0 << 56) | <uint64_t> 0x80 << 56
    if engine.is_over:
        raise ended_error(engine)
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
        endpoint.own()
        return endpoint
    if code == CODE_DUPLICATE:
        raise errors.ConnectionClosed(
            f"connection {uuid.UUID(bytes=name)} is open here already, "
            "or the peer has not closed it yet"
        )
    if code == CODE_LIMIT:
        raise errors.ConnectionClosed(
            f"the peer takes no more than {engine.s.theirs.max_connections} connections "
            "on one session"
        )
    if code == CODE_SHUTDOWN:
        raise errors.ConnectionClosed("this link takes no new connections: it is about to close")
    raise MemoryError


def accept_endpoint(kind, Engine engine, timeout=0, bint asks=True):
    """The next connection that the peer opened, of class `kind`; None if there is none in time.

    Those that the option `authorize` refuses are passed over. Without `asks`, that is still to be
    found out: `ask` and `let_in` come before any use.
    """
    cdef Endpoint endpoint
    cdef Conn* conn = NULL
    cdef int64_t limit = as_timeout(timeout)
    cdef uint64_t deadline = tc_now() + <uint64_t> max(limit, <int64_t> 0)
    cdef uint64_t now
    while True:
        engine.lock()
        conn = session_accept(engine.s)
        engine.unlock()
        if conn is not NULL:
            endpoint = <Endpoint> kind.__new__(kind)
            endpoint.engine = engine
            endpoint.conn = conn
            if engine.session.options.authorize is not None:
                if not asks:
                    return endpoint
                if not is_authorized(endpoint):
                    continue
            endpoint.own()
            return endpoint
        if engine.is_over:
            raise ended_error(engine)
        if limit == 0:
            return None
        if engine.wait_with_gil(NULL, WANT_CONNECTION, 0, limit) is not None:
            return None
        if limit > 0:
            now = tc_now()
            limit = <int64_t> (deadline - now) if now < deadline else 0


def is_in_question(Endpoint endpoint):
    """Whether `authorize` is to be asked about a connection that was just accepted."""
    return endpoint.engine.session.options.authorize is not None


def ask(Endpoint endpoint):
    """What `authorize` answers about a connection. Without a lock."""
    cdef Engine engine = endpoint.engine
    return engine.session.options.authorize(
        engine.peer_address, engine.peer_certificate, endpoint.id
    )


def let_in(Endpoint endpoint, wanted, error=None):
    """A connection about which was asked is let in, or refused. Whether it is `wanted`; `error` is
    why nobody knows.
    """
    peer = endpoint.engine.peer_address
    if wanted:
        endpoint.own()
        return True
    endpoint.refuse(CODE_REFUSED)
    if error is None:
        logger.info("connection %s of %s is refused", endpoint.id, peer)
    else:
        failures.warn(
            "connection %s of %s is refused: authorize failed: %r", endpoint.id, peer, error
        )
        logger.debug("authorize failed", exc_info=error)
    return False


def is_authorized(Endpoint endpoint):
    """Asks `authorize` about a connection, and refuses what it does not want, or fails at."""
    wanted, failure = False, None
    if not is_in_question(endpoint):
        return True
    try:
        wanted = ask(endpoint)
        if hasattr(wanted, "__await__"):
            answer, wanted = wanted, False
            failure = TypeError(f"its answer is to be awaited, by tcpconn.aio alone: {answer!r}")
            if hasattr(answer, "close"):
                answer.close()          # a coroutine, which nobody will await
        wanted = bool(wanted)
    except Exception as error:
        wanted, failure = False, error
    except BaseException:
        let_in(endpoint, False)
        raise
    return let_in(endpoint, wanted, failure)


def refuse_endpoint(Endpoint endpoint):
    """Gives back a connection that was just accepted: a limit was reached."""
    endpoint.refuse(CODE_LIMIT)


def endpoints(Engine engine):
    """The objects that stand for connections of an engine."""
    cdef Conn* conn
    owners = []
    if engine.generation != current_generation():
        return owners
    engine.lock()
    conn = engine.s.attached
    while conn is not NULL:
        if conn.owner is not NULL:
            owners.append(<object> conn.owner)
        conn = conn.attached_behind
    engine.unlock()
    found = [owner() for owner in owners]
    return [endpoint for endpoint in found if endpoint is not None]
