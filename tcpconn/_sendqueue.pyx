"""The send queue, guarded by its session's lock.

    first                written              taken               last
      |  written, unacked  |  being written    |  queued            |

Small frames are copied once, behind their headers, into blocks; large payloads are referenced where
they are. A piece is freed when it is both acknowledged and written. Nothing unacknowledged is ever
dropped: what bounds the queue is that senders wait.

A batch is what one write is given. Until it is written whole, `queue_again` gives its remainder; so
frames that are not in this queue (acks, credit) may be put before a batch, but never inside a
frame.
"""

from libc.string cimport memset

from tcpconn._buffer cimport (
    block_acquire,
    block_release,
    slab_destroy,
    slab_give,
    slab_init,
    slab_take,
)
from tcpconn._memory cimport memory_free, memory_take
from tcpconn._sync cimport tc_atomic_add
from tcpconn._wire cimport HEADER_SIZE, load_u32


cdef void queue_init(SendQueue* queue, Pool* pool) noexcept nogil:
    memset(queue, 0, sizeof(SendQueue))
    queue.pool = pool
    slab_init(&queue.pieces, sizeof(Piece))


cdef void queue_destroy(SendQueue* queue) noexcept nogil:
    """Frees everything but the Python objects, which are then in `released`, to be dropped. The
    queue is empty then, though what was in it was not acknowledged; its numbers stay.
    """
    while queue.first is not NULL:
        drop_first(queue)
    queue.written = NULL
    queue.written_offset = 0
    queue.taken = NULL
    queue.taken_offset = 0
    queue.mid_frame = False
    queue.unwritten = 0
    if queue.block is not NULL:
        block_release(queue.block)
        queue.block = NULL
    slab_destroy(&queue.pieces)


# Held payload

cdef Held* held_new(void* object, size_t payload) noexcept nogil:
    """Needs no lock. One reference, which is the caller's. NULL: out of memory."""
    cdef Held* held = <Held*> memory_take(sizeof(Held) + payload)
    if held is not NULL:
        held.references = 1
        held.object = object
        held.next = NULL
    return held


cdef uint8_t* held_payload(Held* held) noexcept nogil:
    return <uint8_t*> held + sizeof(Held)


cdef void held_release(SendQueue* queue, Held* held) noexcept nogil:
    held.references -= 1
    if held.references > 0:
        return
    if held.object is not NULL:
        held.next = queue.released
        queue.released = held
        return
    memory_free(held)


cdef void outgoing_free(SendQueue* queue, Outgoing* message) noexcept nogil:
    cdef uint32_t index
    for index in range(message.count):
        held_release(queue, message.parts[index].held)
    memory_free(message)


# Adding

cdef uint8_t* queue_reserve(SendQueue* queue, size_t size) noexcept nogil:
    """Room for `size` (at most SEND_BLOCK) bytes in a block. NULL: out of memory."""
    cdef Block* block
    if queue.block is not NULL:
        if queue.first is NULL and queue.block.references == 1:
            queue.block_used = 0        # nothing of it is in use: stay in the cache
        if queue.block.capacity - queue.block_used >= size:
            return queue.block.data + queue.block_used
    block = block_acquire(queue.pool, SEND_BLOCK, NULL)
    if block is NULL:
        return NULL
    if queue.block is not NULL:
        block_release(queue.block)
    queue.block = block
    queue.block_used = 0
    return block.data


cdef Piece* append(SendQueue* queue, const uint8_t* data, size_t size) noexcept nogil:
    cdef Piece* piece = <Piece*> slab_take(&queue.pieces)
    if piece is NULL:
        return NULL
    memset(piece, 0, sizeof(Piece))
    piece.data = data
    piece.length = size
    piece.end_sequence = queue.sequence
    if queue.last is NULL:
        queue.first = piece
    else:
        queue.last.next = piece
    queue.last = piece
    queue.bytes += size
    queue.unwritten += size
    return piece


