"""Connections as AnyIO's streams, for code that is written for `ObjectStream[bytes]`.

    async with await tcpconn.anyio.connect("127.0.0.1:9000") as stream:
        await stream.send(b"hello")
        reply = await stream.receive()

Needs the extra `anyio`, and AnyIO's asyncio backend, on any event loop. Names, options and errors
of `connect` and `listen` are those of `tcpconn.aio`; what a stream raises is AnyIO's, with ours as
its cause.
"""

from __future__ import annotations

import contextlib
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

from anyio import (
    BrokenResourceError,
    ClosedResourceError,
    EndOfStream,
    TypedAttributeSet,
    create_task_group,
    typed_attribute,
)
from anyio.abc import Listener, ObjectStream, SocketAttribute, TaskGroup
from anyio.lowlevel import checkpoint_if_cancelled
from anyio.streams.tls import TLSAttribute

from tcpconn import aio
from tcpconn.addresses import parse_address
from tcpconn.errors import ConnectionClosed, ConnectionReset, LinkLost, ProtocolError, Timeout

__all__ = ["ConnectionAttribute", "ConnectionListener", "ConnectionStream", "connect", "listen"]


class ConnectionAttribute(TypedAttributeSet):
    """What a stream knows of its connection, beside AnyIO's attributes of sockets and of TLS."""

    connection: aio.Connection = typed_attribute()
    """The connection itself, with all that AnyIO's streams have no word for."""

    id: uuid.UUID = typed_attribute()
    """What names the connection on both sides."""


class ConnectionStream(ObjectStream[bytes]):
    """A connection as a stream of messages. An asynchronous context manager.

    Any number of tasks may send and receive at once; each message goes to exactly one receiver. A
    `receive` that is cancelled loses no message; a `send` that is cancelled has sent nothing. What
    need not wait does not yield to other tasks, but every 256 times.
    """

    def __init__(self, connection: aio.Connection) -> None:
        self.connection = connection
        """The connection behind the stream."""
        self._closed = False

    async def receive(self) -> bytes:
        """The next message.

        Raises `EndOfStream` when the peer has closed the connection and there are no more messages,
        `ClosedResourceError` when it was closed here, and `BrokenResourceError` when it ended in
        another way. `SessionLost`, its cause then, says what is known of what was sent.
        """
        await checkpoint_if_cancelled()
        with self._as_anyio(at_end=EndOfStream):
            return await self.connection.receive()

    async def send(self, item: bytes) -> None:
        """Sends one message. Returns when it is queued, whole.

        Raises `ClosedResourceError` when the connection was closed here, `BrokenResourceError` when
        the peer has closed it, or it ended in another way. `MessageTooLarge` and `NotABuffer` leave
        it as it was.
        """
        await checkpoint_if_cancelled()
        with self._as_anyio(at_end=BrokenResourceError):
            await self.connection.send(item)

    async def send_eof(self) -> None:
        """Raises `NotImplementedError`: a connection has no half-closed state. Use `aclose`."""
        raise NotImplementedError("a connection is closed in both directions at once: use aclose()")

    async def aclose(self) -> None:
        """Closes the connection behind what was sent, and waits until the peer has acknowledged it.

        Raises `BrokenResourceError` when it has not within 5 seconds, or the link was lost before.
        Closing it again does nothing. When it is cancelled, the connection is closed all the same.
        """
        self._closed = True
        try:
            await self.connection.close()
        except (ConnectionClosed, LinkLost, ProtocolError, Timeout) as error:
            raise BrokenResourceError from error

    @contextlib.contextmanager
    def _as_anyio(self, at_end: type[Exception]) -> Iterator[None]:
        try:
            yield
        except ConnectionClosed as error:
            if self._closed or self.connection.state == "aborted":
                raise ClosedResourceError from error
            in_order = not isinstance(error, ConnectionReset)
            raise (at_end if in_order else BrokenResourceError) from error
        except (LinkLost, ProtocolError, Timeout) as error:
            raise BrokenResourceError from error

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.aclose()
        else:
            # It waits for nothing, and hides no error behind another.
            self._closed = True
            await self.connection.__aexit__(kind, error, traceback)

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """`ConnectionAttribute`'s, and what can be told of `SocketAttribute` and `TLSAttribute`."""
        connection = self.connection
        attributes: dict[Any, Callable[[], Any]] = {
            ConnectionAttribute.connection: lambda: connection,
            ConnectionAttribute.id: lambda: connection.id,
            **_ends(connection.local_address, connection.peer_address),
        }
        multiplexer = connection.multiplexer
        if multiplexer is not None and multiplexer.peer_certificate is not None:
            certificate = multiplexer.peer_certificate
            attributes[TLSAttribute.peer_certificate] = lambda: certificate
        return attributes

    def __repr__(self) -> str:
        return f"<ConnectionStream over {self.connection!r}>"


