"""A plan is data: it comes out of its seed, and back out of JSON, always the same."""

from __future__ import annotations

import collections

import pytest

from faults.plan import BREAKS, DELAY, DROP, FLIP, FREEZE, REFUSE, SPLIT, WAYS, Fault, Plan, Profile

EVERYTHING = Profile(
    breaks=tuple((kind, 1) for kind in BREAKS),
    nuisances=((FREEZE, 1), (DELAY, 1), (SPLIT, 1), (DROP, 1), (FLIP, 1)),
    nuisance=0.5,
)


def test_the_same_seed_gives_the_same_faults() -> None:
    plans = [Plan(5, profile=EVERYTHING) for _ in range(2)]
    assert [plans[0].faults(n) for n in range(500)] == [plans[1].faults(n) for n in range(500)]
    assert plans[0].faults(7) == plans[0].faults(7)
    assert plans[0].faults(7) != Plan(6, profile=EVERYTHING).faults(7)


def test_a_plan_survives_json() -> None:
    written = Plan(5, [[Fault("rst", at=3), Fault("freeze", "down", after=0.5)], []], EVERYTHING)
    read = Plan.from_json(written.to_json())
    assert [read.faults(n) for n in range(200)] == [written.faults(n) for n in range(200)]


def test_links_written_down_come_before_random_ones() -> None:
    plan = Plan(1, [[Fault("fin", at=0)]], EVERYTHING)
    assert plan.faults(0) == (Fault("fin", at=0),)
    assert plan.faults(1)
    assert Plan(1, [[]]).faults(3) == ()


def test_a_random_plan_has_everything() -> None:
    plan = Plan(3, profile=EVERYTHING)
    faults = [fault for link in range(4000) for fault in plan.faults(link)]
    kinds = collections.Counter(fault.kind for fault in faults)
    assert set(kinds) == {*BREAKS, FREEZE, DELAY, SPLIT, DROP, FLIP}
    breaks = [fault for fault in faults if fault.kind in BREAKS]
    assert len(breaks) == 4000
    opening = [f for f in breaks if f.at is not None and f.at < EVERYTHING.opening[0]]
    assert 1600 < len(opening) < 2400
    for way in WAYS:
        assert {f.at for f in opening if f.way == way} >= set(range(150))


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "burn", "at": 1},
        {"kind": "rst"},
        {"kind": "rst", "at": 1, "after": 1.0},
        {"kind": "rst", "way": "sideways", "at": 1},
        {"kind": "flip", "after": 1.0},
        {"kind": "delay", "at": 1},
        {"kind": REFUSE, "at": 1},
    ],
)
def test_what_is_no_fault(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"fault|flipped|seconds"):
        Fault(**wrong)  # type: ignore[arg-type]
