"""A peer in plain Python that says what a test wants it to, honest or not."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import wire
from support import PATIENCE

GREETING = wire.PREFACE + wire.hello()


class RawPeer:
    """One end of a link, with a `wire.Writer` for what it says. A context manager."""

    def __init__(self, target: socket.socket | str, greeting: bytes = GREETING) -> None:
        if isinstance(target, str):
            host, _, port = target.rpartition(":")
            target = socket.create_connection((host, int(port)), timeout=PATIENCE)
        self.sock = target
        self.sock.settimeout(PATIENCE)
        self.writer = wire.Writer()
        self._heard = b""
        self._greeted = False
        self.say(greeting)

    def say(self, *frames: bytes) -> None:
        """Sends as much as the peer takes before it hangs up."""
        with contextlib.suppress(ConnectionError):
            self.sock.sendall(b"".join(frames))

    def open(self, route: int = 1, **options: int) -> None:
        """Opens the connection whose id is the route's number."""
        self.say(self.writer.open(route, route.to_bytes(16, "big"), **options))

    def frames(self) -> Iterator[wire.Frame]:
        """What the peer says, frame by frame, to its end."""
        if not self._greeted and self._exactly(8):
            self._greeted = True
        while header := self._exactly(16):
            (length,) = struct.unpack_from(">I", header)
            payload = self._exactly(length)
            if len(payload) < length:
                return
            [frame] = wire.parse(header + payload)
            yield frame

    def _exactly(self, count: int) -> bytes:
        while len(self._heard) < count:
            try:
                more = self.sock.recv(65536)
            except ConnectionResetError:
                more = b""
            if not more:
                return b""
            self._heard += more
        taken, self._heard = self._heard[:count], self._heard[count:]
        return taken

    def until(self, kind: int, flags: int | None = None) -> wire.Frame:
        """The next frame of a type that the peer sends; those before it are dropped."""
        for frame in self.frames():
            if frame.type == kind and flags in (None, frame.flags):
                return frame
        raise AssertionError(f"the link ended before a frame of type {kind:#x}")

    def farewell(self) -> tuple[int, str]:
        """Code and text of what the peer says last, when it has closed the link."""
        last = None
        for last in self.frames():  # noqa: B007
            pass
        assert last is not None, "it went without a word"
        assert last.type in (wire.GOAWAY, wire.REJECT), last
        payload = last.payload[4:] if last.type == wire.GOAWAY else last.payload
        return wire.u32(payload), payload[4:].decode()

    def close(self) -> None:
        """Hangs up."""
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
