"""How a case becomes another: steps come, go, change places and change a little."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

from fuzz.cases import Case, Step
from tcpconn._frame import WIRE

MOST_STEPS = 120

_TYPES = list(WIRE["types"].values())
_EDGES = sorted(
    {
        max(0, (1 << bits) + more)
        for bits in (0, 1, 2, 3, 4, 6, 8, 10, 14, 16, 17, 20, 24, 31, 32, 40, 62, 63, 64)
        for more in (-1, 0, 1)
    }
    | {17, 48, 64 + 16384, 65536 - 16, 65536 - 64, 100, 1000, 2000, 5000}
)
_SMALL = [0, 1, 2, 3, 4, 5, 7, 8]
_SIZES = [0, 1, 7, 8, 9, 100, 1023, 1024, 1025, 1032, 4096, 16368, 16383, 16384, 16385, 20000]
_LARGE = [65536 - 64, 65535, 65536, 65537, 100_000, 131072, 200_000]
_TIMES = [1, 1000, 1_000_000, 25_000_000, 50_000_000, 10**9, 30 * 10**9, 61 * 10**9, 10**13]
_OPTIONS: dict[str, list[Any]] = {
    "max_message_size": [65536, 65537, 100_000, 1 << 20],
    "max_frame_size": [16384, 16385, 65536, 1 << 20],
    "connection_credit": [65536, 65537, 262144],
    "max_connection_credit": [262144, 1 << 20],
    "session_credit": [1 << 20, (1 << 20) + 1, 1 << 22],
    "send_queue_size": [65536, 100_000, 1 << 20],
    "max_connections": [1, 2, 5, 100],
    "max_unaccepted": [1, 2, 100],
    "ping_burst": [10, 1000],
    "reset_burst": [1000, 100_000],
    "message_timeout": [0.001, 1.0, 30.0],
    "max_control_frames": [1, 2, 1000],
    "receive_memory": [1 << 22, 1 << 23, 1 << 25],
}
_HELLO = ("max_frame_size", "max_message_size", "route_credit", "session_credit", "keepalive")
_DO = (
    "accept", "accept", "open", "send", "send", "receive", "receive", "finish", "close", "abort",
    "goaway", "ping", "ask_for_ack", "drain", "lost",
)  # fmt: skip
_PAIR = (
    "carry", "carry", "write", "write", "read", "read", "time", "open", "open", "accept", "accept",
    "send", "send", "send", "receive", "receive", "finish", "close", "abort", "goaway", "ping",
    "ask_for_ack", "cut", "cut", "restart",
)  # fmt: skip
_FRAMES = (
    "FIN", "RESET", "RESET", "CREDIT", "CREDIT", "ACK", "ACK", "PING", "PONG", "GOAWAY", "OPEN",
    "any",
)  # fmt: skip
_DAMAGE = ("flip", "drop", "insert")


class Mutator:
    """Makes new cases of old ones. The same seed makes the same."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def mutate(self, case: Case, others: Sequence[Case]) -> Case:
        """A case like this one, perhaps with a piece of another of its kind."""
        rng = self.rng
        setup = dict(case.setup)
        steps = list(case.steps)
        for _ in range(rng.choice((1, 1, 1, 2, 2, 4, 8))):
            what = rng.random()
            at = rng.randrange(len(steps) + 1)
            if what < 0.3:
                steps.insert(at, self.new_step(case.target))
            elif what < 0.6 and steps:
                at = rng.randrange(len(steps))
                steps[at] = self.change(case.target, steps[at])
            elif what < 0.7 and steps:
                del steps[at : at + rng.choice((1, 1, 2, 5))]
            elif what < 0.8 and steps:
                there = rng.randrange(len(steps))
                steps[at:at] = copy.deepcopy(steps[there : there + rng.choice((1, 1, 2, 3, 8))])
            elif what < 0.87 and len(steps) > 1:
                one, other = rng.randrange(len(steps)), rng.randrange(len(steps))
                steps[one], steps[other] = steps[other], steps[one]
            elif what < 0.94 and others:
                theirs = rng.choice(others)
                if theirs.target == case.target and theirs.steps:
                    there = rng.randrange(len(theirs.steps))
                    steps[at:at] = copy.deepcopy(theirs.steps[there : there + rng.randrange(1, 12)])
            else:
                setup = self.new_setup(case.target, setup)
        return Case(case.target, setup, steps[:MOST_STEPS])

    def number(self) -> int:
        """A number that something may go wrong at."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.5:
            return rng.choice(_SMALL)
        return rng.choice(_EDGES) if kind < 0.8 else rng.choice(_SIZES)

    def size(self) -> int:
        """The size of a message or chunk."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.1:
            return rng.choice(_LARGE)
        return rng.choice(_SIZES) if kind < 0.8 else rng.randrange(20_000)

    def body(self) -> str:
        """A payload in hex."""
        rng = self.rng
        parts = []
        for _ in range(rng.choice((0, 1, 1, 2, 3, 8))):
            width = rng.choice((1, 2, 4, 8, 16))
            parts.append((self.number() % (1 << (8 * width))).to_bytes(width, "big"))
        return b"".join(parts).hex()

    def new_step(self, target: str) -> Step:
        """A step that makes sense, more or less."""
        rng = self.rng
        if target == "decoder":
            return ["raw", self.header().hex() + self.body()]
        if target == "pair":
            word = rng.choice(_DAMAGE) if rng.random() < 0.03 else rng.choice(_PAIR)
            size = self.size()
            if word == "time":
                size = rng.choice(_TIMES)
            elif word in ("read", "write"):
                size = rng.choice((1, 15, 16, 17, 100, 1000, 5000, 65536, 1 << 20))
            return [word, rng.randrange(2), rng.randrange(8), size]
        kind = rng.random()
        if kind < 0.15:
            return ["open", rng.choice((1, 1, 2, 2, 3, 4)), rng.randrange(6), rng.choice((0, 0, 2))]
        if kind < 0.3:
            return [
                "message",
                rng.choice((1, 1, 2, 3)),
                self.size(),
                rng.choice((1024, 2000, 16000)),
            ]
        if kind < 0.4:
            flags = rng.choice((0, 1, 2, 3))
            return ["data", rng.choice((1, 1, 2, 3)), flags, self.number(), self.size()]
        if kind < 0.6:
            return ["do", rng.choice(_DO), rng.randrange(6), self.size()]
        if kind < 0.65:
            return ["time", rng.choice(_TIMES)]
        if kind < 0.7:
            return ["out", rng.choice((1, 15, 16, 17, 100, 5000, 1 << 20))]
        if kind < 0.72:
            return ["raw", self.header().hex() + self.body()]
        if kind < 0.74:
            return ["hello", self.hello({})]
        return self.frame()

    def frame(self) -> Step:
        """A frame of any type with a payload of the right length, mostly."""
        rng = self.rng
        name = rng.choice(_FRAMES)
        route = rng.choice((0, 1, 1, 2, 3)) if rng.random() < 0.9 else self.number()
        offset = 0 if rng.random() < 0.95 else rng.choice((-1, 1, -5, 1 << 31))
        if name == "any":
            kind = rng.choice(_TYPES) if rng.random() < 0.8 else rng.randrange(256)
            return ["frame", kind, rng.choice((0, 1, 2, 4, 7)), route, offset, self.body()]
        kind = WIRE["types"][name]
        flags = rng.choice((0, 4)) if name == "RESET" else 0
        widths = {"FIN": (), "RESET": (4,), "CREDIT": (8,), "ACK": (8,), "PING": (8, 8),
                  "PONG": (8, 8), "GOAWAY": (4, 4), "OPEN": (16, 1)}[name]  # fmt: skip
        body = b"".join((self.number() % (1 << (8 * w))).to_bytes(w, "big") for w in widths)
        if name in ("ACK", "PING", "PONG"):
            route = 0
        return ["frame", kind, flags, route, offset, body.hex()]

    def header(self) -> bytes:
        """Sixteen bytes that may be a header."""
        rng = self.rng
        return (
            (rng.choice(_SIZES) if rng.random() < 0.8 else self.number() % (1 << 32)).to_bytes(
                4, "big"
            )
            + bytes([rng.choice(_TYPES), rng.choice((0, 1, 2, 3, 4, 255)), 0, 0])
            + (self.number() % (1 << 32)).to_bytes(4, "big")
            + (self.number() % (1 << 32)).to_bytes(4, "big")
        )

    def hello(self, fields: dict[str, Any]) -> dict[str, Any]:
        """What a greeting says."""
        changed = dict(fields)
        changed[self.rng.choice(_HELLO)] = self.rng.choice(_EDGES)
        return changed

    def new_setup(self, target: str, setup: dict[str, Any]) -> dict[str, Any]:
        """Other options, the other side, or bytes that are split."""
        rng = self.rng
        if target == "decoder":
            return setup
        changed = copy.deepcopy(setup)
        name = rng.choice(("client", "server")) if target == "pair" else "options"
        chosen = changed.setdefault(name, {})
        option = rng.choice(list(_OPTIONS))
        chosen[option] = rng.choice(_OPTIONS[option])
        if target == "session":
            if rng.random() < 0.3:
                changed["client"] = not changed.get("client")
            if rng.random() < 0.5:
                changed["piece"] = rng.choice((0, 1, 2, 3, 15, 16, 17, 1000, 4000))
        return changed

    def change(self, target: str, step: Step) -> Step:
        """The same step with another argument."""
        rng = self.rng
        changed = list(step)
        at = rng.randrange(len(step))
        if at == 0:
            return self.new_step(target)
        value = step[at]
        if isinstance(value, dict):
            changed[at] = self.hello(value)
        elif isinstance(value, int):
            if rng.random() < 0.3:
                changed[at] = value + rng.choice((-1, 1, -8, 8, -16, 16, 64))
            else:
                changed[at] = self.size() if rng.random() < 0.3 else self.number()
        elif step[0] in ("raw", "frame"):
            changed[at] = self.bytes(bytes.fromhex(value)).hex()
        else:
            return self.new_step(target)
        return changed

    def bytes(self, data: bytes) -> bytes:
        """The same bytes, but for some."""
        rng = self.rng
        changed = bytearray(data)
        at = rng.randrange(len(changed) + 1)
        what = rng.random()
        if what < 0.4 and changed:
            changed[at % len(changed)] ^= 1 << rng.randrange(8)
        elif what < 0.6 and changed:
            width = rng.choice((1, 2, 4, 8))
            changed[at : at + width] = (self.number() % (1 << (8 * width))).to_bytes(width, "big")
        elif what < 0.75:
            changed[at:at] = bytes.fromhex(self.body())
        elif what < 0.9:
            del changed[at : at + rng.choice((1, 2, 4, 8, 16))]
        else:
            changed += changed[at : at + rng.choice((4, 16, 64))]
        return bytes(changed)
