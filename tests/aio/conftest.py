"""Tests in event loops: each runs on every loop there is, in debug mode, and leaves nothing behind.

A test is a coroutine function; its fixtures are the usual ones, and `link` runs it for each link
class. What it leaves in the loop (tasks, warnings of asyncio's) fails it as well as a thread or a
descriptor does.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from support import PATIENCE

LOOPS = ["asyncio", "uvloop"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All coroutine functions run on each loop."""
    if inspect.iscoroutinefunction(metafunc.function):
        metafunc.parametrize("loop_kind", LOOPS, indirect=True)


@pytest.fixture(autouse=True)
def loop_kind(request: pytest.FixtureRequest) -> str:
    """The module of the event loop."""
    kind: str = getattr(request, "param", LOOPS[0])
    if importlib.util.find_spec(kind) is None:
        pytest.skip(f"there is no {kind} here")
    # What a kind of loop opens once for the whole process is no leak of ours.
    loop = importlib.import_module(kind).new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    return kind


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs a coroutine function in a loop of its own, as `asyncio.run` does."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    run_in(pyfuncitem.funcargs["loop_kind"], lambda: pyfuncitem.obj(**arguments))
    return True


def run_in(kind: str, function: Callable[[], Any]) -> None:
    """Runs a coroutine function in a new loop; fails if it leaves tasks behind."""
    complaints: list[dict[str, Any]] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(PATIENCE):
            await function()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"the test left tasks behind: {left}"

    factory = importlib.import_module(kind).new_event_loop
    with asyncio.Runner(debug=True, loop_factory=factory) as runner:
        runner.run(run())
    assert not complaints, f"the loop complained: {complaints}"


@pytest.fixture(autouse=True)
def _no_leaks(loop_kind: str, no_leaks: None) -> None:
    """Checks every test."""
