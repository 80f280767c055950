"""Which process this is, since a fork makes another, and which of its threads hears of signals."""

from libc.stdint cimport uint64_t

from tcpconn._sync cimport PyThread_get_thread_ident

import os
import threading


cdef enum:
    # A signal interrupts a system call, but not the way to the next one: how long the main thread,
    # where handlers run, may go without a look.
    SIGNALS_NS = 250000000

cdef int _generation = 0
cdef unsigned long _main_thread = threading.main_thread().ident


cdef int current_generation() noexcept nogil:
    return _generation


def generation():
    return _generation


cdef uint64_t longest_sleep() noexcept nogil:
    """How long this thread may wait before it looks for signals (ns); 0: it gets none."""
    return SIGNALS_NS if PyThread_get_thread_ident() == _main_thread else 0


def _forked():
    # The threads that serve links do not exist in the child; its parent goes on using the sockets.
    global _generation, _main_thread
    _generation += 1
    _main_thread = PyThread_get_thread_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
