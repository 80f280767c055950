"""What two peers say before a session takes over a link, PROTOCOL.md sections 2, 4 and 12.

Without I/O: generators, which yield what they need, and are driven by a blocking client (`run`), by
a listener's thread and by an event loop alike. A generator yields a number to be sent that many
bytes at most, and at least one (b"" for the end of the stream), or bytes that are to be written. It
never asks for more than it needs: what follows belongs to the session.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import struct
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tcpconn._frame import CODE_NAMES, PREFACE, WIRE, encode_frame, peer_text
from tcpconn.errors import (
    LinkLost,
    NotTcpconn,
    ProtocolError,
    TcpconnError,
    Timeout,
    VersionMismatch,
)

T = TypeVar("T")


class Stream(Protocol):
    """What a handshake needs of a socket, or of what stands for one with TLS in between."""

    def recv(self, count: int, /) -> bytes: ...
    def send(self, data: bytes, /) -> int: ...
    def sendall(self, data: bytes, /) -> None: ...
    def settimeout(self, seconds: float | None, /) -> None: ...
    def setblocking(self, flag: bool, /) -> None: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


def socket_of(stream: Stream) -> socket.socket:
    """The socket itself, whatever stands for it."""
    sock: socket.socket = stream if isinstance(stream, socket.socket) else stream.socket  # type: ignore[attr-defined]
    return sock


Steps = Generator[int | bytes, bytes, T]
"""A part of a handshake that ends with a `T`."""

_HEADER = struct.Struct(">IBBHII")
_TAG = struct.Struct(">HH")
_CODE = struct.Struct(">I")
_TYPE_ENDS = len(PREFACE) + 5
"""The first frame's type is known after so many bytes: preface, length, type."""

_TYPES = WIRE["types"]
_TAGS = WIRE["tags"]
_CODES = WIRE["codes"]
_LONGEST = WIRE["limits"]["max_hello_size"]

UNKNOWN_SESSION: int = _CODES["UNKNOWN_SESSION"]
"""The code of a REJECT for a session that the server does not keep."""

LIMIT: int = _CODES["LIMIT"]
"""The code of a REJECT for one link too many."""

LOST = "the link ended in mid-handshake"


@dataclass(frozen=True, slots=True)
class Resume:
    """What RESUME and RESUMED say: `received` is how many sequenced frames their sender has taken
    of the session, `epoch` which link of the session this is."""

    session_id: bytes
    epoch: int
    received: int
    proof: bytes

    def signed(self, secret: bytes, nonce: bytes, server: bool) -> Resume:
        """The same with the proof that its sender knows the secret (section 12)."""
        label = b"tcpconn RESUMED" if server else b"tcpconn RESUME"
        said = self.session_id + struct.pack(">IQ", self.epoch, self.received) + nonce
        proof = hmac.new(secret, label + said, hashlib.sha256).digest()
        return Resume(self.session_id, self.epoch, self.received, proof)

    def is_proven(self, secret: bytes, nonce: bytes, server: bool) -> bool:
        """Whether its proof is right; takes as long for any wrong one."""
        return hmac.compare_digest(self.proof, self.signed(secret, nonce, server).proof)

    def frame(self, server: bool) -> bytes:
        """Its bytes on the wire."""
        fields = {
            _TAGS["session_id"]: self.session_id,
            _TAGS["epoch"]: struct.pack(">I", self.epoch),
            _TAGS["received"]: struct.pack(">Q", self.received),
            _TAGS["proof"]: self.proof,
        }
        return encode_tagged(_TYPES["RESUMED" if server else "RESUME"], fields)


class Malformed(ProtocolError):
    """A frame of the handshake that PROTOCOL.md does not allow. Its text goes to the peer too."""

    def __init__(self, message: str, section: str = "12", code: int = _CODES["MALFORMED"]) -> None:
        super().__init__(message, code, section)


class Rejected(ProtocolError):
    """The peer answered REJECT."""


def reject(code: int, text: str, *, preface: bool = True) -> bytes:
    """A server's REJECT; the preface before it, unless that has been said already."""
    frame = encode_frame(_TYPES["REJECT"], _CODE.pack(code) + text.encode()[:1024])
    return PREFACE + frame if preface else frame


def exactly(count: int) -> Steps[bytes]:
    """Reads `count` bytes. Raises `LinkLost` when the stream ends before."""
    data = b""
    while len(data) < count:
        more = yield count - len(data)
        if not more:
            raise LinkLost(LOST)
        data += more
    return data


def encode_tagged(kind: int, fields: dict[int, bytes]) -> bytes:
    """A frame of tagged fields (section 3.1)."""
    tagged = (_TAG.pack(tag, len(value)) + value for tag, value in fields.items())
    return encode_frame(kind, b"".join(tagged))


def parse_tagged(payload: bytes, sizes: dict[int, int]) -> dict[int, bytes]:
    """Tagged fields (section 3.1), those with a size in `sizes`; all of them must be there."""
    fields: dict[int, bytes] = {}
    at = 0
    while at < len(payload):
        if len(payload) - at < _TAG.size:
            raise Malformed("tagged fields end inside a field")
        tag, length = _TAG.unpack_from(payload, at)
        at += _TAG.size
        value = payload[at : at + length]
        at += length
        if len(value) < length:
            raise Malformed(f"tag {tag} has {length} bytes and runs past the frame")
        if tag not in sizes:
            continue
        if tag in fields or length != sizes[tag]:
            raise Malformed(f"tag {tag} twice, or with {length} bytes instead of {sizes[tag]}")
        fields[tag] = value
    missing = sorted(set(sizes) - set(fields))
    if missing:
        raise Malformed(f"tag {missing[0]} is missing")
    return fields


