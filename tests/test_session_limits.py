"""Limits that need a clock: what a session takes from a peer, and what it keeps to itself.

Each is tested from both ends: one past it ends the link, and a session of ours never gets there.
"""

from __future__ import annotations

import random

import pytest

import wire
from pair import MS, Pair, Peer, drain, payload, receive_all, uid
from tcpconn._buffer import BlockPool
from tcpconn.options import Options

KIB = 1 << 10
MIB = 1 << 20
SECOND = 1000 * MS


def ended_by(peer: Peer, *frames: bytes) -> tuple[int, str]:
    """Code and section of the fault that these frames are."""
    peer.session.feed(b"".join(frames), peer.now)
    assert peer.session.end is not None
    kind, code, section, _ = peer.session.end
    assert kind == "fault"
    said = wire.parse(peer.session.output())
    assert said[-1].type == wire.GOAWAY
    assert wire.u32(said[-1].payload, 4) == code
    return code, section


class TestPings:
    def test_more_than_the_burst(self):
        peer = Peer()
        peer.feed(*(wire.ping(n) for n in range(10)))
        assert ended_by(peer, wire.ping(10)) == (wire.LIMIT, "9")

    def test_more_than_the_rate(self):
        peer = Peer()
        for n in range(30):
            peer.now += SECOND
            peer.feed(wire.ping(n))
        peer.feed(*(wire.ping(n) for n in range(9)))
        peer.now += SECOND - 1
        assert ended_by(peer, wire.ping(0)) == (wire.LIMIT, "9")

    def test_one_behind_each_new_frame_is_free(self):
        peer = Peer()
        peer.opened(uid(1))
        for n in range(1000):
            peer.feed(peer.send.whole(1, b""), wire.ping(n))
        peer.feed(*(wire.ping(n) for n in range(10)))
        assert ended_by(peer, wire.ping(10)) == (wire.LIMIT, "9")

    def test_what_a_keepalive_needs_is_added(self):
        peer = Peer(keepalive=100)
        for n in range(1000):
            peer.now += 100 * MS
            peer.feed(wire.ping(n))
        slow = Peer(keepalive=10_000)
        for n in range(10):
            slow.now += 100 * MS
            slow.feed(wire.ping(n))
        for n in range(10):
            slow.now += 100 * MS
            slow.session.feed(wire.ping(n), slow.now)
        assert slow.session.end is not None

    def test_a_session_keeps_to_it(self):
        """However often it is told to ping, and however the link bunches what it says."""
        pair = Pair()
        name = pair.open()
        rng = random.Random(1)
        for turn in range(3000):
            for session in (pair.client, pair.server):
                for _ in range(rng.randrange(4)):
                    session.ping(pair.now)
            if rng.random() < 0.05:
                assert pair.client.send(name, payload(rng.randrange(100_000))) in (True, "wait")
                pair.server.receive(name)
            if rng.random() < 0.3:
                pair.carry()
            pair.advance(rng.choice([1, 10, 100, 30_000 if turn % 50 == 0 else 1]) * MS)
            pair.check()

    def test_whoever_waits_is_served_in_time(self):
        pair = Pair(Options(keepalive=0), Options(keepalive=0))
        for _ in range(50):
            pair.client.ping(pair.now)
            pair.carry()
            deadline = pair.client.deadline
            if deadline:
                assert deadline <= pair.now + 1250 * MS
                pair.advance(deadline - pair.now)
                pair.carry()
            assert pair.client.stats()["round_trip_ns"] > 0
            assert not pair.client.deadline

    def test_acks_are_asked_for_behind_every_message(self):
        """What a flush needs has nothing to do with the rate."""
        pair = Pair(Options(keepalive=0), Options(keepalive=0))
        name = pair.open()
        pair.settle()
        for _ in range(200):
            assert pair.client.send(name, b"x") is True
            pair.client.ask_for_ack(pair.now)
            pair.carry()
            stats = pair.client.stats()
            assert stats["acked"] == stats["sequence"]
            pair.server.receive(name)
        pair.check()


def open_and_reset(peer: Peer, route: int, code: int = wire.ABORTED) -> bytes:
    return peer.send.open(route, uid(route)) + peer.send.reset(route, code)


