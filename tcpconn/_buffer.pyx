"""The block pool and its leases.

Memory for messages comes from a pool of blocks in power-of-two classes, bounded in bytes. A block
is counted by its users (the session that fills it, each unread message in it, each lease) and goes
back to the pool when the last one is gone: so no block is moved or reused under a live view.

The functions on C structs may be called from any thread without the GIL. A pool outlives its owner
for as long as blocks of it are in use.
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo
from libc.stdint cimport uintptr_t
from libc.string cimport memcpy, memmove

from tcpconn._budget cimport Claim, Loan, end_loan, may_take
from tcpconn._memory cimport memory_free, memory_resize, memory_take, memory_take_zeroed
from tcpconn._sync cimport (
    tc_atomic_add,
    tc_atomic_get,
    tc_mutex_destroy,
    tc_mutex_init,
    tc_mutex_lock,
    tc_mutex_unlock,
)

import os

cdef enum:
    ALIGNMENT = 64              # a cache line, so that two blocks never share one

cdef size_t MOST_BYTES = <size_t> -1 >> 2   # room for what stands before a block, in any sum

DEFAULT_MAX_BYTES = MOST_BYTES
"""Bytes that a pool may have allocated at once. Sessions keep to a budget of their own, below."""

DEFAULT_MAX_FREE_BYTES = 32 << 20
"""Bytes kept for reuse. Enough for two 16 MiB windows; what is over goes back to the system."""


# Pool and blocks

cdef inline int class_of(size_t capacity) noexcept nogil:
    cdef int index = 0
    while index < CLASSES:
        if capacity <= (<size_t> 1 << (SMALLEST_CLASS + index)):
            return index
        index += 1
    return -1


cdef size_t block_size(size_t capacity) noexcept nogil:
    """How large a block of at least `capacity` bytes is."""
    cdef int index = class_of(capacity)
    return capacity if index < 0 else <size_t> 1 << (SMALLEST_CLASS + index)


cdef Pool* pool_new(size_t max_bytes, size_t max_free_bytes) noexcept nogil:
    cdef Pool* pool = <Pool*> memory_take_zeroed(1, sizeof(Pool))
    if pool is NULL:
        return NULL
    tc_mutex_init(&pool.lock)
    pool.max_bytes = min(max_bytes, MOST_BYTES)
    pool.max_free_bytes = max_free_bytes
    pool.references = 1
    return pool


cdef void free_list_clear(Pool* pool) noexcept nogil:
    cdef Block* block
    cdef int index
    for index in range(CLASSES):
        while pool.free[index] is not NULL:
            block = pool.free[index]
            pool.free[index] = block.next
            pool.allocated_bytes -= block.capacity
            pool.free_bytes -= block.capacity
            memory_free(block)


cdef void pool_release(Pool* pool) noexcept nogil:
    if tc_atomic_add(&pool.references, -1) == 0:
        free_list_clear(pool)
        tc_mutex_destroy(&pool.lock)
        memory_free(pool)


cdef inline void place_data(Block* block) noexcept nogil:
    cdef uintptr_t start = <uintptr_t> block + sizeof(Block)
    block.data = <uint8_t*> ((start + ALIGNMENT - 1) & ~<uintptr_t> (ALIGNMENT - 1))


# Budgets: what all sessions of a pool hold is counted together, and shared as _budget says.

cdef inline size_t counted(const Pool* pool) noexcept nogil:
    return pool.allocated_bytes - pool.free_bytes - pool.base_bytes + pool.charged_bytes


cdef inline bint fits(Pool* pool, size_t more, const Claim* claim) noexcept nogil:
    return may_take(&pool.sharing, counted(pool), more - claim.returned, claim)


cdef bint pool_allows(Pool* pool, size_t more, const Claim* claim) noexcept nogil:
    """Whether a session may have `more` now."""
    cdef bint answer
    tc_mutex_lock(&pool.lock)
    answer = fits(pool, more, claim)
    tc_mutex_unlock(&pool.lock)
    return answer


cdef void return_loan(Pool* pool, Loan* loan) noexcept nogil:
    tc_mutex_lock(&pool.lock)
    end_loan(&pool.sharing, loan)
    tc_mutex_unlock(&pool.lock)


cdef bint is_waited_for(Pool* pool) noexcept nogil:
    """Whether anybody waits for what others were lent."""
    cdef bint answer
    tc_mutex_lock(&pool.lock)
    answer = pool.sharing.first is not NULL
    tc_mutex_unlock(&pool.lock)
    return answer


cdef bint pool_is_tight(Pool* pool, uint64_t budget) noexcept nogil:
    """Whether it is time to be sparing: half of it is used. Takes no lock."""
    return <uint64_t> tc_atomic_get(&pool.used_units) * BUDGET_UNIT > budget // 2


cdef inline void unlock_counted(Pool* pool) noexcept nogil:
    """Releases the lock after a change that budgets count."""
    cdef int32_t units = <int32_t> min(counted(pool) // BUDGET_UNIT, <size_t> 0x7FFFFFFF)
    if units != pool.used_units:
        tc_atomic_add(&pool.used_units, units - pool.used_units)
    tc_mutex_unlock(&pool.lock)


cdef void pool_charge(Pool* pool, int64_t more) noexcept nogil:
    """Counts what a session holds in other memory than blocks; negative: holds no more."""
    tc_mutex_lock(&pool.lock)
    pool.charged_bytes += <size_t> more
    unlock_counted(pool)


cdef void pool_base(Pool* pool, int64_t more) noexcept nogil:
    """Leaves a session's first block out of the count; negative: the session is gone."""
    tc_mutex_lock(&pool.lock)
    pool.sharing.links += 1 if more > 0 else -1
    pool.base_bytes += <size_t> more
    unlock_counted(pool)


