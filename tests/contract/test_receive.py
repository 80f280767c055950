"""Receiving: each way to do it, in any mixture, and what happens when nothing comes."""

from __future__ import annotations

import array
import contextlib
import gc
import itertools
import mmap
from collections.abc import Callable

import pytest

import tcpconn
from rawpeer import RawPeer
from support import (
    KIB,
    MIB,
    PATIENCE,
    SIZES,
    Background,
    Pair,
    multiplexer_pair,
    noise,
    wait_until,
)

OVER_TLS = True


def into(connection: tcpconn.Connection, timeout: float | None = PATIENCE) -> bytes:
    buffer = bytearray(17 * MIB)
    return bytes(buffer[: connection.receive_into(buffer, timeout)])


def viewed(connection: tcpconn.Connection, timeout: float | None = PATIENCE) -> bytes:
    with connection.receive_view(timeout) as lease:
        return bytes(lease)


def one_of_many(connection: tcpconn.Connection, timeout: float | None = PATIENCE) -> bytes:
    (message,) = connection.receive_many(1, timeout)
    return message


def plain(connection: tcpconn.Connection, timeout: float | None = PATIENCE) -> bytes:
    return connection.receive(timeout)


def iterated(connection: tcpconn.Connection, timeout: float | None = PATIENCE) -> bytes:
    return next(iter(connection))


WAYS = [plain, into, viewed, one_of_many, iterated]
WITH_TIMEOUT = [plain, into, viewed, one_of_many]
Way = Callable[..., bytes]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("waiting", [False, True])
def test_every_way_takes_every_size(way: Way, waiting: bool, pair: Pair) -> None:
    def send() -> None:
        for size in SIZES:
            pair.client.send(noise(size, size), PATIENCE)
            if waiting:
                # Only when the one before was taken: the receiver is there first.
                assert pair.client.receive(PATIENCE) == b"next"

    sending = Background(send)
    for size in SIZES:
        assert way(pair.server) == noise(size, size)
        if waiting:
            pair.server.send(b"next")
    sending.result()


@pytest.mark.parametrize("size", [100, 64 * KIB, 200 * KIB, 3 * MIB])
def test_all_ways_in_turn(size: int, pair: Pair) -> None:
    """A large one received before is a guess for the next; it may be wrong in every way."""
    rounds = 40 if size < MIB else 15
    sizes = [max(0, size + d) for d in (0, 0, 1, -1, 0, 70000, 0, -size)]

    def send() -> None:
        for number in range(rounds):
            pair.client.send(noise(sizes[number % len(sizes)], number), PATIENCE)

    sending = Background(send)
    for number, way in zip(range(rounds), itertools.cycle(WAYS)):
        assert way(pair.server) == noise(sizes[number % len(sizes)], number)
    sending.result()


def test_what_was_received_stays_as_it_is(pair: Pair) -> None:
    """Bytes handed out are nobody else's: later messages do not write into them."""
    sending = Background(
        lambda: [pair.client.send(noise(300 * KIB, n), PATIENCE) for n in range(30)]
    )
    kept = [pair.server.receive(PATIENCE) for _ in range(30)]
    sending.result()
    for number, message in enumerate(kept):
        assert message == noise(300 * KIB, number)


@pytest.mark.parametrize("way", WITH_TIMEOUT)
@pytest.mark.parametrize("timeout", [0, 0.01])
def test_nothing_comes(way: Way, timeout: float, pair: Pair) -> None:
    for _ in range(3):
        with pytest.raises(tcpconn.Timeout, match=f"{pair.server.id} within {timeout}") as caught:
            way(pair.server, timeout)
        assert isinstance(caught.value, TimeoutError)
    pair.client.send(b"now")
    assert way(pair.server) == b"now"


