"""Deficit round robin (Shreedhar and Varghese, 1995) within a priority, strict order between them
but for a minimum share. Policy only: it knows neither frames nor connections.
"""


cdef void schedule_add(Scheduler* scheduler, Turn* turn) noexcept nogil:
    """Puts a turn at the end of its level; one that waits already stays where it is."""
    cdef int level = turn.level
    if turn.queued:
        return
    turn.queued = True
    turn.next = NULL
    if scheduler.last[level] is NULL:
        scheduler.first[level] = turn
    else:
        scheduler.last[level].next = turn
    scheduler.last[level] = turn
    scheduler.queued += 1


cdef Turn* pop(Scheduler* scheduler, int level) noexcept nogil:
    cdef Turn* turn = scheduler.first[level]
    scheduler.first[level] = turn.next
    if turn.next is NULL:
        scheduler.last[level] = NULL
    turn.next = NULL
    turn.queued = False
    scheduler.queued -= 1
    return turn


cdef Turn* schedule_next(Scheduler* scheduler) noexcept nogil:
    """Takes out the turn to serve now, with its deficit raised. NULL: nobody waits.

    The caller lowers the deficit by what it sends, zeroes it when the record has no more to send,
    and adds the turn again if it has.
    """
    cdef int top = LEVELS - 1
    cdef int level, _
    cdef Turn* turn
    if scheduler.queued == 0:
        return NULL
    while scheduler.first[top] is NULL:
        top -= 1
    level = top
    scheduler.served += 1
    if scheduler.served % FAVOUR == 0:
        for _ in range(LEVELS):
            scheduler.favoured = (scheduler.favoured + LEVELS - 1) % LEVELS
            if scheduler.favoured < top and scheduler.first[scheduler.favoured] is not NULL:
                level = scheduler.favoured
                break
    turn = pop(scheduler, level)
    turn.deficit += QUANTUM
    return turn


cdef void schedule_remove(Scheduler* scheduler, Turn* turn) noexcept nogil:
    cdef Turn* before = NULL
    cdef Turn* at
    if not turn.queued:
        return
    at = scheduler.first[turn.level]
    while at is not turn:
        before = at
        at = at.next
    if before is NULL:
        scheduler.first[turn.level] = turn.next
    else:
        before.next = turn.next
    if turn.next is NULL:
        scheduler.last[turn.level] = before
    turn.next = NULL
    turn.queued = False
    scheduler.queued -= 1
