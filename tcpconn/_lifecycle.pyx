"""What is done to a session: connections are opened, accepted and closed, time goes by, it ends.

PROTOCOL.md sections 5, 9 and 12. Every function here is called with the session's lock held.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from tcpconn._budget cimport LOAN_RATE
from tcpconn._buffer cimport is_waited_for
from tcpconn._control cimport fail_numbers, may_refuse, too_many_refused
from tcpconn._frame cimport Hello, fault_text
from tcpconn._rate cimport rate_ready
from tcpconn._receive cimport stop_receiving
from tcpconn._routes cimport (
    accept_remove,
    check_over,
    conn_bind,
    conn_find,
    conn_new,
    conn_release,
    drop_assembly,
    drop_unread,
    next_event,
)
from tcpconn._send cimport (
    send_break,
    send_due_resets,
    send_finish,
    send_open,
    send_ping,
    send_stop,
    stop_sending,
    wants_write,
)
from tcpconn._sendqueue cimport queue_destroy
from tcpconn._state cimport *
from tcpconn._sync cimport SECOND_NS
from tcpconn._table cimport Node, Table, table_next, table_remove
from tcpconn._wire cimport *

from tcpconn._frame import peer_text

cdef uint64_t FAR = <uint64_t> -1
# Who has a loan, while others wait for one, must go on by so much in this time.
cdef uint64_t LOAN_NS = 2 * <uint64_t> SECOND_NS
cdef uint64_t LOAN_STEP = 2 * LOAN_RATE


cdef void attach(State* s, Conn* conn) noexcept nogil:
    conn.attached = True
    conn.attached_before = NULL
    conn.attached_behind = s.attached
    if s.attached is not NULL:
        s.attached.attached_before = conn
    s.attached = conn


cdef void leave(State* s, Conn* conn) noexcept nogil:
    """Takes a connection out of those that somebody here has."""
    conn.attached = False
    if conn.attached_before is NULL:
        s.attached = conn.attached_behind
    else:
        conn.attached_before.attached_behind = conn.attached_behind
    if conn.attached_behind is not NULL:
        conn.attached_behind.attached_before = conn.attached_before


cdef int session_open(
    State* s, uint64_t high, uint64_t low, int priority, Conn** opened
) noexcept nogil:
    """Opens a connection, or takes the one that the peer has opened under this UUID: they meet.

    0, or the code of what stands against it. The reference is the caller's.
    """
    cdef Conn* conn = conn_find(s, high, low)
    opened[0] = NULL
    if conn is not NULL:
        if conn.attached or conn.in_state != ROUTE_OPEN and conn.in_state != ROUTE_ENDED:
            return CODE_DUPLICATE
        if conn.accepted:
            return CODE_DUPLICATE   # closed here, and not yet by the peer
        accept_remove(s, conn)
    else:
        if s.goaway_received or s.goaway_sent:
            return CODE_SHUTDOWN
        # A server that has no HELLO yet does not know the limit, and sends nothing; it may be told.
        # Nor does a client know it whose session was lost, while it begins again.
        if (
            s.connections >= s.theirs.max_connections
            and (s.phase == PHASE_OPEN or (s.client and s.renewals == 0))
        ):
            return CODE_LIMIT
        if s.out_route == <uint32_t> 0xFFFFFFFFu:
            return CODE_LIMIT
        conn = conn_new(s, high, low)
        if conn is NULL:
            return CODE_INTERNAL
        conn_bind(s, conn)
        conn.references += 1
        conn.accepted = True
    if priority >= 0:
        conn.priority = <uint8_t> min(priority, MAX_PRIORITY)
        conn.turn.level = conn.priority
    attach(s, conn)
    opened[0] = conn
    if s.renewals != 0 and s.phase < PHASE_OPEN:
        return 0                        # it is opened once there is a session
    if conn.out_state == ROUTE_IDLE and send_open(s, conn, False):
        return CODE_INTERNAL
    return 0


cdef Conn* session_accept(State* s) noexcept nogil:
    """The connection that has waited longest. The reference is the caller's. NULL: none."""
    cdef Conn* conn = s.accept_first
    if conn is not NULL:
        accept_remove(s, conn)
        attach(s, conn)
    return conn