def parse_resume(payload: bytes) -> Resume:
    """What a RESUME or RESUMED says. Raises `Malformed`."""
    fields = parse_tagged(
        payload,
        {_TAGS["session_id"]: 16, _TAGS["epoch"]: 4, _TAGS["received"]: 8, _TAGS["proof"]: 32},
    )
    return Resume(
        fields[_TAGS["session_id"]],
        int.from_bytes(fields[_TAGS["epoch"]]),
        int.from_bytes(fields[_TAGS["received"]]),
        fields[_TAGS["proof"]],
    )


def check_preface(preface: bytes) -> None:
    """Raises `NotTcpconn` or `VersionMismatch`."""
    if preface[:-1] != PREFACE[:-1]:
        raise NotTcpconn(f"the peer does not speak tcpconn: it says {preface!r}", 1, "2")
    if preface != PREFACE:
        text = f"the peer speaks version {preface[-1]}, this side {PREFACE[-1]}"
        raise VersionMismatch(text, _CODES["VERSION"], "2")


def take_frame(begun: bytes = b"") -> Steps[tuple[int, bytes]]:
    """Type and payload of a frame of the handshake, of which `begun` was read already.

    Raises `Malformed` or `LinkLost`.
    """
    header = begun + (yield from exactly(_HEADER.size - len(begun)))
    length, kind, flags, _, route, _ = _HEADER.unpack(header)
    if length > _LONGEST:
        text = f"a frame of the handshake with {length} bytes is over the limit of {_LONGEST}"
        raise Malformed(text, "3", _CODES["FRAME_SIZE"])
    if flags or route:
        raise Malformed("a frame of the handshake with flags or a route", "3.1")
    return kind, (yield from exactly(length))


def take_answer() -> Steps[tuple[int, bytes]]:
    """The same from a server; raises `Rejected` for REJECT."""
    kind, payload = yield from take_frame()
    if kind == _TYPES["REJECT"] and len(payload) >= _CODE.size:
        code = int.from_bytes(payload[: _CODE.size])
        text = peer_text(payload[_CODE.size :])
        raise Rejected(f"{text} ({CODE_NAMES.get(code, 'PROTOCOL')})", code, "4")
    return kind, payload


# The server's side


def greeted() -> Steps[bytes | Resume]:
    """What a client begins with: a `Resume`, or the bytes that a new session is to be fed.

    The session finds out what is wrong with them, if anything is: so whatever cannot become a
    RESUME is handed over at once. Raises `Malformed`, of which the client has been told, or
    `LinkLost`.
    """
    data = b""
    while len(data) < _TYPE_ENDS:
        more = yield _TYPE_ENDS - len(data)
        if not more:
            raise LinkLost(LOST)
        data += more
        if data[: len(PREFACE)] != PREFACE[: len(data)]:
            return data
    if data[_TYPE_ENDS - 1] != _TYPES["RESUME"]:
        return data
    try:
        _, payload = yield from take_frame(data[len(PREFACE) :])
        return parse_resume(payload)
    except Malformed as error:
        yield reject(error.code, str(error))
        raise


# The client's side


def resume(request: Resume, secret: bytes, nonce: bytes) -> Steps[Resume]:
    """Asks for a session to be resumed; the server's answer, which is proven.

    Raises `Rejected` (code UNKNOWN_SESSION: the server does not keep it), `NotTcpconn`,
    `VersionMismatch`, `Malformed` or `LinkLost`.
    """
    yield PREFACE + request.signed(secret, nonce, False).frame(False)
    check_preface((yield from exactly(len(PREFACE))))
    kind, payload = yield from take_answer()
    if kind != _TYPES["RESUMED"]:
        raise Malformed(f"neither RESUMED nor REJECT answers RESUME, but type {kind}")
    answer = parse_resume(payload)
    if answer.session_id != request.session_id or answer.epoch != request.epoch:
        raise Malformed("RESUMED names another session or epoch than RESUME")
    if not answer.is_proven(secret, nonce, True):
        raise Malformed("RESUMED without the proof that the server knows the session's secret")
    return answer


def run(steps: Steps[T], sock: Stream, deadline: float | None) -> T:
    """Drives a handshake over a socket until `deadline` (of `time.monotonic`), blocking.

    Raises `Timeout`, `LinkLost`, or what the handshake raises.
    """
    try:
        request = next(steps)
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise Timeout("the handshake took too long")
            sock.settimeout(left)
            if isinstance(request, int):
                request = steps.send(sock.recv(request))
            else:
                sock.sendall(request)
                request = next(steps)
    except StopIteration as end:
        result: T = end.value
        return result
    except TimeoutError:
        raise Timeout("the handshake took too long") from None
    except ConnectionError as error:
        if isinstance(error, TcpconnError):
            raise
        raise LinkLost(f"{LOST}: {error}") from error
    finally:
        steps.close()
