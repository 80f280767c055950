"""What a lost session had still to send, as messages: for who sent them, to decide what is to be
done.

The send queue has frames. A message of one frame is in it whole; of one that was cut, its last
chunk has kept the record; and one that was not cut to its end is still in its connection's list.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from tcpconn._frame cimport Header, load_header
from tcpconn._memory cimport memory_free
from tcpconn._sendqueue cimport (
    Held,
    Outgoing,
    Piece,
    SendQueue,
    outgoing_free,
    queue_destroy,
    sequence_at,
)
from tcpconn._wire cimport *

import threading


cdef class Leftover:
    """Made before a session is lost, then filled. Whoever asks meanwhile waits."""

    def __cinit__(self, str reason):
        self.reason = reason
        self.filled = threading.Lock()
        self.filled.acquire()
        self.messages = {}

    cdef object fill(self):
        """Makes the messages, and frees what they were made of."""
        cdef Held* held
        cdef size_t index
        cdef Outgoing* message
        try:
            self.walk()
        finally:
            for index in range(self.lost.count):
                while self.lost.cuts[index].first is not NULL:
                    message = self.lost.cuts[index].first
                    self.lost.cuts[index].first = message.next
                    outgoing_free(&self.lost.queue, message)
            memory_free(self.lost.cuts)
            self.lost.cuts = NULL
            self.lost.count = 0
            queue_destroy(&self.lost.queue)
            while self.lost.queue.released is not NULL:
                held = self.lost.queue.released
                self.lost.queue.released = held.next
                Py_DECREF(<object> <PyObject*> held.object)
                memory_free(held)
            self.filled.release()

    cdef object walk(self):
        cdef SendQueue* queue = &self.lost.queue
        cdef Piece* piece = queue.first
        cdef Piece* behind
        cdef Header header
        cdef size_t at, index
        cdef uint64_t sequence
        cdef Outgoing* message
        started = {}            # by route: whether the message under way may have begun to arrive
        while piece is not NULL:
            behind = piece.next
            at = 0
            while at < piece.length:
                load_header(piece.data + at, &header)
                sequence = sequence_at(piece, piece.data + at)
                behind = piece.next
                if at + HEADER_SIZE + header.length > piece.length:
                    while behind is not NULL and behind.held is not NULL:
                        behind = behind.next
                if header.type == DATA and sequence >= queue.acked:
                    if header.flags & FIRST:
                        started[header.route] = sequence < self.lost.begun
                    else:
                        # The chunks before, if they are gone, were acknowledged.
                        started.setdefault(header.route, True)
                    if header.flags & LAST:
                        if header.flags & FIRST:
                            data = payload_at(piece, at, header.length)
                        else:
                            data = joined(message_behind(piece, behind))
                        self.add(header.route, started.pop(header.route), data)
                at += HEADER_SIZE + header.length
            piece = behind
        for index in range(self.lost.count):
            message = self.lost.cuts[index].first
            route = self.lost.cuts[index].route
            while message is not NULL:
                begun = started.pop(route, True) if message.done > 0 else False
                self.add(route, begun, joined(message))
                message = message.next

    def add(self, route, begun, data):
        self.messages.setdefault(route, ([], []))[0 if begun else 1].append(data)

    def take(self, uint32_t route):
        """The messages of one route, once: those in doubt, and those not sent, in order."""
        with self.filled:
            return self.messages.pop(route, ([], []))


cdef object payload_at(const Piece* piece, size_t at, size_t length):
    """The payload of a frame whose header is at this place; it may go on in the pieces behind."""
    cdef object data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> length)
    cdef char* to = PyBytes_AS_STRING(data)
    cdef size_t start = at + HEADER_SIZE
    cdef size_t step = min(length, piece.length - start)
    memcpy(to, piece.data + start, step)
    while step < length:
        piece = piece.next
        memcpy(to + step, piece.data, piece.length)
        step += piece.length
    return data


cdef const Outgoing* message_behind(const Piece* piece, const Piece* behind) noexcept:
    """The record that the last piece of a frame has kept; the frame ends before `behind`."""
    while piece.next is not behind:
        piece = piece.next
    return piece.message


cdef object joined(const Outgoing* message):
    cdef uint32_t index
    cdef const uint8_t* data
    if message.count == 1 and message.parts[0].held.object is not NULL:
        whole = <object> <PyObject*> message.parts[0].held.object
        if PyBytes_CheckExact(whole):
            return whole
    parts = []
    for index in range(message.count):
        data = message.parts[index].data
        parts.append((<const char*> data)[:message.parts[index].length])
    return b"".join(parts)
