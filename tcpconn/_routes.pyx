"""Connection records, PROTOCOL.md section 5: how they come to be, how they end, what they leave.

A record lives as long as the session binds it (until both its routes are ended) or a user's object
stands for it. Every function here is called with the session's lock held.
"""

from libc.string cimport memset

from tcpconn._budget cimport Claim
from tcpconn._buffer cimport (
    Block,
    block_release,
    pool_charge,
    pool_is_tight,
    return_loan,
    slab_give,
)
from tcpconn._frame cimport (
    Fault,
    assembly_drop,
    assembly_growth,
    message_cost,
    put_header,
    put_preface,
)
from tcpconn._memory cimport memory_free, memory_take
from tcpconn._schedule cimport Turn, schedule_add, schedule_remove
from tcpconn._sendqueue cimport outgoing_free
from tcpconn._state cimport *
from tcpconn._table cimport Node, table_add, table_find, table_next, table_remove
from tcpconn._wire cimport *


cdef enum:
    # Grants for one route that come closer together make its window grow. What a window holds
    # stands in front of other connections' messages in the kernel's buffers: this much time twice,
    # whatever the speed of the link.
    GRANT_NS = 200000


# Making and finding

cdef Conn* conn_new(State* s, uint64_t high, uint64_t low) noexcept nogil:
    """A record that nobody knows yet, with one reference, the session's. NULL: out of memory."""
    # Not calloc, which takes several times as long.
    cdef Conn* conn = <Conn*> memory_take(sizeof(Conn))
    if conn is NULL:
        return NULL
    memset(conn, 0, sizeof(Conn))
    conn.id_high = high
    conn.id_low = low
    conn.references = 1
    conn.priority = 3
    conn.by_id.record = conn
    conn.by_in.record = conn
    conn.by_out.record = conn
    conn.turn.record = conn
    conn.turn.level = conn.priority
    conn.window = s.ours.route_credit
    conn.receive_limit = s.ours.route_credit
    conn.told_limit = s.ours.route_credit
    conn.send_limit = s.theirs.route_credit
    return conn


cdef inline uint64_t mix(uint64_t h) noexcept nogil:
    # The finalizer of MurmurHash3: every bit of the result depends on every bit of the argument.
    h = (h ^ (h >> 33)) * 0xFF51AFD7ED558CCDu
    h = (h ^ (h >> 33)) * 0xC4CEB9FE1A85EC53u
    return h ^ (h >> 33)


cdef inline uint64_t id_key(const State* s, uint64_t high, uint64_t low) noexcept nogil:
    """Depends on a secret: peers choose UUIDs, but not which of them meet in a bucket."""
    return mix(mix(high ^ s.secret[0]) ^ low ^ s.secret[1])


cdef Conn* conn_find(State* s, uint64_t high, uint64_t low) noexcept nogil:
    cdef uint64_t key = id_key(s, high, low)
    cdef Node* node = table_find(&s.ids, key)
    cdef Conn* conn
    while node is not NULL:
        conn = <Conn*> node.record
        if node.key == key and conn.id_high == high and conn.id_low == low:
            return conn
        node = node.next
    return NULL


cdef Conn* conn_by_in_route(State* s, uint32_t route) noexcept nogil:
    cdef Node* node = table_find(&s.in_routes, route)
    return NULL if node is NULL else <Conn*> node.record


cdef Conn* conn_by_out_route(State* s, uint32_t route) noexcept nogil:
    cdef Node* node = table_find(&s.out_routes, route)
    return NULL if node is NULL else <Conn*> node.record


cdef void conn_bind(State* s, Conn* conn) noexcept nogil:
    """From now on its UUID means this record."""
    conn.by_id.key = id_key(s, conn.id_high, conn.id_low)
    conn.bound = True
    table_add(&s.ids, &conn.by_id)
    s.connections += 1


