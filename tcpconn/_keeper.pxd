"""The process's threads: the keeper and the flusher."""

from libc.stdint cimport uint64_t

from tcpconn._engine cimport Engine, Service
from tcpconn._link cimport Poller
from tcpconn._sync cimport PyThread_type_lock, tc_mutex


cdef class Keeper(Service):
    cdef Poller poller
    cdef readonly object threads
    # Guarded by `mutex`, the last in the lock order:
    cdef tc_mutex mutex
    cdef void* look_first       # engines to be visited soon
    cdef void* flush_first      # engines whose streams are looked after, in turn
    cdef void* flush_last
    cdef size_t flush_count
    cdef void* flushing         # the one that the flusher works on
    cdef bint flusher_sleeps
    cdef bint flusher_naps      # it looks less often: a stream that begins has to tell it
    cdef PyThread_type_lock flusher_parker
    cdef size_t registered      # engines that are to be kept
    cdef bint started           # it has threads
    cdef bint stopping
    # The keeper's own:
    cdef void** engines
    cdef size_t count
    cdef size_t capacity
    cdef void* dropped_first    # through drop_next
    cdef uint64_t next_at       # no visit is due before
    cdef uint64_t walk_at       # nor is it looked for what is due before

    cdef void take_looks(self, uint64_t now) noexcept nogil
    cdef void visit(self, void* key, int events, uint64_t now) noexcept nogil
    cdef void visit_due(self, uint64_t now) noexcept nogil
    cdef bint forget(self, void* key) noexcept nogil
    cdef bint let_go(self)
    cdef void loop(self) noexcept nogil
    cdef void flush_loop(self) noexcept nogil
    cdef bint flush_one(self) noexcept nogil
    cdef void flush_list(self, void* key) noexcept nogil
