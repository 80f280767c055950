"""One subject: `picows_uvloop`, WebSockets with picows' callbacks on uvloop.

Callbacks and `transport.send` are the library's fast path: there is nothing to await for a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.subjects.base import HOST, Announce, Client, block_of, payload_of
from benchmarks.subjects.framing import WARM_UP
from benchmarks.subjects.peers.conversation import DONE, READY, RECEIVES, REQUEST, SENDS, Peer
from benchmarks.workloads import Kind, Workload

LARGEST = 1 << 30
"""Bytes of a frame that is taken: no limit of ours."""
_END = object()


def listener_class() -> Any:
    """The base of all listeners here, which can wait until it may write again."""
    from picows import WSListener

    class Paced(WSListener):
        transport: Any
        may_write: asyncio.Event

        def on_ws_connected(self, transport: Any) -> None:
            self.transport = transport
            self.may_write = asyncio.Event()
            self.may_write.set()

        def pause_writing(self) -> None:
            self.may_write.clear()

        def resume_writing(self) -> None:
            self.may_write.set()

    return Paced


def buffer_of(size: int) -> int:
    """What a receiver's buffer is to hold at first, in bytes."""
    return max(65536, 2 * size)


async def connect(listener: Any, port: int, size: int) -> Any:
    """The listener, connected."""
    from picows import ws_connect

    _, connected = await ws_connect(
        lambda: listener,
        f"ws://{HOST}:{port}/",
        max_frame_size=LARGEST,
        read_buffer_init_size=buffer_of(size),
    )
    return connected


async def send_all(listener: Any, payload: bytes, ticks: Iterable[object]) -> None:
    """Sends the payload for each tick, and waits when the transport has too much."""
    from picows import WSMsgType

    send, binary, may_write = listener.transport.send, WSMsgType.BINARY, listener.may_write
    for _ in ticks:
        send(binary, payload)
        if not may_write.is_set():
            await may_write.wait()


class PicowsClient(Client):
    """One connection. What is done with a frame is `on_frame`, which a run sets."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: int, payload: bytes) -> None:
        from picows import WSMsgType

        self.loop = loop
        self.payload = payload
        self.binary = WSMsgType.BINARY
        self.done: asyncio.Future[Any] = loop.create_future()
        self.ticks: Iterator[object] = iter(())
        client = self

        class Listener(listener_class()):  # type: ignore[misc]
            def on_ws_frame(self, transport: Any, frame: Any) -> None:
                client.on_frame(transport, frame)

        self.listener = loop.run_until_complete(connect(Listener(), port, len(payload)))

    def on_frame(self, _transport: Any, frame: Any) -> None:
        """Takes a message of the conversation around the run."""
        self.done.set_result(frame.get_payload_as_bytes())

    def wait(self) -> Any:
        """Until `done` has a result."""
        result = self.loop.run_until_complete(self.done)
        self.done = self.loop.create_future()
        return result

    def ask(self, direction: int, count: int) -> None:
        """Tells the server what is to come."""
        request = REQUEST.pack(direction, count, len(self.payload))
        self.listener.transport.send(self.binary, request)

    def close(self) -> None:
        """Closes the connection."""
        self.listener.transport.disconnect()
        self.loop.run_until_complete(self.listener.transport.wait_disconnected())


class RoundTrips(PicowsClient):
    """The answer to a message makes the next one go."""

    def on_frame(self, transport: Any, frame: Any) -> None:
        """Receives the answer, sends the payload."""
        frame.get_payload_as_memoryview()
        if next(self.ticks, _END) is _END:
            self.done.set_result(None)
        else:
            transport.send(self.binary, self.payload)

    def run(self, ticks: Iterable[object]) -> None:
        """Sends the first message; the others follow."""
        self.ticks = iter(ticks)
        next(self.ticks)
        self.listener.transport.send(self.binary, self.payload)
        self.wait()


class Sends(PicowsClient):
    """A plain loop of `transport.send`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: int, payload: bytes) -> None:
        super().__init__(loop, port, payload)
        self.per_stamp = block_of(len(payload))

    def begin(self, count: int) -> None:
        """Asks the server to take `count` messages."""
        self.ask(SENDS, count)
        self.expect(READY)

    def run(self, ticks: Iterable[object]) -> None:
        """Sends the payload."""
        self.loop.run_until_complete(send_all(self.listener, self.payload, ticks))

    def finish(self) -> None:
        """Waits until the receiver has them all."""
        self.expect(DONE)

    def expect(self, word: bytes) -> None:
        """The next message is `word`."""
        if self.wait() != word:
            raise EOFError(f"the server did not answer {word!r}")