cdef void conn_release(State* s, Conn* conn) noexcept nogil:
    """Gives up one reference; the last one frees the record and what is unread in it."""
    conn.references -= 1
    if conn.references > 0:
        return
    # Else what is unread would put the record into the list of credit again.
    conn.in_state = ROUTE_ENDED
    drop_unread(s, conn)
    drop_assembly(s, conn)
    outgoing_drop(s, conn)
    memory_free(conn)


# Events

cdef void conn_event(State* s, Conn* conn, uint32_t events) noexcept nogil:
    conn.events |= events
    if conn.event_listed:
        return
    conn.event_listed = True
    conn.references += 1
    conn.event_next = NULL
    if s.event_last is NULL:
        s.event_first = conn
    else:
        s.event_last.event_next = conn
    s.event_last = conn


cdef Conn* next_event(State* s) noexcept nogil:
    """A connection with events; the caller looks at them, zeroes them and releases it."""
    cdef Conn* conn = s.event_first
    if conn is not NULL:
        s.event_first = conn.event_next
        if s.event_first is NULL:
            s.event_last = NULL
        conn.event_listed = False
    return conn


# The two directions

cdef void in_route_opened(State* s, Conn* conn) noexcept nogil:
    conn.in_state = ROUTE_OPEN
    conn.by_in.key = conn.in_route
    table_add(&s.in_routes, &conn.by_in)
    forget_out_route(s, conn)


cdef void out_route_opened(State* s, Conn* conn) noexcept nogil:
    conn.out_state = ROUTE_OPEN
    conn.by_out.key = conn.out_route
    table_add(&s.out_routes, &conn.by_out)
    conn.out_known = True


cdef inline void forget_out_route(State* s, Conn* conn) noexcept nogil:
    """The number of an ended route is still looked for while the peer may refuse the connection."""
    if conn.out_known and conn.out_state == ROUTE_ENDED and conn.in_state != ROUTE_IDLE:
        table_remove(&s.out_routes, &conn.by_out)
        conn.out_known = False


cdef void in_route_ended(State* s, Conn* conn) noexcept nogil:
    if conn.in_state == ROUTE_OPEN or conn.in_state == ROUTE_DISCARDING:
        table_remove(&s.in_routes, &conn.by_in)
    conn.in_state = ROUTE_ENDED
    conn.heard = s.queue.acked
    forget_out_route(s, conn)
    conn_event(s, conn, EVENT_END)
    check_over(s, conn)


cdef void out_route_ended(State* s, Conn* conn) noexcept nogil:
    outgoing_drop(s, conn)
    conn.out_state = ROUTE_ENDED
    forget_out_route(s, conn)
    conn_event(s, conn, EVENT_END)
    check_over(s, conn)


cdef void check_over(State* s, Conn* conn) noexcept nogil:
    """Unbinds a connection whose two directions are over, or which never began and nobody wants."""
    cdef bint over = conn.in_state == ROUTE_ENDED and conn.out_state == ROUTE_ENDED
    if conn.in_state == ROUTE_IDLE and conn.out_state == ROUTE_IDLE and not conn.attached:
        over = True
    if not conn.bound:
        # The record of a refused OPEN: it has one direction only.
        if conn.in_state == ROUTE_ENDED and conn.out_state == ROUTE_IDLE and not conn.attached:
            conn.out_state = ROUTE_ENDED
            s.refused -= 1
            settle_charge(s)
            conn_release(s, conn)
        return
    if not over:
        return
    conn.bound = False
    table_remove(&s.ids, &conn.by_id)
    s.connections -= 1
    settle_charge(s)
    s.happened |= HAPPENED_OVER
    conn_release(s, conn)


# Connections that wait to be accepted

cdef void accept_push(State* s, Conn* conn) noexcept nogil:
    conn.accept_next = NULL
    if s.accept_last is NULL:
        s.accept_first = conn
    else:
        s.accept_last.accept_next = conn
    s.accept_last = conn
    s.unaccepted += 1
    conn.references += 1
    s.happened |= HAPPENED_CONNECTION


