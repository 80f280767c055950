"""Blocks, the pool they come from, and slabs of small records. All of it works without the GIL."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from tcpconn._budget cimport Claim, Loan, Sharing
from tcpconn._sync cimport tc_mutex

cdef enum:
    SMALLEST_CLASS = 14         # 2**14 = 16 KiB: below that, memory is not worth keeping
    CLASSES = 7                 # up to 2**20 = 1 MiB; larger ones go back to the system at once
    SLAB_FIRST = 4              # records that a slab takes first: an idle link needs hardly more
    SLAB_ITEMS = 64             # and then at a time
    SLAB_KEPT = 8192            # and that it keeps when none is in use any more
    BUDGET_UNIT = 65536


cdef struct Block:
    Block* next                 # in the pool's free list
    Pool* pool
    uint8_t* data
    size_t capacity
    int32_t references          # atomic; the block goes back to its pool when it reaches 0
    int32_t size_class          # index into the pool's free lists, -1: not pooled
    # For a receive block, guarded by the lock of the session that fills it:
    void* first_message         # the unread messages that lie in it
    size_t live_bytes           # their length together
    Block* older
    Block* newer
    bint retired                # no longer filled; in the session's list, waiting for its readers


cdef struct Pool:
    tc_mutex lock
    Block* free[CLASSES]
    size_t max_bytes            # most that may be allocated, in use and free together
    size_t max_free_bytes       # most that is kept for reuse
    size_t allocated_bytes
    size_t free_bytes
    size_t base_bytes           # of those, what every session has anyway: no budget counts it
    size_t charged_bytes        # what sessions hold elsewhere, and budgets count too
    int32_t used_units          # atomic; what budgets count, in units of BUDGET_UNIT
    Sharing sharing             # of what budgets count
    uint64_t acquired
    uint64_t reused
    uint64_t refused
    int32_t references          # atomic: the owner's, and one for each block in use


cdef Pool* pool_new(size_t max_bytes, size_t max_free_bytes) noexcept nogil
cdef void pool_release(Pool* pool) noexcept nogil
cdef Block* block_acquire(Pool* pool, size_t capacity, const Claim* claim) noexcept nogil
cdef size_t block_size(size_t capacity) noexcept nogil
cdef Block* block_grow(
    Block* block, size_t used, size_t capacity, const Claim* claim
) noexcept nogil
cdef bint pool_allows(Pool* pool, size_t more, const Claim* claim) noexcept nogil
cdef bint pool_is_tight(Pool* pool, uint64_t budget) noexcept nogil
cdef void return_loan(Pool* pool, Loan* loan) noexcept nogil
cdef bint is_waited_for(Pool* pool) noexcept nogil
cdef void pool_charge(Pool* pool, int64_t more) noexcept nogil
cdef void pool_base(Pool* pool, int64_t more) noexcept nogil
cdef void block_release(Block* block) noexcept nogil


cdef struct SlabItem:
    SlabItem* next


cdef struct Slab:
    size_t item_size
    SlabItem* free
    SlabItem* chunks            # what to give back to the system in the end
    size_t in_use
    size_t allocated            # records that it has memory for


cdef void slab_init(Slab* slab, size_t item_size) noexcept nogil
cdef void* slab_take(Slab* slab) noexcept nogil
cdef void slab_give(Slab* slab, void* item) noexcept nogil
cdef void slab_destroy(Slab* slab) noexcept nogil


cdef class BlockPool:
    cdef Pool* pool


cdef class Lease:
    cdef Block* block
    cdef uint8_t* data
    cdef Py_ssize_t length
    # Guarded by the GIL or, without one, by the object's own lock:
    cdef Py_ssize_t holds       # 1 until released, and one for each exported view
    cdef bint is_released

    cdef void take_over(self, Block* block, uint8_t* data, size_t length) noexcept
    cdef void drop(self) noexcept


cdef BlockPool default_block_pool()
