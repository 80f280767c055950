"""What two sessions do with each other, without a socket: PROTOCOL.md, sections 4 to 10."""

import os
import sys
import time

import pytest

import wire
from pair import MS, Pair, Peer, drain, payload, receive_all, uid
from tcpconn import handshake
from tcpconn._buffer import BlockPool
from tcpconn._session import Session
from tcpconn.options import Options, message_cost

KIB = 1024
MIB = 1024 * KIB
SMALL = Options(
    max_frame_size=16 * KIB,
    max_message_size=64 * KIB,
    connection_credit=64 * KIB,
    max_connection_credit=64 * KIB,
    session_credit=MIB,
)
A, B, C = uid(0xA), uid(0xB), uid(0xC)
SIZES = [
    0, 1, 1023, 1024, 1025, 4095, 4096, 4097, 16383, 16384, 16385, 65470, 65487, 65488,
    65535, 65536, 65537, 65600, 262144, MIB - 1, MIB, MIB + 1, 3 * MIB + 5,
]  # fmt: skip


class TestHandshake:
    def test_opens_both_sides(self):
        pair = Pair(shake=False)
        assert pair.client.wants_write
        assert not pair.server.wants_write
        pair.carry()
        assert pair.client.is_open
        assert pair.server.is_open
        pair.check_idle()

    def test_says_what_the_options_say(self):
        client = Session(SMALL, client=True)
        fields = wire.tags_of(client.output()[24:])
        assert wire.u32(fields[3]) == 16 * KIB
        assert [wire.u64(fields[n]) for n in (4, 5, 6)] == [64 * KIB, 64 * KIB, MIB]
        assert wire.u32(fields[8]) == SMALL.max_connections

    def test_the_server_repeats_the_session_id_and_has_a_nonce_of_its_own(self):
        client, server = Session(client=True), Session(client=False)
        hello = client.output()
        server.feed(hello)
        asked, answered = wire.tags_of(hello[24:]), wire.tags_of(server.output()[24:])
        assert answered[1] == asked[1]
        assert answered[2] != asked[2]

    def test_a_first_flight_needs_no_answer(self):
        pair = Pair(shake=False)
        assert pair.client.open(A) == 0
        assert pair.client.send(A, b"first") is True
        pair.pass_on(pair.client)
        assert pair.server.accept() == A
        assert pair.server.receive(A) == b"first"
        pair.settle()
        pair.check_idle()

    def test_a_first_flight_keeps_to_the_lower_end_of_every_range(self):
        pair = Pair(shake=False)
        assert pair.client.open(A) == 0
        assert pair.client.open(B) == wire.LIMIT
        assert pair.client.send(A, bytes(64 * KIB + 1)) == "too large"
        assert pair.client.send(A, bytes(64 * KIB)) is True
        frames = wire.parse(pair.client.output()[8:])
        sizes = [len(frame.payload) for frame in frames if frame.type == wire.DATA]
        assert max(sizes) <= 16 * KIB
        assert sum(sizes) - 8 + 64 * len(sizes) <= 64 * KIB

    def test_the_rest_of_a_first_flight_follows_the_welcome(self):
        pair = Pair(shake=False)
        assert pair.client.open(A) == 0
        message = payload(64 * KIB)
        assert pair.client.send(A, message) is True
        pair.carry()
        assert pair.server.accept() == A
        assert pair.server.receive(A) == message
        assert pair.client.state(A)["outgoing_cost"] == 0
        pair.settle()
        pair.check_idle()

    def test_a_server_says_nothing_before_the_hello(self):
        server = Session(client=False)
        assert server.open(A) == 0
        assert server.send(A, b"x") is True
        assert server.output() == b""
        assert not server.wants_write

    def test_both_have_the_smaller_message_limit(self):
        pair = Pair(SMALL, Options())
        name = pair.open()
        assert pair.client.send(name, bytes(64 * KIB + 1)) == "too large"
        assert pair.server.send(name, bytes(64 * KIB + 1)) == "too large"
        assert pair.server.send(name, bytes(64 * KIB)) is True