class TestResets:
    def test_more_than_the_burst(self):
        peer = Peer(Options(max_unaccepted=5000))
        peer.feed(*(open_and_reset(peer, route) for route in range(1, 1001)))
        assert ended_by(peer, open_and_reset(peer, 1001)) == (wire.LIMIT, "5")

    def test_more_than_the_rate(self):
        peer = Peer(Options(max_unaccepted=10_000))
        peer.feed(*(open_and_reset(peer, route) for route in range(1, 1001)))
        for route in range(1001, 2001):
            peer.now += SECOND // 33 + 1
            peer.feed(open_and_reset(peer, route))
        assert ended_by(peer, open_and_reset(peer, 2001)) == (wire.LIMIT, "5")

    def test_those_that_were_asked_for_do_not_count(self):
        peer = Peer()
        for route in range(1, 3001):
            name = peer.opened(uid(route), route)
            peer.session.close(name)
            peer.feed(peer.send.reset(route, wire.CLOSED))
            if route % 500 == 0:
                said = peer.said(wire.RESET)
                assert len(said) == 500
                peer.feed(wire.ack(peer.session.stats()["sequence"]))

    def test_refused_connections_do_not_count(self):
        peer = Peer(Options(max_unaccepted=1))
        peer.feed(peer.send.open(1, uid(1)))
        for route in range(2, 3002):
            peer.feed(peer.send.open(route, uid(route)))
            [refusal] = peer.said(wire.RESET)
            assert refusal.flags == wire.PEER
            peer.feed(peer.send.reset(route), wire.ack(peer.session.stats()["sequence"]))

    @pytest.mark.parametrize("seed", range(3))
    def test_a_session_keeps_to_it(self, seed):
        """Whatever it aborts, and however the link bunches what it says; and it says all of it."""
        pair = Pair(Options(max_connections=10_000), Options(max_unaccepted=10_000))
        rng = random.Random(seed)
        opened: list[bytes] = []
        accepted: list[bytes] = []
        number = 0
        for _ in range(400):
            for _ in range(rng.randrange(40)):
                number += 1
                assert pair.client.open(uid(number)) == 0
                opened.append(uid(number))
            for _ in range(rng.randrange(45)):
                if opened:
                    pair.client.close(opened.pop(rng.randrange(len(opened))), True)
            if rng.random() < 0.1:
                pair.carry()
                while (name := pair.server.accept()) is not None:
                    if rng.random() < 0.2:
                        pair.server.close(name, rng.random() < 0.5)
                    else:
                        accepted.append(name)
            pair.advance(rng.choice([1, 1, 20, 1000]) * MS)
            pair.check()
        for name in opened:
            pair.client.close(name, True)
        for name in accepted:
            pair.server.close(name)
        # In the end the peer has heard of each.
        for _ in range(number):
            pair.carry()
            if not pair.client.deadline:
                break
            pair.advance(max(pair.client.deadline - pair.now, 100 * MS))
            while (name := pair.server.accept()) is not None:
                pair.server.close(name)
        pair.settle()
        pair.check_idle()
        assert pair.client.stats()["connections"] == 0

    def test_one_that_waits_sends_nothing_more(self):
        """The message that it was in the middle of ends there."""
        pair = Pair(None, Options(max_unaccepted=1000))
        for number in range(1, 501):
            pair.client.open(uid(number))
            pair.client.close(uid(number), True)
        pair.settle()
        assert pair.client.deadline  # some wait
        last = uid(1000)
        assert pair.client.open(last) == 0
        assert pair.client.send(last, bytes(1 << 20)) is True
        pair.write(pair.client, 300_000)
        pair.client.close(last, True)
        pair.carry()
        assert pair.client.stats()["outgoing_bytes"] == 0
        while (name := pair.server.accept()) not in (None, last):
            pair.server.close(name)
        assert name == last
        for _ in range(200):
            pair.advance(100 * MS)
            pair.carry()
        assert pair.server.state(last)["incoming"] == "ended"
        assert pair.server.state(last)["in_code"] == wire.ABORTED
        assert pair.server.receive(last) is None
        pair.check()