@pytest.mark.parametrize("way", WITH_TIMEOUT)
@pytest.mark.parametrize("size", [10, 100 * KIB, 3 * MIB])
def test_a_timeout_loses_nothing(way: Way, size: int, pair: Pair) -> None:
    """However often a receiver gives up while messages come in, it gets all of them, in order."""
    count = 300 if size < MIB else 10
    sending = Background(lambda: [pair.client.send(noise(size, n), PATIENCE) for n in range(count)])
    timeouts = itertools.cycle([0, 1e-6, 1e-5, 1e-4, 1e-3])
    gave_up = 0
    number = 0
    while number < count:
        try:
            message = way(pair.server, next(timeouts))
        except tcpconn.Timeout:
            gave_up += 1
            assert gave_up < 1_000_000
            continue
        assert message == noise(size, number)
        number += 1
    sending.result()


def test_polling_with_a_timeout_of_zero_gets_there(pair: Pair) -> None:
    """No other thread is needed for it: polling reads the socket."""
    pair.client.send(b"hello")
    arrived = []

    def poll() -> bool:
        with contextlib.suppress(tcpconn.Timeout):
            arrived.append(pair.server.receive(0))
        return bool(arrived)

    wait_until(poll, "the message never came")
    assert arrived == [b"hello"]


class TestReceiveInto:
    def test_it_fits_exactly(self, pair: Pair) -> None:
        for size in (0, 1, 100, 70 * KIB, MIB):
            buffer = bytearray(size)
            sending = Background(lambda size=size: pair.client.send(noise(size)))
            assert pair.server.receive_into(buffer, PATIENCE) == size
            assert buffer == noise(size)
            sending.result()

    def test_the_rest_of_the_buffer_stays(self, pair: Pair) -> None:
        for size in (5, 100 * KIB):
            buffer = bytearray(b"." * (size + 5))
            for _ in range(3):
                sending = Background(lambda size=size: pair.client.send(noise(size)))
                assert pair.server.receive_into(buffer, PATIENCE) == size
                assert buffer[size:] == b"....."
                sending.result()

    @pytest.mark.parametrize("size", [1, 10, 100 * KIB, 2 * MIB])
    def test_too_small_a_buffer(self, size: int, pair: Pair) -> None:
        sending = Background(lambda: pair.client.send_many([noise(size), b"behind"]))
        for capacity in (0, size - 1):
            with pytest.raises(tcpconn.BufferTooSmall, match=f"{size}.*{capacity}") as caught:
                pair.server.receive_into(bytearray(capacity), PATIENCE)
            assert (caught.value.size, caught.value.capacity) == (size, capacity)
            assert isinstance(caught.value, ValueError)
        assert pair.server.receive(PATIENCE) == noise(size)
        assert pair.server.receive(PATIENCE) == b"behind"
        sending.result()

    def test_too_small_a_buffer_that_waited(self, pair: Pair) -> None:
        for size in (10, 300 * KIB):
            for _ in range(3):
                receiving = Background(
                    lambda size=size: pair.server.receive_into(bytearray(size - 1))
                ).asleep()
                sending = Background(lambda size=size: pair.client.send(noise(size)))
                assert isinstance(receiving.error(), tcpconn.BufferTooSmall)
                assert pair.server.receive(PATIENCE) == noise(size)
                sending.result()

    @pytest.mark.parametrize(
        "buffer", [b"read-only", memoryview(bytearray(8))[::2], "text", 7, None, memoryview(b"no")]
    )
    def test_what_is_no_writable_buffer(self, buffer: object, pair: Pair) -> None:
        pair.client.send(b"message")
        with pytest.raises(tcpconn.NotABuffer, match=type(buffer).__name__) as caught:
            pair.server.receive_into(buffer, PATIENCE)  # type: ignore[arg-type]
        assert isinstance(caught.value, TypeError)
        assert pair.server.receive(PATIENCE) == b"message"

    def test_other_buffers(self, pair: Pair) -> None:
        pair.client.send_many([b"array", b"mapped", b"slice", b"\1\0\0\0\0\0\0\0"])
        numbers = array.array("B", bytes(10))
        assert pair.server.receive_into(numbers, PATIENCE) == 5
        assert numbers.tobytes() == b"array" + bytes(5)
        with mmap.mmap(-1, 4096) as mapped:
            assert pair.server.receive_into(mapped, PATIENCE) == 6
            assert mapped[:6] == b"mapped"
        inside = bytearray(b"." * 12)
        assert pair.server.receive_into(memoryview(inside)[3:9], PATIENCE) == 5
        assert inside == b"...slice...."
        wide = array.array("Q", [0])
        assert pair.server.receive_into(wide, PATIENCE) == 8

    def test_the_buffer_is_let_go(self, pair: Pair) -> None:
        buffer = bytearray(1 * MIB)
        with pytest.raises(tcpconn.Timeout):
            pair.server.receive_into(buffer, 0.01)
        buffer.extend(b"x")  # a buffer that is exported cannot be resized
        # Nor does anything write into it any more, whatever comes now.
        untouched = bytes(buffer)
        sending = Background(lambda: pair.client.send(noise(1 * MIB)))
        assert pair.server.receive(PATIENCE) == noise(1 * MIB)
        sending.result()
        assert buffer == untouched