class TestOpening:
    def test_the_other_side_accepts(self):
        pair = Pair()
        name = pair.open()
        assert pair.server.accept() is None
        assert pair.client.state(name)["outgoing"] == "open"
        assert pair.client.state(name)["incoming"] == "idle"
        assert pair.server.state(name)["incoming"] == "open"

    def test_both_open_the_same_id_and_meet(self):
        pair = Pair()
        assert pair.client.open(A) == 0
        assert pair.server.open(A) == 0
        pair.carry()
        assert pair.server.accept() is None
        assert pair.client.accept() is None
        assert pair.client.send(A, b"there") is True
        assert pair.server.send(A, b"back") is True
        pair.carry()
        assert pair.server.receive(A) == b"there"
        assert pair.client.receive(A) == b"back"
        for session in (pair.client, pair.server):
            assert session.stats()["connections"] == 1

    def test_opening_takes_what_waits_to_be_accepted(self):
        pair = Pair()
        assert pair.client.open(A) == 0
        pair.carry()
        assert pair.server.stats()["unaccepted"] == 1
        assert pair.server.open(A) == 0
        assert pair.server.stats()["unaccepted"] == 0
        assert pair.server.accept() is None

    def test_twice_is_refused_at_home(self):
        pair = Pair()
        assert pair.client.open(A) == 0
        assert pair.client.open(A) == wire.DUPLICATE

    def test_what_waits_is_accepted_in_order(self):
        pair = Pair()
        for name in (C, A, B):
            assert pair.client.open(name) == 0
        pair.carry()
        assert [pair.server.accept() for _ in range(4)] == [C, A, B, None]

    def test_a_peer_that_names_an_open_id_again_is_refused(self):
        peer = Peer()
        peer.opened(A)
        peer.feed(peer.send.open(2, A), peer.send.whole(2, b"lost"))
        [stop] = peer.said(wire.RESET)
        assert (stop.flags, stop.route, wire.u32(stop.payload)) == (wire.PEER, 2, wire.DUPLICATE)
        assert peer.session.receive(A) is None
        peer.feed(peer.send.reset(2), peer.send.whole(1, b"kept"))
        assert peer.session.receive(A) == b"kept"

    def test_over_the_limit_of_unaccepted_ones_is_refused(self):
        pair = Pair(server=Options(max_unaccepted=2))
        for name in (A, B, C):
            assert pair.client.open(name) == 0
        pair.settle()
        assert pair.server.stats()["unaccepted"] == 2
        assert pair.client.state(C)["out_code"] == wire.LIMIT
        assert pair.client.send(C, b"x") == "ended"
        pair.client.close(C)
        pair.settle()
        assert pair.client.stats()["connections"] == 2

    def test_over_the_peers_limit_is_refused_at_home(self):
        pair = Pair(server=Options(max_connections=2))
        assert [pair.client.open(name) for name in (A, B, C)] == [0, 0, wire.LIMIT]
        pair.client.close(B)
        pair.carry()
        assert pair.server.accept() == A
        assert pair.server.accept() == B
        pair.server.close(B)
        pair.carry()
        assert pair.client.open(C) == 0

    def test_a_refused_one_is_over_and_may_be_tried_again(self):
        pair = Pair(server=Options(max_unaccepted=1))
        assert pair.client.open(A) == 0
        assert pair.client.open(B) == 0
        pair.settle()
        assert pair.server.accept() == A
        pair.client.close(B)
        assert pair.client.open(B) == 0
        pair.settle()
        assert pair.server.accept() == B
        pair.check()

    @pytest.mark.parametrize("closed", ["before", "after"])
    def test_a_refused_one_counts_no_longer(self, closed):
        pair = Pair(server=Options(max_unaccepted=1))
        assert pair.client.open(A) == 0
        assert pair.client.open(B) == 0
        assert pair.client.send(B, b"lost") is True
        if closed == "before":
            pair.client.close(B)  # the refusal crosses with our end
        pair.settle()
        if closed == "after":
            pair.client.close(B)
        pair.settle()
        assert pair.client.stats()["connections"] == 1
        assert pair.server.stats()["connections"] == 1
        pair.client.close(A)
        pair.server.accept()
        pair.server.close(A)
        pair.settle()
        assert pair.client.is_done
        assert pair.server.is_done

    def test_a_priority_is_kept_within_its_range(self):
        pair = Pair()
        for number, priority in enumerate((0, 7, 8, 255, 1000)):
            name = uid(100 + number)
            assert pair.client.open(name, priority) == 0
            assert pair.client.send(name, bytes(100 * KIB)) is True
        pair.carry()
        for _ in range(5):
            assert receive_all(pair.server, pair.server.accept()) == [bytes(100 * KIB)]

    @pytest.mark.slow
    @pytest.mark.parametrize("shift", [0, 32, 47, 64, 96, 111])
    def test_costs_the_same_whatever_ids_the_peer_chooses(self, shift):
        """No choice of ids makes long chains in the table of them."""

        def seconds(ids):
            peer = Peer(Options(max_unaccepted=1 << 20))
            data = b"".join(peer.send.open(n, name) for n, name in enumerate(ids, start=1))
            began = time.perf_counter()
            peer.feed(data)
            return time.perf_counter() - began

        count = 1 << 16
        scattered = min(seconds([os.urandom(16) for _ in range(count)]) for _ in range(3))
        chosen = min(seconds([uid(n << shift) for n in range(count)]) for _ in range(3))
        assert chosen < 5 * scattered

    def test_refusals_stay_bounded_when_the_peer_does_not_read(self):
        peer = Peer(Options(max_unaccepted=1))
        opens = b"".join(peer.send.open(n, uid(n)) for n in range(1, 200_000))
        assert peer.session.feed(opens, peer.now) < len(opens) // 2
        assert peer.session.is_paused
        assert peer.session.stats()["queued_bytes"] < 64 * KIB

    def test_refusals_stay_bounded_when_the_peer_ends_nothing(self):
        peer = Peer(Options(max_unaccepted=1))
        opens = b"".join(peer.send.open(n, uid(n)) for n in range(1, 200_000))
        refused = 0
        while peer.session.end is None:
            opens = opens[peer.session.feed(opens, peer.now) :]
            refused += len(peer.said(wire.RESET))
        assert peer.session.end[1] == wire.LIMIT
        assert refused < 5000