class TestIncompleteMessages:
    OPTIONS = Options(keepalive=0, message_timeout=30.0)

    def begun(self, **hello: int) -> Peer:
        peer = Peer(self.OPTIONS, **hello)
        peer.opened(uid(1))
        peer.feed(peer.send.first(1, 100_000, bytes(2000)))
        return peer

    def wait(self, peer: Peer, seconds: float) -> None:
        peer.now += int(seconds * SECOND)
        peer.session.tick(peer.now)

    def test_one_that_does_not_go_on(self):
        peer = self.begun()
        for _ in range(29):
            self.wait(peer, 1)
            peer.feed(wire.ack(0))
        assert peer.session.end is None
        deadline = peer.session.deadline
        assert deadline <= peer.now + SECOND
        self.wait(peer, 1)
        assert peer.session.end is None  # it may lie there unread
        self.wait(peer, 30 / 8)
        assert peer.session.end is not None
        assert peer.session.end[:3] == ("fault", wire.TIMEOUT, "6")
        assert "98000" in peer.session.end[3]
        [goaway] = peer.said(wire.GOAWAY)
        assert wire.u32(goaway.payload, 4) == wire.TIMEOUT

    def test_what_comes_in_the_last_moment_saves_it(self):
        peer = self.begun()
        for _ in range(10):
            for _ in range(31):
                self.wait(peer, 1)
                peer.feed(wire.ack(0))
            peer.feed(peer.send.middle(1, bytes(1024)))
        assert peer.session.end is None

    def test_a_part_of_a_chunk_is_enough(self):
        peer = self.begun()
        peer.feed(peer.send.middle(1, bytes(50_000))[:20_000])
        for _ in range(100):
            self.wait(peer, 20)
            peer.feed(bytes(1))
        assert peer.session.end is None

    def test_one_of_several_is_enough(self):
        """Senders take turns: on a slow link it may be long until one's comes."""
        peer = self.begun()
        peer.opened(uid(2), 2)
        peer.feed(peer.send.first(2, 1_000_000, bytes(1024)))
        for _ in range(20):
            self.wait(peer, 20)
            peer.feed(peer.send.middle(2, bytes(1024)))
        assert peer.session.end is None

    def test_messages_in_one_piece_are_not(self):
        peer = self.begun()
        peer.opened(uid(2), 2)
        for _ in range(33):
            peer.feed(peer.send.whole(2, b"I am alive"))
            self.wait(peer, 1)
        assert peer.session.end is None
        self.wait(peer, 2)
        assert peer.session.end is not None

    def test_a_silent_link_has_twice_the_time(self):
        """That the peer is gone is for the keepalive to find."""
        peer = self.begun()
        self.wait(peer, 59)
        assert peer.session.end is None
        self.wait(peer, 1)
        self.wait(peer, 4)
        assert peer.session.end is not None

    @pytest.mark.parametrize("how", ["whole", "reset", "closed"])
    def test_nothing_is_left_to_wait_for(self, how):
        peer = self.begun()
        if how == "whole":
            peer.feed(peer.send.middle(1, bytes(50_000)), peer.send.last(1, bytes(48_000)))
        elif how == "reset":
            peer.feed(peer.send.reset(1))
        else:
            peer.session.close(uid(1))
        peer.said()
        peer.feed(wire.ack(peer.session.stats()["sequence"]))
        self.wait(peer, 1)
        peer.said()
        assert peer.session.deadline == 0
        self.wait(peer, 1000)
        assert peer.session.end is None


