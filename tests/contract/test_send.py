"""Sending: what may be sent, in which pieces, and that it arrives as it was."""

from __future__ import annotations

import array
import ctypes
import mmap
import sys
from typing import Any

import pytest

import tcpconn
from support import KIB, MIB, PATIENCE, SIZES, Background, Pair, fill, noise, wait_until

OVER_TLS = True


@pytest.mark.parametrize("size", SIZES)
def test_sizes(size: int, pair: Pair) -> None:
    message = noise(size, seed=size)
    for sender, receiver in (pair, reversed(pair)):
        sending = Background(lambda sender=sender: sender.send(message, PATIENCE))
        assert receiver.receive(PATIENCE) == message
        sending.result()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("frame", [16 * KIB, MIB])
def test_sizes_with_other_frames(link: str, kind: type, frame: int) -> None:
    sizes = [n + d for n in (16 * KIB, 64 * KIB, 128 * KIB, MIB) for d in (-49, -48, -1, 0, 1, 48)]
    with (
        tcpconn.listen("127.0.0.1:0", link=link, max_frame_size=frame) as listener,
        tcpconn.ConnectionPool(link=link, max_frame_size=frame) as pool,
        pool.connect(listener.address) as client,
        listener.accept(PATIENCE) as server,
    ):
        sending = Background(lambda: [client.send(kind(noise(n, n))) for n in sizes])
        for size in sizes:
            assert server.receive(PATIENCE) == noise(size, size)
        sending.result()


class Array(ctypes.Structure):
    _fields_ = [("numbers", ctypes.c_uint32 * 5)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"bytes", b"bytes"),
        (bytearray(b"bytearray"), b"bytearray"),
        (memoryview(b"memoryview"), b"memoryview"),
        (memoryview(bytearray(b"0123456789"))[2:7], b"23456"),
        (memoryview(b"0123456789ab").cast("B", (3, 4)), b"0123456789ab"),
        (array.array("B", b"array"), b"array"),
        (array.array("I", [1, 2]), array.array("I", [1, 2]).tobytes()),
        (array.array("d", [0.5]), array.array("d", [0.5]).tobytes()),
        (ctypes.create_string_buffer(b"ctypes", 6), b"ctypes"),
        (Array((1, 2, 3, 4, 5)), bytes(Array((1, 2, 3, 4, 5)))),
        (b"", b""),
        (bytearray(), b""),
        (memoryview(b"abc")[1:1], b""),
        (array.array("d"), b""),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("way", ["send", "send_parts", "send_many"])
def test_buffers(way: str, data: Any, expected: bytes, pair: Pair) -> None:
    if way == "send":
        pair.client.send(data)
    elif way == "send_parts":
        pair.client.send_parts([data])
    else:
        assert pair.client.send_many([data]) == 1
    assert pair.server.receive(PATIENCE) == expected


def test_mapped_memory(pair: Pair) -> None:
    with mmap.mmap(-1, 8192) as mapped:
        mapped[:4] = b"data"
        pair.client.send(mapped)
    assert pair.server.receive(PATIENCE) == b"data" + bytes(8188)


class Derived(bytes):
    """Subclasses of bytes count as bytes."""


@pytest.mark.parametrize("size", [10, 100 * KIB])
def test_a_subclass_of_bytes(size: int, pair: Pair) -> None:
    pair.client.send(Derived(noise(size)))
    assert pair.server.receive(PATIENCE) == noise(size)


