"""One subject: `mp_connection`, the standard library's `multiprocessing.connection` over TCP."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from multiprocessing import connection as mp

from benchmarks.subjects.base import HOST, Announce, Client, payload_of
from benchmarks.subjects.peers import conversation
from benchmarks.workloads import Kind, Workload

BACKLOG = 128
"""As the other servers have it."""


def without_delay(connection: mp.Connection) -> mp.Connection:
    """Sets TCP_NODELAY: from 16 KiB on, a message goes out as two writes."""
    with socket.socket(fileno=os.dup(connection.fileno())) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class Fresh(Client):
    """A new connection for every round trip."""

    def __init__(self, port: int, payload: bytes) -> None:
        self.address = (HOST, port)
        self.payload = payload

    def run(self, ticks: Iterable[object]) -> None:
        """Connects, sends, receives, closes."""
        address, payload = self.address, self.payload
        for _ in ticks:
            connection = mp.Client(address)
            connection.send_bytes(payload)
            connection.recv_bytes()
            connection.close()


class MpConnection(conversation.Peer):
    """`send_bytes` and `recv_bytes`: nothing is pickled."""

    name = "mp_connection"
    summary = (
        "`multiprocessing.connection` over TCP: `send_bytes` and `recv_bytes`, without pickling or "
        "a key, TCP_NODELAY."
    )

    def serve(self, workload: Workload, announce: Announce) -> None:
        """One connection after the other."""
        serve = conversation.serve_one_way if workload.kind.one_way else conversation.echo
        with mp.Listener((HOST, 0), backlog=BACKLOG) as listener:
            announce(listener.address[1])
            while True:
                with contextlib.suppress(EOFError, OSError), listener.accept() as connection:
                    without_delay(connection)
                    serve(connection.send_bytes, connection.recv_bytes)

    def client(self, workload: Workload, port: int) -> Client:
        """The loop for the workload's kind."""
        payload = payload_of(workload)
        if workload.kind is Kind.FRESH:
            return Fresh(port, payload)
        connection = without_delay(mp.Client((HOST, port)))
        kinds = {
            Kind.ROUND_TRIP: conversation.RoundTrips,
            Kind.SEND: conversation.Sends,
            Kind.RECEIVE: conversation.Receives,
        }
        return kinds[workload.kind](payload, connection.send_bytes, connection.recv_bytes)


SUBJECTS = [MpConnection()]
