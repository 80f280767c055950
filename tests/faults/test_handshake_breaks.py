"""A link that breaks at any byte of the handshake: who connects is told, and can connect again."""

from __future__ import annotations

import pytest

import tcpconn
from faults.plan import WAYS, Fault, Plan
from faults.proxy import Proxy
from support import PATIENCE, noise

OVER_TLS = True

BROKEN = (tcpconn.LinkLost, tcpconn.ConnectError)
CUTS = 300
"""So many offsets are tried at most: TLS has thousands."""
SHORTER = 16
"""Bytes that a handshake of TLS may be shorter than another: a signature's two numbers are written
without leading zeros."""


def handshake_sizes(address: str, link: str) -> tuple[int, int]:
    """How many bytes go up and down until both sides have said what they say first."""
    with Proxy(address) as proxy, tcpconn.Multiplexer(proxy.address, link=link):
        up, down = proxy.links[0].observer.ways
        return up.passed, down.passed


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("kind", ["fin", "rst"])
@pytest.mark.parametrize("way", WAYS)
def test_at_any_byte(way: str, kind: str, link: str) -> None:
    with tcpconn.listen("127.0.0.1:0", link=link) as listener:
        size = handshake_sizes(listener.address, link)[WAYS.index(way)]
        step = 1 + size // CUTS
        if step > 1:
            size -= SHORTER
        # What the client got whole is a link that was made, and is lost later.
        cuts = range(0, size if way == "down" else size + 1, step)
        plan = Plan(links=[[Fault(kind, way, at=at)] for at in cuts])
        with Proxy(listener.address, plan) as proxy, tcpconn.ConnectionPool(link=link) as pool:
            for at in cuts:
                with pytest.raises(BROKEN) as caught:
                    pool.connect(proxy.address, timeout=PATIENCE)
                assert not isinstance(caught.value, tcpconn.Timeout), at
            client = pool.connect(proxy.address)
            server = listener.accept(PATIENCE)
            client.send(noise(100_000))
            assert server.receive(PATIENCE) == noise(100_000)
            client.close()
            server.close()
            assert [event.offset for event in proxy.events if event.what == kind] == list(cuts)