cdef void accept_remove(State* s, Conn* conn) noexcept nogil:
    """Takes it out of the list; the list's reference becomes the caller's."""
    cdef Conn* before = NULL
    cdef Conn* at = s.accept_first
    while at is not conn:
        before = at
        at = at.accept_next
    if before is NULL:
        s.accept_first = conn.accept_next
    else:
        before.accept_next = conn.accept_next
    if s.accept_last is conn:
        s.accept_last = before
    s.unaccepted -= 1
    conn.accepted = True


# What is unread, and the memory and the credit it holds

cdef Claim claim_of(State* s) noexcept nogil:
    """What the session holds, beyond the receive block that every session has."""
    cdef Claim claim
    claim.budget = s.memory
    claim.held = s.own_bytes + s.retired_bytes + s.charged
    claim.received = s.own_bytes + s.retired_bytes + s.moved_bytes
    claim.loan = &s.loan if s.assemblies > 0 else NULL
    claim.missing = s.growth + 4 * RECEIVE_BLOCK    # small ones that come in between want some, too
    claim.returned = 0
    claim.now = s.now
    return claim


cdef void settle_charge(State* s) noexcept nogil:
    """Tells the pool what is held in other memory than its blocks, if that has changed by much."""
    cdef uint64_t now = (
        s.moved_bytes + s.placed_bytes + s.messages.allocated * sizeof(Message)
        + <uint64_t> CONNECTION_BYTES * s.connections + sizeof(Conn) * s.refused
        + s.outgoing_bytes + s.stalled_bytes + s.queue.referenced
    )
    if now >= s.charged + CHARGE_STEP or now + CHARGE_STEP <= s.charged:
        pool_charge(s.pool, <int64_t> (now - s.charged))
        s.charged = now


cdef void leave_block(State* s, Block* block, uint64_t length) noexcept nogil:
    """A message of this length, already out of the block's list, needs the block no more."""
    block.live_bytes -= <size_t> length
    if not block.retired:
        return
    s.retired_live -= length
    if block.first_message is not NULL:
        return
    s.retired_bytes -= block.capacity
    if s.look is block:
        s.look = block.newer
    if block.older is NULL:
        s.oldest = block.newer
    else:
        block.older.newer = block.newer
    if block.newer is NULL:
        s.newest = block.older
    else:
        block.newer.older = block.older
    block_release(block)


cdef void unlink_from_block(Message* message) noexcept nogil:
    cdef Block* block = message.block
    if message.before is NULL:
        block.first_message = message.behind
    else:
        message.before.behind = message.behind
    if message.behind is not NULL:
        message.behind.before = message.before


cdef void message_free(State* s, Message* message) noexcept nogil:
    """Frees a message's memory and record; it is in no connection's queue any more."""
    cdef Block* block = message.block
    if message.kind == MESSAGE_SHARED:
        unlink_from_block(message)
        leave_block(s, block, message.length)
    elif message.kind == MESSAGE_OWN:
        s.own_bytes -= block.capacity
        block_release(block)
    elif message.kind == MESSAGE_RAW:
        s.moved_bytes -= message.length
        memory_free(message.data)
    slab_give(&s.messages, message)


