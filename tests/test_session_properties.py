"""Whatever two honest sessions do and however their bytes are cut, messages arrive whole, in order
and once; and whatever bytes a peer sends, the session stays whole and within its bounds."""

import random

import pytest

import wire
from pair import MS, Pair, uid
from tcpconn._buffer import BlockPool
from tcpconn._session import Session
from tcpconn.options import Options, message_cost

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

KIB = 1024
MIB = 1024 * KIB
COMMON = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
# The same examples every time, so that a run tells what a change did; many others when asked.
few = settings(max_examples=80, derandomize=True, database=None, **COMMON)
many = settings(max_examples=3000, **COMMON)

OPTIONS = [
    Options(),
    Options(
        max_frame_size=16 * KIB,
        max_message_size=64 * KIB,
        connection_credit=64 * KIB,
        max_connection_credit=64 * KIB,
        session_credit=MIB,
        send_queue_size=64 * KIB,
        max_unaccepted=2,
        max_connections=3,
    ),
    Options(
        max_frame_size=MIB,
        max_message_size=4 * MIB,
        connection_credit=64 * KIB,
        max_connection_credit=MIB,
        session_credit=message_cost(4 * MIB),
        send_queue_size=MIB,
    ),
]
SIZES = [
    0, 1, 20, 1023, 1024, 1025, 4095, 4096, 4097, 8191, 8192, 8193, 16319, 16320, 16383, 16384,
    16385, 65487, 65488, 65535, 65536, 65537, 100_000, 262_144, MIB, MIB + 1, 2 * MIB,
]  # fmt: skip
NOISE = random.Random(1).randbytes(4 * MIB)
IDS = [uid(n) for n in range(1, 5)]


class Handle:
    """One side's connection: what was sent on it, and what was received."""

    def __init__(self, serial):
        self.serial = serial
        self.sent = []
        self.received = []
        self.peer = None  # the handle from which messages come
        self.ended = ""  # how its user ended it: finished, closed, aborted

    def next_message(self, size):
        if not self.sent:
            return b"begin %d" % self.serial
        at = (self.serial * 7919 + len(self.sent) * 104_729) % (2 * MIB)
        return NOISE[at : at + size]