class TestEnding:
    def test_finish_lets_the_other_direction_go_on(self):
        pair = Pair()
        name = pair.open()
        assert pair.client.send(name, b"last") is True
        pair.client.finish(name)
        assert pair.client.send(name, b"more") == "ended"
        pair.carry()
        assert pair.server.state(name)["incoming"] == "ended"
        assert pair.server.receive(name) == b"last"
        assert pair.server.send(name, b"answer") is True
        pair.server.finish(name)
        pair.carry()
        assert pair.client.receive(name) == b"answer"
        for session in (pair.client, pair.server):
            assert session.stats()["connections"] == 0
            session.close(name)
        pair.settle()
        pair.check_idle()

    def test_finish_comes_behind_what_is_still_to_be_cut(self):
        pair = Pair(SMALL, SMALL)
        name = pair.open()
        messages = [payload(64 * KIB, n) for n in range(2)]
        assert pair.client.send(name, messages[0]) is True
        pair.client.finish(name)
        pair.carry()
        assert receive_all(pair.server, name) == messages[:1]
        pair.carry()
        assert pair.server.state(name)["incoming"] == "ended"

    def test_close_tells_the_peer_that_nobody_reads(self):
        pair = Pair()
        name = pair.open()
        pair.server.send(name, b"one")
        pair.carry()
        pair.client.close(name)
        pair.carry()
        assert pair.server.state(name)["outgoing"] == "ended"
        assert pair.server.state(name)["out_code"] == wire.CLOSED
        assert pair.server.send(name, b"two") == "ended"
        pair.server.close(name)
        pair.settle()
        pair.check_idle()
        assert pair.client.is_done
        assert pair.server.is_done

    def test_close_delivers_what_was_sent(self):
        pair = Pair()
        name = pair.open()
        for n in range(10):
            assert pair.client.send(name, payload(n * 5000)) is True
        pair.client.close(name)
        pair.carry()
        assert receive_all(pair.server, name) == [payload(n * 5000) for n in range(10)]
        assert pair.server.state(name)["incoming"] == "ended"

    def test_close_before_anything_was_sent_ends_with_one_open(self):
        peer = Peer()
        peer.opened(A)
        peer.session.close(A)
        stop, last = peer.said(wire.RESET, wire.OPEN, wire.FIN)
        assert (stop.type, stop.flags, stop.route) == (wire.RESET, wire.PEER, 1)
        assert (last.type, last.flags, last.route) == (wire.OPEN, wire.LAST, 1)
        assert peer.session.stats()["connections"] == 1
        peer.feed(peer.send.reset(1))
        assert peer.session.stats()["connections"] == 0

    def test_close_on_both_sides_at_once(self):
        pair = Pair()
        name = pair.open()
        pair.server.send(name, b"x")
        pair.carry()
        pair.client.close(name)
        pair.server.close(name)
        pair.settle()
        pair.check_idle()
        assert pair.client.stats()["connections"] == 0
        assert pair.server.stats()["connections"] == 0

    def test_close_before_the_peer_opened_its_direction(self):
        pair = Pair()
        assert pair.client.open(A) == 0
        assert pair.client.send(A, b"for you") is True
        pair.client.close(A)
        assert pair.client.open(A) == wire.DUPLICATE
        pair.carry()
        assert pair.server.accept() == A
        assert pair.server.receive(A) == b"for you"
        assert pair.server.send(A, b"for nobody") is True
        pair.carry()
        assert pair.server.state(A)["out_code"] == wire.CLOSED
        pair.server.close(A)
        pair.settle()
        assert pair.client.is_done
        assert pair.server.is_done
        pair.check_idle()

    def test_abort_throws_away_what_is_not_sent(self):
        pair = Pair(SMALL, SMALL)
        name = pair.open()
        for n in range(2):
            assert pair.client.send(name, payload(60 * KIB, n)) is True
        pair.pass_on(pair.client)
        pair.client.close(name, abruptly=True)
        pair.settle()
        assert pair.server.state(name)["in_code"] == wire.ABORTED
        assert receive_all(pair.server, name) == [payload(60 * KIB)]
        pair.server.close(name)
        pair.settle()
        pair.check_idle()

    def test_an_id_may_be_used_again_when_both_directions_are_over(self):
        pair = Pair()
        for n in range(20):
            first, second = (pair.client, pair.server) if n % 2 else (pair.server, pair.client)
            assert first.open(A) == 0
            assert first.send(A, b"%d" % n) is True
            pair.carry()
            assert second.accept() == A
            assert second.receive(A) == b"%d" % n
            if n % 3:
                assert second.send(A, b"x") is True
            first.close(A)
            second.close(A)
            pair.settle()
            assert first.stats()["connections"] == 0
            assert second.stats()["connections"] == 0
        pair.check_idle()

    @pytest.mark.parametrize("arrived", [1, 8 * KIB, 20 * KIB])
    @pytest.mark.parametrize("abruptly", [False, True])
    def test_close_while_a_message_arrives(self, arrived, abruptly):
        """Also in the middle of a chunk, whose memory is being read into just then."""
        pair = Pair()
        name = pair.open()
        message = payload(300 * KIB)
        assert pair.client.send(name, message) is True
        while pair.write(pair.client):
            pass
        pair.read(pair.server, arrived)
        pair.server.close(name, abruptly=abruptly)
        pair.settle()
        assert pair.client.state(name)["outgoing"] == "ended"
        assert pair.server.open(B) == 0
        pair.client.close(name)
        pair.settle()
        assert pair.client.stats()["connections"] == 1
        pair.check_idle()

    def test_close_at_every_byte_of_a_message(self):
        peer = Peer()
        message = payload(40 * KIB)
        for route, cut in enumerate(range(0, 41 * KIB, 997), start=1):
            peer.opened(uid(route), route)
            data = b"".join(peer.send.chunks(route, message, 17 * KIB))
            peer.feed(data[:cut])
            peer.session.close(uid(route))
            peer.feed(data[cut:], peer.send.reset(route))
        peer.feed(wire.ack(peer.session.stats()["sequence"]))
        peer.said()
        stats = peer.session.stats()
        peer.feed(wire.ack(stats["sequence"]))
        stats = peer.session.stats()
        assert stats["connections"] == 0
        assert stats["messages_in_use"] == 0
        assert stats["receive_credit"] + 41 * 45 * KIB > Options().session_credit
        assert peer.session.end is None

    def test_reset_in_mid_message_keeps_whole_ones(self):
        peer = Peer()
        peer.opened(A)
        peer.feed(
            peer.send.whole(1, b"kept"),
            peer.send.first(1, 100_000, bytes(50_000)),
            peer.send.reset(1, wire.TIMEOUT),
        )
        assert receive_all(peer.session, A) == [b"kept"]
        assert peer.session.state(A)["in_code"] == wire.TIMEOUT

    def test_reset_peer_crosses_with_fin(self):
        pair = Pair()
        name = pair.open()
        assert pair.client.send(name, b"x") is True
        pair.client.finish(name)
        pair.write(pair.client)
        pair.server.close(name)
        pair.settle()
        assert pair.client.state(name)["out_code"] == 0
        pair.client.close(name)
        pair.settle()
        assert pair.client.is_done
        assert pair.server.is_done

    def test_reset_peer_drops_what_waits_for_credit(self):
        pair = Pair(SMALL, SMALL)
        name = pair.open()
        for n in range(3):
            assert pair.client.send(name, payload(60 * KIB, n)) is True
            pair.carry()
        pair.client.finish(name)
        pair.carry()
        assert pair.client.stats()["outgoing_bytes"] == 60 * KIB
        pair.server.close(name)
        pair.settle()
        assert pair.client.stats()["outgoing_bytes"] == 0
        assert pair.client.state(name)["outgoing"] == "ended"
        pair.client.close(name)
        pair.settle()
        pair.check_idle()
        assert pair.client.is_done

    def test_everything_may_end_with_unread_messages(self):
        blocks = BlockPool()
        pair = Pair(blocks=blocks)
        ids = [pair.open() for _ in range(20)]
        for n, name in enumerate(ids):
            for size in (10, 5000, 60_000, 120_000):
                assert pair.client.send(name, payload(size, n)) is True
                assert pair.server.send(name, payload(size, n)) is True
                pair.carry()
        del pair
        stats = blocks.stats()
        assert stats["allocated_bytes"] == stats["free_bytes"]

    def test_a_session_may_be_dropped_at_any_time(self):
        blocks = BlockPool()
        big = payload(200 * KIB)
        references = sys.getrefcount(big)
        for steps in range(12):
            pair = Pair(blocks=blocks, shake=False)
            pair.client.open(A)
            pair.client.send(A, b"small")
            for _ in range(steps):
                pair.write(pair.client, 50_000)
                pair.read(pair.server, 30_000)
                pair.client.send(A, big)
                pair.write(pair.server)
                pair.read(pair.client)
            del pair
        stats = blocks.stats()
        assert stats["allocated_bytes"] == stats["free_bytes"]
        assert sys.getrefcount(big) == references


