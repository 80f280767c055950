"""The session: a state machine without I/O that two peers share, PROTOCOL.md.

It is driven from outside: `feed` it what came, write what `output` says, tell it the time. It never
raises from a peer's input: a session that has failed says so in `end`. The engine drives the same
records (`State`) without the GIL through the functions in the modules below; the methods here
serve tests, tools and simulations.

All memory of a session lives in its `State`; every access is made with `State.lock` held.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF, PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from tcpconn._buffer cimport (
    block_release,
    default_block_pool,
    pool_base,
    pool_charge,
    return_loan,
    slab_destroy,
    slab_init,
)
from tcpconn._control cimport session_limits, session_start
from tcpconn._frame cimport Hello
from tcpconn._holding cimport hold, unhold
from tcpconn._leftover cimport Leftover
from tcpconn._lifecycle cimport (
    end_reason,
    session_accept,
    session_clear,
    session_deadline,
    session_detach,
    session_goaway,
    session_is_done,
    session_is_kept,
    session_open,
    session_ping,
    session_tick,
)
from tcpconn._memory cimport memory_free, memory_take_zeroed
from tcpconn._rate cimport rate_set
from tcpconn._receive cimport received, take_message, targets
from tcpconn._resume cimport session_lose, session_may_relink, session_relink, session_unlink
from tcpconn._routes cimport conn_release, message_free, next_event, state_lost
from tcpconn._send cimport (
    ROOM_CLOSED,
    ROOM_CUT,
    ROOM_DIRECT,
    ROOM_DETACHED,
    ROOM_ENDED,
    ROOM_LOST,
    ROOM_TOO_LARGE,
    SPANS,
    keepalive_rate,
    prepare,
    send_ask,
    send_cut,
    send_direct,
    send_finish,
    send_room,
    wants_write,
    wrote,
)
from tcpconn._sendqueue cimport Held, queue_init
from tcpconn._state cimport *
from tcpconn._sync cimport Span, tc_mutex_destroy, tc_mutex_init, tc_mutex_lock, tc_mutex_unlock
from tcpconn._table cimport table_destroy, table_init
from tcpconn._wire cimport *

import os

from tcpconn.options import Options

# What sections 5 and 9 tell a sender to keep to.
cdef double RESETS_A_SECOND = 25
cdef double PINGS_A_SECOND = 0.8
cdef enum:
    RESETS_AT_ONCE = 400
    PINGS_AT_ONCE = 8
    CLEARED_AT_ONCE = 1000      # connections at the very end: 0.5 ms


@cython.no_gc_clear  # what its end still needs must outlive it, in a cycle too
cdef class Session:
    """One side of a session. `options` is an `Options`; `client` says who opened the link.

    A server gives a `secret` of 32 bytes to sessions that it keeps when their link is lost.

    Times are in nanoseconds of any monotonic clock. Ids are the 16 bytes of a UUID. Thread-safe.
    """

    def __cinit__(self, options=None, *, bint client, blocks=None, bytes secret=None):
        cdef State* s
        if options is None:
            options = Options()
        self.options = options
        self.blocks = default_block_pool() if blocks is None else blocks
        s = <State*> memory_take_zeroed(1, sizeof(State))
        if s is NULL:
            raise MemoryError
        self.s = s
        self.leftovers = {}
        tc_mutex_init(&s.lock)
        s.pool = self.blocks.pool
        s.client = client
        s.unusual = True
        if table_init(&s.ids) or table_init(&s.in_routes) or table_init(&s.out_routes):
            raise MemoryError
        queue_init(&s.queue, s.pool)
        slab_init(&s.messages, sizeof(Message))
        s.max_route_credit = options.max_connection_credit
        s.send_queue_size = options.send_queue_size
        s.send_bound = s.send_queue_size
        s.max_unaccepted = options.max_unaccepted
        s.max_answers = options.max_control_frames
        s.memory = options.receive_memory
        s.message_ns = <uint64_t> (options.message_timeout * 1e9)
        rate_set(&s.resets, options.reset_rate, options.reset_burst)
        rate_set(&s.resets_sent, RESETS_A_SECOND, RESETS_AT_ONCE)
        s.ping_rate = options.ping_rate
        s.ping_burst = options.ping_burst
        s.keepalive_ns = <uint64_t> (options.keepalive * 1e9)
        if options.keepalive > 0:       # else a peer with nothing to say would pass for dead
            s.silence_ns = <uint64_t> (options.keepalive_timeout * 1e9)
        s.fails_detached = options.on_disconnect == "fail"
        s.ours.keepalive = <uint32_t> min(options.keepalive * 1000, 4e9)
        if client:
            memcpy(s.ours.session_id, PyBytes_AS_STRING(os.urandom(16)), 16)
        memcpy(s.ours.nonce, PyBytes_AS_STRING(os.urandom(16)), 16)
        memcpy(s.secret, PyBytes_AS_STRING(os.urandom(16)), 16)
        s.ours.max_frame_size = options.max_frame_size
        s.ours.max_message_size = options.max_message_size
        s.ours.route_credit = options.connection_credit
        s.ours.session_credit = options.session_credit
        s.ours.max_connections = options.max_connections
        rate_set(&s.pings_sent, PINGS_A_SECOND + keepalive_rate(&s.ours), PINGS_AT_ONCE)
        if secret is not None:
            if len(secret) != SECRET_SIZE:
                raise ValueError(f"a secret has {SECRET_SIZE} bytes, not {len(secret)}")
            s.ours.has_secret = True
            memcpy(s.ours.secret, PyBytes_AS_STRING(secret), SECRET_SIZE)
        session_limits(s)
        session_start(s)

    def __dealloc__(self):
        cdef State* s = self.s
        if s is NULL:
            return
        if s.ids.count + s.in_routes.count < CLEARED_AT_ONCE:
            session_clear(s)
        else:
            with nogil:                 # so many take milliseconds
                session_clear(s)
        self.drop_released()
        if s.block is not NULL:
            pool_base(s.pool, -RECEIVE_BLOCK)
            block_release(s.block)
        pool_charge(s.pool, -<int64_t> s.charged)
        return_loan(s.pool, &s.loan)
        slab_destroy(&s.messages)
        table_destroy(&s.ids)
        table_destroy(&s.in_routes)
        table_destroy(&s.out_routes)
        tc_mutex_destroy(&s.lock)
        memory_free(s)

    cdef void drop_released(self):
        """Drops references to objects that acks have set free. Without the lock: runs any code."""
        cdef State* s = self.s
        cdef Held* held
        cdef Held* chain
        tc_mutex_lock(&s.lock)
        chain = s.queue.released
        s.queue.released = NULL
        tc_mutex_unlock(&s.lock)
        while chain is not NULL:
            held = chain
            chain = held.next
            Py_DECREF(<object> <PyObject*> held.object)
            memory_free(held)

    cdef Conn* find(self, bytes id) except NULL:
        cdef Cursor cursor = cursor_over(<const uint8_t*> PyBytes_AS_STRING(id), len(id))
        cdef uint64_t high = take_u64(&cursor)
        cdef uint64_t low = take_u64(&cursor)
        cdef Conn* conn = self.s.attached
        while conn is not NULL and (conn.id_high != high or conn.id_low != low):
            conn = conn.attached_behind
        if conn is NULL:
            raise KeyError(id.hex())
        return conn

    # Connections

    def open(self, bytes id, int priority=-1):
        """Opens a connection, or meets the peer's. 0, or the code that stands against it."""
        cdef Cursor cursor = cursor_over(<const uint8_t*> PyBytes_AS_STRING(id), len(id))
        cdef uint64_t high = take_u64(&cursor)
        cdef uint64_t low = take_u64(&cursor)
        cdef Conn* conn
        cdef int code
        tc_mutex_lock(&self.s.lock)
        code = session_open(self.s, high, low, priority, &conn)
        tc_mutex_unlock(&self.s.lock)
        return code

    def accept(self):
        """The id of the connection of the peer's that has waited longest, or None."""
        cdef Conn* conn
        cdef uint8_t[16] id
        tc_mutex_lock(&self.s.lock)
        conn = session_accept(self.s)
        if conn is not NULL:
            put_u64(put_u64(id, conn.id_high), conn.id_low)
        tc_mutex_unlock(&self.s.lock)
        return None if conn is NULL else (<const char*> id)[:16]

    def send(self, bytes id, *buffers):
        """Queues one message. True, or a word that says why not: wait, ended, too large, closed."""
        cdef State* s = self.s
        cdef Conn* conn
        cdef int room
        cdef Outgoing* message
        self.drop_released()
        message = hold(buffers)
        tc_mutex_lock(&s.lock)
        try:
            conn = self.find(id)
            room = send_room(s, conn, message.total)
            if room == ROOM_DIRECT:
                send_direct(s, conn, message.parts, message.count, message.total)
            elif room == ROOM_CUT:
                send_cut(s, conn, message)
                message = NULL
        finally:
            tc_mutex_unlock(&s.lock)
            if message is not NULL:
                unhold(message)
        if room == ROOM_DIRECT or room == ROOM_CUT:
            return True
        return {
            ROOM_ENDED: "ended", ROOM_TOO_LARGE: "too large", ROOM_CLOSED: "closed",
            ROOM_LOST: "lost", ROOM_DETACHED: "detached",
        }.get(room, "wait")

    def receive(self, bytes id):
        """The oldest unread message, or None."""
        cdef State* s = self.s
        cdef Message* message
        tc_mutex_lock(&s.lock)
        try:
            message = take_message(s, self.find(id), False, size_ceiling())
            if message is NULL:
                return None
            data = PyBytes_FromStringAndSize(<char*> message.data, <Py_ssize_t> message.length)
            message_free(s, message)
            return data
        finally:
            tc_mutex_unlock(&s.lock)

    def receive_slowly(self, bytes id, meanwhile):
        """The same, as large messages are received: copied without the lock. `meanwhile` is called
        between taking the message and copying it.
        """
        cdef State* s = self.s
        cdef Message* message
        cdef const char* data
        tc_mutex_lock(&s.lock)
        try:
            message = take_message(s, self.find(id), False, size_ceiling())
        finally:
            tc_mutex_unlock(&s.lock)
        if message is NULL:
            return None
        data = <const char*> message.data
        try:
            meanwhile()
            return PyBytes_FromStringAndSize(data, <Py_ssize_t> message.length)
        finally:
            tc_mutex_lock(&s.lock)
            message_free(s, message)
            tc_mutex_unlock(&s.lock)

    def finish(self, bytes id):
        """Ends our direction behind what was sent; the peer's goes on."""
        tc_mutex_lock(&self.s.lock)
        try:
            send_finish(self.s, self.find(id))
        finally:
            tc_mutex_unlock(&self.s.lock)

    def close(self, bytes id, bint abruptly=False):
        """Ends our direction, and tells the peer that its own will not be read."""
        cdef Conn* conn
        tc_mutex_lock(&self.s.lock)
        try:
            conn = self.find(id)
            session_detach(self.s, conn, CODE_ABORTED if abruptly else CODE_CLOSED, abruptly)
            conn_release(self.s, conn)
        finally:
            tc_mutex_unlock(&self.s.lock)

    def goaway(self):
        """No new connections from here on."""
        tc_mutex_lock(&self.s.lock)
        session_goaway(self.s)
        tc_mutex_unlock(&self.s.lock)

    def ping(self, uint64_t now):
        """Asks the peer for an answer, as soon as it must take a PING."""
        tc_mutex_lock(&self.s.lock)
        session_ping(self.s, now)
        tc_mutex_unlock(&self.s.lock)

    def ask_for_ack(self, uint64_t now):
        """Asks the peer to acknowledge what is queued, behind it."""
        tc_mutex_lock(&self.s.lock)
        send_ask(self.s, now)
        tc_mutex_unlock(&self.s.lock)

    # The link's side

    def feed(self, data, uint64_t now=0):
        """Takes in what came from the link. Returns how much was wanted: all, unless it has failed,
        or pauses; then what is left, or b"", is to be fed later.
        """
        cdef State* s = self.s
        cdef Py_buffer view
        cdef Span[2] spans
        cdef size_t at = 0, step
        cdef int count, index
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        tc_mutex_lock(&s.lock)
        try:
            count = targets(s, spans)
            while at < <size_t> view.len and count > 0:
                step = 0
                for index in range(count):
                    spans[index].length = min(spans[index].length, <size_t> view.len - at - step)
                    memcpy(
                        <void*> spans[index].data, <const uint8_t*> view.buf + at + step,
                        spans[index].length
                    )
                    step += spans[index].length
                at += step
                received(s, step, now)
                count = targets(s, spans)
            return at
        finally:
            tc_mutex_unlock(&s.lock)
            PyBuffer_Release(&view)

    def output(self, size_t most=0xFFFFFFFF):
        """What is to be written now, at most `most` bytes; b"" for nothing. Counts as written."""
        cdef State* s = self.s
        cdef Span[SPANS] spans
        cdef int count, index
        cdef size_t size, total = 0
        parts = []
        tc_mutex_lock(&s.lock)
        try:
            count = prepare(s, spans, SPANS)
            for index in range(count):
                size = min(spans[index].length, most - total)
                parts.append((<const char*> spans[index].data)[:size])
                total += size
            wrote(s, total, total)
        finally:
            tc_mutex_unlock(&s.lock)
        return b"".join(parts)

    def lost(self):
        """The link is gone. Whether the session is kept, and may be resumed."""
        cdef bint kept
        tc_mutex_lock(&self.s.lock)
        kept = session_is_kept(self.s)
        if kept:
            session_unlink(self.s)
        else:
            state_lost(self.s)
        tc_mutex_unlock(&self.s.lock)
        return kept

    def resume(self, uint64_t count):
        """There is another link, and the peer has taken so many frames. False: it cannot have."""
        cdef bint possible
        tc_mutex_lock(&self.s.lock)
        possible = session_may_relink(self.s, count)
        if possible:
            session_relink(self.s, count)
        tc_mutex_unlock(&self.s.lock)
        return possible

    def lose(self, bint renew=True):
        """Gives up a session without a link. A client's begins again under another id (`renew`), or
        is over. The frames' numbers, epoch and so on begin again too.
        """
        cdef Leftover leftover = Leftover("the session was lost")
        cdef bytes names = os.urandom(32)
        cdef int failed
        tc_mutex_lock(&self.s.lock)
        failed = session_lose(
            self.s, &leftover.lost, <const uint8_t*> PyBytes_AS_STRING(names) if renew else NULL
        )
        tc_mutex_unlock(&self.s.lock)
        if failed:
            raise MemoryError
        leftover.fill()
        self.leftovers[self.s.renewals] = leftover

    cdef object left_by(self, uint32_t number, uint32_t route):
        """What the lost session of this number had still to send on one of our routes: the reason,
        and the messages in doubt and unsent. For one caller.
        """
        cdef Leftover leftover = self.leftovers.get(number)
        if leftover is None:
            return "", [], []
        doubt, unsent = leftover.take(route)
        return leftover.reason, doubt, unsent

    def loss(self, bytes id):
        """What a connection is to be told of the lost session, once: (acked, in doubt, unsent).
        None when there is nothing to tell.
        """
        cdef Conn* conn
        cdef uint32_t number, route
        cdef uint64_t sent
        tc_mutex_lock(&self.s.lock)
        try:
            conn = self.find(id)
            number = conn.lost
            route = conn.lost_route
            sent = conn.messages_sent - conn.sent_before
            conn.sent_before = conn.messages_sent
            conn.lost = 0
        finally:
            tc_mutex_unlock(&self.s.lock)
        if number == 0:
            return None
        _, doubt, unsent = self.left_by(number, route)
        return sent - len(doubt) - len(unsent), doubt, unsent

    @property
    def is_detached(self):
        """Whether it has no link, and waits for another."""
        return self.s.detached

    @property
    def session_id(self):
        """16 bytes, the same on both sides."""
        return (<const char*> self.s.ours.session_id)[:16]

    @property
    def secret(self):
        """What proves that a peer is this session's, 32 bytes; None: it is not kept."""
        cdef Hello* server = &self.s.theirs if self.s.client else &self.s.ours
        return (<const char*> server.secret)[:SECRET_SIZE] if server.has_secret else None

    @property
    def server_nonce(self):
        """16 bytes, from WELCOME."""
        cdef Hello* server = &self.s.theirs if self.s.client else &self.s.ours
        return (<const char*> server.nonce)[:16]

    @property
    def taken(self):
        """How many sequenced frames it has taken."""
        return self.s.sequence

    @property
    def acked(self):
        """How many of ours the peer has said to have taken."""
        return self.s.queue.acked

    @property
    def begins(self):
        """Whether there is no session with the peer yet."""
        return self.s.phase < PHASE_OPEN

    @property
    def epoch(self):
        """The number of its link."""
        return self.s.epoch

    def tick(self, uint64_t now):
        """Tells the time, after `deadline` at the latest."""
        tc_mutex_lock(&self.s.lock)
        session_tick(self.s, now)
        tc_mutex_unlock(&self.s.lock)

    @property
    def deadline(self):
        """When `tick` should be called next, in ns; 0: no need."""
        return session_deadline(self.s)

    @property
    def wants_write(self):
        cdef bint answer
        tc_mutex_lock(&self.s.lock)
        answer = wants_write(self.s)
        tc_mutex_unlock(&self.s.lock)
        return answer

    # What is known

    @property
    def is_open(self):
        return self.s.phase == PHASE_OPEN

    @property
    def is_paused(self):
        """Whether what was fed waits for memory, or for answers to be written."""
        return self.s.paused

    @property
    def end(self):
        """Why the session ended, as (kind, code, section, text), or None while it goes on."""
        cdef bint closed
        tc_mutex_lock(&self.s.lock)
        closed = self.s.phase == PHASE_CLOSED
        tc_mutex_unlock(&self.s.lock)
        # What is told then does not change any more.
        return end_reason(self.s) if closed else None

    @property
    def is_done(self):
        cdef bint answer
        tc_mutex_lock(&self.s.lock)
        answer = session_is_done(self.s)
        tc_mutex_unlock(&self.s.lock)
        return answer

    def events(self):
        """What happened to connections since the last call: a list of (id, set of words)."""
        cdef State* s = self.s
        cdef Conn* conn
        cdef uint8_t[16] id
        happened = []
        tc_mutex_lock(&s.lock)
        try:
            while s.event_first is not NULL:
                conn = next_event(s)
                put_u64(put_u64(id, conn.id_high), conn.id_low)
                words = set()
                if conn.events & EVENT_MESSAGE:
                    words.add("message")
                if conn.events & EVENT_CREDIT:
                    words.add("credit")
                if conn.events & EVENT_END:
                    words.add("end")
                conn.events = 0
                happened.append(((<const char*> id)[:16], words))
                conn_release(s, conn)
        finally:
            tc_mutex_unlock(&s.lock)
        return happened

    def state(self, bytes id):
        """A connection's state, for tests: a dict."""
        cdef Conn* conn
        names = {
            ROUTE_IDLE: "idle", ROUTE_OPEN: "open", ROUTE_DISCARDING: "discarding",
            ROUTE_ENDED: "ended",
        }
        tc_mutex_lock(&self.s.lock)
        try:
            conn = self.find(id)
            return {
                "incoming": names[conn.in_state],
                "outgoing": names[conn.out_state],
                "in_code": conn.in_code,
                "out_code": conn.out_code,
                "unread": conn.unread_count,
                "unread_bytes": conn.unread_bytes,
                "send_credit": conn.send_limit - conn.send_used,
                "outgoing_cost": conn.outgoing_cost,
                "window": conn.window,
                "receive_credit": conn.receive_limit - conn.receive_used,
            }
        finally:
            tc_mutex_unlock(&self.s.lock)

    def stats(self):
        """The session's counters: a dict."""
        cdef State s
        # Making a dict may set off the collector, and that may come to a connection of ours.
        tc_mutex_lock(&self.s.lock)
        s = self.s[0]
        tc_mutex_unlock(&self.s.lock)
        return {
            "connections": s.connections,
            "unaccepted": s.unaccepted,
            "sequence": s.queue.sequence,
            "acked": s.queue.acked,
            "received_sequence": s.sequence,
            "queued_bytes": s.queue.bytes,
            "unwritten_bytes": s.queue.unwritten,
            "outgoing_bytes": s.outgoing_bytes + s.stalled_bytes,
            "unread_bytes": s.unread_bytes,
            "send_credit": s.send_limit - s.send_used,
            "reserved": s.reserved,
            "receive_credit": s.receive_limit - s.receive_used,
            "retired_bytes": s.retired_bytes,
            "frames_received": s.frames_received,
            "bytes_received": s.bytes_received,
            "bytes_sent": s.bytes_sent,
            "round_trip_ns": s.round_trip,
            "expected_bytes": s.expected,
            "messages_in_use": s.messages.in_use,
            "pieces_in_use": s.queue.pieces.in_use,
        }