class World:
    """A pair of sessions, and what must be true of it."""

    def __init__(self, client, server, shake):
        self.pair = Pair(client, server, shake=shake)
        self.sides = [self.pair.client, self.pair.server]
        # Of each side: the handles that its user has not closed, the one that a name means last.
        # There may be several, when the peer closes and opens the same name again.
        self.open = [{name: [] for name in IDS} for _ in self.sides]
        self.handles = {}

    def handle(self, side, name):
        handle = Handle(len(self.handles))
        self.handles[handle.serial] = handle
        self.open[side][name].append(handle)

    def over(self, session, name):
        """Whether a connection that is not closed here is over all the same."""
        state = session.state(name)
        return state["incoming"] == state["outgoing"] == "ended"

    def do(self, step):
        what, side, number, choice = step
        session, name = self.sides[side], IDS[number]
        if what == "send" and not self.open[side][name]:
            self.do(("open", side, number, 0))
        handle = self.open[side][name][-1] if self.open[side][name] else None
        if what == "open":
            may = handle is None or self.over(session, name)
            if session.open(name, number * 2) == 0:
                assert may
                self.handle(side, name)
        elif what == "accept":
            self.accept(side)
        elif what == "move":
            self.move(session, AMOUNTS[choice % len(AMOUNTS)])
        elif what == "carry":
            self.pair.carry()
        elif what == "tick":
            self.pair.advance(choice * MS)
        elif what == "ping":
            session.ping(self.pair.now)
        elif handle is None:
            pass
        elif what == "send":
            message = handle.next_message(SIZES[choice])
            if session.send(name, message) is True:
                assert not handle.ended
                handle.sent.append(message)
        elif what == "receive":
            self.receive(side, name)
        elif what == "finish":
            session.finish(name)
            handle.ended = handle.ended or "finished"
        else:
            assert what in {"close", "abort"}
            session.close(name, abruptly=what == "abort")
            handle.ended = "closed" if what == "close" else "aborted"
            self.open[side][name].pop()

    def accept(self, side):
        session = self.sides[side]
        handles = self.open[side]
        may = {name for name in IDS if not handles[name] or self.over(session, name)}
        name = session.accept()
        if name is not None:
            assert name in may
            self.handle(side, name)
        return name

    def move(self, session, amount):
        """Writes at most `amount` bytes, and lets the peer read at most as many."""
        self.pair.write(session, amount)
        self.pair.read(self.pair.other(session), amount)

    def receive(self, side, name):
        handle = self.open[side][name][-1]
        message = self.sides[side].receive(name)
        if message is None:
            return False
        if handle.peer is None:
            assert message.startswith(b"begin ")
            handle.peer = self.handles[int(message[6:])]
        assert message == handle.peer.sent[len(handle.received)]
        handle.received.append(message)
        return True

    def finish(self):
        """Carries, accepts and receives all there is, then ends everything."""
        for _ in range(100):
            self.pair.settle()
            self.pair.check()
            progress = False
            for side in (0, 1):
                while self.accept(side) is not None:
                    progress = True
                for name, handles in self.open[side].items():
                    while handles and self.receive(side, name):
                        progress = True
            if not progress:
                break
        else:
            raise AssertionError("it does not come to rest")
        for name in IDS:
            live = [
                handles[name][-1]
                for session, handles in zip(self.sides, self.open, strict=True)
                if handles[name] and not self.over(session, name)
            ]
            if len(live) == 2:
                assert live[0].received == live[1].sent
                assert live[1].received == live[0].sent
        for handles in [*self.open[0].values(), *self.open[1].values()]:
            for handle in handles[-1:]:
                if handle.peer is not None and handle.peer.ended != "aborted":
                    assert len(handle.received) == len(handle.peer.sent)
        for side in (0, 1):
            for number, name in enumerate(IDS):
                while self.open[side][name]:
                    self.do(("close", side, number, 0))
        self.pair.settle()
        self.pair.settle()
        self.pair.check_idle()
        for session in self.sides:
            assert session.is_done
            assert session.stats()["connections"] == 0


KINDS = (
    ["send"] * 6
    + ["move"] * 5
    + ["carry"] * 2
    + ["receive"] * 5
    + ["accept"] * 2
    + ["open", "finish", "close", "abort", "tick", "ping"]
)
AMOUNTS = [1, 7, 16, 100, 4096, 16_400, 65_552, 300_000, 1 << 30]
steps = st.tuples(
    st.sampled_from(KINDS),
    st.integers(0, 1),
    st.integers(0, len(IDS) - 1),
    st.one_of(st.integers(0, len(SIZES) - 1), st.just(len(SIZES) - 2)),
)
talks = st.tuples(
    st.sampled_from(OPTIONS),
    st.sampled_from(OPTIONS),
    st.booleans(),
    st.lists(steps, min_size=40, max_size=160),
)


def honest_sessions(talk):
    *how, todo = talk
    world = World(*how)
    for step in todo:
        world.do(step)
        world.pair.check()
    world.finish()


class TestHonestSessions:
    @few
    @given(talks)
    def test_lose_and_double_nothing(self, talk):
        honest_sessions(talk)

    @pytest.mark.slow
    @pytest.mark.timeout(1200)
    @many
    @given(talks)
    def test_lose_and_double_nothing_in_many_more_cases(self, talk):
        honest_sessions(talk)


def conversation():
    """What an honest client says to a server that sends nothing itself."""
    pair = Pair(*OPTIONS[1:2] * 2, shake=False)
    said = bytearray()

    def carry():
        while True:
            there, back = pair.client.output(), pair.server.output()
            said.extend(there)
            if not there and not back:
                return
            pair.server.feed(there, pair.now)
            pair.client.feed(back, pair.now)
            pair.advance(30 * MS)

    assert pair.client.open(IDS[0]) == 0
    carry()
    assert pair.client.open(IDS[1]) == 0
    carry()
    for name in IDS[:2]:
        assert pair.server.accept() == name
    for size in (0, 1, 1024, 5000, 17_000, 40_000):
        for name in IDS[:2]:
            assert pair.client.send(name, NOISE[:size]) is True
            carry()
            assert pair.server.receive(name) is not None
            carry()
    pair.client.ping(pair.now)
    pair.client.finish(IDS[0])
    carry()
    pair.client.close(IDS[1], abruptly=True)
    pair.client.goaway()
    carry()
    pair.check()
    return bytes(said)