class TestReceiveView:
    def test_a_view_is_read_only_and_ends(self, pair: Pair) -> None:
        pair.client.send(b"content")
        with pair.server.receive_view(PATIENCE) as lease:
            view = memoryview(lease)
            assert view.readonly
            assert bytes(view) == b"content"
            assert len(lease) == 7
            assert lease[3] == ord("t")
            assert not lease.released
        assert lease.released
        with pytest.raises(ValueError, match="released"):
            memoryview(lease)
        # What was taken before holds the memory by itself.
        assert bytes(view) == b"content"
        lease.release()

    @pytest.mark.parametrize("size", [0, 1, 1000, 70 * KIB, 2 * MIB])
    def test_views_stay_while_more_comes(self, size: int, pair: Pair) -> None:
        count = 20
        sending = Background(
            lambda: [pair.client.send(noise(size, n), PATIENCE) for n in range(count)]
        )
        leases = [pair.server.receive_view(PATIENCE) for _ in range(count)]
        sending.result()
        for number, lease in enumerate(leases):
            with lease:
                assert memoryview(lease) == noise(size, number)

    def test_a_view_outlives_its_connection(self, pair: Pair) -> None:
        pair.client.send(noise(1000))
        lease = pair.server.receive_view(PATIENCE)
        pair.server.close()
        pair.client.close()
        with lease:
            assert memoryview(lease) == noise(1000)

    def test_a_view_that_is_forgotten(self, pair: Pair) -> None:
        for _ in range(100):
            pair.client.send(noise(1000))
            pair.server.receive_view(PATIENCE)
        gc.collect()
        pair.client.send(b"fine")
        assert viewed(pair.server) == b"fine"


class TestReceiveMany:
    def test_all_that_there_are(self, pair: Pair) -> None:
        messages = [noise(n, n) for n in range(50)]
        pair.client.send_many(messages)
        pair.client.flush(PATIENCE)
        assert pair.server.receive_many() == messages

    def test_with_a_limit(self, pair: Pair) -> None:
        messages = [bytes([n]) for n in range(10)]
        pair.client.send_many(messages)
        pair.client.flush(PATIENCE)
        assert pair.server.receive_many(4) == messages[:4]
        assert pair.server.receive_many(1) == messages[4:5]
        assert pair.server.receive_many(100) == messages[5:]

    @pytest.mark.parametrize("limit", [0, -1])
    def test_a_limit_that_is_none(self, limit: int, pair: Pair) -> None:
        with pytest.raises(ValueError, match=f"limit={limit}"):
            pair.server.receive_many(limit)

    def test_it_waits_for_the_first_only(self, pair: Pair) -> None:
        receiving = Background(pair.server.receive_many).asleep()
        pair.client.send(b"only one")
        assert receiving.result() == [b"only one"]

    def test_large_and_small(self, pair: Pair) -> None:
        messages = [noise(n, n) for n in (0, 100 * KIB, 5, 70 * KIB)]
        pair.client.send_many(messages)
        pair.client.flush(PATIENCE)
        assert pair.server.receive_many() == messages

    def test_messages_before_the_end_come_before_it(self, pair: Pair) -> None:
        pair.client.send_many([b"a", b"b"])
        pair.client.close()
        assert pair.server.receive_many() == [b"a", b"b"]
        with pytest.raises(tcpconn.ConnectionClosed):
            pair.server.receive_many()


