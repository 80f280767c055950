"""A link that breaks at any byte of a resume, on the way to the server or back: it is tried again,
and nothing is lost."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

import tcpconn
import tcpconn.redial
from faults.plan import UP, WAYS, Fault, Plan
from faults.proxy import Proxy
from support import PATIENCE, Background, noise

SIZES = (10, 3000, 90_000)
BEHIND = 120
"""Bytes behind the resume whose place is tried, too."""


class Talk:
    """Messages both ways over a link that is cut again and again."""

    def __init__(self, proxy: Proxy, pool: tcpconn.ConnectionPool, listener: tcpconn.Listener):
        self.proxy = proxy
        self.client = pool.connect(proxy.address)
        self.server = listener.accept(PATIENCE)
        self.number = 0

    def cut(self) -> None:
        """Cuts the link with messages under way; the next one breaks as planned, and one behind."""
        made = self.proxy.count("link")
        self.send()
        self.proxy.strike("rst" if self.number % 2 else "fin")
        self.send()  # so that there is something to break in
        self.proxy.wait("link", made + 2)
        checking = Background(lambda: self.check(self.server))
        self.check(self.client)
        checking.result()
        self.number += 1

    def send(self) -> None:
        """Messages both ways: small ones, and one in chunks."""
        for end in (self.client, self.server):
            for size in SIZES:
                end.send(noise(size, self.number))

    def check(self, end: tcpconn.Connection) -> None:
        """All that the other end has sent comes out here, once."""
        for size in 2 * SIZES:
            assert end.receive(PATIENCE) == noise(size, self.number)


def opening_size(listener: tcpconn.Listener, link: str, way: str) -> int:
    """How many bytes RESUME or RESUMED have, the preface before them."""
    index = WAYS.index(way)
    with Proxy(listener.address) as proxy, tcpconn.ConnectionPool(link=link) as pool:
        client = pool.connect(proxy.address)
        listener.accept(PATIENCE)
        proxy.strike("rst")
        proxy.wait("open", 2)
        client.flush(PATIENCE)
        size = proxy.links[1].observer.ways[index].opening_size
        client.abort()
    return size


def cut_at(
    places: Sequence[int], way: str, kind: str, link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcpconn.redial, "PAUSE", 0.001)
    with tcpconn.listen("127.0.0.1:0", link=link) as listener:
        size = opening_size(listener, link, way)
        cuts = [at for at in places if at < size + BEHIND]
        links = [[Fault(kind, way, at=at)] for at in cuts]
        plan = Plan(links=[[], *itertools.chain.from_iterable((each, []) for each in links)])
        with Proxy(listener.address, plan) as proxy, tcpconn.ConnectionPool(link=link) as pool:
            talk = Talk(proxy, pool, listener)
            for _ in cuts:
                talk.cut()
            struck = [event for event in proxy.events if event.what == kind and event.link % 2]
            assert [event.offset for event in struck if event.way == way] == cuts
            assert {event.phase for event in struck if event.offset < size} == {"resume"}
            assert len(pool.multiplexers) == 1
            talk.client.close(PATIENCE)
            talk.server.close(PATIENCE)


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["fin", "rst"])
def test_a_break_at_some_bytes(
    kind: str, way: str, link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = (kind == "rst") + 2 * (way == UP)
    cut_at(range(first, 400, 7), way, kind, link, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["fin", "rst"])
def test_a_break_at_any_byte(
    kind: str, way: str, link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_at(range(400), way, kind, link, monkeypatch)
