"""How sessions share a budget: what is always granted, what the sum comes to, and who is lent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpconn._budget import Shares

MIB = 1 << 20
BUDGET = 1024 * MIB
PART = BUDGET // 4096
CREDIT = 128 * MIB
"""What a session can hold for its credit."""
SECOND = 1_000_000_000

sizes = st.one_of(
    st.integers(1, 2 * PART), st.integers(1, CREDIT // 2), st.sampled_from([PART, PART + 1])
)


def fill(shares: Shares, links: range, step: int = PART // 4) -> None:
    """Each takes all that it gets, one after the other."""
    for link in links:
        while shares.take(link, step):
            pass


def lend_all(shares: Shares, link: int) -> None:
    """One is lent nearly all there is to lend."""
    assert shares.take(link, BUDGET - 28 * MIB - shares.used, 0, True)
    assert shares.has_loan(link)


@st.composite
def histories(draw):
    """What some sessions did: (link, word, size, missing)."""
    links = draw(st.integers(1, 400))
    steps = st.tuples(
        st.integers(0, links - 1),
        st.sampled_from(["take", "take", "take", "begin", "begin", "give", "done"]),
        sizes,
        sizes,
    )
    return links, draw(st.lists(steps, max_size=150)), draw(st.booleans())


def follow(shares: Shares, steps) -> None:
    """Does all that, as far as the credit goes that each has."""
    for now, (link, word, size, missing) in enumerate(steps):
        if word == "give":
            shares.give(link, min(size, shares.held[link]))
        elif word == "done":
            shares.done(link)
        elif shares.held[link] + size + missing <= CREDIT:
            shares.take(link, size, missing, word == "begin", now * SECOND)


def after(history) -> tuple[int, Shares]:
    """How many sessions there are, and what they share behind all that."""
    links, steps, filled = history
    shares = Shares(BUDGET, links)
    if filled:
        fill(shares, range(links))
    follow(shares, steps)
    return links, shares


class TestAnyHistory:
    @given(histories())
    def test_the_sum_is_bounded(self, history):
        links, shares = after(history)
        assert shares.used == sum(shares.held)
        # One at a time may be lent more than there is.
        assert shares.used + shares.lent <= BUDGET + links * PART + CREDIT

    @given(histories())
    def test_each_always_has_its_part(self, history):
        links, shares = after(history)
        for link in range(links):
            rest = PART - shares.held[link]
            if rest > 0:
                assert shares.take(link, rest)

    @given(histories())
    def test_who_has_a_loan_waits_for_nobody(self, history):
        links, steps, filled = history
        shares = Shares(BUDGET, links + 1)
        if filled:
            fill(shares, range(links))
        follow(shares, steps)
        wanted = 5 * MIB
        if not shares.take(links, MIB, wanted - MIB, True):
            return
        if not shares.has_loan(links):
            return
        fill(shares, range(links))
        for _ in range(4):
            assert shares.take(links, MIB, 0, True)

    @given(histories())
    def test_all_who_wait_get_theirs_when_those_before_have_done(self, history):
        """They come and go as those that were lent something give all back."""
        links, steps, filled = history
        shares = Shares(BUDGET, links + 1)
        if filled:
            fill(shares, range(links))
        follow(shares, steps)
        # What is just held is given back by and by, until something can be lent at all.
        for link in range(links):
            if shares.used <= BUDGET * 3 // 4:
                break
            shares.done(link)
            shares.give(link, shares.held[link])
        now = 1000 * SECOND
        for _ in range(2 * links + 2):
            if shares.take(links, MIB, 4 * MIB, True, now):
                break
            before = [link for link in range(links) if shares.has_loan(link)]
            for link in range(links):
                # All others go on asking, and those who were lent something are done with it.
                if link in before:
                    shares.done(link)
                    shares.give(link, shares.held[link])
                shares.take(link, MIB, 60 * MIB, True, now)
            now += SECOND
        else:
            raise AssertionError("it waits for ever")


class TestExamples:
    def test_alone_half_of_it_is_anybodys(self):
        shares = Shares(BUDGET, 1)
        assert shares.take(0, BUDGET // 2)

    @pytest.mark.parametrize("links", [10, 100, 500])
    def test_many_who_take_all_they_can(self, links):
        shares = Shares(BUDGET, links + 1)
        fill(shares, range(links))
        assert shares.used <= BUDGET * 7 // 8
        # A message of 256 KiB passes always, and a large one is lent what it needs.
        assert shares.take(links, PART)
        shares.give(links, PART)
        for _ in range(5):
            assert shares.take(links, MIB, 4 * MIB, True)

    def test_they_leave_parts_of_a_size_to_those_who_come_later(self):
        shares = Shares(BUDGET, 100)
        fill(shares, range(99))
        assert shares.take(99, MIB // 2)

    def test_small_ones_are_lent_before_large_ones(self):
        shares = Shares(BUDGET, 103)
        fill(shares, range(100))
        lend_all(shares, 100)
        assert not shares.take(101, MIB, 60 * MIB, True, 0)
        assert not shares.take(102, MIB, 4 * MIB, True, 30 * SECOND)
        shares.done(100)
        shares.give(100, shares.held[100])
        assert not shares.take(101, MIB, 60 * MIB, True, 31 * SECOND)
        assert shares.take(102, MIB, 4 * MIB, True, 31 * SECOND)
        assert shares.take(101, MIB, 60 * MIB, True, 31 * SECOND)

    def test_none_is_overtaken_for_ever(self):
        shares = Shares(BUDGET, 103)
        fill(shares, range(100))
        lend_all(shares, 100)
        assert not shares.take(101, MIB, 60 * MIB, True, 0)
        assert not shares.take(102, MIB, 4 * MIB, True, 60 * SECOND)  # it comes too late for that
        shares.done(100)
        shares.give(100, shares.held[100])
        assert not shares.take(102, MIB, 4 * MIB, True, 61 * SECOND)
        assert shares.take(101, MIB, 60 * MIB, True, 61 * SECOND)

    def test_what_is_set_aside_is_not_shared_out(self):
        shares = Shares(BUDGET, 10)
        fill(shares, range(8))
        before = shares.used
        assert shares.take(8, 40 * MIB, 100 * MIB, True)
        assert shares.lent == 100 * MIB
        shares.give(0, shares.held[0])
        fill(shares, range(8))
        assert shares.used <= before + 40 * MIB
        shares.done(8)
        assert shares.lent == 0
