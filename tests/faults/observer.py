"""What passes on a link, read along: where a break strikes, and what had arrived until then.

Only the header of a frame is looked at, and the payload of the short ones. A stream that does not
begin with the preface (TLS) stays opaque.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import wire

HEADER = struct.Struct(">IBBHII")
SHORT = 4096
"""Payloads of frames other than DATA, up to this length, are handed on."""

OnFrame = Callable[[wire.Frame, int], None]
"""Called for each frame that has passed whole, with the length of its payload. The frame has its
payload unless it is DATA or long."""


class Stream:
    """One way of a link."""

    def __init__(self, on_frame: OnFrame | None = None) -> None:
        self.passed = 0
        self.opaque = False
        self.opening = 0
        """The type of the first frame that is not about authentication; 0 before it is known."""
        self.opened = False
        """Whether that frame has passed whole."""
        self.opening_size = 0
        """Bytes up to its end."""
        self.frames = 0
        self.data_frames = 0
        self.messages = 0
        """Whole ones, by their last chunk."""
        self._on_frame = on_frame
        self._head = bytearray()
        self._want = len(wire.PREFACE)
        self._greeted = False
        self._frame: wire.Frame | None = None
        self._left = 0
        self._payload: bytearray | None = None
        self._inside: set[int] = set()

    @property
    def where(self) -> str:
        """A word: inside a frame, between the chunks of a message, or between messages."""
        if self.opaque:
            return "opaque"
        if self._frame is not None:
            return "in a chunk" if self._frame.type == wire.DATA else "in a frame"
        if self._head:
            return "in a header"
        return "in a message" if self._inside else "between frames"

    def feed(self, data: bytes | memoryview) -> None:
        """Bytes that have passed."""
        view = memoryview(data)
        began = self.passed
        self.passed += len(view)
        if self.opaque:
            return
        at, end = 0, len(view)
        while at < end:
            if self._frame is None:
                take = min(self._want - len(self._head), end - at)
                self._head += view[at : at + take]
                at += take
                if len(self._head) == self._want:
                    self._begin()
                    if self.opaque:
                        return
            else:
                take = min(self._left, end - at)
                if self._payload is not None:
                    self._payload += view[at : at + take]
                at += take
                self._left -= take
                if self._left == 0:
                    self._finish()
                    if self.opened and not self.opening_size:
                        self.opening_size = began + at

    def _begin(self) -> None:
        """A preface or a header is there."""
        if not self._greeted:
            self._greeted = True
            self.opaque = bytes(self._head) != wire.PREFACE
            self._head.clear()
            self._want = HEADER.size
            return
        length, kind, flags, _, route, number = HEADER.unpack(self._head)
        self._head.clear()
        self._frame = wire.Frame(kind, flags, route, number)
        self._left = self._length = length
        keep = kind != wire.DATA and length <= SHORT
        self._payload = bytearray() if keep else None
        if self.opening == 0 and kind <= wire.RESUMED:
            self.opening = kind
        if length == 0:
            self._finish()

    def _finish(self) -> None:
        frame = self._frame
        assert frame is not None
        self._frame = None
        self.frames += 1
        if frame.type == wire.DATA:
            self.data_frames += 1
            if frame.flags & wire.LAST:
                self.messages += 1
                self._inside.discard(frame.route)
            else:
                self._inside.add(frame.route)
        elif frame.type == self.opening:
            self.opened = True
        if self._on_frame is not None:
            payload = b"" if self._payload is None else bytes(self._payload)
            self._on_frame(frame._replace(payload=payload), self._length)


class Observer:
    """Both ways of a link."""

    def __init__(
        self,
        number: int,
        opening: tuple[int, int],
        on_up: OnFrame | None = None,
        on_down: OnFrame | None = None,
    ) -> None:
        self.number = number
        self.ways = (Stream(on_up), Stream(on_down))
        self._opening = opening

    @property
    def open(self) -> bool:
        """Whether both sides have said what they say first."""
        up, down = self.ways
        if up.opaque or down.opaque:
            return up.passed >= self._opening[0] and down.passed >= self._opening[1]
        return up.opened and down.opened

    @property
    def phase(self) -> str:
        """What a break here would strike."""
        up, down = self.ways
        if not self.open:
            if up.opening == 0:  # neither has said so yet: who has been here before resumes
                return "resume" if self.number > 0 else "handshake"
            return "resume" if up.opening == wire.RESUME else "handshake"
        for word in ("in a chunk", "in a frame", "in a header", "in a message"):
            if word in (up.where, down.where):
                return word
        return "opaque" if up.opaque else "between frames"