class TestAnswersThatWait:
    def closed(self, count: int) -> tuple[Pair, list[bytes]]:
        """So many connections, open on both sides, which the client then closes all at once."""
        wide = Options(max_unaccepted=count)
        pair = Pair(wide, wide)
        names = [pair.open() for _ in range(count)]
        for name in names:
            assert pair.server.send(name, b"x") is True
        pair.settle()
        for name in names:
            pair.client.close(name)
        return pair, names

    def test_nothing_is_taken_until_they_are_written(self):
        pair, names = self.closed(1500)
        while pair.write(pair.client):
            pass
        before = pair.server.stats()["sequence"]
        pair.read(pair.server)
        assert pair.server.is_paused
        assert pair.server.stats()["sequence"] == before + 1000
        pair.read(pair.server)
        assert pair.server.stats()["sequence"] == before + 1000
        pair.write(pair.server)
        pair.read(pair.server)
        assert not pair.server.is_paused
        assert pair.server.stats()["sequence"] == before + 1500
        pair.settle()
        for name in names:
            pair.server.close(name)
        pair.settle()
        pair.check_idle()

    def test_two_that_close_a_lot_at_once_come_through(self):
        pair, names = self.closed(3000)
        for name in names:
            pair.server.close(name)
        pair.settle()
        pair.check_idle()