cdef Block* block_acquire(Pool* pool, size_t capacity, const Claim* claim) noexcept nogil:
    """A block of at least `capacity` bytes, referenced once; NULL: none to be had.

    `claim` bounds it by a budget; NULL: only the pool's own bound does.
    """
    cdef int index = class_of(capacity)
    cdef Block* block = NULL
    if index >= 0:
        capacity = <size_t> 1 << (SMALLEST_CLASS + index)
    tc_mutex_lock(&pool.lock)
    if claim is not NULL and not fits(pool, capacity, claim):
        pool.refused += 1
        tc_mutex_unlock(&pool.lock)
        return NULL
    if index >= 0 and pool.free[index] is not NULL:
        block = pool.free[index]
        pool.free[index] = block.next
        pool.free_bytes -= capacity
        pool.reused += 1
        pool.acquired += 1
    else:
        if capacity > pool.max_bytes - pool.allocated_bytes:
            free_list_clear(pool)
        if capacity > pool.max_bytes - pool.allocated_bytes:
            pool.refused += 1
            tc_mutex_unlock(&pool.lock)
            return NULL
        pool.allocated_bytes += capacity
        pool.acquired += 1
    unlock_counted(pool)
    if block is NULL:
        block = <Block*> memory_take(sizeof(Block) + ALIGNMENT + capacity)
        if block is NULL:
            tc_mutex_lock(&pool.lock)
            pool.allocated_bytes -= capacity
            unlock_counted(pool)
            return NULL
        block.pool = pool
        block.capacity = capacity
        block.size_class = index
        place_data(block)
    tc_atomic_add(&pool.references, 1)
    block.next = NULL
    block.references = 1
    block.first_message = NULL
    block.live_bytes = 0
    block.older = NULL
    block.newer = NULL
    block.retired = False
    return block


cdef Block* block_grow(
    Block* block, size_t used, size_t capacity, const Claim* claim
) noexcept nogil:
    """Moves the first `used` bytes to a block of `capacity`, and drops the old one.

    Only for a block with no other user. On failure NULL, and the old block stays as it was.
    """
    cdef Block* larger
    cdef size_t offset
    cdef Claim instead
    if block.size_class < 0 and reserve(block.pool, capacity - block.capacity, claim):
        # The system moves memory of this size by its page tables: nothing is copied.
        offset = <size_t> (block.data - <uint8_t*> block)
        larger = <Block*> memory_resize(block, sizeof(Block) + ALIGNMENT + capacity)
        if larger is NULL:
            unreserve(block.pool, capacity - block.capacity)
            return NULL
        larger.capacity = capacity
        place_data(larger)
        if larger.data != <uint8_t*> larger + offset:
            memmove(larger.data, <uint8_t*> larger + offset, used)
        return larger
    if claim is not NULL:
        instead = claim[0]              # it holds both only while it copies
        instead.returned = block.capacity
        claim = &instead
    larger = block_acquire(block.pool, capacity, claim)
    if larger is NULL:
        return NULL
    memcpy(larger.data, block.data, used)
    block_release(block)
    return larger