class ConnectionListener(Listener[ConnectionStream]):
    """A listener whose connections are handed out as streams. An asynchronous context manager."""

    def __init__(self, listener: aio.Listener) -> None:
        self.listener = listener
        """The listener behind this one."""

    @property
    def address(self) -> str:
        """Where it listens, in the form that `connect` takes; with the real port, if it was 0."""
        return self.listener.address

    async def serve(
        self,
        handler: Callable[[ConnectionStream], Any],
        task_group: TaskGroup | None = None,
    ) -> None:
        """Runs `await handler(stream)` in a task for each connection that a peer opens.

        Tasks belong to `task_group`; without, to one that ends with this method. As with AnyIO's
        own listeners, it is the handler who closes its stream, as by `async with stream:`. Goes on
        until it is cancelled, or raises `ClosedResourceError` once the listener is closed.
        """
        if task_group is None:
            async with create_task_group() as own:
                await self.serve(handler, own)
        else:
            while True:
                await checkpoint_if_cancelled()
                try:
                    connection = await self.listener.accept()
                except ConnectionClosed as error:
                    # Whoever cancels it and closes the listener at once is told of the first.
                    await checkpoint_if_cancelled()
                    raise ClosedResourceError from error
                task_group.start_soon(handler, ConnectionStream(connection))

    async def aclose(self) -> None:
        """Stops listening, and closes all links once the peers have what was sent, in 5 seconds."""
        await self.listener.close()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.listener.__aexit__(kind, error, traceback)

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """What can be told of `SocketAttribute`."""
        return _ends(self.listener.address, None)


async def connect(
    address: Any,
    id: uuid.UUID | None = None,
    *,
    pool: aio.ConnectionPool | None = None,
    priority: int | None = None,
    timeout: float | None = 10.0,
    **options: Any,
) -> ConnectionStream:
    """Opens a connection as a stream. Arguments and errors are those of `tcpconn.aio.connect`."""
    return ConnectionStream(
        await aio.connect(address, id, pool=pool, priority=priority, timeout=timeout, **options)
    )


async def listen(address: Any, **options: Any) -> ConnectionListener:
    """Listens at `address`. Arguments and errors are those of `tcpconn.aio.listen`."""
    return ConnectionListener(await aio.listen(address, **options))


def _ends(local: str, remote: str | None) -> dict[Any, Callable[[], Any]]:
    """AnyIO's attributes for our forms of the addresses of both ends."""
    near = parse_address(local)
    family = socket.AF_INET6 if ":" in near.host else socket.AF_INET
    found: dict[Any, Callable[[], Any]] = {
        SocketAttribute.family: lambda: socket.AF_UNIX if near.path else family,
        SocketAttribute.local_address: lambda: near.path or (near.host, near.port),
    }
    if not near.path:
        found[SocketAttribute.local_port] = lambda: near.port
    if remote is not None:
        far = parse_address(remote)
        found[SocketAttribute.remote_address] = lambda: far.path or (far.host, far.port)
        if not far.path:
            found[SocketAttribute.remote_port] = lambda: far.port
    return found
