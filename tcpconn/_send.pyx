"""The sending half of a session. Every function here is called with the session's lock held.

A small message goes into the send queue at once; a larger one, or one behind it, waits as an
`Outgoing` until the scheduler cuts the next chunk of it, which happens only as the link takes what
is before it.
"""

from libc.string cimport memset

from tcpconn._buffer cimport pool_is_tight
from tcpconn._frame cimport Fault, Hello, fault_set, message_cost, put_header
from tcpconn._memory cimport memory_take
from tcpconn._rate cimport rate_take
from tcpconn._routes cimport (
    check_over,
    conn_release,
    out_route_ended,
    out_route_opened,
    outgoing_drop,
    session_room_came,
    set_stalled,
    settle_charge,
    state_fail,
)
from tcpconn._schedule cimport Turn, schedule_add, schedule_next
from tcpconn._sendqueue cimport (
    SEND_BLOCK,
    outgoing_free,
    queue_again,
    queue_commit,
    queue_destroy,
    queue_in_flight,
    queue_reference,
    queue_reserve,
    queue_take,
    queue_wrote,
)
from tcpconn._state cimport *
from tcpconn._table cimport Node, table_next
from tcpconn._wire cimport *

cdef enum:
    # Small messages queued ahead of the link. Enough to keep it busy while their senders wake up,
    # little enough to stay in a core's cache and not to delay what comes after: half a ms at
    # 1 GB/s.
    UNWRITTEN_MOST = 524288
    # A chunk, and the bytes of large messages cut for one batch: what a small message waits for
    # that comes just then.
    CHUNK = 65536
    CUT_MOST = 131072
    # The same for a connection that has the link to itself, as long as that takes all it is given
    # at once.
    CUT_MOST_ALONE = 524288
    SHARED_BATCHES = 64
    # Bytes of small messages given to one write: while it goes on, there is room for as many again.
    BATCH = 131072
    COPY_CHUNK = 4096           # chunks up to this are copied behind their header, else referenced
    # Every receiver leaves credit for a message of this size once it has read what came before
    # (section 7); a larger one may go in chunks.
    SMALL_CREDIT = 8192
    RESETS_OPEN = 200
    LITTLE_HELD = 262144        # bytes that a session may queue when the process is short of memory
    KEEPALIVE_LEAST = 10        # ms; a keepalive that is shorter gets no more PINGs


cdef void out_of_memory(State* s) noexcept nogil:
    cdef Fault fault
    fault_set(&fault, CODE_INTERNAL, b"10", b"out of memory")
    state_fail(s, &fault)


# Single frames

cdef int put_small(
    State* s, uint8_t type, uint8_t flags, uint32_t route, const uint8_t* payload, uint32_t length
) noexcept nogil:
    """Queues a sequenced frame of a few bytes."""
    cdef uint8_t* p = queue_reserve(&s.queue, HEADER_SIZE + length)
    if p is NULL:
        out_of_memory(s)
        return -1
    p = put_header(p, length, type, flags, route, <uint32_t> s.queue.sequence)
    put_bytes(p, payload, length)
    s.queue.sequence += 1
    if queue_commit(&s.queue, HEADER_SIZE + length, True):
        out_of_memory(s)
        return -1
    return 0


cdef int send_open(State* s, Conn* conn, bint last) noexcept nogil:
    """Opens our direction, section 5; with `last` only to end it."""
    cdef uint8_t[OPEN_SIZE] payload
    cdef uint8_t* p = put_u64(put_u64(payload, conn.id_high), conn.id_low)
    put_u8(p, conn.priority)
    s.out_route += 1
    conn.out_route = s.out_route
    if put_small(s, OPEN, LAST if last else 0, conn.out_route, payload, OPEN_SIZE):
        return -1
    if last:
        out_route_ended(s, conn)
        return 0
    out_route_opened(s, conn)
    return 0


cdef void send_finish(State* s, Conn* conn) noexcept nogil:
    """Ends our direction behind everything that was sent."""
    if conn.out_state == ROUTE_ENDED:
        return
    if conn.outgoing_first is not NULL:
        conn.finishing = True
        return
    if conn.out_state == ROUTE_OPEN:
        if put_small(s, FIN, 0, conn.out_route, NULL, 0) == 0:
            out_route_ended(s, conn)
    elif conn.in_state != ROUTE_IDLE:
        send_open(s, conn, True)
    else:
        # The peer has never heard of this connection, and need not.
        check_over(s, conn)