cdef void credit_release(State* s, Conn* conn, uint64_t cost) noexcept nogil:
    """Messages of this cost were read or dropped, section 7: raises limits, if worth a frame."""
    cdef uint64_t target
    cdef uint64_t largest = message_cost(s.ours.max_message_size, MIN_CHUNK)
    s.released += cost
    target = s.released + s.ours.session_credit
    if (
        target - s.receive_limit >= s.ours.session_credit // 8
        or s.receive_limit - s.receive_used < largest
    ):
        if pool_is_tight(s.pool, s.memory):
            target = min(target, s.receive_used + largest)  # no more than section 7 promises
        if target > s.receive_limit:
            s.receive_limit = target
            s.session_credit_due = True
    # A sender must be able to start a message of the largest size.
    if s.session_credit_due and s.told_limit - s.receive_used < max(
        largest, s.ours.session_credit // 4
    ):
        s.credit_urgent = True
    conn.released += cost
    if conn.in_state != ROUTE_OPEN:
        return
    target = conn.released + conn.window
    if target > conn.receive_limit and target - conn.receive_limit >= conn.window // 2:
        # Each grant costs both sides a wake-up: the window grows with the rate at which it is used.
        if (
            s.now - conn.granted_at < GRANT_NS and conn.window < s.max_route_credit
            and not pool_is_tight(s.pool, s.memory)
        ):
            conn.window = min(2 * conn.window, s.max_route_credit)
            target = conn.released + conn.window
        conn.granted_at = s.now
        conn.receive_limit = target
        credit_list(s, conn)
    # What is not urgent goes along with the next write: a reply, most often.
    if conn.credit_due and conn.told_limit - conn.receive_used < conn.window // 4:
        s.credit_urgent = True


cdef void reader_starves(State* s, Conn* conn) noexcept nogil:
    """Whoever reads has caught up and is about to wait: if the peer is short of credit, it grows.

    It is, when the peer has used most of what it was told, or when the window is too small for two
    messages of the size that comes here: the next one could not be on its way while this one is
    read.
    """
    cdef uint64_t wanted = conn.window
    if conn.in_state != ROUTE_OPEN or conn.window >= s.max_route_credit:
        return
    if conn.told_limit - conn.receive_used < conn.window // 4:
        wanted = 2 * conn.window
    wanted = min(max(wanted, 2 * conn.largest), s.max_route_credit)
    if wanted <= conn.window or pool_is_tight(s.pool, s.memory):
        return
    conn.window = wanted
    if conn.released + wanted > conn.receive_limit:
        conn.receive_limit = conn.released + wanted
        credit_list(s, conn)
        s.credit_urgent = True


cdef void credit_list(State* s, Conn* conn) noexcept nogil:
    if conn.credit_due:
        return
    conn.credit_due = True
    conn.references += 1
    conn.credit_next = NULL
    if s.credit_last is NULL:
        s.credit_first = conn
    else:
        s.credit_last.credit_next = conn
    s.credit_last = conn


cdef void drop_unread(State* s, Conn* conn) noexcept nogil:
    cdef Message* message
    while conn.unread_first is not NULL:
        message = conn.unread_first
        conn.unread_first = message.next
        conn.unread_count -= 1
        conn.unread_bytes -= message.length
        s.unread_bytes -= message.length
        credit_release(s, conn, message.cost)
        message_free(s, message)
    conn.unread_last = NULL


cdef void give_loan_back(State* s) noexcept nogil:
    """Or waits for none any more."""
    if s.loan.waits or s.loan.limit != 0:
        s.lent_at = 0
        return_loan(s.pool, &s.loan)


cdef void assembly_ended(State* s, Conn* conn) noexcept nogil:
    """One message less under assembly."""
    assembly_drop(&conn.assembly)
    s.assemblies -= 1
    if s.assemblies == 0:
        give_loan_back(s)


cdef void leave_memory(State* s, Conn* conn) noexcept nogil:
    """A message under assembly is about to be thrown away: what it lies in counts no more."""
    if conn.assembly.in_place:
        s.placed_bytes = 0
        settle_charge(s)
    else:
        s.own_bytes -= conn.assembly.block.capacity
        s.growth -= assembly_growth(&conn.assembly)


cdef void drop_assembly(State* s, Conn* conn) noexcept nogil:
    """Throws away a message under way; one into which a read is going on, only after that read."""
    if s.direct is conn:
        return
    if conn.assembly.active:
        s.expected -= conn.assembly.total - conn.assembly.filled
        leave_memory(s, conn)
        assembly_ended(s, conn)
    if conn.assembly_cost > 0:
        credit_release(s, conn, conn.assembly_cost)
        conn.assembly_cost = 0