class Receives(PicowsClient):
    """A callback for each message, on a stream that is under way."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: int, payload: bytes) -> None:
        super().__init__(loop, port, payload)
        self.per_stamp = block_of(len(payload))
        self.warming_up = 0
        """Messages to come before the next run begins: nothing stops them between two runs."""
        self.early = 0
        """Messages that came when a run was over already; the next one begins with them."""

    def begin(self, count: int) -> None:
        """Asks the server to send `count` messages and some more."""
        self.warming_up = WARM_UP
        self.ask(RECEIVES, count + WARM_UP)

    def on_frame(self, _transport: Any, frame: Any) -> None:
        """Receives a message. A tick is taken where the wait for a message begins."""
        frame.get_payload_as_memoryview()
        if self.warming_up > 1:
            self.warming_up -= 1
        elif self.done.done():
            self.early += 1
        else:
            self.warming_up = 0
            if next(self.ticks, _END) is _END:
                self.done.set_result(None)

    def run(self, ticks: Iterable[object]) -> None:
        """Receives a message for each tick."""
        self.ticks = iter(ticks)
        if not self.warming_up:
            next(self.ticks)
            for _ in range(self.early):
                next(self.ticks)
            self.early = 0
        self.wait()


class Fresh(Client):
    """A new connection for every round trip."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: int, payload: bytes) -> None:
        self.loop = loop
        self.port = port
        self.payload = payload

    def run(self, ticks: Iterable[object]) -> None:
        """All of it within one run of the event loop."""
        self.loop.run_until_complete(self.go(ticks))

    async def go(self, ticks: Iterable[object]) -> None:
        """Connects, sends, receives, closes."""
        from picows import WSListener, WSMsgType, ws_connect

        payload, url, binary = self.payload, f"ws://{HOST}:{self.port}/", WSMsgType.BINARY

        class Once(WSListener):
            def on_ws_connected(self, transport: Any) -> None:
                transport.send(binary, payload)

            def on_ws_frame(self, transport: Any, frame: Any) -> None:
                frame.get_payload_as_memoryview()
                transport.disconnect()

        for _ in ticks:
            transport, _listener = await ws_connect(Once, url)
            await transport.wait_disconnected()


class PicowsUvloop(Peer):
    """picows on uvloop, with aiofastnet where that is installed (picows then uses it itself)."""

    name = "picows_uvloop"
    summary = (
        "WebSockets with picows' callbacks on uvloop: `transport.send`, payloads as memoryviews, "
        "no compression, no pings."
    )
    needs = ("picows", "uvloop")

    def serve(self, workload: Workload, announce: Announce) -> None:
        """Echoes, or takes the other side of a one-way run."""
        import uvloop
        from picows import WSMsgType, ws_create_server

        binary = WSMsgType.BINARY

        class Echo(listener_class()):  # type: ignore[misc]
            def on_ws_frame(self, transport: Any, frame: Any) -> None:
                if frame.msg_type == binary:
                    transport.send(binary, frame.get_payload_as_memoryview())
                else:
                    transport.disconnect()

        class OneWay(listener_class()):  # type: ignore[misc]
            expected = 0

            def on_ws_frame(self, transport: Any, frame: Any) -> None:
                if self.expected:
                    frame.get_payload_as_memoryview()
                    self.expected -= 1
                    if not self.expected:
                        transport.send(binary, DONE)
                    return
                if frame.msg_type != binary:
                    transport.disconnect()
                    return
                direction, count, size = REQUEST.unpack(frame.get_payload_as_bytes())
                if direction == SENDS:
                    self.expected = count
                    transport.send(binary, READY)
                else:
                    sending = send_all(self, bytes(size), range(count))
                    self.task = asyncio.get_running_loop().create_task(sending)

        async def listen() -> None:
            kind = OneWay if workload.kind.one_way else Echo
            server = await ws_create_server(
                lambda _request: kind(),
                HOST,
                0,
                max_frame_size=LARGEST,
                read_buffer_init_size=buffer_of(workload.size),
            )
            announce(server.sockets[0].getsockname()[1])
            await server.serve_forever()

        uvloop.new_event_loop().run_until_complete(listen())

    def client(self, workload: Workload, port: int) -> Client:
        """The loop for the workload's kind."""
        import uvloop

        kinds = {
            Kind.ROUND_TRIP: RoundTrips,
            Kind.FRESH: Fresh,
            Kind.SEND: Sends,
            Kind.RECEIVE: Receives,
        }
        return kinds[workload.kind](uvloop.new_event_loop(), port, payload_of(workload))


SUBJECTS = [PicowsUvloop()]
