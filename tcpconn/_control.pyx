"""Frames that carry no message: the handshake, routes, credit, acks, PING and GOAWAY.

Each function is called with the session's lock held and a payload whose length the header's rules
allow. What a peer does wrong becomes the session's fault: then they return -1, else 0.
"""

from libc.string cimport memcmp, memcpy

from tcpconn._budget cimport Claim
from tcpconn._buffer cimport pool_allows
from tcpconn._frame cimport (
    Fault,
    Header,
    check_tags,
    fault_numbers,
    fault_set,
    parse_hello,
    put_hello,
    put_preface,
)
from tcpconn._routes cimport (
    accept_push,
    claim_of,
    conn_bind,
    conn_by_in_route,
    conn_by_out_route,
    conn_event,
    conn_find,
    conn_new,
    drop_assembly,
    in_route_ended,
    in_route_opened,
    session_room_came,
    settle_charge,
    state_close,
    state_fail,
)
from tcpconn._rate cimport rate_set, rate_take
from tcpconn._send cimport (
    bound_sending,
    credit_came,
    keepalive_rate,
    send_due_resets,
    send_open,
    send_ping,
    wants_write,
    send_reset,
    send_stop,
)
from tcpconn._sendqueue cimport queue_ack
from tcpconn._state cimport *
from tcpconn._table cimport table_next
from tcpconn._wire cimport *


# Faults

cdef int fail(State* s, const Fault* fault) noexcept nogil:
    state_fail(s, fault)
    return -1


cdef int fail_with(State* s, uint32_t code, const char* section, const char* text) noexcept nogil:
    cdef Fault fault
    fault_set(&fault, code, section, text)
    return fail(s, &fault)


cdef int fail_numbers(
    State* s, uint32_t code, const char* section, const char* text, uint64_t value, uint64_t limit
) noexcept nogil:
    cdef Fault fault
    fault_numbers(&fault, code, section, text, value, limit)
    return fail(s, &fault)


cdef int take_control(State* s, const Header* header, const uint8_t* payload) noexcept nogil:
    cdef Cursor cursor = cursor_over(payload, header.length)
    cdef uint64_t token, ack
    if header.type == OPEN:
        return on_open(s, header, &cursor)
    if header.type == FIN:
        return on_fin(s, header)
    if header.type == RESET:
        if header.flags & PEER:
            return on_stop(s, header.route, take_u32(&cursor))
        return on_reset(s, header.route, take_u32(&cursor))
    if header.type == CREDIT:
        return on_credit(s, header.route, take_u64(&cursor))
    if header.type == ACK:
        return on_ack(s, take_u64(&cursor))
    if header.type == PING or header.type == PONG:
        # One after the other: C does not say which argument of a call it evaluates first.
        token = take_u64(&cursor)
        ack = take_u64(&cursor)
        return on_ping(s, token, ack) if header.type == PING else on_pong(s, token, ack)
    if header.type == GOAWAY:
        return on_goaway(s, &cursor)
    return fail_numbers(
        s, CODE_STATE, b"4", b"a frame of the handshake after it (type)", header.type, GOAWAY
    )


# Handshake, section 4

cdef const char* NO_KEY_HERE = b"the peer wants to prove an authkey, and this side has none"


cdef void grant_pings(State* s) noexcept nogil:
    """How often the peer may ask on a new link."""
    rate_set(&s.pings, s.ping_rate + 2 * keepalive_rate(&s.theirs), s.ping_burst)


cdef void session_start(State* s) noexcept nogil:
    """A client's first words. A server has nothing to say before HELLO."""
    if s.client:
        s.control_length = put_preface(s.control)
        s.control_length = <size_t> (
            put_hello(s.control + s.control_length, HELLO, &s.ours) - s.control
        )


cdef void session_limits(State* s) noexcept nogil:
    """What is granted as a session begins; what the peer grants until HELLO or WELCOME says more.
    """
    s.receive_limit = s.ours.session_credit
    s.told_limit = s.receive_limit
    s.theirs.max_frame_size = MIN_FRAME_SIZE
    s.theirs.max_message_size = MIN_MESSAGE_SIZE
    s.theirs.route_credit = MIN_ROUTE_CREDIT
    s.theirs.session_credit = MIN_SESSION_CREDIT
    s.theirs.max_connections = 1
    s.theirs.has_secret = False
    s.send_limit = MIN_SESSION_CREDIT


