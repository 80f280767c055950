"""The receiving half of a session: blocks, frames, messages. Every function here is called with the
session's lock held.

Reads go into a receive block; whole small messages stay where they lie in it, unread, without a
copy. The payload of a larger frame comes straight to its destination: a block of its own, or the
buffer of the receiver who waits. A block that is full is retired until its messages are read; when
retired blocks hold much more memory than messages, the messages that remain in a sparse one are
moved out.

Nothing here raises: what a peer does wrong becomes the session's fault, PROTOCOL.md section 10.
"""

from libc.stdint cimport int64_t
from libc.string cimport memcpy, memmove

from tcpconn._budget cimport Claim
from tcpconn._buffer cimport (
    Block,
    block_acquire,
    block_release,
    pool_base,
    pool_is_tight,
    slab_destroy,
    slab_take,
)
from tcpconn._control cimport (
    check_first,
    fail,
    fail_numbers,
    fail_with,
    no_such_route,
    on_first,
    take_control,
)
from tcpconn._frame cimport (
    Assembly,
    assembly_begin,
    assembly_growth,
    assembly_move_out,
    assembly_reserve,
    check_header,
    check_preface,
    Fault,
    Header,
    is_known,
    is_sequenced,
    load_header,
)
from tcpconn._memory cimport memory_take
from tcpconn._routes cimport (
    assembly_ended,
    claim_of,
    conn_by_in_route,
    conn_event,
    credit_list,
    credit_release,
    drop_assembly,
    give_loan_back,
    leave_block,
    settle_charge,
    unlink_from_block,
)
from tcpconn._state cimport *
from tcpconn._sync cimport tc_atomic_get
from tcpconn._wire cimport *

cdef enum:
    # A frame up to this is read whole into the receive block and stays there; the payload of a
    # larger one that is not all here goes straight to its destination.
    WHOLE_MOST = 16384
    LEAST_READ = 16384          # room that a read is given at least
    # Behind a large frame, a read into the block is given only this much: the next header and a
    # little, so that the payload of another large one comes straight to its destination too.
    BETWEEN_LARGE = 4096
    USUAL_CHUNK = 65536         # how large senders make their chunks, if the limit allows
    SPARSE_SLACK = 1048576      # retired memory that is not worth moving messages for
    SPARSE_LOOKS = 16           # retired blocks looked at in one go


# Receive blocks

cdef inline bint in_use(Block* block) noexcept nogil:
    return block.first_message is not NULL or tc_atomic_get(&block.references) > 1


cdef void retire(State* s, Block* block) noexcept nogil:
    if block.first_message is NULL:
        block_release(block)
        return
    block.retired = True
    block.older = s.newest
    block.newer = NULL
    if s.newest is NULL:
        s.oldest = block
    else:
        s.newest.newer = block
    s.newest = block
    s.retired_bytes += block.capacity
    s.retired_live += block.live_bytes
    if s.retired_bytes > 2 * s.retired_live + SPARSE_SLACK:
        move_out_of_sparse(s)


cdef void move_out_of_sparse(State* s) noexcept nogil:
    """Copies what is left in sparse retired blocks: a few old messages shall not hold many.

    A few blocks are looked at in one go, in turn: dense ones, however many, hide no sparse ones.
    """
    cdef Block* block
    cdef Message* message
    cdef Message* behind
    cdef int _look
    for _look in range(SPARSE_LOOKS):
        block = s.look if s.look is not NULL else s.oldest
        if block is NULL:
            return
        s.look = block.newer
        if 2 * block.live_bytes < block.capacity:
            message = <Message*> block.first_message
            while message is not NULL:
                behind = message.behind
                if not message.taken and not move_out(s, message):
                    return
                message = behind


cdef bint move_out(State* s, Message* message) noexcept nogil:
    cdef Block* block = message.block
    cdef uint8_t* data = <uint8_t*> memory_take(<size_t> message.length + 1)
    if data is NULL:
        return False            # it stays where it is; nothing is lost
    memcpy(data, message.data, <size_t> message.length)
    unlink_from_block(message)
    message.kind = MESSAGE_RAW
    message.block = NULL
    message.data = data
    s.moved_bytes += message.length
    leave_block(s, block, message.length)
    return True


