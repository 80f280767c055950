# cython: language_level=3, embedsignature=True, freethreading_compatible=True
"""Counts what a process allocates through Python's allocators (raw, mem and obj) and tcpconn's own.

    start()                      # from here on, everything that any thread allocates counts
    calls, size = stop()         # how many allocations, and how many bytes they asked for

An allocation is a malloc or calloc, or a realloc that grows (counted with the bytes it grew by). A
large object's memory passes through two domains; it counts once. A block that a free list hands
out again is no allocation. Memory is taken without the GIL too, so the counters are atomic.
"""

from cpython.pycapsule cimport PyCapsule_GetPointer

cdef extern from *:
    """
    #include <pthread.h>
    #include <stdint.h>
    #include <stdlib.h>
    #include <string.h>

    /* How large each live block is, to tell a realloc that grows from one that shrinks: open
       addressing, keyed by address. Blocks from before start() are not in it, and count as growing
       from nothing. */
    #define SLOTS (1u << 18)
    #define MOST_LIVE (SLOTS / 2)
    typedef struct { uintptr_t address; size_t size; } slot;

    static PyMemAllocatorEx originals[4];
    static const PyMemAllocatorDomain domains[3] = {
        PYMEM_DOMAIN_RAW, PYMEM_DOMAIN_MEM, PYMEM_DOMAIN_OBJ};
    static PyMemAllocatorEx *own;       /* tcpconn's table of functions, if it has one */
    static slot *table;
    static size_t live;
    static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
    static uint64_t allocation_calls, allocation_bytes;
    static int installed;
    /* Above 0 inside an allocator: what it asks another domain for is already counted. */
    static __thread int depth;

    static size_t home(uintptr_t address) {
        return (size_t)((uint64_t)address * 0x9E3779B97F4A7C15ull >> 46) & (SLOTS - 1);
    }

    static void remember(void *block, size_t size) {
        pthread_mutex_lock(&table_lock);
        if (live < MOST_LIVE) {
            size_t at = home((uintptr_t)block);
            while (table[at].address && table[at].address != (uintptr_t)block)
                at = (at + 1) & (SLOTS - 1);
            live += !table[at].address;
            table[at].address = (uintptr_t)block;
            table[at].size = size;
        }
        pthread_mutex_unlock(&table_lock);
    }

    /* The block's size, or 0 if it is from before start(). */
    static size_t forget(void *block) {
        size_t size = 0;
        pthread_mutex_lock(&table_lock);
        size_t at = home((uintptr_t)block);
        while (table[at].address && table[at].address != (uintptr_t)block)
            at = (at + 1) & (SLOTS - 1);
        if (table[at].address) {
            size = table[at].size;
            live--;
            /* Close the gap, so that no search ends at it before its time. */
            size_t gap = at;
            for (;;) {
                at = (at + 1) & (SLOTS - 1);
                if (!table[at].address)
                    break;
                size_t distance = (at - home(table[at].address)) & (SLOTS - 1);
                if (distance >= ((at - gap) & (SLOTS - 1))) {
                    table[gap] = table[at];
                    gap = at;
                }
            }
            table[gap].address = 0;
        }
        pthread_mutex_unlock(&table_lock);
        return size;
    }

    static void count(size_t size) {
        __atomic_fetch_add(&allocation_calls, 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&allocation_bytes, size, __ATOMIC_RELAXED);
    }

    static void *counted_new(PyMemAllocatorEx *original, int cleared, size_t number, size_t size) {
        int outermost = depth++ == 0;
        void *block = cleared ? original->calloc(original->ctx, number, size)
                              : original->malloc(original->ctx, size);
        depth--;
        if (block && outermost) {
            count(number * size);
            remember(block, number * size);
        }
        return block;
    }

    static void *counted_realloc(PyMemAllocatorEx *original, void *block, size_t size) {
        int outermost = depth++ == 0;
        size_t before = outermost && block ? forget(block) : 0;
        void *moved = original->realloc(original->ctx, block, size);
        depth--;
        if (outermost) {
            if (moved && size > before)
                count(size - before);
            if (moved)
                remember(moved, size);
            else if (before)
                remember(block, before);
        }
        return moved;
    }

    static void counted_free(PyMemAllocatorEx *original, void *block) {
        int outermost = depth++ == 0;
        /* Before the memory is free: another thread may be given the same address at once. */
        if (outermost && block)
            forget(block);
        original->free(original->ctx, block);
        depth--;
    }

    /* One set of functions per domain, so that none needs its context: a thread that is just
       calling while the allocators are exchanged may see the old context with the new function. */
    #define HOOKS(N) \\
        static void *malloc_##N(void *ctx, size_t size) { \\
            (void)ctx; return counted_new(&originals[N], 0, 1, size); } \\
        static void *calloc_##N(void *ctx, size_t number, size_t size) { \\
            (void)ctx; return counted_new(&originals[N], 1, number, size); } \\
        static void *realloc_##N(void *ctx, void *block, size_t size) { \\
            (void)ctx; return counted_realloc(&originals[N], block, size); } \\
        static void free_##N(void *ctx, void *block) { \\
            (void)ctx; counted_free(&originals[N], block); }
    HOOKS(0)
    HOOKS(1)
    HOOKS(2)
    HOOKS(3)

    static int start_counting(void) {
        static const PyMemAllocatorEx hooks[4] = {
            {NULL, malloc_0, calloc_0, realloc_0, free_0},
            {NULL, malloc_1, calloc_1, realloc_1, free_1},
            {NULL, malloc_2, calloc_2, realloc_2, free_2},
            {NULL, malloc_3, calloc_3, realloc_3, free_3}};
        if (!table && !(table = malloc(SLOTS * sizeof(slot))))
            return -1;
        memset(table, 0, SLOTS * sizeof(slot));
        live = 0;
        for (int n = 0; n < 3; n++)
            PyMem_GetAllocator(domains[n], &originals[n]);
        __atomic_store_n(&allocation_calls, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&allocation_bytes, 0, __ATOMIC_RELAXED);
        installed = 1;
        for (int n = 0; n < 3; n++) {
            PyMemAllocatorEx hook = hooks[n];
            hook.ctx = originals[n].ctx;
            PyMem_SetAllocator(domains[n], &hook);
        }
        if (own) {
            originals[3] = *own;
            *own = hooks[3];
        }
        return 0;
    }

    static void stop_counting(void) {
        for (int n = 0; n < 3; n++)
            PyMem_SetAllocator(domains[n], &originals[n]);
        if (own)
            *own = originals[3];
        installed = 0;
    }
    """
    void* own
    int start_counting()
    void stop_counting()
    int installed
    unsigned long long allocation_calls
    unsigned long long allocation_bytes

try:
    from tcpconn import _memory
except ImportError:                     # an older tcpconn, which used Python's alone
    pass
else:
    own = PyCapsule_GetPointer(_memory.allocator, "tcpconn._memory.allocator")


def start():
    """Counts from now on, from 0."""
    if installed:
        raise RuntimeError("allocations are being counted already")
    if start_counting() < 0:
        raise MemoryError


def stop():
    """Ends counting: (allocations, bytes)."""
    if not installed:
        raise RuntimeError("allocations are not being counted")
    stop_counting()
    return allocation_calls, allocation_bytes