class TestMessages:
    @pytest.mark.parametrize("size", SIZES)
    def test_of_any_size_arrive(self, size):
        pair = Pair()
        name = pair.open()
        message = payload(size)
        for _ in range(3):
            assert pair.client.send(name, message) is True
            assert pair.server.send(name, message) is True
            pair.carry()
            assert pair.server.receive(name) == message
            assert pair.client.receive(name) == message
        pair.settle()
        pair.check_idle()

    @pytest.mark.parametrize("size", SIZES)
    def test_of_any_size_arrive_through_small_windows(self, size):
        options = Options(
            max_frame_size=16 * KIB, connection_credit=64 * KIB, max_connection_credit=64 * KIB
        )
        pair = Pair(options, options)
        name = pair.open()
        message = payload(size)
        for _ in range(3):
            assert pair.client.send(name, message) is True
            pair.carry()
            assert pair.server.receive(name) == message
        pair.settle()
        pair.check_idle()

    def test_the_largest_arrives_and_one_more_byte_does_not_leave(self):
        pair = Pair(SMALL, SMALL)
        name = pair.open()
        assert pair.client.send(name, bytes(64 * KIB + 1)) == "too large"
        assert pair.client.send(name, bytes(64 * KIB)) is True
        pair.carry()
        assert pair.server.receive(name) == bytes(64 * KIB)

    @pytest.mark.parametrize("parts", [1, 2, 7, 200, 1000])
    @pytest.mark.parametrize("size", [0, 1, 40, 500, 70_000])
    def test_made_of_parts(self, parts, size):
        if parts * size > 8 * MIB:
            size = 8 * MIB // parts
        pair = Pair()
        name = pair.open()
        buffers = [payload(size, n) for n in range(parts)]
        assert pair.client.send(name, *buffers) is True
        pair.carry()
        message = pair.server.receive(name)
        assert message == b"".join(buffers)
        pair.carry()
        assert pair.client.send(name, b"next") is True
        pair.carry()
        assert receive_all(pair.server, name) == [b"next"]
        pair.settle()
        pair.check_idle()

    def test_whose_memory_changes_are_copied(self):
        pair = Pair()
        name = pair.open()
        for size in (10, 5000, 100_000, 300_000):
            data = bytearray(payload(size))
            assert pair.client.send(name, data) is True
            data[:] = bytes(size)
            pair.carry()
            assert pair.server.receive(name) == payload(size)

    def test_keep_their_order_whatever_their_size(self):
        pair = Pair(server=Options(connection_credit=MIB))
        name = pair.open()
        sizes = [0, 200_000, 1, 100, 70_000, 5000, 0, 65_487, 65_488, 3]
        for n, size in enumerate(sizes):
            assert pair.client.send(name, payload(size, n)) is True
        pair.carry()
        assert receive_all(pair.server, name) == [payload(s, n) for n, s in enumerate(sizes)]

    def test_take_memory_as_they_arrive_and_not_as_they_are_announced(self):
        peer = Peer(Options(max_connection_credit=64 * MIB))
        peer.opened(A)
        before = peer.blocks.stats()["allocated_bytes"]
        peer.feed(peer.send.first(1, 16 * MIB, bytes(1024)))
        assert peer.blocks.stats()["allocated_bytes"] - before <= MIB

    def test_wait_for_memory(self):
        blocks = BlockPool(max_bytes=4 * MIB)
        pair = Pair(blocks=blocks)
        name = pair.open()
        lease = blocks.acquire(2 * MIB)
        message = payload(3 * MIB)
        assert pair.client.send(name, message) is True
        pair.carry()
        assert pair.server.is_paused
        assert pair.server.receive(name) is None
        lease.release()
        pair.carry()
        assert not pair.server.is_paused
        assert pair.server.receive(name) == message
        pair.check()


