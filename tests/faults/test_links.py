"""The checked traffic between two processes, over links to which things happen."""

from __future__ import annotations

import dataclasses

import pytest

import tcpconn.redial
from faults.ends import Job
from faults.plan import BREAKS, DELAY, FREEZE, SPLIT, Plan, Profile
from faults.run import run
from faults.soak import PAUSE, PLAIN, TLS

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


def check_breaks(plan: Plan, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost however often the link breaks."""
    monkeypatch.setattr(tcpconn.redial, "PAUSE", PAUSE)
    outcome = run(plan, job)
    assert outcome.clean, outcome.table()
    assert outcome.client.sent == outcome.server.sent == job.connections * (job.messages or 0)
    assert sum(outcome.breaks.values()) >= 5, outcome.table()


MANY = dataclasses.replace(PLAIN, life=(100, 2_000_000))


def breaking(seed: int, profile: Profile) -> Plan:
    """The first links break at a byte, not at a time: however fast the traffic is, they do. (Those
    that are refused meanwhile count as links, too.)
    """
    at_bytes = Plan(seed, profile=dataclasses.replace(profile, times=0.0))
    return Plan(seed, links=[at_bytes.faults(link) for link in range(24)], profile=profile)


@pytest.mark.parametrize("seed", range(2))
def test_breaks(link: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check_breaks(breaking(seed, MANY), job(link, 200), monkeypatch)


@pytest.mark.parametrize("kind", BREAKS)
def test_breaks_of_one_kind(link: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = dataclasses.replace(MANY, breaks=((kind, 1),), nuisance=0)
    check_breaks(breaking(7, profile), job(link, 100), monkeypatch)


def test_breaks_over_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = dataclasses.replace(TLS, life=(100, 2_000_000))
    over_tls = dataclasses.replace(job("auto", 200), tls=True)
    check_breaks(breaking(11, profile), over_tls, monkeypatch)
