"""The send queue, seen through a session: what is written, what an ack frees, what is held."""

import sys

import pytest

import wire
from pair import MS, Pair, Peer, payload, uid
from tcpconn._buffer import BlockPool
from tcpconn.options import Options

KIB = 1024
MIB = 1024 * KIB
A, B = uid(0xA), uid(0xB)
WIDE = {"route_credit": 1 << 30, "session_credit": 1 << 32, "max_message_size": 1 << 24}


def filled():
    """A session with small, large and empty messages in its queue, and what it must say of them."""
    peer = Peer(Options(ping_burst=100_000), **WIDE)
    session = peer.session
    messages = []
    for name in (A, B):
        assert session.open(name) == 0
    for n, size in enumerate((5, 0, 3000, 70_000, 9000, 1, 200_000, 65_000, 12)):
        for name in (A, B):
            message = payload(size, n)
            assert session.send(name, message) is True
            messages.append((name, message))
    assert session.send(A, *(payload(80, n) for n in range(900))) is True
    messages.append((A, b"".join(payload(80, n) for n in range(900))))
    return peer, messages


def messages_of(frames):
    """The messages that frames make up, by route, and the routes' ids."""
    ids, done, under_way = {}, {}, {}
    for frame in frames:
        if frame.type == wire.OPEN:
            ids[frame.route] = frame.payload[:16]
        elif frame.type == wire.DATA:
            data = frame.payload
            if frame.flags & 3 == wire.FIRST:
                total, data = wire.u64(data), data[8:]
                under_way[frame.route] = (total, b"")
            total, before = under_way.pop(frame.route, (len(data), b""))
            if frame.flags & wire.LAST:
                assert len(before + data) == total
                done.setdefault(ids[frame.route], []).append(before + data)
            else:
                under_way[frame.route] = (total, before + data)
    assert not under_way
    return done


class TestWriting:
    def test_gives_what_was_sent(self):
        peer, messages = filled()
        got = messages_of(peer.said())
        for name in (A, B):
            assert got[name] == [message for of, message in messages if of == name]

    @pytest.mark.parametrize("step", [1, 2, 15, 16, 17, 1000, 4096, 65_536, 65_552])
    def test_may_stop_at_any_byte(self, step):
        """Frames come out whole, however little the link takes at a time, and with control frames
        that become due at any moment."""
        peer, messages = filled()
        session = peer.session
        data = bytearray()
        count = 0
        while piece := session.output(step):
            assert len(piece) <= step
            data += piece
            count += 1
            if count % 97 == 0:
                session.ping(count)
                peer.feed(wire.ping(count))
            if len(data) > 2_000_000:
                raise AssertionError("it does not end")
        frames = wire.parse(bytes(data))
        got = messages_of(frames)
        for name in (A, B):
            assert got[name] == [message for of, message in messages if of == name]
        numbers = [f.number for f in frames if f.type in {wire.OPEN, wire.DATA}]
        assert numbers == list(range(len(numbers)))
        if count > 97:
            assert any(f.type == wire.PING for f in frames)

    def test_puts_small_messages_together(self):
        peer = Peer(**WIDE)
        session = peer.session
        assert session.open(A) == 0
        for n in range(500):
            assert session.send(A, b"%d" % n) is True
        assert session.stats()["pieces_in_use"] == 1
        first = session.output()
        assert len(wire.parse(first)) == 501

    def test_stays_in_one_block_when_all_is_acknowledged(self):
        peer = Peer(**WIDE)
        session = peer.session
        assert session.open(A) == 0
        for _ in range(300):
            for _ in range(20):
                assert session.send(A, bytes(1000)) is True
            peer.said()
            peer.feed(wire.ack(session.stats()["sequence"]))
        assert peer.blocks.stats()["allocated_bytes"] <= (128 + 2 * 64) * KIB
        assert session.stats()["pieces_in_use"] == 0

    def test_waits_for_acks_when_it_is_full(self):
        peer = Peer(Options(send_queue_size=256 * KIB), **WIDE)
        session = peer.session
        assert session.open(A) == 0
        sent = 0
        while session.send(A, bytes(10_000)) is True:
            sent += 1
            peer.said()
        assert sent == 256 * KIB // 10_016
        assert session.stats()["queued_bytes"] <= 256 * KIB + 33
        peer.feed(wire.ack(8))  # OPEN and seven messages: more than a block of them
        assert session.send(A, bytes(10_000)) is True
        while session.send(A, bytes(10_000)) is True:
            sent += 1
        assert sent < 2 * 256 * KIB // 10_016

    def test_takes_one_message_however_large_when_it_is_empty(self):
        peer = Peer(Options(send_queue_size=64 * KIB, max_message_size=16 * MIB), **WIDE)
        session = peer.session
        assert session.open(A) == 0
        peer.said()
        peer.feed(wire.ack(1))
        assert session.send(A, bytes(5 * MIB)) is True
        assert session.send(A, b"x") == "wait"

    def test_lets_senders_wait_for_the_link(self):
        peer = Peer(**WIDE)
        session = peer.session
        assert session.open(A) == 0
        sent = 0
        while session.send(A, bytes(1000)) is True:
            sent += 1
            assert sent < 1000
        assert 256 * KIB < session.stats()["unwritten_bytes"] <= 514 * KIB
        peer.said()
        assert session.send(A, bytes(1000)) is True