class TestCredit:
    def test_is_never_exceeded_and_a_dead_reader_holds_a_window_and_a_message(self):
        pair = Pair(SMALL, SMALL)
        name = pair.open()
        sent = 0
        while pair.client.send(name, payload(10_000, sent)) is True:
            sent += 1
            pair.carry()
            pair.check()
            assert sent < 100
        assert pair.client.state(name)["send_credit"] >= 0
        assert 50_000 <= pair.server.stats()["unread_bytes"] <= 64 * KIB + 10_000
        got = receive_all(pair.server, name)
        pair.carry()
        got += receive_all(pair.server, name)
        assert got == [payload(10_000, n) for n in range(sent)]
        assert pair.client.send(name, b"again") is True

    @pytest.mark.parametrize("size", [0, 1, 1000, 16 * KIB, 20 * KIB, 40 * KIB, 64 * KIB])
    def test_a_dead_reader_is_bounded_whatever_the_size(self, size):
        pair = Pair(SMALL, SMALL)
        name = pair.open()
        for _ in range(3000):
            if pair.client.send(name, bytes(size)) is not True:
                break
            pair.carry()
        assert pair.client.send(name, bytes(size)) == "wait"
        stats = pair.server.stats()
        assert stats["unread_bytes"] <= 64 * KIB + size
        assert stats["messages_in_use"] <= 1024 + 1
        count = len(receive_all(pair.server, name))
        pair.carry()
        assert pair.client.send(name, bytes(size)) is True
        pair.carry()
        assert len(receive_all(pair.server, name)) <= 2
        assert count > 0

    def test_one_dead_reader_holds_up_nobody_else(self):
        pair = Pair()
        dead, alive = pair.open(), pair.open()
        for _ in range(100):
            if pair.client.send(dead, bytes(100_000)) is not True:
                break
            pair.carry()
        for n in range(200):
            assert pair.client.send(alive, payload(100_000, n)) is True
            pair.carry()
            assert pair.server.receive(alive) == payload(100_000, n)

    def test_messages_that_wait_for_a_dead_reader_take_no_room_from_others(self):
        """Not even when as much waits as the send queue may hold."""
        options = Options(send_queue_size=MIB)
        pair = Pair(options)
        dead, alive = pair.open(), pair.open()
        while pair.client.send(dead, bytes(200_000)) is True:
            pair.settle()
        assert pair.client.stats()["outgoing_bytes"] == 200_000
        assert pair.client.send(alive, bytes(900_000)) is True
        pair.carry()
        assert pair.server.receive(alive) == bytes(900_000)
        assert pair.client.send(alive, b"x") is True

    def test_a_window_grows_with_use(self):
        pair = Pair()
        name = pair.open()
        assert pair.server.state(name)["window"] == 256 * KIB
        for _ in range(400):
            while pair.client.send(name, bytes(60_000)) is True:
                pair.carry()
            receive_all(pair.server, name)
            pair.carry()
        assert pair.server.state(name)["window"] == 16 * MIB

    def test_a_window_does_not_grow_for_who_is_slow(self):
        pair = Pair()
        name = pair.open()
        for _ in range(200):
            while pair.client.send(name, bytes(10_000)) is True:
                pair.carry()
            for _ in range(5):
                assert pair.server.receive(name) is not None
            pair.advance(MS)
            pair.carry()
        assert pair.server.state(name)["window"] == 256 * KIB

    def test_a_message_larger_than_the_window_does_not_starve(self):
        pair = Pair(server=Options(connection_credit=64 * KIB, max_connection_credit=64 * KIB))
        name = pair.open()
        assert pair.client.send(name, payload(5 * MIB)) is True
        pair.carry()
        assert pair.server.receive(name) == payload(5 * MIB)

    def test_many_half_sent_large_messages_do_not_starve_each_other(self):
        """The session's credit is enough for one of them, and there are eight."""
        options = Options(
            max_message_size=4 * MIB, session_credit=message_cost(4 * MIB), send_queue_size=64 * MIB
        )
        pair = Pair(options, options)
        ids = [pair.open() for _ in range(8)]
        for n, name in enumerate(ids):
            assert pair.client.send(name, payload(4 * MIB - n, n)) is True
        got = {}
        for _ in range(100):
            pair.carry()
            for name in ids:
                message = pair.server.receive(name)
                if message is not None:
                    assert name not in got
                    got[name] = message
        assert [got[name] for name in ids] == [payload(4 * MIB - n, n) for n in range(8)]
        pair.settle()
        pair.check_idle()

    def test_the_largest_message_finds_room_behind_small_ones(self):
        """All was read: so the session's limit must leave room for the largest message."""
        options = Options(max_message_size=MIB, session_credit=message_cost(MIB))
        pair = Pair(options, options)
        name = pair.open()
        for n in range(70):
            assert pair.client.send(name, payload(1000, n)) is True
            pair.carry()
            assert pair.server.receive(name) == payload(1000, n)
            pair.carry()
        assert pair.client.send(name, payload(MIB)) is True
        pair.carry()
        assert pair.server.receive(name) == payload(MIB)

    def test_what_a_reset_gives_back_is_used_by_who_waits_for_it(self):
        """The session's credit reserved for a message that its sender gives up."""
        options = Options(
            connection_credit=64 * KIB,
            max_message_size=4 * MIB,
            session_credit=message_cost(4 * MIB) + MIB,
        )
        pair = Pair(options, options)
        first, second = pair.open(), pair.open()
        assert pair.client.send(first, payload(4 * MIB)) is True
        pair.write(pair.client)
        assert pair.client.send(second, payload(3 * MIB)) is True
        pair.write(pair.client)
        assert pair.client.stats()["reserved"] > 3 * MIB
        pair.client.close(first, abruptly=True)
        pair.carry()
        assert pair.server.receive(second) == payload(3 * MIB)

    def test_a_small_message_waits_while_the_session_is_promised_to_a_large_one(self):
        options = Options(max_message_size=4 * MIB, session_credit=message_cost(4 * MIB))
        pair = Pair(options, options)
        large, small = pair.open(), pair.open()
        assert pair.client.send(large, payload(4 * MIB)) is True
        pair.write(pair.client, 1000)
        assert pair.client.send(small, b"x" * 1000) == "wait"
        pair.carry()
        assert pair.server.receive(large) == payload(4 * MIB)
        pair.carry()
        assert pair.client.send(small, b"x" * 1000) is True

    def test_dropped_messages_give_the_sessions_credit_back(self):
        pair = Pair(SMALL, SMALL)
        for _ in range(40):
            name = pair.open()
            while pair.client.send(name, bytes(9000)) is True:
                pair.carry()
            pair.server.close(name)
            pair.client.close(name)
            pair.settle()
        assert pair.server.stats()["receive_credit"] > MIB * 7 // 8
        pair.check_idle()

    def test_refused_routes_give_the_sessions_credit_back(self):
        peer = Peer(Options(max_unaccepted=1, session_credit=MIB, max_message_size=64 * KIB))
        peer.feed(peer.send.open(1, uid(1)))
        for route in range(2, 100):
            peer.feed(peer.send.open(route, uid(route)))
            peer.feed(*(peer.send.whole(route, bytes(15_000)) for _ in range(4)))
            peer.feed(peer.send.reset(route))
        assert peer.session.end is None


