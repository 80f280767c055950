"""The protocol of ARCHITECTURE.md, "Who wakes whom": no interleaving of those who use a link leaves
anybody behind; and the model of it is good enough to miss each of its rules."""

from __future__ import annotations

import pytest

from explorer import explore
from wakeups import RULES, Wakeups

Users = tuple[str, ...]
Limits = dict[str, object]

ALONE: Limits = {"takes_over": False}
PLAIN: Limits = {"takes_over": False, "streams": False}
SLOW_PEER: Limits = {"answers": "--"}
LONG: Limits = {"kernel": 2, "queue": 2, "rounds": 1}

SMALL: list[tuple[Users, Limits]] = [
    (("A",), {"peer": "AB"}),
    (("A", "A"), {"peer": "AA"}),
    (("A", "B"), {"peer": "AB"} | ALONE),
    (("A", "A", "B~"), {"peer": "AA"} | ALONE),
    (("a", "A"), {"peer": "AA"} | ALONE),
    (("a", "B"), {"peer": "AB"} | ALONE),
    (("A", "close"), {"peer": "A"}),
    (("A", "A", "close"), {}),
    (("A", "stop A"), {}),
    (("A", "B~", "stop A"), {"peer": "B"}),
    (("post 1",), {}),
    (("post 2",), {}),
    (("post 2",), SLOW_PEER),
    (("post 2",), LONG | SLOW_PEER),
    (("post 2", "A"), {"answers": "-A"} | PLAIN),
    (("post 2", "A~"), SLOW_PEER | PLAIN),
    (("post 1", "post 1"), {"queue": 2, "streams": False} | SLOW_PEER),
    (("send 1", "A~"), PLAIN),
]
"""Who uses the link, and what it is like."""

LARGE: list[tuple[Users, Limits]] = [
    (("A", "A", "A", "close"), ALONE),
    (("A2", "B"), {"peer": "ABA"} | ALONE),
    (("a", "A"), {"peer": "AA"}),
    (("post 1", "post 1"), {"queue": 2}),
    (("send 1", "A"), {"peer": "A"}),
    (("send 1", "close"), {}),
    (("send 1", "send 1"), {"credit": 1, "streams": False}),
    (("send 2",), LONG),
    (("send 2",), {"credit": 1}),
    (("send 2",), {}),
    (("send 3",), {"credit": 1}),
    (("post 1", "cut 1", "post 1"), {"kernel": 2} | PLAIN),
]


def name(case: tuple[Users, Limits]) -> str:
    users, limits = case
    return ", ".join([*users, *(f"{word}={value}" for word, value in limits.items())])


def way(stuck: list[str] | None) -> str:
    return "from here on, not everybody can get done:\n" + "\n".join(stuck or [])


@pytest.mark.parametrize(("users", "limits"), SMALL, ids=map(name, SMALL))
def test_nobody_is_left_behind(users: Users, limits: Limits) -> None:
    found = explore(Wakeups(*users, **limits))
    assert found.stuck is None, way(found.stuck)
    assert found.states > 100


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("users", "limits"), LARGE, ids=map(name, LARGE))
def test_nobody_is_left_behind_in_larger_cases(users: Users, limits: Limits) -> None:
    found = explore(Wakeups(*users, **limits))
    assert found.stuck is None, way(found.stuck)


MISSED: dict[str, tuple[Users, Limits]] = {
    "a waiter looks under the lock under which it parks": (("A",), {"peer": "A"}),
    "a waiter looks again when it has been woken": (("A", "A", "B~"), {"peer": "AA"} | ALONE),
    "who is to be unparked waits for that though its time is over": (
        ("a", "A"), {"peer": "AA"} | ALONE,
    ),
    "a reader that leaves passes the role on": (("A", "B"), {"peer": "AB"} | ALONE),
    "a writer that leaves passes the role on": (
        ("post 1", "cut 1", "post 1"), {"kernel": 2} | SLOW_PEER | PLAIN,
    ),
    "the keeper looks when the kernel is full": (("post 2",), SLOW_PEER),
    "the reader is woken when the kernel is full": (("post 2", "A~"), SLOW_PEER | PLAIN),
    "a writer looks for more before it gives up": (
        ("post 1", "post 1"), {"queue": 2, "streams": False} | SLOW_PEER,
    ),
    "a writer wakes those who wait for room": (("post 2",), SLOW_PEER),
    "a reader wakes those who wait for acks": (("send 1", "A~"), PLAIN),
    "as many are woken as there are messages": (("A", "A", "B~"), {"peer": "AA"} | ALONE),
    "a reader to whom something happens while it reads looks again": (("A", "stop A"), {}),
    "a wake outlasts that nobody waits yet": (("post 2", "A~"), SLOW_PEER | PLAIN),
    "a look during a visit makes another one": (("A",), {"peer": "AB"}),
    "a flush during a turn makes another one": (("post 2",), SLOW_PEER),
    "the flusher is told of what is left for it": (("post 1",), {}),
    "who has written for long leaves the rest to the flusher": (("post 2",), LONG | SLOW_PEER),
    "the end of a stream is said before its rest is written": (("post 2",), LONG | SLOW_PEER),
    "a visit arms the link again": (("A",), {"peer": "AB"}),
    "the keeper rouses those who are left": (("A", "A", "close"), ALONE),
}  # fmt: skip
"""A case in which each rule is needed."""


def test_every_rule_is_missed_somewhere() -> None:
    assert set(MISSED) == set(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_needed(rule: str) -> None:
    users, limits = MISSED[rule]
    found = explore(Wakeups(*users, **limits, without=rule))
    assert found.stuck is not None
