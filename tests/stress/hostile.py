"""A hundred peers that mean no good, in one thread: each goes to another limit, again and again.

Run as a process of its own: `python hostile.py ADDRESS`. It says how many there are when all have
begun, and each kind when one of it is cut off for the first time. It goes on until its standard
input ends, and says then how often each kind was cut off.
"""

from __future__ import annotations

import collections
import contextlib
import json
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator

import wire

EACH = 8
"""Peers of a kind."""

BREATH = 0.02
"""Seconds that a peer rests between two lots of what it says: they are to load the limits, and not
the processor, which they share with who is attacked."""

GREETING = wire.PREFACE + wire.hello()
GENEROUS = wire.PREFACE + wire.hello(
    max_message_size=1 << 24, route_credit=1 << 40, session_credit=1 << 40
)

Script = Iterator[bytes]
"""What a peer says, lot by lot."""


def uid(number: int) -> bytes:
    """A connection's id."""
    return number.to_bytes(16, "big")


def slow_handshake() -> Script:
    """A byte at a time."""
    for byte in GREETING:
        yield bytes([byte])


def silent() -> Script:
    """Says nothing at all."""
    while True:
        yield b""


def garbage() -> Script:
    """Speaks something else."""
    yield b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100


def endless_chunks() -> Script:
    """A message of which there is always more to come, as slowly as may be."""
    writer = wire.Writer()
    yield GREETING + writer.open(1, uid(1)) + writer.first(1, 1 << 20, bytes(1024))
    for _ in range(1022):
        yield writer.middle(1, bytes(1024))
        for _ in range(20):
            yield wire.ack(0)


def tiny_chunks() -> Script:
    """Chunks of a byte each."""
    writer = wire.Writer()
    yield GREETING + writer.open(1, uid(1)) + writer.first(1, 1 << 20, bytes(1024))
    while True:
        yield writer.middle(1, b"x")


def open_flood() -> Script:
    """Connections, and never an end of one."""
    writer = wire.Writer()
    yield GREETING
    route = 0
    while True:
        lot = b""
        for _ in range(300):
            route += 1
            lot += writer.open(route, uid(route))
        yield lot


def reset_flood() -> Script:
    """Connections that are broken off at once."""
    writer = wire.Writer()
    yield GREETING
    route = 0
    while True:
        lot = b""
        for _ in range(100):
            route += 1
            lot += writer.open(route, uid(route)) + writer.reset(route)
        yield lot


def ping_flood() -> Script:
    """More PINGs than anybody needs."""
    yield GREETING
    while True:
        yield b"".join(wire.ping(token) for token in range(20))


def credit_overflow() -> Script:
    """More than was granted."""
    writer = wire.Writer()
    yield GREETING + writer.open(1, uid(1))
    while True:
        yield writer.whole(1, bytes(60_000))


def never_reads() -> Script:
    """Asks for answers and takes none."""
    writer = wire.Writer()
    yield GENEROUS + writer.open(1, uid(1))
    while True:
        yield writer.whole(1, bytes(8000))


def never_acknowledges() -> Script:
    """Reads all answers, but never says so."""
    writer = wire.Writer()
    yield GENEROUS + writer.open(1, uid(1))
    while True:
        yield writer.whole(1, bytes(30_000))


def huge_sizes() -> Script:
    """Announces as much as it may, and sends the least of it."""
    writer = wire.Writer()
    yield GREETING
    for route in range(1, 65):
        yield writer.open(route, uid(route)) + writer.first(route, 1 << 20, bytes(1024))
    while True:
        yield wire.ack(0)


def huge_messages() -> Script:
    """Sends as much as it may of messages that it never ends."""
    writer = wire.Writer()
    yield GREETING
    for route in range(1, 61):
        yield writer.open(route, uid(route)) + writer.first(route, 1 << 20, bytes(60_000))
    for _ in range(14):
        for route in range(1, 61):
            yield writer.middle(route, bytes(65_000))
    while True:
        yield wire.ack(0)


KINDS: dict[str, Callable[[], Script]] = {
    each.__name__: each
    for each in (
        slow_handshake,
        silent,
        garbage,
        endless_chunks,
        tiny_chunks,
        open_flood,
        reset_flood,
        ping_flood,
        credit_overflow,
        never_reads,
        never_acknowledges,
        huge_sizes,
        huge_messages,
    )
}
DEAF = {"never_reads"}


class Peer:
    """One of them. Begins anew when it is cut off."""

    def __init__(self, kind: str, address: tuple[str, int], cuts: collections.Counter[str]) -> None:
        self.kind = kind
        self.address = address
        self.cuts = cuts
        self.rest_until = 0.0
        self.begin()

    def begin(self) -> None:
        """Connects."""
        self.sock = socket.socket()
        if self.kind in DEAF:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            self.sock.connect(self.address)
        self.script = KINDS[self.kind]()
        self.unsent = b""

    def step(self, now: float) -> None:
        """Says and hears what can be said and heard now."""
        try:
            if self.kind not in DEAF:
                with contextlib.suppress(BlockingIOError):
                    while heard := self.sock.recv(1 << 18):
                        if len(heard) < 1 << 18:
                            break
                    if not heard:
                        raise ConnectionResetError
            if now < self.rest_until:
                return
            if not self.unsent:
                self.rest_until = now + BREATH
                self.unsent = next(self.script)
            if self.unsent:
                with contextlib.suppress(BlockingIOError):
                    self.unsent = self.unsent[self.sock.send(self.unsent) :]
        except (OSError, StopIteration):
            self.cuts[self.kind] += 1
            if self.cuts[self.kind] == 1:
                print(self.kind, flush=True)
            self.sock.close()
            self.rest_until = now + 10 * BREATH
            self.begin()


def main() -> None:
    """The process."""
    host, _, port = sys.argv[1].rpartition(":")
    cuts: collections.Counter[str] = collections.Counter()
    peers = [Peer(kind, (host, int(port)), cuts) for kind in KINDS for _ in range(EACH)]
    print(len(peers), flush=True)
    while True:
        now = time.monotonic()
        for peer in peers:
            peer.step(now)
        if select.select([sys.stdin], [], [], BREATH / 4)[0]:
            break
    for peer in peers:
        peer.sock.close()
    print(json.dumps(cuts), flush=True)


if __name__ == "__main__":
    main()
