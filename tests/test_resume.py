"""A session whose link breaks, PROTOCOL.md section 12: resumed, or lost with each message known."""

from __future__ import annotations

import random

import pytest

import wire
from pair import MS, Pair, drain, payload, receive_all, uid
from tcpconn._session import Session
from tcpconn.options import Options

ROOMY = Options(connection_credit=4 << 20)
SIZES = (0, 1, 1000, 20_000, 65_000, 65_536, 70_000, 200_000)


def test_nothing_is_kept_without_a_secret() -> None:
    pair = Pair(shake=False)
    pair.server = Session(client=False, blocks=pair.blocks)
    pair.on_wire = {pair.client: bytearray(), pair.server: bytearray()}
    pair.carry()
    pair.open()
    assert pair.client.secret is None
    assert not pair.client.lost()
    assert not pair.server.lost()
    assert pair.client.end is not None


def test_both_know_what_names_the_session() -> None:
    pair = Pair()
    assert pair.client.session_id == pair.server.session_id
    assert pair.client.secret == pair.server.secret == bytes(range(32))
    assert pair.client.server_nonce == pair.server.server_nonce
    assert pair.client.epoch == pair.server.epoch == 0


@pytest.mark.parametrize("heard", [0, 1, 20])
def test_a_session_that_begins_again_may_lose_its_link_too(heard: int) -> None:
    """Again and again, before WELCOME or in the midst of it: it says HELLO on each link."""
    pair = Pair()
    name = pair.open()
    pair.cut()
    pair.client.lose()
    for _ in range(3):
        pair.server = Session(client=False, blocks=pair.blocks, secret=bytes(32))
        pair.on_wire = {pair.client: bytearray(), pair.server: bytearray()}
        pair.write(pair.client)
        pair.read(pair.server)
        pair.write(pair.server)
        pair.read(pair.client, heard)
        assert pair.client.begins
        assert pair.client.lost()
    pair.server = Session(client=False, blocks=pair.blocks, secret=bytes(32))
    pair.on_wire = {pair.client: bytearray(), pair.server: bytearray()}
    pair.settle()
    assert pair.client.is_open
    assert pair.client.loss(name) == (0, [], [])
    assert pair.client.send(name, b"here") is True
    pair.settle()
    assert pair.server.accept() == name
    assert pair.server.receive(name) == b"here"
    pair.check()


def test_what_the_peer_did_not_want_counts_as_nothing_of_a_lost_session() -> None:
    """It closed the connection: what waited for credit was given up then, and is not acked."""
    pair = Pair()
    name = pair.open()
    messages = [payload(60_000, number) for number in range(6)]
    for message in messages:
        assert pair.client.send(name, message) is True
        pair.carry()
    assert pair.client.state(name)["outgoing_cost"] > 0
    # What the client does not read keeps the other direction from ending.
    for _ in range(2):
        assert pair.server.send(name, payload(400_000)) is True
        pair.carry()
    pair.server.close(name)
    pair.carry()
    pair.cut()
    pair.client.lose()
    told = pair.client.loss(name)
    assert told is not None
    acked, doubt, unsent = told
    assert [*messages[:acked], *doubt] == messages[:5]
    assert unsent == []


def test_a_client_that_is_done_is_not_kept() -> None:
    pair = Pair()
    assert not pair.client.lost()
    assert pair.server.lost()


@pytest.mark.parametrize("said", ["by the client", "by the server"])
def test_one_that_is_being_closed_is_kept_by_who_said_so_at_most(said: str) -> None:
    pair = Pair()
    pair.open()
    (pair.client if said == "by the client" else pair.server).goaway()
    pair.carry()
    assert pair.client.lost() is (said == "by the client")
    assert not pair.server.lost()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("parts", [1, 3])