cdef int make_room(State* s, size_t needed) noexcept nogil:
    """Room for `needed` bytes (at most RECEIVE_BLOCK) in a piece, from the first not looked at.

    -1: not now; the session pauses.
    """
    cdef Block* block = s.block
    cdef size_t held = s.block_end - s.block_start
    cdef Claim claim
    if block is not NULL:
        if held == 0 and not in_use(block):
            s.block_start = 0
            s.block_end = 0
        if (
            block.capacity - s.block_start >= needed
            and block.capacity - s.block_end >= LEAST_READ
        ):
            return 0
        if not in_use(block):
            memmove(block.data, block.data + s.block_start, held)
            s.block_start = 0
            s.block_end = held
            return 0
    if block is NULL:
        # The first one every session has; those that are in use beside it, it must be allowed.
        block = block_acquire(s.pool, RECEIVE_BLOCK, NULL)
        if block is not NULL:
            pool_base(s.pool, <int64_t> block.capacity)
    else:
        settle_charge(s)
        claim = claim_of(s)
        block = block_acquire(s.pool, RECEIVE_BLOCK, &claim)
        note_loan(s)
    if block is NULL:
        s.paused = True
        return -1
    if s.block is not NULL:
        memcpy(block.data, s.block.data + s.block_start, held)
        retire(s, s.block)
    s.block = block
    s.block_start = 0
    s.block_end = held
    return 0


cdef void stop_receiving(State* s) noexcept nogil:
    """The session is over, and nobody reads any more: gives back what only reading needed. What is
    whole and unread stays.
    """
    cdef Conn* conn = s.direct
    s.direct = NULL
    if conn is not NULL:
        drop_assembly(s, conn)
    if s.block is not NULL:
        pool_base(s.pool, -RECEIVE_BLOCK)
        retire(s, s.block)
        s.block = NULL
        s.block_start = 0
        s.block_end = 0
    if s.messages.in_use == 0:
        slab_destroy(&s.messages)
    settle_charge(s)


cdef int targets(State* s, Span* spans) noexcept nogil:
    """Where the next read should put what comes: up to two spans. 0: read no more, or not now."""
    cdef int count = 0
    cdef size_t room
    if s.paused:
        if s.answers < s.max_answers:
            s.paused = False
            received(s, 0, s.now)   # what waited; and it was not for the peer to say anything
        if s.loan.waits and (not s.paused or s.answers >= s.max_answers):
            give_loan_back(s)       # it must not keep others waiting that asks no more
    if s.phase == PHASE_CLOSED or s.paused or make_room(s, LEAST_READ):
        return 0
    room = s.block.capacity - s.block_end
    if s.direct is not NULL:
        spans[0].data = s.direct.assembly.data + s.direct.assembly.filled + s.direct_done
        spans[0].length = <size_t> (s.direct_length - s.direct_done)
        count = 1
    if s.expect_large:
        room = min(room, <size_t> BETWEEN_LARGE)
    spans[count].data = s.block.data + s.block_end
    spans[count].length = room
    return count + 1


cdef void received(State* s, size_t count, uint64_t now) noexcept nogil:
    """`count` bytes were read into what `targets` said."""
    cdef size_t step
    s.now = now
    s.heard_at = now
    s.bytes_received += count
    if s.direct is not NULL:
        s.chunk_at = now
        s.overdue_at = 0
        step = <size_t> min(<uint64_t> count, s.direct_length - s.direct_done)
        s.direct_done += step
        count -= step
        if s.direct_done == s.direct_length:
            end_direct(s)
    s.block_end += count
    if s.phase == PHASE_PREFACE:
        take_preface(s)
    while s.phase == PHASE_OPEN or s.phase == PHASE_HELLO:
        if take_frame(s) <= 0:
            break


# Frames

cdef void take_preface(State* s) noexcept nogil:
    cdef Fault fault
    cdef size_t held = s.block_end - s.block_start
    if held == 0:
        return
    if check_preface(s.block.data + s.block_start, min(held, <size_t> PREFACE_SIZE), &fault):
        fail(s, &fault)
    elif held >= PREFACE_SIZE:
        s.block_start += PREFACE_SIZE
        s.phase = PHASE_HELLO


