"""A link on which nothing passes any more, without FIN or RST: both sides notice the silence, the
client dials again, and nothing is lost."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import tcpconn
from faults.plan import WAYS
from faults.proxy import Proxy
from support import ANY, PATIENCE, Background, noise

OVER_TLS = True

SILENCE: dict[str, Any] = {"keepalive": 0.1, "keepalive_timeout": 0.6}
COUNT = 40


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("ways", [WAYS, WAYS[:1], WAYS[1:]], ids="-".join)
def test_a_frozen_link_is_replaced(ways: tuple[str, ...], link: str) -> None:
    lost = threading.Event()

    def on_state(event: str, text: str) -> None:
        if event == "lost":
            lost.set()

    with (
        tcpconn.listen(ANY, link=link, **SILENCE) as listener,
        Proxy(listener.address) as proxy,
        tcpconn.ConnectionPool(link=link, on_state=on_state, **SILENCE) as pool,
    ):
        client = pool.connect(proxy.address)
        multiplexer = client.multiplexer
        client.send(b"before")
        server = listener.accept(PATIENCE)
        assert server.receive(PATIENCE) == b"before"
        for way in ways:
            proxy.strike("freeze", way=way)

        def send(end: tcpconn.Connection) -> None:
            for number in range(COUNT):
                end.send(noise(10_000, number), PATIENCE)

        def receive(end: tcpconn.Connection) -> None:
            for number in range(COUNT):
                assert end.receive(PATIENCE) == noise(10_000, number)

        work = [
            Background(lambda end=end, do=do: do(end))
            for end in (client, server)
            for do in (send, receive)
        ]
        for each in work:
            each.result()
        assert lost.wait(PATIENCE)
        proxy.wait("open", 2)
        assert client.multiplexer is multiplexer
        client.close(PATIENCE)
        server.close(PATIENCE)
