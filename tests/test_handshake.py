"""Handshakes without a socket: whole and byte by byte, right and wrong."""

from __future__ import annotations

import socket
import struct
import time
from typing import Any

import pytest

from support import tcp_pair
from tcpconn import LinkLost, NotTcpconn, Timeout, VersionMismatch, handshake
from tcpconn._frame import PREFACE, WIRE, encode_frame, encode_hello

SECRET, NONCE = bytes(range(32)), bytes(range(100, 116))
REQUEST = handshake.Resume(b"i" * 16, 7, 123, b"")
SIGNED = REQUEST.signed(SECRET, NONCE, False)
HELLO = PREFACE + encode_hello(session_id=b"i" * 16, nonce=NONCE)
TYPES = WIRE["types"]


def drive(steps: Any, stream: bytes, piece: int = 1 << 20) -> tuple[Any, bytes, bytes]:
    """What a handshake comes to, what it wrote, and what of the stream it left unread."""
    written = b""
    try:
        request = next(steps)
        while True:
            if isinstance(request, int):
                count = min(request, piece)
                data, stream = stream[:count], stream[count:]
                request = steps.send(data)
            else:
                written += request
                request = next(steps)
    except StopIteration as end:
        return end.value, written, stream


@pytest.mark.parametrize("piece", [1, 3, 1 << 20])
def test_hello_is_left_to_the_session(piece: int) -> None:
    first, written, left = drive(handshake.greeted(), HELLO + b"more", piece)
    assert first + left == HELLO + b"more"
    assert len(first) == 13
    assert written == b""


@pytest.mark.parametrize("piece", [1, 3, 1 << 20])
@pytest.mark.parametrize("text", [b"GET / HTTP/1.1\r\n", b"TCPCONN\x02" + HELLO[8:], b"TCPCOMM"])
def test_what_is_not_ours_is_left_to_the_session(text: bytes, piece: int) -> None:
    first, _, left = drive(handshake.greeted(), text, piece)
    assert first + left == text
    assert first


@pytest.mark.parametrize("piece", [1, 3, 1 << 20])
def test_resume_is_heard(piece: int) -> None:
    request, _, left = drive(handshake.greeted(), PREFACE + SIGNED.frame(False) + b"more", piece)
    assert request == SIGNED
    assert left == b"more"
    assert request.is_proven(SECRET, NONCE, False)


def test_a_proof_is_for_one_request_of_one_side() -> None:
    for changed in (
        handshake.Resume(b"j" * 16, 7, 123, SIGNED.proof),
        handshake.Resume(b"i" * 16, 8, 123, SIGNED.proof),
        handshake.Resume(b"i" * 16, 7, 124, SIGNED.proof),
        handshake.Resume(b"i" * 16, 7, 123, SIGNED.proof[:-1] + b"\0"),
    ):
        assert not changed.is_proven(SECRET, NONCE, False)
    assert not SIGNED.is_proven(SECRET, NONCE, True), "a request passes for an answer"
    assert not SIGNED.is_proven(bytes(32), NONCE, False)
    assert not SIGNED.is_proven(SECRET, bytes(16), False)


def resume_frame(payload: bytes, flags: int = 0, route: int = 0) -> bytes:
    return PREFACE + encode_frame(TYPES["RESUME"], payload, flags, route)


def tags(*fields: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack(">HH", tag, len(value)) + value for tag, value in fields)


ALL = ((1, b"i" * 16), (16, bytes(4)), (17, bytes(8)), (18, bytes(32)))


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (resume_frame(tags(*ALL[:3])), "tag 18 is missing"),
        (resume_frame(tags(*ALL, ALL[0])), "tag 1 twice"),
        (resume_frame(tags(*ALL[:3], (18, bytes(31)))), "31 bytes instead of 32"),
        (resume_frame(tags(*ALL)[:-1]), "runs past the frame"),
        (resume_frame(tags(*ALL) + b"\0"), "inside a field"),
        (resume_frame(tags(*ALL), flags=1), "flags or a route"),
        (resume_frame(tags(*ALL), route=1), "flags or a route"),
        (resume_frame(bytes(4097)), "4097 bytes is over the limit of 4096"),
    ],
)
def test_a_malformed_resume(frame: bytes, said: str) -> None:
    for piece in (1, 1 << 20):
        with pytest.raises(handshake.Malformed, match=said):
            drive(handshake.greeted(), frame, piece)