cdef int take_frame(State* s) noexcept nogil:
    """Takes one frame, or begins a large one. 1: go on; 0: more bytes are needed; -1: failed."""
    cdef size_t held = s.block_end - s.block_start
    cdef uint8_t* at
    cdef Header header
    cdef Fault fault
    cdef size_t step
    if s.skip > 0:
        step = <size_t> min(<uint64_t> held, s.skip)
        s.skip -= step
        s.block_start += step
        held -= step
        if s.skip > 0:
            return 0
    if held < HEADER_SIZE:
        return 0
    at = s.block.data + s.block_start
    load_header(at, &header)
    if check_header(&header, s.ours.max_frame_size, &fault):
        return fail(s, &fault)
    if s.phase == PHASE_HELLO:
        return take_first(s, &header, held)
    if is_sequenced(header.type) and header.sequence != <uint32_t> s.sequence:
        if <int32_t> (header.sequence - <uint32_t> s.sequence) > 0:
            return fail_numbers(
                s, CODE_SEQUENCE, b"8", b"a gap in the sequence numbers",
                header.sequence, <uint32_t> s.sequence,
            )
        return skip_frame(s, &header)
    if not is_known(header.type):
        return skip_frame(s, &header)
    if header.type == DATA:
        return take_data(s, &header, held)
    if held < HEADER_SIZE + header.length:
        return 0 if make_room(s, HEADER_SIZE + header.length) == 0 else -1
    s.frames_received += 1
    s.block_start += HEADER_SIZE + header.length
    if take_control(s, &header, at + HEADER_SIZE):
        return -1
    if is_sequenced(header.type):
        took_sequenced(s, header.length)
    return 0 if s.paused else 1


cdef int skip_frame(State* s, const Header* header) noexcept nogil:
    s.block_start += HEADER_SIZE
    s.skip = header.length
    return 1


cdef void took_sequenced(State* s, uint64_t payload) noexcept nogil:
    s.sequence += 1
    s.owed_bytes += payload
    if s.owed_since == 0:
        s.owed_since = s.now
    # Half of what section 8 allows. Nearly always something goes out before, and takes it along.
    if s.owed_bytes >= ACK_BYTES // 2:
        s.ack_due = True


cdef int take_first(State* s, const Header* header, size_t held) noexcept nogil:
    """The frame of the handshake, section 4."""
    cdef const uint8_t* payload
    if header.type >= SKIPPABLE:
        return skip_frame(s, header)
    if check_first(s, header):
        return -1
    if held < HEADER_SIZE + header.length:
        return 0 if make_room(s, HEADER_SIZE + header.length) == 0 else -1
    payload = s.block.data + s.block_start + HEADER_SIZE
    s.block_start += HEADER_SIZE + header.length
    s.frames_received += 1
    return -1 if on_first(s, header, payload) else 1


# Messages, section 6

cdef int take_data(State* s, const Header* header, size_t held) noexcept nogil:
    """A DATA frame whose header, at least, is in the block."""
    cdef size_t total_field = TOTAL_SIZE if header.flags & (FIRST | LAST) == FIRST else 0
    cdef bint last = (header.flags & LAST) != 0
    cdef bint whole
    cdef uint8_t* at
    cdef uint64_t size, here
    cdef Conn* conn
    cdef int wanted
    if header.length < total_field:
        return fail_numbers(
            s, CODE_MALFORMED, b"6", b"a first chunk without a total size (bytes)", header.length,
            total_field
        )
    if held < HEADER_SIZE + total_field:
        return 0 if make_room(s, HEADER_SIZE + total_field) == 0 else -1
    whole = held >= HEADER_SIZE + header.length
    if not whole and header.length <= WHOLE_MOST:
        return 0 if make_room(s, HEADER_SIZE + header.length) == 0 else -1
    at = s.block.data + s.block_start + HEADER_SIZE
    wanted = check_data(s, header, at, total_field, &conn)
    if wanted < 0:
        return -1
    size = header.length - total_field
    if wanted > 0 and not (whole and header.flags & FIRST and last):
        if room_for_chunk(s, conn, load_total(at) if total_field else size, size):
            return -1
    s.frames_received += 1
    if wanted == 0:
        # Nobody reads it, but it counts.
        count_data(s, conn, size)
        credit_release(s, conn, conn.assembly_cost)
        conn.assembly_cost = 0
        took_sequenced(s, header.length)
        return skip_frame(s, header)
    if whole and header.flags & FIRST and last:
        s.block_start += HEADER_SIZE + header.length
        return keep_in_block(s, conn, at, header.length)
    at += total_field
    here = min(size, <uint64_t> (held - HEADER_SIZE - total_field))
    memcpy(conn.assembly.data + conn.assembly.filled, at, <size_t> here)
    s.block_start += HEADER_SIZE + total_field + <size_t> here
    s.expect_large = True
    s.direct = conn
    s.direct_length = size
    s.direct_done = here
    s.direct_last = last
    if here == size:
        end_direct(s)
        return 1
    return 0


cdef inline void note_loan(State* s) noexcept nogil:
    """From when on the messages must go on."""
    if s.loan.limit != 0 and s.lent_at == 0:
        s.lent_at = max(s.now, <uint64_t> 1)
        s.lent_got = 0
        s.lent_late_at = 0