HONEST = conversation()

mutations = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "cut", "double", "insert"]),
        st.one_of(st.integers(0, 2000), st.integers(0, len(HONEST) - 1)),
        st.integers(0, 0xFFFFFFFF),
    ),
    min_size=1,
    max_size=5,
)


def mutate(data, changes):
    data = bytearray(data)
    for what, where, value in changes:
        at = where % max(1, len(data))
        if what == "flip":
            data[at] ^= 1 << value % 8
        elif what == "set":
            data[at : at + 4] = value.to_bytes(4, "big")
        elif what == "cut":
            del data[at : at + value % 100]
        elif what == "double":
            data[at:at] = data[at : at + value % 1000]
        else:
            data[at:at] = value.to_bytes(4, "big")
        if not data:
            data = bytearray(b"\0")
    return bytes(data)


class Victim:
    """A session to which anything may be said."""

    def __init__(self, *, client):
        self.blocks = BlockPool(max_free_bytes=0)
        self.session = Session(OPTIONS[1], client=client, blocks=self.blocks)
        self.names = set()
        self.now = 1000 * MS
        if client:
            self.hello = self.session.output()
            self.open(IDS[2])

    def open(self, name):
        if self.session.open(name) == 0:
            self.names.add(name)
            self.session.send(name, b"x" * 100)
            self.session.send(name, NOISE[: 64 * KIB])

    def feed(self, data, cuts):
        for piece in pieces(data, cuts):
            self.now += MS
            taken = self.session.feed(piece, self.now)
            assert taken == len(piece) or self.session.end is not None
            self.use()
            # A session's credit, rounded up to blocks; and blocks to read into and to send from.
            assert self.blocks.stats()["allocated_bytes"] <= 2 * MIB + 512 * KIB
        self.session.output()
        for name in list(self.names):
            self.session.state(name)
            while self.session.receive(name) is not None:
                pass
            self.session.close(name)
        self.session.output()
        self.session.events()
        stats = self.session.stats()
        if self.session.end is None:
            assert stats["receive_credit"] >= 0
        assert stats["messages_in_use"] <= 3 * 1024 + 8
        assert stats["expected_bytes"] <= MIB

    def use(self):
        """What a user does meanwhile."""
        session = self.session
        session.tick(self.now)
        session.output(1000 if self.now % (2 * MS) else 1 << 30)
        accepted = session.accept()
        if accepted is not None:
            self.names.add(accepted)
            session.send(accepted, NOISE[:3000])
        for name in list(self.names)[self.now // MS % 3 :: 3]:
            session.receive(name)
            if self.now // MS % 7 == 0:
                session.close(name)
                self.names.discard(name)
        if self.now // MS % 11 == 0:
            self.open(IDS[3])
        session.events()


def pieces(data, cuts):
    at = 0
    for cut in cuts:
        yield data[at : at + cut]
        at += cut
        if at >= len(data):
            return
    yield data[at:]


cuts = st.lists(st.one_of(st.integers(1, 20), st.integers(1, 20_000)), max_size=60)

PREFIX = wire.PREFACE + wire.hello(session_credit=MIB, max_message_size=64 * KIB)


class Speaker:
    """Makes frames that mostly fit together, with now and then one that does not."""

    def __init__(self, draw):
        self.draw = draw
        self.number = 0
        self.routes = {}  # open ones, and what is missing of the message under way
        self.last = 0

    def any(self, *values):
        return self.draw(st.sampled_from(values))

    def frame(self):
        odd = self.draw(st.integers(0, 29)) == 29
        kind = self.any(
            wire.OPEN, wire.OPEN, *[wire.DATA] * 9, wire.FIN, wire.RESET, wire.CREDIT, wire.ACK,
            wire.PING, wire.GOAWAY,
        )  # fmt: skip
        route = self.draw(st.integers(0, 5)) if odd else self.any(*(self.routes or [1]))
        if not self.routes and not odd:
            kind = wire.OPEN
        flags, data = 0, b""
        if kind == wire.OPEN:
            self.last += 1
            route = self.last
            flags = self.any(0, 0, 0, wire.LAST)
            data = self.any(*IDS) + b"\x03"
            if not flags:
                self.routes[route] = 0
        elif kind == wire.DATA:
            flags, data = self.chunk(route, odd)
        elif kind in {wire.FIN, wire.RESET}:
            if kind == wire.RESET:
                flags = wire.PEER if odd else 0
                data = self.any(0, 9, 10, 12, 16, 99).to_bytes(4, "big")
            if flags == 0:
                self.routes.pop(route, None)
        elif kind in {wire.CREDIT, wire.ACK}:
            route = 0
            amounts = [0]
            if kind == wire.CREDIT:
                amounts += [70_000, 1 << 20, 1 << 21, 1 << 62, (1 << 64) - 1]
            if odd:
                route = self.any(0, 1, 2)
                amounts += [1, 2, (1 << 64) - 1]
            data = self.any(*amounts).to_bytes(8, "big")
        else:
            route, data = 0, bytes(16 if kind == wire.PING else 8)
        number = self.number if kind < 0x20 else 0
        if kind < 0x20:
            self.number += not odd
        return bytes(wire.Frame(kind, flags, route, number, data))

    def chunk(self, route, odd):
        left = self.routes.get(route, 0)
        size = self.any(0, 1, 1024, 1500, 9000, 16_376)
        if odd:
            return self.draw(st.integers(0, 3)), NOISE[:size]
        if left == 0:
            if self.draw(st.booleans()):
                return wire.FIRST | wire.LAST, NOISE[:size]
            size = max(size, 1024)
            total = size + self.any(1, 1024, 17_000, 40_000)
            self.routes[route] = total - size
            return wire.FIRST, total.to_bytes(8, "big") + NOISE[:size]
        if left <= max(size, 1024):
            self.routes[route] = 0
            return wire.LAST, NOISE[:left]
        size = max(size, 1024)
        self.routes[route] = left - size
        return 0, NOISE[:size]


@st.composite
def frames(draw):
    """What a peer says that is wrong here and there."""
    speaker = Speaker(draw)
    return PREFIX + b"".join(speaker.frame() for _ in range(draw(st.integers(1, 60))))


def hostile_frames(data, cut):
    Victim(client=False).feed(data, cut)
    victim = Victim(client=True)
    session_id = wire.tags_of(victim.hello[24:])[1]
    answer = wire.PREFACE + wire.hello(
        wire.WELCOME, session=session_id, session_credit=MIB, max_message_size=64 * KIB
    )
    victim.feed(answer + data[len(PREFIX) :], cut)


class TestAnyBytes:
    @few
    @example([("set", 0, 0)], [])
    @given(mutations, cuts)
    def test_a_damaged_stream_breaks_nothing(self, changes, cut):
        Victim(client=False).feed(mutate(HONEST, changes), cut)

    @few
    @given(frames(), cuts)
    def test_frames_in_any_order_break_nothing(self, data, cut):
        hostile_frames(data, cut)

    @few
    @given(st.binary(max_size=3000), cuts, st.booleans())
    def test_noise_breaks_nothing(self, data, cut, greeted):
        Victim(client=False).feed((PREFIX if greeted else b"") + data, cut)
        Victim(client=True).feed((wire.PREFACE if greeted else b"") + data, cut)

    @few
    @given(cuts)
    def test_any_split_of_an_honest_stream_is_taken(self, cut):
        victim = Victim(client=False)
        victim.use = lambda: None
        victim.feed(HONEST, cut)
        assert victim.session.end is None

    @pytest.mark.slow
    @pytest.mark.timeout(1200)
    @many
    @given(mutations, cuts)
    def test_a_damaged_stream_breaks_nothing_in_many_more_cases(self, changes, cut):
        Victim(client=False).feed(mutate(HONEST, changes), cut)

    @pytest.mark.slow
    @pytest.mark.timeout(1200)
    @many
    @given(frames(), cuts)
    def test_frames_in_any_order_break_nothing_in_many_more_cases(self, data, cut):
        hostile_frames(data, cut)
