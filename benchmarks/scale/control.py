"""How a client tells its server what comes next: a command, and later its answer, both JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any


class Control:
    """One side of the conversation, over whatever carries messages."""

    def __init__(self, send: Callable[[bytes], Any], receive: Callable[[], Any]) -> None:
        self._send = send
        self._receive = receive

    def say(self, **what: Any) -> None:
        """A command, or its answer."""
        self._send(json.dumps(what).encode())

    def hear(self) -> dict[str, Any]:
        """The other side's next word."""
        heard: dict[str, Any] = json.loads(bytes(self._receive()))
        return heard

    def ask(self, **command: Any) -> dict[str, Any]:
        """A command and its answer."""
        self.say(**command)
        return self.hear()

    def commands(self) -> Iterator[dict[str, Any]]:
        """The client's commands, until it is gone."""
        while True:
            try:
                yield self.hear()
            except (ConnectionError, EOFError):
                return
