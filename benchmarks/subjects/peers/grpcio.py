"""One subject: `grpcio`, gRPC without protobuf: the messages are bytes.

What goes back and forth uses one stream, what goes one way a stream in that direction: a call for
each message would cost twice as much. New connections are calls: a channel is to be kept.
"""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import Any

from benchmarks.subjects.base import HOST, Announce, Client, block_of, payload_of
from benchmarks.subjects.framing import WARM_UP
from benchmarks.subjects.peers.conversation import REQUEST, Peer
from benchmarks.workloads import Kind, Workload

SERVICE = "benchmark"
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
"""Both sides': no limit, else 4 MiB."""
WORKERS = 4


def reply(request: bytes, _context: Any) -> bytes:
    """One message there and back."""
    return request


def echo(requests: Iterator[bytes], _context: Any) -> Iterator[bytes]:
    """Sends every message back."""
    yield from requests


def take(requests: Iterator[bytes], _context: Any) -> bytes:
    """Takes all messages, and says how many there were."""
    return str(sum(1 for _ in requests)).encode()


def give(request: bytes, _context: Any) -> Iterator[bytes]:
    """Sends as many messages as asked for."""
    _, count, size = REQUEST.unpack(request)
    payload = bytes(size)
    for _ in range(count):
        yield payload


class GrpcClient(Client):
    """A channel to the server."""

    def __init__(self, port: int, payload: bytes) -> None:
        import grpc

        self.payload = payload
        self.channel = grpc.insecure_channel(f"{HOST}:{port}", options=OPTIONS)
        grpc.channel_ready_future(self.channel).result()

    def close(self) -> None:
        """Closes the channel."""
        self.channel.close()


class RoundTrips(GrpcClient):
    """A stream in both directions; gRPC takes what to send from an iterator."""

    def __init__(self, port: int, payload: bytes) -> None:
        super().__init__(port, payload)
        self.requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        stream = self.channel.stream_stream(f"/{SERVICE}/echo")
        self.answers = stream(iter(self.requests.get, None))

    def run(self, ticks: Iterable[object]) -> None:
        """Sends the payload, receives the answer."""
        payload, send, answers = self.payload, self.requests.put, self.answers
        for _ in ticks:
            send(payload)
            next(answers)

    def close(self) -> None:
        """Ends the stream."""
        self.requests.put(None)
        super().close()


class Fresh(GrpcClient):
    """A call for every round trip, on the one channel."""

    def run(self, ticks: Iterable[object]) -> None:
        """Calls."""
        payload, call = self.payload, self.channel.unary_unary(f"/{SERVICE}/reply")
        for _ in ticks:
            call(payload)


class Sends(GrpcClient):
    """A stream to the server, which answers when it has all."""

    def __init__(self, port: int, payload: bytes) -> None:
        super().__init__(port, payload)
        self.per_stamp = block_of(len(payload))
        self.stream = self.channel.stream_unary(f"/{SERVICE}/take")

    def run(self, ticks: Iterable[object]) -> None:
        """Has the payload sent; returns with the answer."""
        payload = self.payload
        self.stream(payload for _ in ticks)


class Receives(GrpcClient):
    """A stream from the server."""

    def __init__(self, port: int, payload: bytes) -> None:
        super().__init__(port, payload)
        self.per_stamp = block_of(len(payload))
        self.messages: Iterator[bytes] = iter(())

    def begin(self, count: int) -> None:
        """Asks the server to send `count` messages and some more, and takes those."""
        request = REQUEST.pack(0, count + WARM_UP, len(self.payload))
        self.messages = self.channel.unary_stream(f"/{SERVICE}/give")(request)
        self.run(range(WARM_UP))

    def run(self, ticks: Iterable[object]) -> None:
        """Receives a message."""
        messages = self.messages
        for _ in ticks:
            next(messages)


class Grpcio(Peer):
    """Streams of bytes on one channel, threads on both sides."""

    name = "grpcio"
    summary = (
        "gRPC, bytes without protobuf: one stream for what goes back and forth or one way, a call "
        "on the same channel where connections are new. Its threads: asyncio was slower."
    )
    needs = ("grpc",)

    def serve(self, _workload: Workload, announce: Announce) -> None:
        """All that a client can ask for."""
        import grpc

        handlers = {
            "reply": grpc.unary_unary_rpc_method_handler(reply),
            "echo": grpc.stream_stream_rpc_method_handler(echo),
            "take": grpc.stream_unary_rpc_method_handler(take),
            "give": grpc.unary_stream_rpc_method_handler(give),
        }
        server = grpc.server(futures.ThreadPoolExecutor(WORKERS), options=OPTIONS)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        port = server.add_insecure_port(f"{HOST}:0")
        server.start()
        announce(port)
        server.wait_for_termination()

    def client(self, workload: Workload, port: int) -> Client:
        """The loop for the workload's kind."""
        kinds = {
            Kind.ROUND_TRIP: RoundTrips,
            Kind.FRESH: Fresh,
            Kind.SEND: Sends,
            Kind.RECEIVE: Receives,
        }
        return kinds[workload.kind](port, payload_of(workload))


SUBJECTS = [Grpcio()]
