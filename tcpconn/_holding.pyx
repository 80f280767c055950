"""Python objects become messages to be sent: referenced where that is safe and worth it, or copied.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_CheckExact
from cpython.mem cimport PyMem_RawFree
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy
from tcpconn._send cimport outgoing_new
from tcpconn._sendqueue cimport Held, held_new, held_payload
from tcpconn._state cimport *
from tcpconn._wire cimport *

cdef enum:
    REFERENCE_FROM = 65536      # bytes objects from this size on are referenced, not copied


cdef Outgoing* hold(tuple buffers) except NULL:
    """A message made of buffers, for the scheduler. `bytes` of some size are referenced; what is
    smaller, or may change, is copied. Without the lock: a buffer may run any code.
    """
    cdef Py_buffer view
    cdef Part* part
    cdef Held* held
    cdef size_t size
    cdef bint referenced
    cdef Outgoing* message = outgoing_new(<uint32_t> len(buffers))
    if message is NULL:
        raise MemoryError
    try:
        for buffer in buffers:
            PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
            try:
                size = <size_t> view.len
                referenced = PyBytes_CheckExact(buffer) and size >= REFERENCE_FROM
                held = held_new(
                    <void*> <PyObject*> buffer if referenced else NULL, 0 if referenced else size
                )
                if held is NULL:
                    raise MemoryError
                part = &message.parts[message.count]
                part.held = held
                part.length = size
                if referenced:
                    Py_INCREF(buffer)
                    part.data = <const uint8_t*> view.buf
                else:
                    part.data = held_payload(held)
                    if size >= REFERENCE_FROM:
                        with nogil:
                            memcpy(held_payload(held), view.buf, size)
                    else:
                        memcpy(held_payload(held), view.buf, size)
                message.total += size
                message.count += 1
            finally:
                PyBuffer_Release(&view)
    except BaseException:
        unhold(message)
        raise
    return message


cdef void unhold(Outgoing* message) noexcept:
    """Frees what `hold` made and nobody took."""
    cdef Held* held
    while message.count > 0:
        message.count -= 1
        held = message.parts[message.count].held
        if held.object is not NULL:
            Py_DECREF(<object> <PyObject*> held.object)
        PyMem_RawFree(held)
    PyMem_RawFree(message)