cdef int queue_commit(SendQueue* queue, size_t size, bint ends_frame) noexcept nogil:
    """Queues `size` bytes written where `queue_reserve` said; `queue.sequence` is past them."""
    cdef const uint8_t* data = queue.block.data + queue.block_used
    cdef Piece* piece = queue.last
    if (
        piece is not NULL and piece.block is queue.block and piece.ends_frame
        and piece.data + piece.length is data and piece.message is NULL
    ):
        piece.length += size
        piece.end_sequence = queue.sequence
        queue.bytes += size
        queue.unwritten += size
    else:
        piece = append(queue, data, size)
        if piece is NULL:
            return -1
        piece.block = queue.block
        tc_atomic_add(&queue.block.references, 1)
    piece.ends_frame = ends_frame
    queue.block_used += size
    return 0


cdef int queue_reference(
    SendQueue* queue, const uint8_t* data, size_t size, Held* held, bint ends_frame
) noexcept nogil:
    """Queues bytes that lie elsewhere and stay there as long as `held` does."""
    cdef Piece* piece = append(queue, data, size)
    if piece is NULL:
        return -1
    piece.held = held
    held.references += 1
    queue.referenced += size
    piece.ends_frame = ends_frame
    return 0


# Acknowledging

cdef inline bint is_written(const SendQueue* queue, const Piece* piece) noexcept nogil:
    """Whether the first piece is written whole."""
    if queue.written is NULL:
        return False
    return queue.written is not piece or queue.written_offset == piece.length


cdef void queue_ack(SendQueue* queue, uint64_t sequence) noexcept nogil:
    """All frames before `sequence` are with the peer; the caller knows that they were sent."""
    cdef Piece* piece
    if sequence > queue.acked:
        queue.acked = sequence
    while queue.first is not NULL:
        piece = queue.first
        if piece.end_sequence > queue.acked or not is_written(queue, piece):
            return
        # A frame in several pieces is in the peer's hands only with its last one, and the peer
        # acknowledges whole frames: so a piece that may go takes the ones of its frame along later.
        if queue.written is piece:
            queue.written = NULL
            queue.written_offset = 0
        if queue.taken is piece:
            queue.taken = NULL
            queue.taken_offset = 0
        drop_first(queue)


cdef void drop_first(SendQueue* queue) noexcept nogil:
    cdef Piece* piece = queue.first
    queue.first = piece.next
    if queue.first is NULL:
        queue.last = NULL
    queue.bytes -= piece.length
    if piece.block is not NULL:
        block_release(piece.block)
    if piece.held is not NULL:
        queue.referenced -= piece.length
        held_release(queue, piece.held)
    if piece.message is not NULL:
        outgoing_free(queue, piece.message)
    slab_give(&queue.pieces, piece)


# Another link, PROTOCOL.md section 12

cdef size_t frame_size(const uint8_t* header) noexcept nogil:
    """Of a frame of our own, whose header lies in one piece."""
    return HEADER_SIZE + <size_t> load_u32(header)


cdef uint64_t sequence_at(const Piece* piece, const uint8_t* header) noexcept nogil:
    """The number of a frame that begins in this piece; its header has the low half."""
    cdef uint64_t last = piece.end_sequence - 1
    return last - <uint32_t> (<uint32_t> last - load_u32(header + 12))


cdef uint64_t queue_begun(const SendQueue* queue) noexcept nogil:
    """The sequence number behind the last frame of which a byte was written; at least `acked`."""
    cdef const Piece* piece = queue.written
    cdef size_t at = 0
    cdef uint64_t sequence = queue.acked
    if piece is NULL:
        return sequence
    if piece.held is not NULL or queue.written_offset == piece.length:
        return piece.end_sequence
    while at < queue.written_offset:
        sequence = sequence_at(piece, piece.data + at) + 1
        at += frame_size(piece.data + at)
    return sequence


