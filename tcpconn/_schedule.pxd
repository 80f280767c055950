"""Who cuts the next chunk: priorities with a minimum share, and fairness by bytes within one."""

from libc.stdint cimport int64_t, uint32_t

cdef enum:
    LEVELS = 8                  # priorities 0 to 7, PROTOCOL.md section 5
    QUANTUM = 65536             # bytes that one turn may send: a full default chunk
    FAVOUR = 8                  # each 8th turn goes to a lower level, so that none starves


cdef struct Turn:               # a connection's place in the scheduler
    Turn* next
    void* record
    int64_t deficit             # bytes that it may still send
    int level
    bint queued


cdef struct Scheduler:
    Turn* first[LEVELS]
    Turn* last[LEVELS]
    uint32_t queued             # how many turns wait
    uint32_t served
    int favoured                # the lower level whose turn comes next


cdef void schedule_add(Scheduler* scheduler, Turn* turn) noexcept nogil
cdef Turn* schedule_next(Scheduler* scheduler) noexcept nogil
cdef void schedule_remove(Scheduler* scheduler, Turn* turn) noexcept nogil
