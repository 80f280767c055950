"""Objects in reference cycles are freed, and end well whatever the collector clears first."""

from __future__ import annotations

import gc
import weakref

import tcpconn


def in_a_cycle(*objects: object) -> list[weakref.ref[object]]:
    """Weak references to objects that only a cycle keeps alive once the caller lets go of them."""
    cycle: list[object] = list(objects)
    cycle.append(cycle)
    return [weakref.ref(thing) for thing in objects]


def test_connections_of_both_sides_in_cycles_are_freed() -> None:
    with tcpconn.listen("127.0.0.1:0") as listener, tcpconn.ConnectionPool() as pool:
        for _ in range(20):
            connection = pool.connect(listener.address)
            accepted = listener.accept(timeout=10)
            accepted.send(b"unread")
            references = in_a_cycle(connection, accepted)
            del connection, accepted
            gc.collect()
            assert [reference() for reference in references] == [None, None]


def test_a_closed_multiplexer_and_its_connection_in_a_cycle_are_freed() -> None:
    with tcpconn.listen("127.0.0.1:0") as listener:
        multiplexer = tcpconn.Multiplexer(listener.address)
        connection = multiplexer.open()
        multiplexer.close()
        references = in_a_cycle(multiplexer, connection)
        del multiplexer, connection
        gc.collect()
        assert [reference() for reference in references] == [None, None]


def test_a_closed_listener_in_a_cycle_is_freed() -> None:
    listener = tcpconn.listen("127.0.0.1:0")
    listener.close()
    references = in_a_cycle(listener)
    del listener
    gc.collect()
    assert [reference() for reference in references] == [None]