class TestAcks:
    def test_free_only_whole_frames_that_are_written(self):
        peer, _ = filled()
        session = peer.session
        total = 0
        while session.output(10_000):
            stats = session.stats()
            peer.feed(wire.ack(stats["sequence"]))
            now = session.stats()
            # What is not written is kept, although the peer claims to have it.
            assert now["queued_bytes"] >= now["unwritten_bytes"]
            total += 1
        stats = session.stats()
        assert total > 10
        assert (stats["queued_bytes"], stats["pieces_in_use"]) == (0, 0)

    @pytest.mark.parametrize("step", [1, 17, 4096, 30_000])
    def test_in_the_middle_of_a_write_change_nothing_that_is_written(self, step):
        peer, messages = filled()
        session = peer.session
        data = bytearray()
        while piece := session.output(step):
            data += piece
            if len(data) % 5 == 0:
                peer.feed(wire.ack(session.stats()["sequence"]))
        got = messages_of(wire.parse(bytes(data)))
        for name in (A, B):
            assert got[name] == [message for of, message in messages if of == name]
        peer.feed(wire.ack(session.stats()["sequence"]))
        assert session.stats()["pieces_in_use"] == 0

    def test_one_by_one_free_one_frame_after_the_other(self):
        peer, _ = filled()
        session = peer.session
        peer.said()
        held = []
        for number in range(session.stats()["sequence"] + 1):
            peer.feed(wire.ack(number))
            held.append(session.stats()["queued_bytes"])
        assert held == sorted(held, reverse=True)
        assert held[-1] == 0
        assert len(set(held)) > 10

    def test_give_blocks_back(self):
        pool = BlockPool()
        pair = Pair(blocks=pool)
        name = pair.open()
        for n in range(100):
            assert pair.client.send(name, payload(2000, n)) is True
            pair.carry()
        for _ in range(100):
            pair.server.receive(name)
        pair.settle()
        stats = pool.stats()
        assert stats["allocated_bytes"] - stats["free_bytes"] <= 2 * (128 + 64) * KIB


class TestReferences:
    def test_large_bytes_are_held_until_they_are_acknowledged(self):
        peer = Peer(**WIDE)
        session = peer.session
        assert session.open(A) == 0
        message = payload(200_000)
        before = sys.getrefcount(message)
        assert session.send(A, message) is True
        assert sys.getrefcount(message) == before + 1
        peer.said()
        assert sys.getrefcount(message) == before + 1
        peer.feed(wire.ack(session.stats()["sequence"]))
        assert session.send(A, b"") is True  # whoever sends next lets go of it
        assert sys.getrefcount(message) == before

    def test_are_held_once_for_each_part(self):
        peer = Peer(**WIDE)
        session = peer.session
        assert session.open(A) == 0
        message = payload(100_000)
        before = sys.getrefcount(message)
        assert session.send(A, message, b"between", message) is True
        assert sys.getrefcount(message) == before + 2
        peer.said()
        peer.feed(wire.ack(session.stats()["sequence"]))
        session.send(A, b"")
        assert sys.getrefcount(message) == before

    @pytest.mark.parametrize("size", [0, 10, 5000, 65_535])
    def test_smaller_ones_are_copied(self, size):
        peer = Peer(**WIDE)
        assert peer.session.open(A) == 0
        message = payload(size) if size else bytes(bytearray())
        before = sys.getrefcount(message)
        assert peer.session.send(A, message) is True
        assert sys.getrefcount(message) == before

    @pytest.mark.parametrize("kind", [bytearray, memoryview])
    def test_other_buffers_are_copied(self, kind):
        peer = Peer(**WIDE)
        assert peer.session.open(A) == 0
        message = kind(payload(200_000))
        before = sys.getrefcount(message)
        assert peer.session.send(A, message) is True
        assert sys.getrefcount(message) == before
        if kind is bytearray:
            message.append(0)  # nobody holds its buffer

    @pytest.mark.parametrize("end", ["abort", "stop", "refused", "drop"])
    def test_are_let_go_of_when_the_message_is_given_up(self, end):
        peer = Peer(**{**WIDE, "route_credit": 64 * KIB})
        session = peer.session
        assert session.open(A) == 0
        message = payload(300_000)
        before = sys.getrefcount(message)
        assert session.send(A, message) is True
        peer.said()
        if end == "abort":
            session.close(A, abruptly=True)
        elif end == "stop":
            peer.feed(peer.send.reset(1, peer=True))
        elif end == "refused":
            peer.feed(peer.send.reset(1, wire.LIMIT, peer=True))
        if end != "drop":
            peer.said()
            peer.feed(wire.ack(session.stats()["sequence"]))
            assert session.open(B) == 0
            assert session.send(B, b"") is True
        else:
            del session, peer
        assert sys.getrefcount(message) == before

    def test_are_let_go_of_when_the_message_is_not_taken(self):
        peer = Peer(**WIDE)
        session = peer.session
        assert session.open(A) == 0
        message = payload(100_000)
        before = sys.getrefcount(message)
        session.finish(A)
        assert session.send(A, message) == "ended"
        with pytest.raises(TypeError):
            session.send(A, message, "text")
        with pytest.raises(KeyError):
            session.send(B, message)
        peer.session.lost()
        assert session.send(A, message) == "closed"
        assert sys.getrefcount(message) == before


class TestRoundTrips:
    def test_a_question_and_its_answer_need_two_writes(self):
        """Acks and credit go along with messages."""
        pair = Pair()
        name = pair.open()
        assert pair.client.send(name, b"warm") is True
        assert pair.server.send(name, b"warm") is True
        pair.settle()
        pair.server.receive(name)
        pair.client.receive(name)
        writes = 0
        for _ in range(100):
            assert pair.client.send(name, b"question") is True
            writes += pair.write(pair.client) > 0
            pair.read(pair.server)
            assert pair.server.receive(name) == b"question"
            assert pair.server.send(name, b"answer") is True
            writes += pair.write(pair.server) > 0
            pair.read(pair.client)
            assert pair.client.receive(name) == b"answer"
            pair.now += MS // 100
        assert writes == 200
        assert pair.client.stats()["queued_bytes"] <= 2 * 24
