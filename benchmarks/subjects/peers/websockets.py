"""One subject: `websockets`, the library of that name, its threaded side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from benchmarks.subjects.base import HOST, Announce, Client, payload_of
from benchmarks.subjects.peers import conversation
from benchmarks.workloads import Kind, Workload

OPTIONS: dict[str, Any] = {
    "compression": None,
    "max_size": None,
    "ping_interval": None,
    "max_queue": 1024,
}


class Fresh(Client):
    """A new connection for every round trip."""

    def __init__(self, port: int, payload: bytes) -> None:
        self.url = f"ws://{HOST}:{port}/"
        self.payload = payload

    def run(self, ticks: Iterable[object]) -> None:
        """Connects, sends, receives, closes."""
        from websockets.sync.client import connect

        url, payload = self.url, self.payload
        for _ in ticks:
            with connect(url, **OPTIONS) as connection:
                connection.send(payload)
                connection.recv()


class Websockets(conversation.Peer):
    """Its threaded implementation."""

    name = "websockets"
    summary = (
        "WebSockets with the library of that name, threads, its C extension, no compression, no "
        "pings, 1024 messages of queue."
    )
    needs = ("websockets",)

    def serve(self, workload: Workload, announce: Announce) -> None:
        """Echoes, or takes the other side of a one-way run."""
        from websockets.exceptions import ConnectionClosed
        from websockets.sync.server import serve

        run = conversation.serve_one_way if workload.kind.one_way else conversation.echo

        def handle(connection: Any) -> None:
            with contextlib.suppress(ConnectionClosed):
                run(connection.send, connection.recv)

        with serve(handle, HOST, 0, **OPTIONS) as server:
            announce(server.socket.getsockname()[1])
            server.serve_forever()

    def client(self, workload: Workload, port: int) -> Client:
        """The loop for the workload's kind."""
        from websockets.sync.client import connect

        payload = payload_of(workload)
        if workload.kind is Kind.FRESH:
            return Fresh(port, payload)
        connection = connect(f"ws://{HOST}:{port}/", **OPTIONS)
        kinds = {
            Kind.ROUND_TRIP: conversation.RoundTrips,
            Kind.SEND: conversation.Sends,
            Kind.RECEIVE: conversation.Receives,
        }
        return kinds[workload.kind](payload, connection.send, connection.recv)


SUBJECTS = [Websockets()]