cdef void send_reset(State* s, Conn* conn, uint32_t code) noexcept nogil:
    """Ends our direction now: what is not cut yet, and a message half sent, is thrown away."""
    cdef uint8_t[4] payload
    put_u32(payload, code)
    conn.finishing = False
    if conn.reset_code != CODE_NONE:
        conn.reset_code = CODE_NONE
        s.resets_due -= 1
    if conn.out_state == ROUTE_OPEN:
        if put_small(s, RESET, 0, conn.out_route, payload, 4) == 0:
            out_route_ended(s, conn)
    else:
        outgoing_drop(s, conn)
        send_finish(s, conn)


cdef bint may_reset(State* s) noexcept nogil:
    """Whether a RESET that the peer did not ask for keeps to what it must take, section 5.

    At most twice RESETS_OPEN are unacknowledged: so they do not exceed the rate where they arrive
    either, however long the link held them back.
    """
    if s.queue.acked >= s.resets_since:
        s.resets_open = 0
        s.resets_since = s.queue.sequence + 1
    if s.resets_open >= RESETS_OPEN or not rate_take(&s.resets_sent, s.now):
        return False
    s.resets_open += 1
    return True


cdef void send_break(State* s, Conn* conn, uint32_t code) noexcept nogil:
    """As `send_reset`, of our own accord: now, or as soon as the peer must take it."""
    if conn.out_state != ROUTE_OPEN or may_reset(s):
        send_reset(s, conn, code)
        return
    conn.finishing = False
    outgoing_drop(s, conn)
    if conn.reset_code == CODE_NONE:
        conn.reset_code = <uint16_t> code
        s.resets_due += 1


cdef void send_due_resets(State* s) noexcept nogil:
    cdef size_t bucket = 0
    cdef Node* node = table_next(&s.out_routes, &bucket, NULL)
    cdef Conn* conn
    while node is not NULL and s.resets_due > 0:
        conn = <Conn*> node.record
        node = table_next(&s.out_routes, &bucket, node)
        if conn.reset_code != CODE_NONE:
            if not may_reset(s):
                return
            send_reset(s, conn, conn.reset_code)


cdef void send_stop(State* s, Conn* conn, uint32_t code) noexcept nogil:
    """RESET PEER: tells the peer that nobody will read its direction, which must be open."""
    cdef uint8_t[4] payload
    put_u32(payload, code)
    conn.in_state = ROUTE_DISCARDING
    put_small(s, RESET, PEER, conn.in_route, payload, 4)


# PING, section 9

cdef double keepalive_rate(const Hello* hello) noexcept nogil:
    """PINGs a second that a side's keepalive may need."""
    return 1e3 / max(hello.keepalive, <uint32_t> KEEPALIVE_LEAST) if hello.keepalive > 0 else 0.0


cdef inline bint ping_is_free(const State* s) noexcept nogil:
    """Whether a PING written now has a sequenced frame between it and the one before."""
    return s.queue.unwritten == 0 and s.queue.sequence > s.pinged


cdef void begin_ping(State* s, uint64_t now) noexcept nogil:
    """Has a PING go out with the next batch; before anything that is not written yet.

    The round trip is timed from `now`; 0: it is not.
    """
    s.ping_token += 1
    s.ping_due = True
    s.ping_wanted = False
    s.pinged = s.queue.sequence
    if s.ping_sent_at == 0 and now != 0:
        s.ping_sent_at = now
        s.ping_timed = s.ping_token


cdef void send_ping(State* s, uint64_t now) noexcept nogil:
    """Sends the PING that is wanted, if the peer must take it by now.

    Of those that the rate counts, one is on its way at a time: so they do not come faster where
    they arrive either, however long the link held them back.
    """
    if not s.ping_wanted:
        return
    if not ping_is_free(s):
        if s.ping_answered < s.ping_charged or not rate_take(&s.pings_sent, now):
            return
        s.ping_charged = s.ping_token + 1
    begin_ping(s, now)


cdef void send_ask(State* s, uint64_t now) noexcept nogil:
    """Asks for the ack of all that is queued, behind it; if a stream goes on, its acks come anyway.
    """
    if ping_is_free(s):
        begin_ping(s, now)
    else:
        s.ack_wanted = s.queue.unwritten > 0    # else it was asked for already


# Messages

cdef inline uint64_t session_room(const State* s) noexcept nogil:
    return s.send_limit - s.send_used - s.reserved


