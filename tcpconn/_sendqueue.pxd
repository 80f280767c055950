"""The send queue: one queue of frames with three cursors, acked <= written <= queued."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from tcpconn._buffer cimport Block, Pool, Slab
from tcpconn._sync cimport Span

cdef enum:
    SEND_BLOCK = 65536          # bytes of small frames that lie together: one write's worth


cdef struct Held:               # keeps referenced payload alive until it is acknowledged
    int32_t references
    # A Python object, to be released by whoever holds the GIL; NULL: the payload lies behind this.
    void* object
    Held* next


cdef struct Part:
    const uint8_t* data
    uint64_t length
    Held* held


cdef struct Outgoing:           # a message that is cut into chunks
    Outgoing* next
    uint64_t total
    uint64_t done
    uint64_t reserved           # of the session's credit, once started
    uint64_t overhead           # what its frames add to its cost, as reckoned when it was queued
    uint32_t count              # of parts
    uint32_t index              # the part that comes next, and where in it
    uint64_t offset
    Part* parts                 # behind this record


cdef struct Piece:              # bytes of one or more frames that lie together
    Piece* next
    const uint8_t* data
    size_t length
    Block* block                # what owns them
    Held* held
    Outgoing* message           # of which the last chunk ends here: it is kept until that is acked
    uint64_t end_sequence       # of the last frame that has bytes here, plus 1
    bint ends_frame             # no frame goes on in the next piece


cdef struct SendQueue:
    Pool* pool
    Slab pieces
    Piece* first                # the oldest that is not acknowledged
    Piece* last
    Piece* written              # cursor: the piece and offset of the next byte to write;
    size_t written_offset       # NULL: the start of the first piece
    Piece* taken                # cursor: the end of the batch that is being written
    size_t taken_offset
    bint mid_frame              # the last batch ended inside a frame: nothing may be put between
    Block* block                # where small frames are written
    size_t block_used
    uint64_t sequence           # of the next frame
    uint64_t acked
    uint64_t bytes              # queued and not acknowledged
    uint64_t referenced         # of those, what does not lie in blocks
    uint64_t unwritten          # of those, not written
    Held* released              # Python objects that an ack has set free


cdef void queue_init(SendQueue* queue, Pool* pool) noexcept nogil
cdef void queue_destroy(SendQueue* queue) noexcept nogil
cdef uint8_t* queue_reserve(SendQueue* queue, size_t size) noexcept nogil
cdef int queue_commit(SendQueue* queue, size_t size, bint ends_frame) noexcept nogil
cdef int queue_reference(
    SendQueue* queue, const uint8_t* data, size_t size, Held* held, bint ends_frame
) noexcept nogil
cdef void queue_ack(SendQueue* queue, uint64_t sequence) noexcept nogil
cdef bint queue_in_flight(const SendQueue* queue) noexcept nogil
cdef int queue_take(SendQueue* queue, Span* spans, int most, size_t bytes) noexcept nogil
cdef int queue_again(SendQueue* queue, Span* spans, int most) noexcept nogil
cdef void queue_wrote(SendQueue* queue, size_t count) noexcept nogil
cdef uint64_t sequence_at(const Piece* piece, const uint8_t* header) noexcept nogil
cdef uint64_t queue_begun(const SendQueue* queue) noexcept nogil
cdef void queue_rewind(SendQueue* queue, uint64_t received) noexcept nogil
cdef void outgoing_free(SendQueue* queue, Outgoing* message) noexcept nogil
cdef Held* held_new(void* object, size_t payload) noexcept nogil
cdef uint8_t* held_payload(Held* held) noexcept nogil
cdef void held_release(SendQueue* queue, Held* held) noexcept nogil