def test_a_break_at_every_place(size: int, parts: int) -> None:
    """Of a stream of a few messages, cut after every frame and in the middle of each."""
    messages = [payload(size, number) for number in range(3)]
    places = sorted({0, 1, 15, 16, 17, 40, size // 2, size, size + 16, size + 32, 3 * size})
    for place in places:
        pair = Pair(ROOMY, ROOMY)
        name = pair.open()
        for message in messages:
            third = size // parts
            pieces = [bytearray(message[:third]), message[third:]] if parts > 1 else [message]
            assert pair.client.send(name, *pieces) is True
        while pair.write(pair.client):
            pass
        pair.read(pair.server, place)
        pair.cut()
        assert pair.client.is_detached
        assert pair.client.send(name, b"meanwhile") is True
        pair.resume()
        pair.settle()
        assert receive_all(pair.server, name) == [*messages, b"meanwhile"], place
        pair.settle()
        pair.check_idle()


STEPS = ["send", "write", "read", "receive", "cut", "wait"]


@pytest.mark.parametrize("seed", range(40))
def test_breaks_at_random(seed: int) -> None:
    chance = random.Random(seed)
    pair = Pair()
    names = [pair.open() for _ in range(3)]
    sides = (pair.client, pair.server)
    sent = {(side, name): [] for side in sides for name in names}
    got = {(side, name): [] for side in sides for name in names}
    for number in range(400):
        side, name = chance.choice(sides), chance.choice(names)
        what = chance.choices(STEPS, weights=[7, 5, 6, 1, 1, 1])
        match what:
            case ["send"]:
                message = payload(int(2 ** chance.uniform(0, 18.3)), number)
                half = len(message) // 2
                parts = [message] if chance.random() < 0.5 else [message[:half], message[half:]]
                if side.send(name, *parts) is True:
                    sent[side, name].append(message)
            case ["write"]:
                pair.write(side, int(2 ** chance.uniform(0, 18)))
            case ["read"]:
                pair.read(side, int(2 ** chance.uniform(0, 18)))
            case ["receive"]:
                got[side, name] += receive_all(side, name)
            case ["cut"]:
                pair.cut()
                pair.resume()
            case _:
                pair.advance(30 * MS)
        pair.check()
    for _ in range(50):
        pair.settle()
        for side, name in got:
            got[side, name] += receive_all(side, name)
    for (side, name), messages in sent.items():
        assert got[pair.other(side), name] == messages
    pair.check_idle()


@pytest.mark.parametrize("asks", ["client", "server"])
def test_an_answer_that_is_lost_is_asked_for_again_however_often(asks: str) -> None:
    pair = Pair()
    pair.open()
    session = getattr(pair, asks)
    session.ping(pair.now)
    for _ in range(50):
        assert [frame.type for frame in drain(session)][:1] == [wire.PING]
        pair.cut()
        pair.resume()
        while pair.write(session):
            pass
        pair.read(pair.other(session))
        pair.check()
        pair.cut()
        pair.resume()
    pair.settle()
    pair.cut()
    pair.resume()
    assert wire.PING not in [frame.type for frame in drain(session)]


def test_what_both_have_is_not_sent_again() -> None:
    pair = Pair()
    name = pair.open()
    for number in range(10):
        pair.client.send(name, bytes([number]))
    while pair.write(pair.client):
        pass
    pair.read(pair.server)
    pair.cut()
    pair.client.send(name, b"new")
    pair.resume()
    assert [frame.payload for frame in drain(pair.client) if frame.type == wire.DATA] == [b"new"]


def test_a_peer_cannot_have_what_was_not_sent() -> None:
    pair = Pair()
    name = pair.open()
    pair.client.send(name, b"x")
    pair.settle()
    pair.cut()
    sequence = pair.client.stats()["sequence"]
    assert not pair.client.resume(sequence + 1)
    assert not pair.client.resume(sequence - 1)  # that one was acknowledged
    assert pair.client.is_detached
    assert pair.client.resume(sequence)


def test_credit_and_goaway_are_said_again() -> None:
    pair = Pair()
    name = pair.open()
    for _ in range(20):
        assert pair.client.send(name, bytes(60_000)) is True
        pair.settle()
        receive_all(pair.server, name)
    pair.carry()
    pair.client.goaway()
    assert pair.client.output()
    pair.on_wire[pair.client].clear()
    assert pair.client.lost()
    assert pair.server.lost()
    pair.resume()
    assert wire.GOAWAY in [frame.type for frame in drain(pair.client)]
    credit = [frame for frame in drain(pair.server) if frame.type == wire.CREDIT]
    assert {frame.route for frame in credit} >= {1}


def test_what_came_is_acknowledged_before_a_connection_ends() -> None:
    """However much is to be sent again before that."""
    pair = Pair(ROOMY, ROOMY)
    streaming, closing = pair.open(), pair.open()
    pair.server.send(closing, b"open this way, too")
    pair.settle()
    while pair.server.send(streaming, payload(66_000)) is True:
        while pair.write(pair.server):
            pass
    pair.cut()
    pair.resume()
    pair.server.ping(pair.now)  # in front of pairs of header and payload, an odd number
    said = pair.server.output(1000)
    pair.client.send(closing, b"the last word")
    pair.pass_on(pair.client)
    assert receive_all(pair.server, closing) == [b"the last word"]
    pair.server.close(closing)
    while more := pair.server.output():
        said += more
    frames = [frame for frame in wire.parse(said) if frame.type in (wire.ACK, wire.FIN)]
    assert [frame.type for frame in frames] == [wire.ACK, wire.FIN]
    assert wire.u64(frames[0].payload) == pair.client.stats()["sequence"]


def test_a_ping_that_was_under_way_is_answered_on_the_next_link() -> None:
    pair = Pair()
    pair.open()
    pair.client.ping(pair.now)
    pair.write(pair.client)
    pair.cut()
    pair.resume()
    assert wire.PING in [frame.type for frame in drain(pair.client)]


class TestLoss:
    @pytest.mark.parametrize("size", SIZES)
    def test_every_message_is_accounted_for(self, size: int) -> None:
        """Acknowledged, in doubt and unsent, wherever the last link broke."""
        messages = [payload(size, number) for number in range(5)]
        for written in (0, 1, size, 2 * size + 40, 3 * size + 100, 6 * size + 200):
            pair = Pair(ROOMY, ROOMY)
            name = pair.open()
            for message in messages[:2]:
                assert pair.client.send(name, message) is True
            pair.settle()
            assert receive_all(pair.server, name) == messages[:2]
            pair.settle()
            for message in messages[2:]:
                half = size // 2
                assert pair.client.send(name, bytearray(message[:half]), message[half:]) is True
            pair.write(pair.client, written)
            pair.cut()
            pair.client.lose()
            told = pair.client.loss(name)
            assert told is not None
            acked, doubt, unsent = told
            assert acked == 2
            assert doubt + unsent == messages[2:], written
            if written == 0:
                assert doubt == []
            elif written > 6 * size + 199:
                assert unsent == [] or size >= 65_536  # chunks are cut as the link takes them
            assert pair.client.loss(name) is None, "told twice"

    def test_what_was_acknowledged_in_part_is_whole(self) -> None:
        """Its first chunks are gone from the send queue."""
        pair = Pair(ROOMY, Options(connection_credit=4 << 20, max_frame_size=65_536))
        name = pair.open()
        message = payload(300_000)
        assert pair.client.send(name, message) is True
        pair.write(pair.client)
        pair.read(pair.server, 140_000)
        pair.advance(50 * MS)
        pair.pass_on(pair.server)
        assert 0 < pair.client.stats()["queued_bytes"] < 300_000
        while pair.write(pair.client):
            pass
        pair.cut()
        pair.client.lose()
        assert pair.client.loss(name) == (0, [message], [])

    def test_an_earlier_link_may_have_carried_it(self) -> None:
        pair = Pair()
        name = pair.open()
        pair.settle()
        pair.client.send(name, b"written once")
        pair.write(pair.client)
        pair.cut()
        pair.resume()
        pair.client.send(name, b"never")
        pair.cut()
        pair.client.lose()
        assert pair.client.loss(name) == (0, [b"written once"], [b"never"])

    def test_the_connection_goes_on_in_a_new_session(self) -> None:
        pair = Pair()
        names = [pair.open() for _ in range(3)]
        for name in names:
            pair.server.send(name, b"unread")
        pair.settle()
        before = pair.client.session_id
        pair.restart()
        assert pair.client.session_id != before
        for name in names:
            assert pair.client.send(name, b"x") == "lost"
            assert pair.client.loss(name) is not None
            assert receive_all(pair.client, name) == [b"unread"]
            assert pair.client.send(name, b"again") is True
        pair.settle()
        assert [pair.server.accept() for _ in names] != []
        for name in names:
            assert receive_all(pair.server, name) == [b"again"]
            assert pair.server.send(name, b"answer") is True
        pair.settle()
        for name in names:
            assert receive_all(pair.client, name) == [b"answer"]
        pair.settle()
        pair.check_idle()

    def test_one_that_the_peer_had_finished_is_not_lost(self) -> None:
        pair = Pair()
        name = pair.open()
        pair.server.send(name, b"last")
        pair.server.close(name)
        pair.settle()
        pair.restart()
        assert pair.client.loss(name) is None
        assert receive_all(pair.client, name) == [b"last"]
        assert pair.client.state(name)["incoming"] == "ended"

    def test_a_server_gives_up_for_good(self) -> None:
        pair = Pair()
        name = pair.open()
        pair.server.send(name, b"in vain")
        pair.cut()
        pair.server.lose(renew=False)
        assert pair.server.end is not None
        assert pair.server.send(name, b"x") == "lost"
        assert pair.server.loss(name) == (0, [], [b"in vain"])
        assert pair.server.send(name, b"x") == "closed"

    def test_again_and_again(self) -> None:
        pair = Pair()
        name = pair.open()
        for number in range(5):
            message = payload(100_000, number)
            assert pair.client.send(name, message) is True
            pair.write(pair.client, 70_000)
            pair.restart()
            assert pair.client.loss(name) == (0, [message], [])
            assert pair.client.send(name, b"between") is True
            pair.settle()
            assert pair.server.accept() == name
            assert receive_all(pair.server, name) == [b"between"]
            pair.settle()
            pair.check_idle()
            pair.restart()
            assert pair.client.loss(name) == (1, [], [])

    def test_refused_connections_leave_nothing(self) -> None:
        pair = Pair(server=Options(max_unaccepted=1))
        for number in range(1, 6):
            assert pair.client.open(uid(number)) == 0
        pair.pass_on(pair.client)
        pair.cut()
        pair.server.lose(renew=False)
        pair.client.lose()


class TestSilence:
    OPTIONS = Options(keepalive=10, keepalive_timeout=30)

    def test_a_silent_peer_is_asked(self) -> None:
        pair = Pair(self.OPTIONS)
        pair.settle()
        drain(pair.client)
        at = pair.client.deadline
        assert at == pair.now - 100 * MS + 10_000 * MS or at <= pair.now + 10_000 * MS
        pair.client.tick(at - 1)
        assert drain(pair.client) == []
        pair.client.tick(at)
        assert [frame.type for frame in drain(pair.client)] == [wire.PING]

    def test_who_speaks_is_not_asked(self) -> None:
        pair = Pair(self.OPTIONS)
        name = pair.open()
        pair.settle()
        for _ in range(10):
            pair.advance(9_000 * MS)
            pair.server.send(name, b"x")
            pair.settle()
            assert receive_all(pair.client, name) == [b"x"]
            assert wire.PING not in [frame.type for frame in drain(pair.client)]

    def test_the_answer_keeps_it_alive(self) -> None:
        pair = Pair(self.OPTIONS)
        for _ in range(20):
            pair.advance(5_000 * MS)
            pair.carry()
        pair.check()