cdef void bound_sending(State* s) noexcept nogil:
    """How much may be queued: less when the process is short of memory."""
    s.send_bound = s.send_queue_size
    if s.send_bound > LITTLE_HELD and pool_is_tight(s.pool, s.memory):
        s.send_bound = LITTLE_HELD


cdef Room send_room(State* s, Conn* conn, uint64_t size) noexcept nogil:
    cdef uint64_t cost = FRAME_COST + size
    cdef uint64_t room = conn.send_limit - conn.send_used
    cdef uint64_t held = s.queue.bytes + s.outgoing_bytes
    if conn.stalled:
        held += conn.outgoing_bytes
    if s.unusual:
        if conn.lost != 0:
            return ROOM_LOST
        if s.phase == PHASE_CLOSED:
            return ROOM_CLOSED
        if s.detached and s.fails_detached:
            return ROOM_DETACHED
        if s.renewals != 0 and s.phase != PHASE_OPEN:
            return WAIT_CREDIT  # the first flight is for one connection, section 4
    if conn.out_state == ROUTE_ENDED or conn.finishing:
        return ROOM_ENDED
    if size > s.theirs.max_message_size:
        return ROOM_TOO_LARGE
    if held > 0 and held + size > s.send_bound:
        return WAIT_ACK
    if (
        conn.outgoing_first is NULL and size <= s.theirs.max_frame_size
        and size <= SEND_BLOCK - 2 * HEADER_SIZE - OPEN_SIZE
    ):
        if room >= cost and session_room(s) >= cost:
            return WAIT_LINK if s.queue.unwritten >= UNWRITTEN_MOST else ROOM_DIRECT
        if size <= SMALL_CREDIT:
            return WAIT_CREDIT
    # One message may wait in chunks for the peer to read; what comes behind it waits outside.
    if conn.outgoing_cost > room:
        return WAIT_CREDIT
    return ROOM_CUT


cdef int send_direct(
    State* s, Conn* conn, const Part* parts, uint32_t count, uint64_t size
) noexcept nogil:
    """Copies a small message into the send queue; `send_room` has said ROOM_DIRECT."""
    cdef uint8_t* p
    cdef uint32_t index
    if conn.out_state == ROUTE_IDLE and send_open(s, conn, False):
        return -1
    p = queue_reserve(&s.queue, HEADER_SIZE + <size_t> size)
    if p is NULL:
        out_of_memory(s)
        return -1
    p = put_header(
        p, <uint32_t> size, DATA, FIRST | LAST, conn.out_route, <uint32_t> s.queue.sequence
    )
    for index in range(count):
        p = put_bytes(p, parts[index].data, <size_t> parts[index].length)
    s.queue.sequence += 1
    conn.data_sequence = s.queue.sequence
    if queue_commit(&s.queue, HEADER_SIZE + <size_t> size, True):
        out_of_memory(s)
        return -1
    if s.scheduler.queued > 0:
        # Somebody else is waiting behind a large message, and may be again.
        s.shared = SHARED_BATCHES
    conn.send_used += FRAME_COST + size
    s.send_used += FRAME_COST + size
    conn.messages_sent += 1
    conn.bytes_sent += size
    return 0


cdef Outgoing* outgoing_new(uint32_t parts) noexcept nogil:
    """A record with room for `parts`, and none of them yet. Needs no lock. NULL: out of memory."""
    cdef size_t size = sizeof(Outgoing) + parts * sizeof(Part)
    # Not calloc: for small sizes, which are nearly all, that takes several times as long.
    cdef Outgoing* message = <Outgoing*> memory_take(size)
    if message is not NULL:
        memset(message, 0, size)
        message.parts = <Part*> (<uint8_t*> message + sizeof(Outgoing))
    return message


cdef void send_cut(State* s, Conn* conn, Outgoing* message) noexcept nogil:
    """Queues a message for the scheduler; takes over the record and its references."""
    if conn.outgoing_last is NULL:
        conn.outgoing_first = message
    else:
        conn.outgoing_last.next = message
    conn.outgoing_last = message
    message.overhead = message_cost(message.total, s.theirs.max_frame_size) - message.total
    conn.outgoing_cost += message.total + message.overhead
    conn.outgoing_count += 1
    conn.outgoing_bytes += message.total
    if conn.stalled:
        s.stalled_bytes += message.total
    else:
        s.outgoing_bytes += message.total
    s.outgoing_count += 1
    settle_charge(s)
    bound_sending(s)
    conn.messages_sent += 1
    conn.bytes_sent += message.total
    if conn.outgoing_first is message:
        conn.turn.deficit = 0
        schedule_add(&s.scheduler, &conn.turn)