cdef bint reserve(Pool* pool, size_t more, const Claim* claim) noexcept nogil:
    """Counts memory that is about to be allocated. False: it would pass a bound."""
    cdef bint allowed
    tc_mutex_lock(&pool.lock)
    allowed = more <= pool.max_bytes - pool.allocated_bytes
    allowed = allowed and (claim is NULL or fits(pool, more, claim))
    if allowed:
        pool.allocated_bytes += more
    unlock_counted(pool)
    return allowed


cdef void unreserve(Pool* pool, size_t less) noexcept nogil:
    tc_mutex_lock(&pool.lock)
    pool.allocated_bytes -= less
    unlock_counted(pool)


cdef void block_release(Block* block) noexcept nogil:
    cdef Pool* pool
    cdef size_t capacity
    if tc_atomic_add(&block.references, -1) != 0:
        return
    pool = block.pool
    capacity = block.capacity
    tc_mutex_lock(&pool.lock)
    if block.size_class >= 0 and pool.free_bytes + capacity <= pool.max_free_bytes:
        block.next = pool.free[block.size_class]
        pool.free[block.size_class] = block
        pool.free_bytes += capacity
        block = NULL
    else:
        pool.allocated_bytes -= capacity
    unlock_counted(pool)
    if block is not NULL:
        memory_free(block)
    pool_release(pool)


# Slabs: small records of one size, reused without asking the system. Guarded by their owner's lock.

cdef void slab_init(Slab* slab, size_t item_size) noexcept nogil:
    slab.item_size = item_size
    slab.free = NULL
    slab.chunks = NULL
    slab.in_use = 0
    slab.allocated = 0


cdef bint slab_grow(Slab* slab) noexcept nogil:
    """Whether there was memory for more."""
    cdef size_t count = SLAB_FIRST if slab.allocated == 0 else SLAB_ITEMS
    cdef SlabItem* chunk = <SlabItem*> memory_take(ALIGNMENT + slab.item_size * count)
    cdef SlabItem* item
    cdef char* at
    cdef size_t _
    if chunk is NULL:
        return False
    chunk.next = slab.chunks
    slab.chunks = chunk
    slab.allocated += count
    at = <char*> chunk + ALIGNMENT
    for _ in range(count):
        item = <SlabItem*> at
        item.next = slab.free
        slab.free = item
        at += slab.item_size
    return True


cdef void* slab_take(Slab* slab) noexcept nogil:
    cdef SlabItem* item
    if slab.free is NULL and not slab_grow(slab):
        return NULL
    item = slab.free
    slab.free = item.next
    slab.in_use += 1
    return item


cdef void slab_give(Slab* slab, void* item) noexcept nogil:
    (<SlabItem*> item).next = slab.free
    slab.free = <SlabItem*> item
    slab.in_use -= 1
    if slab.in_use == 0 and slab.allocated > SLAB_KEPT:
        slab_destroy(slab)


cdef void slab_destroy(Slab* slab) noexcept nogil:
    cdef SlabItem* chunk
    while slab.chunks is not NULL:
        chunk = slab.chunks
        slab.chunks = chunk.next
        memory_free(chunk)
    slab.free = NULL
    slab.allocated = 0


# What Python sees

