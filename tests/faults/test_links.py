"""The checked traffic between two processes, over links to which things happen."""

from __future__ import annotations

import pytest

from faults.ends import Job
from faults.plan import DELAY, FREEZE, SPLIT, Plan, Profile
from faults.run import run

SLOW = Profile(
    breaks=(),
    nuisances=((FREEZE, 1), (DELAY, 1), (SPLIT, 2)),
    nuisance=40,
    life=(1, 20_000_000),
)


def job(link: str, messages: int) -> Job:
    """Traffic between two processes with this kind of link."""
    options = {"link": link}
    return Job(messages=messages, client_options=options, server_options=options)


def test_nothing_happens(link: str) -> None:
    outcome = run(Plan(), job(link, 200))
    assert outcome.clean, outcome.table()
    assert outcome.client.sent == outcome.server.sent == 16 * 200


@pytest.mark.parametrize("seed", range(2))
def test_pieces_freezes_and_delays(link: str, seed: int) -> None:
    outcome = run(Plan(seed, profile=SLOW), job(link, 100))
    assert outcome.clean, outcome.table()
    assert outcome.nuisances
    assert not outcome.breaks
