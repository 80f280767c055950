"""What ties engines to an event loop: who tells it of news, and reads links in it."""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, Self

from tcpconn._accept import AcceptQueue
from tcpconn._engine import Engine
from tcpconn._waiting import Herald

PAUSE_SECONDS: float
"""After which the loop looks whether a link may be read again."""

class LoopHerald(Herald):
    """One event loop's. Made and used in the loop's thread."""

    def __new__(cls, loop: asyncio.AbstractEventLoop) -> Self: ...
    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def left(self) -> bool:
        """Whether `leave` was called."""

    @property
    def watches(self) -> set[LinkWatch]:
        """Those of the links that the loop waits for."""

    def check_loop(self, loop: object) -> None:
        """Raises `WrongLoop` unless this is the herald of `loop`, and this thread runs it."""

    def heard(self) -> None:
        """The descriptor is readable."""

    def look(self) -> None:
        """The same, for loops that cannot wait for descriptors."""

    def leave(self) -> None:
        """The loop is about to end, or has: links go to the keeper, and nothing waits here."""

class Wait:
    """What a task awaits: a future, as far as tasks can tell."""

    _asyncio_future_blocking: bool
    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that this belongs to."""

    def add_done_callback(
        self, callback: Callable[[Wait], object], *, context: Context | None = None
    ) -> None:
        """For the one task that awaits it."""

    def remove_done_callback(self, callback: Callable[[Wait], object]) -> int:
        """How many there were."""

    def cancel(self, msg: Any = None) -> bool:
        """Whether it could be cancelled."""

    def cancelled(self) -> bool:
        """Whether it was."""

    def done(self) -> bool:
        """Whether the wait is over."""

    def result(self) -> None:
        """None, once it is over."""

    def exception(self) -> None:
        """None, once it is over."""

class LinkWatch:
    """One engine's link, as the loop waits for it."""

    def __new__(cls, engine: Engine, herald: LoopHerald) -> Self: ...
    def start_soon(self) -> None:
        """There is another link. From any thread."""

    def start(self) -> None:
        """The loop waits for the link from now on, if it can."""

    def ready(self) -> None:
        """There is something to read."""

    def stop(self) -> None:
        """The loop does not wait for the link any more."""

def tie(engine: Engine, herald: LoopHerald) -> None:
    """From now on the engine belongs to the herald's loop. In that loop; once is enough."""

class LoopQueue(AcceptQueue):
    """What a listener of a loop accepts from; `on_accept` is called when there may be something."""

    def __init__(self, herald: LoopHerald, on_accept: Callable[[], object]) -> None: ...
