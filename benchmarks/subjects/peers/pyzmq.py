"""One subject: `pyzmq`, ZeroMQ's PAIR sockets over TCP."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from benchmarks.subjects.base import HOST, Announce, Client, payload_of
from benchmarks.subjects.peers import conversation
from benchmarks.workloads import Kind, Workload

UNCOPIED = 65536
"""From so many bytes on messages are handed over without a copy (`zmq.COPY_THRESHOLD`)."""
HIGH_WATER = 16384
"""Messages that one side may be ahead of the other, where they go one way."""


def calls(sock: Any, size: int) -> tuple[Callable[[Any], Any], Callable[[], Any]]:
    """The socket's `send` and `recv` as its guide advises for messages of `size` bytes."""
    if size < UNCOPIED:
        return sock.send, sock.recv
    return partial(sock.send, copy=False), partial(sock.recv, copy=False)


class Fresh(Client):
    """A new REQ socket for every round trip; the context is kept, as the guide says."""

    def __init__(self, port: int, payload: bytes) -> None:
        import zmq

        self.context = zmq.Context()
        self.endpoint = f"tcp://{HOST}:{port}"
        self.payload = payload

    def run(self, ticks: Iterable[object]) -> None:
        """Connects, sends, receives, closes."""
        import zmq

        new, request, endpoint, payload = (
            self.context.socket,
            zmq.REQ,
            self.endpoint,
            self.payload,
        )
        for _ in ticks:
            sock = new(request)
            sock.connect(endpoint)
            sock.send(payload)
            sock.recv()
            sock.close(0)

    def close(self) -> None:
        """Ends its threads."""
        self.context.destroy(0)


class Pyzmq(conversation.Peer):
    """PAIR on both sides; REQ and REP where connections come and go."""

    name = "pyzmq"
    summary = (
        "ZeroMQ: PAIR sockets (REQ and REP for new connections), zero-copy from 64 KiB on, 16,384 "
        "messages of queue one way."
    )
    needs = ("zmq",)

    def serve(self, workload: Workload, announce: Announce) -> None:
        """Echoes, or takes the other side of a one-way run."""
        import zmq

        sock = zmq.Context().socket(zmq.REP if workload.kind is Kind.FRESH else zmq.PAIR)
        sock.set_hwm(HIGH_WATER)
        announce(sock.bind_to_random_port(f"tcp://{HOST}"))
        send, receive = calls(sock, workload.size)
        (conversation.serve_one_way if workload.kind.one_way else conversation.echo)(send, receive)

    def client(self, workload: Workload, port: int) -> Client:
        """The loop for the workload's kind."""
        import zmq

        payload = payload_of(workload)
        if workload.kind is Kind.FRESH:
            return Fresh(port, payload)
        sock = zmq.Context().socket(zmq.PAIR)
        sock.set_hwm(HIGH_WATER)
        sock.linger = 0
        sock.connect(f"tcp://{HOST}:{port}")
        kinds = {
            Kind.ROUND_TRIP: conversation.RoundTrips,
            Kind.SEND: conversation.Sends,
            Kind.RECEIVE: conversation.Receives,
        }
        return kinds[workload.kind](payload, *calls(sock, workload.size))


SUBJECTS = [Pyzmq()]