cdef void copy_out(Outgoing* message, uint8_t* p, uint64_t size) noexcept nogil:
    cdef Part* part
    cdef uint64_t step
    while size > 0:
        part = &message.parts[message.index]
        step = min(size, part.length - message.offset)
        p = put_bytes(p, part.data + message.offset, <size_t> step)
        message.offset += step
        size -= step
        if message.offset == part.length:
            message.index += 1
            message.offset = 0


cdef int reference_out(State* s, Outgoing* message, uint64_t size) noexcept nogil:
    cdef Part* part
    cdef uint64_t step
    while size > 0:
        part = &message.parts[message.index]
        step = min(size, part.length - message.offset)
        size -= step
        if step > 0 and queue_reference(
            &s.queue, part.data + message.offset, <size_t> step, part.held, size == 0
        ):
            return -1
        message.offset += step
        if message.offset == part.length:
            message.index += 1
            message.offset = 0
    return 0


cdef uint64_t cut(State* s, Conn* conn, uint64_t most) noexcept nogil:
    """Queues the next chunk, of at most `most` bytes, of a connection's first message.

    Returns its cost; 0 when credit is wanting (or memory: then the session has failed).
    """
    cdef Outgoing* message = conn.outgoing_first
    cdef uint64_t room = conn.send_limit - conn.send_used
    cdef uint64_t left = message.total - message.done
    cdef uint64_t size, cost, given
    cdef bint first = message.done == 0
    cdef bint last
    cdef uint8_t flags = 0
    cdef uint8_t* p
    if room < FRAME_COST:
        set_stalled(s, conn, True)
        return 0
    size = min(left, min(most, room - FRAME_COST))
    if size < left and first:
        size = min(size, most - TOTAL_SIZE)
    last = size == left
    if not last and size < MIN_CHUNK:
        set_stalled(s, conn, True)
        return 0
    if first and message.reserved == 0:
        # Section 7: no message is started that the session's credit does not cover to its end.
        cost = message_cost(message.total, MIN_CHUNK)
        if session_room(s) < cost:
            conn.turn.next = s.starved
            s.starved = &conn.turn
            return 0
        message.reserved = cost
        s.reserved += cost
    if conn.out_state == ROUTE_IDLE and send_open(s, conn, False):
        return 0
    if first:
        flags |= FIRST
    if last:
        flags |= LAST
    p = queue_reserve(&s.queue, HEADER_SIZE + TOTAL_SIZE + COPY_CHUNK)
    if p is NULL:
        out_of_memory(s)
        return 0
    given = HEADER_SIZE
    if first and not last:
        put_header(
            p, <uint32_t> (TOTAL_SIZE + size), DATA, flags, conn.out_route,
            <uint32_t> s.queue.sequence
        )
        put_u64(p + HEADER_SIZE, message.total)
        given += TOTAL_SIZE
    else:
        put_header(p, <uint32_t> size, DATA, flags, conn.out_route, <uint32_t> s.queue.sequence)
    s.queue.sequence += 1
    conn.data_sequence = s.queue.sequence
    if size <= COPY_CHUNK:
        copy_out(message, p + given, size)
        if queue_commit(&s.queue, <size_t> (given + size), True):
            out_of_memory(s)
            return 0
    elif queue_commit(&s.queue, <size_t> given, False) or reference_out(s, message, size):
        out_of_memory(s)
        return 0
    message.done += size
    cost = FRAME_COST + size
    conn.send_used += cost
    s.send_used += cost
    given = min(cost, message.reserved)
    message.reserved -= given
    s.reserved -= given
    s.outgoing_bytes -= size        # it is not stalled, or it would not be cut
    conn.outgoing_bytes -= size
    conn.outgoing_cost -= size
    if last:
        conn.outgoing_cost -= message.overhead
        if message.reserved > 0:
            s.reserved -= message.reserved
            session_room_came(s)
        conn.outgoing_count -= 1
        s.outgoing_count -= 1
        conn.outgoing_first = message.next
        if conn.outgoing_first is NULL:
            conn.outgoing_last = NULL
        if first:
            outgoing_free(&s.queue, message)
        else:
            # The session may be lost before all of it is acknowledged: then its user gets it back.
            s.queue.last.message = message
    return cost