cdef class BlockPool:
    """A pool of memory blocks, bounded in bytes. Thread-safe.

    `max_bytes`: most that may be allocated at once, in use and kept together; `max_free_bytes`:
    most that is kept for reuse. `acquire` raises `MemoryError` past the first, and never waits.
    """

    def __cinit__(
        self,
        size_t max_bytes=DEFAULT_MAX_BYTES,
        size_t max_free_bytes=DEFAULT_MAX_FREE_BYTES,
    ):
        self.pool = pool_new(max_bytes, max_free_bytes)
        if self.pool is NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.pool is not NULL:
            pool_release(self.pool)

    def acquire(self, size_t size):
        """A `Lease` on `size` bytes of a block, uninitialised; `MemoryError` over the bound."""
        cdef Block* block = block_acquire(self.pool, size, NULL)
        cdef Lease lease
        if block is NULL:
            raise MemoryError(
                f"a block of {size} bytes would pass the pool's bound of {self.pool.max_bytes} "
                f"bytes ({self.pool.allocated_bytes} are allocated); "
                "release leases, or raise max_bytes"
            )
        lease = Lease.__new__(Lease)
        lease.take_over(block, block.data, size)
        return lease

    def stats(self):
        """Counters, a dict: bytes allocated, free, allowed and counted by sessions' budgets; blocks
        acquired, reused, refused.
        """
        tc_mutex_lock(&self.pool.lock)
        try:
            return {
                "max_bytes": self.pool.max_bytes,
                "allocated_bytes": self.pool.allocated_bytes,
                "free_bytes": self.pool.free_bytes,
                "acquired": self.pool.acquired,
                "reused": self.pool.reused,
                "counted_bytes": counted(self.pool),
                "refused": self.pool.refused,
            }
        finally:
            tc_mutex_unlock(&self.pool.lock)

    def __repr__(self):
        numbers = self.stats()
        used = numbers["allocated_bytes"] - numbers["free_bytes"]
        return (
            f"<BlockPool {used} bytes in use, {numbers['free_bytes']} free, "
            f"at most {numbers['max_bytes']}>"
        )


cdef BlockPool _default_pool = None


cdef BlockPool default_block_pool():
    global _default_pool
    if _default_pool is None:
        _default_pool = BlockPool()
    return _default_pool


def _forget_default_pool():
    # In a forked child the pool's lock may be held by a thread that does not exist there.
    global _default_pool
    _default_pool = BlockPool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_default_pool)


def block_pool():
    """The process's block pool, from which all sessions take their memory."""
    return default_block_pool()


@cython.freelist(64)  # in steady state, a lease costs no allocation
cdef class Lease:
    """A message in pooled memory, lent until `release` and the end of every view on it.

    Exports a read-only buffer: `memoryview(lease)`, `bytes(lease)`, `file.write(lease)`,
    `numpy.frombuffer(lease)`, `struct.unpack_from(format, lease)` work on the memory itself,
    without a copy. As a context manager it gives itself and releases at the end. Views taken from
    it stay valid after `release`: the memory goes back to the pool with the last of them.
    Thread-safe.
    """

    def __init__(self):
        raise TypeError("leases are made by Connection.receive_view and BlockPool.acquire")

    cdef void take_over(self, Block* block, uint8_t* data, size_t length) noexcept:
        """Takes over one reference to `block` (NULL for an empty message)."""
        self.block = block
        self.data = data
        self.length = <Py_ssize_t> length
        self.holds = 1

    cdef void drop(self) noexcept:
        cdef Block* block
        self.holds -= 1
        if self.holds == 0:
            block = self.block
            self.block = NULL
            self.data = NULL
            if block is not NULL:
                block_release(block)

    def release(self):
        """Gives the memory back, now or with the last view on it. Calling it again does nothing."""
        with cython.critical_section(self):
            if not self.is_released:
                self.is_released = True
                self.drop()

    @property
    def released(self):
        return bool(self.is_released)

    def __len__(self):
        return self.length

    def __getitem__(self, key):
        return memoryview(self)[key]

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.release()

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        cdef uint8_t* data
        if flags & PyBUF_WRITABLE == PyBUF_WRITABLE:
            raise BufferError("a lease is read-only; copy it to change it")
        # To look whether it is released and to take hold of it is one thing.
        with cython.critical_section(self):
            if self.is_released:
                raise ValueError("this lease has been released; take the view before that")
            data = self.data if self.data is not NULL else <uint8_t*> &_nothing
            PyBuffer_FillInfo(buffer, self, data, self.length, 1, flags)
            self.holds += 1

    def __releasebuffer__(self, Py_buffer* buffer):
        with cython.critical_section(self):
            self.drop()

    def __dealloc__(self):
        # No view can be left: each holds a reference to this object.
        if self.block is not NULL:
            block_release(self.block)

    def __repr__(self):
        state = "released" if self.released else f"{self.length} bytes"
        return f"<Lease {state}>"


cdef char _nothing = 0