cdef int check_first(State* s, const Header* header) noexcept nogil:
    """Whether a frame may be the peer's first; before its payload is here."""
    if header.type == AUTH:
        return fail_with(s, CODE_AUTHENTICATION, b"4.1", NO_KEY_HERE)
    if s.client:
        if header.type != WELCOME and header.type != REJECT:
            return fail_numbers(
                s, CODE_STATE, b"4", b"neither WELCOME nor REJECT first, but type", header.type,
                WELCOME
            )
    elif header.type != HELLO and header.type != RESUME:
        return fail_numbers(
            s, CODE_STATE, b"4", b"neither HELLO nor RESUME first, but type", header.type, HELLO
        )
    return 0


cdef int on_first(State* s, const Header* header, const uint8_t* payload) noexcept nogil:
    cdef Fault fault
    if header.type == RESUME:
        return fail_with(s, CODE_UNKNOWN_SESSION, b"12", b"this server keeps no such session")
    if header.type == REJECT:
        return told_end(s, load_u32(payload), payload + 4, header.length - 4, b"4")
    if parse_hello(payload, header.length, &s.theirs, &fault):
        return fail(s, &fault)
    if s.client:
        if memcmp(s.theirs.session_id, s.ours.session_id, 16) != 0:
            return fail_with(s, CODE_MALFORMED, b"4", b"WELCOME names another session than HELLO")
    else:
        memcpy(s.ours.session_id, s.theirs.session_id, 16)
        s.control_length += put_preface(s.control + s.control_length)
        s.control_length = <size_t> (
            put_hello(s.control + s.control_length, WELCOME, &s.ours) - s.control
        )
    settle(s)
    return 0


cdef void settle(State* s) noexcept nogil:
    """Both sides know each other's limits from here on."""
    cdef Conn* conn
    cdef Node* node = NULL
    cdef size_t bucket = 0
    s.phase = PHASE_OPEN
    s.unusual = s.renewals != 0
    s.happened |= HAPPENED_OPEN
    s.heard_at = s.now
    s.theirs.max_message_size = min(s.theirs.max_message_size, s.ours.max_message_size)
    s.send_limit = s.theirs.session_credit
    grant_pings(s)
    node = table_next(&s.ids, &bucket, NULL)
    while node is not NULL:
        conn = <Conn*> node.record
        conn.send_limit = max(conn.send_limit, s.theirs.route_credit)
        if s.renewals != 0 and conn.attached and conn.out_state == ROUTE_IDLE:
            send_open(s, conn, False)
        conn_event(s, conn, EVENT_CREDIT)
        credit_came(s, conn)
        node = table_next(&s.ids, &bucket, node)
    session_room_came(s)


cdef int told_end(
    State* s, uint32_t code, const uint8_t* text, uint32_t length, const char* section
) noexcept nogil:
    """The peer says that it ends the link, and why."""
    cdef Fault fault
    s.told_length = min(length, <uint32_t> MAX_TEXT_SIZE)
    memcpy(s.told, text, s.told_length)
    fault_set(&fault, known_code(code), section, b"the peer ended the link")
    s.fault = fault
    s.fault_is_theirs = True
    state_close(s)
    return -1


# Routes, section 5

