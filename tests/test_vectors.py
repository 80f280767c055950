"""The golden vectors in tests/vectors: bytes, and what PROTOCOL.md says must come of them.

Every one is given to the code whole and one byte at a time, which must make no difference.
"""

import json
import re
from pathlib import Path

import pytest

import wire
from tcpconn import _frame
from tcpconn._session import Session
from tcpconn.options import Options

VECTORS = Path(__file__).resolve().parent / "vectors"
FRAMES = json.loads((VECTORS / "frames.json").read_text())
HELLO = json.loads((VECTORS / "hello.json").read_text())
TALK = json.loads((VECTORS / "conversations.json").read_text())
PIECES = TALK["pieces"]
SPLITS = ["whole", "bytewise"]
NOW = 1_000_000_000


def unhex(text, session=b""):
    """The bytes that a vector's words stand for."""
    out = bytearray()
    for word in text.split():
        if word == "@session":
            out += session
        elif word.startswith("@"):
            out += unhex(PIECES[word[1:]], session)
        else:
            digits, _, times = word.partition("*")
            out += bytes.fromhex(digits) * int(times or 1)
    return bytes(out)


def named(vectors):
    return [pytest.param(vector, id=re.sub(r"\W+", "-", vector["name"])) for vector in vectors]


def pieces(data, split):
    return [data] if split == "whole" else [data[at : at + 1] for at in range(len(data))]


def decode(data, split):
    """All frames of `data` by `decode_frames`, and how many bytes are left over."""
    frames, held = [], b""
    for piece in pieces(data, split) or [b""]:
        held += piece
        found, used = _frame.decode_frames(held, 16384)
        frames += found
        held = held[used:]
    return frames, len(held)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("vector", named(FRAMES["valid"]))
def test_valid_frames(vector, split):
    expected = [
        (f["type"], f["flags"], f["route"], f["number"], unhex(f["payload"]))
        for f in vector["frames"]
    ]
    assert decode(unhex(vector["hex"]), split) == (expected, vector.get("left", 0))


@pytest.mark.parametrize("vector", named(FRAMES["valid"]))
def test_valid_frames_are_written_the_same(vector):
    written = b"".join(
        _frame.encode_frame(
            f["type"],
            unhex(f["payload"]),
            flags=f["flags"],
            route=f["route"],
            sequence=f["number"],
        )
        for f in vector["frames"]
    )
    data = unhex(vector["hex"])
    data = data[: len(data) - vector.get("left", 0)]
    if "reserved" not in vector["name"]:
        assert written == data


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("vector", named(FRAMES["malformed"]))
def test_malformed_frames(vector, split):
    with pytest.raises(_frame.FrameError) as caught:
        decode(unhex(vector["hex"]), split)
    assert (caught.value.code, caught.value.section) == (vector["code"], vector["section"])
    assert f"section {vector['section']}" in str(caught.value)


@pytest.mark.parametrize("vector", named(HELLO["valid"]))
def test_valid_hellos(vector):
    fields = {
        name: unhex(value) if isinstance(value, str) else value
        for name, value in vector["fields"].items()
    }
    assert _frame.decode_hello(unhex(vector["hex"])) == fields


@pytest.mark.parametrize("vector", named(HELLO["malformed"]))
def test_malformed_hellos(vector):
    with pytest.raises(_frame.FrameError) as caught:
        _frame.decode_hello(unhex(vector["hex"]))
    assert (caught.value.code, caught.value.section) == (vector["code"], vector["section"])