class TestAcks:
    def test_come_after_25_ms_at_the_latest(self):
        pair = Pair(Options(keepalive=0), Options(keepalive=0))
        name = pair.open()
        pair.settle()
        assert pair.client.send(name, b"x") is True
        pair.carry()
        assert pair.client.stats()["acked"] == 1
        assert pair.server.deadline == pair.now + 25 * MS
        pair.advance(25 * MS - 1)
        pair.carry()
        assert pair.client.stats()["acked"] == 1
        pair.advance(1)
        pair.carry()
        assert pair.client.stats()["acked"] == 2
        assert pair.server.deadline == 0

    def test_come_after_much_payload(self):
        peer = Peer(Options(connection_credit=4 * MIB))
        peer.opened(A)
        peer.said()
        sent = 0
        while not (acks := peer.said(wire.ACK)):
            peer.feed(peer.send.whole(1, bytes(64 * KIB)))
            sent += 1
            assert sent * 64 * KIB <= 2 * MIB
        assert wire.u64(acks[0].payload) == sent + 1

    def test_go_along_with_what_goes_out_anyway(self):
        pair = Pair()
        name = pair.open()
        assert pair.client.send(name, b"question") is True
        pair.carry()
        assert pair.server.send(name, b"answer") is True
        pair.carry()
        assert pair.client.stats()["acked"] == 2

    def test_are_sent_once(self):
        pair = Pair()
        name = pair.open()
        assert pair.client.send(name, b"x") is True
        pair.settle()
        pair.advance(1000 * MS)
        assert drain(pair.server) == []
        assert drain(pair.client) == []

    def test_free_what_they_acknowledge_and_no_more(self):
        peer = Peer()
        assert peer.session.open(A) == 0
        for n in range(5):
            assert peer.session.send(A, payload(200_000, n)) is True
        numbers = [frame.number for frame in peer.said(wire.OPEN, wire.DATA)]
        assert numbers == list(range(len(numbers)))
        left = peer.session.stats()["queued_bytes"]
        for number in range(1, len(numbers) + 1):
            peer.feed(wire.ack(number))
            now = peer.session.stats()["queued_bytes"]
            assert now <= left
            left = now
        assert left == 0
        assert peer.session.stats()["pieces_in_use"] == 0

    def test_of_what_is_written_only_in_part_free_nothing_yet(self):
        """A peer may acknowledge what it has before our write has returned."""
        pair = Pair()
        name = pair.open()
        pair.settle()
        message = payload(30_000)
        assert pair.client.send(name, message) is True
        data = pair.client.output(10_000)
        before = pair.client.stats()
        pair.client.feed(wire.ack(before["sequence"]), pair.now)
        data += pair.client.output()
        frames = wire.parse(data)
        assert [f.payload for f in frames if f.type == wire.DATA] == [message]
        assert pair.client.stats()["queued_bytes"] == 0


