"""Two sessions, and a wire between them that may be bad, and breaks: nothing is lost, doubled or
reordered on one that only breaks."""

from __future__ import annotations

from fuzz.cases import Case, Step
from fuzz.common import CEILING, LONGEST, MS, check, check_blocks, options_of, payload, u, uid
from tcpconn._buffer import BlockPool
from tcpconn._frame import WIRE
from tcpconn._session import Session

SECRET = bytes(range(32))


class Sent:
    """What one side ever sent on a connection, and how far the other has received it."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.received = 0
        self.before = 0
        """How many were sent when the session, or the connection, began."""

    def take(self, message: bytes) -> None:
        """The other received this."""
        try:
            self.received = self.messages.index(message, self.received) + 1
        except ValueError:
            check(False, f"a message of {len(message)} bytes twice, out of order or never sent")


class Both:
    """A client's and a server's session, and what is on its way between them."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.blocks = BlockPool()
        self.sessions = [self.make(client=True), self.make(client=False)]
        self.wires = [bytearray(), bytearray()]
        self.now = 1000 * MS
        self.honest = True
        self.over = False
        self.ambiguous: set[tuple[int, bytes]] = set()
        self.held: list[list[bytes]] = [[], []]
        self.sent: list[dict[bytes, Sent]] = [{}, {}]
        self.carried = 0

    def make(self, client: bool) -> Session:
        """One side."""
        return Session(
            options_of(self.case.setup.get("client" if client else "server", {})),
            client=client,
            blocks=self.blocks,
            secret=None if client else SECRET,
        )

    def step(self, step: Step) -> None:
        """One step."""
        word, side, which, size = step
        side = u(side, 1)
        session, held = self.sessions[side], self.held[side]
        if word == "carry":
            self.carry()
        elif word == "write":
            self.write(side, max(1, u(size, 24)))
        elif word == "read":
            self.read(side, max(1, u(size, 24)))
        elif word == "time":
            self.now += u(size, 45)
            for each in self.sessions:
                each.tick(self.now)
        elif word in ("flip", "drop", "insert"):
            self.damage(word, side, which, size)
        elif word in ("cut", "restart"):
            self.cut(word == "restart")
        elif word == "open":
            name = uid(u(which, 4))
            if session.open(name, u(size, 3)) == 0:
                self.hold(side, name)
        elif word == "accept":
            if (opened := session.accept()) is not None:
                self.hold(side, opened)
        elif word == "goaway":
            session.goaway()
        elif word in ("ping", "ask_for_ack"):
            getattr(session, word)(self.now)
        elif held:
            self.use(word, side, held[which % len(held)], size)

    def hold(self, side: int, name: bytes) -> None:
        """A connection is used from now on. There may be one of before that has the same name."""
        if name in self.held[side]:
            self.ambiguous.add((side, name))
        if (sent := self.sent[side].get(name)) is not None:
            sent.before = len(sent.messages)
        self.held[side].append(name)

    def use(self, word: str, side: int, name: bytes, size: int) -> None:
        """Something done with a connection."""
        session = self.sessions[side]
        if word == "send":
            sent = self.sent[side].setdefault(name, Sent())
            message = payload(size, len(sent.messages))
            if session.send(name, message) is True:
                sent.messages.append(message)
        elif word == "receive":
            while (message_in := session.receive(name)) is not None:
                if self.honest and (side, name) not in self.ambiguous:
                    self.sent[1 - side][name].take(message_in)
        elif word == "finish":
            session.finish(name)
        elif word in ("close", "abort"):
            self.held[side].remove(name)
            session.close(name, word == "abort")

    def cut(self, restart: bool) -> None:
        """The link breaks: what is on the wire is lost. There is another, and the session goes on;
        or the server has forgotten it, and the client begins anew."""
        client, server = self.sessions
        begins = client.begins
        kept = client.lost(), server.lost() or begins
        for wire in self.wires:
            wire.clear()
        if not all(kept):
            self.over = True
        elif begins:
            self.restart()
        elif not restart:
            taken = client.taken, server.taken
            resumed = client.resume(taken[1]), server.resume(taken[0])
            check(all(resumed) or not self.honest, "a session cannot be resumed")
            self.over = not all(resumed)
        else:
            client.lose()
            self.restart()
            for name in self.held[0]:
                self.account(client, name)

    def restart(self) -> None:
        """The server knows nothing any more."""
        self.sessions[1] = self.make(client=False)
        self.held[1] = []

    def account(self, client: Session, name: bytes) -> None:
        """What a connection is told of the lost session fits what was sent on it."""
        told = client.loss(name)
        sent = self.sent[0].get(name)
        if told is None or sent is None or not self.honest or (0, name) in self.ambiguous:
            return
        acked, in_doubt, unsent = told
        # All in order, but for those that were given up when the peer closed the connection.
        at = sent.before + acked
        check(at <= len(sent.messages), "more are acknowledged than were sent")
        for message in (*in_doubt, *unsent):
            check(message in sent.messages[at:], "another message is in doubt")
            at = sent.messages.index(message, at) + 1
        check(not unsent or sent.received <= at - len(unsent), "what was received is called unsent")
        sent.before = len(sent.messages)

    def damage(self, word: str, side: int, which: int, size: int) -> None:
        """Something that TCP does not do."""
        wire = self.wires[side]
        at = u(which, 24) % (len(wire) + 1)
        if word == "insert":
            wire[at:at] = payload(u(size, 10))
        elif word == "drop" and wire:
            del wire[at : at + 1 + u(size, 10)]
        elif word == "flip" and at < len(wire):
            wire[at] ^= 1 << u(size, 3)
        else:
            return
        self.honest = False

    def write(self, side: int, most: int) -> int:
        """Lets a session put at most so many bytes on its wire; how many it did."""
        session = self.sessions[side]
        if not session.wants_write:
            return 0
        data = session.output(most)
        self.wires[side] += data
        return len(data)

    def read(self, side: int, most: int) -> int:
        """Lets a session take at most so many bytes from the wire; how many it did."""
        session, wire = self.sessions[side], self.wires[1 - side]
        data = bytes(wire[:most])
        if not data and not session.is_paused:
            return 0
        taken = session.feed(data, self.now)
        if session.end is not None:
            taken = len(data)  # it takes nothing more
        del wire[:taken]
        self.carried += taken
        return taken

    def carry(self) -> None:
        """Everything both ways, unless it is much."""
        for _ in range(100):
            moved = 0
            for side in (0, 1):
                moved += self.write(side, 1 << 18)
            for side in (0, 1):
                moved += self.read(side, 1 << 18)
            if not moved or self.carried > LONGEST:
                return


def run_pair(case: Case) -> None:
    """Where a wire only breaks, neither finds fault with the other; memory always comes back."""
    both = Both(case)
    both.carry()
    for step in case.steps:
        both.step(step)
        if both.over or both.carried > LONGEST:
            break
    if not both.over:
        both.carry()
    for session in both.sessions:
        end = session.end
        if both.honest and not both.over:
            # Who stops in the middle of a message, or holds still for days, is at fault itself.
            check(end is None or end[1] == WIRE["codes"]["TIMEOUT"], f"found fault: {end}")
            begun = session.is_open or both.carried > LONGEST
            check(end is not None or begun, "a session never began")
        stats = session.stats()
        check(stats["acked"] <= stats["sequence"], "more acknowledged than sent")
        check(0 <= stats["reserved"] <= CEILING, f"reserved {stats['reserved']}")
    blocks = both.blocks
    del both, session
    check_blocks(blocks)