cdef void session_detach(State* s, Conn* conn, uint64_t code, bint abruptly) noexcept nogil:
    """The user closes a connection: our direction ends, the peer's will not be read.

    `code` is none of those that refuse an OPEN (section 5), which leave our direction unended.
    """
    if not conn.attached:
        if abruptly and conn.out_state == ROUTE_OPEN and s.phase != PHASE_CLOSED:
            # Closed before, with messages that are not cut yet.
            send_break(s, conn, <uint32_t> code)
        return
    leave(s, conn)
    if s.phase == PHASE_CLOSED:
        return
    if conn.in_state == ROUTE_OPEN:
        send_stop(s, conn, <uint32_t> code)
    drop_assembly(s, conn)
    if abruptly:
        send_break(s, conn, <uint32_t> code)
    else:
        send_finish(s, conn)
    drop_unread(s, conn)
    check_over(s, conn)


cdef void session_refuse(State* s, Conn* conn, uint32_t code) noexcept nogil:
    """A connection just accepted is not wanted: its OPEN is refused, section 5, with one of the
    codes for that. It may be opened anew under its UUID.
    """
    leave(s, conn)
    if s.phase == PHASE_CLOSED:
        return
    drop_assembly(s, conn)
    if conn.in_state != ROUTE_OPEN:
        # The peer has ended its direction already, and only waits for the end of ours.
        send_finish(s, conn)
        drop_unread(s, conn)
        return
    if not may_refuse(s):
        too_many_refused(s)
        return
    conn.bound = False
    table_remove(&s.ids, &conn.by_id)
    s.connections -= 1
    s.happened |= HAPPENED_OVER
    s.refused += 1                  # what was the UUID's reference is the refused route's
    send_stop(s, conn, code)
    drop_unread(s, conn)


cdef void session_goaway(State* s) noexcept nogil:
    if not s.goaway_sent:
        s.goaway_sent = True
        s.goaway_due = True
        s.last_in_route = s.in_route


cdef bint session_is_unused(const State* s) noexcept nogil:
    """Nobody here has a connection, or could accept one. The peer need not have closed its ends."""
    return s.attached is NULL and s.accept_first is NULL


cdef bint session_is_done(State* s) noexcept nogil:
    """Nobody here has a connection, and the peer has acknowledged all that was said."""
    return (
        session_is_unused(s) and s.outgoing_count == 0 and s.queue.acked == s.queue.sequence
        and (s.detached or not wants_write(s))
    )


cdef uint64_t session_ping(State* s, uint64_t now) noexcept nogil:
    """Asks for an answer, as soon as the peer must take a PING, and times it; the token to expect.

    Who asks while one waits to be sent shares it.
    """
    cdef uint64_t token = s.ping_token + 1
    s.ping_wanted = True
    send_ping(s, now)
    return token


cdef inline uint64_t message_deadline(const State* s) noexcept nogil:
    """Until when a byte of some message must have come."""
    cdef uint64_t limit = s.message_ns
    if s.overdue_at != 0:
        # This side may have stood still: what came meanwhile is taken in first.
        return s.overdue_at + limit // 8
    if s.heard_at < s.chunk_at + limit // 2:
        limit += limit              # a link that is silent is the keepalive's business first
    return s.chunk_at + limit


