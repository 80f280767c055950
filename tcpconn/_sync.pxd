"""The platform's mutex, atomic counters and monotonic clock (ns), from _sync.h; spans of memory."""

from libc.stdint cimport int32_t, uint8_t, uint64_t

cdef enum:
    SECOND_NS = 1000000000


cdef struct Span:               # memory to read into or write from; laid out like POSIX's iovec
    const uint8_t* data
    size_t length


cdef extern from "_sync.h" nogil:
    ctypedef struct tc_mutex:
        pass
    void tc_mutex_init(tc_mutex* mutex)
    void tc_mutex_destroy(tc_mutex* mutex)
    void tc_mutex_lock(tc_mutex* mutex)
    void tc_mutex_unlock(tc_mutex* mutex)
    int32_t tc_atomic_add(int32_t* counter, int32_t change)  # returns the new value
    int32_t tc_atomic_get(int32_t* counter)
    uint64_t tc_now()
    void tc_poke(int descriptor)
    void tc_take_pokes(int descriptor)


# CPython's thread locks, on which waiting threads are parked. None of these calls needs the GIL.
cdef extern from "pythread.h" nogil:
    ctypedef void* PyThread_type_lock
    ctypedef enum PyLockStatus:
        PY_LOCK_FAILURE
        PY_LOCK_ACQUIRED
        PY_LOCK_INTR            # a signal came
    PyThread_type_lock PyThread_allocate_lock()
    unsigned long PyThread_get_thread_ident()
    void PyThread_free_lock(PyThread_type_lock lock)
    int PyThread_acquire_lock(PyThread_type_lock lock, int wait)
    PyLockStatus PyThread_acquire_lock_timed(
        PyThread_type_lock lock, long long microseconds, int interruptible
    )
    void PyThread_release_lock(PyThread_type_lock lock)