cdef int on_open(State* s, const Header* header, Cursor* cursor) noexcept nogil:
    cdef uint64_t high = take_u64(cursor)
    cdef uint64_t low = take_u64(cursor)
    cdef uint8_t priority = min(take_u8(cursor), <uint8_t> MAX_PRIORITY)
    cdef Fault fault
    cdef Conn* conn
    cdef uint32_t refusal = CODE_NONE
    if header.route != s.in_route + 1:
        return fail_numbers(
            s, CODE_STATE, b"5", b"OPEN with another route than the next", header.route,
            s.in_route + 1
        )
    if check_tags(cursor.at, cursor_left(cursor), &fault):
        return fail(s, &fault)
    s.in_route = header.route
    conn = conn_find(s, high, low)
    if conn is not NULL and conn.in_state != ROUTE_IDLE:
        refusal = CODE_DUPLICATE
    elif conn is not NULL and not conn.attached:
        refusal = CODE_CLOSED   # closed here before the peer opened its direction
    elif conn is NULL:
        if s.connections >= s.ours.max_connections or s.unaccepted >= s.max_unaccepted:
            refusal = CODE_LIMIT
        elif s.goaway_sent:
            refusal = CODE_REFUSED
        elif s.connections + s.refused >= FEW_CONNECTIONS and not may_hold_another(s):
            refusal = CODE_LIMIT
    # Those that were closed here are no more than we have opened.
    if (
        refusal != CODE_NONE and refusal != CODE_CLOSED and not header.flags & LAST
        and not may_refuse(s)
    ):
        return too_many_refused(s)
    if refusal == CODE_DUPLICATE or conn is NULL:
        conn = conn_new(s, high, low)
        if conn is NULL:
            return fail_with(s, CODE_INTERNAL, b"10", b"out of memory")
        if refusal == CODE_NONE:
            conn.priority = priority
            conn.turn.level = priority
            conn_bind(s, conn)
            accept_push(s, conn)
        else:
            s.refused += 1
    conn.in_route = header.route
    in_route_opened(s, conn)
    if header.flags & LAST:
        in_route_ended(s, conn)
    elif refusal != CODE_NONE:
        send_stop(s, conn, refusal)
        answered(s)
    return 0


cdef inline void answered(State* s) noexcept nogil:
    """The peer has caused a frame of ours."""
    s.answers += 1
    s.answers_before = s.queue.unwritten
    if s.answers >= s.max_answers:
        s.paused = True


cdef bint may_hold_another(State* s) noexcept nogil:
    """Whether there is memory for one more connection."""
    cdef Claim claim
    settle_charge(s)
    claim = claim_of(s)
    claim.received = claim.held     # what is for a message is not for them
    claim.loan = NULL
    return pool_allows(s.pool, CONNECTION_BYTES, &claim)


cdef bint may_refuse(State* s) noexcept nogil:
    """Whether one more OPEN may be refused: each takes memory until the peer ends the route."""
    if s.queue.acked >= s.refusals_since:
        s.refusals = 0
        s.refusals_since = s.queue.sequence + 1
    s.refusals += 1
    return s.refused < REFUSALS and s.refusals <= REFUSALS


cdef int too_many_refused(State* s) noexcept nogil:
    return fail_numbers(
        s, CODE_LIMIT, b"5", b"too many refused connections that the peer does not end", s.refused,
        REFUSALS,
    )


cdef int on_fin(State* s, const Header* header) noexcept nogil:
    cdef Conn* conn = conn_by_in_route(s, header.route)
    if conn is NULL:
        return no_such_route(s, header.route)
    if conn.assembly.active:
        return fail_numbers(
            s, CODE_STATE, b"5", b"FIN inside a message (bytes so far)",
            conn.assembly.filled, conn.assembly.total,
        )
    in_route_ended(s, conn)
    return 0


cdef int no_such_route(State* s, uint32_t route) noexcept nogil:
    return fail_numbers(
        s, CODE_STATE, b"5", b"a frame on a route that is not open", route, s.in_route
    )


cdef int on_reset(State* s, uint32_t route, uint32_t code) noexcept nogil:
    cdef Conn* conn = conn_by_in_route(s, route)
    if conn is NULL:
        return no_such_route(s, route)
    if conn.in_state == ROUTE_OPEN:
        # What we told the peer to stop, it must reset; but what it opens to break it off costs us
        # more than it.
        if not rate_take(&s.resets, s.now):
            return fail_with(
                s, CODE_LIMIT, b"5", b"connections broken off faster than the limit allows"
            )
        conn.in_code = known_code(code)
    drop_assembly(s, conn)
    in_route_ended(s, conn)
    return 0