def test_unknown_tags_are_skipped() -> None:
    frame = resume_frame(tags((99, b"x"), *ALL, (99, b"")))
    request, _, _ = drive(handshake.greeted(), frame)
    assert request.received == 0


ANSWER = handshake.Resume(b"i" * 16, 7, 456, b"").signed(SECRET, NONCE, True)
OTHER_SESSION = handshake.Resume(b"j" * 16, 7, 456, b"").signed(SECRET, NONCE, True)
OTHER_EPOCH = handshake.Resume(b"i" * 16, 6, 456, b"").signed(SECRET, NONCE, True)


@pytest.mark.parametrize("piece", [1, 3, 1 << 20])
def test_the_client_gets_its_answer(piece: int) -> None:
    answer, written, left = drive(
        handshake.resume(REQUEST, SECRET, NONCE), PREFACE + ANSWER.frame(True) + b"more", piece
    )
    assert answer.received == 456
    assert written == PREFACE + SIGNED.frame(False)
    assert left == b"more"


@pytest.mark.parametrize(
    ("stream", "error", "said"),
    [
        (handshake.reject(11, "no such session"), handshake.Rejected, "no such session .UNKNOWN_S"),
        (
            handshake.reject(11, "a\n\x1b[2J\u2028b"),
            handshake.Rejected,
            r"a\ufffd\ufffd\[2J\ufffdb",
        ),
        (b"HTTP/1.1 400", NotTcpconn, "HTTP"),
        (b"TCPCONN\x02", VersionMismatch, "version 2"),
        (PREFACE + SIGNED.frame(True), handshake.Malformed, "without the proof"),
        (
            PREFACE
            + handshake.Resume(b"j" * 16, 7, 456, b"").signed(SECRET, NONCE, True).frame(True),
            handshake.Malformed,
            "another session",
        ),
        (
            PREFACE
            + handshake.Resume(b"i" * 16, 6, 456, b"").signed(SECRET, NONCE, True).frame(True),
            handshake.Malformed,
            "epoch",
        ),
        (HELLO, handshake.Malformed, "type 1"),
        (PREFACE + encode_frame(5, bytes(4097)), handshake.Malformed, "4097"),
        (PREFACE + ANSWER.frame(True)[:-1], LinkLost, "mid-handshake"),
        (b"", LinkLost, "mid-handshake"),
    ],
)
def test_the_client_gets_another_answer(stream: bytes, error: type[Exception], said: str) -> None:
    for piece in (1, 1 << 20):
        with pytest.raises(error, match=said):
            drive(handshake.resume(REQUEST, SECRET, NONCE), stream, piece)


def test_a_blocking_client() -> None:
    near, far = tcp_pair()
    with near, far:
        far.sendall(PREFACE + ANSWER.frame(True) + b"more")
        deadline = time.monotonic() + 30
        answer = handshake.run(handshake.resume(REQUEST, SECRET, NONCE), near, deadline)
        assert answer == ANSWER
        assert near.recv(10) == b"more"
        written = PREFACE + SIGNED.frame(False)
        assert far.recv(len(written), socket.MSG_WAITALL) == written
        with pytest.raises(Timeout):
            handshake.run(handshake.resume(REQUEST, SECRET, NONCE), near, time.monotonic() + 0.01)
        far.close()
        with pytest.raises(LinkLost):
            handshake.run(handshake.resume(REQUEST, SECRET, NONCE), near, deadline)
