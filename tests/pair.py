"""Two sessions with a wire and a clock between them that exist only in the test."""

from __future__ import annotations

import itertools

import wire
from tcpconn._buffer import BlockPool
from tcpconn._session import Session
from tcpconn.options import Options

MS = 1_000_000
"""A millisecond of the clock."""


def uid(number: int) -> bytes:
    """A connection's id."""
    return number.to_bytes(16, "big")


def payload(size: int, seed: int = 0) -> bytes:
    """`size` bytes in which a misplaced part shows: no two 8-byte words are alike."""
    words = (size + 7) // 8
    start = (seed + 1) << 40
    return b"".join((start + n).to_bytes(8, "big") for n in range(words))[:size]


class Pair:
    """A client's and a server's session. Nothing moves but by `carry` and `pass_on`."""

    def __init__(
        self,
        client: Options | None = None,
        server: Options | None = None,
        *,
        shake: bool = True,
        blocks: BlockPool | None = None,
        server_blocks: BlockPool | None = None,
    ) -> None:
        self.blocks = BlockPool() if blocks is None else blocks
        self.client = Session(client, client=True, blocks=self.blocks)
        self.server = Session(
            server, client=False, blocks=server_blocks or self.blocks, secret=bytes(range(32))
        )
        self.now = 1000 * MS
        self.on_wire = {self.client: bytearray(), self.server: bytearray()}
        self.ids = itertools.count(1)
        if shake:
            self.carry()
            assert self.client.is_open
            assert self.server.is_open

    def other(self, session: Session) -> Session:
        """The peer of a session."""
        return self.server if session is self.client else self.client

    def write(self, session: Session, most: int = 1 << 30) -> int:
        """Lets a session put at most `most` bytes on its wire, if it wants to; how many it did."""
        if not session.wants_write:
            return 0
        data = session.output(most)
        self.on_wire[session] += data
        return len(data)

    def read(self, session: Session, most: int = 1 << 30) -> int:
        """Lets a session take at most `most` bytes from the wire; how many it did."""
        waiting = self.on_wire[self.other(session)]
        data = bytes(waiting[:most])
        if not data and not session.is_paused:
            return 0
        taken = session.feed(data, self.now)
        if session.end is not None:
            taken = len(data)  # it takes nothing more
        del waiting[:taken]
        return taken

    def pass_on(self, session: Session) -> int:
        """Carries all that a session has to say now to its peer; how many bytes."""
        total = 0
        while written := self.write(session):
            total += written
        self.read(self.other(session))
        return total

    def carry(self) -> None:
        """Carries bytes both ways until there are none."""
        while self.pass_on(self.client) + self.pass_on(self.server):
            pass

    def advance(self, nanoseconds: int) -> None:
        """Moves the clock on and tells both sessions."""
        self.now += nanoseconds
        self.client.tick(self.now)
        self.server.tick(self.now)

    def cut(self) -> None:
        """The link breaks: what is on the wire is lost."""
        for session in (self.client, self.server):
            self.on_wire[session].clear()
            assert session.lost()

    def resume(self) -> None:
        """There is another link. (The handshake is made outside the sessions.)"""
        taken = self.client.taken, self.server.taken
        assert self.client.resume(taken[1])
        assert self.server.resume(taken[0])

    def restart(self) -> None:
        """The server has forgotten all, and the client begins again."""
        self.cut()
        self.client.lose()
        self.server = Session(client=False, blocks=self.blocks, secret=bytes(range(32)))
        self.on_wire = {self.client: bytearray(), self.server: bytearray()}
        self.carry()

    def settle(self) -> None:
        """Carries everything, the acks that wait for their time too."""
        self.carry()
        self.advance(100 * MS)
        self.carry()

    def open(self, priority: int = 3) -> bytes:
        """A connection that the client has opened and the server accepted."""
        name = uid(next(self.ids))
        assert self.client.open(name, priority) == 0
        self.carry()
        assert self.server.accept() == name
        return name

    def check(self) -> None:
        """Neither side finds fault with the other."""
        assert self.client.end is None
        assert self.server.end is None

    def check_idle(self) -> None:
        """All that was held for messages has been given back."""
        self.check()
        for session in (self.client, self.server):
            stats = session.stats()
            assert stats["messages_in_use"] == 0
            assert stats["pieces_in_use"] == 0
            assert stats["unread_bytes"] == 0
            assert stats["outgoing_bytes"] == 0
            assert stats["queued_bytes"] == 0
            assert stats["reserved"] == 0
            assert stats["expected_bytes"] == 0
            assert stats["retired_bytes"] == 0
            assert stats["acked"] == stats["sequence"]


def drain(session: Session) -> list[wire.Frame]:
    """All frames that a session has to say now."""
    data = b""
    while more := session.output():
        data += more
    return wire.parse(data)


def receive_all(session: Session, id: bytes) -> list[bytes]:
    """All unread messages of a connection."""
    messages = []
    while (message := session.receive(id)) is not None:
        messages.append(message)
    return messages


class Peer:
    """A hand-driven peer of one session: it sends the frames that a test writes."""

    def __init__(
        self,
        options: Options | None = None,
        *,
        client: bool = False,
        blocks: BlockPool | None = None,
        **hello,
    ) -> None:
        self.now = 1000 * MS
        self.blocks = BlockPool() if blocks is None else blocks
        self.session = Session(options, client=client, blocks=self.blocks)
        self.send = wire.Writer()
        first = self.session.output()
        if client:
            hello["session"] = wire.tags_of(first[24:])[1]
        self.feed(wire.PREFACE, wire.hello(wire.WELCOME if client else wire.HELLO, **hello))
        self.session.output()
        assert self.session.is_open

    def feed(self, *frames: bytes) -> None:
        """Sends frames to the session."""
        data = b"".join(frames)
        assert self.session.feed(data, self.now) == len(data)

    def said(self, *types: int) -> list[wire.Frame]:
        """What the session has said since the last time: the frames of these types, or all."""
        return [frame for frame in drain(self.session) if not types or frame.type in types]

    def opened(self, id: bytes, route: int = 1) -> bytes:
        """A connection that this peer opened and the session accepted."""
        self.feed(self.send.open(route, id))
        assert self.session.accept() == id
        return id