cdef int room_for_chunk(State* s, Conn* conn, uint64_t total, uint64_t size) noexcept nogil:
    """Memory for a chunk of `size` bytes that may be the first of its message. -1: not now."""
    cdef Assembly* assembly = &conn.assembly
    cdef uint64_t before
    cdef Claim claim
    if not assembly.active:
        claim = claim_of(s)
        claim.loan = &s.loan
        claim.missing += 2 * total          # a block is less than twice its message
        if assembly_begin(
            assembly, s.pool, total, size, posted_for(s, conn), s.posted_size, &claim
        ):
            s.paused = True
            return -1
        if assembly.in_place:
            s.placed_bytes = total
            settle_charge(s)
        else:
            s.own_bytes += assembly.block.capacity
            s.growth += assembly_growth(assembly)
        s.expected += total
        s.assemblies += 1
    elif assembly.capacity - assembly.filled < size:
        before = assembly.capacity
        claim = claim_of(s)
        if assembly_reserve(assembly, size, &claim):
            s.paused = True
            return -1
        s.own_bytes += assembly.capacity - before
        s.growth -= assembly.capacity - before
    note_loan(s)
    s.chunk_at = s.now
    s.overdue_at = 0
    return 0


cdef inline uint64_t load_total(const uint8_t* at) noexcept nogil:
    return (<uint64_t> load_u32(at) << 32) | load_u32(at + 4)


cdef inline uint8_t* posted_for(State* s, Conn* conn) noexcept nogil:
    """The receiver's own buffer, if the message that begins is the one it waits for. It may have
    been made for that, and is memory then like any other: none to be had when there is little.
    """
    if (
        s.posted_by is conn and conn.unread_count == 0 and s.posted is NULL
        and not pool_is_tight(s.pool, s.memory)
    ):
        return s.posted_data
    return NULL


cdef int check_data(
    State* s, const Header* header, const uint8_t* at, size_t total_field, Conn** found
) noexcept nogil:
    """1: take it; 0: it is for nobody; -1: failed."""
    cdef uint64_t size, cost, total, left
    cdef bint last = (header.flags & LAST) != 0
    cdef Conn* conn = conn_by_in_route(s, header.route)
    found[0] = conn
    if conn is NULL:
        return no_such_route(s, header.route)
    size = header.length - total_field
    cost = FRAME_COST + size
    if cost > conn.receive_limit - conn.receive_used:
        return fail_numbers(
            s, CODE_CREDIT, b"7", b"more sent on a route than granted",
            conn.receive_used + cost, conn.receive_limit,
        )
    if cost > s.receive_limit - s.receive_used:
        return fail_numbers(
            s, CODE_CREDIT, b"7", b"more sent in the session than granted",
            s.receive_used + cost, s.receive_limit,
        )
    if conn.in_state == ROUTE_DISCARDING:
        return 0
    if header.flags & FIRST:
        if conn.assembly.active:
            return fail_with(s, CODE_STATE, b"6", b"a message begins inside another")
        total = load_total(at) if total_field else size
        if total > s.ours.max_message_size:
            return fail_numbers(
                s, CODE_MESSAGE_SIZE, b"6", b"a message larger than agreed", total,
                s.ours.max_message_size
            )
        # What is announced is bounded by what was granted, before any memory is taken for it.
        if s.receive_used + s.expected + FRAME_COST + total > s.receive_limit:
            return fail_numbers(
                s, CODE_CREDIT, b"7", b"a message begun that the session's credit does not cover",
                s.receive_used + s.expected + FRAME_COST + total, s.receive_limit,
            )
        left = total
    else:
        if not conn.assembly.active:
            return fail_with(s, CODE_STATE, b"6", b"a chunk that belongs to no message")
        left = conn.assembly.total - conn.assembly.filled
    if last:
        if size != left:
            return fail_numbers(
                s, CODE_MALFORMED, b"6", b"the last chunk does not end its message (bytes)", size,
                left
            )
    elif size >= left:
        return fail_numbers(
            s, CODE_MALFORMED, b"6", b"a chunk as long as its message, or longer", size, left
        )
    elif size < MIN_CHUNK:
        return fail_numbers(
            s, CODE_MALFORMED, b"6", b"a chunk in the middle of a message too short", size,
            MIN_CHUNK
        )
    return 1


cdef inline void count_data(State* s, Conn* conn, uint64_t size) noexcept nogil:
    conn.receive_used += FRAME_COST + size
    s.receive_used += FRAME_COST + size
    conn.assembly_cost += FRAME_COST + size


