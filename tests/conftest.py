"""Fixtures of the tests over real sockets. All that use `link` run once for each link class."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from typing import Any

import pytest

import tcpconn
import tcpconn.aio
from support import (
    ANY,
    PATIENCE,
    OverTls,
    Pair,
    context_for_both_sides,
    echo,
    link_id,
    link_kinds,
    open_descriptors,
    tcpconn_threads,
    wait_until,
)
from tcpconn.options import make_options


def pytest_configure() -> None:
    """Started in the background by a shell, tests find Ctrl-C ignored, and so would the programs
    that they start, and interrupt.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All that use `link` run once for each. The contract tests have more ways: see there."""
    if "link" in metafunc.fixturenames and "shell" not in metafunc.fixturenames:
        kinds = [pytest.param(kind, id=link_id(kind)) for kind in link_kinds(metafunc)]
        metafunc.parametrize("link", kinds, indirect=True)


MAKE_OPTIONS = (
    tcpconn.multiplexer,
    tcpconn.pool,
    tcpconn.server,
    tcpconn.aio.multiplexer,
    tcpconn.aio.server,
)
"""The modules that are given options by users."""


@pytest.fixture
def link(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The link class under test, a value for the option of this name.

    Whoever is given one that is `OverTls` uses TLS, although the test says nothing of it.
    """
    kind: str = request.param
    if isinstance(kind, OverTls):
        context = context_for_both_sides()

        def with_tls(given: dict[str, Any]) -> tcpconn.Options:
            if isinstance(given.get("link"), OverTls):
                given = {"ssl": context, **given}
            return make_options(given)

        for module in MAKE_OPTIONS:
            monkeypatch.setattr(module, "make_options", with_tls)
    return kind


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fails when the test leaves a thread of tcpconn's or a descriptor behind."""
    threads = tcpconn_threads()
    descriptors = open_descriptors()
    yield

    def left() -> list[str]:
        return [repr(thread) for thread in tcpconn_threads() - threads] + [
            f"descriptor {number}: {target}"
            for number, target in open_descriptors().items()
            if descriptors.get(number) != target
        ]

    if left():
        gc.collect()  # after the first look only: it takes longer than most tests
    wait_until(lambda: not left(), lambda: f"the test left behind {left()}")


@pytest.fixture
def listener(link: str) -> Iterator[tcpconn.Listener]:
    """A listener on a free port."""
    with tcpconn.listen(ANY, link=link) as listener:
        yield listener


@pytest.fixture
def pool(link: str) -> Iterator[tcpconn.ConnectionPool]:
    """A pool of its own for the test."""
    with tcpconn.ConnectionPool(link=link) as pool:
        yield pool


@pytest.fixture
def pair(listener: tcpconn.Listener, pool: tcpconn.ConnectionPool) -> Iterator[Pair]:
    """A connection between `pool` and `listener`, from both its ends."""
    client = pool.connect(listener.address)
    server = listener.accept(PATIENCE)
    yield Pair(client, server)
    client.abort()
    server.abort()


@pytest.fixture
def echo_server(link: str) -> Iterator[tcpconn.Server]:
    """A server that sends back what it receives."""
    with tcpconn.serve(echo, ANY, link=link) as server:
        yield server


def pytest_collection_finish() -> None:
    """What was collected stays: no collection of garbage is to go through it again and again."""
    gc.collect()
    gc.freeze()
