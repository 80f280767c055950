"""Which process this is, and which of its threads hears of signals."""

from libc.stdint cimport uint64_t

cdef int current_generation() noexcept nogil
cdef uint64_t longest_sleep() noexcept nogil
