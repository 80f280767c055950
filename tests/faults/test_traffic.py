"""The ledger notices whatever may happen to messages; nothing here needs a link."""

from __future__ import annotations

import random

import pytest

from faults.traffic import HEADER, KINDS_OF_SIZE, LARGEST, Ledger, Source, Tally

COUNT = 400


def arrive(messages: list[bytes], source: Source | None = None, count: int = COUNT) -> Tally:
    """The tally of what arrived, with the end behind it."""
    source = source or Source(3)
    ledger = Ledger(source)
    for message in messages:
        assert ledger.take(message)
    assert not ledger.take(source.end(count))
    assert ledger.ended
    return ledger.tally


def all_messages(source: Source | None = None) -> list[bytes]:
    """A stream as it should be."""
    source = source or Source(3)
    return [source.message(number) for number in range(COUNT)]


def test_a_faultless_stream_is_clean() -> None:
    messages = all_messages()
    tally = arrive(messages)
    assert tally.clean
    assert (tally.messages, tally.size) == (COUNT, sum(map(len, messages)))


def test_sizes_are_of_every_order_of_magnitude() -> None:
    sizes = [Source(0).size(number) for number in range(KINDS_OF_SIZE)]
    assert {0, 1, HEADER.size - 1, HEADER.size, LARGEST} <= set(sizes)
    assert all(any(1 << n <= size < 2 << n for size in sizes) for n in range(18))


def test_streams_differ() -> None:
    assert Source(1).message(5) != Source(2).message(5)
    assert Source(1, seed=1).size(5) != Source(1, seed=2).size(5)


LARGE = [number for number in range(COUNT) if HEADER.size <= Source(3).size(number) < 100]
SMALL = [number for number in range(1, COUNT) if 4 < Source(3).size(number) < HEADER.size]


@pytest.mark.parametrize("number", [LARGE[5], SMALL[5]], ids=["large", "small"])
class TestDamage:
    def test_a_lost_message(self, number: int) -> None:
        messages = all_messages()
        del messages[number]
        assert arrive(messages).lost == 1

    def test_a_doubled_message(self, number: int) -> None:
        messages = all_messages()
        messages.insert(number, messages[number])
        tally = arrive(messages)
        assert (tally.doubled, tally.lost, tally.messages) == (1, 0, COUNT)

    def test_an_old_message_again(self, number: int) -> None:
        messages = all_messages()
        messages.insert(number + 20, messages[number])
        assert arrive(messages).doubled == 1

    def test_a_message_that_comes_late(self, number: int) -> None:
        messages = all_messages()
        messages.insert(number + 20, messages.pop(number))
        tally = arrive(messages)
        assert (tally.reordered, tally.lost) == (1, 0)

    def test_a_changed_byte(self, number: int) -> None:
        messages = all_messages()
        for at in range(len(messages[number])):
            changed = bytearray(messages[number])
            changed[at] ^= 4
            tally = arrive([*messages[:number], bytes(changed), *messages[number + 1 :]])
            assert not tally.clean

    def test_a_cut_message(self, number: int) -> None:
        messages = all_messages()
        messages[number] = messages[number][:-1]
        assert not arrive(messages).clean


def test_a_message_of_another_stream() -> None:
    messages = all_messages()
    messages[LARGE[3]] = Source(4).message(LARGE[3])
    assert arrive(messages).wrong == 1


def test_a_lost_tail() -> None:
    assert arrive(all_messages()[:-7]).lost == 7


def test_a_lost_beginning() -> None:
    assert arrive(all_messages()[7:]).lost == 7


def test_an_empty_message_too_many() -> None:
    messages = all_messages()
    messages.insert(LARGE[3], b"")
    assert not arrive(messages).clean


def test_tallies_add_up() -> None:
    assert Tally(1, 2, 3, 4, 5, 6) + Tally(1, 1, 1, 1, 1, 1) == Tally(2, 3, 4, 5, 6, 7)


def test_any_damage_is_noticed() -> None:
    choice = random.Random(5)
    for _ in range(60):
        messages = all_messages()
        what = choice.choice(("lose", "double", "swap", "cut", "flip"))
        at = choice.choice(LARGE[:-2])
        if what == "lose":
            del messages[at]
        elif what == "double":
            messages.insert(at, messages[at])
        elif what == "swap":
            messages[at], messages[at + 1] = messages[at + 1], messages[at]
        elif what == "cut":
            messages[at] = messages[at][: choice.randrange(len(messages[at]))]
        else:
            changed = bytearray(messages[at])
            changed[choice.randrange(len(changed))] ^= 1 << choice.randrange(8)
            messages[at] = bytes(changed)
        assert not arrive(messages).clean, what
