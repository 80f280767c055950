"""Every contract test runs for each shell, and leaves no thread, descriptor or task behind."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest

import shells
import tcpconn
from support import link_id, link_kinds


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All run for the blocking shell and each link class, and for those of asyncio: see `ways`.

    What is marked `blocking` runs for that shell alone, and the mark says why.
    """
    if "link" not in metafunc.fixturenames:
        kinds, names = [""], "shell"
    else:
        kinds, names = link_kinds(metafunc), "link, shell"
    found = [(kind, "blocking") for kind in kinds]
    if not any(metafunc.definition.iter_markers("blocking")):
        found += ways(kinds)
    how_many = getattr(metafunc.module, "SHELLS", "")
    several = []
    for kind, name in found:
        first = name == "aio" and kind == kinds[0] and how_many != "few"
        loop_is_usual = (first or how_many == "many") and "TCPCONN_LINK" not in os.environ
        usual = name == "blocking" or loop_is_usual
        several.append(
            pytest.param(
                *((kind, name) if names != "shell" else (name,)),
                id=f"{link_id(kind)}-{name}".strip("-").removesuffix("-blocking"),
                marks=[] if usual else [pytest.mark.slow],
            )
        )
    metafunc.parametrize(names, several, indirect=True)


def ways(kinds: list[str]) -> Iterator[tuple[str, str]]:
    """Links and shells, but for the blocking one.

    With `make test`, all of them run in modules that say `SHELLS = "many"`: those whose tests see
    most of how bytes come and go. In the others only the first does, and in those that say "few",
    which are about what the core does with what it is given, none. The rest is slow; so are all
    where the environment names a link class, and the usual ones have run already.
    """
    for kind in kinds:
        yield kind, "aio"
    if kinds != [""]:
        for name in ("uvloop", "aio_client", "aio_server"):
            yield kinds[0], name


@pytest.fixture(autouse=True, scope="session")
def _warm() -> None:
    """What loops open once for the whole process is no leak."""
    for loop in {shell.loop for shell in shells.SHELLS.values() if shell.loop}:
        if importlib.util.find_spec(loop) is not None:
            shells.warm(loop)


@pytest.fixture(autouse=True)
def shell(
    request: pytest.FixtureRequest, no_leaks: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[shells.Shell]:
    """The shell under test. `tcpconn`'s names that open something stand for what it has."""
    chosen = shells.SHELLS[request.param]
    if not chosen.loop:
        yield chosen
        return
    if importlib.util.find_spec(chosen.loop) is None:
        pytest.skip(f"there is no {chosen.loop} here")
    loop = shells.LoopThread(chosen.loop)
    with monkeypatch.context() as names:
        for name, value in shells.replaced(chosen, loop).items():
            names.setattr(tcpconn, name, value)
        yield chosen
    loop.end()
