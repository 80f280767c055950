"""Python objects become messages to be sent: referenced where that is safe and worth it, or copied.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy
from tcpconn._memory cimport memory_free
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
    cdef Outgoing* message = outgoing_new(<uint32_t> len(buffers))
    if message is NULL:
        raise MemoryError
    try:
        for buffer in buffers:
            if PyBytes_CheckExact(buffer) and PyBytes_GET_SIZE(buffer) >= REFERENCE_FROM:
                refer(message, buffer)
            else:
                copy(message, buffer)
    except BaseException:
        unhold(message)
        raise
    return message


cdef Part* add_part(Outgoing* message, void* object, size_t size) except NULL:
    """One more part of `size` bytes: of a Python object, or of memory behind the part's record."""
    cdef Held* held = held_new(object, 0 if object is not NULL else size)
    cdef Part* part = &message.parts[message.count]
    if held is NULL:
        raise MemoryError
    part.held = held
    part.length = size
    message.total += size
    message.count += 1
    return part


cdef int refer(Outgoing* message, object data) except -1:
    cdef Part* part = add_part(
        message, <void*> <PyObject*> data, <size_t> PyBytes_GET_SIZE(data)
    )
    Py_INCREF(data)
    part.data = <const uint8_t*> PyBytes_AS_STRING(data)
    return 0


cdef int copy(Outgoing* message, object buffer) except -1:
    cdef Py_buffer view
    cdef Part* part
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        part = add_part(message, NULL, <size_t> view.len)
        part.data = held_payload(part.held)
        if part.length >= REFERENCE_FROM:
            with nogil:
                memcpy(held_payload(part.held), view.buf, <size_t> part.length)
        else:
            memcpy(held_payload(part.held), view.buf, <size_t> part.length)
    finally:
        PyBuffer_Release(&view)
    return 0


cdef void unhold(Outgoing* message) noexcept:
    """Frees what `hold` made and nobody took."""
    cdef Held* held
    while message.count > 0:
        message.count -= 1
        held = message.parts[message.count].held
        if held.object is not NULL:
            Py_DECREF(<object> <PyObject*> held.object)
        memory_free(held)
    memory_free(message)
