"""What nobody holds any more: connections and links never closed, in cycles or without."""

from __future__ import annotations

import contextlib
import gc
from typing import Any

import pytest

import tcpconn
from support import PATIENCE, Background, noise


@pytest.mark.parametrize("closed", [False, True])
def test_connections_in_a_cycle(
    closed: bool, listener: tcpconn.Listener, pool: tcpconn.ConnectionPool
) -> None:
    for _ in range(3):
        cycle: list[Any] = [pool.connect(listener.address), listener.accept(PATIENCE)]
        cycle.append(cycle)
        cycle[0].send(noise(100_000))
        cycle[1].send(noise(100))
        if closed:
            cycle[0].close()
            cycle[1].close()
        del cycle
        gc.collect()


@pytest.mark.parametrize("link_first", [False, True])
def test_connections_of_a_closed_link_in_a_cycle(link: str, link_first: bool) -> None:
    """Whatever the collector comes to first: a connection still finds its session."""
    with tcpconn.listen("127.0.0.1:0", link=link) as listener:
        multiplexer = tcpconn.Multiplexer(listener.address, link=link)
        cycle: list[Any] = [multiplexer] if link_first else []
        for _ in range(3):
            connection = multiplexer.open()
            connection.send(b"unread")
            accepted = listener.accept(PATIENCE)
            accepted.send(noise(70_000))
            cycle += [connection, accepted]
        cycle.append(cycle)
        multiplexer.abort()
    del multiplexer, connection, accepted, cycle
    gc.collect()


def test_a_forgotten_connection_ends_for_its_peer(
    listener: tcpconn.Listener, pool: tcpconn.ConnectionPool
) -> None:
    """The same as closing it, but for waiting: what was sent arrives."""
    connection = pool.connect(listener.address)
    connection.send(b"last words")
    accepted = listener.accept(PATIENCE)
    del connection
    assert list(accepted) == [b"last words"]
    # The first may go out before the peer can say that nobody reads it.
    with contextlib.suppress(tcpconn.ConnectionClosed):
        accepted.send(b"too late")
        accepted.flush(PATIENCE)
    with pytest.raises(tcpconn.ConnectionClosed):
        accepted.send(b"too late")
    accepted.close()


def test_counters_while_connections_are_collected(
    listener: tcpconn.Listener, pool: tcpconn.ConnectionPool
) -> None:
    """The collector may come to a connection at any allocation, also in a method of another."""
    with pool.connect(listener.address) as keep:
        before = gc.get_threshold()
        gc.set_threshold(1)
        try:
            for _ in range(200):
                cycle: list[Any] = [pool.connect(listener.address)]
                cycle.append(cycle)
                del cycle
                keep.stats()
                multiplexer = keep.multiplexer
                assert multiplexer is not None
                multiplexer.stats()
                assert multiplexer.connections
                pool.stats()
        finally:
            gc.set_threshold(*before)


def test_connections_are_listed_while_others_go(
    listener: tcpconn.Listener, pool: tcpconn.ConnectionPool
) -> None:
    with pool.connect(listener.address) as keep:
        multiplexer = keep.multiplexer
        assert multiplexer is not None

        def come_and_go() -> None:
            for _ in range(500):
                multiplexer.open()

        going = [Background(come_and_go) for _ in range(2)]
        while not all(background.done for background in going):
            assert keep in multiplexer.connections
        for background in going:
            background.result()


@pytest.mark.blocking("the thread that has dialled may hold it for a moment longer")
def test_a_forgotten_multiplexer_warns_and_lets_go(listener: tcpconn.Listener, link: str) -> None:
    multiplexer = tcpconn.Multiplexer(listener.address, link=link)
    held = [multiplexer]
    del multiplexer
    with pytest.warns(ResourceWarning, match="unclosed <Multiplexer"):
        held.clear()
