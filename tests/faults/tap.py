"""What a server has acknowledged, as a proxy in front of it sees it: session by session."""

from __future__ import annotations

import bisect
import collections

import wire
from faults.plan import UP


class Passed:
    """What has passed of one session, over however many links."""

    def __init__(self, session_id: bytes) -> None:
        self.session_id = session_id
        self.acked = 0
        """Sequenced frames of the client's that the server has acknowledged."""
        self._due = 0
        self._routes: dict[int, int] = {}
        self._ends: dict[int, list[int]] = collections.defaultdict(list)

    def up(self, frame: wire.Frame) -> None:
        """A sequenced frame on its way to the server."""
        if frame.number != self._due & 0xFFFFFFFF:
            return  # it has passed before, on another link
        if frame.type == wire.OPEN:
            self._routes[frame.route] = int.from_bytes(frame.payload[:16])
        elif frame.type == wire.DATA and frame.flags & wire.LAST:
            self._ends[self._routes[frame.route]].append(self._due)
        self._due += 1

    def messages(self, connection: int) -> int:
        """How many messages of a connection the server has acknowledged."""
        return bisect.bisect_left(self._ends[connection], self.acked)


class Tap:
    """Told of every frame; knows the sessions of one client, one after the other."""

    def __init__(self) -> None:
        self.sessions: list[Passed] = []

    def __call__(self, way: str, link: int, frame: wire.Frame, length: int) -> None:
        """For `Proxy`."""
        if frame.type == wire.HELLO:
            session_id = wire.tags_of(frame.payload)[1]
            if not self.sessions or self.sessions[-1].session_id != session_id:
                self.sessions.append(Passed(session_id))
        elif way == UP:
            if wire.OPEN <= frame.type <= wire.RESET:
                self.sessions[-1].up(frame)
        else:
            acked = 0
            if frame.type == wire.ACK:
                acked = wire.u64(frame.payload)
            elif frame.type in (wire.PING, wire.PONG):
                acked = wire.u64(frame.payload, 8)
            elif frame.type == wire.RESUMED:
                acked = wire.u64(wire.tags_of(frame.payload)[17])
            self.sessions[-1].acked = max(self.sessions[-1].acked, acked)