@pytest.mark.parametrize("size", [1, 4096, 16 * KIB, 65486, 65487, 64 * KIB, 64 * KIB + 1, 2 * MIB])
@pytest.mark.parametrize("way", ["send", "send_parts", "send_many", "view"])
def test_what_can_change_may_be_used_again_at_once(way: str, size: int, pair: Pair) -> None:
    data = bytearray(size)
    rounds = 20 if size <= 64 * KIB + 1 else 4

    def send() -> None:
        for seed in range(rounds):
            data[:] = noise(size, seed)
            if way == "send":
                pair.client.send(data)
            elif way == "view":
                pair.client.send(memoryview(data).toreadonly())
            elif way == "send_parts":
                pair.client.send_parts(
                    [memoryview(data)[: size // 2], memoryview(data)[size // 2 :]]
                )
            else:
                pair.client.send_many([data])
            data[:] = bytes(size)

    sending = Background(send)
    for seed in range(rounds):
        assert pair.server.receive(PATIENCE) == noise(size, seed)
    sending.result()
    data.extend(b"nobody holds it any more")


def test_bytes_are_given_back_in_the_end(pair: Pair) -> None:
    message = noise(3 * MIB)[1:]
    before = sys.getrefcount(message)
    sending = Background(lambda: pair.client.send(message))
    assert pair.server.receive(PATIENCE) == message
    sending.result()
    pair.client.flush(PATIENCE)

    def is_given_back() -> bool:
        pair.client.send(b"")  # whoever comes next drops what was acknowledged
        return sys.getrefcount(message) == before

    # The ack may be here before the thread that wrote the message has noticed that it did.
    wait_until(is_given_back, "the message is kept")


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b""],
        [b"", b"", b""],
        [b"a"],
        [b"head", b"", bytearray(b"body"), memoryview(b"tail")],
        [noise(70 * KIB), b"x", noise(MIB, 1)],
        [bytes([n % 256]) for n in range(5000)],
        [noise(100, n) for n in range(3000)],
        [b"x" * (64 * KIB), b"y" * (64 * KIB)],
    ],
    ids=len,
)
def test_parts(parts: list[Any], pair: Pair) -> None:
    sending = Background(lambda: pair.client.send_parts(iter(parts)))
    assert pair.server.receive(PATIENCE) == b"".join(parts)
    sending.result()
    assert pair.client.stats().messages_sent == 1


def test_many(pair: Pair) -> None:
    messages = [noise(n * 37 % 5000, n) for n in range(2000)]
    sending = Background(lambda: pair.client.send_many(iter(messages), PATIENCE))
    for message in messages:
        assert pair.server.receive(PATIENCE) == message
    assert sending.result() == len(messages)


def test_many_of_all_sizes(pair: Pair) -> None:
    messages = [
        noise(n, n) for n in (0, 1, 100 * KIB, 3, 65536, 65537, 2 * MIB, 0, 0, 16 * KIB)
    ] * 3
    sending = Background(lambda: pair.client.send_many(messages, PATIENCE))
    for message in messages:
        assert pair.server.receive(PATIENCE) == message
    assert sending.result() == len(messages)


def test_many_and_none(pair: Pair) -> None:
    assert pair.client.send_many([]) == 0
    pair.client.send(b"first")
    assert pair.server.receive(PATIENCE) == b"first"


def test_many_up_to_a_bad_one(pair: Pair) -> None:
    with pytest.raises(tcpconn.NotABuffer):
        pair.client.send_many([b"one", b"two", "three", b"four"])  # type: ignore[list-item]
    pair.client.send(b"five")
    received = [pair.server.receive(PATIENCE) for _ in range(3)]
    assert received == [b"one", b"two", b"five"]


def test_many_from_a_generator_that_raises(pair: Pair) -> None:
    def messages() -> Any:
        yield b"one"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        pair.client.send_many(messages())
    assert pair.server.receive(PATIENCE) == b"one"


@pytest.mark.blocking("an iterator that is waited for would wait in the loop, for the loop")
def test_many_from_what_arrives(pair: Pair) -> None:
    """The messages may come from the same connection while they are sent."""
    pair.server.send_many([b"a", b"b", b"c"])
    with pytest.raises(tcpconn.Timeout):
        pair.client.send_many(iter(lambda: pair.client.receive(0.2), None))
    assert [pair.server.receive(PATIENCE) for _ in range(3)] == [b"a", b"b", b"c"]


def test_order_is_kept_whatever_the_size(pair: Pair) -> None:
    sizes = [10, 2 * MIB, 10, 70 * KIB, 0, 65536, 3 * MIB, 1] * 4

    def send() -> None:
        for number, size in enumerate(sizes):
            pair.client.send(number.to_bytes(4, "big") + noise(size, number), PATIENCE)

    sending = Background(send)
    for number, size in enumerate(sizes):
        message = pair.server.receive(PATIENCE)
        assert message == number.to_bytes(4, "big") + noise(size, number)
    sending.result()


def test_flush_waits_for_the_peers_session(pair: Pair) -> None:
    for size in (10, 100, 200 * KIB):
        pair.client.send(noise(size))
        pair.client.flush(PATIENCE)
        # It is in the peer's queue, though nobody has received it.
        assert pair.server.stats().unread_bytes == size
        assert pair.server.receive(0) == noise(size)