cdef void serve(State* s, Turn* turn, uint64_t chunk) noexcept nogil:
    """Cuts chunks for one connection until its turn is used up."""
    cdef Conn* conn = <Conn*> turn.record
    cdef uint64_t cost
    while conn.outgoing_first is not NULL and turn.deficit > 0:
        cost = cut(s, conn, chunk)
        if cost == 0:
            turn.deficit = 0
            return              # credit_came or session_room_came puts it back
        turn.deficit -= <int64_t> cost
    if conn.outgoing_first is not NULL:
        schedule_add(&s.scheduler, turn)
        return
    turn.deficit = 0
    if conn.finishing:
        conn.finishing = False
        send_finish(s, conn)


cdef void credit_came(State* s, Conn* conn) noexcept nogil:
    """The peer raised this route's limit."""
    cdef Turn* turn = s.starved
    set_stalled(s, conn, False)
    while turn is not NULL:
        if turn is &conn.turn:
            return              # what it waits for is the session's credit
        turn = turn.next
    if conn.outgoing_first is not NULL:
        schedule_add(&s.scheduler, &conn.turn)


# Batches

cdef void stop_sending(State* s) noexcept nogil:
    """The session is over, and nobody writes any more: gives up what was still to be sent. It has
    not been acknowledged, and that can still be seen.
    """
    cdef Conn* conn
    cdef size_t bucket = 0
    cdef Node* node = table_next(&s.ids, &bucket, NULL)
    while node is not NULL:
        conn = <Conn*> node.record
        if conn.outgoing_first is not NULL:
            outgoing_drop(s, conn)
            conn.data_sequence = s.queue.sequence + 1       # more than is ever acknowledged
        node = table_next(&s.ids, &bucket, node)
    queue_destroy(&s.queue)
    settle_charge(s)


cdef inline bint may_send_queued(const State* s) noexcept nogil:
    """A client's first flight may go out before WELCOME, section 4; a server waits for HELLO."""
    return s.phase == PHASE_OPEN or (s.client and s.phase != PHASE_CLOSED)


cdef inline bint has_queued(const State* s) noexcept nogil:
    return may_send_queued(s) and (s.queue.unwritten > 0 or s.scheduler.queued > 0)


cdef inline bint is_leaving(const State* s) noexcept nogil:
    """We said GOAWAY, and nobody here has a connection left."""
    return s.goaway_sent and s.attached is NULL and s.accept_first is NULL


cdef bint wants_write(State* s) noexcept nogil:
    """Whether there is anything that should go out."""
    return has_queued(s) or is_pressing(s)


cdef bint may_wait(const State* s) noexcept nogil:
    """Whether all that should go out are answers that nobody waits for: they go along with what
    comes next.
    """
    return s.unhurried == s.queue.sequence and s.scheduler.queued == 0 and not is_pressing(s)


cdef bint is_pressing(const State* s) noexcept nogil:
    """Whether there is anything to be said beside what is queued, or half of a frame is written."""
    if s.control_written < s.control_length or queue_in_flight(&s.queue):
        return True
    return s.phase == PHASE_OPEN and (
        s.ack_due or s.pong_count > 0 or s.credit_urgent or s.ping_due or s.goaway_due
        or (s.acked != s.sequence and is_leaving(s)) or (s.ack_wanted and ping_is_free(s))
    )


cdef void put_control(State* s, uint8_t type, uint32_t route, uint64_t value) noexcept nogil:
    cdef uint8_t* p = s.control + s.control_length
    put_u64(put_header(p, 8, type, 0, route, 0), value)
    s.control_length += HEADER_SIZE + 8


cdef void put_probe(State* s, uint8_t type, uint64_t token) noexcept nogil:
    cdef uint8_t* p = s.control + s.control_length
    put_u64(put_u64(put_header(p, 16, type, 0, 0, 0), token), s.sequence)
    s.control_length += HEADER_SIZE + 16
    told_ack(s)


cdef void told_ack(State* s) noexcept nogil:
    s.acked = s.sequence
    s.owed_bytes = 0
    s.owed_since = 0
    s.ack_due = False


