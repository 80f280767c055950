"""A rate that is kept to: so many at once, and so many a second in the long run.

It is the token bucket in the form that needs no clock of its own (the generic cell rate algorithm):
all there is to remember is when the bucket will be full again.
"""

from libc.stdint cimport uint32_t, uint64_t


cdef struct Rate:
    uint64_t interval           # ns after which there is one more
    uint64_t burst              # ns that fill the bucket
    uint64_t full_at            # ns


cdef inline void rate_set(Rate* rate, double per_second, uint32_t burst) noexcept nogil:
    rate.interval = <uint64_t> max(1e9 / per_second, 1.0)
    rate.burst = rate.interval * burst


cdef inline uint64_t rate_ready(const Rate* rate) noexcept nogil:
    """When one may be taken, ns."""
    cdef uint64_t needed = rate.full_at + rate.interval
    return needed - rate.burst if needed > rate.burst else 0


cdef inline bint rate_take(Rate* rate, uint64_t now) noexcept nogil:
    """Takes one, if it may be taken now."""
    if rate_ready(rate) > now:
        return False
    rate.full_at = max(rate.full_at, now) + rate.interval
    return True