cdef void queue_rewind(SendQueue* queue, uint64_t received) noexcept nogil:
    """The peer has all frames before `received`, of which the caller knows that they were queued;
    what comes behind them is to be written again, from the beginning of a frame.
    """
    cdef Piece* piece
    cdef size_t at = 0
    queue.acked = received
    queue.written = NULL
    queue.written_offset = 0
    queue.taken = NULL
    queue.taken_offset = 0
    queue.mid_frame = False
    while queue.first is not NULL and queue.first.end_sequence <= received:
        drop_first(queue)
    piece = queue.first
    if piece is not NULL:
        # Small frames lie together: what the peer has of them is not sent again.
        while at < piece.length and sequence_at(piece, piece.data + at) < received:
            at += frame_size(piece.data + at)
        if at > 0:
            queue.written = piece
            queue.written_offset = at
            queue.taken = piece
            queue.taken_offset = at
    queue.unwritten = queue.bytes - at


# Writing

cdef bint queue_in_flight(const SendQueue* queue) noexcept nogil:
    return queue.taken is not queue.written or queue.taken_offset != queue.written_offset


cdef inline Piece* at_cursor(const SendQueue* queue, Piece* piece, size_t* offset) noexcept nogil:
    """The piece that has the byte after a cursor, and where in it; NULL at the end of the queue."""
    if piece is NULL:
        offset[0] = 0
        return queue.first
    if offset[0] == piece.length:
        offset[0] = 0
        return piece.next
    return piece


cdef int queue_take(SendQueue* queue, Span* spans, int most, size_t bytes) noexcept nogil:
    """Adds to the batch what is queued behind it: whole pieces, until `bytes` is reached.

    Returns how many spans it filled in. It goes past `bytes` to end a frame, and stops inside one
    only when that has more pieces than there are spans.
    """
    cdef size_t offset = queue.taken_offset
    cdef Piece* piece = at_cursor(queue, queue.taken, &offset)
    cdef Piece* end = NULL      # the last piece that ends a frame, and the spans up to it
    cdef int whole = 0
    cdef int count = 0
    cdef size_t total = 0
    while piece is not NULL and count < most:
        spans[count].data = piece.data + offset
        spans[count].length = piece.length - offset
        total += piece.length - offset
        count += 1
        queue.taken = piece
        queue.taken_offset = piece.length
        if piece.ends_frame:
            end = piece
            whole = count
            if total >= bytes:
                break
        piece = piece.next
        offset = 0
    queue.mid_frame = count > 0 and end is NULL or queue.mid_frame and count == 0
    if end is NULL:
        return count
    queue.taken = end
    queue.taken_offset = end.length
    return whole


cdef int queue_again(SendQueue* queue, Span* spans, int most) noexcept nogil:
    """The unwritten remainder of the batch."""
    cdef size_t offset = queue.written_offset
    cdef Piece* piece = at_cursor(queue, queue.written, &offset)
    cdef size_t end
    cdef int count = 0
    while piece is not NULL and count < most:
        end = queue.taken_offset if piece is queue.taken else piece.length
        if end > offset:
            spans[count].data = piece.data + offset
            spans[count].length = end - offset
            count += 1
        if piece is queue.taken:
            break
        piece = piece.next
        offset = 0
    return count


cdef void queue_wrote(SendQueue* queue, size_t count) noexcept nogil:
    """Moves the written cursor; the caller never reports more than it was given."""
    cdef size_t offset = queue.written_offset
    cdef Piece* piece = at_cursor(queue, queue.written, &offset)
    cdef size_t step
    queue.unwritten -= count
    while count > 0 and piece is not NULL:
        step = min(count, piece.length - offset)
        count -= step
        offset += step
        queue.written = piece
        queue.written_offset = offset
        if offset == piece.length:
            piece = piece.next
            offset = 0
    queue_ack(queue, queue.acked)