class TestIteration:
    def test_it_ends_with_the_peer(self, pair: Pair) -> None:
        pair.client.send_many([b"a", b"b", b"c"])
        pair.client.close()
        assert list(pair.server) == [b"a", b"b", b"c"]
        assert list(pair.server) == []

    def test_it_ends_when_closed_here(self, pair: Pair) -> None:
        iterating = Background(lambda: list(pair.server)).asleep()
        pair.server.close()
        assert iterating.result() == []

    def test_it_raises_when_the_peer_aborts(self, pair: Pair) -> None:
        pair.client.send(b"a")
        assert pair.server.receive(PATIENCE) == b"a"
        pair.client.abort()
        with pytest.raises(tcpconn.ConnectionReset):
            list(pair.server)

    def test_it_raises_when_aborted_here(self, pair: Pair) -> None:
        iterating = Background(lambda: list(pair.server)).asleep()
        pair.server.abort()
        assert isinstance(iterating.error(), tcpconn.ConnectionReset)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [10, 100 * KIB, 2 * MIB])
def test_a_waiting_receiver_gets_it(way: Way, size: int, pair: Pair) -> None:
    for number in range(4):
        receiving = Background(lambda: way(pair.server)).asleep()
        sending = Background(lambda number=number: pair.client.send(noise(size, number)))
        assert receiving.result() == noise(size, number)
        sending.result()


def test_a_reader_that_polls_sees_to_what_the_kernel_did_not_take(link: str) -> None:
    poll = 2 * PATIENCE  # nobody else would write for so long
    with multiplexer_pair(link, busy_poll=poll) as (near, far):
        client = near.open()
        client.send(b"hello")
        server = far.accept(PATIENCE)
        assert server.receive(PATIENCE) == b"hello"
        receiving = Background(client.receive)
        message = noise(8 * MIB)
        client.send(message, PATIENCE)
        assert server.receive(PATIENCE) == message
        server.send(b"thanks", PATIENCE)
        assert receiving.result() == b"thanks"


@pytest.mark.plain
def test_a_large_message_that_comes_in_pieces_is_slept_for(link: str) -> None:
    with (
        tcpconn.listen("127.0.0.1:0", link=link) as listener,
        RawPeer(listener.address) as peer,
    ):
        peer.open()
        server = listener.accept(PATIENCE)
        for number in range(4):
            message = noise(200 * KIB, number)
            frame = peer.writer.whole(1, message)
            receiving = Background(lambda: server.receive(PATIENCE))
            for at in range(0, len(frame), 40000):
                receiving.asleep()  # however long it polls for the rest, that has an end
                peer.say(frame[at : at + 40000])
            assert receiving.result() == message


@pytest.mark.blocking("no task polls")
@pytest.mark.plain
def test_a_reader_that_polls_hears_what_happens_here(link: str) -> None:
    with (
        tcpconn.listen("127.0.0.1:0", link=link, busy_poll=2 * PATIENCE) as listener,
        RawPeer(listener.address) as peer,  # who does not answer: only this side can end the wait
    ):
        peer.open()
        server = listener.accept(PATIENCE)
        receiving = Background(server.receive).at_work()
        server.abort()
        assert isinstance(receiving.error(), tcpconn.ConnectionReset)


def test_busy_polling(link: str) -> None:
    with (
        tcpconn.listen("127.0.0.1:0", link=link, busy_poll=0.001) as listener,
        tcpconn.ConnectionPool(link=link, busy_poll=0.001) as pool,
        pool.connect(listener.address) as client,
        listener.accept(PATIENCE) as server,
    ):
        with pytest.raises(tcpconn.Timeout):
            client.receive(0.002)
        for number in range(100):
            client.send(noise(number))
            assert server.receive(PATIENCE) == noise(number)
            server.send(noise(number * 1000))
            assert client.receive(PATIENCE) == noise(number * 1000)
