"""The checked traffic between two processes, over links to which things happen."""

from __future__ import annotations

import dataclasses
import importlib.util

import pytest

import tcpconn.redial
from faults.ends import Job
from faults.plan import BREAKS, DELAY, FREEZE, SPLIT, Plan, Profile
from faults.run import run
from faults.soak import PAUSES, PLAIN, TLS

SLOW = Profile(
    breaks=(),
    nuisances=((FREEZE, 1), (DELAY, 1), (SPLIT, 2)),
    nuisance=40,
    life=(1, 20_000_000),
)


def job(link: str, messages: int) -> Job:
    """Traffic between two processes with this kind of link."""
    # A flipped bit in the length of a TLS record leaves its reader waiting for what does not come;
    # an event loop may not hear of a reset alone. Both are noticed by the next PING.
    options = {"link": link, "keepalive": 1.0, "keepalive_timeout": 5.0}
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
    for name, seconds in PAUSES.items():
        monkeypatch.setattr(tcpconn.redial, name, seconds)
    outcome = run(plan, job)
    assert outcome.clean, outcome.table()
    assert outcome.client.sent == outcome.server.sent == job.connections * (job.messages or 0)
    assert sum(outcome.breaks.values()) >= 5, outcome.table()


# By bytes alone: a fast machine has as many breaks as a slow one.
MANY = dataclasses.replace(PLAIN, life=(100_000, 5_000_000), times=0)


@pytest.mark.parametrize("seed", range(2))
def test_breaks(link: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check_breaks(Plan(seed, profile=MANY), job(link, 100), monkeypatch)


@pytest.mark.parametrize("kind", BREAKS)
def test_breaks_of_one_kind(link: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = dataclasses.replace(MANY, breaks=((kind, 1),), nuisance=0)
    check_breaks(Plan(7, profile=profile), job(link, 100), monkeypatch)


def test_breaks_over_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = dataclasses.replace(TLS, life=(100_000, 5_000_000), times=0)
    over_tls = dataclasses.replace(job("auto", 100), tls=True)
    check_breaks(Plan(11, profile=profile), over_tls, monkeypatch)


MIXES = [
    ("blocking", "asyncio"),
    ("asyncio", "blocking"),
    ("asyncio", "asyncio"),
    ("uvloop", "blocking"),
    ("blocking", "uvloop"),
]
mixes = pytest.mark.parametrize("ends", MIXES, ids="-".join)


def mixed(job: Job, ends: tuple[str, str]) -> Job:
    """The same traffic between such ends."""
    if "uvloop" in ends and importlib.util.find_spec("uvloop") is None:
        pytest.skip("there is no uvloop here")
    return dataclasses.replace(job, client=ends[0], server=ends[1])


@mixes
def test_breaks_between_threads_and_event_loops(
    ends: tuple[str, str], link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_breaks(Plan(5, profile=MANY), mixed(job(link, 100), ends), monkeypatch)


@mixes
def test_breaks_between_threads_and_event_loops_over_tls(
    ends: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = dataclasses.replace(TLS, life=(100_000, 5_000_000), times=0)
    over_tls = dataclasses.replace(job("auto", 100), tls=True)
    check_breaks(Plan(6, profile=profile), mixed(over_tls, ends), monkeypatch)
