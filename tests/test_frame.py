"""The codec as Python sees it. What each frame may be is in the vectors (test_vectors.py)."""

import array

import pytest

import wire
from tcpconn import _frame
from tcpconn._frame import FrameError, decode_frames, decode_hello, encode_frame, encode_hello

HELLO = {"session_id": bytes(16), "nonce": bytes(range(16))}


class TestEncodeFrame:
    def test_writes_what_the_independent_codec_writes(self):
        for frame in (
            wire.Frame(wire.DATA, 3, 7, 9, b"payload"),
            wire.Frame(wire.ACK, payload=bytes(8)),
            wire.Frame(0xFF, 0xFF, 0xFFFFFFFF, 0xFFFFFFFF, b"x" * 70_000),
        ):
            assert bytes(frame) == encode_frame(
                frame.type,
                frame.payload,
                flags=frame.flags,
                route=frame.route,
                sequence=frame.number,
            )

    def test_does_not_check_the_rules(self):
        assert wire.parse(encode_frame(0)) == [wire.Frame(0)]

    @pytest.mark.parametrize(
        "fields",
        [
            {"type": 256},
            {"type": -1},
            {"type": 1, "flags": 256},
            {"type": 1, "route": 1 << 32},
            {"type": 1, "sequence": -1},
        ],
    )
    def test_takes_no_number_that_does_not_fit(self, fields):
        with pytest.raises(OverflowError):
            encode_frame(**fields)

    @pytest.mark.parametrize("payload", ["text", bytearray(1), None])
    def test_takes_bytes_only(self, payload):
        with pytest.raises(TypeError):
            encode_frame(1, payload)


class TestDecodeFrames:
    STREAM = b"".join(bytes(wire.Frame(wire.DATA, 3, 1, n, b"x" * (n * 7))) for n in range(20))

    def test_reads_what_the_independent_codec_writes(self):
        frames, used = decode_frames(self.STREAM)
        assert used == len(self.STREAM)
        assert frames == [(wire.DATA, 3, 1, n, b"x" * (n * 7)) for n in range(20)]

    def test_leaves_what_is_not_whole(self):
        for cut in range(0, len(self.STREAM), 13):
            frames, used = decode_frames(self.STREAM[:cut])
            rest, more = decode_frames(self.STREAM[used:])
            assert used <= cut
            assert len(frames) + len(rest) == 20
            assert used + more == len(self.STREAM)

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: array.array("B", b)])
    def test_takes_any_buffer(self, kind):
        assert len(decode_frames(kind(self.STREAM))[0]) == 20

    def test_takes_no_text(self):
        with pytest.raises(TypeError):
            decode_frames("text")

    def test_has_64_kib_as_the_usual_limit(self):
        assert len(decode_frames(bytes(wire.Frame(wire.DATA, 3, 1, 0, bytes(65536))))[0]) == 1
        with pytest.raises(FrameError, match="65537, limit 65536"):
            decode_frames(bytes(wire.Frame(wire.DATA, 3, 1, 0, bytes(65537))))

    def test_judges_a_header_before_its_payload_is_there(self):
        header = bytes(wire.Frame(wire.DATA, 3, 1, 0, bytes(100)))[:16]
        assert decode_frames(header, 100) == ([], 0)
        with pytest.raises(FrameError):
            decode_frames(header, 99)

    def test_lets_go_of_the_buffer_when_it_fails(self):
        data = bytearray(bytes(wire.Frame(0)))
        with pytest.raises(FrameError):
            decode_frames(data)
        data.append(0)  # would raise BufferError


class TestHello:
    def test_comes_back_as_it_went(self):
        fields = {
            **HELLO,
            "max_frame_size": 1 << 20,
            "max_message_size": 1 << 30,
            "route_credit": 1 << 40,
            "session_credit": 1 << 62,
            "keepalive": 0xFFFFFFFF,
            "max_connections": 1,
        }
        secret = bytes(range(32))
        for welcome, kind in ((False, wire.HELLO), (True, wire.WELCOME)):
            [frame] = wire.parse(encode_hello(**fields, secret=secret, welcome=welcome))
            assert frame.type == kind
            told = {"secret": secret} if welcome else {}
            assert decode_hello(frame.payload) == {**fields, **told}

    def test_is_read_as_the_independent_codec_writes_it(self):
        [frame] = wire.parse(wire.hello(max_connections=5))
        assert decode_hello(frame.payload)["max_connections"] == 5

    @pytest.mark.parametrize("field", ["session_id", "nonce"])
    @pytest.mark.parametrize("size", [0, 15, 17])
    def test_has_ids_of_sixteen_bytes(self, field, size):
        with pytest.raises(ValueError, match="16 bytes"):
            encode_hello(**{**HELLO, field: bytes(size)})


class TestFrameError:
    def test_says_what_where_and_why(self):
        with pytest.raises(FrameError) as caught:
            decode_frames(bytes(wire.Frame(wire.FIN)))
        assert isinstance(caught.value, ValueError)
        assert caught.value.code == wire.MALFORMED
        assert caught.value.section == "3.1"
        assert str(caught.value) == "route 0 where a route is due (PROTOCOL.md section 3.1)"

    def test_codes_have_the_names_of_the_protocol(self):
        assert _frame.CODE_NAMES[wire.MALFORMED] == "MALFORMED"
