"""A pair of sessions over a link that breaks: whatever happens in whatever order, the messages are
those of a plain list, and what is lost is accounted for message by message.

Both the wire and the clock exist only here. The link breaks at any byte; of RESUME and RESUMED,
which are spoken outside of sessions, it matters only whether they arrive whole.
"""

from __future__ import annotations

import pytest

from pair import MS, Pair, payload, receive_all
from tcpconn._session import Session
from tcpconn.options import Options

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

KIB = 1024
SMALL = Options(
    max_frame_size=16 * KIB,
    max_message_size=256 * KIB,
    connection_credit=64 * KIB,
    max_connection_credit=64 * KIB,
    session_credit=1024 * KIB,
    send_queue_size=128 * KIB,
)
SIZES = (0, 1, 100, 5000, 16_384, 20_000, 65_536, 70_000, 200_000)
AMOUNTS = (1, 15, 16, 17, 100, 5000, 20_000, 100_000, 1 << 30)
sides = st.sampled_from(["client", "server"])
amounts = st.sampled_from(AMOUNTS)


class BreakingLink(RuleBasedStateMachine):
    """What two programs do with two connections, and what happens to their link."""

    @initialize(
        options=st.tuples(st.sampled_from([None, SMALL]), st.sampled_from([None, SMALL])),
    )
    def begin(self, options: tuple[Options | None, Options | None]) -> None:
        self.options = options
        self.pair = Pair(*options)
        self.names = [self.pair.open() for _ in range(2)]
        # A server's direction exists only once it has sent something.
        self.sent: dict[tuple[str, bytes], list[bytes]] = {}
        self.got: dict[tuple[str, bytes], list[bytes]] = {}
        self.count = 0
        self.up = True
        """Whether there is a link, as far as the client knows."""
        self.half_open = False
        """Whether the server has resumed, and the client does not know."""
        self._forget()

    def _forget(self) -> None:
        """A session begins: nothing was sent in it."""
        for side in ("client", "server"):
            for name in self.names:
                self.sent[side, name] = []
                self.got[side, name] = []

    def session(self, side: str) -> Session:
        session: Session = getattr(self.pair, side)
        return session

    # The two programs

    @rule(side=sides, index=st.integers(0, 1), size=st.sampled_from(SIZES))
    def send(self, side: str, index: int, size: int) -> None:
        name = self.names[index]
        message = payload(size, self.count)
        said = self.session(side).send(name, message)
        assert said in (True, "wait")
        if said is True:
            self.count += 1
            self.sent[side, name].append(message)

    @rule(side=sides, index=st.integers(0, 1))
    def receive(self, side: str, index: int) -> None:
        name = self.names[index]
        self.got[side, name] += receive_all(self.session(side), name)

    @rule(milliseconds=st.sampled_from([1, 50, 1000]))
    def time_passes(self, milliseconds: int) -> None:
        self.pair.advance(milliseconds * MS)

    # The wire

    @precondition(lambda self: self.up)
    @rule(side=sides, written=amounts, read=amounts)
    def carry(self, side: str, written: int, read: int) -> None:
        session = self.session(side)
        self.pair.write(session, written)
        self.pair.read(self.pair.other(session), read)

    @precondition(lambda self: self.half_open)
    @rule(written=amounts)
    def write_in_vain(self, written: int) -> None:
        """Over a link that the client has given up."""
        self.pair.write(self.pair.server, written)

    @precondition(lambda self: self.up)
    @rule()
    def cut(self) -> None:
        self.pair.cut()
        self.up = False

    @precondition(lambda self: not self.up)
    @rule(answered=st.booleans())
    def resume(self, answered: bool) -> None:
        """The client dials, and RESUME gets to the server; its answer may be lost."""
        if self.half_open:
            assert self.pair.server.lost()  # its older link is taken away first
        received = self.pair.client.taken
        self.pair.on_wire[self.pair.server].clear()
        answer = self.pair.server.taken
        assert self.pair.server.resume(received)
        self.half_open = not answered
        if answered:
            assert self.pair.client.resume(answer)
            self.up = True

    # The end of a session

    @precondition(lambda self: not self.up)
    @rule(expired=st.booleans())
    def lose(self, expired: bool) -> None:
        """The server has given the session up, or is another process; the client begins again."""
        taken = {name: self._taken("server", name) for name in self.names}
        came = {name: self._taken("client", name) for name in self.names}
        assert self.pair.client.acked <= self.pair.server.taken
        if expired:
            if self.half_open:
                assert self.pair.server.lost()
            self.pair.server.lose(renew=False)
            for name in self.names:
                told = self.pair.server.loss(name)
                if told is not None:
                    self._account("server", name, told, came[name])
        self.pair.client.lose()
        for name in self.names:
            told = self.pair.client.loss(name)
            assert told is not None
            self._account("client", name, told, taken[name])
            assert self.pair.client.loss(name) is None
        self._forget()
        self.half_open = False
        self.pair.server = Session(
            self.options[1], client=False, blocks=self.pair.blocks, secret=bytes(range(32))
        )
        self.pair.on_wire = {self.pair.client: bytearray(), self.pair.server: bytearray()}
        self.up = True
        self.pair.carry()
        for name in self.names:
            # Each is opened again by its first message at the latest.
            assert self.pair.client.send(name, b"again") is True
            self.sent["client", name].append(b"again")
        self.pair.carry()
        assert {self.pair.server.accept() for _ in self.names} == set(self.names)

    def _taken(self, side: str, name: bytes) -> int:
        """How many messages this side's session has taken, those included that are unread."""
        self.got[side, name] += receive_all(self.session(side), name)
        return len(self.got[side, name])

    def _account(
        self, side: str, name: bytes, told: tuple[int, list[bytes], list[bytes]], taken: int
    ) -> None:
        acked, in_doubt, unsent = told
        assert self.sent[side, name][acked:] == in_doubt + unsent
        assert acked <= taken <= acked + len(in_doubt)

    @invariant()
    def nothing_is_lost(self) -> None:
        self.pair.check()
        for side, other in (("client", "server"), ("server", "client")):
            for name in self.names:
                got = self.got[side, name]
                assert got == self.sent[other, name][: len(got)]

    def teardown(self) -> None:
        """In the end a link stays, and everything comes."""
        if not hasattr(self, "pair"):
            return
        if not self.up:
            self.resume(answered=True)
        for _ in range(200):
            self.pair.settle()
            if not sum(len(receive) for receive in self._receive_everything()):
                break
        for side, other in (("client", "server"), ("server", "client")):
            for name in self.names:
                assert self.got[side, name] == self.sent[other, name]
        self.pair.settle()
        self.pair.check_idle()

    def _receive_everything(self) -> list[list[bytes]]:
        found = []
        for side in ("client", "server"):
            for name in self.names:
                found.append(receive_all(self.session(side), name))
                self.got[side, name] += found[-1]
        return found


COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck)}

TestBreakingLink = BreakingLink.TestCase
TestBreakingLink.settings = settings(
    max_examples=60, stateful_step_count=60, derandomize=True, database=None, **COMMON
)


@pytest.mark.slow
@pytest.mark.timeout(1200)
class TestBreakingLinkInManyMoreCases(BreakingLink.TestCase):
    """The same, at random."""

    settings = settings(max_examples=2000, stateful_step_count=100, **COMMON)
