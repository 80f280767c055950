"""Memory that may be taken and given back under any lock, with and without the GIL.

It comes from the C library, and not from Python's allocators: those may be hooked, and a hook may
wait for the GIL (tracemalloc's does), whose holder may wait for the very lock under which the
memory was asked for.
"""

cdef void* memory_take(size_t size) noexcept nogil
cdef void* memory_take_zeroed(size_t count, size_t size) noexcept nogil
cdef void* memory_resize(void* memory, size_t size) noexcept nogil
cdef void memory_free(void* memory) noexcept nogil