class TestPing:
    def test_is_answered_with_the_token_and_the_ack(self):
        pair = Pair()
        name = pair.open()
        pair.settle()
        assert pair.client.send(name, b"x") is True
        pair.client.ping(pair.now)
        pair.pass_on(pair.client)
        pair.now += 3 * MS
        pair.pass_on(pair.server)
        assert pair.client.stats()["acked"] == 2
        assert 3 * MS <= pair.client.stats()["round_trip_ns"] <= 3 * MS + 1

    def test_smooths_the_round_trip(self):
        pair = Pair()
        for delay in (8, 16, 16, 16):
            pair.client.ping(pair.now)
            pair.pass_on(pair.client)
            pair.now += delay * MS
            pair.pass_on(pair.server)
        assert 10 * MS < pair.client.stats()["round_trip_ns"] < 12 * MS

    def test_overtakes_what_is_queued(self):
        pair = Pair()
        name = pair.open()
        pair.settle()
        assert pair.client.send(name, bytes(MIB)) is True
        pair.client.ping(pair.now)
        assert wire.parse(pair.client.output())[0].type == wire.PING

    def test_a_flood_of_pings_makes_no_flood_of_answers(self):
        peer = Peer(Options(ping_burst=100_000))
        peer.feed(*(wire.ping(n) for n in range(100_000)))
        pongs = peer.said(wire.PONG)
        assert 1 <= len(pongs) <= 100
        assert wire.u64(pongs[-1].payload) == 99_999

    def test_an_answer_to_another_ping_measures_nothing(self):
        peer = Peer()
        peer.session.ping(peer.now)
        [ping] = peer.said(wire.PING)
        peer.feed(wire.ping(wire.u64(ping.payload) + 1, 0, wire.PONG))
        assert peer.session.stats()["round_trip_ns"] == 0


class TestGoaway:
    def test_closes_the_door_to_new_connections_on_both_sides(self):
        pair = Pair()
        name = pair.open()
        pair.server.goaway()
        assert pair.server.open(A) == wire.SHUTDOWN
        pair.carry()
        assert pair.client.open(B) == wire.SHUTDOWN
        assert pair.client.send(name, b"goes on") is True
        pair.carry()
        assert pair.server.receive(name) == b"goes on"
        pair.check()

    def test_refuses_what_was_under_way(self):
        pair = Pair()
        pair.server.goaway()
        assert pair.client.open(A) == 0
        pair.settle()
        assert pair.client.state(A)["out_code"] == wire.REFUSED
        pair.client.close(A)
        pair.settle()
        assert pair.client.is_done
        assert pair.server.is_done

    def test_is_done_when_connections_are_over_and_all_is_acknowledged(self):
        pair = Pair()
        name = pair.open()
        pair.client.goaway()
        assert not pair.client.is_done
        pair.client.close(name)
        pair.server.close(name)
        pair.settle()
        assert pair.client.is_done
        assert pair.server.is_done


