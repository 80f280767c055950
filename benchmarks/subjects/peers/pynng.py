"""One subject: `pynng`, nanomsg next generation's pair sockets over TCP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.subjects.base import HOST, Announce, Client, payload_of
from benchmarks.subjects.peers import conversation
from benchmarks.workloads import Kind, Workload

AHEAD = 512
"""Messages of queue on either side, where they go one way. More made it slower."""
UNCOPIED = 65536
"""From so many bytes on messages stay nng's: they are not copied into `bytes`."""


class Fresh(Client):
    """A new socket for every round trip."""

    def __init__(self, port: int, payload: bytes) -> None:
        self.address = f"tcp://{HOST}:{port}"
        self.payload = payload

    def run(self, ticks: Iterable[object]) -> None:
        """Connects, sends, receives, closes."""
        import pynng

        new, address, payload = pynng.Req0, self.address, self.payload
        for _ in ticks:
            sock = new()
            sock.dial(address, block=True)
            sock.send(payload)
            sock.recv()
            sock.close()


class Pynng(conversation.Peer):
    """Pair sockets; request and reply where connections come and go."""

    name = "pynng"
    summary = (
        "nng: pair sockets (request and reply for new connections), 4,096 messages of queue one "
        "way, TCP_NODELAY as it comes."
    )
    needs = ("pynng",)

    def serve(self, workload: Workload, announce: Announce) -> None:
        """Echoes, or takes the other side of a one-way run."""
        import pynng

        kind = pynng.Rep0 if workload.kind is Kind.FRESH else pynng.Pair0
        with kind(**self.options(workload)) as sock:
            listener = sock.listen(f"tcp://{HOST}:0")
            announce(int(str(listener.local_address).rpartition(":")[2]))
            if workload.kind.one_way:
                conversation.serve_one_way(sock.send, sock.recv)
            elif workload.size < UNCOPIED:
                conversation.echo(sock.send, sock.recv)
            else:
                conversation.echo(sock.send_msg, sock.recv_msg)

    def options(self, workload: Workload) -> dict[str, Any]:
        """Of both sides' sockets."""
        ahead = AHEAD if workload.kind.one_way else 1
        found = {"recv_max_size": 0}
        if workload.kind is not Kind.FRESH:
            found |= {"send_buffer_size": ahead, "recv_buffer_size": ahead}
        return found

    def client(self, workload: Workload, port: int) -> Client:
        """The loop for the workload's kind."""
        import pynng

        payload = payload_of(workload)
        if workload.kind is Kind.FRESH:
            return Fresh(port, payload)
        sock = pynng.Pair0(**self.options(workload))
        sock.dial(f"tcp://{HOST}:{port}", block=True)
        kinds = {
            Kind.ROUND_TRIP: conversation.RoundTrips,
            Kind.SEND: conversation.Sends,
            Kind.RECEIVE: conversation.Receives,
        }
        receive = sock.recv if workload.size < UNCOPIED else sock.recv_msg
        return kinds[workload.kind](payload, sock.send, receive)


SUBJECTS = [Pynng()]
