"""A session without a link, PROTOCOL.md section 12: detached, resumed, or lost and renewed.

Every function here is called with the session's lock held, and none while anybody reads or writes
for it.

A session that is lost is renewed in place: under another id it begins again, and the connections
that are open here keep their records, what is unread in them, and those who wait on them. What was
still to be sent is handed out (`Lost`); a connection's next user is told of it first.
"""

from libc.string cimport memcpy, memset

from tcpconn._control cimport session_limits, session_start
from tcpconn._memory cimport memory_free, memory_take, memory_take_zeroed
from tcpconn._routes cimport (
    assembly_ended,
    conn_event,
    conn_release,
    credit_list,
    drop_assembly,
    give_loan_back,
    leave_memory,
    state_close,
)
from tcpconn._schedule cimport Scheduler, schedule_remove
from tcpconn._sendqueue cimport queue_begun, queue_init, queue_rewind
from tcpconn._state cimport *
from tcpconn._table cimport Node, table_next, table_remove
from tcpconn._wire cimport *

cdef enum:
    NEVER = 0xFFFFFFFFFFFFFFFF


cdef void session_unlink(State* s) noexcept nogil:
    """The link is gone, and the session kept: forgets what belonged to the link alone."""
    cdef Conn* conn = s.direct
    s.detached = True
    s.unusual = True
    s.begun = max(s.begun, queue_begun(&s.queue))
    # A chunk of which a part came will come again, whole.
    s.direct = NULL
    s.direct_done = 0
    s.direct_length = 0
    if conn is not NULL and (conn.in_state != ROUTE_OPEN or conn.assembly.filled == 0):
        drop_assembly(s, conn)  # nobody wants the message, or it begins anew
    s.skip = 0
    s.expect_large = False
    s.block_start = s.block_end
    s.control_length = 0
    s.control_taken = 0
    s.control_written = 0
    s.pong_count = 0
    s.ping_sent_at = 0
    s.tight = False
    s.paused = False
    give_loan_back(s)
    if s.phase < PHASE_OPEN:
        # A session that begins again has not been answered: its first words are said once more.
        s.phase = PHASE_PREFACE
        queue_rewind(&s.queue, 0)
        session_start(s)


cdef bint session_may_relink(const State* s, uint64_t received) noexcept nogil:
    """Whether a peer can have taken so many frames."""
    return s.queue.acked <= received <= s.queue.sequence


cdef void session_relink(State* s, uint64_t received) noexcept nogil:
    """There is another link, over which both sides have said what they have received."""
    cdef Conn* conn
    cdef size_t bucket = 0
    cdef Node* node
    s.detached = False
    s.unusual = s.renewals != 0
    queue_rewind(&s.queue, received)
    s.unhurried = 0
    s.chunk_at = s.now
    s.overdue_at = 0
    s.ping_mark = NEVER                 # the peer may ask again what was lost with the link
    s.acked = s.sequence
    s.owed_bytes = 0
    s.owed_since = 0
    s.ack_due = False
    s.happened |= HAPPENED_ACK
    s.goaway_due = s.goaway_sent
    s.ping_due = s.ping_token > s.ping_answered
    if s.receive_limit > s.ours.session_credit:
        s.session_credit_due = True
        s.credit_urgent = True
    node = table_next(&s.in_routes, &bucket, NULL)
    while node is not NULL:
        conn = <Conn*> node.record
        if conn.in_state == ROUTE_OPEN and conn.receive_limit > s.ours.route_credit:
            credit_list(s, conn)
            s.credit_urgent = True
        node = table_next(&s.in_routes, &bucket, node)


cdef int session_lose(State* s, Lost* lost, const uint8_t* names) noexcept nogil:
    """Neither side will resume it. Hands out what was still to be sent.

    `names` are 32 random bytes, under which the session begins again; NULL: it does not, and is
    closed. -1: there is no memory, and nothing has changed.
    """
    cdef size_t index = 0
    cdef size_t count = s.connections
    cdef size_t refused = 0
    cdef Conn** conns = <Conn**> memory_take((count + s.in_routes.count + 1) * sizeof(Conn*))
    cdef Cut* cuts = <Cut*> memory_take_zeroed(count + 1, sizeof(Cut))
    cdef Node* node
    cdef size_t bucket = 0
    if conns is NULL or cuts is NULL:
        memory_free(conns)
        memory_free(cuts)
        return -1
    node = table_next(&s.ids, &bucket, NULL)
    while node is not NULL:
        conns[index] = <Conn*> node.record
        index += 1
        node = table_next(&s.ids, &bucket, node)
    # Records of OPENs that were refused are in the table of routes alone.
    bucket = 0
    node = table_next(&s.in_routes, &bucket, NULL)
    while node is not NULL:
        if not (<Conn*> node.record).bound:
            conns[count + refused] = <Conn*> node.record
            refused += 1
        node = table_next(&s.in_routes, &bucket, node)
    for index in range(count, count + refused):
        table_remove(&s.in_routes, &conns[index].by_in)
        conn_release(s, conns[index])
    s.renewals += 1
    lost.begun = s.begun
    lost.cuts = cuts
    lost.count = 0
    for index in range(count):
        if conns[index].outgoing_first is not NULL:
            if conns[index].out_route == 0:
                s.out_route += 1        # it was not opened yet: any number of its own will do
                conns[index].out_route = s.out_route
            cuts[lost.count].route = conns[index].out_route
            cuts[lost.count].first = conns[index].outgoing_first
            lost.count += 1
        lose_conn(s, conns[index], names is not NULL)
    memory_free(conns)
    lost.queue = s.queue
    queue_init(&s.queue, s.pool)
    s.queue.released = lost.queue.released
    lost.queue.released = NULL
    begin_again(s)
    if names is NULL:
        s.fault_is_loss = True
        state_close(s)
        return 0
    memcpy(s.ours.session_id, names, 16)
    memcpy(s.ours.nonce, names + 16, 16)
    session_limits(s)
    session_start(s)
    return 0


