"""The codec and the handshake: whatever they make of some bytes, they make it of the same again."""

from __future__ import annotations

from typing import Any

from fuzz.cases import Case
from fuzz.common import check
from tcpconn import authkey, handshake
from tcpconn._frame import FrameError, decode_frames, decode_hello, encode_frame, encode_hello


def run_decoder(case: Case) -> None:
    """Whatever it makes of some bytes, it makes them of the same bytes again."""
    data = b"".join(bytes.fromhex(step[1]) for step in case.steps if step[0] == "raw")
    limit = 16384
    try:
        frames, used = decode_frames(data, limit)
    except FrameError:
        frames, used = [], 0
    again = b"".join(
        encode_frame(kind, body, flags=flags, route=route, sequence=number)
        for kind, flags, route, number, body in frames
    )
    check(len(again) == used, "frames of another length")
    if used:
        check(decode_frames(again, limit) == (frames, used), "frames that read differently")
    for body in (data, data[16:]):
        try:
            hello = decode_hello(body)
        except FrameError:
            continue
        written = encode_hello(**hello, welcome="secret" in hello)
        check(decode_hello(written[16:]) == hello, "a HELLO that reads differently")
    for steps in (
        handshake.greeted(),
        handshake.resume(_REQUEST, bytes(32), bytes(16)),
        authkey.prove_to_client(bytes(32)),
        authkey.prove_to_server(bytes(32)),
    ):
        try:
            _drive(steps, data)
        except ConnectionError:
            continue


_REQUEST = handshake.Resume(bytes(16), 1, 0, b"")


def _drive(steps: Any, data: bytes) -> None:
    try:
        request = next(steps)
        while True:
            if isinstance(request, int):
                taken, data = data[:request], data[request:]
                request = steps.send(taken)
            else:
                request = next(steps)
    except StopIteration:
        pass