class TestFaults:
    def test_are_told_to_the_peer(self):
        pair = Pair()
        pair.server.feed(bytes(wire.Frame(0x7F)), pair.now)
        assert pair.server.end[:3] == ("fault", wire.MALFORMED, "3.1")
        pair.carry()
        kind, code, _, text = pair.client.end
        assert (kind, code) == ("told", wire.MALFORMED)
        assert "unknown frame type" in text

    def test_bring_no_control_characters(self):
        """What the peer says of them goes into logs and onto terminals."""
        session = Session(client=True)
        session.feed(handshake.reject(wire.LIMIT, "full\nERROR \x1b[2J"))
        assert session.end == ("told", wire.LIMIT, "4", "full\ufffdERROR \ufffd[2J")

    def test_name_numbers_limits_and_the_section(self):
        peer = Peer(SMALL)
        peer.feed(peer.send.open(1, A))
        peer.session.feed(peer.send.first(1, 1 << 40, bytes(1024)))
        text = peer.session.end[3]
        assert "1099511627776" in text
        assert "65536" in text
        assert "PROTOCOL.md section 6" in text

    def test_come_last_behind_a_frame_that_is_half_written(self):
        pair = Pair()
        name = pair.open()
        pair.settle()
        assert pair.server.send(name, payload(100_000)) is True
        pair.write(pair.server, 1000)
        pair.server.feed(b"\xff" * 16, pair.now)
        assert pair.server.end is not None
        while pair.write(pair.server):
            pass
        frames = wire.parse(bytes(pair.on_wire[pair.server]))
        assert frames[-1].type == wire.GOAWAY
        assert pair.server.wants_write is False

    def test_come_last_behind_a_frame_in_too_many_pieces_for_one_write(self):
        pair = Pair()
        name = pair.open()
        pair.settle()
        assert pair.server.send(name, *(payload(70, n) for n in range(2000))) is True
        pair.write(pair.server)
        pair.server.feed(b"\xff" * 16, pair.now)
        while pair.write(pair.server):
            pass
        frames = wire.parse(bytes(pair.on_wire[pair.server]))
        assert frames[-1].type == wire.GOAWAY
        assert pair.server.wants_write is False

    def test_are_told_however_much_credit_is_due(self):
        """The farewell finds its room even when the control frames fill theirs."""
        peer = Peer(Options(max_unaccepted=1000))
        for route in range(1, 400):
            peer.opened(uid(route), route)
            peer.feed(*(peer.send.whole(route, bytes(60_000)) for _ in range(4)))
            receive_all(peer.session, uid(route))
        data = peer.session.output(100)
        peer.session.feed(b"\xff" * 16)
        while more := peer.session.output():
            data += more
        assert wire.parse(data)[-1].type == wire.GOAWAY

    def test_stop_everything(self):
        pair = Pair()
        name = pair.open()
        pair.server.feed(b"\xff" * 16)
        assert pair.server.feed(b"more") == 0
        assert pair.server.send(name, b"x") == "closed"
        pair.carry()
        assert pair.client.send(name, b"x") == "closed"
        pair.client.close(name)
        pair.server.close(name)

    def test_leave_what_was_received(self):
        pair = Pair()
        name = pair.open()
        assert pair.client.send(name, b"kept") is True
        pair.carry()
        pair.server.feed(b"\xff" * 16)
        assert pair.server.receive(name) == b"kept"

    def test_a_lost_link_is_nobodys_fault(self):
        pair = Pair()
        pair.client.lost()
        assert pair.client.end == ("lost", 0, "", "the link broke")
        assert pair.client.output() == b""


def leave_one_unread(pair, read, unread, n):
    """A small message that stays, and a block's worth of others that are read at once."""
    assert pair.client.send(unread, b"stays %d" % n) is True
    for _ in range(8):
        assert pair.client.send(read, bytes(15_000)) is True
        pair.carry()
        assert pair.server.receive(read) is not None


class TestMemory:
    def test_a_few_old_messages_do_not_hold_many_blocks(self):
        """One small message of each block stays unread, and everything else is read."""
        pair = Pair()
        read, unread = pair.open(), pair.open()
        for n in range(600):
            leave_one_unread(pair, read, unread, n)
            assert pair.server.stats()["retired_bytes"] <= 4 * MIB
        assert receive_all(pair.server, unread) == [b"stays %d" % n for n in range(600)]
        assert pair.server.stats()["retired_bytes"] == 0

    def test_blocks_that_are_full_do_not_hide_those_that_are_nearly_empty(self):
        """The oldest blocks are dense; behind them one small message in each stays unread."""
        pair = Pair(server=Options(connection_credit=4 * MIB))
        dense, read, unread = pair.open(), pair.open(), pair.open()
        for _ in range(200):
            assert pair.client.send(dense, bytes(15_000)) is True
            pair.carry()
        assert pair.server.stats()["retired_bytes"] > 2 * MIB
        for n in range(600):
            leave_one_unread(pair, read, unread, n)
            assert pair.server.stats()["retired_bytes"] <= 12 * MIB
        assert receive_all(pair.server, unread) == [b"stays %d" % n for n in range(600)]
        assert len(receive_all(pair.server, dense)) == 200

    def test_a_message_that_is_being_copied_stays_where_it_is(self):
        """The others in its sparse block are moved out; its memory serves nothing else."""
        pair = Pair()
        read, copied, unread = pair.open(), pair.open(), pair.open()
        assert pair.client.send(copied, payload(15_000)) is True

        def meanwhile():
            for n in range(20):
                leave_one_unread(pair, read, unread, n)
            assert pair.server.stats()["retired_bytes"] <= MIB  # blocks were cleared

        pair.carry()
        assert pair.server.receive_slowly(copied, meanwhile) == payload(15_000)
        assert receive_all(pair.server, unread) == [b"stays %d" % n for n in range(20)]
        assert pair.server.stats()["retired_bytes"] == 0

    def test_goes_back_to_the_pool(self):
        blocks = BlockPool()
        pair = Pair(blocks=blocks)
        name = pair.open()
        for size in (100, 5000, 100_000, MIB, 5 * MIB):
            for n in range(5):
                assert pair.client.send(name, payload(size, n)) is True
                pair.carry()
                assert pair.server.receive(name) == payload(size, n)
        pair.settle()
        pair.check_idle()
        stats = blocks.stats()
        assert stats["allocated_bytes"] - stats["free_bytes"] <= 2 * (128 + 64) * KIB

    def test_is_not_taken_by_a_peer_that_only_announces(self):
        """Section 7: no message is started that the session's credit does not cover."""
        peer = Peer(Options(max_unaccepted=300, max_message_size=MIB, session_credit=4 * MIB))
        for route in range(1, 200):
            peer.feed(peer.send.open(route, uid(route)))
            peer.session.feed(peer.send.first(route, MIB, bytes(1024)), peer.now)
            if peer.session.end is not None:
                break
        assert route == 4
        assert peer.session.end[:3] == ("fault", wire.CREDIT_CODE, "7")
        assert peer.blocks.stats()["allocated_bytes"] <= 5 * MIB
