"""One subject: `raw_tcp`, plain Python sockets, a message at a time, written to win.

As few system calls and as few Python operations as one can get by hand: TCP_NODELAY, a header and a
payload in one call, preallocated buffers that the next message overwrites, no check that could be
left out. A library that hands out `bytes`, or serves more than one thread, has to do more.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

from benchmarks.subjects import framing
from benchmarks.subjects.base import HOST, Announce, Client, Subject, payload_of
from benchmarks.subjects.framing import HEADER, LENGTH
from benchmarks.workloads import Kind, Workload

COPIED = 16384
"""Up to so many bytes, copying the payload behind its header is faster than `sendmsg`."""


def send_message(sock: socket.socket, payload: bytes | memoryview) -> None:
    """Header and payload in one system call."""
    header = LENGTH.pack(len(payload))
    if len(payload) <= COPIED:
        sock.sendall(b"".join((header, payload)))
        return
    sent = sock.sendmsg((header, payload))
    if sent < HEADER + len(payload):
        # A signal has come in between. (The header is always gone by then.)
        sock.sendall(memoryview(payload)[sent - HEADER :])


def echo(sock: socket.socket, view: memoryview) -> None:
    """Sends every message back until the end of file, out of the buffer that it was received in."""
    recv_into, sendall, length_at = sock.recv_into, sock.sendall, LENGTH.unpack_from
    wait = socket.MSG_WAITALL
    while got := recv_into(view):
        while got < HEADER:
            got += recv_into(view[got:])
        size = HEADER + length_at(view)[0]
        if got < size:
            recv_into(view[got:size], 0, wait)
        sendall(view[:size])


class RoundTrips(Client):
    """One socket, request and reply. The first call asks for everything: small replies take one."""

    def __init__(self, port: int, payload: bytes) -> None:
        self.sock = framing.dial(port)
        self.payload = payload
        self.view = memoryview(bytearray(HEADER + len(payload)))

    def run(self, ticks: Iterable[object]) -> None:
        """Sends the payload, receives the answer."""
        sock, payload, view = self.sock, self.payload, self.view
        recv_into, length_at, wait = sock.recv_into, LENGTH.unpack_from, socket.MSG_WAITALL
        for _ in ticks:
            send_message(sock, payload)
            got = recv_into(view)
            while got < HEADER:
                more = recv_into(view[got:])
                if not more:
                    raise EOFError("the peer closed its socket")
                got += more
            size = HEADER + length_at(view)[0]
            if got < size:
                recv_into(view[got:size], 0, wait)

    def close(self) -> None:
        """Closes the socket."""
        self.sock.close()


class Fresh(Client):
    """A new socket for every round trip."""

    def __init__(self, port: int, payload: bytes) -> None:
        self.port = port
        self.payload = payload

    def run(self, ticks: Iterable[object]) -> None:
        """Connects, sends, receives, closes."""
        port, payload = self.port, self.payload
        view = memoryview(bytearray(HEADER + len(payload)))
        address = (HOST, port)
        wait, length_at = socket.MSG_WAITALL, LENGTH.unpack_from
        for _ in ticks:
            # Not `create_connection`: it asks the resolver first.
            sock = socket.socket()
            sock.connect(address)
            sock.sendall(b"".join((LENGTH.pack(len(payload)), payload)))
            got = sock.recv_into(view)
            while got < HEADER:
                got += sock.recv_into(view[got:])
            size = HEADER + length_at(view)[0]
            if got < size:
                sock.recv_into(view[got:size], 0, wait)
            sock.close()


class Sends(framing.OneWayClient):
    """One message in one system call."""

    def run(self, ticks: Iterable[object]) -> None:
        """Sends the payload."""
        sock, payload = self.sock, self.payload
        if len(payload) > COPIED:
            for _ in ticks:
                send_message(sock, payload)
            return
        sendall, pack, join = sock.sendall, LENGTH.pack, b"".join
        for _ in ticks:
            sendall(join((pack(len(payload)), payload)))


class Receives(framing.ReceivingClient):
    """One message in one system call, which takes the next one's header along."""

    def __init__(self, port: int, payload: bytes) -> None:
        super().__init__(port, payload)
        self.view = memoryview(bytearray(2 * HEADER + len(payload)))
        self.size: int | None = None
        """The next message's payload in bytes, if its header was taken along already."""

    def run(self, ticks: Iterable[object]) -> None:
        """Receives into the one buffer."""
        view, recv_into, length_at = self.view, self.sock.recv_into, LENGTH.unpack_from
        wait = socket.MSG_WAITALL
        size = self.size
        for _ in ticks:
            if size is None:
                recv_into(view, HEADER, wait)
                size = length_at(view)[0]
            # Not WAITALL: a message that is there must not wait for the next one.
            wanted = size + HEADER
            got = recv_into(view, wanted)
            while got < size:
                more = recv_into(view[got:wanted])
                if not more:
                    raise EOFError("the peer closed its socket")
                got += more
            if got == wanted:
                size = length_at(view, size)[0]
            elif got > size:
                recv_into(view[got:], wanted - got, wait)
                size = length_at(view, size)[0]
            else:
                size = None
        self.size = size


class RawTcp(Subject):
    """Plain Python sockets, a message at a time."""

    name = "raw_tcp"
    summary = (
        "Plain Python sockets, a message at a time: a 4-byte length, one system call to send, "
        "preallocated buffers to receive, TCP_NODELAY. Written to win."
    )

    def serve(self, workload: Workload, announce: Announce) -> None:
        """Echoes, or takes the other side of a one-way run."""
        listener = framing.listen(announce)
        if workload.kind.one_way:
            framing.serve_each(listener, framing.serve_one_way)
        if workload.kind is Kind.FRESH:
            # Wakes for a connection once its request is there, not before.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
        view = memoryview(bytearray(HEADER + workload.size))
        framing.serve_each(listener, lambda sock: echo(sock, view))

    def client(self, workload: Workload, port: int) -> Client:
        """The loop for the workload's kind."""
        kinds = {
            Kind.ROUND_TRIP: RoundTrips,
            Kind.FRESH: Fresh,
            Kind.SEND: Sends,
            Kind.RECEIVE: Receives,
        }
        return kinds[workload.kind](port, payload_of(workload))


SUBJECTS = [RawTcp()]