cdef int on_stop(State* s, uint32_t route, uint32_t code) noexcept nogil:
    """RESET PEER: nobody reads our direction any more, and we end it."""
    cdef Conn* conn
    cdef bint refused
    cdef bint alone
    if route > s.out_route:
        return fail_numbers(
            s, CODE_STATE, b"5", b"RESET PEER for a route never used", route, s.out_route
        )
    conn = conn_by_out_route(s, route)
    if conn is NULL:
        return 0
    # A peer that refuses an OPEN will not open the other direction; one that closes does, to end.
    refused = conn.in_state == ROUTE_IDLE and (
        code == CODE_REFUSED or code == CODE_LIMIT or code == CODE_DUPLICATE
    )
    if conn.out_state == ROUTE_OPEN:
        conn.out_code = known_code(code)
        # It may say so long after it closed: because our direction was not open yet, or because it
        # keeps to a rate.
        conn.unheard = conn.outgoing_first is not NULL or conn.data_sequence > (
            conn.heard if conn.in_state == ROUTE_ENDED else s.queue.acked
        )
        conn.finishing = False
        alone = not wants_write(s)
        send_reset(s, conn, CODE_CLOSED)
        answered(s)
        if alone:
            s.unhurried = s.queue.sequence
    if refused:
        conn.in_code = known_code(code)
        in_route_ended(s, conn)
    return 0


# Credit, acks, PING, GOAWAY: sections 7 to 9

cdef int on_credit(State* s, uint32_t route, uint64_t limit) noexcept nogil:
    cdef Conn* conn
    if limit > size_ceiling():
        limit = size_ceiling()
    if route == 0:
        if limit > s.send_limit:
            s.send_limit = limit
            session_room_came(s)
            s.happened |= HAPPENED_ACK
        return 0
    if route > s.out_route:
        return fail_numbers(
            s, CODE_STATE, b"7", b"CREDIT for a route never opened", route, s.out_route
        )
    conn = conn_by_out_route(s, route)
    if conn is not NULL and conn.out_state == ROUTE_OPEN and limit > conn.send_limit:
        conn.send_limit = limit
        credit_came(s, conn)
        conn_event(s, conn, EVENT_CREDIT)
    return 0


cdef int on_ack(State* s, uint64_t sequence) noexcept nogil:
    if sequence > s.queue.sequence:
        return fail_numbers(
            s, CODE_SEQUENCE, b"8", b"an ack of what was not sent", sequence, s.queue.sequence
        )
    if sequence > s.queue.acked:
        queue_ack(&s.queue, sequence)
        settle_charge(s)
        bound_sending(s)
        s.happened |= HAPPENED_ACK
        if s.resets_due > 0:
            send_due_resets(s)
    return 0


cdef int on_ping(State* s, uint64_t token, uint64_t ack) noexcept nogil:
    if on_ack(s, ack):
        return -1
    # With something new to acknowledge, a PING is no more than an ack asked for.
    if s.sequence == s.ping_mark and not rate_take(&s.pings, s.now):
        return fail_with(s, CODE_LIMIT, b"9", b"PINGs faster than the limit allows")
    s.ping_mark = s.sequence
    if s.pong_count < PONGS:
        s.pong_count += 1
    s.pongs[s.pong_count - 1] = token
    return 0


cdef int on_pong(State* s, uint64_t token, uint64_t ack) noexcept nogil:
    cdef uint64_t sample
    if on_ack(s, ack):
        return -1
    if token <= s.ping_answered or token > s.ping_token:
        return 0
    # The peer may answer several at once, with the token of the last.
    s.ping_answered = token
    s.happened |= HAPPENED_PONG
    if s.ping_sent_at != 0 and token >= s.ping_timed:
        sample = s.now - s.ping_sent_at + 1
        s.ping_sent_at = 0
        # RFC 6298: a smoothed mean with gain 1/8.
        if s.round_trip == 0:
            s.round_trip = sample
        else:
            s.round_trip += sample // 8 - s.round_trip // 8
    send_ping(s, s.now)
    return 0


cdef int on_goaway(State* s, Cursor* cursor) noexcept nogil:
    cdef uint32_t code
    take_u32(cursor)            # the last route it accepted: what is beyond, it refuses one by one
    code = take_u32(cursor)
    if code != CODE_NONE:
        return told_end(s, code, cursor.at, <uint32_t> cursor_left(cursor), b"9")
    s.goaway_received = True
    s.happened |= HAPPENED_GOAWAY
    return 0
