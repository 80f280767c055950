"""PROTOCOL.md once more, in plain Python and with every number written out.

Tests build and read frames with this, so that the package's codec is not its own judge.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

PREFACE = b"TCPCONN\x01"

HELLO, WELCOME, REJECT, RESUME, RESUMED = 0x01, 0x02, 0x03, 0x04, 0x05
OPEN, DATA, FIN, RESET = 0x10, 0x11, 0x12, 0x13
CREDIT, ACK, PING, PONG, GOAWAY = 0x20, 0x21, 0x22, 0x23, 0x24
FIRST, LAST, PEER = 0x01, 0x02, 0x04

NONE, PROTOCOL, VERSION, FRAME_SIZE, MESSAGE_SIZE, CREDIT_CODE = 0, 1, 2, 3, 4, 5
SEQUENCE, STATE, MALFORMED, REFUSED, LIMIT, UNKNOWN_SESSION = 6, 7, 8, 9, 10, 11
DUPLICATE, ABORTED, INTERNAL, SHUTDOWN, CLOSED, TIMEOUT = 12, 13, 14, 15, 16, 17

COST = 64
"""What a DATA frame costs beside its bytes of message, section 7."""


class Frame(NamedTuple):
    """A frame as it is on the wire; `number` is the sequence number's low half."""

    type: int
    flags: int = 0
    route: int = 0
    number: int = 0
    payload: bytes = b""

    def __bytes__(self) -> bytes:
        return (
            struct.pack(
                ">IBBHII", len(self.payload), self.type, self.flags, 0, self.route, self.number
            )
            + self.payload
        )


def parse(data: bytes) -> list[Frame]:
    """All frames of `data`, of which nothing may be left over."""
    frames = []
    at = 0
    while at < len(data):
        length, kind, flags, reserved, route, number = struct.unpack_from(">IBBHII", data, at)
        assert reserved == 0
        at += 16
        assert at + length <= len(data), "a frame is cut off"
        frames.append(Frame(kind, flags, route, number, bytes(data[at : at + length])))
        at += length
    return frames


def tag(number: int, value: bytes) -> bytes:
    """One tagged field."""
    return struct.pack(">HH", number, len(value)) + value


def hello(
    type: int = HELLO,
    *,
    session: bytes = bytes(range(16)),
    nonce: bytes = b"n" * 16,
    max_frame_size: int = 65536,
    max_message_size: int = 1 << 20,
    route_credit: int = 1 << 20,
    session_credit: int = 1 << 24,
    keepalive: int | None = None,
    max_connections: int | None = None,
    more: bytes = b"",
) -> bytes:
    """A HELLO or WELCOME frame."""
    payload = tag(1, session) + tag(2, nonce)
    payload += tag(3, struct.pack(">I", max_frame_size))
    payload += tag(4, struct.pack(">Q", max_message_size))
    payload += tag(5, struct.pack(">Q", route_credit))
    payload += tag(6, struct.pack(">Q", session_credit))
    if keepalive is not None:
        payload += tag(7, struct.pack(">I", keepalive))
    if max_connections is not None:
        payload += tag(8, struct.pack(">I", max_connections))
    return bytes(Frame(type, payload=payload + more))


def tags_of(payload: bytes) -> dict[int, bytes]:
    """The tagged fields of a payload."""
    found = {}
    at = 0
    while at < len(payload):
        number, length = struct.unpack_from(">HH", payload, at)
        assert number not in found
        found[number] = payload[at + 4 : at + 4 + length]
        at += 4 + length
    assert at == len(payload)
    return found


class Writer:
    """Frames of one peer, with its sequence numbers."""

    def __init__(self) -> None:
        self.number = 0

    def _numbered(self, type: int, flags: int, route: int, payload: bytes) -> bytes:
        frame = Frame(type, flags, route, self.number & 0xFFFFFFFF, payload)
        self.number += 1
        return bytes(frame)

    def open(self, route: int, id: bytes, *, priority: int = 3, flags: int = 0) -> bytes:
        """OPEN."""
        return self._numbered(OPEN, flags, route, id + bytes([priority]))

    def whole(self, route: int, message: bytes) -> bytes:
        """A message in one frame."""
        return self._numbered(DATA, FIRST | LAST, route, message)

    def first(self, route: int, total: int, chunk: bytes) -> bytes:
        """The first of several chunks."""
        return self._numbered(DATA, FIRST, route, struct.pack(">Q", total) + chunk)

    def middle(self, route: int, chunk: bytes) -> bytes:
        """A chunk in the middle."""
        return self._numbered(DATA, 0, route, chunk)

    def last(self, route: int, chunk: bytes) -> bytes:
        """The last of several chunks."""
        return self._numbered(DATA, LAST, route, chunk)

    def chunks(self, route: int, message: bytes, size: int) -> list[bytes]:
        """A message in chunks of `size`."""
        parts = [message[at : at + size] for at in range(0, len(message), size)]
        if len(parts) < 2:
            return [self.whole(route, message)]
        return [
            self.first(route, len(message), parts[0]),
            *(self.middle(route, part) for part in parts[1:-1]),
            self.last(route, parts[-1]),
        ]

    def fin(self, route: int) -> bytes:
        """FIN."""
        return self._numbered(FIN, 0, route, b"")

    def reset(self, route: int, code: int = ABORTED, *, peer: bool = False) -> bytes:
        """RESET, or RESET PEER."""
        return self._numbered(RESET, PEER if peer else 0, route, struct.pack(">I", code))


def credit(route: int, limit: int) -> bytes:
    """CREDIT."""
    return bytes(Frame(CREDIT, route=route, payload=struct.pack(">Q", limit)))


def ack(sequence: int) -> bytes:
    """ACK."""
    return bytes(Frame(ACK, payload=struct.pack(">Q", sequence)))


def ping(token: int, acked: int = 0, type: int = PING) -> bytes:
    """PING or PONG."""
    return bytes(Frame(type, payload=struct.pack(">QQ", token, acked)))


def goaway(last: int = 0, code: int = NONE, text: bytes = b"") -> bytes:
    """GOAWAY."""
    return bytes(Frame(GOAWAY, payload=struct.pack(">II", last, code) + text))


def u32(payload: bytes, at: int = 0) -> int:
    """The u32 in a payload."""
    (value,) = struct.unpack_from(">I", payload, at)
    return int(value)


def u64(payload: bytes, at: int = 0) -> int:
    """The u64 in a payload."""
    (value,) = struct.unpack_from(">Q", payload, at)
    return int(value)
