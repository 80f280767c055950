"""Who may send next: priorities with a minimum share, fairness by bytes, and small before large."""

import itertools

import pytest

import wire
from pair import Pair, Peer, payload, uid
from tcpconn.options import Options

KIB = 1024
MIB = 1024 * KIB
WIDE = {
    "route_credit": 1 << 30,
    "session_credit": 1 << 32,
    "max_message_size": 1 << 24,
    "max_frame_size": 1 << 20,
}
OPTIONS = Options(send_queue_size=256 * MIB)


def bulk(priorities, size=8 * MIB):
    """A session with a large message on each of its connections; their routes are 1, 2, 3 …"""
    peer = Peer(OPTIONS, **WIDE)
    for number, priority in enumerate(priorities, start=1):
        assert peer.session.open(uid(number), priority) == 0
        assert peer.session.send(uid(number), bytes(size)) is True
    return peer


def chunks(peer, most=None):
    """(route, size) of each DATA frame, as the link takes batch after batch."""
    session = peer.session
    taken = 0
    while (most is None or taken < most) and (batch := session.output()):
        for frame in wire.parse(batch):
            if frame.type == wire.DATA:
                taken += len(frame.payload)
                yield frame.route, len(frame.payload)


def shares(sent):
    """How many bytes of each route."""
    total = {}
    for route, size in sent:
        total[route] = total.get(route, 0) + size
    return total


class TestFairness:
    def test_equals_share_by_bytes(self):
        total = shares(chunks(bulk([3, 3, 3, 3]), 8 * MIB))
        assert max(total.values()) - min(total.values()) <= 256 * KIB

    def test_equals_take_turns(self):
        sent = list(chunks(bulk([3, 3, 3]), 6 * MIB))
        runs = [len(list(run)) for _, run in itertools.groupby(route for route, _ in sent)]
        assert max(runs[1:]) <= 2

    def test_chunks_are_of_64_kib_where_others_wait(self):
        sent = list(chunks(bulk([3, 3]), 4 * MIB))
        assert max(size for _, size in sent[1:]) <= 64 * KIB

    def test_who_is_alone_on_the_link_may_use_larger_ones(self):
        sent = list(chunks(bulk([3])))
        assert max(size for _, size in sent) > 64 * KIB
        assert sum(size for _, size in sent) == 8 * MIB + 8

    def test_messages_small_or_large_share_by_bytes(self):
        """One sends 100 KB at a time, the other 4 MiB."""
        peer = Peer(OPTIONS, **WIDE)
        session = peer.session
        for number in (1, 2):
            assert session.open(uid(number)) == 0
        for _ in range(40):
            assert session.send(uid(1), bytes(100_000)) is True
        assert session.send(uid(2), bytes(4 * MIB)) is True
        total = shares(chunks(peer, 4 * MIB))
        assert 0.7 < total[1] / total[2] < 1.5

    def test_all_is_sent_in_the_end(self):
        total = shares(chunks(bulk(range(8), MIB)))
        assert len(total) == 8
        assert all(MIB <= size <= MIB + 64 for size in total.values())


class TestPriorities:
    @pytest.mark.parametrize(("high", "low"), [(7, 0), (7, 6), (1, 0), (4, 3)])
    def test_the_higher_goes_first_and_the_lower_is_not_starved(self, high, low):
        total = shares(chunks(bulk([high, low]), 6 * MIB))
        assert 4 < total[1] / total[2] < 10

    def test_every_lower_one_has_its_share(self):
        total = shares(chunks(bulk([7, 5, 2, 0]), 16 * MIB))
        assert total[1] > 7 * MIB
        assert min(total[route] for route in (2, 3, 4)) > 256 * KIB

    def test_the_higher_overtakes_what_is_under_way(self):
        peer = bulk([0])
        first = list(chunks(peer, MIB))
        assert {route for route, _ in first} == {1}
        assert peer.session.open(uid(2), 7) == 0
        assert peer.session.send(uid(2), bytes(MIB)) is True
        total = shares(chunks(peer, 2 * MIB))
        assert total[2] >= MIB
        assert total[1] <= MIB + 128 * KIB

    def test_is_that_of_the_peer_for_whoever_accepts(self):
        pair = Pair(server=OPTIONS)
        ids = [pair.open(priority) for priority in (0, 7)]
        for name in ids:
            assert pair.server.send(name, bytes(200_000)) is True
        frames = wire.parse(pair.server.output())
        [first, *_] = [frame for frame in frames if frame.type == wire.OPEN]
        assert first.payload == ids[1] + b"\x07"


class TestSmallBesideLarge:
    @pytest.mark.parametrize("priority", [0, 3, 7])
    def test_a_small_message_waits_for_a_batch_at_most(self, priority):
        """Whatever is being sent on other connections."""
        peer = bulk([3, 3, 3])
        session = peer.session
        assert session.open(uid(9), priority) == 0
        list(chunks(peer, MIB))
        assert session.send(uid(9), b"small") is True
        before = 0
        for route, size in chunks(peer):
            if route == 4:
                break
            before += size
        assert before <= 256 * KIB

    def test_control_frames_go_before_what_is_queued(self):
        peer = bulk([3])
        peer.session.output()
        peer.feed(wire.ping(5))
        assert wire.parse(peer.session.output())[0].type == wire.PONG

    def test_a_message_behind_a_large_one_of_its_connection_keeps_its_place(self):
        peer = bulk([3], 2 * MIB)
        assert peer.session.send(uid(1), b"behind") is True
        sent = list(chunks(peer))
        assert sent[-1] == (1, 6)
        assert sum(size for _, size in sent[:-1]) == 2 * MIB + 8


class TestStarvation:
    def test_who_has_no_credit_holds_up_nobody(self):
        peer = Peer(OPTIONS, **{**WIDE, "route_credit": 64 * KIB})
        session = peer.session
        for number in (1, 2):
            assert session.open(uid(number)) == 0
            assert session.send(uid(number), payload(MIB, number)) is True
        sent = shares(chunks(peer))
        assert max(sent.values()) <= 64 * KIB
        peer.feed(wire.credit(2, 1 << 30))
        assert set(shares(chunks(peer))) == {2}
        peer.feed(wire.credit(1, 1 << 30))
        assert set(shares(chunks(peer))) == {1}

    def test_who_waits_for_the_sessions_credit_is_served_when_it_comes(self):
        peer = Peer(OPTIONS, **{**WIDE, "session_credit": 18 * MIB})
        session = peer.session
        for number in (1, 2, 3):
            assert session.open(uid(number)) == 0
            assert session.send(uid(number), bytes(10 * MIB)) is True
        assert set(shares(chunks(peer))) == {1}
        peer.feed(wire.credit(0, 28 * MIB))
        assert len(shares(chunks(peer))) == 1
        peer.feed(wire.credit(0, 54 * MIB))
        assert len(shares(chunks(peer))) == 1
        assert session.stats()["reserved"] == 0
        assert session.stats()["outgoing_bytes"] == 0