cdef uint64_t loan_deadline(State* s) noexcept nogil:
    """Until when more must have come of messages for which memory was lent."""
    return max(s.lent_at + LOAN_NS, s.lent_late_at + LOAN_NS // 8)


cdef uint64_t session_deadline(State* s) noexcept nogil:
    """When `session_tick` has something to do next (ns); 0: nothing is due."""
    cdef uint64_t at = FAR
    if s.owed_since != 0:
        at = s.owed_since + ACK_DELAY_NS
    if s.assemblies > 0:
        at = min(at, message_deadline(s))
    if s.ping_wanted and s.ping_answered >= s.ping_charged:
        at = min(at, rate_ready(&s.pings_sent))
    if s.lent_at != 0:
        at = min(at, loan_deadline(s))
    if s.resets_due > 0:
        at = min(at, max(rate_ready(&s.resets_sent), s.now + ACK_DELAY_NS))
    if s.keepalive_ns != 0 and s.phase == PHASE_OPEN and not s.detached:
        at = min(at, max(s.heard_at, s.asked_at) + s.keepalive_ns)
    return 0 if at == FAR else max(at, <uint64_t> 1)


cdef void session_tick(State* s, uint64_t now) noexcept nogil:
    s.now = max(s.now, now)
    if s.phase == PHASE_CLOSED:
        return
    if s.owed_since != 0 and now >= s.owed_since + ACK_DELAY_NS:
        s.ack_due = True
    if (
        s.keepalive_ns != 0 and s.phase == PHASE_OPEN and not s.detached
        and now >= max(s.heard_at, s.asked_at) + s.keepalive_ns
    ):
        s.asked_at = now
        if s.paused:
            # An answer could not be read: that we are there is told by repeating ourselves.
            s.session_credit_due = True
            s.credit_urgent = True
        else:
            session_ping(s, now)
    if s.paused:
        s.chunk_at = now        # we do not read
        s.overdue_at = 0
    if s.lent_at != 0 and (
        s.loan.waits            # it has to wait for more: we do not read
        or s.lent_got + (s.direct_done if s.direct is not NULL else 0) >= LOAN_STEP
    ):
        s.lent_at = now
        s.lent_got = 0
        s.lent_late_at = 0
    if s.lent_at != 0 and now >= loan_deadline(s):
        # As with messages that do not go on at all: first, what came meanwhile is taken in.
        if s.lent_late_at != 0 and is_waited_for(s.pool):
            fail_numbers(
                s, CODE_LIMIT, b"6",
                b"messages too slow while memory is short (bytes missing of them)", s.expected, 0
            )
            return
        s.lent_late_at = now
    if s.assemblies > 0 and now >= message_deadline(s):
        if s.overdue_at != 0:
            fail_numbers(
                s, CODE_TIMEOUT, b"6", b"messages that do not go on (bytes missing of them)",
                s.expected, 0
            )
            return
        s.overdue_at = now
    send_ping(s, now)
    if s.resets_due > 0:
        send_due_resets(s)


cdef bint session_is_silent(const State* s, uint64_t now) noexcept nogil:
    """Whether the peer has said nothing for so long that it must be taken for dead."""
    return (
        s.silence_ns != 0 and s.phase == PHASE_OPEN and not s.detached and not s.paused
        and now - min(s.heard_at, now) >= s.silence_ns
    )


cdef bint session_is_kept(State* s) noexcept nogil:
    """Whether it outlives its link, section 12. One that is being closed does not."""
    cdef const Hello* server = &s.theirs if s.client else &s.ours
    if s.goaway_received or (s.goaway_sent and not s.client):
        return False
    if s.client and session_is_done(s):
        return False                    # the next use makes a new one
    if s.phase == PHASE_OPEN:
        return server.has_secret
    return s.renewals != 0 and s.phase < PHASE_OPEN


cdef void session_let_go(State* s) noexcept nogil:
    """It is over, and nobody reads or writes any more: gives back all memory but that of messages
    which can still be received, and of what tells how it ended.
    """
    stop_receiving(s)
    stop_sending(s)


cdef void session_clear(State* s) noexcept nogil:
    """The very end: frees all connections, and what was to be sent. Objects that this sets free are
    among the queue's released ones.
    """
    cdef Conn* conn
    while s.event_first is not NULL:
        conn_release(s, next_event(s))
    while s.credit_first is not NULL:
        conn = s.credit_first
        s.credit_first = conn.credit_next
        conn_release(s, conn)
    s.direct = NULL
    while s.attached is not NULL:
        conn = s.attached
        s.phase = PHASE_CLOSED
        session_detach(s, conn, CODE_NONE, False)
        conn_release(s, conn)
    while s.accept_first is not NULL:
        conn = s.accept_first
        accept_remove(s, conn)
        conn_release(s, conn)
    free_table(s, &s.in_routes, False)
    free_table(s, &s.ids, True)
    queue_destroy(&s.queue)


cdef void free_table(State* s, Table* table, bint ids) noexcept nogil:
    """Gives up the session's reference to each record of a table."""
    cdef size_t bucket = 0
    cdef Node* node = table_next(table, &bucket, NULL)
    cdef Node* following
    cdef Conn* conn
    while node is not NULL:
        following = table_next(table, &bucket, node)
        conn = <Conn*> node.record
        # A refused connection's record is in the table of routes alone.
        if ids or not conn.bound:
            conn.references = 1
            conn_release(s, conn)
        node = following


cdef object end_reason(State* s):
    """Why the session ended, as a tuple (kind, code, section, text), or None."""
    if s.phase != PHASE_CLOSED:
        return None
    if s.fault_is_loss:
        return ("lost", CODE_NONE, "", "the link broke")
    if s.fault_is_theirs:
        text = peer_text((<const char*> s.told)[:s.told_length])
        return ("told", s.fault.code, (<bytes> s.fault.section).decode(), text)
    return ("fault", s.fault.code, (<bytes> s.fault.section).decode(), fault_text(&s.fault))
