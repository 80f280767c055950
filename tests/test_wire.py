"""The values of the wire, every number written out: a change here is a change of the protocol."""

from tcpconn import _frame


def test_every_value_is_what_the_protocol_says():
    assert _frame.WIRE == {
        "preface": b"TCPCONN\x01",
        "version": 1,
        "header_size": 16,
        "types": {
            "HELLO": 0x01,
            "WELCOME": 0x02,
            "REJECT": 0x03,
            "RESUME": 0x04,
            "RESUMED": 0x05,
            "AUTH": 0x06,
            "OPEN": 0x10,
            "DATA": 0x11,
            "FIN": 0x12,
            "RESET": 0x13,
            "CREDIT": 0x20,
            "ACK": 0x21,
            "PING": 0x22,
            "PONG": 0x23,
            "GOAWAY": 0x24,
        },
        "skippable": 0x80,
        "flags": {"FIRST": 0x01, "LAST": 0x02, "PEER": 0x04},
        "tags": {
            "session_id": 1,
            "nonce": 2,
            "max_frame_size": 3,
            "max_message_size": 4,
            "route_credit": 5,
            "session_credit": 6,
            "keepalive": 7,
            "max_connections": 8,
            "secret": 9,
            "epoch": 16,
            "received": 17,
            "proof": 18,
        },
        "codes": {
            "NONE": 0,
            "PROTOCOL": 1,
            "VERSION": 2,
            "FRAME_SIZE": 3,
            "MESSAGE_SIZE": 4,
            "CREDIT": 5,
            "SEQUENCE": 6,
            "STATE": 7,
            "MALFORMED": 8,
            "REFUSED": 9,
            "LIMIT": 10,
            "UNKNOWN_SESSION": 11,
            "DUPLICATE": 12,
            "ABORTED": 13,
            "INTERNAL": 14,
            "SHUTDOWN": 15,
            "CLOSED": 16,
            "TIMEOUT": 17,
            "AUTHENTICATION": 18,
        },
        "limits": {
            "min_frame_size": 16384,
            "max_frame_size": 1048576,
            "min_message_size": 65536,
            "min_route_credit": 65536,
            "min_session_credit": 1048576,
            "max_hello_size": 4096,
            "max_open_size": 1024,
            "max_text_size": 1024,
            "min_chunk": 1024,
            "frame_cost": 64,
            "max_priority": 7,
        },
    }


def test_codes_have_names():
    assert _frame.CODE_NAMES[0] == "NONE"
    assert _frame.CODE_NAMES[18] == "AUTHENTICATION"
    assert len(_frame.CODE_NAMES) == 19


def test_a_header_is_sixteen_bytes_big_endian():
    frame = _frame.encode_frame(0x11, b"abc", flags=0x03, route=0x01020304, sequence=0xFFFEFDFC)
    assert frame == bytes.fromhex("00000003 11 03 0000 01020304 fffefdfc 616263")


def test_a_hello_has_its_fields_in_order():
    frame = _frame.encode_hello(
        session_id=bytes(range(16)),
        nonce=bytes(range(16, 32)),
        max_frame_size=0x10000,
        max_message_size=0x1000000,
        route_credit=0x40000,
        session_credit=0x4000000,
        keepalive=10000,
        max_connections=100000,
    )
    assert frame == bytes.fromhex(
        "00000064 01 00 0000 00000000 00000000"
        "0001 0010 000102030405060708090a0b0c0d0e0f"
        "0002 0010 101112131415161718191a1b1c1d1e1f"
        "0003 0004 00010000"
        "0004 0008 0000000001000000"
        "0005 0008 0000000000040000"
        "0006 0008 0000000004000000"
        "0007 0004 00002710"
        "0008 0004 000186a0"
    )