cdef void lose_conn(State* s, Conn* conn, bint renew) noexcept nogil:
    """One connection of a lost session: it will be opened again, or is over."""
    cdef Message* message = conn.unread_first
    cdef bint mine = conn.attached or not conn.accepted or conn.owner is not NULL
    # What the peer has ended in order, and has all of, is not lost.
    cdef bint ended = (
        conn.in_state == ROUTE_ENDED and conn.outgoing_first is NULL
        and conn.data_sequence <= s.queue.acked
    )
    cdef bint again = (
        renew and conn.attached and not conn.finishing and conn.out_code == 0
        and conn.in_state <= ROUTE_OPEN and conn.out_state <= ROUTE_OPEN
    )
    if mine and not ended:
        conn.lost = s.renewals
        conn.lost_route = conn.out_route
    while message is not NULL:
        message.cost = 0                # the new session owes no credit for it
        message = message.next
    schedule_remove(&s.scheduler, &conn.turn)
    conn.turn.next = NULL
    conn.turn.deficit = 0
    conn.outgoing_first = NULL
    conn.outgoing_last = NULL
    conn.outgoing_cost = 0
    conn.outgoing_bytes = 0
    conn.outgoing_count = 0
    conn.stalled = False
    conn.finishing = False
    conn.reset_code = CODE_NONE
    if conn.assembly.active:
        leave_memory(s, conn)
        assembly_ended(s, conn)
    conn.assembly_cost = 0
    if conn.in_state == ROUTE_OPEN or conn.in_state == ROUTE_DISCARDING:
        table_remove(&s.in_routes, &conn.by_in)
    if conn.out_known:
        table_remove(&s.out_routes, &conn.by_out)
        conn.out_known = False
    conn.in_route = 0
    conn.out_route = 0
    conn.data_sequence = 0
    conn.window = s.ours.route_credit
    conn.receive_limit = conn.window
    conn.told_limit = conn.window
    conn.receive_used = 0
    conn.released = 0
    conn.send_limit = MIN_ROUTE_CREDIT
    conn.send_used = 0
    conn_event(s, conn, EVENT_MESSAGE | EVENT_CREDIT | EVENT_END)
    if again:
        conn.in_state = ROUTE_IDLE
        conn.out_state = ROUTE_IDLE
        return
    if not ended and conn.in_state != ROUTE_ENDED:
        conn.in_code = CODE_UNKNOWN_SESSION
    if conn.out_code == 0:
        conn.out_code = CODE_UNKNOWN_SESSION
    conn.in_state = ROUTE_ENDED
    conn.out_state = ROUTE_ENDED
    conn.bound = False
    table_remove(&s.ids, &conn.by_id)
    s.connections -= 1
    s.happened |= HAPPENED_OVER
    conn_release(s, conn)


cdef void begin_again(State* s) noexcept nogil:
    """All that is counted since a session's beginning, back to its beginning."""
    cdef Conn* conn
    while s.credit_first is not NULL:
        conn = s.credit_first
        s.credit_first = conn.credit_next
        conn.credit_due = False
        conn_release(s, conn)
    s.credit_last = NULL
    memset(&s.scheduler, 0, sizeof(Scheduler))
    s.starved = NULL
    s.in_route = 0
    s.out_route = 0
    s.refused = 0
    s.refusals = 0
    s.refusals_since = 0
    s.send_used = 0
    s.reserved = 0
    s.outgoing_bytes = 0
    s.stalled_bytes = 0
    s.outgoing_count = 0
    s.shared = 0
    s.session_credit_due = False
    s.credit_urgent = False
    s.sequence = 0
    s.unhurried = 0
    s.acked = 0
    s.owed_bytes = 0
    s.owed_since = 0
    s.ack_due = False
    s.receive_used = 0
    s.expected = 0
    s.released = 0
    s.begun = 0
    s.epoch = 0
    s.overdue_at = 0
    s.answers = 0
    s.ping_mark = 0
    s.resets_due = 0
    s.resets_open = 0
    s.resets_since = 0
    s.pinged = 0
    s.ack_wanted = False
    s.ping_due = s.ping_token > s.ping_answered
    s.phase = PHASE_PREFACE
    s.unusual = True
