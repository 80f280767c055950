"""A session and a peer that is nobody: it says whatever its steps are."""

from __future__ import annotations

import struct
from typing import Any

from fuzz.cases import Case, Step
from fuzz.common import CEILING, LONGEST, MS, check, check_blocks, options_of, payload, u, uid
from tcpconn._buffer import BlockPool
from tcpconn._frame import PREFACE, WIRE, decode_frames, encode_frame, encode_hello
from tcpconn._session import Session

PIECES = 48
"""So many small pieces are all that a header and what stands around it need."""

_TYPES = WIRE["types"]
_FIRST, _LAST = (WIRE["flags"][name] for name in ("FIRST", "LAST"))


class Scripted:
    """One session, and the steps of its peer."""

    def __init__(self, case: Case, piece: int) -> None:
        self.blocks = BlockPool()
        self.session = Session(
            options_of(case.setup.get("options", {})),
            client=bool(case.setup.get("client")),
            blocks=self.blocks,
        )
        self.client = bool(case.setup.get("client"))
        self.piece = piece
        self.now = 1000 * MS
        self.number = 0
        self.fed = 0
        self.waiting = b""
        self.paused = False
        self.said = bytearray()
        self.ids: list[bytes] = []
        self.received: list[tuple[bytes, bytes]] = []
        self.pull(1 << 30)

    def pull(self, most: int) -> None:
        """Lets the session write."""
        while most > 0 and self.session.wants_write:
            data = self.session.output(most)
            if not data:
                break
            self.said += data
            most -= len(data)

    def feed(self, data: bytes) -> None:
        """Gives it bytes, in pieces: of what is long, the most of it in large ones."""
        if self.fed + len(data) > LONGEST:
            return
        self.fed += len(data)
        data = self.waiting + data
        at = 0
        while at < len(data):
            step = self.piece or len(data)
            if at >= PIECES * step:
                step = max(step, len(data) // 5)
            piece = data[at : at + step]
            taken = self.session.feed(piece, self.now)
            at += taken
            self.paused |= self.session.is_paused
            if taken < len(piece):
                break
        self.waiting = b"" if self.session.end is not None else data[at:]

    def frame(self, kind: int, flags: int, route: int, number: int, body: bytes) -> None:
        """A frame whose number is relative to the one that is due."""
        kind = u(kind, 8)
        sequenced = 0x10 <= kind < 0x20
        wire = u(self.number + number if sequenced else number, 32)
        self.number += sequenced and number == 0
        self.feed(encode_frame(kind, body, flags=u(flags, 8), route=u(route, 32), sequence=wire))

    def hello(self, fields: dict[str, Any]) -> None:
        """The peer's greeting."""
        session = bytes(self.said[28:44]) if self.client else bytes(range(16))
        chosen: dict[str, Any] = {
            "max_frame_size": u(fields.get("max_frame_size", 16384), 32),
            "max_message_size": u(fields.get("max_message_size", 65536), 64),
            "route_credit": u(fields.get("route_credit", 65536), 64),
            "session_credit": u(fields.get("session_credit", 1 << 20), 64),
            "keepalive": u(fields.get("keepalive", 0), 32),
            "max_connections": u(fields.get("max_connections", 100), 32),
        }
        greeting = encode_hello(session_id=session, nonce=bytes(16), welcome=self.client, **chosen)
        self.feed(PREFACE + greeting)

    def step(self, step: Step) -> None:
        """One step of the peer's or the user's."""
        word, *rest = step
        if word == "hello":
            self.hello(rest[0])
        elif word == "raw":
            self.feed(bytes.fromhex(rest[0]))
        elif word == "frame":
            kind, flags, route, number, body = rest
            self.frame(kind, flags, route, number, bytes.fromhex(body))
        elif word == "open":
            route, name, flags = rest
            self.frame(_TYPES["OPEN"], flags, route, 0, uid(name) + b"\3")
        elif word == "data":
            route, flags, total, size = rest
            body = struct.pack(">Q", u(total, 64)) if flags & 3 == _FIRST else b""
            self.frame(_TYPES["DATA"], flags, route, 0, body + payload(size))
        elif word == "message":
            self.message(*rest)
        elif word == "time":
            self.now += u(rest[0], 50)
            self.session.tick(self.now)
        elif word == "out":
            self.pull(u(rest[0], 30))
        elif word == "do":
            self.do(*rest)

    def message(self, route: int, size: int, chunk: int) -> None:
        """A whole message in chunks, as it should be."""
        data = payload(size)
        chunk = max(1024, u(chunk, 14))
        if len(data) <= chunk:
            self.frame(_TYPES["DATA"], _FIRST | _LAST, route, 0, data)
            return
        for at in range(0, len(data), chunk):
            body = data[at : at + chunk]
            flags = (_FIRST if at == 0 else 0) | (_LAST if at + chunk >= len(data) else 0)
            if at == 0:
                body = struct.pack(">Q", len(data)) + body
            self.frame(_TYPES["DATA"], flags, route, 0, body)

    def do(self, what: str, which: int, size: int) -> None:
        """What the session's user does."""
        session = self.session
        if what == "accept":
            if (name := session.accept()) is not None:
                self.ids.append(name)
        elif what == "open":
            name = uid(which)
            if session.open(name, u(size, 3)) == 0:
                self.ids.append(name)
        elif what in ("goaway", "lost"):
            getattr(session, what)()
        elif what in ("ping", "ask_for_ack"):
            getattr(session, what)(self.now)
        elif what == "drain":
            self.pull(1 << 30)
        elif self.ids:
            name = self.ids[which % len(self.ids)]
            if what == "send":
                session.send(name, payload(size, which))
            elif what == "receive":
                while (message := session.receive(name)) is not None:
                    self.received.append((name, message))
            elif what == "finish":
                session.finish(name)
            elif what in ("close", "abort"):
                self.ids.remove(name)
                session.close(name, what == "abort")

    def outcome(self) -> Any:
        """What came of it, whichever way it was fed."""
        stats: dict[str, int] = dict(self.session.stats())  # type: ignore[arg-type]
        for name in ("unread_bytes", "expected_bytes", "receive_credit", "send_credit", "reserved"):
            check(0 <= stats[name] <= CEILING, f"{name} is {stats[name]}")
        for name, most in (("messages_in_use", 1 << 20), ("connections", 1 << 17)):
            check(0 <= stats[name] <= most, f"{name} is {stats[name]}")
        check(stats["acked"] <= stats["sequence"], "more acknowledged than sent")
        names = ("frames_received", "received_sequence", "sequence", "acked", "connections")
        numbers = [len(self.waiting), *(stats[name] for name in names)]
        return (self.session.end, self.received, numbers, self.frames())

    def frames(self) -> list[Any]:
        """What it said, but for what is random in its greeting."""
        frames, _ = decode_frames(bytes(self.said[8:]), 1 << 20)
        greetings = (_TYPES["HELLO"], _TYPES["WELCOME"])
        return [frame for frame in frames if frame[0] not in greetings]


def run_session(case: Case) -> None:
    """However its bytes are split, the same comes of them, and all memory comes back."""
    outcomes = []
    paused = False
    pieces = [0]
    if case.setup.get("piece"):
        pieces.append(max(1, u(case.setup["piece"], 12)))
    for piece in pieces:
        scripted = Scripted(case, piece)
        for step in case.steps:
            scripted.step(step)
        scripted.pull(1 << 30)
        check_said(bytes(scripted.said))
        outcomes.append(scripted.outcome())
        paused |= scripted.paused
        blocks = scripted.blocks
        del scripted
        check_blocks(blocks)
    # What is held up is taken in when there is time for it, which is then another for each.
    check(paused or outcomes[0] == outcomes[-1], f"it matters how bytes are split: {outcomes}")


def check_said(said: bytes) -> None:
    """What a session says is what the protocol allows."""
    if not said:
        return
    check(said.startswith(PREFACE), "it does not begin with the preface")
    frames, used = decode_frames(said[8:], 1 << 20)
    left = said[8 + used :]
    check(not left or len(frames) > 0, "it says half a frame")
    number = 0
    for kind, *_, sequence, _ in frames:
        if 0x10 <= kind < 0x20:
            check(sequence == u(number, 32), "a gap in what it says")
            number += 1
