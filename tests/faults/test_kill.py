"""A server process is killed in mid-stream, and another takes its place: every connection hears of
it once, and every message is accounted for."""

from __future__ import annotations

import pytest

import tcpconn.redial
from faults.kill import run_kills
from faults.soak import PAUSES


@pytest.mark.parametrize("client", ["blocking", "asyncio"])
def test_every_message_is_accounted_for(
    client: str, link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in PAUSES.items():
        monkeypatch.setattr(tcpconn.redial, name, seconds)
    outcome = run_kills(3, seed=1, client=client, link=link)
    assert outcome.clean, outcome.table()
    assert [len(end.losses) for end in outcome.ends] == [3] * len(outcome.ends)
