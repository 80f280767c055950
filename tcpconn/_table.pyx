"""Chained hash tables over 64-bit keys, guarded by their owner's lock."""

from libc.stdint cimport uint64_t

from tcpconn._memory cimport memory_free, memory_take_zeroed

cdef enum:
    FIRST_BUCKETS = 8           # most sessions have a handful of connections


cdef inline size_t bucket_of(const Table* table, uint64_t key) noexcept nogil:
    # Fibonacci hashing (Knuth, TAOCP 6.4): spreads consecutive numbers.
    return <size_t> ((key * 0x9E3779B97F4A7C15u) >> 32) & table.mask


cdef int table_init(Table* table) noexcept nogil:
    table.buckets = <Node**> memory_take_zeroed(FIRST_BUCKETS, sizeof(Node*))
    table.mask = FIRST_BUCKETS - 1
    table.count = 0
    return 0 if table.buckets is not NULL else -1


cdef void table_destroy(Table* table) noexcept nogil:
    memory_free(table.buckets)
    table.buckets = NULL


cdef void grow(Table* table) noexcept nogil:
    cdef size_t size = table.mask + 1, index
    cdef Node** old = table.buckets
    cdef Node** buckets = <Node**> memory_take_zeroed(2 * size, sizeof(Node*))
    cdef Node* node
    cdef Node* following
    cdef size_t place
    if buckets is NULL:
        return                  # the old table still works, with longer chains
    table.buckets = buckets
    table.mask = 2 * size - 1
    for index in range(size):
        node = old[index]
        while node is not NULL:
            following = node.next
            place = bucket_of(table, node.key)
            node.next = buckets[place]
            buckets[place] = node
            node = following
    memory_free(old)


cdef void table_add(Table* table, Node* node) noexcept nogil:
    cdef size_t place
    if table.count > table.mask:
        grow(table)
    place = bucket_of(table, node.key)
    node.next = table.buckets[place]
    table.buckets[place] = node
    table.count += 1


cdef void table_remove(Table* table, Node* node) noexcept nogil:
    cdef Node** at = &table.buckets[bucket_of(table, node.key)]
    while at[0] is not NULL:
        if at[0] is node:
            at[0] = node.next
            node.next = NULL
            table.count -= 1
            return
        at = &at[0].next


cdef Node* table_find(Table* table, uint64_t key) noexcept nogil:
    """The first node with `key`; others with the same key follow behind `node.next`."""
    cdef Node* node = table.buckets[bucket_of(table, key)]
    while node is not NULL and node.key != key:
        node = node.next
    return node


cdef Node* table_next(Table* table, size_t* bucket, Node* node) noexcept nogil:
    """Walks all nodes: start with bucket 0 and NULL, end at NULL. The one returned may be removed
    only after the next has been asked for.
    """
    if node is not NULL:
        node = node.next
        if node is not NULL:
            return node
        bucket[0] += 1
    while bucket[0] <= table.mask:
        if table.buckets[bucket[0]] is not NULL:
            return table.buckets[bucket[0]]
        bucket[0] += 1
    return NULL