cdef int keep_in_block(State* s, Conn* conn, uint8_t* data, uint64_t size) noexcept nogil:
    """A whole message stays in the receive block until it is read."""
    cdef Block* block = s.block
    cdef Message* message = <Message*> slab_take(&s.messages)
    if message is NULL:
        return fail_with(s, CODE_INTERNAL, b"10", b"out of memory")
    s.expect_large = False
    count_data(s, conn, size)
    message.kind = MESSAGE_SHARED
    message.block = block
    message.data = data
    message.length = size
    message.before = NULL
    message.behind = <Message*> block.first_message
    if message.behind is not NULL:
        message.behind.before = message
    block.first_message = message
    block.live_bytes += size
    push_message(s, conn, message)
    took_sequenced(s, size)
    return 1


cdef void push_message(State* s, Conn* conn, Message* message) noexcept nogil:
    message.next = NULL
    message.taken = False
    message.cost = conn.assembly_cost
    conn.assembly_cost = 0
    if conn.unread_last is NULL:
        conn.unread_first = message
    else:
        conn.unread_last.next = message
    conn.unread_last = message
    conn.unread_count += 1
    conn.unread_bytes += message.length
    s.unread_bytes += message.length
    if message.cost > conn.largest:
        conn.largest = message.cost
    conn.last_size = message.length
    conn_event(s, conn, EVENT_MESSAGE)


cdef void end_direct(State* s) noexcept nogil:
    """A chunk is whole at its destination."""
    cdef Conn* conn = s.direct
    cdef Message* message
    cdef uint64_t left, needed
    s.direct = NULL
    conn.assembly.filled += s.direct_length
    s.expected -= s.direct_length
    s.lent_got += s.direct_length
    count_data(s, conn, s.direct_length)
    took_sequenced(s, s.direct_length)
    if conn.in_state != ROUTE_OPEN:
        drop_assembly(s, conn)  # given up by its user while the chunk was on its way
        return
    if not s.direct_last:
        # Section 7: what is missing to a message under way is granted, so that it never starves.
        left = conn.assembly.total - conn.assembly.filled
        needed = min(s.ours.max_frame_size, <uint32_t> USUAL_CHUNK)
        needed = left + FRAME_COST * (left // needed + 1)
        if conn.receive_limit - conn.receive_used < needed:
            conn.receive_limit = conn.receive_used + needed
            s.credit_urgent = True
            credit_list(s, conn)
        return
    message = <Message*> slab_take(&s.messages)
    if message is NULL:
        fail_with(s, CODE_INTERNAL, b"10", b"out of memory")
        return
    message.kind = MESSAGE_POSTED if conn.assembly.in_place else MESSAGE_OWN
    message.block = conn.assembly.block
    message.data = conn.assembly.data
    message.length = conn.assembly.total
    if conn.assembly.in_place:
        s.placed_bytes = 0
        settle_charge(s)
    else:
        s.growth -= assembly_growth(&conn.assembly)
        conn.assembly.block = NULL
    assembly_ended(s, conn)
    push_message(s, conn, message)
    if message.kind == MESSAGE_POSTED:
        s.posted = message


cdef Message* take_message(State* s, Conn* conn, bint posted, uint64_t most) noexcept nogil:
    """The oldest unread message, whose memory is the caller's until `message_free`.

    NULL when there is none, when it has more than `most` bytes, or when it lies in somebody's own
    buffer and the caller does not say that it is this one (`posted`).
    """
    cdef Message* message = conn.unread_first
    if message is NULL or message.length > most or (message.kind == MESSAGE_POSTED and not posted):
        return NULL
    message.taken = True
    conn.unread_first = message.next
    if conn.unread_first is NULL:
        conn.unread_last = NULL
    conn.unread_count -= 1
    conn.unread_bytes -= message.length
    s.unread_bytes -= message.length
    conn.messages_received += 1
    conn.bytes_received += message.length
    credit_release(s, conn, message.cost)
    return message


cdef void unpost(State* s) noexcept nogil:
    """The receiver takes its buffer back; what is in it of a message under way moves to a block."""
    cdef Conn* conn = s.posted_by
    cdef uint64_t used
    s.posted_by = NULL
    s.posted_data = NULL
    s.posted_size = 0
    s.posted = NULL
    if conn is not NULL and conn.assembly.active and conn.assembly.in_place:
        used = conn.assembly.filled
        if s.direct is conn:
            used += s.direct_done
        if assembly_move_out(&conn.assembly, s.pool, used):
            fail_with(s, CODE_INTERNAL, b"10", b"no memory for a message")
        else:
            s.own_bytes += conn.assembly.block.capacity
            s.growth += assembly_growth(&conn.assembly)
            s.placed_bytes = 0
            settle_charge(s)