class Conversation:
    """One session, and a vector's steps."""

    def __init__(self, vector, split):
        self.vector = vector
        self.split = split
        self.said = b""
        options = Options(**{**TALK["options"], **vector.get("options", {})})
        self.session = Session(options, client=vector["role"] == "client")
        self.hello = b""
        if self.session.wants_write:  # a client begins
            self.hello = self.session.output()
        self.uid = wire.tags_of(self.hello[24:]).get(1, b"")
        if vector.get("handshake", True):
            welcome = "@welcome" if vector["role"] == "client" else "@hello"
            assert self.feed(unhex(f"@preface {welcome}", self.uid))
            self.hello += self.session.output()
            assert self.session.is_open

    def feed(self, data):
        """Whether all of `data` was wanted."""
        return all(
            self.session.feed(piece, NOW) == len(piece) for piece in pieces(data, self.split)
        )

    def drain(self):
        while data := self.session.output():
            self.said += data

    def run(self):
        for step in self.vector["steps"]:
            if isinstance(step, str):
                self.feed(unhex(step, self.uid))
            else:
                self.do(step)
        self.drain()

    def do(self, step):
        session, what = self.session, step["do"]
        uid = unhex(step.get("id", ""))
        if what == "open":
            assert session.open(uid) == 0
        elif what == "accept":
            # After a fault there may be nothing to accept.
            assert session.accept() is not None or session.end is not None
        elif what == "close":
            session.close(uid)
        elif what == "abort":
            session.close(uid, abruptly=True)
        elif what == "finish":
            session.finish(uid)
        elif what == "send":
            assert session.send(uid, unhex(step["hex"])) is True
        elif what == "goaway":
            session.goaway()
        else:
            assert what == "drain", what
            self.drain()


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("vector", named(TALK["conversations"]))
def test_conversations(vector, split):
    talk = Conversation(vector, split)
    talk.run()
    check_end(vector, talk)
    check_said(vector, talk)
    session = talk.session
    for uid, messages in vector.get("messages", {}).items():
        assert received(session, unhex(uid)) == [unhex(text) for text in messages]
    for uid, states in vector.get("state", {}).items():
        state = session.state(unhex(uid))
        assert [state["incoming"], state["outgoing"]] == states
    for uid, codes in vector.get("codes", {}).items():
        state = session.state(unhex(uid))
        assert [state["in_code"], state["out_code"]] == codes
    for uid, left in vector.get("send_credit", {}).items():
        assert session.state(unhex(uid))["send_credit"] == left
    for uid, code in vector.get("opens", {}).items():
        assert session.open(unhex(uid)) == code
    for name, counter in (
        ("connections", "connections"),
        ("session_credit", "send_credit"),
        ("acked", "acked"),
    ):
        if name in vector:
            assert session.stats()[counter] == vector[name]
    if "open" in vector:
        assert session.is_open == vector["open"]


def received(session, uid):
    messages = []
    while (message := session.receive(uid)) is not None:
        messages.append(message)
    return messages


def check_end(vector, talk):
    end = talk.session.end
    if vector["code"] == 0:
        assert end is None
        return
    kind, code, section, text = end
    assert (kind, code) == (vector.get("kind", "fault"), vector["code"])
    if kind == "fault":
        assert section == vector["section"]
        assert f"section {section}" in text
    if "text" in vector:
        assert text == vector["text"]


def check_said(vector, talk):
    """What was said is what the vector says, and after a fault the farewell of section 10."""
    said, hello = talk.said, talk.hello
    faulty = vector["code"] != 0 and vector.get("kind", "fault") == "fault"
    server = vector["role"] == "server"
    if not vector.get("handshake", True):
        if server and said.startswith(wire.PREFACE):
            hello, said = said[:8], said[8:]
        if server and vector["code"] == 0 and hello:
            [welcome, *_] = wire.parse(said)
            assert welcome.type == wire.WELCOME
            said = said[len(bytes(welcome)) :]
    frames = wire.parse(said)
    if faulty and (vector["section"] != "2" or (server and vector["code"] == wire.VERSION)):
        # A server that has not said WELCOME yet rejects. To a wrong preface, nothing is said.
        assert hello.startswith(wire.PREFACE)
        farewell = frames.pop()
        rejects = server and not vector.get("handshake", True)
        assert farewell.type == (wire.REJECT if rejects else wire.GOAWAY)
        payload = farewell.payload if rejects else farewell.payload[4:]
        assert wire.u32(payload) == vector["code"]
        assert 0 < len(payload[4:].decode()) <= 1024
    elif faulty:
        assert frames == []
    if "says" in vector:
        assert frames == [frame for text in vector["says"] for frame in wire.parse(unhex(text))]