def test_flush_with_nothing_to_flush(pair: Pair) -> None:
    pair.client.flush(PATIENCE)
    pair.client.flush(0)
    pair.server.flush(PATIENCE)


def test_flush_of_a_large_message_that_nobody_reads(pair: Pair) -> None:
    """A message under way is given the credit it needs: its peer takes all of it."""
    pair.client.send(noise(5 * MIB))
    pair.client.flush(PATIENCE)
    assert pair.server.receive(0) == noise(5 * MIB)


def test_flush_does_not_wait_for_ever(pair: Pair) -> None:
    # The last of them waits until the others are read.
    sent = fill(pair.client, noise(MIB))
    with pytest.raises(tcpconn.Timeout, match=str(pair.client.id)):
        pair.client.flush(0.05)
    with pytest.raises(tcpconn.Timeout):
        pair.client.flush(0)
    for _ in range(sent):
        assert pair.server.receive(PATIENCE) == noise(MIB)
    pair.client.flush(PATIENCE)


def test_stats_count(pair: Pair) -> None:
    for size in (0, 10, 1000):
        pair.client.send(noise(size))
    pair.client.flush(PATIENCE)
    sent = pair.client.stats()
    assert (sent.messages_sent, sent.bytes_sent) == (3, 1010)
    assert (sent.messages_received, sent.unread_messages) == (0, 0)
    unread = pair.server.stats()
    assert (unread.unread_messages, unread.unread_bytes) == (3, 1010)
    assert unread.messages_received == 0
    pair.server.receive(0)
    pair.server.receive(0)
    read = pair.server.stats()
    assert (read.unread_messages, read.unread_bytes) == (1, 1000)
    assert (read.messages_received, read.bytes_received) == (2, 10)
    assert sent.send_credit > 0
    assert read.receive_window > 0


@pytest.mark.blocking("what a time limit says is asyncio's")
def test_a_send_that_finds_no_room_times_out_and_leaves_nothing(pair: Pair) -> None:
    message = noise(10 * KIB)
    sent = fill(pair.client, message)
    with pytest.raises(tcpconn.Timeout, match=r"10240.*0\.02"):
        pair.client.send(message, timeout=0.02)
    with pytest.raises(tcpconn.Timeout, match="nothing was sent"):
        pair.client.send(message, timeout=0)
    assert sent > 0
    assert pair.client.stats().messages_sent == sent
    for _ in range(sent):
        assert pair.server.receive(PATIENCE) == message
    with pytest.raises(tcpconn.Timeout):
        pair.server.receive(0)
    pair.client.send(b"room again", PATIENCE)
    assert pair.server.receive(PATIENCE) == b"room again"


def test_many_that_find_no_room(pair: Pair) -> None:
    """Those before it were sent, and the count of messages says how many."""
    message = noise(10 * KIB)
    with pytest.raises(tcpconn.Timeout):
        pair.client.send_many([message] * 1000, timeout=0.02)
    sent = pair.client.stats().messages_sent
    assert 0 < sent < 1000
    for _ in range(sent):
        assert pair.server.receive(PATIENCE) == message
    with pytest.raises(tcpconn.Timeout):
        pair.server.receive(0)


def test_a_send_without_a_timeout_waits_for_room(pair: Pair) -> None:
    message = noise(10 * KIB)
    total = 500
    sending = Background(lambda: [pair.client.send(message) for _ in range(total)]).asleep()
    assert not sending.done
    for _ in range(total):
        assert pair.server.receive(PATIENCE) == message
    sending.result()


@pytest.mark.parametrize("timeout", [0, -1, 0.01, 5, 1e9, float("inf"), None])
def test_timeouts_of_all_kinds(timeout: float | None, pair: Pair) -> None:
    pair.client.send(b"one", timeout)
    pair.client.send_parts([b"two"], timeout)
    pair.client.send_many([b"three"], timeout)
    pair.client.flush(PATIENCE)
    pair.client.flush(timeout)
    buffer = bytearray(10)
    assert pair.server.receive(timeout) == b"one"
    assert pair.server.receive_into(buffer, timeout) == 3
    assert pair.server.receive_many(timeout=timeout) == [b"three"]
