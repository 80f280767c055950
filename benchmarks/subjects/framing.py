"""What the raw subjects share: a message is a 4-byte big-endian length and its payload.

Also the other side of their one-way workloads. It is not timed, so it is compiled where it can be
(plain Python otherwise), and is never what the timed side waits for more than it has to.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
from array import array
from collections.abc import Callable, Iterable

from benchmarks import compiled
from benchmarks.subjects.base import HOST, Announce, Client, batch_of, block_of

LENGTH = struct.Struct(">I")
HEADER = LENGTH.size
_REQUEST = struct.Struct(">BQI")
"""Before a one-way run the client says: direction, how many messages, of how many bytes."""
_SENDS, _RECEIVES = 1, 2
_READY = b"r"
_DONE = b"d"
ROOM = 1 << 20
"""Bytes that a batched reader asks the kernel for at once."""
WARM_UP = 4096
"""Messages that a receiver takes before its clock starts, so that it finds the stream under way."""


def dial(port: int) -> socket.socket:
    """A socket to this machine, without Nagle's delay."""
    sock = socket.create_connection((HOST, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def listen(announce: Announce) -> socket.socket:
    """A listening socket on a free port, announced. Sockets that it accepts inherit NODELAY."""
    listener = socket.create_server((HOST, 0), backlog=128)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    announce(listener.getsockname()[1])
    return listener


def keep_hot(sock: socket.socket, size: int = 128 * 1024) -> None:
    """Bounds what lies in the socket (bytes), so that its receiver finds it in the CPU's cache.

    Without, a sender of batches that gets ahead fills megabytes, and both sides then work on cold
    memory: up to twice the time, in some runs and not in others. The sizes are the fastest that
    were tried, where the sender is timed and where the receiver is.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """`size` bytes, or fewer at the end of file."""
    return sock.recv(size, socket.MSG_WAITALL)


def serve_each(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    """One connection after the other, for ever: there is one client."""
    while True:
        sock, _ = listener.accept()
        with sock, contextlib.suppress(ConnectionError, EOFError):
            serve(sock)


def serve_one_way(sock: socket.socket) -> None:
    """Takes or sends as many messages as the client asks for, again and again."""
    while len(request := receive_exactly(sock, _REQUEST.size)) == _REQUEST.size:
        direction, count, size = _REQUEST.unpack(request)
        if direction == _SENDS:
            take = taker(sock, size)
            sock.sendall(_READY)
            take(count)
            sock.sendall(_DONE)
        else:
            _send_all(sock, count, size)


def taker(sock: socket.socket, size: int) -> Callable[[int], object]:
    """A function that receives so many messages, with its buffers in place."""
    try:
        limit = compiled.load("_limit")
    except compiled.NotCompiled:
        in_python = BatchReader(sock, size)
        return lambda count: in_python.run(itertools.repeat(None, count))
    reader = limit.Reader(sock.fileno(), size)
    nothing = array("q")
    return lambda count: reader.take(count, nothing)


def _send_all(sock: socket.socket, count: int, size: int) -> None:
    """`count` messages of `size` bytes, so many to a system call that the receiver has no wait."""
    batch = batch_of(size)
    payload = bytes(size)
    keep_hot(sock, 512 * 1024)
    try:
        send_messages = compiled.load("_limit").send_messages
    except compiled.NotCompiled:
        block = (LENGTH.pack(size) + payload) * batch
        for _ in range(count // batch):
            sock.sendall(block)
        sock.sendall((LENGTH.pack(size) + payload) * (count % batch))
    else:
        send_messages(sock.fileno(), payload, count, array("q"), batch)


class OneWayClient(Client):
    """The timed side of a raw one-way workload, but for its loop."""

    direction = _SENDS

    def __init__(self, port: int, payload: bytes) -> None:
        self.sock = dial(port)
        self.payload = payload
        self.per_stamp = block_of(len(payload))

    def begin(self, count: int) -> None:
        """Asks the server to take, or to send, `count` messages."""
        self.sock.sendall(_REQUEST.pack(self.direction, count, len(self.payload)))
        if receive_exactly(self.sock, 1) != _READY:
            raise EOFError("the server is not ready")

    def finish(self) -> None:
        """Waits until the receiver has them all."""
        if receive_exactly(self.sock, 1) != _DONE:
            raise EOFError("the server has not received everything")

    def close(self) -> None:
        """Ends the conversation."""
        self.sock.close()


class ReceivingClient(OneWayClient):
    """The timed side is the receiver. Its messages come from a sender that is already under way."""

    direction = _RECEIVES

    def begin(self, count: int) -> None:
        """Asks the server to send `count` messages and some more, and takes those."""
        self.sock.sendall(_REQUEST.pack(self.direction, count + WARM_UP, len(self.payload)))
        self.take(WARM_UP)

    def take(self, count: int) -> None:
        """Takes `count` messages, untimed."""
        self.run(itertools.repeat(None, count))

    def finish(self) -> None:
        """The last message has been received: nothing is left to wait for."""


class BatchReader:
    """The fastest that plain Python takes messages off a stream: many from one `recv_into`.

    A message is a view of the buffer, good until the next one is asked for.
    """

    def __init__(self, sock: socket.socket, largest: int) -> None:
        self.sock = sock
        self.view = memoryview(bytearray(max(ROOM, 2 * (HEADER + largest))))
        self.position = 0
        self.end = 0

    def run(self, ticks: Iterable[object]) -> None:
        """Takes one message for each of `ticks`."""
        view, recv_into, length_at = self.view, self.sock.recv_into, LENGTH.unpack_from
        position, end = self.position, self.end
        stop = 0
        for _ in ticks:
            start = position + HEADER
            if start <= end:
                stop = start + length_at(view, position)[0]
            if start > end or stop > end:
                # Move what is left to the front, and go on until a whole message is there.
                left = end - position
                view[:left] = view[position:end]
                while left < HEADER or left < (stop := HEADER + length_at(view, 0)[0]):
                    got = recv_into(view[left:])
                    if not got:
                        raise EOFError("the peer closed its socket")
                    left += got
                start, end = HEADER, left
            message = view[start:stop]  # noqa: F841  (this is what the caller would be given)
            position = stop
        self.position, self.end = position, end