cdef void outgoing_drop(State* s, Conn* conn) noexcept nogil:
    """Gives up what was not cut into chunks yet; what is in the send queue goes out anyway."""
    cdef Outgoing* message
    cdef Turn** at
    schedule_remove(&s.scheduler, &conn.turn)
    at = &s.starved
    while at[0] is not NULL:
        if at[0] is &conn.turn:
            at[0] = conn.turn.next
            conn.turn.next = NULL
            break
        at = &at[0].next
    while conn.outgoing_first is not NULL:
        message = conn.outgoing_first
        conn.outgoing_first = message.next
        conn.sent_before += 1           # the peer will not have taken it when the session is lost
        s.reserved -= message.reserved
        outgoing_free(&s.queue, message)
    set_stalled(s, conn, False)
    s.outgoing_bytes -= conn.outgoing_bytes
    conn.outgoing_last = NULL
    conn.outgoing_bytes = 0
    conn.outgoing_cost = 0
    s.outgoing_count -= conn.outgoing_count
    conn.outgoing_count = 0
    session_room_came(s)


cdef void set_stalled(State* s, Conn* conn, bint stalled) noexcept nogil:
    if conn.stalled == stalled:
        return
    conn.stalled = stalled
    if stalled:
        s.outgoing_bytes -= conn.outgoing_bytes
        s.stalled_bytes += conn.outgoing_bytes
    else:
        s.outgoing_bytes += conn.outgoing_bytes
        s.stalled_bytes -= conn.outgoing_bytes


cdef void session_room_came(State* s) noexcept nogil:
    """Messages that waited for the session's credit may be started: more of it is to be had."""
    cdef Turn* turn
    while s.starved is not NULL:
        turn = s.starved
        s.starved = turn.next
        turn.next = NULL
        schedule_add(&s.scheduler, turn)


# The end of a session

cdef void put_farewell(State* s, uint8_t type, uint32_t code, const char* text) noexcept nogil:
    cdef uint8_t* start
    cdef uint8_t* p
    cdef size_t length = 0
    if s.control_written == s.control_length:
        s.control_length = 0
        s.control_taken = 0
        s.control_written = 0
    start = s.control + s.control_length
    p = start
    if not s.client and type == REJECT:
        p += put_preface(p)
    start = p
    p += HEADER_SIZE
    if type == GOAWAY:
        p = put_u32(p, s.in_route)
    p = put_u32(p, code)
    while text[length] != 0 and length < 256:
        length += 1
    p = put_bytes(p, text, length)
    put_header(start, <uint32_t> (p - start - HEADER_SIZE), type, 0, 0, 0)
    s.control_length = <size_t> (p - s.control)


cdef void state_close(State* s) noexcept nogil:
    """It goes no further: what is whole can still be read, and nothing else will become so."""
    cdef size_t bucket = 0
    cdef Node* node = table_next(&s.in_routes, &bucket, NULL)
    s.phase = PHASE_CLOSED
    s.unusual = True
    s.happened |= HAPPENED_CLOSED
    while node is not NULL and s.assemblies > 0:
        drop_assembly(s, <Conn*> node.record)
        node = table_next(&s.in_routes, &bucket, node)
    give_loan_back(s)


cdef void state_fail(State* s, const Fault* fault) noexcept nogil:
    """The link is not to be used any more, section 10. What the peer is told goes out last."""
    if s.phase == PHASE_CLOSED:
        return
    if s.phase == PHASE_OPEN or (s.client and s.phase == PHASE_HELLO):
        put_farewell(s, GOAWAY, fault.code, fault.text)
    elif not s.client and (s.phase == PHASE_HELLO or fault.code == CODE_VERSION):
        put_farewell(s, REJECT, fault.code, fault.text)
    s.fault = fault[0]
    state_close(s)


cdef void state_lost(State* s) noexcept nogil:
    """The link ended without a word."""
    if s.phase == PHASE_CLOSED:
        return
    s.fault_is_loss = True
    state_close(s)
