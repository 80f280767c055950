"""Hash tables whose nodes lie in the records they index: finding and adding allocate nothing."""

from libc.stdint cimport uint64_t


cdef struct Node:
    Node* next                  # in its bucket
    uint64_t key
    void* record


cdef struct Table:
    Node** buckets
    size_t mask                 # number of buckets - 1, a power of two
    size_t count


cdef int table_init(Table* table) noexcept nogil
cdef void table_destroy(Table* table) noexcept nogil
cdef void table_add(Table* table, Node* node) noexcept nogil
cdef void table_remove(Table* table, Node* node) noexcept nogil
cdef Node* table_find(Table* table, uint64_t key) noexcept nogil
cdef Node* table_next(Table* table, size_t* bucket, Node* node) noexcept nogil
