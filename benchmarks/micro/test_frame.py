"""Micro-benchmarks of the codec: frames to bytes and back.

python -m pytest benchmarks/micro
"""

import pytest

from tcpconn import _frame

DATA = 0x11
FIRST_AND_LAST = 3
FRAMES = 64


@pytest.mark.parametrize("size", [0, 100, 1024, 65536])
def test_encode_one_frame(benchmark, size):
    payload = bytes(size)
    frame = benchmark(_frame.encode_frame, DATA, payload, FIRST_AND_LAST, 1, 1)
    assert len(frame) == 16 + size


@pytest.mark.parametrize("size", [100, 1024])
def test_decode_64_frames(benchmark, size):
    stream = _frame.encode_frame(DATA, bytes(size), FIRST_AND_LAST, 1, 1) * FRAMES
    frames, taken = benchmark(_frame.decode_frames, stream)
    assert (len(frames), taken) == (FRAMES, len(stream))


def test_handshake(benchmark):
    def hello():
        [(_, _, _, _, payload)], _ = _frame.decode_frames(
            _frame.encode_hello(session_id=bytes(16), nonce=bytes(16))
        )
        return _frame.decode_hello(payload)

    assert benchmark(hello)["max_frame_size"] == 65536
