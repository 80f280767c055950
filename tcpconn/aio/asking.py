"""Asking the option `authorize` in an event loop, where its answer may have to be awaited."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from tcpconn._endpoint import ask, is_in_question, let_in
from tcpconn.aio.connection import Connection


async def is_authorized(connection: Connection) -> bool:
    """Asks about a connection; one that is not wanted is refused. Whoever is cancelled meanwhile
    refuses it too.
    """
    wanted: object = False
    if not is_in_question(connection):
        return True
    try:
        wanted = ask(connection)
        if isinstance(wanted, Awaitable):
            wanted = await wanted
        wanted = bool(wanted)
    except Exception as error:  # noqa: BLE001  - whatever it is, it is no yes
        return let_in(connection, False, error)
    except BaseException:
        let_in(connection, False)
        raise
    return let_in(connection, wanted)


class Asking:
    """Asks for those who accept, each about the connection that it has taken. Who is cancelled
    leaves question and connection to the next one.
    """

    def __init__(self) -> None:
        self._left: deque[tuple[Connection, asyncio.Task[bool]]] = deque()

    async def accept(
        self, take: Callable[[], Awaitable[Connection | None]], left: Callable[[], Any]
    ) -> Connection:
        """The next one that is let in, of those that `take` takes (None: look what was left);
        `left` is called when one was left to the next who accepts.
        """
        while True:
            if self._left:
                connection, answer = self._left.popleft()
            else:
                taken = await take()
                if taken is None:
                    continue
                connection = taken
                answer = asyncio.create_task(is_authorized(connection), name="tcpconn-authorize")
            try:
                if await asyncio.shield(answer):
                    return connection
            except asyncio.CancelledError:
                if not answer.cancelled():
                    self._left.append((connection, answer))
                    left()
                raise

    def __bool__(self) -> bool:
        """Whether anything was left to the next who accepts."""
        return bool(self._left)

    def close(self) -> None:
        """Nobody will accept any more."""
        while self._left:
            self._left.popleft()[1].cancel()