class TestBudget:
    """What all sessions of a process hold together, here those that share a pool of blocks."""

    BUDGET = 32 * MIB
    OPTIONS = Options(
        max_message_size=2 * MIB,
        max_frame_size=1 * MIB,
        session_credit=6 * MIB,
        max_connection_credit=6 * MIB,
        connection_credit=4 * MIB,
        receive_memory=BUDGET,
        max_connections=1_000_000,
        max_unaccepted=1_000_000,
    )
    LUMP = payload(256 * KIB)
    BIG = payload(2 * MIB)
    WIDE = Options(max_message_size=2 * MIB, send_queue_size=64 * MIB, max_frame_size=1 * MIB)

    def pairs(self, count: int) -> tuple[BlockPool, list[tuple[Pair, bytes]]]:
        """Sessions that share a budget, each with a connection."""
        blocks = BlockPool()
        found = []
        for _ in range(count):
            pair = Pair(self.WIDE, self.OPTIONS, server_blocks=blocks)
            found.append((pair, pair.open()))
        return blocks, found

    def hog(self, pair: Pair, name: bytes) -> None:
        """Sends as much as is taken, to one who does not read."""
        while pair.client.send(name, self.LUMP) is True:
            pair.carry()

    def test_many_who_take_all_they_can_leave_something(self):
        blocks, hogs = self.pairs(60)
        for pair, name in hogs:
            self.hog(pair, name)
        stats = blocks.stats()
        # What each reads into comes on top.
        assert stats["counted_bytes"] <= self.BUDGET
        assert stats["allocated_bytes"] - stats["free_bytes"] <= self.BUDGET + 60 * 128 * KIB
        assert sum(pair.server.is_paused for pair, _ in hogs) > 50
        assert all(pair.server.end is None for pair, _ in hogs)
        # One who holds nothing is served, if it does not want much.
        honest = Pair(self.WIDE, self.OPTIONS, server_blocks=blocks)
        its = honest.open()
        for n in range(300):
            assert honest.client.send(its, payload(1000 + 30 * n)) is True
            honest.carry()
            assert honest.server.receive(its) == payload(1000 + 30 * n)
        honest.check()

    def test_all_that_waited_comes_when_there_is_room(self):
        _, hogs = self.pairs(40)
        for pair, name in hogs:
            self.hog(pair, name)
        sent = {pair: pair.client.stats()["sequence"] for pair, _ in hogs}
        for _ in range(50):
            for pair, name in hogs:
                for message in receive_all(pair.server, name):
                    assert message == self.LUMP
                pair.settle()
            if all(pair.server.stats()["received_sequence"] >= sent[pair] for pair, _ in hogs):
                break
        else:
            raise AssertionError("some wait for ever")
        for pair, _ in hogs:
            pair.check()

    def test_large_messages_become_whole_however_many_have_begun(self):
        """When what is shared out has gone into parts of messages, the rest is lent in turn."""
        blocks, others = self.pairs(30)
        messages = [self.BIG, payload(2 * MIB, 1)]
        names = {}
        for pair, name in others:
            names[pair] = [name, pair.open()]
            for each in names[pair]:
                for message in messages:
                    assert pair.client.send(each, message) is True
        most = 0
        received = dict.fromkeys(names, 0)
        for _ in range(3000):
            for pair, both in names.items():
                # A little from each in turn, so that all have begun before any is done.
                pair.write(pair.client, 100_000)
                pair.read(pair.server, 100_000)
                pair.pass_on(pair.server)
                pair.advance(MS)
                for each in both:
                    for message in receive_all(pair.server, each):
                        assert message in messages
                        received[pair] += 1
                pair.check()
            most = max(most, blocks.stats()["counted_bytes"])
            if set(received.values()) == {4}:
                break
        assert set(received.values()) == {4}
        assert most > self.BUDGET * 5 // 8
        assert most <= self.BUDGET

    def test_who_has_more_than_there_is_must_make_haste(self):
        _, hogs = self.pairs(60)
        for pair, name in hogs:
            assert pair.client.send(name, self.BIG) is True
            pair.write(pair.client, MIB + 100_000)
            pair.read(pair.server)
        assert all(pair.server.end is None for pair, _ in hogs)
        assert sum(pair.server.is_paused for pair, _ in hogs) > 10
        ended = 0
        # Each that has it and does not go on is ended in its turn; those that wait are not.
        for _ in range(150):
            for pair, _ in hogs:
                pair.read(pair.server)
                pair.advance(200 * MS)
        ended = [pair.server.end for pair, _ in hogs if pair.server.end]
        assert len(ended) > 5
        codes = {end[1] for end in ended}
        assert wire.LIMIT in codes
        assert codes <= {wire.LIMIT, wire.TIMEOUT}

    def test_one_alone_never_waits(self):
        """The budget is at least what its credit can make of it."""
        for size in (1, 100, 1000, 15_000, 17_000, 100_000, 2 * MIB):
            options = Options(
                max_message_size=2 * MIB,
                session_credit=6 * MIB,
                max_connection_credit=6 * MIB,
                connection_credit=6 * MIB,
                receive_memory=30 * MIB,
            )
            pair = Pair(self.WIDE, options)
            name = pair.open()
            message = payload(size)
            while pair.client.send(name, message) is True:
                pair.carry()
            assert not pair.server.is_paused
            stats = pair.server.stats()
            assert stats["receive_credit"] < 64 + 2 * MIB
            assert pair.blocks.stats()["counted_bytes"] < 30 * MIB
            pair.check()

    def test_connections_cost_memory(self):
        blocks, [(pair, _)] = self.pairs(1)
        before = blocks.stats()["counted_bytes"]
        for number in range(1000):
            assert pair.client.open(uid(10_000 + number)) == 0
        pair.carry()
        assert blocks.stats()["counted_bytes"] - before > MIB
        for number in range(1000):
            pair.client.close(uid(10_000 + number))
        pair.carry()
        while (name := pair.server.accept()) is not None:
            pair.server.close(name)
        pair.settle()
        assert blocks.stats()["counted_bytes"] - before < 256 * KIB

    def test_a_flood_of_connections_is_refused_before_it_is_all_there_is(self):
        blocks, floods = self.pairs(20)
        for pair, _ in floods:
            number = 10_000
            while pair.server.stats()["connections"] < 2000:
                had = pair.server.stats()["connections"]
                for _ in range(100):
                    number += 1
                    pair.client.open(uid(number))
                pair.settle()
                if pair.server.stats()["connections"] == had:
                    break
        assert blocks.stats()["counted_bytes"] <= self.BUDGET
        held = [pair.server.stats()["connections"] for pair, _ in floods]
        assert held[0] >= 2000
        assert 256 <= held[-1] < 1000
        for pair, _ in floods:
            pair.check()

    def test_who_does_not_acknowledge_is_not_sent_much(self):
        """What is queued for peers counts too: then `send` waits sooner."""
        options = Options(max_message_size=MIB, session_credit=2 * MIB, receive_memory=10 * MIB)
        blocks = BlockPool()
        queued = []
        for _ in range(30):
            peer = Peer(options, blocks=blocks, route_credit=1 << 40, session_credit=1 << 40)
            name = peer.opened(uid(1))
            while peer.session.send(name, payload(200 * KIB)) is True:
                drain(peer.session)
            queued.append((peer, peer.session.stats()["queued_bytes"]))
        assert queued[0][1] > 4 * MIB
        assert queued[-1][1] < 512 * KIB
        assert sum(size for _, size in queued) < 16 * MIB
