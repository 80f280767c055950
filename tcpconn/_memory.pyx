"""The functions that take and give back all memory of the core, in one place: see the .pxd.

What measures allocations may put itself between: `allocator` is a capsule with the table of the
functions in use, laid out like those that `PyMem_SetAllocator` takes.
"""

from cpython.pycapsule cimport PyCapsule_New

cdef extern from *:
    """
    #include <stdlib.h>

    /* NULL for 0 bytes would look like no memory. */
    static void *tc_malloc(void *context, size_t size) {
        (void)context;
        return malloc(size ? size : 1);
    }
    static void *tc_calloc(void *context, size_t count, size_t size) {
        (void)context;
        return count && size ? calloc(count, size) : calloc(1, 1);
    }
    static void *tc_realloc(void *context, void *memory, size_t size) {
        (void)context;
        return realloc(memory, size ? size : 1);
    }
    static void tc_free(void *context, void *memory) {
        (void)context;
        free(memory);
    }
    static PyMemAllocatorEx tc_allocator = {NULL, tc_malloc, tc_calloc, tc_realloc, tc_free};
    """
    ctypedef struct PyMemAllocatorEx:
        void* ctx
        void* (*malloc)(void* context, size_t size) noexcept nogil
        void* (*calloc)(void* context, size_t count, size_t size) noexcept nogil
        void* (*realloc)(void* context, void* memory, size_t size) noexcept nogil
        void (*free)(void* context, void* memory) noexcept nogil
    PyMemAllocatorEx tc_allocator


cdef void* memory_take(size_t size) noexcept nogil:
    return tc_allocator.malloc(tc_allocator.ctx, size)


cdef void* memory_take_zeroed(size_t count, size_t size) noexcept nogil:
    return tc_allocator.calloc(tc_allocator.ctx, count, size)


cdef void* memory_resize(void* memory, size_t size) noexcept nogil:
    """NULL when there is not enough: what was there stays then."""
    return tc_allocator.realloc(tc_allocator.ctx, memory, size)


cdef void memory_free(void* memory) noexcept nogil:
    tc_allocator.free(tc_allocator.ctx, memory)


allocator = PyCapsule_New(&tc_allocator, "tcpconn._memory.allocator", NULL)