cdef void fill_control(State* s) noexcept nogil:
    """Writes the control frames that are due; the buffer is empty."""
    cdef Conn* conn
    cdef uint8_t* p
    cdef uint32_t index
    if s.ack_wanted and ping_is_free(s):
        s.ack_wanted = False
        begin_ping(s, 0)
    for index in range(s.pong_count):
        put_probe(s, PONG, s.pongs[index])
    s.pong_count = 0
    if s.ping_due:
        s.ping_due = False
        put_probe(s, PING, s.ping_token)
    if s.goaway_due:
        s.goaway_due = False
        p = s.control + s.control_length
        p = put_header(p, 8, GOAWAY, 0, 0, 0)
        put_u32(put_u32(p, s.last_in_route), CODE_NONE)
        s.control_length += HEADER_SIZE + 8
    if s.session_credit_due:
        s.session_credit_due = False
        put_control(s, CREDIT, 0, s.receive_limit)
        s.told_limit = s.receive_limit
    s.credit_urgent = False
    while (
        s.credit_first is not NULL
        and CONTROL_BYTES - FAREWELL_BYTES - s.control_length >= 2 * (HEADER_SIZE + 8)
    ):
        conn = s.credit_first
        s.credit_first = conn.credit_next
        if s.credit_first is NULL:
            s.credit_last = NULL
        conn.credit_due = False
        if conn.in_state == ROUTE_OPEN:
            put_control(s, CREDIT, conn.in_route, conn.receive_limit)
            conn.told_limit = conn.receive_limit
        conn_release(s, conn)
    if s.credit_first is not NULL:
        s.credit_urgent = True      # there was no room for all
    # An ack is due, or goes along with what goes out anyway. Before a link is closed, the peer must
    # know what was taken from it.
    if s.acked != s.sequence and (
        s.ack_due or s.control_length > 0 or has_queued(s) or is_leaving(s)
    ):
        put_control(s, ACK, 0, s.sequence)
        told_ack(s)


cdef int prepare(State* s, Span* spans, int most) noexcept nogil:
    """What to write now, in the order of an iovec; the number of spans, 0 for nothing.

    The memory stays as it is until `wrote` has been told how much of it is gone.
    """
    cdef int count = 0
    cdef Turn* turn
    cdef bint alone
    cdef bint in_flight = queue_in_flight(&s.queue)
    cdef bint begins = (
        s.control_written == s.control_taken and not in_flight and not s.queue.mid_frame
    )
    if s.queue.bytes > LITTLE_HELD:
        bound_sending(s)
    # Control frames never stand inside another frame: they join a batch only as it begins.
    if begins:
        if s.control_taken == s.control_length:
            s.control_length = 0
            s.control_written = 0
            if s.phase == PHASE_OPEN:
                fill_control(s)
        s.control_taken = s.control_length
    if s.control_written < s.control_taken:
        spans[0].data = s.control + s.control_written
        spans[0].length = s.control_taken - s.control_written
        count = 1
    if in_flight:
        return count + queue_again(&s.queue, spans + count, most - count)
    if not may_send_queued(s):
        if s.queue.mid_frame and s.control_written < s.control_length:
            # What the peer is to be told last can only stand behind the frame that was begun.
            count += queue_take(&s.queue, spans + count, most - count, 0)
        return count
    if not begins:
        # Not more than what was begun: a FIN stands behind the ack of what had come before it.
        if s.queue.mid_frame:
            count += queue_take(&s.queue, spans + count, most - count, 0)
        return count
    while True:
        turn = schedule_next(&s.scheduler)
        if turn is NULL:
            break
        alone = s.scheduler.queued == 0 and not s.tight and s.shared == 0
        if s.shared > 0:
            s.shared -= 1
        if alone:
            turn.deficit = CUT_MOST_ALONE
        serve(
            s, turn,
            s.theirs.max_frame_size if alone else min(s.theirs.max_frame_size, <uint32_t> CHUNK)
        )
        if s.queue.unwritten >= <uint64_t> (CUT_MOST_ALONE if alone else CUT_MOST):
            break
        if s.phase == PHASE_CLOSED:
            break
    return count + queue_take(
        &s.queue, spans + count, most - count, max(<size_t> BATCH, s.queue.unwritten)
    )


cdef void wrote(State* s, size_t count, size_t asked) noexcept nogil:
    """The link took `count` of the `asked` bytes that `prepare` gave."""
    cdef size_t control = min(count, s.control_taken - s.control_written)
    s.tight = count < asked
    s.bytes_sent += count
    s.control_written += control
    if count > control:
        queue_wrote(&s.queue, count - control)
        if s.answers > 0:
            s.answers_before -= min(s.answers_before, <uint64_t> (count - control))
            if s.answers_before == 0:
                s.answers = 0
